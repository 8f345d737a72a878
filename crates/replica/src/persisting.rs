//! What this node promises, on its disk: group commits of the log and the hard state, one at a
//! time, and whether it votes (`docs/format.md`).
//!
//! What it is not: how the disk fares with that, which is in `disk_health.rs`.

use sampan_base::{LogIndex, Time};
use sampan_raft::PersistToken;

use crate::job::DiskJob;
use crate::output::Event;
use crate::replica::Replica;

/// After this long without a write, the disk is told how far its log is durable
/// (`docs/format.md`, the watermark): off the commit path, and never twice for one write.
const WATERMARK_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What is on its way to the disk, and what that says of this node.
pub(crate) struct Persisting {
    /// The group commit that is on its way.
    token: Option<PersistToken>,
    /// Since when it has been, or was.
    pub(crate) since: Time,
    /// When the watermark is to be refreshed; unset while it is up to date.
    watermark_at: Option<Time>,
    /// Until where the disk says that this node does not vote; it follows what consensus says.
    non_voting_until: Option<LogIndex>,
    /// The disk says that this node has heard from nobody yet; cleared as above.
    newborn: bool,
}

impl Persisting {
    pub(crate) fn new(non_voting_until: Option<LogIndex>, newborn: bool, now: Time) -> Self {
        let watermark_at = Some(now + WATERMARK_AFTER);
        Self { token: None, since: now, watermark_at, non_voting_until, newborn }
    }

    /// Is a group commit on its way?
    pub(crate) const fn is_under_way(&self) -> bool {
        self.token.is_some()
    }

    /// When the watermark is due: it waits for the group commit that is on its way.
    pub(crate) fn deadline(&self) -> Time {
        self.watermark_at.filter(|_| self.token.is_none()).unwrap_or(Time::NEVER)
    }
}

impl Replica {
    /// Sends what consensus wants durable to the disk, as one batch, if the disk is idle: all that
    /// gathers meanwhile shares the next sync.
    pub(crate) fn persist(&mut self) {
        if self.persisting.is_under_way() {
            return;
        }
        let now = self.now.mono;
        let (room, most) = (self.persist_room_bytes(), self.options.group_commit_bytes_max);
        if let Some(persist) = self.raft.take_persist_within(room, most) {
            let ops = self.storage.append(persist.hard_state, persist.log_reset, &persist.entries);
            self.out.jobs.push(DiskJob::Append(ops));
            let known = &mut self.persisting;
            (known.token, known.since) = (Some(persist.token), now);
            known.watermark_at = Some(now + WATERMARK_AFTER);
        } else if self.persisting.watermark_at.is_some_and(|at| at <= now) {
            self.refresh_watermark();
        }
        self.persist_standing();
    }

    /// After a turn: does what is to be written wait until the log has room for it?
    pub fn log_waits_for_room(&self) -> bool {
        !self.persisting.is_under_way() && self.raft.has_unpersisted()
    }

    /// The group commit is on the disk.
    pub(crate) fn on_persisted(&mut self) {
        let token = self.persisting.token.take().expect("one group commit at a time");
        self.counters.syncs += 1;
        self.group_commit_ended();
        self.storage.append_synced();
        self.raft.persisted(self.now.mono, token.synced());
    }

    /// Whether this node votes, if that has changed since the disk was told. After the term that
    /// goes with it: a node with a past takes its term for all it has promised, one without asks
    /// the others again.
    fn persist_standing(&mut self) {
        let known = &mut self.persisting;
        let grown_up = known.newborn && !self.raft.is_newborn();
        let until = self.raft.non_voting_until();
        // What is written also says that the node has a past: not before it has.
        let changed = known.non_voting_until != until && (grown_up || !known.newborn);
        if grown_up || changed {
            known.newborn &= !grown_up;
            known.non_voting_until = until;
            self.out.jobs.push(DiskJob::LogControl(self.storage.set_non_voting(until)));
            self.out.events.extend(changed.then_some(Event::NonVoting(until)));
        }
    }

    fn refresh_watermark(&mut self) {
        self.persisting.watermark_at = None;
        let ops = self.storage.refresh_watermark();
        if !ops.is_empty() {
            self.out.jobs.push(DiskJob::LogControl(ops));
        }
    }
}
