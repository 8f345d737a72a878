//! The write outage that clients see when the leader is killed: `cargo bench -p sampan`.
//!
//! Three Clerks, each connected to a node of its own first, write without a pause, one write at a
//! time. The leader gets `kill -9`; the outage of a client is the time from there to its next
//! acknowledged write. Twenty rounds, or as many as the argument says. Measured, not asserted: a
//! machine's load decides.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "../tests/it/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use harness::Cluster;
use sampan_client::Clerk;

const ROUNDS_DEFAULT: usize = 20;

fn main() {
    // `cargo bench` adds a flag of its own.
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let rounds: usize = rounds.unwrap_or(ROUNDS_DEFAULT);
    let mut cluster = Cluster::start("outage");
    let stop = Arc::new(AtomicBool::new(false));
    let (acknowledged, seen) = channel();
    let addresses = cluster.addresses();
    let clients: Vec<_> = (0..addresses.len())
        .map(|client| {
            let mut addresses = addresses.clone();
            addresses.rotate_left(client);
            let (stop, acknowledged) = (Arc::clone(&stop), acknowledged.clone());
            std::thread::spawn(move || {
                harness::block_on(write(client, addresses, &stop, &acknowledged));
            })
        })
        .collect();
    let mut outages_ms = Vec::new();
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(700));
        let leader = cluster.leader();
        while seen.try_recv().is_ok() {}
        let killed = Instant::now();
        cluster.kill(leader);
        let dead = Instant::now();
        let mut first = vec![None; clients.len()];
        while first.contains(&None) {
            let (client, begun, ended): (usize, Instant, Instant) = seen.recv().unwrap();
            // One that the old leader may have answered, and whose reply was on its way, says
            // nothing.
            if begun >= dead || ended >= dead + Duration::from_millis(2) {
                first[client].get_or_insert(ended.duration_since(killed).as_secs_f64() * 1e3);
            }
        }
        let round_ms: Vec<f64> = first.into_iter().flatten().collect();
        println!("round {round:2}: n{leader} killed, writes again after {round_ms:.1?} ms");
        outages_ms.extend(round_ms);
        cluster.restart(leader);
        cluster.wait_for(leader);
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    outages_ms.sort_by(f64::total_cmp);
    let at = |percent: usize| outages_ms[(outages_ms.len() - 1) * percent / 100];
    println!(
        "write outage after kill -9 of the leader, {rounds} rounds, {} clients: median {:.1} ms, \
         90 % {:.1} ms, 99 % {:.1} ms, longest {:.1} ms",
        cluster.addresses().len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

/// Writes until it is told to stop; says when each write began and was acknowledged.
async fn write(
    client: usize,
    addresses: Vec<String>,
    stop: &AtomicBool,
    acknowledged: &Sender<(usize, Instant, Instant)>,
) {
    let clerk = Clerk::connect(addresses).await.unwrap();
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let begun = Instant::now();
        clerk.set(format!("client:{client}"), number.to_string()).await.unwrap();
        acknowledged.send((client, begun, Instant::now())).unwrap();
    }
    clerk.close().await;
}
