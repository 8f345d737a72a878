//! The oracles: one file per property, all of them asked after every turn of every node, each at a
//! cost that grows with what changed and not with what there is.
//!
//! They look at replicas and disks from outside and keep their own books. What they cannot see is
//! whether clients were told the truth: that is judged from histories, after a run
//! ([`linearizability`], [`exactly_once`], [`connection_order`], [`ttl`]).

pub mod ack_after_sync;
pub mod committed_immutable;
pub mod configuration;
pub mod connection_order;
pub mod cursor_order;
pub mod durable_quorum;
pub mod election_safety;
pub mod exactly_once;
pub mod leader_append_only;
pub mod leader_completeness;
pub mod linearizability;
pub mod log_matching;
pub mod match_index;
pub mod monotone;
pub mod recovery;
pub mod registry;
pub mod shape;
pub mod state_machine;
pub mod ttl;

use std::fmt;

use sampan_base::{LogIndex, LogPosition, NodeId, Term};
use sampan_raft::{Message, Raft};
use sampan_replica::Replica;
use sampan_storage::Identity;

use crate::disk::{SimDisk, Survival};
use crate::node::Node;
use registry::Registry;
use shape::LogShape;

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name: the file of this folder, or of the crate, that found it.
    pub property: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// A violation of a property.
    pub fn new(property: &'static str, detail: String) -> Self {
        Self { property, detail }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

/// The cursors of a node, as of its last turn.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cursors {
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub vote: Option<NodeId>,
    /// Does it lead?
    pub leads: bool,
    /// What it knows to be committed.
    pub commit: LogIndex,
    /// What its state machine has applied.
    pub applied: LogIndex,
    /// The first index of its log.
    pub first: LogIndex,
    /// The last index of its log.
    pub last: LogIndex,
    /// What it takes for durable.
    pub durable: LogIndex,
    /// Its disk lost what it had acknowledged, and it neither votes nor counts yet.
    pub recovering: bool,
}

impl Cursors {
    fn of(raft: &Raft) -> Self {
        Self {
            term: raft.term(),
            vote: raft.vote(),
            leads: raft.is_leader(),
            commit: raft.commit(),
            applied: raft.applied(),
            first: raft.first_index(),
            last: raft.last_index(),
            durable: raft.durable_index(),
            recovering: raft.is_newborn() || raft.non_voting_until().is_some(),
        }
    }
}

/// What the oracles remember of one node.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Its cursors at the end of its last turn.
    pub cursors: Cursors,
    /// Its log.
    pub log: LogShape,
    /// The log that would survive a power loss now, for certain.
    pub durable: LogShape,
    /// The logs that it held durably each time its disk was damaged or emptied: the loss is a
    /// fault, not a lie, so what it acknowledged of them was true.
    pub before_damage: Vec<LogShape>,
    /// The highest term, and the vote in it, that would survive one.
    pub durable_hard_state: (Term, Option<NodeId>),
    /// Group commits on their way to the disk: the log and hard state that each makes durable.
    pub in_flight: std::collections::VecDeque<(LogShape, (Term, Option<NodeId>))>,
    /// How many were issued in this life.
    pub issued: u64,
    /// It runs.
    pub alive: bool,
}

impl Seen {
    /// How many group commits were synced in this life.
    pub fn synced(&self) -> u64 {
        self.issued - self.in_flight.len() as u64
    }

    /// What it holds durably, and what it did each time before its disk was damaged. Of any of
    /// these an acknowledgement may still be on its way, and the longest need not be the latest.
    fn all_acknowledged(&self) -> Vec<LogShape> {
        let mut logs = self.before_damage.clone();
        if !logs.contains(&self.durable) {
            logs.push(self.durable.clone());
        }
        logs
    }

    /// Is an entry durable here, or was it until the disk was damaged?
    pub fn acknowledged(&self, position: LogPosition) -> bool {
        let held = |log: &LogShape| log.holds(position);
        held(&self.durable) || self.before_damage.iter().any(held)
    }
}

/// One turn of one node, as the checkers see it.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// The node.
    pub id: NodeId,
    /// Its replica.
    pub replica: &'a Replica,
    /// Its cursors before the turn.
    pub before: Cursors,
    /// And after it.
    pub now: Cursors,
    /// Its log was kept through here; what follows is new.
    pub kept: LogIndex,
    /// Its log now.
    pub log: &'a LogShape,
}

