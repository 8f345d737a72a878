//! The log while it runs: where the next batch goes, when a segment is full, which segments are no
//! longer needed. Makes lists of steps; reads nothing. Recovery is in `replay.rs` and `open.rs`.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{Entry, LogIndex, LogPosition, planted};

use crate::batch::{self, Change, Link, batch_bytes};
use crate::page::PAGE_BYTES;
use crate::segment::{
    self, EARLIER_MAX, EarlierLife, FIRST_BATCH_OFFSET, SegmentHeader, WAL_DIRECTORY,
};
use crate::storage::Maintenance;
use crate::{Identity, Options};

/// How much of a spare is zeroed between two syncs: small, so that a commit of the log lane never
/// waits behind a long one.
const ZERO_CHUNK_BYTES: u64 = 256 << 10;

/// A segment that is part of the log.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) file: FileName,
    pub(crate) sequence: u64,
    pub(crate) salt: u32,
    pub(crate) len_bytes: u64,
    pub(crate) first_batch: u64,
    /// Of its header.
    pub(crate) serves_from: LogIndex,
    /// Where its next batch goes; bytes before it are used.
    pub(crate) used_bytes: u64,
    /// It is known to survive a crash, under its name.
    pub(crate) durable: bool,
    /// The name it has until its first batch is synced.
    pub(crate) staged: Option<FileName>,
    /// As in its header; `None` if an earlier run of the node began it.
    pub(crate) earlier: Option<Vec<EarlierLife>>,
}

/// A file of zeros, but for what earlier lives left there: ready to become a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spare {
    pub(crate) file: FileName,
    pub(crate) len_bytes: u64,
    pub(crate) earlier: Vec<EarlierLife>,
}

/// A file that is no longer part of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Released {
    pub(crate) file: FileName,
    pub(crate) len_bytes: u64,
    /// What may stand in it besides zeros; `None` if this run of the node does not know. A start
    /// reads of a segment what it needs, and no more, so the rest may be damaged.
    pub(crate) earlier: Option<Vec<EarlierLife>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    identity: Identity,
    /// The node's incarnation; in the salt of every segment begun now.
    generation: u64,
    segment_bytes: u64,
    entry_bytes_max: usize,
    /// Oldest first. Never empty; batches go to the last.
    segments: VecDeque<Segment>,
    /// Not yet recycled or removed.
    released: VecDeque<Released>,
    spare: Option<Spare>,
    /// What takes its place, where that had to be zeroed.
    later_spare: Option<Spare>,
    /// Names the next spare.
    spare_number: u64,
    /// The next batch.
    next: Link,
    last_index: LogIndex,
    /// The last batch of each append that is not known to be durable.
    outstanding: VecDeque<u64>,
    trimmed: LogIndex,
    out_of_space: bool,
    /// The disk was found full since the host last said to ask again.
    asked: bool,
}

/// What recovery hands to a running log.
pub(crate) struct Found {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) released: VecDeque<Released>,
    pub(crate) spare: Option<Spare>,
    pub(crate) spare_number: u64,
    pub(crate) next: Link,
    pub(crate) last_index: LogIndex,
}

impl Log {
    /// A log that goes on after what recovery found.
    pub(crate) fn new(
        identity: Identity,
        generation: u64,
        options: &Options,
        found: Found,
    ) -> Self {
        assert!(!found.segments.is_empty(), "a log has at least one segment");
        Self {
            identity,
            generation,
            segment_bytes: options.segment_bytes,
            entry_bytes_max: options.entry_bytes_max,
            segments: found.segments,
            released: found.released,
            spare: found.spare,
            later_spare: None,
            spare_number: found.spare_number,
            next: found.next,
            last_index: found.last_index,
            outstanding: VecDeque::new(),
            trimmed: LogIndex::ZERO,
            out_of_space: false,
            asked: false,
        }
    }

