//! Random small histories, for tests: valid ones, valid ones with something changed, and ones that
//! nobody's store gave.
//!
//! A history is drafted first: each operation with the moment at which it takes effect. Running the
//! drafts in that order on a plain store fills in what each observed, so that the history is
//! linearizable by construction; then things are changed.

use crate::brute::Store;
use crate::rope::scatter;
use crate::{Action, History, Operation, Status, Step, ValueId, Witness};

/// Operations of a large history.
const LARGE: u64 = 1_000;

/// Seeded random numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        scatter(scatter(self.0)) % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// What kind of operations a history has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Workload {
    /// Puts and reads, each value once.
    UniquePuts,
    /// Appends and reads, each token once.
    UniqueAppends,
    /// Puts, appends and reads, each value once.
    UniqueMixed,
    /// Puts, appends and reads of few values, some empty, some the beginning of others.
    Repeated,
    /// Additions, reads, and a put now and then.
    Counters,
    /// Everything.
    All,
    /// Everything, some operations on several keys.
    Joined,
    /// The same, everything on several keys.
    Entangled,
    /// Writes that expect what others wrote, of long values, many of unknown outcome.
    Chains,
}

pub(crate) const WORKLOADS: [Workload; 9] = [
    Workload::UniquePuts,
    Workload::UniqueAppends,
    Workload::UniqueMixed,
    Workload::Repeated,
    Workload::Counters,
    Workload::All,
    Workload::Joined,
    Workload::Entangled,
    Workload::Chains,
];

/// One operation before it is recorded.
#[derive(Debug, Clone)]
struct Draft {
    operation: Operation,
    /// When it takes effect; `None`: never.
    point: Option<(u64, u64)>,
    steps: Vec<(String, Action<String>)>,
}

/// Makes small histories.
struct Generator {
    random: Random,
    /// Of 20 operations, how many are of unknown outcome.
    unknown: u64,
    is_large: bool,
    unique: u64,
}

impl Generator {
    fn drafts(&mut self, workload: Workload, count: u64) -> Vec<Draft> {
        let is_joined = matches!(workload, Workload::Joined | Workload::Entangled);
        let keys = 1 + self.random.below(if is_joined { 3 } else { 2 });
        let times = count / 2 + self.random.below(3 * count);
        self.is_large = count == LARGE;
        if !self.is_large {
            let chances = if workload == Workload::Chains { [4, 8, 8, 12] } else { [1, 4, 4, 10] };
            self.unknown = chances[self.random.below(4) as usize];
        }
        (0..count).map(|client| self.draft(workload, client, keys, times)).collect()
    }

    fn draft(&mut self, workload: Workload, client: u64, keys: u64, times: u64) -> Draft {
        // Mostly short, so that real time orders much of the history.
        let longest = [1, 3, 3, times.min(24)][self.random.below(4) as usize];
        let call = self.random.below(times);
        let mut moments = [0, self.random.below(longest), self.random.below(longest)];
        moments.sort_unstable();
        let moments = moments.map(|after| call + after);
        let status = match self.random.below(20) {
            0 => Status::Fail,
            kind if kind <= self.unknown => Status::Unknown,
            _ => Status::Ok,
        };
        let took_effect = match status {
            Status::Ok => true,
            Status::Unknown => self.random.chance(60),
            Status::Fail => false,
        };
        // An unknown one may take effect long after everybody gave up.
        let late = status == Status::Unknown && self.random.chance(30);
        let moment = if late { moments[1] + self.random.below(times) } else { moments[1] };
        let point = took_effect.then(|| (moment, self.random.below(1 << 32)));
        let joined = match workload {
            Workload::Joined if self.is_large => 3,
            Workload::Joined => 50,
            Workload::Entangled => 90,
            _ => 0,
        };
        let steps = if self.random.chance(joined) { 2 } else { 1 };
        let steps = (0..steps).map(|_| {
            let key = format!("k{}", self.random.below(keys));
            (key, self.action(workload))
        });
        let steps = steps.collect();
        let operation = Operation {
            client,
            call_ns: moments[0],
            return_ns: (status == Status::Ok).then_some(moments[2]),
            status,
            witness: None,
        };
        Draft { operation, point, steps }
    }

