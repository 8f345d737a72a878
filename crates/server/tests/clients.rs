//! What a client sees of one node: replies, their order, limits, and the end of connections.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use std::net::Shutdown;
use std::time::Duration;

use common::{Client, TempDir, command, single, until};
use sampan_base::NodeId;
use sampan_resp::RequestLimits;
use sampan_server::{HostPort, Limits, Stop};

#[test]
fn what_clients_say_at_connect_is_answered_byte_for_byte() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let id = client.call("CLIENT ID").trim_start_matches(':').trim_end().to_owned();
    let fields = format!(
        "$2\r\nid\r\n:{id}\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
    );
    let hello = |header: &str, proto: u8| {
        format!(
            "{header}$6\r\nserver\r\n$6\r\nsampan\r\n$7\r\nversion\r\n$5\r\n7.2.4\r\n$5\r\nproto\r\n:{proto}\r\n{fields}"
        )
    };
    assert_eq!(client.call("HELLO"), hello("*14\r\n", 2));
    assert_eq!(client.call("HELLO 3 AUTH default any SETNAME me"), hello("%7\r\n", 3));
    assert_eq!(client.call("GET nothing"), "_\r\n");
    assert_eq!(client.call("CLIENT GETNAME"), "$2\r\nme\r\n");
    assert_eq!(client.call("hello 2"), hello("*14\r\n", 2));
    for (line, reply) in [
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'"),
        ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'"),
        ("HELLO 3 AUTH bob x", "-WRONGPASS invalid username-password pair or user is disabled."),
        (
            "HELLO 3 SETNAME \"a b\"",
            "-ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ),
        ("AUTH default x", "+OK"),
        ("AUTH bob x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("CLIENT SETINFO LIB-NAME redis-py", "+OK"),
        ("CLIENT SETINFO LIB-VER 8.0", "+OK"),
        ("CLIENT SETINFO LIB-FOO 1", "-ERR Unrecognized option 'LIB-FOO'"),
        ("CLIENT SETNAME other", "+OK"),
        ("CLIENT GETNAME", "$5\r\nother"),
        ("CLIENT NO-EVICT on", "+OK"),
        ("CLIENT NO-TOUCH off", "+OK"),
        (
            "CLIENT MAINT_NOTIFICATIONS ON",
            "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.",
        ),
        ("CLIENT ID extra", "-ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT CAPA redirect", "+OK"),
        ("CLIENT KILL 1.2.3.4:5", "-ERR No such client"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range"),
        ("READONLY", "+OK"),
        ("READWRITE", "+OK"),
        ("PING", "+PONG"),
        ("PING hi", "$2\r\nhi"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("ECHO \"a\\x00b\"", "$3\r\na\0b"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n"),
        (
            "CONFIG GET appendonly databases",
            "*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$9\r\ndatabases\r\n$1\r\n1",
        ),
        ("CONFIG GET nope", "*0"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command"),
        (
            "CONFIG SET maxmemory 1",
            "-ERR Unknown option or number of arguments for CONFIG SET - 'maxmemory'",
        ),
        ("CONFIG RESETSTAT", "+OK"),
        ("COMMAND DOCS", "*0"),
        ("COMMAND INFO nope", "*1\r\n*-1"),
        ("COMMAND GETKEYS mset a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb"),
        ("CLUSTER KEYSLOT foo", ":12182"),
        ("CLUSTER NOPE", "-ERR unknown subcommand 'NOPE'. Try CLUSTER HELP."),
        ("FOO bar baz", "-ERR unknown command 'FOO', with args beginning with: 'bar' 'baz' "),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("SET k", "-ERR wrong number of arguments for 'set' command"),
        ("RESET", "+RESET"),
        ("CLIENT GETNAME", "$-1"),
    ] {
        assert_eq!(client.call(line), format!("{reply}\r\n"), "{line}");
    }
}

#[test]
fn command_lists_every_command_with_ten_fields() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let count: usize = client.call("COMMAND COUNT")[1..].trim_end().parse().unwrap();
    assert!(count > sampan_kv::SPECS.len() + 10, "{count}");
    let all = client.call("COMMAND");
    assert!(all.starts_with(&format!("*{count}\r\n*10\r\n")), "{}", &all[..40]);
    for name in ["get", "set", "once", "hello", "cluster"] {
        assert!(all.contains(&format!("*10\r\n${}\r\n{name}\r\n", name.len())), "{name}");
    }
    let set = client.call("COMMAND INFO SET");
    let expected = "*1\r\n*10\r\n$3\r\nset\r\n:-3\r\n*2\r\n+write\r\n+denyoom\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@write\r\n+@string\r\n+@slow\r\n*0\r\n*0\r\n*0\r\n";
    assert_eq!(set, expected);
}

#[test]
fn info_has_its_sections_and_the_fields_that_clients_read() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    assert_eq!(client.call("SET k v"), "+OK\r\n");
    let all = client.call("INFO");
    for title in [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "Raft",
        "CPU",
        "Modules",
        "Errorstats",
        "Cluster",
        "Keyspace",
    ] {
        assert!(all.contains(&format!("# {title}\r\n")), "{title}");
    }
    let info = client.info("everything");
    for (key, value) in [
        ("redis_version", "7.2.4"),
        ("redis_mode", "standalone"),
        ("loading", "0"),
        ("snapshot_receiving_bytes", "0"),
        ("snapshot_receiving_size_bytes", "0"),
        ("disk_health", "well"),
        ("cluster_enabled", "0"),
        ("connected_clients", "1"),
        ("maxmemory", "0"),
        ("db0", "keys=1,expires=0,avg_ttl=0"),
        ("node_id", "1"),
        ("leader_id", "1"),
        ("configuration", "{1}"),
    ] {
        assert_eq!(info.get(key).map(String::as_str), Some(value), "{key}");
    }
    let raft = client.info("raft");
    assert_eq!(raft["raft_role"], "leader");
    assert_eq!(raft["commit_index"], raft["applied_index"]);
    assert_eq!(raft["leader_address"], format!("127.0.0.1:{}", node.port));
    assert_eq!(client.info("replication")["role"], "master");
    assert_eq!(client.call("INFO nope"), "$0\r\n\r\n");
}

#[test]
fn replies_come_in_the_order_of_requests_whoever_gives_them() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let (mut requests, mut expected) = (Vec::new(), String::new());
    for i in 1..=3_000 {
        let (text, before) = (i.to_string(), (i - 1).to_string());
        let (args, reply): (Vec<&[u8]>, String) = match i % 7 {
            0 => (vec![b"PING", text.as_bytes()], format!("${}\r\n{i}\r\n", text.len())),
            1 => (vec![b"SET", b"key", text.as_bytes()], "+OK\r\n".into()),
            2 => (vec![b"GET", b"key"], format!("${}\r\n{before}\r\n", before.len())),
            3 => (vec![b"ECHO", text.as_bytes()], format!("${}\r\n{i}\r\n", text.len())),
            4 => (
                vec![b"NOPE"],
                "-ERR unknown command 'NOPE', with args beginning with: \r\n".into(),
            ),
            5 => (vec![b"INCR", b"count"], format!(":{}\r\n", i / 7 + 1)),
            _ => (vec![b"EXISTS", b"key"], ":1\r\n".into()),
        };
        requests.extend(command(&args));
        expected.push_str(&reply);
    }
    // In pieces of all lengths, none of which ends where a request does.
    let mut rest = &requests[..];
    let mut len = 1;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(len.min(rest.len()));
        client.send(piece);
        rest = tail;
        len = len % 997 + 61;
    }
    client.socket.shutdown(Shutdown::Write).unwrap();
    common::assert_same(&client.rest(), &expected);
}

#[test]
fn the_protocol_changes_between_two_replies_of_one_pipeline() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    client.send("GET nothing\r\nHELLO 3\r\nGET nothing\r\nRESET\r\nGET nothing\r\n");
    assert_eq!(client.reply(), "$-1\r\n");
    assert!(client.reply().starts_with("%7\r\n"));
    assert_eq!(client.reply(), "_\r\n");
    assert_eq!(client.reply(), "+RESET\r\n");
    assert_eq!(client.reply(), "$-1\r\n");
}

