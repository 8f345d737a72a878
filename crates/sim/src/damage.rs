//! Damage: every byte of one node's files changed, one at a time, and what the node makes of it.
//!
//! A reference run ([`crate::crashes::reference_plan`]) is played until all is well and quiet. Then
//! each byte of a node's log, hard state, snapshots and identity is flipped, zeroed and swapped
//! with another one; each sector zeroed, swapped, and written over by another one, as a misdirected
//! write would; each file lost. The shipping replica is started from each such disk. It must
//!
//! - find the very same state, because nothing there is in use, or
//! - heal by itself, from a second copy or an older snapshot, with nothing missing, or
//! - know that something is missing, and not vote until its peers gave it back, or
//! - refuse, with a reason.
//!
//! Anything else is a failure. A log that can be repaired from its peers is, from a node that has
//! all; and once for each reference run the logs of all nodes are damaged at once. Some of each
//! kind are lived through by the whole cluster, under load: the others serve on, the node is
//! repaired by its peers, or replaced if it refuses, and everything is judged as at any seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sampan_base::disk::{Disk, FileName};
use sampan_base::rng::mix;
use sampan_base::{LogIndex, NodeId};
use sampan_replica::OpenError;
use sampan_storage::{Identity, OpenError as StorageError, inspect};

use crate::Violation;
use crate::checkers::Oracles;
use crate::checkers::recovery::{Found, start_from};
use crate::crashes::reference_plan;
use crate::disk::{SECTOR_BYTES, SimDisk, Survival};
use crate::faults::{Fault, FaultSet};
use crate::node::Node;
use crate::run::{Simulation, run_struck};
use crate::swarm::Plan;
use crate::trace::Trace;

/// A snapshot is taken once the log is so long: several segments of a reference run.
const LOG_BYTES_MAX: u64 = 48 << 10;
/// A log must be repaired, or given up, within this, in virtual milliseconds.
const REPAIR_MS_MAX: u64 = 30_000;

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct DamageSweep {
    /// The seed of the first reference run.
    pub from: u64,
    /// How many reference runs.
    pub seeds: u64,
    /// How long each of them is, before it is healed, in virtual time.
    pub safety: Duration,
    /// Every so many bytes one is changed; 1: all.
    pub every: u64,
    /// How many cases of each run are lived through.
    pub continued: u64,
    /// On how many threads.
    pub threads: u64,
}

/// How something is damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    FlipBit,
    ZeroByte,
    SwapBytes,
    ZeroSector,
    SwapSectors,
    OverwriteSector,
    LoseFile,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::FlipBit => "a bit flipped",
            Self::ZeroByte => "a byte zeroed",
            Self::SwapBytes => "two bytes swapped",
            Self::ZeroSector => "a sector zeroed",
            Self::SwapSectors => "two sectors swapped",
            Self::OverwriteSector => "a sector overwritten",
            Self::LoseFile => "the file lost",
        }
    }
}

/// One damage.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case {
    file: FileName,
    offset: u64,
    kind: Kind,
}

/// What a node makes of a damage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    /// It finds what it would have found anyway: nothing there is in use.
    Unused,
    /// It has everything all the same.
    Heals,
    /// Its peers give back what it lost, and it is as if nothing had happened.
    Repairs,
    /// It does not vote until its peers have given it back what it lost.
    Rejoins,
    /// It does not start.
    Refuses,
}

/// How many cases had each verdict, in its order.
type Verdicts = [u64; 5];

