//! What a node is told at its start: who it is, where it listens, whom it talks to, and every limit
//! of this crate. Where the values come from (flags, environment, a file) is the caller's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sampan_base::configuration::MEMBERS_MAX;
use sampan_base::{ClusterId, Configuration, NodeId};
use sampan_replica::Options;
use sampan_replica::wire::{FORWARDED_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use sampan_resp::RequestLimits;
use thiserror::Error;

/// The peer port is the client port plus this, unless told otherwise.
pub const PEER_PORT_OFFSET: u16 = 10_000;

/// The longest host name, in bytes (DNS allows 253).
pub(crate) const HOST_BYTES_MAX: usize = 255;

/// One setting that makes no sense: its text says which, what it is, and what it may be. Settings
/// are called as the fields here are.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// A setting has a value that it may not have.
    #[error("{setting} is {value}: {expected}")]
    Value {
        /// Its name.
        setting: String,
        /// What it is.
        value: String,
        /// What it may be; other settings are named in it.
        expected: String,
    },
    /// What a part of the node says of its own settings.
    #[error("{0}")]
    Part(String),
}

impl ConfigError {
    pub(crate) fn new(
        setting: &str,
        value: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let [value, expected] = [value.to_string(), expected.to_string()];
        Self::Value { setting: setting.to_owned(), value, expected }
    }

    /// What a part of the node says of its own settings.
    pub(crate) fn of_part(text: impl Into<String>) -> Self {
        Self::Part(text.into())
    }

    /// The same with other names of the settings: those by which the reader knows them. The value,
    /// a path perhaps, may be called anything, and stays what it is.
    #[must_use]
    pub fn renamed(self, names: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Value { setting, value, expected } => {
                Self::Value { setting: names(&setting), value, expected: names(&expected) }
            }
            Self::Part(text) => Self::Part(names(&text)),
        }
    }
}

/// A host name or address, and a port: `node1:7001`, `127.0.0.1:7001`, `[::1]:7001`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostPort {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// A host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// For `connect` and `bind`.
    pub(crate) fn as_pair(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Does the host stand for all addresses of this machine, and so for none to connect to?
    pub(crate) fn is_unspecified(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::new("address", format!("'{text}'"), "want HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_ok = match bare {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":[]".contains(c))
            }
        };
        if !host_ok || host.len() > HOST_BYTES_MAX {
            return Err(error());
        }
        Ok(Self::new(bare.unwrap_or(host), port.parse().map_err(|_| error())?))
    }
}

/// Everything a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which node this is.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Where clients connect. Port 0: any free one.
    pub listen: HostPort,
    /// Where peers connect. Port 0: any free one.
    pub listen_peer: HostPort,
    /// What other nodes and `CLUSTER SLOTS` call this node's client address; `None`: the client
    /// port at whatever host a peer reaches this node by.
    pub advertise: Option<HostPort>,
    /// The other nodes, and where each listens for peers as seen from this node. Together with this
    /// node they are the first configuration of the cluster.
    pub peers: BTreeMap<NodeId, HostPort>,
    /// Where the data are. Created if it does not exist.
    pub data_dir: PathBuf,
    /// No log lines are written.
    pub is_quiet: bool,
    /// How the replica behaves.
    pub replica: Options,
    /// How this crate behaves.
    pub limits: Limits,
}

