//! How fast followers that only catch up are sent the log: what commits do not wait for is background
//! work, and goes at its pace (`pace.rs`).
//!
//! What it is not: which followers those are, and how much an Append holds. That is consensus'
//! (`sampan_raft::Raft::allow_catch_up`).

use std::time::Duration;

use sampan_base::{LogIndex, Time};
use sampan_raft::CATCH_UP_BYTES_MAX;

use crate::replica::Replica;

/// Without anything sent for so long, a follower that is sent something begins to catch up.
const APART: Duration = Duration::from_millis(200);

/// What followers that catch up have to get in any case.
#[derive(Debug, Default)]
pub(crate) struct CatchingUp {
    /// The log through here was counted.
    allowed_through: LogIndex,
    /// Bytes that are to be sent whatever the pace, no more than one Append or the share of one turn;
    /// negative: that much more went.
    due_bytes: isize,
    /// This turn's allowance is of the pace.
    is_paced: bool,
    /// When a follower was last sent something on it.
    paced_at: Option<Time>,
}

impl Replica {
    /// Followers that are far behind may be sent entries as fast as the background goes, and in any
    /// case twice as fast as the log grows, or they would never have them all. Without foreground there
    /// is no limit.
    pub(crate) fn allow_catch_up(&mut self) {
        let last = self.raft.last_index();
        let grown_from = std::mem::replace(&mut self.catching_up.allowed_through, last);
        if !self.raft.is_leader() || self.pace.bytes_per_second(self.now.mono).is_none() {
            return self.raft.allow_catch_up(usize::MAX);
        }
        let piece_bytes = CATCH_UP_BYTES_MAX.min(self.options.raft.append_bytes_max);
        let share_bytes = 2 * self.raft.log_bytes_after(grown_from.min(last));
        let due_bytes = self.catching_up.due_bytes.saturating_add_unsigned(share_bytes);
        let due_bytes = due_bytes.min(share_bytes.max(piece_bytes) as isize);
        // Snapshots that wait for their turn come first: they have no share of their own.
        let is_paced = self.pace.is_free(self.now.mono) && !self.snapshots.wait_for_pace();
        self.catching_up.due_bytes = due_bytes;
        self.catching_up.is_paced = is_paced;
        let due_bytes = usize::try_from(due_bytes).unwrap_or(0);
        let paced_bytes = if is_paced { piece_bytes } else { 0 };
        self.raft.allow_catch_up(due_bytes.max(paced_bytes));
    }

    /// Whoever catches up was sent something: when the next may go.
    pub(crate) fn charge_catch_up(&mut self) {
        let sent_bytes = self.raft.take_catch_up_sent();
        if sent_bytes > 0 && std::mem::take(&mut self.catching_up.is_paced) {
            let last = self.catching_up.paced_at.replace(self.now.mono);
            if last.is_none_or(|at| at + APART < self.now.mono) {
                // Before this, if anything, snapshots went: a byte of the log is more work than theirs.
                self.pace.start_over();
            }
            self.pace.went(self.now.mono, sent_bytes as u64);
        } else {
            self.catching_up.due_bytes =
                self.catching_up.due_bytes.saturating_sub_unsigned(sent_bytes);
        }
    }
}
