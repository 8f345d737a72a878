//! Compaction, restarts, and catch-up from what is kept, seen through the whole replica. Transfers
//! are in `transfers.rs`.

use std::time::Duration;

use sampan_base::LogIndex;
use sampan_base::disk::Disk as _;
use sampan_raft::{Body, Message};
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Event, Input, Lane, Options};

use crate::harness::Cluster;

/// A threshold of a few batches and chunks of a few records.
pub(crate) fn compacting(id: sampan_base::NodeId) -> Options {
    let mut options = Options::new(id);
    options.storage = sampan_storage::Options::tiny();
    options.raft_state_bytes_max = Some(64 << 10);
    options.raft_state_snapshot_percent = 0;
    options.snapshot_chunk_bytes = 256;
    options.raft.snapshot_chunk_bytes_max = 100;
    options
}

pub(crate) fn never_compacting(id: sampan_base::NodeId) -> Options {
    Options { raft_state_bytes_max: None, ..compacting(id) }
}

fn write(cluster: &mut Cluster, id: u64, from: u64, to: u64) {
    for n in from..to {
        assert_eq!(cluster.ask(id, 1, &format!("SET k{} v{n}", n % 40)), "OK");
    }
}

#[test]
fn the_log_is_trimmed_once_it_passes_the_threshold() {
    let (mut cluster, leader) = Cluster::with_leader(3, compacting);
    write(&mut cluster, leader, 0, 200);
    cluster.run_ms(500);
    for id in 1..=3 {
        let status = cluster.node(id).status();
        assert!(status.snapshot.is_some(), "node {id} took a snapshot");
        assert!(status.log_bytes_live <= 2 * (64 << 10), "{} bytes", status.log_bytes_live);
        assert!(status.raft.first_index.0 > 1, "node {id} trimmed its log");
    }
}

#[test]
fn a_snapshot_that_an_operator_wants_has_what_its_node_was_told_is_written() {
    let (mut cluster, leader) = Cluster::with_leader(3, never_compacting);
    let follower = cluster.follower_of(leader);
    write(&mut cluster, follower, 0, 5);
    let committed = cluster.node(leader).raft().commit();
    assert!(cluster.node(follower).raft().applied() < committed, "it has not heard of that yet");
    cluster.input(follower, Input::TakeSnapshot);
    cluster.run_ms(500);
    let (index, _) = cluster.node(follower).status().snapshot.expect("a snapshot");
    assert!(index >= committed, "{index} of {committed}");

    cluster.input(follower, Input::TakeSnapshot);
    cluster.run_ms(500);
    write(&mut cluster, follower, 5, 6);
    cluster.run_ms(500);
    let later = cluster.node(follower).status().snapshot.expect("a snapshot").0;
    assert_eq!(later, index, "what was not new then is not taken for it later");
}

fn taken_by(cluster: &Cluster, id: u64) -> Vec<LogIndex> {
    let taken = cluster.events.iter().filter_map(|(of, event)| match event {
        Event::SnapshotTaken { index, .. } if *of == id => Some(*index),
        _ => None,
    });
    taken.collect()
}

#[test]
fn a_snapshot_that_an_operator_wants_comes_after_one_that_is_under_way() {
    let (mut cluster, id) = Cluster::with_leader(1, compacting);
    cluster.hanging_lanes.insert((id, Lane::Background));
    let value = "v".repeat(4 << 10);
    let mut writes = 0;
    while !cluster.node(id).status().snapshot_in_progress {
        assert_eq!(cluster.ask(id, 1, &format!("SET k{writes} {value}")), "OK");
        writes += 1;
        assert!(writes < 100, "one is due by the size of the log");
    }
    write(&mut cluster, id, 0, 5);
    let told = cluster.node(id).raft().applied();
    cluster.input(id, Input::TakeSnapshot);
    cluster.run_ms(100);
    assert!(taken_by(&cluster, id).is_empty(), "the first one hangs");
    cluster.hanging_lanes.clear();
    cluster.run_ms(500);
    let taken = taken_by(&cluster, id);
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[0] < told && told <= taken[1], "{taken:?} of {told}");
}

/// Holds back every Append, so that followers do not have what their clients are told.
fn is_append(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(Message { to, body: Body::Append { .. }, .. })
        if to.get() == STARVED)
}

/// The node that gets no Append.
const STARVED: u64 = 2;

