//! The cursors of a node stand in order: start of the log ≤ applied ≤ committed ≤ last, and durable
//! ≤ last (paper, Figure 2; section 7). *Not* committed ≤ durable: others' disks may have committed
//! what this one still writes.

use sampan_base::NodeId;

use super::{Cursors, Violation};

/// A node took a turn.
pub fn check(id: NodeId, now: &Cursors) -> Result<(), Violation> {
    let in_order = now.first.prev() <= now.applied
        && now.applied <= now.commit
        && now.commit <= now.last
        && now.durable <= now.last;
    if in_order { Ok(()) } else { Err(Violation::new("cursor-order", format!("{id}: {now:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::LogIndex;

    #[test]
    fn committed_may_be_ahead_of_durable_and_nothing_else_is_out_of_order() {
        let id = NodeId::of(1);
        let [one, two, three] = [1, 2, 3].map(LogIndex);
        let good = Cursors {
            first: one,
            applied: two,
            commit: three,
            last: three,
            durable: one,
            ..Cursors::default()
        };
        assert!(check(id, &good).is_ok());
        assert!(check(id, &Cursors { applied: LogIndex(4), ..good }).is_err());
        assert!(check(id, &Cursors { last: two, ..good }).is_err());
        assert!(check(id, &Cursors { durable: LogIndex(4), ..good }).is_err());
        assert!(check(id, &Cursors { first: LogIndex(4), ..good }).is_err());
    }
}
