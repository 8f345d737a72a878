//! One thread: an event loop, its share of the connections, and the clock that wakes them when a
//! command is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clerk::Caller;
use crate::connection::{self, Connection};
use crate::pace::{Flow, Schedule};
use crate::plan::{End, Plan, Protocol};
use crate::tally::Tally;

/// Connections of one thread being made at a time: fewer than any server's backlog.
const DIALS_MAX: usize = 64;

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    /// Commands given out so far.
    claimed: AtomicU64,
    /// Nothing is sent from this moment on, in nanoseconds since the start.
    end_ns: AtomicU64,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Self {
        let end_ns = match plan.end {
            End::After(time) => nanos(plan.warm_up + time),
            End::Count(_) => u64::MAX,
        };
        Self { plan, claimed: AtomicU64::new(0), end_ns: AtomicU64::new(end_ns) }
    }

    pub(crate) fn end_ns(&self) -> u64 {
        self.end_ns.load(Ordering::Relaxed)
    }

    /// Nothing more is sent from this moment on.
    pub(crate) fn stop(&self, now_ns: u64) {
        self.end_ns.fetch_min(now_ns, Ordering::Relaxed);
    }

    /// The place of the next command among all of the run; `None` once all are sent.
    pub(crate) fn claim(&self, now_ns: u64) -> Option<u64> {
        let place = self.claimed.fetch_add(1, Ordering::Relaxed);
        match self.plan.end {
            End::Count(count) if place >= count => {
                self.stop(now_ns);
                None
            }
            _ => Some(place),
        }
    }

    /// Commands given out, all of which were sent.
    pub(crate) fn sent(&self) -> u64 {
        let claimed = self.claimed.load(Ordering::Relaxed);
        match self.plan.end {
            End::Count(count) => claimed.min(count),
            End::After(_) => claimed,
        }
    }

    pub(crate) fn schedule(&self) -> Option<Schedule> {
        let connections = self.plan.connections as u64;
        self.plan.rate.map(|rate| Schedule { rate, connections })
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a connection knows of the run, and how it counts.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) shared: Arc<Shared>,
    tally: Arc<Mutex<Tally>>,
    start: Instant,
}

impl Desk {
    pub(crate) fn now_ns(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.shared.end_ns()
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }
}

/// A tally as the thread left it; there is nothing in it that a panic could leave half done.
pub(crate) fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread's part of the run: its connections, by number.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Arc<Mutex<Tally>>,
    pub(crate) numbers: Vec<u64>,
}

/// A worker whose connections are there.
pub(crate) struct Connected {
    worker: Worker,
    lines: Lines,
}

enum Lines {
    Resp(Vec<tokio::net::TcpStream>),
    Clerk(Vec<sampan_client::Clerk>),
}

impl Worker {
    /// Makes all connections, or says why one could not be made.
    pub(crate) async fn connect(self) -> Result<Connected, String> {
        let plan = &self.shared.plan;
        let lines = match plan.protocol {
            Protocol::Resp => Lines::Resp(
                dial(&self.numbers, |number| {
                    connection::first(Arc::clone(&self.shared), Arc::clone(&self.tally), number)
                })
                .await?,
            ),
            Protocol::Clerk => Lines::Clerk(
                dial(&self.numbers, |number| Caller::connect(Arc::clone(&self.shared), number))
                    .await?,
            ),
        };
        Ok(Connected { worker: self, lines })
    }
}

/// Makes connections, some at a time.
async fn dial<T, F>(numbers: &[u64], make: impl Fn(u64) -> F) -> Result<Vec<T>, String>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut made = Vec::with_capacity(numbers.len());
    for some in numbers.chunks(DIALS_MAX) {
        let mut dials = JoinSet::new();
        for number in some {
            dials.spawn(make(*number));
        }
        for dialled in dials.join_all().await {
            made.push(dialled?);
        }
    }
    Ok(made)
}

impl Connected {
    /// Sends, until the run is over and all is answered or given up.
    pub(crate) async fn run(self, start: Instant) {
        let Self { worker: Worker { shared, tally, numbers }, lines } = self;
        let desk = Desk { shared: Arc::clone(&shared), tally, start };
        let wakes: Vec<Arc<Notify>> = numbers.iter().map(|_| Arc::default()).collect();
        let places = || numbers.iter().copied().zip(wakes.iter().map(Arc::clone));
        let mut tasks = JoinSet::new();
        match lines {
            Lines::Resp(streams) => {
                for ((number, wake), stream) in places().zip(streams) {
                    let flow = flow(&shared, number, true);
                    let connection = Connection::new(desk.clone(), flow, number, wake);
                    tasks.spawn(connection.drive(stream));
                }
            }
            Lines::Clerk(clerks) => {
                for ((number, wake), clerk) in places().zip(clerks) {
                    let flow = flow(&shared, number, false);
                    let caller = Caller::new(desk.clone(), flow, number, wake, clerk);
                    tasks.spawn(caller.drive());
                }
            }
        }
        if let Some(schedule) = shared.schedule() {
            tasks.spawn(pace(desk, schedule, numbers, wakes));
        }
        tasks.join_all().await;
    }
}

fn flow(shared: &Shared, number: u64, in_step: bool) -> Flow {
    let pipeline = shared.plan.pipeline;
    match shared.schedule() {
        Some(schedule) => Flow::open(pipeline, schedule, number),
        None => Flow::closed(pipeline, in_step),
    }
}

/// Wakes each connection when its next command is due, and all of them at the end.
async fn pace(desk: Desk, schedule: Schedule, numbers: Vec<u64>, wakes: Vec<Arc<Notify>>) {
    let mut timer = Timer::new().expect("a timer of the kernel");
    'run: for turn in 0.. {
        for (number, wake) in numbers.iter().zip(&wakes) {
            let due_ns = schedule.due_ns(*number, turn);
            loop {
                let now_ns = desk.now_ns();
                let end_ns = desk.shared.end_ns();
                if now_ns >= end_ns {
                    break 'run;
                }
                match due_ns.min(end_ns).checked_sub(now_ns) {
                    None | Some(0) => break,
                    Some(left_ns) => timer.sleep(left_ns).await.expect("a valid time"),
                }
            }
            wake.notify_one();
        }
    }
    for wake in wakes {
        wake.notify_one();
    }
}

/// A timer of the kernel's: the runtime's own are as coarse as a millisecond, which would be most
/// of the latency that is to be measured. The runtime reads it as it reads a pipe: readable once
/// the time has come. (Its type for descriptors in general asks for unsafe code.)
struct Timer(pipe::Receiver);

impl Timer {
    fn new() -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(pipe::Receiver::from_file_unchecked(fd.into())?))
    }

    /// Waits this long, or a second if that is less: a stop is noticed by then.
    async fn sleep(&mut self, left_ns: u64) -> std::io::Result<()> {
        let left_ns = left_ns.clamp(1, 1_000_000_000);
        let it_value = Timespec {
            tv_sec: (left_ns / 1_000_000_000) as i64,
            tv_nsec: (left_ns % 1_000_000_000) as i64,
        };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        // A count of 8 bytes comes; room for more tells the runtime that no second one waits.
        let mut expirations = [0; 16];
        self.0.read(&mut expirations).await.map(|_| ())
    }
}
