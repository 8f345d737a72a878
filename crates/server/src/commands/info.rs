//! `INFO` and its like: what operators and clients read of a node.

use std::fmt::Write as _;

use sampan_base::{LogIndex, NodeId, Time};
use sampan_raft::{DropReason, Health, PeerState, PeerStatus};
use sampan_replica::Status;

use super::{Call, REDIS_VERSION};
use crate::time;

/// The sections that a plain `INFO` shows, in order.
const SECTIONS: [&str; 12] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "raft",
    "cpu",
    "modules",
    "errorstats",
    "cluster",
    "keyspace",
];

/// `INFO [section ...]`
pub(super) fn info(call: &mut Call<'_>) {
    let asked: Vec<String> = call.args[1..]
        .iter()
        .map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase())
        .collect();
    let is_all = asked.is_empty()
        || asked.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let status = call.node.replica.borrow().status();
    let mut text = String::new();
    for section in SECTIONS {
        if is_all || asked.iter().any(|name| name == section) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write_section(section, call, &status, &mut text);
        }
    }
    call.reply().verbatim(*b"txt", text.as_bytes());
}

/// Appends `key:value` lines.
struct Lines<'a>(&'a mut String);

impl Lines<'_> {
    fn title(&mut self, title: &str) {
        // Writing to a string does not fail, here and below.
        _ = write!(self.0, "# {title}\r\n");
    }

    fn put(&mut self, key: &str, value: impl std::fmt::Display) {
        _ = write!(self.0, "{key}:{value}\r\n");
    }
}

fn write_section(section: &str, call: &Call<'_>, status: &Status, text: &mut String) {
    let mut lines = Lines(text);
    match section {
        "server" => server(call, &mut lines),
        "clients" => clients(call, &mut lines),
        "memory" => memory(status, &mut lines),
        "persistence" => persistence(call, status, &mut lines),
        "stats" => stats(call, status, &mut lines),
        "replication" => replication(call, status, &mut lines),
        "raft" => raft(call, status, &mut lines),
        "cpu" => cpu(&mut lines),
        "modules" => lines.title("Modules"),
        "errorstats" => {
            lines.title("Errorstats");
            let errors = &call.node.stats.errors;
            errors.for_each(|code, count| {
                lines.put(&format!("errorstat_{code}"), format_args!("count={count}"));
            });
        }
        "cluster" => {
            lines.title("Cluster");
            lines.put("cluster_enabled", 0);
        }
        _ => keyspace(status, &mut lines),
    }
}

fn server(call: &Call<'_>, lines: &mut Lines<'_>) {
    let node = call.node;
    let uptime = node.clock.uptime().as_secs();
    lines.title("Server");
    lines.put("redis_version", REDIS_VERSION);
    lines.put("server_name", "sampan");
    lines.put("sampan_version", env!("CARGO_PKG_VERSION"));
    lines.put("redis_mode", "standalone");
    lines.put("os", std::env::consts::OS);
    lines.put("arch_bits", usize::BITS);
    lines.put("process_id", std::process::id());
    lines.put("run_id", &node.run_id);
    lines.put("tcp_port", node.client_port);
    lines.put("server_time_usec", time::wall().unix_ms * 1_000);
    lines.put("uptime_in_seconds", uptime);
    lines.put("uptime_in_days", uptime / 86_400);
}

fn clients(call: &Call<'_>, lines: &mut Lines<'_>) {
    let node = call.node;
    lines.title("Clients");
    lines.put("connected_clients", node.clients.len());
    lines.put("cluster_connections", 0);
    lines.put("maxclients", node.config.limits.clients_max);
    lines.put("blocked_clients", 0);
    lines.put("requests_partial_bytes", node.clients.incomplete.bytes());
    lines.put("output_total_bytes", node.clients.output.bytes());
}

fn memory(status: &Status, lines: &mut Lines<'_>) {
    let kv = &status.kv;
    lines.title("Memory");
    let (used, resident) = (kv.bytes_estimate + kv.session_bytes, resident_bytes());
    lines.put("used_memory", used);
    lines.put("used_memory_human", human(used));
    lines.put("used_memory_rss", resident);
    lines.put("used_memory_rss_human", human(resident));
    lines.put("used_memory_dataset", kv.bytes_estimate);
    lines.put("used_memory_sessions", kv.session_bytes);
    lines.put("maxmemory", 0);
    lines.put("maxmemory_policy", "noeviction");
    lines.put("mem_allocator", "mimalloc");
}

