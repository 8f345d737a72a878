//! Rules of the state machine that transcripts cannot show: time, reclamation, duplicates without
//! the log, places in a batch, memory.

mod common;

use common::{Machine, START_MS, show};
use sampan_base::WallTime;
use sampan_kv::{Ahead, BatchBuilder, Class, Kv, Limits, Reply, is_once, parse, values_in_reply};

#[test]
fn the_time_is_the_latest_clock_and_never_goes_back() {
    let mut machine = Machine::new(Limits::tiny(), 0);
    machine.line("SET k v PX 100");
    machine.clock_ms -= 50_000;
    machine.tick();
    assert_eq!(machine.kv.time().unix_ms, START_MS);
    // A leader whose clock is behind: its relative times count from the log's.
    machine.line("SET k v PX 100");
    assert_eq!(machine.line("PEXPIRETIME k"), Reply::Int(START_MS as i64 + 100));
}

#[test]
fn no_clock_makes_times_overflow() {
    let mut machine = Machine::new(Limits::tiny(), 0);
    machine.clock_ms = u64::MAX;
    machine.tick();
    let longest = i64::MAX - (1 << 50);
    assert_eq!(machine.line(&format!("SET k v PX {longest}")), Reply::Ok);
    assert_eq!(machine.line("PEXPIRETIME k"), Reply::Int(i64::MAX));
    assert!(machine.line(&format!("SET k v PX {}", longest + 1)).is_error());
    machine.line("PEXPIREAT k 9223372036854775807");
    assert_eq!(machine.line("PEXPIRE k -9223372036854775808"), Reply::Int(1));
    assert_eq!(machine.line("EXISTS k"), Reply::Int(0));
}

#[test]
fn what_is_over_is_invisible_at_once_and_leaves_memory_a_few_per_entry() {
    let limits = Limits { reclaim_per_batch_max: 2, ..Limits::default() };
    let mut machine = Machine::new(limits, 0);
    machine.line("SET stays v");
    for key in 0..10 {
        machine.line(&format!("SET k{key} v PX 100"));
    }
    let due = WallTime::from_unix_ms(START_MS + 100);
    assert_eq!(machine.kv.next_expiry(), Some(due));
    machine.advance(100);
    for entry in 1..=5 {
        assert_eq!(machine.line("DBSIZE"), Reply::Int(1));
        let stats = machine.kv.stats();
        assert_eq!((stats.keys, stats.expires, stats.expired_total), (1, 0, 2 * entry));
        // While some are left the leader is told that a tick is due.
        assert_eq!(machine.kv.next_expiry(), (entry < 5).then_some(due));
        machine.tick();
    }
}

#[test]
fn every_command_takes_a_key_that_is_over_but_in_memory_for_absent() {
    // No entry takes out more than one key, so that the second and later ones are still there.
    let limits = Limits { reclaim_per_batch_max: 1, ..Limits::default() };
    let commands = [
        ("GET k", "nil"),
        ("EXISTS k", ":0"),
        ("MGET k", "[nil]"),
        ("STRLEN k", ":0"),
        ("GETRANGE k 0 -1", "\"\""),
        ("TYPE k", "+none"),
        ("PTTL k", ":-2"),
        ("PEXPIRETIME k", ":-2"),
        ("DEL k", ":0"),
        ("GETDEL k", "nil"),
        ("PERSIST k", ":0"),
        ("PEXPIRE k 1000", ":0"),
        ("SETNX k new", ":1"),
        ("SET k new GET", "nil"),
        ("SET k new XX", "nil"),
        ("SET k new NX KEEPTTL", "+OK"),
        ("APPEND k new", ":3"),
        ("SETRANGE k 1 x", ":2"),
        ("INCR k", ":1"),
    ];
    for (command, expected) in commands {
        let mut machine = Machine::new(limits, 0);
        for key in ["a", "b", "c", "d", "k"] {
            machine.line(&format!("SET {key} 41 PX 100"));
        }
        machine.advance(100);
        assert_eq!(show(&machine.line(command)), expected, "{command}");
        // What it made has no time to live, and nothing of the old key takes it away later.
        let exists = machine.line("EXISTS k");
        assert_eq!(machine.line("PEXPIRETIME k") == Reply::Int(-1), exists == Reply::Int(1));
        for _ in 0..5 {
            machine.tick();
        }
        assert_eq!(machine.line("EXISTS k"), exists, "{command}");
        assert_eq!(machine.line("DBSIZE"), exists, "{command}");
    }
}

