//! Commands on their way through the log: the batch that gathers, and the proposals whose fate is
//! not known yet.
//!
//! A waiter is keyed by (index, term) (rule R8): it is *done* when the entry applied at its
//! index has its term, and *certainly not applied* when it has another one. Losing leadership, or
//! a conflicting entry that is not committed, proves nothing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sampan_base::{LogIndex, LogPosition, Time, WallTime, planted};
use sampan_kv::{Ahead, BatchBuilder, Class, Kv, Reply};

use crate::lines::{Ticket, Waiting};
use crate::replica::Replica;
use crate::requests::unknown;

/// A command from this length on is kept as a part of its batch, so that it is in memory once.
const LONG_COMMAND_BYTES: usize = 16 << 10;

/// How many bytes of a stored value that is copied cost as much as one byte of a command: about 0.3
/// ns where a part is changed, copied and hashed twice, while commands of a hundred bytes take some
/// 5 ns for each of theirs. Without it a pipeline of SETRANGE on one long value would make entries
/// that take seconds to apply.
pub(crate) const WORK_BYTES_EACH: usize = 16;
/// Commands of that kind in one batch: the values they meet may be in commands that are not applied
/// yet, each as long as a value may be. What is left of a turn is seen between entries.
const PARTS_MAX: usize = 64;
/// Of the bytes of stored values that may be copied by commands under way, a value that is no more
/// than this part costs hardly more than the command itself: such commands are neither counted nor
/// held.
const SHORT_VALUES: usize = 4_096;

/// Somebody who waits for a command of a batch, or whose read rides on it.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) since: Time,
    pub(crate) maybe_appended: bool,
    /// It was told that the outcome is unknown; it only keeps its place.
    pub(crate) given_up: bool,
    pub(crate) kind: WaiterKind,
}

/// What a waiter waits for.
#[derive(Debug)]
pub(crate) enum WaiterKind {
    /// The reply of the next command of the batch. Kept only to be proposed again if it was
    /// certainly not applied.
    Command(Bytes),
    /// A read that follows a write of its own connection in the same batch: it is answered from the
    /// state between two commands, so order is kept without a byte in the log. It is linearizable:
    /// the entry was proposed after the read arrived, so if it commits, no other leader had
    /// acknowledged anything newer before that.
    Ride(Class, Bytes),
}

impl Waiter {
    /// Does it wait for a place in the batch rather than for a command?
    pub(crate) fn is_rider(&self) -> bool {
        matches!(self.kind, WaiterKind::Ride(..))
    }

    /// The answer to a rider at the place the state machine has reached.
    pub(crate) fn ride(&self, kv: &Kv) -> Reply {
        match &self.kind {
            WaiterKind::Ride(_, command) => kv.query(command),
            WaiterKind::Command(_) => unreachable!("a command's reply comes from applying it"),
        }
    }

    /// The request as it was before it was started.
    pub(crate) fn into_waiting(self) -> Waiting {
        let (class, command) = match self.kind {
            WaiterKind::Command(command) => (Class::Write, command),
            WaiterKind::Ride(class, command) => (class, command),
        };
        let (seq, since, maybe_appended) = (self.ticket.seq, self.since, self.maybe_appended);
        Waiting { maybe_appended, seq, class, stale: false, command, since }
    }
}

/// The batch that gathers during a turn.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    waiters: Vec<Waiter>,
    /// The commands among them, and the bytes of the batch that they make.
    commands: usize,
    bytes: usize,
    /// How many of them copy a stored value, and the bytes of these values.
    parts: usize,
    work_bytes: usize,
    /// Those of them that count as long.
    copied_bytes: usize,
    /// The longest command.
    longest_bytes: usize,
    /// Numbers the batches of this node, from 1.
    pub(crate) id: u64,
    /// Has something to say although it may hold no command: a ride or the time.
    wanted: bool,
}

/// A batch in the log whose fate is not known.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) position: LogPosition,
    /// In the order of the batch.
    pub(crate) waiters: Vec<Waiter>,
    /// The number of the batch, and the bytes of long values that it copies.
    pub(crate) batch: u64,
    pub(crate) copied_bytes: usize,
    /// When the first of them is told that the outcome is unknown.
    pub(crate) deadline: Time,
    /// When all of them are: leadership is lost. `Time::NEVER` before that.
    pub(crate) lost_by: Time,
}

