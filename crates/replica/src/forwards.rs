//! Commands that a follower hands to the leader, on both sides.
//!
//! The follower may try again elsewhere only what was certainly not appended, and what may be
//! applied twice without harm: session commands, which the state machine applies once, and reads that
//! no write of their connection follows.
//! The leader of a term takes a frame at most once, whatever the network does to it, and refuses
//! only what it can never have taken.

use std::collections::BTreeMap;

use sampan_base::{NodeId, Term, Time, planted};
use sampan_kv::Class;

use crate::input::ConnectionId;
use crate::lines::Waiting;
use crate::wire::{FORWARD_REQUESTS_MAX, Forward, ForwardedRequest};

/// Bytes of commands in one forward; one command may exceed it alone.
pub(crate) const FORWARD_FRAME_BYTES_MAX: usize = 1 << 20;

/// A command this node has forwarded.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) connection: ConnectionId,
    pub(crate) request: Waiting,
    pub(crate) to: NodeId,
    pub(crate) term: Term,
    /// The number of the frame it is in.
    pub(crate) frame: u64,
    pub(crate) sent_at: Time,
    /// When to stop waiting. Brought forward when the connection to the leader closes; the answer may still
    /// arrive on the other connection.
    pub(crate) give_up_at: Time,
    /// A write of its connection goes in the same frame, behind it.
    pub(crate) is_followed: bool,
}

impl Forwarded {
    /// May it be sent again although it may have been applied? A read may not that a write follows: the
    /// write may be applied, and the read would see it.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.request.class != Class::Write && !self.is_followed
            || sampan_kv::is_once(&self.request.command)
            || planted!(UnknownSentAgain)
    }
}

/// The part of a life's number that is drawn by chance; what is counted stands above it.
const CHANCE_BITS: u32 = 32;
const CHANCE_MASK: u64 = (1 << CHANCE_BITS) - 1;

/// The number of a life: counted by the node's disk, and told from others by chance where that was lost
/// and counts from one again.
pub(crate) const fn life(counted: u64, chance: u64) -> u64 {
    counted << CHANCE_BITS | chance & CHANCE_MASK
}

/// The origin's side.
#[derive(Debug)]
pub(crate) struct ForwardsOut {
    pub(crate) incarnation: u64,
    /// By attempt.
    pub(crate) under_way: BTreeMap<u64, Forwarded>,
    under_way_bytes: usize,
    /// Nothing is forwarded to this node for now: its last frame could not be sent.
    pub(crate) held_for: Option<NodeId>,
    next: Vec<ForwardedRequest>,
    next_bytes: usize,
    /// The reads in it that no write of their connection follows so far.
    last_reads: BTreeMap<ConnectionId, Vec<u64>>,
    last_id: u64,
    last_frame_seq: u64,
}

impl ForwardsOut {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            under_way: BTreeMap::new(),
            under_way_bytes: 0,
            held_for: None,
            next: Vec::new(),
            next_bytes: 0,
            last_reads: BTreeMap::new(),
            last_id: 0,
            last_frame_seq: 0,
        }
    }

    /// Others know of this life of the node. If it is a later one than this, the disk that counted was
    /// lost: this is the life after it. What waits goes again with the next attempts.
    ///
    /// Another life may have been told the same, by a leader that has heard of neither: so the part that
    /// chance has given to this one stays, and with it the two are never taken for one another.
    pub(crate) fn outlive(&mut self, incarnation: u64) {
        if incarnation > self.incarnation {
            let chance = self.incarnation & CHANCE_MASK;
            self.incarnation = (incarnation | CHANCE_MASK).saturating_add(1) | chance;
            if planted!(ToldLifeCounted) {
                self.incarnation = incarnation.saturating_add(1);
            }
        }
    }

    /// The number of the frame that gathers.
    pub(crate) fn open_frame(&self) -> u64 {
        self.last_frame_seq + 1
    }

    /// May that frame, which is for one leader, take one more command for the leader of `term`?
    pub(crate) fn has_room_for(&self, command: &[u8], term: Term) -> bool {
        let Some(first) = self.next.first() else { return true };
        let same = self.under_way.get(&first.id).is_some_and(|forwarded| forwarded.term == term);
        let fits = self.next_bytes + command.len() <= FORWARD_FRAME_BYTES_MAX;
        same && fits && self.next.len() < FORWARD_REQUESTS_MAX
    }

    /// Adds a command to the frame.
    pub(crate) fn push(&mut self, forwarded: Forwarded) {
        self.last_id += 1;
        self.next_bytes += forwarded.request.command.len();
        self.next.push(ForwardedRequest {
            id: self.last_id,
            connection: forwarded.connection,
            class: forwarded.request.class,
            command: forwarded.request.command.clone(),
        });
        self.under_way_bytes += forwarded.request.command.len();
        if forwarded.request.class == Class::Write {
            for read in self.last_reads.remove(&forwarded.connection).unwrap_or_default() {
                self.under_way.entry(read).and_modify(|read| read.is_followed = true);
            }
        } else {
            self.last_reads.entry(forwarded.connection).or_default().push(self.last_id);
        }
        self.under_way.insert(self.last_id, forwarded);
    }

    /// The bytes of the commands under way.
    pub(crate) fn under_way_bytes(&self) -> usize {
        self.under_way_bytes
    }

    /// Takes an attempt.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Forwarded> {
        let forwarded = self.under_way.remove(&id)?;
        self.under_way_bytes -= forwarded.request.command.len();
        Some(forwarded)
    }

    /// The frame of this turn, if there is one. A command whose leader was replaced since it was
    /// added is left out: it was given up.
    pub(crate) fn take_frame(&mut self) -> Option<(NodeId, Forward)> {
        self.next_bytes = 0;
        self.last_reads.clear();
        let mut requests = std::mem::take(&mut self.next);
        requests.retain(|request| self.under_way.contains_key(&request.id));
        let first = self.under_way.get(&requests.first()?.id)?;
        let (to, term, incarnation) = (first.to, first.term, self.incarnation);
        self.last_frame_seq += 1;
        Some((to, Forward { incarnation, term, frame_seq: self.last_frame_seq, requests }))
    }

    /// Takes the attempts that `which` picks, oldest first.
    pub(crate) fn take(&mut self, mut which: impl FnMut(&Forwarded) -> bool) -> Vec<Forwarded> {
        let taken = self.under_way.extract_if(.., |_, forwarded| which(forwarded));
        let taken: Vec<Forwarded> = taken.map(|(_, forwarded)| forwarded).collect();
        if !planted!(GivenUpStillCounts) {
            self.under_way_bytes -= taken.iter().map(|f| f.request.command.len()).sum::<usize>();
        }
        taken
    }
}

