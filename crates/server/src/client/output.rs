//! What connections hold because their clients do not take their replies, and of whole commands
//! that wait for room, and the common bound of it.
//!
//! A single connection is bounded by not being read from, and by its own limits
//! (`Client::check_output`). But many that each hold what one may are more than the memory, and no
//! pause brings it back.

use super::{Client, Ending, held};
use crate::node::Node;

/// Counts what a connection holds after it was read or written, and makes room if that is too much
/// for all.
pub(crate) fn count(node: &Node, client: &Client) {
    let now = client.untaken_bytes();
    let before = client.counted_bytes.replace(now);
    let most = node.clients.output.change(client.id, before, now);
    if let Some(most) = most.and_then(|id| node.clients.get(id)) {
        close_for_room(node, &most);
    }
}

fn close_for_room(node: &Node, client: &Client) {
    let (held, bytes) = (&node.clients.output, client.counted_bytes.get());
    held::note_eviction(
        node,
        client,
        held,
        bytes,
        "replies that it does not read, and commands that wait,",
    );
    // No word about it: it would stand behind all that is not taken.
    client.end(Ending::Now);
    count(node, client);
}
