//! What was durable is there after a restart, and what a restart takes for durable is (paper 5.6;
//! `docs/format.md`).
//!
//! At every start two things are asked. Does the node have what its disk had synced before it died:
//! its log, its term, its vote? And would a power loss right now, in which nothing unsynced
//! survives, leave a disk from which the same state is recovered? The second rehearses the loss on
//! a copy of the disk with the real recovery. A write that went astray is a lost write, which one
//! node alone cannot always know: such disks are excused here, and not from anything else.

use std::collections::VecDeque;
use std::time::Duration;

use sampan_base::rng::mix;
use sampan_base::{HardState, LogIndex, LogPosition, NodeId, Term, Time, WallTime};
use sampan_raft::{Body, Message, Raft};
use sampan_replica::wire::{Held, PeerMessage, Wanted};
use sampan_replica::{Input, Now, OpenError, OpenReport, Outputs, Repairing, Replica, Start};
use sampan_storage::{Identity, Recovered, Storage};

use crate::disk::{SimDisk, Survival};
use crate::node::Node;

use super::registry::{Known, Registry};
use super::shape::LogShape;
use super::{Cursors, Oracles, Seen, Violation, log_matching, position};

/// A node started. `old` is what was remembered of its life before.
pub fn check(
    node: &Node,
    replica: &Replica,
    old: Option<Seen>,
    identity: Identity,
    registry: &mut Registry,
) -> Result<Seen, Violation> {
    let (id, raft) = (node.id(), replica.raft());
    let start = position(raft, raft.first_index().prev()).unwrap_or_default();
    let mut log = LogShape::starting_after(start);
    log_matching::follow(id, &mut log, raft, registry)?;
    let rejoins = raft.non_voting_until().is_some();
    let disk = node.disk();
    if rejoins && !disk.damaged && !disk.emptied && !disk.is_new {
        return Err(violation(id, "takes a sound disk for a damaged one".into()));
    }
    let mut before_damage = Vec::new();
    if let Some(old) = &old {
        if rejoins {
            // It knows that it lost something: it will not vote on what it does not know.
            check_promises_kept(id, old, raft.term(), raft.vote())?;
            before_damage = old.all_acknowledged();
        } else {
            check_nothing_lost(id, old, &log, raft.term(), raft.vote())?;
            before_damage.clone_from(&old.before_damage);
        }
    }
    rehearse(node, identity, &log, (raft.term(), raft.vote()))?;
    let cursors = Cursors::of(raft);
    Ok(Seen {
        cursors,
        durable: log.clone(),
        before_damage,
        durable_hard_state: (cursors.term, cursors.vote),
        log,
        in_flight: VecDeque::new(),
        issued: 0,
        alive: true,
    })
}

/// The new log goes on at least as far as the old durable one, but for what a group commit on its
/// way was about to replace.
fn check_nothing_lost(
    id: NodeId,
    old: &Seen,
    log: &LogShape,
    term: Term,
    vote: Option<NodeId>,
) -> Result<(), Violation> {
    let mut sure = old.durable.last();
    for (shape, _) in &old.in_flight {
        sure = sure.min(old.durable.agrees_through(shape));
    }
    let start = log.start();
    if old.durable.term_at(start).is_some_and(|term| log.term_at(start) != Some(term)) {
        // A leader's snapshot is durable that contradicts the log, which was to start anew behind
        // it: what is committed at its index is another entry than the one the log has there.
        sure = sure.min(start);
    }
    let position = old.durable.term_at(sure).map(|term| LogPosition { term, index: sure });
    if let Some(position) = position
        && !log.holds(position)
        && log.start() < sure
    {
        let detail = format!(
            "{id} had {sure}@{} on its disk and starts with a log that ends at {}@{:?}",
            position.term,
            log.last(),
            log.term_at(log.last())
        );
        return Err(Violation::new("recovery", detail));
    }
    check_promises_kept(id, old, term, vote)
}

/// The term and vote are at least those that were durable.
fn check_promises_kept(
    id: NodeId,
    old: &Seen,
    term: Term,
    vote: Option<NodeId>,
) -> Result<(), Violation> {
    let (old_term, old_vote) = old.durable_hard_state;
    if term < old_term || (term == old_term && old_vote.is_some() && vote != old_vote) {
        let detail = format!(
            "{id} had term {old_term} and vote {old_vote:?} on its disk and starts with {term} and \
             {vote:?}"
        );
        return Err(Violation::new("recovery", detail));
    }
    Ok(())
}

