//! The running log: how little it does for a commit, how it rolls, recycles and gives back space.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{
    append, brief, created, earlier_lives, entry, maintain, newest_segment, open, position,
    take_snapshot,
};
use sampan_base::disk::{Disk, DiskError, DiskOp};
use sampan_base::{HardState, LogIndex, NodeId, Term};
use sampan_storage::testing::{KeepSynced, MemDisk};
use sampan_storage::{Options, PAGE_BYTES, Storage};

fn fresh(options: &Options) -> (MemDisk, Storage) {
    let mut disk = created(options);
    let (storage, _) = open(&mut disk, options);
    (disk, storage)
}

/// `w` for a write, `s` for a sync, `c` create, `v` reserve, `r` rename, `u` reuse, `t` truncate,
/// `d` directory sync, `x` remove, `m` make a directory.
fn shape(ops: &[DiskOp]) -> String {
    let letter = |op: &DiskOp| match op {
        DiskOp::Write { .. } => 'w',
        DiskOp::Sync { .. } => 's',
        DiskOp::Create { .. } => 'c',
        DiskOp::Reserve { .. } => 'v',
        DiskOp::Reuse { .. } => 'u',
        DiskOp::Truncate { .. } => 't',
        DiskOp::Rename { .. } => 'r',
        DiskOp::SyncDirectory { .. } => 'd',
        DiskOp::Remove { .. } => 'x',
        DiskOp::CreateDirectory { .. } => 'm',
    };
    ops.iter().map(letter).collect()
}

#[test]
fn a_commit_is_one_write_of_whole_pages_and_one_sync() {
    let (_, mut storage) = fresh(&Options::default());
    for count in [1, 2, 100, 1000] {
        let first = storage.last_index().0 + 1;
        let entries: Vec<_> = (first..first + count).map(|i| entry(i, 0, vec![1; 100])).collect();
        let ops = storage.append(None, None, &entries);
        let [DiskOp::Write { offset, bytes, .. }, DiskOp::Sync { .. }] = &ops[..] else {
            panic!("{}", shape(&ops));
        };
        assert!(offset.is_multiple_of(PAGE_BYTES));
        assert!((bytes.len() as u64).is_multiple_of(PAGE_BYTES));
        storage.append_synced();
    }
    assert!(storage.append(None, None, &[]).is_empty());
}

#[test]
fn hard_state_comes_before_entries_and_both_copies_before_anything() {
    let (_, mut storage) = fresh(&Options::tiny());
    let hard_state = HardState { term: Term(1), vote: Some(NodeId::of(2)) };
    let ops = storage.append(Some(hard_state), None, &[entry(1, 1, "x")]);
    let file = |op: &DiskOp| match op {
        DiskOp::Write { file, .. } | DiskOp::Sync { file } => file.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(shape(&ops), "wswsws");
    let files: Vec<_> = ops.iter().map(file).collect();
    let wal = "wal/00000000000000000001.log";
    assert_eq!(files, ["hard_state.a", "hard_state.a", "hard_state.b", "hard_state.b", wal, wal]);
}

#[test]
fn a_full_segment_gives_way_to_the_spare_and_without_one_to_a_new_file() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    for i in 1..=3 {
        append(&mut disk, &mut storage, &[entry(i, 0, "a page")]);
    }
    // Header, batch, sync, name, directory, then the hard state that vouches for it.
    let ops = storage.append(None, None, &[entry(4, 0, "rolls")]);
    assert_eq!(shape(&ops), "cwwsrdwsws");
    disk.execute_all(&ops).unwrap();
    storage.append_synced();

    maintain(&mut disk, &mut storage);
    for i in 5..=6 {
        append(&mut disk, &mut storage, &[entry(i, 0, "a page")]);
    }
    let ops = storage.append(None, None, &[entry(7, 0, "rolls")]);
    assert_eq!(shape(&ops), "wwsrdwsws");
    disk.execute_all(&ops).unwrap();
    storage.append_synced();
    let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    assert_eq!(found.entries.len(), 7);
}

