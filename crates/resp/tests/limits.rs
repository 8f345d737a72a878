//! Every limit at, below and above its edge.

use sampan_resp::{
    Parsed, ProtocolError, ReplyError, ReplyLimits, ReplyParser, RequestLimits, RequestParser,
    write_command,
};

fn request(bytes: &[u8]) -> Result<Parsed, ProtocolError> {
    RequestParser::new(RequestLimits::tiny()).parse(bytes)
}

fn command<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = Vec::new();
    write_command(&mut out, args);
    out
}

#[track_caller]
fn passes(bytes: &[u8]) {
    assert_eq!(request(bytes), Ok(Parsed::Complete { consumed: bytes.len() }));
}

#[test]
fn bulk_bytes_max() {
    passes(&command(&[&[b'x'; 15]]));
    passes(&command(&[&[b'x'; 16]]));
    assert_eq!(request(&command(&[&[b'x'; 17]])), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(request(b"*1\r\n$17\r\n"), Err(ProtocolError::InvalidBulkLength), "when announced");
}

#[test]
fn arguments_max() {
    passes(&command(&[b"a"; 3]));
    passes(&command(&[b"a"; 4]));
    assert_eq!(request(&command(&[b"a"; 5])), Err(ProtocolError::InvalidMultibulkLength));
    passes(b"a b c d\r\n");
    assert_eq!(request(b"a b c d e\r\n"), Err(ProtocolError::TooBigInline));
}

#[test]
fn request_bytes_max() {
    // 4 bytes of header, 23 for each argument of 16 bytes, 6 around the last one.
    let of_bytes = |len: usize| command(&[vec![b'x'; 16], vec![b'x'; 16], vec![b'x'; len - 56]]);
    for len in [63, 64] {
        assert_eq!(of_bytes(len).len(), len);
        passes(&of_bytes(len));
    }
    assert_eq!(request(&of_bytes(65)), Err(ProtocolError::TooBigRequest));
}

#[test]
fn inline_bytes_max() {
    for len in [31, 32] {
        passes(&[vec![b'x'; len], vec![b'\n']].concat());
    }
    assert_eq!(request(&[vec![b'x'; 33], vec![b'\n']].concat()), Err(ProtocolError::TooBigInline));
    assert_eq!(request(&[b'x'; 32]), Ok(Parsed::Incomplete));
    assert_eq!(request(&[b'x'; 33]), Err(ProtocolError::TooBigInline), "without its end");
}

#[test]
fn a_length_line_ends_within_ten_digits() {
    assert_eq!(request(b"*1111111111"), Ok(Parsed::Incomplete));
    assert_eq!(request(b"*11111111111"), Err(ProtocolError::InvalidMultibulkLength));
}

fn reply(bytes: &[u8]) -> Result<bool, ReplyError> {
    let progress = ReplyParser::new(ReplyLimits::tiny()).parse(bytes)?;
    Ok(progress.value.is_some())
}

#[test]
fn reply_bulk_bytes_max() {
    assert_eq!(reply(b"$16\r\n0123456789abcdef\r\n"), Ok(true));
    assert_eq!(reply(b"$17\r\n"), Err(ReplyError::TooBig("bulk_bytes_max")));
    assert_eq!(reply(b"=17\r\n"), Err(ReplyError::TooBig("bulk_bytes_max")));
}

#[test]
fn reply_line_bytes_max() {
    assert_eq!(reply(b"+0123456789abcdef\r\n"), Ok(true));
    assert_eq!(reply(b"+0123456789abcdef0\r\n"), Err(ReplyError::TooBig("line_bytes_max")));
    assert_eq!(reply(b"+0123456789abcdef01"), Ok(false), "CR and LF may be to come");
    assert_eq!(reply(b"+0123456789abcdef012"), Err(ReplyError::TooBig("line_bytes_max")));
}

#[test]
fn reply_elements_max() {
    assert_eq!(reply(b"*4\r\n_\r\n_\r\n_\r\n_\r\n"), Ok(true));
    assert_eq!(reply(b"*5\r\n"), Err(ReplyError::TooBig("elements_max")));
    assert_eq!(reply(b"%2\r\n_\r\n_\r\n_\r\n_\r\n"), Ok(true));
    assert_eq!(reply(b"%3\r\n"), Err(ReplyError::TooBig("elements_max")));
    assert_eq!(reply(b"%9999999999\r\n"), Err(ReplyError::TooBig("elements_max")));
}

#[test]
fn reply_depth_max() {
    assert_eq!(reply(b"*1\r\n*1\r\n*1\r\n_\r\n"), Ok(true));
    assert_eq!(reply(b"*1\r\n*1\r\n*1\r\n*0\r\n"), Err(ReplyError::TooBig("depth_max")));
    assert_eq!(reply(b"*1\r\n|1\r\n*1\r\n%1\r\n"), Err(ReplyError::TooBig("depth_max")));
    let deep = b"*1\r\n".repeat(1_000_000);
    let mut parser = ReplyParser::new(ReplyLimits::default());
    assert_eq!(parser.parse(&deep), Err(ReplyError::TooBig("depth_max")));
}

#[test]
fn reply_bytes_max_counts_a_whole_reply_and_each_anew() {
    let twice = b"*3\r\n$16\r\n0123456789abcdef\r\n$16\r\n0123456789abcdef\r\n";
    assert_eq!(twice.len(), 50);
    assert_eq!(reply(&[&twice[..], b"$8\r\n01234567\r\n"].concat()), Ok(true));
    let too_big = Err(ReplyError::TooBig("reply_bytes_max"));
    assert_eq!(reply(&[&twice[..], b"$9\r\n"].concat()), too_big, "when announced");
    assert_eq!(reply(&[&twice[..], b"+0123456789abc\r\n"].concat()), too_big);

    let mut parser = ReplyParser::new(ReplyLimits::tiny());
    for _ in 0..100 {
        assert!(parser.parse(b"$16\r\n0123456789abcdef\r\n").unwrap().value.is_some());
    }
}
