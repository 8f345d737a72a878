//! A few replicas in one test: virtual time, a network that can be cut, disks in memory.
//!
//! Small on purpose: faults in all their kinds are the simulator's matter; here each test shows one
//! rule of the replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo};
use sampan_base::{ClusterId, Configuration, NodeId, Time, WallTime};
use sampan_kv::{Kv, Reply, Restore};
use sampan_raft::{Body, Message};
use sampan_replica::wire::{Forward, PeerMessage};
use sampan_replica::{
    BackupReady, ClientReply, ConnectionId, DiskJob, Event, Input, Lane, Now, OpenReport, Options,
    Outputs, Repairing, Replica, Request, Start, job,
};
use sampan_storage::{Identity, Storage, snapshot};

const CLUSTER: ClusterId = ClusterId(7);
/// The connection that backups are asked for on.
pub(crate) const BACKUPS: ConnectionId = ConnectionId(999);

/// Files in memory; everything is durable at once.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk {
    files: BTreeMap<String, Vec<u8>>,
    /// What all files together may hold.
    pub(crate) capacity_bytes: Option<usize>,
    /// Every write takes room, also where the file is.
    pub(crate) copies_on_write: bool,
    /// There is no room for another name.
    pub(crate) takes_no_files: bool,
    /// The disk cannot read this file.
    pub(crate) unreadable: Option<String>,
}

impl MemoryDisk {
    pub(crate) fn used_bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// How many files have names that end like this.
    pub(crate) fn count_of(&self, ending: &str) -> usize {
        self.files.keys().filter(|name| name.ends_with(ending)).count()
    }

    pub(crate) fn remove(&mut self, file: &str) {
        assert!(self.files.remove(file).is_some(), "no {file}");
    }

    /// Cuts a file off in its middle.
    pub(crate) fn cut(&mut self, file: &str) {
        let bytes = self.files.get_mut(file).expect("it is there");
        bytes.truncate(bytes.len() / 2);
    }

    pub(crate) fn len_of(&self, file: &str) -> usize {
        self.files.get(file).map_or(0, Vec::len)
    }

    /// Flips a bit of the first place in the log where this stands. False if there is none.
    pub(crate) fn flip_in_log(&mut self, needle: &[u8]) -> bool {
        self.flip_in("wal/", needle)
    }

