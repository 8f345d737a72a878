//! Looking at files without opening them: everything is found, no damage is missed, nothing
//! changes.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::{IDENTITY, append, created, entry, open, position, recycled, take_snapshot};
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo, FileName};
use sampan_base::{HardState, NodeId, Term};
use sampan_storage::inspect::{self, BatchContent, FileFault, FileKind, SegmentEnd};
use sampan_storage::testing::{KeepAll, MemDisk};
use sampan_storage::{DamageReason, OpenError, Options, PAGE_BYTES, Storage};

/// Shows a disk and refuses every change of it.
struct ReadOnly<'a>(&'a mut MemDisk);

impl Disk for ReadOnly<'_> {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        panic!("inspection changes something: {op:?}")
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        self.0.list(directory)
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        self.0.read(file, offset, len_bytes)
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        self.0.len_bytes(file)
    }
}

/// A node of term 2 with a vote, three batches of entries, and a snapshot.
fn node() -> MemDisk {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 1, "one"), entry(2, 1, vec![7; 2_000])]);
    append(&mut disk, &mut storage, &[entry(3, 1, "three")]);
    let hard_state = HardState { term: Term(2), vote: NodeId::new(1) };
    disk.execute_all(&storage.append(Some(hard_state), None, &[entry(3, 2, "other")])).unwrap();
    storage.append_synced();
    take_snapshot(&mut disk, &mut storage, 5, position(2, 1));
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    disk
}

fn all(disk: &mut MemDisk, file: &str) -> Vec<u8> {
    let len_bytes = disk.len_bytes(file).unwrap().unwrap();
    disk.read(file, 0, len_bytes).unwrap().to_vec()
}

fn the_segment(disk: &mut MemDisk) -> (FileName, Vec<u8>) {
    let files = disk.list("wal").unwrap();
    let segment = files.iter().find(|info| info.file.ends_with(".log")).unwrap().file.clone();
    let bytes = all(disk, &segment);
    (segment, bytes)
}

#[test]
fn each_file_is_known_by_its_first_bytes_and_read_by_itself() {
    let mut disk = node();
    let snapshot = disk.list("snapshots").unwrap()[0].file.clone();
    let (segment, bytes) = the_segment(&mut disk);
    for (file, kind) in [
        ("identity", FileKind::Identity),
        ("hard_state.a", FileKind::HardState),
        ("hard_state.b", FileKind::HardState),
        (&*snapshot, FileKind::Snapshot),
        (&*segment, FileKind::Segment),
    ] {
        assert_eq!(FileKind::of(&all(&mut disk, file)), kind, "{file}");
    }
    assert_eq!(FileKind::of(&[0; 8]), FileKind::Zeros);
    for unknown in [&b""[..], b"SAMPWAL", b"REDIS0011", &[0; 7]] {
        assert_eq!(FileKind::of(unknown), FileKind::Unknown);
    }

    assert_eq!(inspect::identity(&all(&mut disk, "identity")), Ok(IDENTITY));
    let copy = inspect::hard_state(&all(&mut disk, "hard_state.a")).unwrap();
    assert_eq!((copy.identity, copy.incarnation, copy.synced_batch), (IDENTITY, 1, 3));
    assert_eq!(copy.hard_state, HardState { term: Term(2), vote: NodeId::new(1) });

    let content = inspect::segment(&bytes).unwrap();
    assert_eq!((content.identity, content.number, content.first_batch), (IDENTITY, 1, 1));
    assert_eq!((content.end, content.len_bytes), (SegmentEnd::Clean, bytes.len() as u64));
    let batches: Vec<(u64, u64, usize)> = content
        .batches
        .iter()
        .map(|batch| (batch.number, batch.first_index.0, batch.entries.len()))
        .collect();
    assert_eq!(batches, [(1, 1, 2), (2, 3, 1), (3, 3, 1)]);
    assert_eq!(content.batches[2].entries, [entry(3, 2, "other")]);
    let offsets = content.batches.iter().map(|batch| batch.offset);
    assert!(offsets.eq([1, 2, 3].map(|page| page * PAGE_BYTES)), "a page each");
}

#[test]
fn no_flipped_bit_of_a_segment_goes_unnoticed() {
    let (_, bytes) = the_segment(&mut node());
    every_flipped_bit_is_noticed(&bytes);
}

