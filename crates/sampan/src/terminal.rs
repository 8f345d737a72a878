//! Lines for people. Whether anybody reads them must not decide what the program does: a closed
//! terminal or pipe is no error here, where `println!` would panic.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use rustix::termios::tcgetwinsize;

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

/// The same of what was done, and stays done though the text is lost: then that is said.
pub(crate) fn print_done(text: &str, done: impl Display) -> Result<(), Failure> {
    print_line(text).map_err(|lost| Failure::new(lost.code, format!("{lost}; {done}")))
}

/// A line on standard output that tells what goes on.
pub(crate) fn say(text: impl Display) {
    _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error.
pub(crate) fn complain(text: impl Display) {
    _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Of a terminal that does not say how wide it is.
const COLUMNS: usize = 80;

/// One line on the terminal that standard error is, written over and over. Nothing where it is
/// none, or one that does not take escapes.
pub(crate) struct LiveLine {
    has_terminal: bool,
    is_there: bool,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        let kind = std::env::var_os("TERM").unwrap_or_default();
        let takes_escapes = !kind.is_empty() && kind != "dumb";
        let has_terminal = takes_escapes && std::io::stderr().is_terminal();
        Self { has_terminal, is_there: false }
    }

    /// Shows a text, cut to one row: what is wider would leave rows behind.
    pub(crate) fn show(&mut self, text: &str) {
        if self.has_terminal {
            let text: String = text.chars().take(columns() - 1).collect();
            Self::put(&text);
            self.is_there = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_there) {
            Self::put("");
        }
    }

    fn put(text: &str) {
        let mut stderr = std::io::stderr().lock();
        _ = write!(stderr, "\r\x1b[K{text}");
        _ = stderr.flush();
    }
}

/// How wide it is now.
fn columns() -> usize {
    let size = tcgetwinsize(std::io::stderr());
    size.ok().map(|size| size.ws_col.into()).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
}
