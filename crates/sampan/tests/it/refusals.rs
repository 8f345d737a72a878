//! Bad input: each gets one clear error, and nothing is lost by it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use sampan_resp::Value;

use crate::harness::{
    Cluster, Connection, Options, Process, TempDir, free_ports, run, sampan, within,
};

fn error(value: &Value) -> &str {
    let Value::Error(text) = value else { panic!("no error: {value:?}") };
    text
}

/// A cluster of one node: enough for what one node is told.
fn single(name: &str, flags: &str) -> Cluster {
    let options = Options { nodes: 1, ..Options::default() };
    Cluster::start_with(name, options.flags(flags))
}

#[test]
fn commands_that_make_no_sense_get_the_errors_of_redis_and_the_connection_lives() {
    let cluster = single("commands", "");
    let mut c = cluster.connection(1);
    assert_eq!(c.call(&["SET", "kept", "value"]), Value::OK);
    for (command, text) in [
        (&["FROB", "x"][..], "ERR unknown command 'FROB', with args beginning with: 'x' "),
        (&["GET"], "ERR wrong number of arguments for 'get' command"),
        (&["GET", "a", "b"], "ERR wrong number of arguments for 'get' command"),
        (&["SET", "a", "b", "ZZ"], "ERR syntax error"),
        (&["SET", "a", "b", "EX", "0"], "ERR invalid expire time in 'set' command"),
        (&["INCR", "kept"], "ERR value is not an integer or out of range"),
        (&["SELECT", "1"], "ERR DB index is out of range"),
        (&["EXPIRE", "kept", "soon"], "ERR value is not an integer or out of range"),
    ] {
        assert_eq!(error(&c.call(command)), text, "{command:?}");
    }
    assert_eq!(c.call(&["GET", "kept"]), Value::Bulk("value".into()));
}

#[test]
fn a_key_or_value_over_the_limit_is_refused_with_the_limit_and_the_connection_lives() {
    let cluster = single("limits", "");
    let mut c = cluster.connection(1);
    let (key_max, value_max) = (64 << 10, 1 << 20);
    let key = vec![b'k'; key_max + 1];
    let value = vec![b'v'; value_max + 1];
    let refused = c.call(&[&b"SET"[..], &key, b"v"]);
    assert!(error(&refused).contains(&key_max.to_string()), "{refused:?}");
    let refused = c.call(&[&b"SET"[..], b"k", &value]);
    assert!(error(&refused).contains(&value_max.to_string()), "{refused:?}");
    assert_eq!(c.call(&[&b"SET"[..], &key[1..], &value[1..]]), Value::OK);
    let refused = c.call(&[&b"APPEND"[..], &key[1..], b"v"]);
    let text = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(error(&refused), text);
    assert_eq!(c.call(&[&b"STRLEN"[..], &key[1..]]), Value::Integer(value_max as i64));
    assert_eq!(c.call(&["EXISTS", "k"]), Value::Integer(0));
}

