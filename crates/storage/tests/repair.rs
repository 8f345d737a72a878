//! Repair in place: a damaged batch between sound neighbours becomes what it was, byte for byte,
//! from its entries, and from nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use common::{IDENTITY, append, created, entry, maintain, open, position, take_snapshot};
use sampan_base::disk::{Disk, DiskOp, FileName};
use sampan_base::{Entry, LogIndex, Term};
use sampan_storage::testing::{MemDisk, Odometer};
use sampan_storage::{
    DamageReason, OpenError, Options, PAGE_BYTES, Repair, SECTOR_BYTES, Storage, inspect,
};

fn options() -> Options {
    Options { segment_bytes: 6 * PAGE_BYTES, entry_bytes_max: 9_000, ..Options::default() }
}

/// A batch of the reference log.
#[derive(Clone, Debug)]
struct Place {
    file: FileName,
    offset: u64,
    /// With content; the rest of the last page is zero.
    sectors: u64,
    entries: Vec<Entry>,
}

/// Batches of one entry and of several, of one page and of more, over several segments.
fn reference() -> (MemDisk, Vec<Place>) {
    let mut disk = created(&options());
    let (mut storage, _) = open(&mut disk, &options());
    let mut next = 1;
    for (count, data_bytes) in
        [(1, 9), (3, 400), (1, 8_000), (2, 0), (4, 100), (1, 600), (1, 5_000), (2, 300), (1, 1)]
    {
        let entries: Vec<Entry> = (next..next + count)
            .map(|i| entry(i, 1 + i / 6, vec![if i % 2 == 0 { 0 } else { i as u8 }; data_bytes]))
            .collect();
        next += count;
        append(&mut disk, &mut storage, &entries);
    }
    let places = places(&mut disk);
    assert_eq!(places.len(), 9);
    assert!(disk.list("wal").unwrap().len() >= 3, "several segments");
    (disk, places)
}

fn places(disk: &mut MemDisk) -> Vec<Place> {
    let mut places = Vec::new();
    for info in disk.list("wal").unwrap() {
        let bytes = disk.read(&info.file, 0, info.len_bytes).unwrap();
        for batch in inspect::segment(&bytes).unwrap().batches {
            let range = batch.offset as usize..(batch.offset + batch.len_bytes) as usize;
            let sectors = bytes[range].chunks(SECTOR_BYTES as usize);
            let sectors = sectors.filter(|sector| sector.iter().any(|&b| b != 0)).count() as u64;
            let (file, offset) = (info.file.clone(), batch.offset);
            places.push(Place { file, offset, sectors, entries: batch.entries });
        }
    }
    places
}

fn find(disk: &mut MemDisk) -> Option<Repair> {
    assert!(matches!(
        Storage::open(disk, IDENTITY, &options()),
        Err(OpenError::DamagedLog(_) | OpenError::DamagedSnapshot { .. })
    ));
    Repair::find(disk, IDENTITY).unwrap()
}

fn change(disk: &mut MemDisk, place: &Place, sector: u64, how: impl Fn(u64, &mut u8)) {
    let start = place.offset + sector * SECTOR_BYTES;
    (0..SECTOR_BYTES).for_each(|i| disk.corrupt(&place.file, start + i, |byte| how(i, byte)));
}

fn files(disk: &MemDisk) -> Vec<(FileName, Vec<u8>)> {
    disk.files().map(|(file, bytes)| (file.clone(), bytes.to_vec())).collect()
}

/// Repairs one batch and says whether the disk is what it was.
fn heals(disk: &mut MemDisk, place: &Place, before: &[(FileName, Vec<u8>)]) -> bool {
    let repair = find(disk).unwrap_or_else(|| panic!("{place:?} can be repaired"));
    let (first, last) = (&place.entries[0], &place.entries[place.entries.len() - 1]);
    assert_eq!(repair.wanted(), Some((first.index, last.index)));
    let damage = repair.damage();
    assert_eq!((&damage.segment, damage.offset), (&place.file, place.offset));
    disk.execute_all(&repair.prove(&place.entries).unwrap()).unwrap();
    files(disk) == before
}

#[test]
fn any_damage_of_a_batch_before_the_last_is_undone_byte_for_byte() {
    let (disk, places) = reference();
    let before = files(&disk);
    let (_, middle) = places.split_last().unwrap();
    for place in middle {
        for sector in 0..place.sectors {
            for at in [0, 3, 8, 20, 66, 300, 503, 504, 507, 508, 511] {
                let mut disk = disk.clone();
                change(&mut disk, place, sector, |i, byte| *byte ^= u8::from(i == at) << (at % 8));
                assert!(heals(&mut disk, place, &before), "{place:?}, sector {sector}, byte {at}");
            }
            for filler in [0, 0x5a, 0xff] {
                let mut disk = disk.clone();
                change(&mut disk, place, sector, |_, byte| *byte = filler);
                assert!(heals(&mut disk, place, &before), "{place:?}, sector {sector}, {filler}");
            }
        }
        let mut disk = disk.clone();
        (0..place.sectors)
            .for_each(|s| change(&mut disk, place, s, |i, byte| *byte ^= i as u8 | 1));
        assert!(heals(&mut disk, place, &before), "all of {place:?}");
    }
}