#[test]
fn a_snapshot_that_an_operator_wants_comes_after_one_that_begins_before_what_it_must_hold_is_there()
{
    // An entry a turn: the log is long enough for a snapshot before all of it is applied.
    let (mut cluster, leader) = Cluster::with_leader(3, |id| Options {
        storage: sampan_storage::Options::default(),
        apply_bytes_max: 1,
        ..compacting(id)
    });
    if leader == STARVED {
        cluster.input(leader, Input::TransferLeadership(None));
        cluster.run_ms(1_000);
        assert_ne!(cluster.wait_for_leader(), STARVED);
    }
    cluster.hold = is_append;
    let value = "v".repeat(4 << 10);
    for n in 0..24 {
        assert_eq!(cluster.ask(STARVED, 1, &format!("SET k{n} {value}")), "OK");
    }
    let leader = cluster.wait_for_leader();
    let told = cluster.node(leader).raft().commit();
    cluster.input(STARVED, Input::TakeSnapshot);
    assert!(cluster.node(STARVED).raft().applied().0 + 24 <= told.0);
    assert!(taken_by(&cluster, STARVED).is_empty(), "what its client was told is not there");
    cluster.hold = |_| false;
    cluster.run_ms(1_000);
    let taken = taken_by(&cluster, STARVED);
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[0] < told && told <= taken[1], "{taken:?} of {told}");
}

#[test]
fn with_no_threshold_no_snapshot_is_taken() {
    let (mut cluster, leader) = Cluster::with_leader(3, never_compacting);
    write(&mut cluster, leader, 0, 200);
    for id in 1..=3 {
        assert_eq!(cluster.node(id).status().snapshot, None);
    }
}

#[test]
fn a_node_at_rest_lets_go_of_a_long_log() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let value = "v".repeat(1 << 19);
    for n in 0..36 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{} {value}", n % 2)), "OK");
    }
    cluster.run_ms(8_000);
    assert_eq!(cluster.node(leader).status().snapshot, None, "not long enough at rest");
    cluster.run_ms(4_000);
    for id in 1..=3 {
        let status = cluster.node(id).status();
        assert!(status.snapshot.is_some(), "node {id} took a snapshot");
        assert!(status.raft.first_index.0 > 30, "node {id} trimmed its log");
    }
    let taken = cluster.node(leader).status().snapshot;
    cluster.run_ms(30_000);
    assert_eq!(cluster.node(leader).status().snapshot, taken, "once is enough");
}

#[test]
fn a_node_alone_wakes_for_the_snapshot_at_rest() {
    // Nothing but that has it step.
    let (mut cluster, id) = Cluster::with_leader(1, |id| {
        let mut options = Options::new(id);
        let hour = Duration::from_secs(3_600);
        options.raft.heartbeat_interval = hour;
        (options.raft.election_timeout_min, options.raft.election_timeout_max) =
            (hour * 2, hour * 4);
        options
    });
    cluster.wakes_on_demand = true;
    let value = "v".repeat(1 << 19);
    for n in 0..36 {
        assert_eq!(cluster.ask(id, 1, &format!("SET k{} {value}", n % 2)), "OK");
    }
    cluster.run_ms(9_900);
    assert_eq!(cluster.node(id).status().snapshot, None, "not long enough at rest");
    cluster.run_ms(200);
    let taken = cluster.node(id).status().snapshot;
    assert!(taken.is_some_and(|(index, _)| index.0 > 36), "{taken:?}");
    let left = cluster.node(id).next_deadline();
    assert!(
        left > sampan_base::Time::ZERO + Duration::from_secs(60),
        "it asks for no more: {left:?}"
    );
}

#[test]
fn a_follower_that_was_away_catches_up_by_snapshot() {
    let (mut cluster, leader) = Cluster::with_leader(3, compacting);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(leader, 1, "SESSION OPEN");
    let append = format!("ONCE {session} 1 APPEND log token");
    assert_eq!(cluster.ask(leader, 1, &append), "5");
    cluster.kill(follower);
    cluster.run_ms(3_000); // it no longer counts as live, so no log is kept for it
    write(&mut cluster, leader, 0, 300);
    cluster.start(follower);
    cluster.run_ms(3_000);
    let installed = |(id, event): &(u64, Event)| {
        *id == follower && matches!(event, Event::SnapshotInstalled { .. })
    };
    assert!(cluster.events.iter().any(installed), "{:?}", cluster.events);
    write(&mut cluster, leader, 300, 310);
    cluster.run_ms(200);
    let (kept, caught_up) = (cluster.node(leader), cluster.node(follower));
    assert_eq!(kept.status().applied, caught_up.status().applied);
    assert_eq!(kept.kv().digest(), caught_up.kv().digest());
    // The sessions came with it: a repetition is still known when that follower leads.
    let other = (1..=3).find(|&id| id != leader && id != follower).unwrap();
    cluster.kill(leader);
    cluster.run_ms(3_000);
    assert_eq!(cluster.ask(follower, 1, &append), "5", "node {other} is the other one");
    assert_eq!(cluster.ask(follower, 1, "GET log"), "token");
}

