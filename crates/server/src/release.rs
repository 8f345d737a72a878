//! Giving the room of a file back, a piece at a time.
//!
//! What it is: the end of a long file. To free a gigabyte at once holds up every sync on the disk,
//! for a tenth of a second and more where the file system tells the device of freed room (mount
//! option `discard`). So a file loses its name first, durably, and then its bytes from the end on,
//! with pauses. What it is not: a choice of what is removed. And it takes no bytes from anyone who
//! reads them: a reader that keeps a file open beyond its name holds a shared lock on it
//! ([`open_to_read`]), and is the one who gives the room back when it has finished. A file that is
//! to be written over loses its name, too, and only then is asked for locks: a reader that locks
//! too late finds the name gone, and one that locked in time is noticed.

use std::fs::{self, File, Metadata, TryLockError};
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
    keep_bytes(File::options().read(true).write(true).open(path)?, path)
}

/// Locks a file that was opened by this name.
fn keep_bytes(file: File, path: &Path) -> io::Result<File> {
    file.try_lock_shared()?;
    // Whoever took its name before it was locked may have had its bytes already.
    if has_name(&file, path) { Ok(file) } else { Err(ErrorKind::NotFound.into()) }
}

/// Does this name lead to this very file?
pub(crate) fn has_name(file: &File, path: &Path) -> bool {
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (here, there) = (file.metadata().map(place), fs::metadata(path).map(place));
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

/// May somebody still read a file that has lost the name that readers look for? Also if it has yet
/// another one, or cannot be locked.
pub(crate) fn may_be_read(file: &File) -> bool {
    let has_another_name = file.metadata().map_or(true, |metadata| metadata.nlink() > 1);
    let try_lock = || file.try_lock().and_then(|()| file.unlock().map_err(TryLockError::Error));
    has_another_name || try_lock().is_err()
}

/// Takes a file its name. Its room is to be given back ([`give_back`]); without a file to do that
/// piece by piece the kernel does all of it at once.
pub(crate) fn remove_name(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).open(path).ok();
    fs::remove_file(path)?;
    Ok(file)
}

/// Is it given back in pieces?
pub(crate) fn is_long(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() > PIECE_BYTES)
}

/// Gives the room of an open file back that has no name any more, unless somebody else reads it.
/// Takes little longer than at once, a quarter of a second for each gigabyte.
pub(crate) fn give_back(file: &File) {
    let Ok(metadata) = file.metadata() else { return };
    if metadata.nlink() > 0 || !is_long(file) || file.try_lock().is_err() {
        return;
    }
    // The last piece is given back when the file is closed, and what cannot be now.
    _ = cut(file, metadata.len() % PIECE_BYTES);
}

/// Cuts a file off.
pub(crate) fn cut(file: &File, len_bytes: u64) -> io::Result<()> {
    let mut left_bytes = file.metadata()?.len();
    while left_bytes > len_bytes {
        left_bytes = left_bytes.saturating_sub(PIECE_BYTES).max(len_bytes);
        file.set_len(left_bytes)?;
        if left_bytes > len_bytes {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
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
    fn a_file_is_cut_to_the_length_that_was_asked_for() {
        let dir = TempDir::new("release-cut");
        let file = File::options().write(true).open(long_file(&dir)).unwrap();
        for len_bytes in [PIECE_BYTES, 5, 5, 0] {
            cut(&file, len_bytes).unwrap();
            assert_eq!(file.metadata().unwrap().len(), len_bytes);
        }
    }

    #[test]
    fn a_name_leads_to_one_file() {
        let dir = TempDir::new("release-name");
        let path = long_file(&dir);
        let file = open_to_read(&path).unwrap();
        assert!(has_name(&file, &path) && may_be_read(&File::open(&path).unwrap()));
        fs::rename(&path, dir.path().join("g")).unwrap();
        assert!(!has_name(&file, &path));
        assert!(keep_bytes(file.try_clone().unwrap(), &path).is_err());
        fs::write(&path, b"another").unwrap();
        let another = File::open(&path).unwrap();
        assert!(!has_name(&file, &path) && !may_be_read(&another));
        fs::hard_link(&path, dir.path().join("copy")).unwrap();
        assert!(may_be_read(&another), "by another name");
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
