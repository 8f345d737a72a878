//! A disk in memory that forgets what was not synced, for tests and simulations. It implements the
//! medium that `docs/format.md` assumes, and its faults.
//!
//! Of every sector written since the last sync a crash keeps any one version, of every name change
//! since the last directory sync it keeps it or not, each on its own: [`MemDisk::crash`] asks a
//! [`Chooser`], which may be random ([`Rng`]) or enumerate all answers ([`Odometer`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sampan_base::Rng;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo, FileName};

use crate::sector::SECTOR_BYTES;

const SECTOR: usize = SECTOR_BYTES as usize;

/// Decides what a crash keeps.
pub trait Chooser {
    /// One of `0..count`; 0 is the state that was synced, `count - 1` the newest.
    fn choose(&mut self, count: usize) -> usize;
}

impl Chooser for Rng {
    fn choose(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }
}

/// Keeps everything: a killed process, the page cache survives.
#[derive(Clone, Copy, Debug)]
pub struct KeepAll;

impl Chooser for KeepAll {
    fn choose(&mut self, count: usize) -> usize {
        count - 1
    }
}

/// Keeps what was synced and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct KeepSynced;

impl Chooser for KeepSynced {
    fn choose(&mut self, _count: usize) -> usize {
        0
    }
}

/// Gives every combination of answers, one after another.
///
/// ```
/// use sampan_storage::testing::{Chooser, Odometer};
/// let mut all = Odometer::default();
/// let mut seen = Vec::new();
/// loop {
///     seen.push((all.choose(2), all.choose(3)));
///     if !all.advance() {
///         break;
///     }
/// }
/// assert_eq!(seen, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Odometer {
    /// Answers and the number of possible ones, in the order of the questions.
    wheels: Vec<(usize, usize)>,
    next: usize,
}

impl Odometer {
    /// Moves to the next combination; false when all were given.
    pub fn advance(&mut self) -> bool {
        self.next = 0;
        while let Some((answer, count)) = self.wheels.pop() {
            if answer + 1 < count {
                self.wheels.push((answer + 1, count));
                return true;
            }
        }
        false
    }
}

impl Chooser for Odometer {
    fn choose(&mut self, count: usize) -> usize {
        if self.next == self.wheels.len() {
            self.wheels.push((0, count));
        }
        let (answer, known_count) = self.wheels[self.next];
        assert!(known_count == count, "the questions changed");
        self.next += 1;
        answer
    }
}

/// A file, whatever its name.
#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a reader sees.
    content: Vec<u8>,
    /// What was synced.
    synced: Vec<u8>,
    /// Contents of sectors since the last sync, oldest first.
    sectors: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// Lengths since the last sync, oldest first.
    lengths: Vec<usize>,
}

impl Inode {
    fn truncate(&mut self, len: usize) {
        self.content.clear();
        self.lengths.push(0);
        self.extend(len);
        let old = self.synced.len().min(len).div_ceil(SECTOR);
        for sector in 0..old {
            self.sectors.entry(sector).or_default().push([0; SECTOR]);
        }
    }

    fn extend(&mut self, len: usize) {
        if len > self.content.len() {
            self.content.resize(len, 0);
            self.lengths.push(len);
        }
    }

    fn cut(&mut self, len: usize) {
        assert!(len <= self.content.len(), "a cut makes nothing longer");
        let sectors = len / SECTOR..self.content.len().div_ceil(SECTOR);
        self.content.truncate(len);
        self.lengths.push(len);
        for sector in sectors {
            self.sectors.entry(sector).or_default().push(sector_of(&self.content, sector));
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.extend(offset + bytes.len());
        self.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        for sector in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let now = sector_of(&self.content, sector);
            let versions = self.sectors.entry(sector).or_default();
            let before = versions.last().copied();
            // Writing what is there already changes nothing, whether it lasts or not.
            if before.unwrap_or_else(|| sector_of(&self.synced, sector)) != now {
                versions.push(now);
            }
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.content.len(), 0);
        for (sector, _) in std::mem::take(&mut self.sectors) {
            put_sector(&mut self.synced, sector, &sector_of(&self.content, sector));
        }
        self.lengths.clear();
    }

    /// What Linux does when writing back fails: reports it once and marks the pages clean. Readers
    /// go on seeing what the disk does not have.
    fn sync_fails(&mut self) {
        self.sectors.clear();
        self.lengths.clear();
    }

