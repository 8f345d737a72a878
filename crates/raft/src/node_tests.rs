//! Nodes for other tests, and what a node does at its borders: starts, refusals, bad messages.

use std::time::Duration;

use bytes::Bytes;
use sampan_base::{
    Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, SnapshotId,
    SnapshotMeta, Term, Time,
};

use crate::{Body, Config, DropReason, Message, Outputs, Raft, Refused, Restored, Role, Why};

fn three() -> Configuration {
    Configuration::of_voters([1, 2, 3].map(NodeId::of))
}

fn command(index: u64, term: u64) -> Entry {
    let data = Bytes::from_static(b"x");
    Entry { index: LogIndex(index), term: Term(term), kind: EntryKind::Command, data }
}

/// Node 2 of three in term 3, with four entries.
pub(crate) fn follower(seed: u64) -> Raft {
    in_term(3, seed)
}

fn in_term(term: u64, seed: u64) -> Raft {
    let restored = Restored {
        hard_state: HardState { term: Term(term), vote: None },
        bootstrap: three(),
        entries: vec![command(1, 1), command(2, 1), command(3, 2), command(4, 2)],
        ..Restored::default()
    };
    Raft::new(Config::tiny(NodeId::of(2)), restored, seed, Time::ZERO)
}

/// Node 2, the leader of term 3: its vote of term 3 came from node 1.
pub(crate) fn leader(seed: u64) -> Raft {
    let mut node = in_term(2, seed);
    node.campaign(Time::ZERO);
    sync(&mut node);
    let body = Body::VoteReply { granted: true };
    node.step(Time::ZERO, from(1, 3, body));
    assert!(node.is_leader());
    node
}

fn sync(node: &mut Raft) {
    while let Some(batch) = node.take_persist() {
        node.persisted(Time::ZERO, batch.token.synced());
    }
}

fn from(id: u64, term: u64, body: Body) -> Message {
    Message { from: NodeId::of(id), to: NodeId::of(2), term: Term(term), body }
}

fn dropped(node: &mut Raft, message: Message) -> Option<DropReason> {
    let before = node.status().dropped;
    node.step(Time::ZERO, message);
    let now = node.status().dropped;
    DropReason::ALL.into_iter().find(|&reason| now.of(reason) != before.of(reason))
}

#[test]
fn messages_that_make_no_sense_are_dropped_by_reason() {
    let node = &mut follower(1);
    let elsewhere = Message { to: NodeId::of(3), ..from(1, 3, Body::TimeoutNow) };
    assert_eq!(dropped(node, elsewhere), Some(DropReason::Misaddressed));
    assert_eq!(dropped(node, from(2, 3, Body::TimeoutNow)), Some(DropReason::Misaddressed));
    assert_eq!(dropped(node, from(1, u64::MAX, Body::TimeoutNow)), Some(DropReason::Malformed));
    let append = |previous: u64, entries| Body::Append {
        sequence: 1,
        previous: LogPosition { index: LogIndex(previous), term: Term(2) },
        commit: LogIndex(0),
        entries,
    };
    for entries in [vec![command(6, 3)], vec![command(5, 1)], vec![command(5, 4)]] {
        let message = from(1, 3, append(4, entries));
        assert_eq!(dropped(node, message), Some(DropReason::Malformed));
    }
    let broken = Entry { kind: EntryKind::Configuration, ..command(5, 3) };
    assert_eq!(dropped(node, from(1, 3, append(4, vec![broken]))), Some(DropReason::Malformed));
    let vote = Body::VoteReply { granted: true };
    assert_eq!(dropped(node, from(1, 3, vote)), Some(DropReason::StaleReply));
    let read = Body::ReadIndex { nonce: 1, sequence: 1 };
    assert_eq!(dropped(node, from(1, 3, read)), Some(DropReason::WrongRole));
    assert_eq!(dropped(node, from(1, 3, append(4, vec![]))), None);
    assert_eq!(dropped(node, from(3, 3, append(4, vec![]))), Some(DropReason::SecondLeader));
    assert_eq!(node.last_index(), LogIndex(4));
}

