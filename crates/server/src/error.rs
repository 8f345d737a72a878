//! Why a node does not start or stops, and with which exit code.

use std::path::PathBuf;

use sampan_base::disk::DiskError;
use thiserror::Error;

use crate::config::ConfigError;

/// The end of a node. Its `Display` is one line for people.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A setting that makes no sense.
    #[error("bad configuration: {0}")]
    Config(#[from] ConfigError),
    /// Somebody else listens at the address.
    #[error("address {0} is in use by another process")]
    PortInUse(String),
    /// The data directory belongs to another cluster or node, or to one of other members.
    #[error("{0}")]
    OtherData(String),
    /// The data directory holds damaged files, or files of a version that this one does not read.
    #[error("{0}")]
    DataDamaged(String),
    /// A disk did not do as it was told.
    #[error("disk failed: {0}")]
    Disk(String),
    /// A second process on one data directory.
    #[error("data directory {} is in use by another process (pid {process})", directory.display())]
    DataDirLocked {
        /// The directory.
        directory: PathBuf,
        /// Who has it, as it wrote into the lock file.
        process: String,
    },
    /// The operating system has no more of something that a node needs.
    #[error("out of resources: {0}")]
    Resources(String),
    /// State that must agree does not: a bug, and no more of it.
    #[error("broken invariant: {0}")]
    Invariant(String),
}

impl ServerError {
    /// The end of a node that its disk has refused something, in these words. One that has too many
    /// open files has a disk that is sound.
    pub(crate) fn of_disk(error: &DiskError, text: String) -> Self {
        match error {
            DiskError::TooManyOpen(..) => Self::Resources(format!(
                "{text}: raise the limit of open files (ulimit -n; LimitNOFILE= of systemd; of the whole \
                 system: fs.file-max)"
            )),
            DiskError::NotFound(_)
            | DiskError::NoSpace(_)
            | DiskError::Refused(..)
            | DiskError::Io(..) => Self::Disk(text),
        }
    }

    /// The exit code of a process that ends for this reason (`docs/operations.md`, "Exit codes").
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::PortInUse(_) => 3,
            Self::OtherData(_) => 4,
            Self::DataDamaged(_) => 5,
            Self::Resources(_) => 1,
            Self::Disk(_) => 6,
            Self::DataDirLocked { .. } => 7,
            Self::Invariant(_) => 8,
        }
    }
}
