//! Hosts, the messages between them, and the oracle; every way to make something happen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use sampan_base::{Configuration, LogIndex, NodeId, Time};
use sampan_raft::{Config, Message, Raft, ReadId, ReadVoid, Role, SnapshotChunk, SnapshotRead};

use super::disk::Disk;
use super::host::{Host, Machine};
use super::oracle::Oracle;

pub struct Cluster {
    pub hosts: BTreeMap<NodeId, Host>,
    /// Sent, not delivered; oldest first.
    pub network: Vec<Message>,
    pub oracle: Oracle,
    /// What happened, one line an event, if `trace` is set.
    pub events: Vec<String>,
    pub trace: bool,
    /// Links that lose everything: (from, to).
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Snapshot chunks are stored, and files installed, at once.
    pub auto_snapshots: bool,
    /// Bytes of entries that a disk takes in a batch; `None`: only hard state.
    pub room: Option<usize>,
    pub batch_bytes_max: usize,
    /// How often something of note happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    seed: u64,
    next_id: u64,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        Self {
            hosts: BTreeMap::new(),
            network: Vec::new(),
            oracle: Oracle::default(),
            events: Vec::new(),
            trace: false,
            cut: BTreeSet::new(),
            auto_snapshots: true,
            room: Some(usize::MAX),
            batch_bytes_max: usize::MAX,
            counts: BTreeMap::new(),
            seed,
            next_id: 0,
        }
    }

    pub fn event(&mut self, line: impl FnOnce() -> String) {
        if self.trace {
            self.events.push(line());
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn add(&mut self, config: Config, bootstrap: Configuration) {
        let id = config.id;
        self.hosts.insert(id, Host::new(config, Disk { bootstrap, ..Disk::default() }));
        self.restart(id);
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.hosts[&id].raft.is_some()
    }

    pub fn raft(&self, id: NodeId) -> &Raft {
        self.hosts[&id].raft.as_ref().expect("the node is up")
    }

    pub fn up(&self) -> Vec<NodeId> {
        self.hosts.values().filter(|host| host.raft.is_some()).map(Host::id).collect()
    }

    /// The leader of the highest term, if any.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.up().into_iter().filter(|&id| self.raft(id).is_leader());
        leaders.max_by_key(|&id| self.raft(id).term())
    }

    // ------------------------------------------------------------------------- inputs

    /// Runs an input on a node, then its whole turn.
    pub fn input<T>(&mut self, id: NodeId, input: impl FnOnce(&mut Raft, Time) -> T) -> T {
        let host = self.hosts.get_mut(&id).expect("a known node");
        let now = host.now;
        let result = input(host.raft(), now);
        self.turn(id);
        result
    }

    pub fn restart(&mut self, id: NodeId) {
        let seed = self.seed ^ sampan_base::rng::mix(self.fresh_id());
        let host = self.hosts.get_mut(&id).expect("a known node");
        host.start(seed);
        self.turn(id);
    }

    pub fn crash(&mut self, id: NodeId, survive: usize) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        host.crash(survive);
        let last = host.disk.last();
        self.count("crashes");
        self.event(|| format!("{id} ✗ crash, kept log through {}@{}", last.index, last.term));
    }

    /// The oldest batch of a node becomes durable. False if there is none.
    pub fn sync(&mut self, id: NodeId) -> bool {
        let host = self.hosts.get_mut(&id).expect("a known node");
        let Some(done) = host.disk.sync() else { return false };
        let sequence = done.sequence();
        self.event(|| format!("{id} sync #{sequence}"));
        self.input(id, |raft, now| raft.persisted(now, done));
        true
    }

    /// Delivers one message of the network, or loses it if its link is cut or its node down.
    pub fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let lost = self.cut.contains(&(from, to))
            || self.hosts.get(&to).is_none_or(|host| host.raft.is_none());
        if lost {
            return self.event(|| format!("{message} ✗ lost"));
        }
        let dropped = self.raft(to).status().dropped;
        let text = if self.trace { message.to_string() } else { String::new() };
        let host = self.hosts.get_mut(&to).expect("a known node");
        let now = host.now;
        host.raft().step(now, message);
        if self.trace {
            let now_dropped = self.raft(to).status().dropped;
            for reason in sampan_raft::DropReason::ALL {
                if now_dropped.of(reason) != dropped.of(reason) {
                    self.events.push(format!("{text} ✗ {}", reason.label()));
                }
            }
        }
        self.turn(to);
    }

    pub fn pass(&mut self, id: NodeId, time: Duration) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        host.now = host.now + time;
        if host.raft.is_some() {
            self.input(id, Raft::tick);
        }
    }

    /// The node's clock moves to its next deadline.
    pub fn skip_to_deadline(&mut self, id: NodeId) {
        let deadline = self.raft(id).next_deadline();
        let now = self.hosts[&id].now;
        self.pass(id, deadline.since(now));
    }

    pub fn propose(&mut self, id: NodeId, commands: &[String]) {
        let mut refused = None;
        self.input(id, |raft, _| {
            for command in commands {
                refused = raft.propose(Bytes::from(command.clone())).err().or(refused);
            }
        });
        if let Some(refused) = refused {
            self.event(|| format!("{id} refuses: {refused}"));
        }
    }

    pub fn read(&mut self, id: NodeId) -> ReadId {
        let read = ReadId(self.fresh_id());
        let floor = self.oracle.commit_index();
        let result = self.input(id, |raft, _| raft.read_index(read));
        match result {
            Ok(()) => {
                // The answer may be there already: it was checked against no floor.
                let host = self.hosts.get_mut(&id).expect("a known node");
                if let Some((_, Some(index))) = host.answered.iter().find(|(r, _)| *r == read) {
                    assert!(*index >= floor, "{id} reads at {index}, {floor} was committed");
                } else {
                    host.reads.insert(read, floor);
                }
            }
            Err(refused) => self.event(|| format!("{id} refuses: {refused}")),
        }
        read
    }

    // --------------------------------------------------------------------------- turns

    /// What a host does after any input: persist, send, apply, serve snapshots.
    pub fn turn(&mut self, id: NodeId) {
        loop {
            let host = self.hosts.get_mut(&id).expect("a known node");
            let Some(raft) = &mut host.raft else { return };
            let persist = raft.take_persist_within(self.room, self.batch_bytes_max);
            let mut out = std::mem::take(&mut host.out);
            raft.flush(host.now, &mut out);
            if let Some(persist) = persist {
                self.event(|| persist_line(id, &persist));
                self.hosts.get_mut(&id).expect("known").disk.pending.push_back(persist);
            }
            if let Some(change) = out.role_change.take() {
                self.event(|| role_line(id, change.role, change.term, change.leader));
            }
            for message in out.messages.drain(..) {
                self.oracle.watch_message(&message, &self.hosts[&id]);
                self.event(|| message.to_string());
                self.network.push(message);
            }
            for outcome in out.reads.drain(..) {
                self.finish_read(id, outcome.id, outcome.result);
            }
            let again = !out.snapshot_reads.is_empty() || !out.snapshot_chunks.is_empty();
            for read in out.snapshot_reads.drain(..) {
                self.serve_snapshot(id, read);
            }
            for chunk in out.snapshot_chunks.drain(..) {
                self.store_chunk(id, chunk);
            }
            self.hosts.get_mut(&id).expect("known").out = out;
            self.oracle.check_node(&self.hosts, id);
            self.apply(id);
            if !again {
                break;
            }
        }
        self.oracle.check_node(&self.hosts, id);
    }

    fn finish_read(&mut self, id: NodeId, read: ReadId, result: Result<LogIndex, ReadVoid>) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        host.answered.push((read, result.ok()));
        let floor = host.reads.remove(&read);
        self.count(if result.is_ok() { "reads answered" } else { "reads void" });
        let host = &self.hosts[&id];
        self.count(match host.raft.as_ref().map(Raft::is_leader) {
            Some(true) => "reads on leaders",
            _ => "reads on followers",
        });
        if let (Ok(index), Some(floor)) = (result, floor) {
            assert!(index >= floor, "{id} reads at {index}, {floor} was committed before");
        }
        self.event(|| match result {
            Ok(index) => format!("{id} read at {index}"),
            Err(ReadVoid) => format!("{id} read void"),
        });
    }

    fn apply(&mut self, id: NodeId) {
        loop {
            let host = self.hosts.get_mut(&id).expect("a known node");
            let entries = host.raft().take_committed(64);
            if entries.is_empty() {
                return;
            }
            for entry in &entries {
                host.machine.apply(entry);
            }
            let lines: Vec<_> = entries.iter().map(entry_text).collect();
            self.event(|| format!("{id} applies {}", lines.join(", ")));
        }
    }

    fn serve_snapshot(&mut self, id: NodeId, read: SnapshotRead) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        let file = host.disk.snapshots.iter().find(|(meta, _)| meta.id == read.id);
        let (SnapshotRead { to, id: snapshot, offset, len_max, maker: _ }, now) = (read, host.now);
        let raft = host.raft.as_mut().expect("it is up");
        match file {
            Some((_, file)) => {
                let end = (offset as usize + len_max).min(file.len());
                let data = file.slice(offset as usize..end);
                raft.snapshot_read(now, to, snapshot, offset, data);
            }
            None => raft.snapshot_unreadable(now, to, snapshot),
        }
    }

    fn store_chunk(&mut self, id: NodeId, chunk: SnapshotChunk) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        let SnapshotChunk { meta, offset, data, .. } = chunk;
        let receiving = &mut host.disk.receiving;
        if receiving.as_ref().is_none_or(|(old, _)| old.id != meta.id) {
            *receiving = Some((meta.clone(), Vec::new()));
        }
        let (_, file) = receiving.as_mut().expect("just set");
        let continues = offset == file.len() as u64 && !data.is_empty();
        if continues {
            file.extend_from_slice(&data);
        }
        let held = file.len() as u64;
        if continues {
            self.event(|| format!("{id} stores snapshot #{:x} through byte {held}", meta.id.0));
        }
        let host = self.hosts.get_mut(&id).expect("a known node");
        host.raft().snapshot_stored(meta.id, held);
        if held == meta.size_bytes && self.auto_snapshots {
            self.install(id);
        }
    }

    /// The snapshot that a node has received completely is verified, durable, and installed.
    pub fn install(&mut self, id: NodeId) {
        let host = self.hosts.get_mut(&id).expect("a known node");
        let Some((meta, file)) = host.disk.receiving.take() else { return };
        let file = Bytes::from(file);
        host.disk.put_snapshot(meta.clone(), file.clone());
        let now = host.now;
        let installed = host.raft().install_snapshot(now, meta.clone());
        if installed {
            host.machine = Machine::load(&file);
        }
        let at = meta.position;
        let what = if installed { "installs" } else { "ignores" };
        self.count(if installed { "snapshots installed" } else { "snapshots ignored" });
        self.event(|| format!("{id} {what} snapshot #{:x} at {}@{}", meta.id.0, at.index, at.term));
    }

    // --------------------------------------------------------------------- in one go

    /// Syncs and delivers until nothing is left to do, without time passing.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for id in self.up() {
                while self.sync(id) {
                    idle = false;
                }
            }
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
                idle = false;
            }
            if idle {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    /// All check that needs the whole cluster.
    pub fn check(&mut self) {
        for id in self.up() {
            self.oracle.check_node(&self.hosts, id);
        }
        self.oracle.check_logs(&self.hosts);
    }
}

