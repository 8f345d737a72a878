//! A snapshot of this node that a peer found damaged when it had come: the damage may be here. Without a
//! look at it such a file is sent for ever, and the peer never catches up.
//!
//! What it is not: the search for damage of which nobody knows, at rest.

use crate::job::DiskJob;
use crate::output::Event;
use crate::replica::Replica;
use crate::snapshots::Owner;

impl Replica {
    /// What a peer got of this snapshot is damaged: on its disk, or here.
    pub(crate) fn doubt_snapshot(&mut self, id: u64) {
        let Some(file) = self.snapshot_file(id).filter(|_| !self.snapshots.doubting) else {
            return;
        };
        self.snapshots.doubting = true;
        self.snapshot_job(Owner::Doubting(id), DiskJob::SnapshotVerify(file));
    }

    /// The file was read. A damaged one is set aside, and the next one, for which nothing new has to have
    /// come, takes its place with the peers.
    pub(crate) fn on_doubted(&mut self, id: u64, failed: Option<String>) {
        self.snapshots.doubting = false;
        let Some(why) = failed else { return };
        let ops = self.storage.set_snapshot_aside(id);
        if ops.is_empty() {
            return;
        }
        self.events.push(Event::SnapshotFailed(format!("{why}; it is set aside")));
        self.snapshots.wanted = true;
        self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
    }
}
