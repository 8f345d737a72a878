//! A small `sampan-sim crashes`: nothing acknowledged is lost at any sync of a reference run, nor
//! at any step of a snapshot's way.

use std::time::Duration;

use sampan_sim::crashes::{CrashCounts, CrashSweep, crashes};

const SYNCED: [&str; 10] = [
    "a batch",
    "a new segment",
    "names of the log",
    "the hard state",
    "taking: an old file is used",
    "taking: the file is synced",
    "taking: its name",
    "receiving: its name",
    "receiving: parts are synced",
    "installing: its name",
];

/// Of a snapshot, without a sync.
const STEPS: [&str; 6] = [
    "taking: a chunk",
    "taking: it is verified",
    "sending: a part is read",
    "receiving: a part",
    "receiving: it is opened",
    "installed: a chunk is read back",
];

#[test]
fn a_power_loss_at_any_sync_or_step_of_a_snapshot_loses_nothing_that_was_acknowledged() {
    let sweep = CrashSweep {
        from: 1,
        seeds: 5,
        safety: Duration::from_secs(3),
        exhaustive_ways: 64,
        continued: 34,
        threads: 2,
    };
    let report = crashes(sweep, |_| {});
    println!("{report}");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let total = report.total();
    assert!(total.states > 30_000 && total.torn > 0 && total.more > 3_000, "{total:?}");
    assert_eq!(total.continued, 5 * 34);
    let row = |what: &str| report.rows.get(what).copied().unwrap_or_default();
    for what in SYNCED {
        let CrashCounts { states, continued, .. } = row(what);
        assert!(states > 0 && continued > 0, "{what}: {:?}", row(what));
    }
    for what in STEPS {
        assert!(row(what).continued > 0, "{what}: {:?}", row(what));
    }
    // In parts of 16 bytes a short state has so many points, and a sync so few disks that it may
    // leave.
    let (parts, synced) = (row("receiving: a part"), row("receiving: parts are synced"));
    assert!(parts.points + synced.points > 500, "{parts:?} {synced:?}");
    assert!(synced.exhausted > synced.points / 5 * 4, "{synced:?}");
}
