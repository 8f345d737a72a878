//! What a seed decides before anything happens: the cluster, its limits, the load, and which faults
//! strike how often. Swarm testing (Groce et al., ISSTA 2012): whole classes of features are off at
//! random in each run, because what is always on hides what it prevents.

use std::time::Duration;

use sampan_base::{NodeId, Rng};
use sampan_kv::Limits;
use sampan_replica::Options;

use crate::faults::{Fault, FaultClass, FaultSet};
use crate::node::DiskProfile;
use crate::swarm_network::Rates;

/// What one client is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientPlan {
    /// Does it keep a session and send each command until it knows the outcome?
    pub session: bool,
    /// Commands it has under way at most.
    pub window: usize,
    /// Does it stay with one node while that answers? Otherwise it moves about.
    pub loyal: bool,
    /// Has it sent `READONLY` on each of its connections?
    pub readonly: bool,
}

/// What clients ask for, of 1000 operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Reads.
    pub reads: u64,
    /// Of the writes: on registers, lists, counters, several keys at once, keys with a TTL.
    pub writes: [u64; 5],
    /// Keys of each kind that are in use at one time.
    pub keys: u64,
    /// After this long the keys in use are replaced by fresh ones, so that histories stay short.
    pub epoch_us: u64,
}

/// All that a seed decides in advance.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Nodes at the start.
    pub nodes: u64,
    /// How long faults strike, in virtual microseconds.
    pub safety_us: u64,
    /// Options of every node, but for its name.
    pub options: Options,
    /// The network while faults strike.
    pub rates: Rates,
    /// Every disk.
    pub disk: DiskProfile,
    /// How long a turn takes.
    pub turn_us: u64,
    /// The kinds of faults that may strike.
    pub faults: FaultSet,
    /// Mean time from one scheduled fault to the next, in microseconds.
    pub fault_every_us: u64,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// What they do.
    pub mix: Mix,
    /// Mean time between two operations of all clients together, in microseconds.
    pub operation_every_us: u64,
    /// Does the operator ask for a change while another is under way?
    pub hasty_operator: bool,
    /// A client gives up waiting for an answer after this long, in microseconds.
    pub client_patience_us: u64,
    /// The edge of a node holds replies enough of a client that does not take them if they are so
    /// many bytes.
    pub output_pause_bytes: usize,
}

