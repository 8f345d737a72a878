//! A snapshot from the leader: arriving, checked, loaded, in force (paper, Figure 13; the course's
//! `InstallSnapshot` and `CondInstallSnapshot`).
//!
//! The file arrives in pieces by offset and may resume after a lost connection or a restart. After
//! its last byte: sync, read back and verify chunk by chunk, each loaded beside the running state
//! while the next ones are read, rename. Only then does
//! consensus move, and only if the snapshot is still ahead of what is committed here; the new state
//! replaces the old in the same step. Nothing here blocks the replica's other inputs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{NodeId, SnapshotMeta};
use sampan_kv::{Kv, Restore};
use sampan_raft::SnapshotChunk;
use sampan_storage::snapshot::{SnapshotReader, SnapshotReceiver};

use crate::job::{DiskDone, DiskJob};
use crate::output::Event;
use crate::replica::Replica;
use crate::snapshots::Owner;

/// A snapshot that arrives from the leader.
pub(crate) struct Receiving {
    meta: SnapshotMeta,
    /// Who has it: the node that offered it first, as far as is known.
    maker: NodeId,
    file: FileName,
    /// Bytes handed to the disk.
    accepted: u64,
    /// Parts by offset that overtook others, at most as much as a leader may have on its way.
    early: BTreeMap<u64, Bytes>,
    /// Where the file ends after each piece that the disk has not confirmed, oldest first.
    writing: VecDeque<u64>,
    /// Bytes the disk has confirmed.
    stored: u64,
    /// Goes before the first piece: makes the file.
    begin: Vec<DiskOp>,
    /// Tells the jobs of this attempt from those of an earlier one at the same snapshot.
    attempt: u64,
    /// It has met a full disk.
    starved: bool,
    step: Step,
}

enum Step {
    Writing(SnapshotReceiver),
    Sealing,
    Opening,
    Loading(Box<Loading>),
    /// What was loaded is of no use.
    Failed,
    /// Waits while a snapshot of the own state gets its name.
    Loaded(Box<Kv>),
    Committing(Box<Kv>),
}

/// Chunks that are read ahead of the one that is loaded.
const CHUNKS_AHEAD: usize = 4;

/// The chunks of a whole file on their way into a state.
struct Loading {
    reader: Arc<SnapshotReader>,
    restore: Restore,
    /// Chunks whose reading was asked for, and that were loaded.
    asked: usize,
    loaded: usize,
}

impl Loading {
    /// The next chunk to read, if so much may be read ahead.
    fn next_read(&mut self) -> Option<DiskJob> {
        let number = self.asked;
        let wanted = number < self.reader.chunk_count().min(self.loaded + CHUNKS_AHEAD);
        self.asked += usize::from(wanted);
        wanted.then(|| DiskJob::SnapshotLoad { reader: self.reader.clone(), number })
    }

    fn is_done(&self) -> bool {
        self.loaded == self.reader.chunk_count()
    }
}

impl Receiving {
    /// What the disk has to do about a part: nothing, if it does not continue what is here.
    fn take(&mut self, offset: u64, data: Bytes, early_bytes_max: usize) -> Vec<DiskOp> {
        if offset > self.accepted {
            let early_bytes: usize = self.early.values().map(Bytes::len).sum();
            if !data.is_empty() && early_bytes + data.len() <= early_bytes_max {
                self.early.insert(offset, data);
            }
            return Vec::new();
        }
        let mut ops = self.write(offset, data);
        while !ops.is_empty()
            && let Some(next) = self.early.first_entry()
            && *next.key() <= self.accepted
        {
            let (offset, data) = next.remove_entry();
            ops.extend(self.write(offset, data));
        }
        if !ops.is_empty() {
            self.writing.push_back(self.accepted);
            ops.splice(0..0, std::mem::take(&mut self.begin));
        }
        ops
    }

    fn write(&mut self, offset: u64, data: Bytes) -> Vec<DiskOp> {
        let Step::Writing(receiver) = &mut self.step else { unreachable!("parts are still taken") };
        // Parts that reach beyond the announced end are those of another file: not taken.
        let ops = receiver.write(offset, data).unwrap_or_default();
        self.accepted = receiver.next_offset();
        ops
    }
}

impl Replica {
    /// A piece of a snapshot file.
    pub(crate) fn on_snapshot_chunk(&mut self, chunk: SnapshotChunk) {
        let id = chunk.meta.id;
        if let Some((maker, meta)) = self.held_of_another(&chunk) {
            return self.raft.snapshot_held(id, maker, meta);
        }
        if self.snapshots.receiving.as_ref().is_none_or(|receiving| receiving.meta.id != id) {
            self.begin_receiving(chunk.from, chunk.meta);
        }
        self.on_snapshot_part(id, chunk.offset, chunk.data);
    }

