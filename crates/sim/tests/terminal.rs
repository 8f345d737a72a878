//! `sampan-sim ... | head`: whoever reads may stop at any line.

use std::process::{Command, Stdio};

fn ends_without_a_reader(arguments: &[&str]) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = Command::new(env!("CARGO_BIN_EXE_sampan-sim"))
        .args(arguments)
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("sampan-sim starts");
    let output = child.wait_with_output().expect("sampan-sim ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*complaints), (Some(141), ""), "{arguments:?}");
}

#[test]
fn every_command_ends_quietly_when_nobody_reads_it() {
    let history = std::env::temp_dir().join(format!("sampan-sim-{}.jsonl", std::process::id()));
    std::fs::write(&history, "{\"note\":\"nothing happened\"}\n").expect("a file for the test");
    ends_without_a_reader(&["check", history.to_str().expect("a path of ASCII")]);
    ends_without_a_reader(&["replay", "1", "--minutes-simulated", "0.01"]);
    ends_without_a_reader(&["hashes", "--seeds", "1", "--seconds-simulated", "0.1"]);
    ends_without_a_reader(&["labs", "2A", "--test", "initial election"]);
    std::fs::remove_file(&history).expect("the file of the test goes");
}
