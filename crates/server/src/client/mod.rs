//! Client connections.
//!
//! - `flow.rs`: the order of replies
//! - `connection.rs`: the task that reads requests from a socket
//! - `intake.rs`: what has arrived and is not taken, and the common bound of what is not complete
//! - `output.rs`: the common bound of replies that clients do not take, and of commands that wait
//! - `held.rs`: what is under such a bound
//! - `registry.rs`: all connections, and the way of a reply to its own
//! - `transactions.rs`: the refusal of what stands between `MULTI` and `EXEC`
//!
//! A reply is written by the event loop at the end of its turn, one call per connection; only what
//! the kernel does not take then is left to the connection's task.

pub(crate) mod connection;
pub(crate) mod flow;
pub(crate) mod held;
pub(crate) mod intake;
pub(crate) mod output;
pub(crate) mod registry;
pub(crate) mod transactions;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use sampan_base::Time;
use sampan_replica::{ConnectionId, Input};
use sampan_resp::Protocol;
use tokio::net::tcp::OwnedWriteHalf;

use crate::config::Limits;
use crate::inbox::Inbox;
use crate::render::Rendering;
use flow::Flow;
use intake::Intake;

/// About what a request without a reply takes, here and in the replica.
const REQUEST_BYTES: usize = 256;

/// One connection, as its task, the event loop and other connections see it.
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    /// What `CLIENT ID` says.
    pub(crate) number: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) connected_at: Time,
    pub(crate) profile: RefCell<Profile>,
    pub(crate) flow: RefCell<Flow>,
    /// When bytes last arrived.
    pub(crate) read_at: Cell<Time>,
    pub(crate) intake: RefCell<Intake>,
    /// Bytes that are read and not yet taken, and their memory.
    pub(crate) read_bytes: Cell<usize>,
    pub(crate) kept_bytes: Cell<usize>,
    /// What of it is counted as a command that has not arrived whole.
    pub(crate) incomplete_bytes: Cell<usize>,
    /// What of [`Client::untaken_bytes`] is counted.
    pub(crate) counted_bytes: Cell<usize>,
    /// It was closed for what its client does not take.
    pub(crate) is_overfull: Cell<bool>,
    /// A piece of a backup is being read for it: so long it is not read from.
    pub(crate) awaits_piece: Cell<bool>,
    /// Its next command waits until those before it are answered: so long it is not read from.
    pub(crate) awaits_answers: Cell<bool>,
    /// It has said `MULTI`: nothing is executed until it says `EXEC` or `DISCARD`.
    pub(crate) refuses_all: Cell<bool>,
    ending: Cell<Ending>,
    /// The task waits for room, not for bytes.
    is_paused: Cell<bool>,
    /// In the list of connections to flush.
    is_marked: Cell<bool>,
    /// The kernel takes no more for now.
    is_blocked: Cell<bool>,
    /// The replica was told that there are replies enough to send.
    is_full: Cell<bool>,
    /// Since when the output is above its soft limit and the client takes none of it.
    stuck_since: Cell<Option<Time>>,
    /// It has taken some since that was last looked at.
    has_taken: Cell<bool>,
    writer: OwnedWriteHalf,
    task: RefCell<Option<Waker>>,
}

/// What a client has said about itself and how it wants to be served.
#[derive(Clone, Default, Debug)]
pub(crate) struct Profile {
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    pub(crate) library: String,
    pub(crate) library_version: String,
    /// `READONLY`: reads may be answered from local state.
    pub(crate) is_readonly: bool,
    pub(crate) replies: Replies,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
    pub(crate) last_command: &'static str,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Replies {
    #[default]
    On,
    Off,
    /// Off for the next command.
    SkipNext,
}

