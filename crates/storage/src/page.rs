//! The sealed page: how every file's fixed first page is written and checked. Its first 16 bytes
//! mean the same in every version of the format, so that any version can tell "too new" from
//! "damaged".

use bytes::Bytes;
use sampan_base::codec::{Reader, crc32};
use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};

/// The unit of writing: no later write touches a page that holds acknowledged bytes.
pub const PAGE_BYTES: u64 = 4096;

/// The version of every format in this crate, written into each file.
pub const FORMAT_VERSION: u32 = 1;

/// Where the version, the checksum and the body begin.
#[cfg(test)]
pub(crate) const VERSION_OFFSET: usize = 8;
pub(crate) const CRC_OFFSET: usize = 12;
pub(crate) const BODY_OFFSET: usize = 16;

/// Reads bytes of a file. What fails is tried once more: only an error that stays counts as damage
/// (rule S9), for damage costs the node its vote.
pub(crate) fn read(
    disk: &mut dyn Disk,
    file: &str,
    offset: u64,
    len_bytes: u64,
) -> Result<Bytes, DiskError> {
    match disk.read(file, offset, len_bytes) {
        Err(DiskError::Io(..)) => disk.read(file, offset, len_bytes),
        result => result,
    }
}

/// Names the kind of a file.
pub(crate) type Magic = [u8; 8];

/// Why a page cannot be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageFault {
    /// It is not what was written; the word says how that shows.
    Damaged(&'static str),
    /// It is what another version wrote.
    Version(u32),
}

/// Are these bytes all zero? Compared page by page, at memory speed: recovery asks this of whole
/// segments.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// The page of a body: magic, version, checksum over everything else, body, zeros.
/// Panics if the body is longer than a page holds.
pub(crate) fn seal(magic: Magic, body: &[u8]) -> Vec<u8> {
    assert!(
        BODY_OFFSET + body.len() <= PAGE_BYTES as usize,
        "a body of {} bytes does not fit a page",
        body.len()
    );
    let mut page = Vec::with_capacity(PAGE_BYTES as usize);
    page.extend_from_slice(&magic);
    page.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    page.extend_from_slice(&[0; BODY_OFFSET - CRC_OFFSET]);
    page.extend_from_slice(body);
    page.resize(PAGE_BYTES as usize, 0);
    let crc = checksum(&page);
    page[CRC_OFFSET..BODY_OFFSET].copy_from_slice(&crc.to_le_bytes());
    page
}

/// Steps that put a sealed page under a name in the root, whole or not at all.
pub(crate) fn place(page: Vec<u8>, temporary: &str, file: &str) -> [DiskOp; 5] {
    let staged: FileName = temporary.into();
    [
        DiskOp::Create { file: staged.clone(), zero_bytes: 0 },
        DiskOp::Write { file: staged.clone(), offset: 0, bytes: page.into() },
        DiskOp::Sync { file: staged.clone() },
        DiskOp::Rename { from: staged, to: file.into() },
        DiskOp::SyncDirectory { directory: "".into() },
    ]
}

/// The body of a page that [`seal`] made, with its padding.
pub(crate) fn unseal(magic: Magic, page: &[u8]) -> Result<Reader<'_>, PageFault> {
    if page.len() as u64 != PAGE_BYTES {
        return Err(PageFault::Damaged("it is too short"));
    }
    let mut reader = Reader::new(page);
    let (found, version, crc) = (reader.take(magic.len()), reader.u32(), reader.u32());
    let (Ok(found), Ok(version), Ok(crc)) = (found, version, crc) else {
        return Err(PageFault::Damaged("it is too short"));
    };
    if found != magic {
        return Err(PageFault::Damaged("it does not begin with its magic number"));
    }
    if crc != checksum(page) {
        return Err(PageFault::Damaged("its checksum does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(PageFault::Version(version));
    }
    Ok(reader)
}

/// The checksum of a page: of everything but the checksum itself.
fn checksum(page: &[u8]) -> u32 {
    let (head, rest) = page.split_at(CRC_OFFSET.min(page.len()));
    crc32(&[head, rest.get(BODY_OFFSET - CRC_OFFSET..).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = *b"SAMPTEST";

    #[test]
    fn every_flipped_bit_of_a_page_is_seen() {
        let page = seal(MAGIC, b"some body");
        assert_eq!(unseal(MAGIC, &page).unwrap().take(9), Ok(&b"some body"[..]));
        for byte in 0..page.len() {
            for bit in 0..8 {
                let mut bad = page.clone();
                bad[byte] ^= 1 << bit;
                assert!(matches!(unseal(MAGIC, &bad), Err(PageFault::Damaged(_))), "{byte} {bit}");
            }
        }
        assert!(unseal(MAGIC, &page[1..]).is_err());
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut page = seal(MAGIC, b"");
        page[VERSION_OFFSET] = 9;
        let crc = checksum(&page);
        page[CRC_OFFSET..BODY_OFFSET].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(unseal(MAGIC, &page).unwrap_err(), PageFault::Version(9));
    }
}
