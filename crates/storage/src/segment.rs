//! The segment: one preallocated file of the log. Its name, its header page, and its checksum salt.

use std::sync::Arc;

use sampan_base::LogIndex;
use sampan_base::codec::{DecodeError, Reader, Writer, crc32};
use sampan_base::disk::FileName;

use crate::Identity;
use crate::batch::Link;
use crate::page::{self, Magic, PAGE_BYTES, PageFault};
use crate::sector::SECTOR_BYTES;

/// The directory of the log.
pub(crate) const WAL_DIRECTORY: &str = "wal";

/// What a segment begins with.
pub(crate) const SEGMENT_MAGIC: Magic = *b"SAMPWAL\0";

/// Where the first batch of a segment begins: after the header's page.
pub(crate) const FIRST_BATCH_OFFSET: u64 = PAGE_BYTES;

/// Bytes of the header's body without earlier lives.
pub(crate) const SEGMENT_BODY_BYTES: usize = Identity::BYTES + 6 * 8 + 4;

/// How many earlier lives of its file a header names at most.
pub(crate) const EARLIER_MAX: usize = 7;

/// A segment that a file was before, in the same run of the node, and that was not zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EarlierLife {
    /// The number it had.
    pub(crate) number: u64,
    /// Where its batches ended.
    pub(crate) end_bytes: u64,
}

/// What a segment says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    /// Whose it is.
    pub(crate) identity: Identity,
    /// The incarnation of the node that began it.
    pub(crate) generation: u64,
    /// Its number: segments are read in this order.
    pub(crate) sequence: u64,
    /// Its first batch. Whatever an earlier segment holds from this batch on is void.
    pub(crate) first: Link,
    /// Whoever has a snapshot of this index or a higher one can read the log from this segment on:
    /// the entry of that index, or a new start after it, is here or later, and so is all that
    /// follows it. Zero: no snapshot is needed.
    pub(crate) serves_from: LogIndex,
    /// Length of the file.
    pub(crate) len_bytes: u64,
    /// What else may stand in the file, the newest life first. Each ends behind those after it,
    /// which wrote over all of it but for that; so at each place it is one of them, or zeros.
    pub(crate) earlier: Vec<EarlierLife>,
}

impl SegmentHeader {
    /// The header's page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SEGMENT_BODY_BYTES);
        self.identity.encode(&mut body);
        body.put_u64(self.generation);
        body.put_u64(self.sequence);
        body.put_u64(self.first.sequence);
        body.put_u64(self.first.chain);
        body.put_u64(self.serves_from.0);
        body.put_u64(self.len_bytes);
        body.put_u32(self.earlier.len() as u32);
        for life in &self.earlier {
            body.put_u64(life.number);
            body.put_u64(life.end_bytes);
        }
        page::seal(SEGMENT_MAGIC, &body)
    }

    /// Reads a header's page.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PageFault> {
        let mut reader = page::unseal(SEGMENT_MAGIC, bytes)?;
        Self::decode_body(&mut reader).map_err(|_| PageFault::Damaged("a field is impossible"))
    }

    fn decode_body(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut header = Self {
            identity: Identity::decode(reader)?,
            generation: reader.u64()?,
            sequence: reader.u64()?,
            first: Link { sequence: reader.u64()?, chain: reader.u64()? },
            serves_from: LogIndex(reader.u64()?),
            len_bytes: reader.u64()?,
            earlier: Vec::new(),
        };
        let (mut number, mut end_bytes) = (header.sequence, FIRST_BATCH_OFFSET);
        for _ in 0..reader.u32()? {
            let life = EarlierLife { number: reader.u64()?, end_bytes: reader.u64()? };
            if life.number >= number || life.end_bytes <= end_bytes {
                return Err(DecodeError::Invalid("earlier life"));
            }
            (number, end_bytes) = (life.number, life.end_bytes);
            header.earlier.push(life);
        }
        let too_much = header.earlier.len() > EARLIER_MAX || end_bytes > header.len_bytes;
        if header.first.sequence == 0 || too_much {
            return Err(DecodeError::Invalid("segment header"));
        }
        Ok(header)
    }

    /// What all checksums in this segment begin from. Generation and number name one life of one
    /// file: two lives never share both.
    pub(crate) fn salt(&self) -> u32 {
        self.salt_of(self.sequence)
    }

    /// The salt of the segment with this number, begun in the same run of the node. Two of them are
    /// never the same: CRC-32 tells all words apart that differ within 32 bits, as numbers do below
    /// 2^32.
    fn salt_of(&self, number: u64) -> u32 {
        let mut life = Vec::with_capacity(Identity::BYTES + 16);
        self.identity.encode(&mut life);
        life.put_u64(self.generation);
        life.put_u64(number);
        crc32(&[&life])
    }

    /// The salts of its earlier lives, each with the sector before which it ends, in this order.
    pub(crate) fn earlier_salts(&self) -> Vec<(u32, u32)> {
        let end = |life: &EarlierLife| (life.end_bytes / SECTOR_BYTES) as u32;
        self.earlier.iter().map(|life| (end(life), self.salt_of(life.number))).collect()
    }

    /// The file's name.
    pub(crate) fn file(&self) -> FileName {
        file_name(self.sequence)
    }
}

