//! Tests of the batch's encoding: what is bound, and that no bytes upset the decoder.

use bytes::Bytes;
use sampan_base::{Entry, EntryKind, LogIndex, LogPosition, Rng, Term};

use super::{Batch, BatchFault, Change, Link, decode, encode};
use crate::sector::SECTOR_BYTES;

const SALT: u32 = 0xfeed;
const LINK: Link = Link { sequence: 9, chain: 77 };
const OFFSET: u64 = 8192;

fn entries(count: u64, len: usize) -> Vec<Entry> {
    let one = |i| Entry {
        term: Term(4 + i / 2),
        index: LogIndex(100 + i),
        kind: if i == 0 { EntryKind::Noop } else { EntryKind::Command },
        data: Bytes::from(vec![i as u8; if i == 0 { 0 } else { len }]),
    };
    (0..count).map(one).collect()
}

/// A segment whose only batch is at [`OFFSET`].
fn segment(reset: Option<LogPosition>, entries: &[Entry]) -> Vec<u8> {
    let first_index = LogIndex(100);
    let (bytes, _) = encode(SALT, OFFSET, LINK, &Change { reset, first_index, entries });
    let mut segment = vec![0; OFFSET as usize];
    segment.extend_from_slice(&bytes);
    segment
}

fn read(segment: &[u8]) -> Result<Batch, BatchFault> {
    decode(SALT, segment, OFFSET, LINK)
}

#[test]
fn a_batch_comes_back_as_written() {
    let reset = Some(LogPosition { term: Term(3), index: LogIndex(99) });
    for (reset, count, len) in [(None, 1, 0), (None, 30, 200), (reset, 0, 0), (reset, 3, 4000)] {
        let entries = entries(count, len);
        let segment = segment(reset, &entries);
        let batch = read(&segment).unwrap();
        assert_eq!((batch.entries, batch.reset, batch.synced_through), (entries, reset, 8));
        assert_eq!(OFFSET + batch.bytes_on_disk, segment.len() as u64);
    }
}

#[test]
fn another_segment_place_number_or_predecessor_is_another_batch() {
    let segment = segment(None, &entries(3, 100));
    let mut moved = segment.clone();
    moved.splice(0..0, vec![0; 4096]);
    assert_eq!(decode(SALT, &moved, OFFSET + 4096, LINK).err(), Some(BatchFault::NoHeader));
    assert_eq!(decode(SALT + 1, &segment, OFFSET, LINK).err(), Some(BatchFault::NoHeader));
    for link in [Link { sequence: 10, ..LINK }, Link { chain: 78, ..LINK }] {
        assert_eq!(decode(SALT, &segment, OFFSET, link).err(), Some(BatchFault::Inconsistent));
    }
}

#[test]
fn the_chain_tells_apart_two_batches_that_differ_anywhere() {
    let chain = |entries: &[Entry]| read(&segment(None, entries)).unwrap().chain_after;
    let original = entries(3, 2000);
    for i in 1..3 {
        let mut other = original.clone();
        let mut data = other[i].data.to_vec();
        data[1000] ^= 1;
        other[i].data = data.into();
        assert_ne!(chain(&original), chain(&other));
    }
}

#[test]
fn every_flipped_bit_and_every_lost_sector_of_a_batch_is_noticed() {
    let sound = segment(None, &entries(4, 500));
    let used = OFFSET as usize..OFFSET as usize + 4 * SECTOR_BYTES as usize;
    for at in used.clone() {
        for bit in 0..8 {
            let mut bad = sound.clone();
            bad[at] ^= 1 << bit;
            assert!(read(&bad).is_err(), "byte {at} bit {bit}");
        }
    }
    for sector in used.step_by(SECTOR_BYTES as usize) {
        let mut bad = sound.clone();
        bad[sector..sector + SECTOR_BYTES as usize].fill(0);
        let first = sector as u64 == OFFSET;
        let expected = if first { BatchFault::NoHeader } else { BatchFault::Incomplete };
        assert_eq!(read(&bad).err(), Some(expected));
    }
}

/// Content that was wrong before it was stamped, as by a fault of memory: the stamps are good, and
/// the entries' own checksums and the header's lengths are all that is left.
#[test]
fn wrong_content_under_good_stamps_is_inconsistent_and_never_upsets_the_decoder() {
    let content = {
        let segment = segment(None, &entries(4, 500));
        let sectors = segment[OFFSET as usize..].chunks(SECTOR_BYTES as usize);
        sectors.flat_map(|sector| sector[..504].to_vec()).collect::<Vec<u8>>()
    };
    let restamped = |content: &[u8]| {
        use sampan_base::codec::Writer;
        let mut writer = crate::sector::SectorWriter::with_capacity(content.len() as u64);
        writer.put(content);
        let (bytes, _) = writer.finish(SALT, (OFFSET / SECTOR_BYTES) as u32, 9, 77);
        [vec![0; OFFSET as usize], bytes].concat()
    };
    let used = 68 + 4 * 17 + 3 * 500;
    for at in 0..used {
        for new in [0, 0xff, content[at] ^ 1] {
            let mut bad = content.clone();
            bad[at] = new;
            if bad != content {
                let result = read(&restamped(&bad));
                assert!(result.is_err(), "byte {at} = {new:#x}");
            }
        }
    }
    let mut rng = Rng::seeded(5);
    for _ in 0..2000 {
        let mut bad = content.clone();
        for _ in 0..rng.between(1, 40) {
            let at = rng.below(used as u64) as usize;
            bad[at] = rng.next_u64() as u8;
        }
        let _ = read(&restamped(&bad));
    }
}
