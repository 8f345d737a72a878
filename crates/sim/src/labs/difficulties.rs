//! Ten difficulties that students of the course met when they built this system, one row each: a
//! script that walks into the difficulty on purpose.
//!
//! The first two are of clients (thesis 6.3), the others of snapshots (paper, section 7 and Figure
//! 13; thesis 5). All of [`crate::checkers`] look on besides.

use std::collections::BTreeMap;

use sampan_base::LogIndex;
use sampan_kv::{Class, Digest, Reply};
use sampan_replica::{Event, Input, Replica, Request};

use crate::disk::{FileClass, Mishap};

use super::applied::encode;
use super::calls::{Ask, Failed, PATIENCE_MS, watch};
use super::clerk::Clerk;
use super::generic::check_appends;
use super::lab::{Lab, Outcome, ensure, fail, node_of};
use super::record::text;
use super::tester::E_MS;

/// The log size at which servers take a snapshot where a row wants many, in bytes.
pub(crate) const STATE_BYTES_MAX: u64 = 1_000;
/// The size at which they take one in the row about that size.
const THRESHOLD_BYTES: u64 = 4_000;
/// How long a call of a healthy majority may take, retries included, in milliseconds.
const DEADLINE_MS: u64 = 6_000;
/// Longer than any server leaves a client without an answer, in milliseconds.
const ANSWER_MS: u64 = 6_000;
/// How often a server is looked at where every moment counts, in microseconds.
const LOOK_EVERY_US: u64 = 500;

// ----------------------------------------------------------------------------------- 1, 2: clients

/// Difficulty 1: a call fails, by the network or by its server. It is tried again, at one server
/// after the other, until it is done; and a server that cannot do it says so in time.
pub(crate) async fn failed_calls(lab: Lab) -> Outcome {
    const ROUNDS: usize = 30;
    let mut clerk = Clerk::new(&lab, 0);
    let reach = clerk.reach();
    for round in 0..ROUNDS {
        let victim = lab.any_server();
        match round % 3 {
            0 => lab.crash(victim),
            1 => lab.disconnect(victim),
            _ => reach.borrow_mut()[victim] = false,
        }
        let began = lab.now();
        clerk.append("k", &format!("x 0 {round} y")).await?;
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms <= DEADLINE_MS, || format!("a call took {waited_ms} ms"))?;
        if !lab.is_up(victim) {
            lab.start(victim)?;
        }
        lab.connect_all();
        reach.borrow_mut().fill(true);
    }
    let before = clerk.get("k").await?;
    check_appends(&text(&before), 0, 0..ROUNDS)?;

    let alone = lab.any_server();
    for server in lab.servers().filter(|&server| server != alone) {
        lab.crash(server);
    }
    let asked = lab.now();
    let answer = ask(&lab, alone, &["APPEND", "k", "x 0 30 y"]).await?;
    let Ok(Reply::Error(why)) = answer else {
        return fail(format!("one server of three answered {answer:?} to a write"));
    };
    let promised_ms = if why.starts_with("CLUSTERDOWN") { 2_000 } else { ANSWER_MS };
    let waited_ms = lab.ms_since(asked);
    ensure(waited_ms <= promised_ms, || format!("{why} only after {waited_ms} ms"))?;
    for server in lab.servers().filter(|&server| server != alone) {
        lab.start(server)?;
    }
    lab.connect_all();
    if why.starts_with("CLUSTERDOWN") {
        clerk.check("k", &text(&before)).await?;
    }
    Ok(())
}

