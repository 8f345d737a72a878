//! Snapshots on their way: cut, damaged, overtaken, beside clients, and to a new leader.

use std::sync::atomic::{AtomicU64, Ordering};

use sampan_base::EntryKind;
use sampan_base::disk::Disk as _;
use sampan_raft::{Body, PeerState};
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Event, Input, Lane, Options};
use sampan_storage::snapshot::SnapshotReader;

use crate::harness::{Cluster, MemoryDisk};
use crate::snapshots::{compacting, never_compacting};

/// Pieces so small that a transfer takes a while.
pub(crate) fn sending_slowly(id: sampan_base::NodeId) -> Options {
    let mut options = compacting(id);
    options.raft.snapshot_chunk_bytes_max = 500;
    options.raft.snapshot_inflight_bytes_max = 1_000;
    options.storage.snapshot_sync_bytes = 1_000;
    options
}

pub(crate) fn write_large(
    cluster: &mut Cluster,
    id: u64,
    numbers: std::ops::Range<u64>,
    keys: u64,
) {
    for n in numbers {
        let command = format!("SET k{} {n}{}", n % keys, "x".repeat(600));
        assert_eq!(cluster.ask(id, 1, &command), "OK");
    }
}

/// A follower that needs a snapshot of so many keys of 600 bytes, 500 bytes in a millisecond.
pub(crate) fn far_behind(
    options: fn(sampan_base::NodeId) -> Options,
    keys: u64,
) -> (Cluster, u64, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    cluster.run_ms(3_000);
    write_large(&mut cluster, leader, 0..400, keys);
    cluster.snapshot_parts_per_ms = 1;
    (cluster, leader, follower)
}

pub(crate) fn acked_bytes(cluster: &Cluster, leader: u64, follower: u64) -> Option<u64> {
    let peers = cluster.node(leader).status().raft.peers;
    match peers.into_iter().find(|peer| peer.id.get() == follower)?.state {
        PeerState::Snapshot { acked_bytes, .. } => Some(acked_bytes),
        _ => None,
    }
}

/// Runs until the follower has so much of the snapshot.
pub(crate) fn run_until_acked(cluster: &mut Cluster, leader: u64, follower: u64, bytes: u64) {
    while acked_bytes(cluster, leader, follower).is_none_or(|acked| acked < bytes) {
        cluster.run_ms(1);
    }
}

pub(crate) fn installs(cluster: &Cluster) -> usize {
    let is_one = |(_, event): &&(u64, Event)| matches!(event, Event::SnapshotInstalled { .. });
    cluster.events.iter().filter(is_one).count()
}

#[test]
fn a_transfer_that_is_cut_ten_times_sends_little_twice() {
    for restarts in [false, true] {
        let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
        let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
        cluster.start(follower);
        for cut in 1..=10 {
            let mark = size_bytes * cut / 11;
            let is_there = |cluster: &Cluster| {
                acked_bytes(cluster, leader, follower).is_some_and(|acked| acked >= mark)
            };
            for _ in 0..5_000 {
                if is_there(&cluster) {
                    break;
                }
                cluster.run_ms(1);
            }
            let acked = acked_bytes(&cluster, leader, follower);
            assert!(acked.is_some_and(|acked| acked < size_bytes), "cut {cut} at {acked:?}");
            if restarts {
                cluster.kill(follower);
                cluster.start(follower);
            }
            cluster.reconnect(follower);
        }
        cluster.run_ms(5_000);
        assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
        assert_eq!(installs(&cluster), 1);
        let sent = cluster.snapshot_bytes_sent as u64;
        // A cut costs what is under way, and a restart also a chunk of the file that is not whole:
        // less than 1 % of the file each, as with the defaults for one of some hundred megabytes.
        assert!(sent < size_bytes * 11 / 10, "{sent} sent of {size_bytes}");
    }
}

fn chunk_count(cluster: &mut Cluster, id: u64) -> usize {
    let newest = cluster.disk(id).list("snapshots").expect("a directory").pop().expect("a file");
    SnapshotReader::open(cluster.disk(id), &newest.file).expect("it is whole").chunk_count()
}

