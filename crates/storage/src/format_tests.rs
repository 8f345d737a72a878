//! Holds `docs/format.md` against the code: each `layout` block names offsets, lengths and fields,
//! and what the code writes must have each field's value just there. Golden bytes beside it: a
//! change of the format that nobody meant fails here.

use std::collections::BTreeMap;

use bytes::Bytes;
use sampan_base::codec::crc32;
use sampan_base::disk::{Disk, DiskOp};
use sampan_base::{
    ClusterId, Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId,
    SnapshotId, Term,
};

use crate::batch::{self, Change, Link};
use crate::create::{IDENTITY_FILE, IDENTITY_MAGIC};
use crate::hard_state::{HARD_STATE_MAGIC, Record};
use crate::members::{MEMBERS_FILE, MEMBERS_MAGIC};
use crate::sector::CONTENT_BYTES;
use crate::segment::{EARLIER_MAX, EarlierLife, SEGMENT_MAGIC, SegmentHeader};
use crate::snapshot::{
    CHUNK_HEADER_BYTES, CHUNK_MAGIC, FIRST_CHUNK_OFFSET, FOOTER_MAGIC, SNAPSHOT_MAGIC,
    SnapshotWriter, TRAILER_BYTES, TRAILER_MAGIC,
};
use crate::testing::MemDisk;
use crate::{FORMAT_VERSION, Identity, Options, PAGE_BYTES, SECTOR_BYTES, Storage};

const DOC: &str = include_str!("../../../docs/format.md");

const IDENTITY: Identity =
    Identity { cluster: ClusterId(0x1122_3344_5566_7788), node: NodeId::of(0x0304) };

/// A row of a layout: offset, length if fixed, field.
type Row = (usize, Option<usize>, String);

/// The rows of a layout block of the document, which must follow each other without a hole.
fn layout(name: &str) -> Vec<Row> {
    let start = format!("```layout {name}\noffset  bytes  field\n");
    let (_, rest) = DOC.split_once(&start).unwrap_or_else(|| panic!("no layout {name}"));
    let (block, _) = rest.split_once("```").unwrap();
    let mut next = Some(0);
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (offset, len) = (words[0].parse().unwrap(), words[1].parse().ok());
        assert_eq!(Some(offset), next, "layout {name} has a hole before {line}");
        next = len.map(|len: usize| offset + len);
        (offset, len, words[2].to_string())
    };
    block.lines().map(row).collect()
}

/// Checks that `bytes` hold each field's value where the document says, and that the document and
/// the test know the same fields.
fn check(name: &str, bytes: &[u8], fields: &[(&str, Bytes)]) {
    let mut fields: BTreeMap<&str, &Bytes> = fields.iter().map(|(k, v)| (*k, v)).collect();
    for (offset, len, field) in layout(name) {
        let value = fields.remove(&*field).unwrap_or_else(|| panic!("{name}: unknown {field}"));
        assert_eq!(len.unwrap_or(value.len()), value.len(), "{name}: length of {field}");
        assert_eq!(&bytes[offset..offset + value.len()], &value[..], "{name}: {field}");
    }
    assert!(fields.is_empty(), "{name}: not in the document: {fields:?}");
}

fn u32(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

fn u64(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

fn raw(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The fields that every sealed page begins with.
fn sealed(magic: [u8; 8], page: &[u8]) -> Vec<(&'static str, Bytes)> {
    assert_eq!(page.len() as u64, PAGE_BYTES);
    vec![
        ("magic", raw(&magic)),
        ("version", u32(FORMAT_VERSION)),
        ("crc", u32(crc32(&[&page[..12], &page[16..]]))),
        ("cluster", u64(IDENTITY.cluster.0)),
        ("node", u64(IDENTITY.node.get())),
    ]
}

/// Hex, with runs of eight equal bytes and more as `(byte*count)`.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let run = rest.iter().take_while(|&&next| next == byte).count();
        let (word, taken) = match run {
            8.. => (format!("({byte:02x}*{run})"), run),
            _ => (format!("{byte:02x}"), 1),
        };
        out.push_str(&word);
        rest = &rest[taken..];
    }
    out
}

fn identity_page() -> Bytes {
    let mut disk = MemDisk::new();
    Storage::create(&mut disk, IDENTITY, &Options::tiny()).unwrap();
    disk.read(IDENTITY_FILE, 0, 2 * PAGE_BYTES).unwrap()
}

fn members_page() -> Bytes {
    let mut disk = MemDisk::new();
    let members = [1, 2, 0x0304].map(NodeId::of).into();
    Storage::agree(&mut disk, IDENTITY, &members, &[7, 8]).unwrap();
    disk.read(MEMBERS_FILE, 0, 2 * PAGE_BYTES).unwrap()
}

fn record() -> Record {
    Record {
        identity: IDENTITY,
        sequence: 0x21,
        incarnation: 0x22,
        hard_state: HardState { term: Term(0x23), vote: NodeId::new(0x24) },
        synced_batch: 0x25,
        segment: 0x26,
        non_voting_until: Some(LogIndex(0x27)),
        newborn: true,
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        identity: IDENTITY,
        generation: 0x31,
        sequence: 0x32,
        first: Link { sequence: 0x33, chain: 0x3435_3637_3839_3a3b },
        serves_from: LogIndex(0x3c),
        len_bytes: 0x4000,
        earlier: vec![
            EarlierLife { number: 0x30, end_bytes: 0x2000 },
            EarlierLife { number: 0x2f, end_bytes: 0x3000 },
        ],
    }
}

fn entries() -> Vec<Entry> {
    let entry = |index, term, kind, data: &'static [u8]| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind,
        data: Bytes::from_static(data),
    };
    vec![
        entry(0x52, 0x53, EntryKind::Configuration, b"config"),
        entry(0x53, 0x54, EntryKind::Command, &[0xee; 900]),
    ]
}

