//! Every entry that any node ever held, and what is known to be committed. The other checkers ask
//! here; the two properties about entries themselves are [`super::log_matching`] and
//! [`super::committed_immutable`].

use sampan_base::codec::crc32;
use sampan_base::{Entry, LogIndex, LogPosition, Term};

/// What distinguishes two entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its term.
    pub term: Term,
    /// The term of the entry before it.
    pub previous: Term,
    /// A checksum of its kind and payload.
    pub content: u32,
}

impl Known {
    /// What an entry is known by.
    pub fn of(entry: &Entry, previous: Term) -> Self {
        let content = crc32(&[&[entry.kind as u8], &entry.data]);
        Self { term: entry.term, previous, content }
    }
}

/// An entry that was committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its term.
    pub term: Term,
    /// The term of the node that was first seen to know.
    pub in_term: Term,
}

/// All entries, by index.
#[derive(Default, Debug)]
pub struct Registry {
    known: Vec<Vec<Known>>,
    /// From index 1 on, without gaps.
    committed: Vec<Committed>,
}

impl Registry {
    /// The entry of an index and term, if any node ever held it.
    pub fn find(&self, position: LogPosition) -> Option<&Known> {
        let at_index = self.known.get(position.index.0 as usize)?;
        at_index.iter().find(|known| known.term == position.term)
    }

    /// Remembers an entry.
    pub fn insert(&mut self, index: LogIndex, known: Known) {
        let place = index.0 as usize;
        if self.known.len() <= place {
            self.known.resize_with(place + 1, Vec::new);
        }
        self.known[place].push(known);
    }

    /// The last index known to be committed.
    pub fn commit(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// What was committed at an index.
    pub fn committed(&self, index: LogIndex) -> Option<&Committed> {
        self.committed.get((index.0 as usize).checked_sub(1)?)
    }

    /// Remembers the next committed entry.
    pub fn push_committed(&mut self, committed: Committed) {
        self.committed.push(committed);
    }

    /// The last index that was known to be committed in a term before `term`.
    pub fn committed_before(&self, term: Term) -> LogIndex {
        LogIndex(self.committed.partition_point(|committed| committed.in_term < term) as u64)
    }
}