#[test]
fn an_append_that_needs_several_segments_is_split_between_entries() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    let entries: Vec<_> = (1..=20).map(|i| entry(i, 0, vec![i as u8; 3000])).collect();
    append(&mut disk, &mut storage, &entries);
    let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    assert!(found.entries == entries);
    assert!(found.report.segments_read > 4);
}

#[test]
fn trimmed_segments_are_used_again_as_they_are() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    let mut most = 0;
    for round in 1..=30 {
        for i in 0..4 {
            append(&mut disk, &mut storage, &[entry(round * 4 + i - 3, 0, vec![7; 3000])]);
        }
        take_snapshot(&mut disk, &mut storage, round, position(round * 4, 0));
        storage.trim(LogIndex(round * 4));
        disk.record();
        maintain(&mut disk, &mut storage);
        let steps = shape(&disk.record());
        assert!(round <= 2 || !steps.contains(['v', 'w']), "{round}: {steps}");
        let files = disk.list("wal").unwrap();
        most = most.max(files.len());
        let on_disk: u64 = files.iter().map(|info| info.len_bytes).sum();
        assert_eq!(storage.log_bytes_on_disk(), on_disk);
        assert!(storage.log_bytes_live() <= on_disk);
    }
    assert!(most <= 4, "{most} files");
    let newest = newest_segment(&mut disk);
    assert!(!earlier_lives(&mut disk, &newest).is_empty());
    let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    assert_eq!(found.snapshot.unwrap().meta.position, position(120, 0));
    assert!(found.entries.is_empty());
}

#[test]
fn a_segment_loses_its_name_for_good_before_its_contents_go() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 0, vec![1; 8000])]);
    append(&mut disk, &mut storage, &[entry(2, 0, vec![1; 8000])]);
    take_snapshot(&mut disk, &mut storage, 1, position(2, 0));
    storage.trim(LogIndex(2));
    // An earlier run began the first segment, and who knows what stands there.
    let ops = storage.maintain().unwrap();
    assert_eq!(shape(&ops), "rdwsrd");
    disk.execute_all(&ops).unwrap();
    storage.maintained(true);

    append(&mut disk, &mut storage, &[entry(3, 0, vec![1; 8000])]);
    take_snapshot(&mut disk, &mut storage, 2, position(3, 0));
    storage.trim(LogIndex(3));
    // This run began the second.
    assert_eq!(shape(&storage.maintain().unwrap()), "rd");
}

#[test]
fn what_the_oldest_lives_left_is_zeroed_when_there_are_too_many() {
    let options = Options {
        segment_bytes: 20 * PAGE_BYTES,
        first_room_bytes: 20 * PAGE_BYTES,
        entry_bytes_max: 40_000,
        ..Options::tiny()
    };
    let (mut disk, mut storage) = fresh(&options);
    let put = |disk: &mut MemDisk, storage: &mut Storage, len: usize| {
        let index = storage.last_index().0 + 1;
        append(disk, storage, &[entry(index, 0, vec![7; len])]);
        index
    };
    // Two files, segments in turn, of which each ends before the one before it in the same file: a
    // batch of ten pages that fits no segment that is there, and some of one page.
    put(&mut disk, &mut storage, 40_000);
    let (mut named, mut zeroed) = (Vec::new(), Vec::new());
    for pages in (0..10).rev().flat_map(|pages| [pages, pages]) {
        for _ in 0..pages {
            put(&mut disk, &mut storage, 100);
        }
        let index = put(&mut disk, &mut storage, 40_000);
        let newest = newest_segment(&mut disk);
        named.push(earlier_lives(&mut disk, &newest).len());
        let (_, found) = open(&mut disk.clone(), &options);
        assert_eq!(found.report.torn_tail, None, "each place is known for what it is");
        take_snapshot(&mut disk, &mut storage, index, position(index, 0));
        storage.trim(LogIndex(index));
        let ops = storage.maintain().unwrap();
        for (round, op) in ops.iter().map(|op| (named.len(), op)) {
            if let DiskOp::Write { offset, bytes, .. } = op {
                zeroed.push((round, offset / PAGE_BYTES, bytes.len() as u64 / PAGE_BYTES));
            }
        }
        disk.execute_all(&ops).unwrap();
        storage.maintained(true);
    }
    assert_eq!(named, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 1, 1, 2, 2]);
    // Round, first page, pages: first all of what an earlier run began, then only what its eighth
    // life left of each file.
    assert_eq!(zeroed, [(1, 0, 20), (16, 13, 7), (17, 12, 7)]);
}

