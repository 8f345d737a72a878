//! Snapshots of the own state: taking them and sending them to peers (paper, section 7; thesis 5; the
//! course's `Snapshot`). When one is due is told in `compaction.rs`; receiving them is `receiving.rs`.
//!
//! Taking never stops the replica: the state machine keeps what it must of the past
//! (`sampan_kv::Kv::snapshot_begin`), and a chunk a turn goes to the background lane, or a few if the log
//! grows fast. The order on disk is: chunks, footer, sync, read back and verify, rename; only then is the
//! log trimmed.

use std::collections::VecDeque;
use std::time::Duration;

use sampan_base::disk::{DiskError, DiskOp, FileName};
use sampan_base::{LogIndex, NodeId, SnapshotMeta, Time, planted};
use sampan_kv::Digest;
use sampan_raft::{PeerState, PeerStatus, SnapshotRead};
use sampan_storage::PartialSnapshot;
use sampan_storage::snapshot::SnapshotWriter;

use crate::input::Now;
use crate::job::{DiskDone, DiskJob};
use crate::output::{Envelope, Event, Fatal, Stream};
use crate::receiving::{Receiving, Refused};
use crate::replica::Replica;
use crate::status::SnapshotPauses;
use crate::wire::{PeerMessage, SnapshotMissing, SnapshotPart, SnapshotWanted};

/// After a snapshot failed (no room, or it did not verify), the next try waits this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A command that has waited this long tells of the foreground before it is done.
const LONG_WAIT: Duration = Duration::from_millis(50);
/// About so many chunks go to the disk together where the snapshot falls behind the log.
const CHUNKS_AT_ONCE_MAX: u64 = 8;
/// A part that another node wants sent is no longer than this.
const LENT_BYTES_MAX: u64 = 8 << 20;

/// Whose a snapshot job is. Jobs of the background lane end in the order in which they began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Taking(u64),
    Receiving(u64),
    /// Looks whether one that is sent is damaged.
    Doubting(u64),
    /// Cleaning up: the result is of no interest.
    Nobody,
}

/// A snapshot of the own state that is being written.
struct Taking {
    id: u64,
    digest: Digest,
    step: Step,
    /// The last steps for the disk that may meet a lack of room, to be tried once more.
    written: Vec<DiskOp>,
    /// The next chunk waits for its turn.
    waits: bool,
    /// Bytes of log on the disk when it was begun.
    log_bytes: u64,
    /// Bytes of the snapshot that it is written over.
    room_bytes: u64,
}

enum Step {
    /// Chunks go out; the flag says whether the state has more.
    Writing { writer: SnapshotWriter, more: bool },
    /// The footer goes out.
    Sealing { meta: SnapshotMeta, file: FileName },
    /// The file is read back.
    Verifying { meta: SnapshotMeta, file: FileName },
    /// It gets its name.
    Committing { meta: SnapshotMeta },
}

/// What a replica knows of snapshots.
pub(crate) struct Snapshots {
    pub(crate) partial: Option<PartialSnapshot>,
    /// Asked for by an operator.
    pub(crate) wanted: bool,
    taking: Option<Taking>,
    /// It met a full disk, and waits for the room of the reserve.
    taking_starves: bool,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) refused: Option<Refused>,
    /// Counts the snapshots that began to arrive, or to arrive again after a full disk.
    pub(crate) attempts: u64,
    owners: VecDeque<Owner>,
    pub(crate) not_before: Time,
    /// Parts that peers wait for, to be read when the pace allows it.
    parts: VecDeque<SnapshotRead>,
    /// A chunk of the own snapshot was the last that went: a part that waits goes before the next one.
    part_is_next: bool,
    /// The last that was read because a peer said that it is damaged, and until when it is not read again.
    pub(crate) doubted: Option<(u64, Time)>,
    /// The snapshot of which a part was last sent for another leader, and when.
    lent: Option<(u64, Time)>,
    pub(crate) pauses: SnapshotPauses,
}

