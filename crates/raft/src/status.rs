//! What a node says about itself (the course's `GetState`, and far more). Data only.

use sampan_base::{Configuration, LogIndex, NodeId, SnapshotId, SnapshotMeta, Term, Time};

use crate::node::RoleState;
use crate::progress::{Progress, State};
use crate::{Health, Raft};

/// The part a node plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// Everything an operator or an oracle asks of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub vote: Option<NodeId>,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Highest index known to be committed.
    pub commit: LogIndex,
    /// Highest index handed to the state machine.
    pub applied: LogIndex,
    /// First index in the log; `last_index + 1` if the log is empty.
    pub first_index: LogIndex,
    /// Last index in the log, or the point the log starts after.
    pub last_index: LogIndex,
    /// Through here the log is durable on this node.
    pub durable_index: LogIndex,
    /// The latest durable snapshot, if any.
    pub snapshot: Option<SnapshotMeta>,
    /// The configuration in force: the latest in the log, committed or not (thesis 4.1).
    pub configuration: Configuration,
    /// Set while this node has lost part of its log: it neither votes nor counts until it is
    /// durable through this index again (`docs/format.md`).
    pub non_voting_until: Option<LogIndex>,
    /// Whom this node, which has no past, must hear from before it takes any part.
    pub unheard_voters: std::collections::BTreeSet<NodeId>,
    /// How this node's disk is.
    pub health: Health,
    /// The leader's view of each peer, by id; empty unless this node leads.
    pub peers: Vec<PeerStatus>,
    /// Bytes of entries in the log in memory ([`sampan_base::Entry::size_bytes`]).
    pub live_log_bytes: usize,
    /// Bytes of own proposals not yet committed, or not yet durable here; 0 unless this node leads.
    pub uncommitted_bytes: usize,
    /// Whom leadership is being transferred to.
    pub transfer_target: Option<NodeId>,
    /// Messages dropped since the start, by reason.
    pub dropped: DropCounts,
}

/// A leader's view of one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// Does it vote in the configuration in force?
    pub is_voter: bool,
    /// What the leader is doing for it.
    pub state: PeerState,
    /// Through here its log is durable and equals the leader's.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// Appends sent and not acknowledged.
    pub inflight_messages: usize,
    /// Their bytes.
    pub inflight_bytes: usize,
    /// Messages sent to it in this term of leadership.
    pub messages_sent: u64,
    /// Messages received from it in this term of leadership.
    pub messages_received: u64,
    /// When it was last heard in this term; the start of the leadership at first.
    pub heard_at: Time,
    /// It lost part of its log and does not count.
    pub recovering: bool,
    /// What it last said of its disk, if it was heard in this term.
    pub health: Option<Health>,
}

/// What a leader does for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// Looks for the place where the logs agree, one Append at a time.
    Probe,
    /// Sends entries as they come, within the window.
    Replicate,
    /// Sends a snapshot.
    Snapshot {
        /// The snapshot's id.
        id: SnapshotId,
        /// The last index it covers.
        index: LogIndex,
        /// Its length.
        size_bytes: u64,
        /// Bytes that the peer is known to hold.
        acked_bytes: u64,
    },
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Why a message was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// All of them.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// A short lower-case label, for metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Addressed to another node, or from this very node.
    Misaddressed => "misaddressed",
    /// Of a term that is over.
    StaleTerm => "stale_term",
    /// An answer to a request that no longer counts.
    StaleReply => "stale_reply",
    /// A reply from a node that is no peer of this leader.
    UnknownPeer => "unknown_peer",
    /// For a role that this node does not have.
    WrongRole => "wrong_role",
    /// A candidate, while this node hears its leader (thesis 4.2.3).
    LeaderAlive => "leader_alive",
    /// Not what an honest node sends: entries out of order, impossible indices, and the like.
    Malformed => "malformed",
    /// It names a second leader of this term.
    SecondLeader => "second_leader",
    /// Its entries contradict committed ones.
    ContradictsCommitted => "contradicts_committed",
    /// Too many reads wait already.
    TooManyReads => "too_many_reads",
    /// This node has yet to hear from every other voter before it takes part.
    Newborn => "newborn",
}

/// How many messages were dropped for each reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl DropCounts {
    /// How many for this reason.
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }
}

impl Raft {
    /// Everything an operator or an oracle asks of a node (the course's `GetState`). Allocates: for
    /// the hot path there are getters.
    pub fn status(&self) -> Status {
        let transfer = match &self.role {
            RoleState::Leader(leader) => leader.transfer.as_ref(),
            _ => None,
        };
        Status {
            id: self.id(),
            role: self.role(),
            term: self.term,
            vote: self.vote,
            leader: self.leader,
            commit: self.commit,
            applied: self.applied,
            first_index: self.first_index(),
            last_index: self.last_index(),
            durable_index: self.durable_index(),
            snapshot: self.snapshot.clone(),
            configuration: self.configuration().clone(),
            non_voting_until: self.non_voting_until,
            unheard_voters: self.unheard_voters(),
            health: self.health,
            peers: self.peers().collect(),
            live_log_bytes: self.live_log_bytes(),
            uncommitted_bytes: self.uncommitted_bytes(),
            transfer_target: transfer.map(|transfer| transfer.to),
            dropped: self.dropped,
        }
    }

    /// The leader's view of each peer, by id; empty unless this node leads. Does not allocate.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        let peers = match &self.role {
            RoleState::Leader(leader) => Some(leader.peers.iter()),
            _ => None,
        };
        peers.into_iter().flatten().map(|(&id, peer)| self.peer_status(id, peer))
    }

    fn peer_status(&self, id: NodeId, peer: &Progress) -> PeerStatus {
        let (inflight_messages, inflight_bytes) = peer.inflight();
        PeerStatus {
            id,
            is_voter: self.configuration().is_voter(id),
            state: match &peer.state {
                State::Probe { .. } => PeerState::Probe,
                State::Replicate => PeerState::Replicate,
                State::Snapshot(send) => PeerState::Snapshot {
                    id: send.meta.id,
                    index: send.meta.position.index,
                    size_bytes: send.meta.size_bytes,
                    acked_bytes: send.acked,
                },
            },
            matched: peer.matched,
            next: peer.next,
            inflight_messages,
            inflight_bytes,
            messages_sent: peer.messages_sent,
            messages_received: peer.messages_received,
            heard_at: peer.heard_at,
            recovering: peer.recovering,
            health: peer.health,
        }
    }
}