impl Profile {
    /// How the reply to the command being read is written; a skip is used up by it.
    pub(crate) fn rendering(&mut self) -> Rendering {
        match (self.replies, self.protocol) {
            (Replies::On, Protocol::Resp2) => Rendering::Resp2,
            (Replies::On, Protocol::Resp3) => Rendering::Resp3,
            (Replies::Off, _) => Rendering::Silent,
            (Replies::SkipNext, _) => {
                self.replies = Replies::On;
                Rendering::Silent
            }
        }
    }
}

/// Is a connection coming to its end?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ending {
    /// No.
    No,
    /// Nothing more is read; it closes when what was asked is answered.
    AfterReplies,
    /// At once.
    Now,
}

impl Client {
    /// A connection that has said nothing.
    pub(crate) fn new(
        id: ConnectionId,
        number: u64,
        addresses: (SocketAddr, SocketAddr),
        writer: OwnedWriteHalf,
        limits: &Limits,
        now: Time,
    ) -> Self {
        Self {
            id,
            number,
            remote: addresses.0,
            local: addresses.1,
            connected_at: now,
            profile: RefCell::default(),
            flow: RefCell::new(Flow::new(limits.output_bytes_max)),
            read_at: Cell::new(now),
            intake: RefCell::new(Intake::new(limits.request)),
            read_bytes: Cell::new(0),
            kept_bytes: Cell::new(0),
            incomplete_bytes: Cell::new(0),
            counted_bytes: Cell::new(0),
            is_overfull: Cell::new(false),
            awaits_piece: Cell::new(false),
            awaits_answers: Cell::new(false),
            refuses_all: Cell::new(false),
            ending: Cell::new(Ending::No),
            is_paused: Cell::new(false),
            is_marked: Cell::new(false),
            is_blocked: Cell::new(false),
            is_full: Cell::new(false),
            stuck_since: Cell::new(None),
            has_taken: Cell::new(false),
            writer,
            task: RefCell::new(None),
        }
    }

    /// Brings the end nearer; it never gets farther.
    pub(crate) fn end(&self, ending: Ending) {
        if ending > self.ending.get() {
            self.ending.set(ending);
            self.wake();
        }
    }

    /// Is it coming to its end?
    pub(crate) fn ending(&self) -> Ending {
        self.ending.get()
    }

