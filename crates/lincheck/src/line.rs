//! One line of a history file, its fields not yet understood.
//!
//! Strings are borrowed from the line where they have no escapes; nothing is stored. What the
//! fields mean is said at the head of `jsonl.rs`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};

use crate::history::{Fault, Leadership, Operation, Status, Witness};
use crate::jsonl::Problem;

/// Times from here on mean "never".
const NEVER_FROM_NS: u64 = i64::MAX as u64;

/// Every field that any line may have.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub(crate) struct Line<'a> {
    #[serde(borrow)]
    pub(crate) client: Field<'a>,
    #[serde(borrow)]
    pub(crate) op: Field<'a>,
    #[serde(borrow)]
    pub(crate) key: Field<'a>,
    #[serde(borrow)]
    pub(crate) value: Field<'a>,
    #[serde(borrow)]
    pub(crate) expect: Field<'a>,
    #[serde(borrow)]
    pub(crate) out: Field<'a>,
    #[serde(borrow)]
    pub(crate) keys: Field<'a>,
    #[serde(borrow)]
    pub(crate) values: Field<'a>,
    #[serde(borrow)]
    pub(crate) ops: Field<'a>,
    #[serde(borrow)]
    pub(crate) call: Field<'a>,
    #[serde(borrow)]
    pub(crate) ret: Field<'a>,
    #[serde(borrow)]
    pub(crate) status: Field<'a>,
    #[serde(borrow)]
    pub(crate) index: Field<'a>,
    #[serde(borrow)]
    pub(crate) fault: Field<'a>,
    #[serde(borrow)]
    pub(crate) leader: Field<'a>,
    #[serde(borrow)]
    pub(crate) term: Field<'a>,
    #[serde(borrow)]
    pub(crate) from: Field<'a>,
    #[serde(borrow)]
    pub(crate) to: Field<'a>,
    #[serde(borrow)]
    pub(crate) what: Field<'a>,
    #[serde(borrow)]
    pub(crate) note: Field<'a>,
}

const NANOSECONDS: &str = "nanoseconds, a whole number from 0";
const NANOSECONDS_OR_NULL: &str = "nanoseconds, or null for never";

impl Line<'_> {
    pub(crate) fn operation(&self) -> Result<Operation, Problem> {
        let status = self.status_of()?;
        let call_ns = self.call.unsigned().ok_or_else(|| self.call.problem("call", NANOSECONDS))?;
        let return_ns = self.ret.until("ret")?;
        if status == Status::Ok && return_ns.is_none() {
            return Err(self.ret.problem("ret", "nanoseconds, since \"status\" is \"ok\""));
        }
        if return_ns.is_some_and(|return_ns| return_ns < call_ns) {
            return Err(self.ret.problem("ret", "a time not before \"call\""));
        }
        let client =
            self.client.unsigned().ok_or_else(|| self.client.problem("client", "a number"))?;
        Ok(Operation { client, call_ns, return_ns, status, witness: self.witness()? })
    }

    pub(crate) fn status_of(&self) -> Result<Status, Problem> {
        match &self.status {
            Field::Text(text) if text == "ok" => Ok(Status::Ok),
            Field::Text(text) if text == "fail" => Ok(Status::Fail),
            Field::Text(text) if text == "unknown" => Ok(Status::Unknown),
            field => Err(field.problem("status", "one of ok, fail, unknown")),
        }
    }

    fn witness(&self) -> Result<Option<Witness>, Problem> {
        let (index, sub) = match &self.index {
            Field::Absent | Field::Null => return Ok(None),
            Field::List(list) => match list.as_slice() {
                [index, sub] => (index.unsigned(), sub.unsigned()),
                _ => (None, None),
            },
            field => (field.unsigned(), Some(u64::from(Witness::AFTER))),
        };
        match (index, sub.and_then(|sub| u32::try_from(sub).ok())) {
            (Some(index), Some(sub)) => Ok(Some(Witness { index, sub })),
            _ => Err(self.index.problem("index", "a number, or an array of two: index, position")),
        }
    }

    pub(crate) fn fault(&self) -> Result<Fault, Problem> {
        let from_ns = self.from.unsigned().ok_or_else(|| self.from.problem("from", NANOSECONDS))?;
        let what = match &self.what {
            Field::Absent | Field::Null => String::new(),
            field => field.text("what", "a string")?.to_owned(),
        };
        let kind = self.fault.text("fault", "a string")?.to_owned();
        Ok(Fault { kind, from_ns, to_ns: self.to.until("to")?, what })
    }

    pub(crate) fn leadership(&self) -> Result<Leadership, Problem> {
        let from_ns = self.from.unsigned().ok_or_else(|| self.from.problem("from", NANOSECONDS))?;
        let node =
            self.leader.unsigned().ok_or_else(|| self.leader.problem("leader", "a number"))?;
        let term = match &self.term {
            Field::Absent | Field::Null => None,
            field => {
                Some(field.unsigned().ok_or_else(|| field.problem("term", "a number, or null"))?)
            }
        };
        Ok(Leadership { node, term, from_ns, to_ns: self.to.until("to")? })
    }
}

