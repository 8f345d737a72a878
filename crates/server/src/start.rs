//! Start and end of a node: in which order things are taken, and how they are given back.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sampan_replica::{Now, OpenError, Replica, Start, Task};
use sampan_storage::{Identity, Storage};
use tokio::net::TcpListener as AsyncListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use crate::backups::{self, Backups};
use crate::client::connection::{self, Batch};
use crate::client::registry::Clients;
use crate::config::Config;
use crate::core::{self, Core};
use crate::disk::RealDisk;
use crate::disk_thread::DiskThreads;
use crate::error::ServerError;
use crate::inbox::Inbox;
use crate::loading::{self, Loading};
use crate::lock::DirectoryLock;
use crate::log::Log;
use crate::net;
use crate::node::Node;
use crate::open_files;
use crate::peer::Peers;
use crate::repair;
use crate::signals::{self, Signals};
use crate::state_settings;
use crate::stats::Stats;
use crate::time::{Clock, stopwatch, wall};

/// Threads that load a state at a start, for each processor: most of them wait for the disk.
const RESTORE_PARTS_EACH: usize = 4;
/// More than this wait for memory.
const RESTORE_PARTS_MAX: usize = 32;

/// A thread that may block, and looks up addresses or reads backups, is kept for so long: always.
const BLOCKING_IDLE_TIME: Duration = Duration::from_hours(366 * 24);

/// How a node is asked to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Leadership is handed over, and what was read is answered.
    Gracefully,
    /// As if the process had been killed.
    AtOnce,
}

/// Stops a node, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(UnboundedSender<Stop>);

impl Stopper {
    /// Asks for a stop. A second request may be more urgent than the first; asking a node that has
    /// ended does nothing.
    pub fn stop(&self, stop: Stop) {
        _ = self.0.send(stop);
    }
}

/// Where a node hears of its [`Stopper`].
#[derive(Debug)]
pub struct StopRequests(pub(crate) UnboundedReceiver<Stop>);

/// A stopper and the end that [`serve`] takes.
pub fn stopper() -> (Stopper, StopRequests) {
    let (sender, receiver) = unbounded_channel();
    (Stopper(sender), StopRequests(receiver))
}

/// The two ports of a node, taken.
#[derive(Debug)]
pub struct Listeners {
    client: TcpListener,
    peer: TcpListener,
}

impl Listeners {
    /// Takes both ports.
    ///
    /// # Errors
    ///
    /// [`ServerError::PortInUse`], or [`ServerError::Config`] if an address is not one of this
    /// machine.
    pub fn bind(config: &Config) -> Result<Self, ServerError> {
        Ok(Self {
            client: net::bind("listen", &config.listen)?,
            peer: net::bind("listen_peer", &config.listen_peer)?,
        })
    }

    /// Where clients connect, with the port that was really taken.
    pub fn client_address(&self) -> io::Result<SocketAddr> {
        self.client.local_addr()
    }

    /// Where peers connect.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.peer.local_addr()
    }
}

/// From now on a panic, wherever it is, ends the process at once with the exit code of a broken
/// invariant: a node that has found a bug in itself must not say another word (rule R15).
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(ServerError::Invariant(String::new()).exit_code().into());
    }));
}

/// Runs a node until SIGTERM or SIGINT, or until it cannot go on. A second signal stops it at once,
/// and so does the first one while it loads its data. The process is the node's: see
/// [`exit_on_panic`].
///
/// # Errors
///
/// Why the node does not start, or cannot go on: any [`ServerError`].
pub fn run(mut config: Config) -> Result<(), ServerError> {
    config.check()?;
    exit_on_panic();
    let wanted = config.limits.clients_max;
    config.limits.clients_max = open_files::allow(&config.limits)?;
    if config.limits.clients_max < wanted {
        begin_log(&config).warn(format_args!(
            "{} clients at most, not {wanted}: so many files may be open (ulimit -n)",
            config.limits.clients_max
        ));
    }
    let listeners = Listeners::bind(&config)?;
    let runtime = runtime()?;
    outlive_long_files(&runtime, &config)?;
    let loaded = Loaded::load(config, listeners)?;
    let (stopper, requests) = stopper();
    // Not before: while nobody takes them, signals are to end the process, which costs nothing.
    stop_at_signals(&runtime, stopper)?;
    loaded.serve(runtime, requests)
}

/// Runs a node on ports that are taken already until it is asked to stop, or cannot go on. Blocks
/// the calling thread, also until the last write to the data directory has ended; touches no
/// signals.
///
/// # Errors
///
/// Why the node does not start, or cannot go on: any [`ServerError`] but
/// [`ServerError::PortInUse`].
pub fn serve(
    config: Config,
    listeners: Listeners,
    requests: StopRequests,
) -> Result<(), ServerError> {
    config.check()?;
    let loaded = Loaded::load(config, listeners)?;
    let lock = loaded.lock.clone();
    let served = loaded.serve(runtime()?, requests);
    // The next node in this process may want the directory at once.
    lock.let_go();
    served
}

