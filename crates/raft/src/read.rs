//! Linearizable reads without the log (thesis 6.4): a read index, confirmed by a quorum.
//!
//! Reads that come in one turn form a round. The leader notes its commit index, numbers the round,
//! and asks its voters with a heartbeat that names the number; each answers with the number. A
//! voter's latest number is all that is kept of its answers, so lost, late and doubled heartbeats
//! cost nothing, and the rounds a quorum confirmed are found by the same function as the commit
//! index. No round starts before this leader has committed an entry of its term, since before that
//! it does not know what is committed (6.4, step 1). All end void when the term does.
//!
//! A round asks the voters that answered the last round first and suffice for a quorum: a question
//! to anybody else costs both sides a message and answers nobody sooner. The others are asked when
//! an answer is late, and once per heartbeat interval, to notice who has become faster. A round
//! that all were asked for and no quorum has confirmed is asked for again.
//!
//! A follower asks its leader for an index on behalf of all its waiting reads. Its question is an
//! acknowledgement too: of three voters, the one that asks and the leader are a quorum, and no
//! round is needed.

use std::collections::VecDeque;

use sampan_base::{LogIndex, NodeId, Time, planted};

use crate::membership::agreed;
use crate::node::{Raft, RoleState};
use crate::{Body, Config, DropReason, ReadId, ReadOutcome, ReadVoid, Refused};

/// An answer that takes this part of a heartbeat interval is late.
const LATE_PART: u32 = 16;

/// Whose read.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Own(ReadId),
    Follower { from: NodeId, nonce: u64, sequence: u64 },
}

/// Reads that go through one confirmation together.
#[derive(Debug)]
struct Round {
    number: u64,
    index: LogIndex,
    count: usize,
    begun_at: Time,
}

/// The reads of a leader, oldest first: those of each round, then those without one.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    readers: VecDeque<Reader>,
    rounds: VecDeque<Round>,
    /// How many readers have a round.
    in_rounds: usize,
    round: u64,
    /// The latest round that every voter was asked for, and when.
    asked_all: u64,
    all_asked_at: Time,
}

impl LeaderReads {
    /// The number of the latest round.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// When the answers are late: the voters that were not asked are to be, and later all of them
    /// again, for question or answer may be lost, and a peer that is sent Appends is due no
    /// heartbeat.
    pub(crate) fn late_at(&self, config: &Config) -> Time {
        let interval = config.heartbeat_interval;
        let is_asked = |round: &&Round| round.number <= self.asked_all;
        let unasked = self.rounds.iter().find(|round| !is_asked(round));
        let late = unasked.map(|round| round.begun_at + interval / LATE_PART);
        let lost = self.rounds.front().filter(is_asked).map(|_| self.all_asked_at + interval);
        late.into_iter().chain(lost).min().unwrap_or(Time::NEVER)
    }

    /// No read has an index that was not committed when its round began, and none is counted twice.
    pub(crate) fn check(&self, commit: LogIndex) {
        assert!(self.in_rounds <= self.readers.len(), "{} reads in rounds", self.in_rounds);
        if let Some(Round { number, index, .. }) = self.rounds.back() {
            assert!(*index <= commit, "a read at {index}, commit {commit}");
            assert!(*number == self.round, "round {number} is not the latest, {}", self.round);
        }
    }
}

/// The reads of a follower.
#[derive(Debug)]
pub(crate) struct FollowerReads {
    /// With the number of the request that covers each, once one was sent.
    waiting: VecDeque<(ReadId, u64)>,
    nonce: u64,
    /// The last request sent.
    sequence: u64,
    /// Reads came since the last request.
    unasked: bool,
    retry_at: Time,
    /// The node lost the end of its log and wants to know where the leader's ends: an answer to a
    /// request of this life covers all that an earlier life may have acknowledged.
    wants_last: bool,
}

impl FollowerReads {
    pub(crate) fn new(nonce: u64, wants_last: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            nonce,
            sequence: 0,
            unasked: wants_last,
            retry_at: Time::NEVER,
            wants_last,
        }
    }

    /// From now on the node wants to know where the leader's log ends.
    pub(crate) fn want_last(&mut self) {
        (self.wants_last, self.unasked) = (true, true);
    }

    fn has_reason(&self) -> bool {
        self.wants_last || !self.waiting.is_empty()
    }

    pub(crate) fn retry_at(&self) -> Time {
        if self.has_reason() { self.retry_at } else { Time::NEVER }
    }
}

