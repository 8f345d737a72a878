//! What an open write left, and whether somebody can have seen it.
//!
//! In an order with the fewest open operations, what an open write leaves is seen by some answered
//! operation before it is overwritten, or makes another open write happen; else it could be left
//! out. Appends in between only add to its end. So a value that an open write made must be the
//! beginning of a value that a read saw or a `cas` expected (an open one, too), or a number that an
//! `incr` could add to: else it leads nowhere. That is what keeps a search from trying every choice
//! of open writes at every moment.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use crate::entered::Scattered;
use crate::model::{Action, State, Text};
use crate::part::Part;
use crate::rope::{Piece, Rope, fingerprint};

/// Beginnings remembered for one part; a part with more is searched without this rule.
const BEGINNINGS_MAX: usize = 1 << 20;

/// What open writes changed on a key since an answered operation last depended on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Idle {
    /// One of them made one value of another.
    pub(crate) content: bool,
    /// One of them made a value where there was none, or none where there was one.
    pub(crate) presence: bool,
}

impl Idle {
    /// The same after one more open write.
    pub(crate) fn after<T>(self, before: &State<T>, after: &State<T>) -> Self {
        match (before, after) {
            (State::Present(_), State::Present(_)) => Self { content: true, ..self },
            _ => Self { presence: true, ..self },
        }
    }

    /// Whether an operation would overwrite one of them before anything depended on it.
    pub(crate) fn is_wasted_by<V>(self, action: &Action<V>) -> bool {
        match action {
            Action::Put { .. } => self.content || self.presence,
            // It depends on whether there is a value, and on nothing else.
            Action::Del { .. } => self.content,
            _ => false,
        }
    }
}

/// What the operations on a key can have seen.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Some see only a part of a value (its length, or that it differs): anything may be seen.
    holds: bool,
    /// Some see only whether there is a value.
    sees_presence: bool,
    /// Some see a number.
    sees_numbers: bool,
    /// Without open operations no write is idle.
    has_open: bool,
}

/// What the operations of a part can have seen.
pub(crate) struct Seen {
    rules: Vec<Rule>,
    /// Fingerprints of all beginnings of values.
    beginnings: HashSet<u128, BuildHasherDefault<Scattered>>,
}

impl Seen {
    /// Collects what the operations of a part saw, or would have had to see.
    pub(crate) fn new(part: &Part<'_>) -> Self {
        let rule = Rule { holds: true, sees_presence: false, sees_numbers: false, has_open: false };
        let mut rules = vec![rule; part.keys.len()];
        let mut values: Vec<(usize, &str)> = Vec::new();
        for entry in &part.entries {
            for step in part.steps(entry) {
                let key = part.key_place(step.key);
                let rule = &mut rules[key];
                rule.has_open |= entry.is_open();
                match part.resolve(step.action) {
                    Action::Get { out: Some(Some(value)) }
                    | Action::Cas { expect: Some(value), out: Some(true) | None, .. } => {
                        values.push((key, value));
                    }
                    Action::Append { out: Some(_), .. } | Action::Cas { out: Some(false), .. } => {
                        rule.holds = false;
                    }
                    Action::Del { out: Some(_) } => rule.sees_presence = true,
                    Action::Incr { .. } => rule.sees_numbers = true,
                    _ => {}
                }
            }
        }
        values.retain(|&(key, _)| rules[key].holds && rules[key].has_open);
        values.sort_unstable();
        values.dedup();
        let mut seen = Self { rules, beginnings: HashSet::default() };
        if !seen.collect(&values) {
            seen.rules.iter_mut().for_each(|rule| rule.holds = false);
        }
        seen
    }

    /// False if nobody can have seen what open writes left in this state.
    pub(crate) fn allows(&self, key: usize, idle: Idle, state: &State<Rope>, print: u128) -> bool {
        let rule = self.rules[key];
        let State::Present(rope) = state else { return true };
        let may_be_part_of_number = || rope.length() <= 1 || rope.integer().is_some();
        !rule.holds
            || !idle.content && (!idle.presence || rule.sees_presence)
            || rule.sees_numbers && may_be_part_of_number()
            || self.beginnings.contains(&print)
    }

    /// Adds all beginnings of sorted values; false if there are too many.
    fn collect(&mut self, values: &[(usize, &str)]) -> bool {
        let bytes: Vec<Piece> = (0..=u8::MAX).map(Piece::of_byte).collect();
        // The ropes of all beginnings of the value before, the empty one first.
        let mut ropes: Vec<Rope> = vec![Rope::EMPTY];
        let mut before = (usize::MAX, "");
        for &(key, value) in values {
            let shared = before.1.bytes().zip(value.bytes()).take_while(|(a, b)| a == b).count();
            let shared = if before.0 == key { shared } else { 0 };
            ropes.truncate(shared + 1);
            self.beginnings.insert(fingerprint(key, &State::Present(Rope::EMPTY)));
            for byte in value.bytes().skip(shared) {
                let mut rope = ropes[ropes.len() - 1];
                rope.push(bytes[usize::from(byte)]);
                self.beginnings.insert(fingerprint(key, &State::Present(rope)));
                ropes.push(rope);
            }
            if self.beginnings.len() > BEGINNINGS_MAX {
                return false;
            }
            before = (key, value);
        }
        true
    }
}
