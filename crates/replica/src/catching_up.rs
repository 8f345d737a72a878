//! How fast followers that only catch up are sent the log: what commits do not wait for is background
//! work, and goes at its pace (`pace.rs`).
//!
//! What it is not: which followers those are, and how much an Append holds. That is consensus'
//! (`sampan_raft::Raft::allow_catch_up`).

use sampan_base::LogIndex;

use crate::replica::Replica;

/// What followers that catch up have to get in any case.
#[derive(Debug, Default)]
pub(crate) struct CatchingUp {
    /// The log through here was counted.
    allowed_through: LogIndex,
    /// Bytes that are to be sent whatever the pace; negative: that much more went.
    due_bytes: isize,
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
        let append_bytes_max = self.options.raft.append_bytes_max;
        let grown_bytes = self.raft.log_bytes_after(grown_from.min(last));
        let due_bytes = self.catching_up.due_bytes.saturating_add_unsigned(2 * grown_bytes);
        self.catching_up.due_bytes = due_bytes.min(append_bytes_max as isize);
        let is_free = self.pace.is_free(self.now.mono);
        let due_bytes = usize::try_from(self.catching_up.due_bytes).unwrap_or(0);
        self.raft.allow_catch_up(if is_free { append_bytes_max } else { due_bytes });
    }

    /// Whoever catches up was sent something: when the next may go.
    pub(crate) fn charge_catch_up(&mut self) {
        let sent_bytes = self.raft.take_catch_up_sent();
        if sent_bytes > 0 && self.pace.is_free(self.now.mono) {
            self.pace.went(self.now.mono, sent_bytes as u64);
        } else {
            self.catching_up.due_bytes =
                self.catching_up.due_bytes.saturating_sub_unsigned(sent_bytes);
        }
    }
}
