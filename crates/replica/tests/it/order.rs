//! What a connection may rely on: every node takes every command, order is kept, reads are fresh.

use sampan_base::NodeId;
use sampan_kv::Reply;
use sampan_raft::{AppendResult, Body, Message};
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Input, Options};

use crate::harness::{Cluster, show};

#[test]
fn every_node_takes_writes_and_reads() {
    let (mut cluster, _) = Cluster::with_leader(3, Options::new);
    for id in 1..=3 {
        assert_eq!(cluster.ask(id, 1, &format!("SET k v{id}")), "OK");
        for reader in 1..=3 {
            assert_eq!(cluster.ask(reader, 2, "GET k"), format!("v{id}"));
        }
    }
}

#[test]
fn a_pipeline_of_reads_and_writes_takes_effect_in_order_on_every_node() {
    let (mut cluster, _) = Cluster::with_leader(3, Options::new);
    let pipeline = [
        "GET n", "INCR n", "GET n", "INCR n", "INCR n", "GET n", "DEL n", "GET n", "SET n x",
        "GET n",
    ];
    for id in 1..=3 {
        let replies = cluster.call(id, 1, &pipeline);
        assert_eq!(replies, ["nil", "1", "1", "2", "3", "3", "1", "nil", "OK", "x"], "node {id}");
        assert_eq!(cluster.ask(id, 1, "DEL n"), "1");
    }
}

#[test]
fn a_read_sent_while_a_write_of_its_connection_is_under_way_sees_it() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    for id in 1..=3 {
        let write = cluster.send(id, 1, &[&format!("SET k v{id}")]);
        let read = cluster.send(id, 1, &["GET k"]);
        cluster.run_ms(50);
        assert_eq!(cluster.answer(id, 1, write[0]), Some(&Reply::Ok), "leader {leader}");
        assert_eq!(cluster.answer(id, 1, read[0]), Some(&Reply::bulk(format!("v{id}").as_bytes())));
    }
}

#[test]
fn a_read_waits_for_the_writes_of_its_connection_that_are_not_durable_yet() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    cluster.hanging_disks = [1, 2, 3].into();
    let write = cluster.send(leader, 1, &["SET k v"]);
    cluster.run_ms(1);
    let read = cluster.send(leader, 1, &["GET k"]);
    cluster.run_ms(100);
    assert_eq!(cluster.answer(leader, 1, write[0]), None, "no disk has it");
    assert_eq!(
        cluster.answer(leader, 1, read[0]),
        None,
        "its read index is known, its write is not"
    );
    cluster.hanging_disks.clear();
    cluster.run_ms(100);
    assert_eq!(cluster.answer(leader, 1, read[0]), Some(&Reply::bulk(b"v")));
}

#[test]
fn a_write_through_a_follower_waits_for_the_reads_before_it() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.ask(leader, 9, "SET k old");
    cluster.hold = is_read_index_reply;
    let read = cluster.send(follower, 1, &["GET k"]);
    let write = cluster.send(follower, 1, &["SET k new"]);
    cluster.run_ms(100);
    assert_eq!(cluster.answer(follower, 1, write[0]), None, "its turn has not come");
    cluster.hold = |_| false;
    cluster.run_ms(100);
    assert_eq!(cluster.answer(follower, 1, read[0]), Some(&Reply::bulk(b"old")));
    assert_eq!(cluster.answer(follower, 1, write[0]), Some(&Reply::Ok));
}

fn is_read_index_reply(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(raft) if matches!(raft.body, Body::ReadIndexReply { .. }))
}

#[test]
fn a_write_waits_for_the_reads_before_it() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.ask(leader, 9, "SET k old");
    for id in [leader, follower] {
        let read = cluster.send(id, 1, &["GET k"]);
        let write = cluster.send(id, 1, &["SET k new"]);
        cluster.run_ms(50);
        assert_eq!(cluster.answer(id, 1, read[0]), Some(&Reply::bulk(b"old")));
        assert_eq!(cluster.answer(id, 1, write[0]), Some(&Reply::Ok));
        cluster.ask(leader, 9, "SET k old");
    }
}

#[test]
fn a_stale_read_needs_no_leader_and_a_fresh_one_does() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.ask(follower, 1, "SET k v");
    cluster.run_ms(200);
    cluster.isolate(follower);
    cluster.run_ms(3_000);
    let stale = cluster.send_as(follower, 2, &["GET k"], true);
    assert_eq!(cluster.answer(follower, 2, stale[0]), Some(&Reply::bulk(b"v")));
    assert_eq!(cluster.ask(follower, 1, "GET k"), "-CLUSTERDOWN No leader elected");
}

