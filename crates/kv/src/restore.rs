//! From the bytes of a snapshot back to the state.

use sampan_base::codec::{DecodeError, Reader};

use crate::Limits;
use crate::digest::Digest;
use crate::kv::{Kv, TIME_MS_MAX};
use crate::record::Record;
use crate::snapshot::{HEADER_BYTES, MAGIC, TAG_END, TAG_PAD, TAG_RECORD, TAG_SESSION, VERSION};

/// A header may claim any number of keys. Room is made for so many times the keys that are there
/// already, as a table that fills up would, only in longer steps.
const ROOM_FACTOR: usize = 16;

/// Room is made for this many keys, if they are claimed, before the first is there.
const ROOM_KEYS_MIN: usize = 1 << 16;

/// Builds a state from a snapshot that is fed slice by slice. The slices may be cut anywhere, not
/// only where [`Kv::snapshot_next`] cut them.
pub struct Restore {
    kv: Kv,
    header: Option<Header>,
    end: Option<Digest>,
    /// Bytes of a frame that is not complete yet.
    pending: Vec<u8>,
}

struct Header {
    keys: u64,
    sessions: u64,
    /// Keys that room was made for.
    room: usize,
}

impl Restore {
    /// A restore into an empty state. The limits and the seed are those of [`Kv::new`].
    pub fn new(limits: Limits, hash_seed: u64) -> Self {
        Self { kv: Kv::new(limits, hash_seed), header: None, end: None, pending: Vec::new() }
    }

    /// Takes in the next bytes. After an error the restore is of no use.
    pub fn feed(&mut self, slice: &[u8]) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            let used = self.consume(slice)?;
            self.pending.extend_from_slice(&slice[used..]);
        } else {
            let mut bytes = std::mem::take(&mut self.pending);
            bytes.extend_from_slice(slice);
            let used = self.consume(&bytes)?;
            bytes.drain(..used);
            self.pending = bytes;
        }
        Ok(())
    }

    /// The state, if the snapshot was complete and the state has the digest it names.
    pub fn finish(self) -> Result<Kv, DecodeError> {
        let (Some(header), Some(digest)) = (self.header, self.end) else {
            return Err(DecodeError::Truncated);
        };
        let counts = (self.kv.keys.len() as u64, self.kv.sessions.len() as u64);
        if counts != (header.keys, header.sessions) {
            return Err(DecodeError::Invalid("snapshot counts"));
        }
        if self.kv.digest() != digest {
            return Err(DecodeError::Invalid("snapshot digest"));
        }
        Ok(self.kv)
    }

    /// Reads whole frames. Returns how many bytes they took.
    fn consume(&mut self, bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut reader = Reader::new(bytes);
        if self.header.is_none() {
            if bytes.len() < HEADER_BYTES {
                return Ok(0);
            }
            self.header = Some(self.read_header(&mut reader)?);
        }
        loop {
            let used = bytes.len() - reader.remaining().len();
            match self.read_frame(&mut reader) {
                Ok(true) => {}
                Ok(false) => return Ok(used),
                Err(error) => return Err(error),
            }
        }
    }

    fn read_header(&mut self, reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Invalid("snapshot magic"));
        }
        if reader.u16()? != VERSION {
            return Err(DecodeError::Invalid("snapshot version"));
        }
        self.kv.time_ms = reader.u64()?;
        if self.kv.time_ms > TIME_MS_MAX {
            return Err(DecodeError::Invalid("snapshot time"));
        }
        let (next_id, next_use) = (reader.u64()?, reader.u64()?);
        self.kv.sessions.restore_counters(next_id, next_use);
        Ok(Header { keys: reader.u64()?, sessions: reader.u64()?, room: 0 })
    }

    fn make_room(&mut self) {
        let (keys, header) = (&mut self.kv.keys, self.header.as_mut().expect("it was read first"));
        if keys.len() == header.room {
            let room = keys.len().saturating_mul(ROOM_FACTOR).max(ROOM_KEYS_MIN) as u64;
            header.room = room.min(header.keys) as usize;
            keys.reserve(header.room);
        }
    }

    /// Reads one frame. Returns whether it was there as a whole.
    fn read_frame(&mut self, reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
        let Ok(tag) = reader.u8() else { return Ok(false) };
        if self.end.is_some() {
            return Err(DecodeError::Invalid("bytes after the end of a snapshot"));
        }
        match tag {
            TAG_PAD => {}
            TAG_RECORD => {
                let Some(content) = body(reader)? else { return Ok(false) };
                let record = Record::from_content(self.kv.keys.generation(), content)?;
                self.make_room();
                if !self.kv.keys.restore(record) {
                    return Err(DecodeError::Invalid("snapshot key, it is there twice"));
                }
            }
            TAG_SESSION => {
                let Some(encoded) = body(reader)? else { return Ok(false) };
                self.kv.sessions.restore(encoded)?;
            }
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

/// No frame is longer: a record holds a key and a value, a session a window of replies.
const FRAME_BYTES_MAX: usize = 3 * crate::record::PART_BYTES_MAX;
