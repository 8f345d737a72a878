//! One running node, as all tasks of its event loop share it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sampan_base::{NodeId, Time, WallTime};
use sampan_replica::Replica;

use crate::backups::Backups;
use crate::client::connection::Batch;
use crate::client::registry::Clients;
use crate::config::{Config, HostPort};
use crate::inbox::Inbox;
use crate::log::Log;
use crate::peer::Peers;
use crate::stats::{Stats, count_up};
use crate::time::Clock;

/// Everything there is one of. On one thread: each `RefCell` is borrowed for the length of one call
/// and never across a wait.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// The ports as bound.
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    pub(crate) clock: Clock,
    /// Names this run in `INFO`: 40 hex digits.
    pub(crate) run_id: String,
    pub(crate) log: Log,
    pub(crate) replica: RefCell<Replica>,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) clients: Clients,
    pub(crate) backups: Backups,
    pub(crate) peers: Rc<Peers>,
    pub(crate) stats: Stats,
    /// The monotonic clock as of the last turn or sweep: a clock that costs nothing.
    pub(crate) coarse_time: Cell<Time>,
    /// When the newest snapshot became durable; the start, if there was none since.
    pub(crate) snapshot_at: Cell<WallTime>,
    /// The last attempt at one failed.
    pub(crate) snapshot_failed: Cell<bool>,
    /// Buffers that are used again and again, by one call at a time.
    pub(crate) read_scratch: RefCell<Vec<u8>>,
    pub(crate) reply_scratch: RefCell<Vec<u8>>,
    pub(crate) batch: RefCell<Batch>,
}

impl Node {
    /// Where clients reach a node of this cluster, as far as is known. `here` is the address by
    /// which the asking client reached this node.
    pub(crate) fn client_address(&self, id: NodeId, here: std::net::IpAddr) -> Option<HostPort> {
        if id != self.config.node {
            return self.peers.client_address(id);
        }
        Some(match &self.config.advertise {
            Some(advertised) => advertised.clone(),
            None if self.config.listen.is_unspecified() => {
                HostPort::new(here.to_string(), self.client_port)
            }
            None => HostPort::new(&self.config.listen.host, self.client_port),
        })
    }

    /// A node's name as Redis clusters have it: 40 hex digits.
    pub(crate) fn cluster_name(&self, id: NodeId) -> String {
        format!("{}{:024x}", self.config.cluster, id.get())
    }

    /// A snapshot became durable.
    pub(crate) fn snapshot_is_durable(&self, now: WallTime) {
        self.snapshot_at.set(now);
        self.snapshot_failed.set(false);
        count_up(&self.stats.snapshots, 1);
    }

    /// The leader, if this node knows one, though it may have no connection to it.
    pub(crate) fn known_leader(&self) -> Option<NodeId> {
        self.replica.borrow().known_leader()
    }

    /// The nodes of the cluster, the leader (or, while there is none, this node) first.
    pub(crate) fn nodes_leader_first(&self) -> Vec<NodeId> {
        let first = self.known_leader().unwrap_or(self.config.node);
        let mut nodes: Vec<NodeId> = self.peers.ids().chain([self.config.node]).collect();
        nodes.sort_by_key(|&id| (id != first, id));
        nodes
    }
}
