//! The exit codes of every sub-command, in one place. `docs/operations.md` and `--help` repeat
//! them.
//!
//! 2 is a fault in what was asked for, everywhere; the other codes belong to a group of commands.

use std::process::ExitCode;

/// A command's end: nothing more to say, or one line for standard error and a code.
pub(crate) type Ended = Result<ExitCode, Failure>;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// One line: the fault, and what is accepted.
    pub(crate) text: String,
    /// The process's exit code.
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code }
    }

    /// Something in the arguments, the environment or a file is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(USAGE, text)
    }
}

/// Runs a command to its end.
pub(crate) fn block_on(work: impl Future<Output = Ended>) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot_start(&error))?;
    let ended = runtime.block_on(work);
    // Not waited for: a thread that reads from a pipe may do so for ever.
    runtime.shutdown_background();
    ended
}

/// The machine has no threads, memory or file descriptors for it.
pub(crate) fn cannot_start(error: &std::io::Error) -> Failure {
    Failure::new(CANNOT_START, format!("cannot start: {error}"))
}

/// Out of threads, memory or file descriptors.
const CANNOT_START: u8 = 1;
/// Bad arguments, environment or configuration file. clap uses the same number.
pub(crate) const USAGE: u8 = 2;

/// `server` and `cluster`: the codes that name a fault which another start would meet again. Those
/// that only a node finds are `sampan_server::ServerError`'s.
pub(crate) const FAULTS: std::ops::RangeInclusive<u8> = 2..=8;
/// `server` and `cluster`: somebody else listens at an address.
pub(crate) const PORT_IN_USE: u8 = 3;
/// `server`, `cluster`, and those of backups: files are damaged.
pub(crate) const DATA_DAMAGED: u8 = 5;
/// The same: the disk failed, or is full; or whatever keeps a backup does.
pub(crate) const DISK_FAILED: u8 = 6;
/// `server` and `cluster`: another process uses the directory.
pub(crate) const LOCKED: u8 = 7;

/// `backup` and `restore`: a signal ended it early.
pub(crate) const INTERRUPTED: u8 = 1;
/// Client commands: no such key, or a condition was not met. `status`: a node is down.
pub(crate) const NOT_MET: u8 = 1;
/// Client commands: nobody answered; certainly not applied. `status`: there is no
/// leader. `backup`: no node gave one.
pub(crate) const UNAVAILABLE: u8 = 3;
/// Client commands: nobody knows whether the write was or will be applied.
pub(crate) const UNKNOWN: u8 = 4;
/// Client commands: the cluster answered with an error, and changed nothing.
pub(crate) const REFUSED: u8 = 5;
/// Client commands, `backup`, `restore`, `inspect`, `status` and `bench`: done, but the answer
/// could not be written.
pub(crate) const UNWRITTEN: u8 = 6;
