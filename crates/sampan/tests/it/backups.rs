//! `sampan backup` and `sampan restore` over real processes: what is in a backup, what the restored
//! cluster knows, and that nothing half-written is ever taken for a backup or a cluster.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use sampan_resp::Value;

use crate::harness::{
    Cluster, Ended, Load, LoadOptions, Options, Process, TempDir, free_ports, run, sampan, within,
};

pub(crate) fn backup(to: &Path, port: u16) -> Command {
    let mut command = sampan(["backup", "--servers", &format!("127.0.0.1:{port}")]);
    command.arg(to);
    command
}

pub(crate) fn restore(from: &Path, dir: &Path) -> Command {
    let mut command = sampan(["restore", "--cluster-id", "ca5e", "--dir"]);
    command.arg(dir).arg(from);
    command
}

/// What a command that succeeded says after this word.
#[track_caller]
pub(crate) fn said<'a>(ended: &'a Ended, word: &str) -> &'a str {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let after = ended.out().split_once(word).unwrap_or_else(|| panic!("no {word}: {ended:?}")).1;
    after.split_whitespace().next().unwrap()
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Turns one byte over.
pub(crate) fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0x20;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_backup_under_load_becomes_a_cluster_that_knows_every_write_acknowledged_before_it_began() {
    let dir = TempDir::new("backup");
    let (file, restored) = (dir.path().join("backup"), dir.path().join("restored"));
    let cluster = Cluster::start("backed-up");
    let mut c = cluster.connection(cluster.leader());
    let Value::Integer(session) = c.call(&["SESSION", "OPEN"]) else { panic!("no session") };
    let once: [&str; 5] = ["ONCE", &session.to_string(), "1", "INCR", "counter"];
    assert_eq!(c.call(&once), Value::Integer(1));
    assert_eq!(c.call(&["SET", "lasting", "v", "EX", "1000"]), Value::OK);
    let options = LoadOptions { readers: 1, ..LoadOptions::default() };
    let load = Load::start(&cluster, options);
    within(Duration::from_secs(20), "writes", || (load.writes() > 500).then_some(()));

    let floors: Vec<u64> = (0..options.writers).map(|w| load.register(w).floor()).collect();
    // At a follower: what the leader has just acknowledged it may not have heard of yet.
    assert_eq!(c.call(&["SET", "last", "v"]), Value::OK);
    let backed_up = run(&mut backup(&file, cluster.port(cluster.follower())), b"");
    let digest = said(&backed_up, "digest ").to_owned();
    let writes = load.writes();
    within(Duration::from_secs(20), "writes", || (load.writes() > writes + 300).then_some(()));
    let floor_at_end = load.register(0).floor();
    assert_eq!(load.stop_and_check(&cluster), Vec::<String>::new());
    drop(cluster);

    assert_eq!(said(&run(&mut restore(&file, &restored), b""), "digest "), digest);
    let cluster = Cluster::start_from("restored", "ca5e", &restored);
    let again = run(&mut backup(&dir.path().join("again"), cluster.port(cluster.leader())), b"");
    assert_eq!(said(&again, "digest "), digest, "nothing was written since");
    assert_eq!(said(&again, "cluster "), "000000000000ca5e");

    for (writer, floor) in floors.iter().enumerate() {
        let value = cluster.get(&Load::register_key(writer)).parse().unwrap_or(0);
        assert!(value >= *floor, "register {writer} is {value}, {floor} was acknowledged before");
    }
    let first: u64 = cluster.get(&Load::register_key(0)).parse().unwrap();
    assert!(first < floor_at_end, "the load went on while the backup was made and after");
    assert_eq!(cluster.get("last"), "v");
    let mut c = cluster.connection(cluster.leader());
    assert_eq!(c.call(&once), Value::Integer(1), "a command of before is not done again");
    assert_eq!(c.call(&["GET", "counter"]), Value::Bulk("1".into()));
    let Value::Integer(ttl) = c.call(&["TTL", "lasting"]) else { panic!("no time to live") };
    assert!((900..=1000).contains(&ttl), "{ttl}");
    let Value::Integer(next) = c.call(&["SESSION", "OPEN"]) else { panic!("no session") };
    assert!(next > session);
    cluster.assert_works();
}

