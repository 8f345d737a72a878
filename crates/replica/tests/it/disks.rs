//! Disks that are full or slow (`src/disk_health.rs`): what clients see, who leads, what is kept.

use sampan_kv::Reply;
use sampan_raft::Health;
use sampan_replica::wire::{ForwardOutcome, Outcome, PeerMessage};
use sampan_replica::{Event, Input, Lane, Options};

use crate::harness::{Cluster, show};

/// Segments of 16 KiB, and a limit that only a lack of room makes a node stay below.
fn roomy(id: sampan_base::NodeId) -> Options {
    let mut options = Options::new(id);
    options.storage = sampan_storage::Options::tiny();
    options.batch_bytes_max = 1 << 10;
    options.raft_state_bytes_max = Some(1 << 20);
    options.snapshot_chunk_bytes = 256;
    options
}

/// A snapshot every few batches.
fn compacting(id: sampan_base::NodeId) -> Options {
    Options { raft_state_bytes_max: Some(64 << 10), raft_state_snapshot_percent: 0, ..roomy(id) }
}

/// Segments of 256 KiB: of the last 64 KiB half is for deletions, and the other half for FLUSHALL
/// and for the first entries of leaders.
fn wide(id: sampan_base::NodeId) -> Options {
    let mut options = roomy(id);
    options.storage.segment_bytes = 256 << 10;
    options.storage.entry_bytes_max = 64 << 10;
    options
}

fn fill_up(cluster: &mut Cluster, id: u64) {
    let disk = cluster.disk(id);
    disk.capacity_bytes = Some(disk.used_bytes());
}

/// Writes until one is refused; how many were not. They make the state larger, so that no
/// compaction helps.
fn write_until_refused(cluster: &mut Cluster, id: u64, count_max: usize) -> usize {
    let keys = cluster.node(id).kv().stats().keys;
    for n in 0..count_max {
        let reply = cluster.ask(id, 1, &format!("SET key{keys}-{n} {}", "x".repeat(500)));
        if reply.starts_with("-NOSPACE") {
            return n;
        }
        assert_eq!(reply, "OK");
    }
    count_max
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    assert_eq!(cluster.ask(leader, 1, "SET before it"), "OK");
    fill_to_the_brim(&mut cluster, leader);
    assert_eq!(cluster.ask(leader, 1, "GET before"), "it");
    for id in 1..=3 {
        assert!(cluster.ask(id, 2, "SET another one").starts_with("-NOSPACE"), "node {id}");
    }
    for id in 1..=3 {
        cluster.disk(id).capacity_bytes = None;
    }
    cluster.run_ms(2_000);
    assert_eq!(cluster.ask(leader, 1, "SET after it"), "OK");
    for id in 1..=3 {
        assert_eq!(cluster.node(id).status().raft.health, Health::Well);
    }
}

/// Fills all disks and writes until nothing more is taken. Each compaction makes a little room,
/// until there is nothing to compact.
fn fill_to_the_brim(cluster: &mut Cluster, leader: u64) {
    (1..=3).for_each(|id| fill_up(cluster, id));
    let full = (0..50).any(|_| {
        let written = write_until_refused(cluster, leader, 400);
        cluster.run_ms(6_000);
        written == 0
    });
    assert!(full, "the disks are full");
}

/// A cluster whose disks are full to the brim.
fn brimful() -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, wide);
    fill_to_the_brim(&mut cluster, leader);
    (cluster, leader)
}

#[test]
fn a_session_command_is_not_sent_again_behind_a_deletion_that_followed_it() {
    // Before it is given up, or after it was put back behind the frame of the deletion.
    for held_ms in [100, 1_500] {
        send_again_behind_a_deletion(held_ms);
    }
}

