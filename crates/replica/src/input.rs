//! What can happen to a replica: one closed list. Replaying a recorded list of inputs reproduces a
//! run bit for bit.

use bytes::Bytes;
use sampan_base::{Configuration, NodeId, SnapshotId, Time, WallTime};
use sampan_kv::Class;

use crate::job::DiskDone;
use crate::wire::PeerMessage;

/// The time of an input, as the host's clocks tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// The monotonic clock: all time-outs.
    pub mono: Time,
    /// The wall clock: what a leader stamps into entries, unless the log is ahead of it, and
    /// nothing else (rule R12).
    pub wall: WallTime,
}

/// A client connection of this node, numbered by the host; never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

/// One command of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its number on its connection: increases by one from request to request.
    pub seq: u64,
    /// Does it go through the log?
    pub class: Class,
    /// May it be answered from local, possibly stale state (`READONLY`)? Only for reads.
    pub stale: bool,
    /// The command, as `sampan_kv::parse` encoded it.
    pub command: Bytes,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Time passed; whatever is due is done. Every other input does the same.
    Tick,
    /// Commands from a connection, in the order in which they were sent.
    Client {
        /// The connection.
        connection: ConnectionId,
        /// Its commands.
        requests: Vec<Request>,
    },
    /// A connection is gone: nobody waits for its replies. What was appended stays appended.
    ConnectionClosed(ConnectionId),
    /// The host holds as much of a connection's replies as it wants to: none of its reads is
    /// answered and nothing more of it begun until [`Input::RepliesWanted`].
    RepliesHeld(ConnectionId),
    /// It has room for more of them.
    RepliesWanted(ConnectionId),
    /// A message from a peer, its frame checked ([`crate::wire::decode_frame`]).
    Peer {
        /// The sender named in the frame.
        from: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// A connection to a peer is up, in the direction this node sends.
    PeerConnected(NodeId),
    /// A connection from or to a peer was closed by the other side: a hint that it is gone.
    PeerDisconnected(NodeId),
    /// There is no connection to a peer, in the direction this node sends, until
    /// [`Input::PeerConnected`].
    PeerUnreachable(NodeId),
    /// Of this frame no byte was given to a connection, and none will be.
    ForwardNotSent {
        /// Whom it was for.
        to: NodeId,
        /// Its number ([`crate::wire::Forward::frame_seq`]).
        frame_seq: u64,
    },
    /// A job of [`crate::Outputs::jobs`] has ended.
    Disk(DiskDone),
    /// Hand leadership over, finish what is under way, then say so
    /// ([`crate::Outputs::shutdown_complete`]).
    Shutdown,
    /// Hand leadership to a node, or to the voter that is furthest on.
    TransferLeadership(Option<NodeId>),
    /// Change the members (through a joint configuration).
    ChangeConfiguration(Configuration),
    /// Take a snapshot now, whatever the size of the log.
    TakeSnapshot,
    /// A client wants a snapshot that holds every write acknowledged before now. Answered by
    /// [`crate::Outputs::backups`], or by a reply that is an error.
    Backup {
        /// The connection.
        connection: ConnectionId,
        /// The number of the request on it.
        seq: u64,
    },
    /// A client says that what it read of a snapshot as a backup is damaged. Answered with 1 if
    /// that snapshot is not handed out any more, or 0 if this node reads it as sound, or did within
    /// the last minute.
    BackupDamaged {
        /// The connection.
        connection: ConnectionId,
        /// The number of the request on it.
        seq: u64,
        /// The snapshot.
        snapshot: SnapshotId,
    },
}
