//! 2C: what is persistent survives crashes, and agreement survives a bad network.

use std::cell::Cell;
use std::rc::Rc;

use super::applied::command;
use super::lab::{Lab, Outcome, ensure, fail};
use super::tester::{E_MS, Waited};

/// Restarts a server and connects it.
fn restart(lab: &Lab, server: usize) -> Outcome {
    lab.start(server)?;
    lab.connect(server);
    Ok(())
}

/// All restart, then leaders and followers one by one.
pub(crate) async fn basic_persistence(lab: Lab) -> Outcome {
    lab.one("11", 3, true).await?;
    for server in lab.servers() {
        lab.start(server)?;
    }
    lab.servers().for_each(|server| lab.connect(server));
    lab.one("12", 3, true).await?;
    let first = lab.leader().await?;
    restart(&lab, first)?;
    lab.one("13", 3, true).await?;
    let second = lab.leader().await?;
    lab.disconnect(second);
    lab.one("14", 2, true).await?;
    restart(&lab, second)?;
    lab.wait(4, 3, None).await?;
    let third = (lab.leader().await? + 1) % 3;
    lab.disconnect(third);
    lab.one("15", 2, true).await?;
    restart(&lab, third)?;
    lab.one("16", 3, true).await?;
    Ok(())
}

/// Two of five fall behind, then three restart, five times over.
pub(crate) async fn more_persistence(lab: Lab) -> Outcome {
    let mut index = 1;
    for _ in 0..5 {
        lab.one(&(10 + index).to_string(), 5, true).await?;
        index += 1;
        let leader = lab.leader().await?;
        let follower = |k: usize| (leader + k) % 5;
        lab.disconnect(follower(1));
        lab.disconnect(follower(2));
        lab.one(&(10 + index).to_string(), 3, true).await?;
        index += 1;
        [0, 3, 4].into_iter().for_each(|k| lab.disconnect(follower(k)));
        restart(&lab, follower(1))?;
        restart(&lab, follower(2))?;
        lab.sleep_ms(E_MS).await;
        restart(&lab, follower(3))?;
        lab.one(&(10 + index).to_string(), 3, true).await?;
        index += 1;
        lab.connect(follower(4));
        lab.connect(leader);
    }
    lab.one("1000", 5, true).await?;
    Ok(())
}

/// A leader restarts into a majority that was cut off before.
pub(crate) async fn partitioned_leader_restarts(lab: Lab) -> Outcome {
    lab.one("101", 3, true).await?;
    let leader = lab.leader().await?;
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    lab.disconnect(two);
    lab.one("102", 2, true).await?;
    lab.crash(leader);
    lab.crash(one);
    lab.connect(two);
    restart(&lab, leader)?;
    lab.one("103", 2, true).await?;
    restart(&lab, one)?;
    lab.one("104", 3, true).await?;
    Ok(())
}

/// Starts a command on every server that runs; the last that takes it leads.
fn start_on_all(lab: &Lab, counts: impl Fn(usize) -> bool) -> Outcome<Option<usize>> {
    let mut leader = None;
    for server in lab.servers() {
        if lab.propose(server, &lab.random_value())?.is_some() && counts(server) {
            leader = Some(server);
        }
    }
    Ok(leader)
}

/// Now and then time to agree, mostly next to none.
async fn uneven_pause(lab: &Lab) {
    let ms = if lab.chance(100) { lab.below(E_MS / 2) } else { lab.below(13) };
    lab.sleep_ms(ms).await;
}

/// Leaders crash before or after they commit: what an earlier term left may be overwritten, what a
/// later one committed may not (paper, Figure 8).
pub(crate) async fn figure_8(lab: Lab) -> Outcome {
    lab.one(&lab.random_value(), 1, true).await?;
    let mut up = lab.count();
    for _ in 0..1_000 {
        let leader = start_on_all(&lab, |_| true)?;
        uneven_pause(&lab).await;
        if let Some(leader) = leader {
            lab.look()?;
            lab.crash(leader);
            up -= 1;
        }
        if up < 3 {
            let server = lab.any_server();
            if !lab.is_up(server) {
                restart(&lab, server)?;
                up += 1;
            }
        }
    }
    for server in lab.servers() {
        if !lab.is_up(server) {
            restart(&lab, server)?;
        }
    }
    lab.one(&lab.random_value(), 5, true).await?;
    Ok(())
}

