//! Linearizable reads that wait for no disk (thesis 6.4): all reads of a turn share one round of
//! `raft`'s ReadIndex, on the leader and on followers alike, and are served once the state machine
//! has applied the index that came back: a share of replies in each turn, and none for connections
//! whose client does not take those that it has.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sampan_base::{LogIndex, Time, planted};
use sampan_kv::Class;
use sampan_raft::ReadId;

use crate::input::ConnectionId;
use crate::lines::{Home, Origin, Ticket, Waiting};
use crate::replica::Replica;

/// Rounds under way at once: one on its way while the next one sets out.
pub(crate) const READ_ROUNDS_MAX: usize = 2;

/// A read under way.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) ticket: Ticket,
    /// Of the command: one that depends on the time is a read where the clock of the log stands
    /// still.
    pub(crate) class: Class,
    pub(crate) command: Bytes,
    /// The state must have applied this much besides: the connection's own writes.
    pub(crate) floor: LogIndex,
    /// Local state would do, where nobody leads.
    pub(crate) stale: bool,
    pub(crate) since: Time,
}

impl Reading {
    /// The request as it was before it was started.
    pub(crate) fn into_waiting(self) -> Waiting {
        Waiting {
            maybe_appended: false,
            seq: self.ticket.seq,
            class: self.class,
            stale: self.stale,
            command: self.command,
            since: self.since,
        }
    }
}

/// Reads that share a read index.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) id: ReadId,
    pub(crate) readings: Vec<Reading>,
    /// When the question is asked again: a lost message must not cost a read its life.
    pub(crate) retry_at: Time,
}

/// All reads under way.
#[derive(Default, Debug)]
pub(crate) struct Reads {
    /// For the next round.
    pub(crate) next: Vec<Reading>,
    /// Asked, not answered.
    pub(crate) rounds: VecDeque<Round>,
    /// Answered; the state machine is not there yet.
    confirmed: Vec<(LogIndex, Reading)>,
    /// The state machine is there: to be served, in order.
    pub(crate) ready: VecDeque<Reading>,
    /// The same, of connections that have replies enough to send.
    held: BTreeMap<ConnectionId, Vec<Reading>>,
    /// Bytes of replies that this turn may still make: to reads, and to commands that are applied.
    left_bytes: usize,
    left_applied_bytes: usize,
    last_id: u64,
}

impl Reads {
    /// A fresh id: never used twice in a run, so that a late answer confirms nothing (rule R6).
    pub(crate) fn next_id(&mut self) -> ReadId {
        self.last_id += 1;
        ReadId(self.last_id)
    }

    /// Takes the round of this id, and those that set out before it: an index that holds for later
    /// reads holds for earlier ones, and so no read of a connection overtakes another.
    pub(crate) fn take_through(&mut self, id: ReadId) -> Vec<Reading> {
        let Some(place) = self.rounds.iter().position(|round| round.id == id) else {
            return Vec::new();
        };
        self.rounds.drain(..=place).flat_map(|round| round.readings).collect()
    }

    /// Takes the reads that wait for writes of their connection beyond `applied`: leadership is
    /// lost, and that index may never hold them.
    pub(crate) fn take_floored(&mut self, applied: LogIndex) -> Vec<Reading> {
        let floored = |reading: &mut Reading| reading.floor > applied;
        let mut taken: Vec<Reading> = self.next.extract_if(.., floored).collect();
        for round in &mut self.rounds {
            taken.extend(round.readings.extract_if(.., floored));
        }
        let parked = self.confirmed.extract_if(.., |(_, reading)| reading.floor > applied);
        taken.extend(parked.map(|(_, reading)| reading));
        taken
    }

    /// Takes all that has no answer, also what was not asked yet, in its order.
    pub(crate) fn take_unanswered(&mut self) -> Vec<Reading> {
        let asked = self.rounds.drain(..).flat_map(|round| round.readings);
        asked.chain(self.next.drain(..)).collect()
    }

    /// Parks a read until the state machine has applied `index`.
    pub(crate) fn park(&mut self, index: LogIndex, reading: Reading) {
        self.confirmed.push((index, reading));
    }

    /// Is any read parked?
    pub(crate) fn has_parked(&self) -> bool {
        !self.confirmed.is_empty()
    }

    /// The parked reads that can be served at `applied` are ready.
    pub(crate) fn unpark(&mut self, applied: LogIndex) {
        let ready = self.confirmed.extract_if(.., |(index, _)| *index <= applied);
        self.ready.extend(ready.map(|(_, reading)| reading));
    }

    /// A new turn has its share of replies.
    pub(crate) fn begin_turn(&mut self, reply_bytes: usize) {
        self.left_bytes = reply_bytes;
        self.left_applied_bytes = reply_bytes;
    }

