//! The program's own client commands, and the `redis` crate as it is.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::Commands as _;

use crate::harness::{Cluster, Ended, run, sampan};

fn call(cluster: &Cluster, args: &[&str], stdin: &[u8]) -> Ended {
    let mut command = sampan(args);
    run(command.env("SAMPAN_SERVERS", cluster.addresses().join(",")), stdin)
}

#[test]
fn client_commands_print_results_and_tell_outcomes_by_their_exit_codes() {
    let cluster = Cluster::start("cli");
    for (args, code, out) in [
        (&["get", "k"][..], 1, ""),
        (&["set", "k", "v"], 0, ""),
        (&["get", "k"], 0, "v"),
        (&["set", "k", "w", "--nx"], 1, ""),
        (&["set", "other", "w", "--xx"], 1, ""),
        (&["set", "k", "-5", "--xx"], 0, ""),
        (&["incr", "k"], 0, "-4\n"),
        (&["incr", "k", "--by", "-6"], 0, "-10\n"),
        (&["append", "k", "!"], 0, "4\n"),
        (&["exists", "k", "none"], 0, "1\n"),
        (&["exists", "none"], 1, "0\n"),
        (&["ttl", "k"], 0, "-1\n"),
        (&["ttl", "none"], 1, ""),
        (&["expire", "k", "100"], 0, ""),
        (&["expire", "none", "100"], 1, ""),
        (&["set", "t", "v", "--ex", "100"], 0, ""),
        (&["del", "k", "none"], 0, "1\n"),
        (&["del", "k"], 1, "0\n"),
        (&["command", "MSET", "a", "1", "b", "2"], 0, "OK"),
        (&["command", "MGET", "a", "none", "b"], 0, "1\n(nil)\n2\n"),
        (&["command", "GET", "none"], 1, ""),
    ] {
        let ended = call(&cluster, args, b"");
        assert_eq!((ended.code, ended.out()), (Some(code), out), "{args:?}: {}", ended.stderr);
    }
    let ttl: u64 = call(&cluster, &["ttl", "t"], b"").out().trim().parse().unwrap();
    assert!((90_000..=100_000).contains(&ttl), "{ttl} ms");
    let session = call(&cluster, &["command", "SESSION", "OPEN"], b"").out().trim().to_owned();
    for _ in 0..2 {
        let once = call(&cluster, &["command", "once", &session, "1", "INCR", "once"], b"");
        assert_eq!(once.out(), "1\n", "the same reply again");
    }
    assert_eq!(call(&cluster, &["incr", "none", "--by", "x"], b"").code, Some(2));
    call(&cluster, &["set", "text", "abc"], b"");
    call(&cluster, &["incr", "text"], b"").assert_one_error(5, &["not an integer"]);
    call(&cluster, &["command", "FROB"], b"").assert_one_error(5, &["unknown command 'FROB'"]);
}

#[test]
fn an_answer_that_cannot_be_written_is_told_by_the_exit_code() {
    let cluster = Cluster::start("cli-full");
    call(&cluster, &["set", "k", "v"], b"");
    let mut command = sampan(["get", "k"]);
    command.env("SAMPAN_SERVERS", cluster.addresses().join(","));
    assert_lost(&mut command);
    let mut command = sampan(["status"]);
    command.env("SAMPAN_SERVERS", cluster.addresses().join(","));
    assert_lost(&mut command);
    assert_lost(sampan(["inspect"]).arg(cluster.data_dir(1).join("identity")));
}

/// Where its output has no room, a command fails and says so.
fn assert_lost(command: &mut Command) {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(ended.status.code(), Some(6));
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(text.starts_with("sampan: standard output: No space"), "{text}");
}

#[test]
fn values_of_any_bytes_pass_through_standard_input_and_output() {
    let cluster = Cluster::start("cli-binary");
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert_eq!(call(&cluster, &["set", "bin"], &value).code, Some(0));
    assert!(call(&cluster, &["get", "bin"], b"").stdout == value);
    assert_eq!(call(&cluster, &["append", "bin"], b"\0\n").out(), "100002\n");
    assert!(call(&cluster, &["get", "bin"], b"").stdout.ends_with(b"\0\n"));
}

#[test]
fn nobody_there_is_exit_code_3() {
    let port = crate::harness::free_ports(1);
    let servers = format!("127.0.0.1:{port}");
    let args = ["set", "k", "v", "--servers", &servers, "--timeout-ms", "300"];
    run(&mut sampan(args), b"").assert_one_error(3, &["not applied"]);
}

/// A server that knows `PING` and `COMMAND`, and closes the connection on anything else; its
/// address.
fn without_answers() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let reply = if request.contains("PING") {
                    "+PONG\r\n"
                } else if request.contains("COMMAND") {
                    "*1\r\n*-1\r\n"
                } else {
                    break;
                };
                stream.write_all(reply.as_bytes()).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_command_about_sessions_that_nobody_has_answered_may_be_applied() {
    let address = without_answers();
    for (args, code, word) in [
        (&["ONCE", "1", "1", "INCR", "k"][..], 4, "may be applied"),
        (&["session", "close", "1"], 4, "may be applied"),
        (&["STRLEN", "k"], 3, "not applied"),
    ] {
        let mut command = sampan([&["command"][..], args].concat());
        command.env("SAMPAN_SERVERS", &address).env("SAMPAN_TIMEOUT_MS", "300");
        run(&mut command, b"").assert_one_error(code, &[word]);
    }
}

/// A server that takes this long to answer its first `PING`, and answers nothing else.
fn slow_to_greet(greeting_time: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4_096];
        assert!(stream.read(&mut bytes).unwrap() > 0, "no PING");
        std::thread::sleep(greeting_time);
        stream.write_all(b"+PONG\r\n").unwrap();
        while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
        drop(listener);
    });
    address
}

