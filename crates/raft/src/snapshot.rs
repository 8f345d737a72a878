//! Snapshots: compaction, and bringing a peer up by one in parts that resume (paper, section 7,
//! Figure 13; thesis 5).
//!
//! Files are the host's: this module says which part is needed where, and what a complete one means
//! for the log.

use bytes::Bytes;
use sampan_base::{LogIndex, NodeId, SnapshotId, SnapshotMeta, Time, planted};

use crate::follower::Incoming;
use crate::node::{Raft, RoleState};
use crate::progress::State;
use crate::{Body, DropReason, SnapshotChunk, SnapshotRead};

impl Raft {
    /// A durable snapshot exists at `meta.position` (the course's `Snapshot`): entries through
    /// `trim_to` may go. Entries between the two stay for peers that are only a little behind.
    ///
    /// Entries that no batch to persist has taken yet stay too, whatever `trim_to` says.
    pub fn compact(&mut self, meta: SnapshotMeta, trim_to: LogIndex) {
        let index = meta.position.index;
        assert!(index <= self.applied, "a snapshot at {index} of a state at {}", self.applied);
        assert!(trim_to <= index, "cannot trim to {trim_to}: the snapshot is at {index}");
        assert!(meta.size_bytes > 0, "a snapshot file is not empty");
        let term = self.log.term_at(index);
        assert!(
            term.is_none_or(|term| term == meta.position.term),
            "a snapshot of term {} at {index}, where the log has {term:?}",
            meta.position.term
        );
        if self.snapshot.as_ref().is_none_or(|old| old.position.index <= index) {
            self.snapshot = Some(meta);
        }
        let trim_to = trim_to.min(self.persistence.unstable_from().prev());
        self.log.trim(trim_to);
        self.configurations.trim(self.log.start().index);
        crate::invariants::check(self);
    }

    /// Frees a little of the memory of entries that were trimmed: that of a hundred thousand takes
    /// longer than a turn may. Returns whether there is more.
    pub fn free_trimmed(&mut self) -> bool {
        self.log.free_trimmed()
    }

    // ------------------------------------------------------------------------- sending

    /// Turns to a snapshot for every peer whose next entry is trimmed, if it is there to take it.
    pub(crate) fn start_snapshots(&mut self, now: Time) {
        let Some(meta) = &self.snapshot else { return };
        let RoleState::Leader(leader) = &mut self.role else { return };
        for peer in leader.peers.values_mut() {
            let trimmed = self.log.term_at(peer.next.prev()).is_none()
                && !(planted!(SnapshotNeedOffByOne) && peer.next == self.log.start().index);
            let is_there = now < peer.heard_at + self.config.election_timeout_min;
            if trimmed && is_there && !matches!(peer.state, State::Snapshot(_)) {
                peer.become_snapshot(meta.clone(), leader.sequence, now);
            }
        }
        self.flush_snapshots(now);
    }

    /// Asks the host for the parts that peers may get now, and peers, where a transfer begins or
    /// has stopped, how far they are: by an empty part.
    pub(crate) fn flush_snapshots(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let chunk = self.config.snapshot_chunk_bytes_max as u64;
        let window = chunk.max(self.config.snapshot_inflight_bytes_max as u64);
        let mut questions = Vec::new();
        for (&to, peer) in &mut leader.peers {
            let State::Snapshot(send) = &peer.state else { continue };
            if send.is_deserted(now)
                && let Some(own) = &self.snapshot
            {
                peer.become_snapshot(own.clone(), leader.sequence, now);
            }
            let State::Snapshot(send) = &mut peer.state else { continue };
            if now >= send.retry_at {
                leader.sequence += 1;
                send.start_again(leader.sequence);
                send.retry_at = now + self.config.snapshot_retry_interval;
                questions.push((to, leader.sequence, send.meta.clone(), send.acked));
                peer.messages_sent += 1;
            }
            while let Some((offset, len)) = send.next_part(chunk, window) {
                let (id, len_max, maker) = (send.meta.id, len as usize, send.maker);
                self.pending.snapshot_reads.push(SnapshotRead { to, id, offset, len_max, maker });
            }
        }
        for (to, sequence, meta, offset) in questions {
            let data = Bytes::new();
            self.send(to, Body::InstallSnapshot { sequence, meta, offset, data });
        }
    }

