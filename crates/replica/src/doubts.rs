//! A snapshot of this node that a peer found damaged when it had come: the damage may be here. Without a
//! look at it such a file is sent for ever, and the peer never catches up.
//!
//! What it is not: the search for damage of which nobody knows, at rest.

use std::time::Duration;

use sampan_base::{SnapshotId, SnapshotMeta};
use sampan_storage::snapshot::SnapshotError;

use crate::job::{DiskDone, DiskJob};
use crate::output::Event;
use crate::replica::Replica;
use crate::snapshots::Owner;

/// A file that was read is not read again for so long: the damage is where it arrives.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

impl Replica {
    /// What a peer got of this snapshot is damaged: on its disk, or here.
    pub(crate) fn doubt_snapshot(&mut self, id: SnapshotId) {
        let now = self.now.mono;
        let known = self.snapshots.doubted.is_some_and(|(known, until)| known == id && now < until);
        let Some(file) = self.snapshot_file(id).filter(|_| !known) else { return };
        self.snapshots.doubted = Some((id, now + AGAIN_AFTER));
        self.snapshot_job(Owner::Doubting(id), DiskJob::SnapshotVerify(file));
    }

    /// The file was read. A damaged one, which no start could use either, is set aside.
    pub(crate) fn on_doubted(&mut self, id: SnapshotId, done: &DiskDone) {
        let DiskDone::SnapshotVerify(Err(error @ SnapshotError::Damaged { .. })) = done else {
            return;
        };
        let ops = self.storage.set_snapshot_aside(id);
        if !ops.is_empty() {
            self.out.events.push(Event::SnapshotFailed(format!("{error}; it is set aside")));
            self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
        }
    }

    /// Is the snapshot that peers would get not there any more? Then another one is due, though nothing
    /// new has come, and again until there is one.
    pub(crate) fn newest_is_set_aside(&self) -> bool {
        let stored = self.storage.snapshots();
        let is_gone = |offered: &SnapshotMeta| stored.iter().all(|s| s.meta.id != offered.id);
        self.raft.snapshot().is_some_and(is_gone)
    }
}
