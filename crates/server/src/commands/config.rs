//! `CONFIG`: what clients ask for at connect. Nothing can be set: a node's configuration is what it
//! was started with.

use super::{Call, glob, shown};
use crate::node::Node;

/// `CONFIG GET pattern ... | SET ... | RESETSTAT | REWRITE | HELP`
pub(super) fn config(call: &mut Call<'_>) {
    let name = call.arg(1).to_ascii_lowercase();
    match name.as_slice() {
        b"get" => {
            if call.check_count("config|get", 3..) {
                get(call);
            }
        }
        b"set" => {
            if call.check_count("config|set", 4..) {
                let name = shown(call.arg(2));
                call.error(&format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                ));
            }
        }
        b"resetstat" => {
            if call.check_count("config|resetstat", 2..=2) {
                call.node.stats.reset();
                call.ok();
            }
        }
        b"rewrite" => call.error("ERR The server is running without a config file"),
        b"help" => call.help(&[
            "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "GET <pattern>",
            "RESETSTAT",
            "HELP",
        ]),
        _ => call.unknown_subcommand("CONFIG"),
    }
}

fn get(call: &mut Call<'_>) {
    let patterns = &call.args[2..];
    if !call.check_patterns(patterns) {
        return;
    }
    let found: Vec<(&str, String)> = settings(call.node)
        .into_iter()
        .filter(|(name, _)| patterns.iter().any(|p| glob::matches(p, name.as_bytes())))
        .collect();
    let mut reply = call.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// Names that Redis knows, with what they amount to here, and some of our own.
fn settings(node: &Node) -> Vec<(&'static str, String)> {
    let config = &node.config;
    let limits = &config.limits;
    let options = &config.replica;
    let idle_seconds = limits.idle_time.map_or(0, |time| time.as_secs());
    let clients_bytes_max =
        limits.requests_partial_bytes_max.saturating_add(limits.output_total_bytes_max);
    let output = format!(
        "normal {} {} {}",
        limits.output_bytes_max,
        limits.output_soft_bytes,
        limits.output_soft_time.as_secs()
    );
    vec![
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("bind", config.listen.host.clone()),
        ("client-output-buffer-limit", output),
        ("client-timeout-ms", options.client_timeout.as_millis().to_string()),
        ("cluster-enabled", "no".into()),
        ("databases", "1".into()),
        ("dir", config.data_dir.display().to_string()),
        ("election-timeout-ms", options.raft.election_timeout_min.as_millis().to_string()),
        ("maxclients", limits.clients_max.to_string()),
        ("maxmemory", "0".into()),
        ("maxmemory-clients", clients_bytes_max.to_string()),
        ("maxmemory-policy", "noeviction".into()),
        ("no-leader-wait-ms", options.no_leader_wait.as_millis().to_string()),
        ("notify-keyspace-events", String::new()),
        ("port", node.client_port.to_string()),
        ("proto-max-bulk-len", limits.request.bulk_bytes_max.to_string()),
        ("requirepass", String::new()),
        ("save", String::new()),
        ("tcp-backlog", limits.accept_backlog.to_string()),
        ("tcp-keepalive", limits.keepalive_time.as_secs().to_string()),
        ("timeout", idle_seconds.to_string()),
    ]
}
