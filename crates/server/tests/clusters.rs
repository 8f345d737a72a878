//! Three nodes in one process, over real sockets and disks.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Client, Node, PATIENCE, TempDir, cluster, until};
use sampan_server::{HostPort, Stop};

/// Three nodes of which one leads and all are connected.
fn three(dir: &TempDir) -> Vec<Node> {
    let nodes = cluster(dir.path(), 3, |_| {});
    leader_of(&nodes);
    for node in &nodes {
        until("all peers are connected", || node.raft()["peers_connected"] == "2");
    }
    nodes
}

/// The place of the leader, once all agree on it.
fn leader_of(nodes: &[Node]) -> usize {
    let mut leader = None;
    until("all nodes agree on a leader", || {
        let infos: Vec<_> = nodes.iter().map(Node::raft).collect();
        let first = infos[0]["leader_id"].clone();
        let agreed = first != "0" && infos.iter().all(|info| info["leader_id"] == first);
        leader = nodes.iter().position(|node| node.config.node.get().to_string() == first);
        agreed && leader.is_some_and(|leader| infos[leader]["raft_role"] == "leader")
    });
    leader.unwrap()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[test]
fn every_node_takes_every_command_in_both_protocols() {
    let dir = TempDir::new();
    let nodes = three(&dir);
    for (i, node) in nodes.iter().enumerate() {
        let mut client = node.connect();
        assert_eq!(client.call(&format!("SET key{i} value{i}")), "+OK\r\n");
        assert_eq!(client.call("INCR count"), format!(":{}\r\n", i + 1));
        client.call("HELLO 3");
        assert_eq!(client.call("GET nothing"), "_\r\n");
        assert_eq!(client.call("INCR key0"), "-ERR value is not an integer or out of range\r\n");
    }
    // What one node has acknowledged, each node reads.
    for node in &nodes {
        let mut client = node.connect();
        let expected = format!("*3\r\n{}{}{}", bulk("value0"), bulk("value1"), bulk("value2"));
        assert_eq!(client.call("MGET key0 key1 key2"), expected);
    }
}

#[test]
fn a_follower_keeps_the_order_of_a_pipeline_that_it_forwards() {
    let dir = TempDir::new();
    let nodes = three(&dir);
    let follower = &nodes[(leader_of(&nodes) + 1) % 3];
    let mut client = follower.connect();
    let requests: Vec<String> =
        (1..=500).map(|i| format!("APPEND log {i},\r\nPING {i}\r\nINCR n\r\nGET n\r\n")).collect();
    client.send(requests.concat());
    client.socket.shutdown(Shutdown::Write).unwrap();
    let (mut expected, mut log) = (Vec::new(), String::new());
    for text in (1..=500).map(|i| i.to_string()) {
        log += &text;
        log.push(',');
        expected.push(format!(":{}\r\n{}:{text}\r\n{}", log.len(), bulk(&text), bulk(&text)));
    }
    common::assert_same(&client.rest(), &expected.concat());
    assert_eq!(nodes[0].connect().call("GET log"), bulk(&log));
}

#[test]
fn large_values_that_are_taken_away_come_over_a_follower_too() {
    let dir = TempDir::new();
    let nodes = three(&dir);
    nodes[(leader_of(&nodes) + 1) % 3].connect().take_values_away(40, 1 << 20);
}

#[test]
fn cluster_slots_names_the_leader_first_on_every_node() {
    let dir = TempDir::new();
    let nodes = three(&dir);
    let leader = &nodes[leader_of(&nodes)];
    let start =
        format!("*1\r\n*5\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{}\r\n", leader.port);
    for node in &nodes {
        let mut client = node.connect();
        let slots = client.call("CLUSTER SLOTS");
        assert!(slots.starts_with(&start), "{slots}");
        for other in &nodes {
            assert!(slots.contains(&format!(":{}\r\n", other.port)), "{slots}");
        }
        let me = client.call("CLUSTER MYID");
        let id = me.lines().nth(1).unwrap().to_owned();
        assert_eq!(id.len(), 40);
        let lines = client.call("CLUSTER NODES");
        let mine = lines.lines().find(|line| line.contains("myself")).unwrap();
        assert!(mine.starts_with(&format!("{id} 127.0.0.1:{}@", node.port)), "{mine}");
        let first = lines.lines().nth(1).unwrap();
        assert!(first.contains(&format!(":{}@", leader.port)), "{lines}");
        assert!(first.ends_with(" connected 0-16383"), "{lines}");
        let shards = client.call("CLUSTER SHARDS");
        assert_eq!(shards.matches("replication-offset").count(), 3, "{shards}");
        assert!(client.call("CLUSTER INFO").contains("cluster_state:ok\r\n"));
    }
}

#[test]
fn a_session_survives_the_node_it_was_opened_on() {
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let leader = leader_of(&nodes);
    let mut client = nodes[leader].connect();
    let id = client.call("SESSION OPEN")[1..].trim_end().to_owned();
    assert_eq!(client.call(&format!("ONCE {id} 1 INCR n")), ":1\r\n");
    let (_, ended) = nodes.remove(leader).stop(Stop::AtOnce);
    ended.unwrap();
    for node in &nodes {
        let mut client = node.connect();
        let again = || client.call(&format!("ONCE {id} 1 INCR n"));
        assert_eq!(eventually(again), ":1\r\n");
        assert_eq!(client.call("GET n"), bulk("1"));
    }
}

/// Takes connections for another port, from now on, and hands on what comes.
fn pass_on(listener: TcpListener, port: u16) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            _ = std::io::copy(&mut from, &mut to);
            _ = to.shutdown(Shutdown::Both);
        })
    };
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let Ok(other) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            copy(socket.try_clone().unwrap(), other.try_clone().unwrap());
            copy(other, socket);
        }
    });
}