    /// Appends batches to the log. True if a new segment was begun.
    pub(crate) fn append(
        &mut self,
        reset: Option<LogPosition>,
        entries: &[Entry],
        ops: &mut Vec<DiskOp>,
    ) -> bool {
        self.check_change(reset, entries);
        let newest = self.current().sequence;
        let (mut reset, mut rest) = (reset, entries);
        while reset.is_some() || !rest.is_empty() {
            let first_index = match (rest.first(), reset) {
                (Some(entry), _) => entry.index,
                (None, position) => position.expect("loop condition").index.next(),
            };
            let count = self.fitting(rest);
            if count == 0 && !(rest.is_empty() && self.room_bytes() >= PAGE_BYTES) {
                let serves_from = match reset {
                    Some(position) => position.index,
                    None => self.voided_serves_from().min(first_index),
                };
                self.begin_segment(serves_from, ops);
                continue;
            }
            let (now, later) = rest.split_at(count);
            self.write_batch(&Change { reset: reset.take(), first_index, entries: now }, ops);
            rest = later;
        }
        self.outstanding.push_back(self.next.sequence - 1);
        self.current().sequence != newest
    }

    /// Programmer errors only: these entries come from `raft`, which has checked what peers sent,
    /// and how long each is.
    fn check_change(&self, reset: Option<LogPosition>, entries: &[Entry]) {
        let next = reset.map_or(self.last_index, |position| position.index).next();
        let Some(first) = entries.first() else { return };
        assert!(first.index <= next, "entry {} leaves a gap after {next}", first.index);
        if reset.is_some() {
            assert!(first.index == next, "entry {} does not follow the reset", first.index);
        } else {
            assert!(first.index > self.trimmed, "entry {} was trimmed", first.index);
        }
        for (i, entry) in (0..).zip(entries) {
            assert!(entry.index == first.index.plus(i), "entry {} out of order", entry.index);
            assert!(
                entry.data.len() <= self.entry_bytes_max,
                "entry {} has {} bytes, the limit is {}",
                entry.index,
                entry.data.len(),
                self.entry_bytes_max
            );
        }
    }

    /// How many of these entries fit in what is left of the current segment, as one batch.
    fn fitting(&self, entries: &[Entry]) -> usize {
        let room_bytes = self.room_bytes();
        let mut data_bytes = 0;
        let mut count = 0;
        for entry in entries {
            data_bytes += entry.data.len() as u64;
            if batch_bytes(count + 1, data_bytes) > room_bytes {
                break;
            }
            count += 1;
        }
        count as usize
    }

    /// Whom the current segment serves, if the next one voids it, for there is no batch in it: one
    /// that a start made too short for the first batch.
    fn voided_serves_from(&self) -> LogIndex {
        let is_voided = self.current().used_bytes == FIRST_BATCH_OFFSET;
        if is_voided { self.current().serves_from } else { LogIndex::MAX }
    }

    /// Starts a new current segment, from the spare if there is one. Its file gets its name in
    /// [`Log::write_batch`], when header and first batch are synced.
    fn begin_segment(&mut self, serves_from: LogIndex, ops: &mut Vec<DiskOp>) {
        let sequence = self.current().sequence + 1;
        let next = std::mem::replace(&mut self.spare, self.later_spare.take());
        let spare = next.unwrap_or_else(|| {
            let file = segment::temporary_name(sequence);
            ops.push(DiskOp::Create { file: file.clone(), zero_bytes: self.segment_bytes });
            Spare { file, len_bytes: self.segment_bytes, earlier: Vec::new() }
        });
        let header = SegmentHeader {
            identity: self.identity,
            generation: self.generation,
            sequence,
            first: self.next,
            serves_from,
            len_bytes: spare.len_bytes,
            earlier: spare.earlier,
        };
        let others = header.earlier_salts();
        assert!(others.iter().all(|(_, salt)| *salt != header.salt()), "two lives have one salt");
        let bytes = header.encode().into();
        ops.push(DiskOp::Write { file: spare.file.clone(), offset: 0, bytes });
        self.segments.push_back(Segment::begun(&header, spare.file));
    }

