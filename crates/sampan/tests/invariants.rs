//! Holds `docs/invariants.md` against the code: every property has its statement, source, assertion,
//! checker and transcript, and what is named there exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files of the checkers' folder that keep books for the others and report nothing themselves.
const BOOKS: [&str; 2] = ["registry.rs", "shape.rs"];
/// What a function that asserts something contains one of.
const ASSERTING: [&str; 6] =
    ["assert!(", "assert_eq!(", "panic!(", ".expect", "expect_err(", "Fatal::"];

struct Property {
    id: String,
    asserted: Vec<String>,
    checked_by: Vec<String>,
    transcripts: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of all rows of tables with so many columns; heads and rulers left out.
fn rows(columns: usize) -> Vec<Vec<String>> {
    let page = read(&root().join("docs/invariants.md"));
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| {
        let inner = row.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    cells.filter(|cells| cells.len() == columns).collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn properties() -> Vec<Property> {
    let property = |cells: Vec<String>| {
        let id = quoted(&cells[0]).concat();
        for (cell, name) in cells.iter().zip(["id", "statement", "source"]) {
            assert!(!cell.is_empty(), "{id} has no {name}");
        }
        let cites = |word: &&str| cells[2].contains(word);
        assert!(["paper", "thesis", "design", "HW"].iter().any(cites), "{id}: {}", cells[2]);
        let [asserted, checked_by, transcripts] = [3, 4, 5].map(|column| quoted(&cells[column]));
        assert!(!asserted.is_empty(), "{id} is asserted nowhere");
        assert!(!checked_by.is_empty(), "{id} is checked by nobody");
        assert!(!transcripts.is_empty(), "{id} has no transcript");
        Property { id, asserted, checked_by, transcripts }
    };
    rows(6).into_iter().map(property).collect()
}

/// The file that a reference names: in a crate's sources, tests, or transcripts.
fn file(reference: &str) -> PathBuf {
    let path = reference.split("::").next().unwrap_or_default();
    let (name, rest) = path.split_once('/').unwrap_or_else(|| panic!("not crate/file: {path}"));
    let folder = root().join("crates").join(name);
    let places = ["src", "tests", "tests/scripts"].map(|place| folder.join(place).join(rest));
    let found = places.into_iter().find(|place| place.is_file());
    found.unwrap_or_else(|| panic!("there is no file {path}"))
}

/// The text of the function that a reference names.
fn function(reference: &str) -> String {
    let name = reference.split("::").nth(1);
    let name = name.unwrap_or_else(|| panic!("{reference} names no function"));
    let text = read(&file(reference));
    let is_head = |line: &&str| {
        let mut heads = [format!("fn {name}("), format!("fn {name}<")].into_iter();
        heads.any(|head| line.contains(&head))
    };
    let head = text.lines().find(is_head);
    let head = head.unwrap_or_else(|| panic!("there is no function {reference}"));
    let indent = &head[..head.len() - head.trim_start().len()];
    let end = format!("{indent}}}");
    let body = text.lines().skip_while(|line| *line != head).take_while(|line| *line != end);
    body.collect::<Vec<_>>().join("\n")
}

/// The names under which a text reports violations.
fn reported(text: &str) -> BTreeSet<String> {
    let calls = text.split("Violation::new(").skip(1);
    let names = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next());
    names.map(str::to_owned).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_property_is_whole_and_what_it_names_exists() {
    let properties = properties();
    let ids: BTreeSet<&str> = properties.iter().map(|property| &*property.id).collect();
    assert_eq!(ids.len(), properties.len(), "an id is there twice");
    for figure_3 in [
        "election-safety",
        "leader-append-only",
        "log-matching",
        "leader-completeness",
        "state-machine-safety",
    ] {
        assert!(ids.contains(figure_3), "{figure_3} is missing");
    }
    for Property { id, asserted, checked_by, transcripts } in &properties {
        for reference in asserted {
            let body = function(reference);
            let asserts = ASSERTING.iter().any(|word| body.contains(word));
            assert!(asserts, "{id}: {reference} asserts nothing");
        }
        for reference in checked_by {
            if reference.contains("::") {
                function(reference);
            } else {
                file(reference);
            }
        }
        for transcript in transcripts {
            let path = file(transcript);
            let is_one = path.components().any(|part| part.as_os_str() == "scripts");
            assert!(is_one, "{id}: {transcript} is no transcript");
        }
    }
}

#[test]
fn every_checker_stands_for_a_property() {
    let by_id: BTreeMap<String, Property> =
        properties().into_iter().map(|property| (property.id.clone(), property)).collect();
    let folder = root().join("crates/sim/src/checkers");
    let mut count = 0;
    for path in rust_files(&folder) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "mod.rs" || BOOKS.contains(&&*name) {
            continue;
        }
        let ids = reported(&read(&path));
        assert!(!ids.is_empty(), "{name} reports nothing");
        for id in ids {
            let property = by_id.get(&id);
            let property = property.unwrap_or_else(|| panic!("{name}: no property {id}"));
            let named = format!("sim/checkers/{name}");
            assert!(property.checked_by.contains(&named), "{id} is not checked by {named}");
        }
        count += 1;
    }
    assert!(count >= 13, "only {count} checkers were found");
}

#[test]
fn every_name_of_a_violation_is_a_property_or_an_alarm() {
    let alarms = rows(3);
    let mut known: BTreeSet<String> =
        properties().into_iter().map(|property| property.id).collect();
    for alarm in &alarms {
        let (name, raised_by) = (quoted(&alarm[0]).concat(), quoted(&alarm[2]).concat());
        assert!(!alarm[1].is_empty(), "{name} has no meaning");
        let raises = reported(&read(&file(&raised_by))).contains(&name);
        assert!(raises, "{raised_by} does not raise {name}");
        assert!(known.insert(name.clone()), "{name} is there twice");
    }
    for path in rust_files(&root().join("crates/sim/src")) {
        for name in reported(&read(&path)) {
            assert!(known.contains(&name), "{}: {name} is not in the table", path.display());
        }
    }
}