    /// The same in files whose names begin like this.
    pub(crate) fn flip_in(&mut self, names: &str, needle: &[u8]) -> bool {
        let files = self.files.iter_mut().filter(|(name, _)| name.starts_with(names));
        for (_, bytes) in files {
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                bytes[at] ^= 0x10;
                return true;
            }
        }
        false
    }

    /// Flips a bit of a chunk of each complete snapshot. How many there are.
    pub(crate) fn flip_in_each_snapshot(&mut self) -> usize {
        let snapshots =
            self.files.iter_mut().filter(|(name, _)| name.ends_with(snapshot::COMPLETE));
        snapshots.map(|(_, bytes)| bytes[sampan_storage::PAGE_BYTES as usize + 30] ^= 1).count()
    }

    /// Puts the newest complete snapshot of another node beside the own ones.
    pub(crate) fn take_newest_snapshot_of(&mut self, other: &Self) {
        let newest = other.files.iter().rfind(|(name, _)| name.ends_with(snapshot::COMPLETE));
        self.files.extend(newest.map(|(name, bytes)| (name.clone(), bytes.clone())));
    }

    /// Refuses what would make a file longer than there is room for.
    fn check_room(&self, file: &str, len_bytes: usize) -> Result<(), DiskError> {
        let held = if self.copies_on_write { 0 } else { self.len_of(file) };
        let more = len_bytes.saturating_sub(held);
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => {
                Err(DiskError::NoSpace(file.into()))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn another(&self) -> Option<Box<dyn Disk + Send>> {
        Some(Box::new(self.clone()))
    }

    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        match op {
            DiskOp::Create { file, .. } | DiskOp::Reserve { file, .. }
                if self.takes_no_files && !self.files.contains_key(&**file) =>
            {
                return Err(DiskError::NoSpace(file.clone()));
            }
            DiskOp::Reserve { file, len_bytes } => {
                self.check_room(file, *len_bytes as usize)?;
                self.files.insert(file.to_string(), vec![0; *len_bytes as usize]);
            }
            DiskOp::Create { file, zero_bytes } => {
                self.check_room(file, *zero_bytes as usize)?;
                self.files.insert(file.to_string(), vec![0; *zero_bytes as usize]);
            }
            DiskOp::Write { file, offset, bytes } => {
                self.check_room(file, *offset as usize + bytes.len())?;
                let data = self.files.get_mut(&**file);
                let data = data.ok_or_else(|| DiskError::NotFound(file.clone()))?;
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                data.resize(data.len().max(end), 0);
                data[start..end].copy_from_slice(bytes);
            }
            DiskOp::Rename { from, to } => {
                let data = self.files.remove(&**from).expect("the file exists");
                self.files.insert(to.to_string(), data);
            }
            DiskOp::Reuse { to, .. } if self.files.contains_key(&**to) => {}
            DiskOp::Reuse { from, to } => {
                let data = self.files.remove(&**from).unwrap_or_default();
                self.files.insert(to.to_string(), data);
            }
            DiskOp::Truncate { file, len_bytes } => {
                let data = self.files.get_mut(&**file).expect("the file exists");
                data.truncate(*len_bytes as usize);
            }
            DiskOp::Remove { file } => drop(self.files.remove(&**file)),
            DiskOp::Sync { .. } | DiskOp::CreateDirectory { .. } | DiskOp::SyncDirectory { .. } => {
            }
        }
        Ok(())
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        let inside = |name: &str| {
            let (parent, _) = name.rsplit_once('/').unwrap_or(("", name));
            parent == directory
        };
        let files = self.files.iter().filter(|(name, _)| inside(name));
        let info = |(name, data): (&String, &Vec<u8>)| FileInfo {
            file: name.as_str().into(),
            len_bytes: data.len() as u64,
        };
        Ok(files.map(info).collect())
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let data = self.files.get(file).ok_or_else(|| DiskError::NotFound(file.into()))?;
        if self.unreadable.as_deref() == Some(file) {
            return Err(DiskError::Io(file.into(), "Input/output error".into()));
        }
        let start = (offset as usize).min(data.len());
        let end = (start + len_bytes as usize).min(data.len());
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        Ok(self.files.get(file).map(|data| data.len() as u64))
    }
}

