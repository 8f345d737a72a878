//! The transport between nodes.
//!
//! Each node dials every peer at the address it was given for it and sends on the connections it
//! dialled, two per peer: one for everything and one for snapshot chunks and entries for repairs,
//! so that bulk never delays a heartbeat. What arrives is read from the connections that the peers
//! dialled. A NAT or a proxy may thus stand on any link.
//!
//! What it is not: reliable. A full queue drops, a lost connection drops; Raft sends again. The
//! replica hears only whom it has a connection to, and of a forward that was given to none.
//!
//! - `handshake.rs`: who is there
//! - `link.rs`: the sending side of one stream to one peer
//! - `inbound.rs`: the receiving side
//! - `frames.rs`: its bytes on their way to being frames
//! - `missing.rs`: who has been away for long

mod frames;
pub(crate) mod handshake;
mod inbound;
mod link;
pub(crate) mod missing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use sampan_base::{NodeId, Rng};
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Envelope, Input, StateSettings, Stream};
use sampan_storage::Identity;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::config::{Config, HostPort, Limits};
use crate::inbox::Inbox;
use crate::log::Log;
use crate::stats::count_up;
use link::Link;

/// All there is of other nodes.
pub(crate) struct Peers {
    identity: Identity,
    limits: Limits,
    /// Others that have other ones are not let in.
    state_settings: StateSettings,
    /// What this node tells others of its client address.
    advertised: HostPort,
    inbox: Rc<Inbox>,
    log: Log,
    rng: RefCell<Rng>,
    by_id: BTreeMap<NodeId, Peer>,
    /// Links with something to send in this turn.
    unflushed: RefCell<Vec<(NodeId, Stream)>>,
    /// The task that reads each inbound stream.
    inbound: RefCell<BTreeMap<(NodeId, Stream), AbortHandle>>,
    handshakes: Cell<usize>,
    pub(crate) counters: Counters,
}

/// One other node.
struct Peer {
    address: HostPort,
    /// Where its clients reach it, as it said itself.
    client_address: RefCell<Option<HostPort>>,
    main: Link,
    bulk: Link,
}

/// Figures that only count up, for `INFO`.
#[derive(Default)]
pub(crate) struct Counters {
    /// Frames sent, or handed to the kernel at least.
    pub(crate) frames_sent: Cell<u64>,
    /// Their bytes.
    pub(crate) bytes_sent: Cell<u64>,
    /// Frames received whole and taken.
    pub(crate) frames_received: Cell<u64>,
    /// Bytes received.
    pub(crate) bytes_received: Cell<u64>,
    /// Frames dropped because there was no connection.
    pub(crate) dropped_unconnected: Cell<u64>,
    /// Frames dropped because the queue was full.
    pub(crate) dropped_queue_full: Cell<u64>,
    /// Frames dropped because they were for somebody else, or from somebody else.
    pub(crate) dropped_misdirected: Cell<u64>,
    /// Connections closed over a frame that was damaged or made no sense.
    pub(crate) broken_frames: Cell<u64>,
    /// Connections that did not get through the handshake.
    pub(crate) handshakes_failed: Cell<u64>,
}

impl Peers {
    /// The peers of a configuration, not yet connected.
    pub(crate) fn new(
        config: &Config,
        client_port: u16,
        inbox: Rc<Inbox>,
        log: Log,
        seed: u64,
    ) -> Self {
        let peers = config.peers.iter().map(|(&id, address)| {
            let peer = Peer {
                address: address.clone(),
                client_address: RefCell::default(),
                main: Link::default(),
                bulk: Link::default(),
            };
            (id, peer)
        });
        let own = match &config.advertise {
            Some(advertised) => advertised.clone(),
            // An empty host: wherever a peer reaches this node.
            None => HostPort::new("", client_port),
        };
        Self {
            identity: Identity { cluster: config.cluster, node: config.node },
            limits: config.limits.clone(),
            state_settings: config.replica.of_state(),
            advertised: own,
            inbox,
            log,
            rng: RefCell::new(Rng::seeded(seed)),
            by_id: peers.collect(),
            unflushed: RefCell::default(),
            inbound: RefCell::default(),
            handshakes: Cell::new(0),
            counters: Counters::default(),
        }
    }

