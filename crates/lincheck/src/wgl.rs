//! The search: is there an order? For any part, at a cost that may be exponential.
//!
//! Wing and Gong's search (*Testing and verifying concurrent objects*, 1993) with Lowe's memory of
//! configurations (*Testing for linearizability*, 2017): walk the events in time order; an
//! operation may come next if it was called before the first return that is still ahead; take one
//! that fits, lift its events out of the list, start over; put it back when nothing follows. A
//! configuration that was entered once is never entered again (`entered.rs`). It is remembered as
//! 128 bits, so remembering costs the same for any number of operations; two configurations that
//! share them could hide an order, with a chance below 2^-60 in 2^34 configurations, and can never
//! make one up: orders are replayed (`witness.rs`).
//!
//! Rules cut the search without losing an order; each takes an order and makes another:
//! - *Reads first.* An operation that changed nothing and fits here can be moved here from
//!   wherever it is.
//! - *No idle open write.* Take an order with the fewest open operations. None of them leaves the
//!   state as it was, and none is overwritten (by a put, or by a delete if there was a value
//!   anyway) before anything depended on it: it could be left out. Nor is there one that nobody can
//!   have seen (`seen.rs`).
//! - *Open writes late.* Nobody waits for an open operation, so one on a single key can be moved to
//!   just before the next operation on that key; and where several stand before one operation, they
//!   can stand in the order of their keys.
//! - *Only what can matter to the first return.* What is taken before the operation that returns
//!   first was called before that return and has not returned: real time orders none of it. So
//!   what shares no key with that operation, nor with others that do, can be moved to after it.
//! - *Twins in order.* Of two equal open operations the one called first can take the place of the
//!   other.
//!
//! Answered operations are tried before open ones. Several open ones in a row are needed so rarely,
//! and can be chosen in so many ways, that the search is made with at most one in a row first, then
//! with few, and only then with any number.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use crate::entered::Entered;
use crate::history::{NEVER_NS, Step};
use crate::model::{Action, State, apply};
use crate::part::{Entry, Part};
use crate::rope::{Piece, Rope, fingerprint, scatter};
use crate::seen::{Idle, Seen};

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// An order, as positions among the entries of the part.
    Order(Vec<u32>),
    /// There is none.
    Nothing,
    /// The steps were used up.
    GaveUp,
}

/// The searches made one after the other: how many open operations in a row each tries, and what
/// part of the steps left it may use, as a divisor.
const ROUNDS: [(u32, u64); 3] = [(1, 6), (4, 4), (u32::MAX, 1)];

/// Searches an order of `part` in about `steps_max` attempts to place an operation. Also gives how
/// many were made.
pub(crate) fn search(part: &Part<'_>, steps_max: u64) -> (Found, u64) {
    let seen = Seen::new(part);
    let has_open = part.entries.iter().any(Entry::is_open);
    let rounds = if has_open { &ROUNDS[..] } else { &ROUNDS[ROUNDS.len() - 1..] };
    let mut steps = 0;
    for &(open_run_max, divisor) in rounds {
        let mut search = Search::new(part, &seen, open_run_max, (steps_max - steps) / divisor);
        let found = search.run();
        steps += search.steps.min(steps_max - steps);
        let is_final = open_run_max == u32::MAX || !search.was_limited;
        if matches!(found, Found::Order(_)) || found == Found::Nothing && is_final {
            return (found, steps);
        }
    }
    (Found::GaveUp, steps)
}

/// The list of answered operations begins and ends at this node.
const ANSWERED: u32 = 0;
/// The list of open operations begins and ends at this node.
const OPEN: u32 = 1;
/// No item.
const NONE: u32 = u32::MAX;

/// An entry of the part, prepared.
#[derive(Debug, Clone, Copy)]
struct Item {
    call_ns: u64,
    return_ns: u64,
    /// Its steps in `Search::steps_of`.
    steps: (u32, u32),
    /// Its nodes: call, and return if it is not open.
    nodes: (u32, u32),
    /// It changed nothing, whenever it took effect.
    inert: bool,
    /// An equal open operation that must be taken before this one, or `NONE`.
    twin: u32,
    /// Its place among the open operations, or `NONE`.
    open_place: u32,
    taken: bool,
}

