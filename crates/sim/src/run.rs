//! One run: a world, its clients, its nemesis and its operator, from a seed to a verdict.
//!
//! First the **safety phase**: faults strike, and nothing wrong may be seen. Then everything is
//! healed and the **liveness phase** begins: within bounded time every client must have its answers
//! and all members must be one cluster in one state. Then every key is read, and the histories are
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sampan_base::{ClusterId, Configuration, NodeId, Rng};
use sampan_kv::Reply;
use sampan_replica::{ClientReply, ConnectionId, Event, Input, Request};

use crate::backups::Backups;
use crate::checkers::{Violation, connection_order, exactly_once, linearizability, ttl};
use crate::clients::Client;
use crate::disk::DiskCounts;
use crate::faults::{Fault, FaultCounts};
use crate::history::{End, Record};
use crate::nemesis::{Undo, schedule};
use crate::operator::Operator;
use crate::queue::SimTime;
use crate::swarm::Plan;
use crate::swarm_network::SwarmNetwork;
use crate::sync_points::SyncWatch;
use crate::trace::Trace;
use crate::workload::{Op, Workload};
use crate::world::{Notice, World};

/// After everything is healed, all must be well within this, in virtual microseconds.
const LIVENESS_BOUND_US: u64 = 90_000_000;
/// Before a strike nothing is asked for this long: every watermark is refreshed, nothing is
/// unsynced.
const QUIET_US: u64 = 3_000_000;
/// After a strike clients ask for this long.
const STRUCK_US: u64 = 2_000_000;
/// The first members must have met within this, in virtual microseconds.
const MEETING_BOUND_US: u64 = 30_000_000;
/// How often it is looked whether all is well, in virtual microseconds.
const LOOK_EVERY_US: u64 = 250_000;

/// Something that the simulation will do.
pub(crate) enum Todo {
    Think(usize),
    Arrive { client: usize, node: NodeId, connection: ConnectionId, requests: Vec<Request> },
    Read { client: usize, node: NodeId, connection: ConnectionId },
    Answer { client: usize, reply: Box<ClientReply> },
    Patience { client: usize, id: u64, attempts: u32 },
    Retry { client: usize, id: u64 },
    Reset { client: usize, connection: ConnectionId },
    Close { node: NodeId, connection: ConnectionId },
    Ask { client: usize, connection: ConnectionId, left: u64 },
    Take { client: usize, connection: ConnectionId },
    Fault { fault: Fault, tries: u32 },
    Undo(Undo),
    Insist,
    Operator,
    Restart(NodeId),
    WipeAgain(NodeId),
    Shutdown(NodeId),
    KillIfUp(NodeId, u64),
    Remove(NodeId),
    Isolate(NodeId),
    Snapshots,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Safety,
    /// Nothing new goes wrong; clients go on for a while.
    Healing,
    /// Nobody asks for anything new.
    Draining,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// What went wrong, if anything.
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Virtual time from the end of the faults until all was well.
    pub recovery_time: Duration,
    /// Operations of clients that ended: ok, failed, unknown.
    pub operations: [u64; 3],
    /// Log entries committed.
    pub entries: u64,
    /// Faults, by kind.
    pub faults: FaultCounts,
    /// The kinds that could have struck.
    pub enabled: crate::faults::FaultSet,
    /// Starts after which a power loss was rehearsed.
    pub rehearsals: u64,
    /// Damaged logs that were given up and given back by a leader.
    pub repairs: u64,
    /// Damaged batches of logs that were repaired in their place.
    pub batches_repaired: u64,
    /// Nodes that refused to start because of damage, and were replaced.
    pub refusals: u64,
    /// How often a node left what it was asked unread, because it had enough under way.
    pub left_unread: u64,
    /// Turns whose share of replies did not suffice for all reads.
    pub turns_short: u64,
    /// Changes of members that were made.
    pub changes: u64,
    /// Machines that left, and became members again.
    pub returns: u64,
    /// Kinds of fault whose turn came late, in a cluster that was sound.
    pub had_their_turn: crate::faults::FaultSet,
    /// The last lines of the trace, if they were kept.
    pub lines: Vec<String>,
    /// The history, for a picture of it.
    pub record: Option<Box<sampan_lincheck::History>>,
}