fn persistence(call: &Call<'_>, status: &Status, lines: &mut Lines<'_>) {
    lines.title("Persistence");
    lines.put("loading", 0);
    let node = call.node;
    let (snapshot_index, snapshot_bytes) = status.snapshot.unwrap_or_default();
    let ok_or_err = |is_ok| if is_ok { "ok" } else { "err" };
    lines.put("rdb_changes_since_last_save", status.applied.0.saturating_sub(snapshot_index.0));
    lines.put("rdb_bgsave_in_progress", u8::from(status.snapshot_in_progress));
    lines.put("rdb_last_save_time", node.snapshot_at.get().unix_ms / 1_000);
    lines.put("rdb_last_bgsave_status", ok_or_err(!node.snapshot_failed.get()));
    lines.put("rdb_saves", node.stats.snapshots.get());
    lines.put("rdb_last_save_size", snapshot_bytes);
    let pauses = status.snapshot_pauses;
    lines.put("snapshot_capture_us", pauses.capture.as_micros());
    lines.put("snapshot_longest_slice_us", pauses.longest_slice.as_micros());
    let arrival = status.snapshot_arrival;
    lines.put("snapshot_receiving_bytes", arrival.map_or(0, |arrival| arrival.bytes));
    lines.put("snapshot_receiving_size_bytes", arrival.map_or(0, |arrival| arrival.size_bytes));
    lines.put("snapshot_unread_bytes", status.snapshot_unread_bytes);
    let pace = status.background_bytes_per_second.map_or("-1".to_owned(), |rate| rate.to_string());
    lines.put("background_bytes_per_second", pace);
    lines.put("aof_enabled", 1);
    lines.put("aof_rewrite_in_progress", u8::from(status.snapshot_in_progress));
    lines.put("aof_last_write_status", ok_or_err(!status.raft.health.is_full()));
    lines.put("aof_current_size", status.log_bytes_on_disk);
    lines.put("syncs", status.syncs);
    lines.put("log_bytes_live", status.log_bytes_live);
    lines.put("log_bytes_memory", status.raft.live_log_bytes);
    let limit = status.log_bytes_max.map_or("-1".to_owned(), |bytes| bytes.to_string());
    lines.put("log_bytes_snapshot_at", limit);
    lines.put("snapshot_reserve_bytes", status.reserve_bytes);
    lines.put("log_batches_repaired", status.batches_repaired);
    lines.put("disk_health", status.disk_health().label());
}

fn stats(call: &Call<'_>, status: &Status, lines: &mut Lines<'_>) {
    let node = call.node;
    lines.title("Stats");
    lines.put("total_connections_received", node.clients.total());
    lines.put("total_commands_processed", node.stats.commands.get());
    lines.put("total_net_input_bytes", node.stats.input_bytes.get());
    lines.put("rejected_connections", node.stats.rejected_connections.get());
    lines.put("rejected_http_requests", node.stats.http_requests.get());
    lines.put("evicted_clients", node.stats.evicted_clients.get());
    let overfull = node.stats.overfull_clients.get();
    lines.put("client_output_buffer_limit_disconnections", overfull);
    lines.put("expired_keys", status.kv.expired_total);
    lines.put("evicted_keys", 0);
    lines.put("total_error_replies", node.stats.errors.total());
    lines.put("total_writes", status.writes);
    lines.put("total_reads", status.reads);
    lines.put("total_forwarded", status.forwarded);
    lines.put("forwards_refused", status.forwards_refused);
    lines.put("forwards_dropped", status.forwards_dropped);
    lines.put("read_retries", status.read_retries);
    lines.put("duplicates_answered", status.duplicates);
    lines.put("requests_under_way", status.requests_under_way);
    lines.put("turns", node.stats.turns.get());
    lines.put("log_lines_dropped", node.log.dropped());
}