    /// Is there a read to serve, and something left of this turn's share?
    pub(crate) fn may_serve(&self) -> bool {
        let holds_up_all = planted!(HeldHoldsUpOthers) && !self.held.is_empty();
        self.left_bytes > 0 && !self.ready.is_empty() && !holds_up_all
    }

    /// A read was answered with so many bytes.
    pub(crate) fn charge(&mut self, reply_bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(reply_bytes);
    }

    /// The same of a command that was applied. These have a share of their own, or reads would
    /// never be served beside them.
    pub(crate) fn charge_applied(&mut self, reply_bytes: usize) {
        self.left_applied_bytes = self.left_applied_bytes.saturating_sub(reply_bytes);
    }

    /// Is something left of this turn's share for commands that are applied?
    pub(crate) fn may_apply(&self) -> bool {
        self.left_applied_bytes > 0
    }

    /// The next read to serve, unless its connection has replies enough to send: then it waits.
    pub(crate) fn next_to_serve(&mut self) -> Option<Reading> {
        let reading = if self.left_bytes > 0 { self.ready.pop_front() } else { None }?;
        match self.held.get_mut(&reading.ticket.origin.connection) {
            Some(held) if reading.ticket.origin.home == Home::Here => {
                held.push(reading);
                None
            }
            _ => Some(reading),
        }
    }

    /// The host holds enough replies of this connection of its own.
    pub(crate) fn hold(&mut self, connection: ConnectionId) {
        self.held.entry(connection).or_default();
    }

    /// It has room for more of them again: what was held back comes first, in its order.
    pub(crate) fn release(&mut self, connection: ConnectionId) {
        let mut held = self.held.remove(&connection).unwrap_or_default();
        if planted!(HeldReadsForgotten) {
            held.clear();
        }
        held.into_iter().rev().for_each(|reading| self.ready.push_front(reading));
    }

    /// Does the host hold enough replies of this line?
    pub(crate) fn holds(&self, origin: &Origin) -> bool {
        origin.home == Home::Here && self.held.contains_key(&origin.connection)
    }

    /// The connections of which it does.
    pub(crate) fn held(&self) -> impl Iterator<Item = ConnectionId> {
        self.held.keys().copied()
    }

    /// How many reads of this connection wait for its client.
    pub(crate) fn held_of(&self, connection: ConnectionId) -> usize {
        self.held.get(&connection).map_or(0, Vec::len)
    }

    /// Takes all reads that were not answered in time: those that only wait for their turn are not
    /// among them.
    pub(crate) fn take_expired(&mut self, since_before: Time) -> Vec<Reading> {
        let mut expired: Vec<Reading> = Vec::new();
        expired.extend(self.next.extract_if(.., |reading| reading.since <= since_before));
        for round in &mut self.rounds {
            expired.extend(round.readings.extract_if(.., |r| r.since <= since_before));
        }
        let confirmed = self.confirmed.extract_if(.., |(_, r)| r.since <= since_before);
        expired.extend(confirmed.map(|(_, reading)| reading));
        expired
    }

    /// Takes all reads.
    pub(crate) fn take_all(&mut self) -> Vec<Reading> {
        let mut all = self.take_expired(Time::NEVER);
        all.extend(self.ready.drain(..));
        all.extend(std::mem::take(&mut self.held).into_values().flatten());
        all
    }

    /// Reads under way, but for those that wait for a client to take its replies.
    pub(crate) fn under_way(&self) -> usize {
        let asked: usize = self.rounds.iter().map(|round| round.readings.len()).sum();
        self.next.len() + asked + self.confirmed.len() + self.ready.len()
    }

    /// When the oldest question is to be asked again.
    pub(crate) fn next_deadline(&self) -> Time {
        self.rounds.front().map_or(Time::NEVER, |round| round.retry_at)
    }
}

impl Replica {
    pub(crate) fn begin_read(&mut self, ticket: Ticket, request: Waiting) -> Reading {
        let line = self.lines.line(ticket.origin);
        line.reads += 1;
        let (floor, Waiting { class, stale, command, since, .. }) = (line.floor, request);
        Reading { ticket, class, command, floor, stale, since }
    }

    /// Asks for a read index for all reads that gathered.
    pub(crate) fn start_read_round(&mut self) {
        if self.reads.next.is_empty() || self.reads.rounds.len() >= READ_ROUNDS_MAX {
            return;
        }
        let readings = std::mem::take(&mut self.reads.next);
        let id = self.reads.next_id();
        match self.raft.read_index(id) {
            Ok(()) => {
                let retry_at = self.now.mono + self.read_retry();
                self.reads.rounds.push_back(Round { id, readings, retry_at });
            }
            Err(_) => self.void_reads(readings),
        }
    }