impl Proposal {
    /// Sets the deadline by who still waits.
    pub(crate) fn update_deadline(&mut self, client_timeout: Duration) {
        let waiting = self.waiters.iter().filter(|waiter| !waiter.given_up);
        let first = waiting.map(|waiter| waiter.since + client_timeout).min();
        self.deadline = first.map_or(Time::NEVER, |first| first.min(self.lost_by));
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) open: OpenBatch,
    /// In order of index.
    pub(crate) proposals: VecDeque<Proposal>,
    /// Waiters in the open batch and in proposals.
    pub(crate) under_way: usize,
    /// What the commands among them do to the lengths of values.
    pub(crate) ahead: Ahead,
    /// Bytes of long values that proposals copy, and how many may be under way.
    proposed_copied_bytes: usize,
    copied_bytes_max: usize,
}

/// A batch that is closed, and about to be proposed.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) data: Bytes,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) id: u64,
    pub(crate) copied_bytes: usize,
}

impl Writes {
    /// No more long values are to be copied by commands under way than one turn may apply: whoever
    /// writes next waits for them.
    pub(crate) fn new(apply_bytes_max: usize) -> Self {
        let copied_bytes_max = apply_bytes_max.saturating_mul(WORK_BYTES_EACH);
        let open = OpenBatch {
            waiters: Vec::new(),
            commands: 0,
            bytes: BatchBuilder::HEADER_BYTES,
            parts: 0,
            work_bytes: 0,
            copied_bytes: 0,
            longest_bytes: 0,
            id: 1,
            wanted: false,
        };
        Self {
            open,
            proposals: VecDeque::new(),
            under_way: 0,
            ahead: Ahead::new((copied_bytes_max / SHORT_VALUES).max(1)),
            proposed_copied_bytes: 0,
            copied_bytes_max,
        }
    }

    /// May one more command that copies a long value begin? One always may.
    pub(crate) fn may_copy(&self) -> bool {
        let under_way = self.proposed_copied_bytes + self.open.copied_bytes;
        under_way == 0 || under_way < self.copied_bytes_max
    }

    /// Does a command copy a long value, if this is what it copies?
    pub(crate) fn is_long_copy(&self, command: &[u8], work_bytes: usize) -> bool {
        work_bytes > self.copied_bytes_max / SHORT_VALUES && sampan_kv::copies_a_value(command)
    }

    /// Adds a command; of one that copies a value the bytes of that are about known.
    pub(crate) fn push(&mut self, ticket: Ticket, request: Waiting, work_bytes: usize) {
        self.open.commands += 1;
        self.open.parts += usize::from(sampan_kv::copies_a_value(&request.command));
        self.open.work_bytes += work_bytes;
        if self.is_long_copy(&request.command, work_bytes) {
            self.open.copied_bytes += work_bytes;
        }
        self.open.longest_bytes = self.open.longest_bytes.max(request.command.len());
        self.open.bytes += BatchBuilder::COMMAND_OVERHEAD_BYTES + request.command.len();
        self.add(
            ticket,
            request.since,
            request.maybe_appended,
            WaiterKind::Command(request.command),
        );
    }

    /// Adds a read that is answered at this place of the batch, with about so many bytes. They may
    /// be those of a command before it.
    pub(crate) fn ride(&mut self, ticket: Ticket, request: Waiting, work_bytes: usize) {
        self.open.parts += usize::from(self.open.parts > 0);
        self.open.work_bytes += work_bytes.max(self.open.longest_bytes);
        let kind = WaiterKind::Ride(request.class, request.command);
        self.add(ticket, request.since, request.maybe_appended, kind);
        self.open.wanted = true;
    }

    fn add(&mut self, ticket: Ticket, since: Time, maybe_appended: bool, kind: WaiterKind) {
        self.open.waiters.push(Waiter { ticket, since, maybe_appended, given_up: false, kind });
        self.under_way += 1;
    }

    /// Wants an entry even if no command comes: its time moves the replicated clock on.
    pub(crate) fn want_clock(&mut self) {
        self.open.wanted = true;
    }

    /// Is there something to propose?
    pub(crate) fn is_ready(&self) -> bool {
        self.open.wanted || self.open.commands > 0
    }

    /// Would applying the batch take longer than so many bytes of commands do, or might it?
    pub(crate) fn is_full(&self, bytes_max: usize) -> bool {
        let cost = self.open.bytes + self.open.work_bytes / WORK_BYTES_EACH;
        cost >= bytes_max || self.open.parts >= PARTS_MAX
    }

