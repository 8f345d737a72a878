//! Leader completeness: an entry that was committed in one term is in the logs of the leaders of
//! all later terms (paper, Figure 3 and 5.4).

use sampan_base::{LogPosition, NodeId, Term};

use super::registry::Registry;
use super::shape::LogShape;
use super::{Cursors, Violation};

/// A node became leader of a term: the last entry committed in an earlier one must be in its log,
/// and with it, by Log Matching, all before it.
pub fn check(id: NodeId, term: Term, log: &LogShape, registry: &Registry) -> Result<(), Violation> {
    let index = registry.committed_before(term);
    let Some(committed) = registry.committed(index) else { return Ok(()) };
    if log.holds(LogPosition { term: committed.term, index }) {
        return Ok(());
    }
    let detail = format!(
        "{id} leads term {term} without entry {index}@{}, committed in term {}; it has {:?} there and \
         ends at {}",
        committed.term,
        committed.in_term,
        log.term_at(index),
        log.last()
    );
    Err(Violation::new("leader-completeness", detail))
}

/// A leader moved its commit index: by counting, which proves something of its own term's entries
/// only (paper 5.4.2, Figure 8). Without this an entry that can still be overwritten passes for
/// committed until somebody overwrites it.
pub fn check_own_term(
    id: NodeId,
    before: &Cursors,
    now: &Cursors,
    log: &LogShape,
) -> Result<(), Violation> {
    let counted = before.leads && now.leads && before.term == now.term;
    let last = log.term_at(now.commit);
    if !counted || last == Some(now.term) {
        return Ok(());
    }
    let detail = format!("{id} leads term {} and commits {}@{last:?}", now.term, now.commit);
    Err(Violation::new("commit-own-term", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::registry::Committed;
    use sampan_base::LogIndex;

    #[test]
    fn a_leader_has_what_earlier_terms_committed_and_may_lack_what_later_ones_did() {
        let mut registry = Registry::default();
        for (term, in_term) in [(1, 1), (1, 1), (3, 3)] {
            registry.push_committed(Committed { term: Term(term), in_term: Term(in_term) });
        }
        let log = |terms: &[u64]| {
            let mut log = LogShape::starting_after(LogPosition::ZERO);
            for term in terms {
                log.push(LogPosition { term: Term(*term), index: log.last().next() });
            }
            log
        };
        let check =
            |term, terms: &[u64]| check(NodeId::of(1), Term(term), &log(terms), &registry).is_ok();
        assert!(check(4, &[1, 1, 3]));
        assert!(!check(4, &[1, 1]));
        assert!(!check(4, &[1, 1, 2, 2]));
        assert!(check(2, &[1, 1]), "elected late, for a term before the third entry");
        assert!(!check(2, &[1]));
    }

    #[test]
    fn a_leader_commits_what_is_of_its_term_and_with_it_what_is_before() {
        let mut log = LogShape::starting_after(LogPosition::ZERO);
        for (index, term) in [(1, 1), (2, 1), (3, 2)] {
            log.push(LogPosition { index: LogIndex(index), term: Term(term) });
        }
        let leads = Cursors { term: Term(2), leads: true, ..Cursors::default() };
        let at = |commit, leads: Cursors| Cursors { commit: LogIndex(commit), ..leads };
        let check = |before: Cursors, commit| {
            check_own_term(NodeId::of(1), &before, &at(commit, leads), &log).is_ok()
        };
        assert!(check(leads, 3));
        assert!(!check(leads, 2));
        assert!(check(Cursors { leads: false, ..leads }, 2), "it learned of it as a follower");
    }
}