/// All oracles.
#[derive(Default)]
pub struct Oracles {
    nodes: Vec<Option<Seen>>,
    registry: Registry,
    election_safety: election_safety::ElectionSafety,
    state_machine: state_machine::StateMachine,
    in_force: configuration::InForce,
    match_index: match_index::MatchIndex,
    /// Checks done, for the summary.
    pub checks: u64,
    /// Power losses rehearsed ([`recovery`]).
    pub rehearsals: u64,
}

impl Oracles {
    /// What is remembered of a node.
    pub fn seen(&self, id: NodeId) -> Option<&Seen> {
        self.nodes.get(id.get() as usize)?.as_ref()
    }

    /// All entries and what is committed.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The state at each index.
    pub fn state_machine(&self) -> &state_machine::StateMachine {
        &self.state_machine
    }

    fn seen_mut(&mut self, id: NodeId) -> Option<&mut Seen> {
        self.nodes.get_mut(id.get() as usize)?.as_mut()
    }

    /// A node took a turn.
    pub fn after_turn(&mut self, id: NodeId, replica: &Replica) -> Result<(), Violation> {
        let raft = replica.raft();
        let slot = id.get() as usize;
        let Some(seen) = self.nodes.get_mut(slot).and_then(Option::as_mut) else {
            return Err(Violation::new("oracles", format!("{id} took a turn before it started")));
        };
        let now = Cursors::of(raft);
        let before = std::mem::replace(&mut seen.cursors, now);
        self.checks += 1;
        monotone::check(id, &before, &now)?;
        cursor_order::check(id, &now)?;
        let kept = if log_unchanged(&seen.log, raft, &now) {
            now.last
        } else {
            log_matching::follow(id, &mut seen.log, raft, &mut self.registry)?
        };
        if before == now && kept == now.last && !now.leads {
            return Ok(());
        }
        let log = std::mem::take(&mut seen.log);
        let turn = Turn { id, replica, before, now, kept, log: &log };
        let result = self.check_turn(&turn);
        if let Some(seen) = self.seen_mut(id) {
            seen.log = log;
        }
        result
    }

    fn check_turn(&mut self, turn: &Turn<'_>) -> Result<(), Violation> {
        let Turn { id, replica, before, now, log, .. } = *turn;
        leader_append_only::check(id, &before, &now, turn.kept)?;
        if now.leads && !(before.leads && before.term == now.term) {
            self.election_safety.check(id, now.term, replica.raft().configuration())?;
            leader_completeness::check(id, now.term, log, &self.registry)?;
        }
        if now.commit > before.commit {
            let configuration = replica.raft().configuration_at(now.commit);
            self.in_force.check(id, now.commit, configuration)?;
            leader_completeness::check_own_term(id, &before, &now, log)?;
            let span = (before.commit, now.commit);
            let fresh = committed_immutable::check(id, span, now.term, log, &mut self.registry)?;
            if fresh && let Some(position) = position(replica.raft(), now.commit) {
                let in_force = durable_quorum::in_force(replica.raft(), turn.kept, now.commit);
                durable_quorum::check(id, position, in_force, &self.nodes)?;
            }
        }
        committed_immutable::check_kept(turn, &self.registry)?;
        if now.applied > before.applied {
            self.state_machine.check(id, now.applied, replica.kv().digest())?;
        }
        if now.leads {
            self.match_index.check(turn, &self.nodes)?;
        }
        Ok(())
    }

    /// A message leaves a node.
    pub fn before_send(&self, message: &Message) -> Result<(), Violation> {
        self.seen(message.from).map_or(Ok(()), |seen| ack_after_sync::check(message, seen))
    }

    /// A node issued a group commit: its hard state as it is now, and its log through an index. A
    /// disk without room for the log gets the hard state alone.
    pub fn append_issued(&mut self, id: NodeId, through: Option<LogIndex>) {
        if let Some(seen) = self.seen_mut(id) {
            let hard_state = (seen.cursors.term, seen.cursors.vote);
            let log = if let Some(through) = through {
                let mut log = seen.log.clone();
                log.truncate(through);
                log
            } else {
                seen.in_flight.back().map_or(&seen.durable, |(log, _)| log).clone()
            };
            seen.in_flight.push_back((log, hard_state));
            seen.issued += 1;
        }
    }

    /// Its oldest group commit was synced.
    pub fn append_done(&mut self, id: NodeId) {
        if let Some(seen) = self.seen_mut(id)
            && let Some((log, hard_state)) = seen.in_flight.pop_front()
        {
            seen.durable = log;
            seen.durable_hard_state = hard_state;
            self.election_safety.voted(id, hard_state.0, hard_state.1);
        }
    }

