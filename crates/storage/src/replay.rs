//! Reads the log back: segments → batches → entries, and the verdict on where it ends. Changes
//! nothing. The decision table of `docs/format.md` is [`judge_tail`].

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskError, FileName};
use sampan_base::{Entry, LogIndex, LogPosition, Term, planted};

use crate::batch::{self, Batch, BatchFault, Link};
use crate::page::{self, PAGE_BYTES};
use crate::sector::{self, SECTOR_BYTES, Sector};
use crate::segment::{self, FIRST_BATCH_OFFSET, SegmentHeader};
use crate::{Damage, DamageReason};

/// A batch's buffer is kept for the sake of its entries if at least this share of it, one part in
/// so many, is entries still in the log; otherwise they are copied out of it.
const PINNED_SHARE: usize = 4;

/// A segment file that is there, with its header if that is what was written.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) sequence: u64,
    pub(crate) file: FileName,
    pub(crate) len_bytes: u64,
    pub(crate) header: Option<SegmentHeader>,
}

/// What recovery knows of the log before it reads a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The snapshot's position; zero if there is none.
    pub(crate) snapshot: LogPosition,
    /// From the hard state: this batch was synced.
    pub(crate) synced_batch: u64,
    /// From the hard state: this segment or a later one is there.
    pub(crate) segment: u64,
}

/// Entries of one batch that are still in the log.
#[derive(Debug)]
struct Part {
    entries: Vec<Entry>,
    buffer_bytes: usize,
}

/// The log as it was read.
#[derive(Debug)]
pub(crate) struct Replayed {
    parts: Vec<Part>,
    /// The first index it has, or would have.
    pub(crate) start: LogIndex,
    /// What it started anew after, if it did.
    base: Option<LogPosition>,
    /// One after the last index it has.
    pub(crate) next_index: LogIndex,
    /// The next batch.
    pub(crate) next: Link,
    /// The segments that are part of it, as places in the list given: those read, oldest first.
    pub(crate) read: Vec<usize>,
    /// Where the batches of each segment read end.
    pub(crate) used_bytes: Vec<u64>,
    /// The batches of the last segment read, as they stand there.
    pub(crate) tail: Vec<Batch>,
    /// The last batch that is known to have been synced.
    pub(crate) synced_batch: u64,
    /// There is an unfinished batch at the end.
    pub(crate) torn: bool,
    /// What ended the reading early, if anything.
    pub(crate) damage: Option<Damage>,
    pub(crate) batches_read: u64,
    pub(crate) bytes_read: u64,
}

/// How a log goes on from a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Join {
    /// With what it has after the snapshot.
    Follows,
    /// Not at all: a crash came between the snapshot's commit and the log's new start. The snapshot
    /// stands for everything.
    Superseded(&'static str),
    /// Entries after the snapshot are missing.
    Gap,
}

/// Reads what is needed of the log. An error is one that says nothing of what is in the files.
pub(crate) fn replay(
    disk: &mut dyn Disk,
    files: &[SegmentFile],
    known: Known,
) -> Result<Replayed, DiskError> {
    let live = live_segments(files);
    let needed_from =
        live.iter().rposition(|&i| header_of(files, i).serves_from <= known.snapshot.index);
    let mut log = Replayed::empty();
    let Some(needed_from) = needed_from else {
        log.damage = Some(nothing_to_start_from(files, &live, known));
        return Ok(log);
    };
    let live = &live[needed_from..];
    log.start = header_of(files, live[0]).serves_from.max(LogIndex(1));
    log.next_index = log.start;
    log.next = header_of(files, live[0]).first;
    for (i, &place) in live.iter().enumerate() {
        let sealed_by = live.get(i + 1).map(|&next| header_of(files, next));
        let damage = log.read_segment(disk, files, place, sealed_by, known)?.err();
        // A segment that is missing after this one is the better explanation.
        log.damage = if sealed_by.is_some() {
            damage.map(|damage| damaged_header_after(files, place).unwrap_or(damage))
        } else {
            lost_at_the_end(files, place, known).or(damage)
        };
        if log.damage.is_some() {
            break;
        }
    }
    Ok(log)
}

/// Reads all that there is of the log, whether or not it goes on from a snapshot.
pub(crate) fn replay_all(
    disk: &mut dyn Disk,
    files: &[SegmentFile],
    known: Known,
) -> Result<Replayed, DiskError> {
    let first = live_segments(files).first().map(|&i| header_of(files, i).serves_from);
    let snapshot = LogPosition { index: first.unwrap_or(LogIndex::ZERO), ..known.snapshot };
    replay(disk, files, Known { snapshot, ..known })
}