#[test]
fn broken_frames_get_one_protocol_error_and_a_closed_connection() {
    let cluster = single("frames", "");
    let mut c = cluster.connection(1);
    assert_eq!(c.call(&["SET", "kept", "value"]), Value::OK);
    for (bytes, text) in [
        (&b"*x\r\n"[..], "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"SET a \"b\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (&vec![b'x'; 80 << 10], "-ERR Protocol error: too big inline request\r\n"),
    ] {
        let mut broken = cluster.connection(1);
        // What came before the fault is answered.
        broken.send(&["APPEND", "before", "1"]).unwrap();
        // The node may close before it has read all of it.
        _ = broken.send_raw(bytes);
        let rest = String::from_utf8(broken.rest()).unwrap();
        let (first, second) = rest.split_once("\r\n").unwrap();
        assert!(first.starts_with(':'), "{rest}");
        assert_eq!(second, text);
    }
    assert_eq!(c.call(&["STRLEN", "before"]), Value::Integer(6));
    assert_eq!(c.call(&["GET", "kept"]), Value::Bulk("value".into()));
}

#[test]
fn each_port_refuses_the_language_of_the_other() {
    let cluster = Cluster::start("ports");
    let term = cluster.number(1, "raft", "term");
    let leader = cluster.leader();
    for id in cluster.ids() {
        for bytes in [
            &b"PING\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            &[0; 512],
            b"SPN1 a frame before a handshake",
            b"SPNH\xff\0\0\0 a handshake of another version",
        ] {
            let mut client = Connection::open(cluster.peer_port(id)).unwrap();
            // The node may close before it has read all of it.
            _ = client.send_raw(bytes);
            let rest = client.rest();
            assert!(!rest.starts_with(b"+PONG"), "the peer port of n{id} answers clients");
        }
        let mut peer = cluster.connection(id);
        let frame =
            [&b"SPN1"[..], &[9, 0, 0, 0, 1, 2, 3, 4], &[0; 24], b"\x01payload\r\n"].concat();
        peer.send_raw(&frame).unwrap();
        peer.send_raw(b"QUIT\r\n").unwrap();
        let answer = String::from_utf8_lossy(&peer.rest()).into_owned();
        assert!(answer.starts_with("-ERR"), "n{id}: {answer}");
    }
    cluster.assert_works();
    assert_eq!((cluster.leader(), cluster.number(1, "raft", "term")), (leader, term));
}

#[test]
fn a_data_directory_is_used_by_its_own_node_of_its_own_cluster_once_at_a_time() {
    let mut cluster = single("identity", "");
    assert_eq!(cluster.connection(1).call(&["SET", "kept", "value"]), Value::OK);
    let elsewhere = |cluster: &Cluster, change: (&str, &str)| {
        let listen = format!("127.0.0.1:{}", free_ports(1));
        run(&mut cluster.command_with(1, &[("--listen", &listen), change]), b"")
    };
    let data = cluster.data_dir(1);
    let data = data.to_str().unwrap();
    elsewhere(&cluster, ("", "")).assert_one_error(7, &[data, "in use by another process"]);
    let taken = run(&mut cluster.command(1), b"");
    taken.assert_one_error(3, &[&format!("127.0.0.1:{}", cluster.port(1)), "in use"]);
    cluster.stop(1);
    elsewhere(&cluster, ("--node-id", "2")).assert_one_error(4, &[data, "node n1", "n2"]);
    let other = elsewhere(&cluster, ("--cluster-id", "beef"));
    other.assert_one_error(4, &[data, "0000000000005a3b", "000000000000beef"]);
    let mut larger = cluster.command(1);
    let refused = run(larger.args(["--peer", "2=127.0.0.1:1"]), b"");
    refused.assert_one_error(4, &[data, "formed of n1, not of n1 n2", "--peer"]);
    let mut forgetful = cluster.command(1);
    let refused = run(forgetful.args(["--session-ttl-ms", "5000"]), b"");
    refused.assert_one_error(4, &[data, "--session-ttl-ms 3600000 there, 5000 here", "State"]);
    let mut raised = cluster.command(1);
    let refused =
        run(raised.args(["--entry-bytes-max", "8388609", "--segment-bytes", "33554432"]), b"");
    refused.assert_one_error(4, &[data, "--entry-bytes-max 8388608 there, 8388609 here"]);
    cluster.restart(1);
    cluster.leader();
    assert_eq!(cluster.get("kept"), "value");
}

#[test]
fn a_node_that_is_told_of_fewer_members_does_not_lead_itself() {
    let mut cluster = Cluster::start("members");
    cluster.assert_works();
    let cluster_id = cluster.info(1, "raft")["cluster_id"].clone();
    cluster.stop(1);
    let mut alone = sampan(["server", "--cluster-id", &cluster_id, "--node-id", "1"]);
    alone.args(["--listen", &format!("127.0.0.1:{}", free_ports(1)), "--data-dir"]);
    run(alone.arg(cluster.data_dir(1)), b"")
        .assert_one_error(4, &["formed of n1 n2 n3, not of n1"]);
    cluster.restart(1);
    cluster.wait_for(1);
    cluster.assert_works();
}

/// The files below a directory, the largest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Turns one byte over, and back when called again.
fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0x20;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_middle_of_the_log_refuses_to_start_and_nothing_is_thrown_away() {
    let mut cluster = single("damaged-log", "");
    let mut c = cluster.connection(1);
    let needle = b"a value to be found in the file";
    for number in 0..50 {
        let value = [&needle[..], number.to_string().as_bytes()].concat();
        assert_eq!(c.call(&[&b"SET"[..], format!("key{number}").as_bytes(), &value]), Value::OK);
    }
    cluster.kill(1);
    let (segment, offset) = files(&cluster.data_dir(1).join("wal"))
        .into_iter()
        .find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            let offset = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((file, offset))
        })
        .expect("the log holds the first value as it was sent");
    flip(&segment, offset);
    let damaged = fs::read(&segment).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    for _ in 0..2 {
        run(&mut cluster.command(1), b"").assert_one_error(5, &["the log is damaged", name]);
    }
    assert!(fs::read(&segment).unwrap() == damaged, "a refused start changes nothing");
    flip(&segment, offset);
    cluster.restart(1);
    cluster.leader();
    assert_eq!(cluster.get("key0"), format!("{}0", String::from_utf8_lossy(needle)));
    assert_eq!(cluster.get("key49"), format!("{}49", String::from_utf8_lossy(needle)));
}

