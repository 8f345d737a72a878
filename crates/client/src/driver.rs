//! The task behind a Clerk: owns the connection, the session and every call until it is answered.
//!
//! ```text
//!            ┌── wait for work ◄───────────────────────────────┐
//!            ▼                                                 │
//!         connect ── refused, no answer: next address ──►──────┤
//!            ▼                                                 │
//!          serve ─── broken, silent, without leader: ──────────┘
//!                    what was in flight goes back into the queues
//! ```
//!
//! Calls wait in two queues, reads and writes, each in the order of arrival; a call that is to be
//! sent again goes back to its place there. At every moment arrivals are taken in, as far as there
//! is room, and calls past their deadline are answered. Replies are judged in `answers`.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::builder::Config;
use crate::connection::{Connection, Connector, Purpose};
use crate::request::{Call, Kind, Request};
use crate::session::{Session, Slot};

/// A wait that something else ends; also the deadline of no call.
const FAR: Duration = Duration::from_secs(24 * 3_600);

pub(crate) enum SessionState {
    None,
    Opening,
    Open(Session),
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) config: Config,
    connector: Connector,
    addresses: Vec<String>,
    /// The address that worked last, or that is to be tried next.
    address: usize,
    /// Addresses left in a row without one good answer.
    failures: usize,
    pub(crate) last_failure: String,

    requests: mpsc::Receiver<Request>,
    arrivals: Vec<Request>,
    /// Requests may still arrive.
    is_open: bool,
    closers: Vec<oneshot::Sender<()>>,

    pub(crate) reads: VecDeque<Call>,
    pub(crate) writes: VecDeque<Call>,
    tickets: u64,
    /// No call is past its deadline before this.
    next_deadline: Instant,

    pub(crate) session: SessionState,
    backoff: Backoff,
    /// Nothing is sent before this.
    paused_until: Instant,
}

impl Driver {
    pub(crate) fn new(
        addresses: Vec<String>,
        config: Config,
        connector: Connector,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        assert!(!addresses.is_empty(), "a driver needs an address");
        let now = Instant::now();
        Self {
            config,
            connector,
            addresses,
            address: 0,
            failures: 0,
            last_failure: "no node has answered yet".to_owned(),
            requests,
            arrivals: Vec::new(),
            is_open: true,
            closers: Vec::new(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            tickets: 0,
            next_deadline: now + FAR,
            session: SessionState::None,
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            paused_until: now,
        }
    }

    /// Runs until every Clerk is gone or one is closed, and no call is left.
    pub(crate) async fn run(mut self) {
        loop {
            while self.is_open && !self.has_work() {
                let room = self.room();
                let count = self.requests.recv_many(&mut self.arrivals, room).await;
                self.admit(count);
            }
            if !self.has_work() {
                break;
            }
            if let Some(mut connection) = self.connect().await {
                let why = self.serve(&mut connection).await;
                self.leave(connection, why);
            }
        }
        for closer in self.closers {
            let _ = closer.send(());
        }
    }

    fn has_work(&self) -> bool {
        !self.reads.is_empty() || !self.writes.is_empty()
    }

    /// Waits for something while arrivals and deadlines are seen to; `None` once no call is left
    /// and none can come. A call that comes ends no wait: the dial for those before it serves it as
    /// well.
    async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let mut something = pin!(something);
        loop {
            self.expire(None, Instant::now());
            if !self.has_work() && !self.is_open {
                return None;
            }
            let room = self.room();
            let takes = self.is_open && room > 0;
            tokio::select! { biased;
                done = &mut something => return Some(done),
                count = self.requests.recv_many(&mut self.arrivals, room), if takes => self.admit(count),
                () = sleep_until(self.next_deadline) => {}
            }
        }
    }

    /// How many more calls may wait in the queues.
    fn room(&self) -> usize {
        self.config.window.saturating_sub(self.reads.len() + self.writes.len())
    }

