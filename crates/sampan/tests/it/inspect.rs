//! `sampan inspect` over what real nodes wrote: all of it is told, damage is told clearly, and
//! nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sampan_resp::Value;
use serde_json::Value as Json;

use crate::harness::{Cluster, Options, TempDir, run, sampan};

fn json(path: &Path, more: &[&str], code: i32) -> Json {
    let mut command = sampan(["inspect", "--json"]);
    let ended = run(command.args(more).arg(path), b"");
    assert_eq!(ended.code, Some(code), "{ended:?}");
    serde_json::from_str(ended.out()).unwrap()
}

/// All files below a directory.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// The facts of each file of a data directory, by the end of its name.
fn by_ending<'a>(directory: &'a Json, ending: &str) -> Vec<&'a Json> {
    let files = directory["files"].as_array().unwrap();
    files.iter().filter(|file| file["file"].as_str().unwrap().ends_with(ending)).collect()
}

/// A node with a snapshot of several chunks, and with log before and after it.
fn node(name: &str) -> Cluster {
    let flags = "--segment-bytes 262144 --entry-bytes-max 131072 --batch-bytes-max 4096 \
                 --command-bytes-max 8192 --value-bytes-max 4096 --snapshot-chunk-bytes 64";
    let options = Options { nodes: 1, ..Options::default() }.flags(flags);
    let cluster = Cluster::start_with(name, options);
    let mut c = cluster.connection(1);
    for number in 0..20 {
        assert_eq!(c.call(&["SET", &format!("key{number}"), "value"]), Value::OK);
    }
    assert_eq!(c.call(&["SET", "key0", "value", "EX", "1000"]), Value::OK);
    assert_eq!(c.call(&["SESSION", "OPEN"]), Value::Integer(1));
    let dir = TempDir::new("unused");
    let mut backup = sampan(["backup", "--servers", &cluster.addresses()[0]]);
    let file = dir.path().join("backup");
    assert_eq!(run(backup.arg(&file), b"").code, Some(0));
    let snapshots: Vec<Vec<u8>> =
        files(&cluster.data_dir(1).join("snapshots")).into_values().collect();
    assert!(snapshots == [fs::read(file).unwrap()], "a backup is a snapshot, byte for byte");
    assert_eq!(c.call(&["SET", "after", "value"]), Value::OK);
    cluster
}

#[test]
fn a_data_directory_is_told_file_by_file_and_as_a_whole_while_its_node_runs_and_after() {
    let mut cluster = node("inspected");
    let data = cluster.data_dir(1);
    let running = json(&data, &[], 0);
    assert!(running["used_by_process"].is_u64());
    cluster.stop(1);
    let before = files(&data);
    let found = json(&data, &["--entries"], 0);
    assert!(found["used_by_process"].is_null());
    assert_eq!(found["cluster"], "0000000000005a3b");
    let opening = &found["opening"];
    assert_eq!(opening["snapshot_term"], opening["term"]);
    assert!(opening["log_entries"].as_u64().unwrap() >= 1);
    let [snapshot] = by_ending(&found, ".snap")[..] else { panic!("{found}") };
    assert_eq!(snapshot["index"], opening["snapshot_index"]);
    assert_eq!((&snapshot["keys"], &snapshot["sessions"]), (&20.into(), &1.into()));
    assert_eq!(snapshot["keys_with_time_to_live"], 1);
    let [a, b] = ["hard_state.a", "hard_state.b"].map(|file| by_ending(&found, file)[0]);
    assert_eq!((&a["term"], &a["vote"]), (&opening["term"], &opening["vote"]));
    assert_eq!(a["sequence"], b["sequence"]);
    let log = by_ending(&found, ".log");
    let entries: Vec<&Json> = log
        .iter()
        .flat_map(|segment| segment["log"].as_array().unwrap())
        .flat_map(|batch| batch["entries"].as_array().unwrap())
        .collect();
    let last = entries.iter().max_by_key(|entry| entry["index"].as_u64()).unwrap();
    assert_eq!(last["index"], opening["last_index"]);
    let contents = ["no-op", "commands"].map(|c| entries.iter().any(|e| e["content"] == c));
    assert_eq!(contents, [true, true]);
    assert!(entries.iter().any(|entry| entry["commands"] == 1 && entry["time"].is_string()));

    let text = run(sampan(["inspect"]).arg(&data), b"");
    assert_eq!(text.code, Some(0));
    assert!(text.out().starts_with("kind       data directory\n"), "{}", text.out());
    assert!(files(&data) == before, "nothing was changed");
}

/// Does a node without this very file not start?
fn is_needed(name: &str) -> bool {
    ["identity", "members"].contains(&name)
}

