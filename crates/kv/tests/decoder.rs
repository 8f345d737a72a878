//! Bytes from outside: whatever they are, decoders answer with an error and never panic, and what
//! was encoded comes back.

mod common;

use common::model::{Draw, Model};
use common::{Machine, START_MS, restored, snapshot_rest};
use sampan_base::codec::{DecodeError, Reader};
use sampan_base::{Rng, WallTime};
use sampan_kv::{BatchBuilder, BatchReader, Kv, Limits, Reply, Restore, classify, parse};

const ROUNDS: u64 = 20_000;

fn random_bytes(rng: &mut Rng, bytes_max: u64) -> Vec<u8> {
    (0..rng.below(bytes_max)).map(|_| rng.next_u64() as u8).collect()
}

/// Changes, cuts or lengthens bytes that were well formed.
fn mutated(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        let place = rng.below(bytes.len() as u64 + 1) as usize;
        match rng.below(4) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, rng.next_u64() as u8),
            2 if place < bytes.len() => bytes[place] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            _ if place < bytes.len() => bytes[place] ^= 1 << rng.below(8),
            _ => {}
        }
    }
    bytes
}

/// A well-formed random command.
fn command(draw: &mut Draw, model: &Model) -> Vec<u8> {
    let mut encoded = Vec::new();
    parse(&draw.call(model).args(), &model.limits, &mut encoded).expect("well formed");
    encoded
}

fn draw(seed: u64) -> Draw {
    Draw { rng: Rng::seeded(seed), keys: 5, flush_one_in: 50, sequence_max: 9, quantum_ms: 1 }
}

#[test]
fn random_batches_never_panic_and_a_refused_one_gives_no_wrong_reply() {
    let limits = Limits::tiny();
    let (mut draw, mut model) = (draw(1), Model::new(limits));
    model.advance(START_MS);
    let mut kv = Kv::new(limits, 1);
    let (mut refused, mut applied) = (0, 0);
    for _ in 0..ROUNDS {
        let bytes = if draw.rng.one_in(3) {
            random_bytes(&mut draw.rng, 60)
        } else {
            let mut batch = BatchBuilder::new(WallTime::from_unix_ms(START_MS));
            for _ in 0..draw.rng.below(3) {
                let encoded = command(&mut draw, &model);
                batch.push(&encoded);
            }
            let batch = batch.finish();
            mutated(&mut draw.rng, &batch)
        };
        match kv.apply(&bytes, &mut Vec::new()) {
            Ok(()) => applied += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(applied > ROUNDS / 20 && refused > ROUNDS / 20, "{applied} {refused}");
    // Whatever was applied, the state is still one that a snapshot holds.
    kv.snapshot_begin();
    assert_eq!(restored(&snapshot_rest(&mut kv, 500), limits).digest(), kv.digest());
}

#[test]
fn random_reads_never_panic() {
    let limits = Limits::tiny();
    let (mut draw, mut model) = (draw(2), Model::new(limits));
    model.advance(START_MS);
    let mut machine = Machine::new(limits, 1);
    for line in ["SET k0 1", "SET k1 abc PX 100", "SESSION OPEN", "ONCE 1 1 INCR k0"] {
        machine.line(line);
    }
    for _ in 0..ROUNDS {
        let encoded = command(&mut draw, &model);
        let bytes = mutated(&mut draw.rng, &encoded);
        machine.kv.query(&bytes);
        machine.kv.duplicate(&bytes);
        sampan_kv::is_once(&bytes);
    }
    let malformed = Reply::error("ERR malformed read command");
    for write in ["SET a 1", "SESSION OPEN", "ONCE 1 1 GET a"] {
        assert_eq!(machine.kv.query(&machine.encode(write)), malformed, "{write}");
    }
}

#[test]
fn random_arguments_never_panic_and_leave_no_bytes_when_refused() {
    let limits = Limits::tiny();
    let mut rng = Rng::seeded(3);
    let words: Vec<&str> =
        "GET SET ONCE SESSION OPEN CLOSE ACK OUTCOME EXPIRE NX XX GT LT EX PX EXAT KEEPTTL MSET \
         GETRANGE SETRANGE INCRBY DECRBY FLUSHALL ASYNC 0 1 -1 2 99999999999999999999 x "
            .split(' ')
            .collect();
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let args: Vec<Vec<u8>> = (0..rng.below(9))
            .map(|_| match rng.below(8) {
                0 => random_bytes(&mut rng, 90),
                _ => rng.pick(&words).as_bytes().to_vec(),
            })
            .collect();
        let mut out = b"before".to_vec();
        match parse(&args, &limits, &mut out) {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(out, b"before", "{args:?}");
                assert!(error.reply().is_error());
            }
        }
    }
    assert!(accepted > ROUNDS / 100, "{accepted}");
}