    /// Is there room for another request? For one there is, however long its reply may be.
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        if self.awaits_piece.get() {
            return false;
        }
        let flow = self.flow.borrow();
        if flow.waiting() == 0 {
            return flow.unsent().len() < limits.output_pause_bytes;
        }
        !self.awaits_answers.get()
            && flow.waiting() < limits.pipeline_max
            && flow.expected_bytes() < limits.output_pause_bytes
            // However wrong the guess is, a client that reads is not closed for what it asked.
            && flow.worst_bytes() < limits.output_bytes_max / 2
    }

    /// The task has stopped reading until there is room.
    pub(crate) fn pause(&self) {
        self.is_paused.set(true);
    }

    /// Lets a task that waits for room see whether there is any.
    pub(crate) fn resume(&self) {
        if self.is_paused.replace(false) {
            self.wake();
        }
    }

    /// Marks it for the next flush; false if it is marked already.
    pub(crate) fn mark(&self) -> bool {
        !self.is_marked.replace(true)
    }

    /// Sends what there is with one call; the task goes on if the kernel does not take it all.
    pub(crate) fn flush(&self, limits: &Limits, now: Time) {
        self.is_marked.set(false);
        if !self.is_blocked.get() {
            self.write();
        }
        self.check_output(limits, now);
        let emptied = self.flow.borrow().unsent().is_empty();
        if emptied && self.ending.get() != Ending::No {
            self.wake();
        } else if self.is_paused.get() && self.has_room(limits) {
            self.resume();
        }
    }

    /// Tells the replica if there are replies enough to send for now, or room for more again.
    pub(crate) fn tell_if_full(&self, limits: &Limits, inbox: &Inbox) {
        let unsent_bytes = self.flow.borrow().unsent().len();
        // Not to and fro with every reply.
        let full_from = limits.output_pause_bytes.div_ceil(if self.is_full.get() { 2 } else { 1 });
        // Of one that is over the replica hears otherwise.
        let is_full = unsent_bytes >= full_from && self.ending() != Ending::Now;
        match (self.is_full.replace(is_full), is_full) {
            (false, true) => inbox.push(Input::RepliesHeld(self.id)),
            (true, false) => inbox.push(Input::RepliesWanted(self.id)),
            _ => {}
        }
    }

    /// Ends a connection whose client does not read what it asks for.
    pub(crate) fn check_output(&self, limits: &Limits, now: Time) {
        if self.ending() == Ending::Now {
            return;
        }
        let unsent_bytes = self.flow.borrow().unsent().len();
        let has_taken = self.has_taken.take();
        // Replies that are not made for want of room would be unsent, too.
        let keeps_back = self.is_full.get() && self.flow.borrow().waiting() > 0;
        if unsent_bytes < limits.output_soft_bytes && !keeps_back {
            self.stuck_since.set(None);
            return;
        }
        let since = self.stuck_since.get().filter(|_| !has_taken).unwrap_or(now);
        self.stuck_since.set(Some(since));
        if unsent_bytes >= limits.output_bytes_max || now.since(since) >= limits.output_soft_time {
            self.is_overfull.set(true);
            self.end(Ending::Now);
        }
    }

    /// The memory that it takes until its client takes replies: these, and those that the replica
    /// does not begin; and whole commands that wait for room. Of a client that takes its replies,
    /// and does not send far ahead, it is next to nothing.
    pub(crate) fn untaken_bytes(&self) -> usize {
        if self.ending() == Ending::Now {
            return 0;
        }
        let flow = self.flow.borrow();
        // Also while it waits for this node alone: that is as much memory.
        let unread_bytes = if self.incomplete_bytes.get() > 0 { 0 } else { self.kept_bytes.get() };
        let parked_bytes = if self.is_full.get() {
            flow.waiting() * REQUEST_BYTES + flow.command_bytes()
        } else {
            0
        };
        flow.memory_bytes() + unread_bytes + parked_bytes
    }

    /// Ends a connection that is silent for too long, or does not take its replies.
    pub(crate) fn sweep(&self, limits: &Limits, now: Time) {
        let silence = now.since(self.read_at.get());
        let waits = self.is_paused.get() || self.flow.borrow().waiting() > 0;
        let stalled = self.incomplete_bytes.get() > 0 && silence >= limits.request_stall_time;
        let idle = limits.idle_time.is_some_and(|idle_time| silence >= idle_time);
        if !waits && (stalled || idle) {
            self.end(Ending::Now);
        }
        self.check_output(limits, now);
    }

    /// Writes whenever the kernel takes more, as the connection's task: ready when there is
    /// nothing left to write.
    pub(crate) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_blocked.get() {
            match self.writer.as_ref().poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => self.end(Ending::Now),
                Poll::Ready(Ok(())) => {}
            }
            self.is_blocked.set(false);
            self.write();
        }
        if self.flow.borrow().unsent().is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Where to wake the task.
    pub(crate) fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// The sending half.
    pub(crate) fn socket(&self) -> &tokio::net::TcpStream {
        self.writer.as_ref()
    }

    fn wake(&self) {
        self.task.borrow().as_ref().inspect(|task| task.wake_by_ref());
    }

    fn write(&self) {
        let mut flow = self.flow.borrow_mut();
        let unsent = flow.unsent();
        if unsent.is_empty() {
            return;
        }
        let blocked = match self.writer.try_write(unsent) {
            Ok(count) => {
                let all = count == unsent.len();
                flow.mark_sent(count);
                self.has_taken.set(true);
                !all
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(_) => {
                drop(flow);
                self.end(Ending::Now);
                return;
            }
        };
        drop(flow);
        if blocked {
            self.is_blocked.set(true);
            self.wake();
        }
    }
}
