//! The lock on a data directory: one process at a time.
//!
//! An advisory `flock` on the file `lock`, which the kernel drops with the process, however it
//! ends. Whoever writes to the directory shares it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::config::ConfigError;
use crate::disk::disk_error;
use crate::error::ServerError;

/// Its name in the data directory.
pub const LOCK_FILE: &str = "lock";
/// Of a directory that is made for data: whoever may read them may read all that clients have
/// stored.
pub const DIRECTORY_MODE: u32 = 0o700;

/// How often it is looked whether it is shared.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory if it does not exist, and locks it; at once or not at all.
    pub(crate) fn take(directory: &Path) -> Result<Self, ServerError> {
        let disk = |error: io::Error| {
            let text = format!("{}: {error}", directory.display());
            ServerError::of_disk(&disk_error(&LOCK_FILE.into(), &error), text)
        };
        make_directory(directory).map_err(|error| match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => no_directory(directory).into(),
            _ => disk(error),
        })?;
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

    /// Lets it go when nobody else shares it any more.
    pub(crate) fn let_go(self: Arc<Self>) {
        while Arc::strong_count(&self) > 1 {
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Makes a directory, and those above it, if they are not there, for nobody but their owner; and
/// their names durable. Its own is synced always, for the start that made it may have been cut
/// short. Whoever makes a directory above data makes it with this: what is below is no safer than
/// its name.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    let with_new_names = with_new_names(directory);
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    with_new_names.into_iter().try_for_each(sync_names)
}

/// The directories that get a name if this one is made, and if it is there, the one that has its
/// name.
fn with_new_names(directory: &Path) -> Vec<&Path> {
    let missing = directory.ancestors().take_while(|part| !part.exists()).count();
    directory.ancestors().skip(1).take(missing.max(1)).collect()
}

/// Something else is in the place of a directory, or of one above it.
fn no_directory(directory: &Path) -> ConfigError {
    let is_else = |part: &&Path| part.symlink_metadata().is_ok() && !part.is_dir();
    let value = match directory.ancestors().find(is_else) {
        Some(part) if part != directory => {
            format!("{}, below {}, which is none", directory.display(), part.display())
        }
        _ => format!("{}, which is none", directory.display()),
    };
    ConfigError::new("data_dir", value, "want a directory, there or to be made")
}

fn sync_names(directory: &Path) -> io::Result<()> {
    let is_here = directory.as_os_str().is_empty();
    let opened = match File::open(if is_here { Path::new(".") } else { directory }) {
        // Not everyone who may have a directory there may read what else there is.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        opened => opened?,
    };
    match rustix::fs::fsync(&opened) {
        // The file system has nothing to sync.
        Err(Errno::INVAL | Errno::ROFS) => Ok(()),
        synced => synced.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

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
    fn it_is_let_go_with_the_last_who_shares_it() {
        let dir = TempDir::new("lock-shared");
        let lock = Arc::new(DirectoryLock::take(dir.path()).unwrap());
        let writer = lock.clone();
        let path = dir.path().to_owned();
        let writes = thread::spawn(move || {
            thread::sleep(10 * LOOK_EVERY);
            let locked = DirectoryLock::take(&path).is_err();
            drop(writer);
            locked
        });
        lock.let_go();
        DirectoryLock::take(dir.path()).unwrap();
        assert!(writes.join().unwrap(), "it is locked while somebody writes");
    }

    #[test]
    fn all_names_that_are_new_are_made_durable_and_its_own_always_and_others_cannot_read_them() {
        let dir = TempDir::new("lock-names");
        let (a, b, data) = (dir.path().join("a"), dir.path().join("a/b"), dir.path().join("a/b/c"));
        assert_eq!(with_new_names(&data), [&*b, &*a, dir.path()]);
        make_directory(&data).unwrap();
        assert_eq!(with_new_names(&data), [&*b]);
        for made in [&a, &b, &data] {
            assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(with_new_names(Path::new("none/data")), [Path::new("none"), Path::new("")]);
    }

    #[test]
    fn a_directory_above_that_may_not_be_read_or_has_nothing_to_sync_is_no_error() {
        let dir = TempDir::new("lock-above");
        let above = dir.path().join("above");
        fs::create_dir(&above).unwrap();
        let allow = |mode| fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
        allow(0o300);
        let taken = DirectoryLock::take(&above.join("a/b/data"));
        allow(0o700);
        taken.unwrap();
        sync_names(Path::new("")).unwrap();
        sync_names(Path::new("/proc")).unwrap();
        assert!(sync_names(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_a_setting_that_makes_no_sense() {
        let dir = TempDir::new("lock-file");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, b"").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [file.clone(), file.join("data"), file.join("a/b"), link] {
            let error = DirectoryLock::take(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("data_dir is {}, ", path.display())), "{text}");
            assert!(
                text.ends_with("which is none: want a directory, there or to be made"),
                "{text}"
            );
        }
        let error = DirectoryLock::take(&file.join("a/b")).unwrap_err().to_string();
        assert!(error.contains(&format!("below {}, which", file.display())), "{error}");
        assert_eq!(DirectoryLock::take(Path::new("/proc/none")).unwrap_err().exit_code(), 6);
    }
}
