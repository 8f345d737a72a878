//! Snapshots: each test is one rule of `snapshot.rs` or of the capture in `keyspace.rs`.

mod common;

use common::{Machine, restored, snapshot_rest};
use sampan_base::codec::DecodeError;
use sampan_kv::{Examination, Findings, Kv, Limits, Reply, Restore, Stats};

/// One table, so that keys meet in it and it grows and shrinks in the middle of a walk.
fn one_shard() -> Limits {
    Limits { shards: 1, reclaim_per_batch_max: 4, ..Limits::default() }
}

fn filled(keys: u64, limits: Limits) -> Machine {
    let mut machine = Machine::new(limits, 3);
    for key in 0..keys {
        machine.line(&format!("SET key-{key} value-{key}"));
    }
    machine
}

/// Begins a snapshot, takes a few slices, lets `write` change the state, takes the rest: it must
/// hold the state as of the beginning.
fn holds_the_state_as_of_the_beginning(mut machine: Machine, write: impl Fn(&mut Machine, u64)) {
    for slices_before in [0, 5, 40] {
        for bytes_max in [1, 300] {
            let digest = machine.kv.digest();
            let keys = machine.kv.stats().keys;
            machine.kv.snapshot_begin();
            let mut snapshot = Vec::new();
            let mut more = true;
            for _ in 0..slices_before {
                more = more && machine.kv.snapshot_next(bytes_max, &mut snapshot);
            }
            for round in 0..3 {
                write(&mut machine, round);
                more = more && machine.kv.snapshot_next(bytes_max, &mut snapshot);
            }
            if more {
                snapshot.extend(snapshot_rest(&mut machine.kv, bytes_max));
            }
            let kv = restored(&snapshot, machine.limits);
            assert_eq!(kv.digest(), digest, "{slices_before} slices of {bytes_max} bytes");
            assert_eq!(kv.stats().keys, keys);
            // What came after the beginning is in the next snapshot.
            machine.kv.snapshot_begin();
            let next = restored(&snapshot_rest(&mut machine.kv, 4_096), machine.limits);
            assert_eq!(next.digest(), machine.kv.digest());
        }
    }
}

#[test]
fn it_survives_overwriting() {
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, round| {
        for key in 0..50 {
            machine.line(&format!("SET key-{key} round-{round}"));
            machine.line(&format!("APPEND key-{key} x"));
            machine.line(&format!("SET key-{key} value-{key}"));
        }
    });
}

#[test]
fn it_survives_deletion_and_creation_anew() {
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, round| {
        for key in round..50 {
            machine.line(&format!("DEL key-{key}"));
        }
        for key in round..50 {
            machine.line(&format!("SET key-{key} anew"));
            machine.line(&format!("GETDEL key-{key}"));
            machine.line(&format!("SET key-{key} value-{key}"));
        }
    });
}

#[test]
fn it_survives_expiry() {
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, round| {
        for key in 0..50 {
            machine.line(&format!("PEXPIRE key-{key} {}", 10 + key));
        }
        for _ in 0..20 {
            machine.advance(7);
        }
        for key in (0..50).filter(|key| key % 3 == round % 3) {
            machine.line(&format!("SET key-{key} value-{key}"));
        }
    });
}

#[test]
fn it_survives_times_to_live_that_change() {
    let mut machine = filled(50, one_shard());
    for key in 0..50 {
        machine.line(&format!("PEXPIRE key-{key} 1000000"));
    }
    holds_the_state_as_of_the_beginning(machine, |machine, round| {
        for key in 0..50 {
            machine.line(&format!("PEXPIRE key-{key} {}", 2_000_000 + round));
        }
    });
}

#[test]
fn it_survives_flushall_however_often() {
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, _| {
        machine.line("DEL key-1");
        machine.line("FLUSHALL");
        for key in 0..50 {
            machine.line(&format!("SET key-{key} anew"));
        }
    });
}

#[test]
fn it_survives_a_table_that_grows_and_shrinks_under_the_walk() {
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, round| {
        for key in 0..300 {
            machine.line(&format!("SET more-{round}-{key} x"));
        }
        for key in 0..300 {
            machine.line(&format!("DEL more-{round}-{key}"));
        }
    });
}

