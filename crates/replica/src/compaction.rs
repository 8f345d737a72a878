//! When the log is long enough for a snapshot, how far it is trimmed after one, and where it stops
//! to wait for one (the course's `maxraftstate`; thesis 5.1.3). Taking the snapshot is
//! `taking.rs`.
//!
//! Two snapshots are kept, and the log on disk back to the older one. Let T be the limit: a
//! snapshot is due each time the files of the log have grown by T/2, so that they are about T long
//! when it begins, and what does not fit 2 T waits until it is there. A snapshot that the log grew
//! fast beside makes the next one begin earlier, and one that falls behind the log does not give
//! way to clients: they would have to wait for it.

use std::time::Duration;

use sampan_base::{LogIndex, Time};
use sampan_raft::{PeerState, PeerStatus};
use sampan_storage::StoredSnapshot;

use crate::input::Now;
use crate::replica::Replica;

/// A snapshot is taken this much earlier while less room is kept for it than it may need.
const RESERVE_SHORT_DIVISOR: u64 = 4;
/// How often it is looked whether a follower still needs the log that is kept for it.
const RETAIN_CHECK: Duration = Duration::from_millis(200);
/// Nothing new in the log for so long: the node is at rest, and a snapshot is in nobody's way.
const REST: Duration = Duration::from_secs(10);
/// A log of a quarter of its limit, and no less than this, is worth a snapshot at rest.
const REST_LOG_BYTES_MIN: u64 = 16 << 20;

/// What the length of the log includes but the next snapshot could not free: entries kept for a
/// lagging follower or for falling back to the older snapshot, the rest of a segment that is still
/// needed in part, and, on disk, growth during the last snapshot as far as the next one can wait.
#[derive(Default)]
struct Retained {
    entries_bytes: u64,
    on_disk_bytes: u64,
}

/// What a replica knows of the length of its log.
pub(crate) struct Compaction {
    retained: Retained,
    check_at: Option<Time>,
    /// The end of the log, and since when it is there.
    end: (LogIndex, Time),
}

impl Compaction {
    pub(crate) fn new(now: Now) -> Self {
        let end = (LogIndex::ZERO, now.mono);
        Self { retained: Retained::default(), check_at: None, end }
    }

    /// The log begins anew, after a snapshot from the leader.
    pub(crate) fn begin_anew(&mut self) {
        self.retained = Retained::default();
    }
}

/// Bytes of log that are worth a snapshot at rest, where so many are worth one at any time.
fn worth_at_rest(bytes_max: u64) -> u64 {
    (bytes_max / 4).max(REST_LOG_BYTES_MIN)
}

/// Where the log has a limit of so many bytes, a snapshot is due when it has grown by this on the
/// disk.
fn growth_on_disk_max(bytes_max: u64, segment_bytes: u64) -> u64 {
    (bytes_max / 2).max(2 * segment_bytes)
}

/// A peer needs the log after this: after the snapshot that it is getting, if it is.
fn needed_from(peer: &PeerStatus) -> LogIndex {
    match peer.state {
        PeerState::Snapshot { index, .. } => index.max(peer.matched),
        PeerState::Probe | PeerState::Replicate => peer.matched,
    }
}

impl Replica {
    /// Looks where the log ends, and lets go of what was kept for followers that need it no more.
    pub(crate) fn observe_log(&mut self) {
        let last = self.raft.last_index();
        if self.compaction.end.0 != last {
            self.compaction.end = (last, self.now.mono);
        }
        if self.compaction.check_at.is_some_and(|at| at <= self.now.mono) {
            self.trim_log();
        }
    }

    /// When it is to be seen whether this node rests on a long log: not more than once, for if a
    /// snapshot is not due then, nothing but an input can make it due. Cheap, and so it may be
    /// wrong about a log that a snapshot holds already.
    pub(crate) fn rest_deadline(&self) -> Time {
        let (last, since) = self.compaction.end;
        let may_rest = self.applied.index == last && !self.snapshots.is_taking();
        let is_worth = |max| self.log_entries_bytes() > worth_at_rest(max);
        if !may_rest || !self.log_bytes_max().is_some_and(is_worth) {
            return Time::NEVER;
        }
        let at = (since + REST).max(self.snapshots.not_before);
        if at > self.now.mono { at } else { Time::NEVER }
    }

    /// Is there a snapshot beyond this index, or about to be? One from the leader that came too
    /// late to be installed may even be ahead of the state.
    pub(crate) fn has_one_after(&self, index: LogIndex) -> bool {
        self.is_committing_received()
            || self.newest_snapshot().is_some_and(|(newest, _)| newest > index)
    }

