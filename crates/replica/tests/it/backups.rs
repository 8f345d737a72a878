//! Backups: which writes are in one, and what a node says that cannot make one.

use std::time::Duration;

use sampan_kv::{Kv, Reply};
use sampan_replica::{Input, Lane, Options};

use crate::harness::{BACKUPS, Cluster, show};

fn options(id: sampan_base::NodeId) -> Options {
    let mut options = Options::new(id);
    options.storage = sampan_storage::Options::tiny();
    options.raft_state_bytes_max = None;
    options.snapshot_chunk_bytes = 64;
    options.client_timeout = Duration::from_secs(2);
    options
}

fn value(kv: &Kv, key: &str) -> String {
    let mut command = Vec::new();
    sampan_kv::parse(&["GET", key], kv.limits(), &mut command).expect("a legal command");
    show(&kv.query(&command))
}

#[test]
fn a_backup_from_any_node_holds_every_write_acknowledged_before_it_began() {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    for (seq, id) in [(1, leader), (2, cluster.follower_of(leader))] {
        // The follower hears of the commit only later: the read index is what makes it wait.
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{seq} v")), "OK");
        let ready = cluster.backup(id, seq).expect("a backup");
        let state = cluster.state_in(id, &ready.snapshot.file);
        assert_eq!(value(&state, &format!("k{seq}")), "v", "n{id}");
        assert_eq!(state.digest(), cluster.node(leader).kv().digest());
    }
}

#[test]
fn a_snapshot_that_holds_everything_is_not_taken_again() {
    let (mut cluster, leader) = Cluster::with_leader(1, options);
    assert_eq!(cluster.ask(leader, 1, "SET k v"), "OK");
    let first = cluster.backup(leader, 1).unwrap().snapshot;
    let again = cluster.backup(leader, 2).unwrap().snapshot;
    assert_eq!(first, again);
    assert_eq!(cluster.ask(leader, 1, "SET k w"), "OK");
    let after = cluster.backup(leader, 3).unwrap().snapshot;
    assert!(after.meta.position.index > first.meta.position.index);
}

#[test]
fn a_snapshot_under_way_that_began_too_early_is_followed_by_another() {
    let (mut cluster, leader) = Cluster::with_leader(1, options);
    for n in 0..50 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{n} v")), "OK");
    }
    cluster.hanging_lanes.extend((1..=3).map(|id| (id, Lane::Background)));
    cluster.input(leader, Input::TakeSnapshot);
    cluster.run_ms(10);
    assert!(cluster.node(leader).status().snapshot_in_progress);
    assert_eq!(cluster.ask(leader, 1, "SET last v"), "OK");
    cluster.input(leader, Input::Backup { connection: BACKUPS, seq: 1 });
    cluster.run_ms(100);
    assert!(cluster.backups.is_empty(), "nothing is ready while the disk hangs");
    cluster.hanging_lanes.clear();
    cluster.run_ms(1_000);
    let (_, ready) = cluster.backups.pop().expect("a backup");
    let state = cluster.state_in(leader, &ready.snapshot.file);
    assert_eq!(value(&state, "last"), "v");
}

#[test]
fn without_a_leader_there_is_an_error_and_not_an_old_backup() {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    assert_eq!(cluster.ask(leader, 1, "SET k v"), "OK");
    assert!(cluster.backup(leader, 1).is_some());
    cluster.isolate(leader);
    assert_eq!(cluster.backup(leader, 2), None, "it may have been deposed, and not know it");
    let reply = cluster.answer(leader, BACKUPS.0, 2);
    assert!(matches!(reply, Some(Reply::Error(text)) if text.starts_with("CLUSTERDOWN")));
    cluster.heal();
    cluster.run_ms(2_000);
    assert!(cluster.backup(leader, 3).is_some());
}

#[test]
fn a_stop_or_a_closed_connection_leaves_nobody_waiting() {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    cluster.isolate(leader);
    cluster.input(leader, Input::Backup { connection: BACKUPS, seq: 1 });
    cluster.input(leader, Input::ConnectionClosed(BACKUPS));
    cluster.run_ms(5_000);
    assert_eq!(cluster.answer(leader, BACKUPS.0, 1), None);
    cluster.input(leader, Input::Backup { connection: BACKUPS, seq: 2 });
    cluster.input(leader, Input::Shutdown);
    let reply = cluster.answer(leader, BACKUPS.0, 2);
    assert!(matches!(reply, Some(Reply::Error(text)) if text.contains("stopping")), "{reply:?}");
}

#[test]
fn no_more_wait_than_a_turn_may_look_at() {
    const WAIT: u64 = 256;
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    cluster.isolate(leader);
    for seq in 1..=WAIT + 1 {
        cluster.input(leader, Input::Backup { connection: BACKUPS, seq });
    }
    assert_eq!(cluster.answer(leader, BACKUPS.0, WAIT), None);
    let reply = cluster.answer(leader, BACKUPS.0, WAIT + 1);
    assert!(
        matches!(&reply, Some(Reply::Error(text)) if text.starts_with("ERR too many")),
        "{reply:?}"
    );
}
