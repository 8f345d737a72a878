//! Who checks the checker: every path against brute force, on random small histories, on valid ones
//! and on valid ones with one thing changed; and the reductions behind a counterexample against the
//! claim that they can only weaken a question.

use std::collections::BTreeMap;

use crate::brute::{Store, is_linearizable};
use crate::check::{check, parts};
use crate::decide::{Method, decide_unclaimed};
use crate::minimize::{Limits, shortest_prefix, smallest};
use crate::part::{Part, Start};
use crate::wgl::{Found, search};
use crate::witness::{claimed_order, replay};
use crate::{
    Action, History, Operation, OperationId, Options, Status, Step, ValueId, Verdict, Witness,
    rope, unique,
};

const STEPS_MAX: u64 = 1_000_000;
/// Operations of a large history.
const LARGE: u64 = 1_000;

/// Seeded random numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        rope::scatter(rope::scatter(self.0)) % end
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
enum Workload {
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
}

const WORKLOADS: [Workload; 7] = [
    Workload::UniquePuts,
    Workload::UniqueAppends,
    Workload::UniqueMixed,
    Workload::Repeated,
    Workload::Counters,
    Workload::All,
    Workload::Joined,
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
        let keys = 1 + self.random.below(if workload == Workload::Joined { 3 } else { 2 });
        let times = count / 2 + self.random.below(3 * count);
        self.is_large = count == LARGE;
        if !self.is_large {
            self.unknown = [1, 4, 4, 10][self.random.below(4) as usize];
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
        let steps = if workload == Workload::Joined && self.random.chance(50) { 2 } else { 1 };
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

    fn action(&mut self, workload: Workload) -> Action<String> {
        let get = Action::Get { out: Some(None) };
        self.unique += 1;
        let fresh = format!("{};", self.unique);
        let few = self.random.of(&["a", "b", "ab", "", "1", "7"]).to_owned();
        let delta = [1, 1, 2, -1][self.random.below(4) as usize];
        match (workload, self.random.below(10)) {
            (_, 0..4) => get,
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

fn intern(history: &mut History, action: &Action<String>) -> Action<ValueId> {
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
enum Origin {
    Valid,
    /// Valid, and too long for brute force.
    Long,
    /// Valid, of [`LARGE`] operations.
    Large,
    Mutated,
    /// Outputs drawn from what other operations wrote or saw.
    Random,
}

fn history(origin: Origin, workload: Workload, seed: u64) -> History {
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

/// How often each path gave each verdict, so that a test that tests nothing is seen.
#[derive(Debug, Default)]
struct Tally(BTreeMap<(&'static str, bool), u64>);

impl Tally {
    fn add(&mut self, what: &'static str, passes: bool) {
        *self.0.entry((what, passes)).or_default() += 1;
    }

    fn at_least(&self, what: &'static str, count: u64) {
        for passes in [true, false] {
            let seen = self.0.get(&(what, passes)).copied().unwrap_or_default();
            assert!(seen >= count, "{what} said {passes} only {seen} times: {:?}", self.0);
        }
    }
}

fn passes(found: &Found) -> bool {
    assert_ne!(*found, Found::GaveUp, "a history of eight operations");
    *found != Found::Nothing
}

/// Holds every path against brute force on one history.
fn compare(history: &History, tally: &mut Tally, about: &dyn Fn() -> String) -> bool {
    let expected = is_linearizable(history, &Store::new());
    let parts = parts(history);
    let searched = parts.iter().all(|part| {
        let (found, _) = search(part, STEPS_MAX);
        if let Found::Order(order) = &found {
            assert_eq!(replay(part, order), Ok(()), "{}", about());
        }
        passes(&found)
    });
    assert_eq!(searched, expected, "search: {}", about());

    for part in &parts {
        if let Some(found) = unique::order(part) {
            let (by_search, _) = search(part, STEPS_MAX);
            assert_eq!(passes(&found), passes(&by_search), "unique values: {}", about());
            tally.add("unique", passes(&found));
        }
        let decision = decide_unclaimed(part, STEPS_MAX);
        if part.keys.len() > 1 {
            let by_merge = decision.method == Method::Merge;
            tally.add(if by_merge { "merge" } else { "several keys" }, passes(&decision.found));
        }
    }
    let claims =
        parts.iter().map(|part| claimed_order(part).and_then(|order| replay(part, &order)));
    let claimed = claims.collect::<Result<Vec<()>, _>>().is_ok();
    assert!(expected || !claimed, "witness: {}", about());
    tally.add("witness", claimed);

    let report = check(history, &Options::tiny());
    assert_eq!(report.is_linearizable(), expected, "check: {}", about());
    assert_ne!(report.verdict, Verdict::Undecided, "check: {}", about());
    tally.add("brute force", expected);
    expected
}

fn about(origin: Origin, workload: Workload, seed: u64, history: &History) -> String {
    let lines: Vec<String> = history.ids().map(|id| history.describe(id)).collect();
    format!("{origin:?} {workload:?} seed {seed}:\n{}", lines.join("\n"))
}

fn compare_all(origin: Origin, count: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..count {
        for workload in WORKLOADS {
            let history = history(origin, workload, seed);
            let about = || about(origin, workload, seed, &history);
            let expected = compare(&history, &mut tally, &about);
            if origin == Origin::Valid {
                assert!(expected, "brute force: {}", about());
            }
        }
    }
    tally
}

#[test]
fn every_path_agrees_with_brute_force_on_105_000_random_histories() {
    let tally = compare_all(Origin::Random, 15_000);
    tally.at_least("brute force", 30_000);
    tally.at_least("unique", 14_000);
    tally.at_least("several keys", 150);
}

#[test]
fn every_path_agrees_with_brute_force_on_28_000_mutated_valid_histories() {
    let tally = compare_all(Origin::Mutated, 4_000);
    tally.at_least("brute force", 4_000);
    tally.at_least("unique", 1_500);
    tally.at_least("witness", 4_000);
}

#[test]
fn every_path_accepts_14_000_valid_histories() {
    let tally = compare_all(Origin::Valid, 2_000);
    let [merged, searched] =
        ["merge", "several keys"].map(|what| tally.0.get(&(what, true)).copied().unwrap_or(0));
    assert!(merged > 800 && merged > 15 * searched, "{:?}", tally.0);
    assert_eq!(tally.0.get(&("witness", false)), None, "a true claim was refused");
}

/// Rules that cut a search show their faults where there is much to cut.
#[test]
fn the_search_finds_an_order_of_28_000_longer_valid_histories() {
    let mut gave_up = 0;
    for seed in 0..4_000 {
        for workload in WORKLOADS {
            let history = history(Origin::Long, workload, seed);
            for part in parts(&history) {
                let about = || about(Origin::Long, workload, seed, &history);
                match search(&part, 50_000).0 {
                    Found::Order(order) => assert_eq!(replay(&part, &order), Ok(()), "{}", about()),
                    Found::Nothing => panic!("{}", about()),
                    Found::GaveUp => gave_up += 1,
                }
                assert!(unique::order(&part).is_none_or(|found| passes(&found)), "{}", about());
            }
        }
    }
    assert!(gave_up < 300, "{gave_up} of 28 000 are too hard");
}

#[test]
fn the_search_stays_cheap_with_1000_operations_and_50_unknown_outcomes() {
    use Workload::{All, Counters, UniqueAppends, UniqueMixed, UniquePuts};
    for workload in [UniquePuts, UniqueAppends, UniqueMixed, Counters, All] {
        let mut costs = Vec::new();
        for seed in 0..20 {
            for part in parts(&history(Origin::Large, workload, seed)) {
                costs.push(search(&part, STEPS_MAX).1);
            }
        }
        costs.sort_unstable();
        let (middle, most) = (costs[costs.len() / 2], costs[costs.len() * 7 / 10]);
        assert!(middle < 20_000 && most < STEPS_MAX / 2, "{workload:?} {costs:?}");
    }
}

/// The history that a part is, for brute force: open operations are unknown ones.
fn history_of(part: &Part<'_>) -> History {
    let mut history = History::new();
    for entry in &part.entries {
        let operation = Operation {
            return_ns: (!entry.is_open()).then_some(entry.return_ns),
            status: if entry.is_open() { Status::Unknown } else { Status::Ok },
            ..*part.history.operation(entry.id)
        };
        let steps = part.steps(entry).map(|step| {
            let text = |value: ValueId| part.history.value_text(value).to_owned();
            let action = match step.action {
                Action::Get { out } => Action::Get { out: out.map(|seen| seen.map(text)) },
                Action::Put { value } => Action::Put { value: text(value) },
                Action::Append { value, out } => Action::Append { value: text(value), out },
                Action::Incr { delta, out } => Action::Incr { delta, out },
                Action::Del { out } => Action::Del { out },
                Action::Cas { expect, value, out } => {
                    Action::Cas { expect: expect.map(text), value: text(value), out }
                }
            };
            let key = history.key(part.history.key_name(step.key));
            Step { key, action: intern(&mut history, &action) }
        });
        let steps: Vec<Step> = steps.collect();
        history.push(operation, &steps);
    }
    if part.history.tells_missing() {
        // A read of nothing on a key of its own keeps the meaning of the empty string.
        let key = history.key("tells missing");
        let operation = Operation {
            client: 0,
            call_ns: 0,
            return_ns: Some(0),
            status: Status::Ok,
            witness: None,
        };
        history.push(operation, &[Step { key, action: Action::Get { out: Some(None) } }]);
    }
    history
}

/// States that a part of a small history could start from: every beginning of every value seen.
fn starts(part: &Part<'_>) -> Vec<Store> {
    let mut texts = vec![None, Some("other".to_owned()), Some(String::new())];
    for entry in &part.entries {
        for step in part.steps(entry) {
            match part.resolve(step.action) {
                Action::Get { out: Some(Some(seen)) } => {
                    texts.extend((0..=seen.len()).map(|end| Some(seen[..end].to_owned())));
                }
                Action::Incr { delta, out: Some(sum) } => {
                    texts.push(Some((sum - delta).to_string()));
                }
                Action::Cas { expect, .. } => texts.push(expect.map(str::to_owned)),
                _ => {}
            }
        }
    }
    texts.sort();
    texts.dedup();
    let names: Vec<&str> = part.keys.iter().map(|&key| part.history.key_name(key)).collect();
    let with = |store: &Store, name: &str, text: &Option<String>| {
        let mut store = store.clone();
        store.extend(text.iter().map(|text| (name.to_owned(), text.clone())));
        store
    };
    names.iter().fold(vec![Store::new()], |stores, name| {
        let all = stores.iter().flat_map(|store| texts.iter().map(|text| with(store, name, text)));
        all.collect()
    })
}

fn is_linearizable_part(part: &Part<'_>) -> bool {
    let history = history_of(part);
    match part.start {
        Start::Missing => is_linearizable(&history, &Store::new()),
        Start::Any => starts(part).iter().any(|start| is_linearizable(&history, start)),
    }
}

#[test]
fn the_counterexample_is_the_shortest_prefix_and_a_smaller_part_that_fails() {
    let limits = Limits { steps_max: STEPS_MAX, work_max: 10_000_000 };
    let (mut failing, mut any, mut entries) = (0, 0, [0, 0]);
    for seed in 0..3_000 {
        for workload in WORKLOADS {
            let history = history(Origin::Mutated, workload, seed);
            for part in parts(&history) {
                let about = || about(Origin::Mutated, workload, seed, &history);
                if passes(&search(&part, STEPS_MAX).0) {
                    continue;
                }
                let prefix = shortest_prefix(&part, STEPS_MAX);
                assert!(!is_linearizable_part(&prefix.part), "prefix: {}", about());
                let before = prefix.part.entries.iter().filter(|entry| !entry.is_open());
                let before = before.map(|entry| (entry.return_ns, entry.id));
                let end = before.clone().max().expect("a prefix ends with a return");
                assert_eq!(end.1, prefix.culprit, "{}", about());
                if let Some(before) = before.filter(|&other| other != end).max() {
                    let shorter = part.prefix(before);
                    assert!(is_linearizable_part(&shorter), "not the shortest: {}", about());
                    let at =
                        |id: &OperationId| shorter.entries.iter().position(|entry| entry.id == *id);
                    let order: Option<Vec<u32>> =
                        prefix.legal.iter().map(|id| at(id).map(|at| at as u32)).collect();
                    let order = order.expect("the legal prefix is of the shorter one");
                    assert_eq!(replay(&shorter, &order), Ok(()), "{}", about());
                }
                let (small, is_minimal) = smallest(&prefix.part, &limits);
                assert!(is_minimal);
                assert!(!is_linearizable_part(&small), "{:?}: {}", small.entries, about());
                failing += 1;
                any += u32::from(small.start == Start::Any);
                entries[0] += prefix.part.entries.len();
                entries[1] += small.entries.len();
            }
        }
    }
    assert!(failing > 3_000 && any > 400, "{failing} {any}");
    assert!(entries[1] * 10 < entries[0] * 8, "hardly smaller: {entries:?}");
}

#[test]
fn reductions_only_weaken() {
    let mut kinds = [0; 4];
    for seed in 0..6_000 {
        for workload in WORKLOADS {
            let history = history(Origin::Valid, workload, seed);
            let mut random = Random(seed << 8);
            for mut part in parts(&history) {
                for _ in 0..3 {
                    let (kind, weaker) = weaken(&part, &mut random);
                    let about = || about(Origin::Valid, workload, seed, &history);
                    let found = search(&weaker, STEPS_MAX).0;
                    assert!(passes(&found), "{kind} {:?}: {}", weaker.entries, about());
                    assert!(unique::order(&weaker).is_none_or(|found| passes(&found)));
                    kinds[kind] += usize::from(weaker.entries.len() < part.entries.len());
                    part = weaker;
                }
            }
        }
    }
    assert!(kinds.iter().all(|&count| count > 1_000), "{kinds:?}");
}

/// One of the reductions that the minimizer makes, at random.
fn weaken<'h>(part: &Part<'h>, random: &mut Random) -> (usize, Part<'h>) {
    let some = |random: &mut Random, part: &Part<'_>| {
        let at = random.below(part.entries.len() as u64);
        part.entries[at as usize]
    };
    if part.entries.is_empty() {
        return (0, part.clone());
    }
    match random.below(4) {
        0 => {
            let entry = some(random, part);
            (0, part.prefix((entry.return_ns, entry.id)))
        }
        1 => (1, part.forgetting(some(random, part).call_ns)),
        2 => {
            let dropped = [some(random, part), some(random, part)];
            let smaller = crate::minimize::without(part, &dropped);
            (2, smaller.unwrap_or_else(|| part.clone()))
        }
        _ => {
            let at = random.below(part.keys.len() as u64) as usize;
            (3, part.projected(&part.keys[at..=at]))
        }
    }
}
