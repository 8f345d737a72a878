//! The limits of this crate, in one place.

use crate::batch::batch_bytes;
use crate::page::PAGE_BYTES;
use crate::segment::FIRST_BATCH_OFFSET;

/// Sizes and counts. [`Options::default`] is for servers, [`Options::tiny`] for tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Length of one log segment file, in bytes: a multiple of [`PAGE_BYTES`], at most 1 GiB, at
    /// least twice `entry_bytes_max`. May change between two runs on the same directory. What a
    /// start makes is shorter.
    pub segment_bytes: u64,
    /// Room for batches in a segment that a creation or a start makes, in bytes, if that is less
    /// than a whole one: it is written as zeros before the node serves. A multiple of
    /// [`PAGE_BYTES`].
    pub first_room_bytes: u64,
    /// The longest payload of one log entry, in bytes. An entry never crosses a segment's border.
    pub entry_bytes_max: usize,
    /// How many snapshots are kept, 1 to 64. The second is what a damaged first falls back to.
    pub snapshots_kept: usize,
    /// The longest payload of one snapshot chunk, in bytes.
    pub snapshot_chunk_bytes_max: usize,
    /// Bytes of an arriving snapshot between two syncs, 1 or more: what a power cut may cost, and
    /// what becomes readable at once.
    pub snapshot_sync_bytes: u64,
}

/// The longest segment: keeps every offset and length in a segment within 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Each snapshot has the size of the state, and so many of them are for no disk.
const SNAPSHOTS_KEPT_MAX: usize = 64;

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            // A disk at 250 MB/s has that in 4 ms, and all others on it wait no longer.
            first_room_bytes: 1 << 20,
            entry_bytes_max: 8 << 20,
            snapshots_kept: 2,
            snapshot_chunk_bytes_max: crate::snapshot::CHUNK_BYTES_MAX,
            // Ten cuts cost less than a tenth of a gigabyte, with as much under way each time.
            snapshot_sync_bytes: 4 << 20,
        }
    }
}

impl Options {
    /// Segments of four pages, so that tests and simulations cross every border often.
    pub fn tiny() -> Self {
        Self {
            segment_bytes: 4 * PAGE_BYTES,
            first_room_bytes: 4 * PAGE_BYTES,
            entry_bytes_max: 2 * PAGE_BYTES as usize,
            snapshot_sync_bytes: 1 << 10,
            ..Self::default()
        }
    }

    /// How long a segment is that begins with batches of so many bytes and is made while the node
    /// does not serve yet.
    pub(crate) fn first_segment_bytes(&self, batches_bytes: u64) -> u64 {
        let needed = FIRST_BATCH_OFFSET + batches_bytes;
        needed.max(self.segment_bytes.min(needed.saturating_add(self.first_room_bytes)))
    }

    /// What is wrong with these limits, if anything.
    pub fn check(&self) -> Result<(), String> {
        let segment_bytes = self.segment_bytes;
        if !segment_bytes.is_multiple_of(PAGE_BYTES) || segment_bytes > SEGMENT_BYTES_MAX {
            return Err(format!(
                "segment_bytes is {segment_bytes}: want a multiple of {PAGE_BYTES}, at most {SEGMENT_BYTES_MAX}"
            ));
        }
        let first_room_bytes = self.first_room_bytes;
        if !first_room_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(format!(
                "first_room_bytes is {first_room_bytes}: want a multiple of {PAGE_BYTES}"
            ));
        }
        if segment_bytes / 2 < self.entry_bytes_max as u64
            || FIRST_BATCH_OFFSET + batch_bytes(1, self.entry_bytes_max as u64) > segment_bytes
        {
            return Err(format!(
                "segment_bytes is {segment_bytes}: want at least twice entry_bytes_max ({}) and {} more",
                self.entry_bytes_max,
                2 * PAGE_BYTES
            ));
        }
        if self.snapshots_kept == 0 {
            return Err("snapshots_kept is 0: want at least 1".into());
        }
        if self.snapshots_kept > SNAPSHOTS_KEPT_MAX {
            let kept = self.snapshots_kept;
            return Err(format!("snapshots_kept is {kept}: want at most {SNAPSHOTS_KEPT_MAX}"));
        }
        let chunk_max = self.snapshot_chunk_bytes_max;
        if chunk_max == 0 || chunk_max > crate::snapshot::CHUNK_BYTES_MAX {
            return Err(format!(
                "snapshot_chunk_bytes_max is {chunk_max}: want 1 to {}",
                crate::snapshot::CHUNK_BYTES_MAX
            ));
        }
        if self.snapshot_sync_bytes == 0 {
            return Err("snapshot_sync_bytes is 0: want at least 1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_limits_fit_each_other() {
        assert_eq!(Options::default().check(), Ok(()));
        assert_eq!(Options::tiny().check(), Ok(()));
    }

    #[test]
    fn limits_that_do_not_fit_are_named() {
        for (bad, word) in [
            (Options { segment_bytes: 4 * PAGE_BYTES + 1, ..Options::tiny() }, "segment_bytes"),
            (Options { first_room_bytes: PAGE_BYTES - 1, ..Options::tiny() }, "first_room_bytes"),
            (Options { segment_bytes: 2 * PAGE_BYTES, ..Options::tiny() }, "entry_bytes_max"),
            (Options { snapshots_kept: 0, ..Options::tiny() }, "snapshots_kept"),
            (Options { snapshots_kept: 65, ..Options::tiny() }, "snapshots_kept"),
            (Options { snapshot_chunk_bytes_max: 0, ..Options::tiny() }, "snapshot_chunk"),
            (Options { snapshot_sync_bytes: 0, ..Options::tiny() }, "snapshot_sync"),
        ] {
            assert!(bad.check().unwrap_err().contains(word), "{bad:?}");
        }
    }
}
