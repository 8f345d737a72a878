//! What a leader knows of one peer (paper, Figure 2: nextIndex and matchIndex) and what it has on
//! the way to it. Owns its transitions:
//!
//! ```text
//!   Probe     ──► Replicate   a reply shows where the logs agree
//!   Replicate ──► Probe       a rejection, or something got lost
//!   Probe     ──► Snapshot    the next entry is trimmed
//!   Replicate ──► Snapshot    the same
//!   Snapshot  ──► Replicate   an acknowledgement reaches the log
//!   Snapshot  ──► Probe       it is installed, but the log has moved on
//! ```

use std::collections::VecDeque;

use sampan_base::{LogIndex, NodeId, SnapshotId, SnapshotMeta, Time, planted};

use crate::{Config, Health};

/// What the leader is doing for the peer.
#[derive(Debug)]
pub(crate) enum State {
    /// One Append at a time; `waiting` while one is on its way.
    Probe {
        waiting: bool,
    },
    Replicate,
    Snapshot(SnapshotSend),
}

/// How many answers in a row that name the same byte as missing count as its loss: fewer may come
/// from parts that overtook each other.
const REPEATS_OF_LOSS: u32 = 3;

/// How many questions without progress show that the node that has the file sends none of it.
const STALLS_MAX: u32 = 3;

/// A snapshot on its way to the peer.
#[derive(Debug)]
pub(crate) struct SnapshotSend {
    pub(crate) meta: SnapshotMeta,
    /// The peer holds the bytes before this one.
    pub(crate) acked: u64,
    /// The host was asked for the bytes before this one.
    pub(crate) asked: u64,
    /// The question that this attempt began with, and whether the peer has answered it or a later
    /// request. Nothing is sent before that: so nothing is sent that is there already.
    question: u64,
    pub(crate) heard: bool,
    /// Answers that named `acked` as missing, though it was sent, up to [`REPEATS_OF_LOSS`]; more
    /// than that: it was sent again.
    repeats: u32,
    /// The peer says that it holds less than it said before: true if nothing newer comes.
    fell_back: Option<u64>,
    /// When to ask how far the peer is, unless there is progress.
    pub(crate) retry_at: Time,
    /// Which other node made it, and sends it.
    pub(crate) maker: Option<NodeId>,
    /// The last snapshot of another node from which nothing came.
    given_up: Option<SnapshotId>,
    /// Times in a row that it was asked how far the peer is, with no progress since.
    stalls: u32,
}

impl SnapshotSend {
    fn new(meta: SnapshotMeta, now: Time) -> Self {
        Self {
            meta,
            acked: 0,
            asked: 0,
            question: u64::MAX,
            heard: false,
            repeats: 0,
            fell_back: None,
            retry_at: now,
            maker: None,
            given_up: None,
            stalls: 0,
        }
    }

    /// No progress for a while: what does the peer hold? Request number `question` asks.
    pub(crate) fn start_again(&mut self, question: u64) {
        if let Some(held) = self.fell_back.take() {
            self.acked = held;
        }
        self.asked = self.acked;
        self.stalls += 1;
        self.question = question;
        self.heard = false;
        self.repeats = 0;
    }

    /// Is another node's snapshot no better than the own one, because nothing comes any more from
    /// its maker, or because it has to come from its beginning?
    pub(crate) fn is_deserted(&self, now: Time) -> bool {
        let has_stalled = self.stalls >= STALLS_MAX && now >= self.retry_at;
        let begins_anew = self.heard && self.acked == 0 || self.fell_back == Some(0);
        self.maker.is_some() && (has_stalled || begins_anew)
    }