/// The first segment has room for one page of batches.
fn short() -> Options {
    Options { first_room_bytes: PAGE_BYTES, ..Options::tiny() }
}

#[test]
fn a_first_batch_that_is_too_long_for_a_short_segment_is_found_in_the_next_one() {
    for spare in [false, true] {
        let (mut disk, mut storage) = fresh(&short());
        if spare {
            maintain(&mut disk, &mut storage);
        }
        append(&mut disk, &mut storage, &[entry(1, 0, vec![1; 5000])]);
        append(&mut disk, &mut storage, &[entry(2, 0, "two")]);
        let (_, found) = open(&mut disk, &short());
        assert_eq!(brief(&found.entries), [(1, 0, 5000), (2, 0, 3)], "spare: {spare}");
    }
}

#[test]
fn a_start_makes_a_short_segment_and_has_room_for_two_whole_ones() {
    let lengths = |disk: &mut MemDisk| -> Vec<u64> {
        let mut lengths: Vec<u64> =
            disk.list("wal").unwrap().iter().map(|info| info.len_bytes / PAGE_BYTES).collect();
        lengths.sort_unstable();
        lengths
    };
    let (mut disk, mut storage) = fresh(&short());
    assert_eq!(lengths(&mut disk), [2, 4, 4]);
    append(&mut disk, &mut storage, &[entry(1, 0, "a")]);
    // What is not known to be synced is written again: a page more.
    let (mut storage, _) = open(&mut disk, &short());
    assert_eq!(lengths(&mut disk), [2, 3, 4, 4]);
    // The disk is full from now on.
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    for index in 2..8 {
        maintain(&mut disk, &mut storage);
        assert!(!storage.append_needs_space(3900), "entry {index}");
        append(&mut disk, &mut storage, &[entry(index, 0, vec![1; 3900])]);
    }
    maintain(&mut disk, &mut storage);
    assert!(storage.out_of_space());
}

#[test]
fn what_a_start_leaves_is_zeroed_before_the_log_waits_for_it() {
    let (mut disk, mut storage) = fresh(&short());
    maintain(&mut disk, &mut storage);
    // A page in the short one, and three in each of two whole ones.
    for index in 1..=7 {
        let ops = storage.append(None, None, &[entry(index, 0, vec![1; 3900])]);
        assert!(!shape(&ops).contains('c'), "entry {index}");
        disk.execute_all(&ops).unwrap();
        storage.append_synced();
    }
    assert!(storage.append_needs_space(3900));
}

#[test]
fn what_a_start_leaves_for_the_log_is_given_up_for_the_reserve() {
    let (mut disk, mut storage) = fresh(&short());
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    storage.want_reserve(1, 1);
    maintain(&mut disk, &mut storage);
    assert!(storage.reserve_is_short());
    assert_eq!(disk.list("wal").unwrap().len(), 3, "the short segment and two spares");
    maintain(&mut disk, &mut storage);
    assert_eq!(disk.list("wal").unwrap().len(), 2);
    assert!(!storage.append_needs_space(8000), "one of them is left");
}

