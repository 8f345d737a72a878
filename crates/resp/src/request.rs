//! Reads requests out of a byte buffer: arrays of bulks, and inline commands.
//!
//! Nothing is copied but inline commands: an argument is a range of the buffer. A request that
//! arrives in pieces is taken up where the last piece ended, so that the work is linear in its
//! bytes however it is cut. Replies and nested types in requests are refused, as Redis refuses
//! them.

use std::ops::Range;

use thiserror::Error;

use crate::decimal::read_length;
use crate::inline::split_arguments;
use crate::writer::{Protocol, Writer};

/// What a client may send. Checked when a size is announced, before anything is kept for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// The longest argument in an array, in bytes.
    pub bulk_bytes_max: usize,
    /// The most arguments of one request, the command's name included.
    pub arguments_max: usize,
    /// The longest request in an array, in bytes, with all headers.
    pub request_bytes_max: usize,
    /// The longest inline command, in bytes, without its line feed.
    pub inline_bytes_max: usize,
}

impl Default for RequestLimits {
    /// 2 MiB an argument, 1,048,576 arguments, 4 MiB a request, 64 KiB inline. The argument limit
    /// is above the store's limit of a value, so that a value a little too long gets the store's
    /// own error, and the connection lives.
    fn default() -> Self {
        Self {
            bulk_bytes_max: 2 << 20,
            arguments_max: 1 << 20,
            request_bytes_max: 4 << 20,
            inline_bytes_max: 64 << 10,
        }
    }
}

impl RequestLimits {
    /// Limits that a test reaches with a few bytes.
    pub const fn tiny() -> Self {
        Self { bulk_bytes_max: 16, arguments_max: 4, request_bytes_max: 64, inline_bytes_max: 32 }
    }
}

/// What the buffer starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A request of these many bytes; [`RequestParser::args`] has at least one argument.
    Complete {
        /// Bytes to drop from the buffer when the arguments are no longer needed.
        consumed: usize,
    },
    /// Bytes that ask for nothing, and get no reply: an empty line, or an array of no elements.
    Empty {
        /// Bytes to drop from the buffer.
        consumed: usize,
    },
    /// Not yet a whole request: parse again when more bytes have been appended to these.
    Incomplete,
}

/// Why a connection's bytes are not requests. The texts are those of Redis where it has one. The
/// connection cannot be read further: reply once, flush, close.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProtocolError {
    /// The number of arguments is not one, or is above [`RequestLimits::arguments_max`].
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// The length of an argument is not one, or is above [`RequestLimits::bulk_bytes_max`].
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An element of the array is not a bulk; the byte it starts with.
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// An argument is not followed by CR and LF. (Redis skips these two bytes unseen.)
    #[error("Protocol error: expected CRLF after bulk")]
    ExpectedCrlf,
    /// The request is longer than [`RequestLimits::request_bytes_max`].
    #[error("Protocol error: too big request")]
    TooBigRequest,
    /// A quote of an inline command does not close, or closes within a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The inline command is longer than [`RequestLimits::inline_bytes_max`], or has too many
    /// arguments.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
}

impl ProtocolError {
    /// Appends the reply that is due before the connection closes.
    pub fn write(self, out: &mut Vec<u8>) {
        Writer::new(out, Protocol::Resp2).error(&format!("ERR {self}"));
    }
}

fn printable(byte: u8) -> String {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte).to_string()
    } else {
        byte.escape_ascii().to_string()
    }
}

/// Room for this many arguments, and bytes of an inline command, is kept between requests.
const ARGUMENTS_KEPT: usize = 1_024;
const INLINE_BYTES_KEPT: usize = 4 << 10;

/// Reads the requests of one connection, one after another.
#[derive(Clone, Debug)]
pub struct RequestParser {
    limits: RequestLimits,
    /// Bytes of the request under way that need not be seen again; 0 at its start.
    position: usize,
    /// How long the request under way is at least; 0 while that is not known.
    announced: usize,
    /// Arguments of the array under way that are still to come.
    remaining: usize,
    /// The arguments so far: ranges of the request, or of `inline_text`.
    ranges: Vec<Range<usize>>,
    is_inline: bool,
    inline_text: Vec<u8>,
}

