//! Every setting of a node: one table of flags, from which come the environment variables
//! (`SAMPAN_` and the name), the keys of the configuration file, and the help with its defaults.
//!
//! What a setting means and which values make sense is the server's matter ([`Config::check`]);
//! here they are only named, read and put where they belong.

use std::any::Any;
use std::fmt::Display;
use std::num::{IntErrorKind, ParseIntError};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sampan_base::{ClusterId, NodeId};
use sampan_server::{Config, HostPort, OnDamage};

use crate::exit::Failure;

/// Who a node is, where it listens, and whom it talks to.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Identity {
    /// A TOML file of settings, named as the flags are: `node-id = 1`, `peer = ["2=HOST:PORT"]`
    #[arg(long, value_name = "FILE", env = "SAMPAN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Which node of the cluster this is: 1 or more
    #[arg(long, value_name = "ID", value_parser = node_id, env = "SAMPAN_NODE_ID")]
    pub(crate) node_id: Option<NodeId>,
    /// The cluster's name, the same on every node: 1 to 16 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = cluster_id, env = "SAMPAN_CLUSTER_ID")]
    pub(crate) cluster_id: Option<ClusterId>,
    /// Where the data are; created at the first start
    #[arg(long, value_name = "DIR", env = "SAMPAN_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where clients connect
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001", env = "SAMPAN_LISTEN")]
    pub(crate) listen: Option<HostPort>,
    /// Where the other nodes connect [default: the client address, port + 10000]
    #[arg(long, value_name = "HOST:PORT", env = "SAMPAN_PEER_LISTEN")]
    pub(crate) peer_listen: Option<HostPort>,
    /// The client address as others reach it, behind a NAT or proxy [default: as listened on]
    #[arg(long, value_name = "HOST:PORT", env = "SAMPAN_ADVERTISE")]
    pub(crate) advertise: Option<HostPort>,
    /// Another node, and where this one reaches it for peers; once for each, or separated by commas
    #[arg(
        long,
        value_name = "ID=HOST:PORT",
        value_parser = peer,
        value_delimiter = ',',
        env = "SAMPAN_PEER"
    )]
    pub(crate) peer: Vec<(NodeId, HostPort)>,
}

impl Identity {
    /// A configuration of default limits, or the first thing that is missing or wrong.
    pub(crate) fn into_config(self) -> Result<Config, Failure> {
        let missing = |name: &str, want: &str| {
            let variable = name.to_uppercase().replace('-', "_");
            Failure::usage(format!(
                "{name} is missing: want {want}, by --{name}, SAMPAN_{variable} or the --config file"
            ))
        };
        let node = self.node_id.ok_or_else(|| missing("node-id", "a number of 1 or more"))?;
        let cluster =
            self.cluster_id.ok_or_else(|| missing("cluster-id", "1 to 16 hexadecimal digits"))?;
        let data_dir = self.data_dir.ok_or_else(|| missing("data-dir", "a directory"))?;
        let mut listen = self.listen.ok_or_else(|| missing("listen", "HOST:PORT"))?;
        let port = listen.port;
        if self.peer_listen.is_some() {
            // The offset does not matter then, and must not refuse a high port.
            listen.port = 0;
        }
        let mut config = Config::new(cluster, node, listen, data_dir)
            .map_err(|error| Failure::usage(error.renamed(with_flags).to_string()))?;
        config.listen.port = port;
        config.listen_peer = self.peer_listen.unwrap_or(config.listen_peer);
        config.advertise = self.advertise;
        for (id, address) in self.peer {
            if config.peers.insert(id, address).is_some() {
                let text = format!("--peer {id} is given twice: want one address for each node");
                return Err(Failure::usage(text));
            }
        }
        Ok(config)
    }
}

/// A number of milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Millis(u64);