/// Difficulty 2: a command reaches several servers, and again after crashes and cuts. It is applied
/// once, and every copy gets the first reply.
pub(crate) async fn retried_commands(lab: Lab) -> Outcome {
    const ROUNDS: i64 = 20;
    let Reply::Int(session) = insist(&lab, 0, &["SESSION", "OPEN"]).await? else {
        return fail("a session has a number");
    };
    let session = session.to_string();
    for round in 1..=ROUNDS {
        let copies: Vec<_> = lab
            .servers()
            .map(|server| {
                let (lab, session) = (lab.clone(), session.clone());
                lab.clone().spawn(async move { increment(&lab, server, &session, round).await })
            })
            .collect();
        lab.sleep_us(lab.below(20_000)).await;
        let victim = lab.any_server();
        match round % 4 {
            0 => lab.servers().for_each(|server| lab.crash(server)),
            1 => lab.crash(victim),
            2 => lab.disconnect(victim),
            _ => lab.state().world.input(node_of(victim), Input::TakeSnapshot)?,
        }
        lab.sleep_ms(lab.below(E_MS)).await;
        for server in lab.servers().filter(|&server| !lab.is_up(server)) {
            lab.start(server)?;
        }
        lab.connect_all();
        for copy in copies {
            let reply = copy.await?;
            ensure(reply == Reply::Int(round), || format!("increment {round} got {reply:?}"))?;
        }
        for server in lab.servers() {
            for number in [round, (round - 1).max(1)] {
                let reply = increment(&lab, server, &session, number).await?;
                ensure(reply == Reply::Int(number), || format!("again {number}: {reply:?}"))?;
            }
        }
    }
    let total = insist(&lab, 0, &["GET", "n"]).await?;
    ensure(total == Reply::bulk(ROUNDS.to_string().as_bytes()), || format!("n is {total:?}"))
}

/// The same command of a session, by this server, until it is answered. The client has the reply of
/// the one before the last.
async fn increment(lab: &Lab, server: usize, session: &str, number: i64) -> Outcome<Reply> {
    let (sequence, acked) = (number.to_string(), (number - 2).to_string());
    let mut words = vec!["ONCE", session, &sequence];
    if number > 2 {
        words.extend(["ACK", &acked]);
    }
    words.extend(["INCR", "n"]);
    insist(lab, server, &words).await
}

// ----------------------------------------------------------------- 3, 6, 7, 10: restored state

/// Difficulty 3: a state restored from a snapshot is the state that it was taken of, whole: by a
/// restart, and on a server that got the snapshot from another one.
pub(crate) async fn restored_state(lab: Lab) -> Outcome {
    let leader = lab.leader_now().await?;
    let behind = (leader + 1) % lab.count();
    lab.disconnect(behind);
    let session = fill(&lab, leader).await?;
    lab.sleep_ms(5 * E_MS / 2).await;
    let mut taken = BTreeMap::new();
    for server in lab.servers().filter(|&server| server != behind) {
        let (index, digest) = look(&lab, server)?;
        take_snapshot(&lab, server).await?;
        ensure(look(&lab, server)? == (index, digest), || "a snapshot changed its state".into())?;
        taken.insert(index, digest);
    }
    ensure(taken.len() == 1, || "servers at rest differ".into())?;

    lab.connect(behind);
    installed(&lab, behind, DEADLINE_MS).await?;
    same_state(&lab).await?;
    for server in lab.servers() {
        lab.crash(server);
        lab.start(server)?;
        let (index, digest) = look(&lab, server)?;
        let expected = taken.get(&index).copied();
        ensure(expected == Some(digest), || {
            format!("server {server} restored {digest} at {index}, it was {expected:?}")
        })?;
    }
    lab.connect_all();
    check_filled(&lab, &session).await?;
    same_state(&lab).await
}

/// Makes a state with something of everything that a state can hold. Gives the session in it.
async fn fill(lab: &Lab, server: usize) -> Outcome<String> {
    let long = "long ".repeat(1_000);
    for number in 0..50 {
        insist(lab, server, &["SET", &format!("key {number}"), &number.to_string()]).await?;
    }
    let Reply::Int(session) = insist(lab, server, &["SESSION", "OPEN"]).await? else {
        return fail("a session has a number");
    };
    let session = session.to_string();
    let commands: [&[&str]; 9] = [
        &["SET", "empty", ""],
        &["SET", "long", &long],
        &["INCRBY", "counter", "-41"],
        &["DEL", "key 7"],
        &["PSETEX", "lives long", "60000", "v"],
        &["PSETEX", "lives short", "6000", "v"],
        &["ONCE", &session, "1", "APPEND", "log", "once,"],
        &["ONCE", &session, "2", "INCRBY", "counter", "83"],
        &["ONCE", &session, "3", "INCR", "long"],
    ];
    for command in commands {
        insist(lab, server, command).await?;
    }
    Ok(session)
}

