//! The event loop: the task that owns the replica's turns.
//!
//! A turn takes all that has arrived, steps the replica through it, flushes once, and acts on what
//! comes out in the order of [`Outputs`]: backups, messages, jobs, replies, events. (Backups come
//! before jobs, for a job may remove the file's name.) All sockets that are ready are read before a
//! turn begins, for their tasks stand before this one in the run queue; so everything that arrived
//! together shares one log entry, one message per peer and one write per connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sampan_base::{LogIndex, Time, WallTime};
use sampan_kv::Reply;
use sampan_raft::Health;
use sampan_replica::{DiskDone, Event, Fatal, Input, Outputs};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::background;
use crate::backups;
use crate::disk_thread::DiskThreads;
use crate::error::ServerError;
use crate::node::Node;
use crate::peer::missing::{MissingPeers, News};
use crate::start::{Stop, StopRequests};
use crate::stats::count_up;

/// Connections that have been silent for too long are looked for this often.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// If the loop itself has waited for the disk for so long, it looks at its sockets before it looks
/// at the time.
const HELD_UP: Duration = Duration::from_millis(10);

/// The state of the loop.
pub(crate) struct Core {
    node: Rc<Node>,
    disks: DiskThreads,
    timer: Pin<Box<Sleep>>,
    /// When the timer goes off. It may do so too early, never too late.
    armed: Time,
    inputs: Vec<Input>,
    done: Vec<DiskDone>,
    outputs: Outputs,
    /// It has waited for the disk, for long.
    was_held_up: bool,
    /// The task that accepts clients.
    accepting: AbortHandle,
}

impl Core {
    pub(crate) fn new(node: Rc<Node>, disks: DiskThreads, accepting: AbortHandle) -> Self {
        Self {
            node,
            disks,
            accepting,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: Time::ZERO,
            inputs: Vec::new(),
            done: Vec::new(),
            outputs: Outputs::default(),
            was_held_up: false,
        }
    }

    /// Takes turns until the node has been asked to stop, and has stopped in the way it returns.
    pub(crate) async fn run(mut self, mut requests: StopRequests) -> Result<Stop, ServerError> {
        loop {
            let request = poll_fn(|cx| {
                // Without anybody left who could ask, there is no request.
                if let Poll::Ready(Some(stop)) = requests.0.poll_recv(cx) {
                    return Poll::Ready(Some(stop));
                }
                if self.is_turn_due(cx) { Poll::Ready(None) } else { Poll::Pending }
            });
            match request.await {
                Some(Stop::AtOnce) => return Ok(Stop::AtOnce),
                Some(Stop::Gracefully) => self.begin_stop(),
                None => {}
            }
            self.turn()?;
            if self.outputs.shutdown_complete {
                return Ok(Stop::Gracefully);
            }
            let has_more =
                self.node.replica.borrow().next_deadline() <= self.node.coarse_time.get();
            if has_more || std::mem::take(&mut self.was_held_up) {
                // More to do at once: after whoever else is ready, and, after a wait, the messages
                // that came in the meantime: a heartbeat among them says that the leader is there.
                tokio::task::yield_now().await;
            }
        }
    }

    fn begin_stop(&self) {
        self.node.log.line("asked to stop");
        self.accepting.abort();
        self.node.clients.stop_reading();
        self.node.inbox.push(Input::Shutdown);
    }

    fn is_turn_due(&mut self, cx: &mut Context<'_>) -> bool {
        // All three are asked, so that each knows whom to wake.
        let arrived = self.node.inbox.poll_ready(cx.waker());
        let done = self.disks.poll_results(cx.waker());
        arrived || done || self.is_time(cx)
    }

