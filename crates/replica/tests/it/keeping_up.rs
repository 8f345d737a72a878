//! The log beside a snapshot on its way: what a leader keeps of it, and how fast it sends, so that
//! whoever gets the snapshot has what comes after it next. Transfers themselves are in
//! `transfers.rs`.

use sampan_replica::{Event, Options};

use crate::harness::Cluster;
use crate::snapshots::compacting;
use crate::transfers::{
    acked_bytes, far_behind, installs, run_until_acked, sending_slowly, write_large,
};

#[test]
fn a_transfer_that_clients_wait_for_leaves_no_debt() {
    let (mut cluster, leader, follower) = far_behind(compacting, 600);
    for n in 0..600 {
        let command = format!("SET long{n} {}", "x".repeat(8_000));
        assert_eq!(cluster.ask(leader, 1, &command), "OK");
    }
    let third = 6 - leader - follower;
    cluster.kill(third);
    cluster.send(leader, 1, &["SET a 1"]);
    cluster.run_ms(200);
    // Of 5 MB, at the pace that it begins with, it would be some 150 ms.
    cluster.snapshot_parts_per_ms = usize::MAX;
    cluster.start(follower);
    while installs(&cluster) == 0 {
        cluster.run_ms(1);
    }
    let status = cluster.node(leader).status();
    assert!(status.background_bytes_per_second.is_some(), "{status:?}");
    let debt = cluster
        .node(leader)
        .background_turn_at(cluster.now(), u64::from(u32::MAX))
        .since(cluster.now());
    assert!(debt.as_millis() < 10, "{debt:?}");
}

/// A follower that has nothing is started beside clients that write 12 KB in each millisecond, over
/// 160 KB: how many snapshots it is sent until it has all that there is.
fn snapshots_until_it_keeps_up(options: fn(sampan_base::NodeId) -> Options) -> usize {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    cluster.run_ms(3_000);
    let mut n = 0;
    let mut write = |cluster: &mut Cluster| {
        let set = |key: u64| format!("SET key{} {}", (n + key) % 40, "x".repeat(4_000));
        cluster.send(leader, 1, &[&set(0), &set(1), &set(2)]);
        cluster.run_ms(1);
        n += 3;
    };
    (0..200).for_each(|_| write(&mut cluster));
    cluster.start(follower);
    for _ in 0..2_000 {
        write(&mut cluster);
        let applied = |id: u64| cluster.node(id).status().applied.0;
        if installs(&cluster) > 0 && applied(follower) + 20 > applied(leader) {
            return installs(&cluster);
        }
    }
    panic!("{} snapshots, and it does not keep up", installs(&cluster));
}

#[test]
fn a_follower_is_not_sent_one_snapshot_after_another() {
    // As much log as is kept for it comes in 40 ms where the limit is of the state, and in 10 where
    // eight segments are more than that; at the slowest pace a snapshot takes some 40.
    fn of_the_state(id: sampan_base::NodeId) -> Options {
        let mut options = Options { raft_state_snapshot_percent: 100, ..compacting(id) };
        options.raft.snapshot_chunk_bytes_max = 8 << 10;
        options.snapshot_chunk_bytes = 4 << 10;
        options.batch_bytes_max = 1 << 10;
        options
    }
    let of_segments = |id| Options { raft_state_snapshot_percent: 0, ..of_the_state(id) };
    assert_eq!(snapshots_until_it_keeps_up(of_the_state), 1);
    assert_eq!(snapshots_until_it_keeps_up(of_segments), 1);
}

/// Sixteen segments for the limit, to be sent slowly.
fn with_a_long_log(id: sampan_base::NodeId) -> Options {
    Options { raft_state_bytes_max: Some(256 << 10), ..sending_slowly(id) }
}

/// How many snapshots a leader takes beside 400 writes, and how long its log is at most.
fn taken_by_a_leader(that_sends: bool) -> (usize, u64) {
    let (mut cluster, leader, follower) = far_behind(with_a_long_log, 600);
    if that_sends {
        cluster.start(follower);
        run_until_acked(&mut cluster, leader, follower, 1);
    }
    cluster.events.clear();
    let mut longest = 0;
    for n in 400..800 {
        write_large(&mut cluster, leader, n..n + 1, 600);
        longest = longest.max(cluster.node(leader).status().log_bytes_live);
    }
    assert_eq!(acked_bytes(&cluster, leader, follower).is_some(), that_sends, "all the time");
    let taken =
        |(id, event): &&(u64, Event)| *id == leader && matches!(event, Event::SnapshotTaken { .. });
    (cluster.events.iter().filter(taken).count(), longest)
}

#[test]
fn a_leader_that_sends_a_snapshot_takes_its_own_less_often_but_before_the_log_has_no_room() {
    let (alone, _) = taken_by_a_leader(false);
    let (sending, longest) = taken_by_a_leader(true);
    assert!(alone >= 6 && (1..alone - 1).contains(&sending), "{sending} instead of {alone}");
    // Where no segment fits any more clients wait.
    assert!(longest <= (512 - 16) << 10, "{longest}");
}

/// For that the log is kept within eight segments.
fn with_the_least_log(id: sampan_base::NodeId) -> Options {
    Options { raft_state_bytes_max: Some(1), ..sending_slowly(id) }
}

#[test]
fn who_is_silent_for_a_while_goes_on_with_the_same_snapshot() {
    let (mut cluster, leader, follower) = far_behind(with_the_least_log, 300);
    let (_, size_bytes) = cluster.node(leader).status().snapshot.expect("there is one");
    cluster.start(follower);
    run_until_acked(&mut cluster, leader, follower, 50_000);
    cluster.isolate(follower);
    cluster.run_ms(10_000);
    write_large(&mut cluster, leader, 400..500, 300);
    cluster.heal();
    cluster.run_ms(5_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    let sent = cluster.snapshot_bytes_sent as u64;
    assert!(sent < size_bytes * 11 / 10, "{sent} sent of {size_bytes}");
}

#[test]
fn the_log_after_a_snapshot_on_its_way_is_kept_however_low_the_limit() {
    let (mut cluster, leader, follower) = far_behind(with_the_least_log, 300);
    cluster.start(follower);
    run_until_acked(&mut cluster, leader, follower, 1);
    let sent = cluster.node(leader).status().snapshot.expect("there is one").0;
    // Half of what eight segments hold: the next snapshots cover it.
    write_large(&mut cluster, leader, 400..500, 300);
    let newest = cluster.node(leader).status().snapshot.expect("there is one").0;
    assert!(newest > sent && acked_bytes(&cluster, leader, follower).is_some());
    let first = cluster.node(leader).status().raft.first_index;
    assert!(first <= sent.next(), "from {first} on, {sent} is on its way");
    cluster.run_ms(5_000);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    assert_eq!(installs(&cluster), 1);
}
