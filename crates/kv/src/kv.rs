//! The state machine: what a node's log builds, entry by entry.
//!
//! The state is a function of the applied entries alone. Time is the log's (rule R12): each
//! entry carries the leader's clock, and a clock that went back is ignored. Whether a key or a
//! session is over is judged by that time whenever it is looked at; taking it out of memory comes
//! later, a few per entry, and changes no reply.

use sampan_base::WallTime;
use sampan_base::codec::DecodeError;

use crate::ahead::Ahead;
use crate::command::{self, Command};
use crate::digest::Digest;
use crate::keyspace::Keyspace;
use crate::session::Sessions;
use crate::snapshot::Capture;
use crate::{BatchReader, Limits, Reply};

/// No log time is later, whatever a leader's clock says: year 37 000. So adding a time to live to
/// it never overflows.
pub(crate) const TIME_MS_MAX: u64 = 1 << 50;

/// Commands that are decoded, and whose keys are fetched from memory, at a time.
pub const GROUP_COMMANDS: usize = 16;

/// The replicated state. One thread owns it.
pub struct Kv {
    pub(crate) limits: Limits,
    pub(crate) time_ms: u64,
    pub(crate) keys: Keyspace,
    pub(crate) sessions: Sessions,
    pub(crate) capture: Option<Capture>,
    pub(crate) counters: Counters,
}

/// What happened on this node; no part of the replicated state.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) expired: u64,
    pub(crate) sessions_evicted: u64,
    pub(crate) duplicates: u64,
    /// Since it was last taken: see [`Kv::take_work_bytes`].
    pub(crate) work_bytes: usize,
}

/// Figures for `INFO` and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Keys that exist at the log time.
    pub keys: u64,
    /// Those of them that have a time to live.
    pub expires: u64,
    /// Sessions that are open at the log time.
    pub sessions: u64,
    /// Replies that sessions remember.
    pub session_replies: u64,
    /// Bytes that sessions hold, as the limits count them.
    pub session_bytes: u64,
    /// Memory of keys and values in bytes, without what the allocator adds.
    pub bytes_estimate: u64,
    /// Keys taken out of memory because their time was over, since this node started.
    pub expired_total: u64,
    /// Sessions taken out by a limit or for idleness, likewise.
    pub sessions_evicted_total: u64,
    /// Commands in the log answered as duplicates or refused by their session, likewise.
    pub duplicates_total: u64,
}

impl Kv {
    /// An empty state. `hash_seed` places keys in this node's tables and should be hard to guess;
    /// nothing visible depends on it. Panics if the limits contradict each other.
    pub fn new(limits: Limits, hash_seed: u64) -> Self {
        if let Err(why) = limits.check() {
            panic!("limits: {why}");
        }
        Self {
            limits,
            time_ms: 0,
            keys: Keyspace::new(limits.shards, hash_seed),
            sessions: Sessions::new(),
            capture: None,
            counters: Counters::default(),
        }
    }

    /// Applies one log entry and appends one reply per command, in order. The time becomes the
    /// later of the entry's and what it was.
    ///
    /// An error means that the entry is no batch, though the log holds it: a broken invariant. The
    /// entry may be applied in part; the host stops.
    pub fn apply(&mut self, batch: &[u8], replies: &mut Vec<Reply>) -> Result<(), DecodeError> {
        self.apply_each(batch, |_, reply| replies.extend(reply))
    }

    /// The same, with a look at the state at each place of the batch: `step` is called once with
    /// `None` when the time has moved on and no command is done yet, then after each command with
    /// its reply. A read may be answered at any of these places.
    pub fn apply_each(
        &mut self,
        batch: &[u8],
        mut step: impl FnMut(&Self, Option<Reply>),
    ) -> Result<(), DecodeError> {
        let mut reader = BatchReader::new(batch)?;
        self.advance(reader.time());
        step(self, None);
        loop {
            let mut group: [Option<Command<'_>>; GROUP_COMMANDS] = Default::default();
            for place in &mut group {
                let Some(encoded) = reader.next_command()? else { break };
                *place = Some(Command::decode(encoded)?);
            }
            self.touch(group.iter().flatten().filter_map(Command::key));
            let whole = group[GROUP_COMMANDS - 1].is_some();
            for command in group.into_iter().flatten() {
                let reply = self.execute(&command)?;
                step(self, Some(reply));
            }
            if !whole {
                return Ok(());
            }
        }
    }

    /// Answers a command of [`Class::Read`](crate::Class::Read) or
    /// [`Class::TimedRead`](crate::Class::TimedRead) from the applied state. Bytes that
    /// are no read command get an error reply.
    pub fn query(&self, encoded: &[u8]) -> Reply {
        match Command::decode(encoded) {
            Ok(command) if command.is_read() => self.read(&command, self.limits.reply_bytes_max),
            _ => Reply::error("ERR malformed read command"),
        }
    }

    /// Fetches the keys of these reads from memory, in the time of a few of them: to be called
    /// before [`Kv::query`] answers several. Looks at [`GROUP_COMMANDS`] at most. Changes nothing.
    pub fn prefetch<'a>(&self, reads: impl Iterator<Item = &'a [u8]>) {
        self.touch(reads.filter_map(|encoded| Command::decode(encoded).ok()?.key()));
    }