/// The segments that no later one voids, oldest first. Those without a sound header are not among
/// them: whether one is missing shows where its batches do.
pub(crate) fn live_segments(files: &[SegmentFile]) -> Vec<usize> {
    let mut live: Vec<usize> = Vec::with_capacity(files.len());
    for (i, file) in files.iter().enumerate() {
        let Some(header) = &file.header else { continue };
        while live
            .last()
            .is_some_and(|&top| header_of(files, top).first.sequence >= header.first.sequence)
        {
            live.pop();
        }
        live.push(i);
    }
    live
}

fn header_of(files: &[SegmentFile], place: usize) -> &SegmentHeader {
    files[place].header.as_ref().expect("only segments with a sound header are live")
}

fn damage_at(file: FileName, offset: u64, batch: u64, reason: DamageReason) -> Damage {
    Damage { segment: file, offset, batch, reason }
}

/// Why no segment serves the snapshot.
fn nothing_to_start_from(files: &[SegmentFile], live: &[usize], known: Known) -> Damage {
    let damaged = files.iter().find(|file| file.header.is_none());
    match (damaged, files.first()) {
        (Some(file), _) => damage_at(file.file.clone(), 0, 0, DamageReason::SegmentHeader),
        (None, Some(first)) => {
            let log_from = live.first().map_or(LogIndex(1), |&i| header_of(files, i).serves_from);
            damage_at(first.file.clone(), 0, 0, DamageReason::Gap { log_from })
        }
        (None, None) => {
            damage_at(segment::file_name(known.segment), 0, 0, DamageReason::SegmentMissing)
        }
    }
}

/// The next segment after this place, if its header is damaged.
fn damaged_header_after(files: &[SegmentFile], place: usize) -> Option<Damage> {
    let next = files.get(place + 1).filter(|file| file.header.is_none())?;
    Some(damage_at(next.file.clone(), 0, 0, DamageReason::SegmentHeader))
}

/// Is there a segment missing after the last one?
fn lost_at_the_end(files: &[SegmentFile], last: usize, known: Known) -> Option<Damage> {
    if let Some(damage) = damaged_header_after(files, last) {
        return Some(damage);
    }
    let there = files[last].sequence >= known.segment;
    let missing = segment::file_name(known.segment);
    (!there).then(|| damage_at(missing, 0, 0, DamageReason::SegmentMissing))
}

impl Replayed {
    fn empty() -> Self {
        Self {
            parts: Vec::new(),
            start: LogIndex(1),
            base: None,
            next_index: LogIndex(1),
            next: Link { sequence: 1, chain: 0 },
            read: Vec::new(),
            used_bytes: Vec::new(),
            tail: Vec::new(),
            synced_batch: 0,
            torn: false,
            damage: None,
            batches_read: 0,
            bytes_read: 0,
        }
    }

    /// Reads a segment: all of it, or up to where the next one says it ends.
    fn read_segment(
        &mut self,
        disk: &mut dyn Disk,
        files: &[SegmentFile],
        place: usize,
        sealed_by: Option<&SegmentHeader>,
        known: Known,
    ) -> Result<Result<(), Damage>, DiskError> {
        let (file, header) = (&files[place], header_of(files, place));
        self.tail.clear();
        self.read.push(place);
        self.used_bytes.push(FIRST_BATCH_OFFSET);
        // A segment gets its name after all before it is synced.
        self.synced_batch =
            self.synced_batch.max(header.first.sequence - 1).max(known.synced_batch);
        let at = |offset, batch, reason| damage_at(file.file.clone(), offset, batch, reason);
        if file.len_bytes != header.len_bytes {
            return Ok(Err(at(file.len_bytes, 0, DamageReason::SegmentLength)));
        }
        let (bytes, all_of_it) = match read_file(disk, file) {
            Ok((bytes, _)) if bytes.len() as u64 != file.len_bytes => {
                return Ok(Err(at(0, 0, DamageReason::SegmentLength)));
            }
            Ok(read) => read,
            Err(DiskError::NotFound(_)) => return Ok(Err(at(0, 0, DamageReason::Unreadable))),
            // Too many open files, say: to give up a log for that would be wrong.
            Err(error) => return Err(error),
        };
        self.bytes_read += file.len_bytes;
        Ok(self.read_batches(header, &bytes, sealed_by, known).map_err(|reason| {
            let reason = if all_of_it { reason } else { DamageReason::Unreadable };
            at(self.offset(), self.next.sequence, reason)
        }))
    }

    /// Where in the last segment read the next batch is.
    fn offset(&self) -> u64 {
        self.used_bytes.last().copied().unwrap_or(FIRST_BATCH_OFFSET)
    }