fn batch_link() -> Link {
    Link { sequence: 0x1_0000_0055, chain: 0x5657_5859_5a5b_5c5d }
}

/// A batch at the start of a segment's second page.
fn batch_bytes() -> Bytes {
    let change = Change {
        reset: Some(LogPosition { term: Term(0x51), index: LogIndex(0x51) }),
        first_index: LogIndex(0x52),
        entries: &entries(),
    };
    batch::encode(segment_header().salt(), PAGE_BYTES, batch_link(), &change).0
}

fn configuration() -> Configuration {
    let mut configuration = Configuration::of_voters([1, 2].map(NodeId::of));
    configuration.voters_outgoing = [NodeId::of(3)].into();
    configuration.learners = [NodeId::of(4)].into();
    configuration
}

/// A snapshot file of two chunks.
fn snapshot_bytes() -> Bytes {
    let position = LogPosition { term: Term(0x61), index: LogIndex(0x62) };
    let (mut writer, mut ops) =
        SnapshotWriter::begin(IDENTITY, SnapshotId(0x63), position, &configuration(), None);
    ops.extend(writer.chunk(b"first chunk"));
    ops.extend(writer.chunk(b"second"));
    let (meta, file, rest) = writer.finish(b"digest");
    ops.extend(rest);
    let mut disk = MemDisk::new();
    disk.execute(&DiskOp::CreateDirectory { directory: "snapshots".into() }).unwrap();
    disk.execute_all(&ops).unwrap();
    let bytes = disk.read(&file, 0, u64::MAX >> 1).unwrap();
    assert_eq!(bytes.len() as u64, meta.size_bytes);
    bytes
}

#[test]
fn identity_and_hard_state_are_laid_out_as_documented() {
    let page = identity_page();
    check("identity", &page, &sealed(IDENTITY_MAGIC, &page));

    let page = members_page();
    let mut fields = sealed(MEMBERS_MAGIC, &page);
    let ids = [u64(1), u64(2), u64(0x0304)].concat();
    fields.extend([("count", u32(3)), ("ids", raw(&ids))]);
    check("members", &page, &fields);

    let page = record().encode();
    let mut fields = sealed(HARD_STATE_MAGIC, &page);
    fields.extend([
        ("sequence", u64(0x21)),
        ("incarnation", u64(0x22)),
        ("term", u64(0x23)),
        ("vote", u64(0x24)),
        ("watermark", u64(0x25)),
        ("segment", u64(0x26)),
        ("marks", raw(&[3])),
        ("until", u64(0x27)),
    ]);
    check("hard_state", &page, &fields);
}