#[test]
fn client_reply_silences_what_it_says_and_nothing_else() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    client.send("CLIENT REPLY SKIP\r\nSET a 1\r\nINCR a\r\n");
    assert_eq!(client.reply(), ":2\r\n");
    client.send("CLIENT REPLY OFF\r\nINCR a\r\nPING\r\nNOPE\r\nCLIENT REPLY ON\r\nGET a\r\n");
    assert_eq!(client.reply(), "+OK\r\n");
    assert_eq!(client.reply(), "$1\r\n3\r\n");
    client.send("CLIENT REPLY OFF\r\nRESET\r\nGET a\r\n");
    assert_eq!(client.reply(), "+RESET\r\n");
    assert_eq!(client.reply(), "$1\r\n3\r\n");
}

#[test]
fn what_stands_between_multi_and_exec_is_refused_as_a_whole() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    for (end, reply) in [
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ("DISCARD", "+OK\r\n"),
        ("RESET", "+RESET\r\n"),
    ] {
        client.send(format!("MULTI\r\nINCR n\r\nPING\r\nMULTI\r\n{end}\r\nGET n\r\n"));
        assert_eq!(client.reply(), "+OK\r\n");
        for _ in 0..2 {
            let refusal = client.reply();
            assert!(refusal.starts_with("-ERR transactions are not supported"), "{refusal}");
        }
        assert_eq!(client.reply(), "-ERR MULTI calls can not be nested\r\n");
        assert_eq!(client.reply(), reply);
        assert_eq!(client.reply(), "$-1\r\n");
    }
    assert_eq!(client.call("EXEC"), "-ERR EXEC without MULTI\r\n");
    assert_eq!(client.call("DISCARD"), "-ERR DISCARD without MULTI\r\n");
    assert_eq!(client.call("WATCH n"), "-ERR transactions are not supported\r\n");
    assert_eq!(client.call("UNWATCH"), "+OK\r\n");
}

