//! A disk in memory that forgets what was not synced, breaks when told to, and counts what it did.
//!
//! It is the model of `sampan_base::disk` made real: a write is durable after a sync of its file, a
//! name after a sync of its directory; until then a power loss keeps any subset. It does things at
//! once; how long they take, and what a crash in the middle of a job leaves, is `crate::node`'s.

mod inode;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sampan_base::Rng;
pub use sampan_base::disk::{Disk, DiskOp};
use sampan_base::disk::{DiskError, FileInfo, FileName};
use sampan_storage::testing::Chooser;

use inode::Inode;
pub use inode::{PAGE_BYTES, SECTOR_BYTES, Survival};

/// One in so many files that are to be written over is still read by somebody.
const READ_ELSEWHERE: u64 = 8;

/// Which files a fault is meant for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileClass {
    /// All.
    Any,
    /// The write-ahead log.
    Log,
    /// Term and vote.
    HardState,
    /// Snapshots.
    Snapshots,
}

impl FileClass {
    /// Does a file belong to it?
    pub fn holds(self, file: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Log => file.starts_with("wal/"),
            Self::HardState => file.starts_with("hard_state"),
            Self::Snapshots => file.starts_with("snapshots/"),
        }
    }
}

/// Something that goes wrong once, at the next step it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// The next write fails, after some of it may have been done.
    WriteFails,
    /// The next sync fails; the one after it succeeds. What was unsynced is dropped, or still
    /// unsynced.
    SyncFails {
        /// Is it dropped?
        drop_pages: bool,
    },
    /// The next read fails.
    ReadFails,
    /// The power goes in the middle of the next write, or after the next change of a name.
    PowerFails {
        /// Of a name?
        names: bool,
    },
    /// The next write lands on another page of its file, and is not where it should be.
    WriteMisdirected,
}

/// What this disk has suffered so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DiskCounts {
    /// Steps executed.
    pub steps: u64,
    /// Syncs of files done.
    pub syncs: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Syncs that failed.
    pub sync_errors: u64,
    /// Sectors that a failed sync dropped.
    pub sectors_dropped: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that landed elsewhere.
    pub misdirected: u64,
    /// Steps refused because the power was gone.
    pub power_failures: u64,
    /// Steps refused for want of room.
    pub no_space: u64,
    /// Bits flipped.
    pub flipped: u64,
    /// Unsynced sectors that a power loss kept.
    pub sectors_kept: u64,
    /// Sectors that a power loss took.
    pub sectors_lost: u64,
    /// Unsynced changes of names that a power loss took.
    pub names_lost: u64,
    /// Writes that a crash cut in two.
    pub torn: u64,
}

impl DiskCounts {
    /// Adds another disk's counts.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            steps,
            syncs,
            write_errors,
            sync_errors,
            sectors_dropped,
            read_errors,
            misdirected,
            power_failures,
            no_space,
            flipped,
            sectors_kept,
            sectors_lost,
            names_lost,
            torn,
        } = other;
        self.steps += steps;
        self.syncs += syncs;
        self.write_errors += write_errors;
        self.sync_errors += sync_errors;
        self.sectors_dropped += sectors_dropped;
        self.read_errors += read_errors;
        self.misdirected += misdirected;
        self.power_failures += power_failures;
        self.no_space += no_space;
        self.flipped += flipped;
        self.sectors_kept += sectors_kept;
        self.sectors_lost += sectors_lost;
        self.names_lost += names_lost;
        self.torn += torn;
    }

    /// Errors that a process must not go on after.
    pub fn fatal_errors(&self) -> u64 {
        self.write_errors + self.sync_errors + self.no_space + self.power_failures
    }
}

/// A change in a directory that is not durable yet.
#[derive(Clone, Debug)]
struct NameChange {
    directory: FileName,
    /// The name that now leads to a file, and the file; `None`: a plain removal.
    link: Option<(FileName, usize)>,
    /// The name that no longer does, and the file it led to.
    unlink: Option<(FileName, usize)>,
}