    /// Is there anything that no snapshot holds?
    fn is_ahead_of_snapshots(&self) -> bool {
        self.is_beyond_snapshots(self.applied.index)
    }

    pub(crate) fn is_beyond_snapshots(&self, index: LogIndex) -> bool {
        index > self.newest_snapshot().map_or(LogIndex::ZERO, |(newest, _)| newest)
    }

    /// An operator wants a snapshot of all that this node's clients know of, which a follower's
    /// state may not hold yet. None is taken if one has that.
    pub(crate) fn want_snapshot(&mut self) {
        self.snapshots.wanted = Some(self.lines.told.max(self.applied.index));
    }

    pub(crate) fn snapshot_is_due(&self) -> bool {
        let snapshots = &self.snapshots;
        let waits = snapshots.is_taking() || self.now.mono < snapshots.not_before;
        if waits || self.has_one_after(self.applied.index) {
            return false;
        }
        if self.is_compaction_pressing() {
            return true;
        }
        // While the disk has no room to keep more for it, the log may not outgrow what there is.
        let divisor = if self.storage.reserve_is_short() { RESERVE_SHORT_DIVISOR } else { 1 };
        let outgrown = |max| self.log_has_grown_past(max / divisor) && self.log_is_mostly_applied();
        let is_wanted = |index| index <= self.applied.index && self.is_beyond_snapshots(index);
        let due = snapshots.wanted.is_some_and(is_wanted)
            || snapshots.wanted_for_backup
            || self.log_bytes_max().is_some_and(|max| outgrown(max) || self.rests_on_log(max));
        due && self.is_ahead_of_snapshots() || self.newest_is_set_aside()
    }

    /// Is the node at rest, with a log in memory that a snapshot would free? Writes that come and
    /// go can make it write at most four bytes of snapshots for each byte of log, while it is at
    /// rest.
    fn rests_on_log(&self, bytes_max: u64) -> bool {
        let (last, since) = self.compaction.end;
        let worth = worth_at_rest(bytes_max);
        let covered = self.newest_snapshot().map_or(LogIndex::ZERO, |(index, _)| index);
        self.applied.index == last
            && self.now.mono.since(since) >= REST
            && self.log_entries_bytes() > worth
            && self.raft.log_bytes_after(covered) as u64 > worth
    }

    /// Would a snapshot now let go of half of the log at least? After a restart little of a long
    /// log is known to be committed at first, and a snapshot of that little would be in vain.
    fn log_is_mostly_applied(&self) -> bool {
        let start = self.raft.first_index().prev().0;
        2 * (self.applied.index.0 - start) >= self.raft.last_index().0 - start
    }

    /// Has the log grown by more than `bytes_max` of entries since the last snapshot, or its files
    /// by half of that (but two segments, for files are freed by whole segments)? The other half
    /// belongs to the log back to the older snapshot. While a peer is being sent a snapshot, which
    /// another one would not help and which shares the disk with it, files may grow twice as much
    /// if the next snapshot still fits below the bound.
    fn log_has_grown_past(&self, bytes_max: u64) -> bool {
        let retained = &self.compaction.retained;
        let on_disk_max = growth_on_disk_max(bytes_max, self.options.storage.segment_bytes);
        let live_bytes = self.storage.log_bytes_live();
        let on_disk_bytes = live_bytes.saturating_sub(retained.on_disk_bytes);
        let has_room =
            || self.log_bytes_bound().is_none_or(|bound| live_bytes + on_disk_max / 2 < bound);
        self.log_entries_bytes_since_snapshot() > bytes_max
            || on_disk_bytes > 2 * on_disk_max
            || on_disk_bytes > on_disk_max && !(self.sends_snapshot() && has_room())
    }

    /// While a snapshot is written the log on disk stays below twice the limit (or eight segments,
    /// if that is more): what is beyond waits for the snapshot, and so do clients.
    pub(crate) fn is_log_at_bound(&self) -> bool {
        self.snapshots.is_taking()
            && self.log_bytes_bound().is_some_and(|bound| self.storage.log_bytes_live() > bound)
    }

    /// With so many bytes of log on the disk there may be no room for another segment.
    pub(crate) fn log_bytes_bound(&self) -> Option<u64> {
        self.log_bytes_kept_max().map(|bytes| bytes - self.options.storage.segment_bytes)
    }

    /// Twice the limit (or eight segments, if that is more): so much log there may be, on the disk,
    /// and in memory for what live followers need next.
    pub(crate) fn log_bytes_kept_max(&self) -> Option<u64> {
        let segments_bytes = 8 * self.options.storage.segment_bytes;
        self.log_bytes_max().map(|limit| limit.saturating_mul(2).max(segments_bytes))
    }

