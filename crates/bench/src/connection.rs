//! One connection to a Redis-protocol server: sends what is due, reads the answers in their order,
//! and makes a new connection when the old one breaks.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_resp::{ReplyLimits, ReplyParser, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::mix::Op;
use crate::pace::Flow;
use crate::plan::{End, Plan};
use crate::request::Requests;
use crate::tally::{Sent, Tally, kind_of};
use crate::worker::{Desk, Shared, lock, nanos};

/// Bytes read by one system call.
const READ_BYTES: usize = 64 << 10;
/// First and longest wait before a connection is made again.
const REDIAL_MIN: Duration = Duration::from_millis(10);
const REDIAL_MAX: Duration = Duration::from_millis(320);
/// A run that ends after a count has no other end: after this long without a connection it is over.
const GIVE_UP_TIME: Duration = Duration::from_secs(60);

/// A connection and what is under way on it.
pub(crate) struct Connection {
    desk: Desk,
    flow: Flow,
    requests: Requests,
    /// Rings when a command of an open loop is due.
    wake: Arc<Notify>,
    number: u64,
    under_way: VecDeque<Sent>,
    /// Since when the server owes an answer and has said nothing.
    owed_since_ns: u64,
    /// Commands, of which the first `written` bytes are sent.
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    parser: ReplyParser,
}

/// A connection for the start of the run: to the server whose turn it is, or the next that answers.
/// Those that do not are counted.
pub(crate) async fn first(
    shared: Arc<Shared>,
    tally: Arc<Mutex<Tally>>,
    number: u64,
) -> Result<TcpStream, String> {
    let Plan { servers, timeout, .. } = &shared.plan;
    let mut why = String::new();
    for server in (0..servers.len()).map(|at| &servers[(number as usize + at) % servers.len()]) {
        match dial(server, *timeout).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                lock(&tally).connection_lost(&error);
                why = format!("{server}: {error}");
            }
        }
    }
    Err(why)
}

async fn dial(server: &str, time: Duration) -> Result<TcpStream, String> {
    let dialled = timeout(time, TcpStream::connect(server)).await;
    let stream = dialled.map_err(|_| "no connection in time".to_owned())?;
    let stream = stream.map_err(|error| describe(&error))?;
    stream.set_nodelay(true).map_err(|error| describe(&error))?;
    Ok(stream)
}

/// An I/O error without what differs from case to case; in full if its kind says nothing.
fn describe(error: &io::Error) -> String {
    match error.kind().to_string() {
        kind if kind == "uncategorized error" => error.to_string(),
        kind => kind,
    }
}

impl Connection {
    pub(crate) fn new(desk: Desk, flow: Flow, number: u64, wake: Arc<Notify>) -> Self {
        let requests = Requests::new(&desk.shared.plan, number);
        Self {
            desk,
            flow,
            requests,
            wake,
            number,
            under_way: VecDeque::new(),
            owed_since_ns: 0,
            out: Vec::new(),
            written: 0,
            input: Vec::new(),
            parser: ReplyParser::new(reply_limits()),
        }
    }

    /// Sends until the run is over, over as many connections as it takes.
    pub(crate) async fn drive(mut self, first: TcpStream) {
        let mut stream = first;
        while let Err(why) = self.converse(stream).await {
            let lost = self.under_way.len() as u64;
            self.under_way.clear();
            {
                let mut tally = self.desk.tally();
                tally.failed(&why, lost);
                tally.connection_lost(&why);
            }
            match self.redial().await {
                Some(again) => stream = again,
                None => return,
            }
        }
    }

    /// Sends and reads over one connection: until the run is over, or the reason why not.
    async fn converse(&mut self, mut stream: TcpStream) -> Result<(), String> {
        self.out.clear();
        self.written = 0;
        self.input.clear();
        self.parser = ReplyParser::new(reply_limits());
        let is_open = self.desk.shared.plan.rate.is_some();
        let time = self.desk.shared.plan.timeout;
        let (mut reader, mut writer) = stream.split();
        let mut watchdog = pin!(sleep(time));
        loop {
            let now_ns = self.desk.now_ns();
            self.push_due(now_ns);
            if self.under_way.is_empty() && self.desk.is_over(now_ns) {
                return Ok(());
            }
            self.input.reserve(READ_BYTES);
            let unsent = &self.out[self.written..];
            tokio::select! {
                biased;
                written = writer.write(unsent), if !unsent.is_empty() => {
                    self.written += written.map_err(|error| describe(&error))?;
                    if self.written == self.out.len() {
                        self.out.clear();
                        self.written = 0;
                    }
                }
                read = reader.read_buf(&mut self.input) => {
                    match read.map_err(|error| describe(&error))? {
                        0 => return Err("closed by the server".to_owned()),
                        _ => self.take_answers()?,
                    }
                }
                () = self.wake.notified(), if is_open => {}
                () = &mut watchdog => {
                    let silent_ns = self.desk.now_ns().saturating_sub(self.owed_since_ns);
                    match nanos(time).checked_sub(silent_ns) {
                        _ if self.under_way.is_empty() => watchdog.as_mut().reset(Instant::now() + time),
                        None | Some(0) => return Err("no answer in time".to_owned()),
                        Some(left) => {
                            watchdog.as_mut().reset(Instant::now() + Duration::from_nanos(left));
                        }
                    }
                }
            }
        }
    }