/// Many commands at once on a bad network.
pub(crate) async fn unreliable_agreement(lab: Lab) -> Outcome {
    let mut running = Vec::new();
    for round in 1..50 {
        for j in 0..4 {
            let (beside, value) = (lab.clone(), (100 * round + j).to_string());
            running.push(lab.spawn(async move { beside.one(&value, 1, true).await }));
        }
        lab.one(&round.to_string(), 1, true).await?;
    }
    lab.state().world.network.reliable = true;
    for one in running {
        one.await?;
    }
    lab.one("100", 5, true).await?;
    Ok(())
}

/// As [`figure_8`], with cuts instead of crashes, on a network that loses, delays and reorders.
pub(crate) async fn figure_8_unreliable(lab: Lab) -> Outcome {
    lab.one(&lab.random_value(), 1, true).await?;
    let mut connected = lab.count();
    for round in 0..1_000 {
        if round == 200 {
            lab.state().world.network.long_reordering = true;
        }
        let leader = start_on_all(&lab, |server| lab.is_connected(server))?;
        uneven_pause(&lab).await;
        if let Some(leader) = leader.filter(|_| lab.chance(500)) {
            lab.disconnect(leader);
            connected -= 1;
        }
        if connected < 3 {
            let server = lab.any_server();
            if !lab.is_connected(server) {
                lab.connect(server);
                connected += 1;
            }
        }
    }
    lab.servers().for_each(|server| lab.connect(server));
    lab.one(&lab.random_value(), 5, true).await?;
    Ok(())
}

/// A client of the churn: starts commands everywhere, and keeps those that it saw committed.
async fn churn_client(lab: Lab, number: u64, stop: Rc<Cell<bool>>) -> Outcome<Vec<String>> {
    let mut agreed = Vec::new();
    while !stop.get() {
        let value = lab.random_value();
        let mut index = None;
        for server in lab.servers() {
            if let Some(started) = lab.propose(server, &value)? {
                index = Some(started.index);
            }
        }
        let Some(index) = index else {
            lab.sleep_ms(79 + number * 17).await;
            continue;
        };
        for pause_ms in [10, 20, 50, 100, 200] {
            if let (1.., Some(found)) = lab.committed(index)? {
                if found == command(value.as_bytes()) {
                    agreed.push(value);
                }
                break;
            }
            lab.sleep_ms(pause_ms).await;
        }
    }
    Ok(agreed)
}

/// Servers are cut, crashed, restarted and joined at random while three clients work.
pub(crate) async fn churn(lab: Lab) -> Outcome {
    let stop = Rc::new(Cell::new(false));
    let clients: Vec<_> =
        (0..3).map(|k| lab.spawn(churn_client(lab.clone(), k, Rc::clone(&stop)))).collect();
    for _ in 0..20 {
        if lab.chance(200) {
            lab.disconnect(lab.any_server());
        }
        if lab.chance(500) {
            let server = lab.any_server();
            if !lab.is_up(server) {
                lab.start(server)?;
            }
            lab.connect(server);
        }
        if lab.chance(200) {
            lab.look()?;
            lab.crash(lab.any_server());
        }
        lab.sleep_ms(E_MS * 7 / 10).await;
    }
    lab.sleep_ms(E_MS).await;
    lab.state().world.network.reliable = true;
    for server in lab.servers() {
        if !lab.is_up(server) {
            lab.start(server)?;
        }
        lab.connect(server);
    }
    stop.set(true);
    let mut agreed = Vec::new();
    for client in clients {
        agreed.extend(client.await?);
    }
    lab.sleep_ms(E_MS).await;
    let last = lab.one(&lab.random_value(), 5, true).await?;
    check_churn(&lab, last, &agreed).await
}

/// Everything up to the last index is on all servers, and what clients saw committed is among it.
async fn check_churn(lab: &Lab, last: u64, agreed: &[String]) -> Outcome {
    let mut really = std::collections::BTreeSet::new();
    for index in 1..=last {
        match lab.wait(index, 5, None).await? {
            Waited::Applied(found) => really.insert(found),
            Waited::MovedOn => return fail("nobody asked about terms"),
        };
    }
    for value in agreed {
        let kept = really.contains(&command(value.as_bytes()));
        ensure(kept, || format!("{value} was committed and is gone"))?;
    }
    Ok(())
}
