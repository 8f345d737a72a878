//! Commands as the log holds them: one byte of opcode, then fields, little-endian.
//!
//! ```text
//! key, value: length u32 | bytes          list: count u32 | { length u32 | bytes }*
//! when: tag u8 (0 relative, 1 absolute) | milliseconds i64
//! ```
//!
//! The encoding is part of the log format: an opcode or field is never given another meaning.
//! Aliases share one opcode, and numbers are already read, so what differs in spelling alone is the
//! same command and has the same fingerprint. Decoding borrows; it allocates nothing.

use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::planted;

use crate::{Class, Limits};

mod opcode {
    pub(super) const GET: u8 = 1;
    pub(super) const STRLEN: u8 = 2;
    pub(super) const GET_RANGE: u8 = 3;
    pub(super) const EXISTS: u8 = 4;
    pub(super) const MGET: u8 = 5;
    pub(super) const TTL: u8 = 6;
    pub(super) const TYPE: u8 = 7;
    pub(super) const DB_SIZE: u8 = 8;
    pub(super) const OUTCOME: u8 = 9;

    pub(super) const SET: u8 = 32;
    pub(super) const SET_NX: u8 = 33;
    pub(super) const APPEND: u8 = 34;
    pub(super) const SET_RANGE: u8 = 35;
    pub(super) const DEL: u8 = 36;
    pub(super) const MSET: u8 = 37;
    pub(super) const INCR_BY: u8 = 38;
    pub(super) const GET_DEL: u8 = 39;
    pub(super) const FLUSH: u8 = 40;
    pub(super) const EXPIRE: u8 = 41;
    pub(super) const PERSIST: u8 = 42;

    pub(super) const SESSION_OPEN: u8 = 64;
    pub(super) const SESSION_CLOSE: u8 = 65;
    pub(super) const ONCE: u8 = 66;
}

/// Does an encoded command carry its session's number, so that repeating it is harmless?
pub fn is_once(encoded: &[u8]) -> bool {
    encoded.first() == Some(&opcode::ONCE)
}

/// May an encoded read be answered from state that may be stale? That a command was not applied may
/// not be said from such.
pub fn may_be_stale(encoded: &[u8]) -> bool {
    encoded.first() != Some(&opcode::OUTCOME) || planted!(StaleOutcome)
}

/// How many whole values the reply to an encoded command may hold.
pub fn values_in_reply(encoded: &[u8]) -> usize {
    let Some((&opcode, fields)) = encoded.split_first() else { return 0 };
    match opcode {
        opcode::GET | opcode::GET_RANGE | opcode::GET_DEL | opcode::OUTCOME => 1,
        opcode::SET => fields.first().map_or(0, |flags| usize::from(flags & Set::FLAG_GET != 0)),
        opcode::MGET => fields.first_chunk().map_or(0, |count| u32::from_le_bytes(*count) as usize),
        opcode::ONCE => fields.get(ONCE_HEAD_BYTES..).map_or(0, values_in_reply),
        _ => 0,
    }
}

/// Does an encoded write copy a stored value, however long that is, or an ONCE around it? To change
/// a part of a record is to make the whole of it anew, and some replies hold what was there.
pub fn copies_a_value(encoded: &[u8]) -> bool {
    match encoded.first() {
        Some(&(opcode::APPEND | opcode::SET_RANGE | opcode::EXPIRE | opcode::PERSIST)) => true,
        Some(&(opcode::SET | opcode::GET_DEL)) => values_in_reply(encoded) > 0,
        Some(&opcode::ONCE) => encoded.get(1 + ONCE_HEAD_BYTES..).is_some_and(copies_a_value),
        _ => false,
    }
}

/// What an encoded command, or that in an ONCE, is for a store that has little room left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// It may need more room.
    Room,
    /// It removes keys, or opens or closes a session to do so in.
    Deletion,
    /// It removes all keys.
    Flush,
}

