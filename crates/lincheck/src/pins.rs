//! An order of several keys, made by pinning the operations that join them to moments.
//!
//! Once every operation that touches several keys happens at one known moment, its keys have
//! nothing more to do with each other: if each key alone has an order in which these operations
//! happen at their moments, the whole has one (locality: Herlihy and Wing, theorem 1), and
//! `merge.rs` makes it. If the whole has an order, such moments exist. So instead of a search over
//! all keys, moments are looked for, one joining operation after the other:
//!
//! - An order of a key leaves an operation a *window*: it could happen at any moment after the
//!   calls of what stands before it and before the returns of what stands behind it. Where the
//!   windows of all its keys share a moment, it is pinned there and nothing need be decided again.
//! - Else the time between its call and its return is cut where the windows part, and its keys are
//!   decided again with the operation held to one of the pieces, then to the other.
//! - If no piece is left, operations pinned before are in the way. They are released, it is placed
//!   first, and they look for other moments. If none is left to release, there is no order.
//!
//! Most windows share a moment, so that the cost is that of deciding each key, a few of them more
//! than once. It may give up where an order exists or where none does; a search must decide then.

use std::collections::{BTreeSet, VecDeque};

use crate::decide::decide_key;
use crate::history::{KeyId, NEVER_NS};
use crate::merge::merge;
use crate::part::{Entry, Part};
use crate::wgl::Found;

/// How often one operation may release others.
const RELEASES_MAX: u32 = 6;
/// From this release on it releases all that share a key with it, not only those near in time.
const RELEASES_NEAR: u32 = 2;

/// How many steps the decision of one key may take, for each of its entries. Where one choice is
/// hard, another is often easy.
const ENTRY_STEPS_MAX: u64 = 16;

/// What was found, and at what cost.
pub(crate) struct Pinned {
    /// An order, that there is none, or neither.
    pub(crate) found: Found,
    /// Attempts to place an operation, over all searches of keys.
    pub(crate) steps: u64,
    /// Keys that could not be brought together, if it gave up. Sorted.
    pub(crate) at_odds: Vec<KeyId>,
}

/// Looks for an order of `part`, given its keys ([`Part::split`]) and an order of each, as
/// positions among the entries of `part`. Stops after about `steps_max` steps.
pub(crate) fn order(
    part: &Part<'_>,
    keys: Vec<(Part<'_>, Vec<u32>)>,
    orders: Vec<Vec<u32>>,
    steps_max: u64,
) -> Pinned {
    let mut pins = Pins::new(part, keys, orders, steps_max);
    let found = pins.place_all();
    Pinned { found, steps: pins.steps, at_odds: pins.at_odds.into_iter().collect() }
}

/// When a joining operation happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// As its entry says.
    Free,
    /// An open one: not at all.
    Never,
    /// Between these moments.
    Within(u64, u64),
}

/// An operation with steps on several keys.
#[derive(Debug, Clone)]
struct Joint {
    /// Position among the entries of the part.
    at: u32,
    /// Its keys, as places.
    keys: Vec<usize>,
    place: Place,
    releases: u32,
}

/// A key alone, and an order of it in which every joint is at its place.
struct Key<'h> {
    part: Part<'h>,
    /// Of its entries, among the entries of the whole. Ascending.
    positions: Vec<u32>,
    order: Vec<u32>,
    /// For each of `positions`: its place in `order`, or `NONE`.
    places: Vec<u32>,
    /// Joints on it.
    joints: Vec<usize>,
}

struct Pins<'p, 'h> {
    part: &'p Part<'h>,
    keys: Vec<Key<'h>>,
    joints: Vec<Joint>,
    /// By position among the entries of the part: its joint, or `NONE`.
    joint_of: Vec<u32>,
    /// Moments taken. Two joints at one moment could be ordered differently by two keys.
    taken: BTreeSet<u64>,
    steps: u64,
    steps_max: u64,
    /// Some choice was left though it may have been right.
    gave_up: bool,
    at_odds: BTreeSet<KeyId>,
}

/// No joint, no place.
const NONE: u32 = u32::MAX;

