//! The operator: changes the members, one goal at a time, and puts fresh machines in the place of
//! those whose disks are lost (`docs/operations.md` in fast motion).

use std::collections::{BTreeSet, VecDeque};

use sampan_base::{Configuration, NodeId, Term};
use sampan_replica::Input;

use crate::checkers::Violation;
use crate::clock::NodeClock;
use crate::disk::{Mishap, SimDisk};
use crate::faults::Fault;
use crate::node::NodeSetup;
use crate::run::{Simulation, Todo};
use crate::swarm_network::NODES_MAX;

/// How often the operator looks, in microseconds.
const LOOK_EVERY_US: u64 = 200_000;
/// A learner is promoted once it is this close to the leader's commit index.
const CAUGHT_UP_ENTRIES: u64 = 8;
/// At each look, a damaged disk is replaced once in so many times.
const REPLACE_ONE_IN: u64 = 25;
/// A machine that left the cluster runs on for at most this long, to disturb it; and for this long
/// where what keeps such machines from disturbing it is on.
const GOODBYE_US: u64 = 3_000_000;
const LONG_GOODBYE_US: u64 = 60_000_000;
/// A learner is promoted before it has caught up, once in so many looks at it.
const HASTY_ONE_IN: u64 = 50;
/// Something happens to the leader that was asked for a change, once in so many times, within this
/// long.
const UPSET_ONE_IN: u64 = 4;
const UPSET_WITHIN_US: u64 = 40_000;

/// Something the operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// A machine listens.
    Learn(NodeId),
    /// A learner that has caught up votes.
    Promote(NodeId),
    /// A voter only listens.
    Demote(NodeId),
    /// A member leaves.
    Leave(NodeId),
    /// A lost member leaves, and a fresh one listens.
    Replace(NodeId, NodeId),
    /// These members vote, and the other voters leave, in one change.
    Vote(BTreeSet<NodeId>),
}

/// A change that a wish comes to.
#[derive(Clone, Debug)]
struct Goal {
    wish: Wish,
    from: Configuration,
    to: Configuration,
}

/// What the operator has in mind.
#[derive(Default, Debug)]
pub(crate) struct Operator {
    wishes: VecDeque<Wish>,
    goal: Option<Goal>,
    /// The last name given to a machine.
    pub(crate) last_id: u64,
    /// Machines that are to be taken away once they are no members.
    leaving: Vec<NodeId>,
    /// Changes that were made.
    pub(crate) changes: u64,
    /// Machines that became members again.
    pub(crate) returns: u64,
    /// Machines that are no members any more and run on.
    gone: BTreeSet<NodeId>,
    /// The latest term that it has seen a leader of. It believes none of an earlier one: such a
    /// leader may have left, and still not know it.
    term: Term,
    /// The wish that comes next is granted whatever its machines have of the log.
    is_hasty: bool,
}

impl Operator {
    /// An operator of a cluster whose machines are named through `last_id`.
    pub(crate) fn new(last_id: u64) -> Self {
        Self { last_id, ..Self::default() }
    }

    /// Does it want nothing?
    pub(crate) fn is_content(&self) -> bool {
        self.goal.is_none() && self.wishes.is_empty() && self.leaving.is_empty()
    }

    pub(crate) fn wish(&mut self, wish: Wish) {
        if !self.wishes.contains(&wish) {
            self.wishes.push_back(wish);
        }
    }

    /// One line about what it wants.
    pub(crate) fn describe(&self) -> String {
        let goal = self.goal.as_ref().map_or_else(String::new, |goal| goal.to.to_string());
        format!("operator: goal {goal} wishes {:?} leaving {:?}", self.wishes, self.leaving)
    }
}

impl Simulation {
    /// A fresh machine that knows nobody and runs.
    pub(crate) fn add_machine(&mut self) -> Result<Option<NodeId>, Violation> {
        if self.operator.last_id + 1 >= NODES_MAX as u64 {
            return Ok(None);
        }
        self.operator.last_id += 1;
        let id = NodeId::of(self.operator.last_id);
        let setup = self.setup_of(id, Configuration::default());
        self.world.create(id, setup);
        self.start_node(id)?;
        Ok(Some(id))
    }

    /// What a machine of this run is made of.
    pub(crate) fn setup_of(&mut self, id: NodeId, bootstrap: Configuration) -> NodeSetup {
        NodeSetup {
            options: self.plan.options_of(id),
            bootstrap,
            clock: NodeClock::new(self.rng.between(1, 1_000_000_000), 0, 0),
            disk: self.plan.disk,
            formed: false,
            turn_us: self.plan.turn_us,
        }
    }

    /// A machine will not come back: its place is given to a fresh one.
    pub(crate) fn replace(&mut self, id: NodeId) -> Result<(), Violation> {
        self.remove_machine(id);
        if let Some(fresh) = self.add_machine()? {
            self.operator.wish(Wish::Replace(id, fresh));
            self.operator.wish(Wish::Promote(fresh));
        }
        Ok(())
    }

