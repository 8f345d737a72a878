//! Term, commit index, applied index and the start of the log never go back while a node lives, and
//! a vote is kept for its term (paper, Figure 2 "State").

use sampan_base::NodeId;

use super::{Cursors, Violation};

/// A node took a turn.
pub fn check(id: NodeId, before: &Cursors, now: &Cursors) -> Result<(), Violation> {
    let back = [
        ("term", before.term.0, now.term.0),
        ("commit index", before.commit.0, now.commit.0),
        ("applied index", before.applied.0, now.applied.0),
        ("first index", before.first.0, now.first.0),
    ];
    for (what, before, now) in back {
        if now < before {
            return Err(Violation::new("monotone", format!("{id}: {what} {now} after {before}")));
        }
    }
    if before.term == now.term && before.vote.is_some() && before.vote != now.vote {
        let detail =
            format!("{id}: vote {:?} after {:?} in term {}", now.vote, before.vote, now.term);
        return Err(Violation::new("monotone", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::{LogIndex, Term};

    #[test]
    fn nothing_goes_back_and_a_vote_is_kept() {
        let id = NodeId::of(1);
        let vote = Some(NodeId::of(2));
        let before = Cursors { term: Term(2), vote, commit: LogIndex(5), ..Cursors::default() };
        assert!(check(id, &before, &before).is_ok());
        assert!(check(id, &before, &Cursors { commit: LogIndex(4), ..before }).is_err());
        assert!(check(id, &before, &Cursors { vote: None, ..before }).is_err());
        let next = Cursors { term: Term(3), vote: None, ..before };
        assert!(check(id, &before, &next).is_ok());
        assert!(check(id, &next, &before).is_err());
    }
}
