//! The way of a request: what may start now, where, and how each ends.
//!
//! A request is in one of six places, and moves only as shown:
//!
//! ```text
//!              ┌─────────── certainly not appended ────────────┐
//!              ▼                                                │
//!   arrives ► waiting ──► open batch ──► proposal ──► applied ──┤► answered
//!              │  ▲ └───► read round ──► parked ────────────────┤
//!              │  └─────── round void ──┘                       │
//!              └────────► forwarded ──► outcome ────────────────┘
//! ```
//!
//! Each ends in one answer: done; certainly not applied; or unknown (`-UNKNOWN`), for what may be in a
//! log. `-CLUSTERDOWN` ends a request that waits, a read in a round or parked, and a read that was
//! forwarded; `-NOSPACE` a write that the log has no room for. If an earlier attempt may have been
//! appended, the answer is `-UNKNOWN` instead. Rule R8.

use std::time::Duration;

use sampan_base::{LogIndex, NodeId, Time, planted};
use sampan_kv::{BatchBuilder, Class, Reply};

use crate::forwards::Forwarded;
use crate::input::{ConnectionId, Request};
use crate::lines::{Home, Line, Origin, Ticket, Waiting};
use crate::output::{ClientReply, Envelope, Stream};
use crate::reads::{READ_ROUNDS_MAX, Reading, Round};
use crate::replica::Replica;
use crate::wire::{Forward, ForwardOutcome, ForwardReply, Outcome, PeerMessage};
use crate::writes::{Closed, Proposal, Waiter};

/// Clock entries come so many times as often while there is more to free.
const HAS_MORE_DIVISOR: u32 = 10;
/// On full disks they come no more often than this: each takes 4 KiB of what is left.
const CLOCK_ENTRY_INTERVAL_FULL: Duration = Duration::from_secs(1);

/// How long the answers of a node that is gone may take to be read from its other connection.
const ANSWERS_IN_TRANSIT: Duration = Duration::from_millis(50);

/// A line whose writes will return so many bytes of values begins no more of them before they are answered.
const VALUE_BYTES_PER_LINE: usize = 1 << 20;

/// Codes of replies that tell nothing of earlier attempts. Of these one may have been executed in a session that
/// is gone by now, or may still come to one that has room again.
const OF_ONE_ATTEMPT: [&str; 4] = ["CLUSTERDOWN", "NOSPACE", "SESSIONEXPIRED", "SESSIONFULL"];

/// Where the first waiting request of a line may go now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    /// Nowhere yet.
    Hold,
    /// Nowhere until consensus takes proposals (of this size) again.
    HoldForLog,
    /// Nowhere until more long values may be copied.
    HoldToCopy,
    /// Nowhere in this turn: the frame for the leader is full.
    HoldForFrame,
    /// Into the open batch.
    Propose,
    /// Into the open batch, behind the line's own commands there.
    Ride,
    /// Into the next read round.
    Read,
    /// Answered from local state, which may be stale, without a read round.
    Stale,
    /// To the leader.
    Forward(NodeId),
}

pub(crate) fn unknown() -> Reply {
    Reply::error("UNKNOWN outcome not known, command may still be applied")
}

/// What a client may be told who sent a command once, while its node may have tried it before: a reply that says
/// only that the last attempt was not executed would be taken for more.
pub(crate) fn known_of_all(maybe_appended: bool, reply: Reply) -> Reply {
    let is_of_one = matches!(&reply, Reply::Error(text) if OF_ONE_ATTEMPT
        .iter()
        .any(|code| text.split(' ').next() == Some(code)));
    if maybe_appended && is_of_one { unknown() } else { reply }
}

fn malformed() -> Reply {
    Reply::error("ERR malformed command from another node")
}

impl Replica {
    /// Commands of a client of this node.
    pub(crate) fn on_client(&mut self, connection: ConnectionId, requests: Vec<Request>) {
        let origin = Origin { home: Home::Here, connection };
        let since = self.now.mono;
        for Request { seq, class, stale, command } in requests {
            let maybe_appended = false;
            self.lines.push(origin, Waiting { maybe_appended, seq, class, stale, command, since });
        }
        self.pump(origin);
    }

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

