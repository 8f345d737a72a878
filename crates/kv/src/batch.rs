//! One log entry for the state machine: the leader's wall time and any number of commands.
//!
//! ```text
//! version u8 = 1 | unix_ms u64 | { length u32 | encoded command }*
//! ```
//!
//! The time is the only clock there is (design rule 12): expiry and session idleness are judged by
//! it. A batch without commands is a *tick*: it only moves the time.

use bytes::Bytes;
use sampan_base::WallTime;
use sampan_base::codec::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// Gathers encoded commands into the bytes of one log entry.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: usize,
}

impl BatchBuilder {
    /// Bytes of a batch without commands.
    pub const HEADER_BYTES: usize = 1 + 8;
    /// Bytes a command takes in a batch beside its encoding.
    pub const COMMAND_OVERHEAD_BYTES: usize = 4;

    /// An empty batch, stamped with the leader's clock.
    pub fn new(now: WallTime) -> Self {
        Self::with_capacity(now, 0)
    }

    /// The same with room for `bytes` of commands.
    pub fn with_capacity(now: WallTime, bytes: usize) -> Self {
        let mut builder = Self { bytes: Vec::with_capacity(Self::HEADER_BYTES + bytes), count: 0 };
        builder.bytes.put_u8(VERSION);
        builder.bytes.put_u64(now.unix_ms);
        builder
    }

    /// Adds one command as [`parse`](crate::parse) encoded it.
    pub fn push(&mut self, encoded: &[u8]) {
        self.bytes.put_bytes(encoded);
        self.count += 1;
    }

    /// Stamps the batch anew: a host that gathers for a while may stamp at the end.
    pub fn stamp(&mut self, now: WallTime) {
        self.bytes[1..Self::HEADER_BYTES].copy_from_slice(&now.unix_ms.to_le_bytes());
    }

    /// How many commands it holds.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Does it hold no command?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its size so far, header included.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The payload of the log entry.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

/// Reads a batch back.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    time: WallTime,
    rest: Reader<'a>,
}

impl<'a> BatchReader<'a> {
    /// Checks the header. Malformed commands surface in [`BatchReader::next_command`].
    pub fn new(batch: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = Reader::new(batch);
        if rest.u8()? != VERSION {
            return Err(DecodeError::Invalid("batch version"));
        }
        let time = WallTime::from_unix_ms(rest.u64()?);
        Ok(Self { time, rest })
    }

    /// The leader's wall time when the entry was made.
    pub const fn time(&self) -> WallTime {
        self.time
    }

    /// The next encoded command, `None` after the last.
    pub fn next_command(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.rest.bytes(usize::MAX).map(Some)
    }
}
