//! The rule that nothing is said to be durable before it is (rule R1; paper 5.6, thesis 3.8),
//! made a type.
//!
//! Everything unstable is handed to the host as one numbered batch, a [`Persist`], with a
//! [`PersistToken`]. A sync that completed turns the token into a [`Persisted`], which extends the
//! node's [`Durable`] proof. Votes and acknowledgements exist only as [`AfterPersist`], which only
//! a `Durable` that reaches far enough opens.
//!
//! A batch number is used once, so the completion of one batch can never be taken for that of
//! another one that wrote an equal (term, index) again (the "ABA" race). What a batch proves about
//! the log shrinks when the log is truncated while the batch is on its way to the disk.

use std::collections::VecDeque;

use sampan_base::{Entry, HardState, LogIndex, LogPosition, planted};

use crate::{Body, Message};

/// Messages that wait for a disk, at most: some for each peer.
const WAITING_MAX: usize = 1_024;

/// Write this, sync it, then give the token back. Hard state before entries; batches in the order
/// in which they were taken.
#[must_use = "what is not persisted is never acknowledged"]
#[derive(Debug)]
pub struct Persist {
    /// The term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// The log was replaced by a snapshot: drop all stored entries; the log now starts after this.
    pub log_reset: Option<LogPosition>,
    /// To append. Where the first index is not after the stored last one, the stored log is cut
    /// there first.
    pub entries: Vec<Entry>,
    /// What the completed sync turns into a [`Persisted`].
    pub token: PersistToken,
}

/// The promise to sync one batch.
#[must_use = "a token that is not given back holds back votes and acknowledgements"]
#[derive(PartialEq, Eq, Debug)]
pub struct PersistToken {
    sequence: u64,
}

impl PersistToken {
    /// The batch and all batches before it are durable. Only the code that saw the sync complete
    /// without an error may call this; after an error the process must stop (rule R10).
    pub fn synced(self) -> Persisted {
        Persisted { sequence: self.sequence }
    }

