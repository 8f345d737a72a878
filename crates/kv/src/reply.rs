//! What a command answers, independent of the protocol version that carries it.
//!
//! Replies have an encoding of their own: for relaying between nodes, and because the replies that
//! a session remembers are replicated state (rule R13) and so part of snapshots and digests.

use std::borrow::Cow;

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer};

/// The texts that [`Reply::Simple`] may hold; their places are part of the encoding.
pub const SIMPLE_TEXTS: [&str; 2] = ["none", "string"];

/// Arrays nest no deeper than this when decoded: `OUTCOME` wraps the reply of a command, and a
/// command's reply is at most a flat array.
const NESTING_MAX: u32 = 3;

const TAG_OK: u8 = 0;
const TAG_INT: u8 = 1;
const TAG_NIL: u8 = 2;
const TAG_BULK: u8 = 3;
const TAG_SIMPLE: u8 = 4;
const TAG_ARRAY: u8 = 5;
const TAG_ERROR: u8 = 6;

/// The answer to one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `+OK`.
    Ok,
    /// An integer.
    Int(i64),
    /// The null of the protocol: `$-1` in RESP2, `_` in RESP3.
    Nil,
    /// A byte string.
    Bulk(Bytes),
    /// A status line other than `OK`: one of [`SIMPLE_TEXTS`].
    Simple(&'static str),
    /// Several replies.
    Array(Vec<Reply>),
    /// An error line without its leading `-`: a code, a space, a text.
    Error(Cow<'static, str>),
}

impl Reply {
    /// An error with a fixed text.
    pub const fn error(text: &'static str) -> Self {
        Self::Error(Cow::Borrowed(text))
    }

    /// A byte string, copied.
    pub fn bulk(bytes: &[u8]) -> Self {
        Self::Bulk(Bytes::copy_from_slice(bytes))
    }

    /// Is this an error?
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Bytes this reply takes when encoded.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Self::Ok | Self::Nil => 1,
            Self::Simple(_) => 2,
            Self::Int(_) => 1 + 8,
            Self::Bulk(bytes) => 1 + 4 + bytes.len(),
            Self::Error(text) => 1 + 4 + text.len(),
            Self::Array(items) => 1 + 4 + items.iter().map(Self::encoded_bytes).sum::<usize>(),
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Writer) {
        match self {
            Self::Ok => out.put_u8(TAG_OK),
            Self::Nil => out.put_u8(TAG_NIL),
            Self::Int(value) => {
                out.put_u8(TAG_INT);
                out.put_i64(*value);
            }
            Self::Bulk(bytes) => {
                out.put_u8(TAG_BULK);
                out.put_shared(bytes);
            }
            Self::Simple(text) => {
                let place = SIMPLE_TEXTS.iter().position(|known| known == text);
                out.put_u8(TAG_SIMPLE);
                out.put_u8(place.expect("a status line is one of SIMPLE_TEXTS") as u8);
            }
            Self::Array(items) => {
                out.put_u8(TAG_ARRAY);
                out.put_u32(items.len() as u32);
                for item in items {
                    item.encode(out);
                }
            }
            Self::Error(text) => {
                out.put_u8(TAG_ERROR);
                out.put_bytes(text.as_bytes());
            }
        }
    }

    /// Reads one reply, copying what it holds.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_nested(reader, NESTING_MAX)
    }

    fn decode_nested(reader: &mut Reader<'_>, depth: u32) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            TAG_OK => Self::Ok,
            TAG_NIL => Self::Nil,
            TAG_INT => Self::Int(reader.i64()?),
            TAG_BULK => Self::bulk(reader.bytes(usize::MAX)?),
            TAG_SIMPLE => {
                let place = usize::from(reader.u8()?);
                Self::Simple(SIMPLE_TEXTS.get(place).ok_or(DecodeError::Invalid("status line"))?)
            }
            TAG_ARRAY => {
                let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("nesting"))?;
                let count = reader.u32()? as usize;
                // Each item takes at least one byte, so the count is honest before we allocate.
                if count > reader.remaining().len() {
                    return Err(DecodeError::Truncated);
                }
                let items = (0..count).map(|_| Self::decode_nested(reader, depth));
                Self::Array(items.collect::<Result<_, _>>()?)
            }
            TAG_ERROR => {
                let text = std::str::from_utf8(reader.bytes(usize::MAX)?);
                Self::Error(Cow::Owned(
                    text.map_err(|_| DecodeError::Invalid("error text"))?.into(),
                ))
            }
            _ => return Err(DecodeError::Invalid("reply tag")),
        })
    }
}
