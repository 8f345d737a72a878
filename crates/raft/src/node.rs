//! The node: its state, its inputs and its outputs. Every input ends with [`crate::invariants`].
//!
//! Here is what all roles share: terms (paper 5.1), dispatch, the way to the disk and out,
//! applying. What each role does is in `election.rs`, `follower.rs`, `leader.rs` and their
//! neighbours.

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_base::{
    Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, Rng, SnapshotMeta,
    Term, Time, planted,
};

use crate::catch_up::CatchUp;
use crate::follower::Following;
use crate::invariants::{self, Seen};
use crate::leader::Leader;
use crate::log::Log;
use crate::membership::Configurations;
use crate::newborn::Newborn;
use crate::persist::Persistence;
use crate::read::FollowerReads;
use crate::{
    Answer, Body, Config, DropCounts, DropReason, Health, Message, Outputs, Persist, Persisted,
    Role, RoleChange, Why,
};

/// What a node starts from: what its disk held (the course's `Persister`).
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest durable snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// In force if neither the snapshot nor the log holds a configuration. Empty for a node that
    /// joins: it learns of its cluster from the leader.
    pub bootstrap: Configuration,
    /// The stored log: contiguous, and following the snapshot point, reaching behind it, or
    /// starting at 1.
    pub entries: Vec<Entry>,
    /// What the stored log starts after: of one without entries this alone tells whether it joins
    /// the snapshot.
    pub log_start: LogPosition,
    /// The log may have lost its end, anywhere before this index: the node neither votes nor
    /// counts until it is durable through it. [`LogIndex::MAX`]: it asks the leader for the index.
    pub non_voting_until: Option<LogIndex>,
    /// The node has no past that it knows of: it takes no part before it has heard from every other
    /// voter (`newborn.rs`).
    pub newborn: bool,
}

/// A candidate's, or pre-candidate's, count.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Only asks whether it could win.
    pub(crate) pre: bool,
    /// What it asks every voter.
    pub(crate) question: Body,
    /// When it first asked.
    pub(crate) began_at: Time,
    /// When it last asked.
    pub(crate) asked_at: Time,
    /// The first answer of each node.
    pub(crate) votes: BTreeMap<NodeId, bool>,
}

/// A role and what only that role knows.
#[derive(Debug)]
pub(crate) enum RoleState {
    Follower,
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// One Raft node.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    /// currentTerm (paper, Figure 2).
    pub(crate) term: Term,
    /// votedFor, in `term`.
    pub(crate) vote: Option<NodeId>,
    /// The leader of `term`, once one was heard.
    pub(crate) leader: Option<NodeId>,
    pub(crate) role: RoleState,
    /// log\[\], from the end of the snapshot on.
    pub(crate) log: Log,
    pub(crate) configurations: Configurations,
    pub(crate) persistence: Persistence,
    /// commitIndex.
    pub(crate) commit: LogIndex,
    /// lastApplied: what the host has taken.
    pub(crate) applied: LogIndex,
    /// The newest snapshot: what followers get whose entries are trimmed.
    pub(crate) snapshot: Option<SnapshotMeta>,
    pub(crate) following: Following,
    pub(crate) election_timeout: Duration,
    pub(crate) election_deadline: Time,
    /// Quick retries of elections since a leader was last heard; spaces the next one.
    pub(crate) retries: u32,
    /// While set this node neither votes nor counts (rule S12).
    pub(crate) non_voting_until: Option<LogIndex>,
    pub(crate) health: Health,
    pub(crate) newborn: Option<Newborn>,
    pub(crate) catch_up: CatchUp,
    /// Gathered for the next `flush`.
    pub(crate) pending: Outputs,
    /// Term, role and leader as of the last `flush`.
    pub(crate) reported: (Term, Role, Option<NodeId>),
    /// What first changed role or leader since then, if that is worth a word.
    pub(crate) why: Option<Why>,
    pub(crate) dropped: DropCounts,
    pub(crate) seen: Seen,
}