#[test]
fn what_a_follower_cannot_send_to_the_leader_yet_is_done_when_it_can() {
    let dir = TempDir::new();
    let mut nodes = cluster(dir.path(), 3, |config| {
        config.limits.handshake_time = PATIENCE;
        config.replica.no_leader_wait = PATIENCE;
        config.replica.client_timeout = PATIENCE;
    });
    let leader = leader_of(&nodes);
    let (id, peer_port) = (nodes[leader].config.node, nodes[leader].peer_port);
    let (mut config, _) = nodes.remove((leader + 1) % 3).stop(Stop::AtOnce);
    // The leader reaches it, but its own way to the leader is long.
    let way = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = HostPort::new("127.0.0.1", way.local_addr().unwrap().port());
    config.peers.insert(id, address);
    let follower = Node::start(config);
    until("it knows the leader", || follower.raft()["leader_id"] == id.get().to_string());
    let mut clients: Vec<Client> = (0..3).map(|_| follower.connect()).collect();
    for client in &mut clients {
        client.send("INCR n\r\nINCR n\r\n");
    }
    until("all wait", || follower.connect().info("stats")["requests_under_way"] == "6");
    assert_eq!(follower.raft()["leader_connected"], "0");
    pass_on(way, peer_port);
    for client in &mut clients {
        for _ in 0..2 {
            let reply = client.reply();
            assert!(reply.starts_with(':'), "{reply}");
        }
    }
    assert_eq!(follower.connect().call("GET n"), bulk("6"));
}

/// Calls until the reply is not that there is no leader, or that the outcome is unknown.
fn eventually(mut call: impl FnMut() -> String) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = call();
        if !reply.starts_with("-CLUSTERDOWN") && !reply.starts_with("-UNKNOWN") {
            return reply;
        }
        assert!(Instant::now() < deadline, "still {reply}");
    }
}

