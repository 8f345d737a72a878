//! Client sessions: how a command that is sent again is executed once (thesis 6.3, rule R13).
//!
//! `SESSION OPEN` answers a session id, never used again. The client numbers its commands from 1
//! and sends each as `ONCE id seq [ACK n] command args...`; `ACK n` says that it has every reply
//! through `n` and will send none of those again. Several commands may be in flight and may arrive
//! in any order. A session keeps, for each sequence it has executed and the client has not
//! acknowledged, a fingerprint of the command and the reply. Entering a command takes these steps
//! in this order, all in log order and log time:
//!
//! | step | state of the session | answer | executed |
//! |---|---|---|---|
//! | 1 | no such session: never opened, closed, unused for `session_ttl_ms`, or evicted | `-SESSIONEXPIRED` | not this copy; whether an earlier one was is not known any more |
//! | 2 | found: it becomes the most recently used; then `ACK n` drops the replies through `n` | | |
//! | 3 | `seq` is at or below the highest acknowledgement | `-SESSIONSTALE` | not this copy; its reply, if there was one, is gone |
//! | 4 | `seq` was executed, with the same command | the first reply | not again |
//! | 5 | `seq` was executed, with another command | `-SESSIONREUSED` | no |
//! | 6 | `session_window_max` replies or `session_window_bytes_max` bytes are held, and `seq` is not the one after the highest acknowledgement | `-SESSIONFULL` | no; may be sent again after an ACK |
//! | 7 | otherwise | the reply, remembered | yes |
//!
//! The exception in step 6 keeps a full window from closing for good: commands may arrive in any
//! order, and if later ones fill the window, only the one after the highest acknowledgement lets
//! the client acknowledge more. It exceeds the limits by at most that one reply.
//!
//! An error reply of the command itself (INCR of a text) is an outcome like any other and is
//! remembered; so the texts of such errors are replicated state, and changing one is a change of
//! the log format. A reply longer than the longest value (an MGET inside ONCE) becomes an error
//! reply.
//!
//! `OUTCOME id seq` reads, without executing: `["applied", reply]`; `["not-applied"]`: not up to
//! this read, though a copy still on its way may yet be; `["unknown"]`: the session is gone or the
//! sequence acknowledged, so that nothing is known any more.
//!
//! **Limits.** Above `sessions_max` sessions, or `session_bytes_total_max` bytes in all, the least
//! recently used are evicted. "Used" means opened or named by an ONCE in the log, so the order is
//! the same on every node; it is part of the digest and of snapshots.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::planted;

use crate::command::Once;
use crate::digest::Sum;
use crate::{Limits, Reply};

/// What a session counts as beside its replies, in bytes.
pub const SESSION_OVERHEAD_BYTES: usize = 256;

/// What a remembered reply counts as beside the bytes it holds.
pub const REPLY_OVERHEAD_BYTES: usize = 64;

/// One step of housekeeping frees no more replies than this, but for the last of them a whole
/// session's.
const FREE_REPLIES_MAX: usize = 512;

/// First bytes of what the digest covers, so that no head is taken for a reply.
const PART_HEAD: u8 = 0;
const PART_REPLY: u8 = 1;

const EXPIRED: Reply = Reply::error(
    "SESSIONEXPIRED no such session: never opened, closed, idle too long or evicted; this copy was not executed",
);
const STALE: Reply = Reply::error(
    "SESSIONSTALE sequence is acknowledged, its reply is gone; this copy was not executed",
);
const REUSED: Reply =
    Reply::error("SESSIONREUSED sequence was used for another command; not executed");
const FULL: Reply =
    Reply::error("SESSIONFULL too many replies not acknowledged; not executed, ACK and send again");