    /// The leader offers a snapshot while part of another one is here, of use and made by another node,
    /// which led before.
    fn held_of_another(&self, chunk: &SnapshotChunk) -> Option<(NodeId, SnapshotMeta)> {
        let held = self.snapshots.receiving.as_ref()?;
        let is_offer = chunk.data.is_empty() && chunk.meta.id != held.meta.id;
        let is_useful = held.stored > 0 && held.meta.position.index > self.raft.commit();
        let is_made_elsewhere = held.maker != chunk.from;
        (is_offer && is_useful && is_made_elsewhere).then(|| (held.maker, held.meta.clone()))
    }

    /// A piece of the file that is arriving, from whoever sends it.
    pub(crate) fn on_snapshot_part(&mut self, id: u64, offset: u64, data: Bytes) {
        let Some(receiving) = &mut self.snapshots.receiving else { return };
        if receiving.meta.id != id {
            return;
        }
        if !matches!(receiving.step, Step::Writing(_)) {
            // All of it is here and on its way; the leader may be told again.
            return self.raft.snapshot_stored(self.now.mono, id, receiving.stored);
        }
        let early_bytes_max = self.options.raft.snapshot_inflight_bytes_max;
        let ops = receiving.take(offset, data, early_bytes_max);
        if ops.is_empty() {
            // A question, or it came too early or again: what is missing, at once.
            return self.raft.snapshot_stored(self.now.mono, id, receiving.accepted);
        }
        let owner = Owner::Receiving(receiving.attempt);
        self.snapshot_job(owner, DiskJob::SnapshotWrite(ops));
        self.extend_loan();
    }

    /// A piece met a full disk. What is here stays; the leader sends again what it was not told to be
    /// here, on and on, and the room may come from the reserve: installing lets go of the whole log.
    pub(crate) fn starve_receiving(&mut self, attempt: u64) {
        let is_current = |receiving: &&mut Receiving| receiving.attempt == attempt;
        let Some(receiving) = self.snapshots.receiving.as_mut().filter(is_current) else { return };
        let Step::Writing(receiver) = &mut receiving.step else { return };
        // Later pieces may be on their way to the disk: none of them counts any more.
        self.snapshots.attempts += 1;
        receiving.attempt = self.snapshots.attempts;
        receiving.accepted = receiving.stored;
        receiving.writing.clear();
        receiving.early.clear();
        receiving.begin = receiver.rewind(receiving.stored);
        let is_news = !std::mem::replace(&mut receiving.starved, true);
        if is_news {
            let why = format!("{}: no space, waiting for room", receiving.file);
            self.events.push(Event::SnapshotFailed(why));
        }
        self.lend_reserve();
    }

