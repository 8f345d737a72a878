//! What [`crate::Storage::open`] found.

use std::fmt;

use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{Entry, HardState, LogIndex, LogPosition, SnapshotId, SnapshotMeta};

use crate::Damage;
use crate::snapshot::ChunkScan;

/// A committed snapshot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSnapshot {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// Where it is.
    pub file: FileName,
}

/// A snapshot that was arriving from a peer when the node stopped. Resume it with
/// [`crate::snapshot::SnapshotReceiver::resume`], or run [`PartialSnapshot::discard`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartialSnapshot {
    /// Which snapshot.
    pub id: SnapshotId,
    /// What it covers.
    pub position: LogPosition,
    /// Bytes `[0, next_offset)` are here and verified.
    pub next_offset: u64,
    /// The chunks in there.
    pub chunks: ChunkScan,
    /// Where they are.
    pub file: FileName,
}

impl PartialSnapshot {
    /// Removes it. Background lane.
    pub fn discard(self) -> Vec<DiskOp> {
        vec![DiskOp::Remove { file: self.file }]
    }
}

/// The state of a node as its disk has it.
#[derive(Clone, PartialEq, Debug)]
pub struct Recovered {
    /// Term and vote. The term is at least that of the snapshot.
    pub hard_state: HardState,
    /// The newest snapshot that verifies.
    pub snapshot: Option<StoredSnapshot>,
    /// The log after the snapshot, or from index 1; contiguous; durable.
    pub entries: Vec<Entry>,
    /// Durable mark of rule S12: this node must neither vote nor count for a quorum until its log
    /// is durable through this index. [`LogIndex::MAX`]: no leader has named the index yet.
    pub non_voting_until: Option<LogIndex>,
    /// Durable mark: this node takes no part before it has heard from every other voter.
    pub newborn: bool,
    /// The damage that was cut off, under [`crate::OnDamage::Rejoin`]; the mark above is durable.
    pub faulty: Option<Damage>,
    /// A snapshot that was arriving.
    pub partial_snapshot: Option<PartialSnapshot>,
    /// How many times this node has been opened, this time counted.
    pub incarnation: u64,
    /// What was read and repaired.
    pub report: Report,
}

/// What opening did, for the operator; `Display` puts it on one line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Segments read.
    pub segments_read: usize,
    /// Bytes of log read.
    pub log_bytes_read: u64,
    /// Batches that were valid.
    pub batches_read: u64,
    /// Entries recovered.
    pub entries: usize,
    /// An unfinished last batch was cut off: its segment and offset.
    pub torn_tail: Option<(FileName, u64)>,
    /// Bytes of batches written again into a fresh segment (rule S8).
    pub copied_forward_bytes: u64,
    /// Why the log as a whole was dropped in favour of the snapshot.
    pub log_discarded: Option<&'static str>,
    /// The copy of the hard state that was damaged or stale, and was written again.
    pub hard_state_repaired: Option<FileName>,
    /// It was damaged, not only stale.
    pub hard_state_damaged: bool,
    /// Copies of the damaged part of the log, which was given up.
    pub segments_damaged: Vec<FileName>,
    /// Segments given up of which there was no room for a copy.
    pub segments_not_kept: usize,
    /// Snapshots that did not verify, set aside under a name that ends in `.damaged`.
    pub snapshots_damaged: Vec<FileName>,
    /// Leftovers of interrupted work that were removed.
    pub leftovers_removed: usize,
}

impl Report {
    /// Did it come upon what no crash leaves? It may have got over it, but whoever looks after the
    /// disk is to know.
    pub const fn found_damage(&self) -> bool {
        self.hard_state_damaged
            || !self.snapshots_damaged.is_empty()
            || !self.segments_damaged.is_empty()
            || self.segments_not_kept > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} entries from {} batches, {} segments, {} bytes",
            self.entries, self.batches_read, self.segments_read, self.log_bytes_read
        )?;
        if let Some((file, offset)) = &self.torn_tail {
            write!(f, "; unfinished last batch cut off in {file} at {offset}")?;
        }
        if self.copied_forward_bytes > 0 {
            write!(f, "; {} bytes copied forward", self.copied_forward_bytes)?;
        }
        if let Some(why) = self.log_discarded {
            write!(f, "; log dropped: {why}")?;
        }
        if let Some(file) = &self.hard_state_repaired {
            let why = if self.hard_state_damaged { " was damaged, and is" } else { "" };
            write!(f, "; {file}{why} written again")?;
        }
        for file in &self.segments_damaged {
            write!(f, "; {file} kept to look at")?;
        }
        if self.segments_not_kept > 0 {
            write!(f, "; {} given up, no room to keep them", self.segments_not_kept)?;
        }
        for file in &self.snapshots_damaged {
            write!(f, "; {file} is damaged and set aside")?;
        }
        if self.leftovers_removed > 0 {
            write!(f, "; {} leftovers removed", self.leftovers_removed)?;
        }
        Ok(())
    }
}