impl RunReport {
    /// Kinds of faults that could have struck and never did. A run that was stopped by a violation
    /// had no time for them.
    pub fn silent_faults(&self) -> impl Iterator<Item = Fault> {
        let silent = |fault: &Fault| self.violation.is_none() && self.faults.of(*fault) == 0;
        self.enabled.iter().filter(silent)
    }

    /// Those of them that the run must answer for: kinds that wait for a sound cluster are excused
    /// where it was not sound at any look.
    pub fn missed_faults(&self) -> impl Iterator<Item = Fault> {
        let can_be_asked =
            |fault: &Fault| self.had_their_turn.has(*fault) || !fault.needs_a_sound_cluster();
        self.silent_faults().filter(can_be_asked)
    }

    /// The run in one line.
    pub fn line(&self) -> String {
        let Self { seed, events, virtual_time, recovery_time, hash, .. } = self;
        let (virtual_s, recovery_s) = (virtual_time.as_secs_f64(), recovery_time.as_secs_f64());
        let silent: Vec<&str> = self.silent_faults().map(Fault::label).collect();
        format!(
            "seed {seed}: {virtual_s:.0} virtual s, recovered in {recovery_s:.1} s, {events} events, \
             {:.1} operations a second, trace hash {hash:016x}, silent: {silent:?}",
            self.operations_a_second()
        )
    }

    /// Operations of clients that ended, a virtual second.
    pub fn operations_a_second(&self) -> f64 {
        self.operations.iter().sum::<u64>() as f64 / self.virtual_time.as_secs_f64().max(1e-9)
    }
}

/// One run.
pub struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) world: World<SwarmNetwork>,
    pub(crate) rng: Rng,
    pub(crate) clients: Vec<Client>,
    pub(crate) workload: Workload,
    pub(crate) record: Record,
    pub(crate) counts: FaultCounts,
    pub(crate) disk_counts: DiskCounts,
    pub(crate) operator: Operator,
    pub(crate) backups: Backups,
    /// Kinds of fault whose turn came late, in a cluster that was sound.
    pub(crate) had_their_turn: crate::faults::FaultSet,
    /// The next client that sends hangs up at once: nobody waited when one was to.
    pub(crate) next_client_hangs_up: bool,
    /// How often a node left what it was asked unread, because it had enough under way.
    pub(crate) left_unread: u64,
    /// Nodes that refused to start because of damage.
    pub(crate) refusals: u64,
    /// Damaged logs that their nodes have got back from their peers.
    repairs: u64,
    /// How long the fault that strikes now will last, for the picture.
    pub(crate) lasts_us: u64,
    /// Errors of each disk that a node has stopped for.
    pub(crate) known_errors: BTreeMap<NodeId, u64>,
    todos: Vec<Option<Todo>>,
    todos_free: Vec<usize>,
    phase: Phase,
    healed_at: SimTime,
    well_at: SimTime,
}

/// Runs a plan to its end.
pub fn run(plan: Plan, trace: Trace) -> RunReport {
    run_watched(plan, trace, None)
}

/// What is done to a cluster in which all is well, and what must be so after it.
pub(crate) type Strike = Box<dyn FnOnce(&mut Simulation) -> Result<(), Violation>>;

/// Runs a plan until all is well and quiet, strikes, goes on under load, and judges.
pub(crate) fn run_struck(plan: Plan, trace: Trace, strike: Strike) -> RunReport {
    let (seed, enabled) = (plan.seed, plan.faults);
    let mut simulation = Simulation::new(plan, trace);
    let violation = simulation.play_struck(strike).err();
    simulation.into_report(seed, enabled, violation)
}

/// Runs a plan to its end under a watch.
pub fn run_watched(plan: Plan, trace: Trace, watch: Option<Box<dyn SyncWatch>>) -> RunReport {
    let (seed, enabled) = (plan.seed, plan.faults);
    let mut simulation = Simulation::new(plan, trace);
    simulation.world.watch = watch;
    let violation = simulation.play().err();
    if let Some(violation) = &violation {
        let now = simulation.world.now();
        simulation.world.trace.line(now, || format!("VIOLATION {violation}"));
    }
    simulation.into_report(seed, enabled, violation)
}

