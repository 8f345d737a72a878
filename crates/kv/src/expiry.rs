//! Which keys end when: an ordered index of the keys that have a time to live, and of those alone.

use std::collections::BTreeSet;

/// The index: expiry and key. Ordered by time first, so that finding a place compares numbers and
/// seldom looks at a key.
#[derive(Default, Debug)]
pub(crate) struct ExpiryIndex {
    entries: BTreeSet<(u64, Box<[u8]>)>,
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
        }
        if let Some(to_ms) = to_ms {
            let new = self.entries.insert((to_ms, key.into()));
            assert!(new, "a key with an expiry of {to_ms} ms is in the index once");
        }
    }

    /// Takes in the entries of other keys.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
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

    /// How many keys are expired at this time and still in memory. Takes time in their number.
    pub(crate) fn count_due(&self, time_ms: u64) -> usize {
        if self.first_ms().is_none_or(|first_ms| first_ms > time_ms) {
            return 0;
        }
        let Some(after_ms) = time_ms.checked_add(1) else { return self.entries.len() };
        self.entries.range(..(after_ms, Box::default())).count()
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
        assert_eq!([99, 100, 255, 256, u64::MAX].map(|t| index.count_due(t)), [0, 1, 1, 3, 4]);
        assert_eq!(index.first_due(99), None);
        assert_eq!(index.first_due(100).as_deref(), Some(&b"a"[..]));
        index.change(b"a", Some(100), Some(400));
        index.change(b"", Some(256), None);
        assert_eq!(index.first_due(1_000).as_deref(), Some(&b"b"[..]));
        assert_eq!(index.len(), 3);
    }
}
