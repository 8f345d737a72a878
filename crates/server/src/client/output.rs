//! What connections hold because their clients do not take their replies, and the common bound of
//! it.
//!
//! A single connection is bounded by not being read from, and by its own limits
//! (`Client::check_output`). But many that each hold what one may are more than the memory, and no
//! pause brings it back.

use super::{Client, Ending};
use crate::node::Node;
use crate::stats::count_up;

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
    count_up(&node.stats.evicted_clients, 1);
    let number = node.stats.evicted_clients.get();
    // Whoever opens many does not fill the log.
    if number.is_power_of_two() {
        let (most, all) = (client.counted_bytes.get(), node.clients.output.bytes());
        node.log.warn(format_args!(
            "client {} closed, number {number} closed for others: the replies that it does not read held {most} \
             of {all} bytes, the most of any",
            client.remote
        ));
    }
    // No word about it: it would stand behind all that is not taken.
    client.end(Ending::Now);
    count(node, client);
}