    /// The bytes that [`crate::Outputs::snapshot_reads`] asked for. Ignored if no longer needed.
    pub fn snapshot_read(
        &mut self,
        now: Time,
        to: NodeId,
        id: SnapshotId,
        offset: u64,
        data: Bytes,
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&to) else { return };
        let State::Snapshot(send) = &peer.state else { return };
        if send.meta.id != id {
            return;
        }
        assert!(
            !data.is_empty() && offset + data.len() as u64 <= send.meta.size_bytes,
            "{} bytes at {offset} of a snapshot of {}",
            data.len(),
            send.meta.size_bytes
        );
        leader.sequence += 1;
        peer.messages_sent += 1;
        peer.heartbeat_due = now + self.config.heartbeat_interval;
        let (sequence, meta) = (leader.sequence, send.meta.clone());
        self.send(to, Body::InstallSnapshot { sequence, meta, offset, data });
        crate::invariants::check(self);
    }

    /// The host no longer has that snapshot, or cannot read it: the peer gets the latest one, or
    /// this one again after a pause.
    pub fn snapshot_unreadable(&mut self, now: Time, to: NodeId, id: SnapshotId) {
        let Some(latest) = &self.snapshot else { return };
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&to) else { return };
        let is_current = matches!(&peer.state, State::Snapshot(send) if send.meta.id == id);
        if is_current && latest.id != id {
            peer.become_snapshot(latest.clone(), leader.sequence, now);
        }
        crate::invariants::check(self);
    }

    /// A peer that is offered snapshot `id` holds part of another one. That is as good, if it is
    /// one of what is committed and this log has all that follows it; and cheaper.
    pub(crate) fn on_snapshot_held(
        &mut self,
        now: Time,
        from: NodeId,
        sequence: u64,
        id: SnapshotId,
        maker: NodeId,
        meta: SnapshotMeta,
    ) -> Result<(), DropReason> {
        let timeout = self.config.election_timeout_min;
        let RoleState::Leader(leader) = &mut self.role else { return Err(DropReason::WrongRole) };
        if sequence > leader.sequence {
            return Err(DropReason::Malformed);
        }
        let is_useful = meta.position.index <= self.commit && self.log.contains(meta.position);
        let is_there = leader.peers.get(&maker).is_some_and(|peer| now < peer.heard_at + timeout);
        let peer = leader.peers.get_mut(&from).ok_or(DropReason::UnknownPeer)?;
        peer.heard_at = now;
        peer.messages_received += 1;
        if !(is_useful && is_there && peer.become_snapshot_of(id, maker, meta, now)) {
            // From its beginning, then.
            peer.snapshot_acked(sequence, id, 0, now + self.config.snapshot_retry_interval);
        }
        Ok(())
    }

    // ----------------------------------------------------------------------- receiving

    /// `InstallSnapshot`, receiver's side (paper, Figure 13). The term is settled.
    pub(crate) fn on_install_snapshot(
        &mut self,
        from: NodeId,
        sequence: u64,
        meta: SnapshotMeta,
        offset: u64,
        data: Bytes,
    ) {
        let index = meta.position.index;
        if index > self.commit && self.log.contains(meta.position) {
            // Figure 13, rule 6: the log has it all. It needs no file to know that this much is
            // committed.
            self.verify(index);
            self.learn_commit(index);
        }
        if index <= self.commit && !planted!(OlderSnapshotInstalled) {
            // Older than what is here, or just found to be: say how far the log is.
            let matched = self.following.verified.min(self.persistence.durable_index());
            let reply =
                Body::InstallSnapshotReply { sequence, id: meta.id, next_offset: 0, matched };
            self.send_after(from, reply, matched);
            return;
        }
        self.following.incoming = Some(Incoming { from, sequence, meta: meta.clone() });
        self.pending.snapshot_chunks.push(SnapshotChunk { from, meta, offset, data });
    }

    /// The host holds the bytes of the leader's snapshot before `next_offset`, durable or not, and
    /// not that one: what it no longer has after a restart is sent again.
    pub fn snapshot_stored(&mut self, id: SnapshotId, next_offset: u64) {
        let Some(incoming) = &self.following.incoming else { return };
        if incoming.meta.id == id {
            let (to, sequence) = (incoming.from, incoming.sequence);
            let matched = LogIndex::ZERO;
            self.send(to, Body::InstallSnapshotReply { sequence, id, next_offset, matched });
        }
        crate::invariants::check(self);
    }

    /// The host was offered the leader's snapshot `id`, and would go on with another one, of which
    /// it holds part: `maker` has it.
    pub fn snapshot_held(&mut self, id: SnapshotId, maker: NodeId, meta: SnapshotMeta) {
        let Some(incoming) = self.following.incoming.as_ref().filter(|it| it.meta.id == id) else {
            return;
        };
        let (to, sequence) = (incoming.from, incoming.sequence);
        self.send(to, Body::SnapshotHeld { sequence, id, maker, meta });
        crate::invariants::check(self);
    }

    /// The file of a snapshot is complete, verified and durable (the course's
    /// `CondInstallSnapshot`). True if it is ahead of the commit index: then log, commit index and
    /// applied index have moved to it, and the host must load its state before it takes another
    /// committed entry.
    pub fn install_snapshot(&mut self, now: Time, meta: SnapshotMeta) -> bool {
        let index = meta.position.index;
        // A leader has what is committed in its log.
        let is_ahead =
            (index > self.commit || planted!(OlderSnapshotInstalled)) && !self.is_leader();
        let id = meta.id;
        if is_ahead {
            self.move_to_snapshot(now, meta);
        }
        if let Some(incoming) = self.following.incoming.take_if(|incoming| incoming.meta.id == id) {
            let matched = self.following.verified;
            let (sequence, next_offset) = (incoming.sequence, incoming.meta.size_bytes);
            let reply = Body::InstallSnapshotReply { sequence, id, next_offset, matched };
            self.send_after(incoming.from, reply, matched);
        }
        crate::invariants::check(self);
        is_ahead
    }

    /// Figure 13, rules 6 to 8: keep what follows the snapshot if the log agrees with it, else
    /// start anew behind it.
    fn move_to_snapshot(&mut self, now: Time, meta: SnapshotMeta) {
        if !matches!(self.role, RoleState::Follower) {
            // It asked for votes with another log than it will have.
            self.become_follower(now, self.term, None);
        }
        let position = meta.position;
        let keeps_log = self.log.contains(position);
        let is_stored = self.persistence.unstable_from() > position.index;
        if keeps_log {
            self.log.trim(position.index);
            self.configurations.trim(position.index);
        } else {
            self.log.restart_after(position);
            self.configurations =
                crate::membership::Configurations::new(position.index, meta.configuration.clone());
        }
        if !keeps_log || !is_stored {
            self.persistence.reset(position, self.commit);
        }
        self.following.verified = self.following.verified.max(position.index);
        self.commit_to(position.index);
        self.applied = position.index;
        self.snapshot = Some(meta);
    }
}