    /// The next part to ask the host for, if the peer may get one now: where it begins, how long.
    pub(crate) fn next_part(&mut self, chunk: u64, window: u64) -> Option<(u64, u64)> {
        if !self.heard {
            return None;
        }
        if self.repeats == REPEATS_OF_LOSS {
            self.repeats += 1;
            return Some((self.acked, chunk.min(self.asked - self.acked)));
        }
        let offset = self.asked;
        let end = self.meta.size_bytes.min(self.acked.saturating_add(window));
        let length = chunk.min(end.saturating_sub(offset));
        self.asked += length;
        (length > 0).then_some((offset, length))
    }

    fn acked(&mut self, request: u64, next_offset: u64, retry_at: Time) {
        if next_offset > self.meta.size_bytes {
            return;
        }
        let is_first_answer = !self.heard && request >= self.question;
        if is_first_answer {
            // Whatever it said before: so much it holds now.
            self.heard = true;
            self.asked = next_offset;
        } else if next_offset < self.acked {
            self.fell_back = Some(next_offset);
            return;
        } else if next_offset == self.acked {
            let counts = self.asked > self.acked && self.repeats < REPEATS_OF_LOSS;
            self.repeats += u32::from(counts);
            return;
        }
        self.stalls = if next_offset > self.acked { 0 } else { self.stalls };
        self.acked = next_offset;
        self.asked = self.asked.max(next_offset);
        self.repeats = 0;
        self.fell_back = None;
        self.retry_at = retry_at;
    }
}

/// An Append that is not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    last: LogIndex,
    bytes: usize,
}

/// A leader's knowledge of one peer.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Through here the peer's log is durable and equals the leader's. Never decreases, unless the
    /// peer reports that it lost its log: then it does not count before it has it again.
    pub(crate) matched: LogIndex,
    /// The highest it ever was in this term: the peer is told until it has that again, also if the
    /// loss that it reported is forgotten in the next crash.
    pub(crate) acknowledged: LogIndex,
    /// The next entry to send. Above `matched`.
    pub(crate) next: LogIndex,
    pub(crate) state: State,
    inflight: VecDeque<Inflight>,
    inflight_bytes: usize,
    /// Appends that may be on their way: any number until one is rejected, then one, and one more
    /// with each that is acknowledged. Where messages overtake each other most of a full window is
    /// rejected, and would be again.
    window: usize,
    /// Rejections of requests before this one are about a state that is over.
    rejections_from: u64,
    /// Answers to heartbeats from this one on tell whether the last Append arrived.
    loss_shows_from: Option<u64>,
    /// The latest round of reads the peer confirmed.
    pub(crate) read: u64,
    pub(crate) heard_at: Time,
    pub(crate) append_sent_at: Time,
    pub(crate) heartbeat_due: Time,
    /// The peer lost part of its log: it does not count.
    pub(crate) recovering: bool,
    /// It could be sent more, but may not yet (`catch_up.rs`).
    pub(crate) is_held: bool,
    /// The first request since the peer became a member or, later, reported a loss: answers to
    /// earlier ones are of what is over.
    new_life_from: u64,
    /// What it last said of its disk, if it has been heard in this term.
    pub(crate) health: Option<Health>,
    /// When it was last given up that it leads, though it was told to.
    pub(crate) declined_at: Option<Time>,
    pub(crate) messages_sent: u64,
    pub(crate) messages_received: u64,
}