#[test]
fn a_snapshot_longer_than_any_file_is_malformed() {
    let meta = |size_bytes| SnapshotMeta {
        position: LogPosition { index: LogIndex(9), term: Term(3) },
        configuration: three(),
        id: SnapshotId(1),
        size_bytes,
    };
    let offer = |size_bytes| Body::InstallSnapshot {
        sequence: 1,
        meta: meta(size_bytes),
        offset: 0,
        data: Bytes::new(),
    };
    let held = |size_bytes| Body::SnapshotHeld {
        sequence: 0,
        id: SnapshotId(7),
        maker: NodeId::of(3),
        meta: meta(size_bytes),
    };
    let mut nodes = (follower(1), leader(1));
    for size_bytes in [1 << 62, u64::MAX] {
        let dropped = [
            dropped(&mut nodes.0, from(1, 3, offer(size_bytes))),
            dropped(&mut nodes.1, from(1, 3, held(size_bytes))),
        ];
        assert_eq!(dropped, [Some(DropReason::Malformed); 2]);
    }
    assert_eq!(dropped(&mut nodes.0, from(1, 3, offer(1 << 40))), None);
    assert_ne!(dropped(&mut nodes.1, from(1, 3, held(1 << 40))), Some(DropReason::Malformed));
}

#[test]
fn an_entry_that_the_log_does_not_take_is_malformed() {
    let mut node = follower(1);
    node.config.entry_bytes_max = 2;
    let append = |length: usize| Body::Append {
        sequence: 1,
        previous: LogPosition { index: LogIndex(4), term: Term(2) },
        commit: LogIndex(0),
        entries: vec![Entry { data: vec![b'x'; length].into(), ..command(5, 3) }],
    };
    assert_eq!(dropped(&mut node, from(1, 3, append(3))), Some(DropReason::Malformed));
    assert_eq!(node.last_index(), LogIndex(4));
    assert_eq!(dropped(&mut node, from(1, 3, append(2))), None);
    assert_eq!(node.last_index(), LogIndex(5));
}

#[test]
fn entries_that_contradict_committed_ones_are_dropped() {
    let node = &mut follower(1);
    let append = |term, commit| Body::Append {
        sequence: 1,
        previous: LogPosition { index: LogIndex(3), term: Term(2) },
        commit: LogIndex(commit),
        entries: vec![command(4, term)],
    };
    assert_eq!(dropped(node, from(1, 3, append(2, 4))), None);
    assert_eq!(node.commit(), LogIndex(4));
    let message = from(1, 3, append(3, 4));
    assert_eq!(dropped(node, message), Some(DropReason::ContradictsCommitted));
    assert_eq!(node.term_at(LogIndex(4)), Some(Term(2)));
}

#[test]
fn a_leader_drops_replies_from_strangers_and_about_the_future() {
    let node = &mut leader(1);
    let reply = |sequence, matched| Body::AppendReply {
        sequence,
        recovering: false,
        health: crate::Health::Well,
        result: crate::AppendResult::Accepted { matched: LogIndex(matched) },
    };
    node.flush(Time::ZERO, &mut Outputs::default());
    assert_eq!(dropped(node, from(9, 3, reply(1, 1))), Some(DropReason::UnknownPeer));
    assert_eq!(dropped(node, from(1, 3, reply(99, 1))), Some(DropReason::Malformed));
    assert_eq!(dropped(node, from(1, 3, reply(1, 99))), Some(DropReason::Malformed));
    assert_eq!(dropped(node, from(1, 2, reply(1, 1))), Some(DropReason::StaleTerm));
    assert_eq!(dropped(node, from(1, 3, Body::TimeoutNow)), Some(DropReason::SecondLeader));
    assert_eq!(node.status().peers[0].matched, LogIndex(0));
}

#[test]
fn only_a_leader_takes_proposals() {
    let node = &mut follower(1);
    let nobody = Refused::NotLeader { leader: None };
    assert_eq!(node.propose(Bytes::new()), Err(nobody));
    assert_eq!(node.propose_configuration(Time::ZERO, three()), Err(nobody));
    assert_eq!(node.transfer_leadership(Time::ZERO, None), Err(nobody));
    assert_eq!(node.read_index(crate::ReadId(1)), Err(nobody));
}