/// The disk of one node. A copy shares every file with the original until one of them changes it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    names: BTreeMap<FileName, usize>,
    durable_names: BTreeMap<FileName, usize>,
    changes: Vec<NameChange>,
    inodes: Vec<Arc<Inode>>,
    free: Vec<usize>,
    mishaps: Vec<(Mishap, FileClass)>,
    /// Creating and extending files is refused, but for the room that removed files gave back
    /// since.
    pub full: bool,
    /// Somebody else takes that room, too, as soon as it is given back.
    pub crowded: bool,
    given_back_bytes: u64,
    /// It stopped holding what was stored: no oracle may count on this disk any more.
    pub damaged: bool,
    /// It took the place of another, and its node has not yet got back what was on that.
    pub emptied: bool,
    /// Its node has not voted yet. If it hears that others hold a log, it cannot know that it is
    /// new.
    pub is_new: bool,
    /// After this many more steps every step fails: the power goes during a start.
    steps_left: Option<u64>,
    rng: Rng,
    /// What it has suffered.
    pub counts: DiskCounts,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(rng: Rng) -> Self {
        Self {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            inodes: Vec::new(),
            free: Vec::new(),
            mishaps: Vec::new(),
            full: false,
            crowded: false,
            given_back_bytes: 0,
            damaged: false,
            emptied: false,
            is_new: false,
            steps_left: None,
            rng,
            counts: DiskCounts::default(),
        }
    }

    /// Arms a mishap.
    pub fn arm(&mut self, mishap: Mishap, files: FileClass) {
        self.mishaps.push((mishap, files));
    }

    /// Takes back a mishap that has not happened; false if there is none.
    pub fn disarm(&mut self, mishap: Mishap) -> bool {
        let place = self.mishaps.iter().position(|(armed, _)| *armed == mishap);
        place.map(|place| self.mishaps.remove(place)).is_some()
    }

    /// Takes back all mishaps that have not happened.
    pub fn disarm_all(&mut self) {
        self.mishaps.clear();
    }

    /// Mishaps that have not happened yet.
    pub fn armed(&self) -> usize {
        self.mishaps.len()
    }

    /// May this one still happen?
    pub fn awaits(&self, mishap: Mishap) -> bool {
        self.mishaps.iter().any(|(armed, _)| *armed == mishap)
    }

    /// Disarms all mishaps, gives back the room and makes every sector readable.
    pub fn heal(&mut self) {
        self.mishaps.clear();
        (self.full, self.crowded) = (false, false);
        self.steps_left = None;
        for inode in &mut self.inodes {
            Arc::make_mut(inode).make_readable();
        }
    }

    /// Every step after the next `steps` fails, as if the power had gone; [`SimDisk::lose_power`]
    /// and [`SimDisk::heal`] end that.
    pub fn fail_after(&mut self, steps: u64) {
        self.steps_left = Some(steps);
    }

    /// Did [`SimDisk::fail_after`] strike?
    pub fn has_failed(&self) -> bool {
        self.steps_left == Some(0)
    }

    /// The power goes. The names and the bytes that survive are the disk's from now on.
    pub fn lose_power(&mut self, survival: Survival) {
        self.steps_left = None;
        let mut rng = self.rng.clone();
        for change in std::mem::take(&mut self.changes) {
            if survival.keeps(&mut rng) {
                apply(&mut self.durable_names, &change);
            } else {
                self.counts.names_lost += 1;
            }
        }
        self.names = self.durable_names.clone();
        for inode in self.inodes.iter_mut().filter(|inode| !inode.is_durable()) {
            let (kept, lost) = Arc::make_mut(inode).lose_power(survival, &mut rng);
            self.counts.sectors_kept += kept;
            self.counts.sectors_lost += lost;
        }
        self.rng = rng;
        self.collect_garbage();
    }

    /// The power goes, and a chooser says what survives: each change of a name and each sector by
    /// itself.
    pub fn lose_power_choosing(&mut self, chooser: &mut dyn Chooser) {
        self.steps_left = None;
        for change in std::mem::take(&mut self.changes) {
            if chooser.choose(2) == 1 {
                apply(&mut self.durable_names, &change);
            }
        }
        self.names = self.durable_names.clone();
        self.collect_garbage();
        for inode in self.inodes.iter_mut().filter(|inode| !inode.is_durable()) {
            Arc::make_mut(inode).lose_power_choosing(chooser);
        }
    }

    /// In how many ways a power loss right now may leave this disk: the combinations of what
    /// [`SimDisk::lose_power_choosing`] asks, if every file kept its name.
    pub fn ways_to_lose_power(&self) -> u64 {
        let names = 1_u64.checked_shl(self.changes.len() as u32).unwrap_or(u64::MAX);
        let files = self.inodes.iter().map(|inode| inode.ways_to_lose_power());
        files.fold(names, u64::saturating_mul)
    }

    /// This disk as a power loss right now would leave it.
    #[must_use]
    pub fn after_power_loss(&self, survival: Survival) -> Self {
        let mut copy = self.clone();
        copy.mishaps.clear();
        copy.full = false;
        copy.lose_power(survival);
        copy
    }

    /// Flips a bit of something that was written to a file of the class. False if there is none.
    pub fn flip_bit(&mut self, files: FileClass) -> bool {
        let Some((inode, page)) = self.pick_page(files) else { return false };
        let offset = page * PAGE_BYTES + self.pick_offset();
        let bit = self.rng.below(8) as u32;
        let inode = Arc::make_mut(&mut self.inodes[inode]);
        inode.flip_bit(offset.min(inode.len().saturating_sub(1)), bit);
        self.counts.flipped += 1;
        self.damaged = true;
        true
    }

    /// Puts other bytes in place of what a file holds. Panics if they reach beyond its end.
    pub fn alter(&mut self, file: &str, offset: u64, bytes: &[u8]) {
        let inode = self.names[file];
        Arc::make_mut(&mut self.inodes[inode]).alter(offset, bytes);
        self.damaged = true;
    }

    /// Takes a file away, as if it had never been.
    pub fn lose_file(&mut self, file: &str) {
        self.names.remove(file);
        self.durable_names.remove(file);
        self.collect_garbage();
        self.damaged = true;
    }

    /// Makes a sector of a file of the class unreadable. False if there is no file.
    pub fn spoil_sector(&mut self, files: FileClass) -> bool {
        let Some((inode, page)) = self.pick_page(files) else { return false };
        let offset = page * PAGE_BYTES + self.pick_offset();
        let inode = Arc::make_mut(&mut self.inodes[inode]);
        inode.make_unreadable(offset.min(inode.len().saturating_sub(1)));
        self.damaged = true;
        true
    }

    /// An offset in a page: half of the time near its start, where the headers are.
    fn pick_offset(&mut self) -> u64 {
        if self.rng.one_in(2) { self.rng.below(160) } else { self.rng.below(PAGE_BYTES) }
    }

    fn pick_page(&mut self, files: FileClass) -> Option<(usize, u64)> {
        let fitting = self.names.iter().filter(|(name, _)| files.holds(name));
        let pages: Vec<(usize, u64)> = fitting
            .flat_map(|(_, &inode)| {
                self.inodes[inode].written_pages().into_iter().map(move |page| (inode, page))
            })
            .collect();
        if pages.is_empty() { None } else { Some(*self.rng.pick(&pages)) }
    }

    /// The names of all files, sorted.
    pub fn files(&self) -> impl Iterator<Item = &FileName> {
        self.names.keys()
    }

    /// The lengths of all files of a class together.
    pub fn bytes_of(&self, files: FileClass) -> u64 {
        let fitting = self.names.iter().filter(|(name, _)| files.holds(name));
        fitting.map(|(_, &inode)| self.inodes[inode].len()).sum()
    }

    /// Is everything that can be read on the medium?
    pub fn is_durable(&self) -> bool {
        self.changes.is_empty() && self.names.values().all(|&inode| self.inodes[inode].is_durable())
    }

    /// Does the first half of a write: what a process that is killed in the middle leaves.
    pub fn tear(&mut self, op: &DiskOp) {
        if let DiskOp::Write { file, offset, bytes } = op
            && let Some(&inode) = self.names.get(file)
        {
            let sectors = (bytes.len() as u64).div_ceil(SECTOR_BYTES);
            let kept = (self.rng.below(sectors + 1) * SECTOR_BYTES).min(bytes.len() as u64);
            Arc::make_mut(&mut self.inodes[inode]).write(*offset, &bytes.slice(..kept as usize));
            self.counts.torn += 1;
        }
    }

    fn take_mishap(&mut self, file: &str, fits: impl Fn(Mishap) -> bool) -> Option<Mishap> {
        if self.mishaps.is_empty() {
            return None;
        }
        let place = self.mishaps.iter().position(|(m, files)| fits(*m) && files.holds(file))?;
        Some(self.mishaps.remove(place).0)
    }

    fn place(&self, file: &FileName) -> Result<usize, DiskError> {
        self.names.get(file).copied().ok_or_else(|| DiskError::NotFound(file.clone()))
    }

    /// A file, to change it.
    fn inode(&mut self, file: &FileName) -> Result<&mut Inode, DiskError> {
        let place = self.place(file)?;
        Ok(Arc::make_mut(&mut self.inodes[place]))
    }

    fn create(&mut self, file: &FileName, zero_bytes: u64) -> Result<(), DiskError> {
        self.take_room(file, zero_bytes)?;
        if let Some(&inode) = self.names.get(file) {
            Arc::make_mut(&mut self.inodes[inode]).refill(zero_bytes);
        } else {
            self.make(file, zero_bytes);
        }
        Ok(())
    }

    fn make(&mut self, file: &FileName, zero_bytes: u64) {
        let inode = if let Some(free) = self.free.pop() {
            self.inodes[free] = Arc::new(Inode::zeros(zero_bytes));
            free
        } else {
            self.inodes.push(Arc::new(Inode::zeros(zero_bytes)));
            self.inodes.len() - 1
        };
        self.change(NameChange {
            directory: directory_of(file),
            link: Some((file.clone(), inode)),
            unlink: None,
        });
    }

    fn write(&mut self, file: &FileName, offset: u64, bytes: &Bytes) -> Result<(), DiskError> {
        let held_bytes = self.inodes[self.place(file)?].len();
        self.take_room(file, (offset + bytes.len() as u64).saturating_sub(held_bytes))?;
        let unfit = |mishap| {
            matches!(
                mishap,
                Mishap::WriteFails | Mishap::WriteMisdirected | Mishap::PowerFails { names: false }
            )
        };
        match self.take_mishap(file, unfit) {
            None => self.inode(file)?.write(offset, bytes),
            Some(Mishap::WriteMisdirected) => self.misdirect(file, offset, bytes)?,
            Some(mishap) => {
                let op = DiskOp::Write { file: file.clone(), offset, bytes: bytes.clone() };
                self.tear(&op);
                if matches!(mishap, Mishap::PowerFails { .. }) {
                    self.steps_left = Some(0);
                    return Err(self.power_is_gone());
                }
                self.counts.write_errors += 1;
                return Err(DiskError::Io(file.clone(), "write: input/output error".into()));
            }
        }
        Ok(())
    }

    /// Room for a file to become longer: a full disk has what it was given back.
    fn take_room(&mut self, file: &FileName, more_bytes: u64) -> Result<(), DiskError> {
        if !self.full {
            self.given_back_bytes = 0;
            return Ok(());
        }
        let Some(left) = self.given_back_bytes.checked_sub(more_bytes) else {
            self.counts.no_space += 1;
            return Err(DiskError::NoSpace(file.clone()));
        };
        self.given_back_bytes = left;
        Ok(())
    }

    fn reserve(&mut self, file: &FileName, len_bytes: u64) -> Result<(), DiskError> {
        let held_bytes = self.place(file).map_or(0, |place| self.inodes[place].len());
        self.take_room(file, len_bytes.saturating_sub(held_bytes))?;
        self.give_back(held_bytes.saturating_sub(len_bytes));
        if self.place(file).is_err() {
            self.make(file, 0);
        }
        self.inode(file)?.refill(len_bytes);
        Ok(())
    }

    fn reuse(&mut self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        if self.names.contains_key(to) {
            return Ok(());
        }
        if self.names.contains_key(from) {
            let is_read = self.rng.one_in(READ_ELSEWHERE);
            if !is_read {
                return self.rename(from, to);
            }
            self.unlink(from);
        }
        self.create(to, 0)
    }

    fn truncate(&mut self, file: &FileName, len_bytes: u64) -> Result<(), DiskError> {
        let held_bytes = self.inodes[self.place(file)?].len();
        self.give_back(held_bytes - len_bytes);
        self.inode(file)?.cut(len_bytes);
        Ok(())
    }

    const fn give_back(&mut self, bytes: u64) {
        if self.full && !self.crowded {
            self.given_back_bytes += bytes;
        }
    }

    /// Writes to another page of the file, within its length.
    fn misdirect(&mut self, file: &FileName, offset: u64, bytes: &Bytes) -> Result<(), DiskError> {
        let len = self.inode(file)?.len();
        let pages = (len.saturating_sub(bytes.len() as u64)) / PAGE_BYTES + 1;
        let elsewhere = self.rng.below(pages) * PAGE_BYTES;
        let inode = self.inode(file)?;
        if elsewhere == offset {
            inode.write(offset, bytes);
            return Ok(());
        }
        inode.write(elsewhere, bytes);
        self.counts.misdirected += 1;
        self.damaged = true;
        Ok(())
    }

    fn sync(&mut self, file: &FileName) -> Result<(), DiskError> {
        let mishap = self.take_mishap(file, |m| matches!(m, Mishap::SyncFails { .. }));
        let place = self.place(file)?;
        if mishap.is_none() && self.inodes[place].is_clean() {
            return Ok(());
        }
        let inode = Arc::make_mut(&mut self.inodes[place]);
        if let Some(Mishap::SyncFails { drop_pages }) = mishap {
            let dropped = if drop_pages { inode.drop_unsynced() } else { 0 };
            self.counts.sectors_dropped += dropped;
            self.counts.sync_errors += 1;
            return Err(DiskError::Io(file.clone(), "fdatasync: input/output error".into()));
        }
        inode.sync();
        self.counts.syncs += 1;
        Ok(())
    }

    fn power_is_gone(&mut self) -> DiskError {
        self.counts.power_failures += 1;
        DiskError::Io(Arc::from("disk"), "the power is gone".into())
    }

    fn rename(&mut self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        let Some(&inode) = self.names.get(from) else {
            return Err(DiskError::NotFound(from.clone()));
        };
        assert_eq!(directory_of(from), directory_of(to), "a rename stays in its directory");
        self.change(NameChange {
            directory: directory_of(from),
            link: Some((to.clone(), inode)),
            unlink: Some((from.clone(), inode)),
        });
        Ok(())
    }

    fn remove(&mut self, file: &FileName) {
        let held_bytes = self.names.get(file).map_or(0, |&inode| self.inodes[inode].len());
        self.give_back(held_bytes);
        self.unlink(file);
    }

    fn unlink(&mut self, file: &FileName) {
        if let Some(&inode) = self.names.get(file) {
            self.change(NameChange {
                directory: directory_of(file),
                link: None,
                unlink: Some((file.clone(), inode)),
            });
        }
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        let named = change.link.as_ref().or(change.unlink.as_ref()).map(|(name, _)| name.clone());
        let fails = |mishap| mishap == Mishap::PowerFails { names: true };
        if named.is_some_and(|name| self.take_mishap(&name, fails).is_some()) {
            self.steps_left = Some(0);
        }
        self.changes.push(change);
    }

    fn sync_directory(&mut self, directory: &FileName) {
        let durable_names = &mut self.durable_names;
        self.changes.retain(|change| {
            let synced = change.directory == *directory;
            if synced {
                apply(durable_names, change);
            }
            !synced
        });
        self.collect_garbage();
    }

    /// Frees the files that nothing leads to any more.
    fn collect_garbage(&mut self) {
        let mut used = vec![false; self.inodes.len()];
        let names = self.names.values().chain(self.durable_names.values());
        let changes = self.changes.iter().flat_map(|c| [&c.link, &c.unlink]).flatten();
        for &inode in names.chain(changes.map(|(_, inode)| inode)).chain(&self.free) {
            used[inode] = true;
        }
        for (inode, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            self.inodes[inode] = Arc::default();
            self.free.push(inode);
        }
    }
}

