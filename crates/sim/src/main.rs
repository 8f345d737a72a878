//! `sampan-sim`: runs seeds, replays one, checks histories. `docs/simulator.md` describes it.

mod terminal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sampan_lincheck::{Options, check as decide, html, run_file};
use sampan_sim::crashes::{CrashSweep, crashes, explain as explain_crash};
use sampan_sim::damage::{DamageSweep, damage};
use sampan_sim::labs;
use sampan_sim::run::RunReport;
use sampan_sim::runner::{
    ALL_STRIKE_WITHIN, Sweep, name_seeds_of_panics, plan_of, run_plan, sweep,
};
use sampan_sim::swarm::Plan;
use sampan_sim::trace::Trace;
use terminal::say;

/// The same as the server's: a run is many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Deterministic simulation of whole Sampan clusters.
#[derive(Parser)]
#[command(name = "sampan-sim", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds, each with its own cluster, load and faults.
    Run {
        /// How many seeds.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How long faults strike in each run, in virtual minutes.
        #[arg(long, default_value_t = 3.0)]
        minutes_simulated: f64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Stop after so many runs that failed.
        #[arg(long, default_value_t = 10)]
        failures_max: usize,
        /// Print one line a seed, as it ends.
        #[arg(long)]
        list: bool,
        /// Members change all the time.
        #[arg(long)]
        members: bool,
    },
    /// Run the course's suites, and the ten difficulties.
    Labs {
        /// 2A, 2B, 2C, 2D, 3A, 3B, difficulties; all if none is named.
        #[arg(value_parser = labs::SUITES, ignore_case = true)]
        suites: Vec<String>,
        /// How many seeds for each row.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Only rows whose name holds this.
        #[arg(long)]
        test: Option<String>,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Write and send snapshots 16 bytes at a time, not as shipped.
        #[arg(long)]
        tiny_chunks: bool,
        /// Print one JSON object a row instead of a table.
        #[arg(long)]
        json: bool,
        /// Print one line an event. For one row and one seed.
        #[arg(long)]
        trace: bool,
    },
    /// Run one seed and print one line an event.
    Replay {
        /// The seed.
        seed: u64,
        /// How long faults strike, in virtual minutes.
        #[arg(long, default_value_t = 3.0)]
        minutes_simulated: f64,
        /// Print only so many of the last lines.
        #[arg(long)]
        last: Option<usize>,
        /// Draw what clients saw in this file, if the run fails.
        #[arg(long)]
        html: Option<PathBuf>,
        /// First print what the seed decides in advance.
        #[arg(long)]
        plan: bool,
        /// Members change all the time.
        #[arg(long)]
        members: bool,
    },
    /// Run seeds briefly and print the hash of each trace: the same every time, in every build.
    Hashes {
        /// How many seeds.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How long faults strike in each run, in virtual seconds.
        #[arg(long, default_value_t = 2.0)]
        seconds_simulated: f64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Let the power go at every sync of reference runs, and start from every disk that may be
    /// left.
    Crashes {
        /// How many reference runs.
        #[arg(long, default_value_t = 8)]
        seeds: u64,
        /// The seed of the first.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How long each of them is, in virtual seconds.
        #[arg(long, default_value_t = 10.0)]
        seconds_simulated: f64,
        /// Up to so many disks that a power loss may leave at one sync, try all.
        #[arg(long, default_value_t = 1024)]
        exhaustive_ways: u64,
        /// How many crashes of each run the whole cluster lives through: of each kind in turn one,
        /// or all of them, if there are no more.
        #[arg(long, default_value_t = 20)]
        continued: u64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Plant bugs one by one and see each caught. Needs a build that can: `docs/plants.md`.
    Plants {
        /// Which; all if none is named.
        names: Vec<String>,
        /// Independent searches for each.
        #[arg(long, default_value_t = 5)]
        searches: u64,
        /// Seeds that one search tries at most.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// How long faults strike in each run, in virtual seconds.
        #[arg(long, default_value_t = 20)]
        seconds_simulated: u64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Change every byte of a node's files, and see what it, and its cluster, make of it.
    Damage {
        /// How many reference runs.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// The seed of the first.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How long each of them is, in virtual seconds.
        #[arg(long, default_value_t = 10.0)]
        seconds_simulated: f64,
        /// Of every so many bytes change one.
        #[arg(long, default_value_t = 1)]
        every: u64,
        /// How many cases of each run the whole cluster lives through.
        #[arg(long, default_value_t = 200)]
        continued: u64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
    },
    /// Check a recorded history: is it linearizable?
    Check {
        /// JSON lines, one operation each.
        history: PathBuf,
        /// Draw it in this file.
        #[arg(long)]
        html: Option<PathBuf>,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
}

/// Lines of the trace that are shown of a run that failed.
const LINES_SHOWN: usize = 40;

fn main() -> ExitCode {
    name_seeds_of_panics();
    labs::name_rows_of_panics();
    match Arguments::parse().command {
        Command::Run { seeds, from, minutes_simulated, threads, failures_max, list, members } => {
            let safety = Duration::from_secs_f64(minutes_simulated * 60.0);
            run(Sweep { from, seeds, safety, threads, members }, failures_max, list)
        }
        Command::Labs { suites, seeds, from, test, threads, tiny_chunks, json, trace } => {
            let selection =
                labs::Selection { suites, test, from, seeds, threads, tiny_chunks, trace };
            run_labs(&selection, json)
        }
        Command::Replay { seed, minutes_simulated, last, html, plan, members } => {
            let safety = Duration::from_secs_f64(minutes_simulated * 60.0);
            let planned = plan_of(seed, safety, members);
            if plan {
                say!("{planned:#?}");
            }
            replay(planned, last, html.as_deref())
        }
        Command::Hashes { seeds, from, seconds_simulated, threads } => {
            let safety = Duration::from_secs_f64(seconds_simulated);
            hashes(Sweep { from, seeds, safety, threads, members: false })
        }
        Command::Crashes {
            seeds,
            from,
            seconds_simulated,
            exhaustive_ways,
            continued,
            threads,
        } => {
            let safety = Duration::from_secs_f64(seconds_simulated);
            run_crashes(CrashSweep { from, seeds, safety, exhaustive_ways, continued, threads })
        }
        Command::Plants { names, searches, seeds, seconds_simulated, threads } => {
            plants(&names, searches, seeds, Duration::from_secs(seconds_simulated), threads)
        }
        Command::Damage { seeds, from, seconds_simulated, every, continued, threads } => {
            let safety = Duration::from_secs_f64(seconds_simulated);
            run_damage(DamageSweep { from, seeds, safety, every, continued, threads })
        }
        Command::Check { history, html, threads } => check(&history, html.as_deref(), threads),
    }
}

fn run(what: Sweep, failures_max: usize, list: bool) -> ExitCode {
    let summary = sweep(what, failures_max, |report| {
        if list {
            say!("{}", report.line());
        }
        if let Some(violation) = &report.violation {
            say!("seed {}: {violation}", report.seed);
        }
    });
    say!("{summary}");
    for failure in summary.failures.iter().take(3) {
        explain(failure, what);
    }
    let silent = if what.safety < ALL_STRIKE_WITHIN { &[] } else { &*summary.silent_runs };
    for (seed, faults) in silent {
        let faults: Vec<&str> = faults.iter().map(|fault| fault.label()).collect();
        say!("seed {seed}: enabled, and never struck: {}", faults.join(", "));
    }
    let never = summary.never_struck();
    if !never.is_empty() {
        say!("never struck in any run: {never:?}");
    }
    say!("{} of {} seeds failed", summary.failures.len() + silent.len(), summary.runs);
    if summary.failures.is_empty() && silent.is_empty() && never.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn hashes(what: Sweep) -> ExitCode {
    let mut lines = BTreeMap::new();
    let summary = sweep(what, usize::MAX, |report| {
        let RunReport { seed, hash, events, violation, .. } = report;
        let ended = violation.as_ref().map_or("well".into(), ToString::to_string);
        lines.insert(
            *seed,
            format!("seed {seed}: trace hash {hash:016x}, {events} events, {ended}"),
        );
    });
    for line in lines.values() {
        say!("{line}");
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_labs(selection: &labs::Selection, json: bool) -> ExitCode {
    let began = std::time::Instant::now();
    let reports = labs::run(selection, |report| {
        if !json && let Some(failure) = &report.failure {
            say!("FAIL {} {}, seed {}: {failure}", report.suite, report.test, report.seed);
        }
    });
    if json {
        for report in &reports {
            say!("{}", labs::json(report));
        }
    } else {
        say!("{}\n{}", labs::preface(), labs::table(&reports));
        say!("{}", labs::summary(&reports, began.elapsed()));
    }
    let passed = !reports.is_empty() && reports.iter().all(|report| report.failure.is_none());
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_crashes(sweep: CrashSweep) -> ExitCode {
    let report = crashes(sweep, |failure| say!("{failure}"));
    for failure in report.failures.iter().take(3) {
        say!("\n{failure}");
        for line in explain_crash(failure, &sweep, LINES_SHOWN) {
            say!("  {line}");
        }
    }
    say!("{report}");
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_damage(sweep: DamageSweep) -> ExitCode {
    let report = damage(sweep, |failure| say!("FAIL {failure}"));
    say!("{report}");
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a failed seed again and shows how it ended.
fn explain(failure: &RunReport, what: Sweep) {
    let minutes = what.safety.as_secs_f64() / 60.0;
    let Some(violation) = &failure.violation else { return };
    say!("\nseed {} violates {violation}", failure.seed);
    let plan = plan_of(failure.seed, what.safety, what.members);
    let again = run_plan(plan, Trace::keeping(LINES_SHOWN), None);
    for line in &again.lines {
        say!("  {line}");
    }
    let members = if what.members { " --members" } else { "" };
    say!("  sampan-sim replay {} --minutes-simulated {minutes}{members}", failure.seed);
}

fn replay(plan: Plan, last: Option<usize>, html: Option<&Path>) -> ExitCode {
    let (seed, trace) = (plan.seed, last.map_or_else(Trace::printing, Trace::keeping));
    let report = run_plan(plan, trace, None);
    for line in &report.lines {
        say!("{line}");
    }
    say!("seed {seed}: {} events, trace hash {:016x}", report.events, report.hash);
    if let (Some(path), Some(history)) = (html, &report.record) {
        let picture = html::render(history, &decide(history, &Options::default()));
        if let Err(error) = std::fs::write(path, picture) {
            eprintln!("cannot write {}: {error}", path.display());
        }
    }
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            say!("seed {seed} violates {violation}");
            ExitCode::FAILURE
        }
    }
}

fn check(history: &Path, html: Option<&Path>, threads: usize) -> ExitCode {
    match run_file(history, html, &Options { threads, ..Options::default() }) {
        Ok(report) => {
            say!("{report}");
            if report.is_linearizable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(feature = "plants", panic = "unwind")))]
fn plants(_: &[String], _: u64, _: u64, _: Duration, _: usize) -> ExitCode {
    eprintln!(
        "this build cannot plant bugs, nor go on after the assertions they break; use\n  \
         cargo run --profile plants -p sampan-sim --features plants -- plants"
    );
    ExitCode::FAILURE
}

#[cfg(all(feature = "plants", panic = "unwind"))]
fn plants(
    names: &[String],
    count: u64,
    seeds_max: u64,
    safety: Duration,
    threads: usize,
) -> ExitCode {
    use sampan_base::plant::Plant;
    use sampan_sim::plants::{HEADING, Searches, hush_panics, search};

    let is_named = |plant: &Plant| names.is_empty() || names.iter().any(|n| n == plant.name());
    let plants: Vec<Plant> = Plant::ALL.into_iter().filter(is_named).collect();
    if let Some(name) = names.iter().find(|n| plants.iter().all(|plant| plant.name() != *n)) {
        let all: Vec<&str> = Plant::ALL.into_iter().map(Plant::name).collect();
        eprintln!("no bug is called {name}; there are {}", all.join(", "));
        return ExitCode::FAILURE;
    }
    hush_panics();
    say!("{HEADING}");
    let (mut survivors, mut bad_seeds) = (Vec::new(), 0);
    let began = std::time::Instant::now();
    search(&plants, Searches { count: count.max(1), seeds_max, safety, threads }, |ledger| {
        say!("{ledger}");
        for (seed, violation) in ledger.found.iter().flat_map(|found| &found.bad_seeds) {
            eprintln!("{}: seed {seed} fails without a bug, too: {violation}", ledger.plant.name());
            bad_seeds += 1;
        }
        if !ledger.is_caught() {
            survivors.push(ledger.plant.name());
        }
    });
    let (all, seconds) = (plants.len(), began.elapsed().as_secs_f64());
    say!("\n{} of {all} caught in {seconds:.0} s", all - survivors.len());
    if !survivors.is_empty() {
        say!("survived: {}", survivors.join(", "));
    }
    if bad_seeds > 0 {
        say!("{bad_seeds} seeds fail without a bug: that is one of Sampan or of its simulator");
    }
    ExitCode::from(u8::from(!survivors.is_empty() || bad_seeds > 0))
}
