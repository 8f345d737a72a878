//! A node whose log is damaged asks its peers for the entries that it lost, and takes no part
//! before the log is whole again or is given up.
//!
//! One batch after another (`sampan_storage::Repair`): every other voter is asked for the entries
//! of it; whatever they answer is tried, and what proves to be the batch is written in its place.
//! While it asks, the node says nothing else: no vote, no acknowledgement, not even a refusal. It
//! answers others that do the same from what it can read of its log, so that damage heals that is
//! spread over all nodes at different entries.
//!
//! It gives up, and rejoins without a vote, when every other voter has answered and nothing proves;
//! or when a leader speaks to it after [`Options::repair_wait`]: then the cluster goes on without
//! it, and what it waits for is a node that may never come back. While there is no leader giving up
//! would help nobody: a node that rejoins does not vote either, and its log may be the one that
//! another needs.
//!
//! A log that is sound and goes on from no snapshot, because those are all damaged, is kept in the
//! same way: nobody is asked for anything, and it is given up when a leader is there, which then
//! sends a snapshot and what follows it. A leader counts when it has been heard for two election
//! timeouts of one term: then it has a quorum without this node.
//!
//! What it is not: a [`Replica`]. That is opened when this is over ([`Repairing::settle`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sampan_base::disk::{Disk, DiskOp};
use sampan_base::{Configuration, Entry, LogIndex, NodeId, Term, Time};
use sampan_raft::Body;
use sampan_storage::{Damage, Identity, OpenError as E, Repair};

use crate::input::{Input, Now};
use crate::opening::{self, OpenError, OpenReport};
use crate::options::{OnDamage, Options};
use crate::output::{Envelope, Outputs, Stream};
use crate::replica::Replica;
use crate::wire::{Held, PeerMessage, Wanted};

/// A peer that does not answer is asked again after a heartbeat's time, then ever more rarely, up
/// to so many times that.
const ASK_INTERVAL_TIMES_MAX: u32 = 16;

/// How a node starts.
pub enum Start {
    /// It takes part.
    Ready(Box<Replica>, Box<OpenReport>),
    /// Its log is damaged, and others may hold what it lost; or all its snapshots are.
    Repairing(Box<Repairing>),
}

/// A batch that was repaired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repaired {
    /// Where it is, and how its damage showed.
    pub damage: Damage,
    /// Its first and its last entry.
    pub entries: (LogIndex, LogIndex),
    /// Whose entries these are now.
    pub from: Vec<NodeId>,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { damage: Damage { segment, offset, batch, .. }, entries: (first, last), from } =
            self;
        write!(f, "{segment} at offset {offset}, batch {batch}: entries {first} to {last} from")?;
        from.iter().try_for_each(|id| write!(f, " {id}"))
    }
}

/// The first and the last entry that peers are asked for: none where it is a snapshot that is
/// wanted.
fn asked_for(repair: &Repair) -> (LogIndex, LogIndex) {
    repair.wanted().unwrap_or((LogIndex(1), LogIndex::ZERO))
}

/// What a node needs to start, but for its files.
#[derive(Clone)]
struct Setup {
    identity: Identity,
    options: Options,
    bootstrap: Configuration,
    seed: u64,
}

/// What a peer has answered.
struct Source {
    /// What is to be asked for next; beyond the last entry that is wanted: it has told all it
    /// holds.
    next: LogIndex,
    held: BTreeMap<LogIndex, Entry>,
    ask_at: Time,
    interval: Duration,
}

/// How the repair of a batch ended.
enum Outcome {
    Proven(Vec<DiskOp>, Repaired),
    GivenUp,
}

impl fmt::Display for Repairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let damage = self.damage();
        let Some((first, last)) = self.wanted() else {
            return write!(
                f,
                "the log is sound, but {damage}: waits for a leader that sends a snapshot, or for a start with \
                 one of another node in its directory"
            );
        };
        write!(f, "the log is damaged: {damage}; its entries {first} to {last} are asked of")?;
        self.sources.keys().try_for_each(|id| write!(f, " {id}"))
    }
}

/// A node that repairs its log.
pub struct Repairing {
    setup: Setup,
    repair: Repair,
    sources: BTreeMap<NodeId, Source>,
    /// From then on it gives up if there is a leader.
    give_up_at: Time,
    /// The latest term of which a leader was heard, and since when.
    led: Option<(Term, Time)>,
    outcome: Option<Outcome>,
    repaired: Vec<Repaired>,
    messages: Vec<Envelope>,
    now: Time,
    shutdown: bool,
}