impl Raft {
    /// Asks for a read index. It comes out as [`crate::Outputs::reads`], or is void: then ask
    /// again with a fresh id. On a follower the leader is asked.
    pub fn read_index(&mut self, id: ReadId) -> Result<(), Refused> {
        match &mut self.role {
            RoleState::Leader(leader) => {
                if leader.reads.readers.len() >= self.config.reads_max {
                    return Err(Refused::Busy("reads_max"));
                }
                leader.reads.readers.push_back(Reader::Own(id));
            }
            _ if planted!(FollowerCommitRead) => {
                self.pending.reads.push(ReadOutcome { id, result: Ok(self.commit) });
            }
            _ if self.leader.is_none() => return Err(Refused::NotLeader { leader: None }),
            _ => {
                let reads = &mut self.following.reads;
                if reads.waiting.len() >= self.config.reads_max {
                    return Err(Refused::Busy("reads_max"));
                }
                reads.waiting.push_back((id, reads.sequence + 1));
                reads.unasked = true;
            }
        }
        crate::invariants::check(self);
        Ok(())
    }

    /// A follower asks. No answer is needed if it cannot be taken: it asks again.
    pub(crate) fn on_read_index(
        &mut self,
        from: NodeId,
        nonce: u64,
        sequence: u64,
    ) -> Result<(), DropReason> {
        if self.is_confirmed_by_question_of(from) {
            let (index, last) = (self.commit, self.log.last_index());
            self.send(from, Body::ReadIndexReply { nonce, sequence, index, last });
            return Ok(());
        }
        if self.is_leader() && !self.has_committed_in_term() {
            // It may be a node that lost the end of its log, and it may be needed for the first
            // commit of this term: where the log ends it may know. This answers no read, as none
            // has number 0.
            let (index, last) = (self.commit, self.log.last_index());
            self.send(from, Body::ReadIndexReply { nonce, sequence: 0, index, last });
        }
        let RoleState::Leader(leader) = &mut self.role else { return Err(DropReason::WrongRole) };
        let reads = &mut leader.reads;
        // A later request of a node covers its earlier ones.
        for reader in reads.readers.range_mut(reads.in_rounds..).rev() {
            if let Reader::Follower { from: asker, nonce: life, sequence: covered } = reader
                && (*asker, *life) == (from, nonce)
            {
                *covered = sequence.max(*covered);
                return Ok(());
            }
        }
        if reads.readers.len() >= self.config.reads_max {
            return Err(DropReason::TooManyReads);
        }
        reads.readers.push_back(Reader::Follower { from, nonce, sequence });
        Ok(())
    }

    // ---------------------------------------------------------------------- the leader

    /// Whether a follower's question alone confirms this leader for the reads it is asked for.
    ///
    /// When the follower asked, it had not left this term, nor had this leader, which is still in
    /// it. If the two are a quorum, no later term had a leader by then, and all that was
    /// acknowledged by then is within this leader's commit index of now. The reads began before the
    /// question was sent, so it proves as much if it comes late, doubled or out of order. It proves
    /// nothing for reads that began elsewhere: those of the leader and of other followers need a
    /// round.
    ///
    /// A learner's word, and that of a leader that is being removed, count for nothing here either;
    /// during a joint configuration the two must be a majority of both halves.
    fn is_confirmed_by_question_of(&self, follower: NodeId) -> bool {
        let id = self.config.id;
        let stands = |voter| u64::from(voter == id || voter == follower);
        matches!(self.role, RoleState::Leader(_))
            && self.has_committed_in_term()
            && agreed(self.configurations.latest(), stands) == 1
    }

    /// Begins a round, if there are reads without one. Which voters are to be asked now: those that
    /// have confirmed this round or a later one.
    pub(crate) fn ask_for_reads(&mut self, now: Time) -> Option<u64> {
        let begins = self.start_read_round(now);
        let RoleState::Leader(leader) = &mut self.role else { return None };
        let (reads, config) = (&mut leader.reads, &self.config);
        let looks_around = begins && now >= reads.all_asked_at + config.heartbeat_interval;
        if looks_around || now >= reads.late_at(config) {
            (reads.asked_all, reads.all_asked_at) = (reads.round, now);
            return Some(0);
        }
        let (id, peers) = (self.config.id, &leader.peers);
        begins.then(|| {
            agreed(self.configurations.latest(), |voter| {
                let is_own = voter == id;
                if is_own { u64::MAX } else { peers.get(&voter).map_or(0, |peer| peer.read) }
            })
        })
    }

