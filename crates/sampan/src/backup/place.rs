//! Where backups are kept: files, and what is built in beside them.
#![allow(clippy::unused_async)] // files do not wait, what is reached by a network does

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;

use super::file::{self, FileWriter};
use crate::exit::Failure;

/// Bytes of a file read at once.
const READ_BYTES: usize = 1 << 20;

/// The name of a place for a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A path.
    File(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text.is_empty() => Err(want()),
            None => Ok(Self::File(text.into())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(_) => Err(want()),
        }
    }
}

fn want() -> String {
    "want FILE, or s3://BUCKET/KEY".to_owned()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Place {
    /// May a backup be written there?
    pub(super) async fn check_free(&self, replace: bool) -> Result<(), Failure> {
        match self {
            Self::File(path) => file::check_free(path, replace),
        }
    }

    /// Begins to write a backup of this many bytes.
    pub(super) async fn write(&self, _bytes: u64) -> Result<Writer, Failure> {
        match self {
            Self::File(path) => FileWriter::create(path).map(Writer::File),
        }
    }

    /// Begins to read a backup.
    pub(crate) async fn read(&self) -> Result<Reader, Failure> {
        match self {
            Self::File(path) => match File::open(path) {
                Ok(file) => Ok(Reader::File { file, path: path.clone() }),
                Err(error) => Err(file::failed(path, &error)),
            },
        }
    }
}

/// A backup being written.
pub(super) enum Writer {
    File(FileWriter),
}

impl Writer {
    /// Writes the next bytes.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        match self {
            Self::File(writer) => writer.write(&bytes),
        }
    }

    /// Makes it durable under its name.
    pub(super) async fn finish(self, replace: bool) -> Result<(), Failure> {
        match self {
            Self::File(writer) => writer.finish(replace),
        }
    }

    /// Leaves nothing of it.
    pub(super) async fn abandon(self) {
        match self {
            Self::File(writer) => drop(writer),
        }
    }
}

/// A backup being read.
pub(crate) enum Reader {
    File { file: File, path: PathBuf },
}

impl Reader {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::File { file, path } => {
                let mut bytes = Vec::with_capacity(READ_BYTES);
                let read = file.take(READ_BYTES as u64).read_to_end(&mut bytes);
                read.map_err(|error| file::failed(path, &error))?;
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
        }
    }
}