/// How far back a late frame is still told from a doubled one.
const WINDOW_FRAMES: u64 = 128;

/// The leader's side: which frames of a peer it has seen in one term.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ForwardWindow {
    incarnation: u64,
    term: Term,
    highest: u64,
    /// Bit `i`: frame `highest - i` was seen.
    seen: u128,
}

impl ForwardWindow {
    /// The life that frames were last admitted from, if the frame is of an earlier one: its sender must
    /// know, for its lives were counted by a disk that may be lost.
    pub(crate) fn later_life(&self, forward: &Forward) -> Option<u64> {
        (forward.incarnation < self.incarnation).then_some(self.incarnation)
    }

    /// Notes a frame; true if it was not seen before and could not have been.
    pub(crate) fn admit(&mut self, forward: &Forward) -> bool {
        let life = (forward.incarnation, forward.term);
        if forward.incarnation < self.incarnation || forward.term < self.term {
            return false;
        }
        if life != (self.incarnation, self.term) {
            let (incarnation, term) = life;
            // Frame numbers go on within a life, so a new term keeps the window.
            if incarnation == self.incarnation {
                self.term = term;
            } else {
                *self = Self { incarnation, term, highest: 0, seen: 0 };
            }
        }
        if forward.frame_seq > self.highest {
            let ahead = forward.frame_seq - self.highest;
            self.seen = if ahead < WINDOW_FRAMES { self.seen << ahead } else { 0 };
            self.seen |= 1;
            self.highest = forward.frame_seq;
            return true;
        }
        let behind = self.highest - forward.frame_seq;
        if behind >= WINDOW_FRAMES || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(incarnation: u64, term: u64, frame_seq: u64) -> Forward {
        Forward { incarnation, term: Term(term), frame_seq, requests: Vec::new() }
    }

    #[test]
    fn a_frame_is_admitted_once_whatever_the_order() {
        let mut window = ForwardWindow::default();
        for seq in [1, 3, 2, 200, 150] {
            assert!(window.admit(&frame(1, 5, seq)), "frame {seq} is new");
            assert!(!window.admit(&frame(1, 5, seq)), "frame {seq} is doubled");
        }
        assert!(!window.admit(&frame(1, 5, 4)), "too old to tell: dropped, never taken twice");
    }

    #[test]
    fn frames_of_an_older_life_or_term_are_dropped() {
        let mut window = ForwardWindow::default();
        assert!(window.admit(&frame(2, 5, 9)));
        assert!(!window.admit(&frame(1, 5, 10)));
        assert!(!window.admit(&frame(2, 4, 10)));
        assert!(window.admit(&frame(3, 5, 1)), "a new life counts from one");
        assert!(window.admit(&frame(3, 6, 2)));
        assert!(!window.admit(&frame(3, 6, 1)), "seen in the term before");
    }

    #[test]
    fn a_node_whose_lives_are_counted_anew_learns_of_those_before() {
        let mut window = ForwardWindow::default();
        let before = life(9, 77);
        assert!(window.admit(&frame(before, 5, 4)));
        assert_eq!(window.later_life(&frame(before, 5, 4)), None, "it is this one");
        let mut forwards = ForwardsOut::new(life(1, 5));
        assert!(!window.admit(&frame(forwards.incarnation, 5, 1)));
        forwards.outlive(window.later_life(&frame(life(1, 5), 5, 1)).unwrap_or_default());
        assert!(window.admit(&frame(forwards.incarnation, 5, 1)));
        forwards.outlive(life(3, 99));
        assert_eq!(forwards.incarnation, life(10, 5), "an earlier one is no news");
    }

    #[test]
    fn two_lives_that_are_told_of_the_same_one_are_not_the_same() {
        let (before, mut first, mut second) =
            (life(9, CHANCE_MASK), ForwardsOut::new(life(1, 5)), ForwardsOut::new(life(2, 6)));
        first.outlive(before);
        second.outlive(before);
        assert!(first.incarnation > before && second.incarnation > before);
        assert_ne!(first.incarnation, second.incarnation);
        let mut window = ForwardWindow::default();
        let earlier = first.incarnation.min(second.incarnation);
        let later = first.incarnation.max(second.incarnation);
        assert!(window.admit(&frame(earlier, 5, 40)) && window.admit(&frame(later, 5, 1)));
    }
}