    /// One batch: one write, one sync; after a roll also the segment's name.
    fn write_batch(&mut self, change: &Change<'_>, ops: &mut Vec<DiskOp>) {
        let link = self.next;
        let current = self.segments.back_mut().expect("a log has at least one segment");
        let (bytes, chain) = batch::encode(current.salt, current.used_bytes, link, change);
        let offset = current.used_bytes;
        current.used_bytes += bytes.len() as u64;
        assert!(current.used_bytes <= current.len_bytes, "a batch crosses its segment's end");
        let file = current.staged.as_ref().unwrap_or(&current.file).clone();
        ops.push(DiskOp::Write { file: file.clone(), offset, bytes });
        if !planted!(AppendNotSynced) {
            ops.push(DiskOp::Sync { file });
        }
        if let Some(from) = current.staged.take() {
            ops.push(DiskOp::Rename { from, to: current.file.clone() });
            if !planted!(SegmentNameNotSynced) {
                ops.push(DiskOp::SyncDirectory { directory: WAL_DIRECTORY.into() });
            }
        }
        self.next = Link { sequence: link.sequence + 1, chain };
        self.last_index = match change.entries.last() {
            Some(entry) => entry.index,
            None => change.first_index.prev(),
        };
    }

    /// The oldest outstanding append is durable, with all its segments.
    pub(crate) fn append_synced(&mut self) {
        let synced = self.outstanding.pop_front().expect("no append is outstanding");
        for segment in &mut self.segments {
            segment.durable |= segment.first_batch <= synced;
        }
        self.release();
    }

    /// Entries up to `index` are covered by a durable snapshot.
    pub(crate) fn trim(&mut self, index: LogIndex) {
        self.trimmed = self.trimmed.max(index);
        self.release();
    }

    /// Releases what recovery with such a snapshot does not read: all before the last segment that
    /// serves it and will itself be found.
    fn release(&mut self) {
        let serves = |segment: &Segment| segment.durable && segment.serves_from <= self.trimmed;
        let needed_from = self.segments.iter().rposition(serves);
        let too_many =
            planted!(TrimmedTooFar) && needed_from.is_some_and(|i| i + 1 < self.segments.len());
        for segment in self.segments.drain(..needed_from.unwrap_or(0) + usize::from(too_many)) {
            self.released.push_back(segment.into());
        }
    }

    /// The next work for the segment lane that needs no room: a spare made of a released segment,
    /// those removed that will not be spares, or one more spare. As many are kept as the log has,
    /// which is about what it grows by between two snapshots; none if `room_is_short`.
    pub(crate) fn recycle(&mut self, room_is_short: bool) -> Option<(Maintenance, Vec<DiskOp>)> {
        let fits = |released: &Released| released.len_bytes == self.segment_bytes;
        if self.spare.is_none() && self.released.iter().any(fits) {
            return Some(self.prepare_spare());
        }
        if room_is_short {
            self.released.extend(self.later_spare.take().map(Released::from));
        }
        let removals = self.remove_surplus(if room_is_short { 0 } else { self.segments.len() });
        if !removals.is_empty() {
            return Some((Maintenance::Removal, removals));
        }
        self.wants_another_spare().then(|| self.prepare_spare())
    }

    /// Removes what does not fit, and of what does the oldest, so that so many are left.
    fn remove_surplus(&mut self, kept: usize) -> Vec<DiskOp> {
        let fits = |released: &Released| released.len_bytes == self.segment_bytes;
        let fitting = self.released.iter().filter(|&released| fits(released)).count();
        let mut surplus = fitting.saturating_sub(kept);
        let mut ops = Vec::new();
        self.released.retain(|released| {
            let keeps = fits(released) && surplus == 0;
            if !keeps {
                surplus -= usize::from(fits(released));
                ops.push(DiskOp::Remove { file: released.file.clone() });
            }
            keeps
        });
        ops
    }

    /// If each released segment, all of which fit now, would have to be zeroed first, for a start
    /// found or made it, that is done before the log waits for it.
    fn wants_another_spare(&self) -> bool {
        let need_zeros = self.released.iter().all(|released| released.earlier.is_none());
        self.later_spare.is_none() && need_zeros && !self.released.is_empty()
    }

    /// Removes all that was released.
    pub(crate) fn remove_released(&mut self) -> Vec<DiskOp> {
        let released = self.released.drain(..).map(|released| released.file);
        let files = released.chain(self.later_spare.take().map(|spare| spare.file));
        files.map(|file| DiskOp::Remove { file }).collect()
    }

