//! What the tests of this crate share: one state machine driven by client arguments, and a text
//! form of commands and replies.

#![allow(dead_code, unreachable_pub)] // each test uses its part of it

pub mod model;

use sampan_base::WallTime;
use sampan_kv::{BatchBuilder, Class, Kv, Limits, Reply, Restore, parse};

/// The log time at which scripts begin.
pub const START_MS: u64 = 1_700_000_000_000;

/// A state machine, its limits and a leader's clock.
pub struct Machine {
    pub kv: Kv,
    pub limits: Limits,
    pub clock_ms: u64,
}

impl Machine {
    pub fn new(limits: Limits, hash_seed: u64) -> Self {
        let mut machine = Self { kv: Kv::new(limits, hash_seed), limits, clock_ms: START_MS };
        machine.tick();
        machine
    }

    /// Serves one command as a node does: refused, read, or through an entry of its own.
    pub fn run<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let mut encoded = Vec::new();
        match parse(args, &self.limits, &mut encoded) {
            Err(error) => error.reply(),
            Ok(Class::Read) => self.kv.query(&encoded),
            Ok(Class::TimedRead) => {
                self.tick();
                self.kv.query(&encoded)
            }
            Ok(Class::Write) => self.apply(&[encoded]).remove(0),
        }
    }

    /// Runs a command given in the text form.
    pub fn line(&mut self, line: &str) -> Reply {
        self.run(&split(line))
    }

    /// Applies encoded commands as one entry.
    pub fn apply(&mut self, commands: &[Vec<u8>]) -> Vec<Reply> {
        let mut batch = BatchBuilder::new(WallTime::from_unix_ms(self.clock_ms));
        for encoded in commands {
            batch.push(encoded);
        }
        assert_eq!(batch.len(), commands.len());
        let mut replies = Vec::new();
        self.kv.apply(&batch.finish(), &mut replies).expect("a batch that was just built");
        assert_eq!(replies.len(), commands.len());
        replies
    }

    /// Applies an empty entry.
    pub fn tick(&mut self) {
        self.apply(&[]);
    }

    /// Moves the clock and ticks.
    pub fn advance(&mut self, ms: u64) {
        self.clock_ms += ms;
        self.tick();
    }

    /// The encoding of a command in the text form, which must be well formed.
    pub fn encode(&self, line: &str) -> Vec<u8> {
        let mut encoded = Vec::new();
        parse(&split(line), &self.limits, &mut encoded).expect(line);
        encoded
    }
}

/// The rest of a snapshot that is being made.
pub fn snapshot_rest(kv: &mut Kv, bytes_max: usize) -> Vec<u8> {
    let mut snapshot = Vec::new();
    while kv.snapshot_next(bytes_max, &mut snapshot) {}
    snapshot
}

/// A state restored from a snapshot fed in one piece.
pub fn restored(snapshot: &[u8], limits: Limits) -> Kv {
    let mut restore = Restore::new(limits, snapshot.len() as u64);
    restore.feed(snapshot).expect("a snapshot that was just made");
    restore.finish().expect("a whole snapshot")
}

/// Splits a line into arguments: separated by spaces, or in double quotes with `\n \r \t \" \\
/// \xHH`.
pub fn split(line: &str) -> Vec<Vec<u8>> {
    let mut args = Vec::new();
    let mut rest = line.trim().as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b' ' {
            rest = tail;
        } else if first == b'"' {
            let (arg, after) = quoted(tail);
            args.push(arg);
            rest = after;
        } else {
            let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
            args.push(rest[..end].to_vec());
            rest = &rest[end..];
        }
    }
    args
}

fn quoted(mut rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut arg = Vec::new();
    loop {
        match rest {
            [b'"', tail @ ..] => return (arg, tail),
            [b'\\', b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                let text = std::str::from_utf8(&digits).expect("two hex digits");
                arg.push(u8::from_str_radix(text, 16).expect("two hex digits"));
                rest = tail;
            }
            [b'\\', escape, tail @ ..] => {
                arg.push(match escape {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                rest = tail;
            }
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
            [] => panic!("a quote is not closed"),
        }
    }
}

/// A reply as scripts show it.
pub fn show(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "+OK".to_owned(),
        Reply::Simple(text) => format!("+{text}"),
        Reply::Int(value) => format!(":{value}"),
        Reply::Nil => "nil".to_owned(),
        Reply::Error(text) => format!("-{text}"),
        Reply::Bulk(bytes) => {
            let mut shown = String::from("\"");
            for &byte in bytes {
                match byte {
                    b'"' | b'\\' => shown.extend(['\\', char::from(byte)]),
                    b' '..=b'~' => shown.push(char::from(byte)),
                    _ => shown.extend(format!("\\x{byte:02x}").chars()),
                }
            }
            shown + "\""
        }
        Reply::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
        }
    }
}
