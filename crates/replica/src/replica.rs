//! The replica: where consensus, storage, state machine and requests meet.
//!
//! Top-down: what it is, how it starts, what comes in ([`Replica::step`]), what goes out
//! ([`Replica::flush`]). Requests are in `requests.rs`, snapshots in `snapshots.rs`, applying in
//! `apply.rs`.

use std::collections::BTreeMap;

use sampan_base::disk::{Disk, DiskError};
use sampan_base::{Configuration, LogIndex, NodeId, Rng, Term, Time, planted};
use sampan_kv::Kv;
use sampan_raft::{PersistToken, Raft, Refused, Restored};
use sampan_storage::{Identity, Storage};

use crate::backups::Backups;
use crate::catching_up::CatchingUp;
use crate::compaction::Compaction;
use crate::disk_health::DiskHealth;
use crate::forwards::{FORWARD_FRAME_BYTES_MAX, ForwardWindow, ForwardsOut};
use crate::input::{ConnectionId, Input, Now};
use crate::job::{DiskDone, DiskJob};
use crate::lines::{Home, Lines, Origin};
use crate::opening::{self, OpenError, OpenReport};
use crate::options::Options;
use crate::output::{ClientReply, Envelope, Event, Fatal, Outputs, Stream};
use crate::pace::Pace;
use crate::reads::Reads;
use crate::restoring::Restoring;
use crate::snapshots::Snapshots;
use crate::status::Status;
use crate::wire::{
    FORWARD_REQUESTS_MAX, ForwardOutcome, ForwardReply, PeerMessage, SnapshotDamaged,
    SnapshotMissing, SnapshotPart,
};
use crate::writes::Writes;

/// After this long without a write, the disk is told how far its log is durable
/// (`docs/format.md`, the watermark): off the commit path, and never twice for one write.
const WATERMARK_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// Memory of a large state that is gone is freed a piece in each of these, and with each turn.
const GARBAGE_INTERVAL: std::time::Duration = std::time::Duration::from_millis(1);
/// A client has the leader for itself after so many requests of which none was another's.
const ALONE_AFTER_REQUESTS: u32 = 64;

/// Figures that only count up.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub(crate) syncs: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) forwarded: u64,
    pub(crate) forwards_dropped: u64,
    pub(crate) forwards_refused: u64,
    pub(crate) duplicates: u64,
    pub(crate) read_retries: u64,
}

/// One node of a cluster.
pub struct Replica {
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    pub(crate) now: Now,
    pub(crate) rng: Rng,
    pub(crate) raft: Raft,
    pub(crate) storage: Storage,
    pub(crate) kv: Kv,
    /// The last entry the state machine has applied. Invariant: equals `raft.applied()` between
    /// turns.
    pub(crate) applied: sampan_base::LogPosition,
    /// The group commit that is on its way to the disk.
    persisting: Option<PersistToken>,
    /// When the watermark is to be refreshed; unset while it is up to date.
    watermark_at: Option<Time>,
    pub(crate) disk: DiskHealth,
    /// Until where the disk says that this node does not vote; it follows what consensus says.
    non_voting_until: Option<LogIndex>,
    /// The state machine has memory to free, little by little.
    has_garbage: bool,
    /// The disk says that this node has heard from nobody yet; cleared as above.
    newborn: bool,
    pub(crate) lines: Lines,
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
    pub(crate) forwards: ForwardsOut,
    pub(crate) forward_windows: BTreeMap<NodeId, ForwardWindow>,
    /// Answers to other nodes' forwards, by node and life.
    pub(crate) outcomes: BTreeMap<(NodeId, u64), Vec<ForwardOutcome>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) compaction: Compaction,
    pub(crate) backups: Backups,
    pub(crate) pace: Pace,
    pub(crate) catching_up: CatchingUp,
    /// Lines that may have something to start.
    pub(crate) to_pump: Vec<Origin>,
    /// The same, once this turn's frame for the leader is gone.
    pub(crate) to_pump_next_turn: Vec<Origin>,
    /// Requests are held until consensus takes proposals and has less than this uncommitted; zero
    /// if none are.
    pub(crate) held_for_log: usize,
    /// The last term this node led in this life.
    pub(crate) led_term: Option<Term>,
    /// The last term whose leader refused a command: it leads no more, and nobody will in that term.
    pub(crate) abdicated_term: Option<Term>,
    leading: bool,
    /// Since when no leader is known.
    pub(crate) leaderless_since: Option<Time>,
    /// Since when the term is what it is.
    pub(crate) term_since: Time,
    /// The term that `term_since` is of.
    pub(crate) term: Term,
    leader: Option<NodeId>,
    pub(crate) sweep_at: Time,
    pub(crate) last_clock_entry: Time,
    shutdown_by: Option<Time>,
    /// A node that led goes on until then, though asked to stop: what followers sent before they
    /// knew of the next leader must be refused, not lost.
    refusing_until: Time,
    pub(crate) replies: Vec<ClientReply>,
    pub(crate) jobs: Vec<DiskJob>,
    pub(crate) messages: Vec<Envelope>,
    pub(crate) events: Vec<Event>,
    fatal: Option<Fatal>,
    /// Damaged batches of the log that were repaired before this start.
    pub(crate) batches_repaired: usize,
    raft_outputs: sampan_raft::Outputs,
    pub(crate) counters: Counters,
}