fn send_again_behind_a_deletion(held_ms: u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, wide);
    let follower = cluster.follower_of(leader);
    let session = cluster.ask(follower, 1, "SESSION OPEN");
    assert_eq!(cluster.ask(follower, 1, "SET k old"), "OK");
    fill_to_the_brim(&mut cluster, leader);
    // Of two commands in one frame the first is refused, and its answer is late.
    cluster.hold = |message| {
        let is_refusal = |outcome: &ForwardOutcome| {
            matches!(&outcome.outcome, Outcome::Answered(Reply::Error(text), _)
                if text.starts_with("NOSPACE"))
        };
        matches!(message, PeerMessage::ForwardReply(reply) if reply.outcomes.iter().any(is_refusal))
    };
    let once = format!("ONCE {session} 1 SET k new");
    let refusals = cluster.hold;
    if held_ms > 1_000 {
        cluster.hold = |message| matches!(message, PeerMessage::ForwardReply(_));
    }
    let sent = cluster.send(follower, 1, &[&once, "DEL k"]);
    cluster.run_ms(held_ms);
    cluster.hold = refusals;
    cluster.run_ms(100);
    assert_eq!(cluster.answer(follower, 1, sent[1]), Some(&Reply::Int(1)));
    (1..=3).for_each(|id| cluster.disk(id).capacity_bytes = None);
    cluster.run_ms(5_000);
    assert_eq!(
        cluster.ask(leader, 2, "GET k"),
        "nil",
        "it was deleted after it was set, if it was"
    );
    let unknown = cluster.answer(follower, 1, sent[0]).map(show).expect("an answer");
    assert!(unknown.starts_with("-UNKNOWN"), "{unknown}");
}

/// The command that empties the store is taken, and makes room.
fn assert_flush_helps(cluster: &mut Cluster, leader: u64) {
    assert_eq!(cluster.ask(leader, 1, "FLUSHALL"), "OK");
    cluster.run_ms(6_000);
    assert_eq!(cluster.ask(leader, 1, "SET after it"), "OK");
}

#[test]
fn deletions_make_room_on_full_disks() {
    let (mut cluster, leader) = brimful();
    let keys = cluster.node(leader).kv().stats().keys;
    assert!(keys > 100, "{keys}");
    // Values of other lengths do not, nor what only changes when keys end.
    for command in ["SET key0-0 x", "APPEND key0-0 x", "EXPIRE key0-0 1", "INCR n"] {
        let reply = cluster.ask(leader, 1, command);
        assert!(reply.starts_with("-NOSPACE") && reply.ends_with("deletions are taken"), "{reply}");
    }
    let long = cluster.ask(leader, 1, &format!("DEL {}", "long ".repeat(2_000).trim_end()));
    assert_eq!(long, "-NOSPACE no room for a deletion of more than 8192 bytes");
    assert_eq!(cluster.ask(leader, 1, "SESSION OPEN"), "1");
    // Half of the keys in three commands, one through each node.
    for node in 1..=3 {
        let some: Vec<String> = (0..keys / 6).map(|n| format!("key0-{}", 3 * n + node)).collect();
        assert_eq!(
            cluster.ask(node, 1, &format!("DEL {}", some.join(" "))),
            (keys / 6).to_string()
        );
    }
    cluster.run_ms(6_000);
    for id in 1..=3 {
        assert_eq!(cluster.node(id).status().raft.health, Health::Well, "node {id}");
        assert_eq!(cluster.ask(id, 2, "SET after it"), "OK", "node {id}");
    }
}

#[test]
fn one_command_that_empties_the_store_is_enough() {
    let (mut cluster, leader) = brimful();
    assert_flush_helps(&mut cluster, leader);
}

#[test]
fn deletions_that_make_no_room_are_refused_before_the_log_is_full() {
    let (mut cluster, leader) = brimful();
    let taken = (0..1_000)
        .take_while(|n| match &*cluster.ask(leader, 1, &format!("DEL {n}{}", "x".repeat(200))) {
            "0" => true,
            reply => {
                assert!(reply.starts_with("-NOSPACE"), "{reply}");
                false
            }
        })
        .count();
    assert!((2..1_000).contains(&taken), "{taken} were taken");
    cluster.run_ms(1_000);
    for id in 1..=3 {
        assert_eq!(cluster.node(id).status().raft.health, Health::Exhausted, "node {id}");
        let status = cluster.node(id).status();
        assert_eq!(status.applied, status.raft.commit, "node {id}: nothing waits for room");
        cluster.disk(id).capacity_bytes = None;
    }
    cluster.run_ms(2_000);
    assert_eq!(cluster.ask(leader, 1, "SET after it"), "OK");
}

#[test]
fn the_last_of_the_room_is_for_the_command_that_empties_the_store() {
    let (mut cluster, leader) = brimful();
    let mut useless = (0..1_000).map(|n| cluster.ask(leader, 1, &format!("DEL none{n}")));
    assert!(useless.any(|reply| reply.starts_with("-NOSPACE")));
    assert_flush_helps(&mut cluster, leader);
}

