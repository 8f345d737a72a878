//! A run from its start to its report: threads, the look at them once an interval, and the end.

use std::sync::{Arc, Mutex, mpsc as channel};
use std::thread::JoinHandle;
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::plan::{End, Plan, PlanError};
use crate::report::{Latency, Moment, Report, printable};
use crate::signals::Signals;
use crate::tally::{Kinds, Tally, histogram};
use crate::worker::{Shared, Worker, lock, nanos};

/// Files a process has open beside its connections.
const OTHER_FILES: u64 = 64;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum RunError {
    /// The plan cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// This process may not have as many connections.
    #[error("connections: the limit of open files (ulimit -n) is {0}")]
    Files(u64),
    /// No event loop, or no signal handler.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// A connection could not be made before the start.
    #[error("no connection: {}", printable(.0))]
    Connect(String),
    /// A signal came before all connections were there.
    #[error("interrupted before the run began")]
    Interrupted,
    /// The keys could not be written before the run. How many failed, and why.
    #[error("filling: {0} of the keys were not written: {1:?}")]
    Fill(u64, Kinds),
}

/// How often keys are written if some were not, or may not have been, for a leader was lost in the
/// midst of it: what is written twice is as if it was written once.
const FILLS_MAX: u32 = 3;

/// Carries a plan out. `progress` is told after each interval how it went, and which part of the
/// run (0 to 1) is done. Ctrl-C, SIGTERM or SIGHUP ends the run early, with a report of what there
/// is; a second one does not wait for the answers that are due, and leaves threads behind.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&Moment, f64)) -> Result<Report, RunError> {
    plan.check()?;
    allow_files(plan.connections as u64 + OTHER_FILES)?;
    let mut lead = Lead::new(progress)?;
    if plan.fill
        && let Some(interrupted) = lead.fill(&plan.filling())?
    {
        return Ok(interrupted);
    }
    lead.run(plan)
}

/// Raises the limit of open files, as far as this process may.
fn allow_files(files: u64) -> Result<(), RunError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let allowed = limit.maximum.is_none_or(|maximum| maximum >= files);
    let raised = Rlimit { current: Some(files), ..limit };
    if !allowed || setrlimit(Resource::Nofile, raised).is_err() {
        return Err(RunError::Files(limit.maximum.or(limit.current).unwrap_or(0)));
    }
    Ok(())
}

/// A thread of the run, waiting for the start.
struct Crew {
    start: channel::Sender<Instant>,
    tally: Arc<Mutex<Tally>>,
    thread: JoinHandle<()>,
}

/// The main thread, which fills and then measures.
struct Lead<'a> {
    runtime: Runtime,
    signals: Signals,
    progress: &'a mut dyn FnMut(&Moment, f64),
}

impl<'a> Lead<'a> {
    fn new(progress: &'a mut dyn FnMut(&Moment, f64)) -> Result<Self, RunError> {
        let runtime = event_loop()?;
        let signals = runtime.block_on(async { Signals::listen() })?;
        Ok(Self { runtime, signals, progress })
    }

    /// Writes every key: the report, if it was interrupted.
    fn fill(&mut self, plan: &Plan) -> Result<Option<Report>, RunError> {
        for attempt in 1.. {
            let filled = self.run(plan)?;
            if filled.interrupted {
                return Ok(Some(filled));
            }
            if filled.failed == 0 && filled.answered >= plan.keys {
                break;
            }
            if attempt == FILLS_MAX {
                return Err(RunError::Fill(plan.keys - filled.answered, filled.errors));
            }
        }
        Ok(None)
    }

    fn run(&mut self, plan: &Plan) -> Result<Report, RunError> {
        let shared = Arc::new(Shared::new(plan.clone()));
        let (ended, ends) = mpsc::unbounded_channel();
        let (crew, readiness) = hire(&shared, &ended)?;
        drop(ended);
        // Dropping the crew on an error lets the threads that are ready end.
        self.wait_for(readiness)?;
        let start = Instant::now();
        for one in &crew {
            _ = one.start.send(start);
        }
        let tallies: Vec<_> = crew.iter().map(|one| Arc::clone(&one.tally)).collect();
        let mut watch = Watch { shared: &shared, tallies: &tallies, start, moments: Vec::new() };
        let Self { runtime, signals, progress } = self;
        let stop = runtime.block_on(watch.watch(ends, signals, progress));
        if stop != Stop::AtOnce {
            for one in crew {
                one.thread.join().expect("a thread of the run does not panic");
            }
        }
        watch.look_last();
        let moments = watch.moments;
        Ok(report(&shared, &tallies, moments, stop))
    }

