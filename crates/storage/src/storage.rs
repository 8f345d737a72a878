//! [`Storage`]: the running half of the crate, as the replica sees it.

use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{Entry, HardState, LogIndex, LogPosition, SnapshotId, SnapshotMeta, planted};

use crate::hard_state::Record;
use crate::log::{Log, Spare};
use crate::reserve::Reserve;
use crate::snapshot::SNAPSHOT_DIRECTORY;
use crate::{Identity, StoredSnapshot, snapshot};

/// The file of a snapshot this many times as long as the newest one is not kept for the next.
const SURPLUS_MAX: u64 = 2;

/// The log, hard state and snapshots of one node. Made by [`Storage::open`].
#[derive(Debug)]
pub struct Storage {
    pub(crate) log: Log,
    pub(crate) hard_state: Record,
    /// Committed snapshots, newest first.
    pub(crate) snapshots: Vec<StoredSnapshot>,
    pub(crate) snapshots_kept: usize,
    /// Room that is kept for the next one.
    pub(crate) reserve: Reserve,
    /// What the segment lane is doing.
    pub(crate) maintaining: Option<Maintenance>,
    /// A snapshot whose commit is under way.
    pub(crate) committing: Option<StoredSnapshot>,
}

/// Work of the segment lane.
#[derive(Debug)]
pub(crate) enum Maintenance {
    /// This is made ready for the log.
    Spare(Spare),
    /// Segments are removed.
    Removal,
    /// The reserve gets this length.
    Reserve(u64),
}

impl Storage {
    /// Makes this durable, in this order: hard state; a log that starts anew after `log_reset`;
    /// `entries`, which replace whatever the log has from their first index on. **Log lane.**
    ///
    /// Without a hard state, and while the segment has room, that is one write and one sync. Call
    /// [`Storage::append_synced`] when the list has ended; any error on the way is fatal to the
    /// process (rule R10). Several appends may be outstanding, as the lane runs in order.
    ///
    /// Panics if the term decreases, the vote of a term changes, or entries leave a gap, reach
    /// below what was trimmed or are longer than the limit.
    #[must_use = "nothing is durable until these steps have run"]
    pub fn append(
        &mut self,
        hard_state: Option<HardState>,
        log_reset: Option<LogPosition>,
        entries: &[Entry],
    ) -> Vec<DiskOp> {
        let mut ops = Vec::with_capacity(2);
        if let Some(new) = hard_state {
            let old = self.hard_state.hard_state;
            assert!(new.term >= old.term, "term went from {} back to {}", old.term, new.term);
            if new.term == old.term && old.vote.is_some() {
                assert!(new.vote == old.vote, "vote of term {} changed", new.term);
            }
            self.hard_state.hard_state = new;
            self.write_hard_state(&mut ops);
        }
        if self.log.append(log_reset, entries, &mut ops) {
            // So that the loss of the new segment, or of the end of the old one, shows.
            self.write_hard_state(&mut ops);
        }
        if planted!(EntriesBeforeTerm) && hard_state.is_some() {
            ops.rotate_left(4);
        }
        ops
    }

    /// The oldest outstanding [`Storage::append`] is durable. Panics if none is outstanding.
    pub fn append_synced(&mut self) {
        self.log.append_synced();
    }

    /// Sets or clears the durable mark of rule S12: until its log is durable through this index the
    /// node neither votes nor counts for a quorum. Either way it is newborn no more. **Log lane**;
    /// no [`Storage::append_synced`].
    #[must_use = "nothing is durable until these steps have run"]
    pub fn set_non_voting(&mut self, until: Option<LogIndex>) -> Vec<DiskOp> {
        let mut ops = Vec::with_capacity(4);
        self.hard_state.non_voting_until = until;
        self.hard_state.newborn = false;
        self.write_hard_state(&mut ops);
        ops
    }

