//! Election safety: at most one leader in a term, and each elected by a quorum of the configuration
//! it has in force (paper, Figure 3 and 5.2; thesis 4.3). A vote counts here once it is durable: a
//! leader by fewer votes shows at once, and not only when there are two.

use std::collections::{BTreeMap, BTreeSet};

use sampan_base::{Configuration, NodeId, Term};

use super::Violation;

/// Who led which term, and who voted for whom.
#[derive(Default, Debug)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(Term, NodeId), NodeId>,
}

impl ElectionSafety {
    /// A node's vote in a term is durable.
    pub fn voted(&mut self, id: NodeId, term: Term, vote: Option<NodeId>) {
        // The first one: who has forgotten it may take another in its place, but may not give it.
        if let Some(vote) = vote {
            self.votes.entry((term, id)).or_insert(vote);
        }
    }

    /// A node has forgotten all it knew. A vote for itself is void with it: nobody else could use
    /// it, and no candidate is left that might.
    pub fn forgot(&mut self, id: NodeId) {
        self.votes.retain(|(_, voter), vote| *voter != id || *vote != id);
    }

    /// A node leads that did not, or in another term.
    pub fn check(
        &mut self,
        id: NodeId,
        term: Term,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            let detail = format!("{first} and {id} both led term {term}");
            return Err(Violation::new("election-safety", detail));
        }
        for half in [&configuration.voters, &configuration.voters_outgoing] {
            let voted = |voter: &NodeId| self.votes.get(&(term, *voter)) == Some(&id);
            let voters: BTreeSet<NodeId> = half.iter().copied().filter(voted).collect();
            if !half.is_empty() && voters.len() * 2 <= half.len() {
                let detail = format!("{id} leads term {term} by votes of {voters:?} of {half:?}");
                return Err(Violation::new("election-safety", detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId::of(*id)).collect()
    }

    #[test]
    fn a_term_has_one_leader_for_ever() {
        let mut safety = ElectionSafety::default();
        let nobody = Configuration::default();
        let (a, b) = (NodeId::of(1), NodeId::of(2));
        assert!(safety.check(a, Term(1), &nobody).is_ok());
        assert!(safety.check(b, Term(2), &nobody).is_ok());
        assert!(safety.check(a, Term(1), &nobody).is_ok());
        assert!(safety.check(b, Term(1), &nobody).is_err());
    }

    #[test]
    fn a_vote_that_was_forgotten_counts_unless_it_was_for_oneself() {
        let configuration =
            Configuration { voters: voters(&[1, 2, 3]), ..Configuration::default() };
        let (one, two, three) = (NodeId::of(1), NodeId::of(2), NodeId::of(3));
        for (first, sound) in [(two, false), (three, true)] {
            let mut safety = ElectionSafety::default();
            safety.voted(one, Term(5), Some(one));
            safety.voted(three, Term(5), Some(first));
            safety.forgot(three);
            safety.voted(three, Term(5), Some(one));
            assert_eq!(safety.check(one, Term(5), &configuration).is_ok(), sound, "first {first}");
        }
    }

    #[test]
    fn a_leader_has_the_votes_of_both_halves() {
        let simple = Configuration { voters: voters(&[1, 2, 3]), ..Configuration::default() };
        let joint = Configuration { voters_outgoing: voters(&[3, 4]), ..simple.clone() };
        let leader = NodeId::of(1);
        let mut safety = ElectionSafety::default();
        for (term, id, vote) in [(5, 1, 1), (5, 2, 2), (4, 2, 1), (4, 1, 1), (5, 3, 1)] {
            safety.voted(NodeId::of(id), Term(term), Some(NodeId::of(vote)));
        }
        assert!(safety.check(leader, Term(5), &simple).is_ok());
        assert!(safety.check(leader, Term(5), &joint).is_err(), "one of {{3 4}} only");
        assert!(safety.check(leader, Term(4), &simple).is_ok());
        assert!(safety.check(leader, Term(6), &simple).is_err(), "nobody voted in term 6");
    }
}
