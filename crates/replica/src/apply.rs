//! Committed entries go to the state machine, in order; whoever waits for one gets its reply
//! (paper 5.3, Figure 2 "Rules for Servers"; the course's `applyCh`).

use sampan_base::{Entry, EntryKind, LogIndex, planted};
use sampan_kv::Reply;

use crate::output::Fatal;
use crate::replica::Replica;
use crate::requests::known_of_all;
use crate::writes::{Proposal, WORK_BYTES_EACH, Waiter};

impl Replica {
    /// Applies what is committed, one turn's share of it, and serves the reads that waited for it.
    pub(crate) fn apply_committed(&mut self) {
        let before = self.applied.index;
        let mut left_bytes = self.apply_bytes_max();
        // One at a time: what an entry costs shows when it is applied.
        while left_bytes > 0
            && self.reads.may_apply()
            && let Some(mut entry) = self.raft.take_committed(1).pop()
        {
            if planted!(LocalTimeApplied) && entry.kind == EntryKind::Command {
                let local = self.now.wall.unix_ms.to_le_bytes();
                entry.data = [&entry.data[..1], &local, &entry.data[9..]].concat().into();
            }
            self.apply(&entry);
            let work_bytes = self.kv.take_work_bytes() / WORK_BYTES_EACH;
            left_bytes = left_bytes.saturating_sub(entry.size_bytes() + work_bytes);
        }
        self.drop_overtaken(before);
        self.reads.unpark(self.applied.index);
        self.serve_reads();
    }

    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.index.next(), "entries are applied in order");
        self.applied = entry.position();
        let waiters = self.take_waiters(entry);
        if let Some(first) = waiters.first() {
            self.pace.foreground_took(self.now.mono, self.now.mono.since(first.since));
        }
        if entry.kind != EntryKind::Command {
            assert!(waiters.is_empty(), "nobody waits for entry {}", entry.index);
            return;
        }
        if planted!(FirstEntrySkipped)
            && self.storage.incarnation() > 1
            && std::mem::replace(&mut self.counters.writes, 1) == 0
        {
            return;
        }
        let mut answers: Vec<(Waiter, Reply)> = Vec::with_capacity(waiters.len());
        let mut waiters = waiters.into_iter().peekable();
        let mut commands = 0;
        // Called once before the first command, when the clock has moved on, and after each one.
        let result = self.kv.apply_each(&entry.data, |kv, reply| {
            if let Some(reply) = reply {
                commands += 1;
                answers.extend(waiters.next().map(|waiter| (waiter, reply)));
            }
            while let Some(rider) = waiters.next_if(Waiter::is_rider) {
                let reply = rider.ride(kv);
                answers.push((rider, reply));
            }
        });
        if let Err(error) = result {
            let why = format!("entry {} cannot be applied: {error}", entry.index);
            self.stop(Fatal::Invariant(why));
            return;
        }
        assert!(waiters.next().is_none(), "every waiter of entry {} has a reply", entry.index);
        self.counters.writes += commands;
        for (waiter, reply) in answers {
            self.reads.charge_applied(reply.encoded_bytes());
            self.finish(&waiter, reply, entry.index);
        }
    }

    fn finish(&mut self, waiter: &Waiter, reply: Reply, index: LogIndex) {
        if waiter.given_up {
            return;
        }
        self.writes.under_way -= 1;
        let origin = waiter.ticket.origin;
        let line = self.lines.line(origin);
        line.write_ended();
        let unblocked = line.writes == 0 && !line.waiting.is_empty();
        let is_idle = line.is_idle();
        let reply = known_of_all(waiter.maybe_appended, reply);
        self.answer(waiter.ticket, reply, index);
        if unblocked {
            self.to_pump.push(origin);
        }
        if is_idle {
            self.lines.forget_if_done(origin);
        }
    }

    /// Who waits for this very entry. Waiters of another entry at its index, or of an earlier one,
    /// learn that theirs was certainly not applied.
    fn take_waiters(&mut self, entry: &Entry) -> Vec<Waiter> {
        while let Some(front) = self.writes.proposals.front()
            && front.position.index <= entry.index
        {
            let Some(Proposal { position, waiters, .. }) = self.writes.take_first() else {
                break;
            };
            if position == entry.position()
                || planted!(WaiterByIndexOnly) && position.index == entry.index
            {
                return waiters;
            }
            self.to_pump.extend(waiters.iter().map(|waiter| waiter.ticket.origin));
            self.put_back_waiters(waiters);
        }
        Vec::new()
    }

    /// A snapshot was installed: what was proposed at or below it has an unknown fate.
    pub(crate) fn forget_proposals_through(&mut self, index: LogIndex) {
        while let Some(front) = self.writes.proposals.front()
            && front.position.index <= index
        {
            let Some(proposal) = self.writes.take_first() else { break };
            for waiter in proposal.waiters {
                self.finish(&waiter, crate::requests::unknown(), LogIndex::ZERO);
            }
        }
    }
}
