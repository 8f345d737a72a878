//! Which of the ways decides a part: the cheapest that can.
//!
//! 1. The store's own claim, if it made one, replayed.
//! 2. One key: the fast path if its writes are all different, else the search.
//! 3. Several keys: each alone, which refutes most of what can be refuted; then their orders
//!    merged; then made to agree where they do not (`pins.rs`); then the search over all of them.

use crate::merge::merge;
use crate::part::Part;
use crate::pins::{self, Pinned};
use crate::unique;
use crate::wgl::{Found, search};
use crate::witness::{Refusal, claimed_order, replay};

/// The way that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The order that the store's log indices claim.
    Witness,
    /// The fast path for writes that are all different.
    Unique,
    /// The orders of single keys, merged.
    Merge,
    /// The search.
    Search,
}

/// What was decided, and how.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// The answer.
    pub(crate) found: Found,
    /// The way that gave it.
    pub(crate) method: Method,
    /// Attempts to place an operation, over all searches.
    pub(crate) steps: u64,
    /// Why the store's claim is not an order, if it made one and it is not.
    pub(crate) false_claim: Option<Refusal>,
}

/// Decides a part, with at most `steps_max` steps for each search.
pub(crate) fn decide(part: &Part<'_>, steps_max: u64) -> Decision {
    let claim = claimed_order(part).and_then(|order| replay(part, &order).map(|()| order));
    let false_claim = match claim {
        Ok(order) => {
            let found = Found::Order(order);
            return Decision { found, method: Method::Witness, steps: 0, false_claim: None };
        }
        Err(Refusal::NoWitness(_)) => None,
        Err(refusal) => Some(refusal),
    };
    Decision { false_claim, ..decide_unclaimed(part, steps_max) }
}

/// Decides a part without believing its witnesses.
pub(crate) fn decide_unclaimed(part: &Part<'_>, steps_max: u64) -> Decision {
    if part.keys.len() > 1 { decide_keys(part, steps_max) } else { decide_key(part, steps_max) }
}

/// Decides a part of one key without believing its witnesses.
pub(crate) fn decide_key(part: &Part<'_>, steps_max: u64) -> Decision {
    if let Some(found) = unique::order(part) {
        return Decision { found, method: Method::Unique, steps: 0, false_claim: None };
    }
    decide_by_search(part, steps_max)
}

fn decide_by_search(part: &Part<'_>, steps_max: u64) -> Decision {
    let (found, steps) = search(part, steps_max);
    if let Found::Order(order) = &found {
        let refusal = replay(part, order).err();
        assert_eq!(refusal, None, "the search found an order that is none");
    }
    Decision { found, method: Method::Search, steps, false_claim: None }
}

fn decide_keys(part: &Part<'_>, steps_max: u64) -> Decision {
    let keys = part.split();
    let mut orders = Vec::with_capacity(keys.len());
    let mut steps = 0;
    for (key, positions) in &keys {
        let decision = decide_key(key, steps_max);
        steps += decision.steps;
        match decision.found {
            Found::Nothing => return Decision { steps, ..decision },
            Found::Order(order) => {
                orders.push(order.iter().map(|&at| positions[at as usize]).collect::<Vec<_>>());
            }
            Found::GaveUp => {} // another key may still refute
        }
    }
    let mut decision = if orders.len() == keys.len() {
        decide_merged(part, keys, orders, steps_max)
    } else {
        decide_by_search(part, steps_max)
    };
    decision.steps += steps;
    decision
}

/// Decides a part of several keys, each of which alone has an order.
fn decide_merged(
    part: &Part<'_>,
    keys: Vec<(Part<'_>, Vec<u32>)>,
    orders: Vec<Vec<u32>>,
    steps_max: u64,
) -> Decision {
    let decided =
        |found, steps| Decision { found, method: Method::Merge, steps, false_claim: None };
    if let Some(order) = merge(part, &orders)
        && replay(part, &order).is_ok()
    {
        return decided(Found::Order(order), 0);
    }
    let Pinned { found, steps, at_odds } = pins::order(part, keys, orders, steps_max);
    match &found {
        Found::Nothing => return decided(found, steps),
        Found::Order(order) if replay(part, order).is_ok() => return decided(found, steps),
        Found::Order(_) | Found::GaveUp => {}
    }
    // The search may decide what all the others drown.
    let alone = decide_by_search(&part.projected(&at_odds), steps_max / 4);
    if alone.found == Found::Nothing {
        return Decision { steps: steps + alone.steps, ..alone };
    }
    let decision = decide_by_search(part, steps_max);
    Decision { steps: steps + alone.steps + decision.steps, ..decision }
}
