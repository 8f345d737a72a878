//! Holds `docs/invariants.md` against the code: every property has its statement, source,
//! assertion, checker and transcript, and what is named there exists. The same for `docs/rules.md`,
//! and for all that cites a rule.

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
        assert!(["paper", "thesis", "rule", "HW"].iter().any(cites), "{id}: {}", cells[2]);
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

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// All that somebody wrote: the pages, and every text below the folders of code and tests.
fn texts() -> Vec<(PathBuf, String)> {
    let mut paths = files(&root().join("crates"));
    for folder in ["docs", "bench", "tests", ".ci"] {
        paths.extend(files(&root().join(folder)));
    }
    let top = fs::read_dir(root()).expect("the repository");
    let top = top.map(|entry| entry.expect("an entry").path());
    paths.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let text = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    paths.into_iter().filter_map(text).collect()
}

/// The rules of `docs/rules.md`: id, and what is said of each.
fn rules() -> BTreeMap<String, String> {
    let page = read(&root().join("docs/rules.md"));
    let mut rules = BTreeMap::new();
    for paragraph in page.split("\n\n") {
        let Some(rule) = paragraph.strip_prefix("**") else { continue };
        let (title, text) = rule.split_once("**").expect("a title");
        let (id, _) = title.split_once(". ").unwrap_or_else(|| panic!("no rule: {title}"));
        assert!(is_rule(id), "no id of a rule: {id}");
        assert!(rules.insert(id.to_owned(), text.to_owned()).is_none(), "{id} is there twice");
    }
    rules
}

/// Does this look like the id of a rule?
fn is_rule(word: &str) -> bool {
    let digits = word.strip_prefix(['R', 'S']).unwrap_or_default();
    (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whatever is said of rules by a number alone; of the paper's figures it may be, for they are
/// known.
fn unnamed_rules(text: &str) -> Vec<String> {
    let is_mark = |word: &&str| !["//", "///", "//!", "#"].contains(word);
    let words: Vec<&str> = text.split_whitespace().filter(is_mark).collect();
    let mut found = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let word = pair[0].trim_start_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let is_cited = ["rule", "rules"].contains(&&*word) && pair[1].starts_with(char::is_numeric);
        let before = &words[at.saturating_sub(8)..at];
        let is_known = |word: &&str| word.ends_with("Figure") || word.ends_with("eceiver's");
        if is_cited && !before.iter().any(is_known) {
            found.push(pair.join(" "));
        }
    }
    found
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

#[test]
fn every_rule_that_is_cited_is_in_the_page_of_rules() {
    let rules = rules();
    for kind in ['R', 'S'] {
        let count = rules.keys().filter(|id| id.starts_with(kind)).count();
        assert!(count > 10, "only {count} rules {kind}");
        for number in 1..=count {
            assert!(rules.contains_key(&format!("{kind}{number}")), "{kind}{number} is missing");
        }
    }
    for (id, text) in &rules {
        let named = quoted(text);
        assert!(!named.is_empty(), "{id} is kept nowhere");
        for reference in named.iter().filter(|name| name.contains('/')) {
            if reference.contains("::") {
                function(reference);
            } else if reference.starts_with("docs/") {
                read(&root().join(reference));
            } else {
                file(reference);
            }
        }
    }
    let mut count = 0;
    for (path, text) in texts() {
        let unnamed = unnamed_rules(&text);
        assert!(unnamed.is_empty(), "{}: whose rules are these? {unnamed:?}", path.display());
        for (line, number) in text.lines().zip(1..) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for id in words.filter(|word| is_rule(word)) {
                assert!(rules.contains_key(id), "{}:{number}: no rule {id}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} rules are cited");
}

#[test]
fn the_ledger_of_planted_bugs_names_the_sources_that_the_code_names() {
    let page = read(&root().join("docs/plants.md"));
    let code = read(&root().join("crates/sim/src/plants/ledger.rs"));
    let mut count = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [area, bug, _, source, expected, ..] = cells[..] else { continue };
        let Some((_, rest)) = code.split_once(&format!("Plant::{bug} =>")) else { continue };
        let entry = rest.split("Plant::").next().unwrap_or_default();
        let mut strings = entry.split('"').skip(1).step_by(2);
        assert!(entry.contains(area), "{bug}: {area}");
        assert_eq!((strings.next(), strings.next()), (Some(source), Some(expected)), "{bug}");
        count += 1;
    }
    assert_eq!(count, code.matches("Plant::").count(), "every bug has its row");
}