/// Limits and time-outs of clients and peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Client connections at a time.
    pub clients_max: usize,
    /// Connections that wait to be accepted.
    pub accept_backlog: u16,
    /// What one request may hold.
    pub request: RequestLimits,
    /// Bytes of commands that have not arrived whole, of all connections together: beyond it the
    /// one that holds most is closed, for such a command may never end.
    pub requests_partial_bytes_max: usize,
    /// Bytes taken from a connection by one system call.
    pub read_bytes: usize,
    /// Commands of one connection that are read and not answered; beyond it nothing is read.
    pub pipeline_max: usize,
    /// A connection with this many reply bytes unsent or to come is not read from. What is to come
    /// is guessed by the replies so far.
    pub output_pause_bytes: usize,
    /// A connection with this many reply bytes unsent, of which its client takes none for
    /// `output_soft_time`, is closed.
    pub output_soft_bytes: usize,
    /// See `output_soft_bytes`.
    pub output_soft_time: Duration,
    /// A connection with this many reply bytes unsent is closed; a single reply of this size is an
    /// error instead.
    pub output_bytes_max: usize,
    /// Bytes that all connections together hold of replies their clients do not take, and of whole
    /// commands that wait: beyond it the one that holds most is closed.
    pub output_total_bytes_max: usize,
    /// A connection that has sent part of a request and no more for this long is closed.
    pub request_stall_time: Duration,
    /// A connection that has sent nothing for this long is closed; `None`: never. Never is the
    /// default, for clients keep idle connections in pools; dead ones are found by keep-alive.
    pub idle_time: Option<Duration>,
    /// After this long without a packet the kernel asks whether the client is still there.
    pub keepalive_time: Duration,
    /// A connection that this node closes may be read dry for this long, so that the last reply is
    /// not lost.
    pub linger_time: Duration,
    /// Backups that are read at a time; each keeps one snapshot's file on the disk.
    pub backups_max: usize,
    /// A backup that nobody has read from for this long is ended.
    pub backup_idle_time: Duration,
    /// Bytes of a backup in one reply, at most half of `output_bytes_max` in any case: so much is
    /// copied and sent between two turns, so it should be a moment's work.
    pub backup_read_bytes: usize,
    /// Bytes a second of all backups together: what the node's one thread spends on them is not
    /// there for its other clients.
    pub backup_bytes_per_second: u64,
    /// A stop waits at most this long for replies to leave.
    pub stop_flush_time: Duration,
    /// A peer's handshake, from connecting to the last byte.
    pub handshake_time: Duration,
    /// Peer connections that have not shaken hands.
    pub handshakes_max: usize,
    /// Bytes queued to one peer on one stream; frames that do not fit are dropped (Raft retries).
    pub peer_queue_bytes_max: usize,
    /// Data that a peer's machine has not acknowledged for this long end the connection.
    pub peer_ack_time: Duration,
    /// A peer's frame that takes longer to arrive ends the connection: its length may be damaged,
    /// and what follows would be taken for the rest of it.
    pub peer_frame_time: Duration,
    /// The first wait before a peer is dialled again.
    pub redial_time_min: Duration,
    /// The longest wait; each is twice the one before, and random by half.
    pub redial_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 10_000,
            accept_backlog: 1_024,
            request: RequestLimits::default(),
            requests_partial_bytes_max: 256 << 20,
            read_bytes: 256 << 10,
            pipeline_max: 10_000,
            output_pause_bytes: 1 << 20,
            output_soft_bytes: 8 << 20,
            output_soft_time: Duration::from_secs(10),
            output_bytes_max: 512 << 20,
            output_total_bytes_max: 512 << 20,
            request_stall_time: Duration::from_secs(30),
            idle_time: None,
            keepalive_time: Duration::from_secs(60),
            linger_time: Duration::from_secs(1),
            backups_max: 4,
            backup_idle_time: Duration::from_secs(60),
            backup_read_bytes: 256 << 10,
            backup_bytes_per_second: 64 << 20,
            stop_flush_time: Duration::from_millis(500),
            handshake_time: Duration::from_secs(2),
            handshakes_max: 64,
            peer_queue_bytes_max: 32 << 20,
            peer_ack_time: Duration::from_secs(2),
            peer_frame_time: Duration::from_secs(10),
            redial_time_min: Duration::from_millis(20),
            redial_time_max: Duration::from_millis(200),
        }
    }
}

