//! Histories as JSON lines: the reader and the writer.
//!
//! One object a line, fields in any order, unknown fields ignored, empty lines skipped:
//!
//! ```text
//! {"client":7,"op":"get","key":"k","out":"v","call":100,"ret":250,"status":"ok"}
//! ```
//!
//! | field | what it is |
//! |---|---|
//! | `client` | a number; one lane of the picture |
//! | `op` | `get`, `put`, `append`, `incr`, `del`, `cas`, `mget`, `mset`, `multi` |
//! | `key`, `value` | strings; `value` of `incr` is what is added, a number or a string, 1 if absent |
//! | `expect` | of `cas`: a string, or null for "must be missing" |
//! | `keys`, `values` | of `mget` and `mset`: arrays of strings, equally long |
//! | `ops` | of `multi`: an array of `{"op","key","value","expect","out"}` that take effect together |
//! | `out` | what was answered, where `status` is `ok`: `get` a string, or null for a missing key (see [`History::tells_missing`]); `append` the new length, or anything that is not a number for "not told"; `incr` the sum, a number or a string; `del` and `cas` 1/0 or true/false for "did it", or absent; `mget` an array; of `put` and `mset` it is ignored |
//! | `call` | nanoseconds, just before the first byte of the first attempt was sent; all attempts of one operation are one operation |
//! | `ret` | nanoseconds, just after the answer was understood; null, or 2^63-1 and more: there was none |
//! | `status` | `ok`; `fail`: certainly never applied, as one that was refused; `unknown`: may have been, or may still be |
//! | `index` | optional: where it took effect in the store's log, a number, or `[index, position in the entry]` |
//!
//! Other lines: `{"fault":"partition","from":1,"to":2,"what":"n1 | n2 n3"}` (`to` null: to the
//! end), `{"leader":1,"term":3,"from":1,"to":2}`, `{"note":"seed 42"}`.
//!
//! A line that does not say exactly one thing is refused with its number: a recorder with a fault
//! must not turn into a history that passes.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use crate::history::{Fault, History, Leadership, OperationId, Status, Step, ValueId, Witness};
use crate::line::{Field, Line};
use crate::model::Action;

/// The longest line read, in bytes: far above what a store's largest answer makes.
pub const LINE_BYTES_MAX: usize = 256 << 20;
const OPS: &str = "one of get, put, append, incr, del, cas, mget, mset, multi";
const SUB_OPS: &str = "one of get, put, append, incr, del, cas";

/// Why a history could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The reader failed.
    Io(io::Error),
    /// A line says what no line may say.
    Line(LineError),
}

/// What is wrong with one line, and what would have been accepted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The number of the line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// See [`LineError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not one JSON object whose fields have names we can read.
    NotAnObject {
        /// Where, from 1; 0 if the whole line.
        column: usize,
        /// What the JSON reader says.
        what: String,
    },
    /// It has none of the fields that tell the kinds of lines apart.
    UnknownKind,
    /// It is longer than [`LINE_BYTES_MAX`].
    TooLong,
    /// A field holds, or lacks, something.
    Field {
        /// Its name.
        name: &'static str,
        /// What it holds, shortened.
        found: String,
        /// What it may hold.
        accepted: &'static str,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the history: {error}"),
            Self::Line(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.problem {
            Problem::NotAnObject { column, what } => {
                write!(f, "column {column}: {what}; accepted: one JSON object a line")
            }
            Problem::UnknownKind => write!(
                f,
                "none of the fields \"op\", \"fault\", \"leader\", \"note\"; accepted: a line with one of them"
            ),
            Problem::TooLong => write!(f, "too long; accepted: up to {LINE_BYTES_MAX} bytes"),
            Problem::Field { name, found, accepted } => {
                write!(f, "\"{name}\" is {found}; accepted: {accepted}")
            }
        }
    }
}

