//! A queue of entries in fixed blocks that never move: appending takes constant time at any length,
//! and dropping all of them only sets blocks aside.
//!
//! A vector that doubles moves a hundred thousand entries while every writer waits, and frees as
//! many payloads when a snapshot has made them superfluous; so blocks that are dropped are kept
//! aside and freed little by little ([`Entries::free_dropped`]).
//!
//! What it is not: a log. It knows places, and neither indices nor terms.

use std::collections::VecDeque;
use std::ops::Range;

use sampan_base::Entry;

/// Entries in one block: some 28 KiB beside what they hold.
const BLOCK: usize = 512;

/// Dropped entries that are freed at a time, at least; if there are many, a thousandth of them.
const FREED_MIN: usize = 64;

/// A queue of entries. Invariant: each block but the first and the last has [`BLOCK`] entries; the
/// first has fewer once it was cut, and none is empty.
#[derive(Default, Debug)]
pub(crate) struct Entries {
    blocks: VecDeque<Block>,
    len: usize,
    bytes: usize,
    /// Blocks that were dropped and are not freed yet.
    dropped: Vec<Block>,
    /// Entries that came since some were freed.
    pushed: usize,
}

#[derive(Default, Debug)]
struct Block {
    entries: VecDeque<Entry>,
    /// Their sizes, added up.
    bytes: usize,
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The sizes of all of them, added up.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn last(&self) -> Option<&Entry> {
        self.blocks.back()?.entries.back()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Entry> {
        let (block, before) = self.block_of(place);
        self.blocks.get(block)?.entries.get(place - before)
    }

    /// The entries at these places. Panics if they are not all there.
    pub(crate) fn range(&self, places: Range<usize>) -> impl Iterator<Item = &Entry> {
        assert!(places.start <= places.end && places.end <= self.len, "{places:?} of {}", self.len);
        places.map(|place| self.get(place).expect("it is within"))
    }

    /// The sizes of the entries from this place on, added up. Panics if it is behind the end.
    pub(crate) fn bytes_from(&self, place: usize) -> usize {
        assert!(place <= self.len, "{place} of {}", self.len);
        let (block, before) = self.block_of(place);
        let mut blocks = self.blocks.range(block..);
        let Some(first) = blocks.next() else { return 0 };
        let cut = first.entries.range(place - before..).map(Entry::size_bytes).sum::<usize>();
        cut + blocks.map(|block| block.bytes).sum::<usize>()
    }

    /// The block that holds this place, or would, and how many entries are before it.
    fn block_of(&self, place: usize) -> (usize, usize) {
        let first = self.blocks.front().map_or(0, |first| first.entries.len());
        match place.checked_sub(first) {
            None => (0, 0),
            Some(after) if 1 + after / BLOCK < self.blocks.len() => {
                (1 + after / BLOCK, first + after / BLOCK * BLOCK)
            }
            Some(_) => (self.blocks.len(), place),
        }
    }

    /// How many entries at the beginning are so, where none is so after one that is not.
    pub(crate) fn partition_point(&self, is_so: impl Fn(&Entry) -> bool) -> usize {
        let (mut least, mut most) = (0, self.len);
        while least < most {
            let middle = least.midpoint(most);
            if is_so(self.get(middle).expect("it is within")) {
                least = middle + 1;
            } else {
                most = middle;
            }
        }
        least
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if self.blocks.back().is_none_or(|last| last.entries.len() == BLOCK) {
            // Where there are entries there will be more; one alone needs no room for them.
            let capacity = if self.len == 0 { 0 } else { BLOCK };
            let entries = VecDeque::with_capacity(capacity);
            self.blocks.push_back(Block { entries, bytes: 0 });
        }
        let last = self.blocks.back_mut().expect("just seen");
        let bytes = entry.size_bytes();
        last.entries.push_back(entry);
        last.bytes += bytes;
        self.len += 1;
        self.bytes += bytes;
        self.pushed += 1;
    }

    pub(crate) fn pop_last(&mut self) -> Option<Entry> {
        let last = self.blocks.back_mut()?;
        let entry = last.entries.pop_back()?;
        last.bytes -= entry.size_bytes();
        self.len -= 1;
        self.bytes -= entry.size_bytes();
        if last.entries.is_empty() {
            self.blocks.pop_back();
        }
        Some(entry)
    }

    /// Removes so many from the beginning, or all. Whole blocks are only set aside.
    pub(crate) fn drop_first(&mut self, count: usize) {
        let mut left = count;
        while let Some(first) = self.blocks.front_mut() {
            if first.entries.len() <= left {
                left -= first.entries.len();
                self.len -= first.entries.len();
                self.bytes -= first.bytes;
                self.dropped.extend(self.blocks.pop_front());
                continue;
            }
            let bytes: usize = first.entries.drain(..left).map(|entry| entry.size_bytes()).sum();
            first.bytes -= bytes;
            self.len -= left;
            self.bytes -= bytes;
            return;
        }
    }

    /// Frees some of those that were dropped: few, for the allocator then gives their memory back,
    /// page by page; but more than came meanwhile. Are there more?
    pub(crate) fn free_dropped(&mut self) -> bool {
        let share = FREED_MIN.max(self.dropped.len() * BLOCK / 1024);
        let mut count = share + std::mem::take(&mut self.pushed);
        while count > 0
            && let Some(block) = self.dropped.last_mut()
        {
            let freed = count.min(block.entries.len());
            block.entries.truncate(block.entries.len() - freed);
            count -= freed;
            if block.entries.is_empty() {
                self.dropped.pop();
            }
        }
        !self.dropped.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sampan_base::{EntryKind, LogIndex, Rng, Term};

    use super::*;

    fn entry(index: u64) -> Entry {
        let (term, kind) = (Term(index / 100), EntryKind::Command);
        Entry { term, index: LogIndex(index), kind, data: vec![0; index as usize % 7].into() }
    }

    /// It is the same as a plain queue, whatever is done to it.
    #[test]
    fn it_is_a_queue() {
        let mut rng = Rng::seeded(7);
        let (mut entries, mut plain) = (Entries::default(), VecDeque::new());
        let mut next = 0;
        for _ in 0..300 {
            let count = rng.below(3 * BLOCK as u64);
            match rng.below(4) {
                0 | 1 => (0..count).for_each(|_| {
                    entries.push(entry(next));
                    plain.push_back(entry(next));
                    next += 1;
                }),
                2 => {
                    entries.drop_first(count as usize);
                    plain.drain(..plain.len().min(count as usize));
                }
                _ => (0..count / 4).for_each(|_| {
                    assert_eq!(entries.pop_last(), plain.pop_back());
                }),
            }
            assert_eq!((entries.len(), entries.last()), (plain.len(), plain.back()));
            let from = rng.below(1 + plain.len() as u64) as usize;
            let to = from + rng.below(1 + (plain.len() - from) as u64) as usize;
            let there = entries.range(from..to).eq(plain.range(from..to));
            assert!(there, "{from}..{to} of {} entries", plain.len());
            let bytes = plain.range(from..).map(Entry::size_bytes).sum::<usize>();
            assert_eq!(entries.bytes_from(from), bytes);
            assert!(plain.iter().enumerate().all(|(at, entry)| entries.get(at) == Some(entry)));
            assert_eq!(entries.get(plain.len()), None);
            assert_eq!(entries.bytes(), plain.iter().map(Entry::size_bytes).sum::<usize>());
            let term = Term(rng.below(1 + next / 100));
            let within = plain.partition_point(|entry| entry.term <= term);
            assert_eq!(entries.partition_point(|entry| entry.term <= term), within);
            let whole = entries.blocks.iter().skip(1).take(entries.blocks.len().saturating_sub(2));
            assert!(whole.into_iter().all(|block| block.entries.len() == BLOCK));
            assert!(entries.blocks.iter().all(|block| !block.entries.is_empty()));
        }
        assert!(next > 100_000, "{next} entries went through");
    }

    #[test]
    fn what_is_dropped_is_freed_little_by_little() {
        let payload = Bytes::from(vec![1; 64]);
        let mut entries = Entries::default();
        let kind = EntryKind::Command;
        for index in 0..4 * BLOCK as u64 + 10 {
            let data = payload.clone();
            entries.push(Entry { term: Term(1), index: LogIndex(index), kind, data });
        }
        entries.drop_first(4 * BLOCK + 5);
        entries.pushed = 0;
        assert_eq!((entries.len(), entries.get(0).unwrap().index.0), (5, 4 * BLOCK as u64 + 5));
        let steps = (0..100).take_while(|_| entries.free_dropped()).count();
        assert_eq!(steps, 4 * BLOCK / FREED_MIN - 1);
        entries.drop_first(5);
        entries.pushed = 9 * BLOCK;
        assert!(!entries.free_dropped(), "as many as came");
        drop(entries);
        assert!(payload.is_unique(), "nothing keeps an entry");
    }
}