#[test]
fn a_spare_is_made_of_what_needs_no_zeros_if_there_is_such_a_file() {
    let (mut disk, mut storage) = fresh(&short());
    let put = |disk: &mut MemDisk, storage: &mut Storage, count: u64| {
        for index in storage.last_index().0 + 1..=storage.last_index().0 + count {
            append(disk, storage, &[entry(index, 0, vec![1; 3900])]);
        }
    };
    put(&mut disk, &mut storage, 13);
    // What a start finds of four whole segments: two are zeroed, and one is kept as it is.
    let (mut storage, _) = open(&mut disk, &short());
    take_snapshot(&mut disk, &mut storage, 1, position(13, 0));
    storage.trim(LogIndex(13));
    put(&mut disk, &mut storage, 4);
    maintain(&mut disk, &mut storage);
    put(&mut disk, &mut storage, 12);
    take_snapshot(&mut disk, &mut storage, 2, position(29, 0));
    storage.trim(LogIndex(29));
    let ops = storage.maintain().unwrap();
    assert_eq!(shape(&ops), "rd", "of one that was released in this run");
    disk.execute_all(&ops).unwrap();
    storage.maintained(true);
    maintain(&mut disk, &mut storage);
    let files = disk.list("wal").unwrap();
    let spares = files.iter().filter(|info| info.file.ends_with(".spare")).count();
    assert_eq!(spares, 1, "another one would cost no time later");
}

#[test]
fn a_start_on_a_full_disk_does_with_a_short_segment() {
    let (mut disk, _) = fresh(&short());
    for info in disk.list("wal").unwrap() {
        if info.file.ends_with(".spare.tmp") {
            disk.execute(&DiskOp::Remove { file: info.file }).unwrap();
        }
    }
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    for more_pages in 0..10 {
        let mut disk = disk.clone();
        disk.capacity_bytes = Some(used as u64 + more_pages * PAGE_BYTES);
        let (mut storage, _) = open(&mut disk, &short());
        assert!(!storage.append_needs_space(100), "{more_pages} pages");
        append(&mut disk, &mut storage, &[entry(1, 0, "a")]);
    }
}

#[test]
fn released_segments_are_kept_for_what_the_log_will_grow_by() {
    let options = Options::tiny();
    let (mut disk, mut storage) = fresh(&options);
    let roll = |disk: &mut MemDisk, storage: &mut Storage, count: u64| {
        for _ in 0..count {
            let index = storage.last_index().0 + 1;
            append(disk, storage, &[entry(index, 0, vec![1; 8000])]);
        }
    };
    let files = |disk: &mut MemDisk| disk.list("wal").unwrap().len();
    roll(&mut disk, &mut storage, 8);
    take_snapshot(&mut disk, &mut storage, 1, position(8, 0));
    // Three segments of the log remain, and three more are kept beside the spare.
    storage.trim(LogIndex(6));
    maintain(&mut disk, &mut storage);
    assert_eq!(files(&mut disk), 7);
    // Short of room: none is.
    storage.want_reserve(1, 1);
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    maintain(&mut disk, &mut storage);
    assert!(storage.reserve_is_short());
    maintain(&mut disk, &mut storage);
    assert_eq!((files(&mut disk), storage.reserve_is_short()), (4, false));
    // A snapshot needs room.
    disk.capacity_bytes = None;
    roll(&mut disk, &mut storage, 3);
    storage.trim(LogIndex(8));
    maintain(&mut disk, &mut storage);
    assert!(storage.has_reserve());
    disk.execute_all(&storage.release_reserve().unwrap()).unwrap();
    storage.maintained(true);
    assert!(!storage.has_reserve());
    assert_eq!(files(&mut disk), 5, "four of the log and the spare");
}

#[test]
fn nothing_is_released_for_a_segment_that_may_not_survive() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 0, vec![1; 8000])]);
    maintain(&mut disk, &mut storage);
    // Rolls; the list has not ended when the log is trimmed to what it holds.
    let ops = storage.append(None, None, &[entry(2, 0, vec![2; 8000])]);
    take_snapshot(&mut disk, &mut storage, 1, position(2, 0));
    storage.trim(LogIndex(2));
    disk.execute_all(&storage.maintain().unwrap()).unwrap();
    storage.maintained(true);
    assert!(!storage.has_reserve(), "nothing was released");
    disk.execute_all(&ops).unwrap();
    storage.append_synced();
    assert!(storage.has_reserve(), "the first segment gives its room");
}