    /// Is anything released?
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty() || self.later_spare.is_some()
    }

    /// A new spare, if there is none, and the disk was not found full just now.
    pub(crate) fn grow(&mut self) -> Option<(Maintenance, Vec<DiskOp>)> {
        (self.spare.is_none() && !self.asked).then(|| self.prepare_spare())
    }

    /// There is no room for another segment, though nobody has asked the disk.
    pub(crate) fn may_not_grow(&mut self) {
        self.out_of_space = self.spare.is_none();
    }

    /// A full disk may be asked again.
    pub(crate) fn ask_again(&mut self) {
        self.asked = false;
    }

    /// Makes a spare, of a released segment if one fits: best of one that needs no zeros.
    fn prepare_spare(&mut self) -> (Maintenance, Vec<DiskOp>) {
        let file = segment::spare_name(self.spare_number);
        let len_bytes = self.segment_bytes;
        let released = self.released.iter().enumerate();
        let fitting = released.filter(|(_, released)| released.len_bytes == len_bytes);
        let best = fitting.min_by_key(|(_, released)| released.earlier.is_none()).map(|(i, _)| i);
        let released = best.and_then(|i| self.released.remove(i));
        let earlier = released.as_ref().and_then(|released| released.earlier.clone());
        let zeros = zeros_wanted(earlier.as_deref(), len_bytes);
        let mut earlier = earlier.unwrap_or_default();
        let staged = match zeros {
            Some(_) => segment::spare_temporary_name(self.spare_number),
            None => file.clone(),
        };
        let wal = || DiskOp::SyncDirectory { directory: WAL_DIRECTORY.into() };
        let mut ops = Vec::new();
        // A beginning of this file that may be there is replaced, or zeroed.
        if let Some(Released { file: from, .. }) = released {
            // Only when the old name is gone for good may the contents go.
            ops.extend([DiskOp::Rename { from, to: staged.clone() }, wal()]);
        } else {
            ops.push(DiskOp::Reserve { file: staged.clone(), len_bytes });
        }
        if let Some(zeros) = zeros {
            earlier.retain(|life| life.end_bytes <= zeros.start);
            zero(&staged, zeros, &mut ops);
            ops.extend([DiskOp::Rename { from: staged, to: file.clone() }, wal()]);
        }
        if planted!(EarlierLifeUnnamed) {
            earlier.clear();
        }
        (Maintenance::Spare(Spare { file, len_bytes, earlier }), ops)
    }

    /// A spare is ready.
    pub(crate) fn spare_prepared(&mut self, spare: Spare) {
        let place = if self.spare.is_none() { &mut self.spare } else { &mut self.later_spare };
        *place = Some(spare);
        self.spare_number += 1;
        (self.out_of_space, self.asked) = (false, false);
    }

    /// The disk has no room for a spare.
    pub(crate) fn spare_refused(&mut self) {
        (self.out_of_space, self.asked) = (self.spare.is_none(), true);
    }

    /// The last attempt to prepare a spare met a full disk, or there may be none.
    pub(crate) const fn out_of_space(&self) -> bool {
        self.out_of_space
    }

    /// Bytes of entries that fit for sure.
    pub(crate) fn append_room_bytes(&self) -> Option<u64> {
        let room = self.room_bytes().max(self.spare_room_bytes());
        // `Entry::OVERHEAD_BYTES` per entry, counted by the caller, is more than an entry's header.
        (room >= PAGE_BYTES).then(|| batch::content_bytes(room))
    }

    /// Could an append of entries of this size need a file that is not there yet?
    pub(crate) fn append_needs_space(&self, entries_bytes: u64) -> bool {
        // `Entry::OVERHEAD_BYTES` per entry, counted by the caller, is more than an entry's header.
        let batch_bytes = batch_bytes(0, entries_bytes);
        batch_bytes > self.room_bytes() && batch_bytes > self.spare_room_bytes()
    }

    fn spare_room_bytes(&self) -> u64 {
        self.spare.as_ref().map_or(0, |spare| spare.len_bytes - FIRST_BATCH_OFFSET)
    }

    fn spares(&self) -> impl Iterator<Item = &Spare> {
        self.spare.iter().chain(&self.later_spare)
    }

    /// Bytes left in the current segment and in what comes after it.
    pub(crate) fn all_room_bytes(&self) -> u64 {
        let spares: u64 = self.spares().map(|spare| spare.len_bytes - FIRST_BATCH_OFFSET).sum();
        self.room_bytes() + spares
    }

    /// Bytes left in the current segment.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.current().len_bytes - self.current().used_bytes
    }

    /// Bytes of batches in segments that are part of the log.
    pub(crate) fn bytes_live(&self) -> u64 {
        self.segments.iter().map(|segment| segment.used_bytes - FIRST_BATCH_OFFSET).sum()
    }

    /// Bytes of all files of the log, spares and released ones included, but for a spare that is
    /// being prepared.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.len_bytes).sum();
        let released: u64 = self.released.iter().map(|released| released.len_bytes).sum();
        let spares: u64 = self.spares().map(|spare| spare.len_bytes).sum();
        segments + released + spares
    }

    /// The number of the current segment.
    pub(crate) fn segment_sequence(&self) -> u64 {
        self.current().sequence
    }

    /// The last batch that was made.
    pub(crate) const fn last_batch(&self) -> u64 {
        self.next.sequence - 1
    }

    /// The last entry that was appended.
    pub(crate) const fn last_index(&self) -> LogIndex {
        self.last_index
    }

    fn current(&self) -> &Segment {
        self.segments.back().expect("a log has at least one segment")
    }
}

