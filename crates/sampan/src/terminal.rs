//! Lines for people. Whether anybody reads them must not decide what the program does: a closed
//! terminal or pipe is no error here, where `println!` would panic.

use std::fmt::Display;
use std::io::Write as _;

/// A line on standard output.
pub(crate) fn say(text: impl Display) {
    _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error.
pub(crate) fn complain(text: impl Display) {
    _ = writeln!(std::io::stderr().lock(), "{text}");
}