#[test]
fn damage_in_several_places_is_undone_in_the_order_of_the_log() {
    let (mut disk, places) = reference();
    let before = files(&disk);
    // Neighbours too, as long as one of them has its header.
    for (place, sector) in [(1, 1), (2, 3), (4, 0), (6, 2)] {
        change(&mut disk, &places[place], sector, |_, byte| *byte = 0x77);
    }
    for (place, whole) in [(1, false), (2, false), (4, false), (6, true)] {
        assert_eq!(heals(&mut disk, &places[place], &before), whole);
    }
    assert_eq!(open(&mut disk, &options()).1.entries.len(), 16);
}

#[test]
fn entries_that_are_not_the_ones_never_pass() {
    let (mut disk, places) = reference();
    let place = &places[1];
    change(&mut disk, place, 1, |_, byte| *byte ^= 1);
    let repair = find(&mut disk).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = place.entries.clone();
        change(&mut entries);
        repair.prove(&entries).is_none()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|entries| entries[1].term = Term(9)));
    assert!(refused(&|entries| entries[2].index = LogIndex(2)));
    assert!(refused(&|entries| entries.swap(0, 1)));
    assert!(refused(&|entries| drop(entries.pop())));
    assert!(refused(&|entries| entries.push(entry(5, 1, "more"))));
    assert!(refused(&|entries| entries[0].kind = sampan_base::EntryKind::Noop));
    assert!(refused(&|entries| entries[0].data = vec![0; 50_000].into()));
    for at in 0..400 {
        assert!(refused(&|entries| {
            let mut data = entries[1].data.to_vec();
            data[at] ^= 1 << (at % 8);
            entries[1].data = data.into();
        }));
    }
}

#[test]
fn what_can_be_read_besides_is_told_before_and_after_the_damage() {
    let (mut disk, places) = reference();
    change(&mut disk, &places[1], 0, |_, byte| *byte = 0);
    change(&mut disk, &places[6], 0, |_, byte| *byte = 0);
    let repair = find(&mut disk).unwrap();
    let held: Vec<u64> =
        repair.entries(LogIndex(1), LogIndex(99)).map(|entry| entry.index.0).collect();
    assert_eq!(held, [1, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16], "all but 2 to 4, and 13");
    assert_eq!(repair.entries(LogIndex(2), LogIndex(4)).count(), 0);
    assert_eq!(repair.entries(LogIndex(6), LogIndex(5)).count(), 0);
}

#[test]
fn a_crash_in_the_middle_of_a_repair_leaves_it_to_be_done_again() {
    let (mut disk, places) = reference();
    let before = files(&disk);
    let place = &places[2];
    for sector in [0, 2, 3, 9, 15] {
        change(&mut disk, place, sector, |i, byte| *byte ^= i as u8 | 0x40);
    }
    let ops = find(&mut disk).unwrap().prove(&place.entries).unwrap();
    let [DiskOp::Write { .. }, DiskOp::Sync { .. }] = &ops[..] else { panic!("{ops:?}") };
    let (mut odometer, mut healed, mut ways) = (Odometer::default(), 0, 0);
    loop {
        let mut crashed = disk.clone();
        crashed.execute(&ops[0]).unwrap();
        let mut crashed = crashed.crash(&mut odometer);
        ways += 1;
        if files(&crashed) == before {
            healed += 1;
            open(&mut crashed, &options());
        } else {
            assert!(heals(&mut crashed, place, &before), "the same verdict as before");
        }
        if !odometer.advance() {
            break;
        }
    }
    assert_eq!((ways, healed), (32, 1), "each damaged sector as it was, or repaired");
}

#[test]
fn what_nothing_vouches_for_is_not_repaired() {
    // The last batch: nothing comes after it.
    let (mut disk, places) = reference();
    change(&mut disk, &places[8], 0, |_, byte| *byte ^= 1);
    assert!(find(&mut disk).is_none());

    // Two in a row, and the second one's header is lost.
    let (mut disk, places) = reference();
    change(&mut disk, &places[3], 0, |_, byte| *byte ^= 1);
    change(&mut disk, &places[4], 0, |_, byte| *byte ^= 1);
    assert!(find(&mut disk).is_none());

    // The header of a segment.
    let (mut disk, places) = reference();
    disk.corrupt(&places[5].file, 40, |byte| *byte ^= 1);
    assert!(find(&mut disk).is_none());

    // A file that ends too early.
    let (mut disk, places) = reference();
    disk.lose(&places[0].file, Some(5 * PAGE_BYTES));
    assert!(find(&mut disk).is_none());

    // A log that is sound.
    let (mut disk, _) = reference();
    assert!(Repair::find(&mut disk, IDENTITY).unwrap().is_none());
}

