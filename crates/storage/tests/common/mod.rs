//! A host for [`Storage`] over a [`MemDisk`], and a model of what must be found after a crash: what
//! was synced exactly, of the list under way a prefix, and nothing else.
#![allow(dead_code, clippy::unwrap_used)] // every test file uses its own part

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use sampan_base::disk::{Disk, DiskOp, FileName};
use sampan_base::{
    ClusterId, Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, Rng,
    SnapshotId, SnapshotMeta, Term,
};
use sampan_storage::snapshot::{self, SnapshotReceiver, SnapshotWriter};
use sampan_storage::testing::MemDisk;
use sampan_storage::{Identity, OnDamage, OpenError, Options, Recovered, Storage, inspect};

pub(crate) const IDENTITY: Identity =
    Identity { cluster: ClusterId(0x0051_4d50_414e), node: NodeId::of(3) };

/// Of an arriving snapshot, between two syncs.
pub(crate) const SYNC_BYTES: u64 = 1 << 10;

pub(crate) fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    let (index, term) = (LogIndex(index), Term(term));
    Entry { term, index, kind: EntryKind::Command, data: data.into() }
}

pub(crate) fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

pub(crate) fn created(options: &Options) -> MemDisk {
    let mut disk = MemDisk::new();
    Storage::create(&mut disk, IDENTITY, options).unwrap();
    disk
}

pub(crate) fn open(disk: &mut MemDisk, options: &Options) -> (Storage, Recovered) {
    Storage::open(disk, IDENTITY, options).unwrap()
}

/// Appends, runs the list, reports it synced.
pub(crate) fn append(disk: &mut MemDisk, storage: &mut Storage, entries: &[Entry]) {
    let term = entries.last().unwrap().term;
    let old = storage.hard_state();
    let hard_state = (term > old.term).then_some(HardState { term, vote: None });
    disk.execute_all(&storage.append(hard_state, None, entries)).unwrap();
    storage.append_synced();
}

/// Runs maintenance until there is none.
pub(crate) fn maintain(disk: &mut MemDisk, storage: &mut Storage) {
    storage.ask_again();
    while let Some(ops) = storage.maintain() {
        let result = disk.execute_all(&ops);
        let failed = result.is_err();
        storage.maintained(result.is_ok());
        if failed {
            break;
        }
    }
}

/// A node with one batch in its newest segment, whose file an earlier life has filled with stamped
/// sectors to the end; and that segment.
pub(crate) fn recycled(options: &Options) -> (MemDisk, Storage, FileName) {
    let mut disk = created(options);
    let (mut storage, _) = open(&mut disk, options);
    for index in 1.. {
        append(&mut disk, &mut storage, &[entry(index, 1, vec![b'e'; 3900])]);
        let segment = newest_segment(&mut disk);
        if !earlier_lives(&mut disk, &segment).is_empty() {
            return (disk, storage, segment);
        }
        take_snapshot(&mut disk, &mut storage, index, position(index, 1));
        storage.trim(LogIndex(index));
        maintain(&mut disk, &mut storage);
    }
    unreachable!("no segment is used again")
}

pub(crate) fn newest_segment(disk: &mut MemDisk) -> FileName {
    let files = disk.list("wal").unwrap().into_iter().map(|info| info.file);
    files.filter(|file| file.ends_with(".log")).max().unwrap()
}

/// The segments that the file of this one was before, as its header says.
pub(crate) fn earlier_lives(disk: &mut MemDisk, segment: &FileName) -> Vec<u64> {
    let bytes = disk.read(segment, 0, u64::MAX >> 1).unwrap();
    inspect::segment(&bytes).map_or_else(|_| Vec::new(), |content| content.earlier)
}

/// Writes, verifies and commits a snapshot with some payload.
pub(crate) fn take_snapshot(
    disk: &mut MemDisk,
    storage: &mut Storage,
    id: u64,
    at: LogPosition,
) -> (SnapshotMeta, FileName) {
    let (meta, file) = write_snapshot(disk, id, at);
    assert_eq!(snapshot::verify(disk, &file).unwrap(), meta);
    disk.execute_all(&storage.snapshot_commit(&file, &meta, &[])).unwrap();
    storage.snapshot_committed();
    (meta, storage.snapshots()[0].file.clone())
}

