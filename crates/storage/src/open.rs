//! Opening a data directory. First everything is read and judged; only then is anything written.
//! `docs/format.md`, "Recovery", is this file in words.

use std::collections::VecDeque;
use std::sync::Arc;

use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};
use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, SnapshotMeta, planted};

use crate::batch::Link;
use crate::create::check_identity;
use crate::fresh::FreshSegment;
use crate::hard_state::{self, Record};
use crate::log::{self, Log, Released, Segment, Spare};
use crate::members;
use crate::page::{PAGE_BYTES, is_zero};
use crate::replay::{self, Join, Known, Replayed, SegmentFile};
use crate::reserve::{self, Reserve};
use crate::segment::{self, FIRST_BATCH_OFFSET, SegmentHeader, WAL_DIRECTORY};
use crate::snapshot::{self, ARRIVING, SNAPSHOT_DIRECTORY};
use crate::survey::{Directory, SnapshotSink, Snapshots, best_partial};
use crate::{Damage, Identity, OpenError, Options, PartialSnapshot, Recovered, Report, Storage};

/// Bytes of an arriving snapshot that are read and written again at once.
const REWRITE_BYTES: u64 = 1 << 20;
/// Whole segments that the log has room for, when a node begins to serve with a short one.
const WHOLE_SEGMENTS_MIN: usize = 2;

/// What to do about a log that is damaged where it may hold acknowledged entries.
#[derive(Clone, Copy)]
pub enum OnDamage<'a> {
    /// Refuse with [`OpenError::DamagedLog`] and change nothing.
    Refuse,
    /// Rule S12, if this agrees: put what is damaged aside, durably mark the node as non-voting,
    /// then go on with what stands before the damage. [`Recovered::faulty`] says what was cut off.
    Rejoin(&'a dyn Fn(&Salvage<'_>) -> bool),
}

/// What a damaged log still says, for whoever decides whether the rest may be given up.
#[derive(Debug)]
pub struct Salvage<'a> {
    snapshot: Option<&'a SnapshotMeta>,
    log: &'a Replayed,
}

impl Salvage<'_> {
    /// What the newest sound snapshot covers.
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot
    }

    /// The last entry of this kind after the snapshot that stands before the damage.
    pub fn last_entry_of(&self, kind: EntryKind) -> Option<&Entry> {
        let after = self.snapshot.map_or(LogIndex::ZERO, |meta| meta.position.index);
        self.log.last_entry(|entry| entry.kind == kind && entry.index > after)
    }
}

impl Storage {
    /// Finds the state of a node again. Refuses on damage: [`OnDamage::Refuse`].
    pub fn open(
        disk: &mut dyn Disk,
        identity: Identity,
        options: &Options,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_with(disk, identity, options, OnDamage::Refuse, &mut ())
    }

    /// Finds the state of a node again. The chunks of the newest sound snapshot go to `sink` as
    /// they are checked.
    ///
    /// # Errors
    ///
    /// The options make no sense, no node lives in the directory or another one does, something is
    /// damaged that `on_damage` does not give up or of a newer version, or the disk failed.
    pub fn open_with(
        disk: &mut dyn Disk,
        identity: Identity,
        options: &Options,
        on_damage: OnDamage<'_>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<(Self, Recovered), OpenError> {
        options.check().map_err(OpenError::BadOptions)?;
        check_identity(disk, identity)?;
        let directory = Directory::survey(disk)?;
        let found = Found::read(disk, &directory, identity, on_damage, sink)?;
        let (files, report) = (&found.files[..], Report::default());
        let mut opening = Opening { disk, identity, options, directory, files, report };
        let storage = opening.finish(&found)?;
        let (record, report) = (storage.hard_state, opening.report);
        Ok((storage, found.into_recovered(record, report)))
    }

    /// What [`Storage::open`] would find, or refuse, in the directory of whatever node it is of, or
    /// [`Storage::agree`] would refuse before it as damaged. Changes nothing, not even by a sync;
    /// what it says of a node that runs may be over already.
    pub fn examine(disk: &mut dyn Disk) -> Result<(Identity, Recovered), OpenError> {
        let identity = Self::read_identity(disk)?;
        members::read(disk, identity)?;
        let directory = Directory::list(disk)?;
        let found = Found::read(disk, &directory, identity, OnDamage::Refuse, &mut ())?;
        let record = found.hard_state.record;
        Ok((identity, found.into_recovered(record, Report::default())))
    }
}

