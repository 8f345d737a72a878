//! Commands that a follower could not even send to the leader, and answers that do not come.

use sampan_base::NodeId;
use sampan_replica::wire::{ForwardReply, PeerMessage};
use sampan_replica::{Input, Options};

use crate::harness::{Cluster, show};

/// A cluster, its leader, and a follower that has just started and hears the leader, but has no
/// connection to it yet.
fn with_a_follower_that_cannot_send() -> (Cluster, u64, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    cluster.run_ms(10);
    cluster.start(follower);
    cluster.unconnect(follower, leader);
    while cluster.node(follower).leader() != Some(NodeId::of(leader)) {
        cluster.run_ms(1);
    }
    (cluster, leader, follower)
}

fn answers(cluster: &Cluster, id: u64, connection: u64, sent: &[u64]) -> Vec<Option<String>> {
    sent.iter().map(|&seq| cluster.answer(id, connection, seq).map(show)).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Option<String>> {
    texts.into_iter().map(|text| Some(text.to_owned())).collect()
}

#[test]
fn what_could_not_be_sent_is_done_once_and_in_order_when_there_is_a_connection() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let mut sent = cluster.send(follower, 1, &["INCR n", "APPEND k a", "TTL k", "GET k"]);
    cluster.run_ms(100);
    sent.extend(cluster.send(follower, 1, &["APPEND k b", "GET k", "INCR n"]));
    let other = cluster.send(follower, 2, &["SET other v"]);
    cluster.run_ms(200);
    assert_eq!(answers(&cluster, follower, 1, &sent), vec![None; 7]);
    let tries = cluster.not_sent;
    assert!((2..=10).contains(&tries), "{tries} frames in 300 ms");
    cluster.connect(follower, leader, true);
    cluster.run_ms(5);
    let expected = texts(["1", "1", "-1", "a", "2", "ab", "2"]);
    assert_eq!(answers(&cluster, follower, 1, &sent), expected);
    assert_eq!(answers(&cluster, follower, 2, &other), texts(["OK"]));
    assert_eq!(cluster.not_sent, tries);
    assert_eq!(cluster.call(leader, 1, &["GET n", "GET k"]), ["2", "ab"]);
}

#[test]
fn what_found_a_full_queue_is_sent_soon() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let sent = cluster.send(follower, 1, &["INCR n", "INCR n"]);
    cluster.run_ms(20);
    // There was a connection all the time: none is new.
    cluster.connect(follower, leader, false);
    cluster.run_ms(100);
    assert_eq!(answers(&cluster, follower, 1, &sent), texts(["1", "2"]));
}

#[test]
fn what_could_not_be_sent_goes_to_the_next_leader() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let third = 6 - leader - follower;
    let sent = cluster.send(follower, 1, &["INCR n", "INCR n"]);
    cluster.run_ms(20);
    cluster.input(leader, Input::TransferLeadership(Some(NodeId::of(third))));
    cluster.run_ms(30);
    assert_eq!(cluster.node(follower).leader(), Some(NodeId::of(third)));
    assert_eq!(answers(&cluster, follower, 1, &sent), texts(["1", "2"]));
    assert_eq!(cluster.ask(leader, 1, "GET n"), "2");
}

#[test]
fn what_is_never_sent_was_certainly_not_applied() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let sent = cluster.send(follower, 1, &["INCR n", "INCR n"]);
    cluster.run_ms(4_900);
    assert_eq!(answers(&cluster, follower, 1, &sent), [None, None]);
    cluster.run_ms(200);
    let late = "-CLUSTERDOWN Not served in time";
    assert_eq!(answers(&cluster, follower, 1, &sent), texts([late, late]));
    cluster.connect(follower, leader, true);
    cluster.run_ms(100);
    assert_eq!(cluster.ask(leader, 1, "GET n"), "nil");
}

#[test]
fn without_a_connection_to_the_leader_nobody_waits_longer_than_without_a_leader() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let early = cluster.send(follower, 1, &["INCR n", "GET n"]);
    cluster.input(follower, Input::PeerUnreachable(NodeId::of(leader)));
    cluster.run_ms(200);
    let late = cluster.send(follower, 2, &["GET n"]);
    cluster.run_ms(190);
    assert_eq!(answers(&cluster, follower, 1, &early), [None, None]);
    cluster.run_ms(70);
    let cut = "-CLUSTERDOWN No connection to the leader";
    assert_eq!(answers(&cluster, follower, 1, &early), texts([cut, cut]));
    assert_eq!(answers(&cluster, follower, 2, &late), [None]);
    // It hears the leader all the time, but only a connection is worth waiting for.
    assert_eq!(cluster.node(follower).raft().leader(), Some(NodeId::of(leader)));
    cluster.connect(follower, leader, true);
    cluster.run_ms(5);
    assert_eq!(answers(&cluster, follower, 2, &late), texts(["nil"]));
    assert_eq!(cluster.call(follower, 3, &["INCR n", "GET n"]), ["1", "1"]);
}

#[test]
fn a_question_that_cannot_reach_the_leader_is_waited_for_no_longer() {
    let (mut cluster, leader, follower) = with_a_follower_that_cannot_send();
    let sent = cluster.send(follower, 1, &["GET n"]);
    cluster.run_ms(1);
    cluster.input(follower, Input::PeerUnreachable(NodeId::of(leader)));
    cluster.run_ms(450);
    let cut = "-CLUSTERDOWN No connection to the leader";
    assert_eq!(answers(&cluster, follower, 1, &sent), texts([cut]));
}

#[test]
fn an_earlier_attempt_that_was_sent_is_not_forgotten() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(follower, 1, "SESSION OPEN");
    cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    let sent = cluster.send(follower, 1, &[&format!("ONCE {session} 1 INCR n")]);
    cluster.run_ms(50);
    // Its repetition is not sent.
    cluster.unconnect(follower, leader);
    cluster.run_ms(5_100);
    assert!(cluster.not_sent > 0);
    let unknown = "-UNKNOWN outcome not known, command may still be applied";
    assert_eq!(answers(&cluster, follower, 1, &sent), texts([unknown]));
    assert_eq!(cluster.ask(leader, 1, "GET n"), "1");
}

#[test]
fn a_read_whose_answer_is_lost_is_not_repeated_past_what_came_after_it() {
    // Reads behind the first one are answered each in a message of its own.
    let one_a_turn =
        |id| Options { reply_bytes_per_turn: 1, batch_bytes_max: 1, ..Options::new(id) };
    let (mut cluster, leader) = Cluster::with_leader(3, one_a_turn);
    let follower = cluster.follower_of(leader);
    cluster.hold = |message| {
        let PeerMessage::ForwardReply(ForwardReply { outcomes, .. }) = message else {
            return false;
        };
        outcomes.iter().any(|outcome| outcome.id == 3)
    };
    let sent = cluster.send(follower, 1, &["SET k old", "GET k", "GET k", "GET k"]);
    cluster.run_ms(50);
    let mut seen = texts(["OK", "old", "", "old"]);
    seen[2] = None;
    assert_eq!(answers(&cluster, follower, 1, &sent), seen);
    cluster.ask(leader, 1, "SET k new");
    cluster.run_ms(2_500);
    seen[2] = Some("-CLUSTERDOWN Not served in time".to_owned());
    assert_eq!(answers(&cluster, follower, 1, &sent), seen, "not 'new' before 'old'");
}