pub(crate) fn write_snapshot(
    disk: &mut MemDisk,
    id: u64,
    at: LogPosition,
) -> (SnapshotMeta, FileName) {
    let (writer, mut ops) =
        SnapshotWriter::begin(IDENTITY, SnapshotId(id), at, &configuration(), None);
    let (meta, file, rest) = snapshot_rest(writer, id);
    ops.extend(rest);
    disk.execute_all(&ops).unwrap();
    (meta, file)
}

fn snapshot_rest(mut writer: SnapshotWriter, id: u64) -> (SnapshotMeta, FileName, Vec<DiskOp>) {
    let mut ops = Vec::new();
    for i in 0..3 {
        ops.extend(writer.chunk(&vec![id as u8 ^ i; 40 + 100 * usize::from(i)]));
    }
    let (meta, file, rest) = writer.finish(b"digest");
    ops.extend(rest);
    (meta, file, ops)
}

pub(crate) fn configuration() -> Configuration {
    Configuration::of_voters([1, 2, 3].map(NodeId::of))
}

/// What a log holds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LogState {
    pub(crate) base: LogPosition,
    pub(crate) entries: Vec<Entry>,
}

impl LogState {
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.base, Entry::position)
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
    }

    /// The log after a change of which only the first `count` entries were made.
    fn changed(&self, reset: Option<LogPosition>, entries: &[Entry], count: usize) -> Self {
        let mut next = self.clone();
        if let Some(base) = reset {
            next = Self { base, entries: Vec::new() };
        }
        if let Some(first) = entries.first() {
            next.entries.retain(|entry| entry.index < first.index);
        }
        next.entries.extend_from_slice(&entries[..count]);
        next
    }

    /// What recovery returns with a snapshot of this position.
    fn after(&self, snapshot: LogPosition) -> Vec<Entry> {
        if self.term_at(snapshot.index) != Some(snapshot.term) && snapshot != LogPosition::ZERO {
            return Vec::new();
        }
        self.entries.iter().filter(|entry| entry.index > snapshot.index).cloned().collect()
    }
}

/// What a node must remember.
#[derive(Clone, PartialEq, Debug)]
struct Remembered {
    hard_state: HardState,
    non_voting_until: Option<LogIndex>,
    log: LogState,
}

impl fmt::Display for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hard_state, non_voting_until, log } = self;
        let entries = brief(&log.entries);
        write!(
            f,
            "{hard_state:?} {entries:?} after {:?}, non-voting {non_voting_until:?}",
            log.base
        )
    }
}

/// A list of the log lane.
struct Commit {
    ops: VecDeque<DiskOp>,
    is_append: bool,
    /// What may be found while it is under way, the last being what it leads to.
    states: Vec<Remembered>,
}

/// What the background lane is busy with.
enum Job {
    Maintain,
    Write { meta: SnapshotMeta, file: FileName, install: bool },
    Commit { meta: SnapshotMeta, install: bool },
}

/// See the module.
pub(crate) struct Host {
    pub(crate) disk: MemDisk,
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    storage: Storage,
    /// Durable.
    synced: Remembered,
    /// As issued.
    log: LogState,
    hard_state: HardState,
    commits: VecDeque<Commit>,
    background: Option<(VecDeque<DiskOp>, Job)>,
    committed_index: LogIndex,
    snapshots: Vec<SnapshotMeta>,
    next_snapshot_id: u64,
    /// All entries ever issued.
    ever: Vec<Entry>,
    pub(crate) crashes: u64,
    pub(crate) torn: u64,
    pub(crate) superseded: u64,
    pub(crate) copied: u64,
    /// Restarts with a newest segment whose file was another one before.
    pub(crate) recycled: u64,
}