#[test]
fn sampan_cluster_runs_what_was_restored() {
    let dir = TempDir::new("restored-cluster");
    let (file, restored) = (dir.path().join("backup"), dir.path().join("new/restored"));
    let single = Cluster::start_with("one-node", Options { nodes: 1, ..Options::default() });
    let mut c = single.connection(1);
    assert_eq!(c.call(&["SET", "k", "v"]), Value::OK);
    assert_eq!(c.call(&["SET", "gone", "v", "PX", "2000"]), Value::OK);
    let backed_up = run(&mut backup(&file, single.port(1)), b"");
    assert_eq!(said(&backed_up, "\n"), "2", "keys");
    let port = free_ports(3).to_string();
    let mut command = restore(&file, &restored);
    command.args(["--nodes", "3", "--port", &port]);
    assert_eq!(run(&mut command, b"").code, Some(0));
    assert_eq!(names(restored.parent().unwrap()), ["restored"]);

    let mut command = sampan(["cluster", "--dir"]);
    let log = dir.path().join("log");
    let mut running = Process::start(command.arg(&restored), &log);
    let value = within(Duration::from_secs(15), "a value", || {
        let got = run(&mut sampan(["get", "k", "--servers", &format!("127.0.0.1:{port}")]), b"");
        (got.code == Some(0)).then(|| got.out().to_owned())
    });
    assert_eq!(value, "v");
    // Times to live end at moments, whichever cluster sees them.
    within(Duration::from_secs(10), "its time is over", || {
        let servers = format!("127.0.0.1:{port}");
        let exists = run(&mut sampan(["exists", "gone", "--servers", &servers]), b"");
        (exists.code == Some(1)).then_some(())
    });
    running.signal(Signal::TERM);
    running.wait(Duration::from_secs(15));
}

/// One node whose backup takes some time: a thousand pieces and more.
fn slow_to_read(name: &str) -> Cluster {
    let options = Options { nodes: 1, ..Options::default() };
    let cluster = Cluster::start_with(name, options.flags("--backup-read-bytes 1000"));
    let mut c = cluster.connection(1);
    let value = "v".repeat(100_000);
    for number in 0..40 {
        assert_eq!(c.call(&["SET", &format!("key{number}"), &value]), Value::OK);
    }
    cluster
}

/// Waits until part of a backup is there.
fn part_of_it(dir: &Path) -> PathBuf {
    within(Duration::from_secs(20), "part of a backup", || {
        let partial = names(dir).into_iter().find(|name| name.ends_with(".partial"))?;
        let path = dir.join(partial);
        (fs::metadata(&path).ok()?.len() > 10_000).then_some(path)
    })
}

#[test]
fn a_backup_that_is_cut_short_leaves_nothing_under_its_name() {
    let dir = TempDir::new("cut-short");
    let file = dir.path().join("backup");
    let mut cluster = slow_to_read("slow");
    let begin = || {
        let mut command = backup(&file, cluster.port(1));
        Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut interrupted = begin();
        part_of_it(dir.path());
        interrupted.signal(signal);
        assert_eq!(interrupted.wait(Duration::from_secs(10)).code(), Some(1));
        assert_eq!(names(dir.path()), [""; 0], "not even what was written so far");
    }

    let killed = begin();
    let partial = part_of_it(dir.path());
    drop(killed);
    assert!(!file.exists() && partial.exists());
    let refused = run(&mut restore(&partial, &dir.path().join("restored")), b"");
    refused.assert_one_error(5, &["is damaged", "ends too early"]);
    assert_eq!(partial, dir.path().join("backup.partial"), "whichever process it was");
    fs::write(&partial, "what is left is not in the way").unwrap();

    let mut abandoned = begin();
    part_of_it(dir.path());
    cluster.kill(1);
    assert_eq!(abandoned.wait(Duration::from_secs(20)).code(), Some(3));
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A proxy that ends its first connection after this many bytes of answers.
fn cutting_proxy(to: u16, bytes: usize) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for bytes_max in [bytes, usize::MAX] {
            let Ok((mut near, _)) = listener.accept() else { return };
            let mut far = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut requests, mut upstream) =
                (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut requests, &mut upstream));
            let mut copied = 0;
            let mut buffer = [0; 4_096];
            while copied < bytes_max {
                let Ok(count @ 1..) = far.read(&mut buffer) else { break };
                if near.write_all(&buffer[..count]).is_err() {
                    break;
                }
                copied += count;
            }
            _ = near.shutdown(Shutdown::Both);
            _ = far.shutdown(Shutdown::Both);
        }
    });
    port
}

#[test]
fn a_backup_goes_on_after_a_lost_connection() {
    let dir = TempDir::new("lost-connection");
    let file = dir.path().join("backup");
    let cluster = slow_to_read("cut");
    let proxied = run(&mut backup(&file, cutting_proxy(cluster.port(1), 500_000)), b"");
    let direct = run(&mut backup(&dir.path().join("direct"), cluster.port(1)), b"");
    assert_eq!(said(&proxied, "digest "), said(&direct, "digest "));
    assert_eq!(fs::read(file).unwrap(), fs::read(dir.path().join("direct")).unwrap());
    let begun = cluster.log(1).matches(" begun: ").count();
    assert_eq!(begun, 2, "it was not begun again");
}