#[test]
fn a_damaged_snapshot_is_never_the_end_of_the_data() {
    const KEYS: usize = 300;
    let flags = "--raft-state-max-bytes 20000 --segment-bytes 262144 --entry-bytes-max 131072 \
                 --batch-bytes-max 4096 --command-bytes-max 8192 --value-bytes-max 4096";
    let mut cluster = single("damaged-snapshot", flags);
    let mut c = cluster.connection(1);
    let value = |number: usize| format!("{number:0>300}");
    let (snapshots, first_segment) = (cluster.data_dir(1).join("snapshots"), {
        let segments = files(&cluster.data_dir(1).join("wal"));
        segments.into_iter().find(|file| file.extension().is_some_and(|e| e == "log")).unwrap()
    });
    // Until the log no longer reaches back to the beginning, and two snapshots do.
    within(Duration::from_secs(20), "snapshots", || {
        for number in 0..KEYS {
            assert_eq!(c.call(&["SET", &format!("key{number}"), &value(number)]), Value::OK);
        }
        (!first_segment.exists() && files(&snapshots).len() > 1).then_some(())
    });
    cluster.stop(1);
    let check = |cluster: &mut Cluster| {
        cluster.restart(1);
        cluster.leader();
        let mut c = cluster.connection(1);
        for number in 0..KEYS {
            let found = c.call(&["GET", &format!("key{number}")]);
            assert_eq!(found.as_bytes(), Some(value(number).as_bytes()));
        }
        cluster.stop(1);
    };
    let before = files(&snapshots);
    let flip_middle = |file: &PathBuf| flip(file, fs::metadata(file).unwrap().len() as usize / 2);
    before.iter().for_each(flip_middle);
    for _ in 0..2 {
        run(&mut cluster.command(1), b"").assert_one_error(5, &["snapshot", "damaged"]);
    }
    assert_eq!(files(&snapshots), before, "a refused start removes nothing");
    // One whole snapshot is enough, whichever it is: the log reaches back to the older one.
    let (newest, older) = before.split_last().unwrap();
    older.iter().for_each(flip_middle);
    check(&mut cluster);
    assert!(!newest.exists(), "a damaged snapshot is set aside");
}