impl std::error::Error for ReadError {}
impl std::error::Error for LineError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl History {
    /// Reads a history of JSON lines, line by line, to the end of `reader`.
    pub fn read(mut reader: impl BufRead) -> Result<Self, ReadError> {
        let mut history = Self::new();
        let mut steps = Vec::new();
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            if reader.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let too_long = bytes.len() > LINE_BYTES_MAX;
            let parsed =
                if too_long { Err(Problem::TooLong) } else { history.line(&bytes, &mut steps) };
            parsed.map_err(|problem| ReadError::Line(LineError { line, problem }))?;
        }
        Ok(history)
    }

    /// Writes the history so that [`History::read`] gives it back.
    pub fn write(&self, mut writer: impl Write) -> io::Result<()> {
        for note in &self.notes {
            write_json(&mut writer, &serde_json::json!({ "note": note }))?;
        }
        for fault in &self.faults {
            let Fault { kind, from_ns, to_ns, what } = fault;
            let line =
                serde_json::json!({ "fault": kind, "from": from_ns, "to": to_ns, "what": what });
            write_json(&mut writer, &line)?;
        }
        for leadership in &self.leaderships {
            let Leadership { node, term, from_ns, to_ns } = leadership;
            let line =
                serde_json::json!({ "leader": node, "term": term, "from": from_ns, "to": to_ns });
            write_json(&mut writer, &line)?;
        }
        for id in self.ids() {
            self.write_operation(&mut writer, id)?;
        }
        writer.flush()
    }

    /// Writes one operation as one line.
    pub fn write_operation(&self, mut writer: impl Write, id: OperationId) -> io::Result<()> {
        let operation = self.operation(id);
        write!(writer, "{{\"client\":{},", operation.client)?;
        match self.steps(id) {
            [step] => self.write_step(&mut writer, step)?,
            steps => {
                write!(writer, "\"op\":\"multi\",\"ops\":[")?;
                for (at, step) in steps.iter().enumerate() {
                    write!(writer, "{}{{", if at == 0 { "" } else { "," })?;
                    self.write_step(&mut writer, step)?;
                    write!(writer, "}}")?;
                }
                write!(writer, "]")?;
            }
        }
        write!(writer, ",\"call\":{}", operation.call_ns)?;
        match operation.return_ns {
            Some(return_ns) => write!(writer, ",\"ret\":{return_ns}")?,
            None => write!(writer, ",\"ret\":null")?,
        }
        let status = match operation.status {
            Status::Ok => "ok",
            Status::Fail => "fail",
            Status::Unknown => "unknown",
        };
        write!(writer, ",\"status\":\"{status}\"")?;
        match operation.witness {
            Some(Witness { index, sub: Witness::AFTER }) => write!(writer, ",\"index\":{index}")?,
            Some(Witness { index, sub }) => write!(writer, ",\"index\":[{index},{sub}]")?,
            None => {}
        }
        writeln!(writer, "}}")
    }

    fn write_step(&self, mut writer: impl Write, step: &Step) -> io::Result<()> {
        let name = match step.action {
            Action::Get { .. } => "get",
            Action::Put { .. } => "put",
            Action::Append { .. } => "append",
            Action::Incr { .. } => "incr",
            Action::Del { .. } => "del",
            Action::Cas { .. } => "cas",
        };
        write!(writer, "\"op\":\"{name}\",\"key\":")?;
        write_string(&mut writer, self.key_name(step.key))?;
        let field = |writer: &mut dyn Write, name: &str, value: Option<ValueId>| {
            write!(writer, ",\"{name}\":")?;
            match value {
                Some(value) => write_string(writer, self.value_text(value)),
                None => write!(writer, "null"),
            }
        };
        match step.action {
            Action::Get { out: Some(seen) } => field(&mut writer, "out", seen),
            Action::Put { value } => field(&mut writer, "value", Some(value)),
            Action::Append { value, out } => {
                field(&mut writer, "value", Some(value))?;
                out.map_or(Ok(()), |length| write!(writer, ",\"out\":{length}"))
            }
            Action::Incr { delta, out } => {
                write!(writer, ",\"value\":{delta}")?;
                out.map_or(Ok(()), |sum| write!(writer, ",\"out\":{sum}"))
            }
            Action::Cas { expect, value, out } => {
                field(&mut writer, "expect", expect)?;
                field(&mut writer, "value", Some(value))?;
                out.map_or(Ok(()), |did| write!(writer, ",\"out\":{did}"))
            }
            Action::Del { out: Some(did) } => write!(writer, ",\"out\":{did}"),
            Action::Get { out: None } | Action::Del { out: None } => Ok(()),
        }
    }

    fn line(&mut self, bytes: &[u8], steps: &mut Vec<Step>) -> Result<(), Problem> {
        match bytes.trim_ascii_start().first() {
            None => return Ok(()),
            Some(b'{') => {}
            Some(_) => {
                return Err(Problem::NotAnObject { column: 1, what: "not an object".to_owned() });
            }
        }
        let line: Line<'_> = serde_json::from_slice(bytes).map_err(|error| {
            let text = error.to_string();
            // The reader knows the line by another number than we do: cut " at line 1 column 5".
            let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
            Problem::NotAnObject { column: error.column(), what }
        })?;
        if let Field::Text(name) = &line.op {
            steps.clear();
            self.operation_steps(&line, name, steps)?;
            let operation = line.operation()?;
            self.push(operation, steps);
        } else if !line.op.is_absent() {
            return Err(line.op.problem("op", OPS));
        } else if !line.fault.is_absent() {
            self.faults.push(line.fault()?);
        } else if !line.leader.is_absent() {
            self.leaderships.push(line.leadership()?);
        } else if !line.note.is_absent() {
            self.notes.push(line.note.text("note", "a string")?.to_owned());
        } else {
            return Err(Problem::UnknownKind);
        }
        Ok(())
    }

    fn operation_steps(
        &mut self,
        line: &Line<'_>,
        name: &str,
        steps: &mut Vec<Step>,
    ) -> Result<(), Problem> {
        let answered = line.status_of()? == Status::Ok;
        match name {
            "mset" => self.mset(line, steps),
            "mget" => self.mget(line, answered, steps),
            "multi" => {
                for op in line.ops.list("ops", "an array of objects, not empty")? {
                    let Field::Object(op) = op else {
                        return Err(op.problem("ops", "an array of objects, not empty"));
                    };
                    let name = op.op.text("op", SUB_OPS)?;
                    let step = self.step(op, name, answered, SUB_OPS)?;
                    steps.push(step);
                }
                Ok(())
            }
            _ => {
                let step = self.step(line, name, answered, OPS)?;
                steps.push(step);
                Ok(())
            }
        }
    }

    fn mset(&mut self, line: &Line<'_>, steps: &mut Vec<Step>) -> Result<(), Problem> {
        let keys = line.keys.list("keys", "an array of strings, not empty")?;
        let values = line.values.list("values", "an array of strings, one for each key")?;
        if keys.len() != values.len() {
            return Err(line.values.problem("values", "an array of strings, one for each key"));
        }
        for (key, value) in keys.iter().zip(values) {
            let key = self.key(key.text("keys", "an array of strings, not empty")?);
            let value = self.value(value.text("values", "an array of strings, one for each key")?);
            steps.push(Step { key, action: Action::Put { value } });
        }
        Ok(())
    }

    fn mget(
        &mut self,
        line: &Line<'_>,
        answered: bool,
        steps: &mut Vec<Step>,
    ) -> Result<(), Problem> {
        const OUT: &str = "an array of strings or null, one for each key";
        let keys = line.keys.list("keys", "an array of strings, not empty")?;
        let outs = if answered { line.out.list("out", OUT)? } else { &[] };
        if answered && outs.len() != keys.len() {
            return Err(line.out.problem("out", OUT));
        }
        for (at, key) in keys.iter().enumerate() {
            let key = self.key(key.text("keys", "an array of strings, not empty")?);
            let out = match outs.get(at) {
                Some(out) => Some(self.text_or_null(out, "out", OUT)?),
                None => None,
            };
            steps.push(Step { key, action: Action::Get { out } });
        }
        Ok(())
    }

    fn step(
        &mut self,
        line: &Line<'_>,
        name: &str,
        answered: bool,
        accepted: &'static str,
    ) -> Result<Step, Problem> {
        const DID: &str = "true, false, 1 or 0";
        let key = line.key.text("key", "a string")?;
        let key = self.key(key);
        let absent = Field::Absent;
        let out = if answered { &line.out } else { &absent };
        let action = match name {
            "get" => Action::Get {
                out: match out {
                    Field::Absent if !answered => None,
                    out => Some(self.text_or_null(out, "out", "a string, or null for missing")?),
                },
            },
            "put" => Action::Put { value: self.value(line.value.text("value", "a string")?) },
            "append" => Action::Append {
                value: self.value(line.value.text("value", "a string")?),
                out: out.unsigned(),
            },
            "incr" => {
                let delta = line.value.integer_or(Some(1), "value", "an integer of 64 bits")?;
                let required = if answered { None } else { Some(0) };
                let sum = out.integer_or(required, "out", "an integer of 64 bits")?;
                Action::Incr { delta, out: answered.then_some(sum) }
            }
            "del" => Action::Del { out: out.flag("out", DID)? },
            "cas" => Action::Cas {
                expect: self.text_or_null(&line.expect, "expect", "a string, or null")?,
                value: self.value(line.value.text("value", "a string")?),
                out: out.flag("out", DID)?,
            },
            _ => return Err(line.op.problem("op", accepted)),
        };
        Ok(Step { key, action })
    }

    fn text_or_null(
        &mut self,
        field: &Field<'_>,
        name: &'static str,
        accepted: &'static str,
    ) -> Result<Option<ValueId>, Problem> {
        match field {
            Field::Null => Ok(None),
            field => Ok(Some(self.value(field.text(name, accepted)?))),
        }
    }
}

fn write_json(writer: &mut impl Write, value: &serde_json::Value) -> io::Result<()> {
    writeln!(writer, "{value}")
}

fn write_string(writer: &mut (impl Write + ?Sized), text: &str) -> io::Result<()> {
    serde_json::to_writer(writer, text).map_err(io::Error::from)
}
