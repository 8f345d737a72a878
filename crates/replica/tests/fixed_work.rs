//! Allocations of a whole command through three nodes, propose to reply: a number that is the same
//! on every machine and every day, where seconds are not. A bound here is what the code takes, and
//! a little; who raises one says why, and who has made something cheaper lowers it.
//!
//! Counted is what `Replica::step` and `Replica::flush` allocate on all nodes. Not counted are this
//! harness, disks, sockets, and what `crates/server/tests/fixed_work.rs` holds.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "it/harness.rs"]
mod harness;

use std::cell::Cell;

use allocation_counter::measure;
use harness::Cluster;
use sampan_replica::Options;

thread_local! {
    static COUNTED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Allocations, and their bytes, for each of `rounds` pipelines of the same commands.
fn work(rounds: u64, through_leader: bool, commands: &[&str]) -> (f64, f64) {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let node = if through_leader { leader } else { cluster.follower_of(leader) };
    cluster.call(leader, 1, &["SET k v0", "SET n 0"]);
    // What grows once (queues, tables) has grown afterwards.
    for _ in 0..rounds {
        cluster.call(node, 2, commands);
    }
    cluster.around_step = |step| {
        let of_step = measure(step);
        let (count, bytes) = COUNTED.get();
        COUNTED.set((count + of_step.count_total, bytes + of_step.bytes_total));
    };
    COUNTED.set((0, 0));
    for _ in 0..rounds {
        cluster.call(node, 2, commands);
    }
    let (count, bytes) = COUNTED.get();
    let commands = (rounds * commands.len() as u64) as f64;
    (count as f64 / commands, bytes as f64 / commands)
}

/// The work of one command, on all nodes together, must be at most this.
#[track_caller]
fn assert_work((count, bytes): (f64, f64), count_max: f64, bytes_max: f64) {
    println!("{count:.2} allocations of {bytes:.0} bytes for one command");
    assert!(count <= count_max, "{count:.2} allocations for one command, at most {count_max}");
    assert!(bytes <= bytes_max, "{bytes:.0} bytes for one command, at most {bytes_max}");
    assert!(count >= count_max / 2.0, "{count:.2} allocations: lower the bound of {count_max}");
}

#[test]
fn one_write_alone() {
    assert_work(work(100, true, &["SET k v1"]), 30.0, 19_000.0);
}

#[test]
fn a_pipeline_of_writes() {
    assert_work(work(100, true, &["SET k v1"; 64]), 0.48, 620.0);
}

#[test]
fn a_pipeline_of_writes_through_a_follower() {
    assert_work(work(100, false, &["SET k v1"; 64]), 0.88, 1_080.0);
}

#[test]
fn a_pipeline_of_reads() {
    assert_work(work(100, true, &["GET k"; 64]), 1.3, 460.0);
}

#[test]
fn a_pipeline_of_reads_through_a_follower() {
    assert_work(work(100, false, &["GET k"; 64]), 1.35, 500.0);
}

#[test]
fn a_pipeline_of_increments() {
    assert_work(work(100, true, &["INCR n"; 64]), 0.48, 620.0);
}

/// How often a value is copied shows in bytes: once into its entry, and once into the pages of each
/// node's log. Its place in the state is there already.
#[test]
fn a_pipeline_of_writes_of_long_values() {
    let set = format!("SET k {}", "v".repeat(16 << 10));
    let (count, bytes) = work(50, true, &[&*set; 8]);
    let copies = bytes / f64::from(16 << 10);
    println!("{count:.2} allocations, {copies:.2} times the value for one command");
    assert!((4.0..4.5).contains(&copies), "{copies:.2} copies of a value");
}
