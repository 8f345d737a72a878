//! Lines for people. Whether anybody reads them must not decide what the program does: a closed
//! terminal or pipe is no error here, where `println!` would panic.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use crate::exit::{self, Failure};

/// What a command was asked for, on standard output: lost, it was in vain. But that nobody reads on
/// (`sampan get key | head -c 1`) is no fault.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::UNWRITTEN, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The same of a text, with the end of its last line.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
}

/// A line on standard output that tells what goes on.
pub(crate) fn say(text: impl Display) {
    _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error.
pub(crate) fn complain(text: impl Display) {
    _ = writeln!(std::io::stderr().lock(), "{text}");
}
