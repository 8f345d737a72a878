//! From the bytes of a snapshot back to the state.

use sampan_base::codec::DecodeError;
use sampan_base::planted;

use crate::Limits;
use crate::frames::{Content, Frames, Header};
use crate::kv::Kv;
use crate::record::Record;

/// A header may claim any number of keys. Room is made for so many times the keys that are there
/// already, as a table that fills up would, only in longer steps.
const ROOM_FACTOR: usize = 16;

/// Room is made for this many keys, if they are claimed, before the first is there.
const ROOM_KEYS_MIN: usize = 1 << 16;

/// Builds a state from a snapshot that is fed slice by slice. The slices may be cut anywhere, not
/// only where [`Kv::snapshot_next`] cut them.
pub struct Restore {
    frames: Frames,
    building: Building,
}

/// The state as far as it is there.
struct Building {
    kv: Kv,
    /// Keys that the header claims.
    keys: u64,
    /// Keys that room was made for.
    room: usize,
}

impl Restore {
    /// A restore into an empty state. The limits and the seed are those of [`Kv::new`].
    pub fn new(limits: Limits, hash_seed: u64) -> Self {
        let building = Building { kv: Kv::new(limits, hash_seed), keys: 0, room: 0 };
        Self { frames: Frames::default(), building }
    }

    /// Takes in the next bytes. After an error the restore is of no use.
    pub fn feed(&mut self, slice: &[u8]) -> Result<(), DecodeError> {
        self.frames.feed(slice, &mut self.building)
    }

    /// The state, if the snapshot was complete and the state has the digest it names.
    pub fn finish(self) -> Result<Kv, DecodeError> {
        let (header, digest) = self.frames.finish()?;
        let kv = self.building.kv;
        let counts = (kv.keys.len() as u64, kv.sessions.len() as u64);
        if counts != (header.keys, header.sessions) {
            return Err(DecodeError::Invalid("snapshot counts"));
        }
        if kv.digest() != digest {
            return Err(DecodeError::Invalid("snapshot digest"));
        }
        Ok(kv)
    }
}

impl Building {
    fn make_room(&mut self) {
        let keys = &mut self.kv.keys;
        if keys.len() == self.room {
            let room = keys.len().saturating_mul(ROOM_FACTOR).max(ROOM_KEYS_MIN) as u64;
            self.room = room.min(self.keys) as usize;
            keys.reserve(self.room);
        }
    }
}

impl Content for Building {
    fn header(&mut self, header: &Header) {
        self.kv.time_ms = header.time_ms;
        self.kv.sessions.restore_counters(header.next_id, header.next_use);
        self.keys = header.keys;
    }

    fn record(&mut self, content: &[u8]) -> Result<(), DecodeError> {
        let record = Record::from_content(self.kv.keys.generation(), content)?;
        self.make_room();
        let is_new = self.kv.keys.restore(record);
        is_new.then_some(()).ok_or(DecodeError::Invalid("snapshot key, it is there twice"))
    }

    fn session(&mut self, encoded: &[u8]) -> Result<(), DecodeError> {
        if planted!(SessionsNotRestored) {
            return Ok(());
        }
        self.kv.sessions.restore(encoded)
    }
}
