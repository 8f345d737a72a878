//! The memory of a search: configurations that it entered, so as never to enter them again.
//!
//! A configuration is what is taken and what the keys hold (Lowe, *Testing for linearizability*,
//! 2017, section 3). Open operations taken are kept apart: a configuration that differs from an
//! entered one only in that *more* open operations are used up leads nowhere that the other does
//! not, since nobody waits for an open operation. So it counts as entered too.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasherDefault, Hasher};

/// No set.
const NONE: u32 = u32::MAX;

/// Configurations entered.
pub(crate) struct Entered {
    /// By everything but the open operations taken: the first of a list of sets of these.
    first_set: HashMap<u128, u32, BuildHasherDefault<Scattered>>,
    /// Set `i` is the `words` bit words from `i * words` on.
    sets: Vec<u64>,
    next_set: Vec<u32>,
    words: usize,
}

impl Entered {
    /// Nothing entered, with so many open operations.
    pub(crate) fn new(open_count: usize) -> Self {
        let words = open_count.div_ceil(64);
        Self { first_set: HashMap::default(), sets: Vec::new(), next_set: Vec::new(), words }
    }

    /// Enters a configuration, unless it, or one with fewer open operations taken, was entered.
    /// Also gives how many sets were compared.
    pub(crate) fn enter(&mut self, print: u128, open_taken: &[u64]) -> (bool, u64) {
        assert_eq!(open_taken.len(), self.words, "one bit for each open operation");
        let new = self.next_set.len() as u32;
        let mut slot = match self.first_set.entry(print) {
            Slot::Vacant(slot) => {
                slot.insert(new);
                self.add(open_taken, NONE);
                return (true, 0);
            }
            Slot::Occupied(slot) => slot,
        };
        let first = *slot.get();
        let (mut at, mut compared) = (first, 0);
        while at != NONE {
            compared += 1;
            let from = at as usize * self.words;
            let mut words = self.sets[from..from + self.words].iter().zip(open_taken);
            if words.all(|(entered, now)| entered & !now == 0) {
                return (false, compared);
            }
            at = self.next_set[at as usize];
        }
        slot.insert(new);
        self.add(open_taken, first);
        (true, compared)
    }

    fn add(&mut self, open_taken: &[u64], next: u32) {
        self.sets.extend_from_slice(open_taken);
        self.next_set.push(next);
    }
}

/// A hasher for words that are scattered already.
#[derive(Default)]
pub(crate) struct Scattered(u64);

impl Hasher for Scattered {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, word: u128) {
        self.0 = word as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_open_operations_taken_is_no_new_configuration() {
        let mut entered = Entered::new(70);
        assert_eq!(entered.enter(1, &[0b0110, 1]), (true, 0));
        assert_eq!(entered.enter(1, &[0b0111, 1]), (false, 1));
        assert_eq!(entered.enter(1, &[0b0110, 3]), (false, 1));
        assert_eq!(entered.enter(1, &[0b0110, 0]), (true, 1));
        assert_eq!(entered.enter(1, &[0b0001, 0]), (true, 2));
        assert_eq!(entered.enter(1, &[0b0001, 0]), (false, 1));
        assert_eq!(entered.enter(2, &[0b0111, 1]), (true, 0));
        let mut none_open = Entered::new(0);
        assert_eq!(none_open.enter(1, &[]), (true, 0));
        assert_eq!(none_open.enter(1, &[]), (false, 1));
    }
}
