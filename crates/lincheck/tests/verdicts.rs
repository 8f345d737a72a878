//! Whole histories through the front door: verdicts, the counterexample, the report and the picture
//! as a user gets them.

use std::fmt::Write;

use sampan_lincheck::{
    History, Method, Options, Refusal, Report, RunError, Verdict, check, html, run_file,
};

/// Lines of `client op key value [call..ret] status`, `-` for nothing.
fn history(script: &str) -> History {
    let mut lines = String::new();
    for line in script.trim().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [client, op, key, value, call, ret, rest @ ..] = words.as_slice() else {
            panic!("six words: {line}");
        };
        let status = if *ret == "-" { "unknown" } else { "ok" };
        let ret = if *ret == "-" { "null" } else { ret };
        let index = rest.first().map_or("null", |index| index);
        let field = if *op == "get" { "out" } else { "value" };
        let value = if *value == "-" { "null".to_owned() } else { format!("\"{value}\"") };
        writeln!(
            lines,
            r#"{{"client":{client},"op":"{op}","key":"{key}","{field}":{value},"call":{call},"ret":{ret},"status":"{status}","index":{index}}}"#
        )
        .expect("a String takes any text");
    }
    History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn verdict(script: &str) -> Report {
    check(&history(script), &Options::default())
}

#[test]
fn well_known_histories() {
    let linearizable = [
        // Intervals are closed: equal times are concurrent.
        "1 put k a 0 10\n2 put k b 10 20\n3 get k a 20 30",
        // A read may see a write that has not returned, and keep on seeing it.
        "1 put k a 0 100\n2 get k a 10 20\n3 get k a 30 40",
        // An unknown write may take effect long after everybody gave up, or never.
        "1 put k a 0 -\n2 get k - 10 20\n2 put k b 30 40\n2 get k b 50 60\n2 get k a 70 80",
        "1 put k a 0 -\n2 get k - 10 20",
        // Order between keys that nothing joins is not observed.
        "1 put k a 0 1\n2 put j b 2 3\n3 get j b 4 5\n3 get k a 6 7",
    ];
    let not = [
        "1 put k a 0 9\n2 put k b 10 20\n3 get k a 21 30",
        // New, then old: each reader is right alone.
        "1 put k a 0 1\n1 put k b 2 100\n2 get k b 10 20\n3 get k a 30 40",
        "1 put k a 0 -\n2 get k a 10 20\n2 get k - 30 40\n",
        "1 get k a 0 1\n2 put k a 5 -",
        // Applied twice: exactly once is part of the model.
        "1 append k a 0 1\n2 get k aa 2 3",
        "1 append k a 0 -\n2 get k aa 2 3",
        // Lost.
        "1 append k a 0 1\n1 append k b 2 3\n2 get k b 4 5",
    ];
    for script in linearizable {
        assert_eq!(verdict(script).verdict, Verdict::Linearizable, "{script}");
    }
    let unknown_read = verdict("1 put k a 0 1\n2 get k - 2 -\n3 get k a 3 4").counts;
    assert_eq!((unknown_read.operations, unknown_read.unknown, unknown_read.checked), (3, 1, 2));
    for script in not {
        assert!(matches!(verdict(script).verdict, Verdict::NotLinearizable(_)), "{script}");
    }
}

