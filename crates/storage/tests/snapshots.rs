//! Snapshot files: written, verified, committed, received by offset, resumed.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{
    IDENTITY, SYNC_BYTES, append, configuration, created, entry, open, position, take_snapshot,
    write_snapshot,
};
use sampan_base::disk::{Disk, DiskError, DiskOp, FileName};
use sampan_base::{LogIndex, Rng, SnapshotId, SnapshotMeta};
use sampan_storage::snapshot::{
    self, ChunkPlace, ChunkScan, FIRST_CHUNK_OFFSET, PassingChunk, ReceiveError, SnapshotEnd,
    SnapshotError, SnapshotPart, SnapshotReader, SnapshotReceiver, SnapshotStream, SnapshotWriter,
};
use sampan_storage::testing::{KeepAll, KeepSynced, MemDisk};
use sampan_storage::{OnDamage, Options, PAGE_BYTES, PartialSnapshot, SnapshotSink, Storage};

fn payloads() -> Vec<Vec<u8>> {
    [1, 16, 400, 5000].iter().map(|&len| vec![len as u8; len]).collect()
}

/// A written, not yet committed snapshot of these chunks on a disk with a node.
fn written(chunks: &[Vec<u8>]) -> (MemDisk, SnapshotMeta, FileName) {
    let mut disk = created(&Options::tiny());
    let (mut writer, mut ops) =
        SnapshotWriter::begin(IDENTITY, SnapshotId(77), position(5, 2), &configuration(), None);
    for chunk in chunks {
        ops.extend(writer.chunk(chunk));
    }
    let (meta, file, rest) = writer.finish(b"sixteen byte sum");
    ops.extend(rest);
    disk.execute_all(&ops).unwrap();
    (disk, meta, file)
}

#[test]
fn what_is_written_is_read_chunk_by_chunk() {
    for chunks in [payloads(), Vec::new()] {
        let (mut disk, meta, file) = written(&chunks);
        assert_eq!(snapshot::verify(&mut disk, &file), Ok(meta.clone()));
        assert_eq!(disk.len_bytes(&file), Ok(Some(meta.size_bytes)));
        assert_eq!((meta.position, meta.id), (position(5, 2), SnapshotId(77)));
        assert_eq!(meta.configuration, configuration());

        let reader = SnapshotReader::open(&mut disk, &file).unwrap();
        assert_eq!((reader.digest(), reader.maker()), (&b"sixteen byte sum"[..], IDENTITY));
        assert_eq!(reader.chunk_count(), chunks.len());
        let mut offset = FIRST_CHUNK_OFFSET;
        for (number, chunk) in chunks.iter().enumerate() {
            assert_eq!(reader.chunk(&mut disk, number).unwrap(), chunk);
            let (payload, next) = snapshot::read_chunk(&mut disk, &file, offset).unwrap().unwrap();
            assert_eq!(payload, chunk);
            offset = next;
        }
        assert_eq!(snapshot::read_chunk(&mut disk, &file, offset), Ok(None));
    }
}

#[test]
fn every_flipped_bit_is_found_by_verification() {
    let (disk, meta, file) = written(&payloads());
    for offset in (0..meta.size_bytes).step_by(if cfg!(debug_assertions) { 3 } else { 1 }) {
        let mut disk = disk.clone();
        disk.corrupt(&file, offset, |byte| *byte ^= 1 << (offset % 8));
        let result = snapshot::verify(&mut disk, &file);
        assert!(matches!(result, Err(SnapshotError::Damaged { .. })), "{offset}: {result:?}");
    }
}

#[test]
fn every_shorter_or_longer_file_is_found_by_verification() {
    let (disk, meta, file) = written(&payloads());
    for len in (0..meta.size_bytes).step_by(7) {
        let mut disk = disk.clone();
        disk.lose(&file, Some(len));
        assert!(snapshot::verify(&mut disk, &file).is_err(), "{len}");
    }
    let mut disk = disk;
    let more = DiskOp::Write { file: file.clone(), offset: meta.size_bytes, bytes: vec![0].into() };
    disk.execute(&more).unwrap();
    assert!(snapshot::verify(&mut disk, &file).is_err());
}

