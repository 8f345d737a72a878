//! Commands on their way through the log: the batch that gathers, and the proposals whose fate is
//! not known yet.
//!
//! A waiter is keyed by (index, term) (design rule 8): it is *done* when the entry applied at its
//! index has its term, and *certainly not applied* when it has another one. Losing leadership, or
//! a conflicting entry that is not committed, proves nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use sampan_base::{LogPosition, Time, WallTime};
use sampan_kv::{BatchBuilder, Class, Kv, Reply};

use crate::lines::{Ticket, Waiting};

/// Somebody who waits for a command of a batch, or whose read rides on it.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) since: Time,
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
        Waiting { seq: self.ticket.seq, class, stale: false, command, since: self.since }
    }
}

/// The batch that gathers during a turn.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    builder: BatchBuilder,
    waiters: Vec<Waiter>,
    /// Numbers the batches of this node, from 1.
    pub(crate) id: u64,
    /// Has something to say although it may hold no command: a ride or the time.
    wanted: bool,
}

/// A batch in the log whose fate is not known.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) position: LogPosition,
    /// In the order of the batch. Empty once they were told that the outcome is unknown.
    pub(crate) waiters: Vec<Waiter>,
    /// When they are told so.
    pub(crate) deadline: Time,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) open: OpenBatch,
    /// In order of index.
    pub(crate) proposals: VecDeque<Proposal>,
    /// Waiters in the open batch and in proposals.
    pub(crate) under_way: usize,
}

impl Writes {
    pub(crate) fn new() -> Self {
        let open = OpenBatch {
            builder: BatchBuilder::new(WallTime::ZERO),
            waiters: Vec::new(),
            id: 1,
            wanted: false,
        };
        Self { open, proposals: VecDeque::new(), under_way: 0 }
    }

    /// Adds a command.
    pub(crate) fn push(&mut self, ticket: Ticket, request: Waiting) {
        self.open.builder.push(&request.command);
        let kind = WaiterKind::Command(request.command);
        self.open.waiters.push(Waiter { ticket, since: request.since, kind });
        self.under_way += 1;
    }

    /// Adds a read that is answered at this place of the batch.
    pub(crate) fn ride(&mut self, ticket: Ticket, request: Waiting) {
        let kind = WaiterKind::Ride(request.class, request.command);
        self.open.waiters.push(Waiter { ticket, since: request.since, kind });
        self.open.wanted = true;
        self.under_way += 1;
    }

    /// Wants an entry even if no command comes: its time moves the replicated clock on.
    pub(crate) fn want_clock(&mut self) {
        self.open.wanted = true;
    }

    /// Is there something to propose?
    pub(crate) fn is_ready(&self) -> bool {
        self.open.wanted || !self.open.builder.is_empty()
    }

    /// Bytes of commands gathered.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.builder.bytes()
    }

    /// Closes the batch: its bytes, stamped with the leader's time, and its waiters.
    pub(crate) fn close(&mut self, wall: WallTime) -> (Bytes, Vec<Waiter>) {
        let room = self.open.builder.bytes();
        let next = BatchBuilder::with_capacity(WallTime::ZERO, room);
        let mut builder = std::mem::replace(&mut self.open.builder, next);
        builder.stamp(wall);
        self.open.id += 1;
        self.open.wanted = false;
        (builder.finish(), std::mem::take(&mut self.open.waiters))
    }

    /// Remembers who waits for a proposed batch.
    pub(crate) fn proposed(&mut self, proposal: Proposal) {
        if let Some(last) = self.proposals.back() {
            assert!(last.position < proposal.position, "proposals are made in order");
        }
        self.proposals.push_back(proposal);
    }

    /// The earliest time at which a waiter gives up.
    pub(crate) fn next_deadline(&self) -> Time {
        let waiting = self.proposals.iter().find(|proposal| !proposal.waiters.is_empty());
        waiting.map_or(Time::NEVER, |proposal| proposal.deadline)
    }
}