#[test]
fn a_protocol_error_is_said_once_after_the_replies_before_it_and_the_connection_ends() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    for (bytes, error) in [
        ("*1\r\n+PING\r\n", "Protocol error: expected '$', got '+'"),
        ("*-x\r\n", "Protocol error: invalid multibulk length"),
        ("*1\r\n$99999999999\r\n", "Protocol error: invalid bulk length"),
        ("SET \"a\r\n", "Protocol error: unbalanced quotes in request"),
    ] {
        let mut client = node.connect();
        client.send(format!("SET k v\r\nGET k\r\nPING\r\n{bytes}PING\r\n"));
        let expected = format!("+OK\r\n$1\r\nv\r\n+PONG\r\n-ERR {error}\r\n");
        assert_eq!(client.rest(), expected);
    }
    let mut client = node.connect();
    client.send("x".repeat(100_000));
    assert_eq!(client.rest(), "-ERR Protocol error: too big inline request\r\n");
    assert_eq!(node.connect().call("PING"), "+PONG\r\n");
}

#[test]
fn a_peer_on_the_client_port_gets_one_clear_error_and_a_close() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    for start in ["SPNH\x01\0\x24\0", "SPN1\0\0\0\0"] {
        let mut client = node.connect();
        client.send(&start.as_bytes()[..2]);
        client.send(&start.as_bytes()[2..]);
        let port = node.peer_port;
        let expected =
            format!("-ERR this port is for clients, Sampan nodes connect to port {port}\r\n");
        assert_eq!(client.rest(), expected);
    }
    // A command that merely starts like one.
    let mut client = node.connect();
    client.send("SP");
    client.send("NOON\r\n");
    assert!(client.reply().starts_with("-ERR unknown command 'SPNOON'"));
}

#[test]
fn quit_is_answered_and_what_follows_is_dropped() {
    let dir = TempDir::new();
    // The client sees the end at once, however long its own end is waited for.
    let node = single(dir.path(), |config| config.limits.linger_time = Duration::from_secs(60));
    let mut client = node.connect();
    client.send("SET k 1\r\nQUIT\r\nSET k 2\r\n");
    assert_eq!(client.rest(), "+OK\r\n+OK\r\n");
    assert_eq!(node.connect().call("GET k"), "$1\r\n1\r\n");
}

#[test]
fn a_client_that_ends_its_sending_side_gets_its_replies() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    client.send("SET k 1\r\nINCR k\r\nGET");
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "+OK\r\n:2\r\n");
}

#[test]
fn one_client_too_many_is_told_so_and_a_place_is_used_again() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| config.limits.clients_max = 2);
    let full = || node.connect().info("clients")["connected_clients"] == "1";
    until("the first clients are gone", full);
    let (mut one, mut two) = (node.connect(), node.connect());
    until("both are in", || one.call("PING") == "+PONG\r\n" && two.call("PING") == "+PONG\r\n");
    assert_eq!(node.connect().rest(), "-ERR max number of clients reached\r\n");
    assert_eq!(one.info("stats")["rejected_connections"], "1");
    drop(two);
    until("a place is free", || one.info("clients")["connected_clients"] == "1");
    assert_eq!(node.connect().call("PING"), "+PONG\r\n");
}