    /// Waits until all connections are there.
    fn wait_for(&mut self, mut readiness: Readiness) -> Result<(), RunError> {
        let Self { runtime, signals, .. } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    () = signals.next() => return Err(RunError::Interrupted),
                    ready = readiness.recv() => match ready {
                        Some(Ok(())) => {}
                        Some(Err(why)) => return Err(RunError::Connect(why)),
                        None => return Ok(()),
                    }
                }
            }
        })
    }
}

/// Did a signal end the run?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    No,
    /// One: what was sent has been answered, or has failed.
    Early,
    /// Two: some of it may still be under way, and counted.
    AtOnce,
}

fn event_loop() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// What each thread says of its connections before it waits for the start.
type Readiness = mpsc::UnboundedReceiver<Result<(), String>>;

/// Starts the threads, which make their connections.
fn hire(
    shared: &Arc<Shared>,
    ended: &mpsc::UnboundedSender<()>,
) -> Result<(Vec<Crew>, Readiness), RunError> {
    let plan = &shared.plan;
    let (ready, readiness) = mpsc::unbounded_channel();
    let crew = (0..plan.threads)
        .map(|place| {
            let numbers = (place as u64..plan.connections as u64).step_by(plan.threads);
            let tally = Arc::new(Mutex::new(Tally::new(nanos(plan.warm_up))));
            let worker = Worker {
                shared: Arc::clone(shared),
                tally: Arc::clone(&tally),
                numbers: numbers.collect(),
            };
            let (start, started) = channel::channel();
            let runtime = event_loop()?;
            let (ready, ended) = (ready.clone(), ended.clone());
            let thread =
                std::thread::Builder::new().name(format!("load-{place}")).spawn(move || {
                    work(&runtime, worker, ready, &started);
                    drop(ended);
                })?;
            Ok(Crew { start, tally, thread })
        })
        .collect::<Result<Vec<_>, RunError>>()?;
    Ok((crew, readiness))
}

fn work(
    runtime: &Runtime,
    worker: Worker,
    ready: mpsc::UnboundedSender<Result<(), String>>,
    started: &channel::Receiver<Instant>,
) {
    match runtime.block_on(worker.connect()) {
        Err(why) => _ = ready.send(Err(why)),
        Ok(connected) => {
            _ = ready.send(Ok(()));
            drop(ready);
            if let Ok(start) = started.recv() {
                runtime.block_on(connected.run(start));
            }
        }
    }
}

/// The main thread's view of a run.
struct Watch<'a> {
    shared: &'a Shared,
    tallies: &'a [Arc<Mutex<Tally>>],
    start: Instant,
    moments: Vec<Moment>,
}

impl Watch<'_> {
    /// Looks once an interval, until all threads have ended or need not be waited for.
    async fn watch(
        &mut self,
        mut ends: mpsc::UnboundedReceiver<()>,
        signals: &mut Signals,
        progress: &mut dyn FnMut(&Moment, f64),
    ) -> Stop {
        let mut stop = Stop::No;
        let mut ticks = interval(self.shared.plan.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        loop {
            tokio::select! {
                // Nothing is ever sent: the channel closes when the last thread ends.
                _ = ends.recv() => return stop,
                () = signals.next() => {
                    if stop == Stop::Early {
                        return Stop::AtOnce;
                    }
                    stop = Stop::Early;
                    self.shared.stop(nanos(self.start.elapsed()));
                }
                _ = ticks.tick() => {
                    let moment = self.look();
                    let sent = self.shared.sent();
                    progress(&moment, Report::done(&self.shared.plan, moment.at_seconds, sent));
                }
            }
        }
    }

    /// What happened since the last look.
    fn look(&mut self) -> Moment {
        let at_seconds = self.start.elapsed().as_secs_f64();
        let before = self.moments.last().map_or(0.0, |moment| moment.at_seconds);
        let mut latency_ns = histogram();
        let failed =
            self.tallies.iter().map(|tally| lock(tally).take_interval(&mut latency_ns)).sum();
        let moment = Moment::new(at_seconds, at_seconds - before, &latency_ns, failed);
        self.moments.push(moment);
        moment
    }

    /// Counts what came after the last look. So short a time has no rate: its failures count for
    /// the moment before.
    fn look_last(&mut self) {
        let before = self.moments.last().map(|moment| moment.at_seconds);
        let last = self.look();
        let half_seconds = self.shared.plan.interval.as_secs_f64() / 2.0;
        if before.is_some_and(|before| last.at_seconds - before < half_seconds) {
            self.moments.pop();
            if let Some(before) = self.moments.last_mut() {
                before.failed += last.failed;
            }
        }
    }
}

