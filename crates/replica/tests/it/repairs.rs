//! Nodes whose logs are damaged: their peers give back what they lost before they take part,
//! whatever the peers are; and what cannot be had is given up without a vote.

use sampan_base::LogIndex;
use sampan_replica::wire::PeerMessage;
use sampan_replica::{OnDamage, Options};

use crate::harness::Cluster;

/// The key and the value of a write, which the log holds as they are.
fn value(number: u64) -> String {
    format!("value-{number:04}")
}

/// Three nodes with twenty writes, each a batch of the log, and a leader.
fn with_writes(options: fn(sampan_base::NodeId) -> Options) -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    for number in 0..20 {
        let set = format!("SET k{number} {}", value(number));
        assert_eq!(cluster.ask(leader, 1, &set), "OK");
    }
    cluster.run_ms(1_500);
    (cluster, leader)
}

fn damage(cluster: &mut Cluster, id: u64, number: u64) {
    assert!(cluster.disk(id).flip_in_log(value(number).as_bytes()), "write {number} of node {id}");
}

fn assert_all_is_there(cluster: &mut Cluster, id: u64) {
    for number in 0..20 {
        assert_eq!(cluster.ask(id, 7, &format!("GET k{number}")), value(number));
    }
    assert_eq!(cluster.ask(id, 7, "SET more x"), "OK");
}

#[test]
fn a_damaged_batch_is_written_again_and_the_node_votes_at_once() {
    let (mut cluster, leader) = with_writes(Options::new);
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    for number in [3, 5, 11] {
        damage(&mut cluster, hurt, number);
    }
    cluster.start(hurt);
    assert!(cluster.is_repairing(hurt));
    cluster.run_ms(100);
    let report = &cluster.reports[&hurt];
    assert_eq!((report.repaired.len(), &report.faulty, report.non_voting_until), (3, &None, None));
    let first = &report.repaired[0];
    assert_eq!(first.entries.0, first.entries.1, "one write, one batch");
    assert!(!first.from.is_empty() && !first.from.iter().any(|id| id.get() == hurt));
    let text = report.to_string();
    assert!(text.contains(&format!("REPAIRED: {first}")), "{text}");
    assert_eq!(cluster.node(hurt).status().batches_repaired, 3);
    let third = (1..=3).find(|id| ![leader, hurt].contains(id)).expect("three nodes");
    cluster.kill(third);
    cluster.run_ms(3_000);
    assert_all_is_there(&mut cluster, hurt);
}

#[test]
fn damage_at_another_entry_on_every_node_heals_and_nothing_is_lost() {
    let (mut cluster, _) = with_writes(Options::new);
    (1..=3).for_each(|id| cluster.kill(id));
    for id in 1..=3 {
        damage(&mut cluster, id, 4 * id);
        damage(&mut cluster, id, 4 * id + 2);
    }
    (1..=3).for_each(|id| cluster.start(id));
    assert!((1..=3).all(|id| cluster.is_repairing(id)), "nobody but such nodes can answer");
    cluster.wait_for_leader();
    for id in 1..=3 {
        assert_eq!(cluster.reports[&id].repaired.len(), 2);
        assert_all_is_there(&mut cluster, id);
    }
}

#[test]
fn a_node_that_repairs_says_nothing_else_also_to_candidates() {
    let (mut cluster, leader) = with_writes(Options::new);
    (1..=3).for_each(|id| cluster.kill(id));
    damage(&mut cluster, leader, 5);
    cluster.hold = |message| matches!(message, PeerMessage::Held(_));
    let other = (1..=3).find(|id| *id != leader).expect("three nodes");
    cluster.start(leader);
    cluster.start(other);
    cluster.run_ms(5_000);
    assert!(cluster.is_repairing(leader));
    assert!(!cluster.node(other).is_leader(), "its vote would have been the second one");
    let said = &cluster.sent_while_repairing;
    assert!(!said.is_empty());
    assert!(said.iter().all(|message| matches!(message, PeerMessage::Wanted(_))), "{said:?}");
    assert!(said.len() < 40, "asked ever more rarely: {}", said.len());

    cluster.hold = |_| false;
    cluster.run_ms(3_000);
    assert_all_is_there(&mut cluster, leader);
}

