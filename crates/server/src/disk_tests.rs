use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::error::ServerError;
use crate::testing::TempDir;

fn name(text: &str) -> FileName {
    text.into()
}

fn create(file: &str, zero_bytes: u64) -> DiskOp {
    DiskOp::Create { file: name(file), zero_bytes }
}

fn write(file: &str, offset: u64, bytes: &'static [u8]) -> DiskOp {
    DiskOp::Write { file: name(file), offset, bytes: Bytes::from_static(bytes) }
}

fn sync(file: &str) -> DiskOp {
    DiskOp::Sync { file: name(file) }
}

#[test]
fn what_is_written_is_read_and_zeros_are_really_there() {
    let dir = TempDir::new("disk");
    let mut disk = RealDisk::new(dir.path());
    let long = ZEROS_BYTES as u64 + 10;
    disk.execute(&DiskOp::CreateDirectory { directory: name("wal") }).unwrap();
    disk.execute(&create("wal/1", long)).unwrap();
    disk.execute_all(&[write("wal/1", 3, b"abc"), sync("wal/1")]).unwrap();
    disk.execute(&DiskOp::SyncDirectory { directory: name("wal") }).unwrap();
    assert_eq!(&disk.read("wal/1", 2, 5).unwrap()[..], b"\0abc\0");
    assert_eq!(disk.len_bytes("wal/1"), Ok(Some(long)));
    let blocks = fs::metadata(dir.path().join("wal/1")).unwrap().blocks();
    assert!(blocks * 512 >= long, "a hole of {long} bytes: {blocks} blocks");
}

#[test]
fn a_reserve_grows_and_shrinks_and_has_the_room_that_its_length_says() {
    let dir = TempDir::new("disk-reserve");
    let mut disk = RealDisk::new(dir.path());
    for len_bytes in [100_000, 1 << 20, 50_000, 50_000, 200_000] {
        disk.execute(&DiskOp::Reserve { file: name("reserve"), len_bytes }).unwrap();
        let metadata = fs::metadata(dir.path().join("reserve")).unwrap();
        assert_eq!(metadata.len(), len_bytes);
        assert!(metadata.blocks() * 512 >= len_bytes, "a hole: {} blocks", metadata.blocks());
    }
}

#[test]
fn there_is_no_room_for_a_file_longer_than_the_file_system_has_any() {
    let dir = TempDir::new("disk");
    let mut disk = RealDisk::new(dir.path());
    let reserve = DiskOp::Reserve { file: name("long"), len_bytes: 1 << 61 };
    assert_eq!(disk.execute(&reserve), Err(DiskError::NoSpace(name("long"))));
    assert_eq!(disk.len_bytes("long").unwrap(), None);
}