impl Snapshots {
    pub(crate) fn new(partial: Option<PartialSnapshot>, now: Now) -> Self {
        Self {
            partial,
            wanted: false,
            taking: None,
            taking_starves: false,
            receiving: None,
            refused: None,
            attempts: 0,
            owners: VecDeque::new(),
            not_before: now.mono,
            parts: VecDeque::new(),
            part_is_next: false,
            doubted: None,
            lent: None,
            pauses: SnapshotPauses::default(),
        }
    }

    pub(crate) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Does anything wait until the pace lets it go?
    pub(crate) fn wait_for_pace(&self) -> bool {
        self.taking.as_ref().is_some_and(|taking| taking.waits) || !self.parts.is_empty()
    }

    /// Is one of the own state being given its name?
    pub(crate) fn is_committing_own(&self) -> bool {
        matches!(&self.taking, Some(Taking { step: Step::Committing { .. }, .. }))
    }
}

impl Replica {
    /// Index and file size of the newest durable snapshot.
    pub(crate) fn newest_snapshot(&self) -> Option<(LogIndex, u64)> {
        let newest = self.storage.snapshots().first();
        newest.map(|stored| (stored.meta.position.index, stored.meta.size_bytes))
    }

    /// Starts a snapshot if one is due, and lets go of log that nobody needs any more.
    pub(crate) fn drive_snapshots(&mut self) {
        self.observe_log();
        if self.snapshot_is_due() {
            self.begin_snapshot();
        }
        self.observe_foreground();
        if let Some(taking) = self.snapshots.taking.take_if(|taking| taking.waits) {
            self.continue_taking(taking);
        }
        self.send_parts();
    }

    /// What waits is in the foreground, too, though nobody can tell yet how long it takes.
    fn observe_foreground(&mut self) {
        let oldest = self.writes.proposals.front().and_then(|proposal| proposal.waiters.first());
        let waits = oldest.map_or(Duration::ZERO, |oldest| self.now.mono.since(oldest.since));
        if waits >= LONG_WAIT {
            self.pace.foreground_took(self.now.mono, waits);
        }
    }

    /// When something that waits for its turn may go, or a snapshot at rest may be due.
    pub(crate) fn snapshots_deadline(&self) -> Time {
        let waits = self.snapshots.wait_for_pace() || self.raft.catch_up_waits();
        let turn = if waits { self.pace.free_at() } else { Time::NEVER };
        turn.min(self.rest_deadline())
    }

    /// How fast a host may do what is in the background and can wait, such as to read a backup:
    /// bytes a second; unset: as fast as it can.
    pub fn background_bytes_per_second(&self) -> Option<u64> {
        self.pace.bytes_per_second(self.now.mono)
    }

    /// A host has done so much of that.
    pub fn background_went(&mut self, bytes: u64) {
        self.pace.went(self.now.mono, bytes);
    }

    fn begin_snapshot(&mut self) {
        self.snapshots.wanted = false;
        let id = self.rng.next_u64();
        let mut configuration = self.raft.configuration_at(self.applied.index);
        if planted!(SnapshotLatestConfiguration) {
            configuration = self.raft.configuration();
        }
        let mut position = self.applied;
        if planted!(SnapshotIndexAhead) {
            position.index = self.raft.commit();
        }
        let (maker, in_use) = (self.identity, self.snapshots_being_sent());
        let surplus = self.storage.take_surplus_snapshot(&in_use);
        let room_bytes = surplus.as_ref().map_or(0, |old| old.meta.size_bytes);
        let surplus = surplus.map(|old| old.file);
        let (writer, ops) = SnapshotWriter::begin(maker, id, position, configuration, surplus);
        if planted!(TrimBeforeSnapshot) {
            self.storage.trim(position.index);
        }
        let digest = self.kv.digest();
        let began = (self.options.stopwatch)();
        self.kv.snapshot_begin();
        let capture = (self.options.stopwatch)().saturating_sub(began);
        self.snapshots.pauses = SnapshotPauses { capture, longest_slice: Duration::ZERO };
        let step = Step::Writing { writer, more: true };
        let written = ops.clone();
        let log_bytes = self.storage.log_bytes_live();
        let taking = Taking { id, digest, step, written, waits: false, log_bytes, room_bytes };
        self.snapshots.taking = Some(taking);
        self.snapshot_job(Owner::Taking(id), DiskJob::SnapshotWrite(ops));
    }

