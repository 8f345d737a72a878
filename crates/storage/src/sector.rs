//! The stamped sector: 504 bytes of content and 8 bytes that say which batch it belongs to and
//! that it is whole, here, and of this segment's present life.
//!
//! A disk writes sectors, not batches: a crash leaves any subset of those that were not synced.
//! With a stamp in each, recovery tells sector by sector "never written" (zeros, or what an earlier
//! life of the file left there), "as written" and "damaged", also when the sector with the batch's
//! header is the one that is missing. That is what makes a torn batch provable (`docs/format.md`,
//! decision table).

use sampan_base::codec::Writer;
use sampan_base::rng::mix;

use crate::page::{PAGE_BYTES, is_zero};

/// What the medium writes or does not write as a whole, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes of content in a sector.
pub(crate) const CONTENT_BYTES: usize = 504;

/// Where in a sector the low half of the batch's sequence number and the checksum stand.
pub(crate) const BATCH_OFFSET: usize = CONTENT_BYTES;
pub(crate) const CRC_OFFSET: usize = CONTENT_BYTES + 4;

const SECTOR: usize = SECTOR_BYTES as usize;
const _: () = assert!(CRC_OFFSET + 4 == SECTOR && PAGE_BYTES.is_multiple_of(SECTOR_BYTES));

/// What recovery sees in a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sector {
    /// Not written in this life of the file: all zeros, or as an earlier life wrote it.
    Unwritten,
    /// As written, by the batch whose sequence number ends in these 32 bits.
    Sound(u32),
    /// Anything else.
    Damaged,
}

/// Bytes on disk of this many bytes of content: whole sectors, then whole pages.
pub(crate) const fn bytes_on_disk(content_bytes: u64) -> u64 {
    (content_bytes.div_ceil(CONTENT_BYTES as u64) * SECTOR_BYTES).next_multiple_of(PAGE_BYTES)
}

/// Lays content out in sectors; the stamps come last.
pub(crate) struct SectorWriter {
    bytes: Vec<u8>,
    /// Content bytes in the sector being filled.
    filled: usize,
}

impl SectorWriter {
    /// A writer for about this much content.
    pub(crate) fn with_capacity(content_bytes: u64) -> Self {
        Self { bytes: Vec::with_capacity(bytes_on_disk(content_bytes) as usize), filled: 0 }
    }

    /// Stamps all sectors as those of batch `sequence`, the first being the segment's sector number
    /// `first`; pads to whole pages. The second result is the chain value after this batch.
    pub(crate) fn finish(
        mut self,
        salt: u32,
        first: u32,
        sequence: u64,
        chain: u64,
    ) -> (Vec<u8>, u64) {
        if self.filled > 0 {
            self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        }
        let mut chain = chain;
        for (number, sector) in (first..).zip(self.bytes.chunks_exact_mut(SECTOR)) {
            sector[BATCH_OFFSET..CRC_OFFSET].copy_from_slice(&(sequence as u32).to_le_bytes());
            let crc = checksum(salt, number, sector);
            sector[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
            chain = chain_next(chain, sector);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        (self.bytes, chain)
    }
}

impl Writer for SectorWriter {
    fn put(&mut self, mut content: &[u8]) {
        while !content.is_empty() {
            let (now, later) = content.split_at(content.len().min(CONTENT_BYTES - self.filled));
            self.bytes.extend_from_slice(now);
            self.filled += now.len();
            if self.filled == CONTENT_BYTES {
                self.bytes.extend_from_slice(&[0; SECTOR - CONTENT_BYTES]);
                self.filled = 0;
            }
            content = later;
        }
    }
}

/// The low half of the batch sequence in a sector's stamp, if the sector is as written.
pub(crate) fn sound(salt: u32, number: u32, sector: &[u8]) -> Option<u32> {
    let sector: &[u8; SECTOR] = sector.try_into().ok()?;
    let stored = u32::from_le_bytes(*sector.last_chunk()?);
    let batch = u32::from_le_bytes(*sector[BATCH_OFFSET..].first_chunk()?);
    (stored == checksum(salt, number, sector)).then_some(batch)
}

/// What a sector is. An earlier life of the file that had `earlier` for a salt may have left it.
pub(crate) fn classify(salt: u32, earlier: Option<u32>, number: u32, sector: &[u8]) -> Sector {
    if is_zero(sector) {
        return Sector::Unwritten;
    }
    if let Some(batch) = sound(salt, number, sector) {
        return Sector::Sound(batch);
    }
    match earlier.and_then(|salt| sound(salt, number, sector)) {
        Some(_) => Sector::Unwritten,
        None => Sector::Damaged,
    }
}

/// Is this a sector of a batch from number `first` on that belongs to another place of a segment
/// with this salt and so many sectors? A write that the disk put in the wrong place leaves such.
/// `own` is its number, if it is in that segment: there it is where it belongs.
pub(crate) fn is_astray(
    salt: u32,
    sectors: u32,
    first: u64,
    own: Option<u32>,
    sector: &[u8],
) -> bool {
    /// A stamp that is further on is garbage: so the search below is rare.
    const BATCHES_AHEAD_MAX: u32 = 1 << 16;
    let stamp = sector.get(BATCH_OFFSET..CRC_OFFSET).and_then(|stamp| stamp.first_chunk());
    let ahead = |stamp: &[u8; 4]| u32::from_le_bytes(*stamp).wrapping_sub(first as u32);
    !is_zero(sector)
        && stamp.is_some_and(|stamp| ahead(stamp) < BATCHES_AHEAD_MAX)
        && (0..sectors).any(|number| Some(number) != own && sound(salt, number, sector).is_some())
}

/// The chain value after a sector: it depends on every byte of every sector before.
pub(crate) fn chain_next(chain: u64, sector: &[u8]) -> u64 {
    let stamp = sector.last_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp));
    mix(chain ^ stamp)
}

