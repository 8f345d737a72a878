//! Properties over generated input: however bytes are cut they mean the same, what is written is
//! read back, and no bytes at all make a parser panic.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use sampan_resp::{
    Parsed, Protocol, ProtocolError, ReplyError, ReplyLimits, ReplyParser, RequestLimits,
    RequestParser, Value, Writer, write_command,
};

type Requests = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Feeds the bytes in pieces of the given lengths (over and over), as a connection would.
fn requests_in_pieces(bytes: &[u8], pieces: &[usize], limits: RequestLimits) -> Requests {
    let mut parser = RequestParser::new(limits);
    let mut found = Vec::new();
    let mut buf = Vec::new();
    for piece in cut(bytes, pieces) {
        buf.extend_from_slice(piece);
        loop {
            let used = match parser.parse(&buf) {
                Ok(Parsed::Complete { consumed }) => {
                    found.push(parser.args(&buf).iter().map(<[u8]>::to_vec).collect());
                    consumed
                }
                Ok(Parsed::Empty { consumed }) => consumed,
                Ok(Parsed::Incomplete) => break,
                Err(error) => return (found, Some(error)),
            };
            buf.drain(..used);
        }
    }
    (found, None)
}

fn replies_in_pieces(
    bytes: &[u8],
    pieces: &[usize],
    limits: ReplyLimits,
) -> (Vec<Value>, Option<ReplyError>) {
    let mut parser = ReplyParser::new(limits);
    let mut found = Vec::new();
    let mut buf = Vec::new();
    for piece in cut(bytes, pieces) {
        buf.extend_from_slice(piece);
        loop {
            match parser.parse(&buf) {
                Ok(progress) => {
                    buf.drain(..progress.consumed);
                    match progress.value {
                        Some(value) => found.push(value),
                        None => break,
                    }
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn cut<'a>(bytes: &'a [u8], pieces: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    let mut lengths = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((*lengths.next().unwrap()).clamp(1, rest.len()));
        parts.push(piece);
        rest = tail;
    }
    parts
}

/// Bytes that look like the protocol more often than random ones do.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            &b"*"[..],
            b"$",
            b"\r\n",
            b"\n",
            b"\r",
            b"*1\r\n",
            b"*2\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$1\r\n",
            b"$3\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"-ERR x\r\n",
            b"+OK\r\n",
            b":1\r\n",
            b"GET",
            b"a\r\n",
            b"\"",
            b"'",
            b"\\x41",
            b" ",
            b"%1\r\n",
            b"~1\r\n",
            b">1\r\n",
            b"|1\r\n",
            b"#t\r\n",
            b"_\r\n",
            b",1.5\r\n",
            b"(12\r\n",
            b"=5\r\ntxt:a\r\n",
            b"!3\r\nERR\r\n",
            b"$17\r\n",
            b"*5\r\n",
        ])
        .prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..8),
    ];
    vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let leaf = prop_oneof![
        "[ -~é]{0,20}".prop_map(|text| Value::Simple(text.into())),
        "[A-Z]{2,8} [ -~]{0,20}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        bytes().prop_map(Value::Bulk),
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>()
            .prop_filter("NaN differs from itself", |it| !it.is_nan())
            .prop_map(Value::Double),
        "-?[0-9]{1,40}".prop_map(Value::BigNumber),
        (any::<[u8; 3]>(), bytes()).prop_map(|(format, text)| Value::Verbatim { format, text }),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            vec(inner.clone(), 0..5).prop_map(Value::Set),
            vec((inner.clone(), inner), 0..5).prop_map(Value::Map),
        ]
    })
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(1_usize..12, 1..8)
}

