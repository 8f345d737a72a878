//! The rules of the house that no compiler checks: which crate may use which, how long a file may
//! be, and that `ARCHITECTURE.md` names what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files beyond this are more than one subject.
const FILE_LINES_MAX: usize = 800;

/// Where `rustfmt` ends code. It leaves comments as they are.
const COMMENT_COLUMNS_MAX: usize = 100;

/// The arrows of `ARCHITECTURE.md`: crate, and what it may use of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("raft", &["base"]),
    ("kv", &["base"]),
    ("storage", &["base"]),
    ("replica", &["base", "kv", "raft", "storage"]),
    ("resp", &[]),
    ("server", &["base", "kv", "raft", "replica", "resp", "storage"]),
    ("client", &["base", "resp"]),
    ("bench", &["base", "client", "resp"]),
    ("lincheck", &[]),
    ("sim", &["base", "kv", "lincheck", "raft", "replica", "storage"]),
    ("sampan", &["base", "bench", "client", "kv", "resp", "server", "storage"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn crates() -> BTreeMap<String, toml::Table> {
    let folders = fs::read_dir(root().join("crates")).expect("the folder of crates");
    let manifest = |path: PathBuf| {
        let text = fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, text.parse().expect("valid TOML"))
    };
    folders.map(|entry| manifest(entry.expect("an entry").path())).collect()
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.into_iter().flat_map(toml::Table::keys).cloned().collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn arrows_between_crates_point_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, manifest) in crates() {
        let allowed = allowed.get(&*name).unwrap_or_else(|| panic!("crate {name} has no arrows"));
        for used in dependencies(&manifest, "dependencies") {
            if let Some(used) = used.strip_prefix("sampan-") {
                assert!(allowed.contains(&used), "{name} must not use {used}");
            }
        }
    }
}

#[test]
fn a_file_is_one_subject() {
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    assert!(files.len() > 50, "the files were found");
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file");
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", file.display());
        let is_module = file.components().any(|part| part.as_os_str() == "src");
        let is_test = file.to_string_lossy().ends_with("tests.rs");
        if is_module && !is_test {
            assert!(text.starts_with("//!"), "{} does not say what it is", file.display());
        }
    }
}

#[test]
fn comments_end_where_code_does() {
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file");
        // Rows of tables and examples cannot be broken.
        let is_long = |line: &&str| {
            let text = line.trim_start().trim_start_matches(['/', '!']);
            line.trim_start().starts_with("//")
                && line.chars().count() > COMMENT_COLUMNS_MAX
                && !text.starts_with(" |")
                && !text.starts_with("    ")
        };
        let long = text.lines().find(is_long);
        assert_eq!(long, None, "in {}", file.display());
    }
}

/// Bugs are planted by a simulator that was built for it and by nothing else: the feature is there
/// in two crates, off by default, and no dependency turns it on. (`sampan-server` does not compile
/// with it.)
#[test]
fn only_the_simulator_can_plant_bugs() {
    for (name, manifest) in crates() {
        let allowed = match &*name {
            "base" => "plants = []",
            "sim" => "plants = ['sampan-base/plants']",
            "sampan" => "s3 = ['dep:object_store', 'dep:reqwest', 'dep:rustls']",
            _ => "",
        };
        let features = manifest.get("features").and_then(toml::Value::as_table).cloned();
        let allowed: toml::Table = allowed.parse().expect("valid TOML");
        assert_eq!(features.unwrap_or_default(), allowed, "the features of {name}");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let table = format!("{:?}", manifest.get(section));
            assert!(!table.contains("plants"), "{name} has bugs planted in its {section}");
        }
    }
}

#[test]
fn the_architecture_names_every_crate_and_dependency() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(text.lines().count() <= 250, "one page has grown into {}", text.lines().count());
    let (rooms, listed) = text.split_once("## Dependencies").expect("its last section");
    let in_rooms: BTreeSet<&str> = rooms
        .lines()
        .filter_map(|line| line.strip_prefix("**")?.split_once("** — ").map(|(name, _)| name))
        .collect();
    let manifests = crates();
    let there: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    assert_eq!(in_rooms, there, "the rooms described and the crates there are");
    let words: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|names| names.split(", "))
        .collect();
    let used: BTreeSet<String> = manifests
        .values()
        .flat_map(|m| [dependencies(m, "dependencies"), dependencies(m, "dev-dependencies")])
        .flatten()
        .filter(|name| !name.starts_with("sampan"))
        .collect();
    let used: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    let words: BTreeSet<&str> =
        words.into_iter().filter(|w| !["crate", "---"].contains(w)).collect();
    assert_eq!(words, used, "the dependencies listed and the ones used");
}
