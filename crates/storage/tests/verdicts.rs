//! The decision table of `docs/format.md`, row by row: what is a torn tail, what is damage, and
//! what each refusal says.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{
    IDENTITY, append, brief, created, entry, maintain, newest_segment, open, position, recycled,
    take_snapshot,
};
use sampan_base::disk::{Disk, DiskOp, FileName};
use sampan_base::{ClusterId, HardState, LogIndex, NodeId, SnapshotId, Term};
use sampan_storage::snapshot::SnapshotWriter;
use sampan_storage::testing::{KeepAll, KeepSynced, MemDisk, Odometer};
use sampan_storage::{
    Damage, DamageReason, Identity, OnDamage, OpenError, Options, PAGE_BYTES, SECTOR_BYTES, Storage,
};

const FIRST_SEGMENT: &str = "wal/00000000000000000001.log";

/// Three batches of one page each, in the first segment.
fn three_batches() -> (MemDisk, Storage) {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    for i in 1..=3 {
        append(&mut disk, &mut storage, &[entry(i, 1, vec![b'x'; 1200])]);
    }
    (disk, storage)
}

/// Where batch 1, 2 or 3 of those begins.
fn offset(batch: u64) -> u64 {
    batch * PAGE_BYTES
}

fn zero(disk: &mut MemDisk, file: &str, offset: u64, len_bytes: u64) {
    (offset..offset + len_bytes).for_each(|i| disk.corrupt(file, i, |byte| *byte = 0));
}

/// Of the last batch in a list only the fifth sector gets to the disk.
fn write_one_sector(disk: &mut MemDisk, ops: &[DiskOp]) {
    let to_log = |op: &&DiskOp| matches!(op, DiskOp::Write { file, .. } if file.starts_with("wal"));
    let write = ops.iter().rfind(to_log);
    let Some(DiskOp::Write { file, offset, bytes }) = write else { panic!("{ops:?}") };
    let bytes = bytes.slice(4 * SECTOR_BYTES as usize..5 * SECTOR_BYTES as usize);
    let offset = offset + 4 * SECTOR_BYTES;
    disk.execute(&DiskOp::Write { file: file.clone(), offset, bytes }).unwrap();
}

fn damage(disk: &mut MemDisk) -> Damage {
    match Storage::open(disk, IDENTITY, &Options::tiny()) {
        Err(OpenError::DamagedLog(damage)) => damage,
        Err(other) => panic!("{other}"),
        Ok((_, found)) => panic!("{}", found.report),
    }
}

#[test]
fn a_batch_cut_short_is_cut_off_and_stays_gone() {
    let (mut disk, mut storage) = three_batches();
    // Two pages: only the sector with the middle of the batch gets to the disk.
    let ops = storage.append(None, None, &[entry(4, 1, vec![b'y'; 5000])]);
    disk.execute_all(&ops[..2]).unwrap();
    write_one_sector(&mut disk, &ops);
    // It began the second segment, which has no name yet: give it one, as if that came through.
    disk.execute_all(&ops[4..6]).unwrap();

    let (mut storage, found) = open(&mut disk, &Options::tiny());
    assert_eq!(brief(&found.entries), [(1, 1, 1200), (2, 1, 1200), (3, 1, 1200)]);
    let (torn_in, torn_at) = found.report.torn_tail.unwrap();
    assert_eq!((&*torn_in, torn_at), ("wal/00000000000000000002.log", PAGE_BYTES));

    append(&mut disk, &mut storage, &[entry(4, 1, "z")]);
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!(brief(&found.entries)[3..], [(4, 1, 1)]);
    assert_eq!(found.report.torn_tail, None);
}

#[test]
fn files_of_others_beside_those_of_the_node_are_left_alone() {
    let (mut disk, _) = three_batches();
    let others = ["sampan.log", "old.snap", "old.partial", "not.identity", "not.hard_state.a"];
    for file in others {
        disk.execute(&DiskOp::Create { file: file.into(), zero_bytes: 1 }).unwrap();
    }
    disk.record();
    open(&mut disk, &Options::tiny());
    let steps = disk.record();
    let synced = |file: &str| steps.contains(&DiskOp::Sync { file: file.into() });
    for file in others {
        assert!(!synced(file), "{file}");
    }
    for file in ["identity", "hard_state.a", "hard_state.b", FIRST_SEGMENT] {
        assert!(synced(file), "{file}");
    }
}

#[test]
fn a_last_batch_that_never_reached_the_disk_is_simply_not_there() {
    let (mut disk, _) = three_batches();
    zero(&mut disk, FIRST_SEGMENT, offset(3), PAGE_BYTES);
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!(found.entries.len(), 2);
    assert_eq!(found.report.torn_tail, None);
}

