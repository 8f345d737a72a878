//! Leading: proposals, replication in a window per peer, commit by counting, check-quorum and
//! configuration changes (paper 5.3, 5.4.2; Figure 2, "Leaders"; thesis 4.1-4.3, 6.2, 10.2).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sampan_base::{
    Configuration, Entry, EntryKind, LogIndex, LogPosition, NodeId, Term, Time, planted,
};

use crate::catch_up::{CATCH_UP_BYTES_MAX, CatchUp};
use crate::log::Log;
use crate::membership::agreed;
use crate::node::{Raft, RoleState};
use crate::persist::Persistence;
use crate::progress::{Progress, State};
use crate::read::LeaderReads;
use crate::transfer::Transfer;
use crate::{AppendResult, Body, Config, DropReason, Message, Refused, Why};

/// What only a leader knows. Gone when it steps down (paper, Figure 2: "reinitialized after
/// election").
#[derive(Debug)]
pub(crate) struct Leader {
    /// Every member but itself.
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    /// The number of the last request sent.
    pub(crate) sequence: u64,
    /// The no-op that opened the term.
    pub(crate) term_start: LogIndex,
    pub(crate) reads: LeaderReads,
    pub(crate) transfer: Option<Transfer>,
    /// Bytes of entries of this term that are not committed, or not durable here.
    pub(crate) uncommitted_bytes: usize,
    /// Those of them that others have committed: bytes, and through which index.
    committed_elsewhere: VecDeque<(LogIndex, usize)>,
    quorum_check_due: Time,
    /// Not before this does it hand leadership over for being unwell.
    pub(crate) yield_at: Time,
}

impl Leader {
    pub(crate) fn next_deadline(&self, log: &Log, config: &Config) -> Time {
        let mut due = self.quorum_check_due.min(self.reads.late_at(config));
        if let Some(transfer) = &self.transfer {
            due = due.min(transfer.deadline);
        }
        for peer in self.peers.values() {
            due = due.min(peer.heartbeat_due);
            // What is trimmed waits for a snapshot, not for an interval.
            let is_unsent = (log.first_index()..=log.last_index()).contains(&peer.next);
            // And what may not go yet waits for the host.
            if is_unsent && peer.has_room(config) && !peer.is_held {
                due = due.min(peer.append_due(config));
            }
            if let State::Snapshot(send) = &peer.state {
                due = due.min(send.retry_at);
            }
        }
        due
    }

    /// Finds out at once how far the peer is.
    pub(crate) fn peer_connected(&mut self, now: Time, peer: NodeId) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        peer.connected(now, self.sequence);
    }
}

impl Raft {
    // ------------------------------------------------------------------------- proposals

    /// Appends a command to the log of a leader (the course's `Start`). It leaves for the disk and
    /// the peers with the next [`Raft::take_persist`] and [`Raft::flush`].
    ///
    /// The position is where it will be found committed, if at that index that term is committed;
    /// if another term is, it is certainly not applied.
    ///
    /// # Errors
    ///
    /// [`Refused::NotLeader`], [`Refused::Transferring`], or [`Refused::Busy`] past the limit of
    /// uncommitted bytes. Nothing was appended then.
    pub fn propose(&mut self, data: Bytes) -> Result<LogPosition, Refused> {
        let leader_id = self.leader;
        let RoleState::Leader(leader) = &self.role else {
            return Err(Refused::NotLeader { leader: leader_id });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(Refused::Transferring { to: transfer.to });
        }
        if !self.fits_uncommitted(data.len()) {
            return Err(Refused::Busy("uncommitted_bytes_max"));
        }
        let position = self.append_own(EntryKind::Command, data);
        crate::invariants::check(self);
        Ok(position)
    }