#[test]
fn what_all_have_lost_is_given_up_at_once() {
    let (mut cluster, leader) = with_writes(Options::new);
    (1..=3).for_each(|id| cluster.kill(id));
    let whole = cluster_without(leader);
    damage(&mut cluster, leader, 5);
    damage(&mut cluster, whole[0], 5);
    // The third one never had it: its disk is new.
    cluster.wipe(whole[1]);
    (1..=3).for_each(|id| cluster.start(id));
    cluster.run_ms(200);
    for id in [leader, whole[0]] {
        let report = &cluster.reports[&id];
        assert!(report.faulty.is_some() && report.repaired.is_empty());
        assert_eq!(report.non_voting_until, Some(LogIndex::MAX));
    }
    cluster.run_ms(5_000);
    assert!((1..=3).all(|id| !cluster.node(id).is_leader()), "nobody knows what was acknowledged");
}

fn cluster_without(id: u64) -> Vec<u64> {
    (1..=3).filter(|other| *other != id).collect()
}

#[test]
fn a_node_that_is_down_is_waited_for_as_long_as_nobody_leads() {
    let (mut cluster, leader) = with_writes(Options::new);
    (1..=3).for_each(|id| cluster.kill(id));
    let others = cluster_without(leader);
    damage(&mut cluster, leader, 5);
    damage(&mut cluster, others[0], 5);
    cluster.start(leader);
    cluster.start(others[0]);
    cluster.run_ms(20_000);
    assert!(cluster.is_repairing(leader) && cluster.is_repairing(others[0]));
    cluster.start(others[1]);
    cluster.wait_for_leader();
    for id in 1..=3 {
        assert_eq!(cluster.reports[&id].faulty, None);
        assert_all_is_there(&mut cluster, id);
    }
}

#[test]
fn where_a_leader_is_a_node_that_is_down_is_waited_for_so_long_and_no_longer() {
    let (mut cluster, leader) = with_writes(|id| Options {
        repair_wait: std::time::Duration::from_secs(4),
        ..Options::new(id)
    });
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    damage(&mut cluster, hurt, 5);
    // The leader's answers do not arrive, and neither do the third node's.
    cluster.hold = |message| matches!(message, PeerMessage::Held(_));
    cluster.start(hurt);
    cluster.run_ms(3_900);
    assert!(cluster.is_repairing(hurt));
    cluster.run_ms(200);
    assert!(cluster.reports[&hurt].faulty.is_some(), "it rejoins");
    cluster.run_ms(3_000);
    assert_eq!(cluster.node(hurt).status().raft.non_voting_until, None);
    assert_all_is_there(&mut cluster, hurt);
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    let (mut cluster, leader) = with_writes(Options::new);
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    damage(&mut cluster, hurt, 5);
    cluster.isolate(hurt);
    cluster.start(hurt);
    cluster.run_ms(1_000);
    assert!(cluster.is_repairing(hurt));
    cluster.heal();
    cluster.run_ms(1_000);
    assert_eq!(cluster.reports[&hurt].repaired.len(), 1);
}

#[test]
fn a_node_that_is_not_to_repair_rejoins_at_once() {
    let (mut cluster, leader) =
        with_writes(|id| Options { on_damage: OnDamage::Rejoin, ..Options::new(id) });
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    damage(&mut cluster, hurt, 5);
    cluster.start(hurt);
    assert!(!cluster.is_repairing(hurt) && cluster.reports[&hurt].faulty.is_some());
}

#[test]
fn a_batch_that_is_longer_than_one_answer_comes_in_several() {
    let (mut cluster, leader) = Cluster::with_leader(3, |id| Options {
        batch_bytes_max: 4 << 20,
        group_commit_bytes_max: 4 << 20,
        ..Options::new(id)
    });
    let long = "x".repeat(900 << 10);
    let numbers: Vec<String> =
        (0..3).map(|number| format!("SET long{number} {}{long}", value(number))).collect();
    // All at once, while the disk is busy, so that they share a batch.
    cluster.hanging_disks.extend(1..=3);
    cluster.ask_later(leader, "SET first x");
    let set: Vec<&str> = numbers.iter().map(String::as_str).collect();
    for set in set {
        cluster.ask_later(leader, set);
    }
    cluster.hanging_disks.clear();
    cluster.run_ms(500);
    assert_eq!(cluster.ask(leader, 1, "SET last x"), "OK");
    cluster.run_ms(500);
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    damage(&mut cluster, hurt, 1);
    cluster.start(hurt);
    cluster.run_ms(500);
    let report = &cluster.reports[&hurt];
    assert_eq!(report.repaired.len(), 1, "{report}");
    let (first, last) = report.repaired[0].entries;
    assert!(first < last, "entries {first} to {last} in one batch");
}