impl Progress {
    /// A peer of which nothing is known: probe from `next` at once.
    pub(crate) fn new(next: LogIndex, sequence: u64, now: Time) -> Self {
        Self {
            matched: LogIndex::ZERO,
            acknowledged: LogIndex::ZERO,
            next,
            state: State::Probe { waiting: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            window: usize::MAX,
            rejections_from: sequence,
            loss_shows_from: None,
            read: 0,
            heard_at: now,
            append_sent_at: Time::ZERO,
            heartbeat_due: now,
            recovering: false,
            is_held: false,
            new_life_from: sequence,
            health: None,
            declined_at: None,
            messages_sent: 0,
            messages_received: 0,
        }
    }

    /// Through here the peer counts for a commit.
    pub(crate) fn counted(&self) -> LogIndex {
        if self.recovering { LogIndex::ZERO } else { self.matched }
    }

    /// Does the peer have all that is committed?
    pub(crate) fn keeps_up(&self, commit: LogIndex) -> bool {
        self.counted() >= commit
    }

    pub(crate) fn inflight(&self) -> (usize, usize) {
        (self.inflight.len(), self.inflight_bytes)
    }

    /// The first entry on its way, or the next one.
    pub(crate) fn first_inflight(&self) -> LogIndex {
        if self.inflight.is_empty() { self.next } else { self.matched.next() }
    }

    /// May an Append go out, by state and window?
    pub(crate) fn has_room(&self, config: &Config) -> bool {
        match self.state {
            State::Probe { waiting } => !waiting,
            State::Replicate => {
                self.inflight.len() < config.inflight_messages_max.min(self.window)
                    && self.inflight_bytes < config.inflight_bytes_max
            }
            State::Snapshot(_) => false,
        }
    }

    /// Not before this does an Append go out that is not full.
    pub(crate) fn append_due(&self, config: &Config) -> Time {
        match self.state {
            State::Replicate => self.append_sent_at + config.append_interval,
            State::Probe { .. } | State::Snapshot(_) => Time::ZERO,
        }
    }

    /// An Append numbered `sequence` with entries through `last` goes out.
    pub(crate) fn sent_append(&mut self, sequence: u64, last: LogIndex, bytes: usize, now: Time) {
        assert!(last >= self.next, "an Append through {last} does not hold {}", self.next);
        match &mut self.state {
            // `next` stays: if the probe is lost, the same entries go out again.
            State::Probe { waiting } => {
                *waiting = true;
                self.rejections_from = sequence;
            }
            State::Replicate => {
                self.next = last.next();
                self.inflight.push_back(Inflight { last, bytes });
                self.inflight_bytes += bytes;
            }
            State::Snapshot(_) => panic!("an Append to a peer that gets a snapshot"),
        }
        self.append_sent_at = now;
        self.loss_shows_from = None;
    }

    /// A heartbeat numbered `sequence` goes out. If the last Append left long ago (or the
    /// connection is new), its answer shows whether that arrived.
    pub(crate) fn sent_heartbeat(&mut self, sequence: u64, shows_loss: bool) {
        if shows_loss && self.loss_shows_from.is_none() {
            self.loss_shows_from = Some(sequence);
        }
    }

    /// An answer to request `sequence`, of `last_sequence` so far, says whether the peer lost part
    /// of its log. What it acknowledged before a loss it holds no longer: `matched` goes back.
    /// False if the answer is, or may be, of the life before the loss: what it acknowledges is
    /// gone. The same if it was a member before: what it lost in between the leader was not told.
    pub(crate) fn is_of_this_life(
        &mut self,
        sequence: u64,
        recovering: Option<bool>,
        last_sequence: u64,
    ) -> bool {
        let reports_loss = recovering == Some(true);
        if reports_loss && !self.recovering {
            self.matched = LogIndex::ZERO;
            self.new_life_from = last_sequence + 1;
            self.recovering = true;
        }
        if !reports_loss && sequence < self.new_life_from {
            return false;
        }
        self.recovering = recovering.unwrap_or(self.recovering);
        true
    }

    /// The peer's log is durable and equal through `matched`. Older acknowledgements change
    /// nothing. True if it is news.
    pub(crate) fn acked(&mut self, matched: LogIndex) -> bool {
        let news = matched > self.matched;
        self.matched = if planted!(MatchGoesBack) { matched } else { self.matched.max(matched) };
        self.acknowledged = self.acknowledged.max(self.matched);
        self.next = self.next.max(self.matched.next());
        self.window = self.window.saturating_add(usize::from(news));
        while let Some(first) = self.inflight.front()
            && first.last <= self.matched
        {
            self.inflight_bytes -= first.bytes;
            self.inflight.pop_front();
        }
        news
    }

    /// Does a rejection of request `sequence` for `previous` say something about now? A peer that
    /// lost its log may have lost it again since it acknowledged.
    pub(crate) fn rejection_counts(&self, sequence: u64, previous: LogIndex) -> bool {
        sequence >= self.rejections_from
            && (previous > self.matched || self.recovering)
            && previous < self.next
            && !matches!(self.state, State::Snapshot(_) | State::Probe { waiting: false })
    }

    /// Does the answer to heartbeat `sequence` tell that entries after `received` got lost?
    pub(crate) fn is_loss(&self, sequence: u64, received: LogIndex) -> bool {
        let shows = self.loss_shows_from.is_some_and(|from| sequence >= from);
        shows
            && match self.state {
                State::Probe { waiting } => waiting,
                State::Replicate => received.next() < self.next,
                State::Snapshot(_) => false,
            }
    }

    /// Where the logs agree if something got lost: for a probe where it looked, else through what
    /// the peer has received. A peer whose answers contradict what it acknowledged no longer counts
    /// for what it acknowledged: its match index is 0 again.
    pub(crate) fn agreed_after_loss(&mut self, received: LogIndex) -> LogIndex {
        match self.state {
            State::Probe { .. } => self.next.prev(),
            // It acknowledged more since it lost its log: it was started again, or has lost it
            // again, and its answers look the same. The last entry it acknowledged goes out once
            // more: only a log that holds what is before it accepts that. It does not count in
            // either case.
            State::Replicate if self.recovering && received < self.matched => {
                std::mem::take(&mut self.matched).prev()
            }
            State::Replicate | State::Snapshot(_) => received,
        }
    }

    /// A new connection: whatever was on the way is lost. A single Append goes out again, which
    /// costs no more than to ask; of more the next heartbeat, at once, finds out.
    pub(crate) fn connected(&mut self, now: Time, sequence: u64) {
        self.append_sent_at = Time::ZERO;
        self.heartbeat_due = now;
        match &mut self.state {
            State::Probe { waiting } => *waiting = false,
            State::Replicate if self.inflight.len() == 1 => {
                self.become_replicate(self.matched, sequence);
            }
            State::Replicate => {}
            State::Snapshot(send) => send.retry_at = now,
        }
    }

    /// The peer holds the bytes of snapshot `id` before `next_offset`.
    pub(crate) fn snapshot_acked(
        &mut self,
        request: u64,
        id: SnapshotId,
        next_offset: u64,
        retry_at: Time,
    ) {
        let State::Snapshot(send) = &mut self.state else { return };
        if send.meta.id == id {
            send.acked(request, next_offset, retry_at);
        }
    }

    /// An Append after `previous` was rejected; the logs may agree through `agree`.
    pub(crate) fn rejected(&mut self, previous: LogIndex, agree: LogIndex, sequence: u64) {
        if previous <= self.matched {
            assert!(self.recovering, "only a loss takes back what was acknowledged");
            self.matched = LogIndex::ZERO;
        }
        self.window = 1;
        self.become_probe(agree, sequence);
    }

    /// The logs may agree through `agree`: look there, one Append at a time. `sequence` is the
    /// last request sent; rejections up to it say nothing new.
    pub(crate) fn become_probe(&mut self, agree: LogIndex, sequence: u64) {
        self.next = agree.max(self.matched).next();
        self.enter(State::Probe { waiting: false }, sequence);
    }

    /// The logs agree through `agree`: stream from there.
    pub(crate) fn become_replicate(&mut self, agree: LogIndex, sequence: u64) {
        self.next = agree.max(self.matched).next();
        self.enter(State::Replicate, sequence);
    }

    /// The next entry is trimmed: send this snapshot.
    pub(crate) fn become_snapshot(&mut self, meta: SnapshotMeta, sequence: u64, now: Time) {
        let mut send = SnapshotSend::new(meta, now);
        if let State::Snapshot(SnapshotSend { meta, maker: Some(_), .. }) = &self.state {
            send.given_up = Some(meta.id);
        }
        self.enter(State::Snapshot(send), sequence);
    }

    /// The peer, which is offered snapshot `id`, is to get this one from its maker instead. False
    /// if it is offered another one, or nothing came from there.
    pub(crate) fn become_snapshot_of(
        &mut self,
        id: SnapshotId,
        maker: NodeId,
        meta: SnapshotMeta,
        now: Time,
    ) -> bool {
        let State::Snapshot(send) = &mut self.state else { return false };
        let fits = send.meta.id == id && send.maker.is_none() && send.given_up != Some(meta.id);
        if fits {
            *send = SnapshotSend { maker: Some(maker), ..SnapshotSend::new(meta, now) };
        }
        fits
    }

    fn enter(&mut self, state: State, sequence: u64) {
        self.state = state;
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.rejections_from = sequence + 1;
        self.loss_shows_from = None;
    }
}

#[cfg(test)]
mod tests {
    use sampan_base::NodeId;

