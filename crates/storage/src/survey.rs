//! What lies in a data directory: names, snapshots, what is arriving. Reads; its only changes are
//! syncs.

use sampan_base::LogPosition;
use sampan_base::disk::{Disk, DiskOp, FileInfo, FileName};

use crate::create::IDENTITY_FILE;
use crate::hard_state;
use crate::members::MEMBERS_FILE;
use crate::segment::{self, WAL_DIRECTORY};
use crate::snapshot::{
    self, ARRIVING, COMPLETE, SNAPSHOT_DIRECTORY, SnapshotError, SnapshotReader,
};
use crate::{Damage, DamageReason, Identity, OpenError, PartialSnapshot, StoredSnapshot};

/// How the names of the files end that opening reads in the directories of the log and of
/// snapshots.
const READ_ENDINGS: [&str; 3] = [".log", COMPLETE, ARRIVING];

/// Whoever takes in the newest snapshot while opening checks it: so it is read once.
pub trait SnapshotSink {
    /// Reads every chunk of this one: that checks it, and what is not sound is an error. What was
    /// taken in before was damaged, or is too old.
    fn take(&mut self, disk: &mut dyn Disk, reader: &SnapshotReader) -> Result<(), SnapshotError>;
}

/// Takes nothing in.
impl SnapshotSink for () {
    fn take(&mut self, disk: &mut dyn Disk, reader: &SnapshotReader) -> Result<(), SnapshotError> {
        reader.check(disk)
    }
}

/// What lies in a data directory.
pub(crate) struct Directory {
    pub(crate) wal: Vec<FileInfo>,
    pub(crate) snapshots: Vec<FileInfo>,
}

impl Directory {
    /// Lists the directory, and syncs everything in it before a byte of it is trusted: after a
    /// failed sync the page cache may hold what the disk does not (rule S8).
    pub(crate) fn survey(disk: &mut dyn Disk) -> Result<Self, OpenError> {
        for directory in [WAL_DIRECTORY, SNAPSHOT_DIRECTORY] {
            disk.execute(&DiskOp::CreateDirectory { directory: directory.into() })?;
        }
        for directory in ["", WAL_DIRECTORY, SNAPSHOT_DIRECTORY] {
            disk.execute(&DiskOp::SyncDirectory { directory: directory.into() })?;
        }
        let listed = Self::list(disk)?;
        let roots = disk.list("")?;
        let roots = roots.iter().filter(|info| is_read_in_root(&info.file));
        let read = |info: &&FileInfo| READ_ENDINGS.iter().any(|ending| info.file.ends_with(ending));
        let others = listed.wal.iter().chain(&listed.snapshots).filter(read);
        for info in roots.chain(others) {
            disk.execute(&DiskOp::Sync { file: info.file.clone() })?;
        }
        Ok(listed)
    }

    /// Lists the directory as it is.
    pub(crate) fn list(disk: &mut dyn Disk) -> Result<Self, OpenError> {
        Ok(Self { wal: disk.list(WAL_DIRECTORY)?, snapshots: disk.list(SNAPSHOT_DIRECTORY)? })
    }

    pub(crate) fn segments(&self) -> Vec<(u64, FileName, u64)> {
        let segments = self.wal.iter().filter_map(|info| {
            let sequence = segment::number_in(&info.file, ".log")?;
            Some((sequence, info.file.clone(), info.len_bytes))
        });
        segments.collect()
    }

    /// Names that end so, in the directory of snapshots.
    fn snapshots_ending<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = &'a FileName> {
        self.snapshots.iter().map(|info| &info.file).filter(move |file| file.ends_with(ending))
    }
}

/// Does opening read it? Files of others may lie beside those of the node, whatever they are
/// called.
fn is_read_in_root(file: &str) -> bool {
    file == IDENTITY_FILE || file == MEMBERS_FILE || hard_state::FILES.contains(&file)
}

/// The snapshots that are there.
pub(crate) struct Snapshots {
    /// Newest first. The first one verifies.
    pub(crate) sound: Vec<StoredSnapshot>,
    /// Newest first, with what is wrong.
    pub(crate) damaged: Vec<(FileName, String)>,
}

impl Snapshots {
    /// Verifies snapshots, newest first, until one is found to be what was written. Of older ones
    /// only header and footer are read.
    pub(crate) fn read(
        disk: &mut dyn Disk,
        directory: &Directory,
        identity: Identity,
        sink: &mut dyn SnapshotSink,
    ) -> Result<Self, OpenError> {
        let mut files: Vec<&FileName> = directory.snapshots_ending(COMPLETE).collect();
        files.sort_by(|a, b| b.cmp(a));
        let mut snapshots = Self { sound: Vec::new(), damaged: Vec::new() };
        for file in files {
            let whole = snapshots.sound.is_empty().then_some(&mut *sink);
            match read_snapshot(disk, file, identity, whole) {
                Ok(stored) => snapshots.sound.push(stored),
                Err(SnapshotError::Damaged { why, .. }) => {
                    snapshots.damaged.push((file.clone(), why.into()));
                }
                Err(SnapshotError::UnsupportedVersion { file, version }) => {
                    return Err(OpenError::UnsupportedVersion { file, version });
                }
                Err(SnapshotError::Disk(error)) => return Err(error.into()),
            }
        }
        Ok(snapshots)
    }

    /// What the newest sound one covers; zero if there is none.
    pub(crate) fn position(&self) -> LogPosition {
        self.sound.first().map_or(LogPosition::ZERO, |newest| newest.meta.position)
    }

    /// The error to refuse with over this damage. A snapshot is to blame only where the log does
    /// not reach back to what stands in for it: an older one, or none.
    pub(crate) fn refuse(&self, damage: Damage) -> OpenError {
        let stands_in = self.sound.first().map(|newest| &newest.file);
        let is_gap = matches!(damage.reason, DamageReason::Gap { .. });
        match self.damaged.first() {
            Some((file, why)) if is_gap && stands_in.is_none_or(|older| older < file) => {
                OpenError::DamagedSnapshot { file: file.clone(), why: why.clone() }
            }
            _ => OpenError::DamagedLog(damage),
        }
    }
}

fn read_snapshot(
    disk: &mut dyn Disk,
    file: &FileName,
    identity: Identity,
    whole: Option<&mut (dyn SnapshotSink + '_)>,
) -> Result<StoredSnapshot, SnapshotError> {
    let damaged = |why| SnapshotError::Damaged { file: file.clone(), offset: 0, why };
    let reader = SnapshotReader::open(disk, file)?;
    if reader.maker().cluster != identity.cluster {
        return Err(damaged("it is of another cluster"));
    }
    if snapshot::file_name(reader.meta()) != *file {
        return Err(damaged("its name is not that of its contents"));
    }
    if let Some(sink) = whole {
        sink.take(disk, &reader)?;
    }
    Ok(StoredSnapshot { meta: reader.meta().clone(), file: file.clone() })
}

/// The arriving snapshot of which most is here, of those that cover more than a whole one does.
pub(crate) fn best_partial(
    disk: &mut dyn Disk,
    directory: &Directory,
    newest: LogPosition,
) -> Result<Option<PartialSnapshot>, OpenError> {
    let mut best: Option<PartialSnapshot> = None;
    for file in directory.snapshots_ending(ARRIVING) {
        let found = match snapshot::scan_partial(disk, file, newest.index) {
            Ok(found) => found,
            Err(SnapshotError::Disk(error)) => return Err(error.into()),
            Err(_) => None,
        };
        best = best.into_iter().chain(found).max_by_key(|partial| partial.next_offset);
    }
    Ok(best)
}
