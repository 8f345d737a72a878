//! 3A: a linearizable key/value service, without snapshots.

use std::time::Duration;

use super::clerk::Clerk;
use super::generic::{check_appends, check_sizes};
use super::lab::{Lab, Outcome, Setup, ensure};
use super::tester::E_MS;

/// A thousand appends of one clerk, one after the other.
const APPENDS: usize = 1_000;
/// Three operations in the course's 100 ms between heartbeats, in microseconds.
const OPERATION_US_MAX: u64 = 100_000 / 3;

/// One clerk alone is served at once.
pub(crate) async fn speed(lab: Lab, setup: Setup) -> Outcome {
    let mut clerk = Clerk::new(&lab, 0);
    clerk.get("x").await?;
    let began = lab.now();
    let mut expected = String::new();
    for j in 0..APPENDS {
        let text = format!("x 0 {j} y");
        clerk.append("x", &text).await?;
        expected.push_str(&text);
    }
    let mean_us = lab.now().us_since(began) / APPENDS as u64;
    clerk.check("x", &expected).await?;
    ensure(mean_us < OPERATION_US_MAX, || {
        format!("{:?} an operation is too slow", Duration::from_micros(mean_us))
    })?;
    check_sizes(&lab, setup)?;
    lab.state().record.check()
}

/// Five clerks append to one key on a bad network: each text is there once.
pub(crate) async fn concurrent_append(lab: Lab) -> Outcome {
    const CLIENTS: usize = 5;
    const TEXTS: usize = 10;
    let mut checker = Clerk::new(&lab, 100);
    checker.put("k", "").await?;
    let clients = (0..CLIENTS).map(|number| {
        let mut clerk = Clerk::new(&lab, number as u64);
        lab.spawn(async move {
            for j in 0..TEXTS {
                clerk.append("k", &format!("x {number} {j} y")).await?;
            }
            Outcome::Ok(())
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await?;
    }
    let value = checker.get("k").await?;
    for number in 0..CLIENTS {
        check_appends(&super::record::text(&value), number, 0..TEXTS)?;
    }
    lab.state().record.check()
}

/// The three rows of one script: where counting begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    Majority,
    Minority,
    Heal,
}

/// Five servers are split with the leader among two: the three go on, the two do not, and when all
/// are joined, what waited is done.
pub(crate) async fn one_partition(lab: Lab, counted: Stage) -> Outcome {
    let begin = |stage| {
        if stage == counted {
            lab.begin();
        }
    };
    let mut clerk = Clerk::new(&lab, 0);
    clerk.put("1", "13").await?;

    begin(Stage::Majority);
    let (three, two) = split_with_leader_in_minority(&lab).await?;
    let mut in_three = Clerk::reaching(&lab, 1, &three);
    let mut putter = Clerk::reaching(&lab, 2, &two);
    let mut getter = Clerk::reaching(&lab, 3, &two);
    let reaches = [putter.reach(), getter.reach()];
    in_three.put("1", "14").await?;
    in_three.check("1", "14").await?;
    if counted == Stage::Majority {
        return lab.state().record.check();
    }

    begin(Stage::Minority);
    let put = lab.spawn(async move { putter.put("1", "15").await });
    let get = lab.spawn(async move { getter.get("1").await });
    lab.sleep_ms(E_MS).await;
    ensure(!put.is_done(), || "a Put was done by a minority".into())?;
    ensure(!get.is_done(), || "a Get was answered by a minority".into())?;
    in_three.check("1", "14").await?;
    in_three.put("1", "16").await?;
    in_three.check("1", "16").await?;
    if counted == Stage::Minority {
        return lab.state().record.check();
    }

    begin(Stage::Heal);
    lab.connect_all();
    for reach in reaches {
        reach.borrow_mut().fill(true);
    }
    lab.sleep_ms(E_MS).await;
    let healed = lab.now();
    put.await?;
    get.await?;
    let waited_ms = lab.ms_since(healed);
    ensure(waited_ms < 3_000, || format!("done only {waited_ms} ms after all were joined"))?;
    clerk.check("1", "15").await?;
    lab.state().record.check()
}

/// Splits the servers three and two, with the leader among the two.
async fn split_with_leader_in_minority(lab: &Lab) -> Outcome<(Vec<usize>, Vec<usize>)> {
    let leader = lab.leader_now().await?;
    let others = lab.servers().filter(|&server| server != leader);
    let mut two = vec![leader];
    let mut three: Vec<usize> = others.collect();
    two.extend(three.pop());
    let sides: Vec<bool> = lab.servers().map(|server| two.contains(&server)).collect();
    lab.partition(&sides);
    Ok((three, two))
}