    use super::*;

    fn at(index: u64) -> LogIndex {
        LogIndex(index)
    }

    #[test]
    fn a_rejection_of_an_earlier_request_says_nothing_about_now() {
        let mut peer = Progress::new(at(9), 1, Time::ZERO);
        peer.sent_append(1, at(9), 10, Time::ZERO);
        assert!(peer.rejection_counts(1, at(8)));
        peer.become_probe(at(3), 1);
        assert!(!peer.rejection_counts(1, at(3)), "nothing was sent since");
        peer.sent_append(2, at(9), 10, Time::ZERO);
        assert!(!peer.rejection_counts(1, at(3)), "of the last probe");
        assert!(peer.rejection_counts(2, at(3)));
        peer.acked(at(4));
        peer.become_replicate(at(4), 2);
        peer.sent_append(3, at(9), 10, Time::ZERO);
        assert!(!peer.rejection_counts(2, at(7)), "of the probe");
        assert!(!peer.rejection_counts(3, at(4)), "of what is acknowledged");
        assert!(!peer.rejection_counts(3, at(10)), "of what was never sent");
        assert!(peer.rejection_counts(3, at(7)));
    }

    #[test]
    fn after_a_rejection_the_window_opens_with_each_acknowledgement() {
        let mut peer = Progress::new(at(1), 1, Time::ZERO);
        let mut config = Config::new(NodeId::of(1));
        (config.inflight_messages_max, config.inflight_bytes_max) = (8, 1_000);
        let mut sequence = 1;
        let mut fill = |peer: &mut Progress| {
            while peer.has_room(&config) {
                sequence += 1;
                peer.sent_append(sequence, peer.next, 1, Time::ZERO);
            }
            peer.inflight().0
        };
        peer.become_replicate(at(0), 1);
        assert_eq!(fill(&mut peer), 8);
        peer.rejected(at(8), at(0), 9);
        assert_eq!(fill(&mut peer), 0, "a probe is none of the window");
        peer.acked(at(1));
        peer.become_replicate(at(1), 10);
        assert_eq!(fill(&mut peer), 2);
        peer.acked(at(2));
        assert_eq!(fill(&mut peer), 3);
        (3..=10).for_each(|index| {
            peer.acked(at(index));
        });
        assert_eq!(fill(&mut peer), 8);
    }

