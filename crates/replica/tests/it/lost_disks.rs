//! Nodes that come back with an empty disk under their old id: they take no part before they know
//! what they may have promised.

use sampan_kv::Reply;
use sampan_replica::Options;
use sampan_replica::wire::PeerMessage;

use crate::harness::Cluster;

fn with_a_write() -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    assert_eq!(cluster.ask(leader, 1, "SET k v"), "OK");
    cluster.run_ms(100);
    (cluster, leader)
}

#[test]
fn one_lost_disk_is_filled_again_by_the_others() {
    let (mut cluster, leader) = with_a_write();
    let lost = cluster.follower_of(leader);
    cluster.kill(lost);
    cluster.wipe(lost);
    cluster.start(lost);
    cluster.run_ms(1_000);
    assert_eq!(cluster.ask(lost, 2, "GET k"), "v");
    assert_eq!(cluster.node(lost).status().raft.non_voting_until, None);
    let third = (1..=3).find(|id| ![leader, lost].contains(id)).expect("three nodes");
    cluster.kill(third);
    assert_eq!(cluster.ask(leader, 2, "SET k w"), "OK", "it counts again");
}

#[test]
fn an_answer_to_the_life_before_is_none_to_the_first_command_of_this_one() {
    let (mut cluster, leader) = with_a_write();
    let lost = cluster.follower_of(leader);
    cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    cluster.send(lost, 1, &["SET a 1"]);
    cluster.run_ms(50);
    cluster.kill(lost);
    cluster.wipe(lost);
    cluster.start(lost);
    cluster.run_ms(1_000);
    let sent = cluster.send(lost, 2, &["INCR n"]);
    cluster.run_ms(1);
    cluster.hold = |_| false;
    cluster.run_ms(2_000);
    let answer = cluster.answer(lost, 2, sent[0]);
    assert!(!matches!(answer, Some(Reply::Ok)), "{answer:?}");
    assert_eq!(cluster.ask(leader, 3, "GET n"), "1");
}

#[test]
fn a_leader_that_lost_its_disk_is_filled_again_too() {
    let (mut cluster, leader) = with_a_write();
    cluster.kill(leader);
    cluster.wipe(leader);
    cluster.start(leader);
    cluster.run_ms(3_000);
    assert_eq!(cluster.ask(leader, 2, "GET k"), "v");
    assert_eq!(cluster.ask(leader, 2, "SET k w"), "OK");
}

#[test]
fn a_majority_of_lost_disks_elects_nobody_and_forgets_nothing() {
    let (mut cluster, leader) = with_a_write();
    for id in 1..=3 {
        cluster.kill(id);
        if id != leader {
            cluster.wipe(id);
        }
    }
    for id in (1..=3).filter(|&id| id != leader) {
        cluster.start(id);
    }
    cluster.run_ms(5_000);
    assert!((1..=3).all(|id| id == leader || !cluster.node(id).is_leader()), "none may lead");
    cluster.start(leader);
    cluster.run_ms(5_000);
    assert!((1..=3).all(|id| !cluster.node(id).is_leader()), "one voter is no majority");
    let key_is_there = cluster.node(leader).raft().last_index().0 >= 2;
    assert!(key_is_there, "what was acknowledged is still on the last disk");
}

#[test]
fn a_node_without_a_past_waits_for_all_also_over_restarts() {
    let (mut cluster, leader) = with_a_write();
    let lost = cluster.follower_of(leader);
    let third = (1..=3).find(|id| ![leader, lost].contains(id)).expect("three nodes");
    cluster.kill(lost);
    cluster.wipe(lost);
    cluster.kill(third);
    for _ in 0..2 {
        cluster.start(lost);
        cluster.run_ms(2_000);
        let unheard = cluster.node(lost).raft().unheard_voters();
        assert_eq!(unheard.iter().map(|id| id.get()).collect::<Vec<_>>(), [third]);
        cluster.kill(lost);
    }
    cluster.start(lost);
    cluster.start(third);
    cluster.run_ms(3_000);
    assert_eq!(cluster.ask(lost, 2, "GET k"), "v");
}

#[test]
fn a_crash_on_the_way_to_take_part_leaves_a_node_that_knows_its_term_or_asks_again() {
    for jobs in 0..=2 {
        let (mut cluster, leader) = with_a_write();
        let term = cluster.node(leader).raft().term();
        let lost = cluster.follower_of(leader);
        cluster.kill(lost);
        cluster.wipe(lost);
        cluster.hanging_disks.insert(lost);
        cluster.start(lost);
        cluster.run_ms(1_000);
        assert!(!cluster.node(lost).raft().is_newborn());
        assert_eq!(cluster.hanging(), 2, "its term and vote, and that it has a past");
        cluster.kill_after_jobs(lost, jobs);
        cluster.hanging_disks.clear();
        cluster.start(lost);
        let raft = cluster.node(lost).raft();
        assert!(raft.is_newborn() || raft.term() == term, "after {jobs} jobs: {}", raft.term());
        cluster.run_ms(1_000);
        assert_eq!(cluster.ask(lost, 2, "GET k"), "v");
    }
}
