//! Whether the event loop may wait for the disk of the log itself.
//!
//! To have the thread of the log lane run a group commit takes two wake-ups, which with four busy
//! processes on two cores is a quarter of all processor time for a single SET. A follower that
//! nobody of its own waits for has nothing else to do meanwhile: it runs a short group commit on
//! the spot. So does a leader with one client alone, which waits: nothing else comes before it is
//! answered. With more of them a leader's disk works beside those of its followers, and must not
//! hold it up when it is the slowest. Which of them a node is, the replica knows
//! ([`sampan_replica::Replica::may_wait_for_disk`]). And no node waits whose disk has been slow
//! lately, for a disk that stalls would keep it from sending or answering heartbeats: a disk that
//! was slow once must be quick many times first, and after each time that this proved too few,
//! twice as many.

use std::time::Duration;

use sampan_base::disk::DiskOp;
use sampan_replica::DiskJob;

/// A group commit that takes no longer is quick.
const QUICK: Duration = Duration::from_millis(5);
/// One that holds up the loop for longer has done harm.
const HARM: Duration = Duration::from_millis(50);
/// How many quick ones in a row are wanted, at first and at most.
const IN_A_ROW_MIN: u32 = 32;
const IN_A_ROW_MAX: u32 = 1 << 20;
/// A longer group commit is the thread's.
const SHORT_BYTES_MAX: usize = 64 << 10;

/// How quick the group commits were.
#[derive(Debug)]
pub(crate) struct QuickDisk {
    in_a_row: u32,
    wanted_in_a_row: u32,
}

impl Default for QuickDisk {
    fn default() -> Self {
        Self { in_a_row: 0, wanted_in_a_row: IN_A_ROW_MIN }
    }
}

impl QuickDisk {
    /// May a node that has nothing else to do wait for this job?
    pub(crate) fn may_wait_for(&self, job: &DiskJob) -> bool {
        self.in_a_row >= self.wanted_in_a_row && is_short(job)
    }

    /// A group commit has ended, and the loop has waited for it, or not.
    pub(crate) fn took(&mut self, time: Duration, waited: bool) {
        if time <= QUICK {
            self.in_a_row = self.in_a_row.saturating_add(1);
            return;
        }
        self.in_a_row = 0;
        if waited && time > HARM {
            self.wanted_in_a_row = (self.wanted_in_a_row * 2).min(IN_A_ROW_MAX);
        }
    }
}

/// One write and its sync: no new segment, no hard state.
fn is_short(job: &DiskJob) -> bool {
    let DiskJob::Append(ops) = job else { return false };
    matches!(&ops[..], [DiskOp::Write { bytes, .. }, DiskOp::Sync { .. }]
        if bytes.len() <= SHORT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn append(bytes: usize) -> DiskJob {
        let bytes = Bytes::from(vec![0; bytes]);
        let write = DiskOp::Write { file: "f".into(), offset: 0, bytes };
        DiskJob::Append(vec![write, DiskOp::Sync { file: "f".into() }])
    }

    /// How many quick ones it takes until the loop may wait.
    fn quick_ones(disk: &mut QuickDisk) -> u32 {
        let mut count = 0;
        while !disk.may_wait_for(&append(1)) {
            disk.took(QUICK, false);
            count += 1;
        }
        count
    }

    #[test]
    fn a_disk_must_have_been_quick_for_a_while() {
        let mut disk = QuickDisk::default();
        assert_eq!(quick_ones(&mut disk), IN_A_ROW_MIN);
        disk.took(QUICK + Duration::from_millis(1), true);
        assert_eq!(quick_ones(&mut disk), IN_A_ROW_MIN);
        disk.took(HARM * 2, false);
        assert_eq!(quick_ones(&mut disk), IN_A_ROW_MIN, "nobody was held up");
    }

    #[test]
    fn each_time_that_the_loop_was_held_up_it_takes_twice_as_many() {
        let mut disk = QuickDisk::default();
        for times in 1..=4 {
            quick_ones(&mut disk);
            disk.took(HARM * 2, true);
            assert_eq!(quick_ones(&mut disk), IN_A_ROW_MIN << times);
        }
        (0..64).for_each(|_| disk.took(HARM * 2, true));
        assert_eq!(quick_ones(&mut disk), IN_A_ROW_MAX);
    }

    #[test]
    fn only_one_short_write_with_its_sync_is_waited_for() {
        let mut disk = QuickDisk::default();
        quick_ones(&mut disk);
        assert!(disk.may_wait_for(&append(SHORT_BYTES_MAX)));
        assert!(!disk.may_wait_for(&append(SHORT_BYTES_MAX + 1)));
        let DiskJob::Append(mut ops) = append(1) else { unreachable!() };
        ops.push(DiskOp::SyncDirectory { directory: "".into() });
        assert!(!disk.may_wait_for(&DiskJob::LogControl(ops.clone())));
        assert!(!disk.may_wait_for(&DiskJob::Append(ops)), "a new segment");
    }
}
