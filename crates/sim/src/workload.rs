//! What clients ask for: operations, how they read on the wire, and what they mean to the model.
//!
//! Keys carry an epoch in their name and are replaced by fresh ones now and then, so that the
//! history of each stays short enough to be searched. Values are unique: what was read tells who
//! wrote it.

use sampan_base::Rng;
use sampan_kv::Reply;
use sampan_lincheck::{Action, History, Step};

use crate::swarm::Mix;

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// `GET key`.
    Get(String),
    /// `SET key value`.
    Set(String, String),
    /// `SET key value NX`.
    SetNx(String, String),
    /// `GETSET key value`.
    GetSet(String, String),
    /// `DEL key`.
    Del(String),
    /// `APPEND key value`.
    Append(String, String),
    /// `INCRBY key delta`.
    IncrBy(String, i64),
    /// `MSET key value...`.
    Mset(Vec<(String, String)>),
    /// `MGET key...`.
    Mget(Vec<String>),
    /// `SET key value PX ms`: of a key that is set once.
    SetPx(String, String, u64),
    /// `GET key` of such a key.
    GetPx(String),
    /// `PTTL key` of such a key.
    Pttl(String),
    /// `OUTCOME id seq` of a command that was answered.
    Outcome(u64, u64),
}

/// What an answer says of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// It happened, and observed this.
    Done(Vec<Step>),
    /// It had no effect.
    Nothing,
    /// The answer is none that this operation can have.
    Nonsense,
}