#[test]
fn a_sector_that_is_neither_zero_nor_as_written_is_damage_even_in_the_last_batch() {
    for at in [0, 3, 4, 60, SECTOR_BYTES + 7, 2 * SECTOR_BYTES + 503] {
        let (mut disk, _) = three_batches();
        disk.corrupt(FIRST_SEGMENT, offset(3) + at, |byte| *byte ^= 0x10);
        let damage = damage(&mut disk);
        assert_eq!((damage.reason, damage.offset), (DamageReason::NonZeroSector, offset(3)));
        assert_eq!((&*damage.segment, damage.batch), (FIRST_SEGMENT, 3));
    }
}

#[test]
fn a_lost_batch_before_a_later_one_is_damage() {
    let (mut disk, _) = three_batches();
    zero(&mut disk, FIRST_SEGMENT, offset(2), PAGE_BYTES);
    let damage = damage(&mut disk);
    assert_eq!((damage.reason, damage.offset), (DamageReason::LaterBatch, offset(2)));
}

#[test]
fn a_sector_of_a_later_batch_is_proof_even_without_that_batchs_header() {
    let (mut disk, _) = three_batches();
    zero(&mut disk, FIRST_SEGMENT, offset(2), PAGE_BYTES);
    zero(&mut disk, FIRST_SEGMENT, offset(3), SECTOR_BYTES);
    assert_eq!(damage(&mut disk).reason, DamageReason::LaterBatch);
}

#[test]
fn a_lost_batch_that_the_watermark_vouches_for_is_damage() {
    let (mut disk, mut storage) = three_batches();
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    zero(&mut disk, FIRST_SEGMENT, offset(3), PAGE_BYTES);
    assert_eq!(damage(&mut disk).reason, DamageReason::BelowWatermark);
}

#[test]
fn a_last_batch_of_another_history_is_damage_and_not_torn() {
    let history = |first: &'static str| {
        let mut disk = created(&Options::tiny());
        let (mut storage, _) = open(&mut disk, &Options::tiny());
        append(&mut disk, &mut storage, &[entry(1, 1, first)]);
        append(&mut disk, &mut storage, &[entry(2, 1, "the same")]);
        disk
    };
    let (mut disk, mut other) = (history("a"), history("A"));
    let bytes = other.read(FIRST_SEGMENT, offset(2), PAGE_BYTES).unwrap();
    let (file, offset) = (FIRST_SEGMENT.into(), offset(2));
    disk.execute(&DiskOp::Write { file, offset, bytes }).unwrap();
    assert_eq!(damage(&mut disk).reason, DamageReason::Inconsistent);
}

#[test]
fn what_is_torn_is_never_written_over() {
    let (mut disk, mut storage) = three_batches();
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    // The fourth batch fits the segment no more, the fifth does; only its middle gets there.
    append(&mut disk, &mut storage, &[entry(4, 1, "four")]);
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    let ops = storage.append(None, None, &[entry(5, 1, vec![b'y'; 5000])]);
    write_one_sector(&mut disk, &ops);

    let (mut storage, found) = open(&mut disk, &Options::tiny());
    assert_eq!((found.entries.len(), found.report.torn_tail.is_some()), (4, true));
    let ops = storage.append(None, None, &[entry(5, 1, vec![b'z'; 5000])]);
    disk.execute(&ops[0]).unwrap();
    let mut subsets = Odometer::default();
    loop {
        let (_, found) = open(&mut disk.crash(&mut subsets), &Options::tiny());
        assert!(found.entries.len() == 4 || found.entries[4].data[0] == b'z');
        if !subsets.advance() {
            break;
        }
    }
}

#[test]
fn a_segment_of_another_history_is_damage_though_every_checksum_in_it_is_right() {
    // The segment after it has a batch, or is an empty one that cuts off a torn tail.
    for next_is_empty in [false, true] {
        let history = |first: &'static str| {
            let mut disk = created(&Options::tiny());
            let (mut storage, _) = open(&mut disk, &Options::tiny());
            append(&mut disk, &mut storage, &[entry(1, 1, first)]);
            append(&mut disk, &mut storage, &[entry(2, 1, "the same")]);
            disk.execute_all(&storage.refresh_watermark()).unwrap();
            if next_is_empty {
                let ops = storage.append(None, None, &[entry(3, 1, vec![0; 3000])]);
                write_one_sector(&mut disk, &ops);
                assert_eq!(open(&mut disk, &Options::tiny()).1.entries.len(), 2);
            } else {
                append(&mut disk, &mut storage, &[entry(3, 1, vec![0; 5000])]);
            }
            disk
        };
        let (mut disk, mut other) = (history("a"), history("A"));
        assert!(disk.list("wal").unwrap().len() == 2);
        let bytes = other.read(FIRST_SEGMENT, 0, u64::MAX >> 1).unwrap();
        disk.execute(&DiskOp::Write { file: FIRST_SEGMENT.into(), offset: 0, bytes }).unwrap();
        assert_eq!(damage(&mut disk).reason, DamageReason::Inconsistent);
    }
}

