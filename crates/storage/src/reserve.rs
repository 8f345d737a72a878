//! The reserve: room on the disk that is kept for the next snapshot, so that a full disk never
//! keeps the log from being compacted (rule S10).
//!
//! A file of no content. It is as long as the host thinks the next snapshot to be, grows with the
//! log, and is given up, but for what a start needs, when a snapshot meets a full disk. What the
//! next snapshot takes comes before more log; the rest is a precaution and no duty: where it cannot
//! be had, the log goes on, and [`crate::Storage::reserve_is_short`] tells.

use std::sync::Arc;

use sampan_base::disk::{DiskOp, FileName};

/// The state of the reserve.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// As far as is known; zero if there is no file.
    held_bytes: u64,
    /// What the host wants, in whole steps.
    wanted_bytes: u64,
    /// How much of that comes before the room that the log needs; the rest comes after it.
    least_bytes: u64,
    step_bytes: u64,
    /// The last attempt to make it longer met a full disk.
    short: bool,
    /// That was since the host last said to ask again.
    asked: bool,
}

/// The name of the file.
pub(crate) fn file_name() -> FileName {
    Arc::from("reserve")
}

impl Reserve {
    /// The reserve as a start finds it. It changes in steps of so many bytes.
    pub(crate) const fn found(held_bytes: u64, step_bytes: u64) -> Self {
        let (wanted_bytes, least_bytes) = (held_bytes, held_bytes);
        Self { held_bytes, wanted_bytes, least_bytes, step_bytes, short: false, asked: false }
    }

    /// How much is to be held from now on: nothing for zero, else whole steps, and what a start
    /// takes. So much of it is for the next snapshot.
    pub(crate) fn want(&mut self, bytes: u64, next_bytes: u64) {
        let start_bytes = if bytes == 0 { 0 } else { self.start_bytes() };
        self.wanted_bytes = bytes.next_multiple_of(self.step_bytes) + start_bytes;
        self.least_bytes = next_bytes.next_multiple_of(self.step_bytes) + start_bytes;
    }

    /// What is never given up for a snapshot: a start makes a short segment and takes room for two
    /// whole ones.
    const fn start_bytes(&self) -> u64 {
        2 * self.step_bytes
    }

    /// Gives up what is there for a snapshot, if anything is. The length it then has.
    pub(crate) fn release(&self) -> Option<(u64, DiskOp)> {
        let len_bytes = self.start_bytes();
        let op = DiskOp::Reserve { file: file_name(), len_bytes };
        self.has_room_for_a_snapshot().then_some((len_bytes, op))
    }

    pub(crate) const fn has_room_for_a_snapshot(&self) -> bool {
        self.held_bytes > self.start_bytes()
    }

    pub(crate) const fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(crate) const fn is_short(&self) -> bool {
        self.short && self.held_bytes < self.wanted_bytes
    }

    /// The next change to it, and the length it then has. It grows a step at a time, so that a disk
    /// that is nearly full gives what it has. One that is too long stays so if that is by no more
    /// than log and snapshots take (`used_bytes`): what is wanted comes and goes with each of them.
    /// While the log has no room (`log_waits`) it grows only to what the next snapshot takes, and
    /// is at most twice too long.
    pub(crate) fn change(
        &self,
        log_waits: bool,
        used_bytes: impl FnOnce() -> u64,
    ) -> Option<(u64, DiskOp)> {
        let len_bytes = self.wanted_bytes.min(self.held_bytes + self.step_bytes);
        let grows = len_bytes > self.held_bytes;
        if grows && log_waits && self.held_bytes >= self.least_bytes {
            return None;
        }
        let excess_bytes = self.held_bytes.saturating_sub(self.wanted_bytes);
        let is_affordable = || !log_waits && self.wanted_bytes > 0 && excess_bytes <= used_bytes();
        let fits = !grows && (self.held_bytes / 2 <= self.wanted_bytes || is_affordable());
        if fits || grows && self.asked {
            return None;
        }
        let file = file_name();
        let op = if len_bytes == 0 {
            DiskOp::Remove { file }
        } else {
            DiskOp::Reserve { file, len_bytes }
        };
        Some((len_bytes, op))
    }

    /// Was there no room on the disk for what the next snapshot takes?
    pub(crate) const fn lacks_room_for_the_next(&self) -> bool {
        self.short && self.held_bytes < self.least_bytes
    }

    /// A full disk may be asked again.
    pub(crate) fn ask_again(&mut self) {
        self.asked = false;
    }

    /// A change ended, and it has this length; `None` if there was no room for that.
    pub(crate) fn changed(&mut self, len_bytes: Option<u64>) {
        self.short = len_bytes.is_none();
        self.asked = self.short;
        self.held_bytes = len_bytes.unwrap_or(self.held_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes until there is no more to change on a disk that has room; the length it then has.
    fn settle(reserve: &mut Reserve, log_waits: bool) -> u64 {
        while let Some((len_bytes, _)) = reserve.change(log_waits, || 60) {
            reserve.changed(Some(len_bytes));
        }
        reserve.held_bytes()
    }

    #[test]
    fn a_log_without_room_comes_after_the_next_snapshot_and_before_those_that_follow() {
        let mut reserve = Reserve::found(0, 10);
        reserve.want(60, 15);
        assert_eq!(settle(&mut reserve, true), 40, "two steps for a start, two for a snapshot");
        assert_eq!(settle(&mut reserve, false), 80);
        let (lent_bytes, _) = reserve.release().expect("it is held");
        reserve.changed(Some(lent_bytes));
        assert_eq!((lent_bytes, settle(&mut reserve, true)), (20, 40));
        reserve.want(0, 0);
        assert_eq!(settle(&mut reserve, true), 0, "what is not wanted is given back");
    }

    #[test]
    fn what_is_wanted_no_more_is_given_back_if_it_is_much_or_the_log_needs_it() {
        let mut reserve = Reserve::found(0, 10);
        for (wanted_bytes, log_waits, len_bytes, why) in [
            (80, false, 100, "two steps for a start"),
            (50, false, 100, "less than twice too long"),
            (15, false, 100, "no longer than log and snapshots"),
            (15, true, 40, "the log needs it"),
            (80, false, 100, "wanted again"),
            (1, false, 30, "longer than log and snapshots"),
        ] {
            reserve.want(wanted_bytes, 1);
            assert_eq!(settle(&mut reserve, log_waits), len_bytes, "{why}");
        }
    }
}
