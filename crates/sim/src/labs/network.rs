//! The course's network (`labrpc`) between servers, and what of it clerks need.
//!
//! There a call is a request and its reply, and what the network does to it is decided when it is
//! made. Here requests and replies are messages of their own, and each is treated as its half of a
//! call would be:
//!
//! - A **request** ([`is_request`]) counts as one RPC and its bytes count, also if it is lost. It
//!   is lost unless the link is enabled and the receiver runs. On an unreliable network it is
//!   delayed by 0 to 26 ms and then lost once in ten.
//! - A **reply** counts in bytes if it is delivered. It is lost unless the link is enabled. On an
//!   unreliable network it is lost once in ten; with long reordering two in three are delayed by
//!   200 to 2 200 ms.
//! - Every message takes [`HOP_US`] besides. Nothing keeps messages in order.
//! - `labrpc` tells the caller of a call that it failed. Here a candidate is told of a question,
//!   and a leader of an append or a part of a snapshot, that an unreliable network lost, or whose
//!   answer it lost, when the call would have failed: as a connection that opened anew. Nobody is
//!   told of other losses, nor that a link was cut.

use sampan_base::{NodeId, Rng};
use sampan_raft::Body;
use sampan_replica::wire::PeerMessage;

use crate::network::{Delivery, LossNotice, Network, Sending};
use crate::queue::SimTime;

/// What every message takes, in microseconds of virtual time.
pub(super) const HOP_US: u64 = 100;
/// The longest delay of a request on an unreliable network, in milliseconds.
const DELAY_MS_MAX: u64 = 26;
/// Of 1000 messages an unreliable network loses so many.
const LOST_PERMILLE: u64 = 100;

/// What was counted so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Requests sent, by servers and clerks, lost ones included.
    pub rpcs: u64,
    /// Bytes of all requests sent and all replies delivered.
    pub bytes: u64,
}

/// The network of one lab. Servers are numbered from 0; server `i` is node `i + 1`.
#[derive(Debug)]
pub(super) struct LabNetwork {
    /// Nothing is delayed or lost at random.
    pub reliable: bool,
    /// Replies are delayed for long.
    pub long_reordering: bool,
    /// From, to.
    links: Vec<Vec<bool>>,
    /// Is there a server of this number at present?
    present: Vec<bool>,
    /// What was counted.
    pub traffic: Traffic,
    /// Requests that reached each server from others.
    pub incoming: Vec<u64>,
    rng: Rng,
    notice: Option<LossNotice>,
}

impl LabNetwork {
    /// A network of which no link is enabled and no server present.
    pub(super) fn new(servers: usize, reliable: bool, rng: Rng) -> Self {
        Self {
            reliable,
            long_reordering: false,
            links: vec![vec![false; servers]; servers],
            present: vec![false; servers],
            traffic: Traffic::default(),
            incoming: vec![0; servers],
            rng,
            notice: None,
        }
    }

    /// Enables or disables the links between two servers, both ways.
    pub(super) fn set_link(&mut self, a: usize, b: usize, enabled: bool) {
        self.links[a][b] = enabled;
        self.links[b][a] = enabled;
    }

    /// A server is there, or no longer.
    pub(super) fn set_present(&mut self, server: usize, present: bool) {
        self.present[server] = present;
    }

    /// Is a server there?
    pub(super) fn is_present(&self, server: usize) -> bool {
        self.present[server]
    }

    /// Counts a request of a clerk.
    pub(super) fn count_request(&mut self, bytes: u64) {
        self.traffic.rpcs += 1;
        self.traffic.bytes += bytes;
    }

    /// How long a request is on its way, or `Err` with how long until it is lost.
    pub(super) fn request_us(&mut self) -> Result<u64, u64> {
        if self.reliable {
            return Ok(HOP_US);
        }
        let delay_us = self.rng.between(0, DELAY_MS_MAX) * 1_000;
        if self.rng.permille(LOST_PERMILLE) { Err(delay_us) } else { Ok(delay_us + HOP_US) }
    }

    /// How long a reply is on its way, or `None` if it is lost.
    pub(super) fn reply_us(&mut self) -> Option<u64> {
        if !self.reliable && self.rng.permille(LOST_PERMILLE) {
            return None;
        }
        if self.long_reordering && self.rng.below(3) < 2 {
            let bound_ms = 1 + self.rng.below(2_000);
            return Some((200 + self.rng.below(bound_ms)) * 1_000 + HOP_US);
        }
        Some(HOP_US)
    }

    /// How long a clerk waits to be told that there is no way to a server.
    pub(super) fn no_way_us(&mut self) -> u64 {
        self.rng.below(100) * 1_000
    }
}

/// The number of a server.
pub(crate) fn number_of(id: NodeId) -> usize {
    id.get() as usize - 1
}

/// Does a message ask for something, so that it is what the course calls an RPC? All that opens an
/// exchange does; what answers one is a reply.
pub(super) fn is_request(message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Forward(_)
        | PeerMessage::SnapshotWanted(_)
        | PeerMessage::SnapshotDamaged(_)
        | PeerMessage::Wanted(_) => true,
        PeerMessage::ForwardReply(_)
        | PeerMessage::SnapshotPart(_)
        | PeerMessage::SnapshotMissing(_)
        | PeerMessage::Held(_) => false,
        PeerMessage::Raft(message) => match message.body {
            Body::PreVote { .. }
            | Body::Vote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::InstallSnapshot { .. }
            | Body::TimeoutNow
            | Body::ReadIndex { .. }
            | Body::Greet { .. } => true,
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::InstallSnapshotReply { .. }
            | Body::SnapshotHeld { .. }
            | Body::ReadIndexReply { .. }
            | Body::GreetReply { .. } => false,
        },
    }
}

/// Who is told that a message is lost.
fn loss_notice(sending: &Sending<'_>, after_us: u64) -> Option<LossNotice> {
    let PeerMessage::Raft(message) = sending.message else { return None };
    let (to, peer) = match message.body {
        Body::PreVote { .. }
        | Body::Vote { .. }
        | Body::Append { .. }
        | Body::InstallSnapshot { .. } => (sending.from, sending.to),
        Body::PreVoteReply { .. }
        | Body::VoteReply { .. }
        | Body::AppendReply { .. }
        | Body::InstallSnapshotReply { .. }
        | Body::SnapshotHeld { .. } => (sending.to, sending.from),
        _ => return None,
    };
    Some(LossNotice { to, peer, after_us })
}

impl Network for LabNetwork {
    fn send(&mut self, _now: SimTime, sending: Sending<'_>, deliveries: &mut Vec<Delivery>) {
        let (from, to) = (number_of(sending.from), number_of(sending.to));
        let bytes = sending.frame_bytes as u64;
        let is_request = is_request(sending.message);
        if is_request {
            self.count_request(bytes);
        }
        if !self.links[from][to] || !self.present[to] {
            return;
        }
        let way_us = if is_request { self.request_us() } else { self.reply_us().ok_or(0) };
        let after_us = match way_us {
            Ok(after_us) => after_us,
            Err(after_us) => {
                self.notice = loss_notice(&sending, after_us);
                return;
            }
        };
        if is_request {
            self.incoming[to] += 1;
        } else {
            self.traffic.bytes += bytes;
        }
        deliveries.push(Delivery { after_us, corrupt: false });
    }

    fn loss_notice(&mut self) -> Option<LossNotice> {
        self.notice.take()
    }

    fn hint_us(&mut self, _now: SimTime, _from: NodeId, _to: NodeId) -> Option<u64> {
        None
    }
}
