//! What consensus is told of a node's disk, and what a leader makes of it (thesis 3.10: leadership
//! goes to whom it suits better).
//!
//! A node says with each answer to its leader how its disk is. A leader whose own is not well hands
//! leadership to a voter that is, if the nodes that are well make a quorum without it: to change
//! the leader of a cluster that lacks disks all over helps nobody.
//!
//! Not here: how a host finds out. And no safety depends on it: a node that is not well votes and
//! leads like any other.

use sampan_base::{NodeId, Time};

use crate::membership::agreed;
use crate::node::{Raft, RoleState};

/// How a node's disk is. The numbers are those of the wire between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Health {
    /// It does what it is told.
    #[default]
    Well = 0,
    /// It takes far too long, while others do not.
    Slow = 1,
    /// It has so little room for more of the log that this is left to what makes room.
    Full = 2,
    /// It has no room for more of the log.
    Exhausted = 3,
}

impl Health {
    /// Its name, in transcripts and for operators.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Exhausted => "exhausted",
        }
    }

    /// Does it lack room for what clients write?
    pub const fn is_full(self) -> bool {
        matches!(self, Self::Full | Self::Exhausted)
    }

    pub(crate) const fn as_byte(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Well),
            1 => Some(Self::Slow),
            2 => Some(Self::Full),
            3 => Some(Self::Exhausted),
            _ => None,
        }
    }
}

/// After a leader that is not well has tried to hand over, it leads this many election timeouts
/// before it tries again: writes wait while it tries.
const YIELD_PAUSE_TIMEOUTS: u32 = 4;

impl Raft {
    /// The host tells how this node's disk is, whenever that changes.
    pub fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    /// Does the leader know of a quorum whose disks have room for more of the log? Without one no
    /// proposal should be made: it might never be durable anywhere.
    pub fn quorum_has_room(&self) -> bool {
        self.agrees(|health| !health.is_some_and(Health::is_full), Some(self.health))
    }

    /// The same for the little that what makes room takes.
    pub fn quorum_has_room_for_deletions(&self) -> bool {
        self.agrees(|health| health != Some(Health::Exhausted), Some(self.health))
    }

    /// Do the voters whose health, if known, is fitting make a quorum, this leader taken as told?
    fn agrees(&self, fits: impl Fn(Option<Health>) -> bool, own: Option<Health>) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let fitting = agreed(self.configurations.latest(), |id: NodeId| {
            let fits = if id == self.config.id {
                fits(own)
            } else {
                leader.peers.get(&id).is_some_and(|peer| fits(peer.health))
            };
            u64::from(fits)
        });
        fitting > 0
    }

    /// Is this a leader that is about to hand over for not being well, or is doing so?
    pub fn is_yielding(&self, now: Time) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        self.health != Health::Well
            && (leader.transfer.is_some() || now >= leader.yield_at)
            && self.agrees(|health| health == Some(Health::Well), Some(self.health))
    }

    /// A leader that is not well looks for a better one.
    pub(crate) fn yield_if_unwell(&mut self, now: Time) {
        if !self.is_yielding(now) {
            return;
        }
        let pause = self.config.election_timeout_max * YIELD_PAUSE_TIMEOUTS;
        if self.transfer_leadership(now, None).is_ok()
            && let RoleState::Leader(leader) = &mut self.role
        {
            leader.yield_at = now + pause;
        }
    }
}