impl Raft {
    /// A node that starts, or starts again, as a follower of nobody. `seed` decides everything
    /// random; it must be another one at each start of a node.
    ///
    /// Panics if the configuration is invalid or what was restored contradicts itself.
    pub fn new(config: Config, restored: Restored, seed: u64, now: Time) -> Self {
        if let Err(fault) = config.check() {
            panic!("{fault}");
        }
        let mut rng = Rng::seeded(seed);
        let start = restored.snapshot.as_ref().map_or(LogPosition::ZERO, |meta| meta.position);
        let base =
            restored.snapshot.as_ref().map_or(restored.bootstrap, |m| m.configuration.clone());
        let (log, replaced) = restore_log(start, restored.log_start, restored.entries);
        let mut persistence = Persistence::new(log.last_index());
        if replaced {
            persistence.reset(start, start.index);
        }
        let mut hard_state = restored.hard_state;
        if start.term > hard_state.term {
            // The snapshot was durable before the term in which it came: a crash came between.
            hard_state = HardState { term: start.term, vote: None };
            persistence.hard_state_changed();
        }
        let HardState { term, vote } = hard_state;
        assert!(log.last().term <= term, "entries of term {} in term {term}", log.last().term);
        let mut node = Self {
            following: Following::new(
                start.index,
                FollowerReads::new(rng.next_u64(), restored.non_voting_until.is_some()),
            ),
            election_timeout: config.election_timeout_max,
            election_deadline: now,
            config,
            rng,
            term,
            vote,
            leader: None,
            role: RoleState::Follower,
            configurations: Configurations::new(start.index, base),
            persistence,
            commit: start.index,
            applied: start.index,
            snapshot: restored.snapshot,
            log,
            retries: 0,
            // What was named before this life may not cover a loss since.
            non_voting_until: restored.non_voting_until.map(|_| LogIndex::MAX),
            health: Health::default(),
            newborn: None,
            catch_up: CatchUp::UNLIMITED,
            pending: Outputs::default(),
            reported: (term, Role::Follower, None),
            why: None,
            dropped: DropCounts::default(),
            seen: Seen::default(),
        };
        node.restore_configurations();
        if restored.newborn {
            node.newborn = Some(Newborn::new(node.rng.next_u64(), now));
            if node.unheard_voters().is_empty() || planted!(NewbornUnheard) {
                node.come_of_age(now);
            }
        }
        node.check_recovered();
        node.draw_election_deadline(now);
        if node.may_lead() && node.configuration().members() == [node.config.id].into() {
            // Nobody to wait for.
            node.election_deadline = now;
        } else if term == Term::ZERO {
            // No leader to wait for, only the others to start.
            let soon = node.config.election_timeout_min;
            node.election_deadline = now + node.rng.duration_between(Duration::ZERO, soon);
        }
        if planted!(LeaderAfterRestart) && node.vote == Some(node.config.id) {
            node.role = RoleState::Candidate(Candidate {
                pre: false,
                question: Body::Vote { last: node.log.last(), transfer: false },
                began_at: now,
                asked_at: now,
                votes: BTreeMap::new(),
            });
            node.become_leader(now);
        }
        invariants::check(&mut node);
        node
    }

    fn restore_configurations(&mut self) {
        let (from, to) = (self.log.first_index(), self.log.last_index().next());
        for entry in self.log.range(from, to) {
            if entry.kind == EntryKind::Configuration {
                self.configurations.push(entry.index, configuration_of(entry));
            }
        }
    }

    // ---------------------------------------------------------------------------- inputs

    /// A message arrived. One that makes no sense is dropped and counted by reason.
    pub fn step(&mut self, now: Time, message: Message) {
        if let Err(reason) = self.receive(now, message) {
            self.dropped.count(reason);
        }
        invariants::check(self);
    }

    /// Does whatever is due.
    pub fn tick(&mut self, now: Time) {
        self.tick_newborn(now);
        match self.role {
            RoleState::Leader(_) => self.tick_leader(now),
            _ if now >= self.election_deadline => self.election_due(now),
            _ => {}
        }
        invariants::check(self);
    }

    /// When [`Raft::tick`] and [`Raft::flush`] next have something to do, if no input comes before.
    pub fn next_deadline(&self) -> Time {
        match &self.role {
            RoleState::Leader(leader) => leader.next_deadline(&self.log, &self.config),
            _ => self
                .election_deadline
                .min(self.following.reads.retry_at())
                .min(self.newborn_deadline()),
        }
    }

