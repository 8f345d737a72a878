//! Many seeds on several threads, and the summary of them. The one place that looks at a clock, to
//! say how fast it was.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::checkers::Violation;
use crate::faults::{Fault, FaultCounts};
use crate::run::{RunReport, run_watched};
use crate::swarm::Plan;
use crate::sync_points::SyncWatch;
use crate::trace::Trace;

/// A run of this length or more has time to bring about every kind of fault that its seed enables,
/// and fails if it does not (`insistence.rs`). In shorter ones silent kinds are only counted.
pub const ALL_STRIKE_WITHIN: Duration = Duration::from_secs(120);

/// Which seeds to run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How long faults strike in each, in virtual time.
    pub safety: Duration,
    /// On how many threads.
    pub threads: usize,
    /// Members change all the time.
    pub members: bool,
}

/// What a seed decides in advance, for a run of one kind or the other.
pub fn plan_of(seed: u64, safety: Duration, members: bool) -> Plan {
    if members { Plan::of_members(seed, safety) } else { Plan::of_seed(seed, safety) }
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs that ended.
    pub runs: u64,
    /// Wall time.
    pub wall: Duration,
    /// Virtual time of all runs together.
    pub virtual_time: Duration,
    /// The longest that a cluster took to be well after everything was healed.
    pub recovery_max: Duration,
    /// Trace events.
    pub events: u64,
    /// Operations that ended: ok, failed, unknown.
    pub operations: [u64; 3],
    /// Log entries committed.
    pub entries: u64,
    /// Starts after which a power loss was rehearsed.
    pub rehearsals: u64,
    /// Damaged logs that were repaired by peers.
    pub repairs: u64,
    /// Damaged batches of logs that were repaired in their place.
    pub batches_repaired: u64,
    /// How often a node left what it was asked unread, because it had enough under way.
    pub left_unread: u64,
    /// Turns whose share of replies did not suffice for all reads.
    pub turns_short: u64,
    /// Changes of members that were made.
    pub changes: u64,
    /// Machines that left, and became members again.
    pub returns: u64,
    /// How often each kind of fault struck.
    pub faults: FaultCounts,
    /// In how many runs each kind could have struck.
    pub enabled: FaultCounts,
    /// In how many of those it never did.
    pub silent: FaultCounts,
    /// The fewest operations a virtual second in any run, and its seed.
    pub slowest: Option<(f64, u64)>,
    /// The hashes of all traces, folded in the order of seeds.
    pub hash: u64,
    /// The runs that failed, in the order of seeds.
    pub failures: Vec<RunReport>,
    /// Runs that missed kinds ([`RunReport::missed_faults`]), with those kinds, in the order of
    /// seeds.
    pub silent_runs: Vec<(u64, Vec<Fault>)>,
}

thread_local! {
    /// The seed that this thread runs, for the panic hook.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes a failed assertion of a replica say which seed it was. In a build that aborts on panic
/// this is all there is; in others the run ends as a violation.
pub fn name_seeds_of_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(seed) = SEED.get() {
            eprintln!("seed {seed}: assertion: {info}\n  sampan-sim replay {seed}");
        } else {
            before(info);
        }
    }));
}

/// Runs one seed; a panic is a violation like any other.
pub fn run_seed(seed: u64, safety: Duration, trace: Trace) -> RunReport {
    run_plan(Plan::of_seed(seed, safety), trace, None)
}

/// Runs one plan, under a watch if there is one; a panic is a violation like any other.
pub fn run_plan(plan: Plan, trace: Trace, watch: Option<Box<dyn SyncWatch>>) -> RunReport {
    let (seed, enabled) = (plan.seed, plan.faults);
    SEED.set(Some(seed));
    let result = catch_unwind(AssertUnwindSafe(|| run_watched(plan, trace, watch)));
    SEED.set(None);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        RunReport {
            seed,
            violation: Some(Violation::new("assertion", text.unwrap_or_default())),
            hash: 0,
            events: 0,
            virtual_time: Duration::ZERO,
            recovery_time: Duration::ZERO,
            operations: [0; 3],
            entries: 0,
            faults: FaultCounts::default(),
            enabled,
            rehearsals: 0,
            repairs: 0,
            batches_repaired: 0,
            refusals: 0,
            left_unread: 0,
            turns_short: 0,
            changes: 0,
            returns: 0,
            had_their_turn: crate::faults::FaultSet::default(),
            lines: Vec::new(),
            record: None,
        }
    })
}

