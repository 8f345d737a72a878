//! The snapshot that is more than are kept: the next one is written over its file, and has its
//! room.

use sampan_base::disk::{Disk as _, DiskOp};
use sampan_replica::{Input, Options};
use sampan_storage::snapshot;

use crate::harness::Cluster;

/// Two snapshots are kept, and the log has room until one is asked for.
fn taking_when_asked(id: sampan_base::NodeId) -> Options {
    let mut options = Options::new(id);
    options.storage = sampan_storage::Options::tiny();
    options.raft_state_bytes_max = Some(4 << 20);
    options.snapshot_chunk_bytes = 1_000;
    options
}

/// A state of some 60 KiB, whatever `round` it is.
fn write(cluster: &mut Cluster, id: u64, round: u64) {
    for key in 0..100 {
        let command = format!("SET k{key} {round}{}", "x".repeat(600));
        assert_eq!(cluster.ask(id, 1, &command), "OK");
    }
}

fn take(cluster: &mut Cluster, id: u64) {
    cluster.input(id, Input::TakeSnapshot);
    cluster.run_ms(200);
}

fn names(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let files = cluster.disk(id).list("snapshots").expect("it can be listed");
    files.into_iter().map(|info| info.file.to_string()).collect()
}

/// The names of a node's snapshots, oldest first.
fn snapshots(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let names = names(cluster, id);
    names.into_iter().filter(|name| name.ends_with(snapshot::COMPLETE)).collect()
}

#[test]
fn the_next_one_is_written_over_it() {
    let (mut cluster, id) = Cluster::with_leader(1, taking_when_asked);
    let mut before = Vec::new();
    for round in 0..6 {
        write(&mut cluster, id, round);
        take(&mut cluster, id);
        let after = snapshots(&mut cluster, id);
        assert_eq!(after.len() as u64, (round + 1).min(3));
        if let [_, kept @ ..] = &before[..]
            && round >= 3
        {
            assert_eq!(after[..2], *kept, "the oldest is gone");
        }
        before = after;
    }
}

#[test]
fn its_room_is_the_next_ones_which_needs_no_reserve() {
    let (mut cluster, id) = Cluster::with_leader(1, taking_when_asked);
    for round in 0..3 {
        write(&mut cluster, id, round);
        take(&mut cluster, id);
    }
    // What log and snapshots wanted in between is forgotten.
    cluster.kill(id);
    cluster.disk(id).execute(&DiskOp::Remove { file: "reserve".into() }).expect("it is there");
    cluster.start(id);
    cluster.wait_for_leader();
    assert_eq!(cluster.ask(id, 1, "SET one more"), "OK");
    cluster.input(id, Input::TakeSnapshot);
    let mut most_bytes = 0;
    for _ in 0..200 {
        cluster.run_ms(1);
        most_bytes = most_bytes.max(cluster.node(id).status().reserve_bytes);
    }
    let (_, snapshot_bytes) = cluster.node(id).status().snapshot.expect("it was taken");
    assert_eq!(snapshots(&mut cluster, id).len(), 3);
    assert!(most_bytes < snapshot_bytes, "{most_bytes} and {snapshot_bytes}");
    // No snapshot lacks any room now.
    for value in ["less", "then"] {
        assert_eq!(cluster.ask(id, 1, &format!("SET one {value}")), "OK");
        take(&mut cluster, id);
    }
    assert!(cluster.node(id).status().reserve_bytes > 2 * (16 << 10), "a start wants some");
}

#[test]
fn its_room_is_that_of_a_snapshot_that_arrives_as_well() {
    let (mut cluster, leader) = Cluster::with_leader(3, |id| {
        let mut options = taking_when_asked(id);
        options.raft.snapshot_chunk_bytes_max = 500;
        options
    });
    let follower = cluster.follower_of(leader);
    for round in 0..3 {
        write(&mut cluster, leader, round);
        take(&mut cluster, follower);
    }
    assert_eq!(snapshots(&mut cluster, follower).len(), 3);
    cluster.kill(follower);
    cluster.run_ms(3_000);
    write(&mut cluster, leader, 3);
    take(&mut cluster, leader);
    cluster.snapshot_parts_per_ms = 1;
    cluster.start(follower);
    let arrives = |cluster: &mut Cluster| {
        names(cluster, follower).iter().any(|name| name.ends_with(snapshot::ARRIVING))
    };
    while !arrives(&mut cluster) {
        cluster.run_ms(1);
    }
    assert_eq!(snapshots(&mut cluster, follower).len(), 2);
    cluster.run_ms(1_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}
