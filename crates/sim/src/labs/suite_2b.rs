//! 2B: agreement on a log.

use super::applied::command;
use super::lab::{Lab, Outcome, ensure, fail};
use super::tester::{E_MS, Waited};

/// Commands get the indices 1, 2, 3 and reach all.
pub(crate) async fn basic_agreement(lab: Lab) -> Outcome {
    for index in 1..=3_u64 {
        let (count, _) = lab.committed(index)?;
        ensure(count == 0, || format!("{count} servers applied {index} before it was started"))?;
        let got = lab.one(&(100 * index).to_string(), 3, false).await?;
        ensure(got == index, || format!("got index {got} but expected {index}"))?;
    }
    Ok(())
}

/// Each command is sent to each peer once.
pub(crate) async fn rpc_byte_count(lab: Lab) -> Outcome {
    const LENGTH: u64 = 5_000;
    lab.one("99", 3, false).await?;
    let before = lab.state().world.network.traffic.bytes;
    let mut sent = 0;
    for index in 2..=11 {
        let text: String = (0..LENGTH).map(|_| char::from(b'a' + lab.below(26) as u8)).collect();
        let got = lab.one(&text, 3, false).await?;
        ensure(got == index, || format!("got index {got} but expected {index}"))?;
        sent += LENGTH;
    }
    let bytes = lab.state().world.network.traffic.bytes - before;
    let most = 3 * sent + 50_000;
    ensure(bytes <= most, || format!("{bytes} bytes were sent, {most} would do"))
}

/// Two of three go on; the third catches up.
pub(crate) async fn follower_disconnection(lab: Lab) -> Outcome {
    lab.one("101", 3, false).await?;
    let leader = lab.leader().await?;
    let follower = (leader + 1) % 3;
    lab.disconnect(follower);
    lab.one("102", 2, false).await?;
    lab.one("103", 2, false).await?;
    lab.sleep_ms(E_MS).await;
    lab.one("104", 2, false).await?;
    lab.one("105", 2, false).await?;
    lab.connect(follower);
    lab.one("106", 3, true).await?;
    lab.sleep_ms(E_MS).await;
    lab.one("107", 3, true).await?;
    Ok(())
}

/// Nothing is committed by two of five.
pub(crate) async fn no_agreement_without_majority(lab: Lab) -> Outcome {
    lab.one("10", 5, false).await?;
    let leader = lab.leader().await?;
    let cut: Vec<usize> = (1..=3).map(|k| (leader + k) % 5).collect();
    cut.iter().for_each(|&server| lab.disconnect(server));
    let Some(started) = lab.propose(leader, "20")? else { return fail("the leader refused") };
    ensure(started.index == 2, || format!("expected index 2, got {}", started.index))?;
    lab.sleep_ms(2 * E_MS).await;
    let (count, _) = lab.committed(started.index)?;
    ensure(count == 0, || format!("{count} servers applied it without a majority"))?;
    cut.iter().for_each(|&server| lab.connect(server));
    let leader = lab.leader().await?;
    let Some(again) = lab.propose(leader, "30")? else { return fail("the new leader refused") };
    ensure((2..=3).contains(&again.index), || format!("unexpected index {}", again.index))?;
    lab.one("1000", 5, true).await?;
    Ok(())
}

/// Several at once are all committed, at indices of their own.
pub(crate) async fn concurrent_starts(lab: Lab) -> Outcome {
    for attempt in 0..5 {
        if attempt > 0 {
            lab.sleep_ms(3_000).await;
        }
        let leader = lab.leader().await?;
        let Some(first) = lab.propose(leader, "1")? else { continue };
        let mut indices = Vec::new();
        for value in 100..105 {
            if let Some(started) = lab.propose(leader, &value.to_string())?
                && started.term == first.term
            {
                indices.push(started.index);
            }
        }
        let moved_on = lab.servers().any(|s| lab.state_of(s).is_some_and(|s| s.0 != first.term));
        if moved_on {
            continue;
        }
        let mut found = Vec::new();
        for index in indices {
            match lab.wait(index, 3, Some(first.term)).await? {
                Waited::Applied(command) => found.push(command),
                Waited::MovedOn => break,
            }
        }
        if found.len() < 5 {
            continue;
        }
        for value in 100..105 {
            let expected = command(value.to_string().as_bytes());
            ensure(found.contains(&expected), || format!("{value} is missing in {found:?}"))?;
        }
        return Ok(());
    }
    fail("the term changed too often")
}