    /// Bytes of commands gathered.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.bytes
    }

    /// Closes the batch: its bytes, stamped with the log's time, and its waiters. The one copy of a
    /// command between its connection and the log is made here.
    pub(crate) fn close(&mut self, stamp: WallTime) -> Closed {
        // The next turn's batch is most likely as long as this one.
        let next = Vec::with_capacity(self.open.waiters.len());
        let mut waiters = std::mem::replace(&mut self.open.waiters, next);
        let mut batch = BatchBuilder::with_capacity(stamp, self.open.bytes);
        for waiter in &waiters {
            if let WaiterKind::Command(command) = &waiter.kind {
                batch.push(command);
            }
        }
        assert_eq!(batch.bytes(), self.open.bytes, "of {} commands", self.open.commands);
        let (id, copied_bytes) = (self.open.id, std::mem::take(&mut self.open.copied_bytes));
        self.open.id += 1;
        self.open.wanted = false;
        self.open.commands = 0;
        self.open.bytes = BatchBuilder::HEADER_BYTES;
        self.open.parts = 0;
        self.open.work_bytes = 0;
        self.open.longest_bytes = 0;
        let data = batch.finish();
        keep_long_commands_once(&mut waiters, &data);
        Closed { data, waiters, id, copied_bytes }
    }

    /// Remembers who waits for a proposed batch. A node that led before may hold proposals of an
    /// older term at this index and above, whose fate is not known yet: the order is by index.
    pub(crate) fn proposed(&mut self, proposal: Proposal) {
        let order = |position: LogPosition| (position.index, position.term);
        let key = order(proposal.position);
        let place = match self.proposals.back() {
            Some(last) if order(last.position) >= key => {
                self.proposals.partition_point(|other| order(other.position) < key)
            }
            _ => self.proposals.len(),
        };
        self.proposed_copied_bytes += proposal.copied_bytes;
        self.proposals.insert(place, proposal);
    }

    /// The first proposal has ended: its entry is about to be applied, or another one at its index.
    pub(crate) fn take_first(&mut self) -> Option<Proposal> {
        let first = self.proposals.pop_front()?;
        self.ended(first.batch, first.copied_bytes);
        Some(first)
    }

    /// Forgets proposals of which all waiters have given up since leadership was lost. Whether they
    /// will be applied is of interest to nobody here, and no entry may ever come to tell. Those of
    /// earlier batches are never lost later, so these are all batches up to one.
    fn forget_lost(&mut self, now: Time) {
        let (mut last, mut copied_bytes) = (None, 0);
        self.proposals.retain(|proposal| {
            let is_lost = proposal.lost_by <= now;
            if is_lost {
                last = last.max(Some(proposal.batch));
                copied_bytes += proposal.copied_bytes;
            }
            !is_lost
        });
        if let Some(last) = last {
            self.ended(last, copied_bytes);
        }
    }

    /// Batches through this one are not under way any more, nor what they copy.
    fn ended(&mut self, batch: u64, copied_bytes: usize) {
        self.proposed_copied_bytes -= copied_bytes;
        self.ahead.done(batch);
        if self.proposals.is_empty() && !self.is_ready() {
            self.ahead.clear();
        }
    }

    /// The earliest time at which a waiter gives up.
    pub(crate) fn next_deadline(&self) -> Time {
        let deadlines = self.proposals.iter().map(|proposal| proposal.deadline);
        deadlines.min().unwrap_or(Time::NEVER)
    }
}

/// Has the waiters keep their long commands as parts of the batch, which holds them in their order.
fn keep_long_commands_once(waiters: &mut [Waiter], batch: &Bytes) {
    let mut end = BatchBuilder::HEADER_BYTES;
    for waiter in waiters {
        let WaiterKind::Command(command) = &mut waiter.kind else { continue };
        let start = end + BatchBuilder::COMMAND_OVERHEAD_BYTES;
        end = start + command.len();
        if command.len() >= LONG_COMMAND_BYTES {
            *command = batch.slice(start..end);
        }
    }
}

impl Replica {
    pub(crate) fn start_write(&mut self, ticket: Ticket, request: Waiting) {
        if let Some(reply) = self.recorded_reply(&request) {
            self.counters.duplicates += 1;
            self.answer(ticket, reply, self.raft.applied());
            return;
        }
        if let Err(no_room) = self.check_room(&request.command) {
            self.end(ticket.origin, &request, no_room, LogIndex::ZERO);
            return;
        }
        let (batch, term) = (self.writes.open.id, self.raft.term());
        self.lines.line(ticket.origin).write_begins(batch, term);
        let work_bytes = self.work_bytes(&request.command);
        self.writes.ahead.take(&self.kv, &request.command, batch);
        if sampan_kv::values_in_reply(&request.command) > 0 {
            self.lines.line(ticket.origin).value_bytes += work_bytes;
        }
        self.writes.push(ticket, request, work_bytes);
        self.propose_if_full();
    }

