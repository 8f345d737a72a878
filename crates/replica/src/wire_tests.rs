use super::*;

const CLUSTER: ClusterId = ClusterId(0xfeed);

fn messages() -> Vec<PeerMessage> {
    let command = Bytes::from_static(b"a command");
    let requests = vec![
        ForwardedRequest {
            id: 8,
            connection: ConnectionId(3),
            class: Class::Write,
            command: command.clone(),
        },
        ForwardedRequest { id: 9, connection: ConnectionId(4), class: Class::TimedRead, command },
    ];
    let outcomes = vec![
        ForwardOutcome { id: 8, outcome: Outcome::Refused },
        ForwardOutcome { id: 9, outcome: Outcome::Answered(Reply::Int(-5), LogIndex(77)) },
    ];
    vec![
        PeerMessage::Raft(Message {
            from: NodeId::of(1),
            to: NodeId::of(2),
            term: Term(4),
            body: sampan_raft::Body::TimeoutNow,
        }),
        PeerMessage::Forward(Forward { incarnation: 2, term: Term(4), frame_seq: 5, requests }),
        PeerMessage::ForwardReply(ForwardReply { incarnation: 2, outcomes }),
        PeerMessage::SnapshotWanted(SnapshotWanted {
            to: NodeId::of(3),
            id: SnapshotId(9),
            offset: 100,
            len_max: 50,
        }),
        PeerMessage::SnapshotPart(SnapshotPart {
            id: SnapshotId(9),
            offset: 100,
            data: Bytes::from_static(b"part"),
        }),
        PeerMessage::SnapshotMissing(SnapshotMissing { to: NodeId::of(3), id: SnapshotId(9) }),
        PeerMessage::SnapshotDamaged(SnapshotDamaged { id: SnapshotId(9) }),
        PeerMessage::Wanted(Wanted { first: LogIndex(5), last: LogIndex(9) }),
        PeerMessage::Held(Held {
            first: LogIndex(5),
            through: LogIndex(8),
            entries: vec![entry(5, 100), entry(7, 0)],
        }),
    ]
}

fn entry(index: u64, data_bytes: usize) -> Entry {
    let data = vec![7; data_bytes].into();
    Entry { term: Term(3), index: LogIndex(index), kind: EntryKind::Command, data }
}

fn frame(message: &PeerMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(CLUSTER, NodeId::of(1), NodeId::of(2), message, &mut out);
    out
}

#[test]
fn a_frame_comes_back_as_sent() {
    for message in messages() {
        let (header, decoded) = decode_frame(&frame(&message).into()).unwrap();
        assert_eq!(decoded, message);
        assert_eq!(
            (header.cluster, header.from, header.to),
            (CLUSTER, NodeId::of(1), NodeId::of(2))
        );
    }
}

#[test]
fn a_frame_with_any_byte_changed_is_refused() {
    for message in messages() {
        let good = frame(&message);
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x20;
            assert!(decode_frame(&bad.into()).is_err(), "byte {place} of {message:?}");
        }
    }
}

#[test]
fn a_frame_cut_anywhere_is_refused_or_incomplete() {
    for message in messages() {
        let good = frame(&message);
        for len in 0..good.len() {
            let cut = Bytes::copy_from_slice(&good[..len]);
            assert!(decode_frame(&cut).is_err(), "{len} of {} bytes", good.len());
        }
    }
}

#[test]
fn a_header_is_refused_as_soon_as_it_is_wrong() {
    assert_eq!(decode_frame_header(b"SPN"), Ok(None));
    assert!(decode_frame_header(b"*3\r\n").is_err(), "a client on the peer port");
    let mut long = frame(&messages()[0]);
    long[4..8].copy_from_slice(&(FRAME_PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
    assert!(decode_frame_header(&long).is_err());
}

#[test]
fn an_answer_says_how_far_it_goes_and_is_bounded() {
    let wanted = Wanted { first: LogIndex(5), last: LogIndex(9) };
    let answer = wanted.answer([entry(6, 10), entry(8, 10)].into_iter());
    assert_eq!((answer.first, answer.through, answer.entries.len()), (LogIndex(5), LogIndex(9), 2));

    let large = [entry(6, HELD_BYTES_MAX), entry(8, 10), entry(9, 10)];
    let answer = wanted.answer(large.into_iter());
    assert_eq!((answer.through, answer.entries.len()), (LogIndex(7), 1), "the first always fits");

    let long = Wanted { first: LogIndex(5), last: LogIndex(u64::MAX - 1) };
    assert_eq!(long.answer([].into_iter()).through, LogIndex(4 + HELD_INDICES_MAX));
}

#[test]
fn a_range_that_is_none_is_refused() {
    for (first, last) in [(9, 8), (0, u64::MAX)] {
        let wanted = Wanted { first: LogIndex(first), last: LogIndex(last) };
        assert!(decode_frame(&frame(&PeerMessage::Wanted(wanted)).into()).is_err());
    }
}
