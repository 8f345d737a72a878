//! A cluster in virtual time: machines, the network between them, and the one queue of what
//! happens next.
//!
//! The world drives replicas exactly as a server does ([`sampan_replica`]): inputs gather, a turn
//! steps through them and flushes once, jobs go to their lanes, messages to the network as the very
//! frames a server would send, replies to whoever drives the world. It does no more than it is
//! told: clients, faults and schedules are its driver's (`run.rs`, or a suite of its own).
//!
//! A driver calls [`World::run`] with a time; it returns early with each [`Notice`]. After every
//! turn of every node all of [`crate::checkers`] have looked.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use sampan_base::{ClusterId, LogIndex, NodeId, Rng};
use sampan_kv::Digest;
use sampan_replica::wire::{Forward, PeerMessage, decode_frame, encode_frame};
use sampan_replica::{
    BackupReady, ClientReply, DiskDone, DiskJob, Envelope, Event, Fatal, Input, Lane, OpenError,
    Outputs, Replica, job,
};
use sampan_storage::{Identity, Storage};

use crate::backups;
use crate::checkers::{Oracles, Seen, Violation};
use crate::clock::NodeClock;
use crate::disk::{DiskOp, FileClass, SimDisk, Survival};
use crate::narrate;
use crate::network::{Delivery, LossNotice, Network, Sending};
use crate::node::{Node, NodeSetup, Running, duration_us};
use crate::queue::{Queue, SimTime};
use crate::sync_points::SyncWatch;
use crate::trace::Trace;

/// Something the driver should know.
#[derive(Debug)]
pub enum Notice {
    /// A timer of [`World::set_timer`] is due.
    Timer(u64),
    /// A node answered a client.
    Reply(NodeId, ClientReply),
    /// A replica reports something.
    Event(NodeId, Event),
    /// A snapshot for a backup, and what came of reading it.
    Backup(NodeId, BackupReady, Result<Digest, String>),
    /// A node's process ended by itself: its disk failed.
    Stopped(NodeId, String),
    /// The watch let a node's power go.
    PowerLost(NodeId),
    /// After [`Input::Shutdown`]: the node has finished and may be killed.
    ShutdownComplete(NodeId),
}

/// Something that will happen.
enum Happening {
    Frame { from: NodeId, to: NodeId, frame: Bytes, corrupted: bool },
    Hint { to: NodeId, peer: NodeId, connected: bool },
    Input { node: NodeId, life: u64, input: Input },
    Turn { node: NodeId, life: u64 },
    Wake { node: NodeId, life: u64 },
    Job { node: NodeId, life: u64, lane: Lane },
    Told { node: NodeId, life: u64, lane: Lane },
    Timer(u64),
}

/// What happened so far, in numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WorldCounts {
    /// Turns of nodes.
    pub turns: u64,
    /// Frames sent, lost ones included.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Frames delivered.
    pub delivered: u64,
    /// Corrupted frames that the receiver noticed.
    pub corrupt_caught: u64,
    /// Disk jobs done.
    pub jobs: u64,
    /// Of those, jobs of which a replica heard before one that was done earlier.
    pub overtaken: u64,
    /// Damaged batches of logs that were repaired in their place.
    pub batches_repaired: u64,
    /// Turns whose share of replies did not suffice for all reads.
    pub turns_short: u64,
}

/// See [`World::happenings_a_second_max`].
const HAPPENINGS_A_SECOND_MAX: u64 = 200_000;

/// How much happens in the virtual second that runs.
#[derive(Clone, Copy, Default, Debug)]
struct Pace {
    second: u64,
    happenings: u64,
}

impl Pace {
    fn is_a_storm(&mut self, at: SimTime, happenings_max: u64) -> bool {
        let second = at.0 / 1_000_000;
        if second != self.second {
            *self = Self { second, happenings: 0 };
        }
        self.happenings += 1;
        self.happenings > happenings_max
    }
}