/// What a command is for a store that has little room left.
pub fn need_of(encoded: &[u8]) -> Need {
    match encoded.first() {
        Some(&opcode::FLUSH) => Need::Flush,
        Some(&(opcode::DEL | opcode::GET_DEL | opcode::SESSION_OPEN | opcode::SESSION_CLOSE)) => {
            Need::Deletion
        }
        Some(&opcode::ONCE) => encoded.get(1 + ONCE_HEAD_BYTES..).map_or(Need::Room, need_of),
        _ => Need::Room,
    }
}

/// Session, sequence and acknowledgement before the command in an ONCE.
const ONCE_HEAD_BYTES: usize = 3 * 8;

/// How an encoded command that came from a peer is served, if it is one that this node could have
/// encoded itself.
pub fn classify(encoded: &[u8], limits: &Limits) -> Result<Class, DecodeError> {
    if encoded.len() > limits.command_bytes_max {
        return Err(DecodeError::Invalid("command length"));
    }
    let command = Command::decode(encoded)?;
    if let Command::Once(once) = &command {
        once.decode_command()?;
    }
    Ok(match command {
        Command::Ttl { form, .. } if !form.absolute => Class::TimedRead,
        Command::Get { .. }
        | Command::Strlen { .. }
        | Command::GetRange { .. }
        | Command::Exists { .. }
        | Command::Mget { .. }
        | Command::Ttl { .. }
        | Command::Type { .. }
        | Command::DbSize
        | Command::Outcome { .. } => Class::Read,
        _ => Class::Write,
    })
}

/// A command, borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Get {
        key: &'a [u8],
    },
    Strlen {
        key: &'a [u8],
    },
    GetRange {
        key: &'a [u8],
        start: i64,
        end: i64,
    },
    Exists {
        keys: List<'a>,
    },
    Mget {
        keys: List<'a>,
    },
    Ttl {
        key: &'a [u8],
        form: TtlForm,
    },
    Type {
        key: &'a [u8],
    },
    DbSize,
    Outcome {
        session: u64,
        sequence: u64,
    },
    Set(Set<'a>),
    SetNx {
        key: &'a [u8],
        value: &'a [u8],
    },
    Append {
        key: &'a [u8],
        value: &'a [u8],
    },
    SetRange {
        key: &'a [u8],
        offset: u64,
        value: &'a [u8],
    },
    Del {
        keys: List<'a>,
    },
    /// Keys and values in turn; their number is even.
    Mset {
        pairs: List<'a>,
    },
    IncrBy {
        key: &'a [u8],
        delta: i64,
    },
    GetDel {
        key: &'a [u8],
    },
    Flush,
    Expire {
        key: &'a [u8],
        when: When,
        only_if: ExpireCondition,
    },
    Persist {
        key: &'a [u8],
    },
    SessionOpen,
    SessionClose {
        session: u64,
    },
    Once(Once<'a>),
}

/// SET, GETSET, SETEX, PSETEX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) only_if: SetCondition,
    /// Reply with the old value.
    pub(crate) get: bool,
    pub(crate) ttl: SetTtl,
}

/// When SET sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetCondition {
    Always,
    Absent,
    Present,
}

/// What SET does to the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetTtl {
    Clear,
    Keep,
    Until(When),
}

/// A point in log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Milliseconds after the time of the entry that holds the command.
    Relative(i64),
    /// Milliseconds since the epoch.
    Absolute(i64),
}

/// The options of the EXPIRE family; all false: always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // four options of one command, combined freely
pub(crate) struct ExpireCondition {
    pub(crate) nx: bool,
    pub(crate) xx: bool,
    pub(crate) gt: bool,
    pub(crate) lt: bool,
}

/// Which of TTL, PTTL, EXPIRETIME, PEXPIRETIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TtlForm {
    pub(crate) milliseconds: bool,
    pub(crate) absolute: bool,
}

/// A command to be executed once in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Once<'a> {
    pub(crate) session: u64,
    pub(crate) sequence: u64,
    /// The client has all replies through this sequence; 0: none.
    pub(crate) ack: u64,
    /// The encoded data command.
    pub(crate) command: &'a [u8],
}

