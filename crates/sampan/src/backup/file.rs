//! A backup as a file: written beside its name, synced, read back by nobody (its checks ran on the
//! bytes that were written), and given its name at the end, so that under it is never half of one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::exit::{self, Failure};

/// A file in the making; removed if it is dropped before it is finished.
pub(super) struct FileWriter {
    file: File,
    path: PathBuf,
    beside: PathBuf,
    finished: bool,
}

impl FileWriter {
    /// Creates it beside the name that it will have.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let beside = beside(path);
        // Whoever may read it may read all there is.
        let file = File::options().write(true).create_new(true).mode(0o600).open(&beside);
        let file = file.map_err(|error| failed(&beside, &error))?;
        Ok(Self { file, path: path.to_owned(), beside, finished: false })
    }

    /// Writes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.beside, &error))
    }

    /// Makes it durable under its name.
    pub(super) fn finish(mut self, replace: bool) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| failed(&self.beside, &error))?;
        rename(&self.beside, &self.path, replace)?;
        self.finished = true;
        let directory = directory(&self.path);
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed(directory, &error))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished {
            // It has no name that anybody would take for a backup's.
            _ = fs::remove_file(&self.beside);
        }
    }
}

/// May a backup be written there? Asked first, so that nothing is copied in vain.
pub(super) fn check_free(path: &Path, replace: bool) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            let text = format!("{} is a directory: want the name of a file", path.display());
            Err(Failure::usage(text))
        }
        Ok(_) if !replace => Err(taken(path)),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn failed(path: &Path, error: &std::io::Error) -> Failure {
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

/// The name of a file in the making: no other process's.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    name.into()
}
