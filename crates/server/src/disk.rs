//! Real files behind the `Disk` seam.
//!
//! What it is: [`DiskOp`]s as system calls, with the rules of durability that only the caller of a
//! system call can keep: zeros are really written, `fdatasync` only where size and extents are
//! already durable and `fsync` where they are not (an extent that was reserved is made one of data
//! by the first write, which `fdatasync` makes durable with it), an error of a sync is final (Linux
//! marks the pages clean and reports once, so a second sync that succeeds proves nothing). What it
//! is not: a policy. Which file, when and in what order is `sampan-storage`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo, FileName};
use sampan_storage::snapshot::{ARRIVING, COMPLETE, UNFINISHED};

use crate::direct::{Cached, Direct, PIECE_BYTES};
use crate::release;
use crate::spare::Spare;

/// Open files kept, at most, besides those with unsynced writes; each may be open three times
/// (`direct.rs`).
const HANDLES_MAX: usize = 64;
/// Zeros are written in pieces of this many bytes.
const ZEROS_BYTES: usize = 1 << 20;

/// A directory of real files. Clones share their open files, so that the lanes of a node may take
/// turns on one file.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: Arc<Path>,
    shared: Arc<Shared>,
    /// Files are opened for reading, and every change is refused.
    read_only: bool,
    bulk: Bulk,
    /// What goes past the page cache goes in pieces of this length.
    piece_bytes: usize,
}

/// How snapshots from and for peers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bulk {
    /// Like everything else.
    Usual,
    /// Past the page cache.
    PastCache,
    /// The same, except for what it has of a complete one.
    FromCache,
}

#[derive(Default, Debug)]
struct Shared {
    table: Mutex<Table>,
    /// What bulk is read into.
    spare: Spare,
    /// The first sync that failed: what is on the disk is unknown, and nothing may be done to it
    /// any more. Whichever lane is heard first tells of it.
    failed: OnceLock<DiskError>,
}

/// The open files by their names. Lanes share files, and one that went on with a file that has lost
/// its name would lose what it writes: so a file is not kept that was opened while names changed.
/// Nobody holds the lock over a system call, for the log lane needs it for each write.
#[derive(Default, Debug)]
struct Table {
    open: BTreeMap<FileName, Arc<Handle>>,
    /// These are losing their names.
    removing: BTreeSet<FileName>,
    /// Counts changes of names.
    changes: u64,
}

#[derive(Debug)]
struct Handle {
    file: File,
    /// For bulk.
    direct: Direct,
    cached: Cached,
    /// Written to since the last sync.
    dirty: AtomicBool,
    /// Its length has changed and may not be durable: the next sync must be a full one.
    grown: AtomicBool,
    /// Its length, as far as this process made it.
    len_bytes: Mutex<u64>,
}

impl Table {
    /// Keeps a file. Those that it no longer keeps, to be closed without the lock.
    fn keep(&mut self, name: &FileName, handle: Arc<Handle>) -> Vec<Arc<Handle>> {
        let mut closed = Vec::new();
        if self.open.len() >= HANDLES_MAX {
            // Never one with unsynced writes: closing it could lose the report of an error.
            let is_clean =
                |_: &FileName, kept: &mut Arc<Handle>| !kept.dirty.load(Ordering::Relaxed);
            closed.extend(self.open.extract_if(.., is_clean).map(|(_, handle)| handle));
        }
        closed.extend(self.open.insert(name.clone(), handle));
        closed
    }
}

impl Handle {
    fn new(file: File, len_bytes: u64, dirty: bool) -> Arc<Self> {
        Arc::new(Self {
            file,
            direct: Direct::default(),
            cached: Cached::default(),
            dirty: AtomicBool::new(dirty),
            // Found on the disk or just made: nobody here knows that its length is durable.
            grown: AtomicBool::new(true),
            len_bytes: Mutex::new(len_bytes),
        })
    }

    /// A write reaches so far. True if the file becomes longer.
    fn grow_to(&self, end: u64) -> bool {
        let mut len_bytes = self.len_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let grows = end > *len_bytes;
        if grows {
            self.grown.store(true, Ordering::Relaxed);
            *len_bytes = end;
        }
        grows
    }
}

