//! What a replica does with snapshots, and whose each job for them is: its own (`taking.rs`), those
//! that go to peers (`sending.rs`), the one that arrives (`receiving.rs`), one that has arrived
//! (`reading_back.rs`), and one that may be damaged (`doubts.rs`). When an own one is due is told
//! in `compaction.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use sampan_base::disk::{DiskError, FileName};
use sampan_base::{LogIndex, NodeId, SnapshotId, Time};
use sampan_storage::PartialSnapshot;

use crate::doubts::Doubts;
use crate::input::Now;
use crate::job::{DiskDone, DiskJob};
use crate::output::{Envelope, Fatal, Stream};
use crate::reading_back::ReadingBack;
use crate::receiving::{Receiving, Refused};
use crate::replica::Replica;
use crate::sending::Sending;
use crate::status::SnapshotPauses;
use crate::taking::Taking;
use crate::wire::PeerMessage;

/// A command that has waited this long tells of the foreground before it is done.
const LONG_WAIT: Duration = Duration::from_millis(50);

/// Whose a snapshot job is. Jobs of the background lane end in the order in which they began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Taking(SnapshotId),
    Receiving(u64),
    /// Looks whether one that was handed out is damaged.
    Doubting(SnapshotId),
    /// Cleaning up: the result is of no interest.
    Nobody,
}

/// What a replica knows of snapshots.
pub(crate) struct Snapshots {
    pub(crate) partial: Option<PartialSnapshot>,
    /// Asked for by an operator: of this index at least.
    pub(crate) wanted: Option<LogIndex>,
    /// A backup waits for one.
    pub(crate) wanted_for_backup: bool,
    pub(crate) taking: Option<Taking>,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) reading_back: Option<ReadingBack>,
    pub(crate) refused: Option<Refused>,
    /// Counts the snapshots that began to arrive, or to arrive again after a full disk.
    pub(crate) attempts: u64,
    owners: VecDeque<Owner>,
    pub(crate) not_before: Time,
    pub(crate) sending: Sending,
    pub(crate) doubts: Doubts,
    pub(crate) pauses: SnapshotPauses,
}

impl Snapshots {
    pub(crate) fn new(partial: Option<PartialSnapshot>, now: Now) -> Self {
        Self {
            partial,
            wanted: None,
            wanted_for_backup: false,
            taking: None,
            receiving: None,
            reading_back: None,
            refused: None,
            attempts: 0,
            owners: VecDeque::new(),
            not_before: now.mono,
            sending: Sending::default(),
            doubts: Doubts::default(),
            pauses: SnapshotPauses::default(),
        }
    }

    pub(crate) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Does anything wait until the pace lets it go?
    pub(crate) fn wait_for_pace(&self) -> bool {
        self.taking.as_ref().is_some_and(Taking::waits) || self.sending.waits()
    }

    /// Is one of the own state being given its name?
    pub(crate) fn is_committing_own(&self) -> bool {
        self.taking.as_ref().is_some_and(Taking::is_committing)
    }
}

impl Replica {
    /// Index and file size of the newest durable snapshot.
    pub(crate) fn newest_snapshot(&self) -> Option<(LogIndex, u64)> {
        let newest = self.storage.snapshots().first();
        newest.map(|stored| (stored.meta.position.index, stored.meta.size_bytes))
    }

    /// Starts a snapshot if one is due, and lets go of log that nobody needs any more.
    pub(crate) fn drive_snapshots(&mut self) {
        self.observe_log();
        if self.snapshot_is_due() {
            self.begin_snapshot();
        }
        self.observe_foreground();
        self.resume_taking();
        self.send_parts();
        self.read_back();
    }

    /// What waits is in the foreground, too, though nobody can tell yet how long it takes.
    fn observe_foreground(&mut self) {
        // Of those before it all who waited have been told that the outcome is unknown.
        let first = self.writes.proposals.iter().find(|first| first.deadline < Time::NEVER);
        let oldest = first.and_then(|first| first.waiters.iter().find(|waiter| !waiter.given_up));
        let waits = oldest.map_or(Duration::ZERO, |oldest| self.now.mono.since(oldest.since));
        if waits >= LONG_WAIT {
            self.pace.foreground_took(self.now.mono, waits);
        }
    }

