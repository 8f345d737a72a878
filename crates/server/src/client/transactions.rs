//! Transactions, of which there are none: what stands between `MULTI` and `EXEC` is refused as a whole.
//!
//! Client libraries send both and all between them at once. To refuse these two alone would execute the
//! rest one by one, and say that it failed. So this is a transaction of Redis in which every command is
//! refused when it is queued: client and server agree on when it ends, whether its replies are waited for
//! or not.

use crate::client::Client;
use crate::commands::{say_error, say_ok};
use crate::node::Node;
use crate::stats::count_up;

const REFUSED: &str = "ERR transactions are not supported: nothing before EXEC is executed";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// Answers a command of a connection that has said `MULTI`. False if it is one to go on with as ever.
pub(crate) fn refuse(node: &Node, client: &Client, args: &[&[u8]]) -> bool {
    let (is, is_alone) = (|name: &str| is(args, name), args.len() == 1);
    if is("reset") || is("quit") {
        return false;
    }
    count_up(&node.stats.commands, 1);
    let ends = is_alone && (is("exec") || is("discard"));
    client.refuses_all.set(!ends);
    match () {
        () if ends && is("exec") => say_error(node, client, ABORTED),
        () if ends => say_ok(client),
        () if is("multi") => say_error(node, client, "ERR MULTI calls can not be nested"),
        () => say_error(node, client, REFUSED),
    }
    true
}

/// Answers a command that is none of ours, if it has to do with transactions.
pub(crate) fn begin(node: &Node, client: &Client, args: &[&[u8]]) -> bool {
    let is = |name: &str| is(args, name);
    let is_alone = args.len() == 1;
    match () {
        () if is("multi") && is_alone => {
            client.refuses_all.set(true);
            say_ok(client);
        }
        () if is("unwatch") && is_alone => say_ok(client),
        () if is("watch") => say_error(node, client, "ERR transactions are not supported"),
        () if is("exec") && is_alone => say_error(node, client, "ERR EXEC without MULTI"),
        () if is("discard") && is_alone => say_error(node, client, "ERR DISCARD without MULTI"),
        () => return false,
    }
    true
}

fn is(args: &[&[u8]], name: &str) -> bool {
    args.first().is_some_and(|first| first.eq_ignore_ascii_case(name.as_bytes()))
}
