//! Processes that are killed, stopped and asked to leave, under clients whose history is checked:
//! every acknowledged write found, every token exactly once and in order, no stale read.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, Connection, Load, LoadOptions, Options, within};

/// The last write of the load must be this young at the end of a fault: the cluster went on.
fn assert_goes_on(load: &Load) {
    let before = load.writes();
    within(Duration::from_secs(10), "writes go on", || {
        (load.writes() > before + 100).then_some(())
    });
}

#[test]
fn the_leader_is_killed_every_second_under_sixteen_writers() {
    let mut cluster = Cluster::start("kill-leader");
    let load = Load::start(&cluster, LoadOptions { readers: 2, ..LoadOptions::default() });
    let begun = Instant::now();
    let mut kills = 0;
    while begun.elapsed() < Duration::from_secs(20) {
        let leader = cluster.leader();
        cluster.kill(leader);
        kills += 1;
        // It is back before the next one goes: two of three always run.
        std::thread::sleep(Duration::from_millis(300));
        cluster.restart(leader);
        cluster.wait_for(leader);
        let next = Duration::from_secs(kills);
        std::thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    assert_goes_on(&load);
    let (writes, reads) = (load.writes(), load.reads());
    let errors = load.stop_and_check(&cluster);
    println!(
        "{kills} kills of the leader, {writes} writes, {reads} reads, {} errors",
        errors.len()
    );
    assert!(kills >= 15, "only {kills} kills in 20 s");
    assert!(errors.is_empty(), "a Clerk has time enough for each write: {errors:?}");
}

#[test]
fn all_three_are_killed_at_once_in_mid_write() {
    let mut cluster = Cluster::start("kill-all");
    let load = Load::start(&cluster, LoadOptions::default());
    for round in 1..=3 {
        within(Duration::from_secs(20), "writes", || (load.writes() > round * 300).then_some(()));
        cluster.kill_all();
        cluster.ids().for_each(|id| cluster.restart(id));
        assert_goes_on(&load);
    }
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "a Clerk has time enough for each write: {errors:?}");
}

#[test]
fn a_node_whose_disk_was_emptied_is_filled_again_by_the_others() {
    let mut cluster = Cluster::start("empty-disk");
    let load = Load::start(&cluster, LoadOptions::default());
    assert_goes_on(&load);
    let leader = cluster.leader();
    cluster.kill(leader);
    std::fs::remove_dir_all(cluster.data_dir(leader)).unwrap();
    cluster.restart(leader);
    assert_goes_on(&load);
    within(Duration::from_secs(20), "it votes again", || {
        (cluster.try_info(leader, "raft")?["voting"] == "1").then_some(())
    });
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "a Clerk has time enough for each write: {errors:?}");
    let log = cluster.log(leader);
    assert!(log.contains("takes no part before it has heard from"), "{log}");
}

