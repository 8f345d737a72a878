//! How fast the algorithm alone is: three nodes in one process, no disk, no network, empty
//! commands, each an entry of its own, so many of them in flight.
//!
//! `cargo run --release -p sampan-raft --example core`

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::time::Instant;

use bytes::Bytes;
use sampan_base::{Configuration, NodeId, Time};
use sampan_raft::{Config, Message, Outputs, Raft, Restored};

const COMMITS: u64 = 2_000_000;

struct Host {
    raft: Raft,
    out: Outputs,
    applied: u64,
}

impl Host {
    fn turn(&mut self, now: Time, network: &mut Vec<Message>) {
        if let Some(batch) = self.raft.take_persist() {
            self.raft.persisted(now, batch.token.synced());
        }
        self.raft.flush(now, &mut self.out);
        network.append(&mut self.out.messages);
        self.applied += self.raft.take_committed(usize::MAX).len() as u64;
    }
}

fn main() {
    for in_flight in [1, 64, 256, 4_096] {
        let commits = if in_flight == 1 { COMMITS / 4 } else { COMMITS };
        let seconds = run(in_flight, commits);
        println!("{in_flight:>5} in flight: {:>9.0} commits/s", commits as f64 / seconds);
    }
}

fn run(in_flight: u64, commits: u64) -> f64 {
    let ids = [1, 2, 3].map(NodeId::of);
    let now = Time::ZERO;
    let mut hosts = ids.map(|id| {
        let bootstrap = Configuration::of_voters(ids);
        let restored = Restored { bootstrap, ..Restored::default() };
        let raft = Raft::new(Config::new(id), restored, id.get(), now);
        Host { raft, out: Outputs::default(), applied: 0 }
    });
    let mut network = Vec::new();
    hosts[0].raft.campaign(now);
    hosts[0].turn(now, &mut network);
    deliver(now, &mut network, &mut hosts);
    assert!(hosts[0].raft.is_leader(), "a lone candidate wins");

    let start = Instant::now();
    let mut proposed = hosts[0].applied;
    let end = proposed + commits;
    while hosts[0].applied < end {
        while proposed < hosts[0].applied + in_flight && proposed < end {
            hosts[0].raft.propose(now, Bytes::new()).expect("the leader takes it");
            proposed += 1;
        }
        hosts[0].turn(now, &mut network);
        deliver(now, &mut network, &mut hosts);
        trim(&mut hosts);
    }
    start.elapsed().as_secs_f64()
}

fn deliver(now: Time, network: &mut Vec<Message>, hosts: &mut [Host; 3]) {
    let mut arriving = Vec::new();
    while !network.is_empty() {
        std::mem::swap(network, &mut arriving);
        for message in arriving.drain(..) {
            hosts[message.to.get() as usize - 1].raft.step(now, message);
        }
        for host in hosts.iter_mut() {
            host.turn(now, network);
        }
    }
}

/// Keeps the logs short, as snapshots would.
fn trim(hosts: &mut [Host; 3]) {
    for host in hosts {
        let applied = host.raft.applied();
        if applied.0 < host.raft.first_index().0 + 100_000 {
            continue;
        }
        let position = sampan_base::LogPosition {
            index: applied,
            term: host.raft.term_at(applied).expect("applied entries are in the log"),
        };
        let meta = sampan_base::SnapshotMeta {
            position,
            configuration: host.raft.configuration_at(applied).clone(),
            id: applied.0,
            size_bytes: 1,
        };
        host.raft.compact(meta, applied);
    }
}