#[test]
fn it_survives_a_table_that_only_shrinks_under_the_walk() {
    for slices_before in [1, 20, 60, 100] {
        let mut machine = filled(460, one_shard());
        // A table of 460 has room for 896, and shrinks below an eighth of that.
        for key in 120..460 {
            machine.line(&format!("DEL key-{key}"));
        }
        let digest = machine.kv.digest();
        machine.kv.snapshot_begin();
        let mut snapshot = Vec::new();
        for _ in 0..slices_before {
            assert!(machine.kv.snapshot_next(1, &mut snapshot));
        }
        for key in 0..20 {
            machine.line(&format!("DEL key-{key}"));
        }
        snapshot.extend(snapshot_rest(&mut machine.kv, 1));
        assert_eq!(restored(&snapshot, machine.limits).digest(), digest, "{slices_before}");
    }
}

#[test]
fn it_survives_tombstones_being_cleared_under_the_walk() {
    // Deleting and creating at a steady size makes a table move its records without growing.
    holds_the_state_as_of_the_beginning(filled(50, one_shard()), |machine, round| {
        for key in 0..200 {
            machine.line(&format!("SET churn-{round}-{key} x"));
            machine.line(&format!("DEL churn-{round}-{key}"));
        }
    });
}

#[test]
fn it_survives_changes_of_sessions() {
    let limits = Limits { sessions_max: 8, ..one_shard() };
    let mut machine = filled(3, limits);
    for session in 1..=8 {
        machine.line("SESSION OPEN");
        machine.line(&format!("ONCE {session} 1 INCR counter"));
        machine.line(&format!("ONCE {session} 2 INCR counter"));
    }
    holds_the_state_as_of_the_beginning(machine, |machine, round| {
        let Reply::Int(newest) = machine.line("SESSION OPEN") else { panic!("a session id") };
        for session in newest - 7..=newest {
            machine.line(&format!("ONCE {session} {} ACK {round} INCR counter", round + 3));
        }
        machine.line(&format!("SESSION CLOSE {}", newest - 3));
    });
}

#[test]
fn the_order_of_eviction_is_restored() {
    let limits = Limits { sessions_max: 4, ..Limits::default() };
    let mut machine = Machine::new(limits, 3);
    for _ in 0..4 {
        machine.line("SESSION OPEN");
    }
    for session in [3, 1, 4, 2] {
        machine.line(&format!("ONCE {session} 1 INCR c"));
    }
    machine.kv.snapshot_begin();
    let snapshot = snapshot_rest(&mut machine.kv, 100);
    let mut copy = Machine { kv: restored(&snapshot, limits), ..machine };
    for evicted in [3, 1, 4, 2] {
        assert_ne!(copy.line(&format!("OUTCOME {evicted} 1")), unknown());
        copy.line("SESSION OPEN");
        assert_eq!(copy.line(&format!("OUTCOME {evicted} 1")), unknown());
    }
    // Ids go on where they were.
    assert_eq!(copy.line("SESSION OPEN"), Reply::Int(9));
}

#[test]
fn a_restored_session_knows_duplicates_acknowledgements_and_idleness() {
    let mut machine = Machine::new(Limits::tiny(), 3);
    for line in ["SESSION OPEN", "ONCE 1 1 INCR c", "ONCE 1 3 ACK 1 APPEND t x", "ONCE 1 4 INCR t"]
    {
        machine.line(line);
    }
    machine.advance(900);
    machine.kv.snapshot_begin();
    let snapshot = snapshot_rest(&mut machine.kv, 100);
    let mut copy = Machine { kv: restored(&snapshot, machine.limits), ..machine };
    assert_eq!(copy.line("ONCE 1 3 APPEND t x"), Reply::Int(1));
    assert!(copy.line("ONCE 1 4 INCR t").is_error());
    assert_eq!(code(&copy.line("ONCE 1 1 INCR c")), "SESSIONSTALE");
    assert_eq!(code(&copy.line("ONCE 1 3 APPEND t y")), "SESSIONREUSED");
    assert_eq!(copy.line("GET t"), Reply::bulk(b"x"));
    copy.advance(999);
    assert_eq!(copy.line("ONCE 1 3 APPEND t x"), Reply::Int(1));
    copy.advance(1_000);
    assert_eq!(code(&copy.line("ONCE 1 3 APPEND t x")), "SESSIONEXPIRED");
}