pub(crate) struct Cluster {
    options: fn(NodeId) -> Options,
    size: u64,
    nodes: BTreeMap<u64, Replica>,
    repairing: BTreeMap<u64, Box<Repairing>>,
    /// What each node found when it started last.
    pub(crate) reports: BTreeMap<u64, OpenReport>,
    disks: BTreeMap<u64, MemoryDisk>,
    wire: VecDeque<(u64, u64, PeerMessage)>,
    cut: BTreeSet<(u64, u64)>,
    /// Nodes without a connection to others, and forwards that were given to none.
    unconnected: BTreeSet<(u64, u64)>,
    pub(crate) not_sent: usize,
    now_us: u64,
    next_seq: BTreeMap<(u64, u64), u64>,
    answers: BTreeMap<(u64, u64, u64), Reply>,
    /// Node, connection and number of what was answered, in this order.
    pub(crate) answered: Vec<(u64, u64, u64)>,
    /// Messages that this picks stay on the wire.
    pub(crate) hold: fn(&PeerMessage) -> bool,
    /// The log lanes of these nodes' disks hang.
    pub(crate) hanging_disks: BTreeSet<u64>,
    /// These lanes of these nodes' disks hang.
    pub(crate) hanging_lanes: BTreeSet<(u64, Lane)>,
    /// No snapshot of these nodes gets its name, and what comes behind it waits.
    pub(crate) hanging_commits: BTreeSet<u64>,
    hanging: Vec<(u64, DiskJob)>,
    /// Nodes are stepped when they ask for it or something comes in, not each millisecond.
    pub(crate) wakes_on_demand: bool,
    /// What nodes said while they repaired their logs.
    pub(crate) sent_while_repairing: Vec<PeerMessage>,
    /// Messages delivered.
    pub(crate) delivered: usize,
    /// So many parts of snapshots arrive in a millisecond.
    pub(crate) snapshot_parts_per_ms: usize,
    /// Parts of snapshots arrive newest first.
    pub(crate) newest_parts_first: bool,
    /// Bytes of snapshots that were sent, delivered or not.
    pub(crate) snapshot_bytes_sent: usize,
    /// Chunks of arriving snapshots that were read back.
    pub(crate) chunks_read: usize,
    /// The same of one that is in force, to be checked.
    pub(crate) chunks_checked: usize,
    /// Each forward frame is delivered this often.
    pub(crate) forward_copies: usize,
    pub(crate) events: Vec<(u64, Event)>,
    pub(crate) stopped: BTreeSet<u64>,
    /// Bytes of replies in one turn, at most.
    pub(crate) longest_turn_bytes: usize,
    /// Entries that a node applied in one turn, or a snapshot brought, at most.
    pub(crate) most_applied: u64,
    pub(crate) backups: Vec<(u64, BackupReady)>,
    /// Nodes whose wall clock is ahead of the others'.
    pub(crate) clocks_ahead_ms: BTreeMap<u64, u64>,
    /// Runs each step of a node: where a test counts what that takes.
    pub(crate) around_step: fn(&mut dyn FnMut()),
}

impl Cluster {
    /// `size` fresh nodes.
    pub(crate) fn new(size: u64, options: fn(NodeId) -> Options) -> Self {
        let mut cluster = Self {
            options,
            size,
            nodes: BTreeMap::new(),
            repairing: BTreeMap::new(),
            reports: BTreeMap::new(),
            disks: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            unconnected: BTreeSet::new(),
            not_sent: 0,
            now_us: 1_000_000,
            next_seq: BTreeMap::new(),
            answers: BTreeMap::new(),
            answered: Vec::new(),
            hold: |_| false,
            hanging_disks: BTreeSet::new(),
            hanging_lanes: BTreeSet::new(),
            hanging_commits: BTreeSet::new(),
            hanging: Vec::new(),
            wakes_on_demand: false,
            sent_while_repairing: Vec::new(),
            delivered: 0,
            snapshot_parts_per_ms: usize::MAX,
            newest_parts_first: false,
            snapshot_bytes_sent: 0,
            chunks_read: 0,
            chunks_checked: 0,
            forward_copies: 1,
            events: Vec::new(),
            stopped: BTreeSet::new(),
            longest_turn_bytes: 0,
            most_applied: 0,
            backups: Vec::new(),
            clocks_ahead_ms: BTreeMap::new(),
            around_step: |step| step(),
        };
        for id in 1..=size {
            let mut disk = MemoryDisk::default();
            let identity = Identity { cluster: CLUSTER, node: NodeId::of(id) };
            Storage::create(&mut disk, identity, &options(NodeId::of(id)).storage)
                .expect("a fresh directory");
            cluster.disks.insert(id, disk);
            cluster.start(id);
        }
        cluster
    }

    /// The same with a leader that has committed its no-op.
    pub(crate) fn with_leader(size: u64, options: fn(NodeId) -> Options) -> (Self, u64) {
        let mut cluster = Self::new(size, options);
        let leader = cluster.wait_for_leader();
        cluster.run_ms(100);
        (cluster, leader)
    }

    /// The disk of a node that is down is a fresh one.
    pub(crate) fn wipe(&mut self, id: u64) {
        let mut disk = MemoryDisk::default();
        let identity = Identity { cluster: CLUSTER, node: NodeId::of(id) };
        let options = (self.options)(NodeId::of(id));
        Storage::create(&mut disk, identity, &options.storage).expect("a fresh directory");
        self.disks.insert(id, disk);
    }

