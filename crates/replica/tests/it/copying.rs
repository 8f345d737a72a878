//! Commands that copy a long stored value: what others write does not stand behind a pipeline of
//! them.

use sampan_base::NodeId;
use sampan_kv::Reply;
use sampan_raft::Body;
use sampan_replica::wire::PeerMessage;
use sampan_replica::{Input, Options};

use crate::harness::Cluster;

const VALUE_BYTES: usize = 62_500;
const COMMANDS: usize = 300;
/// So many of them are as much as one turn may apply.
const UNDER_WAY_MAX: usize = (APPLY_BYTES_MAX * 16).div_ceil(VALUE_BYTES);
const APPLY_BYTES_MAX: usize = 64 << 10;

/// A sixteenth of what is usual, and values to go with it.
fn options(id: NodeId) -> Options {
    Options { apply_bytes_max: APPLY_BYTES_MAX, ..Options::new(id) }
}

fn with_long_value(size: u64) -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::with_leader(size, options);
    assert_eq!(cluster.ask(leader, 9, &format!("SET big {}", "v".repeat(VALUE_BYTES))), "OK");
    (cluster, leader)
}

fn answered(cluster: &Cluster, id: u64, connection: u64, numbers: &[u64]) -> usize {
    numbers.iter().filter(|&&seq| cluster.answer(id, connection, seq).is_some()).count()
}

/// Runs until a request is answered; how many of a connection were answered before it.
fn before(cluster: &mut Cluster, id: u64, connection: u64, (other, seq): (u64, u64)) -> usize {
    for _ in 0..10_000 {
        if let Some(place) = cluster.answered.iter().position(|one| *one == (id, other, seq)) {
            let earlier = cluster.answered[..place].iter();
            return earlier.filter(|(of, line, _)| (*of, *line) == (id, connection)).count();
        }
        cluster.run_ms(1);
    }
    panic!("no answer");
}

/// A pipeline, and another connection's SET after it: how many of the pipeline are answered before
/// that.
fn before_a_set(cluster: &mut Cluster, id: u64, pipeline: &[&str]) -> (Vec<u64>, usize) {
    cluster.answered.clear();
    let numbers = cluster.send(id, 1, pipeline);
    let set = cluster.send(id, 2, &["SET other x"]);
    let before = before(cluster, id, 1, (2, set[0]));
    assert_eq!(cluster.answer(id, 2, set[0]), Some(&Reply::Ok));
    cluster.run_ms(1_000);
    assert_eq!(answered(cluster, id, 1, &numbers), pipeline.len());
    let in_order = cluster.answered.iter().filter(|(_, line, _)| *line == 1).map(|(.., seq)| seq);
    assert!(in_order.eq(&numbers), "its own order is kept");
    (numbers, before)
}

#[test]
fn a_set_does_not_stand_behind_a_pipeline_that_copies_a_long_value() {
    let appends: Vec<String> = (0..COMMANDS).map(|n| format!("APPEND big {}", n % 10)).collect();
    let appends: Vec<&str> = appends.iter().map(String::as_str).collect();
    for through_leader in [true, false] {
        let (mut cluster, leader) = with_long_value(3);
        let id = if through_leader { leader } else { cluster.follower_of(leader) };
        for pipeline in
            [&*vec!["SETRANGE big 5 x"; COMMANDS], &*vec!["PEXPIRE big 99999"; COMMANDS], &appends]
        {
            let (numbers, before) = before_a_set(&mut cluster, id, pipeline);
            assert!(before <= 3 * UNDER_WAY_MAX, "{before} before it, through {id}");
            if pipeline == appends {
                let lengths = numbers.iter().map(|seq| cluster.answer(id, 1, *seq).cloned());
                let in_order = (1..).map(|n| Some(Reply::Int((VALUE_BYTES + n) as i64)));
                assert!(lengths.zip(in_order).all(|(got, want)| got == want));
            }
        }
        let ends = format!("GETRANGE big {VALUE_BYTES} -1");
        assert_eq!(cluster.ask(id, 1, &ends), "0123456789".repeat(COMMANDS / 10));
    }
}