/// A log in which a batch has replaced entries of the one before it.
fn with_replaced_entries() -> (MemDisk, Vec<Place>) {
    let mut disk = created(&options());
    let (mut storage, _) = open(&mut disk, &options());
    append(&mut disk, &mut storage, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")]);
    append(&mut disk, &mut storage, &[entry(2, 2, "B"), entry(3, 2, "C")]);
    append(&mut disk, &mut storage, &[entry(4, 2, "d")]);
    let places = places(&mut disk);
    (disk, places)
}

#[test]
fn a_batch_that_replaced_entries_is_repaired_if_its_header_says_so_and_else_not() {
    let (mut disk, places) = with_replaced_entries();
    // The first batch held what nobody else may hold: what is asked for is not enough, or is other.
    change(&mut disk, &places[0], 0, |_, byte| *byte = 0);
    let repair = find(&mut disk).unwrap();
    assert_eq!(repair.wanted(), Some((LogIndex(1), LogIndex(1))));
    assert!(repair.prove(&places[0].entries[..1]).is_none());

    // The second one, without its header: it is taken for one that follows.
    let (mut disk, places) = with_replaced_entries();
    change(&mut disk, &places[1], 0, |_, byte| *byte = 0);
    assert!(find(&mut disk).is_none(), "nothing is between 3 and 4");

    // With its header it would be known; it needs a second sector to be damaged in.
    let mut disk = created(&options());
    let (mut storage, _) = open(&mut disk, &options());
    append(&mut disk, &mut storage, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")]);
    append(&mut disk, &mut storage, &[entry(2, 2, vec![7; 2_000])]);
    append(&mut disk, &mut storage, &[entry(3, 2, "d")]);
    let (places, before) = (self::places(&mut disk), files(&disk));
    change(&mut disk, &places[1], 1, |_, byte| *byte = 0);
    assert!(heals(&mut disk, &places[1], &before));
}

#[test]
fn only_what_the_snapshot_leaves_is_asked_for() {
    let (mut disk, places) = reference();
    let (mut storage, _) = open(&mut disk, &options());
    let at = places[6].entries[0].position();
    take_snapshot(&mut disk, &mut storage, 7, position(at.index.0, at.term.0));
    // An earlier segment is not needed any more, a later one is.
    change(&mut disk, &places[0], 0, |_, byte| *byte ^= 1);
    assert!(Repair::find(&mut disk, IDENTITY).unwrap().is_none());
    change(&mut disk, &places[7], 0, |_, byte| *byte ^= 1);
    let repair = find(&mut disk).unwrap();
    assert_eq!(repair.snapshot().unwrap().position, at);
    assert_eq!(repair.wanted().unwrap().0, places[7].entries[0].index);
}

/// One batch of a page each, the last segment not full.
fn single_pages(batches: u64) -> (MemDisk, Vec<Place>) {
    let mut disk = created(&options());
    let (mut storage, _) = open(&mut disk, &options());
    (1..=batches).for_each(|i| append(&mut disk, &mut storage, &[entry(i, 1, vec![7; 900])]));
    let places = places(&mut disk);
    (disk, places)
}

/// Moves a batch of one page to another place: so a disk leaves it that misdirects a write.
fn misdirect(disk: &mut MemDisk, from: &Place, to: &Place) {
    let page = disk.read(&from.file, from.offset, PAGE_BYTES).unwrap();
    (0..).zip(page).for_each(|(i, byte)| {
        disk.corrupt(&to.file, to.offset + i, |old| *old = byte);
        disk.corrupt(&from.file, from.offset + i, |old| *old = 0);
    });
}

#[test]
fn a_last_batch_that_was_written_in_another_place_is_missed() {
    // Two segments of five batches, and four batches in the third.
    let (reference, places) = single_pages(14);
    let last = &places[13];
    for (to, place) in places[..12].iter().enumerate() {
        let mut disk = reference.clone();
        misdirect(&mut disk, last, place);
        let ops = find(&mut disk).unwrap().prove(&place.entries).unwrap();
        // Cut short anywhere, the repair is done again; and the mark is there before the evidence
        // goes.
        for steps in 0..=ops.len() {
            let mut disk = disk.clone();
            disk.execute_all(&ops[..steps]).unwrap();
            if steps < ops.len() - 1 {
                let again = find(&mut disk).unwrap().prove(&place.entries).unwrap();
                disk.execute_all(&again).unwrap();
            }
            let (_, found) = open(&mut disk, &options());
            assert_eq!(found.entries.len(), 13, "{to}");
            assert_eq!(found.non_voting_until, Some(LogIndex::MAX), "{to}, {steps} steps");
        }
    }
    // Onto its neighbour: nothing is left that says what that was.
    let mut disk = reference.clone();
    misdirect(&mut disk, last, &places[12]);
    assert!(find(&mut disk).is_none());
}

#[test]
fn a_batch_that_is_found_elsewhere_as_well_is_not_missed() {
    let (reference, places) = single_pages(14);
    for (from, to) in [(3, 0), (6, 2), (2, 11), (13, 1)] {
        let mut disk = reference.clone();
        let page = disk.read(&places[from].file, places[from].offset, PAGE_BYTES).unwrap();
        let to = &places[to];
        let mut write = |i, byte: u8| disk.corrupt(&to.file, to.offset + i, |old| *old = byte);
        (0..).zip(page).for_each(|(i, byte)| write(i, byte));
        let ops = find(&mut disk).unwrap().prove(&to.entries).unwrap();
        disk.execute_all(&ops).unwrap();
        let (_, found) = open(&mut disk, &options());
        assert_eq!((found.entries.len(), found.non_voting_until), (14, None));
    }
}

#[test]
fn what_an_older_snapshot_needs_is_asked_for_when_the_newest_is_damaged() {
    let (mut disk, places) = reference();
    let (mut storage, _) = open(&mut disk, &options());
    for (id, place) in [(5, 2), (7, 8)] {
        let at = places[place].entries[0].position();
        take_snapshot(&mut disk, &mut storage, id, position(at.index.0, at.term.0));
    }
    // In a segment before the one that goes on from the newest.
    let damaged = &places[3];
    assert!(damaged.file < places[8].file);
    change(&mut disk, damaged, 0, |_, byte| *byte ^= 1);
    assert!(Repair::find(&mut disk, IDENTITY).unwrap().is_none(), "the newest one covers it");
    let newest = storage.snapshots()[0].file.clone();
    // A byte of a chunk: header and footer are as they were.
    disk.corrupt(&newest, PAGE_BYTES + 100, |byte| *byte ^= 1);
    let repair = find(&mut disk).unwrap();
    assert_eq!(repair.wanted().unwrap().0, damaged.entries[0].index);
}

#[test]
fn a_sound_log_that_no_snapshot_reaches_is_kept_until_one_does() {
    let (mut disk, places) = reference();
    let before = disk.clone();
    let (mut storage, _) = open(&mut disk, &options());
    let at = places[8].entries[0].position();
    let (meta, file) = take_snapshot(&mut disk, &mut storage, 5, position(at.index.0, at.term.0));
    storage.trim(at.index);
    maintain(&mut disk, &mut storage);
    assert!(Repair::find(&mut disk, IDENTITY).unwrap().is_none(), "all is well");
    let whole: Vec<u8> = files(&disk).into_iter().find(|(name, _)| *name == file).unwrap().1;
    disk.corrupt(&file, PAGE_BYTES + 100, |byte| *byte ^= 1);
    let damaged = files(&disk);

    let repair = find(&mut disk).unwrap();
    let DamageReason::Gap { log_from } = repair.damage().reason else { panic!("{repair:?}") };
    assert!(repair.wanted().is_none() && log_from <= at.index, "{log_from}");
    assert_eq!(repair.prove(&[]), None, "there is nothing to prove");
    let held: Vec<LogIndex> =
        repair.entries(LogIndex(1), LogIndex(99)).map(|entry| entry.index).collect();
    assert!(held.first().is_some_and(|first| *first > LogIndex(1)), "{held:?}");
    let last = places.last().unwrap().entries.last().unwrap();
    assert_eq!(held.last(), Some(&last.index), "others may ask for what is here");
    assert!(files(&disk) == damaged, "nothing was changed");

    // The file of another node, put where the damaged one was: it says whose it is, and of what.
    let ops = [
        DiskOp::Create { file: file.clone(), zero_bytes: 0 },
        DiskOp::Write { file: file.clone(), offset: 0, bytes: whole.into() },
    ];
    disk.execute_all(&ops).unwrap();
    let (_, found) = open(&mut disk, &options());
    assert_eq!((found.snapshot.unwrap().meta, found.faulty), (meta, None));
    let (_, all) = open(&mut before.clone(), &options());
    let after: Vec<_> = all.entries.into_iter().filter(|entry| entry.index > at.index).collect();
    assert_eq!((found.entries, found.non_voting_until), (after, None));
}
