//! The disk threads: one per lane, or two, each with a queue of jobs.
//!
//! A job goes over by a channel and the result comes back by a shared list and one wake-up of the
//! event loop. What a job does is [`sampan_replica::job::run`]'s. A group commit may also be run by
//! the event loop itself, if the log lane is empty; when it is, `quick_disk.rs` decides.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use sampan_replica::{DiskDone, DiskJob, Lane, job};

use crate::background;
use crate::direct::PIECE_BYTES;
use crate::disk::RealDisk;
use crate::error::ServerError;
use crate::lock::DirectoryLock;
use crate::polite_lane::PoliteLane;
use crate::quick_disk::QuickDisk;
use crate::segments_lane::{self, LogPace, Work, written_bytes};

/// A disk has others to serve, whose syncs wait for the piece that it is at: short ones, as long as
/// it keeps up.
const SHORT_PIECE_BYTES: usize = 64 << 10;
/// With so many jobs waiting it does not: it gets more done in long ones.
const BACKLOG: usize = 4;

/// All lanes. Dropping it ends the thread of the log after the jobs it has, those of snapshots
/// after the one that they are at, and that of the segment lane in the midst of one.
pub(crate) struct DiskThreads {
    log: Sender<DiskJob>,
    segments: Sender<DiskJob>,
    background: PoliteLane,
    reading: PoliteLane,
    done: Arc<Done>,
    /// For what the event loop runs itself.
    disk: RealDisk,
    /// What it has run.
    done_here: Vec<DiskDone>,
    /// A group commit that it ran failed: the lane of the log is at its end.
    log_failed: bool,
    /// Jobs in the log lane.
    in_log_lane: usize,
    /// When the group commit under way was submitted.
    append_since: Instant,
    quick: QuickDisk,
    pace: Arc<LogPace>,
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        self.pace.end();
    }
}

/// Results on their way back.
#[derive(Default)]
struct Done {
    state: Mutex<DoneState>,
}

#[derive(Default)]
struct DoneState {
    /// Each with the lane that it comes from.
    results: Vec<(Lane, DiskDone)>,
    /// A thread has ended before its queue did: it panicked.
    lost: bool,
    waker: Option<Waker>,
}

impl DiskThreads {
    /// Starts all threads. The directory stays locked until the last of them has ended.
    pub(crate) fn start(disk: &RealDisk, lock: &Arc<DirectoryLock>) -> Result<Self, ServerError> {
        let done = Arc::new(Done::default());
        let pace = Arc::new(LogPace::default());
        let spawn = |name: &str, disk, manners: Option<fn()>| {
            spawn(name, disk, lock, &done, &pace, manners)
        };
        let log = spawn("disk-log", disk.clone(), None)?;
        let segments = spawn("disk-segments", disk.clone(), None)?;
        let bulk = disk.clone().past_cache();
        let for_peers = disk.clone().for_peers();
        let polite = |name, deputy, disk: RealDisk| {
            let idle = spawn(name, disk.clone(), Some(background::be_idle))?;
            let nice = spawn(deputy, disk, Some(background::be_nice))?;
            Ok::<_, ServerError>(PoliteLane::new(idle, nice))
        };
        let reading = polite("disk-reading", "disk-reading-2", for_peers)?;
        let background = polite("disk-background", "disk-backgrnd-2", bulk)?;
        Ok(Self {
            log,
            segments,
            background,
            reading,
            done,
            disk: disk.clone(),
            done_here: Vec::new(),
            log_failed: false,
            in_log_lane: 0,
            append_since: Instant::now(),
            quick: QuickDisk::default(),
            pace,
        })
    }

    /// Runs a job on the spot if it is better to wait for it than to have a thread run it, which
    /// only a caller that has nothing else to do may want. How long that took, if so; its result is
    /// there then.
    pub(crate) fn run_or_submit(&mut self, job: DiskJob, may_wait: bool) -> Option<Duration> {
        if !may_wait || self.in_log_lane > 0 || !self.quick.may_wait_for(&job) {
            self.submit(job);
            return None;
        }
        let began = Instant::now();
        let done = run(&mut self.disk, job, &self.pace);
        self.log_failed = has_log_failed(&done);
        self.done_here.push(done);
        let took = began.elapsed();
        self.quick.took(took, true);
        Some(took)
    }

