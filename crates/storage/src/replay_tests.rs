//! Batches that this program never writes, though each is sound in itself: refused.

use sampan_base::disk::{Disk, DiskOp};
use sampan_base::{ClusterId, Entry, EntryKind, LogIndex, LogPosition, NodeId, Term};

use crate::batch::{Change, Link, encode};
use crate::segment::{FIRST_BATCH_OFFSET, SegmentHeader, file_name};
use crate::testing::MemDisk;
use crate::{Damage, DamageReason, Identity, OpenError, Options, PAGE_BYTES, Storage};

const IDENTITY: Identity = Identity { cluster: ClusterId(5), node: NodeId::of(1) };

/// Opens a node whose log has these batches: where each starts anew, and the index of its one
/// entry.
fn open_with(batches: &[(Option<u64>, u64)]) -> Result<Vec<u64>, OpenError> {
    let mut disk = MemDisk::new();
    Storage::create(&mut disk, IDENTITY, &Options::tiny())?;
    let page = disk.read(&file_name(1), 0, PAGE_BYTES)?;
    let salt = SegmentHeader::decode(&page).unwrap().salt();
    let mut link = Link { sequence: 1, chain: 0 };
    let mut offset = FIRST_BATCH_OFFSET;
    for &(reset, index) in batches {
        let (term, index) = (Term::ZERO, LogIndex(index));
        let entries = [Entry { term, index, kind: EntryKind::Noop, data: "".into() }];
        let reset = reset.map(|index| LogPosition { term, index: LogIndex(index) });
        let change = Change { reset, first_index: index, entries: &entries };
        let (bytes, chain) = encode(salt, offset, link, &change);
        disk.execute(&DiskOp::Write { file: file_name(1), offset, bytes })?;
        link = Link { sequence: link.sequence + 1, chain };
        offset += PAGE_BYTES;
    }
    let (_, found) = Storage::open(&mut disk, IDENTITY, &Options::tiny())?;
    Ok(found.entries.iter().map(|entry| entry.index.0).collect())
}

fn damage(batches: &[(Option<u64>, u64)]) -> Damage {
    match open_with(batches) {
        Err(OpenError::DamagedLog(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

fn reason(batches: &[(Option<u64>, u64)]) -> DamageReason {
    damage(batches).reason
}

#[test]
fn a_batch_may_follow_or_replace_and_nothing_else() {
    assert_eq!(open_with(&[(None, 1), (None, 2), (None, 3)]), Ok(vec![1, 2, 3]));
    assert_eq!(open_with(&[(None, 1), (None, 2), (None, 1)]), Ok(vec![1]));
    assert_eq!(reason(&[(None, 1), (None, 3)]), DamageReason::Inconsistent);
    assert_eq!(reason(&[(None, 2)]), DamageReason::Inconsistent);
    // At or below what the log started anew after.
    assert_eq!(reason(&[(None, 1), (Some(4), 5), (None, 4)]), DamageReason::Inconsistent);
}

#[test]
fn a_log_that_starts_anew_after_a_snapshot_that_is_not_there_is_damaged() {
    let damage = damage(&[(None, 1), (Some(4), 5)]);
    assert_eq!(damage.reason, DamageReason::Gap { log_from: LogIndex(4) });
    let what = "no whole snapshot reaches index 4, where the log begins";
    assert_eq!(damage.to_string(), format!("{}: {what}", damage.segment));
}
