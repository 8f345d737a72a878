//! Giving the room of a removed file back, a piece at a time.
//!
//! What it is: the end of a long file. To free a gigabyte at once holds up every sync on the disk,
//! for a tenth of a second and more where the file system tells the device of freed room (mount option
//! `discard`). So a file loses its name first, and then its bytes from the end on, with pauses.
//! What it is not: a choice of what is removed. And it takes no bytes from anyone who reads them: a
//! reader that keeps a file open beyond its name holds a shared lock on it ([`open_to_read`]), and is
//! the one who gives the room back when it has finished.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How much is given back at once.
const PIECE_BYTES: u64 = 16 << 20;
/// Between two pieces.
const PAUSE: Duration = Duration::from_millis(1);

/// Opens a file whose bytes must stay for as long as it is open, whoever removes its name.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    file.try_lock_shared()?;
    // Whoever removed it before it was locked may have had its bytes already.
    if file.metadata()?.nlink() == 0 { Err(ErrorKind::NotFound.into()) } else { Ok(file) }
}

/// Takes a file its name. Its room is to be given back ([`give_back`]); without a file to do that piece by
/// piece the kernel does all of it at once.
pub(crate) fn remove_name(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).open(path).ok();
    fs::remove_file(path)?;
    Ok(file)
}

/// Gives the room of an open file back that has no name any more, unless somebody else reads it. Takes
/// little longer than at once, a quarter of a second for each gigabyte.
pub(crate) fn give_back(file: &File) {
    let Ok(metadata) = file.metadata() else { return };
    if metadata.nlink() > 0 || metadata.len() <= PIECE_BYTES || file.try_lock().is_err() {
        return;
    }
    let mut left_bytes = metadata.len();
    while left_bytes > PIECE_BYTES {
        left_bytes -= PIECE_BYTES;
        // What is not given back now is when the file is closed.
        if file.set_len(left_bytes).is_err() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn remove(path: &Path) -> io::Result<()> {
        remove_name(path).map(|nameless| nameless.iter().for_each(give_back))
    }

    /// A file somewhat longer than a piece.
    fn long_file(dir: &TempDir) -> std::path::PathBuf {
        let path = dir.path().join("f");
        fs::write(&path, vec![1; PIECE_BYTES as usize + 1]).unwrap();
        path
    }

    #[test]
    fn a_file_that_nobody_reads_loses_its_bytes() {
        let dir = TempDir::new("release");
        let path = long_file(&dir);
        let watcher = File::open(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(watcher.metadata().unwrap().len(), 1, "from the end on, but for the last piece");
        assert_eq!(remove(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_reader_keeps_all_bytes_and_gives_them_back_when_it_has_finished() {
        let dir = TempDir::new("release-read");
        let path = long_file(&dir);
        let (first, second) = (open_to_read(&path).unwrap(), open_to_read(&path).unwrap());
        give_back(&first);
        remove(&path).unwrap();
        give_back(&second);
        let len = |file: &File| file.metadata().unwrap().len();
        assert_eq!(len(&first), PIECE_BYTES + 1, "the other one still reads");
        drop(second);
        give_back(&first);
        assert_eq!(len(&first), 1);
    }
}
