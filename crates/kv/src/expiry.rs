//! Which keys end when: an ordered index of the keys that have a time to live, and of those alone.

use std::collections::BTreeSet;
use std::ops::Bound;

const EXPIRY_BYTES: usize = 8;

/// The index. An entry is the expiry, big-endian, and the key, so that bytes sort by time.
#[derive(Default, Debug)]
pub(crate) struct ExpiryIndex {
    entries: BTreeSet<Box<[u8]>>,
}

impl ExpiryIndex {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Replaces the entry of a key.
    pub(crate) fn change(&mut self, key: &[u8], from_ms: Option<u64>, to_ms: Option<u64>) {
        if from_ms == to_ms {
            return;
        }
        if let Some(from_ms) = from_ms {
            let known = self.entries.remove(&*entry(from_ms, key));
            assert!(known, "a key with an expiry of {from_ms} ms is in the index");
        }
        if let Some(to_ms) = to_ms {
            let new = self.entries.insert(entry(to_ms, key));
            assert!(new, "a key with an expiry of {to_ms} ms is in the index once");
        }
    }

    /// The earliest expiry.
    pub(crate) fn first_ms(&self) -> Option<u64> {
        self.entries.first().map(|entry| expiry_of(entry))
    }

    /// The key that expires first, if it is expired at this time. It stays in the index.
    pub(crate) fn first_due(&self, time_ms: u64) -> Option<Box<[u8]>> {
        let entry = self.entries.first().filter(|entry| expiry_of(entry) <= time_ms)?;
        Some(entry[EXPIRY_BYTES..].into())
    }

    /// How many keys are expired at this time and still in memory. Takes time in their number.
    pub(crate) fn count_due(&self, time_ms: u64) -> usize {
        if self.first_ms().is_none_or(|first_ms| first_ms > time_ms) {
            return 0;
        }
        let Some(after_ms) = time_ms.checked_add(1) else { return self.entries.len() };
        let after = Bound::Excluded(&after_ms.to_be_bytes()[..]);
        self.entries.range::<[u8], _>((Bound::Unbounded, after)).count()
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

fn entry(expiry_ms: u64, key: &[u8]) -> Box<[u8]> {
    let mut entry = Vec::with_capacity(EXPIRY_BYTES + key.len());
    entry.extend_from_slice(&expiry_ms.to_be_bytes());
    entry.extend_from_slice(key);
    entry.into_boxed_slice()
}

fn expiry_of(entry: &[u8]) -> u64 {
    let (expiry, _) = entry.split_first_chunk().expect("an entry starts with its expiry");
    u64::from_be_bytes(*expiry)
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
