//! Takes a snapshot file that arrives from a peer, piece by piece, by offset.

use bytes::Bytes;
use sampan_base::SnapshotMeta;
use sampan_base::disk::{DiskOp, FileName};

use super::{SNAPSHOT_DIRECTORY, partial_name};
use crate::PartialSnapshot;

/// A snapshot that is arriving. Its lists run in order in the background lane. Chunks are checked
/// as they go by ([`super::PassingChunk`]), or, once they are synced, read with [`super::load`].
/// When it is complete: [`SnapshotReceiver::finish`], [`super::SnapshotReader::open`], compare what
/// that says with what the leader announced and with the chunks that were found, and only then
/// [`crate::Storage::snapshot_commit`].
#[derive(Debug)]
pub struct SnapshotReceiver {
    file: FileName,
    size_bytes: u64,
    next_offset: u64,
    synced_offset: u64,
    /// Bytes between two syncs.
    sync_bytes: u64,
    /// The file's name is durable, or will be once the lists made so far have run.
    is_named: bool,
}

/// Why bytes were not taken. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Bytes before them are missing.
    #[error("bytes from offset {next_offset} on are missing")]
    Gap {
        /// What should come next.
        next_offset: u64,
    },
    /// They reach beyond the announced length.
    #[error("the snapshot is longer than announced")]
    TooLong,
}

impl SnapshotReceiver {
    /// Begins a new file for the snapshot that a leader announced, with a sync after so many bytes
    /// each ([`crate::Options::snapshot_sync_bytes`]).
    pub fn begin(meta: &SnapshotMeta, sync_bytes: u64) -> (Self, Vec<DiskOp>) {
        let receiver = Self {
            file: partial_name(meta.id),
            size_bytes: meta.size_bytes,
            next_offset: 0,
            synced_offset: 0,
            sync_bytes,
            is_named: false,
        };
        let ops = vec![receiver.make()];
        (receiver, ops)
    }

    /// Goes on with what [`crate::Storage::open`] found. Panics if the ids differ, or if nothing is
    /// missing.
    pub fn resume(partial: PartialSnapshot, meta: &SnapshotMeta, sync_bytes: u64) -> Self {
        assert!(partial.id == meta.id, "snapshot {} is not {}", meta.id, partial.id);
        let next_offset = partial.next_offset;
        assert!(next_offset < meta.size_bytes, "{next_offset} of {} bytes", meta.size_bytes);
        let (mut receiver, _) = Self::begin(meta, sync_bytes);
        receiver.file = partial.file;
        (receiver.next_offset, receiver.synced_offset) = (next_offset, next_offset);
        receiver.is_named = true;
        receiver
    }

    /// Takes bytes that belong at `offset`. What is here already is skipped; that may leave nothing
    /// to do.
    pub fn write(&mut self, offset: u64, mut data: Bytes) -> Result<Vec<DiskOp>, ReceiveError> {
        if offset > self.next_offset {
            return Err(ReceiveError::Gap { next_offset: self.next_offset });
        }
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= self.size_bytes);
        let end = end.ok_or(ReceiveError::TooLong)?;
        if end <= self.next_offset {
            return Ok(Vec::new());
        }
        let bytes = data.split_off((self.next_offset - offset) as usize);
        let mut ops =
            vec![DiskOp::Write { file: self.file.clone(), offset: self.next_offset, bytes }];
        self.next_offset = end;
        if end - self.synced_offset >= self.sync_bytes {
            self.synced_offset = end;
            ops.push(DiskOp::Sync { file: self.file.clone() });
            if !std::mem::replace(&mut self.is_named, true) {
                ops.push(DiskOp::SyncDirectory { directory: SNAPSHOT_DIRECTORY.into() });
            }
        }
        Ok(ops)
    }

    /// Goes back to where bytes are known to be here, and to be synced, after a write beyond it
    /// found no room. Before the next bytes: makes the file, if nothing is known to be in it.
    pub fn rewind(&mut self, offset: u64, synced_offset: u64) -> Vec<DiskOp> {
        assert!(offset <= self.next_offset, "{offset} is ahead of {}", self.next_offset);
        assert!(synced_offset <= offset, "{synced_offset} is ahead of {offset}");
        (self.next_offset, self.synced_offset) = (offset, synced_offset);
        let missing = offset == 0;
        // The name is made durable with the first sync.
        self.is_named &= synced_offset > 0;
        missing.then(|| self.make()).into_iter().collect()
    }

    /// All the room at once: a lack of it shows before anything is sent, and writes that find their
    /// place there do not hold up those who read what is before it.
    fn make(&self) -> DiskOp {
        DiskOp::Reserve { file: self.file.clone(), len_bytes: self.size_bytes }
    }

    /// The unfinished file.
    pub const fn file(&self) -> &FileName {
        &self.file
    }

    /// Bytes `[0, next_offset)` are here, or in lists already made.
    pub const fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Bytes `[0, synced_offset)` are durable once the lists made so far have run.
    pub const fn synced_offset(&self) -> u64 {
        self.synced_offset
    }

    /// Has all of it arrived?
    pub const fn is_complete(&self) -> bool {
        self.next_offset == self.size_bytes
    }

    /// Syncs the file. Panics if bytes are missing.
    pub fn finish(self) -> (FileName, Vec<DiskOp>) {
        assert!(self.is_complete(), "{} of {} bytes", self.next_offset, self.size_bytes);
        let ops = vec![DiskOp::Sync { file: self.file.clone() }];
        (self.file, ops)
    }
}
