//! The state machine as one would write it without a thought for speed, and random commands for it.
//!
//! The model is eager: what is over is removed at once. So it also checks that replies do not
//! depend on when the real one takes things out of memory.

use std::collections::BTreeMap;

use sampan_base::Rng;
use sampan_kv::session::{REPLY_OVERHEAD_BYTES, SESSION_OVERHEAD_BYTES};
use sampan_kv::{Limits, Reply};

/// A data command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Get(Vec<u8>),
    Set { key: Vec<u8>, value: Vec<u8>, only_if: Option<bool>, get: bool, ttl: Ttl },
    SetNx(Vec<u8>, Vec<u8>),
    Append(Vec<u8>, Vec<u8>),
    GetRange(Vec<u8>, i64, i64),
    SetRange(Vec<u8>, usize, Vec<u8>),
    Strlen(Vec<u8>),
    Del(Vec<Vec<u8>>),
    Exists(Vec<Vec<u8>>),
    Mget(Vec<Vec<u8>>),
    Mset(Vec<(Vec<u8>, Vec<u8>)>),
    IncrBy(Vec<u8>, i64),
    GetDel(Vec<u8>),
    DbSize,
    FlushAll,
    Pexpire { key: Vec<u8>, ms: i64, absolute: bool, option: &'static str },
    Pttl(Vec<u8>),
    PexpireTime(Vec<u8>),
    Persist(Vec<u8>),
    Type(Vec<u8>),
}

/// What SET says about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    Clear,
    Keep,
    Px(u64),
    PxAt(u64),
}

/// Any command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Data(Op),
    Open,
    Close(u64),
    Once { session: u64, sequence: u64, ack: u64, op: Op },
    Outcome(u64, u64),
}

/// The naive state.
#[derive(Clone, Debug)]
pub struct Model {
    pub limits: Limits,
    pub time_ms: u64,
    pub keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    /// Least recently used first.
    pub sessions: Vec<Session>,
    next_session: u64,
}

/// A session, naively.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    acked: u64,
    used_ms: u64,
    replies: BTreeMap<u64, (Op, Reply)>,
}

