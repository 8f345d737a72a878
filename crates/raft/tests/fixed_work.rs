//! Allocations of the algorithm alone for one committed entry, three nodes together: the same
//! number on every machine, where commits per second are not. The load is that of `cargo bench`.

#[allow(dead_code)]
#[path = "../benches/core.rs"]
mod core;

use allocation_counter::measure;

/// One committed entry takes at most `count_max` allocations of `bytes_max` bytes, and not much
/// less.
#[track_caller]
fn assert_work(in_flight: u64, count_max: f64, bytes_max: f64) {
    const COMMITS: u64 = 20_000;
    // What happens once (the election, the first growth of everything) is in both.
    let once = measure(|| _ = core::run(in_flight, COMMITS));
    let twice = measure(|| _ = core::run(in_flight, 2 * COMMITS));
    let count = (twice.count_total - once.count_total) as f64 / COMMITS as f64;
    let bytes = (twice.bytes_total - once.bytes_total) as f64 / COMMITS as f64;
    println!("{in_flight} in flight: {count:.3} allocations of {bytes:.0} bytes for one commit");
    assert!(count <= count_max, "{count:.3} allocations for one commit, at most {count_max}");
    assert!(bytes <= bytes_max, "{bytes:.0} bytes for one commit, at most {bytes_max}");
    assert!(count >= count_max / 2.0, "{count:.3} allocations: lower the bound of {count_max}");
}

#[test]
fn one_proposal_at_a_time() {
    assert_work(1, 9.5, 1_900.0);
}

#[test]
fn many_proposals_in_flight() {
    assert_work(64, 0.155, 1_110.0);
}
