//! The work of the segment lane, at a pace that leaves the disk to the log.
//!
//! A segment of zeros is made while others wait for group commits on the same disk. So each piece
//! of it is followed by a pause, unless the log waits, or fills the room it has: of that the part
//! that is appended to stays behind the part that is prepared. A group commit counts when it has
//! ended: a long one is on its way when the next segment is begun.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sampan_base::disk::{Disk, DiskError, DiskOp};

/// The longest pause after a piece.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the pace of the log is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// The part of the work that is done is so many times that of the log's room that is gone.
const AHEAD: u128 = 2;

/// What the threads tell the one of the segment lane.
#[derive(Default, Debug)]
pub(crate) struct LogPace {
    appended_bytes: AtomicU64,
    log_waits: AtomicBool,
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

    /// Is there something to be written that the log has no room for?
    pub(crate) fn log_waits(&self, waits: bool) {
        self.log_waits.store(waits, Ordering::Relaxed);
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

/// Steps for the lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'a> {
    pub(crate) ops: &'a [DiskOp],
    /// What the log can take until it may have to wait for them.
    pub(crate) log_room_bytes: u64,
}

/// Executes the steps in order, up to the first error; `None` if the end came first, in the midst
/// of it. `pause` waits for so long.
pub(crate) fn run(
    disk: &mut dyn Disk,
    work: Work<'_>,
    log: &LogPace,
    pause: impl Fn(Duration),
) -> Option<Result<(), DiskError>> {
    let appended_before = log.appended_bytes();
    let (all_bytes, room_bytes) = (written_bytes(work.ops), work.log_room_bytes);
    let mut prepared_bytes = 0;
    for op in work.ops {
        if log.has_ended() {
            return None;
        }
        if let Err(error) = disk.execute(op) {
            return Some(Err(error));
        }
        prepared_bytes += written_bytes(std::slice::from_ref(op));
        let mut paused = Duration::ZERO;
        let may_pause = || {
            let appended_bytes = log.appended_bytes() - appended_before;
            let is_ahead = u128::from(prepared_bytes) * u128::from(room_bytes)
                > AHEAD * u128::from(appended_bytes) * u128::from(all_bytes);
            is_ahead && !log.log_waits.load(Ordering::Relaxed) && !log.has_ended()
        };
        while matches!(op, DiskOp::Sync { .. }) && paused < PAUSE && may_pause() {
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
    const PIECE_BYTES: usize = 4096;
    /// As much room as is prepared.
    const ROOM_BYTES: u64 = PIECES as u64 * PIECE_BYTES as u64;

    /// Makes a file of pieces; so many bytes are appended in each pause. How long it paused.
    fn prepare(log_room_bytes: u64, appended_bytes: usize) -> Duration {
        let dir = TempDir::new("segments-lane");
        let log = LogPace::default();
        let write = |bytes: usize| DiskOp::Write {
            file: "f".into(),
            offset: 0,
            bytes: vec![0; bytes].into(),
        };
        let mut ops = vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }];
        for _ in 0..PIECES {
            ops.extend([write(PIECE_BYTES), DiskOp::Sync { file: "f".into() }]);
        }
        let paused = Cell::new(Duration::ZERO);
        let pause = |time| {
            paused.set(paused.get() + time);
            log.appended(appended_bytes as u64);
        };
        let work = Work { ops: &ops, log_room_bytes };
        assert_eq!(run(&mut RealDisk::new(dir.path()), work, &log, pause), Some(Ok(())));
        paused.get()
    }

    #[test]
    fn the_lane_takes_its_time_unless_the_log_needs_it() {
        assert_eq!(prepare(ROOM_BYTES, 0), PAUSE * PIECES, "nothing is appended");
        assert_eq!(prepare(ROOM_BYTES, 2048), LOOK_INTERVAL * PIECES, "as fast as it may just be");
        assert_eq!(prepare(ROOM_BYTES, 1 << 20), LOOK_INTERVAL, "the log is ahead at once");
    }

    #[test]
    fn the_less_room_the_log_has_the_less_the_lane_pauses() {
        assert_eq!(prepare(ROOM_BYTES / 16, 128), LOOK_INTERVAL * PIECES, "a sixteenth each");
        assert_eq!(prepare(ROOM_BYTES / 16, 2048), LOOK_INTERVAL * 2, "half of it in two pauses");
        assert_eq!(prepare(0, 0), Duration::ZERO, "there is none");
    }

    #[test]
    fn while_the_log_waits_the_lane_does_not_pause() {
        let dir = TempDir::new("segments-lane-waits");
        let sync = DiskOp::Sync { file: "f".into() };
        let mut ops = vec![DiskOp::Create { file: "f".into(), zero_bytes: 0 }];
        ops.extend([DiskOp::Write { file: "f".into(), offset: 0, bytes: "a".into() }, sync]);
        let (log, paused) = (LogPace::default(), Cell::new(Duration::ZERO));
        // It begins to in the second pause.
        let pause = |time| {
            paused.set(paused.get() + time);
            log.log_waits(paused.get() == 2 * LOOK_INTERVAL);
        };
        let work = Work { ops: &ops, log_room_bytes: ROOM_BYTES };
        assert_eq!(run(&mut RealDisk::new(dir.path()), work, &log, pause), Some(Ok(())));
        assert_eq!(paused.get(), 2 * LOOK_INTERVAL);
    }

    #[test]
    fn an_end_or_an_error_cuts_it_short() {
        let dir = TempDir::new("segments-lane-end");
        let log = LogPace::default();
        let mut disk = RealDisk::new(dir.path());
        let ops = [DiskOp::Sync { file: "f".into() }];
        let missing = Work { ops: &ops, log_room_bytes: ROOM_BYTES };
        assert!(matches!(
            run(&mut disk, missing, &log, thread::sleep),
            Some(Err(DiskError::NotFound(_)))
        ));
        log.end();
        assert_eq!(run(&mut disk, missing, &log, thread::sleep), None);
    }
}
