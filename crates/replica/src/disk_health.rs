//! How this node's disk is (full, slow, or well), and what follows from it (rule S10;
//! `docs/operations.md`, "A full disk" and "A slow disk").
//!
//! Nothing in the log lane ever makes a file: a batch takes only what fits the segments that are
//! there, and waits otherwise. So a full disk is met by the segment lane, which may fail, long
//! before an acknowledged write is at risk:
//!
//! 1. no further segment can be had: the log is compacted, whatever its size;
//! 2. a snapshot that meets the full disk gets the room of the reserve;
//! 3. what is left of the last segment runs out: writes are refused (`-NOSPACE`), the peers are
//!    told, and a leader hands over if the others have room; a follower that falls behind for want
//!    of room has its clients' reads answered by the leader. The last of the room is for deletions:
//!    the snapshots that follow them are shorter, and may fit;
//! 4. the disk is asked again and again; once it has room, all of this ends by itself.

use std::time::Duration;

use sampan_base::disk::DiskOp;
use sampan_base::{LogIndex, Time};
use sampan_kv::{Need, Reply};
use sampan_raft::Health;

use crate::job::DiskJob;
use crate::output::Event;
use crate::replica::Replica;

/// A disk without room for another log segment is asked again after this.
const MAINTAIN_RETRY: Duration = Duration::from_secs(1);

/// After it was given up for a snapshot that arrives, the reserve's room is left to that for so
/// long without another piece.
const ARRIVING_GRACE: Duration = Duration::from_secs(10);

/// On a full disk a deletion may be as long as this part of the largest entry: it must not be what
/// takes the last of the room.
const DELETION_DIVISOR: usize = 8;
/// Group commits are of whole pages, and what is under way takes a few of them.
const ROUNDING_BYTES: usize = 4 * sampan_storage::PAGE_BYTES as usize;

const NO_ROOM: &str = "NOSPACE no room for the log on the disks of a quorum, nothing was written";
const NO_ROOM_BUT_FOR_DELETIONS: &str = "NOSPACE no room for the log on the disks of a quorum, nothing was written; deletions are taken";

/// What a replica knows of its disk.
pub(crate) struct DiskHealth {
    /// Not before this: a full disk is asked again at leisure.
    maintain_at: Time,
    /// A snapshot has met the full disk: the reserve is to be given up for it.
    wants_reserve: bool,
    /// The reserve was given up: its room belongs to the snapshot under way, if that arrives from
    /// the leader until this time.
    reserve_lent_until: Option<Time>,
    /// Since when this node's disk has kept others waiting, or would if it mattered.
    waits_since: Option<Time>,
    /// A group commit stalled, and none has been quick since.
    is_slow: bool,
    /// As it was last told.
    health: Health,
}

impl DiskHealth {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            maintain_at: now,
            wants_reserve: false,
            reserve_lent_until: None,
            waits_since: None,
            is_slow: false,
            health: Health::Well,
        }
    }
}

impl Replica {
    // -------------------------------------------------------------------------- a full disk

    /// Prepares segments, removes what was released, keeps the reserve.
    pub(crate) fn maintain_storage(&mut self) {
        if self.disk.wants_reserve && !self.storage.is_maintaining() {
            self.disk.wants_reserve = false;
            if let Some(ops) = self.storage.release_reserve() {
                self.disk.reserve_lent_until = Some(self.now.mono + ARRIVING_GRACE);
                return self.maintain(ops);
            }
            self.resume_starved_snapshot();
        }
        if self.is_reserve_lent() {
            return;
        }
        if self.disk.maintain_at <= self.now.mono {
            self.storage.ask_again();
        }
        let (reserve_bytes, next_bytes) = self.reserve_bytes_wanted();
        self.storage.want_reserve(reserve_bytes, next_bytes);
        if let Some(ops) = self.storage.maintain() {
            self.maintain(ops);
        }
    }

    fn maintain(&mut self, ops: Vec<DiskOp>) {
        let log_room_bytes = self.storage.log_room_bytes();
        self.out.jobs.push(DiskJob::Maintain { ops, log_room_bytes });
    }

    /// A list of the segment lane has ended: for want of room, if `no_space`.
    pub(crate) fn maintenance_ended(&mut self, no_space: bool) {
        if no_space {
            self.disk.maintain_at = self.now.mono + MAINTAIN_RETRY;
        }
        if self.is_reserve_lent() {
            self.resume_starved_snapshot();
        }
    }

    /// A snapshot has met a full disk. True if it may try once more, on the room of the reserve.
    pub(crate) fn lend_reserve(&mut self) -> bool {
        let has_reserve = self.storage.has_reserve();
        self.disk.wants_reserve |= has_reserve;
        has_reserve
    }