/// What [`fill`] made is there, on every server, and a repeated command finds its first reply.
async fn check_filled(lab: &Lab, session: &str) -> Outcome {
    let long = "long ".repeat(1_000);
    let text = |text: &str| Reply::bulk(text.as_bytes());
    lab.sleep_ms(6 * E_MS).await;
    for server in lab.servers() {
        let once_3 = insist(lab, server, &["ONCE", session, "3", "INCR", "long"]).await?;
        ensure(matches!(once_3, Reply::Error(_)), || format!("the error became {once_3:?}"))?;
        let expected: [(&[&str], Reply); 10] = [
            (&["GET", "key 49"], text("49")),
            (&["GET", "key 7"], Reply::Nil),
            (&["GET", "empty"], text("")),
            (&["GET", "long"], text(&long)),
            (&["GET", "counter"], text("42")),
            (&["GET", "lives long"], text("v")),
            (&["GET", "lives short"], Reply::Nil),
            (&["GET", "log"], text("once,")),
            (&["ONCE", session, "1", "APPEND", "log", "once,"], Reply::Int(5)),
            (&["ONCE", session, "2", "INCRBY", "counter", "83"], Reply::Int(42)),
        ];
        for (command, expected) in expected {
            let reply = insist(lab, server, command).await?;
            ensure(reply == expected, || {
                format!("server {server}: {command:.60?} got {reply:.60?}, not {expected:.60?}")
            })?;
        }
    }
    Ok(())
}

/// Difficulty 6: when a snapshot from the leader is in force, last applied and commit index are
/// both at its index, and neither ever goes back behind it.
pub(crate) async fn installed_snapshot(lab: Lab) -> Outcome {
    let mut clerk = Clerk::new(&lab, 0);
    for round in 0..10 {
        let behind = (lab.leader_now().await? + 1) % lab.count();
        lab.disconnect(behind);
        // For who was heard lately the log is kept.
        lab.sleep_ms(2 * E_MS).await;
        for number in 0..40 {
            clerk.put(&format!("k{number}"), &format!("{round}.{number}")).await?;
        }
        if lab.chance(500) {
            lab.crash(behind);
            lab.start(behind)?;
        }
        lab.connect(behind);
        let index = installed(&lab, behind, DEADLINE_MS).await?;
        let status =
            with_replica(&lab, behind, |replica| (replica.status(), replica.raft().applied()))?;
        let (commit, applied, last) = (status.0.raft.commit, status.0.applied, status.1);
        ensure(commit >= index && applied >= index && applied == last, || {
            format!("a snapshot at {index}: commit {commit}, applied {applied} and {last}")
        })?;
        let reply = ask_stale(&lab, behind, &["GET", "k0"]).await?;
        let expected = Reply::bulk(format!("{round}.0").as_bytes());
        ensure(reply.as_ref() == Ok(&expected), || format!("{reply:?}, not {expected:?}"))?;
        clerk.put("k", &round.to_string()).await?;
        same_state(&lab).await?;
    }
    lab.state().record.check()
}