/// Every node takes writes, and so is a master to clients; who really leads is in `# Raft`.
fn replication(call: &Call<'_>, status: &Status, lines: &mut Lines<'_>) {
    lines.title("Replication");
    lines.put("role", "master");
    lines.put("connected_slaves", 0);
    lines.put("master_failover_state", "no-failover");
    lines.put("master_replid", &call.node.run_id);
    lines.put("master_repl_offset", status.applied);
}

fn raft(call: &Call<'_>, status: &Status, lines: &mut Lines<'_>) {
    let node = call.node;
    let raft = &status.raft;
    lines.title("Raft");
    lines.put("node_id", raft.id.get());
    lines.put("cluster_id", status.cluster);
    lines.put("raft_role", raft.role);
    lines.put("term", raft.term);
    lines.put("leader_id", raft.leader.map_or(0, NodeId::get));
    let address = raft.leader.and_then(|id| node.client_address(id, call.client.local.ip()));
    let reaches = |id| id == raft.id || node.peers.is_connected(id);
    lines.put("leader_connected", u8::from(raft.leader.is_some_and(reaches)));
    lines.put("leader_address", address.map_or(String::new(), |address| address.to_string()));
    lines.put("configuration", &raft.configuration);
    lines.put("commit_index", raft.commit);
    lines.put("applied_index", status.applied);
    lines.put("applied_digest", status.digest);
    lines.put("first_index", raft.first_index);
    lines.put("last_index", raft.last_index);
    lines.put("durable_index", raft.durable_index);
    lines.put("live_log_bytes", status.log_bytes_live);
    lines.put("disk_log_bytes", status.log_bytes_on_disk);
    let (snapshot_index, snapshot_bytes) = status.snapshot.unwrap_or_default();
    lines.put("snapshot_index", snapshot_index);
    lines.put("snapshot_bytes", snapshot_bytes);
    lines.put("snapshot_in_progress", u8::from(status.snapshot_in_progress));
    let unheard = raft.unheard_voters.len();
    lines.put("voting", u8::from(raft.non_voting_until.is_none() && unheard == 0));
    lines.put("voters_unheard", unheard);
    let until = raft.non_voting_until.filter(|until| *until < LogIndex::MAX);
    lines.put("non_voting_until", until.map_or(0, |until| until.0));
    lines.put("transfer_to", raft.transfer_target.map_or(0, NodeId::get));
    lines.put("sessions", status.kv.sessions);
    lines.put("sessions_evicted", status.kv.sessions_evicted_total);
    lines.put("duplicates", status.kv.duplicates_total);
    for peer in &raft.peers {
        lines.put(&format!("peer{}", peer.id.get()), peer_line(peer, node.clock.mono()));
    }
    transport(call, lines);
    for reason in DropReason::ALL {
        lines.put(&format!("dropped_{}", reason.label()), raft.dropped.of(reason));
    }
}

fn peer_line(peer: &PeerStatus, now: Time) -> String {
    let (state, snapshot_bytes, snapshot_size_bytes) = match peer.state {
        PeerState::Probe => ("probe", 0, 0),
        PeerState::Replicate => ("replicate", 0, 0),
        PeerState::Snapshot { acked_bytes, size_bytes, .. } => {
            ("snapshot", acked_bytes, size_bytes)
        }
    };
    let heard_ms = now.since(peer.heard_at).as_millis();
    format!(
        "match={},next={},state={state},snapshot_bytes={snapshot_bytes},\
         snapshot_size_bytes={snapshot_size_bytes},voter={},repairing={},inflight={},sent={},\
         received={},heard_ms={heard_ms},disk={}",
        peer.matched,
        peer.next,
        u8::from(peer.is_voter),
        u8::from(peer.recovering),
        peer.inflight_messages,
        peer.messages_sent,
        peer.messages_received,
        peer.health.map_or("unknown", Health::label),
    )
}

fn transport(call: &Call<'_>, lines: &mut Lines<'_>) {
    let peers = &call.node.peers;
    let connected = peers.ids().filter(|&id| peers.is_connected(id)).count();
    lines.put("peers_connected", connected);
    lines.put("peer_queue_bytes", peers.queued_bytes());
    let counters = &peers.counters;
    for (key, counter) in [
        ("frames_sent", &counters.frames_sent),
        ("frames_received", &counters.frames_received),
        ("frame_bytes_sent", &counters.bytes_sent),
        ("frame_bytes_received", &counters.bytes_received),
        ("frames_dropped_unconnected", &counters.dropped_unconnected),
        ("frames_dropped_queue_full", &counters.dropped_queue_full),
        ("frames_dropped_misdirected", &counters.dropped_misdirected),
        ("frames_broken", &counters.broken_frames),
        ("handshakes_failed", &counters.handshakes_failed),
    ] {
        lines.put(key, counter.get());
    }
}

