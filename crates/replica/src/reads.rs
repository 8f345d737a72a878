//! Linearizable reads that wait for no disk (thesis 6.4): all reads of a turn share one round of
//! `raft`'s ReadIndex, on the leader and on followers alike, and are served once the state machine
//! has applied the index that came back.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use sampan_base::{LogIndex, Time};
use sampan_raft::ReadId;

use crate::input::ConnectionId;
use crate::lines::{Ticket, Waiting};
use sampan_kv::Class;

/// Rounds under way at once: one on its way while the next one sets out.
pub(crate) const READ_ROUNDS_MAX: usize = 2;

/// Bytes of replies to reads in one turn, about: what is left is served in the next one, which follows at
/// once.
const REPLY_BYTES_PER_TURN: usize = 2 << 20;

/// A read under way.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) ticket: Ticket,
    /// Of the command: one that depends on the time is a read where the clock of the log stands still.
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
    held: Vec<Reading>,
    full: BTreeSet<ConnectionId>,
    /// Bytes of replies that this turn may still make.
    left_bytes: usize,
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

    /// Takes the rounds that waited too long.
    pub(crate) fn take_late(&mut self, now: Time) -> Vec<Round> {
        let mut late = Vec::new();
        while let Some(round) = self.rounds.front()
            && round.retry_at <= now
        {
            late.extend(self.rounds.pop_front());
        }
        late
    }

    /// Parks a read until the state machine has applied `index`.
    pub(crate) fn park(&mut self, index: LogIndex, reading: Reading) {
        self.confirmed.push((index, reading));
    }

    /// The parked reads that can be served at `applied` are ready.
    pub(crate) fn unpark(&mut self, applied: LogIndex) {
        let ready = self.confirmed.extract_if(.., |(index, _)| *index <= applied);
        self.ready.extend(ready.map(|(_, reading)| reading));
    }

    /// A new turn has its share of replies.
    pub(crate) fn begin_turn(&mut self) {
        self.left_bytes = REPLY_BYTES_PER_TURN;
    }

    /// Is there a read to serve, and something left of this turn's share?
    pub(crate) fn may_serve(&self) -> bool {
        self.left_bytes > 0 && !self.ready.is_empty()
    }

    /// A read was answered with so many bytes.
    pub(crate) fn charge(&mut self, reply_bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(reply_bytes);
    }

    /// The next read to serve, unless its connection has replies enough to send: then it waits.
    pub(crate) fn next_to_serve(&mut self) -> Option<Reading> {
        let reading = if self.left_bytes > 0 { self.ready.pop_front() } else { None }?;
        if self.full.contains(&reading.ticket.origin.connection) {
            self.held.push(reading);
            return None;
        }
        Some(reading)
    }

    /// The host holds enough replies of this connection, or has room for more again.
    pub(crate) fn set_full(&mut self, connection: ConnectionId, is_full: bool) {
        if is_full {
            self.full.insert(connection);
        } else if self.full.remove(&connection) {
            let is_its = |reading: &mut Reading| reading.ticket.origin.connection == connection;
            self.ready.extend(self.held.extract_if(.., is_its));
        }
    }

    /// Does the host hold enough replies of this connection?
    pub(crate) fn is_full(&self, connection: ConnectionId) -> bool {
        self.full.contains(&connection)
    }

    /// Takes all reads that were not answered in time: those that only wait for their turn are not among
    /// them.
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
        all.append(&mut self.held);
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
