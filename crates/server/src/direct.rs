//! Bulk past the page cache: snapshots that come from peers and go to them are not wanted again
//! soon, and to have them in the kernel's memory first costs a copy, fresh pages, and a burst of
//! writing later. Chunks of some length that are read back like this come from the disk, and not
//! from what was to be written there. Each piece is a request that others on the disk wait for, so
//! whoever has the time asks for short ones. What goes to peers is another matter: what the page
//! cache has of it already, for this node has just written it, is taken from there and spares the
//! disk.
//!
//! What it is not: durable. As for any write, only a sync of the file makes it so. Where the file
//! system has no direct I/O, everything goes the usual way.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::{ReadWriteFlags, preadv2, retry_on_intr};

use crate::spare::Spare;

/// Offsets, lengths and memory of direct I/O are multiples of this: of no disk is more asked.
const ALIGN: u64 = 4096;
/// What the disk is given with one call where nothing else is said: the kernel has it do the parts
/// at once, where it can.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// A disk that takes longer for a short piece is slow in any case.
const REST_MAX: Duration = Duration::from_millis(5);
/// Shorter reads and writes gain nothing.
const DIRECT_BYTES_MIN: u64 = 64 << 10;

thread_local! {
    /// What is on its way, in aligned memory.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The same file once more, for direct I/O; opened when it is first needed.
#[derive(Default, Debug)]
pub(crate) struct Direct(OnceLock<Option<File>>);

impl Direct {
    /// Writes it all: whole blocks directly, if they are enough of them, and the rest as usual.
    /// Nobody else may write to these blocks meanwhile.
    pub(crate) fn write(
        &self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        piece_bytes: usize,
    ) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let (from, to) = (offset.next_multiple_of(ALIGN), end - end % ALIGN);
        if to < from + DIRECT_BYTES_MIN {
            return file.write_all_at(bytes, offset);
        }
        let Some(direct) = self.0.get_or_init(|| open_direct(file)) else {
            return file.write_all_at(bytes, offset);
        };
        let (head, rest) = bytes.split_at((from - offset) as usize);
        let (blocks, tail) = rest.split_at((to - from) as usize);
        file.write_all_at(head, offset)?;
        match write_blocks(direct, blocks, from, piece_bytes, thread::sleep) {
            Err(error) if is_refused(&error) => file.write_all_at(blocks, from)?,
            written => written?,
        }
        file.write_all_at(tail, to)
    }

    /// So many bytes at an offset; `None`: read as usual what is there of them.
    pub(crate) fn read(
        &self,
        file: &File,
        offset: u64,
        len: usize,
        piece_bytes: usize,
        spare: &Spare,
    ) -> Option<io::Result<Bytes>> {
        if (len as u64) < DIRECT_BYTES_MIN {
            return None;
        }
        let direct = self.0.get_or_init(|| open_direct(file)).as_ref()?;
        let skipped = (offset % ALIGN) as usize;
        let wanted = (skipped + len).next_multiple_of(ALIGN as usize);
        let mut buffer = spare.take(wanted + ALIGN as usize);
        let start = buffer.as_ptr().align_offset(ALIGN as usize);
        let blocks = &mut buffer[start..start + wanted];
        let first = start + skipped;
        match read_blocks(direct, blocks, offset - skipped as u64, piece_bytes) {
            Ok(there) if there >= skipped + len => {
                return Some(Ok(spare.lend(buffer, first..first + len)));
            }
            Ok(_) => spare.put_back(buffer),
            Err(error) => return Some(Err(error)),
        }
        None
    }
}

/// What the page cache has of a file.
#[derive(Default, Debug)]
pub(crate) struct Cached {
    /// The same file once more: of what is asked for there and missing the kernel reads ahead
    /// nothing else.
    file: OnceLock<Option<File>>,
    /// Nothing is taken from there any more.
    is_given_up: AtomicBool,
    misses: Misses,
}

impl Cached {
    /// So many bytes at an offset; `None`: they are not all there, or nobody can tell, or nobody
    /// asked, for it lacked some of what was asked for last.
    pub(crate) fn read(
        &self,
        file: &File,
        offset: u64,
        len: usize,
        spare: &Spare,
    ) -> Option<Bytes> {
        if self.is_given_up() || !self.misses.may_ask() {
            return None;
        }
        let random = self.file.get_or_init(|| open_random(file)).as_ref()?;
        let mut buffer = spare.take(len);
        let mut there = 0;
        while there < len {
            let (rest, at) = (&mut buffer[there..len], offset + there as u64);
            let read = retry_on_intr(|| {
                preadv2(random, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT)
            });
            match read {
                Ok(count) if count > 0 => there += count,
                Ok(_) | Err(_) => {
                    self.misses.missed();
                    spare.put_back(buffer);
                    return None;
                }
            }
        }
        self.misses.hit();
        Some(spare.lend(buffer, 0..len))
    }

