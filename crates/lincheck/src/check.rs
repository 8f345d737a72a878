//! The top: a history in, a report out.
//!
//! The history falls into parts, one for each group of keys that no operation joins, and each part
//! is decided alone (locality: Herlihy and Wing, theorem 1). Parts are shared between threads; the
//! report does not depend on how.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::decide::{Decision, Method, decide};
use crate::history::{History, KeyId, OperationId, Status};
use crate::minimize::{Limits, shortest_prefix, smallest};
use crate::part::{Part, Start};
use crate::report::{
    Counterexample, Counts, FalseClaim, Needed, Report, Timings, UndecidedPart, Verdict,
};
use crate::wgl::Found;

/// How a history is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many threads decide parts.
    pub threads: usize,
    /// How many attempts to place an operation one search may make before it gives up. An attempt
    /// takes some 100 ns and may cost 32 bytes.
    pub steps_max: u64,
    /// How much work making one counterexample smaller may take: operations looked at plus steps.
    pub minimize_work_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 2, steps_max: 20_000_000, minimize_work_max: 50_000_000 }
    }
}

impl Options {
    /// Small limits for tests.
    pub fn tiny() -> Self {
        Self { threads: 1, steps_max: 20_000, minimize_work_max: 200_000 }
    }
}

/// How many attempts to make a counterexample smaller are possible at the least.
const ATTEMPTS_MIN: u64 = 50;

/// Checks a history. The verdict is the same for any number of threads.
pub fn check(history: &History, options: &Options) -> Report {
    let parts = parts(history);
    let decisions = decide_all(&parts, options);
    let mut report = Report {
        verdict: Verdict::Linearizable,
        counts: counts(history, &parts),
        failing_parts: 0,
        undecided_parts: Vec::new(),
        false_claims: Vec::new(),
        timings: Timings::default(),
    };
    let mut failing = Vec::new();
    for (part, decision) in parts.iter().zip(&decisions) {
        if let Some(refusal) = decision.false_claim {
            let (keys, line) = (key_names(part), refusal.describe(history));
            report.false_claims.push(FalseClaim { keys, refusal, line });
        }
        report.counts.steps += decision.steps;
        match &decision.found {
            Found::Order(_) => report.counts.parts_by_method[decision.method as usize] += 1,
            Found::Nothing => failing.push(part),
            Found::GaveUp => {
                let (keys, steps) = (key_names(part), decision.steps);
                let operations = part.entries.len();
                report.undecided_parts.push(UndecidedPart { keys, operations, steps });
            }
        }
    }
    report.failing_parts = failing.len();
    if let Some(counterexample) = counterexample(&failing, options) {
        report.verdict = Verdict::NotLinearizable(Box::new(counterexample));
    } else if !report.undecided_parts.is_empty() {
        report.verdict = Verdict::Undecided;
    }
    report
}

/// The parts of a history that can be decided one by one, in the order of their first keys' names.
pub(crate) fn parts(history: &History) -> Vec<Part<'_>> {
    let mut groups = Groups((0..history.keys_count() as u32).collect());
    let counted = |id: &OperationId| match history.operation(*id).status {
        Status::Ok => true,
        Status::Fail => false,
        Status::Unknown => history.steps(*id).iter().any(|step| !step.action.is_read()),
    };
    for id in history.ids().filter(counted) {
        let [first, rest @ ..] = history.steps(id) else { continue };
        for step in rest {
            groups.join(first.key, step.key);
        }
    }
    let mut ids = vec![Vec::new(); history.keys_count()];
    let mut keys = vec![Vec::new(); history.keys_count()];
    for id in history.ids().filter(counted) {
        ids[groups.root(history.steps(id)[0].key).0 as usize].push(id);
    }
    for key in (0..history.keys_count() as u32).map(KeyId) {
        keys[groups.root(key).0 as usize].push(key);
    }
    let groups = ids.into_iter().zip(keys).filter(|(ids, _)| !ids.is_empty());
    let mut parts: Vec<Part<'_>> =
        groups.map(|(ids, keys)| Part::new(history, ids, keys)).collect();
    parts.sort_by_cached_key(|part| key_names(part).into_iter().next());
    parts
}

/// Which keys some operation joins (union-find).
struct Groups(Vec<u32>);

impl Groups {
    fn root(&mut self, key: KeyId) -> KeyId {
        let mut at = key.0;
        while self.0[at as usize] != at {
            let above = self.0[self.0[at as usize] as usize];
            self.0[at as usize] = above;
            at = above;
        }
        KeyId(at)
    }

    fn join(&mut self, a: KeyId, b: KeyId) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.0.max(b.0) as usize] = a.0.min(b.0);
    }
}

/// The names of a part's keys, sorted.
pub(crate) fn key_names(part: &Part<'_>) -> Vec<String> {
    let names = part.keys.iter().map(|&key| part.history.key_name(key).to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn counts(history: &History, parts: &[Part<'_>]) -> Counts {
    let with = |status| history.ids().filter(|&id| history.operation(id).status == status).count();
    let mut clients: Vec<u64> = history.ids().map(|id| history.operation(id).client).collect();
    clients.sort_unstable();
    clients.dedup();
    Counts {
        operations: history.len(),
        ok: with(Status::Ok),
        failed: with(Status::Fail),
        unknown: with(Status::Unknown),
        checked: parts.iter().map(|part| part.entries.len()).sum(),
        clients: clients.len(),
        keys: history.keys_count(),
        parts: parts.len(),
        parts_by_method: [0; 4],
        steps: 0,
    }
}

/// Decides parts on several threads; the results are in the order of the parts.
fn decide_all(parts: &[Part<'_>], options: &Options) -> Vec<Decision> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut decided = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(at) else { return decided };
            let mut decision = decide(part, options.steps_max);
            if let Found::Order(order) = &mut decision.found {
                *order = Vec::new(); // it was replayed; nobody reads it again
            }
            decided.push((at, decision));
        }
    };
    let mut decided = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..options.threads).map(|_| scope.spawn(work)).collect();
        let mut decided = work();
        for helper in helpers {
            decided.extend(helper.join().expect("a thread that decides parts does not panic"));
        }
        decided
    });
    decided.sort_unstable_by_key(|&(at, _)| at);
    decided.into_iter().map(|(_, decision)| decision).collect()
}

/// Explains the failure that shows first in time.
fn counterexample(failing: &[&Part<'_>], options: &Options) -> Option<Counterexample> {
    let prefixes = failing.iter().map(|part| shortest_prefix(part, options.steps_max));
    let prefix = prefixes.min_by_key(|prefix| {
        let history = prefix.part.history;
        (history.operation(prefix.culprit).return_ns, prefix.culprit)
    })?;
    let limits = Limits {
        steps_max: options.steps_max.min(options.minimize_work_max / ATTEMPTS_MIN),
        work_max: options.minimize_work_max,
    };
    let (part, is_minimal) = smallest(&prefix.part, &limits);
    let needed = part.entries.iter().map(|entry| Needed { id: entry.id, open: entry.is_open() });
    Some(Counterexample {
        keys: key_names(&prefix.part),
        first_illegal: prefix.culprit,
        legal_prefix: prefix.legal,
        smallest: needed.collect(),
        smallest_keys: key_names(&part),
        from_any_state: part.start == Start::Any,
        is_minimal,
        lines: part.entries.iter().map(|entry| part.history.describe(entry.id)).collect(),
    })
}

impl Method {
    /// All of them, in the order of [`Counts::parts_by_method`].
    pub const ALL: [Self; 4] = [Self::Witness, Self::Unique, Self::Merge, Self::Search];
}
