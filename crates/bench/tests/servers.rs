//! Runs against servers that misbehave in a known way: every command must be accounted for.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sampan_bench::{Distribution, End, Mix, Op, Plan, Protocol, Report, RunError, run};
use sampan_resp::{Parsed, RequestLimits, RequestParser};

/// What a server does with its `number`-th command (from 1, over all connections).
type Behaviour = fn(number: u64) -> Answer;

enum Answer {
    Reply(&'static [u8]),
    Stall(Duration),
    Close,
    Nothing,
}

const OK: Answer = Answer::Reply(b"+OK\r\n");

/// A server that serves one connection after the other; its address.
fn server(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming().map_while(Result::ok) {
            serve(stream, &mut number, behaviour);
        }
    });
    address
}

/// A server that closes at its 20th command and is away for this long; its address.
fn server_with_an_outage(away: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let again = address.clone();
    std::thread::spawn(move || {
        let behaviour: Behaviour = |number| if number == 20 { Answer::Close } else { OK };
        let mut number = 0;
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        serve(stream, &mut number, behaviour);
        std::thread::sleep(away);
        let listener = TcpListener::bind(again).unwrap();
        for stream in listener.incoming().map_while(Result::ok) {
            serve(stream, &mut number, behaviour);
        }
    });
    address
}

