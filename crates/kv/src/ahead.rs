//! How long values will be once the commands under way are applied.
//!
//! What a command costs that copies a value follows from the length of that value, and a client
//! need not wait for its `SET` before it sends the next ten thousand commands. So whoever takes
//! commands keeps here what those not yet applied may do to the length of a value, and forgets it
//! when they are applied. The result is an estimate, too high rather than too low: no reply and no
//! state depends on it.

use std::collections::{BTreeMap, VecDeque};

use crate::command::{self, Command};
use crate::kv::Kv;

/// What commands that are not applied yet may make of values, batch by batch.
#[derive(Debug)]
pub struct Ahead {
    /// Nothing is noted of commands that set a value shorter than this.
    long_bytes: usize,
    /// By the hash of a key.
    keys: BTreeMap<u64, Growth>,
    /// The bytes that the commands of a batch append to a key, in order of batch.
    noted: VecDeque<(u64, u64, usize)>,
}

/// What is under way for one key.
#[derive(Clone, Copy, Default, Debug)]
struct Growth {
    /// All that is appended.
    appended: usize,
    /// The longest that it is set or stretched to, and the last batch that does so.
    longest: usize,
    longest_batch: u64,
    /// The last batch that does anything.
    last_batch: u64,
}

impl Ahead {
    /// Nothing is under way.
    pub const fn new(long_bytes: usize) -> Self {
        Self { long_bytes, keys: BTreeMap::new(), noted: VecDeque::new() }
    }

    /// A command goes into this batch; batches are numbered upwards.
    pub fn take(&mut self, kv: &Kv, encoded: &[u8], batch: u64) {
        if encoded.len() < self.long_bytes && !command::copies_a_value(encoded) {
            return;
        }
        match Command::decode_inner(encoded) {
            Ok(Command::Append { key, value }) => {
                self.note(kv.hash(key), batch, value.len(), 0);
            }
            Ok(Command::SetRange { key, offset, value }) if !value.is_empty() => {
                let end = offset.saturating_add(value.len() as u64);
                self.set(kv.hash(key), batch, usize::try_from(end).unwrap_or(usize::MAX));
            }
            Ok(Command::Set(set)) => self.set(kv.hash(set.key), batch, set.value.len()),
            Ok(Command::SetNx { key, value }) => self.set(kv.hash(key), batch, value.len()),
            Ok(Command::Mset { pairs }) => {
                let mut items = pairs.iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    self.set(kv.hash(key), batch, value.len());
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, key: u64, batch: u64, length: usize) {
        if length >= self.long_bytes {
            self.note(key, batch, 0, length);
        }
    }

    fn note(&mut self, key: u64, batch: u64, appended: usize, length: usize) {
        let growth = self.keys.entry(key).or_default();
        growth.appended += appended;
        growth.last_batch = batch;
        if length > 0 {
            growth.longest = growth.longest.max(length);
            growth.longest_batch = batch;
        }
        match self.noted.back_mut() {
            Some((last_batch, last_key, bytes)) if (*last_batch, *last_key) == (batch, key) => {
                *bytes += appended;
            }
            _ => self.noted.push_back((batch, key, appended)),
        }
    }

    /// This batch is applied, and those before it are, or never will be.
    pub fn done(&mut self, batch: u64) {
        while let Some(&(of, key, appended)) = self.noted.front()
            && of <= batch
        {
            self.noted.pop_front();
            let Some(growth) = self.keys.get_mut(&key) else { continue };
            growth.appended -= appended;
            if growth.longest_batch <= batch {
                growth.longest = 0;
            }
            if growth.last_batch <= batch {
                self.keys.remove(&key);
            }
        }
    }

    /// Nothing is under way any more.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.noted.clear();
    }

    /// The length that a value may get to that has this one in the applied state.
    pub(crate) fn length(&self, key: u64, applied: usize, max: usize) -> usize {
        let growth = self.keys.get(&key).copied().unwrap_or_default();
        let length = applied.max(growth.longest).saturating_add(growth.appended);
        length.min(max).max(applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Limits, parse};
    use sampan_base::WallTime;

    fn encoded(line: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let args: Vec<&str> = line.split(' ').collect();
        parse(&args, &Limits::default(), &mut bytes).expect("a legal command");
        bytes
    }

    #[test]
    fn commands_under_way_count_until_they_are_applied() {
        let mut kv = Kv::new(Limits::default(), 0);
        let mut ahead = Ahead::new(100);
        let long = format!("SET k {}", "v".repeat(1_000));
        let steps = [
            ("APPEND k 12345678", 0, 8),
            (&*long, 0, 1_008),
            ("SETRANGE k 1999 x", 1_999, 2_008),
            ("APPEND k 12", 2_008, 2_010),
            ("SET k short", 0, 2_010),
            ("ONCE 1 1 APPEND k 1", 2_010, 2_011),
            ("PEXPIRE k 1000", 2_011, 2_011),
        ];
        for (batch, (line, cost, after)) in (1..).zip(steps) {
            let command = encoded(line);
            assert_eq!(kv.work_bytes(&command, &ahead), cost, "{line}");
            ahead.take(&kv, &command, batch);
            assert_eq!(kv.work_bytes(&encoded("PERSIST k"), &ahead), after, "{line}");
            assert_eq!(kv.work_bytes(&encoded("PERSIST other"), &ahead), 0);
        }
        // Applied one by one, except what is of a session: the lengths that may still come.
        let lengths = [2_002 + 1, 2_003, 2_003, 2_003, 6, 5, 5];
        for (batch, ((line, ..), length)) in (1..).zip(steps.into_iter().zip(lengths)) {
            let mut entry = BatchBuilder::with_capacity(WallTime::from_unix_ms(1), 0);
            entry.push(&encoded(line));
            kv.apply(&entry.finish(), &mut Vec::new()).expect("a batch");
            ahead.done(batch);
            assert_eq!(kv.work_bytes(&encoded("PERSIST k"), &ahead), length, "{line}");
        }
        assert!(ahead.keys.is_empty() && ahead.noted.is_empty());
    }
}