/// A recycled segment with three batches of one page each; and the disk before the last two.
fn three_batches_over_an_earlier_life() -> (MemDisk, Storage, FileName, MemDisk) {
    let (mut disk, mut storage, segment) = recycled(&Options::tiny());
    let before = disk.clone();
    for _ in 2..=3 {
        let index = storage.last_index().0 + 1;
        append(&mut disk, &mut storage, &[entry(index, 1, vec![b'x'; 1200])]);
    }
    assert_eq!(newest_segment(&mut disk), segment);
    (disk, storage, segment, before)
}

/// The file is again what it was, there.
fn revert(disk: &mut MemDisk, before: &MemDisk, file: &str, offset: u64, len_bytes: u64) {
    let (_, old) = before.files().find(|(name, _)| &***name == file).unwrap();
    for at in offset..offset + len_bytes {
        disk.corrupt(file, at, |byte| *byte = old[at as usize]);
    }
}

#[test]
fn what_an_earlier_life_left_counts_as_zeros_do() {
    let (mut disk, mut storage, segment, before) = three_batches_over_an_earlier_life();
    let entries = open(&mut disk.clone(), &Options::tiny()).1.entries.len();
    let reverted = |disk: &MemDisk, offset, len_bytes| {
        let mut disk = disk.clone();
        revert(&mut disk, &before, &segment, offset, len_bytes);
        disk
    };
    // The last batch never reached the disk, or all of it but for one sector, or but for its
    // header.
    for (lost_from, lost_bytes, torn) in [
        (0, PAGE_BYTES, false),
        (SECTOR_BYTES, PAGE_BYTES - SECTOR_BYTES, true),
        (0, SECTOR_BYTES, true),
    ] {
        let mut disk = reverted(&disk, offset(3) + lost_from, lost_bytes);
        let (_, found) = open(&mut disk, &Options::tiny());
        assert_eq!(found.entries.len(), entries - 1);
        assert_eq!(found.report.torn_tail, torn.then(|| (segment.clone(), offset(3))));
    }
    // The padding of a last page is read by nobody.
    let mut padding = reverted(&disk, offset(3) + 4 * SECTOR_BYTES, 4 * SECTOR_BYTES);
    assert_eq!(open(&mut padding, &Options::tiny()).1.entries.len(), entries);

    let mut later = reverted(&disk, offset(2), PAGE_BYTES);
    assert_eq!(damage(&mut later).reason, DamageReason::LaterBatch);
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    let mut vouched_for = reverted(&disk, offset(3), PAGE_BYTES);
    assert_eq!(damage(&mut vouched_for).reason, DamageReason::BelowWatermark);
    let index = storage.last_index().0 + 1;
    append(&mut disk, &mut storage, &[entry(index, 1, "in the next segment")]);
    let mut sealed = reverted(&disk, offset(3), PAGE_BYTES);
    assert_eq!(damage(&mut sealed).reason, DamageReason::SealedSegment);
}

#[test]
fn what_no_life_wrote_there_is_damage() {
    let (_, _, segment, before) = three_batches_over_an_earlier_life();
    let spoiled = |spoil: &dyn Fn(&mut MemDisk)| {
        let mut disk = before.clone();
        spoil(&mut disk);
        let damage = damage(&mut disk);
        assert_eq!((&damage.segment, damage.offset), (&segment, offset(2)));
        damage.reason
    };
    let put = |disk: &mut MemDisk, at: u64, bytes: &[u8]| {
        (at..).zip(bytes).for_each(|(at, &new)| disk.corrupt(&segment, at, |byte| *byte = new));
    };
    let sector = |at: u64| before.clone().read(&segment, at, SECTOR_BYTES).unwrap();
    // A bit of what an earlier life wrote, anywhere behind the end.
    for at in [offset(2), offset(2) + 100, offset(3) + 511, offset(4) - 1] {
        let flip = |disk: &mut MemDisk| disk.corrupt(&segment, at, |byte| *byte ^= 8);
        assert_eq!(spoiled(&flip), DamageReason::NonZeroSector, "{at}");
    }
    // A sector of it in another place.
    let moved = sector(offset(3));
    let reason = spoiled(&|disk| put(disk, offset(3) + SECTOR_BYTES, &moved));
    assert_eq!(reason, DamageReason::NonZeroSector);
    // A sector, in its place, of a life that was another file's.
    let mut others = before.files().filter(|(file, _)| ends_with_log(file) && **file != segment);
    let (_, other) = others.next().unwrap();
    let at = offset(3) as usize;
    let stranger = other[at..at + SECTOR_BYTES as usize].to_vec();
    assert!(stranger.iter().any(|&byte| byte != 0));
    let reason = spoiled(&|disk| put(disk, offset(3), &stranger));
    assert_eq!(reason, DamageReason::NonZeroSector);
}

