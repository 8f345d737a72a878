//! Reads replies, RESP2 and RESP3 mixed, for clients.
//!
//! A reply that arrives in pieces is built up as it comes: whole elements are taken out of the
//! buffer and kept, so nothing is read twice. Nesting is a stack, not recursion. Streamed types
//! (`$?`) are refused: no server sends them.

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

use crate::decimal::read_length;
use crate::value::Value;

/// What a server may send. Checked when a size is announced, before anything is kept for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyLimits {
    /// The longest string, in bytes.
    pub bulk_bytes_max: usize,
    /// The longest simple string, error or number, in bytes, without its marker and CRLF.
    pub line_bytes_max: usize,
    /// The most elements of one aggregate; a pair of a map counts as two.
    pub elements_max: usize,
    /// How many aggregates may lie within each other.
    pub depth_max: usize,
    /// The longest reply with everything in it, in bytes.
    pub reply_bytes_max: usize,
}

impl Default for ReplyLimits {
    /// 16 MiB a string, 64 KiB a line, 1,048,576 elements, 32 levels, 64 MiB a reply.
    fn default() -> Self {
        Self {
            bulk_bytes_max: 16 << 20,
            line_bytes_max: 64 << 10,
            elements_max: 1 << 20,
            depth_max: 32,
            reply_bytes_max: 64 << 20,
        }
    }
}

impl ReplyLimits {
    /// Limits that a test reaches with a few bytes.
    pub const fn tiny() -> Self {
        Self {
            bulk_bytes_max: 16,
            line_bytes_max: 16,
            elements_max: 4,
            depth_max: 3,
            reply_bytes_max: 64,
        }
    }
}

/// Why a server's bytes are not replies. The connection cannot be read further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReplyError {
    /// No type starts with this byte.
    #[error("reply of unknown type '{}'", .0.escape_ascii())]
    UnknownType(u8),
    /// Something of this type is not written as the protocol asks.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The named limit of [`ReplyLimits`] is passed.
    #[error("reply passes the limit {0}")]
    TooBig(&'static str),
}

/// How far [`ReplyParser::parse`] came.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// Bytes to drop from the buffer, even without a value.
    pub consumed: usize,
    /// The reply, once it is complete.
    pub value: Option<Value>,
}

/// Reads the replies of one connection, one after another.
#[derive(Clone, Debug)]
pub struct ReplyParser {
    limits: ReplyLimits,
    /// The aggregates that are open, the innermost last.
    open: Vec<Aggregate>,
    /// Bytes of this reply consumed so far.
    reply_bytes: usize,
    /// Bytes of the line at the start of the buffer known to hold no LF.
    line_bytes_seen: usize,
}

#[derive(Clone, Debug)]
struct Aggregate {
    kind: Kind,
    /// Elements when complete; a pair counts as two.
    len: usize,
    items: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Array,
    Map,
    Set,
    Push,
    /// Read and dropped: no attribute changes what a reply means.
    Attribute,
}

/// What one header, with its bytes, stands for.
enum Item {
    Value(Value),
    Open(Kind, usize),
}

impl ReplyParser {
    /// A parser at the start of a connection.
    pub const fn new(limits: ReplyLimits) -> Self {
        Self { limits, open: Vec::new(), reply_bytes: 0, line_bytes_seen: 0 }
    }

