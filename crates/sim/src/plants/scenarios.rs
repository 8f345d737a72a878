//! Directed scenarios, for bugs that need several unlikely things in one order.

use std::collections::BTreeMap;

use bytes::Bytes;
use sampan_base::{ClusterId, Configuration, NodeId};
use sampan_raft::{Body, Message};
use sampan_replica::wire::PeerMessage;
use sampan_replica::{ConnectionId, Input, Options, Request};

use crate::checkers::{Violation, linearizability};
use crate::clients::end_of;
use crate::clock::NodeClock;
use crate::history::{End, Record};
use crate::network::{Delivery, Network, Sending};
use crate::node::{DiskProfile, Node, NodeSetup};
use crate::trace::Trace;
use crate::workload::Op;
use crate::{Notice, SimTime, World};

/// How long a message takes where nothing else is said, in microseconds.
const WAY_US: u64 = 200;
/// A way that is cut.
const CUT: &[u64] = &[];

/// A network of ways. What sets out on one arrives after so long, and again for every further
/// number; none: the way is cut.
#[derive(Default)]
struct Ways {
    us: BTreeMap<(NodeId, NodeId), &'static [u64]>,
    /// No Append reaches this node.
    starved: Option<NodeId>,
}

impl Network for Ways {
    fn send(&mut self, _: SimTime, sending: Sending<'_>, deliveries: &mut Vec<Delivery>) {
        if let PeerMessage::Raft(Message { to, body: Body::Append { .. }, .. }) = sending.message
            && Some(*to) == self.starved
        {
            return;
        }
        let us = self.us.get(&(sending.from, sending.to)).copied().unwrap_or(&[WAY_US]);
        deliveries.extend(us.iter().map(|&after_us| Delivery { after_us, corrupt: false }));
    }

    fn hint_us(&mut self, _: SimTime, _: NodeId, _: NodeId) -> Option<u64> {
        None
    }
}

/// A cluster of three without check-quorum, and what its clients saw.
struct Stage {
    world: World<Ways>,
    record: Record,
    asked: u64,
}

/// A client's request.
struct Call<'a> {
    connection: ConnectionId,
    op: &'a Op,
    at: SimTime,
}

impl Stage {
    fn new(seed: u64) -> Result<Self, Violation> {
        Self::of_nodes(seed, true)
    }

    /// Of nodes that were made together, or that have yet to hear from one another, and may lose
    /// their disks.
    fn of_nodes(seed: u64, formed: bool) -> Result<Self, Violation> {
        let mut world = World::new(ClusterId(1), seed, Ways::default(), Trace::quiet());
        let ids = [1, 2, 3].map(NodeId::of);
        for id in ids {
            let mut options = Options::new(id);
            options.raft.check_quorum = false;
            let bootstrap = Configuration::of_voters(ids);
            let clock = NodeClock::new(1_000_000, 0, 0);
            let disk = DiskProfile::default();
            world.create(id, NodeSetup { options, bootstrap, clock, disk, turn_us: 0, formed });
            start(&mut world, id)?;
        }
        Ok(Self { world, record: Record::default(), asked: 0 })
    }

    fn others(&self, than: NodeId) -> Vec<NodeId> {
        self.world.nodes().map(Node::id).filter(|id| *id != than).collect()
    }

    /// Makes all ways from these to those so long ([`Ways`]).
    fn ways(&mut self, from: &[NodeId], to: &[NodeId], us: &'static [u64]) {
        for &from in from {
            self.world.network.us.extend(to.iter().map(|to| ((from, *to), us)));
        }
    }

    fn isolate(&mut self, id: NodeId) {
        let others = self.others(id);
        self.ways(&[id], &others, CUT);
        self.ways(&others, &[id], CUT);
    }

    /// Lets so much time pass.
    fn pass_ms(&mut self, ms: u64) -> Result<(), Violation> {
        let until = self.world.now().plus_us(ms * 1_000);
        while self.world.run(until)?.is_some() {}
        Ok(())
    }

