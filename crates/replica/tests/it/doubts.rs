//! Clients that say a backup is damaged: the node looks for itself, and believes nobody.

use sampan_base::SnapshotId;
use sampan_kv::Reply;
use sampan_replica::{ConnectionId, Event, Input, Lane, Options};

use crate::harness::{BACKUPS, Cluster};
use crate::snapshots::never_compacting;

/// Where clients say that a backup is damaged.
const DOUBTS: ConnectionId = ConnectionId(998);

/// A node has a snapshot of everything, which a client has read as a backup.
fn backed_up(size: u64, options: fn(sampan_base::NodeId) -> Options) -> (Cluster, u64, SnapshotId) {
    let (mut cluster, leader) = Cluster::with_leader(size, options);
    let id = if size == 1 { leader } else { cluster.follower_of(leader) };
    assert_eq!(cluster.ask(leader, 1, &format!("SET k {}", "x".repeat(300))), "OK");
    let snapshot = cluster.backup(id, 1).expect("a backup").snapshot.meta.id;
    (cluster, id, snapshot)
}

fn doubt(cluster: &mut Cluster, id: u64, seq: u64, snapshot: SnapshotId) {
    cluster.input(id, Input::BackupDamaged { connection: DOUBTS, seq, snapshot });
}

fn found(cluster: &Cluster, id: u64, seq: u64) -> Option<&Reply> {
    cluster.answer(id, DOUBTS.0, seq)
}

fn hang(cluster: &mut Cluster, id: u64) {
    cluster.hanging_lanes.insert((id, Lane::Background));
}

fn go_on(cluster: &mut Cluster) {
    cluster.hanging_lanes.clear();
    cluster.run_ms(1_000);
}

#[test]
fn a_damaged_backup_is_followed_by_a_sound_one_though_nothing_was_written() {
    for size in [1, 3] {
        let (mut cluster, id, damaged) = backed_up(size, never_compacting);
        let file = cluster.backup(id, 2).expect("the same").snapshot.file;
        assert!(cluster.disk(id).flip_in(&file, b"xxxxxxx"));
        doubt(&mut cluster, id, 1, damaged);
        assert_eq!(found(&cluster, id, 1), Some(&Reply::Int(1)));
        cluster.run_ms(1_000);
        assert!(cluster.node(id).status().snapshot.is_some(), "there is one, though nobody asks");
        let next = cluster.backup(id, 3).expect("another").snapshot;
        assert_ne!(next.meta.id, damaged);
        let state = cluster.state_in(id, &next.file);
        assert_eq!(state.digest(), cluster.node(id).kv().digest());
        assert_eq!(cluster.disk(id).count_of(".damaged"), 1);
        let failed = |(_, event): &(u64, Event)| matches!(event, Event::SnapshotFailed(_));
        assert!(cluster.events.iter().any(failed), "it has a line");

        doubt(&mut cluster, id, 2, damaged);
        assert_eq!(found(&cluster, id, 2), Some(&Reply::Int(1)), "it is given up already");
        assert_eq!(cluster.backup(id, 4).expect("a backup").snapshot, next);
    }
}

#[test]
fn a_snapshot_that_is_looked_at_is_handed_out_to_nobody_meanwhile() {
    for is_damaged in [false, true] {
        let (mut cluster, id, doubted) = backed_up(1, never_compacting);
        let file = cluster.backups[0].1.snapshot.file.clone();
        assert!(!is_damaged || cluster.disk(id).flip_in(&file, b"xxxxxxx"));
        cluster.backups.clear();
        hang(&mut cluster, id);
        doubt(&mut cluster, id, 1, doubted);
        cluster.input(id, Input::Backup { connection: BACKUPS, seq: 2 });
        cluster.run_ms(5_000);
        assert!(cluster.backups.is_empty() && found(&cluster, id, 1).is_none());
        go_on(&mut cluster);
        assert_eq!(found(&cluster, id, 1), Some(&Reply::Int(is_damaged.into())));
        let (_, ready) = cluster.backups.pop().expect("a backup");
        assert_eq!(ready.snapshot.meta.id != doubted, is_damaged);

        // Nobody wants a snapshot any more.
        let newest = cluster.node(id).status().snapshot;
        assert_eq!(cluster.ask(id, 1, "SET another v"), "OK");
        cluster.run_ms(1_000);
        assert_eq!(cluster.node(id).status().snapshot, newest);
    }
}