/// Loses the power of a copy of the disk and recovers from it.
fn rehearse(
    node: &Node,
    identity: Identity,
    log: &LogShape,
    hard_state: (Term, Option<NodeId>),
) -> Result<(), Violation> {
    let id = node.id();
    let mut copy = node.disk().after_power_loss(Survival::None);
    let recovered = match open(&mut copy, identity, node) {
        Ok(recovered) => recovered,
        // What is damaged may be refused, but not taken for something else.
        Err(_) if node.disk().damaged => return Ok(()),
        Err(why) => {
            let detail = format!("could not start again after a power loss: {why}");
            return Err(violation(id, detail));
        }
    };
    let last = recovered.entries.last().map(sampan_base::Entry::position);
    let last = last.or(recovered.snapshot.as_ref().map(|snapshot| snapshot.meta.position));
    let last = last.unwrap_or_default();
    let found = (recovered.hard_state.term, recovered.hard_state.vote);
    if last.index.max(log.start()) != log.last() || !log.holds(last) || found != hard_state {
        let detail = format!(
            "started with a log through {} in term {}, vote {:?}; after a power loss it has {last:?}, \
             term {}, vote {:?}",
            log.last(),
            hard_state.0,
            hard_state.1,
            found.0,
            found.1
        );
        return Err(violation(id, detail));
    }
    Ok(())
}

fn open(disk: &mut SimDisk, identity: Identity, node: &Node) -> Result<Recovered, String> {
    let options = &node.setup().options.storage;
    let opened = Storage::open(disk, identity, options);
    opened.map(|(_, recovered)| recovered).map_err(|error| error.to_string())
}

fn violation(id: NodeId, detail: String) -> Violation {
    Violation::new("recovery", format!("{id} {detail}"))
}

/// Rehearses a power loss of a node that runs, between two of its turns or two steps of a group
/// commit, with the disk as it is then. With nothing unsynced surviving, recovery must find exactly
/// what the books say is durable; with some of it, at least that.
pub fn spot_check(
    node: &Node,
    disk: &SimDisk,
    seen: &Seen,
    identity: Identity,
    survival: Survival,
) -> Result<(), Violation> {
    let id = node.id();
    if disk.damaged {
        return Ok(());
    }
    let mut copy = disk.after_power_loss(survival);
    let recovered = open(&mut copy, identity, node).map_err(|why| {
        violation(id, format!("could not start after a power loss with {survival:?}: {why}"))
    })?;
    let start = recovered.snapshot.as_ref().map(|snapshot| snapshot.meta.position);
    let mut log = LogShape::starting_after(start.unwrap_or_default());
    let base = log.start();
    for entry in recovered.entries.iter().filter(|entry| entry.index > base) {
        log.push(entry.position());
    }
    let HardState { term, vote } = recovered.hard_state;
    check_nothing_lost(id, seen, &log, term, vote)?;
    let more = log.last() > seen.durable.last().max(log.start());
    if survival == Survival::None && more && seen.in_flight.is_empty() {
        let (last, durable) = (log.last(), seen.durable.last());
        return Err(violation(id, format!("has {last} on its disk, the books say {durable}")));
    }
    Ok(())
}

/// What a replica found on a disk.
#[derive(Clone, Debug)]
pub struct Found {
    /// In its own words.
    pub report: OpenReport,
    /// A digest of all of it: term, vote, state and log.
    pub state: u64,
}