    fn begin_receiving(&mut self, maker: NodeId, meta: SnapshotMeta) {
        if self.is_committing_received() {
            return;
        }
        if let Some(older) = self.snapshots.receiving.take() {
            self.remove_file(older.file);
        }
        let id = meta.id;
        let (receiver, ops, stored) = match self.snapshots.partial.take() {
            Some(partial) if partial.id == id => {
                let stored = partial.next_offset;
                (SnapshotReceiver::resume(partial, &meta), Vec::new(), stored)
            }
            other => {
                if let Some(other) = other {
                    self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(other.discard()));
                }
                let (receiver, ops) = SnapshotReceiver::begin(&meta);
                (receiver, ops, 0)
            }
        };
        let file = receiver.file().clone();
        self.snapshots.attempts += 1;
        self.snapshots.receiving = Some(Receiving {
            meta,
            maker,
            file,
            accepted: stored,
            early: BTreeMap::new(),
            writing: VecDeque::new(),
            stored,
            begin: ops,
            attempt: self.snapshots.attempts,
            starved: false,
            step: Step::Writing(receiver),
        });
    }

    /// A job of the snapshot that arrives has ended.
    pub(crate) fn on_receiving_job(
        &mut self,
        attempt: u64,
        done: DiskDone,
        failed: Option<String>,
    ) {
        // A job of an attempt that was given up meanwhile is of no interest.
        let receiving = self.snapshots.receiving.take_if(|r| r.attempt == attempt);
        let Some(receiving) = receiving else { return };
        if let Some(why) = failed {
            return self.give_up_receiving(receiving, why);
        }
        self.continue_receiving(receiving, done);
    }

    fn continue_receiving(&mut self, mut receiving: Receiving, done: DiskDone) {
        let id = receiving.meta.id;
        let file = receiving.file.clone();
        let job = match (receiving.step, done) {
            (Step::Writing(receiver), DiskDone::SnapshotWrite(_)) => {
                receiving.stored = receiving.writing.pop_front().unwrap_or(receiving.stored);
                self.raft.snapshot_stored(self.now.mono, id, receiving.stored);
                if receiving.stored < receiving.meta.size_bytes {
                    receiving.step = Step::Writing(receiver);
                    self.snapshots.receiving = Some(receiving);
                    return;
                }
                receiving.step = Step::Sealing;
                DiskJob::SnapshotWrite(receiver.finish().1)
            }
            (Step::Sealing, _) => {
                receiving.step = Step::Opening;
                DiskJob::SnapshotOpen(file)
            }
            (Step::Opening, DiskDone::SnapshotOpen(Ok(reader))) => {
                if *reader.meta() != receiving.meta {
                    let why = format!("{file} is not the snapshot that was announced");
                    receiving.step = Step::Failed;
                    return self.give_up_receiving(receiving, why);
                }
                let restore = Restore::new(self.options.kv, receiving.meta.size_bytes);
                let loading = Loading { reader, restore, asked: 0, loaded: 0 };
                receiving.step = Step::Loading(Box::new(loading));
                return self.continue_loading(receiving);
            }
            (Step::Loading(mut loading), DiskDone::SnapshotLoad(Ok(payload))) => {
                let fed = loading.restore.feed(&payload);
                loading.loaded += 1;
                receiving.step = Step::Loading(loading);
                if let Err(error) = fed {
                    return self.give_up_receiving(receiving, error.to_string());
                }
                return self.continue_loading(receiving);
            }
            (Step::Committing(kv), DiskDone::SnapshotCommit(_)) => {
                return self.on_snapshot_received(receiving.meta, *kv);
            }
            _ => unreachable!("snapshot {id} got the result of another step"),
        };
        let owner = Owner::Receiving(receiving.attempt);
        self.snapshots.receiving = Some(receiving);
        self.snapshot_job(owner, job);
    }

    /// Reads on, or uses what is loaded.
    fn continue_loading(&mut self, mut receiving: Receiving) {
        let Step::Loading(loading) = &mut receiving.step else { unreachable!("it is loading") };
        while let Some(job) = loading.next_read() {
            self.snapshot_job(Owner::Receiving(receiving.attempt), job);
        }
        if !loading.is_done() {
            self.snapshots.receiving = Some(receiving);
            return;
        }
        let step = std::mem::replace(&mut receiving.step, Step::Failed);
        let Step::Loading(loading) = step else { unreachable!("just seen") };
        match loading.restore.finish() {
            Ok(kv) => {
                receiving.step = Step::Loaded(Box::new(kv));
                self.commit_received(receiving);
            }
            Err(error) => self.give_up_receiving(receiving, error.to_string()),
        }
    }

    /// Gives a loaded snapshot its name, unless it is no longer ahead of what is committed here.
    fn commit_received(&mut self, mut receiving: Receiving) {
        let owner = Owner::Receiving(receiving.attempt);
        if receiving.meta.position.index <= self.raft.commit() {
            // Consensus tells the leader that it is no longer needed.
            assert!(!self.raft.install_snapshot(self.now.mono, receiving.meta), "it is behind");
            return self.remove_file(receiving.file);
        }
        if self.snapshots.is_committing_own() {
            self.snapshots.receiving = Some(receiving);
            return;
        }
        let Step::Loaded(kv) = receiving.step else { unreachable!("only a loaded state is used") };
        let ops = self.storage.snapshot_commit(&receiving.file, &receiving.meta, &[]);
        receiving.step = Step::Committing(kv);
        self.snapshots.receiving = Some(receiving);
        self.snapshot_job(owner, DiskJob::SnapshotCommit(ops));
    }

    /// The own snapshot has its name: one that waited for that goes on.
    pub(crate) fn resume_receiving(&mut self) {
        if let Some(receiving) = self.snapshots.receiving.take() {
            if matches!(receiving.step, Step::Loaded(_)) {
                self.commit_received(receiving);
            } else {
                self.snapshots.receiving = Some(receiving);
            }
        }
    }

    /// Is a snapshot of the leader being given its name?
    pub(crate) fn is_committing_received(&self) -> bool {
        matches!(&self.snapshots.receiving, Some(Receiving { step: Step::Committing(_), .. }))
    }

    /// The file is durable and its state is loaded: consensus and state move to it together, if
    /// that is still a step forward.
    fn on_snapshot_received(&mut self, meta: SnapshotMeta, kv: Kv) {
        let (position, size_bytes) = (meta.position, meta.size_bytes);
        self.storage.snapshot_committed();
        if !self.raft.install_snapshot(self.now.mono, meta) {
            return;
        }
        assert!(position.index > self.applied.index, "a snapshot never takes the state back");
        self.give_up_taking("a newer snapshot came from the leader".into());
        let older = std::mem::replace(&mut self.kv, kv);
        self.kv.replace(older);
        self.applied = position;
        self.forget_proposals_through(position.index);
        self.storage.trim(position.index);
        self.room_was_made();
        self.events.push(Event::SnapshotInstalled { index: position.index, size_bytes });
    }

    /// What arrived is of no use: the leader begins again.
    fn give_up_receiving(&mut self, receiving: Receiving, why: String) {
        self.events.push(Event::SnapshotFailed(why));
        self.raft.snapshot_stored(self.now.mono, receiving.meta.id, 0);
        self.remove_file(receiving.file);
    }

    fn remove_file(&mut self, file: FileName) {
        let ops = vec![DiskOp::Remove { file }];
        self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
    }
}
