//! The lock on a data directory: one process at a time.
//!
//! An advisory `flock` on the file `lock`, which the kernel drops with the process, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::error::ServerError;

/// Its name in the data directory.
pub const LOCK_FILE: &str = "lock";

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory if it does not exist, and locks it; at once or not at all.
    pub(crate) fn take(directory: &Path) -> Result<Self, ServerError> {
        let disk =
            |error: std::io::Error| ServerError::Disk(format!("{}: {error}", directory.display()));
        fs::create_dir_all(directory).map_err(disk)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK_FILE))
            .map_err(disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is helps; not knowing it does not hurt.
                _ = file.read_to_string(&mut holder);
                return Err(ServerError::DataDirLocked {
                    directory: directory.into(),
                    process: holder.trim().into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        // The lock holds without the number in it.
        _ = file.set_len(0).and_then(|()| file.rewind());
        _ = writeln!(file, "{}", std::process::id());
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_second_taker_is_told_who_has_it_until_it_is_let_go() {
        let dir = TempDir::new("lock");
        let path = dir.path().join("data");
        let first = DirectoryLock::take(&path).unwrap();
        let error = DirectoryLock::take(&path).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        DirectoryLock::take(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_a_disk_error() {
        let dir = TempDir::new("lock-file");
        fs::write(dir.path().join("file"), b"").unwrap();
        let error = DirectoryLock::take(&dir.path().join("file/data")).unwrap_err();
        assert_eq!(error.exit_code(), 6);
    }
}
