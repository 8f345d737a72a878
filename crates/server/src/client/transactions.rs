//! Transactions, of which there are none: what stands between `MULTI` and `EXEC` is refused as a
//! whole.
//!
//! Client libraries send both and all between them at once. To refuse these two alone would execute
//! the rest one by one, and say that it failed. So this is a transaction of Redis in which every
//! command is refused when it is queued: client and server agree on when it ends, whether its
//! replies are waited for or not.

use crate::client::Client;
use crate::commands::{say_error, say_ok};
use crate::node::Node;
use crate::stats::count_up;

const REFUSED: &str = "ERR transactions are not supported: nothing before EXEC is executed";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// Answers a command of a connection that has said `MULTI`. False if it is one to go on with as
/// ever.
pub(crate) fn refuse(node: &Node, client: &Client, args: &[&[u8]]) -> bool {
    match (&*name_of(args), args.len()) {
        (b"reset" | b"quit", _) => return false,
        (b"exec", 1) => {
            client.refuses_all.set(false);
            say_error(node, client, ABORTED);
        }
        (b"discard", 1) => {
            client.refuses_all.set(false);
            say_ok(client);
        }
        (b"multi", _) => say_error(node, client, "ERR MULTI calls can not be nested"),
        _ => say_error(node, client, REFUSED),
    }
    count_up(&node.stats.commands, 1);
    true
}

/// Answers a command that is none of ours, if it has to do with transactions.
pub(crate) fn begin(node: &Node, client: &Client, args: &[&[u8]]) -> bool {
    match (&*name_of(args), args.len()) {
        (b"multi", 1) => {
            client.refuses_all.set(true);
            say_ok(client);
        }
        (b"unwatch", 1) => say_ok(client),
        (b"watch", _) => say_error(node, client, "ERR transactions are not supported"),
        (b"exec", 1) => say_error(node, client, "ERR EXEC without MULTI"),
        (b"discard", 1) => say_error(node, client, "ERR DISCARD without MULTI"),
        _ => return false,
    }
    count_up(&node.stats.commands, 1);
    true
}

fn name_of(args: &[&[u8]]) -> Vec<u8> {
    args.first().map_or_else(Vec::new, |name| name.to_ascii_lowercase())
}