/// Difficulty 7: a server that restarts begins at the snapshot on its disk, before anybody tells it
/// anything.
pub(crate) async fn restart_at_snapshot(lab: Lab) -> Outcome {
    let mut clerk = Clerk::new(&lab, 0);
    for round in 0..10 {
        for number in 0..40 {
            clerk.put(&format!("k{number}"), &format!("{round}.{number}")).await?;
        }
        lab.sleep_ms(E_MS).await;
        let mut before = Vec::new();
        for server in lab.servers() {
            before.push(newest_snapshot(&lab, server)?);
            lab.crash(server);
        }
        for (server, before) in before.into_iter().enumerate() {
            lab.start(server)?;
            let (applied, first) = with_replica(&lab, server, |replica| {
                (replica.raft().applied(), replica.raft().first_index())
            })?;
            ensure(before > LogIndex::ZERO && applied >= before, || {
                format!("server {server} began at {applied}, its snapshot was at {before}")
            })?;
            ensure(first <= applied.next(), || format!("a log from {first}, applied {applied}"))?;
            let reply = ask_stale(&lab, server, &["GET", "k0"]).await?;
            let holds = matches!(&reply, Ok(Reply::Bulk(value)) if text(value).ends_with(".0"));
            ensure(holds, || format!("server {server} answers {reply:?} from its snapshot"))?;
        }
        lab.connect_all();
    }
    clerk.check("k39", "9.39").await?;
    lab.state().record.check()
}