    /// May a chunk be written, or must it wait for the foreground, or for a peer's turn?
    fn may_take(&self, log_bytes_before: u64) -> bool {
        let is_peers_turn = self.snapshots.part_is_next && !self.snapshots.parts.is_empty();
        self.is_urgent(log_bytes_before) || self.pace.is_free(self.now.mono) && !is_peers_turn
    }

    /// Nothing waits long for a snapshot that a full disk waits for, or that falls behind the log: it is
    /// to be written when the log has taken a third of the room that it had when this was begun, for the
    /// sync and reading it back take their time, too.
    fn is_urgent(&self, log_bytes_before: u64) -> bool {
        let is_behind = self.log_bytes_bound().is_some_and(|bound| {
            let room = u128::from(bound.saturating_sub(log_bytes_before) / 3);
            let grown = u128::from(self.storage.log_bytes_live().saturating_sub(log_bytes_before));
            let (done, all) = self.kv.snapshot_progress();
            room == 0 || grown * all as u128 > room * done as u128
        });
        is_behind || self.storage.out_of_space() || self.is_full()
    }

    /// The reserve was given up for a snapshot that met a full disk: its last write once more.
    pub(crate) fn resume_starved_snapshot(&mut self) {
        if let Some(taking) = &mut self.snapshots.taking
            && std::mem::take(&mut self.snapshots.taking_starves)
        {
            let job = DiskJob::SnapshotWrite(taking.written.clone());
            let owner = Owner::Taking(taking.id);
            self.snapshot_job(owner, job);
        }
    }

    /// The next chunk, and more behind it where the log is ahead of them. True if the state has more.
    fn write_chunks(&mut self, writer: &mut SnapshotWriter, log_bytes: u64) -> (bool, Vec<DiskOp>) {
        let began = (self.options.stopwatch)();
        let chunk_bytes = self.options.snapshot_chunk_bytes;
        let bytes_max = CHUNKS_AT_ONCE_MAX * chunk_bytes as u64;
        let is_urgent = self.is_urgent(log_bytes);
        let (before, mut ops) = (writer.bytes_written(), Vec::new());
        let more = loop {
            let (more, chunk) = writer.chunk_with(chunk_bytes + 1024, |payload| {
                self.kv.snapshot_next(chunk_bytes, payload)
            });
            ops.extend(chunk);
            let has_room = writer.bytes_written() - before < bytes_max;
            if !(more && has_room && is_urgent && self.is_urgent(log_bytes)) {
                break more;
            }
        };
        // What does not go by the pace is no debt of others that do.
        let written = writer.bytes_written() - before;
        self.pace.went(self.now.mono, if is_urgent { 0 } else { written });
        self.snapshots.part_is_next = true;
        let took = (self.options.stopwatch)().saturating_sub(began);
        let longest = &mut self.snapshots.pauses.longest_slice;
        *longest = took.max(*longest);
        (more, ops)
    }