#[test]
fn a_slice_is_no_longer_than_asked_or_one_record_and_never_empty() {
    let mut machine = filled(300, one_shard());
    machine.line("SESSION OPEN");
    machine.line("ONCE 1 1 GET key-1");
    for bytes_max in [0, 1, 7, 100, 3_000, 1 << 20] {
        machine.kv.snapshot_begin();
        let mut snapshot = Vec::new();
        let mut more = true;
        while more {
            let before = snapshot.len();
            more = machine.kv.snapshot_next(bytes_max, &mut snapshot);
            let slice_bytes = snapshot.len() - before;
            // The header, or a session, and a record.
            let longest = bytes_max.max(150);
            assert!((1..=longest).contains(&slice_bytes), "{slice_bytes} of {bytes_max}");
        }
        assert_eq!(restored(&snapshot, machine.limits).digest(), machine.kv.digest());
    }
}

#[test]
fn a_walk_over_a_table_where_nothing_is_left_to_capture_is_sliced_too() {
    let limits = Limits { shards: 1, ..Limits::default() };
    let mut machine = filled(30_000, limits);
    machine.kv.snapshot_begin();
    let digest = machine.kv.digest();
    for key in 0..30_000 {
        machine.line(&format!("SET key-{key} x"));
    }
    let (mut snapshot, mut pads, mut more) = (Vec::new(), 0, true);
    while more {
        let mut slice = Vec::new();
        more = machine.kv.snapshot_next(64 << 10, &mut slice);
        pads += u32::from(slice == [0]);
        snapshot.extend(slice);
    }
    assert!(pads > 0, "some slices found nothing to say");
    assert_eq!(restored(&snapshot, limits).digest(), digest);
}

#[test]
fn a_snapshot_that_was_given_up_leaves_no_trace() {
    let mut machine = filled(40, one_shard());
    for round in 0..6 {
        for key in 0..40 {
            machine.line(&format!("SET key-{key} round-{round}"));
        }
        machine.kv.snapshot_begin();
        let mut slice = Vec::new();
        for _ in 0..10 {
            assert!(machine.kv.snapshot_next(1, &mut slice));
        }
        machine.line("SET key-7 other");
        machine.line("FLUSHDB");
        machine.line("SET key-8 other");
        // The second beginning gives up the first by itself.
        if round % 2 == 0 {
            machine.kv.snapshot_cancel();
            assert!(!machine.kv.snapshot_active());
            assert_eq!(machine.kv.snapshot_digest(), None);
        }
        machine.kv.snapshot_begin();
        let kv = restored(&snapshot_rest(&mut machine.kv, 100), machine.limits);
        assert_eq!(kv.digest(), machine.kv.digest());
    }
}

#[test]
fn a_restore_may_be_fed_in_pieces_of_any_size() {
    let mut machine = filled(20, Limits::tiny());
    machine.line("SESSION OPEN");
    machine.line("ONCE 1 1 MGET key-1 key-2");
    machine.kv.snapshot_begin();
    let snapshot = snapshot_rest(&mut machine.kv, 90);
    for piece_bytes in [1, 2, 3, 5, 13, 64, 10_000] {
        let mut restore = Restore::new(machine.limits, snapshot.len() as u64);
        for piece in snapshot.chunks(piece_bytes) {
            restore.feed(piece).unwrap();
        }
        assert_eq!(restore.finish().unwrap().digest(), machine.kv.digest());
        let mut examination = Examination::default();
        for piece in snapshot.chunks(piece_bytes) {
            examination.feed(piece).unwrap();
        }
        assert_eq!(examination.finish().unwrap().digest, machine.kv.digest());
    }
}

