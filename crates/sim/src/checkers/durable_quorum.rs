//! Every committed entry is on the *durable* logs of a quorum at the moment it is committed (paper
//! 5.6, thesis 3.8 and 10.2.1): the oracle that sees an acknowledgement before its sync at once,
//! and not only after a second fault.
//!
//! Durable is what the simulated disk synced, not what the node believes.

use std::collections::BTreeSet;

use sampan_base::{Configuration, LogIndex, LogPosition, NodeId};
use sampan_raft::Raft;

use super::{Seen, Violation};

/// The configurations that may have been in force when a node committed through `commit` in a turn
/// that kept its log through `kept`: the latest, or, where that is new in this turn, the one before
/// it, as acknowledgements may have come first. An entry that is itself in `commit` was in force.
pub fn in_force(raft: &Raft, kept: LogIndex, commit: LogIndex) -> [&Configuration; 2] {
    [raft.configuration(), raft.configuration_at(kept.max(commit))]
}

/// A node is the first to know that an entry is committed, in one of these configurations.
pub fn check(
    id: NodeId,
    position: LogPosition,
    [latest, earlier]: [&Configuration; 2],
    nodes: &[Option<Seen>],
) -> Result<(), Violation> {
    check_in(id, position, latest, nodes).or_else(|_| check_in(id, position, earlier, nodes))
}

fn check_in(
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
    use sampan_base::{Entry, EntryKind, HardState, Term, Time};
    use sampan_raft::{Config, Restored};

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

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId::of(*id)).collect()
    }

    #[test]
    fn an_earlier_configuration_counts_only_in_the_turn_that_changes_it() {
        let old = Configuration { voters: ids(&[1, 2, 3]), ..Configuration::default() };
        let new = Configuration {
            voters: ids(&[3, 4]),
            voters_outgoing: ids(&[1, 2, 3]),
            ..Configuration::default()
        };
        let entry = |index, configuration: Option<&Configuration>| {
            let mut data = Vec::new();
            configuration.inspect(|configuration| configuration.encode(&mut data));
            let kind = configuration.map_or(EntryKind::Noop, |_| EntryKind::Configuration);
            Entry { term: Term(1), index: LogIndex(index), kind, data: data.into() }
        };
        let restored = Restored {
            hard_state: HardState { term: Term(1), vote: None },
            snapshot: None,
            bootstrap: old.clone(),
            entries: vec![entry(1, None), entry(2, None), entry(3, Some(&new)), entry(4, None)],
            log_start: LogPosition::ZERO,
            non_voting_until: None,
            newborn: false,
        };
        let raft = Raft::new(Config::new(NodeId::of(1)), restored, 1, Time(0));
        let in_force = |kept, commit| in_force(&raft, LogIndex(kept), LogIndex(commit));
        assert_eq!(in_force(2, 1), [&new, &old], "the entry came in this turn");
        assert_eq!(in_force(2, 2), [&new, &old]);
        assert_eq!(in_force(3, 2), [&new, &new], "it was there before");
        assert_eq!(in_force(2, 3), [&new, &new], "it is what was committed");
    }

    #[test]
    fn a_quorum_of_one_of_the_configurations_is_enough() {
        let [old, new] = [&[1, 2, 3], &[3, 4, 5]]
            .map(|voters| Configuration { voters: ids(voters), ..Configuration::default() });
        let check =
            |durable: &[u64]| check(NodeId::of(1), at(5), [&new, &old], &nodes(durable)).is_ok();
        assert!(check(&[5, 5, 0, 0, 0]) && check(&[0, 0, 0, 5, 5]));
        assert!(!check(&[5, 0, 0, 5, 0]), "a majority of neither");
    }

    #[test]
    fn both_halves_of_a_joint_configuration_need_their_majority() {
        let simple = Configuration { voters: ids(&[1, 2, 3]), ..Configuration::default() };
        let check = |configuration: &Configuration, durable: &[u64]| {
            check_in(NodeId::of(1), at(5), configuration, &nodes(durable)).is_ok()
        };
        assert!(check(&simple, &[5, 7, 0]));
        assert!(!check(&simple, &[5, 4, 4]));
        assert!(!check(&simple, &[5]), "nodes that were never seen hold nothing");
        let joint = Configuration { voters_outgoing: ids(&[3, 4]), ..simple };
        assert!(check(&joint, &[5, 0, 5, 5]));
        assert!(!check(&joint, &[5, 5, 0, 5]), "no majority of the old half");
    }
}
