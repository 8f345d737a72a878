//! Golden transcripts: each file in `scripts/` shows one rule of the algorithm, and is the page to
//! read about it. The file's name is the rule, its first line the sentence and where it comes from.
//!
//! Output is one line an event:
//!
//! ```text
//! n1@3 leader                                 a role begins (of whom, for a follower)
//! n1@3 → n2 Append base=4@2 [5@3] commit=4    a message leaves; positions are index@term
//! n1@3 → n2 Append ... ✗ lost                 it arrives nowhere; or why it was dropped
//! n1 persist term=3 vote=n1 [5@3 a] #7        a batch goes to the disk: not durable yet
//! n1 sync #7                                  it is durable
//! n1 applies 5@3 a                            committed, and applied
//! n1 read at 5                                a read may be served from index 5 on
//! ```
//!
//! After each command the oracle checks every node; every script ends with a check of all logs.
//! `UPDATE_GOLDENFILES=1 cargo test -p sampan-raft` writes the outputs anew.

mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context};
use sampan_base::{Configuration, Entry, EntryKind, LogIndex, NodeId, Term};
use sampan_raft::{Config, Health, Message, PeerState, Raft};

use support::cluster::{Cluster, entry_text};
use support::disk::Disk;

#[derive(Command)]
enum Step {
    /// Makes nodes 1..=nodes, of which the last `learners` are learners; elects `leader` if given.
    Cluster {
        #[arg(key)]
        nodes: u64,
        #[arg(key, optional)]
        learners: u64,
        #[arg(key, optional)]
        spares: u64,
        #[arg(key)]
        leader: Option<u64>,
        #[arg(key)]
        entries_max: Option<usize>,
        #[arg(key)]
        window: Option<usize>,
        #[arg(key)]
        window_bytes: Option<usize>,
        #[arg(key)]
        uncommitted_bytes: Option<usize>,
        #[arg(key)]
        reads: Option<usize>,
        #[arg(key)]
        chunk: Option<usize>,
        /// Parts of a snapshot on their way at a time.
        #[arg(key)]
        parts: Option<usize>,
        #[arg(key)]
        pre_vote: Option<bool>,
        #[arg(key)]
        check_quorum: Option<bool>,
        /// In milliseconds, as `append_interval`.
        #[arg(key)]
        quorum_grace: Option<u64>,
        #[arg(key)]
        append_interval: Option<u64>,
        #[arg(key)]
        repeat_bytes: Option<usize>,
    },
    /// Proposes commands in one turn.
    Propose(u64, Vec<String>),
    /// Delivers messages that are on their way now, all or those that match.
    Deliver {
        #[arg(key)]
        from: Option<u64>,
        #[arg(key)]
        to: Option<u64>,
        #[arg(key = "type")]
        kind: Option<String>,
        /// Only so many.
        #[arg(key)]
        first: Option<usize>,
        /// Not the oldest ones.
        #[arg(key, optional)]
        skip: usize,
        /// The youngest first.
        #[arg(key, optional)]
        reverse: bool,
        /// Leave a copy on its way.
        #[arg(key, optional)]
        double: bool,
    },
    /// Loses messages.
    Lose {
        #[arg(key)]
        from: Option<u64>,
        #[arg(key)]
        to: Option<u64>,
        #[arg(key = "type")]
        kind: Option<String>,
        #[arg(key)]
        first: Option<usize>,
    },
    /// Completes what is on the way to the disks of these nodes, or all.
    Sync(
        #[arg(optional)] Vec<u64>,
        /// Only so many batches each.
        #[arg(key = "batches")]
        Option<usize>,
    ),
    /// Stops a node; what was not synced is lost.
    Crash(u64),
    /// The log may have lost its end: through an index, or through one that the leader will name.
    Restart(
        u64,
        #[arg(key = "non_voting_until")] Option<u64>,
        #[arg(key = "non_voting")] Option<bool>,
    ),
    /// The disk of a node that is down loses its log behind an index, although it was synced; what
    /// was lost had replaced these entries, `index@term`, if any.
    Damage(u64, #[arg(key = "keep")] u64, #[arg(key = "replaced")] Option<String>),
    /// The disks of these nodes, which are down, are empty: so they start.
    Wipe(Vec<u64>),
    /// A node that is down holds these entries, `index@term`, when it starts, in this term.
    Store(u64, String, #[arg(key = "term")] u64),
    /// So many milliseconds pass for these nodes, or all.
    Tick(u64, #[arg(optional)] Vec<u64>),
    /// The clock of a node moves to its next deadline.
    Timeout(u64),
    Campaign(u64),
    Read(u64),
    Transfer(u64, #[arg(key = "to")] Option<u64>),
    /// Asks for other members.
    Configure {
        node: u64,
        #[arg(key)]
        voters: String,
        #[arg(key, optional)]
        learners: String,
    },
    /// Takes a snapshot of all that is applied, and trims the log but for `keep` entries.
    Compact(u64, #[arg(key = "keep", optional)] u64),
    /// Received snapshot files are held back until `install`.
    HoldInstalls,
    Install(u64),
    /// Disks take only so many bytes of entries in a batch; `none`: only hard state.
    Room(String),
    /// A batch holds no more bytes of entries beyond its first.
    BatchBytes(usize),
    /// Followers that only catch up may be sent so many bytes.
    AllowCatchUp(u64, usize),
    /// How the disk of a node is.
    Health(u64, String),
    /// A connection closed, or opened.
    Disconnect(u64, #[arg(key = "peer")] u64),
    Connect(u64, #[arg(key = "peer")] u64),
    /// These nodes and the others no longer hear each other.
    Cut(Vec<u64>),
    /// What the first says no longer reaches the second.
    CutOneWay(u64, u64),
    Heal,
    /// Syncs and delivers until nothing happens any more.
    Settle,
    Status(#[arg(optional)] Vec<u64>),
    Log(#[arg(optional)] Vec<u64>),
    Peers(u64),
    Network,
}

/// Which messages.
struct Select {
    from: Option<u64>,
    to: Option<u64>,
    kind: Option<String>,
    first: Option<usize>,
    skip: usize,
}

impl Select {
    fn matches(&self, message: &Message) -> bool {
        let text = message.body.to_string();
        let kind = text.split(' ').next().unwrap_or_default();
        self.from.is_none_or(|id| id == message.from.get())
            && self.to.is_none_or(|id| id == message.to.get())
            && self.kind.as_ref().is_none_or(|wanted| wanted == kind)
    }

    /// Takes the messages out of the network.
    fn take(&self, network: &mut Vec<Message>) -> Vec<Message> {
        let (mut left, mut skip) = (self.first.unwrap_or(usize::MAX), self.skip);
        let (taken, kept) = std::mem::take(network).into_iter().partition(|message| {
            let matches = self.matches(message);
            let take = matches && left > 0 && skip == 0;
            skip -= usize::from(matches && skip > 0);
            left -= usize::from(take);
            take
        });
        *network = kept;
        taken
    }
}

struct Transcript {
    cluster: Cluster,
}

impl goldenscript::Runner for Transcript {
    type Command = Step;

    fn run(&mut self, step: &Step, _: &Context) -> Result<String, Box<dyn Error>> {
        self.cluster.events.clear();
        let shown = self.execute(step);
        for id in self.cluster.up() {
            self.cluster.oracle.check_node(&self.cluster.hosts, id);
        }
        let mut output = self.cluster.events.join("\n");
        if !output.is_empty() {
            output.push('\n');
        }
        Ok(output + &shown)
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        self.cluster.check();
        Ok(())
    }
}

impl Transcript {
    fn execute(&mut self, step: &Step) -> String {
        let cluster = &mut self.cluster;
        match step {
            Step::Cluster { .. } => self.make_cluster(step),
            Step::Propose(id, commands) => cluster.propose(node(*id), commands),
            Step::Deliver { from, to, kind, first, skip, reverse, double } => {
                let (from, to, kind) = (*from, *to, kind.clone());
                let select = Select { from, to, kind, first: *first, skip: *skip };
                let mut messages = select.take(&mut cluster.network);
                if *reverse {
                    messages.reverse();
                }
                for message in messages {
                    if *double {
                        cluster.network.push(message.clone());
                    }
                    cluster.deliver(message);
                }
            }
            Step::Lose { from, to, kind, first } => {
                let (from, to, kind) = (*from, *to, kind.clone());
                let select = Select { from, to, kind, first: *first, skip: 0 };
                for message in select.take(&mut cluster.network) {
                    cluster.event(|| format!("{message} ✗ lost"));
                }
            }
            Step::Sync(ids, batches) => {
                for id in or_all(cluster, ids) {
                    let mut left = batches.unwrap_or(usize::MAX);
                    while left > 0 && cluster.sync(id) {
                        left -= 1;
                    }
                }
            }
            Step::Crash(id) => cluster.crash(node(*id), 0),
            Step::Restart(id, until, unknown) => {
                let host = cluster.hosts.get_mut(&node(*id)).expect("a known node");
                let unknown = unknown.unwrap_or(false).then_some(LogIndex::MAX);
                host.disk.non_voting_until = until.map(LogIndex).or(unknown);
                cluster.restart(node(*id));
            }
            Step::Store(id, entries, term) => {
                let host = cluster.hosts.get_mut(&node(*id)).expect("a known node");
                host.disk.hard_state.term = Term(*term);
                host.disk.entries = entries.split_whitespace().map(entry).collect();
            }
            Step::Wipe(ids) => {
                for id in ids {
                    let host = cluster.hosts.get_mut(&node(*id)).expect("a known node");
                    let bootstrap = host.disk.bootstrap.clone();
                    host.disk = Disk { bootstrap, newborn: true, ..Disk::default() };
                }
            }
            Step::Damage(id, keep, replaced) => {
                let host = cluster.hosts.get_mut(&node(*id)).expect("a known node");
                host.disk.entries.retain(|entry| entry.index.0 <= *keep);
                let replaced = replaced.iter().flat_map(|entries| entries.split_whitespace());
                host.disk.entries.extend(replaced.map(entry));
            }
            Step::Tick(ms, ids) => {
                for id in or_all(cluster, ids) {
                    cluster.pass(id, Duration::from_millis(*ms));
                }
            }
            Step::Timeout(id) => cluster.skip_to_deadline(node(*id)),
            _ => return self.execute_rarer(step),
        }
        String::new()
    }

    fn execute_rarer(&mut self, step: &Step) -> String {
        let cluster = &mut self.cluster;
        match step {
            Step::Campaign(id) => cluster.input(node(*id), Raft::campaign),
            Step::Read(id) => {
                cluster.read(node(*id));
            }
            Step::Transfer(id, to) => {
                let to = to.map(node);
                let result =
                    cluster.input(node(*id), |raft, now| raft.transfer_leadership(now, to));
                return refusal(*id, result.err());
            }
            Step::Configure { node: id, voters, learners } => {
                let target = Configuration {
                    voters: nodes(voters),
                    learners: nodes(learners),
                    ..Configuration::default()
                };
                let result =
                    cluster.input(node(*id), |raft, now| raft.propose_configuration(now, target));
                return refusal(*id, result.err());
            }
            Step::Compact(id, keep) => return self.compact(node(*id), *keep),
            Step::HoldInstalls => cluster.auto_snapshots = false,
            Step::Install(id) => {
                cluster.install(node(*id));
                cluster.turn(node(*id));
            }
            Step::Room(bytes) => cluster.room = bytes.parse().ok(),
            Step::BatchBytes(bytes) => cluster.batch_bytes_max = *bytes,
            Step::AllowCatchUp(id, bytes) => {
                cluster.input(node(*id), |raft, _| raft.allow_catch_up(*bytes));
            }
            Step::Health(id, health) => {
                let all = [Health::Well, Health::Slow, Health::Full, Health::Exhausted];
                let health = all.into_iter().find(|known| known.label() == health);
                cluster.input(node(*id), |raft, _| {
                    raft.set_health(health.expect("well, slow, full or exhausted"));
                });
            }
            Step::Disconnect(id, peer) => {
                cluster.input(node(*id), |raft, now| raft.peer_disconnected(now, node(*peer)));
            }
            Step::Connect(id, peer) => {
                cluster.input(node(*id), |raft, now| raft.peer_connected(now, node(*peer)));
            }
            Step::Cut(ids) => self.cut(&ids.iter().copied().map(node).collect()),
            Step::CutOneWay(from, to) => {
                cluster.cut.insert((node(*from), node(*to)));
            }
            Step::Heal => cluster.cut.clear(),
            Step::Settle => cluster.settle(),
            _ => return self.show(step),
        }
        String::new()
    }

    fn show(&self, step: &Step) -> String {
        let cluster = &self.cluster;
        match step {
            Step::Status(ids) => {
                let lines = or_all(cluster, ids).into_iter().map(|id| status(cluster.raft(id)));
                lines.collect()
            }
            Step::Log(ids) => {
                let lines = or_all(cluster, ids).into_iter().map(|id| log(cluster.raft(id)));
                lines.collect()
            }
            Step::Peers(id) => peers(cluster.raft(node(*id))),
            Step::Network => {
                let lines: Vec<_> = cluster.network.iter().map(ToString::to_string).collect();
                lines.join("\n")
            }
            _ => unreachable!("handled before"),
        }
    }

    fn make_cluster(&mut self, step: &Step) {
        let Step::Cluster {
            nodes,
            learners,
            spares,
            leader,
            entries_max,
            window,
            window_bytes,
            uncommitted_bytes,
            reads,
            chunk,
            parts,
            pre_vote,
            check_quorum,
            quorum_grace,
            append_interval,
            repeat_bytes,
        } = step
        else {
            unreachable!("it is one")
        };
        let bootstrap = Configuration {
            voters: (1..=nodes - learners).map(node).collect(),
            learners: (nodes - learners + 1..=*nodes).map(node).collect(),
            ..Configuration::default()
        };
        for id in (1..=nodes + spares).map(node) {
            let mut config = Config::new(id);
            // Times that are easy to read in a transcript.
            config.election_timeout_min = Duration::from_millis(500);
            config.election_timeout_max = Duration::from_secs(1);
            let set = |field: &mut usize, value: &Option<usize>| {
                *field = value.unwrap_or(*field);
            };
            set(&mut config.append_entries_max, entries_max);
            set(&mut config.inflight_messages_max, window);
            set(&mut config.inflight_bytes_max, window_bytes);
            set(&mut config.uncommitted_bytes_max, uncommitted_bytes);
            set(&mut config.reads_max, reads);
            set(&mut config.snapshot_chunk_bytes_max, chunk);
            config.snapshot_inflight_bytes_max =
                parts.unwrap_or(2) * config.snapshot_chunk_bytes_max;
            config.pre_vote = pre_vote.unwrap_or(true);
            config.check_quorum = check_quorum.unwrap_or(true);
            config.quorum_grace = Duration::from_millis(quorum_grace.unwrap_or(0));
            config.append_interval = Duration::from_millis(append_interval.unwrap_or(0));
            config.repeat_bytes_max = repeat_bytes.unwrap_or(0);
            let known =
                if id.get() > *nodes { Configuration::default() } else { bootstrap.clone() };
            self.cluster.add(config, known);
        }
        if let Some(leader) = leader.map(node) {
            self.cluster.input(leader, Raft::campaign);
            self.cluster.settle();
            // A heartbeat tells the others that the no-op is committed.
            self.cluster.pass(leader, Duration::from_millis(50));
            self.cluster.settle();
        }
    }

    fn compact(&mut self, id: NodeId, keep: u64) -> String {
        let applied = self.cluster.raft(id).applied();
        let snapshot = self.cluster.fresh_id();
        let host = self.cluster.hosts.get_mut(&id).expect("a known node");
        let meta = host.compact(snapshot, LogIndex(applied.0.saturating_sub(keep)));
        self.cluster.turn(id);
        let at = meta.position;
        let first = self.cluster.raft(id).first_index();
        format!(
            "{id} snapshot at {}@{} {}, log from {first}\n",
            at.index, at.term, meta.configuration
        )
    }

    fn cut(&mut self, side: &BTreeSet<NodeId>) {
        let ids: Vec<_> = self.cluster.hosts.keys().copied().collect();
        for &a in &ids {
            for &b in &ids {
                if side.contains(&a) != side.contains(&b) {
                    self.cluster.cut.insert((a, b));
                }
            }
        }
    }
}

fn entry(text: &str) -> Entry {
    let (index, term) = text.split_once('@').expect("index@term");
    let number = |text: &str| text.parse().expect("a number");
    Entry {
        term: Term(number(term)),
        index: LogIndex(number(index)),
        kind: EntryKind::Command,
        data: Bytes::new(),
    }
}

fn node(id: u64) -> NodeId {
    NodeId::of(id)
}

fn nodes(list: &str) -> BTreeSet<NodeId> {
    let ids = list.split_whitespace();
    ids.map(|id| node(id.parse().expect("a node id"))).collect()
}

fn or_all(cluster: &Cluster, ids: &[u64]) -> Vec<NodeId> {
    if ids.is_empty() { cluster.up() } else { ids.iter().copied().map(node).collect() }
}

fn refusal(id: u64, refused: Option<sampan_raft::Refused>) -> String {
    refused.map(|refused| format!("n{id} refuses: {refused}\n")).unwrap_or_default()
}

fn status(raft: &Raft) -> String {
    let status = raft.status();
    let id_or_none = |id: Option<NodeId>| id.map_or("nobody".to_owned(), |id| id.to_string());
    format!(
        "{}@{} {} leader={} vote={} commit={} applied={} log={}..{} durable={} {}\n",
        status.id,
        status.term,
        status.role,
        id_or_none(status.leader),
        id_or_none(status.vote),
        status.commit,
        status.applied,
        status.first_index,
        status.last_index,
        status.durable_index,
        status.configuration,
    )
}

fn log(raft: &Raft) -> String {
    let entries = raft.entries(LogIndex(0), raft.last_index().next());
    let entries: Vec<_> = entries.iter().map(entry_text).collect();
    format!("{} log [{}]\n", raft.id(), entries.join(", "))
}

fn peers(raft: &Raft) -> String {
    let mut out = String::new();
    for peer in raft.status().peers {
        let state = match peer.state {
            PeerState::Probe => "probe".into(),
            PeerState::Replicate => "replicate".into(),
            PeerState::Snapshot { id, acked_bytes, .. } => {
                format!("snapshot #{:x} {acked_bytes}B", id.0)
            }
        };
        let (matched, next, inflight) = (peer.matched, peer.next, peer.inflight_messages);
        let _ =
            writeln!(out, "{}: {state} match={matched} next={next} inflight={inflight}", peer.id);
    }
    out
}

// ------------------------------------------------------------------------------------ tests

fn scripts_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

fn run(name: &str) {
    let mut cluster = Cluster::new(7);
    cluster.trace = true;
    let path = scripts_dir().join(name);
    goldenscript::run(&mut Transcript { cluster }, &path).expect("the transcript");
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
    };
}

include!("support/scripts.rs");

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its own files")]
fn every_script_is_run_and_says_what_it_shows() {
    let files = std::fs::read_dir(scripts_dir()).expect("the folder");
    let files: BTreeSet<String> = files
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    let listed: BTreeSet<String> = SCRIPTS.iter().map(ToString::to_string).collect();
    assert_eq!(files, listed, "scripts on disk, and those listed in tests/support/scripts.rs");
    for name in files {
        let text =
            String::from_utf8(std::fs::read(scripts_dir().join(&name)).expect("it")).expect("it");
        let first = text.lines().next().unwrap_or_default();
        let cites = ["aper", "hesis", "ule"].iter().any(|word| first.contains(word));
        assert!(first.starts_with("# ") && cites, "{name} begins with a sentence and its source");
        assert!(text.lines().count() <= 90, "{name} is too long to read");
    }
}