#[test]
fn two_chunks_of_one_length_that_change_places_are_found() {
    let (mut disk, _, file) = written(&[vec![1; 100], vec![2; 100]]);
    let (first, second) = (FIRST_CHUNK_OFFSET, FIRST_CHUNK_OFFSET + 124);
    let a = disk.read(&file, first, 124).unwrap();
    let b = disk.read(&file, second, 124).unwrap();
    for (offset, bytes) in [(first, b), (second, a)] {
        disk.execute(&DiskOp::Write { file: file.clone(), offset, bytes }).unwrap();
    }
    assert!(snapshot::verify(&mut disk, &file).is_err());
}

#[test]
fn a_commit_survives_and_only_so_many_are_kept() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    for i in 1..=4 {
        append(&mut disk, &mut storage, &[entry(i, 0, "x")]);
        take_snapshot(&mut disk, &mut storage, 10 + i, position(i, 0));
        storage.trim(LogIndex(i));
    }
    assert_eq!(ids(&storage), [14, 13, 12], "two, and one for the next to be written over");
    assert_eq!(disk.list("snapshots").unwrap().len(), 3);
    let (storage, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    assert_eq!(found.snapshot.unwrap().meta.id, SnapshotId(14));
    assert_eq!(ids(&storage)[..3], [14, 13, 12]);
}

fn ids(storage: &Storage) -> Vec<u64> {
    storage.snapshots().iter().map(|stored| stored.meta.id.0).collect()
}

/// Three committed snapshots of two that are kept.
fn with_a_surplus() -> (MemDisk, Storage) {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    for i in 1..=3 {
        append(&mut disk, &mut storage, &[entry(i, 0, "x")]);
        take_snapshot(&mut disk, &mut storage, 10 + i, position(i, 0));
    }
    (disk, storage)
}