    /// Changes the members to the voters and learners of `target`, which must be simple. A change
    /// of voters goes through a joint configuration, which this or a later leader leaves by itself
    /// once it is committed (thesis 4.3). One change at a time.
    pub fn propose_configuration(
        &mut self,
        now: Time,
        target: Configuration,
    ) -> Result<LogPosition, Refused> {
        let RoleState::Leader(leader) = &self.role else {
            return Err(Refused::NotLeader { leader: self.leader });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(Refused::Transferring { to: transfer.to });
        }
        if target.is_joint() {
            return Err(Refused::Invalid("the target of a change must be a simple configuration"));
        }
        target.check().map_err(Refused::Invalid)?;
        let current = self.configurations.latest();
        // One change at a time, and none before an entry of this term is committed: else two
        // leaders could each count a majority of its own (thesis 4.1 and its erratum).
        let unsettled = self.configurations.latest_index() > self.commit || current.is_joint();
        let settled = !unsettled || planted!(TwoChangesPending);
        if !settled || !self.has_committed_in_term() && !planted!(SingleStepChange) {
            return Err(Refused::ChangePending);
        }
        if *current == target {
            return Err(Refused::NoChange);
        }
        let mut next = target;
        if next.voters != current.voters && !planted!(SingleStepChange) {
            next.voters_outgoing.clone_from(&current.voters);
        }
        // No peer would take an entry with too many members, those that leave among them.
        next.check().map_err(Refused::Invalid)?;
        let position = self.append_configuration(now, &next);
        crate::invariants::check(self);
        Ok(position)
    }

    fn append_configuration(&mut self, now: Time, configuration: &Configuration) -> LogPosition {
        let mut data = Vec::new();
        configuration.encode(&mut data);
        let position = self.append_own(EntryKind::Configuration, data.into());
        // In force from the moment it is in the log (thesis 4.1).
        self.configurations.push(position.index, configuration.clone());
        self.configuration_changed(now);
        position
    }

    /// A leader only ever appends to its log (paper, Figure 3, "Leader Append-Only").
    fn append_own(&mut self, kind: EntryKind, data: Bytes) -> LogPosition {
        let RoleState::Leader(leader) = &mut self.role else { panic!("only a leader proposes") };
        let index = self.log.last_index().next();
        let entry = Entry { term: self.term, index, kind, data };
        leader.uncommitted_bytes += entry.size_bytes();
        self.log.append(entry);
        LogPosition { term: self.term, index }
    }

    // ------------------------------------------------------------- beginning and ending

    pub(crate) fn become_leader(&mut self, now: Time) {
        assert!(matches!(self.role, RoleState::Candidate(_)), "{:?} won no election", self.role);
        self.leader = Some(self.config.id);
        self.retries = 0;
        self.role = RoleState::Leader(Box::new(Leader {
            peers: BTreeMap::new(),
            sequence: 0,
            term_start: self.log.last_index().next(),
            reads: LeaderReads::default(),
            transfer: None,
            uncommitted_bytes: 0,
            committed_elsewhere: VecDeque::new(),
            quorum_check_due: now + self.config.heartbeat_interval,
            yield_at: now,
        }));
        // A no-op opens the term, so that what earlier terms left can be committed (5.4.2, 8).
        self.append_own(EntryKind::Noop, Bytes::new());
        self.configuration_changed(now);
    }

    /// Fits the peers to the configuration in force. A new one is sent the last entry first, which
    /// is this leader's own, and says what it lacks.
    pub(crate) fn configuration_changed(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let mut members = self.configurations.latest().members();
        members.remove(&self.config.id);
        leader.peers.retain(|id, _| members.contains(id));
        let (next, sequence) = (self.log.last_index(), leader.sequence + 1);
        for id in members {
            leader.peers.entry(id).or_insert_with(|| Progress::new(next, sequence, now));
        }
    }

    pub(crate) fn tick_leader(&mut self, now: Time) {
        self.abort_transfer_if_due(now);
        let RoleState::Leader(leader) = &mut self.role else { return };
        if now < leader.quorum_check_due {
            return;
        }
        leader.quorum_check_due = now + self.config.heartbeat_interval;
        let silence = now.since(self.quorum_heard_at(now));
        let patience = self.config.election_timeout_min + self.config.quorum_grace;
        if self.config.check_quorum && silence >= patience {
            self.why.get_or_insert(Why::QuorumSilent(silence));
            self.become_follower(now, self.term, None);
        }
        self.yield_if_unwell(now);
    }

    /// When a quorum was heard last. A leader leads for no longer than an election timeout after
    /// that, and what is granted beyond (thesis 6.2).
    fn quorum_heard_at(&self, now: Time) -> Time {
        let RoleState::Leader(leader) = &self.role else { return now };
        Time(agreed(self.configurations.latest(), |id| {
            if id == self.config.id {
                return now.0;
            }
            leader.peers.get(&id).map_or(0, |peer| peer.heard_at.0)
        }))
    }

    // ---------------------------------------------------------------------------- commit