#[test]
fn a_segment_its_sectors_batches_and_entries_are_laid_out_as_documented() {
    let header = segment_header();
    let page = header.encode();
    let mut fields = sealed(SEGMENT_MAGIC, &page);
    fields.extend([
        ("generation", u64(0x31)),
        ("number", u64(0x32)),
        ("first_batch", u64(0x33)),
        ("chain", u64(0x3435_3637_3839_3a3b)),
        ("serves_from", u64(0x3c)),
        ("length", u64(0x4000)),
        ("count", u32(2)),
        ("earlier", raw(&[u64(0x30), u64(0x2000), u64(0x2f), u64(0x3000)].concat())),
    ]);
    check("segment", &page, &fields);
    // Where none is named there are zeros, as in files that are older than this field.
    let first_life = SegmentHeader { earlier: Vec::new(), ..header.clone() }.encode();
    assert!(first_life[80..].iter().all(|&byte| byte == 0));

    let life = [u64(IDENTITY.cluster.0), u64(IDENTITY.node.get()), u64(0x31), u64(0x32)].concat();
    let salt = crc32(&[&life]);
    assert_eq!(header.salt(), salt);
    let begun = |from: u32, parts: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(from);
        for part in parts {
            hasher.update(part);
        }
        u32(hasher.finalize())
    };

    let bytes = batch_bytes();
    assert_eq!(bytes.len() as u64, PAGE_BYTES);
    let mut content = Vec::new();
    for (i, sector) in (0..).zip(bytes.chunks(SECTOR_BYTES as usize).take(2)) {
        let number = (PAGE_BYTES / SECTOR_BYTES) as u32 + i;
        let from = salt.wrapping_add(number.wrapping_mul(0x9e37_79b1));
        check(
            "sector",
            sector,
            &[
                ("content", raw(&sector[..CONTENT_BYTES])),
                ("batch", u32(0x55)),
                ("crc", begun(from, &[&sector[..CONTENT_BYTES + 4]])),
            ],
        );
        content.extend_from_slice(&sector[..CONTENT_BYTES]);
    }

    let payload = 2 * 17 + 6 + 900;
    let header_fields = [
        ("magic", raw(b"BTCH")),
        ("flags", u32(1)),
        ("number", u64(0x1_0000_0055)),
        ("synced", u64(0x1_0000_0054)),
        ("chain", u64(0x5657_5859_5a5b_5c5d)),
        ("first_index", u64(0x52)),
        ("reset_term", u64(0x51)),
        ("last_term", u64(0x54)),
        ("count", u32(2)),
        ("payload", u32(payload)),
        ("crc", begun(salt, &[&content[..64]])),
    ];
    check("batch", &content, &header_fields);
    let name = [&u64(0x53)[..], &u64(0x52), &[2]].concat();
    let entry_fields = [
        ("length", u32(6)),
        ("crc", begun(salt, &[&name, b"config"])),
        ("term", u64(0x53)),
        ("kind", raw(&[2])),
        ("data", raw(b"config")),
    ];
    check("entry", &content[batch::HEADER_BYTES as usize..], &entry_fields);
    let end = batch::HEADER_BYTES as usize + payload as usize;
    assert!(content[end..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_snapshot_is_laid_out_as_documented() {
    let bytes = snapshot_bytes();
    let mut members = Vec::new();
    configuration().encode(&mut members);
    let page = &bytes[..PAGE_BYTES as usize];
    let mut fields = sealed(SNAPSHOT_MAGIC, page);
    let subject =
        [("id", u64(0x63)), ("term", u64(0x61)), ("index", u64(0x62)), ("members", raw(&members))];
    fields.extend(subject.clone());
    check("snapshot", page, &fields);

    let mut offset = FIRST_CHUNK_OFFSET as usize;
    let mut list = Vec::new();
    for (number, payload) in [(0, &b"first chunk"[..]), (1, b"second")] {
        let (number, length) = (u32(number), u32(payload.len() as u32));
        let crc = u32(crc32(&[&u64(0x63), &number, &length, payload]));
        let fields = [
            ("magic", u32(CHUNK_MAGIC)),
            ("crc", crc.clone()),
            ("id", u64(0x63)),
            ("number", number),
            ("length", length.clone()),
            ("payload", raw(payload)),
        ];
        check("chunk", &bytes[offset..], &fields);
        offset += CHUNK_HEADER_BYTES as usize + payload.len();
        list.extend_from_slice(&length);
        list.extend_from_slice(&crc);
    }

    let footer = &bytes[offset..];
    let mut fields = vec![
        ("magic", u32(FOOTER_MAGIC)),
        ("crc", u32(crc32(&[&footer[8..]]))),
        ("cluster", u64(IDENTITY.cluster.0)),
        ("node", u64(IDENTITY.node.get())),
    ];
    fields.extend(subject);
    check("footer", footer, &fields);
    let rest = [&u32(6)[..], b"digest", &u32(2), &list, &u32(footer.len() as u32), b"DONE"];
    assert_eq!(footer[48 + members.len()..], rest.concat());
    assert_eq!(u32(TRAILER_MAGIC), raw(b"DONE"));
    assert_eq!(TRAILER_BYTES, 8);
}

#[test]
fn the_bytes_of_every_record_are_the_golden_ones() {
    let mut golden = include_str!("golden.txt").lines();
    for (name, bytes) in [
        ("identity", identity_page()),
        ("members", members_page()),
        ("hard_state", record().encode()),
        ("segment", segment_header().encode().into()),
        ("batch", batch_bytes()),
        ("snapshot", snapshot_bytes()),
    ] {
        assert_eq!(golden.next(), Some(&*format!("{name} {}", hex(&bytes))));
    }
    assert_eq!(golden.next(), None);
}

#[test]
fn the_document_states_the_constants_of_the_code() {
    assert!(DOC.contains(&format!("| page | {PAGE_BYTES} bytes.")));
    assert!(DOC.contains(&format!("**Sectors.** {SECTOR_BYTES} bytes")));
    assert!(DOC.contains(&format!("| stamped sector | {CONTENT_BYTES} bytes of content")));
    assert!(DOC.contains(&format!("of earlier lives, at most {EARLIER_MAX}")));
    let reasons = [
        "SealedSegment",
        "LaterBatch",
        "BelowWatermark",
        "SegmentMissing",
        "NonZeroSector",
        "Inconsistent",
        "SegmentHeader",
        "SegmentLength",
        "Unreadable",
        "Gap",
    ];
    for reason in reasons {
        assert!(DOC.contains(&format!("`{reason}`")), "{reason}");
    }
}