#[test]
fn a_snapshot_is_written_over_one_that_is_wanted_no_more() {
    for payload in [vec![1; 3], vec![2; 30_000]] {
        let (mut disk, mut storage) = with_a_surplus();
        let surplus = storage.take_surplus_snapshot(&[]).unwrap().file;
        assert_eq!(ids(&storage), [13, 12]);
        assert_eq!(storage.take_surplus_snapshot(&[]), None, "two are kept");
        let (mut writer, mut ops) = SnapshotWriter::begin(
            IDENTITY,
            SnapshotId(14),
            position(3, 0),
            &configuration(),
            Some(surplus.clone()),
        );
        ops.extend(writer.chunk(&payload));
        let (meta, file, rest) = writer.finish(b"digest");
        ops.extend(rest);
        let mut rng = Rng::seeded(7);
        for op in &ops {
            // Of no crash does anything remain that passes for damage.
            for _ in 0..30 {
                let (storage, found) = open(&mut disk.crash(&mut rng), &Options::tiny());
                assert_eq!(ids(&storage)[..2], [13, 12]);
                assert_eq!(found.report.snapshots_damaged, Vec::<FileName>::new(), "{op:?}");
            }
            disk.execute(op).unwrap();
        }
        assert_eq!(snapshot::verify(&mut disk, &file), Ok(meta.clone()));
        let reader = SnapshotReader::open(&mut disk, &file).unwrap();
        assert_eq!(reader.chunk(&mut disk, 0).unwrap(), payload);
        assert_eq!(disk.len_bytes(&surplus), Ok(None));
        disk.execute_all(&storage.snapshot_commit(&file, &meta, &[])).unwrap();
        storage.snapshot_committed();
        assert_eq!(disk.files().filter(|(name, _)| name.contains(".snap")).count(), 3);
        let (storage, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
        assert_eq!(found.snapshot.unwrap().meta.id, SnapshotId(14));
        assert_eq!(ids(&storage), [14, 13, 12]);
    }
}

#[test]
fn one_that_is_given_up_leaves_no_file_under_either_name() {
    for steps in 0..=3 {
        let (mut disk, mut storage) = with_a_surplus();
        let surplus = storage.take_surplus_snapshot(&[]).unwrap().file;
        let at = position(3, 0);
        let (writer, ops) = SnapshotWriter::begin(
            IDENTITY,
            SnapshotId(14),
            at,
            &configuration(),
            Some(surplus.clone()),
        );
        disk.execute_all(&ops[..steps]).unwrap();
        let file = writer.file().clone();
        disk.execute_all(&writer.abandon()).unwrap();
        assert_eq!((disk.len_bytes(&surplus), disk.len_bytes(&file)), (Ok(None), Ok(None)));
    }
}

#[test]
fn the_file_of_a_snapshot_in_use_or_much_longer_than_the_next_is_not_kept_for_it() {
    let (mut disk, mut storage) = with_a_surplus();
    assert_eq!(storage.take_surplus_snapshot(&[SnapshotId(11)]), None);
    assert!(storage.take_surplus_snapshot(&[SnapshotId(13)]).is_some(), "another one is in use");
    // Three that are long, and one that is short.
    for (id, chunks) in [(14, 9), (15, 9), (16, 9), (17, 1)] {
        let (mut writer, mut ops) =
            SnapshotWriter::begin(IDENTITY, SnapshotId(id), position(3, 0), &configuration(), None);
        (0..chunks).for_each(|_| ops.extend(writer.chunk(&[1; 4096])));
        let (meta, file, rest) = writer.finish(b"");
        ops.extend(rest);
        disk.execute_all(&ops).unwrap();
        let commit = storage.snapshot_commit(&file, &meta, &[]);
        let [DiskOp::Rename { .. }, DiskOp::SyncDirectory { .. }, removals @ ..] = &commit[..]
        else {
            panic!("the new one has its name before an older one goes: {commit:?}");
        };
        assert!(id < 17 || !removals.is_empty());
        disk.execute_all(&commit).unwrap();
        storage.snapshot_committed();
    }
    assert_eq!(ids(&storage), [17, 16]);
}

#[test]
fn an_unfinished_snapshot_is_removed_at_the_next_start() {
    let (mut disk, _, file) = written(&payloads());
    let (_, found) = open(&mut disk, &Options::tiny());
    assert_eq!((found.snapshot, found.report.leftovers_removed), (None, 1));
    assert_eq!(disk.len_bytes(&file), Ok(None));
}

#[test]
fn a_writer_that_finds_the_disk_full_leaves_nothing_behind() {
    let mut disk = created(&Options::tiny());
    let used: usize = disk.files().map(|(_, bytes)| bytes.len()).sum();
    disk.capacity_bytes = Some(used as u64 + 2 * PAGE_BYTES);
    let (mut writer, ops) =
        SnapshotWriter::begin(IDENTITY, SnapshotId(1), position(1, 1), &configuration(), None);
    disk.execute_all(&ops).unwrap();
    let ops = writer.chunk(&[1; 9000]);
    assert!(matches!(disk.execute_all(&ops), Err(DiskError::NoSpace(_))));
    disk.execute_all(&writer.abandon()).unwrap();
    assert!(disk.list("snapshots").unwrap().is_empty());
}

/// The bytes of a snapshot as a peer sends them.
fn arriving() -> (SnapshotMeta, Bytes) {
    let (mut disk, meta, file) = written(&payloads());
    let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
    (meta, bytes)
}

#[test]
fn bytes_that_come_twice_or_overlap_are_taken_once_and_gaps_are_refused() {
    let (meta, bytes) = arriving();
    let mut disk = created(&Options::tiny());
    let (mut receiver, ops) = SnapshotReceiver::begin(&meta, SYNC_BYTES);
    disk.execute_all(&ops).unwrap();
    let mut take = |receiver: &mut SnapshotReceiver, from: usize, to: usize| {
        let ops = receiver.write(from as u64, bytes.slice(from..to));
        ops.map(|ops| disk.execute_all(&ops).unwrap())
    };
    assert_eq!(take(&mut receiver, 0, 1000), Ok(()));
    assert_eq!(take(&mut receiver, 0, 1000), Ok(()));
    assert_eq!(take(&mut receiver, 500, 1500), Ok(()));
    assert_eq!(take(&mut receiver, 100, 200), Ok(()));
    assert_eq!(receiver.next_offset(), 1500);
    assert_eq!(take(&mut receiver, 1501, 1600), Err(ReceiveError::Gap { next_offset: 1500 }));
    assert!(!receiver.is_complete());
    assert_eq!(take(&mut receiver, 1500, bytes.len()), Ok(()));
    assert!(receiver.is_complete());
    let beyond = receiver.write(meta.size_bytes, Bytes::from_static(b"x"));
    assert_eq!(beyond, Err(ReceiveError::TooLong));
    let overflow = receiver.write(u64::MAX, Bytes::from_static(b"x"));
    assert!(overflow.is_err());

    let (file, ops) = receiver.finish();
    disk.execute_all(&ops).unwrap();
    assert_eq!(snapshot::verify(&mut disk, &file), Ok(meta));
}

#[test]
fn an_arriving_snapshot_goes_on_after_any_number_of_crashes() {
    let (meta, bytes) = arriving();
    for seed in 0..40 {
        let mut rng = Rng::seeded(seed);
        let mut disk = created(&Options::tiny());
        let mut partial: Option<PartialSnapshot> = None;
        for life in 0.. {
            let (mut receiver, ops) = match partial.take() {
                Some(partial) => (SnapshotReceiver::resume(partial, &meta, SYNC_BYTES), Vec::new()),
                None => SnapshotReceiver::begin(&meta, SYNC_BYTES),
            };
            disk.execute_all(&ops).unwrap();
            // After some crashes it is let through.
            while !receiver.is_complete() && (life > 8 || !rng.one_in(4)) {
                let from = receiver.next_offset() as usize;
                let to = bytes.len().min(from + rng.between(1, 900) as usize);
                disk.execute_all(&receiver.write(from as u64, bytes.slice(from..to)).unwrap())
                    .unwrap();
                if rng.one_in(2) {
                    disk.execute(&DiskOp::SyncDirectory { directory: "snapshots".into() }).unwrap();
                }
            }
            if receiver.is_complete() {
                let (file, ops) = receiver.finish();
                disk.execute_all(&ops).unwrap();
                assert_eq!(snapshot::verify(&mut disk, &file), Ok(meta.clone()));
                let (mut storage, _) = open(&mut disk.clone(), &Options::tiny());
                disk.execute_all(&storage.snapshot_commit(&file, &meta, &[])).unwrap();
                break;
            }
            disk = if rng.one_in(2) { disk.crash(&mut rng) } else { disk.crash(&mut KeepAll) };
            let (_, found) = open(&mut disk, &Options::tiny());
            partial = found.partial_snapshot;
            if let Some(partial) = &partial {
                assert_eq!(partial.id, meta.id);
                let here = disk.read(&partial.file, 0, partial.next_offset).unwrap();
                assert_eq!(here, bytes.slice(..partial.next_offset as usize));
                let end =
                    partial.chunks.places().last().map_or(FIRST_CHUNK_OFFSET, ChunkPlace::end);
                assert_eq!(end, partial.next_offset);
            }
        }
        let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
        assert_eq!(found.snapshot.unwrap().meta, meta);
        assert_eq!(found.partial_snapshot, None);
    }
}

#[test]
fn an_arriving_snapshot_that_covers_no_more_than_a_whole_one_is_removed_at_a_start() {
    let (meta, bytes) = arriving();
    let index = meta.position.index.0;
    for newest in [index - 1, index] {
        let mut disk = created(&Options::tiny());
        let (mut storage, _) = open(&mut disk, &Options::tiny());
        let entries: Vec<_> = (1..=index).map(|i| entry(i, meta.position.term.0, "x")).collect();
        append(&mut disk, &mut storage, &entries);
        take_snapshot(&mut disk, &mut storage, 7, position(newest, meta.position.term.0));
        let (mut receiver, ops) = SnapshotReceiver::begin(&meta, SYNC_BYTES);
        disk.execute_all(&ops).unwrap();
        disk.execute_all(&receiver.write(0, bytes.slice(..bytes.len() / 2)).unwrap()).unwrap();
        let (_, found) = open(&mut disk, &Options::tiny());
        assert_eq!(found.partial_snapshot.is_some(), newest < index);
        let left = disk.list("snapshots").unwrap();
        let partial = left.iter().filter(|info| info.file.ends_with(".partial")).count();
        assert_eq!(partial, usize::from(newest < index));
    }
}

#[test]
fn chunks_are_found_and_read_while_the_rest_is_on_its_way() {
    let (mut disk, meta, file) = written(&payloads());
    let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
    let whole = SnapshotReader::open(&mut disk, &file).unwrap();
    for seed in 0..40 {
        let mut rng = Rng::seeded(seed);
        let mut scan = ChunkScan::default();
        let mut here = 0;
        while here < bytes.len() {
            // Some of it comes again.
            let from = if rng.one_in(4) { rng.below(here as u64 + 1) as usize } else { here };
            let to = bytes.len().min(from + rng.between(1, 900) as usize);
            while scan.find(from as u64, &bytes[from..to]).is_some() {}
            here = here.max(to);
            for (place, payload) in scan.places().iter().zip(payloads()) {
                assert!(place.end() - payload.len() as u64 <= here as u64, "only what went by");
                assert_eq!(snapshot::load(&mut disk, &file, meta.id, *place).unwrap(), payload);
            }
        }
        assert!(whole.lists(scan.places()));
        assert!(!whole.lists(&scan.places()[1..]) && !whole.lists(&[]));
    }
}

/// The payloads of the chunks in bytes that go by in slices, and which of them are sound.
fn passed(id: SnapshotId, bytes: &[u8], seed: u64) -> Vec<(Vec<u8>, bool)> {
    let mut rng = Rng::seeded(seed);
    let (mut scan, mut passing, mut here) = (ChunkScan::default(), None::<PassingChunk>, 0);
    let (mut payload, mut found) = (Vec::new(), Vec::new());
    while here < bytes.len() {
        // Some of it comes again.
        let from = if rng.one_in(4) { rng.below(here as u64 + 1) as usize } else { here };
        let to = bytes.len().min(from + rng.between(1, 900) as usize);
        let (offset, slice) = (from as u64, &bytes[from..to]);
        loop {
            if let Some(passing) = &mut passing {
                payload.extend_from_slice(passing.pass(offset, slice));
            }
            if let Some(whole) = passing.take_if(|passing| passing.is_whole()) {
                found.push((std::mem::take(&mut payload), whole.is_sound()));
            }
            let Some(place) = scan.find(offset, slice) else { break };
            passing = Some(PassingChunk::new(id, place));
        }
        here = here.max(to);
    }
    found
}

#[test]
fn chunks_are_checked_as_they_go_by() {
    let (mut disk, meta, file) = written(&payloads());
    let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
    let sound: Vec<_> = payloads().into_iter().map(|payload| (payload, true)).collect();
    let are_sound = |id, bytes: &[u8], seed| {
        passed(id, bytes, seed).into_iter().map(|(_, is_sound)| is_sound).collect::<Vec<_>>()
    };
    for seed in 0..40 {
        assert_eq!(passed(meta.id, &bytes, seed), sound);
        let (first, _) = &sound[0];
        let mut damaged = bytes.to_vec();
        damaged[FIRST_CHUNK_OFFSET as usize + 24 + seed as usize % first.len()] ^= 1;
        let flags = are_sound(meta.id, &damaged, seed);
        assert!(!flags[0] && flags[1..].iter().all(|&is_sound| is_sound), "{flags:?}");
        // Of its header: magic, checksum, snapshot, number, length.
        for byte in [4, 8, 15, 16, 19] {
            let mut damaged = bytes.to_vec();
            damaged[FIRST_CHUNK_OFFSET as usize + byte] ^= 1;
            let wanted: &[bool] = if byte < 16 { &[false, true, true, true] } else { &[] };
            assert_eq!(are_sound(meta.id, &damaged, seed), wanted, "byte {byte}");
        }
        let of_another = are_sound(SnapshotId(meta.id.0 + 1), &bytes, seed);
        assert!(of_another.iter().all(|is_sound| !is_sound), "{of_another:?}");
    }
}

#[test]
fn a_chunk_that_is_not_the_one_announced_is_not_loaded() {
    let scanned = |chunks: &[Vec<u8>]| {
        let (mut disk, meta, file) = written(chunks);
        let mut scan = ChunkScan::default();
        let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
        while scan.find(0, &bytes).is_some() {}
        (disk, file, scan)
    };
    let (mut disk, file, scan) = scanned(&payloads());
    let mut others = payloads();
    others[1][3] ^= 1;
    let (_, _, other) = scanned(&others);
    let mut load = |id, place| snapshot::load(&mut disk, &file, id, place);
    assert!(load(SnapshotId(77), scan.places()[1]).is_ok());
    assert!(load(SnapshotId(78), scan.places()[1]).is_err(), "of another snapshot");
    assert!(load(SnapshotId(77), other.places()[1]).is_err(), "of other content");
    assert!(load(SnapshotId(77), other.places()[2]).is_ok());
    let damaged = scan.places()[2].end() - 1;
    disk.corrupt(&file, damaged, |byte| *byte ^= 1);
    let loaded = snapshot::load(&mut disk, &file, SnapshotId(77), scan.places()[2]);
    assert!(matches!(loaded, Err(SnapshotError::Damaged { .. })), "{loaded:?}");
}

#[test]
fn a_power_cut_costs_an_arriving_snapshot_no_more_than_a_few_megabytes() {
    const LOST_MAX: usize = 5 << 20;
    let (mut origin, meta, file) = written(&vec![vec![7; 1 << 18]; 40]);
    let bytes = origin.read(&file, 0, meta.size_bytes).unwrap();
    let mut disk = created(&Options::tiny());
    let sync_bytes = Options::default().snapshot_sync_bytes;
    let (mut receiver, ops) = SnapshotReceiver::begin(&meta, sync_bytes);
    disk.execute_all(&ops).unwrap();
    for (place, part) in bytes.chunks(1 << 18).enumerate() {
        let offset = (place << 18) as u64;
        disk.execute_all(&receiver.write(offset, Bytes::copy_from_slice(part)).unwrap()).unwrap();
    }
    let (_, found) = open(&mut disk.crash(&mut KeepSynced), &Options::tiny());
    let here = found.partial_snapshot.expect("its name is durable, too").next_offset as usize;
    assert!(here + LOST_MAX >= bytes.len(), "{here} of {}", bytes.len());
}

/// What opening hands out of snapshots.
#[derive(Default, PartialEq, Debug)]
struct Taken {
    begun: Vec<u64>,
    chunks: Vec<Vec<u8>>,
}

impl SnapshotSink for Taken {
    fn take(&mut self, disk: &mut dyn Disk, reader: &SnapshotReader) -> Result<(), SnapshotError> {
        self.begun.push(reader.meta().position.index.0);
        self.chunks.clear();
        for number in 0..reader.chunk_count() {
            self.chunks.push(reader.chunk(disk, number)?.to_vec());
        }
        Ok(())
    }
}

#[test]
fn opening_hands_out_the_newest_sound_snapshot_while_it_checks_it() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    let entries: Vec<_> = (1..=6).map(|index| entry(index, 1, "x")).collect();
    append(&mut disk, &mut storage, &entries);
    take_snapshot(&mut disk, &mut storage, 1, position(3, 1));
    let (_, newest) = take_snapshot(&mut disk, &mut storage, 2, position(5, 1));
    let taken = |disk: &mut MemDisk| {
        let mut taken = Taken::default();
        let refuse = OnDamage::Refuse;
        Storage::open_with(disk, IDENTITY, &Options::tiny(), refuse, &mut taken).unwrap();
        taken
    };
    let whole = taken(&mut disk.clone());
    assert_eq!((&whole.begun[..], whole.chunks.len()), (&[5][..], 3));
    disk.corrupt(&newest, FIRST_CHUNK_OFFSET + 100, |byte| *byte ^= 1);
    let older = taken(&mut disk);
    assert_eq!((&older.begun[..], older.chunks.len()), (&[5, 3][..], 3));
}

