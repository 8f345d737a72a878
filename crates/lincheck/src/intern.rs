//! Strings stored once and named by a number, so that a history of a million operations compares
//! values by number and copies none.
//!
//! It is not a cache: nothing is ever removed.

/// Slots are twice the strings, rounded up to a power of two: linear probing stays short.
const SLOTS_MIN: usize = 64;
/// An empty slot. No string has this number: [`Interner::intern`] asserts it.
const EMPTY: u64 = u64::MAX;

/// All strings in one arena, and a hash table of (32 bits of hash, number).
#[derive(Debug, Clone, Default)]
pub(crate) struct Interner {
    arena: String,
    /// `ends[i]` is where string `i` ends in the arena; it starts where the one before ends.
    ends: Vec<usize>,
    slots: Vec<u64>,
}

impl Interner {
    /// The number of `text`, a new one if it was never seen.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        if self.ends.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let hash = hash(text.as_bytes());
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            let slot = self.slots[at];
            if slot >> 32 == u64::from(hash) && self.get(slot as u32) == text {
                return slot as u32;
            }
            at = (at + 1) & mask;
        }
        let id = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        assert!(id < u32::MAX, "more than {id} distinct strings");
        self.slots[at] = u64::from(hash) << 32 | u64::from(id);
        self.arena.push_str(text);
        self.ends.push(self.arena.len());
        id
    }

    /// The string of a number that `intern` gave.
    pub(crate) fn get(&self, id: u32) -> &str {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.arena[start..self.ends[id]]
    }

    /// How many distinct strings there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    fn grow(&mut self) {
        let slots = vec![EMPTY; (self.slots.len() * 2).max(SLOTS_MIN)];
        let mask = slots.len() - 1;
        for slot in std::mem::replace(&mut self.slots, slots) {
            if slot == EMPTY {
                continue;
            }
            let mut at = (slot >> 32) as usize & mask;
            while self.slots[at] != EMPTY {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }
}

/// Eight bytes at a time; equality is always decided by the bytes, never by this.
fn hash(bytes: &[u8]) -> u32 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of 8 bytes"));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    ((hash ^ hash >> 31).wrapping_mul(MULTIPLIER) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_a_number_and_others_do_not() {
        let mut interner = Interner::default();
        let ids: Vec<u32> = (0..10_000).map(|i| interner.intern(&format!("value {i}"))).collect();
        assert_eq!(interner.intern(""), 10_000);
        for (i, &id) in ids.iter().enumerate() {
            assert_eq!(id as usize, i);
            assert_eq!(interner.get(id), format!("value {i}"));
            assert_eq!(interner.intern(&format!("value {i}")), id);
        }
        assert_eq!(interner.get(10_000), "");
        assert_eq!(interner.len(), 10_001);
    }
}
