//! Following a leader: what it sends is checked, taken over, and acknowledged once durable (paper
//! 5.3; Figure 2, "`AppendEntries` RPC"; thesis 10.2.1).

use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, NodeId, SnapshotMeta, Time, planted};

use crate::node::{Raft, RoleState, configuration_of};
use crate::read::FollowerReads;
use crate::{AppendResult, Body, DropReason};

/// What a node knows of the leader of the current term. All but the last is of one term.
#[derive(Debug)]
pub(crate) struct Following {
    /// Through here the log is known to equal the leader's. At least the commit index.
    pub(crate) verified: LogIndex,
    /// The leader is known to have committed this. May be ahead of `verified`.
    commit_hint: LogIndex,
    /// When the leader was last heard.
    pub(crate) heard_at: Option<Time>,
    /// The snapshot that it sends.
    pub(crate) incoming: Option<Incoming>,
    /// Reads that wait for its answer.
    pub(crate) reads: FollowerReads,
}

/// A snapshot on its way from the leader.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) from: NodeId,
    pub(crate) sequence: u64,
    pub(crate) meta: SnapshotMeta,
}

impl Following {
    pub(crate) fn new(commit: LogIndex, reads: FollowerReads) -> Self {
        Self { verified: commit, commit_hint: commit, heard_at: None, incoming: None, reads }
    }

    /// Of the leader of a new term only this is known: it has all that is committed (paper 5.4.3).
    pub(crate) fn enter_term(&mut self, commit: LogIndex) {
        self.verified = commit;
        self.commit_hint = commit;
        self.heard_at = None;
        self.incoming = None;
    }
}

impl Raft {
    /// Is this a follower to which its leader has said that more is committed than this log is
    /// known to have? Heartbeats do not say so, only Appends.
    pub fn lacks_committed(&self) -> bool {
        self.following.commit_hint > self.commit
    }

    /// A message that only the leader of this term sends.
    pub(crate) fn hear_leader(&mut self, now: Time, from: NodeId) -> Result<(), DropReason> {
        if self.is_leader() || self.leader.is_some_and(|leader| leader != from) {
            return Err(DropReason::SecondLeader);
        }
        if !matches!(self.role, RoleState::Follower) {
            self.become_follower(now, self.term, Some(from));
        }
        self.leader = Some(from);
        self.retries = 0;
        self.following.heard_at = Some(now);
        self.election_deadline = now + self.election_timeout;
        Ok(())
    }

    /// `AppendEntries`, receiver's rules 2 to 5 (paper, Figure 2). Rule 1, the term, is settled.
    pub(crate) fn on_append(
        &mut self,
        from: NodeId,
        sequence: u64,
        previous: LogPosition,
        commit: LogIndex,
        entries: Vec<Entry>,
    ) -> Result<(), DropReason> {
        let matched = previous.index.plus(entries.len() as u64);
        let result = if self.has_previous(previous) {
            self.take_over(entries)?;
            self.verify(matched);
            self.learn_commit(commit);
            AppendResult::Accepted { matched }
        } else {
            let hint = self.log.last_within(previous);
            AppendResult::Rejected { previous: previous.index, hint }
        };
        let (recovering, health) = (self.is_recovering(), self.health);
        let reply = Body::AppendReply { sequence, recovering, health, result };
        match result {
            // The acknowledgement waits for the disk; a rejection has nothing to wait for.
            AppendResult::Accepted { matched } => self.send_after(from, reply, matched),
            AppendResult::Rejected { .. } => self.send(from, reply),
        }
        Ok(())
    }

    /// Receiver's rule 2: is `previous` in the log? What lies before the point where the log starts
    /// is committed, hence equal to the leader's.
    fn has_previous(&self, previous: LogPosition) -> bool {
        previous.index < self.log.start().index
            || self.log.contains(previous)
            || planted!(MissingPreviousMatches) && self.log.term_at(previous.index).is_none()
    }

