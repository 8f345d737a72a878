//! One simulated machine: a disk, clocks, and, while it runs, a replica with its inbox and lanes.
//!
//! It holds facts; what happens when is `world.rs`.

use std::collections::VecDeque;

use sampan_base::{Configuration, NodeId, Time};
use sampan_replica::{DiskDone, DiskJob, Input, Lane, Options, Repairing, Replica};

use crate::clock::NodeClock;
use crate::disk::{Disk, DiskOp, PAGE_BYTES, SimDisk};
use crate::queue::SimTime;

/// How fast a disk is, in virtual time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskProfile {
    /// Of each step that is no sync, per page it touches.
    pub page_us: u64,
    /// The shortest and the longest sync.
    pub sync_us: (u64, u64),
}

impl Default for DiskProfile {
    /// A good drive: 10 µs a page, a sync in 0.2 ms.
    fn default() -> Self {
        Self { page_us: 10, sync_us: (200, 200) }
    }
}

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// The replica's options.
    pub options: Options,
    /// The configuration in force while neither log nor snapshot has one; empty for a joiner.
    pub bootstrap: Configuration,
    /// Its clocks.
    pub clock: NodeClock,
    /// Its disk's speed.
    pub disk: DiskProfile,
    /// It is made with its whole cluster, so that nobody asks it for a past.
    pub formed: bool,
    /// How long one turn takes; inputs that arrive meanwhile share the next one.
    pub turn_us: u64,
}

/// A job on its way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) job: DiskJob,
    pub(crate) ends_at: SimTime,
}

/// One lane of the disk thread's work.
#[derive(Default, Debug)]
pub(crate) struct LaneState {
    pub(crate) waiting: VecDeque<DiskJob>,
    pub(crate) running: Option<Running>,
    /// Done, and the replica does not know yet: when each ended, and how.
    pub(crate) done: VecDeque<(SimTime, DiskDone)>,
    /// When the last of those is told. News of one lane comes in the order of its jobs.
    pub(crate) told_by: SimTime,
}

/// One machine.
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) setup: NodeSetup,
    pub(crate) replica: Option<Box<Replica>>,
    /// In place of the replica while its log is being repaired.
    pub(crate) repairing: Option<Box<Repairing>>,
    pub(crate) disk: SimDisk,
    pub(crate) clock: NodeClock,
    /// Disk operations take this many times as long.
    pub(crate) disk_slowness: u64,
    /// News of a job that was done comes this much later at most, in microseconds.
    pub(crate) completion_delay_us: u64,
    /// Counts its lives, from 1 at the first start: what was scheduled for an older one is void.
    pub(crate) life: u64,
    pub(crate) inbox: Vec<Input>,
    pub(crate) lanes: [LaneState; 4],
    pub(crate) busy_until: SimTime,
    pub(crate) turn_queued: bool,
    pub(crate) paused: bool,
    /// When it went on after it was paused last.
    pub(crate) resumed_at: SimTime,
    /// The earliest wake-up that is scheduled.
    pub(crate) wake_at: SimTime,
}

impl Node {
    pub(crate) fn new(id: NodeId, setup: NodeSetup, disk: SimDisk) -> Self {
        Self {
            id,
            clock: setup.clock,
            setup,
            replica: None,
            repairing: None,
            disk,
            disk_slowness: 1,
            completion_delay_us: 0,
            life: 0,
            inbox: Vec::new(),
            lanes: <[LaneState; 4]>::default(),
            busy_until: SimTime::ZERO,
            turn_queued: false,
            paused: false,
            resumed_at: SimTime::ZERO,
            wake_at: SimTime::NEVER,
        }
    }

    /// Its name.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The replica, while it runs and takes part.
    pub fn replica(&self) -> Option<&Replica> {
        self.replica.as_deref()
    }

    /// Does its process run? (It may be paused.)
    pub fn is_up(&self) -> bool {
        self.replica.is_some() || self.repairing.is_some()
    }

    /// Does it ask its peers for what its log lost?
    pub fn is_repairing(&self) -> bool {
        self.repairing.is_some()
    }

    /// When it wants its next turn, by its own clock.
    pub(crate) fn next_deadline(&self) -> Time {
        let repairing = self.repairing.as_ref().map(|repairing| repairing.next_deadline());
        let replica = self.replica.as_ref().map(|replica| replica.next_deadline());
        replica.or(repairing).unwrap_or(Time::NEVER)
    }

    /// Is its process stopped in its tracks?
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How often it has started.
    pub fn lives(&self) -> u64 {
        self.life
    }

