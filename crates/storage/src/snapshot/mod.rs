//! Snapshot files. One self-contained file each, so that a transfer to a peer is a copy of bytes by
//! offset: a header page; chunks, each with its own checksum; a footer that repeats the header and
//! lists all chunks. The payload is opaque here.
//!
//! The way of a snapshot (rule S15): [`SnapshotWriter`] makes a file under a temporary name and
//! syncs it; [`verify`] reads all of it back; only then [`crate::Storage::snapshot_commit`] gives
//! it its name; only then is the log trimmed. Of one that [`SnapshotReceiver`] makes the chunks are
//! checked as they arrive ([`PassingChunk`]), and read back when it has its name.

mod format;
mod reader;
mod receiver;
mod scan;
mod stream;
mod writer;

use std::sync::Arc;

use sampan_base::disk::{DiskError, DiskOp, FileName};
use sampan_base::{SnapshotId, SnapshotMeta};

pub(crate) use format::SNAPSHOT_MAGIC;
pub use format::{CHUNK_BYTES_MAX, DIGEST_BYTES_MAX, FIRST_CHUNK_OFFSET};
pub(crate) use reader::scan_partial;
pub use reader::{SnapshotReader, load, read_chunk, verify};
pub use receiver::{ReceiveError, SnapshotReceiver};
pub use scan::{ChunkPlace, ChunkScan, PassingChunk};
pub use stream::{SnapshotEnd, SnapshotHeader, SnapshotPart, SnapshotStream};
pub use writer::SnapshotWriter;

#[cfg(test)]
pub(crate) use format::{
    CHUNK_HEADER_BYTES, CHUNK_MAGIC, FOOTER_MAGIC, TRAILER_BYTES, TRAILER_MAGIC,
};

/// The directory of snapshots.
pub(crate) const SNAPSHOT_DIRECTORY: &str = "snapshots";

/// Bytes of a snapshot written between two syncs: bounds what the last sync has to wait for.
const SYNC_EVERY_BYTES: u64 = 16 << 20;

/// Why a snapshot file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not what was written.
    #[error("{file} is damaged at offset {offset}: {why}")]
    Damaged {
        /// The file.
        file: FileName,
        /// Where, in bytes.
        offset: u64,
        /// How it shows.
        why: &'static str,
    },
    /// It was written by another version of the format.
    #[error("{file} has format version {version}, this program reads {}", crate::FORMAT_VERSION)]
    UnsupportedVersion {
        /// The file.
        file: FileName,
        /// Its version.
        version: u32,
    },
    /// The disk failed.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
}

/// How the name of a committed snapshot ends.
pub const COMPLETE: &str = ".snap";
/// How the name of a snapshot ends that is being written.
pub const UNFINISHED: &str = ".snap.tmp";
/// How the name of a snapshot ends that is arriving from a peer.
pub const ARRIVING: &str = ".partial";

/// The name of a committed snapshot. Names sort by index.
pub(crate) fn file_name(meta: &SnapshotMeta) -> FileName {
    let (index, term) = (meta.position.index, meta.position.term);
    let id = meta.id;
    Arc::from(format!("{SNAPSHOT_DIRECTORY}/{:020}-{:020}-{id}{COMPLETE}", index.0, term.0))
}

/// Renames a damaged one, so that it is kept and not taken for a candidate again.
pub(crate) fn set_aside(file: &FileName) -> DiskOp {
    DiskOp::Rename { from: file.clone(), to: Arc::from(format!("{file}.damaged")) }
}

/// The name of a snapshot that this node is writing.
fn temporary_name(id: SnapshotId) -> FileName {
    Arc::from(format!("{SNAPSHOT_DIRECTORY}/{id}{UNFINISHED}"))
}

/// The name of a snapshot that is arriving from a peer; the only unfinished file a restart keeps.
fn partial_name(id: SnapshotId) -> FileName {
    Arc::from(format!("{SNAPSHOT_DIRECTORY}/{id}{ARRIVING}"))
}