/// This is what a power loss, or damage, left on a node's disk: starts the shipping replica from
/// it, changing it as a start does, and holds what it found against the books. Nothing that was
/// durable is missing, unless the node knows that it may be and does not vote; nothing is there
/// that nobody wrote; and a crash is never taken for damage.
pub fn start_from(
    node: &Node,
    identity: Identity,
    oracles: &Oracles,
    image: &mut SimDisk,
) -> Result<Result<Found, OpenError>, Violation> {
    let id = node.id();
    let (options, bootstrap) = (node.setup().options.clone(), node.setup().bootstrap.clone());
    let (seed, now) = (1, Now { mono: Time::ZERO, wall: WallTime::default() });
    let mut started = Replica::start(image, identity, options, bootstrap, seed, now);
    let (replica, report) = loop {
        started = match started {
            Ok(Start::Ready(replica, report)) => break (replica, *report),
            Ok(Start::Repairing(_)) if !image.damaged => {
                return Err(violation(id, "takes a crash for damage".into()));
            }
            // The node as it was before the damage stands for its peers.
            Ok(Start::Repairing(repairing)) => {
                repair_from(node.replica(), repairing, now).settle(image, now)
            }
            Err(error) => return Ok(Err(error)),
        };
    };
    let raft = replica.raft();
    let (log, mut state) = known_log(id, raft, oracles)?;
    let (term, vote) = (raft.term(), raft.vote());
    if let Some(seen) = oracles.seen(id) {
        if raft.non_voting_until().is_none() {
            check_nothing_lost(id, seen, &log, term, vote)?;
        } else if image.damaged {
            check_promises_kept(id, seen, term, vote)?;
        } else {
            return Err(violation(id, "takes a crash for damage".into()));
        }
        if term > seen.cursors.term {
            let seen = seen.cursors.term;
            return Err(violation(id, format!("starts in term {term}, it was in {seen}")));
        }
    }
    let digest = replica.kv().digest();
    if oracles.state_machine().at(raft.applied()).is_some_and(|known| known != digest) {
        let applied = raft.applied();
        return Err(violation(id, format!("loads a state that is not that of {applied}")));
    }
    for part in [term.0, vote.map_or(0, NodeId::get), digest.0 as u64, (digest.0 >> 64) as u64] {
        state = mix(state ^ part);
    }
    Ok(Ok(Found { report, state }))
}

/// Lets a node repair its log from peers that hold what this one does, one of which leads.
fn repair_from(
    source: Option<&Replica>,
    mut repairing: Box<Repairing>,
    now: Now,
) -> Box<Repairing> {
    let mut now = now;
    while !repairing.is_settled() {
        let mut out = Outputs::default();
        repairing.flush(now, &mut out);
        if repairing.wanted().is_none() {
            // Twice, and a while later, or it proves nothing.
            repairing.step(now, leaders_word());
            now.mono = now.mono + Duration::from_secs(60);
            repairing.step(now, leaders_word());
        }
        for envelope in out.messages {
            let PeerMessage::Wanted(Wanted { first, last }) = envelope.message else { continue };
            let held = source.map(|source| source.raft().entries(first, last.next()));
            let message =
                PeerMessage::Held(Held { first, through: last, entries: held.unwrap_or_default() });
            repairing.step(now, Input::Peer { from: envelope.to, message });
        }
        now.mono = repairing.next_deadline();
    }
    repairing
}

/// Another node leads: whoever waits for a snapshot hears from it.
fn leaders_word() -> Input {
    let (from, to, term) = (NodeId::of(1), NodeId::of(2), Term(1));
    let (commit, matched) = (LogIndex::ZERO, LogPosition::ZERO);
    let body = Body::Heartbeat { sequence: 1, commit, matched, read: 0 };
    Input::Peer { from, message: PeerMessage::Raft(Message { from, to, term, body }) }
}

/// The log of a node that starts: its shape, and a digest. It starts after something committed and
/// holds only what somebody wrote.
fn known_log(id: NodeId, raft: &Raft, oracles: &Oracles) -> Result<(LogShape, u64), Violation> {
    let start = position(raft, raft.first_index().prev()).unwrap_or_default();
    let committed = oracles.registry().committed(start.index).map(|committed| committed.term);
    if start.index > LogIndex::ZERO && committed != Some(start.term) {
        return Err(violation(id, format!("has a snapshot at {start:?}, which is not committed")));
    }
    let mut log = LogShape::starting_after(start);
    let (mut previous, mut digest) = (start.term, start.index.0);
    for entry in raft.entries(raft.first_index(), raft.last_index().next()) {
        let known = Known::of(&entry, previous);
        if oracles.registry().find(entry.position()) != Some(&known) {
            return Err(violation(id, format!("has {:?}, which nobody wrote", entry.position())));
        }
        previous = entry.term;
        digest = mix(digest ^ u64::from(known.content) ^ entry.term.0 << 32);
        log.push(entry.position());
    }
    Ok((log, digest))
}

/// As [`start_from`], after a power loss: a node that does not start is a violation.
pub fn check_image(
    node: &Node,
    identity: Identity,
    oracles: &Oracles,
    image: &mut SimDisk,
) -> Result<OpenReport, Violation> {
    match start_from(node, identity, oracles, image)? {
        Ok(found) => Ok(found.report),
        Err(error) => {
            Err(violation(node.id(), format!("cannot start after a power loss: {error}")))
        }
    }
}