fn cpu(lines: &mut Lines<'_>) {
    let (user, system) = cpu_seconds();
    lines.title("CPU");
    lines.put("used_cpu_sys", format_args!("{system:.6}"));
    lines.put("used_cpu_user", format_args!("{user:.6}"));
}

fn keyspace(status: &Status, lines: &mut Lines<'_>) {
    lines.title("Keyspace");
    let kv = &status.kv;
    if kv.keys > 0 {
        lines.put("db0", format_args!("keys={},expires={},avg_ttl=0", kv.keys, kv.expires));
    }
}

/// Bytes for people, as Redis writes them: two decimals of the largest unit that there is one of.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"].into_iter().zip((10..).step_by(10));
    match units.take_while(|(_, bits)| bytes >> bits > 0).last() {
        Some((unit, bits)) => format!("{:.2}{unit}", bytes as f64 / (1_u64 << bits) as f64),
        None => format!("{bytes}B"),
    }
}

/// The memory of this process that is really there; zero where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// User and system time of this process; zero where the system does not say.
fn cpu_seconds() -> (f64, f64) {
    /// `USER_HZ`, the unit of these figures, is 100 on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; what follows it is plain.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse().unwrap_or(0.0));
    let mut seconds = || ticks.next().unwrap_or(0.0) / TICKS_PER_SECOND;
    (seconds(), seconds())
}

/// `TIME`: this node's wall clock.
pub(super) fn time(call: &mut Call<'_>) {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(now.as_secs().to_string().as_bytes());
    reply.bulk(now.subsec_micros().to_string().as_bytes());
}

/// `LASTSAVE`: when this node's newest snapshot became durable, or when it started.
pub(super) fn lastsave(call: &mut Call<'_>) {
    let seconds = call.node.snapshot_at.get().unix_ms / 1_000;
    call.reply().integer(seconds as i64);
}

/// `ROLE`: every node takes writes, and so is a master without replicas.
pub(super) fn role(call: &mut Call<'_>) {
    let applied = call.node.replica.borrow().status().applied.0;
    let mut reply = call.reply();
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(applied as i64);
    reply.array(0);
}

#[cfg(test)]
mod tests {
    use sampan_base::SnapshotId;

    use super::*;

    #[test]
    fn the_line_of_a_peer_tells_how_far_its_snapshot_is() {
        let state = |acked_bytes| PeerState::Snapshot {
            id: SnapshotId(7),
            index: LogIndex(5),
            size_bytes: 900,
            acked_bytes,
        };
        let mut peer = PeerStatus {
            id: NodeId::of(2),
            is_voter: true,
            state: state(300),
            matched: LogIndex(4),
            next: LogIndex(6),
            inflight_messages: 1,
            inflight_bytes: 0,
            messages_sent: 8,
            messages_received: 9,
            heard_at: Time::ZERO,
            recovering: false,
            health: Some(Health::Well),
        };
        let rest = "voter=1,repairing=0,inflight=1,sent=8,received=9,heard_ms=0,disk=well";
        let progress = "state=snapshot,snapshot_bytes=300,snapshot_size_bytes=900";
        assert_eq!(peer_line(&peer, Time::ZERO), format!("match=4,next=6,{progress},{rest}"));
        peer.state = PeerState::Replicate;
        let progress = "state=replicate,snapshot_bytes=0,snapshot_size_bytes=0";
        assert_eq!(peer_line(&peer, Time::ZERO), format!("match=4,next=6,{progress},{rest}"));
    }

    #[test]
    fn bytes_are_written_as_redis_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.00K"),
            (1_536, "1.50K"),
            ((1 << 20) - 1, "1024.00K"),
            (14_071_890, "13.42M"),
            (5 << 30, "5.00G"),
            (3 << 40, "3.00T"),
            (1 << 50, "1.00P"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
