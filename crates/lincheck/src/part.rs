//! A part of a history: the question that the checkers answer.
//!
//! A part is a choice of operations and keys, some of the operations left open, and a state to
//! start from. The whole history gives one part for each group of keys that no operation joins
//! (locality: Herlihy and Wing, theorem 1). The other constructors here make *weaker* questions: if
//! a weakened part cannot be linearized, neither can the part that it was made from. The shortest
//! failing prefix and the smallest failing part rest on that, and nothing here decides anything.

use std::sync::Arc;

use crate::history::{History, KeyId, NEVER_NS, OperationId, Status, Step, ValueId};
use crate::model::{Action, State};

/// One operation of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// When it was called, in nanoseconds.
    pub(crate) call_ns: u64,
    /// When it returned; [`NEVER_NS`]: it is open. It may take effect at any time from its call
    /// on, or never.
    pub(crate) return_ns: u64,
    /// Which operation it is.
    pub(crate) id: OperationId,
    /// What it observed is not known: it is open, or was and is now held to have taken effect.
    pub(crate) blind: bool,
}

impl Entry {
    /// Whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.return_ns == NEVER_NS
    }
}

/// What the keys of a part hold at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// No key exists.
    Missing,
    /// Nothing is known: what came before was cut off.
    Any,
}

/// See the head of this file.
#[derive(Clone)]
pub(crate) struct Part<'h> {
    /// Where operations, keys and values live.
    pub(crate) history: &'h History,
    /// By call, then return, then number. Open reads are never in it.
    pub(crate) entries: Vec<Entry>,
    /// Steps on other keys do not exist here. Sorted.
    pub(crate) keys: Arc<[KeyId]>,
    /// What all keys hold at the start.
    pub(crate) start: Start,
    /// Whether some operation of the part has steps on keys outside it.
    projected: bool,
}

impl<'h> Part<'h> {
    /// The part of these operations, which touch these keys and no others.
    pub(crate) fn new(
        history: &'h History,
        ids: impl IntoIterator<Item = OperationId>,
        mut keys: Vec<KeyId>,
    ) -> Self {
        keys.sort_unstable();
        let mut entries: Vec<Entry> = ids.into_iter().filter_map(|id| entry(history, id)).collect();
        entries.sort_unstable();
        Self { history, entries, keys: keys.into(), start: Start::Missing, projected: false }
    }

    /// The steps of an entry on keys of this part, without outputs if they are not known.
    pub(crate) fn steps(&self, entry: &Entry) -> impl Iterator<Item = Step> + Clone + use<'_, 'h> {
        let blind = entry.blind;
        let steps = self.history.steps(entry.id).iter();
        steps.filter(|step| self.has_key(step.key)).map(move |step| {
            let action = if blind { step.action.unobserved() } else { step.action };
            Step { key: step.key, action }
        })
    }

    /// The place of a key among the keys of the part.
    pub(crate) fn key_place(&self, key: KeyId) -> usize {
        if let [only] = *self.keys {
            assert_eq!(only, key, "a step on another key");
            return 0;
        }
        self.keys.binary_search(&key).expect("steps are on keys of the part")
    }

    /// The state of every key at the start.
    pub(crate) fn start_state<T>(&self) -> State<T> {
        match self.start {
            Start::Missing => State::Missing,
            Start::Any => State::Any,
        }
    }