#[test]
fn what_arrives_is_loaded_as_it_comes_and_read_back_when_it_is_in_force() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    cluster.start(follower);
    while installs(&cluster) == 0 {
        assert_eq!(cluster.node(follower).status().snapshot_unread_bytes, 0);
        cluster.run_ms(1);
    }
    assert_eq!(cluster.chunks_read, 0, "nothing waited for the disk to read it");
    cluster.run_ms(5_000);
    let count = chunk_count(&mut cluster, follower);
    assert_eq!(cluster.chunks_checked, count);
    assert_eq!(cluster.node(follower).status().snapshot_unread_bytes, 0);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn what_had_arrived_before_a_restart_is_loaded_while_the_rest_is_on_its_way() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
    cluster.start(follower);
    run_until_acked(&mut cluster, leader, follower, size_bytes / 2);
    cluster.kill(follower);
    cluster.start(follower);
    run_until_acked(&mut cluster, leader, follower, size_bytes / 10 * 9);
    let read = cluster.chunks_read;
    cluster.run_ms(5_000);
    assert_eq!(installs(&cluster), 1);
    let count = chunk_count(&mut cluster, follower);
    assert!(read > count / 10 * 4, "{read} of {count}");
    assert_eq!(cluster.chunks_read + cluster.chunks_checked, count, "each is read back once");
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn reading_back_gives_way_to_clients() {
    let takes_ms = |a_client_wrote: bool| {
        let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
        cluster.start(follower);
        cluster.hanging_lanes.insert((follower, Lane::Reading));
        cluster.run_ms(1_000);
        assert_eq!((installs(&cluster), cluster.hanging()), (1, 1));
        if a_client_wrote {
            assert_eq!(cluster.ask(leader, 1, "SET a 1"), "OK");
        }
        cluster.hanging_lanes.clear();
        let (began, count) = (cluster.now_ms(), chunk_count(&mut cluster, follower));
        while cluster.chunks_checked < count - 1 {
            cluster.run_ms(1);
            assert!(cluster.now_ms() < began + 2_000, "it never ends");
        }
        cluster.now_ms() - began
    };
    let idle_ms = takes_ms(false);
    let busy_ms = takes_ms(true);
    assert!(idle_ms < 50 && busy_ms > idle_ms + 50, "{idle_ms} ms, {busy_ms} ms");
}

/// The same with few entries in an Append.
fn sending_slowly_and_appending_little(id: sampan_base::NodeId) -> Options {
    let mut options = sending_slowly(id);
    options.raft.append_entries_max = 2;
    options
}

#[test]
fn nothing_is_read_back_while_the_log_after_it_is_missing() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly_and_appending_little, 300);
    cluster.hold = |message| {
        let PeerMessage::Raft(message) = message else { return false };
        matches!(&message.body, Body::Append { entries, previous, .. }
            if !entries.is_empty() && previous.index.0 > 395)
    };
    cluster.start(follower);
    while !(installs(&cluster) == 1 && cluster.node(follower).raft().lacks_committed()) {
        cluster.run_ms(1);
    }
    let checked = cluster.chunks_checked;
    cluster.run_ms(100);
    assert!(cluster.node(follower).status().snapshot_unread_bytes > 0);
    assert_eq!(cluster.chunks_checked, checked);
    cluster.hold = |_| false;
    cluster.run_ms(1_000);
    let count = chunk_count(&mut cluster, follower);
    assert_eq!(cluster.chunks_checked, count);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_snapshot_that_is_damaged_where_it_is_sent_from_is_replaced() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let (index, _) = cluster.node(leader).status().snapshot.expect("there is one");
    // Behind what the last one covers nothing is to come.
    cluster.input(leader, Input::TakeSnapshot);
    cluster.run_ms(100);
    let newest = cluster.disk(leader).list("snapshots").expect("a directory").pop();
    let newest = newest.expect("a file").file;
    assert!(cluster.disk(leader).flip_in(&newest, b"xxxxxxx"));
    cluster.snapshot_parts_per_ms = usize::MAX;
    // As long as the leader does not hear of it, it comes again and again, but ever more rarely.
    cluster.hold = |message| matches!(message, PeerMessage::SnapshotDamaged(_));
    cluster.start(follower);
    let failures = |cluster: &mut Cluster, seconds: u64| {
        cluster.events.clear();
        cluster.run_ms(seconds * 1_000);
        let failed = |(_, event): &&(u64, Event)| matches!(event, Event::SnapshotFailed(_));
        cluster.events.iter().filter(failed).count()
    };
    assert!((2..=3).contains(&failures(&mut cluster, 5)));
    assert_eq!(failures(&mut cluster, 55), 3, "after 7, 15 and 31 seconds");
    assert_eq!(failures(&mut cluster, 124), 2, "about once a minute at last");
    cluster.events.clear();
    cluster.hold = |_| false;
    // The disk has no more room: the older one gives its own.
    let disk = cluster.disk(leader);
    disk.capacity_bytes = Some(disk.used_bytes());
    cluster.run_ms(65_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    assert_eq!((installs(&cluster), cluster.disk(leader).count_of(".damaged")), (1, 1));
    let (later, _) = cluster.node(leader).status().snapshot.expect("a new one");
    assert!(later >= index);
}

