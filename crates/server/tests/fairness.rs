//! What clients of one node may cost the others: the memory of commands that never end, and time.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use std::io::Read as _;
use std::net::Shutdown;

use common::{Client, TempDir, command, single, until};
use sampan_resp::RequestLimits;

/// A command that is sent in two parts.
fn whole() -> Vec<u8> {
    command(&[b"SET", b"k", &vec![b'v'; 20_000]])
}

fn held(observer: &mut Client, what: &str) -> usize {
    observer.info("clients")[what].parse().unwrap()
}

const PARTIAL: &str = "requests_partial_bytes";

#[test]
fn when_commands_that_never_end_take_too_much_the_longest_is_closed_and_no_other() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        let (request_bytes_max, inline_bytes_max) = (25_000, 25_000);
        config.limits.request =
            RequestLimits { request_bytes_max, inline_bytes_max, ..RequestLimits::default() };
        config.limits.requests_partial_bytes_max = 200_000;
    });
    let mut observer = node.connect();
    let sizes: [usize; 12] = std::array::from_fn(|i| if i == 0 { 1_000 } else { 18_001 - i });
    let mut clients = sizes.map(|_| node.connect());
    let mut sum = 0;
    for (client, size) in clients.iter_mut().zip(sizes) {
        client.send(&whole()[..size]);
        sum += size;
        // The places of `SET` and `k`, in a list that is made for four, each as long as a range.
        sum += 4 * size_of::<std::ops::Range<usize>>();
        until("it has come", || held(&mut observer, PARTIAL) == sum);
    }
    let mut last = node.connect();
    last.send(&whole()[..10_000]);
    let longest = clients[1].rest();
    assert!(longest.starts_with("-ERR incomplete commands use"), "{longest}");
    assert_eq!(observer.info("stats")["evicted_clients"], "1");
    for (i, (client, size)) in clients.iter_mut().zip(sizes).enumerate() {
        if i != 1 {
            client.send(&whole()[size..]);
            assert_eq!(client.reply(), "+OK\r\n", "client {i}");
        }
    }
    drop(last);
    until("all is given back", || held(&mut observer, PARTIAL) == 0);
}

#[test]
fn memory_that_is_kept_ready_for_a_command_counts_though_it_has_not_come() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let (mut client, mut observer) = (node.connect(), node.connect());
    let value = vec![b'v'; 1 << 20];
    let whole = command(&[b"SET", b"k", &value]);
    let (first, rest) = whole.split_at(20_000);
    client.send(first);
    until("it has come", || held(&mut observer, PARTIAL) >= first.len());
    client.send(&rest[..10]);
    until("room is made", || held(&mut observer, PARTIAL) > value.len());
    client.send(&rest[10..]);
    assert_eq!(client.reply(), "+OK\r\n");
    until("all is given back", || held(&mut observer, PARTIAL) == 0);
}

#[test]
fn when_replies_that_nobody_takes_are_too_much_those_that_hold_most_are_closed_and_no_other() {
    let dir = TempDir::new();
    let bytes_max = 16 << 20;
    let node = single(dir.path(), |config| {
        config.limits.output_pause_bytes = 2 << 20;
        config.limits.output_soft_bytes = 8 << 20;
        config.limits.output_soft_time = 10 * common::PATIENCE;
        config.limits.output_bytes_max = bytes_max;
        config.limits.output_total_bytes_max = bytes_max;
    });
    let mut observer = node.connect();
    let value = vec![b'v'; 1 << 20];
    assert_eq!(observer.call_args(&[b"SET", b"long", &value]), "+OK\r\n");
    let mut modest = node.connect();
    modest.send("GET long\r\n");
    // What the kernel takes of their replies is not what the node holds.
    let replies = 30;
    let mut deaf: Vec<Client> = (0..20).map(|_| node.connect()).collect();
    for client in &mut deaf {
        client.send("GET long\r\n".repeat(replies));
    }
    let evicted = |observer: &mut Client| -> usize {
        observer.info("stats")["evicted_clients"].parse().unwrap()
    };
    let mut most = 0;
    until("some have made room, and the others stay", || {
        most = most.max(held(&mut observer, "output_total_bytes"));
        let connected: usize = observer.info("clients")["connected_clients"].parse().unwrap();
        let evicted = evicted(&mut observer);
        evicted >= 5 && connected + evicted == 2 + deaf.len()
    });
    assert!(most > bytes_max / 2, "{most}");
    assert!(most <= bytes_max, "{most}");
    let whole_bytes = value.len() + "$1048576\r\n\r\n".len();
    modest.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(modest.rest().len(), whole_bytes);
    // The last one waits for nobody's room but its own.
    let served = deaf.iter_mut().filter(|client| {
        let mut buffer = vec![0; 1 << 20];
        let mut left = replies * whole_bytes;
        while left > 0 {
            match (&client.socket).read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => left -= count,
            }
        }
        left == 0
    });
    let served = served.count();
    assert_eq!(served + evicted(&mut observer), deaf.len());
    assert!(served > 0);
    until("all is given back", || held(&mut observer, "output_total_bytes") == 0);
}

#[test]
fn a_client_whose_commands_take_long_lets_others_in_between() {
    let dir = TempDir::new();
    let node = single(dir.path(), |_| {});
    let (mut greedy, mut other) = (node.connect(), node.connect());
    let total = 10_000;
    let done = |other: &mut Client| -> usize {
        other.info("stats")["total_commands_processed"].parse().unwrap()
    };
    // On a machine that does something else the other one may miss most of it: then again.
    until("others are served in between", || {
        assert_eq!(other.call("CONFIG RESETSTAT"), "+OK\r\n");
        // It comes with one read, and no reply has to be waited for.
        greedy.send(format!("CLIENT REPLY OFF\r\n{}CLIENT REPLY ON\r\n", "INFO\r\n".repeat(total)));
        let (mut in_between, mut asked, mut seen) = (0, 1, 0);
        while seen < total {
            seen = done(&mut other) - asked;
            asked += 1;
            in_between += usize::from((1..total).contains(&seen));
        }
        assert_eq!(greedy.reply(), "+OK\r\n");
        in_between >= 50
    });
}
