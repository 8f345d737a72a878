//! Snapshots on their way to peers: parts of their files, read and sent at the pace of the
//! background.
//!
//! What it is not: which part is next, and how many are on their way. That is consensus'
//! (`sampan_raft`'s `InstallSnapshot`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sampan_base::disk::DiskError;
use sampan_base::{NodeId, SnapshotId, Time};
use sampan_raft::{PeerState, PeerStatus, SnapshotRead};

use crate::job::DiskJob;
use crate::output::Stream;
use crate::replica::Replica;
use crate::wire::{PeerMessage, SnapshotMissing, SnapshotPart, SnapshotWanted};

/// How long who is getting a snapshot may be silent and still have the rest of it, and the log
/// after it: a start that loads a long state takes a while.
const RECEIVER_SILENT_MAX: Duration = Duration::from_secs(30);

/// A part that another node wants sent is no longer than this.
const LENT_BYTES_MAX: u64 = 8 << 20;

/// What peers want of snapshots.
#[derive(Default)]
pub(crate) struct Sending {
    /// Parts that they wait for, to be read when the pace allows it.
    parts: VecDeque<SnapshotRead>,
    /// A chunk of the own snapshot was the last that went: a part that waits goes before the next
    /// one.
    pub(crate) is_next: bool,
    /// The snapshot of which a part was last sent for another leader, and when.
    lent: Option<(SnapshotId, Time)>,
}

impl Sending {
    /// Does a part wait for its turn?
    pub(crate) fn waits(&self) -> bool {
        !self.parts.is_empty()
    }
}

impl Replica {
    /// A peer needs a part of a snapshot. What is wanted again was wanted too slowly: once is
    /// enough.
    pub(crate) fn on_snapshot_wanted(&mut self, wanted: SnapshotRead) {
        if !self.snapshots.sending.parts.contains(&wanted) {
            self.snapshots.sending.parts.push_back(wanted);
        }
    }

    /// Reads the parts that peers wait for, as fast as may be: at once if clients wait for them,
    /// too, or the log does not.
    pub(crate) fn send_parts(&mut self) {
        if !self.raft.is_leader() {
            return self.snapshots.sending.parts.clear();
        }
        if !self.snapshots.sending.waits() {
            return;
        }
        let commits_wait = !self.raft.commits_without_laggards(self.now.mono);
        let outrun = if commits_wait { Vec::new() } else { self.outrun_by_the_log() };
        let is_urgent = |wanted: &SnapshotRead| commits_wait || outrun.contains(&wanted.to);
        loop {
            let parts = &mut self.snapshots.sending.parts;
            let urgent = parts.iter().position(is_urgent);
            let next = urgent.or_else(|| self.pace.is_free(self.now.mono).then_some(0));
            let Some(wanted) = next.and_then(|place| parts.remove(place)) else { return };
            self.snapshots.sending.is_next = false;
            // What does not go by the pace is no debt of others that do.
            let bytes = if urgent.is_some() { 0 } else { wanted.len_max as u64 };
            self.pace.went(self.now.mono, bytes);
            self.read_part(wanted);
        }
    }

    /// Who would find the log gone that comes after the snapshot it is getting, and need another
    /// one, and again: as much of it is kept as may be, and of the second half of that more has
    /// come than of the snapshot has arrived.
    fn outrun_by_the_log(&self) -> Vec<NodeId> {
        let Some(kept_max) = self.log_bytes_kept_max() else { return Vec::new() };
        let half = u128::from(kept_max / 2);
        let is_outrun = |peer: &PeerStatus| {
            let PeerState::Snapshot { index, size_bytes, acked_bytes, .. } = peer.state else {
                return false;
            };
            let log_bytes = self.raft.log_bytes_after(index.max(peer.matched)) as u128;
            log_bytes.saturating_sub(half) * u128::from(size_bytes) > half * u128::from(acked_bytes)
        };
        self.raft.peers().filter(is_outrun).map(|peer| peer.id).collect()
    }