/// What a cut-off leader has of its own gives way.
pub(crate) async fn rejoin_of_partitioned_leader(lab: Lab) -> Outcome {
    lab.one("101", 3, true).await?;
    let first = lab.leader().await?;
    lab.disconnect(first);
    for value in ["102", "103", "104"] {
        lab.propose(first, value)?;
    }
    lab.one("103", 2, true).await?;
    let second = lab.leader().await?;
    lab.disconnect(second);
    lab.connect(first);
    lab.one("104", 2, true).await?;
    lab.connect(second);
    lab.one("105", 3, true).await?;
    Ok(())
}

/// A leader finds the place where a long, wrong log agrees in few steps.
pub(crate) async fn backs_up_quickly(lab: Lab) -> Outcome {
    lab.one(&lab.random_value(), 5, true).await?;
    let first = lab.leader().await?;
    let follower = |k: usize| (first + k) % 5;
    (2..=4).for_each(|k| lab.disconnect(follower(k)));
    start_many(&lab, first)?;
    lab.sleep_ms(E_MS / 2).await;
    lab.disconnect(first);
    lab.disconnect(follower(1));
    (2..=4).for_each(|k| lab.connect(follower(k)));
    one_many(&lab).await?;
    let second = lab.leader().await?;
    let other = if follower(2) == second { (second + 1) % 5 } else { follower(2) };
    lab.disconnect(other);
    start_many(&lab, second)?;
    lab.sleep_ms(E_MS / 2).await;
    lab.servers().for_each(|server| lab.disconnect(server));
    [first, follower(1), other].into_iter().for_each(|server| lab.connect(server));
    one_many(&lab).await?;
    lab.servers().for_each(|server| lab.connect(server));
    lab.one(&lab.random_value(), 5, true).await?;
    Ok(())
}

fn start_many(lab: &Lab, server: usize) -> Outcome {
    (0..50).try_for_each(|_| lab.propose(server, &lab.random_value()).map(|_| ()))
}

async fn one_many(lab: &Lab) -> Outcome {
    for _ in 0..50 {
        lab.one(&lab.random_value(), 3, true).await?;
    }
    Ok(())
}

/// Few RPCs elect a leader, agree on twelve commands, and pass a quiet second.
pub(crate) async fn rpc_counts(lab: Lab) -> Outcome {
    const COMMANDS: u64 = 10;
    let mut leader = lab.leader().await?;
    let to_elect = lab.incoming();
    ensure((1..=30).contains(&to_elect), || format!("{to_elect} RPCs to elect a leader"))?;
    for attempt in 0..5 {
        if attempt > 0 {
            lab.sleep_ms(3_000).await;
            leader = lab.leader().await?;
        }
        let before = lab.incoming();
        if !agree_on_run(&lab, leader, COMMANDS).await? {
            continue;
        }
        let rpcs = lab.incoming() - before;
        let most = (COMMANDS + 1 + 3) * 3;
        ensure(rpcs <= most, || format!("{rpcs} RPCs for {COMMANDS} commands, {most} would do"))?;
        let before = lab.incoming();
        lab.sleep_ms(E_MS).await;
        let idle = lab.incoming() - before;
        return ensure(idle <= 3 * 20, || format!("{idle} RPCs in a quiet second"));
    }
    fail("the term changed too often")
}

/// Starts a run of commands at consecutive indices and waits for them; false if the term changed.
async fn agree_on_run(lab: &Lab, leader: usize, count: u64) -> Outcome<bool> {
    let Some(first) = lab.propose(leader, "1")? else { return Ok(false) };
    let mut commands = Vec::new();
    for k in 1..count + 2 {
        let value = lab.random_value();
        match lab.propose(leader, &value)? {
            Some(started) if started.term == first.term => {
                ensure(started.index == first.index + k, || {
                    format!("{} started at {}, not at {}", value, started.index, first.index + k)
                })?;
            }
            _ => return Ok(false),
        }
        commands.push(command(value.as_bytes()));
    }
    for k in 1..=count {
        match lab.wait(first.index + k, 3, Some(first.term)).await? {
            Waited::MovedOn => return Ok(false),
            Waited::Applied(found) => ensure(found == commands[k as usize - 1], || {
                format!("{found:?} at {}", first.index + k)
            })?,
        }
    }
    Ok(lab.servers().all(|s| lab.state_of(s).is_none_or(|(term, _)| term == first.term)))
}