    /// A hint that the connection to a peer closed. If it is the leader: it is no reason any more
    /// to ignore candidates, and a pre-vote starts after a short random delay.
    pub fn peer_disconnected(&mut self, now: Time, peer: NodeId) {
        if self.leader == Some(peer) && !matches!(self.role, RoleState::Leader(_)) {
            self.leader_connection_closed(now);
        }
        invariants::check(self);
    }

    /// A hint that a connection to a peer is open (again): what was on the way before is lost.
    pub fn peer_connected(&mut self, now: Time, peer: NodeId) {
        match &mut self.role {
            RoleState::Leader(leader) => leader.peer_connected(now, peer),
            RoleState::Candidate(_) => self.ask_again(peer),
            RoleState::Follower => {}
        }
        self.newborn_meets(now);
        invariants::check(self);
    }

    // ----------------------------------------------------------------------- persistence

    /// Is there anything that [`Raft::take_persist`] would give?
    pub fn has_unpersisted(&self) -> bool {
        self.persistence.is_dirty(Some(self.log.last_index()))
    }

    /// Everything that became unstable since the last call, as one batch, or `None`.
    pub fn take_persist(&mut self) -> Option<Persist> {
        self.take_persist_within(Some(usize::MAX), usize::MAX)
    }

    /// The same with no more than `room` bytes of entries ([`Entry::size_bytes`]), for a log
    /// without room for more; with `None` the hard state alone, for a log without room for
    /// anything. Beyond its first entry no more than `batch_bytes_max` either. What is left stays
    /// unstable, and what acknowledges it waits.
    pub fn take_persist_within(
        &mut self,
        room: Option<usize>,
        batch_bytes_max: usize,
    ) -> Option<Persist> {
        let Some(room) = room else { return self.take_persist_through(None) };
        let from = self.persistence.unstable_from();
        let (mut count, mut bytes) = (0, 0);
        for entry in self.log.range(from, self.log.last_index().next()) {
            bytes += entry.size_bytes();
            if bytes > room || count > 0 && bytes > batch_bytes_max {
                break;
            }
            count += 1;
        }
        self.take_persist_through(Some(from.prev().plus(count)))
    }

    /// The hard state and, if given, the log through `last`, as far as they are unstable.
    fn take_persist_through(&mut self, last: Option<LogIndex>) -> Option<Persist> {
        if !self.persistence.is_dirty(last) {
            return None;
        }
        let (hard_state, log_reset, from, token) = self.persistence.take(last);
        let to = last.map_or(from, LogIndex::next);
        let entries = self.log.copy(from, to);
        let hard_state = hard_state.then_some(HardState { term: self.term, vote: self.vote });
        Some(Persist { hard_state, log_reset, entries, token })
    }

    /// A batch, and with it all before it, is durable: votes and acknowledgements that waited for
    /// it may leave, and a leader counts itself.
    #[expect(clippy::needless_pass_by_value, reason = "a proof is given once, and used up")]
    pub fn persisted(&mut self, now: Time, done: Persisted) {
        let mut own_vote = None;
        let (id, pending) = (self.config.id, &mut self.pending);
        self.persistence.complete(&done, |message| {
            if message.to == id {
                own_vote = Some(message);
            } else {
                pending.messages.push(message);
            }
        });
        if let Some(message) = own_vote {
            self.count_vote(now, message.from, Answer::Yes);
        }
        self.check_recovered();
        self.advance_commit(now);
        invariants::check(self);
    }

    // --------------------------------------------------------------------------- outputs

    /// Builds what is due and moves everything that may leave into `out`. Called once a turn of
    /// the host, so that many proposals and acknowledgements share a message.
    pub fn flush(&mut self, now: Time, out: &mut Outputs) {
        match self.role {
            RoleState::Leader(_) => self.flush_leader(now),
            _ => self.flush_reads_of_follower(now),
        }
        let (is, why) = ((self.term, self.role(), self.leader), self.why.take());
        if is != self.reported {
            self.reported = is;
            out.role_change = Some(RoleChange { term: is.0, role: is.1, leader: is.2, why });
        }
        out.messages.append(&mut self.pending.messages);
        out.reads.append(&mut self.pending.reads);
        out.snapshot_reads.append(&mut self.pending.snapshot_reads);
        out.snapshot_chunks.append(&mut self.pending.snapshot_chunks);
        invariants::check(self);
    }

