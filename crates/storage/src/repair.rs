//! Repair in place: a batch of the log that is damaged between neighbours that still say what it
//! was; and a log without damage that goes on from no snapshot, which is to be kept until somebody
//! has one.
//!
//! [`Repair::find`] looks for the first such batch and says which entries it held;
//! [`Repair::prove`] tries entries that somebody supplied. They are encoded as that batch in that
//! place, and the chain value after it must be the one that the next batch, or the next segment,
//! repeats in its header: then the bytes are those that were there, whoever the entries come from.
//! Nothing is guessed: what is not proven is not written. `docs/format.md`, "Repair", says why a
//! crash on the way does no harm.
//!
//! What it is not: any say in whom to ask, and how long.

use std::collections::BTreeMap;

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};
use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, SnapshotMeta};

use crate::batch::{self, Batch, Change, ENTRY_HEADER_BYTES, Header, Link};
use crate::hard_state::{self, Record};
use crate::page::PAGE_BYTES;
use crate::replay::{self, Known, Replayed, SegmentFile};
use crate::sector::{self, SECTOR_BYTES};
use crate::segment::{FIRST_BATCH_OFFSET, SegmentHeader};
use crate::survey::{Directory, Snapshots};
use crate::{Damage, DamageReason, Identity, OpenError};

/// What of a log others can give back, and what can be read of it besides.
#[derive(Debug)]
pub struct Repair {
    damage: Damage,
    /// Unset: the log is sound, and no snapshot that is whole reaches its first entry.
    lost: Option<LostBatch>,
    readable: BTreeMap<LogIndex, Entry>,
    snapshot: Option<SnapshotMeta>,
}

/// A damaged batch of which it is known what it must be.
#[derive(Debug)]
struct LostBatch {
    place: Place,
    known: KnownOf,
    /// What is to be done first: marks the node as one that does not vote, if its last batch is
    /// lost.
    mark: Vec<DiskOp>,
}

/// Where a batch is.
#[derive(Clone, Debug)]
struct Place {
    file: FileName,
    salt: u32,
    offset: u64,
    link: Link,
    /// Up to the next batch, if that is in the same segment, or to the segment's end.
    room_bytes: u64,
    /// The chain value after it.
    chain_after: u64,
}

/// What a batch was.
#[derive(Clone, Copy, Debug)]
struct KnownOf {
    reset: Option<LogPosition>,
    first_index: LogIndex,
    last_index: LogIndex,
}

/// What the next batch says of the one before it.
struct Next {
    chain: u64,
    first_index: Option<LogIndex>,
    offset: Option<u64>,
}

/// A batch that was found behind the damage.
struct Found {
    offset: u64,
    header: Header,
    /// Unless some of it is damaged.
    batch: Option<Batch>,
}

impl Repair {
    /// The first damage of the log, if it is one that a repair in place may heal; or that the log
    /// is sound and goes on from no snapshot. Changes nothing.
    ///
    /// For a directory that [`crate::Storage::open`] refused with [`OpenError::DamagedLog`] or
    /// [`OpenError::DamagedSnapshot`]. `None`: the log is sound as far as it is needed; or a batch
    /// is damaged of which nothing after it says what it was, such as the last one; or more is
    /// damaged than batches.
    pub fn find(disk: &mut dyn Disk, identity: Identity) -> Result<Option<Self>, OpenError> {
        let hard_state = hard_state::load(disk, identity)?;
        let record = hard_state.record;
        let directory = Directory::list(disk)?;
        // As a start does: one of which a chunk is damaged leaves the log to an older one.
        let snapshots = Snapshots::read(disk, &directory, identity, &mut ())?;
        let snapshot = snapshots.sound.into_iter().next().map(|stored| stored.meta);
        let known = Known {
            snapshot: snapshot.as_ref().map_or(LogPosition::ZERO, |meta| meta.position),
            synced_batch: record.synced_batch,
            segment: record.segment,
        };
        let files = replay::read_headers(disk, directory.segments(), identity)?;
        let mut log = replay::replay(disk, &files, known)?;
        let gap = log.gap_after(known.snapshot, &files);
        if gap.is_some() {
            log = replay::replay_all(disk, &files, known)?;
        }
        if let Some(damage) = gap.filter(|_| log.damage.is_none()) {
            let readable = by_index(log.into_entries_after(LogIndex::ZERO)).collect();
            return Ok(Some(Self { damage, lost: None, readable, snapshot }));
        }
        let Some((damage, place)) = damaged_batch(&log, &files) else { return Ok(None) };

        let mut beyond = Beyond::read(disk, &files, place, &log)?;
        let Some((place, known)) = beyond.identify(&files[place], &log, damage.offset) else {
            return Ok(None);
        };
        let mut mark = Vec::new();
        if beyond.tells_of_a_lost_batch() {
            let (sequence, non_voting_until) = (record.sequence + 1, Some(LogIndex::MAX));
            let marked = Record { sequence, non_voting_until, ..record };
            mark = hard_state.replace(disk, &marked)?;
        }
        let mut readable = BTreeMap::new();
        let here = std::mem::take(&mut beyond.here).into_iter().chain(beyond.later);
        let after = here.filter_map(|found| found.batch).map(|batch| batch.entries);
        for entries in std::iter::once(log.into_entries_after(LogIndex::ZERO)).chain(after) {
            readable.extend(by_index(entries));
        }
        let lost = Some(LostBatch { place, known, mark });
        Ok(Some(Self { damage, lost, readable, snapshot }))
    }

