//! Work for disks, as values: what the disk threads of a server and the simulator run alike.
//!
//! Four lanes. The log lane has group commits, and what else must be durable before the node
//! speaks. The segment lane prepares log segments, for which a group commit may wait; the
//! background lane writes snapshots and checks whole ones, which may take long; the reading lane
//! reads pieces of snapshots that others wait for, and checks single ones.

use std::sync::Arc;

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};
use sampan_base::{NodeId, SnapshotId, SnapshotMeta, planted};
use sampan_storage::snapshot::{self, ChunkPlace, SnapshotError, SnapshotReader};

/// A queue of jobs that run one after another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Log and hard state: an acknowledgement waits for it.
    Log,
    /// Segments of the log, made ready and removed.
    Segments,
    /// Snapshots, written and checked.
    Background,
    /// Pieces of snapshots, for peers or for the state that is being loaded.
    Reading,
}

/// One job.
#[derive(Clone, PartialEq, Debug)]
pub enum DiskJob {
    /// A group commit: run all, in order.
    Append(Vec<DiskOp>),
    /// Hard state alone: the watermark, or the end of a recovery.
    LogControl(Vec<DiskOp>),
    /// Prepare or remove log segments, or the reserve.
    Maintain {
        /// Run all, in order.
        ops: Vec<DiskOp>,
        /// Bytes that the log can take before it may have to wait for this.
        log_room_bytes: u64,
    },
    /// A step in writing or receiving a snapshot.
    SnapshotWrite(Vec<DiskOp>),
    /// Read a whole snapshot file back and check it (`docs/format.md`).
    SnapshotVerify(FileName),
    /// Make a verified snapshot the newest one.
    SnapshotCommit(Vec<DiskOp>),
    /// Read header and footer of a snapshot that has arrived.
    SnapshotOpen(FileName),
    /// Read back one chunk of a snapshot that is arriving or has arrived, and check it.
    SnapshotLoad {
        /// The file, of which more may be on its way.
        file: FileName,
        /// Which snapshot it is.
        id: SnapshotId,
        /// Which chunk.
        chunk: ChunkPlace,
        /// Which attempt to receive it this is for; comes back.
        attempt: u64,
    },
    /// Read one chunk of a snapshot that has arrived, only to check it: from the disk itself, where
    /// a host can tell. Not in the background lane, where an own snapshot would wait behind it.
    SnapshotCheck {
        /// Its file.
        file: FileName,
        /// Which snapshot.
        id: SnapshotId,
        /// Which chunk.
        chunk: ChunkPlace,
    },
    /// Read raw bytes of a snapshot for a peer.
    SnapshotSend {
        /// For whom.
        to: NodeId,
        /// Which snapshot.
        id: SnapshotId,
        /// Its file.
        file: FileName,
        /// From where.
        offset: u64,
        /// How much at most.
        len_bytes: u64,
        /// Which leader wants it sent from here; unset: this node, which leads.
        wanted_by: Option<NodeId>,
    },
}

impl DiskJob {
    /// The lane a job runs in.
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Append(_) | Self::LogControl(_) => Lane::Log,
            Self::Maintain { .. } => Lane::Segments,
            Self::SnapshotLoad { .. } | Self::SnapshotCheck { .. } | Self::SnapshotSend { .. } => {
                Lane::Reading
            }
            Self::SnapshotWrite(_)
            | Self::SnapshotVerify(_)
            | Self::SnapshotCommit(_)
            | Self::SnapshotOpen(_) => Lane::Background,
        }
    }
}

/// How a job ended.
#[derive(Clone, PartialEq, Debug)]
pub enum DiskDone {
    /// Of [`DiskJob::Append`].
    Append(Result<(), DiskError>),
    /// Of [`DiskJob::LogControl`].
    LogControl(Result<(), DiskError>),
    /// Of [`DiskJob::Maintain`].
    Maintain(Result<(), DiskError>),
    /// Of [`DiskJob::SnapshotWrite`].
    SnapshotWrite(Result<(), DiskError>),
    /// Of [`DiskJob::SnapshotVerify`].
    SnapshotVerify(Result<SnapshotMeta, SnapshotError>),
    /// Of [`DiskJob::SnapshotCommit`].
    SnapshotCommit(Result<(), DiskError>),
    /// Of [`DiskJob::SnapshotOpen`].
    SnapshotOpen(Result<Arc<SnapshotReader>, String>),
    /// Of [`DiskJob::SnapshotLoad`].
    SnapshotLoad {
        /// As in the job.
        attempt: u64,
        /// The bytes.
        payload: Result<Bytes, String>,
    },
    /// Of [`DiskJob::SnapshotCheck`].
    SnapshotCheck {
        /// Which snapshot.
        id: SnapshotId,
        /// It could be read, and is what was written.
        is_sound: bool,
    },
    /// Of [`DiskJob::SnapshotSend`].
    SnapshotSend {
        /// For whom.
        to: NodeId,
        /// Which snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
        /// The bytes.
        data: Result<Bytes, DiskError>,
        /// As in the job.
        wanted_by: Option<NodeId>,
    },
}

/// Runs a job to its end on a disk.
pub fn run(disk: &mut dyn Disk, job: DiskJob) -> DiskDone {
    match job {
        DiskJob::Append(ops) => {
            let done = disk.execute_all(&ops);
            let again = ops.last().filter(|_| planted!(FailedSyncRetried) && done.is_err());
            DiskDone::Append(again.map_or(done, |sync| disk.execute(sync)))
        }
        DiskJob::LogControl(ops) => DiskDone::LogControl(disk.execute_all(&ops)),
        DiskJob::Maintain { ops, .. } => DiskDone::Maintain(disk.execute_all(&ops)),
        DiskJob::SnapshotWrite(ops) => DiskDone::SnapshotWrite(disk.execute_all(&ops)),
        DiskJob::SnapshotCommit(ops) => DiskDone::SnapshotCommit(disk.execute_all(&ops)),
        DiskJob::SnapshotVerify(file) => DiskDone::SnapshotVerify(snapshot::verify(disk, &file)),
        DiskJob::SnapshotOpen(file) => DiskDone::SnapshotOpen(
            SnapshotReader::open(disk, &file).map(Arc::new).map_err(|error| error.to_string()),
        ),
        DiskJob::SnapshotLoad { file, id, chunk, attempt } => {
            let payload = snapshot::load(disk, &file, id, chunk).map_err(|error| error.to_string());
            DiskDone::SnapshotLoad { attempt, payload }
        }
        DiskJob::SnapshotCheck { file, id, chunk } => {
            let is_sound = snapshot::load(disk, &file, id, chunk).is_ok();
            DiskDone::SnapshotCheck { id, is_sound }
        }
        DiskJob::SnapshotSend { to, id, file, offset, len_bytes, wanted_by } => {
            let read = disk.read(&file, offset, len_bytes);
            // It may be removed meanwhile, and lose its bytes.
            let is_whole = read.as_ref().is_ok_and(|data| data.len() as u64 == len_bytes);
            let data =
                if is_whole || read.is_err() { read } else { Err(DiskError::NotFound(file)) };
            DiskDone::SnapshotSend { to, id, offset, data, wanted_by }
        }
    }
}
