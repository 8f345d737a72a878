//! What always holds, checked at the end of every input, in release builds too. O(1) but for a
//! leader's peers, of which there are few.

use sampan_base::{LogIndex, NodeId, Term};

use crate::node::{Raft, RoleState};

/// What must not go back, as of the last check.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    term: Term,
    vote: Option<NodeId>,
    commit: LogIndex,
    applied: LogIndex,
    start: LogIndex,
    /// The term that it led, and the last index of its log.
    led: Option<(Term, LogIndex)>,
}

/// Panics if the node contradicts itself.
pub(crate) fn check(node: &mut Raft) {
    check_monotone(node);
    check_cursors(node);
    check_role(node);
    node.seen = Seen {
        term: node.term,
        vote: node.vote,
        commit: node.commit,
        applied: node.applied,
        start: node.log.start().index,
        led: node.is_leader().then(|| (node.term, node.log.last_index())),
    };
}

fn check_monotone(node: &Raft) {
    let seen = &node.seen;
    assert!(node.term >= seen.term, "term {} after {}", node.term, seen.term);
    if node.term == seen.term && seen.vote.is_some() {
        assert!(node.vote == seen.vote, "vote {:?} after {:?}", node.vote, seen.vote);
    }
    assert!(node.commit >= seen.commit, "commit {} after {}", node.commit, seen.commit);
    assert!(node.applied >= seen.applied, "applied {} after {}", node.applied, seen.applied);
    let start = node.log.start().index;
    assert!(start >= seen.start, "log start {start} after {}", seen.start);
}

/// start ≤ applied ≤ commit ≤ last, and durable ≤ last. *Not* commit ≤ durable: others' disks may
/// have committed what this one still writes.
fn check_cursors(node: &Raft) {
    let (start, last) = (node.log.start().index, node.log.last());
    assert!(start <= node.applied, "log starts after {start}, applied {}", node.applied);
    assert!(node.applied <= node.commit, "applied {} > commit {}", node.applied, node.commit);
    assert!(node.commit <= last.index, "commit {} > last {}", node.commit, last.index);
    let durable = node.persistence.durable_index();
    assert!(durable <= last.index, "durable {durable} > last {}", last.index);
    let unstable = node.persistence.unstable_from();
    assert!(start < unstable, "unstable from {unstable}, trimmed through {start}");
    assert!(unstable <= last.index.next(), "unstable from {unstable}, last {}", last.index);
    assert!(last.term <= node.term, "an entry of term {} in term {}", last.term, node.term);
    let (newest, latest) = (node.following.verified, node.configurations.latest_index());
    assert!(newest <= last.index, "verified {newest} > last {}", last.index);
    assert!(latest <= last.index, "configuration at {latest} > last {}", last.index);
    if let Some(snapshot) = &node.snapshot {
        let index = snapshot.position.index;
        assert!(start <= index, "trimmed through {start}, snapshot at {index}");
        assert!(index <= node.applied, "snapshot at {index}, applied {}", node.applied);
    }
}

fn check_role(node: &Raft) {
    let me = node.config.id;
    match &node.role {
        RoleState::Follower => assert!(node.leader != Some(me), "{me} follows itself"),
        RoleState::Candidate(candidate) => {
            assert!(node.leader.is_none(), "a candidate knows leader {:?}", node.leader);
            assert!(candidate.pre || node.vote == Some(me), "{me} voted {:?}", node.vote);
        }
        RoleState::Leader(leader) => {
            assert!(node.leader == Some(me), "leader {me} follows {:?}", node.leader);
            let last = node.log.last();
            assert!(last.term == node.term, "a leader of term {} ends in {last:?}", node.term);
            assert!(leader.term_start <= last.index, "no entry opens term {}", node.term);
            // Leader Append-Only (paper, Figure 3).
            let before = node.seen.led.filter(|(term, _)| *term == node.term);
            let before = before.map_or(LogIndex::ZERO, |(_, last)| last);
            assert!(last.index >= before, "a leader cut its log from {before} to {}", last.index);
            leader.reads.check(node.commit);
            for (id, peer) in &leader.peers {
                let (matched, next) = (peer.matched, peer.next);
                assert!(matched < next, "{id}: matched {matched}, next {next}");
                assert!(next <= last.index.next(), "{id}: next {next}, last {}", last.index);
            }
        }
    }
}
