//! `sampan backup` of bytes that do not verify: damaged at rest, or on the way, by a node that
//! looks at its own file when it is told, and by one of before that.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sampan_resp::Value;

use crate::backups::{backup, flip, names, restore, said};
use crate::harness::{Cluster, Ended, Options, TempDir, run, sampan};

/// Where the proxy turns a byte over, in the answers of a connection.
const FLIPPED_AT: usize = 20_000;

/// A node with a snapshot of more than that.
fn node(name: &str) -> Cluster {
    let cluster = Cluster::start_with(name, Options { nodes: 1, ..Options::default() });
    let value = "v".repeat(5 * FLIPPED_AT);
    assert_eq!(cluster.connection(1).call(&["SET", "key", &value]), Value::OK);
    cluster
}

fn snapshots(cluster: &Cluster, ending: &str) -> Vec<PathBuf> {
    let directory = cluster.data_dir(1).join("snapshots");
    let mut names = names(&directory);
    names.sort();
    names.retain(|name| name.ends_with(ending));
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// Damages the newest snapshot.
fn rot(cluster: &Cluster) {
    flip(&snapshots(cluster, ".snap").pop().unwrap(), FLIPPED_AT);
}

#[track_caller]
fn warnings(ended: &Ended) -> Vec<&str> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.lines().all(|line| line.starts_with("warning: ")), "{ended:?}");
    ended.stderr.lines().collect()
}

/// A proxy that turns a byte over in so many connections' answers. To a node of before `BACKUP
/// DAMAGED`, if that is so.
fn proxy(to: u16, flips: usize, is_old: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicUsize::new(flips));
    let requests = move |bytes: &mut [u8], _| {
        let place = bytes.windows(7).position(|window| window == b"DAMAGED").filter(|_| is_old);
        if let Some(place) = place {
            bytes[place + 6] = b'X';
        }
    };
    let answers = move |bytes: &mut [u8], at: usize| {
        let one_less = |left: usize| left.checked_sub(1);
        if let Some(byte) = FLIPPED_AT.checked_sub(at).and_then(|place| bytes.get_mut(place))
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
        {
            *byte ^= 1;
        }
    };
    std::thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let far = TcpStream::connect(("127.0.0.1", to)).unwrap();
            pass(near.try_clone().unwrap(), far.try_clone().unwrap(), requests);
            pass(far, near, answers.clone());
        }
    });
    port
}

/// Passes on what comes, changed by what is told the bytes and how many were before them.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    change: impl Fn(&mut [u8], usize) + Send + 'static,
) {
    std::thread::spawn(move || {
        let (mut passed, mut buffer) = (0, [0; 4_096]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            change(&mut buffer[..count], passed);
            passed += count;
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn a_snapshot_that_rots_at_rest_costs_a_warning_and_no_backup() {
    let dir = TempDir::new("rotten");
    let to = |name: &str| dir.path().join(name);
    let cluster = node("rotten");
    let before = run(&mut backup(&to("before"), cluster.port(1)), b"");
    assert_eq!(warnings(&before), [""; 0]);
    rot(&cluster);
    let after = run(&mut backup(&to("after"), cluster.port(1)), b"");
    let [warning] = warnings(&after)[..] else { panic!("one warning: {after:?}") };
    let address = format!("127.0.0.1:{}", cluster.port(1));
    for words in ["damaged at offset", "given up", &format!("beginning anew at {address}")] {
        assert!(warning.contains(words), "{warning}");
    }
    assert_eq!(said(&after, "digest "), said(&before, "digest "), "nothing was written since");
    assert_eq!(snapshots(&cluster, ".damaged").len(), 1);
    assert!(cluster.log(1).contains("it is set aside"), "{}", cluster.log(1));
    let again = run(&mut backup(&to("again"), cluster.port(1)), b"");
    assert_eq!(warnings(&again), [""; 0], "that one is sound");
    let restored = run(&mut restore(&to("after"), &to("restored")), b"");
    assert_eq!(said(&restored, "digest "), said(&before, "digest "));
    let mut names = names(dir.path());
    names.sort();
    assert_eq!(names, ["after", "again", "before", "restored"]);
}

#[test]
fn damage_on_the_way_is_met_with_another_attempt_and_the_node_keeps_its_snapshot() {
    let dir = TempDir::new("on-the-way");
    let file = dir.path().join("backup");
    let cluster = node("on-the-way");
    let once = run(&mut backup(&file, proxy(cluster.port(1), 1, false)), b"");
    let [warning] = warnings(&once)[..] else { panic!("one warning: {once:?}") };
    assert!(warning.contains("the node finds its own file sound"), "{warning}");
    assert_eq!(snapshots(&cluster, "").len(), 1);

    let other = dir.path().join("other");
    let always = run(&mut backup(&other, proxy(cluster.port(1), usize::MAX, false)), b"");
    always.assert_one_error(5, &["no node gave a backup", "is damaged at offset", "sound"]);
    assert_eq!(always.stderr.matches("warning: ").count(), 1, "{always:?}");
    assert_eq!(names(dir.path()), ["backup"]);
    assert_eq!(snapshots(&cluster, "").len(), 1);
}

/// A node whose disk cannot read its snapshots, whichever it takes. Counts the backups that it
/// begins.
fn unreadable(begun: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let begun = begun.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    let reply: &[u8] = if request.contains("BEGIN") {
                        begun.fetch_add(1, Ordering::SeqCst);
                        b"*4\r\n$2\r\n1f\r\n:1\r\n:1\r\n:9000\r\n"
                    } else if request.contains("READ") {
                        b"-ERR reading the backup: Input/output error\r\n"
                    } else {
                        b":1\r\n"
                    };
                    client.write_all(reply).unwrap();
                }
            });
        }
    });
    port
}

