//! Crash states: for every sync of a whole cluster's run, every disk that a power loss at that
//! moment may leave, and whether a node that starts from it knows what it acknowledged ("All File
//! Systems Are Not Created Equal", OSDI'14, turned on ourselves).
//!
//! A *reference run* is one of the swarm's ([`crate::run`]) with tiny files and much to do: kills,
//! partitions, transfers, snapshots, of which some arrive in parts of 16 bytes. At each of its
//! syncs ([`crate::sync_points`]) the unsynced sectors, names and lengths are enumerated: all
//! combinations up to a limit, above that a sample with the two extremes in it. On each such disk
//! the shipping replica is started and held against the books
//! ([`crate::checkers::recovery::check_image`]). Of some of these starts the syncs are looked at
//! again: the power may go while a node recovers from a power loss. And some points of each kind
//! are lived through: the same run once more, the power going at that point, the cluster going on
//! with what is left, and everything judged as at any seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sampan_base::Rng;
use sampan_base::disk::DiskOp;
use sampan_replica::DiskJob;
use sampan_storage::Storage;
use sampan_storage::snapshot::ARRIVING;
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

/// What strikes in reference runs.
const REFERENCE_FAULTS: [Fault; 5] =
    [Fault::Kill, Fault::Partition, Fault::Transfer, Fault::Snapshot, Fault::Install];
/// A chunk of a snapshot, of every second seed.
const TINY_CHUNK_BYTES: usize = 16;

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
    /// How many crashes of each run are lived through: of each kind of point in turn one, or all of
    /// them, if there are no more.
    pub continued: u64,
    /// On how many threads.
    pub threads: usize,
}

/// What was tried at one kind of point.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CrashCounts {
    /// Syncs, or steps that sync nothing.
    pub points: u64,
    /// Of them, those at which every combination was tried.
    pub exhausted: u64,
    /// Disks that a node was started from.
    pub states: u64,
    /// Of them, those on which a last batch was cut off.
    pub torn: u64,
    /// Of them, those on which more was found than what was synced.
    pub more: u64,
    /// Crashes that a cluster lived through.
    pub continued: u64,
}

impl CrashCounts {
    fn merge(&mut self, other: &Self) {
        let Self { points, exhausted, states, torn, more, continued } = other;
        self.points += points;
        self.exhausted += exhausted;
        self.states += states;
        self.torn += torn;
        self.more += more;
        self.continued += continued;
    }
}

/// What came of it.
#[derive(Clone, Default, Debug)]
pub struct CrashReport {
    /// By what was synced, or done.
    pub rows: BTreeMap<&'static str, CrashCounts>,
    /// The most ways of which all were tried.
    pub exhaustive_ways: u64,
    /// Reference runs.
    pub runs: u64,
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
    /// The point of it whose crash was lived through, if it was one of these.
    pub point: Option<u64>,
    /// What is wrong.
    pub violation: Violation,
}

impl fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, point, violation } = self;
        let point = point.map_or_else(String::new, |point| format!(", a crash at point {point}"));
        write!(f, "FAIL seed {seed}{point}: {violation}")
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
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, row: &CrashCounts| {
            let CrashCounts { points, exhausted, states, torn, more, continued } = row;
            writeln!(
                f,
                "{what:28} {points:>9} {exhausted:>9} {states:>9} {torn:>9} {more:>9} {continued:>9}"
            )
        };
        writeln!(
            f,
            "power goes just before        points  all ways    states torn tail kept more lived through"
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
    report.failures.sort_unstable_by_key(|failure| (failure.seed, failure.point));
    report.wall = began.elapsed();
    report
}

/// Runs what failed again, and says how it ended: the last so many lines of its trace.
pub fn explain(failure: &CrashFailure, sweep: &CrashSweep, lines_max: usize) -> Vec<String> {
    let trace = Trace::keeping(lines_max);
    match failure.point {
        None => run_reference(failure.seed, sweep, trace).0.lines,
        Some(point) => live_through(failure.seed, point, sweep.safety, trace).lines,
    }
}