/// All that reading finds: recovery but for its writing.
struct Found {
    hard_state: hard_state::Loaded,
    snapshots: Snapshots,
    files: Vec<SegmentFile>,
    log: Replayed,
    verdict: Verdict,
    partial: Option<PartialSnapshot>,
}

impl Found {
    fn read(
        disk: &mut dyn Disk,
        directory: &Directory,
        identity: Identity,
        on_damage: OnDamage<'_>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<Self, OpenError> {
        let hard_state = hard_state::load(disk, identity)?;
        let snapshots = Snapshots::read(disk, directory, identity, sink)?;
        let position = snapshots.position();
        let known = Known {
            snapshot: position,
            synced_batch: hard_state.record.synced_batch,
            segment: hard_state.record.segment,
        };
        let files = replay::read_headers(disk, directory.segments(), identity)?;
        let log = replay::replay(disk, &files, known)?;
        let verdict = judge(&log, &files, &snapshots, &hard_state.record, on_damage)?;
        let partial = best_partial(disk, directory, position)?;
        Ok(Self { hard_state, snapshots, files, log, verdict, partial })
    }

    /// What is told of it: with the hard state as it is, and what was done beyond reading.
    fn into_recovered(self, record: Record, mut report: Report) -> Recovered {
        let position = self.snapshots.position();
        let Self { hard_state, snapshots, files, log, verdict, partial } = self;
        report.segments_read = log.read.len();
        report.log_bytes_read = log.bytes_read;
        report.batches_read = log.batches_read;
        report.log_discarded = verdict.discard;
        if let (true, Some(&last)) = (log.torn, log.read.last()) {
            let offset = log.used_bytes.last().copied().unwrap_or_default();
            report.torn_tail = Some((files[last].file.clone(), offset));
        }
        report.hard_state_repaired = hard_state.repair.then(|| hard_state.write_order[0].into());
        report.hard_state_damaged = hard_state.damaged;
        report.snapshots_damaged = snapshots.damaged.into_iter().map(|(file, _)| file).collect();
        let entries = match verdict.discard {
            Some(_) => Vec::new(),
            None => log.into_entries_after(position.index),
        };
        report.entries = entries.len();
        Recovered {
            hard_state: record.hard_state,
            snapshot: snapshots.sound.into_iter().next(),
            entries,
            non_voting_until: record.non_voting_until,
            newborn: record.newborn,
            faulty: verdict.faulty,
            partial_snapshot: partial,
            incarnation: record.incarnation,
            report,
        }
    }
}

/// What is to become of the log that was read.
struct Verdict {
    /// Why the log is dropped as a whole, if it is.
    discard: Option<&'static str>,
    faulty: Option<Damage>,
}

/// Refuses, or says what to keep.
fn judge(
    log: &Replayed,
    files: &[SegmentFile],
    snapshots: &Snapshots,
    record: &Record,
    on_damage: OnDamage<'_>,
) -> Result<Verdict, OpenError> {
    let position = snapshots.position();
    let damage = log.damage.clone().or_else(|| log.gap_after(position, files));
    let damage = damage.filter(|_| !(planted!(GapStartsAnew) && log.read.is_empty()));
    if let Some(damage) = &damage {
        let snapshot = snapshots.sound.first().map(|stored| &stored.meta);
        let gives_up = match on_damage {
            OnDamage::Refuse => false,
            OnDamage::Rejoin(agrees) => agrees(&Salvage { snapshot, log }),
        };
        if !gives_up {
            return Err(snapshots.refuse(damage.clone()));
        }
    }
    if log.last_term().is_some_and(|term| term > record.hard_state.term) {
        return Err(OpenError::DamagedHardState("the log has entries of a later term"));
    }
    let discard = match log.join(position) {
        Join::Follows => None,
        Join::Superseded(why) => Some(why),
        Join::Gap => Some("entries are missing after the snapshot"),
    };
    Ok(Verdict { discard, faulty: damage })
}

/// The writing half of opening.
struct Opening<'a> {
    disk: &'a mut dyn Disk,
    identity: Identity,
    options: &'a Options,
    directory: Directory,
    files: &'a [SegmentFile],
    report: Report,
}