impl RequestParser {
    /// A parser at the start of a connection.
    pub const fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            position: 0,
            announced: 0,
            remaining: 0,
            ranges: Vec::new(),
            is_inline: false,
            inline_text: Vec::new(),
        }
    }

    /// The limits in force.
    pub const fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    /// A request that was complete is done with. One with very many arguments leaves no memory
    /// behind: there may be many connections, each with a parser of its own.
    pub fn forget(&mut self) {
        if self.position > 0 {
            return;
        }
        self.ranges.clear();
        self.ranges.shrink_to(ARGUMENTS_KEPT);
        self.inline_text.clear();
        self.inline_text.shrink_to(INLINE_BYTES_KEPT);
    }

    /// Reads the request that `buf` starts with.
    ///
    /// After [`Parsed::Incomplete`], `buf` must next be the same bytes with more appended (they may
    /// have moved). After the others, it must start right behind what was consumed, or, if that is
    /// to be read later, where it started. After an error the connection is to be closed.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Parsed, ProtocolError> {
        self.forget();
        self.announced = 0;
        let parsed = match buf.first() {
            None => Ok(Parsed::Incomplete),
            Some(b'*') => self.parse_array(buf),
            Some(_) => self.parse_inline(buf),
        };
        if parsed != Ok(Parsed::Incomplete) {
            self.position = 0;
        }
        parsed
    }

    /// How long a request that [`RequestParser::parse`] found incomplete is at least, in bytes:
    /// through the end of the argument that is on its way. 0 if no length is known. Within the
    /// limits.
    pub const fn announced_bytes(&self) -> usize {
        self.announced
    }

    /// Bytes that the parser itself keeps of a request that it found incomplete: where its
    /// arguments are.
    pub const fn places_bytes(&self) -> usize {
        if self.position > 0 { self.ranges.capacity() * size_of::<Range<usize>>() } else { 0 }
    }

    /// The arguments of the request that [`RequestParser::parse`] found complete in `buf`: the same
    /// bytes as were parsed (more may follow). Reading arguments panics if `buf` is shorter.
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> Args<'a> {
        let bytes = if self.is_inline { &self.inline_text } else { buf };
        Args { bytes, ranges: &self.ranges }
    }

    fn parse_array(&mut self, buf: &[u8]) -> Result<Parsed, ProtocolError> {
        if self.position == 0 {
            let header = read_length(tail(buf, 1));
            let header = header.map_err(|_| ProtocolError::InvalidMultibulkLength)?;
            let Some(count) = header else { return Ok(Parsed::Incomplete) };
            let position = 1 + count.line_bytes;
            if count.value <= 0 {
                return Ok(Parsed::Empty { consumed: position });
            }
            if count.value as usize > self.limits.arguments_max {
                return Err(ProtocolError::InvalidMultibulkLength);
            }
            (self.position, self.remaining, self.is_inline) =
                (position, count.value as usize, false);
        }
        while self.remaining > 0 {
            let Some(bulk) = self.read_bulk(buf)? else { return Ok(Parsed::Incomplete) };
            self.position = bulk.end + 2;
            self.remaining -= 1;
            self.ranges.push(bulk);
        }
        Ok(Parsed::Complete { consumed: self.position })
    }

    /// The next argument of the array, or `None` while it is not all there. (Its header of a few
    /// bytes is read again then.)
    fn read_bulk(&mut self, buf: &[u8]) -> Result<Option<Range<usize>>, ProtocolError> {
        match buf.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let header = read_length(tail(buf, self.position + 1));
        let header = header.map_err(|_| ProtocolError::InvalidBulkLength)?;
        let Some(length) = header else { return Ok(None) };
        if length.value < 0 || length.value as usize > self.limits.bulk_bytes_max {
            return Err(ProtocolError::InvalidBulkLength);
        }
        // No overflow: a length has at most ten digits.
        let start = self.position + 1 + length.line_bytes;
        let end = start + length.value as usize;
        if end + 2 > self.limits.request_bytes_max {
            return Err(ProtocolError::TooBigRequest);
        }
        match buf.get(end..end + 2) {
            None => {
                self.announced = end + 2;
                Ok(None)
            }
            Some(b"\r\n") => Ok(Some(start..end)),
            Some(_) => Err(ProtocolError::ExpectedCrlf),
        }
    }

    fn parse_inline(&mut self, buf: &[u8]) -> Result<Parsed, ProtocolError> {
        let window = buf
            .split_at_checked(self.limits.inline_bytes_max.saturating_add(1))
            .map_or(buf, |it| it.0);
        let Some(found) = tail(window, self.position).iter().position(|&byte| byte == b'\n') else {
            if window.len() > self.limits.inline_bytes_max {
                return Err(ProtocolError::TooBigInline);
            }
            self.position = window.len();
            return Ok(Parsed::Incomplete);
        };
        let line = window.split_at(self.position + found).0;
        let consumed = line.len() + 1;
        self.is_inline = true;
        self.inline_text.clear();
        self.ranges.clear();
        split_arguments(line, &mut self.inline_text, &mut self.ranges)
            .map_err(|_| ProtocolError::UnbalancedQuotes)?;
        if self.ranges.len() > self.limits.arguments_max {
            return Err(ProtocolError::TooBigInline);
        }
        if self.ranges.is_empty() {
            return Ok(Parsed::Empty { consumed });
        }
        Ok(Parsed::Complete { consumed })
    }
}

