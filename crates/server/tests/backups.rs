//! `BACKUP`, byte for byte: what is begun is read to its end, from any connection, while later
//! snapshots take its file its name.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Client, Node, TempDir, single, until};
use sampan_server::Config;

/// Small pieces, one snapshot kept, and none taken unasked.
fn small(config: &mut Config) {
    config.limits.backup_read_bytes = 1_000;
    config.limits.backups_max = 2;
    config.replica.storage.snapshots_kept = 1;
    config.replica.raft_state_bytes_max = None;
}

/// Begins a backup: id, index and bytes.
fn begin(client: &mut Client) -> (String, u64, usize) {
    let reply = client.call("BACKUP BEGIN");
    let lines: Vec<&str> = reply.lines().collect();
    let [count, _, id, index, _term, bytes] = lines[..] else { panic!("{reply}") };
    assert_eq!(count, "*4");
    let number = |line: &str| line.strip_prefix(':').unwrap().parse::<u64>().unwrap();
    (id.to_owned(), number(index), number(bytes) as usize)
}

/// One piece.
fn piece(client: &mut Client, id: &str, offset: usize) -> Vec<u8> {
    client.send(format!("BACKUP READ {id} {offset}\r\n"));
    bulk(&client.reply_bytes())
}

fn bulk(reply: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(reply);
    assert!(reply.starts_with(b"$"), "{text}");
    let start = text.find("\r\n").unwrap() + 2;
    reply[start..reply.len() - 2].to_vec()
}

/// The snapshot files of a node, newest first.
fn snapshot_files(node: &Node) -> Vec<Vec<u8>> {
    let files = fs::read_dir(node.config.data_dir.join("snapshots")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().rev().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn a_backup_is_the_snapshot_byte_for_byte_though_its_file_is_removed_meanwhile() {
    let dir = TempDir::new();
    let node = single(dir.path(), small);
    let mut client = node.connect();
    for n in 0..20 {
        assert_eq!(client.call(&format!("SET key{n} {}", "v".repeat(200))), "+OK\r\n");
    }
    let (id, index, bytes) = begin(&mut client);
    let file = snapshot_files(&node).remove(0);
    assert_eq!(file.len(), bytes);
    let mut read = piece(&mut client, &id, 0);
    assert_eq!(read.len(), 1_000);

    // One is kept, and one for the next to be written over: as long as somebody reads that, it is
    // not.
    for n in 1..=3 {
        assert_eq!(client.call(&format!("SET another {n}")), "+OK\r\n");
        let (other, later, _) = begin(&mut client);
        assert!(later > index && other != id);
        assert_eq!(client.call(&format!("BACKUP END {other}")), ":1\r\n");
    }
    assert!(snapshot_files(&node).iter().all(|other| *other != file), "its name is gone");

    // Another connection goes on, with more requests on their way than are answered at a time.
    let mut client = node.connect();
    let offsets: Vec<usize> = (read.len()..bytes).step_by(1_000).collect();
    for offset in &offsets {
        client.send(format!("BACKUP READ {id} {offset}\r\nPING\r\n"));
    }
    for _ in offsets {
        read.extend(bulk(&client.reply_bytes()));
        assert_eq!(client.reply(), "+PONG\r\n");
    }
    assert_eq!(read, file);
    for offset in [bytes, bytes + 1, usize::MAX / 2] {
        assert_eq!(piece(&mut client, &id, offset), b"");
    }
    assert_eq!(client.call(&format!("BACKUP END {id}")), ":1\r\n");
    assert_eq!(client.call(&format!("BACKUP END {id}")), ":0\r\n");
    assert!(client.call(&format!("BACKUP READ {id} 0")).starts_with("-NOBACKUP "));
}

/// The snapshots of a node by their names, in order.
fn snapshot_names(node: &Node) -> Vec<String> {
    let files = fs::read_dir(node.config.data_dir.join("snapshots")).unwrap();
    let mut names: Vec<_> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_that_a_client_finds_damaged_is_handed_out_again_only_if_it_is_sound() {
    let dir = TempDir::new();
    let node = single(dir.path(), small);
    let mut client = node.connect();
    assert_eq!(client.call(&format!("SET key {}", "v".repeat(3_000))), "+OK\r\n");
    let (id, index, bytes) = begin(&mut client);
    let names = snapshot_names(&node);
    assert_eq!(client.call(&format!("BACKUP DAMAGED {id}")), ":0\r\n");
    assert_eq!(client.call(&format!("BACKUP END {id}")), ":1\r\n");
    let unknown = client.call(&format!("BACKUP DAMAGED {id}"));
    assert!(unknown.starts_with("-NOBACKUP "), "{unknown}");
    assert_eq!(snapshot_names(&node), names, "it stays");

    // That was a false alarm, and for a minute there is no other look at this file. But at the
    // next.
    assert_eq!(client.call(&format!("SET key {}", "w".repeat(3_000))), "+OK\r\n");
    let (id, later, _) = begin(&mut client);
    assert!(later > index);
    let newest = snapshot_names(&node).pop().unwrap();
    let path = node.config.data_dir.join("snapshots").join(&newest);
    let mut rotten = fs::read(&path).unwrap();
    rotten[bytes / 2] ^= 1;
    fs::write(&path, &rotten).unwrap();
    client.send(format!("BACKUP DAMAGED {id}\r\nBACKUP END {id}\r\n"));
    assert_eq!((client.reply(), client.reply()), (":1\r\n".into(), ":1\r\n".into()));
    let (id, same, bytes) = begin(&mut client);
    assert_eq!(same, later, "nothing was written");
    let mut read = Vec::new();
    while read.len() < bytes {
        read.extend(piece(&mut client, &id, read.len()));
    }
    assert!(read != rotten);
    assert!(snapshot_names(&node).contains(&format!("{newest}.damaged")));
    assert_eq!(client.call(&format!("BACKUP DAMAGED {id}")), ":0\r\n");
}

#[test]
fn too_many_backups_are_refused_and_one_that_nobody_reads_makes_room() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        small(config);
        config.limits.backup_idle_time = Duration::from_millis(300);
    });
    let mut client = node.connect();
    let (read, ..) = begin(&mut client);
    begin(&mut client);
    let refused = client.call("BACKUP BEGIN");
    assert!(refused.starts_with("-ERR 2 backups are being read already"), "{refused}");
    until("the one that nobody reads is ended", || {
        assert!(!piece(&mut client, &read, 0).is_empty(), "the other one is kept");
        !client.call("BACKUP BEGIN").starts_with('-')
    });
}