impl Replica {
    /// Starts a node from its files, as [`Replica::open`] does; but with [`OnDamage::Repair`] a
    /// damaged log is first to be repaired, if that can be.
    pub fn start(
        disk: &mut dyn Disk,
        identity: Identity,
        options: Options,
        bootstrap: Configuration,
        seed: u64,
        now: Now,
    ) -> Result<Start, OpenError> {
        let setup = Setup { identity, options, bootstrap, seed };
        if setup.options.on_damage == OnDamage::Repair {
            let refusing = Options { on_damage: OnDamage::Refuse, ..setup.options.clone() };
            match (Setup { options: refusing, ..setup.clone() }).open(disk, now, Vec::new()) {
                Err(OpenError::Storage(E::DamagedLog(_) | E::DamagedSnapshot { .. })) => {}
                opened => return opened,
            }
            if let Some(repair) = Repair::find(disk, identity)? {
                let repairing = Repairing::new(setup, repair, now.mono, Vec::new());
                if !repairing.sources.is_empty() {
                    return Ok(Start::Repairing(Box::new(repairing)));
                }
                return repairing.setup.open(disk, now, Vec::new());
            }
        }
        setup.open(disk, now, Vec::new())
    }
}

impl Setup {
    fn open(
        self,
        disk: &mut dyn Disk,
        now: Now,
        repaired: Vec<Repaired>,
    ) -> Result<Start, OpenError> {
        let Self { identity, options, bootstrap, seed } = self;
        let opened = Replica::open(disk, identity, options, bootstrap, seed, now);
        opened.map(|(mut replica, mut report)| {
            replica.batches_repaired = repaired.len();
            report.repaired = repaired;
            Start::Ready(Box::new(replica), Box::new(report))
        })
    }
}

impl Repairing {
    fn new(setup: Setup, repair: Repair, now: Time, repaired: Vec<Repaired>) -> Self {
        let id = setup.identity.node;
        let voters = opening::voters_known(&repair, &setup.bootstrap);
        let (first, _) = asked_for(&repair);
        let source = || Source {
            next: first,
            held: BTreeMap::new(),
            ask_at: now,
            interval: setup.options.raft.heartbeat_interval,
        };
        let others = voters.into_iter().filter(|voter| *voter != id);
        Self {
            sources: others.map(|id| (id, source())).collect(),
            // Others have nothing to say of a log that is sound: a leader sends what it has.
            give_up_at: repair.wanted().map_or(now, |_| now + setup.options.repair_wait),
            led: None,
            setup,
            repair,
            outcome: None,
            repaired,
            messages: Vec::new(),
            now,
            shutdown: false,
        }
    }