impl Limits {
    /// Everything small, so that a test meets each limit with few bytes.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            clients_max: 4,
            request: RequestLimits { bulk_bytes_max: 256, ..RequestLimits::tiny() },
            requests_partial_bytes_max: 8 << 10,
            read_bytes: 64,
            pipeline_max: 8,
            output_pause_bytes: 256,
            output_soft_bytes: 4 << 10,
            output_soft_time: Duration::from_millis(200),
            output_bytes_max: 8 << 10,
            output_total_bytes_max: 32 << 10,
            request_stall_time: Duration::from_millis(200),
            linger_time: Duration::from_millis(200),
            backups_max: 2,
            backup_idle_time: Duration::from_millis(500),
            backup_read_bytes: 256,
            handshake_time: Duration::from_millis(500),
            handshakes_max: 2,
            peer_queue_bytes_max: 4 << 10,
            redial_time_min: Duration::from_millis(1),
            redial_time_max: Duration::from_millis(20),
            ..Self::default()
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let one_or_more = [
            ("clients_max", self.clients_max),
            ("accept_backlog", self.accept_backlog.into()),
            ("read_bytes", self.read_bytes),
            ("pipeline_max", self.pipeline_max),
            ("backups_max", self.backups_max),
            ("backup_read_bytes", self.backup_read_bytes),
            ("backup_bytes_per_second", self.backup_bytes_per_second as usize),
            ("handshakes_max", self.handshakes_max),
            ("peer_queue_bytes_max", self.peer_queue_bytes_max),
        ];
        check_one_or_more(&one_or_more)?;
        check_at_most(&[
            ("clients_max", self.clients_max, CLIENTS_MAX),
            ("read_bytes", self.read_bytes, READ_BYTES_MAX),
            ("backup_read_bytes", self.backup_read_bytes, BACKUP_READ_BYTES_MAX),
        ])?;
        let request = &self.request;
        let enough = [
            ("request_bulk_bytes_max", request.bulk_bytes_max, 64),
            ("request_arguments_max", request.arguments_max, 4),
            ("request_bytes_max", request.request_bytes_max, 64),
            ("inline_bytes_max", request.inline_bytes_max, 32),
        ];
        for (setting, value, least) in enough {
            if value < least {
                return Err(ConfigError::new(setting, value, format!("want at least {least}")));
            }
        }
        let least = request.request_bytes_max.max(request.inline_bytes_max);
        let least = least.saturating_mul(PARTIAL_FACTOR);
        if self.requests_partial_bytes_max < least {
            let expected = format!(
                "want at least {least}, {PARTIAL_FACTOR} times request_bytes_max or inline_bytes_max"
            );
            let value = self.requests_partial_bytes_max;
            return Err(ConfigError::new("requests_partial_bytes_max", value, expected));
        }
        let rising = [
            ("output_pause_bytes", self.output_pause_bytes, self.output_soft_bytes),
            ("output_soft_bytes", self.output_soft_bytes, self.output_bytes_max),
        ];
        for (setting, value, above) in rising {
            if value == 0 || value > above {
                return Err(ConfigError::new(setting, value, format!("want 1 to {above}")));
            }
        }
        if self.output_total_bytes_max < self.output_bytes_max {
            let expected = format!("want at least output_bytes_max ({})", self.output_bytes_max);
            let value = self.output_total_bytes_max;
            return Err(ConfigError::new("output_total_bytes_max", value, expected));
        }
        let times = [
            ("output_soft_time", self.output_soft_time),
            ("request_stall_time", self.request_stall_time),
            ("keepalive_time", self.keepalive_time),
            ("backup_idle_time", self.backup_idle_time),
            ("handshake_time", self.handshake_time),
            ("peer_ack_time", self.peer_ack_time),
            ("peer_frame_time", self.peer_frame_time),
            ("redial_time_min", self.redial_time_min),
        ];
        check_times(&times)?;
        check_times_max(&[
            ("idle_time", self.idle_time.unwrap_or_default()),
            ("linger_time", self.linger_time),
            ("stop_flush_time", self.stop_flush_time),
            ("redial_time_max", self.redial_time_max),
        ])?;
        if self.redial_time_max < self.redial_time_min {
            let expected = format!("want at least redial_time_min ({:?})", self.redial_time_min);
            let value = format!("{:?}", self.redial_time_max);
            return Err(ConfigError::new("redial_time_max", value, expected));
        }
        Ok(())
    }
}

fn check_can_be_reached(setting: &str, address: &HostPort) -> Result<(), ConfigError> {
    if address.port == 0 || address.is_unspecified() {
        let expected = "want a host and port to connect to";
        return Err(ConfigError::new(setting, address, expected));
    }
    Ok(())
}

fn check_one_or_more(settings: &[(&str, usize)]) -> Result<(), ConfigError> {
    let zero = settings.iter().find(|(_, value)| *value == 0);
    zero.map_or(Ok(()), |(setting, value)| Err(ConfigError::new(setting, value, "want at least 1")))
}

fn check_at_most(settings: &[(&str, usize, usize)]) -> Result<(), ConfigError> {
    let large = settings.iter().find(|(_, value, most)| value > most);
    large.map_or(Ok(()), |(setting, value, most)| {
        Err(ConfigError::new(setting, value, format!("want at most {most}")))
    })
}