fn outlive_long_files(runtime: &LocalRuntime, config: &Config) -> Result<(), ServerError> {
    let _guard = runtime.enter();
    if let Some(bytes) = signals::outlive_long_files().map_err(|error| no_resources(&error))? {
        let log = begin_log(config);
        log.warn(format_args!(
            "files may have {bytes} bytes at most (ulimit -f): a longer one finds no room, as on a full disk"
        ));
        log.settle();
    }
    Ok(())
}

fn stop_at_signals(runtime: &LocalRuntime, stopper: Stopper) -> Result<(), ServerError> {
    let guard = runtime.enter();
    let mut signals = Signals::listen().map_err(|error| no_resources(&error))?;
    drop(guard);
    runtime.spawn_local(async move {
        signals.next().await;
        stopper.stop(Stop::Gracefully);
        signals.next().await;
        stopper.stop(Stop::AtOnce);
    });
    Ok(())
}

/// The runtime of a node. Its pool of threads that may block panics if it cannot have its first
/// thread, and makes do with those it has later on: so it gets one at the start, for good.
fn runtime() -> Result<LocalRuntime, ServerError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(BLOCKING_IDLE_TIME)
        .build_local(LocalOptions::default())
        .map_err(|error| no_resources(&error))?;
    // To ask the pool for one that cannot be had is what panics.
    let no_thread =
        |error| ServerError::Resources(format!("no thread for looking up names: {error}"));
    let trial = thread::Builder::new().spawn(|| {}).map_err(no_thread)?;
    trial.join().expect("it does nothing");
    runtime.spawn_blocking(|| {});
    Ok(runtime)
}

fn no_resources(error: &io::Error) -> ServerError {
    ServerError::Resources(error.to_string())
}

fn begin_log(config: &Config) -> Log {
    if config.is_quiet { Log::quiet(config.node) } else { Log::start(config.node) }
}

/// A node that has read its data and has taken no part yet.
struct Loaded {
    config: Config,
    listeners: Listeners,
    lock: Arc<DirectoryLock>,
    log: Log,
    disk: RealDisk,
    clock: Clock,
    began: Instant,
    start: Start,
}

impl Loaded {
    /// Takes the data directory, and reads what is in it.
    fn load(config: Config, listeners: Listeners) -> Result<Self, ServerError> {
        let lock = Arc::new(DirectoryLock::take(&config.data_dir)?);
        let log = begin_log(&config);
        let disk = RealDisk::new(&config.data_dir);
        let mut clock = Clock::start();
        let began = Instant::now();
        let loading = Loading::begin(&listeners.client, loading::PATIENCE);
        let loading = loading.map_err(|error| no_resources(&error))?;
        let start = clock.hold(|now| open(&config, &mut disk.clone(), now, &log));
        let start = start.inspect_err(|_| log.settle())?;
        drop(loading);
        Ok(Self { config, listeners, lock, log, disk, clock, began, start })
    }

    /// Runs the event loop until the node has ended.
    fn serve(self, runtime: LocalRuntime, requests: StopRequests) -> Result<(), ServerError> {
        let log = self.log.clone();
        let served = runtime.block_on(self.take_part(requests));
        // A thread that waits for the address of a peer may do so for minutes.
        runtime.shutdown_background();
        log.settle();
        served
    }

    async fn take_part(self, mut requests: StopRequests) -> Result<(), ServerError> {
        let Self { config, listeners, lock, log, disk, mut clock, began, start } = self;
        let ports = Ports::take(listeners, &config, &log).map_err(|error| no_resources(&error))?;
        let (replica, report) = match start {
            Start::Ready(replica, report) => (replica, report),
            Start::Repairing(repairing) => {
                let Ports { clients, peers, inbox, .. } = &ports;
                let (clock, disk) = (&mut clock, disk.clone());
                let host = repair::Host { clock, log: &log, disk, inbox, peers };
                let repaired = host.run(repairing, clients, &mut requests).await;
                match repaired.map_err(|error| open_error(&config, &error))? {
                    Some(started) => started,
                    None => return Ok(()),
                }
            }
        };
        let line = format!("loaded in {} ms: {report}", began.elapsed().as_millis());
        if report.found_damage() {
            log.warn(line);
        } else {
            log.line(line);
        }
        let disks = DiskThreads::start(&disk, &lock)?;
        let (node, clients) = assemble(config, ports, clock, log, *replica);
        tokio::task::spawn_local(backups::serve(node.clone()));
        live(node, clients, disks, requests).await
    }
}