impl Plan {
    /// The plan of a seed for a run of this length.
    pub fn of_seed(seed: u64, safety: Duration) -> Self {
        let mut rng = Rng::seeded(seed ^ 0x5a3d_7057_0001);
        let nodes = *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]);
        let mut options = options(&mut rng);
        pace(&mut Rng::seeded(seed ^ 0x5a3d_7057_0003), &mut options.raft);
        arrival(&mut Rng::seeded(seed ^ 0x5a3d_7057_0005), &mut options);
        let output_pause_bytes = replies(&mut Rng::seeded(seed ^ 0x5a3d_7057_0006), &mut options);
        let mut clients = clients(&mut rng, &options);
        readonly(&mut Rng::seeded(seed ^ 0x5a3d_7057_0008), &mut clients);
        congestion(&mut Rng::seeded(seed ^ 0x5a3d_7057_0009), &mut options);
        let sessions = clients.iter().filter(|client| client.session).count();
        let faults = faults(seed, &mut rng, nodes, sessions, &options);
        let rates = rates(&mut rng, faults, &options);
        if faults.has(Fault::Untaken) {
            // Reads wait for their client only if a turn does not answer all of them before it is
            // known that there are replies enough.
            options.reply_bytes_per_turn = options.reply_bytes_per_turn.min(64);
        }
        if rates.delay > 0 && !rates.reorder {
            // Where order is kept, a message that takes seconds holds up all after it, and the
            // answers to heartbeats with them. Of a thousand pieces of a snapshot a few do.
            let chunk = &mut options.raft.snapshot_chunk_bytes_max;
            *chunk = 256.max(*chunk);
        }
        Self {
            seed,
            nodes,
            safety_us: safety.as_micros() as u64,
            rates,
            disk: disk(&mut rng),
            turn_us: *rng.pick(&[0, 0, 5, 50, 400]),
            faults,
            fault_every_us: rng.between(2_000, 12_000) * 1_000,
            clients,
            mix: mix(&mut rng),
            operation_every_us: 1_000_000 / rng.between(28, 48),
            hasty_operator: false,
            client_patience_us: rng.between(1_000, 6_000) * 1_000,
            output_pause_bytes,
            options,
        }
    }

    /// The plan of a seed whose members change all the time, while whatever may come in between
    /// does.
    pub fn of_members(seed: u64, safety: Duration) -> Self {
        let mut plan = Self::of_seed(seed, safety);
        let (raft, rates) = (&mut plan.options.raft, &mut plan.rates);
        raft.election_timeout_min = raft.election_timeout_min.min(Duration::from_millis(300));
        raft.election_timeout_max = raft.election_timeout_min * 2;
        raft.heartbeat_interval = raft.heartbeat_interval.min(raft.election_timeout_min / 3);
        // New members catch up in time.
        raft.snapshot_chunk_bytes_max = raft.snapshot_chunk_bytes_max.max(1_024);
        plan.options.raft_state_bytes_max =
            plan.options.raft_state_bytes_max.map(|most| most.min(64 << 10));
        (rates.drop, rates.delay) = (rates.drop.min(20), 0);
        let kinds = [Fault::Drop, Fault::Duplicate, Fault::Reorder, Fault::ReadError];
        let kinds = kinds.into_iter().filter(|fault| plan.faults.has(*fault));
        let mut faults = FaultSet::of(&kinds.collect::<Vec<_>>());
        for fault in [
            Fault::Membership,
            Fault::Learner,
            Fault::Transfer,
            Fault::Partition,
            Fault::OneWayCut,
            Fault::Kill,
            Fault::Pause,
            Fault::PowerCut,
            Fault::Snapshot,
            Fault::DiskLost,
            Fault::Retry,
        ] {
            faults.insert(fault);
        }
        let sessions = plan.clients.iter().filter(|client| client.session).count();
        remove_impossible(&mut faults, plan.nodes, sessions, &plan.options);
        (plan.faults, plan.fault_every_us) = (faults, 800_000);
        plan
    }

    /// The options of one node.
    pub fn options_of(&self, id: NodeId) -> Options {
        let mut options = self.options.clone();
        options.raft.id = id;
        options
    }
}

