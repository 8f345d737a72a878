//! Rows times seeds on several threads, and what came of them. Looks at a clock, to say how long it
//! took.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::trace::Trace;

use super::lab::{Costs, Failure, Lab, RunResult, Setup};
use super::rows::{Row, all};

/// Which rows to run, and how.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The suites; all if empty.
    pub suites: Vec<String>,
    /// Only rows whose name holds this.
    pub test: Option<String>,
    /// The first seed.
    pub from: u64,
    /// How many seeds.
    pub seeds: u64,
    /// On how many threads.
    pub threads: usize,
    /// Write and send snapshots 16 bytes at a time, not as shipped.
    pub tiny_chunks: bool,
    /// Print a line for each event. Meant for one row and one seed.
    pub trace: bool,
}

impl Selection {
    fn picks(&self, row: &Row) -> bool {
        let in_suite =
            self.suites.is_empty() || self.suites.iter().any(|s| s.eq_ignore_ascii_case(row.suite));
        in_suite && self.test.as_ref().is_none_or(|part| row.test.contains(part.as_str()))
    }
}

/// How one row went with one seed.
#[derive(Clone, Debug)]
pub struct RowReport {
    /// The suite.
    pub suite: &'static str,
    /// The row.
    pub test: &'static str,
    /// The seed.
    pub seed: u64,
    /// Were snapshots written and sent 16 bytes at a time?
    pub tiny_chunks: bool,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// How many servers.
    pub servers: usize,
    /// What it cost.
    pub costs: Costs,
    /// The hash of its trace.
    pub hash: u64,
    /// Real time.
    pub wall: Duration,
}

thread_local! {
    /// What this thread runs, for the panic hook.
    static RUNNING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes a failed assertion of a server say in which row and with which seed it was.
pub fn name_rows_of_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let running = RUNNING.with_borrow(Clone::clone);
        if let Some(running) = running {
            eprintln!("{running}: assertion: {info}");
        } else {
            before(info);
        }
    }));
}

/// Runs rows; `each` sees every report as it comes, in no order. Gives all in the order of rows,
/// then seeds.
pub fn run(selection: &Selection, mut each: impl FnMut(&RowReport)) -> Vec<RowReport> {
    let rows: Vec<Row> = all().into_iter().filter(|row| selection.picks(row)).collect();
    let mut jobs: Vec<(usize, u64)> = (selection.from..selection.from + selection.seeds)
        .flat_map(|seed| (0..rows.len()).map(move |row| (row, seed)))
        .collect();
    // The last rows take longest: begun first, they leave no thread alone at the end.
    jobs.reverse();
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut reports = Vec::with_capacity(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..selection.threads.max(1) {
            let (sender, next, jobs, rows) = (sender.clone(), &next, &jobs, &rows);
            scope.spawn(move || {
                while let Some(&(row, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run_row(&rows[row], seed, selection);
                    if sender.send((row, report)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (row, report) in receiver {
            each(&report);
            reports.push((row, report));
        }
    });
    reports.sort_by_key(|(row, report)| (*row, report.seed));
    reports.into_iter().map(|(_, report)| report).collect()
}

/// Runs one row with one seed; a panic is a failure like any other.
fn run_row(row: &Row, seed: u64, selection: &Selection) -> RowReport {
    let began = Instant::now();
    let &Selection { trace, tiny_chunks, .. } = selection;
    let setup = Setup { tiny_chunks, ..row.setup };
    RUNNING.set(Some(format!("{} {}, seed {seed}", row.suite, row.test)));
    let trace = if trace { Trace::printing() } else { Trace::quiet() };
    let run = || Lab::run(seed, setup, trace, |lab| (row.script)(lab, setup));
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let failure = Failure(format!("assertion: {}", text.unwrap_or_default()));
        RunResult { outcome: Err(failure), costs: Costs::default(), hash: 0 }
    });
    RUNNING.set(None);
    RowReport {
        suite: row.suite,
        test: row.test,
        seed,
        tiny_chunks,
        failure: result.outcome.err().map(|failure| failure.0),
        servers: row.setup.servers,
        costs: result.costs,
        hash: result.hash,
        wall: began.elapsed(),
    }
}