#[test]
fn nor_of_a_segment_in_a_file_that_was_another_one() {
    let (mut disk, _, segment) = recycled(&Options::tiny());
    let bytes = all(&mut disk, &segment);
    let content = inspect::segment(&bytes).unwrap();
    assert!(content.end == SegmentEnd::Clean && !content.earlier.is_empty());
    assert!(bytes[content.end_offset as usize..].iter().any(|&byte| byte != 0));
    every_flipped_bit_is_noticed(&bytes);
}

fn every_flipped_bit_is_noticed(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    let sound = inspect::segment(&bytes).unwrap();
    // What fills a batch's last page is no part of it, and read by nobody.
    let filling = |batch: &BatchContent| {
        let data: usize = batch.entries.iter().map(|entry| 17 + entry.data.len()).sum();
        let end = batch.offset + (68 + data as u64).div_ceil(504) * 512;
        end..batch.offset + batch.len_bytes
    };
    let is_filling = |at: u64| sound.batches.iter().any(|batch| filling(batch).contains(&at));
    for offset in (0..bytes.len()).filter(|&offset| !is_filling(offset as u64)) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (offset % 8);
        match inspect::segment(&damaged) {
            Err(FileFault::Damaged(_)) => assert!((offset as u64) < PAGE_BYTES, "{offset}"),
            Ok(found) => {
                assert!(matches!(found.end, SegmentEnd::Damaged(_)), "{offset}: {:?}", found.end);
                assert!(found.batches.len() <= sound.batches.len());
                assert!(sound.batches.starts_with(&found.batches), "what is shown is true");
            }
            Err(fault) => panic!("{offset}: {fault}"),
        }
    }
    for len in [0, 1, 4_095, 4_096, 4_097, bytes.len() - 1] {
        let end = inspect::segment(&bytes[..len]).map(|found| found.end);
        let wanted = SegmentEnd::Damaged(DamageReason::SegmentLength);
        assert!(end.is_err() || end == Ok(wanted), "{len} bytes: {end:?}");
    }
}

#[test]
fn a_write_that_a_crash_cut_short_is_told_from_damage() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 1, "one")]);
    let ops = storage.append(None, None, &[entry(2, 1, vec![9; 3_000])]);
    let Some(DiskOp::Write { file, offset, bytes }) = ops.first() else { panic!("{ops:?}") };
    let mut segment = all(&mut disk, file);
    let sector = *offset as usize + 512..*offset as usize + 1_024;
    segment[sector].copy_from_slice(&bytes[512..1_024]);
    let found = inspect::segment(&segment).unwrap();
    assert_eq!((found.end, found.end_offset), (SegmentEnd::Unfinished, *offset));
}

#[test]
fn an_examination_finds_what_an_opening_would_and_changes_nothing() {
    let mut disk = node();
    let before = disk.crash(&mut KeepAll);
    let (identity, examined) = Storage::examine(&mut ReadOnly(&mut disk)).unwrap();
    assert_eq!(identity, IDENTITY);
    let (_, opened) = open(&mut before.crash(&mut KeepAll), &Options::tiny());
    assert_eq!(examined.entries, opened.entries);
    assert_eq!(examined.snapshot, opened.snapshot);
    assert_eq!(examined.hard_state, opened.hard_state);
    assert_eq!(examined.incarnation + 1, opened.incarnation);
    assert_eq!(examined.report.batches_read, 3);

    let (segment, _) = the_segment(&mut disk);
    disk.corrupt(&segment, PAGE_BYTES + 100, |byte| *byte ^= 1);
    let examined = Storage::examine(&mut ReadOnly(&mut disk));
    let opened = Storage::open(&mut disk, IDENTITY, &Options::tiny()).map(|(_, found)| found);
    assert!(matches!(examined, Err(OpenError::DamagedLog(_))), "{examined:?}");
    assert_eq!(examined.map(|(_, found)| found), opened);
    assert_eq!(
        Storage::examine(&mut ReadOnly(&mut MemDisk::new())).err(),
        Some(OpenError::NotCreated)
    );
}

#[test]
fn an_examination_refuses_a_damaged_note_of_the_members_as_a_start_does() {
    let mut disk = node();
    let members = BTreeSet::from([IDENTITY.node]);
    Storage::agree(&mut disk, IDENTITY, &members, &[]).unwrap();
    Storage::examine(&mut ReadOnly(&mut disk)).unwrap();
    disk.corrupt("members", 40, |byte| *byte ^= 1);
    let examined = Storage::examine(&mut ReadOnly(&mut disk)).err();
    assert!(matches!(examined, Some(OpenError::DamagedMembers(_))), "{examined:?}");
    assert_eq!(examined, Storage::agree(&mut disk, IDENTITY, &members, &[]).err());
}
