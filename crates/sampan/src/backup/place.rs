//! Where backups are kept: files, and what is built in beside them.
#![cfg_attr(not(feature = "s3"), allow(clippy::unused_async))] // to write files does not wait

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::file::{self, FileWriter};
#[cfg(feature = "s3")]
use super::s3::{Object, ObjectReader, ObjectWriter};
use crate::exit::Failure;

/// Bytes of a file read at once.
const READ_BYTES: usize = 1 << 20;

/// The name of a place for a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A path.
    File(PathBuf),
    /// An object.
    #[cfg(feature = "s3")]
    S3(Object),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text.is_empty() => Err(want()),
            None if text == "-" => {
                Err(format!("{}; standard input or output is none (./- is a file)", want()))
            }
            None => Ok(Self::File(text.into())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            #[cfg(feature = "s3")]
            Some(("s3", name)) => name.parse().map(Self::S3).map_err(|()| want()),
            #[cfg(not(feature = "s3"))]
            Some(("s3", _)) => {
                Err("this program was built without --features s3: want FILE".to_owned())
            }
            Some(_) => Err(want()),
        }
    }
}

fn want() -> String {
    if cfg!(feature = "s3") { "want FILE, or s3://BUCKET/KEY" } else { "want FILE" }.to_owned()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "s3")]
            Self::S3(object) => write!(f, "{object}"),
        }
    }
}

impl Place {
    /// May a backup be written there?
    pub(super) async fn check_free(&self, replace: bool) -> Result<(), Failure> {
        match self {
            Self::File(path) => file::check_free(path, replace),
            #[cfg(feature = "s3")]
            Self::S3(object) => object.check_free(replace).await,
        }
    }

    /// Begins to write a backup of this many bytes.
    #[cfg_attr(not(feature = "s3"), allow(unused_variables))]
    pub(super) async fn write(&self, bytes: u64) -> Result<Writer, Failure> {
        match self {
            Self::File(path) => FileWriter::create(path).map(Writer::File),
            #[cfg(feature = "s3")]
            Self::S3(object) => object.write(bytes).await.map(Writer::S3),
        }
    }

    /// Begins to read a backup.
    pub(crate) async fn read(&self) -> Result<Reader, Failure> {
        match self {
            Self::File(path) => {
                let (path, name) = (path.clone(), path.clone());
                match patiently(move || File::open(name)).await {
                    Ok(file) => Ok(Reader::File { file: file.into(), path }),
                    Err(error) => Err(file::failed(&path, &error)),
                }
            }
            #[cfg(feature = "s3")]
            Self::S3(object) => object.read().await.map(Reader::S3),
        }
    }
}

/// A backup being written.
pub(super) enum Writer {
    File(FileWriter),
    #[cfg(feature = "s3")]
    S3(ObjectWriter),
}

impl Writer {
    /// Writes the next bytes.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        match self {
            Self::File(writer) => writer.write(&bytes),
            #[cfg(feature = "s3")]
            Self::S3(writer) => writer.write(bytes).await,
        }
    }

    /// Makes it durable under its name.
    pub(super) async fn finish(self, replace: bool) -> Result<(), Failure> {
        match self {
            Self::File(writer) => writer.finish(replace),
            #[cfg(feature = "s3")]
            Self::S3(writer) => writer.finish(replace).await,
        }
    }

    /// Leaves nothing of it.
    pub(super) async fn abandon(self) {
        match self {
            Self::File(writer) => drop(writer),
            #[cfg(feature = "s3")]
            Self::S3(writer) => writer.abandon().await,
        }
    }
}

/// A backup being read.
pub(crate) enum Reader {
    File {
        file: Arc<File>,
        path: PathBuf,
    },
    #[cfg(feature = "s3")]
    S3(ObjectReader),
}

impl Reader {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::File { file, path } => {
                let file = file.clone();
                let read = patiently(move || {
                    let mut bytes = Vec::with_capacity(READ_BYTES);
                    (&*file).take(READ_BYTES as u64).read_to_end(&mut bytes)?;
                    Ok(bytes)
                });
                let bytes = read.await.map_err(|error| file::failed(path, &error))?;
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
            #[cfg(feature = "s3")]
            Self::S3(reader) => reader.next().await,
        }
    }
}

/// Does what may take for ever if the file is a pipe: on another thread, whose end nobody has to
/// wait for, so that a signal can end the command.
async fn patiently<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
