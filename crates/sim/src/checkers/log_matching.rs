//! Log matching: if two logs hold an entry of one index and term, they hold the same entry there
//! and are the same before it (paper, Figure 3 and 5.3).
//!
//! Checked link by link: whenever a node's log gains an entry, the entry and the term of the one
//! before it must be what every other node that ever held that index and term had.

use sampan_base::{EntryKind, LogIndex, LogPosition, NodeId, Term};
use sampan_raft::Raft;

use super::registry::{Known, Registry};
use super::shape::LogShape;
use super::{Violation, configuration, position};

/// Brings the remembered log up to date and checks what is new. Returns the index through which the
/// log was kept.
pub fn follow(
    id: NodeId,
    log: &mut LogShape,
    raft: &Raft,
    registry: &mut Registry,
) -> Result<LogIndex, Violation> {
    let (first, last) = (raft.first_index(), raft.last_index());
    let start = position(raft, first.prev()).ok_or_else(|| no_term(id, first.prev()))?;
    if log.last() < start.index || log.start() > start.index {
        *log = LogShape::starting_after(start);
    }
    log.trim(start.index);
    let mut kept = log.last().min(last);
    while kept > start.index && raft.term_at(kept) != log.term_at(kept) {
        kept = kept.prev();
    }
    if kept == start.index && log.term_at(kept) != Some(start.term) {
        *log = LogShape::starting_after(start);
    }
    log.truncate(kept);
    let mut previous = log.term_at(kept).ok_or_else(|| no_term(id, kept))?;
    for entry in raft.entries(kept.next(), last.next()) {
        if entry.kind == EntryKind::Configuration {
            let in_force = |index| raft.configuration_at(index);
            let (current, next) = (in_force(entry.index.prev()), in_force(entry.index));
            configuration::check_step(id, entry.index, current, next)?;
        }
        learn(id, registry, entry.position(), Known::of(&entry, previous))?;
        log.push(entry.position());
        previous = entry.term;
    }
    if log.last() != last {
        return Err(Violation::new(
            "log-matching",
            format!("{id} ends at {last} and has no entry after {}", log.last()),
        ));
    }
    Ok(kept)
}

fn no_term(id: NodeId, index: LogIndex) -> Violation {
    Violation::new("log-matching", format!("{id} does not know the term of {index}"))
}

/// A node holds an entry.
fn learn(
    id: NodeId,
    registry: &mut Registry,
    position: LogPosition,
    known: Known,
) -> Result<(), Violation> {
    let Some(other) = registry.find(position) else {
        registry.insert(position.index, known);
        return Ok(());
    };
    // The term before the first entry of a log is only known where the log goes further back.
    let same = other.content == known.content
        && (other.previous == known.previous
            || other.previous == Term::ZERO
            || known.previous == Term::ZERO);
    if same {
        return Ok(());
    }
    let detail = format!(
        "{id} has another entry {}@{} than there was: {known:?}, not {other:?}",
        position.index, position.term
    );
    Err(Violation::new("log-matching", detail))
}