    /// The leader, once there is one.
    fn leader(&mut self) -> Result<NodeId, Violation> {
        for _ in 0..100 {
            self.pass_ms(50)?;
            if let Some(leader) = self.world.leader() {
                return Ok(leader);
            }
        }
        Err(Violation::new("liveness", "nobody leads after five seconds".into()))
    }

    /// The leader hands over to this node.
    fn hand_over(&mut self, to: NodeId) -> Result<(), Violation> {
        let from = self.leader()?;
        self.world.input(from, Input::TransferLeadership(Some(to)))?;
        self.pass_ms(500)
    }

    /// A node's disk is emptied, and it comes back.
    fn lose_disk(&mut self, id: NodeId) -> Result<(), Violation> {
        self.world.wipe(id);
        start(&mut self.world, id)?;
        self.pass_ms(1_500)
    }

    /// A client asks a node and waits so long for the answer.
    fn ask(&mut self, node: NodeId, op: &Op, patience_ms: u64) -> Result<(), Violation> {
        let call = self.call(node, op)?;
        self.answer(&call, patience_ms)
    }

    /// A client asks a node, later than all that was answered: of equal times nobody knows the
    /// order.
    fn call<'a>(&mut self, node: NodeId, op: &'a Op) -> Result<Call<'a>, Violation> {
        self.pass_ms(1)?;
        self.asked += 1;
        let call = Call { connection: ConnectionId(self.asked), op, at: self.world.now() };
        let mut command = Vec::new();
        let limits = &self.world.node(node).setup().options.kv;
        let class = sampan_kv::parse(&op.args(), limits, &mut command)
            .map_err(|error| Violation::new("client", error.to_string()))?;
        let command = Bytes::from(command);
        let requests = vec![Request { seq: 1, class, stale: false, command }];
        self.world.input(node, Input::Client { connection: call.connection, requests })?;
        Ok(call)
    }

    /// Waits so long for the answer to a call.
    fn answer(&mut self, call: &Call<'_>, patience_ms: u64) -> Result<(), Violation> {
        let mut end = End::Unknown;
        let until = self.world.now().plus_us(patience_ms * 1_000);
        while let Some(notice) = self.world.run(until)? {
            if let Notice::Reply(_, reply) = notice
                && reply.connection == call.connection
            {
                end = end_of(reply.reply);
                break;
            }
        }
        self.record.push(call.connection.0, call.op, call.at, self.world.now(), &end);
        Ok(())
    }
}

fn start(world: &mut World<Ways>, id: NodeId) -> Result<(), Violation> {
    world.start(id)?.map(drop).map_err(|error| Violation::new("recovery", error.to_string()))
}

fn set(value: &str) -> Op {
    Op::Set("k".into(), value.into())
}

/// The heartbeats' answers to a leader take long. It is cut off, another is elected and writes;
/// then the old one is asked, while answers to heartbeats from before are still coming in.
pub(super) fn late_heartbeat_answers(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::new(seed)?;
    let old = stage.leader()?;
    stage.ask(old, &set("old"), 1_000)?;
    stage.ways(&stage.others(old), &[old], &[4_000_000]);
    stage.pass_ms(300)?;
    stage.ways(&[old], &stage.others(old), CUT);
    stage.pass_ms(2_000)?;
    stage.ask(stage.others(old)[0], &set("new"), 1_000)?;
    stage.ask(old, &Op::Get("k".into()), 3_000)?;
    linearizability::check(&stage.record.history)
}

/// A leader that is cut off takes more writes, all in vain, than the next one acknowledges. That
/// one is cut off in its turn, and the first comes back.
pub(super) fn longer_older_log(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::new(seed)?;
    let old = stage.leader()?;
    stage.isolate(old);
    for number in 0..9 {
        stage.ask(old, &set(&number.to_string()), 20)?;
    }
    stage.pass_ms(2_000)?;
    let next = stage.leader()?;
    stage.ask(next, &set("new"), 1_000)?;
    stage.world.network.us.clear();
    stage.isolate(next);
    stage.pass_ms(8_000)
}