    fn log_entries_bytes(&self) -> u64 {
        self.raft.live_log_bytes() as u64
    }

    /// Bytes of entries in memory that the newest snapshot lacks, as of when the log was last
    /// trimmed.
    pub(crate) fn log_entries_bytes_since_snapshot(&self) -> u64 {
        self.log_entries_bytes().saturating_sub(self.compaction.retained.entries_bytes)
    }

    /// The size of log at which a snapshot is due: the limit, or its share of the last snapshot.
    pub(crate) fn log_bytes_max(&self) -> Option<u64> {
        let limit = self.options.raft_state_bytes_max?;
        let snapshot_bytes = self.newest_snapshot().map_or(0, |(_, bytes)| bytes);
        Some(limit.max(snapshot_bytes / 100 * self.options.raft_state_snapshot_percent))
    }

    /// A snapshot was taken, begun when the log had so many bytes on the disk.
    pub(crate) fn log_is_covered(&mut self, log_bytes_before: u64) {
        let grown_bytes = self.storage.log_bytes_live().saturating_sub(log_bytes_before);
        self.compaction.retained.on_disk_bytes = log_bytes_before;
        self.trim_log();
        self.put_off_next_snapshot(grown_bytes);
    }

    /// What the log has grown by while a snapshot was taken is not counted for the next one, as far
    /// as that will have the room that this one took, and a quarter more.
    fn put_off_next_snapshot(&mut self, grown_bytes: u64) {
        let Some((limit, bound)) = self.log_bytes_max().zip(self.log_bytes_bound()) else { return };
        let retained_bytes = &mut self.compaction.retained.on_disk_bytes;
        let due_at =
            *retained_bytes + growth_on_disk_max(limit, self.options.storage.segment_bytes);
        let spare_bytes = bound.saturating_sub(due_at + grown_bytes / 4 * 5);
        *retained_bytes += grown_bytes.min(spare_bytes);
    }

    /// Drops the log that the newest snapshot covers, except what a live follower still needs, as
    /// long as that is not too much (rule R11).
    fn trim_log(&mut self) {
        self.compaction.check_at = None;
        // One that came from the leader too late to be installed may be ahead of the state.
        let applied = self.applied.index;
        let usable = |stored: &&StoredSnapshot| stored.meta.position.index <= applied;
        let Some(newest) = self.storage.snapshots().iter().find(usable) else { return };
        let meta = newest.meta.clone();
        let covered = meta.position.index;
        let keep_from = self.kept_for_followers(covered);
        self.raft.compact(meta, keep_from);
        let on_disk_bytes = self.storage.log_bytes_live();
        if let Some(oldest) = self.oldest_fallback() {
            // What is kept for followers is sent from memory. What is not on its way to the disk
            // yet is still to be appended there.
            self.storage.trim(self.raft.handed_out_through().min(oldest));
        }
        let freed_bytes = on_disk_bytes - self.storage.log_bytes_live();
        let retained_bytes = self.compaction.retained.on_disk_bytes.saturating_sub(freed_bytes);
        self.compaction.retained = Retained {
            entries_bytes: self.log_entries_bytes() - self.raft.log_bytes_after(covered) as u64,
            on_disk_bytes: retained_bytes.min(self.storage.log_bytes_live()),
        };
        if keep_from < covered {
            self.compaction.check_at = Some(self.now.mono + RETAIN_CHECK);
        }
    }

    /// The oldest snapshot that a restart may fall back to, if there are as many as are kept: the
    /// log on disk reaches back to it, so that a damaged newest one costs nothing
    /// (`docs/format.md`). A full disk cannot afford the log from its beginning on.
    pub(crate) fn oldest_fallback(&self) -> Option<LogIndex> {
        let stored = self.storage.snapshots();
        let only = stored.first().filter(|_| self.storage.out_of_space());
        let oldest = stored.get(self.options.storage.snapshots_kept - 1).or(only)?;
        Some(oldest.meta.position.index)
    }

    /// Through where the log in memory may go, for a snapshot that covers this much: what live
    /// followers need next stays, as far as it is within the cap. Whoever needs more than that
    /// needs a snapshot anyway.
    fn kept_for_followers(&self, covered: LogIndex) -> LogIndex {
        let cap = self.log_bytes_kept_max().unwrap_or(u64::MAX);
        let cap = usize::try_from(cap).unwrap_or(usize::MAX);
        let mut needed: Vec<LogIndex> =
            self.live_peers().map(|peer| needed_from(&peer)).filter(|&at| at < covered).collect();
        needed.sort_unstable();
        let affordable = |at: &LogIndex| self.raft.log_bytes_after(*at) <= cap;
        needed.into_iter().find(affordable).unwrap_or(covered)
    }
}
