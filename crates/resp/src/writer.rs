//! Appends replies, in the protocol version a connection chose, and requests.
//!
//! Aggregates are written as a header followed by their elements; the caller keeps the count.

use crate::decimal::write_line;
use crate::value::Value;

/// The version of the protocol a connection speaks: RESP2 until `HELLO 3`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Protocol {
    /// Version 2: simple strings, errors, integers, bulks, arrays.
    #[default]
    Resp2,
    /// Version 3: maps, sets, pushes, booleans, doubles, null and more beside them.
    Resp3,
}

/// Appends replies to a buffer. What RESP2 has no type for takes the form Redis gives it there.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Writer<'a> {
    /// A writer at the end of `out`.
    pub const fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. CR, LF and NUL become spaces.
    pub fn simple(&mut self, text: &str) {
        self.text_line(b'+', text);
    }

    /// An error; `text` starts with its code, as in `ERR syntax error`. CR, LF and NUL become
    /// spaces, so that no text can forge a reply.
    pub fn error(&mut self, text: &str) {
        self.text_line(b'-', text);
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        write_line(self.out, b':', value);
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        write_bulk(self.out, bytes);
    }

    /// Null in the place of a string.
    pub fn nil(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Null in the place of an array.
    pub fn nil_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The header of an array; `count` elements follow.
    pub fn array(&mut self, count: usize) {
        write_line(self.out, b'*', count as i64);
    }

    /// The header of a map; `pairs` keys, each followed by its value, follow. RESP2: a flat array.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(2 * pairs),
            Protocol::Resp3 => write_line(self.out, b'%', pairs as i64),
        }
    }

    /// The header of a set; `count` elements follow. RESP2: an array.
    pub fn set(&mut self, count: usize) {
        self.aggregate(b'~', count);
    }

    /// The header of a push, which answers no request; `count` elements follow. RESP2: an array.
    pub fn push(&mut self, count: usize) {
        self.aggregate(b'>', count);
    }

    /// A boolean. RESP2: the integer 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match self.protocol {
            Protocol::Resp2 => self.integer(i64::from(value)),
            Protocol::Resp3 => {
                self.out.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" });
            }
        }
    }

    /// A double: the fewest digits that read back as the same number, `inf`, `-inf` or `nan`.
    /// RESP2: a bulk of the same text.
    pub fn double(&mut self, value: f64) {
        let text = double_text(value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.text_line(b',', &text),
        }
    }

    /// Text for people, with its format (`txt`, `mkd`). RESP2: a bulk of the text.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                write_line(self.out, b'=', (text.len() + 4) as i64);
                self.out.extend_from_slice(&format);
                self.out.push(b':');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// An integer of any size, given as its digits. RESP2: a bulk of them.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.text_line(b'(', digits),
        }
    }

    /// A whole value, with everything in it.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Simple(text) => self.simple(text),
            Value::Error(text) => self.error(text),
            Value::Integer(value) => self.integer(*value),
            Value::Bulk(bytes) => self.bulk(bytes),
            Value::Nil => self.nil(),
            Value::Boolean(value) => self.boolean(*value),
            Value::Double(value) => self.double(*value),
            Value::BigNumber(digits) => self.big_number(digits),
            Value::Verbatim { format, text } => self.verbatim(*format, text),
            Value::Array(items) => {
                self.array(items.len());
                self.values(items);
            }
            Value::Set(items) => {
                self.set(items.len());
                self.values(items);
            }
            Value::Push(items) => {
                self.push(items.len());
                self.values(items);
            }
            Value::Map(pairs) => {
                self.map(pairs.len());
                for (key, value) in pairs {
                    self.value(key);
                    self.value(value);
                }
            }
        }
    }

    fn values(&mut self, items: &[Value]) {
        for item in items {
            self.value(item);
        }
    }

    fn aggregate(&mut self, marker: u8, count: usize) {
        let marker = if self.protocol == Protocol::Resp3 { marker } else { b'*' };
        write_line(self.out, marker, count as i64);
    }

    fn text_line(&mut self, marker: u8, text: &str) {
        self.out.push(marker);
        let safe = |byte| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte };
        self.out.extend(text.bytes().map(safe));
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Above this, and below its inverse, a double is written with an exponent.
const PLAIN_DOUBLE_MAX: f64 = 1e17;

fn double_text(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "nan".to_owned()
    } else if magnitude.is_infinite() {
        if value > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else if magnitude != 0.0 && !(1.0 / PLAIN_DOUBLE_MAX..PLAIN_DOUBLE_MAX).contains(&magnitude) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

/// Appends a request: the command's name and its arguments.
pub fn write_command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    write_command_header(out, args.len());
    for arg in args {
        write_bulk(out, arg.as_ref());
    }
}

/// Appends the header of a request; `count` arguments, the command's name included, follow by
/// [`write_bulk`].
pub fn write_command_header(out: &mut Vec<u8>, count: usize) {
    write_line(out, b'*', count as i64);
}

/// Appends a bulk: an argument of a request, or a string in a reply.
pub fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 16);
    write_line(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}
