//! What all connections together hold of one kind of memory, and who holds most of it.
//!
//! No reading that pauses gives back what a client neither completes nor takes. So past a bound for
//! all of them the connection that holds most is closed: in `intake.rs` for commands that have not
//! arrived whole, in `output.rs` for replies that are not sent and commands that wait.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use sampan_replica::ConnectionId;

use super::Client;
use crate::node::Node;
use crate::stats::count_up;

/// Counts a connection that is closed because it holds most of `held`, so many bytes in `what`.
pub(crate) fn note_eviction(node: &Node, client: &Client, held: &Held, bytes: usize, what: &str) {
    count_up(&node.stats.evicted_clients, 1);
    let number = node.stats.evicted_clients.get();
    // Whoever opens, or sends, many does not fill the log.
    if number.is_power_of_two() {
        let (remote, all) = (client.remote, held.bytes());
        node.log.warn(format_args!(
            "client {remote} closed, number {number} closed for others: {what} held {bytes} of {all} \
             bytes, the most of any"
        ));
    }
}

/// The bytes of all connections.
pub(crate) struct Held {
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Who holds how much: those who hold anything.
    by_size: RefCell<BTreeSet<(usize, ConnectionId)>>,
}

impl Held {
    /// Nobody holds any.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Cell::new(0), by_size: RefCell::default() }
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// A connection holds another number of bytes than before. Who is to make room, if that is
    /// needed: whoever holds most. One is enough: it holds no less than what has just come.
    pub(crate) fn change(
        &self,
        id: ConnectionId,
        before: usize,
        now: usize,
    ) -> Option<ConnectionId> {
        if before == now {
            return None;
        }
        let mut by_size = self.by_size.borrow_mut();
        assert!(before == 0 || by_size.remove(&(before, id)), "{id:?} held {before} bytes");
        if now > 0 {
            by_size.insert((now, id));
        }
        self.bytes.set(self.bytes.get() - before + now);
        let is_over = self.bytes.get() > self.bytes_max;
        by_size.last().filter(|_| is_over).map(|&(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_most_makes_room_and_nobody_while_there_is_some() {
        let [one, two, three] = [1, 2, 3].map(ConnectionId);
        let held = Held::new(100);
        assert_eq!(held.change(one, 0, 60), None);
        assert_eq!(held.change(two, 0, 40), None);
        assert_eq!(held.change(three, 0, 1), Some(one));
        assert_eq!(held.change(two, 40, 61), Some(two));
        assert_eq!(held.change(two, 61, 61), None, "said already");
        assert_eq!((held.change(two, 61, 0), held.bytes()), (None, 61));
    }
}