    fn read_batches(
        &mut self,
        header: &SegmentHeader,
        bytes: &[u8],
        sealed_by: Option<&SegmentHeader>,
        known: Known,
    ) -> Result<(), DamageReason> {
        let salt = header.salt();
        loop {
            if let Some(seal) = sealed_by.filter(|seal| seal.first.sequence == self.next.sequence) {
                let same_chain = seal.first.chain == self.next.chain;
                return if same_chain { Ok(()) } else { Err(DamageReason::Inconsistent) };
            }
            match batch::decode(salt, bytes, self.offset(), self.next) {
                Ok(batch) => self.take(batch)?,
                Err(_) if sealed_by.is_some() => return Err(DamageReason::SealedSegment),
                Err(fault) => {
                    let rest = bytes.get(self.offset() as usize..).unwrap_or_default();
                    let first_sector = (self.offset() / SECTOR_BYTES) as u32;
                    let tail = Tail { header, first_sector, rest, fault };
                    self.torn = judge_tail(&tail, self.next.sequence, known.synced_batch)?;
                    return Ok(());
                }
            }
        }
    }

    /// Lets a batch change the log.
    fn take(&mut self, batch: Batch) -> Result<(), DamageReason> {
        if let Some(position) = batch.reset {
            self.parts.clear();
            self.base = Some(position);
            self.start = batch.first_index;
            self.next_index = batch.first_index;
        }
        let after_base = self.base.is_none_or(|base| batch.first_index > base.index);
        if batch.first_index > self.next_index || !after_base {
            return Err(DamageReason::Inconsistent);
        }
        if !planted!(CutNotReplayed) {
            self.truncate(batch.first_index);
        }
        self.start = self.start.min(batch.first_index);
        self.next_index = batch.first_index.plus(batch.entries.len() as u64);
        self.next = Link { sequence: batch.link.sequence + 1, chain: batch.chain_after };
        self.synced_batch = self.synced_batch.max(batch.synced_through);
        self.batches_read += 1;
        if let Some(used_bytes) = self.used_bytes.last_mut() {
            *used_bytes += batch.bytes_on_disk;
        }
        let entries = batch.entries.clone();
        self.parts.push(Part { entries, buffer_bytes: batch.buffer_bytes });
        self.tail.push(batch);
        Ok(())
    }

    /// Drops all entries from this index on.
    fn truncate(&mut self, from: LogIndex) {
        while let Some(part) = self.parts.last_mut() {
            let keep = part.entries.partition_point(|entry| entry.index < from);
            part.entries.truncate(keep);
            if keep > 0 {
                break;
            }
            self.parts.pop();
        }
    }

    /// The term of the last entry.
    pub(crate) fn last_term(&self) -> Option<Term> {
        self.parts.iter().rev().find_map(|part| part.entries.last()).map(|entry| entry.term)
    }

    /// The last entry that fits.
    pub(crate) fn last_entry(&self, fits: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        self.parts.iter().rev().flat_map(|part| part.entries.iter().rev()).find(|entry| fits(entry))
    }

    /// Whoever has a snapshot of this index or a higher one can read it from here on.
    pub(crate) fn begins_at(&self) -> LogIndex {
        self.base.map_or(self.start, |base| base.index)
    }

    /// Does the log go on from this snapshot?
    pub(crate) fn join(&self, snapshot: LogPosition) -> Join {
        if self.next_index <= snapshot.index {
            return Join::Superseded("it ends before the snapshot");
        }
        match self.term_at(snapshot.index) {
            None => Join::Gap,
            Some(term) if term == snapshot.term => Join::Follows,
            Some(_) => Join::Superseded("it conflicts with the snapshot"),
        }
    }

    /// The damage that it is if the log, as far as it is sound, does not go on from this snapshot.
    pub(crate) fn gap_after(&self, snapshot: LogPosition, files: &[SegmentFile]) -> Option<Damage> {
        match (&self.damage, self.read.first()) {
            (Some(damage), _) if matches!(damage.reason, DamageReason::Gap { .. }) => {
                Some(damage.clone())
            }
            (None, Some(&first)) if self.join(snapshot) == Join::Gap => {
                let reason = DamageReason::Gap { log_from: self.begins_at() };
                Some(damage_at(files[first].file.clone(), FIRST_BATCH_OFFSET, 0, reason))
            }
            _ => None,
        }
    }

    /// The term of an entry it has, or of the one it started anew after.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let base = self.base.unwrap_or(LogPosition::ZERO);
        if base.index == index {
            return Some(base.term).filter(|_| self.start == index.next());
        }
        let mut entries = self.parts.iter().flat_map(|part| &part.entries);
        entries.find(|entry| entry.index == index).map(|entry| entry.term)
    }

    /// The entries after this index. Entries that are a small share of their buffer are copied, so
    /// that they do not keep it.
    pub(crate) fn into_entries_after(self, index: LogIndex) -> Vec<Entry> {
        let mut entries = Vec::new();
        for Part { entries: mut part, buffer_bytes } in self.parts {
            let covered = part.partition_point(|entry| entry.index <= index);
            part.drain(..covered);
            let live_bytes: usize = part.iter().map(Entry::size_bytes).sum();
            if live_bytes < buffer_bytes / PINNED_SHARE {
                for entry in &mut part {
                    entry.data = entry.data.to_vec().into();
                }
            }
            entries.append(&mut part);
        }
        entries
    }
}