impl Replica {
    /// Starts a node from its files: the newest snapshot that verifies, and the log after it.
    ///
    /// `bootstrap` is the configuration of a cluster whose log and snapshots name none yet; `seed`
    /// decides election jitter and hash seeds.
    pub fn open(
        disk: &mut dyn Disk,
        identity: Identity,
        options: Options,
        bootstrap: Configuration,
        seed: u64,
        now: Now,
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut rng = Rng::seeded(seed);
        let mut restoring = Restoring::new(&options);
        let (storage, recovered) =
            opening::open_storage(disk, identity, &options, &bootstrap, &mut restoring)?;
        let kv = restoring.finish(&recovered, rng.next_u64())?;
        let snapshot = recovered.snapshot.as_ref().map(|snapshot| snapshot.meta.clone());
        let mut report = OpenReport::of(&recovered, kv.stats().keys);
        let applied = snapshot.as_ref().map(|meta| meta.position).unwrap_or_default();
        // One that lost its disk counts from one again.
        let chance = rng.next_u64() >> 32;
        let life = recovered.incarnation << 32 | chance;
        let life = if planted!(LifeNotNumbered) { 1 } else { life };
        let non_voting_until = recovered.non_voting_until;
        let snapshots = Snapshots::new(recovered.partial_snapshot, now);
        let restored = Restored {
            hard_state: recovered.hard_state,
            snapshot,
            bootstrap,
            entries: recovered.entries,
            // A log that does not join the snapshot storage has begun anew behind it.
            log_start: applied,
            non_voting_until: recovered.non_voting_until,
            newborn: recovered.newborn,
        };
        let raft = Raft::new(options.raft.clone(), restored, rng.next_u64(), now.mono);
        report.unheard_voters = raft.unheard_voters().into_iter().collect();
        let replica = Self {
            identity,
            now,
            rng,
            term: raft.term(),
            raft,
            storage,
            kv,
            applied,
            persisting: None,
            watermark_at: Some(now.mono + WATERMARK_AFTER),
            disk: DiskHealth::new(now.mono),
            non_voting_until,
            has_garbage: false,
            newborn: recovered.newborn,
            lines: Lines::default(),
            writes: Writes::new(),
            reads: Reads::default(),
            forwards: ForwardsOut::new(life),
            forward_windows: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            snapshots,
            compaction: Compaction::new(now),
            backups: Backups::default(),
            pace: Pace::new(now.mono),
            catching_up: CatchingUp::default(),
            to_pump: Vec::new(),
            to_pump_next_turn: Vec::new(),
            held_for_log: 0,
            led_term: None,
            abdicated_term: None,
            leading: false,
            leaderless_since: Some(now.mono),
            term_since: now.mono,
            leader: None,
            sweep_at: now.mono,
            last_clock_entry: now.mono,
            shutdown_by: None,
            refusing_until: now.mono,
            replies: Vec::new(),
            jobs: Vec::new(),
            messages: Vec::new(),
            events: Vec::new(),
            fatal: None,
            batches_repaired: 0,
            raft_outputs: sampan_raft::Outputs::default(),
            counters: Counters::default(),
            options,
        };
        Ok((replica, report))
    }

