//! The `Disk` seam: every byte Sampan stores passes through it. The server puts real files behind
//! it, the simulator a model that loses, tears and reorders what was not synced.
//!
//! Two halves. While running, `storage` only *describes* what is to be done as [`DiskOp`]s, in
//! order; a disk thread (or the simulator) executes them and reports. While starting, recovery
//! reads through [`Disk`] directly.
//!
//! The model of the medium (`docs/format.md`): a write is durable only after a `Sync` of its file
//! that began after it; a created, renamed or removed name only after a `SyncDirectory`; before
//! that, any subset of the sectors written, and of the name changes, may survive a crash.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A file's path relative to the node's data directory, with `/` between its parts.
pub type FileName = Arc<str>;

/// One step for a disk. The steps of one batch are executed in order; the first error stops it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Creates the file (or empties an existing one) and fills it with `zero_bytes` zeros that are
    /// really written, so that later writes change no metadata.
    Create {
        /// The file.
        file: FileName,
        /// Its length afterwards.
        zero_bytes: u64,
    },
    /// Makes the file exactly this long, creating it if need be, with room on the disk for all of
    /// it. What it holds is of no interest, and neither is whether it survives a crash. Without
    /// room for it the file stays as it was.
    Reserve {
        /// The file.
        file: FileName,
        /// Its length afterwards.
        len_bytes: u64,
    },
    /// Ensures that a file `to` exists, of any length and content, to be written over. If it
    /// exists, nothing happens. Otherwise `from` is renamed to it, unless somebody reads `from`:
    /// then `from` is removed and an empty `to` is created.
    Reuse {
        /// The name now of what is wanted no more.
        from: FileName,
        /// The name afterwards, in the same directory.
        to: FileName,
    },
    /// Cuts a file off that is at least as long.
    Truncate {
        /// The file; it exists.
        file: FileName,
        /// Its length afterwards.
        len_bytes: u64,
    },
    /// Writes at an offset; extends the file if it must.
    Write {
        /// The file; it exists.
        file: FileName,
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Makes all earlier writes to the file durable.
    Sync {
        /// The file; it exists.
        file: FileName,
    },
    /// Renames a file, replacing the target if there is one.
    Rename {
        /// The name now.
        from: FileName,
        /// The name afterwards, in the same directory.
        to: FileName,
    },
    /// Removes a file; a missing one is no error.
    Remove {
        /// The file.
        file: FileName,
    },
    /// Creates a directory; an existing one is no error.
    CreateDirectory {
        /// The directory.
        directory: FileName,
    },
    /// Makes all earlier creations, renames and removals in a directory durable.
    SyncDirectory {
        /// The directory; `""` is the data directory itself.
        directory: FileName,
    },
}

/// What a listing says of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its name, relative to the data directory.
    pub file: FileName,
    /// Its length.
    pub len_bytes: u64,
}

/// Why a disk did not do as it was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// No file of that name.
    NotFound(FileName),
    /// No room. The only error that may leave a node running (`docs/format.md`).
    NoSpace(FileName),
    /// No more files may be open, in the operating system's words. The disk is sound, but nothing
    /// can be done with it: as fatal.
    TooManyOpen(FileName, String),
    /// The operating system does not let this process do it, in its words: it may not, has no
    /// memory for it, or the file system is read-only. That says nothing of what the disk holds, so
    /// it is no damage; as fatal.
    Refused(FileName, String),
    /// Anything else, with the operating system's words. Fatal: never retried, never acknowledged
    /// over (rule R10).
    Io(FileName, String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(file) => write!(f, "{file}: not found"),
            Self::NoSpace(file) => write!(f, "{file}: no space left on the device"),
            Self::TooManyOpen(file, words) | Self::Refused(file, words) | Self::Io(file, words) => {
                write!(f, "{file}: {words}")
            }
        }
    }
}

impl std::error::Error for DiskError {}

/// A disk that does things at once: the whole of what recovery and the disk thread need.
pub trait Disk {
    /// Executes one step.
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError>;

    /// The files in a directory (not its directories), sorted by name; empty if it does not exist.
    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError>;

    /// Up to `len_bytes` bytes at an offset; fewer only where the file ends.
    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError>;

    /// The length of a file, or `None` if it does not exist.
    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError>;

    /// Another way to the same files, for a thread that reads beside this one; `None` if there is
    /// none.
    fn another(&self) -> Option<Box<dyn Disk + Send>> {
        None
    }

    /// Executes steps in order, up to the first error.
    fn execute_all(&mut self, ops: &[DiskOp]) -> Result<(), DiskError> {
        ops.iter().try_for_each(|op| self.execute(op))
    }
}