/// The cluster.
pub struct World<N> {
    /// The network.
    pub network: N,
    /// What happened.
    pub trace: Trace,
    /// Who watches.
    pub oracles: Oracles,
    /// In numbers.
    pub counts: WorldCounts,
    /// After one group commit in so many a power loss is rehearsed on a copy of the disk.
    pub rehearse_one_in: u64,
    /// More happenings in one virtual second are a storm: somebody talks without need, or for ever.
    pub happenings_a_second_max: u64,
    /// Is shown every disk just before each sync.
    pub watch: Option<Box<dyn SyncWatch>>,
    pub(crate) cluster: ClusterId,
    pub(crate) now: SimTime,
    queue: Queue<Happening>,
    pub(crate) nodes: Vec<Option<Box<Node>>>,
    rng: Rng,
    pub(crate) notices: VecDeque<Notice>,
    pace: Pace,
    pub(crate) outputs: Outputs,
    deliveries: Vec<Delivery>,
    frame: Vec<u8>,
    /// Nodes that were told, in this life, that they have no connection to another one.
    unreachable: BTreeSet<(NodeId, u64, NodeId)>,
}

impl<N: Network> World<N> {
    /// An empty world. The seed decides all that is random in it.
    pub fn new(cluster: ClusterId, seed: u64, network: N, trace: Trace) -> Self {
        Self {
            network,
            trace,
            oracles: Oracles::default(),
            counts: WorldCounts::default(),
            rehearse_one_in: REHEARSE_ONE_IN,
            happenings_a_second_max: HAPPENINGS_A_SECOND_MAX,
            watch: None,
            cluster,
            now: SimTime::ZERO,
            queue: Queue::default(),
            nodes: Vec::new(),
            rng: Rng::seeded(seed),
            notices: VecDeque::new(),
            pace: Pace::default(),
            outputs: Outputs::default(),
            deliveries: Vec::new(),
            frame: Vec::new(),
            unreachable: BTreeSet::new(),
        }
    }

    // ------------------------------------------------------------------------------- machines

    /// Makes a machine with a fresh data directory; it does not run yet. Panics if the name is
    /// used.
    pub fn create(&mut self, id: NodeId, setup: NodeSetup) {
        let slot = id.get() as usize;
        if self.nodes.len() <= slot {
            self.nodes.resize_with(slot + 1, || None);
        }
        assert!(self.nodes[slot].is_none(), "{id} is there already");
        let disk = self.fresh_disk(id, &setup);
        self.nodes[slot] = Some(Box::new(Node::new(id, setup, disk)));
    }

    /// Starts a machine's process: recovery, then it takes part.
    pub fn start(&mut self, id: NodeId) -> Result<Result<String, OpenError>, Violation> {
        let seed = self.rng.next_u64();
        let (now, cluster) = (self.now, self.cluster);
        let identity = Identity { cluster, node: id };
        self.show_start(id, identity)?;
        let node = self.node_mut(id);
        assert!(!node.is_up(), "{id} runs already");
        let (options, bootstrap) = (node.setup.options.clone(), node.setup.bootstrap.clone());
        let clock = node.clock.read(now);
        node.life += 1;
        let started = Replica::start(&mut node.disk, identity, options, bootstrap, seed, clock);
        self.begin(id, started)
    }

    /// A machine's process dies at once, as by `kill -9`; what it wrote stays written.
    pub fn kill(&mut self, id: NodeId) {
        self.stop(id);
        self.trace.event(self.now, [id.get(), 3, 0], || format!("✗ {id} killed"));
        self.disconnect(id);
    }

    /// A machine loses power: what was not synced may be lost, and nobody is told.
    pub fn cut_power(&mut self, id: NodeId, survival: Survival) {
        self.stop(id);
        let node = self.node_mut(id);
        node.disk.lose_power(survival);
        let lost = node.disk.counts.sectors_lost;
        self.trace.event(self.now, [id.get(), 4, lost], || format!("✗ {id} power lost"));
    }

    /// A machine is gone for good; its name is never used again. The oracles go on believing that
    /// it held what it had acknowledged: its loss is a fault, not a lie.
    pub fn remove(&mut self, id: NodeId) {
        self.stop(id);
        self.trace.event(self.now, [id.get(), 5, 0], || format!("✗ {id} removed with its disk"));
        self.nodes[id.get() as usize] = None;
    }

