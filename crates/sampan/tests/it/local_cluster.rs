//! `sampan cluster`, the first of the README's two commands: starts fast, mends itself, comes back
//! with its data, and leaves nothing behind, however it ends.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sampan_resp::Value;

use crate::harness::{Connection, Process, TempDir, free_ports, run, sampan, within};

/// A running `sampan cluster`, and the lines it prints.
struct Running {
    process: Process,
    lines: Receiver<String>,
    dir: PathBuf,
    /// The nodes' processes by their table, in order.
    pids: Vec<Pid>,
    table: String,
    /// The node whose role is "leader".
    leader: usize,
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = sampan(["cluster", "--dir"]);
    command.arg(dir).args(more);
    command
}

impl Running {
    /// Starts one and reads its table.
    fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_heard(dir, more, Stdio::inherit())
    }

    /// The same with somewhere for what it says on standard error.
    fn start_heard(dir: &Path, more: &[&str], stderr: Stdio) -> Self {
        let mut command = command(dir, more);
        let child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut process = Process(child);
        let stdout = BufReader::new(process.0.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut running = Self {
            process,
            lines,
            dir: dir.into(),
            pids: Vec::new(),
            table: String::new(),
            leader: 0,
        };
        running.read_table();
        running
    }

    fn read_table(&mut self) {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, _, _, role @ ("leader" | "follower"), pid] = words[..] {
                self.pids.push(Pid::from_raw(pid.parse().unwrap()).unwrap());
                if role == "leader" {
                    assert_eq!(self.leader, 0, "one leader");
                    self.leader = self.pids.len();
                }
            }
            self.table.push_str(&line);
            self.table.push('\n');
            if line.starts_with("Stop:") {
                return;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(15)).expect("another line")
    }

    /// Waits for all nodes' processes to be gone.
    fn assert_nodes_gone(&self) {
        for &pid in &self.pids {
            within(Duration::from_secs(15), &format!("the end of node process {pid:?}"), || {
                (!is_running(pid)).then_some(())
            });
        }
    }
}

