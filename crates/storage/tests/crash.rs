//! Crashes at any step, keeping any subset of what was not synced: what was synced is found, and
//! nothing is invented.
#![allow(clippy::unwrap_used)]

mod common;

use common::Host;
use sampan_base::disk::{Disk, DiskOp};
use sampan_base::{HardState, Rng, Term};
use sampan_storage::testing::{KeepAll, KeepSynced, MemDisk, Odometer};
use sampan_storage::{OpenError, Options, PAGE_BYTES, Storage};

#[test]
fn any_history_and_any_crash_leaves_what_was_synced() {
    let (mut crashes, mut torn, mut superseded, mut copied) = (0, 0, 0, 0);
    for seed in 0..seeds(300) {
        let mut host = Host::new(seed, tiny(seed));
        for _ in 0..6 {
            for _ in 0..host.rng.below(150) {
                host.step();
            }
            host.crash();
        }
        crashes += host.crashes;
        torn += host.torn;
        superseded += host.superseded;
        copied += host.copied;
    }
    println!("{crashes} crashes: {torn} torn tails, {superseded} logs superseded, {copied} copies");
    assert!(torn > 20 && superseded > 5 && copied > 50, "{torn} {superseded} {copied}");
}

#[test]
fn a_crash_in_a_file_that_was_another_segment_leaves_what_was_synced() {
    let (mut recycled, mut torn) = (0, 0);
    for seed in 0..seeds(60) {
        let mut host = Host::new(seed, tiny(seed));
        for _ in 0..3 {
            while !host.is_in_recycled() {
                host.step();
            }
            for _ in 0..host.rng.below(30) {
                host.step();
            }
            host.crash();
        }
        recycled += host.recycled;
        torn += host.torn;
    }
    println!("{recycled} restarts with such a segment, {torn} torn tails");
    assert!(recycled > 100 && torn > 0, "{recycled} {torn}");
}

#[test]
fn a_clean_stop_loses_nothing_and_a_killed_process_neither() {
    for seed in 0..seeds(20) {
        let mut host = Host::new(seed, Options::tiny());
        for _ in 0..200 {
            host.step();
        }
        host.drain();
        let disk = host.disk.crash(&mut KeepSynced);
        host.restart_on(disk, false);
        for _ in 0..200 {
            host.step();
        }
        let disk = host.disk.crash(&mut KeepAll);
        host.restart_on(disk, false);
    }
}

#[test]
fn a_sync_that_fails_once_and_then_succeeds_does_not_make_lost_bytes_count() {
    for seed in 0..seeds(60) {
        let mut host = Host::new(seed, Options::tiny());
        for _ in 0..4 {
            for _ in 0..host.rng.below(80) {
                host.step();
            }
            host.fail_sync();
        }
        assert!(host.crashes == 4);
    }
}

#[test]
fn a_node_that_rejoins_after_damage_goes_on_with_what_it_had_and_keeps_what_it_gets() {
    let mut faulty = 0;
    for seed in 0..seeds(100) {
        let mut host = Host::new(seed, Options::tiny());
        for _ in 0..4 {
            for _ in 0..host.rng.below(120) {
                host.step();
            }
            faulty += u64::from(host.rejoin_after_damage());
            for _ in 0..host.rng.below(60) {
                host.step();
            }
            host.crash();
        }
    }
    println!("{faulty} times part of the log was given up");
    assert!(faulty > 60, "{faulty}");
}

/// Every other start with a segment that is too short for most batches.
fn tiny(seed: u64) -> Options {
    let first_room_bytes = if seed.is_multiple_of(2) { PAGE_BYTES } else { 4 * PAGE_BYTES };
    Options { first_room_bytes, ..Options::tiny() }
}

/// How much more in release builds.
fn seeds(debug: u64) -> u64 {
    if cfg!(debug_assertions) { debug } else { debug * 20 }
}