/// Byte strings one after another, checked when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u32()? as usize;
        let bytes = reader.remaining();
        for _ in 0..count {
            reader.bytes(usize::MAX)?;
        }
        Ok(Self { count, bytes: &bytes[..bytes.len() - reader.remaining().len()] })
    }

    /// How many items.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// The items in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| reader.bytes(usize::MAX).expect("checked when decoded"))
    }
}

/// Which list command to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListCommand {
    Exists,
    Mget,
    Del,
    Mset,
}

/// Appends a command over a list, straight from a client's arguments.
pub(crate) fn encode_list<'a>(
    command: ListCommand,
    items: impl ExactSizeIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    out.put_u8(match command {
        ListCommand::Exists => opcode::EXISTS,
        ListCommand::Mget => opcode::MGET,
        ListCommand::Del => opcode::DEL,
        ListCommand::Mset => opcode::MSET,
    });
    out.put_u32(items.len() as u32);
    for item in items {
        out.put_bytes(item);
    }
}

/// Appends the head of an ONCE; the encoded inner command follows it.
pub(crate) fn encode_once_head(session: u64, sequence: u64, ack: u64, out: &mut Vec<u8>) {
    out.put_u8(opcode::ONCE);
    out.put_u64(session);
    out.put_u64(sequence);
    out.put_u64(ack);
}

impl<'a> Command<'a> {
    /// The command, or that in an ONCE.
    pub(crate) fn decode_inner(encoded: &'a [u8]) -> Result<Self, DecodeError> {
        match Self::decode(encoded) {
            Ok(Self::Once(once)) => once.decode_command(),
            other => other,
        }
    }

    /// Reads one whole command.
    pub(crate) fn decode(encoded: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(encoded);
        let r = &mut reader;
        let command = match r.u8()? {
            opcode::GET => Self::Get { key: key(r)? },
            opcode::STRLEN => Self::Strlen { key: key(r)? },
            opcode::GET_RANGE => Self::GetRange { key: key(r)?, start: r.i64()?, end: r.i64()? },
            opcode::EXISTS => Self::Exists { keys: List::decode(r)? },
            opcode::MGET => Self::Mget { keys: List::decode(r)? },
            opcode::TTL => Self::Ttl { key: key(r)?, form: TtlForm::decode(r)? },
            opcode::TYPE => Self::Type { key: key(r)? },
            opcode::DB_SIZE => Self::DbSize,
            opcode::OUTCOME => Self::Outcome { session: r.u64()?, sequence: r.u64()? },
            opcode::SET => Self::Set(Set::decode(r)?),
            opcode::SET_NX => Self::SetNx { key: key(r)?, value: value(r)? },
            opcode::APPEND => Self::Append { key: key(r)?, value: value(r)? },
            opcode::SET_RANGE => {
                Self::SetRange { key: key(r)?, offset: r.u64()?, value: value(r)? }
            }
            opcode::DEL => Self::Del { keys: List::decode(r)? },
            opcode::MSET => Self::decode_mset(r)?,
            opcode::INCR_BY => Self::IncrBy { key: key(r)?, delta: r.i64()? },
            opcode::GET_DEL => Self::GetDel { key: key(r)? },
            opcode::FLUSH => Self::Flush,
            opcode::EXPIRE => Self::Expire {
                key: key(r)?,
                when: When::decode(r)?,
                only_if: ExpireCondition::decode(r)?,
            },
            opcode::PERSIST => Self::Persist { key: key(r)? },
            opcode::SESSION_OPEN => Self::SessionOpen,
            opcode::SESSION_CLOSE => Self::SessionClose { session: r.u64()? },
            opcode::ONCE => Self::Once(Once::decode(r)?),
            _ => return Err(DecodeError::Invalid("opcode")),
        };
        reader.finish()?;
        Ok(command)
    }