    /// Queues a job in its lane.
    pub(crate) fn submit(&mut self, job: DiskJob) {
        if self.log_failed && job.lane() == Lane::Log {
            return;
        }
        self.in_log_lane += usize::from(job.lane() == Lane::Log);
        if let DiskJob::Append(_) = job {
            self.append_since = Instant::now();
        }
        let lane = match job.lane() {
            Lane::Log => &self.log,
            Lane::Segments => &self.segments,
            Lane::Background => return self.background.submit(job, Instant::now()),
            Lane::Reading => return self.reading.submit(job, Instant::now()),
        };
        // A lane that is gone has reported itself as lost.
        _ = lane.send(job);
    }

    /// The log waits for the segment lane, or does not.
    pub(crate) fn log_waits(&self, waits: bool) {
        self.pace.log_waits(waits);
    }

    /// Is there a result? If not, `waker` is woken when there is.
    pub(crate) fn poll_results(&self, waker: &Waker) -> bool {
        let mut state = self.done.lock();
        let ready = !state.results.is_empty() || !self.done_here.is_empty() || state.lost;
        if !ready && !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        ready
    }

    /// Moves the results there are into `results`.
    pub(crate) fn take_results(&mut self, results: &mut Vec<DiskDone>) -> Result<(), ServerError> {
        let mut state = self.done.lock();
        let (done, lost) = (std::mem::take(&mut state.results), state.lost);
        // Not held while the lanes wake threads that may want it.
        drop(state);
        for (lane, result) in done {
            match lane {
                Lane::Log => self.in_log_lane -= 1,
                Lane::Segments => {}
                Lane::Background => self.background.done(Instant::now()),
                Lane::Reading => self.reading.done(Instant::now()),
            }
            if let DiskDone::Append(_) = result {
                self.quick.took(self.append_since.elapsed(), false);
            }
            results.push(result);
        }
        results.append(&mut self.done_here);
        if lost {
            return Err(ServerError::Invariant("a disk thread panicked".into()));
        }
        Ok(())
    }
}

impl Done {
    fn lock(&self) -> std::sync::MutexGuard<'_, DoneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lane: Lane, result: DiskDone) {
        let mut state = self.lock();
        state.results.push((lane, result));
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

fn spawn(
    name: &str,
    disk: RealDisk,
    lock: &Arc<DirectoryLock>,
    done: &Arc<Done>,
    pace: &Arc<LogPace>,
    manners: Option<fn()>,
) -> Result<Sender<DiskJob>, ServerError> {
    let (jobs, queue) = channel();
    let (lock, watch, pace) = (lock.clone(), Watch(done.clone()), pace.clone());
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            manners.inspect(|manners| manners());
            work(disk, &queue, &watch, &pace, manners.is_some());
            // Not before: it runs out its queue when the node has ended.
            drop(lock);
        })
        .map_err(|error| ServerError::Resources(format!("no thread for {name}: {error}")))?;
    Ok(jobs)
}

fn work(
    mut disk: RealDisk,
    queue: &Receiver<DiskJob>,
    watch: &Watch,
    pace: &LogPace,
    is_polite: bool,
) {
    let mut log_failed = false;
    let mut waiting = VecDeque::new();
    while let Some(job) = waiting.pop_front().or_else(|| queue.recv().ok()) {
        if is_polite {
            waiting.extend(queue.try_iter());
            disk.set_piece_bytes(piece_bytes(&job, waiting.len()));
        }
        // What comes after a failed group commit would say that it is there: the node ends.
        // And nobody waits for a snapshot of a node that has ended.
        if log_failed || (is_polite && pace.has_ended()) {
            continue;
        }
        let lane = job.lane();
        let done = match job {
            DiskJob::Maintain { ops, log_room_bytes } => {
                let work = Work { ops: &ops, log_room_bytes };
                let done = segments_lane::run(&mut disk, work, pace, thread::sleep);
                let Some(done) = done else { return };
                DiskDone::Maintain(done)
            }
            job => run(&mut disk, job, pace),
        };
        log_failed = has_log_failed(&done);
        watch.0.push(lane, done);
    }
}