    /// Is nothing taken from there any more?
    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// What is there is not wanted any more.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// Other bytes are in the file now.
    pub(crate) fn begin_anew(&self) {
        self.is_given_up.store(false, Ordering::Relaxed);
        self.misses.hit();
    }
}

/// How often a cache is asked that lacks something. The kernel lets go of a page here and there;
/// but what is asked for and not there it begins to read, for nobody. So after a second miss in a
/// row one read goes by it, then three, and so on up to [`Misses::PASSING_MAX`].
#[derive(Default, Debug)]
struct Misses {
    /// Reads that still go by it.
    passing: AtomicU32,
    /// Reads that will after the next miss.
    passing_next: AtomicU32,
}

impl Misses {
    const PASSING_MAX: u32 = 127;

    fn may_ask(&self) -> bool {
        let passing = self.passing.load(Ordering::Relaxed);
        self.passing.store(passing.saturating_sub(1), Ordering::Relaxed);
        passing == 0
    }

    fn missed(&self) {
        let passing = self.passing_next.load(Ordering::Relaxed);
        self.passing.store(passing, Ordering::Relaxed);
        self.passing_next.store((2 * passing + 1).min(Self::PASSING_MAX), Ordering::Relaxed);
    }

    fn hit(&self) {
        self.passing.store(0, Ordering::Relaxed);
        self.passing_next.store(0, Ordering::Relaxed);
    }
}

/// Not every file system that opens a file like this can use it, or so finely.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

fn open_direct(file: &File) -> Option<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path_of(file)).ok()
}

fn open_random(file: &File) -> Option<File> {
    let random = File::open(path_of(file)).ok()?;
    fadvise(&random, 0, None, Advice::Random).ok()?;
    Some(random)
}

