//! A cluster of `sampan server` processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use sampan_client::Clerk;
use sampan_resp::Value;

use super::links::Links;
use super::process::{Process, TempDir, sampan};
use super::{Connection, free_ports, within};

/// The longest that any test waits for a leader, or for a node to start or stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: u64,
    /// More flags for every node.
    pub(crate) flags: Vec<String>,
    /// A proxy on every link, so that it can be cut.
    pub(crate) proxies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, flags: Vec::new(), proxies: false }
    }
}

impl Options {
    pub(crate) fn flags(mut self, flags: &str) -> Self {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }
}

/// Its processes end, and its directory goes, when it is dropped.
pub(crate) struct Cluster {
    options: Options,
    /// Its id.
    name: String,
    port: u16,
    processes: BTreeMap<u64, Process>,
    paused: Option<u64>,
    links: Links,
    // Last, so that it is dropped last.
    dir: TempDir,
}

impl Cluster {
    /// Three nodes with default settings, and a leader.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, Options::default())
    }

    /// Starts all nodes and waits for a leader.
    pub(crate) fn start_with(name: &str, options: Options) -> Self {
        Self::new(name, options).begun()
    }

    /// The same with data that lie in a directory as `sampan cluster` has them.
    pub(crate) fn start_from(name: &str, cluster_id: &str, dir: &Path) -> Self {
        let mut cluster = Self::new(name, Options::default());
        cluster_id.clone_into(&mut cluster.name);
        for id in cluster.ids() {
            let data = dir.join(format!("node{id}/data"));
            std::fs::rename(data, cluster.data_dir(id)).unwrap();
        }
        cluster.begun()
    }

    fn new(name: &str, options: Options) -> Self {
        let dir = TempDir::new(name);
        let port = free_ports(options.nodes as u16);
        let processes = BTreeMap::new();
        let links = Links::default();
        let id = "5a3b".to_owned();
        let mut cluster = Self { options, name: id, port, processes, paused: None, links, dir };
        if cluster.options.proxies {
            let ports = cluster.ids().map(|id| (id, cluster.peer_port(id))).collect();
            cluster.links = Links::between(&ports);
        }
        cluster
    }

    fn begun(mut self) -> Self {
        self.ids().for_each(|id| self.restart(id));
        self.leader();
        self
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.options.nodes
    }

    pub(crate) fn port(&self, id: u64) -> u16 {
        self.port + id as u16 - 1
    }

    pub(crate) fn peer_port(&self, id: u64) -> u16 {
        self.port(id) + 10_000
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.ids().map(|id| format!("127.0.0.1:{}", self.port(id))).collect()
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node{id}"))
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("log{id}"))
    }

    /// All that a node has logged.
    pub(crate) fn log(&self, id: u64) -> String {
        std::fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// The command that runs a node.
    pub(crate) fn command(&self, id: u64) -> Command {
        self.command_with(id, &[])
    }

    /// The same with other values for some of its flags.
    pub(crate) fn command_with(&self, id: u64, changes: &[(&str, &str)]) -> Command {
        let mut command = sampan(["server"]);
        let mut flag = |name: &str, value: String| {
            let change = changes.iter().find(|(changed, _)| *changed == name);
            command.arg(name).arg(change.map_or(value, |(_, value)| (*value).to_owned()));
        };
        flag("--cluster-id", self.name.clone());
        flag("--node-id", id.to_string());
        flag("--listen", format!("127.0.0.1:{}", self.port(id)));
        flag("--data-dir", self.data_dir(id).display().to_string());
        for peer in self.ids().filter(|&peer| peer != id) {
            let port = self.links.port(id, peer).unwrap_or_else(|| self.peer_port(peer));
            flag("--peer", format!("{peer}=127.0.0.1:{port}"));
        }
        command.args(&self.options.flags);
        command
    }

    /// Starts a node that does not run, and does not wait for it.
    pub(crate) fn restart(&mut self, id: u64) {
        let process = Process::start(&mut self.command(id), &self.log_path(id));
        assert!(self.processes.insert(id, process).is_none(), "n{id} runs already");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: u64) {
        drop(self.processes.remove(&id).expect("a running node"));
    }

    /// `kill -9` for all of them, at once.
    pub(crate) fn kill_all(&mut self) {
        self.processes.values().for_each(|process| process.signal(Signal::KILL));
        self.processes.clear();
    }

    /// SIGTERM, and the wait for the end.
    pub(crate) fn stop(&mut self, id: u64) -> ExitStatus {
        let mut process = self.processes.remove(&id).expect("a running node");
        process.signal(Signal::TERM);
        process.wait(PATIENCE)
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, id: u64) {
        self.processes[&id].signal(Signal::STOP);
        self.paused = Some(id);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, id: u64) {
        self.paused = None;
        self.processes[&id].signal(Signal::CONT);
    }

    /// Cuts a node off from its peers, but not from its clients.
    pub(crate) fn cut_off(&self, id: u64) {
        self.links.set_cut(id, true);
    }

    /// Lets what waited on its links through, and all that follows.
    pub(crate) fn heal(&self, id: u64) {
        self.links.set_cut(id, false);
    }

    /// Waits until a running node says that it leads; of several, the one of the highest term.
    pub(crate) fn leader(&self) -> u64 {
        within(PATIENCE, "a leader", || {
            let leads = |id: &u64| {
                let info = self.try_info(*id, "raft")?;
                let term: u64 = info.get("term")?.parse().ok()?;
                (info.get("raft_role")? == "leader").then_some((term, *id))
            };
            self.processes.keys().filter_map(leads).max().map(|(_, id)| id)
        })
    }

    /// A node that runs and does not lead.
    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader();
        *self.processes.keys().find(|&&id| id != leader).expect("a follower")
    }

    /// Waits until a node serves clients.
    pub(crate) fn wait_for(&self, id: u64) {
        within(PATIENCE, &format!("n{id} serves"), || self.try_info(id, "server"));
    }

    /// A section of a node's INFO.
    #[track_caller]
    pub(crate) fn info(&self, id: u64, section: &str) -> BTreeMap<String, String> {
        self.try_info(id, section).expect("a node that answers")
    }

    pub(crate) fn try_info(&self, id: u64, section: &str) -> Option<BTreeMap<String, String>> {
        if self.paused == Some(id) {
            return None;
        }
        let connection = Connection::open(self.port(id)).ok()?;
        let reply = connection.patience(PATIENCE / 5).try_call(&["INFO", section]).ok()?;
        let text = String::from_utf8(reply.as_bytes()?.to_vec()).ok()?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Some(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// A number from a node's INFO.
    #[track_caller]
    pub(crate) fn number(&self, id: u64, section: &str, field: &str) -> u64 {
        let info = self.info(id, section);
        let value = info.get(field).unwrap_or_else(|| panic!("no {field} in {info:?}"));
        value.parse().unwrap_or_else(|_| panic!("{field} is {value}"))
    }

    /// A connection to one node.
    #[track_caller]
    pub(crate) fn connection(&self, id: u64) -> Connection {
        Connection::open(self.port(id)).unwrap()
    }

    /// A Clerk that knows all nodes and does not give up while a test runs.
    pub(crate) async fn clerk(&self) -> Clerk {
        clerk(self.addresses()).await
    }

    /// The value of a key, linearizably.
    pub(crate) fn get(&self, key: &str) -> String {
        let value = super::block_on(async { self.clerk().await.get(key).await.unwrap() });
        String::from_utf8(value.unwrap_or_default().to_vec()).unwrap()
    }

    /// Can the cluster still be written to and read from, through every running node?
    #[track_caller]
    pub(crate) fn assert_works(&self) {
        for &id in self.processes.keys() {
            let mut connection = self.connection(id);
            let value = format!("written at n{id}");
            assert_eq!(connection.call(&["SET", "works", &value]), Value::OK, "n{id}");
            let read = connection.call(&["GET", "works"]);
            assert_eq!(read.as_bytes(), Some(value.as_bytes()), "n{id}");
        }
    }
}

/// A Clerk with the patience of a test.
pub(crate) async fn clerk(addresses: Vec<String>) -> Clerk {
    let builder = Clerk::builder().addresses(addresses).deadline(2 * PATIENCE);
    builder.connect().await.unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in self.ids() {
                let log = self.log(id);
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(25)..];
                eprintln!("--- the last the log of n{id} says:\n{}", last.join("\n"));
            }
        }
    }
}