    /// Records how far the log is synced, if that is not on record: worth doing every second or so
    /// when idle, and before a stop. The more recent the record, the less of a damaged log can pass
    /// for an unfinished write. **Log lane**; no [`Storage::append_synced`]. Empty if up to date.
    #[must_use = "nothing is durable until these steps have run"]
    pub fn refresh_watermark(&mut self) -> Vec<DiskOp> {
        let mut ops = Vec::new();
        if self.hard_state.synced_batch != self.log.last_batch() {
            self.write_hard_state(&mut ops);
        }
        ops
    }

    /// Both copies of the hard state as it is now. The log lane runs in order, so when these steps
    /// run, all batches made so far are synced: that is the watermark.
    fn write_hard_state(&mut self, ops: &mut Vec<DiskOp>) {
        self.hard_state.sequence += 1;
        self.hard_state.synced_batch = self.log.last_batch();
        self.hard_state.segment = self.log.segment_sequence();
        self.hard_state.write(ops);
    }

    /// Entries up to `index` are covered by a committed snapshot and may be forgotten; whole
    /// segments become free for [`Storage::maintain`]. To be able to fall back to the older
    /// snapshot, trim to *its* index.
    ///
    /// Panics if no committed snapshot covers `index`.
    pub fn trim(&mut self, index: LogIndex) {
        let covered =
            self.snapshots.first().map_or(LogIndex::ZERO, |newest| newest.meta.position.index);
        assert!(
            index <= covered || planted!(TrimBeforeSnapshot),
            "trim to {index}, the newest snapshot covers {covered}"
        );
        self.log.trim(index);
    }

    /// The next work to keep a spare segment and the reserve ready and to remove what was released
    /// and is not wanted for spares: at most one list at a time; `None` if there is nothing to do
    /// or a list is under way. **Segment lane.** What met a full disk is not tried again before
    /// [`Storage::ask_again`].
    #[must_use = "these steps are to be run, and reported with `maintained`"]
    pub fn maintain(&mut self) -> Option<Vec<DiskOp>> {
        if self.maintaining.is_some() {
            return None;
        }
        // First what makes room; then the reserve, or the log would take what a snapshot gave back.
        if let Some((work, ops)) = self.log.recycle(self.reserve.is_short()) {
            self.maintaining = Some(work);
            return Some(ops);
        }
        let used_bytes = || self.log.bytes_on_disk() + self.snapshot_bytes();
        if let Some((len_bytes, op)) = self.reserve.change(self.log.out_of_space(), used_bytes) {
            self.maintaining = Some(Maintenance::Reserve(len_bytes));
            return Some(vec![op]);
        }
        if self.reserve.lacks_room_for_the_next() {
            // What the log took now a snapshot would lack.
            self.log.may_not_grow();
            return None;
        }
        let (work, ops) = self.log.grow()?;
        self.maintaining = Some(work);
        Some(ops)
    }

    /// Some time has passed, or room was made: a full disk may be asked again.
    pub fn ask_again(&mut self) {
        self.log.ask_again();
        self.reserve.ask_again();
    }

    /// The list of [`Storage::maintain`] or [`Storage::release_reserve`] ended, or, if not
    /// `is_done`, met a full disk ([`sampan_base::disk::DiskError::NoSpace`]). Any other error is
    /// fatal: the caller stops the process instead of going on. Panics if no list is under way.
    pub fn maintained(&mut self, is_done: bool) {
        match self.maintaining.take().expect("no maintenance is under way") {
            Maintenance::Spare(spare) if is_done => self.log.spare_prepared(spare),
            Maintenance::Spare(_) => self.log.spare_refused(),
            Maintenance::Removal => {}
            Maintenance::Reserve(len_bytes) => {
                self.reserve.changed(is_done.then_some(len_bytes));
            }
        }
    }

    /// How much room [`Storage::maintain`] is to keep for snapshots: about what the next ones will
    /// take. Zero, which it is at first: none. What the very next one takes comes before the room
    /// that the log needs, the rest after it.
    pub fn want_reserve(&mut self, bytes: u64, next_bytes: u64) {
        self.reserve.want(bytes, next_bytes);
    }