#[test]
fn what_cannot_be_backed_up_or_restored_is_refused_with_one_clear_error() {
    let dir = TempDir::new("refused");
    let (file, restored) = (dir.path().join("backup"), dir.path().join("restored"));
    let options = Options { nodes: 1, ..Options::default() };
    let cluster = Cluster::start_with("to-refuse", options);
    assert_eq!(cluster.connection(1).call(&["SET", "k", "some value to flip"]), Value::OK);
    let port = cluster.port(1);
    assert_eq!(run(&mut backup(&file, port), b"").code, Some(0));
    let sound = fs::read(&file).unwrap();

    // Its nodes, and those of the cluster it is of, would take each other for their own.
    let own_id = cluster.info(1, "raft")["cluster_id"].clone();
    let mut same = sampan(["restore", "--cluster-id", &own_id, "--dir"]);
    run(same.arg(&restored).arg(&file), b"")
        .assert_one_error(2, &[&own_id, "another --cluster-id"]);
    assert!(!restored.exists());

    run(&mut backup(&file, port), b"").assert_one_error(2, &["exists", "--force"]);
    assert_eq!(run(backup(&file, port).arg("--force"), b"").code, Some(0));
    run(&mut backup(dir.path(), port), b"").assert_one_error(2, &["is a directory"]);
    let link = dir.path().join("link");
    symlink(&file, &link).unwrap();
    for path in [&link, Path::new("/dev/null")] {
        let words = [path.to_str().unwrap(), "is no regular file"];
        run(&mut backup(path, port), b"").assert_one_error(2, &words);
        run(backup(path, port).arg("--force"), b"").assert_one_error(2, &words);
    }
    fs::remove_file(&link).unwrap();
    for name in ["none/", "backup/"] {
        let path = dir.path().join(name);
        let words = format!("{} is the name of a directory", path.display());
        run(&mut backup(&path, port), b"").assert_one_error(2, &[&words]);
    }
    let nowhere = dir.path().join("none/backup");
    for _ in 0..5 {
        // None of them takes a backup's place at the node.
        run(&mut backup(&nowhere, port), b"").assert_one_error(6, &["none: No such file"]);
    }
    let other = dir.path().join("other");
    let dead = free_ports(1);
    let refused = run(&mut backup(&other, dead), b"");
    refused.assert_one_error(3, &["no node gave a backup", &dead.to_string(), "refused"]);
    assert!(!other.exists());
    for command in ["backup", "restore", "inspect"] {
        let refused = run(sampan([command, "-"]).current_dir(dir.path()), b"");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("standard input or output is none"), "{refused:?}");
    }
    assert!(!dir.path().join("-").exists());
    for url in ["ftp://host/backup", "s3:/bucket", "s3://", "s3://bucket", "file://relative"] {
        let refused = run(&mut sampan(["backup", url]), b"");
        if url == "s3:/bucket" {
            // A path like any other.
            refused.assert_one_error(6, &["s3:: No such file"]);
        } else {
            assert_eq!(refused.code, Some(2), "{refused:?}");
            assert!(refused.stderr.contains("want FILE"), "{refused:?}");
        }
    }

    let refused = run(&mut restore(&nowhere, &restored), b"");
    refused.assert_one_error(6, &["none/backup", "No such file"]);
    for offset in [0, 9, 20, 4_100, 4_130, sound.len() - 60, sound.len() - 1] {
        flip(&file, offset);
        let refused = run(&mut restore(&file, &restored), b"");
        refused.assert_one_error(5, &[file.to_str().unwrap()]);
        flip(&file, offset);
    }
    for len in [8, 100, 4_096, sound.len() - 1] {
        fs::write(&file, &sound[..len]).unwrap();
        let refused = run(&mut restore(&file, &restored), b"");
        refused.assert_one_error(5, &[file.to_str().unwrap(), "is damaged"]);
    }
    fs::write(&file, [&sound[..], b"more"].concat()).unwrap();
    run(&mut restore(&file, &restored), b"").assert_one_error(5, &["is damaged"]);
    assert!(!restored.exists());
    fs::write(&file, &sound).unwrap();

    let kept = restored.join("kept");
    fs::create_dir(&restored).unwrap();
    fs::write(&kept, "mine").unwrap();
    run(&mut restore(&file, &restored), b"").assert_one_error(2, &["is not empty"]);
    assert_eq!(names(&restored), ["kept"]);
    run(&mut restore(&file, &kept), b"").assert_one_error(2, &["is a file"]);
    fs::remove_file(&kept).unwrap();
    let new = dir.path().join("new");
    let leftovers =
        [(&restored, restored.join(".restoring")), (&new, new.with_extension("restoring"))];
    for (dir, leftover) in leftovers {
        fs::create_dir(&leftover).unwrap();
        let refused = run(&mut restore(&file, dir), b"");
        refused.assert_one_error(2, &[leftover.to_str().unwrap(), "remove"]);
        fs::remove_dir(&leftover).unwrap();
    }
    let nowhere = dir.path().join("link to nothing");
    symlink(dir.path().join("nothing"), &nowhere).unwrap();
    run(&mut restore(&file, &nowhere), b"").assert_one_error(2, &["is a link to nothing"]);
    assert_eq!(names(&restored), [""; 0], "nothing is left of what was refused");
}

