//! `sampan get`, `set` and the other commands for data: one call of the Clerk each, its result on
//! standard output byte for byte, and an exit code that a script can tell outcomes apart by.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use sampan_client::{Clerk, Error, SetOptions, Ttl, Value};

use crate::exit::{self, Ended, Failure};
use crate::terminal;

// Where the cluster is. (Not a doc comment: clap would make it the help of every command.)
#[derive(Args, Debug)]
pub(crate) struct Servers {
    /// Client addresses of nodes, any of them, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003",
        env = "SAMPAN_SERVERS"
    )]
    pub(crate) servers: Vec<String>,
    /// Give up after this long, with all repetitions
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 5_000,
        env = "SAMPAN_TIMEOUT_MS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) timeout_ms: u64,
}

/// What `--timeout-ms` is for in a command that does not end with it.
fn timeout_help(command: &str) -> Option<&'static str> {
    match command {
        "backup" => Some(
            "Give up a node that does not answer for this long; its snapshot may take longer, and \
             the next node is tried",
        ),
        "bench" => Some("A command without an answer for this long has failed"),
        _ => None,
    }
}

impl Servers {
    /// The command with these flags.
    pub(crate) fn with_flags(command: clap::Command) -> clap::Command {
        let help = timeout_help(command.get_name());
        Self::augment_args(command).mut_arg("timeout_ms", |arg| match help {
            Some(help) => arg.help(help),
            None => arg,
        })
    }

    /// The addresses, each a host and a port.
    pub(crate) fn addresses(&self) -> Result<&[String], Failure> {
        for address in &self.servers {
            if address.parse::<sampan_server::HostPort>().is_err() {
                let want = "want HOST:PORT, several separated by commas";
                return Err(Failure::usage(format!("servers: '{address}': {want}")));
            }
        }
        Ok(&self.servers)
    }
}