    /// Gives up the reserve, and released segments, for a snapshot that met a full disk. Until that
    /// has ended the caller leaves [`Storage::maintain`] alone, which would take the room back.
    /// `None` if there is neither, or a list is under way that must end first
    /// ([`Storage::is_maintaining`]). **Segment lane.**
    #[must_use = "these steps are to be run, and reported with `maintained`"]
    pub fn release_reserve(&mut self) -> Option<Vec<DiskOp>> {
        if self.maintaining.is_some() {
            return None;
        }
        let mut ops = self.log.remove_released();
        let mut len_bytes = self.reserve.held_bytes();
        if let Some((shorter_bytes, op)) = self.reserve.release() {
            len_bytes = shorter_bytes;
            ops.push(op);
        }
        if ops.is_empty() {
            return None;
        }
        self.maintaining = Some(Maintenance::Reserve(len_bytes));
        Some(ops)
    }

    /// Would [`Storage::release_reserve`] give room to a snapshot?
    pub fn has_reserve(&self) -> bool {
        self.reserve.has_room_for_a_snapshot() || self.log.has_released()
    }

    /// Is a list of the segment lane under way?
    pub const fn is_maintaining(&self) -> bool {
        self.maintaining.is_some()
    }

    /// Bytes that are kept for the next snapshot.
    pub const fn reserve_bytes(&self) -> u64 {
        self.reserve.held_bytes()
    }

    /// Is less room kept for the next snapshot than is wanted, because the disk is full?
    pub const fn reserve_is_short(&self) -> bool {
        self.reserve.is_short()
    }

    /// The last attempt to prepare a segment met a full disk, or would have taken what the next
    /// snapshot needs. Appends go on while [`Storage::append_needs_space`] says no.
    pub const fn out_of_space(&self) -> bool {
        self.log.out_of_space()
    }

    /// How many bytes of entries (sum of [`Entry::size_bytes`]) fit the log for sure without a file
    /// that is not there yet; `None` if not even a new start of the log does. A host that appends
    /// no more than this never meets a full disk in the log lane.
    pub fn append_room_bytes(&self) -> Option<u64> {
        self.log.append_room_bytes()
    }

    /// Bytes of batches that fit the log before it has to wait for the segment lane.
    pub fn log_room_bytes(&self) -> u64 {
        self.log.all_room_bytes()
    }

    /// Could an append of entries of this size (sum of [`Entry::size_bytes`]) need a file that is
    /// not there yet? Then a full disk would be fatal: refuse writes while
    /// [`Storage::out_of_space`].
    pub fn append_needs_space(&self, entries_bytes: u64) -> bool {
        self.log.append_needs_space(entries_bytes)
    }

    /// Bytes of batches in the segments of the log: what a restart reads at most.
    pub fn log_bytes_live(&self) -> u64 {
        self.log.bytes_live()
    }

    /// Bytes of all files of the log, the spare and what is not removed yet included.
    pub fn log_bytes_on_disk(&self) -> u64 {
        let prepared_bytes = match &self.maintaining {
            Some(Maintenance::Spare(spare)) => spare.len_bytes,
            _ => 0,
        };
        self.log.bytes_on_disk() + prepared_bytes
    }

    /// The last index appended (or reset to), durable or not.
    pub const fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// Term and vote as last written.
    pub const fn hard_state(&self) -> HardState {
        self.hard_state.hard_state
    }

    /// How many times this node has been opened, this time counted; larger at each start.
    pub const fn incarnation(&self) -> u64 {
        self.hard_state.incarnation
    }

    /// Whose data this is.
    pub const fn identity(&self) -> Identity {
        self.hard_state.identity
    }

    /// The committed snapshots, newest first.
    pub fn snapshots(&self) -> &[StoredSnapshot] {
        &self.snapshots
    }

    fn snapshot_bytes(&self) -> u64 {
        self.snapshots.iter().map(|stored| stored.meta.size_bytes).sum()
    }

