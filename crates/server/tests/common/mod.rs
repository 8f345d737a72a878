//! Nodes in this process, on ports of their own and real directories, and a plain client.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used)] // a test's helper fails as a test does

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sampan_base::{ClusterId, NodeId};
use sampan_server::{Config, HostPort, Listeners, ServerError, Stop, Stopper, serve, stopper};

/// Nothing that is waited for takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory beneath the build's target directory, removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("server-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration on free ports, with small time-outs and log files.
pub(crate) fn config(id: u64, dir: &Path) -> Config {
    let listen = HostPort::new("127.0.0.1", 0);
    let node = NodeId::of(id);
    let mut config = Config::new(ClusterId(1), node, listen, dir.join(format!("n{id}"))).unwrap();
    config.is_quiet = true;
    config.replica.raft.election_timeout_min = Duration::from_millis(300);
    config.replica.raft.election_timeout_max = Duration::from_millis(600);
    config.replica.storage.segment_bytes = 4 << 20;
    config.replica.storage.entry_bytes_max = 2 << 20;
    config.replica.kv.command_bytes_max = 3 << 19;
    config
}

/// A running node.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) port: u16,
    pub(crate) peer_port: u16,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Node {
    /// Starts a node on its configured ports.
    pub(crate) fn start(config: Config) -> Self {
        let listeners = Listeners::bind(&config).unwrap();
        Self::start_on(config, listeners)
    }

    pub(crate) fn start_on(mut config: Config, listeners: Listeners) -> Self {
        let port = listeners.client_address().unwrap().port();
        let peer_port = listeners.peer_address().unwrap().port();
        // So that it comes back at the same place.
        (config.listen.port, config.listen_peer.port) = (port, peer_port);
        let (stopper, requests) = stopper();
        let served = config.clone();
        let thread = std::thread::spawn(move || serve(served, listeners, requests));
        Self { config, port, peer_port, stopper, thread: Some(thread) }
    }

    /// Stops it and returns how it ended.
    pub(crate) fn stop(mut self, stop: Stop) -> (Config, Result<(), ServerError>) {
        self.stopper.stop(stop);
        let ended = self.thread.take().unwrap().join().unwrap();
        (self.config.clone(), ended)
    }

    /// How it ends by itself.
    pub(crate) fn end(mut self) -> Result<(), ServerError> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.port)
    }

    /// `INFO raft` as a map.
    pub(crate) fn raft(&self) -> BTreeMap<String, String> {
        self.connect().info("raft")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stopper.stop(Stop::AtOnce);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// One node that leads itself.
pub(crate) fn single(dir: &Path, change: impl FnOnce(&mut Config)) -> Node {
    let mut config = config(1, dir);
    change(&mut config);
    let node = Node::start(config);
    // The first answer shows that it leads.
    until("it leads", || node.connect().call("GET nothing").starts_with('$'));
    node
}

/// Nodes 1..=count that know each other.
pub(crate) fn cluster(dir: &Path, count: u64, change: impl Fn(&mut Config)) -> Vec<Node> {
    let bound: Vec<_> = (1..=count)
        .map(|id| {
            let mut config = config(id, dir);
            change(&mut config);
            let listeners = Listeners::bind(&config).unwrap();
            (config, listeners)
        })
        .collect();
    let addresses: BTreeMap<NodeId, HostPort> = bound
        .iter()
        .map(|(config, listeners)| {
            let port = listeners.peer_address().unwrap().port();
            (config.node, HostPort::new("127.0.0.1", port))
        })
        .collect();
    let start = |(mut config, listeners): (Config, Listeners)| {
        config.peers = addresses.clone();
        config.peers.remove(&config.node);
        Node::start_on(config, listeners)
    };
    bound.into_iter().map(start).collect()
}

/// Waits until something is so; panics if that takes too long.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client that sees bytes.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, received: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends one command and returns its whole reply, as text.
    pub(crate) fn call(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    /// Sends one command of binary arguments and returns its reply.
    pub(crate) fn call_args(&mut self, args: &[&[u8]]) -> String {
        self.send(command(args));
        self.reply()
    }

    /// The next whole reply, as text.
    pub(crate) fn reply(&mut self) -> String {
        String::from_utf8(self.reply_bytes()).unwrap()
    }

    /// The next whole reply, of any bytes.
    pub(crate) fn reply_bytes(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = reply_end(&self.received, 0) {
                return self.received.drain(..end).collect();
            }
            let mut chunk = [0; 16 << 10];
            let count = self.socket.read(&mut chunk).expect("a reply in time");
            let so_far = String::from_utf8_lossy(&self.received);
            assert!(count > 0, "closed after {:?}", &so_far[..so_far.len().min(200)]);
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.received);
        self.socket.read_to_end(&mut rest).expect("the end of the connection");
        String::from_utf8(rest).unwrap()
    }

    /// Is the connection closed, or about to be?
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Stores values, and takes them away in one pipeline of commands that answer with the value
    /// they change.
    pub(crate) fn take_values_away(&mut self, count: usize, value_bytes: usize) {
        let value = vec![b'v'; value_bytes];
        for i in 0..count {
            let key = format!("k{i}");
            assert_eq!(self.call_args(&[b"SET", key.as_bytes(), &value]), "+OK\r\n");
        }
        let asked = (0..count).map(|i| match i % 3 {
            0 => format!("GETDEL k{i}\r\n"),
            1 => format!("SET k{i} new GET\r\n"),
            _ => format!("GETSET k{i} new\r\n"),
        });
        self.send(asked.collect::<String>());
        let head = format!("${value_bytes}\r\n");
        for i in 0..count {
            let reply = self.reply_bytes();
            assert!(reply.starts_with(head.as_bytes()), "{i}: {}", reply.escape_ascii());
        }
    }

    /// A section of `INFO` as a map.
    pub(crate) fn info(&mut self, section: &str) -> BTreeMap<String, String> {
        let text = self.call(&format!("INFO {section}"));
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// Compares long texts line by line; a failure shows the place and no more.
pub(crate) fn assert_same(actual: &str, expected: &str) {
    for (place, (actual, expected)) in actual.lines().zip(expected.lines()).enumerate() {
        assert_eq!(actual, expected, "in line {place}");
    }
    assert_eq!(actual.len(), expected.len(), "one ends before the other");
}

/// A command as clients send it.
pub(crate) fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Where the reply that starts at `start` ends, if it is whole.
fn reply_end(bytes: &[u8], start: usize) -> Option<usize> {
    let line_len = bytes.get(start..)?.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[start..start + line_len];
    let after = start + line_len + 2;
    let count = || std::str::from_utf8(&line[1..]).unwrap().parse::<i64>().unwrap();
    let items = |count: i64| (0..count.max(0)).try_fold(after, |at, _| reply_end(bytes, at));
    match line[0] {
        b'$' | b'=' if count() >= 0 => {
            let end = after + count() as usize + 2;
            (end <= bytes.len()).then_some(end)
        }
        b'*' | b'~' | b'>' => items(count()),
        b'%' => items(2 * count()),
        _ => Some(after),
    }
}