/// Loads the node's state, or creates it.
fn open(config: &Config, disk: &mut RealDisk, now: Now, log: &Log) -> Result<Start, ServerError> {
    let identity = Identity { cluster: config.cluster, node: config.node };
    let bootstrap = config.bootstrap();
    let settings = state_settings::values(&config.replica.of_state());
    Storage::agree(disk, identity, &bootstrap.voters, &settings)
        .map_err(|error| data_error(config, &error))?;
    if !Storage::exists(disk).map_err(|error| data_error(config, &error))? {
        Storage::create(disk, identity, &config.replica.storage)
            .map_err(|error| data_error(config, &error))?;
        log.line(format_args!("created {}", config.data_dir.display()));
    }
    let mut options = config.replica.clone();
    options.stopwatch = stopwatch;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    options.restore_parts = (RESTORE_PARTS_EACH * processors).min(RESTORE_PARTS_MAX);
    options.run_all = run_all;
    Replica::start(disk, identity, options, bootstrap, random(), now)
        .map_err(|error| open_error(config, &error))
}

/// Each on a thread of its own, as far as there are threads; this one does what is left.
fn run_all(tasks: Vec<Task<'_>>) {
    let others = tasks.len().saturating_sub(1);
    let left = Mutex::new(tasks.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(task) = next() {
            task();
        }
    };
    thread::scope(|scope| {
        for _ in 0..others {
            // A system that gives no more threads makes it only slower.
            _ = thread::Builder::new().name("restore".into()).spawn_scoped(scope, work);
        }
        work();
    });
}

fn open_error(config: &Config, error: &OpenError) -> ServerError {
    match error {
        OpenError::Storage(error) => data_error(config, error),
        OpenError::Alone(_) => ServerError::DataDamaged(format!(
            "data directory {}: {error}: {}",
            config.data_dir.display(),
            restore_advice(config)
        )),
        OpenError::State { .. } => ServerError::DataDamaged(error.to_string()),
    }
}

/// What is left to do where nobody else has the data.
fn restore_advice(config: &Config) -> String {
    format!(
        "restore a backup, or the newest sound file in snapshots/, which is one, without the log after it \
         (`sampan restore {}/snapshots/NEWEST.snap --dir NEW-DIR --nodes 1`)",
        config.data_dir.display()
    )
}

fn data_error(config: &Config, error: &sampan_storage::OpenError) -> ServerError {
    use sampan_storage::OpenError as E;
    let alone = format!(
        ": there is no other node (no --peer) that could give the data back: {}",
        restore_advice(config)
    );
    let advice = match error {
        E::DamagedHardState(_)
        | E::DamagedIdentity(_)
        | E::DamagedLog(_)
        | E::DamagedSnapshot { .. }
            if config.peers.is_empty() =>
        {
            &alone
        }
        E::DamagedHardState(_) | E::DamagedIdentity(_) => {
            ": what this node promised is not known, so it must not vote as it is: move the directory away \
             and start with an empty one while all other nodes are up, and they fill it again"
        }
        E::OtherMembers { .. } => {
            ": give --peer the set of its first start, wherever they are now; or, if that was wrong, move the \
             directory away and start with an empty one while all other nodes are up"
        }
        E::OtherSettings { .. } => {
            ": settings of the group State are those of the first start, for good: start with them; a cluster has \
             others if it is restored from a backup. If this first start was the wrong one, and the node has not \
             served since, remove `members`, and it is written again"
        }
        E::DamagedMembers(_) => {
            ": remove the file if --peer names all other nodes, and the settings of the group State are what they \
             were, and it is written again"
        }
        E::DamagedLog(_) | E::DamagedSnapshot { .. } => {
            ": with --on-damage repair its peers give back what is lost"
        }
        _ => "",
    };
    let mut text = format!("data directory {}: {error}", config.data_dir.display());
    if let E::OtherSettings { found } = error {
        let difference = state_settings::difference(&config.replica.of_state(), found);
        text += &difference.map(|difference| format!(", {difference}")).unwrap_or_default();
    }
    text += advice;
    match error {
        E::OtherCluster { .. }
        | E::OtherNode { .. }
        | E::OtherMembers { .. }
        | E::OtherSettings { .. }
        | E::AlreadyCreated(_)
        | E::NotCreated => ServerError::OtherData(text),
        E::DamagedIdentity(_)
        | E::DamagedMembers(_)
        | E::DamagedHardState(_)
        | E::DamagedLog(_)
        | E::DamagedSnapshot { .. }
        | E::UnsupportedVersion { .. } => ServerError::DataDamaged(text),
        E::Disk(error) => ServerError::of_disk(error, text),
        E::BadOptions(_) => ServerError::Config(crate::config::ConfigError::of_part(text)),
    }
}

