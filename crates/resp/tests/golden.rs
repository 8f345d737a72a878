//! Fixed bytes: what goes out, what comes in, and the exact texts of the errors.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(clippy::redundant_closure_for_method_calls)] // a method's path is not general enough here

use bytes::Bytes;
use sampan_resp::{
    Parsed, Protocol, ProtocolError, ReplyError, ReplyLimits, ReplyParser, RequestLimits,
    RequestParser, Value, Writer, write_command,
};

/// What the writer appends, in RESP2 and in RESP3.
fn written(write: impl Fn(&mut Writer<'_>)) -> [String; 2] {
    [Protocol::Resp2, Protocol::Resp3].map(|protocol| {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    })
}

#[track_caller]
fn writes(write: impl Fn(&mut Writer<'_>), resp2: &str, resp3: &str) {
    assert_eq!(written(write), [resp2, resp3]);
}

#[test]
fn types_of_both_versions_are_written_alike() {
    let same = |write: &dyn Fn(&mut Writer<'_>), bytes: &str| writes(write, bytes, bytes);
    same(&|w| w.ok(), "+OK\r\n");
    same(&|w| w.simple("PONG"), "+PONG\r\n");
    same(&|w| w.error("ERR syntax error"), "-ERR syntax error\r\n");
    same(&|w| w.integer(7), ":7\r\n");
    same(&|w| w.integer(-12), ":-12\r\n");
    same(&|w| w.integer(i64::MIN), ":-9223372036854775808\r\n");
    same(&|w| w.bulk(b""), "$0\r\n\r\n");
    same(&|w| w.bulk(b"0123456789\r\n"), "$12\r\n0123456789\r\n\r\n");
    same(&|w| w.array(0), "*0\r\n");
    same(&|w| w.array(1000), "*1000\r\n");
}

#[test]
fn resp2_replaces_the_types_it_does_not_have() {
    writes(|w| w.nil(), "$-1\r\n", "_\r\n");
    writes(|w| w.nil_array(), "*-1\r\n", "_\r\n");
    writes(|w| w.map(7), "*14\r\n", "%7\r\n");
    writes(|w| w.set(2), "*2\r\n", "~2\r\n");
    writes(|w| w.push(2), "*2\r\n", ">2\r\n");
    writes(|w| w.boolean(true), ":1\r\n", "#t\r\n");
    writes(|w| w.boolean(false), ":0\r\n", "#f\r\n");
    writes(|w| w.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
    writes(|w| w.double(-1e300), "$6\r\n-1e300\r\n", ",-1e300\r\n");
    writes(|w| w.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n");
    writes(|w| w.double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n");
    writes(|w| w.verbatim(*b"txt", b"a=1"), "$3\r\na=1\r\n", "=7\r\ntxt:a=1\r\n");
    writes(|w| w.big_number("123"), "$3\r\n123\r\n", "(123\r\n");
}

#[test]
fn no_text_can_forge_a_reply() {
    writes(|w| w.error("ERR a\r\n+OK\0b"), "-ERR a  +OK b\r\n", "-ERR a  +OK b\r\n");
    writes(|w| w.simple("a\nb"), "+a b\r\n", "+a b\r\n");
}

#[test]
fn a_command_is_an_array_of_bulks() {
    let mut out = Vec::new();
    write_command(&mut out, &["SET", "key", ""]);
    assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
}

/// Every request in the bytes, each as its arguments; then the error that ends them, if any.
fn requests(mut bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let mut parser = RequestParser::new(RequestLimits::default());
    let mut found = Vec::new();
    loop {
        let used = match parser.parse(bytes) {
            Ok(Parsed::Complete { consumed }) => {
                found.push(parser.args(bytes).iter().map(<[u8]>::to_vec).collect());
                consumed
            }
            Ok(Parsed::Empty { consumed }) => consumed,
            Ok(Parsed::Incomplete) => return (found, None),
            Err(error) => return (found, Some(error)),
        };
        bytes = &bytes[used..];
    }
}

#[track_caller]
fn reads(bytes: &[u8], expected: &[&[&[u8]]]) {
    assert_eq!(requests(bytes), (expected.iter().map(|args| to_vecs(args)).collect(), None));
}

fn to_vecs(args: &[&[u8]]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.to_vec()).collect()
}

#[test]
fn arrays_and_inline_commands_are_read_in_one_pipeline() {
    reads(
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*1\r\n$4\r\nPING\r\nECHO 'a b'\n",
        &[&[b"GET", b"k"], &[b"PING"], &[b"PING"], &[b"ECHO", b"a b"]],
    );
    reads(b"*2\r\n$1\r\n\r\r\n$4\r\n\r\n\0\xff\r\n", &[&[b"\r", b"\r\n\0\xff"]]);
}

#[test]
fn what_asks_for_nothing_is_skipped_and_leaves_nothing_behind() {
    reads(b"\r\n\n*0\r\n*-1\r\n*-9\r\n   \r\n", &[]);
    reads(
        b"GET k\r\n*0\r\n*1\r\n$4\r\nPING\r\n\r\nQUIT\r\n",
        &[&[b"GET", b"k"], &[b"PING"], &[b"QUIT"]],
    );
    let mut parser = RequestParser::new(RequestLimits::default());
    parser.parse(b"GET k\r\n").unwrap();
    assert_eq!(parser.parse(b"*0\r\nrest"), Ok(Parsed::Empty { consumed: 4 }));
    assert!(parser.args(b"*0\r\nrest").is_empty());
}

#[test]
fn a_request_in_part_is_not_judged() {
    for partial in
        ["", "*", "*2", "*2\r", "*1\r\n", "*1\r\n$", "*1\r\n$3\r\nGE", "*1\r\n$3\r\nGET\r", "GET"]
    {
        assert_eq!(requests(partial.as_bytes()), (vec![], None), "{partial:?}");
    }
}

#[test]
fn broken_requests_get_the_errors_of_redis() {
    let cases: [(&[u8], &str); 16] = [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1\n", "invalid multibulk length"),
        (b"*3000000000\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$abc\r\n", "invalid bulk length"),
        (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n'1\r\n", "expected '$', got '''"),
        (b"*1\r\n\r\n", "expected '$', got '\\r'"),
        (b"*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*1\r\n$4\r\nPINGxy", "expected CRLF after bulk"),
        (b"SET k \"v\r\n", "unbalanced quotes in request"),
        (b"'a'b\r\n", "unbalanced quotes in request"),
    ];
    for (bytes, text) in cases {
        let error = requests(bytes).1.unwrap_or_else(|| panic!("{}", bytes.escape_ascii()));
        assert_eq!(error.to_string(), format!("Protocol error: {text}"));
    }
    let mut out = Vec::new();
    ProtocolError::InvalidBulkLength.write(&mut out);
    assert_eq!(out, b"-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn requests_before_a_broken_one_are_answered() {
    let (found, error) = requests(b"PING\r\n*1\r\n$4\r\nPING\r\n*1\r\n!");
    assert_eq!(found.len(), 2);
    assert_eq!(error, Some(ProtocolError::ExpectedBulk(b'!')));
}

fn reply(bytes: &[u8]) -> Result<Option<Value>, ReplyError> {
    ReplyParser::new(ReplyLimits::default()).parse(bytes).map(|progress| progress.value)
}

fn bulk(text: &'static [u8]) -> Value {
    Value::Bulk(Bytes::from_static(text))
}

#[test]
fn every_reply_type_is_read() {
    let cases = [
        (&b"+OK\r\n"[..], Value::OK),
        (b"+PONG\r\n", Value::Simple("PONG".into())),
        (b"-ERR no\r\n", Value::Error("ERR no".into())),
        (b"!6\r\nERR\r\nx\r\n", Value::Error("ERR\r\nx".into())),
        (b":-42\r\n", Value::Integer(-42)),
        (b":+42\r\n", Value::Integer(42)),
        (b"$3\r\na\r\n\r\n", bulk(b"a\r\n")),
        (b"$0\r\n\r\n", bulk(b"")),
        (b"$-1\r\n", Value::Nil),
        (b"*-1\r\n", Value::Nil),
        (b"_\r\n", Value::Nil),
        (b"#t\r\n", Value::Boolean(true)),
        (b"#f\r\n", Value::Boolean(false)),
        (b",1.5e3\r\n", Value::Double(1500.0)),
        (b",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        (b"(-12345678901234567890\r\n", Value::BigNumber("-12345678901234567890".into())),
        (b"=5\r\ntxt:a\r\n", Value::Verbatim { format: *b"txt", text: Bytes::from_static(b"a") }),
        (b"*0\r\n", Value::Array(vec![])),
        (
            b"*2\r\n:1\r\n*1\r\n_\r\n",
            Value::Array(vec![Value::Integer(1), Value::Array(vec![Value::Nil])]),
        ),
        (b"%1\r\n+k\r\n:1\r\n", Value::Map(vec![(Value::Simple("k".into()), Value::Integer(1))])),
        (b"~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)])),
        (b">2\r\n+a\r\n:1\r\n", Value::Push(vec![Value::Simple("a".into()), Value::Integer(1)])),
    ];
    for (bytes, value) in cases {
        assert_eq!(reply(bytes), Ok(Some(value)), "{}", bytes.escape_ascii());
    }
    let Ok(Some(Value::Double(nan))) = reply(b",nan\r\n") else { panic!("a double") };
    assert!(nan.is_nan());
}

#[test]
fn attributes_are_skipped_wherever_they_stand() {
    assert_eq!(reply(b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n"), Ok(Some(bulk(b"v"))));
    assert_eq!(reply(b"|0\r\n:1\r\n"), Ok(Some(Value::Integer(1))));
    let nested = Value::Array(vec![Value::Integer(1), Value::Integer(2)]);
    assert_eq!(reply(b"*2\r\n:1\r\n|1\r\n+a\r\n*1\r\n+b\r\n:2\r\n"), Ok(Some(nested)));
    assert_eq!(reply(b"|1\r\n+ttl\r\n:3\r\n"), Ok(None));
}

#[test]
fn what_is_no_reply_is_refused() {
    let cases: [(&[u8], &str); 18] = [
        (b"?\r\n", "reply of unknown type '?'"),
        (b"\r\n", "reply of unknown type '\\r'"),
        (b"HTTP/1.1 400\r\n", "reply of unknown type 'H'"),
        (b":1a\r\n", "malformed integer"),
        (b":9223372036854775808\r\n", "malformed integer"),
        (b"$1\r\nab\r\n", "malformed bulk"),
        (b"$-2\r\n", "malformed bulk"),
        (b"$?\r\n", "malformed bulk"),
        (b"!-1\r\n", "malformed bulk error"),
        (b"=2\r\nab\r\n", "malformed verbatim"),
        (b"*-2\r\n", "malformed aggregate"),
        (b"%-1\r\n", "malformed aggregate"),
        (b"#x\r\n", "malformed boolean"),
        (b"_x\r\n", "malformed null"),
        (b",x\r\n", "malformed double"),
        (b"(1.5\r\n", "malformed big number"),
        (b"+OK\n", "malformed line end"),
        (b"*1\r\n>1\r\n", "malformed push inside a reply"),
    ];
    for (bytes, text) in cases {
        assert_eq!(reply(bytes).unwrap_err().to_string(), text, "{}", bytes.escape_ascii());
    }
}