    /// Starts what may be started of a line, in order.
    pub(crate) fn pump(&mut self, origin: Origin) {
        loop {
            let route = self.route(origin);
            match route {
                Route::Hold => break,
                Route::HoldForLog => {
                    self.hold_for_log();
                    break;
                }
                Route::HoldToCopy => {
                    self.hold_to_copy(origin);
                    break;
                }
                Route::HoldForFrame => {
                    self.to_pump_next_turn.push(origin);
                    break;
                }
                _ => {}
            }
            let Some(request) = self.lines.pop(origin) else { break };
            let ticket = Ticket { origin, seq: request.seq };
            match route {
                Route::Hold | Route::HoldForLog | Route::HoldToCopy | Route::HoldForFrame => {
                    unreachable!("handled above")
                }
                Route::Propose => self.start_write(ticket, request),
                Route::Ride => {
                    let (batch, term) = (self.writes.open.id, self.raft.term());
                    self.lines.line(origin).write_begins(batch, term);
                    let work_bytes = self.work_bytes(&request.command);
                    self.lines.line(origin).value_bytes += work_bytes;
                    self.writes.ride(ticket, request, work_bytes);
                    self.propose_if_full();
                }
                Route::Read => {
                    let reading = self.begin_read(ticket, request);
                    self.lines.line(origin).reads_are_local = false;
                    self.reads.next.push(reading);
                }
                Route::Stale => {
                    let reading = self.begin_read(ticket, request);
                    self.lines.line(origin).reads_are_local = true;
                    self.reads.ready.push_back(reading);
                }
                Route::Forward(leader) => self.start_forward(origin, request, leader),
            }
        }
        self.lines.forget_if_done(origin);
    }

    fn begin_read(&mut self, ticket: Ticket, request: Waiting) -> Reading {
        let line = self.lines.line(ticket.origin);
        line.reads += 1;
        let (floor, Waiting { class, stale, command, since, .. }) = (line.floor, request);
        Reading { ticket, class, command, floor, stale, since }
    }

    /// Something waits until consensus takes proposals again, or more of them.
    fn hold_for_log(&mut self) {
        let until_accepted = !self.raft.accepts_proposals() || self.holds_writes();
        let bytes = if until_accepted { usize::MAX } else { self.bytes_under_way().max(1) };
        self.held_for_log = self.held_for_log.max(bytes);
    }

    /// Starts what may be started of all lines: after a change of leader.
    pub(crate) fn pump_all(&mut self) {
        for origin in self.lines.with_waiting() {
            self.pump(origin);
        }
    }

    fn route(&mut self, origin: Origin) -> Route {
        let (leads, leader, term) = (self.raft.is_leader(), self.leader(), self.raft.term());
        let (me, batch, frame) = (self.id(), self.writes.open.id, self.forwards.open_frame());
        let (batch_bytes, holds_writes) = (self.writes.open_bytes(), self.holds_writes());
        let (is_full, held_for) = (self.is_full(), self.forwards.held_for);
        let holds_copies = leads && self.holds_copies();
        // Nothing more is begun for a client that does not take its replies.
        if self.reads.holds(&origin) {
            return Route::Hold;
        }
        let Some(line) = self.lines.get(origin) else { return Route::Hold };
        let Some(request) = line.waiting.front() else { return Route::Hold };
        let through_log = request.class != Class::Read;
        if leads {
            let &mut Line { reads, writes, forwards, last_batch, write_term, value_bytes, .. } =
                line;
            let (class, command_bytes) = (request.class, request.command.len());
            let has_values = value_bytes >= VALUE_BYTES_PER_LINE;
            if writes > 0 && (write_term != term || has_values) {
                return Route::Hold;
            }
            let ordered = reads == 0 && forwards == 0;
            let more = BatchBuilder::COMMAND_OVERHEAD_BYTES + command_bytes;
            let accepts =
                self.raft.has_room_for(batch_bytes + more) && !holds_writes && !self.is_tight(more);
            let waits_to_copy = holds_copies && self.copies_long(origin);
            // The clock of the log stands still where there is no room to move it on.
            let is_read = class == Class::TimedRead && !self.raft.quorum_has_room();
            return match if is_read { Class::Read } else { class } {
                Class::Write | Class::TimedRead if ordered && !accepts => Route::HoldForLog,
                Class::Write if ordered && waits_to_copy => Route::HoldToCopy,
                Class::Write if ordered => Route::Propose,
                Class::TimedRead if ordered => Route::Ride,
                Class::Read if writes > 0 && last_batch == batch => Route::Ride,
                Class::Read if forwards == 0 => Route::Read,
                _ => Route::Hold,
            };
        }
        let Home::Here = origin.home else { return Route::Hold };
        let may_be_stale = request.stale && (!through_log || planted!(StaleTtl));
        if may_be_stale && line.may_read_locally(self.raft.applied()) {
            // It neither overtakes one that asks the leader nor has to ask as well.
            return if line.asks_the_leader() { Route::Hold } else { Route::Stale };
        }
        let Some(leader) = leader.filter(|&leader| leader != me) else {
            return Route::Hold;
        };
        let is_behind_a_frame = line.forwards > 0 && line.forward_frame != frame;
        if line.writes > 0 || is_behind_a_frame && !planted!(LaterFrameOvertakes) {
            return Route::Hold;
        }
        // A node whose disk is full falls behind: its reads would wait for what it cannot take.
        let elsewhere = through_log || is_full;
        if line.forwards > 0 || (elsewhere && line.reads == 0) {
            if held_for == Some(leader) {
                return Route::Hold;
            }
            let fits = self.forwards.has_room_for(&request.command, term);
            return if fits { Route::Forward(leader) } else { Route::HoldForFrame };
        }
        if through_log { Route::Hold } else { Route::Read }
    }

