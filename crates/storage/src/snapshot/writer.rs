//! Writes this node's own snapshots.

use bytes::Bytes;
use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{Configuration, LogPosition, SnapshotMeta, planted};

use super::format::{
    CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, DIGEST_BYTES_MAX,
    FIRST_CHUNK_OFFSET, Footer, Subject,
};
use super::{SYNC_EVERY_BYTES, temporary_name};
use crate::Identity;

/// A snapshot being written. Its lists run in order in the background lane. A lack of space is not
/// fatal here: [`SnapshotWriter::abandon`] the file and keep the log (rule S10). Any other error is.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: FileName,
    subject: Subject,
    chunks: Vec<ChunkInfo>,
    offset: u64,
    synced_offset: u64,
}

impl SnapshotWriter {
    /// Begins the file of a snapshot of `position`, where `configuration` is in force. `id` names
    /// this very file and is never used twice in a cluster.
    pub fn begin(
        maker: Identity,
        id: u64,
        position: LogPosition,
        configuration: &Configuration,
    ) -> (Self, Vec<DiskOp>) {
        let subject = Subject { maker, id, position, configuration: configuration.clone() };
        let file = temporary_name(id);
        let header = Bytes::from(subject.encode_header());
        let ops = vec![
            DiskOp::Create { file: file.clone(), zero_bytes: 0 },
            DiskOp::Write { file: file.clone(), offset: 0, bytes: header },
        ];
        let offset = FIRST_CHUNK_OFFSET;
        (Self { file, subject, chunks: Vec::new(), offset, synced_offset: 0 }, ops)
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
        const HEADER: usize = CHUNK_HEADER_BYTES as usize;
        let mut bytes = Vec::with_capacity(HEADER + payload_bytes);
        bytes.resize(HEADER, 0);
        let filled = fill(&mut bytes);
        let payload = bytes.get(HEADER..).unwrap_or_default();
        assert!(
            !payload.is_empty() && payload.len() <= CHUNK_BYTES_MAX,
            "a chunk of {} bytes",
            payload.len()
        );
        let header = ChunkHeader::of(self.subject.id, self.chunks.len() as u32, payload);
        self.chunks.push(ChunkInfo { len_bytes: header.len_bytes, crc: header.crc });
        bytes[..HEADER].copy_from_slice(&header.encode());
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
        let mut ops = Vec::with_capacity(2);
        self.write(footer.encode(), &mut ops);
        if !planted!(SnapshotNotSynced) {
            ops.push(DiskOp::Sync { file: self.file.clone() });
        }
        (self.subject.meta(self.offset), self.file, ops)
    }

    /// Removes the file.
    pub fn abandon(self) -> Vec<DiskOp> {
        vec![DiskOp::Remove { file: self.file }]
    }

    /// Bytes written so far.
    pub const fn bytes_written(&self) -> u64 {
        self.offset
    }

    /// The file, under its temporary name.
    pub const fn file(&self) -> &FileName {
        &self.file
    }

    fn write(&mut self, bytes: Vec<u8>, ops: &mut Vec<DiskOp>) {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        ops.push(DiskOp::Write { file: self.file.clone(), offset, bytes: bytes.into() });
    }
}