impl RealDisk {
    /// The files beneath `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into().into(),
            shared: Arc::default(),
            read_only: false,
            bulk: Bulk::Usual,
            piece_bytes: PIECE_BYTES,
        }
    }

    /// The same, to look at and not to change.
    pub fn read_only(root: impl Into<PathBuf>) -> Self {
        Self { read_only: true, ..Self::new(root) }
    }

    /// The same, for the background, which reads and writes snapshots that nobody reads again soon.
    pub(crate) fn past_cache(self) -> Self {
        Self { bulk: Bulk::PastCache, ..self }
    }

    /// The same, for what goes to peers, who check it: it need not be what the disk has.
    pub(crate) fn for_peers(self) -> Self {
        Self { bulk: Bulk::FromCache, ..self }
    }

    /// What goes past the page cache is to go in pieces of this length, a multiple of 4 KiB: others
    /// on the disk wait for one of them.
    pub(crate) fn set_piece_bytes(&mut self, piece_bytes: usize) {
        self.piece_bytes = piece_bytes;
    }

    /// Does this file go past the page cache? A snapshot that arrives, or a complete one, which is
    /// checked or read for a peer. Not the own one while it is written and verified: the log waits
    /// for that, and one piece after another to the disk takes longer.
    fn is_past_cache(&self, file: &str) -> bool {
        self.bulk != Bulk::Usual && (file.ends_with(ARRIVING) || file.ends_with(COMPLETE))
    }

    fn path(&self, file: &str) -> PathBuf {
        let plain = file.split('/').all(|part| !matches!(part, "" | "." | ".."));
        assert!(plain || file.is_empty(), "a file name outside the data directory: {file:?}");
        self.root.join(file)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change to it is one call.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file, opening it if it exists.
    fn handle(&self, file: &FileName) -> Result<Arc<Handle>, DiskError> {
        loop {
            let table = self.table();
            if let Some(handle) = table.open.get(file) {
                return Ok(handle.clone());
            }
            if table.removing.contains(file) {
                return Err(DiskError::NotFound(file.clone()));
            }
            let changes = table.changes;
            drop(table);
            let handle = self.open(file)?;
            let mut table = self.table();
            if table.changes == changes {
                let closed = table.keep(file, handle.clone());
                drop(table);
                drop(closed);
                return Ok(handle);
            }
        }
    }

    fn open(&self, file: &FileName) -> Result<Arc<Handle>, DiskError> {
        let opened = OpenOptions::new().read(true).write(!self.read_only).open(self.path(file));
        let opened = opened.map_err(|error| disk_error(file, &error))?;
        if self.read_only {
            // A node that removes it meanwhile is to leave it its bytes (`release.rs`).
            _ = opened.try_lock_shared();
            if !release::has_name(&opened, &self.path(file)) {
                return Err(DiskError::NotFound(file.clone()));
            }
        }
        let len_bytes = opened.metadata().map_err(|error| disk_error(file, &error))?.len();
        // What is read is read front to back: the kernel is to read ahead while this process makes
        // something of it. Where it does not want to, it is only slower.
        _ = rustix::fs::fadvise(&opened, 0, None, Advice::Sequential);
        Ok(Handle::new(opened, len_bytes, false))
    }

    fn create(&self, file: &FileName, zero_bytes: u64) -> Result<(), DiskError> {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(file))
            .map_err(|error| disk_error(file, &error))?;
        let handle = Handle::new(made, zero_bytes, true);
        // Past the cache, and so one piece after another: others on the disk sync meanwhile.
        let write =
            |zeros: &[u8], at| handle.direct.write(&handle.file, zeros, at, self.piece_bytes);
        if let Err(error) = write_zeros(0, zero_bytes, write) {
            // Give the room back; the error is reported whether or not that works.
            _ = self.remove(file);
            return Err(disk_error(file, &error));
        }
        let closed = self.table().keep(file, handle);
        drop(closed);
        Ok(())
    }

    fn reserve(&self, file: &FileName, len_bytes: u64) -> Result<(), DiskError> {
        let failed = |error: io::Error| disk_error(file, &error);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(file))
            .map_err(failed)?;
        let held_bytes = opened.metadata().map_err(failed)?.len();
        // Only what takes the room makes it longer: if that is cut short, the length says how much
        // it has.
        if len_bytes < held_bytes {
            release::cut(&opened, len_bytes).map_err(failed)?;
        }
        let allocate = || rustix::fs::fallocate(&opened, FallocateFlags::empty(), 0, len_bytes);
        let filled = match rustix::io::retry_on_intr(allocate) {
            // Not every file system can: then zeros take the room that it does not have yet.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                write_zeros(held_bytes, len_bytes, |zeros, at| opened.write_all_at(zeros, at))
            }
            allocated => allocated.map_err(Into::into),
        };
        filled.map_err(|error| {
            // Give the room back, and the name; the error is reported whether or not that works.
            if held_bytes == 0 {
                _ = fs::remove_file(self.path(file));
            } else {
                _ = opened.set_len(held_bytes.min(len_bytes));
            }
            failed(error)
        })
    }

    fn write(&self, file: &FileName, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let handle = self.handle(file)?;
        handle.dirty.store(true, Ordering::Relaxed);
        let grows = handle.grow_to(offset + bytes.len() as u64);
        let written = if self.is_past_cache(file) {
            handle.direct.write(&handle.file, bytes, offset, self.piece_bytes)
        } else {
            handle.file.write_all_at(bytes, offset)
        };
        written.map_err(|error| disk_error(file, &error))?;
        if grows || file.ends_with(UNFINISHED) {
            // Such a file is written in bulk, and others on the disk sync meanwhile: each piece is
            // to go out now, and not all of them with one sync, which would hold the others up. To
            // say that the pages are not needed begins to write those that went to the cache; they
            // stay until they are clean, and do no harm after that. A kernel that does not do this
            // is only less even.
            let len_bytes = NonZeroU64::new(bytes.len() as u64);
            _ = rustix::fs::fadvise(&handle.file, offset, len_bytes, Advice::DontNeed);
        }
        Ok(())
    }

    fn sync(&self, file: &FileName) -> Result<(), DiskError> {
        let handle = self.handle(file)?;
        let grown = handle.grown.load(Ordering::Relaxed);
        let synced = if grown {
            rustix::fs::fsync(&handle.file)
        } else {
            rustix::fs::fdatasync(&handle.file)
        };
        synced.map_err(|error| self.fail(file, error))?;
        handle.dirty.store(false, Ordering::Relaxed);
        handle.grown.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn reuse(&self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        if self.path(to).exists() {
            return Ok(());
        }
        match self.rename(from, to) {
            // Whoever opens it from now on sees that it has lost its name (`release.rs`).
            Ok(()) if release::may_be_read(&self.handle(to)?.file) => self.remove(to)?,
            Ok(()) => return Ok(()),
            Err(DiskError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.create(to, 0)
    }

    fn truncate(&self, file: &FileName, len_bytes: u64) -> Result<(), DiskError> {
        let handle = self.handle(file)?;
        release::cut(&handle.file, len_bytes).map_err(|error| disk_error(file, &error))?;
        handle.dirty.store(true, Ordering::Relaxed);
        handle.grown.store(true, Ordering::Relaxed);
        let mut known_bytes = handle.len_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(len_bytes <= *known_bytes, "to cut a file off makes nothing longer");
        *known_bytes = len_bytes;
        Ok(())
    }

    fn rename(&self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        fs::rename(self.path(from), self.path(to)).map_err(|error| disk_error(from, &error))?;
        let mut table = self.table();
        table.changes += 1;
        let replaced = table.open.remove(to);
        if let Some(handle) = table.open.remove(from) {
            handle.cached.begin_anew();
            table.open.insert(to.clone(), handle);
        }
        drop(table);
        // Its bytes may go with it, which takes time.
        drop(replaced);
        Ok(())
    }

    fn remove(&self, file: &FileName) -> Result<(), DiskError> {
        let mut table = self.table();
        table.changes += 1;
        table.removing.insert(file.clone());
        let handle = table.open.remove(file);
        drop(table);
        let removed = release::remove_name(&self.path(file));
        drop(handle);
        self.table().removing.remove(file);
        match removed {
            Ok(Some(nameless)) if release::is_long(&nameless) => {
                // A crash that brought the name back is to bring back all of its bytes.
                let (directory, _) = file.rsplit_once('/').unwrap_or_default();
                self.sync_directory(&directory.into())?;
                release::give_back(&nameless);
                Ok(())
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_error(file, &error)),
            _ => Ok(()),
        }
    }

    fn read_bytes(&self, file: &FileName, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let failed = |error: io::Error| disk_error(file, &error);
        let handle = self.handle(file)?;
        let there = handle.file.metadata().map_err(failed)?.len().saturating_sub(offset);
        let wanted = len_bytes.min(there) as usize;
        if self.is_past_cache(file) {
            let spare = &self.shared.spare;
            if self.bulk == Bulk::PastCache {
                // Who looks at the disk may doubt what comes from the cache.
                handle.cached.give_up();
            } else if file.ends_with(COMPLETE)
                && let Some(read) = handle.cached.read(&handle.file, offset, wanted, spare)
            {
                return Ok(read);
            }
            let piece_bytes = self.piece_bytes;
            let read = handle.direct.read(&handle.file, offset, wanted, piece_bytes, spare);
            if let Some(read) = read {
                return read.map_err(failed);
            }
        }
        // Not zeroed first: whole snapshots are read through here.
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&handle.file, spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        bytes.truncate(wanted);
        Ok(bytes.into())
    }

    fn sync_directory(&self, directory: &FileName) -> Result<(), DiskError> {
        let opened = File::open(self.path(directory));
        let opened = opened.map_err(|error| disk_error(directory, &error))?;
        rustix::fs::fsync(&opened).map_err(|error| self.fail(directory, error))
    }

    /// A sync has failed.
    fn fail(&self, name: &FileName, error: Errno) -> DiskError {
        let error = || DiskError::Io(name.clone(), format!("sync: {error}"));
        self.shared.failed.get_or_init(error).clone()
    }
}

impl Disk for RealDisk {
    fn another(&self) -> Option<Box<dyn Disk + Send>> {
        // Whole snapshots are read like this, and not again soon.
        Some(Box::new(self.clone().past_cache()))
    }

    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::Io("".into(), "opened for reading only".into()));
        }
        if let Some(error) = self.shared.failed.get() {
            return Err(error.clone());
        }
        match op {
            DiskOp::Create { file, zero_bytes } => self.create(file, *zero_bytes),
            DiskOp::Reserve { file, len_bytes } => self.reserve(file, *len_bytes),
            DiskOp::Reuse { from, to } => self.reuse(from, to),
            DiskOp::Truncate { file, len_bytes } => self.truncate(file, *len_bytes),
            DiskOp::Write { file, offset, bytes } => self.write(file, *offset, bytes),
            DiskOp::Sync { file } => self.sync(file),
            DiskOp::Rename { from, to } => self.rename(from, to),
            DiskOp::Remove { file } => self.remove(file),
            DiskOp::CreateDirectory { directory } => fs::create_dir_all(self.path(directory))
                .map_err(|error| disk_error(directory, &error)),
            DiskOp::SyncDirectory { directory } => self.sync_directory(directory),
        }
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        let failed = |error: io::Error| disk_error(&directory.into(), &error);
        let entries = match fs::read_dir(self.path(directory)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            if !metadata.is_file() {
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let file: FileName = match directory {
                "" => name.into(),
                directory => format!("{directory}/{name}").into(),
            };
            files.push(FileInfo { file, len_bytes: metadata.len() });
        }
        files.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(files)
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let name: FileName = file.into();
        let bytes = self.read_bytes(&name, offset, len_bytes)?;
        // What has lost its name may have been written over by now, unless it is locked.
        let is_safe = self.read_only || !file.ends_with(COMPLETE) || self.path(file).exists();
        if !is_safe {
            return Err(DiskError::NotFound(name));
        }
        Ok(bytes)
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        match fs::metadata(self.path(file)) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk_error(&file.into(), &error)),
        }
    }
}

/// Zeros from one offset up to another, if that is beyond it, in pieces.
fn write_zeros(from: u64, to: u64, write: impl Fn(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let count = (to - at).min(ZEROS_BYTES as u64) as usize;
        write(&zeros[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

pub(crate) fn disk_error(file: &FileName, error: &io::Error) -> DiskError {
    match error.kind() {
        ErrorKind::NotFound => DiskError::NotFound(file.clone()),
        // Longer than a file may be here: there is no room for it either, and nothing is broken.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            DiskError::NoSpace(file.clone())
        }
        ErrorKind::PermissionDenied | ErrorKind::OutOfMemory | ErrorKind::ReadOnlyFilesystem => {
            DiskError::Refused(file.clone(), error.to_string())
        }
        _ if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) => {
            DiskError::TooManyOpen(file.clone(), error.to_string())
        }
        _ => DiskError::Io(file.clone(), error.to_string()),
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