fn ends_with_log(file: &str) -> bool {
    file.strip_suffix(".log").is_some()
}

#[test]
fn a_start_removes_a_spare_that_was_a_segment_and_zeroes_what_it_found_before_its_next_life() {
    let (mut disk, mut storage, _) = recycled(&Options::tiny());
    let is_zero = |disk: &MemDisk| {
        let spare = disk.files().find(|(file, _)| file.ends_with(".spare"));
        spare.map(|(_, bytes)| bytes.iter().all(|&byte| byte == 0))
    };
    let roll = |disk: &mut MemDisk, storage: &mut Storage| {
        let index = storage.last_index().0 + 1;
        append(disk, storage, &[entry(index, 1, vec![b'r'; 8000])]);
        take_snapshot(disk, storage, index, position(index, 1));
        storage.trim(LogIndex(index));
        maintain(disk, storage);
    };
    while is_zero(&disk) != Some(false) {
        roll(&mut disk, &mut storage);
    }
    let (mut storage, found) = open(&mut disk, &Options::tiny());
    assert_eq!((is_zero(&disk), found.report.leftovers_removed > 0), (None, true));
    roll(&mut disk, &mut storage);
    assert_eq!(is_zero(&disk), Some(true));
}

#[test]
fn damage_in_a_sealed_segment_is_damage_whatever_it_looks_like() {
    let (mut disk, mut storage) = three_batches();
    append(&mut disk, &mut storage, &[entry(4, 1, "in the next segment")]);
    zero(&mut disk, FIRST_SEGMENT, offset(3), PAGE_BYTES);
    let damage = damage(&mut disk);
    assert_eq!((damage.reason, damage.offset), (DamageReason::SealedSegment, offset(3)));
    assert!(damage.to_string().contains(FIRST_SEGMENT), "{damage}");
}

#[test]
fn a_segment_that_is_lost_cut_short_or_unreadable_is_damage() {
    let second = "wal/00000000000000000002.log";
    let (mut disk, mut storage) = three_batches();
    append(&mut disk, &mut storage, &[entry(4, 1, "in the next segment")]);
    let reason = |spoil: &dyn Fn(&mut MemDisk)| {
        let mut disk = disk.clone();
        spoil(&mut disk);
        damage(&mut disk).reason
    };
    assert_eq!(reason(&|disk| disk.lose(second, None)), DamageReason::SegmentMissing);
    let gap = DamageReason::Gap { log_from: LogIndex(4) };
    assert_eq!(reason(&|disk| disk.lose(FIRST_SEGMENT, None)), gap);
    assert_eq!(reason(&|disk| disk.lose(second, Some(9000))), DamageReason::SegmentLength);
    assert_eq!(reason(&|disk| disk.corrupt(second, 30, |b| *b ^= 1)), DamageReason::SegmentHeader);
    assert_eq!(reason(&|disk| disk.make_unreadable(FIRST_SEGMENT)), DamageReason::SegmentHeader);
}

#[test]
fn a_log_without_any_segment_is_damaged_and_not_empty() {
    let mut disk = created(&Options::tiny());
    disk.lose(FIRST_SEGMENT, None);
    assert_eq!(damage(&mut disk).reason, DamageReason::SegmentMissing);
}

#[test]
fn damage_below_the_snapshot_does_no_harm() {
    let (mut disk, mut storage) = three_batches();
    append(&mut disk, &mut storage, &[entry(4, 1, "four"), entry(5, 1, "five")]);
    take_snapshot(&mut disk, &mut storage, 7, position(4, 1));
    disk.corrupt(FIRST_SEGMENT, offset(2) + 99, |byte| *byte ^= 1);
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!(found.snapshot.unwrap().meta.position, position(4, 1));
    assert_eq!(brief(&found.entries), [(5, 1, 4)]);
}

#[test]
fn a_damaged_snapshot_is_kept_and_the_older_one_serves_with_more_of_the_log() {
    let (mut disk, mut storage) = three_batches();
    take_snapshot(&mut disk, &mut storage, 7, position(1, 1));
    let (_, newest) = take_snapshot(&mut disk, &mut storage, 8, position(2, 1));
    disk.corrupt(&newest, PAGE_BYTES + 30, |byte| *byte ^= 1);
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!(found.snapshot.unwrap().meta.id, SnapshotId(7));
    assert_eq!(brief(&found.entries), [(2, 1, 1200), (3, 1, 1200)]);
    assert_eq!(found.report.snapshots_damaged, std::slice::from_ref(&newest));
    let kept: FileName = format!("{newest}.damaged").into();
    assert!(disk.len_bytes(&kept).unwrap().is_some());

    let (_, found) = open(&mut disk, &Options::tiny());
    assert!(found.report.snapshots_damaged.is_empty());
}

