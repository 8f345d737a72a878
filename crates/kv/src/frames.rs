//! The bytes of a snapshot as frames, whatever is to become of them: the state again
//! (`restore.rs`), or only a check (`examine.rs`).

use sampan_base::codec::{DecodeError, Reader};

use crate::digest::Digest;
use crate::kv::TIME_MS_MAX;
use crate::snapshot::{HEADER_BYTES, MAGIC, TAG_END, TAG_PAD, TAG_RECORD, TAG_SESSION, VERSION};

/// No frame is longer: a record holds a key and a value, a session a window of replies.
const FRAME_BYTES_MAX: usize = 3 * crate::record::PART_BYTES_MAX;

/// What a snapshot begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) time_ms: u64,
    pub(crate) next_id: u64,
    pub(crate) next_use: u64,
    pub(crate) keys: u64,
    pub(crate) sessions: u64,
    pub(crate) hash_seed: u64,
}

impl Header {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Invalid("snapshot magic"));
        }
        if reader.u16()? != VERSION {
            return Err(DecodeError::Invalid("snapshot version"));
        }
        let header = Self {
            time_ms: reader.u64()?,
            next_id: reader.u64()?,
            next_use: reader.u64()?,
            keys: reader.u64()?,
            sessions: reader.u64()?,
            hash_seed: reader.u64()?,
        };
        if header.time_ms > TIME_MS_MAX {
            return Err(DecodeError::Invalid("snapshot time"));
        }
        Ok(header)
    }
}

/// Whoever the frames are for.
pub(crate) trait Content {
    /// First of all.
    fn header(&mut self, header: &Header);
    /// The content of a record.
    fn record(&mut self, content: &[u8]) -> Result<(), DecodeError>;
    /// An encoded session.
    fn session(&mut self, encoded: &[u8]) -> Result<(), DecodeError>;
}

/// Frames from slices that may be cut anywhere.
#[derive(Default)]
pub(crate) struct Frames {
    header: Option<Header>,
    end: Option<Digest>,
    /// Bytes of a frame that is not complete yet.
    pending: Vec<u8>,
}

impl Frames {
    /// Takes in the next bytes. After an error nothing more is to be fed.
    pub(crate) fn feed(
        &mut self,
        slice: &[u8],
        content: &mut impl Content,
    ) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            let used = self.consume(slice, content)?;
            self.pending.extend_from_slice(&slice[used..]);
        } else {
            let mut bytes = std::mem::take(&mut self.pending);
            bytes.extend_from_slice(slice);
            let used = self.consume(&bytes, content)?;
            bytes.drain(..used);
            self.pending = bytes;
        }
        Ok(())
    }

    /// The header, if it was there.
    pub(crate) const fn header(&self) -> Option<Header> {
        self.header
    }

    /// For a part that begins with a frame, of a snapshot with this header.
    pub(crate) fn after(header: Header) -> Self {
        Self { header: Some(header), ..Self::default() }
    }

    /// The part that follows was read elsewhere.
    pub(crate) fn join(&mut self, next: Self) -> Result<(), DecodeError> {
        if self.end.is_some() || !self.pending.is_empty() {
            return Err(DecodeError::Invalid("snapshot part"));
        }
        (self.end, self.pending) = (next.end, next.pending);
        Ok(())
    }

    /// The header, and the digest that the snapshot ends with; an error if it was cut short.
    pub(crate) fn finish(&self) -> Result<(Header, Digest), DecodeError> {
        self.header.zip(self.end).ok_or(DecodeError::Truncated)
    }

    /// Reads whole frames. Returns how many bytes they took.
    fn consume(&mut self, bytes: &[u8], content: &mut impl Content) -> Result<usize, DecodeError> {
        let mut reader = Reader::new(bytes);
        if self.header.is_none() {
            if bytes.len() < HEADER_BYTES {
                return Ok(0);
            }
            let header = Header::decode(reader.take(HEADER_BYTES)?)?;
            content.header(&header);
            self.header = Some(header);
        }
        loop {
            let used = bytes.len() - reader.remaining().len();
            if !self.read_frame(&mut reader, content)? {
                return Ok(used);
            }
        }
    }

    /// Reads one frame. Returns whether it was there as a whole.
    fn read_frame(
        &mut self,
        reader: &mut Reader<'_>,
        content: &mut impl Content,
    ) -> Result<bool, DecodeError> {
        let Ok(tag) = reader.u8() else { return Ok(false) };
        if self.end.is_some() {
            return Err(DecodeError::Invalid("bytes after the end of a snapshot"));
        }
        match tag {
            TAG_PAD => {}
            TAG_RECORD => match body(reader)? {
                Some(record) => content.record(record)?,
                None => return Ok(false),
            },
            TAG_SESSION => match body(reader)? {
                Some(session) => content.session(session)?,
                None => return Ok(false),
            },
            TAG_END => {
                let Ok(digest) = reader.take(16) else { return Ok(false) };
                let digest = digest.try_into().expect("sixteen bytes");
                self.end = Some(Digest::from_bytes(digest));
            }
            _ => return Err(DecodeError::Invalid("snapshot frame")),
        }
        Ok(true)
    }
}

/// The body of a frame, if all of it is there.
fn body<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    match reader.bytes(FRAME_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(DecodeError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}