/// All sessions.
pub(crate) struct Sessions {
    by_id: BTreeMap<u64, Session>,
    /// Session ids by the number of their last use: the order of eviction.
    by_use: BTreeMap<u64, u64>,
    next_id: u64,
    next_use: u64,
    bytes: usize,
    replies: usize,
    sum: Sum,
    /// Where parts for the digest are put together.
    scratch: Vec<u8>,
    /// As in [`Keyspace`](crate::keyspace::Keyspace): sessions of an older generation are as a
    /// capture under way must see them.
    generation: u32,
    capture: Option<Capture>,
    /// Sessions of states that were replaced, freed step by step.
    garbage: Vec<BTreeMap<u64, Session>>,
}

#[derive(Clone, Debug)]
struct Session {
    acked_through: u64,
    last_used_ms: u64,
    last_use: u64,
    generation: u32,
    bytes: usize,
    /// By sequence, ascending.
    remembered: VecDeque<Remembered>,
}

#[derive(Clone, Debug)]
struct Remembered {
    sequence: u64,
    fingerprint: u64,
    reply: Reply,
}

struct Capture {
    /// Sessions through this id are done.
    done_through: u64,
    /// Sessions as of the beginning that have since changed or gone.
    saved: Vec<(u64, Session)>,
}

/// What becomes of a command that was sent with ONCE.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Execute it, then [`Sessions::remember`] the reply.
    Execute,
    /// It was executed before, and this is its reply; or it is not executed, and this says why.
    Answer(Reply),
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            by_use: BTreeMap::new(),
            next_id: 1,
            next_use: 1,
            bytes: 0,
            replies: 0,
            sum: Sum::default(),
            scratch: Vec::new(),
            generation: 0,
            capture: None,
            garbage: Vec::new(),
        }
    }

    // Reading.

    /// Answers a command without the log, if what the log holds can no longer change the answer.
    pub(crate) fn duplicate(
        &self,
        once: &Once<'_>,
        time_ms: u64,
        limits: &Limits,
    ) -> Option<Reply> {
        // An id not handed out yet may have been in entries that this node has still to apply.
        if once.session >= self.next_id {
            return None;
        }
        let Some(session) = self.live(once.session, time_ms, limits) else { return Some(EXPIRED) };
        session.known(once)
    }

    /// The answer to `OUTCOME`.
    pub(crate) fn outcome(&self, id: u64, sequence: u64, time_ms: u64, limits: &Limits) -> Reply {
        let word = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let session = self.live(id, time_ms, limits);
        let Some(session) = session.filter(|session| sequence > session.acked_through) else {
            return Reply::Array(vec![word("unknown")]);
        };
        match session.find(sequence) {
            Ok(place) => {
                Reply::Array(vec![word("applied"), session.remembered[place].reply.clone()])
            }
            Err(_) => Reply::Array(vec![word("not-applied")]),
        }
    }

    /// How many sessions are in use at this log time. Takes time in those that are over.
    pub(crate) fn live_len(&self, time_ms: u64, limits: &Limits) -> usize {
        let idle = |id: &&u64| self.by_id[id].is_idle(time_ms, limits);
        self.by_id.len() - self.by_use.values().take_while(idle).count()
    }

    /// Log time at which the least recently used session is over.
    pub(crate) fn next_expiry_ms(&self, limits: &Limits) -> Option<u64> {
        let (_, id) = self.by_use.first_key_value()?;
        Some(self.by_id[id].idle_from_ms(limits))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) const fn replies(&self) -> usize {
        self.replies
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn counters(&self) -> (u64, u64) {
        (self.next_id, self.next_use)
    }

    pub(crate) const fn sum(&self) -> Sum {
        self.sum
    }

    fn live(&self, id: u64, time_ms: u64, limits: &Limits) -> Option<&Session> {
        self.by_id.get(&id).filter(|session| !session.is_idle(time_ms, limits))
    }

    // Writing.

    /// Opens a session; answers its id and how many others were evicted for it.
    pub(crate) fn open(&mut self, time_ms: u64, limits: &Limits) -> (u64, usize) {
        let id = self.next_id;
        self.next_id += 1;
        let session = Session {
            acked_through: 0,
            last_used_ms: time_ms,
            last_use: self.next_use,
            generation: self.generation,
            bytes: SESSION_OVERHEAD_BYTES,
            remembered: VecDeque::new(),
        };
        self.next_use += 1;
        self.insert(id, session);
        (id, self.evict(limits))
    }

    /// Closes a session. Returns whether it was there.
    pub(crate) fn close(&mut self, id: u64, time_ms: u64, limits: &Limits) -> bool {
        let live = self.live(id, time_ms, limits).is_some();
        if live {
            self.remove(id);
        }
        live
    }

    /// Steps 1 to 6 of the table above.
    pub(crate) fn admit(&mut self, once: &Once<'_>, time_ms: u64, limits: &Limits) -> Admission {
        if planted!(ExpiredSessionReopened) && !self.by_id.contains_key(&once.session) {
            let next_id = std::mem::replace(&mut self.next_id, once.session);
            self.open(time_ms, limits);
            self.next_id = next_id;
        } else if self.live(once.session, time_ms, limits).is_none() {
            return Admission::Answer(EXPIRED);
        }
        let (freed_bytes, freed_replies) = self.touch(once, time_ms);
        self.bytes -= freed_bytes;
        self.replies -= freed_replies;
        let session = &self.by_id[&once.session];
        match session.known(once) {
            Some(reply) => Admission::Answer(reply),
            None if session.is_full_for(once.sequence, limits) => Admission::Answer(FULL),
            None => Admission::Execute,
        }
    }

    /// Step 7: keeps the reply of a command that was admitted. Returns how many sessions were
    /// evicted to make room.
    pub(crate) fn remember(&mut self, once: &Once<'_>, reply: Reply, limits: &Limits) -> usize {
        let session = self.by_id.get_mut(&once.session).expect("the command was just admitted");
        let place = session.find(once.sequence).expect_err("an admitted sequence is new");
        let remembered =
            Remembered { sequence: once.sequence, fingerprint: fingerprint(once), reply };
        self.sum.add(remembered.part(once.session, &mut self.scratch));
        session.bytes += remembered.bytes();
        self.bytes += remembered.bytes();
        self.replies += 1;
        session.remembered.insert(place, remembered);
        self.evict(limits)
    }

    /// Removes sessions that are idle at this log time, at most `count_max`. Returns how many.
    pub(crate) fn reclaim(&mut self, time_ms: u64, limits: &Limits, count_max: usize) -> usize {
        for count in 0..count_max {
            let Some((_, &id)) = self.by_use.first_key_value() else { return count };
            if !self.by_id[&id].is_idle(time_ms, limits) {
                return count;
            }
            self.remove(id);
        }
        count_max
    }

    /// Makes a session the most recently used one and drops what its client acknowledges.
    /// Returns the bytes and replies dropped.
    fn touch(&mut self, once: &Once<'_>, time_ms: u64) -> (usize, usize) {
        let id = once.session;
        let session = self.by_id.get_mut(&id).expect("a session that is in use");
        if session.generation < self.generation {
            if let Some(capture) = &mut self.capture {
                capture.saved.push((id, session.clone()));
            }
            session.generation = self.generation;
        }
        self.sum.remove(&session.head_part(id));
        self.by_use.remove(&session.last_use);
        session.last_use = self.next_use;
        session.last_used_ms = time_ms;
        let one_more = planted!(AckDropsOneMore) && once.ack > 0;
        session.acked_through = session.acked_through.max(once.ack + u64::from(one_more));
        self.by_use.insert(self.next_use, id);
        self.next_use += 1;
        self.sum.add(&session.head_part(id));
        let acked_through = session.acked_through;
        let count = session.remembered.partition_point(|held| held.sequence <= acked_through);
        let mut bytes = 0;
        for remembered in session.remembered.drain(..count) {
            self.sum.remove(remembered.part(id, &mut self.scratch));
            bytes += remembered.bytes();
        }
        session.bytes -= bytes;
        (bytes, count)
    }

    fn evict(&mut self, limits: &Limits) -> usize {
        let mut count = 0;
        while self.by_id.len() > limits.sessions_max
            || (self.bytes > limits.session_bytes_total_max && self.by_id.len() > 1)
        {
            let (_, &id) = self.by_use.first_key_value().expect("each session has a last use");
            self.remove(id);
            count += 1;
        }
        count
    }

    fn insert(&mut self, id: u64, session: Session) {
        self.sum.add(&session.head_part(id));
        for remembered in &session.remembered {
            self.sum.add(remembered.part(id, &mut self.scratch));
        }
        self.bytes += session.bytes;
        self.replies += session.remembered.len();
        self.by_use.insert(session.last_use, id);
        self.by_id.insert(id, session);
    }

    fn remove(&mut self, id: u64) {
        let session = self.by_id.remove(&id).expect("the session to remove is there");
        self.sum.remove(&session.head_part(id));
        for remembered in &session.remembered {
            self.sum.remove(remembered.part(id, &mut self.scratch));
        }
        self.bytes -= session.bytes;
        self.replies -= session.remembered.len();
        self.by_use.remove(&session.last_use);
        if let Some(capture) = &mut self.capture
            && session.generation < self.generation
        {
            capture.saved.push((id, session));
        }
    }

    // Capturing and restoring.

    /// Begins to capture the sessions as they are now.
    pub(crate) fn capture_begin(&mut self, generation: u32) {
        assert!(generation > self.generation, "{generation} is not above {}", self.generation);
        self.generation = generation;
        self.capture = Some(Capture { done_through: 0, saved: Vec::new() });
    }

    /// Appends the next session as of the beginning. Returns false if there was none left.
    pub(crate) fn capture_next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(capture) = &mut self.capture else { return false };
        if let Some((id, session)) = capture.saved.pop() {
            session.encode(id, out);
            return true;
        }
        let rest = self.by_id.range_mut(capture.done_through + 1..);
        for (&id, session) in rest {
            capture.done_through = id;
            if session.generation < self.generation {
                session.generation = self.generation;
                session.encode(id, out);
                return true;
            }
        }
        false
    }

    /// Ends a capture, complete or not.
    pub(crate) fn capture_end(&mut self) {
        self.capture = None;
    }

    /// Takes in the sessions of another state, to be freed step by step.
    pub(crate) fn discard(&mut self, other: Self) {
        self.garbage.extend(other.garbage);
        self.garbage.push(other.by_id);
    }

    /// Frees a little of what was discarded. Returns whether there is more.
    pub(crate) fn free_garbage(&mut self) -> bool {
        let Some(sessions) = self.garbage.last_mut() else { return false };
        let mut replies = 0;
        while replies < FREE_REPLIES_MAX
            && let Some((_, session)) = sessions.pop_first()
        {
            replies += 1 + session.remembered.len();
        }
        if sessions.is_empty() {
            self.garbage.pop();
        }
        !self.garbage.is_empty()
    }

    /// Sets the counters that a snapshot holds; to be called before its sessions are restored.
    pub(crate) fn restore_counters(&mut self, next_id: u64, next_use: u64) {
        (self.next_id, self.next_use) = (next_id, next_use);
    }

    /// Takes in sessions that were restored elsewhere.
    pub(crate) fn absorb(&mut self, other: Self) -> Result<(), DecodeError> {
        other.by_id.into_iter().try_for_each(|(id, session)| self.restore_one(id, session))
    }

    /// Adds a session that a snapshot holds.
    pub(crate) fn restore(&mut self, encoded: &[u8]) -> Result<(), DecodeError> {
        let (id, session) = Session::decode(encoded)?;
        self.restore_one(id, session)
    }

    fn restore_one(&mut self, id: u64, session: Session) -> Result<(), DecodeError> {
        if id == 0 || id >= self.next_id || self.by_id.contains_key(&id) {
            return Err(DecodeError::Invalid("session id"));
        }
        if session.last_use >= self.next_use || self.by_use.contains_key(&session.last_use) {
            return Err(DecodeError::Invalid("session use"));
        }
        self.insert(id, session);
        Ok(())
    }
}