/// Limits around the defaults, or tiny, each by itself.
fn options(rng: &mut Rng) -> Options {
    let id = NodeId::of(1);
    let mut options = Options::new(id);
    let (raft, tiny) = (&mut options.raft, Options::tiny(id));
    let election_ms = *rng.pick(&[150, 300, 500, 1_000]);
    raft.election_timeout_min = Duration::from_millis(election_ms);
    raft.election_timeout_max = Duration::from_millis(election_ms * rng.between(15, 25) / 10);
    raft.heartbeat_interval = Duration::from_millis((election_ms / rng.between(3, 8)).max(50));
    raft.pre_vote = !rng.one_in(4);
    raft.check_quorum = !rng.one_in(4);
    raft.snapshot_retry_interval = Duration::from_millis(rng.between(60, 1_000));
    if rng.one_in(2) {
        raft.append_entries_max = rng.between(1, 3) as usize;
    }
    if rng.one_in(2) {
        raft.append_bytes_max = rng.between(64, 512) as usize;
    }
    if rng.one_in(2) {
        raft.inflight_messages_max = rng.between(1, 2) as usize;
    }
    if rng.one_in(3) {
        raft.inflight_bytes_max = tiny.raft.inflight_bytes_max * 4;
    }
    if rng.one_in(4) {
        raft.uncommitted_bytes_max = 4 * tiny.raft.uncommitted_bytes_max;
    }
    if rng.one_in(4) {
        raft.reads_max = tiny.raft.reads_max;
    }
    if rng.one_in(2) {
        raft.snapshot_chunk_bytes_max = *rng.pick(&[16, 64, 256, 1_024]);
    }
    options.storage.segment_bytes = *rng.pick(&[16, 32, 64, 256]) << 10;
    options.storage.entry_bytes_max = 8 << 10;
    options.storage.snapshots_kept = rng.between(1, 2) as usize;
    options.kv = limits(rng);
    options.no_leader_wait = Duration::from_millis(rng.between(100, 800));
    options.client_timeout = Duration::from_millis(rng.between(1_500, 6_000));
    options.forward_retry = Duration::from_millis(rng.between(1_000, 3_000));
    let state_kib = *rng.pick(&[Some(4), Some(16), Some(64), Some(256), Some(1_024), None]);
    options.raft_state_bytes_max = state_kib.map(|kib| kib << 10);
    // A few entries a round trip and never a snapshot: nobody who is far behind would catch up in
    // time.
    let raft = &options.raft;
    let are_short = raft.append_entries_max <= 3 || raft.append_bytes_max <= 512;
    if are_short && raft.inflight_messages_max <= 2 {
        options.raft_state_bytes_max.get_or_insert(256 << 10);
    }
    options.raft_state_snapshot_percent = *rng.pick(&[0, 100]);
    options.batch_bytes_max = *rng.pick(&[1, 64, 1_024, 4_096]);
    options.apply_bytes_max = *rng.pick(&[1, 128, 1 << 20]);
    // Written in so many steps, and the more often the lower the threshold.
    let smallest = if state_kib.is_none_or(|kib| kib >= 64) { 16 } else { 128 };
    options.snapshot_chunk_bytes = *rng.pick(&[smallest, 512, 16 << 10]);
    options.clock_entry_interval = Duration::from_millis(*rng.pick(&[20, 100, 500]));
    options
}

/// When a leader speaks. Chance of its own, so that the rest of a seed's plan stays what it was.
fn pace(rng: &mut Rng, raft: &mut sampan_raft::Config) {
    raft.quorum_grace = raft.election_timeout_min * *rng.pick(&[0, 0, 1, 4]);
    raft.append_interval = Duration::from_millis(*rng.pick(&[0, 0, 2, 20]));
    raft.repeat_bytes_max = *rng.pick(&[0, 0, 64, 1_024]);
}

/// How often what arrives of a snapshot is synced, and so how early it is loaded, and how one is
/// loaded at a start. Chance of its own, too.
fn arrival(rng: &mut Rng, options: &mut Options) {
    options.storage.snapshot_sync_bytes = *rng.pick(&[64, 1 << 10, 16 << 10, 4 << 20]);
    options.restore_parts = rng.between(1, 4) as usize;
}

/// How many bytes of replies are made in a turn, and how many are kept for a client that does not
/// take them. Chance of its own, too.
fn replies(rng: &mut Rng, options: &mut Options) -> usize {
    options.reply_bytes_per_turn = *rng.pick(&[1, 64, 1_024, 2 << 20]);
    *rng.pick(&[1, 32, 128])
}

fn limits(rng: &mut Rng) -> Limits {
    Limits {
        key_bytes_max: 64,
        value_bytes_max: 512,
        arguments_max: 32,
        command_bytes_max: 2_048,
        reply_bytes_max: 8_192,
        sessions_max: *rng.pick(&[3, 8, 64, 1_024]),
        session_window_max: *rng.pick(&[4, 16, 1_024]),
        session_window_bytes_max: *rng.pick(&[1_024, 16 << 10]),
        session_bytes_total_max: *rng.pick(&[32 << 10, 1 << 20]),
        session_ttl_ms: *rng.pick(&[1_500, 5_000, 3_600_000, 3_600_000]),
        shards: *rng.pick(&[1, 2, 16]),
        reclaim_per_batch_max: *rng.pick(&[1, 4, 512]),
    }
}

