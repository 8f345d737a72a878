//! The way of a request: what may start now, where, and how each ends.
//!
//! A request is in one place at a time, and moves only as shown:
//!
//! ```text
//!              ┌────────────── certainly not appended ──────────────┐
//!              ▼                                                    │
//!   arrives ► waiting ──► open batch ──► proposal ──► applied ──────┤► answered
//!              │││  ▲ └──► read round ──► parked ──► ready ─────────┤
//!              │││  └────── round void ─────┘        ▲  ▲▼          │
//!              ││└────────── stale read ─────────────┘ held         │
//!              │└────────► forwarded ──► outcome ───────────────────┤
//!              └─────────────────── at once ────────────────────────┘
//! ```
//!
//! *Held* are reads whose client does not take its replies. Answered *at once*, or where it waits,
//! is a command that was executed before, a write without room in the log, what comes behind an
//! answer that it must not come behind, and what has waited too long.
//!
//! Each ends in one answer: done; certainly not applied; or unknown (`-UNKNOWN`), for what may be
//! in a log. `-CLUSTERDOWN` ends a request that waits, a read in a round or parked, and a read that
//! was forwarded; `-NOSPACE` a write that the log has no room for. If an earlier attempt may have
//! been appended, the answer is `-UNKNOWN` instead. Rule R8.
//!
//! What it is not: the steps themselves. Those are in `writes.rs`, `reads.rs` and `forwards.rs`.

use sampan_base::{LogIndex, NodeId, Time, planted};
use sampan_kv::{BatchBuilder, Class, Reply};

use crate::input::{ConnectionId, Request};
use crate::lines::{Home, Line, Origin, Ticket, Waiting};
use crate::output::ClientReply;
use crate::replica::Replica;
use crate::wire::Outcome;
use crate::writes::Closed;

/// A line whose writes will return so many bytes of values begins no more of them before they are
/// answered.
const VALUE_BYTES_PER_LINE: usize = 1 << 20;

/// How replies begin that tell nothing of earlier attempts. Of these one may have been executed in
/// a session that is gone by now, or may still come to one that has room again.
const OF_ONE_ATTEMPT: [&str; 5] =
    ["CLUSTERDOWN", "NOSPACE", "SESSIONEXPIRED", "SESSIONFULL", "ERR malformed command"];

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
    /// Nowhere any more.
    Overtaken,
}

pub(crate) fn unknown() -> Reply {
    Reply::error("UNKNOWN outcome not known, command may still be applied")
}

/// What a client may be told who sent a command once, while its node may have tried it before: a
/// reply that says only that the last attempt was not executed would be taken for more.
pub(crate) fn known_of_all(maybe_appended: bool, reply: Reply) -> Reply {
    let is_of_one = matches!(&reply, Reply::Error(text) if OF_ONE_ATTEMPT
        .iter()
        .any(|code| text.starts_with(code)));
    if maybe_appended && is_of_one { unknown() } else { reply }
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
                Route::Overtaken => self.end(origin, &request, self.not_served(), LogIndex::ZERO),
            }
        }
        self.lines.forget_if_done(origin);
    }

    /// Something waits until consensus takes proposals again, or more of them.
    pub(crate) fn hold_for_log(&mut self) {
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

    fn route(&self, origin: Origin) -> Route {
        // Nothing more is begun for a client that does not take its replies.
        if self.reads.holds(&origin) {
            return Route::Hold;
        }
        let Some(line) = self.lines.get(origin) else { return Route::Hold };
        let Some(request) = line.waiting.front() else { return Route::Hold };
        if line.is_overtaken(request.seq) {
            Route::Overtaken
        } else if self.raft.is_leader() {
            self.route_on_leader(line, request)
        } else if origin.home == Home::Here {
            self.route_on_follower(line, request)
        } else {
            Route::Hold
        }
    }

    fn route_on_leader(&self, line: &Line, request: &Waiting) -> Route {
        let has_values = line.value_bytes >= VALUE_BYTES_PER_LINE;
        if line.writes > 0 && (line.write_term != self.raft.term() || has_values) {
            return Route::Hold;
        }
        let is_ordered = line.reads == 0 && line.forwards == 0;
        // The clock of the log stands still where there is no room to move it on.
        let is_read = request.class == Class::TimedRead && !self.raft.quorum_has_room();
        match if is_read { Class::Read } else { request.class } {
            Class::Write | Class::TimedRead if is_ordered && !self.accepts(&request.command) => {
                Route::HoldForLog
            }
            Class::Write if is_ordered && self.waits_to_copy(&request.command) => Route::HoldToCopy,
            Class::Write if is_ordered => Route::Propose,
            Class::TimedRead if is_ordered => Route::Ride,
            Class::Read if line.writes > 0 && line.last_batch == self.writes.open.id => Route::Ride,
            Class::Read if line.forwards == 0 => Route::Read,
            _ => Route::Hold,
        }
    }

    /// Is there room for a command in the open batch, and for that in the log?
    fn accepts(&self, command: &[u8]) -> bool {
        let more_bytes = BatchBuilder::COMMAND_OVERHEAD_BYTES + command.len();
        self.raft.has_room_for(self.writes.open_bytes() + more_bytes)
            && !self.holds_writes()
            && !self.is_tight(more_bytes)
    }

    fn route_on_follower(&self, line: &Line, request: &Waiting) -> Route {
        let goes_through_log = request.class != Class::Read;
        let may_be_stale = request.stale && (!goes_through_log || planted!(StaleTtl));
        if may_be_stale && line.may_read_locally(self.raft.applied()) {
            // It neither overtakes one that asks the leader nor has to ask as well.
            return if line.asks_the_leader() { Route::Hold } else { Route::Stale };
        }
        let Some(leader) = self.leader().filter(|&leader| leader != self.id()) else {
            return Route::Hold;
        };
        let is_behind_a_frame =
            line.forwards > 0 && line.forward_frame != self.forwards.open_frame();
        if line.writes > 0 || is_behind_a_frame && !planted!(LaterFrameOvertakes) {
            return Route::Hold;
        }
        // A node whose disk is full or stalls falls behind: its reads would wait for what it lacks.
        let goes_elsewhere = goes_through_log || !self.is_disk_well();
        if line.forwards > 0 || (goes_elsewhere && line.reads == 0) {
            if self.forwards.held_for == Some(leader) {
                return Route::Hold;
            }
            let fits = self.forwards.has_room_for(&request.command, self.raft.term());
            return if fits { Route::Forward(leader) } else { Route::HoldForFrame };
        }
        if goes_through_log { Route::Hold } else { Route::Read }
    }

    /// A request that is certainly in no log goes back to its line, or to where it came from.
    pub(crate) fn put_back(&mut self, ticket: Ticket, request: Waiting) {
        if ticket.origin.home == Home::Here || self.raft.is_leader() {
            self.lines.push(ticket.origin, request);
        } else {
            self.refuse(ticket);
        }
        self.lines.forget_if_done(ticket.origin);
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

    /// The end of a request that is certainly in no log, in the words that are true of this node
    /// now.
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
    pub(crate) fn end(
        &mut self,
        origin: Origin,
        request: &Waiting,
        reply: Reply,
        decided_at: LogIndex,
    ) {
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
}