#[test]
fn a_node_without_others_that_cannot_vote_any_more_is_sent_to_its_newest_snapshot() {
    let mut cluster = single("damaged-alone", "");
    let mut c = cluster.connection(1);
    assert_eq!(c.call(&["SET", "kept", "value"]), Value::OK);
    assert_eq!(c.call(&["SNAPSHOT", "NOW"]), Value::OK);
    within(Duration::from_secs(10), "a snapshot", || {
        (cluster.number(1, "raft", "snapshot_index") > 0).then_some(())
    });
    cluster.stop(1);
    let data = cluster.data_dir(1);
    for copy in ["hard_state.a", "hard_state.b"] {
        flip(&data.join(copy), 50);
    }
    let newest = files(&data.join("snapshots")).pop().unwrap();
    let advice = format!("sampan restore {}/snapshots/NEWEST.snap --dir NEW-DIR", data.display());
    let ended = run(&mut cluster.command(1), b"");
    ended.assert_one_error(5, &["hard state is damaged", "there is no other node", &advice]);
    assert!(!ended.stderr.contains("an empty one"), "{ended:?}");
    let mut restore = sampan(["restore", newest.to_str().unwrap(), "--nodes", "1", "--dir"]);
    let ended = run(restore.arg(data.with_extension("restored")), b"");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out().contains("1 keys"), "{ended:?}");
}

#[test]
fn a_full_disk_at_the_start_is_named_and_costs_nothing() {
    let dir = TempDir::new("full-disk");
    let full = dir.path().join("disk");
    fs::create_dir(&full).unwrap();
    // A disk of its own for one process, of this many bytes.
    let on_disk_of = |bytes: u64, setup: &str, args: &str| {
        let script = format!(
            "mount -t tmpfs -o size={bytes} none {full} && {{ {setup}; }} && exec {program} {args}",
            full = full.display(),
            program = env!("CARGO_BIN_EXE_sampan"),
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command
    };
    let can = run(&mut on_disk_of(1 << 20, "true", "--version"), b"");
    if can.code != Some(0) {
        println!("skipped: no small disk can be mounted here: {}", can.stderr.trim());
        return;
    }
    let port = free_ports(1);
    let data = full.join("data");
    let server = format!(
        "server --node-id 1 --cluster-id 5a3b --listen 127.0.0.1:{port} --data-dir {}",
        data.display()
    );
    let small = run(&mut on_disk_of(1 << 20, "true", &server), b"");
    small.assert_one_error(6, &["no space left on the device"]);
    // Data that fill the disk they are on: what is there is served, and what does not fit refused.
    let mut cluster = single("full-disk-data", "");
    assert_eq!(cluster.connection(1).call(&["SET", "kept", "value"]), Value::OK);
    // A start on a full disk begins a segment, for which it has the one that is ready.
    within(Duration::from_secs(10), "a segment that is ready", || {
        let files = fs::read_dir(cluster.data_dir(1).join("wal")).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.find(|name| Path::new(name).extension().is_some_and(|kind| kind == "spare"))
    });
    cluster.stop(1);
    let fill = format!(
        "cp -r {} {} && {{ dd if=/dev/zero of={}/ballast bs=4096 2>/dev/null; true; }}",
        cluster.data_dir(1).display(),
        data.display(),
        full.display()
    );
    let mut command = on_disk_of(96 << 20, &fill, &server);
    let process = Process::start(&mut command, &dir.path().join("log"));
    let mut c = within(Duration::from_secs(10), "a start", || Connection::open(port).ok());
    assert_eq!(c.call(&["GET", "kept"]), Value::Bulk("value".into()));
    let megabyte = vec![b'x'; 1 << 20];
    let refused = within(Duration::from_secs(10), "a refusal", || {
        Some(c.call(&[&b"SET"[..], b"more", &megabyte])).filter(|reply| *reply != Value::OK)
    });
    assert!(error(&refused).starts_with("NOSPACE "), "{refused:?}");
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("warning: disk full"), "{log}");
    assert_eq!(c.call(&["GET", "kept"]), Value::Bulk("value".into()));
    drop(process);
    cluster.restart(1);
    cluster.leader();
    assert_eq!(cluster.get("kept"), "value");
}