#[test]
fn of_several_arriving_snapshots_the_longest_is_kept() {
    let (meta, bytes) = arriving();
    let mut disk = created(&Options::tiny());
    let (mut receiver, mut ops) = SnapshotReceiver::begin(&meta, SYNC_BYTES);
    ops.extend(receiver.write(0, bytes.slice(..5000)).unwrap());
    let other = SnapshotMeta { id: SnapshotId(78), ..meta };
    ops.extend(SnapshotReceiver::begin(&other, SYNC_BYTES).1);
    disk.execute_all(&ops).unwrap();
    let (_, found) = open(&mut disk, &Options::tiny());
    let partial = found.partial_snapshot.unwrap();
    assert_eq!((partial.id, found.report.leftovers_removed), (SnapshotId(77), 1));
    disk.execute_all(&partial.discard()).unwrap();
    assert!(disk.list("snapshots").unwrap().is_empty());
}

#[test]
#[should_panic(expected = "is older than")]
fn an_older_snapshot_than_the_newest_is_not_committed() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    take_snapshot(&mut disk, &mut storage, 1, position(5, 1));
    take_snapshot(&mut disk, &mut storage, 2, position(4, 1));
}

/// Reads a file as a stream that comes in pieces of so many bytes.
fn streamed(bytes: &[u8], piece_bytes: usize) -> Result<(Vec<Bytes>, SnapshotEnd), SnapshotError> {
    let mut stream = SnapshotStream::new("backup");
    let mut chunks = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        stream.feed(piece);
        while let Some(part) = stream.next_part()? {
            if let SnapshotPart::Chunk(payload) = part {
                chunks.push(payload);
            }
        }
    }
    stream.finish().map(|end| (chunks, end))
}