#[test]
fn what_the_disk_of_a_node_cannot_read_is_damaged() {
    let dir = TempDir::new("unreadable");
    let begun = Arc::new(AtomicUsize::new(0));
    let refused = run(&mut backup(&dir.path().join("backup"), unreadable(begun.clone())), b"");
    refused.assert_one_error(5, &["reading the backup: Input/output error", "given up"]);
    assert_eq!(refused.stderr.matches("warning: ").count(), 1, "{refused:?}");
    assert_eq!((begun.load(Ordering::SeqCst), names(dir.path()).len()), (2, 0));
}

#[test]
fn a_node_that_cannot_be_told_of_damage_is_not_asked_again() {
    let dir = TempDir::new("not-told");
    let file = dir.path().join("backup");
    let cluster = node("not-told");
    assert_eq!(run(&mut backup(&dir.path().join("sound"), cluster.port(1)), b"").code, Some(0));
    rot(&cluster);
    let old = proxy(cluster.port(1), 0, true);
    let refused = run(&mut backup(&file, old), b"");
    refused.assert_one_error(5, &["is damaged at offset", "does not say", "'DAMAGEX'"]);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(!Path::exists(&file));

    // The same node again stands for another one.
    let servers = format!("127.0.0.1:{old},127.0.0.1:{}", cluster.port(1));
    let both = run(sampan(["backup", "--servers", &servers]).arg(&file), b"");
    let [first, second] = warnings(&both)[..] else { panic!("two warnings: {both:?}") };
    assert!(first.contains("does not say") && second.contains("given up"), "{both:?}");
}

/// A node that begins a backup, closes the connection at the first piece, and takes no more
/// clients.
fn full() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut buffer = [0; 4_096];
        _ = client.read(&mut buffer).unwrap();
        client.write_all(b"*4\r\n$2\r\n1f\r\n:1\r\n:1\r\n:9000\r\n").unwrap();
        _ = client.read(&mut buffer).unwrap();
        drop(client);
        while let Ok((mut client, _)) = listener.accept() {
            _ = client.write_all(b"-ERR max number of clients reached\r\n");
        }
    });
    port
}

#[test]
fn a_node_that_has_no_room_for_a_client_is_not_damaged() {
    let dir = TempDir::new("no-room");
    let refused = run(&mut backup(&dir.path().join("backup"), full()), b"");
    refused.assert_one_error(3, &["no node gave a backup", "max number of clients reached"]);
}
