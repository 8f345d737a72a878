//! Who leads, as this node knows it, what follows when that changes, and how a node that leads
//! stops (thesis, section 3.10).
//!
//! What it is not: elections. Those are consensus' (`sampan_raft`).

use std::collections::BTreeSet;

use sampan_base::{NodeId, Term, Time};
use sampan_raft::{Body, Message};

use crate::replica::Replica;

/// What a replica knows of terms and leaders.
pub(crate) struct Leadership {
    /// The term as of the last turn, and since when.
    pub(crate) term: Term,
    pub(crate) term_since: Time,
    /// The leader as of the last turn.
    leader: Option<NodeId>,
    /// Since when none is known that this node can reach.
    pub(crate) leaderless_since: Option<Time>,
    /// Whom this node has no connection to. It may hear them all the same.
    pub(crate) unreachable: BTreeSet<NodeId>,
    /// This node led as of the last turn.
    leads: bool,
    /// The last term this node led in this life.
    pub(crate) led_term: Option<Term>,
    /// The last term whose leader refused a command: it leads no more, and nobody will in that
    /// term.
    abdicated_term: Option<Term>,
    /// A node that led goes on until then, though asked to stop: what followers sent before they
    /// knew of the next leader must be refused, not lost.
    pub(crate) refusing_until: Time,
    /// When a node that was asked to stop is done at the latest.
    pub(crate) shutdown_by: Option<Time>,
}

impl Leadership {
    pub(crate) fn new(term: Term, now: Time) -> Self {
        Self {
            term,
            term_since: now,
            leader: None,
            leaderless_since: Some(now),
            unreachable: BTreeSet::new(),
            leads: false,
            led_term: None,
            abdicated_term: None,
            refusing_until: now,
            shutdown_by: None,
        }
    }

    /// The leader of this term refused a command.
    pub(crate) fn refused(&mut self, term: Term) {
        self.abdicated_term = self.abdicated_term.max(Some(term));
    }

    /// When a stop is to be looked at again.
    pub(crate) fn shutdown_deadline(&self, now: Time) -> Option<Time> {
        let refuses = self.refusing_until > now;
        self.shutdown_by.map(|by| if refuses { self.refusing_until } else { by })
    }
}

impl Replica {
    /// The leader, if this node knows one that it can reach.
    pub fn leader(&self) -> Option<NodeId> {
        self.known_leader().filter(|leader| !self.leadership.unreachable.contains(leader))
    }

    /// The leader, if this node knows one: others may reach it where this node cannot.
    pub fn known_leader(&self) -> Option<NodeId> {
        let abdicated = self.leadership.abdicated_term;
        self.raft.leader().filter(|_| abdicated != Some(self.raft.term()))
    }

    /// Does this node lead?
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Notes changes of term, role and leader, and lets what waited for one start.
    pub(crate) fn observe_leadership(&mut self) {
        let (now, leads, leader) = (self.now.mono, self.raft.is_leader(), self.leader());
        let known = &mut self.leadership;
        if self.raft.term() != known.term {
            (known.term, known.term_since) = (self.raft.term(), now);
        }
        let term = known.term;
        if leads {
            known.led_term = Some(term);
        }
        let led = std::mem::replace(&mut known.leads, leads);
        let followed = std::mem::replace(&mut known.leader, leader);
        let lost = led && !leads;
        known.leaderless_since = match leader {
            Some(_) => None,
            None => known.leaderless_since.or(Some(now)),
        };
        if lost {
            known.refusing_until = now + self.options.raft.heartbeat_interval * 2;
            self.on_leadership_lost();
        }
        if led != leads || followed != leader {
            self.give_up_forwards(|forwarded| forwarded.term < term && forwarded.is_repeatable());
            self.pump_all();
        }
    }

    pub(crate) fn on_shutdown(&mut self) {
        let by = self.now.mono + self.options.shutdown_wait;
        self.leadership.shutdown_by.get_or_insert(by);
        self.fail_backups("this node is stopping");
        self.fail_doubts("this node is stopping");
    }

    /// Is this what a node that is to stop does not do? Nodes that all stop would hand leadership
    /// to each other.
    pub(crate) fn declines(&self, message: &Message) -> bool {
        self.leadership.shutdown_by.is_some() && matches!(message.body, Body::TimeoutNow)
    }

    /// A node that is to stop hands leadership over, to the next one if the first declines, and is
    /// done when it does not lead (or nobody else wants to) and owes no answer.
    pub(crate) fn drive_shutdown(&mut self) -> bool {
        let Some(by) = self.leadership.shutdown_by else { return false };
        let now = self.now.mono;
        // As of the last turn: this may be the very one in which leadership ended.
        let led = self.leadership.leads || now < self.leadership.refusing_until;
        let mut leads = self.raft.is_leader() || led;
        if self.raft.accepts_proposals() {
            leads =
                self.raft.has_successor(now) && self.raft.transfer_leadership(now, None).is_ok();
        }
        if now >= by {
            self.end_all_requests();
        }
        !leads && self.requests_under_way() == 0 || now >= by
    }
}