#[test]
fn a_damaged_snapshot_that_the_log_cannot_make_up_for_is_refused_and_left_alone() {
    let second = "wal/00000000000000000002.log";
    let (mut disk, mut storage) = three_batches();
    append(&mut disk, &mut storage, &[entry(4, 1, "four")]);
    let (_, file) = take_snapshot(&mut disk, &mut storage, 7, position(4, 1));
    storage.trim(LogIndex(4));
    maintain(&mut disk, &mut storage);
    disk.corrupt(&file, PAGE_BYTES + 30, |byte| *byte ^= 1);
    for _ in 0..2 {
        let error = Storage::open(&mut disk, IDENTITY, &Options::tiny()).unwrap_err();
        assert!(
            matches!(&error, OpenError::DamagedSnapshot { file: f, .. } if *f == file),
            "{error}"
        );
    }
    assert!(disk.len_bytes(&file).unwrap().is_some());

    let rejoin = OnDamage::Rejoin(&|_| true);
    let opened = Storage::open_with(&mut disk, IDENTITY, &Options::tiny(), rejoin, &mut ());
    let (_, found) = opened.unwrap();
    let what = "no whole snapshot reaches index 4, where the log begins";
    assert_eq!(found.faulty.unwrap().to_string(), format!("{second}: {what}"));
}

#[test]
fn damage_of_the_log_is_named_although_a_snapshot_is_damaged_too() {
    let (mut disk, mut storage) = three_batches();
    let (_, older) = take_snapshot(&mut disk, &mut storage, 7, position(1, 1));
    let (_, newest) = take_snapshot(&mut disk, &mut storage, 8, position(2, 1));
    // One that is not needed, or one that the log makes up for as far as it is sound.
    for (snapshot, at) in [(&older, 20), (&newest, PAGE_BYTES + 30)] {
        let mut disk = disk.clone();
        disk.corrupt(FIRST_SEGMENT, offset(3) + 600, |byte| *byte ^= 1);
        disk.corrupt(snapshot, at, |byte| *byte ^= 1);
        let damage = damage(&mut disk);
        assert_eq!((&*damage.segment, damage.reason), (FIRST_SEGMENT, DamageReason::NonZeroSector));
    }
    // A log that goes on from no snapshot: an older one would not help.
    let ops = storage.append(None, Some(position(10, 1)), &[entry(11, 1, "eleven")]);
    disk.execute_all(&ops).unwrap();
    disk.corrupt(&older, 20, |byte| *byte ^= 1);
    let wanted = DamageReason::Gap { log_from: LogIndex(10) };
    assert_eq!(damage(&mut disk).reason, wanted);
}

#[test]
fn a_log_that_started_anew_after_a_snapshot_that_is_damaged_now_is_not_joined_to_an_older_one() {
    let (mut disk, mut storage) = three_batches();
    take_snapshot(&mut disk, &mut storage, 7, position(2, 1));
    let (_, installed) = take_snapshot(&mut disk, &mut storage, 8, position(10, 1));
    let ops = storage.append(None, Some(position(10, 1)), &[entry(11, 1, "eleven")]);
    disk.execute_all(&ops).unwrap();
    disk.corrupt(&installed, PAGE_BYTES + 30, |byte| *byte ^= 1);
    let error = Storage::open(&mut disk, IDENTITY, &Options::tiny()).unwrap_err();
    assert!(matches!(&error, OpenError::DamagedSnapshot { file, .. } if *file == installed));
}

#[test]
fn a_copy_of_the_hard_state_that_lost_a_write_does_not_count() {
    let (disk, mut storage) = three_batches();
    let hard_state = HardState { term: Term(8), vote: Some(NodeId::of(2)) };
    let ops = storage.append(Some(hard_state), None, &[]);
    for copy in ["hard_state.a", "hard_state.b"] {
        let mut disk = disk.clone();
        let file: FileName = copy.into();
        let bytes = disk.read(copy, 0, PAGE_BYTES).unwrap();
        disk.execute_all(&ops).unwrap();
        disk.execute(&DiskOp::Write { file, offset: 0, bytes }).unwrap();
        let (_, found) = open(&mut disk, &Options::tiny());
        assert_eq!(found.hard_state, hard_state, "{copy}");
        assert_eq!(found.report.hard_state_repaired.as_deref(), Some(copy));
        assert!(!found.report.found_damage(), "a crash between two writes is no damage");
    }
}

