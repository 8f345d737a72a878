//! The smallest failing part of a history that is not linearizable.
//!
//! Two questions, both answered by asking the checkers again about weaker parts:
//! - *When did it break?* The shortest prefix that fails ends with the return of one operation: the
//!   first that fits nowhere. Linearizability is prefix-closed, so a binary search finds it.
//! - *What is needed to see it?* Delta debugging (Zeller and Hildebrandt, *Simplifying and
//!   isolating failure-inducing input*, 2002) over keys, over how much of the past is believed, and
//!   over operations, by reductions that can only turn a failing part into one that passes, never
//!   the other way. So whatever still fails proves that the whole fails.
//!
//! The reductions of `part.rs` are of that kind. Leaving out operations is where they are reads;
//! and it is for a put or an append together with every read that may have seen it: take an order
//! of the whole; without the write, only the reads between it and the next put saw something else,
//! and each of them saw a value that begins with what was put, or contains what was appended.

use std::collections::BTreeSet;

use crate::decide::{decide, decide_unclaimed};
use crate::history::{KeyId, OperationId};
use crate::model::Action;
use crate::part::{Entry, Part};
use crate::wgl::Found;

/// A shortest failing prefix.
pub(crate) struct ShortestPrefix<'h> {
    /// The prefix. It fails.
    pub(crate) part: Part<'h>,
    /// The operation whose return ends it: with it still open there is an order, or none is known.
    pub(crate) culprit: OperationId,
    /// An order of all that is known before that return.
    pub(crate) legal: Vec<OperationId>,
}

/// Finds the shortest failing prefix of a part that fails.
pub(crate) fn shortest_prefix<'h>(part: &Part<'h>, steps_max: u64) -> ShortestPrefix<'h> {
    let ends = ends(part);
    let at = first_failing(part, &ends, steps_max);
    let legal = at.checked_sub(1).map_or(Vec::new(), |before| {
        let before = part.prefix(ends[before]);
        match decide(&before, steps_max).found {
            Found::Order(order) => {
                order.into_iter().map(|at| before.entries[at as usize].id).collect()
            }
            Found::Nothing | Found::GaveUp => Vec::new(),
        }
    });
    ShortestPrefix { part: part.prefix(ends[at]), culprit: ends[at].1, legal }
}

/// All returns in the order of time: where prefixes may end.
fn ends(part: &Part<'_>) -> Vec<(u64, OperationId)> {
    let closed = part.entries.iter().filter(|entry| !entry.is_open());
    let mut ends: Vec<_> = closed.map(|entry| (entry.return_ns, entry.id)).collect();
    ends.sort_unstable();
    ends
}

/// The place of the first end whose prefix fails, if the part does.
fn first_failing(part: &Part<'_>, ends: &[(u64, OperationId)], steps_max: u64) -> usize {
    let fails = |end| decide(&part.prefix(end), steps_max).found == Found::Nothing;
    // The last prefix is the part itself, without open operations called later. If one key alone
    // fails, the whole fails with it, and rarely before.
    let known = earliest_by_key(part, steps_max).unwrap_or(ends[ends.len() - 1]);
    let at = ends.partition_point(|&end| end < known);
    match at.checked_sub(1) {
        Some(before) if fails(ends[before]) => ends[..before].partition_point(|&end| !fails(end)),
        Some(_) | None => at,
    }
}

/// Of several keys, those that fail alone: where the first of them does.
fn earliest_by_key(part: &Part<'_>, steps_max: u64) -> Option<(u64, OperationId)> {
    if part.keys.len() == 1 {
        return None;
    }
    let parts = part.split().into_iter().map(|(key, _)| key);
    let failing = parts.filter(|key| decide(key, steps_max).found == Found::Nothing);
    let earliest = failing.map(|key| {
        let ends = ends(&key);
        ends[first_failing(&key, &ends, steps_max)]
    });
    earliest.min()
}

/// Makes a failing part smaller while it fails. False: the work was used up first, so that a
/// smaller one may exist.
pub(crate) fn smallest<'h>(part: &Part<'h>, limits: &Limits) -> (Part<'h>, bool) {
    let mut reducer = Reducer { part: part.clone(), limits: *limits, work: 0 };
    reducer.reduce_keys();
    reducer.forget_past();
    loop {
        let before = reducer.part.entries.len();
        reducer.reduce_entries();
        reducer.forget_past();
        if reducer.part.entries.len() == before {
            break;
        }
    }
    let done = !reducer.is_exhausted();
    (reducer.part, done)
}

/// How much work may be spent on one part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Steps of one search.
    pub(crate) steps_max: u64,
    /// Operations looked at and steps searched, over all attempts.
    pub(crate) work_max: u64,
}

/// A part that fails, and what is left to spend on it.
struct Reducer<'h> {
    part: Part<'h>,
    limits: Limits,
    work: u64,
}

