//! A small `sampan-sim crashes`: nothing acknowledged is lost at any sync of a reference run.

use std::time::Duration;

use sampan_sim::crashes::{CrashSweep, crashes};

#[test]
fn a_power_loss_at_any_sync_loses_nothing_that_was_acknowledged() {
    let sweep = CrashSweep {
        from: 1,
        seeds: 3,
        safety: Duration::from_millis(500),
        exhaustive_ways: 64,
        continued: 2,
        threads: 2,
    };
    let report = crashes(sweep, |_| {});
    println!("{report}");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let total = report.total();
    assert!(total.states > 3_000 && total.torn > 0 && total.more > 300, "{total:?}");
    for what in ["a batch", "a new segment", "a snapshot", "names of the log", "the hard state"] {
        assert!(report.rows.contains_key(what), "nothing was synced of {what}");
    }
    assert_eq!(report.continued, 6);
}
