//! Leader append-only: a leader never overwrites or deletes entries of its log, it only appends
//! (paper, Figure 3 and 5.3). Trimming behind a snapshot is no deletion: what goes is committed.

use sampan_base::{LogIndex, NodeId};

use super::{Cursors, Violation};

/// A node took a turn, and `kept` its log through that index. If it led before and after the turn,
/// in one term, all that it had is still there.
pub fn check(id: NodeId, before: &Cursors, now: &Cursors, kept: LogIndex) -> Result<(), Violation> {
    let led_on = before.leads && now.leads && before.term == now.term;
    if !led_on || kept >= before.last {
        return Ok(());
    }
    let (term, last) = (now.term, before.last);
    let detail = format!("{id} leads term {term} and kept its log only through {kept} of {last}");
    Err(Violation::new("leader-append-only", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::Term;

    #[test]
    fn a_leader_keeps_what_it_has_and_others_may_not() {
        let leads = Cursors { term: Term(3), leads: true, last: LogIndex(5), ..Cursors::default() };
        let check = |before: &Cursors, now: &Cursors, kept| {
            check(NodeId::of(1), before, now, LogIndex(kept)).is_ok()
        };
        assert!(check(&leads, &leads, 5));
        assert!(check(&leads, &Cursors { last: LogIndex(7), ..leads }, 5));
        assert!(!check(&leads, &leads, 4), "another entry at 5");
        assert!(!check(&leads, &Cursors { last: LogIndex(4), ..leads }, 4), "a shorter log");
        assert!(check(&leads, &Cursors { leads: false, ..leads }, 2));
        assert!(check(&Cursors { leads: false, ..leads }, &leads, 2));
        assert!(check(&leads, &Cursors { term: Term(4), ..leads }, 2), "led again, later");
    }
}