#[test]
fn an_empty_directory_is_restored_into_whatever_it_is() {
    let dir = TempDir::new("restored-into");
    let file = dir.path().join("backup");
    let options = Options { nodes: 1, ..Options::default() };
    let cluster = Cluster::start_with("to-restore-into", options);
    assert_eq!(cluster.connection(1).call(&["SET", "k", "some value to flip"]), Value::OK);
    assert_eq!(run(&mut backup(&file, cluster.port(1)), b"").code, Some(0));
    let [plain, target, top] = ["plain", "target", "top"].map(|name| dir.path().join(name));
    for made in [&plain, &target, &top.join("lost+found")] {
        fs::create_dir_all(made).unwrap();
    }
    let link = dir.path().join("link");
    symlink(&target, &link).unwrap();

    flip(&file, 4_130);
    run(&mut restore(&file, &link), b"").assert_one_error(5, &[file.to_str().unwrap()]);
    assert_eq!(names(&target), [""; 0], "nothing is left of it");
    flip(&file, 4_130);
    let mut here = restore(&file, Path::new("."));
    for command in [here.current_dir(&plain), &mut restore(&file, &link), &mut restore(&file, &top)]
    {
        let ended = run(command, b"");
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    fs::remove_dir(top.join("lost+found")).unwrap();
    for dir in [plain, target, top] {
        let mut names = names(&dir);
        names.sort();
        assert_eq!(names, ["cluster.toml", "node1", "node2", "node3"]);
        assert!(dir.join("node3/data/identity").exists());
    }
    assert!(link.is_symlink());
}

#[cfg(feature = "s3")]
#[test]
fn an_object_is_written_whole_or_not_at_all_and_restored_from() {
    let s3 = crate::harness::S3::start();
    let dir = TempDir::new("s3");
    let restored = dir.path().join("restored");
    let cluster = slow_to_read("to-s3");
    // Enough for two parts.
    let mut c = cluster.connection(1);
    let value = vec![b'v'; 1 << 20];
    for number in 0..8 {
        assert_eq!(c.call(&[&b"SET"[..], format!("big{number}").as_bytes(), &value]), Value::OK);
    }
    let url = "s3://bucket/some/backup";
    let command = || {
        let mut command = backup(Path::new(url), cluster.port(1));
        command.envs(s3.environment());
        command
    };
    let mut interrupted =
        Process(command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    within(Duration::from_secs(20), "the first part", || (s3.parts() > 0).then_some(()));
    interrupted.signal(Signal::TERM);
    assert_eq!(interrupted.wait(Duration::from_secs(10)).code(), Some(1));
    assert_eq!((s3.object("some/backup"), s3.open_uploads()), (None, 0), "nothing is left");

    let file = dir.path().join("backup");
    let to_file = run(&mut backup(&file, cluster.port(1)), b"");
    let to_s3 = run(&mut command(), b"");
    assert_eq!(said(&to_s3, "digest "), said(&to_file, "digest "));
    assert_eq!(s3.object("some/backup").unwrap(), fs::read(&file).unwrap());
    assert_eq!(s3.open_uploads(), 0);
    run(&mut command(), b"").assert_one_error(2, &[url, "exists", "--force"]);
    assert_eq!(run(command().arg("--force"), b"").code, Some(0));

    let from_s3 = |url: &str| {
        let mut command = restore(Path::new(url), &restored);
        run(command.envs(s3.environment()), b"")
    };
    from_s3("s3://bucket/other").assert_one_error(6, &["s3://bucket/other", "no such object"]);
    from_s3("s3://other/backup").assert_one_error(6, &["s3://other/backup", "no such"]);
    let mut damaged = s3.object("some/backup").unwrap();
    damaged[1 << 20] ^= 1;
    s3.put("damaged", damaged);
    from_s3("s3://bucket/damaged").assert_one_error(5, &["s3://bucket/damaged is damaged"]);
    assert!(!restored.exists());
    assert_eq!(said(&from_s3(url), "digest "), said(&to_file, "digest "));
    assert!(restored.join("node3/data/identity").exists());
}