    fn start_write(&mut self, ticket: Ticket, request: Waiting) {
        if let Some(reply) = self.recorded_reply(&request) {
            self.counters.duplicates += 1;
            self.answer(ticket, reply, self.raft.applied());
            return;
        }
        if let Err(no_room) = self.check_room(&request.command) {
            self.end(ticket.origin, &request, no_room, LogIndex::ZERO);
            return;
        }
        let (batch, term) = (self.writes.open.id, self.raft.term());
        self.lines.line(ticket.origin).write_begins(batch, term);
        let work_bytes = self.work_bytes(&request.command);
        self.writes.ahead.take(&self.kv, &request.command, batch);
        if sampan_kv::values_in_reply(&request.command) > 0 {
            self.lines.line(ticket.origin).value_bytes += work_bytes;
        }
        self.writes.push(ticket, request, work_bytes);
        self.propose_if_full();
    }

    fn propose_if_full(&mut self) {
        if self.writes.is_full(self.options.batch_bytes_max) {
            self.propose_open_batch();
        }
    }

    /// The reply to a session command that was executed before. Only what the applied state knows
    /// for good counts: a session it does not know may have been opened since.
    fn recorded_reply(&self, request: &Waiting) -> Option<Reply> {
        let reply = self.kv.duplicate(&request.command)?;
        let unknown_session =
            matches!(&reply, Reply::Error(text) if text.starts_with("SESSIONEXPIRED"));
        (!unknown_session).then_some(reply)
    }

