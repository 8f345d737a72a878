//! Elections: timeouts, pre-vote, votes, and when to ignore a candidate (paper 5.2, 5.4.1; thesis
//! 3.4, 4.2.3, 9.6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sampan_base::{LogPosition, NodeId, Term, Time, planted};

use crate::membership::{VoteResult, vote_result};
use crate::node::{Candidate, Raft, RoleState};
use crate::{Answer, Body, DropReason, Why};

/// How many longest election timeouts after it was first put a question is put anew.
const QUESTION_TIMEOUTS: u32 = 3;

impl Raft {
    /// Starts an election at once, without asking first and without regard to a live leader: for
    /// operators and tests. Does nothing on a leader, or on a node that may not lead.
    pub fn campaign(&mut self, now: Time) {
        if !self.is_leader() && self.may_lead() {
            self.start_election(now, true);
        }
        crate::invariants::check(self);
    }

    /// A voter whose log is whole. A node that the latest configuration removes is one until that
    /// is committed: it may hold entries that the others need to elect anybody (thesis 4.2.2).
    pub(crate) fn may_lead(&self) -> bool {
        self.configurations.is_voter_since(self.commit, self.config.id)
            && self.non_voting_until.is_none()
            && !self.is_newborn()
    }

    /// The election timeout passed without a leader (paper 5.2).
    pub(crate) fn election_due(&mut self, now: Time) {
        self.why.get_or_insert(match (self.leader, self.following.heard_at) {
            (Some(leader), Some(at)) => Why::LeaderSilent(leader, now.since(at)),
            _ => Why::NoLeader,
        });
        if !self.may_lead() {
            self.lose_leader();
            self.draw_election_deadline(now);
        } else if self.may_yet_win(now) {
            self.ask_the_others_again(now);
        } else if self.config.pre_vote && self.term > Term::ZERO {
            self.start_pre_vote(now);
        } else {
            // In term 0 nobody ever led or voted here: a candidate of term 1 disturbs nobody.
            self.start_election(now, false);
        }
    }

    /// A new random timeout from now (paper 5.2: randomized, so that split votes are rare).
    pub(crate) fn draw_election_deadline(&mut self, now: Time) {
        let (min, max) = (self.config.election_timeout_min, self.config.election_timeout_max);
        self.election_timeout = self.rng.duration_between(min, max);
        self.election_deadline = now + self.election_timeout;
    }

    /// Brings the deadline forward after a refusal: by another candidate of the term, or by a node
    /// that has not yet noticed that the leader is gone. Both pass within a few messages' time,
    /// which is taken from the answer at hand. The delay grows with each try since a leader was
    /// heard, up to the ordinary timeout. Who refused because it is ahead stands itself.
    fn retry_soon(&mut self, now: Time, pre: bool, answer: Answer, round_trip: Duration) {
        if answer != Answer::No {
            return;
        }
        let jitter = self.config.retry_jitter();
        // Votes, unlike refusals, come only after a sync: they may still be on their way.
        let shortest = round_trip * 2 + if pre { jitter / 4 } else { jitter };
        let longest = shortest + jitter * (1 << self.retries.min(8));
        self.retries = self.retries.saturating_add(1);
        let delay = self.rng.duration_between(shortest, longest);
        self.election_deadline = self.election_deadline.min(now + delay);
    }

    /// The leader's connection closed: stop relying on it, and ask soon whether the others have
    /// lost it too.
    pub(crate) fn leader_connection_closed(&mut self, now: Time) {
        self.why = self.why.or(self.leader.map(Why::ConnectionClosed));
        self.lose_leader();
        self.stand_soon(now);
    }

    fn stand_soon(&mut self, now: Time) {
        let delay = self.rng.duration_between(Duration::ZERO, self.config.retry_jitter());
        self.election_deadline = self.election_deadline.min(now + delay);
    }

    /// Nobody is known to lead this term any more.
    fn lose_leader(&mut self) {
        self.leader = None;
        self.following.heard_at = None;
        self.void_reads();
    }