    /// Takes one input. Nothing leaves before the next [`Replica::flush`].
    pub fn step(&mut self, now: Now, input: Input) {
        self.advance(now);
        let mono = now.mono;
        match input {
            Input::Tick => {}
            Input::Client { connection, requests } => self.on_client(connection, requests),
            Input::ConnectionClosed(connection) => self.on_connection_closed(connection),
            Input::Peer { from, message } => self.on_peer(from, message),
            Input::PeerConnected(peer) => self.raft.peer_connected(mono, peer),
            Input::PeerDisconnected(peer) => {
                self.raft.peer_disconnected(mono, peer);
                self.on_forwards_cut(peer);
            }
            Input::Disk(done) => self.on_disk(done),
            Input::Shutdown => self.on_shutdown(),
            Input::TransferLeadership(to) => {
                let refused = self.raft.transfer_leadership(mono, to).err();
                self.report_refusal(refused);
            }
            Input::ChangeConfiguration(target) => {
                let refused = self.raft.propose_configuration(mono, target).err();
                self.report_refusal(refused);
            }
            Input::TakeSnapshot => self.snapshots.wanted = self.is_ahead_of_snapshots(),
            Input::Backup { connection, seq } => self.on_backup(connection, seq),
        }
    }

    /// Does all that has become possible, and hands out what is to be done outside.
    ///
    /// A read that is served may let a write of its connection start, and a proposal of a single
    /// node may commit at once: hence the loop, which ends when a pass starts nothing.
    pub fn flush(&mut self, now: Now, out: &mut Outputs) {
        self.advance(now);
        self.raft.tick(now.mono);
        self.expire_requests();
        self.ask_for_backup_indices();
        let shutdown_complete = self.drive_shutdown();
        if self.clock_entry_at() <= self.now.mono {
            self.writes.want_clock();
            // Also if it is refused: the next try is an interval away.
            self.last_clock_entry = self.now.mono;
        }
        self.allow_catch_up();
        loop {
            self.observe_leadership();
            self.pump_marked();
            self.propose_open_batch();
            self.start_read_round();
            self.collect_from_raft();
            self.apply_committed();
            if self.to_pump.is_empty() && !self.writes.is_ready() && !self.has_reads_to_start() {
                break;
            }
        }
        self.charge_catch_up();
        self.persist();
        self.maintain_storage();
        self.serve_backups();
        self.drive_snapshots();
        self.observe_disk();
        self.has_garbage = self.raft.free_trimmed() | self.kv.maintain();
        self.send_outcomes();
        self.hand_out(out);
        out.shutdown_complete = shutdown_complete;
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Time {
        // The rest of a long backlog, or of what did not fit a frame: in the next turn.
        if self.raft.applied() < self.raft.commit() || !self.to_pump.is_empty() {
            return self.now.mono;
        }
        // The watermark waits for the group commit that is on its way.
        let watermark = self.watermark_at.filter(|_| self.persisting.is_none());
        let refusing = self.refusing_until > self.now.mono;
        let stop = self.shutdown_by.map(|by| if refusing { self.refusing_until } else { by });
        self.raft
            .next_deadline()
            .min(self.requests_deadline())
            .min(self.clock_entry_at())
            .min(watermark.unwrap_or(Time::NEVER))
            .min(self.disk_deadline())
            .min(if self.has_garbage { self.now.mono + GARBAGE_INTERVAL } else { Time::NEVER })
            .min(stop.unwrap_or(Time::NEVER))
            .min(self.backups_deadline())
            .min(self.snapshots_deadline())
    }

    /// Is so much under way that the host should stop reading from clients?
    pub fn is_congested(&self) -> bool {
        let held_bytes = self.lines.waiting_bytes() + self.forwards.under_way_bytes();
        self.requests_under_way() >= self.options.requests_under_way_max
            || held_bytes >= self.options.requests_held_bytes_max
    }

    /// Does nobody need this node before its disk is done? Then a host may let it wait for that. So it
    /// is with a follower of which nobody of its own waits for an answer, and with a leader that has
    /// long had one client alone, which has sent one command and waits.
    pub fn may_wait_for_disk(&self) -> bool {
        match self.requests_under_way() {
            0 => !self.raft.is_leader() && self.raft.leader().is_some(),
            1 => self.raft.is_leader() && self.lines.in_a_row() >= ALONE_AFTER_REQUESTS,
            _ => false,
        }
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// The leader, if this node knows one.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.leader().filter(|_| self.abdicated_term != Some(self.raft.term()))
    }

    /// Does this node lead?
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// The consensus core, for oracles and tests.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The state machine, for oracles and tests.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// A picture of the node.
    pub fn status(&self) -> Status {
        Status {
            cluster: self.identity.cluster,
            raft: self.raft.status(),
            kv: self.kv.stats(),
            applied: self.applied.index,
            log_bytes_live: self.storage.log_bytes_live(),
            log_bytes_on_disk: self.storage.log_bytes_on_disk(),
            snapshot: self.newest_snapshot(),
            snapshot_in_progress: self.snapshots.is_taking(),
            snapshot_pauses: self.snapshots.pauses,
            background_bytes_per_second: self.background_bytes_per_second(),
            syncs: self.counters.syncs,
            writes: self.counters.writes,
            reads: self.counters.reads,
            forwarded: self.counters.forwarded,
            requests_under_way: self.requests_under_way(),
            reserve_bytes: self.storage.reserve_bytes(),
            log_bytes_max: self.log_bytes_max(),
            batches_repaired: self.batches_repaired,
        }
    }

    fn advance(&mut self, now: Now) {
        // A host's clock may be read by several threads; time here never runs backwards.
        self.now = Now { mono: self.now.mono.max(now.mono), wall: now.wall };
    }

    fn on_connection_closed(&mut self, connection: ConnectionId) {
        self.lines.close(Origin { home: Home::Here, connection });
        self.forget_backups(connection);
    }

    fn on_peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.raft.step(self.now.mono, message),
            PeerMessage::Forward(forward) => self.on_forward(from, forward),
            PeerMessage::ForwardReply(reply) => self.on_forward_reply(reply),
            PeerMessage::SnapshotWanted(wanted) => self.lend_snapshot(from, &wanted),
            PeerMessage::SnapshotPart(SnapshotPart { id, offset, data }) => {
                self.on_snapshot_part(id, offset, data);
            }
            PeerMessage::SnapshotMissing(SnapshotMissing { to, id }) => {
                self.raft.snapshot_unreadable(self.now.mono, to, id);
            }
            PeerMessage::SnapshotDamaged(SnapshotDamaged { id }) => self.doubt_snapshot(id),
            PeerMessage::Wanted(wanted) => {
                let held = self.raft.entries(wanted.first, wanted.through_max().next());
                let message = PeerMessage::Held(wanted.answer(held.into_iter()));
                self.messages.push(Envelope { to: from, stream: Stream::Bulk, message });
            }
            // Of an earlier life, in which this node asked.
            PeerMessage::Held(_) => {}
        }
    }

    fn on_disk(&mut self, done: DiskDone) {
        match done {
            DiskDone::Append(Ok(())) => {
                let token = self.persisting.take().expect("one group commit at a time");
                self.counters.syncs += 1;
                self.group_commit_ended();
                self.storage.append_synced();
                self.raft.persisted(self.now.mono, token.synced());
            }
            DiskDone::Append(Err(error)) | DiskDone::LogControl(Err(error)) => {
                self.stop(Fatal::Disk(error.to_string()));
            }
            DiskDone::LogControl(Ok(())) => {}
            DiskDone::Maintain(result) => {
                if let Err(error) = &result
                    && !matches!(error, DiskError::NoSpace(_))
                {
                    return self.stop(Fatal::Disk(error.to_string()));
                }
                let no_space = result.is_err();
                self.storage.maintained(result);
                self.maintenance_ended(no_space);
            }
            DiskDone::SnapshotWrite(_)
            | DiskDone::SnapshotVerify(_)
            | DiskDone::SnapshotCommit(_)
            | DiskDone::SnapshotOpen(_)
            | DiskDone::SnapshotLoad { .. }
            | DiskDone::SnapshotSend { .. } => self.on_snapshot_job(done),
        }
    }

    fn report_refusal(&mut self, refused: Option<Refused>) {
        self.events.extend(refused.map(|refused| Event::Refused(refused.to_string())));
    }

    fn on_shutdown(&mut self) {
        let by = self.now.mono + self.options.shutdown_wait;
        self.shutdown_by.get_or_insert(by);
        self.fail_backups("this node is stopping");
    }

    /// A node that is to stop hands leadership over, again if the first try came to nothing, and is
    /// done when it does not lead (or nobody else could) and owes no answer.
    fn drive_shutdown(&mut self) -> bool {
        let Some(by) = self.shutdown_by else { return false };
        let now = self.now.mono;
        // `leading` is of the last turn: this may be the very one in which leadership ended.
        let mut leads = self.raft.is_leader() || self.leading || now < self.refusing_until;
        if self.raft.accepts_proposals() {
            let handed_over = self.raft.transfer_leadership(now, None);
            leads = !matches!(handed_over, Err(Refused::Invalid(_)));
        }
        if now >= by {
            self.end_all_requests();
        }
        !leads && self.requests_under_way() == 0 || now >= by
    }

    /// Notes changes of term, role and leader, and lets what waited for one start.
    fn observe_leadership(&mut self) {
        if self.raft.term() != self.term {
            self.term = self.raft.term();
            self.term_since = self.now.mono;
        }
        let leading = self.raft.is_leader();
        if leading {
            self.led_term = Some(self.term);
        }
        let lost = self.leading && !leading;
        let leader = self.leader();
        let changed = self.leader != leader || self.leading != leading;
        self.leading = leading;
        self.leader = leader;
        if lost {
            self.refusing_until = self.now.mono + self.options.raft.heartbeat_interval * 2;
            self.on_leadership_lost();
        }
        self.leaderless_since = match (self.leader, self.leaderless_since) {
            (Some(_), _) => None,
            (None, since) => since.or(Some(self.now.mono)),
        };
        if changed {
            let term = self.term;
            self.give_up_forwards(|forwarded| forwarded.term < term && forwarded.is_repeatable());
            self.pump_all();
        }
    }

    fn pump_marked(&mut self) {
        let has_drained = self.raft.uncommitted_bytes() < self.held_for_log;
        let accepts = self.raft.accepts_proposals() && !self.holds_writes();
        if self.held_for_log > 0 && has_drained && accepts {
            self.held_for_log = 0;
            self.pump_all();
        }
        for origin in std::mem::take(&mut self.to_pump) {
            self.pump(origin);
        }
    }

    fn has_reads_to_start(&self) -> bool {
        !self.reads.next.is_empty() && self.reads.rounds.len() < crate::reads::READ_ROUNDS_MAX
    }

    /// Collects messages, read indices and snapshot traffic from consensus.
    fn collect_from_raft(&mut self) {
        let mut outputs = std::mem::take(&mut self.raft_outputs);
        self.raft.flush(self.now.mono, &mut outputs);
        for message in outputs.messages.drain(..) {
            let bulk = matches!(message.body, sampan_raft::Body::InstallSnapshot { .. });
            let stream = if bulk { Stream::Bulk } else { Stream::Main };
            let to = message.to;
            self.messages.push(Envelope { to, stream, message: PeerMessage::Raft(message) });
        }
        for outcome in outputs.reads.drain(..) {
            self.on_backup_index(&outcome);
            // A round given up before its answer came finds nothing.
            let readings = self.reads.take_through(outcome.id);
            match outcome.result {
                Ok(index) => self.confirm_reads(readings, index),
                Err(_) => self.void_reads_and_pump(readings),
            }
        }
        for wanted in outputs.snapshot_reads.drain(..) {
            self.on_snapshot_wanted(wanted);
        }
        for chunk in outputs.snapshot_chunks.drain(..) {
            self.on_snapshot_chunk(chunk);
        }
        if let Some(change) = outputs.role_change.take() {
            self.events.push(Event::Role {
                term: change.term,
                role: change.role,
                leader: change.leader,
            });
        }
        self.raft_outputs = outputs;
        self.observe_leadership();
    }

    /// Sends what consensus wants durable to the disk, as one batch, if the disk is idle: all that
    /// gathers meanwhile shares the next sync.
    fn persist(&mut self) {
        if self.persisting.is_some() {
            return;
        }
        let (room, most) = (self.persist_room_bytes(), self.options.group_commit_bytes_max);
        if let Some(persist) = self.raft.take_persist_within(room, most) {
            let ops = self.storage.append(persist.hard_state, persist.log_reset, &persist.entries);
            self.persisting = Some(persist.token);
            self.disk.persisting_since = self.now.mono;
            self.jobs.push(DiskJob::Append(ops));
            self.watermark_at = Some(self.now.mono + WATERMARK_AFTER);
        } else if self.watermark_at.is_some_and(|at| at <= self.now.mono) {
            self.refresh_watermark();
        }
        self.persist_standing();
    }

    /// Whether this node votes, if that has changed since the disk was told. After the term that goes with
    /// it: a node with a past takes its term for all it has promised, one without asks the others again.
    fn persist_standing(&mut self) {
        let grown_up = self.newborn && !self.raft.is_newborn();
        let until = self.raft.non_voting_until();
        // What is written also says that the node has a past: not before it has.
        let changed = self.non_voting_until != until && (grown_up || !self.newborn);
        if grown_up || changed {
            self.newborn &= !grown_up;
            self.non_voting_until = until;
            self.jobs.push(DiskJob::LogControl(self.storage.set_non_voting(until)));
            self.events.extend(changed.then_some(Event::NonVoting(until)));
        }
    }

    fn refresh_watermark(&mut self) {
        self.watermark_at = None;
        let ops = self.storage.refresh_watermark();
        if !ops.is_empty() {
            self.jobs.push(DiskJob::LogControl(ops));
        }
    }

    /// Is a group commit on its way to the disk?
    pub(crate) const fn is_persisting(&self) -> bool {
        self.persisting.is_some()
    }

    fn send_outcomes(&mut self) {
        for ((node, incarnation), mut outcomes) in std::mem::take(&mut self.outcomes) {
            while !outcomes.is_empty() {
                let rest = outcomes.split_off(outcomes.len().min(outcomes_per_frame(&outcomes)));
                let reply = ForwardReply { incarnation, outcomes };
                let message = PeerMessage::ForwardReply(reply);
                self.messages.push(Envelope { to: node, stream: Stream::Main, message });
                outcomes = rest;
            }
        }
        if let Some((to, forward)) = self.forwards.take_frame() {
            let message = PeerMessage::Forward(forward);
            self.messages.push(Envelope { to, stream: Stream::Main, message });
        }
        self.to_pump.append(&mut self.to_pump_next_turn);
    }

    fn hand_out(&mut self, out: &mut Outputs) {
        if let Some(fatal) = &self.fatal {
            // Nothing may leave a node whose disk or state is broken.
            *out = Outputs { fatal: Some(fatal.clone()), ..Outputs::default() };
            return;
        }
        out.jobs.append(&mut self.jobs);
        out.messages.append(&mut self.messages);
        out.replies.append(&mut self.replies);
        out.backups.append(&mut self.backups.ready);
        out.events.append(&mut self.events);
    }

    pub(crate) fn stop(&mut self, fatal: Fatal) {
        self.fatal.get_or_insert(fatal);
    }
}

/// How many of these outcomes fit one frame: at least one.
fn outcomes_per_frame(outcomes: &[ForwardOutcome]) -> usize {
    let mut bytes = 0;
    let fitting = outcomes.iter().take(FORWARD_REQUESTS_MAX).take_while(|outcome| {
        bytes += outcome.size_bytes();
        bytes <= FORWARD_FRAME_BYTES_MAX
    });
    fitting.count().max(1)
}
