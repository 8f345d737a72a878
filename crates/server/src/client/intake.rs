//! What has arrived on a connection and is not taken yet; and what all connections together hold of
//! commands that have not arrived whole.
//!
//! Such a command may never end, so no reading that pauses would make room: past a bound for all
//! of them the connection that holds most is closed. Whole commands that wait for room are not counted: they
//! are taken as soon as there is some, and are one read of a connection at most.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use sampan_replica::ConnectionId;
use sampan_resp::{RequestLimits, RequestParser};

use super::{Client, Ending};
use crate::node::Node;
use crate::stats::count_up;

/// What a client hears whose connection makes room.
const WHY: &str = "ERR commands that are not complete take too much memory, this one most: closed";

/// The bytes of one connection.
pub(crate) struct Intake {
    pub(crate) parser: RequestParser,
    /// Bytes that are read and not yet taken: part of a request, or requests for which there was
    /// no room.
    pub(crate) partial: Vec<u8>,
    /// There may be whole requests in `partial`.
    pub(crate) has_unread: bool,
}

impl Intake {
    /// Nothing.
    pub(crate) const fn new(limits: RequestLimits) -> Self {
        Self { parser: RequestParser::new(limits), partial: Vec::new(), has_unread: false }
    }

    /// Keeps these bytes alone, and no memory if there are none.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// The first `taken` bytes are done with, and their memory.
    pub(crate) fn mark_taken(&mut self, taken: usize) {
        if taken > 0 {
            self.partial.drain(..taken);
            self.partial.shrink_to_fit();
        }
    }

    /// What is held of a command that has not arrived whole, the places of its arguments included.
    fn incomplete_bytes(&self) -> usize {
        if self.has_unread { 0 } else { self.partial.len() + self.parser.places_bytes() }
    }
}

/// What all connections hold of commands that have not arrived whole.
pub(crate) struct Incomplete {
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Who holds how much: those who hold anything.
    by_size: RefCell<BTreeSet<(usize, ConnectionId)>>,
}

impl Incomplete {
    /// Nobody holds any.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Cell::new(0), by_size: RefCell::default() }
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// A connection holds another number of bytes than before.
    fn change(&self, id: ConnectionId, before: usize, now: usize) {
        let mut by_size = self.by_size.borrow_mut();
        assert!(before == 0 || by_size.remove(&(before, id)), "{id:?} held {before} bytes");
        if now > 0 {
            by_size.insert((now, id));
        }
        self.bytes.set(self.bytes.get() - before + now);
    }

    /// Who is to make room, if that is needed: whoever holds most.
    fn excess(&self) -> Option<ConnectionId> {
        let is_over = self.bytes.get() > self.bytes_max;
        self.by_size.borrow().last().filter(|_| is_over).map(|&(_, id)| id)
    }
}

/// Room in a buffer for the next read; how much that may take. A buffer that is as long as what is missing does
/// not grow for the sake of what may follow, and one that others have read into is not filled for it.
pub(crate) fn make_room(buffer: &mut Vec<u8>, missing: usize, read_bytes: usize) -> usize {
    let wanted = read_bytes.max(missing);
    if buffer.capacity() - buffer.len() < missing.max(1) {
        buffer.reserve(wanted);
    }
    wanted.min(buffer.capacity() - buffer.len())
}

/// Counts what a connection holds after a read, and makes room if that is too much for all.
pub(crate) fn count(node: &Node, client: &Client) {
    let (kept_bytes, incomplete_bytes) = {
        let intake = client.intake.borrow();
        (intake.partial.len(), intake.incomplete_bytes())
    };
    client.kept_bytes.set(kept_bytes);
    let before = client.incomplete_bytes.replace(incomplete_bytes);
    if before == incomplete_bytes {
        return;
    }
    let incomplete = &node.clients.incomplete;
    incomplete.change(client.id, before, incomplete_bytes);
    // One is enough: it holds no less than what has just come.
    if let Some(most) = incomplete.excess().and_then(|id| node.clients.get(id)) {
        close_for_room(node, &most);
    }
}

/// The connection reads no more: the memory goes back now, though the end may be a while off.
pub(crate) fn forget(node: &Node, client: &Client) {
    client.intake.replace(Intake::new(node.config.limits.request));
    count(node, client);
}

fn close_for_room(node: &Node, client: &Client) {
    count_up(&node.stats.evicted_clients, 1);
    let number = node.stats.evicted_clients.get();
    // Whoever sends many does not fill the log.
    if number.is_power_of_two() {
        let (most, all) = (client.incomplete_bytes.get(), node.clients.incomplete.bytes());
        node.log.warn(format_args!(
            "client {} closed, number {number} of its kind: {most} bytes of a command that is not complete, the \
             most of any, of {all} bytes of all such commands",
            client.remote
        ));
    }
    node.stats.errors.count(WHY);
    client.flow.borrow_mut().say(format!("-{WHY}\r\n").as_bytes());
    client.end(Ending::AfterReplies);
    forget(node, client);
    client.flush(&node.config.limits, node.coarse_time.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> ConnectionId {
        ConnectionId(id)
    }

    #[test]
    fn whoever_holds_most_makes_room_and_nobody_while_there_is_some() {
        let incomplete = Incomplete::new(100);
        incomplete.change(id(1), 0, 60);
        incomplete.change(id(2), 0, 40);
        assert_eq!(incomplete.excess(), None);
        incomplete.change(id(3), 0, 1);
        assert_eq!(incomplete.excess(), Some(id(1)));
        incomplete.change(id(2), 40, 61);
        assert_eq!(incomplete.excess(), Some(id(2)));
        incomplete.change(id(2), 61, 0);
        assert_eq!((incomplete.excess(), incomplete.bytes()), (None, 61));
    }

    #[test]
    fn a_buffer_has_room_for_what_is_missing_and_a_read_takes_no_more_than_it_may() {
        let mut buffer = Vec::with_capacity(1 << 20);
        assert_eq!(make_room(&mut buffer, 0, 4_096), 4_096, "much room");
        buffer.resize(buffer.capacity() - 100, 0);
        assert_eq!(make_room(&mut buffer, 100, 4_096), 100, "just enough");
        let capacity = buffer.capacity();
        assert_eq!(make_room(&mut buffer, 5_000, 4_096), 5_000, "not enough");
        assert!(buffer.capacity() > capacity);
    }

    #[test]
    fn what_is_left_of_a_read_keeps_no_more_memory_than_it_needs() {
        let mut intake = Intake::new(RequestLimits::default());
        intake.partial = vec![b'x'; 1 << 20];
        intake.mark_taken((1 << 20) - 20_000);
        assert!(intake.partial.capacity() < 30_000, "{}", intake.partial.capacity());
    }

    #[test]
    fn whole_commands_that_wait_for_room_are_not_counted() {
        let mut intake = Intake::new(RequestLimits::default());
        intake.partial = b"*2\r\n$3\r\nGET\r\n$1\r\nk".to_vec();
        intake.parser.parse(&intake.partial).unwrap();
        assert_eq!(intake.incomplete_bytes(), intake.partial.len() + size_of::<[usize; 2]>());
        intake.has_unread = true;
        assert_eq!(intake.incomplete_bytes(), 0);
    }
}
