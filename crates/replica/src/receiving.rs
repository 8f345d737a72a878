//! A snapshot from the leader: arriving, checked, loaded, in force (paper, Figure 13; the course's
//! `InstallSnapshot` and `CondInstallSnapshot`).
//!
//! The file arrives in pieces by offset and may resume after a lost connection or a restart. It is
//! checked chunk by chunk, and loaded beside the running state, while more arrives (`loading.rs`).
//! After the last byte: sync, compare the footer with what was loaded, rename. Only then does
//! consensus move, and only if the snapshot is still ahead of what is committed here; the new state
//! replaces the old in the same step. What was loaded as it arrived is read back after that
//! (`reading_back.rs`). Nothing here blocks the replica's other inputs.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sampan_base::codec::DecodeError;
use sampan_base::disk::{DiskOp, FileName};
use sampan_base::{LogIndex, NodeId, SnapshotId, SnapshotMeta, Time};
use sampan_kv::Kv;
use sampan_raft::SnapshotChunk;
use sampan_storage::StoredSnapshot;
use sampan_storage::snapshot::{ChunkPlace, ChunkScan, SnapshotReader, SnapshotReceiver};

use crate::job::{DiskDone, DiskJob};
use crate::loading::Loading;
use crate::output::{Event, Stream};
use crate::replica::Replica;
use crate::snapshots::Owner;
use crate::status::Arrival;
use crate::wire::{PeerMessage, SnapshotDamaged};

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
    /// How far the file is there, and synced, after each piece that the disk has not confirmed,
    /// oldest first.
    writing: VecDeque<Extent>,
    /// What the disk has confirmed.
    on_disk: Extent,
    /// Goes before the first piece: makes the file.
    begin: Vec<DiskOp>,
    /// Tells the jobs of this attempt from those of an earlier one at the same snapshot.
    attempt: u64,
    /// How much of it was on the disk when it last met a full one.
    starved_at: Option<u64>,
    /// The leader is to be told what is here when the disk has done all that it has.
    asked: bool,
    step: Step,
    state: State,
}

/// A snapshot that was of no use when it had come: the same again is wanted later only, ever more
/// rarely up to [`REFUSALS_DOUBLED_MAX`], for it may be of no use for good (a later version wrote
/// its state).
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    id: SnapshotId,
    /// How often in a row.
    times: u32,
    until: Time,
}

/// The wait after a refusal doubles so often: from a second to about a minute.
const REFUSALS_DOUBLED_MAX: u32 = 6;

/// How far a file is there, in bytes.
#[derive(Clone, Copy)]
struct Extent {
    stored: u64,
    synced: u64,
}

/// The file's way.
enum Step {
    Writing(SnapshotReceiver),
    Sealing,
    Opening,
    /// It is whole and what was announced. Waits until its state is loaded, and while a snapshot of
    /// the own state gets its name.
    Whole,
    Committing,
}

/// The state in it.
enum State {
    Loading(Box<Loading>),
    /// With the chunks that nobody has read back.
    Loaded(Box<Kv>, Vec<ChunkPlace>),
    /// What was loaded is not what it says it is.
    Failed,
}

impl Receiving {
    /// What the disk has to do about a part: nothing, if it does not continue what is here.
    fn take(
        &mut self,
        offset: u64,
        data: Bytes,
        early_bytes_max: usize,
    ) -> Result<Vec<DiskOp>, DecodeError> {
        if offset > self.accepted {
            let early_bytes: usize = self.early.values().map(Bytes::len).sum();
            if !data.is_empty() && early_bytes + data.len() <= early_bytes_max {
                self.early.insert(offset, data);
            }
            return Ok(Vec::new());
        }
        let mut ops = self.write(offset, &data)?;
        while !ops.is_empty()
            && let Some(next) = self.early.first_entry()
            && *next.key() <= self.accepted
        {
            let (offset, data) = next.remove_entry();
            ops.extend(self.write(offset, &data)?);
        }
        if !ops.is_empty() {
            let Step::Writing(receiver) = &self.step else { unreachable!("parts are still taken") };
            let synced = receiver.synced_offset();
            self.writing.push_back(Extent { stored: self.accepted, synced });
            ops.splice(0..0, std::mem::take(&mut self.begin));
        }
        Ok(ops)
    }

