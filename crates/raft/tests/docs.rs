//! Holds `docs/raft.md` against the code: what it names exists, and no transcript is missing.

#![allow(clippy::disallowed_methods, reason = "a test reads the repository's own files")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn crate_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    String::from_utf8(bytes).expect("UTF-8")
}

/// What stands between backticks in the rows of tables.
fn names() -> Vec<String> {
    let page = read(&crate_dir().join("../../docs/raft.md"));
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn functions_named_in_the_page_exist() {
    let mut count = 0;
    for name in names() {
        let Some((file, function)) = name.split_once("::") else { continue };
        let wanted = format!("fn {function}");
        if file == "Raft" {
            let files = std::fs::read_dir(crate_dir().join("src")).expect("the sources");
            let found = files
                .map(|file| read(&file.expect("a file").path()))
                .any(|text| text.contains(&format!("pub {wanted}(")));
            assert!(found, "{name} is not public");
        } else if file == "Body" {
            assert!(
                read(&crate_dir().join("src/message.rs")).contains(&format!("    {function} {{"))
            );
        } else {
            let text = read(&crate_dir().join(format!("src/{file}.rs")));
            assert!(text.contains(&format!("{wanted}(")), "there is no {name}");
        }
        count += 1;
    }
    assert!(count > 80, "only {count} functions are named");
}

#[test]
fn transcripts_are_named_in_the_page_and_exist() {
    let files = std::fs::read_dir(crate_dir().join("tests/scripts")).expect("the transcripts");
    let scripts: BTreeSet<String> = files
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    let names: BTreeSet<String> = names().into_iter().collect();
    let unnamed: Vec<_> = scripts.difference(&names).collect();
    assert!(unnamed.is_empty(), "not in docs/raft.md: {unnamed:?}");
    // Whatever looks like a transcript is one.
    let looks_so =
        |name: &&String| name.contains('_') && !name.contains(':') && !name.contains(' ');
    let known_words = ["install_snapshot"];
    for name in names.iter().filter(looks_so).filter(|name| !known_words.contains(&name.as_str())) {
        assert!(scripts.contains(name) || name.starts_with("--"), "there is no transcript {name}");
    }
}