/// The commands for data.
#[derive(Subcommand, Debug)]
pub(crate) enum DataCommand {
    /// Prints the value of a key; exit code 1 if there is none
    Get {
        /// The key
        key: OsString,
    },
    /// Sets a key; exit code 1 if --nx or --xx is not met
    Set {
        /// The key
        key: OsString,
        /// The value; without it, standard input
        #[arg(allow_hyphen_values = true)]
        value: Option<OsString>,
        /// Only if the key does not exist
        #[arg(long, conflicts_with = "xx")]
        nx: bool,
        /// Only if the key exists
        #[arg(long)]
        xx: bool,
        /// For this many seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        ex: Option<u64>,
        /// For this many milliseconds
        #[arg(long, value_name = "MS", conflicts_with = "ex", value_parser = clap::value_parser!(u64).range(1..))]
        px: Option<u64>,
        /// For as long as the value before it had left
        #[arg(long, conflicts_with_all = ["ex", "px"])]
        keep_ttl: bool,
    },
    /// Appends to the value of a key and prints its length
    Append {
        /// The key
        key: OsString,
        /// What to append; without it, standard input
        #[arg(allow_hyphen_values = true)]
        value: Option<OsString>,
    },
    /// Removes keys and prints how many there were; exit code 1 if none
    Del {
        /// The keys
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Adds to the integer under a key, which starts from 0, and prints the sum
    Incr {
        /// The key
        key: OsString,
        /// What to add
        #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Prints how many of the keys exist; exit code 1 if none
    Exists {
        /// The keys
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Prints how many milliseconds a key has left, -1 for ever; exit code 1 if there is none
    Ttl {
        /// The key
        key: OsString,
    },
    /// Lets a key expire after some seconds; exit code 1 if there is none
    Expire {
        /// The key
        key: OsString,
        /// From now on
        #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Sends any command and prints its reply, one element a line; one that writes, exactly once
    Command {
        /// The command's name and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// At least so much time is for the end of a session, which spares the cluster an hour of keeping
/// it.
const CLOSE_TIME_MIN: Duration = Duration::from_millis(100);

/// Makes the call, prints what came, and says how it ended.
pub(crate) fn run(servers: &Servers, command: &DataCommand) -> Ended {
    // Whoever types it takes the time that they need.
    let value = value_of(command)?;
    exit::block_on(async {
        let until = Instant::now() + Duration::from_millis(servers.timeout_ms);
        let clerk = Clerk::builder()
            .addresses(servers.addresses()?)
            .deadline(Duration::from_millis(servers.timeout_ms))
            .connect()
            .await
            .map_err(|error| failure(&error))?;
        let timed = Timed { clerk, until };
        let answer = call(&timed, command, value).await;
        let close_time = timed.left().max(CLOSE_TIME_MIN);
        _ = tokio::time::timeout(close_time, timed.clerk.close()).await;
        print(&answer?.map_err(|error| failure(&error))?)
    })
}

/// A Clerk, and the time that there is for all of its calls together.
struct Timed {
    clerk: Clerk,
    until: Instant,
}

impl Timed {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// For the next call.
    fn clerk(&self) -> Clerk {
        self.clerk.with_deadline(self.left())
    }
}

/// The value that a command is given, perhaps by standard input.
fn value_of(command: &DataCommand) -> Result<Vec<u8>, Failure> {
    match command {
        DataCommand::Set { value, .. } | DataCommand::Append { value, .. } => {
            given_or_stdin(value.as_deref())
        }
        _ => Ok(Vec::new()),
    }
}

/// What a command prints, and whether it found what it asked for.
#[derive(Debug)]
struct Answer {
    value: Option<Value>,
    met: bool,
}

impl Answer {
    fn of(value: Value) -> Self {
        Self { met: value != Value::Nil, value: Some(value) }
    }

    /// A count, which is not met if it is zero.
    fn count(count: u64) -> Self {
        Self { met: count > 0, value: Some(Value::Integer(count as i64)) }
    }

    /// Nothing to print.
    const fn condition(met: bool) -> Self {
        Self { value: None, met }
    }
}

async fn call(
    timed: &Timed,
    command: &DataCommand,
    value: Vec<u8>,
) -> Result<Result<Answer, Error>, Failure> {
    let clerk = timed.clerk();
    Ok(match command {
        DataCommand::Get { key } => clerk
            .get(bytes(key))
            .await
            .map(|value| Answer::of(value.map_or(Value::Nil, Value::Bulk))),
        DataCommand::Set { key, nx, xx, ex, px, keep_ttl, .. } => {
            let options =
                set_options(*nx, *xx, ex.map(|s| s.saturating_mul(1_000)).or(*px), *keep_ttl);
            clerk.set_with(bytes(key), value, options).await.map(Answer::condition)
        }
        DataCommand::Append { key, .. } => {
            let length = clerk.append(bytes(key), value).await;
            length.map(|length| Answer { met: true, ..Answer::count(length) })
        }
        DataCommand::Del { keys } => clerk.del(keys.iter().map(bytes)).await.map(Answer::count),
        DataCommand::Incr { key, by } => {
            clerk.incr_by(bytes(key), *by).await.map(|sum| Answer::of(Value::Integer(sum)))
        }
        DataCommand::Exists { keys } => {
            clerk.exists(keys.iter().map(bytes)).await.map(Answer::count)
        }
        DataCommand::Ttl { key } => clerk.ttl(bytes(key)).await.map(|ttl| match ttl {
            Ttl::Missing => Answer::condition(false),
            Ttl::Never => Answer::of(Value::Integer(-1)),
            Ttl::Left(left) => Answer::of(Value::Integer(left.as_millis() as i64)),
        }),
        DataCommand::Expire { key, seconds } => {
            let after = Duration::from_secs(*seconds);
            clerk.expire(bytes(key), after).await.map(Answer::condition)
        }
        DataCommand::Command { args } => Ok(any(timed, args).await?),
    })
}

/// Sends any command: one that writes in the session, others as they are. The node knows which.
/// Those about sessions are as they are, too: to repeat them is harmless. But they write, which the
/// Clerk does not know: one that nobody has answered may be applied.
async fn any(timed: &Timed, args: &[OsString]) -> Result<Answer, Failure> {
    let name = args.first().map(bytes).unwrap_or_default();
    let about = timed.clerk().command([b"COMMAND", &b"INFO"[..], name]).await;
    let about = about.map_err(|error| failure(&error))?;
    let of_sessions = [&b"SESSION"[..], b"ONCE"].iter().any(|of| of.eq_ignore_ascii_case(name));
    let clerk = timed.clerk();
    let answer = if writes(&about) && !of_sessions {
        clerk.once(args.iter().map(bytes)).await
    } else {
        clerk.command(args.iter().map(bytes)).await
    };
    answer.map(Answer::of).map_err(|error| match error {
        Error::Unavailable(why) if of_sessions => {
            Failure::new(exit::UNKNOWN, format!("outcome not known, it may be applied: {why}"))
        }
        error => failure(&error),
    })
}

/// Does the reply to `COMMAND INFO name` hold the flag `write`?
fn writes(about: &Value) -> bool {
    match about {
        Value::Array(items) | Value::Set(items) => items.iter().any(writes),
        Value::Simple(flag) => flag == "write",
        _ => false,
    }
}

fn set_options(nx: bool, xx: bool, expire_ms: Option<u64>, keep_ttl: bool) -> SetOptions {
    let mut options = SetOptions::default();
    if nx {
        options = options.if_missing();
    }
    if xx {
        options = options.if_exists();
    }
    if let Some(expire_ms) = expire_ms {
        options = options.expire_after(Duration::from_millis(expire_ms));
    }
    if keep_ttl {
        options = options.keep_ttl();
    }
    options
}

fn bytes(text: &OsString) -> &[u8] {
    text.as_bytes()
}

/// The argument's bytes, or all of standard input: the way for values that no argument can hold.
fn given_or_stdin(value: Option<&OsStr>) -> Result<Vec<u8>, Failure> {
    if let Some(value) = value {
        return Ok(value.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    Ok(bytes)
}

/// The exit code that an error of the Clerk deserves.
fn failure(error: &Error) -> Failure {
    let code = match error {
        Error::Unavailable(_) => exit::UNAVAILABLE,
        Error::Rejected(_) | Error::NoSessions(_) => exit::REFUSED,
        Error::Invalid(_) => exit::USAGE,
        Error::Unknown { .. }
        | Error::SessionExpired { .. }
        | Error::Protocol(_)
        | Error::Closed => exit::UNKNOWN,
    };
    Failure::new(code, error.to_string())
}

/// The value's own bytes; a newline is added only where a person reads, and between elements.
fn print(answer: &Answer) -> Ended {
    if let Some(value) = &answer.value {
        let mut out = Vec::new();
        let is_one =
            !matches!(value, Value::Array(_) | Value::Set(_) | Value::Push(_) | Value::Map(_));
        write_value(value, &mut out);
        let is_number = matches!(value, Value::Integer(_));
        if is_one && (is_number || std::io::stdout().is_terminal()) && *value != Value::Nil {
            out.push(b'\n');
        }
        terminal::print(&out).map_err(|mut lost| {
            lost.text += "; the command itself was carried out";
            lost
        })?;
    }
    Ok(if answer.met { ExitCode::SUCCESS } else { exit::NOT_MET.into() })
}

/// A value as text: strings as they are, elements one a line.
fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => {}
        Value::Simple(text) => out.extend_from_slice(text.as_bytes()),
        Value::Error(text) => out.extend_from_slice(format!("(error) {text}").as_bytes()),
        Value::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => out.extend_from_slice(bytes),
        Value::Boolean(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Double(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::BigNumber(digits) => out.extend_from_slice(digits.as_bytes()),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            for item in items {
                write_line(item, out);
            }
        }
        Value::Map(pairs) => {
            for (key, value) in pairs {
                write_line(key, out);
                write_line(value, out);
            }
        }
    }
}

fn write_line(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => out.extend_from_slice(b"(nil)\n"),
        Value::Array(_) | Value::Set(_) | Value::Push(_) | Value::Map(_) => write_value(value, out),
        _ => {
            write_value(value, out);
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value) -> String {
        let mut out = Vec::new();
        write_value(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_printed_as_they_are_and_elements_one_a_line() {
        let bulk = |bytes: &'static [u8]| Value::Bulk(bytes.into());
        assert_eq!(text(&bulk(b"a\r\nb")), "a\r\nb");
        assert_eq!(text(&Value::Integer(-3)), "-3");
        let nested = Value::Array(vec![bulk(b"x"), Value::Nil, Value::Array(vec![Value::OK])]);
        assert_eq!(text(&nested), "x\n(nil)\nOK\n");
        assert_eq!(text(&Value::Map(vec![(bulk(b"k"), Value::Boolean(true))])), "k\ntrue\n");
    }

    #[test]
    fn a_command_writes_if_its_flags_say_so() {
        let flags = |flag: &'static str| {
            let flags = Value::Set(vec![Value::Simple(flag.into())]);
            Value::Array(vec![Value::Array(vec![
                Value::Bulk("x".into()),
                Value::Integer(2),
                flags,
            ])])
        };
        assert!(writes(&flags("write")));
        assert!(!writes(&flags("readonly")));
        assert!(!writes(&Value::Array(vec![Value::Nil])));
    }

    #[test]
    fn exit_codes_tell_what_may_have_happened() {
        assert_eq!(failure(&Error::Unavailable("x".into())).code, 3);
        assert_eq!(failure(&Error::Closed).code, 4);
        assert_eq!(failure(&Error::Rejected("WRONGTYPE x".into())).code, 5);
        assert_eq!(failure(&Error::Invalid("x".into())).code, 2);
    }
}
