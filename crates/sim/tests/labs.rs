//! The course's suites: every row passes, cheap rows with several seeds, and a seed decides a run.

#![allow(clippy::unwrap_used)]

use sampan_sim::labs::{RowReport, Selection, run};

fn selection(suites: &[&str], test: Option<&str>, seeds: u64) -> Selection {
    let (suites, test) =
        (suites.iter().map(ToString::to_string).collect(), test.map(str::to_owned));
    Selection { suites, test, from: 1, seeds, threads: 2, tiny_chunks: false, trace: false }
}

/// The same, but for snapshots that are written and sent 16 bytes at a time.
fn in_tiny_chunks(selection: Selection) -> Selection {
    Selection { tiny_chunks: true, ..selection }
}

/// Runs rows and fails with all that failed.
fn expect_all_pass(selection: &Selection, rows: usize) -> Vec<RowReport> {
    let reports = run(selection, |_| {});
    let failed: Vec<String> = reports
        .iter()
        .filter_map(|report| {
            let failure = report.failure.as_ref()?;
            Some(format!("{} {}, seed {}: {failure}", report.suite, report.test, report.seed))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(reports.len(), rows * selection.seeds as usize);
    reports
}

#[test]
fn the_rows_of_raft_pass() {
    expect_all_pass(&selection(&["2A", "2B", "2C", "2D"], None, 3), 24);
}

#[test]
fn the_rows_of_the_service_on_an_unreliable_network_pass() {
    expect_all_pass(&selection(&["3A", "3B"], Some("unreliable"), 1), 9);
}

/// Without waits for the network clerks do a hundred times as much: here one row of each kind.
#[test]
fn the_rows_of_the_service_on_a_reliable_network_pass() {
    for test in ["fast enough", "snapshot size", "InstallSnapshot", "progress", "heal"] {
        run(&selection(&["3A", "3B"], Some(test), 2), |report| {
            assert_eq!(report.failure, None, "{} {}", report.suite, report.test);
        });
    }
    expect_all_pass(&selection(&["3A"], Some("partitions, one client"), 1), 1);
}

#[test]
fn the_rows_with_snapshots_pass_in_tiny_chunks() {
    expect_all_pass(&in_tiny_chunks(selection(&["2D"], None, 3)), 5);
    expect_all_pass(&in_tiny_chunks(selection(&["3B"], Some("unreliable"), 1)), 4);
    for test in ["fast enough", "snapshot size", "InstallSnapshot"] {
        expect_all_pass(&in_tiny_chunks(selection(&["3B"], Some(test), 2)), 1);
    }
}

/// A snapshot file has more than a page, and a message of it 16 bytes.
#[test]
fn a_snapshot_in_tiny_chunks_is_hundreds_of_messages() {
    const PARTS_MIN: u64 = 4_096 / 16;
    for (suite, test) in [("2D", "unreliable+crash"), ("3B", "InstallSnapshot")] {
        let shipped = selection(&[suite], Some(test), 1);
        let rpcs = |selection| -> u64 {
            expect_all_pass(selection, 1).iter().map(|report| report.costs.traffic.rpcs).sum()
        };
        let (whole, parts) = (rpcs(&shipped), rpcs(&in_tiny_chunks(shipped.clone())));
        assert!(
            parts >= whole + PARTS_MIN,
            "{suite} {test}: {parts} RPCs, and {whole} of whole files"
        );
    }
}

#[test]
fn a_seed_decides_a_run() {
    let once = || -> Vec<(&str, u64, u64)> {
        let reports = run(&selection(&["2C"], Some("unreliable"), 2), |_| {});
        reports.iter().map(|report| (report.test, report.seed, report.hash)).collect()
    };
    let first = once();
    assert_eq!(first, once());
    assert_ne!(first[0].2, first[1].2, "seeds differ");
}
