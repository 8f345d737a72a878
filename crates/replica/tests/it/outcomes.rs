//! Done, certainly not applied, unknown: each said only when it is true.

use sampan_base::NodeId;
use sampan_kv::{Class, Reply};
use sampan_replica::wire::{Forward, ForwardedRequest, PeerMessage};
use sampan_replica::{ConnectionId, Input, Options};

use crate::harness::{Cluster, show};

const CLUSTERDOWN: &str = "-CLUSTERDOWN No leader elected";
const UNKNOWN: &str = "-UNKNOWN outcome not known, command may still be applied";

#[test]
fn without_a_leader_a_command_is_held_then_refused() {
    let mut cluster = Cluster::new(3, Options::new);
    cluster.kill(2);
    cluster.kill(3);
    cluster.run_ms(2_000);
    let sent = cluster.send(1, 1, &["SET k v"]);
    cluster.run_ms(390);
    assert_eq!(cluster.answer(1, 1, sent[0]), None, "held for 400 ms");
    cluster.run_ms(100);
    assert_eq!(cluster.answer(1, 1, sent[0]).map(show).as_deref(), Some(CLUSTERDOWN));
}

#[test]
fn a_command_held_without_a_leader_is_done_when_there_is_one() {
    let mut cluster = Cluster::new(3, |id| {
        let mut options = Options::new(id);
        options.no_leader_wait = std::time::Duration::from_secs(3);
        options
    });
    let sent: Vec<u64> =
        (1..=3).map(|id| cluster.send(id, 1, &[&format!("SET k{id} v")])[0]).collect();
    cluster.run_ms(2_500);
    for id in 1..=3 {
        assert_eq!(cluster.answer(id, 1, sent[id as usize - 1]), Some(&Reply::Ok), "node {id}");
    }
}

#[test]
fn a_write_appended_by_a_leader_that_is_cut_off_is_unknown() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    cluster.isolate(leader);
    let sent = cluster.send(leader, 1, &["SET k lost"]);
    cluster.run_ms(4_000);
    assert_eq!(cluster.answer(leader, 1, sent[0]).map(show).as_deref(), Some(UNKNOWN));
    let other = cluster.follower_of(leader);
    assert_eq!(cluster.ask(other, 1, "GET k"), "nil");
    cluster.heal();
    cluster.run_ms(1_000);
    assert_eq!(cluster.ask(leader, 2, "GET k"), "nil", "the entry was overwritten");
}

#[test]
fn a_write_whose_place_in_the_log_another_entry_took_is_done_elsewhere() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    cluster.isolate(leader);
    let sent = cluster.send(leader, 1, &["INCR n"]);
    let other = cluster.follower_of(leader);
    while cluster.node(other).leader().is_none_or(|id| id.get() == leader) {
        cluster.run_ms(1);
    }
    cluster.heal();
    cluster.run_ms(1_000);
    assert_eq!(cluster.answer(leader, 1, sent[0]), Some(&Reply::Int(1)));
    assert_eq!(cluster.ask(other, 1, "GET n"), "1");
}

#[test]
fn a_write_forwarded_to_a_leader_that_dies_is_soon_unknown() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let sent = cluster.send(follower, 1, &["INCR n"]);
    cluster.kill(leader);
    cluster.run_ms(20);
    assert_eq!(cluster.answer(follower, 1, sent[0]), None, "the answer may still be read");
    cluster.run_ms(100);
    assert_eq!(cluster.answer(follower, 1, sent[0]).map(show).as_deref(), Some(UNKNOWN));
}

#[test]
fn a_session_command_forwarded_to_a_leader_that_dies_is_done_once() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(follower, 1, "SESSION OPEN");
    let sent = cluster.send(follower, 1, &[&format!("ONCE {session} 1 INCR n")]);
    cluster.kill(leader);
    cluster.run_ms(3_000);
    assert_eq!(cluster.answer(follower, 1, sent[0]), Some(&Reply::Int(1)));
    assert_eq!(cluster.ask(follower, 1, "GET n"), "1");
}