    fn start_forward(&mut self, origin: Origin, request: Waiting, leader: NodeId) {
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

    /// Hands the open batch to consensus as one entry.
    pub(crate) fn propose_open_batch(&mut self) {
        if !self.writes.is_ready() {
            return;
        }
        let stamp = self.log_clock.stamp(self.now);
        let Closed { data, waiters, id: batch, copied_bytes } = self.writes.close(stamp);
        let Ok(position) = self.raft.propose(data) else {
            self.put_back_waiters(waiters);
            return self.hold_for_log();
        };
        self.last_clock_entry = self.now.mono;
        // The commands of a pipeline stand together, and have one line.
        for run in waiters.chunk_by(|a, b| a.ticket.origin == b.ticket.origin) {
            self.lines.line(run[0].ticket.origin).floor = position.index;
        }
        let (deadline, lost_by) = (Time::NEVER, Time::NEVER);
        let mut proposal = Proposal { position, waiters, batch, copied_bytes, deadline, lost_by };
        proposal.update_deadline(self.options.client_timeout);
        self.writes.proposed(proposal);
    }

    /// Waiters whose commands are certainly in no log: they wait again, or are refused.
    pub(crate) fn put_back_waiters(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters.into_iter().filter(|waiter| !waiter.given_up) {
            self.writes.under_way -= 1;
            let ticket = waiter.ticket;
            self.lines.line(ticket.origin).write_ended();
            self.put_back(ticket, waiter.into_waiting());
        }
    }

    /// A request that is certainly in no log goes back to its line, or to where it came from.
    fn put_back(&mut self, ticket: Ticket, request: Waiting) {
        if ticket.origin.home == Home::Here || self.raft.is_leader() {
            self.lines.push(ticket.origin, request);
        } else {
            self.refuse(ticket);
        }
        self.lines.forget_if_done(ticket.origin);
    }

    /// Asks for a read index for all reads that gathered.
    pub(crate) fn start_read_round(&mut self) {
        if self.reads.next.is_empty() || self.reads.rounds.len() >= READ_ROUNDS_MAX {
            return;
        }
        let readings = std::mem::take(&mut self.reads.next);
        let id = self.reads.next_id();
        match self.raft.read_index(id) {
            Ok(()) => {
                let retry_at = self.now.mono + self.read_retry();
                self.reads.rounds.push_back(Round { id, readings, retry_at });
            }
            Err(_) => self.void_reads(readings),
        }
    }

    /// A leader that cannot confirm a read steps down by check-quorum; a follower's question can
    /// be lost.
    fn read_retry(&self) -> Duration {
        self.options.raft.election_timeout_min
    }

    /// Reads without a read index: they wait again, in their place.
    pub(crate) fn void_reads(&mut self, readings: Vec<Reading>) {
        for reading in readings {
            let ticket = reading.ticket;
            self.lines.line(ticket.origin).reads -= 1;
            self.put_back(ticket, reading.into_waiting());
        }
    }

    /// Reads whose index is known: served if the state is there, parked otherwise.
    pub(crate) fn confirm_reads(&mut self, readings: Vec<Reading>, index: LogIndex) {
        let applied = self.raft.applied();
        for reading in readings {
            let mut needed = index.max(reading.floor);
            // An answer that came twice may have given an earlier read of this line a later index.
            if self.reads.has_parked() && !planted!(ParkedReadOvertaken) {
                needed = needed.max(self.lines.line(reading.ticket.origin).parked_at);
            }
            if needed <= applied || planted!(ReadBeforeApply) {
                self.reads.ready.push_back(reading);
            } else {
                let parked_at = &mut self.lines.line(reading.ticket.origin).parked_at;
                *parked_at = index.max(*parked_at);
                self.reads.park(needed, reading);
            }
        }
        self.serve_reads();
    }

    /// Answers reads from the applied state, as far as this turn's share goes: long values must not keep
    /// a leader from its heartbeats.
    pub(crate) fn serve_reads(&mut self) {
        while self.reads.may_serve() {
            let group = self.reads.ready.len().min(sampan_kv::GROUP_COMMANDS);
            self.kv.prefetch(self.reads.ready.iter().take(group).map(|reading| &*reading.command));
            for _ in 0..group {
                if let Some(reading) = self.reads.next_to_serve() {
                    self.serve_read(&reading);
                }
            }
        }
    }

    fn serve_read(&mut self, reading: &Reading) {
        let origin = reading.ticket.origin;
        let line = self.lines.line(origin);
        line.reads -= 1;
        let (unblocked, closed) = (line.reads == 0, line.closed);
        if !closed {
            let reply = self.kv.query(&reading.command);
            self.reads.charge(reply.encoded_bytes());
            self.counters.reads += 1;
            self.answer(reading.ticket, reply, self.raft.applied());
        }
        if unblocked {
            self.pump(origin);
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
            if forwarded.is_repeatable() && !self.shows_too_much(&forwarded) {
                let maybe_appended = forwarded.request.class == Class::Write;
                self.forward_failed(forwarded, maybe_appended);
            } else {
                self.end_forward(&forwarded);
            }
        }
    }

    /// Is it a read, and what came after it was answered? Repeated, it would see more than that did.
    fn shows_too_much(&mut self, forwarded: &Forwarded) -> bool {
        let origin = Origin { home: Home::Here, connection: forwarded.connection };
        forwarded.request.class != Class::Write
            && self.lines.line(origin).forward_answered > forwarded.request.seq
            && !planted!(ForwardedReadOvertaken)
    }

    /// A connection to a node is gone. What is harmless to repeat is sent elsewhere at once; the rest
    /// waits a little, for the answers may be in what was received and is not read yet.
    pub(crate) fn on_forwards_cut(&mut self, peer: NodeId) {
        self.give_up_forwards(|forwarded| forwarded.to == peer && forwarded.is_repeatable());
        let give_up_at = self.now.mono + ANSWERS_IN_TRANSIT;
        for forwarded in self.forwards.under_way.values_mut().filter(|f| f.to == peer) {
            forwarded.give_up_at = forwarded.give_up_at.min(give_up_at);
        }
    }

    /// A frame for this node was given to no connection. What is in it was certainly not appended, so it
    /// waits again: for a connection, or for another leader.
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

    /// Nobody will answer this forward any more.
    fn end_forward(&mut self, forwarded: &Forwarded) {
        let origin = self.forward_ended(forwarded);
        let write = forwarded.request.class == Class::Write;
        let reply = if write { unknown() } else { self.not_served() };
        self.end(origin, &forwarded.request, reply, LogIndex::ZERO);
        self.to_pump.push(origin);
    }

    /// Answers whoever has waited too long, in the words that are true of where the request is.
    pub(crate) fn expire_requests(&mut self) {
        let now = self.now.mono;
        if self.sweep_at <= now {
            self.sweep_at = now + self.options.no_leader_wait / 8;
            self.expire_waiting();
            let since = now - self.options.client_timeout;
            for reading in self.reads.take_expired(since) {
                let origin = reading.ticket.origin;
                self.lines.line(origin).reads -= 1;
                self.answer(reading.ticket, self.not_served(), LogIndex::ZERO);
                self.to_pump.push(origin);
            }
            self.expire_forwards();
            // Also with a connection: its queue may have had no room.
            self.release_forwards();
        }
        if self.reads.next_deadline() <= now {
            self.counters.read_retries += self.reads.rounds.len() as u64;
            self.ask_anew();
        }
        self.expire_proposals();
    }

    /// All reads that have no answer begin anew: not the late ones alone, or what came after them would get
    /// its index before.
    pub(crate) fn ask_anew(&mut self) {
        let unanswered = self.reads.take_unanswered();
        self.void_reads_and_pump(unanswered);
    }

    pub(crate) fn void_reads_and_pump(&mut self, readings: Vec<Reading>) {
        self.to_pump.extend(readings.iter().map(|reading| reading.ticket.origin));
        self.void_reads(readings);
    }

    fn expire_waiting(&mut self) {
        if self.lines.waiting() == 0 {
            return;
        }
        let now = self.now.mono;
        let (no_leader_wait, client_timeout) =
            (self.options.no_leader_wait, self.options.client_timeout);
        let leaderless_since = self.leadership.leaderless_since;
        let expired = self.lines.take_waiting(|origin, waiting| {
            // Behind reads that wait for their client.
            if self.reads.holds(origin) {
                return false;
            }
            let held = leaderless_since
                .is_some_and(|since| now >= since.max(waiting.since) + no_leader_wait);
            held || now >= waiting.since + client_timeout
        });
        for (origin, waiting) in expired {
            self.end(origin, &waiting, self.not_served(), LogIndex::ZERO);
            self.lines.forget_if_done(origin);
        }
    }

    fn expire_forwards(&mut self) {
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

    fn expire_proposals(&mut self) {
        let now = self.now.mono;
        let client_timeout = self.options.client_timeout;
        let mut expired = Vec::new();
        for proposal in &mut self.writes.proposals {
            if proposal.deadline > now {
                continue;
            }
            let lost = proposal.lost_by <= now;
            let late = |w: &&mut Waiter| !w.given_up && (lost || w.since + client_timeout <= now);
            for waiter in proposal.waiters.iter_mut().filter(late) {
                waiter.given_up = true;
                expired.push(waiter.ticket);
            }
            proposal.update_deadline(client_timeout);
        }
        self.give_up_writes(&expired);
    }

    fn give_up_writes(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            self.writes.under_way -= 1;
            self.lines.line(ticket.origin).write_ended();
            let reply = if planted!(GivenUpFails) { self.not_served() } else { unknown() };
            self.answer(*ticket, reply, LogIndex::ZERO);
            self.lines.forget_if_done(ticket.origin);
            self.to_pump.push(ticket.origin);
        }
        if !tickets.is_empty() {
            // Reads behind them begin anew, and wait for no more than those that come now and are behind them.
            let floored = self.reads.take_floored(self.raft.applied());
            self.void_reads_and_pump(floored);
        }
    }

    /// A stop has waited long enough: everybody is told what is known of their request.
    pub(crate) fn end_all_requests(&mut self) {
        for (origin, waiting) in self.lines.take_waiting(|_, _| true) {
            self.end(origin, &waiting, self.not_served(), LogIndex::ZERO);
        }
        for forwarded in self.forwards.take(|_| true) {
            self.end_forward(&forwarded);
        }
        for reading in self.reads.take_all() {
            self.lines.line(reading.ticket.origin).reads -= 1;
            self.answer(reading.ticket, self.not_served(), LogIndex::ZERO);
        }
        for proposal in &mut self.writes.proposals {
            proposal.lost_by = self.now.mono;
            proposal.update_deadline(self.options.client_timeout);
        }
        self.expire_proposals();
    }

    /// Leadership is lost: no more time for proposals than it takes to learn their fate from the
    /// next leader, and what followers sent here but is in no log goes back to them.
    pub(crate) fn on_leadership_lost(&mut self) {
        let deadline = self.now.mono + self.options.raft.election_timeout_max;
        for proposal in &mut self.writes.proposals {
            proposal.lost_by = proposal.lost_by.min(deadline);
            proposal.update_deadline(self.options.client_timeout);
        }
        let floored = self.reads.take_floored(self.raft.applied());
        self.void_reads_and_pump(floored);
        if self.writes.is_ready() {
            let Closed { waiters, .. } = self.writes.close(self.now.wall);
            self.put_back_waiters(waiters);
        }
        for (origin, waiting) in self.lines.take_waiting(|origin, _| origin.home != Home::Here) {
            self.refuse(Ticket { origin, seq: waiting.seq });
            self.lines.forget_if_done(origin);
        }
    }

    /// Tells a follower that a command was certainly not appended.
    fn refuse(&mut self, ticket: Ticket) {
        self.counters.forwards_refused += 1;
        self.send_outcome(ticket, Outcome::Refused);
    }

    /// The end of a request that is certainly in no log, in the words that are true of this node now.
    pub(crate) fn not_served(&self) -> Reply {
        Reply::error(match (self.leader(), self.raft.leader()) {
            (Some(_), _) => "CLUSTERDOWN Not served in time",
            (None, Some(known)) if self.leadership.unreachable.contains(&known) => {
                "CLUSTERDOWN No connection to the leader"
            }
            _ => "CLUSTERDOWN No leader elected",
        })
    }

    /// Ends a request that is in no attempt any more.
    fn end(&mut self, origin: Origin, request: &Waiting, reply: Reply, decided_at: LogIndex) {
        let reply = known_of_all(request.maybe_appended, reply);
        self.answer(Ticket { origin, seq: request.seq }, reply, decided_at);
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, ticket: Ticket, reply: Reply, decided_at: LogIndex) {
        if ticket.origin.home != Home::Here {
            self.send_outcome(ticket, Outcome::Answered(reply, decided_at));
            return;
        }
        let connection = ticket.origin.connection;
        self.lines.told = self.lines.told.max(decided_at);
        if !self.lines.is_closed(ticket.origin) {
            self.out.replies.push(ClientReply { connection, seq: ticket.seq, reply, decided_at });
        }
    }

    fn send_outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        let Home::Peer { node, incarnation } = ticket.origin.home else { return };
        let outcomes = self.outcomes.entry((node, incarnation)).or_default();
        outcomes.push(ForwardOutcome { id: ticket.seq, outcome });
    }

