//! The replica: where consensus, storage, state machine and requests meet.
//!
//! Top-down: what it is, how it starts, what comes in ([`Replica::step`]), what goes out
//! ([`Replica::flush`]). Requests are in `requests.rs`, group commits in `persisting.rs`, applying
//! in `apply.rs`, snapshots in `snapshots.rs`, who leads in `leadership.rs`.

use std::collections::{BTreeMap, VecDeque};

use sampan_base::disk::{Disk, DiskError};
use sampan_base::{Configuration, NodeId, Rng, Time, planted};
use sampan_kv::Kv;
use sampan_raft::{Config, Raft, Refused, Restored};
use sampan_storage::{Identity, Storage};

use crate::backups::Backups;
use crate::catching_up::CatchingUp;
use crate::compaction::Compaction;
use crate::disk_health::DiskHealth;
use crate::forwards::{self, FORWARD_FRAME_BYTES_MAX, ForwardWindow, ForwardsOut};
use crate::input::{ConnectionId, Input, Now};
use crate::job::DiskDone;
use crate::leadership::Leadership;
use crate::lines::{Home, Lines, Origin};
use crate::log_clock::LogClock;
use crate::opening::{self, OpenError, OpenReport};
use crate::options::Options;
use crate::output::{Envelope, Event, Fatal, Outputs, Stream};
use crate::pace::Pace;
use crate::persisting::Persisting;
use crate::reads::Reads;
use crate::restoring::Restoring;
use crate::snapshots::Snapshots;
use crate::status::Status;
use crate::wire::{
    FORWARD_REQUESTS_MAX, ForwardOutcome, ForwardReply, PeerMessage, SnapshotDamaged,
    SnapshotMissing, SnapshotPart,
};
use crate::writes::Writes;

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
    pub(crate) persisting: Persisting,
    pub(crate) disk: DiskHealth,
    pub(crate) leadership: Leadership,
    /// The state machine has memory to free, little by little.
    has_garbage: bool,
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
    /// Lines whose next command copies a long value, while enough of these are under way
    /// (`copying.rs`).
    pub(crate) held_to_copy: VecDeque<Origin>,
    pub(crate) sweep_at: Time,
    pub(crate) log_clock: LogClock,
    pub(crate) last_clock_entry: Time,
    /// What is to be done outside.
    pub(crate) out: Outputs,
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
        let life = forwards::life(recovered.incarnation, rng.next_u64() >> 32);
        let life = if planted!(LifeNotNumbered) { 1 } else { life };
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
        let entry_bytes_max = options.storage.entry_bytes_max;
        let config = Config { entry_bytes_max, ..options.raft.clone() };
        let raft = Raft::new(config, restored, rng.next_u64(), now.mono);
        report.unheard_voters = raft.unheard_voters().into_iter().collect();
        let leadership = Leadership::new(raft.term(), now.mono);
        let log_clock = LogClock::new(now.mono, kv.time());
        let replica = Self {
            identity,
            now,
            rng,
            raft,
            storage,
            kv,
            applied,
            persisting: Persisting::new(recovered.non_voting_until, recovered.newborn, now.mono),
            disk: DiskHealth::new(now.mono),
            leadership,
            has_garbage: false,
            lines: Lines::default(),
            writes: Writes::new(options.apply_bytes_max),
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
            held_to_copy: VecDeque::new(),
            sweep_at: now.mono,
            log_clock,
            last_clock_entry: now.mono,
            out: Outputs::default(),
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
            Input::RepliesHeld(connection) => self.reads.hold(connection),
            Input::RepliesWanted(connection) => self.on_replies_wanted(connection),
            Input::Peer { from, message } => self.on_peer(from, message),
            Input::PeerConnected(peer) => {
                self.leadership.unreachable.remove(&peer);
                self.raft.peer_connected(mono, peer);
                if self.forwards.held_for == Some(peer) {
                    self.release_forwards();
                }
            }
            Input::PeerDisconnected(peer) => {
                self.raft.peer_disconnected(mono, peer);
                self.on_forwards_cut(peer);
            }
            Input::PeerUnreachable(peer) => {
                self.leadership.unreachable.insert(peer);
                if self.raft.leader() == Some(peer) {
                    self.ask_anew();
                }
            }
            Input::ForwardNotSent { to, frame_seq } => self.on_forward_not_sent(to, frame_seq),
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
            Input::TakeSnapshot => self.want_snapshot(),
            Input::Backup { connection, seq } => self.on_backup(connection, seq),
            Input::BackupDamaged { connection, seq, snapshot } => {
                self.on_backup_damaged(connection, seq, snapshot);
            }
        }
    }

    /// Does all that has become possible, and hands out what is to be done outside.
    ///
    /// A read that is served may let a write of its connection start, and a proposal of a single
    /// node may commit at once: hence the loop, which ends when a pass starts nothing.
    pub fn flush(&mut self, now: Now, out: &mut Outputs) {
        self.advance(now);
        self.log_clock.learn(now.mono, self.kv.time());
        self.raft.tick(now.mono);
        self.reads.begin_turn(self.options.reply_bytes_per_turn);
        self.expire_requests();
        self.ask_for_backup_indices();
        self.out.shutdown_complete = self.drive_shutdown();
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
        assert!(
            self.out.fatal.is_some() || self.applied.index == self.raft.applied(),
            "what was taken is applied"
        );
        self.charge_catch_up();
        self.persist();
        self.maintain_storage();
        self.serve_backups();
        self.drive_snapshots();
        self.observe_disk();
        self.has_garbage = self.raft.free_trimmed() | self.kv.maintain();
        self.send_outcomes();
        self.hand_out(out);
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Time {
        // The rest of a long backlog, of long replies, or of what did not fit a frame: in the next
        // turn.
        let has_more = !self.reads.ready.is_empty() || self.has_copies_to_start();
        if self.raft.applied() < self.raft.commit() || !self.to_pump.is_empty() || has_more {
            return self.now.mono;
        }
        let stop = self.leadership.shutdown_deadline(self.now.mono);
        self.raft
            .next_deadline()
            .min(self.requests_deadline())
            .min(self.clock_entry_at())
            .min(self.persisting.deadline())
            .min(self.disk_deadline())
            .min(if self.has_garbage { self.now.mono + GARBAGE_INTERVAL } else { Time::NEVER })
            .min(stop.unwrap_or(Time::NEVER))
            .min(self.backups_deadline())
            .min(self.snapshots_deadline())
    }

    /// Is so much under way that the host should stop reading from clients? What waits behind
    /// replies that a client does not take is its own matter: the host does not read from that one.
    pub fn is_congested(&self) -> bool {
        let (parked, parked_bytes) = self.lines.waiting_of(self.reads.held());
        let waiting_bytes = self.lines.waiting_bytes() - parked_bytes;
        let held_bytes = waiting_bytes + self.forwards.under_way_bytes();
        self.requests_under_way() - parked >= self.options.requests_under_way_max
            || held_bytes >= self.options.requests_held_bytes_max
    }

    /// Does nobody need this node before its disk is done? Then a host may let it wait for that. So
    /// it is with a follower of which nobody of its own waits for an answer, and with a leader that
    /// has long had one client alone, which has sent one command and waits.
    pub fn may_wait_for_disk(&self) -> bool {
        match self.requests_under_way() {
            0 => !self.raft.is_leader() && self.raft.leader().is_some(),
            1 => self.raft.is_leader() && self.lines.in_a_row() >= ALONE_AFTER_REQUESTS,
            _ => false,
        }
    }

    /// How many reads of a connection are ready but for a client that takes its replies, for
    /// oracles and tests.
    pub fn reads_held(&self, connection: ConnectionId) -> usize {
        self.reads.held_of(connection)
    }

    /// How many reads this turn's share of replies did not suffice for, for oracles and tests.
    pub fn reads_put_off(&self) -> usize {
        self.reads.ready.len()
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.identity.node
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
            digest: self.kv.digest(),
            log_bytes_live: self.storage.log_bytes_live(),
            log_bytes_on_disk: self.storage.log_bytes_on_disk(),
            snapshot: self.newest_snapshot(),
            snapshot_in_progress: self.snapshots.is_taking(),
            snapshot_pauses: self.snapshots.pauses,
            snapshot_arrival: self.arrival(),
            snapshot_unread_bytes: self.unread_bytes(),
            background_bytes_per_second: self.pace.bytes_per_second(self.now.mono),
            syncs: self.counters.syncs,
            writes: self.counters.writes,
            reads: self.counters.reads,
            forwarded: self.counters.forwarded,
            forwards_refused: self.counters.forwards_refused,
            forwards_dropped: self.counters.forwards_dropped,
            duplicates: self.counters.duplicates,
            read_retries: self.counters.read_retries,
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
        self.reads.release(connection);
        self.forget_backups(connection);
        self.forget_doubts(connection);
    }

    /// What stands behind reads that waited for their client has not been waiting for this node.
    fn on_replies_wanted(&mut self, connection: ConnectionId) {
        self.reads.release(connection);
        let origin = Origin { home: Home::Here, connection };
        self.lines.wait_anew(origin, self.now.mono);
        self.to_pump.push(origin);
    }

    fn on_peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) if self.declines(&message) => {}
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
                self.out.messages.push(Envelope { to: from, stream: Stream::Bulk, message });
            }
            // Of an earlier life, in which this node asked.
            PeerMessage::Held(_) => {}
        }
    }

    fn on_disk(&mut self, done: DiskDone) {
        match done {
            DiskDone::Append(Ok(())) => self.on_persisted(),
            DiskDone::Append(Err(error)) | DiskDone::LogControl(Err(error)) => {
                self.stop(Fatal::Disk(error.clone()));
            }
            DiskDone::LogControl(Ok(())) => {}
            DiskDone::Maintain(result) => {
                if let Err(error) = &result
                    && !matches!(error, DiskError::NoSpace(_))
                {
                    return self.stop(Fatal::Disk(error.clone()));
                }
                self.storage.maintained(result.is_ok());
                self.maintenance_ended(result.is_err());
            }
            DiskDone::SnapshotWrite(_)
            | DiskDone::SnapshotVerify(_)
            | DiskDone::SnapshotCommit(_)
            | DiskDone::SnapshotOpen(_)
            | DiskDone::SnapshotLoad { .. }
            | DiskDone::SnapshotCheck { .. }
            | DiskDone::SnapshotSend { .. } => self.on_snapshot_job(done),
        }
    }

    fn report_refusal(&mut self, refused: Option<Refused>) {
        self.out.events.extend(refused.map(|refused| Event::Refused(refused.to_string())));
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
        self.resume_copies();
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
            self.out.messages.push(Envelope { to, stream, message: PeerMessage::Raft(message) });
        }
        for outcome in outputs.reads.drain(..) {
            self.on_backup_index(&outcome);
            // A round given up before its answer came finds nothing.
            let readings = self.reads.take_through(outcome.id);
            match outcome.result {
                Ok(index) => self.confirm_reads(readings, index),
                Err(_) if readings.is_empty() => {}
                // With what came after them, or that would be asked for before.
                Err(_) => {
                    self.void_reads_and_pump(readings);
                    self.ask_anew();
                }
            }
        }
        for wanted in outputs.snapshot_reads.drain(..) {
            self.on_snapshot_wanted(wanted);
        }
        for chunk in outputs.snapshot_chunks.drain(..) {
            self.on_snapshot_chunk(chunk);
        }
        if let Some(change) = outputs.role_change.take() {
            self.out.events.push(Event::Role {
                term: change.term,
                role: change.role,
                leader: change.leader,
                why: change.why,
            });
        }
        self.raft_outputs = outputs;
        self.observe_leadership();
    }

    fn send_outcomes(&mut self) {
        for ((node, incarnation), mut outcomes) in std::mem::take(&mut self.outcomes) {
            while !outcomes.is_empty() {
                let rest = outcomes.split_off(outcomes.len().min(outcomes_per_frame(&outcomes)));
                let reply = ForwardReply { incarnation, outcomes };
                let message = PeerMessage::ForwardReply(reply);
                self.out.messages.push(Envelope { to: node, stream: Stream::Main, message });
                outcomes = rest;
            }
        }
        if let Some((to, forward)) = self.forwards.take_frame() {
            let message = PeerMessage::Forward(forward);
            self.out.messages.push(Envelope { to, stream: Stream::Main, message });
        }
        self.to_pump.append(&mut self.to_pump_next_turn);
    }

    fn hand_out(&mut self, out: &mut Outputs) {
        if let Some(fatal) = &self.out.fatal {
            // Nothing may leave a node whose disk or state is broken.
            *out = Outputs { fatal: Some(fatal.clone()), ..Outputs::default() };
            return;
        }
        out.append(&mut self.out);
    }

    pub(crate) fn stop(&mut self, fatal: Fatal) {
        self.out.fatal.get_or_insert(fatal);
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
