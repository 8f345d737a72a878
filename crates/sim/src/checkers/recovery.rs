//! What was durable is there after a restart, and what a restart takes for durable is (paper 5.6;
//! `docs/format.md`).
//!
//! At every start two things are asked. Does the node have what its disk had synced before it died:
//! its log, its term, its vote? And would a power loss right now, in which nothing unsynced
//! survives, leave a disk from which the same state is recovered? The second rehearses the loss on
//! a copy of the disk with the real recovery. A write that went astray is a lost write, which one
//! node alone cannot always know: such disks are excused here, and not from anything else.

use std::collections::VecDeque;

use sampan_base::{HardState, LogIndex, LogPosition, NodeId, Term, Time, WallTime};
use sampan_replica::{Now, OpenReport, Replica};
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
    if let Some(old) = &old
        && node.disk().counts.misdirected == 0
    {
        check_nothing_lost(id, old, &log, raft.term(), raft.vote())?;
    }
    rehearse(node, identity, &log, (raft.term(), raft.vote()))?;
    let cursors = Cursors::of(raft);
    Ok(Seen {
        cursors,
        durable: log.clone(),
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
    if node.disk().counts.misdirected > 0 {
        return Ok(());
    }
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

/// Rehearses a power loss of a node that runs, between two of its turns. With nothing unsynced
/// surviving, recovery must find exactly what the books say is durable; with some of it, at least
/// that.
pub fn spot_check(
    node: &Node,
    seen: &Seen,
    identity: Identity,
    survival: Survival,
) -> Result<(), Violation> {
    let (id, disk) = (node.id(), node.disk());
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

/// A power loss left this on a node's disk: starts the shipping replica from it, changing it as a
/// start does, and holds what it found against the books. Nothing that was durable is missing,
/// nothing is there that nobody wrote, and a crash is never taken for damage.
pub fn check_image(
    node: &Node,
    identity: Identity,
    oracles: &Oracles,
    image: &mut SimDisk,
) -> Result<OpenReport, Violation> {
    let id = node.id();
    let (options, bootstrap) = (node.setup().options.clone(), node.setup().bootstrap.clone());
    let (seed, now) = (1, Now { mono: Time::ZERO, wall: WallTime::default() });
    let opened = Replica::open(image, identity, options, bootstrap, seed, now);
    let (replica, report) = opened
        .map_err(|error| violation(id, format!("cannot start after a power loss: {error}")))?;
    let raft = replica.raft();
    let start = position(raft, raft.first_index().prev()).unwrap_or_default();
    let committed = oracles.registry().committed(start.index).map(|committed| committed.term);
    if start.index > LogIndex::ZERO && committed != Some(start.term) {
        return Err(violation(id, format!("has a snapshot at {start:?}, which is not committed")));
    }
    let mut log = LogShape::starting_after(start);
    let mut previous = start.term;
    for entry in raft.entries(raft.first_index(), raft.last_index().next()) {
        let known = Known::of(&entry, previous);
        if oracles.registry().find(entry.position()) != Some(&known) {
            return Err(violation(id, format!("has {:?}, which nobody wrote", entry.position())));
        }
        previous = entry.term;
        log.push(entry.position());
    }
    if let Some(seen) = oracles.seen(id) {
        check_nothing_lost(id, seen, &log, raft.term(), raft.vote())?;
        if raft.term() > seen.cursors.term {
            let (found, seen) = (raft.term(), seen.cursors.term);
            return Err(violation(id, format!("starts in term {found}, it was in {seen}")));
        }
    }
    let digest = replica.kv().digest();
    match oracles.state_machine().at(raft.applied()) {
        Some(known) if known != digest => {
            Err(violation(id, format!("loads a state that is not that of {}", raft.applied())))
        }
        _ => Ok(report),
    }
}