    pub(crate) fn propose_if_full(&mut self) {
        if self.writes.is_full(self.options.batch_bytes_max) {
            self.propose_open_batch();
        }
    }

    /// The reply to a session command that was executed before. Only what the applied state knows
    /// for good counts: a session it does not know may have been opened since.
    fn recorded_reply(&self, request: &Waiting) -> Option<Reply> {
        let reply = self.kv.duplicate(&request.command)?;
        let unknown_session =
            matches!(&reply, Reply::Error(text) if text.starts_with("SESSIONEXPIRED"));
        (!unknown_session).then_some(reply)
    }

    /// Hands the open batch to consensus as one entry.
    pub(crate) fn propose_open_batch(&mut self) {
        if !self.writes.is_ready() {
            return;
        }
        let stamp = self.log_clock.stamp(self.now);
        let Closed { data, waiters, id: batch, copied_bytes } = self.writes.close(stamp);
        let Ok(position) = self.raft.propose(data) else {
            self.put_back_waiters(waiters);
            return self.hold_for_log();
        };
        self.last_clock_entry = self.now.mono;
        // The commands of a pipeline stand together, and have one line.
        for run in waiters.chunk_by(|a, b| a.ticket.origin == b.ticket.origin) {
            self.lines.line(run[0].ticket.origin).floor = position.index;
        }
        let (deadline, lost_by) = (Time::NEVER, Time::NEVER);
        let mut proposal = Proposal { position, waiters, batch, copied_bytes, deadline, lost_by };
        proposal.update_deadline(self.options.client_timeout);
        self.writes.proposed(proposal);
    }

    /// Waiters whose commands are certainly in no log: they wait again, or are refused.
    pub(crate) fn put_back_waiters(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters.into_iter().filter(|waiter| !waiter.given_up) {
            self.writes.under_way -= 1;
            let ticket = waiter.ticket;
            self.lines.line(ticket.origin).write_ended();
            self.put_back(ticket, waiter.into_waiting());
        }
    }

    pub(crate) fn expire_proposals(&mut self) {
        let now = self.now.mono;
        let client_timeout = self.options.client_timeout;
        let (mut expired, mut any_lost) = (Vec::new(), false);
        for proposal in &mut self.writes.proposals {
            let lost = proposal.lost_by <= now;
            any_lost |= lost;
            if proposal.deadline > now {
                continue;
            }
            let late = |w: &&mut Waiter| !w.given_up && (lost || w.since + client_timeout <= now);
            for waiter in proposal.waiters.iter_mut().filter(late) {
                waiter.given_up = true;
                expired.push(waiter.ticket);
            }
            proposal.update_deadline(client_timeout);
        }
        if any_lost {
            self.writes.forget_lost(now);
        }
        self.give_up_writes(&expired);
    }

    fn give_up_writes(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            self.writes.under_way -= 1;
            self.lines.line(ticket.origin).write_ended();
            let reply = if planted!(GivenUpFails) { self.not_served() } else { unknown() };
            self.answer(*ticket, reply, LogIndex::ZERO);
            self.lines.forget_if_done(ticket.origin);
            self.to_pump.push(ticket.origin);
        }
        if !tickets.is_empty() {
            // Reads behind them begin anew, and wait for no more than those that come now and are
            // behind them.
            let floored = self.reads.take_floored(self.raft.applied());
            self.void_reads_and_pump(floored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::ConnectionId;
    use crate::lines::{Home, Origin};

    #[test]
    fn a_long_command_is_in_memory_once() {
        let mut writes = Writes::new(1 << 20);
        let lengths = [3, LONG_COMMAND_BYTES, LONG_COMMAND_BYTES - 1, 2 * LONG_COMMAND_BYTES];
        let commands: Vec<Bytes> = (1..).zip(lengths).map(|(i, n)| vec![i; n].into()).collect();
        for (seq, command) in (0..).zip(&commands) {
            let origin = Origin { home: Home::Here, connection: ConnectionId(1) };
            let request = Waiting {
                maybe_appended: false,
                seq,
                class: Class::Write,
                stale: false,
                command: command.clone(),
                since: Time::ZERO,
            };
            writes.push(Ticket { origin, seq }, request, 0);
        }
        let Closed { data, waiters, .. } = writes.close(WallTime::from_unix_ms(1));
        let batch = data.as_ptr_range();
        for (waiter, command) in waiters.into_iter().zip(commands) {
            let kept = waiter.into_waiting().command;
            assert_eq!(kept, command);
            let is_part = batch.contains(&kept.as_ptr());
            assert_eq!(is_part, kept.len() >= LONG_COMMAND_BYTES, "{} bytes", kept.len());
        }
    }
}