    fn crash(&self, chooser: &mut dyn Chooser) -> Self {
        let mut kept = self.synced.clone();
        if !self.lengths.is_empty() {
            let length = chooser.choose(self.lengths.len() + 1);
            let length = length.checked_sub(1).map_or(self.synced.len(), |i| self.lengths[i]);
            kept.resize(length, 0);
        }
        for (&sector, versions) in self.sectors.iter().filter(|(_, versions)| !versions.is_empty())
        {
            if let Some(version) = chooser.choose(versions.len() + 1).checked_sub(1) {
                put_sector(&mut kept, sector, &versions[version]);
            }
        }
        Self { content: kept.clone(), synced: kept, ..Self::default() }
    }
}

fn sector_of(content: &[u8], sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let start = (sector * SECTOR).min(content.len());
    let end = (start + SECTOR).min(content.len());
    bytes[..end - start].copy_from_slice(&content[start..end]);
    bytes
}

/// Writes what of the sector lies within the file.
fn put_sector(content: &mut [u8], sector: usize, bytes: &[u8; SECTOR]) {
    let start = (sector * SECTOR).min(content.len());
    let end = (start + SECTOR).min(content.len());
    content[start..end].copy_from_slice(&bytes[..end - start]);
}

/// A change of names that is not synced.
#[derive(Clone, Debug)]
enum NameChange {
    Link(FileName, usize),
    Rename(FileName, FileName, usize),
    Unlink(FileName),
    Directory(FileName),
}

impl NameChange {
    /// The directory whose sync makes it durable.
    fn directory(&self) -> &str {
        let (Self::Link(name, _)
        | Self::Rename(_, name, _)
        | Self::Unlink(name)
        | Self::Directory(name)) = self;
        directory_of(name)
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, inode) => {
                names.files.insert(name.clone(), *inode);
            }
            Self::Rename(from, to, inode) => {
                if names.files.get(from) == Some(inode) {
                    names.files.remove(from);
                }
                names.files.insert(to.clone(), *inode);
            }
            Self::Unlink(name) => {
                names.files.remove(name);
            }
            Self::Directory(name) => {
                names.directories.insert(name.clone());
            }
        }
    }
}

fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<FileName, usize>,
    directories: BTreeSet<FileName>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inodes: Vec<Inode>,
    names: Names,
    synced_names: Names,
    changes: Vec<NameChange>,
    /// Files that cannot be read.
    unreadable: BTreeSet<FileName>,
    /// Executed steps, if they are recorded.
    journal: Option<Vec<DiskOp>>,
    /// All files together are never longer than this; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// Steps that still succeed before every further one fails; `None`: no limit.
    pub steps_left: Option<u64>,
    /// Syncs that still succeed before one fails, once; `None`: none fails.
    pub syncs_left: Option<u64>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as it may be after a crash now.
    #[must_use]
    pub fn crash(&self, chooser: &mut dyn Chooser) -> Self {
        let mut names = self.synced_names.clone();
        for change in &self.changes {
            if chooser.choose(2) == 1 {
                change.apply(&mut names);
            }
        }
        let Names { mut files, directories } = names;
        files.retain(|name, _| {
            let directory = directory_of(name);
            directory.is_empty() || directories.contains(directory)
        });
        let mut inodes = Vec::with_capacity(files.len());
        for inode in files.values_mut() {
            inodes.push(self.inodes[*inode].crash(chooser));
            *inode = inodes.len() - 1;
        }
        let names = Names { files, directories };
        Self {
            inodes,
            synced_names: names.clone(),
            names,
            unreadable: self.unreadable.clone(),
            capacity_bytes: self.capacity_bytes,
            ..Self::default()
        }
    }

    /// All files, sorted by name, with their contents.
    pub fn files(&self) -> impl Iterator<Item = (&FileName, &[u8])> {
        self.names.files.iter().map(|(name, &inode)| (name, &self.inodes[inode].content[..]))
    }

    /// Changes bytes behind the program's back, as seen by readers and on the medium. Panics if the
    /// file does not reach that far.
    pub fn corrupt(&mut self, file: &str, offset: u64, change: impl Fn(&mut u8)) {
        let inode = self.names.files[file];
        let inode = &mut self.inodes[inode];
        change(&mut inode.content[offset as usize]);
        if let Some(byte) = inode.synced.get_mut(offset as usize) {
            change(byte);
        }
    }

    /// Cuts a file off, or removes it if `len_bytes` is `None`, behind the program's back.
    pub fn lose(&mut self, file: &str, len_bytes: Option<u64>) {
        if let Some(len_bytes) = len_bytes {
            let inode = self.names.files[file];
            self.inodes[inode].content.truncate(len_bytes as usize);
            self.inodes[inode].synced.truncate(len_bytes as usize);
        } else {
            self.names.files.remove(file);
            self.synced_names.files.remove(file);
        }
    }

    /// From now on this file cannot be read.
    pub fn make_unreadable(&mut self, file: &str) {
        self.unreadable.insert(Arc::from(file));
    }

    /// From now on record the steps executed; returns those recorded so far.
    pub fn record(&mut self) -> Vec<DiskOp> {
        self.journal.replace(Vec::new()).unwrap_or_default()
    }

    fn inode(&self, file: &str) -> Result<usize, DiskError> {
        self.names.files.get(file).copied().ok_or_else(|| DiskError::NotFound(file.into()))
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn check_room(&self, file: &FileName, more_bytes: u64) -> Result<(), DiskError> {
        let used: usize =
            self.names.files.values().map(|&inode| self.inodes[inode].content.len()).sum();
        match self.capacity_bytes {
            Some(capacity) if used as u64 + more_bytes > capacity => {
                Err(DiskError::NoSpace(file.clone()))
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self, file: &FileName, zero_bytes: u64) -> Result<(), DiskError> {
        let directory = directory_of(file);
        if !directory.is_empty() && !self.names.directories.contains(directory) {
            return Err(DiskError::NotFound(directory.into()));
        }
        let inode = if let Ok(inode) = self.inode(file) {
            self.inodes[inode].truncate(0);
            inode
        } else {
            self.inodes.push(Inode::default());
            let inode = self.inodes.len() - 1;
            self.change(NameChange::Link(file.clone(), inode));
            inode
        };
        self.check_room(file, zero_bytes)?;
        self.inodes[inode].truncate(zero_bytes as usize);
        Ok(())
    }

    fn reserve(&mut self, file: &FileName, len_bytes: u64) -> Result<(), DiskError> {
        let held = self.inode(file).map_or(0, |inode| self.inodes[inode].content.len() as u64);
        self.check_room(file, len_bytes.saturating_sub(held))?;
        self.create(file, 0)?;
        let inode = self.inode(file)?;
        self.inodes[inode].truncate(len_bytes as usize);
        Ok(())
    }

    fn reuse(&mut self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        if self.inode(to).is_ok() {
            return Ok(());
        }
        match self.inode(from) {
            Ok(_) => self.rename(from, to),
            Err(_) => self.create(to, 0),
        }
    }

    fn rename(&mut self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        assert!(directory_of(from) == directory_of(to), "a rename across directories");
        let inode = self.inode(from)?;
        self.change(NameChange::Rename(from.clone(), to.clone(), inode));
        Ok(())
    }

    fn sync(&mut self, file: &FileName) -> Result<(), DiskError> {
        let inode = self.inode(file)?;
        if self.syncs_left == Some(0) {
            self.syncs_left = None;
            self.inodes[inode].sync_fails();
            return Err(DiskError::Io(file.clone(), "injected sync failure".into()));
        }
        self.syncs_left = self.syncs_left.map(|left| left - 1);
        self.inodes[inode].sync();
        Ok(())
    }

    fn sync_directory(&mut self, directory: &str) -> Result<(), DiskError> {
        if !directory.is_empty() && !self.names.directories.contains(directory) {
            return Err(DiskError::NotFound(directory.into()));
        }
        for change in std::mem::take(&mut self.changes) {
            if change.directory() == directory {
                change.apply(&mut self.synced_names);
            } else {
                self.changes.push(change);
            }
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if self.steps_left == Some(0) {
            return Err(DiskError::Io("".into(), "injected stop".into()));
        }
        self.steps_left = self.steps_left.map(|left| left - 1);
        if let Some(journal) = &mut self.journal {
            journal.push(op.clone());
        }
        match op {
            DiskOp::Create { file, zero_bytes } => self.create(file, *zero_bytes)?,
            DiskOp::Reserve { file, len_bytes } => self.reserve(file, *len_bytes)?,
            DiskOp::Reuse { from, to } => self.reuse(from, to)?,
            DiskOp::Truncate { file, len_bytes } => {
                let inode = self.inode(file)?;
                self.inodes[inode].cut(*len_bytes as usize);
            }
            DiskOp::Write { file, offset, bytes } => {
                let inode = self.inode(file)?;
                let end = offset + bytes.len() as u64;
                let len_bytes = self.inodes[inode].content.len() as u64;
                if end > len_bytes {
                    self.check_room(file, end - len_bytes)?;
                }
                self.inodes[inode].write(*offset as usize, bytes);
            }
            DiskOp::Sync { file } => self.sync(file)?,
            DiskOp::Rename { from, to } => self.rename(from, to)?,
            DiskOp::Remove { file } => {
                if self.inode(file).is_ok() {
                    self.change(NameChange::Unlink(file.clone()));
                }
            }
            DiskOp::CreateDirectory { directory } => {
                if !self.names.directories.contains(directory) {
                    self.change(NameChange::Directory(directory.clone()));
                }
            }
            DiskOp::SyncDirectory { directory } => self.sync_directory(directory)?,
        }
        Ok(())
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        let files = self.names.files.iter().filter(|(name, _)| directory_of(name) == directory);
        let infos = files.map(|(name, &inode)| FileInfo {
            file: name.clone(),
            len_bytes: self.inodes[inode].content.len() as u64,
        });
        Ok(infos.collect())
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let inode = self.inode(file)?;
        if self.unreadable.contains(file) {
            return Err(DiskError::Io(file.into(), "injected read error".into()));
        }
        let content = &self.inodes[inode].content;
        let start = content.len().min(offset as usize);
        let end = content.len().min(start + len_bytes as usize);
        Ok(Bytes::copy_from_slice(&content[start..end]))
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        let inode = self.names.files.get(file);
        Ok(inode.map(|&inode| self.inodes[inode].content.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> FileName {
        Arc::from(name)
    }

    /// A disk with `f` = 1024 synced bytes of 1, then both sectors written with 2, not synced.
    fn half_written() -> MemDisk {
        let mut disk = MemDisk::new();
        let write = |byte: u8| DiskOp::Write {
            file: file("f"),
            offset: 0,
            bytes: vec![byte; 2 * SECTOR].into(),
        };
        let ops = [
            DiskOp::Create { file: file("f"), zero_bytes: 0 },
            write(1),
            DiskOp::Sync { file: file("f") },
            DiskOp::SyncDirectory { directory: file("") },
            write(2),
        ];
        disk.execute_all(&ops).unwrap();
        disk
    }

    #[test]
    fn a_crash_keeps_any_subset_of_unsynced_sectors() {
        let disk = half_written();
        let mut choices = Odometer::default();
        let mut seen = BTreeSet::new();
        loop {
            let mut after = disk.crash(&mut choices);
            let bytes = after.read("f", 0, 2 * SECTOR_BYTES).unwrap();
            seen.insert((bytes[0], bytes[SECTOR]));
            if !choices.advance() {
                break;
            }
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    }

    #[test]
    fn a_name_lasts_from_its_directory_sync_on() {
        let mut disk = half_written();
        disk.execute(&DiskOp::Sync { file: file("f") }).unwrap();
        disk.execute(&DiskOp::Rename { from: file("f"), to: file("g") }).unwrap();
        let names =
            |disk: MemDisk| disk.files().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(disk.crash(&mut KeepSynced)), ["f"]);
        assert_eq!(names(disk.crash(&mut KeepAll)), ["g"]);
        disk.execute(&DiskOp::SyncDirectory { directory: file("") }).unwrap();
        assert_eq!(names(disk.crash(&mut KeepSynced)), ["g"]);
    }

    #[test]
    fn a_failed_sync_leaves_readers_with_what_the_disk_does_not_have() {
        let mut disk = half_written();
        disk.syncs_left = Some(0);
        assert!(disk.execute(&DiskOp::Sync { file: file("f") }).is_err());
        assert_eq!(disk.execute(&DiskOp::Sync { file: file("f") }), Ok(()));
        assert_eq!(disk.read("f", 0, 1).unwrap()[0], 2);
        assert_eq!(disk.crash(&mut KeepAll).read("f", 0, 1).unwrap()[0], 1);
    }

    #[test]
    fn a_full_disk_refuses_to_grow_a_file_and_takes_overwrites() {
        let mut disk = half_written();
        disk.capacity_bytes = Some(2 * SECTOR_BYTES);
        let grow =
            DiskOp::Write { file: file("f"), offset: 2 * SECTOR_BYTES, bytes: vec![0].into() };
        assert_eq!(disk.execute(&grow), Err(DiskError::NoSpace(file("f"))));
        let overwrite = DiskOp::Write { file: file("f"), offset: 0, bytes: vec![3].into() };
        assert_eq!(disk.execute(&overwrite), Ok(()));
        let create = DiskOp::Create { file: file("g"), zero_bytes: 1 };
        assert_eq!(disk.execute(&create), Err(DiskError::NoSpace(file("g"))));
    }
}