    /// The reply to an ONCE whose outcome the applied state settles for good: executed before,
    /// reused, acknowledged, session gone. `None` for all else: propose it. Saves a log entry;
    /// [`Kv::apply`] decides the same by itself.
    pub fn duplicate(&self, encoded: &[u8]) -> Option<Reply> {
        match Command::decode(encoded) {
            Ok(Command::Once(once)) => self.sessions.duplicate(&once, self.time_ms, &self.limits),
            _ => None,
        }
    }

    /// Bytes of stored values that applying this command, or answering this read, would copy
    /// besides the bytes it carries; an estimate from the current state and what is ahead of it. 0
    /// for commands that replace or remove whole values and do not return them.
    pub fn work_bytes(&self, encoded: &[u8], ahead: &Ahead) -> usize {
        if !command::copies_a_value(encoded) && command::values_in_reply(encoded) == 0 {
            return 0;
        }
        let (key, offset) = match Command::decode_inner(encoded) {
            Ok(
                Command::Append { key, .. }
                | Command::Expire { key, .. }
                | Command::Persist { key }
                | Command::GetDel { key }
                | Command::Get { key }
                | Command::GetRange { key, .. },
            ) => (key, 0),
            Ok(Command::Set(set)) => (set.key, 0),
            Ok(Command::Mget { keys }) => {
                let lengths = keys.iter().map(|key| self.value_bytes(key, ahead));
                return lengths.sum::<usize>().min(self.limits.reply_bytes_max);
            }
            Ok(Command::SetRange { key, offset, .. }) => (key, offset as usize),
            _ => return 0,
        };
        self.value_bytes(key, ahead).max(offset.min(self.limits.value_bytes_max))
    }

    fn value_bytes(&self, key: &[u8], ahead: &Ahead) -> usize {
        let key = self.keys.hashed(key);
        let record = self.keys.live(key, self.time_ms);
        let applied = record.map_or(0, |record| record.value().len());
        ahead.length(key.hash(), applied, self.limits.value_bytes_max)
    }

    /// The place of a key, this node's own.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.keys.hashed(key).hash()
    }

    /// The same of what was applied since this was last called.
    pub fn take_work_bytes(&mut self) -> usize {
        std::mem::take(&mut self.counters.work_bytes)
    }

    /// The log time: the latest clock of a leader that was applied.
    pub const fn time(&self) -> WallTime {
        WallTime::from_unix_ms(self.time_ms)
    }

    /// The earliest log time at which a key or a session is over; not after [`Kv::time`] while some
    /// that are over are still in memory. The leader proposes an empty batch when it is due.
    pub fn next_expiry(&self) -> Option<WallTime> {
        let key = self.keys.next_expiry_ms();
        let session = self.sessions.next_expiry_ms(&self.limits);
        key.into_iter().chain(session).min().map(WallTime::from_unix_ms)
    }

    /// The digest of the whole state: keys, values, times to live, sessions, time. O(1). Equal on
    /// all nodes that applied the same entries, whatever machine or hash seed they have.
    pub fn digest(&self) -> Digest {
        let sums = (self.keys.sum(), self.sessions.sum());
        Digest::of_state(sums, self.time_ms, self.sessions.counters())
    }

    /// Figures about the state. Not for hot paths.
    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.keys.live_len(self.time_ms) as u64,
            expires: self.keys.expires_len(self.time_ms) as u64,
            sessions: self.sessions.live_len(self.time_ms, &self.limits) as u64,
            session_replies: self.sessions.replies() as u64,
            session_bytes: self.sessions.bytes() as u64,
            bytes_estimate: self.keys.memory_bytes() as u64,
            expired_total: self.counters.expired,
            sessions_evicted_total: self.counters.sessions_evicted,
            duplicates_total: self.counters.duplicates,
        }
    }

    /// The limits in force.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Frees the memory of another state little by little: to free millions of keys, or of
    /// remembered replies, at once takes longer than a node may be silent.
    pub fn discard(&mut self, other: Self) {
        self.keys.discard(other.keys);
        self.sessions.discard(other.sessions);
    }

    /// Frees a little of what FLUSHALL or a replaced state left in memory; returns whether there is
    /// more. Every [`Kv::apply`] does one such step; a host that is idle may do more.
    pub fn maintain(&mut self) -> bool {
        self.keys.free_garbage() | self.sessions.free_garbage()
    }

    /// Looks up keys only to have them in the processor's caches: in the short loop the misses of
    /// several keys overlap, while executing commands takes them one after another.
    fn touch<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut hashed = [self.keys.hashed(&[]); GROUP_COMMANDS];
        let mut count = 0;
        for (place, key) in hashed.iter_mut().zip(keys) {
            *place = self.keys.hashed(key);
            count += 1;
        }
        if count > 1 {
            for &key in &hashed[..count] {
                std::hint::black_box(self.keys.contains(key));
            }
        }
    }

    fn advance(&mut self, time: WallTime) {
        self.time_ms = self.time_ms.max(time.unix_ms.min(TIME_MS_MAX));
        self.keys.pass(self.time_ms);
        let count_max = self.limits.reclaim_per_batch_max;
        let keys = self.keys.reclaim(self.time_ms, count_max);
        let sessions = self.sessions.reclaim(self.time_ms, &self.limits, count_max);
        self.counters.expired += keys as u64;
        self.counters.sessions_evicted += sessions as u64;
        self.maintain();
    }
}
