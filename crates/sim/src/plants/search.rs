//! The search for planted bugs: several independent ones for each, seed after seed, until an oracle
//! objects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use sampan_base::plant::{Plant, plant};

use super::ledger::{Hunt, Row, row};
use crate::checkers::Violation;
use crate::runner::run_plan;
use crate::swarm::Plan;
use crate::trace::Trace;

/// How far apart the first seeds of two searches are.
const SEARCHES_APART: u64 = 1_000_000;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct Searches {
    /// Independent searches for each bug.
    pub count: u64,
    /// Seeds that one search tries at most.
    pub seeds_max: u64,
    /// How long faults strike in each run, in virtual time.
    pub safety: Duration,
    /// On how many threads.
    pub threads: usize,
}

/// How one search ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Seeds tried.
    pub seeds: u64,
    /// What the last of them violated, if anything.
    pub violation: Option<Violation>,
    /// Seeds that end badly without the bug, and why: they prove nothing, and are bugs of their
    /// own.
    pub bad_seeds: Vec<(u64, Violation)>,
}

/// What came of all searches for one bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ledger {
    /// The bug.
    pub plant: Plant,
    /// One for each search.
    pub found: Vec<Found>,
}

impl Ledger {
    /// Has every search found it?
    pub fn is_caught(&self) -> bool {
        self.found.iter().all(|found| found.violation.is_some())
    }

    /// Median and worst number of seeds.
    pub fn seeds(&self) -> (u64, u64) {
        let mut seeds: Vec<u64> = self.found.iter().map(|found| found.seeds).collect();
        seeds.sort_unstable();
        (seeds[seeds.len() / 2], seeds[seeds.len() - 1])
    }

    /// What found it, the most frequent first.
    pub fn caught_by(&self) -> String {
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for found in &self.found {
            let property = found.violation.as_ref().map_or("NOTHING", |v| v.property);
            *times.entry(property).or_default() += 1;
        }
        let mut times: Vec<(&str, u64)> = times.into_iter().collect();
        times.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        let words = times.iter().map(|(property, times)| format!("{property} {times}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// The heading of the ledger, a table in Markdown.
pub const HEADING: &str = "\
| area | bug | what is wrong | source | expected | caught by | search | median | worst |
|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { area, source, expected, hunt } = row(self.plant);
        let (name, what) = (self.plant.name(), self.plant.what().trim());
        let (median, worst) = self.seeds();
        let caught_by = self.caught_by();
        write!(
            f,
            "| {area:?} | {name} | {what} | {source} | {expected} | {caught_by} | {hunt} | {median} | \
             {worst} |"
        )
    }
}

/// Searches for each of these bugs; `each` sees what came of it, in the order given.
pub fn search(plants: &[Plant], how: Searches, mut each: impl FnMut(&Ledger)) {
    let next = AtomicUsize::new(0);
    let count = how.count as usize;
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..how.threads.max(1) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&plant) = plants.get(place / count) else { break };
                    let found = search_once(plant, (place % count) as u64, how);
                    if sender.send((place, found)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut all: Vec<Option<Found>> = vec![None; plants.len() * count];
        let mut told = 0;
        for (place, found) in receiver {
            all[place] = Some(found);
            while told < plants.len() && all[told * count..][..count].iter().all(Option::is_some) {
                let found = all[told * count..][..count].iter().flatten().cloned().collect();
                each(&Ledger { plant: plants[told], found });
                told += 1;
            }
        }
    });
}

fn search_once(planted: Plant, number: u64, how: Searches) -> Found {
    let Row { hunt, .. } = row(planted);
    let first = number * SEARCHES_APART + 1;
    let mut bad_seeds = Vec::new();
    for seeds in 1..=how.seeds_max {
        let seed = first + seeds - 1;
        let Some(violation) = attempt(hunt, seed, how.safety, Some(planted)) else { continue };
        match attempt(hunt, seed, how.safety, None) {
            None => return Found { seeds, violation: Some(violation), bad_seeds },
            Some(violation) => bad_seeds.push((seed, violation)),
        }
    }
    Found { seeds: how.seeds_max, violation: None, bad_seeds }
}

/// One run, with a bug or without.
fn attempt(hunt: Hunt, seed: u64, safety: Duration, planted: Option<Plant>) -> Option<Violation> {
    plant(planted);
    let mut plan = Plan::of_seed(seed, safety);
    let violation = match hunt {
        Hunt::Swarm => run_plan(plan, Trace::quiet(), None).violation,
        Hunt::Aimed(aim) => {
            aim(&mut plan);
            run_plan(plan, Trace::quiet(), None).violation
        }
        Hunt::Staged(scenario) => scenario(seed).err(),
    };
    plant(None);
    violation
}

/// Keeps the assertions that planted bugs break from being printed: there are many.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_scenarios_find_their_bugs_and_end_well_without() {
        let safety = Duration::from_secs(1);
        for planted in Plant::ALL {
            let Row { hunt: hunt @ Hunt::Staged(_), .. } = row(planted) else { continue };
            let found = (1..=4).any(|seed| attempt(hunt, seed, safety, Some(planted)).is_some());
            assert!(found, "{} survives", planted.name());
            assert_eq!(attempt(hunt, 1, safety, None), None, "{}", planted.name());
        }
    }
}
