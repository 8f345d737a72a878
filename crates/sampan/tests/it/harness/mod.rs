//! What every test here stands on: clusters of real processes on a real disk, clients, and
//! histories that are checked. Nothing outlives a test: processes end by their ids when a cluster
//! is dropped.

mod cluster;
mod history;
mod links;
mod load;
mod ports;
mod process;
mod resp;
#[cfg(feature = "s3")]
mod s3;

pub(crate) use cluster::{Cluster, Options};
pub(crate) use load::{Load, LoadOptions};
pub(crate) use ports::free_ports;
pub(crate) use process::{Ended, Process, TempDir, run, sampan};
pub(crate) use resp::Connection;
#[cfg(feature = "s3")]
pub(crate) use s3::S3;

use std::time::{Duration, Instant};

/// Polls until there is an answer; panics with `what` after `time`.
pub(crate) fn within<T>(time: Duration, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    const POLL_INTERVAL: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + time;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
