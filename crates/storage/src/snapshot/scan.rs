//! Where the chunks of a snapshot file are, and what is in them, found out while its bytes arrive:
//! so that chunks can be checked and used long before the footer that lists them is here.
//!
//! Not trusted: a header says where its chunk is and what is in it. [`PassingChunk`] checks that
//! against the bytes as they go by, [`load`](super::load) against the disk, and
//! [`SnapshotReader::lists`](super::SnapshotReader::lists) all of them against the footer.

use sampan_base::SnapshotId;
use sampan_base::codec::Crc32;

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, FIRST_CHUNK_OFFSET, chunk_checksum_before,
};

/// Where a chunk is, and what it must be to be the one that was announced there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkPlace {
    /// The snapshot that its header names.
    pub(super) id: SnapshotId,
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) info: ChunkInfo,
}

impl ChunkPlace {
    /// Where in the file the next part begins.
    pub const fn end(&self) -> u64 {
        self.offset + self.len_bytes()
    }

    /// Bytes of the file that it takes.
    pub const fn len_bytes(&self) -> u64 {
        CHUNK_HEADER_BYTES + self.info.len_bytes as u64
    }
}

/// A chunk of which the payload goes by, in slices.
#[derive(Debug)]
pub struct PassingChunk {
    /// The snapshot that it should be of.
    id: SnapshotId,
    place: ChunkPlace,
    crc: Crc32,
    /// What is before this offset in the file has gone by.
    next_offset: u64,
}

impl PassingChunk {
    /// Of snapshot `id`, of which the header has just gone by.
    pub fn new(id: SnapshotId, place: ChunkPlace) -> Self {
        let crc = chunk_checksum_before(id, place.number, place.info.len_bytes);
        Self { id, place, crc, next_offset: place.offset + CHUNK_HEADER_BYTES }
    }

    /// What is new of the payload in bytes that belong at `offset`; there must be none missing
    /// before them. **Nothing of a chunk is to be relied on until it [is sound](Self::is_sound).**
    pub fn pass<'a>(&mut self, offset: u64, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = self.next_offset.checked_sub(offset).expect("no bytes are missing");
        let rest = usize::try_from(skipped).ok().and_then(|skipped| bytes.get(skipped..));
        let rest = rest.unwrap_or_default();
        let missing = (self.place.end() - self.next_offset) as usize;
        let payload = rest.get(..missing).unwrap_or(rest);
        self.crc.update(payload);
        self.next_offset += payload.len() as u64;
        payload
    }

    /// Which chunk it is.
    pub const fn place(&self) -> ChunkPlace {
        self.place
    }

    /// Has all of it gone by?
    pub const fn is_whole(&self) -> bool {
        self.next_offset == self.place.end()
    }

    /// Is it what was announced? To be asked when it is whole.
    pub fn is_sound(self) -> bool {
        self.place.id == self.id && self.crc.finish() == self.place.info.crc
    }
}

/// The chunks of a file as far as their headers have gone by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkScan {
    places: Vec<ChunkPlace>,
    /// What has gone by of the next header.
    head: Vec<u8>,
    /// There are no more chunks, or what should be one is none.
    ended: bool,
}

impl ChunkScan {
    /// Bytes that belong at `offset` go by, as far as the next header, if that ends in them: the
    /// chunk that it is of. There must be no bytes missing before them; what went by already is
    /// skipped. To be asked until there is none.
    pub fn find(&mut self, offset: u64, bytes: &[u8]) -> Option<ChunkPlace> {
        if self.ended {
            return None;
        }
        let wanted = self.next_header() + self.head.len() as u64;
        let skipped = wanted.checked_sub(offset).expect("no bytes are missing");
        let rest = bytes.get(usize::try_from(skipped).ok()?..)?;
        let missing = CHUNK_HEADER_BYTES as usize - self.head.len();
        self.head.extend_from_slice(rest.get(..missing).unwrap_or(rest));
        if rest.len() < missing {
            return None;
        }
        let header = ChunkHeader::decode(&self.head);
        self.head.clear();
        match header {
            Ok(header) if header.number as usize == self.places.len() => {
                self.push(&header);
                self.places.last().copied()
            }
            // The footer. Or damage, which shows when the list is compared.
            Ok(_) | Err(_) => {
                self.ended = true;
                None
            }
        }
    }

    /// The chunks found, in order; of the last one not all need have gone by.
    pub fn places(&self) -> &[ChunkPlace] {
        &self.places
    }

    /// A chunk of which all is known to be there.
    pub(super) fn push(&mut self, header: &ChunkHeader) {
        let info = ChunkInfo { len_bytes: header.len_bytes, crc: header.crc };
        let (number, offset) = (self.places.len() as u32, self.next_header());
        self.places.push(ChunkPlace { id: header.id, number, offset, info });
    }

    /// Where the next header is.
    pub(super) fn next_header(&self) -> u64 {
        self.places.last().map_or(FIRST_CHUNK_OFFSET, ChunkPlace::end)
    }
}