    #[test]
    fn what_was_acknowledged_after_a_loss_may_be_lost_again() {
        let mut peer = Progress::new(at(9), 1, Time::ZERO);
        peer.become_replicate(at(8), 1);
        assert!(peer.is_of_this_life(1, Some(true), 1));
        peer.acked(at(8));
        // Started again, or lost again: an Append that holds the last entry shows which.
        assert_eq!(peer.agreed_after_loss(at(8)), at(8), "nothing was lost");
        assert_eq!(peer.agreed_after_loss(at(0)), at(7));
        assert_eq!(peer.matched, at(0));
        peer.acked(at(8));
        peer.sent_append(2, at(9), 10, Time::ZERO);
        assert!(peer.rejection_counts(2, at(8)));
        peer.rejected(at(8), at(3), 2);
        assert_eq!((peer.matched, peer.next), (at(0), at(4)));
        // One that counts never lost what it acknowledged.
        assert!(peer.is_of_this_life(3, Some(false), 3));
        peer.acked(at(8));
        assert!(!peer.rejection_counts(3, at(8)));
    }

    #[test]
    fn what_an_earlier_life_acknowledged_counts_no_more_once_a_loss_is_known() {
        let mut peer = Progress::new(at(9), 1, Time::ZERO);
        peer.acked(at(8));
        assert!(peer.is_of_this_life(3, Some(true), 5));
        assert_eq!((peer.matched, peer.counted()), (at(0), at(0)));
        peer.acked(at(2));
        assert_eq!((peer.matched, peer.counted()), (at(2), at(0)), "it is on its way");
        assert!(!peer.is_of_this_life(4, Some(false), 6), "sent before the loss was known");
        assert!(!peer.is_of_this_life(5, None, 6));
        assert!(peer.is_of_this_life(4, Some(true), 6));
        assert!(peer.is_of_this_life(6, None, 6) && peer.recovering);
        assert!(peer.is_of_this_life(6, Some(false), 7), "it has it all again");
        assert_eq!(peer.counted(), at(2));
    }

