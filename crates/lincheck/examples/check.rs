//! Checks a history of JSON lines and prints the report with the time it took.
//!
//! ```text
//! cargo run --release -p sampan-lincheck --example check -- HISTORY.jsonl [PICTURE.html]
//! ```
//! Exit code: 0 linearizable, 1 not, 2 unreadable, 3 undecided.

use std::path::PathBuf;
use std::process::ExitCode;

use sampan_lincheck::{Options, Verdict, run_file};

fn main() -> ExitCode {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(path) = paths.next() else {
        eprintln!("usage: check HISTORY.jsonl [PICTURE.html]");
        return ExitCode::from(2);
    };
    match run_file(&path, paths.next().as_deref(), &Options::default()) {
        Ok(report) => {
            print!("{report}");
            match report.verdict {
                Verdict::Linearizable => ExitCode::SUCCESS,
                Verdict::NotLinearizable(_) => ExitCode::from(1),
                Verdict::Undecided => ExitCode::from(3),
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