#[test]
fn a_snapshot_that_cannot_be_read_where_it_is_sent_from_is_replaced() {
    type Spoil = fn(&mut MemoryDisk, &str);
    let cut: (Spoil, usize) = (MemoryDisk::cut, 1);
    let unreadable: (Spoil, usize) = (|disk, file| disk.unreadable = Some(file.to_owned()), 1);
    let gone: (Spoil, usize) = (MemoryDisk::remove, 0);
    for (spoil, set_aside) in [cut, unreadable, gone] {
        let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
        cluster.input(leader, Input::TakeSnapshot);
        cluster.run_ms(100);
        let newest = cluster.disk(leader).list("snapshots").expect("a directory").pop();
        spoil(cluster.disk(leader), &newest.expect("a file").file);
        cluster.snapshot_parts_per_ms = usize::MAX;
        cluster.start(follower);
        cluster.run_ms(10_000);
        assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
        let is_set_aside = cluster.disk(leader).count_of(".damaged");
        assert_eq!((installs(&cluster), is_set_aside), (1, set_aside));
    }
}

#[test]
fn a_snapshot_that_is_damaged_where_it_arrived_is_sent_again_or_replaced() {
    for restarts in [false, true] {
        let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
        let (index, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
        cluster.hanging_lanes.insert((follower, Lane::Reading));
        cluster.start(follower);
        run_until_acked(&mut cluster, leader, follower, size_bytes / 2);
        if restarts {
            // It has nothing of it in memory any more.
            cluster.kill(follower);
            cluster.start(follower);
        }
        assert!(cluster.disk(follower).flip_in("snapshots/", b"xxxxxxx"));
        cluster.hanging_lanes.clear();
        cluster.run_ms(5_000);
        assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
        assert_eq!((installs(&cluster), cluster.disk(leader).count_of(".damaged")), (1, 0));
        // What had been loaded as it came is sound: the follower takes a snapshot of that.
        let set_aside = usize::from(!restarts);
        assert_eq!(cluster.disk(follower).count_of(".damaged"), set_aside);
        let (own, _) = cluster.node(follower).status().snapshot.expect("there is one");
        assert!(own >= index, "{own} of {index}");
        let taken = |(id, event): &&(u64, Event)| {
            *id == follower && matches!(event, Event::SnapshotTaken { .. })
        };
        assert_eq!(cluster.events.iter().filter(taken).count(), set_aside);
    }
}

/// Node 1 takes snapshots, the others have all of the log.
fn one_compacts(id: sampan_base::NodeId) -> Options {
    let mut options = sending_slowly(id);
    options.raft_state_bytes_max.take_if(|_| id.get() != 1);
    options
}

#[test]
fn a_snapshot_that_the_log_overtakes_on_its_way_is_dropped() {
    for restarts in [false, true] {
        let (mut cluster, leader) = Cluster::with_leader(3, one_compacts);
        if leader != 1 {
            hand_over(&mut cluster, leader, 1);
        }
        cluster.kill(3);
        cluster.run_ms(3_000);
        write_large(&mut cluster, 1, 0..400, 300);
        cluster.snapshot_parts_per_ms = 1;
        cluster.start(3);
        run_until_acked(&mut cluster, 1, 3, 50_000);
        let arriving =
            |cluster: &mut Cluster| cluster.disk(3).list("snapshots").expect("a directory").len();
        assert_eq!(arriving(&mut cluster), 1);
        if restarts {
            cluster.kill(3);
        }
        hand_over(&mut cluster, 1, 2);
        if restarts {
            cluster.start(3);
            assert_eq!(arriving(&mut cluster), 1, "it may be of use");
        }
        cluster.run_ms(5_000);
        assert_eq!((arriving(&mut cluster), installs(&cluster)), (0, 0));
        assert_eq!(cluster.node(2).kv().digest(), cluster.node(3).kv().digest());
    }
}

/// Half of the snapshot of a leader has arrived at the follower, and another node is to lead. That
/// one has the log after that snapshot, and an older one of its own.
fn half_arrived() -> (Cluster, [u64; 3], u64) {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let other = (1..=3).find(|&id| id != leader && id != follower).expect("a third node");
    for (id, from) in [(other, 400), (leader, 401)] {
        write_large(&mut cluster, leader, from..from + 1, 300);
        cluster.run_ms(100);
        cluster.input(id, Input::TakeSnapshot);
        cluster.run_ms(100);
    }
    let snapshot =
        |cluster: &Cluster, id| cluster.node(id).status().snapshot.expect("there is one");
    let (index, size_bytes) = snapshot(&cluster, leader);
    assert!(snapshot(&cluster, other).0 < index, "an older one");
    cluster.start(follower);
    run_until_acked(&mut cluster, leader, follower, size_bytes / 2);
    (cluster, [leader, other, follower], size_bytes)
}

fn hand_over(cluster: &mut Cluster, from: u64, to: u64) {
    cluster.input(from, Input::TransferLeadership(Some(sampan_base::NodeId::of(to))));
    while !cluster.node(to).is_leader() {
        cluster.run_ms(1);
    }
}

#[test]
fn a_transfer_goes_on_after_a_change_of_leader() {
    let (mut cluster, [leader, other, follower], size_bytes) = half_arrived();
    hand_over(&mut cluster, leader, other);
    cluster.run_ms(5_000);
    assert!(cluster.node(other).is_leader());
    assert_eq!(cluster.node(other).kv().digest(), cluster.node(follower).kv().digest());
    assert_eq!(installs(&cluster), 1);
    let sent = cluster.snapshot_bytes_sent as u64;
    assert!(sent < size_bytes * 11 / 10, "{sent} sent of {size_bytes}");
}

#[test]
fn a_transfer_begins_anew_if_the_node_that_made_the_snapshot_is_gone() {
    for is_taken_up in [false, true] {
        let (mut cluster, [leader, other, follower], size_bytes) = half_arrived();
        if is_taken_up {
            hand_over(&mut cluster, leader, other);
            cluster.run_ms(100);
            let acked = acked_bytes(&cluster, other, follower);
            assert!(acked.is_some_and(|acked| acked > size_bytes / 2), "{acked:?}");
        }
        cluster.kill(leader);
        cluster.run_ms(20_000);
        assert!(cluster.node(other).is_leader());
        assert_eq!(cluster.node(other).kv().digest(), cluster.node(follower).kv().digest());
        assert_eq!(installs(&cluster), 1);
        let sent = cluster.snapshot_bytes_sent as u64;
        assert!(sent > size_bytes * 5 / 4, "{sent} sent of {size_bytes}: it began anew");
    }
}

#[test]
fn a_follower_whose_disk_hangs_holds_no_more_than_may_be_on_its_way() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
    cluster.hanging_lanes.insert((follower, Lane::Background));
    cluster.start(follower);
    cluster.run_ms(30_000);
    let sent = cluster.snapshot_bytes_sent;
    assert!((500..=2_000).contains(&sent), "{sent} bytes sent to a disk that takes none");
    cluster.hanging_lanes.clear();
    cluster.run_ms(10_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    let sent = cluster.snapshot_bytes_sent as u64;
    assert!(sent < size_bytes * 11 / 10, "{sent} sent of {size_bytes}");
}

#[test]
fn a_disk_that_hangs_is_not_given_the_snapshot_of_each_new_leader() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let other = (1..=3).find(|&id| id != leader && id != follower).expect("a third node");
    cluster.hanging_lanes.insert((follower, Lane::Background));
    cluster.start(follower);
    cluster.run_ms(3_000);
    let hanging = cluster.hanging();
    for _ in 0..5 {
        hand_over(&mut cluster, leader, other);
        cluster.run_ms(2_000);
        hand_over(&mut cluster, other, leader);
        cluster.run_ms(2_000);
    }
    assert_eq!(cluster.hanging(), hanging, "jobs that wait for the disk");
    cluster.hanging_lanes.clear();
    cluster.run_ms(10_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn parts_that_overtake_each_other_are_neither_sent_again_nor_waited_for() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
    cluster.newest_parts_first = true;
    cluster.snapshot_parts_per_ms = 2;
    cluster.start(follower);
    // Far less than the pause after which a transfer without progress would go on.
    cluster.run_ms(size_bytes / 500 + 100);
    let installed = cluster.events.iter().find_map(|(_, event)| match event {
        Event::SnapshotInstalled { size_bytes, .. } => Some(*size_bytes),
        _ => None,
    });
    assert_eq!(installed, Some(cluster.snapshot_bytes_sent as u64), "all of it, and nothing twice");
    cluster.run_ms(500);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_transfer_gives_way_to_clients_and_goes_on() {
    let takes_ms = |clients_wait: bool| {
        let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
        cluster.snapshot_parts_per_ms = usize::MAX;
        if clients_wait {
            cluster.hold = |message| {
                let PeerMessage::Raft(message) = message else { return false };
                matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())
            };
            cluster.send(leader, 1, &["SET k1 v1"]);
            cluster.run_ms(100);
        }
        cluster.start(follower);
        let began = cluster.now_ms();
        while installs(&cluster) == 0 {
            assert!(cluster.now_ms() < began + 1_000, "it never ends");
            cluster.run_ms(1);
        }
        cluster.now_ms() - began
    };
    let idle_ms = takes_ms(false);
    let busy_ms = takes_ms(true);
    assert!(idle_ms < 250 && busy_ms > 30, "{idle_ms} ms, {busy_ms} ms");
}

/// Many entries in an Append; those of clients come alone.
fn appending_little(id: sampan_base::NodeId) -> Options {
    let mut options = never_compacting(id);
    options.raft.append_bytes_max = 20_000;
    options
}

#[test]
fn a_follower_that_catches_up_gives_way_to_clients_but_does_catch_up() {
    let takes_ms = |clients_wait: bool| {
        let (mut cluster, leader) = Cluster::with_leader(3, appending_little);
        let follower = cluster.follower_of(leader);
        cluster.kill(follower);
        write_large(&mut cluster, leader, 0..3_000, 100);
        if clients_wait {
            cluster.hold = |message| {
                let PeerMessage::Raft(message) = message else { return false };
                matches!(&message.body, Body::Append { entries, .. } if entries.len() == 1)
            };
            cluster.send(leader, 1, &["SET k1 v1"]);
            cluster.run_ms(100);
        }
        cluster.start(follower);
        let began = cluster.now_ms();
        while cluster.node(follower).status().raft.last_index.0 < 3_000 {
            assert!(cluster.now_ms() < began + 2_000, "it never catches up");
            cluster.run_ms(1);
        }
        cluster.now_ms() - began
    };
    let idle_ms = takes_ms(false);
    let busy_ms = takes_ms(true);
    assert!(busy_ms > idle_ms + 30, "{idle_ms} ms, {busy_ms} ms");
}

/// A turn has room for more than an Append and a group commit have.
fn applying_much(id: sampan_base::NodeId) -> Options {
    let mut options = Options {
        group_commit_bytes_max: 8 << 20,
        apply_bytes_max: 8 << 20,
        ..never_compacting(id)
    };
    options.raft.append_bytes_max = 1 << 20;
    options.raft.append_entries_max = 10_000;
    options
}

#[test]
fn a_follower_that_lacks_what_is_committed_applies_little_in_a_turn() {
    let (mut cluster, leader) = Cluster::with_leader(3, applying_much);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    write_large(&mut cluster, leader, 0..4_000, 100);
    // Nobody is in the foreground: Appends have all that they may. The first one arrives.
    cluster.run_ms(500);
    cluster.hold = |message| {
        let PeerMessage::Raft(message) = message else { return false };
        matches!(&message.body, Body::Append { entries, .. }
            if entries.first().is_some_and(|first| first.index.0 > 1_000))
    };
    cluster.start(follower);
    cluster.most_applied = 0;
    cluster.run_ms(100);
    assert!(cluster.node(follower).catches_up());
    // An entry has a little more than the 600 bytes of its value.
    let share = (256 << 10) / 600;
    assert!((share / 2..=share).contains(&cluster.most_applied), "{}", cluster.most_applied);
    cluster.hold = |_| false;
    cluster.run_ms(1_000);
    assert_eq!(cluster.node(follower).kv().digest(), cluster.node(leader).kv().digest());
    assert!(!cluster.node(follower).catches_up());
}

#[test]
fn a_transfer_that_clients_wait_for_does_not_give_way_to_them() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 300);
    let other = (1..=3).find(|&id| id != leader && id != follower).unwrap();
    cluster.snapshot_parts_per_ms = usize::MAX;
    cluster.hold = |message| {
        let PeerMessage::Raft(message) = message else { return false };
        matches!(&message.body, Body::InstallSnapshot { data, .. } if !data.is_empty())
    };
    cluster.start(follower);
    cluster.run_ms(200);
    cluster.kill(other);
    cluster.send(leader, 1, &["SET k1 v1"]);
    cluster.run_ms(600);
    assert!(cluster.node(leader).is_leader() && installs(&cluster) == 0);
    cluster.hold = |_| false;
    cluster.run_ms(20);
    assert_eq!(installs(&cluster), 1, "nothing holds it back");
}