#[test]
fn a_paused_leader_that_wakes_up_answers_no_stale_read() {
    let mut cluster = Cluster::start("pause-leader");
    let load =
        Load::start(&cluster, LoadOptions { writers: 4, readers: 4, ..LoadOptions::default() });
    let writes = || load.writes() > 200;
    within(Duration::from_secs(20), "writes", || writes().then_some(()));
    let leader = cluster.leader();
    cluster.pause(leader);
    // The kernel takes these reads; the node, which still thinks that it leads, reads them when it
    // wakes up, after five seconds of other nodes' writes.
    let until = Instant::now() + Duration::from_secs(5);
    let mut waiting: Vec<(Connection, u64)> = Vec::new();
    while Instant::now() < until {
        let mut connection = cluster.connection(leader);
        let floor = load.register(0).floor();
        connection.send(&["GET", &Load::register_key(0)]).unwrap();
        connection.send(&["INCR", "by-stock-clients"]).unwrap();
        waiting.push((connection, floor));
        std::thread::sleep(Duration::from_millis(100));
    }
    let moved_on =
        waiting.last().map(|(_, floor)| *floor) > waiting.first().map(|(_, floor)| *floor);
    assert!(moved_on, "the others elected a leader and wrote on");
    cluster.resume(leader);
    let mut answered = 0;
    for (mut connection, floor) in waiting {
        let value = connection.reply().expect("an answer to a read");
        if let Some(text) = value.as_bytes() {
            let value = std::str::from_utf8(text).unwrap().parse().unwrap();
            load.register(0).check_read(floor, value).unwrap();
            answered += 1;
        }
        connection.reply().expect("an answer to a write");
    }
    println!("{answered} reads answered after the pause");
    assert!(answered > 0, "the old leader answers by asking the new one");
    assert_goes_on(&load);
    assert!(load.reads() > 0);
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_leader_that_is_cut_off_from_its_peers_answers_no_stale_read() {
    let options = Options { proxies: true, ..Options::default() };
    let cluster = Cluster::start_with("cut-off", options);
    let load =
        Load::start(&cluster, LoadOptions { writers: 8, readers: 2, ..LoadOptions::default() });
    for _ in 0..3 {
        let leader = cluster.leader();
        let mut connection = cluster.connection(leader);
        cluster.cut_off(leader);
        let cut = Instant::now();
        let mut refused = 0;
        while cut.elapsed() < Duration::from_millis(2_500) {
            let floor = load.register(0).floor();
            match connection.call(&["GET", &Load::register_key(0)]).as_bytes() {
                Some(text) => {
                    let value = std::str::from_utf8(text).unwrap().parse().unwrap();
                    load.register(0).check_read(floor, value).unwrap();
                }
                None => refused += 1,
            }
        }
        assert!(refused > 0, "a node that cannot know the latest value says so");
        assert_ne!(cluster.leader(), leader, "the others elected a leader");
        assert_goes_on(&load);
        cluster.heal(leader);
        assert_goes_on(&load);
    }
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_follower_that_missed_the_compacted_log_catches_up_by_snapshot() {
    const WRITES: u64 = 100_000;
    const BATCH: u64 = 1_000;
    let flags = "--raft-state-max-bytes 1000000 --segment-bytes 1048576 --entry-bytes-max 524288 \
                 --command-bytes-max 65536 --value-bytes-max 65536 --batch-bytes-max 65536";
    let mut cluster = Cluster::start_with("compacted", Options::default().flags(flags));
    let load = Load::start(&cluster, LoadOptions { writers: 2, ..LoadOptions::default() });
    let behind = cluster.follower();
    let missing_from = cluster.number(behind, "raft", "last_index");
    cluster.kill(behind);
    let mut connection = cluster.connection(cluster.leader());
    let key = |number: u64| format!("key:{:05}", number % 20_000);
    for first in (0..WRITES).step_by(BATCH as usize) {
        for number in first..first + BATCH {
            connection.send(&["SET", &key(number), &format!("value {number:0>40}")]).unwrap();
        }
        for _ in 0..BATCH {
            assert_eq!(connection.reply().unwrap(), sampan_resp::Value::OK);
        }
    }
    let leader = cluster.leader();
    let first_index = cluster.number(leader, "raft", "first_index");
    assert!(first_index > missing_from + 100, "the log still starts at {first_index}");
    cluster.restart(behind);
    cluster.wait_for(behind);
    let commit = cluster.number(cluster.leader(), "raft", "commit_index");
    within(Duration::from_secs(30), "the follower catches up", || {
        (cluster.number(behind, "raft", "applied_index") >= commit).then_some(())
    });
    assert!(cluster.log(behind).contains(" installed, "), "it caught up by a snapshot");
    // What it holds itself, without asking anybody.
    let mut local = cluster.connection(behind);
    local.call(&["READONLY"]);
    for number in WRITES - 20_000..WRITES {
        local.send(&["GET", &key(number)]).unwrap();
    }
    for number in WRITES - 20_000..WRITES {
        let value = local.reply().unwrap();
        assert_eq!(value.as_bytes(), Some(format!("value {number:0>40}").as_bytes()));
    }
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_leader_that_is_asked_to_stop_costs_no_client_an_error() {
    let mut cluster = Cluster::start("hand-over");
    let load = Load::start(&cluster, LoadOptions { readers: 4, ..LoadOptions::default() });
    for round in 1..=4 {
        within(Duration::from_secs(20), "writes", || (load.writes() > round * 200).then_some(()));
        let leader = cluster.leader();
        let stock =
            cluster.ids().filter(|&id| id != leader).map(|id| StockClient::start(&cluster, id));
        let stock: Vec<_> = stock.collect();
        std::thread::sleep(Duration::from_millis(200));
        let status = cluster.stop(leader);
        assert_eq!(status.code(), Some(0), "a node that was asked to stop");
        std::thread::sleep(Duration::from_millis(200));
        for client in stock {
            client.stop();
        }
        cluster.restart(leader);
        cluster.wait_for(leader);
    }
    let errors = load.stop_and_check(&cluster);
    assert!(errors.is_empty(), "{errors:?}");
}

/// A client without sessions and retries at one node: whatever reply is an error, it would show it
/// to its user.
struct StockClient {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl StockClient {
    fn start(cluster: &Cluster, id: u64) -> Self {
        let mut connection = cluster.connection(id);
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let key = format!("stock:{id}");
            let mut expected = None;
            let mut calls = 0;
            while stopped.try_recv().is_err() {
                let reply = connection.call(&["INCR", &key]);
                let sampan_resp::Value::Integer(sum) = reply else { panic!("n{id}: {reply:?}") };
                assert_eq!(sum, expected.unwrap_or(sum), "n{id}: each INCR counts once");
                expected = Some(sum + 1);
                let read = connection.call(&["GET", &key]);
                assert_eq!(read.as_bytes(), Some(sum.to_string().as_bytes()), "n{id}");
                calls += 1;
            }
            calls
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        assert!(self.thread.join().expect("a client without errors") > 0);
    }
}
