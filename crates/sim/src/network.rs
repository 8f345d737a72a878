//! What becomes of a message between two nodes: the seam ([`Network`]) at which the swarm's faulty
//! network and the course's are put in.

use sampan_base::NodeId;
use sampan_replica::Stream;
use sampan_replica::wire::PeerMessage;

use crate::queue::SimTime;

/// One copy of a message that will arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// How long it is on its way, in microseconds.
    pub after_us: u64,
    /// Some of its bytes change on the way.
    pub corrupt: bool,
}

/// A message that sets out.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The stream: messages of one stream between two nodes keep their order unless the network
    /// reorders.
    pub stream: Stream,
    /// What it says.
    pub message: &'a PeerMessage,
    /// The length of its frame.
    pub frame_bytes: usize,
}

/// A sender learns that what it sent is lost: as over TCP, by a connection that opens anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LossNotice {
    /// Who learns.
    pub to: NodeId,
    /// With whom its connection opens.
    pub peer: NodeId,
    /// How long until it learns, in microseconds.
    pub after_us: u64,
}

/// A network.
pub trait Network {
    /// A message sets out. Pushes one delivery for each copy that will arrive: none if it is lost.
    fn send(&mut self, now: SimTime, sending: Sending<'_>, deliveries: &mut Vec<Delivery>);

    /// The message that set out last is lost: whoever learns of that, if anybody does.
    fn loss_notice(&mut self) -> Option<LossNotice> {
        None
    }

    /// Does a sender know that it has no connection? Of the forwards that are lost then it hears.
    fn is_known_unconnected(&self, _sending: &Sending<'_>) -> bool {
        false
    }

    /// A message is about to arrive; false if it is lost after all.
    fn arrives(&mut self, _now: SimTime, _from: NodeId, _to: NodeId) -> bool {
        true
    }

    /// A connection from `from` to `to` opens or closes: how long until `to` learns of it, or
    /// `None` if it does not.
    fn hint_us(&mut self, now: SimTime, from: NodeId, to: NodeId) -> Option<u64>;
}

/// A network that loses nothing and takes the same time for each message.
#[derive(Clone, Copy, Debug)]
pub struct PerfectNetwork {
    /// How long a message is on its way.
    pub latency_us: u64,
}

impl Network for PerfectNetwork {
    fn send(&mut self, _now: SimTime, _sending: Sending<'_>, deliveries: &mut Vec<Delivery>) {
        deliveries.push(Delivery { after_us: self.latency_us, corrupt: false });
    }

    fn hint_us(&mut self, _now: SimTime, _from: NodeId, _to: NodeId) -> Option<u64> {
        Some(self.latency_us)
    }
}
