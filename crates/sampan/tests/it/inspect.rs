//! `sampan inspect` over what real nodes wrote: all of it is told, damage is told clearly, and nothing
//! is changed.

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

/// A node with a snapshot, and with log before and after it.
fn node(name: &str) -> Cluster {
    let flags = "--segment-bytes 262144 --entry-bytes-max 131072 --batch-bytes-max 4096 \
                 --command-bytes-max 8192 --value-bytes-max 4096";
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

#[test]
fn damage_in_any_file_is_told_with_its_place_and_nothing_is_changed() {
    let mut cluster = node("damaged");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    for (path, bytes) in files(&data) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Nothing is kept in these.
        let is_spare = path.extension().is_some_and(|ending| ending == "spare");
        if ["lock", "reserve"].contains(&&*name) || is_spare {
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
            json(&data, &[], 5);
            assert!(fs::read(&path).unwrap() == damaged, "{name} is left as it is");
        }
        fs::write(&path, bytes).unwrap();
    }
    json(&data, &[], 0);

    let dir = TempDir::new("not-ours");
    let other = dir.path().join("other");
    fs::write(&other, "something else").unwrap();
    run(sampan(["inspect"]).arg(&other), b"")
        .assert_one_error(2, &["not a file that Sampan wrote"]);
    run(sampan(["inspect"]).arg(dir.path()), b"").assert_one_error(2, &["neither a node's"]);
    let none = dir.path().join("none");
    run(sampan(["inspect"]).arg(&none), b"").assert_one_error(6, &["none: No such file"]);
}