impl Segment {
    /// A segment with a header and no batch, still under another name.
    pub(crate) fn begun(header: &SegmentHeader, staged: FileName) -> Self {
        Self {
            staged: Some(staged),
            durable: false,
            earlier: Some(header.earlier.clone()),
            ..Self::standing(header, FIRST_BATCH_OFFSET)
        }
    }

    /// A segment that is there, with its batches ending at `used_bytes`.
    pub(crate) fn standing(header: &SegmentHeader, used_bytes: u64) -> Self {
        Self {
            file: header.file(),
            sequence: header.sequence,
            salt: header.salt(),
            len_bytes: header.len_bytes,
            first_batch: header.first.sequence,
            serves_from: header.serves_from,
            used_bytes,
            durable: true,
            staged: None,
            earlier: None,
        }
    }
}

impl From<Segment> for Released {
    /// All batches of a segment that is released are synced, so of what was there before only that
    /// behind them is left.
    fn from(segment: Segment) -> Self {
        let Segment { file, len_bytes, sequence, used_bytes, .. } = segment;
        let earlier = segment.earlier.map(|mut earlier| {
            earlier.retain(|life| life.end_bytes > used_bytes);
            earlier.insert(0, EarlierLife { number: sequence, end_bytes: used_bytes });
            earlier
        });
        Self { file, len_bytes, earlier }
    }
}

impl From<Spare> for Released {
    fn from(Spare { file, len_bytes, earlier }: Spare) -> Self {
        Self { file, len_bytes, earlier: Some(earlier) }
    }
}

/// What of a file must be zeroed before it can be a spare: all of it, if it is not known what
/// stands there; what the older lives left, if there are too many of them.
fn zeros_wanted(earlier: Option<&[EarlierLife]>, len_bytes: u64) -> Option<Range<u64>> {
    match earlier {
        None => Some(0..len_bytes),
        Some([newest, .., oldest]) if earlier.map_or(0, <[_]>::len) > EARLIER_MAX => {
            Some(newest.end_bytes..oldest.end_bytes)
        }
        Some(_) => None,
    }
}

/// Overwrites part of a file with zeros, in its place: it has its blocks, so a full disk does not
/// matter.
fn zero(file: &FileName, part: Range<u64>, ops: &mut Vec<DiskOp>) {
    let zeros = Bytes::from(vec![0; ZERO_CHUNK_BYTES.min(part.end - part.start) as usize]);
    let mut offset = part.start;
    while offset < part.end {
        let bytes = zeros.slice(..zeros.len().min((part.end - offset) as usize));
        let chunk_bytes = bytes.len() as u64;
        ops.push(DiskOp::Write { file: file.clone(), offset, bytes });
        ops.push(DiskOp::Sync { file: file.clone() });
        offset += chunk_bytes;
    }
}