    /// When something that waits for its turn may go, or a snapshot at rest may be due.
    pub(crate) fn snapshots_deadline(&self) -> Time {
        let waits = self.snapshots.wait_for_pace() || self.raft.catch_up_waits();
        let turn = if waits { self.pace.free_at() } else { Time::NEVER };
        turn.min(self.reading_back_at()).min(self.rest_deadline())
    }

    /// When what is in the background may go on.
    pub(crate) fn background_free_at(&self) -> Time {
        if self.pace.is_free(self.now.mono) { self.now.mono } else { self.pace.free_at() }
    }

    /// When a host may do a piece of what is in the background and can wait, such as to read a
    /// backup, if it wants to since then: it takes turns with the rest of that.
    pub fn background_turn_at(&self, since: Time, bytes: u64) -> Time {
        self.pace.turn_at(self.now.mono, since, bytes)
    }

    /// A host has done so much of that.
    pub fn background_went(&mut self, bytes: u64) {
        self.pace.went(self.now.mono, bytes);
    }

    pub(crate) fn snapshot_file(&self, id: SnapshotId) -> Option<FileName> {
        let known = self.storage.snapshots().iter().find(|stored| stored.meta.id == id);
        known.map(|stored| stored.file.clone())
    }

    pub(crate) fn tell(&mut self, to: NodeId, stream: Stream, message: PeerMessage) {
        self.out.messages.push(Envelope { to, stream, message });
    }

    pub(crate) fn snapshot_job(&mut self, owner: Owner, job: DiskJob) {
        self.snapshots.owners.push_back(owner);
        self.out.jobs.push(job);
    }

    /// A snapshot job has ended.
    pub(crate) fn on_snapshot_job(&mut self, done: DiskDone) {
        if let DiskDone::SnapshotSend { to, id, offset, data, wanted_by } = done {
            return self.on_part_read(to, id, offset, data, wanted_by);
        }
        if let DiskDone::SnapshotLoad { attempt, payload } = done {
            return self.on_chunk_read(attempt, payload);
        }
        if let DiskDone::SnapshotCheck { id, is_sound } = done {
            return self.on_chunk_checked(id, is_sound);
        }
        let owner = self.snapshots.owners.pop_front().expect("a job has an owner");
        let failed = match &done {
            DiskDone::SnapshotWrite(Err(DiskError::NoSpace(_))) if self.awaits_reserve(owner) => {
                return;
            }
            DiskDone::SnapshotWrite(Err(DiskError::NoSpace(file))) => {
                Some(format!("{file}: no space"))
            }
            DiskDone::SnapshotVerify(Err(error)) => Some(error.to_string()),
            DiskDone::SnapshotOpen(Err(why)) => Some(why.clone()),
            // A full disk may have kept the file from being made at all: what comes behind finds
            // none.
            DiskDone::SnapshotWrite(Err(DiskError::NotFound(_))) if self.is_given_up(owner) => None,
            // Any other error of a write or a rename: the disk cannot be trusted (rule R10).
            DiskDone::SnapshotWrite(Err(error)) | DiskDone::SnapshotCommit(Err(error)) => {
                return self.stop(Fatal::Disk(error.clone()));
            }
            _ => None,
        };
        match (owner, failed) {
            (Owner::Taking(id), failed) => self.on_taking_job(id, failed),
            (Owner::Receiving(attempt), failed) => self.on_receiving_job(attempt, done, failed),
            (Owner::Doubting(id), _) => self.on_doubted(id, &done),
            (Owner::Nobody, _) => {}
        }
    }

    /// Is this a job of an attempt to receive a snapshot that is over?
    fn is_given_up(&self, owner: Owner) -> bool {
        let is_current = |attempt| self.receiving_attempt() == Some(attempt);
        matches!(owner, Owner::Receiving(attempt) if !is_current(attempt))
    }

    /// A snapshot met a full disk. True if it waits for the room of the reserve.
    fn awaits_reserve(&mut self, owner: Owner) -> bool {
        match owner {
            Owner::Taking(id) => self.starve_taking(id),
            Owner::Receiving(attempt) => {
                self.starve_receiving(attempt);
                true
            }
            Owner::Doubting(_) | Owner::Nobody => false,
        }
    }
}
