//! Order on a connection: what has arrived, what waits, what is under way.
//!
//! Redis clients expect the commands of one connection to take effect in the order sent. A
//! [`Line`] is one connection's queue, whether it ends at this node or at a follower that forwards
//! to us. It holds facts; `requests.rs` decides what may start.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sampan_base::{LogIndex, NodeId, Term, Time, planted};
use sampan_kv::Class;
use slab::Slab;

use crate::input::ConnectionId;

/// A line in which nothing waits keeps memory for this many requests.
const WAITING_KEPT: usize = 64;

/// Where a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Home {
    /// At this node.
    Here,
    /// At another node, in one of its lives.
    Peer { node: NodeId, incarnation: u64 },
}

/// A connection, anywhere in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Origin {
    pub(crate) home: Home,
    pub(crate) connection: ConnectionId,
}

/// Whom to answer: a request of a connection. For a line that ends at a peer, `seq` is the peer's
/// number of the attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket {
    pub(crate) origin: Origin,
    pub(crate) seq: u64,
}

/// A request that is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// An earlier attempt may be in a log. Only what is harmless to repeat waits again after that;
    /// it may end in its real reply or as unknown, never as certainly not applied.
    pub(crate) maybe_appended: bool,
    pub(crate) seq: u64,
    pub(crate) class: Class,
    pub(crate) stale: bool,
    pub(crate) command: Bytes,
    pub(crate) since: Time,
}

/// One connection's requests.
#[derive(Default, Debug)]
pub(crate) struct Line {
    /// Not started, in order of `seq`.
    pub(crate) waiting: VecDeque<Waiting>,
    /// The bytes of their commands.
    waiting_bytes: usize,
    /// Bytes of values that replies to `writes` will hold, as far as is known.
    pub(crate) value_bytes: usize,
    /// Reads under way by a read index of this node.
    pub(crate) reads: usize,
    /// All of these are local ones, which ask for no index and are served in their order.
    pub(crate) reads_are_local: bool,
    /// The highest read index that one of them was parked for.
    pub(crate) parked_at: LogIndex,
    /// Commands in this node's open batch or its proposals, reads that ride on them included.
    pub(crate) writes: usize,
    /// The term in which the last of them began. What a leader of a later term has not heard of
    /// again may have to be written anew, and before what follows it.
    pub(crate) write_term: Term,
    /// Commands forwarded to the leader, all in one frame: a lost frame must not let the commands
    /// behind it overtake those in it.
    pub(crate) forwards: usize,
    /// That frame.
    pub(crate) forward_frame: u64,
    /// The last command that a leader's answer to a forward has come for.
    pub(crate) forward_answered: u64,
    /// The open batch that holds the last of `writes`, if it is still open (see `writes.rs`).
    pub(crate) last_batch: u64,
    /// No read of this line may be served before this index is applied: its own writes.
    pub(crate) floor: LogIndex,
    /// What the client was told is in force at this index: a local read may not go back behind it.
    pub(crate) seen: LogIndex,
    /// It is among those that wait until more long values may be copied.
    pub(crate) waits_to_copy: bool,
    /// The client is gone; answers are dropped.
    pub(crate) closed: bool,
}

impl Line {
    /// Another command goes into this open batch, in this term.
    pub(crate) fn write_begins(&mut self, batch: u64, term: Term) {
        self.writes += 1;
        self.last_batch = batch;
        self.write_term = term;
    }

    /// One of `writes` has ended. What was acknowledged is covered by every later read index, so a
    /// floor is needed only while a write is under way.
    pub(crate) fn write_ended(&mut self) {
        self.writes -= 1;
        if self.writes == 0 {
            self.floor = LogIndex::ZERO;
            self.value_bytes = 0;
        }
    }

    /// May the next read be a local one? What its client was told is here soon, and sooner if the
    /// leader is asked for a read index.
    pub(crate) fn may_read_locally(&self, applied: LogIndex) -> bool {
        let is_here = self.seen <= applied || planted!(StaleBeforeOwnWrite);
        is_here && self.writes == 0 && self.forwards == 0
    }

