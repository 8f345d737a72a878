//! Bulk past the page cache: zeros of a segment, and snapshots, are not wanted again soon, and to have
//! them in the kernel's memory first costs a copy, fresh pages, and a burst of writing later. What is
//! read back like this comes from the disk, and not from what was to be written there.
//!
//! What it is not: durable. As for any write, only a sync of the file makes it so. Where the file
//! system has no direct I/O, everything goes the usual way.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use bytes::Bytes;
use rustix::fs::OFlags;

/// Offsets, lengths and memory of direct I/O are multiples of this: of no disk is more asked.
const ALIGN: u64 = 4096;
/// What is copied into aligned memory at a time.
const BUFFER_BYTES: usize = 256 << 10;
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
    /// Writes the whole blocks of `bytes` directly, and returns where the rest is before and behind
    /// them, which is to be written as usual. Nobody else may write to these blocks meanwhile.
    pub(crate) fn write<'a>(
        &self,
        file: &File,
        bytes: &'a [u8],
        offset: u64,
    ) -> io::Result<[(&'a [u8], u64); 2]> {
        let all = [(bytes, offset), (&[][..], offset)];
        let end = offset + bytes.len() as u64;
        let (from, to) = (offset.next_multiple_of(ALIGN), end - end % ALIGN);
        if to < from + DIRECT_BYTES_MIN {
            return Ok(all);
        }
        let Some(direct) = self.0.get_or_init(|| open_again(file)) else { return Ok(all) };
        let (head, rest) = bytes.split_at((from - offset) as usize);
        let (blocks, tail) = rest.split_at((to - from) as usize);
        match write_blocks(direct, blocks, from) {
            // Not every file system that opens it like this can write it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(all),
            written => written.map(|()| [(head, offset), (tail, to)]),
        }
    }

    /// Up to `len` bytes at an offset, fewer only where the file ends; `None`: read it as usual.
    pub(crate) fn read(&self, file: &File, offset: u64, len: usize) -> Option<io::Result<Bytes>> {
        if (len as u64) < DIRECT_BYTES_MIN {
            return None;
        }
        let direct = self.0.get_or_init(|| open_again(file)).as_ref()?;
        let skipped = (offset % ALIGN) as usize;
        let wanted = (skipped + len).next_multiple_of(ALIGN as usize);
        let mut buffer = vec![0; wanted + ALIGN as usize];
        let start = buffer.as_ptr().align_offset(ALIGN as usize);
        let blocks = &mut buffer[start..start + wanted];
        let mut there = 0;
        while there < wanted {
            match direct.read_at(&mut blocks[there..], offset - skipped as u64 + there as u64) {
                Ok(0) => break,
                Ok(count) => there += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Behind an end of the file that is not one of a block, or never to be had.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && there > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let (first, end) = (start + skipped, start + there.clamp(skipped, skipped + len));
        Some(Ok(Bytes::from(buffer).slice(first..end)))
    }
}

/// The very file that is open, whatever name it has now.
fn open_again(file: &File) -> Option<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
}

fn write_blocks(file: &File, blocks: &[u8], offset: u64) -> io::Result<()> {
    let written = blocks.chunks(BUFFER_BYTES).zip((offset..).step_by(BUFFER_BYTES));
    BUFFER.with_borrow_mut(|buffer| {
        for (blocks, offset) in written {
            buffer.clear();
            buffer.reserve(BUFFER_BYTES + ALIGN as usize);
            buffer.resize(buffer.as_ptr().align_offset(ALIGN as usize), 0);
            let start = buffer.len();
            buffer.extend_from_slice(blocks);
            file.write_all_at(&buffer[start..], offset)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn whole_blocks_are_written_and_the_rest_is_left() {
        let dir = TempDir::new("direct");
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        fs::rename(&path, dir.path().join("g")).unwrap();
        let path = dir.path().join("g");
        let direct = Direct::default();
        let bytes: Vec<u8> = (0..3 * BUFFER_BYTES as u32 / 2).map(|at| (at % 251) as u8).collect();
        for offset in [0, 1, ALIGN - 1, ALIGN, 5 * ALIGN + 7] {
            let rests = direct.write(&file, &bytes, offset).unwrap();
            for (rest, at) in rests {
                file.write_all_at(rest, at).unwrap();
                // All of it, where the file system has no direct writes.
                assert!(rest.len() < ALIGN as usize || rest.len() == bytes.len(), "{}", rest.len());
            }
            let there = fs::read(&path).unwrap();
            let (offset, end) = (offset as usize, offset as usize + bytes.len());
            assert!(there[offset..] == bytes, "written at {offset}");
            assert_eq!(there.len(), end);
        }
        let (short, offset) = (&bytes[..DIRECT_BYTES_MIN as usize - 1], 0);
        assert_eq!(direct.write(&file, short, offset).unwrap()[0], (short, offset));
    }

    #[test]
    fn what_is_read_is_cut_to_what_was_asked_for_and_to_the_file() {
        let dir = TempDir::new("direct-read");
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..200_001_u32).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        let direct = Direct::default();
        for (offset, len) in [(0, 65_536), (1, 70_000), (4_095, 196_000), (8_192, 400_000)] {
            let wanted = &bytes[offset..bytes.len().min(offset + len)];
            if let Some(read) = direct.read(&file, offset as u64, len) {
                assert_eq!(read.unwrap(), wanted, "{len} bytes at {offset}");
            }
        }
        for offset in [200_001, 300_000] {
            let read = direct.read(&file, offset, 65_536);
            assert!(read.is_none_or(|read| read.unwrap().is_empty()), "behind the end");
        }
        assert!(direct.read(&file, 0, DIRECT_BYTES_MIN as usize - 1).is_none());
    }
}