fn disk(rng: &mut Rng) -> DiskProfile {
    let fastest = *rng.pick(&[50, 200, 1_000, 4_000]);
    DiskProfile { page_us: rng.between(2, 20), sync_us: (fastest, fastest * rng.between(1, 10)) }
}

/// All clients together may have at least this many commands under way: one that is lost holds up
/// its client for seconds, and 20 operations a second are wanted of the worst network.
const UNDER_WAY_MIN: usize = 20;

fn clients(rng: &mut Rng, options: &Options) -> Vec<ClientPlan> {
    let count = rng.between(3, 8) as usize;
    let (mut clients, mut under_way) = (Vec::new(), 0);
    while clients.len() < count || under_way < UNDER_WAY_MIN {
        let client = client(rng, options);
        under_way += client.window;
        clients.push(client);
    }
    clients
}

fn client(rng: &mut Rng, options: &Options) -> ClientPlan {
    let session = rng.permille(600);
    let window_max = if session { options.kv.session_window_max as u64 - 1 } else { 4 };
    ClientPlan {
        session,
        window: rng.between(1, 4.min(window_max)) as usize,
        loyal: rng.permille(500),
        readonly: false,
    }
}

/// Who reads what may be stale. Chance of its own, too.
fn readonly(rng: &mut Rng, clients: &mut [ClientPlan]) {
    for client in clients {
        client.readonly = rng.one_in(4);
    }
}

/// With how much under way a node wants nothing more. Chance of its own, too.
fn congestion(rng: &mut Rng, options: &mut Options) {
    let requests = &mut options.requests_under_way_max;
    *requests = *rng.pick(&[8, 24, *requests, *requests]);
    let bytes = &mut options.requests_held_bytes_max;
    *bytes = *rng.pick(&[512, 4 << 10, *bytes, *bytes]);
}

fn mix(rng: &mut Rng) -> Mix {
    let mut writes = [0; 5].map(|_: u64| if rng.one_in(4) { 0 } else { rng.between(50, 300) });
    if writes.iter().all(|share| *share == 0) {
        writes[0] = 100;
    }
    Mix {
        reads: rng.between(100, 700),
        writes,
        keys: rng.between(1, 6),
        epoch_us: rng.between(3, 15) * 1_000_000,
    }
}

/// Which kinds of faults may strike: classes first, then kinds.
fn faults(seed: u64, rng: &mut Rng, nodes: u64, sessions: usize, options: &Options) -> FaultSet {
    let mut set = FaultSet::default();
    if rng.one_in(12) {
        return set; // a run in peace
    }
    let classes = [
        FaultClass::Network,
        FaultClass::Process,
        FaultClass::Clock,
        FaultClass::Disk,
        FaultClass::Cluster,
        FaultClass::Client,
    ];
    let on: Vec<FaultClass> = classes.into_iter().filter(|_| rng.permille(700)).collect();
    // Chance of their own, so that the rest of a seed's plan stays what it was.
    let late = &mut Rng::seeded(seed ^ 0x5a3d_7057_0004);
    let latest = &mut Rng::seeded(seed ^ 0x5a3d_7057_0007);
    for fault in Fault::ALL {
        let chance = match fault {
            Fault::Wiped | Fault::Backup => &mut *late,
            Fault::Untaken => &mut *latest,
            _ => &mut *rng,
        };
        if on.contains(&fault.class()) && chance.permille(500) {
            set.insert(fault);
        }
    }
    // A node whose disk was emptied knows the first members: they must be those of now.
    if set.has(Fault::Wiped) && nodes >= 3 && late.one_in(2) {
        Fault::CHANGES_OF_VOTERS.into_iter().for_each(|fault| set.remove(fault));
    }
    remove_impossible(&mut set, nodes, sessions, options);
    set
}