    #[test]
    fn what_a_member_acknowledged_before_it_left_counts_no_more_when_it_is_back() {
        let mut peer = Progress::new(at(9), 7, Time::ZERO);
        assert!(!peer.is_of_this_life(6, Some(false), 9) && !peer.is_of_this_life(6, None, 9));
        assert!(peer.is_of_this_life(7, Some(false), 9));
    }

    #[test]
    fn only_an_answer_to_a_later_heartbeat_shows_a_loss() {
        let mut peer = Progress::new(at(1), 1, Time::ZERO);
        peer.become_replicate(at(0), 0);
        peer.sent_append(1, at(1), 10, Time::ZERO);
        peer.sent_heartbeat(2, false);
        assert!(!peer.is_loss(2, at(0)), "it may have overtaken the Append");
        peer.sent_heartbeat(3, true);
        peer.sent_heartbeat(4, true);
        assert!(!peer.is_loss(2, at(0)));
        assert!(!peer.is_loss(3, at(1)), "it arrived");
        assert!(peer.is_loss(3, at(0)) && peer.is_loss(4, at(0)));
        peer.sent_append(5, at(2), 10, Time::ZERO);
        assert!(!peer.is_loss(4, at(0)), "the newer Append shows it by itself");
    }

    fn snapshot(id: u64, size_bytes: u64) -> SnapshotMeta {
        SnapshotMeta {
            position: sampan_base::LogPosition { index: at(5), ..Default::default() },
            configuration: sampan_base::Configuration::default(),
            id: SnapshotId(id),
            size_bytes,
        }
    }

    fn sending(size_bytes: u64) -> SnapshotSend {
        let mut send = SnapshotSend::new(snapshot(1, size_bytes), Time::ZERO);
        send.start_again(1);
        send
    }

