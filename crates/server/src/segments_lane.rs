//! The work of the segment lane, at a pace that leaves the disk to the log.
//!
//! A segment of zeros is made while others wait for group commits on the same disk. So each piece
//! of it is followed by a pause, unless the log is filling the segment it has: what is prepared
//! stays ahead of what is appended. A group commit counts when it has ended: a long one leaves the
//! log waiting for the next segment, and is on its way when that is begun.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sampan_base::disk::{Disk, DiskError, DiskOp};

/// The longest pause after a piece.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the pace of the log is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes prepared for each byte appended to the log, at least.
const AHEAD: u64 = 2;

/// What the threads tell the one of the segment lane.
#[derive(Default, Debug)]
pub(crate) struct LogPace {
    appended_bytes: AtomicU64,
    ended: AtomicBool,
}

impl LogPace {
    /// A group commit has ended that wrote this much.
    pub(crate) fn appended(&self, bytes: u64) {
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of all group commits that have ended.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Nobody waits for the lane any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Is that so?
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Executes the steps in order, up to the first error; `None` if the end came first, in the midst
/// of it. `pause` waits for so long.
pub(crate) fn run(
    disk: &mut dyn Disk,
    ops: &[DiskOp],
    log: &LogPace,
    pause: impl Fn(Duration),
) -> Option<Result<(), DiskError>> {
    let appended_before = log.appended_bytes();
    let mut prepared_bytes = 0;
    for op in ops {
        if log.has_ended() {
            return None;
        }
        if let Err(error) = disk.execute(op) {
            return Some(Err(error));
        }
        prepared_bytes += written_bytes(std::slice::from_ref(op));
        let mut paused = Duration::ZERO;
        let is_ahead = || {
            let appended_bytes = log.appended_bytes() - appended_before;
            prepared_bytes > AHEAD * appended_bytes && !log.has_ended()
        };
        while matches!(op, DiskOp::Sync { .. }) && paused < PAUSE && is_ahead() {
            pause(LOOK_INTERVAL);
            paused += LOOK_INTERVAL;
        }
    }
    Some(Ok(()))
}

/// Bytes that these steps write.
pub(crate) fn written_bytes(ops: &[DiskOp]) -> u64 {
    let written = ops.iter().map(|op| match op {
        DiskOp::Write { bytes, .. } => bytes.len() as u64,
        _ => 0,
    });
    written.sum()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;
    use crate::disk::RealDisk;
    use crate::testing::TempDir;

    const PIECES: u32 = 32;

    /// Makes a file of pieces of 4 KiB; so many bytes are appended in each pause. How long it
    /// paused.
    fn prepare(appended_bytes: usize) -> Duration {
        let dir = TempDir::new("segments-lane");
        let log = LogPace::default();
        let write = |bytes: usize| DiskOp::Write {
            file: "f".into(),
            offset: 0,
            bytes: vec![0; bytes].into(),
        };
        let mut ops = vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }];
        for _ in 0..PIECES {
            ops.extend([write(4096), DiskOp::Sync { file: "f".into() }]);
        }
        let paused = Cell::new(Duration::ZERO);
        let pause = |time| {
            paused.set(paused.get() + time);
            log.appended(appended_bytes as u64);
        };
        assert_eq!(run(&mut RealDisk::new(dir.path()), &ops, &log, pause), Some(Ok(())));
        paused.get()
    }

    #[test]
    fn the_lane_takes_its_time_unless_the_log_needs_it() {
        assert_eq!(prepare(0), PAUSE * PIECES, "nothing is appended");
        assert_eq!(prepare(2048), LOOK_INTERVAL * PIECES, "as fast as it may just be");
        assert_eq!(prepare(1 << 20), LOOK_INTERVAL, "the log is ahead after the first pause");
    }

    #[test]
    fn an_end_or_an_error_cuts_it_short() {
        let dir = TempDir::new("segments-lane-end");
        let log = LogPace::default();
        let mut disk = RealDisk::new(dir.path());
        let missing = [DiskOp::Sync { file: "f".into() }];
        assert!(matches!(
            run(&mut disk, &missing, &log, thread::sleep),
            Some(Err(DiskError::NotFound(_)))
        ));
        log.end();
        assert_eq!(run(&mut disk, &missing, &log, thread::sleep), None);
    }
}
