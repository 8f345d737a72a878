//! What the commands that need no replica let anyone ask for: each runs on the event loop, before
//! all else that waits there.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use common::{Client, TempDir, single, until};

#[test]
fn info_tells_memory_for_people_and_counts_the_sessions_that_a_limit_ended() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| config.replica.kv.sessions_max = 2);
    let mut client = node.connect();
    client.call_args(&[b"SET", b"k", &vec![b'v'; 100_000]]);
    let memory = client.info("memory");
    let used: f64 = memory["used_memory"].parse().unwrap();
    assert_eq!(memory["used_memory_human"], format!("{:.2}K", used / 1_024.0));
    let resident: f64 = memory["used_memory_rss"].parse().unwrap();
    let human = &memory["used_memory_rss_human"];
    assert_eq!(*human, format!("{:.2}M", resident / f64::from(1 << 20)));
    for _ in 0..5 {
        client.call("SESSION OPEN");
    }
    let raft = client.info("raft");
    assert_eq!((&*raft["sessions"], &*raft["sessions_evicted"]), ("2", "3"));
}

#[test]
fn what_tells_of_the_state_or_keeps_it_comes_after_the_writes_before_it() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    for n in 0..10 {
        let mut sent = b"INFO raft\r\n".to_vec();
        sent.splice(0..0, format!("SET k{n} v\r\n").into_bytes());
        sent.extend_from_slice(b"SET l v\r\nSNAPSHOT NOW\r\nGET l\r\n");
        client.send(sent);
        assert_eq!(client.reply(), "+OK\r\n");
        let seen = client.reply();
        for answer in ["+OK\r\n", "+OK\r\n", "$1\r\nv\r\n"] {
            assert_eq!(client.reply(), answer);
        }
        let now = client.info("raft");
        // Two writes, each an entry, and the second is after what was seen.
        let applied: u64 = now["applied_index"].parse().unwrap();
        assert!(seen.contains(&format!("\r\napplied_index:{}\r\n", applied - 1)), "{seen}");
        until("a snapshot of all of it", || {
            client.info("raft")["snapshot_index"] == now["applied_index"]
        });
    }
}

#[test]
fn a_command_that_no_replica_answers_has_few_arguments() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let mut call = |words: &str, more: &str, count: usize| {
        let mut args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        args.extend(more.split(' ').map(str::as_bytes).cycle().take(count - args.len()));
        client.call_args(&args)
    };
    for (words, more, reply) in [
        ("CLIENT KILL", "LADDR 127.0.0.1:1", ":0\r\n"),
        ("CLIENT LIST ID", "999", "$0\r\n\r\n"),
        ("COMMAND INFO", "get", "*1022\r\n"),
        ("COMMAND DOCS", "get", "*0\r\n"),
        ("CONFIG GET", "save", "*2\r\n"),
        ("INFO", "nothing", "$0\r\n\r\n"),
    ] {
        let most = call(words, more, 1_024);
        assert!(most.starts_with(reply), "{words}: {}", &most[..most.len().min(100)]);
        for count in [1_025, 70_000] {
            let error = call(words, more, count);
            assert_eq!(error, "-ERR command exceeds the limit of 1024 arguments\r\n", "{words}");
        }
    }
}

#[test]
fn names_and_patterns_are_short() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut client = node.connect();
    let (name, longer) = ("n".repeat(256), "m".repeat(257));
    for (line, what) in [
        ("CLIENT SETNAME", "Client names"),
        ("HELLO 3 SETNAME", "Client names"),
        ("CLIENT SETINFO lib-name", "lib-name"),
        ("CLIENT SETINFO lib-ver", "lib-ver"),
    ] {
        let error = client.call(&format!("{line} {longer}"));
        assert_eq!(error, format!("-ERR {what} cannot be longer than 256 bytes.\r\n"));
        assert_eq!(client.call("GET nothing"), "$-1\r\n", "it speaks RESP2 as before");
    }
    let list = client.call("CLIENT LIST");
    assert!(!list.contains("mm"), "{list}");
    for line in ["CLIENT SETNAME", "CLIENT SETINFO lib-name", "CLIENT SETINFO lib-ver"] {
        assert_eq!(client.call(&format!("{line} {name}")), "+OK\r\n");
    }
    assert!(client.call(&format!("HELLO 2 SETNAME {name}")).starts_with("*14\r\n"));
    assert_eq!(client.call("CLIENT INFO").matches(&format!("={name}")).count(), 3);
    for line in ["CONFIG GET nope sav", "COMMAND LIST FILTERBY PATTERN ge"] {
        let pattern = line.rsplit(' ').next().unwrap();
        let stars = "*".repeat(64 - pattern.len());
        let reply = client.call(&format!("{line}{stars}"));
        assert!(reply.starts_with('*') && !reply.starts_with("*0"), "{line}: {reply}");
        let error = client.call(&format!("{line}{stars}*"));
        assert_eq!(error, "-ERR pattern exceeds the limit of 64 bytes\r\n", "{line}");
    }
}