#[test]
fn a_transfer_is_not_overtaken_by_later_snapshots() {
    let (mut cluster, leader, follower) = far_behind(sending_slowly, 200);
    // Fast enough for the log that it needs next to be within what is kept for it.
    cluster.snapshot_parts_per_ms = 2;
    cluster.start(follower);
    while acked_bytes(&cluster, leader, follower).is_none() {
        cluster.run_ms(1);
    }
    let first = cluster.node(leader).status().snapshot.expect("there is one").0;
    // Far more snapshots than are kept are taken meanwhile.
    let mut written = 400;
    while acked_bytes(&cluster, leader, follower).is_some() {
        assert!(written < 1_000, "the transfer never ends");
        assert!(cluster.node(follower).catches_up() && !cluster.node(leader).catches_up());
        write_large(&mut cluster, leader, written..written + 20, 200);
        written += 20;
    }
    let newest = cluster.node(leader).status().snapshot.expect("there is one").0;
    assert!(newest.0 > first.0 + 60, "from {first} to {newest}");
    cluster.run_ms(2_000);
    assert_eq!(installs(&cluster), 1, "the log did the rest");
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

/// Commands beyond this index are held back from node 3 by [`is_beyond`].
static HELD_BEYOND: AtomicU64 = AtomicU64::new(u64::MAX);

#[test]
fn an_own_snapshot_that_one_from_the_leader_overtakes_has_not_failed() {
    let (mut cluster, leader) = Cluster::with_leader(3, sending_slowly);
    let follower = cluster.follower_of(leader);
    write_large(&mut cluster, leader, 0..300, 300);
    cluster.run_ms(500);
    write_large(&mut cluster, leader, 300..302, 300);
    cluster.run_ms(500);
    cluster.isolate(follower);
    cluster.run_ms(3_000);
    write_large(&mut cluster, leader, 302..700, 300);
    cluster.snapshot_parts_per_ms = 1;
    cluster.heal();
    cluster.reconnect(follower);
    let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
    run_until_acked(&mut cluster, leader, follower, size_bytes - 3_000);
    // Of the own one many steps are left when the last ones of that are taken.
    cluster.hanging_lanes.insert((follower, Lane::Background));
    cluster.input(follower, Input::TakeSnapshot);
    cluster.run_ms(5);
    assert_eq!(installs(&cluster), 0, "one is on its way");
    cluster.snapshot_parts_per_ms = usize::MAX;
    cluster.hanging_lanes.clear();
    cluster.run_ms(500);
    assert_eq!(installs(&cluster), 1);
    let (installed, _) = cluster.node(follower).status().snapshot.expect("that one");
    // The log goes on, and so do own snapshots.
    write_large(&mut cluster, leader, 700..900, 300);
    cluster.run_ms(500);
    assert!(cluster.node(follower).status().snapshot.expect("a later one").0 > installed);
    let failed = |(_, event): &(u64, Event)| matches!(event, Event::SnapshotFailed(_));
    assert!(!cluster.events.iter().any(failed));
}

fn is_beyond(message: &PeerMessage) -> bool {
    let PeerMessage::Raft(message) = message else { return false };
    let Body::Append { entries, .. } = &message.body else { return false };
    let last = entries.iter().rfind(|entry| entry.kind == EntryKind::Command);
    let held_beyond = HELD_BEYOND.load(Ordering::Relaxed);
    message.to.get() == 3 && last.is_some_and(|last| last.index.0 > held_beyond)
}

/// [`one_compacts`], with few entries in an Append.
fn one_compacts_and_appends_are_small(id: sampan_base::NodeId) -> Options {
    let mut options = one_compacts(id);
    options.raft.append_entries_max = 4;
    options
}

#[test]
fn an_own_snapshot_never_follows_one_that_came_too_late_to_be_installed() {
    for begun_before in [false, true] {
        own_snapshot_beside_a_late_one(begun_before);
    }
}

fn own_snapshot_beside_a_late_one(begun_before: bool) {
    let (mut cluster, leader) = Cluster::with_leader(3, one_compacts_and_appends_are_small);
    if leader != 1 {
        hand_over(&mut cluster, leader, 1);
    }
    if begun_before {
        cluster.isolate(3);
    } else {
        cluster.kill(3);
    }
    cluster.run_ms(3_000);
    write_large(&mut cluster, 1, 0..400, 300);
    let (newest, _) = cluster.node(1).status().snapshot.expect("there is one");
    // It arrives at node 3 and is loaded; its name waits for the disk.
    cluster.hanging_commits.insert(3);
    if begun_before {
        cluster.snapshot_parts_per_ms = 1;
        cluster.heal();
        cluster.reconnect(3);
        let (_, size_bytes) = cluster.node(1).status().snapshot.expect("there is one");
        run_until_acked(&mut cluster, 1, 3, size_bytes - 1_000);
        // The own one begins when no more than its last parts are to be written.
        cluster.hanging_lanes.insert((3, Lane::Background));
        cluster.run_ms(5);
        cluster.input(3, Input::TakeSnapshot);
        cluster.hanging_lanes.clear();
    } else {
        cluster.start(3);
    }
    cluster.run_ms(2_000);
    let hanging = 1 + usize::from(begun_before);
    assert_eq!((cluster.hanging(), installs(&cluster)), (hanging, 0), "it is being committed");
    // Another leader has the log. With most of it an own snapshot is wanted, then comes the rest.
    HELD_BEYOND.store(newest.0 - 20, Ordering::Relaxed);
    cluster.hold = is_beyond;
    hand_over(&mut cluster, 1, 2);
    cluster.run_ms(3_000);
    let applied = cluster.node(3).raft().applied();
    assert!(applied.0 > newest.0 - 50 && applied < newest, "{applied} of {newest}");
    if !begun_before {
        cluster.input(3, Input::TakeSnapshot);
    }
    cluster.hold = |_| false;
    cluster.run_ms(3_000);
    assert!(cluster.node(3).raft().applied() > newest);
    cluster.hanging_commits.clear();
    cluster.run_ms(3_000);
    assert_eq!(installs(&cluster), 0, "it came too late");
    assert_eq!(cluster.node(2).kv().digest(), cluster.node(3).kv().digest());
    assert!(cluster.node(3).status().snapshot.expect("one of them").0 >= newest);
}