    /// Puts what has arrived into the queues. A count of 0 says that no more will.
    fn admit(&mut self, count: usize) {
        if count == 0 {
            self.is_open = false;
        }
        for request in self.arrivals.drain(..) {
            match request {
                Request::Call(mut call) => {
                    call.ticket = self.tickets;
                    self.tickets += 1;
                    self.next_deadline = self.next_deadline.min(call.deadline);
                    match call.kind {
                        Kind::Read => self.reads.push_back(call),
                        Kind::Write => self.writes.push_back(call),
                    }
                }
                Request::Close(done) => {
                    self.closers.push(done);
                    self.requests.close();
                }
            }
        }
    }

    async fn connect(&mut self) -> Option<Connection> {
        if Instant::now() < self.paused_until {
            self.meanwhile(sleep_until(self.paused_until)).await?;
        }
        let connecting = (self.connector)(self.addresses.get(self.address)?.clone());
        let limit = self.dial_timeout();
        match self.meanwhile(timeout(limit, connecting)).await? {
            Ok(Ok(stream)) => return Some(Connection::new(stream, self.config.reply_limits)),
            Ok(Err(error)) => self.next_address(&error.to_string()),
            Err(_) => self.next_address(&format!("no connection within {limit:?}")),
        }
        None
    }

    /// One dial to each address fits into the deadline of a call, whichever of them answers.
    fn dial_timeout(&self) -> Duration {
        let (attempt, addresses) = (self.config.attempt_timeout, self.addresses.len());
        let fair = self.config.deadline / (addresses as u32 + 1);
        // After a round of failures: it may have been too short for all of them.
        if self.failures < addresses { attempt.min(fair) } else { attempt }
    }

    /// The present address failed: take the next. After a whole round of failures, wait first.
    fn next_address(&mut self, why: &str) {
        if let Some(address) = self.addresses.get(self.address) {
            self.last_failure = format!("{address}: {why}");
        }
        self.address = (self.address + 1) % self.addresses.len();
        self.failures += 1;
        if self.failures.is_multiple_of(self.addresses.len()) {
            self.paused_until = Instant::now() + self.backoff.next();
        }
    }

    /// The node refused something that may go through a little later. One wait for all that is
    /// refused until it has passed.
    pub(crate) fn pause(&mut self, why: String, now: Instant) {
        self.last_failure = why;
        if now >= self.paused_until {
            self.paused_until = now + self.backoff.next();
        }
    }