    /// A machine's process dies, and its disk is emptied. It will start under its own name.
    pub fn wipe(&mut self, id: NodeId) {
        self.stop(id);
        self.trace.event(self.now, [id.get(), 9, 0], || format!("✗ {id} wiped"));
        let disk = self.fresh_disk(id, &self.node(id).setup.clone());
        let node = self.node_mut(id);
        node.disk = disk;
        node.disk.emptied = true;
        self.oracles.disk_emptied(id);
    }

    fn fresh_disk(&mut self, id: NodeId, setup: &NodeSetup) -> SimDisk {
        let mut disk = SimDisk::new(self.rng.fork());
        let identity = Identity { cluster: self.cluster, node: id };
        let create = if setup.formed { Storage::create_formed } else { Storage::create };
        create(&mut disk, identity, &setup.options.storage).expect("a fresh disk is empty");
        disk.is_new = !setup.formed;
        disk
    }

    /// Changes a machine's clocks.
    pub fn change_clock(&mut self, id: NodeId, change: impl FnOnce(&mut NodeClock)) {
        let node = self.node_mut(id);
        change(&mut node.clock);
        node.wake_at = SimTime::NEVER;
        if node.is_up() && !node.paused {
            self.schedule_wake(id);
        }
    }

    /// A machine's process stops in its tracks; what comes for it waits.
    pub fn pause(&mut self, id: NodeId) {
        self.node_mut(id).paused = true;
        self.trace.event(self.now, [id.get(), 6, 0], || format!("{id} pauses"));
    }

    /// It goes on.
    pub fn resume(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node_mut(id);
        if !std::mem::take(&mut node.paused) {
            return;
        }
        node.resumed_at = now;
        self.trace.event(now, [id.get(), 7, 0], || format!("{id} resumes"));
        self.schedule_turn(id);
    }

    pub(crate) fn stop(&mut self, id: NodeId) {
        let mut rng = self.rng.fork();
        self.node_mut(id).die(&mut rng);
        self.oracles.after_death(id);
    }

    /// Tells everybody that can be told that a node is up, and it that they are.
    pub(crate) fn connect(&mut self, id: NodeId) {
        for peer in self.ids_up().into_iter().filter(|&peer| peer != id) {
            self.hint(id, peer, true);
            self.hint(peer, id, true);
        }
    }

    pub(crate) fn disconnect(&mut self, id: NodeId) {
        for peer in self.ids_up().into_iter().filter(|&peer| peer != id) {
            self.hint(id, peer, false);
        }
    }

    /// Lets `to` know that its connection with `from` opened or closed, if the network lets it.
    pub fn hint(&mut self, from: NodeId, to: NodeId, connected: bool) {
        if let Some(after_us) = self.network.hint_us(self.now, from, to) {
            let hint = Happening::Hint { to, peer: from, connected };
            self.queue.push(self.now.plus_us(after_us), hint);
        }
    }

    // ------------------------------------------------------------------------------- looking

    /// The time.
    pub fn now(&self) -> SimTime {
        self.now
    }

    /// A machine. Panics if there is none of that name.
    pub fn node(&self, id: NodeId) -> &Node {
        self.get(id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    /// A machine, to change it. Panics if there is none of that name.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        let slot = self.nodes.get_mut(id.get() as usize).and_then(Option::as_deref_mut);
        slot.unwrap_or_else(|| panic!("there is no {id}"))
    }

    /// A machine, if there is one.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.get() as usize)?.as_deref()
    }