    fn read_part(&mut self, wanted: SnapshotRead) {
        let SnapshotRead { to, id, offset, len_max, maker } = wanted;
        let len_bytes = len_max as u64;
        if let Some(maker) = maker {
            let wanted = SnapshotWanted { to, id, offset, len_max: len_bytes };
            self.tell(maker, Stream::Main, PeerMessage::SnapshotWanted(wanted));
        } else if let Some(file) = self.snapshot_file(id) {
            let (jobs, wanted_by) = (&mut self.out.jobs, None);
            jobs.push(DiskJob::SnapshotSend { to, id, file, offset, len_bytes, wanted_by });
        } else {
            self.raft.snapshot_unreadable(self.now.mono, to, id);
        }
    }

    /// A part of a snapshot was read: for this node as the leader, or for another one.
    pub(crate) fn on_part_read(
        &mut self,
        to: NodeId,
        id: SnapshotId,
        offset: u64,
        data: Result<Bytes, DiskError>,
        wanted_by: Option<NodeId>,
    ) {
        match (data, wanted_by) {
            (Ok(data), None) => self.raft.snapshot_read(self.now.mono, to, id, offset, data),
            (Ok(data), Some(_)) if data.is_empty() => {}
            (Ok(data), Some(_)) => {
                let part = PeerMessage::SnapshotPart(SnapshotPart { id, offset, data });
                self.tell(to, Stream::Bulk, part);
            }
            // Unless it was removed meanwhile, the next one who wants it would get no more.
            (Err(_), None) => {
                self.doubt_snapshot(id);
                self.raft.snapshot_unreadable(self.now.mono, to, id);
            }
            (Err(_), Some(leader)) => {
                self.doubt_snapshot(id);
                let missing = PeerMessage::SnapshotMissing(SnapshotMissing { to, id });
                self.tell(leader, Stream::Main, missing);
            }
        }
    }

    /// A leader wants a part of a snapshot sent that this node made, and sent before when it led.
    pub(crate) fn lend_snapshot(&mut self, leader: NodeId, wanted: &SnapshotWanted) {
        let SnapshotWanted { to, id, offset, len_max } = *wanted;
        let Some(file) = self.snapshot_file(id) else {
            let missing = PeerMessage::SnapshotMissing(SnapshotMissing { to, id });
            return self.tell(leader, Stream::Main, missing);
        };
        self.snapshots.sending.lent = Some((id, self.now.mono));
        let len_bytes = len_max.min(LENT_BYTES_MAX);
        let wanted_by = Some(leader);
        self.out.jobs.push(DiskJob::SnapshotSend { to, id, file, offset, len_bytes, wanted_by });
    }

    /// The snapshots that live followers are getting: to remove one would make its transfer begin
    /// anew, with the next one, and again. A full disk cannot afford that.
    pub(crate) fn snapshots_being_sent(&self) -> Vec<SnapshotId> {
        let id = |peer: PeerStatus| match peer.state {
            PeerState::Snapshot { id, .. } => Some(id),
            PeerState::Probe | PeerState::Replicate => None,
        };
        if self.storage.out_of_space() {
            Vec::new()
        } else {
            let lent_since = self.now.mono - self.options.raft.election_timeout_max * 2;
            let lent =
                self.snapshots.sending.lent.filter(|(_, at)| *at >= lent_since).map(|(id, _)| id);
            self.live_peers().filter_map(id).chain(lent).collect()
        }
    }

    pub(crate) fn sends_snapshot(&self) -> bool {
        self.live_peers().any(|peer| matches!(peer.state, PeerState::Snapshot { .. }))
    }

    /// The followers that this leader heard lately. Who is getting a snapshot may be silent for
    /// longer.
    pub(crate) fn live_peers(&self) -> impl Iterator<Item = PeerStatus> {
        let silent_max = self.options.raft.election_timeout_max * 2;
        self.raft.peers().filter(move |peer| {
            let silent_max = match peer.state {
                PeerState::Snapshot { .. } => silent_max.max(RECEIVER_SILENT_MAX),
                PeerState::Probe | PeerState::Replicate => silent_max,
            };
            peer.heard_at >= self.now.mono - silent_max
        })
    }
}
