//! Quorums (paper 5.2, thesis 4.3) and the configurations a log puts in force (thesis 4.1).
//!
//! Pure arithmetic and a stack. The one quorum of commit, reads, check-quorum and votes: all go
//! through [`agreed`] and [`vote_result`]. When changes may begin is `leader.rs`.

use std::collections::{BTreeSet, VecDeque};

use sampan_base::configuration::MEMBERS_MAX;
use sampan_base::{Configuration, LogIndex, NodeId, planted};

/// How an election stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VoteResult {
    Won,
    Lost,
    Open,
}

/// The greatest value that a quorum has reached, where `value` is what each voter has reached. In
/// a joint configuration a majority of both halves is needed: the lesser of the two.
pub(crate) fn agreed(configuration: &Configuration, value: impl Fn(NodeId) -> u64) -> u64 {
    let incoming = agreed_half(&configuration.voters, &value);
    if planted!(JointCommitsByOneHalf) {
        return incoming;
    }
    incoming.min(agreed_half(&configuration.voters_outgoing, &value))
}

/// How an election stands, where `vote` is what each voter said, if anything.
pub(crate) fn vote_result(
    configuration: &Configuration,
    vote: impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    let halves = [&configuration.voters, &configuration.voters_outgoing];
    let [incoming, outgoing] = halves.map(|half| vote_result_half(half, &vote));
    let outgoing = if planted!(JointElectsByOneHalf) { incoming } else { outgoing };
    match (incoming, outgoing) {
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        _ => VoteResult::Open,
    }
}

/// An empty half agrees to everything: a simple configuration has no outgoing voters.
fn agreed_half(voters: &BTreeSet<NodeId>, value: &impl Fn(NodeId) -> u64) -> u64 {
    let count = voters.len();
    if count == 0 {
        return u64::MAX;
    }
    assert!(count <= MEMBERS_MAX, "{count} voters");
    let mut values = [0; MEMBERS_MAX];
    for (slot, &voter) in values.iter_mut().zip(voters) {
        *slot = value(voter);
    }
    let values = &mut values[..count];
    values.sort_unstable();
    // In ascending order, the values from here up are a majority.
    values[(count - 1) / 2]
}