/// Slices of a state with keys of all kinds and sessions, some of it saved by writes that went on.
/// And the state.
fn slices(bytes_max: usize) -> (Vec<Vec<u8>>, Kv) {
    let mut machine = filled(60, Limits { shards: 4, ..Limits::default() });
    for key in 0..20 {
        machine.line(&format!("PEXPIRE key-{key} {}", 1_000 + key));
        machine.line("SESSION OPEN");
        machine.line(&format!("ONCE {} 1 SET once-{key} x", key + 1));
    }
    let digest = machine.kv.digest();
    machine.kv.snapshot_begin();
    let mut slices = vec![Vec::new()];
    machine.kv.snapshot_next(bytes_max, &mut slices[0]);
    for key in 40..60 {
        machine.line(&format!("SET key-{key} anew"));
    }
    let mut more = true;
    while more {
        let mut slice = Vec::new();
        more = machine.kv.snapshot_next(bytes_max, &mut slice);
        slices.push(slice);
    }
    let kv = restored(&slices.concat(), machine.limits);
    assert_eq!(kv.digest(), digest);
    assert_eq!((kv.stats().keys, kv.stats().expires, kv.stats().sessions), (80, 20, 20));
    (slices, kv)
}

#[test]
fn parts_that_are_restored_apart_are_the_state_once_they_are_joined() {
    for bytes_max in [1, 100, 1_000] {
        let (slices, before) = slices(bytes_max);
        for count in 1..=6.min(slices.len() - 1) {
            let mut first = Restore::new(*before.limits(), u64::MAX);
            first.feed(&slices[0]).unwrap();
            let mut parts = first.split(count).unwrap();
            let each = (slices.len() - 1).div_ceil(count);
            for (part, slices) in parts.iter_mut().zip(slices[1..].chunks(each)) {
                for slice in slices {
                    part.feed(slice).unwrap();
                }
            }
            let joined = parts.into_iter().reduce(|mut whole, part| {
                whole.join(part).unwrap();
                whole
            });
            let mut kv = joined.unwrap().finish().unwrap();
            assert_eq!(kv.digest(), before.digest(), "{count} parts");
            kv.snapshot_begin();
            let again = restored(&snapshot_rest(&mut kv, 1_000), *kv.limits());
            assert_eq!(again.digest(), before.digest(), "what is in its tables");
            // Tables may have room for more or less.
            let figures = |kv: &Kv| Stats { bytes_estimate: 0, ..kv.stats() };
            assert_eq!(figures(&kv), figures(&before), "{count} parts");
            // Each key's bytes were counted: without it they cannot be taken off again.
            let limits = *kv.limits();
            let mut machine = Machine { kv, limits, clock_ms: common::START_MS };
            for key in 0..60 {
                machine.line(&format!("DEL key-{key} once-{key}"));
            }
            assert_eq!(machine.kv.stats().keys, 0);
        }
    }
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    let (slices, before) = slices(100);
    let begun = || Restore::new(*before.limits(), u64::MAX);
    assert!(begun().split(2).is_none(), "there is no header yet");
    // Two parts, fed with what is before and behind these borders.
    let joined = |end: usize, begin: usize| {
        let mut first = begun();
        first.feed(&slices[0])?;
        let [mut first, mut next] = <[Restore; 2]>::try_from(first.split(2).unwrap()).ok().unwrap();
        slices[1..end].iter().try_for_each(|slice| first.feed(slice))?;
        slices[begin..].iter().try_for_each(|slice| next.feed(slice))?;
        first.join(next)?;
        first.finish()
    };
    let (count, border) = (slices.len(), slices.len() / 2);
    assert_eq!(joined(border, border).unwrap().digest(), before.digest());
    for (end, begin) in [(border, border - 1), (border, border + 1), (count, count), (count, 1)] {
        assert!(joined(end, begin).is_err(), "..{end} and {begin}..");
    }
    // Cut within a frame, and joined before the rest of it was there.
    let mut first = begun();
    slices[..border].iter().for_each(|slice| first.feed(slice).unwrap());
    first.feed(&slices[border][..slices[border].len() / 2]).unwrap();
    let [mut first, mut next] = <[Restore; 2]>::try_from(first.split(2).unwrap()).ok().unwrap();
    slices[border + 1..].iter().for_each(|slice| next.feed(slice).unwrap());
    assert!(first.join(next).is_err());
}

