//! Followers that are behind the commit index while commits succeed without them.
//!
//! Nobody waits for the entries that such a follower lacks, and sending, writing and applying them
//! costs clients time; so the host limits how many bytes of them may go ([`Raft::allow_catch_up`]).
//! What it is not: a matter of safety. A follower that is sent less only takes longer.

use sampan_base::{NodeId, Time};

use crate::Health;
use crate::membership::agreed;
use crate::node::{Raft, RoleState};

/// Limit of one Append to such a follower, in bytes of entries (a longer entry travels alone),
/// while it lacks more than one ordinary Append could hold: others wait while an Append is sent,
/// received and written.
pub const CATCH_UP_BYTES_MAX: usize = 64 << 10;

/// What followers that only catch up may be sent.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// Bytes of entries that may still go.
    pub(crate) room: usize,
    /// Bytes that went since the host asked.
    pub(crate) sent: usize,
    /// Somebody needs more than that.
    pub(crate) waits: bool,
}

impl CatchUp {
    /// Whatever they need.
    pub(crate) const UNLIMITED: Self = Self { room: usize::MAX, sent: 0, waits: false };
}

impl Raft {
    /// From now on followers that only catch up are sent entries of this many bytes, and to the end
    /// of the Append that reaches it; what was left of an earlier allowance is void. Without a call
    /// there is no limit. Where commits need such a follower, or an Append holds all that it lacks,
    /// there is none either.
    pub fn allow_catch_up(&mut self, bytes: usize) {
        self.catch_up.room = bytes;
        self.catch_up.waits = false;
    }

    /// Bytes of entries that were sent on such an allowance since the last call.
    pub fn take_catch_up_sent(&mut self) -> usize {
        std::mem::take(&mut self.catch_up.sent)
    }

    /// Does a follower wait for another allowance?
    pub fn catch_up_waits(&self) -> bool {
        self.is_leader() && self.catch_up.waits
    }

    /// Can this leader commit with the peers that it hears, whose disks are well, and that have all
    /// that is committed? If not, everybody waits for those that catch up.
    pub fn commits_without_laggards(&self, now: Time) -> bool {
        let RoleState::Leader(leader) = &self.role else { return true };
        let able = agreed(self.configurations.latest(), |id: NodeId| {
            let keeps_up = leader.peers.get(&id).is_some_and(|peer| {
                let is_there = now < peer.heard_at + self.config.election_timeout_min;
                let is_well = peer.health.is_none_or(|health| health == Health::Well);
                is_there && is_well && peer.keeps_up(self.commit)
            });
            u64::from(keeps_up || id == self.config.id && self.health == Health::Well)
        });
        able > 0
    }
}
