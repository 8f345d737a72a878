//! Writes this node's own snapshots.

use bytes::Bytes;
use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{Configuration, LogPosition, SnapshotId, SnapshotMeta, planted};

use super::format::{
    CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, DIGEST_BYTES_MAX,
    FIRST_CHUNK_OFFSET, Footer, Subject,
};
use super::{SNAPSHOT_DIRECTORY, SYNC_EVERY_BYTES, temporary_name};
use crate::Identity;
use crate::page::PAGE_BYTES;

/// A snapshot being written. Its lists run in order in the background lane. A lack of space is not
/// fatal here: [`SnapshotWriter::abandon`] the file and keep the log (rule S10). Any other error
/// is.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: FileName,
    subject: Subject,
    chunks: Vec<ChunkInfo>,
    offset: u64,
    synced_offset: u64,
    /// The end of what there is, shorter than a page: it is written with what comes next. A part of
    /// a page that was there would have to be read first.
    tail: Vec<u8>,
    /// Whose file it was. It may be longer than what is written.
    surplus: Option<FileName>,
}

impl SnapshotWriter {
    /// Begins the file of a snapshot of `position`, where `configuration` is in force. `id` names
    /// this very file and is never used twice in a cluster. It is written over the file of a
    /// `surplus` snapshot, if there is one ([`crate::Storage::take_surplus_snapshot`]): where a
    /// file is made of room that was freed before, the file system tells the device of both, and
    /// every sync on it waits.
    pub fn begin(
        maker: Identity,
        id: SnapshotId,
        position: LogPosition,
        configuration: &Configuration,
        surplus: Option<FileName>,
    ) -> (Self, Vec<DiskOp>) {
        let file = temporary_name(id);
        let mut ops = match surplus.clone() {
            // Under its old name nothing of it may change.
            Some(from) => vec![
                DiskOp::Reuse { from, to: file.clone() },
                DiskOp::SyncDirectory { directory: SNAPSHOT_DIRECTORY.into() },
            ],
            None => vec![DiskOp::Create { file: file.clone(), zero_bytes: 0 }],
        };
        let subject = Subject { maker, id, position, configuration: configuration.clone() };
        let header = Bytes::from(subject.encode_header());
        ops.push(DiskOp::Write { file: file.clone(), offset: 0, bytes: header });
        let (offset, chunks, tail) = (FIRST_CHUNK_OFFSET, Vec::new(), Vec::new());
        (Self { file, subject, chunks, offset, synced_offset: 0, tail, surplus }, ops)
    }

    /// Appends a chunk. Panics if it is empty or longer than [`CHUNK_BYTES_MAX`].
    #[must_use = "the chunk is to be written"]
    pub fn chunk(&mut self, payload: &[u8]) -> Vec<DiskOp> {
        self.chunk_with(payload.len(), |out| out.extend_from_slice(payload)).1
    }

    /// Appends the chunk that `fill` appends to the buffer it gets, which has room for about
    /// `payload_bytes`: so that a large payload is not copied once more. Panics like
    /// [`SnapshotWriter::chunk`]. Returns what `fill` does, and the chunk to be written.
    pub fn chunk_with<T>(
        &mut self,
        payload_bytes: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> (T, Vec<DiskOp>) {
        let start = self.tail.len();
        let payload_start = start + CHUNK_HEADER_BYTES as usize;
        let mut bytes = Vec::with_capacity(payload_start + payload_bytes);
        bytes.append(&mut self.tail);
        bytes.resize(payload_start, 0);
        let filled = fill(&mut bytes);
        let payload = bytes.get(payload_start..).unwrap_or_default();
        assert!(
            !payload.is_empty() && payload.len() <= CHUNK_BYTES_MAX,
            "a chunk of {} bytes",
            payload.len()
        );
        let header = ChunkHeader::of(self.subject.id, self.chunks.len() as u32, payload);
        self.chunks.push(ChunkInfo { len_bytes: header.len_bytes, crc: header.crc });
        bytes[start..payload_start].copy_from_slice(&header.encode());
        self.tail = bytes.split_off(bytes.len() - bytes.len() % PAGE_BYTES as usize);
        let mut ops = Vec::with_capacity(2);
        self.write(bytes, &mut ops);
        if self.offset - self.synced_offset >= SYNC_EVERY_BYTES {
            self.synced_offset = self.offset;
            ops.push(DiskOp::Sync { file: self.file.clone() });
        }
        (filled, ops)
    }

    /// Ends the file with its footer and syncs it. `digest` is the host's, over the state; it comes
    /// back from [`super::SnapshotReader::digest`]. Panics if it is longer than
    /// [`DIGEST_BYTES_MAX`].
    pub fn finish(mut self, digest: &[u8]) -> (SnapshotMeta, FileName, Vec<DiskOp>) {
        assert!(digest.len() <= DIGEST_BYTES_MAX, "a digest of {} bytes", digest.len());
        let chunks = std::mem::take(&mut self.chunks);
        let footer = Footer { subject: self.subject.clone(), digest: digest.to_vec(), chunks };
        let mut ops = Vec::with_capacity(3);
        let mut end = std::mem::take(&mut self.tail);
        end.extend(footer.encode());
        self.write(end, &mut ops);
        if self.surplus.is_some() {
            ops.push(DiskOp::Truncate { file: self.file.clone(), len_bytes: self.offset });
        }
        if !planted!(SnapshotNotSynced) {
            ops.push(DiskOp::Sync { file: self.file.clone() });
        }
        (self.subject.meta(self.offset), self.file, ops)
    }

    /// Removes the file, whose name it may still have that was to be written over.
    pub fn abandon(self) -> Vec<DiskOp> {
        let files = [Some(self.file), self.surplus].into_iter().flatten();
        files.map(|file| DiskOp::Remove { file }).collect()
    }

    /// Bytes so far; those of the last page are written when it is full.
    pub const fn bytes_written(&self) -> u64 {
        self.offset + self.tail.len() as u64
    }

    /// The file, under its temporary name.
    pub const fn file(&self) -> &FileName {
        &self.file
    }

    fn write(&mut self, bytes: Vec<u8>, ops: &mut Vec<DiskOp>) {
        if bytes.is_empty() {
            return;
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        ops.push(DiskOp::Write { file: self.file.clone(), offset, bytes: bytes.into() });
    }
}