#[test]
fn idle_sessions_are_gone_at_once_and_leave_memory_a_few_per_entry() {
    let limits = Limits { reclaim_per_batch_max: 2, session_ttl_ms: 100, ..Limits::default() };
    let mut machine = Machine::new(limits, 0);
    for _ in 0..5 {
        machine.line("SESSION OPEN");
    }
    assert_eq!(machine.kv.next_expiry(), Some(WallTime::from_unix_ms(START_MS + 100)));
    machine.advance(100);
    assert_eq!(machine.kv.stats().sessions, 0);
    assert_eq!(machine.kv.stats().sessions_evicted_total, 2);
    assert_eq!(show(&machine.line("OUTCOME 5 1")), "[\"unknown\"]");
    machine.tick();
    machine.tick();
    assert_eq!(machine.kv.stats().sessions_evicted_total, 5);
    assert_eq!(machine.kv.next_expiry(), None);
}

#[test]
fn a_duplicate_is_answered_without_the_log_only_if_that_can_never_change() {
    let mut machine = Machine::new(Limits::tiny(), 0);
    machine.line("SESSION OPEN");
    machine.line("ONCE 1 2 ACK 1 INCR c");
    let answer = |line: &str| machine.kv.duplicate(&machine.encode(line)).map(|r| show(&r));
    assert_eq!(answer("ONCE 1 2 INCR c").as_deref(), Some(":1"));
    assert!(answer("ONCE 1 1 INCR c").unwrap().starts_with("-SESSIONSTALE"));
    assert!(answer("ONCE 1 2 INCR d").unwrap().starts_with("-SESSIONREUSED"));
    assert_eq!(answer("ONCE 1 3 INCR c"), None);
    // This node may not have applied the entry that opened it.
    assert_eq!(answer("ONCE 2 1 INCR c"), None);
    assert_eq!(answer("INCR c"), None);
    machine.line("SESSION CLOSE 1");
    let gone = machine.kv.duplicate(&machine.encode("ONCE 1 3 INCR c"));
    assert!(show(&gone.unwrap()).starts_with("-SESSIONEXPIRED"));
}

#[test]
fn a_full_session_is_no_final_answer() {
    let mut machine = Machine::new(Limits::tiny(), 0);
    machine.line("SESSION OPEN");
    for sequence in 1..=4 {
        machine.line(&format!("ONCE 1 {sequence} INCR c"));
    }
    assert!(show(&machine.line("ONCE 1 5 INCR c")).starts_with("-SESSIONFULL"));
    assert_eq!(machine.kv.duplicate(&machine.encode("ONCE 1 5 INCR c")), None);
}

#[test]
fn a_spelling_of_the_same_command_is_the_same_command() {
    let mut machine = Machine::new(Limits::default(), 0);
    machine.line("SESSION OPEN");
    machine.line("ONCE 1 1 SET k v EX 10 NX");
    assert_eq!(machine.line("once 1 1 set k v nx px 10000"), Reply::Ok);
    assert!(machine.line("ONCE 1 1 SET k v EX 11 NX").is_error());
}

#[test]
fn reads_may_be_answered_between_the_commands_of_a_batch() {
    let mut machine = Machine::new(Limits::default(), 0);
    machine.line("SET k 0 PX 100");
    let read = machine.encode("GET k");
    let mut batch = BatchBuilder::new(WallTime::from_unix_ms(START_MS + 100));
    for line in ["INCR k", "GET k", "INCR k"] {
        batch.push(&machine.encode(line));
    }
    let mut seen = Vec::new();
    let step = |kv: &Kv, reply: Option<Reply>| {
        seen.push(format!(
            "{} {}",
            reply.as_ref().map_or("start".into(), show),
            show(&kv.query(&read))
        ));
    };
    machine.kv.apply_each(&batch.finish(), step).unwrap();
    // The time moves on before the first command.
    assert_eq!(seen, ["start nil", ":1 \"1\"", "\"1\" \"1\"", ":2 \"2\""]);
}