#[test]
fn random_snapshots_never_panic() {
    let limits = Limits::tiny();
    let mut machine = Machine::new(limits, 1);
    for line in
        ["SET a 1", "SET b 2 PX 100", "SESSION OPEN", "ONCE 1 1 MGET a b", "ONCE 1 2 INCR b"]
    {
        machine.line(line);
    }
    machine.kv.snapshot_begin();
    let snapshot = snapshot_rest(&mut machine.kv, 100);
    let mut rng = Rng::seeded(4);
    for _ in 0..5_000 {
        let bytes = mutated(&mut rng, &snapshot);
        let mut restore = Restore::new(limits, bytes.len() as u64);
        let fed = restore.feed(&bytes);
        if fed.is_ok()
            && let Ok(kv) = restore.finish()
        {
            assert_eq!(kv.digest(), machine.kv.digest(), "what is accepted is what was saved");
        }
    }
}

#[test]
fn random_replies_never_panic_and_encoded_ones_come_back() {
    let mut rng = Rng::seeded(5);
    let long = Reply::bulk(&[7; 300]);
    let replies = [
        Reply::Ok,
        Reply::Nil,
        Reply::Int(i64::MIN),
        Reply::Simple("string"),
        Reply::Simple("none"),
        long.clone(),
        Reply::error("ERR text"),
        Reply::Array(vec![Reply::Ok, Reply::Nil, long]),
        Reply::Array(vec![Reply::bulk(b"applied"), Reply::Array(vec![Reply::Nil])]),
    ];
    for reply in &replies {
        let mut encoded = Vec::new();
        reply.encode(&mut encoded);
        assert_eq!(encoded.len(), reply.encoded_bytes());
        let mut reader = Reader::new(&encoded);
        assert_eq!(Reply::decode(&mut reader).as_ref(), Ok(reply));
        assert!(reader.is_empty());
        for length in 0..encoded.len() {
            assert!(Reply::decode(&mut Reader::new(&encoded[..length])).is_err());
        }
        for _ in 0..500 {
            let _ = Reply::decode(&mut Reader::new(&mutated(&mut rng, &encoded)));
        }
    }
    for _ in 0..ROUNDS {
        let _ = Reply::decode(&mut Reader::new(&random_bytes(&mut rng, 40)));
    }
}

#[test]
fn a_reply_that_nests_without_end_or_claims_too_many_items_is_refused() {
    let nested = [&[5, 1, 0, 0, 0].repeat(100_000)[..], &[0]].concat();
    assert_eq!(Reply::decode(&mut Reader::new(&nested)), Err(DecodeError::Invalid("nesting")));
    let claims = [5, 0xff, 0xff, 0xff, 0xff, 0];
    assert_eq!(Reply::decode(&mut Reader::new(&claims)), Err(DecodeError::Truncated));
}

#[test]
fn a_batch_tells_its_time_and_commands() {
    let mut batch = BatchBuilder::new(WallTime::from_unix_ms(9));
    assert!(batch.is_empty());
    batch.push(b"one");
    batch.push(b"");
    assert_eq!((batch.len(), batch.bytes()), (2, BatchBuilder::HEADER_BYTES + 3 + 2 * 4));
    let bytes = batch.finish();
    let mut reader = BatchReader::new(&bytes).unwrap();
    assert_eq!(reader.time(), WallTime::from_unix_ms(9));
    assert_eq!(reader.next_command(), Ok(Some(&b"one"[..])));
    assert_eq!(reader.next_command(), Ok(Some(&b""[..])));
    assert_eq!(reader.next_command(), Ok(None));
    let mut other_version = bytes.to_vec();
    other_version[0] = 2;
    let error = Kv::new(Limits::tiny(), 0).apply(&other_version, &mut Vec::new());
    assert_eq!(error, Err(DecodeError::Invalid("batch version")));
}

