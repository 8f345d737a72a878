//! All client connections of a node, and the way of a reply to its own.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use sampan_base::Time;
use sampan_replica::{ClientReply, ConnectionId};
use tokio::net::tcp::OwnedWriteHalf;

use super::held::Held;
use super::{Client, Ending, output};
use crate::config::{CLIENTS_MAX, Limits};
use crate::node::Node;

/// A connection's id is its number and, in the lowest bits, its place in the table: found without a
/// search, and never used again.
const PLACE_BITS: u32 = CLIENTS_MAX.trailing_zeros();

/// The table.
pub(crate) struct Clients {
    limits: Limits,
    table: RefCell<Table>,
    /// What all hold of commands that have not arrived whole.
    pub(crate) incomplete: Held,
    /// What all hold of replies that are not taken, and of commands that wait.
    pub(crate) output: Held,
    /// Connections with something to send in this turn.
    unflushed: RefCell<Vec<Rc<Client>>>,
    /// The replica wants nothing more to be read.
    is_congested: Cell<bool>,
    is_stopping: Cell<bool>,
}

#[derive(Default)]
struct Table {
    places: Vec<Option<Rc<Client>>>,
    free: Vec<usize>,
    next_number: u64,
}

impl Clients {
    /// No connections.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            incomplete: Held::new(limits.requests_partial_bytes_max),
            output: Held::new(limits.output_total_bytes_max),
            limits,
            table: RefCell::default(),
            unflushed: RefCell::default(),
            is_congested: Cell::new(false),
            is_stopping: Cell::new(false),
        }
    }

    /// Adds a connection, unless there are too many.
    pub(crate) fn add(
        &self,
        addresses: (SocketAddr, SocketAddr),
        writer: OwnedWriteHalf,
        now: Time,
    ) -> Result<Rc<Client>, OwnedWriteHalf> {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        if table.places.len() - table.free.len() >= self.limits.clients_max {
            return Err(writer);
        }
        let place = table.free.pop().unwrap_or_else(|| {
            table.places.push(None);
            table.places.len() - 1
        });
        table.next_number += 1;
        let number = table.next_number;
        let id = ConnectionId(number << PLACE_BITS | place as u64);
        let client = Rc::new(Client::new(id, number, addresses, writer, &self.limits, now));
        table.places[place] = Some(client.clone());
        Ok(client)
    }

    /// Forgets a connection.
    pub(crate) fn remove(&self, client: &Client) {
        let mut table = self.table.borrow_mut();
        let place = place_of(client.id);
        let removed = table.places[place].take();
        assert!(removed.is_some_and(|removed| removed.id == client.id), "removed twice");
        table.free.push(place);
    }

    /// The connection of this id, if it is not gone.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<Rc<Client>> {
        let table = self.table.borrow();
        table.places.get(place_of(id))?.clone().filter(|client| client.id == id)
    }

    /// Hands a reply to its connection; one that is gone gets none.
    pub(crate) fn deliver(&self, reply: ClientReply) {
        let table = self.table.borrow();
        let Some(Some(client)) = table.places.get(place_of(reply.connection)) else { return };
        if client.id == reply.connection {
            client.flow.borrow_mut().answer(reply.seq, reply.reply);
            self.mark(client);
        }
    }

    /// The piece of a backup that a connection waits for is read: the connection may be, too.
    pub(crate) fn piece_is_read(&self, connection: ConnectionId) {
        if let Some(client) = self.get(connection) {
            client.awaits_piece.set(false);
        }
    }

    /// Lets a connection's output leave with the next [`Clients::flush`].
    pub(crate) fn mark(&self, client: &Rc<Client>) {
        if client.mark() {
            self.unflushed.borrow_mut().push(client.clone());
        }
    }

    /// Sends what has gathered: one call per connection. Whether a client takes its replies goes to
    /// the replica, if that has changed.
    pub(crate) fn flush(&self, node: &Node, now: Time) {
        for client in self.unflushed.borrow_mut().drain(..) {
            client.flush(&self.limits, now);
            client.tell_if_full(&self.limits, &node.inbox);
            output::count(node, &client);
        }
    }

    /// May connections be read?
    pub(crate) fn may_read(&self) -> bool {
        !self.is_congested.get() && !self.is_stopping.get()
    }

    /// Stops or allows reading.
    pub(crate) fn set_congested(&self, is_congested: bool) {
        if self.is_congested.replace(is_congested) && !is_congested {
            self.for_each(Client::resume);
        }
    }

    /// Stops reading for good; what was read is answered.
    pub(crate) fn stop_reading(&self) {
        self.is_stopping.set(true);
    }

    /// Ends each connection when what it asked is answered.
    pub(crate) fn end_all(&self) {
        self.for_each(|client| client.end(Ending::AfterReplies));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        let table = self.table.borrow();
        table.places.len() - table.free.len()
    }

    /// How many there have been.
    pub(crate) fn total(&self) -> u64 {
        self.table.borrow().next_number
    }

    /// Visits all, in no order that means anything.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Client)) {
        // Whoever is visited may end, and so change the table.
        let clients: Vec<Rc<Client>> =
            self.table.borrow().places.iter().flatten().cloned().collect();
        for client in clients {
            visit(&client);
        }
    }
}

const fn place_of(id: ConnectionId) -> usize {
    (id.0 % CLIENTS_MAX as u64) as usize
}
