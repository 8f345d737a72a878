//! What is in a file of this crate's, for people and tools: any file, by itself, sound or not.
//! Reads bytes, changes nothing, and trusts no name.
//!
//! Snapshots are read by [`crate::snapshot::SnapshotStream`]; what a whole data directory amounts
//! to is told by [`crate::Storage::examine`].

use sampan_base::{Entry, HardState, LogIndex, LogPosition};

use crate::batch::{self, Batch, Link};
use crate::create::IDENTITY_MAGIC;
use crate::hard_state::{HARD_STATE_MAGIC, Record};
use crate::members::{self, MEMBERS_MAGIC, Members};
use crate::page::{self, Magic, PAGE_BYTES, PageFault};
use crate::replay::{Tail, judge_tail};
use crate::sector::SECTOR_BYTES;
use crate::segment::{FIRST_BATCH_OFFSET, SEGMENT_MAGIC, SegmentHeader};
use crate::snapshot::SNAPSHOT_MAGIC;
use crate::{DamageReason, Identity};

/// What a file is, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// Whose data a directory holds.
    Identity,
    /// The first members of the cluster.
    Members,
    /// One copy of the hard state.
    HardState,
    /// A segment of the log.
    Segment,
    /// A snapshot, whole or arriving, or a backup.
    Snapshot,
    /// Zeros: what a segment is made of.
    Zeros,
    /// None of these.
    Unknown,
}

