//! The segment: one preallocated file of the log. Its name, its header page, and its checksum salt.

use std::sync::Arc;

use sampan_base::LogIndex;
use sampan_base::codec::{DecodeError, Reader, Writer, crc32};
use sampan_base::disk::FileName;

use crate::Identity;
use crate::batch::Link;
use crate::page::{self, Magic, PAGE_BYTES, PageFault};

/// The directory of the log.
pub(crate) const WAL_DIRECTORY: &str = "wal";

/// What a segment begins with.
pub(crate) const SEGMENT_MAGIC: Magic = *b"SAMPWAL\0";

/// Where the first batch of a segment begins: after the header's page.
pub(crate) const FIRST_BATCH_OFFSET: u64 = PAGE_BYTES;

/// Bytes of the header's body.
pub(crate) const SEGMENT_BODY_BYTES: usize = Identity::BYTES + 6 * 8;

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
        page::seal(SEGMENT_MAGIC, &body)
    }

    /// Reads a header's page.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PageFault> {
        let mut reader = page::unseal(SEGMENT_MAGIC, bytes)?;
        Self::decode_body(&mut reader).map_err(|_| PageFault::Damaged("a field is impossible"))
    }

    fn decode_body(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header = Self {
            identity: Identity::decode(reader)?,
            generation: reader.u64()?,
            sequence: reader.u64()?,
            first: Link { sequence: reader.u64()?, chain: reader.u64()? },
            serves_from: LogIndex(reader.u64()?),
            len_bytes: reader.u64()?,
        };
        if header.first.sequence == 0 {
            return Err(DecodeError::Invalid("segment header"));
        }
        Ok(header)
    }

    /// What all checksums in this segment begin from. Generation and number name one life of one
    /// file: two lives never share both.
    pub(crate) fn salt(&self) -> u32 {
        let mut life = Vec::with_capacity(Identity::BYTES + 16);
        self.identity.encode(&mut life);
        life.put_u64(self.generation);
        life.put_u64(self.sequence);
        crc32(&[&life])
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

/// The name of a spare: zeros only, synced. Numbered on its own, and no number is used twice in a
/// run, so that the background lane never takes a name the log lane is using.
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
