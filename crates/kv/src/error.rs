//! Why a command is refused before it is proposed, with the exact texts of Redis 7.
//!
//! A command refused here was never appended to a log. Errors that depend on the state (overflow,
//! not an integer, sessions) are replies of [`Kv::apply`](crate::Kv::apply) instead.

use thiserror::Error;

use crate::Reply;

/// A refusal. Its `Display` is the error line without the leading `-`.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CommandError {
    /// No such command; holds the name and the start of the arguments as Redis prints them.
    #[error("ERR unknown command '{name}', with args beginning with: {args}")]
    UnknownCommand {
        /// The name as sent, at most 128 bytes of it.
        name: String,
        /// Quoted arguments, each with a space after it, about 128 bytes in all.
        args: String,
    },
    /// `SESSION` with something else after it.
    #[error("ERR unknown subcommand '{0}'. Try SESSION OPEN or SESSION CLOSE.")]
    UnknownSubcommand(String),
    /// Too few or too many arguments for this command.
    #[error("ERR wrong number of arguments for '{0}' command")]
    WrongArity(&'static str),
    /// Options that make no sense, or not together.
    #[error("ERR syntax error")]
    Syntax,
    /// A number was expected.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// DECRBY of the lowest integer.
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    /// SETRANGE before the start.
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    /// A time to live that is zero, negative or past the end of time.
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpireTime(&'static str),
    /// NX with XX, GT or LT in the EXPIRE family.
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxExcludes,
    /// GT with LT in the EXPIRE family.
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtExcludesLt,
    /// Another option in the EXPIRE family.
    #[error("ERR Unsupported option {0}")]
    UnsupportedOption(String),
    /// A key over `key_bytes_max`.
    #[error("ERR key exceeds the limit of {0} bytes")]
    KeyTooLong(usize),
    /// A value over `value_bytes_max`.
    #[error("ERR value exceeds the limit of {0} bytes")]
    ValueTooLong(usize),
    /// More arguments than `arguments_max`.
    #[error("ERR command exceeds the limit of {0} arguments")]
    TooManyArguments(usize),
    /// More bytes than `command_bytes_max`.
    #[error("ERR command exceeds the limit of {0} bytes")]
    CommandTooLong(usize),
    /// Not a session number.
    #[error("ERR invalid session id: an integer from 1 is expected")]
    InvalidSessionId,
    /// Not a sequence number.
    #[error("ERR invalid session sequence: an integer from 1 is expected")]
    InvalidSequence,
    /// ACK of the command itself or of one after it.
    #[error("ERR ACK must be an integer below the command's own sequence")]
    InvalidAck,
    /// ONCE around a command of sessions or of connections, or one that there is not.
    #[error("ERR ONCE cannot run '{0}'")]
    NotInOnce(String),
}

impl CommandError {
    /// The reply to the client.
    pub fn reply(&self) -> Reply {
        Reply::Error(self.to_string().into())
    }
}

/// Bytes of the name and of the arguments that an unknown command's error shows.
const SHOWN_BYTES_MAX: usize = 128;

/// The error for a name that no table knows, as Redis words it. The server uses it too, for it
/// alone knows that the name is not one of its own commands either.
pub fn unknown_command<A: AsRef<[u8]>>(args: &[A]) -> CommandError {
    let name = args.first().map_or(&[][..], AsRef::as_ref);
    let mut shown = String::new();
    for arg in args.iter().skip(1) {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let room = SHOWN_BYTES_MAX - shown.len();
        shown.push('\'');
        shown.push_str(&printable(arg.as_ref(), room));
        shown.push_str("' ");
    }
    CommandError::UnknownCommand { name: printable(name, SHOWN_BYTES_MAX), args: shown }
}

/// At most `bytes_max` bytes up to the first NUL, on one line.
pub(crate) fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()).min(bytes_max);
    String::from_utf8_lossy(&bytes[..end]).replace(['\r', '\n'], " ")
}
