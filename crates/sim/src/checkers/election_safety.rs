//! Election safety: at most one leader in a term (paper, Figure 3 and 5.2).

use std::collections::BTreeMap;

use sampan_base::{NodeId, Term};

use super::Violation;

/// Who led which term.
#[derive(Default, Debug)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl ElectionSafety {
    /// A node leads that did not, or in another term.
    pub fn check(&mut self, id: NodeId, term: Term) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(id);
        if first == id {
            return Ok(());
        }
        let detail = format!("{first} and {id} both led term {term}");
        Err(Violation::new("election-safety", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_has_one_leader_for_ever() {
        let mut safety = ElectionSafety::default();
        let (a, b) = (NodeId::of(1), NodeId::of(2));
        assert!(safety.check(a, Term(1)).is_ok());
        assert!(safety.check(b, Term(2)).is_ok());
        assert!(safety.check(a, Term(1)).is_ok());
        assert!(safety.check(b, Term(1)).is_err());
    }
}