    pub(crate) fn has_committed_in_term(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if self.commit >= leader.term_start)
    }

    /// Commits what a quorum holds durably, if it is of this term (paper 5.4.2, Figure 8). The
    /// leader counts itself like any other: by what its own disk has synced.
    pub(crate) fn advance_commit(&mut self, now: Time) {
        self.commit_what_is_agreed(now);
        self.release_uncommitted();
    }

    fn commit_what_is_agreed(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (last, durable) = (self.log.last_index(), self.persistence.durable_index());
        let own = if planted!(OwnUnsyncedCounted) { last } else { durable };
        let reached = agreed(self.configurations.latest(), |id| {
            if id == self.config.id {
                return own.0;
            }
            leader.peers.get(&id).map_or(0, |peer| peer.counted().0)
        });
        let reached = LogIndex(reached);
        if planted!(OldTermCounted) && reached < leader.term_start {
            return self.commit_to(reached);
        }
        if reached <= self.commit || self.log.term_at(reached) != Some(self.term) {
            return;
        }
        let first = self.commit.next().max(leader.term_start);
        let bytes: usize = self.log.range(first, reached.next()).map(Entry::size_bytes).sum();
        leader.committed_elsewhere.push_back((reached, bytes));
        self.commit_to(reached);
        self.settle_configuration(now);
    }

    /// What is committed and durable here makes room for more.
    fn release_uncommitted(&mut self) {
        let durable = self.persistence.durable_index();
        let RoleState::Leader(leader) = &mut self.role else { return };
        while let Some(&(through, bytes)) = leader.committed_elsewhere.front()
            && through <= durable
        {
            leader.uncommitted_bytes -= bytes;
            leader.committed_elsewhere.pop_front();
        }
    }

    /// Leaves a joint configuration that is committed, also one that an earlier leader began; steps
    /// down when a configuration without this node is (thesis 4.2.2, 4.3).
    fn settle_configuration(&mut self, now: Time) {
        if self.configurations.latest_index() > self.commit {
            return;
        }
        let current = self.configurations.latest();
        if current.is_joint() {
            let mut next = current.clone();
            next.voters_outgoing.clear();
            self.append_configuration(now, &next);
        } else if !current.is_voter(self.config.id) {
            self.hand_over_and_step_down(now);
        }
    }

    // -------------------------------------------------------------------------- sending

    /// Everything due to every peer.
    pub(crate) fn flush_leader(&mut self, now: Time) {
        let asked = self.ask_for_reads(now);
        self.send_to_transfer_target(now);
        self.flush_snapshots(now);
        let holds_back = self.catch_up.room < usize::MAX && self.commits_without_laggards(now);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let mut sender = Sender {
            id: self.config.id,
            term: self.term,
            commit: self.commit,
            now,
            config: &self.config,
            log: &self.log,
            persistence: &self.persistence,
            sequence: &mut leader.sequence,
            read: leader.reads.round(),
            catch_up: &mut self.catch_up,
            messages: &mut self.pending.messages,
        };
        let configuration = self.configurations.latest();
        let successor = leader.transfer.as_ref().map(|transfer| transfer.to);
        for (&id, peer) in &mut leader.peers {
            let is_laggard = successor != Some(id) && !peer.keeps_up(self.commit);
            sender.send_appends(id, peer, holds_back && is_laggard);
            let is_asked =
                asked.is_some_and(|read| peer.read >= read && configuration.is_voter(id));
            if now >= peer.heartbeat_due || is_asked {
                sender.send_heartbeat(id, peer);
            }
        }
        self.start_snapshots(now);
    }

    // ------------------------------------------------------------------------- replies

    /// An answer from a peer, of this term.
    pub(crate) fn on_reply(
        &mut self,
        now: Time,
        from: NodeId,
        body: &Body,
    ) -> Result<(), DropReason> {
        let RoleState::Leader(leader) = &mut self.role else { return Err(DropReason::WrongRole) };
        let peer = leader.peers.get_mut(&from).ok_or(DropReason::UnknownPeer)?;
        let claim = Claim::of(body).ok_or(DropReason::WrongRole)?;
        let of_the_future = claim.sequence > leader.sequence || claim.read > leader.reads.round();
        if of_the_future || claim.reaches > self.log.last_index() {
            return Err(DropReason::Malformed);
        }
        peer.heard_at = now;
        peer.messages_received += 1;
        let was_recovering = peer.recovering;
        if !peer.is_of_this_life(claim.sequence, claim.recovering, leader.sequence) {
            return Err(DropReason::StaleReply);
        }
        let counts_again = was_recovering && !peer.recovering;
        match *body {
            Body::AppendReply { sequence, health, result, .. } => {
                peer.health = Some(health);
                match result {
                    AppendResult::Accepted { matched } => self.on_accepted(now, from, matched),
                    AppendResult::Rejected { previous, hint } => {
                        return self.on_rejected(from, sequence, previous, hint);
                    }
                }
            }
            Body::HeartbeatReply { sequence, health, read, received, matched, .. } => {
                peer.health = Some(health);
                peer.read = peer.read.max(read);
                if planted!(AnyHeartbeatConfirms) {
                    peer.read = leader.reads.round();
                }
                if peer.is_loss(sequence, received) {
                    let agree = peer.agreed_after_loss(received);
                    peer.become_probe(agree, leader.sequence);
                }
                self.on_accepted(now, from, matched);
                self.confirm_reads();
            }
            Body::InstallSnapshotReply { sequence, id, next_offset, matched } => {
                let retry_at = now + self.config.snapshot_retry_interval;
                peer.snapshot_acked(sequence, id, next_offset, retry_at);
                self.on_accepted(now, from, matched);
            }
            _ => {}
        }
        if counts_again {
            // Its acknowledgements did not count while it was recovering; now they do.
            self.advance_commit(now);
        }
        Ok(())
    }

    /// The peer's log is durable and equal through `matched` (paper 5.3: update matchIndex).
    fn on_accepted(&mut self, now: Time, from: NodeId, matched: LogIndex) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        let news = peer.acked(matched);
        let reaches_log = peer.matched.next() >= self.log.first_index();
        let agrees = match &peer.state {
            State::Probe { .. } => peer.matched.next() == peer.next,
            State::Snapshot(_) => reaches_log,
            State::Replicate => false,
        };
        if agrees {
            peer.become_replicate(peer.matched, leader.sequence);
        } else if matches!(&peer.state, State::Snapshot(s) if s.meta.position.index <= peer.matched)
        {
            // Installed, but the log has moved on: the next snapshot is needed.
            peer.become_probe(peer.matched, leader.sequence);
        }
        if news {
            self.advance_commit(now);
        }
    }

    /// The peer does not have the previous entry: go back, at most once per term that differs
    /// (paper 5.3, end). Only `next` moves; what is acknowledged stays so, unless it is lost.
    fn on_rejected(
        &mut self,
        from: NodeId,
        sequence: u64,
        previous: LogIndex,
        hint: LogPosition,
    ) -> Result<(), DropReason> {
        let agree = self.agreement_below(previous, hint);
        let RoleState::Leader(leader) = &mut self.role else { return Err(DropReason::WrongRole) };
        let peer = leader.peers.get_mut(&from).ok_or(DropReason::UnknownPeer)?;
        if !peer.rejection_counts(sequence, previous) {
            return Err(DropReason::StaleReply);
        }
        if planted!(RejectionMatches) {
            peer.acked(hint.index);
        }
        peer.rejected(previous, agree, leader.sequence);
        Ok(())
    }

    /// The last place below `previous` where a log that ends in `hint` may agree with this one.
    fn agreement_below(&self, previous: LogIndex, hint: LogPosition) -> LogIndex {
        let start = self.log.start();
        let mine = self.log.last_within(hint);
        let agree = if hint.index < start.index {
            hint.index
        } else if mine.term > hint.term {
            // Not even the point where the log starts: only a snapshot helps.
            start.index.prev()
        } else {
            mine.index
        };
        agree.min(previous.prev())
    }
}