    /// The key of a command on one key, also of one in an ONCE around it.
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        match self {
            Self::Get { key }
            | Self::Strlen { key }
            | Self::GetRange { key, .. }
            | Self::Ttl { key, .. }
            | Self::Type { key }
            | Self::Set(Set { key, .. })
            | Self::SetNx { key, .. }
            | Self::Append { key, .. }
            | Self::SetRange { key, .. }
            | Self::IncrBy { key, .. }
            | Self::GetDel { key }
            | Self::Expire { key, .. }
            | Self::Persist { key } => Some(key),
            Self::Once(once) => once.decode_command().ok()?.key(),
            _ => None,
        }
    }

    fn decode_mset(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let pairs = List::decode(r)?;
        if pairs.len() % 2 != 0 {
            return Err(DecodeError::Invalid("MSET list"));
        }
        Ok(Self::Mset { pairs })
    }

    /// Appends the encoding. Lists are encoded by [`encode_list`], ONCE by [`encode_once_head`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get { key } => put(out, opcode::GET, key),
            Self::Strlen { key } => put(out, opcode::STRLEN, key),
            Self::GetRange { key, start, end } => {
                put(out, opcode::GET_RANGE, key);
                out.put_i64(*start);
                out.put_i64(*end);
            }
            Self::Ttl { key, form } => {
                put(out, opcode::TTL, key);
                form.encode(out);
            }
            Self::Type { key } => put(out, opcode::TYPE, key),
            Self::DbSize => out.put_u8(opcode::DB_SIZE),
            Self::Outcome { session, sequence } => {
                out.put_u8(opcode::OUTCOME);
                out.put_u64(*session);
                out.put_u64(*sequence);
            }
            Self::Set(set) => set.encode(out),
            Self::SetNx { key, value } => {
                put(out, opcode::SET_NX, key);
                out.put_bytes(value);
            }
            Self::Append { key, value } => {
                put(out, opcode::APPEND, key);
                out.put_bytes(value);
            }
            Self::SetRange { key, offset, value } => {
                put(out, opcode::SET_RANGE, key);
                out.put_u64(*offset);
                out.put_bytes(value);
            }
            Self::IncrBy { key, delta } => {
                put(out, opcode::INCR_BY, key);
                out.put_i64(*delta);
            }
            Self::GetDel { key } => put(out, opcode::GET_DEL, key),
            Self::Flush => out.put_u8(opcode::FLUSH),
            Self::Expire { key, when, only_if } => {
                put(out, opcode::EXPIRE, key);
                when.encode(out);
                only_if.encode(out);
            }
            Self::Persist { key } => put(out, opcode::PERSIST, key),
            Self::SessionOpen => out.put_u8(opcode::SESSION_OPEN),
            Self::SessionClose { session } => {
                out.put_u8(opcode::SESSION_CLOSE);
                out.put_u64(*session);
            }
            Self::Exists { .. }
            | Self::Mget { .. }
            | Self::Del { .. }
            | Self::Mset { .. }
            | Self::Once(_) => unreachable!("encoded from the arguments: {self:?}"),
        }
    }
}

impl<'a> Set<'a> {
    const FLAGS_KNOWN: u8 = 0b1_1111;
    const FLAG_GET: u8 = 1 << 2;

    fn encode(&self, out: &mut Vec<u8>) {
        let only_if = match self.only_if {
            SetCondition::Always => 0,
            SetCondition::Absent => 1,
            SetCondition::Present => 2,
        };
        let ttl = match self.ttl {
            SetTtl::Clear => 0,
            SetTtl::Keep => 1,
            SetTtl::Until(_) => 2,
        };
        out.put_u8(opcode::SET);
        out.put_u8(only_if | (if self.get { Self::FLAG_GET } else { 0 }) | ttl << 3);
        if let SetTtl::Until(when) = self.ttl {
            when.encode(out);
        }
        out.put_bytes(self.key);
        out.put_bytes(self.value);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = r.u8()?;
        let only_if = match flags & 0b11 {
            0 => SetCondition::Always,
            1 => SetCondition::Absent,
            2 => SetCondition::Present,
            _ => return Err(DecodeError::Invalid("SET condition")),
        };
        let ttl = match flags >> 3 & 0b11 {
            0 => SetTtl::Clear,
            1 => SetTtl::Keep,
            2 => SetTtl::Until(When::decode(r)?),
            _ => return Err(DecodeError::Invalid("SET time to live")),
        };
        if flags & !Self::FLAGS_KNOWN != 0 {
            return Err(DecodeError::Invalid("SET flags"));
        }
        Ok(Self { key: key(r)?, value: value(r)?, only_if, get: flags & Self::FLAG_GET != 0, ttl })
    }
}