fn vote_result_half(
    voters: &BTreeSet<NodeId>,
    vote: &impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    let majority = voters.len() / 2 + 1;
    let (mut granted, mut open) = (0, 0);
    for &voter in voters {
        match vote(voter) {
            Some(true) => granted += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    if granted >= majority || voters.is_empty() {
        VoteResult::Won
    } else if granted + open < majority {
        VoteResult::Lost
    } else {
        VoteResult::Open
    }
}

/// The configurations of a log, by the index that puts each in force. The last one counts as soon
/// as it is appended, and is rolled back when its entry is truncated (thesis 4.1).
#[derive(Debug)]
pub(crate) struct Configurations {
    /// Ascending by index; never empty. The first is in force where the log starts.
    stack: VecDeque<(LogIndex, Configuration)>,
}

impl Configurations {
    pub(crate) fn new(index: LogIndex, configuration: Configuration) -> Self {
        Self { stack: [(index, configuration)].into() }
    }

    /// The one in force: the latest in the log, committed or not.
    pub(crate) fn latest(&self) -> &Configuration {
        &self.stack[self.stack.len() - 1].1
    }

    /// The index of the entry that put the latest in force.
    pub(crate) fn latest_index(&self) -> LogIndex {
        self.stack[self.stack.len() - 1].0
    }

    /// The one in force at an index not before the point where the log starts.
    pub(crate) fn at(&self, index: LogIndex) -> &Configuration {
        let known = self.stack.iter().rev().find(|(from, _)| *from <= index);
        &known.unwrap_or(&self.stack[0]).1
    }

    /// Does this node vote in any configuration in force at or after an index?
    pub(crate) fn is_voter_since(&self, index: LogIndex, id: NodeId) -> bool {
        let later = self.stack.iter().rev().take_while(|(from, _)| *from > index);
        later.map(|(_, configuration)| configuration).any(|later| later.is_voter(id))
            || self.at(index).is_voter(id)
    }

    pub(crate) fn push(&mut self, index: LogIndex, configuration: Configuration) {
        assert!(index > self.latest_index(), "{index} is not after {}", self.latest_index());
        self.stack.push_back((index, configuration));
    }

    /// Entries from `from` on were cut.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        while self.stack.len() > 1 && self.latest_index() >= from {
            self.stack.pop_back();
        }
    }

    /// The log now starts after `through`: what was in force before is not needed.
    pub(crate) fn trim(&mut self, through: LogIndex) {
        while self.stack.get(1).is_some_and(|(index, _)| *index <= through) {
            self.stack.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.map(NodeId::of).into()
    }

    fn joint() -> Configuration {
        Configuration {
            voters: ids([1, 2, 3]),
            voters_outgoing: ids([3, 4, 5, 6]),
            ..Configuration::default()
        }
    }

    #[test]
    fn agreed_is_what_a_majority_has_reached() {
        for (values, expected) in [
            (vec![7], 7),
            (vec![7, 3], 3),
            (vec![9, 7, 3], 7),
            (vec![9, 7, 3, 1], 3),
            (vec![9, 7, 5, 3, 1], 5),
        ] {
            let voters = Configuration::of_voters((1..=values.len() as u64).map(NodeId::of));
            assert_eq!(agreed(&voters, |id| values[id.get() as usize - 1]), expected);
        }
    }

    #[test]
    fn a_joint_quorum_is_a_majority_of_both_halves() {
        let reached = |at_five: &'static [u64]| {
            move |id: NodeId| if at_five.contains(&id.get()) { 5 } else { 0 }
        };
        assert_eq!(agreed(&joint(), reached(&[1, 2, 3])), 0);
        assert_eq!(agreed(&joint(), reached(&[3, 4, 5])), 0);
        assert_eq!(agreed(&joint(), reached(&[1, 3, 4, 5])), 5);
        assert_eq!(agreed(&joint(), reached(&[1, 2, 4, 5])), 0);
        assert_eq!(agreed(&joint(), reached(&[1, 2, 4, 5, 6])), 5);
    }

    #[test]
    fn an_election_is_won_in_both_halves_and_lost_in_one() {
        let votes = |yes: &'static [u64], no: &'static [u64]| {
            move |id: NodeId| {
                let id = id.get();
                if yes.contains(&id) { Some(true) } else { no.contains(&id).then_some(false) }
            }
        };
        assert_eq!(vote_result(&joint(), votes(&[1, 2], &[])), VoteResult::Open);
        assert_eq!(vote_result(&joint(), votes(&[1, 2, 4, 5, 6], &[])), VoteResult::Won);
        assert_eq!(vote_result(&joint(), votes(&[1, 2, 3], &[4, 5])), VoteResult::Lost);
        let three = Configuration::of_voters([1, 2, 3].map(NodeId::of));
        assert_eq!(vote_result(&three, votes(&[1], &[2])), VoteResult::Open);
        assert_eq!(vote_result(&three, votes(&[1], &[2, 3])), VoteResult::Lost);
        assert_eq!(vote_result(&three, votes(&[1, 3], &[2])), VoteResult::Won);
    }

    #[test]
    fn a_configuration_rolls_back_with_its_entry() {
        let one = Configuration::of_voters([NodeId::of(1)]);
        let mut stack = Configurations::new(LogIndex(0), one.clone());
        stack.push(LogIndex(4), joint());
        assert_eq!(stack.latest(), &joint());
        assert_eq!(stack.at(LogIndex(3)), &one);
        stack.truncate(LogIndex(5));
        assert_eq!(stack.latest(), &joint());
        stack.truncate(LogIndex(4));
        assert_eq!(stack.latest(), &one);
        stack.push(LogIndex(6), joint());
        stack.trim(LogIndex(6));
        assert_eq!(stack.at(LogIndex(6)), &joint());
        stack.truncate(LogIndex(1));
        assert_eq!(stack.latest(), &joint());
    }
}