#[test]
fn deletions_that_come_all_at_once_leave_it_room() {
    let (mut cluster, leader) = brimful();
    let long = format!("DEL {}", "none ".repeat(1_000).trim_end());
    let sent: Vec<u64> =
        (1..=20).map(|connection| cluster.send(leader, connection, &[&long])[0]).collect();
    cluster.run_ms(100);
    for (connection, seq) in (1..).zip(sent) {
        let reply = show(cluster.answer(leader, connection, seq).expect("an answer"));
        assert!(reply == "0" || reply.starts_with("-NOSPACE"), "{reply}");
    }
    assert_flush_helps(&mut cluster, leader);
}

#[test]
fn what_is_under_way_when_disks_get_full_leaves_room_for_deletions() {
    let (mut cluster, leader) = Cluster::with_leader(3, wide);
    (1..=3).for_each(|id| fill_up(&mut cluster, id));
    // Eight connections, each with a pipeline of ten values of 10 KiB.
    let value = "x".repeat(10 << 10);
    for round in 0..20 {
        for connection in 1..=8 {
            let sets: Vec<String> =
                (0..10).map(|n| format!("SET {round}.{connection}.{n} {value}")).collect();
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            cluster.send(leader, connection, &sets);
        }
        cluster.run_ms(5);
    }
    cluster.run_ms(6_000);
    assert!(cluster.ask(leader, 1, "SET more x").starts_with("-NOSPACE"));
    assert_eq!(cluster.node(leader).status().raft.health, Health::Full);
    assert_eq!(cluster.ask(leader, 1, "DEL none"), "0");
}

#[test]
fn keys_that_expire_do_not_take_the_room_of_full_disks() {
    let (mut cluster, leader) = Cluster::with_leader(3, wide);
    // One every ten seconds: so little that no snapshot fits for want of them.
    for n in 0..90 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET over{n} x PX {}", n * 10_000 + 1)), "OK");
    }
    assert_eq!(cluster.ask(leader, 1, "SET last x"), "OK");
    fill_to_the_brim(&mut cluster, leader);
    assert!(cluster.now_ms() < 600_000, "there are keys to expire");
    let before = cluster.node(leader).raft().last_index().0;
    // Nor do questions that the clock of the log would move on for.
    (0..50).for_each(|_| assert_eq!(cluster.ask(leader, 1, "TTL last"), "-1"));
    cluster.run_ms(300_000);
    let entries = cluster.node(leader).raft().last_index().0 - before;
    assert!(entries <= 8, "{entries} entries, of 4 KiB each, though nobody writes");
    assert_eq!(cluster.ask(leader, 1, "TTL last"), "-1", "reads go on");
    // There is room for the first entry of another leader.
    cluster.kill(leader);
    let next = cluster.wait_for_leader();
    assert_eq!(cluster.ask(next, 2, "EXISTS last"), "1");
}

#[test]
fn a_full_disk_does_not_keep_a_cluster_from_electing_a_leader_that_serves_reads() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    assert_eq!(cluster.ask(leader, 1, "SET before it"), "OK");
    (1..=3).for_each(|id| fill_up(&mut cluster, id));
    write_until_refused(&mut cluster, leader, 400);
    cluster.run_ms(2_000);
    cluster.kill(leader);
    let next = cluster.wait_for_leader();
    assert_eq!(cluster.ask(next, 2, "GET before"), "it");
}

#[test]
fn a_leader_without_room_hands_over_to_one_that_has_it() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    fill_up(&mut cluster, leader);
    let written = write_until_refused(&mut cluster, leader, 200);
    assert!(!cluster.node(leader).is_leader(), "{written} writes were taken");
    assert_eq!(written, 200, "no client noticed");
    cluster.run_ms(1_000);
    assert!(cluster.node(leader).status().raft.health.is_full());
}

#[test]
fn writes_that_no_quorum_has_room_for_are_refused_by_a_leader_that_has() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    for id in (1..=3).filter(|&id| id != leader) {
        fill_up(&mut cluster, id);
    }
    let written = write_until_refused(&mut cluster, leader, 400);
    assert!(written < 400, "two of three disks are full");
    assert_eq!(cluster.node(leader).status().raft.health, Health::Well);
}

