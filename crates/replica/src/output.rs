//! What a replica wants done: filled by [`crate::Replica::flush`] once per turn of the host.

use sampan_base::disk::DiskError;
use sampan_base::{LogIndex, NodeId, Term};
use sampan_kv::Reply;
use sampan_raft::{Health, Role, Why};

use crate::backups::BackupReady;
use crate::input::ConnectionId;
use crate::job::DiskJob;
use crate::wire::PeerMessage;

/// The answer to one request.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientReply {
    /// Whose.
    pub connection: ConnectionId,
    /// Which request of it. Answers may come in any order; the host restores it.
    pub seq: u64,
    /// What to say.
    pub reply: Reply,
    /// The log position that decided it, for witness checks: the index of the entry for a write,
    /// the state's applied index for a read; zero where none did.
    pub decided_at: LogIndex,
}

/// Which stream to a peer a message belongs on, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stream {
    /// Everything but what is on the other one.
    Main,
    /// Snapshot chunks, and entries for nodes that repair their logs.
    Bulk,
}

/// A message for a peer.
#[derive(Clone, PartialEq, Debug)]
pub struct Envelope {
    /// To whom.
    pub to: NodeId,
    /// On which stream.
    pub stream: Stream,
    /// What.
    pub message: PeerMessage,
}

/// Something worth a line in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The role, term or leader changed.
    Role {
        /// The term.
        term: Term,
        /// This node's role in it.
        role: Role,
        /// The leader, if known.
        leader: Option<NodeId>,
        /// Why this node leads no more, has lost its leader, or stands for election.
        why: Option<Why>,
    },
    /// A snapshot of this node's own state is durable.
    SnapshotTaken {
        /// Through which index.
        index: LogIndex,
        /// Size of its file.
        size_bytes: u64,
    },
    /// A snapshot from the leader is in force.
    SnapshotInstalled {
        /// Through which index.
        index: LogIndex,
        /// Size of its file.
        size_bytes: u64,
    },
    /// Taking or receiving a snapshot failed; the log and the older snapshot stay.
    SnapshotFailed(String),
    /// An operator's wish was not taken: why.
    Refused(String),
    /// This node lost part of its log, and neither votes nor counts until its log is durable
    /// through this index, which its leader named; `None`: it is, the node votes again.
    NonVoting(Option<LogIndex>),
    /// The disk is not what it was. While it is [`Health::Full`] writes are refused, but for
    /// deletions.
    Disk {
        /// As it was.
        before: Health,
        /// As it is.
        now: Health,
    },
}

/// Why a node must stop at once (rules R10 and R15). Nothing after it may be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fatal {
    /// The disk failed where it must not.
    Disk(DiskError),
    /// State that must agree does not.
    Invariant(String),
}

/// The wishes of one turn. The host empties it, and acts in the order of the fields.
///
/// Backups come before jobs, for a job may remove the name of the file that a backup is to read.
/// Messages come before jobs because the disks of the other nodes are farther away than this
/// node's; a message that depends on a sync is handed out only after that sync was reported.
#[derive(Default, Debug)]
pub struct Outputs {
    /// Stop now.
    pub fatal: Option<Fatal>,
    /// Snapshots that clients asked for and may now read.
    pub backups: Vec<BackupReady>,
    /// Messages for peers; any may be lost.
    pub messages: Vec<Envelope>,
    /// Work for the disks. Jobs of one lane run in order, lanes run side by side.
    pub jobs: Vec<DiskJob>,
    /// Answers for clients.
    pub replies: Vec<ClientReply>,
    /// Lines for a log.
    pub events: Vec<Event>,
    /// After [`crate::Input::Shutdown`]: nothing is under way here any more.
    pub shutdown_complete: bool,
}

impl Outputs {
    /// Moves the wishes of a turn behind those that are here.
    pub(crate) fn append(&mut self, turn: &mut Self) {
        self.backups.append(&mut turn.backups);
        self.messages.append(&mut turn.messages);
        self.jobs.append(&mut turn.jobs);
        self.replies.append(&mut turn.replies);
        self.events.append(&mut turn.events);
        self.shutdown_complete = turn.shutdown_complete;
    }
}