fn examined(snapshot: &[u8]) -> Result<Findings, DecodeError> {
    let mut examination = Examination::default();
    examination.feed(snapshot)?;
    examination.finish()
}

#[test]
fn an_examination_finds_what_is_in_a_snapshot() {
    let mut machine = filled(7, Limits::tiny());
    for line in ["SET t v PX 500", "SET u v PX 9000", "SESSION OPEN", "SESSION OPEN"] {
        machine.line(line);
    }
    for line in ["ONCE 1 1 INCR c", "ONCE 2 1 MGET t u", "ONCE 2 2 INCR c"] {
        machine.line(line);
    }
    machine.kv.snapshot_begin();
    let found = examined(&snapshot_rest(&mut machine.kv, 100)).unwrap();
    let stats = machine.kv.stats();
    assert_eq!((found.digest, found.time), (machine.kv.digest(), machine.kv.time()));
    assert_eq!((found.keys, found.expires, found.expired), (10, 2, 10 - stats.keys));
    assert_eq!((found.sessions, found.session_replies, found.next_session), (2, 3, 3));
    assert!(found.record_bytes > 100);
}

#[test]
fn a_snapshot_that_is_cut_short_or_altered_anywhere_is_refused() {
    let limits = Limits::tiny();
    let mut machine = filled(4, limits);
    for line in ["SET t v PX 500", "SESSION OPEN", "ONCE 1 2 INCR c", "ONCE 1 3 MGET key-1 none"] {
        machine.line(line);
    }
    machine.kv.snapshot_begin();
    let snapshot = snapshot_rest(&mut machine.kv, 50);
    assert_eq!(restore(&snapshot, limits).unwrap().digest(), machine.kv.digest());
    for length in 0..snapshot.len() {
        assert_eq!(restore(&snapshot[..length], limits).err(), Some(DecodeError::Truncated));
        assert_eq!(examined(&snapshot[..length]), Err(DecodeError::Truncated));
    }
    // All but the hash seed: the state is the same with any.
    for place in (0..50).chain(58..snapshot.len()) {
        for bit in 0..8 {
            let mut altered = snapshot.clone();
            altered[place] ^= 1 << bit;
            assert!(restore(&altered, limits).is_err(), "byte {place} bit {bit}");
            assert!(examined(&altered).is_err(), "byte {place} bit {bit}");
        }
    }
    let longer = [&snapshot[..], &[0]].concat();
    assert!(matches!(restore(&longer, limits), Err(DecodeError::Invalid(_))));
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    for command in ["SET k v", "SET k v PX 100000"] {
        let mut machine = Machine::new(Limits::tiny(), 0);
        machine.line(command);
        machine.kv.snapshot_begin();
        let mut snapshot = Vec::new();
        machine.kv.snapshot_next(1, &mut snapshot);
        let header_bytes = snapshot.len();
        machine.kv.snapshot_next(1, &mut snapshot);
        let record = snapshot[header_bytes..].to_vec();
        snapshot.extend(record);
        let refused = restore(&snapshot, machine.limits).err();
        assert_eq!(refused, Some(DecodeError::Invalid("snapshot key, it is there twice")));
    }
}

#[test]
#[should_panic(expected = "snapshot_begin comes before snapshot_next")]
fn a_slice_of_no_snapshot_is_a_broken_host() {
    filled(1, Limits::tiny()).kv.snapshot_next(100, &mut Vec::new());
}

fn restore(snapshot: &[u8], limits: Limits) -> Result<Kv, DecodeError> {
    let mut restore = Restore::new(limits, snapshot.len() as u64);
    restore.feed(snapshot)?;
    restore.finish()
}

fn unknown() -> Reply {
    Reply::Array(vec![Reply::bulk(b"unknown")])
}

fn code(reply: &Reply) -> &str {
    let Reply::Error(text) = reply else { panic!("{reply:?} is no error") };
    text.split(' ').next().unwrap_or_default()
}