    /// A write of two bytes, so that no rule for numbers and beginnings covers it by chance.
    fn link(&mut self, kind: u64) -> Action<String> {
        match kind {
            4 => Action::Put { value: "ab".to_owned() },
            5 | 6 => Action::Append { value: "cd".to_owned(), out: None },
            7 => Action::Del { out: None },
            _ => {
                let expect = self.random.of(&["ab", "cd", "abcd", "abcdcd"]).to_owned();
                let value = self.random.of(&["ab", "ef"]).to_owned();
                Action::Cas { expect: Some(expect), value, out: Some(false) }
            }
        }
    }

    fn action(&mut self, workload: Workload) -> Action<String> {
        let get = Action::Get { out: Some(None) };
        self.unique += 1;
        let fresh = format!("{};", self.unique);
        let few = self.random.of(&["a", "b", "ab", "", "1", "7"]).to_owned();
        let delta = [1, 1, 2, -1][self.random.below(4) as usize];
        match (workload, self.random.below(10)) {
            (_, 0..4) => get,
            (Workload::Chains, kind) => self.link(kind),
            (Workload::UniquePuts, _) | (Workload::UniqueMixed, 4..7) => {
                Action::Put { value: fresh }
            }
            (Workload::UniqueAppends | Workload::UniqueMixed, kind) => {
                // Where no read shows them, lengths tell little and leave many orders to try.
                let tells_length = kind == 9 && !self.is_large;
                Action::Append { value: fresh, out: tells_length.then_some(0) }
            }
            (Workload::Counters, 4) => Action::Put { value: few },
            (Workload::Counters, _) => Action::Incr { delta, out: Some(0) },
            (_, 4 | 5) => Action::Put { value: few },
            (_, 6) => Action::Append { value: few, out: self.random.chance(30).then_some(0) },
            (Workload::Repeated, _) => Action::Append { value: few, out: None },
            (_, 7) => Action::Incr { delta, out: Some(0) },
            (_, 8) => Action::Del { out: self.random.chance(70).then_some(false) },
            (_, _) => {
                let expect = self.random.chance(70).then(|| self.random.of(&["a", "1"]).to_owned());
                Action::Cas { expect, value: few, out: Some(false) }
            }
        }
    }
}

/// Runs the drafts in the order of their points on a plain store and fills in what they observe.
fn answer(drafts: &mut [Draft], tells_missing: bool) {
    let mut order: Vec<usize> =
        (0..drafts.len()).filter(|&at| drafts[at].point.is_some()).collect();
    order.sort_by_key(|&at| drafts[at].point);
    let mut store = Store::new();
    for (index, at) in order.into_iter().enumerate() {
        drafts[at].operation.witness = Some(Witness { index: index as u64, sub: 0 });
        for (key, action) in &mut drafts[at].steps {
            observe(&mut store, key, action, tells_missing);
        }
    }
}

fn observe(store: &mut Store, key: &str, action: &mut Action<String>, tells_missing: bool) {
    let held = store.get(key).cloned();
    let read = if tells_missing { held.clone() } else { held.clone().or(Some(String::new())) };
    match action {
        Action::Get { out } => *out = Some(read),
        Action::Put { value } => _ = store.insert(key.to_owned(), value.clone()),
        Action::Append { value, out } => {
            let text = held.unwrap_or_default() + value;
            *out = out.map(|_| text.len() as u64);
            store.insert(key.to_owned(), text);
        }
        Action::Incr { delta, out } => {
            let text = held.as_deref().unwrap_or("0");
            let number = text.parse().ok().filter(|number: &i64| number.to_string() == text);
            *out = number.map(|number| number + *delta);
            out.map(|sum| store.insert(key.to_owned(), sum.to_string()));
        }
        Action::Del { out } => {
            let did = store.remove(key).is_some();
            *out = out.map(|_| did);
        }
        Action::Cas { expect, value, out } => {
            let did =
                if tells_missing { held == *expect } else { held == *expect || read == *expect };
            *out = Some(did);
            if did {
                store.insert(key.to_owned(), value.clone());
            }
        }
    }
}

fn record(drafts: &[Draft]) -> History {
    let mut history = History::new();
    for draft in drafts {
        let steps = draft.steps.iter().map(|(key, action)| {
            let key = history.key(key);
            Step { key, action: intern(&mut history, action) }
        });
        let steps: Vec<Step> = steps.collect();
        history.push(draft.operation, &steps);
    }
    history
}