    /// All machines, in order of name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten().map(|node| &**node)
    }

    /// The names of all machines whose process runs.
    pub fn ids_up(&self) -> Vec<NodeId> {
        self.nodes().filter(|node| node.is_up()).map(Node::id).collect()
    }

    /// The leader of the highest term among those that run, if any leads.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes().filter_map(|node| {
            let raft = node.replica()?.raft();
            raft.is_leader().then(|| (raft.term(), node.id()))
        });
        leaders.max().map(|(_, id)| id)
    }

    // ------------------------------------------------------------------------------- driving

    /// Hands an input to a node at once; lost if it does not run.
    pub fn input(&mut self, id: NodeId, input: Input) -> Result<(), Violation> {
        self.deliver(id, input)
    }

    /// Wakes the driver at a time with a number of its choice.
    pub fn set_timer(&mut self, at: SimTime, number: u64) {
        self.queue.push(at.max(self.now), Happening::Timer(number));
    }

    /// Lets things happen until there is a notice, or until nothing more happens by `until`.
    pub fn run(&mut self, until: SimTime) -> Result<Option<Notice>, Violation> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(Some(notice));
            }
            match self.queue.next_at() {
                Some(at) if at <= until => {}
                _ => {
                    self.now = self.now.max(until);
                    return Ok(None);
                }
            }
            let Some((at, happening)) = self.queue.pop() else { continue };
            self.now = at;
            if self.pace.is_a_storm(at, self.happenings_a_second_max) {
                return Err(self.storm());
            }
            self.happen(happening)?;
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Frame { from, to, frame, corrupted } => {
                self.frame_arrives(from, to, &frame, corrupted)
            }
            Happening::Hint { to, peer, connected } => {
                let input = if connected {
                    Input::PeerConnected(peer)
                } else {
                    Input::PeerDisconnected(peer)
                };
                self.deliver(to, input)
            }
            Happening::Input { node, life, input } if self.is_life(node, life) => {
                self.deliver(node, input)
            }
            Happening::Input { .. } => Ok(()),
            Happening::Turn { node, life } => {
                if self.is_life(node, life) {
                    self.node_mut(node).turn_queued = false;
                    if !self.node(node).paused {
                        self.turn(node)?;
                    }
                }
                Ok(())
            }
            Happening::Wake { node, life } => self.wake(node, life),
            Happening::Job { node, life, lane } => {
                if self.is_life(node, life) {
                    self.job_ends(node, lane)
                } else {
                    Ok(())
                }
            }
            Happening::Told { node, life, lane } => {
                if self.is_life(node, life) {
                    self.tell(node, lane)
                } else {
                    Ok(())
                }
            }
            Happening::Timer(number) => {
                self.notices.push_back(Notice::Timer(number));
                Ok(())
            }
        }
    }

    /// Says who wants a turn although its last one was only just now.
    fn storm(&self) -> Violation {
        let overdue =
            self.nodes().filter(|node| node.next_deadline() <= node.clock.read(self.now).mono);
        let overdue: Vec<NodeId> = overdue.map(Node::id).collect();
        let detail = format!(
            "more than {} happenings in second {}; always due: {overdue:?}",
            self.happenings_a_second_max, self.pace.second
        );
        Violation::new("storm", detail)
    }

    fn is_life(&self, id: NodeId, life: u64) -> bool {
        self.get(id).is_some_and(|node| node.is_up() && node.life == life)
    }

    // ------------------------------------------------------------------------------- turns

    fn deliver(&mut self, id: NodeId, input: Input) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(id.get() as usize).and_then(Option::as_deref_mut)
        else {
            return Ok(());
        };
        if !node.is_up() {
            return Ok(());
        }
        node.inbox.push(input);
        if node.paused || node.turn_queued {
            return Ok(());
        }
        if node.busy_until > now || node.setup.turn_us > 0 {
            // A turn that takes time takes all that has come by the moment it begins.
            self.schedule_turn(id);
            return Ok(());
        }
        self.turn(id)
    }

    fn schedule_turn(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node_mut(id);
        if !node.turn_queued {
            node.turn_queued = true;
            let (at, life) = (node.busy_until.max(now), node.life);
            self.queue.push(at, Happening::Turn { node: id, life });
        }
    }

    fn wake(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        if !self.is_life(id, life) {
            return Ok(());
        }
        let now = self.now;
        let node = self.node_mut(id);
        if node.wake_at != now {
            return Ok(()); // another wake-up took its place
        }
        node.wake_at = SimTime::NEVER;
        if node.paused || node.turn_queued {
            return Ok(());
        }
        if node.clock.when(node.next_deadline()) > now {
            self.schedule_wake(id); // the deadline has moved on
            return Ok(());
        }
        self.deliver(id, Input::Tick)
    }

    pub(crate) fn schedule_wake(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node_mut(id);
        if !node.is_up() {
            return;
        }
        // At least a microsecond on: a turn that leaves work for the next one ends all the same.
        let at = node.clock.when(node.next_deadline()).max(node.busy_until).max(now.plus_us(1));
        if at < node.wake_at {
            node.wake_at = at;
            let life = node.life;
            if at != SimTime::NEVER {
                self.queue.push(at, Happening::Wake { node: id, life });
            }
        }
    }

    /// One turn of a node: all that is in its inbox, one flush, and the oracles.
    pub(crate) fn turn(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.now;
        self.counts.turns += 1;
        let slot = self.nodes[id.get() as usize].as_deref_mut().expect("only nodes take turns");
        let Some(replica) = &mut slot.replica else { return self.repair_turn(id) };
        let clock = slot.clock.read(now);
        for input in slot.inbox.drain(..) {
            replica.step(clock, input);
        }
        replica.flush(clock, &mut self.outputs);
        slot.busy_until = now.plus_us(slot.setup.turn_us);
        self.counts.turns_short += u64::from(replica.reads_put_off() > 0);
        if let Some(fatal) = self.outputs.fatal.take() {
            self.outputs = Outputs::default();
            return self.fatal(id, fatal);
        }
        let before = self.oracles.seen(id).map_or(LogIndex::ZERO, |seen| seen.cursors.applied);
        let raft = replica.raft();
        if raft.applied() > before {
            self.trace.line(now, || narrate::applies(id, raft, before));
        }
        self.oracles.after_turn(id, replica)?;
        for Envelope { message, .. } in &self.outputs.messages {
            if let PeerMessage::Raft(message) = message {
                self.oracles.before_send(message)?;
            }
        }
        self.hand_out(id);
        self.schedule_wake(id);
        Ok(())
    }

    fn fatal(&mut self, id: NodeId, fatal: Fatal) -> Result<(), Violation> {
        let why = match fatal {
            Fatal::Invariant(why) if !self.node(id).disk.damaged => {
                return Err(Violation::new("replica-invariant", format!("{id}: {why}")));
            }
            Fatal::Invariant(why) => why,
            Fatal::Disk(error) => error.to_string(),
        };
        self.stop(id);
        self.trace.event(self.now, [id.get(), 8, 0], || format!("✗ {id} stops: {why}"));
        self.disconnect(id);
        self.notices.push_back(Notice::Stopped(id, why));
        Ok(())
    }

    /// Acts on what a turn put out.
    pub(crate) fn hand_out(&mut self, id: NodeId) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for job in outputs.jobs.drain(..) {
            self.job_arrives(id, job);
        }
        for envelope in outputs.messages.drain(..) {
            self.send(id, &envelope);
        }
        for reply in outputs.replies.drain(..) {
            let numbers = [id.get(), reply.connection.0 << 32 | reply.seq, reply.decided_at.0];
            self.trace.event(self.now, numbers, || {
                let ClientReply { connection, seq, reply, decided_at } = &reply;
                format!("{id} → c{} #{seq} {reply:?} at {decided_at}", connection.0)
            });
            self.notices.push_back(Notice::Reply(id, reply));
        }
        for event in outputs.events.drain(..) {
            self.trace.line(self.now, || narrate::event(id, &event));
            self.notices.push_back(Notice::Event(id, event));
        }
        for ready in outputs.backups.drain(..) {
            let node = self.node(id);
            let read = backups::read(&node.disk, node.setup.options.kv, &ready);
            self.trace.line(self.now, || narrate::backup(id, &ready, &read));
            self.notices.push_back(Notice::Backup(id, ready, read));
        }
        if std::mem::take(&mut outputs.shutdown_complete) {
            self.notices.push_back(Notice::ShutdownComplete(id));
        }
        self.outputs = outputs;
    }

    // ------------------------------------------------------------------------------- messages

    fn send(&mut self, from: NodeId, envelope: &Envelope) {
        let Envelope { to, stream, message } = envelope;
        let to = *to;
        self.frame.clear();
        encode_frame(self.cluster, from, to, message, &mut self.frame);
        self.counts.frames += 1;
        self.counts.frame_bytes += self.frame.len() as u64;
        let mut deliveries = std::mem::take(&mut self.deliveries);
        let frame_bytes = self.frame.len();
        let sending = Sending { from, to, stream: *stream, message, frame_bytes };
        self.network.send(self.now, sending, &mut deliveries);
        let copies = deliveries.len();
        self.trace.event(
            self.now,
            [from.get(), to.get() << 8 | copies as u64, checksum(&self.frame)],
            || narrate::sent(from, to, message, copies),
        );
        if copies == 0
            && let Some(LossNotice { to, peer, after_us }) = self.network.loss_notice()
        {
            let hint = Happening::Hint { to, peer, connected: true };
            self.queue.push(self.now.plus_us(after_us), hint);
        }
        let (node, life) = (from, self.node(from).life);
        let mut tell = |input| self.queue.push(self.now, Happening::Input { node, life, input });
        if let PeerMessage::Forward(Forward { frame_seq, .. }) = *message
            && copies == 0
            && self.network.is_known_unconnected(&sending)
        {
            self.unreachable.insert((node, life, to));
            tell(Input::PeerUnreachable(to));
            tell(Input::ForwardNotSent { to, frame_seq });
        }
        if copies > 0 {
            if self.unreachable.remove(&(node, life, to)) {
                tell(Input::PeerConnected(to));
            }
            let frame = Bytes::copy_from_slice(&self.frame);
            for Delivery { after_us, corrupt } in deliveries.drain(..) {
                let frame = if corrupt { self.corrupt(&frame) } else { frame.clone() };
                let arrival = Happening::Frame { from, to, frame, corrupted: corrupt };
                self.queue.push(self.now.plus_us(after_us), arrival);
            }
        }
        self.deliveries = deliveries;
    }

    /// Changes up to four bytes that lie within 32 bits of one another, or anywhere.
    fn corrupt(&mut self, frame: &Bytes) -> Bytes {
        let mut bytes = frame.to_vec();
        for _ in 0..self.rng.between(1, 4) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= self.rng.between(1, 255) as u8;
        }
        if bytes == *frame {
            bytes[0] ^= 1; // one change had undone another
        }
        Bytes::from(bytes)
    }

    fn frame_arrives(
        &mut self,
        from: NodeId,
        to: NodeId,
        frame: &Bytes,
        corrupted: bool,
    ) -> Result<(), Violation> {
        if !self.get(to).is_some_and(Node::is_up) || !self.network.arrives(self.now, from, to) {
            return Ok(());
        }
        let (cluster, now) = (self.cluster, self.now);
        let decoded = decode_frame(frame).ok().filter(|(header, _)| {
            header.cluster == cluster && header.to == to && header.from == from
        });
        match decoded {
            None if corrupted => {
                self.counts.corrupt_caught += 1;
                self.trace
                    .event(now, [to.get(), from.get(), 9], || format!("{to} ← {from} ✗ corrupt"));
                Ok(())
            }
            None => Err(Violation::new(
                "wire",
                format!("{to} cannot read a frame of {} bytes from {from}", frame.len()),
            )),
            Some(_) if corrupted => Err(Violation::new(
                "wire",
                format!("a corrupt frame from {from} passed the checks of {to}"),
            )),
            Some((_, message)) => {
                self.counts.delivered += 1;
                self.trace.event(now, [to.get(), from.get(), checksum(frame)], || {
                    narrate::arrived(from, to, &message)
                });
                self.deliver(to, Input::Peer { from, message })
            }
        }
    }

    // ------------------------------------------------------------------------------- disks

    fn job_arrives(&mut self, id: NodeId, job: DiskJob) {
        let lane = job.lane();
        if let DiskJob::Append(ops) = &job {
            let writes_log = ops
                .iter()
                .any(|op| matches!(op, DiskOp::Write { file, .. } if FileClass::Log.holds(file)));
            let replica = self.node(id).replica();
            let issued = replica.map(|replica| replica.raft().handed_out_through());
            self.oracles.append_issued(id, issued.filter(|_| writes_log));
            if let Some(seen) = self.oracles.seen(id) {
                self.trace.line(self.now, || narrate::persist(id, seen));
            }
        }
        self.node_mut(id).lane(lane).waiting.push_back(job);
        self.start_job(id, lane);
    }

    fn start_job(&mut self, id: NodeId, lane: Lane) {
        let now = self.now;
        let mut rng = self.rng.clone();
        let node = self.node_mut(id);
        let (profile, slowness, life) = (node.setup.disk, node.disk_slowness, node.life);
        let state = node.lane(lane);
        if state.running.is_some() {
            return;
        }
        let Some(job) = state.waiting.pop_front() else { return };
        let ends_at = now.plus_us(duration_us(&job, profile, &mut rng) * slowness);
        state.running = Some(Running { job, ends_at });
        self.rng = rng;
        self.queue.push(ends_at, Happening::Job { node: id, life, lane });
    }

    fn job_ends(&mut self, id: NodeId, lane: Lane) -> Result<(), Violation> {
        if let Some(image) = self.show_job(id, lane)? {
            self.power_goes(id, image);
            return Ok(());
        }
        self.rehearse_steps(id, lane)?;
        let now = self.now;
        self.counts.jobs += 1;
        let node = self.node_mut(id);
        let running = node.lane(lane).running.take().expect("a job that ends was running");
        assert_eq!(running.ends_at, now, "a job ends when it ends");
        let done = job::run(&mut node.disk, running.job);
        if let DiskDone::Append(Ok(())) = done {
            self.oracles.append_done(id);
            self.rehearse(id)?;
        }
        if let DiskDone::LogControl(Ok(())) = done {
            self.node_mut(id).note_that_disk_is_whole();
        }
        let synced = self.oracles.seen(id).map_or(0, Seen::synced);
        self.trace.event(now, [id.get(), 10, u64::from(lane == Lane::Log)], || {
            narrate::done(id, &done, synced)
        });
        self.start_job(id, lane);
        let delay_us = self.node(id).completion_delay_us;
        let late_us = if delay_us == 0 { 0 } else { self.rng.below(delay_us) };
        let node = self.node_mut(id);
        let life = node.life;
        let state = node.lane(lane);
        state.told_by = state.told_by.max(now.plus_us(late_us));
        let told_by = state.told_by;
        state.done.push_back((now, done));
        if told_by == now {
            return self.tell(id, lane);
        }
        self.queue.push(told_by, Happening::Told { node: id, life, lane });
        Ok(())
    }

    /// A replica hears of the oldest job of a lane that was done.
    fn tell(&mut self, id: NodeId, lane: Lane) -> Result<(), Violation> {
        let node = self.node_mut(id);
        let (ended, done) = node.lane(lane).done.pop_front().expect("what is told was done");
        let earlier = node.lanes.iter().filter_map(|lane| lane.done.front());
        let overtakes = earlier.into_iter().any(|(other, _)| *other < ended);
        self.counts.overtaken += u64::from(overtakes);
        self.deliver(id, Input::Disk(done))
    }
}

/// See [`World::rehearse_one_in`].
const REHEARSE_ONE_IN: u64 = 200;
/// Recovery reads the whole log: one that is n times as long is rehearsed n times as rarely.
pub(crate) const REHEARSE_LOG_BYTES: u64 = 128 << 10;

impl<N: Network> World<N> {
    fn rehearse(&mut self, id: NodeId) -> Result<(), Violation> {
        if !self.rng.one_in(self.rehearse_one_in) {
            return Ok(());
        }
        let log_bytes = self.node(id).disk.bytes_of(FileClass::Log);
        if self.rng.below(log_bytes.max(REHEARSE_LOG_BYTES)) >= REHEARSE_LOG_BYTES {
            return Ok(());
        }
        let survival = match self.rng.below(3) {
            0 => Survival::None,
            _ => Survival::Some { permille: self.rng.between(50, 950) },
        };
        let identity = Identity { cluster: self.cluster, node: id };
        let node = self.nodes[id.get() as usize].as_deref().expect("its job has ended");
        self.oracles.rehearse_power_loss(node, node.disk(), identity, survival)
    }
}

/// The checksum that a frame carries: a digest of all of it.
fn checksum(frame: &[u8]) -> u64 {
    frame.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes).into()
}