#[test]
fn a_full_follower_that_falls_behind_has_its_reads_answered_by_the_leader() {
    let (mut cluster, leader) = Cluster::with_leader(3, |id| {
        let mut options = roomy(id);
        options.raft.inflight_messages_max = 2;
        options
    });
    let follower = cluster.follower_of(leader);
    fill_up(&mut cluster, follower);
    let written = write_until_refused(&mut cluster, leader, 100);
    assert_eq!(written, 100, "two of three disks have room");
    assert_eq!(cluster.ask(leader, 1, "SET last one"), "OK");
    let lag = |cluster: &Cluster| {
        cluster.node(leader).status().applied.0 - cluster.node(follower).status().applied.0
    };
    cluster.run_ms(1_000);
    assert!(lag(&cluster) > 20, "it is {} entries behind", lag(&cluster));
    assert_eq!(cluster.ask(follower, 1, "GET last"), "one");
}

#[test]
fn a_full_disk_is_compacted_on_the_room_of_the_older_snapshot_if_there_is_no_other() {
    let (mut cluster, leader) = Cluster::with_leader(1, |id| {
        let mut options = compacting(id);
        options.snapshot_reserve_percent = 0;
        options
    });
    let mut refused = 0;
    let mut write = |cluster: &mut Cluster, numbers: std::ops::Range<usize>| {
        for n in numbers {
            let command = format!("SET key{} {}", n % 100, format!("{n}").repeat(100));
            while cluster.ask(leader, 1, &command) != "OK" {
                refused += 1;
                assert!(refused < 500, "write {n}");
                cluster.run_ms(1);
            }
        }
    };
    write(&mut cluster, 100..500);
    cluster.run_ms(100);
    let before = cluster.node(leader).status().snapshot.expect("it has been compacted").0;
    fill_up(&mut cluster, leader);
    write(&mut cluster, 500..1_000);
    let after = cluster.node(leader).status().snapshot.expect("another one").0;
    assert!(after.0 > before.0 + 300, "from {before} to {after}");
    cluster.kill(leader);
    cluster.start(leader);
    cluster.wait_for_leader();
    assert_eq!(cluster.ask(leader, 2, "GET key99"), "999".repeat(100));
}

#[test]
fn a_full_disk_is_compacted_on_the_room_of_the_reserve() {
    // Wherever it stands between two snapshots when the disk is full.
    (200..222).for_each(is_compacted_on_the_room_of_the_reserve);
}

fn is_compacted_on_the_room_of_the_reserve(full_at: usize) {
    let (mut cluster, leader) = Cluster::with_leader(1, compacting);
    let write = |cluster: &mut Cluster, from: usize, to: usize| {
        for n in from..to {
            let value = format!("{n}").repeat(100);
            let reply = cluster.ask(leader, 1, &format!("SET key{} {value}", n % 100));
            assert_eq!(reply, "OK", "write {n}");
        }
    };
    write(&mut cluster, 0, full_at);
    cluster.run_ms(100);
    let snapshots = cluster.node(leader).status().snapshot.expect("it has been compacted").0;
    assert!(cluster.disk(leader).len_of("reserve") > 0);
    // The state stays as large as it is, so the log can be compacted for ever.
    fill_up(&mut cluster, leader);
    write(&mut cluster, full_at, full_at + 400);
    let status = cluster.node(leader).status();
    assert!(status.snapshot.expect("another one").0 > snapshots);
    assert!(!cluster.events.iter().any(|(_, event)| matches!(event, Event::SnapshotFailed(_))));
}

#[test]
fn without_a_reserve_a_full_disk_cannot_be_compacted() {
    let (mut cluster, leader) =
        Cluster::with_leader(1, |id| Options { snapshot_reserve_percent: 0, ..compacting(id) });
    fill_up(&mut cluster, leader);
    for n in 0..200 {
        let reply = cluster.ask(leader, 1, &format!("SET key{} {}", n % 10, "x".repeat(300)));
        if reply.starts_with("-NOSPACE") {
            return;
        }
    }
    panic!("the disk is full");
}

#[test]
fn a_node_on_a_full_disk_starts_again() {
    let (mut cluster, leader) = Cluster::with_leader(1, compacting);
    for n in 0..100 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET key{n} {}", "x".repeat(300))), "OK");
    }
    fill_up(&mut cluster, leader);
    let written = write_until_refused(&mut cluster, leader, 1_000);
    assert!(written < 1_000);
    for _ in 0..3 {
        cluster.kill(leader);
        cluster.start(leader);
        cluster.run_ms(1_000);
        assert_eq!(cluster.ask(leader, 7, "EXISTS key1"), "1");
    }
}