#[test]
fn keys_joined_by_an_operation_are_checked_together() {
    let lines = |last: &str| {
        let first = r#"{"client":1,"op":"mset","keys":["a","b"],"values":["1","1"],"call":0,"ret":100,"status":"ok"}"#;
        let second = r#"{"client":2,"op":"mset","keys":["a","b"],"values":["2","2"],"call":0,"ret":100,"status":"ok"}"#;
        format!(
            r#"{first}
{second}
{{"client":3,"op":"mget","keys":["a","b"],"out":{last},"call":200,"ret":300,"status":"ok"}}"#
        )
    };
    let report = |last: &str| {
        let history = History::read(lines(last).as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        check(&history, &Options::default())
    };
    assert!(report(r#"["1","1"]"#).is_linearizable());
    // Either key alone has an order.
    let torn = report(r#"["1","2"]"#);
    let Verdict::NotLinearizable(counterexample) = torn.verdict else { panic!("{torn}") };
    assert_eq!(counterexample.smallest_keys, ["a", "b"]);
    assert_eq!(counterexample.smallest.len(), 3);
}

/// Pairs of 20 keys, two at a time, each written by two clients at once and then read. One read
/// sees a half of one write and a half of the other, as each key alone allows.
#[test]
fn a_torn_read_of_two_keys_is_found_among_many() {
    let mut lines = String::new();
    for round in 0_u64..2_000 {
        let now = 1_000 * (round / 2);
        let keys = format!(r#""keys":["k{}","k{}"]"#, round % 8, 8 + round % 12);
        for writer in [0, 1] {
            let (client, call, ret) = (round % 2 * 3 + writer, now + writer, now + 400);
            let values = format!(r#""values":["v{round}{writer}","w{round}{writer}"]"#);
            writeln!(
                lines,
                r#"{{"client":{client},"op":"mset",{keys},{values},"call":{call},"ret":{ret},"status":"ok"}}"#
            )
            .expect("to a String");
        }
        let (client, call, ret) = (round % 2 * 3 + 2, now + 500, now + 900);
        let halves = if round == 1_000 { [0, 1] } else { [round % 2, round % 2] };
        let out = format!(r#""out":["v{round}{}","w{round}{}"]"#, halves[0], halves[1]);
        writeln!(
            lines,
            r#"{{"client":{client},"op":"mget",{keys},{out},"call":{call},"ret":{ret},"status":"ok"}}"#
        )
        .expect("to a String");
    }
    let history = History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let report = check(&history, &Options::default());
    let Verdict::NotLinearizable(counterexample) = &report.verdict else { panic!("{report}") };
    assert_eq!(counterexample.smallest_keys, ["k0", "k12"], "{report}");
    let smallest: Vec<String> =
        counterexample.smallest.iter().map(|needed| history.describe(needed.id)).collect();
    assert_eq!(
        smallest,
        [
            "client 0 { put k0 \"v10000\"; put k12 \"w10000\" } [500000..500400]",
            "client 1 { put k0 \"v10001\"; put k12 \"w10001\" } [500001..500400]",
            "client 2 { get k0 → \"v10000\"; get k12 → \"w10001\" } [500500..500900]",
        ]
    );
}

/// One key, 64 clients, 600 rounds of overlapping puts and reads, then a stale read, then more.
fn stale_read_in_the_middle() -> History {
    let mut script = String::new();
    for round in 0_u64..600 {
        let now = round * 100;
        let (writer, reader) = (round % 64, (round * 7 + 1) % 64);
        let seen = if round == 400 { 398 } else { round };
        writeln!(script, "{writer} put k v{round}; {now} {}", now + 40).expect("to a String");
        writeln!(script, "{reader} get k v{seen}; {} {}", now + 45, now + 90).expect("to a String");
        let open = 1000 + round;
        if round % 50 == 0 {
            writeln!(script, "{open} put k u{round}; {now} -").expect("to a String");
        }
    }
    history(&script)
}

#[test]
fn the_smallest_failing_part_of_a_long_history_is_small() {
    let history = stale_read_in_the_middle();
    let report = check(&history, &Options::default());
    let Verdict::NotLinearizable(counterexample) = &report.verdict else { panic!("{report}") };
    let culprit = history.describe(counterexample.first_illegal);
    assert_eq!(culprit, "client 49 get k → \"v398;\" [40045..40090]");
    // All 401 puts and 400 reads before, and no open put: nobody saw one.
    assert_eq!(counterexample.legal_prefix.len(), 801);
    let smallest: Vec<String> =
        counterexample.smallest.iter().map(|needed| history.describe(needed.id)).collect();
    assert_eq!(smallest, ["client 16 put k \"v400;\" [40000..40040]", culprit.as_str()]);
    assert!(counterexample.from_any_state && counterexample.is_minimal);
    assert!(counterexample.smallest.iter().all(|needed| !needed.open));
}

#[test]
fn the_report_is_the_same_for_any_number_of_threads() {
    let mut script = String::new();
    for key in 0..40 {
        for round in 0..10 {
            let now = round * 10 + key;
            let seen = if (key, round) == (17, 5) { 3 } else { round };
            writeln!(script, "{key} put k{key} v{round} {now} {}", now + 3).expect("to a String");
            writeln!(script, "{key} get k{key} v{seen} {} {}", now + 4, now + 5).expect("a String");
        }
    }
    let history = history(&script);
    let with = |threads| check(&history, &Options { threads, ..Options::default() });
    let one = with(1);
    assert_eq!((one.failing_parts, one.counts.parts), (1, 40));
    for threads in [0, 2, 3, 8] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
}

/// A counter that was never what a read says, and too many ways to make sure of it.
fn hopeless_counter() -> String {
    let mut lines = String::new();
    for bit in 0..24 {
        let delta = 1_u64 << bit;
        writeln!(lines, r#"{{"client":{bit},"op":"incr","key":"n","value":{delta},"call":0,"ret":null,"status":"unknown"}}"#).expect("to a String");
    }
    lines + r#"{"client":99,"op":"get","key":"n","out":"no sum","call":1,"ret":2,"status":"ok"}"#
}

#[test]
fn a_search_that_gives_up_is_no_pass_and_no_failure() {
    let joined = r#"
{"client":98,"op":"mset","keys":["m","o"],"values":["1","1"],"call":0,"ret":1,"status":"ok"}
{"client":97,"op":"mget","keys":["n","m"],"out":["no sum","1"],"call":3,"ret":4,"status":"ok"}"#;
    for (lines, keys) in
        [(hopeless_counter(), vec!["n"]), (hopeless_counter() + joined, vec!["m", "n", "o"])]
    {
        let history = History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        let report = check(&history, &Options::tiny());
        assert_eq!(report.verdict, Verdict::Undecided);
        assert!(!report.is_linearizable());
        assert_eq!(report.undecided_parts[0].keys, keys);
        assert!(report.to_string().starts_with("verdict: undecided\n"), "{report}");
        assert!(html::render(&history, &report).contains("undecided"));
    }
    // A failure elsewhere is a failure, whatever is undecided.
    let wrong = r#"
{"client":1,"op":"get","key":"other","out":"nobody wrote it","call":0,"ret":1,"status":"ok"}"#;
    let lines = hopeless_counter() + wrong;
    let history = History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let report = check(&history, &Options::tiny());
    assert!(matches!(report.verdict, Verdict::NotLinearizable(_)), "{report}");
    assert_eq!((report.failing_parts, report.undecided_parts.len()), (1, 1));
}

#[test]
fn a_false_log_index_is_told_and_changes_no_verdict() {
    // Entry 5 holds two commands; the read was served at 5.
    let truth = "1 put k a 0 90 [5,0]\n2 put k b 0 90 [5,1]\n3 get k b 0 90 5";
    let report = verdict(truth);
    assert_eq!(report.verdict, Verdict::Linearizable);
    assert_eq!(report.counts.parts_by_method[Method::Witness as usize], 1);
    assert!(report.false_claims.is_empty());

    // Without positions in the entry, reads at an index come after its write, whenever called.
    let report = verdict("1 put k a 5 90 5\n2 get k a 0 90 5\n3 put k b 0 90 6");
    assert_eq!(report.counts.parts_by_method[Method::Witness as usize], 1, "{report}");

    let swapped = "1 put k a 0 90 [5,1]\n2 put k b 0 90 [5,0]\n3 get k b 0 90 5";
    let report = verdict(swapped);
    assert_eq!(report.verdict, Verdict::Linearizable);
    assert_eq!(report.counts.parts_by_method[Method::Unique as usize], 1);
    assert!(matches!(report.false_claims[0].refusal, Refusal::Output(_)));
    let line = "false log indices on k: client 3 get k → \"b\" [0..90]: it answered what its place";
    assert!(report.to_string().contains(line), "{report}");

    // In this order every output is right, and real time is not.
    let back_in_time = "1 put k a 0 1 2\n2 put k b 10 11 1\n3 get k a 20 21 3";
    let report = verdict(back_in_time);
    assert!(matches!(report.verdict, Verdict::NotLinearizable(_)));
    assert!(matches!(report.false_claims[0].refusal, Refusal::TooLate(_)));
}

#[test]
fn the_picture_shows_the_failure_and_needs_nothing_else() {
    let mut history = stale_read_in_the_middle();
    history.notes.push("seed <42> & more".to_owned());
    history.faults.push(sampan_lincheck::Fault {
        kind: "partition".to_owned(),
        from_ns: 39_000,
        to_ns: Some(40_020),
        what: "n1 | n2 n3".to_owned(),
    });
    history.leaderships.push(sampan_lincheck::Leadership {
        node: 2,
        term: Some(7),
        from_ns: 0,
        to_ns: None,
    });
    let report = check(&history, &Options::default());
    let page = html::render(&history, &report);
    let count = |what: &str| page.matches(what).count();
    assert_eq!(count("class=\"op bad\""), 1);
    assert_eq!(count("class=\"op need\""), 1);
    assert!(count("class=\"op ok\"") > 300 && count("class=\"op later\"") > 30);
    assert!(count("class=\"op out open\"") > 3, "open puts that nobody saw");
    assert!(count("<circle") > 300, "linearization points");
    assert_eq!((count("class=\"band\""), count("n2, term 7")), (1, 2));
    assert!(page.contains("partition n1 | n2 n3") && page.contains("seed &lt;42&gt; &amp; more"));
    for outside in ["http", "src=", "url(", "@import", "<script", "<link"] {
        assert_eq!(count(outside), 0, "{outside}");
    }
    assert!(page.len() < 1_000_000, "{} bytes", page.len());

    let legal = verdict_of_two();
    let page = html::render(&legal.0, &legal.1);
    assert_eq!(page.matches("class=\"op ok").count(), 2);
    assert!(page.contains("all of the history"));
}

fn verdict_of_two() -> (History, Report) {
    let history = history("1 put k a 0 10\n2 get k a 5 20");
    let report = check(&history, &Options::default());
    (history, report)
}

#[test]
fn a_file_is_checked_and_drawn() {
    let folder = std::env::temp_dir().join(format!("sampan-lincheck-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    let (path, picture) = (folder.join("history.jsonl"), folder.join("history.html"));
    let mut bytes = Vec::new();
    stale_read_in_the_middle().write(&mut bytes).expect("a Vec takes any bytes");
    std::fs::write(&path, bytes).expect("a file for the test");

    let report = run_file(&path, Some(&picture), &Options::default());
    let report = report.unwrap_or_else(|error| panic!("{error}")).to_string();
    let expected = [
        "verdict: not linearizable",
        "history: 1212 operations (1200 ok, 12 unknown, 0 failed), 76 clients, 1 keys",
        "parts: 1, 1 not linearizable; 0 steps of search",
        "operation 809 is the first that fits nowhere",
        "smallest failing part: no order of these on k, whatever was there before:",
        "    client 16 put k \"v400;\" [40000..40040]",
        "  ✗ client 49 get k → \"v398;\" [40045..40090]",
    ];
    for line in expected {
        assert!(report.contains(line), "{line}\n{report}");
    }
    assert!(std::fs::read_to_string(&picture).expect("drawn").starts_with("<!doctype html>"));

    std::fs::write(&path, "{\"op\":\"get\"}\n").expect("a file for the test");
    let error = run_file(&path, None, &Options::default()).expect_err("a bad line");
    assert!(error.to_string().contains("history.jsonl: line 1: \"status\" is absent"), "{error}");
    let missing = run_file(&folder.join("none"), None, &Options::default());
    assert!(matches!(missing, Err(RunError::Read(..))));
    std::fs::remove_dir_all(&folder).expect("the folder of the test goes");
}