impl Drop for Running {
    /// Nodes that outlived a failed test, if their ids are still theirs.
    fn drop(&mut self) {
        let dir = self.dir.to_string_lossy();
        for &pid in &self.pids {
            let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            let command = String::from_utf8_lossy(&command.unwrap_or_default()).into_owned();
            if std::thread::panicking() && command.contains(&*dir) {
                // It has just ended by itself.
                _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Is there such a process, and not just its unburied rest?
fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    match stat {
        Ok(stat) => !stat.contains(") Z "),
        Err(_) => test_kill_process(pid).is_ok() && !Path::new("/proc/self").exists(),
    }
}

fn port_args(port: u16) -> [String; 2] {
    ["--port".to_owned(), port.to_string()]
}

#[test]
fn a_local_cluster_starts_answers_on_every_port_and_comes_back_with_its_data() {
    let dir = TempDir::new("local");
    let dir = dir.path().join("data");
    let port = free_ports(3);
    let [flag, value] = port_args(port);
    let begun = Instant::now();
    let mut first = Running::start(&dir, &[&flag, &value]);
    println!("a table after {} ms", begun.elapsed().as_millis());
    assert_eq!(first.pids.len(), 3);
    assert_ne!(first.leader, 0, "{}", first.table);
    assert!(first.table.contains(&format!("redis-cli -p {port} set greeting hello")));
    for port in port..port + 3 {
        let mut connection = Connection::open(port).unwrap();
        assert_eq!(connection.call(&["SET", "greeting", "hello"]), Value::OK);
    }
    let taken = run(&mut command(&dir, &[]), b"");
    taken.assert_one_error(7, &["is running already", &first.process.pid().to_string()]);
    first.process.signal(Signal::INT);
    assert_eq!(first.process.wait(Duration::from_secs(15)).code(), Some(0));
    first.assert_nodes_gone();

    let nodes = run(&mut command(&dir, &["--nodes", "5"]), b"");
    nodes.assert_one_error(2, &["holds a cluster of 3"]);
    // The port is remembered.
    let mut second = Running::start(&dir, &[]);
    assert_eq!(
        Connection::open(port).unwrap().call(&["GET", "greeting"]),
        Value::Bulk("hello".into())
    );
    second.process.signal(Signal::TERM);
    assert_eq!(second.process.wait(Duration::from_secs(15)).code(), Some(0));
    second.assert_nodes_gone();
}

#[test]
fn a_node_that_dies_is_started_again_and_nothing_outlives_a_killed_supervisor() {
    let dir = TempDir::new("local-kill");
    let [flag, value] = port_args(free_ports(3));
    let mut cluster =
        Running::start(dir.path(), &[&flag, &value, "--", "--client-timeout-ms", "4321"]);
    let place = cluster.leader;
    kill_process(cluster.pids[place - 1], Signal::KILL).unwrap();
    let prefix = format!("n{place} runs again (pid ");
    let (mut runs_again, mut has_leader) = (false, false);
    while !(runs_again && has_leader) {
        let line = cluster.line();
        has_leader |= line.contains(" leads (term ");
        if let Some(pid) = line.strip_prefix(&prefix) {
            let pid = pid.trim_end_matches(')').parse().unwrap();
            cluster.pids[place - 1] = Pid::from_raw(pid).unwrap();
            runs_again = true;
        }
    }
    let log = std::fs::read_to_string(dir.path().join(format!("node{place}/log"))).unwrap();
    assert!(!log.is_empty());
    cluster.process.signal(Signal::KILL);
    cluster.assert_nodes_gone();
}

#[test]
fn a_file_of_settings_is_above_what_a_local_cluster_has_as_a_default() {
    let dir = TempDir::new("local-file");
    let file = dir.path().join("sampan.toml");
    // More often than half of 150 ms would do.
    std::fs::write(&file, "election-timeout-ms = 400\nheartbeat-ms = 200\n").unwrap();
    let [flag, value] = port_args(free_ports(3));
    let more: [&str; 5] = [&flag, &value, "--", "--config", file.to_str().unwrap()];
    let mut cluster = Running::start(&dir.path().join("data"), &more);
    cluster.process.signal(Signal::INT);
    assert_eq!(cluster.process.wait(Duration::from_secs(15)).code(), Some(0));
    cluster.assert_nodes_gone();
}

/// Leaves a cluster of three that has had a leader.
fn start_and_stop(dir: &Path) {
    let [flag, value] = port_args(free_ports(3));
    let mut cluster = Running::start(dir, &[&flag, &value]);
    cluster.process.signal(Signal::INT);
    assert_eq!(cluster.process.wait(Duration::from_secs(15)).code(), Some(0));
}

/// Nobody knows any more what this node has promised.
fn damage_hard_state(dir: &Path, id: u64) {
    for copy in ["hard_state.a", "hard_state.b"] {
        let file = dir.join(format!("node{id}/data/{copy}"));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[50] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
}

#[test]
fn a_node_that_refuses_its_directory_at_the_start_does_not_keep_a_majority_from_it() {
    let temporary = TempDir::new("local-damage");
    let dir = temporary.path().join("data");
    start_and_stop(&dir);
    damage_hard_state(&dir, 2);
    let said = temporary.path().join("said");
    let mut second = Running::start_heard(&dir, &[], File::create(&said).unwrap().into());
    assert_eq!(second.pids.len(), 2, "{}", second.table);
    assert!(second.table.contains(" refused "), "{}", second.table);
    second.process.signal(Signal::INT);
    assert_eq!(second.process.wait(Duration::from_secs(15)).code(), Some(0));
    let said = std::fs::read_to_string(said).unwrap();
    assert_eq!(said.matches("hard state is damaged").count(), 1, "{said}");
    assert!(said.contains("start with an empty one while all other nodes are up"), "{said}");
    assert!(said.contains("; it is not started again, 2 go on\n"), "{said}");

    damage_hard_state(&dir, 3);
    let ended = run(&mut command(&dir, &[]), b"");
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(ended.stderr.matches("hard state is damaged").count(), 2, "{ended:?}");
}

#[test]
fn nodes_that_wait_for_one_that_refuses_its_directory_are_not_left_waiting() {
    let temporary = TempDir::new("local-waiting");
    let dir = temporary.path().join("cluster");
    start_and_stop(&dir);
    damage_hard_state(&dir, 2);
    // A new one waits for all.
    std::fs::remove_dir_all(dir.join("node3/data")).unwrap();
    let ended = run(&mut command(&dir, &[]), b"");
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.stderr.contains("sampan: no leader without it: n2: "), "{ended:?}");
}

#[test]
fn a_cluster_whose_port_is_taken_says_so_and_leaves_nothing_behind() {
    let dir = TempDir::new("local-port");
    let port = free_ports(3);
    let taken = std::net::TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let [flag, value] = port_args(port);
    let ended = run(&mut command(dir.path(), &[&flag, &value]), b"");
    let words = ["n2", &format!("127.0.0.1:{}", port + 1), "in use", "want another --port"];
    ended.assert_one_error(3, &words);
    drop(taken);
    for port in port..port + 3 {
        within(Duration::from_secs(5), "free ports", || {
            std::net::TcpListener::bind(("127.0.0.1", port)).ok()
        });
    }
}
