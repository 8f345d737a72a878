//! What each read command answers from the state.

use crate::Reply;
use crate::command::{Command, List, TtlForm};
use crate::kv::Kv;
use crate::record::Record;

const REPLY_TOO_LONG: Reply = Reply::error("ERR reply is too long, ask for fewer keys");

impl Kv {
    /// The reply to a read, or an error if it would hold more than `bytes_max` of values. Panics
    /// if the command is no read.
    pub(crate) fn read(&self, command: &Command<'_>, bytes_max: usize) -> Reply {
        match command {
            Command::Get { key } => self.value(key).map_or(Reply::Nil, Reply::bulk),
            Command::Strlen { key } => int(self.value(key).map_or(0, <[u8]>::len)),
            Command::GetRange { key, start, end } => {
                Reply::bulk(range(self.value(key).unwrap_or_default(), *start, *end))
            }
            Command::Exists { keys } => {
                int(keys.iter().filter(|key| self.record(key).is_some()).count())
            }
            Command::Mget { keys } => self.mget(keys, bytes_max),
            Command::Ttl { key, form } => self.ttl(key, *form),
            Command::Type { key } => {
                Reply::Simple(if self.record(key).is_some() { "string" } else { "none" })
            }
            Command::DbSize => int(self.keys.live_len(self.time_ms)),
            Command::Outcome { session, sequence } => {
                self.sessions.outcome(*session, *sequence, self.time_ms, &self.limits)
            }
            command => unreachable!("not a read: {command:?}"),
        }
    }

    fn record(&self, key: &[u8]) -> Option<&Record> {
        self.keys.live(self.keys.hashed(key), self.time_ms)
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.record(key).map(Record::value)
    }

    fn mget(&self, keys: &List<'_>, bytes_max: usize) -> Reply {
        let mut bytes = 0;
        let mut items = Vec::with_capacity(keys.len());
        for key in keys.iter() {
            let value = self.value(key);
            bytes += Reply::Nil.encoded_bytes() + value.map_or(0, <[u8]>::len);
            if bytes > bytes_max {
                return REPLY_TOO_LONG;
            }
            items.push(value.map_or(Reply::Nil, Reply::bulk));
        }
        Reply::Array(items)
    }

    fn ttl(&self, key: &[u8], form: TtlForm) -> Reply {
        let Some(record) = self.record(key) else { return Reply::Int(-2) };
        let Some(expiry_ms) = record.expiry_ms() else { return Reply::Int(-1) };
        let milliseconds = if form.absolute { expiry_ms } else { expiry_ms - self.time_ms };
        let shown = if form.milliseconds { milliseconds } else { (milliseconds + 500) / 1_000 };
        Reply::Int(shown as i64)
    }
}

impl Command<'_> {
    /// Does it leave the state as it is?
    pub(crate) const fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Get { .. }
                | Self::Strlen { .. }
                | Self::GetRange { .. }
                | Self::Exists { .. }
                | Self::Mget { .. }
                | Self::Ttl { .. }
                | Self::Type { .. }
                | Self::DbSize
                | Self::Outcome { .. }
        )
    }
}

fn int(count: usize) -> Reply {
    Reply::Int(count as i64)
}

/// The part of a value from `start` to `end`, both included; negative counts from the end.
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(length - 1));
    if start > end { &[] } else { &value[start as usize..=end as usize] }
}