#[test]
fn a_change_that_has_too_many_members_on_its_way_is_refused() {
    let node = &mut leader(1);
    node.flush(Time::ZERO, &mut Outputs::default());
    sync(node);
    let sequence = 1;
    let result = crate::AppendResult::Accepted { matched: node.last_index() };
    let health = crate::Health::Well;
    let reply = Body::AppendReply { sequence, recovering: false, health, result };
    assert_eq!(dropped(node, from(1, 3, reply)), None);
    let last = node.last_index();
    let new = |count: u64| Configuration::of_voters((0..count).map(|n| NodeId::of(10 + n)));
    let refused = node.propose_configuration(Time::ZERO, new(62));
    assert!(matches!(refused, Err(Refused::Invalid(_))), "three that leave with 62: {refused:?}");
    assert_eq!(node.last_index(), last);
    node.propose_configuration(Time::ZERO, new(61)).expect("64 in all");
}

#[test]
fn a_deadline_that_is_met_is_followed_by_a_later_one() {
    for mut node in [follower(3), leader(3)] {
        let mut now = Time::ZERO;
        let mut out = Outputs::default();
        for _ in 0..100 {
            node.tick(now);
            sync(&mut node);
            node.flush(now, &mut out);
            let next = node.next_deadline();
            assert!(next > now, "{} has something to do at {next:?} for ever", node.role());
            assert!(next < now + Duration::from_secs(1), "{next:?} after {now:?}");
            now = next;
        }
    }
}

#[test]
fn a_configuration_of_the_snapshot_and_of_the_log_after_it_are_restored() {
    let joint = Configuration { voters_outgoing: three().voters, ..three() };
    let mut data = Vec::new();
    joint.encode(&mut data);
    let meta = SnapshotMeta {
        position: LogPosition { term: Term(2), index: LogIndex(3) },
        configuration: Configuration::of_voters([NodeId::of(7)]),
        id: SnapshotId(1),
        size_bytes: 1,
    };
    let change = Entry { kind: EntryKind::Configuration, data: data.into(), ..command(5, 2) };
    let restored = Restored {
        hard_state: HardState { term: Term(4), vote: Some(NodeId::of(3)) },
        snapshot: Some(meta.clone()),
        bootstrap: three(),
        entries: vec![command(2, 1), command(3, 2), command(4, 2), change],
        log_start: LogPosition { term: Term(1), index: LogIndex(1) },
        non_voting_until: None,
        newborn: false,
    };
    let node = Raft::new(Config::tiny(NodeId::of(2)), restored, 1, Time::ZERO);
    assert_eq!(
        (node.role(), node.term(), node.vote()),
        (Role::Follower, Term(4), Some(NodeId::of(3)))
    );
    assert_eq!((node.commit(), node.applied()), (LogIndex(3), LogIndex(3)));
    assert_eq!((node.first_index(), node.last_index()), (LogIndex(4), LogIndex(5)));
    assert_eq!(node.configuration(), &joint);
    assert_eq!(node.configuration_at(LogIndex(4)), &meta.configuration);
}

#[test]
#[should_panic(expected = "behind the snapshot")]
fn a_hole_between_snapshot_and_log_is_refused() {
    let restored = Restored {
        hard_state: HardState { term: Term(2), vote: None },
        bootstrap: three(),
        entries: vec![command(2, 1)],
        ..Restored::default()
    };
    let _ = Raft::new(Config::tiny(NodeId::of(2)), restored, 1, Time::ZERO);
}

#[test]
#[should_panic(expected = "only 0 were taken")]
fn a_sync_of_what_was_never_written_is_refused() {
    let mut other = follower(1);
    other.campaign(Time::ZERO);
    let batch = other.take_persist().unwrap();
    follower(1).persisted(Time::ZERO, batch.token.synced());
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    for id in [1, 2].map(NodeId::of) {
        assert_eq!(Config::new(id).check(), Ok(()));
        assert_eq!(Config::tiny(id).check(), Ok(()));
    }
    let config = || Config::new(NodeId::of(1));
    let slow = Config { heartbeat_interval: Duration::from_millis(300), ..config() };
    assert!(slow.check().unwrap_err().contains("heartbeat_interval"));
    let reversed = Config { election_timeout_max: Duration::from_millis(1), ..config() };
    assert!(reversed.check().unwrap_err().contains("election_timeout_max"));
    let none = Config { append_entries_max: 0, ..config() };
    assert!(none.check().unwrap_err().contains("append_entries_max"));
}