    /// Takes one input. Nothing leaves before the next [`Repairing::flush`].
    pub fn step(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now.mono);
        match input {
            Input::Peer { from, message: PeerMessage::Wanted(wanted) } => {
                let held = self.repair.entries(wanted.first, wanted.through_max());
                let message = PeerMessage::Held(wanted.answer(held.cloned()));
                self.messages.push(Envelope { to: from, stream: Stream::Bulk, message });
            }
            Input::Peer { from, message: PeerMessage::Held(held) } => self.on_held(from, held),
            Input::Peer { message: PeerMessage::Raft(message), .. } => {
                let is_of_a_leader = matches!(
                    message.body,
                    Body::Append { .. } | Body::Heartbeat { .. } | Body::InstallSnapshot { .. }
                );
                if is_of_a_leader && self.leads_without_this(message.term) {
                    self.outcome.get_or_insert(Outcome::GivenUp);
                }
            }
            Input::PeerConnected(id) => {
                if let Some(source) = self.sources.get_mut(&id) {
                    source.ask_at = self.now;
                    source.interval = self.setup.options.raft.heartbeat_interval;
                }
            }
            Input::Shutdown => self.shutdown = true,
            // Silence: whoever has no log says nothing that depends on it.
            _ => {}
        }
    }

    /// A leader of this term was heard. Has it led for so long that it has a quorum without this
    /// node, which has been silent? One that is about to lose its quorum sends heartbeats, too.
    fn leads_without_this(&mut self, term: Term) -> bool {
        let raft = &self.setup.options.raft;
        let proven_after = raft.election_timeout_max * 2;
        match self.led {
            Some((known, since)) if known == term => {
                self.now >= self.give_up_at && self.now >= since + proven_after
            }
            Some((known, _)) if known > term => false,
            _ => {
                self.led = Some((term, self.now));
                false
            }
        }
    }

    /// Asks whoever has not answered, and hands out what is to be sent.
    pub fn flush(&mut self, now: Now, out: &mut Outputs) {
        self.now = self.now.max(now.mono);
        let (_, last) = asked_for(&self.repair);
        let interval_max = self.setup.options.raft.heartbeat_interval * ASK_INTERVAL_TIMES_MAX;
        for (&to, source) in &mut self.sources {
            if source.next <= last && source.ask_at <= self.now {
                let message = PeerMessage::Wanted(Wanted { first: source.next, last });
                self.messages.push(Envelope { to, stream: Stream::Main, message });
                source.ask_at = self.now + source.interval;
                source.interval = (source.interval * 2).min(interval_max);
            }
        }
        out.messages.append(&mut self.messages);
        out.shutdown_complete = self.shutdown;
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Time {
        let (_, last) = asked_for(&self.repair);
        let asking = self.sources.values().filter(|source| source.next <= last);
        asking.map(|source| source.ask_at).min().unwrap_or(Time::NEVER)
    }

    /// Is it time for [`Repairing::settle`]?
    pub const fn is_settled(&self) -> bool {
        self.outcome.is_some()
    }

    /// What is damaged.
    pub const fn damage(&self) -> &Damage {
        self.repair.damage()
    }

    /// The first and the last entry that are wanted. Unset: it is a snapshot.
    pub fn wanted(&self) -> Option<(LogIndex, LogIndex)> {
        self.repair.wanted()
    }

    /// What was repaired so far.
    pub fn repaired(&self) -> &[Repaired] {
        &self.repaired
    }

    /// Writes what is proven and goes on with the next damage, or starts the node. A disk that
    /// fails on the way is not to be trusted any more: the process ends (rule R10).
    ///
    /// Panics if it is not [settled](Repairing::is_settled).
    pub fn settle(self, disk: &mut dyn Disk, now: Now) -> Result<Start, OpenError> {
        let Self { setup, repair, mut repaired, .. } = self;
        let disk_error = |error| OpenError::Storage(E::Disk(error));
        match self.outcome.expect("a repair is settled when it is over") {
            Outcome::GivenUp => {}
            Outcome::Proven(ops, what) => {
                disk.execute_all(&ops).map_err(disk_error)?;
                repaired.push(what);
                // In the order of the log, so that it comes to an end whatever a disk makes of it.
                let next = Repair::find(disk, setup.identity)?;
                let is_next = |next: &Repair| next.damage().batch > repair.damage().batch;
                let next = next.filter(|next| next.wanted().is_none() || is_next(next));
                if let Some(next) = next {
                    let repairing = Self::new(setup, next, now.mono, repaired);
                    return Ok(Start::Repairing(Box::new(repairing)));
                }
            }
        }
        setup.open(disk, now, repaired)
    }

    fn on_held(&mut self, from: NodeId, held: Held) {
        let (_, last) = asked_for(&self.repair);
        let Some(source) = self.sources.get_mut(&from) else { return };
        // What answers an earlier question, or one about another batch, says nothing new.
        if held.first != source.next || held.through < held.first || held.through > last {
            return;
        }
        let asked = held.first..=held.through;
        let entries = held.entries.into_iter().filter(|entry| asked.contains(&entry.index));
        source.held.extend(entries.map(|entry| (entry.index, entry)));
        source.next = held.through.next();
        source.ask_at = self.now;
        source.interval = self.setup.options.raft.heartbeat_interval;
        if source.next <= last || self.outcome.is_some() {
            return;
        }
        if let Some((ops, from)) = self.sources.keys().find_map(|id| self.try_first(*id)) {
            let (damage, entries) = (self.repair.damage().clone(), asked_for(&self.repair));
            let from = from.into_iter().collect();
            self.outcome = Some(Outcome::Proven(ops, Repaired { damage, entries, from }));
        } else if self.sources.values().all(|source| source.next > last) {
            self.outcome = Some(Outcome::GivenUp);
        }
    }

    /// Tries what this peer holds, and what others hold where it lacks something. By Log Matching
    /// they agree but for entries that were never committed.
    fn try_first(&self, preferred: NodeId) -> Option<(Vec<DiskOp>, BTreeSet<NodeId>)> {
        let (first, last) = asked_for(&self.repair);
        let order = || {
            let others = self.sources.iter().filter(|(id, _)| **id != preferred);
            self.sources.get_key_value(&preferred).into_iter().chain(others)
        };
        let mut entries = Vec::new();
        let mut from = BTreeSet::new();
        for index in (first.0..=last.0).map(LogIndex) {
            let mut holding =
                order().filter_map(|(id, source)| Some((id, source.held.get(&index)?)));
            let (id, entry) = holding.next()?;
            entries.push(entry.clone());
            from.insert(*id);
        }
        Some((self.repair.prove(&entries)?, from))
    }
}
