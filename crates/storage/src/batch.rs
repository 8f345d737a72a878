//! The batch: what one group commit appends to the log. A header, then entries, laid out in stamped
//! sectors (`sector.rs`) from the start of a page. Encoding, decoding, and nothing of files.

use bytes::Bytes;
use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, Term};

use crate::sector::{self, CONTENT_BYTES, SECTOR_BYTES, SectorWriter};

/// The first bytes of every batch.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"BTCH");

/// Bytes of a batch's header, of which the last are its checksum.
pub(crate) const HEADER_BYTES: u64 = 68;
const HEADER_CRC_OFFSET: usize = 64;

/// Bytes before the payload of an entry: length, checksum, term, kind.
pub(crate) const ENTRY_HEADER_BYTES: u64 = 4 + 4 + 8 + 1;

/// Flag: the log starts anew after the entry before the batch's first one.
const FLAG_RESET: u32 = 1;

/// Bytes on disk of a batch of `count` entries with `data_bytes` bytes of payload in all.
pub(crate) const fn batch_bytes(count: u64, data_bytes: u64) -> u64 {
    sector::bytes_on_disk(HEADER_BYTES + count * ENTRY_HEADER_BYTES + data_bytes)
}

/// Bytes of entries, headers included, that fit a batch of so many bytes on disk: the inverse.
pub(crate) const fn content_bytes(bytes_on_disk: u64) -> u64 {
    (bytes_on_disk / SECTOR_BYTES * CONTENT_BYTES as u64).saturating_sub(HEADER_BYTES)
}

/// The place of a batch in the sequence of all batches of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Its number, counted from 1 over the life of the log.
    pub(crate) sequence: u64,
    /// The chain value before it.
    pub(crate) chain: u64,
}

/// What a batch does to the log: start anew after `reset`, if any; drop all entries from
/// `first_index` on; append the entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) reset: Option<LogPosition>,
    pub(crate) first_index: LogIndex,
    pub(crate) entries: &'a [Entry],
}

/// A batch read back.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) link: Link,
    pub(crate) synced_through: u64,
    pub(crate) reset: Option<LogPosition>,
    pub(crate) first_index: LogIndex,
    /// Slices of one buffer that this batch has to itself.
    pub(crate) entries: Vec<Entry>,
    /// Length of that buffer.
    pub(crate) buffer_bytes: usize,
    /// Bytes it takes on disk.
    pub(crate) bytes_on_disk: u64,
    /// The chain value after it.
    pub(crate) chain_after: u64,
}

/// Why there is no valid batch at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BatchFault {
    /// The sector with its header is not sound.
    NoHeader,
    /// The header is the one expected, and some of its sectors are not sound.
    Incomplete,
    /// Sound, and yet not the batch expected here, or it contradicts itself.
    Inconsistent,
}

/// The bytes of a batch at `offset` of the segment with this salt, and the chain value after it.
/// The one copy of the payload on its way to the disk is made here.
pub(crate) fn encode(salt: u32, offset: u64, link: Link, change: &Change<'_>) -> (Bytes, u64) {
    let data_bytes: u64 = change.entries.iter().map(|entry| entry.data.len() as u64).sum();
    let payload_bytes = change.entries.len() as u64 * ENTRY_HEADER_BYTES + data_bytes;
    let header = Header {
        link,
        // Lists of the log lane run in order and each ends with a sync: whatever this batch is
        // written after is durable.
        synced_through: link.sequence - 1,
        reset: change.reset,
        first_index: change.first_index,
        last_term: change.entries.last().map_or(Term::ZERO, |entry| entry.term),
        count: change.entries.len() as u32,
        payload_bytes,
    };
    let mut out = SectorWriter::with_capacity(HEADER_BYTES + payload_bytes);
    out.put(&header.encode(salt));
    for entry in change.entries {
        out.put(&entry_header(salt, entry));
        out.put(&entry.data);
    }
    let (bytes, chain) = out.finish(salt, sector_number(offset), link.sequence, link.chain);
    (bytes.into(), chain)
}

/// The header of a batch at `offset` of a segment, whichever batch that is.
pub(crate) fn header_at(salt: u32, segment: &[u8], offset: u64) -> Result<Header, BatchFault> {
    let rest = segment.get(offset as usize..).unwrap_or_default();
    let head = rest.get(..SECTOR_BYTES as usize).ok_or(BatchFault::NoHeader)?;
    let stamped = sector::sound(salt, sector_number(offset), head).ok_or(BatchFault::NoHeader)?;
    let header =
        Header::decode(salt, head, rest.len() as u64).map_err(|_| BatchFault::Inconsistent)?;
    let same_batch = stamped == header.link.sequence as u32;
    same_batch.then_some(header).ok_or(BatchFault::Inconsistent)
}

/// The batch at `offset` of a segment, which must be the one that `link` names.
pub(crate) fn decode(
    salt: u32,
    segment: &[u8],
    offset: u64,
    link: Link,
) -> Result<Batch, BatchFault> {
    let header = header_at(salt, segment, offset)?;
    if header.link != link {
        return Err(BatchFault::Inconsistent);
    }
    let (first_sector, stamped) = (sector_number(offset), link.sequence as u32);
    let rest = &segment[offset as usize..];

    let content_bytes = (HEADER_BYTES + header.payload_bytes) as usize;
    let sectors = content_bytes.div_ceil(CONTENT_BYTES);
    let mut content = Vec::with_capacity(sectors * CONTENT_BYTES);
    let mut chain = link.chain;
    for (number, bytes) in (first_sector..).zip(rest.chunks(SECTOR_BYTES as usize)).take(sectors) {
        if sector::sound(salt, number, bytes) != Some(stamped) {
            return Err(BatchFault::Incomplete);
        }
        content.extend_from_slice(&bytes[..CONTENT_BYTES]);
        chain = sector::chain_next(chain, bytes);
    }
    content.truncate(content_bytes);
    let buffer_bytes = content.capacity();
    let entries = decode_entries(salt, &header, &content.into());
    Ok(Batch {
        link,
        synced_through: header.synced_through,
        reset: header.reset,
        first_index: header.first_index,
        entries: entries.map_err(|_| BatchFault::Inconsistent)?,
        buffer_bytes,
        bytes_on_disk: sector::bytes_on_disk(content_bytes as u64),
        chain_after: chain,
    })
}

