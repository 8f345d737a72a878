//! What nodes say to each other. One closed set; encoding is `wire.rs`, meaning is the modules'
//! that handle each kind.
//!
//! Every message is self-contained and may be lost, delayed, doubled or reordered at no cost to
//! safety. `term` is always the sender's current term when it spoke.

use bytes::Bytes;
use sampan_base::codec::Reader;
use sampan_base::{
    Configuration, Entry, EntryKind, LogIndex, LogPosition, NodeId, SnapshotId, SnapshotMeta, Term,
};

use crate::Health;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
    /// What.
    pub body: Body,
}

/// What a message says.
///
/// `sequence` numbers the requests of one leader in one term, ascending; a reply repeats the
/// number of the request that it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// "Would you vote for me in the term after mine?" (thesis 9.6). Changes no term and no vote; a
    /// receiver whose log is ahead may stand itself the sooner.
    PreVote {
        /// The last entry of the asker's log.
        last: LogPosition,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteReply {
        /// The term after the asker's: what the answer is about.
        asked: Term,
        /// What it is.
        answer: Answer,
    },
    /// `RequestVote` (paper, Figure 2).
    Vote {
        /// The last entry of the candidate's log.
        last: LogPosition,
        /// The leader itself, or an operator, asked for this election: a live leader is no
        /// reason to ignore it (thesis 4.2.3, end).
        transfer: bool,
    },
    /// The answer to [`Body::Vote`]; leaves after the vote is durable.
    VoteReply {
        /// Yes or no.
        granted: bool,
    },
    /// `AppendEntries` with entries (paper, Figure 2).
    Append {
        /// The request's number.
        sequence: u64,
        /// The entry before the first of `entries`: prevLogIndex and prevLogTerm.
        previous: LogPosition,
        /// The leader's commit index.
        commit: LogIndex,
        /// Contiguous from `previous.index + 1`; terms never decrease nor exceed the message's.
        entries: Vec<Entry>,
    },
    /// The answer to [`Body::Append`]; an acceptance leaves after the entries are durable.
    AppendReply {
        /// The number of the request.
        sequence: u64,
        /// The sender lost part of its log and does not count for any quorum yet.
        recovering: bool,
        /// How the sender's disk is.
        health: Health,
        /// What became of it.
        result: AppendResult,
    },
    /// "I lead", without entries: keeps elections off, confirms reads, spreads the commit index,
    /// and finds out what got lost on the way.
    Heartbeat {
        /// The request's number.
        sequence: u64,
        /// min(commit index, `matched`).
        commit: LogIndex,
        /// The last entry that the receiver has acknowledged as durable in this term; zero if the
        /// sender does not hold it any more.
        matched: LogPosition,
        /// The latest round of reads that asks for confirmation (thesis 6.4).
        read: u64,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatReply {
        /// The number of the request.
        sequence: u64,
        /// The sender lost part of its log and does not count for any quorum yet.
        recovering: bool,
        /// How the sender's disk is.
        health: Health,
        /// The round of reads the request named.
        read: u64,
        /// Through here the sender's log is known to equal the leader's.
        received: LogIndex,
        /// Through here it is durable besides.
        matched: LogIndex,
    },
    /// A part of a snapshot (paper, Figure 13).
    InstallSnapshot {
        /// The request's number.
        sequence: u64,
        /// The whole file.
        meta: SnapshotMeta,
        /// Where `data` belongs in it.
        offset: u64,
        /// The part. The last one ends at `meta.size_bytes`. Empty: how far has the peer got?
        data: Bytes,
    },
    /// The answer to [`Body::InstallSnapshot`].
    InstallSnapshotReply {
        /// The number of the request.
        sequence: u64,
        /// Which snapshot.
        id: SnapshotId,
        /// The sender holds the bytes before this one.
        next_offset: u64,
        /// Through here the sender's log, or its snapshot, is durable and equals the leader's:
        /// the snapshot's index once installed, the commit index if the snapshot is older.
        matched: LogIndex,
    },
    /// Another answer to [`Body::InstallSnapshot`]: the sender holds part of a snapshot that
    /// another node made, for a leader before this one, and would go on with that.
    SnapshotHeld {
        /// The number of the request.
        sequence: u64,
        /// Which snapshot was offered.
        id: SnapshotId,
        /// Who made the one that is here in part.
        maker: NodeId,
        /// The one that is here in part.
        meta: SnapshotMeta,
    },
    /// "Start an election at once" (thesis 3.10).
    TimeoutNow,
    /// "What is your commit index?" from a follower with reads to serve (thesis 6.4).
    ReadIndex {
        /// Drawn at random when the asker started, so that no answer outlives a restart.
        nonce: u64,
        /// Covers all reads that the asker numbered up to this.
        sequence: u64,
    },
    /// The answer to [`Body::ReadIndex`], given once a quorum confirmed the leader.
    ReadIndexReply {
        /// As asked.
        nonce: u64,
        /// As asked.
        sequence: u64,
        /// The read index.
        index: LogIndex,
        /// The leader's last entry: whatever it ever sent in its term is in the log before it.
        last: LogIndex,
    },
    /// "What is your term, and do you hold anything?" from a node without a past (`newborn.rs`).
    Greet {
        /// Drawn at random when the asker started.
        nonce: u64,
    },
    /// The answer to [`Body::Greet`]; leaves after the term is durable.
    GreetReply {
        /// As asked.
        nonce: u64,
        /// The sender has entries or a snapshot.
        holds: bool,
    },
}

/// To a question for a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No: there is a leader, or another candidate, or a newer term, or a longer log.
    No,
    /// No, and no need to ask again soon: the log of who answers is ahead, and it stands itself.
    Behind,
}

