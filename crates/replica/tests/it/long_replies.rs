//! Clients that read long values: they cost themselves, and neither the turns of the node nor its
//! memory.

use sampan_replica::{ConnectionId, Input, Options};

use crate::harness::{Cluster, show};

const VALUE_BYTES: usize = 900_000;
/// More than a node answers in one turn.
const READS: usize = 20;

/// A node alone, so that a read index is there at once, with a long value.
fn with_long_value() -> Cluster {
    with_long_value_and(Options::new)
}

fn with_long_value_and(options: fn(sampan_base::NodeId) -> Options) -> Cluster {
    let (mut cluster, leader) = Cluster::with_leader(1, options);
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
    let mut cluster =
        with_long_value_and(|id| Options { requests_under_way_max: 25, ..Options::new(id) });
    let commands: Vec<&str> = ["GET long"; READS].into_iter().chain(["SET short y"; 30]).collect();
    let numbers = cluster.send(1, 2, &commands);
    let served = answered(&cluster, 2, &numbers);
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    cluster.run_ms(60_000);
    assert_eq!(answered(&cluster, 2, &numbers), served, "neither served nor given up");
    assert_eq!(cluster.ask(1, 3, "GET short"), "x", "what stands behind the reads waits for them");
    assert!(!cluster.node(1).is_congested(), "they hold up nobody");
    let more = cluster.send(1, 2, &["GET short"]);
    cluster.run_ms(100);
    assert_eq!(answered(&cluster, 2, &more), 0, "nothing more is begun");

    cluster.input(1, Input::RepliesWanted(ConnectionId(2)));
    let mut before = served;
    for _ in 0..100 {
        cluster.run_ms(1);
        let now = answered(&cluster, 2, &numbers);
        assert!(now <= READS.max(before) || now == numbers.len() && now - before <= 33, "{now}");
        assert_eq!(answered(&cluster, 2, &numbers[..now]), now, "in their order");
        before = now;
    }
    let last = cluster.answer(1, 2, numbers[numbers.len() - 1]).map(show);
    assert_eq!(last.as_deref(), Some("OK"), "it was not for want of a leader that it waited");
    assert_eq!(answered(&cluster, 2, &more), 1);
}

#[test]
fn what_is_held_back_is_not_overtaken_by_what_came_later() {
    let mut cluster = with_long_value();
    let first = cluster.send(1, 2, &["GET long"; READS]);
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    // Others fill the turns while it is released.
    let others = cluster.send(1, 3, &["GET long"; READS]);
    cluster.inputs(1, [Input::RepliesWanted(ConnectionId(2)), Input::Tick]);
    for _ in 0..100 {
        let now = answered(&cluster, 2, &first);
        assert_eq!(answered(&cluster, 2, &first[..now]), now);
        cluster.input(1, Input::Tick);
    }
    assert_eq!((answered(&cluster, 2, &first), answered(&cluster, 3, &others)), (READS, READS));
}

/// Ids of connections are a node's own: another node's connection may have the same.
#[test]
fn a_connection_of_another_node_with_the_same_id_is_not_meant() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let set = format!("SET long {}", "x".repeat(VALUE_BYTES));
    assert_eq!(cluster.ask(leader, 1, &set), "OK");
    cluster.input(leader, Input::RepliesHeld(ConnectionId(2)));
    let commands: Vec<&str> = ["SET a b"].into_iter().chain(["GET long"; READS]).collect();
    let replies = cluster.call(follower, 2, &commands);
    assert!(replies[1..].iter().all(|reply| reply.len() == VALUE_BYTES), "{}", replies[READS]);
    assert_eq!(cluster.ask(follower, 2, "SET c d"), "OK");
}

#[test]
fn reads_in_the_midst_of_writes_are_spread_over_turns_too() {
    let mut cluster = with_long_value();
    // They come while a group commit is on its way, so that all of them share the next ones.
    cluster.hanging_disks.insert(1);
    cluster.ask_later(1, "SET first x");
    let commands = ["SET a b", "GET long"].repeat(READS);
    let numbers: Vec<Vec<u64>> = (2..12).map(|id| cluster.send(1, id, &commands)).collect();
    cluster.hanging_disks.clear();
    cluster.run_ms(100);
    for (id, numbers) in (2..).zip(&numbers) {
        assert_eq!(answered(&cluster, id, numbers), numbers.len());
    }
    // The share, and one entry or one read beyond it.
    assert!(cluster.longest_turn_bytes < 8 << 20, "{}", cluster.longest_turn_bytes);
    // Of one connection there are never many under way: its client may not take them.
    assert!(batches_of(&mut cluster, &commands) >= READS as u64 / 2);
}

#[test]
fn reads_that_may_be_stale_are_spread_over_turns_too() {
    let (mut cluster, leader) = Cluster::with_leader(3, Options::new);
    let follower = cluster.follower_of(leader);
    let set = format!("SET long {}", "x".repeat(VALUE_BYTES));
    assert_eq!(cluster.ask(leader, 1, &set), "OK");
    cluster.run_ms(500);
    let numbers = cluster.send_as(follower, 2, &["GET long"; READS], true);
    let is_answered = |&&seq: &&u64| cluster.answer(follower, 2, seq).is_some();
    assert!((1..=6).contains(&numbers.iter().filter(is_answered).count()));
    cluster.run_ms(20);
    assert!(numbers.iter().all(|&seq| cluster.answer(follower, 2, seq).is_some()));
}

#[test]
fn reads_of_a_connection_that_is_gone_are_not_answered() {
    let mut cluster = with_long_value();
    cluster.send(1, 2, &["GET long"; READS]);
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
    cluster.run_ms(10);
    let reads = cluster.node(1).status().reads;
    cluster.input(1, Input::ConnectionClosed(ConnectionId(2)));
    cluster.run_ms(10);
    let status = cluster.node(1).status();
    assert_eq!((status.reads, status.requests_under_way), (reads, 0));
}

#[test]
fn a_stop_ends_reads_whose_client_does_not_take_its_replies() {
    let mut cluster = with_long_value();
    cluster.send(1, 2, &["GET long"; READS]);
    cluster.input(1, Input::RepliesHeld(ConnectionId(2)));
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