fn apply(names: &mut BTreeMap<FileName, usize>, change: &NameChange) {
    if let Some((name, inode)) = &change.unlink
        && names.get(name) == Some(inode)
    {
        names.remove(name);
    }
    if let Some((name, inode)) = &change.link {
        names.insert(name.clone(), *inode);
    }
}

fn directory_of(file: &str) -> FileName {
    Arc::from(file.rsplit_once('/').map_or("", |(directory, _)| directory))
}

impl Disk for SimDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if let Some(left) = &mut self.steps_left {
            if *left == 0 {
                return Err(self.power_is_gone());
            }
            *left -= 1;
        }
        self.counts.steps += 1;
        match op {
            DiskOp::Create { file, zero_bytes } => self.create(file, *zero_bytes),
            DiskOp::Reserve { file, len_bytes } => self.reserve(file, *len_bytes),
            DiskOp::Reuse { from, to } => self.reuse(from, to),
            DiskOp::Truncate { file, len_bytes } => self.truncate(file, *len_bytes),
            DiskOp::Write { file, offset, bytes } => self.write(file, *offset, bytes),
            DiskOp::Sync { file } => self.sync(file),
            DiskOp::Rename { from, to } => self.rename(from, to),
            DiskOp::Remove { file } => {
                self.remove(file);
                Ok(())
            }
            // Directories appear with their first file: losing an empty one changes nothing.
            DiskOp::CreateDirectory { .. } => Ok(()),
            DiskOp::SyncDirectory { directory } => {
                self.sync_directory(directory);
                Ok(())
            }
        }
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        let inside = self.names.iter().filter(|(name, _)| {
            let (parent, _) = name.rsplit_once('/').unwrap_or(("", name));
            parent == directory
        });
        Ok(inside
            .map(|(file, &inode)| FileInfo {
                file: file.clone(),
                len_bytes: self.inodes[inode].len(),
            })
            .collect())
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let error = || DiskError::Io(Arc::from(file), "read: input/output error".into());
        let Some(&inode) = self.names.get(file) else {
            return Err(DiskError::NotFound(Arc::from(file)));
        };
        if self.take_mishap(file, |m| m == Mishap::ReadFails).is_some() {
            self.counts.read_errors += 1;
            return Err(error());
        }
        let read = self.inodes[inode].read(offset, len_bytes);
        if read.is_none() {
            self.counts.read_errors += 1;
        }
        read.ok_or_else(error)
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        Ok(self.names.get(file).map(|&inode| self.inodes[inode].len()))
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