/// One reference run, and the crashes of it that are lived through.
fn crashes_of_seed(seed: u64, sweep: &CrashSweep) -> CrashReport {
    let (run, Books { rows, places, .. }) = run_reference(seed, sweep, Trace::quiet());
    let failed = |point, violation| CrashFailure { seed, point, violation };
    let failures: Vec<_> = run.violation.map(|why| failed(None, why)).into_iter().collect();
    let has_failed = !failures.is_empty();
    let mut report = CrashReport { rows, runs: 1, failures, ..CrashReport::default() };
    if has_failed {
        return report;
    }
    for (what, point) in chosen(seed, places, sweep.continued) {
        report.rows.entry(what).or_default().continued += 1;
        let run = live_through(seed, point, sweep.safety, Trace::quiet());
        report.failures.extend(run.violation.map(|violation| failed(Some(point), violation)));
    }
    report
}

/// So many points, of each row in turn one; all points, if there are no more.
fn chosen(seed: u64, places: Places, count: u64) -> Vec<(&'static str, u64)> {
    let mut rng = Rng::seeded(sampan_base::rng::mix(seed));
    let mut rows: Vec<(&'static str, Vec<u64>)> = places.into_iter().collect();
    rows.iter_mut().for_each(|(_, row)| rng.shuffle(row));
    let count = count.min(rows.iter().map(|(_, row)| row.len() as u64).sum());
    let mut chosen = Vec::new();
    while (chosen.len() as u64) < count {
        for (what, row) in &mut rows {
            chosen.extend(row.pop().map(|point| (*what, point)));
        }
    }
    chosen.truncate(count as usize);
    chosen
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

/// The same run again; the power goes at one of its points.
fn live_through(seed: u64, point: u64, safety: Duration, trace: Trace) -> RunReport {
    let rng = Rng::seeded(sampan_base::rng::mix(seed) ^ point);
    let strike = Strike { points_left: point, rng };
    run_plan(reference_plan(seed, safety), trace, Some(Box::new(strike)))
}

/// The run of a seed: three or five nodes with tiny files, through kills, partitions, transfers and
/// snapshots, over a network that loses nothing. In that of every second seed snapshots are taken
/// of next to nothing, are written and sent in tiny chunks, and what arrives of them is synced
/// often.
pub fn reference_plan(seed: u64, safety: Duration) -> Plan {
    let mut plan = Plan::of_seed(seed, safety);
    plan.nodes = if seed.is_multiple_of(4) { 5 } else { 3 };
    plan.faults = FaultSet::default();
    for fault in REFERENCE_FAULTS {
        plan.faults.insert(fault);
    }
    plan.rates = Rates { latency_us: plan.rates.latency_us, ..Rates::default() };
    plan.fault_every_us = 1_000_000;
    plan.operation_every_us = 12_000;
    plan.options.storage.segment_bytes = 16 << 10;
    plan.options.raft_state_bytes_max = Some(12 << 10);
    plan.options.raft_state_snapshot_percent = 0;
    if !seed.is_multiple_of(2) {
        plan.options.raft_state_bytes_max = Some(2 << 10);
        // Nothing is kept for a follower that is away for longer than two such times.
        plan.options.raft.election_timeout_min = Duration::from_millis(150);
        plan.options.raft.election_timeout_max = Duration::from_millis(300);
        plan.options.raft.heartbeat_interval = Duration::from_millis(50);
        plan.options.snapshot_chunk_bytes = TINY_CHUNK_BYTES;
        plan.options.raft.snapshot_chunk_bytes_max = TINY_CHUNK_BYTES;
        plan.options.storage.snapshot_sync_bytes = 4 * TINY_CHUNK_BYTES as u64;
    }
    plan
}

/// Points by what was synced, or done: how many others of nodes that ran came before each.
type Places = BTreeMap<&'static str, Vec<u64>>;

/// What the watch of a reference run counts.
#[derive(Default)]
struct Books {
    rows: BTreeMap<&'static str, CrashCounts>,
    places: Places,
    /// Points of nodes that ran.
    points: u64,
}

impl Books {
    fn enter(&mut self, point: &SyncPoint<'_>, counts: &CrashCounts) {
        let what = what_happens(point);
        self.rows.entry(what).or_default().merge(counts);
        if point.job.is_some() {
            self.places.entry(what).or_default().push(self.points);
            self.points += 1;
        }
    }
}

/// Tries every disk at every sync.
struct Enumerate {
    books: Rc<RefCell<Books>>,
    exhaustive_ways: u64,
    rng: Rng,
}

impl SyncWatch for Enumerate {
    fn at_point(&mut self, point: SyncPoint<'_>) -> Result<Option<SimDisk>, Violation> {
        let mut counts = CrashCounts { points: 1, ..CrashCounts::default() };
        // What a crash leaves at a step that syncs nothing, one at the next sync may leave.
        if point.synced.is_some() {
            self.try_disks(point, &mut counts)?;
        }
        self.books.borrow_mut().enter(&point, &counts);
        Ok(None)
    }
}

impl Enumerate {
    fn try_disks(
        &mut self,
        point: SyncPoint<'_>,
        counts: &mut CrashCounts,
    ) -> Result<(), Violation> {
        if point.disk.ways_to_lose_power() <= self.exhaustive_ways {
            counts.exhausted = 1;
            let mut odometer = Odometer::default();
            loop {
                self.try_disk(point, &mut odometer, counts)?;
                if !odometer.advance() {
                    break;
                }
            }
        } else {
            self.try_disk(point, &mut KeepSynced, counts)?;
            self.try_disk(point, &mut KeepAll, counts)?;
            for _ in 2..SAMPLED_WAYS {
                let mut coin = Coin::flipped_by(&mut self.rng);
                self.try_disk(point, &mut coin, counts)?;
            }
        }
        Ok(())
    }

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

/// The row of a point.
fn what_happens(point: &SyncPoint<'_>) -> &'static str {
    let Some(job) = point.job else { return "a sync of a start" };
    if let Some(what) = what_happens_to_a_snapshot(job, point.synced) {
        return what;
    }
    match point.synced.unwrap_or_default() {
        "wal" => "names of the log",
        file if file.starts_with("hard_state") => "the hard state",
        file if file.starts_with("wal/") && file.contains(".log") => "a batch",
        file if file.starts_with("wal/") => "a new segment",
        _ => "another file",
    }
}

/// The row of a step of a snapshot's way.
fn what_happens_to_a_snapshot(job: &DiskJob, synced: Option<&str>) -> Option<&'static str> {
    Some(match (job, synced) {
        (DiskJob::SnapshotVerify(_), _) => "taking: it is verified",
        (DiskJob::SnapshotSend { .. }, _) => "sending: a part is read",
        (DiskJob::SnapshotLoad { .. }, _) => "receiving: a chunk is loaded",
        (DiskJob::SnapshotCheck { .. }, _) => "installed: a chunk is read back",
        (DiskJob::SnapshotOpen(_), _) => "receiving: it is opened",
        (DiskJob::SnapshotCommit(ops), _) if are_of_one_that_arrives(ops) => "installing: its name",
        (DiskJob::SnapshotCommit(_), _) => "taking: its name",
        (DiskJob::SnapshotWrite(ops), None) if are_removals(ops) => "an old snapshot goes",
        (DiskJob::SnapshotWrite(ops), _) if are_of_one_that_arrives(ops) => match synced {
            None => "receiving: a part",
            Some(SNAPSHOTS) => "receiving: its name",
            Some(_) => "receiving: parts are synced",
        },
        (DiskJob::SnapshotWrite(_), None) => "taking: a chunk",
        (DiskJob::SnapshotWrite(_), Some(SNAPSHOTS)) => "taking: an old file is used",
        (DiskJob::SnapshotWrite(_), Some(_)) => "taking: the file is synced",
        _ => return None,
    })
}

/// The directory of snapshots.
const SNAPSHOTS: &str = "snapshots";

fn are_of_one_that_arrives(ops: &[DiskOp]) -> bool {
    ops.iter().any(|op| match op {
        DiskOp::Write { file, .. } | DiskOp::Sync { file } | DiskOp::Rename { from: file, .. } => {
            file.ends_with(ARRIVING)
        }
        _ => false,
    })
}

/// A chunk that fills no page is written with the next ones: no operation is none of these.
fn are_removals(ops: &[DiskOp]) -> bool {
    !ops.is_empty() && ops.iter().all(|op| matches!(op, DiskOp::Remove { .. }))
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

/// Lets the power go at one point.
struct Strike {
    points_left: u64,
    rng: Rng,
}

impl SyncWatch for Strike {
    fn at_point(&mut self, point: SyncPoint<'_>) -> Result<Option<SimDisk>, Violation> {
        if point.job.is_none() || self.points_left > 0 {
            self.points_left -= u64::from(point.job.is_some());
            return Ok(None);
        }
        let mut disk = point.disk.clone();
        disk.lose_power_choosing(&mut Coin::flipped_by(&mut self.rng));
        Ok(Some(disk))
    }
}
