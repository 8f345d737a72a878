//! How the events of a world read: one line each, in the grammar of the golden transcripts
//! (`crates/raft/tests/transcripts.rs`). What a transcript has no word for is told in the same way;
//! `docs/simulator.md` lists all of it.

use std::fmt::Write;

use sampan_base::{Entry, EntryKind, LogIndex, NodeId, Term};
use sampan_kv::{BatchReader, Digest};
use sampan_raft::Raft;
use sampan_replica::wire::PeerMessage;
use sampan_replica::{BackupReady, DiskDone, Event};

use crate::checkers::Seen;

/// More entries than this in one line are told by the first and the last.
const ENTRIES_TOLD_MAX: u64 = 8;

/// `n1@3 → n2 Append base=4@2 [5@3] commit=4`: a message leaves; ` ✗ lost` if it arrives nowhere.
pub(crate) fn sent(from: NodeId, to: NodeId, message: &PeerMessage, copies: usize) -> String {
    let lost = if copies == 0 { " ✗ lost" } else { "" };
    match message {
        PeerMessage::Raft(message) => format!("{message}{lost}"),
        _ => format!("{from} → {to} {}{lost}", body(message)),
    }
}

/// `n2 ← n1@3 Append base=4@2 [5@3] commit=4`: it arrives.
pub(crate) fn arrived(from: NodeId, to: NodeId, message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(raft) => format!("{to} ← {from}@{} {}", raft.term, raft.body),
        _ => format!("{to} ← {from} {}", body(message)),
    }
}

fn body(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(message) => message.body.to_string(),
        PeerMessage::Forward(forward) => {
            let ids: Vec<u64> = forward.requests.iter().map(|request| request.id).collect();
            format!("Forward term={} #{} {ids:?}", forward.term, forward.frame_seq)
        }
        PeerMessage::ForwardReply(reply) => {
            let outcomes = reply.outcomes.iter();
            let told: Vec<String> =
                outcomes.map(|outcome| format!("{} {:?}", outcome.id, outcome.outcome)).collect();
            format!("ForwardReply [{}]", told.join(", "))
        }
        PeerMessage::SnapshotWanted(wanted) => format!("{wanted:?}"),
        PeerMessage::SnapshotPart(part) => {
            format!("SnapshotPart #{} {}+{}", part.id, part.offset, part.data.len())
        }
        PeerMessage::SnapshotMissing(missing) => format!("{missing:?}"),
        PeerMessage::SnapshotDamaged(damaged) => format!("{damaged:?}"),
        PeerMessage::Wanted(wanted) => format!("Wanted {}..{}", wanted.first, wanted.last),
        PeerMessage::Held(held) => {
            let indices: Vec<u64> = held.entries.iter().map(|entry| entry.index.0).collect();
            format!("Held {}..{} {indices:?}", held.first, held.through)
        }
    }
}

/// `n1@3 leader`, `n2@3 follower of n1`, `n1 snapshot at 40, 4311 bytes`.
pub(crate) fn event(id: NodeId, event: &Event) -> String {
    match event {
        Event::Role { term, role, leader: Some(leader), .. } if *leader != id => {
            format!("{id}@{term} {role} of {leader}")
        }
        Event::Role { term, role, .. } => format!("{id}@{term} {role}"),
        Event::SnapshotTaken { index, size_bytes } => {
            format!("{id} snapshot at {index}, {size_bytes} bytes")
        }
        Event::SnapshotInstalled { index, size_bytes } => {
            format!("{id} installs snapshot at {index}, {size_bytes} bytes")
        }
        Event::SnapshotFailed(why) => format!("{id} ✗ snapshot: {why}"),
        Event::Refused(why) => format!("{id} refuses: {why}"),
        Event::Disk { now, .. } => format!("{id} disk {now:?}"),
        Event::NonVoting(Some(until)) => format!("{id} does not vote until {until} is durable"),
        Event::NonVoting(None) => format!("{id} votes again"),
    }
}

