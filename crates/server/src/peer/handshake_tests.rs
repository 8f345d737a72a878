use super::*;

fn hello() -> Hello {
    Hello {
        cluster: ClusterId(7),
        from: NodeId::of(1),
        to: NodeId::of(2),
        stream: Stream::Bulk,
        client_address: HostPort::new("node1", 7001),
        settings: vec![3, 4],
    }
}

fn welcome(verdict: Verdict) -> Welcome {
    Welcome {
        verdict,
        cluster: ClusterId(7),
        node: NodeId::of(2),
        client_address: HostPort::new("", 7002),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn read_hello(mut bytes: &[u8]) -> Result<Hello, HandshakeError> {
    block_on(Hello::read(&mut bytes))
}

fn read_welcome(mut bytes: &[u8]) -> Result<Welcome, HandshakeError> {
    block_on(Welcome::read(&mut bytes, &hello()))
}

#[test]
fn both_messages_come_back_as_sent_and_leave_what_follows() {
    let mut bytes = hello().encode();
    bytes.extend_from_slice(b"frames");
    let mut rest = &bytes[..];
    assert_eq!(block_on(Hello::read(&mut rest)).unwrap(), hello());
    assert_eq!(rest, b"frames");
    let accepted = welcome(Verdict::Accepted);
    assert_eq!(read_welcome(&accepted.encode()).unwrap(), accepted);
}

#[test]
fn the_bytes_are_fixed() {
    let bytes = hello().encode();
    assert_eq!(&bytes[..8], b"SPNH\x02\x00\x35\x00");
    assert_eq!(bytes[8..16], 7_u64.to_le_bytes());
    assert_eq!(bytes[16..24], 1_u64.to_le_bytes());
    assert_eq!(bytes[24..32], 2_u64.to_le_bytes());
    assert_eq!(&bytes[32..44], b"\x01\x59\x1b\x05\x00\x00\x00node1");
    assert_eq!(bytes[44..53], [2, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[53..61], 4_u64.to_le_bytes());
    assert_eq!(bytes.len(), 8 + 0x35 + 4);
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_noticed() {
    let good = hello().encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read_hello(&bad).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(matches!(read_hello(&good[..len]), Err(HandshakeError::Io(_))), "{len} bytes");
    }
}

#[test]
fn a_client_is_told_from_a_peer() {
    let error = read_hello(b"*1\r\n$4\r\nPING\r\n").unwrap_err();
    assert_eq!(error.to_string(), r"not a Sampan peer port: it begins with '*1\r\n'");
    assert_eq!(is_from_peer(&hello().encode()), Some(true));
    assert_eq!(is_from_peer(b"SPN1...."), Some(true));
    assert_eq!(is_from_peer(b"SPN"), None);
    assert_eq!(is_from_peer(b"SET a b\r\n"), Some(false));
    assert_eq!(is_from_peer(b"*"), Some(false));
}

#[test]
fn another_version_is_named_whatever_its_body() {
    let mut bytes = hello().encode();
    bytes[4] = 9;
    let error = read_hello(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "it speaks version 9 of the peer protocol, this node 2");
}

#[test]
fn each_refusal_says_why() {
    let text = |verdict| read_welcome(&welcome(verdict).encode()).unwrap_err().to_string();
    assert_eq!(text(Verdict::OtherCluster), "it belongs to cluster 0000000000000007");
    assert_eq!(text(Verdict::OtherNode), "it is n2");
    assert_eq!(text(Verdict::UnknownNode), "n2 was not told of this node");
    assert_eq!(text(Verdict::OtherVersion), "n2 refuses version 2");
    let settings = text(Verdict::OtherSettings);
    assert_eq!(settings, "n2 has other settings of the group State, and says which");
}

#[test]
fn an_acceptance_by_another_node_is_no_connection() {
    let mut other = welcome(Verdict::Accepted);
    other.node = NodeId::of(3);
    let error = read_welcome(&other.encode()).unwrap_err();
    assert_eq!(error.to_string(), "it is n3 of cluster 0000000000000007");
}

#[test]
fn an_address_that_is_no_text_or_too_long_is_refused() {
    let mut spaced = hello();
    spaced.client_address.host = "a b".into();
    assert!(matches!(read_hello(&spaced.encode()), Err(HandshakeError::Malformed(_))));
    let mut body = Vec::new();
    put_address(&HostPort::new("x".repeat(HOST_BYTES_MAX + 1), 1), &mut body);
    assert_eq!(read_address(&mut Reader::new(&body)), Err(DecodeError::Invalid("length")));
}