#[test]
fn one_damaged_copy_of_the_hard_state_is_repaired_and_two_are_refused() {
    let (disk, _) = three_batches();
    for copy in ["hard_state.a", "hard_state.b"] {
        let mut disk = disk.clone();
        disk.corrupt(copy, 50, |byte| *byte ^= 1);
        let (_, found) = open(&mut disk, &Options::tiny());
        assert_eq!(found.hard_state.term, Term(1));
        assert_eq!(found.report.hard_state_repaired.as_deref(), Some(copy));
        assert!(found.report.found_damage(), "{copy}");
        let said = format!("{copy} was damaged, and is written again");
        assert!(found.report.to_string().contains(&said), "{}", found.report);
        let (_, found) = open(&mut disk, &Options::tiny());
        assert_eq!(found.report.hard_state_repaired, None);
        assert!(!found.report.found_damage(), "{copy}");
    }
    let mut disk = disk;
    disk.corrupt("hard_state.a", 50, |byte| *byte ^= 1);
    disk.corrupt("hard_state.b", 70, |byte| *byte ^= 1);
    let error = Storage::open(&mut disk, IDENTITY, &Options::tiny()).unwrap_err();
    assert!(matches!(error, OpenError::DamagedHardState(_)), "{error}");
}

#[test]
fn a_hard_state_from_before_the_logs_last_term_is_refused() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    // Both copies lose a write: the log knows of a term in which this node may have voted.
    let hard_state = HardState { term: Term(4), vote: Some(NodeId::of(1)) };
    let ops = storage.append(Some(hard_state), None, &[entry(1, 4, "x")]);
    disk.execute_all(&ops[4..]).unwrap();
    let error = Storage::open(&mut disk, IDENTITY, &Options::tiny()).unwrap_err();
    assert!(matches!(error, OpenError::DamagedHardState(_)), "{error}");
}

#[test]
fn the_data_of_another_cluster_or_node_is_refused() {
    let (mut disk, _) = three_batches();
    let cluster = ClusterId(77);
    let error = Storage::open(&mut disk, Identity { cluster, ..IDENTITY }, &Options::tiny());
    let (found, expected) = (IDENTITY.cluster, cluster);
    assert_eq!(error.unwrap_err(), OpenError::OtherCluster { found, expected });
    let node = NodeId::of(9);
    let error = Storage::open(&mut disk, Identity { node, ..IDENTITY }, &Options::tiny());
    let (found, expected) = (IDENTITY.node, node);
    assert_eq!(error.unwrap_err(), OpenError::OtherNode { found, expected });
}

#[test]
fn no_start_takes_other_members_than_the_first_one() {
    let set = |ids: &[u64]| ids.iter().copied().map(NodeId::of).collect::<BTreeSet<_>>();
    let agree = |disk: &mut MemDisk, ids: &[u64]| Storage::agree(disk, IDENTITY, &set(ids), &[1]);
    let mut disk = MemDisk::new();
    // Until there is a node nothing was promised by one.
    assert_eq!(agree(&mut disk, &[7]), Ok(()));
    assert_eq!(agree(&mut disk, &[7, 8, 9]), Ok(()));
    Storage::create(&mut disk, IDENTITY, &Options::tiny()).unwrap();
    disk = disk.crash(&mut KeepSynced);
    for others in [&[7][..], &[7, 8], &[7, 8, 9, 10], &[7, 8, 10]] {
        let (found, expected) = (set(&[7, 8, 9]), set(others));
        let refused = agree(&mut disk, others);
        assert_eq!(refused, Err(OpenError::OtherMembers { found, expected }));
    }
    assert_eq!(agree(&mut disk, &[7, 8, 9]), Ok(()));
    disk.corrupt("members", 40, |byte| *byte ^= 1);
    assert!(matches!(agree(&mut disk, &[7, 8, 9]), Err(OpenError::DamagedMembers(_))));
    disk.lose("members", None);
    assert_eq!(agree(&mut disk, &[7, 8, 9]), Ok(()), "it is written again");
    assert!(agree(&mut disk, &[7]).is_err());
}