#[test]
fn a_repeated_session_command_gets_its_first_reply_from_the_next_leader() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let session = cluster.ask(leader, 1, "SESSION OPEN");
    let append = format!("ONCE {session} 1 APPEND k token");
    assert_eq!(cluster.ask(leader, 1, &append), "5");
    cluster.kill(leader);
    let next = cluster.wait_for_leader();
    assert_eq!(cluster.ask(next, 1, &append), "5");
    assert_eq!(cluster.ask(next, 1, "GET k"), "token");
    assert_eq!(cluster.ask(next, 1, &format!("OUTCOME {session} 1")), "[applied 5]");
    let reused = cluster.ask(next, 1, &format!("ONCE {session} 1 APPEND k other"));
    assert!(reused.starts_with("-SESSIONREUSED"), "{reused}");
}

#[test]
fn a_session_that_has_ended_does_not_hide_an_attempt_that_its_client_does_not_know_of() {
    let mut led = Vec::new();
    for place in [0, 1] {
        let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
        let followers: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
        let follower = followers[place];
        let session = cluster.ask(follower, 1, "SESSION OPEN");
        // The first attempt is in all logs when its leader dies; the next one's clock is hours
        // ahead.
        cluster.hold = |message| matches!(message, PeerMessage::Raft(raft) if is_reply(raft));
        let sent = cluster.send(follower, 1, &[&format!("ONCE {session} 1 INCR n")]);
        cluster.run_ms(5);
        cluster.kill(leader);
        cluster.hold = |_| false;
        cluster.clocks_ahead_ms.extend(followers.iter().map(|&id| (id, 2 * 3_600_000)));
        led.push(cluster.wait_for_leader() == follower);
        cluster.run_ms(500);
        assert_eq!(cluster.ask(follower, 2, "GET n"), "1", "it was applied");
        // The client has sent it once: it would take -SESSIONEXPIRED for "not applied".
        assert_eq!(cluster.answer(follower, 1, sent[0]).map(show).as_deref(), Some(UNKNOWN));
        let again = cluster.ask(follower, 1, &format!("ONCE {session} 1 INCR n"));
        assert!(again.starts_with("-SESSIONEXPIRED"), "{again}");
    }
    assert!(led.contains(&true) && led.contains(&false), "by the node itself, and by another");
}

#[test]
fn a_refused_command_waits_for_a_new_leader_and_causes_no_storm() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let third = (1..=3).find(|&id| id != leader && id != follower).unwrap();
    // The leader hears nobody and steps down; the follower hears it still, and sends it commands.
    cluster.kill(third);
    cluster.hold = |message| matches!(message, PeerMessage::Raft(raft) if is_reply(raft));
    while cluster.node(leader).is_leader() {
        cluster.run_ms(1);
    }
    let before = cluster.delivered;
    let sent = cluster.send(follower, 1, &["INCR n"]);
    cluster.run_ms(50);
    let messages = cluster.delivered - before;
    assert!(messages < 40, "{messages} messages in 50 ms for one command");
    cluster.hold = |_| false;
    cluster.run_ms(350);
    cluster.start(third);
    cluster.run_ms(3_000);
    let outcome = cluster.answer(follower, 1, sent[0]).map(show);
    assert!(outcome == Some("1".into()) || outcome.as_deref() == Some(CLUSTERDOWN), "{outcome:?}");
}

#[test]
fn a_forward_without_an_answer_is_sent_again_after_twice_the_time() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(follower, 1, "SESSION OPEN");
    let before = cluster.node(follower).status().forwarded;
    cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    let sent = cluster.send(follower, 1, &[&format!("ONCE {session} 1 INCR n")]);
    cluster.run_ms(4_800);
    let attempts = cluster.node(follower).status().forwarded - before;
    assert_eq!(attempts, 4, "at once and after about 1, 2 and 4 seconds");
    cluster.hold = |_| false;
    cluster.run_ms(10);
    assert_eq!(cluster.answer(follower, 1, sent[0]), Some(&Reply::Int(1)));
}

#[test]
fn too_many_bytes_that_wait_or_were_forwarded_are_congestion() {
    let mut cluster = Cluster::new(3, |id| {
        let mut options = Options::new(id);
        options.requests_held_bytes_max = 1_000;
        options.no_leader_wait = std::time::Duration::from_secs(4);
        options
    });
    let set = format!("SET k {}", "v".repeat(300));
    let set = set.as_str();
    cluster.send(1, 1, &[set; 3]);
    assert!(!cluster.node(1).is_congested());
    cluster.send(1, 2, &[set]);
    assert!(cluster.node(1).is_congested(), "four wait for a leader");
    let leader = cluster.wait_for_leader();
    cluster.run_ms(100);
    assert!(!cluster.node(1).is_congested(), "all are done");
    let follower = cluster.follower_of(leader);
    cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    cluster.send(follower, 3, &[set; 4]);
    assert!(cluster.node(follower).is_congested(), "four were forwarded");
    cluster.hold = |_| false;
    cluster.run_ms(100);
    assert!(!cluster.node(follower).is_congested());
    cluster.isolate(follower);
    cluster.send(follower, 4, &[set; 4]);
    cluster.run_ms(5_600);
    assert!(!cluster.node(follower).is_congested(), "all are given up");
    cluster.send(follower, 5, &[set; 4]);
    cluster.input(follower, Input::ConnectionClosed(ConnectionId(5)));
    assert!(!cluster.node(follower).is_congested(), "nobody waits");
}