/// A call or a return in one of the two lists.
#[derive(Debug, Clone, Copy)]
struct Node {
    item: u32,
    is_return: bool,
    next: u32,
    previous: u32,
}

/// A key during the search.
#[derive(Debug, Clone, Copy)]
struct Cell {
    state: State<Rope>,
    /// Stands for `state` in the configuration's fingerprint.
    print: u128,
    /// It is no part of the fingerprint. An order with the fewest open operations could be missed
    /// only if a configuration of it had been entered with an idle write more; but what follows in
    /// that order could follow there, and without that write it would have fewer.
    idle: Idle,
}

/// Where the choice of the next operation stands.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    node: u32,
    /// Among open operations: the first return that is ahead.
    horizon_ns: u64,
}

/// An operation taken, and how to take it back.
#[derive(Debug, Clone, Copy)]
struct Frame {
    item: u32,
    /// It was not a choice: nothing else needs trying in its place.
    forced: bool,
    undo_len: u32,
    cursor: Cursor,
    print: u128,
    open_run: u32,
}

struct Search<'s> {
    items: Vec<Item>,
    steps_of: Vec<(u32, Action<Piece>)>,
    nodes: Vec<Node>,
    cells: Vec<Cell>,
    undo: Vec<(u32, Cell)>,
    frames: Vec<Frame>,
    /// The configuration but for open items: the answered items taken, and all cells.
    print: u128,
    /// One bit for each open item.
    open_taken: Vec<u64>,
    entered: Entered,
    seen: &'s Seen,
    /// Answered operations not yet taken.
    ahead: usize,
    /// By key: the round in which it was found to matter to the first return.
    matters: Vec<u64>,
    round: u64,
    /// How many open operations were taken one after the other until now.
    open_run: u32,
    open_run_max: u32,
    /// Some operation was not tried because of `open_run_max`.
    was_limited: bool,
    tells_missing: bool,
    steps: u64,
    steps_max: u64,
}

impl<'s> Search<'s> {
    fn new(part: &Part<'_>, seen: &'s Seen, open_run_max: u32, steps_max: u64) -> Self {
        let state: State<Rope> = part.start_state();
        let cells = (0..part.keys.len())
            .map(|key| Cell { state, print: fingerprint(key, &state), idle: Idle::default() })
            .collect();
        let open_count = part.entries.iter().filter(|entry| entry.is_open()).count();
        let mut search = Self {
            items: Vec::with_capacity(part.entries.len()),
            steps_of: Vec::new(),
            nodes: Vec::with_capacity(2 * part.entries.len() + 2),
            cells,
            undo: Vec::new(),
            frames: Vec::with_capacity(part.entries.len()),
            print: 0,
            open_taken: vec![0; open_count.div_ceil(64)],
            entered: Entered::new(open_count),
            seen,
            ahead: part.entries.len() - open_count,
            matters: vec![0; part.keys.len()],
            round: 0,
            open_run: 0,
            open_run_max,
            was_limited: false,
            tells_missing: part.history.tells_missing(),
            steps: 0,
            steps_max,
        };
        search.add_items(part);
        search.add_nodes();
        search
    }

    fn add_items(&mut self, part: &Part<'_>) {
        let mut last_twin: HashMap<Vec<Step>, u32> = HashMap::new();
        let mut open_count = 0;
        for (at, entry) in part.entries.iter().enumerate() {
            let start = self.steps_of.len() as u32;
            let steps = part.steps(entry);
            self.steps_of.extend(steps.clone().map(|step| {
                (part.key_place(step.key) as u32, part.resolve(step.action).map(Piece::new))
            }));
            let inert = !entry.is_open() && steps.clone().all(|step| step.action.is_inert());
            let (mut twin, mut open_place) = (NONE, NONE);
            if entry.is_open() {
                open_place = open_count;
                open_count += 1;
                match last_twin.entry(steps.collect()) {
                    Slot::Occupied(mut slot) => twin = slot.insert(at as u32),
                    Slot::Vacant(slot) => _ = slot.insert(at as u32),
                }
            }
            self.items.push(Item {
                call_ns: entry.call_ns,
                return_ns: entry.return_ns,
                steps: (start, self.steps_of.len() as u32),
                nodes: (NONE, NONE),
                inert,
                twin,
                open_place,
                taken: false,
            });
        }
    }