/// What came of it.
#[derive(Clone, Default, Debug)]
pub struct DamageReport {
    rows: BTreeMap<(&'static str, Kind), Verdicts>,
    /// Cases that a cluster lived through.
    continued: Verdicts,
    /// Clusters that lived through damage of all their logs at once.
    pub all_at_once: u64,
    /// Reference runs.
    pub runs: u64,
    /// Wall time.
    pub wall: Duration,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl DamageReport {
    /// Cases by verdict: unused, healed, repaired, rejoins, refuses.
    pub fn total(&self) -> [u64; 5] {
        self.rows.values().fold([0; 5], |total, row| sum(total, *row))
    }

    /// The same of the cases that a cluster lived through.
    pub const fn continued(&self) -> [u64; 5] {
        self.continued
    }

    /// The files that were damaged.
    pub fn classes(&self) -> Vec<&'static str> {
        let mut classes: Vec<_> = self.rows.keys().map(|(class, _)| *class).collect();
        classes.dedup();
        classes
    }

    fn merge(&mut self, other: Self) {
        for (row, verdicts) in other.rows {
            let mine = self.rows.entry(row).or_default();
            *mine = sum(*mine, verdicts);
        }
        self.continued = sum(self.continued, other.continued);
        self.all_at_once += other.all_at_once;
        self.failures.extend(other.failures);
    }
}

fn sum(a: Verdicts, b: Verdicts) -> Verdicts {
    std::array::from_fn(|i| a[i] + b[i])
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, class: &str, kind: &str, row: &Verdicts| {
            let [unused, heals, repairs, rejoins, refuses] = row;
            let cases: u64 = row.iter().sum();
            writeln!(
                f,
                "{class:12} {kind:22} {cases:>8} {unused:>8} {heals:>8} {repairs:>8} {rejoins:>8} \
                 {refuses:>8}"
            )
        };
        writeln!(
            f,
            "damaged                                cases   unused    heals  repairs  rejoins  \
             refuses"
        )?;
        for ((class, kind), row) in &self.rows {
            line(f, class, kind.label(), row)?;
        }
        line(f, "all", "", &self.total())?;
        line(f, "lived through", "by the whole cluster", &self.continued)?;
        writeln!(
            f,
            "unused: the very same state is found. heals: from a second copy or an older snapshot, with \
             nothing missing.\nrepairs: its log is what it was, from its peers' logs. rejoins: does not vote before it \
             has caught up. refuses: with \
             a reason; the operator replaces the node."
        )?;
        let (runs, failures, all_at_once) = (self.runs, self.failures.len(), self.all_at_once);
        writeln!(f, "{all_at_once} clusters had all their logs damaged at once")?;
        write!(f, "{runs} reference runs, {failures} failures, {:.1} s", self.wall.as_secs_f64())
    }
}