fn check_times(settings: &[(&str, Duration)]) -> Result<(), ConfigError> {
    let short = settings.iter().find(|(_, value)| *value < Duration::from_millis(1));
    short.map_or(Ok(()), |(setting, value)| {
        Err(ConfigError::new(setting, in_ms(*value), "want at least 1ms"))
    })?;
    check_times_max(settings)
}

/// No time is so long that it could not be added to any clock.
fn check_times_max(settings: &[(&str, Duration)]) -> Result<(), ConfigError> {
    let long = settings.iter().find(|(_, value)| *value > TIME_MAX);
    long.map_or(Ok(()), |(setting, value)| {
        Err(ConfigError::new(setting, in_ms(*value), "want at most 366 days"))
    })
}

/// A time as flags take it.
fn in_ms(time: Duration) -> String {
    format!("{}ms", time.as_secs_f64() * 1e3)
}

fn check_percents(settings: &[(&str, u64)]) -> Result<(), ConfigError> {
    let large = settings.iter().find(|(_, value)| *value > PERCENT_MAX);
    large.map_or(Ok(()), |(setting, value)| {
        Err(ConfigError::new(setting, value, format!("want at most {PERCENT_MAX}")))
    })
}

/// The longest that any time may be set to.
const TIME_MAX: Duration = Duration::from_hours(366 * 24);
/// No share of a size is set to more: it is multiplied with sizes of files.
const PERCENT_MAX: u64 = 10_000;

/// Of shorter messages so many would be on their way to a peer that nothing else gets done.
const SNAPSHOT_MESSAGE_BYTES_MIN: usize = 4 << 10;

/// What surrounds commands in an entry, entries in a frame and records in a chunk takes less.
const ROOM_BYTES: usize = 64 << 10;
/// What stands before each value of a reply takes no more.
const REPLY_ITEM_HEAD_BYTES_MAX: usize = 9;

/// More client connections than any limit may allow: their slots take 20 bits of a connection id.
pub(crate) const CLIENTS_MAX: usize = 1 << 20;

/// One command alone must fit what all connections may hold of theirs: for each argument of 6 bytes
/// or more, `$0\r\n\r\n`, its place takes 16, and both lists have up to twice the memory that they
/// need.
const PARTIAL_FACTOR: usize = 8;

/// A buffer to read into is no longer than this: each connection that reads has one.
const READ_BYTES_MAX: usize = 64 << 20;

/// A piece of a backup is no longer than what `sampan backup` takes for one string of a reply.
const BACKUP_READ_BYTES_MAX: usize = 16 << 20;

