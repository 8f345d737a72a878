//! A run from its start to its report: threads, the look at them once an interval, and the end.

use std::sync::{Arc, Mutex, mpsc as channel};
use std::thread::JoinHandle;
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::plan::{End, Plan, PlanError};
use crate::report::{Latency, Moment, Report};
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
    #[error("no connection: {0}")]
    Connect(String),
    /// The keys could not be written before the run. How many failed, and why.
    #[error("filling: {0} of the keys were not written: {1:?}")]
    Fill(u64, Kinds),
}

/// Carries a plan out. `progress` is told after each interval how it went, and which part of the
/// run (0 to 1) is done. Ctrl-C ends the run early, with a report of what there is.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&Moment, f64)) -> Result<Report, RunError> {
    plan.check()?;
    allow_files(plan.connections as u64 + OTHER_FILES)?;
    if plan.fill {
        let filled = run_one(&plan.filling(), progress)?;
        if filled.interrupted {
            return Ok(filled);
        }
        if filled.failed > 0 || filled.answered < plan.keys {
            return Err(RunError::Fill(plan.keys - filled.answered, filled.errors));
        }
    }
    run_one(plan, progress)
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

fn run_one(plan: &Plan, progress: &mut dyn FnMut(&Moment, f64)) -> Result<Report, RunError> {
    let runtime = event_loop()?;
    let shared = Arc::new(Shared::new(plan.clone()));
    let (ended, mut ends) = mpsc::unbounded_channel();
    let crew = hire(&shared, &ended)?;
    drop(ended);
    let start = Instant::now();
    for one in &crew {
        _ = one.start.send(start);
    }
    let tallies: Vec<_> = crew.iter().map(|one| Arc::clone(&one.tally)).collect();
    let mut watch = Watch { shared: &shared, tallies: &tallies, start, moments: Vec::new() };
    let interrupted = runtime.block_on(watch.watch(&mut ends, progress))?;
    for one in crew {
        one.thread.join().expect("a thread of the run does not panic");
    }
    watch.look_last();
    let moments = watch.moments;
    Ok(report(&shared, &tallies, moments, interrupted))
}

fn event_loop() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Starts the threads and waits until all connections are there.
fn hire(shared: &Arc<Shared>, ended: &mpsc::UnboundedSender<()>) -> Result<Vec<Crew>, RunError> {
    let plan = &shared.plan;
    let (ready, readiness) = channel::channel();
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
                    work(&runtime, worker, &ready, &started);
                    drop(ended);
                })?;
            Ok(Crew { start, tally, thread })
        })
        .collect::<Result<Vec<_>, RunError>>()?;
    drop(ready);
    for _ in &crew {
        // Dropping the crew on an error lets the threads that are ready end.
        readiness.recv().expect("each thread says how it went").map_err(RunError::Connect)?;
    }
    Ok(crew)
}

fn work(
    runtime: &Runtime,
    worker: Worker,
    ready: &channel::Sender<Result<(), String>>,
    started: &channel::Receiver<Instant>,
) {
    match runtime.block_on(worker.connect()) {
        Err(why) => _ = ready.send(Err(why)),
        Ok(connected) => {
            _ = ready.send(Ok(()));
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
    /// Looks once an interval, until all threads have ended. Was the run stopped by Ctrl-C?
    async fn watch(
        &mut self,
        ends: &mut mpsc::UnboundedReceiver<()>,
        progress: &mut dyn FnMut(&Moment, f64),
    ) -> std::io::Result<bool> {
        let mut interrupted = false;
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut ticks = interval(self.shared.plan.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        loop {
            tokio::select! {
                // Nothing is ever sent: the channel closes when the last thread ends.
                _ = ends.recv() => return Ok(interrupted),
                Some(()) = interrupts.recv() => {
                    interrupted = true;
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

    /// Counts what came after the last look. So short a time has no rate: its failures count for the
    /// moment before.
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
    interrupted: bool,
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
    let failed = sum.errors.values().sum();
    let sent = shared.sent();
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
        interrupted,
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
            report(&shared, &[tally], Vec::new(), false).measured_seconds
        };
        assert!((measured_seconds(3) - 1.0).abs() < 1e-9, "all was sent");
        assert!((measured_seconds(4) - 61.0).abs() < 1e-9, "it was given up a minute later");
    }
}
