//! Crash states: for every sync of a whole cluster's run, every disk that a power loss at that
//! moment may leave, and whether a node that starts from it knows what it acknowledged ("All File
//! Systems Are Not Created Equal", OSDI'14, turned on ourselves).
//!
//! A *reference run* is one of the swarm's ([`crate::run`]) with tiny files and much to do: kills,
//! partitions, transfers, snapshots. At each of its syncs ([`crate::sync_points`]) the unsynced
//! sectors, names and lengths are enumerated: all combinations up to a limit, above that a
//! sample with the two extremes in it. On each such disk the shipping replica is started and held
//! against the books ([`crate::checkers::recovery::check_image`]). Of some of these starts the syncs
//! are looked at again: the power may go while a node recovers from a power loss. And some are lived
//! through: the same run once more, the power going at that point, the cluster going on with what is
//! left, and everything judged as at any seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sampan_base::Rng;
use sampan_storage::Storage;
use sampan_storage::testing::{Chooser, KeepAll, KeepSynced, Odometer};

use crate::Violation;
use crate::checkers::recovery::check_image;
use crate::disk::SimDisk;
use crate::faults::{Fault, FaultSet};
use crate::run::RunReport;
use crate::runner::run_plan;
use crate::swarm::Plan;
use crate::swarm_network::Rates;
use crate::sync_points::{Recorder, SyncPoint, SyncWatch};
use crate::trace::Trace;

/// How many disks are tried where a power loss may leave more than [`CrashSweep::exhaustive_ways`].
pub const SAMPLED_WAYS: u64 = 64;
/// Of how many starts one is itself looked at, sync by sync.
const RECOVERY_ONE_IN: u64 = 64;
/// How many disks are tried at each sync of a recovery.
const RECOVERY_WAYS: u64 = 4;

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct CrashSweep {
    /// The first seed.
    pub from: u64,
    /// How many reference runs.
    pub seeds: u64,
    /// How long each of them is, before it is healed, in virtual time.
    pub safety: Duration,
    /// The most disks that a power loss may leave at one sync for all of them to be tried.
    pub exhaustive_ways: u64,
    /// How many crashes of each run are lived through.
    pub continued: u64,
    /// On how many threads.
    pub threads: usize,
}

/// What was tried at one kind of sync.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CrashCounts {
    /// Syncs.
    pub points: u64,
    /// Of them, those at which every combination was tried.
    pub exhausted: u64,
    /// Disks that a node was started from.
    pub states: u64,
    /// Of them, those on which a last batch was cut off.
    pub torn: u64,
    /// Of them, those on which more was found than what was synced.
    pub more: u64,
}

impl CrashCounts {
    fn merge(&mut self, other: &Self) {
        let Self { points, exhausted, states, torn, more } = other;
        self.points += points;
        self.exhausted += exhausted;
        self.states += states;
        self.torn += torn;
        self.more += more;
    }
}

/// What came of it.
#[derive(Clone, Default, Debug)]
pub struct CrashReport {
    /// By what was synced.
    pub rows: BTreeMap<&'static str, CrashCounts>,
    /// The most ways of which all were tried.
    pub exhaustive_ways: u64,
    /// Reference runs.
    pub runs: u64,
    /// Crashes that a cluster lived through.
    pub continued: u64,
    /// Wall time.
    pub wall: Duration,
    /// What went wrong.
    pub failures: Vec<CrashFailure>,
}

/// A crash after which something was lost.
#[derive(Clone, Debug)]
pub struct CrashFailure {
    /// The reference run.
    pub seed: u64,
    /// The crash of it that was lived through, if it was one of these.
    pub number: Option<u64>,
    /// What is wrong.
    pub violation: Violation,
}

impl fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, number, violation } = self;
        let number = number.map_or_else(String::new, |number| format!(", lived through {number}"));
        write!(f, "FAIL seed {seed}{number}: {violation}")
    }
}

impl CrashReport {
    /// Everything that was tried.
    pub fn total(&self) -> CrashCounts {
        let mut total = CrashCounts::default();
        self.rows.values().for_each(|row| total.merge(row));
        total
    }

    fn merge(&mut self, other: Self) {
        for (what, counts) in other.rows {
            self.rows.entry(what).or_default().merge(&counts);
        }
        self.runs += other.runs;
        self.continued += other.continued;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, row: &CrashCounts| {
            let CrashCounts { points, exhausted, states, torn, more } = row;
            writeln!(f, "{what:28} {points:>9} {exhausted:>9} {states:>9} {torn:>9} {more:>9}")
        };
        writeln!(
            f,
            "power goes just before         syncs   all ways    states torn tail  kept more"
        )?;
        for (what, row) in &self.rows {
            line(f, what, row)?;
        }
        line(f, "all", &self.total())?;
        writeln!(
            f,
            "{} reference runs; all ways to keep or lose unsynced sectors, names and lengths where \
             there are at most {}, else {SAMPLED_WAYS}",
            self.runs, self.exhaustive_ways
        )?;
        writeln!(f, "{} crashes lived through by the whole cluster", self.continued)?;
        write!(f, "{} failures, {:.1} s", self.failures.len(), self.wall.as_secs_f64())
    }
}