#[test]
fn a_stream_cut_anywhere_is_read_as_the_file_is() {
    for chunks in [payloads(), Vec::new()] {
        let (mut disk, meta, file) = written(&chunks);
        let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
        for piece_bytes in [1, 7, 4_096, 4_097, 100_000] {
            let (read, end) = streamed(&bytes, piece_bytes).unwrap();
            assert_eq!(read, chunks);
            assert_eq!((end.header.meta, end.header.maker), (meta.clone(), IDENTITY));
            assert_eq!((&end.digest[..], end.chunks), (&b"sixteen byte sum"[..], chunks.len()));
        }
    }
}

#[test]
fn every_flipped_bit_and_every_other_length_of_a_stream_is_found() {
    let (mut disk, meta, file) = written(&payloads());
    let bytes = disk.read(&file, 0, meta.size_bytes).unwrap().to_vec();
    for offset in (0..bytes.len()).step_by(if cfg!(debug_assertions) { 3 } else { 1 }) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (offset % 8);
        let result = streamed(&damaged, 1_000);
        assert!(matches!(result, Err(SnapshotError::Damaged { .. })), "{offset}: {result:?}");
    }
    for len in (0..bytes.len()).step_by(7) {
        let result = streamed(&bytes[..len], 1_000);
        assert!(matches!(result, Err(SnapshotError::Damaged { .. })), "{len}: {result:?}");
    }
    for more in [1, 100, 10_000] {
        let longer = [&bytes[..], &vec![0; more]].concat();
        assert!(streamed(&longer, 1_000).is_err(), "{more} bytes more");
    }
    let twice = [&bytes[..], &bytes[..]].concat();
    assert!(streamed(&twice, 1_000).is_err());
}