    /// Where the log is damaged, and how that is known.
    pub const fn damage(&self) -> &Damage {
        &self.damage
    }

    /// The first and the last entry of the damaged batch. Unset: it is a snapshot that is wanted,
    /// and the log is as it was.
    pub fn wanted(&self) -> Option<(LogIndex, LogIndex)> {
        self.lost.as_ref().map(|lost| (lost.known.first_index, lost.known.last_index))
    }

    /// What the newest sound snapshot covers.
    pub const fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Those of these entries that can be read, before the damage and after it.
    pub fn entries(&self, from: LogIndex, through: LogIndex) -> impl Iterator<Item = &Entry> {
        let range = if from <= through { from..through.next() } else { from..from };
        self.readable.range(range).map(|(_, entry)| entry)
    }

    /// The last entry of this kind that can be read.
    pub fn last_entry_of(&self, kind: EntryKind) -> Option<&Entry> {
        self.readable.values().rev().find(|entry| entry.kind == kind)
    }

    /// The steps that write the batch again, if these are its entries, all of them and in order:
    /// then it is byte for byte what it was. To be run to their end before the log is opened.
    pub fn prove(&self, entries: &[Entry]) -> Option<Vec<DiskOp>> {
        let LostBatch { place, known, mark } = self.lost.as_ref()?;
        let KnownOf { reset, first_index, last_index } = *known;
        let Place { file, salt, offset, link, room_bytes, chain_after } = place;
        let in_order = (first_index.0..=last_index.0).eq(entries.iter().map(|entry| entry.index.0));
        let data_bytes: u64 = entries.iter().map(|entry| entry.data.len() as u64).sum();
        if !in_order || batch::batch_bytes(entries.len() as u64, data_bytes) > *room_bytes {
            return None;
        }
        let change = Change { reset, first_index, entries };
        let (bytes, chain) = batch::encode(*salt, *offset, *link, &change);
        let write = DiskOp::Write { file: file.clone(), offset: *offset, bytes };
        let repair = [write, DiskOp::Sync { file: file.clone() }];
        (chain == *chain_after).then(|| mark.iter().cloned().chain(repair).collect())
    }
}

fn by_index(entries: Vec<Entry>) -> impl Iterator<Item = (LogIndex, Entry)> {
    entries.into_iter().map(|entry| (entry.index, entry))
}

/// The damage that ended the reading, and in which segment, if that is a batch in its place.
fn damaged_batch(log: &Replayed, files: &[SegmentFile]) -> Option<(Damage, usize)> {
    let damage = log.damage.clone()?;
    let place = *log.read.last()?;
    let of_a_batch = match damage.reason {
        DamageReason::SealedSegment
        | DamageReason::LaterBatch
        | DamageReason::NonZeroSector
        | DamageReason::Unreadable => damage.batch > 0,
        // The others say that something else is damaged, or that nothing comes after it.
        DamageReason::SegmentHeader
        | DamageReason::SegmentLength
        | DamageReason::BelowWatermark
        | DamageReason::SegmentMissing
        | DamageReason::Inconsistent
        | DamageReason::Gap { .. } => false,
    };
    (of_a_batch && damage.segment == files[place].file).then_some((damage, place))
}

/// What can be read from the damage on.
struct Beyond<'a> {
    /// What stands from the damage to the end of its segment.
    bytes: Bytes,
    /// The number of the first sector in there.
    first_sector: u32,
    /// The header of the damaged batch itself.
    own: Option<Header>,
    /// Batches behind it in its segment.
    here: Vec<Found>,
    /// Batches of later segments.
    later: Vec<Found>,
    /// The header of the next segment.
    seal: Option<&'a SegmentHeader>,
    /// The header of the last one.
    last: Option<&'a SegmentHeader>,
}