#[test]
fn a_follower_that_was_away_shortly_catches_up_from_the_log_that_was_kept_for_it() {
    let (mut cluster, leader) = Cluster::with_leader(3, compacting);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    write(&mut cluster, leader, 0, 300);
    assert!(cluster.node(leader).status().snapshot.is_some());
    cluster.start(follower);
    cluster.run_ms(1_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    let installed = |(_, event): &(u64, Event)| matches!(event, Event::SnapshotInstalled { .. });
    assert!(!cluster.events.iter().any(installed), "the log was enough");
    let trimmed = cluster.node(leader).status().raft.first_index;
    assert!(trimmed.0 > 200, "what was kept is let go of when nobody needs it: {trimmed}");
}

#[test]
fn a_snapshot_of_entries_that_the_own_disk_does_not_have_yet_keeps_them() {
    let (mut cluster, leader) = Cluster::with_leader(3, never_compacting);
    let follower = cluster.follower_of(leader);
    write(&mut cluster, leader, 0, 5);
    cluster.run_ms(200);
    cluster.hanging_disks.insert(follower);
    // The first write occupies the hanging disk, so the others are in no batch of it at all.
    write(&mut cluster, leader, 5, 10);
    cluster.run_ms(200);
    for _ in 0..2 {
        cluster.input(follower, Input::TakeSnapshot);
        cluster.run_ms(100);
        write(&mut cluster, leader, 10, 15);
        cluster.run_ms(200);
    }
    assert!(cluster.node(follower).status().snapshot.is_some());
    cluster.hanging_disks.clear();
    write(&mut cluster, leader, 15, 20);
    cluster.run_ms(200);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    cluster.kill(follower);
    cluster.start(follower);
    cluster.run_ms(1_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_long_backlog_is_applied_in_turns_that_follow_at_once() {
    let (mut cluster, leader) = Cluster::with_leader(3, |id| {
        let mut options = never_compacting(id);
        options.apply_bytes_max = 1;
        options
    });
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    write(&mut cluster, leader, 0, 100);
    cluster.start(follower);
    // The harness asserts that a node with more to apply wants its next turn at once.
    cluster.run_ms(2_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_restart_begins_with_the_snapshot() {
    for options in [compacting, in_parts] {
        begins_with_the_snapshot(options);
    }
}

/// Built in more parts than some snapshots have chunks.
fn in_parts(id: sampan_base::NodeId) -> Options {
    Options { restore_parts: 7, ..compacting(id) }
}

fn begins_with_the_snapshot(options: fn(sampan_base::NodeId) -> Options) {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    write(&mut cluster, leader, 0, 200);
    cluster.run_ms(500);
    let before = cluster.node(leader).kv().digest();
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start(id);
        let status = cluster.node(id).status();
        let (index, _) = status.snapshot.expect("the snapshot is found");
        assert_eq!(status.applied, index, "nothing else is known to be committed yet");
    }
    let leader = cluster.wait_for_leader();
    cluster.run_ms(100);
    assert_eq!(cluster.node(leader).kv().digest(), before);
}

#[test]
fn a_start_at_rest_leaves_the_log_that_the_older_snapshot_needs() {
    let (mut cluster, only) = Cluster::with_leader(1, Options::new);
    for (key, _) in [("a", 1), ("b", 2)] {
        assert_eq!(cluster.ask(only, 1, &format!("SET {key} xxxxxxxxxx")), "OK");
        cluster.input(only, Input::TakeSnapshot);
        cluster.run_ms(200);
    }
    let newest = cluster.disk(only).list("snapshots").expect("a directory").pop();
    let newest = newest.expect("a file").file;
    // It starts with nothing in the log behind the snapshot.
    cluster.kill(only);
    cluster.start(only);
    cluster.run_ms(1_000);
    cluster.kill(only);
    assert!(cluster.disk(only).flip_in(&newest, b"xxxxxxxxxx"));
    cluster.start(only);
    cluster.run_ms(1_000);
    assert_eq!(cluster.ask(only, 2, "GET a"), "xxxxxxxxxx");
    assert_eq!(cluster.ask(only, 2, "GET b"), "xxxxxxxxxx");
}
