//! Clients that read long values: they cost themselves, and neither the turns of the node nor its memory.

use sampan_replica::{ConnectionId, Input, Options};

use crate::harness::Cluster;

const VALUE_BYTES: usize = 900_000;
/// More than a node answers in one turn.
const READS: usize = 20;

/// A node alone, so that a read index is there at once, with a long value.
fn with_long_value() -> Cluster {
    let (mut cluster, leader) = Cluster::with_leader(1, Options::new);
    assert_eq!(leader, 1);
    let set = format!("SET long {}", "x".repeat(VALUE_BYTES));
    assert_eq!(cluster.ask(1, 1, &set), "OK");
    assert_eq!(cluster.ask(1, 1, "SET short x"), "OK");
    cluster
}

fn answered(cluster: &Cluster, connection: u64, numbers: &[u64]) -> usize {
    numbers.iter().filter(|&&seq| cluster.answer(1, connection, seq).is_some()).count()
}

/// Turns until all these are answered; how many were answered by each.
fn turns_for(cluster: &mut Cluster, connection: u64, numbers: &[u64]) -> Vec<usize> {
    let mut by_turn = vec![answered(cluster, connection, numbers)];
    while *by_turn.last().unwrap_or(&0) < numbers.len() && by_turn.len() < 100 {
        cluster.input(1, Input::Tick);
        by_turn.push(answered(cluster, connection, numbers));
    }
    by_turn
}

#[test]
fn long_replies_are_spread_over_turns_that_follow_at_once() {
    let mut cluster = with_long_value();
    let numbers = cluster.send(1, 2, &["GET long"; READS]);
    let next = cluster.node(1).next_deadline();
    let by_turn = turns_for(&mut cluster, 2, &numbers);
    assert!((1..=6).contains(&by_turn[0]), "{by_turn:?}");
    assert!(next <= cluster.now(), "there is more to do");
    assert!((3..=READS / 2).contains(&by_turn.len()), "{by_turn:?}");
    assert_eq!(by_turn.last(), Some(&READS));
    assert!(cluster.node(1).next_deadline() > cluster.now(), "nothing is left to do");

    let numbers = cluster.send(1, 2, &["GET short"; 500]);
    assert_eq!(answered(&cluster, 2, &numbers), 500, "short ones need one turn");
}

#[test]
fn a_connection_that_has_replies_enough_gets_no_more_and_others_do() {
    let mut cluster = with_long_value();
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    let mut numbers = cluster.send(1, 2, &["GET long"; READS]);
    numbers.extend(cluster.send(1, 2, &["SET short y"]));
    cluster.run_ms(60_000);
    assert_eq!(answered(&cluster, 2, &numbers), 0, "neither served nor given up");
    assert_eq!(cluster.ask(1, 3, "GET short"), "x", "what stands behind the reads waits for them");
    assert_eq!(cluster.node(1).status().requests_under_way, 1, "only that: they hold up nobody");

    cluster.input(1, Input::RepliesWanted(ConnectionId(2)));
    let by_turn = turns_for(&mut cluster, 2, &numbers);
    assert!((3..=READS / 2).contains(&by_turn.len()), "{by_turn:?}");
    assert_eq!(cluster.ask(1, 3, "GET short"), "y");
}

#[test]
fn reads_of_a_connection_that_is_gone_are_not_answered() {
    let mut cluster = with_long_value();
    let reads = cluster.node(1).status().reads;
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    let numbers = cluster.send(1, 2, &["GET long"; READS]);
    cluster.input(1, Input::ConnectionClosed(ConnectionId(2)));
    assert_eq!(answered(&cluster, 2, &numbers), 0);
    let status = cluster.node(1).status();
    assert_eq!((status.reads, status.requests_under_way), (reads, 0));
}

#[test]
fn a_stop_ends_reads_whose_client_does_not_take_its_replies() {
    let mut cluster = with_long_value();
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    cluster.send(1, 2, &["GET long"; READS]);
    cluster.input(1, Input::Shutdown);
    cluster.run_ms(100);
    assert!(cluster.stopped.contains(&1), "it waits for nobody");
}

/// How many entries were committed for these commands of one input.
fn batches_of(cluster: &mut Cluster, commands: &[&str]) -> u64 {
    let before = cluster.node(1).raft().commit().0;
    let numbers = cluster.send(1, 2, commands);
    cluster.run_ms(5);
    assert_eq!(answered(cluster, 2, &numbers), commands.len());
    cluster.node(1).raft().commit().0 - before
}

#[test]
fn writes_that_return_long_values_share_no_batch_with_many_others() {
    let mut cluster = with_long_value();
    assert!(batches_of(&mut cluster, &["SET long y NX GET"; READS]) > 2);
    assert_eq!(batches_of(&mut cluster, &["SET short y NX GET"; 60]), 1, "short ones do");
    // How long it will be nobody knows while that is not applied.
    let (makes, returns) = ("SETRANGE new 899999 x", "SET new y NX GET");
    let commands: Vec<&str> = [makes].into_iter().chain([returns; 150]).collect();
    assert!(batches_of(&mut cluster, &commands) > 2);
}
