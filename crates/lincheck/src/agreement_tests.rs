//! Who checks the checker: every path against brute force, on random small histories, on valid ones
//! and on valid ones with one thing changed; and the reductions behind a counterexample against the
//! claim that they can only weaken a question.

use std::collections::BTreeMap;

use crate::brute::{Store, is_linearizable};
use crate::check::{check, parts};
use crate::decide::{Method, decide_unclaimed};
use crate::minimize::{Limits, shortest_prefix, smallest};
use crate::part::{Part, Start};
use crate::pins;
use crate::random::{Origin, Random, WORKLOADS, Workload, history, intern};
use crate::wgl::{Found, search};
use crate::witness::{claimed_order, replay};
use crate::{
    Action, History, Operation, OperationId, Options, Status, Step, ValueId, Verdict, unique,
};

const STEPS_MAX: u64 = 1_000_000;

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
            compare_pins(part, tally, about);
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

/// Moments for joining operations, whatever a plain merge would have said.
fn compare_pins(part: &Part<'_>, tally: &mut Tally, about: &dyn Fn() -> String) {
    let keys = part.split();
    let orders = keys.iter().map(|(key, positions)| match decide_unclaimed(key, STEPS_MAX).found {
        Found::Order(order) => Some(order.iter().map(|&at| positions[at as usize]).collect()),
        Found::Nothing | Found::GaveUp => None,
    });
    let Some(orders) = orders.collect::<Option<Vec<Vec<u32>>>>() else { return };
    let (by_search, _) = search(part, STEPS_MAX);
    match pins::order(part, keys, orders, STEPS_MAX).found {
        Found::Order(order) => {
            assert_eq!(replay(part, &order), Ok(()), "pins: {}", about());
            tally.add("pins", true);
        }
        Found::Nothing => {
            assert!(!passes(&by_search), "pins: {}", about());
            tally.add("pins", false);
        }
        Found::GaveUp => tally.add("pins gave up", passes(&by_search)),
    }
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
fn every_path_agrees_with_brute_force_on_135_000_random_histories() {
    let tally = compare_all(Origin::Random, 15_000);
    tally.at_least("brute force", 30_000);
    tally.at_least("unique", 14_000);
    tally.at_least("pins", 20);
    tally.at_least("several keys", 150);
}

#[test]
fn every_path_agrees_with_brute_force_on_36_000_mutated_valid_histories() {
    let tally = compare_all(Origin::Mutated, 4_000);
    tally.at_least("brute force", 4_000);
    tally.at_least("unique", 1_500);
    tally.at_least("witness", 4_000);
}

#[test]
fn every_path_accepts_18_000_valid_histories() {
    let tally = compare_all(Origin::Valid, 2_000);
    let [merged, searched] =
        ["merge", "several keys"].map(|what| tally.0.get(&(what, true)).copied().unwrap_or(0));
    assert!(merged > 1_800 && merged > 12 * searched, "{:?}", tally.0);
    assert_eq!(tally.0.get(&("witness", false)), None, "a true claim was refused");
}

/// Rules that cut a search show their faults where there is much to cut.
#[test]
fn the_search_finds_an_order_of_36_000_longer_valid_histories() {
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
    assert!(gave_up < 300, "{gave_up} of 36 000 are too hard");
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

/// Pins decide what a merge of unguided orders does not, and what a search drowns in.
#[test]
fn keys_joined_by_few_operations_cost_little_more_than_each_alone() {
    let (mut decided, mut gave_up) = (0, 0);
    for seed in 0..100 {
        for part in parts(&history(Origin::Large, Workload::Joined, seed)) {
            if part.keys.len() > 1 {
                let decision = decide_unclaimed(&part, 200_000);
                assert_ne!(decision.found, Found::Nothing, "seed {seed}");
                let by_search = decision.method == Method::Search;
                *(if by_search { &mut gave_up } else { &mut decided }) += 1;
            }
        }
    }
    assert!(decided > 50 && gave_up < 15, "{decided} decided, {gave_up} not");
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