#[test]
fn commands_are_classed_by_what_serving_them_takes() {
    let class = |line: &str| {
        let args: Vec<&str> = line.split(' ').collect();
        let mut encoded = Vec::new();
        let class = parse(&args, &Limits::default(), &mut encoded).unwrap();
        (class, is_once(&encoded))
    };
    for read in ["GET k", "MGET k l", "DBSIZE", "TOUCH k", "EXPIRETIME k", "OUTCOME 1 1"] {
        assert_eq!(class(read), (Class::Read, false), "{read}");
    }
    for timed in ["TTL k", "PTTL k"] {
        assert_eq!(class(timed), (Class::TimedRead, false), "{timed}");
    }
    for write in ["SET k v", "DEL k", "EXPIRE k 1", "FLUSHALL", "SESSION OPEN", "SESSION CLOSE 1"] {
        assert_eq!(class(write), (Class::Write, false), "{write}");
    }
    for once in ["ONCE 1 1 SET k v", "ONCE 1 2 ACK 1 GET k", "ONCE 1 1 TTL k"] {
        assert_eq!(class(once), (Class::Write, true), "{once}");
    }
}

#[test]
fn flushed_keys_are_freed_step_by_step() {
    let limits = Limits { shards: 8, ..Limits::default() };
    let mut machine = Machine::new(limits, 0);
    for key in 0..100 {
        machine.line(&format!("SET key-{key} v PX 100000"));
    }
    assert!(!machine.kv.maintain());
    machine.line("FLUSHALL");
    assert_eq!(machine.kv.stats().keys, 0);
    assert_eq!(machine.kv.next_expiry(), None);
    let steps = (0..20).take_while(|_| machine.kv.maintain()).count();
    assert!((5..=8).contains(&steps), "{steps}");
}

#[test]
fn sessions_of_a_replaced_state_are_freed_step_by_step() {
    let mut replaced = Machine::new(Limits::default(), 0);
    for session in 1..=100 {
        replaced.line("SESSION OPEN");
        for sequence in 1..=20 {
            replaced.line(&format!("ONCE {session} {sequence} INCR c"));
        }
    }
    let mut machine = Machine::new(Limits::default(), 0);
    machine.kv.discard(replaced.kv);
    let steps = (0..20).take_while(|_| machine.kv.maintain()).count();
    assert!((3..=8).contains(&steps), "{steps} for 2000 replies");
}

#[test]
fn a_key_costs_no_more_memory_than_the_target_allows() {
    // 172 MB for a million keys of 16 bytes with values of 64, of which 10 % are left to the
    // allocator and the rest of the process.
    let mut machine = Machine::new(Limits::default(), 0);
    let value = "v".repeat(64);
    for key in 0..100_000 {
        machine.line(&format!("SET {key:016} {value}"));
    }
    let bytes_per_key = machine.kv.stats().bytes_estimate / 100_000;
    assert!(bytes_per_key <= 155, "{bytes_per_key}");
    assert!(bytes_per_key >= 80 + 16, "{bytes_per_key}");
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    assert_eq!(Limits::default().check(), Ok(()));
    assert_eq!(Limits::tiny().check(), Ok(()));
    let wrong = [
        (Limits { sessions_max: 0, ..Limits::tiny() }, "sessions_max"),
        (Limits { shards: 3, ..Limits::tiny() }, "shards"),
        (Limits { session_ttl_ms: 0, ..Limits::tiny() }, "session_ttl_ms"),
        (Limits { session_bytes_total_max: 100, ..Limits::tiny() }, "session_bytes_total_max"),
        (
            Limits { session_window_bytes_max: usize::MAX, ..Limits::tiny() },
            "session_bytes_total_max",
        ),
        (Limits { value_bytes_max: 1 << 40, ..Limits::tiny() }, "value_bytes_max"),
    ];
    for (limits, name) in wrong {
        assert!(limits.check().unwrap_err().contains(name), "{name}");
    }
}