/// Adds to a sum what the digest covers of an encoded session; how many replies it remembers.
pub(crate) fn examine(
    encoded: &[u8],
    sum: &mut Sum,
    scratch: &mut Vec<u8>,
) -> Result<usize, DecodeError> {
    let (id, session) = Session::decode(encoded)?;
    sum.add(&session.head_part(id));
    for remembered in &session.remembered {
        sum.add(remembered.part(id, scratch));
    }
    Ok(session.remembered.len())
}

impl Session {
    fn idle_from_ms(&self, limits: &Limits) -> u64 {
        self.last_used_ms.saturating_add(limits.session_ttl_ms)
    }

    fn is_idle(&self, time_ms: u64, limits: &Limits) -> bool {
        self.idle_from_ms(limits) <= time_ms
    }

    /// Step 6, for a sequence that is not held.
    fn is_full_for(&self, sequence: u64, limits: &Limits) -> bool {
        let full = self.remembered.len() >= limits.session_window_max
            || self.bytes >= limits.session_window_bytes_max;
        full && sequence != self.acked_through + 1
    }

    fn find(&self, sequence: u64) -> Result<usize, usize> {
        self.remembered.binary_search_by_key(&sequence, |held| held.sequence)
    }

    /// Steps 3 to 5: the answer to a sequence that this session knows.
    fn known(&self, once: &Once<'_>) -> Option<Reply> {
        if once.sequence <= self.acked_through {
            return Some(STALE);
        }
        let last = self.remembered.back().filter(|last| once.sequence < last.sequence);
        if planted!(OnlyLastReplyKept) && last.is_some() {
            return last.map(|last| last.reply.clone());
        }
        let held = &self.remembered[self.find(once.sequence).ok()?];
        Some(if held.fingerprint == fingerprint(once) { held.reply.clone() } else { REUSED })
    }

