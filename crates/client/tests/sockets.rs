//! A Clerk over real sockets: what the in-memory tests cannot show.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use sampan_client::Clerk;
use tokio::task::JoinSet;

#[allow(dead_code, unreachable_pub)] // shared with the crate's unit tests, which use all of it
mod double;

use double::{Act, Node};

/// Cuts every `nth` command's connection, by turns before and after applying it.
fn cut_every(nth: u64) -> impl FnMut(&double::Args) -> Act + Send {
    let mut count = 0;
    move |_| {
        count += 1;
        match (count % nth, count / nth % 2) {
            (0, 0) => Act::Cut,
            (0, _) => Act::ServeThenCut,
            _ => Act::Serve,
        }
    }
}

#[tokio::test]
async fn appends_through_breaking_sockets_are_applied_once_and_in_order() {
    let a = Node::default();
    let b = a.peer();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_address = dead.local_addr().unwrap().to_string();
    drop(dead);
    let addresses = [dead_address, a.clone().listen().await, b.clone().listen().await];
    let builder = Clerk::builder().addresses(addresses);
    let builder = builder.backoff(Duration::from_millis(1), Duration::from_millis(2));

    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let clerk = builder.clone().connect().await.unwrap();
        writers.spawn(async move {
            for count in 0..50 {
                clerk.append("log", format!("<{writer}.{count}>")).await.unwrap();
            }
            clerk.close().await;
        });
    }
    a.script(cut_every(7));
    b.script(cut_every(11));
    writers.join_all().await;

    let store = a.store();
    assert_eq!(store.applied.len(), 200);
    assert!(store.received_named("ONCE").len() > 200, "nothing was sent again");
    let log = String::from_utf8(store.keys[&b"log"[..]].clone()).unwrap();
    for writer in 0..4 {
        let of_writer: Vec<_> =
            log.split_inclusive('>').filter(|it| it.starts_with(&format!("<{writer}."))).collect();
        let in_order: Vec<_> = (0..50).map(|count| format!("<{writer}.{count}>")).collect();
        assert_eq!(of_writer, in_order);
    }
}

#[tokio::test]
async fn big_values_go_through_both_ways() {
    let clerk = Clerk::connect([Node::default().listen().await]).await.unwrap();
    let big = vec![b'x'; 1 << 20];
    let (a, b, c) = tokio::join!(clerk.set("a", &big), clerk.set("b", &big), clerk.set("c", &big));
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
    let values = clerk.mget(["a", "b", "c"]).await.unwrap();
    assert!(values.iter().all(|value| value.as_deref() == Some(&big[..])));
}