/// The parts of a reply that can be checked against what this leader ever sent, before anything in
/// it is believed.
struct Claim {
    /// The request that it answers.
    sequence: u64,
    /// How far it says that the logs are equal, or that the request reached.
    reaches: LogIndex,
    /// The round of reads that it confirms; 0: none.
    read: u64,
    /// Whether the peer counts for no quorum, if it says.
    recovering: Option<bool>,
}

impl Claim {
    /// Unset for what is no answer to a leader.
    const fn of(body: &Body) -> Option<Self> {
        Some(match *body {
            Body::AppendReply { sequence, recovering, result, .. } => {
                let (AppendResult::Accepted { matched: reaches }
                | AppendResult::Rejected { previous: reaches, .. }) = result;
                Self { sequence, reaches, read: 0, recovering: Some(recovering) }
            }
            Body::HeartbeatReply { sequence, recovering, read, received, .. } => {
                Self { sequence, reaches: received, read, recovering: Some(recovering) }
            }
            Body::InstallSnapshotReply { sequence, matched, .. } => {
                Self { sequence, reaches: matched, read: 0, recovering: None }
            }
            _ => return None,
        })
    }
}

/// What an Append is to hold.
struct NextEntries {
    /// What it follows.
    previous: LogPosition,
    count: u64,
    bytes: usize,
}

