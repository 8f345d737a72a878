//! From a client's arguments to an encoded command.
//!
//! All that can be judged without the state is judged here, before anything is proposed: names,
//! arity, options, numbers, limits. Texts and the order of checks are those of Redis 7.

use crate::command::{
    Command, ExpireCondition, ListCommand, Set, SetCondition, SetTtl, TtlForm, When, encode_list,
    encode_once_head,
};
use crate::error::{printable, unknown_command};
use crate::kv::TIME_MS_MAX;
use crate::number::parse_i64;
use crate::spec::{self, Name, Spec};
use crate::{CommandError, Limits};

/// How a command is served. The numbers are those of the wire between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// By [`Kv::query`](crate::Kv::query) at a read index; never in the log.
    Read = 0,
    /// The same, but the answer depends on what time it is (`TTL`, `PTTL`): the leader moves the
    /// log's clock on before it answers.
    TimedRead = 1,
    /// Through the log, by [`Kv::apply`](crate::Kv::apply).
    Write = 2,
}

/// Checks a command as a client sent it and appends its encoding to `out`; on an error `out` is as
/// it was, and the error holds the reply.
pub fn parse<A: AsRef<[u8]>>(
    args: &[A],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<Class, CommandError> {
    if args.len() > limits.arguments_max {
        return Err(CommandError::TooManyArguments(limits.arguments_max));
    }
    let name = args.first().map_or(&[][..], AsRef::as_ref);
    let Some(spec) = spec::find(name) else { return Err(unknown_command(args)) };
    let start = out.len();
    let result = Parser { args, spec, limits }.parse(out).and_then(|class| {
        if out.len() - start > limits.command_bytes_max {
            return Err(CommandError::CommandTooLong(limits.command_bytes_max));
        }
        Ok(class)
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

struct Parser<'a, A> {
    args: &'a [A],
    spec: &'static Spec,
    limits: &'a Limits,
}

impl<'a, A: AsRef<[u8]>> Parser<'a, A> {
    fn parse(&self, out: &mut Vec<u8>) -> Result<Class, CommandError> {
        if !self.spec.arity_allows(self.args.len()) {
            return Err(CommandError::WrongArity(self.spec.name));
        }
        self.check_size()?;
        match self.spec.name_id {
            Name::Exists | Name::Touch => return self.keys(ListCommand::Exists, Class::Read, out),
            Name::Mget => return self.keys(ListCommand::Mget, Class::Read, out),
            Name::Del | Name::Unlink => return self.keys(ListCommand::Del, Class::Write, out),
            Name::Mset => return self.mset(out),
            Name::Once => return self.once(out),
            _ => {}
        }
        let (class, command) = match self.read_command()? {
            Some(command @ Command::Ttl { form: TtlForm { absolute: false, .. }, .. }) => {
                (Class::TimedRead, command)
            }
            Some(command) => (Class::Read, command),
            None => (Class::Write, self.write_command()?),
        };
        command.encode(out);
        Ok(class)
    }

    fn check_size(&self) -> Result<(), CommandError> {
        let bytes: usize = self.args.iter().map(|arg| arg.as_ref().len()).sum();
        if bytes > self.limits.command_bytes_max {
            return Err(CommandError::CommandTooLong(self.limits.command_bytes_max));
        }
        Ok(())
    }

    fn read_command(&self) -> Result<Option<Command<'a>>, CommandError> {
        let ttl = |milliseconds, absolute| -> Result<Command<'a>, CommandError> {
            Ok(Command::Ttl { key: self.key(1)?, form: TtlForm { milliseconds, absolute } })
        };
        Ok(Some(match self.spec.name_id {
            Name::Get => Command::Get { key: self.key(1)? },
            Name::Strlen => Command::Strlen { key: self.key(1)? },
            Name::GetRange | Name::Substr => Command::GetRange {
                key: self.key(1)?,
                start: self.integer(2)?,
                end: self.integer(3)?,
            },
            Name::Ttl => ttl(false, false)?,
            Name::Pttl => ttl(true, false)?,
            Name::ExpireTime => ttl(false, true)?,
            Name::PexpireTime => ttl(true, true)?,
            Name::Type => Command::Type { key: self.key(1)? },
            Name::DbSize => Command::DbSize,
            Name::Outcome => {
                Command::Outcome { session: self.session(1)?, sequence: self.sequence(2)? }
            }
            _ => return Ok(None),
        }))
    }

    fn write_command(&self) -> Result<Command<'a>, CommandError> {
        Ok(match self.spec.name_id {
            Name::Set => Command::Set(self.set()?),
            Name::GetSet => Command::Set(Set { get: true, ..self.plain_set(2)? }),
            Name::SetEx => self.set_ex(Unit::Seconds)?,
            Name::PsetEx => self.set_ex(Unit::Milliseconds)?,
            Name::SetNx => Command::SetNx { key: self.key(1)?, value: self.value(2)? },
            Name::Append => Command::Append { key: self.key(1)?, value: self.value(2)? },
            Name::SetRange => self.set_range()?,
            Name::Incr => Command::IncrBy { key: self.key(1)?, delta: 1 },
            Name::Decr => Command::IncrBy { key: self.key(1)?, delta: -1 },
            Name::IncrBy => Command::IncrBy { key: self.key(1)?, delta: self.integer(2)? },
            Name::DecrBy => {
                let delta = self.integer(2)?.checked_neg();
                let delta = delta.ok_or(CommandError::DecrementOverflow)?;
                Command::IncrBy { key: self.key(1)?, delta }
            }
            Name::GetDel => Command::GetDel { key: self.key(1)? },
            Name::FlushAll | Name::FlushDb => self.flush()?,
            Name::Expire => self.expire(Unit::Seconds, false)?,
            Name::Pexpire => self.expire(Unit::Milliseconds, false)?,
            Name::ExpireAt => self.expire(Unit::Seconds, true)?,
            Name::PexpireAt => self.expire(Unit::Milliseconds, true)?,
            Name::Persist => Command::Persist { key: self.key(1)? },
            Name::Session => self.session_command()?,
            _ => unreachable!("{} is a read or a list command", self.spec.name),
        })
    }

    // Lists.

    fn keys(
        &self,
        command: ListCommand,
        class: Class,
        out: &mut Vec<u8>,
    ) -> Result<Class, CommandError> {
        for place in 1..self.args.len() {
            self.key(place)?;
        }
        encode_list(command, self.args[1..].iter().map(AsRef::as_ref), out);
        Ok(class)
    }

    fn mset(&self, out: &mut Vec<u8>) -> Result<Class, CommandError> {
        if self.args.len().is_multiple_of(2) {
            return Err(CommandError::WrongArity(self.spec.name));
        }
        for place in (1..self.args.len()).step_by(2) {
            self.key(place)?;
            self.value(place + 1)?;
        }
        encode_list(ListCommand::Mset, self.args[1..].iter().map(AsRef::as_ref), out);
        Ok(Class::Write)
    }

    // Strings.

    fn plain_set(&self, value_place: usize) -> Result<Set<'a>, CommandError> {
        Ok(Set {
            key: self.key(1)?,
            value: self.value(value_place)?,
            only_if: SetCondition::Always,
            get: false,
            ttl: SetTtl::Clear,
        })
    }

    /// `SET key value [NX|XX] [GET] [EX|PX|EXAT|PXAT n | KEEPTTL]`. As in Redis an option may be
    /// said twice, and the last number counts; two of one group may not be said together.
    fn set(&self) -> Result<Set<'a>, CommandError> {
        let mut set = self.plain_set(2)?;
        let mut expiry: Option<(SetUnit, usize)> = None;
        let mut place = 3;
        while place < self.args.len() {
            let option = self.arg(place);
            if option.eq_ignore_ascii_case(b"NX") && set.only_if != SetCondition::Present {
                set.only_if = SetCondition::Absent;
            } else if option.eq_ignore_ascii_case(b"XX") && set.only_if != SetCondition::Absent {
                set.only_if = SetCondition::Present;
            } else if option.eq_ignore_ascii_case(b"GET") {
                set.get = true;
            } else if option.eq_ignore_ascii_case(b"KEEPTTL") && expiry.is_none() {
                set.ttl = SetTtl::Keep;
            } else {
                let unit = SetUnit::of(option).ok_or(CommandError::Syntax)?;
                let other = expiry.is_some_and(|(said, _)| said != unit);
                place += 1;
                if other || set.ttl == SetTtl::Keep || place == self.args.len() {
                    return Err(CommandError::Syntax);
                }
                expiry = Some((unit, place));
            }
            place += 1;
        }
        if let Some((unit, place)) = expiry {
            set.ttl = SetTtl::Until(self.positive_time(place, unit.0, unit.1)?);
        }
        Ok(set)
    }

    fn set_ex(&self, unit: Unit) -> Result<Command<'a>, CommandError> {
        let ttl = SetTtl::Until(self.positive_time(2, unit, false)?);
        Ok(Command::Set(Set { ttl, ..self.plain_set(3)? }))
    }

    fn set_range(&self) -> Result<Command<'a>, CommandError> {
        let offset = self.integer(2)?;
        let offset = u64::try_from(offset).map_err(|_| CommandError::OffsetOutOfRange)?;
        Ok(Command::SetRange { key: self.key(1)?, offset, value: self.value(3)? })
    }

    fn flush(&self) -> Result<Command<'a>, CommandError> {
        match self.args.len() {
            1 => Ok(Command::Flush),
            2 if [&b"ASYNC"[..], b"SYNC"].iter().any(|x| x.eq_ignore_ascii_case(self.arg(1))) => {
                Ok(Command::Flush)
            }
            _ => Err(CommandError::Syntax),
        }
    }

    // Time.

    fn expire(&self, unit: Unit, absolute: bool) -> Result<Command<'a>, CommandError> {
        let mut only_if = ExpireCondition::default();
        for place in 3..self.args.len() {
            match self.arg(place).to_ascii_uppercase().as_slice() {
                b"NX" => only_if.nx = true,
                b"XX" => only_if.xx = true,
                b"GT" => only_if.gt = true,
                b"LT" => only_if.lt = true,
                _ => {
                    let option = printable(self.arg(place), 128);
                    return Err(CommandError::UnsupportedOption(option));
                }
            }
        }
        if only_if.nx && (only_if.xx || only_if.gt || only_if.lt) {
            return Err(CommandError::ExpireNxExcludes);
        }
        if only_if.gt && only_if.lt {
            return Err(CommandError::ExpireGtExcludesLt);
        }
        let when = self.time(self.integer(2)?, unit, absolute)?;
        Ok(Command::Expire { key: self.key(1)?, when, only_if })
    }

    fn positive_time(
        &self,
        place: usize,
        unit: Unit,
        absolute: bool,
    ) -> Result<When, CommandError> {
        let number = self.integer(place)?;
        if number <= 0 {
            return Err(CommandError::InvalidExpireTime(self.spec.name));
        }
        self.time(number, unit, absolute)
    }

    /// A point in time; one that no log time could reach without overflow is refused here, so that
    /// applying never fails on it.
    fn time(&self, number: i64, unit: Unit, absolute: bool) -> Result<When, CommandError> {
        let invalid = CommandError::InvalidExpireTime(self.spec.name);
        let factor = match unit {
            Unit::Seconds => 1_000,
            Unit::Milliseconds => 1,
        };
        let Some(milliseconds) = number.checked_mul(factor) else { return Err(invalid) };
        if absolute {
            return Ok(When::Absolute(milliseconds));
        }
        if milliseconds > i64::MAX - TIME_MS_MAX as i64 {
            return Err(invalid);
        }
        Ok(When::Relative(milliseconds))
    }

    // Sessions.

    fn session_command(&self) -> Result<Command<'a>, CommandError> {
        let subcommand = self.arg(1);
        if subcommand.eq_ignore_ascii_case(b"OPEN") {
            if self.args.len() != 2 {
                return Err(CommandError::WrongArity("session|open"));
            }
            return Ok(Command::SessionOpen);
        }
        if subcommand.eq_ignore_ascii_case(b"CLOSE") {
            if self.args.len() != 3 {
                return Err(CommandError::WrongArity("session|close"));
            }
            return Ok(Command::SessionClose { session: self.session(2)? });
        }
        Err(CommandError::UnknownSubcommand(printable(subcommand, 128)))
    }

    /// `ONCE id seq [ACK n] command args...`
    fn once(&self, out: &mut Vec<u8>) -> Result<Class, CommandError> {
        let (session, sequence) = (self.session(1)?, self.sequence(2)?);
        let (mut ack, mut place) = (0, 3);
        if self.arg(3).eq_ignore_ascii_case(b"ACK") {
            if self.args.len() < 6 {
                return Err(CommandError::WrongArity(self.spec.name));
            }
            ack = parse_i64(self.arg(4))
                .and_then(|ack| u64::try_from(ack).ok())
                .filter(|&ack| ack < sequence)
                .ok_or(CommandError::InvalidAck)?;
            place = 5;
        }
        let inner = &self.args[place..];
        let name = inner[0].as_ref();
        let of_sessions =
            |spec: &&Spec| matches!(spec.name_id, Name::Session | Name::Once | Name::Outcome);
        let Some(spec) = spec::find(name).filter(|spec| !of_sessions(spec)) else {
            return Err(CommandError::NotInOnce(printable(name, 128)));
        };
        encode_once_head(session, sequence, ack, out);
        Parser { args: inner, spec, limits: self.limits }.parse(out)?;
        Ok(Class::Write)
    }

    // Arguments.

    fn arg(&self, place: usize) -> &'a [u8] {
        self.args[place].as_ref()
    }

    fn key(&self, place: usize) -> Result<&'a [u8], CommandError> {
        let key = self.arg(place);
        if key.len() > self.limits.key_bytes_max {
            return Err(CommandError::KeyTooLong(self.limits.key_bytes_max));
        }
        Ok(key)
    }

    fn value(&self, place: usize) -> Result<&'a [u8], CommandError> {
        let value = self.arg(place);
        if value.len() > self.limits.value_bytes_max {
            return Err(CommandError::ValueTooLong(self.limits.value_bytes_max));
        }
        Ok(value)
    }

    fn integer(&self, place: usize) -> Result<i64, CommandError> {
        parse_i64(self.arg(place)).ok_or(CommandError::NotInteger)
    }

    fn positive(&self, place: usize) -> Option<u64> {
        let number = parse_i64(self.arg(place))?;
        u64::try_from(number).ok().filter(|&number| number > 0)
    }

    fn session(&self, place: usize) -> Result<u64, CommandError> {
        self.positive(place).ok_or(CommandError::InvalidSessionId)
    }

    fn sequence(&self, place: usize) -> Result<u64, CommandError> {
        self.positive(place).ok_or(CommandError::InvalidSequence)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
}

/// The unit of a SET option, and whether it is a point in time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SetUnit(Unit, bool);

impl SetUnit {
    fn of(option: &[u8]) -> Option<Self> {
        let known = [
            (&b"EX"[..], Self(Unit::Seconds, false)),
            (b"PX", Self(Unit::Milliseconds, false)),
            (b"EXAT", Self(Unit::Seconds, true)),
            (b"PXAT", Self(Unit::Milliseconds, true)),
        ];
        known.iter().find(|(name, _)| option.eq_ignore_ascii_case(name)).map(|&(_, unit)| unit)
    }
}