#[test]
fn settings_that_make_no_sense_are_named_with_what_is_accepted() {
    let node = |flag| {
        let node = ["server", "--node-id", "1", "--cluster-id", "1", "--data-dir", "/proc/none"];
        [&node[..], &[flag, "9223372036854775807"]].concat()
    };
    for (args, words) in [
        (&["server"][..], &["node-id is missing", "SAMPAN_NODE_ID"][..]),
        (&["server", "--node-id", "1", "--cluster-id", "1"], &["data-dir is missing"]),
        (&["cluster", "--nodes", "0", "--dir", "/proc/none"], &["/proc/none"]),
        (&["get", "k", "--servers", "nowhere"], &["servers: 'nowhere': want HOST:PORT"]),
        (&node("--election-timeout-ms"), &["--election-timeout-max-ms", "at most 86400s"]),
        (&node("--read-bytes"), &["--read-bytes is 9223372036854775807: want at most 67108864"]),
    ] {
        let ended = run(&mut sampan(args), b"");
        assert!(matches!(ended.code, Some(2 | 6)), "{ended:?}");
        ended.assert_one_error(ended.code.unwrap(), words);
    }
    // A file is where the directory, or one above it, should be.
    let dir = TempDir::new("no-directory");
    let file = dir.path().join("my-data_dir");
    fs::write(&file, "").unwrap();
    for path in [&file, &file.join("clients_max")] {
        let mut command = sampan(["server", "--node-id", "1", "--cluster-id", "1", "--data-dir"]);
        let ended = run(command.arg(path).args(["--listen", "127.0.0.1:0"]), b"");
        let setting = format!("bad configuration: --data-dir is {}, ", path.display());
        ended.assert_one_error(2, &[&setting, file.to_str().unwrap(), "want a directory"]);
        let ended = run(sampan(["cluster", "--dir"]).arg(path), b"");
        ended.assert_one_error(2, &["--dir", path.to_str().unwrap(), "want a directory"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"");
    // clap's own: it shows the usage as well.
    for args in
        [&["server", "--heartbeat-ms", "soon"][..], &["frob"], &["set"], &["server", "--peer", "x"]]
    {
        let ended = run(&mut sampan(args), b"");
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
    for (flag, value, wanted) in [
        ("--heartbeat-ms", "5s", "want a whole number, 0 or more"),
        ("--disk-stall-ms", "-1", "want a whole number, 0 or more"),
        ("--shards", "18446744073709551616", "want a whole number, 0 to 18446744073709551615"),
        ("--accept-backlog", "65536", "want a whole number, 0 to 65535"),
        ("--raft-state-max-bytes", "1mb", "want bytes, 0 to 9223372036854775807, or -1 for never"),
        ("--raft-state-max-bytes", "9223372036854775808", "want bytes, 0 to 9223372036854775807, "),
        ("--on-damage", "maybe", "want refuse, rejoin or repair"),
    ] {
        let ended = run(&mut sampan(["server", flag, value]), b"");
        assert!(ended.stderr.contains(flag), "{ended:?}");
        assert!(ended.stderr.contains(&format!(">': {wanted}")), "{ended:?}");
    }
    let small = ["server", "--entry-bytes-max", "100"];
    let identity = ["--node-id", "1", "--cluster-id", "1", "--data-dir", "/proc/none"];
    let ended = run(&mut sampan([&small[..], &identity].concat()), b"");
    ended.assert_one_error(2, &["--batch-bytes-max", "nothing fits --entry-bytes-max"]);
}

#[test]
fn a_cluster_says_which_argument_of_its_nodes_is_wrong() {
    let dir = TempDir::new("node-arguments");
    let mut cluster = sampan(["cluster", "--port", &free_ports(3).to_string(), "--dir"]);
    let ended = run(cluster.arg(dir.path()).args(["--", "--bogus"]), b"");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("unexpected argument '--bogus'"), "{ended:?}");
}

#[test]
fn the_environment_is_above_the_file_and_below_the_flags() {
    let dir = TempDir::new("layers");
    let file = dir.path().join("sampan.toml");
    fs::write(&file, "node-id = 1\ncluster-id = \"1\"\nheartbeat-ms = 0\nclients-max = 0\n")
        .unwrap();
    let ended = |flags: &[&str], environment: &[(&str, &str)]| {
        let mut command = sampan(["server", "--data-dir"]);
        command.arg(dir.path().join("data")).args(flags);
        command.env("SAMPAN_CONFIG", &file).envs(environment.iter().copied());
        run(&mut command, b"")
    };
    ended(&[], &[]).assert_one_error(2, &["--heartbeat-ms"]);
    ended(&[], &[("SAMPAN_HEARTBEAT_MS", "50")]).assert_one_error(2, &["--clients-max is 0"]);
    let flags = ["--heartbeat-ms", "50"];
    ended(&flags, &[("SAMPAN_HEARTBEAT_MS", "0")]).assert_one_error(2, &["--clients-max is 0"]);
    assert!(!dir.path().join("data").exists(), "a bad configuration touches no disk");
}

#[test]
fn a_follower_that_gives_up_its_damaged_log_gets_it_back_from_its_leader() {
    let options = Options::default().flags("--on-damage rejoin");
    let mut cluster = Cluster::start_with("rejoined-log", options);
    let leader = cluster.leader();
    let victim = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let needle = b"a value to be found in the file";
    let mut c = cluster.connection(leader);
    for number in 0..50 {
        let value = [&needle[..], number.to_string().as_bytes()].concat();
        assert_eq!(c.call(&[&b"SET"[..], format!("key{number}").as_bytes(), &value]), Value::OK);
    }
    within(Duration::from_secs(10), "the follower's log", || {
        let (here, there) = (leader, victim);
        let last = |id| cluster.number(id, "raft", "durable_index");
        (last(there) == last(here)).then_some(())
    });
    cluster.kill(victim);
    let (segment, offset) = files(&cluster.data_dir(victim).join("wal"))
        .into_iter()
        .find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            let offset = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((file, offset))
        })
        .expect("the log holds the first value as it was sent");
    flip(&segment, offset);
    cluster.restart(victim);
    let port = cluster.port(victim);
    within(Duration::from_secs(10), "a start", || Connection::open(port).ok());
    within(Duration::from_secs(20), "a repaired log", || {
        let votes = cluster.number(victim, "raft", "voting") == 1;
        let applied = |id| cluster.number(id, "raft", "applied_index");
        (votes && applied(victim) == applied(leader)).then_some(())
    });
    let copy = format!("{}.damaged", segment.display());
    assert!(fs::exists(copy).unwrap(), "what was given up is kept to look at");
    let mut c = cluster.connection(victim);
    let found = c.call(&["GET", "key49"]);
    assert_eq!(found.as_bytes(), Some([needle, &b"49"[..]].concat().as_slice()));
}