pub(crate) fn intern(history: &mut History, action: &Action<String>) -> Action<ValueId> {
    match action {
        Action::Get { out } => Action::Get {
            out: out.as_ref().map(|seen| seen.as_ref().map(|text| history.value(text))),
        },
        Action::Put { value } => Action::Put { value: history.value(value) },
        Action::Append { value, out } => Action::Append { value: history.value(value), out: *out },
        Action::Incr { delta, out } => Action::Incr { delta: *delta, out: *out },
        Action::Del { out } => Action::Del { out: *out },
        Action::Cas { expect, value, out } => Action::Cas {
            expect: expect.as_ref().map(|text| history.value(text)),
            value: history.value(value),
            out: *out,
        },
    }
}

/// Changes one thing that somebody saw.
fn mutate(drafts: &mut Vec<Draft>, random: &mut Random, tells_missing: bool) {
    let at = random.below(drafts.len() as u64) as usize;
    match random.below(6) {
        0 => swap_outputs(drafts, at, random),
        // A return moves, often before the point.
        1 => {
            let operation = &mut drafts[at].operation;
            if let Some(return_ns) = operation.return_ns {
                operation.return_ns =
                    Some(operation.call_ns + random.below(1 + return_ns - operation.call_ns));
            }
        }
        // A call moves, often after the point.
        2 => {
            let operation = &mut drafts[at].operation;
            if let Some(return_ns) = operation.return_ns {
                operation.call_ns += random.below(1 + return_ns - operation.call_ns);
            }
        }
        // What was answered was never applied, or takes effect once more, or elsewhere.
        3 => {
            drafts[at].point = None;
            answer_around(drafts, at, tells_missing);
        }
        4 => {
            let mut twice = drafts[at].clone();
            twice.point = Some((random.below(20), random.below(1 << 32)));
            drafts.push(twice);
            answer(drafts, tells_missing);
            drafts.pop();
        }
        _ => {
            drafts[at].point = Some((random.below(20), random.below(1 << 32)));
            answer(drafts, tells_missing);
        }
    }
}

/// The others see a store without it, its own answer stays.
fn answer_around(drafts: &mut [Draft], at: usize, tells_missing: bool) {
    let kept = drafts[at].steps.clone();
    answer(drafts, tells_missing);
    drafts[at].steps = kept;
}

fn swap_outputs(drafts: &mut [Draft], at: usize, random: &mut Random) {
    let other = random.below(drafts.len() as u64) as usize;
    let (a, b) = (drafts[at].steps[0].1.clone(), drafts[other].steps[0].1.clone());
    match (a, b) {
        (Action::Get { out: a }, Action::Get { out: b }) => {
            drafts[at].steps[0].1 = Action::Get { out: b };
            drafts[other].steps[0].1 = Action::Get { out: a };
        }
        (Action::Incr { delta, out }, _) => {
            let out = out.map(|sum| sum + 1);
            drafts[at].steps[0].1 = Action::Incr { delta, out };
        }
        (Action::Get { .. }, Action::Put { value } | Action::Append { value, .. }) => {
            drafts[at].steps[0].1 = Action::Get { out: Some(Some(value)) };
        }
        _ => {}
    }
}

/// Where a history came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Valid,
    /// Valid, and too long for brute force.
    Long,
    /// Valid, of [`LARGE`] operations.
    Large,
    Mutated,
    /// Outputs drawn from what other operations wrote or saw.
    Random,
}

pub(crate) fn history(origin: Origin, workload: Workload, seed: u64) -> History {
    let mut generator =
        Generator { random: Random(seed << 20), unknown: 1, is_large: false, unique: 0 };
    let count = match origin {
        Origin::Large => LARGE,
        Origin::Long => 10 + generator.random.below(20),
        Origin::Valid | Origin::Mutated | Origin::Random => 2 + generator.random.below(7),
    };
    let mut drafts = generator.drafts(workload, count);
    let tells_missing = generator.random.chance(60);
    answer(&mut drafts, tells_missing);
    match origin {
        Origin::Valid | Origin::Long | Origin::Large => {}
        Origin::Mutated => {
            for _ in 0..2 + generator.random.below(3) {
                mutate(&mut drafts, &mut generator.random, tells_missing);
            }
        }
        Origin::Random => {
            if generator.random.chance(50) {
                // One order, but not one that real time allows.
                for draft in &mut drafts {
                    let point = (generator.random.below(20), 0);
                    draft.point = draft.point.map(|_| point);
                }
                answer(&mut drafts, tells_missing);
            }
            for at in 0..drafts.len() {
                if generator.random.chance(30) {
                    swap_outputs(&mut drafts, at, &mut generator.random);
                }
            }
        }
    }
    record(&drafts)
}
