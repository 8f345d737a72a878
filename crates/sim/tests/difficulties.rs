//! The ten difficulties, one row each, by name.

use sampan_sim::labs::{RowReport, Selection, run};

/// Runs the row whose name begins with this number.
fn row(number: u32) {
    let selection = Selection {
        suites: vec!["difficulties".into()],
        test: Some(format!("{number} ")),
        from: 1,
        seeds: 1,
        threads: 1,
        tiny_chunks: false,
        trace: false,
    };
    let mut reports: Vec<RowReport> = run(&selection, |_| {});
    reports.retain(|report| report.test.starts_with(&format!("{number} ")));
    assert_eq!(reports.len(), 1, "there is one row of that number");
    for RowReport { test, seed, failure, .. } in reports {
        assert_eq!(failure, None, "{test}, seed {seed}");
    }
}

macro_rules! rows {
    ($($name:ident = $number:literal)*) => {
        $(#[test] fn $name() { row($number); })*
    };
}

rows! {
    a_failed_call_is_tried_again = 1
    a_retried_command_is_applied_once = 2
    a_restored_state_is_the_state_it_was = 3
    receiving_a_snapshot_blocks_nothing = 4
    a_log_is_trimmed_to_its_snapshot = 5
    applied_and_commit_go_to_the_snapshot = 6
    a_restart_begins_at_the_snapshot = 7
    a_snapshot_is_taken_at_its_size = 8
    a_failed_snapshot_loses_nothing = 9
    log_snapshot_and_state_agree = 10
}
