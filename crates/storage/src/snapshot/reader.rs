//! Reads snapshot files: never trusts a byte of them, never changes one.

use std::sync::Arc;

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskError, FileName};
use sampan_base::{LogIndex, SnapshotId, SnapshotMeta};

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, FIRST_CHUNK_OFFSET, FOOTER_MAGIC, Footer, Subject,
    TRAILER_BYTES, decode_trailer,
};
use super::{ChunkPlace, ChunkScan, SnapshotError};
use crate::page::{self, PAGE_BYTES, PageFault};
use crate::{Identity, PartialSnapshot};

/// A complete snapshot file: header and footer read and found to agree. The chunks are checked as
/// they are read.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotReader {
    file: FileName,
    meta: SnapshotMeta,
    maker: Identity,
    footer: Footer,
    /// Where each chunk begins.
    offsets: Vec<u64>,
}

impl SnapshotReader {
    /// Reads header and footer.
    pub fn open(disk: &mut dyn Disk, file: &str) -> Result<Self, SnapshotError> {
        let size_bytes = disk
            .len_bytes(file)?
            .ok_or_else(|| SnapshotError::Disk(DiskError::NotFound(Arc::from(file))))?;
        let subject = read_header(disk, file)?;
        let trailer_offset = size_bytes.saturating_sub(TRAILER_BYTES);
        let trailer = read(disk, file, trailer_offset, TRAILER_BYTES)?;
        let footer_bytes = decode_trailer(&trailer)
            .ok()
            .filter(|&bytes| bytes <= size_bytes)
            .ok_or_else(|| damaged(file, trailer_offset, "it does not end as it should"))?;
        let footer_offset = size_bytes - footer_bytes;
        let footer = read(disk, file, footer_offset, footer_bytes)?;
        let footer = Footer::decode(&footer)
            .map_err(|_| damaged(file, footer_offset, "the footer is not what was written"))?;
        if footer.subject != subject {
            return Err(damaged(file, 0, "header and footer disagree"));
        }
        if footer.offset() != footer_offset {
            return Err(damaged(file, footer_offset, "chunks are missing or too many"));
        }
        let mut offset = FIRST_CHUNK_OFFSET;
        let mut offsets = Vec::with_capacity(footer.chunks.len());
        for chunk in &footer.chunks {
            offsets.push(offset);
            offset += CHUNK_HEADER_BYTES + u64::from(chunk.len_bytes);
        }
        let maker = subject.maker;
        Ok(Self { file: file.into(), meta: subject.meta(size_bytes), maker, footer, offsets })
    }

    /// What the snapshot covers.
    pub const fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The cluster it is of, and the node that made it.
    pub const fn maker(&self) -> Identity {
        self.maker
    }

    /// The digest that the maker's host gave.
    pub fn digest(&self) -> &[u8] {
        &self.footer.digest
    }

    /// How many chunks there are.
    pub fn chunk_count(&self) -> usize {
        self.offsets.len()
    }

    /// The payload of a chunk, checked. Panics if `number` is not below the count.
    pub fn chunk(&self, disk: &mut dyn Disk, number: usize) -> Result<Bytes, SnapshotError> {
        let (offset, info) = (self.offsets[number], self.footer.chunks[number]);
        let id = self.meta.id;
        load(disk, &self.file, id, ChunkPlace { id, number: number as u32, offset, info })
    }

    /// Checks every chunk.
    pub fn check(&self, disk: &mut dyn Disk) -> Result<(), SnapshotError> {
        (0..self.chunk_count()).try_for_each(|number| self.chunk(disk, number).map(drop))
    }

    /// Are these all chunks of the file, as the footer lists them?
    pub fn lists(&self, places: &[ChunkPlace]) -> bool {
        self.footer.chunks.iter().eq(places.iter().map(|place| &place.info))
    }
}

/// The payload of a chunk of snapshot `id`, checked to be the one that is announced there.
pub fn load(
    disk: &mut dyn Disk,
    file: &str,
    id: SnapshotId,
    place: ChunkPlace,
) -> Result<Bytes, SnapshotError> {
    let ChunkPlace { number, offset, info, .. } = place;
    // With one read: from a disk far away the second one would take as long.
    let chunk = read(disk, file, offset, CHUNK_HEADER_BYTES + u64::from(info.len_bytes))?;
    let (header, payload) = chunk.split_at(CHUNK_HEADER_BYTES as usize);
    let header = chunk_header(file, offset, header)?;
    check_chunk(file, offset, &header, payload)?;
    let found = ChunkInfo { len_bytes: header.len_bytes, crc: header.crc };
    if (header.id, header.number, found) != (id, number, info) {
        return Err(damaged(file, offset, "another chunk is here"));
    }
    Ok(chunk.slice(CHUNK_HEADER_BYTES as usize..))
}

