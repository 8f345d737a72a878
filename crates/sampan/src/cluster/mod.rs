//! `sampan cluster`: a cluster on this machine, each node a process of its own.
//!
//! The nodes are this program as `sampan server`, looked after by a thread each (`node.rs`); what
//! the directory remembers is in `layout.rs`; here is what a person sees, and the end of it all.

pub(crate) mod layout;
mod node;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use layout::{DirLock, Layout};
use node::{Event, Node, NodeSpec};
use sampan_bench::Signals;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::exit::{self, DATA_DAMAGED, DISK_FAILED, Ended, Failure, PORT_IN_USE, cannot_start};
use crate::probe::{self, Fields};
use crate::supervision::STOP_TIME_MAX;
use crate::terminal::{complain, say};

/// How often nodes are asked whether there is a leader, while there is none.
const LEADER_POLL_TIME: Duration = Duration::from_millis(20);
/// How long a node may take to say so.
const PROBE_TIME: Duration = Duration::from_millis(500);
/// How long no leader goes unremarked.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// So long after the start the table waits no more for a node that has not answered.
const STARTING_PATIENCE: Duration = Duration::from_secs(5);
/// How often stopping nodes are looked at.
const STOP_POLL_TIME: Duration = Duration::from_millis(10);

/// Runs a cluster on this machine until Ctrl-C; its data are taken up again at the next start
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    /// How many nodes [default: 3, or as many as DIR holds]
    #[arg(long, value_name = "N")]
    nodes: Option<u64>,
    /// Where the data and the nodes' logs are
    #[arg(long, value_name = "DIR", default_value = "./sampan-data")]
    dir: PathBuf,
    /// Client port of the first node, the others follow; peers 10000 above [default: 7001, or as
    /// the last time]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Flags for every node, as of `sampan server`
    #[arg(last = true, value_name = "SERVER FLAGS")]
    server_flags: Vec<OsString>,
}

/// Runs a cluster until a signal ends it, or no node is left.
pub(crate) fn run(args: &ClusterArgs) -> Ended {
    let _lock = DirLock::take(&args.dir)?;
    let layout = Layout::settle(&args.dir, args.nodes, args.port)?;
    exit::block_on(async {
        let stop = Signals::listen().map_err(|error| cannot_start(&error))?;
        let program = std::env::current_exe().map_err(|error| cannot_start(&error))?;
        let (events, seen) = unbounded_channel();
        let started = Instant::now();
        let nodes = layout
            .ids()
            .map(|id| {
                let flags = &args.server_flags;
                let spec = NodeSpec::new(&program, &args.dir, &layout, id, flags);
                Ok((id, Node::start(spec, events.clone())?))
            })
            // Nodes that run already end with this process.
            .collect::<io::Result<_>>()
            .map_err(|error| cannot_start(&error))?;
        drop(events);
        let pids = BTreeMap::new();
        let view = View { args, layout, started, pids, leader: None, shown: false };
        let leaderless = Some(Leaderless::since(started));
        Cluster { nodes, seen, stop, view, leaderless, refusal: None }.run().await
    })
}

/// The nodes, and what is heard of them.
struct Cluster<'a> {
    nodes: BTreeMap<u64, Node>,
    seen: UnboundedReceiver<Event>,
    stop: Signals,
    view: View<'a>,
    leaderless: Option<Leaderless>,
    /// Why a node did not start, before there was a cluster.
    refusal: Option<Failure>,
}