    /// One step of the own snapshot is done: the next one.
    fn continue_taking(&mut self, taking: Taking) {
        let Taking { id, digest, step, log_bytes, room_bytes, .. } = taking;
        let at = |step, written, waits| {
            Some(Taking { id, digest, step, written, waits, log_bytes, room_bytes })
        };
        let (step, job) = match step {
            step @ Step::Writing { more: true, .. } if !self.may_take(log_bytes) => {
                self.snapshots.taking = at(step, Vec::new(), true);
                return;
            }
            Step::Writing { mut writer, more: true } => {
                let (more, ops) = self.write_chunks(&mut writer, log_bytes);
                (Step::Writing { writer, more }, DiskJob::SnapshotWrite(ops))
            }
            Step::Writing { writer, more: false } => {
                let (meta, file, ops) = writer.finish(&digest.to_bytes());
                (Step::Sealing { meta, file }, DiskJob::SnapshotWrite(ops))
            }
            Step::Sealing { meta, file } => {
                (Step::Verifying { meta, file: file.clone() }, DiskJob::SnapshotVerify(file))
            }
            Step::Verifying { meta, file } if self.has_one_after(meta.position.index) => {
                self.snapshots.taking = at(Step::Verifying { meta, file }, Vec::new(), false);
                self.drop_taking();
                return;
            }
            Step::Verifying { meta, file } => {
                let ops = self.storage.snapshot_commit(&file, &meta, &self.snapshots_being_sent());
                (Step::Committing { meta }, DiskJob::SnapshotCommit(ops))
            }
            Step::Committing { meta } => return self.on_snapshot_taken(&meta, log_bytes),
        };
        let written = match &job {
            DiskJob::SnapshotWrite(ops) => ops.clone(),
            _ => Vec::new(),
        };
        self.snapshots.taking = at(step, written, false);
        self.snapshot_job(Owner::Taking(id), job);
    }

    fn on_snapshot_taken(&mut self, meta: &SnapshotMeta, log_bytes_before: u64) {
        let (index, size_bytes) = (meta.position.index, meta.size_bytes);
        self.out.events.push(Event::SnapshotTaken { index, size_bytes });
        self.storage.snapshot_committed();
        self.log_is_covered(log_bytes_before);
        self.room_was_made();
        self.resume_receiving();
    }

    /// A snapshot could not be written or did not verify: the log and the older ones stay.
    pub(crate) fn give_up_taking(&mut self, why: String) {
        if self.drop_taking() {
            self.snapshots.not_before = self.now.mono + RETRY_AFTER;
            self.out.events.push(Event::SnapshotFailed(why));
        }
    }

    /// Ends the own snapshot, if one is under way. That is no failure by itself: where a newer one came from
    /// the leader, the next one is due as if this had not been begun.
    pub(crate) fn drop_taking(&mut self) -> bool {
        let Some(taking) = self.snapshots.taking.take() else { return false };
        self.snapshots.taking_starves = false;
        let file = match taking.step {
            Step::Writing { writer, .. } => Err(writer),
            Step::Sealing { file, .. } | Step::Verifying { file, .. } => Ok(file),
            Step::Committing { .. } => unreachable!("a commit is never given up"),
        };
        self.kv.snapshot_cancel();
        let ops = file.map_or_else(SnapshotWriter::abandon, |file| vec![DiskOp::Remove { file }]);
        self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
        true
    }

    /// The snapshots that live followers are getting: to remove one would make its transfer begin
    /// anew, with the next one, and again. A full disk cannot afford that.
    pub(crate) fn snapshots_being_sent(&self) -> Vec<u64> {
        let id = |peer: PeerStatus| match peer.state {
            PeerState::Snapshot { id, .. } => Some(id),
            PeerState::Probe | PeerState::Replicate => None,
        };
        if self.storage.out_of_space() {
            Vec::new()
        } else {
            let lent_since = self.now.mono - self.options.raft.election_timeout_max * 2;
            let lent = self.snapshots.lent.filter(|(_, at)| *at >= lent_since).map(|(id, _)| id);
            self.live_peers().filter_map(id).chain(lent).collect()
        }
    }

    /// Bytes of the snapshot that the one under way is written over.
    pub(crate) fn overwritten_bytes(&self) -> u64 {
        self.snapshots.taking.as_ref().map_or(0, |taking| taking.room_bytes)
    }

    pub(crate) fn sends_snapshot(&self) -> bool {
        self.live_peers().any(|peer| matches!(peer.state, PeerState::Snapshot { .. }))
    }