    pub(crate) fn start(&mut self, id: u64) {
        let now = self.clocks_of(id);
        let disk = self.disks.get_mut(&id).expect("a disk per node");
        let node = NodeId::of(id);
        let identity = Identity { cluster: CLUSTER, node };
        let voters = Configuration::of_voters((1..=self.size).map(NodeId::of));
        let options = (self.options)(node);
        let started = Replica::start(disk, identity, options, voters, id + self.now_us, now);
        self.begin(id, started.expect("the node's own files open"));
    }

    fn begin(&mut self, id: u64, start: Start) {
        match start {
            Start::Ready(replica, report) => {
                self.nodes.insert(id, *replica);
                self.reports.insert(id, *report);
            }
            Start::Repairing(repairing) => drop(self.repairing.insert(id, repairing)),
        }
    }

    /// Does it ask the others for what its log lost?
    pub(crate) fn is_repairing(&self, id: u64) -> bool {
        self.repairing.contains_key(&id)
    }

    fn repair_input(&mut self, id: u64, input: Input) {
        let now = now_at(self.now_us);
        let Some(mut repairing) = self.repairing.remove(&id) else { return };
        let mut out = Outputs::default();
        repairing.step(now, input);
        repairing.flush(now, &mut out);
        self.sent_while_repairing.extend(out.messages.iter().map(|sent| sent.message.clone()));
        let sent = out.messages.into_iter().map(|sent| (id, sent.to.get(), sent.message));
        self.wire.extend(sent);
        if out.shutdown_complete {
            self.stopped.insert(id);
        }
        if repairing.is_settled() {
            let disk = self.disks.get_mut(&id).expect("a disk per node");
            let start = repairing.settle(disk, now).expect("the node's own files open");
            self.begin(id, start);
        } else {
            self.repairing.insert(id, repairing);
        }
    }

    /// Ends a node as kill -9 does; the others see its connections close.
    pub(crate) fn kill(&mut self, id: u64) {
        self.nodes.remove(&id);
        self.repairing.remove(&id);
        self.wire.retain(|(_, to, _)| *to != id);
        let others: Vec<u64> = self.nodes.keys().copied().collect();
        for other in others {
            self.input(other, Input::PeerDisconnected(NodeId::of(id)));
        }
    }

    fn is_hanging(&self, id: u64, job: &DiskJob) -> bool {
        match job {
            DiskJob::SnapshotCommit(_) if self.hanging_commits.contains(&id) => true,
            _ if job.lane() == Lane::Log => self.hanging_disks.contains(&id),
            _ => self.hanging_lanes.contains(&(id, job.lane())),
        }
    }

    /// May this job be done, after all those before it in its lane?
    fn may_go(&self, place: usize) -> bool {
        let (id, job) = &self.hanging[place];
        let is_behind = |(of, other): &(u64, DiskJob)| of == id && other.lane() == job.lane();
        !self.is_hanging(*id, job) && !self.hanging[..place].iter().any(is_behind)
    }

    /// Ends a node whose lanes hang, after so many of the jobs that wait there.
    pub(crate) fn kill_after_jobs(&mut self, id: u64, count: usize) {
        let own: Vec<_> = self.hanging.extract_if(.., |(of, _)| *of == id).collect();
        for (_, job) in own.into_iter().take(count) {
            job::run(self.disks.get_mut(&id).expect("a disk per node"), job);
        }
        self.kill(id);
    }

    /// Asks for a backup, and runs until there is one, or an error (then `None`).
    pub(crate) fn backup(&mut self, id: u64, seq: u64) -> Option<BackupReady> {
        self.input(id, Input::Backup { connection: BACKUPS, seq });
        for _ in 0..10_000 {
            let asked = |(node, ready): &(u64, BackupReady)| *node == id && ready.seq == seq;
            if let Some((_, ready)) = self.backups.iter().find(|ready| asked(ready)) {
                return Some(ready.clone());
            }
            if self.answer(id, BACKUPS.0, seq).is_some() {
                return None;
            }
            self.run_ms(1);
        }
        panic!("neither a backup nor an error within 10 s");
    }