/// The bytes of a snapshot of this id whose chunks these are.
fn bytes_of(id: u64, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut disk = created(&Options::tiny());
    let (mut writer, mut ops) =
        SnapshotWriter::begin(IDENTITY, SnapshotId(id), position(5, 2), &configuration(), None);
    for chunk in chunks {
        ops.extend(writer.chunk(chunk));
    }
    let (meta, file, rest) = writer.finish(b"digest");
    ops.extend(rest);
    disk.execute_all(&ops).unwrap();
    disk.read(&file, 0, meta.size_bytes).unwrap().to_vec()
}

#[test]
fn sound_parts_that_do_not_belong_together_are_found_where_they_meet() {
    let damage = |bytes: &[u8]| match streamed(bytes, 512) {
        Err(SnapshotError::Damaged { offset, why, .. }) => (offset, why),
        other => panic!("{other:?}"),
    };
    let chunks = [vec![1; 100], vec![2; 100]];
    let (ours, theirs) = (bytes_of(1, &chunks), bytes_of(2, &chunks));
    let first = FIRST_CHUNK_OFFSET as usize;
    let (second, footer) = (first + 124, first + 248);
    let another = "another chunk is here";

    let swapped = [&ours[..first], &ours[second..footer], &ours[first..second], &ours[footer..]];
    assert_eq!(damage(&swapped.concat()), (first as u64, another));
    let foreign = [&ours[..second], &theirs[second..]].concat();
    assert_eq!(damage(&foreign), (second as u64, another));
    let twice = [&ours[..footer], &ours[second..]].concat();
    assert_eq!(damage(&twice), (footer as u64, another));
    let missing = [&ours[..second], &ours[footer..]].concat();
    assert_eq!(damage(&missing), (second as u64, "chunks are missing or too many"));
    let (empty, other) = (bytes_of(1, &[]), bytes_of(2, &[]));
    let mixed = [&empty[..first], &other[first..]].concat();
    assert_eq!(damage(&mixed), (first as u64, "header and footer disagree"));
}