impl FromStr for Millis {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// How a flag's value and a field of the configuration become each other.
trait Field<Value> {
    fn put(&mut self, value: Value);
    fn shown(&self) -> String;
}

impl<T: Clone + ToString> Field<T> for T {
    fn put(&mut self, value: T) {
        *self = value;
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Field<Millis> for Duration {
    fn put(&mut self, Millis(value_ms): Millis) {
        *self = Self::from_millis(value_ms);
    }

    fn shown(&self) -> String {
        self.as_millis().to_string()
    }
}

/// 0 stands for never.
impl Field<Millis> for Option<Duration> {
    fn put(&mut self, Millis(value_ms): Millis) {
        *self = (value_ms > 0).then_some(Duration::from_millis(value_ms));
    }

    fn shown(&self) -> String {
        self.unwrap_or_default().as_millis().to_string()
    }
}

/// -1 stands for never, as in the course.
impl Field<i64> for Option<u64> {
    fn put(&mut self, value: i64) {
        *self = u64::try_from(value).ok();
    }

    fn shown(&self) -> String {
        self.map_or("-1".to_owned(), |value| value.to_string())
    }
}

/// Reads a setting's value; what is no number, or none that there is room for, is told what is
/// wanted.
fn parsed<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err: Display + 'static>,
{
    let is_read = |number: u64| number.to_string().parse::<T>().is_ok();
    text.parse().map_err(|error: T::Err| match (&error as &dyn Any).downcast_ref() {
        None => error.to_string(),
        // The one number that may be negative is of bytes.
        Some::<&ParseIntError>(_) if "-1".parse::<T>().is_ok() => BYTES_OR_NEVER.to_owned(),
        Some(error) if *error.kind() == IntErrorKind::PosOverflow => {
            let greatest = if is_read(u64::MAX) { u64::MAX } else { u16::MAX.into() };
            format!("want a whole number, 0 to {greatest}")
        }
        Some(_) => "want a whole number, 0 or more".to_owned(),
    })
}

/// What `--raft-state-max-bytes` takes.
const BYTES_OR_NEVER: &str = "want bytes, 0 to 9223372036854775807, or -1 for never";

/// One line a setting: flag, environment variable, type, and the field of [`Config`] it sets.
macro_rules! settings {
    ($($heading:literal: $($(#[doc = $doc:literal])* $name:ident $env:literal $type:ty => $($field:ident).+;)+)+) => {
        /// Settings that have a default.
        #[derive(Args, Clone, Debug, Default)]
        pub(crate) struct Settings {
            $($(
                $(#[doc = $doc])*
                #[arg(
                    long,
                    value_name = "N",
                    value_parser = parsed::<$type>,
                    env = $env,
                    help_heading = $heading,
                    allow_negative_numbers = true,
                    hide_env = true
                )]
                $name: Option<$type>,
            )+)+
        }

        impl Settings {
            /// Puts what was given into the configuration.
            fn put_into(self, config: &mut Config) {
                $($(if let Some(value) = self.$name {
                    Field::<$type>::put(&mut config.$($field).+, value);
                })+)+
            }

            /// The name of each setting, as in this struct, and its default.
            pub(crate) fn defaults(config: &Config) -> Vec<(&'static str, String)> {
                vec![$($((stringify!($name), Field::<$type>::shown(&config.$($field).+))),+),+]
            }
        }

        /// Each setting's name, as in this struct, and the field of [`Config`] that it sets.
        const FIELDS: &[(&str, &[&str])] =
            &[$($((stringify!($name), &[$(stringify!($field)),+])),+),+];
    };
}

settings! {
    "Consensus":
    /// Shortest time without a leader's word before an election; its random part is as long again
    election_timeout_ms "SAMPAN_ELECTION_TIMEOUT_MS" Millis => replica.raft.election_timeout_min;
    /// Longest time before an election [default: twice the shortest]
    election_timeout_max_ms "SAMPAN_ELECTION_TIMEOUT_MAX_MS" Millis => replica.raft.election_timeout_max;
    /// Longest silence of a leader, at most half of the election timeout
    heartbeat_ms "SAMPAN_HEARTBEAT_MS" Millis => replica.raft.heartbeat_interval;
    /// Bytes of entries in one message to a peer
    append_bytes_max "SAMPAN_APPEND_BYTES_MAX" usize => replica.raft.append_bytes_max;
    /// Entries in one message to a peer
    append_entries_max "SAMPAN_APPEND_ENTRIES_MAX" usize => replica.raft.append_entries_max;
    /// Messages to one peer without an answer
    inflight_messages_max "SAMPAN_INFLIGHT_MESSAGES_MAX" usize => replica.raft.inflight_messages_max;
    /// Bytes to one peer without an answer
    inflight_bytes_max "SAMPAN_INFLIGHT_BYTES_MAX" usize => replica.raft.inflight_bytes_max;
    /// Bytes a leader takes that are not committed, or not on its own disk
    uncommitted_bytes_max "SAMPAN_UNCOMMITTED_BYTES_MAX" usize => replica.raft.uncommitted_bytes_max;
    /// Reads that wait for their index
    reads_max "SAMPAN_READS_MAX" usize => replica.raft.reads_max;
    /// Bytes of a snapshot in one message; at least 4096
    snapshot_message_bytes_max "SAMPAN_SNAPSHOT_MESSAGE_BYTES_MAX" usize => replica.raft.snapshot_chunk_bytes_max;
    /// Bytes of a snapshot to a peer without an answer; the same on all nodes, or that is slow
    snapshot_inflight_bytes_max "SAMPAN_SNAPSHOT_INFLIGHT_BYTES_MAX" usize => replica.raft.snapshot_inflight_bytes_max;
    /// A snapshot's message without an answer is sent again after this
    snapshot_retry_ms "SAMPAN_SNAPSHOT_RETRY_MS" Millis => replica.raft.snapshot_retry_interval;

    "Log and snapshots":
    /// About how long the log gets (the course's maxraftstate), and twice that at most: a snapshot
    /// is taken each time its files have grown by half of this; less than four segments count as
    /// four there; -1: never
    raft_state_max_bytes "SAMPAN_RAFT_STATE_MAX_BYTES" i64 => replica.raft_state_bytes_max;
    /// The limit above grows to this percentage of the last snapshot's size; 0: it stays
    raft_state_snapshot_percent "SAMPAN_RAFT_STATE_SNAPSHOT_PERCENT" u64 => replica.raft_state_snapshot_percent;
    /// Room kept on the disk for the next snapshot, in percent of what it will take; 0: none
    snapshot_reserve_percent "SAMPAN_SNAPSHOT_RESERVE_PERCENT" u64 => replica.snapshot_reserve_percent;
    /// A group commit that takes longer counts as stalled: the leader hands over; 0: never
    disk_stall_ms "SAMPAN_DISK_STALL_MS" Millis => replica.disk_stall;
    /// Bytes of commands that share one log entry
    batch_bytes_max "SAMPAN_BATCH_BYTES_MAX" usize => replica.batch_bytes_max;
    /// Bytes of entries applied in one turn
    apply_bytes_max "SAMPAN_APPLY_BYTES_MAX" usize => replica.apply_bytes_max;
    /// Bytes of state in one chunk of a snapshot file
    snapshot_chunk_bytes "SAMPAN_SNAPSHOT_CHUNK_BYTES" usize => replica.snapshot_chunk_bytes;
    /// A log that is damaged where it may hold acknowledged entries: "repair" has it written again
    /// in its place from the logs of the peers, and what cannot be is given up as by "rejoin";
    /// "rejoin" gives up what follows, and the node does not vote until a leader has given it back;
    /// "refuse" exits with 5
    on_damage "SAMPAN_ON_DAMAGE" OnDamage => replica.on_damage;
    /// Snapshots kept, 1 to 64; the log reaches back to the oldest of them, and may be longer than
    /// twice its limit if there are more than 2
    snapshots_kept "SAMPAN_SNAPSHOTS_KEPT" usize => replica.storage.snapshots_kept;
    /// Length of one file of the log, a multiple of 4096; what a start makes is shorter
    segment_bytes "SAMPAN_SEGMENT_BYTES" u64 => replica.storage.segment_bytes;

    "Commands under way":
    /// A command waits this long for a leader, then gets -CLUSTERDOWN
    no_leader_wait_ms "SAMPAN_NO_LEADER_WAIT_MS" Millis => replica.no_leader_wait;
    /// A command waits this long for its outcome, then gets -UNKNOWN
    client_timeout_ms "SAMPAN_CLIENT_TIMEOUT_MS" Millis => replica.client_timeout;
    /// What was forwarded to the leader and may be repeated is sent again after this
    forward_retry_ms "SAMPAN_FORWARD_RETRY_MS" Millis => replica.forward_retry;
    /// Commands under way at a time; beyond it clients are not read from
    requests_under_way_max "SAMPAN_REQUESTS_UNDER_WAY_MAX" usize => replica.requests_under_way_max;
    /// Bytes of commands that wait or were forwarded; beyond it clients are not read from
    requests_held_bytes_max "SAMPAN_REQUESTS_HELD_BYTES_MAX" usize => replica.requests_held_bytes_max;
    /// The leader's clock is logged this often while keys are due to expire
    clock_entry_ms "SAMPAN_CLOCK_ENTRY_MS" Millis => replica.clock_entry_interval;
    /// A stop waits this long for the hand-over of leadership and for commands under way
    shutdown_wait_ms "SAMPAN_SHUTDOWN_WAIT_MS" Millis => replica.shutdown_wait;
    /// A stop waits this long for replies to leave
    stop_flush_ms "SAMPAN_STOP_FLUSH_MS" Millis => limits.stop_flush_time;

    "Client connections":
    /// Connections at a time, as far as so many files may be open
    clients_max "SAMPAN_CLIENTS_MAX" usize => limits.clients_max;
    /// Connections waiting to be accepted
    accept_backlog "SAMPAN_ACCEPT_BACKLOG" u16 => limits.accept_backlog;
    /// Commands of one connection without a reply
    pipeline_max "SAMPAN_PIPELINE_MAX" usize => limits.pipeline_max;
    /// Bytes read by one system call
    read_bytes "SAMPAN_READ_BYTES" usize => limits.read_bytes;
    /// Longest command
    request_bytes_max "SAMPAN_REQUEST_BYTES_MAX" usize => limits.request.request_bytes_max;
    /// Bytes of commands that have not arrived whole, of all connections together; beyond it the
    /// one that holds most is closed
    requests_partial_bytes_max "SAMPAN_REQUESTS_PARTIAL_BYTES_MAX" usize => limits.requests_partial_bytes_max;
    /// Longest argument that is read at all
    request_bulk_bytes_max "SAMPAN_REQUEST_BULK_BYTES_MAX" usize => limits.request.bulk_bytes_max;
    /// Most arguments that are read at all
    request_arguments_max "SAMPAN_REQUEST_ARGUMENTS_MAX" usize => limits.request.arguments_max;
    /// Longest inline command
    inline_bytes_max "SAMPAN_INLINE_BYTES_MAX" usize => limits.request.inline_bytes_max;
    /// A connection with this many reply bytes unsent, or to come as far as its replies so far
    /// tell, is not read from
    output_pause_bytes "SAMPAN_OUTPUT_PAUSE_BYTES" usize => limits.output_pause_bytes;
    /// One with this many unsent, or with --output-pause-bytes and more replies to come, of which
    /// its client takes none for --output-soft-ms, is closed
    output_soft_bytes "SAMPAN_OUTPUT_SOFT_BYTES" usize => limits.output_soft_bytes;
    /// See --output-soft-bytes
    output_soft_ms "SAMPAN_OUTPUT_SOFT_MS" Millis => limits.output_soft_time;
    /// One with this many unsent is closed at once
    output_bytes_max "SAMPAN_OUTPUT_BYTES_MAX" usize => limits.output_bytes_max;
    /// Bytes that all connections together hold of replies their clients do not take, and of
    /// commands that wait; beyond it the one that holds most is closed
    output_total_bytes_max "SAMPAN_OUTPUT_TOTAL_BYTES_MAX" usize => limits.output_total_bytes_max;
    /// A connection that stops in the middle of a command is closed after this
    request_stall_ms "SAMPAN_REQUEST_STALL_MS" Millis => limits.request_stall_time;
    /// A connection that sends nothing is closed after this; 0: never
    idle_ms "SAMPAN_IDLE_MS" Millis => limits.idle_time;
    /// A silent connection is probed by the kernel after this
    keepalive_ms "SAMPAN_KEEPALIVE_MS" Millis => limits.keepalive_time;
    /// Backups that are read at a time; each keeps one snapshot's file on the disk
    backups_max "SAMPAN_BACKUPS_MAX" usize => limits.backups_max;
    /// A backup that nobody has read from for this long is ended
    backup_idle_ms "SAMPAN_BACKUP_IDLE_MS" Millis => limits.backup_idle_time;
    /// Bytes a second of all backups together, so that other clients hardly notice
    backup_bytes_per_second "SAMPAN_BACKUP_BYTES_PER_SECOND" u64 => limits.backup_bytes_per_second;
    /// Bytes of a backup in one reply, at most 16777216
    backup_read_bytes "SAMPAN_BACKUP_READ_BYTES" usize => limits.backup_read_bytes;
    /// A connection this node closes is read dry for this long
    linger_ms "SAMPAN_LINGER_MS" Millis => limits.linger_time;

    "Peer connections":
    /// A handshake takes at most this
    handshake_ms "SAMPAN_HANDSHAKE_MS" Millis => limits.handshake_time;
    /// Handshakes under way at a time
    handshakes_max "SAMPAN_HANDSHAKES_MAX" usize => limits.handshakes_max;
    /// Bytes queued for one peer; what does not fit is dropped, but for outcomes of forwarded
    /// commands
    peer_queue_bytes_max "SAMPAN_PEER_QUEUE_BYTES_MAX" usize => limits.peer_queue_bytes_max;
    /// A connection whose data a peer's machine does not acknowledge for this long is closed
    peer_ack_ms "SAMPAN_PEER_ACK_MS" Millis => limits.peer_ack_time;
    /// A connection is closed when one frame of a peer takes longer than this to arrive
    peer_frame_ms "SAMPAN_PEER_FRAME_MS" Millis => limits.peer_frame_time;
    /// First wait before a peer is dialled again
    redial_min_ms "SAMPAN_REDIAL_MIN_MS" Millis => limits.redial_time_min;
    /// Longest wait before a peer is dialled again
    redial_max_ms "SAMPAN_REDIAL_MAX_MS" Millis => limits.redial_time_max;

    "Commands":
    /// Longest key
    key_bytes_max "SAMPAN_KEY_BYTES_MAX" usize => replica.kv.key_bytes_max;
    /// Most arguments of a command
    arguments_max "SAMPAN_ARGUMENTS_MAX" usize => replica.kv.arguments_max;
    /// Longest command as it stands in the log
    command_bytes_max "SAMPAN_COMMAND_BYTES_MAX" usize => replica.kv.command_bytes_max;
    /// Most bytes of values in one reply
    reply_bytes_max "SAMPAN_REPLY_BYTES_MAX" usize => replica.kv.reply_bytes_max;
    /// Tables that the keys are spread over, a power of two up to 65536: more keep each pause for
    /// growth short
    shards "SAMPAN_SHARDS" usize => replica.kv.shards;

    "State (must be the same on every node of a cluster, always)":
    /// Longest value
    value_bytes_max "SAMPAN_VALUE_BYTES_MAX" usize => replica.kv.value_bytes_max;
    /// Most sessions; one more evicts the least recently used
    sessions_max "SAMPAN_SESSIONS_MAX" usize => replica.kv.sessions_max;
    /// Replies a session keeps without an acknowledgement
    session_window_max "SAMPAN_SESSION_WINDOW_MAX" usize => replica.kv.session_window_max;
    /// Their bytes
    session_window_bytes_max "SAMPAN_SESSION_WINDOW_BYTES_MAX" usize => replica.kv.session_window_bytes_max;
    /// Bytes of all sessions together
    session_bytes_total_max "SAMPAN_SESSION_BYTES_TOTAL_MAX" usize => replica.kv.session_bytes_total_max;
    /// An unused session ends after this
    session_ttl_ms "SAMPAN_SESSION_TTL_MS" u64 => replica.kv.session_ttl_ms;
    /// Expired keys removed from memory by one batch
    reclaim_per_batch_max "SAMPAN_RECLAIM_PER_BATCH_MAX" usize => replica.kv.reclaim_per_batch_max;
    /// Longest log entry
    entry_bytes_max "SAMPAN_ENTRY_BYTES_MAX" usize => replica.storage.entry_bytes_max;
}

impl Settings {
    /// Makes this the election timeout if none was given; not where a heartbeat was that needs a
    /// longer one.
    pub(crate) fn default_election_timeout(&self, timeout: Duration, config: &mut Config) {
        let raft = &mut config.replica.raft;
        let heartbeat = self.heartbeat_ms.map(|Millis(value_ms)| Duration::from_millis(value_ms));
        if heartbeat.unwrap_or(raft.heartbeat_interval) * 2 <= timeout {
            raft.election_timeout_min = timeout;
        }
    }

    /// Puts what was given into the configuration, and checks the whole.
    pub(crate) fn apply(self, config: &mut Config) -> Result<(), Failure> {
        if self.raft_state_max_bytes.is_some_and(|bytes| bytes < -1) {
            let bytes = self.raft_state_max_bytes.unwrap_or_default();
            let text = format!("--raft-state-max-bytes is {bytes}: {BYTES_OR_NEVER}");
            return Err(Failure::usage(text));
        }
        let follow_timeout = self.election_timeout_max_ms.is_none();
        self.put_into(config);
        if follow_timeout {
            config.replica.raft.election_timeout_max = config.replica.raft.election_timeout_min * 2;
        }
        let checked = config.check().map_err(|error| error.renamed(with_flags));
        checked.map_err(|error| Failure::usage(format!("bad configuration: {error}")))
    }
}

/// A text about fields of [`Config`], with the flags that set them in their place.
pub(crate) fn with_flags(text: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_of_name) {
        let (before, from_name) = rest.split_at(start);
        let end = from_name.find(|c| !is_of_name(c)).unwrap_or(from_name.len());
        let (name, after) = from_name.split_at(end);
        out += before;
        out += &flag_of(name).unwrap_or_else(|| name.to_owned());
        rest = after;
    }
    out + rest
}

/// The flag that sets the field of this name, which may begin anywhere on the path to it.
fn flag_of(name: &str) -> Option<String> {
    let is_path =
        |path: &&[&str]| name.split('.').rev().zip(path.iter().rev()).all(|(a, b)| a == *b);
    let by_field = || FIELDS.iter().find(|(_, path)| name.contains('_') && is_path(path));
    let by_name = FIELDS.iter().find(|(setting, _)| *setting == name);
    let (setting, _) = match name {
        "listen" => return Some("--listen".to_owned()),
        "listen_peer" => return Some("--peer-listen".to_owned()),
        "peers" => return Some("--peer".to_owned()),
        "data_dir" => return Some("--data-dir".to_owned()),
        "advertise" => return Some("--advertise".to_owned()),
        _ => by_name.or_else(by_field)?,
    };
    Some(format!("--{}", setting.replace('_', "-")))
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse().ok().and_then(NodeId::new).ok_or_else(|| "want a number of 1 or more".to_owned())
}

pub(crate) fn cluster_id(text: &str) -> Result<ClusterId, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .map(ClusterId)
        .ok_or_else(|| "want 1 to 16 hexadecimal digits".to_owned())
}

fn peer(text: &str) -> Result<(NodeId, HostPort), String> {
    let want = || "want ID=HOST:PORT, such as 2=127.0.0.1:17002".to_owned();
    let (id, address) = text.split_once('=').ok_or_else(want)?;
    Ok((node_id(id).map_err(|_| want())?, address.parse().map_err(|_| want())?))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
