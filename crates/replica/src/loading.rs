//! The state in a snapshot that arrives, built beside the running state while the rest of it is
//! still on its way. A chunk is checked and loaded as it goes by, if all before it are loaded; one
//! that is on the disk before that, for the transfer was interrupted, once it is synced.
//!
//! What it is not: the file's arrival and its coming into force, which are `receiving.rs`. Nothing
//! of the loaded state is used before the whole file was found to be the one announced.

use sampan_base::SnapshotId;
use sampan_base::codec::DecodeError;
use sampan_base::disk::FileName;
use sampan_kv::{Kv, Limits, Restore};
use sampan_storage::snapshot::{ChunkPlace, ChunkScan, PassingChunk, SnapshotReader};

use crate::job::DiskJob;

/// Bytes that are read ahead of the chunk that is loaded: enough to keep the lane busy, and no more
/// than may be loaded in one turn: three chunks.
const READ_AHEAD_BYTES: u64 = 768 << 10;

/// A state that is being loaded.
pub(crate) struct Loading {
    file: FileName,
    id: SnapshotId,
    scan: ChunkScan,
    restore: Restore,
    /// The chunk that is loaded while it goes by.
    passing: Option<PassingChunk>,
    /// Chunks whose reading was asked for, or not needed, and that were loaded.
    asked: usize,
    loaded: usize,
    /// Those of them that nobody has read back.
    unread: Vec<ChunkPlace>,
}

impl Loading {
    /// Of this file, of which the chunks that were found so far are here.
    pub(crate) fn new(
        file: FileName,
        id: SnapshotId,
        size_bytes: u64,
        scan: ChunkScan,
        limits: Limits,
    ) -> Self {
        let restore = Restore::new(limits, size_bytes);
        let (passing, unread) = (None, Vec::new());
        Self { file, id, scan, restore, passing, asked: 0, loaded: 0, unread }
    }

    /// Bytes of the file go by; none before them are missing. After an error it is of no use.
    pub(crate) fn pass(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DecodeError> {
        loop {
            if let Some(passing) = &mut self.passing {
                self.restore.feed(passing.pass(offset, bytes))?;
            }
            if let Some(passed) = self.passing.take_if(|passing| passing.is_whole()) {
                self.take_passed(passed)?;
            }
            let Some(place) = self.scan.find(offset, bytes) else { return Ok(()) };
            let is_next = self.loaded + 1 == self.scan.places().len();
            self.passing = is_next.then(|| PassingChunk::new(self.id, place));
        }
    }

    fn take_passed(&mut self, passed: PassingChunk) -> Result<(), DecodeError> {
        let place = passed.place();
        if !passed.is_sound() {
            return Err(DecodeError::Invalid("snapshot chunk, it is not what was written"));
        }
        self.unread.push(place);
        self.asked += 1;
        self.loaded += 1;
        Ok(())
    }

    /// The next chunk to read, if it is synced and so much may be read ahead.
    pub(crate) fn next_read(&mut self, synced_bytes: u64, attempt: u64) -> Option<DiskJob> {
        let chunk = self.next_chunk(synced_bytes)?;
        self.asked += 1;
        Some(DiskJob::SnapshotLoad { file: self.file.clone(), id: self.id, chunk, attempt })
    }

    fn next_chunk(&self, synced_bytes: u64) -> Option<ChunkPlace> {
        let places = self.scan.places();
        let next = *places.get(self.asked)?;
        let awaited = places.get(self.loaded)?;
        let ahead_bytes = next.end() - awaited.end();
        (next.end() <= synced_bytes && ahead_bytes <= READ_AHEAD_BYTES).then_some(next)
    }

    /// What was asked for and not loaded will not come.
    pub(crate) fn ask_again(&mut self) {
        self.asked = self.loaded;
    }

    /// A chunk was read.
    pub(crate) fn load(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        self.loaded += 1;
        self.restore.feed(payload)
    }

    /// Are the chunks that were found, and loaded, those of the whole file?
    pub(crate) fn is_of(&self, whole: &SnapshotReader) -> bool {
        whole.lists(self.scan.places())
    }

    /// Is every chunk that was found loaded?
    pub(crate) fn is_done(&self) -> bool {
        self.loaded == self.scan.places().len()
    }

    /// The state, and the chunks of it that nobody has read back.
    pub(crate) fn finish(self) -> Result<(Kv, Vec<ChunkPlace>), DecodeError> {
        Ok((self.restore.finish()?, self.unread))
    }

    /// The state as far as it was loaded: to be freed.
    pub(crate) fn abandon(self) -> Kv {
        self.restore.abandon()
    }
}
