//! The shape of a log: which term each index has, as runs of equal terms. By the Log Matching
//! property (paper 5.3) an (index, term) names one entry and all before it, so two logs agree
//! exactly as far as their shapes do.

use sampan_base::{LogIndex, LogPosition, Term};

/// A log without its entries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogShape {
    /// The first index of each run and its term, ascending. The first run begins at the point the
    /// log starts after.
    runs: Vec<(LogIndex, Term)>,
    last: LogIndex,
}

impl LogShape {
    /// A log that holds nothing after `start`.
    pub fn starting_after(start: LogPosition) -> Self {
        Self { runs: vec![(start.index, start.term)], last: start.index }
    }

    /// The point the log starts after.
    pub fn start(&self) -> LogIndex {
        self.runs.first().map_or(LogIndex::ZERO, |run| run.0)
    }

    /// Its last index.
    pub fn last(&self) -> LogIndex {
        self.last
    }

    /// The term of an index, if it is from the start to the last.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.0 <= index);
        after.checked_sub(1).map(|place| self.runs[place].1)
    }

    /// Does the log hold this entry, or start after it?
    pub fn holds(&self, position: LogPosition) -> bool {
        position.index <= self.start() || self.term_at(position.index) == Some(position.term)
    }

    /// Drops everything after `index`.
    pub fn truncate(&mut self, index: LogIndex) {
        self.last = self.last.min(index);
        while self.runs.len() > 1 && self.runs.last().is_some_and(|run| run.0 > index) {
            self.runs.pop();
        }
    }

    /// Adds the next entry.
    pub fn push(&mut self, position: LogPosition) {
        assert_eq!(position.index, self.last.next(), "a log has no gaps");
        if self.runs.last().is_none_or(|run| run.1 != position.term) {
            self.runs.push((position.index, position.term));
        }
        self.last = position.index;
    }

    /// Drops everything up to and including `index`, which becomes the point the log starts after.
    pub fn trim(&mut self, index: LogIndex) {
        let Some(term) = self.term_at(index).filter(|_| index > self.start()) else { return };
        let after = self.runs.partition_point(|run| run.0 <= index);
        self.runs.drain(..after - 1);
        self.runs[0] = (index, term);
    }

    /// The last index through which this log and another one agree.
    pub fn agrees_through(&self, other: &Self) -> LogIndex {
        let mut index = self.last.min(other.last);
        let start = self.start().max(other.start());
        while index > start && self.term_at(index) != other.term_at(index) {
            index = index.prev();
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    fn shape(start: u64, terms: &[u64]) -> LogShape {
        let mut shape = LogShape::starting_after(at(start, 1));
        for (place, term) in terms.iter().enumerate() {
            shape.push(at(start + 1 + place as u64, *term));
        }
        shape
    }

    #[test]
    fn it_knows_the_terms_that_a_log_would() {
        let mut log = shape(0, &[1, 1, 2, 2, 5]);
        let terms: Vec<_> = (0..7).map(|i| log.term_at(LogIndex(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [Some(1), Some(1), Some(1), Some(2), Some(2), Some(5), None]);
        log.truncate(LogIndex(3));
        assert_eq!((log.last(), log.term_at(LogIndex(4))), (LogIndex(3), None));
        log.push(at(4, 9));
        log.trim(LogIndex(3));
        assert_eq!((log.start(), log.term_at(LogIndex(3))), (LogIndex(3), Some(Term(2))));
        assert_eq!(log.term_at(LogIndex(2)), None);
        assert!(log.holds(at(4, 9)) && !log.holds(at(4, 2)) && log.holds(at(1, 77)));
    }

    #[test]
    fn two_logs_agree_through_their_last_common_term() {
        let (a, b) = (shape(0, &[1, 1, 2, 2, 2]), shape(0, &[1, 1, 2, 3]));
        assert_eq!(a.agrees_through(&b), LogIndex(3));
        assert_eq!(a.agrees_through(&shape(2, &[2])), LogIndex(3));
        assert_eq!(a.agrees_through(&shape(0, &[])), LogIndex(0));
    }
}
