//! Every limit and timeout of the algorithm, each with its unit; nothing else in this crate is
//! bounded by an unnamed number. Values are fixed for the life of a [`crate::Raft`].

use std::time::Duration;

use sampan_base::NodeId;

/// Longest random delay between the hint that the leader's connection closed and the pre-vote it
/// causes. Spreads the followers that all see the leader die at once.
pub(crate) const DISCONNECT_JITTER_MAX: Duration = Duration::from_millis(20);

/// A cluster that waits longer for a leader has none; and times are added up.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// How one node takes part. All durations are of the node's monotonic clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Shortest election timeout, and the time for which a node that heard its leader ignores
    /// candidates (thesis 4.2.3) and a leader may go without hearing a quorum (thesis 6.2).
    pub election_timeout_min: Duration,
    /// Longest election timeout; each is drawn from min to max (paper 5.2).
    pub election_timeout_max: Duration,
    /// How much longer than `election_timeout_min` a leader may go without hearing a quorum before
    /// it steps down (thesis 6.2). Where answers are late for long but connections last, it saves
    /// elections; a leader that is cut off takes proposals for that much longer.
    pub quorum_grace: Duration,
    /// Longest silence of a leader towards a peer. At most half of `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// Bytes of entries in one Append ([`sampan_base::Entry::size_bytes`]); a single larger entry
    /// travels alone.
    pub append_bytes_max: usize,
    /// Entries in one Append, 1 or more.
    pub append_entries_max: usize,
    /// The longest payload that the host's log takes as one entry, the same on all nodes: an Append
    /// with a longer one is malformed. That proposals are no longer is up to the host.
    pub entry_bytes_max: usize,
    /// Appends sent to one peer and not acknowledged, 1 or more (thesis 10.2.2).
    pub inflight_messages_max: usize,
    /// Bytes of entries sent to one peer and not acknowledged; one message may exceed it alone.
    pub inflight_bytes_max: usize,
    /// Shortest time between two Appends to a peer that keeps up, unless the second is a full one:
    /// entries wait for others to travel with. Zero, at once, unless messages cost more than time.
    pub append_interval: Duration,
    /// An Append repeats the entries that are on their way to the peer while they are so few bytes.
    /// Zero, never, unless messages of a connection that stays open get lost or overtake each
    /// other.
    pub repeat_bytes_max: usize,
    /// Bytes of own proposals that are not committed, or not durable here; past it proposals are
    /// refused as busy.
    pub uncommitted_bytes_max: usize,
    /// Reads waiting for their index, of this node's clients and of other nodes together.
    pub reads_max: usize,
    /// Bytes of a snapshot in one message, 1 or more.
    pub snapshot_chunk_bytes_max: usize,
    /// Bytes of a snapshot on their way to one peer; at least one message, and none until the peer
    /// has said what it holds already.
    pub snapshot_inflight_bytes_max: usize,
    /// After this long without progress a snapshot transfer asks what the peer holds, and goes on
    /// there.
    pub snapshot_retry_interval: Duration,
    /// Ask whether an election can be won before starting it (thesis 9.6).
    pub pre_vote: bool,
    /// A leader that hears no quorum steps down (thesis 6.2); nodes that hear their leader ignore
    /// candidates (thesis 4.2.3).
    pub check_quorum: bool,
}

impl Config {
    /// The defaults: 300 to 600 ms election timeout, 50 ms heartbeats. Measured as the shortest
    /// that neither a busy machine nor a lost TCP segment ends, with the margin of a heartbeat
    /// (`docs/operations.md`).
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            quorum_grace: Duration::ZERO,
            heartbeat_interval: Duration::from_millis(50),
            append_bytes_max: 1 << 20,
            append_entries_max: 4096,
            entry_bytes_max: usize::MAX,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            append_interval: Duration::ZERO,
            repeat_bytes_max: 0,
            uncommitted_bytes_max: 64 << 20,
            reads_max: 1 << 16,
            snapshot_chunk_bytes_max: 256 << 10,
            snapshot_inflight_bytes_max: 4 << 20,
            snapshot_retry_interval: Duration::from_secs(1),
            pre_vote: true,
            check_quorum: true,
        }
    }

    /// Limits so small that tests meet all of them.
    pub fn tiny(id: NodeId) -> Self {
        Self {
            election_timeout_min: Duration::from_millis(100),
            election_timeout_max: Duration::from_millis(200),
            heartbeat_interval: Duration::from_millis(20),
            append_bytes_max: 96,
            append_entries_max: 2,
            inflight_messages_max: 2,
            inflight_bytes_max: 160,
            uncommitted_bytes_max: 1024,
            reads_max: 4,
            snapshot_chunk_bytes_max: 16,
            snapshot_inflight_bytes_max: 32,
            snapshot_retry_interval: Duration::from_millis(60),
            ..Self::new(id)
        }
    }

    /// What is wrong with it, if anything, in words for an operator.
    pub fn check(&self) -> Result<(), String> {
        if self.election_timeout_min < Duration::from_millis(1) {
            return Err("election_timeout_min must be at least 1 ms".into());
        }
        if self.election_timeout_max < self.election_timeout_min {
            return Err(format!(
                "election_timeout_max ({:?}) must not be below election_timeout_min ({:?})",
                self.election_timeout_max, self.election_timeout_min
            ));
        }
        if self.election_timeout_max > ELECTION_TIMEOUT_MAX {
            return Err(format!(
                "election_timeout_max ({:?}) must be at most {ELECTION_TIMEOUT_MAX:?}",
                self.election_timeout_max
            ));
        }
        if self.heartbeat_interval.is_zero()
            || self.heartbeat_interval * 2 > self.election_timeout_min
        {
            return Err(format!(
                "heartbeat_interval ({:?}) must be above 0 and at most half of \
                 election_timeout_min ({:?})",
                self.heartbeat_interval, self.election_timeout_min
            ));
        }
        if self.append_interval > self.heartbeat_interval {
            return Err(format!(
                "append_interval ({:?}) must not be above heartbeat_interval ({:?})",
                self.append_interval, self.heartbeat_interval
            ));
        }
        if self.snapshot_retry_interval.is_zero() {
            return Err("snapshot_retry_interval must be above 0".into());
        }
        for (name, value) in [
            ("append_bytes_max", self.append_bytes_max),
            ("append_entries_max", self.append_entries_max),
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("reads_max", self.reads_max),
            ("snapshot_chunk_bytes_max", self.snapshot_chunk_bytes_max),
            ("snapshot_inflight_bytes_max", self.snapshot_inflight_bytes_max),
        ] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        Ok(())
    }

    /// The longest delay of a pre-vote after a disconnect, and the unit of retries after a
    /// contested election: small beside the election timeout.
    pub(crate) fn retry_jitter(&self) -> Duration {
        DISCONNECT_JITTER_MAX.min(self.election_timeout_min / 4)
    }
}