    /// Starts dialling and accepting, as tasks of the current local runtime.
    pub(crate) fn start(self: &Rc<Self>, listener: TcpListener) {
        for &peer in self.by_id.keys() {
            for stream in [Stream::Main, Stream::Bulk] {
                tokio::task::spawn_local(link::run(self.clone(), peer, stream));
            }
        }
        tokio::task::spawn_local(inbound::accept(self.clone(), listener));
    }

    /// Queues a message; it leaves with [`Peers::flush`], or never.
    pub(crate) fn send(&self, envelope: &Envelope) {
        let Some(link) = self.link(envelope.to, envelope.stream) else {
            count_up(&self.counters.dropped_misdirected, 1);
            self.was_not_sent(envelope);
            return;
        };
        if link.push(self, envelope) {
            self.unflushed.borrow_mut().push((envelope.to, envelope.stream));
        }
    }

    /// No byte of a message was given to a connection. Most are sent again anyway; of commands that
    /// were forwarded the replica must know that they may be.
    fn was_not_sent(&self, envelope: &Envelope) {
        if let PeerMessage::Forward(forward) = &envelope.message {
            let (to, frame_seq) = (envelope.to, forward.frame_seq);
            self.inbox.push(Input::ForwardNotSent { to, frame_seq });
        }
    }

    /// Hands what was queued to the kernel: one call per link, unless the kernel takes less.
    pub(crate) fn flush(&self) {
        for (peer, stream) in self.unflushed.borrow_mut().drain(..) {
            if let Some(link) = self.link(peer, stream) {
                link.flush();
            }
        }
    }

    /// Where clients reach a peer: as it said itself, or, until it has, at the host it was
    /// configured with and the client port that goes with its peer port.
    pub(crate) fn client_address(&self, id: NodeId) -> Option<HostPort> {
        let peer = self.by_id.get(&id)?;
        let told = peer.client_address.borrow();
        Some(match &*told {
            Some(told) if told.host.is_empty() => HostPort::new(&peer.address.host, told.port),
            Some(told) => told.clone(),
            None => {
                let port = peer.address.port.saturating_sub(crate::config::PEER_PORT_OFFSET);
                HostPort::new(&peer.address.host, port)
            }
        })
    }

    /// Is the main stream to this peer up?
    pub(crate) fn is_connected(&self, id: NodeId) -> bool {
        self.by_id.get(&id).is_some_and(|peer| peer.main.is_connected())
    }

    /// Bytes that wait to be sent to any peer.
    pub(crate) fn queued_bytes(&self) -> usize {
        let links = self.by_id.values().flat_map(|peer| [&peer.main, &peer.bulk]);
        links.map(Link::queued_bytes).sum()
    }

    /// The other nodes, by id.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_id.keys().copied()
    }

    fn link(&self, peer: NodeId, stream: Stream) -> Option<&Link> {
        let peer = self.by_id.get(&peer)?;
        Some(match stream {
            Stream::Main => &peer.main,
            Stream::Bulk => &peer.bulk,
        })
    }

    /// A peer has dialled this node. One that was down is dialled back at once, for else it would
    /// hear nothing of its cluster for as long as the longest wait.
    fn is_there(&self, id: NodeId) {
        if let Some(peer) = self.by_id.get(&id) {
            peer.main.peer_is_there();
            peer.bulk.peer_is_there();
        }
    }

    fn told_client_address(&self, id: NodeId, address: HostPort) {
        if let Some(peer) = self.by_id.get(&id) {
            *peer.client_address.borrow_mut() = Some(address);
        }
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
