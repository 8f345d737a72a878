//! Which keys end when: an ordered index of the keys that have a time to live, and of those alone.

use std::collections::BTreeSet;

/// The index: expiry and key. Ordered by time first, so that finding a place compares numbers and
/// seldom looks at a key.
#[derive(Default, Debug)]
pub(crate) struct ExpiryIndex {
    entries: BTreeSet<(u64, Box<[u8]>)>,
    /// The time that has passed, and how many entries are due at it: counted when it passes, for many keys
    /// may end together, and to count them takes time in their number.
    time_ms: u64,
    due: usize,
}

impl ExpiryIndex {
    /// Memory that an entry takes beside the bytes of its key: its place in the tree and what an
    /// allocation adds.
    pub(crate) const ENTRY_BYTES: usize = 48;

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Replaces the entry of a key.
    pub(crate) fn change(&mut self, key: &[u8], from_ms: Option<u64>, to_ms: Option<u64>) {
        if from_ms == to_ms {
            return;
        }
        if let Some(from_ms) = from_ms {
            let known = self.entries.remove(&(from_ms, key.into()));
            assert!(known, "a key with an expiry of {from_ms} ms is in the index");
            self.due -= usize::from(from_ms <= self.time_ms);
        }
        if let Some(to_ms) = to_ms {
            let new = self.add(key, to_ms);
            assert!(new, "a key with an expiry of {to_ms} ms is in the index once");
        }
    }

    /// Adds a key; false if it is there with this very expiry.
    pub(crate) fn add(&mut self, key: &[u8], expiry_ms: u64) -> bool {
        let new = self.entries.insert((expiry_ms, key.into()));
        self.due += usize::from(new && expiry_ms <= self.time_ms);
        new
    }

    /// Takes in the entries of other keys.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
        self.due = self.entries.iter().take_while(|(at_ms, _)| *at_ms <= self.time_ms).count();
    }

    /// Time has passed, up to this.
    pub(crate) fn pass(&mut self, time_ms: u64) {
        let from = (self.time_ms.saturating_add(1), Box::default());
        let newly = self.entries.range(from..).take_while(|(at_ms, _)| *at_ms <= time_ms);
        self.due += newly.count();
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// All entries; none are left.
    pub(crate) fn take(&mut self) -> Self {
        let left = Self { time_ms: self.time_ms, ..Self::default() };
        std::mem::replace(self, left)
    }

    /// The earliest expiry.
    pub(crate) fn first_ms(&self) -> Option<u64> {
        self.entries.first().map(|(expiry_ms, _)| *expiry_ms)
    }

    /// The key that expires first, if it is expired at this time. It stays in the index.
    pub(crate) fn first_due(&self, time_ms: u64) -> Option<Box<[u8]>> {
        let (expiry_ms, key) = self.entries.first()?;
        (*expiry_ms <= time_ms).then(|| key.clone())
    }

    /// How many keys are expired by now and still in memory.
    pub(crate) const fn due(&self) -> usize {
        self.due
    }

    /// Frees at most `count_max` entries of an index that nobody needs any more.
    pub(crate) fn free(&mut self, count_max: usize) {
        for _ in 0..count_max {
            if self.entries.pop_first().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_by_time_and_the_boundary_counts_as_expired() {
        let mut index = ExpiryIndex::default();
        for (expiry_ms, key) in [(300, &b"c"[..]), (100, b"a"), (256, b"b"), (256, b"")] {
            index.change(key, None, Some(expiry_ms));
        }
        assert_eq!(index.first_ms(), Some(100));
        let due = [99, 100, 255, 256, u64::MAX].map(|time_ms| {
            let mut index = ExpiryIndex { entries: index.entries.clone(), ..Default::default() };
            index.pass(time_ms);
            index.due()
        });
        assert_eq!(due, [0, 1, 1, 3, 4]);
        assert_eq!(index.first_due(99), None);
        assert_eq!(index.first_due(100).as_deref(), Some(&b"a"[..]));
        index.change(b"a", Some(100), Some(400));
        index.change(b"", Some(256), None);
        assert_eq!(index.first_due(1_000).as_deref(), Some(&b"b"[..]));
        assert_eq!(index.len(), 3);
    }

    #[test]
    fn those_that_are_due_are_counted_whatever_changes() {
        let mut index = ExpiryIndex::default();
        index.pass(100);
        let steps =
            [(None, Some(100)), (Some(100), Some(101)), (Some(101), Some(50)), (Some(50), None)];
        let due = steps.map(|(from_ms, to_ms)| {
            index.change(b"k", from_ms, to_ms);
            index.due()
        });
        assert_eq!(due, [1, 0, 1, 0]);
        assert!(index.add(b"k", 100) && !index.add(b"k", 100) && index.add(b"l", 150));
        index.pass(99);
        assert_eq!(index.due(), 1, "time does not go back");
        index.pass(150);
        assert_eq!(index.due(), 2);
        let mut other = ExpiryIndex::default();
        assert!(other.add(b"m", 120) && other.add(b"n", 151));
        index.absorb(other);
        assert_eq!((index.due(), index.len()), (3, 4));
        assert_eq!((index.take().len(), index.due()), (4, 0));
        index.change(b"k", None, Some(150));
        assert_eq!(index.due(), 1);
    }
}
