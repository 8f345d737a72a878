//! The system's limit of open files, of which each client takes one. A node that came to it could
//! not open its log any more, and would have to end: so clients are refused before.
//!
//! What it is not: a limit of its own. `--clients-max` says how many clients are wanted.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Limits;
use crate::error::ServerError;

/// Files that are not clients, at most, with the default limits: the disk's, peers, handshakes,
/// backups, what the process has besides.
const OTHER_FILES_MAX: u64 = 512;

/// Raises this process's limit so that so many clients may come, as far as it may. How many may.
pub(crate) fn allow(limits: &Limits) -> Result<usize, ServerError> {
    let others = other_files_max(limits);
    let wanted = others.saturating_add(limits.clients_max as u64);
    let limit = getrlimit(Resource::Nofile);
    let most = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    let mut allowed = limit.current.unwrap_or(u64::MAX);
    if allowed < most
        && setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok()
    {
        allowed = most;
    }
    match allowed.checked_sub(others) {
        None | Some(0) => Err(ServerError::Resources(format!(
            "{allowed} open files are allowed (ulimit -n): want more than {others}"
        ))),
        Some(clients) => Ok(limits.clients_max.min(clients as usize)),
    }
}

/// What is set above its default takes so many files more.
fn other_files_max(limits: &Limits) -> u64 {
    let usual = Limits::default();
    let more = [
        limits.handshakes_max.saturating_sub(usual.handshakes_max),
        limits.backups_max.saturating_sub(usual.backups_max),
    ];
    more.iter().fold(OTHER_FILES_MAX, |files, &more| files.saturating_add(more as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_handshakes_and_backups_take_more_files_that_are_not_clients() {
        let usual = Limits::default();
        assert_eq!(other_files_max(&usual), OTHER_FILES_MAX);
        assert_eq!(other_files_max(&Limits::tiny()), OTHER_FILES_MAX);
        let handshakes_max = usual.handshakes_max + 1_000;
        let more = Limits { handshakes_max, backups_max: usual.backups_max + 100, ..usual.clone() };
        assert_eq!(other_files_max(&more), OTHER_FILES_MAX + 1_100);
        let all = Limits { handshakes_max: usize::MAX, backups_max: usize::MAX, ..usual };
        assert_eq!(other_files_max(&all), u64::MAX);
    }
}