    /// Is there a leader, other than `candidate`, that was heard within the shortest election
    /// timeout? Leading oneself counts (thesis 4.2.3).
    fn has_live_leader(&self, now: Time, candidate: NodeId) -> bool {
        let heard_recently =
            self.following.heard_at.is_some_and(|at| now < at + self.config.election_timeout_min);
        // A leader that asks for votes leads no more.
        let is_another = self.leader.is_some_and(|leader| leader != candidate);
        self.is_leader() || (is_another && heard_recently)
    }

    /// Leader stickiness (thesis 4.2.3): while a leader lives, candidates are not even heard.
    pub(crate) fn ignores_candidate(&self, now: Time, candidate: NodeId) -> bool {
        self.config.check_quorum && self.has_live_leader(now, candidate)
    }

    // --------------------------------------------------------------------------- asking

    fn start_pre_vote(&mut self, now: Time) {
        self.lose_leader();
        self.ask(now, true, Body::PreVote { last: self.log.last() });
        self.count_vote(now, self.config.id, Answer::Yes);
    }

    /// A real election (paper, Figure 2, "Candidates"): a new term, a vote for oneself, a request
    /// to all. Both leave the node only once term and vote are durable.
    pub(crate) fn start_election(&mut self, now: Time, transfer: bool) {
        assert!(self.may_lead(), "a node that may not lead starts no election");
        self.enter_term(self.term.next(), Some(self.config.id));
        self.lose_leader();
        self.ask(now, false, Body::Vote { last: self.log.last(), transfer });
        // Its own vote, too, counts when it is durable.
        self.send(self.config.id, Body::VoteReply { granted: true });
    }

    fn ask(&mut self, now: Time, pre: bool, question: Body) {
        let others = self.other_voters();
        for &id in &others {
            self.send(id, question.clone());
        }
        let (votes, began_at, asked_at) = (BTreeMap::new(), now, now);
        self.role = RoleState::Candidate(Candidate { pre, question, began_at, asked_at, votes });
        self.draw_election_deadline(now);
    }

    /// Is there a question of this node that is neither decided nor too old? A candidate that was
    /// refused has a rival in its term, and needs another one (paper 5.2); until then a new term
    /// would only void the votes that it has or that are on their way. A refused pre-vote binds
    /// nobody.
    fn may_yet_win(&self, now: Time) -> bool {
        let RoleState::Candidate(candidate) = &self.role else { return false };
        let stands = candidate.pre || candidate.votes.values().all(|&granted| granted);
        stands && now < candidate.began_at + self.config.election_timeout_max * QUESTION_TIMEOUTS
    }

    /// Asks those again that have not said yes: requests are tried again (paper 5.1).
    fn ask_the_others_again(&mut self, now: Time) {
        let others = self.other_voters();
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        candidate.asked_at = now;
        candidate.votes.retain(|_, granted| *granted);
        let question = candidate.question.clone();
        let answered: BTreeSet<NodeId> = candidate.votes.keys().copied().collect();
        for &id in others.difference(&answered) {
            self.send(id, question.clone());
        }
        self.draw_election_deadline(now);
    }

    /// The connection to a peer is a new one: the question, or the answer, may be lost with the old
    /// one (paper 5.1: requests are tried again).
    pub(crate) fn ask_again(&mut self, peer: NodeId) {
        let RoleState::Candidate(candidate) = &self.role else { return };
        if !candidate.votes.contains_key(&peer) && self.other_voters().contains(&peer) {
            self.send(peer, candidate.question.clone());
        }
    }

    fn other_voters(&self) -> BTreeSet<NodeId> {
        let configuration = self.configuration();
        let voters = configuration.voters.union(&configuration.voters_outgoing);
        voters.copied().filter(|&id| id != self.config.id).collect()
    }

    // ------------------------------------------------------------------------- answering