fn sending_small_parts(id: sampan_base::NodeId) -> Options {
    let mut options = compacting(id);
    options.raft.snapshot_chunk_bytes_max = 1_000;
    options
}

/// A leader, and a follower that is down and needs its snapshot.
fn needing_a_snapshot(options: fn(sampan_base::NodeId) -> Options) -> (Cluster, u64, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, options);
    let follower = cluster.follower_of(leader);
    cluster.kill(follower);
    cluster.run_ms(3_000); // it no longer counts as live, so no log is kept for it
    for n in 0..300 {
        let command = format!("SET key{} {}", n % 100, "x".repeat(400));
        assert_eq!(cluster.ask(leader, 1, &command), "OK");
    }
    (cluster, leader, follower)
}

fn installed(cluster: &Cluster) -> bool {
    let installs = |(_, event): &(u64, Event)| matches!(event, Event::SnapshotInstalled { .. });
    cluster.events.iter().any(installs)
}

#[test]
fn a_snapshot_that_finds_no_room_to_arrive_goes_on_when_there_is() {
    let (mut cluster, leader, follower) = needing_a_snapshot(sending_small_parts);
    fill_up(&mut cluster, follower);
    cluster.start(follower);
    cluster.run_ms(5_000);
    assert!(!installed(&cluster), "there is no room for it");
    let status = cluster.node(follower).status();
    assert!(status.snapshot_arrival.is_some_and(|arrival| arrival.waits_for_room));
    assert_eq!((status.disk_health(), status.raft.health), (Health::Full, Health::Well));
    cluster.disk(follower).capacity_bytes = None;
    cluster.snapshot_parts_per_ms = 1;
    let waited = status.snapshot_arrival;
    while cluster.node(follower).status().snapshot_arrival == waited {
        cluster.run_ms(1);
    }
    let status = cluster.node(follower).status();
    let arrival = status.snapshot_arrival.expect("it arrives");
    assert!((1..arrival.size_bytes).contains(&arrival.bytes), "{arrival:?}");
    assert_eq!((arrival.waits_for_room, status.disk_health()), (false, Health::Well));
    cluster.run_ms(3_000);
    assert!(installed(&cluster));
    assert_eq!(cluster.node(follower).status().snapshot_arrival, None);
    let complaints = cluster.events.iter().filter(|(_, e)| matches!(e, Event::SnapshotFailed(_)));
    assert_eq!(complaints.count(), 1, "it said so once: {:?}", cluster.events);
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_snapshot_that_finds_no_room_for_its_file_goes_on_when_there_is() {
    let (mut cluster, leader, follower) = needing_a_snapshot(sending_small_parts);
    cluster.start(follower);
    cluster.hanging_lanes.insert((follower, Lane::Background));
    while cluster.hanging() < 4 {
        cluster.run_ms(1);
    }
    // The pieces behind the first find no file.
    cluster.disk(follower).takes_no_files = true;
    cluster.hanging_lanes.clear();
    cluster.run_ms(3_000);
    assert!(!installed(&cluster), "there is no room for it");
    cluster.disk(follower).takes_no_files = false;
    cluster.run_ms(3_000);
    assert!(installed(&cluster));
    assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
}

#[test]
fn a_snapshot_that_meets_a_full_disk_on_its_way_is_loaded_all_the_same() {
    for restarts in [false, true] {
        let (mut cluster, leader, follower) = needing_a_snapshot(|id| {
            let mut options = sending_small_parts(id);
            options.storage.snapshot_sync_bytes = 1_000;
            options
        });
        cluster.snapshot_parts_per_ms = 1;
        cluster.start(follower);
        while cluster.disk(follower).count_of(".partial") == 0 {
            cluster.run_ms(1);
        }
        cluster.run_ms(20);
        if restarts {
            cluster.kill(follower);
            cluster.start(follower);
            // Chunks wait to be read back when there is no more room to write.
            cluster.hanging_lanes.insert((follower, Lane::Reading));
            while cluster.hanging() < 3 {
                cluster.run_ms(1);
            }
        }
        assert!(!installed(&cluster), "it is on its way");
        let disk = cluster.disk(follower);
        (disk.copies_on_write, disk.capacity_bytes) = (true, Some(disk.used_bytes()));
        cluster.run_ms(1_000);
        let failed = |(_, event): &(u64, Event)| matches!(event, Event::SnapshotFailed(_));
        assert!(cluster.events.iter().any(failed), "it has met the full disk");
        cluster.disk(follower).capacity_bytes = None;
        cluster.hanging_lanes.clear();
        cluster.run_ms(5_000);
        let failures = cluster.events.iter().filter(|event| failed(event)).count();
        assert_eq!(failures, 1, "it goes on where it was: {:?}", cluster.events);
        assert_eq!(cluster.node(leader).kv().digest(), cluster.node(follower).kv().digest());
    }
}

// ------------------------------------------------------------------------------- slow disks

#[test]
fn a_leader_whose_disk_stalls_hands_over_to_one_whose_does_not() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    cluster.hanging_disks.insert(leader);
    // The others have it: the client waits for no disk of the leader's.
    assert_eq!(cluster.ask(leader, 1, "SET a 1"), "OK");
    cluster.run_ms(500);
    assert!(cluster.node(leader).is_leader(), "half a second is no stall");
    cluster.run_ms(1_500);
    assert!(!cluster.node(leader).is_leader());
    let next = (1..=3).find(|&id| cluster.node(id).is_leader()).expect("another leads");
    assert_eq!(cluster.ask(next, 1, "SET b 2"), "OK");
    cluster.hanging_disks.clear();
    cluster.run_ms(500);
    assert_eq!(cluster.ask(next, 1, "SET c 3"), "OK");
    cluster.run_ms(500);
    assert_eq!(cluster.node(leader).status().raft.health, Health::Well);
    assert!(cluster.node(next).is_leader(), "leadership does not wander");
}