    /// Receiver's rules 3 and 4: skips what is there, cuts only where an entry conflicts, appends
    /// the rest.
    fn take_over(&mut self, entries: Vec<Entry>) -> Result<(), DropReason> {
        let known = entries.iter().take_while(|entry| self.is_known(entry.position())).count();
        let behind = entries.last().map_or(LogIndex::ZERO, |entry| entry.index).next();
        let cuts = known == entries.len() && behind > self.commit.max(self.log.start().index);
        if planted!(CutWithoutConflict) && cuts {
            self.truncate(behind);
        }
        let tail = planted!(TailKept).then(|| self.entries(behind, self.log.last_index().next()));
        let Some(first) = entries.get(known).map(|entry| entry.index) else { return Ok(()) };
        if first <= self.commit || first <= self.following.verified {
            return Err(DropReason::ContradictsCommitted);
        }
        if first <= self.log.last_index() {
            self.truncate(first);
        }
        for entry in entries.into_iter().skip(known).chain(tail.into_iter().flatten()) {
            if entry.kind == EntryKind::Configuration {
                // In force from the moment it is in the log (thesis 4.1).
                self.configurations.push(entry.index, configuration_of(&entry));
            }
            self.log.append(entry);
        }
        Ok(())
    }

    /// In the log already, or behind the point where it starts.
    fn is_known(&self, position: LogPosition) -> bool {
        position.index < self.log.start().index || self.log.contains(position)
    }

    /// Cuts the log from an entry on that conflicts with the leader's, and rolls back the
    /// configurations that were in force from there on.
    fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit, "cannot cut at {from}: {} is committed", self.commit);
        self.log.truncate(from);
        self.persistence.truncated(from);
        if !planted!(ConfigurationNotRolledBack) {
            self.configurations.truncate(from);
        }
    }

    /// The log equals the leader's through `index`; what of it the leader committed is committed.
    pub(crate) fn verify(&mut self, index: LogIndex) {
        self.following.verified = self.following.verified.max(index);
        self.learn_commit(self.following.commit_hint);
        self.check_recovered();
    }

    /// Receiver's rule 5: commit index = min(leaderCommit, index of last *verified* entry).
    pub(crate) fn learn_commit(&mut self, commit: LogIndex) {
        self.following.commit_hint = self.following.commit_hint.max(commit);
        if planted!(UnverifiedCommitted) {
            return self.commit_to(self.following.commit_hint.min(self.log.last_index()));
        }
        self.commit_to(self.following.commit_hint.min(self.following.verified));
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: NodeId,
        sequence: u64,
        commit: LogIndex,
        matched: LogPosition,
        read: u64,
    ) {
        if !self.is_recovering() && !self.is_known(matched) {
            self.lost_what_it_acknowledged();
        }
        // What this node acknowledged in this term it still has, also after a restart; but one that
        // lost some of it may hold again what that had replaced: only an Append verifies its log.
        if !self.is_recovering() {
            self.verify(matched.index);
        }
        self.learn_commit(commit);
        let received = self.following.verified;
        let matched = received.min(self.persistence.durable_index());
        let recovering = self.is_recovering();
        let health = self.health;
        let reply = Body::HeartbeatReply { sequence, recovering, health, read, received, matched };
        self.send_after(from, reply, matched);
    }

    /// The disk lost a synced write, and the start took what was left for all there was: from now
    /// on the node knows that it lacks something.
    fn lost_what_it_acknowledged(&mut self) {
        self.non_voting_until = Some(LogIndex::MAX);
        self.following.reads.want_last();
    }

    pub(crate) fn is_recovering(&self) -> bool {
        self.non_voting_until.is_some()
    }

    /// Tells a leader of an older term that its time is over (stuck-node reply): the term says all.
    pub(crate) fn send_term(&mut self, to: NodeId) {
        let result = AppendResult::Accepted { matched: LogIndex::ZERO };
        let (recovering, health) = (self.is_recovering(), self.health);
        self.send(to, Body::AppendReply { sequence: 0, recovering, health, result });
    }
}
