//! Allocations of the stages that every command passes, each alone: decode, append encode and
//! decode, apply, query, reply. The whole way through three nodes is in
//! `crates/replica/tests/fixed_work.rs`, the algorithm alone in `crates/raft/tests/fixed_work.rs`.
//!
//! Allocations are the same on every machine and every day, where seconds are not; and of what a
//! stage may come to cost by mistake (a copy, a box, a growing buffer), nearly all begins with one.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use bytes::Bytes;
use sampan_base::{ClusterId, Entry, EntryKind, LogIndex, LogPosition, NodeId, Term, WallTime};
use sampan_kv::{BatchBuilder, Kv, Limits, Reply, parse};
use sampan_raft::{Body, Message};
use sampan_replica::wire::{PeerMessage, decode_frame, encode_frame};
use sampan_resp::{Parsed, Protocol, RequestLimits, RequestParser, Writer, write_command};

/// Commands that a stage handles in one test.
const COMMANDS: u64 = 1_000;

/// Runs a stage twice and counts the second time, when what grows once has grown.
#[track_caller]
fn assert_allocates(mut stage: impl FnMut(), expected: u64) {
    stage();
    let counted = measure(stage).count_total;
    assert_eq!(counted, expected, "allocations of {COMMANDS} commands");
}

/// The same command often, as it comes from a socket.
fn pipeline<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut input = Vec::new();
    (0..COMMANDS).for_each(|_| write_command(&mut input, args));
    input
}

/// A log entry of the same command, often.
fn batch(line: &str) -> Bytes {
    let args: Vec<&str> = line.split(' ').collect();
    let mut encoded = Vec::new();
    parse(&args, &Limits::default(), &mut encoded).unwrap();
    let mut batch = BatchBuilder::new(WallTime::from_unix_ms(1));
    (0..COMMANDS).for_each(|_| batch.push(&encoded));
    batch.finish()
}

#[test]
fn decoding_a_request_allocates_nothing() {
    let limits = Limits::default();
    for args in [&["SET", "key:000000000001", "value"][..], &["GET", "k"], &["INCR", "k"]] {
        let input = pipeline(args);
        let mut parser = RequestParser::new(RequestLimits::default());
        let mut encoded = Vec::new();
        let decode = || {
            encoded.clear();
            let mut at = 0;
            while let Parsed::Complete { consumed } = parser.parse(&input[at..]).unwrap() {
                let mut argv = [&[][..]; 8];
                let args = parser.args(&input[at..]);
                argv.iter_mut().zip(args.iter()).for_each(|(place, arg)| *place = arg);
                parse(&argv[..args.len()], &limits, &mut encoded).unwrap();
                at += consumed;
            }
            assert_eq!(at, input.len());
        };
        assert_allocates(decode, 0);
    }
}

#[test]
fn encoding_an_append_allocates_nothing_and_decoding_it_only_the_list_of_entries() {
    let (from, to) = (NodeId::of(1), NodeId::of(2));
    let entry = |index| Entry {
        term: Term(3),
        index: LogIndex(index),
        kind: EntryKind::Command,
        data: Bytes::from_static(&[7; 100]),
    };
    let previous = LogPosition { index: LogIndex(9), term: Term(3) };
    let entries = (10..10 + COMMANDS).map(entry).collect();
    let body = Body::Append { sequence: 1, previous, commit: LogIndex(9), entries };
    let message = PeerMessage::Raft(Message { from, to, term: Term(3), body });
    let mut frame = Vec::new();
    let encode = || {
        frame.clear();
        encode_frame(ClusterId(1), from, to, &message, &mut frame);
    };
    assert_allocates(encode, 0);
    let frame = Bytes::from(frame);
    // The payloads are slices of the frame. The first such slice makes it shared: once a frame.
    assert_allocates(|| assert_eq!(decode_frame(&frame).unwrap().1, message), 1);
}

#[test]
fn applying_a_write_allocates_at_most_its_record() {
    let mut kv = Kv::new(Limits::default(), 1);
    for (line, expected) in [
        // In the place of one of the same length.
        ("SET key:000000000001 value", 0),
        ("INCR counter", 0),
        ("DEL none", 0),
    ] {
        let batch = batch(line);
        let mut replies = 0;
        let apply = || kv.apply_each(&batch, |_, reply| replies += reply.iter().len()).unwrap();
        assert_allocates(apply, expected);
        assert_eq!(replies as u64, 2 * COMMANDS, "{line}");
    }
    let mut kv = Kv::new(Limits::default(), 1);
    let set_and_delete = [batch("SET k v"), batch("DEL k")];
    let apply = || set_and_delete.iter().for_each(|batch| kv.apply_each(batch, |_, _| {}).unwrap());
    assert_allocates(apply, 1);
}

#[test]
fn a_query_allocates_the_value_it_answers_with() {
    let mut kv = Kv::new(Limits::default(), 1);
    kv.apply_each(&batch("SET k v"), |_, _| {}).unwrap();
    for (args, expected) in
        [(&["GET", "k"][..], COMMANDS), (&["GET", "none"], 0), (&["EXISTS", "k"], 0)]
    {
        let mut encoded = Vec::new();
        parse(args, &Limits::default(), &mut encoded).unwrap();
        assert_allocates(|| (0..COMMANDS).for_each(|_| drop(kv.query(&encoded))), expected);
    }
}

#[test]
fn rendering_a_reply_allocates_nothing() {
    let replies = [Reply::Ok, Reply::Int(-42), Reply::Bulk(Bytes::from_static(b"value"))];
    let mut out = Vec::new();
    let render = || {
        out.clear();
        for reply in replies.iter().cycle().take(COMMANDS as usize) {
            let mut writer = Writer::new(&mut out, Protocol::Resp3);
            match reply {
                Reply::Int(value) => writer.integer(*value),
                Reply::Bulk(bytes) => writer.bulk(bytes),
                _ => writer.ok(),
            }
        }
    };
    assert_allocates(render, 0);
}