impl Session {
    fn bytes(&self) -> usize {
        let replies = self.replies.values();
        SESSION_OVERHEAD_BYTES
            + replies.map(|(_, reply)| REPLY_OVERHEAD_BYTES + reply.encoded_bytes()).sum::<usize>()
    }
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self { limits, time_ms: 0, keys: BTreeMap::new(), sessions: Vec::new(), next_session: 1 }
    }

    pub fn advance(&mut self, time_ms: u64) {
        let time_ms = self.time_ms.max(time_ms);
        self.time_ms = time_ms;
        self.keys.retain(|_, (_, expiry)| expiry.is_none_or(|expiry| expiry > time_ms));
        let ttl_ms = self.limits.session_ttl_ms;
        self.sessions.retain(|session| session.used_ms + ttl_ms > time_ms);
    }

    pub fn call(&mut self, call: &Call) -> Reply {
        match call {
            Call::Data(op) => self.data(op),
            Call::Open => {
                let id = self.next_session;
                self.next_session += 1;
                let used_ms = self.time_ms;
                self.sessions.push(Session { id, acked: 0, used_ms, replies: BTreeMap::new() });
                self.evict();
                Reply::Int(id as i64)
            }
            Call::Close(id) => {
                let before = self.sessions.len();
                self.sessions.retain(|session| session.id != *id);
                Reply::Int((before - self.sessions.len()) as i64)
            }
            Call::Once { session, sequence, ack, op } => self.once(*session, *sequence, *ack, op),
            Call::Outcome(id, sequence) => self.outcome(*id, *sequence),
        }
    }

    fn once(&mut self, id: u64, sequence: u64, ack: u64, op: &Op) -> Reply {
        let Some(place) = self.sessions.iter().position(|session| session.id == id) else {
            return code("SESSIONEXPIRED");
        };
        let mut session = self.sessions.remove(place);
        session.used_ms = self.time_ms;
        session.acked = session.acked.max(ack);
        session.replies.retain(|&sequence, _| sequence > session.acked);
        let answer = if sequence <= session.acked {
            Some(code("SESSIONSTALE"))
        } else if let Some((first, reply)) = session.replies.get(&sequence) {
            Some(if first == op { reply.clone() } else { code("SESSIONREUSED") })
        } else if sequence != session.acked + 1
            && (session.replies.len() >= self.limits.session_window_max
                || session.bytes() >= self.limits.session_window_bytes_max)
        {
            Some(code("SESSIONFULL"))
        } else {
            None
        };
        let reply = answer.unwrap_or_else(|| {
            let reply = self.data(op);
            let long = matches!(op, Op::Mget(_)) && bytes(&reply) > self.limits.value_bytes_max;
            let reply =
                if long { code("ERR reply is too long, ask for fewer keys") } else { reply };
            session.replies.insert(sequence, (op.clone(), reply.clone()));
            reply
        });
        self.sessions.push(session);
        self.evict();
        reply
    }

    fn evict(&mut self) {
        let bytes = |sessions: &[Session]| sessions.iter().map(Session::bytes).sum::<usize>();
        while self.sessions.len() > self.limits.sessions_max
            || (bytes(&self.sessions) > self.limits.session_bytes_total_max
                && self.sessions.len() > 1)
        {
            self.sessions.remove(0);
        }
    }

    fn outcome(&self, id: u64, sequence: u64) -> Reply {
        let word = |text: &str| Reply::bulk(text.as_bytes());
        match self.sessions.iter().find(|session| session.id == id) {
            Some(session) if sequence > session.acked => match session.replies.get(&sequence) {
                Some((_, reply)) => Reply::Array(vec![word("applied"), reply.clone()]),
                None => Reply::Array(vec![word("not-applied")]),
            },
            _ => Reply::Array(vec![word("unknown")]),
        }
    }

    fn value(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.keys.get(key).map(|(value, _)| value)
    }

    fn expiry(&self, key: &[u8]) -> Option<u64> {
        self.keys.get(key).and_then(|(_, expiry)| *expiry)
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>, expiry: Option<u64>) {
        self.keys.insert(key.to_vec(), (value, expiry));
        self.advance(self.time_ms);
    }

    fn data(&mut self, op: &Op) -> Reply {
        let int = |count: usize| Reply::Int(count as i64);
        let or_nil = |value: Option<&Vec<u8>>| value.map_or(Reply::Nil, |value| Reply::bulk(value));
        match op {
            Op::Get(key) => or_nil(self.value(key)),
            Op::Set { key, value, only_if, get, ttl } => self.set(key, value, *only_if, *get, *ttl),
            Op::SetNx(key, value) => {
                let absent = !self.keys.contains_key(key);
                if absent {
                    self.put(key, value.clone(), None);
                }
                int(usize::from(absent))
            }
            Op::Append(key, suffix) => {
                let mut value = self.value(key).cloned().unwrap_or_default();
                value.extend(suffix);
                self.put_grown(key, value)
            }
            Op::SetRange(_, _, part) if part.is_empty() => int(self.length(op)),
            Op::SetRange(key, offset, part) => {
                let mut value = self.value(key).cloned().unwrap_or_default();
                value.resize(value.len().max(offset + part.len()), 0);
                value.splice(*offset..offset + part.len(), part.iter().copied());
                self.put_grown(key, value)
            }
            Op::GetRange(key, start, end) => {
                let value = self.value(key).cloned().unwrap_or_default();
                let length = value.len() as i64;
                let from = if *start < 0 { (length + start).max(0) } else { *start };
                let to = if *end < 0 { (length + end).max(0) } else { *end };
                let crossed = *start < 0 && *end < 0 && start > end;
                let wanted = (0..length).filter(|at| !crossed && (from..=to).contains(at));
                Reply::bulk(&wanted.map(|at| value[at as usize]).collect::<Vec<u8>>())
            }
            Op::Strlen(_) => int(self.length(op)),
            Op::Del(keys) => int(keys.iter().filter_map(|key| self.keys.remove(key)).count()),
            Op::Exists(keys) => int(keys.iter().filter(|key| self.keys.contains_key(*key)).count()),
            Op::Mget(keys) => {
                Reply::Array(keys.iter().map(|key| or_nil(self.value(key))).collect())
            }
            Op::Mset(pairs) => {
                for (key, value) in pairs {
                    self.put(key, value.clone(), None);
                }
                Reply::Ok
            }
            Op::IncrBy(key, delta) => self.incr_by(key, *delta),
            Op::GetDel(key) => or_nil(self.keys.remove(key).map(|(value, _)| value).as_ref()),
            Op::DbSize => int(self.keys.len()),
            Op::FlushAll => {
                self.keys.clear();
                Reply::Ok
            }
            Op::Pexpire { key, ms, absolute, option } => self.pexpire(key, *ms, *absolute, option),
            Op::Pttl(key) | Op::PexpireTime(key) => match self.keys.get(key) {
                None => Reply::Int(-2),
                Some((_, None)) => Reply::Int(-1),
                Some((_, Some(expiry))) => {
                    let from = if matches!(op, Op::Pttl(_)) { self.time_ms } else { 0 };
                    Reply::Int((expiry - from) as i64)
                }
            },
            Op::Persist(key) => {
                let expiry = self.keys.get_mut(key).and_then(|(_, expiry)| expiry.take());
                int(usize::from(expiry.is_some()))
            }
            Op::Type(key) => {
                Reply::Simple(if self.keys.contains_key(key) { "string" } else { "none" })
            }
        }
    }

    fn length(&self, op: &Op) -> usize {
        match op {
            Op::Strlen(key) | Op::SetRange(key, ..) => self.value(key).map_or(0, Vec::len),
            _ => 0,
        }
    }

    fn put_grown(&mut self, key: &[u8], value: Vec<u8>) -> Reply {
        if value.len() > self.limits.value_bytes_max {
            return code("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
        }
        let length = value.len();
        let expiry = self.expiry(key);
        self.put(key, value, expiry);
        Reply::Int(length as i64)
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        only_if: Option<bool>,
        get: bool,
        ttl: Ttl,
    ) -> Reply {
        let old = self.keys.get(key).cloned();
        let met = only_if.is_none_or(|present| present == old.is_some());
        let expiry = match ttl {
            Ttl::Clear => None,
            Ttl::Keep => self.expiry(key),
            Ttl::Px(ms) => Some(self.time_ms + ms),
            Ttl::PxAt(ms) => Some(ms),
        };
        if met {
            self.put(key, value.to_vec(), expiry);
        }
        match (get, old) {
            (true, Some((old, _))) => Reply::bulk(&old),
            (false, _) if met => Reply::Ok,
            _ => Reply::Nil,
        }
    }

    fn incr_by(&mut self, key: &[u8], delta: i64) -> Reply {
        let text = self.value(key).cloned().unwrap_or_else(|| b"0".to_vec());
        let text = String::from_utf8_lossy(&text).into_owned();
        let Some(old) = text.parse::<i64>().ok().filter(|old| old.to_string() == text) else {
            return code("ERR value is not an integer or out of range");
        };
        let Some(new) = old.checked_add(delta) else {
            return code("ERR increment or decrement would overflow");
        };
        let expiry = self.expiry(key);
        self.put(key, new.to_string().into_bytes(), expiry);
        Reply::Int(new)
    }

    fn pexpire(&mut self, key: &[u8], ms: i64, absolute: bool, option: &str) -> Reply {
        let Some((value, old)) = self.keys.get(key).cloned() else { return Reply::Int(0) };
        let when = if absolute { ms } else { ms + self.time_ms as i64 };
        let infinite = i128::MAX;
        let old_or_never = old.map_or(infinite, i128::from);
        let met = match option {
            "NX" => old.is_none(),
            "XX" => old.is_some(),
            "GT" => i128::from(when) > old_or_never,
            "LT" => i128::from(when) < old_or_never,
            _ => true,
        };
        if met {
            self.put(key, value, Some(when.max(0) as u64));
        }
        Reply::Int(i64::from(met))
    }
}