/// A command with a limit of the system: "-n 400" for good, "-Sn 400" until it asks for more.
fn with_limit(limit: &str, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn a_file_longer_than_may_be_written_finds_no_room_and_ends_no_node() {
    let flags = "--segment-bytes 262144 --entry-bytes-max 131072 --batch-bytes-max 4096 \
                 --command-bytes-max 8192 --value-bytes-max 4096";
    let mut cluster = single("long-files", flags);
    cluster.kill(1);
    // In blocks of 512 bytes, or of 1024 in some shells: shorter than one file of the log.
    let ended = run(&mut with_limit("-f 100", &cluster.command(1)), b"");
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let [warning, refusal] = ended.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{ended:?}")
    };
    assert!(warning.contains("warning: files may have"), "{ended:?}");
    assert!(refusal.contains("no space left on the device"), "{ended:?}");
    // Longer than that, and shorter than what is kept for snapshots.
    let log = cluster.data_dir(1).with_extension("files.log");
    let _process = Process::start(&mut with_limit("-f 600", &cluster.command(1)), &log);
    let mut c =
        within(Duration::from_secs(10), "a start", || Connection::open(cluster.port(1)).ok());
    let value = vec![b'x'; 4_000];
    let mut write = |number: i64| c.call(&[&b"SET"[..], number.to_string().as_bytes(), &value]);
    let (taken, refused) = (0..1_000)
        .map(|number| (number, write(number)))
        .find(|(_, reply)| *reply != Value::OK)
        .expect("a limit");
    assert!(error(&refused).starts_with("NOSPACE "), "{refused:?}");
    assert_eq!(c.call(&["DBSIZE"]), Value::Integer(taken));
}

