//! From the bytes of a snapshot back to the state.

use sampan_base::codec::DecodeError;
use sampan_base::planted;

use crate::Limits;
use crate::frames::{Content, Frames, Header};
use crate::kv::Kv;
use crate::record::Record;

/// The frame of a record takes so many bytes at least: a tag, and twice a length.
const RECORD_BYTES_MIN: u64 = 1 + 4 + 4;

const KEY_TWICE: DecodeError = DecodeError::Invalid("snapshot key, it is there twice");

/// Builds a state from a snapshot that is fed slice by slice. The slices may be cut anywhere, not
/// only where [`Kv::snapshot_next`] cut them.
pub struct Restore {
    frames: Frames,
    building: Building,
}

/// The state as far as it is there.
struct Building {
    kv: Kv,
    /// A header may claim any number of keys: room is made for no more than this.
    keys_max: u64,
}

impl Restore {
    /// A restore into an empty state from a snapshot of no more than so many bytes. The limits are
    /// those of [`Kv::new`]; the hash seed is that of the snapshot.
    pub fn new(limits: Limits, bytes_max: u64) -> Self {
        let building = Building { kv: Kv::new(limits, 0), keys_max: bytes_max / RECORD_BYTES_MIN };
        Self { frames: Frames::default(), building }
    }

    /// Divides a restore: this many, one or more, for as many consecutive parts of the rest, so
    /// that they can be built at once and then joined; `None` if there are to be several and the
    /// header is not there yet. The first slice of each must begin with a frame, as those of
    /// [`Kv::snapshot_next`] do.
    pub fn split(self, parts: usize) -> Option<Vec<Self>> {
        if parts == 1 {
            return Some(vec![self]);
        }
        let header = self.frames.header()?;
        let (limits, keys_max) = (self.building.kv.limits, self.building.keys_max);
        let later = (1..parts).map(|_| {
            let mut building = Building { kv: Kv::new(limits, 0), keys_max };
            building.header(&header);
            Self { frames: Frames::after(header), building }
        });
        let mut all: Vec<Self> = std::iter::once(self).chain(later).collect();
        for (part, restore) in all.iter_mut().enumerate() {
            restore.building.kv.keys.keep_to(part, parts);
        }
        Some(all)
    }

    /// Takes in what was restored from the part that follows. After an error the restore is of no
    /// use.
    pub fn join(&mut self, next: Self) -> Result<(), DecodeError> {
        self.frames.join(next.frames)?;
        let (kv, other) = (&mut self.building.kv, next.building.kv);
        kv.keys.absorb(other.keys);
        kv.sessions.absorb(other.sessions)
    }

    /// Takes in the next bytes. After an error the restore is of no use.
    pub fn feed(&mut self, slice: &[u8]) -> Result<(), DecodeError> {
        self.frames.feed(slice, &mut self.building)
    }

    /// What is there so far, of no use but to be freed ([`Kv::discard`]).
    pub fn abandon(self) -> Kv {
        self.building.kv
    }

    /// The state, if the snapshot was complete and the state has the digest it names.
    pub fn finish(self) -> Result<Kv, DecodeError> {
        let (header, digest) = self.frames.finish()?;
        let mut kv = self.building.kv;
        kv.keys.restored().then_some(()).ok_or(KEY_TWICE)?;
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

impl Content for Building {
    fn header(&mut self, header: &Header) {
        self.kv.time_ms = header.time_ms;
        self.kv.sessions.restore_counters(header.next_id, header.next_use);
        self.kv.keys.prepare(header.hash_seed, header.keys.min(self.keys_max) as usize);
    }

    fn record(&mut self, content: &[u8]) -> Result<(), DecodeError> {
        let record = Record::from_content(self.kv.keys.generation(), content)?;
        let is_new = self.kv.keys.restore(record);
        is_new.then_some(()).ok_or(KEY_TWICE)
    }

    fn session(&mut self, encoded: &[u8]) -> Result<(), DecodeError> {
        if planted!(SessionsNotRestored) {
            return Ok(());
        }
        self.kv.sessions.restore(encoded)
    }
}
