//! `CLIENT`: who is connected, under which name, and how it wants to be served.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::connection::{CLIENT_NAMES, client_reply, name_of};
use super::{Call, integer, shown};
use crate::client::{Client, Ending};

/// `CLIENT subcommand ...`
pub(super) fn client(call: &mut Call<'_>) {
    let name = call.arg(1).to_ascii_lowercase();
    match name.as_slice() {
        b"id" if call.check_count("client|id", 2..=2) => {
            let number = call.client.number as i64;
            call.reply().integer(number);
        }
        b"getname" if call.check_count("client|getname", 2..=2) => get_name(call),
        b"setname" if call.check_count("client|setname", 3..=3) => set_name(call),
        b"setinfo" if call.check_count("client|setinfo", 4..=4) => set_info(call),
        b"info" if call.check_count("client|info", 2..=2) => {
            let line = line(call, call.client);
            call.reply().verbatim(*b"txt", line.as_bytes());
        }
        b"list" => list(call),
        b"kill" if call.check_count("client|kill", 3..) => kill(call),
        b"reply" if call.check_count("client|reply", 3..=3) => client_reply(call),
        b"no-evict" if call.check_count("client|no-evict", 3..=3) => {
            switch(call, |call, on| call.client.profile.borrow_mut().no_evict = on);
        }
        b"no-touch" if call.check_count("client|no-touch", 3..=3) => {
            switch(call, |call, on| call.client.profile.borrow_mut().no_touch = on);
        }
        b"tracking" if call.check_count("client|tracking", 3..) => tracking(call),
        b"getredir" if call.check_count("client|getredir", 2..=2) => call.reply().integer(-1),
        b"unblock" if call.check_count("client|unblock", 3..=4) => call.reply().integer(0),
        b"capa" if call.check_count("client|capa", 3..) => call.ok(),
        b"help" if call.check_count("client|help", 2..=2) => call.help(HELP),
        b"id" | b"getname" | b"setname" | b"setinfo" | b"info" | b"kill" | b"reply"
        | b"no-evict" | b"no-touch" | b"tracking" | b"getredir" | b"unblock" | b"capa"
        | b"help" => {}
        _ => call.unknown_subcommand("CLIENT"),
    }
}

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAPA <option> [options...]",
    "GETNAME",
    "ID",
    "INFO",
    "KILL <option> ...",
    "LIST [options ...]",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP)",
    "SETINFO <option> <value>",
    "SETNAME <name>",
    "TRACKING OFF",
    "HELP",
];

fn get_name(call: &mut Call<'_>) {
    let name = call.client.profile.borrow().name.clone();
    if name.is_empty() {
        call.reply().nil();
    } else {
        call.reply().bulk(name.as_bytes());
    }
}

fn set_name(call: &mut Call<'_>) {
    match name_of(CLIENT_NAMES, call.arg(2)) {
        Ok(name) => {
            call.client.profile.borrow_mut().name = name;
            call.ok();
        }
        Err(why) => call.error(&why),
    }
}

fn set_info(call: &mut Call<'_>) {
    let attribute = if call.is(2, "lib-name") {
        "lib-name"
    } else if call.is(2, "lib-ver") {
        "lib-ver"
    } else {
        let option = call.shown(2);
        return call.error(&format!("ERR Unrecognized option '{option}'"));
    };
    let text = match name_of(attribute, call.arg(3)) {
        Ok(text) => text,
        Err(why) => return call.error(&why),
    };
    let mut profile = call.client.profile.borrow_mut();
    match attribute {
        "lib-name" => profile.library = text,
        _ => profile.library_version = text,
    }
    drop(profile);
    call.ok();
}

fn switch(call: &mut Call<'_>, set: impl FnOnce(&Call<'_>, bool)) {
    let on = call.is(2, "on");
    if on || call.is(2, "off") {
        set(call, on);
        call.ok();
    } else {
        call.syntax_error();
    }
}

fn tracking(call: &mut Call<'_>) {
    if call.is(2, "off") {
        call.ok();
    } else if call.is(2, "on") {
        call.error("ERR client-side caching is not supported");
    } else {
        call.syntax_error();
    }
}

/// `CLIENT LIST [TYPE t] [ID id ...]`
fn list(call: &mut Call<'_>) {
    let mut ids = None;
    let mut is_normal = true;
    if call.is(2, "type") && call.args.len() == 4 {
        is_normal = call.is(3, "normal");
        let is_known = ["master", "replica", "slave", "pubsub"].iter().any(|t| call.is(3, t));
        if !is_normal && !is_known {
            let text = format!("ERR Unknown client type '{}'", call.shown(3));
            return call.error(&text);
        }
    } else if call.is(2, "id") && call.args.len() > 3 {
        let numbers: Option<Vec<i64>> = call.args[3..].iter().map(|arg| integer(arg)).collect();
        match numbers {
            Some(mut numbers) => {
                numbers.sort_unstable();
                ids = Some(numbers);
            }
            None => return call.error("ERR Invalid client ID"),
        }
    } else if call.args.len() > 2 {
        return call.syntax_error();
    }
    let bytes_max = call.node.config.limits.output_bytes_max;
    let mut lines = String::new();
    call.node.clients.for_each(|client| {
        let number = client.number as i64;
        let wanted = ids.as_ref().is_none_or(|ids| ids.binary_search(&number).is_ok());
        // What is too long already becomes an error, and gets no longer.
        if is_normal && wanted && lines.len() < bytes_max {
            lines.push_str(&line(call, client));
        }
    });
    call.reply().verbatim(*b"txt", lines.as_bytes());
}