fn report(
    shared: &Shared,
    tallies: &[Arc<Mutex<Tally>>],
    moments: Vec<Moment>,
    stop: Stop,
) -> Report {
    let plan = shared.plan.clone();
    let mut sum = Tally::new(0);
    let mut all = histogram();
    let mut by_op: Vec<(&str, Histogram<u64>)> = Vec::new();
    for tally in tallies {
        let tally = lock(tally);
        sum.answered += tally.answered;
        sum.in_warm_up += tally.in_warm_up;
        sum.misses += tally.misses;
        sum.last_ns = sum.last_ns.max(tally.last_ns);
        add_kinds(&mut sum.errors, &tally.errors);
        add_kinds(&mut sum.connections_lost, &tally.connections_lost);
        for (op, histogram) in tally.latencies() {
            all += histogram;
            match by_op.iter_mut().find(|(name, _)| *name == op.name()) {
                Some((_, of)) => *of += histogram,
                None => by_op.push((op.name(), histogram.clone())),
            }
        }
    }
    let sent = shared.sent();
    if stop == Stop::AtOnce {
        let counted = sum.answered + sum.in_warm_up + sum.errors.values().sum::<u64>();
        sum.failed("not waited for", sent - counted);
    }
    let failed = sum.errors.values().sum();
    assert_eq!(sent, sum.answered + sum.in_warm_up + failed, "every command is accounted for");

    let end_ns = shared.end_ns();
    let until_ns = match plan.end {
        End::Count(count) if sent == count => sum.last_ns,
        // With a time, or ended before its count: it lasted until then, answered or not.
        _ => sum.last_ns.max(end_ns),
    };
    let measured_seconds = until_ns.saturating_sub(nanos(plan.warm_up)) as f64 / 1e9;
    let per_second = sum.answered as f64 / measured_seconds;
    let due = shared.schedule().map_or(sent, |schedule| match plan.end {
        End::Count(count) => count.min(schedule.due_before(end_ns)),
        End::After(_) => schedule.due_before(end_ns),
    });
    let mut latencies = vec![Latency::new("all", &all)];
    if by_op.len() > 1 {
        latencies.extend(by_op.iter().map(|(name, histogram)| Latency::new(name, histogram)));
    }
    Report {
        plan,
        measured_seconds,
        answered_per_second: if per_second.is_finite() { per_second } else { 0.0 },
        sent,
        answered: sum.answered,
        answered_in_warm_up: sum.in_warm_up,
        failed,
        not_sent: due.saturating_sub(sent),
        misses: sum.misses,
        errors: sum.errors,
        connections_lost: sum.connections_lost,
        interrupted: stop != Stop::No,
        latencies,
        moments,
    }
}

fn add_kinds(sum: &mut Kinds, kinds: &Kinds) {
    for (kind, times) in kinds {
        *sum.entry(kind.clone()).or_default() += times;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::Op;
    use crate::plan::tests::plan;
    use crate::tally::Sent;

    #[test]
    fn a_run_that_ends_before_its_count_is_measured_until_then() {
        let measured_seconds = |count| {
            let shared = Shared::new(Plan { end: End::Count(count), ..plan() });
            let tally = Arc::new(Mutex::new(Tally::new(0)));
            for from_ns in 0..3 {
                shared.claim(from_ns).unwrap();
                lock(&tally).answered(Sent { op: Op::Set, from_ns }, 1_000_000_000);
            }
            shared.stop(61_000_000_000);
            report(&shared, &[tally], Vec::new(), Stop::No).measured_seconds
        };
        assert!((measured_seconds(3) - 1.0).abs() < 1e-9, "all was sent");
        assert!((measured_seconds(4) - 61.0).abs() < 1e-9, "it was given up a minute later");
    }
}
