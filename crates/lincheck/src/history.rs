//! The model of a recorded history: operations with the interval in which each took place, what it
//! was asked and what it answered, and what happened around them.
//!
//! It is not a file format (that is `jsonl.rs`) and it judges nothing. Keys and values are stored
//! once and named by numbers, so a history of a million operations is a few flat arrays.

use crate::intern::Interner;
use crate::model::Action;

/// The time of a return that never came: later than every other time.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// A key of one [`History`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) u32);

/// A value of one [`History`]. Equal values have equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(crate) u32);

/// An operation of one [`History`]: its position, from 0, in the order of recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It was answered; the outputs are what the answer said.
    Ok,
    /// It certainly never happened and never will. It is left out of every check.
    Fail,
    /// Nobody knows: it may have happened at any time after its call, may happen after everything
    /// else in the history, or never.
    Unknown,
}

/// Where the store says that an operation took effect, in its own log.
///
/// Ordered by `index`, then by `sub`. A claim, not a fact: see `witness.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Witness {
    /// Log index of a write, read index of a read.
    pub index: u64,
    /// Position among the commands of one log entry; [`Witness::AFTER`] for a read.
    pub sub: u32,
}

impl Witness {
    /// The position of whatever comes after all commands of the entry.
    pub const AFTER: u32 = u32::MAX;
}

/// One step of an operation: one action on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// The key.
    pub key: KeyId,
    /// What was done, and what it observed.
    pub action: Action<ValueId>,
}

/// One operation of a client: one step, or several that take effect together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Who called it. Only the picture uses it: one lane for each client.
    pub client: u64,
    /// Just before the first byte was sent, in nanoseconds of the one clock of the history.
    pub call_ns: u64,
    /// Just after the answer was understood. None: it never came. Equal times are concurrent.
    pub return_ns: Option<u64>,
    /// How it ended.
    pub status: Status,
    /// Where the store says that it took effect.
    pub witness: Option<Witness>,
}

/// A fault that was at work for a while; drawn as a band behind the operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault, in one word.
    pub kind: String,
    /// When it began, in nanoseconds.
    pub from_ns: u64,
    /// When it ended, if it did.
    pub to_ns: Option<u64>,
    /// Whom it hit, for a reader.
    pub what: String,
}

/// A time of leadership; drawn as a lane of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The node.
    pub node: u64,
    /// The term, if there are terms.
    pub term: Option<u64>,
    /// When it began, in nanoseconds.
    pub from_ns: u64,
    /// When it ended, if it did.
    pub to_ns: Option<u64>,
}

/// A record as stored: the operation and where its steps are.
#[derive(Debug, Clone, Copy)]
struct Record {
    operation: Operation,
    steps_start: u32,
    steps_count: u32,
}

/// A recorded history. Operations may be added in any order.
///
/// ```
/// use sampan_lincheck::{Action, History, Operation, Options, Status, Step, check};
///
/// let mut history = History::new();
/// let (key, value) = (history.key("k"), history.value("v"));
/// let operation =
///     Operation { client: 1, call_ns: 10, return_ns: Some(20), status: Status::Ok, witness: None };
/// history.push(operation, &[Step { key, action: Action::Put { value } }]);
/// assert!(check(&history, &Options::default()).is_linearizable());
/// ```
#[derive(Debug, Clone, Default)]
pub struct History {
    keys: Interner,
    values: Interner,
    records: Vec<Record>,
    steps: Vec<Step>,
    tells_missing: bool,
    /// Faults at work.
    pub faults: Vec<Fault>,
    /// Who led when.
    pub leaderships: Vec<Leadership>,
    /// Lines for the reader of a report: a seed, a commit, a command that repeats the run.
    pub notes: Vec<String>,
}

impl History {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of a key.
    pub fn key(&mut self, name: &str) -> KeyId {
        KeyId(self.keys.intern(name))
    }

    /// The number of a value.
    pub fn value(&mut self, text: &str) -> ValueId {
        ValueId(self.values.intern(text))
    }

    /// Adds an operation and gives its position.
    ///
    /// The steps take effect together, one after the other, each on what the one before left.
    ///
    /// # Panics
    /// When there are no steps; when it returns before its call, or from 2^63 ns on; when the
    /// status is `Ok` and there is no return; when there are more operations or steps than a `u32`
    /// counts.
    pub fn push(&mut self, operation: Operation, steps: &[Step]) -> OperationId {
        assert!(!steps.is_empty(), "operation {} has no steps", self.records.len());
        if let Some(return_ns) = operation.return_ns {
            let call_ns = operation.call_ns;
            assert!(call_ns <= return_ns, "it returns at {return_ns}, before {call_ns}");
            assert!(return_ns < NEVER_NS / 2, "a return at {return_ns} is in no history");
        } else {
            assert!(operation.status != Status::Ok, "operation without return is not answered");
        }
        let id = u32::try_from(self.records.len()).expect("operations are counted in 32 bits");
        let steps_start = u32::try_from(self.steps.len()).expect("steps are counted in 32 bits");
        self.steps.extend_from_slice(steps);
        self.records.push(Record { operation, steps_start, steps_count: steps.len() as u32 });
        self.tells_missing |= operation.status == Status::Ok
            && steps.iter().any(|step| step.action == Action::Get { out: Some(None) });
        OperationId(id)
    }