    /// What the digest covers of a session beside its replies.
    fn head_part(&self, id: u64) -> [u8; 33] {
        let mut part = [0; 33];
        part[0] = PART_HEAD;
        let fields = [id, self.acked_through, self.last_used_ms, self.last_use];
        for (bytes, field) in part[1..].chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        part
    }

    fn encode(&self, id: u64, out: &mut Vec<u8>) {
        out.put(&self.head_part(id)[1..]);
        out.put_u32(self.remembered.len() as u32);
        for remembered in &self.remembered {
            out.put_u64(remembered.sequence);
            out.put_u64(remembered.fingerprint);
            remembered.reply.encode(out);
        }
    }

    fn decode(encoded: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut reader = Reader::new(encoded);
        let id = reader.u64()?;
        let mut session = Self {
            acked_through: reader.u64()?,
            last_used_ms: reader.u64()?,
            last_use: reader.u64()?,
            generation: 0,
            bytes: SESSION_OVERHEAD_BYTES,
            remembered: VecDeque::new(),
        };
        let mut above = session.acked_through;
        for _ in 0..reader.u32()? {
            let (sequence, fingerprint) = (reader.u64()?, reader.u64()?);
            if sequence <= above {
                return Err(DecodeError::Invalid("session sequence"));
            }
            above = sequence;
            let remembered =
                Remembered { sequence, fingerprint, reply: Reply::decode(&mut reader)? };
            session.bytes += remembered.bytes();
            session.remembered.push_back(remembered);
        }
        reader.finish()?;
        Ok((id, session))
    }
}

impl Remembered {
    fn bytes(&self) -> usize {
        REPLY_OVERHEAD_BYTES + self.reply.encoded_bytes()
    }

    /// What the digest covers of a remembered reply.
    fn part<'a>(&self, id: u64, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.clear();
        scratch.put_u8(PART_REPLY);
        scratch.put_u64(id);
        scratch.put_u64(self.sequence);
        scratch.put_u64(self.fingerprint);
        self.reply.encode(scratch);
        scratch
    }
}

/// Tells one command from another sent with the same sequence.
fn fingerprint(once: &Once<'_>) -> u64 {
    xxhash_rust::xxh3::xxh3_64(once.command)
}
