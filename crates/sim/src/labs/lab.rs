//! One run of one row: a cluster in virtual time, and scripts that run side by side in it.
//!
//! A script is an async function that reads as in the course: it sleeps, calls servers, cuts and
//! crashes them. [`Lab::run`] polls scripts until all wait, then lets the world go on to the next
//! thing that one of them waits for.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sampan_base::{ClusterId, Configuration, NodeId, Rng};
use sampan_replica::{ConnectionId, Event, Options};

use crate::checkers::Violation;
use crate::clock::NodeClock;
use crate::disk::Survival;
use crate::node::{DiskProfile, NodeSetup};
use crate::queue::SimTime;
use crate::trace::Trace;
use crate::world::{Notice, World};

use super::applied::Applied;
use super::calls::Calls;
use super::network::{LabNetwork, Traffic, number_of};
use super::pace::Pace;
use super::record::Record;
use super::tasks::{Task, Tasks};

/// A sync of a file, in microseconds of virtual time.
pub(super) const SYNC_US: u64 = 200;
/// A turn of a server, in microseconds of virtual time: what comes meanwhile shares the next one.
pub(super) const TURN_US: u64 = 10;
/// Every row must be done in this time, in milliseconds of virtual time.
const LIMIT_MS: u64 = 120_000;

/// After one group commit in so many a power loss is rehearsed, which reads a whole log.
const REHEARSE_ONE_IN: u64 = 500;
/// Twenty clerks without a pause make some 200 000, and twice that of tiny chunks; a busy loop
/// makes many times more.
const HAPPENINGS_A_SECOND_MAX: u64 = 1_000_000;
/// Snapshots are written and sent so much at a time where chunks are to be tiny.
const TINY_CHUNK_BYTES: usize = 16;
/// Log segments are short: recovery reads the last one, and the spare one, whole.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Why a row failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure(pub(crate) String);

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self(violation.to_string())
    }
}

/// The end of a script, or of a part of it.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A failure with this text.
pub(crate) fn fail<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure(text.into()))
}

/// Fails with a text unless a condition holds.
pub(crate) fn ensure(condition: bool, text: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure(text())) }
}

/// The cluster of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How many servers.
    pub(crate) servers: usize,
    /// Does the network neither delay nor lose?
    pub(crate) reliable: bool,
    /// The log size beyond which a server takes a snapshot: `maxraftstate`. `None` is its -1.
    pub(crate) raft_state_bytes_max: Option<u64>,
    /// Are snapshots written and sent [`TINY_CHUNK_BYTES`] at a time?
    pub(crate) tiny_chunks: bool,
    /// When servers speak.
    pub(crate) pace: Pace,
}

impl Setup {
    /// So many servers, a reliable network, no snapshots.
    pub(crate) const fn of(servers: usize) -> Self {
        let pace = Pace::OF_CONSENSUS;
        Self { servers, reliable: true, raft_state_bytes_max: None, tiny_chunks: false, pace }
    }

    /// On an unreliable network.
    pub(crate) const fn unreliable(self) -> Self {
        Self { reliable: false, ..self }
    }

    /// With snapshots.
    pub(crate) const fn max_raft_state(self, bytes: u64) -> Self {
        Self { raft_state_bytes_max: Some(bytes), ..self }
    }

    /// At the pace of the suites of the service.
    pub(crate) const fn serving(self) -> Self {
        Self { pace: Pace::OF_SERVICE, ..self }
    }

    /// The options of a server: the shipped ones, but for the course's times and log size.
    fn options(self, id: NodeId) -> Options {
        let mut options = Options::new(id);
        self.pace.apply(&mut options.raft);
        options.raft_state_bytes_max = self.raft_state_bytes_max;
        options.raft_state_snapshot_percent = 0;
        options.kv.shards = 16;
        options.storage.segment_bytes = SEGMENT_BYTES;
        options.storage.entry_bytes_max = SEGMENT_BYTES as usize / 2;
        if self.tiny_chunks {
            options.snapshot_chunk_bytes = TINY_CHUNK_BYTES;
            options.raft.snapshot_chunk_bytes_max = TINY_CHUNK_BYTES;
        }
        options
    }
}

/// What a run cost, since `Lab::begin`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Costs {
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// RPCs and bytes.
    pub traffic: Traffic,
    /// Commands agreed on, or operations of clerks.
    pub ops: u64,
}

/// How a run went.
#[derive(Clone, Debug)]
pub(crate) struct RunResult {
    pub(crate) outcome: Outcome,
    pub(crate) costs: Costs,
    /// The hash of the trace: the same for the same seed.
    pub(crate) hash: u64,
}

