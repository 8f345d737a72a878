//! The log in memory: entries after a trimmed point, with the lookups that replication needs
//! (paper 5.3, section 7).
//!
//! Not here: what is committed, applied or durable; the caller decides what may be cut. The point
//! before the first entry is first class: its term is known, so the log can be matched at it. A
//! term that is not known is `None`, never 0.

use sampan_base::{Entry, LogIndex, LogPosition, Term};

use crate::entries::Entries;

/// Contiguous entries; terms never decrease.
#[derive(Debug)]
pub(crate) struct Log {
    /// The position before the first entry.
    start: LogPosition,
    entries: Entries,
}

impl Log {
    /// A log of no entries that goes on after `start`.
    pub(crate) fn starting_after(start: LogPosition) -> Self {
        Self { start, entries: Entries::default() }
    }

    /// The position before the first entry.
    pub(crate) fn start(&self) -> LogPosition {
        self.start
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.start.index.next()
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.start.index.plus(self.entries.len() as u64)
    }

    /// The last entry's position, or the point the log starts after.
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.start, Entry::position)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    /// The term of an entry, or of the point the log starts after; `None` before and behind.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            Some(self.start.term)
        } else {
            self.get(index).map(|e| e.term)
        }
    }

    /// Is this entry in the log, or the point it starts after?
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(self.offset(index)?)
    }

    /// The entries `from..to`. Panics if they are not all here.
    pub(crate) fn range(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = &Entry> {
        assert!(
            self.start.index < from && from <= to && to <= self.last_index().next(),
            "entries {from}..{to} are not within {}..={}",
            self.first_index(),
            self.last_index()
        );
        let first = (from.0 - self.start.index.0 - 1) as usize;
        self.entries.range(first..first + (to.0 - from.0) as usize)
    }

    /// The sizes of the entries from `from` on, added up.
    pub(crate) fn bytes_from(&self, from: LogIndex) -> usize {
        self.offset(from).map_or(self.entries.bytes(), |place| {
            self.entries.bytes_from(place.min(self.entries.len()))
        })
    }

    /// How many of the entries from `from` through `through` fit, but at least one, and their
    /// bytes.
    pub(crate) fn fit(
        &self,
        from: LogIndex,
        through: LogIndex,
        count_max: usize,
        bytes_max: usize,
    ) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        for entry in self.range(from, through.next()).take(count_max) {
            let more = bytes + entry.size_bytes();
            if count > 0 && more > bytes_max {
                break;
            }
            bytes = more;
            count += 1;
        }
        (count, bytes)
    }

    /// Copies of the entries `from..to`. Their data is shared, not copied. Panics if they are not
    /// all here.
    pub(crate) fn copy(&self, from: LogIndex, to: LogIndex) -> Vec<Entry> {
        self.range(from, to).cloned().collect()
    }

    /// Appends one entry, which must follow.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index == last.index.next() && entry.term >= last.term,
            "{}@{} does not follow {}@{}",
            entry.index,
            entry.term,
            last.index,
            last.term
        );
        self.entries.push(entry);
    }

    /// Removes the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(
            from > self.start.index,
            "cannot cut at {from}: the log starts after {:?}",
            self.start
        );
        while self.last_index() >= from {
            self.entries.pop_last();
        }
    }

    /// Removes the entries through `through`, which then is the point the log starts after.
    pub(crate) fn trim(&mut self, through: LogIndex) {
        if through <= self.start.index {
            return;
        }
        let term = self.term_at(through).expect("the trimmed point is in the log");
        self.entries.drop_first((through.0 - self.start.index.0) as usize);
        self.start = LogPosition { term, index: through };
    }

    /// Removes all entries; the log goes on after `start`.
    pub(crate) fn restart_after(&mut self, start: LogPosition) {
        self.entries.drop_first(self.entries.len());
        self.start = start;
    }

    /// Frees a little of what was trimmed. Is there more?
    pub(crate) fn free_trimmed(&mut self) -> bool {
        self.entries.free_dropped()
    }

    /// The last position with index ≤ `limit.index` and term ≤ `limit.term`: the furthest place
    /// where a log that has `limit` may agree with this one (paper 5.3, end). The point the log
    /// starts after if no entry qualifies.
    pub(crate) fn last_within(&self, limit: LogPosition) -> LogPosition {
        let by_term = self.entries.partition_point(|entry| entry.term <= limit.term);
        let by_index = limit.index.0.saturating_sub(self.start.index.0) as usize;
        match by_term.min(by_index).min(self.entries.len()).checked_sub(1) {
            Some(at) => self.entries.get(at).expect("it is within").position(),
            None => self.start,
        }
    }

    fn offset(&self, index: LogIndex) -> Option<usize> {
        index.0.checked_sub(self.start.index.0 + 1).map(|offset| offset as usize)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sampan_base::EntryKind;

    use super::*;

    fn log(start: (u64, u64), terms: &[u64]) -> Log {
        let mut log =
            Log::starting_after(LogPosition { index: LogIndex(start.0), term: Term(start.1) });
        for &term in terms {
            let index = log.last_index().next();
            log.append(Entry {
                term: Term(term),
                index,
                kind: EntryKind::Command,
                data: Bytes::new(),
            });
        }
        log
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    #[test]
    fn a_term_that_is_not_known_is_none() {
        let log = log((3, 2), &[2, 5]);
        let terms: Vec<_> = (2..7).map(|i| log.term_at(LogIndex(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(5), None]);
    }

    #[test]
    fn last_within_is_bounded_by_index_and_term() {
        let log = log((3, 2), &[2, 2, 5, 5, 7]);
        assert_eq!(log.last_within(at(100, 100)), at(8, 7));
        assert_eq!(log.last_within(at(7, 100)), at(7, 5));
        assert_eq!(log.last_within(at(100, 6)), at(7, 5));
        assert_eq!(log.last_within(at(100, 4)), at(5, 2));
        assert_eq!(log.last_within(at(4, 5)), at(4, 2));
        assert_eq!(log.last_within(at(1, 1)), at(3, 2));
    }

    #[test]
    fn trim_and_truncate_keep_the_bytes_right() {
        let mut log = log((0, 0), &[1, 1, 2, 3]);
        let one = log.bytes() / 4;
        log.trim(LogIndex(2));
        assert_eq!((log.start(), log.bytes()), (at(2, 1), 2 * one));
        log.truncate(LogIndex(4));
        assert_eq!((log.last(), log.bytes()), (at(3, 2), one));
        log.truncate(LogIndex(3));
        assert_eq!((log.last(), log.bytes()), (at(2, 1), 0));
    }

    #[test]
    fn at_least_one_entry_fits() {
        let log = log((0, 0), &[1, 1, 1]);
        let one = Entry::OVERHEAD_BYTES;
        assert_eq!(log.fit(LogIndex(1), LogIndex(3), 9, 1), (1, one));
        assert_eq!(log.fit(LogIndex(1), LogIndex(3), 9, 2 * one), (2, 2 * one));
        assert_eq!(log.fit(LogIndex(1), LogIndex(3), 1, 9 * one), (1, one));
        assert_eq!(log.fit(LogIndex(2), LogIndex(3), 9, 9 * one), (2, 2 * one));
        assert_eq!(log.copy(LogIndex(2), LogIndex(4)).iter().map(|e| e.index.0).sum::<u64>(), 5);
    }
}
