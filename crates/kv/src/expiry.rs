//! Which keys end when: an ordered index of the keys that have a time to live, and of those alone.

use std::collections::BTreeSet;

/// The index: expiry and key. Ordered by time first, so that finding a place compares numbers and
/// seldom looks at a key.
#[derive(Default, Debug)]
pub(crate) struct ExpiryIndex {
    entries: BTreeSet<(u64, Box<[u8]>)>,
    /// How many entries stand before `counted`: those that are due, as far as they were counted.
    /// Many keys may end together, and to count them all takes time in their number.
    due: usize,
    counted: (u64, Box<[u8]>),
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
            self.due -= usize::from(self.is_counted(key, from_ms));
        }
        if let Some(to_ms) = to_ms {
            let new = self.add(key, to_ms);
            assert!(new, "a key with an expiry of {to_ms} ms is in the index once");
        }
    }

    /// Adds a key; false if it is there with this very expiry.
    pub(crate) fn add(&mut self, key: &[u8], expiry_ms: u64) -> bool {
        let new = self.entries.insert((expiry_ms, key.into()));
        self.due += usize::from(new && self.is_counted(key, expiry_ms));
        new
    }

    fn is_counted(&self, key: &[u8], expiry_ms: u64) -> bool {
        (expiry_ms, key) < (self.counted.0, &self.counted.1)
    }

    /// Takes in the entries of other keys.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
        self.due = self.entries.range(..&self.counted).count();
    }

    /// Time has passed, up to this: counts some of those that are due, at most so many.
    pub(crate) fn pass(&mut self, time_ms: u64, count_max: usize) {
        let (mut count, mut last) = (0, None);
        for entry in self.uncounted(time_ms).take(count_max) {
            (count, last) = (count + 1, Some(entry));
        }
        let counted = match last {
            Some((at_ms, key)) if count == count_max => (*at_ms, [key, &[0][..]].concat().into()),
            _ => (time_ms + 1, Box::default()),
        };
        self.counted = counted.max(std::mem::take(&mut self.counted));
        self.due += count;
    }

    fn uncounted(&self, time_ms: u64) -> impl Iterator<Item = &(u64, Box<[u8]>)> {
        self.entries.range(&self.counted..).take_while(move |(at_ms, _)| *at_ms <= time_ms)
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

    /// How many keys are expired at this time, which is not before the one that passed last, and
    /// still in memory.
    pub(crate) fn due(&self, time_ms: u64) -> usize {
        self.due + self.uncounted(time_ms).count()
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
            assert_eq!(index.due(time_ms), index.entries.iter().filter(|e| e.0 <= time_ms).count());
            index.pass(time_ms.min(1_000), 2);
            index.due(time_ms)
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
    fn those_that_are_due_are_counted_whatever_changes_and_however_far_the_count_is() {
        for count_max in [1, 2, 100] {
            let mut rng = sampan_base::Rng::seeded(count_max as u64);
            let mut index = ExpiryIndex::default();
            let mut expiries = [None; 20];
            let mut time_ms = 0;
            for _ in 0..2_000 {
                let place = rng.below(20) as usize;
                let to_ms = (!rng.one_in(3)).then(|| time_ms + rng.below(40));
                let to_ms = to_ms.map(|to_ms| to_ms.saturating_sub(10));
                index.change(&[place as u8], expiries[place], to_ms);
                expiries[place] = to_ms;
                if rng.one_in(4) {
                    time_ms += rng.below(4);
                    index.pass(time_ms, count_max);
                }
                let due = expiries.iter().flatten().filter(|at_ms| **at_ms <= time_ms).count();
                assert_eq!(index.due(time_ms), due);
            }
            let mut other = ExpiryIndex::default();
            assert!(other.add(b"other", time_ms) && !other.add(b"other", time_ms));
            let before = index.due(time_ms);
            index.absorb(other);
            assert_eq!(index.due(time_ms), before + 1);
        }
    }
}
