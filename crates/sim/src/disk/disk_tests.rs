//! What the simulated disk promises, and what it does not.

use super::*;

fn name(file: &str) -> FileName {
    Arc::from(file)
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

fn sync_directory(directory: &str) -> DiskOp {
    DiskOp::SyncDirectory { directory: name(directory) }
}

fn rename(from: &str, to: &str) -> DiskOp {
    DiskOp::Rename { from: name(from), to: name(to) }
}

fn disk(ops: &[DiskOp]) -> SimDisk {
    let mut disk = SimDisk::new(Rng::seeded(1));
    disk.execute_all(ops).unwrap();
    disk
}

fn files(disk: &SimDisk) -> Vec<String> {
    disk.files().map(ToString::to_string).collect()
}

#[test]
fn a_name_is_durable_after_a_sync_of_its_directory_and_not_before() {
    let mut disk = disk(&[create("wal/a", 0), write("wal/a", 0, b"x"), sync("wal/a")]);
    assert!(files(&disk.after_power_loss(Survival::None)).is_empty());
    disk.execute(&sync_directory("")).unwrap();
    assert!(files(&disk.after_power_loss(Survival::None)).is_empty(), "another directory");
    disk.execute(&sync_directory("wal")).unwrap();
    let mut after = disk.after_power_loss(Survival::None);
    assert_eq!(after.read("wal/a", 0, 9).unwrap(), &b"x"[..]);
    assert!(after.is_durable());
}

#[test]
fn the_power_can_go_in_the_middle_of_a_write_and_before_a_name_is_synced() {
    let mut disk = disk(&[create("wal/a", 0), sync_directory("wal")]);
    disk.arm(Mishap::PowerFails { names: false }, FileClass::Log);
    disk.execute(&rename("wal/a", "wal/b")).unwrap();
    assert!(!disk.has_failed(), "that was no write");
    disk.execute(&write("wal/b", 0, &[1; 4_096])).unwrap_err();
    assert!(disk.has_failed() && disk.counts.torn == 1 && disk.counts.write_errors == 0);
    disk.execute(&sync("wal/b")).unwrap_err();
    disk.lose_power(Survival::None);
    assert_eq!((files(&disk), disk.counts.names_lost), (vec!["wal/a".into()], 1));
    disk.arm(Mishap::PowerFails { names: true }, FileClass::Any);
    disk.execute(&rename("wal/a", "wal/b")).unwrap();
    disk.execute(&sync_directory("wal")).unwrap_err();
    assert!(disk.has_failed());
}

#[test]
fn a_rename_is_done_or_not_and_never_half() {
    let mut disk = disk(&[
        create("s/old", 0),
        write("s/old", 0, b"old"),
        create("s/tmp", 0),
        write("s/tmp", 0, b"new"),
        sync("s/old"),
        sync("s/tmp"),
        sync_directory("s"),
        rename("s/tmp", "s/old"),
    ]);
    assert_eq!(files(&disk), ["s/old"]);
    let mut seen = [false, false];
    for _ in 0..40 {
        let mut after = disk.after_power_loss(Survival::Some { permille: 500 });
        disk.rng.next_u64();
        let done = files(&after) == ["s/old"];
        let want: &[u8] = if done { b"new" } else { b"old" };
        assert_eq!(after.read("s/old", 0, 9).unwrap(), want);
        assert!(done || files(&after) == ["s/old", "s/tmp"]);
        seen[usize::from(done)] = true;
    }
    assert_eq!(seen, [true, true]);
}

#[test]
fn a_file_whose_name_survives_without_its_bytes_is_empty() {
    let disk = disk(&[create("a", 0), write("a", 0, b"bytes"), sync_directory("")]);
    let mut after = disk.after_power_loss(Survival::None);
    assert_eq!(after.len_bytes("a"), Ok(Some(0)));
}

#[test]
fn removed_and_replaced_files_are_freed_once_that_is_durable() {
    let mut disk = SimDisk::new(Rng::seeded(1));
    for _ in 0..100 {
        disk.execute_all(&[
            create("t", 4_096),
            rename("t", "f"),
            DiskOp::Remove { file: name("f") },
            DiskOp::Remove { file: name("f") },
            sync_directory(""),
        ])
        .unwrap();
    }
    assert!(files(&disk).is_empty());
    assert_eq!(disk.inodes.len(), 1);
}

#[test]
fn listing_shows_the_files_of_one_directory() {
    let mut disk = disk(&[create("b", 5), create("a", 0), create("d/c", 7)]);
    let list = |disk: &mut SimDisk, directory| {
        let infos = disk.list(directory).unwrap();
        infos.iter().map(|info| format!("{} {}", info.file, info.len_bytes)).collect::<Vec<_>>()
    };
    assert_eq!(list(&mut disk, ""), ["a 0", "b 5"]);
    assert_eq!(list(&mut disk, "d"), ["d/c 7"]);
    assert!(list(&mut disk, "none").is_empty());
}

#[test]
fn a_sync_fails_once_and_then_succeeds_over_dropped_pages() {
    let mut disk = disk(&[create("wal/a", 4_096), sync("wal/a"), sync_directory("wal")]);
    disk.arm(Mishap::SyncFails { drop_pages: true }, FileClass::Log);
    disk.execute(&write("wal/a", 0, b"lost")).unwrap();
    assert!(disk.execute(&sync("wal/a")).is_err());
    assert!(disk.execute(&sync("wal/a")).is_ok());
    assert_eq!(disk.read("wal/a", 0, 4).unwrap(), &b"lost"[..], "the page cache still has it");
    assert_eq!(disk.after_power_loss(Survival::All).read("wal/a", 0, 4).unwrap(), &[0; 4][..]);
    assert_eq!((disk.counts.sync_errors, disk.counts.sectors_dropped), (1, 1));
}

#[test]
fn mishaps_strike_once_and_only_the_files_they_are_meant_for() {
    let mut disk = disk(&[create("wal/a", 0), create("hard_state.a", 0)]);
    disk.arm(Mishap::WriteFails, FileClass::HardState);
    disk.arm(Mishap::ReadFails, FileClass::Log);
    assert!(disk.execute(&write("wal/a", 0, b"x")).is_ok());
    assert!(disk.execute(&write("hard_state.a", 0, b"x")).is_err());
    assert!(disk.execute(&write("hard_state.a", 0, b"x")).is_ok());
    assert!(disk.read("hard_state.a", 0, 1).is_ok());
    assert!(disk.read("wal/a", 0, 1).is_err());
    assert!(disk.read("wal/a", 0, 1).is_ok());
}

#[test]
fn a_full_disk_refuses_new_room_and_writes_into_old_room() {
    let mut disk = disk(&[create("a", 4_096)]);
    disk.full = true;
    assert!(matches!(disk.execute(&create("b", 1)), Err(DiskError::NoSpace(_))));
    assert!(disk.execute(&write("a", 0, b"fits")).is_ok());
    assert!(matches!(disk.execute(&write("a", 4_095, b"ab")), Err(DiskError::NoSpace(_))));
    disk.heal();
    assert!(disk.execute(&create("b", 1)).is_ok());
}

#[test]
fn a_misdirected_write_is_elsewhere_in_its_file() {
    let mut disk = disk(&[create("wal/a", 16 * PAGE_BYTES)]);
    disk.arm(Mishap::WriteMisdirected, FileClass::Log);
    disk.execute(&write("wal/a", 0, b"astray")).unwrap();
    let found: Vec<u64> = (0..16)
        .filter(|page| disk.read("wal/a", page * PAGE_BYTES, 6).unwrap() == b"astray"[..])
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found != [0], disk.damaged);
}

#[test]
fn a_flipped_bit_is_one_bit() {
    let mut disk = disk(&[create("wal/a", 8_192), write("wal/a", 0, &[0; 4_096]), sync("wal/a")]);
    assert!(!disk.flip_bit(FileClass::Snapshots), "no such file");
    assert!(disk.flip_bit(FileClass::Log));
    let ones: u32 = disk.read("wal/a", 0, 8_192).unwrap().iter().map(|b| b.count_ones()).sum();
    assert_eq!(ones, 1);
}

#[test]
fn the_power_can_go_during_a_start() {
    let mut disk = disk(&[create("a", 0)]);
    disk.fail_after(1);
    assert!(disk.execute(&write("a", 0, b"x")).is_ok());
    assert!(disk.execute(&sync("a")).is_err());
    assert!(disk.has_failed());
    disk.lose_power(Survival::None);
    assert!(disk.execute(&create("a", 0)).is_ok());
}