#[test]
fn a_value_that_is_not_there_yet_when_the_pipeline_comes_counts_too() {
    let long = format!("SET big {}", "v".repeat(VALUE_BYTES));
    let stretch = format!("SETRANGE big {VALUE_BYTES} x");
    let piece = format!("APPEND big {}", "v".repeat(4_000));
    for makes in [vec![&*long], vec!["SET big x", &*stretch], vec![&*piece; 16]] {
        let (mut cluster, leader) = Cluster::with_leader(3, options);
        let mut pipeline = makes.clone();
        pipeline.extend(vec!["SETRANGE big 5 x"; COMMANDS]);
        let (_, before) = before_a_set(&mut cluster, leader, &pipeline);
        assert!(before <= makes.len() + 3 * UNDER_WAY_MAX, "{before} before it");
    }
}

#[test]
fn a_new_leader_that_does_not_know_the_values_yet_takes_few_of_them() {
    let (mut cluster, first) = Cluster::with_leader(3, options);
    // The others have it in their logs, and do not learn that it is committed.
    cluster.hold = tells_of_a_commit;
    cluster.send(first, 9, &[&format!("SET big {}", "v".repeat(VALUE_BYTES))]);
    cluster.run_ms(5);
    cluster.kill(first);
    cluster.hold = is_acknowledgement;
    let leader = loop {
        cluster.run_ms(1);
        if let Some(leader) = (1..=3).find(|&id| id != first && cluster.node(id).is_leader()) {
            break leader;
        }
    };
    assert!(cluster.node(leader).status().kv.keys == 0, "it has not applied what is in its log");
    cluster.answered.clear();
    let numbers = cluster.send(leader, 1, &vec!["SETRANGE big 5 x"; COMMANDS]);
    let set = cluster.send(leader, 2, &["SET other x"]);
    cluster.hold = |_| false;
    let before = before(&mut cluster, leader, 1, (2, set[0]));
    assert!(before <= 3 * UNDER_WAY_MAX, "{before} before it");
    cluster.run_ms(1_000);
    assert_eq!(answered(&cluster, leader, 1, &numbers), COMMANDS);
    let lengths = numbers.iter().map(|seq| cluster.answer(leader, 1, *seq));
    assert!(lengths.flatten().all(|length| *length == Reply::Int(VALUE_BYTES as i64)));
}

fn raft_body(message: &PeerMessage) -> Option<&Body> {
    let PeerMessage::Raft(message) = message else { return None };
    Some(&message.body)
}

/// All but the entries themselves.
fn tells_of_a_commit(message: &PeerMessage) -> bool {
    matches!(raft_body(message), Some(Body::Heartbeat { .. }))
}

/// Without these nothing is committed.
fn is_acknowledgement(message: &PeerMessage) -> bool {
    matches!(raft_body(message), Some(Body::AppendReply { .. } | Body::HeartbeatReply { .. }))
}

#[test]
fn what_was_held_when_leadership_ended_goes_on_elsewhere() {
    let (mut cluster, first) = with_long_value(3);
    cluster.hold = is_acknowledgement;
    let numbers = cluster.send(first, 1, &vec!["SETRANGE big 5 x"; COMMANDS]);
    cluster.run_ms(5);
    cluster.input(first, Input::TransferLeadership(None));
    cluster.hold = |_| false;
    cluster.run_ms(4_000);
    assert!(!cluster.node(first).is_leader());
    assert_eq!(answered(&cluster, first, 1, &numbers), COMMANDS);
    let lengths = numbers.iter().map(|seq| cluster.answer(first, 1, *seq));
    assert!(lengths.flatten().all(|length| *length == Reply::Int(VALUE_BYTES as i64)));
}

