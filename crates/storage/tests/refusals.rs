//! What the operating system refuses says nothing of what is on the disk: it is no damage, and
//! nothing is given up for it.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{IDENTITY, append, created, entry, open};
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo};
use sampan_storage::testing::MemDisk;
use sampan_storage::{OnDamage, OpenError, Options, PAGE_BYTES, Repair, Storage};

const FIRST_SEGMENT: &str = "wal/00000000000000000001.log";

/// A disk that answers so to a read of this file, if it is longer than this, so many times.
#[derive(Clone)]
struct Refusing {
    disk: MemDisk,
    file: &'static str,
    longer_than: u64,
    /// So many are answered before.
    first: usize,
    times: usize,
    error: DiskError,
}

impl Disk for Refusing {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        self.disk.execute(op)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        self.disk.list(directory)
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        let is_meant = file == self.file && len_bytes > self.longer_than;
        if is_meant && self.first > 0 {
            self.first -= 1;
        } else if is_meant && self.times > 0 {
            self.times -= 1;
            return Err(self.error.clone());
        }
        self.disk.read(file, offset, len_bytes)
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        self.disk.len_bytes(file)
    }
}

/// With one entry in its log.
fn refusing(file: &'static str, longer_than: u64, times: usize, error: DiskError) -> Refusing {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 1, "one")]);
    Refusing { disk, file, longer_than, first: 0, times, error }
}

/// Opens it; all damage is given up.
fn start(disk: &mut Refusing) -> Result<usize, OpenError> {
    let on_damage = OnDamage::Rejoin(&|_| true);
    let opened = Storage::open_with(disk, IDENTITY, &Options::tiny(), on_damage, &mut ());
    opened.map(|(_, found)| {
        assert_eq!(found.non_voting_until, None, "its log was given up");
        found.entries.len()
    })
}

#[test]
fn a_log_that_may_not_be_read_is_not_given_up() {
    for error in [
        DiskError::TooManyOpen(FIRST_SEGMENT.into(), "Too many open files".into()),
        DiskError::Refused(FIRST_SEGMENT.into(), "Permission denied".into()),
    ] {
        // Its header was read; the file has been closed since, and cannot be opened again.
        let mut disk = refusing(FIRST_SEGMENT, PAGE_BYTES, usize::MAX, error.clone());
        assert_eq!(start(&mut disk), Err(OpenError::Disk(error)));
        disk.times = 0;
        assert_eq!(start(&mut disk), Ok(1));
    }
}

#[test]
fn a_damaged_log_that_may_not_be_read_again_is_not_beyond_repair() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    for index in 1..=3 {
        append(&mut disk, &mut storage, &[entry(index, 1, vec![b'x'; 1_200])]);
    }
    // In the second batch; what it was follows from its neighbours, for which the file is read
    // again.
    disk.corrupt(FIRST_SEGMENT, 2 * PAGE_BYTES + 99, |byte| *byte ^= 1);
    let error = DiskError::TooManyOpen(FIRST_SEGMENT.into(), "Too many open files".into());
    let (file, longer_than, times) = (FIRST_SEGMENT, PAGE_BYTES, usize::MAX);
    let mut disk = Refusing { disk, file, longer_than, first: 1, times, error: error.clone() };
    let refused = Repair::find(&mut disk, IDENTITY);
    assert!(matches!(&refused, Err(OpenError::Disk(found)) if *found == error), "{refused:?}");
    disk.times = 0;
    assert!(Repair::find(&mut disk, IDENTITY).unwrap().is_some());
}

#[test]
fn an_identity_that_may_not_be_read_is_not_damaged() {
    let error = DiskError::Refused("identity".into(), "Permission denied".into());
    let mut disk = refusing("identity", 0, usize::MAX, error.clone());
    assert_eq!(start(&mut disk), Err(OpenError::Disk(error)));
}

#[test]
fn an_identity_that_cannot_be_read_is_tried_once_more_as_all_else_is() {
    let error = DiskError::Io("identity".into(), "Input/output error".into());
    let mut disk = refusing("identity", 0, 1, error.clone());
    assert_eq!(start(&mut disk), Ok(1));
    let mut disk = refusing("identity", 0, 2, error);
    assert!(matches!(start(&mut disk), Err(OpenError::DamagedIdentity(_))));
}
