//! What a log holds and what a node must remember across restarts (paper, Figure 2 "State").

use bytes::Bytes;

use crate::{Configuration, LogIndex, NodeId, SnapshotId, Term};

/// The name of a log entry: by the Log Matching property (paper 5.3) a pair names one entry only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LogPosition {
    /// The term of the leader that created the entry. First, so that the derived order is the
    /// "more up-to-date" order of paper 5.4.1.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

impl LogPosition {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };
}

/// What an entry is to Raft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Opens a leader's term (thesis 6.4); the state machine sees nothing of it.
    Noop = 0,
    /// Bytes for the state machine.
    Command = 1,
    /// A cluster configuration (thesis 4), encoded by [`Configuration::encode`].
    Configuration = 2,
}

impl EntryKind {
    /// The kind a stored byte names.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Noop),
            1 => Some(Self::Command),
            2 => Some(Self::Configuration),
            _ => None,
        }
    }
}

/// One log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
    /// What it is to Raft.
    pub kind: EntryKind,
    /// Its payload; opaque to Raft unless the kind is a configuration.
    pub data: Bytes,
}

impl Entry {
    /// Bytes an entry takes beside its payload, in memory accounting, on the wire and in the log:
    /// term, index, kind, length.
    pub const OVERHEAD_BYTES: usize = 8 + 8 + 1 + 4;

    /// Its name.
    pub const fn position(&self) -> LogPosition {
        LogPosition { term: self.term, index: self.index }
    }

    /// Its size for every limit that counts bytes of entries.
    pub fn size_bytes(&self) -> usize {
        Self::OVERHEAD_BYTES + self.data.len()
    }
}

/// What must be durable before a node answers a vote or accepts a leader (paper, Figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term this node has seen. Never decreases.
    pub term: Term,
    /// Who got this node's vote in `term`, if anyone. Once set, fixed for the term.
    pub vote: Option<NodeId>,
}

/// What a snapshot covers (paper, section 7): all that Raft needs to know about one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last entry it covers: "last included index" and "last included term".
    pub position: LogPosition,
    /// The configuration in force at that index (thesis 4, 5.1).
    pub configuration: Configuration,
    /// Names this very file: two snapshots of one position taken by different nodes differ.
    pub id: SnapshotId,
    /// Length of the snapshot file.
    pub size_bytes: u64,
}