#[test]
fn no_start_takes_other_settings_of_the_state_than_the_first_one() {
    let members = BTreeSet::from([IDENTITY.node]);
    let agree =
        |disk: &mut MemDisk, settings: &[u64]| Storage::agree(disk, IDENTITY, &members, settings);
    let mut disk = MemDisk::new();
    // A restored directory has none yet: it takes those of its first start.
    assert_eq!(agree(&mut disk, &[]), Ok(()));
    Storage::create(&mut disk, IDENTITY, &Options::tiny()).unwrap();
    assert_eq!(agree(&mut disk, &[5, 6]), Ok(()));
    disk = disk.crash(&mut KeepSynced);
    for others in [&[5, 7][..], &[5], &[6, 5, 6], &[]] {
        let found = vec![5, 6];
        assert_eq!(agree(&mut disk, others), Err(OpenError::OtherSettings { found }));
    }
    assert_eq!(agree(&mut disk, &[5, 6]), Ok(()));
    // A later version has one more; the one before it does not know that.
    assert_eq!(agree(&mut disk, &[5, 6, 7]), Ok(()));
    assert_eq!(agree(&mut disk, &[5, 6]), Err(OpenError::OtherSettings { found: vec![5, 6, 7] }));
}

#[test]
fn a_segment_or_snapshot_of_another_node_or_cluster_is_not_taken_for_ones_own() {
    let (mut disk, _) = three_batches();
    let mut other = MemDisk::new();
    let identity = Identity { node: NodeId::of(9), ..IDENTITY };
    Storage::create(&mut other, identity, &Options::tiny()).unwrap();
    let foreign = other.read(FIRST_SEGMENT, 0, PAGE_BYTES).unwrap();
    let file: FileName = FIRST_SEGMENT.into();
    disk.execute(&DiskOp::Write { file, offset: 0, bytes: foreign }).unwrap();
    assert_eq!(damage(&mut disk).reason, DamageReason::SegmentHeader);

    let (mut disk, mut storage) = three_batches();
    let maker = Identity { cluster: ClusterId(77), ..IDENTITY };
    let configuration = common::configuration();
    let (writer, mut ops) =
        SnapshotWriter::begin(maker, SnapshotId(5), position(3, 1), &configuration, None);
    let (meta, file, rest) = writer.finish(b"");
    ops.extend(rest);
    ops.extend(storage.snapshot_commit(&file, &meta, &[]));
    disk.execute_all(&ops).unwrap();
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!((found.snapshot, found.entries.len()), (None, 3));
}

#[test]
fn a_directory_is_created_once_and_a_lost_identity_does_not_make_it_new() {
    let options = Options::tiny();
    let (mut disk, _) = three_batches();
    assert_eq!(Storage::exists(&mut disk), Ok(true));
    assert_eq!(Storage::read_identity(&mut disk), Ok(IDENTITY));
    let error = Storage::create(&mut disk, IDENTITY, &options).unwrap_err();
    assert!(matches!(error, OpenError::AlreadyCreated(_)), "{error}");

    disk.lose("identity", None);
    for error in [
        Storage::exists(&mut disk).unwrap_err(),
        Storage::create(&mut disk, IDENTITY, &options).unwrap_err(),
        Storage::read_identity(&mut disk).unwrap_err(),
        Storage::open(&mut disk, IDENTITY, &options).unwrap_err(),
    ] {
        assert!(matches!(error, OpenError::DamagedIdentity(_)), "{error}");
    }

    let mut empty = MemDisk::new();
    assert_eq!(Storage::exists(&mut empty), Ok(false));
    assert_eq!(Storage::open(&mut empty, IDENTITY, &options).unwrap_err(), OpenError::NotCreated);
}

#[test]
fn a_damaged_identity_is_refused() {
    let (mut disk, _) = three_batches();
    disk.corrupt("identity", 20, |byte| *byte ^= 1);
    let error = Storage::open(&mut disk, IDENTITY, &Options::tiny()).unwrap_err();
    assert!(matches!(error, OpenError::DamagedIdentity(_)), "{error}");
}

#[test]
fn a_refusal_changes_nothing() {
    let (mut disk, _) = three_batches();
    zero(&mut disk, FIRST_SEGMENT, offset(2), PAGE_BYTES);
    let before: Vec<_> = disk.files().map(|(f, b)| (f.clone(), b.to_vec())).collect();
    damage(&mut disk);
    let after: Vec<_> = disk.files().map(|(f, b)| (f.clone(), b.to_vec())).collect();
    assert!(before == after);
}