/// The ports of a node, in use, and what peers need to reach its event loop.
struct Ports {
    clients: AsyncListener,
    client_port: u16,
    peer_port: u16,
    peers: Rc<Peers>,
    inbox: Rc<Inbox>,
}

impl Ports {
    /// From now on peers are dialled and let in; clients wait to be accepted.
    fn take(listeners: Listeners, config: &Config, log: &Log) -> io::Result<Self> {
        let client_port = listeners.client_address()?.port();
        let peer_port = listeners.peer_address()?.port();
        let backlog = config.limits.accept_backlog;
        let clients = net::adopt(listeners.client, backlog)?;
        let inbox = Rc::new(Inbox::default());
        let peers = Peers::new(config, client_port, inbox.clone(), log.clone(), random());
        let peers = Rc::new(peers);
        peers.start(net::adopt(listeners.peer, backlog)?);
        Ok(Self { clients, client_port, peer_port, peers, inbox })
    }
}

fn assemble(
    config: Config,
    ports: Ports,
    clock: Clock,
    log: Log,
    replica: Replica,
) -> (Rc<Node>, AsyncListener) {
    let Ports { clients, client_port, peer_port, peers, inbox } = ports;
    let node = Node {
        client_port,
        peer_port,
        coarse_time: Cell::new(clock.mono()),
        clock,
        run_id: format!("{:016x}{:016x}{:08x}", random(), random(), random() >> 32),
        log,
        replica: RefCell::new(replica),
        inbox,
        clients: Clients::new(config.limits.clone()),
        backups: Backups::new(random()),
        peers,
        stats: Stats::default(),
        snapshot_at: Cell::new(wall()),
        snapshot_failed: Cell::new(false),
        read_scratch: RefCell::default(),
        reply_scratch: RefCell::default(),
        batch: RefCell::new(Batch::default()),
        config,
    };
    (Rc::new(node), clients)
}

/// All tasks of a node, from the first turn to the last reply.
async fn live(
    node: Rc<Node>,
    clients: AsyncListener,
    disks: DiskThreads,
    requests: StopRequests,
) -> Result<(), ServerError> {
    node.log.line(format_args!(
        "serving clients at port {}, peers at port {}",
        node.client_port, node.peer_port
    ));
    let accepting = tokio::task::spawn_local(connection::accept(node.clone(), clients));
    tokio::task::spawn_local(core::sweep(node.clone()));
    let turns = Core::new(node.clone(), disks, accepting.abort_handle()).run(requests);
    // A task of its own, so that it stands in the run queue behind those that it waits for.
    let ended = tokio::task::spawn_local(turns).await;
    match ended {
        Ok(Ok(Stop::Gracefully)) => {
            say_farewell(&node).await;
            node.log.line("stopped");
            Ok(())
        }
        Ok(Ok(Stop::AtOnce)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(ServerError::Invariant(panic.to_string())),
    }
}

/// Lets the last replies leave.
async fn say_farewell(node: &Node) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + node.config.limits.stop_flush_time;
    node.clients.end_all();
    while node.clients.len() > 0 && Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// 64 bits that differ from run to run and are no secret.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(wall().unix_ms);
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use sampan_base::{ClusterId, NodeId};

    use super::*;
    use crate::config::HostPort;
    use crate::testing::TempDir;

    #[test]
    fn a_stop_does_not_wait_for_an_address_that_is_looked_up() {
        const LOOK_UP_TIME: Duration = Duration::from_secs(20);
        let dir = TempDir::new("start-look-up");
        let (listen, data_dir) = (HostPort::new("127.0.0.1", 0), dir.path().join("data"));
        let mut config = Config::new(ClusterId(1), NodeId::of(1), listen, data_dir).unwrap();
        config.is_quiet = true;
        let listeners = Listeners::bind(&config).unwrap();
        let loaded = Loaded::load(config, listeners).unwrap();
        let runtime = runtime().unwrap();
        let ((looks, has_begun), (over, ends)) = (channel(), channel::<()>());
        runtime.spawn_blocking(move || {
            looks.send(()).unwrap();
            _ = ends.recv_timeout(LOOK_UP_TIME);
        });
        has_begun.recv().unwrap();
        let (stopper, requests) = stopper();
        stopper.stop(Stop::AtOnce);
        let began = Instant::now();
        loaded.serve(runtime, requests).unwrap();
        assert!(began.elapsed() < LOOK_UP_TIME / 2, "it was waited for");
        drop(over);
    }

    #[test]
    fn all_tasks_are_run_once_and_have_ended_then() {
        for count in [0, 1, 2, 50] {
            let runs: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let task = |run| -> Task<'_> {
                Box::new(move || {
                    AtomicUsize::fetch_add(run, 1, Ordering::Relaxed);
                })
            };
            run_all(runs.iter().map(task).collect());
            assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1), "{runs:?}");
        }
    }
}