    /// Other room than that of the reserve belongs to the snapshot under way.
    pub(crate) fn lend_room(&mut self) {
        self.disk.reserve_lent_until = Some(self.now.mono + ARRIVING_GRACE);
    }

    /// The reserve stays lent while a snapshot arrives.
    pub(crate) fn extend_loan(&mut self) {
        let until = self.now.mono + ARRIVING_GRACE;
        self.disk.reserve_lent_until = self.disk.reserve_lent_until.map(|_| until);
    }

    /// Does the room of the reserve belong to a snapshot? Then nothing else may take it.
    fn is_reserve_lent(&mut self) -> bool {
        let now = self.now.mono;
        let arrives = self.snapshots.receiving.is_some();
        let taking = self.snapshots.is_taking();
        let lent = &mut self.disk.reserve_lent_until;
        *lent = lent.filter(|&until| taking || (arrives && now < until));
        lent.is_some()
    }

    /// About what the next snapshots will take beyond what they have: each as much as the last one
    /// and what the log has since. One is written while as many as are kept are there, and they
    /// will all be of that size. And what the very next one will.
    fn reserve_bytes_wanted(&self) -> (u64, u64) {
        if self.options.raft_state_bytes_max.is_none() {
            return (0, 0);
        }
        let snapshot_bytes = self.newest_snapshot().map_or(0, |(_, bytes)| bytes);
        let next_bytes = snapshot_bytes + self.log_entries_bytes_since_snapshot();
        // Those that are kept, and the one that is written over.
        let files = self.options.storage.snapshots_kept + 1;
        let stored = self.storage.snapshots().iter().take(files);
        let stored_bytes: u64 = stored.map(|stored| stored.meta.size_bytes).sum();
        let held_bytes = stored_bytes + self.overwritten_bytes();
        // Never nothing: a start wants room as well.
        let more_bytes = (files as u64 * next_bytes).saturating_sub(held_bytes).max(1);
        let percent = self.options.snapshot_reserve_percent;
        let share = |bytes: u64| bytes.div_ceil(100) * percent;
        (share(more_bytes), share(next_bytes.min(more_bytes)))
    }

    /// Would compacting the log, whatever its size, give a full disk room back?
    pub(crate) fn is_compaction_pressing(&self) -> bool {
        let begins_at = self.oldest_fallback().unwrap_or(LogIndex::ZERO);
        self.storage.out_of_space() && begins_at < self.applied.index
    }

    /// Is there no room for another entry of the largest size, and none to be had? Then nothing
    /// more is taken from clients but deletions.
    fn is_starved(&self) -> bool {
        self.lacks_room_for(self.options.storage.entry_bytes_max)
    }

    /// Is half of that gone, too? Then these are not taken either: the rest is for what was taken
    /// already, and for the first entries of leaders.
    fn is_exhausted(&self) -> bool {
        self.lacks_room_for(self.options.storage.entry_bytes_max / 2)
    }

    fn lacks_room_for(&self, entries_bytes: usize) -> bool {
        let no_more = self.storage.out_of_space() || self.disk.reserve_lent_until.is_some();
        no_more && self.storage.append_needs_space(entries_bytes as u64)
    }

    /// Is this node's disk known to be full?
    pub(crate) fn is_full(&self) -> bool {
        self.disk.health.is_full()
    }

    /// Does this node's disk do what it is told, as far as is known?
    pub(crate) fn is_disk_well(&self) -> bool {
        self.disk.health == Health::Well
    }

    /// May this command of a client be written, or what is it told? Not if it might find no room,
    /// in the log of this leader or of a quorum. But a deletion may be the only way to more of it:
    /// the little that is left on a quorum is for those, if they are short, and some of it for that
    /// of all keys.
    pub(crate) fn check_room(&self, command: &[u8]) -> Result<(), Reply> {
        let has_room = !self.is_starved() && self.raft.quorum_has_room();
        let entry_bytes_max = self.options.storage.entry_bytes_max;
        let length_max = entry_bytes_max / DELETION_DIVISOR;
        match sampan_kv::need_of(command) {
            Need::Room if has_room && !self.lacks_room_for(entry_bytes_max / 2 + command.len()) => {
                Ok(())
            }
            Need::Room if self.has_room_for_deletions() => {
                Err(Reply::error(NO_ROOM_BUT_FOR_DELETIONS))
            }
            Need::Room => Err(Reply::error(NO_ROOM)),
            _ if has_room => Ok(()),
            Need::Flush if !self.lacks_room_for(length_max) => Ok(()),
            _ if !self.has_room_for_deletions() => Err(Reply::error(NO_ROOM)),
            _ if command.len() > length_max => Err(Reply::Error(
                format!("NOSPACE no room for a deletion of more than {length_max} bytes").into(),
            )),
            _ => Ok(()),
        }
    }