/// Reads a segment. What the disk cannot read of it is filled with what nobody wrote, page by page;
/// the second result says that there is nothing of that kind.
pub(crate) fn read_file(
    disk: &mut dyn Disk,
    segment: &SegmentFile,
) -> Result<(Bytes, bool), DiskError> {
    const NOBODY_WROTE: u8 = 0xff;
    let SegmentFile { file, len_bytes, .. } = segment;
    match page::read(disk, file, 0, *len_bytes) {
        Err(DiskError::Io(..)) => {}
        whole => return whole.map(|bytes| (bytes, true)),
    }
    let mut all_of_it = true;
    let mut bytes = Vec::with_capacity(*len_bytes as usize);
    for offset in (0..*len_bytes).step_by(PAGE_BYTES as usize) {
        let page_bytes = PAGE_BYTES.min(len_bytes - offset);
        match page::read(disk, file, offset, page_bytes) {
            Ok(page) => bytes.extend_from_slice(&page),
            Err(DiskError::Io(..)) => {
                all_of_it = false;
                bytes.resize(bytes.len() + page_bytes as usize, NOBODY_WROTE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((bytes.into(), all_of_it))
}

/// What stands where the next batch should be, to the end of the last segment.
pub(crate) struct Tail<'a> {
    /// Of the segment.
    pub(crate) header: &'a SegmentHeader,
    /// The number of the first sector of `rest`.
    pub(crate) first_sector: u32,
    pub(crate) rest: &'a [u8],
    /// Why it is not a valid batch.
    pub(crate) fault: BatchFault,
}

/// The end of the log, a batch that a crash cut short (true: such a batch was never acknowledged),
/// or damage.
///
/// Cut short means: nothing says that this batch was synced, and every sector from here on is
/// either still what it was when the segment began, or exactly what this batch wrote there.
pub(crate) fn judge_tail(
    tail: &Tail<'_>,
    expected: u64,
    synced_batch: u64,
) -> Result<bool, DamageReason> {
    if planted!(DamagedTailCut) {
        return Ok(true);
    }
    let mut begun = false;
    let mut strange = None;
    let salt = tail.header.salt();
    let earlier = tail.header.earlier_salts();
    let sectors = tail.rest.chunks(SECTOR_BYTES as usize);
    for (number, bytes) in (tail.first_sector..).zip(sectors) {
        let left_by = earlier.iter().find(|(end, _)| number < *end).map(|&(_, salt)| salt);
        match sector::classify(salt, left_by, number, bytes) {
            Sector::Unwritten => {}
            Sector::Sound(batch) if batch == expected as u32 => begun = true,
            // The log lane runs in order, and each list ends with a sync: what is of a later batch
            // was written after this one was synced.
            Sector::Sound(_) => strange = strange.or(Some(DamageReason::LaterBatch)),
            Sector::Damaged => strange = Some(DamageReason::NonZeroSector),
        }
    }
    if let Some(reason) = strange {
        return Err(reason);
    }
    if tail.fault == BatchFault::Inconsistent {
        return Err(DamageReason::Inconsistent);
    }
    if expected <= synced_batch {
        return Err(DamageReason::BelowWatermark);
    }
    Ok(begun)
}

/// Reads the headers of the segments that are there, in order of their numbers.
pub(crate) fn read_headers(
    disk: &mut dyn Disk,
    found: Vec<(u64, FileName, u64)>,
    identity: crate::Identity,
) -> Result<Vec<SegmentFile>, crate::OpenError> {
    let mut files = Vec::with_capacity(found.len());
    for (sequence, file, len_bytes) in found {
        let header = match page::read(disk, &file, 0, PAGE_BYTES) {
            Ok(page) => match SegmentHeader::decode(&page) {
                Ok(header) => Some(header),
                Err(page::PageFault::Damaged(_)) => None,
                Err(page::PageFault::Version(version)) => {
                    return Err(crate::OpenError::UnsupportedVersion { file, version });
                }
            },
            Err(DiskError::Io(..) | DiskError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let header = header.filter(|h| h.identity == identity && h.sequence == sequence);
        files.push(SegmentFile { sequence, file, len_bytes, header });
    }
    files.sort_by_key(|file| file.sequence);
    Ok(files)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
