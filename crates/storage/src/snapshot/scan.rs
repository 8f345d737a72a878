//! Where the chunks of a snapshot file are, found out while its bytes arrive: so that chunks can be
//! read back, checked and used long before the footer that lists them is here.
//!
//! Not trusted: a header says where its chunk is and what is in it, [`load`](super::load) checks
//! that against the disk, and [`SnapshotReader::lists`](super::SnapshotReader::lists) all of them
//! against the footer.

use super::format::{CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, FIRST_CHUNK_OFFSET};

/// Where a chunk is, and what it must be to be the one that was announced there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkPlace {
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) info: ChunkInfo,
}

impl ChunkPlace {
    /// Where in the file the next part begins.
    pub const fn end(&self) -> u64 {
        self.offset + CHUNK_HEADER_BYTES + self.info.len_bytes as u64
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
    /// Bytes that belong at `offset` go by; there must be none missing before them. What went by
    /// already is skipped.
    pub fn pass(&mut self, offset: u64, bytes: &[u8]) {
        while !self.ended {
            let wanted = self.next_header() + self.head.len() as u64;
            let skipped = wanted.checked_sub(offset).expect("no bytes are missing");
            let rest = usize::try_from(skipped).ok().and_then(|skipped| bytes.get(skipped..));
            let Some(rest) = rest.filter(|rest| !rest.is_empty()) else { return };
            let missing = CHUNK_HEADER_BYTES as usize - self.head.len();
            self.head.extend_from_slice(rest.get(..missing).unwrap_or(rest));
            if rest.len() >= missing {
                self.take_header();
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
        self.places.push(ChunkPlace { number, offset, info });
    }

    /// Where the next header is.
    pub(super) fn next_header(&self) -> u64 {
        self.places.last().map_or(FIRST_CHUNK_OFFSET, ChunkPlace::end)
    }

    fn take_header(&mut self) {
        let header = ChunkHeader::decode(&self.head);
        self.head.clear();
        match header {
            Ok(header) => self.push(&header),
            // The footer. Or damage, which shows when the list is compared.
            Err(_) => self.ended = true,
        }
    }
}
