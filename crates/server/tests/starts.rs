//! How a node starts, refuses to start, and ends: each with its own exit code and one clear line.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use common::{Node, TempDir, config, single, until};
use sampan_base::{ClusterId, NodeId};
use sampan_server::{Config, HostPort, Listeners, ServerError, Stop, serve, stopper};

fn refused(config: Config) -> ServerError {
    let listeners = match Listeners::bind(&config) {
        Ok(listeners) => listeners,
        Err(error) => return error,
    };
    let (_stopper, requests) = stopper();
    serve(config, listeners, requests).unwrap_err()
}

/// A data directory that holds one key, and the configuration it belongs to.
fn stopped_node(dir: &Path) -> Config {
    let node = single(dir, |_| {});
    assert_eq!(node.connect().call("SET greeting hello"), "+OK\r\n");
    let (config, ended) = node.stop(Stop::Gracefully);
    ended.unwrap();
    config
}

fn newest_segment(config: &Config) -> PathBuf {
    let files = std::fs::read_dir(config.data_dir.join("wal")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

#[test]
fn data_outlive_a_stop_and_a_kill() {
    let dir = TempDir::new();
    let config = stopped_node(dir.path());
    let node = Node::start(config);
    until("it answers", || node.connect().call("GET greeting") == "$5\r\nhello\r\n");
    assert_eq!(node.connect().call("SET greeting again"), "+OK\r\n");
    let (config, ended) = node.stop(Stop::AtOnce);
    ended.unwrap();
    let node = Node::start(config);
    until("it answers", || node.connect().call("GET greeting") == "$5\r\nagain\r\n");
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_and_the_first_lives() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut second = node.config.clone();
    (second.listen.port, second.listen_peer.port) = (0, 0);
    let error = refused(second);
    assert_eq!(error.exit_code(), 7);
    assert!(error.to_string().contains("in use by another process (pid "), "{error}");
    assert_eq!(node.connect().call("SET k v"), "+OK\r\n");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    for peer in [false, true] {
        let mut other = config(2, dir.path());
        let taken = if peer { &mut other.listen_peer } else { &mut other.listen };
        taken.port = if peer { node.peer_port } else { node.port };
        let address = taken.to_string();
        let error = refused(other);
        assert_eq!(error.exit_code(), 3);
        assert_eq!(error.to_string(), format!("address {address} is in use by another process"));
    }
}

#[test]
fn an_address_of_another_machine_is_bad_configuration() {
    let dir = TempDir::new();
    let mut config = config(1, dir.path());
    config.listen = HostPort::new("192.0.2.1", 7001);
    let error = refused(config);
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.starts_with("bad configuration: listen is 192.0.2.1:7001: want an address"),
        "{text}"
    );
}

#[test]
fn data_of_another_cluster_or_node_are_refused_by_name() {
    let dir = TempDir::new();
    let config = stopped_node(dir.path());
    let other_cluster = Config { cluster: ClusterId(2), ..config.clone() };
    let error = refused(other_cluster);
    assert_eq!(error.exit_code(), 4);
    let text = error.to_string();
    assert!(
        text.ends_with("belongs to cluster 0000000000000001, not to 0000000000000002"),
        "{text}"
    );

    let mut other_node = Config { node: NodeId::of(2), ..config.clone() };
    other_node.replica.raft.id = NodeId::of(2);
    let error = refused(other_node);
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().ends_with("belongs to node n1, not to n2"), "{error}");
    // Neither has changed anything.
    let node = Node::start(config);
    until("it answers", || node.connect().call("GET greeting") == "$5\r\nhello\r\n");
}

#[test]
fn a_damaged_log_is_refused_and_named() {
    let dir = TempDir::new();
    let config = stopped_node(dir.path());
    let segment = newest_segment(&config);
    let mut bytes = std::fs::read(&segment).unwrap();
    let place = bytes.windows(8).position(|bytes| bytes == b"greeting").expect("the key is there");
    bytes[place] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let error = refused(config);
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("the log is damaged: wal/"), "{error}");
}

#[test]
fn a_data_directory_that_cannot_be_is_a_bad_setting() {
    let dir = TempDir::new();
    let mut config = config(1, dir.path());
    std::fs::write(dir.path().join("file"), b"").unwrap();
    config.data_dir = dir.path().join("file/data");
    let error = refused(config);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("bad configuration: data_dir is "), "{error}");
}

#[test]
fn a_bad_setting_is_refused_before_anything_is_touched() {
    let dir = TempDir::new();
    let mut config = config(1, dir.path());
    config.limits.clients_max = 0;
    let error = refused(config.clone());
    assert_eq!(error.exit_code(), 2);
    assert_eq!(error.to_string(), "bad configuration: clients_max is 0: want at least 1");
    assert!(!config.data_dir.exists());
}

#[test]
fn a_disk_that_fails_ends_the_node_and_nothing_more_is_said() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    std::fs::remove_dir_all(node.config.data_dir.join("wal")).unwrap();
    // The next segment has no place to be.
    let value = vec![b'v'; 1 << 20];
    // The node may end in the midst of it.
    _ = client.socket.write_all(&common::command(&[b"SET", b"k", &value]).repeat(40));
    let ended = node.end();
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.to_string().starts_with("disk failed: wal/"), "{error}");
    assert!(client.is_closed());
}

/// This test runs itself once more, as a process that panics in a thread.
#[test]
fn a_panic_in_any_thread_ends_the_process_as_a_broken_invariant() {
    const VARIABLE: &str = "SAMPAN_TEST_PANICS";
    if std::env::var_os(VARIABLE).is_some() {
        sampan_server::exit_on_panic();
        _ = std::thread::spawn(|| panic!("a bug")).join();
        return;
    }
    let name = "a_panic_in_any_thread_ends_the_process_as_a_broken_invariant";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&child.stderr).contains("a bug"));
}

/// This test runs itself once more, as a process that may open few files.
#[test]
fn a_quiet_node_does_not_warn_of_few_open_files() {
    const VARIABLE: &str = "SAMPAN_TEST_IS_QUIET";
    if std::env::var_os(VARIABLE).is_some() {
        let dir = TempDir::new();
        let mut config = config(1, dir.path());
        // It warns before it comes to this.
        std::fs::write(dir.path().join("file"), b"").unwrap();
        config.data_dir = dir.path().join("file/data");
        assert_eq!(sampan_server::run(config).unwrap_err().exit_code(), 2);
        return;
    }
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 600 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_quiet_node_does_not_warn_of_few_open_files", "--nocapture"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(!said.contains("clients at most"), "{said}");
}
