//! Commands that a follower hands to the leader, on both sides.
//!
//! The follower may try again elsewhere only what was certainly not appended, and what may be
//! applied twice without harm: session commands, which the state machine applies once, and reads
//! that no write of their connection follows; neither, once something behind them was answered. The
//! leader of a term takes a frame at most once, whatever the network does to it, and refuses only
//! what it can never have taken.

use std::collections::BTreeMap;

use std::time::Duration;

use sampan_base::{LogIndex, NodeId, Term, Time, planted};
use sampan_kv::{Class, Reply};

use crate::input::ConnectionId;
use crate::lines::{Home, Origin, Ticket, Waiting};
use crate::output::{Envelope, Stream};
use crate::replica::Replica;
use crate::requests::unknown;
use crate::wire::{
    FORWARD_REQUESTS_MAX, Forward, ForwardOutcome, ForwardReply, ForwardedRequest, Outcome,
    PeerMessage,
};

/// Bytes of commands in one forward; one command may exceed it alone.
pub(crate) const FORWARD_FRAME_BYTES_MAX: usize = 1 << 20;
/// How long the answers of a node that is gone may take to be read from its other connection.
const ANSWERS_IN_TRANSIT: Duration = Duration::from_millis(50);

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
    /// When to stop waiting. Brought forward when the connection to the leader closes; the answer
    /// may still arrive on the other connection.
    pub(crate) give_up_at: Time,
    /// A write of its connection goes in the same frame, behind it.
    pub(crate) is_followed: bool,
}

impl Forwarded {
    /// May it be sent again although it may have been applied? A read may not that a write follows:
    /// the write may be applied, and the read would see it.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.request.class != Class::Write && !self.is_followed
            || sampan_kv::is_once(&self.request.command)
            || planted!(UnknownSentAgain)
    }
}

/// The part of a life's number that is drawn by chance; what is counted stands above it.
const CHANCE_BITS: u32 = 32;
const CHANCE_MASK: u64 = (1 << CHANCE_BITS) - 1;

/// The number of a life: counted by the node's disk, and told from others by chance where that was
/// lost and counts from one again.
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

    /// Others know of this life of the node. If it is a later one than this, the disk that counted
    /// was lost: this is the life after it. What waits goes again with the next attempts.
    ///
    /// Another life may have been told the same, by a leader that has heard of neither: so the part
    /// that chance has given to this one stays, and with it the two are never taken for one
    /// another.
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
    /// The life that frames were last admitted from, if the frame is of an earlier one: its sender
    /// must know, for its lives were counted by a disk that may be lost.
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

fn malformed() -> Reply {
    Reply::error("ERR malformed command from another node")
}

impl Replica {
    /// Commands that a follower forwards.
    pub(crate) fn on_forward(&mut self, from: NodeId, forward: Forward) {
        let leads = self.raft.is_leader() && self.raft.term() == forward.term;
        if !leads
            && self.leadership.led_term != Some(forward.term)
            && !planted!(TakenForwardRefused)
        {
            // Its commands may have been taken in an earlier life or term: nothing can be promised.
            self.counters.forwards_dropped += 1;
            return;
        }
        let window = self.forward_windows.entry(from).or_default();
        if !window.admit(&forward) && !planted!(ForwardTakenTwice) {
            self.counters.forwards_dropped += 1;
            if let Some(incarnation) = window.later_life(&forward) {
                let reply = ForwardReply { incarnation, outcomes: Vec::new() };
                let message = PeerMessage::ForwardReply(reply);
                self.out.messages.push(Envelope { to: from, stream: Stream::Main, message });
            }
            return;
        }
        let home = Home::Peer { node: from, incarnation: forward.incarnation };
        for request in forward.requests {
            let origin = Origin { home, connection: request.connection };
            let ticket = Ticket { origin, seq: request.id };
            if !leads {
                self.refuse(ticket);
                continue;
            }
            // Bytes from a peer: what cannot be applied must never be appended.
            if sampan_kv::classify(&request.command, &self.options.kv) != Ok(request.class) {
                self.counters.forwards_dropped += 1;
                self.answer(ticket, malformed(), LogIndex::ZERO);
                continue;
            }
            self.lines.push(
                origin,
                Waiting {
                    maybe_appended: false,
                    seq: request.id,
                    class: request.class,
                    stale: false,
                    command: request.command,
                    since: self.now.mono,
                },
            );
            self.pump(origin);
        }
    }

    pub(crate) fn start_forward(&mut self, origin: Origin, request: Waiting, leader: NodeId) {
        let term = self.raft.term();
        let line = self.lines.line(origin);
        line.forwards += 1;
        line.forward_frame = self.forwards.open_frame();
        self.counters.forwarded += 1;
        self.forwards.push(Forwarded {
            connection: origin.connection,
            request,
            to: leader,
            term,
            frame: self.forwards.open_frame(),
            sent_at: self.now.mono,
            give_up_at: Time::NEVER,
            is_followed: false,
        });
    }