/// The checksum of a sector, over all before it. It begins from the segment's salt and the sector's
/// number (an odd factor keeps the 2^32 starts distinct), so that neither an old life of the file
/// nor another place can pass: of the same bytes, CRC-32 from another start is never the same.
fn checksum(salt: u32, number: u32, sector: &[u8]) -> u32 {
    let start = salt.wrapping_add(number.wrapping_mul(0x9e37_79b1));
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(&sector[..CRC_OFFSET]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8], salt: u32, first: u32) -> Vec<u8> {
        let mut writer = SectorWriter::with_capacity(content.len() as u64);
        writer.put(content);
        let (bytes, _) = writer.finish(salt, first, 7, 0);
        assert_eq!(bytes.len() as u64, bytes_on_disk(content.len() as u64));
        bytes
    }

    #[test]
    fn content_is_cut_into_stamped_sectors_and_padded_to_pages() {
        for len in [1, 503, 504, 505, 1008, 4032, 4033] {
            let content = vec![0xab; len];
            let bytes = written(&content, 1, 8);
            let mut back = Vec::new();
            for (number, sector) in (8..).zip(bytes.chunks_exact(SECTOR)) {
                if (number as usize - 8) * CONTENT_BYTES < len {
                    assert_eq!(classify(1, None, number, sector), Sector::Sound(7));
                    back.extend_from_slice(&sector[..CONTENT_BYTES]);
                } else {
                    assert_eq!(classify(1, None, number, sector), Sector::Unwritten);
                }
            }
            assert_eq!(back[..len], content);
        }
    }

    #[test]
    fn a_sector_of_another_place_another_life_or_with_any_flipped_bit_is_damaged() {
        let sector = &written(&[0; 10], 1, 8)[..SECTOR];
        assert_eq!(classify(1, None, 8, sector), Sector::Sound(7));
        assert_eq!(classify(1, None, 9, sector), Sector::Damaged);
        assert_eq!(classify(2, Some(3), 8, sector), Sector::Damaged);
        for bit in 0..SECTOR * 8 {
            let mut bad = sector.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(1, None, 8, &bad), Sector::Damaged, "bit {bit}");
            assert_eq!(classify(2, Some(1), 8, &bad), Sector::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_sector_of_the_earlier_life_is_unwritten_in_its_place_alone() {
        let sector = &written(&[0; 10], 1, 8)[..SECTOR];
        assert_eq!(classify(2, Some(1), 8, sector), Sector::Unwritten);
        assert_eq!(classify(2, Some(1), 9, sector), Sector::Damaged);
        assert_eq!(classify(1, Some(2), 8, sector), Sector::Sound(7), "this life comes first");
    }

    #[test]
    fn a_sector_of_a_later_batch_in_another_place_is_astray_and_nothing_else_is() {
        let astray = |salt, first, sector: &[u8]| is_astray(salt, 1_000, first, None, sector);
        let mut writer = SectorWriter::with_capacity(10);
        writer.put(&[3; 10]);
        let (bytes, _) = writer.finish(1, 8, 7, 0);
        let sector = &bytes[..SECTOR];
        assert!(astray(1, 7, sector) && astray(1, 5, sector), "batch 7, or one of the lost");
        assert!(!astray(1, 8, sector), "an earlier one");
        assert!(!astray(2, 7, sector), "of another segment");
        assert!(!is_astray(1, 8, 7, None, sector), "no place of this segment");
        assert!(!is_astray(1, 1_000, 7, Some(8), sector), "its own place");
        assert!(is_astray(1, 1_000, 7, Some(9), sector));
        let mut bad = sector.to_vec();
        bad[3] ^= 1;
        assert!(!astray(1, 7, &bad));
        // Numbers of batches whose low halves are those of nothing at all.
        for first in [0, 1 << 32, (1 << 32) - 9] {
            assert!(!astray(1, first, &[0; SECTOR]));
        }
    }

    #[test]
    fn the_chain_depends_on_every_sector() {
        let bytes = written(&[1; 1000], 1, 8);
        let chain = |bytes: &[u8]| bytes.chunks_exact(SECTOR).take(2).fold(5, chain_next);
        let other = written(&[&[2], &[1; 999][..]].concat(), 1, 8);
        assert_ne!(chain(&bytes), chain(&other));
    }
}
