//! What each write command does to the state.

use sampan_base::codec::DecodeError;
use sampan_base::planted;

use crate::Reply;
use crate::command::{Command, ExpireCondition, List, Once, Set, SetCondition, SetTtl, When};
use crate::keyspace::Hashed;
use crate::kv::Kv;
use crate::number::{DECIMAL_BYTES_MAX, format_i64, parse_i64};
use crate::record::Record;
use crate::session::Admission;

const NOT_INTEGER: Reply = Reply::error("ERR value is not an integer or out of range");
const OVERFLOW: Reply = Reply::error("ERR increment or decrement would overflow");
const STRING_TOO_LONG: Reply =
    Reply::error("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
impl Kv {
    /// Executes one command of an entry.
    pub(crate) fn execute(&mut self, command: &Command<'_>) -> Result<Reply, DecodeError> {
        Ok(match command {
            Command::SessionOpen => self.session_open(),
            Command::SessionClose { session } => {
                let closed = self.sessions.close(*session, self.time_ms, &self.limits);
                Reply::Int(i64::from(closed))
            }
            Command::Once(once) => {
                let inner = once.decode_command()?;
                self.once(once, &inner)
            }
            command => self.execute_data(command, self.limits.reply_bytes_max),
        })
    }

    // Sessions.

    fn session_open(&mut self) -> Reply {
        let (id, evicted) = self.sessions.open(self.time_ms, &self.limits);
        self.counters.sessions_evicted += evicted as u64;
        Reply::Int(id as i64)
    }

    fn once(&mut self, once: &Once<'_>, command: &Command<'_>) -> Reply {
        match self.sessions.admit(once, self.time_ms, &self.limits) {
            Admission::Answer(reply) => {
                self.counters.duplicates += 1;
                if planted!(DuplicateExecuted) && !matches!(reply, Reply::Error(_)) {
                    self.execute_data(command, self.limits.value_bytes_max);
                }
                reply
            }
            Admission::Execute => {
                // The reply is going to be remembered: its limit is the same on every node.
                let reply = self.execute_data(command, self.limits.value_bytes_max);
                let evicted = self.sessions.remember(once, reply.clone(), &self.limits);
                self.counters.sessions_evicted += evicted as u64;
                reply
            }
        }
    }

    // Data.

    fn execute_data(&mut self, command: &Command<'_>, reply_bytes_max: usize) -> Reply {
        match command {
            Command::Set(set) => self.set(set),
            Command::SetNx { key, value } => self.set_nx(key, value),
            Command::Append { key, value } => self.append(key, value),
            Command::SetRange { key, offset, value } => self.set_range(key, *offset, value),
            Command::Del { keys } => self.del(keys),
            Command::Mset { pairs } => self.mset(pairs),
            Command::IncrBy { key, delta } => self.incr_by(key, *delta),
            Command::GetDel { key } => self.get_del(key),
            Command::Flush => {
                self.keys.flush();
                Reply::Ok
            }
            Command::Expire { key, when, only_if } => self.expire(key, *when, *only_if),
            Command::Persist { key } => self.persist(key),
            read => self.read(read, reply_bytes_max),
        }
    }

    fn set(&mut self, set: &Set<'_>) -> Reply {
        let key = self.keys.hashed(set.key);
        let mut old_value = Reply::Nil;
        let mut kept_ms = None;
        if set.get || set.only_if != SetCondition::Always || set.ttl == SetTtl::Keep {
            let old = self.keys.live(key, self.time_ms);
            let unmet = match set.only_if {
                SetCondition::Always => false,
                SetCondition::Absent => old.is_some(),
                SetCondition::Present => old.is_none(),
            };
            if let Some(old) = old {
                kept_ms = old.expiry_ms();
                if set.get {
                    old_value = Reply::bulk(old.value());
                    self.counters.work_bytes += old.value().len();
                }
            }
            if unmet {
                return old_value;
            }
        }
        match set.ttl {
            SetTtl::Clear => self.keys.put(key, set.value, None),
            SetTtl::Keep => self.keys.put(key, set.value, kept_ms),
            SetTtl::Until(when) => self.put_until(key, set.value, when),
        }
        if set.get { old_value } else { Reply::Ok }
    }

    fn put_until(&mut self, key: Hashed<'_>, value: &[u8], when: When) {
        match self.future_ms(when) {
            Some(expiry_ms) => self.keys.put(key, value, Some(expiry_ms)),
            None => {
                self.keys.remove(key);
            }
        }
    }

    fn set_nx(&mut self, key: &[u8], value: &[u8]) -> Reply {
        let key = self.keys.hashed(key);
        if self.keys.live(key, self.time_ms).is_some() {
            return Reply::Int(0);
        }
        self.keys.put(key, value, None);
        Reply::Int(1)
    }

    fn append(&mut self, key: &[u8], suffix: &[u8]) -> Reply {
        let key = self.keys.hashed(key);
        let Some(old) = self.keys.live(key, self.time_ms) else {
            self.keys.put(key, suffix, None);
            return Reply::Int(suffix.len() as i64);
        };
        let length = old.value().len() + suffix.len();
        if length > self.limits.value_bytes_max {
            return STRING_TOO_LONG;
        }
        self.edit(key, |old, generation| {
            Record::concat(generation, old.key(), old.expiry_ms(), [old.value(), suffix])
        });
        Reply::Int(length as i64)
    }

    fn set_range(&mut self, key: &[u8], offset: u64, value: &[u8]) -> Reply {
        let key = self.keys.hashed(key);
        let old = self.keys.live(key, self.time_ms);
        let old_length = old.map_or(0, |old| old.value().len());
        if value.is_empty() {
            return Reply::Int(old_length as i64);
        }
        let end = offset.saturating_add(value.len() as u64);
        if end > self.limits.value_bytes_max as u64 {
            return STRING_TOO_LONG;
        }
        let (offset, end) = (offset as usize, end as usize);
        let mut new = vec![0; old_length.max(end)];
        if let Some(old) = old {
            new[..old_length].copy_from_slice(old.value());
        }
        new[offset..end].copy_from_slice(value);
        let expiry_ms = old.and_then(Record::expiry_ms);
        self.counters.work_bytes += new.len();
        self.keys.put(key, &new, expiry_ms);
        Reply::Int(new.len() as i64)
    }

    fn del(&mut self, keys: &List<'_>) -> Reply {
        let mut count = 0;
        for key in keys.iter() {
            let key = self.keys.hashed(key);
            if self.keys.live(key, self.time_ms).is_some() {
                self.keys.remove(key);
                count += 1;
            }
        }
        Reply::Int(count)
    }

    fn mset(&mut self, pairs: &List<'_>) -> Reply {
        let mut items = pairs.iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.keys.put(self.keys.hashed(key), value, None);
        }
        Reply::Ok
    }

    fn incr_by(&mut self, key: &[u8], delta: i64) -> Reply {
        let key = self.keys.hashed(key);
        let (old, expiry_ms) = match self.keys.live(key, self.time_ms) {
            Some(record) => (parse_i64(record.value()), record.expiry_ms()),
            None => (Some(0), None),
        };
        let Some(old) = old else { return NOT_INTEGER };
        let Some(new) = old.checked_add(delta) else { return OVERFLOW };
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        self.keys.put(key, format_i64(new, &mut buffer), expiry_ms);
        Reply::Int(new)
    }

    fn get_del(&mut self, key: &[u8]) -> Reply {
        let key = self.keys.hashed(key);
        let Some(record) = self.keys.live(key, self.time_ms) else { return Reply::Nil };
        let value = Reply::bulk(record.value());
        self.counters.work_bytes += record.value().len();
        self.keys.remove(key);
        value
    }

    // Time to live.

    fn expire(&mut self, key: &[u8], when: When, only_if: ExpireCondition) -> Reply {
        let key = self.keys.hashed(key);
        let Some(record) = self.keys.live(key, self.time_ms) else { return Reply::Int(0) };
        let new_ms = when.unix_ms(self.time_ms);
        // No time to live is for ever: later than every expiry.
        let old_ms = record.expiry_ms().map(|old_ms| i64::try_from(old_ms).unwrap_or(i64::MAX));
        let unmet = (only_if.nx && old_ms.is_some())
            || (only_if.xx && old_ms.is_none())
            || (only_if.gt && old_ms.is_none_or(|old_ms| new_ms <= old_ms))
            || (only_if.lt && old_ms.is_some_and(|old_ms| new_ms >= old_ms));
        if unmet {
            return Reply::Int(0);
        }
        let value_bytes = record.value().len();
        match self.future_ms(when) {
            Some(expiry_ms) => {
                // It is hashed in any case.
                self.counters.work_bytes += value_bytes;
                self.keys.set_expiry(key, expiry_ms);
            }
            None => {
                self.keys.remove(key);
            }
        }
        Reply::Int(1)
    }

    fn persist(&mut self, key: &[u8]) -> Reply {
        let key = self.keys.hashed(key);
        let record = self.keys.live(key, self.time_ms);
        if record.and_then(Record::expiry_ms).is_none() {
            return Reply::Int(0);
        }
        self.edit(key, |old, generation| Record::new(generation, old.key(), None, old.value()));
        Reply::Int(1)
    }

    /// Makes the record of a key that exists anew, all of it.
    fn edit(&mut self, key: Hashed<'_>, edit: impl FnOnce(&Record, u32) -> Record) {
        let work_bytes = &mut self.counters.work_bytes;
        self.keys.edit(key, |old, generation| {
            let new = edit(old, generation);
            *work_bytes += new.value().len();
            new
        });
    }

    /// A point in time as an expiry, or `None` if it is not after the log time.
    fn future_ms(&self, when: When) -> Option<u64> {
        let when_ms = u64::try_from(when.unix_ms(self.time_ms)).ok()?;
        (when_ms > self.time_ms).then_some(when_ms)
    }
}
