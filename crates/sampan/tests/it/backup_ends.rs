//! How `sampan backup`, `restore` and `inspect` end where it is not by their work being done: by a
//! signal, at a pipe, over a file of another kind, or with nobody to tell the result to.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use sampan_resp::Value;

use crate::backups::{backup, flip, names, restore};
use crate::harness::{Cluster, Options, Process, TempDir, run, sampan, within};

/// A node with a backup of it.
fn backed_up(name: &str, dir: &TempDir) -> (Cluster, PathBuf) {
    let cluster = Cluster::start_with(name, Options { nodes: 1, ..Options::default() });
    assert_eq!(cluster.connection(1).call(&["SET", "k", "v"]), Value::OK);
    let file = dir.path().join("backup");
    assert_eq!(run(&mut backup(&file, cluster.port(1)), b"").code, Some(0));
    (cluster, file)
}

fn pipe(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("pipe");
    mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    path
}

/// The same command as a shell starts it after these words.
fn in_shell(words: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", words, "sh"]).arg(command.get_program()).args(command.get_args());
    shell
}

#[test]
fn a_signal_ends_a_restore_that_waits_for_a_pipe_and_nothing_is_left() {
    let dir = TempDir::new("waiting");
    let (path, restored) = (pipe(&dir), dir.path().join("restored"));
    let staging = restored.with_extension("restoring");
    // Nobody opens it, or somebody does and says nothing.
    for (signal, is_open) in [(Signal::INT, false), (Signal::TERM, true), (Signal::HUP, true)] {
        let _silent = is_open.then(|| File::options().read(true).write(true).open(&path).unwrap());
        let mut process =
            Process::start(&mut restore(&path, &restored), &dir.path().join("output"));
        within(Duration::from_secs(20), "its beginning", || staging.exists().then_some(()));
        process.signal(signal);
        assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(1), "{signal:?}");
        let output = fs::read_to_string(dir.path().join("output")).unwrap();
        assert_eq!(output, "sampan: interrupted; nothing was kept\n");
        fs::remove_file(dir.path().join("output")).unwrap();
        assert_eq!(names(dir.path()), ["pipe"]);
    }
    // As `nohup` starts it.
    let mut command = in_shell("trap '' HUP; exec \"$@\"", &restore(&path, &restored));
    let mut process = Process::start(&mut command, &dir.path().join("output"));
    within(Duration::from_secs(20), "its beginning", || staging.exists().then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    let is_caught = |signal: Signal| caught >> (signal.as_raw() - 1) & 1 == 1;
    assert!(is_caught(Signal::TERM) && !is_caught(Signal::HUP), "it would still end nothing");
    process.signal(Signal::TERM);
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(1));
}

#[test]
fn a_backup_is_restored_from_a_pipe_and_inspected_only_as_a_file() {
    let dir = TempDir::new("pipes");
    let (_cluster, file) = backed_up("pipes", &dir);
    let (bytes, restored) = (fs::read(&file).unwrap(), dir.path().join("restored"));
    let stdin = Path::new("/dev/stdin");
    assert_eq!(run(&mut restore(stdin, &restored), &bytes).code, Some(0));

    let inspect = sampan(["inspect", "/dev/stdin"]);
    run(&mut sampan(["inspect", "/dev/stdin"]), &bytes)
        .assert_one_error(2, &["/dev/stdin is a pipe: want a file"]);
    let mut redirected = in_shell(&format!("exec \"$@\" <{}", file.display()), &inspect);
    let found = run(&mut redirected, b"");
    assert!(found.code == Some(0) && found.out().starts_with("kind "), "{found:?}");
    let path = pipe(&dir);
    run(sampan(["inspect"]).arg(&path), b"").assert_one_error(2, &["is a pipe: want a file"]);
    run(&mut sampan(["inspect", "/dev/zero"]), b"").assert_one_error(2, &["is a device"]);
}

#[test]
fn what_is_no_backup_is_called_damaged_only_if_it_may_have_been_one() {
    let dir = TempDir::new("kinds");
    let (mut cluster, file) = backed_up("kinds", &dir);
    let restored = dir.path().join("restored");
    cluster.stop(1);
    let data = cluster.data_dir(1);
    for (name, kind) in
        [("identity", "identity"), ("members", "members"), ("hard_state.a", "hard state")]
    {
        let refused = run(&mut restore(&data.join(name), &restored), b"");
        refused.assert_one_error(2, &[name, &format!("is no backup (it is of kind: {kind})")]);
    }
    let segment = data.join("wal").join(format!("{:020}.log", 1));
    let refused = run(&mut restore(&segment, &restored), b"");
    refused.assert_one_error(2, &["is no backup (it is of kind: log segment)"]);

    flip(&file, 3);
    let words = ["not a file that Sampan wrote, or its first bytes are damaged"];
    run(&mut restore(&file, &restored), b"").assert_one_error(5, &words);
    run(sampan(["inspect"]).arg(&file), b"").assert_one_error(5, &words);
    fs::write(&file, vec![0; 10_000]).unwrap();
    run(&mut restore(&file, &restored), b"").assert_one_error(5, &words);
    run(sampan(["inspect"]).arg(&file), b"").assert_one_error(5, &words);
    assert!(!restored.exists());
}

#[test]
fn a_result_that_cannot_be_printed_is_there_all_the_same() {
    let dir = TempDir::new("unprinted");
    let (cluster, file) = backed_up("unprinted", &dir);
    let (second, restored) = (dir.path().join("second"), dir.path().join("restored"));
    let to_full = |command: &Command| run(&mut in_shell("exec \"$@\" >/dev/full", command), b"");
    let words = |what: &str, path: &Path| format!("; the {what} is there: {}", path.display());
    to_full(&backup(&second, cluster.port(1)))
        .assert_one_error(6, &["standard output: No space left", &words("backup", &second)]);
    assert_eq!(fs::read(&second).unwrap(), fs::read(&file).unwrap());
    to_full(&restore(&file, &restored))
        .assert_one_error(6, &["standard output: No space left", &words("cluster", &restored)]);
    assert!(restored.join("cluster.toml").exists());
}

#[test]
fn others_cannot_read_what_was_restored() {
    let dir = TempDir::new("private");
    let (cluster, file) = backed_up("private", &dir);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cluster.data_dir(1)), 0o700, "nor what a node wrote");
    let (made, found) = (dir.path().join("new/made"), dir.path().join("found"));
    fs::create_dir(&found).unwrap();
    fs::set_permissions(&found, fs::Permissions::from_mode(0o755)).unwrap();
    for restored in [&made, &found] {
        assert_eq!(run(&mut restore(&file, restored), b"").code, Some(0));
        assert_eq!(mode(&restored.join("node1")), 0o700);
    }
    assert_eq!((mode(&made), mode(&found)), (0o700, 0o755), "it is somebody's");
}
