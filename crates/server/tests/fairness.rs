//! What clients of one node may cost the others: the memory of commands that never end, and time.

#![allow(clippy::unwrap_used)] // a helper fails as a test does

mod common;

use common::{Client, TempDir, command, single, until};
use sampan_resp::RequestLimits;

/// A command that is sent in two parts.
fn whole() -> Vec<u8> {
    command(&[b"SET", b"k", &vec![b'v'; 20_000]])
}

fn held(observer: &mut Client) -> usize {
    observer.info("clients")["requests_partial_bytes"].parse().unwrap()
}

#[test]
fn when_commands_that_never_end_take_too_much_the_longest_is_closed_and_no_other() {
    let dir = TempDir::new();
    let node = single(dir.path(), |config| {
        let (request_bytes_max, inline_bytes_max) = (25_000, 25_000);
        config.limits.request =
            RequestLimits { request_bytes_max, inline_bytes_max, ..RequestLimits::default() };
        config.limits.requests_partial_bytes_max = 100_000;
    });
    let mut observer = node.connect();
    let sizes = [1_000, 18_000, 17_999, 17_998, 17_997, 17_996];
    let mut clients = sizes.map(|_| node.connect());
    let mut sum = 0;
    for (client, size) in clients.iter_mut().zip(sizes) {
        client.send(&whole()[..size]);
        sum += size;
        // The place of each whole argument takes as much as a range does: `SET` and `k`.
        let places_bytes = 2 * size_of::<std::ops::Range<usize>>();
        sum += places_bytes;
        until("it has come", || held(&mut observer) == sum);
    }
    let mut last = node.connect();
    last.send(&whole()[..10_000]);
    let longest = clients[1].rest();
    assert!(longest.starts_with("-ERR commands that are not complete take"), "{longest}");
    assert_eq!(observer.info("stats")["evicted_clients"], "1");
    for (i, (client, size)) in clients.iter_mut().zip(sizes).enumerate() {
        if i != 1 {
            client.send(&whole()[size..]);
            assert_eq!(client.reply(), "+OK\r\n", "client {i}");
        }
    }
    drop(last);
    until("all is given back", || held(&mut observer) == 0);
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