fn tail(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from..).unwrap_or_default()
}

/// The arguments of one request, borrowed from the buffer it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Args<'a> {
    /// How many there are; at least one after [`Parsed::Complete`].
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Are there none? Never so after [`Parsed::Complete`].
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The argument at `index`, counted from 0, the command's name.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.ranges.get(index).map(|range| self.slice(range))
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let this = *self;
        this.ranges.iter().map(move |range| this.slice(range))
    }

    fn slice(&self, range: &Range<usize>) -> &'a [u8] {
        self.bytes.get(range.clone()).expect("arguments are read from the buffer that was parsed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_under_way_says_how_long_it_is_at_least() {
        let mut parser = RequestParser::new(RequestLimits::default());
        let request = b"*2\r\n$3\r\nGET\r\n$5\r\nmykey\r\n";
        for (seen, announced) in [(4, 0), (6, 0), (8, 13), (13, 0), (16, 0), (17, 24), (24, 0)] {
            let parsed = parser.parse(request.split_at(seen).0).unwrap();
            assert_eq!(matches!(parsed, Parsed::Complete { .. }), seen == request.len());
            assert_eq!(parser.announced_bytes(), announced, "after {seen} bytes");
        }
    }

    #[test]
    fn a_request_with_many_arguments_leaves_no_memory_behind() {
        let mut parser = RequestParser::new(RequestLimits::default());
        let many = format!("*100000\r\n{}", "$0\r\n\r\n".repeat(100_000));
        let inline = format!("PING {}\r\n", "x".repeat(20_000));
        for request in [many, inline] {
            let parsed = parser.parse(request.as_bytes());
            assert_eq!(parsed, Ok(Parsed::Complete { consumed: request.len() }));
            parser.forget();
            assert!(parser.ranges.capacity() <= ARGUMENTS_KEPT);
            assert!(parser.inline_text.capacity() <= INLINE_BYTES_KEPT);
        }
    }

    #[test]
    fn inline_commands_are_not_kept_once_the_next_is_read() {
        let mut parser = RequestParser::new(RequestLimits::default());
        for _ in 0..3 {
            parser.parse(b"PING\r\n").unwrap();
            assert_eq!(parser.inline_text, b"PING");
        }
    }
}