impl Host {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut disk = created(&options);
        let (storage, _) = open(&mut disk, &options);
        let log = LogState { base: LogPosition::ZERO, entries: Vec::new() };
        let hard_state = HardState::default();
        Self {
            disk,
            options,
            rng: Rng::seeded(seed),
            storage,
            synced: Remembered { hard_state, non_voting_until: None, log: log.clone() },
            log,
            hard_state,
            commits: VecDeque::new(),
            background: None,
            committed_index: LogIndex::ZERO,
            snapshots: Vec::new(),
            next_snapshot_id: 1,
            ever: Vec::new(),
            crashes: 0,
            torn: 0,
            superseded: 0,
            copied: 0,
            recycled: 0,
        }
    }

    /// Was the file of the newest segment another one before?
    pub(crate) fn is_in_recycled(&mut self) -> bool {
        let newest = newest_segment(&mut self.disk);
        !earlier_lives(&mut self.disk, &newest).is_empty()
    }

    /// Does something, at random.
    pub(crate) fn step(&mut self) {
        match self.rng.below(20) {
            0..8 => self.run_log_step(),
            8..13 => self.run_background_step(),
            13..16 if self.commits.len() < 3 => self.issue_append(),
            16 if self.commits.len() < 3 => self.issue_hard_state(),
            17 => self.begin_snapshot(),
            18 => self.begin_install(),
            19 => self.issue_rare(),
            _ => {}
        }
    }

    /// Runs all that is queued.
    pub(crate) fn drain(&mut self) {
        while !self.commits.is_empty() || self.background.is_some() {
            self.run_log_step();
            self.run_background_step();
        }
    }

    fn run_log_step(&mut self) {
        let Some(head) = self.commits.front_mut() else { return };
        if let Some(op) = head.ops.pop_front() {
            self.disk.execute(&op).unwrap();
        }
        if head.ops.is_empty() {
            let done = self.commits.pop_front().unwrap();
            self.synced = done.states.last().unwrap().clone();
            if done.is_append {
                self.storage.append_synced();
            }
        }
    }

    fn run_background_step(&mut self) {
        let Some((ops, _)) = &mut self.background else {
            let maintenance = self.storage.maintain();
            self.background = maintenance.map(|ops| (ops.into(), Job::Maintain));
            return;
        };
        if let Some(op) = ops.pop_front() {
            self.disk.execute(&op).unwrap();
            return;
        }
        match self.background.take().unwrap().1 {
            Job::Maintain => self.storage.maintained(true),
            Job::Write { meta, file, install } => {
                assert_eq!(snapshot::verify(&mut self.disk, &file), Ok(meta.clone()));
                if !install && meta.position.index < self.newest_snapshot().index {
                    return; // an install came first: the file is a leftover
                }
                let ops = self.storage.snapshot_commit(&file, &meta, &[]);
                self.background = Some((ops.into(), Job::Commit { meta, install }));
            }
            Job::Commit { meta, install } => self.snapshot_committed(meta, install),
        }
    }

    fn snapshot_committed(&mut self, meta: SnapshotMeta, install: bool) {
        self.storage.snapshot_committed();
        let at = meta.position;
        self.snapshots.insert(0, meta);
        self.snapshots.truncate(self.options.snapshots_kept);
        if install && (self.log.term_at(at.index) != Some(at.term)) {
            let count = self.rng.below(3);
            let entries = self.entries(at, count);
            self.issue(None, Some(at), &entries);
        }
        self.committed_index = self.committed_index.max(at.index);
        let kept = self.snapshots.last().unwrap().position.index;
        let upto = if self.rng.one_in(2) { at.index } else { kept };
        self.storage.trim(upto);
    }

    fn newest_snapshot(&self) -> LogPosition {
        self.snapshots.first().map_or(LogPosition::ZERO, |meta| meta.position)
    }

    /// Some entries that follow `last`, of the present term.
    fn entries(&mut self, last: LogPosition, count: u64) -> Vec<Entry> {
        let term = self.hard_state.term.0;
        let one = |i: u64, rng: &mut Rng| {
            let long = self.options.entry_bytes_max as u64;
            let len = if rng.one_in(3) { rng.between(0, long) } else { rng.between(0, 700) };
            // Zeros too: a sector of zeros must not pass for one that was never written.
            let byte = if rng.one_in(3) { 0 } else { rng.below(256) as u8 };
            entry(last.index.0 + 1 + i, term, vec![byte; len as usize])
        };
        (0..count).map(|i| one(i, &mut self.rng)).collect()
    }

    fn issue_append(&mut self) {
        let mut last = self.log.last();
        if last.term.0 > self.hard_state.term.0 {
            return;
        }
        let first_free = self.committed_index.max(self.log.base.index);
        if last.index > first_free && self.rng.one_in(5) {
            let cut = self.rng.between(first_free.0, last.index.0 - 1);
            let term = self.log.term_at(LogIndex(cut)).unwrap();
            last = LogPosition { term, index: LogIndex(cut) };
        }
        let count =
            if self.rng.one_in(6) { self.rng.between(5, 20) } else { self.rng.between(1, 4) };
        let entries = self.entries(last, count);
        let hard_state = self.rng.one_in(4).then(|| self.next_hard_state());
        self.issue(hard_state, None, &entries);
        if self.rng.one_in(2) {
            let (low, high) = (self.committed_index.0, self.log.last().index.0);
            self.committed_index =
                LogIndex(self.rng.between(low.min(high), high)).max(self.committed_index);
        }
    }

    fn next_hard_state(&mut self) -> HardState {
        let term = self.hard_state.term.next();
        let vote = NodeId::new(self.rng.below(4));
        HardState { term, vote }
    }

    fn issue_hard_state(&mut self) {
        let hard_state = self.next_hard_state();
        self.issue(Some(hard_state), None, &[]);
    }

    fn issue(
        &mut self,
        hard_state: Option<HardState>,
        reset: Option<LogPosition>,
        entries: &[Entry],
    ) {
        let before = self.issued();
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        let with =
            |log: LogState| Remembered { hard_state: self.hard_state, log, ..before.clone() };
        let mut states = vec![before.clone(), with(before.log.clone())];
        let least = usize::from(reset.is_none()).min(entries.len());
        states.extend((least..=entries.len()).map(|n| with(before.log.changed(reset, entries, n))));
        self.log = states.last().unwrap().log.clone();
        self.ever.extend_from_slice(entries);
        let ops = self.storage.append(hard_state, reset, entries).into();
        self.commits.push_back(Commit { ops, is_append: true, states });
    }

    /// The state when all that is issued is done.
    fn issued(&self) -> Remembered {
        let last = self.commits.back().and_then(|commit| commit.states.last());
        last.unwrap_or(&self.synced).clone()
    }

    fn issue_rare(&mut self) {
        let before = self.issued();
        let mut after = before.clone();
        let ops = if self.rng.one_in(2) {
            self.storage.refresh_watermark()
        } else {
            after.non_voting_until = self.rng.one_in(2).then(|| LogIndex(self.rng.below(100)));
            self.storage.set_non_voting(after.non_voting_until)
        };
        let states = vec![before, after];
        self.commits.push_back(Commit { ops: ops.into(), is_append: false, states });
    }

    fn begin_snapshot(&mut self) {
        let index = self.committed_index;
        if self.background.is_some() || index <= self.newest_snapshot().index {
            return;
        }
        let Some(term) = self.log.term_at(index) else { return };
        let id = self.snapshot_id();
        let at = LogPosition { term, index };
        let surplus = self.storage.take_surplus_snapshot(&[]).map(|old| old.file);
        let (writer, mut ops) =
            SnapshotWriter::begin(IDENTITY, SnapshotId(id), at, &configuration(), surplus);
        let (meta, file, rest) = snapshot_rest(writer, id);
        ops.extend(rest);
        self.background = Some((ops.into(), Job::Write { meta, file, install: false }));
    }

    fn snapshot_id(&mut self) -> u64 {
        self.next_snapshot_id += 1;
        self.next_snapshot_id
    }

    /// A snapshot from a leader that is ahead, or whose log differs.
    fn begin_install(&mut self) {
        if self.background.is_some() || self.rng.one_in(2) || self.hard_state.term == Term::ZERO {
            return;
        }
        let first = self.committed_index.max(self.log.base.index).0 + 1;
        let index = LogIndex(self.rng.between(first, self.log.last().index.0.max(first) + 5));
        let term = self.hard_state.term.max(self.log.last().term);
        let id = self.snapshot_id();
        let mut elsewhere = MemDisk::new();
        let directory: FileName = "snapshots".into();
        elsewhere.execute(&DiskOp::CreateDirectory { directory }).unwrap();
        let (meta, file) = write_snapshot(&mut elsewhere, id, LogPosition { term, index });
        let bytes = elsewhere.read(&file, 0, meta.size_bytes).unwrap();
        let (mut receiver, mut ops) = SnapshotReceiver::begin(&meta, SYNC_BYTES);
        for piece in (0..bytes.len()).step_by(1500) {
            let data = bytes.slice(piece..bytes.len().min(piece + 1500));
            ops.extend(receiver.write(piece as u64, data).unwrap());
        }
        let (file, rest) = receiver.finish();
        ops.extend(rest);
        self.background = Some((ops.into(), Job::Write { meta, file, install: true }));
        self.committed_index = self.committed_index.max(index);
    }

    /// The node stops and the disk is as given; it comes back, perhaps only after more stops on the
    /// way; what it finds is checked.
    pub(crate) fn restart_on(&mut self, disk: MemDisk, retries: bool) {
        self.crashes += 1;
        self.disk = disk;
        while retries && self.rng.one_in(2) {
            let mut attempt = self.disk.clone();
            attempt.steps_left = Some(self.rng.below(60));
            match Storage::open(&mut attempt, IDENTITY, &self.options) {
                Ok(_) | Err(OpenError::Disk(_)) => {}
                Err(error) => panic!("{error}"),
            }
            attempt.steps_left = None;
            self.disk = attempt.crash(&mut self.rng);
        }
        let incarnation = self.storage.incarnation();
        self.recycled += u64::from(self.is_in_recycled());
        let opened = Storage::open(&mut self.disk, IDENTITY, &self.options);
        let (storage, recovered) = opened.unwrap_or_else(|error| panic!("{error}"));
        self.storage = storage;
        self.check(&recovered);
        assert!(recovered.incarnation > incarnation);
        self.torn += u64::from(recovered.report.torn_tail.is_some());
        self.copied += u64::from(recovered.report.copied_forward_bytes > 0);
        self.superseded += u64::from(recovered.report.log_discarded.is_some());

        // What was returned is durable, whatever happens next.
        let mut again = self.disk.crash(&mut self.rng);
        let (_, twice) = open(&mut again, &self.options);
        assert_eq!((&twice.entries, twice.hard_state), (&recovered.entries, recovered.hard_state));
        assert_eq!(twice.snapshot, recovered.snapshot);
        self.go_on_from(recovered);
    }

    /// What is found must be what was synced, or on the way there.
    fn check(&self, found: &Recovered) {
        let snapshot = found.snapshot.as_ref().map(|stored| stored.meta.clone());
        let at = snapshot.as_ref().map_or(LogPosition::ZERO, |meta| meta.position);
        let committing = match &self.background {
            Some((_, Job::Commit { meta, .. })) => Some(meta),
            _ => None,
        };
        assert!(
            snapshot.as_ref() == self.snapshots.first() || snapshot.as_ref() == committing,
            "found {snapshot:?}, committed {:?}, committing {committing:?}",
            self.snapshots
        );
        let on_the_way = self.commits.front().map_or(&[][..], |commit| &commit.states);
        let matches = |state: &Remembered| {
            let mut hard_state = state.hard_state;
            if at.term > hard_state.term {
                hard_state = HardState { term: at.term, vote: None };
            }
            found.hard_state == hard_state
                && found.non_voting_until == state.non_voting_until
                && found.entries == state.log.after(at)
        };
        assert!(
            matches(&self.synced) || on_the_way.iter().any(matches),
            "found {:?} {:?} after {at:?}, non-voting {:?}, report {}\nsynced {}\nissued {}",
            found.hard_state,
            brief(&found.entries),
            found.non_voting_until,
            found.report,
            self.synced,
            self.issued()
        );
    }

    fn go_on_from(&mut self, found: Recovered) {
        let at = found.snapshot.as_ref().map_or(LogPosition::ZERO, |stored| stored.meta.position);
        self.hard_state = found.hard_state;
        self.log = LogState { base: at, entries: found.entries };
        self.synced = Remembered {
            hard_state: found.hard_state,
            non_voting_until: found.non_voting_until,
            log: self.log.clone(),
        };
        self.commits.clear();
        self.background = None;
        self.snapshots = self.storage.snapshots().iter().map(|s| s.meta.clone()).collect();
        self.committed_index = self.committed_index.min(self.log.last().index).max(at.index);
    }

    /// A crash at this very moment, or right after the next write to the log.
    pub(crate) fn crash(&mut self) {
        if self.rng.one_in(2) {
            while let Some(DiskOp::Sync { .. }) | None =
                self.commits.front().map(|commit| commit.ops.front()).unwrap_or_default()
            {
                if self.commits.is_empty() {
                    self.issue_append();
                }
                self.run_log_step();
            }
            self.run_log_step();
        }
        let disk = self.disk.crash(&mut self.rng);
        self.restart_on(disk, true);
    }

    /// Bytes of the log change, or a segment is lost; the node rejoins. What it finds, it once had;
    /// what it finds stays; and unless nothing was needed of what changed, it says so.
    pub(crate) fn rejoin_after_damage(&mut self) -> bool {
        self.drain();
        let files = self.disk.list("wal").unwrap();
        let segments: Vec<_> = files.iter().filter(|info| info.file.contains(".log")).collect();
        let hit = segments[self.rng.below(segments.len() as u64) as usize].clone();
        if self.rng.one_in(6) {
            self.disk.lose(&hit.file, None);
        } else {
            for _ in 0..self.rng.between(1, 3) {
                let sector = self.rng.below(hit.len_bytes / 512) * 512;
                let kind = self.rng.below(2) as u8;
                let change = |byte: &mut u8| *byte = if kind == 0 { 0 } else { *byte ^ 0x55 };
                (sector..sector + 512).for_each(|at| self.disk.corrupt(&hit.file, at, change));
            }
        }
        let rejoin = |disk: &mut MemDisk, options: &Options| {
            Storage::open_with(disk, IDENTITY, options, OnDamage::Rejoin(&|_| true), &mut ())
                .unwrap()
        };
        let (storage, found) = rejoin(&mut self.disk, &self.options);
        self.storage = storage;
        let marked = found.non_voting_until == Some(LogIndex(u64::MAX));
        assert!(found.entries.iter().all(|entry| self.ever.contains(entry)));
        let snapshot = found.snapshot.as_ref().map(|stored| &stored.meta);
        assert_eq!(snapshot, self.snapshots.first());
        let whole = found.entries == self.synced.log.after(self.newest_snapshot());
        let faulty = found.faulty.is_some();
        assert!(marked || !faulty);
        if !whole && !faulty {
            // The undecidable case: sectors of the last batch, which nothing vouched for, are gone.
            assert!(self.synced.log.after(self.newest_snapshot()).starts_with(&found.entries));
        }
        self.go_on_from(found);
        faulty
    }

    /// The next sync fails, the process stops, the machine does not.
    pub(crate) fn fail_sync(&mut self) {
        self.disk.syncs_left = Some(0);
        while let Some(head) = self.commits.front_mut() {
            let Some(op) = head.ops.pop_front() else { break };
            if self.disk.execute(&op).is_err() {
                break;
            }
        }
        self.disk.syncs_left = None;
        self.disk.steps_left = None;
        let disk = self.disk.clone();
        self.restart_on(disk, false);
    }
}

/// Index and term of each entry, and its length.
pub(crate) fn brief(entries: &[Entry]) -> Vec<(u64, u64, usize)> {
    entries.iter().map(|e| (e.index.0, e.term.0, e.data.len())).collect()
}