    /// Its disk.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Its disk, to break it.
    pub fn disk_mut(&mut self) -> &mut SimDisk {
        &mut self.disk
    }

    /// A disk that was emptied, or is new, is whole when it says so itself: that its node votes, as
    /// that does. A node that votes again and loses its power before it has said so starts as one
    /// that does not.
    pub(crate) fn note_that_disk_is_whole(&mut self) {
        if self.disk.emptied || self.disk.is_new {
            let copy = self.disk.read("hard_state.b", 0, PAGE_BYTES).ok();
            let copy = copy.and_then(|bytes| sampan_storage::inspect::hard_state(&bytes).ok());
            let says_so = copy.is_some_and(|copy| !copy.newborn && copy.non_voting_until.is_none());
            self.disk.emptied &= !says_so;
            self.disk.is_new &= !says_so;
        }
    }

    /// Its clocks.
    pub fn clock(&self) -> &NodeClock {
        &self.clock
    }

    /// What it is made of.
    pub fn setup(&self) -> &NodeSetup {
        &self.setup
    }

    /// What it is made of, for its next start.
    pub fn setup_mut(&mut self) -> &mut NodeSetup {
        &mut self.setup
    }

    /// Makes disk operations take `times` as long; 1 is normal.
    pub fn set_disk_slowness(&mut self, times: u64) {
        self.disk_slowness = times.max(1);
    }

    /// Makes news of disk jobs come up to this much late; 0 is normal.
    pub fn set_completion_delay_us(&mut self, us: u64) {
        self.completion_delay_us = us;
    }

    pub(crate) fn lane(&mut self, lane: Lane) -> &mut LaneState {
        &mut self.lanes[lane_number(lane)]
    }

    /// The process dies. What the disk was doing is done up to a random step, which may be torn.
    pub(crate) fn die(&mut self, rng: &mut sampan_base::Rng) {
        (self.replica, self.repairing) = (None, None);
        self.inbox.clear();
        self.paused = false;
        self.turn_queued = false;
        self.wake_at = SimTime::NEVER;
        for lane in &mut self.lanes {
            lane.waiting.clear();
            lane.done.clear();
            lane.told_by = SimTime::ZERO;
            if let Some(running) = lane.running.take()
                && let Some(ops) = steps(&running.job)
            {
                let done = rng.below(ops.len() as u64 + 1) as usize;
                let ended = ops.iter().take(done).try_for_each(|op| self.disk.execute(op));
                if let Some(op) = ops.get(done)
                    && ended.is_ok()
                {
                    self.disk.tear(op);
                }
            }
        }
    }
}

/// The place of a lane in an array.
pub(crate) const fn lane_number(lane: Lane) -> usize {
    match lane {
        Lane::Log => 0,
        Lane::Background => 1,
        Lane::Segments => 2,
        Lane::Reading => 3,
    }
}

/// The steps of a job that changes files.
fn steps(job: &DiskJob) -> Option<&[DiskOp]> {
    match job {
        DiskJob::Append(ops)
        | DiskJob::LogControl(ops)
        | DiskJob::Maintain { ops, .. }
        | DiskJob::SnapshotWrite(ops)
        | DiskJob::SnapshotCommit(ops) => Some(ops),
        DiskJob::SnapshotVerify(_)
        | DiskJob::SnapshotOpen(_)
        | DiskJob::SnapshotLoad { .. }
        | DiskJob::SnapshotCheck { .. }
        | DiskJob::SnapshotSend { .. } => None,
    }
}

/// How long a job takes: its pages, and its syncs.
pub(crate) fn duration_us(job: &DiskJob, profile: DiskProfile, rng: &mut sampan_base::Rng) -> u64 {
    let Some(ops) = steps(job) else { return 4 * profile.page_us };
    ops.iter()
        .map(|op| match op {
            DiskOp::Sync { .. } | DiskOp::SyncDirectory { .. } => {
                rng.between(profile.sync_us.0, profile.sync_us.1)
            }
            DiskOp::Write { bytes, .. } => {
                profile.page_us * (bytes.len() as u64).div_ceil(PAGE_BYTES)
            }
            DiskOp::Create { zero_bytes, .. } => {
                profile.page_us * zero_bytes.div_ceil(PAGE_BYTES).max(1)
            }
            DiskOp::Reserve { .. }
            | DiskOp::Reuse { .. }
            | DiskOp::Truncate { .. }
            | DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::CreateDirectory { .. } => profile.page_us,
        })
        .sum()
}