/// All that scripts share.
pub(crate) struct State {
    pub(crate) world: World<LabNetwork>,
    pub(crate) rng: Rng,
    /// The servers that the tester has connected.
    pub(crate) connected: Vec<bool>,
    pub(crate) applied: Applied,
    pub(crate) calls: Calls,
    pub(crate) record: Record,
    /// What servers reported, for the rows that look at it.
    pub(crate) events: Vec<(usize, Event)>,
    /// Operations of clerks.
    pub(crate) ops: u64,
    timers: BTreeMap<u64, Waker>,
    last_timer: u64,
    last_connection: u64,
    began: (SimTime, Traffic, u64),
}

impl State {
    fn ops_or_commands(&self) -> u64 {
        if self.ops > 0 { self.ops } else { self.applied.len() }
    }

    fn costs(&self) -> Costs {
        let (at, traffic, ops) = self.began;
        let now = self.world.network.traffic;
        Costs {
            virtual_us: self.world.now().us_since(at),
            traffic: Traffic { rpcs: now.rpcs - traffic.rpcs, bytes: now.bytes - traffic.bytes },
            ops: self.ops_or_commands() - ops,
        }
    }

    /// A connection that nobody used yet.
    pub(crate) fn new_connection(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }

    /// Wakes somebody at a time.
    pub(crate) fn wake_at(&mut self, at: SimTime, waker: Waker) {
        self.last_timer += 1;
        self.world.set_timer(at, self.last_timer);
        self.timers.insert(self.last_timer, waker);
    }
}

struct Shared {
    tasks: Tasks,
    state: RefCell<State>,
}

/// A handle on one run, for scripts.
#[derive(Clone)]
pub(crate) struct Lab(Rc<Shared>);

/// The name of a server's node.
pub(crate) fn node_of(server: usize) -> NodeId {
    NodeId::of(server as u64 + 1)
}

impl Lab {
    /// Runs a script to its end, or to its time limit, on a fresh cluster of which every server
    /// runs and is connected.
    pub(crate) fn run<F>(
        seed: u64,
        setup: Setup,
        trace: Trace,
        script: impl FnOnce(Self) -> F,
    ) -> RunResult
    where
        F: Future<Output = Outcome> + 'static,
    {
        let lab = Self::new(seed, setup, trace);
        let outcome = match lab.boot() {
            Ok(()) => {
                let main = lab.spawn(script(lab.clone()));
                lab.drive(main)
            }
            Err(failure) => Err(failure),
        };
        lab.0.tasks.clear();
        let state = lab.state();
        RunResult { outcome, costs: state.costs(), hash: state.world.trace.hash() }
    }

    fn new(seed: u64, setup: Setup, trace: Trace) -> Self {
        let mut rng = Rng::seeded(seed);
        let network = LabNetwork::new(setup.servers, setup.reliable, rng.fork());
        let mut world = World::new(ClusterId(seed), rng.next_u64(), network, trace);
        world.rehearse_one_in = REHEARSE_ONE_IN;
        world.happenings_a_second_max = HAPPENINGS_A_SECOND_MAX;
        let ids: Vec<NodeId> = (0..setup.servers).map(node_of).collect();
        for &id in &ids {
            let node = NodeSetup {
                options: setup.options(id),
                bootstrap: Configuration::of_voters(ids.clone()),
                clock: NodeClock::new(0, 0, 0),
                disk: DiskProfile { page_us: 0, sync_us: (SYNC_US, SYNC_US) },
                formed: true,
                turn_us: TURN_US,
            };
            world.create(id, node);
        }
        let state = State {
            world,
            rng,
            connected: vec![false; setup.servers],
            applied: Applied::new(setup.servers),
            calls: Calls::default(),
            record: Record::default(),
            events: Vec::new(),
            ops: 0,
            timers: BTreeMap::new(),
            last_timer: 0,
            last_connection: 0,
            began: (SimTime::ZERO, Traffic::default(), 0),
        };
        Self(Rc::new(Shared { tasks: Tasks::default(), state: RefCell::new(state) }))
    }

    fn boot(&self) -> Outcome {
        for server in self.servers() {
            self.start(server)?;
        }
        self.servers().for_each(|server| self.connect(server));
        Ok(())
    }

    /// Lets tasks and world go on in turn until the script has ended.
    fn drive(&self, mut main: Task<Outcome>) -> Outcome {
        let limit = SimTime::from_ms(LIMIT_MS);
        loop {
            self.0.tasks.run_ready();
            if main.is_done()
                && let Poll::Ready(outcome) =
                    Pin::new(&mut main).poll(&mut Context::from_waker(Waker::noop()))
            {
                return outcome;
            }
            let notice = self.state().world.run(limit)?;
            match notice {
                Some(Notice::Timer(number)) => {
                    let waker = self.state().timers.remove(&number);
                    waker.into_iter().for_each(Waker::wake);
                }
                Some(Notice::Reply(id, reply)) => {
                    self.state().calls.replied(number_of(id), reply);
                }
                Some(Notice::Event(id, event)) => {
                    self.state().events.push((number_of(id), event));
                }
                Some(Notice::Stopped(id, why)) => return fail(format!("{id} stopped: {why}")),
                Some(Notice::ShutdownComplete(_) | Notice::PowerLost(_) | Notice::Backup(..)) => {}
                None => return fail(format!("not done after {LIMIT_MS} virtual ms")),
            }
        }
    }

