//! The bytes of a snapshot file's parts.

use sampan_base::codec::{Crc32, DecodeError, Reader, Writer, crc32};
use sampan_base::{Configuration, LogIndex, LogPosition, SnapshotId, SnapshotMeta, Term};

use crate::Identity;
use crate::page::{self, Magic, PAGE_BYTES, PageFault};

/// What a snapshot file begins with.
pub(crate) const SNAPSHOT_MAGIC: Magic = *b"SAMPSNAP";
/// What a chunk begins with.
pub(crate) const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"CHNK");
/// What the footer begins with.
pub(crate) const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"FOOT");
/// What the file ends with.
pub(crate) const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"DONE");

/// Where the first chunk begins: after the header's page.
pub const FIRST_CHUNK_OFFSET: u64 = PAGE_BYTES;
/// Bytes before a chunk's payload: magic, checksum, snapshot id, number, length.
pub(crate) const CHUNK_HEADER_BYTES: u64 = 4 + 4 + 8 + 4 + 4;
/// The longest payload of a chunk.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;
/// The longest digest a host may give.
pub const DIGEST_BYTES_MAX: usize = 64;
/// The end of the file: length of the footer, magic.
pub(crate) const TRAILER_BYTES: u64 = 8;
/// Bytes of the footer's own magic and checksum.
pub(super) const FOOTER_HEAD_BYTES: u64 = 8;

/// What header and footer both say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subject {
    /// Who made it. The cluster must be the reader's; the node may be another.
    pub(super) maker: Identity,
    pub(super) id: SnapshotId,
    pub(super) position: LogPosition,
    pub(super) configuration: Configuration,
}

impl Subject {
    fn encode(&self, out: &mut Vec<u8>) {
        self.maker.encode(out);
        out.put_u64(self.id.0);
        out.put_u64(self.position.term.0);
        out.put_u64(self.position.index.0);
        self.configuration.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            maker: Identity::decode(reader)?,
            id: SnapshotId(reader.u64()?),
            position: LogPosition { term: Term(reader.u64()?), index: LogIndex(reader.u64()?) },
            configuration: Configuration::decode(reader)?,
        })
    }

    /// The header's page.
    pub(super) fn encode_header(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.encode(&mut body);
        page::seal(SNAPSHOT_MAGIC, &body)
    }

    /// Reads a header's page.
    pub(super) fn decode_header(bytes: &[u8]) -> Result<Self, PageFault> {
        let mut reader = page::unseal(SNAPSHOT_MAGIC, bytes)?;
        Self::decode(&mut reader).map_err(|_| PageFault::Damaged("a field is impossible"))
    }

    pub(super) fn meta(self, size_bytes: u64) -> SnapshotMeta {
        SnapshotMeta {
            position: self.position,
            configuration: self.configuration,
            id: self.id,
            size_bytes,
        }
    }
}

/// A chunk's place in the footer's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkInfo {
    pub(super) len_bytes: u32,
    pub(super) crc: u32,
}

/// A chunk's header.
pub(super) struct ChunkHeader {
    pub(super) crc: u32,
    pub(super) id: SnapshotId,
    pub(super) number: u32,
    pub(super) len_bytes: u32,
}

impl ChunkHeader {
    /// The header of a payload.
    pub(super) fn of(id: SnapshotId, number: u32, payload: &[u8]) -> Self {
        let len_bytes = payload.len() as u32;
        let crc = chunk_checksum(id, number, payload);
        Self { crc, id, number, len_bytes }
    }

    pub(super) fn encode(&self) -> [u8; CHUNK_HEADER_BYTES as usize] {
        let mut out = [0; CHUNK_HEADER_BYTES as usize];
        out[..4].copy_from_slice(&CHUNK_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.crc.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.number.to_le_bytes());
        out[20..].copy_from_slice(&self.len_bytes.to_le_bytes());
        out
    }

