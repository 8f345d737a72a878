//! Snapshots of the own state (paper, section 7; thesis 5; the course's `Snapshot`).
//!
//! Taking one never stops the replica: the state machine keeps what it must of the past
//! (`sampan_kv::Kv::snapshot_begin`), and a chunk a turn goes to the background lane, or a few if
//! the log grows fast. The order on disk is: chunks, footer, sync, read back and verify, rename;
//! only then is the log trimmed. When one is due is told in `compaction.rs`.

use std::time::Duration;

use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{SnapshotId, SnapshotMeta, planted};
use sampan_kv::Digest;
use sampan_storage::snapshot::SnapshotWriter;

use crate::job::DiskJob;
use crate::output::Event;
use crate::replica::Replica;
use crate::snapshots::Owner;
use crate::status::SnapshotPauses;

/// After a snapshot failed (no room, or it did not verify), the next try waits this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// About so many chunks go to the disk together where the snapshot falls behind the log.
const CHUNKS_AT_ONCE_MAX: u64 = 8;

/// A snapshot of the own state that is being written.
pub(crate) struct Taking {
    id: SnapshotId,
    digest: Digest,
    /// Bytes of log on the disk when it was begun.
    log_bytes: u64,
    /// Bytes of the snapshot that it is written over.
    room_bytes: u64,
    step: Step,
    /// The last steps for the disk that may meet a lack of room, to be tried once more.
    written: Vec<DiskOp>,
    /// They met one, and wait for the room of the reserve.
    starves: bool,
    /// The next chunk waits for its turn.
    waits: bool,
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

impl Taking {
    /// Does its next chunk wait for its turn?
    pub(crate) const fn waits(&self) -> bool {
        self.waits
    }

    /// Is it being given its name?
    pub(crate) const fn is_committing(&self) -> bool {
        matches!(self.step, Step::Committing { .. })
    }
}

impl Replica {
    /// Captures the state and begins to write it.
    pub(crate) fn begin_snapshot(&mut self) {
        self.snapshots.wanted_for_backup = false;
        let id = SnapshotId(self.rng.next_u64());
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
        self.snapshots.taking = Some(Taking {
            id,
            digest,
            log_bytes: self.storage.log_bytes_live(),
            room_bytes,
            step: Step::Writing { writer, more: true },
            written: ops.clone(),
            starves: false,
            waits: false,
        });
        self.snapshot_job(Owner::Taking(id), DiskJob::SnapshotWrite(ops));
    }

    /// May a chunk be written, or must it wait for the foreground, or for a peer's turn?
    fn may_take(&self, log_bytes_before: u64) -> bool {
        let is_peers_turn = self.snapshots.sending.is_next && self.snapshots.sending.waits();
        self.is_urgent(log_bytes_before) || self.pace.is_free(self.now.mono) && !is_peers_turn
    }

    /// Nothing waits long for a snapshot that a full disk waits for, or that falls behind the log:
    /// it is to be written when the log has taken a third of the room that it had when this was
    /// begun, for the sync and reading it back take their time, too.
    fn is_urgent(&self, log_bytes_before: u64) -> bool {
        let is_behind = self.log_bytes_bound().is_some_and(|bound| {
            let room = u128::from(bound.saturating_sub(log_bytes_before) / 3);
            let grown = u128::from(self.storage.log_bytes_live().saturating_sub(log_bytes_before));
            let (done, all) = self.kv.snapshot_progress();
            room == 0 || grown * all as u128 > room * done as u128
        });
        is_behind || self.storage.out_of_space() || self.is_full()
    }

    /// The next chunk, if one waits for its turn and that has come.
    pub(crate) fn resume_taking(&mut self) {
        if let Some(taking) = self.snapshots.taking.take_if(|taking| taking.waits) {
            self.continue_taking(taking);
        }
    }

