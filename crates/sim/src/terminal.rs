//! Lines for people, on standard output. Part of the binary, not of the library.
//!
//! When nobody reads them any more (`sampan-sim check ... | head`), the process ends as one that
//! SIGPIPE ended does for a shell, where `println!` would panic: all it does is to print.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// 128 + 13, the number of SIGPIPE.
const NOBODY_READS: i32 = 141;

/// A line on standard output, formatted like `println!`.
macro_rules! say {
    ($($line:tt)*) => {
        $crate::terminal::print_line(format_args!($($line)*))
    };
}
pub(crate) use say;

/// Use [`say!`].
pub(crate) fn print_line(line: Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("cannot write to standard output: {error}");
        }
        std::process::exit(NOBODY_READS);
    }
}