#[test]
fn a_stale_read_sees_what_its_own_connection_was_told() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    for n in 0..5 {
        assert_eq!(cluster.ask(follower, 1, &format!("SET k {n}")), "OK");
        let others = cluster.send_as(follower, 2, &["GET k"], true);
        assert!(cluster.answer(follower, 2, others[0]).is_some(), "whatever there is, at once");
        let own = cluster.send_as(follower, 1, &["GET k", "GET k"], true);
        // A round trip, not a heartbeat.
        cluster.run_ms(5);
        for seq in own {
            let value = Reply::bulk(n.to_string().as_bytes());
            assert_eq!(cluster.answer(follower, 1, seq), Some(&value));
        }
    }
}

#[test]
fn a_local_read_does_not_overtake_one_that_asks_the_leader() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    assert_eq!(cluster.ask(follower, 1, "SET k v"), "OK");
    cluster.hold = |message| {
        let PeerMessage::Raft(message) = message else { return false };
        matches!(message.body, Body::ReadIndexReply { .. })
    };
    let asks = cluster.send_as(follower, 1, &["GET k"], true)[0];
    cluster.run_ms(100);
    assert_eq!(cluster.answer(follower, 1, asks), None, "the answer is on its way");
    let others = cluster.send_as(follower, 2, &["GET k"], true)[0];
    assert_eq!(cluster.answer(follower, 2, others), Some(&Reply::bulk(b"v")), "the write is here");
    let is_local = cluster.send_as(follower, 1, &["GET k"], true)[0];
    assert_eq!(cluster.answer(follower, 1, is_local), None, "it would be older than the first");
    cluster.hold = |_| false;
    cluster.run_ms(20);
    let answered = cluster
        .answered
        .iter()
        .filter(|(node, connection, seq)| (*node, *connection) == (follower, 1) && *seq >= asks);
    assert_eq!(answered.map(|(.., seq)| *seq).collect::<Vec<_>>(), [asks, is_local]);
}

#[test]
fn time_to_live_runs_on_an_idle_cluster() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    assert_eq!(cluster.ask(follower, 1, "SET k v PX 5000"), "OK");
    cluster.run_ms(3_000);
    for id in [leader, follower] {
        let left: i64 = cluster.ask(id, 1, "PTTL k").parse().unwrap();
        assert!((1_800..=2_000).contains(&left), "node {id} says {left} ms are left");
    }
    cluster.run_ms(2_200);
    for id in [leader, follower] {
        assert_eq!(cluster.ask(id, 1, "GET k"), "nil", "node {id}");
    }
}

/// A batch frees one key that is over.
fn freeing_one_at_a_time(id: NodeId) -> Options {
    let mut options = Options::new(id);
    options.kv.reclaim_per_batch_max = 1;
    options
}

#[test]
fn keys_that_are_over_all_at_once_are_freed_soon_though_nobody_writes() {
    let (mut cluster, leader) = Cluster::with_leader(3, freeing_one_at_a_time);
    let sets: Vec<String> = (0..50).map(|n| format!("SET k{n} v PX 200")).collect();
    cluster.call(leader, 1, &sets.iter().map(String::as_str).collect::<Vec<_>>());
    let is_freed = |cluster: &Cluster| cluster.node(leader).kv().next_expiry().is_none();
    cluster.run_ms(300);
    assert!(!is_freed(&cluster), "one entry frees one key");
    cluster.run_ms(1_000);
    assert!(is_freed(&cluster));
}

#[test]
fn commands_that_change_a_part_of_a_long_value_make_short_entries_and_short_turns() {
    let (mut cluster, only) = Cluster::with_leader(1, Options::new);
    let length = 500_000;
    assert_eq!(cluster.ask(only, 1, &format!("SET k {}", "v".repeat(length))), "OK");
    let before = cluster.node(only).raft().last_index().0;
    let change = format!("SETRANGE k {} x", length - 1);
    cluster.hanging_disks.insert(only);
    let sent = cluster.send(only, 1, &vec![&*change; 200]);
    cluster.run_ms(1);
    // Four million bytes to copy an entry, and as much under way as one turn applies.
    let made = cluster.node(only).raft().last_index().0 - before;
    assert!((4..=5).contains(&made), "{made}");
    cluster.hanging_disks.clear();
    cluster.run_ms(100);
    let made = cluster.node(only).raft().last_index().0 - before;
    assert!((20..=40).contains(&made), "{made}");
    let last = sent.last().and_then(|seq| cluster.answer(only, 1, *seq));
    assert_eq!(last, Some(&Reply::Int(length as i64)));
    // A hundred million bytes that are there already, as at a start.
    cluster.kill(only);
    cluster.start(only);
    while cluster.node(only).raft().commit().0 < before + made {
        cluster.run_ms(1);
    }
    let applied = cluster.node(only).raft().applied().0.saturating_sub(before);
    assert!(applied < made / 2, "{applied} of {made} in a turn or two");
    cluster.run_ms(100);
    // A value that is not applied yet when the commands come.
    let before = cluster.node(only).raft().last_index().0;
    let first = format!("SETRANGE new {} x", length - 1);
    let mut pipeline = vec![&*first];
    pipeline.extend(vec!["PEXPIRE new 100000"; 99]);
    cluster.send(only, 1, &pipeline);
    cluster.run_ms(100);
    assert!((10..=20).contains(&(cluster.node(only).raft().last_index().0 - before)));
}