    /// Would this node vote for `from` in the term after `term`? (Thesis 9.6.) No if it has a live
    /// leader, or a term or log that is ahead.
    pub(crate) fn on_pre_vote(&mut self, now: Time, from: NodeId, term: Term, last: LogPosition) {
        let leaderless = !self.has_live_leader(now, from);
        let is_behind = !self.is_up_to_date(last);
        let granted =
            term >= self.term && leaderless && self.non_voting_until.is_none() && !is_behind;
        let stands_itself = leaderless && is_behind && self.may_lead();
        if stands_itself && matches!(self.role, RoleState::Follower) {
            // Who asks lacks what this node has, and may need its vote: better stand oneself.
            self.stand_soon(now);
        }
        let answer = match (granted, stands_itself) {
            (true, _) => Answer::Yes,
            (false, true) => Answer::Behind,
            (false, false) => Answer::No,
        };
        self.send(from, Body::PreVoteReply { asked: term.next(), answer });
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        now: Time,
        from: NodeId,
        asked: Term,
        answer: Answer,
    ) -> Result<(), DropReason> {
        match &self.role {
            RoleState::Candidate(candidate)
                if candidate.pre && asked == self.term.next() || planted!(PreVoteCountsAsVote) =>
            {
                self.count_vote(now, from, answer);
                Ok(())
            }
            _ => Err(DropReason::StaleReply),
        }
    }

    /// `RequestVote`, receiver's rule 2 (paper, Figure 2): one vote a term, for a log at least as
    /// up-to-date as the own one (5.4.1). The term is this node's already.
    pub(crate) fn on_vote(&mut self, now: Time, from: NodeId, last: LogPosition) {
        let free = match self.vote {
            Some(voted_for) => voted_for == from,
            None => self.leader.is_none(),
        };
        let up_to_date = self.is_up_to_date(last) || planted!(NewerTermGranted);
        let granted = free && self.non_voting_until.is_none() && up_to_date;
        if granted && self.vote.is_none() {
            self.vote = Some(from);
            self.persistence.hard_state_changed();
            // Whoever votes stops asking, and waits for the outcome.
            self.become_follower(now, self.term, None);
        }
        self.send(from, Body::VoteReply { granted });
    }

    /// Is a log that ends so at least as up-to-date as the own one? By term first, then by length
    /// (paper 5.4.1).
    fn is_up_to_date(&self, last: LogPosition) -> bool {
        last >= self.log.last() || planted!(LastTermIgnored) && last.index >= self.log.last_index()
    }

    pub(crate) fn on_vote_reply(
        &mut self,
        now: Time,
        from: NodeId,
        granted: bool,
    ) -> Result<(), DropReason> {
        match &self.role {
            RoleState::Candidate(candidate) if !candidate.pre => {
                let answer = if granted { Answer::Yes } else { Answer::No };
                self.count_vote(now, from, answer);
                Ok(())
            }
            _ => Err(DropReason::StaleReply),
        }
    }

    /// Counts the first answer of each node, and acts when the outcome is certain.
    pub(crate) fn count_vote(&mut self, now: Time, from: NodeId, answer: Answer) {
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        let again = planted!(VotesCountedNotVoters) && candidate.votes.contains_key(&from);
        let from = if again { NodeId::of(from.get() + 1) } else { from };
        candidate.votes.entry(from).or_insert(answer == Answer::Yes);
        let (pre, asked_at) = (candidate.pre, candidate.asked_at);
        let votes = &candidate.votes;
        match vote_result(self.configurations.latest(), |id| votes.get(&id).copied()) {
            VoteResult::Won if pre => self.start_election(now, false),
            VoteResult::Won => self.become_leader(now),
            VoteResult::Lost => {
                self.become_follower(now, self.term, None);
                self.retry_soon(now, pre, answer, now.since(asked_at));
            }
            VoteResult::Open => self.retry_soon(now, pre, answer, now.since(asked_at)),
        }
    }
}
