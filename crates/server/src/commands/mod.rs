//! The commands that need no replica: what clients say at connect, and what operators ask.
//!
//! Texts and shapes are those of Redis 7.2, byte for byte where a client could notice.
//! Data commands and sessions are `sampan-kv`'s; their rows appear in `COMMAND` beside these.

mod backup;
mod client;
mod cluster;
mod command;
mod config;
mod connection;
mod glob;
mod info;
mod snapshot;
mod table;

use sampan_kv::{CommandError, Reply};
use sampan_resp::{Protocol, Writer};

use crate::client::{Client, Ending};
use crate::node::Node;
use crate::render::{self, Rendering};

pub(crate) use table::{Command, find};

/// The version of Redis that this server is like, for clients that ask before they use something.
const REDIS_VERSION: &str = "7.2.4";

/// Arguments of one of these commands, name included: they run between two turns of the event loop,
/// for as long as they take. Clients that ask about all commands by name need a few hundred.
const ARGUMENTS_MAX: usize = 1_024;
/// Bytes of a pattern; the names that it is for are shorter.
const PATTERN_BYTES_MAX: usize = 64;
/// The memory for replies, between two of them.
const SCRATCH_BYTES_KEPT: usize = 64 << 10;

/// One call of a command.
pub(crate) struct Call<'a> {
    node: &'a Node,
    client: &'a Client,
    /// The command's name and its arguments: as many as its arity allows.
    args: &'a [&'a [u8]],
    rendering: Rendering,
    out: &'a mut Vec<u8>,
}

impl<'a> Call<'a> {
    /// Where the reply goes, in the protocol of the connection.
    fn reply(&mut self) -> Writer<'_> {
        let protocol = self.protocol();
        Writer::new(self.out, protocol)
    }

    fn protocol(&self) -> Protocol {
        self.client.profile.borrow().protocol
    }

    /// Announces that the reply comes later; the number of the request.
    fn expect(&mut self) -> u64 {
        self.client.flow.borrow_mut().expect(self.rendering, 0, 0, 0)
    }

    /// Answers as the state machine would.
    fn state(&mut self, reply: &Reply) {
        if let Reply::Error(text) = reply {
            self.node.stats.errors.count(text);
        }
        render::write(reply, self.rendering, self.node.config.limits.output_bytes_max, self.out);
    }

    fn ok(&mut self) {
        self.reply().ok();
    }

    fn error(&mut self, text: &str) {
        self.node.stats.errors.count(text);
        self.reply().error(text);
    }

    /// An argument, or nothing where there is none.
    fn arg(&self, index: usize) -> &'a [u8] {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// Is the argument this word, in any case?
    fn is(&self, index: usize, word: &str) -> bool {
        self.arg(index).eq_ignore_ascii_case(word.as_bytes())
    }

    /// An argument as text for an error.
    fn shown(&self, index: usize) -> String {
        shown(self.arg(index))
    }

    fn syntax_error(&mut self) {
        self.error("ERR syntax error");
    }

    /// Is the number of arguments, name included, one of these? If not, says so.
    fn check_count(&mut self, command: &str, allowed: impl std::ops::RangeBounds<usize>) -> bool {
        let allowed = allowed.contains(&self.args.len());
        if !allowed {
            self.error(&format!("ERR wrong number of arguments for '{command}' command"));
        }
        allowed
    }

    /// Is none of these patterns too long? If one is, says so.
    fn check_patterns(&mut self, patterns: &[&[u8]]) -> bool {
        let allowed = patterns.iter().all(|pattern| pattern.len() <= PATTERN_BYTES_MAX);
        if !allowed {
            self.error(&format!("ERR pattern exceeds the limit of {PATTERN_BYTES_MAX} bytes"));
        }
        allowed
    }

    fn unknown_subcommand(&mut self, command: &str) {
        let name = self.shown(1);
        self.error(&format!("ERR unknown subcommand '{name}'. Try {command} HELP."));
    }

    fn help(&mut self, lines: &[&str]) {
        let mut reply = self.reply();
        reply.array(lines.len());
        for line in lines {
            reply.simple(line);
        }
    }
}

/// Runs a command and puts its reply in its place.
pub(crate) fn run(command: &Command, node: &Node, client: &Client, args: &[&[u8]]) {
    let rendering = {
        let mut profile = client.profile.borrow_mut();
        profile.last_command = command.name;
        profile.rendering()
    };
    let mut out = node.reply_scratch.take();
    let mut call = Call { node, client, args, rendering, out: &mut out };
    if args.len() > ARGUMENTS_MAX {
        call.error(&CommandError::TooManyArguments(ARGUMENTS_MAX).to_string());
    } else if command.arity_allows(args.len()) {
        (command.handler)(&mut call);
    } else {
        call.error(&format!("ERR wrong number of arguments for '{}' command", command.name));
    }
    if call.out.len() >= node.config.limits.output_bytes_max {
        call.out.clear();
        call.error(render::TOO_LONG);
    }
    // What switches replies on or off decides over its own reply as well, by saying something or
    // nothing.
    let is_silent = rendering == Rendering::Silent && !connection::is_reply_switch(args);
    if !is_silent {
        client.flow.borrow_mut().say(&out);
    }
    node.reply_scratch.replace(emptied(out));
}

/// The memory of a reply, for the next one: one long reply does not keep it for ever.
fn emptied(mut out: Vec<u8>) -> Vec<u8> {
    out.clear();
    out.shrink_to(SCRATCH_BYTES_KEPT);
    out
}

/// Answers the command being read with an error.
pub(crate) fn say_error(node: &Node, client: &Client, text: &str) {
    node.stats.errors.count(text);
    say(client, |mut reply| reply.error(text));
}

/// Answers the command being read with OK.
pub(crate) fn say_ok(client: &Client) {
    say(client, |mut reply| reply.ok());
}

fn say(client: &Client, write: impl FnOnce(Writer<'_>)) {
    let (rendering, protocol) = {
        let mut profile = client.profile.borrow_mut();
        (profile.rendering(), profile.protocol)
    };
    if rendering != Rendering::Silent {
        let mut out = Vec::new();
        write(Writer::new(&mut out, protocol));
        client.flow.borrow_mut().say(&out);
    }
}

/// Ends the connection after the replies to what it has asked so far.
fn end_after_reply(call: &Call<'_>) {
    call.client.end(Ending::AfterReplies);
}

/// At most 64 bytes of a client's bytes, for an error text.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let bytes = bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

/// An integer, as Redis reads one: decimal digits, perhaps a minus sign, nothing else.
fn integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: i64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reply_keeps_no_memory_and_a_short_one_keeps_its_own() {
        let long = emptied(vec![b'x'; 16 * SCRATCH_BYTES_KEPT]);
        assert_eq!(long, b"");
        assert!(long.capacity() <= SCRATCH_BYTES_KEPT, "{}", long.capacity());
        assert!(emptied(vec![b'x'; 1_000]).capacity() >= 1_000);
    }

    #[test]
    fn whoever_asks_about_every_command_by_name_may() {
        assert!(table::COMMANDS.len() + sampan_kv::SPECS.len() < ARGUMENTS_MAX / 4);
    }
}