    /// Writes the commands that are due, as far as the pipeline has room.
    fn push_due(&mut self, now_ns: u64) {
        for _ in 0..self.flow.room(self.under_way.len()) {
            let Some(from_ns) = self.flow.next(now_ns, self.desk.shared.end_ns()) else { return };
            let Some(place) = self.desk.shared.claim(now_ns) else { return };
            if self.under_way.is_empty() {
                self.owed_since_ns = now_ns;
            }
            let op = self.requests.push(place, &mut self.out);
            self.under_way.push_back(Sent { op, from_ns });
        }
    }

    /// Counts the replies that are complete.
    fn take_answers(&mut self) -> Result<(), String> {
        let now_ns = self.desk.now_ns();
        let mut tally = self.desk.tally();
        let mut consumed = 0;
        loop {
            let progress = self.parser.parse(&self.input[consumed..]);
            let progress = progress.map_err(|error| error.to_string())?;
            consumed += progress.consumed;
            let Some(value) = progress.value else { break };
            let Some(sent) = self.under_way.pop_front() else {
                return Err("a reply that nothing asked for".to_owned());
            };
            self.owed_since_ns = now_ns;
            match verdict(sent.op, &value) {
                Verdict::Done => tally.answered(sent, now_ns),
                Verdict::Missing => {
                    tally.misses += 1;
                    tally.answered(sent, now_ns);
                }
                Verdict::Failed(kind) => tally.failed(kind, 1),
            }
        }
        self.input.drain(..consumed);
        Ok(())
    }

    /// A new connection, as soon as one can be had; `None` if the run is over before.
    async fn redial(&self) -> Option<TcpStream> {
        let plan = &self.desk.shared.plan;
        let has_end = matches!(plan.end, End::After(_));
        let give_up = Instant::now() + GIVE_UP_TIME;
        let mut wait = REDIAL_MIN;
        for attempt in 1.. {
            sleep(wait).await;
            let now_ns = self.desk.now_ns();
            if !has_end && Instant::now() >= give_up {
                self.desk.shared.stop(now_ns);
            }
            if self.desk.is_over(now_ns) {
                return None;
            }
            let server = &plan.servers[(self.number as usize + attempt) % plan.servers.len()];
            match dial(server, plan.timeout).await {
                Ok(stream) => return Some(stream),
                Err(why) => self.desk.tally().connection_lost(&why),
            }
            wait = (2 * wait).min(REDIAL_MAX);
        }
        None
    }
}

/// Values as long as a plan may write, and some more.
fn reply_limits() -> ReplyLimits {
    ReplyLimits { bulk_bytes_max: 512 << 20, reply_bytes_max: 513 << 20, ..ReplyLimits::default() }
}

/// What a reply says of its command.
enum Verdict<'a> {
    Done,
    /// Done, and there was no such key.
    Missing,
    Failed(&'a str),
}

fn verdict(op: Op, value: &Value) -> Verdict<'_> {
    match (op, value) {
        (_, Value::Error(text)) => Verdict::Failed(kind_of(text)),
        (Op::Get, Value::Bulk(_))
        | (Op::Set | Op::Ping, Value::Simple(_))
        | (Op::Incr | Op::Del | Op::Exists, Value::Integer(_)) => Verdict::Done,
        (Op::Get, Value::Nil) => Verdict::Missing,
        _ => Verdict::Failed("a reply of another type than the command's"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::plan::tests::plan;
    use crate::worker::Worker;

    #[tokio::test]
    async fn a_run_with_a_count_is_over_when_no_connection_can_be_had_for_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let servers = vec![listener.local_addr().unwrap().to_string()];
        let plan = Plan { servers, connections: 1, end: End::Count(1_000_000), ..plan() };
        let shared = Arc::new(Shared::new(plan));
        let tally = Arc::new(Mutex::new(Tally::new(0)));
        let worker = Worker { shared: Arc::clone(&shared), tally, numbers: vec![0] };
        let connected = worker.connect().await.unwrap();
        drop(listener);
        // From now on time passes as soon as there is nothing to do but wait.
        tokio::time::pause();
        connected.run(std::time::Instant::now()).await;
        assert!(shared.end_ns() < u64::MAX, "nobody else waits for it either");
    }
}
