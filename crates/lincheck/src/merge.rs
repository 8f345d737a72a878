//! An order of several keys, made of an order of each.
//!
//! Operations that touch several keys join them, and a search over joined keys multiplies the
//! choices of one by those of the others. Each key alone is often decided quickly. If some order of
//! the whole keeps those of the keys and real time, the one made here does. If none does, nothing
//! is proved: the keys may have other orders. Replaying tells which it is (`decide.rs`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::part::Part;

/// An order of all entries in `orders`, which are positions among the entries of `part` and hold
/// each entry at most once, such that each of them is kept. None: they contradict each other.
///
/// A topological sort that takes what was called first among what can come next. So if an operation
/// is placed after one that was called when it had returned, it had to be.
pub(crate) fn merge(part: &Part<'_>, orders: &[Vec<u32>]) -> Option<Vec<u32>> {
    let mut orders_of = vec![Vec::new(); part.entries.len()];
    for (list, order) in orders.iter().enumerate() {
        for &at in order {
            orders_of[at as usize].push(list);
        }
    }
    let wanted = orders_of.iter().filter(|lists| !lists.is_empty()).count();
    // An entry is ready when it is the first of what is left in all its lists.
    let mut waits: Vec<usize> = orders_of.iter().map(Vec::len).collect();
    let mut ready = BinaryHeap::new();
    let mut left: Vec<_> = orders.iter().map(|order| order.iter()).collect();
    let mut advance = |list: usize, ready: &mut BinaryHeap<_>| {
        if let Some(&at) = left[list].next() {
            waits[at as usize] -= 1;
            if waits[at as usize] == 0 {
                ready.push(Reverse((part.entries[at as usize].call_ns, at)));
            }
        }
    };
    for list in 0..orders.len() {
        advance(list, &mut ready);
    }
    let mut merged = Vec::with_capacity(wanted);
    while let Some(Reverse((_, at))) = ready.pop() {
        merged.push(at);
        for &list in &orders_of[at as usize] {
            advance(list, &mut ready);
        }
    }
    (merged.len() == wanted).then_some(merged)
}
