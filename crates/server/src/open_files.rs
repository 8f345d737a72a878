//! The system's limit of open files, of which each client takes one. A node that came to it could not
//! open its log any more, and would take that for a disk that failed: so clients are refused before.
//!
//! What it is not: a limit of its own. `--clients-max` says how many clients are wanted.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::ServerError;

/// Files that are not clients, at most: the disk's, peers, handshakes, backups, what the process has
/// besides.
const OTHER_FILES_MAX: u64 = 512;

/// Raises this process's limit so that so many clients may come, as far as it may. How many may.
pub(crate) fn allow(clients_max: usize) -> Result<usize, ServerError> {
    let wanted = clients_max as u64 + OTHER_FILES_MAX;
    let limit = getrlimit(Resource::Nofile);
    let most = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    let mut allowed = limit.current.unwrap_or(u64::MAX);
    if allowed < most
        && setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok()
    {
        allowed = most;
    }
    match allowed.checked_sub(OTHER_FILES_MAX) {
        None | Some(0) => Err(ServerError::Resources(format!(
            "{allowed} open files are allowed (ulimit -n): want more than {OTHER_FILES_MAX}"
        ))),
        Some(clients) => Ok(clients_max.min(clients as usize)),
    }
}