#[test]
fn the_death_of_the_leader_is_noticed_at_once_and_costs_no_acknowledged_write() {
    let dir = TempDir::new();
    let mut nodes = cluster(dir.path(), 3, |config| {
        // Without the hint of the closed connection, nobody would notice in time.
        config.replica.raft.election_timeout_min = Duration::from_millis(3_000);
        config.replica.raft.election_timeout_max = Duration::from_millis(3_200);
        config.replica.no_leader_wait = PATIENCE;
        config.replica.client_timeout = PATIENCE;
    });
    let leader = leader_of(&nodes);
    assert_eq!(nodes[leader].connect().call("SET k before"), "+OK\r\n");
    let killed = nodes.remove(leader);
    let mut clients: Vec<Client> = nodes.iter().map(Node::connect).collect();
    let died_at = Instant::now();
    let (config, _) = killed.stop(Stop::AtOnce);
    assert_eq!(clients[0].call("GET k"), bulk("before"));
    assert_eq!(clients[1].call("APPEND k x"), ":7\r\n");
    assert_eq!(clients[0].call("APPEND k x"), ":8\r\n");
    assert!(died_at.elapsed() < Duration::from_secs(2), "{:?}", died_at.elapsed());
    nodes.push(Node::start(config));
    until("the dead node has caught up", || {
        let infos: Vec<_> = nodes.iter().map(Node::raft).collect();
        infos.iter().all(|info| info["applied_index"] == infos[0]["commit_index"])
    });
    let mut client = nodes[2].connect();
    client.call("READONLY");
    assert_eq!(client.call("GET k"), bulk("beforexx"));
}

#[test]
fn a_graceful_stop_of_the_leader_hands_leadership_over() {
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let leader = leader_of(&nodes);
    let term: u64 = nodes[leader].raft()["term"].parse().unwrap();
    let mut clients: Vec<Client> =
        nodes.iter().enumerate().filter(|(i, _)| *i != leader).map(|(_, n)| n.connect()).collect();
    let stopping = nodes.remove(leader);
    let stopped = std::thread::spawn(move || stopping.stop(Stop::Gracefully));
    for i in 0..200 {
        for client in &mut clients {
            let reply = client.call("INCR n");
            assert!(reply.starts_with(':'), "{reply} at {i}");
        }
    }
    let (_, ended) = stopped.join().unwrap();
    ended.unwrap();
    let new_leader = leader_of(&nodes);
    assert_eq!(nodes[new_leader].raft()["term"], (term + 1).to_string());
    assert_eq!(clients[0].call("GET n"), bulk("400"));
}

#[test]
fn leadership_goes_where_an_operator_sends_it() {
    let dir = TempDir::new();
    let nodes = three(&dir);
    let leader = leader_of(&nodes);
    let target = (leader + 1) % 3;
    let id = nodes[target].config.node.get();
    let mut client = nodes[leader].connect();
    let refusal = nodes[target].connect().call("CLUSTER TRANSFER");
    let port = nodes[leader].port;
    assert_eq!(
        refusal,
        format!("-ERR this node does not lead, the one at 127.0.0.1:{port} does\r\n")
    );
    assert_eq!(client.call("CLUSTER TRANSFER 9"), "-ERR '9' is no other node of this cluster\r\n");
    assert_eq!(client.call(&format!("CLUSTER TRANSFER {id}")), "+OK\r\n");
    until("the target leads", || nodes[target].raft()["raft_role"] == "leader");
    assert_eq!(eventually(|| client.call("SET k v")), "+OK\r\n");
}

#[test]
fn a_snapshot_is_taken_when_asked_for_and_a_node_starts_from_it() {
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let leader = leader_of(&nodes);
    let mut client = nodes[leader].connect();
    for i in 0..100 {
        assert_eq!(client.call(&format!("SET key{i} {i}")), "+OK\r\n");
    }
    assert_eq!(client.call("SNAPSHOT NOW"), "+OK\r\n");
    assert!(client.call("SNAPSHOT LATER").starts_with("-ERR unknown subcommand 'LATER'"));
    // What users of Redis would try.
    assert_eq!(client.call("SAVE"), "+OK\r\n");
    assert_eq!(client.call("BGSAVE SCHEDULE").split(' ').next(), Some("+Background"));
    assert_eq!(client.call("BGSAVE NOW"), "-ERR syntax error\r\n");
    assert!(client.call("BGREWRITEAOF").starts_with("+Background append only file rewriting"));
    until("the snapshot is there", || client.info("raft")["snapshot_index"] != "0");
    let (config, ended) = nodes.remove(leader).stop(Stop::AtOnce);
    ended.unwrap();
    let node = Node::start(config);
    assert_ne!(node.raft()["snapshot_index"], "0");
    let mut client = node.connect();
    assert_eq!(eventually(|| client.call("DBSIZE")), ":100\r\n");
}