/// Tries all that a sweep says; `each` hears of failures as they come.
pub fn damage(sweep: DamageSweep, each: impl Fn(&str)) -> DamageReport {
    let began = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut report = DamageReport { runs: sweep.seeds, ..DamageReport::default() };
    std::thread::scope(|scope| {
        for share in 0..sweep.threads.max(1) {
            let sender = sender.clone();
            scope.spawn(move || {
                for seed in sweep.from..sweep.from + sweep.seeds {
                    if sender.send(share_of_seed(seed, share, &sweep)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for of_share in receiver {
            of_share.failures.iter().for_each(|failure| each(failure));
            report.merge(of_share);
        }
    });
    report.wall = began.elapsed();
    report
}

/// A reference run whose snapshots leave some of the log, also what begins a segment, for a peer to
/// repair.
fn plan_of(seed: u64, safety: Duration) -> Plan {
    let mut plan = reference_plan(seed, safety);
    plan.faults = FaultSet::default();
    for fault in [Fault::Kill, Fault::Partition, Fault::Transfer] {
        plan.faults.insert(fault);
    }
    plan.options.raft_state_bytes_max = Some(LOG_BYTES_MAX);
    plan
}

/// Whose disk is damaged.
fn victim_of(seed: u64) -> NodeId {
    NodeId::of(1 + seed % 3)
}

/// One thread's share of the cases of a reference run, and of those that are lived through.
fn share_of_seed(seed: u64, share: u64, sweep: &DamageSweep) -> DamageReport {
    let tried: Rc<RefCell<Tried>> = Rc::default();
    let (books, sweep) = (tried.clone(), *sweep);
    let strike = move |simulation: &mut Simulation| {
        let bench = Bench::new(seed, simulation)?;
        *books.borrow_mut() = bench.try_cases(share, &sweep);
        Ok(())
    };
    let run = run_struck(plan_of(seed, sweep.safety), Trace::quiet(), Box::new(strike));
    let Tried { mut report, by_verdict } = tried.take();
    report.failures.extend(run.violation.map(|violation| format!("seed {seed}: {violation}")));
    if share == seed % sweep.threads.max(1) {
        report.all_at_once += 1;
        let failure = all_at_once(seed, sweep.safety);
        report.failures.extend(failure.map(|why| format!("seed {seed}, all at once: {why}")));
    }
    let groups = by_verdict.len().max(1) as u64;
    let wanted = (sweep.continued.div_ceil(sweep.threads.max(1)).div_ceil(groups)) as usize;
    for ((_, verdict), cases) in by_verdict {
        let step = cases.len().div_ceil(wanted.max(1)).max(1);
        for case in cases.into_iter().skip(share as usize).step_by(step).take(wanted) {
            report.continued[verdict as usize] += 1;
            let failure = live_through(seed, &case, verdict, sweep.safety);
            report.failures.extend(failure.map(|why| format!("seed {seed}, {case:?}: {why}")));
        }
    }
    report
}

/// The same reference run; then the damage strikes, and the cluster goes on under load. What went
/// wrong, if anything.
fn live_through(seed: u64, case: &Case, verdict: Verdict, safety: Duration) -> Option<String> {
    let (victim, struck) = (victim_of(seed), case.clone());
    let strike = move |simulation: &mut Simulation| {
        simulation.reset_clients_of(victim);
        simulation.world.cut_power(victim, Survival::None);
        struck.apply(simulation.world.node_mut(victim).disk_mut());
        start_all(simulation, &[victim])
    };
    let run = run_struck(plan_of(seed, safety), Trace::quiet(), Box::new(strike));
    match (run.violation, verdict) {
        (Some(violation), _) => Some(violation.to_string()),
        (None, Verdict::Repairs | Verdict::Rejoins) if run.repairs + run.batches_repaired == 0 => {
            Some("it was not repaired".into())
        }
        (None, Verdict::Refuses) if run.refusals == 0 => Some("it was not replaced".into()),
        _ => None,
    }
}

/// Starts nodes whose disks are damaged, and lets them repair their logs.
fn start_all(simulation: &mut Simulation, ids: &[NodeId]) -> Result<(), Violation> {
    let of = |simulation: &Simulation, is_so: fn(&Node) -> bool| -> Vec<NodeId> {
        ids.iter().copied().filter(|id| simulation.world.get(*id).is_some_and(is_so)).collect()
    };
    for id in ids {
        simulation.start_node(*id)?;
    }
    for _ in 0..REPAIR_MS_MAX {
        if of(simulation, Node::is_repairing).is_empty() {
            break;
        }
        let until = simulation.world.now().plus_us(1_000);
        simulation.play_until(until)?;
    }
    // The operator does not replace what its peers can repair.
    for id in of(simulation, Node::is_up) {
        simulation.world.node_mut(id).disk_mut().damaged = false;
    }
    Ok(())
}

/// The logs of all nodes are damaged, each at another entry, and all start at once: they must
/// repair one another, and nothing may be lost. What went wrong, if anything.
fn all_at_once(seed: u64, safety: Duration) -> Option<String> {
    let mut plan = reference_plan(seed, safety);
    plan.options.raft_state_bytes_max = None;
    let damaged: Rc<RefCell<u64>> = Rc::default();
    let count = damaged.clone();
    let strike = move |simulation: &mut Simulation| {
        let ids: Vec<NodeId> = simulation.world.nodes().map(Node::id).collect();
        let covered = |node: &Node| node.replica().and_then(|replica| replica.status().snapshot);
        let covered = simulation.world.nodes().filter_map(covered).map(|(index, _)| index).max();
        let mut taken: Vec<(LogIndex, LogIndex)> = Vec::new();
        for &id in &ids {
            simulation.reset_clients_of(id);
            simulation.world.cut_power(id, Survival::None);
            let disk = simulation.world.node_mut(id).disk_mut();
            let batches = batches_after(disk, covered.unwrap_or_default());
            // Neighbours tell what a batch was unless one of the three has replaced entries.
            let follow = |a: &Place, b: &Place| a.3.next() == b.2;
            let known = batches.windows(3).filter(|w| follow(&w[0], &w[1]) && follow(&w[1], &w[2]));
            let apart = |(.., first, last): &Place| {
                taken.iter().all(|(from, to)| last < from || first > to)
            };
            let mut candidates = known.map(|w| w[1].clone()).filter(apart);
            let Some((file, offset, first, last)) = candidates.nth(taken.len()) else { continue };
            taken.push((first, last));
            let byte = read(disk, &file, offset + 30, 1)[0] ^ 1;
            disk.alter(&file, offset + 30, &[byte]);
            *count.borrow_mut() += 1;
        }
        start_all(simulation, &ids)
    };
    let run = run_struck(plan, Trace::quiet(), Box::new(strike));
    let damaged = *damaged.borrow();
    match run.violation {
        Some(violation) => Some(violation.to_string()),
        None if damaged < 3 => Some(format!("only {damaged} logs had a batch to damage")),
        None if (run.batches_repaired, run.repairs) != (damaged, 0) => Some(format!(
            "{damaged} batches were damaged, {} repaired, {} logs given up",
            run.batches_repaired, run.repairs
        )),
        None => None,
    }
}

/// A batch of a log: file, offset, first and last entry.
type Place = (FileName, u64, LogIndex, LogIndex);

/// The batches of a log whose entries all come after an index.
fn batches_after(disk: &mut SimDisk, index: LogIndex) -> Vec<Place> {
    let files: Vec<FileName> = disk.files().filter(|f| f.ends_with(".log")).cloned().collect();
    let mut batches = Vec::new();
    for file in files {
        let Ok(segment) = inspect::segment(&contents(disk, &file)) else { continue };
        let of_entries = segment.batches.iter().filter(|batch| batch.first_index > index);
        batches.extend(of_entries.filter_map(|batch| {
            let last = batch.entries.last()?.index;
            Some((file.clone(), batch.offset, batch.first_index, last))
        }));
    }
    batches
}

/// What one thread tried of a run.
#[derive(Default)]
struct Tried {
    report: DamageReport,
    /// The cases, by what was damaged and what came of it.
    by_verdict: BTreeMap<(&'static str, Verdict), Vec<Case>>,
}

/// A node whose disk is damaged again and again.
struct Bench<'a> {
    seed: u64,
    node: &'a Node,
    identity: Identity,
    oracles: &'a Oracles,
    disk: SimDisk,
    /// What is found without any damage.
    sound: Found,
}

impl<'a> Bench<'a> {
    fn new(seed: u64, simulation: &'a Simulation) -> Result<Self, Violation> {
        let node = simulation.world.node(victim_of(seed));
        let identity = Identity { cluster: simulation.world.cluster, node: node.id() };
        let oracles = &simulation.world.oracles;
        let disk = node.disk().after_power_loss(Survival::None);
        let sound = start_from(node, identity, oracles, &mut disk.clone())?.map_err(|error| {
            Violation::new("damage", format!("the reference does not start: {error}"))
        })?;
        Ok(Self { seed, node, identity, oracles, disk, sound })
    }

    fn try_cases(&self, share: u64, sweep: &DamageSweep) -> Tried {
        let mut tried = Tried::default();
        let cases = cases(&mut self.disk.clone(), sweep.every);
        for case in cases.into_iter().skip(share as usize).step_by(sweep.threads.max(1) as usize) {
            let mut disk = self.disk.clone();
            if !case.apply(&mut disk) {
                continue;
            }
            match self.verdict(&mut disk) {
                Ok(verdict) => {
                    let class = class_of(&case.file);
                    let row = tried.report.rows.entry((class, case.kind)).or_default();
                    row[verdict as usize] += 1;
                    tried.by_verdict.entry((class, verdict)).or_default().push(case);
                }
                Err(why) => {
                    tried.report.failures.push(format!("seed {}, {case:?}: {why}", self.seed));
                }
            }
        }
        tried
    }

    fn verdict(&self, disk: &mut SimDisk) -> Result<Verdict, String> {
        let started = start_from(self.node, self.identity, self.oracles, disk);
        let found = match started.map_err(|violation| violation.to_string())? {
            Ok(found) => found,
            Err(error) if is_about_damage(&error) => return Ok(Verdict::Refuses),
            Err(error) => return Err(format!("refuses for another reason: {error}")),
        };
        let (report, sound) = (&found.report, &self.sound.report);
        if report.non_voting_until.is_some() {
            return Ok(Verdict::Rejoins);
        }
        if found.state == self.sound.state && report.storage == sound.storage {
            let whole = if report.repaired.is_empty() { Verdict::Unused } else { Verdict::Repairs };
            return Ok(whole);
        }
        let noticed = report.storage.hard_state_repaired.is_some()
            || !report.storage.snapshots_damaged.is_empty()
            || report.storage.leftovers_removed != sound.storage.leftovers_removed
            || report.storage.segments_read != sound.storage.segments_read;
        match (noticed, report.last_index == sound.last_index) {
            (true, true) => Ok(Verdict::Heals),
            (false, _) => Err(format!("goes unnoticed: {report}; sound: {sound}")),
            (_, false) => Err(format!("ends at {}, not {}", report.last_index, sound.last_index)),
        }
    }
}

fn is_about_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Storage(error) | OpenError::Alone(error) => matches!(
            error,
            StorageError::DamagedIdentity(_)
                | StorageError::DamagedHardState(_)
                | StorageError::DamagedLog(_)
                | StorageError::DamagedSnapshot { .. }
        ),
        OpenError::State { .. } => true,
    }
}

/// The row of a file.
fn class_of(file: &str) -> &'static str {
    match file.split_once('/') {
        None if file.starts_with("hard_state") => "hard state",
        None => "identity",
        Some(("wal", name)) if name.contains(".log") => "log",
        Some(("wal", _)) => "spare",
        Some(_) => "snapshot",
    }
}

/// Everything that can be done to a disk.
fn cases(disk: &mut SimDisk, every: u64) -> Vec<Case> {
    let files: Vec<FileName> = disk.files().cloned().collect();
    let mut cases = Vec::new();
    for file in files {
        let len = disk.len_bytes(&file).ok().flatten().unwrap_or(0);
        let mut case = |kind, offset| cases.push(Case { file: file.clone(), offset, kind });
        for offset in (0..len).step_by(every.max(1) as usize) {
            for kind in [Kind::FlipBit, Kind::ZeroByte, Kind::SwapBytes] {
                case(kind, offset);
            }
        }
        for offset in (0..len).step_by(SECTOR_BYTES as usize) {
            for kind in [Kind::ZeroSector, Kind::SwapSectors, Kind::OverwriteSector] {
                case(kind, offset);
            }
        }
        case(Kind::LoseFile, 0);
    }
    cases
}

impl Case {
    /// Does it. False if that changes nothing.
    fn apply(&self, disk: &mut SimDisk) -> bool {
        let Self { file, offset, kind } = self;
        let offset = *offset;
        let len = disk.len_bytes(file).ok().flatten().unwrap_or(0);
        let unit = if *kind <= Kind::SwapBytes { 1 } else { SECTOR_BYTES.min(len - offset).max(1) };
        let other = mix(offset ^ len) % (len / unit).max(1) * unit;
        let before = contents(disk, file);
        match kind {
            Kind::FlipBit => {
                let flipped = read(disk, file, offset, 1)[0] ^ 1 << (offset % 8);
                disk.alter(file, offset, &[flipped]);
            }
            Kind::ZeroByte | Kind::ZeroSector => disk.alter(file, offset, &vec![0; unit as usize]),
            Kind::SwapBytes | Kind::SwapSectors => {
                let (here, there) = (read(disk, file, offset, unit), read(disk, file, other, unit));
                disk.alter(file, other, &here);
                disk.alter(file, offset, &there);
            }
            Kind::OverwriteSector => {
                let files: Vec<FileName> = disk.files().cloned().collect();
                let source = &files[(mix(offset ^ 1) % files.len() as u64) as usize];
                let sectors = disk.len_bytes(source).ok().flatten().unwrap_or(0) / SECTOR_BYTES;
                let from = mix(offset ^ 2) % sectors.max(1) * SECTOR_BYTES;
                let stray = read(disk, source, from, unit);
                disk.alter(file, offset, &stray);
            }
            Kind::LoseFile => {
                disk.lose_file(file);
                return true;
            }
        }
        contents(disk, file) != before
    }
}

fn read(disk: &mut SimDisk, file: &str, offset: u64, len_bytes: u64) -> Bytes {
    disk.read(file, offset, len_bytes).expect("a quiet disk can be read")
}

fn contents(disk: &mut SimDisk, file: &str) -> Bytes {
    read(disk, file, 0, u64::MAX)
}