    /// The node has answered well.
    pub(crate) const fn progress(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    /// Sends and receives until the connection is of no more use. Says why, if the node is to
    /// blame.
    async fn serve(&mut self, connection: &mut Connection) -> Option<String> {
        let mut timer = pin!(sleep_until(Instant::now() + FAR));
        loop {
            let now = Instant::now();
            self.expire(Some(connection), now);
            let attempt_timeout = self.config.attempt_timeout;
            if connection.silent_since().is_some_and(|since| since + attempt_timeout <= now) {
                return Some(format!("no answer within {attempt_timeout:?}"));
            }
            self.send(connection, now);
            if connection.is_idle() {
                if let Some(why) = connection.leaving.take() {
                    return Some(why);
                }
                if self.is_finished(connection, now) {
                    return None;
                }
            }
            self.arm(timer.as_mut(), connection, now);
            let room = self.room();
            let takes = self.is_open && room > 0;
            tokio::select! { biased;
                exchanged = connection.exchange() => {
                    let outcome = match exchanged {
                        // A node may close a connection that nobody uses.
                        Ok(0) | Err(_) if connection.is_idle() && !self.has_work() => return None,
                        Ok(0) => Err("connection closed by the node".to_owned()),
                        Ok(_) => self.take_replies(connection),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(why) = outcome {
                        return Some(why);
                    }
                }
                count = self.requests.recv_many(&mut self.arrivals, room), if takes => self.admit(count),
                () = &mut timer => {}
            }
        }
    }

    /// Sends what can be sent, the oldest first; a write that has to wait holds no read up.
    fn send(&mut self, connection: &mut Connection, now: Instant) {
        if connection.leaving.is_some() || now < self.paused_until {
            return;
        }
        let mut writes_may_go = true;
        while connection.in_flight_count() < self.config.window
            && connection.unsent_bytes() < self.config.unsent_bytes_max
        {
            let read = self.reads.front().map_or(u64::MAX, |call| call.ticket);
            let write = self.writes.front().filter(|_| writes_may_go);
            if write.is_some_and(|call| call.ticket < read) {
                writes_may_go = self.send_write(connection, now);
            } else if let Some(call) = self.reads.pop_front() {
                connection.send(call, 0, now);
            } else {
                return;
            }
        }
    }

    /// Sends the oldest write, or what it needs first. False if writes have to wait.
    fn send_write(&mut self, connection: &mut Connection, now: Instant) -> bool {
        let session = match &mut self.session {
            SessionState::Open(session) => session,
            SessionState::Opening => return false,
            SessionState::None => {
                self.session = SessionState::Opening;
                connection.send_open_session(now);
                return false;
            }
        };
        let Some(mut call) = self.writes.pop_front() else { return false };
        if call.id.is_none() {
            call.id = session.issue();
        }
        if call.id.is_none() {
            self.writes.push_front(call);
            return false;
        }
        connection.send(call, session.acked(), now);
        true
    }

    /// With no call left and none to come: closes the session, then says so.
    fn is_finished(&mut self, connection: &mut Connection, now: Instant) -> bool {
        if self.is_open || self.has_work() {
            return false;
        }
        match std::mem::replace(&mut self.session, SessionState::None) {
            SessionState::Open(session) => {
                connection.send_close_session(session.id(), now);
                false
            }
            SessionState::None | SessionState::Opening => true,
        }
    }

    /// Sets the timer no later than the next thing to see to. An early one is left as it is: it
    /// costs one turn, and saves setting it for every command.
    fn arm(&self, mut timer: Pin<&mut Sleep>, connection: &Connection, now: Instant) {
        let silence = connection.silent_since().map(|since| since + self.config.attempt_timeout);
        let pause = Some(self.paused_until).filter(|&until| until > now && self.has_work());
        let wake = [silence, pause].into_iter().flatten().fold(self.next_deadline, Instant::min);
        if wake < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(wake);
        }
    }

    /// The connection is over. What was in flight goes back into the queues; a write that left
    /// whole may have been applied.
    fn leave(&mut self, connection: Connection, why: Option<String>) {
        if let Some(why) = why {
            self.next_address(&why);
        }
        for (purpose, left_whole) in connection.into_in_flight() {
            match purpose {
                Purpose::Call(mut call) => {
                    call.is_uncertain |= left_whole && call.kind == Kind::Write;
                    self.requeue(call);
                }
                Purpose::OpenSession => self.session = SessionState::None,
                Purpose::CloseSession => {}
            }
        }
    }

    /// Answers the calls whose deadline has passed. One on the wire keeps its place there.
    fn expire(&mut self, connection: Option<&mut Connection>, now: Instant) {
        if now < self.next_deadline {
            return;
        }
        let mut next_deadline = now + FAR;
        for queue in [&mut self.reads, &mut self.writes] {
            queue.retain_mut(|call| {
                if call.deadline > now {
                    next_deadline = next_deadline.min(call.deadline);
                    return true;
                }
                call.answer(Err(call.given_up(false, &self.last_failure)));
                give_up(&mut self.session, call);
                false
            });
        }
        for in_flight in connection.into_iter().flat_map(|it| it.in_flight().iter_mut()) {
            let Purpose::Call(call) = &mut in_flight.purpose else { continue };
            if call.is_answered() {
                continue;
            }
            if call.deadline > now {
                next_deadline = next_deadline.min(call.deadline);
                continue;
            }
            call.answer(Err(call.given_up(true, "the deadline passed before an answer came")));
        }
        self.next_deadline = next_deadline;
    }
}

/// Notes that nobody waits for a write any more, and whether it may still have an outcome.
fn give_up(session: &mut SessionState, call: &Call) {
    if let (SessionState::Open(session), Some(id)) = (session, call.id) {
        session.mark(id, if call.is_uncertain { Slot::GivenUp } else { Slot::Settled });
    }
}