    /// When the requests want attention next.
    pub(crate) fn requests_deadline(&self) -> Time {
        let sweeping = self.lines.waiting() > 0
            || !self.forwards.under_way.is_empty()
            || self.reads.under_way() > 0;
        let sweep = if sweeping { self.sweep_at } else { Time::NEVER };
        sweep.min(self.reads.next_deadline()).min(self.writes.next_deadline())
    }

    /// Requests that are somewhere between arrival and answer.
    pub(crate) fn requests_under_way(&self) -> usize {
        self.lines.waiting()
            + self.writes.under_way
            + self.reads.under_way()
            + self.forwards.under_way.len()
    }

    /// When a clock entry is due: a key's TTL or a session has run out by what this leader stamps. If it has
    /// by the log's time, too, the last entry has not freed all that is over, and the next one comes sooner.
    /// Entries that are still to be applied bring a time of their own, so that clock entries never add
    /// to a backlog.
    pub(crate) fn clock_entry_at(&self) -> Time {
        if !self.raft.is_leader() || self.raft.applied() < self.raft.last_index() {
            return Time::NEVER;
        }
        let Some(expiry) = self.kv.next_expiry() else { return Time::NEVER };
        let due = self.now.mono + self.log_clock.until(self.now, expiry);
        let has_more = expiry <= self.kv.time();
        let interval = match (self.raft.quorum_has_room(), self.has_room_for_deletions()) {
            (_, false) => return Time::NEVER,
            (false, true) => self.options.clock_entry_interval.max(CLOCK_ENTRY_INTERVAL_FULL),
            (true, true) if has_more => self.options.clock_entry_interval / HAS_MORE_DIVISOR,
            (true, true) => self.options.clock_entry_interval,
        };
        due.max(self.last_clock_entry + interval)
    }
}