/// In what pieces a polite thread goes about a job behind which so many wait. What is loaded or
/// verified is waited for, and so few of that are under way at a time that no backlog would show.
const fn piece_bytes(job: &DiskJob, waiting: usize) -> usize {
    match job {
        DiskJob::SnapshotLoad { .. } | DiskJob::SnapshotVerify(_) => PIECE_BYTES,
        _ if waiting >= BACKLOG => PIECE_BYTES,
        _ => SHORT_PIECE_BYTES,
    }
}

/// Has the lane of the log come to its end?
const fn has_log_failed(done: &DiskDone) -> bool {
    matches!(done, DiskDone::Append(Err(_)) | DiskDone::LogControl(Err(_)))
}

/// Runs a job, and tells the segment lane of a group commit.
fn run(disk: &mut RealDisk, job: DiskJob, pace: &LogPace) -> DiskDone {
    let bytes = if let DiskJob::Append(ops) = &job { written_bytes(ops) } else { 0 };
    let done = match &job {
        // Whatever else its lane may take from the page cache: this is to be what the disk has.
        DiskJob::SnapshotCheck { .. } => job::run(&mut disk.clone().past_cache(), job),
        _ => job::run(disk, job),
    };
    pace.appended(bytes);
    done
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use rustix::fs::{CWD, Mode, mkfifoat};
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

    #[test]
    fn others_on_the_disk_wait_for_short_pieces_unless_it_does_not_keep_up() {
        let write = DiskJob::SnapshotWrite(Vec::new());
        let pieces = [0, BACKLOG - 1, BACKLOG].map(|waiting| piece_bytes(&write, waiting));
        assert_eq!(pieces, [SHORT_PIECE_BYTES, SHORT_PIECE_BYTES, PIECE_BYTES]);
        assert_eq!(piece_bytes(&DiskJob::SnapshotVerify("f".into()), 0), PIECE_BYTES);
    }

    fn start(dir: &TempDir) -> DiskThreads {
        let lock = Arc::new(DirectoryLock::take(dir.path()).unwrap());
        start_with(dir, &lock)
    }

    fn start_with(dir: &TempDir, lock: &Arc<DirectoryLock>) -> DiskThreads {
        DiskThreads::start(&RealDisk::new(dir.path()), lock).unwrap()
    }

    fn results_of(threads: &mut DiskThreads, count: usize) -> Vec<DiskDone> {
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
        let mut threads = start(&dir);
        let write = |offset, bytes: &'static [u8]| {
            let bytes = Bytes::from_static(bytes);
            DiskOp::Write { file: "f".into(), offset, bytes }
        };
        threads.submit(DiskJob::Append(vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }]));
        threads.submit(DiskJob::Append(vec![write(0, b"good"), DiskOp::Sync { file: "f".into() }]));
        let results = results_of(&mut threads, 2);
        assert_eq!(results, [DiskDone::Append(Ok(())), DiskDone::Append(Ok(()))]);
        assert_eq!(threads.pace.appended_bytes(), 4, "the segment lane knows of them");
        threads.submit(DiskJob::Append(vec![DiskOp::Remove { file: "f".into() }]));
        assert_eq!(results_of(&mut threads, 1), [DiskDone::Append(Ok(()))]);
    }

    #[test]
    fn the_log_lane_stops_at_the_first_error_and_the_others_go_on() {
        let dir = TempDir::new("disk-thread-error");
        let lock = Arc::new(DirectoryLock::take(dir.path()).unwrap());
        let mut threads = start_with(&dir, &lock);
        let bytes = Bytes::from_static(b"too early");
        let fails = vec![DiskOp::Write { file: "f".into(), offset: 0, bytes }];
        let create = |file: &str| vec![DiskOp::Create { file: file.into(), zero_bytes: 0 }];
        threads.submit(DiskJob::SnapshotWrite(fails.clone()));
        threads.submit(DiskJob::SnapshotWrite(create("other")));
        let others = results_of(&mut threads, 2);
        assert!(matches!(others[0], DiskDone::SnapshotWrite(Err(_))), "{others:?}");
        assert_eq!(others[1], DiskDone::SnapshotWrite(Ok(())));
        threads.submit(DiskJob::Append(fails));
        threads.submit(DiskJob::LogControl(create("later")));
        let results = results_of(&mut threads, 1);
        assert!(matches!(results[0], DiskDone::Append(Err(_))), "{results:?}");
        drop(threads);
        // When all have ended.
        lock.let_go();
        assert!(!dir.path().join("later").exists());
    }

    #[test]
    fn a_group_commit_that_fails_on_the_spot_is_the_last_one_too() {
        let dir = TempDir::new("disk-here-error");
        let lock = Arc::new(DirectoryLock::take(dir.path()).unwrap());
        let mut threads = start_with(&dir, &lock);
        let bytes = Bytes::from_static(b"x");
        let write =
            |file: &str| DiskOp::Write { file: file.into(), offset: 0, bytes: bytes.clone() };
        let create = |file: &str| DiskOp::Create { file: file.into(), zero_bytes: 0 };
        threads.submit(DiskJob::LogControl(vec![create("f")]));
        results_of(&mut threads, 1);
        (0..1_000).for_each(|_| threads.quick.took(Duration::ZERO, false));
        let append = |file| DiskJob::Append(vec![write(file), DiskOp::Sync { file: file.into() }]);
        assert!(threads.run_or_submit(append("none"), true).is_some(), "it is waited for");
        threads.submit(DiskJob::LogControl(vec![create("later")]));
        assert!(matches!(results_of(&mut threads, 1)[..], [DiskDone::Append(Err(_))]));
        drop(threads);
        lock.let_go();
        assert!(!dir.path().join("later").exists());
    }

    #[test]
    fn a_quick_disk_is_waited_for_unless_its_thread_has_work() {
        let dir = TempDir::new("disk-here");
        let mut threads = start(&dir);
        let write =
            || DiskOp::Write { file: "f".into(), offset: 0, bytes: Bytes::from_static(b"x") };
        let append = || DiskJob::Append(vec![write(), DiskOp::Sync { file: "f".into() }]);
        let create = DiskJob::Append(vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }]);
        assert_eq!(threads.run_or_submit(create, true), None, "nothing is known of this disk");
        results_of(&mut threads, 1);
        (0..1_000).for_each(|_| threads.quick.took(Duration::ZERO, false));
        assert_eq!(threads.run_or_submit(append(), false), None);
        assert_eq!(threads.run_or_submit(append(), true), None, "its turn has not come");
        assert_eq!(results_of(&mut threads, 2).len(), 2);
        (0..1_000).for_each(|_| threads.quick.took(Duration::ZERO, false));
        assert!(threads.run_or_submit(append(), true).is_some());
        assert!(threads.poll_results(&Waker::from(Arc::new(Count::default()))));
        assert_eq!(results_of(&mut threads, 1), [DiskDone::Append(Ok(()))]);
    }

    #[test]
    fn a_result_wakes_whoever_asked_before_it_was_there() {
        let dir = TempDir::new("disk-thread-wake");
        let mut threads = start(&dir);
        let wakes = Arc::new(Count::default());
        assert!(!threads.poll_results(&Waker::from(wakes.clone())));
        threads.submit(DiskJob::Maintain { ops: Vec::new(), log_room_bytes: 0 });
        let deadline = Instant::now() + Duration::from_secs(10);
        while wakes.0.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "nobody is woken");
            thread::yield_now();
        }
        assert_eq!(results_of(&mut threads, 1), [DiskDone::Maintain(Ok(()))]);
    }

    #[test]
    fn a_thread_that_panics_is_a_broken_invariant() {
        let dir = TempDir::new("disk-thread-panic");
        let mut threads = start(&dir);
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

    #[test]
    fn the_directory_is_locked_until_the_last_job_has_ended() {
        let dir = TempDir::new("disk-thread-lock");
        let pipe = dir.path().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
        let mut threads = start(&dir);
        // To open a pipe takes until somebody reads it.
        let open = DiskOp::Reserve { file: "pipe".into(), len_bytes: 1 };
        threads.submit(DiskJob::Append(vec![open]));
        drop(threads);
        assert_eq!(DirectoryLock::take(dir.path()).unwrap_err().exit_code(), 7);
        let _reader = File::open(&pipe).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while DirectoryLock::take(dir.path()).is_err() {
            assert!(Instant::now() < deadline, "it is never let go");
            thread::yield_now();
        }
    }
}
