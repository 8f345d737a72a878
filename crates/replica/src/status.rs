//! What a replica says of itself, for `INFO`, `sampan status` and tests. Read only.

use sampan_base::{ClusterId, LogIndex};
use sampan_kv::Digest;
use sampan_raft::Health;

/// A picture of a replica at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Consensus: id, role, term, leader, indices, peers.
    pub raft: sampan_raft::Status,
    /// The keyspace and the sessions.
    pub kv: sampan_kv::Stats,
    /// The last index the state machine has applied.
    pub applied: LogIndex,
    /// Of the state there: equal on all nodes at the same index.
    pub digest: Digest,
    /// Bytes of log entries that a restart would replay.
    pub log_bytes_live: u64,
    /// Bytes of log files.
    pub log_bytes_on_disk: u64,
    /// The newest durable snapshot: its index and the size of its file.
    pub snapshot: Option<(LogIndex, u64)>,
    /// Is one being written?
    pub snapshot_in_progress: bool,
    /// How long the last one held up this node.
    pub snapshot_pauses: SnapshotPauses,
    /// A snapshot that arrives from the leader.
    pub snapshot_arrival: Option<Arrival>,
    /// Bytes of a snapshot from the leader that is in force and is still to be read back.
    pub snapshot_unread_bytes: u64,
    /// Snapshots and backups are held to so many bytes a second, for the sake of clients.
    pub background_bytes_per_second: Option<u64>,
    /// Group commits done.
    pub syncs: u64,
    /// Commands answered from the log.
    pub writes: u64,
    /// Reads answered.
    pub reads: u64,
    /// Commands handed to another node.
    pub forwarded: u64,
    /// Commands of other nodes that were certainly not appended, and said to be.
    pub forwards_refused: u64,
    /// Frames of other nodes' commands that came too late or twice, and commands that made no
    /// sense.
    pub forwards_dropped: u64,
    /// Commands of sessions that were answered without the log, for they were executed before.
    pub duplicates: u64,
    /// Read indices that were asked for again.
    pub read_retries: u64,
    /// Requests under way.
    pub requests_under_way: usize,
    /// Bytes on the disk that are kept for the next snapshot.
    pub reserve_bytes: u64,
    /// The size of log at which a snapshot is taken; `None`: never.
    pub log_bytes_max: Option<u64>,
    /// Damaged batches of the log that were repaired from other nodes' logs before this start.
    pub batches_repaired: usize,
}

/// How far a snapshot from the leader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Bytes that are on the disk.
    pub bytes: u64,
    /// Its length.
    pub size_bytes: u64,
    /// There is no room for more of it.
    pub waits_for_room: bool,
}

impl Status {
    /// How this node's disk is to whoever looks after it. To its peers one on which only a snapshot
    /// finds no room is not full: it still takes entries.
    pub fn disk_health(&self) -> Health {
        let waits_for_room = self.snapshot_arrival.is_some_and(|arrival| arrival.waits_for_room);
        match self.raft.health {
            Health::Well | Health::Slow if waits_for_room => Health::Full,
            health => health,
        }
    }
}

/// How long the snapshot taken last held up the replica, by the host's stopwatch.
#[derive(Clone, Copy, Default, Debug)]
pub struct SnapshotPauses {
    /// To capture the state.
    pub capture: std::time::Duration,
    /// To copy out and check what one turn wrote of it, the turn that took longest.
    pub longest_slice: std::time::Duration,
}
