//! Handing leadership to another node (thesis 3.10).
//!
//! While it goes on the leader takes no proposals, brings the target's log up to its own and tells
//! it to start an election at once. If that has not deposed the leader within an election timeout,
//! it goes on leading.

use sampan_base::{NodeId, Time};

use crate::node::{Raft, RoleState};
use crate::progress::Progress;
use crate::{Body, DropReason, Health, Refused, Why};

/// Who did not take leadership is the last to be asked for so many election timeouts: it stops
/// itself, say.
const DECLINED_TIMEOUTS: u32 = 10;

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// When it is given up.
    pub(crate) deadline: Time,
    /// When the target was last told to start.
    told_at: Option<Time>,
}

impl Raft {
    /// Hands leadership to a voter, by default the one with the longest log among those heard
    /// lately. Returns the target. Until it leads, or an election timeout has passed, proposals are
    /// refused as [`Refused::Transferring`].
    pub fn transfer_leadership(
        &mut self,
        now: Time,
        to: Option<NodeId>,
    ) -> Result<NodeId, Refused> {
        let RoleState::Leader(leader) = &self.role else {
            return Err(Refused::NotLeader { leader: self.leader });
        };
        if let Some(transfer) = &leader.transfer {
            let same = to.is_none_or(|to| to == transfer.to);
            return if same {
                Ok(transfer.to)
            } else {
                Err(Refused::Transferring { to: transfer.to })
            };
        }
        let to = match to {
            Some(id) if id == self.config.id => {
                return Err(Refused::Invalid("this node leads already"));
            }
            Some(id) if self.configuration().is_voter(id) => id,
            Some(_) => return Err(Refused::Invalid("only a voter can lead")),
            None => self.best_successor(now).ok_or(Refused::Invalid("there is no other voter"))?,
        };
        let deadline = now + self.config.election_timeout_min;
        let RoleState::Leader(leader) = &mut self.role else { unreachable!("checked above") };
        leader.transfer = Some(Transfer { to, deadline, told_at: None });
        crate::invariants::check(self);
        Ok(to)
    }

    /// Who could lead: the other voters that lack nothing.
    fn successors(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let peers = match &self.role {
            RoleState::Leader(leader) => Some(&leader.peers),
            _ => None,
        };
        let peers = peers.into_iter().flatten().map(|(id, peer)| (*id, peer));
        peers.filter(|(id, peer)| self.configuration().is_voter(*id) && !peer.recovering)
    }

    fn is_there(&self, peer: &Progress, now: Time) -> bool {
        now < peer.heard_at + self.config.election_timeout_min
    }

    fn has_declined(&self, peer: &Progress, now: Time) -> bool {
        let pause = self.config.election_timeout_max * DECLINED_TIMEOUTS;
        peer.declined_at.is_some_and(|at| now < at + pause)
    }

    /// Is there another voter that was heard lately and has not declined to lead?
    pub fn has_successor(&self, now: Time) -> bool {
        self.successors().any(|(_, peer)| self.is_there(peer, now) && !self.has_declined(peer, now))
    }

    /// Of the voters that were heard lately, have not declined and whose disks are well, if any,
    /// the one with the most of the log; of several, the one heard last.
    fn best_successor(&self, now: Time) -> Option<NodeId> {
        let suits = |peer: &Progress| {
            let is_well = peer.health == Some(Health::Well);
            let (is_there, has_declined) = (self.is_there(peer, now), self.has_declined(peer, now));
            (is_there, !has_declined, is_well, peer.matched, peer.heard_at)
        };
        self.successors().max_by_key(|(_, peer)| suits(peer)).map(|(id, _)| id)
    }

    /// Tells the target to start, once it has the whole log.
    pub(crate) fn send_to_transfer_target(&mut self, now: Time) {
        let (last, interval) = (self.log.last_index(), self.config.heartbeat_interval);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let to = transfer.to;
        let caught_up = leader.peers.get(&to).is_some_and(|peer| peer.matched == last);
        if caught_up && transfer.told_at.is_none_or(|at| now >= at + interval) {
            transfer.told_at = Some(now);
            self.send(to, Body::TimeoutNow);
        }
    }

    pub(crate) fn abort_transfer_if_due(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(given_up) = leader.transfer.take_if(|transfer| now >= transfer.deadline) else {
            return;
        };
        // One that was not told, for it lacked entries, has not declined.
        if given_up.told_at.is_some()
            && let Some(peer) = leader.peers.get_mut(&given_up.to)
        {
            peer.declined_at = Some(now);
        }
    }

    /// This leader is not in the configuration that just became committed (thesis 4.2.2): the best
    /// of its voters is to start an election at once.
    pub(crate) fn hand_over_and_step_down(&mut self, now: Time) {
        if let Some(to) = self.best_successor(now) {
            self.send(to, Body::TimeoutNow);
        }
        self.why.get_or_insert(Why::Removed);
        self.become_follower(now, self.term, None);
    }

    /// The leader asks this node to take over.
    pub(crate) fn on_timeout_now(&mut self, now: Time, from: NodeId) -> Result<(), DropReason> {
        if !self.may_lead() {
            return Err(DropReason::WrongRole);
        }
        self.why.get_or_insert(Why::AskedBy(from));
        self.start_election(now, true);
        Ok(())
    }
}
