//! Thousands of short random runs: lossy, doubling, reordering network, crashes that lose what was
//! not synced, tiny limits; the oracle watches every step, and after a heal the cluster must work.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_base::{Configuration, EntryKind, LogIndex, NodeId, Rng};
use sampan_raft::{Config, DropReason, Health, Raft};

use support::cluster::Cluster;

struct Run {
    rng: Rng,
    cluster: Cluster,
    /// How often in a thousand each kind of fault strikes.
    loss: u64,
    double: u64,
    reorder: u64,
    crashes: bool,
    snapshots: bool,
    changes: bool,
    /// Disks often lack room, and are not well.
    full_disks: bool,
    command: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let mut cluster = Cluster::new(seed);
        let nodes = rng.between(1, 5);
        let voters = if nodes > 3 && rng.one_in(2) { 3 } else { nodes };
        let bootstrap = Configuration::of_voters((1..=voters).map(NodeId::of));
        let pre_vote = !rng.one_in(4);
        let check_quorum = !rng.one_in(4);
        let quorum_grace = Duration::from_millis(*rng.pick(&[0, 300]));
        let append_interval = Duration::from_millis(*rng.pick(&[0, 20]));
        let repeat_bytes_max = *rng.pick(&[0, 64]);
        for id in 1..=nodes {
            let bootstrap = if id <= voters { bootstrap.clone() } else { Configuration::default() };
            let config = Config {
                pre_vote,
                check_quorum,
                quorum_grace,
                append_interval,
                repeat_bytes_max,
                ..Config::tiny(NodeId::of(id))
            };
            cluster.add(config, bootstrap);
        }
        Self {
            loss: *rng.pick(&[0, 50, 200]),
            double: *rng.pick(&[0, 50, 200]),
            reorder: *rng.pick(&[0, 100, 800]),
            crashes: !rng.one_in(4),
            snapshots: !rng.one_in(3),
            changes: rng.one_in(2),
            full_disks: rng.one_in(2),
            command: 0,
            rng,
            cluster,
        }
    }

    fn step(&mut self) {
        let ids: Vec<_> = self.cluster.hosts.keys().copied().collect();
        let id = *self.rng.pick(&ids);
        if !self.cluster.is_up(id) {
            if self.rng.one_in(4) {
                self.cluster.restart(id);
            }
            return;
        }
        if self.full_disks {
            let rooms = [None, Some(0), Some(60), Some(200), Some(usize::MAX)];
            self.cluster.room = *self.rng.pick(&rooms);
        }
        match self.rng.below(1_000) {
            0..480 => self.deliver(),
            480..650 => {
                self.cluster.sync(id);
            }
            650..760 => {
                let time = Duration::from_micros(self.rng.below(30_000));
                for id in ids {
                    self.cluster.pass(id, time);
                }
            }
            760..860 => self.propose(),
            860..890 => {
                self.cluster.read(id);
            }
            890..895 => self.cluster.input(id, Raft::campaign),
            895..902 => self.cut(id),
            902..912 if self.crashes => {
                let survive = self.rng.below(3) as usize;
                self.cluster.crash(id, survive);
            }
            912..940 if self.snapshots => self.compact(id),
            940..955 if self.changes => self.change(),
            955..958 => {
                if let Some(leader) = self.cluster.leader() {
                    let _ = self.cluster.input(leader, |r, now| r.transfer_leadership(now, None));
                }
            }
            958..970 => self.hint(id),
            970..975 if self.full_disks => {
                let all = [Health::Well, Health::Slow, Health::Full, Health::Exhausted];
                let health = *self.rng.pick(&all);
                self.cluster.input(id, |raft, _| raft.set_health(health));
            }
            _ => {}
        }
    }

    fn deliver(&mut self) {
        if self.cluster.network.is_empty() {
            return;
        }
        // Mostly in order, sometimes not.
        let len = self.cluster.network.len() as u64;
        let at = if self.rng.permille(self.reorder) { self.rng.below(len) } else { 0 };
        let message = if self.rng.permille(self.double) {
            self.cluster.network[at as usize].clone()
        } else {
            self.cluster.network.remove(at as usize)
        };
        if !self.rng.permille(self.loss) {
            self.cluster.deliver(message);
        }
    }

    fn propose(&mut self) {
        // Sometimes to a leader that was deposed and does not know it.
        let leaders: Vec<_> = self.cluster.up();
        let leaders: Vec<_> =
            leaders.into_iter().filter(|&id| self.cluster.raft(id).is_leader()).collect();
        if leaders.is_empty() {
            return;
        }
        let leader = *self.rng.pick(&leaders);
        let count = self.rng.between(1, 3);
        let commands: Vec<_> = (0..count).map(|i| format!("c{}", self.command + i)).collect();
        self.command += count;
        self.cluster.propose(leader, &commands);
    }

    fn cut(&mut self, id: NodeId) {
        if self.rng.one_in(2) {
            return self.cluster.cut.clear();
        }
        let ids: Vec<_> = self.cluster.hosts.keys().copied().collect();
        for other in ids {
            let (out, back) = (self.rng.one_in(2), self.rng.one_in(2));
            if out {
                self.cluster.cut.insert((id, other));
            }
            if back {
                self.cluster.cut.insert((other, id));
            }
        }
    }

    fn compact(&mut self, id: NodeId) {
        let applied = self.cluster.raft(id).applied();
        if applied < self.cluster.raft(id).first_index() {
            return;
        }
        let keep = self.rng.below(4);
        let snapshot = self.cluster.fresh_id();
        let host = self.cluster.hosts.get_mut(&id).expect("known");
        host.compact(snapshot, LogIndex(applied.0.saturating_sub(keep)));
        self.cluster.turn(id);
    }

    fn change(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let nodes = self.cluster.hosts.len() as u64;
        let mut target = Configuration::default();
        for id in 1..=nodes {
            let set = match self.rng.below(4) {
                0 => continue,
                1 => &mut target.learners,
                _ => &mut target.voters,
            };
            set.insert(NodeId::of(id));
        }
        let _ = self.cluster.input(leader, |raft, now| raft.propose_configuration(now, target));
    }

    fn hint(&mut self, id: NodeId) {
        let ids: Vec<_> = self.cluster.hosts.keys().copied().collect();
        let peer = *self.rng.pick(&ids);
        if self.rng.one_in(2) {
            self.cluster.input(id, |raft, now| raft.peer_disconnected(now, peer));
        } else {
            self.cluster.input(id, |raft, now| raft.peer_connected(now, peer));
        }
    }

    /// Everything works again: a leader within a few election timeouts, a command committed on
    /// all, a read answered.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        self.cluster.room = Some(usize::MAX);
        for id in self.cluster.hosts.keys().copied().collect::<Vec<_>>() {
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
            }
        }
        let before = self.cluster.oracle.commands();
        let mut read = None;
        for round in 0..1_000 {
            self.cluster.settle();
            for id in self.cluster.up() {
                self.cluster.pass(id, Duration::from_millis(5));
            }
            self.cluster.settle();
            if round % 10 == 0
                && let Some(leader) = self.cluster.leader()
            {
                self.cluster.propose(leader, &["healed".into()]);
                self.cluster.settle();
                if read.is_none() {
                    read = Some((leader, self.cluster.read(leader)));
                    self.cluster.settle();
                }
            }
            if self.converged(before) {
                return;
            }
        }
        let states: Vec<_> =
            self.cluster.up().iter().map(|&id| self.cluster.raft(id).status()).collect();
        panic!("no progress after the heal: {states:#?}");
    }

    fn converged(&self, before: usize) -> bool {
        let commit = self.cluster.oracle.commit_index();
        let Some(leader) = self.cluster.leader() else { return false };
        let configuration = self.cluster.raft(leader).configuration();
        let members = configuration.members();
        self.cluster.oracle.commands() > before
            && !configuration.is_joint()
            && members.iter().all(|&id| self.cluster.hosts[&id].machine.applied.index == commit)
    }
}