/// Is nothing kept in a file of this name?
fn holds_nothing(name: &str) -> bool {
    ["lock", "reserve"].contains(&name) || name.contains(".spare")
}

#[test]
fn zeros_are_damage_except_where_they_hold_nothing() {
    let mut cluster = node("zeroed");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    let sound = files(&data);
    for (path, bytes) in sound {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::write(&path, vec![0; bytes.len()]).unwrap();
        let code = if holds_nothing(&name) { 0 } else { 5 };
        let found = json(&path, &[], code);
        assert_eq!(found["damage"].is_string(), code == 5, "{found}");
        let whole = json(&data, &[], code);
        assert!(whole["opening"].is_null() || !is_needed(&name), "{name}: {whole}");
        fs::write(&path, bytes).unwrap();
    }
    // As a crash leaves what was in the making.
    for (name, len, kind) in [
        ("wal/00000000000000000009.spare", 10_000, "zeros"),
        ("wal/00000000000000000009.spare.tmp", 10_000, "zeros"),
        ("wal/00000000000000000009.log.tmp", 10_000, "zeros"),
        ("identity.tmp", 4_096, "zeros"),
        ("identity.tmp", 0, "unknown"),
        ("snapshots/00000000000000ff.snap.tmp", 10_000, "unfinished snapshot"),
    ] {
        let path = data.join(name);
        fs::write(&path, vec![0; len]).unwrap();
        assert_eq!(json(&path, &[], 0)["kind"], kind, "{name}");
        assert_eq!(by_ending(&json(&data, &[], 0), name)[0]["kind"], kind, "{name}");
        fs::remove_file(&path).unwrap();
    }
    fs::write(data.join("of-nobody"), [0; 10_000]).unwrap();
    assert_eq!(by_ending(&json(&data, &[], 0), "of-nobody")[0]["kind"], "not of Sampan");
}

#[test]
fn damage_in_any_file_is_told_with_its_place_and_nothing_is_changed() {
    let mut cluster = node("damaged");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    for (path, bytes) in files(&data) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if holds_nothing(&name) {
            continue;
        }
        assert!(json(&path, &[], 0)["damage"].is_null());
        // In the first page, and where there is more, in what follows it.
        for offset in [0, 8, 30, 4_100].into_iter().filter(|&offset| offset < bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x20;
            fs::write(&path, &damaged).unwrap();
            let found = json(&path, &[], 5);
            assert!(found["damage"].is_string(), "{name} at {offset}: {found}");
            let ended = run(sampan(["inspect"]).arg(&path), b"");
            ended.assert_one_error(5, &[path.to_str().unwrap(), "damaged"]);
            assert!(ended.out().contains("damage "), "{}", ended.out());
            let whole = json(&data, &[], 5);
            let refuses = whole["damage"].as_str().is_some_and(|why| why.starts_with(&name));
            assert!(refuses && whole["opening"].is_null() || !is_needed(&name), "{name}: {whole}");
            assert!(fs::read(&path).unwrap() == damaged, "{name} is left as it is");
        }
        fs::write(&path, bytes).unwrap();
    }
    json(&data, &[], 0);

    let dir = TempDir::new("not-ours");
    let other = dir.path().join("other");
    fs::write(&other, "something else").unwrap();
    run(sampan(["inspect"]).arg(&other), b"")
        .assert_one_error(5, &["not a file that Sampan wrote"]);
    run(sampan(["inspect"]).arg(dir.path()), b"").assert_one_error(2, &["neither a node's"]);
    let none = dir.path().join("none");
    run(sampan(["inspect"]).arg(&none), b"").assert_one_error(6, &["none: No such file"]);
}

