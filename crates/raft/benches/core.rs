//! How fast the algorithm alone is: three nodes in one process, no disk, no network, empty
//! commands, each an entry of its own, so many of them in flight: `cargo bench -p sampan-raft`.
//!
//! The time is the processor's, so that other work on the machine disturbs less. Measured, not
//! asserted; `tests/fixed_work.rs` holds what no clock is needed for.

use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use sampan_base::{Configuration, NodeId, SnapshotId, Time};
use sampan_raft::{Config, Message, Outputs, Raft, Restored};

const COMMITS: u64 = 400_000;
const RUNS: usize = 5;
/// Proposals in flight, and the commits per second to be reached with them: twice what openraft's
/// own benchmark gives on the machine of `docs/benchmarks.md`.
const TARGETS: [(u64, f64); 4] = [(1, 32e3), (64, 850e3), (256, 1.5e6), (4_096, 2.1e6)];

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
    for (in_flight, target) in TARGETS {
        let commits = if in_flight == 1 { COMMITS / 4 } else { COMMITS };
        let mut rates: Vec<f64> =
            (0..RUNS).map(|_| commits as f64 / run(in_flight, commits).as_secs_f64()).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates[RUNS / 2];
        let times = median / target;
        println!("{in_flight:>5} in flight: {median:>9.0} commits/s, {times:.1} x {target}");
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Commits so many empty entries, with so many proposals in flight; the time of it.
pub(crate) fn run(in_flight: u64, commits: u64) -> Duration {
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

    let start = cpu();
    let mut proposed = hosts[0].applied;
    let end = proposed + commits;
    while hosts[0].applied < end {
        while proposed < hosts[0].applied + in_flight && proposed < end {
            hosts[0].raft.propose(Bytes::new()).expect("the leader takes it");
            proposed += 1;
        }
        hosts[0].turn(now, &mut network);
        deliver(now, &mut network, &mut hosts);
        trim(&mut hosts);
    }
    cpu().saturating_sub(start)
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
            id: SnapshotId(applied.0),
            size_bytes: 1,
        };
        host.raft.compact(meta, applied);
    }
}