    /// Is there room for deletions on a quorum, and for the clock of keys that expire?
    pub(crate) fn has_room_for_deletions(&self) -> bool {
        self.raft.quorum_has_room_for_deletions()
    }

    /// Is what clients write to wait: for the end of a snapshot, or for a leader whose disk is
    /// better?
    pub(crate) fn holds_writes(&self) -> bool {
        self.is_log_at_bound() || self.is_starved() && self.raft.is_yielding(self.now.mono)
    }

    /// Is so much under way on a disk that gets full that it has to be seen first what is left?
    /// Where it is full, deletions are to leave half of what is theirs.
    pub(crate) fn is_tight(&self, more_bytes: usize) -> bool {
        let under_way_bytes = self.bytes_under_way();
        let divisor = if self.is_starved() { 4 } else { 2 };
        let left_bytes = self.options.storage.entry_bytes_max / divisor;
        under_way_bytes > 0
            && self.lacks_room_for(left_bytes + under_way_bytes + more_bytes + ROUNDING_BYTES)
            && self.has_room_for_deletions()
    }

    /// Bytes of commands that are to be written, or are not known to be yet.
    pub(crate) fn bytes_under_way(&self) -> usize {
        let open_bytes = if self.writes.is_ready() { self.writes.open_bytes() } else { 0 };
        self.raft.uncommitted_bytes() + open_bytes
    }

    /// A snapshot let go of parts of the log: a full disk may be asked again.
    pub(crate) fn room_was_made(&mut self) {
        self.disk.maintain_at = self.now.mono;
    }

    /// Bytes of entries that there is room for: what fits the segments that are there.
    pub(crate) fn persist_room_bytes(&self) -> Option<usize> {
        if self.is_log_at_bound() {
            return None;
        }
        self.storage.append_room_bytes().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    // -------------------------------------------------------------------------- a slow disk

    /// A group commit has ended.
    pub(crate) fn group_commit_ended(&mut self) {
        self.disk.waits_since = None;
        let took = self.now.mono.since(self.persisting.since);
        if !self.raft.is_leader() {
            self.pace.foreground_took(self.now.mono, took);
        }
        self.disk.is_slow &= self.options.disk_stall.is_none_or(|stall| took >= stall);
    }

    /// When a group commit that is on its way begins to count as stalled.
    fn stall_due(&self) -> Time {
        match (self.options.disk_stall, self.disk.waits_since) {
            (Some(stall), Some(since)) if !self.disk.is_slow => since + stall,
            _ => Time::NEVER,
        }
    }

    /// Since when this node's disk has been behind the others. A leader's is only while they have
    /// committed what it has not: where all disks are slow no other leader would help.
    fn waits_since(&self) -> Option<Time> {
        if !self.persisting.is_under_way() {
            return None;
        }
        if !self.raft.is_leader() {
            return Some(self.persisting.since);
        }
        let is_behind = self.raft.durable_index() < self.raft.commit();
        is_behind.then(|| self.disk.waits_since.unwrap_or(self.now.mono))
    }

    /// Finds out how the disk is and tells consensus, which tells the others.
    pub(crate) fn observe_disk(&mut self) {
        self.disk.waits_since = self.waits_since();
        self.disk.is_slow |= self.stall_due() <= self.now.mono;
        let health = if self.is_exhausted() {
            Health::Exhausted
        } else if self.is_starved() {
            Health::Full
        } else if self.disk.is_slow {
            Health::Slow
        } else {
            Health::Well
        };
        if health == self.disk.health {
            return;
        }
        let before = std::mem::replace(&mut self.disk.health, health);
        self.raft.set_health(health);
        self.out.events.push(Event::Disk { before, now: health });
    }

    /// When the disk wants attention next.
    pub(crate) fn disk_deadline(&self) -> Time {
        let stall = self.stall_due();
        if let Some(until) = self.disk.reserve_lent_until {
            // One that is taken says itself when it has ended.
            return if self.snapshots.is_taking() { stall } else { stall.min(until) };
        }
        let lacks_room = self.storage.out_of_space() || self.storage.reserve_is_short();
        let asks_again = lacks_room && !self.storage.is_maintaining();
        if asks_again { stall.min(self.disk.maintain_at) } else { stall }
    }
}