    /// Links all events in time order; at equal times calls come before returns.
    fn add_nodes(&mut self) {
        for list in [ANSWERED, OPEN] {
            self.nodes.push(Node { item: NONE, is_return: true, next: list, previous: list });
        }
        let mut events = Vec::with_capacity(2 * self.items.len());
        for (at, item) in self.items.iter().enumerate() {
            events.push((item.call_ns, false, at as u32));
            if !item.is_open() {
                events.push((item.return_ns, true, at as u32));
            }
        }
        events.sort_unstable();
        for (_, is_return, at) in events {
            let item = &mut self.items[at as usize];
            let list = if item.is_open() { OPEN } else { ANSWERED };
            let node = self.nodes.len() as u32;
            let slot = if is_return { &mut item.nodes.1 } else { &mut item.nodes.0 };
            *slot = node;
            let previous = self.nodes[list as usize].previous;
            self.nodes.push(Node { item: at, is_return, next: list, previous });
            self.nodes[previous as usize].next = node;
            self.nodes[list as usize].previous = node;
        }
    }

    fn run(&mut self) -> Found {
        let mut cursor = self.first();
        loop {
            if self.ahead == 0 {
                return Found::Order(self.frames.iter().map(|frame| frame.item).collect());
            }
            if self.steps >= self.steps_max {
                return Found::GaveUp;
            }
            cursor = if self.take_next(cursor) {
                self.first()
            } else if let Some(cursor) = self.take_back() {
                cursor
            } else {
                return Found::Nothing;
            };
        }
    }

    /// Takes everything that is forced, and gives where the choice of what follows begins.
    fn first(&mut self) -> Cursor {
        let mut node = self.nodes[ANSWERED as usize].next;
        while !self.nodes[node as usize].is_return {
            let Node { item, previous, .. } = self.nodes[node as usize];
            let (undo_len, print) = (self.undo.len(), self.print);
            node = if !self.items[item as usize].inert || !self.apply(item) {
                self.nodes[node as usize].next
            } else if self.moved(undo_len) {
                // It bound an unknown state, which is a choice.
                self.restore(undo_len, print);
                self.nodes[node as usize].next
            } else {
                let cursor = Cursor { node, horizon_ns: NEVER_NS };
                self.take(item, true, undo_len, print, cursor);
                self.nodes[previous as usize].next
            };
        }
        self.mark_keys();
        Cursor { node: self.nodes[ANSWERED as usize].next, horizon_ns: NEVER_NS }
    }

    /// Takes the first operation from `cursor` on that fits and leads to a configuration never
    /// entered before.
    fn take_next(&mut self, mut cursor: Cursor) -> bool {
        while self.settle(&mut cursor) {
            let at = self.nodes[cursor.node as usize].item;
            let (undo_len, print) = (self.undo.len(), self.print);
            if self.may_help(at) && self.apply(at) {
                if !self.items[at as usize].is_open() || self.moved(undo_len) {
                    self.take(at, false, undo_len, print, cursor);
                    if self.enter() {
                        return true;
                    }
                    self.put_back();
                } else {
                    self.restore(undo_len, print);
                }
            }
            cursor.node = self.nodes[cursor.node as usize].next;
        }
        false
    }

    /// Whether the configuration is new.
    fn enter(&mut self) -> bool {
        // What the next operation may be depends on these also.
        let run = if self.open_run_max == u32::MAX { 0 } else { self.open_run };
        let mut print = self.print ^ word_print(!u64::from(run));
        let mut last_key = NONE;
        for key in self.late_keys().filter(|&key| std::mem::replace(&mut last_key, key) != key) {
            print ^= word_print(1 << 32 | u64::from(key));
        }
        let (is_new, compared) = self.entered.enter(print, &self.open_taken);
        self.steps += compared;
        is_new
    }

    /// Finds the keys that can matter to the operation that returns first.
    fn mark_keys(&mut self) {
        if self.cells.len() == 1 || self.ahead == 0 {
            return;
        }
        self.round += 1;
        let first = self.first_return();
        self.mark_item(first);
        loop {
            let joining = self.candidates().find(|&at| self.joins_marked(at));
            let Some(at) = joining else { return };
            self.mark_item(at);
        }
    }

