//! The disk threads: one per lane, each with a queue of jobs.
//!
//! A job goes over by a channel and the result comes back by a shared list and one wake-up of the
//! event loop. What a job does is [`sampan_replica::job::run`]'s.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;

use sampan_replica::{DiskDone, DiskJob, Lane, job};

use crate::disk::RealDisk;
use crate::error::ServerError;

/// All lanes. Dropping it ends the threads after the jobs they have.
pub(crate) struct DiskThreads {
    log: Sender<DiskJob>,
    segments: Sender<DiskJob>,
    background: Sender<DiskJob>,
    done: Arc<Done>,
}

/// Results on their way back.
#[derive(Default)]
struct Done {
    state: Mutex<DoneState>,
}

#[derive(Default)]
struct DoneState {
    results: Vec<DiskDone>,
    /// A thread has ended before its queue did: it panicked.
    lost: bool,
    waker: Option<Waker>,
}

impl DiskThreads {
    /// Starts a thread for each lane.
    pub(crate) fn start(disk: &RealDisk) -> Result<Self, ServerError> {
        let done = Arc::new(Done::default());
        let log = spawn("disk-log", disk.clone(), &done)?;
        let segments = spawn("disk-segments", disk.clone(), &done)?;
        let background = spawn("disk-background", disk.clone(), &done)?;
        Ok(Self { log, segments, background, done })
    }

    /// Queues a job in its lane.
    pub(crate) fn submit(&self, job: DiskJob) {
        let lane = match job.lane() {
            Lane::Log => &self.log,
            Lane::Segments => &self.segments,
            Lane::Background => &self.background,
        };
        // A lane that is gone has reported itself as lost.
        _ = lane.send(job);
    }

    /// Is there a result? If not, `waker` is woken when there is.
    pub(crate) fn poll_results(&self, waker: &Waker) -> bool {
        let mut state = self.done.lock();
        let ready = !state.results.is_empty() || state.lost;
        if !ready && !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        ready
    }

    /// Moves the results there are into `results`.
    pub(crate) fn take_results(&self, results: &mut Vec<DiskDone>) -> Result<(), ServerError> {
        let mut state = self.done.lock();
        results.append(&mut state.results);
        if state.lost {
            return Err(ServerError::Invariant("a disk thread panicked".into()));
        }
        Ok(())
    }
}

impl Done {
    fn lock(&self) -> std::sync::MutexGuard<'_, DoneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, result: DiskDone) {
        let mut state = self.lock();
        state.results.push(result);
        let waker = state.waker.clone();
        drop(state);
        waker.inspect(Waker::wake_by_ref);
    }
}

/// Reports the end of a thread that did not end by itself.
struct Watch(Arc<Done>);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut state = self.0.lock();
            state.lost = true;
            state.waker.take().inspect(Waker::wake_by_ref);
        }
    }
}

fn spawn(name: &str, disk: RealDisk, done: &Arc<Done>) -> Result<Sender<DiskJob>, ServerError> {
    let (jobs, queue) = channel();
    let watch = Watch(done.clone());
    thread::Builder::new()
        .name(name.into())
        .spawn(move || work(disk, &queue, &watch))
        .map_err(|error| ServerError::Resources(format!("no thread for {name}: {error}")))?;
    Ok(jobs)
}

fn work(mut disk: RealDisk, queue: &Receiver<DiskJob>, watch: &Watch) {
    for job in queue {
        watch.0.push(job::run(&mut disk, job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use sampan_base::disk::DiskOp;

    use super::*;
    use crate::testing::TempDir;

    #[derive(Default)]
    struct Count(AtomicUsize, Mutex<Option<thread::Thread>>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.lock().unwrap().as_ref().inspect(|thread| thread.unpark());
        }
    }

    fn results_of(threads: &DiskThreads, count: usize) -> Vec<DiskDone> {
        let wakes = Arc::new(Count(AtomicUsize::new(0), Mutex::new(Some(thread::current()))));
        let waker = Waker::from(wakes);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut results = Vec::new();
        while results.len() < count {
            assert!(Instant::now() < deadline, "only {results:?}");
            if threads.poll_results(&waker) {
                threads.take_results(&mut results).unwrap();
            } else {
                thread::park_timeout(Duration::from_secs(1));
            }
        }
        results
    }

    #[test]
    fn jobs_of_a_lane_run_in_order_and_each_result_comes_back() {
        let dir = TempDir::new("disk-thread");
        let threads = DiskThreads::start(&RealDisk::new(dir.path())).unwrap();
        let write = |offset, bytes: &'static [u8]| {
            let bytes = Bytes::from_static(bytes);
            DiskOp::Write { file: "f".into(), offset, bytes }
        };
        threads.submit(DiskJob::Append(vec![write(0, b"too early")]));
        threads.submit(DiskJob::Append(vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }]));
        threads.submit(DiskJob::Append(vec![write(0, b"good"), DiskOp::Sync { file: "f".into() }]));
        let results = results_of(&threads, 3);
        assert!(matches!(results[0], DiskDone::Append(Err(_))), "{results:?}");
        assert_eq!(results[1..], [DiskDone::Append(Ok(())), DiskDone::Append(Ok(()))]);
        threads.submit(DiskJob::Append(vec![DiskOp::Remove { file: "f".into() }]));
        assert_eq!(results_of(&threads, 1), [DiskDone::Append(Ok(()))]);
    }

    #[test]
    fn a_result_wakes_whoever_asked_before_it_was_there() {
        let dir = TempDir::new("disk-thread-wake");
        let threads = DiskThreads::start(&RealDisk::new(dir.path())).unwrap();
        let wakes = Arc::new(Count::default());
        assert!(!threads.poll_results(&Waker::from(wakes.clone())));
        threads.submit(DiskJob::Maintain(Vec::new()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while wakes.0.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "nobody is woken");
            thread::yield_now();
        }
        assert_eq!(results_of(&threads, 1), [DiskDone::Maintain(Ok(()))]);
    }

    #[test]
    fn a_thread_that_panics_is_a_broken_invariant() {
        let dir = TempDir::new("disk-thread-panic");
        let threads = DiskThreads::start(&RealDisk::new(dir.path())).unwrap();
        threads
            .submit(DiskJob::Append(vec![DiskOp::Create { file: "../f".into(), zero_bytes: 0 }]));
        let waker = Waker::from(Arc::new(Count::default()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !threads.poll_results(&waker) {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert_eq!(threads.take_results(&mut Vec::new()).unwrap_err().exit_code(), 8);
    }
}
