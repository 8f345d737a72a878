//! Every knob and limit of a replica, with its default and a tiny set for tests.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sampan_base::NodeId;

/// What to do at a start about a log, or a snapshot, that is damaged where it may hold acknowledged
/// entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDamage {
    /// Refuse to start.
    Refuse,
    /// If the cluster has other voters: rejoin it as one that does not vote until a leader has
    /// given it its log again (`docs/format.md`, "Rejoin").
    Rejoin,
    /// The same, but first ask the other voters for what the log lost, and write it back in its
    /// place if it proves to be that (`docs/format.md`, "Repair").
    Repair,
}

impl fmt::Display for OnDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Rejoin => "rejoin",
            Self::Repair => "repair",
        })
    }
}

impl FromStr for OnDamage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Refuse, Self::Rejoin, Self::Repair]
            .into_iter()
            .find(|on_damage| on_damage.to_string() == text)
            .ok_or_else(|| "want refuse, rejoin or repair".to_owned())
    }
}

/// The settings that must be the same on all nodes of a cluster and at all of their starts, by
/// name.
pub type StateSettings = Vec<(&'static str, u64)>;

/// How a replica behaves. All of it may differ between the nodes of a cluster, except
/// [`Options::of_state`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Consensus; how long an entry may be is said under `storage`.
    pub raft: sampan_raft::Config,
    /// Files. `entry_bytes_max` must be the same on every node, always.
    pub storage: sampan_storage::Options,
    /// A damaged log or snapshot.
    pub on_damage: OnDamage,
    /// A node that repairs its log and hears of a leader after this long rejoins without what it
    /// asks for; without a leader it goes on asking.
    pub repair_wait: Duration,
    /// The state machine. Its replicated limits decide what applying an entry does, so they must be
    /// the same on every node, always; its door and local limits need not ([`sampan_kv::Limits`]).
    pub kv: sampan_kv::Limits,
    /// How long a command waits for a leader before `-CLUSTERDOWN`.
    pub no_leader_wait: Duration,
    /// How long a client waits for an outcome before `-UNKNOWN`.
    pub client_timeout: Duration,
    /// A snapshot is taken once the log has grown by more bytes than this since the last one, or
    /// its files by half of it, so that they are about this long (`maxraftstate`); `None`: never.
    pub raft_state_bytes_max: Option<u64>,
    /// The limit above grows to this percentage of the last snapshot's size, so that the bytes
    /// written for snapshots stay in proportion to the bytes written for the log. Zero: it stays.
    pub raft_state_snapshot_percent: u64,
    /// Room kept on the disk for the next snapshot, as a percentage of what it will take about;
    /// zero: none. With it a full disk never keeps the log from being compacted.
    pub snapshot_reserve_percent: u64,
    /// A group commit that takes longer than this counts as stalled, and a leader whose disk stalls
    /// while others commit hands over; `None`: never.
    pub disk_stall: Option<Duration>,
    /// Bytes of commands in one log entry, at most (one command may exceed it).
    pub batch_bytes_max: usize,
    /// Bytes of entries in one group commit, at most (one entry may exceed it): what comes later
    /// waits for the next one. A sync of many bytes holds up others on the disk, and acknowledges
    /// none of them before all.
    pub group_commit_bytes_max: usize,
    /// Bytes of entries applied in one turn, so that a turn stays short.
    pub apply_bytes_max: usize,
    /// Bytes of replies to reads made in one turn, about, and as many to commands that are applied:
    /// what is left is for the next turn, which follows at once. 1 or more.
    pub reply_bytes_per_turn: usize,
    /// Bytes of state in one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// Requests under way (waiting, proposed, reading) beyond which the host should stop reading
    /// from clients ([`crate::Replica::is_congested`]).
    pub requests_under_way_max: usize,
    /// The same for bytes of commands that wait here or were forwarded. (What is in the log counts
    /// against `raft.uncommitted_bytes_max`.)
    pub requests_held_bytes_max: usize,
    /// While keys with a TTL are due and nothing is written, the leader appends the time this
    /// often.
    pub clock_entry_interval: Duration,
    /// A read or session command whose forward was not answered is sent again after this, then
    /// after the time it has waited already, so that the intervals double.
    pub forward_retry: Duration,
    /// A stop waits at most this long for the hand-over and for what is under way.
    pub shutdown_wait: Duration,
    /// In how many parts the state in a snapshot is built at a start, 1 or more.
    pub restore_parts: usize,
    /// How the host runs them: at once, or one after another.
    pub run_all: RunAll,
    /// The host's stopwatch, for figures that decide nothing: how long snapshots hold up the
    /// replica.
    pub stopwatch: fn() -> Duration,
}

/// Something to be done, on whatever thread.
pub type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs all, and returns when they have ended.
pub type RunAll = for<'a> fn(Vec<Task<'a>>);

impl Options {
    /// What no node may have for itself: the limits that decide what applying an entry does, and
    /// how long an entry is, for what a leader appends every log must take. New ones go to the end:
    /// directories hold the values in this order.
    pub fn of_state(&self) -> StateSettings {
        let mut settings = self.kv.of_state().to_vec();
        settings.push(("entry_bytes_max", self.storage.entry_bytes_max as u64));
        settings
    }

    /// The defaults.
    pub fn new(id: NodeId) -> Self {
        Self {
            raft: sampan_raft::Config::new(id),
            storage: sampan_storage::Options::default(),
            on_damage: OnDamage::Repair,
            repair_wait: Duration::from_secs(10),
            kv: sampan_kv::Limits::default(),
            no_leader_wait: Duration::from_millis(400),
            client_timeout: Duration::from_millis(5_000),
            raft_state_bytes_max: Some(64 << 20),
            raft_state_snapshot_percent: 100,
            snapshot_reserve_percent: 100,
            disk_stall: Some(Duration::from_millis(1_000)),
            batch_bytes_max: 256 << 10,
            group_commit_bytes_max: 4 << 20,
            apply_bytes_max: 1 << 20,
            reply_bytes_per_turn: 2 << 20,
            snapshot_chunk_bytes: 256 << 10,
            requests_under_way_max: 65_536,
            requests_held_bytes_max: 256 << 20,
            clock_entry_interval: Duration::from_millis(100),
            forward_retry: Duration::from_millis(1_000),
            shutdown_wait: Duration::from_millis(3_000),
            restore_parts: 1,
            run_all: |tasks| tasks.into_iter().for_each(|task| task()),
            stopwatch: || Duration::ZERO,
        }
    }

    /// Everything as small as it goes, to meet every limit often in tests.
    pub fn tiny(id: NodeId) -> Self {
        Self {
            raft: sampan_raft::Config::tiny(id),
            storage: sampan_storage::Options {
                first_room_bytes: sampan_storage::PAGE_BYTES,
                ..sampan_storage::Options::tiny()
            },
            repair_wait: Duration::from_secs(1),
            kv: sampan_kv::Limits::tiny(),
            raft_state_bytes_max: Some(4 << 10),
            batch_bytes_max: 64,
            group_commit_bytes_max: 256,
            apply_bytes_max: 128,
            reply_bytes_per_turn: 64,
            snapshot_chunk_bytes: 32,
            requests_under_way_max: 64,
            requests_held_bytes_max: 4 << 10,
            ..Self::new(id)
        }
    }
}
