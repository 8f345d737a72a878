//! `CLUSTER`: for clients that ask who leads. All 16384 slots belong to the leader, and every other
//! node stands as its replica; yet every node takes every command. `SNAPSHOT NOW` is here too.

use std::fmt::Write as _;

use sampan_base::NodeId;
use sampan_kv::CommandError;
use sampan_replica::Input;
use sampan_resp::Writer;

use super::{Call, integer};
use crate::config::{HostPort, PEER_PORT_OFFSET};

/// Slots of a Redis cluster.
const SLOTS: i64 = 16_384;

/// `CLUSTER subcommand ...`
pub(super) fn cluster(call: &mut Call<'_>) {
    let name = call.arg(1).to_ascii_lowercase();
    match name.as_slice() {
        b"info" => info(call),
        b"slots" => slots(call),
        b"shards" => shards(call),
        b"nodes" => nodes(call),
        b"myid" => {
            let id = call.node.cluster_name(call.node.config.node);
            call.reply().bulk(id.as_bytes());
        }
        b"keyslot" => {
            if call.check_count("cluster|keyslot", 3..=3) {
                slot_of(call);
            }
        }
        b"transfer" => {
            if call.check_count("cluster|transfer", 2..=3) {
                transfer(call);
            }
        }
        b"help" => call.help(&[
            "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "INFO",
            "KEYSLOT <key>",
            "MYID",
            "NODES",
            "SHARDS",
            "SLOTS",
            "TRANSFER [<node>]",
            "    Hand leadership to a node, or to the one that is furthest on.",
            "HELP",
        ]),
        _ => call.unknown_subcommand("CLUSTER"),
    }
}

/// `CLUSTER KEYSLOT key`
fn slot_of(call: &mut Call<'_>) {
    let (key, bytes_max) = (call.arg(2), call.node.config.replica.kv.key_bytes_max);
    if key.len() > bytes_max {
        return call.error(&CommandError::KeyTooLong(bytes_max).to_string());
    }
    call.reply().integer(key_slot(key).into());
}

/// A node as `CLUSTER` shows it.
struct Shown {
    id: NodeId,
    name: String,
    address: HostPort,
    is_leader: bool,
    is_connected: bool,
}

/// All nodes, the leader first.
fn shown_nodes(call: &Call<'_>) -> Vec<Shown> {
    let node = call.node;
    let here = call.client.local.ip();
    let mut is_leader = true;
    let mut shown = Vec::new();
    for id in node.nodes_leader_first() {
        let Some(address) = node.client_address(id, here) else { continue };
        let is_connected = id == node.config.node || node.peers.is_connected(id);
        let name = node.cluster_name(id);
        shown.push(Shown { id, name, address, is_leader, is_connected });
        is_leader = false;
    }
    shown
}

fn info(call: &mut Call<'_>) {
    let node = call.node;
    let is_served = node.replica.borrow().leader().is_some();
    let (state, slots) = if is_served { ("ok", SLOTS) } else { ("fail", 0) };
    let term = node.replica.borrow().status().raft.term;
    let size = node.peers.ids().count() + 1;
    let text = format!(
        "cluster_enabled:0\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\n\
         cluster_slots_ok:{slots}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\n\
         cluster_known_nodes:{size}\r\ncluster_size:1\r\ncluster_current_epoch:{term}\r\n\
         cluster_my_epoch:{term}\r\n",
        SLOTS - slots,
    );
    call.reply().verbatim(*b"txt", text.as_bytes());
}

fn slots(call: &mut Call<'_>) {
    let nodes = shown_nodes(call);
    let mut reply = call.reply();
    reply.array(1);
    reply.array(2 + nodes.len());
    reply.integer(0);
    reply.integer(SLOTS - 1);
    for node in nodes {
        reply.array(3);
        reply.bulk(node.address.host.as_bytes());
        reply.integer(node.address.port.into());
        reply.bulk(node.name.as_bytes());
    }
}

fn shards(call: &mut Call<'_>) {
    let nodes = shown_nodes(call);
    let mut reply = call.reply();
    reply.array(1);
    reply.map(2);
    reply.bulk(b"slots");
    reply.array(2);
    reply.integer(0);
    reply.integer(SLOTS - 1);
    reply.bulk(b"nodes");
    reply.array(nodes.len());
    for node in &nodes {
        shard_node(node, &mut reply);
    }
}

fn shard_node(node: &Shown, reply: &mut Writer<'_>) {
    let host = node.address.host.as_bytes();
    reply.map(7);
    reply.bulk(b"id");
    reply.bulk(node.name.as_bytes());
    reply.bulk(b"port");
    reply.integer(node.address.port.into());
    reply.bulk(b"ip");
    reply.bulk(host);
    reply.bulk(b"endpoint");
    reply.bulk(host);
    reply.bulk(b"role");
    reply.bulk(if node.is_leader { b"master" } else { b"replica" });
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(if node.is_connected { b"online" } else { b"failed" });
}

fn nodes(call: &mut Call<'_>) {
    let nodes = shown_nodes(call);
    let me = call.node.config.node;
    let term = call.node.replica.borrow().status().raft.term;
    let leader_name = nodes.first().map_or("-", |leader| leader.name.as_str());
    let mut text = String::new();
    for node in &nodes {
        let myself = if node.id == me { "myself," } else { "" };
        let role = if node.is_leader { "master -".into() } else { format!("slave {leader_name}") };
        let link = if node.is_connected { "connected" } else { "disconnected" };
        let slots = if node.is_leader { " 0-16383" } else { "" };
        let bus = node.address.port.saturating_add(PEER_PORT_OFFSET);
        // Writing to a string does not fail.
        _ = writeln!(
            text,
            "{} {}@{bus} {myself}{role} 0 0 {term} {link}{slots}",
            node.name, node.address
        );
    }
    call.reply().verbatim(*b"txt", text.as_bytes());
}

/// `CLUSTER TRANSFER [node]`: hands leadership over. `+OK` means that it has begun.
fn transfer(call: &mut Call<'_>) {
    let node = call.node;
    let to = match call.args.get(2) {
        None => None,
        Some(arg) => {
            let id = integer(arg).and_then(|id| NodeId::new(id.try_into().ok()?));
            let Some(id) = id.filter(|&id| node.peers.ids().any(|peer| peer == id)) else {
                let shown = call.shown(2);
                let text = format!("ERR '{shown}' is no other node of this cluster");
                return call.error(&text);
            };
            Some(id)
        }
    };
    if node.replica.borrow().is_leader() {
        node.inbox.push(Input::TransferLeadership(to));
        return call.ok();
    }
    let here = call.client.local.ip();
    let leader = node.known_leader().and_then(|leader| node.client_address(leader, here));
    match leader {
        Some(address) => {
            call.error(&format!("ERR this node does not lead, the one at {address} does"));
        }
        None => call.error("CLUSTERDOWN No leader elected"),
    }
}

/// CRC-16 (XMODEM) of the key, or of the part between the first braces, over the slots.
fn key_slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let inner = &key[open + 1..];
        let close = inner.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &inner[..close])
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(key_slot(b"123456789"), 0x31c3);
        assert_eq!(key_slot(b"foo"), 12_182);
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"user1000"));
        assert_eq!(key_slot(b"foo{}{bar}"), 8_363);
        assert_eq!(key_slot(b""), 0);
    }
}