    /// The next committed entries, in order (the course's `applyCh`): at least one if there is one,
    /// then while they fit in `bytes_max`. The caller applies them at once: they count as applied.
    pub fn take_committed(&mut self, bytes_max: usize) -> Vec<Entry> {
        if self.applied == self.commit {
            return Vec::new();
        }
        let from = self.applied.next();
        let (count, _) = self.log.fit(from, self.commit, usize::MAX, bytes_max);
        let entries = self.log.copy(from, from.plus(count));
        self.applied = self.applied.plus(entries.len() as u64);
        invariants::check(self);
        entries
    }

    // ---------------------------------------------------------------------- dispatch

    fn receive(&mut self, now: Time, message: Message) -> Result<(), DropReason> {
        if message.to != self.config.id || message.from == self.config.id {
            return Err(DropReason::Misaddressed);
        }
        if !message.is_well_formed(self.config.entry_bytes_max) {
            return Err(DropReason::Malformed);
        }
        match message.body {
            // These compare no terms, and change none but a newborn's.
            Body::Greet { nonce } => {
                self.on_greet(message.from, nonce);
                return Ok(());
            }
            Body::GreetReply { nonce, holds } => {
                return self.on_greet_reply(now, (message.from, message.term), nonce, holds);
            }
            _ if self.is_newborn() => return Err(DropReason::Newborn),
            _ => {}
        }
        self.meet_term(now, &message)?;
        self.dispatch(now, message)
    }

    /// Terms before anything else (paper 5.1): a newer one is adopted, a message of an older one
    /// is answered so that its sender learns, or dropped.
    fn meet_term(&mut self, now: Time, message: &Message) -> Result<(), DropReason> {
        let Message { from, term, ref body, .. } = *message;
        // Pre-votes compare terms themselves and never change any (thesis 9.6).
        if matches!(body, Body::PreVote { .. }) {
            return Ok(());
        }
        if term > self.term {
            let is_unasked = matches!(body, Body::Vote { transfer: false, .. });
            if is_unasked && self.ignores_candidate(now, from) {
                return Err(DropReason::LeaderAlive);
            }
            if let RoleState::Leader(leader) = &self.role {
                let is_asked = leader.transfer.as_ref().is_some_and(|transfer| transfer.to == from);
                let why = if is_asked { Why::HandedOver(from) } else { Why::LaterTerm(from) };
                self.why.get_or_insert(why);
            }
            let leader = body.is_from_leader().then_some(from);
            self.become_follower(now, term, leader);
            return Ok(());
        }
        if term == self.term || matches!(body, Body::PreVoteReply { .. }) {
            return Ok(());
        }
        if planted!(StaleLeaderObeyed) && body.is_from_leader() {
            return Ok(());
        }
        if planted!(StaleTermSilent) {
            return Err(DropReason::StaleTerm);
        }
        // The sender is behind. Without an answer a deposed leader, or a cluster whose only
        // electable node is this one, would never learn of our term.
        if body.is_from_leader() {
            self.send_term(from);
        } else if matches!(body, Body::Vote { .. }) {
            self.send(from, Body::VoteReply { granted: false });
        }
        Err(DropReason::StaleTerm)
    }