    /// Rehearses a power loss of a node that runs and has this on its disk.
    pub fn rehearse_power_loss(
        &mut self,
        node: &Node,
        disk: &SimDisk,
        identity: Identity,
        survival: Survival,
    ) -> Result<(), Violation> {
        self.rehearsals += 1;
        match self.seen(node.id()) {
            Some(seen) if seen.alive => recovery::spot_check(node, disk, seen, identity, survival),
            _ => Ok(()),
        }
    }

    /// A node started: what it found is held against what it cannot have lost.
    pub fn after_start(&mut self, node: &Node, identity: Identity) -> Result<(), Violation> {
        let id = node.id();
        let slot = id.get() as usize;
        if self.nodes.len() <= slot {
            self.nodes.resize_with(slot + 1, || None);
        }
        let Some(replica) = node.replica() else { return Ok(()) };
        self.rehearsals += 1;
        let old = self.nodes[slot].take();
        let seen = recovery::check(node, replica, old, identity, &mut self.registry)?;
        self.election_safety.voted(id, seen.cursors.term, seen.cursors.vote);
        let commit = seen.cursors.commit;
        let configuration = replica.raft().configuration_at(commit);
        if commit > LogIndex::ZERO {
            self.in_force.check(id, commit, configuration)?;
        }
        self.match_index.forget(id);
        // What a snapshot holds is the state that it was taken of, also before anything is applied.
        self.state_machine.check(id, seen.cursors.applied, replica.kv().digest())?;
        self.nodes[slot] = Some(seen);
        Ok(())
    }

    /// A node's disk was emptied: what it acknowledged of its log was true, and is gone, and so is
    /// its hard state.
    pub fn disk_emptied(&mut self, id: NodeId) {
        if let Some(seen) = self.seen_mut(id) {
            let before_damage = seen.all_acknowledged();
            *seen = Seen { before_damage, ..Seen::default() };
        }
        self.election_safety.forgot(id);
    }

    /// A node's process died.
    pub fn after_death(&mut self, id: NodeId) {
        if let Some(seen) = self.seen_mut(id) {
            seen.alive = false;
        }
    }
}

/// Is the log the one that is remembered? By Log Matching its last entry and its start tell.
fn log_unchanged(log: &LogShape, raft: &Raft, now: &Cursors) -> bool {
    log.last() == now.last
        && log.start().next() == now.first
        && log.term_at(now.last) == raft.term_at(now.last)
}

/// The position of an index in a node's log.
fn position(raft: &Raft, index: LogIndex) -> Option<LogPosition> {
    raft.term_at(index).map(|term| LogPosition { term, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_log_that_was_lost_what_was_acknowledged_was_true() {
        let id = NodeId::of(1);
        let position = |term, index| LogPosition { term: Term(term), index: LogIndex(index) };
        let log = |term, last| {
            let mut log = LogShape::default();
            (1..=last).for_each(|index| log.push(position(term, index)));
            log
        };
        let mut oracles =
            Oracles { nodes: vec![None, Some(Seen::default())], ..Oracles::default() };
        for durable in [log(1, 5), log(2, 3)] {
            oracles.nodes[1].as_mut().unwrap().durable = durable;
            oracles.disk_emptied(id);
        }
        let acknowledged =
            |term, index| oracles.seen(id).unwrap().acknowledged(position(term, index));
        assert!(acknowledged(1, 5) && acknowledged(2, 3), "of a longer log, and of a later one");
        assert!(!acknowledged(2, 4));
    }

    #[test]
    fn a_group_commit_makes_durable_what_it_writes_and_no_more() {
        let id = NodeId::of(1);
        let mut seen = Seen::default();
        for index in 1..=5 {
            seen.log.push(LogPosition { term: Term(1), index: LogIndex(index) });
        }
        let mut oracles = Oracles { nodes: vec![None, Some(seen)], ..Oracles::default() };
        let mut durable_after = |through: Option<u64>| {
            oracles.append_issued(id, through.map(LogIndex));
            oracles.append_done(id);
            oracles.seen(id).unwrap().durable.last().0
        };
        assert_eq!(durable_after(None), 0);
        assert_eq!(durable_after(Some(3)), 3);
        assert_eq!(durable_after(None), 3, "the hard state alone");
        assert_eq!(durable_after(Some(5)), 5);
    }
}