#[test]
fn a_snapshot_that_is_not_finished_is_not_damaged() {
    let mut cluster = node("unfinished");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    let sound = json(&data, &[], 0);
    let [snapshot] = by_ending(&sound, ".snap")[..] else { panic!("{sound}") };
    let bytes = fs::read(snapshot["file"].as_str().unwrap()).unwrap();
    let chunks = snapshot["chunks"].as_u64().unwrap();
    assert!(chunks > 2, "{snapshot}");
    let half = &bytes[..4_096 + 200];
    let with_room = [half, &vec![0; bytes.len() - half.len()]].concat();
    let over_another = [half, &vec![0xa5; bytes.len() - half.len()]].concat();
    for (name, bytes, least) in [
        ("00000000000000ff.partial", half, 1),
        ("00000000000000ff.partial", &with_room, 1),
        ("00000000000000ff.partial", &[], 0),
        ("00000000000000ff.partial", &[0; 10_000], 0),
        ("00000000000000ff.snap.tmp", half, 1),
        ("00000000000000ff.snap.tmp", &over_another, 1),
        ("00000000000000ff.snap.tmp", b"anything", 0),
        ("monday.partial", half, 1),
        ("monday.partial", &[0; 10_000], 0),
    ] {
        let path = data.join("snapshots").join(name);
        fs::write(&path, bytes).unwrap();
        let found = json(&path, &[], 0);
        assert_eq!(found["kind"], "unfinished snapshot");
        let whole = found["whole_chunks"].as_u64().unwrap();
        assert!(least <= whole && whole < chunks, "{found}");
        assert_eq!(found["header_says"].is_object(), least > 0, "{found}");
        let listed = json(&data, &[], 0);
        assert_eq!(by_ending(&listed, name), [&found]);
        let text = run(sampan(["inspect"]).arg(&data), b"");
        assert!(!text.out().contains("damaged"), "{}", text.out());
        fs::remove_file(&path).unwrap();
    }
    let path = data.join("snapshots/00000000000000ff.partial");
    fs::write(&path, &bytes).unwrap();
    let whole = json(&path, &[], 0);
    assert_eq!((&whole["whole_chunks"], &whole["keys"]), (&chunks.into(), &20.into()));
}

#[test]
fn damage_is_said_once_and_with_the_name_of_the_file() {
    let mut cluster = node("said-once");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    let name = |ending: &str| {
        let found = json(&data, &[], 0);
        by_ending(&found, ending)[0]["file"].as_str().unwrap().to_owned()
    };
    for (file, offset, why) in [
        (name(".snap"), 4_130, "at offset 4096: the chunk is not what was written"),
        (name(".log"), 30, "its checksum does not match"),
        (name("identity"), 30, "its checksum does not match"),
    ] {
        let sound = fs::read(&file).unwrap();
        let mut damaged = sound.clone();
        damaged[offset] ^= 1;
        fs::write(&file, damaged).unwrap();
        let ended = run(&mut sampan(["inspect", &file]), b"");
        assert_eq!(ended.code, Some(5));
        let line = format!("sampan: {file}: damaged: {why}");
        assert!(ended.stderr.starts_with(&line), "{line}: {}", ended.stderr);
        assert!(!ended.out().contains("damaged"), "{}", ended.out());
        let whole = run(sampan(["inspect"]).arg(&data), b"");
        assert_eq!(whole.stderr.matches("damaged").count(), 1, "{}", whole.stderr);
        fs::write(&file, sound).unwrap();
    }
}

#[test]
fn what_was_set_aside_is_listed_with_its_size() {
    let mut cluster = node("set-aside");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    let sound = json(&data, &[], 0);
    for ending in [".snap", ".log"] {
        let file = by_ending(&sound, ending)[0]["file"].as_str().unwrap();
        let mut bytes = fs::read(file).unwrap();
        let aside = format!("{file}.damaged");
        for offset in [4_196, 0] {
            bytes[offset] ^= 1;
            fs::write(&aside, &bytes).unwrap();
            let found = json(&data, &[], 0);
            let [listed] = by_ending(&found, ".damaged")[..] else { panic!("{found}") };
            assert_eq!(
                (&listed["kind"], &listed["bytes"]),
                (&"set aside".into(), &bytes.len().into())
            );
            assert!(listed["not_whole"].is_string(), "{listed}");
            assert!(json(Path::new(&aside), &[], 5)["damage"].is_string());
        }
        fs::remove_file(&aside).unwrap();
    }
}

#[test]
fn what_holds_no_data_is_known_by_its_name() {
    let mut cluster = node("by-name");
    let lock = json(&cluster.data_dir(1).join("lock"), &[], 0);
    assert_eq!(lock["kind"], "lock of a data directory");
    assert!(lock["process"].is_u64(), "{lock}");
    cluster.stop(1);

    let dir = TempDir::new("by-name");
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let shape = "# a comment\ncluster-id = \"0000000000005a3b\"\nnodes = 3\nport = 7001\n";
    for (name, text, kind) in [
        ("lock", "", "lock of a data directory"),
        ("cluster.lock", "17\n", "lock of a cluster directory"),
        ("log", "a line\n", "log lines"),
        ("log.old", "", "log lines"),
        ("cluster.toml", shape, "shape of a cluster"),
    ] {
        assert_eq!(json(&file(name, text), &[], 0)["kind"], kind, "{name}");
    }
    let found = json(&dir.path().join("cluster.toml"), &[], 0);
    assert_eq!((&found["cluster"], &found["nodes"]), (&"0000000000005a3b".into(), &3.into()));
    let broken = run(sampan(["inspect"]).arg(file("cluster.toml", "nodes = 3")), b"");
    broken.assert_one_error(5, &["cluster.toml: damaged: missing field"]);
}