/// The value of one field, strings borrowed from the line where they have no escapes.
#[derive(Default, Debug)]
pub(crate) enum Field<'a> {
    #[default]
    Absent,
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Field<'a>>),
    Object(Box<Line<'a>>),
}

impl Field<'_> {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(crate) fn problem(&self, name: &'static str, accepted: &'static str) -> Problem {
        const FOUND_CHARS_MAX: usize = 40;
        let found = match self {
            Self::Absent => "absent".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Negative(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) if text.chars().count() <= FOUND_CHARS_MAX => format!("{text:?}"),
            Self::Text(text) => {
                format!("{:?}…", text.chars().take(FOUND_CHARS_MAX).collect::<String>())
            }
            Self::List(list) => format!("an array of {}", list.len()),
            Self::Object(_) => "an object".to_owned(),
        };
        Problem::Field { name, found, accepted }
    }

    pub(crate) fn text(&self, name: &'static str, accepted: &'static str) -> Result<&str, Problem> {
        match self {
            Self::Text(text) => Ok(text),
            field => Err(field.problem(name, accepted)),
        }
    }

    pub(crate) fn list(
        &self,
        name: &'static str,
        accepted: &'static str,
    ) -> Result<&[Self], Problem> {
        match self {
            Self::List(list) if !list.is_empty() => Ok(list),
            field => Err(field.problem(name, accepted)),
        }
    }

    pub(crate) fn unsigned(&self) -> Option<u64> {
        if let Self::Unsigned(number) = self { Some(*number) } else { None }
    }

    fn until(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        match self {
            Self::Absent | Self::Null => Ok(None),
            Self::Unsigned(time) => Ok((*time < NEVER_FROM_NS).then_some(*time)),
            field => Err(field.problem(name, NANOSECONDS_OR_NULL)),
        }
    }

    /// A number, or a string that spells one; `absent` if the field is absent and may be.
    pub(crate) fn integer_or(
        &self,
        absent: Option<i64>,
        name: &'static str,
        accepted: &'static str,
    ) -> Result<i64, Problem> {
        let integer = match self {
            Self::Absent => absent,
            Self::Unsigned(number) => i64::try_from(*number).ok(),
            Self::Negative(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        };
        integer.ok_or_else(|| self.problem(name, accepted))
    }

    pub(crate) fn flag(
        &self,
        name: &'static str,
        accepted: &'static str,
    ) -> Result<Option<bool>, Problem> {
        match self {
            Self::Absent => Ok(None),
            Self::Bool(flag) => Ok(Some(*flag)),
            Self::Unsigned(number @ (0 | 1)) => Ok(Some(*number == 1)),
            field => Err(field.problem(name, accepted)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Field::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Field::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).map_or(Field::Negative(value), Field::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Field::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Field::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let line = Line::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Field::Object(Box::new(line)))
    }
}
