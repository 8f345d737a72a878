//! The world by itself: a cluster without faults serves clients, survives crashes of every kind,
//! and does the same thing twice.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use sampan_base::{ClusterId, Configuration, NodeId, Rng};
use sampan_kv::{Limits, Reply, parse};
use sampan_replica::{ConnectionId, Input, Options, Request};
use sampan_sim::clock::NodeClock;
use sampan_sim::disk::Survival;
use sampan_sim::network::{Network, PerfectNetwork};
use sampan_sim::node::{DiskProfile, NodeSetup};
use sampan_sim::swarm_network::{Rates, SwarmNetwork};
use sampan_sim::trace::Trace;
use sampan_sim::{Notice, SimTime, World};

fn world(nodes: u64, options: impl Fn(NodeId) -> Options) -> World<PerfectNetwork> {
    world_over(PerfectNetwork { latency_us: 100 }, nodes, options)
}

fn world_over<N: Network>(network: N, nodes: u64, options: impl Fn(NodeId) -> Options) -> World<N> {
    let mut world = World::new(ClusterId(7), 1, network, Trace::quiet());
    let ids: Vec<NodeId> = (1..=nodes).map(NodeId::of).collect();
    for &id in &ids {
        world.create(
            id,
            NodeSetup {
                options: options(id),
                bootstrap: Configuration::of_voters(ids.clone()),
                clock: NodeClock::new(id.get() * 1_000_000, 0, 0),
                disk: DiskProfile::default(),
                formed: false,
                turn_us: 0,
            },
        );
        world.start(id).unwrap().unwrap();
    }
    world
}

fn await_leader<N: Network>(world: &mut World<N>) -> NodeId {
    for _ in 0..100 {
        let until = world.now().plus_us(50_000);
        while world.run(until).unwrap().is_some() {}
        if let Some(leader) = world.leader() {
            return leader;
        }
    }
    panic!("no leader within five seconds");
}

fn ask<N: Network>(world: &mut World<N>, id: NodeId, seq: u64, command: &str) -> Reply {
    let args: Vec<&str> = command.split(' ').collect();
    let mut encoded = Vec::new();
    let class = parse(&args, &Limits::default(), &mut encoded).unwrap();
    let request = Request { seq, class, stale: false, command: Bytes::from(encoded) };
    let connection = ConnectionId(seq);
    world.input(id, Input::Client { connection, requests: vec![request] }).unwrap();
    let until = world.now().plus_us(10_000_000);
    while let Some(notice) = world.run(until).unwrap() {
        if let Notice::Reply(from, reply) = notice {
            assert_eq!((from, reply.seq), (id, seq));
            return reply.reply;
        }
    }
    panic!("{id} did not answer {command}");
}

#[test]
fn every_node_of_a_cluster_serves_reads_and_writes() {
    let mut world = world(3, Options::new);
    await_leader(&mut world);
    for (seq, id) in [1, 2, 3, 1].map(NodeId::of).into_iter().enumerate() {
        let value = format!("v{seq}");
        assert_eq!(ask(&mut world, id, 2 * seq as u64, &format!("SET k {value}")), Reply::Ok);
        let got = ask(&mut world, NodeId::of(3 - id.get() % 3), 2 * seq as u64 + 1, "GET k");
        assert_eq!(got, Reply::bulk(value.as_bytes()));
    }
}

#[test]
fn what_was_acknowledged_outlives_every_kind_of_crash() {
    let mut world = world(3, Options::tiny);
    let mut seq = 0;
    for round in 0..40_u64 {
        let leader = await_leader(&mut world);
        for _ in 0..5 {
            seq += 1;
            assert_eq!(ask(&mut world, leader, seq, &format!("SET k{} {seq}", seq % 7)), Reply::Ok);
        }
        let victims: Vec<NodeId> = match round % 4 {
            0 => vec![leader],
            1 => vec![NodeId::of(1 + round % 3)],
            _ => vec![1, 2, 3].into_iter().map(NodeId::of).collect(),
        };
        for &id in &victims {
            match round % 3 {
                0 => world.kill(id),
                1 => world.cut_power(id, Survival::None),
                _ => world.cut_power(id, Survival::Some { permille: 500 }),
            }
        }
        for id in victims {
            world.start(id).unwrap().unwrap();
        }
        let leader = await_leader(&mut world);
        for k in 0..7 {
            let Some(newest) = (1..=seq).rev().find(|s| s % 7 == k) else { continue };
            let got = ask(&mut world, leader, 1_000_000 + seq * 10 + k, &format!("GET k{k}"));
            assert_eq!(got, Reply::bulk(newest.to_string().as_bytes()), "round {round}");
        }
    }
    let status = world.node(NodeId::of(1)).replica().unwrap().status();
    assert!(status.snapshot.is_some(), "tiny limits take snapshots: {status:?}");
}

#[test]
fn the_same_seed_does_the_same_thing() {
    let hash = || {
        let mut world = world(5, Options::tiny);
        let leader = await_leader(&mut world);
        for seq in 1..50 {
            ask(&mut world, leader, seq, &format!("SET k{} {seq}", seq % 7));
        }
        world.cut_power(leader, Survival::None);
        await_leader(&mut world);
        while world.run(SimTime::from_ms(20_000)).unwrap().is_some() {}
        (world.trace.hash(), world.trace.events())
    };
    let (first, second) = (hash(), hash());
    assert_eq!(first, second);
    assert!(first.1 > 1_000, "{first:?}");
}

/// Each Append that overtakes the one before it is rejected. Answered with another full window each
/// time, a follower that lags far behind took hundreds of messages an entry.
#[test]
fn a_follower_catches_up_over_a_network_that_reorders_in_few_words() {
    let rates = Rates { reorder: true, latency_us: (50, 1_000), ..Rates::default() };
    let one_at_a_time = |id| {
        let mut options = Options::new(id);
        options.raft.append_entries_max = 1;
        options
    };
    let mut world = world_over(SwarmNetwork::new(rates, Rng::seeded(3)), 3, one_at_a_time);
    let leader = await_leader(&mut world);
    let laggard = NodeId::of(1 + leader.get() % 3);
    world.network.cut(leader, laggard);
    let entries = 200;
    for seq in 0..entries {
        ask(&mut world, leader, seq, &format!("SET k {seq}"));
    }
    world.network.mend(leader, laggard);
    let before = world.counts.frames;
    let commit = world.node(leader).replica().unwrap().raft().commit();
    let until = world.now().plus_us(20_000_000);
    while world.node(laggard).replica().unwrap().raft().applied() < commit && world.now() < until {
        let soon = world.now().plus_us(10_000);
        while world.run(soon).unwrap().is_some() {}
    }
    assert!(world.node(laggard).replica().unwrap().raft().applied() >= commit);
    let frames = world.counts.frames - before;
    assert!(frames < 15 * entries, "{frames} frames for {entries} entries");
}
