//! The program as a process: started, signalled by its id, and never left behind.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::within;

/// A directory of one test's own on the disk that the build is on; removed if the test passed.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{name}-{}-{}",
            std::process::id(),
            super::free_ports(1)
        ));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The program under test, without settings from the environment that the tests run in.
pub(crate) fn sampan<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sampan"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if ["SAMPAN_", "AWS_"].iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
            command.env_remove(name);
        }
    }
    command
}

/// How a process that was run to its end did end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Exactly one line was said on standard error that is no log line, and it says these words.
    #[track_caller]
    pub(crate) fn assert_one_error(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("sampan: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        for word in words {
            assert!(errors[0].contains(word), "'{word}' is not in '{}'", errors[0]);
        }
    }
}

/// Runs a command to its end, for at most 20 s.
pub(crate) fn run(command: &mut Command, stdin: &[u8]) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut input = process.0.stdin.take().unwrap();
    // A program that does not read its input is no fault of the test.
    _ = input.write_all(stdin);
    drop(input);
    let mut stdout = process.0.stdout.take().unwrap();
    let mut stderr = process.0.stderr.take().unwrap();
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = process.wait(Duration::from_secs(20));
    Ended { code: status.code(), stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

/// A running process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a command whose standard error goes to the end of a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    pub(crate) fn wait(&mut self, time: Duration) -> ExitStatus {
        let pid = self.pid();
        within(time, &format!("the end of process {pid}"), || self.has_ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
