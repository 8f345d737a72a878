//! A disk as Raft sees it: batches become durable in order, when the test says so.

use std::collections::VecDeque;

use bytes::Bytes;
use sampan_base::{Configuration, Entry, HardState, LogIndex, LogPosition, SnapshotMeta};
use sampan_raft::{Persist, Persisted, Restored};

#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    /// The stored log starts after this.
    pub start: LogPosition,
    pub entries: Vec<Entry>,
    /// The newest last.
    pub snapshots: Vec<(SnapshotMeta, Bytes)>,
    pub bootstrap: Configuration,
    /// Told to the node when it starts.
    pub non_voting_until: Option<LogIndex>,
    /// The same: there was nothing on this disk.
    pub newborn: bool,
    /// Written, not synced.
    pub pending: VecDeque<Persist>,
    /// A snapshot file that is not complete.
    pub receiving: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Disk {
    /// The oldest batch becomes durable.
    pub fn sync(&mut self) -> Option<Persisted> {
        let batch = self.pending.pop_front()?;
        self.store(batch.hard_state, batch.log_reset, batch.entries);
        Some(batch.token.synced())
    }

    /// The oldest batch reaches the disk, but nobody hears of it.
    pub fn sync_unnoticed(&mut self) {
        if let Some(batch) = self.pending.pop_front() {
            self.store(batch.hard_state, batch.log_reset, batch.entries);
        }
    }

    fn store(
        &mut self,
        hard_state: Option<HardState>,
        reset: Option<LogPosition>,
        entries: Vec<Entry>,
    ) {
        if let Some(hard_state) = hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the stored term goes back");
            self.hard_state = hard_state;
        }
        if let Some(start) = reset {
            self.start = start;
            self.entries.clear();
        }
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.start.index, "{} is before the stored log", first.index);
        self.entries.retain(|entry| entry.index < first.index);
        assert_eq!(first.index, self.last().index.next(), "a hole in the stored log");
        self.entries.extend(entries);
    }

    pub fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.start, Entry::position)
    }

    /// Drops stored entries that a snapshot covers and no write on its way replaces.
    pub fn trim(&mut self, through: LogIndex) {
        let mut through = through.min(self.last().index);
        for batch in &self.pending {
            if batch.log_reset.is_some() {
                return;
            }
            if let Some(first) = batch.entries.first() {
                through = through.min(first.index.prev());
            }
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.index == through) {
            self.start = entry.position();
            self.entries.retain(|entry| entry.index > through);
        }
    }

    pub fn put_snapshot(&mut self, meta: SnapshotMeta, file: Bytes) {
        self.snapshots.push((meta, file));
        self.snapshots.sort_by_key(|(meta, _)| meta.position);
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
    }

    pub fn snapshot(&self) -> Option<&(SnapshotMeta, Bytes)> {
        self.snapshots.last()
    }

    /// Is this entry here to stay?
    pub fn holds(&self, position: LogPosition) -> bool {
        let covered =
            self.snapshot().is_some_and(|(meta, _)| meta.position.index >= position.index);
        let stored = self.entries.iter().any(|entry| entry.position() == position);
        covered || stored || self.start == position
    }

    pub fn restored(&self) -> Restored {
        Restored {
            hard_state: self.hard_state,
            snapshot: self.snapshot().map(|(meta, _)| meta.clone()),
            bootstrap: self.bootstrap.clone(),
            entries: self.entries.clone(),
            log_start: self.start,
            non_voting_until: self.non_voting_until,
            newborn: self.newborn,
        }
    }
}
