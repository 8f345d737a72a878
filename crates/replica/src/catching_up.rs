//! How fast followers that only catch up are sent the log: what commits do not wait for is
//! background work, and goes at its pace (`pace.rs`). And how such a follower takes it: in short
//! turns, for others may share its processors.
//!
//! What it is not: which followers those are, and how much an Append holds. That is consensus'
//! (`sampan_raft::Raft::allow_catch_up`).

use std::time::Duration;

use sampan_base::{LogIndex, Time};
use sampan_raft::CATCH_UP_BYTES_MAX;

use crate::pace::Pace;
use crate::replica::Replica;

/// Without anything sent for so long, a follower that is sent something begins to catch up.
const APART: Duration = Duration::from_secs(1);

/// Bytes of entries that a follower applies in one turn while it catches up.
const APPLY_BYTES_MAX: usize = 256 << 10;

/// What goes in this turn.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Turn {
    /// Whatever there is.
    #[default]
    Unlimited,
    /// The share that is due.
    Share,
    /// A piece at the pace, and what is due.
    Paced,
}

/// What followers that catch up have to get in any case.
#[derive(Debug, Default)]
pub(crate) struct CatchingUp {
    /// The log through here was counted.
    allowed_through: LogIndex,
    /// Bytes that are to be sent whatever the pace, no more than one Append or the share of one
    /// turn; negative: that much more went.
    due_bytes: isize,
    turn: Turn,
    /// When a follower was last sent something on it.
    paced_at: Option<Time>,
}

impl CatchingUp {
    /// There is no limit, and what goes is no debt.
    fn allow_all(&mut self) {
        (self.due_bytes, self.turn) = (0, Turn::Unlimited);
    }

    /// Is it the log's turn? Not if the last that went at the pace was of the log, and something
    /// else waits for it.
    fn is_turn(&self, pace: &Pace, snapshots_wait: bool) -> bool {
        !snapshots_wait || pace.went_after(self.paced_at)
    }

    /// What may go in this turn: at the pace one piece, and in any case the share that is due. A
    /// piece goes whole if any of it may: if all of it might, what entries leave of it would let
    /// another one go.
    fn allow(&mut self, share_bytes: usize, piece_bytes: usize, is_paced: bool) -> usize {
        let due_bytes = self.due_bytes.saturating_add_unsigned(share_bytes);
        self.due_bytes = due_bytes.min(share_bytes.max(piece_bytes) as isize);
        self.turn = if is_paced { Turn::Paced } else { Turn::Share };
        let due_bytes = usize::try_from(self.due_bytes).unwrap_or(0);
        due_bytes.max(usize::from(is_paced))
    }

    /// So much went. Was it at the pace?
    fn charge(&mut self, sent_bytes: usize) -> bool {
        match self.turn {
            Turn::Unlimited => false,
            Turn::Share => {
                self.due_bytes = self.due_bytes.saturating_sub_unsigned(sent_bytes);
                false
            }
            Turn::Paced if sent_bytes == 0 => false,
            Turn::Paced => {
                self.turn = Turn::Share;
                true
            }
        }
    }
}

impl Replica {
    /// Does this node catch up with what others have committed? Then commits seldom wait for it,
    /// and whoever runs it had better leave the processor to others after each turn.
    pub fn catches_up(&self) -> bool {
        self.raft.lacks_committed() || self.receiving_attempt().is_some()
    }

    /// Bytes of entries that may be applied in this turn.
    pub(crate) fn apply_bytes_max(&self) -> usize {
        let most = self.options.apply_bytes_max;
        if self.catches_up() { most.min(APPLY_BYTES_MAX) } else { most }
    }

    /// Followers that are far behind may be sent entries as fast as the background goes, and in any
    /// case twice as fast as the log grows, or they would never have them all. With snapshots that
    /// wait for the pace, too, they take turns. Without foreground there is no limit.
    pub(crate) fn allow_catch_up(&mut self) {
        let last = self.raft.last_index();
        let grown_from = std::mem::replace(&mut self.catching_up.allowed_through, last);
        if !self.raft.is_leader() || self.pace.bytes_per_second(self.now.mono).is_none() {
            self.catching_up.allow_all();
            return self.raft.allow_catch_up(usize::MAX);
        }
        let piece_bytes = CATCH_UP_BYTES_MAX.min(self.options.raft.append_bytes_max);
        let share_bytes = 2 * self.raft.log_bytes_after(grown_from.min(last));
        let snapshots_wait = self.snapshots.wait_for_pace();
        let is_turn = self.catching_up.is_turn(&self.pace, snapshots_wait);
        let is_paced = is_turn && self.pace.is_free(self.now.mono);
        let allowed_bytes = self.catching_up.allow(share_bytes, piece_bytes, is_paced);
        self.raft.allow_catch_up(allowed_bytes);
    }

    /// Whoever catches up was sent something: when the next may go.
    pub(crate) fn charge_catch_up(&mut self) {
        let sent_bytes = self.raft.take_catch_up_sent();
        if !self.catching_up.charge(sent_bytes) {
            return;
        }
        let last = self.catching_up.paced_at.replace(self.now.mono);
        let begins = last.is_none_or(|at| at + APART < self.now.mono);
        if begins && self.pace.went_after(last) {
            // That were snapshots: a byte of the log is more work than one of theirs.
            self.pace.start_over();
        }
        self.pace.went(self.now.mono, sent_bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 1_000;

    #[test]
    fn the_share_is_sent_whatever_the_pace_and_no_more() {
        let mut catching_up = CatchingUp::default();
        let mut sent = 0;
        for _ in 0..1_000 {
            // Pieces are not cut: one may reach beyond what is due, which the next ones make up
            // for.
            if catching_up.allow(20, PIECE, false) > 0 {
                assert!(!catching_up.charge(PIECE), "it is of the share");
                sent += PIECE;
            }
        }
        assert!((20 * PIECE..22 * PIECE).contains(&sent), "{sent} bytes of {}", 20 * 1_000);
    }

    #[test]
    fn at_the_pace_one_piece_goes_and_is_no_debt() {
        let mut catching_up = CatchingUp::default();
        assert_eq!(catching_up.allow(0, PIECE, true), 1);
        assert!(catching_up.charge(PIECE));
        assert_eq!(catching_up.allow(0, PIECE, false), 0);
        assert_eq!(catching_up.allow(7, PIECE, false), 7);
    }

    #[test]
    fn log_and_snapshots_take_turns() {
        let mut pace = Pace::new(Time::ZERO);
        let mut catching_up = CatchingUp::default();
        let at = |milliseconds| Time::ZERO + Duration::from_millis(milliseconds);
        pace.went(at(1), 1);
        assert!(catching_up.is_turn(&pace, true), "a snapshot went");
        catching_up.paced_at = Some(at(2));
        pace.went(at(2), 1);
        assert!(!catching_up.is_turn(&pace, true));
        assert!(catching_up.is_turn(&pace, false), "nothing else waits");
        pace.went(at(3), 1);
        assert!(catching_up.is_turn(&pace, true));
    }

    #[test]
    fn what_went_without_limit_is_no_debt() {
        let mut catching_up = CatchingUp::default();
        for _ in 0..3 {
            catching_up.allow_all();
            assert!(!catching_up.charge(500_000_000), "nor is it of the pace");
        }
        assert_eq!(catching_up.allow(7, PIECE, false), 7);
    }
}
