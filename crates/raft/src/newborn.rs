//! A node without a past: before it takes any part it hears from every other voter.
//!
//! A fresh data directory is that of a new cluster, or that of a node whose disk was lost or
//! emptied. Such a node may have voted and acknowledged in an earlier life, and it cannot know. So
//! it first asks all other voters for their terms and whether they hold anything:
//!
//! - It adopts the highest term, as one in which it has voted. Whoever got its vote in the earlier
//!   life has made that term durable before it asked, so no vote is given twice; and no leader of
//!   an older term is confirmed by it. Only a vote for itself may be in a later term that nobody
//!   knows of: it is void, for the candidacy ended with the life.
//! - If anybody holds anything, it may have acknowledged entries that it lacks: it neither votes
//!   nor counts until it has the log as the leader has it (`check_recovered`). If nobody does,
//!   nothing was ever committed, and it is a voter like the others.
//!
//! Until all have answered it answers nothing else. So a cluster forms when all its first members
//! are up, and a lost disk heals by itself while the others are. What it is not: the paper's, which
//! takes stable storage for granted.

use std::collections::{BTreeMap, BTreeSet};

use sampan_base::{LogIndex, NodeId, Term, Time, planted};

use crate::node::Raft;
use crate::read::FollowerReads;
use crate::{Body, DropReason};

/// What such a node has heard.
#[derive(Debug)]
pub(crate) struct Newborn {
    /// Drawn at random when the node started, so that no answer outlives a restart.
    nonce: u64,
    /// The term of each voter that answered, and whether it holds a log or a snapshot.
    heard: BTreeMap<NodeId, (Term, bool)>,
    ask_at: Time,
}

impl Newborn {
    pub(crate) fn new(nonce: u64, now: Time) -> Self {
        Self { nonce, heard: BTreeMap::new(), ask_at: now }
    }
}

impl Raft {
    /// Whom this node must still hear from before it takes part; empty once it does.
    pub fn unheard_voters(&self) -> BTreeSet<NodeId> {
        let Some(newborn) = &self.newborn else { return BTreeSet::new() };
        let voters = self.configuration().voters.iter().copied();
        voters.filter(|id| *id != self.config.id && !newborn.heard.contains_key(id)).collect()
    }

    /// Has it yet to hear from somebody?
    pub fn is_newborn(&self) -> bool {
        self.newborn.is_some()
    }

    pub(crate) fn newborn_deadline(&self) -> Time {
        self.newborn.as_ref().map_or(Time::NEVER, |newborn| newborn.ask_at)
    }

    /// Asks whoever has not answered yet.
    pub(crate) fn tick_newborn(&mut self, now: Time) {
        let unheard = self.unheard_voters();
        let Some(newborn) = &mut self.newborn else { return };
        if now < newborn.ask_at {
            return;
        }
        newborn.ask_at = now + self.config.heartbeat_interval;
        let nonce = newborn.nonce;
        for id in unheard {
            self.send(id, Body::Greet { nonce });
        }
    }

    /// The way back is open again: asks at the next tick.
    pub(crate) fn newborn_meets(&mut self, now: Time) {
        if let Some(newborn) = &mut self.newborn {
            newborn.ask_at = now;
        }
    }

    /// Answers a newborn node. The reply leaves once the term that it reveals is durable.
    pub(crate) fn on_greet(&mut self, from: NodeId, nonce: u64) {
        let holds = self.log.last_index() > LogIndex::ZERO;
        self.send(from, Body::GreetReply { nonce, holds });
    }

    /// The answer of a node in `term`.
    pub(crate) fn on_greet_reply(
        &mut self,
        now: Time,
        (from, term): (NodeId, Term),
        nonce: u64,
        holds: bool,
    ) -> Result<(), DropReason> {
        let unheard = self.unheard_voters();
        let Some(newborn) = self.newborn.as_mut().filter(|newborn| newborn.nonce == nonce) else {
            return Err(DropReason::StaleReply);
        };
        newborn.heard.insert(from, (term, holds));
        if unheard.iter().all(|id| *id == from) {
            self.come_of_age(now);
        }
        Ok(())
    }

    /// All have answered, or there is nobody else: the node takes part.
    pub(crate) fn come_of_age(&mut self, now: Time) {
        let Some(Newborn { heard, .. }) = self.newborn.take() else { return };
        let term = heard.values().map(|(term, _)| *term).max().unwrap_or_default();
        let (own_term, me) = (self.term, self.config.id);
        if term > own_term {
            self.enter_term(term, Some(me));
        } else if self.vote.is_none() && own_term > Term::default() {
            self.vote = Some(me);
            self.persistence.hard_state_changed();
        }
        if heard.values().any(|(_, holds)| *holds) && !planted!(NewbornCounted) {
            self.non_voting_until = Some(LogIndex::MAX);
            self.following.reads = FollowerReads::new(self.rng.next_u64(), true);
        }
        self.draw_election_deadline(now);
    }
}