/// Difficulty 10: after a restart, at whatever moment the server died, last applied, the start of
/// the log, the snapshot and the state agree before anything is served.
pub(crate) async fn agreement_after_restart(lab: Lab) -> Outcome {
    const CLIENTS: usize = 3;
    const TEXTS: usize = 120;
    let clients = (0..CLIENTS).map(|number| {
        let mut clerk = Clerk::new(&lab, number as u64);
        lab.spawn(async move {
            for j in 0..TEXTS {
                clerk.append(&number.to_string(), &format!("x {number} {j} y")).await?;
            }
            Outcome::Ok(())
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..15 {
        lab.sleep_us(200_000 + lab.below(600_000)).await;
        lab.servers().for_each(|server| lab.crash(server));
        for server in lab.servers() {
            lab.start(server)?;
            agrees_with_itself(&lab, server)?;
            let reply = ask(&lab, server, &["GET", "0"]).await?;
            ensure(!matches!(reply, Ok(Reply::Bulk(_) | Reply::Nil)), || {
                format!("server {server} alone answered {reply:?}")
            })?;
        }
        lab.connect_all();
    }
    for client in clients {
        client.await?;
    }
    let mut checker = Clerk::new(&lab, CLIENTS as u64);
    for number in 0..CLIENTS {
        let value = checker.get(&number.to_string()).await?;
        check_appends(&text(&value), number, 0..TEXTS)?;
    }
    same_state(&lab).await?;
    lab.state().record.check()
}

/// A server that has just started: it knows to be committed what its snapshot says, and no more.
fn agrees_with_itself(lab: &Lab, server: usize) -> Outcome {
    let snapshot = newest_snapshot(lab, server)?;
    with_replica(lab, server, |replica| {
        let (raft, status) = (replica.raft(), replica.status());
        let (start, applied, commit) = (raft.first_index().prev(), raft.applied(), raft.commit());
        ensure(start <= applied && applied == status.applied, || {
            format!("server {server}: a log after {start}, applied {applied}, {}", status.applied)
        })?;
        ensure(applied == snapshot && commit == snapshot, || {
            format!("server {server}: snapshot at {snapshot}, applied {applied}, commit {commit}")
        })?;
        let has_all = (start.0..=raft.last_index().0).all(|i| raft.term_at(LogIndex(i)).is_some());
        ensure(has_all, || format!("server {server}: a gap in the log after {start}"))
    })?
}

// ------------------------------------------------------------------------------- 4: receiving

/// Difficulty 4: a server that installs a snapshot goes on with everything else meanwhile: it
/// answers its leader, hands on writes, and reads.
pub(crate) async fn busy_receiver(lab: Lab) -> Outcome {
    /// How much slower a disk is: a sync takes a second.
    const SLOWNESS: u64 = 5_000;
    let leader = lab.leader_now().await?;
    let behind = (leader + 1) % lab.count();
    insist(&lab, leader, &["SET", "early", "seen"]).await?;
    lab.sleep_ms(E_MS).await;
    lab.disconnect(behind);
    let value = "v".repeat(1_000);
    for number in 0..100 {
        insist(&lab, leader, &["SET", &format!("key {number}"), &value]).await?;
    }
    lab.sleep_ms(2 * E_MS).await;
    for server in lab.servers().filter(|&server| server != behind) {
        take_snapshot(&lab, server).await?;
    }
    let term = lab.state_of(leader).map(|(term, _)| term);
    lab.state().world.node_mut(node_of(behind)).set_disk_slowness(SLOWNESS);
    let began = lab.now();
    lab.connect(behind);
    lab.sleep_ms(E_MS / 2).await;
    let mut rounds = 0;
    while installs(&lab, behind) == 0 {
        let asked = lab.now();
        let read = ask_stale(&lab, behind, &["GET", "early"]).await?;
        ensure(read == Ok(Reply::bulk(b"seen")), || format!("a read got {read:?}"))?;
        let write = ask(&lab, behind, &["SET", "forwarded", &rounds.to_string()]).await?;
        ensure(write == Ok(Reply::Ok), || format!("a write got {write:?}"))?;
        let waited_ms = lab.ms_since(asked);
        ensure(waited_ms < 100, || format!("no answers for {waited_ms} ms"))?;
        rounds += 1;
        lab.sleep_ms(50).await;
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms < 30_000, || format!("no snapshot after {waited_ms} ms"))?;
    }
    ensure(rounds >= 20, || format!("installed after {rounds} rounds: nothing was slow"))?;
    let now = lab.state_of(leader).map(|(term, _)| term);
    ensure(now == term, || format!("an election: term {now:?} after {term:?}"))?;
    let newest = Reply::bulk((rounds - 1).to_string().as_bytes());
    let read = insist(&lab, behind, &["GET", "forwarded"]).await?;
    ensure(read == newest, || format!("a read got {read:?}, not {newest:?}"))
}

// ------------------------------------------------------------------- 5, 8, 9: taking snapshots

/// Difficulty 5: a log is trimmed only as far as a durable snapshot of applied entries goes,
/// whatever happens meanwhile.
pub(crate) async fn trimmed_log(lab: Lab) -> Outcome {
    let watcher = lab.spawn(watch_trims(lab.clone()));
    let result = trims_under_load(&lab).await;
    if watcher.is_done() {
        return watcher.await.map(|_: u64| ());
    }
    result
}

async fn trims_under_load(lab: &Lab) -> Outcome {
    let mut clerk = Clerk::new(lab, 0);
    for round in 0..24 {
        let victim = lab.any_server();
        match round % 3 {
            0 => lab.crash(victim),
            1 => lab.disconnect(victim),
            _ => {}
        }
        for number in 0..15 {
            clerk.put(&format!("k{number}"), &format!("{round}.{number}")).await?;
        }
        if !lab.is_up(victim) {
            lab.start(victim)?;
        }
        lab.connect_all();
        clerk.check("k14", &format!("{round}.14")).await?;
    }
    same_state(lab).await?;
    let size = lab.log_size();
    ensure(size <= 8 * STATE_BYTES_MAX, || format!("a log of {size} bytes"))?;
    for server in lab.servers() {
        let taken = events(lab, server, |event| matches!(event, Event::SnapshotTaken { .. }));
        ensure(taken > 0, || format!("server {server} took no snapshot"))?;
    }
    lab.state().record.check()
}

/// Looks at the logs of all servers all the time. Ends only by a failure.
async fn watch_trims(lab: Lab) -> Outcome<u64> {
    loop {
        for server in lab.servers().filter(|&server| lab.is_up(server)) {
            let snapshot = newest_snapshot(&lab, server)?;
            let (start, term, applied) = with_replica(&lab, server, |replica| {
                let start = replica.raft().first_index().prev();
                (start, replica.raft().term_at(start), replica.raft().applied())
            })?;
            ensure(start <= applied, || format!("trimmed through {start}, applied {applied}"))?;
            ensure(start <= snapshot, || format!("trimmed through {start}, snapshot {snapshot}"))?;
            ensure(term.is_some(), || format!("the term of {start} is forgotten"))?;
        }
        lab.sleep_us(LOOK_EVERY_US).await;
    }
}

/// Difficulty 8: a snapshot is taken when the log has outgrown its size: not before, not long
/// after, and never where there is no such size.
pub(crate) async fn size_threshold(lab: Lab) -> Outcome {
    const PUTS: u64 = 300;
    let taken = |lab: &Lab| events(lab, 0, |event| matches!(event, Event::SnapshotTaken { .. }));
    let bytes_before = puts_under_watch(&lab, PUTS, u64::MAX).await?;
    ensure(taken(&lab) == 0, || "a snapshot without a size to take it at".into())?;
    let size = lab.snapshot_size()?;
    ensure(size == 0, || format!("a snapshot of {size} bytes without a size to take it at"))?;

    restart_with(&lab, Some(THRESHOLD_BYTES))?;
    lab.sleep_ms(2 * E_MS).await;
    let first = taken(&lab);
    ensure(first == 1, || format!("{first} snapshots of a log of {bytes_before} bytes"))?;
    puts_under_watch(&lab, PUTS, 2 * THRESHOLD_BYTES).await?;
    let more = taken(&lab) - first;
    let fitting = (bytes_before / THRESHOLD_BYTES) as usize;
    ensure((fitting / 2..=fitting + 1).contains(&more), || {
        format!("{more} snapshots for {bytes_before} bytes, one is due after {THRESHOLD_BYTES}")
    })?;

    restart_with(&lab, None)?;
    puts_under_watch(&lab, PUTS, u64::MAX).await?;
    let last = taken(&lab) - first - more;
    ensure(last == 0, || format!("{last} snapshots without a size to take them at"))
}

/// So many writes, while no log may be longer than this. Gives the length of the longest log.
async fn puts_under_watch(lab: &Lab, puts: u64, bytes_max: u64) -> Outcome<u64> {
    let mut clerk = Clerk::new(lab, 0);
    let value = "v".repeat(50);
    for number in 0..puts {
        clerk.put(&format!("k{}", number % 10), &value).await?;
        let size = lab.log_size();
        ensure(size <= bytes_max, || format!("a log of {size} bytes, not of {bytes_max}"))?;
    }
    Ok(lab.log_size())
}

/// Restarts all servers with another size at which to take snapshots.
fn restart_with(lab: &Lab, raft_state_bytes_max: Option<u64>) -> Outcome {
    for server in lab.servers() {
        lab.crash(server);
        let mut state = lab.state();
        let setup = state.world.node_mut(node_of(server)).setup_mut();
        setup.options.raft_state_bytes_max = raft_state_bytes_max;
    }
    for server in lab.servers() {
        lab.start(server)?;
    }
    lab.connect_all();
    Ok(())
}

/// Difficulty 9: a snapshot cannot be stored, for want of room or because it does not read back.
/// The server says so and goes on; the older snapshot and the log stay, and are enough for a
/// restart.
pub(crate) async fn failed_snapshot(lab: Lab) -> Outcome {
    /// Longer than a server waits before it tries again.
    const RETRY_MS: u64 = 6_000;
    const LONGER_BYTES: usize = 8_192;
    let mut clerk = Clerk::new(&lab, 0);
    clerk.put("k", "0").await?;
    for server in lab.servers() {
        take_snapshot(&lab, server).await?;
    }
    for round in 1..=6 {
        let server = lab.any_server();
        let disk_is_full = round % 2 == 0;
        clerk.put("k", &round.to_string()).await?;
        // What is written over an older snapshot needs room where it is longer.
        clerk.put("longer", &"x".repeat(round * LONGER_BYTES)).await?;
        lab.sleep_ms(E_MS).await;
        let before = kept(&lab, server)?;
        let failures = snapshot_failures(&lab, server);
        {
            let mut state = lab.state();
            let disk = state.world.node_mut(node_of(server)).disk_mut();
            if disk_is_full {
                // The room of the reserve is gone as well: with it the snapshot would be taken.
                (disk.full, disk.crowded) = (true, true);
            } else {
                // A read that fails is tried once more.
                disk.arm(Mishap::ReadFails, FileClass::Snapshots);
                disk.arm(Mishap::ReadFails, FileClass::Snapshots);
            }
            state.world.input(node_of(server), Input::TakeSnapshot)?;
        }
        lab.sleep_ms(E_MS / 10).await;
        let failed = snapshot_failures(&lab, server) - failures;
        ensure(failed == 1, || format!("{failed} failures of a snapshot were seen"))?;
        let after = kept(&lab, server)?;
        ensure(after == before, || format!("kept {after:?} of {before:?}"))?;
        clerk.put("k", &format!("{round} and on")).await?;
        if lab.chance(500) {
            lab.crash(server);
            lab.start(server)?;
            let (snapshot, ..) = kept(&lab, server)?;
            ensure(snapshot == before.0, || format!("snapshot at {snapshot}, not {}", before.0))?;
            lab.connect(server);
        }
        lab.state().world.node_mut(node_of(server)).disk_mut().heal();
        clerk.check("k", &format!("{round} and on")).await?;
        lab.sleep_ms(RETRY_MS).await;
        take_snapshot(&lab, server).await?;
        same_state(&lab).await?;
    }
    lab.state().record.check()
}

/// Where a server's newest snapshot is, and where its log begins and how many bytes it has.
fn kept(lab: &Lab, server: usize) -> Outcome<(LogIndex, LogIndex, usize)> {
    let snapshot = newest_snapshot(lab, server)?;
    with_replica(lab, server, |replica| {
        (snapshot, replica.raft().first_index(), replica.raft().live_log_bytes())
    })
}

fn snapshot_failures(lab: &Lab, server: usize) -> usize {
    events(lab, server, |event| matches!(event, Event::SnapshotFailed(_)))
}

// ------------------------------------------------------------------------------------ looking

/// Looks at a replica. Fails if it does not run.
fn with_replica<T>(lab: &Lab, server: usize, look: impl FnOnce(&Replica) -> T) -> Outcome<T> {
    let state = lab.state();
    match state.world.node(node_of(server)).replica() {
        Some(replica) => Ok(look(replica)),
        None => fail(format!("server {server} does not run")),
    }
}

/// What a server has applied, and the digest of its state.
fn look(lab: &Lab, server: usize) -> Outcome<(LogIndex, Digest)> {
    with_replica(lab, server, |replica| (replica.raft().applied(), replica.kv().digest()))
}

/// The index of a server's newest durable snapshot; zero if it has none.
fn newest_snapshot(lab: &Lab, server: usize) -> Outcome<LogIndex> {
    with_replica(lab, server, |replica| {
        replica.status().snapshot.map_or(LogIndex::ZERO, |(index, _)| index)
    })
}

/// How many events of a kind a server has reported.
fn events(lab: &Lab, server: usize, is_one: impl Fn(&Event) -> bool) -> usize {
    let state = lab.state();
    state.events.iter().filter(|(from, event)| *from == server && is_one(event)).count()
}

fn installs(lab: &Lab, server: usize) -> usize {
    events(lab, server, |event| matches!(event, Event::SnapshotInstalled { .. }))
}

/// Waits until a server has installed one more snapshot, and gives its index.
async fn installed(lab: &Lab, server: usize, within_ms: u64) -> Outcome<LogIndex> {
    let (began, before) = (lab.now(), installs(lab, server));
    while installs(lab, server) == before {
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms < within_ms, || format!("no snapshot came within {waited_ms} ms"))?;
        lab.sleep_us(LOOK_EVERY_US).await;
    }
    let state = lab.state();
    let last = state.events.iter().rev().find_map(|(from, event)| match event {
        Event::SnapshotInstalled { index, .. } if *from == server => Some(*index),
        _ => None,
    });
    last.map_or_else(|| fail("the snapshot has an index"), Ok)
}

/// Has a server take a snapshot of all that it has applied, and waits for it.
async fn take_snapshot(lab: &Lab, server: usize) -> Outcome {
    let (wanted, began) = (look(lab, server)?.0, lab.now());
    lab.state().world.input(node_of(server), Input::TakeSnapshot)?;
    while newest_snapshot(lab, server)? < wanted {
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms < DEADLINE_MS, || format!("no snapshot after {waited_ms} ms"))?;
        lab.sleep_ms(1).await;
    }
    Ok(())
}

/// Waits until all servers have applied the same, and holds their states against each other.
async fn same_state(lab: &Lab) -> Outcome {
    let began = lab.now();
    loop {
        let mut states = Vec::new();
        for server in lab.servers() {
            states.push(look(lab, server)?);
        }
        if states.iter().all(|(index, _)| *index == states[0].0) {
            let equal = states.iter().all(|state| *state == states[0]);
            return ensure(equal, || format!("servers differ: {states:?}"));
        }
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms < DEADLINE_MS, || format!("servers are apart: {states:?}"))?;
        lab.sleep_ms(10).await;
    }
}