#[test]
fn an_http_request_ends_the_connection_and_nothing_of_its_body_is_run() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    assert_eq!(client.call("SET k v"), "+OK\r\n");
    for first in ["POST / HTTP/1.1", "post / HTTP/1.0", "GET / HTTP/1.1\r\nHost: somewhere"] {
        let mut page = node.connect();
        page.send(format!("{first}\r\nContent-Length: 10\r\n\r\nFLUSHALL\r\n"));
        assert!(page.is_closed(), "{first}");
    }
    assert_eq!(client.call("EXISTS k"), ":1\r\n");
    assert_eq!(client.info("stats")["rejected_http_requests"], "3");
}

#[test]
fn errors_are_counted_by_their_codes_whoever_says_them() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    for line in ["SET k x", "INCR k", "NOPE", "HELLO 9", "GET", "CLIENT NOPE", "SELECT 1", "PING"] {
        client.call(line);
    }
    assert_eq!(client.info("stats")["total_error_replies"], "6");
    let by_code = client.info("errorstats");
    assert_eq!(
        (&*by_code["errorstat_ERR"], &*by_code["errorstat_NOPROTO"]),
        ("count=5", "count=1")
    );
    assert_eq!(client.call("CONFIG RESETSTAT"), "+OK\r\n");
    assert_eq!(client.info("stats")["total_error_replies"], "0");
}

#[test]
fn a_pipeline_that_takes_large_values_away_gets_them_all() {
    let dir = TempDir::new();
    // All the replies at once would end the connection.
    let node = single(dir.path(), |config| config.limits.output_bytes_max = 8 << 20);
    node.connect().take_values_away(400, 64 << 10);
}

#[test]
fn replies_behind_a_request_that_waits_stop_the_reading_of_more() {
    let dir = TempDir::new();
    let mut config = common::config(1, dir.path());
    // Nobody is there to elect this node, and so the first command waits.
    config.peers = [(NodeId::of(2), HostPort::new("127.0.0.1", 1))].into();
    config.replica.no_leader_wait = Duration::from_secs(3);
    let pause_bytes: usize = 100_000;
    config.limits.output_pause_bytes = pause_bytes;
    let node = common::Node::start(config);
    let mut client = node.connect();
    client.send("SET a 1\r\n".to_owned() + &"COMMAND\r\n".repeat(1_000));
    let mut other = node.connect();
    let waiting = |other: &mut Client| -> usize {
        let list = other.call("CLIENT LIST");
        let line = list.lines().find(|line| line.contains("cmd=command"));
        let text = line.and_then(|line| line.split(" tot-mem=").nth(1)?.split(' ').next());
        text.map_or(0, |text| text.parse().unwrap())
    };
    until("it holds replies back", || waiting(&mut other) >= pause_bytes);
    assert!(waiting(&mut other) < 2 * pause_bytes, "{}", waiting(&mut other));
    assert!(client.reply().starts_with("-CLUSTERDOWN"));
    for _ in 0..1_000 {
        assert!(client.reply().starts_with('*'));
    }
}

#[test]
fn a_long_pipeline_waits_for_room_and_loses_nothing() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.pipeline_max = 8;
        config.limits.output_pause_bytes = 256;
        config.limits.read_bytes = 1_000;
    });
    let mut client = node.connect();
    let total = 2_000;
    let requests = [command(&[b"INCR", b"n"]), command(&[b"PING"])].concat().repeat(total);
    let expected: Vec<String> = (1..=total).map(|i| format!(":{i}\r\n+PONG\r\n")).collect();
    client.send(&requests);
    client.socket.shutdown(Shutdown::Write).unwrap();
    common::assert_same(&client.rest(), &expected.concat());
}

#[test]
fn a_client_that_does_not_read_is_closed_and_the_others_live() {
    let dir = TempDir::new();
    // Once by the hard limit, and once by the soft one and time.
    for (soft, hard, time_ms) in [(20 << 20, 20 << 20, 60_000), (4 << 20, 1 << 30, 100)] {
        let node = single(&dir.path().join(time_ms.to_string()), |config| {
            config.limits.output_pause_bytes = soft;
            config.limits.output_soft_bytes = soft;
            config.limits.output_soft_time = Duration::from_millis(time_ms);
            config.limits.output_bytes_max = hard;
            config.limits.output_total_bytes_max = 1 << 30;
        });
        let mut writer = node.connect();
        let value = vec![b'v'; 1 << 20];
        assert_eq!(writer.call_args(&[b"SET", b"big", &value]), "+OK\r\n");
        let mut deaf = node.connect();
        deaf.send("GET big\r\n".repeat(100));
        until("it is closed", || writer.info("clients")["connected_clients"] == "1");
        assert!(deaf.is_closed());
        let stats = writer.info("stats");
        assert_eq!(stats["client_output_buffer_limit_disconnections"], "1");
        assert_eq!(stats["evicted_clients"], "0");
        assert_eq!(writer.call("STRLEN big"), format!(":{}\r\n", value.len()));
    }
}