    /// All that scripts share. Never held over an await.
    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.0.state.borrow_mut()
    }

    /// Starts a script of its own.
    pub(crate) fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.0.tasks.spawn(future)
    }

    /// From here on costs count.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        state.began = (state.world.now(), state.world.network.traffic, state.ops_or_commands());
    }

    // ------------------------------------------------------------------------------- time

    /// The time.
    pub(crate) fn now(&self) -> SimTime {
        self.state().world.now()
    }

    /// Milliseconds since some time.
    pub(crate) fn ms_since(&self, time: SimTime) -> u64 {
        self.now().us_since(time) / 1_000
    }

    /// Waits.
    pub(crate) fn sleep_ms(&self, ms: u64) -> Sleep {
        self.sleep_us(ms * 1_000)
    }

    /// Waits.
    pub(crate) fn sleep_us(&self, us: u64) -> Sleep {
        Sleep { lab: self.clone(), until: self.now().plus_us(us), armed: false }
    }

    // ------------------------------------------------------------------------------- chance

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.state().rng.below(bound)
    }

    /// True with probability `permille / 1000`.
    pub(crate) fn chance(&self, permille: u64) -> bool {
        self.state().rng.permille(permille)
    }

    /// A server.
    pub(crate) fn any_server(&self) -> usize {
        self.below(self.count() as u64) as usize
    }

    // ------------------------------------------------------------------------------- servers

    /// How many servers there are.
    pub(crate) fn count(&self) -> usize {
        self.state().connected.len()
    }

    /// All servers.
    pub(crate) fn servers(&self) -> std::ops::Range<usize> {
        0..self.count()
    }

    /// Does it run?
    pub(crate) fn is_up(&self, server: usize) -> bool {
        self.state().world.network.is_present(server)
    }

    /// Is it connected?
    pub(crate) fn is_connected(&self, server: usize) -> bool {
        self.state().connected[server]
    }

    /// Connects a server to all that are connected.
    pub(crate) fn connect(&self, server: usize) {
        let mut state = self.state();
        state.connected[server] = true;
        for other in 0..state.connected.len() {
            if state.connected[other] {
                state.world.network.set_link(server, other, true);
            }
        }
    }

    /// Cuts a server off from all others.
    pub(crate) fn disconnect(&self, server: usize) {
        let mut state = self.state();
        state.connected[server] = false;
        for other in 0..state.connected.len() {
            state.world.network.set_link(server, other, false);
        }
    }

    /// Ends a server's process, and cuts it off. What it was writing may be torn; in two cases of
    /// three its machine loses power besides, and with it all or some of what was not synced.
    pub(crate) fn crash(&self, server: usize) {
        self.disconnect(server);
        let mut state = self.state();
        if !state.world.network.is_present(server) {
            return;
        }
        state.world.network.set_present(server, false);
        let id = node_of(server);
        match state.rng.below(3) {
            0 => state.world.kill(id),
            1 => state.world.cut_power(id, Survival::None),
            _ => state.world.cut_power(id, Survival::Some { permille: 500 }),
        }
    }

    /// Starts a server, after a crash if it runs. The caller connects it.
    pub(crate) fn start(&self, server: usize) -> Outcome {
        self.crash(server);
        let mut state = self.state();
        match state.world.start(node_of(server))? {
            Ok(_) => {
                state.world.network.set_present(server, true);
                Ok(())
            }
            Err(error) => fail(format!("server {server} cannot start: {error}")),
        }
    }

    /// Splits the servers in two: `true` and `false` do not reach one another.
    pub(crate) fn partition(&self, side: &[bool]) {
        let mut state = self.state();
        for (a, side_of_a) in side.iter().enumerate() {
            for (b, side_of_b) in side.iter().enumerate() {
                state.world.network.set_link(a, b, side_of_a == side_of_b);
            }
        }
    }

    /// Joins what was split.
    pub(crate) fn connect_all(&self) {
        self.servers().for_each(|server| self.connect(server));
    }
}

/// See [`Lab::sleep_us`].
pub(crate) struct Sleep {
    lab: Lab,
    until: SimTime,
    armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        if self.lab.now() >= until {
            return Poll::Ready(());
        }
        if !self.armed {
            self.armed = true;
            self.lab.state().wake_at(until, context.waker().clone());
        }
        Poll::Pending
    }
}