impl Opening<'_> {
    fn finish(&mut self, found: &Found) -> Result<Storage, OpenError> {
        let Found { hard_state, snapshots, log, verdict, partial, .. } = found;
        let (position, faulty) = (snapshots.position(), verdict.faulty.is_some());
        verdict.faulty.iter().try_for_each(|damage| self.keep_damaged(damage))?;
        let mut record = self.renew_hard_state(hard_state, position, faulty)?;
        let spare = self.adopt_spare()?;
        self.remove_leftovers(spare.as_ref(), partial.as_ref())?;
        partial.iter().try_for_each(|partial| self.write_again(partial))?;
        self.set_damaged_aside(snapshots)?;
        let start_anew_after = verdict.discard.map(|_| position);
        let mut log = self.settle_log(log, start_anew_after, faulty, &mut record, spare)?;
        self.reserve_segments(&mut log)?;
        let held_bytes = self.disk.len_bytes(&reserve::file_name())?.unwrap_or(0);
        Ok(Storage {
            log: Log::new(self.identity, record.incarnation, self.options, log),
            hard_state: record,
            snapshots: snapshots.sound.clone(),
            snapshots_kept: self.options.snapshots_kept,
            reserve: Reserve::found(held_bytes, self.options.segment_bytes),
            maintaining: None,
            committing: None,
        })
    }

    /// Copies the segments from the damaged one on, for whoever wants to look at them: what is
    /// given up is overwritten in time. Where there is no room there is no copy: no start waits for
    /// it.
    fn keep_damaged(&mut self, damage: &Damage) -> Result<(), OpenError> {
        let lost: Vec<(FileName, u64)> = self
            .files
            .iter()
            .filter(|file| file.file >= damage.segment)
            .map(|file| (file.file.clone(), file.len_bytes))
            .collect();
        for (file, len_bytes) in &lost {
            let copy: FileName = Arc::from(format!("{file}.damaged"));
            match self.copy_damaged(file, *len_bytes, &copy) {
                Ok(()) => self.report.segments_damaged.push(copy),
                Err(DiskError::NoSpace(_)) => {
                    if self.disk.len_bytes(&copy)?.is_some() {
                        self.disk.execute(&DiskOp::Remove { file: copy })?;
                    }
                    self.report.segments_not_kept += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !lost.is_empty() {
            self.disk.execute(&DiskOp::SyncDirectory { directory: WAL_DIRECTORY.into() })?;
        }
        Ok(())
    }

    /// A sector that cannot be read is zero in the copy, and so is its page.
    fn copy_damaged(
        &mut self,
        file: &FileName,
        len_bytes: u64,
        copy: &FileName,
    ) -> Result<(), DiskError> {
        self.disk.execute(&DiskOp::Create { file: copy.clone(), zero_bytes: len_bytes })?;
        for offset in (0..len_bytes).step_by(PAGE_BYTES as usize) {
            match self.disk.read(file, offset, PAGE_BYTES) {
                Ok(bytes) if is_zero(&bytes) => {}
                Ok(bytes) => {
                    self.disk.execute(&DiskOp::Write { file: copy.clone(), offset, bytes })?;
                }
                Err(DiskError::Io(..)) => {}
                Err(error) => return Err(error),
            }
        }
        self.disk.execute(&DiskOp::Sync { file: copy.clone() })
    }

    /// Counts this opening in both copies of the hard state, the one to be repaired first; with it
    /// goes the mark of rule S12 if part of the log is given up.
    fn renew_hard_state(
        &mut self,
        loaded: &hard_state::Loaded,
        snapshot: LogPosition,
        faulty: bool,
    ) -> Result<Record, OpenError> {
        let mut record = loaded.record;
        record.sequence += 1;
        record.incarnation += 1;
        if snapshot.term > record.hard_state.term {
            // An installed snapshot can be durable before the term it came with. Nothing of that
            // term was said: everything said waits for its term to be durable.
            record.hard_state.term = snapshot.term;
            record.hard_state.vote = None;
        }
        if faulty {
            record.non_voting_until = Some(LogIndex::MAX);
        }
        let ops = loaded.replace(self.disk, &record)?;
        self.disk.execute_all(&ops)?;
        Ok(record)
    }

    /// A spare that is really zero, if there is one. Another one was a segment before, or a crash
    /// left header and batch in it: what exactly stands in it nobody can tell any more.
    fn adopt_spare(&mut self) -> Result<Option<Spare>, OpenError> {
        let wanted = self.options.segment_bytes;
        for info in &self.directory.wal {
            if segment::number_in(&info.file, ".spare").is_none() || info.len_bytes != wanted {
                continue;
            }
            let zero = match self.disk.read(&info.file, 0, wanted) {
                Ok(bytes) => bytes.len() as u64 == wanted && is_zero(&bytes),
                Err(DiskError::Io(..)) => false,
                Err(error) => return Err(error.into()),
            };
            if zero {
                let file = info.file.clone();
                return Ok(Some(Spare { file, len_bytes: wanted, earlier: Vec::new() }));
            }
        }
        Ok(None)
    }

    /// Removes unfinished files, other spares and other arriving snapshots.
    fn remove_leftovers(
        &mut self,
        spare: Option<&Spare>,
        partial: Option<&PartialSnapshot>,
    ) -> Result<(), OpenError> {
        let kept = [spare.map(|spare| &spare.file), partial.map(|partial| &partial.file)];
        let leftover = |file: &FileName| {
            let ended = [".tmp", ".spare", ARRIVING].iter().any(|ending| file.ends_with(ending));
            ended && !kept.contains(&Some(file))
        };
        for info in self.directory.wal.iter().chain(&self.directory.snapshots) {
            if leftover(&info.file) {
                self.disk.execute(&DiskOp::Remove { file: info.file.clone() })?;
                self.report.leftovers_removed += 1;
            }
        }
        Ok(())
    }

    /// Writes again what has arrived of a snapshot: after a failed sync the page cache may show
    /// what the disk does not have, and no later sync would write it (rule S8).
    fn write_again(&mut self, partial: &PartialSnapshot) -> Result<(), OpenError> {
        let file = &partial.file;
        let mut offset = 0;
        while offset < partial.next_offset {
            let len_bytes = REWRITE_BYTES.min(partial.next_offset - offset);
            let bytes = self.disk.read(file, offset, len_bytes)?;
            self.disk.execute(&DiskOp::Write { file: file.clone(), offset, bytes })?;
            offset += len_bytes;
        }
        self.disk.execute(&DiskOp::Sync { file: file.clone() })?;
        Ok(())
    }

    /// Renames damaged snapshots, so that they are kept and not taken for candidates again.
    fn set_damaged_aside(&mut self, snapshots: &Snapshots) -> Result<(), OpenError> {
        for (file, _) in &snapshots.damaged {
            self.disk.execute(&snapshot::set_aside(file))?;
        }
        if !snapshots.damaged.is_empty() {
            let directory = SNAPSHOT_DIRECTORY.into();
            self.disk.execute(&DiskOp::SyncDirectory { directory })?;
        }
        Ok(())
    }

    /// Lets the log go on in its last segment, or in a fresh one.
    fn settle_log(
        &mut self,
        log: &Replayed,
        start_anew_after: Option<LogPosition>,
        faulty: bool,
        record: &mut Record,
        spare: Option<Spare>,
    ) -> Result<log::Found, OpenError> {
        let last = log.read.last().and_then(|&place| self.files[place].header.as_ref());
        let Some(fresh) = FreshSegment::plan(log, last, start_anew_after, faulty) else {
            return Ok(self.found(log, u64::MAX, log.next, log.next_index.prev(), spare));
        };
        let found = self.begin_fresh(&fresh, log, record, spare)?;
        record.sequence += 1;
        record.synced_batch = found.next.sequence - 1;
        record.segment = found.segments.back().map_or(0, |segment| segment.sequence);
        let mut ops = Vec::new();
        record.write(&mut ops);
        self.disk.execute_all(&ops)?;
        Ok(found)
    }

    /// Makes the fresh segment: all of it is synced before it gets its name.
    fn begin_fresh(
        &mut self,
        fresh: &FreshSegment<'_>,
        log: &Replayed,
        record: &Record,
        spare: Option<Spare>,
    ) -> Result<log::Found, OpenError> {
        let newest = self.files.last().map_or(0, |file| file.sequence).max(record.segment);
        let sequence = newest + 1;
        let batches_bytes = fresh.bytes_on_disk();
        let fits = |spare: &Spare| FIRST_BATCH_OFFSET + batches_bytes <= spare.len_bytes;
        let (usable, kept) = match spare {
            Some(spare) if fits(&spare) => (Some(spare), None),
            other => (None, other),
        };
        // Others that share the disk wait while it is made, and so do those who wait for the node.
        let short_bytes = self.options.first_segment_bytes(batches_bytes);
        let len_bytes = usable.as_ref().map_or(short_bytes, |spare| spare.len_bytes);
        let header = SegmentHeader {
            identity: self.identity,
            generation: record.incarnation,
            sequence,
            first: fresh.first,
            serves_from: fresh.serves_from,
            len_bytes,
            earlier: Vec::new(),
        };
        let mut ops = Vec::new();
        let staged = if let Some(spare) = usable {
            spare.file
        } else {
            let file = segment::temporary_name(sequence);
            ops.push(DiskOp::Create { file: file.clone(), zero_bytes: len_bytes });
            file
        };
        let bytes = header.encode().into();
        ops.push(DiskOp::Write { file: staged.clone(), offset: 0, bytes });
        let (next, used_bytes) = fresh.write(&header, &staged, &mut ops);
        ops.push(DiskOp::Sync { file: staged.clone() });
        ops.push(DiskOp::Rename { from: staged, to: header.file() });
        ops.push(DiskOp::SyncDirectory { directory: WAL_DIRECTORY.into() });
        self.execute_with_reserve(&ops)?;
        self.report.copied_forward_bytes = fresh.copied_bytes();
        let last_index = fresh.reset.map_or(log.next_index.prev(), |position| position.index);
        let mut found = self.found(log, fresh.first.sequence, next, last_index, kept);
        found.segments.push_back(Segment::standing(&header, used_bytes));
        Ok(found)
    }

    /// What a short segment lacks to the room that the log is to have before the disk gets full: a
    /// whole segment for what was taken and for deletions, and another one to go on in when these
    /// have made room. Only the room: the segment lane makes spares of it.
    fn reserve_segments(&mut self, log: &mut log::Found) -> Result<(), DiskError> {
        let len_bytes = self.options.segment_bytes;
        if log.segments.back().is_some_and(|last| last.len_bytes >= len_bytes) {
            return Ok(());
        }
        let spare = log.spare.iter().map(|spare| spare.len_bytes);
        let held = spare.chain(log.released.iter().map(|released| released.len_bytes));
        let whole = held.filter(|&held_bytes| held_bytes == len_bytes).count();
        for nth in whole..WHOLE_SEGMENTS_MIN {
            let file = segment::spare_temporary_name(log.spare_number);
            let ops = [DiskOp::Reserve { file: file.clone(), len_bytes }];
            let reserved = match nth {
                0 => self.execute_with_reserve(&ops),
                _ => self.disk.execute_all(&ops),
            };
            match reserved {
                Err(DiskError::NoSpace(_)) => break,
                result => result?,
            }
            log.spare_number += 1;
            log.released.push_back(Released { file, len_bytes, earlier: None });
        }
        Ok(())
    }

    /// A start must not fail for want of room while there is a reserve, for it is for this, too, or
    /// copies of what is damaged.
    fn execute_with_reserve(&mut self, ops: &[DiskOp]) -> Result<(), DiskError> {
        let mut result = self.disk.execute_all(ops);
        if matches!(result, Err(DiskError::NoSpace(_))) {
            self.disk.execute(&DiskOp::Remove { file: reserve::file_name() })?;
            result = self.disk.execute_all(ops);
        }
        let has_copies = !self.report.segments_damaged.is_empty();
        if has_copies && matches!(result, Err(DiskError::NoSpace(_))) {
            for copy in std::mem::take(&mut self.report.segments_damaged) {
                self.disk.execute(&DiskOp::Remove { file: copy })?;
                self.report.segments_not_kept += 1;
            }
            result = self.disk.execute_all(ops);
        }
        result
    }

    /// The running log's view of the files: those whose batches begin at `void_from` or later, and
    /// those that were dead before, are released.
    fn found(
        &self,
        log: &Replayed,
        void_from: u64,
        next: Link,
        last_index: LogIndex,
        spare: Option<Spare>,
    ) -> log::Found {
        let first_read = log.read.first().copied().unwrap_or(usize::MAX);
        let mut segments = VecDeque::new();
        let mut released = VecDeque::new();
        for (place, file) in self.files.iter().enumerate() {
            let read = log.read.iter().position(|&i| i == place);
            match (&file.header, read) {
                (Some(header), Some(i)) if header.first.sequence < void_from => {
                    segments.push_back(Segment::standing(header, log.used_bytes[i]));
                }
                // Needed for an older snapshot only: kept until the log is trimmed.
                (Some(header), None) if place < first_read => {
                    segments.push_back(Segment::standing(header, header.len_bytes));
                }
                _ => {
                    let (file, len_bytes) = (file.file.clone(), file.len_bytes);
                    released.push_back(Released { file, len_bytes, earlier: None });
                }
            }
        }
        let numbers = self.directory.wal.iter().filter_map(|info| {
            let file = &info.file;
            segment::number_in(file, ".spare").or_else(|| segment::number_in(file, ".spare.tmp"))
        });
        let spare_number = numbers.max().unwrap_or(0) + 1;
        log::Found { segments, released, spare, spare_number, next, last_index }
    }
}