    /// How many operations there are, failed and unknown ones too.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The operation.
    pub fn operation(&self, id: OperationId) -> &Operation {
        &self.records[id.0 as usize].operation
    }

    /// The steps of the operation.
    pub fn steps(&self, id: OperationId) -> &[Step] {
        let record = &self.records[id.0 as usize];
        let start = record.steps_start as usize;
        &self.steps[start..start + record.steps_count as usize]
    }

    /// All operations in the order of recording.
    pub fn ids(&self) -> impl Iterator<Item = OperationId> + use<> {
        (0..self.records.len() as u32).map(OperationId)
    }

    /// The name of a key.
    pub fn key_name(&self, key: KeyId) -> &str {
        self.keys.get(key.0)
    }

    /// The text of a value.
    pub fn value_text(&self, value: ValueId) -> &str {
        self.values.get(value.0)
    }

    /// How many keys are named.
    pub fn keys_count(&self) -> usize {
        self.keys.len()
    }

    /// Whether the store tells a missing key from an empty value: some read was answered "missing".
    /// Where none was, a read of a missing key is taken to answer the empty string.
    pub fn tells_missing(&self) -> bool {
        self.tells_missing
    }

    /// One line for people: `client 7 append k "x" → 3 [100..250]`.
    pub fn describe(&self, id: OperationId) -> String {
        let operation = self.operation(id);
        let until = match (operation.status, operation.return_ns) {
            (Status::Ok, Some(return_ns)) => return_ns.to_string(),
            (Status::Fail, _) => "failed".to_owned(),
            (Status::Ok | Status::Unknown, _) => "unknown".to_owned(),
        };
        format!(
            "client {} {} [{}..{until}]",
            operation.client,
            self.describe_steps(id),
            operation.call_ns
        )
    }

    /// What it did, without who and when.
    pub(crate) fn describe_steps(&self, id: OperationId) -> String {
        let show_outputs = self.operation(id).status == Status::Ok;
        let steps = self.steps(id).iter().map(|step| {
            let action = step.action.map(|value| Quoted(self.value_text(value)));
            describe_action(self.key_name(step.key), action, show_outputs)
        });
        let steps: Vec<String> = steps.collect();
        if steps.len() == 1 { steps.concat() } else { format!("{{ {} }}", steps.join("; ")) }
    }
}

/// A value between quotes, shortened in the middle when it is long.
#[derive(Debug, Clone, Copy)]
struct Quoted<'a>(&'a str);

const QUOTED_CHARS_MAX: usize = 60;

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.0.chars().count();
        if count <= QUOTED_CHARS_MAX {
            return write!(f, "{:?}", self.0);
        }
        let half = QUOTED_CHARS_MAX / 2;
        let head: String = self.0.chars().take(half).collect();
        let tail: String = self.0.chars().skip(count - half).collect();
        write!(f, "{head:?}…{tail:?} ({} bytes)", self.0.len())
    }
}

fn describe_action(key: &str, action: Action<Quoted<'_>>, show_outputs: bool) -> String {
    let arrow = |out: Option<String>| match out {
        Some(out) if show_outputs => format!(" → {out}"),
        _ => String::new(),
    };
    let or_missing = |value: Option<Quoted<'_>>| match value {
        Some(value) => value.to_string(),
        None => "missing".to_owned(),
    };
    match action {
        Action::Get { out } => format!("get {key}{}", arrow(out.map(or_missing))),
        Action::Put { value } => format!("put {key} {value}"),
        Action::Append { value, out } => {
            format!("append {key} {value}{}", arrow(out.map(|length| format!("{length} bytes"))))
        }
        Action::Incr { delta, out } => {
            format!("incr {key} {delta:+}{}", arrow(out.map(|sum| sum.to_string())))
        }
        Action::Del { out } => format!("del {key}{}", arrow(out.map(|did| did.to_string()))),
        Action::Cas { expect, value, out } => {
            let out = arrow(out.map(|did| did.to_string()));
            format!("cas {key} {} {value}{out}", or_missing(expect))
        }
    }
}