    /// The batch's number: 1, 2, 3…
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// A batch, and all before it, are durable.
#[must_use = "give it to Raft::persisted"]
#[derive(PartialEq, Eq, Debug)]
pub struct Persisted {
    sequence: u64,
}

impl Persisted {
    /// The number of the batch.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The proof that all batches through some number are durable, and the log, as it is now, through
/// some index. Grows only by a [`Persisted`].
#[derive(PartialEq, Eq, Debug)]
pub struct Durable {
    sequence: u64,
    index: LogIndex,
}

/// Something that may be known to others only after a batch, and the log through an index, are
/// durable.
///
/// There is no way to its content but [`AfterPersist::open`]: an acknowledgement before the sync
/// does not compile.
///
/// ```compile_fail
/// use sampan_raft::{AfterPersist, Message};
/// fn acknowledge_early(reply: AfterPersist<Message>) -> Message {
///     reply.value // private
/// }
/// ```
#[derive(PartialEq, Eq, Debug)]
pub struct AfterPersist<T> {
    value: T,
    sequence: u64,
    index: LogIndex,
}

impl<T> AfterPersist<T> {
    /// The content, if `durable` reaches the batch and the index it waits for; else itself again.
    pub fn open(self, durable: &Durable) -> Result<T, Self> {
        let reached = self.sequence <= durable.sequence && self.index <= durable.index;
        if reached { Ok(self.value) } else { Err(self) }
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Batch {
    sequence: u64,
    /// When it is durable, the log as it is now is durable through here.
    proves: LogIndex,
}

/// What is unstable, what is on its way, what waits.
#[derive(Debug)]
pub(crate) struct Persistence {
    durable: Durable,
    /// The number of the last batch handed out.
    taken: u64,
    on_the_way: VecDeque<Batch>,
    /// The first entry not yet in any batch.
    unstable_from: LogIndex,
    hard_state_dirty: bool,
    /// The batch that carries the latest hard state.
    hard_state_in: u64,
    log_reset: Option<LogPosition>,
    waiting: VecDeque<AfterPersist<Message>>,
}

impl Persistence {
    /// Everything through `last` was read from the disk.
    pub(crate) fn new(last: LogIndex) -> Self {
        Self {
            durable: Durable { sequence: 0, index: last },
            taken: 0,
            on_the_way: VecDeque::new(),
            unstable_from: last.next(),
            hard_state_dirty: false,
            hard_state_in: 0,
            log_reset: None,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn durable_index(&self) -> LogIndex {
        self.durable.index
    }

    pub(crate) fn unstable_from(&self) -> LogIndex {
        self.unstable_from
    }

    pub(crate) fn hard_state_changed(&mut self) {
        self.hard_state_dirty = true;
    }

    /// The log lost its entries from `from` on: no batch taken so far proves anything about what
    /// comes in their place.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        let kept = from.prev();
        for batch in &mut self.on_the_way {
            if !planted!(CutEntryProven) {
                batch.proves = batch.proves.min(kept);
            }
        }
        if !planted!(CutStaysDurable) {
            self.durable.index = self.durable.index.min(kept);
        }
        self.unstable_from = self.unstable_from.min(from);
    }

    /// The log now starts after `start`, a durable snapshot's position, and is to be written anew
    /// from there. `kept` is what stays proven until that is durable.
    pub(crate) fn reset(&mut self, start: LogPosition, kept: LogIndex) {
        self.truncated(kept.next());
        self.log_reset = Some(start);
        self.unstable_from = start.index.next();
    }

    /// Is there anything to persist: of the hard state or, if given, of the log through `last`?
    pub(crate) fn is_dirty(&self, last: Option<LogIndex>) -> bool {
        let log = last.is_some_and(|last| self.log_reset.is_some() || self.unstable_from <= last);
        self.hard_state_dirty || log
    }

    /// Makes the hard state, if it is unstable, and the unstable log through `last` a batch;
    /// without it nothing of the log, not even that it starts anew. The caller adds hard state (if
    /// the flag is set) and the entries from the index on.
    pub(crate) fn take(
        &mut self,
        last: Option<LogIndex>,
    ) -> (bool, Option<LogPosition>, LogIndex, PersistToken) {
        self.taken += 1;
        let hard_state = std::mem::take(&mut self.hard_state_dirty);
        if hard_state {
            self.hard_state_in = self.taken;
        }
        let from = self.unstable_from;
        let log_reset = last.and_then(|_| self.log_reset.take());
        // A batch without the log proves no more of it than the one before.
        let before = self.on_the_way.back().map_or(self.durable.index, |batch| batch.proves);
        self.on_the_way.push_back(Batch { sequence: self.taken, proves: last.unwrap_or(before) });
        self.unstable_from = last.map_or(from, LogIndex::next);
        (hard_state, log_reset, from, PersistToken { sequence: self.taken })
    }

    /// A sync completed. Calls `release` with each message that it opens, oldest first.
    pub(crate) fn complete(&mut self, done: &Persisted, mut release: impl FnMut(Message)) {
        let (sequence, taken) = (done.sequence, self.taken);
        assert!(sequence <= taken, "batch {sequence} cannot be durable: only {taken} were taken");
        self.durable.sequence = self.durable.sequence.max(sequence);
        while let Some(batch) = self.on_the_way.front()
            && batch.sequence <= sequence
        {
            self.durable.index = self.durable.index.max(batch.proves);
            self.on_the_way.pop_front();
        }
        for _ in 0..self.waiting.len() {
            let Some(held) = self.waiting.pop_front() else { break };
            match held.open(&self.durable) {
                Ok(message) => release(message),
                Err(held) => self.waiting.push_back(held),
            }
        }
    }

    /// Ties a message to what it reveals: always the hard state (its term), and the log through
    /// `index` where given.
    pub(crate) fn after(&self, message: Message, index: Option<LogIndex>) -> AfterPersist<Message> {
        let (to_another, body) = (message.to != message.from, &message.body);
        if planted!(VoteBeforeSync) && to_another && matches!(body, Body::VoteReply { .. })
            || planted!(AckBeforeSync) && matches!(body, Body::AppendReply { .. })
        {
            return AfterPersist { value: message, sequence: 0, index: LogIndex::ZERO };
        }
        let hard_state = if self.hard_state_dirty { self.taken + 1 } else { self.hard_state_in };
        let entries = index.map_or(0, |index| self.batch_of(index));
        let index = index.unwrap_or(LogIndex::ZERO);
        AfterPersist { value: message, sequence: hard_state.max(entries), index }
    }

    /// The batch whose completion makes the log durable through `index`, as far as is known: the
    /// next one may hold less of the log than that.
    fn batch_of(&self, index: LogIndex) -> u64 {
        if index <= self.durable.index {
            return 0;
        }
        let on_the_way = self.on_the_way.iter().find(|batch| batch.proves >= index);
        on_the_way.map_or(self.taken + 1, |batch| batch.sequence)
    }

    /// The message if it may leave now; else it waits for its batch.
    pub(crate) fn open_or_hold(&mut self, message: AfterPersist<Message>) -> Option<Message> {
        match message.open(&self.durable) {
            Ok(message) => Some(message),
            Err(held) => {
                self.hold(held);
                None
            }
        }
    }

    /// A leader's message, which waits for nothing: its term was durable before it was elected.
    pub(crate) fn open_leaders(&self, message: AfterPersist<Message>) -> Message {
        let batch = message.sequence;
        message.open(&self.durable).unwrap_or_else(|_| panic!("a leader's term waits for {batch}"))
    }

    /// Queues a held message, merging an answer to the leader into an older one that waits for the
    /// same batch: else one would gather for each heartbeat while a disk hangs. Of the others one
    /// too many is lost, as on the network, and asked for again.
    fn hold(&mut self, held: AfterPersist<Message>) {
        for other in self.waiting.iter_mut().rev() {
            if other.sequence == held.sequence && other.value.absorb(&held.value) {
                other.index = other.index.max(held.index);
                return;
            }
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(held);
        }
    }

    /// A new term began: what was to be said in an older one is no longer worth saying.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use sampan_base::{NodeId, Term};

    use super::*;

    #[test]
    fn what_waits_for_a_disk_that_hangs_has_a_limit() {
        let mut persistence = Persistence::new(LogIndex::ZERO);
        persistence.hard_state_changed();
        for sequence in 1..=2_000 {
            let body = Body::ReadIndex { nonce: 7, sequence };
            let (from, to) = (NodeId::of(1), NodeId::of(2));
            let held = persistence.after(Message { from, to, term: Term(1), body }, None);
            assert_eq!(persistence.open_or_hold(held), None);
        }
        let (.., token) = persistence.take(None);
        let (mut left, done) = (0, token.synced());
        persistence.complete(&done, |_| left += 1);
        assert_eq!(left, WAITING_MAX);
    }
}
