//! A reply as a value: every type of RESP2 and RESP3.

use std::borrow::Cow;

use bytes::Bytes;

/// One reply, or one element of one.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A simple string, such as `OK`. Bytes that are not UTF-8 are replaced.
    Simple(Cow<'static, str>),
    /// An error; starts with its code. Bytes that are not UTF-8 are replaced.
    Error(String),
    /// A signed 64-bit integer.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Bytes),
    /// Null: of RESP3, or the null bulk or null array of RESP2.
    Nil,
    /// A sequence.
    Array(Vec<Value>),
    /// RESP3: keys and values, in the order they came.
    Map(Vec<(Value, Value)>),
    /// RESP3: elements of which the sender says that they differ, in the order they came.
    Set(Vec<Value>),
    /// RESP3: a message that answers no request. Never inside another value.
    Push(Vec<Value>),
    /// RESP3: true or false.
    Boolean(bool),
    /// RESP3: a floating point number.
    Double(f64),
    /// RESP3: the digits of an integer of any size.
    BigNumber(String),
    /// RESP3: text for people.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Bytes,
    },
}

impl Value {
    /// The simple string `OK`.
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    /// The bytes of a string of any of the three kinds.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(text) => Some(text.as_bytes()),
            Self::Bulk(bytes) | Self::Verbatim { text: bytes, .. } => Some(bytes),
            _ => None,
        }
    }
}