/// Runs all seeds; `each` sees every report as it comes, in no order. Stops early once
/// `failures_max` runs have failed.
pub fn sweep(sweep: Sweep, failures_max: usize, mut each: impl FnMut(&RunReport)) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(sweep.from);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let mut reports: Vec<RunReport> = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..sweep.threads.max(1) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= sweep.from + sweep.seeds {
                        break;
                    }
                    let plan = plan_of(seed, sweep.safety, sweep.members);
                    if sender.send(run_plan(plan, Trace::quiet(), None)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut failures = 0;
        for report in receiver {
            each(&report);
            failures += usize::from(report.violation.is_some());
            if failures >= failures_max {
                stop.store(true, Ordering::Relaxed);
            }
            reports.push(report);
        }
    });
    reports.sort_unstable_by_key(|report| report.seed);
    summarize(reports, started.elapsed())
}

fn summarize(reports: Vec<RunReport>, wall: Duration) -> Summary {
    let mut summary = Summary { wall, ..Summary::default() };
    for report in reports {
        summary.runs += 1;
        summary.virtual_time += report.virtual_time;
        summary.recovery_max = summary.recovery_max.max(report.recovery_time);
        summary.events += report.events;
        summary.entries += report.entries;
        summary.rehearsals += report.rehearsals;
        summary.repairs += report.repairs;
        summary.batches_repaired += report.batches_repaired;
        summary.left_unread += report.left_unread;
        summary.turns_short += report.turns_short;
        summary.changes += report.changes;
        summary.returns += report.returns;
        for (sum, count) in summary.operations.iter_mut().zip(report.operations) {
            *sum += count;
        }
        summary.faults.merge(&report.faults);
        for fault in report.enabled.iter() {
            summary.enabled.add(fault, 1);
        }
        report.silent_faults().for_each(|fault| summary.silent.add(fault, 1));
        let missed: Vec<Fault> = report.missed_faults().collect();
        if !missed.is_empty() {
            summary.silent_runs.push((report.seed, missed));
        }
        let pace = (report.operations_a_second(), report.seed);
        if summary.slowest.is_none_or(|slowest| pace < slowest) {
            summary.slowest = Some(pace);
        }
        summary.hash = sampan_base::rng::mix(summary.hash ^ report.hash);
        if report.violation.is_some() {
            summary.failures.push(report);
        }
    }
    summary
}

impl Summary {
    /// Kinds of faults that could have struck and never did, in any run.
    pub fn never_struck(&self) -> Vec<Fault> {
        let silent = |fault: &Fault| self.enabled.of(*fault) > 0 && self.faults.of(*fault) == 0;
        Fault::ALL.into_iter().filter(silent).collect()
    }

    /// Cluster-hours simulated in a minute of wall time.
    pub fn cluster_hours_per_minute(&self) -> f64 {
        self.virtual_time.as_secs_f64() / 60.0 / self.wall.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults                  struck   in runs    silent")?;
        for fault in Fault::ALL {
            let (struck, runs) = (self.faults.of(fault), self.enabled.of(fault));
            let silent = self.silent.of(fault);
            writeln!(f, "  {fault:20} {struck:>9} {runs:>9} {silent:>9}")?;
        }
        let [ok, failed, unknown] = self.operations;
        let operations = ok + failed + unknown;
        let (wall, seconds) = (self.wall.as_secs_f64().max(1e-9), self.virtual_time.as_secs_f64());
        writeln!(f, "seeds                {:>10}", self.runs)?;
        writeln!(f, "cluster-hours        {:>10.2}", seconds / 3_600.0)?;
        writeln!(f, "  per wall minute    {:>10.2}", self.cluster_hours_per_minute())?;
        writeln!(f, "wall seconds         {wall:>10.1}")?;
        writeln!(f, "events               {:>10}", self.events)?;
        writeln!(f, "  per wall second    {:>10.0}", self.events as f64 / wall)?;
        writeln!(
            f,
            "operations checked   {operations:>10} ({ok} ok, {failed} failed, {unknown} unknown)"
        )?;
        writeln!(f, "  per virtual second {:>10.1}", operations as f64 / seconds.max(1e-9))?;
        if let Some((pace, seed)) = self.slowest {
            writeln!(f, "  fewest in a run    {pace:>10.1} (seed {seed})")?;
        }
        writeln!(f, "entries committed    {:>10}", self.entries)?;
        writeln!(f, "power losses rehearsed {:>8}", self.rehearsals)?;
        writeln!(f, "logs repaired in place {:>8}", self.batches_repaired)?;
        writeln!(f, "logs given up and back {:>8}", self.repairs)?;
        writeln!(f, "left unread          {:>10}", self.left_unread)?;
        writeln!(f, "turns short of replies {:>8}", self.turns_short)?;
        writeln!(f, "changes of members   {:>10}", self.changes)?;
        writeln!(f, "machines taken back  {:>10}", self.returns)?;
        writeln!(f, "slowest recovery     {:>10.1} virtual s", self.recovery_max.as_secs_f64())?;
        write!(f, "trace hash     {:016x}", self.hash)
    }
}