#[test]
fn the_encoding_of_commands_never_changes() {
    // The log holds these bytes: a change here is a change of the log format.
    let golden = [
        ("GET k", "01 01000000 6b"),
        ("STRLEN k", "02 01000000 6b"),
        ("SUBSTR k 1 -1", "03 01000000 6b 0100000000000000 ffffffffffffffff"),
        ("TOUCH k l", "04 02000000 01000000 6b 01000000 6c"),
        ("MGET k", "05 01000000 01000000 6b"),
        ("TTL k", "06 01000000 6b 00 00"),
        ("PEXPIRETIME k", "06 01000000 6b 01 01"),
        ("TYPE k", "07 01000000 6b"),
        ("DBSIZE", "08"),
        ("OUTCOME 2 3", "09 0200000000000000 0300000000000000"),
        ("SET k v", "20 00 01000000 6b 01000000 76"),
        ("SET k v NX", "20 01 01000000 6b 01000000 76"),
        ("SET k v XX KEEPTTL", "20 0a 01000000 6b 01000000 76"),
        ("GETSET k v", "20 04 01000000 6b 01000000 76"),
        ("SET k v EX 1", "20 10 00 e803000000000000 01000000 6b 01000000 76"),
        ("PSETEX k 1 v", "20 10 00 0100000000000000 01000000 6b 01000000 76"),
        ("SET k v EXAT 1", "20 10 01 e803000000000000 01000000 6b 01000000 76"),
        ("SETNX k v", "21 01000000 6b 01000000 76"),
        ("APPEND k v", "22 01000000 6b 01000000 76"),
        ("SETRANGE k 5 v", "23 01000000 6b 0500000000000000 01000000 76"),
        ("UNLINK k", "24 01000000 01000000 6b"),
        ("MSET k v", "25 02000000 01000000 6b 01000000 76"),
        ("DECR k", "26 01000000 6b ffffffffffffffff"),
        ("GETDEL k", "27 01000000 6b"),
        ("FLUSHDB ASYNC", "28"),
        ("EXPIRE k 1 XX GT", "29 01000000 6b 00 e803000000000000 06"),
        ("PEXPIREAT k 1 NX", "29 01000000 6b 01 0100000000000000 01"),
        ("EXPIREAT k 1 LT", "29 01000000 6b 01 e803000000000000 08"),
        ("PERSIST k", "2a 01000000 6b"),
        ("SESSION OPEN", "40"),
        ("SESSION CLOSE 2", "41 0200000000000000"),
        (
            "ONCE 2 3 ACK 1 GET k",
            "42 0200000000000000 0300000000000000 0100000000000000 01 01000000 6b",
        ),
    ];
    let machine = Machine::new(Limits::tiny(), 0);
    for (line, hex) in golden {
        assert_eq!(machine.encode(line), bytes_of(hex), "{line}");
    }
}

#[test]
fn a_malformed_command_in_the_log_is_refused() {
    let malformed = [
        ("no bytes", ""),
        ("an opcode of nobody", "ff"),
        ("a key cut short", "01 02000000 6b"),
        ("bytes after the end", "08 00"),
        ("an MSET without the last value", "25 01000000 01000000 6b"),
        ("a list that claims too much", "24 ffffffff 01000000 6b"),
        ("a SET that is NX and XX", "20 03 01000000 6b 01000000 76"),
        ("a SET with a flag of nobody", "20 20 01000000 6b 01000000 76"),
        (
            "a SET with a time that is of no kind",
            "20 10 02 0100000000000000 01000000 6b 01000000 76",
        ),
        ("an EXPIRE with an option of nobody", "29 01000000 6b 00 0100000000000000 10"),
        (
            "an ONCE that acknowledges itself",
            "42 0100000000000000 0300000000000000 0300000000000000 08",
        ),
        ("an ONCE around nothing", "42 0100000000000000 0300000000000000 0000000000000000"),
        ("an ONCE around SESSION OPEN", "42 0100000000000000 0300000000000000 0000000000000000 40"),
        (
            "an ONCE around OUTCOME",
            "42 0100000000000000 0300000000000000 0000000000000000 09 0100000000000000 0100000000000000",
        ),
    ];
    for (what, hex) in malformed {
        let mut batch = BatchBuilder::new(WallTime::from_unix_ms(1));
        batch.push(&bytes_of(hex));
        let mut kv = Kv::new(Limits::tiny(), 0);
        assert!(kv.apply(&batch.finish(), &mut Vec::new()).is_err(), "{what}");
        assert_eq!(kv.stats().keys + kv.stats().sessions, 0, "{what}");
        // What no node can apply none may append, whoever sends it.
        assert!(classify(&bytes_of(hex), &Limits::default()).is_err(), "{what}");
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("hex digits");
        u8::from_str_radix(text, 16).expect("hex digits")
    };
    digits.chunks(2).map(byte).collect()
}