/// An error; of those that sessions do not remember the code is enough.
fn code(code: &'static str) -> Reply {
    Reply::Error(code.into())
}

/// What the limit of a reply counts.
fn bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Array(items) => items.iter().map(|item| 1 + bytes(item)).sum(),
        Reply::Bulk(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Do a reply and the model's agree? Of an error the code counts.
pub fn agree(real: &Reply, model: &Reply) -> bool {
    match (real, model) {
        (Reply::Error(real), Reply::Error(model)) => {
            real == model || real.split(' ').next() == Some(model)
        }
        (Reply::Array(real), Reply::Array(model)) => {
            real.len() == model.len() && real.iter().zip(model).all(|(a, b)| agree(a, b))
        }
        _ => real == model,
    }
}

// Random commands.

/// What random commands are drawn from.
#[derive(Clone, Debug)]
pub struct Draw {
    pub rng: Rng,
    /// Number of different keys.
    pub keys: u64,
    /// One in so many data commands is a FLUSHALL.
    pub flush_one_in: u64,
    pub sequence_max: u64,
    /// Times are multiples of this many milliseconds: many keys expire together, and commands meet
    /// the very millisecond.
    pub quantum_ms: u64,
}

impl Draw {
    /// A number of milliseconds below `bound_ms`.
    pub fn ms(&mut self, bound_ms: u64) -> u64 {
        self.rng.below(bound_ms / self.quantum_ms) * self.quantum_ms
    }

    pub fn key(&mut self) -> Vec<u8> {
        format!("k{}", self.rng.below(self.keys)).into_bytes()
    }

    fn keys(&mut self) -> Vec<Vec<u8>> {
        (0..=self.rng.below(4)).map(|_| self.key()).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.below(4) {
            0 => self.rng.below(100).to_string().into_bytes(),
            1 => vec![b'x'; self.rng.below(40) as usize],
            2 => (self.rng.next_u64() as i64).to_string().into_bytes(),
            _ => (0..self.rng.below(6)).map(|_| self.rng.next_u64() as u8).collect(),
        }
    }

    fn ttl(&mut self, now_ms: u64) -> Ttl {
        match self.rng.below(8) {
            0..4 => Ttl::Clear,
            4 => Ttl::Keep,
            5 | 6 => Ttl::Px(self.quantum_ms + self.ms(900)),
            _ => Ttl::PxAt(now_ms - 200 + self.ms(1_000)),
        }
    }

    pub fn op(&mut self, now_ms: u64) -> Op {
        if self.rng.one_in(self.flush_one_in) {
            return Op::FlushAll;
        }
        match self.rng.below(26) {
            0 => Op::Get(self.key()),
            1..6 => Op::Set {
                key: self.key(),
                value: self.value(),
                only_if: *self.rng.pick(&[None, None, Some(true), Some(false)]),
                get: self.rng.one_in(3),
                ttl: self.ttl(now_ms),
            },
            6 => Op::SetNx(self.key(), self.value()),
            7 => Op::Append(self.key(), self.value()),
            8 => {
                let mut end = || self.rng.below(30) as i64 - 15;
                let (start, end) = (end(), end());
                Op::GetRange(self.key(), start, end)
            }
            9 => Op::SetRange(self.key(), self.rng.below(70) as usize, self.value()),
            10 => Op::Strlen(self.key()),
            11..14 => Op::Del(self.keys()),
            14 => Op::Exists(self.keys()),
            15 => Op::Mget(self.keys()),
            16 => Op::Mset((0..=self.rng.below(3)).map(|_| (self.key(), self.value())).collect()),
            17 => Op::IncrBy(self.key(), self.rng.below(20) as i64 - 10),
            18 => Op::GetDel(self.key()),
            19 => Op::DbSize,
            20 | 21 => {
                let absolute = self.rng.one_in(2);
                let ms = self.ms(1_000) as i64 - 200;
                Op::Pexpire {
                    key: self.key(),
                    ms: if absolute { now_ms as i64 + ms } else { ms },
                    absolute,
                    option: self.rng.pick::<&str>(&["", "NX", "XX", "GT", "LT"]),
                }
            }
            22 => Op::Pttl(self.key()),
            23 => Op::PexpireTime(self.key()),
            24 => Op::Persist(self.key()),
            _ => Op::Type(self.key()),
        }
    }

    /// Any command; sessions are drawn from those ever opened and one more.
    pub fn call(&mut self, model: &Model) -> Call {
        let now_ms = model.time_ms;
        let session = 1 + self.rng.below(model.next_session);
        let session = match model.sessions.as_slice() {
            // Mostly one that is there.
            open if !open.is_empty() && !self.rng.one_in(4) => self.rng.pick(open).id,
            _ => session,
        };
        match self.rng.below(20) {
            0 => Call::Open,
            1 if self.rng.one_in(4) => Call::Close(session),
            2 => Call::Outcome(session, 1 + self.rng.below(self.sequence_max)),
            3..10 => {
                let sequence = 1 + self.rng.below(self.sequence_max);
                let ack = if self.rng.one_in(2) { 0 } else { self.rng.below(sequence) };
                // A command that is decided by its sequence is often sent twice.
                let op = if self.rng.one_in(3) {
                    self.op(now_ms)
                } else {
                    Op::Append(b"k0".to_vec(), vec![b'a' + sequence as u8 % 26])
                };
                Call::Once { session, sequence, ack, op }
            }
            _ => Call::Data(self.op(now_ms)),
        }
    }
}

impl Call {
    /// The command as a client sends it.
    pub fn args(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Data(op) => op.args(),
            Self::Open => words("SESSION OPEN"),
            Self::Close(id) => words(&format!("SESSION CLOSE {id}")),
            Self::Outcome(id, sequence) => words(&format!("OUTCOME {id} {sequence}")),
            Self::Once { session, sequence, ack, op } => {
                let ack = if *ack == 0 { String::new() } else { format!("ACK {ack}") };
                let mut args = words(&format!("ONCE {session} {sequence} {ack}"));
                args.extend(op.args());
                args
            }
        }
    }
}