    /// What became of commands this node has forwarded.
    pub(crate) fn on_forward_reply(&mut self, reply: ForwardReply) {
        self.forwards.outlive(reply.incarnation);
        if reply.incarnation != self.forwards.incarnation {
            return;
        }
        for ForwardOutcome { id, outcome } in reply.outcomes {
            // A late or doubled outcome finds nothing: attempts are numbered once.
            let Some(forwarded) = self.forwards.remove(id) else { continue };
            match outcome {
                Outcome::Refused => {
                    // Hold what would go the same way, until there is a new term.
                    self.leadership.refused(forwarded.term);
                    let maybe_appended = forwarded.request.maybe_appended;
                    self.forward_failed(forwarded, maybe_appended);
                }
                Outcome::Answered(reply, decided_at) => {
                    let origin = self.forward_ended(&forwarded);
                    let line = self.lines.line(origin);
                    line.seen = line.seen.max(decided_at);
                    line.forward_answered = line.forward_answered.max(forwarded.request.seq);
                    self.end(origin, &forwarded.request, reply, decided_at);
                    self.pump(origin);
                }
            }
        }
    }

    /// The bookkeeping of a forward that has ended in any way.
    fn forward_ended(&mut self, forwarded: &Forwarded) -> Origin {
        let origin = Origin { home: Home::Here, connection: forwarded.connection };
        self.lines.line(origin).forwards -= 1;
        origin
    }

    /// A forward that may be sent again: because it was refused, or because it is repeatable.
    fn forward_failed(&mut self, forwarded: Forwarded, maybe_appended: bool) {
        let origin = self.forward_ended(&forwarded);
        self.lines.push(origin, Waiting { maybe_appended, ..forwarded.request });
        self.lines.forget_if_done(origin);
        self.to_pump.push(origin);
    }

    /// Forwards that will hear no more: sent again if that is harmless, unknown otherwise.
    pub(crate) fn give_up_forwards(&mut self, which: impl FnMut(&Forwarded) -> bool) {
        for forwarded in self.forwards.take(which) {
            // Whether what followed it was answered meanwhile, `route` asks when it is its turn.
            if forwarded.is_repeatable() {
                let maybe_appended = forwarded.request.class == Class::Write;
                self.forward_failed(forwarded, maybe_appended);
            } else {
                self.end_forward(&forwarded);
            }
        }
    }

    /// A connection to a node is gone. What is harmless to repeat is sent elsewhere at once; the
    /// rest waits a little, for the answers may be in what was received and is not read yet.
    pub(crate) fn on_forwards_cut(&mut self, peer: NodeId) {
        self.give_up_forwards(|forwarded| forwarded.to == peer && forwarded.is_repeatable());
        let give_up_at = self.now.mono + ANSWERS_IN_TRANSIT;
        for forwarded in self.forwards.under_way.values_mut().filter(|f| f.to == peer) {
            forwarded.give_up_at = forwarded.give_up_at.min(give_up_at);
        }
    }

    /// A frame for this node was given to no connection. What is in it was certainly not appended,
    /// so it waits again: for a connection, or for another leader.
    pub(crate) fn on_forward_not_sent(&mut self, to: NodeId, frame: u64) {
        self.forwards.held_for = Some(to);
        for forwarded in self.forwards.take(|forwarded| forwarded.frame == frame) {
            let maybe_appended = forwarded.request.maybe_appended;
            self.forward_failed(forwarded, maybe_appended);
        }
    }

    /// What could not be sent is tried once more.
    pub(crate) fn release_forwards(&mut self) {
        if self.forwards.held_for.take().is_some() {
            self.pump_all();
        }
    }

    pub(crate) fn expire_forwards(&mut self) {
        let now = self.now.mono;
        let (client_timeout, retry) = (self.options.client_timeout, self.options.forward_retry);
        // Not `raft.term()`, which may be newer than what `term_since` is of.
        let (term, grace) = (self.leadership.term, self.options.raft.election_timeout_max);
        // A write whose leader was replaced gets one election timeout for the old leader's answer.
        let replaced = self.leadership.term_since + grace <= now;
        let over = |f: &Forwarded| now >= f.request.since + client_timeout || now >= f.give_up_at;
        for forwarded in self.forwards.take(over) {
            self.end_forward(&forwarded);
        }
        self.give_up_forwards(|forwarded| {
            // Each attempt waits as long as all before it: attempts that a slow leader still has
            // before it must not be what keeps it slow.
            let patience = retry.max(forwarded.sent_at.since(forwarded.request.since));
            let again = forwarded.is_repeatable() && now >= forwarded.sent_at + patience;
            let lost = forwarded.term < term && replaced;
            again || lost
        });
    }

    /// Nobody will answer this forward any more.
    pub(crate) fn end_forward(&mut self, forwarded: &Forwarded) {
        let origin = self.forward_ended(forwarded);
        let write = forwarded.request.class == Class::Write;
        let reply = if write { unknown() } else { self.not_served() };
        self.end(origin, &forwarded.request, reply, LogIndex::ZERO);
        self.to_pump.push(origin);
    }

    /// Tells a follower that a command was certainly not appended.
    pub(crate) fn refuse(&mut self, ticket: Ticket) {
        self.counters.forwards_refused += 1;
        self.send_outcome(ticket, Outcome::Refused);
    }

    pub(crate) fn send_outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        let Home::Peer { node, incarnation } = ticket.origin.home else { return };
        let outcomes = self.outcomes.entry((node, incarnation)).or_default();
        outcomes.push(ForwardOutcome { id: ticket.seq, outcome });
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