/// The name of a segment.
pub(crate) fn file_name(sequence: u64) -> FileName {
    Arc::from(format!("{WAL_DIRECTORY}/{sequence:020}.log"))
}

/// The name of a segment that is being written by the log lane or by recovery.
pub(crate) fn temporary_name(sequence: u64) -> FileName {
    Arc::from(format!("{WAL_DIRECTORY}/{sequence:020}.log.tmp"))
}

/// The name of a spare: what a segment can be made of, synced. Numbered on its own, and no number
/// is used twice in a run, so that the segment lane never takes a name the log lane is using.
pub(crate) fn spare_name(number: u64) -> FileName {
    Arc::from(format!("{WAL_DIRECTORY}/{number:020}.spare"))
}

/// The name of a spare in the making.
pub(crate) fn spare_temporary_name(number: u64) -> FileName {
    Arc::from(format!("{WAL_DIRECTORY}/{number:020}.spare.tmp"))
}

/// The number in a name that is `wal/`, digits, and this ending.
pub(crate) fn number_in(file: &str, ending: &str) -> Option<u64> {
    let digits = file.strip_prefix(WAL_DIRECTORY)?.strip_prefix('/')?.strip_suffix(ending)?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

#[cfg(test)]
mod tests {
    use sampan_base::{ClusterId, NodeId};

    use super::*;

    /// The tenth segment, four pages long, of a file that was these before, with ends in pages.
    fn header(earlier: &[(u64, u64)]) -> SegmentHeader {
        let life = |&(number, pages)| EarlierLife { number, end_bytes: pages * PAGE_BYTES };
        SegmentHeader {
            identity: Identity { cluster: ClusterId(1), node: NodeId::of(2) },
            generation: 3,
            sequence: 10,
            first: Link { sequence: 4, chain: 5 },
            serves_from: LogIndex(6),
            len_bytes: 12 * PAGE_BYTES,
            earlier: earlier.iter().map(life).collect(),
        }
    }

    #[test]
    fn earlier_lives_that_contradict_each_other_are_damage() {
        let most = [(9, 2), (8, 3), (7, 4), (6, 5), (5, 6), (4, 7), (1, 12)];
        for possible in [&most[..0], &most[..1], &most] {
            let header = header(possible);
            assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }
        for impossible in [
            &[(10, 2)][..],    // itself
            &[(9, 2), (9, 3)], // twice the same
            &[(8, 2), (9, 3)], // a later one after it
            &[(9, 1)],         // no batches
            &[(9, 3), (8, 3)], // nothing is left of the second
            &[(9, 13)],        // longer than the file
            &[most.as_slice(), &[(0, 12)]].concat(),
            &[(9, 2), (8, 3), (7, 4), (6, 5), (5, 6), (4, 7), (3, 8), (2, 9)], // too many
        ] {
            let page = header(impossible).encode();
            assert!(
                matches!(SegmentHeader::decode(&page), Err(PageFault::Damaged(_))),
                "{impossible:?}"
            );
        }
    }

    #[test]
    fn every_place_has_the_salt_of_one_earlier_life_and_no_two_are_the_same() {
        let header = header(&[(9, 2), (3, 4)]);
        let salt = |number| SegmentHeader { sequence: number, ..header.clone() }.salt();
        assert_eq!(header.earlier_salts(), [(16, salt(9)), (32, salt(3))]);
        let salts: std::collections::BTreeSet<u32> = (0..10_000).map(salt).collect();
        assert_eq!(salts.len(), 10_000);
    }
}