    /// Gives a written, synced and **verified** file ([`snapshot::verify`]; of one that arrived,
    /// its chunks as they came) its final name, durably, then removes what is older than the number
    /// kept, but for those whose ids are `in_use`, and for one whose file the next snapshot is to
    /// be written over ([`Storage::take_surplus_snapshot`]): on a full disk, and where it is much
    /// longer than that will be, its room is wanted more. **Background lane.** Call
    /// [`Storage::snapshot_committed`] when the list has ended; an error on the way is fatal.
    ///
    /// Panics if a commit is under way, or if the snapshot is older than the newest committed one.
    #[must_use = "nothing is durable until these steps have run"]
    pub fn snapshot_commit(
        &mut self,
        staged: &FileName,
        meta: &SnapshotMeta,
        in_use: &[SnapshotId],
    ) -> Vec<DiskOp> {
        assert!(self.committing.is_none(), "a snapshot commit is under way");
        let newest = self.snapshots.first().map_or(LogPosition::ZERO, |s| s.meta.position);
        assert!(
            meta.position.index >= newest.index,
            "snapshot {:?} is older than {newest:?}",
            meta.position
        );
        let file = snapshot::file_name(meta);
        let mut ops = vec![
            DiskOp::Rename { from: staged.clone(), to: file.clone() },
            DiskOp::SyncDirectory { directory: SNAPSHOT_DIRECTORY.into() },
        ];
        if planted!(SnapshotNameNotSynced) {
            ops.pop();
        }
        self.snapshots.retain(|old| old.file != file);
        let mut newer = 1;
        let may_stay = !self.out_of_space() && !self.reserve_is_short();
        self.snapshots.retain(|old| {
            let fits = may_stay && old.meta.size_bytes <= SURPLUS_MAX * meta.size_bytes;
            let keeps =
                newer < self.snapshots_kept + usize::from(fits) || in_use.contains(&old.meta.id);
            newer += 1;
            if !keeps {
                ops.push(DiskOp::Remove { file: old.file.clone() });
            }
            keeps
        });
        self.committing = Some(StoredSnapshot { meta: meta.clone(), file });
        ops
    }

    /// A snapshot that is more than are kept, and not `in_use`: the oldest one. It is none any
    /// more, and the next one is to be written over its file ([`snapshot::SnapshotWriter::begin`]).
    pub fn take_surplus_snapshot(&mut self, in_use: &[SnapshotId]) -> Option<StoredSnapshot> {
        let kept = if planted!(KeptSnapshotOverwritten) { 0 } else { self.snapshots_kept };
        let is_free = |stored: &StoredSnapshot| !in_use.contains(&stored.meta.id);
        let oldest = self.snapshots.iter().rposition(is_free).filter(|&place| place >= kept)?;
        Some(self.snapshots.remove(oldest))
    }

    /// Gives up all snapshots but the newest, for one that a full disk has no other room for. The
    /// list runs before that one is written on; it is empty if nothing can be given up.
    pub fn release_older_snapshots(&mut self) -> Vec<DiskOp> {
        if self.committing.is_some() || self.snapshots.is_empty() {
            return Vec::new();
        }
        let older = self.snapshots.split_off(1);
        older.into_iter().map(|stored| DiskOp::Remove { file: stored.file }).collect()
    }

    /// Gives up a snapshot that was found damaged, and keeps its file to look at, unless the disk
    /// is full. The list is empty if it is not there any more. Background lane.
    pub fn set_snapshot_aside(&mut self, id: SnapshotId) -> Vec<DiskOp> {
        let is_full = self.out_of_space();
        let damaged = self.snapshots.extract_if(.., |stored| stored.meta.id == id);
        let give_up = |StoredSnapshot { file, .. }: StoredSnapshot| {
            if is_full { DiskOp::Remove { file } } else { snapshot::set_aside(&file) }
        };
        let mut ops: Vec<_> = damaged.map(give_up).collect();
        if !ops.is_empty() {
            ops.push(DiskOp::SyncDirectory { directory: SNAPSHOT_DIRECTORY.into() });
        }
        ops
    }

    /// The list of [`Storage::snapshot_commit`] ended: the snapshot is the newest one, and the log
    /// may be trimmed up to it. Panics if no commit is under way.
    pub fn snapshot_committed(&mut self) {
        let committed = self.committing.take().expect("no snapshot commit is under way");
        self.snapshots.insert(0, committed);
    }
}