    /// A machine that is to become a member: a fresh one, or one that left, with what is on its
    /// disk.
    pub(crate) fn find_machine(&mut self) -> Result<Option<NodeId>, Violation> {
        let is_whole = |id: &NodeId| {
            let disk = self.world.get(*id).map(crate::node::Node::disk);
            disk.is_some_and(|disk| !disk.damaged && !disk.is_new)
        };
        let whole: Vec<NodeId> = self.operator.gone.iter().copied().filter(is_whole).collect();
        if whole.is_empty() || self.rng.one_in(2) {
            return self.add_machine();
        }
        let id = *self.rng.pick(&whole);
        self.operator.gone.remove(&id);
        self.operator.returns += 1;
        Ok(Some(id))
    }

    /// A machine that left is taken away, unless it has come back.
    pub(crate) fn take_away_for_good(&mut self, id: NodeId) {
        if self.operator.gone.remove(&id) {
            self.remove_machine(id);
        }
    }

    /// A machine is taken away, with its disk.
    pub(crate) fn remove_machine(&mut self, id: NodeId) {
        if let Some(node) = self.world.get(id) {
            self.disk_counts.merge(&node.disk().counts);
            self.world.remove(id);
        }
    }

    /// The members that the cluster began with.
    pub(crate) fn first_voters(&self) -> BTreeSet<NodeId> {
        (1..=self.plan.nodes).map(NodeId::of).collect()
    }

    /// The configuration that the leader has in force, if it is committed and simple.
    pub(crate) fn settled_configuration(&self) -> Option<Configuration> {
        let raft = self.world.node(self.world.leader()?).replica()?.raft();
        if raft.term() < self.operator.term {
            return None;
        }
        let (latest, committed) = (raft.configuration(), raft.configuration_at(raft.commit()));
        (latest == committed && !latest.is_joint()).then(|| latest.clone())
    }

    /// Is nothing under way, and would the cluster bear the loss of one more disk?
    pub(crate) fn can_lose_a_disk(&self) -> bool {
        let configuration = self.settled_configuration();
        configuration.is_some_and(|now| now.voters.len() >= 3 && self.is_sound(&now))
    }

    /// Is nothing under way, and is every voter's disk what it was told to be?
    pub(crate) fn is_sound(&self, configuration: &Configuration) -> bool {
        let sound = |id: &NodeId| {
            let disk = self.world.get(*id).map(crate::node::Node::disk);
            disk.is_some_and(|disk| !disk.damaged && !disk.emptied)
        };
        self.operator.is_content() && configuration.voters.iter().all(sound)
    }

    /// A disk that was damaged and serves on is replaced in time.
    fn replace_the_damaged(&mut self) -> Result<(), Violation> {
        let Some(now) = self.settled_configuration() else { return Ok(()) };
        // One that is only about to be may yet be forgiven.
        let is_damaged = |disk: &SimDisk| disk.damaged && !disk.awaits(Mishap::WriteMisdirected);
        // One that is being repaired may yet be as good as new.
        let is_settled = |node: &crate::node::Node| !node.is_repairing();
        let mut members = now.members().into_iter();
        let damaged = members.find(|id| {
            let node = self.world.get(*id);
            node.is_some_and(|node| is_damaged(node.disk()) && is_settled(node))
        });
        match damaged {
            Some(id) if self.is_owing() || self.rng.one_in(REPLACE_ONE_IN) => self.replace(id),
            _ => Ok(()),
        }
    }

    /// The operator looks at the cluster and does the next thing.
    pub(crate) fn operator_looks(&mut self) -> Result<(), Violation> {
        self.after(LOOK_EVERY_US, Todo::Operator);
        let leader = self.world.leader().and_then(|id| self.world.node(id).replica());
        let term = leader.map(|leader| leader.raft().term());
        self.operator.term = self.operator.term.max(term.unwrap_or_default());
        if self.operator.is_content() {
            return self.replace_the_damaged();
        }
        let Some(now) = self.settled_configuration() else { return self.ask_too_early() };
        if let Some(goal) = self.operator.goal.take_if(|goal| goal.from != now) {
            if goal.to == now {
                self.operator.changes += 1;
            } else {
                // It was made from what a leader that was cut off took for the configuration.
                self.operator.wishes.push_front(goal.wish);
            }
        }
        self.say_goodbye(&now);
        if self.operator.goal.is_none() {
            if self.operator.wishes.is_empty() {
                // They were to leave for machines that are lost, and stay.
                self.operator.leaving.clear();
            }
            self.next_goal(&now);
        }
        let (Some(goal), Some(leader)) = (&self.operator.goal, self.world.leader()) else {
            return Ok(());
        };
        let change = goal.to.clone();
        self.world.trace.line(self.world.now(), || {
            format!("operator asks {leader} for {}", self.operator.describe())
        });
        if self.rng.one_in(UPSET_ONE_IN) {
            self.upset_change(leader, &change)?;
        }
        self.world.input(leader, Input::ChangeConfiguration(change))
    }