#[test]
fn a_client_that_reads_slowly_gets_all_it_asked_for_and_costs_no_memory() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 1 << 20;
        config.limits.output_soft_bytes = 2 << 20;
        config.limits.output_soft_time = Duration::from_millis(100);
        config.limits.output_bytes_max = 32 << 20;
    });
    let mut client = node.connect();
    let value = vec![b'v'; 100_000];
    assert_eq!(client.call_args(&[b"SET", b"k", &value]), "+OK\r\n");
    // A hundred times what a connection may hold, asked for before anything is read.
    let total = 3_000;
    client.send("GET k\r\n".repeat(total));
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().len(), total * (value.len() + "$100000\r\n\r\n".len()));
}

#[test]
fn a_client_whose_replies_were_short_is_not_closed_for_long_ones() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 1 << 20;
        config.limits.output_soft_bytes = 32 << 20;
        config.limits.output_bytes_max = 32 << 20;
    });
    let mut client = node.connect();
    let value = vec![b'v'; 1 << 20];
    assert_eq!(client.call_args(&[b"SET", b"long", &value]), "+OK\r\n");
    // From now on a reply is taken for a few kilobytes: two hundred of them would fit.
    for _ in 0..200 {
        assert_eq!(client.call("GET short"), "$-1\r\n");
    }
    let total = 200;
    client.send("GET long\r\n".repeat(total));
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().len(), total * (value.len() + "$1048576\r\n\r\n".len()));
}

#[test]
fn replies_that_nobody_takes_are_not_made() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let (mut other, mut deaf) = (node.connect(), node.connect());
    let value = vec![b'v'; 1 << 20];
    assert_eq!(other.call_args(&[b"SET", b"long", &value]), "+OK\r\n");
    // From now on a reply is taken for a few kilobytes.
    for _ in 0..200 {
        assert_eq!(deaf.call("GET short"), "$-1\r\n");
    }
    let total = 200;
    deaf.send("GET long\r\n".repeat(total));
    let unsent_bytes = |other: &mut Client| {
        let list = other.call("CLIENT LIST");
        let unsent = list.split(" obl=").skip(1).filter_map(|rest| rest.split(' ').next());
        unsent.map(|bytes| bytes.parse::<usize>().unwrap()).sum::<usize>()
    };
    until("replies wait", || unsent_bytes(&mut other) > 0);
    let most = (0..200).map(|_| unsent_bytes(&mut other)).max().unwrap();
    assert!(most < 6 << 20, "{most} of {} bytes wait to be sent", total << 20);
    deaf.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(deaf.rest().len(), total * (value.len() + "$1048576\r\n\r\n".len()));
}

#[test]
fn a_reply_too_long_for_any_connection_is_an_error() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 100_000;
        config.limits.output_soft_bytes = 100_000;
        config.limits.output_bytes_max = 200_000;
    });
    let mut client = node.connect();
    client.call_args(&[b"SET", b"k", &vec![b'v'; 50_000]]);
    client.send("MGET k k k k k\r\nPING\r\n");
    assert!(client.reply().starts_with("-ERR the reply is longer than a connection may hold"));
    assert_eq!(client.reply(), "+PONG\r\n");
}

#[test]
fn a_request_that_never_ends_is_closed_and_a_quiet_client_is_not() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.request_stall_time = Duration::from_millis(150);
    });
    let mut quiet = node.connect();
    assert_eq!(quiet.call("PING"), "+PONG\r\n");
    let mut stalled = node.connect();
    stalled.send("*2\r\n$3\r\nGET\r\n$100\r\nab");
    assert!(stalled.is_closed());
    assert_eq!(quiet.call("PING"), "+PONG\r\n");
}

#[test]
fn an_idle_client_is_closed_if_so_configured() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.idle_time = Some(Duration::from_millis(150));
    });
    let mut client = node.connect();
    assert_eq!(client.call("PING"), "+PONG\r\n");
    assert!(client.is_closed());
}