    /// Was something answered that came after this request and was forwarded with it? Repeated, a
    /// read would see more than that did, and a session command that was refused, which nobody here
    /// knows, would take effect behind it.
    pub(crate) fn is_overtaken(&self, seq: u64) -> bool {
        self.forward_answered > seq && !planted!(ForwardedReadOvertaken)
    }

    /// Does a read of it ask the leader, which may show more than the state here has now?
    pub(crate) fn asks_the_leader(&self) -> bool {
        self.reads > 0 && !self.reads_are_local && !planted!(StaleReadOvertakes)
    }

    /// Is nothing of it waiting or under way?
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.reads == 0 && self.writes == 0 && self.forwards == 0
    }
}

/// All lines, and how many requests wait in them.
#[derive(Default, Debug)]
pub(crate) struct Lines {
    slots: Slab<Line>,
    by_origin: BTreeMap<Origin, usize>,
    /// The line that was looked up last, and where it is: a request on its way asks for its own
    /// some ten times in a row.
    last_place: Cell<Option<(Origin, usize)>>,
    /// What any client of this node was told is in force at this index. The state here may not be
    /// there.
    pub(crate) told: LogIndex,
    waiting: usize,
    waiting_bytes: usize,
    /// The line that a request came to last, and how many came to it since one came to another.
    latest: Option<Origin>,
    latest_in_a_row: u32,
}

impl Lines {
    /// The line of a connection; made if there is none.
    pub(crate) fn line(&mut self, origin: Origin) -> &mut Line {
        let place = self.place(origin).unwrap_or_else(|| {
            let place = self.slots.insert(Line::default());
            self.by_origin.insert(origin, place);
            place
        });
        &mut self.slots[place]
    }

    fn place(&self, origin: Origin) -> Option<usize> {
        if let Some((last, place)) = self.last_place.get()
            && last == origin
        {
            return Some(place);
        }
        let place = *self.by_origin.get(&origin)?;
        self.last_place.set(Some((origin, place)));
        Some(place)
    }

    /// How many requests in a row came to one line.
    pub(crate) fn in_a_row(&self) -> u32 {
        self.latest_in_a_row
    }

    /// Requests that wait, over all lines.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The bytes of their commands.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Puts a request at its place in its line: at the end if it is new, further ahead if it was
    /// started before or if a peer's frames overtook one another.
    pub(crate) fn push(&mut self, origin: Origin, waiting: Waiting) {
        let line = self.line(origin);
        if line.closed {
            return;
        }
        let place = match line.waiting.back() {
            Some(last) if last.seq >= waiting.seq => {
                line.waiting.partition_point(|other| other.seq < waiting.seq)
            }
            _ => line.waiting.len(),
        };
        let bytes = waiting.command.len();
        line.waiting.insert(place, waiting);
        line.waiting_bytes += bytes;
        let again = self.latest.replace(origin) == Some(origin);
        self.latest_in_a_row = if again { self.latest_in_a_row.saturating_add(1) } else { 1 };
        self.waiting += 1;
        self.waiting_bytes += bytes;
    }

    /// The line of a connection, if there is one.
    pub(crate) fn get(&self, origin: Origin) -> Option<&Line> {
        self.place(origin).map(|place| &self.slots[place])
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, origin: Origin) -> Option<&mut Line> {
        self.place(origin).map(|place| &mut self.slots[place])
    }

    /// Is a connection gone, or was never there?
    pub(crate) fn is_closed(&self, origin: Origin) -> bool {
        self.get(origin).is_none_or(|line| line.closed)
    }

    /// Takes the first waiting request of a line.
    pub(crate) fn pop(&mut self, origin: Origin) -> Option<Waiting> {
        let line = self.get_mut(origin)?;
        let waiting = line.waiting.pop_front()?;
        if line.waiting.is_empty() {
            line.waiting.shrink_to(WAITING_KEPT);
        }
        line.waiting_bytes -= waiting.command.len();
        self.waiting -= 1;
        self.waiting_bytes -= waiting.command.len();
        Some(waiting)
    }

