//! A backup as a file: written beside its name, synced, read back by nobody (its checks ran on the
//! bytes that were written), and given its name at the end, so that under it is never half of one.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use crate::exit::{self, Failure};

/// Whoever may read it may read all there is.
const MODE: u32 = 0o600;
/// What another process leaves beside the name is removed so often.
const LOCK_ATTEMPTS: u32 = 10;

/// A file in the making; removed if it is dropped before it is finished.
pub(super) struct FileWriter {
    /// Locked for as long as it has the name beside.
    file: File,
    path: PathBuf,
    beside: PathBuf,
    finished: bool,
}

impl FileWriter {
    /// Creates it beside the name that it will have, in the place of what a backup that was killed
    /// has left there.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let beside = beside(path);
        let locked = lock(&beside).map_err(|error| failed(&beside, &error))?;
        let Some(file) = locked else {
            let text = format!("{}: another backup to this name is under way", path.display());
            return Err(Failure::usage(text));
        };
        Ok(Self { file, path: path.to_owned(), beside, finished: false })
    }

    /// Writes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.beside, &error))
    }

    /// Makes it durable under its name.
    pub(super) fn finish(mut self, replace: bool) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| failed(&self.beside, &error))?;
        if !has_name(&self.file, &self.beside).map_err(|error| failed(&self.beside, &error))? {
            return Err(failed(&self.beside, &lost(&self.beside)));
        }
        rename(&self.beside, &self.path, replace)?;
        self.finished = true;
        let directory = directory(&self.path);
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed(directory, &error))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished && has_name(&self.file, &self.beside).unwrap_or(false) {
            // It has no name that anybody would take for a backup's.
            _ = fs::remove_file(&self.beside);
        }
    }
}

/// May a backup be written there? Asked first, so that nothing is copied in vain.
pub(super) fn check_free(path: &Path, replace: bool) -> Result<(), Failure> {
    let refused = |why| Err(Failure::usage(format!("{} {why}", path.display())));
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => refused("is a directory: want the name of a file"),
        // A device or a link is not to be replaced by a file.
        Ok(there) if !there.is_file() => refused("is no regular file: want the name of one"),
        Ok(_) if !replace => Err(taken(path)),
        Ok(_) => Ok(()),
        _ if path.as_os_str().as_bytes().ends_with(b"/") => {
            refused("is the name of a directory: want that of a file")
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, &error)),
        Err(_) => {
            let directory = directory(path);
            fs::metadata(directory).map(drop).map_err(|error| failed(directory, &error))
        }
    }
}

pub(super) fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::DISK_FAILED, format!("{}: {error}", path.display()))
}

fn taken(path: &Path) -> Failure {
    let text = format!("{} exists: want another name, or --force to replace it", path.display());
    Failure::usage(text)
}

fn rename(from: &Path, to: &Path, replace: bool) -> Result<(), Failure> {
    if !replace {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::EXIST) => return Err(taken(to)),
            // A file system that cannot do both at once.
            Err(_) => check_free(to, replace)?,
        }
    }
    fs::rename(from, to).map_err(|error| failed(to, &error))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of a file in the making.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// A new file of this name that nobody else has open, locked; `None` if a backup that is under way
/// has one. What another has left there is removed: it may be open elsewhere, and belong to
/// anybody.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let new = || File::options().write(true).create_new(true).mode(MODE).open(path);
    // No link is followed, and a pipe is not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let old = || File::options().write(true).custom_flags(flags).open(path);
    for _ in 0..LOCK_ATTEMPTS {
        let (file, is_new) = match new() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match old() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                old => (old?, false),
            },
            new => (new?, true),
        };
        let is_locked = match file.try_lock() {
            // Where files cannot be locked, one that is new is nobody else's.
            Err(TryLockError::Error(error)) if !is_new => return Err(error),
            locked => !matches!(locked, Err(TryLockError::WouldBlock)),
        };
        // Who had it before may have removed or renamed it after it was opened here.
        match (is_locked && has_name(&file, path)?, is_new) {
            (true, true) => return Ok(Some(file)),
            (true, false) => fs::remove_file(path)?,
            (false, false) if !is_locked => return Ok(None),
            (false, _) => {}
        }
    }
    Err(io::Error::other("it comes and goes: is somebody else at it?"))
}

/// Why a file does not have its name any more.
fn lost(path: &Path) -> io::Error {
    io::Error::other(match fs::symlink_metadata(path) {
        Ok(_) => "somebody has taken its place",
        Err(_) => "it is gone: somebody has moved or removed it",
    })
}

/// Is this the file that has this name now?
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let here = file.metadata()?;
    Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path of a backup that is not there, and that of its file in the making.
    fn paths(name: &str) -> (PathBuf, PathBuf) {
        let path = std::env::temp_dir().join(format!("sampan-{name}-{}", std::process::id()));
        let partial = beside(&path);
        (path, partial)
    }

    #[test]
    fn what_a_killed_backup_has_left_is_overwritten() {
        let (path, partial) = paths("left");
        fs::write(&partial, "more than what comes after it").unwrap();
        let mut writer = FileWriter::create(&path).unwrap();
        writer.write(b"whole").unwrap();
        writer.finish(false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert!(!partial.exists());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn of_two_backups_to_one_name_the_second_is_refused_and_disturbs_nothing() {
        let (path, partial) = paths("twice");
        let mut writer = FileWriter::create(&path).unwrap();
        writer.write(b"first").unwrap();
        let refused = FileWriter::create(&path).err().unwrap();
        assert!(refused.text.contains("another backup to this name is under way"), "{refused}");
        assert_eq!(fs::read(&partial).unwrap(), b"first");
        drop(writer);
        assert!(!partial.exists());
        drop(FileWriter::create(&path).unwrap());
    }

    #[test]
    fn a_file_that_lost_its_name_before_it_was_locked_is_not_taken_for_the_one_that_has_it() {
        let (path, partial) = paths("renamed");
        let opened = File::create(&partial).unwrap();
        assert!(has_name(&opened, &partial).unwrap());
        fs::rename(&partial, &path).unwrap();
        assert!(!has_name(&opened, &partial).unwrap());
        fs::write(&partial, "another").unwrap();
        assert!(!has_name(&opened, &partial).unwrap());
        fs::remove_file(&partial).unwrap();
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_lost_its_name_on_the_way_says_whether_another_has_it() {
        let (path, partial) = paths("lost");
        for (others, words) in [(None, "it is gone"), (Some("mine"), "has taken its place")] {
            let mut writer = FileWriter::create(&path).unwrap();
            writer.write(b"whole").unwrap();
            fs::remove_file(&partial).unwrap();
            if let Some(bytes) = others {
                fs::write(&partial, bytes).unwrap();
            }
            let failure = writer.finish(false).unwrap_err();
            assert!(failure.code == exit::DISK_FAILED && failure.text.contains(words), "{failure}");
            assert_eq!(fs::read_to_string(&partial).ok().as_deref(), others);
            assert!(!path.exists());
        }
        fs::remove_file(&partial).unwrap();
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (path, partial) = paths("linked");
        let victim = path.with_extension("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &partial).unwrap();
        assert_eq!(FileWriter::create(&path).err().unwrap().code, exit::DISK_FAILED);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        fs::remove_file(&partial).unwrap();
        fs::remove_file(&victim).unwrap();
    }
}
