//! Whole runs, short ones: a few seeds end well, the same seed twice is the same run, and every seed
//! that ever found a bug is run again.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sampan_sim::run::RunReport;
use sampan_sim::runner::{Sweep, run_seed, sweep};
use sampan_sim::trace::Trace;

fn expect_well(report: &RunReport) {
    let (seed, violation) = (report.seed, &report.violation);
    assert!(violation.is_none(), "seed {seed} violates {}", violation.as_ref().unwrap());
}

#[test]
fn a_few_seeds_end_well() {
    let safety = Duration::from_secs(15);
    let summary = sweep(Sweep { from: 1, seeds: 12, safety, threads: 2 }, 1, |_| {});
    summary.failures.iter().for_each(expect_well);
    let [ok, ..] = summary.operations;
    assert!(ok as f64 > 20.0 * summary.virtual_time.as_secs_f64(), "{summary}");
    assert!(summary.rehearsals > 50, "{summary}");
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

#[test]
fn different_seeds_are_different_runs() {
    let hash = |seed| run_seed(seed, Duration::from_secs(1), Trace::quiet()).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn the_corpus_ends_well() {
    let seeds = include_str!("corpus/seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in seeds {
        let mut words = line.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(seed), Some(seconds)) = (number(), number()) else {
            panic!("want a seed, seconds and a reason: {line}");
        };
        expect_well(&run_seed(seed, Duration::from_secs(seconds), Trace::quiet()));
        count += 1;
    }
    assert!(count >= 9);
}