#[test]
fn clock_entries_never_add_to_a_backlog() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    assert_eq!(cluster.ask(leader, 1, "SET k v PX 50"), "OK");
    cluster.hanging_disks = (1..=3).collect();
    let last = cluster.node(leader).raft().last_index();
    cluster.run_ms(1_500);
    let grown = cluster.node(leader).raft().last_index().0 - last.0;
    assert_eq!(grown, 1, "the time of one entry is enough until it is applied");
    cluster.hanging_disks.clear();
    cluster.run_ms(500);
    assert_eq!(cluster.node(leader).kv().stats().keys, 0, "the key is gone by the log's time");
}

fn is_reply(raft: &sampan_raft::Message) -> bool {
    use sampan_raft::Body;
    matches!(raft.body, Body::AppendReply { .. } | Body::HeartbeatReply { .. })
}

#[test]
fn a_forwarded_command_that_is_none_is_answered_and_never_appended() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let last = cluster.node(leader).raft().last_index();
    let mut get = Vec::new();
    sampan_kv::parse(&["GET", "k"], &Options::new(NodeId::of(1)).kv, &mut get).unwrap();
    for command in [b"\xff\xff".to_vec(), get, vec![0; 20 << 20]] {
        let requests = vec![ForwardedRequest {
            id: 1,
            connection: ConnectionId(1),
            class: Class::Write,
            command: command.into(),
        }];
        let term = cluster.node(leader).raft().term();
        let frame_seq = 1_000 + cluster.delivered as u64;
        let forward = Forward { incarnation: 9, term, frame_seq, requests };
        let message = PeerMessage::Forward(forward);
        cluster.input(leader, Input::Peer { from: NodeId::of(follower), message });
        cluster.run_ms(10);
    }
    assert_eq!(cluster.node(leader).raft().last_index(), last, "nothing was appended");
    assert_eq!(cluster.ask(leader, 1, "SET k v"), "OK");
}

#[test]
fn a_doubled_forward_is_taken_once() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.forward_copies = 2;
    for n in 1..=5 {
        assert_eq!(cluster.ask(follower, 1, "INCR n"), n.to_string());
    }
    cluster.run_ms(100);
    assert_eq!(cluster.ask(leader, 1, "GET n"), "5");
}

#[test]
fn what_was_acknowledged_is_there_after_all_nodes_were_killed() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    for n in 0..50 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{n} v{n}")), "OK");
    }
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.wait_for_leader();
    for n in 0..50 {
        assert_eq!(cluster.ask(1, 2, &format!("GET k{n}")), format!("v{n}"));
    }
}

#[test]
fn a_node_that_is_asked_to_stop_hands_over_and_no_client_gets_an_error() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let mut sent = Vec::new();
    for turn in 0..400 {
        if turn == 100 {
            cluster.input(leader, Input::Shutdown);
        }
        for id in [leader, follower] {
            sent.push((id, cluster.send(id, 1, &[&format!("SET k{turn} v")])[0]));
        }
        cluster.run_ms(1);
    }
    cluster.run_ms(500);
    assert!(cluster.stopped.contains(&leader), "the hand-over is done");
    assert_ne!(cluster.node(follower).leader(), Some(NodeId::of(leader)));
    for (id, seq) in sent {
        assert_eq!(cluster.answer(id, 1, seq), Some(&Reply::Ok), "request {seq} at node {id}");
    }
}

#[test]
fn a_single_node_serves_and_stops() {
    let (mut cluster, leader) = Cluster::with_leader(1, Options::new);
    assert_eq!(cluster.call(leader, 1, &["SET k v", "GET k"]), ["OK", "v"]);
    cluster.input(leader, Input::Shutdown);
    assert!(cluster.stopped.contains(&leader));
}
