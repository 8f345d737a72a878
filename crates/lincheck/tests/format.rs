//! The file format: what is read comes back when written, and a line that says anything else than
//! one thing is refused by its number with what would have been accepted.

use sampan_lincheck::{
    Action, Fault, History, Leadership, LineError, Options, ReadError, Status, Witness, check,
};

const EVERYTHING: &str = r#"
{"note":"seed 42, commit abc"}
{"client":1,"op":"put","key":"k","value":"v\n\"é\"","out":"","call":1,"ret":5,"status":"ok","index":[7,2]}
{"client":2,"op":"get","key":"k","out":null,"call":1,"ret":9,"status":"ok","index":7}
{"client":2,"op":"get","key":"k","out":"v","call":11,"ret":12,"status":"ok"}
{"client":3,"op":"append","key":"k","value":"w","call":3,"ret":null,"status":"unknown"}
{"client":4,"op":"append","key":"k","value":"w","out":17,"call":3,"ret":3,"status":"ok"}
{"client":4,"op":"append","key":"k","value":"w","out":"vw","call":4,"ret":5,"status":"ok"}
{"client":5,"op":"incr","key":"n","value":-2,"out":"3","call":5,"ret":6,"status":"ok","session":99}
{"client":5,"op":"incr","key":"n","out":4,"call":7,"ret":8,"status":"ok"}
{"client":6,"op":"del","key":"k","out":1,"call":8,"ret":9,"status":"ok"}
{"client":7,"op":"cas","key":"k","expect":null,"value":"x","out":true,"call":9,"ret":9,"status":"ok"}
{"client":8,"op":"cas","key":"k","expect":"a","value":"x","call":9,"ret":9223372036854775807,"status":"unknown"}
{"client":9,"op":"mset","keys":["a","b"],"values":["1","2"],"call":10,"ret":11,"status":"ok"}
{"client":9,"op":"mget","keys":["a","b"],"out":["1",null],"call":12,"ret":13,"status":"ok"}
{"client":9,"op":"multi","ops":[{"op":"get","key":"a","out":"1"},{"op":"put","key":"b","value":"3"}],"call":14,"ret":15,"status":"ok"}
{"client":10,"op":"put","key":"k","value":"never","call":16,"ret":17,"status":"fail"}

{"fault":"partition","from":3,"to":9,"what":"n1 | n2 n3"}
{"fault":"pause","from":10,"to":null}
{"leader":1,"term":3,"from":1,"to":10}
{"leader":2,"from":10}
"#;