#[test]
fn a_read_over_a_follower_never_sees_a_later_write_of_its_connection() {
    for cut in [false, true] {
        let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
        let follower = cluster.follower_of(leader);
        cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
        // A read goes to the leader behind a write of its connection.
        let sent = cluster.send(follower, 1, &["SET b 1", "GET a", "SET a 1", "GET a"]);
        cluster.run_ms(50);
        if cut {
            cluster.input(follower, Input::PeerDisconnected(NodeId::of(leader)));
            cluster.run_ms(1);
            cluster.input(follower, Input::PeerConnected(NodeId::of(leader)));
        }
        // Long enough for what may be repeated to be repeated.
        cluster.run_ms(1_500);
        cluster.hold = |_| false;
        cluster.run_ms(8_000);
        let answers = sent.iter().map(|seq| cluster.answer(follower, 1, *seq));
        let answers: Vec<String> = answers.map(|reply| show(reply.expect("an answer"))).collect();
        assert!(answers[1] == "nil" || answers[1].starts_with("-CLUSTERDOWN"), "{answers:?}");
        if !cut {
            assert_eq!(answers, ["OK", "nil", "OK", "1"]);
        }
    }
}

/// Without these nothing of a new term is committed.
fn is_acknowledgement(message: &PeerMessage) -> bool {
    let PeerMessage::Raft(message) = message else { return false };
    matches!(
        message.body,
        Body::HeartbeatReply { .. }
            | Body::AppendReply { result: AppendResult::Accepted { .. }, .. }
    )
}

#[test]
fn what_follows_a_write_of_an_earlier_term_waits_for_it() {
    let (mut cluster, first) = Cluster::with_leader(3, Options::new);
    cluster.isolate(first);
    let written = cluster.send(first, 1, &["APPEND k a"]);
    let term = cluster.node(first).raft().term();
    let lost_at = cluster.node(first).raft().last_index();
    cluster.hold = is_acknowledgement;
    let next = loop {
        cluster.run_ms(1);
        let leads = |id: &u64| *id != first && cluster.node(*id).is_leader();
        if let Some(next) = (1..=3).find(leads)
            && !cluster.node(first).is_leader()
        {
            break next;
        }
    };
    // The next leader replaces the write, and commits nothing.
    cluster.heal();
    cluster.reconnect(first);
    cluster.run_ms(20);
    let of_next = cluster.node(next).raft().term();
    assert_eq!(cluster.node(first).raft().term_at(lost_at), Some(of_next));
    assert!(of_next > term && cluster.node(first).raft().commit() < lost_at);
    let later = cluster.send(first, 1, &["APPEND k b", "GET k"]);
    // It hands back to the first one, which has not learned yet what became of the write.
    let (from, to) = (NodeId::of(next), NodeId::of(first));
    let message = Message { from, to, term: of_next, body: Body::TimeoutNow };
    cluster.input(first, Input::Peer { from, message: PeerMessage::Raft(message) });
    cluster.run_ms(5);
    cluster.hold = |_| false;
    cluster.run_ms(100);
    assert!(cluster.node(first).is_leader());
    let answers = [written[0], later[0], later[1]];
    let answers = answers.map(|seq| cluster.answer(first, 1, seq).map(show));
    assert_eq!(answers, ["1", "2", "ab"].map(|text| Some(text.to_owned())));
}

#[test]
fn reads_whose_question_is_void_are_not_overtaken_by_those_that_waited_to_ask() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let other = 6 - leader - follower;
    cluster.hold = |message| {
        matches!(message, PeerMessage::Raft(Message { body: Body::ReadIndex { .. }, .. }))
    };
    let sent: Vec<u64> = (0..3)
        .flat_map(|_| {
            let sent = cluster.send(follower, 1, &["GET k"]);
            cluster.run_ms(1);
            sent
        })
        .collect();
    // It hears of the next term by its leader.
    cluster.unconnect(other, follower);
    cluster.input(leader, Input::TransferLeadership(Some(NodeId::of(other))));
    cluster.run_ms(20);
    assert!(cluster.node(other).is_leader() && cluster.answered.is_empty());
    cluster.hold = |_| false;
    cluster.connect(other, follower, true);
    cluster.run_ms(1_000);
    let in_turn: Vec<_> = sent.iter().map(|&seq| (follower, 1, seq)).collect();
    assert_eq!(cluster.answered, in_turn);
}