/// Reads a whole file back and checks every byte of it. What it says it covers, if all is well.
pub fn verify(disk: &mut dyn Disk, file: &str) -> Result<SnapshotMeta, SnapshotError> {
    let reader = SnapshotReader::open(disk, file)?;
    reader.check(disk)?;
    Ok(reader.meta)
}

/// The payload of the chunk that begins at `offset`, checked, and where the next one begins;
/// `None` where the footer begins. The first chunk is at [`FIRST_CHUNK_OFFSET`]. For reading a
/// verified file front to back without holding its list of chunks.
pub fn read_chunk(
    disk: &mut dyn Disk,
    file: &str,
    offset: u64,
) -> Result<Option<(Bytes, u64)>, SnapshotError> {
    let magic = read(disk, file, offset, 4)?;
    if magic.as_ref() == FOOTER_MAGIC.to_le_bytes() {
        return Ok(None);
    }
    let (_, payload) = read_sound_chunk(disk, file, offset)?;
    let next = offset + CHUNK_HEADER_BYTES + payload.len() as u64;
    Ok(Some((payload, next)))
}

/// How much of a snapshot that was arriving is here, in whole chunks; `None` if not even its header
/// is, or if it covers nothing beyond this index.
pub(crate) fn scan_partial(
    disk: &mut dyn Disk,
    file: &str,
    beyond: LogIndex,
) -> Result<Option<PartialSnapshot>, SnapshotError> {
    let subject = match read_header(disk, file) {
        Ok(subject) => subject,
        Err(SnapshotError::Disk(error)) => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    if subject.position.index <= beyond {
        return Ok(None);
    }
    let mut chunks = ChunkScan::default();
    while let Ok((header, _)) = read_sound_chunk(disk, file, chunks.next_header()) {
        if (header.id, header.number as usize) != (subject.id, chunks.places().len()) {
            break;
        }
        chunks.push(&header);
    }
    let (next_offset, Subject { id, position, .. }) = (chunks.next_header(), subject);
    Ok(Some(PartialSnapshot { id, position, next_offset, chunks, file: file.into() }))
}

fn read_header(disk: &mut dyn Disk, file: &str) -> Result<Subject, SnapshotError> {
    let page = read(disk, file, 0, PAGE_BYTES)?;
    Subject::decode_header(&page).map_err(|fault| match fault {
        PageFault::Damaged(why) => damaged(file, 0, why),
        PageFault::Version(version) => {
            SnapshotError::UnsupportedVersion { file: file.into(), version }
        }
    })
}

/// A chunk that is itself sound: whether it is the one that belongs here is the caller's question.
fn read_sound_chunk(
    disk: &mut dyn Disk,
    file: &str,
    offset: u64,
) -> Result<(ChunkHeader, Bytes), SnapshotError> {
    let header = chunk_header(file, offset, &read(disk, file, offset, CHUNK_HEADER_BYTES)?)?;
    let payload = read(disk, file, offset + CHUNK_HEADER_BYTES, u64::from(header.len_bytes))?;
    check_chunk(file, offset, &header, &payload)?;
    Ok((header, payload))
}

fn chunk_header(file: &str, offset: u64, bytes: &[u8]) -> Result<ChunkHeader, SnapshotError> {
    ChunkHeader::decode(bytes).map_err(|_| damaged(file, offset, "no chunk begins here"))
}

fn check_chunk(
    file: &str,
    offset: u64,
    header: &ChunkHeader,
    payload: &[u8],
) -> Result<(), SnapshotError> {
    let is_sound = header.matches(payload);
    is_sound.then_some(()).ok_or_else(|| damaged(file, offset, "the chunk is not what was written"))
}

/// Reads exactly this many bytes. What the disk cannot read is damaged, not gone (rule S9).
fn read(
    disk: &mut dyn Disk,
    file: &str,
    offset: u64,
    len_bytes: u64,
) -> Result<Bytes, SnapshotError> {
    match page::read(disk, file, offset, len_bytes) {
        Ok(bytes) if bytes.len() as u64 == len_bytes => Ok(bytes),
        Ok(_) => Err(damaged(file, offset, "the file ends too early")),
        Err(DiskError::Io(..)) => Err(damaged(file, offset, "the disk cannot read it")),
        Err(error) => Err(error.into()),
    }
}

fn damaged(file: &str, offset: u64, why: &'static str) -> SnapshotError {
    SnapshotError::Damaged { file: file.into(), offset, why }
}