impl<'a> Beyond<'a> {
    fn read(
        disk: &mut dyn Disk,
        files: &'a [SegmentFile],
        place: usize,
        log: &Replayed,
    ) -> Result<Self, DiskError> {
        let live = replay::live_segments(files);
        let later = live.iter().position(|&i| i == place).map_or(live.len(), |i| i + 1);
        let places = std::iter::once(&place).chain(&live[later..]);
        let mut beyond = Self {
            bytes: Bytes::new(),
            first_sector: 0,
            own: None,
            here: Vec::new(),
            later: Vec::new(),
            seal: None,
            last: live.last().and_then(|&last| files[last].header.as_ref()),
        };
        let mut headers = live[later..].iter().map(|&i| files[i].header.as_ref());
        for &i in places {
            let seal = headers.next().flatten();
            let Some(header) = &files[i].header else { continue };
            let bytes = match replay::read_file(disk, &files[i]) {
                Ok((bytes, _)) => bytes,
                Err(DiskError::NotFound(_)) => continue,
                // It says nothing of what is in the file (rule S9).
                Err(error) => return Err(error),
            };
            let end = seal.map_or(u64::MAX, |seal| seal.first.sequence);
            if i == place {
                let offset = log.used_bytes.last().copied().unwrap_or(FIRST_BATCH_OFFSET);
                let own = batch::header_at(header.salt(), &bytes, offset);
                beyond.own = own.ok().filter(|own| own.link == log.next);
                beyond.here = scan(header.salt(), &bytes, offset + PAGE_BYTES, end);
                beyond.bytes = bytes.slice((offset as usize).min(bytes.len())..);
                beyond.first_sector = (offset / SECTOR_BYTES) as u32;
                beyond.seal = seal;
            } else {
                beyond.later.extend(scan(header.salt(), &bytes, FIRST_BATCH_OFFSET, end));
            }
        }
        Ok(beyond)
    }

    /// The place of the damaged batch and what it was, if its neighbours say so.
    fn identify(
        &self,
        segment: &SegmentFile,
        log: &Replayed,
        offset: u64,
    ) -> Option<(Place, KnownOf)> {
        let header = segment.header.as_ref()?;
        let next = self.next(log.next.sequence + 1)?;
        let (reset, first_index, last_index) = match &self.own {
            Some(own) => {
                let end = own.first_index.plus(own.count.into());
                (own.reset, own.first_index, end.prev())
            }
            // It follows the one before it and ends where the next one begins: one of them may have
            // dropped entries instead, and then nothing that is tried is proven.
            None => (None, log.next_index, next.first_index?.prev()),
        };
        let room_bytes = next.offset.unwrap_or(segment.len_bytes) - offset;
        let count = last_index.next().0.checked_sub(first_index.0)?;
        if count == 0 || count > room_bytes / ENTRY_HEADER_BYTES {
            return None;
        }
        let place = Place {
            file: segment.file.clone(),
            salt: header.salt(),
            offset,
            link: log.next,
            room_bytes,
            chain_after: next.chain,
        };
        Some((place, KnownOf { reset, first_index, last_index }))
    }

    /// Does a batch that belongs after the last one of the log stand where the damage is? Its write
    /// went to the wrong place: it is that damage, and where the batch should be nothing shows that
    /// it was synced and acknowledged.
    fn tells_of_a_lost_batch(&self) -> bool {
        let Some(last) = self.last else { return false };
        let found = self.here.iter().chain(&self.later).map(|found| found.header.link.sequence + 1);
        let end = found.fold(last.first.sequence, u64::max);
        let sectors = (last.len_bytes / SECTOR_BYTES) as u32;
        let mut damaged = (self.first_sector..).zip(self.bytes.chunks(SECTOR_BYTES as usize));
        damaged.any(|(number, sector)| {
            // What a crash left of the last batch in its own place was never acknowledged.
            let own = self.seal.is_none().then_some(number);
            sector::is_astray(last.salt(), sectors, end, own, sector)
        })
    }

    /// What is known of batch `number`, the one after the damaged one.
    fn next(&self, number: u64) -> Option<Next> {
        let is_it = |found: &&Found| found.header.link.sequence == number;
        if let Some(seal) = self.seal.filter(|seal| seal.first.sequence == number) {
            let found = self.later.first().filter(is_it);
            let first_index = found.map(|found| found.header.first_index);
            return Some(Next { chain: seal.first.chain, first_index, offset: None });
        }
        let found = self.here.first().filter(is_it)?;
        Some(Next {
            chain: found.header.link.chain,
            first_index: Some(found.header.first_index),
            offset: Some(found.offset),
        })
    }
}

/// The batches in a segment from an offset on whose headers are sound, up to batch `end`.
fn scan(salt: u32, bytes: &[u8], from: u64, end: u64) -> Vec<Found> {
    let mut all = Vec::new();
    let mut offset = from;
    while offset < bytes.len() as u64 {
        let mut taken_bytes = PAGE_BYTES;
        if let Ok(header) = batch::header_at(salt, bytes, offset)
            && header.link.sequence < end
        {
            let batch = batch::decode(salt, bytes, offset, header.link).ok();
            taken_bytes = batch.as_ref().map_or(PAGE_BYTES, |batch| batch.bytes_on_disk);
            all.push(Found { offset, header, batch });
        }
        offset += taken_bytes;
    }
    all
}
