//! A Clerk on a line that takes longer for a command than a node is given to say something. In
//! memory and in virtual time.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::Clerk;
use crate::connection::{Connector, Stream};
use crate::double::{Act, Node};

const ATTEMPT: Duration = Duration::from_secs(1);
/// What the line holds, and what it passes on at once.
const PIECE_BYTES: usize = 16 << 10;

/// Passes a piece on after each pause.
async fn pass(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, pause: Duration) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(bytes) = from.read(&mut piece).await
        && bytes > 0
        && to.write_all(&piece[..bytes]).await.is_ok()
    {
        tokio::time::sleep(pause).await;
    }
}

/// Connects every address to the node, by a line that is slow towards it.
fn slow_line(node: &Node, pause: Duration) -> Connector {
    let node = node.clone();
    Arc::new(move |_| {
        let node = node.clone();
        Box::pin(async move {
            let (client, near) = tokio::io::duplex(PIECE_BYTES);
            let (far, server) = tokio::io::duplex(PIECE_BYTES);
            let ((near_read, near_write), (far_read, far_write)) =
                (tokio::io::split(near), tokio::io::split(far));
            tokio::spawn(pass(near_read, far_write, pause));
            tokio::spawn(pass(far_read, near_write, Duration::ZERO));
            tokio::spawn(node.serve(server));
            Ok(Box::new(client) as Box<dyn Stream>)
        })
    })
}

async fn clerk(node: &Node, pause: Duration) -> Clerk {
    let builder = Clerk::builder().addresses(["a"]).attempt_timeout(ATTEMPT);
    builder.connector(slow_line(node, pause)).connect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_command_may_take_longer_to_send_than_an_attempt_may_be_silent() {
    let node = Node::default();
    let clerk = clerk(&node, ATTEMPT / 4).await;
    let value = vec![b'x'; 20 * PIECE_BYTES];
    let start = Instant::now();
    clerk.set("k", &value).await.unwrap();
    assert!(start.elapsed() > 4 * ATTEMPT, "the line was not slow");
    assert_eq!(node.store().connections, 1, "it was begun again");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_to_a_node_that_stopped_is_no_sign_of_its_life() {
    let node = Node::default();
    let clerk = clerk(&node, Duration::ZERO).await;
    clerk.set("k", "v").await.unwrap();
    let mut is_first = true;
    node.script(move |args| match args[0].as_slice() {
        b"GET" if std::mem::take(&mut is_first) => Act::Hang,
        _ => Act::Serve,
    });
    let start = Instant::now();
    let asks = async {
        let clerk = clerk.clone();
        clerk.get("k").await.unwrap()
    };
    let writes = async {
        // The line has room for them, and they count from their own time on.
        for _ in 0..3 {
            tokio::time::sleep(ATTEMPT / 4).await;
            let clerk = clerk.clone();
            tokio::spawn(async move { clerk.append("log", "x").await });
        }
    };
    let (value, ()) = tokio::join!(asks, writes);
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    assert!(start.elapsed() < ATTEMPT * 5 / 4, "{:?}", start.elapsed());
}