    /// The state in a node's file.
    pub(crate) fn state_in(&mut self, id: u64, file: &str) -> Kv {
        let disk = self.disks.get_mut(&id).expect("a disk per node");
        let mut restore = Restore::new((self.options)(NodeId::of(id)).kv, u64::MAX);
        let mut offset = snapshot::FIRST_CHUNK_OFFSET;
        while let Some((payload, next)) =
            snapshot::read_chunk(disk, file, offset).expect("a sound chunk")
        {
            restore.feed(&payload).expect("frames of a state");
            offset = next;
        }
        restore.finish().expect("a whole state")
    }

    /// How many jobs hang.
    pub(crate) fn hanging(&self) -> usize {
        self.hanging.len()
    }

    pub(crate) fn disk(&mut self, id: u64) -> &mut MemoryDisk {
        self.disks.get_mut(&id).expect("a disk per node")
    }

    pub(crate) fn node(&self, id: u64) -> &Replica {
        &self.nodes[&id]
    }

    /// Cuts both directions between a node and all others, silently.
    pub(crate) fn isolate(&mut self, id: u64) {
        for other in (1..=self.size).filter(|&other| other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    /// Its connections break: what is on the way is lost, and both sides see it.
    pub(crate) fn reconnect(&mut self, id: u64) {
        self.wire.retain(|(from, to, _)| *from != id && *to != id);
        for other in (1..=self.size).filter(|&other| other != id) {
            for (a, b) in [(id, other), (other, id)] {
                self.input(a, Input::PeerDisconnected(NodeId::of(b)));
                self.input(a, Input::PeerConnected(NodeId::of(b)));
            }
        }
    }

    /// A node has no connection to another from now on, and knows of each forward that is not sent.
    pub(crate) fn unconnect(&mut self, id: u64, other: u64) {
        self.unconnected.insert((id, other));
    }

    /// It can send again. `heard`: by a connection that is new.
    pub(crate) fn connect(&mut self, id: u64, other: u64, heard: bool) {
        self.unconnected.remove(&(id, other));
        if heard {
            self.input(id, Input::PeerConnected(NodeId::of(other)));
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// What the clocks of a node show.
    fn clocks_of(&self, id: u64) -> Now {
        let Now { mono, wall } = now_at(self.now_us);
        let ahead_ms = self.clocks_ahead_ms.get(&id).copied().unwrap_or_default();
        Now { mono, wall: WallTime::from_unix_ms(wall.unix_ms + ahead_ms) }
    }

    pub(crate) fn now(&self) -> Time {
        now_at(self.now_us).mono
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    pub(crate) fn wait_for_leader(&mut self) -> u64 {
        for _ in 0..5_000 {
            self.run_ms(1);
            let agreed = |id| self.nodes.values().all(|node| node.leader() == Some(NodeId::of(id)));
            if let Some(leader) = (1..=self.size).find(|&id| agreed(id)) {
                return leader;
            }
        }
        panic!("no leader within 5 s");
    }

    pub(crate) fn follower_of(&self, leader: u64) -> u64 {
        *self.nodes.keys().find(|&&id| id != leader).expect("there is another node")
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_us += 1_000;
            let ids: Vec<u64> = self.nodes.keys().chain(self.repairing.keys()).copied().collect();
            for id in ids {
                let deadline = self.nodes.get(&id).map(Replica::next_deadline);
                let is_due = deadline.is_none_or(|at| at <= now_at(self.now_us).mono);
                if is_due || !self.wakes_on_demand {
                    self.input(id, Input::Tick);
                }
            }
            while let Some(place) = (0..self.hanging.len()).find(|&place| self.may_go(place)) {
                let (id, job) = self.hanging.remove(place);
                let done = job::run(self.disks.get_mut(&id).expect("a disk per node"), job);
                self.input(id, Input::Disk(done));
            }
            let (mut parts_left, delivered_before) = (self.snapshot_parts_per_ms, self.delivered);
            let may_arrive = |message: &PeerMessage, hold: fn(&PeerMessage) -> bool, parts| {
                !hold(message) && (parts > 0 || snapshot_bytes(message).is_none())
            };
            while let Some(mut place) = self
                .wire
                .iter()
                .position(|(.., message)| may_arrive(message, self.hold, parts_left))
            {
                let is_part = |(.., message): &(_, _, _)| snapshot_bytes(message).is_some();
                if self.newest_parts_first && is_part(&self.wire[place]) {
                    place = self.wire.iter().rposition(is_part).expect("that one at least");
                }
                let (from, to, message) = self.wire.remove(place).expect("just found");
                parts_left -= usize::from(snapshot_bytes(&message).is_some());
                self.delivered += 1;
                assert!(
                    self.delivered - delivered_before < 100_000,
                    "it never ends: {from} to {to}"
                );
                let is_up = self.nodes.contains_key(&to) || self.is_repairing(to);
                if is_up && !self.cut.contains(&(from, to)) {
                    self.input(to, Input::Peer { from: NodeId::of(from), message });
                }
            }
        }
    }

    /// Feeds one input and does what the node then wants, disk jobs at once.
    pub(crate) fn input(&mut self, id: u64, input: Input) {
        if self.is_repairing(id) {
            return self.repair_input(id, input);
        }
        self.inputs(id, [input]);
    }

    /// The same with several inputs in one turn.
    pub(crate) fn inputs<const N: usize>(&mut self, id: u64, inputs: [Input; N]) {
        let now = self.clocks_of(id);
        let mut turns = VecDeque::from([Vec::from(inputs)]);
        while let Some(mut turn) = turns.pop_front() {
            let Some(node) = self.nodes.get_mut(&id) else { return };
            let mut out = Outputs::default();
            let applied_before = node.raft().applied();
            (self.around_step)(&mut || {
                turn.drain(..).for_each(|input| node.step(now, input));
                node.flush(now, &mut out);
            });
            assert_eq!(out.fatal, None, "node {id}");
            let applied = node.raft().applied().0 - applied_before.0;
            self.most_applied = self.most_applied.max(applied);
            for job in out.jobs {
                // The jobs of a lane are done in their order.
                let waits = |(of, other): &(u64, DiskJob)| *of == id && other.lane() == job.lane();
                if self.is_hanging(id, &job) || self.hanging.iter().any(waits) {
                    self.hanging.push((id, job));
                } else {
                    let disk = self.disks.get_mut(&id).expect("a disk per node");
                    self.chunks_read += usize::from(matches!(job, DiskJob::SnapshotLoad { .. }));
                    let is_check = matches!(job, DiskJob::SnapshotCheck { .. });
                    self.chunks_checked += usize::from(is_check);
                    turns.push_back(vec![Input::Disk(job::run(disk, job))]);
                }
            }
            for envelope in out.messages {
                if self.unconnected.contains(&(id, envelope.to.get())) {
                    if let PeerMessage::Forward(Forward { frame_seq, .. }) = envelope.message {
                        self.not_sent += 1;
                        assert!(self.not_sent < 1_000, "node {id} does not stop trying");
                        turns.push_back(vec![Input::ForwardNotSent { to: envelope.to, frame_seq }]);
                    }
                    continue;
                }
                let forward = matches!(envelope.message, PeerMessage::Forward(_));
                self.snapshot_bytes_sent += snapshot_bytes(&envelope.message).unwrap_or(0);
                let copies = if forward { self.forward_copies } else { 1 };
                for _ in 0..copies {
                    self.wire.push_back((id, envelope.to.get(), envelope.message.clone()));
                }
            }
            let reply_bytes = out.replies.iter().map(|reply| reply.reply.encoded_bytes()).sum();
            self.longest_turn_bytes = self.longest_turn_bytes.max(reply_bytes);
            for ClientReply { connection, seq, reply, .. } in out.replies {
                self.answered.push((id, connection.0, seq));
                let earlier = self.answers.insert((id, connection.0, seq), reply);
                assert_eq!(
                    earlier, None,
                    "request {seq} of connection {connection:?} answered twice"
                );
            }
            self.events.extend(out.events.into_iter().map(|event| (id, event)));
            self.backups.extend(out.backups.into_iter().map(|ready| (id, ready)));
            if out.shutdown_complete {
                self.stopped.insert(id);
            }
            let node = &self.nodes[&id];
            if node.raft().applied() < node.raft().commit() {
                assert!(node.next_deadline() <= now.mono, "node {id} has more to apply at once");
            }
        }
    }

    /// Sends commands as one pipeline; returns their numbers.
    pub(crate) fn send(&mut self, id: u64, connection: u64, commands: &[&str]) -> Vec<u64> {
        self.send_as(id, connection, commands, false)
    }

    pub(crate) fn send_as(
        &mut self,
        id: u64,
        connection: u64,
        commands: &[&str],
        stale: bool,
    ) -> Vec<u64> {
        let limits = (self.options)(NodeId::of(id)).kv;
        let next = self.next_seq.entry((id, connection)).or_insert(0);
        let mut requests = Vec::new();
        for command in commands {
            let args: Vec<&str> = command.split(' ').collect();
            let mut bytes = Vec::new();
            let class = sampan_kv::parse(&args, &limits, &mut bytes).expect("a legal command");
            *next += 1;
            requests.push(Request { seq: *next, class, stale, command: bytes.into() });
        }
        let numbers = requests.iter().map(|request| request.seq).collect();
        self.input(id, Input::Client { connection: ConnectionId(connection), requests });
        numbers
    }

    pub(crate) fn answer(&self, id: u64, connection: u64, seq: u64) -> Option<&Reply> {
        self.answers.get(&(id, connection, seq))
    }

    /// Sends a pipeline and returns its replies, shown as text, in order.
    pub(crate) fn call(&mut self, id: u64, connection: u64, commands: &[&str]) -> Vec<String> {
        let numbers = self.send(id, connection, commands);
        for _ in 0..10_000 {
            if numbers.iter().all(|&seq| self.answer(id, connection, seq).is_some()) {
                break;
            }
            self.run_ms(1);
        }
        let show = |seq| match self.answer(id, connection, seq) {
            Some(reply) => show(reply),
            None => "(none)".into(),
        };
        numbers.into_iter().map(show).collect()
    }

    /// One command, whose reply nobody waits for.
    pub(crate) fn ask_later(&mut self, id: u64, command: &str) {
        self.send(id, 99, &[command]);
        self.run_ms(1);
    }

    /// One command, one reply.
    pub(crate) fn ask(&mut self, id: u64, connection: u64, command: &str) -> String {
        self.call(id, connection, &[command]).remove(0)
    }
}

/// How much of a snapshot a message carries, if it does.
fn snapshot_bytes(message: &PeerMessage) -> Option<usize> {
    match message {
        PeerMessage::Raft(Message { body: Body::InstallSnapshot { data, .. }, .. }) => {
            Some(data.len())
        }
        PeerMessage::SnapshotPart(part) => Some(part.data.len()),
        _ => None,
    }
}

/// A reply as text.
pub(crate) fn show(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "OK".into(),
        Reply::Nil => "nil".into(),
        Reply::Int(value) => value.to_string(),
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Simple(text) => (*text).to_string(),
        Reply::Error(text) => format!("-{text}"),
        Reply::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
        }
    }
}

fn now_at(now_us: u64) -> Now {
    let wall_ms = Duration::from_micros(now_us).as_millis() as u64 + 1_700_000_000_000;
    Now { mono: Time(now_us), wall: WallTime::from_unix_ms(wall_ms) }
}
