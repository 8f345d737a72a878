//! A leader's match index of a peer never goes back in its term, and what it says is true: the peer
//! holds the leader's log durably through it (paper, Figure 2; thesis 3.8).

use std::collections::BTreeMap;

use sampan_base::{LogIndex, LogPosition, NodeId, Term};

use super::{Seen, Turn, Violation};

/// A leader's peers are looked at in every so many turns of it: asking costs more than a turn.
pub const EVERY_TURNS: u64 = 32;

/// What leaders said of their peers.
#[derive(Default, Debug)]
pub struct MatchIndex {
    said: BTreeMap<(NodeId, NodeId), (Term, LogIndex)>,
}

impl MatchIndex {
    /// A leader took a turn.
    pub fn check(&mut self, turn: &Turn<'_>, nodes: &[Option<Seen>]) -> Result<(), Violation> {
        for peer in turn.replica.raft().status().peers {
            let (leader, term, matched) = (turn.id, turn.now.term, peer.matched);
            let said = self.said.insert((leader, peer.id), (term, matched));
            if let Some((said_term, said_matched)) = said
                && said_term == term
                && matched < said_matched
                && !peer.recovering
            {
                let detail =
                    format!("{leader}: match of {} {matched} after {said_matched}", peer.id);
                return Err(Violation::new("match-index", detail));
            }
            let Some(held) = turn.log.term_at(matched).filter(|_| matched > turn.log.start())
            else {
                continue;
            };
            let position = LogPosition { term: held, index: matched };
            let seen = nodes.get(peer.id.get() as usize).and_then(Option::as_ref);
            // What a peer held for a leader that is deposed, the next one may have cut off.
            let seen = seen.filter(|seen| seen.cursors.term <= term);
            if seen.is_some_and(|seen| !seen.durable.holds(position)) {
                let detail = format!(
                    "{leader} says that {} holds {matched}@{held}, which is not durable there",
                    peer.id
                );
                return Err(Violation::new("match-index", detail));
            }
        }
        Ok(())
    }

    /// A node started anew: a leader that finds it wanting may start again from nothing.
    pub fn forget(&mut self, id: NodeId) {
        self.said.retain(|(leader, peer), _| *leader != id && *peer != id);
    }
}