/// Tries all that a sweep says; `each` hears of failures as they come.
pub fn crashes(sweep: CrashSweep, each: impl Fn(&CrashFailure)) -> CrashReport {
    let began = Instant::now();
    let next = AtomicU64::new(sweep.from);
    let (sender, receiver) = mpsc::channel();
    let exhaustive_ways = sweep.exhaustive_ways;
    let mut report = CrashReport { exhaustive_ways, ..CrashReport::default() };
    std::thread::scope(|scope| {
        for _ in 0..sweep.threads.max(1) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < sweep.from + sweep.seeds
                    && sender.send(crashes_of_seed(seed, &sweep)).is_ok()
                {}
            });
        }
        drop(sender);
        for of_seed in receiver {
            of_seed.failures.iter().for_each(&each);
            report.merge(of_seed);
        }
    });
    report.failures.sort_unstable_by_key(|failure| (failure.seed, failure.number));
    report.wall = began.elapsed();
    report
}

/// Runs what failed again, and says how it ended: the last so many lines of its trace.
pub fn explain(failure: &CrashFailure, sweep: &CrashSweep, lines_max: usize) -> Vec<String> {
    let trace = Trace::keeping(lines_max);
    match failure.number {
        None => run_reference(failure.seed, sweep, trace).0.lines,
        Some(number) => {
            let (_, books) = run_reference(failure.seed, sweep, Trace::quiet());
            live_through(failure.seed, number, books.points, sweep.safety, trace).lines
        }
    }
}

/// One reference run, and the crashes of it that are lived through.
fn crashes_of_seed(seed: u64, sweep: &CrashSweep) -> CrashReport {
    let (run, Books { rows, points }) = run_reference(seed, sweep, Trace::quiet());
    let failed = |number, violation| CrashFailure { seed, number, violation };
    let failures = run.violation.map(|violation| failed(None, violation)).into_iter().collect();
    let mut report = CrashReport { rows, runs: 1, failures, ..CrashReport::default() };
    let continued = if points > 0 && report.failures.is_empty() { sweep.continued } else { 0 };
    for number in 0..continued {
        report.continued += 1;
        let run = live_through(seed, number, points, sweep.safety, Trace::quiet());
        report.failures.extend(run.violation.map(|violation| failed(Some(number), violation)));
    }
    report
}

/// The reference run of a seed, with every disk at every sync tried.
fn run_reference(seed: u64, sweep: &CrashSweep, trace: Trace) -> (RunReport, Books) {
    let books = Rc::new(RefCell::new(Books::default()));
    let rng = Rng::seeded(seed ^ 0x5a3d_7057_0003);
    let exhaustive_ways = sweep.exhaustive_ways;
    let watch = Enumerate { books: books.clone(), exhaustive_ways, rng };
    let run = run_plan(reference_plan(seed, sweep.safety), trace, Some(Box::new(watch)));
    (run, books.take())
}

/// The same run again; the power goes at one of its `points` syncs.
fn live_through(seed: u64, number: u64, points: u64, safety: Duration, trace: Trace) -> RunReport {
    let mut rng = Rng::seeded(sampan_base::rng::mix(seed) ^ number);
    let strike = Strike { points_left: rng.below(points), rng };
    run_plan(reference_plan(seed, safety), trace, Some(Box::new(strike)))
}

/// The run of a seed: three or five nodes with tiny files, through kills, partitions, transfers and
/// snapshots, over a network that loses nothing.
pub fn reference_plan(seed: u64, safety: Duration) -> Plan {
    let mut plan = Plan::of_seed(seed, safety);
    plan.nodes = if seed.is_multiple_of(4) { 5 } else { 3 };
    plan.faults = FaultSet::default();
    for fault in [Fault::Kill, Fault::Partition, Fault::Transfer, Fault::Snapshot] {
        plan.faults.insert(fault);
    }
    plan.rates = Rates { latency_us: plan.rates.latency_us, ..Rates::default() };
    plan.fault_every_us = 1_000_000;
    plan.operation_every_us = 12_000;
    plan.options.storage.segment_bytes = 16 << 10;
    plan.options.raft_state_bytes_max = Some(12 << 10);
    plan.options.raft_state_snapshot_percent = 0;
    plan
}

/// What the watch of a reference run counts.
#[derive(Default)]
struct Books {
    rows: BTreeMap<&'static str, CrashCounts>,
    /// Syncs of nodes that ran.
    points: u64,
}