#[test]
fn a_stall_of_all_disks_makes_nobody_hand_over() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    let term = cluster.node(leader).raft().term();
    cluster.hanging_disks.extend(1..=3);
    cluster.send(leader, 1, &["SET a 1"]);
    cluster.run_ms(3_000);
    cluster.hanging_disks.clear();
    cluster.run_ms(500);
    assert!(cluster.node(leader).is_leader());
    assert_eq!(cluster.node(leader).raft().term(), term);
    assert_eq!(cluster.ask(leader, 1, "GET a"), "1");
}

#[test]
fn a_stall_is_borne_if_the_operator_says_so() {
    let (mut cluster, leader) =
        Cluster::with_leader(3, |id| Options { disk_stall: None, ..roomy(id) });
    cluster.hanging_disks.insert(leader);
    assert_eq!(cluster.ask(leader, 1, "SET a 1"), "OK");
    cluster.run_ms(5_000);
    assert!(cluster.node(leader).is_leader());
}

// ---------------------------------------------------------------------------- a slow snapshot

#[test]
fn while_a_snapshot_is_written_the_log_stays_below_twice_the_limit() {
    let limit = 256 << 10;
    let (mut cluster, leader) = Cluster::with_leader(3, |id| {
        let mut options = Options { raft_state_bytes_max: Some(256 << 10), ..roomy(id) };
        // What is not committed cannot be compacted.
        options.raft.uncommitted_bytes_max = 32 << 10;
        options
    });
    cluster.hanging_lanes.extend((1..=3).map(|id| (id, Lane::Background)));
    for id in 1..=3 {
        cluster.input(id, Input::TakeSnapshot);
    }
    let mut numbers = Vec::new();
    for n in 0..300 {
        numbers.extend(cluster.send(leader, 1, &[&format!("SET key{n} {}", "x".repeat(4_000))]));
        cluster.run_ms(2);
    }
    for id in 1..=3 {
        let status = cluster.node(id).status();
        assert!(status.snapshot_in_progress);
        let bytes = status.log_bytes_live;
        assert!((limit..2 * limit).contains(&bytes), "node {id} has {bytes} bytes of log");
    }
    let waits = |cluster: &Cluster| {
        numbers.iter().filter(|&&seq| cluster.answer(leader, 1, seq).is_none()).count()
    };
    assert!(waits(&cluster) > 0, "what has no room in it waits");
    cluster.hanging_lanes.clear();
    cluster.run_ms(2_000);
    assert_eq!(waits(&cluster), 0, "and goes on when the snapshot is there");
    for id in 1..=3 {
        let status = cluster.node(id).status();
        assert!(status.log_bytes_live < 2 * status.log_bytes_max.expect("there is a limit"));
    }
}