#[test]
fn a_client_that_lies_costs_a_read_a_minute_of_each_snapshot_and_no_snapshot() {
    let (mut cluster, id, older) = backed_up(1, never_compacting);
    assert_eq!(cluster.ask(id, 1, "SET another v"), "OK");
    let newest = cluster.backup(id, 2).expect("a backup").snapshot.meta.id;
    assert_ne!(older, newest);
    let mut seq = 0;
    // After a while in which nobody lies, so many reads of a disk that takes longer than a minute.
    for (quiet_ms, reads) in [(0, 2), (30_000, 0), (35_000, 2)] {
        cluster.run_ms(quiet_ms);
        hang(&mut cluster, id);
        for snapshot in [older, newest].repeat(10) {
            seq += 1;
            doubt(&mut cluster, id, seq, snapshot);
            cluster.run_ms(if reads > 0 { 4_000 } else { 0 });
        }
        assert_eq!(cluster.hanging(), reads);
        go_on(&mut cluster);
    }
    assert!((1..=seq).all(|seq| found(&cluster, id, seq) == Some(&Reply::Int(0))));
    doubt(&mut cluster, id, seq + 1, SnapshotId(7));
    assert_eq!(found(&cluster, id, seq + 1), Some(&Reply::Int(1)), "there is none to be given up");
    assert_eq!(cluster.disk(id).count_of(".damaged"), 0);
    assert_eq!(cluster.backup(id, 3).expect("a backup").snapshot.meta.id, newest);
}

#[test]
fn each_is_told_of_the_snapshot_that_it_named() {
    let (mut cluster, id, older) = backed_up(1, never_compacting);
    let file = cluster.backups[0].1.snapshot.file.clone();
    assert_eq!(cluster.ask(id, 1, "SET another v"), "OK");
    let newest = cluster.backup(id, 2).expect("a backup").snapshot.meta.id;
    assert!(cluster.disk(id).flip_in(&file, b"xxxxxxx"));
    hang(&mut cluster, id);
    for (seq, snapshot) in [(1, older), (2, newest), (3, older)] {
        doubt(&mut cluster, id, seq, snapshot);
    }
    go_on(&mut cluster);
    for (seq, given_up) in [(1, 1), (2, 0), (3, 1)] {
        assert_eq!(found(&cluster, id, seq), Some(&Reply::Int(given_up)), "#{seq}");
    }
}

#[test]
fn a_snapshot_that_is_not_there_to_be_read_is_never_called_sound_and_another_is_taken() {
    let (mut cluster, id, snapshot) = backed_up(1, never_compacting);
    let file = cluster.backups[0].1.snapshot.file.clone();
    cluster.disk(id).remove(&file);
    for seq in 1..=3 {
        doubt(&mut cluster, id, seq, snapshot);
        assert_eq!(found(&cluster, id, seq), Some(&Reply::Int(1)));
    }
    let next = cluster.backup(id, 2).expect("another").snapshot;
    assert_ne!(next.meta.id, snapshot);
    assert_eq!(cluster.disk(id).count_of(".damaged"), 0);
}

#[test]
fn a_stop_or_a_closed_connection_leaves_nobody_waiting_for_a_look() {
    let (mut cluster, id, snapshot) = backed_up(1, never_compacting);
    hang(&mut cluster, id);
    doubt(&mut cluster, id, 1, snapshot);
    cluster.input(id, Input::ConnectionClosed(DOUBTS));
    let other = ConnectionId(997);
    cluster.input(id, Input::BackupDamaged { connection: other, seq: 1, snapshot });
    cluster.input(id, Input::Shutdown);
    let reply = cluster.answer(id, other.0, 1);
    assert!(matches!(reply, Some(Reply::Error(text)) if text.contains("stopping")), "{reply:?}");
    go_on(&mut cluster);
    assert_eq!(found(&cluster, id, 1), None);
}