#[test]
fn every_subset_of_the_unsynced_sectors_of_a_batch_is_a_torn_tail_or_the_batch() {
    let options = Options::tiny();
    let mut disk = common::created(&options);
    let (mut storage, _) = common::open(&mut disk, &options);
    common::append(&mut disk, &mut storage, &[common::entry(1, 1, "first")]);
    // Ten sectors in two pages.
    let batch = [common::entry(2, 1, vec![0; 2000]), common::entry(3, 1, vec![7; 2900])];
    let ops = storage.append(None, None, &batch);
    disk.execute(&ops[0]).unwrap();
    let mut subsets = Odometer::default();
    let (mut whole, mut torn) = (0, 0);
    loop {
        let mut after = disk.crash(&mut subsets);
        let (_, found) = common::open(&mut after, &options);
        match found.entries.len() {
            1 => torn += 1,
            3 => whole += 1,
            n => panic!("{n} entries"),
        }
        if !subsets.advance() {
            break;
        }
    }
    assert_eq!((whole, torn), (1, (1 << 10) - 1));
}

#[test]
fn every_subset_of_a_batch_over_an_earlier_life_is_a_torn_tail_or_the_batch_or_nothing() {
    let options = Options::tiny();
    let (mut disk, mut storage, _) = common::recycled(&options);
    for directory in ["wal", "snapshots"] {
        disk.execute(&DiskOp::SyncDirectory { directory: directory.into() }).unwrap();
    }
    let entries = common::open(&mut disk.clone(), &options).1.entries.len();
    // Five sectors and three of padding.
    let index = storage.last_index().0 + 1;
    let ops = storage.append(None, None, &[common::entry(index, 1, vec![7; 2200])]);
    disk.execute(&ops[0]).unwrap();
    let mut subsets = Odometer::default();
    let (mut whole, mut torn, mut nothing) = (0, 0, 0);
    loop {
        let (_, found) = common::open(&mut disk.crash(&mut subsets), &options);
        match (found.entries.len() - entries, found.report.torn_tail) {
            (1, None) => whole += 1,
            (0, Some(_)) => torn += 1,
            (0, None) => nothing += 1,
            other => panic!("{other:?}"),
        }
        if !subsets.advance() {
            break;
        }
    }
    // The padding is of no account.
    assert_eq!((whole, torn, nothing), (8, 30 * 8, 8));
}

#[test]
fn creation_can_be_cut_at_every_step_and_done_again() {
    let options = Options::tiny();
    let mut rng = Rng::seeded(3);
    let mut finished = 0;
    for steps_left in 0.. {
        let mut disk = MemDisk::new();
        disk.steps_left = Some(steps_left);
        let result = Storage::create(&mut disk, common::IDENTITY, &options);
        disk.steps_left = None;
        for _ in 0..30 {
            let mut after = disk.crash(&mut rng);
            if Storage::exists(&mut after).unwrap() {
                finished += 1;
            } else {
                assert!(result.is_err(), "created and gone");
                Storage::create(&mut after, common::IDENTITY, &options).unwrap();
            }
            let (_, found) = common::open(&mut after, &options);
            assert_eq!((found.entries.len(), found.hard_state.term), (0, Term::ZERO));
        }
        if result.is_ok() {
            break;
        }
    }
    assert!(finished > 30, "{finished}");
}

#[test]
fn a_hard_state_cut_at_every_step_is_the_old_or_the_new_one() {
    let options = Options::tiny();
    let mut disk = common::created(&options);
    let (mut storage, _) = common::open(&mut disk, &options);
    let new = HardState { term: Term(7), vote: sampan_base::NodeId::new(2) };
    let ops = storage.append(Some(new), None, &[]);
    for done in 0..=ops.len() {
        let mut disk = disk.clone();
        disk.execute_all(&ops[..done]).unwrap();
        let mut subsets = Odometer::default();
        loop {
            let mut after = disk.crash(&mut subsets);
            let (_, found) = common::open(&mut after, &options);
            assert!(found.hard_state == new || (done < ops.len() && found.hard_state.term.0 == 0));
            if !subsets.advance() {
                break;
            }
        }
    }
}

#[test]
fn opening_without_room_says_so_and_works_when_there_is_room() {
    let options = Options::tiny();
    let mut disk = common::created(&options);
    let (mut storage, _) = common::open(&mut disk, &options);
    common::append(&mut disk, &mut storage, &[common::entry(1, 1, "first")]);
    disk.capacity_bytes = Some(0);
    let error = Storage::open(&mut disk, common::IDENTITY, &options).unwrap_err();
    assert!(matches!(error, OpenError::Disk(_)), "{error}");
    disk.capacity_bytes = None;
    let (_, found) = common::open(&mut disk, &options);
    assert_eq!(common::brief(&found.entries), [(1, 1, 5)]);
}
