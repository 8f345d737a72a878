//! Creating a data directory, and telling whose it is.

use sampan_base::LogIndex;
use sampan_base::disk::{Disk, DiskError, DiskOp};

use crate::batch::Link;
use crate::hard_state::{self, Record};
use crate::page::{self, Magic, PAGE_BYTES, PageFault};
use crate::segment::{self, SegmentHeader, WAL_DIRECTORY};
use crate::snapshot::SNAPSHOT_DIRECTORY;
use crate::{Identity, OpenError, Options, Storage};

/// The file that makes a directory a data directory; it is written last.
pub(crate) const IDENTITY_FILE: &str = "identity";
const IDENTITY_TEMPORARY: &str = "identity.tmp";

/// What the identity file begins with.
pub(crate) const IDENTITY_MAGIC: Magic = *b"SAMPIDEN";

impl Storage {
    /// Makes a new node's data directory, durably; its identity comes last. Refuses a directory
    /// that holds a node, or shows that one lived there. After a crash on the way, do it again.
    ///
    /// Nobody can tell a new node from one whose disk was lost: it is marked newborn.
    pub fn create(
        disk: &mut dyn Disk,
        identity: Identity,
        options: &Options,
    ) -> Result<(), OpenError> {
        Self::create_as(disk, identity, options, true)
    }

    /// The same for a node of a cluster that is made as a whole, so that none of its nodes has a
    /// past: they have nothing to ask each other.
    pub fn create_formed(
        disk: &mut dyn Disk,
        identity: Identity,
        options: &Options,
    ) -> Result<(), OpenError> {
        Self::create_as(disk, identity, options, false)
    }

    fn create_as(
        disk: &mut dyn Disk,
        identity: Identity,
        options: &Options,
        newborn: bool,
    ) -> Result<(), OpenError> {
        options.check().map_err(OpenError::BadOptions)?;
        if Self::exists(disk)? {
            return Err(OpenError::AlreadyCreated(IDENTITY_FILE.into()));
        }
        disk.execute_all(&create_ops(identity, options, newborn)).map_err(OpenError::Disk)
    }

    /// Does a node live here? An error if one did, and its identity file is gone.
    pub fn exists(disk: &mut dyn Disk) -> Result<bool, OpenError> {
        if disk.len_bytes(IDENTITY_FILE)?.is_some() {
            return Ok(true);
        }
        // An unfinished creation leaves at most its first segment and unused hard states.
        let first = [segment::file_name(1), segment::temporary_name(1)];
        let used_log = disk.list(WAL_DIRECTORY)?.iter().any(|info| !first.contains(&info.file));
        let used_snapshots = !disk.list(SNAPSHOT_DIRECTORY)?.is_empty();
        let mut used_hard_state = false;
        for file in hard_state::FILES {
            if disk.len_bytes(file)?.is_some() {
                let record = Record::decode(&disk.read(file, 0, PAGE_BYTES)?);
                used_hard_state |= record.is_ok_and(|record| record.incarnation > 0);
            }
        }
        if used_log || used_snapshots || used_hard_state {
            return Err(OpenError::DamagedIdentity(
                "it is gone, and other files of a node are not",
            ));
        }
        Ok(false)
    }

    /// Whose data this is.
    pub fn read_identity(disk: &mut dyn Disk) -> Result<Identity, OpenError> {
        let bytes = match page::read(disk, IDENTITY_FILE, 0, PAGE_BYTES) {
            Ok(bytes) => bytes,
            Err(DiskError::NotFound(_)) => {
                // An error of its own if other files show that there was one.
                Self::exists(disk)?;
                return Err(OpenError::NotCreated);
            }
            Err(DiskError::Io(..)) => {
                return Err(OpenError::DamagedIdentity("the disk cannot read it"));
            }
            Err(error) => return Err(error.into()),
        };
        let mut body = page::unseal(IDENTITY_MAGIC, &bytes).map_err(|fault| match fault {
            PageFault::Damaged(why) => OpenError::DamagedIdentity(why),
            PageFault::Version(version) => {
                OpenError::UnsupportedVersion { file: IDENTITY_FILE.into(), version }
            }
        })?;
        Identity::decode(&mut body).map_err(|_| OpenError::DamagedIdentity("a field is impossible"))
    }
}

/// All steps of creating a data directory.
fn create_ops(identity: Identity, options: &Options, newborn: bool) -> Vec<DiskOp> {
    let header = SegmentHeader {
        identity,
        generation: 0,
        sequence: 1,
        first: Link { sequence: 1, chain: 0 },
        serves_from: LogIndex::ZERO,
        len_bytes: options.first_segment_bytes(0),
        earlier: Vec::new(),
    };
    let staged = segment::temporary_name(1);
    let mut ops = vec![
        DiskOp::CreateDirectory { directory: WAL_DIRECTORY.into() },
        DiskOp::CreateDirectory { directory: SNAPSHOT_DIRECTORY.into() },
        DiskOp::Create { file: staged.clone(), zero_bytes: header.len_bytes },
        DiskOp::Write { file: staged.clone(), offset: 0, bytes: header.encode().into() },
        DiskOp::Sync { file: staged.clone() },
        DiskOp::Rename { from: staged, to: header.file() },
        DiskOp::SyncDirectory { directory: WAL_DIRECTORY.into() },
    ];
    for file in hard_state::FILES {
        ops.push(DiskOp::Create { file: file.into(), zero_bytes: PAGE_BYTES });
    }
    Record { newborn, ..Record::first(identity) }.write(&mut ops);
    ops.push(DiskOp::SyncDirectory { directory: "".into() });
    let mut body = Vec::with_capacity(Identity::BYTES);
    identity.encode(&mut body);
    ops.extend(page::place(page::seal(IDENTITY_MAGIC, &body), IDENTITY_TEMPORARY, IDENTITY_FILE));
    ops
}

/// Refuses the data of another cluster or node.
pub(crate) fn check_identity(disk: &mut dyn Disk, expected: Identity) -> Result<(), OpenError> {
    let found = Storage::read_identity(disk)?;
    if found.cluster != expected.cluster {
        let (found, expected) = (found.cluster, expected.cluster);
        return Err(OpenError::OtherCluster { found, expected });
    }
    if found.node != expected.node {
        let (found, expected) = (found.node, expected.node);
        return Err(OpenError::OtherNode { found, expected });
    }
    Ok(())
}