    /// Reads a header, of a payload no longer than the limit.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != CHUNK_MAGIC {
            return Err(DecodeError::Invalid("chunk magic"));
        }
        let header = Self {
            crc: reader.u32()?,
            id: SnapshotId(reader.u64()?),
            number: reader.u32()?,
            len_bytes: reader.u32()?,
        };
        if header.len_bytes as usize > CHUNK_BYTES_MAX {
            return Err(DecodeError::Invalid("chunk length"));
        }
        Ok(header)
    }

    /// Is this the payload the header was made for?
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.len_bytes as usize
            && self.crc == chunk_checksum(self.id, self.number, payload)
    }
}

/// The checksum of a chunk: of the snapshot's id, the chunk's number, its length, its payload.
fn chunk_checksum(id: SnapshotId, number: u32, payload: &[u8]) -> u32 {
    let mut crc = chunk_checksum_before(id, number, payload.len() as u32);
    crc.update(payload);
    crc.finish()
}

/// The same as far as it is of what goes before the payload.
pub(super) fn chunk_checksum_before(id: SnapshotId, number: u32, len_bytes: u32) -> Crc32 {
    let mut crc = Crc32::default();
    crc.update(&id.0.to_le_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(&len_bytes.to_le_bytes());
    crc
}

/// The manifest at the end of a snapshot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    pub(super) subject: Subject,
    pub(super) digest: Vec<u8>,
    pub(super) chunks: Vec<ChunkInfo>,
}

impl Footer {
    /// The footer, its trailer included.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.subject.encode(&mut body);
        body.put_bytes(&self.digest);
        body.put_u32(self.chunks.len() as u32);
        for chunk in &self.chunks {
            body.put_u32(chunk.len_bytes);
            body.put_u32(chunk.crc);
        }
        let len_bytes = FOOTER_HEAD_BYTES + body.len() as u64 + TRAILER_BYTES;
        body.put_u32(u32::try_from(len_bytes).expect("a footer below 4 GiB"));
        body.put_u32(TRAILER_MAGIC);
        let mut out = Vec::with_capacity(len_bytes as usize);
        out.put_u32(FOOTER_MAGIC);
        out.put_u32(crc32(&[&body]));
        out.put(&body);
        out
    }

    /// Reads a footer with its trailer.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != FOOTER_MAGIC {
            return Err(DecodeError::Invalid("footer magic"));
        }
        if reader.u32()? != crc32(&[reader.remaining()]) {
            return Err(DecodeError::Invalid("footer checksum"));
        }
        let subject = Subject::decode(&mut reader)?;
        let digest = reader.bytes(DIGEST_BYTES_MAX)?.to_vec();
        let count = reader.u32()? as usize;
        if count > reader.remaining().len() / 8 {
            return Err(DecodeError::Invalid("chunk count"));
        }
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            chunks.push(ChunkInfo { len_bytes: reader.u32()?, crc: reader.u32()? });
        }
        let (len_bytes, magic) = (reader.u32()?, reader.u32()?);
        if len_bytes as usize != bytes.len() || magic != TRAILER_MAGIC {
            return Err(DecodeError::Invalid("footer trailer"));
        }
        reader.finish()?;
        Ok(Self { subject, digest, chunks })
    }

    /// Where the footer begins if the chunks are as listed.
    pub(super) fn offset(&self) -> u64 {
        let chunks = self.chunks.iter().map(|c| CHUNK_HEADER_BYTES + u64::from(c.len_bytes));
        FIRST_CHUNK_OFFSET + chunks.sum::<u64>()
    }
}

/// The length of the footer that a file's last bytes announce.
pub(super) fn decode_trailer(bytes: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(bytes);
    let len_bytes = u64::from(reader.u32()?);
    if reader.u32()? != TRAILER_MAGIC || len_bytes < FOOTER_HEAD_BYTES + TRAILER_BYTES {
        return Err(DecodeError::Invalid("trailer"));
    }
    Ok(len_bytes)
}