    /// The action on strings instead of numbers.
    pub(crate) fn resolve(&self, action: Action<ValueId>) -> Action<&'h str> {
        action.map(|value| self.history.value_text(value))
    }

    /// Whether an entry only reads.
    pub(crate) fn only_reads(&self, entry: &Entry) -> bool {
        self.steps(entry).all(|step| step.action.is_read())
    }

    /// The part with other entries, sorted.
    pub(crate) fn with_entries(&self, entries: Vec<Entry>) -> Self {
        Self { entries, ..self.share() }
    }

    /// The part with the entries for which `keep` says so.
    ///
    /// Weaker only if what is left out are reads, or writes together with all that could have
    /// observed them: see `minimize.rs`.
    pub(crate) fn filtered(&self, keep: impl FnMut(&Entry) -> bool) -> Self {
        let entries = self.entries.iter().copied();
        let mut keep = keep;
        Self { entries: entries.filter(|entry| keep(entry)).collect(), ..self.share() }
    }

    /// What was known at the moment of the return `end`, which included: operations called later
    /// are not there, operations not yet returned are open. Weaker, since linearizability is
    /// prefix-closed (Herlihy and Wing, section 2).
    ///
    /// Of events at the same time calls come first, returns in the order of the operations.
    pub(crate) fn prefix(&self, end: (u64, OperationId)) -> Self {
        let called = self.entries.iter().take_while(|entry| entry.call_ns <= end.0);
        let entries = called.filter_map(|entry| {
            let returned = (entry.return_ns, entry.id) <= end;
            if returned { Some(*entry) } else { self.opened(entry) }
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_unstable();
        Self { entries, ..self.share() }
    }

    /// What is known of the part if nothing from before `from_ns` is believed: operations that
    /// returned before are gone, those called before are open, the state is unknown.
    ///
    /// Weaker: in any order of the whole, what returned before comes before all that was called
    /// later; whatever state it left is covered by the unknown one, and what was called before but
    /// had not returned may come on either side.
    pub(crate) fn forgetting(&self, from_ns: u64) -> Self {
        let remembered = self.entries.iter().filter(|entry| entry.return_ns >= from_ns);
        let entries = remembered.filter_map(|entry| {
            if entry.call_ns >= from_ns { Some(*entry) } else { self.opened(entry) }
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_unstable();
        Self { entries, start: Start::Any, ..self.share() }
    }

    /// The part on one of its keys, for each key, with the positions here of the entries there.
    /// Weaker: an order of the whole, without the steps on other keys, is an order of such a part.
    pub(crate) fn split(&self) -> Vec<(Self, Vec<u32>)> {
        let one = |&key| (Self { keys: [key].into(), projected: true, ..self.share() }, Vec::new());
        let mut parts: Vec<(Self, Vec<u32>)> = self.keys.iter().map(one).collect();
        for (at, entry) in self.entries.iter().enumerate() {
            for step in self.steps(entry) {
                let (part, positions) = &mut parts[self.key_place(step.key)];
                let matters = !(entry.is_open() && step.action.is_read());
                if matters && positions.last() != Some(&(at as u32)) {
                    part.entries.push(*entry);
                    positions.push(at as u32);
                }
            }
        }
        parts
    }

    /// The part on some of its keys, sorted. Weaker, as for [`Part::split`].
    pub(crate) fn projected(&self, keys: &[KeyId]) -> Self {
        let mut part = Self { keys: keys.into(), projected: true, ..self.share() };
        let touched = self.entries.iter().filter(|entry| {
            let mut steps = part.steps(entry);
            steps.any(|step| !(entry.is_open() && step.action.is_read()))
        });
        part.entries = touched.copied().collect();
        part
    }

    fn share(&self) -> Self {
        Self { keys: Arc::clone(&self.keys), entries: Vec::new(), ..*self }
    }

    fn opened(&self, entry: &Entry) -> Option<Entry> {
        (!self.only_reads(entry)).then_some(Entry { return_ns: NEVER_NS, blind: true, ..*entry })
    }

    fn has_key(&self, key: KeyId) -> bool {
        !self.projected || self.keys.binary_search(&key).is_ok()
    }
}

/// How an operation enters its part: not at all if it failed, or read and never returned.
fn entry(history: &History, id: OperationId) -> Option<Entry> {
    let operation = history.operation(id);
    let call_ns = operation.call_ns;
    match (operation.status, operation.return_ns) {
        (Status::Ok, Some(return_ns)) => Some(Entry { call_ns, return_ns, id, blind: false }),
        (Status::Fail, _) => None,
        (Status::Ok | Status::Unknown, _) => {
            let only_reads = history.steps(id).iter().all(|step| step.action.is_read());
            (!only_reads).then_some(Entry { call_ns, return_ns: NEVER_NS, id, blind: true })
        }
    }
}
