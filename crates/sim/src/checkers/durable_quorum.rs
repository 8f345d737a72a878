//! Every committed entry is on the *durable* logs of a quorum at the moment it is committed (paper
//! 5.6, thesis 3.8 and 10.2.1): the oracle that sees an acknowledgement before its sync at once, and
//! not only after a second fault.
//!
//! Durable is what the simulated disk synced, not what the node believes.

use std::collections::BTreeSet;

use sampan_base::{Configuration, LogPosition, NodeId};

use super::{Seen, Violation};

/// A node is the first to know that an entry is committed, in this configuration.
pub fn check(
    id: NodeId,
    position: LogPosition,
    configuration: &Configuration,
    nodes: &[Option<Seen>],
) -> Result<(), Violation> {
    let holds = |id: &NodeId| {
        let seen = nodes.get(id.get() as usize).and_then(Option::as_ref);
        seen.is_some_and(|seen| seen.acknowledged(position))
    };
    for half in [&configuration.voters, &configuration.voters_outgoing] {
        if half.is_empty() {
            continue;
        }
        let holders: BTreeSet<NodeId> = half.iter().copied().filter(|id| holds(id)).collect();
        if holders.len() * 2 <= half.len() {
            let LogPosition { term, index } = position;
            let detail = format!(
                "{id} commits {index}@{term}, which is durable on {holders:?} of {half:?} only"
            );
            return Err(Violation::new("durable-quorum", detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::{LogIndex, Term};

    fn at(index: u64) -> LogPosition {
        LogPosition { term: Term(1), index: LogIndex(index) }
    }

    /// Nodes 1, 2, 3… whose disks hold so many entries.
    fn nodes(durable: &[u64]) -> Vec<Option<Seen>> {
        let seen = |last: &u64| {
            let mut seen = Seen::default();
            (1..=*last).for_each(|index| seen.durable.push(at(index)));
            Some(seen)
        };
        std::iter::once(None).chain(durable.iter().map(seen)).collect()
    }

    #[test]
    fn both_halves_of_a_joint_configuration_need_their_majority() {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId::of(*id)).collect();
        let simple = Configuration { voters: ids(&[1, 2, 3]), ..Configuration::default() };
        let check = |configuration: &Configuration, durable: &[u64]| {
            check(NodeId::of(1), at(5), configuration, &nodes(durable)).is_ok()
        };
        assert!(check(&simple, &[5, 7, 0]));
        assert!(!check(&simple, &[5, 4, 4]));
        assert!(!check(&simple, &[5]), "nodes that were never seen hold nothing");
        let joint = Configuration { voters_outgoing: ids(&[3, 4]), ..simple };
        assert!(check(&joint, &[5, 0, 5, 5]));
        assert!(!check(&joint, &[5, 5, 0, 5]), "no majority of the old half");
    }
}
