//! A leader's match index of a peer never goes back in its term, and what it says is true: the peer
//! holds the leader's log durably through it (paper, Figure 2; thesis 3.8).

use sampan_base::{LogIndex, LogPosition, NodeId, Term};
use sampan_raft::PeerStatus;

use super::{Seen, Turn, Violation};

/// What leaders said of their peers, by the names of both.
#[derive(Default, Debug)]
pub struct MatchIndex {
    said: Vec<Vec<(Term, LogIndex)>>,
}

impl MatchIndex {
    /// A leader took a turn: what it says anew of its peers is looked at.
    pub fn check(&mut self, turn: &Turn<'_>, nodes: &[Option<Seen>]) -> Result<(), Violation> {
        let mut next = 0;
        for peer in turn.replica.raft().peers() {
            self.forget_left(turn.id, next, peer.id.get() as usize);
            next = peer.id.get() as usize + 1;
            let said = self.said(turn.id, peer.id);
            let before = std::mem::replace(said, (turn.now.term, peer.matched));
            if before != (turn.now.term, peer.matched) {
                check_not_back(turn.id, turn.now.term, &peer, before)?;
                check_true(turn, &peer, nodes)?;
            }
        }
        self.forget_left(turn.id, next, usize::MAX);
        Ok(())
    }

    /// Of nodes `from..to`, which are no members, a leader knows nothing should they come back.
    fn forget_left(&mut self, leader: NodeId, from: usize, to: usize) {
        if let Some(said) = self.said.get_mut(leader.get() as usize) {
            let to = to.min(said.len());
            said.get_mut(from..to).into_iter().for_each(|left| left.fill(Default::default()));
        }
    }

    fn said(&mut self, leader: NodeId, peer: NodeId) -> &mut (Term, LogIndex) {
        let (leader, peer) = (leader.get() as usize, peer.get() as usize);
        if self.said.len() <= leader {
            self.said.resize_with(leader + 1, Vec::new);
        }
        let said = &mut self.said[leader];
        if said.len() <= peer {
            said.resize(peer + 1, Default::default());
        }
        &mut said[peer]
    }

    /// A node started anew: a leader that finds it wanting may start again from nothing.
    pub fn forget(&mut self, id: NodeId) {
        let slot = id.get() as usize;
        if let Some(said) = self.said.get_mut(slot) {
            said.clear();
        }
        for said in self.said.iter_mut().filter_map(|said| said.get_mut(slot)) {
            *said = Default::default();
        }
    }
}

fn check_not_back(
    leader: NodeId,
    term: Term,
    peer: &PeerStatus,
    (said_term, said): (Term, LogIndex),
) -> Result<(), Violation> {
    if said_term != term || peer.matched >= said || peer.recovering {
        return Ok(());
    }
    let detail = format!("{leader}: match of {} {} after {said}", peer.id, peer.matched);
    Err(Violation::new("match-index", detail))
}

fn check_true(turn: &Turn<'_>, peer: &PeerStatus, nodes: &[Option<Seen>]) -> Result<(), Violation> {
    let index = peer.matched;
    let Some(term) = turn.log.term_at(index).filter(|_| index > turn.log.start()) else {
        return Ok(());
    };
    // What a peer held for a leader that is deposed, the next one may have cut off; and of what a
    // disk lost, its node has yet to tell the leader.
    let seen = nodes.get(peer.id.get() as usize).and_then(Option::as_ref);
    let seen = seen.filter(|s| s.cursors.term <= turn.now.term && !s.cursors.recovering);
    if seen.is_none_or(|seen| seen.acknowledged(LogPosition { term, index })) {
        return Ok(());
    }
    let (leader, id) = (turn.id, peer.id);
    let detail =
        format!("{leader} says that {id} holds {index}@{term}, which is not durable there");
    Err(Violation::new("match-index", detail))
}