/// Of the very file that is open, whatever name it has now.
fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Reads what there is of these blocks, and of them what direct I/O can: how many bytes.
fn read_blocks(
    file: &File,
    blocks: &mut [u8],
    offset: u64,
    piece_bytes: usize,
) -> io::Result<usize> {
    let mut there = 0;
    while there < blocks.len() {
        let piece = blocks.len().min(there + piece_bytes);
        match file.read_at(&mut blocks[there..piece], offset + there as u64) {
            Ok(0) => break,
            Ok(count) => there += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Also behind what ended in the midst of a block.
            Err(error) if is_refused(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

/// Who writes in short pieces does it for the sake of others on the disk: after each they have that
/// for themselves for as long as it took.
fn write_blocks(
    file: &File,
    blocks: &[u8],
    offset: u64,
    piece_bytes: usize,
    rest: impl Fn(Duration),
) -> io::Result<()> {
    let written = blocks.chunks(piece_bytes).zip((offset..).step_by(piece_bytes));
    BUFFER.with_borrow_mut(|buffer| {
        for (blocks, offset) in written {
            buffer.clear();
            buffer.reserve(blocks.len() + ALIGN as usize);
            buffer.resize(buffer.as_ptr().align_offset(ALIGN as usize), 0);
            let start = buffer.len();
            buffer.extend_from_slice(blocks);
            let begun = Instant::now();
            file.write_all_at(&buffer[start..], offset)?;
            if piece_bytes < PIECE_BYTES {
                rest(begun.elapsed().min(REST_MAX));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn all_of_it_is_written_wherever_it_begins() {
        let dir = TempDir::new("direct");
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        fs::rename(&path, dir.path().join("g")).unwrap();
        let path = dir.path().join("g");
        let direct = Direct::default();
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES as u32 / 2).map(|at| (at % 251) as u8).collect();
        for (offset, len) in
            [(0, 10), (10, bytes.len()), (1, 65_536), (4_095, 65_537), (8_192, 65_536)]
        {
            direct.write(&file, &bytes[..len], offset as u64, 12_288).unwrap();
            let there = fs::read(&path).unwrap();
            assert!(there[offset..offset + len] == bytes[..len], "{len} bytes at {offset}");
            assert!(there.len() == (offset + len).max(10 + bytes.len()) || len == 10, "{offset}");
        }
        assert_eq!(fs::read(&path).unwrap()[0], bytes[0], "what is before is as it was");
    }

    #[test]
    fn after_each_short_piece_others_have_the_disk() {
        let dir = TempDir::new("direct-rests");
        let file = File::create(dir.path().join("f")).unwrap();
        let rests = |piece_bytes| {
            let count = Cell::new(0);
            let rest = |_| count.set(count.get() + 1);
            write_blocks(&file, &vec![7; 256 << 10], 0, piece_bytes, rest).unwrap();
            count.get()
        };
        assert_eq!([64 << 10, PIECE_BYTES].map(rests), [4, 0]);
    }

    #[test]
    fn what_is_read_is_what_was_asked_for() {
        let dir = TempDir::new("direct-read");
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..200_001_u32).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        let (direct, spare) = (Direct::default(), Spare::default());
        for (offset, len) in [(0, 65_536), (1, 70_000), (4_095, 195_906), (0, 200_001)] {
            let wanted = &bytes[offset..offset + len];
            if let Some(read) = direct.read(&file, offset as u64, len, 12_288, &spare) {
                assert_eq!(read.unwrap(), wanted, "{len} bytes at {offset}");
            }
        }
        for offset in [200_000, 200_001, 300_000] {
            assert!(
                direct.read(&file, offset, 65_536, PIECE_BYTES, &spare).is_none(),
                "not all of it is there"
            );
        }
        assert!(
            direct.read(&file, 0, DIRECT_BYTES_MIN as usize - 1, PIECE_BYTES, &spare).is_none()
        );
    }

    #[test]
    fn what_the_cache_has_comes_from_it_also_behind_what_it_lacks() {
        let dir = TempDir::new("cached");
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..600_000_u32).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let (cached, spare) = (Cached::default(), Spare::default());
        for (offset, len) in [(0, 10), (1, 70_000), (300_000, 300_000), (0, 600_000)] {
            let read = cached.read(&file, offset as u64, len, &spare);
            // Not every file system can tell what is there.
            let Some(read) = read else { return };
            assert!(read == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        let first = || cached.read(&file, 0, 10, &spare);
        let beyond = || assert_eq!(cached.read(&file, 599_999, 2, &spare), None, "it ends there");
        beyond();
        assert!(first().is_some(), "a page may be missing");
        (0..2).for_each(|_| beyond());
        assert!(first().is_none(), "much may be missing");
        assert!(first().is_some());
        cached.give_up();
        assert!(first().is_none());
        cached.begin_anew();
        assert!(first().is_some());
    }

    #[test]
    fn a_cache_that_has_nothing_is_asked_ever_more_rarely() {
        let misses = Misses::default();
        let asked: Vec<bool> = (0..600)
            .map(|_| {
                let asks = misses.may_ask();
                asks.then(|| misses.missed());
                asks
            })
            .collect();
        let asked: Vec<usize> = (0..600).filter(|&read| asked[read]).collect();
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 127, 255, 383, 511]);
        misses.hit();
        assert!(misses.may_ask());
        misses.missed();
        assert!(misses.may_ask(), "it had something meanwhile");
    }

    /// A file of 8 MiB, of which the cache has all if the file system has one.
    fn long_file(dir: &TempDir) -> File {
        let path = dir.path().join("f");
        fs::write(&path, vec![1; 8 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn what_the_cache_lacks_is_not_waited_for() {
        let dir = TempDir::new("uncached");
        let file = long_file(&dir);
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let (cached, spare) = (Cached::default(), Spare::default());
        assert!(cached.read(&file, 0, 8 << 20, &spare).is_none());
    }

    #[test]
    fn what_the_cache_lacks_makes_the_kernel_read_that_and_no_more() {
        let dir = TempDir::new("read-ahead");
        let file = long_file(&dir);
        // As a file is that is read from its beginning to its end elsewhere.
        fadvise(&file, 0, None, Advice::Sequential).unwrap();
        let (cached, spare) = (Cached::default(), Spare::default());
        let has = |offset| {
            cached.begin_anew();
            cached.read(&file, offset, 64 << 10, &spare).is_some()
        };
        // Not every file system can tell what is there.
        if !has(0) {
            return;
        }
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !has(0) {
            assert!(Instant::now() < end, "what was asked for is not read");
            thread::yield_now();
        }
        assert!(!has(64 << 10));
    }
}