    fn parts(send: &mut SnapshotSend) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| send.next_part(10, 40)).collect()
    }

    #[test]
    fn a_snapshot_goes_back_only_after_a_pause_without_progress() {
        let mut send = sending(100);
        send.acked(1, 20, Time(9));
        assert_eq!((send.acked, send.heard), (20, true), "what it holds of an earlier attempt");
        send.asked = 40;
        send.acked(1, 10, Time(9));
        assert_eq!((send.acked, send.asked), (20, 40), "an older answer changes nothing");
        send.start_again(5);
        assert_eq!((send.acked, send.asked), (10, 10), "unless nothing newer came");
        send.acked(5, 1_000, Time(9));
        assert_eq!((send.acked, send.heard), (10, false), "no file is longer than it is");
        send.acked(4, 30, Time(9));
        assert_eq!((send.acked, send.heard), (30, false), "good news, of the attempt before");
        send.acked(5, 5, Time(9));
        assert_eq!((send.acked, send.heard), (5, true), "it has lost the rest");
        send.acked(6, 100, Time(9));
        send.start_again(7);
        assert_eq!(parts(&mut send), [], "all of it, and not installed: is it still there?");
        send.acked(7, 90, Time(9));
        assert_eq!(parts(&mut send), [(90, 10)]);
    }

    #[test]
    fn a_snapshot_of_another_node_is_given_up_if_nothing_comes_of_it() {
        let maker = NodeId::of(3);
        // So many questions, and the answers to them.
        let is_deserted = |questions: u64, answers: &[(u64, u64)]| {
            let mut peer = Progress::new(at(9), 1, Time::ZERO);
            peer.become_snapshot(snapshot(1, 100), 1, Time::ZERO);
            let mut take =
                |offered| peer.become_snapshot_of(offered, maker, snapshot(2, 100), Time::ZERO);
            assert!(!take(SnapshotId(7)), "it is offered another one");
            assert!(take(SnapshotId(1)) && !take(SnapshotId(1)), "it is not offered that any more");
            let State::Snapshot(send) = &mut peer.state else { panic!("a snapshot") };
            (1..=questions).for_each(|question| send.start_again(question));
            for &(request, held) in answers {
                send.acked(request, held, Time(9));
            }
            let is_deserted = send.is_deserted(Time(9));
            peer.become_snapshot(snapshot(1, 100), 9, Time::ZERO);
            let again = peer.become_snapshot_of(SnapshotId(1), maker, snapshot(2, 100), Time::ZERO);
            assert!(!again, "it was given up");
            is_deserted
        };
        assert!(!is_deserted(2, &[]) && is_deserted(3, &[]), "three questions without an answer");
        assert!(!is_deserted(3, &[(3, 50)]), "it gets on");
        assert!(is_deserted(1, &[(1, 0)]), "nothing of it is there");
        assert!(is_deserted(1, &[(1, 50), (1, 0)]), "nothing of it is there any more");
    }

    #[test]
    fn a_part_of_a_snapshot_that_is_missing_is_sent_again_and_no_other() {
        let mut send = sending(100);
        assert_eq!(parts(&mut send), [], "nothing before the peer has said what it holds");
        send.acked(1, 0, Time(9));
        assert_eq!(parts(&mut send), [(0, 10), (10, 10), (20, 10), (30, 10)]);
        send.acked(2, 10, Time(9));
        assert_eq!(parts(&mut send), [(40, 10)]);
        send.acked(4, 10, Time(9));
        send.acked(5, 10, Time(9));
        assert_eq!(parts(&mut send), [], "they may have overtaken it");
        send.acked(6, 10, Time(9));
        assert_eq!(parts(&mut send), [(10, 10)]);
        (6..=12).for_each(|request| send.acked(request, 10, Time(9)));
        assert_eq!(parts(&mut send), [], "it is on its way");
        send.acked(7, 50, Time(9));
        assert_eq!(parts(&mut send), [(50, 10), (60, 10), (70, 10), (80, 10)]);
    }

    #[test]
    fn many_answers_at_once_that_a_part_is_missing_have_it_sent_again_once() {
        let mut send = sending(100);
        send.acked(1, 0, Time(9));
        assert_eq!(parts(&mut send).len(), 4);
        (2..=6).for_each(|request| send.acked(request, 0, Time(9)));
        assert_eq!(parts(&mut send), [(0, 10)]);
        (7..=11).for_each(|request| send.acked(request, 0, Time(9)));
        assert_eq!(parts(&mut send), []);
    }
}