    /// Whether an item touches a key that is marked and one that is not.
    fn joins_marked(&self, at: u32) -> bool {
        let (start, end) = self.items[at as usize].steps;
        let mut steps = self.steps_of[start as usize..end as usize].iter();
        let is_marked = |key: u32| self.matters[key as usize] == self.round;
        let first = is_marked(steps.next().expect("an item has steps").0);
        steps.any(|&(key, _)| is_marked(key) != first)
    }

    /// The answered operation that returns first.
    fn first_return(&self) -> u32 {
        let mut node = self.nodes[ANSWERED as usize].next;
        while !self.nodes[node as usize].is_return {
            node = self.nodes[node as usize].next;
        }
        self.nodes[node as usize].item
    }

    /// All operations that may come next.
    fn candidates(&self) -> impl Iterator<Item = u32> {
        let mut cursor = Cursor { node: self.nodes[ANSWERED as usize].next, horizon_ns: NEVER_NS };
        std::iter::from_fn(move || {
            self.settle(&mut cursor).then(|| {
                let Node { item, next, .. } = self.nodes[cursor.node as usize];
                cursor.node = next;
                item
            })
        })
    }

    fn mark_item(&mut self, at: u32) {
        let (start, end) = self.items[at as usize].steps;
        for (key, _) in &self.steps_of[start as usize..end as usize] {
            self.matters[*key as usize] = self.round;
        }
    }

    /// Moves the cursor to a call that may come next, from where it is; false if there is none.
    fn settle(&self, cursor: &mut Cursor) -> bool {
        let node = &self.nodes[cursor.node as usize];
        if cursor.node != OPEN && node.is_return {
            // The first return ahead: what was called after it cannot come before it.
            let horizon_ns = self.items[node.item as usize].return_ns;
            *cursor = Cursor { node: self.nodes[OPEN as usize].next, horizon_ns };
        }
        let node = &self.nodes[cursor.node as usize];
        cursor.node != OPEN && self.items[node.item as usize].call_ns <= cursor.horizon_ns
    }

    /// False if a rule says that the item need not be tried here.
    fn may_help(&mut self, at: u32) -> bool {
        let item = self.items[at as usize];
        if item.twin != NONE && !self.items[item.twin as usize].taken {
            return false;
        }
        let (key, _) = self.steps_of[item.steps.0 as usize];
        if self.cells.len() > 1 && self.matters[key as usize] != self.round {
            return false;
        }
        if !self.is_next_of_late(at) {
            return false;
        }
        let is_over = item.is_open() && self.open_run == self.open_run_max;
        self.was_limited |= is_over;
        !is_over
    }

    /// The one key of an open operation on one key.
    fn late_key(&self, at: u32) -> Option<u32> {
        let Item { open_place, steps: (start, end), .. } = self.items[at as usize];
        (open_place != NONE && end - start == 1).then(|| self.steps_of[start as usize].0)
    }

    /// The keys of the open operations that were taken last, each waiting for the next operation
    /// on its key; the last first, so that equal ones are neighbours.
    fn late_keys(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().rev().map_while(|frame| self.late_key(frame.item))
    }

    /// Whether an item may follow the open operations that were taken last: it must touch all
    /// their keys, or be one more of them.
    fn is_next_of_late(&self, at: u32) -> bool {
        let Some(last_key) = self.late_keys().next() else { return true };
        match self.late_key(at) {
            None => self.late_keys().all(|key| self.touches(at, key)),
            Some(key) if key == last_key => true,
            Some(key) if key < last_key => false,
            // Some operation must follow them all.
            Some(key) => self.candidates().any(|other| {
                self.late_key(other).is_none()
                    && self.touches(other, key)
                    && self.late_keys().all(|key| self.touches(other, key))
            }),
        }
    }

    fn touches(&self, at: u32, key: u32) -> bool {
        let (start, end) = self.items[at as usize].steps;
        self.steps_of[start as usize..end as usize].iter().any(|&(other, _)| other == key)
    }

