//! Golden transcripts: one file a subject, each command followed by its reply.
//!
//! ```text
//! # a comment            limits tiny   (first line: use the tiny limits)
//! SET key value          advance 500   (moves the log time by milliseconds)
//!   +OK
//! ```
//!
//! The files named `redis_*` hold nothing but what a Redis 7 answers too, byte for byte. After a
//! change on purpose, `SAMPAN_BLESS=1 cargo test -p sampan-kv --test scripts` writes them anew.

#![allow(clippy::disallowed_methods)] // reads its scripts; the crate itself never does

mod common;

use std::fs;
use std::path::Path;

use common::{Machine, show};
use sampan_kv::Limits;

#[test]
fn every_script_gets_the_replies_it_shows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let bless = std::env::var("SAMPAN_BLESS").is_ok();
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "only {} scripts", paths.len());
    let mut failed = Vec::new();
    for path in paths {
        let script = fs::read_to_string(&path).unwrap();
        let transcript = run(&script);
        if bless {
            fs::write(&path, transcript).unwrap();
        } else if transcript != script {
            failed.push(format!("{}\n{}", path.display(), difference(&script, &transcript)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn run(script: &str) -> String {
    let tiny = script.starts_with("limits tiny\n");
    let limits = if tiny { Limits::tiny() } else { Limits::default() };
    let mut machine = Machine::new(limits, 7);
    let mut transcript = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        transcript.push_str(line);
        transcript.push('\n');
        if let Some(ms) = line.strip_prefix("advance ") {
            machine.advance(ms.parse().expect("milliseconds"));
        } else if !line.is_empty() && !line.starts_with('#') && !line.starts_with("limits ") {
            transcript.extend(["  ", &show(&machine.line(line)), "\n"]);
        }
    }
    transcript
}

fn difference(expected: &str, actual: &str) -> String {
    let mut command = "";
    for (number, (want, got)) in expected.lines().zip(actual.lines()).enumerate() {
        if want != got {
            return format!("line {}, {command}\n  expected {want}\n  but got  {got}", number + 1);
        }
        command = if want.starts_with("  ") { command } else { want };
    }
    "one is longer than the other".to_owned()
}