pub fn entry_text(entry: &sampan_base::Entry) -> String {
    use sampan_base::EntryKind;
    let at = format!("{}@{}", entry.index, entry.term);
    match entry.kind {
        EntryKind::Noop => format!("{at} no-op"),
        EntryKind::Command if entry.data.is_empty() => at,
        EntryKind::Command => format!("{at} {}", String::from_utf8_lossy(&entry.data)),
        EntryKind::Configuration => {
            let mut reader = sampan_base::codec::Reader::new(&entry.data);
            let configuration = Configuration::decode(&mut reader).expect("it was checked");
            format!("{at} {configuration}")
        }
    }
}

fn persist_line(id: NodeId, persist: &sampan_raft::Persist) -> String {
    let mut line = format!("{id} persist");
    if let Some(hard_state) = persist.hard_state {
        let vote = hard_state.vote.map_or("nobody".into(), |vote| vote.to_string());
        let _ = write!(line, " term={} vote={vote}", hard_state.term);
    }
    if let Some(start) = persist.log_reset {
        let _ = write!(line, " new log after {}@{}", start.index, start.term);
    }
    let entries: Vec<_> = persist.entries.iter().map(entry_text).collect();
    if !entries.is_empty() {
        let _ = write!(line, " [{}]", entries.join(", "));
    }
    format!("{line} #{}", persist.token.sequence())
}

fn role_line(id: NodeId, role: Role, term: sampan_base::Term, leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) if leader != id => format!("{id}@{term} {role} of {leader}"),
        _ => format!("{id}@{term} {role}"),
    }
}