    /// One step of the own snapshot is done: the next one.
    fn continue_taking(&mut self, mut taking: Taking) {
        let job;
        (taking.step, job) = match taking.step {
            step @ Step::Writing { more: true, .. } if !self.may_take(taking.log_bytes) => {
                let written = Vec::new();
                self.snapshots.taking = Some(Taking { step, written, waits: true, ..taking });
                return;
            }
            Step::Writing { mut writer, more: true } => {
                let (more, ops) = self.write_chunks(&mut writer, taking.log_bytes);
                (Step::Writing { writer, more }, DiskJob::SnapshotWrite(ops))
            }
            Step::Writing { writer, more: false } => {
                let (meta, file, ops) = writer.finish(&taking.digest.to_bytes());
                (Step::Sealing { meta, file }, DiskJob::SnapshotWrite(ops))
            }
            Step::Sealing { meta, file } => {
                (Step::Verifying { meta, file: file.clone() }, DiskJob::SnapshotVerify(file))
            }
            Step::Verifying { meta, file } if self.has_one_after(meta.position.index) => {
                return self.remove_taken(vec![DiskOp::Remove { file }]);
            }
            Step::Verifying { meta, file } => {
                let ops = self.storage.snapshot_commit(&file, &meta, &self.snapshots_being_sent());
                (Step::Committing { meta }, DiskJob::SnapshotCommit(ops))
            }
            Step::Committing { meta } => return self.on_snapshot_taken(&meta, taking.log_bytes),
        };
        taking.waits = false;
        taking.written = match &job {
            DiskJob::SnapshotWrite(ops) => ops.clone(),
            _ => Vec::new(),
        };
        let owner = Owner::Taking(taking.id);
        self.snapshots.taking = Some(taking);
        self.snapshot_job(owner, job);
    }

    /// The next chunk, and more behind it where the log is ahead of them. True if the state has
    /// more.
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
        self.snapshots.sending.is_next = true;
        let took = (self.options.stopwatch)().saturating_sub(began);
        let longest = &mut self.snapshots.pauses.longest_slice;
        *longest = took.max(*longest);
        (more, ops)
    }

    /// A job of the own snapshot has ended.
    pub(crate) fn on_taking_job(&mut self, id: SnapshotId, failed: Option<String>) {
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

    /// Ends the own snapshot, if one is under way. That is no failure by itself: where a newer one
    /// came from the leader, the next one is due as if this had not been begun.
    pub(crate) fn drop_taking(&mut self) -> bool {
        let Some(taking) = self.snapshots.taking.take() else { return false };
        self.remove_taken(match taking.step {
            Step::Writing { writer, .. } => writer.abandon(),
            Step::Sealing { file, .. } | Step::Verifying { file, .. } => {
                vec![DiskOp::Remove { file }]
            }
            Step::Committing { .. } => unreachable!("a commit is never given up"),
        });
        true
    }

    fn remove_taken(&mut self, ops: Vec<DiskOp>) {
        self.kv.snapshot_cancel();
        self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
    }

    /// Bytes of the snapshot that the one under way is written over.
    pub(crate) fn overwritten_bytes(&self) -> u64 {
        self.snapshots.taking.as_ref().map_or(0, |taking| taking.room_bytes)
    }

    /// The reserve was given up for a snapshot that met a full disk: its last write once more.
    pub(crate) fn resume_starved_snapshot(&mut self) {
        if let Some(taking) = &mut self.snapshots.taking
            && std::mem::take(&mut taking.starves)
        {
            let job = DiskJob::SnapshotWrite(taking.written.clone());
            let owner = Owner::Taking(taking.id);
            self.snapshot_job(owner, job);
        }
    }

    /// Not even the reserve was enough: the older snapshots, there in case the newest one is
    /// damaged, give their room. True if there was one.
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

    /// The own snapshot met a full disk. True if it tries once more, on other room.
    pub(crate) fn starve_taking(&mut self, id: SnapshotId) -> bool {
        if self.snapshots.taking.as_ref().is_none_or(|taking| taking.id != id) {
            return false;
        }
        let waits = self.lend_reserve();
        if let Some(taking) = &mut self.snapshots.taking {
            taking.starves |= waits;
        }
        waits || self.replace_older_snapshots()
    }
}
