//! Transactions, of which there are none: what stands between `MULTI` and `EXEC` is refused as a whole.
//!
//! Client libraries send both and all between them at once. To refuse these two alone would execute the
//! rest one by one, and say that it failed.

use crate::client::Client;
use crate::commands::{say_error, say_ok};
use crate::node::Node;

const NONE: &str = "ERR transactions are not supported: nothing is executed before EXEC or DISCARD";
const REFUSED: &str =
    "ERR not executed: it follows MULTI, and transactions are not supported; DISCARD ends this";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// Answers a command of a connection that has said `MULTI`. False if it is one to go on with as ever.
pub(crate) fn refuse(node: &Node, client: &Client, name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("exec") || is("discard") {
        client.refuses_all.set(false);
    }
    match () {
        () if is("reset") || is("quit") => return false,
        () if is("exec") => say_error(node, client, ABORTED),
        () if is("discard") => say_ok(client),
        () => say_error(node, client, REFUSED),
    }
    true
}

/// Answers a command that is none of ours, if it has to do with transactions.
pub(crate) fn begin(node: &Node, client: &Client, name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match () {
        () if is("multi") => {
            client.refuses_all.set(true);
            say_error(node, client, NONE);
        }
        () if is("watch") => say_error(node, client, "ERR transactions are not supported"),
        () if is("exec") => say_error(node, client, "ERR EXEC without MULTI"),
        () if is("discard") => say_error(node, client, "ERR DISCARD without MULTI"),
        () => return false,
    }
    true
}