impl<'p, 'h> Pins<'p, 'h> {
    fn new(
        part: &'p Part<'h>,
        keys: Vec<(Part<'h>, Vec<u32>)>,
        orders: Vec<Vec<u32>>,
        steps_max: u64,
    ) -> Self {
        let mut keys_of = vec![Vec::new(); part.entries.len()];
        for (place, (_, positions)) in keys.iter().enumerate() {
            for &at in positions {
                keys_of[at as usize].push(place);
            }
        }
        let keys = keys.into_iter().zip(orders);
        let keys = keys.map(|((part, positions), order)| {
            let mut key = Key { part, positions, order, places: Vec::new(), joints: Vec::new() };
            key.index();
            key
        });
        let mut pins = Self {
            part,
            keys: keys.collect(),
            joints: Vec::new(),
            joint_of: vec![NONE; part.entries.len()],
            taken: BTreeSet::new(),
            steps: 0,
            steps_max,
            gave_up: false,
            at_odds: BTreeSet::new(),
        };
        for (at, keys) in keys_of.into_iter().enumerate().filter(|(_, keys)| keys.len() > 1) {
            let joint = pins.joints.len();
            pins.joint_of[at] = joint as u32;
            for &key in &keys {
                pins.keys[key].joints.push(joint);
            }
            let at = at as u32;
            pins.joints.push(Joint { at, keys, place: Place::Free, releases: 0 });
        }
        pins
    }

    fn place_all(&mut self) -> Found {
        let mut left: VecDeque<usize> = (0..self.joints.len()).collect();
        while let Some(joint) = left.pop_front() {
            while !self.place(joint) {
                let rivals = self.rivals(joint);
                let is_spent = self.steps >= self.steps_max;
                if rivals.is_empty() && !self.gave_up && !is_spent {
                    return Found::Nothing;
                }
                let releases = self.joints[joint].releases;
                if rivals.is_empty() || is_spent || releases > RELEASES_MAX {
                    let at_odds = rivals.iter().chain([&joint]);
                    let keys = at_odds.flat_map(|&rival| &self.joints[rival].keys);
                    self.at_odds = keys.map(|&key| self.part.keys[key]).collect();
                    return Found::GaveUp;
                }
                for rival in rivals {
                    self.release(rival);
                    left.push_front(rival);
                }
            }
        }
        let orders: Vec<Vec<u32>> = self.keys.iter().map(|key| key.order.clone()).collect();
        merge(self.part, &orders).map_or(Found::GaveUp, Found::Order)
    }

    /// Finds a moment for a joint at which all its keys have an order, with all others where they
    /// are. False: there is none, or the steps are used up.
    fn place(&mut self, joint: usize) -> bool {
        let Joint { at, ref keys, .. } = self.joints[joint];
        let keys = keys.clone();
        let entry = self.part.entries[at as usize];
        let mut choices = vec![Place::Within(entry.call_ns, entry.return_ns.min(NEVER_NS - 1))];
        if entry.is_open() {
            // Where one key shows it, the others must have it; that it is not needed there is
            // harder to find out.
            let shown = keys.iter().copied().filter(|&key| self.window(key, at).is_some());
            let shown: Vec<usize> = shown.collect();
            choices.push(Place::Never);
            if !shown.is_empty()
                && let Some((low, high)) = self.shared_moment(at, &shown)
            {
                choices.push(Place::Within(low, high.min(NEVER_NS - 1)));
            }
        }
        while let Some(choice) = choices.pop().filter(|_| self.steps < self.steps_max) {
            if !self.hold(joint, choice) {
                continue;
            }
            let Place::Within(from_ns, to_ns) = choice else { return true };
            if let Some((low, high)) = self.shared_moment(at, &keys) {
                self.pin(joint, low, high);
                return true;
            }
            let ends = keys.iter().filter_map(|&key| self.window(key, at)).map(|(_, high)| high);
            let cut = ends.min().expect("a joint has keys");
            choices.extend([Place::Within(cut + 1, to_ns), Place::Within(from_ns, cut)]);
        }
        // An order that has it somewhere is an order for it anywhere.
        self.joints[joint].place = Place::Free;
        false
    }

    /// Holds a joint to a place, and decides those of its keys again whose order has it elsewhere.
    /// False: one of them has no order.
    fn hold(&mut self, joint: usize, place: Place) -> bool {
        let Joint { at, ref keys, .. } = self.joints[joint];
        let keys = keys.clone();
        self.joints[joint].place = Place::Free;
        let misplaced: Vec<usize> = keys
            .into_iter()
            .filter(|&key| match (place, self.window(key, at)) {
                (Place::Never, window) => window.is_some(),
                (Place::Within(from_ns, to_ns), Some((low, high))) => from_ns > high || low > to_ns,
                (Place::Within(..), None) => true,
                (Place::Free, _) => false,
            })
            .collect();
        self.joints[joint].place = place;
        misplaced.into_iter().all(|key| self.decide(key))
    }

    /// Decides a key anew. False: there is no order, or none was found.
    fn decide(&mut self, key: usize) -> bool {
        let Key { part, positions, .. } = &self.keys[key];
        let placed = positions.iter().filter_map(|&at| Some((self.placed(at)?, at)));
        let mut placed: Vec<(Entry, u32)> = placed.collect();
        placed.sort_unstable();
        let part = part.with_entries(placed.iter().map(|&(entry, _)| entry).collect());
        let decision = decide_key(&part, ENTRY_STEPS_MAX * part.entries.len() as u64 + 1_000);
        self.steps += decision.steps + part.entries.len() as u64 / 8;
        match decision.found {
            Found::Order(order) => {
                self.keys[key].order = order.iter().map(|&at| placed[at as usize].1).collect();
                self.keys[key].index();
                true
            }
            Found::Nothing => false,
            Found::GaveUp => {
                self.gave_up = true;
                false
            }
        }
    }

    /// An entry where it is held, if it is.
    fn placed(&self, at: u32) -> Option<Entry> {
        let entry = self.part.entries[at as usize];
        let joint = self.joints.get(self.joint_of[at as usize] as usize);
        match joint.map_or(Place::Free, |joint| joint.place) {
            Place::Free => Some(entry),
            Place::Never => None,
            Place::Within(call_ns, return_ns) => Some(Entry { call_ns, return_ns, ..entry }),
        }
    }

    /// The moments, first to last, at which an entry could happen in the order of a key.
    ///
    /// What stands before another was called before that returned. So what stands before all that
    /// was looked at was not called later than the first return among these; and the other way
    /// around. That ends both walks after about as many entries as are concurrent.
    fn window(&self, key: usize, at: u32) -> Option<(u64, u64)> {
        let key = &self.keys[key];
        let place = key.place(at)?;
        let placed = |&at: &u32| self.placed(at).unwrap_or(self.part.entries[at as usize]);
        let (mut low, mut first_return) = (0, NEVER_NS);
        for entry in key.order[..=place].iter().rev().map(placed) {
            low = low.max(entry.call_ns);
            first_return = first_return.min(entry.return_ns);
            if first_return <= low {
                break;
            }
        }
        let (mut high, mut last_call) = (NEVER_NS, 0);
        for entry in key.order[place..].iter().map(placed) {
            high = high.min(entry.return_ns);
            last_call = last_call.max(entry.call_ns);
            if last_call >= high {
                break;
            }
        }
        Some((low, high))
    }

    /// The moments, first to last, that the windows of an entry share.
    fn shared_moment(&self, at: u32, keys: &[usize]) -> Option<(u64, u64)> {
        let windows = keys.iter().map(|&key| self.window(key, at));
        let windows: Vec<(u64, u64)> = windows.collect::<Option<_>>()?;
        let low = windows.iter().map(|&(low, _)| low).max()?;
        let high = windows.iter().map(|&(_, high)| high).min()?;
        (low <= high).then_some((low, high))
    }

    /// Pins a joint to one of these moments, to one that is not taken if there is one.
    fn pin(&mut self, joint: usize, low: u64, high: u64) {
        let middle = if high < NEVER_NS / 2 { low.midpoint(high) } else { low };
        let free = (middle..=high).find(|moment| !self.taken.contains(moment));
        let moment = free.unwrap_or(middle);
        self.taken.insert(moment);
        self.joints[joint].place = Place::Within(moment, moment);
    }

    fn release(&mut self, joint: usize) {
        if let Place::Within(moment, _) = self.joints[joint].place {
            self.taken.remove(&moment);
        }
        self.joints[joint].place = Place::Free;
    }

    /// Joints that were placed and may be in the way of this one.
    fn rivals(&mut self, joint: usize) -> Vec<usize> {
        self.joints[joint].releases += 1;
        let Joint { ref keys, releases, at, .. } = self.joints[joint];
        let entry = self.part.entries[at as usize];
        let sharing: BTreeSet<usize> =
            keys.iter().flat_map(|&key| self.keys[key].joints.iter().copied()).collect();
        let is_placed = |other: &usize| self.joints[*other].place != Place::Free;
        let is_near = |other: &usize| {
            let other = self.part.entries[self.joints[*other].at as usize];
            other.call_ns <= entry.return_ns && entry.call_ns <= other.return_ns
        };
        let placed: Vec<usize> = sharing.into_iter().filter(is_placed).collect();
        let near: Vec<usize> = placed.iter().copied().filter(is_near).collect();
        if near.is_empty() || releases > RELEASES_NEAR { placed } else { near }
    }
}

impl Key<'_> {
    /// Notes where the order has each entry.
    fn index(&mut self) {
        self.places.clear();
        self.places.resize(self.positions.len(), NONE);
        for (place, at) in self.order.iter().enumerate() {
            let local = self.positions.binary_search(at).expect("an order is of its entries");
            self.places[local] = place as u32;
        }
    }

    /// Where the order has an entry, if it does.
    fn place(&self, at: u32) -> Option<usize> {
        let place = self.places[self.positions.binary_search(&at).ok()?];
        (place != NONE).then_some(place as usize)
    }
}