/// Writes 12 KB in each millisecond, over a few keys, until this holds.
fn write_until(cluster: &mut Cluster, leader: u64, holds: impl Fn(&Cluster) -> bool) {
    for n in 0..1_000 {
        if holds(cluster) {
            return;
        }
        let set = |key: u64| format!("SET key{} {}", (3 * n + key) % 40, "x".repeat(4_000));
        cluster.send(leader, 1, &[&set(0), &set(1), &set(2)]);
        cluster.run_ms(1);
    }
    panic!("it never held");
}

#[test]
fn a_snapshot_is_there_long_before_the_log_has_no_more_room() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    for n in 0..80 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{n} {}", "x".repeat(4_000))), "OK");
    }
    let is_taking = |c: &Cluster| c.node(leader).status().snapshot_in_progress;
    let log_bytes = |c: &Cluster| c.node(leader).status().log_bytes_live;
    write_until(&mut cluster, leader, is_taking);
    // At the pace of the background it would take 100 ms, in which the log grows by more than its
    // limit.
    let half_way = u64::midpoint(log_bytes(&cluster), 2 << 20);
    write_until(&mut cluster, leader, |c| !is_taking(c));
    assert!(log_bytes(&cluster) < half_way, "{} of {half_way}", log_bytes(&cluster));
}

#[test]
fn a_snapshot_that_did_not_give_way_leaves_no_debt() {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    for n in 0..80 {
        assert_eq!(cluster.ask(leader, 1, &format!("SET k{n} {}", "x".repeat(4_000))), "OK");
    }
    let is_taking = |c: &Cluster| c.node(leader).status().snapshot_in_progress;
    write_until(&mut cluster, leader, is_taking);
    write_until(&mut cluster, leader, |c| !is_taking(c));
    // Half a megabyte at 4 MiB/s, beside hardly any writes.
    let begun_at = cluster.now_ms();
    cluster.input(leader, Input::TakeSnapshot);
    while cluster.now_ms() == begun_at || is_taking(&cluster) {
        cluster.send(leader, 1, &["SET k0 x"]);
        cluster.run_ms(40);
    }
    let took_ms = cluster.now_ms() - begun_at;
    assert!((80..=120).contains(&took_ms), "{took_ms} ms");
}

#[test]
fn reads_of_a_node_whose_disk_stalls_are_answered_by_the_leader() {
    // A follower takes only so much that is not on its disk.
    fn with_short_windows(id: sampan_base::NodeId) -> Options {
        let mut options = Options::new(id);
        options.raft.inflight_messages_max = 2;
        options
    }
    let (mut cluster, leader) = Cluster::with_leader(3, with_short_windows);
    let follower = cluster.follower_of(leader);
    cluster.hanging_disks = [follower].into();
    (0..10).for_each(|n| assert_eq!(cluster.ask(leader, 1, &format!("SET k {n}")), "OK"));
    assert_eq!(cluster.ask(leader, 1, "SET k v"), "OK");
    cluster.run_ms(3_000);
    assert!(cluster.node(follower).raft().applied() < cluster.node(leader).raft().applied());
    let begun_at = cluster.now_ms();
    assert_eq!(cluster.ask(follower, 2, "GET k"), "v");
    assert!(cluster.now_ms() - begun_at < 100);
}

#[test]
fn a_client_that_waits_is_in_the_foreground_though_another_one_has_given_up() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let in_foreground =
        |cluster: &Cluster| cluster.node(leader).status().background_bytes_per_second.is_some();
    cluster.hanging_disks = [1, 2, 3].into();
    let first = cluster.send(leader, 1, &["SET a 1"])[0];
    cluster.run_ms(4_000);
    let second = cluster.send(leader, 2, &["SET b 1"])[0];
    cluster.run_ms(2_000);
    assert!(cluster.answer(leader, 1, first).is_some(), "it is told that the outcome is unknown");
    assert!(in_foreground(&cluster) && cluster.answer(leader, 2, second).is_none());
    cluster.run_ms(4_000);
    assert!(!in_foreground(&cluster) && cluster.answer(leader, 2, second).is_some());
}