impl Simulation {
    fn new(plan: Plan, trace: Trace) -> Self {
        let mut rng = Rng::seeded(plan.seed ^ 0x5a3d_7057_0002);
        let network = SwarmNetwork::new(plan.rates, rng.fork());
        let cluster = ClusterId(rng.next_u64());
        let world = World::new(cluster, rng.next_u64(), network, trace);
        let clients = plan.clients.iter().enumerate();
        let clients = clients.map(|(number, plan)| Client::new(number as u64, *plan)).collect();
        let workload = Workload::new(plan.mix, rng.fork());
        Self {
            world,
            clients,
            workload,
            record: Record::default(),
            counts: FaultCounts::default(),
            disk_counts: DiskCounts::default(),
            operator: Operator::new(plan.nodes),
            backups: Backups::default(),
            had_their_turn: crate::faults::FaultSet::default(),
            next_client_hangs_up: false,
            left_unread: 0,
            refusals: 0,
            repairs: 0,
            lasts_us: 0,
            known_errors: BTreeMap::new(),
            todos: Vec::new(),
            todos_free: Vec::new(),
            phase: Phase::Safety,
            healed_at: SimTime::ZERO,
            well_at: SimTime::ZERO,
            rng,
            plan,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    pub(crate) fn is_healing(&self) -> bool {
        self.phase != Phase::Safety
    }

    /// Does something after so many microseconds.
    pub(crate) fn after(&mut self, us: u64, todo: Todo) {
        let place = if let Some(place) = self.todos_free.pop() {
            self.todos[place] = Some(todo);
            place
        } else {
            self.todos.push(Some(todo));
            self.todos.len() - 1
        };
        let at = self.world.now().plus_us(us);
        self.world.set_timer(at, place as u64);
    }

    pub(crate) fn reset_later(&mut self, client: usize) {
        if let Some(connection) = self.clients[client].connection_id() {
            let latency = self.rng.between(20, 1_500);
            self.after(latency, Todo::Reset { client, connection });
        }
    }

    // ------------------------------------------------------------------------------- phases

    fn play(&mut self) -> Result<(), Violation> {
        self.play_until_well()?;
        self.read_everything();
        self.judge()
    }

    fn play_struck(&mut self, strike: Strike) -> Result<(), Violation> {
        self.play_until_well()?;
        self.await_quiet()?;
        strike(self)?;
        self.phase = Phase::Healing;
        self.healed_at = self.world.now();
        for client in 0..self.clients.len() {
            self.after(0, Todo::Think(client));
        }
        self.play_until(self.healed_at.plus_us(STRUCK_US))?;
        self.phase = Phase::Draining;
        self.await_well()?;
        self.read_everything();
        self.judge()
    }

    /// Waits until nobody has written for a while: keys that expire may still make entries.
    fn await_quiet(&mut self) -> Result<(), Violation> {
        let ends = |world: &World<SwarmNetwork>| -> Vec<_> {
            world.nodes().map(|node| node.replica().map(|r| r.raft().last_index())).collect()
        };
        loop {
            let before = ends(&self.world);
            self.play_until(self.world.now().plus_us(QUIET_US))?;
            if ends(&self.world) == before {
                return Ok(());
            }
        }
    }

    fn play_until_well(&mut self) -> Result<(), Violation> {
        self.set_up()?;
        self.play_until(SimTime(self.plan.safety_us))?;
        self.phase = Phase::Healing;
        self.healed_at = self.world.now();
        self.world.trace.line(self.healed_at, || "everything is healed".into());
        self.heal();
        self.play_until(self.healed_at.plus_us(2_000_000))?;
        self.phase = Phase::Draining;
        self.await_well()
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        let ids = self.first_voters();
        let bootstrap = Configuration::of_voters(ids.clone());
        for &id in &ids {
            let setup = self.setup_of(id, bootstrap.clone());
            self.world.create(id, setup);
        }
        for id in ids {
            self.start_node(id)?;
        }
        self.let_members_meet()?;
        for client in 0..self.clients.len() {
            let wait = self.rng.below(500_000);
            self.after(wait, Todo::Think(client));
        }
        self.after(0, Todo::Operator);
        self.after(self.plan.safety_us / 3, Todo::Insist);
        let Plan { faults, fault_every_us, safety_us, .. } = self.plan;
        for (at, fault) in schedule(&mut self.rng, faults, fault_every_us, safety_us) {
            self.after(at, Todo::Fault { fault, tries: 0 });
        }
        Ok(())
    }

    /// A cluster begins when all its first members have heard of each other (`raft/newborn.rs`);
    /// what goes wrong goes wrong after that.
    fn let_members_meet(&mut self) -> Result<(), Violation> {
        let newborn = |node: &crate::node::Node| {
            node.replica().is_some_and(|replica| replica.raft().is_newborn())
        };
        while self.world.nodes().any(newborn) {
            let now = self.world.now();
            if now > SimTime(MEETING_BOUND_US) {
                return Err(Violation::new("liveness", "the first members never met".into()));
            }
            self.play_until(now.plus_us(50_000))?;
        }
        Ok(())
    }

    pub(crate) fn play_until(&mut self, until: SimTime) -> Result<(), Violation> {
        while let Some(notice) = self.world.run(until)? {
            self.react(notice)?;
        }
        Ok(())
    }

    fn react(&mut self, notice: Notice) -> Result<(), Violation> {
        match notice {
            Notice::Timer(place) => {
                let todo = self.todos[place as usize].take().expect("a timer has something to do");
                self.todos_free.push(place as usize);
                self.act(todo)
            }
            Notice::Reply(id, reply) => self.reply_leaves(id, reply),
            Notice::Event(_, Event::SnapshotInstalled { .. }) => {
                self.counts.add(Fault::Install, 1);
                Ok(())
            }
            Notice::Event(id, Event::NonVoting(None)) => {
                if self.world.node(id).disk().emptied {
                    self.counts.add(Fault::Wiped, 1);
                } else {
                    self.repairs += 1;
                }
                Ok(())
            }
            Notice::Backup(id, ready, read) => self.backup_is_ready(id, &ready, read),
            Notice::Event(..) => Ok(()),
            Notice::Stopped(id, why) => self.node_stopped(id, &why),
            Notice::PowerLost(id) => {
                let down = self.rng.between(10_000, 2_000_000);
                self.after(down, Todo::Restart(id));
                Ok(())
            }
            Notice::ShutdownComplete(id) => {
                self.kill_and_restart(id, 500_000);
                Ok(())
            }
        }
    }

    /// A node's process ended by itself: only a disk that failed is a reason.
    fn node_stopped(&mut self, id: NodeId, why: &str) -> Result<(), Violation> {
        let disk = self.world.node(id).disk();
        let (failed, damaged) = (disk.has_failed(), disk.damaged);
        let total = disk.counts.fatal_errors() + disk.counts.read_errors;
        let known = self.known_errors.insert(id, total).unwrap_or(0);
        if total == known && !failed && !damaged {
            return Err(Violation::new(
                "replica-stops",
                format!("{id} stopped without cause: {why}"),
            ));
        }
        if failed || self.rng.one_in(2) {
            self.world.cut_power(id, crate::disk::Survival::Some { permille: 500 });
        }
        if damaged && why.contains("acknowledged") {
            return self.replace(id);
        }
        let wait = self.rng.between(10_000, 2_000_000);
        self.after(wait, Todo::Restart(id));
        Ok(())
    }

    fn act(&mut self, todo: Todo) -> Result<(), Violation> {
        match todo {
            Todo::Think(client) => return self.client_thinks(client),
            Todo::Arrive { client, node, connection, requests } => {
                return self.requests_arrive(client, node, connection, requests);
            }
            Todo::Read { client, node, connection } => {
                return self.requests_are_read(client, node, connection);
            }
            Todo::Answer { client, reply } => return self.reply_arrives(client, *reply),
            Todo::Patience { client, id, attempts } => {
                return self.patience_ends(client, id, attempts);
            }
            Todo::Retry { client, id } => return self.client_sends(client, id),
            Todo::Reset { client, connection } => self.connection_resets(client, connection),
            Todo::Ask { client, connection, left } => {
                return self.client_asks(client, connection, left);
            }
            Todo::Take { client, connection } => return self.client_takes(client, connection),
            Todo::Close { node, connection } => {
                self.count_held(node, connection);
                return self.world.input(node, Input::ConnectionClosed(connection));
            }
            Todo::Fault { fault, tries } => return self.fault_strikes(fault, tries),
            Todo::Undo(undo) => self.undo(undo),
            Todo::Insist => return self.insist(),
            Todo::Operator => return self.operator_looks(),
            Todo::Restart(id) => return self.start_node(id),
            Todo::WipeAgain(id) if self.phase == Phase::Safety => self.wipe_again(id),
            Todo::WipeAgain(_) => {}
            Todo::Shutdown(id) => {
                if let Some(node) = self.world.get(id).filter(|node| node.is_up()) {
                    let life = node.lives();
                    self.after(5_000_000, Todo::KillIfUp(id, life));
                    return self.world.input(id, Input::Shutdown);
                }
            }
            Todo::KillIfUp(id, life) => {
                let same = self.world.get(id).is_some_and(|n| n.is_up() && n.lives() == life);
                if same {
                    self.kill_and_restart(id, 500_000);
                }
            }
            Todo::Remove(id) => self.take_away_for_good(id),
            Todo::Isolate(id) => self.isolate(id),
            Todo::Snapshots => return self.take_snapshots().map(drop),
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------- liveness

    fn await_well(&mut self) -> Result<(), Violation> {
        let deadline = self.healed_at.plus_us(LIVENESS_BOUND_US);
        loop {
            let until = self.world.now().plus_us(LOOK_EVERY_US);
            self.play_until(until)?;
            let Some(why) = self.what_is_not_well() else { break };
            if until >= deadline {
                let seconds = LIVENESS_BOUND_US / 1_000_000;
                let detail = format!("{seconds} s after everything was healed: {why}");
                return Err(Violation::new("liveness", detail));
            }
        }
        self.well_at = self.world.now();
        Ok(())
    }

    /// Why all is not well, if it is not.
    fn what_is_not_well(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().find(|client| client.is_waiting()) {
            return Some(client.describe());
        }
        if !self.operator.is_content() {
            return Some(self.operator.describe());
        }
        let Some(leader) = self.world.leader() else { return Some("nobody leads".into()) };
        let Some(configuration) = self.settled_configuration() else {
            return Some("the configuration is not settled".into());
        };
        let of = |id: NodeId| Some(self.world.get(id)?.replica()?.raft());
        let want = of(leader)?;
        let is_congested = |node: &&crate::node::Node| {
            node.replica().is_some_and(sampan_replica::Replica::is_congested)
        };
        if let Some(node) = self.world.nodes().find(is_congested) {
            return Some(format!("{} reads nothing though nobody waits", node.id()));
        }
        for id in configuration.members() {
            let Some(raft) = of(id) else { return Some(format!("member {id} does not run")) };
            if raft.non_voting_until().is_some() {
                return Some(format!("{id} still does not vote"));
            }
            if (raft.applied(), raft.term()) != (want.last_index(), want.term()) {
                let (applied, commit, term) = (raft.applied(), raft.commit(), raft.term());
                let (last, leaders_term) = (want.last_index(), want.term());
                return Some(format!(
                    "{id} has applied {applied} of {commit} in term {term}, {leader} has {last} in \
                     {leaders_term}"
                ));
            }
        }
        None
    }

    // ------------------------------------------------------------------------------- judgement

    /// Reads every key of the history once more, each at some member. All is well, so the applied
    /// state of any of them is the state.
    fn read_everything(&mut self) {
        let now = self.world.now();
        let members = self.settled_configuration().map(|c| c.members()).unwrap_or_default();
        let members: Vec<NodeId> = members.into_iter().collect();
        for key in self.keys() {
            let id = *self.rng.pick(&members);
            let mut encoded = Vec::new();
            let parsed = sampan_kv::parse(&["GET", &key], &self.plan.options.kv, &mut encoded);
            let Some(replica) = self.world.node(id).replica().filter(|_| parsed.is_ok()) else {
                continue;
            };
            let reply = replica.kv().query(&encoded);
            let op = if key.starts_with('t') { Op::GetPx(key) } else { Op::Get(key) };
            self.record.push(u64::MAX, &op, now, now, &End::Answer(reply));
        }
    }

    fn keys(&mut self) -> Vec<String> {
        let history = &self.record.history;
        let mut keys: Vec<String> = history
            .ids()
            .flat_map(|id| {
                history.steps(id).iter().map(|step| history.key_name(step.key).to_owned())
            })
            .collect();
        keys.extend(self.record.ttl.keys().cloned());
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn judge(&mut self) -> Result<(), Violation> {
        if let Some(nonsense) = self.record.nonsense.first() {
            return Err(Violation::new("client", nonsense.clone()));
        }
        let lists: BTreeSet<&String> = self.record.tokens.iter().map(|token| &token.key).collect();
        let finals = lists.into_iter().map(|key| (key.clone(), self.final_value(key)));
        let finals = finals.collect();
        exactly_once::check(&self.record.tokens, &finals)?;
        connection_order::check(&mut self.record.told, &finals)?;
        let clocks = [Fault::ClockJump, Fault::ClockSkew, Fault::ClockDrift];
        let clocks_are_right = !clocks.into_iter().any(|fault| self.plan.faults.has(fault));
        ttl::check(&self.record.ttl, clocks_are_right)?;
        linearizability::check(&self.record.history)
    }

    /// What a key holds in the end.
    fn final_value(&self, key: &str) -> String {
        let mut encoded = Vec::new();
        let parsed = sampan_kv::parse(&["GET", key], &self.plan.options.kv, &mut encoded);
        let replica = self.world.leader().and_then(|id| self.world.node(id).replica());
        match replica.filter(|_| parsed.is_ok()).map(|replica| replica.kv().query(&encoded)) {
            Some(Reply::Bulk(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        }
    }

    /// How often each kind has struck: what strikes is counted where it does, the rest where it is
    /// felt.
    pub(crate) fn counts_so_far(&self) -> FaultCounts {
        let mut counts = self.counts;
        let mut disks = self.disk_counts;
        for node in self.world.nodes() {
            disks.merge(&node.disk().counts);
        }
        let network = self.world.network.counts;
        for (fault, times) in [
            (Fault::Drop, network.dropped),
            (Fault::Duplicate, network.duplicated),
            (Fault::Reorder, network.reordered),
            (Fault::Delay, network.delayed),
            (Fault::Corrupt, self.world.counts.corrupt_caught),
            (Fault::Completions, self.world.counts.overtaken),
            (Fault::LostSectors, disks.sectors_lost),
            (Fault::LostNames, disks.names_lost),
            (Fault::TornWrite, disks.torn),
            (Fault::ReadError, disks.read_errors),
            (Fault::WriteError, disks.write_errors),
            (Fault::SyncError, disks.sync_errors),
            (Fault::SyncDrops, disks.sectors_dropped),
            (Fault::NoSpace, disks.no_space),
            (Fault::Misdirected, disks.misdirected),
        ] {
            counts.add(fault, times);
        }
        counts
    }

    fn into_report(
        mut self,
        seed: u64,
        enabled: crate::faults::FaultSet,
        violation: Option<Violation>,
    ) -> RunReport {
        self.counts = self.counts_so_far();
        let failed = violation.is_some();
        self.record.history.notes.push(format!("sampan-sim replay {seed}"));
        RunReport {
            seed,
            hash: self.world.trace.hash(),
            events: self.world.trace.events(),
            virtual_time: Duration::from_micros(self.world.now().0),
            recovery_time: Duration::from_micros(self.well_at.us_since(self.healed_at)),
            operations: self.record.ended,
            entries: self.world.oracles.registry().commit().0,
            faults: self.counts,
            enabled,
            rehearsals: self.world.oracles.rehearsals,
            repairs: self.repairs,
            batches_repaired: self.world.counts.batches_repaired,
            refusals: self.refusals,
            left_unread: self.left_unread,
            turns_short: self.world.counts.turns_short,
            changes: self.operator.changes,
            returns: self.operator.returns,
            had_their_turn: self.had_their_turn,
            lines: self.world.trace.into_lines(),
            record: failed.then(|| Box::new(self.record.history)),
            violation,
        }
    }
}