#[test]
fn restarts_do_not_pile_up_segments() {
    let options = Options { segment_bytes: 64 * PAGE_BYTES, ..Options::tiny() };
    let mut disk = created(&options);
    for i in 1..=40 {
        let (mut storage, found) = open(&mut disk, &options);
        assert_eq!(found.entries.len() as u64, i - 1);
        append(&mut disk, &mut storage, &[entry(i, 0, "x")]);
        maintain(&mut disk, &mut storage);
    }
    let files = disk.list("wal").unwrap().len();
    assert!(files <= 5, "{files} files after 40 restarts with 40 pages of log");
}

#[test]
fn after_a_recorded_watermark_a_restart_writes_no_log() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 0, "x")]);
    disk.execute_all(&storage.refresh_watermark()).unwrap();
    assert!(storage.refresh_watermark().is_empty());
    disk.record();
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!((found.entries.len(), found.report.copied_forward_bytes), (1, 0));
    let wrote_log =
        |op: &DiskOp| matches!(op, DiskOp::Write { file, .. } if file.starts_with("wal"));
    assert!(!disk.record().iter().any(wrote_log));
}

#[test]
fn later_entries_replace_those_from_their_first_index_on() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    let first: Vec<_> = (1..=6).map(|i| entry(i, 0, "old")).collect();
    append(&mut disk, &mut storage, &first);
    append(&mut disk, &mut storage, &[entry(4, 1, "new")]);
    assert_eq!(storage.last_index(), LogIndex(4));
    append(&mut disk, &mut storage, &[entry(5, 1, "newer")]);
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!(brief(&found.entries), [(1, 0, 3), (2, 0, 3), (3, 0, 3), (4, 1, 3), (5, 1, 5)]);
}

#[test]
fn a_log_that_starts_anew_after_an_installed_snapshot_does_so_after_a_crash() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    append(&mut disk, &mut storage, &[entry(1, 1, "old"), entry(2, 1, "conflicting")]);
    take_snapshot(&mut disk, &mut storage, 5, position(2, 2));
    // Without the new start: the conflict decides.
    let (_, found) = open(&mut disk.clone(), &Options::tiny());
    assert_eq!(found.entries.len(), 0);
    assert_eq!(found.report.log_discarded, Some("it conflicts with the snapshot"));
    assert_eq!(found.hard_state.term, Term(2), "at least the snapshot's");
    // With it.
    let hard_state = HardState { term: Term(2), vote: None };
    let ops = storage.append(Some(hard_state), Some(position(2, 2)), &[entry(3, 2, "after")]);
    disk.execute_all(&ops).unwrap();
    storage.append_synced();
    let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    assert_eq!(brief(&found.entries), [(3, 2, 5)]);
    assert_eq!(found.report.log_discarded, None);
}

#[test]
fn a_full_disk_shows_before_it_hurts_and_passes() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64 + PAGE_BYTES);
    let ops = storage.maintain().unwrap();
    let result = disk.execute_all(&ops);
    assert!(matches!(result, Err(DiskError::NoSpace(_))));
    assert!(!storage.out_of_space());
    storage.maintained(result.is_ok());
    assert!(storage.out_of_space());

    // The segment has room for three pages.
    let mut index = 0;
    while !storage.append_needs_space(100) {
        index += 1;
        append(&mut disk, &mut storage, &[entry(index, 0, vec![0; 79])]);
    }
    assert_eq!(index, 3);

    disk.capacity_bytes = None;
    maintain(&mut disk, &mut storage);
    assert!(!storage.out_of_space());
    assert!(!storage.append_needs_space(100));
    append(&mut disk, &mut storage, &[entry(4, 0, "rolls into the spare")]);
    assert_eq!(open(&mut disk, &Options::tiny()).1.entries.len(), 4);
}