proptest! {
    #[test]
    fn requests_mean_the_same_however_they_are_cut(bytes in wire(), pieces in pieces()) {
        for limits in [RequestLimits::default(), RequestLimits::tiny()] {
            let whole = requests_in_pieces(&bytes, &[usize::MAX], limits);
            prop_assert_eq!(&whole, &requests_in_pieces(&bytes, &pieces, limits));
            prop_assert_eq!(&whole, &requests_in_pieces(&bytes, &[1], limits));
        }
    }

    #[test]
    fn replies_mean_the_same_however_they_are_cut(bytes in wire(), pieces in pieces()) {
        for limits in [ReplyLimits::default(), ReplyLimits::tiny()] {
            let whole = replies_in_pieces(&bytes, &[usize::MAX], limits);
            prop_assert_eq!(&whole, &replies_in_pieces(&bytes, &pieces, limits));
            prop_assert_eq!(&whole, &replies_in_pieces(&bytes, &[1], limits));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        requests_in_pieces(&bytes, &[usize::MAX], RequestLimits::default());
        replies_in_pieces(&bytes, &[usize::MAX], ReplyLimits::default());
    }

    #[test]
    fn commands_are_read_back_as_written(
        commands in vec(vec(vec(any::<u8>(), 0..40), 1..6), 0..6),
        pieces in pieces(),
    ) {
        let mut bytes = Vec::new();
        for command in &commands {
            write_command(&mut bytes, command);
        }
        let found = requests_in_pieces(&bytes, &pieces, RequestLimits::default());
        prop_assert_eq!(found, (commands, None));
    }

    #[test]
    fn quoted_inline_arguments_are_read_back(args in vec(vec(any::<u8>(), 0..12), 1..5)) {
        let hex = |byte: &u8| format!("\\x{byte:02x}");
        let quote = |arg: &Vec<u8>| format!("\"{}\"", arg.iter().map(hex).collect::<Vec<_>>().concat());
        let quoted: Vec<String> = args.iter().map(quote).collect();
        let line = format!("{}\r\n", quoted.join(" "));
        let found = requests_in_pieces(line.as_bytes(), &[7], RequestLimits::default());
        prop_assert_eq!(found, (vec![args], None));
    }

    #[test]
    fn values_are_read_back_as_written(values in vec(value(), 0..4), pieces in pieces()) {
        let mut bytes = Vec::new();
        for value in &values {
            Writer::new(&mut bytes, Protocol::Resp3).value(value);
        }
        let found = replies_in_pieces(&bytes, &pieces, ReplyLimits::default());
        prop_assert_eq!(found, (values, None));
    }

    #[test]
    fn resp2_never_holds_a_type_of_resp3(value in value()) {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Protocol::Resp2).value(&value);
        let (found, error) = replies_in_pieces(&bytes, &[usize::MAX], ReplyLimits::default());
        prop_assert_eq!(error, None);
        prop_assert_eq!(found.len(), 1);
        prop_assert!(found.iter().all(is_resp2), "{:?}", found);
    }
}

fn is_resp2(value: &Value) -> bool {
    match value {
        Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil => {
            true
        }
        Value::Array(items) => items.iter().all(is_resp2),
        _ => false,
    }
}

/// A big request in many small pieces: work linear in its bytes. Parsing from the start at each
/// piece would take 10^10 steps, hours in a test build.
#[test]
fn a_big_request_in_small_pieces_is_read_in_linear_time() {
    let args = vec![b"0123456789".to_vec(); 100_000];
    let mut bytes = Vec::new();
    write_command(&mut bytes, &args);
    let mut parser = RequestParser::new(RequestLimits::default());
    let mut end = 0;
    while parser.parse(&bytes[..end]).unwrap() == Parsed::Incomplete {
        end = (end + 16).min(bytes.len());
    }
    assert_eq!(parser.args(&bytes).len(), 100_000);
}

/// The same for an inline command, which is searched for its end.
#[test]
fn a_long_line_in_small_pieces_is_read_in_linear_time() {
    let limits = RequestLimits { inline_bytes_max: 4 << 20, ..RequestLimits::default() };
    let bytes = [vec![b'x'; 2 << 20], vec![b'\n']].concat();
    let mut parser = RequestParser::new(limits);
    let mut end = 0;
    while parser.parse(&bytes[..end]).unwrap() == Parsed::Incomplete {
        end = (end + 16).min(bytes.len());
    }
    assert_eq!(parser.args(&bytes).len(), 1);
}