impl Op {
    /// The arguments of the command.
    pub fn args(&self) -> Vec<String> {
        let words: Vec<&str> = match self {
            Self::Get(key) | Self::GetPx(key) => vec!["GET", key],
            Self::Pttl(key) => vec!["PTTL", key],
            Self::Set(key, value) => vec!["SET", key, value],
            Self::SetNx(key, value) => vec!["SET", key, value, "NX"],
            Self::GetSet(key, value) => vec!["GETSET", key, value],
            Self::Del(key) => vec!["DEL", key],
            Self::Append(key, value) => vec!["APPEND", key, value],
            Self::IncrBy(key, delta) => {
                return vec!["INCRBY".into(), key.clone(), delta.to_string()];
            }
            Self::Outcome(session, sequence) => {
                return vec!["OUTCOME".into(), session.to_string(), sequence.to_string()];
            }
            Self::Mset(pairs) => {
                let pairs = pairs.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
                std::iter::once("MSET").chain(pairs).collect()
            }
            Self::Mget(keys) => {
                std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect()
            }
            Self::SetPx(key, value, ms) => {
                return vec!["SET".into(), key.clone(), value.clone(), "PX".into(), ms.to_string()];
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Does it only read?
    pub fn is_read(&self) -> bool {
        self.may_be_stale() || matches!(self, Self::Pttl(_) | Self::Outcome(..))
    }

    /// Does it read what a `READONLY` connection may see late?
    pub fn may_be_stale(&self) -> bool {
        matches!(self, Self::Get(_) | Self::Mget(_) | Self::GetPx(_))
    }

    /// The key with a TTL that it is about, if it is: such keys have a checker of their own.
    pub fn ttl_key(&self) -> Option<&str> {
        match self {
            Self::SetPx(key, ..) | Self::GetPx(key) | Self::Pttl(key) => Some(key),
            _ => None,
        }
    }

    /// What it does to the model, with nothing observed.
    pub fn steps(&self, history: &mut History) -> Vec<Step> {
        let mut step = |key: &str, action: Action<&str>| make_step(history, key, action);
        match self {
            Self::Get(key) | Self::GetPx(key) | Self::Pttl(key) => {
                vec![step(key, Action::Get { out: None })]
            }
            Self::Set(key, value) | Self::SetPx(key, value, _) => {
                vec![step(key, Action::Put { value })]
            }
            Self::SetNx(key, value) => {
                vec![step(key, Action::Cas { expect: None, value, out: None })]
            }
            Self::GetSet(key, value) => {
                vec![step(key, Action::Get { out: None }), step(key, Action::Put { value })]
            }
            Self::Outcome(..) => Vec::new(),
            Self::Del(key) => vec![step(key, Action::Del { out: None })],
            Self::Append(key, value) => vec![step(key, Action::Append { value, out: None })],
            Self::IncrBy(key, delta) => {
                vec![step(key, Action::Incr { delta: *delta, out: None })]
            }
            Self::Mset(pairs) => {
                pairs.iter().map(|(key, value)| step(key, Action::Put { value })).collect()
            }
            Self::Mget(keys) => {
                keys.iter().map(|key| step(key, Action::Get { out: None })).collect()
            }
        }
    }

    /// What an answer means.
    pub fn understand(&self, reply: &Reply, history: &mut History) -> Said {
        if matches!(reply, Reply::Error(text) if text.starts_with("ERR ")) {
            return Said::Nothing;
        }
        match self.observed(reply, history) {
            Some(steps) => Said::Done(steps),
            None => Said::Nonsense,
        }
    }

    fn observed(&self, reply: &Reply, history: &mut History) -> Option<Vec<Step>> {
        let mut step = |key: &str, action: Action<&str>| make_step(history, key, action);
        Some(match (self, reply) {
            (Self::Get(key) | Self::GetPx(key), reply) => {
                vec![step(key, Action::Get { out: Some(text(reply)?) })]
            }
            // It was answered: that it was not applied would be stale.
            (Self::Outcome(..), Reply::Array(said))
                if said.first().is_some_and(|word| *word != Reply::bulk(b"not-applied")) =>
            {
                Vec::new()
            }
            (Self::Pttl(key), Reply::Int(-2 | 0..)) => vec![step(key, Action::Get { out: None })],
            (Self::Set(key, value) | Self::SetPx(key, value, _), Reply::Ok) => {
                vec![step(key, Action::Put { value })]
            }
            (Self::SetNx(key, value), Reply::Ok | Reply::Nil) => {
                let out = Some(*reply == Reply::Ok);
                vec![step(key, Action::Cas { expect: None, value, out })]
            }
            (Self::GetSet(key, value), reply) => {
                let out = Some(text(reply)?);
                vec![step(key, Action::Get { out }), step(key, Action::Put { value })]
            }
            (Self::Del(key), Reply::Int(count @ (0 | 1))) => {
                vec![step(key, Action::Del { out: Some(*count == 1) })]
            }
            (Self::Append(key, value), Reply::Int(len)) => {
                vec![step(key, Action::Append { value, out: Some(u64::try_from(*len).ok()?) })]
            }
            (Self::IncrBy(key, delta), Reply::Int(sum)) => {
                vec![step(key, Action::Incr { delta: *delta, out: Some(*sum) })]
            }
            (Self::Mset(pairs), Reply::Ok) => {
                pairs.iter().map(|(key, value)| step(key, Action::Put { value })).collect()
            }
            (Self::Mget(keys), Reply::Array(values)) if keys.len() == values.len() => {
                let mut steps = Vec::with_capacity(keys.len());
                for (key, value) in keys.iter().zip(values) {
                    steps.push(step(key, Action::Get { out: Some(text(value)?) }));
                }
                steps
            }
            _ => return None,
        })
    }
}

fn make_step(history: &mut History, key: &str, action: Action<&str>) -> Step {
    let key = history.key(key);
    let action = match action {
        Action::Get { out } => {
            Action::Get { out: out.map(|seen| seen.map(|value| history.value(value))) }
        }
        Action::Put { value } => Action::Put { value: history.value(value) },
        Action::Append { value, out } => Action::Append { value: history.value(value), out },
        Action::Incr { delta, out } => Action::Incr { delta, out },
        Action::Del { out } => Action::Del { out },
        Action::Cas { expect, value, out } => {
            let expect = expect.map(|value| history.value(value));
            Action::Cas { expect, value: history.value(value), out }
        }
    };
    Step { key, action }
}

/// The text of a bulk reply, or that there is none; `None` if it is neither.
#[allow(clippy::option_option)] // is it a text or nil; and which text
fn text(reply: &Reply) -> Option<Option<&str>> {
    match reply {
        Reply::Nil => Some(None),
        Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        _ => None,
    }
}

/// The names of lists begin with it.
pub(crate) const LIST: char = 'l';

/// Draws operations.
#[derive(Debug)]
pub struct Workload {
    mix: Mix,
    rng: Rng,
    /// Values given out.
    values: u64,
    /// Keys with a TTL that were set, the latest last.
    ttl_keys: Vec<String>,
    ttl_count: u64,
}

/// Groups of keys that are written together.
const GROUPS: u64 = 4;
/// The latest keys with a TTL are the ones that are read.
const TTL_KEYS_READ: usize = 8;

impl Workload {
    /// A workload.
    pub fn new(mix: Mix, rng: Rng) -> Self {
        Self { mix, rng, values: 0, ttl_keys: Vec::new(), ttl_count: 0 }
    }

    /// The next operation of a client at a time.
    pub fn draw(&mut self, client: u64, now_us: u64) -> Op {
        let epoch = now_us / self.mix.epoch_us;
        let read = self.rng.permille(self.mix.reads);
        self.draw_some(client, epoch, read)
    }

    /// A read that a client asks for at a time, none that goes through the log.
    pub fn draw_read(&mut self, client: u64, now_us: u64) -> Op {
        let epoch = now_us / self.mix.epoch_us;
        if self.mix.writes[4] > 0 && self.ttl_keys.is_empty() {
            return self.register(client, epoch, true);
        }
        match self.draw_some(client, epoch, true) {
            Op::Pttl(key) => Op::GetPx(key),
            op => op,
        }
    }

    fn draw_some(&mut self, client: u64, epoch: u64, read: bool) -> Op {
        let shares = self.mix.writes;
        let mut at = self.rng.below(shares.iter().sum());
        let kind = shares.iter().position(|share| {
            let hit = at < *share;
            at = at.wrapping_sub(if hit { 0 } else { *share });
            hit
        });
        match kind {
            Some(0) => self.register(client, epoch, read),
            Some(1) => self.list(client, epoch, read),
            Some(2) => self.counter(epoch, read),
            Some(3) => self.several(client, epoch, read),
            _ => self.with_ttl(client, read),
        }
    }

    fn value(&mut self, client: u64) -> String {
        self.values += 1;
        format!("{client}.{}", self.values)
    }

    fn key(&mut self, kind: char, epoch: u64) -> String {
        format!("{kind}{}.{epoch}", self.rng.below(self.mix.keys))
    }

    /// A value that is sometimes long.
    fn padded_value(&mut self, client: u64) -> String {
        let value = self.value(client);
        if !self.rng.one_in(12) {
            return value;
        }
        let len = self.rng.between(30, 480) as usize;
        format!("{value:_<len$}")
    }

    fn register(&mut self, client: u64, epoch: u64, read: bool) -> Op {
        let key = self.key('r', epoch);
        if read {
            return Op::Get(key);
        }
        match self.rng.below(10) {
            0 => Op::Del(key),
            1 => Op::SetNx(key, self.value(client)),
            2 => Op::GetSet(key, self.value(client)),
            _ => Op::Set(key, self.padded_value(client)),
        }
    }

    fn list(&mut self, client: u64, epoch: u64, read: bool) -> Op {
        let key = self.key(LIST, epoch);
        if read { Op::Get(key) } else { Op::Append(key, format!("{},", self.value(client))) }
    }

    fn counter(&mut self, epoch: u64, read: bool) -> Op {
        let key = self.key('c', epoch);
        let delta = *self.rng.pick(&[1, 1, 1, -1, 7]);
        if read { Op::Get(key) } else { Op::IncrBy(key, delta) }
    }

    /// Keys that are written together: three of one group, whatever the mix. What is written
    /// together is judged together: in one group alone, twenty clients of a bad network leave more
    /// orders open than can be tried.
    fn several(&mut self, client: u64, epoch: u64, read: bool) -> Op {
        let group = self.rng.below(GROUPS);
        let mut keys: Vec<String> =
            (0..3).map(|number| format!("m{number}.{group}.{epoch}")).collect();
        self.rng.shuffle(&mut keys);
        keys.truncate(self.rng.between(2, 3) as usize);
        if read {
            return Op::Mget(keys);
        }
        Op::Mset(keys.into_iter().map(|key| (key, self.value(client))).collect())
    }

    fn with_ttl(&mut self, client: u64, read: bool) -> Op {
        if read && !self.ttl_keys.is_empty() {
            let from = self.ttl_keys.len().saturating_sub(TTL_KEYS_READ);
            let key = self.rng.pick(&self.ttl_keys[from..]).clone();
            return if self.rng.one_in(4) { Op::Pttl(key) } else { Op::GetPx(key) };
        }
        self.ttl_count += 1;
        let key = format!("t{}", self.ttl_count);
        self.ttl_keys.push(key.clone());
        Op::SetPx(key, self.value(client), self.rng.between(10, 3_000))
    }
}