    /// Takes every waiting request that `which` picks, in order of line and place.
    pub(crate) fn take_waiting(
        &mut self,
        mut which: impl FnMut(&Origin, &Waiting) -> bool,
    ) -> Vec<(Origin, Waiting)> {
        let mut taken = Vec::new();
        for (origin, &place) in &self.by_origin {
            let line = &mut self.slots[place];
            let mut index = 0;
            while let Some(waiting) = line.waiting.get(index) {
                if which(origin, waiting) {
                    let waiting = line.waiting.remove(index).map(|waiting| (*origin, waiting));
                    line.waiting_bytes -= bytes_of(waiting.iter().map(|(_, waiting)| waiting));
                    taken.extend(waiting);
                } else {
                    index += 1;
                }
            }
        }
        self.waiting -= taken.len();
        self.waiting_bytes -= bytes_of(taken.iter().map(|(_, waiting)| waiting));
        taken
    }

    /// How many requests wait in the lines of these connections of this node, and their bytes.
    pub(crate) fn waiting_of(
        &self,
        connections: impl Iterator<Item = ConnectionId>,
    ) -> (usize, usize) {
        let origins = connections.map(|connection| Origin { home: Home::Here, connection });
        let lines = origins.filter_map(|origin| self.get(origin));
        lines.fold((0, 0), |(count, bytes), line| {
            (count + line.waiting.len(), bytes + line.waiting_bytes)
        })
    }

    /// What waits in a line waits from now on.
    pub(crate) fn wait_anew(&mut self, origin: Origin, now: Time) {
        let line = self.get_mut(origin);
        for waiting in line.into_iter().flat_map(|line| &mut line.waiting) {
            waiting.since = now;
            if planted!(ParkedReadUnconfirmed) {
                waiting.stale = true;
            }
        }
    }

    /// The lines in which something waits.
    pub(crate) fn with_waiting(&self) -> Vec<Origin> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let has_waiting = |place: &usize| !self.slots[*place].waiting.is_empty();
        let waiting = self.by_origin.iter().filter(|(_, place)| has_waiting(place));
        waiting.map(|(origin, _)| *origin).collect()
    }

    /// Marks a connection as gone: what waits is dropped, what is under way runs on unanswered.
    pub(crate) fn close(&mut self, origin: Origin) {
        if let Some(line) = self.get_mut(origin) {
            line.closed = true;
            let (count, bytes) = (line.waiting.len(), std::mem::take(&mut line.waiting_bytes));
            line.waiting.clear();
            self.waiting -= count;
            self.waiting_bytes -= bytes;
        }
        self.forget_if_done(origin);
    }

    /// Drops a line that nothing can refer to any more.
    pub(crate) fn forget_if_done(&mut self, origin: Origin) {
        if let Some(place) = self.place(origin)
            && self.slots[place].is_idle()
            && (self.slots[place].closed || origin.home != Home::Here)
        {
            self.by_origin.remove(&origin);
            self.slots.remove(place);
            self.last_place.set(None);
        }
    }
}

fn bytes_of<'a>(requests: impl Iterator<Item = &'a Waiting>) -> usize {
    requests.map(|waiting| waiting.command.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pipeline_leaves_no_memory_behind() {
        let mut lines = Lines::default();
        let origin = Origin { home: Home::Here, connection: ConnectionId(1) };
        for seq in 0..10_000 {
            let (class, command, since) = (Class::Read, Bytes::new(), Time::ZERO);
            let (maybe_appended, stale) = (false, false);
            lines.push(origin, Waiting { maybe_appended, seq, class, stale, command, since });
        }
        while lines.pop(origin).is_some() {}
        let capacity = lines.line(origin).waiting.capacity();
        assert!(capacity <= WAITING_KEPT, "{capacity}");
    }
}
