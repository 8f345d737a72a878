//! Whole runs, short ones: a few seeds end well, the same seed twice is the same run, and every
//! seed that ever found a bug is run again.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sampan_sim::faults::Fault;
use sampan_sim::run::RunReport;
use sampan_sim::runner::{ALL_STRIKE_WITHIN, Sweep, run_seed, sweep};
use sampan_sim::trace::Trace;

fn expect_well(report: &RunReport) {
    let (seed, violation) = (report.seed, &report.violation);
    assert!(violation.is_none(), "seed {seed} violates {}", violation.as_ref().unwrap());
}

#[test]
fn a_few_seeds_end_well() {
    let safety = Duration::from_secs(15);
    let summary =
        sweep(Sweep { from: 1, seeds: 12, safety, threads: 2, members: false }, 1, |_| {});
    summary.failures.iter().for_each(expect_well);
    let [ok, ..] = summary.operations;
    assert!(ok as f64 > 20.0 * summary.virtual_time.as_secs_f64(), "{summary}");
    assert!(summary.rehearsals > 50, "{summary}");
    assert!(summary.faults.of(Fault::Untaken) > 0 && summary.turns_short > 0, "{summary}");
    assert!(summary.left_unread > 0, "{summary}");
}

#[test]
fn members_that_come_and_go_leave_a_cluster_that_works() {
    let safety = Duration::from_secs(30);
    let summary = sweep(Sweep { from: 1, seeds: 8, safety, threads: 2, members: true }, 1, |_| {});
    summary.failures.iter().for_each(expect_well);
    assert!(summary.changes > 80 && summary.returns > 2, "{summary}");
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    let safety = Duration::from_secs(10);
    for seed in 100..104 {
        let first = run_seed(seed, safety, Trace::quiet());
        let second = run_seed(seed, safety, Trace::keeping(10));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert_eq!(first.operations, second.operations, "seed {seed}");
        assert_eq!(second.lines.len(), 10);
    }
}

/// The words of the golden transcripts, and how each line begins: with a node, a client, or a
/// fault.
#[test]
fn a_trace_is_one_line_an_event_in_the_grammar_of_the_transcripts() {
    let report = run_seed(3, Duration::from_secs(6), Trace::keeping(usize::MAX));
    assert!(report.lines.len() > 3_000, "{}", report.lines.len());
    let is_name = |word: &str, kind: char| {
        let number = word.strip_prefix(kind).unwrap_or_default().split('@').next();
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    for line in &report.lines {
        assert!(!line.contains('\n'), "{line}");
        let (at, what) = line.split_once(' ').unwrap();
        assert!(at.parse::<f64>().is_ok(), "{line}");
        let what = what.strip_prefix("✗ ").unwrap_or(what);
        let actor = what.split(' ').next().unwrap();
        let is_actor = is_name(actor, 'n') || is_name(actor, 'c');
        let is_driver = ["fault:", "everything", "operator"].contains(&actor);
        assert!(is_actor || is_driver, "{line}");
    }
    let words = [
        " leader",
        " follower of n",
        " → n",
        " ← n",
        " ✗ lost",
        " Append base=",
        " persist ",
        " sync #",
        " applies ",
        " no-op",
        " snapshot at ",
        "✗ n",
        "fault: ",
    ];
    for word in words {
        assert!(report.lines.iter().any(|line| line.contains(word)), "no line has{word}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let hash = |seed| run_seed(seed, Duration::from_secs(1), Trace::quiet()).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn the_corpus_ends_well() {
    let lines = include_str!("corpus/seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let seed_of = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse().ok());
        let seed_and_seconds = words.next().flatten().zip(words.next().flatten());
        seed_and_seconds.unwrap_or_else(|| panic!("want a seed, seconds and a reason: {line}"))
    };
    let corpus: Vec<(u64, u64)> = lines.map(seed_of).collect();
    assert!(corpus.len() >= 15);
    let next = AtomicUsize::new(0);
    let runs_them = || {
        while let Some((seed, seconds)) = corpus.get(next.fetch_add(1, Ordering::Relaxed)) {
            ends_well(*seed, Duration::from_secs(*seconds));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(runs_them))));
}

/// As `sampan-sim run` would judge it.
fn ends_well(seed: u64, safety: Duration) {
    let report = run_seed(seed, safety, Trace::quiet());
    expect_well(&report);
    let missed: Vec<Fault> = report.missed_faults().collect();
    let is_short = safety < ALL_STRIKE_WITHIN;
    assert!(is_short || missed.is_empty(), "seed {seed}: never struck: {missed:?}");
}