/// Tries every disk at every sync.
struct Enumerate {
    books: Rc<RefCell<Books>>,
    exhaustive_ways: u64,
    rng: Rng,
}

impl SyncWatch for Enumerate {
    fn before_sync(&mut self, point: SyncPoint<'_>) -> Result<Option<SimDisk>, Violation> {
        let ways = point.disk.ways_to_lose_power();
        let mut counts = CrashCounts { points: 1, ..CrashCounts::default() };
        if ways <= self.exhaustive_ways {
            counts.exhausted = 1;
            let mut odometer = Odometer::default();
            loop {
                self.try_disk(point, &mut odometer, &mut counts)?;
                if !odometer.advance() {
                    break;
                }
            }
        } else {
            self.try_disk(point, &mut KeepSynced, &mut counts)?;
            self.try_disk(point, &mut KeepAll, &mut counts)?;
            for _ in 2..SAMPLED_WAYS {
                let mut coin = Coin::flipped_by(&mut self.rng);
                self.try_disk(point, &mut coin, &mut counts)?;
            }
        }
        let mut books = self.books.borrow_mut();
        books.points += u64::from(!point.starting);
        books.rows.entry(what_is_synced(&point)).or_default().merge(&counts);
        Ok(None)
    }
}

impl Enumerate {
    fn try_disk(
        &mut self,
        point: SyncPoint<'_>,
        chooser: &mut dyn Chooser,
        counts: &mut CrashCounts,
    ) -> Result<(), Violation> {
        let mut disk = point.disk.clone();
        disk.lose_power_choosing(chooser);
        if self.rng.one_in(RECOVERY_ONE_IN) {
            self.try_recovery(point, &disk)?;
        }
        try_start(point, &mut disk, counts)
    }

    /// The power goes again, at each sync of the recovery from its first loss.
    fn try_recovery(&mut self, point: SyncPoint<'_>, disk: &SimDisk) -> Result<(), Violation> {
        let mut recorder = Recorder::new(disk);
        _ = Storage::open(&mut recorder, point.identity, &point.node.setup().options.storage);
        let mut counts = CrashCounts::default();
        for (disk, _) in recorder.points {
            counts.points += 1;
            for _ in 0..RECOVERY_WAYS {
                let mut after = disk.clone();
                after.lose_power_choosing(&mut Coin::flipped_by(&mut self.rng));
                try_start(point, &mut after, &mut counts)?;
            }
        }
        self.books.borrow_mut().rows.entry(SECOND_CRASH).or_default().merge(&counts);
        Ok(())
    }
}

fn try_start(
    point: SyncPoint<'_>,
    disk: &mut SimDisk,
    counts: &mut CrashCounts,
) -> Result<(), Violation> {
    let report = check_image(point.node, point.identity, point.oracles, disk)?;
    counts.states += 1;
    counts.torn += u64::from(report.storage.torn_tail.is_some());
    if let Some(seen) = point.oracles.seen(point.node.id()) {
        counts.more += u64::from(report.last_index > seen.durable.last());
    }
    Ok(())
}

/// The row of a sync in a recovery from a power loss.
const SECOND_CRASH: &str = "a sync of such a start";

/// The row of a sync.
fn what_is_synced(point: &SyncPoint<'_>) -> &'static str {
    if point.starting {
        return "a sync of a start";
    }
    match point.synced {
        "wal" => "names of the log",
        "snapshots" => "names of snapshots",
        file if file.starts_with("hard_state") => "the hard state",
        file if file.starts_with("wal/") && file.contains(".log") => "a batch",
        file if file.starts_with("wal/") => "a new segment",
        file if file.starts_with("snapshots/") => "a snapshot",
        _ => "another file",
    }
}

/// A coin for each sector and name, more or less biased.
struct Coin {
    rng: Rng,
    permille: u64,
}

impl Coin {
    fn flipped_by(rng: &mut Rng) -> Self {
        Self { permille: *rng.pick(&[50, 500, 500, 950]), rng: rng.fork() }
    }
}

impl Chooser for Coin {
    fn choose(&mut self, count: usize) -> usize {
        if self.rng.permille(self.permille) {
            self.rng.between(1, count as u64 - 1) as usize
        } else {
            0
        }
    }
}

/// Lets the power go at one sync.
struct Strike {
    points_left: u64,
    rng: Rng,
}

impl SyncWatch for Strike {
    fn before_sync(&mut self, point: SyncPoint<'_>) -> Result<Option<SimDisk>, Violation> {
        if point.starting || self.points_left == u64::MAX {
            return Ok(None);
        }
        self.points_left = self.points_left.wrapping_sub(1);
        Ok((self.points_left == u64::MAX).then(|| {
            let mut disk = point.disk.clone();
            disk.lose_power_choosing(&mut Coin::flipped_by(&mut self.rng));
            disk
        }))
    }
}
