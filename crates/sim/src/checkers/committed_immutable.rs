//! What is committed never changes, and no node drops it from its log or disagrees about it (paper,
//! Figure 3, "State Machine Safety", 5.4.3).

use sampan_base::{LogIndex, NodeId, Term};

use super::registry::{Committed, Registry};
use super::shape::LogShape;
use super::{Turn, Violation};

/// A node's commit index moved from `from` to `through`: what it commits must be what others
/// committed. True if it is the first to know.
pub fn check(
    id: NodeId,
    (from, through): (LogIndex, LogIndex),
    term: Term,
    log: &LogShape,
    registry: &mut Registry,
) -> Result<bool, Violation> {
    let mut fresh = false;
    let mut index = from.max(log.start()).next();
    while index <= through {
        let Some(has) = log.term_at(index) else {
            return Err(violation(id, format!("committed {index}, which it does not have")));
        };
        match registry.committed(index) {
            Some(committed) if committed.term == has => {}
            Some(Committed { term, .. }) => {
                return Err(violation(
                    id,
                    format!("committed {index}@{has}, others {index}@{term}"),
                ));
            }
            None if registry.commit().next() == index => {
                registry.push_committed(Committed { term: has, in_term: term });
                fresh = true;
            }
            None => {
                let known = registry.commit();
                return Err(violation(id, format!("committed {index}, everybody else {known}")));
            }
        }
        index = index.next();
    }
    Ok(fresh)
}

/// A node's log changed: nothing that it knew to be committed may have gone, and the point where it
/// starts now is one that was committed.
pub fn check_kept(turn: &Turn<'_>, registry: &Registry) -> Result<(), Violation> {
    let (kept, knew) = (turn.kept, turn.before.commit);
    let start = turn.log.start();
    if kept < knew && start < knew {
        let detail = format!("kept its log only through {kept}, had committed {knew}");
        return Err(violation(turn.id, detail));
    }
    if turn.now.first > turn.before.first
        && let Some(committed) = registry.committed(start)
        && turn.log.term_at(start) != Some(committed.term)
    {
        let (has, term) = (turn.log.term_at(start), committed.term);
        let detail = format!("starts after {start}@{has:?}, others committed {start}@{term}");
        return Err(violation(turn.id, detail));
    }
    Ok(())
}

fn violation(id: NodeId, detail: String) -> Violation {
    Violation::new("committed-immutable", format!("{id} {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::LogPosition;

    #[test]
    fn an_index_is_committed_once_and_without_gaps() {
        let mut registry = Registry::default();
        let mut check = |terms: &[u64], from, through| {
            let mut log = LogShape::starting_after(LogPosition::ZERO);
            for term in terms {
                log.push(LogPosition { term: Term(*term), index: log.last().next() });
            }
            let span = (LogIndex(from), LogIndex(through));
            check(NodeId::of(1), span, Term(9), &log, &mut registry)
        };
        assert_eq!(check(&[1, 1, 2], 0, 2), Ok(true));
        assert_eq!(check(&[1, 1, 2], 0, 2), Ok(false), "another node learns of it");
        assert_eq!(check(&[1, 1, 2], 2, 3), Ok(true));
        assert!(check(&[1, 1, 3], 2, 3).is_err(), "another entry");
        assert!(check(&[1, 1], 2, 3).is_err(), "an entry that is not there");
        assert!(check(&[1, 1, 2, 2, 2], 4, 5).is_err(), "a gap");
    }
}
