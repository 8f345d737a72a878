//! Reads a snapshot file that comes as a stream of bytes, front to back and once: a backup on its
//! way. Checks everything that [`super::verify`] checks, and holds one chunk and the list of
//! chunks.

use bytes::Bytes;
use sampan_base::SnapshotMeta;
use sampan_base::disk::FileName;

use super::SnapshotError;
use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, ChunkInfo, DIGEST_BYTES_MAX, FOOTER_HEAD_BYTES, FOOTER_MAGIC,
    Footer, Subject, TRAILER_BYTES,
};
use crate::Identity;
use crate::page::{PAGE_BYTES, PageFault};

/// What a snapshot file says of itself at its beginning, or, with its size, at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// What it covers. The size is that of the bytes seen so far.
    pub meta: SnapshotMeta,
    /// The cluster it is of, and the node that made it.
    pub maker: Identity,
}

/// A part of a snapshot file, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotPart {
    /// The first one.
    Header(SnapshotHeader),
    /// The payload of a chunk.
    Chunk(Bytes),
}

/// What a whole snapshot file was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotEnd {
    /// What it covers, and the size of the file.
    pub header: SnapshotHeader,
    /// The digest that the maker's host gave.
    pub digest: Vec<u8>,
    /// How many chunks there are.
    pub chunks: usize,
}

/// A snapshot file as it comes. [`SnapshotStream::feed`] bytes, take [`SnapshotStream::next_part`]
/// until there is none, and at the end of the bytes [`SnapshotStream::finish`]: **nothing that came
/// before is to be relied on until that says yes.**
#[derive(Debug)]
pub struct SnapshotStream {
    /// For errors.
    file: FileName,
    subject: Option<Subject>,
    chunks: Vec<ChunkInfo>,
    /// What is fed and not taken, from `taken` on.
    buffer: Vec<u8>,
    taken: usize,
    /// Where in the file the next part begins.
    offset: u64,
}

impl SnapshotStream {
    /// Nothing was fed yet. Errors call the file by this name.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.into(),
            subject: None,
            chunks: Vec::new(),
            buffer: Vec::new(),
            taken: 0,
            offset: 0,
        }
    }

    /// The next bytes. Parts of the file should be taken before more is fed, so that little is
    /// held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next part of which all is here; `None` if more bytes are needed, or the footer began.
    pub fn next_part(&mut self) -> Result<Option<SnapshotPart>, SnapshotError> {
        let Some(subject) = &self.subject else { return self.next_header() };
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        if rest.starts_with(&FOOTER_MAGIC.to_le_bytes()) {
            return self.check_footer_room().map(|()| None);
        }
        let Some((head, rest)) = rest.split_at_checked(CHUNK_HEADER_BYTES as usize) else {
            return Ok(None);
        };
        let header = ChunkHeader::decode(head).map_err(|_| self.damaged("no chunk begins here"))?;
        let Some(payload) = rest.get(..header.len_bytes as usize) else { return Ok(None) };
        if !header.matches(payload) {
            return Err(self.damaged("the chunk is not what was written"));
        }
        if header.id != subject.id || header.number as usize != self.chunks.len() {
            return Err(self.damaged("another chunk is here"));
        }
        let payload = Bytes::copy_from_slice(payload);
        self.chunks.push(ChunkInfo { len_bytes: header.len_bytes, crc: header.crc });
        self.take(CHUNK_HEADER_BYTES as usize + payload.len());
        Ok(Some(SnapshotPart::Chunk(payload)))
    }

    /// All bytes were fed: is that a whole snapshot file, as it was written?
    pub fn finish(mut self) -> Result<SnapshotEnd, SnapshotError> {
        let Some(subject) = self.subject.take() else {
            return Err(self.damaged("the file ends in its header"));
        };
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        if !rest.starts_with(&FOOTER_MAGIC.to_le_bytes()) {
            return Err(self.damaged("the file ends too early"));
        }
        let footer =
            Footer::decode(rest).map_err(|_| self.damaged("the footer is not what was written"))?;
        if footer.subject != subject {
            return Err(self.damaged("header and footer disagree"));
        }
        if footer.chunks != self.chunks {
            return Err(self.damaged("chunks are missing or too many"));
        }
        let size_bytes = self.offset + rest.len() as u64;
        let (digest, chunks) = (footer.digest, footer.chunks.len());
        Ok(SnapshotEnd { header: header_of(subject, size_bytes), digest, chunks })
    }

    /// Bytes in parts that were taken.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    fn next_header(&mut self) -> Result<Option<SnapshotPart>, SnapshotError> {
        let Some(page) = self.buffer.get(self.taken..).and_then(|b| b.get(..PAGE_BYTES as usize))
        else {
            return Ok(None);
        };
        let subject = Subject::decode_header(page).map_err(|fault| match fault {
            PageFault::Damaged(why) => self.damaged(why),
            PageFault::Version(version) => {
                SnapshotError::UnsupportedVersion { file: self.file.clone(), version }
            }
        })?;
        self.subject = Some(subject.clone());
        self.take(PAGE_BYTES as usize);
        Ok(Some(SnapshotPart::Header(header_of(subject, self.offset))))
    }

    /// The footer is held until the end of the file: it must not be longer than it can be.
    fn check_footer_room(&self) -> Result<(), SnapshotError> {
        let fixed = FOOTER_HEAD_BYTES + PAGE_BYTES + DIGEST_BYTES_MAX as u64 + TRAILER_BYTES;
        let most = fixed as usize + 8 * (self.chunks.len() + 1);
        if self.buffer.len() - self.taken > most {
            return Err(self.damaged("the file does not end after its footer"));
        }
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        self.offset += count as u64;
    }

    fn damaged(&self, why: &'static str) -> SnapshotError {
        SnapshotError::Damaged { file: self.file.clone(), offset: self.offset, why }
    }
}

fn header_of(subject: Subject, size_bytes: u64) -> SnapshotHeader {
    let maker = subject.maker;
    SnapshotHeader { meta: subject.meta(size_bytes), maker }
}