#[test]
fn without_a_majority_a_command_is_refused_as_certainly_not_appended_and_info_still_answers() {
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let leader = leader_of(&nodes);
    let survivor = nodes.remove((leader + 1) % 3);
    drop(nodes);
    let mut client = survivor.connect();
    until("it is alone", || survivor.raft()["leader_id"] == "0");
    assert_eq!(client.call("SET k v"), "-CLUSTERDOWN No leader elected\r\n");
    assert_eq!(client.call("PING"), "+PONG\r\n");
    assert!(client.call("CLUSTER INFO").contains("cluster_state:fail\r\n"));
    client.call("READONLY");
    assert_eq!(client.call("GET nothing"), "$-1\r\n");
    // What became of a command is never told from state that may be stale.
    assert_eq!(client.call("OUTCOME 1 1"), "-CLUSTERDOWN No leader elected\r\n");
}

#[test]
fn no_more_is_read_of_a_connection_than_it_may_have_under_way() {
    let dir = TempDir::new();
    let nodes = cluster(dir.path(), 3, |config| {
        config.limits.pipeline_max = 8;
        config.replica.no_leader_wait = PATIENCE;
        config.replica.client_timeout = PATIENCE;
    });
    leader_of(&nodes);
    let mut nodes = nodes.into_iter();
    let alone = nodes.next().unwrap();
    let others: Vec<_> = nodes.map(|node| node.stop(Stop::AtOnce).0).collect();
    until("it is alone", || alone.raft()["leader_id"] == "0");
    let mut client = alone.connect();
    client.send("INCR n\r\n".repeat(1_000));
    let under_way = || alone.connect().info("stats")["requests_under_way"].clone();
    until("what may be is under way", || under_way() == "8");
    assert_eq!(under_way(), "8");
    // With a leader again, all the rest follows.
    let _others: Vec<_> = others.into_iter().map(Node::start).collect();
    for i in 1..=1_000 {
        assert_eq!(client.reply(), format!(":{i}\r\n"));
    }
}

#[test]
fn a_node_that_is_far_behind_catches_up_by_snapshot() {
    let dir = TempDir::new();
    let mut nodes = cluster(dir.path(), 3, |config| {
        config.replica.raft_state_bytes_max = Some(256 << 10);
        config.replica.raft_state_snapshot_percent = 0;
        config.replica.snapshot_chunk_bytes = 64 << 10;
        config.replica.storage.segment_bytes = 4 << 20;
    });
    let leader = leader_of(&nodes);
    let behind = nodes.remove((leader + 1) % 3).stop(Stop::AtOnce).0;
    let leader = leader_of(&nodes);
    let mut client = nodes[leader].connect();
    let value = vec![b'v'; 10_000];
    let mut written = 0;
    let first_index = || nodes[leader].raft()["first_index"].parse::<u64>().unwrap();
    // The leader keeps the log back to its second newest snapshot: write until that is past.
    while first_index() < 100 {
        for _ in 0..50 {
            written += 1;
            let key = format!("key{written}");
            assert_eq!(client.call_args(&[b"SET", key.as_bytes(), &value]), "+OK\r\n");
        }
        assert!(written < 10_000, "the log is never compacted");
    }
    let node = Node::start(behind);
    until("it has caught up", || {
        let info = node.raft();
        info["snapshot_index"] != "0"
            && info["applied_index"] == nodes[leader].raft()["commit_index"]
    });
    let digests = [&nodes[leader], &node].map(|node| node.raft()["applied_digest"].clone());
    assert_eq!(digests[0], digests[1]);
    assert!(digests[0].len() == 32 && digests[0].bytes().any(|byte| byte != b'0'), "{digests:?}");
    let mut client = node.connect();
    client.call("READONLY");
    assert_eq!(client.call("DBSIZE"), format!(":{written}\r\n"));
    assert_eq!(client.call("STRLEN key1"), ":10000\r\n");
}
