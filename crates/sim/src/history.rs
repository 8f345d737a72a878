//! What clients were told, as it was: the record from which linearizability and exactly-once are
//! judged when a run is over.

use std::collections::BTreeMap;

use sampan_base::LogIndex;
use sampan_kv::Reply;
use sampan_lincheck::{History, Operation, OperationId, Status};

use crate::queue::SimTime;
use crate::workload::{LIST, Op, Said};

/// How one operation on a list ended, for the exactly-once check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// The list.
    pub key: String,
    /// What was appended, unique in the run.
    pub token: String,
    /// How it ended.
    pub status: Status,
}

/// A read or write of a key with a TTL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TtlEvent {
    /// When it was called.
    pub called: SimTime,
    /// When it returned, if it did.
    pub returned: Option<SimTime>,
    /// What was read (`None`: missing), or the time to live that was set, in milliseconds.
    pub what: TtlWhat,
}

/// See [`TtlEvent`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TtlWhat {
    /// Set to this value, for so many milliseconds.
    Set(String, u64),
    /// Read.
    Read(Option<String>),
    /// It was there, and had so many milliseconds left.
    Left(u64),
}

/// What a connection was told, for the check of its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The connection.
    pub connection: u64,
    /// The command's place on it.
    pub seq: u64,
    /// The log index at which the answer was true.
    pub decided_at: LogIndex,
    /// What was asked.
    pub what: ToldWhat,
}

/// See [`Told`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToldWhat {
    /// This token was appended to this list; it was sent once.
    Appended(String, String),
    /// This list was read, and held this.
    List(String, String),
    /// Something else was read.
    Read,
    /// Something else was written.
    Written,
}

impl ToldWhat {
    /// What this answer to an operation says, if it was sent so often. Of a command of a session
    /// nobody knows at which index it took effect: a node may have sent it again, for an answer
    /// that was lost.
    pub(crate) fn of(op: &Op, reply: &Reply, attempts: u32, is_once: bool) -> Option<Self> {
        Some(match (op, reply) {
            (Op::Append(key, token), Reply::Int(_)) if attempts == 1 => {
                Self::Appended(key.clone(), token.clone())
            }
            (Op::Get(key), Reply::Bulk(_) | Reply::Nil) if key.starts_with(LIST) => {
                let text = if let Reply::Bulk(bytes) = reply { &bytes[..] } else { &[] };
                Self::List(key.clone(), String::from_utf8_lossy(text).into_owned())
            }
            _ if op.is_read() => Self::Read,
            _ if is_once => return None,
            _ => Self::Written,
        })
    }
}

/// The record of a run.
#[derive(Default)]
pub struct Record {
    /// For the linearizability check.
    pub history: History,
    /// Every append.
    pub tokens: Vec<Token>,
    /// Every answer, by the connection that it came on.
    pub told: Vec<Told>,
    /// Every operation on a key with a TTL.
    pub ttl: BTreeMap<String, Vec<TtlEvent>>,
    /// Operations by how they ended: ok, failed, unknown.
    pub ended: [u64; 3],
    /// Answers that no operation can have.
    pub nonsense: Vec<String>,
}

/// How an operation ended.
#[derive(Clone, PartialEq, Debug)]
pub enum End {
    /// With this answer.
    Answer(Reply),
    /// It certainly never happened.
    Never,
    /// Nobody knows.
    Unknown,
}

impl Record {
    /// Notes a read that may be stale and has ended: what it may show is judged by its connection.
    pub fn push_stale(&mut self, end: &End) {
        self.ended[usize::from(!matches!(end, End::Answer(_)))] += 1;
    }

    /// Notes an operation that has ended.
    pub fn push(&mut self, client: u64, op: &Op, called: SimTime, now: SimTime, end: &End) {
        let said = match end {
            End::Answer(reply) => match op.understand(reply, &mut self.history) {
                Said::Nonsense => {
                    self.nonsense
                        .push(format!("client {client}: {op:?} answered {reply:?} at {now}"));
                    return;
                }
                Said::Nothing => (Status::Fail, None),
                Said::Done(steps) => (Status::Ok, Some(steps)),
            },
            End::Never => (Status::Fail, None),
            End::Unknown => (Status::Unknown, None),
        };
        let (status, steps) = said;
        self.ended[match status {
            Status::Ok => 0,
            Status::Fail => 1,
            Status::Unknown => 2,
        }] += 1;
        if let Op::Append(key, token) = op {
            self.tokens.push(Token { key: key.clone(), token: token.clone(), status });
        }
        if let Some(key) = op.ttl_key() {
            let key = key.to_owned();
            self.push_ttl(key, op, called, now, end);
            return;
        }
        if op.is_read() && (status == Status::Unknown || matches!(op, Op::Outcome(..))) {
            return;
        }
        let return_ns = (status != Status::Unknown).then_some(now.0 * 1_000);
        let steps = steps.unwrap_or_else(|| op.steps(&mut self.history));
        let operation =
            Operation { client, call_ns: called.0 * 1_000, return_ns, status, witness: None };
        let _: OperationId = self.history.push(operation, &steps);
    }

    fn push_ttl(&mut self, key: String, op: &Op, called: SimTime, now: SimTime, end: &End) {
        let what = match (op, end) {
            (Op::SetPx(_, value, ms), End::Answer(Reply::Ok) | End::Unknown) => {
                TtlWhat::Set(value.clone(), *ms)
            }
            (Op::GetPx(_), End::Answer(Reply::Nil)) => TtlWhat::Read(None),
            (Op::GetPx(_), End::Answer(Reply::Bulk(bytes))) => {
                TtlWhat::Read(Some(String::from_utf8_lossy(bytes).into_owned()))
            }
            (Op::Pttl(_), End::Answer(Reply::Int(left))) => {
                u64::try_from(*left).map_or(TtlWhat::Read(None), TtlWhat::Left)
            }
            _ => return,
        };
        let returned = (*end != End::Unknown).then_some(now);
        self.ttl.entry(key).or_default().push(TtlEvent { called, returned, what });
    }
}
