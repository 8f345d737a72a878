//! Every kind of message comes back as it was sent, its bytes never change, and no bytes at all
//! make the decoder panic or allocate more than they are.

use bytes::Bytes;
use sampan_base::codec::DecodeError;
use sampan_base::{
    Configuration, Entry, EntryKind, LogIndex, LogPosition, NodeId, Rng, SnapshotId, SnapshotMeta,
    Term,
};

use crate::{Answer, AppendResult, Body, Health, Message};

fn message(body: Body) -> Message {
    Message { from: NodeId::of(1), to: NodeId::of(2), term: Term(3), body }
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// One of each kind, with the hex of its body.
fn samples() -> Vec<(Message, &'static str)> {
    let entry = |index, kind, data: &'static [u8]| Entry {
        term: Term(3),
        index: LogIndex(index),
        kind,
        data: Bytes::from_static(data),
    };
    let mut configuration = Configuration::of_voters([NodeId::of(1)]);
    configuration.learners.insert(NodeId::of(2));
    let meta =
        SnapshotMeta { position: at(8, 2), configuration, id: SnapshotId(9), size_bytes: 10 };
    let entries = vec![entry(5, EntryKind::Noop, b""), entry(6, EntryKind::Command, b"hi")];
    let accepted = AppendResult::Accepted { matched: LogIndex(6) };
    let rejected = AppendResult::Rejected { previous: LogIndex(6), hint: at(4, 2) };
    let (index, health) = (LogIndex(7), Health::Well);
    vec![
        (message(Body::PreVote { last: at(4, 2) }), "02*7 04*7"),
        (message(Body::PreVoteReply { asked: Term(4), answer: Answer::Behind }), "04*7 02"),
        (message(Body::Vote { last: at(4, 2), transfer: true }), "02*7 04*7 01"),
        (message(Body::VoteReply { granted: false }), "00"),
        (
            message(Body::Append { sequence: 7, previous: at(4, 2), commit: index, entries }),
            "07*7 07*7 02*7 04*7 02*3 03*7 00 00*3 03*7 01 02*3 6869",
        ),
        (
            message(Body::AppendReply { sequence: 7, recovering: false, health, result: accepted }),
            "07*7 00 06*7",
        ),
        (
            message(Body::AppendReply { sequence: 7, recovering: true, health, result: rejected }),
            "07*7 01 06*7 02*7 04*7",
        ),
        (
            message(Body::Heartbeat { sequence: 7, commit: index, matched: at(8, 2), read: 9 }),
            "07*7 07*7 09*7 02*7 08*7",
        ),
        (
            message(Body::HeartbeatReply {
                sequence: 7,
                recovering: true,
                health: Health::Full,
                read: 9,
                received: LogIndex(8),
                matched: index,
            }),
            "05 07*7 09*7 08*7 07*7",
        ),
        (
            message(Body::InstallSnapshot {
                sequence: 7,
                meta: meta.clone(),
                offset: 4,
                data: Bytes::from_static(b"hi"),
            }),
            "07*7 04*7 02*7 08*7 09*7 0a*7 01*3 01*7 00*3 01*3 02*7 02*3 6869",
        ),
        (
            message(Body::InstallSnapshotReply {
                sequence: 7,
                id: SnapshotId(9),
                next_offset: 4,
                matched: index,
            }),
            "07*7 09*7 04*7 07*7",
        ),
        (message(Body::TimeoutNow), ""),
        (message(Body::ReadIndex { nonce: 5, sequence: 6 }), "05*7 06*7"),
        (
            message(Body::ReadIndexReply { nonce: 5, sequence: 6, index, last: LogIndex(8) }),
            "05*7 06*7 07*7 08*7",
        ),
        (message(Body::Greet { nonce: 5 }), "05*7"),
        (message(Body::GreetReply { nonce: 5, holds: true }), "05*7 01"),
        (
            message(Body::SnapshotHeld {
                sequence: 7,
                id: SnapshotId(5),
                maker: NodeId::of(3),
                meta,
            }),
            "07*7 05*7 03*7 02*7 08*7 09*7 0a*7 01*3 01*7 00*3 01*3 02*7",
        ),
    ]
}

