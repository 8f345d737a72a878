//! RESP2 and RESP3, the Redis protocol: bytes to values and back.
//!
//! - [`RequestParser`] reads what clients send: arrays of bulks and inline commands, pipelined, out
//!   of a byte buffer, with the arguments borrowed from it.
//! - [`Writer`] appends replies in the protocol a connection chose; [`write_command`] appends
//!   requests.
//! - [`ReplyParser`] reads replies into a [`Value`], for clients.
//!
//! What is absent: the meaning of commands, sockets, and any trust in the bytes. No input makes a
//! parser panic, recurse, or allocate more than arrived (a small factor aside); every size has a
//! limit in [`RequestLimits`] or [`ReplyLimits`].
//!
//! ```
//! use sampan_resp::{Parsed, Protocol, RequestLimits, RequestParser, Writer};
//!
//! let input = b"*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\nPING\r\n";
//! let mut parser = RequestParser::new(RequestLimits::default());
//! assert_eq!(parser.parse(input), Ok(Parsed::Complete { consumed: 27 }));
//! assert_eq!(parser.args(input).iter().collect::<Vec<_>>(), [&b"GET"[..], b"greeting"]);
//!
//! let mut out = Vec::new();
//! Writer::new(&mut out, Protocol::Resp2).bulk(b"hello");
//! assert_eq!(out, b"$5\r\nhello\r\n");
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod decimal;
mod inline;
mod reply;
mod request;
mod value;
mod writer;

pub use reply::{Progress, ReplyError, ReplyLimits, ReplyParser};
pub use request::{Args, Parsed, ProtocolError, RequestLimits, RequestParser};
pub use value::Value;
pub use writer::{Protocol, Writer, write_bulk, write_command, write_command_header};