fn serve(mut stream: TcpStream, number: &mut u64, behaviour: Behaviour) {
    let mut parser = RequestParser::new(RequestLimits::default());
    let (mut input, mut chunk) = (Vec::new(), [0; 4_096]);
    loop {
        while let Parsed::Complete { consumed } = parser.parse(&input).unwrap() {
            input.drain(..consumed);
            *number += 1;
            match behaviour(*number) {
                Answer::Reply(bytes) => stream.write_all(bytes).unwrap(),
                Answer::Stall(time) => {
                    std::thread::sleep(time);
                    stream.write_all(b"+OK\r\n").unwrap();
                }
                Answer::Close => return,
                Answer::Nothing => {}
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => input.extend_from_slice(&chunk[..count]),
        }
    }
}

fn plan(server: String) -> Plan {
    Plan {
        servers: vec![server],
        protocol: Protocol::Resp,
        mix: Mix::only(Op::Set),
        keys: 10,
        distribution: Distribution::Uniform,
        value_bytes: 8,
        connections: 1,
        pipeline: 1,
        threads: 1,
        rate: None,
        warm_up: Duration::ZERO,
        end: End::Count(100),
        timeout: Duration::from_secs(10),
        interval: Duration::from_millis(50),
        fill: false,
        seed: 1,
    }
}

fn measure(plan: &Plan) -> Report {
    run(plan, &mut |_, _| {}).unwrap()
}

fn percentile(report: &Report, percent: f64) -> f64 {
    let all = &report.latencies[0].percentiles_ms;
    all.iter().find(|(of, _)| (of - percent).abs() < 1e-9).unwrap().1
}

#[test]
fn errors_are_counted_by_kind_beside_what_was_answered() {
    let server = server(|number| match number % 10 {
        3 => Answer::Reply(b"-CLUSTERDOWN no leader\r\n"),
        7 => Answer::Reply(b"-ERR no\r\n"),
        8 => Answer::Reply(b":1\r\n"),
        _ => OK,
    });
    let report = measure(&Plan { pipeline: 4, ..plan(server) });
    assert_eq!((report.sent, report.answered, report.failed), (100, 70, 30));
    assert_eq!(report.latencies[0].count, 70);
    let errors: Vec<_> = report.errors.iter().map(|(kind, times)| (&**kind, *times)).collect();
    let other_type = "a reply of another type than the command's";
    assert_eq!(errors, [("CLUSTERDOWN", 10), ("ERR no", 10), (other_type, 10)]);
    assert!(!report.is_clean());
}

#[test]
fn commands_on_a_connection_that_breaks_have_failed_and_another_is_made() {
    let server = server(|number| if number == 50 { Answer::Close } else { OK });
    let report = measure(&Plan { pipeline: 7, ..plan(server) });
    // The connection broke at the first of 7 commands; the others were not even read.
    assert_eq!((report.sent, report.answered, report.failed), (100, 93, 7));
    assert_eq!(report.errors.values().sum::<u64>(), 7);
    assert_eq!(report.connections_lost.values().sum::<u64>(), 1);
}

#[test]
fn a_server_that_is_away_for_longer_than_the_timeout_is_found_again() {
    let server = server_with_an_outage(Duration::from_millis(600));
    let (timeout, end) = (Duration::from_millis(200), End::After(Duration::from_secs(2)));
    let report = measure(&Plan { timeout, end, ..plan(server) });
    assert!(report.answered > 100, "{} answered, 19 before the outage", report.answered);
    assert!(!report.connections_lost.is_empty() && !report.is_clean(), "it is told");
}

#[test]
fn a_command_that_is_never_answered_fails_in_time() {
    let server = server(|number| if number == 2 { Answer::Nothing } else { OK });
    let timeout = Duration::from_millis(200);
    let report = measure(&Plan { end: End::Count(3), timeout, ..plan(server) });
    assert_eq!((report.answered, report.failed), (2, 1));
    assert_eq!(report.errors["no answer in time"], 1);
}

#[test]
fn an_open_loop_sees_a_stall_in_every_command_that_was_due() {
    let stall = |number| if number == 300 { Answer::Stall(Duration::from_millis(500)) } else { OK };
    let end = End::Count(1_000);
    let open = measure(&Plan { rate: Some(1_000), end, ..plan(server(stall)) });
    assert_eq!((open.answered, open.not_sent), (1_000, 0));
    // 500 commands were due in the stall, and waited for half of it on average.
    assert!(percentile(&open, 75.0) > 100.0, "{:?}", open.latencies[0]);
    // A closed loop stops asking: it sees one.
    let closed = measure(&Plan { end, ..plan(server(stall)) });
    assert!(percentile(&closed, 99.0) < 400.0, "{:?}", closed.latencies[0]);
    assert!(closed.latencies[0].max_ms >= 500.0);
}

#[test]
fn commands_that_were_due_and_never_sent_are_counted() {
    let stall = |number| if number == 10 { Answer::Stall(Duration::from_secs(1)) } else { OK };
    let end = End::After(Duration::from_millis(300));
    let report = measure(&Plan { rate: Some(1_000), end, ..plan(server(stall)) });
    assert_eq!(report.sent + report.not_sent, 300);
    assert_eq!(report.answered, report.sent);
    assert!(report.not_sent >= 200, "{} not sent", report.not_sent);
}

#[test]
fn the_warm_up_is_answered_and_not_measured() {
    let (warm_up, time) = (Duration::from_millis(200), Duration::from_millis(300));
    let plan = Plan { rate: Some(1_000), warm_up, end: End::After(time), ..plan(server(|_| OK)) };
    let report = measure(&plan);
    assert_eq!(report.answered_in_warm_up, 200);
    // On a busy machine the last ones may come too late to be sent.
    assert_eq!((report.sent + report.not_sent, report.sent - report.answered), (500, 200));
    assert_eq!(report.latencies[0].count, report.answered);
}

#[test]
fn nobody_there_is_an_error_before_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = run(&plan(address.clone()), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, RunError::Connect(_)), "{error}");
    assert!(error.to_string().contains(&address));
}

#[test]
fn one_server_of_two_that_is_not_there_is_said() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let there = server(|_| OK);
    let report = measure(&Plan { servers: vec![gone, there.clone()], ..plan(there) });
    assert_eq!((report.answered, report.failed), (100, 0));
    assert_eq!(report.connections_lost["connection refused"], 1);
    assert!(!report.is_clean());
}

#[test]
fn a_server_that_cannot_be_filled_is_not_measured() {
    let server = server(|number| if number % 5 == 0 { Answer::Reply(b"-OOM x\r\n") } else { OK });
    let error = run(&Plan { fill: true, ..plan(server) }, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("2 of the keys"), "{error}");
}

#[test]
fn keys_are_written_again_if_a_leader_was_lost_meanwhile() {
    let server = server(|number| match number {
        5 => Answer::Reply(b"-CLUSTERDOWN no leader\r\n"),
        14 => Answer::Close,
        _ => OK,
    });
    let report = measure(&Plan { fill: true, ..plan(server) });
    assert_eq!((report.answered, report.failed), (100, 0));
}