    /// Makes a round of the reads that have none. True if voters must be asked.
    fn start_read_round(&mut self, now: Time) -> bool {
        let may_start = self.has_committed_in_term() || planted!(ReadBeforeTermCommit);
        let RoleState::Leader(leader) = &mut self.role else { return false };
        let reads = &mut leader.reads;
        let count = reads.readers.len() - reads.in_rounds;
        if count == 0 || !may_start {
            return false;
        }
        reads.round += 1;
        reads.in_rounds += count;
        let (number, index, begun_at) = (reads.round, self.commit, now);
        reads.rounds.push_back(Round { number, index, count, begun_at });
        // A quorum of one has confirmed it already.
        self.confirm_reads();
        matches!(&self.role, RoleState::Leader(leader) if !leader.reads.rounds.is_empty())
    }

    /// Answers the rounds that a quorum has confirmed.
    pub(crate) fn confirm_reads(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if leader.reads.rounds.is_empty() {
            return;
        }
        let (id, own, peers) = (self.config.id, leader.reads.round, &leader.peers);
        // A voter that lost part of its log confirms too: its term and vote are whole.
        let confirmed = agreed(self.configurations.latest(), |voter| {
            if voter == id || planted!(ReadUnconfirmed) {
                return own;
            }
            peers.get(&voter).map_or(0, |peer| peer.read)
        });
        let (mut answers, last) = (Vec::new(), self.log.last_index());
        while let Some(round) = leader.reads.rounds.front()
            && round.number <= confirmed
        {
            let Round { index, count, .. } = *round;
            leader.reads.rounds.pop_front();
            leader.reads.in_rounds -= count;
            for reader in leader.reads.readers.drain(..count) {
                match reader {
                    Reader::Own(id) => {
                        self.pending.reads.push(ReadOutcome { id, result: Ok(index) });
                    }
                    Reader::Follower { from, nonce, sequence } => {
                        answers.push((from, Body::ReadIndexReply { nonce, sequence, index, last }));
                    }
                }
            }
        }
        for (to, body) in answers {
            self.send(to, body);
        }
    }

    // -------------------------------------------------------------------- the follower

    /// One request for all waiting reads; again, with a new number, if no answer came.
    pub(crate) fn flush_reads_of_follower(&mut self, now: Time) {
        let Some(leader) = self.leader else { return };
        let reads = &mut self.following.reads;
        if !(reads.has_reason() && (reads.unasked || now >= reads.retry_at)) {
            return;
        }
        reads.unasked = false;
        reads.sequence += 1;
        reads.retry_at = now + self.config.heartbeat_interval * 2;
        let (nonce, sequence) = (reads.nonce, reads.sequence);
        self.send(leader, Body::ReadIndex { nonce, sequence });
    }

    /// The answer covers every read that waited when the request was sent. It also says what is
    /// committed, and through where a node that lost the end of its log must have it again: what it
    /// ever acknowledged is of this term and in this leader's log, or of an earlier one and, if it
    /// was committed, there too (paper 5.4.3), because no node that lost anything elected it.
    pub(crate) fn on_read_index_reply(
        &mut self,
        from: NodeId,
        nonce: u64,
        sequence: u64,
        index: LogIndex,
        last: LogIndex,
    ) -> Result<(), DropReason> {
        let reads = &mut self.following.reads;
        if self.leader != Some(from) || nonce != reads.nonce || sequence > reads.sequence {
            return Err(DropReason::StaleReply);
        }
        while let Some(&(id, covered_by)) = reads.waiting.front()
            && covered_by <= sequence
        {
            reads.waiting.pop_front();
            self.pending.reads.push(ReadOutcome { id, result: Ok(index) });
        }
        if std::mem::take(&mut reads.wants_last) {
            // Each leader that it asked in this life has named enough.
            self.non_voting_until = self.non_voting_until.map(|until| until.min(last));
        }
        self.learn_commit(index);
        self.check_recovered();
        Ok(())
    }

    // ------------------------------------------------------------------------ both

    /// The leader or the term is another one: nothing is known of the waiting reads.
    pub(crate) fn void_reads(&mut self) {
        let outcomes = &mut self.pending.reads;
        let mut void = |id| outcomes.push(ReadOutcome { id, result: Err(ReadVoid) });
        if let RoleState::Leader(leader) = &mut self.role {
            for reader in leader.reads.readers.drain(..) {
                if let Reader::Own(id) = reader {
                    void(id);
                }
            }
            leader.reads = LeaderReads::default();
        }
        for (id, _) in self.following.reads.waiting.drain(..) {
            void(id);
        }
        // Whoever leads next is asked at once; until then there is nothing to do.
        let reads = &mut self.following.reads;
        (reads.unasked, reads.retry_at) = (reads.wants_last, Time::NEVER);
    }
}