#[test]
fn zeros_are_written_to_what_is_new_and_nowhere_else() {
    let dir = TempDir::new("disk-zeros");
    let path = dir.path().join("f");
    fs::write(&path, b"abc").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let end = ZEROS_BYTES as u64 + 5;
    let write = |zeros: &[u8], at| file.write_all_at(zeros, at);
    write_zeros(3, end, write).unwrap();
    write_zeros(end, 2, write).unwrap();
    write_zeros(end, end, write).unwrap();
    let there = fs::read(&path).unwrap();
    assert_eq!((there.len() as u64, &there[..3]), (end, &b"abc"[..]));
    assert!(there[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_read_is_short_only_where_the_file_ends() {
    let dir = TempDir::new("disk-read");
    let mut disk = RealDisk::new(dir.path());
    disk.execute_all(&[create("f", 0), write("f", 0, b"abcdef")]).unwrap();
    assert_eq!(&disk.read("f", 4, 100).unwrap()[..], b"ef");
    assert_eq!(&disk.read("f", 100, u64::MAX).unwrap()[..], b"");
    assert_eq!(disk.read("g", 0, 1), Err(DiskError::NotFound(name("g"))));
}

#[test]
fn a_listing_is_sorted_and_names_files_from_the_root() {
    let dir = TempDir::new("disk-list");
    let mut disk = RealDisk::new(dir.path());
    disk.execute(&DiskOp::CreateDirectory { directory: name("wal") }).unwrap();
    disk.execute_all(&[create("wal/b", 2), create("wal/a", 1), create("top", 3)]).unwrap();
    let info = |file, len_bytes| FileInfo { file: name(file), len_bytes };
    assert_eq!(disk.list("wal"), Ok(vec![info("wal/a", 1), info("wal/b", 2)]));
    assert_eq!(disk.list(""), Ok(vec![info("top", 3)]));
    assert_eq!(disk.list("nowhere"), Ok(vec![]));
}

#[test]
fn a_renamed_file_takes_its_writes_along_and_replaces_the_target() {
    let dir = TempDir::new("disk-rename");
    let mut disk = RealDisk::new(dir.path());
    disk.execute_all(&[create("a", 0), create("b", 0), write("b", 0, b"old")]).unwrap();
    let rename = DiskOp::Rename { from: name("a"), to: name("b") };
    disk.execute_all(&[write("a", 0, b"new"), rename, write("b", 3, b"er"), sync("b")]).unwrap();
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"newer");
    assert_eq!(disk.execute(&write("a", 0, b"x")), Err(DiskError::NotFound(name("a"))));
}

#[test]
fn the_other_lane_writes_to_the_new_file_of_a_reused_name() {
    let dir = TempDir::new("disk-lanes");
    let mut log = RealDisk::new(dir.path());
    let mut background = log.clone();
    log.execute_all(&[create("s", 0), write("s", 0, b"one"), sync("s")]).unwrap();
    let spare = DiskOp::Rename { from: name("s"), to: name("spare") };
    background.execute_all(&[spare, create("s", 0)]).unwrap();
    log.execute_all(&[write("s", 0, b"two"), sync("s")]).unwrap();
    assert_eq!(fs::read(dir.path().join("s")).unwrap(), b"two");
    assert_eq!(fs::read(dir.path().join("spare")).unwrap(), b"one");
}

#[test]
fn a_file_is_written_over_under_its_new_name() {
    let dir = TempDir::new("disk-reuse");
    let mut disk = RealDisk::new(dir.path());
    let inode = |file: &str| fs::metadata(dir.path().join(file)).unwrap().ino();
    disk.execute_all(&[create("old", 0), write("old", 0, b"longer than new")]).unwrap();
    let old = inode("old");
    let reuse = DiskOp::Reuse { from: name("old"), to: name("new") };
    let truncate = DiskOp::Truncate { file: name("new"), len_bytes: 3 };
    disk.execute_all(&[reuse.clone(), write("new", 0, b"new"), truncate]).unwrap();
    assert!(disk.handle(&name("new")).unwrap().grown.load(Ordering::Relaxed), "a full sync is due");
    disk.execute_all(&[sync("new"), reuse]).unwrap();
    assert_eq!((inode("new"), fs::read(dir.path().join("new")).unwrap()), (old, b"new".to_vec()));
    assert_eq!(disk.len_bytes("old"), Ok(None));
    disk.execute(&DiskOp::Reuse { from: name("old"), to: name("other") }).unwrap();
    assert_eq!(disk.len_bytes("other"), Ok(Some(0)), "of nothing an empty file is made");
}

#[test]
fn a_file_that_somebody_reads_is_not_written_over() {
    let dir = TempDir::new("disk-reuse-read");
    let mut disk = RealDisk::new(dir.path());
    disk.execute_all(&[create("old", 0), write("old", 0, b"old")]).unwrap();
    let reader = release::open_to_read(&dir.path().join("old")).unwrap();
    let reuse = DiskOp::Reuse { from: name("old"), to: name("new") };
    disk.execute_all(&[reuse, write("new", 0, b"new"), sync("new")]).unwrap();
    let mut there = [0; 3];
    reader.read_exact_at(&mut there, 0).unwrap();
    assert_eq!((&there, reader.metadata().unwrap().nlink()), (b"old", 0));
    assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"new");
    assert_eq!(disk.len_bytes("old"), Ok(None));
}

#[test]
fn a_snapshot_that_has_lost_its_name_is_not_read() {
    let dir = TempDir::new("disk-nameless");
    let mut disk = RealDisk::new(dir.path());
    disk.execute_all(&[create("a.snap", 0), write("a.snap", 0, b"a")]).unwrap();
    assert_eq!(&disk.read("a.snap", 0, 1).unwrap()[..], b"a");
    let mut locked = RealDisk::read_only(dir.path());
    assert_eq!(&locked.read("a.snap", 0, 1).unwrap()[..], b"a");
    // As if another thread took it between this one's look at the table and its read.
    fs::rename(dir.path().join("a.snap"), dir.path().join("b.snap.tmp")).unwrap();
    assert_eq!(disk.read("a.snap", 0, 1), Err(DiskError::NotFound(name("a.snap"))));
    assert_eq!(&locked.read("a.snap", 0, 1).unwrap()[..], b"a", "its bytes stay");
}

#[test]
fn a_snapshot_goes_to_peers_from_the_cache_until_somebody_doubts_it() {
    let dir = TempDir::new("disk-from-cache");
    let mut disk = RealDisk::new(dir.path());
    let rename = |from, to| DiskOp::Rename { from: name(from), to: name(to) };
    let bytes: &'static [u8] = vec![7; 200_000].leak();
    for op in [create("a.snap.tmp", 0), write("a.snap.tmp", 0, bytes), sync("a.snap.tmp")] {
        disk.execute(&op).unwrap();
    }
    disk.execute(&rename("a.snap.tmp", "a.snap")).unwrap();
    let is_given_up = || disk.handle(&name("a.snap")).unwrap().cached.is_given_up();
    assert!(!is_given_up());
    let mut for_peers = disk.clone().for_peers();
    let mut doubting = disk.clone().past_cache();
    assert_eq!(for_peers.read("a.snap", 0, 200_000).unwrap(), bytes);
    assert_eq!(doubting.read("a.snap", 0, 200_000).unwrap(), bytes);
    assert!(is_given_up());
    assert_eq!(for_peers.read("a.snap", 1, 199_999).unwrap(), bytes[1..]);
    // Another snapshot in the same file.
    for_peers.execute(&rename("a.snap", "b.snap.tmp")).unwrap();
    for_peers.execute(&rename("b.snap.tmp", "a.snap")).unwrap();
    assert!(!is_given_up());
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let dir = TempDir::new("disk-remove");
    let mut disk = RealDisk::new(dir.path());
    let remove = DiskOp::Remove { file: name("f") };
    disk.execute_all(&[create("f", 1), remove.clone(), remove]).unwrap();
    assert_eq!(disk.len_bytes("f"), Ok(None));
}

#[test]
fn a_full_sync_follows_growth_and_only_growth() {
    let dir = TempDir::new("disk-grown");
    let mut disk = RealDisk::new(dir.path());
    let grown = |disk: &RealDisk| disk.handle(&name("f")).unwrap().grown.load(Ordering::Relaxed);
    disk.execute_all(&[create("f", 8), sync("f")]).unwrap();
    assert!(!grown(&disk), "the sync after the creation made its length durable");
    disk.execute(&write("f", 4, b"1234")).unwrap();
    assert!(!grown(&disk), "a write within the file changes no metadata");
    disk.execute(&write("f", 5, b"1234")).unwrap();
    assert!(grown(&disk));
}

#[test]
fn few_files_stay_open_but_all_with_unsynced_writes() {
    let dir = TempDir::new("disk-handles");
    let mut disk = RealDisk::new(dir.path());
    disk.execute(&create("dirty", 0)).unwrap();
    for i in 0..3 * HANDLES_MAX {
        let file = format!("f{i}");
        disk.execute_all(&[create(&file, 0), sync(&file)]).unwrap();
    }
    let handles = &disk.table().open;
    assert!(handles.len() <= HANDLES_MAX + 1, "{} files open", handles.len());
    assert!(handles.contains_key(&name("dirty")));
}

/// `/dev/full` answers every write with "no space"; it cannot be synced either.
#[test]
fn a_full_device_is_no_space_and_a_failed_sync_is_final_for_all_lanes() {
    let dir = TempDir::new("disk-full");
    let mut disk = RealDisk::new(dir.path());
    std::os::unix::fs::symlink("/dev/full", dir.path().join("full")).unwrap();
    let mut other = disk.clone();
    assert_eq!(disk.execute(&write("full", 0, b"x")), Err(DiskError::NoSpace(name("full"))));
    let failed = disk.execute(&sync("full"));
    assert!(matches!(&failed, Err(DiskError::Io(file, _)) if **file == *"full"), "{failed:?}");
    assert_eq!(other.execute(&create("f", 0)), failed, "whichever is heard first names the file");
    assert_eq!(other.execute(&sync("full")), failed);
}

#[test]
fn what_is_written_to_a_file_made_anew_is_in_it_whoever_reads_it_meanwhile() {
    let dir = TempDir::new("disk-anew");
    let mut disk = RealDisk::new(dir.path());
    let (mut other, file): (_, FileName) = (disk.clone(), "f".into());
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                _ = other.read("f", 0, 8);
            }
        });
        // Whatever comes of it, the reader ends.
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..5_000_u64 {
                let bytes = Bytes::copy_from_slice(&round.to_le_bytes());
                disk.execute(&DiskOp::Reserve { file: file.clone(), len_bytes: 8 }).unwrap();
                disk.execute(&DiskOp::Write { file: file.clone(), offset: 0, bytes }).unwrap();
                let there = fs::read(dir.path().join("f")).unwrap();
                assert_eq!(there, round.to_le_bytes(), "round {round}");
                disk.execute(&DiskOp::Remove { file: file.clone() }).unwrap();
            }
        }));
        ends.store(true, Ordering::Relaxed);
        rounds.unwrap();
    });
}

#[test]
fn a_limit_of_open_files_is_no_fault_of_the_disk() {
    for errno in [Errno::MFILE, Errno::NFILE] {
        let error = disk_error(&name("wal/1.log"), &errno.into());
        let end = ServerError::of_disk(&error, error.to_string());
        assert_eq!(end.exit_code(), 1, "{end}");
        assert!(end.to_string().contains("wal/1.log: Too many open files"), "{end}");
    }
    let error = disk_error(&name("wal/1.log"), &Errno::IO.into());
    assert_eq!(ServerError::of_disk(&error, error.to_string()).exit_code(), 6);
}

#[test]
fn what_the_system_refuses_is_no_damage() {
    for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOMEM] {
        let error = disk_error(&name("identity"), &errno.into());
        assert!(matches!(error, DiskError::Refused(..)), "{error:?}");
        let end = ServerError::of_disk(&error, error.to_string());
        assert_eq!(end.exit_code(), 6, "{end}");
        assert!(end.to_string().starts_with("disk failed: identity: "), "{end}");
    }
    assert!(matches!(disk_error(&name("identity"), &Errno::IO.into()), DiskError::Io(..)));
}