impl NextEntries {
    fn last(&self) -> LogIndex {
        self.previous.index.plus(self.count)
    }
}

/// What it takes to send to one peer after the other.
struct Sender<'a> {
    id: NodeId,
    term: Term,
    commit: LogIndex,
    now: Time,
    config: &'a Config,
    log: &'a Log,
    persistence: &'a Persistence,
    sequence: &'a mut u64,
    read: u64,
    catch_up: &'a mut CatchUp,
    messages: &'a mut Vec<Message>,
}

impl Sender<'_> {
    /// As many Appends as the window has room for (thesis 10.2.2), and, if they only help the peer
    /// to catch up, the allowance.
    fn send_appends(&mut self, to: NodeId, peer: &mut Progress, only_catches_up: bool) {
        peer.is_held = false;
        while peer.next <= self.log.last_index() && peer.has_room(self.config) {
            let bytes_max = self.config.append_bytes_max;
            let Some(mut next) = self.next_entries(peer, bytes_max) else { return };
            let is_full = next.last() < self.log.last_index();
            if self.now < peer.append_due(self.config) && !is_full {
                return;
            }
            if only_catches_up && is_full {
                if self.catch_up.room == 0 {
                    peer.is_held = true;
                    self.catch_up.waits = true;
                    return;
                }
                if next.bytes > CATCH_UP_BYTES_MAX {
                    next = self.next_entries(peer, CATCH_UP_BYTES_MAX).unwrap_or(next);
                }
                self.catch_up.room = self.catch_up.room.saturating_sub(next.bytes);
                self.catch_up.sent += next.bytes;
            }
            let sequence = self.next_sequence();
            peer.sent_append(sequence, next.last(), next.bytes, self.now);
            let (previous, commit) = (next.previous, self.commit);
            let entries = self.log.copy(previous.index.next(), next.last().next());
            self.post(to, peer, Body::Append { sequence, previous, commit, entries });
        }
    }

    /// What the next Append holds: the next entries, and before them those on their way, if they
    /// are to be repeated and there is room. `None` if the next one is trimmed: `start_snapshots`
    /// takes over.
    fn next_entries(&self, peer: &Progress, bytes_max: usize) -> Option<NextEntries> {
        let repeats = peer.inflight().1 <= self.config.repeat_bytes_max;
        let starts = [repeats.then(|| peer.first_inflight()), Some(peer.next)];
        starts.into_iter().flatten().find_map(|from| {
            let index = from.prev();
            let term = self.log.term_at(index)?;
            let count_max = self.config.append_entries_max;
            let (count, bytes) = self.log.fit(from, self.log.last_index(), count_max, bytes_max);
            let next = NextEntries { previous: LogPosition { term, index }, count, bytes };
            (next.last() >= peer.next).then_some(next)
        })
    }

    fn send_heartbeat(&mut self, to: NodeId, peer: &mut Progress) {
        let sequence = self.next_sequence();
        let shows_loss = self.now >= peer.append_sent_at + self.config.heartbeat_interval;
        peer.sent_heartbeat(sequence, shows_loss);
        let (index, read) = (peer.acknowledged, self.read);
        let matched = self.log.term_at(index).map(|term| LogPosition { term, index });
        let matched = matched.unwrap_or_default();
        let commit = self.commit.min(matched.index);
        self.post(to, peer, Body::Heartbeat { sequence, commit, matched, read });
    }

    fn next_sequence(&mut self) -> u64 {
        *self.sequence += 1;
        *self.sequence
    }

    fn post(&mut self, to: NodeId, peer: &mut Progress, body: Body) {
        // Appends do for heartbeats while they are answered. A peer whose disk is slow acknowledges
        // none, and answers only heartbeats: without them it would seem gone.
        let interval = self.config.heartbeat_interval;
        if !matches!(body, Body::Append { .. }) || self.now < peer.heard_at + interval {
            peer.heartbeat_due = self.now + interval;
        }
        peer.messages_sent += 1;
        let message = Message { from: self.id, to, term: self.term, body };
        // Entries may leave before they are durable here (thesis 10.2.1); the term may not, but a
        // leader's is durable since it was elected by it.
        let message = self.persistence.after(message, None);
        self.messages.push(self.persistence.open_leaders(message));
    }
}