impl Answer {
    /// In transcripts.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Behind => "behind",
        }
    }

    pub(crate) const fn as_byte(self) -> u8 {
        match self {
            Self::No => 0,
            Self::Yes => 1,
            Self::Behind => 2,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::No),
            1 => Some(Self::Yes),
            2 => Some(Self::Behind),
            _ => None,
        }
    }
}

/// What became of an Append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendResult {
    /// The log equals the leader's, durably, through here: previous + number of entries, never the
    /// receiver's own last index.
    Accepted {
        /// Through here.
        matched: LogIndex,
    },
    /// The receiver does not have `previous`.
    Rejected {
        /// `previous.index` of the request.
        previous: LogIndex,
        /// The receiver's last entry that may match: index ≤ previous.index, term ≤
        /// previous.term.
        hint: LogPosition,
    },
}

impl Body {
    /// Does only a leader say this?
    pub(crate) const fn is_from_leader(&self) -> bool {
        matches!(
            self,
            Self::Append { .. }
                | Self::Heartbeat { .. }
                | Self::InstallSnapshot { .. }
                | Self::TimeoutNow
        )
    }
}

impl Message {
    /// Takes over a later acknowledgement to the same leader, or a later answer to its heartbeats,
    /// so that one message says both. False if the two cannot be one.
    pub(crate) fn absorb(&mut self, later: &Self) -> bool {
        if self.to != later.to || self.term != later.term {
            return false;
        }
        match (&mut self.body, &later.body) {
            (
                Body::AppendReply {
                    sequence,
                    recovering,
                    health,
                    result: AppendResult::Accepted { matched },
                },
                Body::AppendReply {
                    sequence: later_sequence,
                    recovering: later_recovering,
                    health: later_health,
                    result: AppendResult::Accepted { matched: later_matched },
                },
            ) if recovering == later_recovering => {
                *sequence = (*sequence).max(*later_sequence);
                *matched = (*matched).max(*later_matched);
                *health = *later_health;
                true
            }
            (
                Body::HeartbeatReply { sequence, recovering, health, read, received, matched },
                Body::HeartbeatReply {
                    sequence: later_sequence,
                    recovering: later_recovering,
                    health: later_health,
                    read: later_read,
                    received: later_received,
                    matched: later_matched,
                },
            ) if recovering == later_recovering => {
                *sequence = (*sequence).max(*later_sequence);
                *read = (*read).max(*later_read);
                *received = (*received).max(*later_received);
                *matched = (*matched).max(*later_matched);
                *health = *later_health;
                true
            }
            _ => false,
        }
    }
}

/// Terms, indices and lengths of files from outside stay below this, so that counting on never
/// overflows, also where a system counts the bytes of a file with a sign.
const NUMBER_MAX: u64 = 1 << 62;

impl Message {
    /// Is it something that an honest node could have sent? Shape only: no state is looked at.
    pub(crate) fn is_well_formed(&self, entry_bytes_max: usize) -> bool {
        let numbers_are_sane = |numbers: &[u64]| numbers.iter().all(|&n| n < NUMBER_MAX);
        numbers_are_sane(&[self.term.0])
            && match &self.body {
                Body::PreVote { last } | Body::Vote { last, .. } => last.term <= self.term,
                Body::Append { previous, commit, entries, .. } => {
                    numbers_are_sane(&[previous.index.0, commit.0])
                        && are_contiguous(*previous, entries, self.term)
                        && entries.iter().all(|entry| entry.data.len() <= entry_bytes_max)
                }
                Body::Heartbeat { commit, matched, .. } => {
                    *commit <= matched.index && matched.term <= self.term
                }
                Body::AppendReply { result, .. } => match *result {
                    AppendResult::Accepted { matched } => numbers_are_sane(&[matched.0]),
                    AppendResult::Rejected { previous, hint } => {
                        hint.index <= previous && numbers_are_sane(&[previous.0])
                    }
                },
                Body::HeartbeatReply { received, matched, .. } => {
                    matched <= received && numbers_are_sane(&[received.0])
                }
                Body::InstallSnapshot { meta, offset, data, .. } => {
                    let end = offset.checked_add(data.len() as u64);
                    numbers_are_sane(&[meta.position.index.0, meta.size_bytes])
                        && meta.position.term <= self.term
                        && end.is_some_and(|end| end <= meta.size_bytes)
                }
                Body::InstallSnapshotReply { matched, .. } => numbers_are_sane(&[matched.0]),
                Body::SnapshotHeld { meta, .. } => {
                    meta.position.term <= self.term
                        && numbers_are_sane(&[meta.position.index.0, meta.size_bytes])
                }
                Body::ReadIndexReply { index, last, .. } => {
                    index <= last && numbers_are_sane(&[last.0])
                }
                Body::PreVoteReply { .. }
                | Body::VoteReply { .. }
                | Body::TimeoutNow
                | Body::ReadIndex { .. }
                | Body::Greet { .. }
                | Body::GreetReply { .. } => true,
            }
    }
}

/// Do entries follow `previous` one by one, with terms that never decrease nor exceed `term`, and
/// with readable configurations?
fn are_contiguous(previous: LogPosition, entries: &[Entry], term: Term) -> bool {
    let mut last = previous;
    for entry in entries {
        let follows = entry.index == last.index.next() && entry.term >= last.term;
        if !follows || !is_readable(entry) {
            return false;
        }
        last = entry.position();
    }
    last.term <= term
}

fn is_readable(entry: &Entry) -> bool {
    entry.kind != EntryKind::Configuration
        || Configuration::decode(&mut Reader::new(&entry.data)).is_ok()
}
