//! Commands about the connection itself: PING, ECHO, HELLO, AUTH, SELECT, QUIT, RESET, READONLY,
//! READWRITE. There are no passwords: whoever reaches the port may use it.

use sampan_resp::{Protocol, Writer};

use super::{Call, REDIS_VERSION, end_after_reply, integer};
use crate::client::{Profile, Replies};

/// Bytes of a name: every `CLIENT LIST` of anyone has those of all clients.
const NAME_BYTES_MAX: usize = 256;

/// What errors call a client's name.
pub(super) const CLIENT_NAMES: &str = "Client names";

/// A name that a client gives itself or its library, printable ASCII without spaces, as Redis has
/// it; or why it cannot be `what`.
pub(super) fn name_of(what: &str, bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > NAME_BYTES_MAX {
        return Err(format!("ERR {what} cannot be longer than {NAME_BYTES_MAX} bytes."));
    }
    if !bytes.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(format!("ERR {what} cannot contain spaces, newlines or special characters."));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Is this `CLIENT REPLY` or `RESET`?
pub(super) fn is_reply_switch(args: &[&[u8]]) -> bool {
    match args {
        [client, reply, _] => {
            client.eq_ignore_ascii_case(b"client") && reply.eq_ignore_ascii_case(b"reply")
        }
        [reset] => reset.eq_ignore_ascii_case(b"reset"),
        _ => false,
    }
}

/// `PING [message]`
pub(super) fn ping(call: &mut Call<'_>) {
    if !call.check_count("ping", 1..=2) {
        return;
    }
    match call.args.get(1) {
        Some(message) => call.reply().bulk(message),
        None => call.reply().simple("PONG"),
    }
}

/// `ECHO message`
pub(super) fn echo(call: &mut Call<'_>) {
    let message = call.arg(1);
    call.reply().bulk(message);
}

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`
pub(super) fn hello(call: &mut Call<'_>) {
    let mut protocol = call.protocol();
    if let Some(version) = call.args.get(1) {
        protocol = match integer(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return call.error("NOPROTO unsupported protocol version"),
            None => {
                return call.error("ERR Protocol version is not an integer or out of range");
            }
        };
    }
    let mut name = None;
    let mut user = None;
    let mut at = 2;
    while at < call.args.len() {
        let left = call.args.len() - at - 1;
        if call.is(at, "auth") && left >= 2 {
            user = Some(call.arg(at + 1));
            at += 3;
        } else if call.is(at, "setname") && left >= 1 {
            name = Some(call.arg(at + 1));
            at += 2;
        } else {
            let option = call.shown(at);
            return call.error(&format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    if user.is_some_and(|user| !user.eq_ignore_ascii_case(b"default")) {
        return call.error(WRONG_PASSWORD);
    }
    let name = match name.map(|name| name_of(CLIENT_NAMES, name)).transpose() {
        Ok(name) => name,
        Err(why) => return call.error(&why),
    };
    let mut profile = call.client.profile.borrow_mut();
    if let Some(name) = name {
        profile.name = name;
    }
    profile.protocol = protocol;
    drop(profile);
    write_hello(call);
}

fn write_hello(call: &mut Call<'_>) {
    let number = call.client.number as i64;
    let protocol = call.protocol();
    let mut reply = call.reply();
    let text = |reply: &mut Writer<'_>, key: &str, value: &str| {
        reply.bulk(key.as_bytes());
        reply.bulk(value.as_bytes());
    };
    reply.map(7);
    text(&mut reply, "server", "sampan");
    text(&mut reply, "version", REDIS_VERSION);
    reply.bulk(b"proto");
    reply.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(number);
    text(&mut reply, "mode", "standalone");
    text(&mut reply, "role", "master");
    reply.bulk(b"modules");
    reply.array(0);
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// `AUTH [user] password`: the default user has none, so any will do for it.
pub(super) fn auth(call: &mut Call<'_>) {
    match call.args.len() {
        2 => call.error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ),
        3 if call.is(1, "default") => call.ok(),
        3 => call.error(WRONG_PASSWORD),
        _ => call.syntax_error(),
    }
}

/// `SELECT 0`
pub(super) fn select(call: &mut Call<'_>) {
    match integer(call.arg(1)) {
        Some(0) => call.ok(),
        Some(_) => call.error("ERR DB index is out of range"),
        None => call.error("ERR value is not an integer or out of range"),
    }
}

/// `QUIT`: what the client sends after it is dropped.
pub(super) fn quit(call: &mut Call<'_>) {
    call.ok();
    end_after_reply(call);
}

/// `RESET`: as if it had just connected.
pub(super) fn reset(call: &mut Call<'_>) {
    let last_command = call.client.profile.borrow().last_command;
    call.client.profile.replace(Profile { last_command, ..Profile::default() });
    call.client.refuses_all.set(false);
    call.reply().simple("RESET");
}

/// `READONLY`: reads may be answered from this node's state, which may be old.
pub(super) fn readonly(call: &mut Call<'_>) {
    call.client.profile.borrow_mut().is_readonly = true;
    call.ok();
}

/// `READWRITE`: reads are linearizable again.
pub(super) fn readwrite(call: &mut Call<'_>) {
    call.client.profile.borrow_mut().is_readonly = false;
    call.ok();
}

/// `CLIENT REPLY ON|OFF|SKIP`
pub(super) fn client_reply(call: &mut Call<'_>) {
    let replies = if call.is(2, "on") {
        Replies::On
    } else if call.is(2, "off") {
        Replies::Off
    } else if call.is(2, "skip") {
        Replies::SkipNext
    } else {
        return call.syntax_error();
    };
    let old = call.client.profile.borrow().replies;
    if replies == Replies::SkipNext && old == Replies::Off {
        return;
    }
    call.client.profile.borrow_mut().replies = replies;
    if replies == Replies::On {
        call.ok();
    }
}
