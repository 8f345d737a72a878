//! Logs that are damaged while their nodes are down: real files, real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sampan_resp::Value;

use crate::harness::{Cluster, Options, within};

fn value(number: u64) -> String {
    format!("a value to be found in the file, number {number:04}.")
}

/// Flips a bit in the log of a node that is down, where it holds this.
fn flip_in_log(cluster: &Cluster, id: u64, needle: &str) -> PathBuf {
    for file in fs::read_dir(cluster.data_dir(id).join("wal")).unwrap() {
        let file = file.unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = found {
            bytes[at + 5] ^= 0x10;
            fs::write(&file, bytes).unwrap();
            return file;
        }
    }
    panic!("the log of n{id} holds what was sent");
}

#[test]
fn logs_that_are_damaged_on_all_nodes_at_different_entries_repair_one_another() {
    let mut cluster = Cluster::start("repaired-in-place");
    let leader = cluster.leader();
    let mut c = cluster.connection(leader);
    for number in 0..60 {
        assert_eq!(c.call(&["SET", &format!("key{number}"), &value(number)]), Value::OK);
        if number % 5 == 4 {
            // A follower may write what it got meanwhile as one batch: those that are hurt are two.
            within(Duration::from_secs(10), "all logs", || {
                let last = |id| cluster.number(id, "raft", "durable_index");
                cluster.ids().all(|id| last(id) == last(leader)).then_some(())
            });
        }
    }
    cluster.kill_all();
    let hurt: Vec<PathBuf> = cluster
        .ids()
        .map(|id| {
            flip_in_log(&cluster, id, &value(15 * id));
            flip_in_log(&cluster, id, &value(15 * id + 7))
        })
        .collect();
    cluster.ids().for_each(|id| cluster.restart(id));
    cluster.leader();
    for id in cluster.ids() {
        cluster.wait_for(id);
        assert_eq!(cluster.number(id, "persistence", "log_batches_repaired"), 2, "n{id}");
        assert_eq!(cluster.number(id, "raft", "voting"), 1, "n{id}");
        let log = cluster.log(id);
        assert!(log.contains("the log is damaged") && log.contains("REPAIRED"), "{log}");
        let mut c = cluster.connection(id);
        for number in 0..60 {
            let found = c.call(&["GET", &format!("key{number}")]);
            assert_eq!(found.as_bytes(), Some(value(number).as_bytes()), "n{id}");
        }
    }
    cluster.assert_works();
    for file in hurt {
        let copy = format!("{}.damaged", file.display());
        assert!(!fs::exists(copy).unwrap(), "nothing was given up");
    }
}

#[test]
fn a_node_that_asks_in_vain_turns_clients_away_and_can_be_stopped() {
    let mut cluster = Cluster::start("repair-in-vain");
    let leader = cluster.leader();
    let mut c = cluster.connection(leader);
    for number in 0..20 {
        assert_eq!(c.call(&["SET", &format!("key{number}"), &value(number)]), Value::OK);
    }
    cluster.kill_all();
    flip_in_log(&cluster, leader, &value(7));
    cluster.restart(leader);
    within(Duration::from_secs(10), "the line", || {
        cluster.log(leader).contains("are asked of").then_some(())
    });
    let said = cluster.connection(leader).call(&["PING"]);
    let Value::Error(text) = said else { panic!("no error: {said:?}") };
    assert_eq!(text, "LOADING this node repairs its log, ask another one or try again");
    assert!(cluster.stop(leader).success());
}

#[test]
fn damage_that_a_start_gets_over_is_a_warning_all_the_same() {
    let mut cluster = Cluster::start_with("got-over", Options { nodes: 1, ..Options::default() });
    let mut c = cluster.connection(1);
    for number in 0..20 {
        assert_eq!(c.call(&["SET", &format!("key{number}"), &value(number)]), Value::OK);
    }
    assert_eq!(c.call(&["SNAPSHOT", "NOW"]), Value::OK);
    within(Duration::from_secs(10), "a snapshot", || {
        (cluster.number(1, "raft", "snapshot_index") > 0).then_some(())
    });
    assert!(!cluster.log(1).contains("warning: "), "{}", cluster.log(1));
    let warns = |cluster: &Cluster, what: &str| {
        within(Duration::from_secs(10), what, || {
            let log = cluster.log(1);
            let mut lines = log.lines().filter(|line| line.contains("warning: loaded"));
            lines.any(|line| line.contains(what)).then_some(())
        });
    };
    cluster.kill(1);
    flip(&cluster.data_dir(1).join("hard_state.b"), 50);
    cluster.restart(1);
    warns(&cluster, "hard_state.b was damaged, and is written again");
    cluster.kill(1);
    for file in fs::read_dir(cluster.data_dir(1).join("snapshots")).unwrap() {
        flip(&file.unwrap().path(), 4200);
    }
    cluster.restart(1);
    warns(&cluster, ".snap is damaged and set aside");
    cluster.wait_for(1);
    assert_eq!(cluster.get("key7"), value(7), "the log alone has it");
}

/// Flips a bit of a file.
fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}
