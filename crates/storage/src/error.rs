//! Why a data directory was not opened. `docs/format.md` says what an operator does about each.

use std::collections::BTreeSet;
use std::fmt;

use sampan_base::disk::{DiskError, FileName};
use sampan_base::{ClusterId, LogIndex, NodeId};

/// Why [`crate::Storage::create`] or [`crate::Storage::open`] refused. Nothing was changed, except
/// where a `Disk` error cut the work short; every step is safe to do again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no node here yet.
    #[error("the data directory holds no node: create it first")]
    NotCreated,
    /// A node lives here already, or did.
    #[error("the data directory is in use: {0} exists")]
    AlreadyCreated(FileName),
    /// The data belongs to another cluster.
    #[error("the data belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// What the identity file says.
        found: ClusterId,
        /// What was asked for.
        expected: ClusterId,
    },
    /// The data belongs to another node of this cluster.
    #[error("the data belongs to node {found}, not to {expected}")]
    OtherNode {
        /// What the identity file says.
        found: NodeId,
        /// What was asked for.
        expected: NodeId,
    },
    /// The cluster was formed of other nodes.
    #[error("the cluster was formed of {}, not of {}", shown(found), shown(expected))]
    OtherMembers {
        /// What the members file says.
        found: BTreeSet<NodeId>,
        /// What was asked for.
        expected: BTreeSet<NodeId>,
    },
    /// What is here was made with other settings of those that must be the same on all nodes.
    #[error("it was made with other settings of its state")]
    OtherSettings {
        /// What the members file says.
        found: Vec<u64>,
    },
    /// The members file is damaged.
    #[error("members is damaged: {0}")]
    DamagedMembers(&'static str),
    /// The identity file is damaged, or gone while other files show that a node lived here.
    #[error("identity is damaged: {0}")]
    DamagedIdentity(&'static str),
    /// Neither copy of term and vote can be trusted: this node must not vote again under its name
    /// (rule S14).
    #[error("hard state is damaged: {0}")]
    DamagedHardState(&'static str),
    /// The log is damaged where it may hold acknowledged entries.
    #[error("the log is damaged: {0}")]
    DamagedLog(Damage),
    /// No snapshot verifies from which the log goes on. The file is left as it is.
    #[error("snapshot {file} is damaged and the log does not reach back to an older one: {why}")]
    DamagedSnapshot {
        /// The newest damaged snapshot.
        file: FileName,
        /// What is wrong with it.
        why: String,
    },
    /// A file was written by another version of the format.
    #[error("{file} has format version {version}, this program reads {}", crate::FORMAT_VERSION)]
    UnsupportedVersion {
        /// The file.
        file: FileName,
        /// Its version.
        version: u32,
    },
    /// The options contradict each other.
    #[error("bad storage options: {0}")]
    BadOptions(String),
    /// The disk failed.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
}

fn shown(members: &BTreeSet<NodeId>) -> String {
    members.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

/// Where the log is damaged, and how that is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment file, or where one is missing.
    pub segment: FileName,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The batch that should stand there, counted from 1 over the life of the log; 0 if unknown.
    pub batch: u64,
    /// Why this cannot be a write that a crash cut short.
    pub reason: DamageReason,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, batch, reason } = self;
        match reason {
            // What is there is sound.
            DamageReason::Gap { .. } => write!(f, "{segment}: {reason}"),
            _ => write!(f, "{segment} at offset {offset}, batch {batch}: {reason}"),
        }
    }
}

/// Why a place in the log counts as damaged and not as torn (`docs/format.md`, decision table).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageReason {
    /// The segment's first page is not what was written.
    SegmentHeader,
    /// The segment is shorter than its header says.
    SegmentLength,
    /// The disk cannot read it.
    Unreadable,
    /// A segment before the last one ends before the next one begins.
    SealedSegment,
    /// A valid later batch says that this one was synced before it.
    LaterBatch,
    /// The hard state says that this batch was synced.
    BelowWatermark,
    /// The hard state says that there is a later segment.
    SegmentMissing,
    /// A sector holds something else than zeros and is not what was written.
    NonZeroSector,
    /// All sectors are as written, and yet the batch contradicts itself or its predecessor.
    Inconsistent,
    /// What snapshots hold, if anything, ends before the log begins.
    Gap {
        /// Whoever has a snapshot of this index or a higher one can read the log from here on.
        log_from: LogIndex,
    },
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gap { log_from } => {
                let what = "no whole snapshot reaches index";
                return write!(f, "{what} {log_from}, where the log begins");
            }
            Self::SegmentHeader => "the segment's first page is not what was written",
            Self::SegmentLength => "the file is shorter than its header says",
            Self::Unreadable => "the disk cannot read it",
            Self::SealedSegment => "the next segment says that more was synced here",
            Self::LaterBatch => "a later batch says that this one was synced",
            Self::BelowWatermark => "the hard state says that this batch was synced",
            Self::SegmentMissing => "the hard state says that there is a later segment",
            Self::NonZeroSector => "a sector is neither zero nor what was written",
            Self::Inconsistent => "the batch contradicts itself or the one before it",
        })
    }
}
