//! Snapshots: the state as of one moment as a stream of bytes, made in slices while writes go on.
//!
//! ```text
//! header   "SAMPANKV" | version u16 = 2 | time unix_ms u64 | next session id u64
//!          | next use u64 | keys u64 | sessions u64 | hash seed u64
//! frames   tag u8 ...
//!   0 pad      nothing: a slice that found nothing to say holds one
//!   1 record   length u32 | content (record.rs)
//!   2 session  length u32 | id u64 | acknowledged u64 | last used unix_ms u64 | last use u64
//!              | count u32 | { sequence u64 | fingerprint u64 | reply }*
//!   3 end      digest 16 bytes: of the state as of the beginning
//! ```
//!
//! Integers are little-endian; replies are encoded as in `reply.rs`. Records stand about in the
//! order of the tables they come from. Whoever restores them takes the same hash seed, so that one
//! small table after another fills up instead of all of them at once: that is what makes a restore
//! fast. A slice begins with the header or a frame, so that parts of a snapshot can be restored
//! apart. The bytes of two nodes differ; the digest is the same. The order in which sessions are
//! evicted is in their last use. Keys whose time is over but which are still in memory are
//! included, for the digest covers them.
//!
//! How the pre-images work is told in [`Keyspace`](crate::keyspace::Keyspace).

use sampan_base::codec::Writer;

use crate::digest::Digest;
use crate::kv::Kv;
use crate::record::Record;

pub(crate) const MAGIC: &[u8; 8] = b"SAMPANKV";
pub(crate) const VERSION: u16 = 2;
pub(crate) const HEADER_BYTES: usize = 8 + 2 + 6 * 8;

pub(crate) const TAG_PAD: u8 = 0;
pub(crate) const TAG_RECORD: u8 = 1;
pub(crate) const TAG_SESSION: u8 = 2;
pub(crate) const TAG_END: u8 = 3;

/// Appends the frame of one record.
pub(crate) fn put_record(record: &Record, out: &mut Vec<u8>) {
    out.put_u8(TAG_RECORD);
    out.put_bytes(record.content());
}

/// How long that is.
pub(crate) fn record_frame_bytes(record: &Record) -> usize {
    1 + 4 + record.content().len()
}

/// A snapshot being made.
pub(crate) struct Capture {
    header: Option<Vec<u8>>,
    keys_left: bool,
    digest: Digest,
}

impl Kv {
    /// Begins a snapshot of the state as it is now, giving up one that is being made. O(1).
    pub fn snapshot_begin(&mut self) {
        self.snapshot_cancel();
        let (next_id, next_use) = self.sessions.counters();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put(MAGIC);
        header.put_u16(VERSION);
        header.put_u64(self.time_ms);
        header.put_u64(next_id);
        header.put_u64(next_use);
        header.put_u64(self.keys.len() as u64);
        header.put_u64(self.sessions.len() as u64);
        header.put_u64(self.keys.hash_seed());
        self.keys.capture_begin();
        self.sessions.capture_begin(self.keys.generation());
        let digest = self.digest();
        self.capture = Some(Capture { header: Some(header), keys_left: true, digest });
    }

    /// Appends the next slice to `out`: at least one byte, and no more than `bytes_max`, but for a
    /// record that is longer, a session, or the beginning and end of the snapshot. Returns whether
    /// there is more; after the last slice the snapshot is no longer active. Panics if none is
    /// being made.
    pub fn snapshot_next(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let capture = self.capture.as_mut().expect("snapshot_begin comes before snapshot_next");
        let start = out.len();
        let length_max = start.saturating_add(bytes_max.max(1));
        if let Some(header) = capture.header.take() {
            out.put(&header);
        }
        if capture.keys_left {
            capture.keys_left = self.keys.capture_next(start, length_max, out);
            if capture.keys_left {
                if out.len() == start {
                    out.put_u8(TAG_PAD);
                }
                return true;
            }
        }
        while out.len() < length_max {
            if !self.next_session(out) {
                self.put_end(out);
                return false;
            }
        }
        true
    }

    /// Gives up the snapshot being made, if any.
    pub fn snapshot_cancel(&mut self) {
        self.keys.capture_end();
        self.sessions.capture_end();
        self.capture = None;
    }

    /// Is a snapshot being made?
    pub const fn snapshot_active(&self) -> bool {
        self.capture.is_some()
    }

    /// How far the snapshot being made is with the keys, of how far it has to go: places of the
    /// tables, in some unit. Zero of zero if none is being made.
    pub fn snapshot_progress(&self) -> (usize, usize) {
        self.keys.capture_progress()
    }

    /// The digest of the state that the snapshot being made holds.
    pub fn snapshot_digest(&self) -> Option<Digest> {
        self.capture.as_ref().map(|capture| capture.digest)
    }

    fn next_session(&mut self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.put_u8(TAG_SESSION);
        out.put_u32(0);
        let body = out.len();
        if !self.sessions.capture_next(out) {
            out.truncate(start);
            return false;
        }
        let length = (out.len() - body) as u32;
        out[start + 1..body].copy_from_slice(&length.to_le_bytes());
        true
    }

    fn put_end(&mut self, out: &mut Vec<u8>) {
        let capture = self.capture.as_ref().expect("a snapshot is being made");
        out.put_u8(TAG_END);
        out.put(&capture.digest.to_bytes());
        self.snapshot_cancel();
    }
}