/// By how much the log grows from the end of the first snapshot to the beginning of the next one,
/// if it has grown by so much while that was taken.
fn growth_before_the_next_snapshot(growth_meanwhile: u64) -> u64 {
    let (mut cluster, leader) = Cluster::with_leader(3, roomy);
    let is_taking = |c: &Cluster| c.node(leader).status().snapshot_in_progress;
    let log_bytes = |c: &Cluster| c.node(leader).status().log_bytes_live;
    cluster.hanging_lanes.insert((leader, Lane::Background));
    write_until(&mut cluster, leader, is_taking);
    let begun_at = log_bytes(&cluster);
    write_until(&mut cluster, leader, |c| log_bytes(c) >= begun_at + growth_meanwhile);
    cluster.hanging_lanes.clear();
    cluster.run_ms(300);
    assert!(!is_taking(&cluster));
    let ended_at = log_bytes(&cluster);
    cluster.hanging_lanes.insert((leader, Lane::Background));
    write_until(&mut cluster, leader, is_taking);
    log_bytes(&cluster) - ended_at
}

#[test]
fn a_snapshot_that_would_have_no_room_begins_earlier() {
    // A limit of 1 MiB makes it half of that, from the end of the last snapshot.
    assert!(growth_before_the_next_snapshot(0) > 480 << 10);
    assert!(growth_before_the_next_snapshot(200 << 10) > 480 << 10);
    // What came while that was taken counts where the next one would else meet the bound.
    assert!(growth_before_the_next_snapshot(600 << 10) < 300 << 10);
}

#[test]
fn a_host_may_wait_for_the_disk_if_nobody_needs_the_node_before() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let may_wait = |cluster: &Cluster, id: u64| cluster.node(id).may_wait_for_disk();
    // Many commands of one client; then what it sends next stays under way.
    let alone = |cluster: &mut Cluster, id: u64, commands: &[&str]| {
        (0..100).for_each(|_| drop(cluster.ask(id, 1, "SET k v")));
        cluster.hanging_disks = [1, 2, 3].into();
        cluster.send(id, 1, commands);
        cluster.run_ms(1);
    };
    let recover = |cluster: &mut Cluster| {
        cluster.hanging_disks.clear();
        cluster.run_ms(50);
    };
    assert!(may_wait(&cluster, follower), "nobody of its own waits");
    assert!(!may_wait(&cluster, leader), "nothing is under way: what comes next is not known");

    alone(&mut cluster, leader, &["SET k w"]);
    assert!(may_wait(&cluster, leader) && may_wait(&cluster, follower));
    cluster.send(leader, 2, &["SET k x"]);
    assert!(!may_wait(&cluster, leader), "somebody else waits");
    recover(&mut cluster);
    cluster.hanging_disks = [1, 2, 3].into();
    cluster.send(leader, 1, &["SET k w"]);
    assert!(!may_wait(&cluster, leader), "there was somebody else just now");
    recover(&mut cluster);

    alone(&mut cluster, leader, &["SET k w", "SET k x"]);
    assert!(!may_wait(&cluster, leader), "a pipeline: more of it may come");
    recover(&mut cluster);

    alone(&mut cluster, follower, &["SET k w"]);
    assert!(!may_wait(&cluster, follower), "its client waits for what the leader says");
    assert!(may_wait(&cluster, leader), "it has that one client, too, if through another node");
}

/// The log of node 1 takes shorter entries than those of the others.
fn unequal(id: sampan_base::NodeId) -> Options {
    let mut options = wide(id);
    if id.get() == 1 {
        options.storage.entry_bytes_max = 4 << 10;
    }
    options
}

#[test]
fn an_entry_that_is_too_long_for_a_log_is_refused_and_stops_nobody() {
    let (mut cluster, leader) = Cluster::with_leader(3, unequal);
    if leader == 1 {
        cluster.input(1, Input::TransferLeadership(Some(sampan_base::NodeId::of(2))));
        cluster.run_ms(500);
    }
    let leader = cluster.wait_for_leader();
    assert_ne!(leader, 1);
    assert_eq!(cluster.ask(leader, 1, &format!("SET long {}", "x".repeat(8 << 10))), "OK");
    cluster.run_ms(100);
    let status = cluster.node(1).status();
    assert!(status.raft.dropped.of(sampan_raft::DropReason::Malformed) > 0);
    assert!(status.applied < cluster.node(leader).status().applied);
}