fn line(call: &Call<'_>, client: &Client) -> String {
    use std::os::fd::AsRawFd as _;
    let now = call.node.clock.mono();
    let profile = client.profile.borrow();
    let flow = client.flow.borrow();
    let (incomplete_bytes, kept_bytes) = (client.incomplete_bytes.get(), client.kept_bytes.get());
    let untaken_bytes = client.untaken_bytes();
    let mut line = String::new();
    // Writing to a string does not fail.
    _ = writeln!(
        line,
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 \
         multi=-1 watch=0 qbuf={} qbuf-free={} argv-mem={} multi-mem=0 rbs=0 rbp=0 obl={} oll=0 \
         omem={} tot-mem={} events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}",
        client.number,
        client.remote,
        client.local,
        client.socket().as_raw_fd(),
        profile.name,
        now.since(client.connected_at).as_secs(),
        now.since(client.read_at.get()).as_secs(),
        flags(&profile),
        client.read_bytes.get(),
        kept_bytes - client.read_bytes.get(),
        incomplete_bytes.saturating_sub(kept_bytes),
        flow.unsent().len(),
        untaken_bytes,
        incomplete_bytes + untaken_bytes,
        if profile.last_command.is_empty() { "NULL" } else { profile.last_command },
        if profile.protocol == sampan_resp::Protocol::Resp3 { 3 } else { 2 },
        profile.library,
        profile.library_version,
    );
    line
}

fn flags(profile: &crate::client::Profile) -> String {
    let mut flags = String::new();
    for (on, flag) in [(profile.is_readonly, 'r'), (profile.no_evict, 'e'), (profile.no_touch, 'T')]
    {
        if on {
            flags.push(flag);
        }
    }
    if flags.is_empty() { "N".into() } else { flags }
}

/// `CLIENT KILL addr`, or with `ID`, `ADDR`, `LADDR`, `TYPE`, `USER`, `SKIPME` and their values.
fn kill(call: &mut Call<'_>) {
    let mut wanted = Wanted::default();
    if let [_, _, address] = call.args {
        let is_one = narrow(&mut wanted.remote, address_of(address));
        return match if is_one { kill_where(call, false, &wanted) } else { 0 } {
            0 => call.error("ERR No such client"),
            _ => call.ok(),
        };
    }
    let (mut is_any, mut skip_me) = (true, true);
    for pair in call.args[2..].chunks(2) {
        let &[filter, value] = pair else { return call.syntax_error() };
        match filter.to_ascii_lowercase().as_slice() {
            b"skipme" if value.eq_ignore_ascii_case(b"yes") => skip_me = true,
            b"skipme" if value.eq_ignore_ascii_case(b"no") => skip_me = false,
            b"id" => match integer(value).and_then(|id| u64::try_from(id).ok()) {
                Some(id @ 1..) => is_any &= narrow(&mut wanted.number, Some(id)),
                _ => return call.error("ERR client-id should be greater than 0"),
            },
            b"addr" => is_any &= narrow(&mut wanted.remote, address_of(value)),
            b"laddr" => is_any &= narrow(&mut wanted.local, address_of(value)),
            b"type" => is_any &= value.eq_ignore_ascii_case(b"normal"),
            b"user" if value != b"default" => {
                return call.error(&format!("ERR No such user '{}'", shown(value)));
            }
            b"user" => {}
            _ => return call.syntax_error(),
        }
    }
    let killed = if is_any { kill_where(call, skip_me, &wanted) } else { 0 };
    call.reply().integer(killed);
}

/// Which clients a `CLIENT KILL` is for: what all its filters come to, however many there are.
#[derive(Default)]
struct Wanted {
    number: Option<u64>,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl Wanted {
    fn takes(&self, client: &Client) -> bool {
        self.number.is_none_or(|number| client.number == number)
            && self.remote.is_none_or(|address| client.remote == address)
            && self.local.is_none_or(|address| client.local == address)
    }
}

/// Adds a filter to those of its kind before it; false if nothing can pass them all.
fn narrow<T: PartialEq>(wanted: &mut Option<T>, value: Option<T>) -> bool {
    match (&*wanted, value) {
        (_, None) => false,
        (Some(before), Some(value)) => *before == value,
        (None, value) => {
            *wanted = value;
            true
        }
    }
}

/// An address as `CLIENT LIST` shows it; what is none is nobody's.
fn address_of(text: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn kill_where(call: &Call<'_>, skip_me: bool, wanted: &Wanted) -> i64 {
    let mut killed = 0;
    call.node.clients.for_each(|client| {
        let is_me = client.id == call.client.id;
        if wanted.takes(client) && !(skip_me && is_me) {
            client.end(if is_me { Ending::AfterReplies } else { Ending::Now });
            killed += 1;
        }
    });
    killed
}