#[test]
fn how_many_values_a_reply_may_hold_is_known_from_the_command() {
    for (line, values) in [
        ("GET k", 1),
        ("GETRANGE k 0 -1", 1),
        ("MGET k l m", 3),
        ("OUTCOME 1 1", 1),
        ("GETDEL k", 1),
        ("GETSET k v", 1),
        ("SET k v GET", 1),
        ("SET k v XX KEEPTTL GET", 1),
        ("ONCE 1 2 ACK 1 GET k", 1),
        ("ONCE 1 2 GETDEL k", 1),
        ("ONCE 1 1 MGET k l", 2),
        ("SET k v", 0),
        ("SET k v XX EX 5", 0),
        ("ONCE 1 1 SET k v", 0),
        ("MSET k v l w", 0),
        ("STRLEN k", 0),
        ("EXISTS k l", 0),
        ("DEL k l", 0),
        ("DBSIZE", 0),
        ("SESSION OPEN", 0),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let mut encoded = Vec::new();
        parse(&args, &Limits::default(), &mut encoded).unwrap();
        assert_eq!(values_in_reply(&encoded), values, "{line}");
    }
    assert_eq!((values_in_reply(&[]), values_in_reply(&[66, 0]), values_in_reply(&[5])), (0, 0, 0));
}

#[test]
fn a_pipeline_of_flushes_leaves_no_more_than_there_were_keys() {
    let mut machine = Machine::new(Limits::default(), 0);
    let mut batch = BatchBuilder::new(WallTime::from_unix_ms(START_MS));
    for i in 0..1_000 {
        batch.push(&machine.encode(&format!("SET k{i} v PX 100000")));
        (0..5).for_each(|_| batch.push(&machine.encode("FLUSHALL")));
    }
    let batch = batch.finish();
    let mut replies = Vec::with_capacity(10_000);
    let used = allocation_counter::measure(|| machine.kv.apply(&batch, &mut replies).unwrap());
    assert!(used.bytes_max < 1 << 20, "{} bytes", used.bytes_max);
    let steps = 1 + (0..10_000).take_while(|_| machine.kv.maintain()).count();
    assert!(steps <= 2_000, "{steps} for a thousand keys");
}

#[test]
fn the_number_of_keys_is_that_of_the_log_time_whatever_became_of_them() {
    // Little of what is over is taken out.
    let limits = Limits { reclaim_per_batch_max: 1, ..Limits::default() };
    let mut machine = Machine::new(limits, 0);
    for key in 0..10 {
        machine.line(&format!("SET k{key} v PX {}", 100 + key));
    }
    machine.advance(104);
    machine.tick();
    assert_eq!(machine.line("DBSIZE"), Reply::Int(5));
    machine.line("SET k0 again");
    machine.line("PEXPIRE k9 1");
    machine.line("DEL k8");
    assert_eq!(machine.line("DBSIZE"), Reply::Int(5), "one is back, one is gone");
    machine.advance(2);
    machine.tick();
    let stats = machine.kv.stats();
    assert_eq!((machine.line("DBSIZE"), stats.keys, stats.expires), (Reply::Int(2), 2, 1));
}

#[test]
fn what_it_costs_to_change_a_part_of_a_value_is_known_before_and_after() {
    let mut machine = Machine::new(Limits::default(), 0);
    machine.line(&format!("SET k {}", "v".repeat(10_000)));
    machine.line("SET over v PX 1");
    machine.line("SESSION OPEN");
    machine.advance(10);
    machine.tick();
    assert_eq!(machine.kv.take_work_bytes(), 0, "what a SET costs its own length says");
    for (line, before, after) in [
        ("APPEND k x", 10_000, 10_001),
        ("SETRANGE k 5 x", 10_001, 10_001),
        ("SETRANGE k 20000 x", 20_000, 20_001),
        ("ONCE 1 1 APPEND k x", 20_001, 20_002),
        ("SETRANGE new 3000 x", 3_000, 3_001),
        ("APPEND newer x", 0, 0),
        ("APPEND over x", 0, 0),
        ("SETRANGE k 99999999 x", 1 << 20, 0),
        ("EXPIRE k 100", 20_002, 20_002),
        ("EXPIRE k 100 NX", 20_002, 0),
        ("PERSIST k", 20_002, 20_002),
        ("ONCE 1 2 SET k v", 0, 0),
    ] {
        let encoded = machine.encode(line);
        assert_eq!(machine.kv.work_bytes(&encoded, &Ahead::new(1)), before, "{line}");
        machine.line(line);
        assert_eq!(machine.kv.take_work_bytes(), after, "{line}");
    }
}