#[test]
fn no_time_at_all_is_refused_and_help_says_what_it_is_for() {
    let whole = "Give up after this long, with all repetitions";
    for (command, use_of_it) in [
        ("get k", whole),
        ("status", whole),
        ("backup /proc/none", "Give up a node that does not answer for this long"),
        ("bench", "A command without an answer for this long has failed"),
    ] {
        let sampan = || sampan(command.split(' '));
        let refusals = [
            run(sampan().args(["--timeout-ms", "0"]), b""),
            run(sampan().env("SAMPAN_TIMEOUT_MS", "0"), b""),
        ];
        for refused in refusals {
            assert_eq!(refused.code, Some(2), "{refused:?}");
            let words = ["--timeout-ms", "0 is not in 1.."];
            assert!(words.iter().all(|words| refused.stderr.contains(words)), "{refused:?}");
        }
        let help = run(sampan().arg("--help"), b"");
        let help: Vec<&str> = help.out().split_whitespace().collect();
        assert!(help.join(" ").contains(use_of_it), "{command}: {help:?}");
    }
}

#[test]
fn a_timeout_is_for_connecting_and_all_calls_together() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    for args in [&["get", "k"][..], &["command", "GET", "k"]] {
        let address = slow_to_greet(TIMEOUT * 2 / 5);
        let mut command = sampan(args);
        command.env("SAMPAN_SERVERS", &address);
        command.env("SAMPAN_TIMEOUT_MS", TIMEOUT.as_millis().to_string());
        let begun = Instant::now();
        run(&mut command, b"").assert_one_error(3, &["not applied"]);
        let took = begun.elapsed();
        assert!(took >= TIMEOUT && took < TIMEOUT * 5 / 4, "{took:?}");
    }
}

#[test]
fn status_shows_every_node_and_which_are_down() {
    let mut cluster = Cluster::start("status");
    cluster.assert_works();
    let all = call(&cluster, &["status"], b"");
    assert_eq!(all.code, Some(0), "{all:?}");
    let lines: Vec<&str> = all.out().lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("NODE  ADDRESS"));
    assert!(!all.out().contains('?'), "every field is known: {}", all.out());
    assert_eq!(all.out().matches(" leader ").count(), 1);
    assert_eq!(all.out().matches(" follower ").count(), 2);
    let follower = cluster.follower();
    let mut alone = sampan(["status", "--servers", &cluster.addresses()[follower as usize - 1]]);
    assert_eq!(run(&mut alone, b"").code, Some(0), "it knows a leader");
    cluster.kill(follower);
    let one_down = call(&cluster, &["status"], b"");
    assert_eq!(one_down.code, Some(1));
    let line = one_down.out().lines().nth(follower as usize).unwrap();
    assert!(line.contains("down (connection refused)"), "{line}");
    cluster.kill_all();
    let all_down = call(&cluster, &["status"], b"");
    assert_eq!(all_down.code, Some(3));
    assert_eq!(all_down.out().matches("down (").count(), 3);
}

#[test]
fn the_redis_crate_works_against_every_node_in_both_protocols() {
    let cluster = Cluster::start("redis-crate");
    for id in cluster.ids() {
        for protocol in ["", "/?protocol=resp3"] {
            let url = format!("redis://127.0.0.1:{}{protocol}", cluster.port(id));
            use_redis_crate(&url, &format!("{id}{}", protocol.len())).unwrap();
        }
    }
}

fn use_redis_crate(url: &str, unique: &str) -> redis::RedisResult<()> {
    let mut c = redis::Client::open(url)?.get_connection()?;
    let key = |name: &str| format!("{name}:{unique}");
    let bytes: Vec<u8> = (0..=255).collect();
    () = c.set(key("bin"), &bytes)?;
    assert_eq!(c.get::<_, Vec<u8>>(key("bin"))?, bytes);
    assert_eq!(c.get::<_, Option<String>>(key("none"))?, None);
    assert_eq!(c.incr::<_, _, i64>(key("n"), 41)?, 41);
    assert_eq!(c.incr::<_, _, i64>(key("n"), 1)?, 42);
    assert_eq!(c.append::<_, _, i64>(key("log"), "ab")?, 2);
    () = c.set_ex(key("t"), "v", 100)?;
    assert!((90..=100).contains(&c.ttl::<_, i64>(key("t"))?));
    () = c.mset(&[(key("a"), 1), (key("b"), 2)])?;
    let values: Vec<Option<i64>> = c.mget(&[key("a"), key("none"), key("b")])?;
    assert_eq!(values, [Some(1), None, Some(2)]);
    let mut pipe = redis::pipe();
    for _ in 0..100 {
        pipe.cmd("INCR").arg(key("pipe"));
    }
    let counts: Vec<i64> = pipe.query(&mut c)?;
    assert_eq!(counts, (1..=100).collect::<Vec<_>>());
    let session: i64 = redis::cmd("SESSION").arg("OPEN").query(&mut c)?;
    for _ in 0..2 {
        let mut once = redis::cmd("ONCE");
        let sum: i64 = once.arg(session).arg(1).arg("INCR").arg(key("once")).query(&mut c)?;
        assert_eq!(sum, 1, "the first reply again");
    }
    assert_eq!(c.del::<_, i64>(&[key("a"), key("b"), key("none")])?, 2);
    let wrong = c.incr::<_, _, i64>(key("log"), 1).unwrap_err();
    assert!(wrong.to_string().contains("not an integer"), "{wrong}");
    Ok(())
}