    /// The followers that this leader heard lately.
    pub(crate) fn live_peers(&self) -> impl Iterator<Item = PeerStatus> {
        let live_since = self.now.mono - self.options.raft.election_timeout_max * 2;
        let peers = if self.raft.is_leader() { self.raft.status().peers } else { Vec::new() };
        peers.into_iter().filter(move |peer| peer.heard_at >= live_since)
    }

    /// A peer needs a part of a snapshot. What is wanted again was wanted too slowly: once is enough.
    pub(crate) fn on_snapshot_wanted(&mut self, wanted: SnapshotRead) {
        if !self.snapshots.parts.contains(&wanted) {
            self.snapshots.parts.push_back(wanted);
        }
    }

    /// Reads the parts that peers wait for, as fast as may be: at once if clients wait for them, too.
    fn send_parts(&mut self) {
        if !self.raft.is_leader() {
            return self.snapshots.parts.clear();
        }
        let is_urgent = !self.raft.commits_without_laggards(self.now.mono);
        while (is_urgent || self.pace.is_free(self.now.mono))
            && let Some(wanted) = self.snapshots.parts.pop_front()
        {
            self.snapshots.part_is_next = false;
            self.pace.went(self.now.mono, wanted.len_max as u64);
            self.read_part(wanted);
        }
    }

    fn read_part(&mut self, wanted: SnapshotRead) {
        let SnapshotRead { to, id, offset, len_max, maker } = wanted;
        let len_bytes = len_max as u64;
        if let Some(maker) = maker {
            let wanted = SnapshotWanted { to, id, offset, len_max: len_bytes };
            self.tell(maker, Stream::Main, PeerMessage::SnapshotWanted(wanted));
        } else if let Some(file) = self.snapshot_file(id) {
            let wanted_by = None;
            self.out.jobs.push(DiskJob::SnapshotSend {
                to,
                id,
                file,
                offset,
                len_bytes,
                wanted_by,
            });
        } else {
            self.raft.snapshot_unreadable(self.now.mono, to, id);
        }
    }

    pub(crate) fn snapshot_file(&self, id: u64) -> Option<FileName> {
        let known = self.storage.snapshots().iter().find(|stored| stored.meta.id == id);
        known.map(|stored| stored.file.clone())
    }

    pub(crate) fn tell(&mut self, to: NodeId, stream: Stream, message: PeerMessage) {
        self.out.messages.push(Envelope { to, stream, message });
    }

    /// A leader wants a part of a snapshot sent that this node made, and sent before when it led.
    pub(crate) fn lend_snapshot(&mut self, leader: NodeId, wanted: &SnapshotWanted) {
        let SnapshotWanted { to, id, offset, len_max } = *wanted;
        let Some(file) = self.snapshot_file(id) else {
            let missing = PeerMessage::SnapshotMissing(SnapshotMissing { to, id });
            return self.tell(leader, Stream::Main, missing);
        };
        self.snapshots.lent = Some((id, self.now.mono));
        let len_bytes = len_max.min(LENT_BYTES_MAX);
        let wanted_by = Some(leader);
        self.out.jobs.push(DiskJob::SnapshotSend { to, id, file, offset, len_bytes, wanted_by });
    }

    /// A part of a snapshot was read.
    fn on_part_read(&mut self, to: NodeId, part: SnapshotPart, wanted_by: Option<NodeId>) {
        let SnapshotPart { id, offset, data } = part;
        match wanted_by {
            None => self.raft.snapshot_read(self.now.mono, to, id, offset, data),
            Some(_) if data.is_empty() => {}
            Some(_) => {
                let part = PeerMessage::SnapshotPart(SnapshotPart { id, offset, data });
                self.tell(to, Stream::Bulk, part);
            }
        }
    }

    pub(crate) fn snapshot_job(&mut self, owner: Owner, job: DiskJob) {
        self.snapshots.owners.push_back(owner);
        self.out.jobs.push(job);
    }