#[test]
fn a_stream_that_does_not_end_is_not_held() {
    let (mut disk, meta, file) = written(&payloads());
    let bytes = disk.read(&file, 0, meta.size_bytes).unwrap();
    let mut stream = SnapshotStream::new("backup");
    stream.feed(&bytes);
    while stream.next_part().unwrap().is_some() {}
    let refused = (0..10).find(|_| {
        stream.feed(&[0; 1_000]);
        stream.next_part().is_err()
    });
    assert!(refused.is_some(), "ten thousand bytes after the footer, and they are still held");
}

#[test]
fn a_snapshot_in_use_outlives_the_number_kept_until_it_is_not() {
    let mut disk = created(&Options::tiny());
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    let take = |disk: &mut MemDisk, storage: &mut Storage, id: u64, in_use: &[SnapshotId]| {
        let (meta, file) = write_snapshot(disk, id, position(id, 0));
        disk.execute_all(&storage.snapshot_commit(&file, &meta, in_use)).unwrap();
        storage.snapshot_committed();
    };
    for id in 1..=5 {
        take(&mut disk, &mut storage, id, &[SnapshotId(1)]);
    }
    assert_eq!(ids(&storage), [5, 4, 3, 1], "two are kept, one for the next, and one is in use");
    let (mut storage, _) = open(&mut disk, &Options::tiny());
    assert_eq!(ids(&storage), [5, 4, 3, 1], "a start finds them all");
    take(&mut disk, &mut storage, 6, &[]);
    assert_eq!(ids(&storage), [6, 5, 4]);
    let files = disk.files().filter(|(name, _)| name.contains(".snap")).count();
    assert_eq!(files, 3);
}