    /// A leader that cannot confirm a read steps down by check-quorum; a follower's question can
    /// be lost.
    fn read_retry(&self) -> Duration {
        self.options.raft.election_timeout_min
    }

    /// Reads without a read index: they wait again, in their place.
    pub(crate) fn void_reads(&mut self, readings: Vec<Reading>) {
        for reading in readings {
            let ticket = reading.ticket;
            self.lines.line(ticket.origin).reads -= 1;
            self.put_back(ticket, reading.into_waiting());
        }
    }

    /// Reads whose index is known: served if the state is there, parked otherwise.
    pub(crate) fn confirm_reads(&mut self, readings: Vec<Reading>, index: LogIndex) {
        let applied = self.raft.applied();
        for reading in readings {
            let mut needed = index.max(reading.floor);
            // An answer that came twice may have given an earlier read of this line a later index.
            if self.reads.has_parked() && !planted!(ParkedReadOvertaken) {
                needed = needed.max(self.lines.line(reading.ticket.origin).parked_at);
            }
            if needed <= applied || planted!(ReadBeforeApply) {
                self.reads.ready.push_back(reading);
            } else {
                let parked_at = &mut self.lines.line(reading.ticket.origin).parked_at;
                *parked_at = index.max(*parked_at);
                self.reads.park(needed, reading);
            }
        }
        self.serve_reads();
    }

    /// Answers reads from the applied state, as far as this turn's share goes: long values must not
    /// keep a leader from its heartbeats.
    pub(crate) fn serve_reads(&mut self) {
        while self.reads.may_serve() {
            let group = self.reads.ready.len().min(sampan_kv::GROUP_COMMANDS);
            self.kv.prefetch(self.reads.ready.iter().take(group).map(|reading| &*reading.command));
            for _ in 0..group {
                if let Some(reading) = self.reads.next_to_serve() {
                    self.serve_read(&reading);
                }
            }
        }
    }

    fn serve_read(&mut self, reading: &Reading) {
        let origin = reading.ticket.origin;
        let line = self.lines.line(origin);
        line.reads -= 1;
        let (unblocked, closed) = (line.reads == 0, line.closed);
        if !closed {
            let reply = self.kv.query(&reading.command);
            self.reads.charge(reply.encoded_bytes());
            self.counters.reads += 1;
            self.answer(reading.ticket, reply, self.raft.applied());
        }
        if unblocked {
            self.pump(origin);
        }
    }

    /// All reads that have no answer begin anew: not the late ones alone, or what came after them
    /// would get its index before.
    pub(crate) fn ask_anew(&mut self) {
        let unanswered = self.reads.take_unanswered();
        self.void_reads_and_pump(unanswered);
    }

    pub(crate) fn void_reads_and_pump(&mut self, readings: Vec<Reading>) {
        self.to_pump.extend(readings.iter().map(|reading| reading.ticket.origin));
        self.void_reads(readings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(connection: u64, seq: u64) -> Reading {
        let origin = Origin { home: Home::Here, connection: ConnectionId(connection) };
        Reading {
            ticket: Ticket { origin, seq },
            class: Class::Read,
            command: Bytes::new(),
            floor: LogIndex::ZERO,
            stale: false,
            since: Time::ZERO,
        }
    }

    #[test]
    fn what_begins_anew_begins_in_its_order() {
        let mut reads = Reads::default();
        for seq in [1, 2] {
            let id = reads.next_id();
            let readings = vec![reading(2, seq)];
            reads.rounds.push_back(Round { id, readings, retry_at: Time::NEVER });
        }
        reads.next.push(reading(2, 3));
        let anew = reads.take_unanswered();
        let seqs: Vec<u64> = anew.iter().map(|reading| reading.ticket.seq).collect();
        assert_eq!((seqs, reads.under_way()), (vec![1, 2, 3], 0));
    }

    #[test]
    fn no_read_of_a_connection_overtakes_another_one() {
        let mut reads = Reads::default();
        reads.begin_turn(1 << 20);
        reads.ready.extend([reading(2, 3), reading(3, 1), reading(2, 4), reading(2, 5)]);
        reads.hold(ConnectionId(2));
        assert!(reads.next_to_serve().is_none(), "it is held back");
        reads.release(ConnectionId(2));
        let seqs = std::iter::from_fn(|| reads.next_to_serve().map(|reading| reading.ticket));
        let seqs: Vec<u64> =
            seqs.filter(|t| t.origin.connection == ConnectionId(2)).map(|t| t.seq).collect();
        assert_eq!(seqs, [3, 4, 5]);
    }
}