    fn write(&mut self, offset: u64, data: &Bytes) -> Result<Vec<DiskOp>, DecodeError> {
        let Step::Writing(receiver) = &mut self.step else { unreachable!("parts are still taken") };
        // Parts that reach beyond the announced end are those of another file: not taken.
        let Ok(ops) = receiver.write(offset, data.clone()) else { return Ok(Vec::new()) };
        self.accepted = receiver.next_offset();
        if let State::Loading(loading) = &mut self.state {
            loading.pass(offset, data)?;
        }
        Ok(ops)
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            bytes: self.on_disk.stored,
            size_bytes: self.meta.size_bytes,
            // No more has come since.
            waits_for_room: self.starved_at == Some(self.on_disk.stored),
        }
    }

    /// Is the file what was announced, and what was loaded?
    fn is(&self, whole: &SnapshotReader) -> bool {
        let State::Loading(loading) = &self.state else {
            unreachable!("what is whole is then used")
        };
        *whole.meta() == self.meta && loading.is_of(whole)
    }

    /// A chunk was read back.
    fn load(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let State::Loading(loading) = &mut self.state else { unreachable!("it is loading") };
        loading.load(payload)
    }
}

impl Replica {
    /// A piece of a snapshot file.
    pub(crate) fn on_snapshot_chunk(&mut self, chunk: SnapshotChunk) {
        let id = chunk.meta.id;
        if self.snapshots.refused.is_some_and(|no| no.id == id && self.now.mono < no.until) {
            return;
        }
        if let Some((maker, meta)) = self.held_of_another(&chunk) {
            return self.raft.snapshot_held(id, maker, meta);
        }
        match &self.snapshots.receiving {
            Some(receiving) if receiving.meta.id == id => {}
            // What the disk has of the other one would be in the way. The leader offers this one
            // again.
            Some(receiving) if !receiving.writing.is_empty() => return,
            _ => self.begin_receiving(chunk.from, chunk.meta),
        }
        self.on_snapshot_part(id, chunk.offset, chunk.data);
    }

    /// The leader offers a snapshot while part of another one is here, of use and made by another
    /// node, which led before.
    fn held_of_another(&self, chunk: &SnapshotChunk) -> Option<(NodeId, SnapshotMeta)> {
        let held = self.snapshots.receiving.as_ref()?;
        let is_offer = chunk.data.is_empty() && chunk.meta.id != held.meta.id;
        let is_useful = held.on_disk.stored > 0 && held.meta.position.index > self.raft.commit();
        let is_made_elsewhere = held.maker != chunk.from;
        (is_offer && is_useful && is_made_elsewhere).then(|| (held.maker, held.meta.clone()))
    }

    /// A piece of the file that is arriving, from whoever sends it.
    pub(crate) fn on_snapshot_part(&mut self, id: SnapshotId, offset: u64, data: Bytes) {
        let Some(receiving) = &mut self.snapshots.receiving else { return };
        if receiving.meta.id != id {
            return;
        }
        if !matches!(receiving.step, Step::Writing(_)) {
            // All of it is here and on its way; the leader may be told again.
            return self.raft.snapshot_stored(id, receiving.on_disk.stored);
        }
        // As much as the leader may have on its way: while the disk has that, nothing more is
        // taken, and said when it is done. Nor is the answer to a question a promise to take more.
        let bytes_max = self.options.raft.snapshot_inflight_bytes_max;
        let is_full = receiving.accepted - receiving.on_disk.stored >= bytes_max as u64;
        if (is_full || data.is_empty()) && !receiving.writing.is_empty() {
            receiving.asked = true;
            return;
        }
        let ops = match receiving.take(offset, data, bytes_max) {
            // A question, or it came too early or again: what is missing, at once.
            Ok(ops) if ops.is_empty() => {
                return self.raft.snapshot_stored(id, receiving.accepted);
            }
            Ok(ops) => ops,
            Err(error) => {
                let given_up = self.snapshots.receiving.take().expect("just seen");
                return self.give_up_receiving(given_up, error.to_string());
            }
        };
        let owner = Owner::Receiving(receiving.attempt);
        self.snapshot_job(owner, DiskJob::SnapshotWrite(ops));
        self.extend_loan();
    }