/// `n1 persist term=3 vote=n1 [5@3] #7`: a batch goes to the disk, the last one of `seen`.
pub(crate) fn persist(id: NodeId, seen: &Seen) -> String {
    let mut line = format!("{id} persist");
    let durable = (seen.durable.clone(), seen.durable_hard_state);
    let mut batches = seen.in_flight.iter().rev();
    let Some((log, hard_state)) = batches.next() else { return line };
    let (before, hard_state_before) = batches.next().unwrap_or(&durable);
    if hard_state != hard_state_before {
        let vote = hard_state.1.map_or("nobody".into(), |vote| vote.to_string());
        let _ = write!(line, " term={} vote={vote}", hard_state.0);
    }
    let (from, last) = (before.agrees_through(log).max(log.start()).next(), log.last());
    let at = |index| format!("{index}@{}", log.term_at(index).unwrap_or(Term::ZERO));
    if from <= last && last.0 - from.0 < ENTRIES_TOLD_MAX {
        let entries: Vec<String> = (from.0..=last.0).map(|index| at(LogIndex(index))).collect();
        let _ = write!(line, " [{}]", entries.join(" "));
    } else if from <= last {
        let _ = write!(line, " [{}..{}]", at(from), at(last));
    }
    let _ = write!(line, " #{}", seen.issued);
    line
}

/// `n1 sync #7`: it is durable. Other jobs are told as they are: `n1 disk SnapshotWrite`.
pub(crate) fn done(id: NodeId, done: &DiskDone, batch: u64) -> String {
    match done {
        DiskDone::Append(Ok(())) => format!("{id} sync #{batch}"),
        DiskDone::Append(Err(error)) => format!("{id} ✗ sync #{}: {error}", batch + 1),
        DiskDone::SnapshotSend { to, id: snapshot, offset, data, .. } => {
            let what = data.as_ref().map_or_else(ToString::to_string, |d| d.len().to_string());
            format!("{id} disk reads snapshot #{snapshot} at {offset} for {to}: {what}")
        }
        DiskDone::SnapshotOpen(Ok(reader)) => {
            format!("{id} disk reads what snapshot #{} says it holds", reader.meta().id)
        }
        DiskDone::SnapshotLoad { payload: Ok(payload), .. } => {
            format!("{id} disk loads {} bytes of a snapshot", payload.len())
        }
        other => {
            let text = format!("{other:?}");
            format!("{id} disk {}", text.strip_suffix("(Ok(()))").unwrap_or(&text))
        }
    }
}

/// `n1 backup at 40, 4311 bytes`: the snapshot that a backup is.
pub(crate) fn backup(id: NodeId, ready: &BackupReady, read: &Result<Digest, String>) -> String {
    let meta = &ready.snapshot.meta;
    let (index, bytes) = (meta.position.index, meta.size_bytes);
    let failure = read.as_ref().err().map(|why| format!(" ✗ {why}")).unwrap_or_default();
    format!("{id} backup at {index}, {bytes} bytes{failure}")
}

/// `n1 applies 5@3 2 commands`: committed, and applied.
pub(crate) fn applies(id: NodeId, raft: &Raft, before: LogIndex) -> String {
    let (first, applied) = (before.next().max(raft.first_index()), raft.applied());
    if applied.0 > first.0 + ENTRIES_TOLD_MAX {
        return format!("{id} applies {first}..{applied}");
    }
    let entries: Vec<String> = raft.entries(first, applied.next()).iter().map(entry).collect();
    format!("{id} applies {}", entries.join(", "))
}

fn entry(entry: &Entry) -> String {
    let at = format!("{}@{}", entry.index, entry.term);
    match entry.kind {
        EntryKind::Noop => format!("{at} no-op"),
        EntryKind::Configuration => format!("{at} configuration"),
        EntryKind::Command => {
            let mut commands = 0;
            if let Ok(mut batch) = BatchReader::new(&entry.data) {
                while let Ok(Some(_)) = batch.next_command() {
                    commands += 1;
                }
            }
            let plural = if commands == 1 { "" } else { "s" };
            format!("{at} {commands} command{plural}")
        }
    }
}