#[test]
fn other_options_than_last_time_are_no_trouble() {
    let (mut disk, mut storage) = fresh(&Options::default());
    let entries: Vec<_> = (1..=50).map(|i| entry(i, 0, vec![3; 6000])).collect();
    append(&mut disk, &mut storage, &entries);
    maintain(&mut disk, &mut storage);
    for options in [Options::tiny(), Options::default(), Options::tiny()] {
        let (mut storage, found) = open(&mut disk, &options);
        let next = found.entries.len() as u64 + 1;
        assert!(found.entries.starts_with(&entries));
        append(&mut disk, &mut storage, &[entry(next, 0, "x")]);
        maintain(&mut disk, &mut storage);
    }
}

#[test]
fn a_few_small_entries_do_not_keep_the_memory_of_a_large_batch() {
    let (mut disk, mut storage) = fresh(&Options::default());
    let large = entry(3, 0, Bytes::from(vec![1; 1 << 20]));
    append(&mut disk, &mut storage, &[entry(1, 0, "small"), entry(2, 0, "small"), large]);
    append(&mut disk, &mut storage, &[entry(3, 1, "replaces the large one")]);
    let (_, found) = open(&mut disk, &Options::default());
    assert_eq!(found.entries.len(), 3);
    // Both were slices of the batch's buffer; now each is a copy of its own.
    assert!(found.entries[0].data.is_unique() && found.entries[1].data.is_unique());
}

#[test]
fn several_appends_may_be_outstanding() {
    let (mut disk, mut storage) = fresh(&Options::tiny());
    let lists: Vec<_> =
        (1..=3).map(|i| storage.append(None, None, &[entry(i, 0, vec![1; 3000])])).collect();
    for ops in lists {
        disk.execute_all(&ops).unwrap();
        storage.append_synced();
    }
    assert_eq!(open(&mut disk, &Options::tiny()).1.entries.len(), 3);
}

#[test]
#[should_panic(expected = "leaves a gap")]
fn a_gap_is_a_programmers_error() {
    let (_, mut storage) = fresh(&Options::tiny());
    let _ = storage.append(None, None, &[entry(2, 0, "x")]);
}

#[test]
#[should_panic(expected = "term went from 2 back to 1")]
fn a_term_never_decreases() {
    let (_, mut storage) = fresh(&Options::tiny());
    let hard_state = |term| Some(HardState { term: Term(term), vote: None });
    let _ = storage.append(hard_state(2), None, &[]);
    let _ = storage.append(hard_state(1), None, &[]);
}

#[test]
#[should_panic(expected = "the newest snapshot covers 0")]
fn nothing_is_trimmed_without_a_snapshot() {
    let (_, mut storage) = fresh(&Options::tiny());
    storage.trim(LogIndex(1));
}

#[test]
fn the_reserve_grows_in_steps_is_given_up_but_for_a_start_and_is_found_again() {
    let options = Options::tiny();
    let (mut disk, mut storage) = fresh(&options);
    let step = options.segment_bytes;
    let held = |disk: &mut MemDisk| disk.len_bytes("reserve").unwrap();
    maintain(&mut disk, &mut storage);
    assert_eq!(held(&mut disk), None, "none is wanted at first");
    for (wanted, expected) in [(1, step), (step - 1, step), (step + 1, 2 * step), (1, 2 * step)] {
        storage.want_reserve(wanted, wanted);
        maintain(&mut disk, &mut storage);
        // Two segments besides, for starts.
        assert_eq!(held(&mut disk), Some(expected + 2 * step), "{wanted} bytes are wanted");
    }
    let (mut storage, _) = open(&mut disk, &options);
    assert_eq!(storage.reserve_bytes(), 4 * step, "a start finds it");

    // A full disk: it can be given up, and no longer be had.
    maintain(&mut disk, &mut storage);
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    disk.execute_all(&storage.release_reserve().unwrap()).unwrap();
    assert_eq!(storage.release_reserve(), None, "it is under way");
    storage.maintained(true);
    assert!(!storage.has_reserve());
    assert_eq!(held(&mut disk), Some(2 * step));
    storage.want_reserve(3 * step, 3 * step);
    maintain(&mut disk, &mut storage);
    assert!(storage.reserve_is_short() && !storage.out_of_space());
    assert_eq!(held(&mut disk), Some(4 * step), "it takes what there is, before the log does");
    assert_eq!(storage.maintain(), None, "and does not ask again at once");
    storage.want_reserve(0, 0);
    maintain(&mut disk, &mut storage);
    assert_eq!((held(&mut disk), storage.reserve_is_short()), (None, false));
}

