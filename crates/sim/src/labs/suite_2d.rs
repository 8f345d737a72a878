//! 2D: snapshots keep logs short, and servers that fell behind get one (rows of 2021).
//!
//! The service over Raft takes a snapshot of its state after every tenth command. Here it is the
//! server's own snapshot of its key/value store, asked for at the same commands.

use sampan_replica::{Event, Input};

use super::lab::{Lab, Outcome, ensure, node_of};

/// Commands between two snapshots of a server.
const INTERVAL: u64 = 10;
/// The most bytes that a log may have.
const LOG_BYTES_MAX: u64 = 2_000;
/// Rounds, each with a victim.
const ROUNDS: usize = 30;
/// In one round of so many the victim stays away until nothing is kept for it: the log of a
/// follower that was heard lately stays, and then no snapshot is needed.
const LONG_ROUNDS_ONE_IN: usize = 6;
/// Twice the longest election timeout, in which a follower counts as there, and what it takes to
/// look again.
const AWAY_MS: u64 = 2_000;
/// How often it is looked what servers have applied, in microseconds.
const LOOK_EVERY_US: u64 = 1_000;

/// What happens to a victim in each round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Harm {
    /// Nothing.
    None,
    /// It is cut off.
    Cut,
    /// It crashes.
    Crash,
}

/// Looks at all servers all the time, and has each take a snapshot when it is due.
async fn applier(lab: Lab) -> Outcome {
    let mut reached = vec![0; lab.count()];
    loop {
        lab.look()?;
        for (server, reached) in reached.iter_mut().enumerate() {
            let now = lab.state().applied.reached(server);
            // The index after which the course takes one is the one before a multiple of ten.
            let is_due = (now + 1) / INTERVAL > (*reached + 1) / INTERVAL;
            *reached = now;
            if is_due && lab.is_up(server) {
                lab.state().world.input(node_of(server), Input::TakeSnapshot)?;
                lab.look()?;
            }
        }
        lab.sleep_us(LOOK_EVERY_US).await;
    }
}

/// Thirty rounds, in which now a follower and now the leader is the victim.
pub(crate) async fn snapshots(lab: Lab, harm: Harm) -> Outcome {
    let applier = lab.spawn(applier(lab.clone()));
    let result = rounds(&lab, harm).await;
    if applier.is_done() {
        return applier.await;
    }
    result
}

/// How often a server was given a snapshot.
fn installed(lab: &Lab) -> usize {
    let is_one = |event: &&(usize, Event)| matches!(event.1, Event::SnapshotInstalled { .. });
    lab.state().events.iter().filter(is_one).count()
}

async fn rounds(lab: &Lab, harm: Harm) -> Outcome {
    lab.one(&lab.random_value(), 3, true).await?;
    let mut leader = lab.leader().await?;
    for round in 0..ROUNDS {
        let other = (leader + 1) % 3;
        let (victim, sender) = if round % 3 == 1 { (leader, other) } else { (other, leader) };
        match harm {
            Harm::None => {}
            Harm::Cut => lab.disconnect(victim),
            Harm::Crash => lab.crash(victim),
        }
        if harm != Harm::None {
            lab.one(&lab.random_value(), 2, true).await?;
        }
        for _ in 0..=INTERVAL {
            lab.propose(sender, &lab.random_value())?;
        }
        lab.one(&lab.random_value(), 2, true).await?;
        let log_size = lab.log_size();
        ensure(log_size < LOG_BYTES_MAX, || format!("a log of {log_size} bytes"))?;
        if harm != Harm::None {
            if round % LONG_ROUNDS_ONE_IN == 0 {
                lab.sleep_ms(AWAY_MS).await;
            }
            if harm == Harm::Crash {
                lab.start(victim)?;
            }
            lab.connect(victim);
            lab.one(&lab.random_value(), 3, true).await?;
            leader = lab.leader().await?;
        }
    }
    let (installed, wanted) = (installed(lab), ROUNDS / LONG_ROUNDS_ONE_IN);
    ensure(harm == Harm::None || installed >= wanted, || format!("{installed} installed snapshots"))
}
