//! From a file to a report: what a command line needs.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::check::{Options, check};
use crate::history::History;
use crate::html;
use crate::jsonl::ReadError;
use crate::report::Report;

/// Why a file was not checked, or its picture not written.
#[derive(Debug)]
pub enum RunError {
    /// The history could not be read.
    Read(PathBuf, ReadError),
    /// The picture could not be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Write(path, error) => write!(f, "cannot write {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for RunError {}

/// Checks the history in a file of JSON lines and, if `picture` names a file, draws it there.
pub fn run_file(
    path: &Path,
    picture: Option<&Path>,
    options: &Options,
) -> Result<Report, RunError> {
    let unreadable = |error| RunError::Read(path.to_owned(), error);
    let file = File::open(path).map_err(|error| unreadable(error.into()))?;
    let (history, report) =
        run(BufReader::with_capacity(1 << 20, file), options).map_err(unreadable)?;
    if let Some(picture) = picture {
        std::fs::write(picture, html::render(&history, &report))
            .map_err(|error| RunError::Write(picture.to_owned(), error))?;
    }
    Ok(report)
}

/// Reads and checks a history, and says how long each took.
pub fn run(reader: impl BufRead, options: &Options) -> Result<(History, Report), ReadError> {
    let begin = Instant::now();
    let history = History::read(reader)?;
    let read = begin.elapsed();
    let begin = Instant::now();
    let mut report = check(&history, options);
    report.timings.read = read;
    report.timings.check = begin.elapsed();
    Ok((history, report))
}