impl Config {
    /// A node with default limits that listens for peers at the client port plus
    /// [`PEER_PORT_OFFSET`]; alone until it is told of peers.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        listen: HostPort,
        data_dir: impl Into<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let port = match listen.port {
            0 => 0,
            port => port.checked_add(PEER_PORT_OFFSET).ok_or_else(|| {
                let most = u16::MAX - PEER_PORT_OFFSET;
                let expected = format!("want a port of at most {most}, or listen_peer beside it");
                ConfigError::new("listen", &listen, expected)
            })?,
        };
        Ok(Self {
            node,
            cluster,
            listen_peer: HostPort::new(listen.host.clone(), port),
            listen,
            advertise: None,
            peers: BTreeMap::new(),
            data_dir: data_dir.into(),
            is_quiet: false,
            replica: Options::new(node),
            limits: Limits::default(),
        })
    }

    /// This node and its peers: the configuration of a cluster that has none yet.
    pub fn bootstrap(&self) -> Configuration {
        Configuration::of_voters(self.peers.keys().copied().chain([self.node]))
    }

    /// The first thing that is wrong with it, if anything.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.peers.contains_key(&self.node) {
            let expected = "this node itself: want only the other nodes";
            return Err(ConfigError::new("peers", self.node, expected));
        }
        if self.peers.len() >= MEMBERS_MAX {
            let expected = format!("want at most {}", MEMBERS_MAX - 1);
            return Err(ConfigError::new("number of peers", self.peers.len(), expected));
        }
        let mut addresses = BTreeSet::new();
        for (id, address) in &self.peers {
            let setting = format!("peers {id}");
            check_can_be_reached(&setting, address)?;
            if !addresses.insert(address) {
                let expected = "the address of another peer as well: want one for each";
                return Err(ConfigError::new(&setting, address, expected));
            }
        }
        if let Some(address) = &self.advertise {
            check_can_be_reached("advertise", address)?;
        }
        if self.listen.port != 0 && self.listen == self.listen_peer {
            let expected = "the address for clients as well: want another port";
            return Err(ConfigError::new("listen_peer", &self.listen_peer, expected));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::new("data_dir", "empty", "want a directory"));
        }
        self.check_replica()?;
        self.limits.check()
    }

    fn check_replica(&self) -> Result<(), ConfigError> {
        let options = &self.replica;
        if options.raft.id != self.node {
            let expected = format!("want this node's id, {}", self.node);
            return Err(ConfigError::new("replica.raft.id", options.raft.id, expected));
        }
        options.raft.check().map_err(ConfigError::of_part)?;
        let message_bytes = options.raft.snapshot_chunk_bytes_max;
        if message_bytes < SNAPSHOT_MESSAGE_BYTES_MIN {
            let expected = format!("want at least {SNAPSHOT_MESSAGE_BYTES_MIN}");
            let setting = "replica.raft.snapshot_chunk_bytes_max";
            return Err(ConfigError::new(setting, message_bytes, expected));
        }
        options.storage.check().map_err(ConfigError::of_part)?;
        options.kv.check().map_err(ConfigError::of_part)?;
        let times = [
            ("no_leader_wait", options.no_leader_wait),
            ("client_timeout", options.client_timeout),
            ("clock_entry_interval", options.clock_entry_interval),
            ("forward_retry", options.forward_retry),
        ];
        check_times(&times)?;
        check_times_max(&[
            ("repair_wait", options.repair_wait),
            ("disk_stall", options.disk_stall.unwrap_or_default()),
            ("shutdown_wait", options.shutdown_wait),
        ])?;
        check_percents(&[
            ("raft_state_snapshot_percent", options.raft_state_snapshot_percent),
            ("snapshot_reserve_percent", options.snapshot_reserve_percent),
        ])?;
        check_one_or_more(&[
            ("apply_bytes_max", options.apply_bytes_max),
            ("reply_bytes_per_turn", options.reply_bytes_per_turn),
            ("requests_under_way_max", options.requests_under_way_max),
            ("requests_held_bytes_max", options.requests_held_bytes_max),
        ])?;
        self.check_sizes()
    }

    /// Sizes that must fit one another: a command into an entry and into what is forwarded, an
    /// entry and a reply into a frame, a record into a snapshot's chunk.
    fn check_sizes(&self) -> Result<(), ConfigError> {
        let Options { raft, storage, kv, .. } = &self.replica;
        let frame = FRAME_PAYLOAD_BYTES_MAX - ROOM_BYTES;
        let entry = storage.entry_bytes_max.saturating_sub(ROOM_BYTES);
        let chunk = storage.snapshot_chunk_bytes_max.saturating_sub(ROOM_BYTES);
        let record = kv.key_bytes_max + kv.value_bytes_max;
        let batch = self.replica.batch_bytes_max;
        let heads = kv.arguments_max.saturating_mul(REPLY_ITEM_HEAD_BYTES_MAX);
        let within = [
            (
                "replica.kv.reply_bytes_max",
                kv.reply_bytes_max,
                frame.saturating_sub(heads),
                "a frame between nodes with what stands before arguments_max values",
            ),
            ("entry_bytes_max", storage.entry_bytes_max, frame, "a frame between nodes"),
            ("append_bytes_max", raft.append_bytes_max, frame, "a frame between nodes"),
            (
                "replica.raft.snapshot_chunk_bytes_max",
                raft.snapshot_chunk_bytes_max,
                frame,
                "a frame between nodes",
            ),
            ("batch_bytes_max", batch, entry, "entry_bytes_max"),
            (
                "command_bytes_max",
                kv.command_bytes_max,
                entry.saturating_sub(batch),
                "entry_bytes_max with batch_bytes_max",
            ),
            (
                "command_bytes_max",
                kv.command_bytes_max,
                FORWARDED_BYTES_MAX,
                "what a follower may forward to the leader",
            ),
            (
                "snapshot_chunk_bytes",
                self.replica.snapshot_chunk_bytes,
                chunk.saturating_sub(record),
                "a chunk of a snapshot file with the longest key and value",
            ),
        ];
        for (setting, value, most, whole) in within {
            if value == 0 || value > most {
                let expected = match most {
                    0 => format!("nothing fits {whole}"),
                    most => format!("want 1 to {most}, to fit {whole}"),
                };
                return Err(ConfigError::new(setting, value, expected));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