// ------------------------------------------------------------------------------------- asking

/// Sends a command to a server until it is answered for good.
async fn insist(lab: &Lab, server: usize, words: &[&str]) -> Outcome<Reply> {
    let began = lab.now();
    loop {
        if let Ok(reply) = ask(lab, server, words).await?
            && !is_for_now(&reply)
        {
            return Ok(reply);
        }
        let waited_ms = lab.ms_since(began);
        ensure(waited_ms < 20_000, || format!("{words:.40?} is not done after {waited_ms} ms"))?;
        lab.sleep_ms(20).await;
    }
}

/// Does a reply ask to be tried again?
fn is_for_now(reply: &Reply) -> bool {
    let Reply::Error(text) = reply else { return false };
    ["CLUSTERDOWN", "UNKNOWN", "NOSPACE"].iter().any(|code| text.starts_with(code))
}

/// Sends a command to a server, beside all networks, and waits for its answer.
async fn ask(lab: &Lab, server: usize, words: &[&str]) -> Outcome<Result<Reply, Failed>> {
    send(lab, server, words, false).await
}

/// The same for a read of whatever the server holds, `READONLY`.
async fn ask_stale(lab: &Lab, server: usize, words: &[&str]) -> Outcome<Result<Reply, Failed>> {
    send(lab, server, words, true).await
}

async fn send(
    lab: &Lab,
    server: usize,
    words: &[&str],
    stale: bool,
) -> Outcome<Result<Reply, Failed>> {
    if !lab.is_up(server) {
        return Ok(Err(Failed));
    }
    if lab.state().calls.start_watching() {
        lab.spawn(watch(lab.clone()));
    }
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let (class, command): (Class, _) = encode(&words);
    let answer = {
        let mut state = lab.state();
        let state = &mut *state;
        let (id, connection) = (node_of(server), state.new_connection());
        let ask = Ask { server, life: state.world.node(id).lives(), connection, seq: 1 };
        let everywhere = std::rc::Rc::new(std::cell::RefCell::new(vec![true; server + 1]));
        // Whoever asks here waits for what the server itself promises.
        let since = state.world.now().plus_us((ANSWER_MS - PATIENCE_MS) * 1_000);
        let answer = state.calls.begin(ask, since, &everywhere);
        let request = Request { seq: 1, class, stale, command };
        state.world.input(id, Input::Client { connection, requests: vec![request] })?;
        answer
    };
    Ok(answer.await)
}
