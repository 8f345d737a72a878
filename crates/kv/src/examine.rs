//! Is a snapshot what was written, and what is in it? Without building the state: in the memory of
//! one frame, for a snapshot of any size.

use sampan_base::WallTime;
use sampan_base::codec::DecodeError;

use crate::digest::{Digest, Sum};
use crate::frames::{Content, Frames, Header};
use crate::record::Record;
use crate::session;

/// Checks a snapshot that is fed slice by slice, cut anywhere.
///
/// It finds what [`crate::Restore`] finds, since the digest covers every part of the state; only
/// what is wrong is said less exactly.
#[derive(Default)]
pub struct Examination {
    frames: Frames,
    found: Found,
}

/// What is in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Findings {
    /// The digest of the state, computed and found to be the one that the snapshot names.
    pub digest: Digest,
    /// The log time: times to live are judged by it.
    pub time: WallTime,
    /// Keys, those whose time is over and which are still in memory included.
    pub keys: u64,
    /// Those of them with a time to live.
    pub expires: u64,
    /// Those of them whose time is over.
    pub expired: u64,
    /// Bytes of keys and values, and of what tells their lengths and times.
    pub record_bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Replies that they remember.
    pub session_replies: u64,
    /// The id that the next session gets.
    pub next_session: u64,
}

#[derive(Default)]
struct Found {
    time_ms: u64,
    keys: u64,
    expires: u64,
    expired: u64,
    record_bytes: u64,
    sessions: u64,
    session_replies: u64,
    records_sum: Sum,
    sessions_sum: Sum,
    scratch: Vec<u8>,
}

impl Examination {
    /// Takes in the next bytes. After an error nothing more is to be fed.
    pub fn feed(&mut self, slice: &[u8]) -> Result<(), DecodeError> {
        self.frames.feed(slice, &mut self.found)
    }

    /// What was found, if the snapshot was complete and has the digest it names.
    pub fn finish(self) -> Result<Findings, DecodeError> {
        let (header, named) = self.frames.finish()?;
        let Header { time_ms, next_id, next_use, keys, sessions, .. } = header;
        let found = self.found;
        if (found.keys, found.sessions) != (keys, sessions) {
            return Err(DecodeError::Invalid("snapshot counts"));
        }
        let sums = (found.records_sum, found.sessions_sum);
        let digest = Digest::of_state(sums, time_ms, (next_id, next_use));
        if digest != named {
            return Err(DecodeError::Invalid("snapshot digest"));
        }
        Ok(Findings {
            digest,
            time: WallTime::from_unix_ms(time_ms),
            keys,
            expires: found.expires,
            expired: found.expired,
            record_bytes: found.record_bytes,
            sessions,
            session_replies: found.session_replies,
            next_session: next_id,
        })
    }
}

impl Content for Found {
    fn header(&mut self, header: &Header) {
        self.time_ms = header.time_ms;
    }

    fn record(&mut self, content: &[u8]) -> Result<(), DecodeError> {
        let record = Record::from_content(0, content)?;
        self.keys += 1;
        self.expires += u64::from(record.expiry_ms().is_some());
        self.expired += u64::from(record.is_expired(self.time_ms));
        self.record_bytes += content.len() as u64;
        self.records_sum.add(content);
        Ok(())
    }

    fn session(&mut self, encoded: &[u8]) -> Result<(), DecodeError> {
        let replies = session::examine(encoded, &mut self.sessions_sum, &mut self.scratch)?;
        self.sessions += 1;
        self.session_replies += replies as u64;
        Ok(())
    }
}