#[test]
fn values_up_to_the_limit_pass_and_one_above_it_is_an_error_that_loses_nothing() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let value = vec![b'x'; 1 << 20];
    assert_eq!(client.call_args(&[b"SET", b"k", &value]), "+OK\r\n");
    let reply = client.call("GET k");
    assert_eq!(reply.len(), value.len() + 12);
    let longer = vec![b'x'; (1 << 20) + 1];
    let error = client.call_args(&[b"SET", b"k", &longer]);
    assert_eq!(error, "-ERR value exceeds the limit of 1048576 bytes\r\n");
    let key = vec![b'k'; 65_537];
    let error = client.call_args(&[b"SET", &key, b"v"]);
    assert_eq!(error, "-ERR key exceeds the limit of 65536 bytes\r\n");
    let error = client.call_args(&[b"CLUSTER", b"KEYSLOT", &key]);
    assert_eq!(error, "-ERR key exceeds the limit of 65536 bytes\r\n");
    assert_eq!(client.call("STRLEN k"), ":1048576\r\n");
}

#[test]
fn tiny_limits_break_no_order() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        let request = RequestLimits { request_bytes_max: 1_024, ..Limits::tiny().request };
        config.limits = Limits { clients_max: 100, request, ..Limits::tiny() };
        config.replica.requests_under_way_max = 4;
    });
    let clients: Vec<_> = (0..8)
        .map(|c| {
            let mut client = node.connect();
            std::thread::spawn(move || {
                for i in 1..200 {
                    client.send(format!("INCR c{c}\r\nPING {i}\r\nGET c{c}\r\n"));
                    let text = i.to_string();
                    let bulk = format!("${}\r\n{text}\r\n", text.len());
                    assert_eq!(client.reply(), format!(":{i}\r\n"));
                    assert_eq!(client.reply(), bulk);
                    assert_eq!(client.reply(), bulk);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn client_list_and_kill_know_each_connection() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let (mut one, mut two) = (node.connect(), node.connect());
    one.call("CLIENT SETNAME one");
    two.call("CLIENT SETNAME two");
    let list = one.call("CLIENT LIST");
    let line = list.lines().find(|line| line.contains("name=two")).unwrap();
    let id = line.split(' ').find_map(|field| field.trim_start_matches('$').strip_prefix("id="));
    let id = id.unwrap();
    assert!(line.contains(" cmd=client "), "{line}");
    assert_eq!(one.call(&format!("CLIENT LIST ID {id}")).matches(" name=").count(), 1);
    assert_eq!(one.call(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    assert!(two.is_closed());
    until("it is forgotten", || !one.call("CLIENT LIST").contains("name=two"));
    assert_eq!(one.call("CLIENT KILL TYPE normal SKIPME yes"), ":0\r\n");
    assert_eq!(one.call("CLIENT KILL TYPE normal SKIPME no"), ":1\r\n");
    assert_eq!(one.rest(), "");
}

#[test]
fn a_stop_waits_for_replies_that_are_on_their_way() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 1 << 30;
        config.limits.output_soft_bytes = 1 << 30;
        config.limits.output_bytes_max = 1 << 30;
        config.limits.output_total_bytes_max = 1 << 30;
        config.limits.stop_flush_time = common::PATIENCE;
    });
    let mut client = node.connect();
    client.call_args(&[b"SET", b"big", &vec![b'v'; 1 << 20]]);
    let mut other = node.connect();
    let before: u64 = other.info("stats")["total_reads"].parse().unwrap();
    client.send("GET big\r\n".repeat(20));
    until("all are answered", || {
        other.info("stats")["total_reads"].parse::<u64>().unwrap() == before + 20
    });
    drop(other);
    let stopped = std::thread::spawn(|| node.stop(Stop::Gracefully));
    assert_eq!(client.rest().len(), 20 * ((1 << 20) + "$1048576\r\n\r\n".len()));
    stopped.join().unwrap().1.unwrap();
}

#[test]
fn a_stop_answers_what_was_read_and_ends_every_connection() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.call(&format!("SET k{i} v")), "+OK\r\n");
    }
    let (config, ended) = node.stop(Stop::Gracefully);
    ended.unwrap();
    for client in &mut clients {
        assert_eq!(client.rest(), "");
    }
    let again = common::Node::start(config);
    until("it leads again", || again.connect().call("EXISTS k0 k1 k2 k3") == ":4\r\n");
}