fn read(text: &str) -> History {
    History::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn written(history: &History) -> String {
    let mut bytes = Vec::new();
    history.write(&mut bytes).expect("a Vec takes any bytes");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[test]
fn every_kind_of_line_is_read() {
    let history = read(EVERYTHING);
    assert_eq!(history.len(), 15);
    let ids: Vec<_> = history.ids().collect();
    let action = |at: usize| {
        let [step] = history.steps(ids[at]) else { panic!("operation {at} has one step") };
        step.action
    };
    let text = |value| history.value_text(value);

    let Action::Put { value } = action(0) else { panic!("{:?}", action(0)) };
    assert_eq!(text(value), "v\n\"é\"");
    assert_eq!(history.operation(ids[0]).witness, Some(Witness { index: 7, sub: 2 }));
    assert_eq!(action(1), Action::Get { out: Some(None) });
    assert_eq!(history.operation(ids[1]).witness.map(|witness| witness.sub), Some(Witness::AFTER));
    assert_eq!(history.operation(ids[3]).status, Status::Unknown);
    assert_eq!(history.operation(ids[3]).return_ns, None);
    assert!(matches!(action(4), Action::Append { out: Some(17), .. }));
    assert!(matches!(action(5), Action::Append { out: None, .. }));
    assert_eq!(action(6), Action::Incr { delta: -2, out: Some(3) });
    assert_eq!(action(7), Action::Incr { delta: 1, out: Some(4) });
    assert_eq!(action(8), Action::Del { out: Some(true) });
    assert!(matches!(action(9), Action::Cas { expect: None, out: Some(true), .. }));
    assert!(matches!(action(10), Action::Cas { expect: Some(_), out: None, .. }));
    assert_eq!(history.operation(ids[10]).return_ns, None, "2^63-1 is never");
    assert_eq!(history.steps(ids[11]).len(), 2);
    assert_eq!(history.steps(ids[12])[1].action, Action::Get { out: Some(None) });
    assert!(matches!(history.steps(ids[13])[1].action, Action::Put { .. }));
    assert_eq!(history.operation(ids[14]).status, Status::Fail);

    assert_eq!(history.notes, ["seed 42, commit abc"]);
    let what = "n1 | n2 n3".to_owned();
    let partition = Fault { kind: "partition".to_owned(), from_ns: 3, to_ns: Some(9), what };
    assert_eq!(history.faults[0], partition);
    assert_eq!((history.faults[1].to_ns, history.faults[1].what.as_str()), (None, ""));
    let leader = Leadership { node: 1, term: Some(3), from_ns: 1, to_ns: Some(10) };
    assert_eq!(history.leaderships[0], leader);
    assert_eq!(history.leaderships[1].term, None);
    assert!(history.tells_missing());
}

#[test]
fn what_is_written_reads_the_same() {
    let history = read(EVERYTHING);
    let once = written(&history);
    let again = read(&once);
    assert_eq!(written(&again), once);
    assert_eq!(once.lines().count(), EVERYTHING.trim().lines().count() - 1);
    for id in history.ids() {
        assert_eq!(again.operation(id), history.operation(id));
        assert_eq!(again.describe(id), history.describe(id));
    }
    assert_eq!((again.faults, again.leaderships), (history.faults, history.leaderships));
    assert_eq!(again.notes, history.notes);
}

#[test]
fn a_store_that_never_says_missing_reads_missing_as_empty() {
    let empty =
        r#"{"client":1,"op":"get","key":"k","out":"","call":1,"ret":2,"status":"ok"}"#.to_owned();
    let missing = r#"{"client":1,"op":"get","key":"j","out":null,"call":1,"ret":2,"status":"ok"}"#;
    assert!(check(&read(&empty), &Options::tiny()).is_linearizable());
    let both = empty + "\n" + missing;
    assert!(!check(&read(&both), &Options::tiny()).is_linearizable());
}

/// A good operation with one field replaced, or taken out when the value is empty.
fn with(op: &str, field: &str, value: &str) -> String {
    let mut fields = vec![
        ("client", "1"),
        ("op", op),
        ("key", r#""k""#),
        ("value", r#""7""#),
        ("expect", "null"),
        ("out", "\"1\""),
        ("call", "10"),
        ("ret", "20"),
        ("status", r#""ok""#),
    ];
    if op.starts_with("\"m") {
        fields.extend([("keys", r#"["a","b"]"#), ("values", r#"["a","b"]"#), ("ops", "[]")]);
    }
    fields.retain(|&(name, _)| name != field);
    if !value.is_empty() {
        fields.push((field, value));
    }
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[test]
fn a_bad_line_is_refused_with_its_number_and_what_is_accepted() {
    let long = format!("\"{}\"", "x".repeat(100));
    let cases = [
        (with("\"get\"", "client", ""), r#""client" is absent; accepted: a number"#),
        (with("\"get\"", "client", "-1"), r#""client" is -1; accepted: a number"#),
        (with("\"gett\"", "", ""), r#""op" is "gett"; accepted: one of get, put, append"#),
        (with("7", "", ""), r#""op" is 7; accepted: one of get, put"#),
        (with("\"get\"", "key", "null"), r#""key" is null; accepted: a string"#),
        (with("\"get\"", "out", ""), r#""out" is absent; accepted: a string, or null"#),
        (with("\"get\"", "out", "[1]"), r#""out" is an array of 1; accepted: a string"#),
        (with("\"put\"", "value", "3"), r#""value" is 3; accepted: a string"#),
        (with("\"append\"", "value", ""), r#""value" is absent; accepted: a string"#),
        (with("\"incr\"", "value", "\"x\""), r#""value" is "x"; accepted: an integer"#),
        (with("\"incr\"", "value", "1.5"), r#""value" is 1.5; accepted: an integer"#),
        (with("\"incr\"", "value", &long), "x\"…; accepted: an integer of 64 bits"),
        (with("\"cas\"", "expect", ""), r#""expect" is absent; accepted: a string, or null"#),
        (with("\"cas\"", "out", "2"), r#""out" is 2; accepted: true, false, 1 or 0"#),
        (with("\"del\"", "", ""), r#""out" is "1"; accepted: true, false, 1 or 0"#),
        (with("\"mset\"", "keys", "[]"), r#""keys" is an array of 0; accepted: an array of str"#),
        (with("\"mset\"", "keys", "[\"a\"]"), r#""values" is an array of 2; accepted: an array"#),
        (with("\"mget\"", "out", "[\"a\"]"), r#""out" is an array of 1; accepted: an array of"#),
        (with("\"multi\"", "", ""), r#""ops" is an array of 0; accepted: an array of objects"#),
        (with("\"multi\"", "ops", "[3]"), r#""ops" is 3; accepted: an array of objects"#),
        (with("\"multi\"", "ops", r#"[{"op":"mget"}]"#), r#""key" is absent"#),
        (
            with("\"multi\"", "ops", r#"[{"op":"mget","key":"k"}]"#),
            r#""op" is "mget"; accepted: one of get, put, append, incr, del, cas"#,
        ),
        (with("\"get\"", "call", "\"10\""), r#""call" is "10"; accepted: nanoseconds"#),
        (with("\"get\"", "call", "1e3"), r#""call" is 1000; accepted: nanoseconds, a whole"#),
        (with("\"get\"", "ret", "9"), r#""ret" is 9; accepted: a time not before "call""#),
        (with("\"get\"", "ret", "null"), r#""ret" is null; accepted: nanoseconds, since"#),
        (with("\"get\"", "status", "\"OK\""), r#""status" is "OK"; accepted: one of ok, fail"#),
        (with("\"get\"", "status", ""), r#""status" is absent; accepted: one of ok, fail"#),
        (with("\"get\"", "index", "\"7\""), r#""index" is "7"; accepted: a number, or an array"#),
        (with("\"get\"", "index", "[7]"), r#""index" is an array of 1; accepted: a number"#),
        ("{\"client\":1}".to_owned(), "none of the fields \"op\", \"fault\""),
        ("{\"fault\":1,\"from\":1}".to_owned(), r#""fault" is 1; accepted: a string"#),
        ("{\"fault\":\"kill\"}".to_owned(), r#""from" is absent; accepted: nanoseconds"#),
        ("{\"leader\":\"n1\",\"from\":1}".to_owned(), r#""leader" is "n1"; accepted: a number"#),
        ("{\"note\":1}".to_owned(), r#""note" is 1; accepted: a string"#),
        ("[1,2]".to_owned(), "not an object; accepted: one JSON object a line"),
        ("{\"op\":\"get\"".to_owned(), "accepted: one JSON object a line"),
        ("{\"op\":\"get\",\"op\":\"put\"}".to_owned(), "duplicate field `op`"),
        ("{} {}".to_owned(), "trailing characters"),
    ];
    for (line, expected) in cases {
        let text = format!("{{\"note\":\"one\"}}\n\n{line}\n");
        let Err(ReadError::Line(error)) = History::read(text.as_bytes()) else {
            panic!("accepted: {line}");
        };
        let LineError { line: number, .. } = error;
        assert_eq!(number, 3, "{line}");
        let message = error.to_string();
        assert!(message.starts_with("line 3: "), "{message}");
        assert!(message.contains(expected), "{line}\n{message}\n{expected}");
    }
}

#[test]
fn the_good_lines_of_the_bad_ones_are_good() {
    for op in ["get", "put", "append", "incr", "cas"] {
        let out = if op == "cas" { "true" } else { "\"1\"" };
        let line = with(&format!("\"{op}\""), "out", out);
        assert_eq!(read(&line).len(), 1, "{line}");
    }
}

#[test]
fn bytes_that_are_no_history_are_refused_and_never_panic() {
    let good = EVERYTHING.trim().as_bytes();
    let mut refused = 0;
    for at in 0..good.len() {
        for change in [0x00, b'"', b'}', b'9', 0xff] {
            let mut bytes = good.to_vec();
            bytes[at] = change;
            refused += u32::from(History::read(&bytes[..]).is_err());
        }
        refused += u32::from(History::read(&good[..at]).is_err());
    }
    assert!(refused > 3_000, "{refused}");
}
