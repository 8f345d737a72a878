//! A lane whose jobs can wait, and the two threads that have them by turns.
//!
//! What writes and reads snapshots is a thread that runs where nobody else wants the processor
//! (`SCHED_IDLE`, sched(7)): whoever wakes up takes it at once, while any other thread may go on
//! until the next tick, 4 ms later, and a group commit waits for several that wake one another.
//! Where there is no time to spare such a thread gets almost none, and the log, which waits for its
//! snapshot, would fill. So after a job that took long the other thread, which is only nice, has
//! the lane for a while; and always what is more than a small piece: so much at a time is written
//! of a snapshot that is late.
//!
//! The jobs run in their order: the other thread is sent one only when this one has none left.
//!
//! What it is not: the threads themselves, which are `disk_thread.rs`.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use sampan_base::disk::DiskOp;
use sampan_replica::DiskJob;

use crate::segments_lane::written_bytes;

/// A job that is not done so long after it was sent, behind others maybe, tells that there is no
/// time to spare. A slow disk looks the same; then it makes no difference who waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the other thread has the lane then.
const HURRY_TIME: Duration = Duration::from_secs(5);
/// A piece that is written is small up to this: more than one chunk, and no two.
const SMALL_BYTES: u64 = 400 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shift {
    Idle,
    Nice,
}

/// The lane's two threads.
pub(crate) struct PoliteLane {
    idle: Sender<DiskJob>,
    nice: Sender<DiskJob>,
    /// Who has the jobs that are under way.
    on_duty: Shift,
    /// When each of them was sent, oldest first.
    under_way: VecDeque<Instant>,
    /// What waits until they are done.
    held: VecDeque<DiskJob>,
    hurries_until: Option<Instant>,
}

impl PoliteLane {
    pub(crate) const fn new(idle: Sender<DiskJob>, nice: Sender<DiskJob>) -> Self {
        Self {
            idle,
            nice,
            on_duty: Shift::Idle,
            under_way: VecDeque::new(),
            held: VecDeque::new(),
            hurries_until: None,
        }
    }

    /// Queues a job.
    pub(crate) fn submit(&mut self, job: DiskJob, now: Instant) {
        self.held.push_back(job);
        self.send(now);
    }

    /// The oldest job under way is done.
    pub(crate) fn done(&mut self, now: Instant) {
        let sent = self.under_way.pop_front().expect("it was sent");
        if self.on_duty == Shift::Idle && now - sent > PATIENCE {
            self.hurries_until = Some(now + HURRY_TIME);
        }
        self.send(now);
    }

    fn send(&mut self, now: Instant) {
        while let Some(job) = self.held.front() {
            let shift = self.shift_of(job, now);
            if shift != self.on_duty && !self.under_way.is_empty() {
                return;
            }
            self.on_duty = shift;
            let thread = match shift {
                Shift::Idle => &self.idle,
                Shift::Nice => &self.nice,
            };
            self.under_way.push_back(now);
            // One that is gone has reported itself as lost.
            _ = thread.send(self.held.pop_front().expect("just seen"));
        }
    }

    fn shift_of(&self, job: &DiskJob, now: Instant) -> Shift {
        let hurries = self.hurries_until.is_some_and(|until| now < until);
        if is_small(job) && !hurries { Shift::Idle } else { Shift::Nice }
    }
}

fn is_small(job: &DiskJob) -> bool {
    let is_plain = |op: &DiskOp| matches!(op, DiskOp::Write { .. } | DiskOp::Sync { .. });
    match job {
        DiskJob::SnapshotLoad { .. }
        | DiskJob::SnapshotCheck { .. }
        | DiskJob::SnapshotSend { .. } => true,
        DiskJob::SnapshotWrite(ops) => {
            ops.iter().all(is_plain) && written_bytes(ops) <= SMALL_BYTES
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use bytes::Bytes;

    use super::*;

    struct Lane {
        polite: PoliteLane,
        idle: Receiver<DiskJob>,
        nice: Receiver<DiskJob>,
        now: Instant,
    }

    impl Lane {
        fn new() -> Self {
            let ((to_idle, idle), (to_nice, nice)) = (channel(), channel());
            Self { polite: PoliteLane::new(to_idle, to_nice), idle, nice, now: Instant::now() }
        }

        fn submit(&mut self, job: DiskJob) {
            self.polite.submit(job, self.now);
        }

        fn done_after(&mut self, time: Duration) {
            self.now += time;
            self.polite.done(self.now);
        }

        /// How many jobs each has got since the last look.
        fn sent(&self) -> (usize, usize) {
            (self.idle.try_iter().count(), self.nice.try_iter().count())
        }
    }

    const QUICK: Duration = Duration::from_millis(1);

    fn write() -> DiskJob {
        DiskJob::SnapshotWrite(Vec::new())
    }

    fn verify() -> DiskJob {
        DiskJob::SnapshotVerify("f".into())
    }

    #[test]
    fn jobs_are_never_with_both_at_once() {
        let mut lane = Lane::new();
        for job in [write(), write(), verify(), write()] {
            lane.submit(job);
        }
        assert_eq!(lane.sent(), (2, 0));
        lane.done_after(QUICK);
        assert_eq!(lane.sent(), (0, 0));
        lane.done_after(QUICK);
        assert_eq!(lane.sent(), (0, 1), "the file is whole now");
        lane.done_after(QUICK);
        assert_eq!(lane.sent(), (1, 0));
    }

    #[test]
    fn only_small_pieces_wait_until_nobody_else_wants_the_processor() {
        let piece = |bytes: usize| DiskOp::Write {
            file: "f".into(),
            offset: 0,
            bytes: Bytes::from(vec![0; bytes]),
        };
        let remove = DiskOp::Remove { file: "f".into() };
        let jobs: [(&[DiskOp], (usize, usize)); 4] = [
            (&[piece(300 << 10), DiskOp::Sync { file: "f".into() }], (1, 0)),
            (&[piece(300 << 10), piece(300 << 10)], (0, 1)),
            (&[piece(1), remove], (0, 1)),
            (&[piece(1)], (1, 0)),
        ];
        let mut lane = Lane::new();
        for (ops, sent) in jobs {
            lane.submit(DiskJob::SnapshotWrite(ops.to_vec()));
            assert_eq!(lane.sent(), sent, "{ops:?}");
            lane.done_after(QUICK);
        }
    }

    #[test]
    fn where_there_is_no_time_to_spare_the_other_one_has_it_for_a_while() {
        let mut lane = Lane::new();
        for job in [write(), write(), write()] {
            lane.submit(job);
        }
        assert_eq!(lane.sent(), (3, 0));
        lane.done_after(PATIENCE + QUICK);
        lane.submit(write());
        assert_eq!(lane.sent(), (0, 0), "two are still there");
        lane.done_after(QUICK);
        lane.done_after(QUICK);
        assert_eq!(lane.sent(), (0, 1));
        // Its own time tells nothing of the other one's.
        lane.done_after(PATIENCE + QUICK);
        lane.submit(write());
        assert_eq!(lane.sent(), (0, 1));
        lane.done_after(HURRY_TIME / 5 * 4);
        lane.submit(write());
        assert_eq!(lane.sent(), (1, 0));
    }
}
