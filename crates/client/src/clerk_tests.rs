//! A Clerk against scripted nodes, over memory instead of sockets and in virtual time: the clock
//! jumps to the next timer whenever everybody waits, so that times can be compared exactly.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sampan_base::{Rng, SessionId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::{Connector, Stream};
use crate::double::{Act, Args, Node};
use crate::{Builder, Clerk, Error, OnceId, Outcome, SetOptions, Ttl, Value};

const DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(1);

/// Connects to nodes in memory; an address that has none refuses, and from `void` nothing comes.
fn memory(nodes: BTreeMap<&'static str, Node>) -> Connector {
    Arc::new(move |address| {
        let node = nodes.get(address.as_str()).cloned();
        Box::pin(async move {
            if address == "void" {
                std::future::pending::<()>().await;
            }
            let node = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (client, server) = tokio::io::duplex(64 << 10);
            tokio::spawn(node.serve(server));
            Ok(Box::new(client) as Box<dyn Stream>)
        })
    })
}

fn builder<const N: usize>(nodes: [(&'static str, &Node); N]) -> Builder {
    let nodes = nodes.map(|(address, node)| (address, node.clone()));
    Clerk::builder()
        .addresses(nodes.iter().map(|(address, _)| *address))
        .deadline(DEADLINE)
        .attempt_timeout(ATTEMPT)
        .connector(memory(BTreeMap::from(nodes)))
}

/// One node, and a Clerk connected to it.
async fn one_node() -> (Node, Clerk) {
    let node = Node::default();
    let clerk = builder([("a", &node)]).connect().await.unwrap();
    (node, clerk)
}

fn is_once(args: &Args) -> bool {
    args[0] == b"ONCE"
}

/// `act` for the first `count` writes, then all is well.
fn first_writes(count: usize, act: Act) -> impl FnMut(&Args) -> Act + Send {
    let mut left = count;
    move |args| {
        if is_once(args) && left > 0 {
            left -= 1;
            return act;
        }
        Act::Serve
    }
}

fn id(session: u64, sequence: u64) -> OnceId {
    OnceId { session: SessionId(session), sequence }
}

/// Every way to lose an answer or a command, at random, one time in four.
fn faults(seed: u64) -> impl FnMut(&Args) -> Act + Send {
    let mut rng = Rng::seeded(seed);
    move |_| {
        if !rng.one_in(4) {
            return Act::Serve;
        }
        *rng.pick(&[
            Act::Cut,
            Act::ServeThenCut,
            Act::ServeThenHang,
            Act::Say("CLUSTERDOWN No leader elected"),
            Act::Say("NOSPACE"),
            Act::Say("UNKNOWN outcome not known"),
            Act::ServeThenSay("UNKNOWN outcome not known"),
            Act::ServeAfter(Duration::from_millis(3)),
        ])
    }
}

#[tokio::test(start_paused = true)]
async fn typed_calls_do_what_they_say() {
    let (_node, clerk) = one_node().await;
    assert_eq!(clerk.get("k").await, Ok(None));
    assert_eq!(clerk.set("k", "v").await, Ok(()));
    assert_eq!(clerk.put("k", b"\r\n\0".as_slice()).await, Ok(()));
    assert_eq!(clerk.get("k").await, Ok(Some("\r\n\0".into())));
    assert_eq!(clerk.append("k", "ab").await, Ok(5));
    assert_eq!(clerk.strlen("k").await, Ok(5));
    assert_eq!(clerk.incr_by("n", -3).await, Ok(-3));
    assert_eq!(clerk.mset([("a", "1"), ("b", "2")]).await, Ok(()));
    assert_eq!(
        clerk.mget(["a", "x", "b"]).await,
        Ok(vec![Some("1".into()), None, Some("2".into())])
    );
    assert_eq!(clerk.exists(["a", "x", "a"]).await, Ok(2));
    assert_eq!(clerk.del(["a", "x"]).await, Ok(1));
    assert_eq!(clerk.ttl("b").await, Ok(Ttl::Never));
    assert_eq!(clerk.expire("b", Duration::from_secs(5)).await, Ok(true));
    assert_eq!(clerk.ttl("b").await, Ok(Ttl::Left(Duration::from_secs(5))));
    assert_eq!(clerk.persist("b").await, Ok(true));
    assert_eq!(clerk.ttl("x").await, Ok(Ttl::Missing));
    assert_eq!(clerk.once(["APPEND", "l", "abc"]).await, Ok(Value::Integer(3)));
    assert_eq!(clerk.command(["GET", "l"]).await, Ok(Value::Bulk("abc".into())));
    assert!(clerk.info(Some("server")).await.unwrap().contains("server_name:double"));
}

#[tokio::test(start_paused = true)]
async fn set_options_are_sent() {
    let (node, clerk) = one_node().await;
    let options = SetOptions::default;
    assert_eq!(clerk.set_with("k", "1", options().if_exists()).await, Ok(false));
    let brief = options().if_missing().expire_after(Duration::from_micros(1));
    assert_eq!(clerk.set_with("k", "2", brief).await, Ok(true));
    assert_eq!(clerk.ttl("k").await, Ok(Ttl::Left(Duration::from_millis(1))), "at least one");
    assert_eq!(clerk.get_set("k", "3", options().keep_ttl()).await, Ok(Some("2".into())));
    assert_eq!(clerk.ttl("k").await, Ok(Ttl::Left(Duration::from_millis(1))));
    assert_eq!(clerk.get_set("new", "1", options().if_exists()).await, Ok(None));
    assert_eq!(node.store().keys.get(&b"new"[..]), None);
}

#[tokio::test(start_paused = true)]
async fn every_write_is_applied_once_whatever_happens_to_the_connection() {
    for seed in 0..20 {
        let node = Node::default();
        let (b, c) = (node.peer(), node.peer());
        let clerk = builder([("a", &node), ("b", &b), ("c", &c)]).connect().await.unwrap();
        for (number, node) in (0..).zip([&node, &b, &c]) {
            node.script(faults(3 * seed + number));
        }
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let clerk = clerk.clone();
            writers.spawn(async move {
                for count in 0..10 {
                    clerk.append("log", format!("<{writer}.{count}>")).await.unwrap();
                }
            });
        }
        writers.join_all().await;

        let store = node.store();
        assert_eq!(store.applied.len(), 80, "seed {seed}");
        let log = String::from_utf8(store.keys[&b"log"[..]].clone()).unwrap();
        for writer in 0..8 {
            let places: Vec<_> = (0..10)
                .map(|count| {
                    let found: Vec<_> = log.match_indices(&format!("<{writer}.{count}>")).collect();
                    assert_eq!(found.len(), 1, "seed {seed}: <{writer}.{count}> in {log}");
                    found[0].0
                })
                .collect();
            assert!(places.is_sorted(), "seed {seed}: order of writer {writer} in {log}");
        }
        assert!(store.received_named("ONCE").len() > 80, "seed {seed}: nothing was sent again");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_repeated_until_they_are_answered_and_need_no_session() {
    for act in
        [Act::Cut, Act::Hang, Act::Say("CLUSTERDOWN"), Act::Say("UNKNOWN"), Act::Babble(b"?")]
    {
        let (node, clerk) = one_node().await;
        let mut left = 3;
        node.script(move |_| {
            left -= 1;
            if left >= 0 { act } else { Act::Serve }
        });
        assert_eq!(clerk.get("k").await, Ok(None), "{act:?}");
        assert_eq!(node.store().received_named("GET").len(), 4, "{act:?}");
        assert!(node.store().sessions.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_a_window_of_calls_is_in_flight() {
    let node = Node::default();
    // The first write is answered late, those behind it are kept waiting with it.
    node.script(first_writes(1, Act::ServeAfter(ATTEMPT / 2)));
    let clerk = builder([("a", &node)]).window(8).connect().await.unwrap();
    let mut calls = JoinSet::new();
    for count in 0..50 {
        let clerk = clerk.clone();
        calls.spawn(async move { clerk.set(format!("k{count}"), "v").await.unwrap() });
    }
    calls.join_all().await;
    let store = node.store();
    assert_eq!(store.applied.len(), 50);
    assert_eq!(store.kept_max, 8, "the window is used, and not passed");
    for args in store.received_named("ONCE") {
        let [sequence, acked] = [2, 4].map(|at| number(&args[at]));
        assert!(sequence - acked <= 8, "sequence {sequence} with {acked} acknowledged");
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_holds_for_reads_too() {
    let node = Node::default();
    let clerk = builder([("a", &node)]).window(8).connect().await.unwrap();
    let mut delays = [ATTEMPT / 2].into_iter();
    node.script(move |_| delays.next().map_or(Act::Serve, Act::ServeAfter));
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let clerk = clerk.clone();
        calls.spawn(async move { clerk.get("k").await.unwrap() });
    }
    calls.join_all().await;
    assert_eq!(node.store().batch_commands_max, 8);
}

#[tokio::test(start_paused = true)]
async fn calls_sent_again_keep_their_place() {
    let node = Node::default();
    let clerk = builder([("a", &node)]).window(2).connect().await.unwrap();
    clerk.set("log", "").await.unwrap();
    node.script(first_writes(1, Act::Hang));
    let append = |text: &'static str| clerk.append("log", text);
    let results = tokio::join!(append("1"), append("2"), append("3"), append("4"));
    assert_eq!(results, (Ok(1), Ok(2), Ok(3), Ok(4)));
    assert_eq!(node.store().keys[&b"log"[..]], b"1234");
}

fn number(arg: &[u8]) -> u64 {
    std::str::from_utf8(arg).unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn many_calls_go_out_in_one_piece() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    let before = node.store().batches;
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let clerk = clerk.clone();
        calls.spawn(async move { clerk.incr_by("n", 1).await.unwrap() });
    }
    calls.join_all().await;
    let batches = node.store().batches - before;
    assert!(batches <= 2, "200 calls arrived in {batches} pieces");
}

#[tokio::test(start_paused = true)]
async fn replies_are_acknowledged_with_the_next_write() {
    let (node, clerk) = one_node().await;
    for _ in 0..3 {
        clerk.incr_by("n", 1).await.unwrap();
    }
    assert_eq!(node.store().sessions[&1].acked, 2);
    let sent: Vec<_> = node
        .store()
        .received_named("ONCE")
        .iter()
        .map(|args| [1, 2, 4].map(|at| number(&args[at])))
        .collect();
    assert_eq!(sent, [[1, 1, 0], [1, 2, 1], [1, 3, 2]]);
}

#[tokio::test(start_paused = true)]
async fn without_any_node_calls_end_at_the_deadline_as_certainly_not_applied() {
    let start = Instant::now();
    let nowhere = Clerk::builder().addresses(["x", "y"]).connector(memory(BTreeMap::new()));
    let error = nowhere.deadline(DEADLINE).connect().await.unwrap_err();
    assert_eq!(start.elapsed().as_millis(), DEADLINE.as_millis());
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("refused")), "{error}");
    assert!(!error.may_be_applied());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_be_applied_is_unknown_at_the_deadline_and_not_before() {
    for act in [Act::Hang, Act::Cut, Act::Say("UNKNOWN x"), Act::ServeThenSay("UNKNOWN x")] {
        let (node, clerk) = one_node().await;
        node.script(first_writes(usize::MAX, act));
        let start = Instant::now();
        let error = clerk.set("k", "v").await.unwrap_err();
        assert_eq!(start.elapsed().as_millis(), DEADLINE.as_millis(), "{act:?}");
        assert!(
            matches!(error, Error::Unknown { id, .. } if id == self::id(1, 1)),
            "{act:?}: {error}"
        );
        assert!(error.may_be_applied());
        let attempts = node.store().received_named("ONCE").len();
        assert!(attempts >= 9, "{act:?}: {attempts} attempts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_only_copy_is_on_the_wire_at_the_deadline_is_unknown() {
    let node = Node::default();
    let clerk = builder([("a", &node)]).deadline(ATTEMPT / 2).connect().await.unwrap();
    node.script(first_writes(1, Act::ServeAfter(ATTEMPT * 3 / 4)));
    let error = clerk.append("k", "v").await.unwrap_err();
    let Error::Unknown { id, .. } = error else { panic!("{error}") };
    // Its late answer is taken for what it is, not for the answer to the next write.
    assert_eq!(clerk.append("k", "w").await, Ok(2));
    assert_eq!(clerk.append("k", "x").await, Ok(3));
    assert_eq!(clerk.outcome(id).await, Ok(Outcome::Applied(Value::Integer(1))), "still there");
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_does_not_take_the_outcome_of_an_unknown_write_away() {
    let node = Node::default();
    let clerk = builder([("a", &node)]).deadline(ATTEMPT / 2).connect().await.unwrap();
    clerk.set("k", "v").await.unwrap();
    node.script(|args| match &args[0][..] {
        b"GET" => Act::ServeAfter(ATTEMPT * 3 / 4),
        b"ONCE" => Act::Say("NOSPACE"),
        _ => Act::Serve,
    });
    let (_, written) = tokio::join!(clerk.get("k"), clerk.append("k", "w"));
    let Err(Error::Unknown { id, .. }) = written else { panic!("{written:?}") };
    tokio::time::sleep(ATTEMPT / 2).await;
    node.script(|_| Act::Serve);
    assert_eq!(clerk.append("k", "x").await, Ok(2));
    assert_eq!(clerk.outcome(id).await, Ok(Outcome::NotApplied));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_always_refused_is_certainly_not_applied() {
    for text in ["CLUSTERDOWN No leader elected", "LOADING", "NOSPACE"] {
        let (node, clerk) = one_node().await;
        node.script(first_writes(usize::MAX, Act::Say(text)));
        let start = Instant::now();
        let error = clerk.set("k", "v").await.unwrap_err();
        assert_eq!(start.elapsed().as_millis(), DEADLINE.as_millis(), "{text}");
        assert!(matches!(&error, Error::Unavailable(why) if why.contains(text)), "{error}");
        assert!(node.store().applied.is_empty());
        // The session goes on, and its sequence is not left waiting.
        node.script(|_| Act::Serve);
        assert_eq!(clerk.set("k", "v").await, Ok(()));
        assert_eq!(clerk.set("k", "v").await, Ok(()));
        assert_eq!(node.store().sessions[&1].acked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_make_an_earlier_copy_certain() {
    let (node, clerk) = one_node().await;
    let mut count = 0;
    node.script(move |args| {
        count += usize::from(is_once(args));
        match count {
            0 => Act::Serve,
            1 => Act::ServeThenCut,
            _ => Act::Say("NOSPACE"),
        }
    });
    let error = clerk.set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert_eq!(node.store().applied.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_an_unknown_write_can_be_asked_for() {
    for (act, wanted) in [
        (Act::ServeThenHang, Outcome::Applied(Value::Integer(1))),
        (Act::Hang, Outcome::NotApplied),
    ] {
        let (node, clerk) = one_node().await;
        node.script(first_writes(usize::MAX, act));
        let error = clerk.append("k", "v").await.unwrap_err();
        let Error::Unknown { id, .. } = error else { panic!("{error}") };
        node.script(|_| Act::Serve);
        clerk.append("other", "v").await.unwrap();
        assert_eq!(clerk.outcome(id).await, Ok(wanted));
        let elsewhere = OnceId { session: SessionId(77), ..id };
        assert_eq!(clerk.outcome(elsewhere).await, Ok(Outcome::Unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn writes_given_up_do_not_fill_the_window() {
    let node = Node::default();
    let clerk = builder([("a", &node)]).window(2).connect().await.unwrap();
    node.script(first_writes(usize::MAX, Act::Hang));
    let (a, b) = tokio::join!(clerk.set("a", "1"), clerk.set("b", "1"));
    assert!(matches!((a, b), (Err(Error::Unknown { .. }), Err(Error::Unknown { .. }))));
    node.script(|_| Act::Serve);
    for _ in 0..5 {
        clerk.incr_by("n", 1).await.unwrap();
    }
    assert_eq!(node.store().applied.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_write_given_up_does_not_fill_what_the_server_keeps_of_a_session() {
    for act in [Act::Hang, Act::ServeThenHang] {
        let node = Node::default();
        node.store().keep_at_most = Some(4);
        let clerk = builder([("a", &node)]).window(64).connect().await.unwrap();
        node.script(first_writes(usize::MAX, act));
        assert!(matches!(clerk.set("a", "1").await, Err(Error::Unknown { .. })));
        node.script(|_| Act::Serve);
        for n in 1..=20 {
            assert_eq!(clerk.incr_by("n", 1).await, Ok(n));
        }
        // What is on its way at once waits for its acknowledgements.
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let clerk = clerk.clone();
            calls.spawn(async move { clerk.incr_by("n", 1).await.unwrap() });
        }
        calls.join_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_connections_is_passed_over_without_waiting() {
    let node = Node::default();
    let start = Instant::now();
    let addresses = Clerk::builder().addresses(["dead", "dead too", "a"]);
    let nodes = memory(BTreeMap::from([("a", node.clone())]));
    let clerk = addresses.connector(nodes).connect().await.unwrap();
    clerk.set("k", "v").await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(node.store().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_nothing_comes_from_is_left_though_the_deadline_is_short() {
    let node = Node::default();
    let connected = Clerk::builder()
        .addresses(["void", "a"])
        .deadline(ATTEMPT / 2)
        .attempt_timeout(ATTEMPT)
        .connector(memory(BTreeMap::from([("a", node)])))
        .connect()
        .await;
    connected.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dial_goes_on_when_its_calls_have_ended_and_others_come() {
    let node = Node::default();
    let clerk = Clerk::builder()
        .addresses(["a", "void"])
        .deadline(ATTEMPT * 6 / 5)
        .attempt_timeout(ATTEMPT)
        .connector(memory(BTreeMap::from([("a", node.clone())])))
        .connect()
        .await
        .unwrap();
    node.script(|_| Act::Hang);
    let start = Instant::now();
    // A second without an answer; then the other address is dialled, for a third of the deadline.
    assert!(matches!(clerk.get("k").await, Err(Error::Unavailable(_))));
    node.script(|_| Act::Serve);
    tokio::time::sleep(ATTEMPT / 10).await;
    assert_eq!(clerk.get("k").await, Ok(None));
    let (elapsed, dialled) = (start.elapsed(), ATTEMPT * 7 / 5);
    assert!(elapsed < dialled + ATTEMPT / 10, "{elapsed:?}, the dial ended after {dialled:?}");
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_all_slow_to_connect_to_are_given_more_time() {
    let node = Node::default();
    let near = memory(BTreeMap::from([("a", node.clone()), ("b", node.peer())]));
    let is_far = Arc::new(AtomicBool::new(false));
    let far = is_far.clone();
    let clerk = Clerk::builder()
        .addresses(["a", "b"])
        // A third of this for each dial, which takes longer.
        .deadline(ATTEMPT * 6 / 5)
        .attempt_timeout(ATTEMPT)
        .connector(Arc::new(move |address| {
            let (connecting, is_far) = (near(address), far.load(Ordering::Relaxed));
            Box::pin(async move {
                if is_far {
                    tokio::time::sleep(ATTEMPT * 7 / 10).await;
                }
                connecting.await
            })
        }))
        .connect()
        .await
        .unwrap();
    is_far.store(true, Ordering::Relaxed);
    node.script(|_| Act::Hang);
    assert!(clerk.get("k").await.is_err());
    node.script(|_| Act::Serve);
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(clerk.get("k").await);
    }
    assert!(answers.contains(&Ok(None)), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_left_after_one_attempt_and_the_next_is_remembered() {
    let a = Node::default();
    let b = a.peer();
    let clerk = builder([("a", &a), ("b", &b)]).connect().await.unwrap();
    a.script(|_| Act::ServeThenHang);
    let start = Instant::now();
    assert_eq!(clerk.append("k", "v").await, Ok(1));
    assert_eq!(start.elapsed().as_millis(), ATTEMPT.as_millis(), "the wait for the session");
    b.script(|_| Act::ServeThenHang);
    a.script(|_| Act::Serve);
    assert_eq!(clerk.append("k", "v").await, Ok(2), "once, though b applied it too");
    assert_eq!(start.elapsed().as_millis(), 2 * ATTEMPT.as_millis());
    assert_eq!(clerk.append("k", "v").await, Ok(3));
    assert_eq!(start.elapsed().as_millis(), 2 * ATTEMPT.as_millis(), "a is remembered");
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_that_answers_is_not_left() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    node.script(|_| Act::ServeAfter(ATTEMPT * 3 / 4));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let clerk = clerk.clone();
            tokio::spawn(async move { clerk.incr_by("n", 1).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(node.store().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_leader_is_left_once_the_rest_is_answered() {
    let a = Node::default();
    let b = a.peer();
    let clerk = builder([("a", &a), ("b", &b)]).connect().await.unwrap();
    clerk.set("k", "v").await.unwrap();
    a.script(first_writes(1, Act::Say("CLUSTERDOWN No leader elected")));
    let (x, y) = tokio::join!(clerk.append("x", "1"), clerk.append("y", "1"));
    assert_eq!((x, y), (Ok(1), Ok(1)));
    // The second was answered where it was sent; only the refused one went to the other node.
    assert_eq!(a.store().received_named("ONCE").len(), 1 + 2 + 1);
    assert_eq!(a.store().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_of_which_no_copy_can_be_applied_goes_into_a_new_session() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    node.store().sessions.clear();
    assert_eq!(clerk.append("k", "w").await, Ok(2));
    assert_eq!(node.store().sessions.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(node.store().applied.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_sent_before_the_session_expired_is_not_repeated() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    // Applied, the answer lost, and the session gone when it is asked for again.
    let store = node.clone();
    node.script(move |args| {
        if !is_once(args) {
            return Act::Serve;
        }
        if store.store().received_named("ONCE").len() == 2 {
            store.store().sessions.clear();
        }
        if store.store().received_named("ONCE").len() == 1 { Act::ServeThenCut } else { Act::Serve }
    });
    assert_eq!(clerk.append("k", "w").await, Err(Error::SessionExpired { id: id(1, 2) }));
    assert_eq!(node.store().applied.len(), 2);
    assert_eq!(clerk.append("k", "x").await, Ok(3), "later writes use a new session");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_disagrees_is_not_used_again() {
    let (node, clerk) = one_node().await;
    node.script(first_writes(1, Act::Say("SESSIONREUSED other command")));
    assert_eq!(
        clerk.set("k", "v").await,
        Err(Error::Protocol("SESSIONREUSED other command".to_owned()))
    );
    assert_eq!(clerk.set("k", "v").await, Ok(()));
    assert_eq!(number(&node.store().received.last().unwrap()[1]), 2);
}

#[tokio::test(start_paused = true)]
async fn opening_the_session_is_repeated_until_it_succeeds() {
    for act in
        [Act::Cut, Act::Hang, Act::Say("CLUSTERDOWN"), Act::Say("NOSPACE"), Act::Say("UNKNOWN")]
    {
        let (node, clerk) = one_node().await;
        let mut left = 3;
        node.script(move |_| {
            left -= 1;
            if left >= 0 { act } else { Act::Serve }
        });
        assert_eq!(clerk.set("k", "v").await, Ok(()), "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_without_sessions_is_named_as_such() {
    const TEXT: &str = "ERR unknown command 'SESSION', with args beginning with: 'OPEN' ";
    let (node, clerk) = one_node().await;
    node.script(|args| if args[0] == b"SESSION" { Act::Say(TEXT) } else { Act::Serve });
    let start = Instant::now();
    let error = clerk.set("k", "v").await.unwrap_err();
    assert_eq!(error, Error::NoSessions(TEXT.to_owned()));
    assert!(error.to_string().starts_with("the server is not a Sampan node"), "{error}");
    assert_eq!(start.elapsed(), Duration::ZERO, "there is nothing to wait for");
    assert_eq!(clerk.get("k").await, Ok(None), "reads work");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_the_outcome_is_given_as_it_is() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "text").await.unwrap();
    let text = "ERR value is not an integer or out of range";
    assert_eq!(clerk.incr_by("k", 1).await, Err(Error::Rejected(text.to_owned())));
    node.script(|_| Act::Say("NOAUTH Authentication required."));
    let rejected = Err(Error::Rejected("NOAUTH Authentication required.".to_owned()));
    assert_eq!(clerk.get("k").await.map(drop), rejected);
    assert_eq!(clerk.set("k", "v").await, rejected);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_session_rejects_the_writes_that_wait_for_it() {
    let (node, clerk) = one_node().await;
    node.script(|args| if args[0] == b"SESSION" { Act::Say("NOPERM no") } else { Act::Serve });
    let (a, b) = tokio::join!(clerk.set("a", "1"), clerk.set("b", "1"));
    let rejected = Err(Error::Rejected("NOPERM no".to_owned()));
    assert_eq!((a, b), (rejected.clone(), rejected));
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_a_node_ends_the_connection_and_not_the_call() {
    for bytes in [&b"HTTP/1.1 400\r\n"[..], b":1\r\n:2\r\n", b"$x\r\n", b"*1\r\n>1\r\n"] {
        let a = Node::default();
        let b = a.peer();
        let clerk = builder([("a", &a), ("b", &b)]).connect().await.unwrap();
        clerk.set("k", "v").await.unwrap();
        a.script(move |args| if is_once(args) { Act::Babble(bytes) } else { Act::Serve });
        let result = clerk.append("k", "w").await;
        if bytes[0] == b':' {
            // A reply that can be read is believed; what follows it answers nothing.
            assert_eq!((result, clerk.append("k", "w").await), (Ok(1), Ok(2)));
        } else {
            assert_eq!(result, Ok(2), "{}", bytes.escape_ascii());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_values_are_taken_as_a_server_puts_into_one_reply() {
    let (_node, clerk) = one_node().await;
    let value = vec![b'v'; 1 << 20];
    clerk.set("k", &value).await.unwrap();
    let values = clerk.mget(["k"; 64]).await.unwrap();
    assert!(values.len() == 64 && values.iter().all(|v| v.as_deref() == Some(&value[..])));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_too_big_ends_its_call_and_no_other() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    let mut is_first = true;
    node.script(move |args| match &args[0][..] {
        b"GET" => Act::Babble(b"$9999999999\r\n"),
        b"ONCE" if std::mem::take(&mut is_first) => Act::Babble(b"$9999999999\r\n"),
        _ => Act::Serve,
    });
    let start = Instant::now();
    let (read, length) = tokio::join!(clerk.get("k"), clerk.strlen("k"));
    assert!(matches!(read, Err(Error::Protocol(_))), "{read:?}");
    assert_eq!(length, Ok(1));
    let written = clerk.append("k", "w").await;
    assert!(matches!(written, Err(Error::Protocol(_))), "{written:?}");
    assert_eq!(clerk.append("k", "x").await, Ok(2));
    assert!(start.elapsed() < ATTEMPT, "nothing was tried again until the deadline");
    assert_eq!(node.store().received_named("GET").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_the_wrong_type_is_an_error() {
    let (node, clerk) = one_node().await;
    node.script(|args| if args[0] == b"GET" { Act::Babble(b":1\r\n") } else { Act::Serve });
    let error = clerk.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_is_refused_at_once() {
    let invalid = |result: Result<Value, Error>| assert!(matches!(result, Err(Error::Invalid(_))));
    let node = Node::default();
    let clerk = builder([("a", &node)]).command_bytes_max(40).connect().await.unwrap();
    invalid(clerk.once::<&str>([]).await);
    invalid(clerk.command(["GET", &"x".repeat(30)]).await);
    assert_eq!(clerk.set("k", "0123456789abcdefg").await, Ok(()), "40 bytes");
    assert!(
        matches!(clerk.set("k", "0123456789abcdefgh").await, Err(Error::Invalid(_))),
        "41 bytes"
    );
    for window in [0, 1_025] {
        let error = builder([("a", &node)]).window(window).connect().await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert!(matches!(Clerk::builder().connect().await, Err(Error::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn times_that_make_no_sense_are_refused_with_what_is_accepted() {
    let node = Node::default();
    let builder = || builder([("a", &node)]);
    let (zero, second, day) = (Duration::ZERO, Duration::from_secs(1), Duration::from_hours(24));
    for (wrong, words) in [
        (builder().deadline(zero), "deadline of 0ns is not 1 ms to 1 day"),
        (builder().deadline(Duration::MAX), " is not 1 ms to 1 day"),
        (builder().attempt_timeout(zero), "attempt_timeout of 0ns is not 1 ms to 1 day"),
        (builder().backoff(zero, second), "backoff of 0ns is not 1 ms to 1 day"),
        (builder().backoff(second, second / 2), "backoff of 1s to 500ms ends below its start"),
    ] {
        let error = wrong.connect().await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(why) if why.ends_with(words)), "{error}");
    }
    assert!(builder().deadline(day).backoff(second, second).connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_session_once_the_calls_under_way_have_ended() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    node.script(first_writes(1, Act::ServeAfter(ATTEMPT / 2)));
    let other = clerk.clone();
    let under_way = tokio::spawn(async move { (other.append("k", "w").await, other) });
    tokio::task::yield_now().await;
    clerk.close().await;
    let (result, other) = under_way.await.unwrap();
    assert_eq!(result, Ok(2));
    assert!(node.store().sessions.is_empty());
    assert_eq!(other.get("k").await, Err(Error::Closed));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clerk_ends_the_session() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    drop(clerk);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(node.store().sessions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_idle_is_opened_again_to_the_same_node() {
    let (a, b) = (Node::default(), Node::default());
    let clerk = builder([("a", &a), ("b", &b)]).connect().await.unwrap();
    clerk.set("k", "").await.unwrap();
    a.script(|_| Act::ServeLast);
    for length in 1..=3 {
        assert_eq!(clerk.append("k", "v").await, Ok(length));
        tokio::time::sleep(ATTEMPT).await;
    }
    assert_eq!((a.store().connections, b.store().connections), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_command_of_which_the_end_was_not_sent_is_certainly_not_applied() {
    let (node, clerk) = one_node().await;
    clerk.set("k", "v").await.unwrap();
    let (store, mut is_first) = (node.clone(), true);
    node.script(move |args| {
        if args[0] == b"GET" && std::mem::take(&mut is_first) {
            return Act::Hang;
        }
        store.store().sessions.retain(|&id, _| id > 1);
        Act::Serve
    });
    // More than the connection holds, behind a command that stops the node from reading on.
    let big = vec![b'x'; 200 << 10];
    let (read, write) = tokio::join!(clerk.get("k"), clerk.set("big", &big));
    assert_eq!((read, write), (Ok(Some("v".into())), Ok(())));
    assert_eq!(node.store().applied.len(), 2);
}

#[test]
fn a_clerk_can_be_shared_between_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Clerk>();
}
