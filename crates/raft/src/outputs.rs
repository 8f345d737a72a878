//! What comes out of a node once a turn, and why an input can be refused. Data only.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use sampan_base::{LogIndex, NodeId, SnapshotId, SnapshotMeta, Term};

use crate::{Message, Role};

/// What [`crate::Raft::flush`] hands out. A reusable buffer: the host drains it and passes it
/// again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs {
    /// They may leave at once, in this order: whatever they claim to be durable is.
    pub messages: Vec<Message>,
    /// Reads whose index is known, or that must be asked again.
    pub reads: Vec<ReadOutcome>,
    /// Parts of snapshot files that peers need; answered by [`crate::Raft::snapshot_read`].
    pub snapshot_reads: Vec<SnapshotRead>,
    /// Parts of a snapshot that the leader sent; answered by [`crate::Raft::snapshot_stored`].
    pub snapshot_chunks: Vec<SnapshotChunk>,
    /// Set if role, term or known leader are not what the last flush reported.
    pub role_change: Option<RoleChange>,
}

impl Outputs {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.reads.clear();
        self.snapshot_reads.clear();
        self.snapshot_chunks.clear();
        self.role_change = None;
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.reads.is_empty()
            && self.snapshot_reads.is_empty()
            && self.snapshot_chunks.is_empty()
            && self.role_change.is_none()
    }
}

/// Names one attempt to read. Chosen by the host, fresh for each attempt: an id is never used
/// again, not even for a retry of the same read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// The end of a read's wait for its index (thesis 6.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOutcome {
    /// Which read.
    pub id: ReadId,
    /// The read index: serve the read from any state with `applied ≥` it. Or: ask again.
    pub result: Result<LogIndex, ReadVoid>,
}

/// The term or the leader changed before the index was confirmed: nothing is known, ask again
/// with a fresh id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadVoid;

/// A peer needs this part of a snapshot file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRead {
    /// Which peer.
    pub to: NodeId,
    /// Which snapshot ([`SnapshotMeta::id`]).
    pub id: SnapshotId,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes at most; fewer only where the file ends.
    pub len_max: usize,
    /// Which other node has the file, and is to send the part; unset: this one has.
    pub maker: Option<NodeId>,
}

/// A part of a snapshot file, from the leader. The host writes it if it continues what it has of
/// this file and says in either case how far it has got ([`crate::Raft::snapshot_stored`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// The leader it came from.
    pub from: NodeId,
    /// What the whole file is.
    pub meta: SnapshotMeta,
    /// Where in the file. `offset + data.len() ≤ meta.size_bytes`.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// Who this node is now, and who leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    /// The current term.
    pub term: Term,
    /// The role in it.
    pub role: Role,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
    /// Why this node leads no more, has lost its leader, or stands for election.
    pub why: Option<Why>,
}

/// What ends a leadership or begins an election, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A leader: this node is in a later term.
    LaterTerm(NodeId),
    /// A leader: this node takes over, as it was asked to (thesis 3.10).
    HandedOver(NodeId),
    /// A leader has not heard a quorum for so long (thesis 6.2).
    QuorumSilent(Duration),
    /// A leader is no voter of the configuration that is committed now (thesis 4.2.2).
    Removed,
    /// The connection to the leader closed.
    ConnectionClosed(NodeId),
    /// The leader was not heard for so long.
    LeaderSilent(NodeId, Duration),
    /// No leader was heard since the start, since the last one was lost, or in this term.
    NoLeader,
    /// The leader asks this node to take over.
    AskedBy(NodeId),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaterTerm(by) => write!(f, "{by} is in this term"),
            Self::HandedOver(to) => write!(f, "handed over to {to}"),
            Self::QuorumSilent(time) => {
                write!(f, "no quorum was heard for {} ms", time.as_millis())
            }
            Self::Removed => f.write_str("it is no voter any more"),
            Self::ConnectionClosed(leader) => write!(f, "the connection to {leader} closed"),
            Self::LeaderSilent(leader, time) => {
                write!(f, "{leader} was not heard for {} ms", time.as_millis())
            }
            Self::NoLeader => f.write_str("no leader is known"),
            Self::AskedBy(leader) => write!(f, "{leader} hands over"),
        }
    }
}

/// Why an input was not taken. Nothing was appended: the caller may safely try again elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// This node does not lead; perhaps it knows who does.
    #[error("not the leader")]
    NotLeader {
        /// The leader as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership is on its way to another node (thesis 3.10).
    #[error("leadership is being transferred to {to}")]
    Transferring {
        /// The node that is to lead.
        to: NodeId,
    },
    /// A limit is reached; the word names it.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// A configuration change is under way, or this leader has not yet committed an entry of its
    /// term, without which none may begin (thesis 4.1).
    #[error("a configuration change is pending")]
    ChangePending,
    /// The configuration asked for is the one in force.
    #[error("the configuration is already the one asked for")]
    NoChange,
    /// What was asked for makes no sense; the words say why.
    #[error("{0}")]
    Invalid(&'static str),
}