#[test]
fn a_list_of_clients_too_long_for_any_connection_is_an_error() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 4_000;
        config.limits.output_soft_bytes = 4_000;
        config.limits.output_bytes_max = 8_000;
    });
    let mut clients: Vec<Client> = (0..20).map(|_| node.connect()).collect();
    let name = "n".repeat(256);
    for client in &mut clients[..19] {
        assert_eq!(client.call(&format!("CLIENT SETNAME {name}")), "+OK\r\n");
    }
    let last = &mut clients[19];
    assert!(last.call("CLIENT LIST").starts_with("-ERR the reply is longer than a connection may"));
    let id = last.call("CLIENT ID")[1..].trim_end().to_owned();
    assert!(last.call(&format!("CLIENT LIST ID {id}")).contains(&format!("\nid={id} ")));
}

#[test]
fn who_is_listed_or_killed_passes_every_filter() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    let ids: Vec<String> =
        clients.iter_mut().map(|c| c.call("CLIENT ID")[1..].trim_end().to_owned()).collect();
    let addresses: Vec<String> =
        clients.iter().map(|c| c.socket.local_addr().unwrap().to_string()).collect();
    let here = format!("127.0.0.1:{}", node.port);
    let [one, two, three, last] = &mut clients[..] else { unreachable!() };
    let list = last.call(&format!("CLIENT LIST ID {} 999999 {} {}", ids[3], ids[1], ids[1]));
    let listed = [0, 1, 2, 3].map(|i| list.contains(&format!("id={} ", ids[i])));
    assert_eq!(listed, [false, true, false, true], "{list}");
    for (line, count) in [
        (format!("ID {} ID {}", ids[0], ids[1]), 0),
        (format!("ADDR {} ADDR {}", addresses[0], addresses[1]), 0),
        (format!("ID {} ADDR {}", ids[0], addresses[1]), 0),
        (format!("ID {} LADDR {}", ids[0], addresses[0]), 0),
        (format!("ID {} ADDR nowhere", ids[0]), 0),
        (format!("ID {} TYPE pubsub TYPE normal", ids[0]), 0),
        (format!("ID {} LADDR {here} ID {} ADDR {}", ids[0], ids[0], addresses[0]), 1),
        (format!("ADDR {}", addresses[1]), 1),
    ] {
        assert_eq!(last.call(&format!("CLIENT KILL {line}")), format!(":{count}\r\n"), "{line}");
    }
    assert!(one.is_closed() && two.is_closed());
    assert_eq!(last.call("CLIENT KILL nowhere"), "-ERR No such client\r\n");
    assert_eq!(three.call("PING"), "+PONG\r\n");
    assert_eq!(last.call(&format!("CLIENT KILL {}", addresses[2])), "+OK\r\n");
    assert!(three.is_closed());
    let error = "-ERR client-id should be greater than 0\r\n";
    for id in ["0", "-1", "x"] {
        assert_eq!(last.call(&format!("CLIENT KILL ID {id}")), error);
    }
    assert_eq!(last.call("CLIENT KILL USER bob"), "-ERR No such user 'bob'\r\n");
    assert_eq!(last.call(&format!("CLIENT KILL LADDR {here} SKIPME no")), ":1\r\n");
    assert_eq!(last.rest(), "");
}
