//! Leadership that comes and goes, limits that are reached, messages that are lost: every request
//! still ends, once, and in words that are true.

use sampan_base::NodeId;
use sampan_kv::Reply;
use sampan_raft::Body;
use sampan_replica::wire::PeerMessage;
use sampan_replica::{ConnectionId, Input, Options, Request};

use crate::harness::{Cluster, show};

const CLUSTERDOWN: &str = "-CLUSTERDOWN No leader elected";
const UNKNOWN: &str = "-UNKNOWN outcome not known, command may still be applied";

/// A node that led, proposed `count` writes of connection 1 while it was cut off, and was deposed.
fn deposed(count: usize) -> (Cluster, u64, u64) {
    let (mut cluster, old) = Cluster::with_leader(3, Options::new);
    cluster.isolate(old);
    for _ in 0..count {
        let sent = cluster.send(old, 1, &["SET x 1"]);
        assert_eq!(cluster.answer(old, 1, sent[0]), None);
    }
    cluster.run_ms(3_500);
    cluster.heal();
    cluster.run_ms(300);
    let new = (1..=3).find(|&id| cluster.node(id).is_leader()).expect("a leader");
    assert_ne!(old, new);
    (cluster, old, new)
}

#[test]
fn a_node_that_leads_again_with_a_shorter_log_applies_and_answers_once() {
    let (mut cluster, old, new) = deposed(10);
    cluster.input(new, Input::TransferLeadership(Some(NodeId::of(old))));
    cluster.run_ms(100);
    assert!(cluster.node(old).is_leader());
    let sent = cluster.send(old, 2, &["INCR n"]);
    cluster.run_ms(50);
    assert_eq!(cluster.answer(old, 2, sent[0]), Some(&Reply::Int(1)));
    for connection in 10..22 {
        assert_eq!(cluster.ask(old, connection, "SET y 1"), "OK");
    }
    assert_eq!(cluster.ask(new, 3, "GET n"), "1");
}

#[test]
fn a_connection_whose_writes_were_lost_can_read_again() {
    let (mut cluster, old, _) = deposed(10);
    assert_eq!(cluster.ask(old, 1, "GET x"), "nil");
}

#[test]
fn a_session_command_that_may_be_applied_is_never_called_certainly_not_applied() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(leader, 1, "SESSION OPEN");
    cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    let sent = cluster.send(follower, 2, &[&format!("ONCE {session} 1 INCR n")]);
    cluster.run_ms(50);
    cluster.isolate(follower);
    cluster.kill(leader);
    cluster.run_ms(2_000);
    assert_eq!(cluster.answer(follower, 2, sent[0]).map(show).as_deref(), Some(UNKNOWN));
    cluster.heal();
    cluster.hold = |_| false;
    cluster.run_ms(3_000);
    assert_eq!(cluster.ask(follower, 3, "GET n"), "1", "it had been applied");
}

#[test]
fn a_session_command_whose_frames_are_all_lost_ends_as_unknown() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(leader, 1, "SESSION OPEN");
    cluster.hold = |message| matches!(message, PeerMessage::Forward(_));
    let sent = cluster.send(follower, 2, &[&format!("ONCE {session} 1 INCR n")]);
    cluster.run_ms(5_200);
    assert_eq!(cluster.answer(follower, 2, sent[0]).map(show).as_deref(), Some(UNKNOWN));
}

#[test]
fn a_lost_frame_does_not_let_later_commands_of_its_connection_overtake() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(leader, 1, "SESSION OPEN");
    cluster.hold = |m| matches!(m, PeerMessage::Forward(forward) if forward.frame_seq == 1);
    cluster.send(follower, 2, &[&format!("ONCE {session} 1 APPEND k a")]);
    cluster.run_ms(1);
    cluster.send(follower, 2, &[&format!("ONCE {session} 2 APPEND k b")]);
    cluster.run_ms(3_000);
    assert_eq!(cluster.ask(leader, 3, "GET k"), "ab");
}

fn narrow(id: NodeId) -> Options {
    let mut options = Options::new(id);
    options.raft.uncommitted_bytes_max = 3_000;
    options.batch_bytes_max = 512;
    options
}

fn is_append_reply(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(raft) if matches!(raft.body, Body::AppendReply { .. }))
}

