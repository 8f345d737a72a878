//! Wall clocks that differ: keys live for their time whoever leads, and no shorter.

use sampan_base::NodeId;
use sampan_replica::{Input, Options};

use crate::harness::Cluster;

const KEY: u64 = 1;

fn lives_ms(cluster: &mut Cluster, leader: u64, key: u64, ms: u64) -> u64 {
    assert_eq!(cluster.ask(leader, KEY, &format!("SET {key} v PX {ms}")), "OK");
    let set_at = cluster.now_ms();
    while cluster.ask(leader, KEY, &format!("GET {key}")) == "v" {
        cluster.run_ms(5);
        assert!(cluster.now_ms() < set_at + 40_000, "it never goes");
    }
    cluster.now_ms() - set_at
}

#[test]
fn a_key_lives_for_its_time_after_a_leader_whose_clock_was_ahead() {
    let (mut cluster, ahead) = Cluster::with_leader(3, Options::new);
    cluster.clocks_ahead_ms.insert(ahead, 20_000);
    assert_eq!(cluster.ask(ahead, KEY, "SET any v"), "OK");
    let right = cluster.follower_of(ahead);
    cluster.input(ahead, Input::TransferLeadership(Some(NodeId::of(right))));
    cluster.run_ms(1_000);
    assert_eq!(cluster.wait_for_leader(), right);
    // An eighth longer, and the time until an idle leader looks, and a round.
    let slowed = 300..=300 * 8 / 7 + 160;
    let lived = lives_ms(&mut cluster, right, 1, 300);
    assert!(slowed.contains(&lived), "{lived} ms");

    // A restart of all nodes does not change that.
    for id in 1..=3 {
        cluster.kill(id);
    }
    cluster.clocks_ahead_ms.clear();
    for id in 1..=3 {
        cluster.start(id);
    }
    let leader = cluster.wait_for_leader();
    cluster.run_ms(500);
    let lived = lives_ms(&mut cluster, leader, 2, 300);
    assert!(slowed.contains(&lived), "{lived} ms");

    // The clocks catch up, and lives are exact again.
    cluster.run_ms(8 * 20_000);
    assert_eq!(cluster.ask(leader, KEY, "SET any v"), "OK");
    let lived = lives_ms(&mut cluster, leader, 3, 2_000);
    assert!((2_000..=2_160).contains(&lived), "{lived} ms");
}

#[test]
fn a_key_lives_for_its_time_when_the_clock_of_its_leader_is_set_back() {
    let (mut cluster, leader) = Cluster::with_leader(1, Options::new);
    cluster.clocks_ahead_ms.insert(leader, 60_000);
    assert_eq!(cluster.ask(leader, KEY, "SET any v"), "OK");
    cluster.clocks_ahead_ms.clear();
    let lived = lives_ms(&mut cluster, leader, 1, 700);
    assert!((700..=800 + 160).contains(&lived), "{lived} ms");
}