    /// Applies the steps of an item to the cells. False: it does not fit, and nothing changed.
    fn apply(&mut self, at: u32) -> bool {
        self.steps += 1;
        let item = self.items[at as usize];
        let (undo_len, print) = (self.undo.len(), self.print);
        let is_open = item.is_open();
        let alone = item.steps.1 - item.steps.0 == 1;
        for step in item.steps.0..item.steps.1 {
            let (key, action) = &self.steps_of[step as usize];
            let cell = &mut self.cells[*key as usize];
            let before = *cell;
            if before.idle.is_wasted_by(action)
                || !apply(&mut cell.state, action, self.tells_missing)
            {
                self.restore(undo_len, print);
                return false;
            }
            if action.observes() {
                cell.idle = Idle::default();
            }
            if cell.state != before.state {
                cell.print = fingerprint(*key as usize, &cell.state);
                if is_open && alone {
                    cell.idle = cell.idle.after(&before.state, &cell.state);
                }
            }
            let hopeless = !self.seen.allows(*key as usize, cell.idle, &cell.state, cell.print);
            if cell.idle != before.idle || cell.state != before.state {
                self.print ^= before.print ^ cell.print;
                self.undo.push((*key, before));
            }
            if hopeless {
                self.restore(undo_len, print);
                return false;
            }
        }
        true
    }

    /// Whether some state differs from what it was at this length of the undo list.
    fn moved(&self, undo_len: usize) -> bool {
        let mut changes = self.undo[undo_len..].iter();
        changes.any(|(key, before)| before.state != self.cells[*key as usize].state)
    }

    fn take(&mut self, at: u32, forced: bool, undo_len: usize, print: u128, cursor: Cursor) {
        let undo_len = undo_len as u32;
        let open_run = self.open_run;
        self.frames.push(Frame { item: at, forced, undo_len, cursor, print, open_run });
        let item = &mut self.items[at as usize];
        item.taken = true;
        let Item { nodes: (call, returned), open_place, .. } = *item;
        self.lift(call);
        if open_place == NONE {
            self.print ^= word_print(u64::from(at));
            self.open_run = 0;
            self.lift(returned);
            self.ahead -= 1;
        } else {
            self.open_taken[open_place as usize / 64] |= 1 << (open_place % 64);
            self.open_run += 1;
        }
    }

    /// Takes back operations up to and including the last choice; gives where to choose on.
    fn take_back(&mut self) -> Option<Cursor> {
        loop {
            let frame = self.put_back()?;
            if !frame.forced {
                self.mark_keys();
                let node = self.nodes[frame.cursor.node as usize].next;
                return Some(Cursor { node, ..frame.cursor });
            }
        }
    }

    /// Takes back the last operation taken.
    fn put_back(&mut self) -> Option<Frame> {
        let frame = self.frames.pop()?;
        let item = &mut self.items[frame.item as usize];
        item.taken = false;
        let Item { nodes: (call, returned), open_place, .. } = *item;
        if open_place == NONE {
            self.unlift(returned);
            self.ahead += 1;
        } else {
            self.open_taken[open_place as usize / 64] &= !(1 << (open_place % 64));
        }
        self.unlift(call);
        self.restore(frame.undo_len as usize, frame.print);
        self.open_run = frame.open_run;
        Some(frame)
    }

    fn restore(&mut self, undo_len: usize, print: u128) {
        while self.undo.len() > undo_len {
            let (key, cell) = self.undo.pop().expect("it is longer than undo_len");
            self.cells[key as usize] = cell;
        }
        self.print = print;
    }

    fn lift(&mut self, node: u32) {
        let Node { next, previous, .. } = self.nodes[node as usize];
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
    }

    fn unlift(&mut self, node: u32) {
        let Node { next, previous, .. } = self.nodes[node as usize];
        self.nodes[previous as usize].next = node;
        self.nodes[next as usize].previous = node;
    }
}

impl Item {
    fn is_open(&self) -> bool {
        self.open_place != NONE
    }
}

/// Stands for a word in the configuration's fingerprint: below 2^32 an item that was taken, from
/// there a key that the next operation must touch, and from the top down how many open operations
/// were taken in a row.
fn word_print(word: u64) -> u128 {
    let half = |seed: u64| scatter(scatter(seed) ^ word);
    u128::from(half(1)) << 64 | u128::from(half(2))
}