    /// Is the replica's deadline over? Arms the timer if it goes off too late; one that goes off
    /// too early is cheaper than one that is set in each turn.
    fn is_time(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.node.replica.borrow().next_deadline();
        if deadline < self.armed {
            self.arm(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if deadline <= self.node.clock.mono() {
                return true;
            }
            self.arm(deadline);
        }
        false
    }

    fn arm(&mut self, deadline: Time) {
        /// The timer's own limit is not far beyond.
        const FAR: Duration = Duration::from_secs(3_600);
        let now = self.node.clock.mono();
        self.armed = deadline.min(now + FAR);
        if let Some(at) = self.node.clock.instant_of(self.armed) {
            self.timer.as_mut().reset(at.into());
        }
    }

    /// One turn.
    fn turn(&mut self) -> Result<(), ServerError> {
        let now = self.node.clock.now();
        self.node.coarse_time.set(now.mono);
        count_up(&self.node.stats.turns, 1);
        self.node.inbox.take(&mut self.inputs);
        self.disks.take_results(&mut self.done)?;
        let mut replica = self.node.replica.borrow_mut();
        for input in self.inputs.drain(..) {
            replica.step(now, input);
        }
        for done in self.done.drain(..) {
            replica.step(now, Input::Disk(done));
        }
        replica.flush(now, &mut self.outputs);
        let is_congested = replica.is_congested();
        let catches_up = replica.catches_up();
        drop(replica);
        self.act(now.mono, now.wall)?;
        self.node.clients.set_congested(is_congested);
        if catches_up {
            background::give_way();
        }
        Ok(())
    }

    /// Does what the replica wants done.
    fn act(&mut self, now: Time, wall: WallTime) -> Result<(), ServerError> {
        let node = &self.node;
        match self.outputs.fatal.take() {
            Some(Fatal::Disk(error)) => {
                return Err(ServerError::of_disk(&error, error.to_string()));
            }
            Some(Fatal::Invariant(text)) => return Err(ServerError::Invariant(text)),
            None => {}
        }
        // Before the jobs, of which one may remove the name of such a file.
        for ready in self.outputs.backups.drain(..) {
            backups::begin(node, ready, now);
        }
        // The others' disks are farther away than this node's.
        for envelope in self.outputs.messages.drain(..) {
            node.peers.send(&envelope);
        }
        node.peers.flush();
        let may_wait = self.outputs.replies.is_empty() && node.replica.borrow().may_wait_for_disk();
        for job in self.outputs.jobs.drain(..) {
            let waited = self.disks.run_or_submit(job, may_wait);
            self.was_held_up |= waited.is_some_and(|waited| waited > HELD_UP);
        }
        self.disks.log_waits(node.replica.borrow().log_waits_for_room());
        for reply in self.outputs.replies.drain(..) {
            if let Reply::Error(text) = &reply.reply {
                node.stats.errors.count(text);
            }
            node.clients.deliver(reply);
        }
        node.clients.flush(node, now);
        for event in self.outputs.events.drain(..) {
            note(node, &event, wall);
        }
        Ok(())
    }
}

/// Writes an event's line.
fn note(node: &Node, event: &Event, now: WallTime) {
    let log = &node.log;
    match event {
        Event::Role { term, role, leader, why } => {
            let leader = leader.map_or("no leader".to_owned(), |leader| format!("leader {leader}"));
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            log.line(format_args!("{role} of term {term}, {leader}{why}"));
        }
        Event::SnapshotTaken { index, size_bytes } => {
            node.snapshot_is_durable(now);
            log.line(format_args!("snapshot through {index} taken, {size_bytes} bytes"));
        }
        Event::SnapshotInstalled { index, size_bytes } => {
            node.snapshot_is_durable(now);
            log.line(format_args!("snapshot through {index} installed, {size_bytes} bytes"));
        }
        Event::SnapshotFailed(text) => {
            node.snapshot_failed.set(true);
            log.warn(format_args!("snapshot failed: {text}"));
        }
        Event::Refused(text) => log.warn(text),
        Event::Disk { now: Health::Full, .. } => log.warn(
            "disk full: the room that is left is for deletions; \
             other writes are refused if no quorum has more",
        ),
        Event::Disk { now: Health::Exhausted, .. } => log.warn(
            "disk full: no room is left, not even for deletions; \
             writes are refused if no quorum has more",
        ),
        Event::Disk { now: Health::Slow, .. } => log.warn("the disk of the log stalls"),
        Event::Disk { before, .. } if before.is_full() => log.line("room on the disk again"),
        Event::Disk { .. } => log.line("the disk of the log keeps up again"),
        Event::NonVoting(Some(LogIndex::MAX)) => log.warn(
            "part of the log was lost: this node neither votes nor counts until a leader has said how \
             much, and it is here",
        ),
        Event::NonVoting(Some(until)) => log.warn(format_args!(
            "part of the log was lost: this node neither votes nor counts until it is here through \
             {until}"
        )),
        Event::NonVoting(None) => log.line("the log is whole again: this node votes"),
    }
}

/// What is allocated and freed in [`give_memory_back`], in bytes: enough that the allocator cannot
/// serve it from memory that is in use in part.
const NUDGE_BYTES: usize = 1 << 20;

/// Lets the allocator return what was freed. It keeps that for a second, in case it is wanted
/// again, and then looks for it only on the way of another large request: on a node that fell
/// silent after a load, never. Without this a node kept half as much again as its data, for as long
/// as it was idle.
fn give_memory_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(NUDGE_BYTES)));
}

/// Looks for connections that are silent for too long or do not read their replies, and for peers
/// that are missing, for ever.
pub(crate) async fn sweep(node: Rc<Node>) {
    let limits = &node.config.limits;
    let mut missing = MissingPeers::new(node.clock.mono());
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        give_memory_back();
        let now = node.clock.mono();
        node.coarse_time.set(now);
        node.clients.for_each(|client| client.sweep(limits, now));
        for index in node.backups.expire(now, limits.backup_idle_time) {
            node.log.warn(format_args!("backup through {index} ended: nobody reads it"));
        }
        miss_peers(&node, &mut missing, now);
    }
}

fn miss_peers(node: &Node, missing: &mut MissingPeers, now: Time) {
    let replica = node.replica.borrow();
    for id in node.peers.ids() {
        let heard_at = replica.raft().peers().find(|peer| peer.id == id).map(|peer| peer.heard_at);
        match missing.look(now, id, node.peers.is_connected(id), heard_at) {
            None => {}
            Some(News::Unconnected(time)) => {
                node.log.warn(format_args!("no connection to peer {id} for {} s", time.as_secs()));
            }
            Some(News::Unheard(time)) => {
                node.log.warn(format_args!("peer {id} was not heard for {} s", time.as_secs()));
            }
            Some(News::Back(time)) => {
                node.log.line(format_args!("peer {id} is back after {} s", time.as_secs()));
            }
        }
    }
}