    /// While a change is under way its leader is lost, or its configuration is in snapshots; or
    /// another leader, which does not know yet that it is none, is asked for the change first.
    fn upset_change(&mut self, leader: NodeId, change: &Configuration) -> Result<(), Violation> {
        let wait = self.rng.below(UPSET_WITHIN_US);
        let life = self.world.node(leader).lives();
        match self.rng.below(4) {
            0 if self.plan.faults.has(Fault::Kill) => {
                self.after(wait, Todo::KillIfUp(leader, life));
            }
            1 if self.plan.faults.has(Fault::Partition) => {
                self.after(wait, Todo::Isolate(leader));
            }
            2 => self.after(wait, Todo::Snapshots),
            _ => {
                let leads = |node: &crate::node::Node| {
                    node.replica().is_some_and(|replica| replica.raft().is_leader())
                };
                let leaders = self.world.nodes().filter(|node| leads(node));
                let deposed: Vec<NodeId> = leaders.map(crate::node::Node::id).collect();
                for id in deposed.into_iter().filter(|id| *id != leader) {
                    self.world.input(id, Input::ChangeConfiguration(change.clone()))?;
                }
            }
        }
        Ok(())
    }

    /// A hasty operator asks for another change while one is under way: to be refused.
    fn ask_too_early(&mut self) -> Result<(), Violation> {
        if !self.plan.hasty_operator {
            return Ok(());
        }
        let Some(leader) = self.world.leader() else { return Ok(()) };
        let raft = self.world.node(leader).replica().map(sampan_replica::Replica::raft);
        let mut goal = raft.map(|raft| raft.configuration().clone()).unwrap_or_default();
        goal.voters_outgoing.clear();
        if goal.voters.len() < 2 {
            return Ok(());
        }
        goal.voters.pop_first();
        self.world.input(leader, Input::ChangeConfiguration(goal))
    }

    /// Takes away machines that are no members any more.
    fn say_goodbye(&mut self, now: &Configuration) {
        let gone: Vec<NodeId> =
            self.operator.leaving.extract_if(.., |id| !now.is_member(*id)).collect();
        let raft = &self.plan.options.raft;
        let is_harmless = raft.pre_vote || raft.check_quorum;
        for id in gone {
            let is_long = is_harmless && self.rng.one_in(2);
            let wait = self.rng.below(if is_long { LONG_GOODBYE_US } else { GOODBYE_US });
            self.operator.gone.insert(id);
            self.after(wait, Todo::Remove(id));
        }
    }

    fn next_goal(&mut self, now: &Configuration) {
        let Some(wish) = self.operator.wishes.front().cloned() else { return };
        self.operator.is_hasty |= self.rng.one_in(HASTY_ONE_IN);
        let mut goal = now.clone();
        match wish.clone() {
            Wish::Learn(id) => {
                if !now.is_member(id) {
                    goal.learners.insert(id);
                }
            }
            Wish::Promote(id) => {
                if now.learners.contains(&id) && self.world.get(id).is_some() {
                    if !self.has_caught_up(id) && !self.operator.is_hasty {
                        return;
                    }
                    goal.learners.remove(&id);
                    goal.voters.insert(id);
                }
            }
            Wish::Demote(id) => {
                if now.voters.len() > 1 && goal.voters.remove(&id) {
                    goal.learners.insert(id);
                }
            }
            Wish::Leave(id) => {
                goal.learners.remove(&id);
                if now.voters.len() > 1 {
                    goal.voters.remove(&id);
                }
                if !goal.is_member(id) {
                    self.operator.leaving.push(id);
                }
            }
            Wish::Replace(old, fresh) if now.is_member(old) && now.voters.len() > 1 => {
                goal.voters.remove(&old);
                goal.learners.remove(&old);
                goal.learners.insert(fresh);
            }
            Wish::Replace(_, fresh) => self.operator.leaving.push(fresh),
            Wish::Vote(voters) => {
                let is_there = |id: &NodeId| now.is_member(*id) && self.world.get(*id).is_some();
                if voters.iter().all(is_there) {
                    let mut new = voters.iter().filter(|id| !now.voters.contains(*id));
                    if !self.operator.is_hasty && !new.all(|id| self.has_caught_up(*id)) {
                        return;
                    }
                    self.operator.leaving.extend(now.voters.difference(&voters));
                    goal.learners.retain(|id| !voters.contains(id));
                    goal.voters = voters;
                }
            }
        }
        self.operator.wishes.pop_front();
        self.operator.is_hasty = false;
        // A leader that was cut off may still name learners whose machines are gone.
        goal.learners.retain(|id| self.world.get(*id).is_some());
        if goal != *now && !goal.voters.is_empty() {
            self.operator.goal = Some(Goal { wish, from: now.clone(), to: goal });
        }
    }

    fn has_caught_up(&self, id: NodeId) -> bool {
        let commit = |id: NodeId| Some(self.world.get(id)?.replica()?.raft().commit().0);
        let leader = self.world.leader().and_then(commit).unwrap_or(u64::MAX);
        commit(id).is_some_and(|mine| mine + CAUGHT_UP_ENTRIES >= leader)
    }
}