/// Takes away what cannot happen in this cluster, and adds what follows from what can.
fn remove_impossible(set: &mut FaultSet, nodes: u64, sessions: usize, options: &Options) {
    let crashes = set.has(Fault::PowerCut) || set.has(Fault::ClusterPowerCut);
    for fault in [Fault::LostSectors, Fault::LostNames] {
        if crashes { set.insert(fault) } else { set.remove(fault) }
    }
    if crashes || set.has(Fault::Kill) {
        set.insert(Fault::TornWrite);
    } else {
        set.remove(Fault::TornWrite);
    }
    // What a disk loses for good must be within what a quorum can bear.
    if nodes < 3 {
        for fault in Fault::LOSSES {
            set.remove(fault);
        }
    }
    if nodes < 2 {
        for fault in Fault::ALL.into_iter().filter(|fault| fault.class() == FaultClass::Network) {
            set.remove(fault);
        }
        set.remove(Fault::Transfer);
        set.remove(Fault::RollingRestart);
    }
    if Fault::CHANGES_OF_VOTERS.into_iter().any(|fault| set.has(fault)) {
        set.remove(Fault::Wiped);
    }
    let snapshots = options.raft_state_bytes_max.is_some_and(|bytes| bytes <= 64 << 10);
    let laggards = set.has(Fault::Kill) || set.has(Fault::PowerCut) || set.has(Fault::Partition);
    let joins = set.has(Fault::Learner) || set.has(Fault::DiskLost) || set.has(Fault::Membership);
    if snapshots && ((nodes >= 3 && laggards) || joins) {
        set.insert(Fault::Install);
    } else {
        set.remove(Fault::Install);
    }
    // A session expires by time, or for want of room. Only what is in a session is sent again.
    let crowded = sessions > options.kv.sessions_max;
    if sessions == 0 || (options.kv.session_ttl_ms > 5_000 && !crowded) {
        set.remove(Fault::SessionExpiry);
    }
    if sessions == 0 {
        set.remove(Fault::Retry);
    }
}

fn rates(rng: &mut Rng, faults: FaultSet, options: &Options) -> Rates {
    let mut rate = |fault, low, high| if faults.has(fault) { rng.between(low, high) } else { 0 };
    // A leader that must be heard every 150 ms does not last where a tenth is lost.
    let hasty = options.raft.election_timeout_min < Duration::from_millis(300);
    let drop = rate(Fault::Drop, 2, if hasty { 40 } else { 100 });
    let duplicate = rate(Fault::Duplicate, 5, 200);
    let corrupt = rate(Fault::Corrupt, 1, 20);
    let reorder = faults.has(Fault::Reorder);
    // Where order is kept, a message that takes seconds holds up all after it.
    let delay = rate(Fault::Delay, 1, if reorder { 20 } else { 2 });
    let fastest = *rng.pick(&[50, 200, 1_000]);
    Rates {
        drop,
        duplicate,
        corrupt,
        delay,
        delay_us_max: rng.between(500, 10_000) * 1_000,
        reorder,
        latency_us: (fastest, fastest * rng.between(if reorder { 2 } else { 1 }, 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFETY: Duration = Duration::from_secs(180);

    #[test]
    fn every_kind_of_fault_is_on_in_some_seeds_and_off_in_others() {
        let mut on = [0_u32; Fault::ALL.len()];
        for seed in 0..400 {
            for fault in Plan::of_seed(seed, SAFETY).faults.iter() {
                on[fault as usize] += 1;
            }
        }
        for fault in Fault::ALL {
            let times = on[fault as usize];
            assert!((20..380).contains(&times), "{fault} is on in {times} of 400 seeds");
        }
    }

    #[test]
    fn every_plan_is_one_that_a_replica_accepts() {
        let mut sizes = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let plan = Plan::of_seed(seed, SAFETY);
            sizes.insert(plan.nodes);
            let options = plan.options_of(NodeId::of(5));
            assert_eq!(options.raft.check(), Ok(()), "seed {seed}");
            assert_eq!(options.storage.check(), Ok(()), "seed {seed}");
            assert_eq!(options.kv.check(), Ok(()), "seed {seed}");
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    }
}