impl Op {
    /// The command as a client sends it.
    pub fn args(&self) -> Vec<Vec<u8>> {
        let with = |name: &str, args: &[&Vec<u8>]| {
            let mut all = words(name);
            all.extend(args.iter().map(|&arg| arg.clone()));
            all
        };
        let list = |name: &str, keys: &Vec<Vec<u8>>| with(name, &keys.iter().collect::<Vec<_>>());
        let number = |number: i64| number.to_string().into_bytes();
        match self {
            Self::Get(key) => with("GET", &[key]),
            Self::Set { key, value, only_if, get, ttl } => {
                let mut args = with("SET", &[key, value]);
                let condition = only_if.map_or("", |present| if present { "XX" } else { "NX" });
                let ttl = match ttl {
                    Ttl::Clear => String::new(),
                    Ttl::Keep => "KEEPTTL".to_owned(),
                    Ttl::Px(ms) => format!("PX {ms}"),
                    Ttl::PxAt(ms) => format!("PXAT {ms}"),
                };
                let get = if *get { "GET" } else { "" };
                args.extend(words(&format!("{condition} {ttl} {get}")));
                args
            }
            Self::SetNx(key, value) => with("SETNX", &[key, value]),
            Self::Append(key, value) => with("APPEND", &[key, value]),
            Self::GetRange(key, start, end) => {
                with("GETRANGE", &[key, &number(*start), &number(*end)])
            }
            Self::SetRange(key, offset, value) => {
                with("SETRANGE", &[key, &number(*offset as i64), value])
            }
            Self::Strlen(key) => with("STRLEN", &[key]),
            Self::Del(keys) => list("DEL", keys),
            Self::Exists(keys) => list("EXISTS", keys),
            Self::Mget(keys) => list("MGET", keys),
            Self::Mset(pairs) => with(
                "MSET",
                &pairs.iter().flat_map(|(key, value)| [key, value]).collect::<Vec<_>>(),
            ),
            Self::IncrBy(key, delta) => with("INCRBY", &[key, &number(*delta)]),
            Self::GetDel(key) => with("GETDEL", &[key]),
            Self::DbSize => words("DBSIZE"),
            Self::FlushAll => words("FLUSHALL"),
            Self::Pexpire { key, ms, absolute, option } => {
                let name = if *absolute { "PEXPIREAT" } else { "PEXPIRE" };
                let mut args = with(name, &[key, &number(*ms)]);
                args.extend(words(option));
                args
            }
            Self::Pttl(key) => with("PTTL", &[key]),
            Self::PexpireTime(key) => with("PEXPIRETIME", &[key]),
            Self::Persist(key) => with("PERSIST", &[key]),
            Self::Type(key) => with("TYPE", &[key]),
        }
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}
