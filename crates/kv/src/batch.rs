//! One log entry for the state machine: the leader's wall time and any number of commands.
//!
//! ```text
//! version u8 = 1 | unix_ms u64 | { length u32 | encoded command }*
//! ```
//!
//! The time is the only clock there is (rule R12): expiry and session idleness are judged by
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
        Self::with_capacity(now, Self::HEADER_BYTES)
    }

    /// The same, with room for a batch of so many bytes.
    pub fn with_capacity(now: WallTime, bytes: usize) -> Self {
        let mut builder = Self { bytes: Vec::with_capacity(bytes), count: 0 };
        builder.bytes.put_u8(VERSION);
        builder.bytes.put_u64(now.unix_ms);
        builder
    }

    /// Adds one command as [`parse`](crate::parse) encoded it.
    pub fn push(&mut self, encoded: &[u8]) {
        self.bytes.put_bytes(encoded);
        self.count += 1;
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

    /// The payload of the log entry. An entry stays in memory until a snapshot covers it, so its
    /// payload has exactly the memory it needs.
    pub fn finish(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.bytes.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory behind a payload, whose only owner is given.
    fn held_bytes(payload: Bytes) -> usize {
        Vec::from(payload).capacity()
    }

    #[test]
    fn a_payload_holds_no_more_memory_than_it_has_bytes() {
        let long = vec![7; 100_000];
        for commands in [&[&long[..1_000]; 100][..], &[b"short"], &[], &[&long, &long[..9]]] {
            let room = commands.iter().map(|c| BatchBuilder::COMMAND_OVERHEAD_BYTES + c.len());
            let room = BatchBuilder::HEADER_BYTES + room.sum::<usize>();
            for reserved in [0, room, 2 * room] {
                let mut builder = BatchBuilder::with_capacity(WallTime::from_unix_ms(5), reserved);
                for command in commands {
                    builder.push(command);
                }
                assert_eq!((builder.len(), builder.bytes()), (commands.len(), room));
                let payload = builder.finish();
                let mut reader = BatchReader::new(&payload).unwrap();
                assert_eq!(reader.time(), WallTime::from_unix_ms(5));
                for command in commands {
                    assert_eq!(reader.next_command(), Ok(Some(*command)));
                }
                assert_eq!(reader.next_command(), Ok(None));
                assert_eq!(held_bytes(payload), room);
            }
        }
    }
}