    fn dispatch(&mut self, now: Time, message: Message) -> Result<(), DropReason> {
        let Message { from, term, body, .. } = message;
        if body.is_from_leader() {
            self.hear_leader(now, from)?;
        }
        match body {
            Body::PreVote { last } => {
                self.on_pre_vote(now, from, term, last);
                Ok(())
            }
            Body::PreVoteReply { asked, answer } => {
                self.on_pre_vote_reply(now, from, asked, answer)
            }
            Body::Vote { last, .. } => {
                self.on_vote(now, from, last);
                Ok(())
            }
            Body::VoteReply { granted } => self.on_vote_reply(now, from, granted),
            Body::Append { sequence, previous, commit, entries } => {
                self.on_append(from, sequence, previous, commit, entries)
            }
            Body::Heartbeat { sequence, commit, matched, read } => {
                self.on_heartbeat(from, sequence, commit, matched, read);
                Ok(())
            }
            Body::InstallSnapshot { sequence, meta, offset, data } => {
                self.on_install_snapshot(from, sequence, meta, offset, data);
                Ok(())
            }
            Body::SnapshotHeld { sequence, id, maker, meta } => {
                self.on_snapshot_held(now, from, sequence, id, maker, meta)
            }
            Body::TimeoutNow => self.on_timeout_now(now, from),
            Body::ReadIndex { nonce, sequence } => self.on_read_index(from, nonce, sequence),
            Body::ReadIndexReply { nonce, sequence, index, last } => {
                self.on_read_index_reply(from, nonce, sequence, index, last)
            }
            Body::AppendReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::InstallSnapshotReply { .. } => self.on_reply(now, from, &body),
            Body::Greet { .. } | Body::GreetReply { .. } => {
                unreachable!("answered before terms are met")
            }
        }
    }

    // ---------------------------------------------------------------- shared by all roles