#[test]
fn a_low_limit_of_open_files_refuses_clients_and_stops_no_node() {
    let mut cluster = single("files", "");
    let mut c = cluster.connection(1);
    let value = vec![b'x'; 1 << 20];
    assert_eq!(c.call(&[&b"SET"[..], b"k", &value]), Value::OK);
    cluster.kill(1);

    let ended = run(&mut with_limit("-n 400", &cluster.command(1)), b"");
    ended.assert_one_error(1, &["400 open files are allowed (ulimit -n)", "more than 512"]);

    let mut command = with_limit("-n 532", &cluster.command(1));
    let log = cluster.data_dir(1).with_extension("files.log");
    let _process = Process::start(&mut command, &log);
    let port = cluster.port(1);
    let mut c = within(Duration::from_secs(10), "a start", || Connection::open(port).ok());
    assert_eq!(c.call(&["PING"]), Value::Simple("PONG".into()));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("warning: 20 clients at most, not 10000"), "{log}");
    // More than there are files for at all.
    let mut refused = 0;
    let crowd: Vec<Connection> = (0..600).map(|_| Connection::open(port).unwrap()).collect();
    for mut one in crowd {
        _ = one.send(&["PING"]);
        match one.reply() {
            Ok(Value::Simple(text)) => assert_eq!(text, "PONG"),
            Ok(reply) => {
                assert_eq!(error(&reply), "ERR max number of clients reached");
                refused += 1;
            }
            // It was closed before it had said anything.
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= 500, "{refused}");
    // New segments, synced directories, a snapshot: there are files for all of it.
    for _ in 0..40 {
        assert_eq!(c.call(&[&b"SET"[..], b"k", &value]), Value::OK);
    }
    assert_eq!(c.call(&["SNAPSHOT", "NOW"]), Value::OK);
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised_for_as_many_clients_as_are_wanted() {
    let mut cluster = single("soft-files", "--clients-max 100");
    cluster.kill(1);
    let log = cluster.data_dir(1).with_extension("files.log");
    let _process = Process::start(&mut with_limit("-Sn 60", &cluster.command(1)), &log);
    let ping = |connection: &mut Connection| connection.try_call(&["PING"]).ok();
    let is_well = |reply: &Value| *reply == Value::Simple("PONG".into());
    within(Duration::from_secs(10), "a start", || {
        ping(&mut Connection::open(cluster.port(1)).ok()?).filter(is_well)
    });
    // More than the soft limit alone has files for.
    let crowd = (0..80).map(|_| Connection::open(cluster.port(1)).unwrap());
    for mut one in crowd.collect::<Vec<_>>() {
        assert!(ping(&mut one).is_some_and(|reply| is_well(&reply)));
    }
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("clients at most"), "{log}");
}

#[test]
fn a_signal_ends_a_node_that_has_not_started_yet() {
    let dir = TempDir::new("starting");
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    // Somebody has the directory and never comes to the end of who that is: so the start takes for
    // ever.
    let lock = data.join("lock");
    mkfifoat(CWD, &lock, Mode::RWXU).unwrap();
    let mut holder = File::options().read(true).write(true).open(&lock).unwrap();
    holder.try_lock().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let listen = format!("127.0.0.1:{}", free_ports(1));
        let mut command = sampan(["server", "--node-id", "1", "--cluster-id", "1"]);
        command.args(["--listen", &listen, "--data-dir"]).arg(&data);
        holder.write_all(b"x").unwrap();
        let mut process = Process::start(&mut command, &dir.path().join("log"));
        within(Duration::from_secs(10), "it reads who has the directory", || {
            (ioctl_fionread(&holder).unwrap() == 0).then_some(())
        });
        process.signal(signal);
        let ended = process.wait(Duration::from_secs(10));
        assert_eq!(ended.signal(), Some(signal.as_raw()));
    }
}