#[test]
fn a_node_that_lost_the_end_of_its_log_waits_for_a_leader_to_ask() {
    let restored = Restored {
        hard_state: HardState { term: Term(3), vote: None },
        bootstrap: three(),
        entries: vec![command(1, 1)],
        non_voting_until: Some(LogIndex::MAX),
        ..Restored::default()
    };
    let mut node = Raft::new(Config::tiny(NodeId::of(2)), restored, 1, Time::ZERO);
    let turn = |node: &mut Raft, now: Time| {
        let mut out = Outputs::default();
        node.flush(now, &mut out);
        out.messages.iter().any(|message| matches!(message.body, Body::ReadIndex { .. }))
    };
    let heartbeat = |sequence| Body::Heartbeat {
        sequence,
        commit: LogIndex::ZERO,
        matched: LogPosition::ZERO,
        read: 0,
    };
    node.step(Time::ZERO, from(1, 3, heartbeat(1)));
    assert!(turn(&mut node, Time::ZERO), "a leader is asked at once");

    let mut now = Time::ZERO;
    while node.leader().is_some() {
        now = node.next_deadline();
        node.tick(now);
        turn(&mut node, now);
    }
    for _ in 0..5 {
        assert!(node.next_deadline() > now, "nobody is there to ask");
        now = node.next_deadline();
        node.tick(now);
        turn(&mut node, now);
    }
    node.step(now, from(3, 4, heartbeat(1)));
    sync(&mut node);
    assert!(turn(&mut node, now), "so is the next one");
}

/// What a node says of itself and why, if that has changed.
fn change(node: &mut Raft, now: Time) -> Option<(Role, Option<Why>)> {
    let mut out = Outputs::default();
    node.flush(now, &mut out);
    out.role_change.map(|change| (change.role, change.why))
}

/// Of node 3, which leads this term.
fn beat_of(term: u64) -> Message {
    let (commit, matched) = (LogIndex::ZERO, LogPosition::ZERO);
    from(3, term, Body::Heartbeat { sequence: 1, commit, matched, read: 0 })
}

#[test]
fn whoever_leads_no_more_says_why() {
    let (late, n3) = (Time(60_000_000), NodeId::of(3));
    let vote = Body::Vote { last: LogPosition::ZERO, transfer: true };
    let leading = || {
        let mut node = leader(1);
        assert!(change(&mut node, Time::ZERO).is_some());
        assert_eq!(change(&mut node, Time::ZERO), None);
        node
    };
    let mut node = leading();
    node.step(Time::ZERO, beat_of(7));
    assert_eq!(change(&mut node, Time::ZERO), Some((Role::Follower, Some(Why::LaterTerm(n3)))));

    let mut node = leading();
    node.transfer_leadership(Time::ZERO, Some(n3)).unwrap();
    node.step(Time::ZERO, from(3, 4, vote));
    assert_eq!(change(&mut node, Time::ZERO), Some((Role::Follower, Some(Why::HandedOver(n3)))));

    let mut node = leading();
    node.tick(late);
    let silence = Why::QuorumSilent(Duration::from_secs(60));
    assert_eq!(change(&mut node, late), Some((Role::Follower, Some(silence))));
}

#[test]
fn whoever_stands_for_election_says_why() {
    let (n1, n3) = (NodeId::of(1), NodeId::of(3));
    let mut node = follower(1);
    node.step(Time::ZERO, from(1, 3, Body::TimeoutNow));
    assert_eq!(change(&mut node, Time::ZERO), Some((Role::Candidate, Some(Why::AskedBy(n1)))));

    let mut node = follower(1);
    node.step(Time::ZERO, beat_of(3));
    assert_eq!(change(&mut node, Time::ZERO), Some((Role::Follower, None)));
    let late = Time(60_000_000);
    node.tick(late);
    let silent = Why::LeaderSilent(n3, Duration::from_secs(60));
    assert_eq!(change(&mut node, late), Some((Role::PreCandidate, Some(silent))));

    let mut node = follower(1);
    node.step(Time::ZERO, beat_of(3));
    change(&mut node, Time::ZERO);
    node.peer_disconnected(Time::ZERO, n3);
    let closed = Why::ConnectionClosed(n3);
    assert_eq!(change(&mut node, Time::ZERO), Some((Role::Follower, Some(closed))));
    node.tick(late);
    assert_eq!(change(&mut node, late), Some((Role::PreCandidate, Some(Why::NoLeader))));
}