/// The number of the sector at an offset of a segment.
const fn sector_number(offset: u64) -> u32 {
    (offset / SECTOR_BYTES) as u32
}

/// A batch's header.
pub(crate) struct Header {
    pub(crate) link: Link,
    synced_through: u64,
    pub(crate) reset: Option<LogPosition>,
    pub(crate) first_index: LogIndex,
    last_term: Term,
    pub(crate) count: u32,
    payload_bytes: u64,
}

impl Header {
    fn encode(&self, salt: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.put_u32(BATCH_MAGIC);
        out.put_u32(if self.reset.is_some() { FLAG_RESET } else { 0 });
        out.put_u64(self.link.sequence);
        out.put_u64(self.synced_through);
        out.put_u64(self.link.chain);
        out.put_u64(self.first_index.0);
        out.put_u64(self.reset.map_or(0, |position| position.term.0));
        out.put_u64(self.last_term.0);
        out.put_u32(self.count);
        out.put_u32(u32::try_from(self.payload_bytes).expect("a batch fits in a segment"));
        let crc = header_checksum(salt, &out);
        out.put_u32(crc);
        out
    }

    /// Reads a header; every length in it is within `room_bytes` and itself consistent.
    fn decode(salt: u32, bytes: &[u8], room_bytes: u64) -> Result<Self, DecodeError> {
        let fields = bytes.get(..HEADER_CRC_OFFSET).ok_or(DecodeError::Truncated)?;
        if Reader::new(&bytes[HEADER_CRC_OFFSET..]).u32()? != header_checksum(salt, fields) {
            return Err(DecodeError::Invalid("batch header checksum"));
        }
        let mut reader = Reader::new(fields);
        if reader.u32()? != BATCH_MAGIC {
            return Err(DecodeError::Invalid("batch magic"));
        }
        let flags = reader.u32()?;
        let sequence = reader.u64()?;
        let synced_through = reader.u64()?;
        let link = Link { sequence, chain: reader.u64()? };
        let first_index = LogIndex(reader.u64()?);
        let reset_term = Term(reader.u64()?);
        let last_term = Term(reader.u64()?);
        let count = reader.u32()?;
        let payload_bytes = u64::from(reader.u32()?);
        let reset = (flags == FLAG_RESET)
            .then_some(LogPosition { term: reset_term, index: first_index.prev() });
        if flags & !FLAG_RESET != 0 || first_index == LogIndex::ZERO || synced_through >= sequence {
            return Err(DecodeError::Invalid("batch header"));
        }
        if first_index.0.checked_add(u64::from(count)).is_none()
            || payload_bytes < u64::from(count) * ENTRY_HEADER_BYTES
            || sector::bytes_on_disk(HEADER_BYTES + payload_bytes) > room_bytes
        {
            return Err(DecodeError::Invalid("batch length"));
        }
        Ok(Self { link, synced_through, reset, first_index, last_term, count, payload_bytes })
    }
}

/// The entries in a batch's content, as slices of it.
fn decode_entries(salt: u32, header: &Header, content: &Bytes) -> Result<Vec<Entry>, DecodeError> {
    let mut reader = Reader::new(content);
    reader.take(HEADER_BYTES as usize)?;
    let mut entries = Vec::with_capacity(header.count as usize);
    for i in 0..u64::from(header.count) {
        let len = reader.u32()? as usize;
        let crc = reader.u32()?;
        let term = Term(reader.u64()?);
        let kind = EntryKind::from_byte(reader.u8()?).ok_or(DecodeError::Invalid("entry kind"))?;
        let data = content.slice_ref(reader.take(len)?);
        let entry = Entry { term, index: header.first_index.plus(i), kind, data };
        if crc != entry_checksum(salt, &entry) {
            return Err(DecodeError::Invalid("entry checksum"));
        }
        entries.push(entry);
    }
    reader.finish()?;
    if entries.last().map_or(Term::ZERO, |entry| entry.term) != header.last_term {
        return Err(DecodeError::Invalid("last term"));
    }
    Ok(entries)
}

/// The checksum of a header's fields.
fn header_checksum(salt: u32, fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(fields);
    hasher.finalize()
}

/// What stands before the data of an entry.
fn entry_header(salt: u32, entry: &Entry) -> [u8; ENTRY_HEADER_BYTES as usize] {
    let mut header = [0; ENTRY_HEADER_BYTES as usize];
    header[..4].copy_from_slice(&(entry.data.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&entry_checksum(salt, entry).to_le_bytes());
    header[8..16].copy_from_slice(&entry.term.0.to_le_bytes());
    header[16] = entry.kind as u8;
    header
}

/// The checksum of an entry: of the segment (cluster, node, generation, number, by its salt), term,
/// index, kind and payload; so that no entry passes for another, or in another place.
fn entry_checksum(salt: u32, entry: &Entry) -> u32 {
    let mut name = [0; 17];
    name[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    name[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    name[16] = entry.kind as u8;
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&name);
    hasher.update(&entry.data);
    hasher.finalize()
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