impl FileKind {
    /// The kind of a file that begins with these bytes; eight are enough.
    pub fn of(bytes: &[u8]) -> Self {
        let kinds = [
            (IDENTITY_MAGIC, Self::Identity),
            (MEMBERS_MAGIC, Self::Members),
            (HARD_STATE_MAGIC, Self::HardState),
            (SEGMENT_MAGIC, Self::Segment),
            (SNAPSHOT_MAGIC, Self::Snapshot),
            (Magic::default(), Self::Zeros),
        ];
        let kind = kinds.into_iter().find(|(magic, _)| bytes.starts_with(magic));
        kind.map_or(Self::Unknown, |(_, kind)| kind)
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Members => "members",
            Self::HardState => "hard state",
            Self::Segment => "log segment",
            Self::Snapshot => "snapshot",
            Self::Zeros => "zeros",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a file, or its first page, cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FileFault {
    /// It is damaged: this is how that shows.
    #[error("{0}")]
    Damaged(&'static str),
    /// Another version wrote it.
    #[error("format version {0}, this program reads {version}", version = crate::FORMAT_VERSION)]
    Version(u32),
}

impl From<PageFault> for FileFault {
    fn from(fault: PageFault) -> Self {
        match fault {
            PageFault::Damaged(why) => Self::Damaged(why),
            PageFault::Version(version) => Self::Version(version),
        }
    }
}

/// One copy of the hard state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardStateCopy {
    /// Whose it is.
    pub identity: Identity,
    /// Counts the writes.
    pub sequence: u64,
    /// How many times the node was opened.
    pub incarnation: u64,
    /// Term and vote.
    pub hard_state: HardState,
    /// The watermark: this batch of the log, and all before it, were synced.
    pub synced_batch: u64,
    /// A segment with this number or a higher one is there.
    pub segment: u64,
    /// The node neither votes nor counts before its log is durable through this index.
    pub non_voting_until: Option<LogIndex>,
    /// The node has never been part of the cluster, as far as its disk knows.
    pub newborn: bool,
}

/// A segment of the log, read by itself.
#[derive(Clone, PartialEq, Debug)]
pub struct SegmentContent {
    /// Whose it is.
    pub identity: Identity,
    /// The incarnation of the node that began it.
    pub generation: u64,
    /// Its number.
    pub number: u64,
    /// Its first batch; what earlier segments hold from there on is void.
    pub first_batch: u64,
    /// Whoever has a snapshot of this index or a higher one can read the log from here on.
    pub serves_from: LogIndex,
    /// Length of the file, as the header says.
    pub len_bytes: u64,
    /// The numbers of the segments that the file was before and may hold something of, newest
    /// first.
    pub earlier: Vec<u64>,
    /// Its batches, up to the first that is not there.
    pub batches: Vec<BatchContent>,
    /// Where the batches end.
    pub end_offset: u64,
    /// How they end.
    pub end: SegmentEnd,
}

/// A batch of a segment.
#[derive(Clone, PartialEq, Debug)]
pub struct BatchContent {
    /// Its number, counted over the life of the log.
    pub number: u64,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes it takes.
    pub len_bytes: u64,
    /// The log starts anew after this position.
    pub reset: Option<LogPosition>,
    /// Entries from this index on that the log has are dropped.
    pub first_index: LogIndex,
    /// Its entries.
    pub entries: Vec<Entry>,
}

/// How the batches of a segment end, as far as the segment alone can tell: whether one is missing
/// that was acknowledged only the other files know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentEnd {
    /// Nothing of this segment follows.
    Clean,
    /// Part of a batch that a crash cut short, or that is being written.
    Unfinished,
    /// Something that no crash leaves.
    Damaged(DamageReason),
}

/// Whose data a directory holds, from the bytes of `identity`.
pub fn identity(bytes: &[u8]) -> Result<Identity, FileFault> {
    let mut body = page::unseal(IDENTITY_MAGIC, bytes)?;
    Identity::decode(&mut body).map_err(|_| FileFault::Damaged("a field is impossible"))
}

/// What a node was told at its first start, from the bytes of `members`.
pub fn members(bytes: &[u8]) -> Result<Members, FileFault> {
    let mut body = page::unseal(MEMBERS_MAGIC, bytes)?;
    members::decode(&mut body).map_err(|_| FileFault::Damaged("a field is impossible"))
}

/// A copy of the hard state, from the bytes of its file.
pub fn hard_state(bytes: &[u8]) -> Result<HardStateCopy, FileFault> {
    let record = Record::decode(bytes)?;
    Ok(HardStateCopy {
        identity: record.identity,
        sequence: record.sequence,
        incarnation: record.incarnation,
        hard_state: record.hard_state,
        synced_batch: record.synced_batch,
        segment: record.segment,
        non_voting_until: record.non_voting_until,
        newborn: record.newborn,
    })
}

/// How long the file of a segment is, as its first page says.
pub fn segment_len_bytes(page: &[u8]) -> Result<u64, FileFault> {
    Ok(SegmentHeader::decode(page)?.len_bytes)
}

/// A segment, from the bytes of its file; of one that is longer than its header says, one byte more
/// than that is enough.
pub fn segment(bytes: &[u8]) -> Result<SegmentContent, FileFault> {
    let header = SegmentHeader::decode(bytes.get(..PAGE_BYTES as usize).unwrap_or(bytes))?;
    let mut content = SegmentContent {
        identity: header.identity,
        generation: header.generation,
        number: header.sequence,
        first_batch: header.first.sequence,
        serves_from: header.serves_from,
        len_bytes: header.len_bytes,
        earlier: header.earlier.iter().map(|life| life.number).collect(),
        batches: Vec::new(),
        end_offset: FIRST_BATCH_OFFSET,
        end: SegmentEnd::Clean,
    };
    if bytes.len() as u64 != header.len_bytes {
        content.end = SegmentEnd::Damaged(DamageReason::SegmentLength);
    }
    let (salt, mut next) = (header.salt(), header.first);
    let fault = loop {
        match batch::decode(salt, bytes, content.end_offset, next) {
            Ok(batch) => next = content.take(batch),
            Err(fault) => break fault,
        }
    };
    if content.end == SegmentEnd::Clean {
        let rest = bytes.get(content.end_offset as usize..).unwrap_or_default();
        let first_sector = (content.end_offset / SECTOR_BYTES) as u32;
        let tail = Tail { header: &header, first_sector, rest, fault };
        // Nothing but this file: no watermark.
        content.end = match judge_tail(&tail, next.sequence, 0) {
            Ok(false) => SegmentEnd::Clean,
            Ok(true) => SegmentEnd::Unfinished,
            Err(reason) => SegmentEnd::Damaged(reason),
        };
    }
    Ok(content)
}

impl SegmentContent {
    /// Adds a batch; what follows it.
    fn take(&mut self, batch: Batch) -> Link {
        let next = Link { sequence: batch.link.sequence + 1, chain: batch.chain_after };
        self.batches.push(BatchContent {
            number: batch.link.sequence,
            offset: self.end_offset,
            len_bytes: batch.bytes_on_disk,
            reset: batch.reset,
            first_index: batch.first_index,
            entries: batch.entries,
        });
        self.end_offset += batch.bytes_on_disk;
        next
    }
}