impl When {
    fn encode(self, out: &mut Vec<u8>) {
        let (tag, milliseconds) = match self {
            Self::Relative(milliseconds) => (0, milliseconds),
            Self::Absolute(milliseconds) => (1, milliseconds),
        };
        out.put_u8(tag);
        out.put_i64(milliseconds);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let absolute = r.bool()?;
        let milliseconds = r.i64()?;
        Ok(if absolute { Self::Absolute(milliseconds) } else { Self::Relative(milliseconds) })
    }

    /// Milliseconds since the epoch, given the time of the entry.
    pub(crate) fn unix_ms(self, entry_time_ms: u64) -> i64 {
        match self {
            Self::Relative(milliseconds) => milliseconds.saturating_add_unsigned(entry_time_ms),
            Self::Absolute(milliseconds) => milliseconds,
        }
    }
}

impl ExpireCondition {
    fn encode(self, out: &mut Vec<u8>) {
        let [nx, xx, gt, lt] = [self.nx, self.xx, self.gt, self.lt].map(u8::from);
        out.put_u8(nx | xx << 1 | gt << 2 | lt << 3);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = r.u8()?;
        if flags >> 4 != 0 {
            return Err(DecodeError::Invalid("EXPIRE options"));
        }
        let flag = |bit: u8| flags & bit != 0;
        Ok(Self { nx: flag(1), xx: flag(2), gt: flag(4), lt: flag(8) })
    }
}

impl TtlForm {
    fn encode(self, out: &mut Vec<u8>) {
        out.put_bool(self.milliseconds);
        out.put_bool(self.absolute);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { milliseconds: r.bool()?, absolute: r.bool()? })
    }
}

impl<'a> Once<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (session, sequence, ack) = (r.u64()?, r.u64()?, r.u64()?);
        if sequence <= ack {
            return Err(DecodeError::Invalid("ONCE acknowledgement"));
        }
        let command = r.take(r.remaining().len())?;
        Ok(Self { session, sequence, ack, command })
    }

    /// The data command inside; a session command there is malformed.
    pub(crate) fn decode_command(&self) -> Result<Command<'a>, DecodeError> {
        match self.command.first() {
            Some(
                &(opcode::ONCE | opcode::SESSION_OPEN | opcode::SESSION_CLOSE | opcode::OUTCOME),
            ) => Err(DecodeError::Invalid("ONCE command")),
            _ => Command::decode(self.command),
        }
    }
}

fn put(out: &mut Vec<u8>, opcode: u8, key: &[u8]) {
    out.put_u8(opcode);
    out.put_bytes(key);
}

fn key<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    r.bytes(crate::record::PART_BYTES_MAX)
}

fn value<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    r.bytes(crate::record::PART_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(line: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let args: Vec<&str> = line.split(' ').collect();
        crate::parse(&args, &Limits::default(), &mut out).unwrap();
        out
    }

    #[test]
    fn a_deletion_is_one_inside_an_once_too() {
        for (need, lines) in [
            (Need::Flush, &["FLUSHALL", "FLUSHDB", "ONCE 1 1 FLUSHALL"][..]),
            (Need::Deletion, &["DEL a b", "UNLINK a", "GETDEL a", "ONCE 1 1 DEL a"]),
            (Need::Deletion, &["SESSION OPEN", "SESSION CLOSE 1"]),
            (Need::Room, &["SET a b", "GET a", "EXPIRE a 1", "ONCE 1 1 SET a b"]),
        ] {
            for line in lines {
                assert_eq!(need_of(&encoded(line)), need, "{line}");
            }
        }
        assert_eq!(need_of(b""), Need::Room);
    }
}
