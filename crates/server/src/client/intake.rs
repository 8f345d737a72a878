//! What has arrived on a connection and is not taken yet; and what all connections together hold of
//! commands that have not arrived whole.
//!
//! Such a command may never end, so no reading that pauses would make room: past a bound for all of
//! them the connection that holds most is closed (`held.rs`). Whole commands that wait for room are
//! one read of a connection at most, or one long command and a read behind it; they count with the
//! replies that are not taken (`output.rs`).

use sampan_resp::{RequestLimits, RequestParser};

use super::{Client, Ending, held};
use crate::node::Node;

/// What a client hears whose connection makes room.
const WHY: &str =
    "ERR incomplete commands use too much memory; this connection held the most and was closed";

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

    /// The memory of `partial`: what was announced, though it has not come.
    fn kept_bytes(&self) -> usize {
        if self.partial.is_empty() { 0 } else { self.partial.capacity() }
    }

    /// What is held of a command that has not arrived whole, the places of its arguments included.
    fn incomplete_bytes(&self) -> usize {
        if self.has_unread { 0 } else { self.kept_bytes() + self.parser.places_bytes() }
    }
}

/// Makes room in `buffer` for the next read and returns how many bytes that may take. A buffer
/// sized for one announced request does not grow for what may follow it.
pub(crate) fn make_room(buffer: &mut Vec<u8>, missing: usize, read_bytes: usize) -> usize {
    let wanted = read_bytes.max(missing);
    if buffer.capacity() - buffer.len() < missing.max(1) {
        buffer.reserve(wanted);
    }
    wanted.min(buffer.capacity() - buffer.len())
}

/// Counts what a connection holds after a read, and makes room if that is too much for all.
pub(crate) fn count(node: &Node, client: &Client) {
    let incomplete_bytes = {
        let intake = client.intake.borrow();
        client.read_bytes.set(intake.partial.len());
        client.kept_bytes.set(intake.kept_bytes());
        intake.incomplete_bytes()
    };
    let before = client.incomplete_bytes.replace(incomplete_bytes);
    let most = node.clients.incomplete.change(client.id, before, incomplete_bytes);
    if let Some(most) = most.and_then(|id| node.clients.get(id)) {
        close_for_room(node, &most);
    }
}

/// The connection reads no more: the memory goes back now, though the end may be a while off.
pub(crate) fn forget(node: &Node, client: &Client) {
    client.intake.replace(Intake::new(node.config.limits.request));
    count(node, client);
}

fn close_for_room(node: &Node, client: &Client) {
    let (held, bytes) = (&node.clients.incomplete, client.incomplete_bytes.get());
    held::note_eviction(node, client, held, bytes, "its incomplete command");
    node.stats.errors.count(WHY);
    client.flow.borrow_mut().say(format!("-{WHY}\r\n").as_bytes());
    client.end(Ending::AfterReplies);
    forget(node, client);
    client.flush(&node.config.limits, node.coarse_time.get());
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let places_bytes = intake.parser.places_bytes();
        assert!(places_bytes >= size_of::<[usize; 2]>());
        assert_eq!(intake.incomplete_bytes(), intake.partial.len() + places_bytes);
        intake.partial.reserve_exact(1_000);
        assert!(intake.incomplete_bytes() >= 1_000 + places_bytes, "memory that is not used yet");
        intake.has_unread = true;
        assert_eq!(intake.incomplete_bytes(), 0);
    }
}