/// Three nodes of which each has snapshots, and a log that begins after some of them.
fn with_snapshots() -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, |id| Options {
        storage: sampan_storage::Options::tiny(),
        raft_state_bytes_max: Some(64 << 10),
        raft_state_snapshot_percent: 0,
        ..Options::new(id)
    });
    for number in 0..200 {
        let set = format!("SET k{} {}", number % 20, value(number % 20));
        assert_eq!(cluster.ask(leader, 1, &set), "OK");
    }
    cluster.run_ms(1_500);
    assert!((1..=3).all(|id| cluster.node(id).status().raft.first_index > LogIndex(1)));
    (cluster, leader)
}

#[test]
fn a_log_whose_snapshots_are_all_damaged_is_kept_while_nobody_leads() {
    let (mut cluster, leader) = with_snapshots();
    (1..=3).for_each(|id| cluster.kill(id));
    let whole = cluster_without(leader)[0];
    let hurt = cluster_without(whole);
    for &id in &hurt {
        assert!(cluster.disk(id).flip_in_each_snapshot() > 0);
    }
    let files = cluster.disk(hurt[0]).used_bytes();
    (1..=3).for_each(|id| cluster.start(id));
    cluster.run_ms(30_000);
    assert!(hurt.iter().all(|&id| cluster.is_repairing(id)), "nobody has given anything up");
    assert!(cluster.sent_while_repairing.is_empty(), "{:?}", cluster.sent_while_repairing);
    assert_eq!(cluster.disk(hurt[0]).used_bytes(), files, "and nothing was written");

    let source = cluster.disk(whole).clone();
    for &id in &hurt {
        cluster.kill(id);
        cluster.disk(id).take_newest_snapshot_of(&source);
        cluster.start(id);
        assert_eq!(cluster.reports[&id].non_voting_until, None, "it has lost nothing");
    }
    cluster.wait_for_leader();
    (1..=3).for_each(|id| assert_all_is_there(&mut cluster, id));
}

#[test]
fn the_heartbeats_of_a_leader_that_is_about_to_lose_its_quorum_prove_nothing() {
    let (mut cluster, leader) = with_snapshots();
    let hurt = cluster_without(leader);
    for &id in &hurt {
        cluster.kill(id);
        assert!(cluster.disk(id).flip_in_each_snapshot() > 0);
        cluster.start(id);
    }
    cluster.run_ms(100);
    assert!(cluster.node(leader).is_leader(), "they hear from it");
    cluster.run_ms(20_000);
    assert!(hurt.iter().all(|&id| cluster.is_repairing(id)), "nobody has given anything up");
}

#[test]
fn a_node_whose_snapshots_are_all_damaged_gets_one_from_a_leader_that_lasts() {
    let (mut cluster, leader) = with_snapshots();
    let hurt = cluster.follower_of(leader);
    cluster.kill(hurt);
    assert!(cluster.disk(hurt).flip_in_each_snapshot() > 0);
    cluster.start(hurt);
    assert!(cluster.is_repairing(hurt));
    cluster.run_ms(4_000);
    assert!(cluster.reports[&hurt].faulty.is_some() && !cluster.is_repairing(hurt));
    assert_eq!(cluster.node(hurt).status().raft.non_voting_until, None, "it votes again");
    assert_all_is_there(&mut cluster, hurt);
}

#[test]
fn a_stop_is_heard_while_a_log_is_repaired() {
    let (mut cluster, leader) = with_writes(Options::new);
    cluster.kill(leader);
    damage(&mut cluster, leader, 5);
    cluster.isolate(leader);
    cluster.start(leader);
    cluster.input(leader, sampan_replica::Input::Shutdown);
    assert!(cluster.is_repairing(leader) && cluster.stopped.contains(&leader));
}
