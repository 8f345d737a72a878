//! A snapshot from the leader, read back after it is in force (rule S15).
//!
//! Its chunks were checked and loaded as they arrived: that the disk has them, too, is known only
//! when they were read. Nobody waits for that, so it goes at a part of the pace of the background,
//! and not while the node catches up. A chunk that is not what arrived makes the file doubted
//! (`doubts.rs`): it is set aside, and another one taken of the state.
//!
//! What it is not: a start, which reads all of its snapshot anyway.

use std::collections::VecDeque;
use std::time::Duration;

use sampan_base::{SnapshotId, Time};
use sampan_storage::snapshot::ChunkPlace;

use crate::doubts::AGAIN_AFTER;
use crate::job::DiskJob;
use crate::replica::Replica;

/// This goes at one part of so many of the pace.
const PACE_PARTS: u64 = 4;

/// A snapshot that is read back.
pub(crate) struct ReadingBack {
    id: SnapshotId,
    /// What is still to be read.
    chunks: VecDeque<ChunkPlace>,
    /// The first of them is being read.
    is_under_way: bool,
    not_before: Time,
}

impl ReadingBack {
    /// Bytes that are still to be read.
    fn unread_bytes(&self) -> u64 {
        self.chunks.iter().map(ChunkPlace::len_bytes).sum()
    }
}

impl Replica {
    /// The snapshot is in force, and nobody has read these chunks of it.
    pub(crate) fn begin_reading_back(&mut self, id: SnapshotId, chunks: Vec<ChunkPlace>) {
        let (chunks, not_before) = (chunks.into(), self.now.mono);
        let reading = ReadingBack { id, chunks, is_under_way: false, not_before };
        self.snapshots.reading_back = Some(reading);
    }

    /// When the next chunk may be read, if one waits for its turn.
    pub(crate) fn reading_back_at(&self) -> Time {
        let Some(reading) = &self.snapshots.reading_back else { return Time::NEVER };
        if reading.is_under_way || self.catches_up() {
            return Time::NEVER;
        }
        reading.not_before.max(self.background_free_at())
    }

    /// The next chunk, if its turn has come.
    pub(crate) fn read_back(&mut self) {
        if self.reading_back_at() > self.now.mono {
            return;
        }
        let Some(mut reading) = self.snapshots.reading_back.take() else { return };
        // It may have gone meanwhile: a later one holds what it does.
        let (file, chunk) = (self.snapshot_file(reading.id), reading.chunks.front().copied());
        let Some((file, chunk)) = file.zip(chunk) else { return };
        let bytes = chunk.len_bytes();
        self.pace.went(self.now.mono, bytes);
        let rate = self.pace.bytes_per_second(self.now.mono);
        let pause_us = rate.map_or(0, |rate| PACE_PARTS * bytes * 1_000_000 / rate);
        reading.not_before = self.now.mono + Duration::from_micros(pause_us);
        reading.is_under_way = true;
        self.out.jobs.push(DiskJob::SnapshotCheck { file, id: reading.id, chunk });
        self.snapshots.reading_back = Some(reading);
    }

    /// A chunk was read: is it what had arrived?
    pub(crate) fn on_chunk_checked(&mut self, id: SnapshotId, is_sound: bool) {
        let is_of_it = |reading: &mut ReadingBack| reading.id == id;
        let Some(mut reading) = self.snapshots.reading_back.take_if(is_of_it) else { return };
        reading.is_under_way = false;
        if is_sound {
            reading.chunks.pop_front();
        } else {
            // The whole file is looked at; if that is found sound, or not read, this comes again.
            reading.not_before = self.now.mono + AGAIN_AFTER;
            self.doubt_snapshot(id);
        }
        self.snapshots.reading_back = Some(reading).filter(|reading| !reading.chunks.is_empty());
    }

    /// Bytes of the snapshot from the leader that nobody has read back.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.snapshots.reading_back.as_ref().map_or(0, ReadingBack::unread_bytes)
    }
}