/// A leader's Append is long on its way. Meanwhile another one is elected and its entries are
/// acknowledged; a node that has them starts again, and then the old Append arrives.
pub(super) fn late_append_of_an_old_leader(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::new(seed)?;
    let old = stage.leader()?;
    stage.ways(&[old], &stage.others(old), &[4_000_000]);
    stage.ways(&stage.others(old), &[old], CUT);
    let arrives = stage.world.now().plus_us(4_000_000);
    stage.ask(old, &set("old"), 20)?;
    stage.pass_ms(2_500)?;
    let next = stage.leader()?;
    stage.ask(next, &set("new"), 500)?;
    let third = stage.others(old).into_iter().find(|id| *id != next).unwrap_or(next);
    stage.world.kill(third);
    stage.ways(&[next], &[third], CUT);
    stage.pass_ms(arrives.us_since(stage.world.now()) / 1_000 - 100)?;
    start(&mut stage.world, third)?;
    stage.pass_ms(200)?;
    stage.world.network.us.clear();
    stage.pass_ms(5_000)
}

/// A follower's frame arrives twice. The leader takes it, but its answer is lost, and it dies; the
/// second copy arrives in its next life, while nobody leads yet.
pub(super) fn second_copy_in_the_next_life(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::new(seed)?;
    let leader = stage.leader()?;
    let follower = stage.others(leader)[0];
    stage.ways(&[follower], &[leader], &[WAY_US, 100_000]);
    stage.ways(&[leader], &[follower], CUT);
    let append = Op::Append("k".into(), "a,".into());
    let call = stage.call(follower, &append)?;
    stage.pass_ms(20)?;
    stage.world.kill(leader);
    start(&mut stage.world, leader)?;
    stage.world.network.us.clear();
    stage.answer(&call, 5_000)?;
    stage.ask(follower, &Op::Get("k".into()), 1_000)?;
    linearizability::check(&stage.record.history)
}

/// A deposed leader has entries that nobody else has. It hears of the next leader, but none of its
/// Appends arrives, and is asked: the answer to its `ReadIndex` says that as much is committed.
pub(super) fn read_index_ahead_of_its_entries(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::new(seed)?;
    let old = stage.leader()?;
    stage.isolate(old);
    for number in 0..3 {
        stage.ask(old, &set(&number.to_string()), 20)?;
    }
    stage.pass_ms(2_000)?;
    let next = stage.leader()?;
    for number in 3..9 {
        stage.ask(next, &set(&number.to_string()), 500)?;
    }
    stage.world.network = Ways { starved: Some(old), ..Ways::default() };
    stage.pass_ms(200)?;
    stage.ask(old, &Op::Get("k".into()), 500)?;
    stage.world.network.starved = None;
    stage.pass_ms(2_000)?;
    linearizability::check(&stage.record.history)
}

/// A node forwards to two leaders and loses its disk. The first tells it of the life before, and
/// takes a write whose answer is long on its way. Then the second leads, the disk is lost again,
/// and it tells the node of the same life; the next write, which reaches nobody, waits when that
/// answer arrives.
pub(super) fn two_lives_told_of_one(seed: u64) -> Result<(), Violation> {
    let mut stage = Stage::of_nodes(seed, false)?;
    let first = stage.leader()?;
    let others = stage.others(first);
    let (node, second) = (others[0], others[1]);
    stage.ask(node, &set("a"), 1_000)?;
    stage.hand_over(second)?;
    stage.ask(node, &set("b"), 1_000)?;
    stage.hand_over(first)?;
    stage.lose_disk(node)?;
    stage.ask(node, &set("told by the first"), 200)?;
    stage.ways(&[first], &[node], &[6_000_000]);
    stage.ask(node, &Op::Set("other".into(), "answered late".into()), 20)?;
    stage.ways(&[first], &[node], &[WAY_US]);
    stage.hand_over(second)?;
    stage.lose_disk(node)?;
    stage.ask(node, &set("told by the second"), 200)?;
    stage.ways(&[node], &[second], CUT);
    stage.ask(node, &set("forwarded to nobody"), 6_000)?;
    stage.world.network.us.clear();
    stage.ask(second, &Op::Get("k".into()), 1_000)?;
    linearizability::check(&stage.record.history)
}