impl<'h> Reducer<'h> {
    fn is_exhausted(&self) -> bool {
        self.work >= self.limits.work_max
    }

    /// Takes `smaller` if it fails too.
    fn accept(&mut self, smaller: Part<'h>) -> bool {
        if self.is_exhausted() {
            return false;
        }
        let decision = decide_unclaimed(&smaller, self.limits.steps_max);
        self.work += smaller.entries.len() as u64 + decision.steps;
        let fails = decision.found == Found::Nothing;
        if fails {
            self.part = smaller;
        }
        fails
    }

    fn reduce_keys(&mut self) {
        if self.part.keys.len() > 1 {
            for (key, _) in self.part.split() {
                if self.accept(key) {
                    return;
                }
            }
            self.reduce(
                |part| part.keys.to_vec(),
                |part, dropped: &[KeyId]| {
                    let kept: Vec<KeyId> =
                        part.keys.iter().copied().filter(|key| !dropped.contains(key)).collect();
                    (!kept.is_empty()).then(|| part.projected(&kept))
                },
            );
        }
    }

    /// Believes only the end: the shortest that fails of the last 2, 4, 8, ... operations.
    fn forget_past(&mut self) {
        let count = self.part.entries.len();
        let mut kept = 2;
        while kept < count && !self.is_exhausted() {
            let from_ns = self.part.entries[count - kept].call_ns;
            if self.accept(self.part.forgetting(from_ns)) {
                return;
            }
            kept *= 2;
        }
    }

    fn reduce_entries(&mut self) {
        self.reduce(|part| part.entries.clone(), without);
    }

    /// Leaves out units in chunks, from halves to single ones, until no single one can go.
    fn reduce<U>(
        &mut self,
        units: impl Fn(&Part<'h>) -> Vec<U>,
        without: impl Fn(&Part<'h>, &[U]) -> Option<Part<'h>>,
    ) {
        let mut size = units(&self.part).len().div_ceil(2);
        while size > 0 && !self.is_exhausted() {
            let mut at = 0;
            let mut reduced = false;
            loop {
                let left = units(&self.part);
                if at >= left.len() || self.is_exhausted() {
                    break;
                }
                let chunk = &left[at..left.len().min(at + size)];
                let smaller = without(&self.part, chunk);
                if smaller.is_some_and(|smaller| self.accept(smaller)) {
                    reduced = true;
                } else {
                    at += size;
                }
            }
            if size > 1 || !reduced {
                size /= 2;
            }
        }
    }
}

/// The part without some entries and all reads that may have seen what they wrote. Entries that
/// cannot soundly go stay; None if nothing goes.
pub(crate) fn without<'h>(part: &Part<'h>, dropped: &[Entry]) -> Option<Part<'h>> {
    let mut gone = BTreeSet::new();
    for entry in dropped {
        if part.only_reads(entry) {
            gone.insert(entry.id);
        } else if let Some(observers) = observers(part, entry) {
            gone.insert(entry.id);
            gone.extend(observers);
        }
    }
    (!gone.is_empty()).then(|| part.filtered(|entry| !gone.contains(&entry.id)))
}

/// All that may have seen what an entry wrote; None if that cannot be told, or if some of it wrote.
fn observers(part: &Part<'_>, writer: &Entry) -> Option<Vec<OperationId>> {
    let mut observers = Vec::new();
    for written in part.steps(writer) {
        for entry in part.entries.iter().filter(|entry| entry.id != writer.id) {
            for step in part.steps(entry).filter(|step| step.key == written.key) {
                if saw(part, &written.action, &step.action)? {
                    if !part.only_reads(entry) {
                        return None;
                    }
                    observers.push(entry.id);
                }
            }
        }
        if !matches!(written.action, Action::Put { .. } | Action::Append { .. }) {
            return None;
        }
    }
    Some(observers)
}

/// Whether `later` may have seen what `written` wrote; None if its values do not tell.
fn saw(
    part: &Part<'_>,
    written: &Action<crate::ValueId>,
    later: &Action<crate::ValueId>,
) -> Option<bool> {
    let seen = match part.resolve(*later) {
        Action::Get { out } => out.flatten(),
        Action::Put { .. } | Action::Append { out: None, .. } => return Some(false),
        Action::Append { .. } | Action::Incr { .. } | Action::Del { .. } | Action::Cas { .. } => {
            return None;
        }
    };
    // A missing key that reads as the empty string: nothing was seen.
    let Some(seen) = seen else { return Some(false) };
    match part.resolve(*written) {
        Action::Put { value } => Some(seen.starts_with(value)),
        Action::Append { value, .. } => Some(seen.contains(value)),
        Action::Get { .. } => Some(false),
        Action::Incr { .. } | Action::Del { .. } | Action::Cas { .. } => None,
    }
}
