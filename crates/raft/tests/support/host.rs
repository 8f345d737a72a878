//! One node and what surrounds it: disk, clock, state machine, snapshot files.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sampan_base::{Entry, LogIndex, LogPosition, NodeId, SnapshotId, SnapshotMeta, Time};
use sampan_raft::{Config, Outputs, Raft, ReadId};

use super::disk::Disk;

/// A state machine that remembers how it got where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    pub applied: LogPosition,
    pub hash: u64,
}

impl Machine {
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.index.next(), "applied out of order");
        let mut hash = self.hash ^ sampan_base::rng::mix(entry.index.0 << 20 ^ entry.term.0);
        for byte in &entry.data {
            hash = hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
        }
        self.applied = entry.position();
        self.hash = sampan_base::rng::mix(hash);
    }

    /// A snapshot file: 40 bytes, three chunks of a tiny configuration.
    pub fn save(&self) -> Bytes {
        let mut file = BytesMut::new();
        file.put_u64(self.applied.term.0);
        file.put_u64(self.applied.index.0);
        file.put_u64(self.hash);
        file.put_bytes(0, 16);
        file.freeze()
    }

    pub fn load(mut file: &[u8]) -> Self {
        assert_eq!(file.len(), 40, "not a snapshot file");
        let term = sampan_base::Term(file.get_u64());
        let index = LogIndex(file.get_u64());
        Self { applied: LogPosition { term, index }, hash: file.get_u64() }
    }
}

pub struct Host {
    pub config: Config,
    /// `None` while it is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub now: Time,
    pub machine: Machine,
    pub out: Outputs,
    /// Reads under way, with what must be visible to them.
    pub reads: BTreeMap<ReadId, LogIndex>,
    /// Reads answered: id and index.
    pub answered: Vec<(ReadId, Option<LogIndex>)>,
}

impl Host {
    pub fn new(config: Config, disk: Disk) -> Self {
        Self {
            config,
            raft: None,
            disk,
            now: Time(1_000_000),
            machine: Machine::default(),
            out: Outputs::default(),
            reads: BTreeMap::new(),
            answered: Vec::new(),
        }
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }

    pub fn raft(&mut self) -> &mut Raft {
        self.raft.as_mut().expect("the node is up")
    }

    /// Starts from what the disk holds.
    pub fn start(&mut self, seed: u64) {
        let restored = self.disk.restored();
        self.machine =
            self.disk.snapshot().map(|(_, file)| Machine::load(file)).unwrap_or_default();
        self.raft = Some(Raft::new(self.config.clone(), restored, seed, self.now));
    }

    /// Loses what was not synced but for the oldest `survive` batches, and everything in memory.
    pub fn crash(&mut self, survive: usize) {
        for _ in 0..survive {
            self.disk.sync_unnoticed();
        }
        self.disk.pending.clear();
        self.disk.receiving = None;
        self.reads.clear();
        self.raft = None;
    }

    /// Takes a snapshot of the state machine and trims the log through `trim_to`.
    pub fn compact(&mut self, id: u64, trim_to: LogIndex) -> SnapshotMeta {
        let machine = self.machine;
        let raft = self.raft.as_mut().expect("the node is up");
        let file = machine.save();
        let meta = SnapshotMeta {
            position: machine.applied,
            configuration: raft.configuration_at(machine.applied.index).clone(),
            id: SnapshotId(id),
            size_bytes: file.len() as u64,
        };
        self.disk.put_snapshot(meta.clone(), file);
        raft.compact(meta.clone(), trim_to.min(machine.applied.index));
        let trimmed = raft.first_index().prev();
        self.disk.trim(trimmed);
        meta
    }
}