#[test]
fn rejoining_marks_the_node_as_non_voting_before_it_gives_anything_up() {
    let (mut disk, _) = three_batches();
    zero(&mut disk, FIRST_SEGMENT, offset(2), PAGE_BYTES);
    let options = Options::tiny();
    let rejoin = |disk: &mut MemDisk| {
        Storage::open_with(disk, IDENTITY, &options, OnDamage::Rejoin(&|_| true), &mut ())
    };

    // Cut at any step: either the damage is still there, or the mark is.
    for steps in 0.. {
        let mut attempt = disk.clone();
        attempt.steps_left = Some(steps);
        let done = rejoin(&mut attempt).is_ok();
        attempt.steps_left = None;
        for after in [attempt.crash(&mut KeepAll), attempt.crash(&mut KeepSynced)] {
            let mut after = after;
            if let Ok((_, found)) = Storage::open(&mut after, IDENTITY, &options) {
                assert_eq!(found.non_voting_until, Some(LogIndex(u64::MAX)), "step {steps}");
            }
        }
        if done {
            break;
        }
    }

    let (mut storage, found) = rejoin(&mut disk).unwrap();
    assert_eq!(brief(&found.entries), [(1, 1, 1200)]);
    assert_eq!(found.faulty.unwrap().reason, DamageReason::LaterBatch);
    append(&mut disk, &mut storage, &[entry(2, 1, "from a peer"), entry(3, 1, "too")]);
    disk.execute_all(&storage.set_non_voting(Some(LogIndex(3)))).unwrap();

    let (mut storage, found) = open(&mut disk, &options);
    assert_eq!(brief(&found.entries), [(1, 1, 1200), (2, 1, 11), (3, 1, 3)]);
    assert_eq!((found.non_voting_until, found.faulty), (Some(LogIndex(3)), None));
    disk.execute_all(&storage.set_non_voting(None)).unwrap();
    assert_eq!(open(&mut disk, &options).1.non_voting_until, None);
}

#[test]
fn rejoining_waits_for_no_room_to_keep_what_is_given_up() {
    let options = Options::tiny();
    // Of a reserve, and for more: none for a copy; or just that, and then none for a new segment.
    for (reserve_bytes, more_bytes) in [(2 * options.segment_bytes, 0), (0, options.segment_bytes)]
    {
        let (mut disk, _) = three_batches();
        zero(&mut disk, FIRST_SEGMENT, offset(2), PAGE_BYTES);
        let len_bytes = reserve_bytes;
        disk.execute(&DiskOp::Reserve { file: "reserve".into(), len_bytes }).unwrap();
        let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
        disk.capacity_bytes = Some(used as u64 + more_bytes);
        let (mut storage, found) =
            Storage::open_with(&mut disk, IDENTITY, &options, OnDamage::Rejoin(&|_| true), &mut ())
                .unwrap();
        assert_eq!(brief(&found.entries), [(1, 1, 1200)]);
        assert_eq!((found.report.segments_damaged.len(), found.report.segments_not_kept), (0, 1));
        assert!(found.report.to_string().contains("; 1 given up, no room to keep them"));
        append(&mut disk, &mut storage, &[entry(2, 1, "two")]);
        disk.capacity_bytes = None;
        assert_eq!(brief(&open(&mut disk, &options).1.entries), [(1, 1, 1200), (2, 1, 3)]);
    }
}

#[test]
fn rejoining_with_a_segment_given_up_leaves_a_log_that_serves_later_snapshots() {
    let options = Options::tiny();
    let (mut disk, mut storage) = three_batches();
    append(&mut disk, &mut storage, &[entry(2, 2, "replaces two, in the next segment")]);
    disk.corrupt("wal/00000000000000000002.log", PAGE_BYTES + 80, |byte| *byte ^= 1);
    let (mut storage, found) =
        Storage::open_with(&mut disk, IDENTITY, &options, OnDamage::Rejoin(&|_| true), &mut ())
            .unwrap();
    assert_eq!(brief(&found.entries), [(1, 1, 1200), (2, 1, 1200), (3, 1, 1200)]);
    append(&mut disk, &mut storage, &[entry(4, 2, "four")]);
    take_snapshot(&mut disk, &mut storage, 7, position(3, 1));
    let (_, found) = open(&mut disk, &options);
    assert_eq!(brief(&found.entries), [(4, 2, 4)]);
}

#[test]
fn rejoining_without_any_log_starts_from_the_snapshot_or_from_nothing() {
    let options = Options::tiny();
    for with_snapshot in [false, true] {
        let (mut disk, mut storage) = three_batches();
        if with_snapshot {
            take_snapshot(&mut disk, &mut storage, 7, position(2, 1));
        }
        let at = if with_snapshot { 2 } else { 0 };
        disk.lose(FIRST_SEGMENT, None);
        let (mut storage, found) =
            Storage::open_with(&mut disk, IDENTITY, &options, OnDamage::Rejoin(&|_| true), &mut ())
                .unwrap();
        assert_eq!((found.entries.len(), storage.last_index()), (0, LogIndex(at)));
        append(&mut disk, &mut storage, &[entry(at + 1, 1, "again")]);
        let (_, found) = open(&mut disk, &options);
        assert_eq!(brief(&found.entries), [(at + 1, 1, 5)]);
        assert_eq!(found.non_voting_until, Some(LogIndex(u64::MAX)));
    }
}