#[test]
fn writes_beyond_the_uncommitted_limit_wait_and_are_done_when_there_is_room() {
    let (mut cluster, leader) = Cluster::with_leader(3, narrow);
    let value = "v".repeat(1_000);
    cluster.hold = is_append_reply;
    let set = |connection: u64| format!("SET k{connection} {value}");
    let sent: Vec<u64> = (1..=6)
        .map(|connection| cluster.send(leader, connection, &[&set(connection)])[0])
        .collect();
    cluster.run_ms(20);
    cluster.hold = |_| false;
    cluster.run_ms(100);
    for (connection, seq) in (1..).zip(sent) {
        assert_eq!(cluster.answer(leader, connection, seq), Some(&Reply::Ok), "{connection}");
    }
}

#[test]
fn writes_held_for_a_transfer_that_comes_to_nothing_are_done_here() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.hold = |message| matches!(message, PeerMessage::Raft(raft) if matches!(raft.body, Body::TimeoutNow));
    cluster.input(leader, Input::TransferLeadership(Some(NodeId::of(follower))));
    let sent = cluster.send(leader, 1, &["SET x 1"]);
    cluster.run_ms(100);
    assert_eq!(cluster.answer(leader, 1, sent[0]), None, "held");
    cluster.run_ms(700);
    assert!(cluster.node(leader).is_leader());
    assert_eq!(cluster.answer(leader, 1, sent[0]), Some(&Reply::Ok));
}

#[test]
fn writes_that_came_just_before_such_a_transfer_are_done_as_soon_as_it_ends() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = NodeId::of(cluster.follower_of(leader));
    cluster.hold = |message| matches!(message, PeerMessage::Raft(raft) if matches!(raft.body, Body::TimeoutNow));
    let command = ["SET", "x", "1"];
    let mut bytes = Vec::new();
    let class = sampan_kv::parse(&command, &sampan_kv::Limits::default(), &mut bytes).unwrap();
    let request = Request { seq: 1, class, stale: false, command: bytes.into() };
    let write = Input::Client { connection: ConnectionId(1), requests: vec![request] };
    cluster.inputs(leader, [write, Input::TransferLeadership(Some(follower))]);
    cluster.run_ms(100);
    assert_eq!(cluster.answer(leader, 1, 1), None, "held");
    cluster.run_ms(700);
    assert!(cluster.node(leader).is_leader());
    assert_eq!(cluster.answer(leader, 1, 1), Some(&Reply::Ok));
}

#[test]
fn a_stop_without_a_quorum_answers_everybody_before_it_ends() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    cluster.isolate(leader);
    let write = cluster.send(leader, 1, &["SET k v"]);
    cluster.run_ms(10);
    cluster.input(leader, Input::Shutdown);
    let late = cluster.send(leader, 2, &["SET k w"]);
    while !cluster.stopped.contains(&leader) {
        cluster.run_ms(1);
    }
    assert_eq!(cluster.answer(leader, 1, write[0]).map(show).as_deref(), Some(UNKNOWN));
    assert_eq!(cluster.answer(leader, 2, late[0]).map(show).as_deref(), Some(CLUSTERDOWN));
}

/// All nodes are asked to stop while their clients write: by how many terms that takes them
/// further, and how long it takes.
fn stop_all(cluster: &mut Cluster, leader: u64) -> (u64, u64) {
    let (term, begun_at) = (cluster.node(leader).status().raft.term.0, cluster.now_ms());
    let mut later = term;
    for id in 1..=3 {
        let commands: Vec<String> = (0..200).map(|n| format!("SET k{n} v")).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        (1..=10).for_each(|connection| drop(cluster.send(id, connection, &commands)));
    }
    (1..=3).for_each(|id| cluster.input(id, Input::Shutdown));
    while cluster.stopped.len() < 3 {
        cluster.run_ms(1);
        for id in 1..=3 {
            later = later.max(cluster.node(id).status().raft.term.0);
        }
    }
    (later - term, cluster.now_ms() - begun_at)
}

#[test]
fn nodes_that_all_stop_do_not_hand_leadership_to_each_other() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let (terms, took_ms) = stop_all(&mut cluster, leader);
    assert!(terms <= 1 && took_ms < 2_000, "{terms} terms, {took_ms} ms");
}
