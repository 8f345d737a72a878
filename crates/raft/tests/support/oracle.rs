//! What must hold of a cluster as a whole (paper, Figure 3), whatever the network and the disks do.

use std::collections::BTreeMap;

use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, NodeId, Term};
use sampan_raft::{Body, Message};

use super::host::Host;

#[derive(Default)]
pub struct Oracle {
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Whom each node voted for in each term.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Every entry that some node knows to be committed, from index 1.
    pub committed: Vec<Entry>,
    /// The state after each of them.
    hashes: Vec<u64>,
    /// The latest term each node was in, over restarts: what it said, it may not forget.
    spoken: BTreeMap<NodeId, Term>,
}

impl Oracle {
    pub fn commit_index(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// A message leaves a node.
    pub fn watch_message(&mut self, message: &Message, from: &Host) {
        let term = message.term;
        let spoken = self.spoken.entry(message.from).or_default();
        // A node that lost its disk has forgotten, until the others have told it.
        let is_meeting = matches!(message.body, Body::Greet { .. } | Body::GreetReply { .. });
        assert!(
            term >= *spoken || is_meeting,
            "{} speaks of term {term} after {spoken}",
            message.from
        );
        *spoken = term.max(*spoken);
        assert!(
            from.disk.hard_state.term >= term,
            "{} reveals term {term}, which is not durable",
            message.from
        );
        match &message.body {
            Body::VoteReply { granted: true } => self.watch_vote(message.from, term, message.to),
            Body::Vote { .. } => self.watch_vote(message.from, term, message.from),
            _ => {}
        }
    }

    fn watch_vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(first, candidate, "{voter} votes twice in term {term}");
    }

    /// After any input of node `id`.
    pub fn check_node(&mut self, hosts: &BTreeMap<NodeId, Host>, id: NodeId) {
        let host = &hosts[&id];
        let Some(raft) = &host.raft else { return };
        if raft.is_leader() && !self.leaders.contains_key(&raft.term()) {
            self.leaders.insert(raft.term(), id);
            self.check_leader_completeness(host);
        }
        if raft.is_leader() {
            assert_eq!(self.leaders[&raft.term()], id, "two leaders in term {}", raft.term());
        }
        while self.commit_index() < raft.commit() {
            self.record_commit(hosts, id);
        }
        self.check_committed_prefix(host);
    }

    fn record_commit(&mut self, hosts: &BTreeMap<NodeId, Host>, id: NodeId) {
        let raft = hosts[&id].raft.as_ref().expect("it is up");
        let index = self.commit_index().next();
        let entries = raft.entries(index, index.next());
        let entry = entries.first().unwrap_or_else(|| panic!("{id} committed {index} unseen"));
        let position = entry.position();
        let configuration = raft.configuration();
        for half in [&configuration.voters, &configuration.voters_outgoing] {
            let holders = half
                .iter()
                .filter(|voter| hosts.get(voter).is_some_and(|host| host.disk.holds(position)))
                .count();
            assert!(
                half.is_empty() || holders > half.len() / 2,
                "{id} committed {index}@{} with {holders} durable copies among {half:?}",
                position.term
            );
        }
        let mut hash = super::host::Machine {
            applied: self.committed.last().map_or(LogPosition::ZERO, Entry::position),
            hash: self.hashes.last().copied().unwrap_or_default(),
        };
        hash.apply(entry);
        self.hashes.push(hash.hash);
        self.committed.push(entry.clone());
    }

    /// What this node holds as committed is what was committed, and so is its state.
    fn check_committed_prefix(&self, host: &Host) {
        let raft = host.raft.as_ref().expect("it is up");
        let (commit, id) = (raft.commit(), raft.id());
        let known = commit.0.checked_sub(1).map(|at| self.committed[at as usize].term);
        assert_eq!(raft.term_at(commit).filter(|_| commit.0 > 0), known, "{id} at {commit}");
        let applied = host.machine.applied.index;
        if let Some(at) = applied.0.checked_sub(1) {
            assert_eq!(
                host.machine.hash, self.hashes[at as usize],
                "the state of {id} at {applied}"
            );
        }
    }

    /// A leader has every committed entry (paper 5.4).
    fn check_leader_completeness(&self, host: &Host) {
        let raft = host.raft.as_ref().expect("it is up");
        for entry in &self.committed {
            if entry.index >= raft.first_index() {
                let term = raft.term_at(entry.index);
                assert_eq!(term, Some(entry.term), "leader {} at {}", raft.id(), entry.index);
            }
        }
    }

    /// The expensive part, for now and then: logs match pairwise and hold what is committed.
    pub fn check_logs(&self, hosts: &BTreeMap<NodeId, Host>) {
        let mut names: BTreeMap<LogPosition, (Entry, Term)> = BTreeMap::new();
        for host in hosts.values() {
            let Some(raft) = &host.raft else { continue };
            let mut before = raft.term_at(raft.first_index().prev()).unwrap_or_default();
            for entry in raft.entries(LogIndex(0), raft.last_index().next()) {
                let (same, same_before) =
                    names.entry(entry.position()).or_insert((entry.clone(), before));
                assert_eq!((&entry, before), (&*same, *same_before), "logs do not match");
                before = entry.term;
                if entry.index <= raft.commit() {
                    assert_eq!(entry, self.committed[entry.index.0 as usize - 1]);
                }
            }
        }
    }

    /// How many terms had a leader.
    pub fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// How many commands were committed.
    pub fn commands(&self) -> usize {
        self.committed.iter().filter(|entry| entry.kind == EntryKind::Command).count()
    }
}