fn run(seed: u64) -> Cluster {
    let mut run = Run::new(seed);
    let steps = run.rng.between(100, 1_200);
    for step in 0..steps {
        run.step();
        if step % 50 == 0 {
            run.cluster.check();
        }
    }
    run.cluster.check();
    run.heal();
    run.cluster.check();
    let committed = std::mem::take(&mut run.cluster.oracle.committed);
    let count = |kind| committed.iter().filter(|entry| entry.kind == kind).count() as u64;
    run.cluster.counts.insert("configurations", count(EntryKind::Configuration));
    run.cluster.counts.insert("commands", count(EntryKind::Command));
    run.cluster.counts.insert("leaders", run.cluster.oracle.leaders() as u64);
    run.cluster
}

/// `SAMPAN_RAFT_SEED=n` runs that seed alone, `SAMPAN_RAFT_SEEDS=n` the first n.
#[test]
#[expect(clippy::disallowed_methods, reason = "the environment chooses seeds, nothing else")]
fn random_runs_keep_every_promise() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SAMPAN_RAFT_SEED") {
        run(seed);
        return;
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..number("SAMPAN_RAFT_SEEDS").unwrap_or(2_000) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let Ok(cluster) = outcome else {
            panic!("seed {seed} failed: SAMPAN_RAFT_SEED={seed} runs it alone");
        };
        for (what, count) in cluster.counts {
            *counts.entry(what).or_insert(0) += count;
        }
        for host in cluster.hosts.values() {
            let dropped = host.raft.as_ref().expect("healed").status().dropped;
            for reason in DropReason::ALL {
                *counts.entry(reason.label()).or_insert(0) += dropped.of(reason);
            }
        }
    }
    // A run in which something never happens proves nothing about it.
    let rare = [
        "configurations",
        "crashes",
        "leader_alive",
        "reads on followers",
        "reads on leaders",
        "reads void",
        "snapshots installed",
        "stale_reply",
        "stale_term",
        "unknown_peer",
    ];
    for what in rare {
        assert!(counts.get(what).is_some_and(|&count| count > 20), "{what}: {counts:#?}");
    }
    for never in ["contradicts_committed", "malformed", "second_leader"] {
        assert_eq!(counts[never], 0, "{never}: {counts:#?}");
    }
    assert!(counts["commands"] > 20_000 && counts["leaders"] > 2_000, "{counts:#?}");
    println!("{counts:#?}");
}