#[test]
fn lines_that_wait_to_copy_take_turns() {
    let (mut cluster, only) = with_long_value(1);
    cluster.hanging_disks.insert(only);
    cluster.answered.clear();
    for connection in 1..=3 {
        cluster.send(only, connection, &vec!["SETRANGE big 5 x"; COMMANDS]);
    }
    let one = cluster.send(only, 4, &["APPEND big x"]);
    cluster.hanging_disks.clear();
    let counts = [1, 2, 3].map(|line| before(&mut cluster, only, line, (4, one[0])));
    assert!(counts.iter().all(|&count| count > 0 && count <= 2 * UNDER_WAY_MAX), "{counts:?}");
    cluster.run_ms(1_000);
    assert_eq!(cluster.answered.len(), 3 * COMMANDS + 1);
}

#[test]
fn what_waits_to_copy_for_too_long_was_certainly_not_applied_and_is_told_why() {
    let (mut cluster, only) = with_long_value(1);
    cluster.hanging_disks.insert(only);
    cluster.send(only, 1, &vec!["SETRANGE big 5 x"; COMMANDS]);
    let held = cluster.send(only, 2, &["APPEND big held"]);
    cluster.run_ms(5_100);
    let late = Reply::error("CLUSTERDOWN Not served in time");
    assert_eq!(cluster.answer(only, 2, held[0]), Some(&late));
    cluster.hanging_disks.clear();
    cluster.run_ms(100);
    assert_eq!(cluster.ask(only, 3, "STRLEN big"), VALUE_BYTES.to_string());
}

#[test]
fn short_values_are_neither_counted_nor_held() {
    let (mut cluster, only) = Cluster::with_leader(1, Options::new);
    cluster.ask(only, 1, &format!("SET short {}", "v".repeat(200)));
    for command in ["PEXPIRE short 99999", "SETRANGE short 5 x", "APPEND short 0"] {
        let before = cluster.node(only).raft().last_index().0;
        cluster.hanging_disks.insert(only);
        let numbers = cluster.send(only, 1, &vec![command; 3_000]);
        cluster.run_ms(1);
        let entries = cluster.node(only).raft().last_index().0 - before;
        assert_eq!(entries, 3_000_u64.div_ceil(64), "{command}");
        cluster.hanging_disks.clear();
        cluster.run_ms(100);
        assert_eq!(answered(&cluster, only, 1, &numbers), 3_000);
    }
}

/// A leader that was cut off has entries in its log alone that nobody waits for any more, the last
/// of which copies as much as one turn may apply. It is in touch again, and follows, and the log
/// does not get so long again.
fn with_lost_copies() -> (Cluster, u64) {
    let (mut cluster, first) = with_long_value(3);
    cluster.isolate(first);
    for _ in 0..20 {
        cluster.send(first, 1, &["SET other x"]);
        cluster.run_ms(1);
    }
    cluster.send(first, 1, &["SETRANGE big 5 x"; UNDER_WAY_MAX]);
    cluster.run_ms(6_000);
    cluster.heal();
    cluster.run_ms(1_000);
    assert!(!cluster.node(first).is_leader());
    (cluster, first)
}

#[test]
fn lost_commands_that_copy_do_not_count_for_the_next_ones() {
    let (mut cluster, first) = with_lost_copies();
    let leader = cluster.wait_for_leader();
    cluster.input(leader, Input::TransferLeadership(Some(NodeId::of(first))));
    cluster.run_ms(500);
    assert!(cluster.node(first).is_leader());
    assert_eq!(cluster.ask(first, 2, "SETRANGE big 5 y"), VALUE_BYTES.to_string());
}

#[test]
fn lost_commands_do_not_slow_down_what_is_in_the_background() {
    let (mut cluster, first) = with_lost_copies();
    cluster.run_ms(1_000);
    assert_eq!(cluster.node(first).status().background_bytes_per_second, None);
}