#[test]
fn a_backup_is_read_no_faster_than_may_be() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        small(config);
        config.limits.backup_bytes_per_second = 10_000;
    });
    let mut client = node.connect();
    let (id, _, bytes) = begin(&mut client);
    assert!(bytes > 4_000);
    let begun = Instant::now();
    for offset in (0..4_000).step_by(1_000) {
        piece(&mut client, &id, offset);
    }
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[test]
fn a_backup_goes_at_the_pace_of_the_background_beside_clients() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        small(config);
        config.limits.backup_read_bytes = 64 << 10;
        config.limits.backup_bytes_per_second = u64::MAX;
    });
    let mut client = node.connect();
    let value = vec![b'v'; 1 << 20];
    assert_eq!(client.call_args(&[b"SET", b"long", &value]), "+OK\r\n");
    let (id, _, bytes) = begin(&mut client);
    let begun = Instant::now();
    for offset in (0..bytes).step_by(64 << 10) {
        // How long that takes is not known well enough yet to go any faster than 4 MiB/s.
        assert_eq!(client.call("SET short v"), "+OK\r\n");
        piece(&mut client, &id, offset);
    }
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[test]
fn nobody_waits_for_pieces_of_connections_that_are_gone() {
    const GONE: usize = 10;
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        small(config);
        // A piece takes half a second.
        config.limits.backup_bytes_per_second = 2_000;
    });
    let mut client = node.connect();
    let (id, ..) = begin(&mut client);
    let mut crowd: Vec<_> = (0..GONE).map(|_| node.connect()).collect();
    for one in &mut crowd {
        one.send(format!("BACKUP READ {id} 0\r\n"));
    }
    until("all have asked", || client.call("CLIENT LIST").matches(" cmd=backup ").count() == GONE);
    client.call("CLIENT KILL TYPE normal SKIPME yes");
    until("all are gone", || client.call("CLIENT LIST").matches(" cmd=").count() == 1);
    let begun = Instant::now();
    piece(&mut client, &id, 0);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn commands_that_wait_for_a_piece_count_with_what_connections_hold() {
    const PINGS: usize = 1_000;
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        small(config);
        config.limits.backup_bytes_per_second = 2_000;
    });
    let (mut client, mut observer) = (node.connect(), node.connect());
    let (id, ..) = begin(&mut client);
    piece(&mut client, &id, 0);
    // Half a second until the next one.
    client.send(format!("BACKUP READ {id} 0\r\n{}", "PING\r\n".repeat(PINGS)));
    let held = |observer: &mut Client| -> usize {
        observer.info("clients")["output_total_bytes"].parse().unwrap()
    };
    until("they are counted", || held(&mut observer) >= PINGS * "PING\r\n".len());
    assert_eq!(bulk(&client.reply_bytes()).len(), 1_000);
    (0..PINGS).for_each(|_| assert_eq!(client.reply(), "+PONG\r\n"));
    until("all is given back", || held(&mut observer) == 0);
}

#[test]
fn a_backup_that_makes_no_sense_is_told_what_does() {
    let dir = TempDir::new();
    let node = single(dir.path(), small);
    let mut client = node.connect();
    for (command, reply) in [
        ("BACKUP", "-ERR wrong number of arguments for 'backup' command\r\n"),
        ("BACKUP FROB", "-ERR unknown subcommand 'FROB'. Try BACKUP HELP.\r\n"),
        ("BACKUP BEGIN now", "-ERR wrong number of arguments for 'backup|begin' command\r\n"),
        ("BACKUP READ 1", "-ERR wrong number of arguments for 'backup|read' command\r\n"),
        ("BACKUP READ 1 -1", "-ERR the offset is not a number of bytes\r\n"),
        ("BACKUP END 1", ":0\r\n"),
        ("BACKUP END what", ":0\r\n"),
        ("BACKUP DAMAGED", "-ERR wrong number of arguments for 'backup|damaged' command\r\n"),
    ] {
        assert_eq!(client.call(command), reply, "{command}");
    }
    for id in ["0", "what", ""] {
        let reply = client.call_args(&[b"BACKUP", b"READ", id.as_bytes(), b"0"]);
        assert!(reply.starts_with("-NOBACKUP "), "{reply}");
        let reply = client.call_args(&[b"BACKUP", b"DAMAGED", id.as_bytes()]);
        assert!(reply.starts_with("-NOBACKUP "), "{reply}");
    }
    assert!(client.call("BACKUP HELP").contains("+DAMAGED <id>\r\n"));
    assert_eq!(client.call("PING"), "+PONG\r\n");
}