/// `02*7` is the byte 02 and seven zeros.
fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let (hex, zeros) = word.split_once('*').unwrap_or((word, "0"));
        for at in (0..hex.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        }
        bytes.resize(bytes.len() + zeros.parse::<usize>().unwrap(), 0);
    }
    bytes
}

fn encoded(message: &Message) -> Bytes {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes.into()
}

#[test]
fn every_kind_has_its_bytes() {
    for (at, (message, body)) in samples().into_iter().enumerate() {
        let bytes = encoded(&message);
        let mut expected = vec![at as u8 + 1];
        expected.extend(unhex("01*7 02*7 03*7"));
        expected.extend(unhex(body));
        assert_eq!(bytes, expected, "{message}");
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn a_node_says_in_one_byte_how_it_is() {
    let all = [Health::Well, Health::Slow, Health::Full, Health::Exhausted];
    for (byte, health) in all.into_iter().enumerate() {
        let (received, matched) = (LogIndex(8), LogIndex(7));
        let (sequence, recovering, read) = (7, false, 9);
        let body = Body::HeartbeatReply { sequence, recovering, health, read, received, matched };
        let message = message(body);
        let bytes = encoded(&message);
        assert_eq!(bytes[25], byte as u8 * 2);
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
    let unknown = [&[9][..], &unhex("01*7 02*7 03*7 08 07*7 09*7 08*7 07*7")].concat();
    assert_eq!(Message::decode(&unknown.into()), Err(DecodeError::Invalid("health")));
}

#[test]
fn entries_share_the_buffer_they_came_in() {
    let (message, _) = samples().swap_remove(4);
    let bytes = encoded(&message);
    let Body::Append { entries, .. } = Message::decode(&bytes).unwrap().body else { panic!() };
    let data = entries[1].data.as_ptr() as usize;
    let buffer = bytes.as_ptr() as usize;
    assert!(data > buffer && data < buffer + bytes.len());
}

#[test]
fn a_message_cut_short_is_an_error_and_so_is_one_too_long() {
    for (message, _) in samples() {
        let bytes = encoded(&message);
        for len in 0..bytes.len() {
            assert!(Message::decode(&bytes.slice(..len)).is_err(), "{message} cut to {len}");
        }
        let longer = [&bytes[..], &[0]].concat().into();
        assert_eq!(Message::decode(&longer), Err(DecodeError::Invalid("trailing bytes")));
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_allocates_nothing() {
    let (message, _) = samples().swap_remove(4);
    let mut bytes = encoded(&message).to_vec();
    let count_at = 1 + 24 + 16 + 16;
    bytes[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Message::decode(&bytes.into()), Err(DecodeError::Truncated));
}

/// Damaged messages either do not decode or are dropped by a node: nothing panics.
#[test]
fn damaged_bytes_never_panic() {
    let samples: Vec<Bytes> = samples().iter().map(|(message, _)| encoded(message)).collect();
    let mut rng = Rng::seeded(1);
    let mut decoded = 0;
    for round in 0..20_000 {
        let mut bytes = rng.pick(&samples).to_vec();
        for _ in 0..rng.between(1, 4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next_u64() as u8;
        }
        if let Ok(message) = Message::decode(&bytes.into()) {
            decoded += 1;
            let mut node = crate::node::tests::follower(round);
            node.step(sampan_base::Time(round), message);
            let mut leader = crate::node::tests::leader(round);
            let (message, _) = self::samples().swap_remove(rng.below(14) as usize);
            leader.step(sampan_base::Time(round), damaged(message, &mut rng));
        }
    }
    assert!(decoded > 5_000, "only {decoded} of the damaged messages were readable");
}

/// The same message with one number that is far off.
fn damaged(message: Message, rng: &mut Rng) -> Message {
    let mut bytes = encoded(&message).to_vec();
    let at = rng.below(bytes.len() as u64) as usize;
    bytes[at] = 0xff;
    Message::decode(&bytes.into()).unwrap_or(message)
}