    /// A piece met a full disk. What is here stays; the leader sends again what it was not told to
    /// be here, on and on, and the room may come from the reserve: installing lets go of the whole
    /// log.
    pub(crate) fn starve_receiving(&mut self, attempt: u64) {
        let is_current = |receiving: &&mut Receiving| receiving.attempt == attempt;
        let Some(receiving) = self.snapshots.receiving.as_mut().filter(is_current) else { return };
        let Step::Writing(receiver) = &mut receiving.step else { return };
        // Later pieces may be on their way to the disk: none of them counts any more.
        self.snapshots.attempts += 1;
        receiving.attempt = self.snapshots.attempts;
        receiving.accepted = receiving.on_disk.stored;
        receiving.writing.clear();
        receiving.early.clear();
        receiving.begin = receiver.rewind(receiving.on_disk.stored, receiving.on_disk.synced);
        if let State::Loading(loading) = &mut receiving.state {
            loading.ask_again();
        }
        let starved_before = receiving.starved_at.replace(receiving.on_disk.stored);
        if starved_before.is_none() {
            let why = format!("{}: no space, waiting for room", receiving.file);
            self.out.events.push(Event::SnapshotFailed(why));
        }
        self.make_room_for_receiving();
        self.lend_reserve();
    }

    /// The room of a snapshot that is more than are kept is for the next one, wherever that comes
    /// from.
    fn make_room_for_receiving(&mut self) {
        let in_use = self.snapshots_being_sent();
        if let Some(StoredSnapshot { file, .. }) = self.storage.take_surplus_snapshot(&in_use) {
            let remove = vec![DiskOp::Remove { file }];
            self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(remove));
        }
    }

    fn begin_receiving(&mut self, maker: NodeId, meta: SnapshotMeta) {
        if self.is_committing_received() {
            return;
        }
        if let Some(older) = self.snapshots.receiving.take() {
            self.discard_receiving(older);
        }
        let (id, size_bytes) = (meta.id, meta.size_bytes);
        let sync_bytes = self.options.storage.snapshot_sync_bytes;
        let (receiver, begin, scan) = match self.snapshots.partial.take() {
            // One that is as long as all of it is the file of another one: a snapshot ends with a
            // footer, which a part of it has not.
            Some(mut partial) if partial.id == id && partial.next_offset < size_bytes => {
                let scan = std::mem::take(&mut partial.chunks);
                (SnapshotReceiver::resume(partial, &meta, sync_bytes), Vec::new(), scan)
            }
            other => {
                if let Some(other) = other {
                    self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(other.discard()));
                }
                self.make_room_for_receiving();
                let (receiver, ops) = SnapshotReceiver::begin(&meta, sync_bytes);
                (receiver, ops, ChunkScan::default())
            }
        };
        let file = receiver.file().clone();
        let loading = Loading::new(file.clone(), id, size_bytes, scan, self.options.kv);
        let here = receiver.next_offset();
        self.snapshots.attempts += 1;
        self.load_on(Receiving {
            meta,
            maker,
            file,
            accepted: here,
            early: BTreeMap::new(),
            writing: VecDeque::new(),
            on_disk: Extent { stored: here, synced: here },
            begin,
            attempt: self.snapshots.attempts,
            starved_at: None,
            asked: false,
            step: Step::Writing(receiver),
            state: State::Loading(Box::new(loading)),
        });
    }

    /// A chunk was read back.
    pub(crate) fn on_chunk_read(&mut self, attempt: u64, payload: Result<Bytes, String>) {
        let Some(mut receiving) = self.snapshots.receiving.take_if(|r| r.attempt == attempt) else {
            return;
        };
        let loaded =
            payload.and_then(|payload| receiving.load(&payload).map_err(|error| error.to_string()));
        match loaded {
            Ok(()) => self.load_on(receiving),
            Err(why) => self.give_up_receiving(receiving, why),
        }
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
        match done {
            DiskDone::SnapshotWrite(_) => self.on_piece_written(&mut receiving),
            DiskDone::SnapshotOpen(Ok(whole)) => {
                if !receiving.is(&whole) {
                    let why = format!("{} is not the snapshot that was announced", receiving.file);
                    return self.give_up_receiving(receiving, why);
                }
                receiving.step = Step::Whole;
            }
            DiskDone::SnapshotCommit(_) => return self.on_snapshot_received(receiving),
            _ => unreachable!("no job of an arriving snapshot"),
        }
        self.load_on(receiving);
    }

    /// A piece is on the disk, or the end of all is synced.
    fn on_piece_written(&mut self, receiving: &mut Receiving) {
        let (id, size_bytes) = (receiving.meta.id, receiving.meta.size_bytes);
        let owner = Owner::Receiving(receiving.attempt);
        match std::mem::replace(&mut receiving.step, Step::Sealing) {
            Step::Writing(receiver) => {
                let on_disk = receiving.writing.pop_front().expect("a piece was written");
                receiving.on_disk = on_disk;
                if !receiving.asked || receiving.writing.is_empty() {
                    receiving.asked = false;
                    self.raft.snapshot_stored(id, on_disk.stored);
                }
                if on_disk.stored < size_bytes {
                    receiving.step = Step::Writing(receiver);
                } else {
                    self.snapshot_job(owner, DiskJob::SnapshotWrite(receiver.finish().1));
                }
            }
            Step::Sealing => {
                receiving.on_disk.synced = size_bytes;
                receiving.step = Step::Opening;
                self.snapshot_job(owner, DiskJob::SnapshotOpen(receiving.file.clone()));
            }
            _ => unreachable!("nothing is written any more"),
        }
    }

    /// Reads back and loads what can be, and uses the state when all of it is there.
    fn load_on(&mut self, mut receiving: Receiving) {
        let State::Loading(loading) = &mut receiving.state else { unreachable!("it is loading") };
        while let Some(job) = loading.next_read(receiving.on_disk.synced, receiving.attempt) {
            self.out.jobs.push(job);
        }
        if !(matches!(receiving.step, Step::Whole) && loading.is_done()) {
            self.snapshots.receiving = Some(receiving);
            return;
        }
        let state = std::mem::replace(&mut receiving.state, State::Failed);
        let State::Loading(loading) = state else { unreachable!("just seen") };
        match loading.finish() {
            Ok((kv, unread)) => {
                receiving.state = State::Loaded(Box::new(kv), unread);
                self.commit_received(receiving);
            }
            Err(error) => self.give_up_receiving(receiving, error.to_string()),
        }
    }

    /// Gives a loaded snapshot its name, unless it is no longer ahead of what is committed here.
    fn commit_received(&mut self, mut receiving: Receiving) {
        if receiving.meta.position.index <= self.raft.commit() {
            // Consensus tells the leader that it is no longer needed.
            let installed = self.raft.install_snapshot(self.now.mono, receiving.meta.clone());
            assert!(!installed, "it is behind");
            return self.discard_receiving(receiving);
        }
        if !self.snapshots.is_committing_own() {
            let ops = self.storage.snapshot_commit(&receiving.file, &receiving.meta, &[]);
            receiving.step = Step::Committing;
            let owner = Owner::Receiving(receiving.attempt);
            self.snapshot_job(owner, DiskJob::SnapshotCommit(ops));
        }
        self.snapshots.receiving = Some(receiving);
    }

    /// The own snapshot has its name: one that waited for that goes on.
    pub(crate) fn resume_receiving(&mut self) {
        let waits = |receiving: &mut Receiving| {
            matches!((&receiving.step, &receiving.state), (Step::Whole, State::Loaded(..)))
        };
        if let Some(receiving) = self.snapshots.receiving.take_if(waits) {
            self.commit_received(receiving);
        }
    }

    /// How far the snapshot is that arrives.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.snapshots.receiving.as_ref().map(Receiving::arrival)
    }

    /// Which attempt to receive a snapshot is under way.
    pub(crate) fn receiving_attempt(&self) -> Option<u64> {
        self.snapshots.receiving.as_ref().map(|receiving| receiving.attempt)
    }

    /// Is a snapshot of the leader being given its name?
    pub(crate) fn is_committing_received(&self) -> bool {
        matches!(&self.snapshots.receiving, Some(Receiving { step: Step::Committing, .. }))
    }

    /// The file is durable and its state is loaded: consensus and state move to it together, if
    /// that is still a step forward.
    fn on_snapshot_received(&mut self, receiving: Receiving) {
        let State::Loaded(kv, unread) = receiving.state else {
            unreachable!("only a loaded state is used")
        };
        let meta = receiving.meta;
        let (id, position, size_bytes) = (meta.id, meta.position, meta.size_bytes);
        self.storage.snapshot_committed();
        self.begin_reading_back(id, unread);
        if !self.raft.install_snapshot(self.now.mono, meta) {
            return self.kv.discard(*kv);
        }
        assert!(position.index > self.applied.index, "a snapshot never takes the state back");
        self.drop_taking();
        let older = std::mem::replace(&mut self.kv, *kv);
        self.kv.discard(older);
        self.applied = position;
        self.forget_proposals_through(position.index);
        self.storage.trim(position.index);
        self.compaction.begin_anew();
        self.room_was_made();
        self.out.events.push(Event::SnapshotInstalled { index: position.index, size_bytes });
    }

    /// What arrived is of no use: the leader begins again, but not at once, and whoever has the
    /// file looks at it.
    fn give_up_receiving(&mut self, receiving: Receiving, why: String) {
        let id = receiving.meta.id;
        let times = self.snapshots.refused.filter(|no| no.id == id).map_or(0, |no| no.times + 1);
        let wait =
            self.options.raft.snapshot_retry_interval * (1 << times.min(REFUSALS_DOUBLED_MAX));
        self.snapshots.refused = Some(Refused { id, times, until: self.now.mono + wait });
        self.out.events.push(Event::SnapshotFailed(why));
        self.raft.snapshot_stored(id, 0);
        let damaged = PeerMessage::SnapshotDamaged(SnapshotDamaged { id });
        self.tell(receiving.maker, Stream::Main, damaged);
        self.discard_receiving(receiving);
    }

    /// The log has brought what a snapshot that still arrives, or did before the last start, would
    /// bring.
    pub(crate) fn drop_overtaken(&mut self, applied_before: LogIndex) {
        let applied = self.applied.index;
        if let Some(partial) = self.snapshots.partial.take_if(|p| p.position.index <= applied) {
            self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(partial.discard()));
        }
        let passed = applied_before.next()..=applied;
        let overtaken = |receiving: &mut Receiving| {
            matches!(receiving.step, Step::Writing(_))
                && passed.contains(&receiving.meta.position.index)
        };
        if let Some(receiving) = self.snapshots.receiving.take_if(overtaken) {
            self.discard_receiving(receiving);
        }
    }

    fn discard_receiving(&mut self, receiving: Receiving) {
        match receiving.state {
            State::Loading(loading) => self.kv.discard(loading.abandon()),
            State::Loaded(kv, _) => self.kv.discard(*kv),
            State::Failed => {}
        }
        let ops = vec![DiskOp::Remove { file: receiving.file }];
        self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
    }
}