    /// A snapshot job has ended.
    pub(crate) fn on_snapshot_job(&mut self, done: DiskDone) {
        if let DiskDone::SnapshotSend { to, id, offset, data, wanted_by } = done {
            match (data, wanted_by) {
                (Ok(data), _) => {
                    self.on_part_read(to, SnapshotPart { id, offset, data }, wanted_by);
                }
                (Err(_), None) => self.raft.snapshot_unreadable(self.now.mono, to, id),
                (Err(_), Some(leader)) => {
                    let missing = PeerMessage::SnapshotMissing(SnapshotMissing { to, id });
                    self.tell(leader, Stream::Main, missing);
                }
            }
            return;
        }
        if let DiskDone::SnapshotLoad { attempt, payload } = done {
            return self.on_chunk_read(attempt, payload);
        }
        let owner = self.snapshots.owners.pop_front().expect("a job has an owner");
        let failed = match &done {
            DiskDone::SnapshotWrite(Err(DiskError::NoSpace(_))) if self.awaits_reserve(owner) => {
                return;
            }
            DiskDone::SnapshotWrite(Err(DiskError::NoSpace(file))) => {
                Some(format!("{file}: no space"))
            }
            DiskDone::SnapshotVerify(Err(error)) => Some(error.to_string()),
            DiskDone::SnapshotOpen(Err(why)) => Some(why.clone()),
            // A full disk may have kept the file from being made at all: what comes behind finds none.
            DiskDone::SnapshotWrite(Err(DiskError::NotFound(_))) if self.is_given_up(owner) => None,
            // Any other error of a write or a rename: the disk cannot be trusted (rule R10).
            DiskDone::SnapshotWrite(Err(error)) | DiskDone::SnapshotCommit(Err(error)) => {
                return self.stop(Fatal::Disk(error.to_string()));
            }
            _ => None,
        };
        match (owner, failed) {
            (Owner::Taking(id), failed) => self.on_taking_job(id, failed),
            (Owner::Receiving(attempt), failed) => self.on_receiving_job(attempt, done, failed),
            (Owner::Doubting(id), _) => self.on_doubted(id, &done),
            (Owner::Nobody, _) => {}
        }
    }

    /// Is this a job of an attempt to receive a snapshot that is over?
    fn is_given_up(&self, owner: Owner) -> bool {
        let is_current = |attempt| self.receiving_attempt() == Some(attempt);
        matches!(owner, Owner::Receiving(attempt) if !is_current(attempt))
    }

    /// A snapshot met a full disk. True if it waits for the room of the reserve.
    fn awaits_reserve(&mut self, owner: Owner) -> bool {
        match owner {
            Owner::Taking(id) if self.snapshots.taking.as_ref().is_some_and(|t| t.id == id) => {
                let waits = self.lend_reserve();
                self.snapshots.taking_starves |= waits;
                waits || self.replace_older_snapshots()
            }
            Owner::Receiving(attempt) => {
                self.starve_receiving(attempt);
                true
            }
            Owner::Taking(_) | Owner::Doubting(_) | Owner::Nobody => false,
        }
    }

    /// Not even the reserve was enough: the older snapshots, there in case the newest one is damaged,
    /// give their room. True if there was one.
    fn replace_older_snapshots(&mut self) -> bool {
        let Some(taking) = &self.snapshots.taking else { return false };
        let (owner, again) = (Owner::Taking(taking.id), taking.written.clone());
        let ops = self.storage.release_older_snapshots();
        let gives = !ops.is_empty();
        if gives {
            self.lend_room();
            self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
            self.snapshot_job(owner, DiskJob::SnapshotWrite(again));
        }
        gives
    }

    fn on_taking_job(&mut self, id: u64, failed: Option<String>) {
        // A job of a snapshot that was given up meanwhile is of no interest.
        let Some(taking) = self.snapshots.taking.take_if(|taking| taking.id == id) else { return };
        if let Some(why) = failed {
            self.snapshots.taking = Some(taking);
            self.fail_backups(&why);
            self.give_up_taking(why);
        } else {
            self.continue_taking(taking);
        }
    }
}