impl Cluster<'_> {
    async fn run(mut self) -> Ended {
        loop {
            tokio::select! {
                () = self.stop.next() => {
                    self.stop_all().await;
                    return Ok(ExitCode::SUCCESS);
                }
                event = self.seen.recv() => {
                    // The nodes' threads have all ended only after the last `Ended`.
                    let Some(event) = event else { return Ok(ExitCode::SUCCESS) };
                    if let Some(failure) = self.take(event) {
                        self.stop_all().await;
                        return Err(failure);
                    }
                }
                () = tokio::time::sleep(LEADER_POLL_TIME), if self.leaderless.is_some() => {
                    self.look_for_leader().await;
                    if let Some(failure) = self.take_lasting_refusal() {
                        self.stop_all().await;
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Takes one event; a failure is the end.
    fn take(&mut self, event: Event) -> Option<Failure> {
        match event {
            Event::Started { id, pid } => self.view.started(id, pid),
            Event::Warning { id, line } => complain(format_args!("n{id} | {line}")),
            Event::Died { id, end, again_in } => {
                complain(format_args!(
                    "n{id} died ({end}); started again in {} ms",
                    again_in.as_millis()
                ));
                self.view.pids.remove(&id);
                self.may_lack_leader();
            }
            Event::Ended { id, end } => {
                self.nodes.remove(&id);
                self.view.pids.remove(&id);
                let code = end.code.unwrap_or(1);
                // A node knows nothing of the flag that its port comes from.
                let advice = if code == PORT_IN_USE { ": want another --port" } else { "" };
                let failure = Failure::new(code, format!("n{id}: {end}{advice}"));
                if !self.may_go_on_without(code) {
                    return Some(failure);
                }
                complain(format_args!(
                    "{failure}; it is not started again, {} go on",
                    self.nodes.len()
                ));
                self.refusal = Some(failure).filter(|_| !self.view.shown);
                self.may_lack_leader();
            }
        }
        None
    }

    /// Do the others go on without a node that ended so? Before there was a cluster, a node that
    /// cannot start is a wrong request, unless it is its disk that is at fault, and the others are
    /// a majority.
    fn may_go_on_without(&self, code: u8) -> bool {
        let is_of_disk = matches!(code, DATA_DAMAGED | DISK_FAILED);
        let is_majority = 2 * self.nodes.len() > self.view.layout.ids().count();
        !self.nodes.is_empty() && (self.view.shown || is_of_disk && is_majority)
    }

    /// Why there is no cluster, if a node did not start and the others do not come to a leader:
    /// some of them may be new, and wait for all.
    fn take_lasting_refusal(&mut self) -> Option<Failure> {
        let is_late = self.view.started.elapsed() > STARTING_PATIENCE;
        let failure = self.refusal.take_if(|_| is_late && !self.view.shown)?;
        Some(Failure { text: format!("no leader without it: {}", failure.text), ..failure })
    }

    /// Since when there may be no leader: since now, unless it is known to be missing for longer.
    fn may_lack_leader(&mut self) -> &mut Leaderless {
        self.leaderless.get_or_insert_with(|| Leaderless::since(Instant::now()))
    }

    /// Asks the nodes for their roles, and shows them once one of them leads and all have answered.
    async fn look_for_leader(&mut self) {
        let mut roles = BTreeMap::new();
        for id in self.view.layout.ids() {
            let address = self.view.layout.address(id);
            if !self.nodes.contains_key(&id) {
                roles.insert(id, Role { name: "refused".to_owned(), term: 0 });
            } else if let Ok(fields) = probe::info(&address, "raft", PROBE_TIME).await {
                roles.insert(id, Role::of(&fields));
            }
        }
        let is_awaited = !self.view.shown && roles.len() < self.view.layout.ids().count();
        let leaderless = self.may_lack_leader();
        let (now, time) = (Instant::now(), leaderless.since.elapsed());
        // A leader that was deposed and does not know it yet is of an older term.
        let leaders = roles.iter().filter(|(_, role)| role.name == "leader");
        let leader = leaders.max_by_key(|(_, role)| role.term).map(|(&id, role)| (id, role.term));
        match leader {
            Some(leader) if !is_awaited || time > STARTING_PATIENCE => {
                self.leaderless = None;
                self.view.leads(leader, &roles, time);
            }
            None if leaderless.is_to_be_said(now) => {
                complain(format_args!("no leader for {} s: see the nodes' logs", time.as_secs()));
            }
            _ => {}
        }
    }

    /// Asks all nodes to stop; after a while, or at a second signal, makes them.
    async fn stop_all(&mut self) {
        say(format_args!("stopping {} nodes", self.nodes.len()));
        self.nodes.values().for_each(Node::ask_to_stop);
        let deadline = Instant::now() + STOP_TIME_MAX;
        while !self.nodes.values().all(Node::has_ended) {
            let impatient = tokio::select! {
                () = self.stop.next() => true,
                () = tokio::time::sleep(STOP_POLL_TIME) => Instant::now() >= deadline,
            };
            if impatient {
                self.nodes.values().for_each(Node::kill);
            }
        }
    }
}

/// A time without a leader, as far as is known.
struct Leaderless {
    since: Instant,
    /// When the user hears of it, again.
    said_at: Instant,
}

impl Leaderless {
    fn since(since: Instant) -> Self {
        Self { since, said_at: since + LEADER_PATIENCE }
    }

    /// Once in each [`LEADER_PATIENCE`].
    fn is_to_be_said(&mut self, now: Instant) -> bool {
        let is_due = now > self.said_at;
        if is_due {
            self.said_at = now + LEADER_PATIENCE;
        }
        is_due
    }
}

/// What a node says of its part.
struct Role {
    name: String,
    term: u64,
}

impl Role {
    fn of(fields: &Fields) -> Self {
        let term = fields.get("term").and_then(|term| term.parse().ok());
        let name = fields.get("raft_role").cloned().unwrap_or_default();
        Self { name, term: term.unwrap_or_default() }
    }
}

/// What is shown to a person.
struct View<'a> {
    args: &'a ClusterArgs,
    layout: Layout,
    started: Instant,
    pids: BTreeMap<u64, u32>,
    /// The last leader shown, and its term.
    leader: Option<(u64, u64)>,
    shown: bool,
}

impl View<'_> {
    fn started(&mut self, id: u64, pid: u32) {
        self.pids.insert(id, pid);
        if self.shown {
            say(format_args!("n{id} runs again (pid {pid})"));
        }
    }

    fn leads(&mut self, leader: (u64, u64), roles: &BTreeMap<u64, Role>, after: Duration) {
        let (id, term) = leader;
        if !self.shown {
            self.shown = true;
            say(self.table(roles));
        } else if self.leader != Some(leader) {
            say(format_args!("n{id} leads (term {term}), {} ms later", after.as_millis()));
        }
        self.leader = Some(leader);
    }

    /// The first thing a user sees.
    fn table(&self, roles: &BTreeMap<u64, Role>) -> String {
        use std::fmt::Write as _;
        let Self { layout, args, .. } = self;
        let mut text = format!(
            "Sampan cluster {} in {}: a leader after {} ms\n\n  {:<6}{:<18}{:<18}{:<11}process\n",
            layout.cluster_id,
            args.dir.display(),
            self.started.elapsed().as_millis(),
            "node",
            "clients",
            "peers",
            "role"
        );
        for id in layout.ids() {
            let role = roles.get(&id).map_or("starting", |role| &role.name);
            let pid = self.pids.get(&id).map_or("-".to_owned(), u32::to_string);
            // Writing to a string does not fail.
            _ = writeln!(
                text,
                "  {:<6}{:<18}{:<18}{role:<11}{pid}",
                format!("n{id}"),
                layout.address(id),
                layout.peer_address(id)
            );
        }
        let servers: Vec<String> = layout.ids().map(|id| layout.address(id)).collect();
        _ = write!(
            text,
            "\nTry:   redis-cli -p {} set greeting hello\n       sampan status --servers {}\n\
             Logs:  {}/node*/log\nStop:  Ctrl-C\n\n",
            layout.port,
            servers.join(","),
            args.dir.display()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_leader_is_told_again_and_again_and_counts_from_its_begin() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut leaderless = Leaderless::since(begin);
        let said: Vec<u64> = (0..20).filter(|&s| leaderless.is_to_be_said(at(s))).collect();
        assert_eq!(said, [6, 12, 18]);
        assert_eq!(leaderless.since, begin);
    }
}