    /// Reads one reply, or what there is of it. Next time, `buf` must start right behind what was
    /// consumed. After an error the connection is to be closed.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        let mut consumed = 0;
        while let Some((item, item_bytes)) = self.next_item(tail(buf, consumed))? {
            consumed += item_bytes;
            self.reply_bytes += item_bytes;
            self.check_reply_bytes(0)?;
            if let Some(value) = self.place(item) {
                self.reply_bytes = 0;
                return Ok(Progress { consumed, value: Some(value) });
            }
        }
        Ok(Progress { consumed, value: None })
    }

    /// The item at the start of `buf` and its bytes; `None` while it is not all there.
    fn next_item(&mut self, buf: &[u8]) -> Result<Option<(Item, usize)>, ReplyError> {
        let Some(&marker) = buf.first() else { return Ok(None) };
        match marker {
            b'$' => self.bulk(buf, "bulk", |text| Ok(Value::Bulk(Bytes::copy_from_slice(text)))),
            b'=' => self.bulk(buf, "verbatim", verbatim),
            b'!' => self.bulk(buf, "bulk error", |text| Ok(Value::Error(lossy(text)))),
            b'*' => self.aggregate(buf, Kind::Array),
            b'%' => self.aggregate(buf, Kind::Map),
            b'~' => self.aggregate(buf, Kind::Set),
            b'>' => self.aggregate(buf, Kind::Push),
            b'|' => self.aggregate(buf, Kind::Attribute),
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.line(buf, marker),
            other => Err(ReplyError::UnknownType(other)),
        }
    }

    fn bulk(
        &self,
        buf: &[u8],
        what: &'static str,
        build: fn(&[u8]) -> Result<Value, ReplyError>,
    ) -> Result<Option<(Item, usize)>, ReplyError> {
        let header = read_length(tail(buf, 1)).map_err(|_| ReplyError::Malformed(what))?;
        let Some(header) = header else { return Ok(None) };
        let start = 1 + header.line_bytes;
        if header.value == -1 && what == "bulk" {
            return Ok(Some((Item::Value(Value::Nil), start)));
        }
        let len = usize::try_from(header.value).map_err(|_| ReplyError::Malformed(what))?;
        if len > self.limits.bulk_bytes_max {
            return Err(ReplyError::TooBig("bulk_bytes_max"));
        }
        let end = start + len;
        self.check_reply_bytes(end + 2)?;
        let Some(bytes) = buf.get(start..end + 2) else { return Ok(None) };
        let text = bytes.strip_suffix(b"\r\n").ok_or(ReplyError::Malformed(what))?;
        Ok(Some((Item::Value(build(text)?), end + 2)))
    }

    fn aggregate(&self, buf: &[u8], kind: Kind) -> Result<Option<(Item, usize)>, ReplyError> {
        let malformed = ReplyError::Malformed("aggregate");
        let header = read_length(tail(buf, 1)).map_err(|_| malformed)?;
        let Some(header) = header else { return Ok(None) };
        let item_bytes = 1 + header.line_bytes;
        if header.value == -1 && kind == Kind::Array {
            return Ok(Some((Item::Value(Value::Nil), item_bytes)));
        }
        let count = usize::try_from(header.value).map_err(|_| malformed)?;
        let len = if kind.has_pairs() { count.saturating_mul(2) } else { count };
        if len > self.limits.elements_max {
            return Err(ReplyError::TooBig("elements_max"));
        }
        if kind == Kind::Push && !self.open.is_empty() {
            return Err(ReplyError::Malformed("push inside a reply"));
        }
        if self.open.len() >= self.limits.depth_max {
            return Err(ReplyError::TooBig("depth_max"));
        }
        Ok(Some((Item::Open(kind, len), item_bytes)))
    }

    fn line(&mut self, buf: &[u8], marker: u8) -> Result<Option<(Item, usize)>, ReplyError> {
        let unseen = tail(buf, self.line_bytes_seen);
        let found = unseen.iter().position(|&byte| byte == b'\n');
        let line_bytes = self.line_bytes_seen + found.map_or(unseen.len(), |at| at + 1);
        if line_bytes > self.limits.line_bytes_max.saturating_add(3) {
            return Err(ReplyError::TooBig("line_bytes_max"));
        }
        if found.is_none() {
            self.line_bytes_seen = line_bytes;
            return Ok(None);
        }
        self.line_bytes_seen = 0;
        let line = buf.get(1..line_bytes).and_then(|line| line.strip_suffix(b"\r\n"));
        let value = line_value(marker, line.ok_or(ReplyError::Malformed("line end"))?)?;
        Ok(Some((Item::Value(value), line_bytes)))
    }

    /// Puts an item in its place. Returns the reply if that completes it.
    fn place(&mut self, item: Item) -> Option<Value> {
        let mut value = match item {
            Item::Value(value) => value,
            Item::Open(kind, 0) => kind.close(Vec::new())?,
            Item::Open(kind, len) => {
                self.open.push(Aggregate { kind, len, items: Vec::new() });
                return None;
            }
        };
        while let Some(mut innermost) = self.open.pop() {
            innermost.items.push(value);
            if innermost.items.len() < innermost.len {
                self.open.push(innermost);
                return None;
            }
            value = innermost.kind.close(innermost.items)?;
        }
        Some(value)
    }

    fn check_reply_bytes(&self, more: usize) -> Result<(), ReplyError> {
        if self.reply_bytes + more > self.limits.reply_bytes_max {
            return Err(ReplyError::TooBig("reply_bytes_max"));
        }
        Ok(())
    }
}

impl Kind {
    const fn has_pairs(self) -> bool {
        matches!(self, Self::Map | Self::Attribute)
    }

    /// The complete aggregate, or `None` for what is dropped.
    fn close(self, items: Vec<Value>) -> Option<Value> {
        match self {
            Self::Array => Some(Value::Array(items)),
            Self::Set => Some(Value::Set(items)),
            Self::Push => Some(Value::Push(items)),
            Self::Attribute => None,
            Self::Map => {
                let mut items = items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Some(Value::Map(pairs))
            }
        }
    }
}

fn line_value(marker: u8, line: &[u8]) -> Result<Value, ReplyError> {
    match marker {
        b'+' if line == b"OK" => Ok(Value::OK),
        b'+' => Ok(Value::Simple(Cow::Owned(lossy(line)))),
        b'-' => Ok(Value::Error(lossy(line))),
        b':' => parse(line).map(Value::Integer).ok_or(ReplyError::Malformed("integer")),
        b',' => parse(line).map(Value::Double).ok_or(ReplyError::Malformed("double")),
        b'#' if line == b"t" => Ok(Value::Boolean(true)),
        b'#' if line == b"f" => Ok(Value::Boolean(false)),
        b'#' => Err(ReplyError::Malformed("boolean")),
        b'_' if line.is_empty() => Ok(Value::Nil),
        b'_' => Err(ReplyError::Malformed("null")),
        _ => big_number(line).ok_or(ReplyError::Malformed("big number")),
    }
}

fn big_number(line: &[u8]) -> Option<Value> {
    let digits = line.strip_prefix(b"-").or(line.strip_prefix(b"+")).unwrap_or(line);
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    valid.then(|| Value::BigNumber(lossy(line)))
}

fn verbatim(bytes: &[u8]) -> Result<Value, ReplyError> {
    let (format, rest) = bytes.split_first_chunk::<3>().ok_or(ReplyError::Malformed("verbatim"))?;
    let text = rest.strip_prefix(b":").ok_or(ReplyError::Malformed("verbatim"))?;
    Ok(Value::Verbatim { format: *format, text: Bytes::copy_from_slice(text) })
}

fn parse<T: std::str::FromStr>(line: &[u8]) -> Option<T> {
    std::str::from_utf8(line).ok()?.parse().ok()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tail(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from..).unwrap_or_default()
}