    /// Follows `leader`, or nobody, in `term`. The vote stays if the term does (paper 5.2: one
    /// vote a term).
    pub(crate) fn become_follower(&mut self, now: Time, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "term {term} is before {}", self.term);
        if term > self.term {
            self.enter_term(term, None);
        } else if planted!(VoteClearedInTerm) {
            self.vote = None;
        }
        self.void_reads();
        self.role = RoleState::Follower;
        self.leader = leader;
        self.draw_election_deadline(now);
    }

    /// A new term: nothing that was said, asked or verified in the old one counts in it.
    pub(crate) fn enter_term(&mut self, term: Term, vote: Option<NodeId>) {
        assert!(term > self.term, "term {term} does not follow {}", self.term);
        self.term = term;
        self.vote = vote;
        self.leader = None;
        if vote.is_some() || !planted!(TermNotWritten) {
            self.persistence.hard_state_changed();
        }
        self.persistence.forget_waiting();
        self.following.enter_term(self.commit);
        if self.is_recovering() {
            // What the leader before named may have been lost with it.
            self.following.reads.want_last();
        }
    }

    /// Sends, once the term that the message reveals is durable.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        self.post(to, body, None);
    }

    /// Sends, once the log is durable through `index` too.
    pub(crate) fn send_after(&mut self, to: NodeId, body: Body, index: LogIndex) {
        self.post(to, body, Some(index));
    }

    fn post(&mut self, to: NodeId, body: Body, index: Option<LogIndex>) {
        let is_meeting = matches!(body, Body::Greet { .. } | Body::GreetReply { .. });
        assert!(!self.is_newborn() || is_meeting, "a node without a past says {body}");
        let message = Message { from: self.config.id, to, term: self.term, body };
        let held = self.persistence.after(message, index);
        if let Some(message) = self.persistence.open_or_hold(held) {
            assert!(message.to != self.config.id, "a vote for oneself waits for the disk");
            self.pending.messages.push(message);
        }
    }

    /// Commits through `index`. What is committed is never changed.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "commit {index} behind {}", self.log.last_index());
        self.commit = self.commit.max(index);
    }

    /// Ends the non-voting state once the log is whole again.
    pub(crate) fn check_recovered(&mut self) {
        let whole = self.following.verified.min(self.persistence.durable_index());
        if self.non_voting_until.is_some_and(|until| whole >= until) {
            self.non_voting_until = None;
        }
    }

    // -------------------------------------------------------------------------- getters

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Its part in the current term.
    pub fn role(&self) -> Role {
        match &self.role {
            RoleState::Follower => Role::Follower,
            RoleState::Candidate(candidate) if candidate.pre => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// Does it lead? (It may not know that it was deposed: confirm with a read index.)
    pub fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    /// Does it lead, with no transfer of leadership under way?
    pub fn accepts_proposals(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if leader.transfer.is_none())
    }

    /// Would a proposal of this many bytes be taken now?
    pub fn has_room_for(&self, data_bytes: usize) -> bool {
        self.accepts_proposals() && self.fits_uncommitted(data_bytes)
    }

    /// Bytes of own proposals that are not committed, or not durable here; 0 unless this node
    /// leads.
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.role {
            RoleState::Leader(leader) => leader.uncommitted_bytes,
            _ => 0,
        }
    }

    /// One proposal is taken whatever its size, more only within the limit.
    pub(crate) fn fits_uncommitted(&self, data_bytes: usize) -> bool {
        let bytes = self.uncommitted_bytes();
        let more = Entry::OVERHEAD_BYTES + data_bytes;
        bytes == 0 || bytes + more <= self.config.uncommitted_bytes_max
    }

    /// Set while this node neither votes nor counts: [`crate::Status::non_voting_until`].
    pub fn non_voting_until(&self) -> Option<LogIndex> {
        self.non_voting_until
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The vote in the current term.
    pub fn vote(&self) -> Option<NodeId> {
        self.vote
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Highest index known to be committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Highest index that [`Raft::take_committed`] handed out or a snapshot covers.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// First index in the log.
    pub fn first_index(&self) -> LogIndex {
        self.log.first_index()
    }

    /// Last index in the log, or the point it starts after.
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// Through here the log is durable on this node.
    pub fn durable_index(&self) -> LogIndex {
        self.persistence.durable_index()
    }

    /// Through here the log was handed out to be made durable ([`Raft::take_persist`]).
    pub fn handed_out_through(&self) -> LogIndex {
        self.persistence.unstable_from().prev()
    }

    /// Bytes of the entries after `index` in the log in memory.
    pub fn log_bytes_after(&self, index: LogIndex) -> usize {
        self.log.bytes_from(index.next())
    }

    /// Bytes of entries in the log in memory (what the course's `maxraftstate` bounds).
    pub fn live_log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// The term of an entry, or of the point the log starts after; `None` if not known.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The entries `from..to_exclusive`, as far as they are in the log.
    pub fn entries(&self, from: LogIndex, to_exclusive: LogIndex) -> Vec<Entry> {
        let end = self.log.last_index().next();
        let from = from.clamp(self.log.first_index(), end);
        let to = to_exclusive.clamp(from, end);
        self.log.copy(from, to)
    }

    /// The configuration in force: the latest in the log, committed or not (thesis 4.1).
    pub fn configuration(&self) -> &Configuration {
        self.configurations.latest()
    }

    /// The configuration in force at an index that is not before `first_index - 1`: what a
    /// snapshot at that index must hold.
    pub fn configuration_at(&self, index: LogIndex) -> &Configuration {
        self.configurations.at(index)
    }

    /// The latest durable snapshot.
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// How this node was told to take part.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// The configuration in an entry. It was checked when the entry arrived or was stored.
pub(crate) fn configuration_of(entry: &Entry) -> Configuration {
    let mut reader = sampan_base::codec::Reader::new(&entry.data);
    Configuration::decode(&mut reader)
        .unwrap_or_else(|fault| panic!("entry {} holds no configuration: {fault}", entry.index))
}

/// The log as it follows the snapshot, and whether the stored one must be replaced: it ends before
/// the snapshot, or contradicts it, when a crash came between an install and the write that
/// replaces the log.
fn restore_log(start: LogPosition, stored: LogPosition, entries: Vec<Entry>) -> (Log, bool) {
    let mut log = Log::starting_after(start);
    let Some((first, last)) = entries.first().zip(entries.last()) else {
        return (log, stored != start);
    };
    assert!(
        first.index <= start.index.next(),
        "the stored log starts at {}, behind the snapshot at {}",
        first.index,
        start.index
    );
    let covers = entries.iter().find(|entry| entry.index == start.index);
    let contradicts = covers.is_some_and(|entry| entry.term != start.term);
    if last.index < start.index || contradicts {
        return (log, true);
    }
    for entry in entries.into_iter().filter(|entry| entry.index > start.index) {
        log.append(entry);
    }
    (log, false)
}

#[cfg(test)]
#[path = "node_tests.rs"]
pub(crate) mod tests;
