//! From replies to the results of typed calls.

use std::time::Duration;

use bytes::Bytes;
use sampan_resp::Value;

use crate::error::Error;
use crate::options::{Outcome, Ttl};

fn unexpected(wanted: &str, got: &Value) -> Error {
    Error::Protocol(format!("expected {wanted}, got {got:?}"))
}

pub(crate) fn ok(value: &Value) -> Result<(), Error> {
    if *value == Value::OK { Ok(()) } else { Err(unexpected("OK", value)) }
}

/// `OK` or null.
pub(crate) fn done(value: &Value) -> Result<bool, Error> {
    if *value == Value::Nil { Ok(false) } else { ok(value).map(|()| true) }
}

pub(crate) fn integer(value: &Value) -> Result<i64, Error> {
    match value {
        Value::Integer(number) => Ok(*number),
        other => Err(unexpected("an integer", other)),
    }
}

pub(crate) fn count(value: &Value) -> Result<u64, Error> {
    u64::try_from(integer(value)?).map_err(|_| unexpected("a count", value))
}

pub(crate) fn flag(value: &Value) -> Result<bool, Error> {
    Ok(integer(value)? != 0)
}

pub(crate) fn string(value: Value) -> Result<Option<Bytes>, Error> {
    match value {
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        other => Err(unexpected("a string", &other)),
    }
}

pub(crate) fn strings(value: Value) -> Result<Vec<Option<Bytes>>, Error> {
    match value {
        Value::Array(items) => items.into_iter().map(string).collect(),
        other => Err(unexpected("an array", &other)),
    }
}

/// The reply to `PTTL`.
pub(crate) fn ttl(value: &Value) -> Result<Ttl, Error> {
    match integer(value)? {
        -2 => Ok(Ttl::Missing),
        -1 => Ok(Ttl::Never),
        left => u64::try_from(left)
            .map(|left_ms| Ttl::Left(Duration::from_millis(left_ms)))
            .map_err(|_| unexpected("a time to live", value)),
    }
}

/// The reply to `OUTCOME`: an array of a word and, for `applied`, the reply.
pub(crate) fn outcome(value: &Value) -> Result<Outcome, Error> {
    let Value::Array(items) = value else { return Err(unexpected("an outcome", value)) };
    let word = items.first().and_then(Value::as_bytes);
    match (word, items.get(1)) {
        (Some(b"applied"), Some(reply)) => Ok(Outcome::Applied(reply.clone())),
        (Some(b"not-applied"), None) => Ok(Outcome::NotApplied),
        (Some(b"unknown"), None) => Ok(Outcome::Unknown),
        _ => Err(unexpected("an outcome", value)),
    }
}
