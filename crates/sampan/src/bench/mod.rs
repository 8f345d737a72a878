//! `sampan bench`: the command line of the load generator, its progress line, and where its results
//! go. What it does is in `sampan-bench`.

mod outputs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sampan_bench::{Distribution, End, Mix, Moment, Plan, PlanError, Protocol, RunError};

use crate::clerk::Servers;
use crate::exit::{self, Ended, Failure};
use crate::terminal::{LiveLine, complain};
use outputs::Outputs;

/// Measures a cluster, or any server that speaks the Redis protocol
///
/// Connections go to the servers in turn. Without --rate each connection sends the next commands
/// when those before are answered (closed loop). With it, commands are due at that rate whatever
/// the server does, and a latency counts from when a command was due (open loop).
///
/// Ctrl-C, SIGTERM or SIGHUP ends the run with a report; a second one waits for no answer.
///
/// Exit codes: 0 all was answered; 1 something failed or was never sent, nothing was measured, or
/// the run was interrupted; 2 bad arguments; 3 no connection, or with --clerk to no Sampan node; 6
/// measured, but a result could not be written.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct BenchArgs {
    /// Commands and their shares: get, set, incr, del, exists, ping
    #[arg(long, value_name = "NAME[:SHARE],...", default_value = "set")]
    mix: Mix,
    /// How many keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    /// How keys are chosen: uniform, zipf, zipf:EXPONENT or sequential
    #[arg(long, value_name = "HOW", default_value = "uniform")]
    distribution: Distribution,
    /// Length of the values that set writes
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    value_bytes: usize,
    /// Connections, or Clerks
    #[arg(long, short, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Commands in flight on each connection
    #[arg(long, short = 'P', value_name = "N", default_value_t = 1)]
    pipeline: usize,
    /// Commands due per second, of all connections together: an open loop
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Stop after this time, warm-up not included
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, conflicts_with = "count")]
    seconds: f64,
    /// Stop after this many commands, those of the warm-up included
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Send for this long before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    warm_up_seconds: f64,
    /// Write every key before the run
    #[arg(long)]
    fill: bool,
    /// Through Clerks, with exactly-once writes, in place of bare connections
    #[arg(long)]
    clerk: bool,
    /// Threads that the connections are spread over, at most one a core
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Length of one point of the plots over time
    #[arg(long, value_name = "MS", default_value_t = 500)]
    interval_ms: u64,
    /// Decides all that is random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the result as JSON to a file, or to standard output (-) in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Draw throughput and latencies to a file, or to standard output (-) in place of the text
    #[arg(long, value_name = "FILE|-")]
    svg: Option<PathBuf>,
}

/// Measures, prints and writes what was asked for.
pub(crate) fn run(servers: &Servers, args: &BenchArgs) -> Ended {
    let plan = plan(servers, args)?;
    let outputs = Outputs::check(args.json.as_deref(), args.svg.as_deref())?;
    let mut progress = Progress { line: LiveLine::new(), failed: 0 };
    let report = sampan_bench::run(&plan, &mut |moment, done| progress.show(moment, done));
    progress.end();
    let report = report.map_err(|error| failure(&error))?;
    if report.is_empty() && report.failed == 0 {
        let why = if report.answered_in_warm_up > 0 { ": it ended in its warm-up" } else { "" };
        complain(format_args!("sampan: nothing was measured{why}"));
    }
    outputs.write(&report)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { exit::NOT_MET.into() })
}

fn plan(servers: &Servers, args: &BenchArgs) -> Result<Plan, Failure> {
    let end = match args.count {
        Some(count) => End::Count(count),
        None => End::After(seconds("seconds", args.seconds)?),
    };
    let plan = Plan {
        servers: servers.addresses()?.to_vec(),
        protocol: if args.clerk { Protocol::Clerk } else { Protocol::Resp },
        mix: args.mix.clone(),
        keys: args.keys,
        distribution: args.distribution,
        value_bytes: args.value_bytes,
        connections: args.connections,
        pipeline: args.pipeline,
        threads: args.threads,
        rate: args.rate,
        warm_up: seconds("warm-up-seconds", args.warm_up_seconds)?,
        end,
        timeout: Duration::from_millis(servers.timeout_ms),
        interval: Duration::from_millis(args.interval_ms),
        fill: args.fill,
        seed: args.seed,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if plan.threads > cores {
        return Err(Failure::usage(format!("threads: this machine has {cores} cores")));
    }
    plan.check().map_err(|error| bad_plan(&error))?;
    Ok(plan)
}

fn seconds(setting: &str, seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| Failure::usage(format!("{setting}: '{seconds}' is no time")))
}

/// The fault by the name of its flag.
fn bad_plan(error: &PlanError) -> Failure {
    let flag = match error.setting {
        "timeout" => "timeout-ms".to_owned(),
        "interval" => "interval-ms".to_owned(),
        other => other.replace('_', "-"),
    };
    Failure::usage(format!("{flag}: {}", error.why))
}

fn failure(error: &RunError) -> Failure {
    match error {
        RunError::Plan(error) => bad_plan(error),
        RunError::Files(_) | RunError::Start(_) => Failure::usage(error.to_string()),
        RunError::Connect(_) => Failure::new(exit::UNAVAILABLE, error.to_string()),
        RunError::Fill(..) | RunError::Interrupted => {
            Failure::new(exit::NOT_MET, error.to_string())
        }
    }
}

/// How the run goes, on one line of a terminal.
struct Progress {
    line: LiveLine,
    failed: u64,
}

impl Progress {
    fn show(&mut self, moment: &Moment, done: f64) {
        self.failed += moment.failed;
        let moment = Moment { failed: self.failed, ..*moment };
        self.line.show(&format!("{:3.0} % {moment}", 100.0 * done));
    }

    fn end(&mut self) {
        self.line.clear();
        if self.failed > 0 {
            complain(format_args!("sampan: {} commands failed", self.failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handbook_has_every_flag_with_its_default() {
        let handbook = include_str!("../../../../docs/operations.md");
        let (_, section) = handbook.split_once("## Measuring").expect("its section");
        let command = BenchArgs::augment_args(clap::Command::new("bench"));
        for arg in command.get_arguments() {
            let flag = format!("| `--{}", arg.get_long().expect("flags only"));
            let of_flag = |line: &&str| {
                line.strip_prefix(&*flag).is_some_and(|rest| rest.starts_with(['`', ' ']))
            };
            let row = section.lines().find(of_flag).unwrap_or_else(|| panic!("no {flag}"));
            let cell = row.split('|').nth(2).expect("a default").trim();
            let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            let default = defaults.filter(|value| value != "false").collect::<String>();
            assert_eq!(cell, default, "{row}");
        }
    }
}