#[test]
fn the_log_does_not_grow_into_what_the_next_snapshot_takes() {
    let options = Options::tiny();
    let (mut disk, mut storage) = fresh(&options);
    maintain(&mut disk, &mut storage);
    // The spare is of use now, and another one is wanted.
    for index in 1..=4 {
        append(&mut disk, &mut storage, &[entry(index, 0, "one")]);
    }
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    storage.want_reserve(1, 1);
    maintain(&mut disk, &mut storage);
    // Room for a segment comes before the reserve has asked again.
    disk.capacity_bytes = Some(used as u64 + options.segment_bytes);
    assert_eq!(storage.maintain(), None);
    assert!(storage.out_of_space());
    storage.ask_again();
    maintain(&mut disk, &mut storage);
    assert_eq!(storage.reserve_bytes(), options.segment_bytes, "the reserve has it");
    disk.capacity_bytes = None;
    storage.ask_again();
    maintain(&mut disk, &mut storage);
    assert!(!storage.out_of_space() && !storage.reserve_is_short());
}

#[test]
fn a_start_on_a_full_disk_uses_the_reserve() {
    let options = Options::tiny();
    let (mut disk, mut storage) = fresh(&options);
    storage.want_reserve(1, 1);
    maintain(&mut disk, &mut storage);
    append(&mut disk, &mut storage, &[entry(1, 0, "one")]);
    // No spare to start with, and no room for a segment.
    let mut names = disk.files().map(|(name, _)| name.to_string());
    let spare = names.find(|name| name.contains(".spare"));
    drop(names);
    disk.lose(&spare.unwrap(), None);
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64);
    let (_, found) = open(&mut disk, &options);
    assert_eq!(found.entries.len(), 1);
    assert_eq!(disk.len_bytes("reserve").unwrap(), None);
}

#[test]
fn a_full_disk_makes_a_segment_of_one_that_was_released_meanwhile() {
    let options = Options::tiny();
    let (mut disk, mut storage) = fresh(&options);
    maintain(&mut disk, &mut storage);
    for index in 1..=5 {
        append(&mut disk, &mut storage, &[entry(index, 0, vec![0; 3000])]);
    }
    // The second segment was the spare. The disk is full when a third is wanted.
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64 + 2 * PAGE_BYTES);
    let ops = storage.maintain().unwrap();
    storage.maintained(disk.execute_all(&ops).is_ok());
    assert!(storage.out_of_space());
    take_snapshot(&mut disk, &mut storage, 1, position(5, 0));
    storage.trim(LogIndex(5));
    maintain(&mut disk, &mut storage);
    assert!(!storage.out_of_space(), "the first segment is the next one");
}

#[test]
fn what_is_said_to_fit_needs_no_new_file() {
    let options = Options::tiny();
    for spare in [false, true] {
        let (mut disk, mut storage) = fresh(&options);
        for index in 1.. {
            if spare {
                maintain(&mut disk, &mut storage);
            }
            let Some(room) = storage.append_room_bytes() else { break };
            let data = (room as usize).saturating_sub(sampan_base::Entry::OVERHEAD_BYTES);
            let ops = storage.append(None, None, &[entry(index, 0, vec![0; data.min(6000)])]);
            let creates = ops.iter().any(|op| matches!(op, DiskOp::Create { .. }));
            assert!(!creates, "entry {index} with {room} bytes of room");
            disk.execute_all(&ops).unwrap();
            storage.append_synced();
            if index > 20 {
                break;
            }
        }
    }
}
