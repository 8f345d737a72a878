//! Backups of the running cluster, and what they must hold: a sound snapshot of the state at its
//! index, with every write in it that was acknowledged before the backup was asked for
//! (`docs/operations.md`). A node that has given up a snapshot, because its backup was damaged,
//! never hands that out again.
//!
//! A copy of the disk is read, at the moment in which the host would open the file: what the backup
//! meets there is no business of the node's.

use std::collections::{BTreeMap, BTreeSet};

use sampan_base::{LogIndex, NodeId, SnapshotId};
use sampan_kv::{Digest, Limits, Reply, Restore};
use sampan_replica::{BackupReady, ClientReply, ConnectionId, Input};
use sampan_storage::snapshot::SnapshotReader;

use crate::checkers::Violation;
use crate::disk::SimDisk;
use crate::faults::Fault;
use crate::run::Simulation;

/// The operator's connections begin here; those of clients are below.
const CONNECTION: u64 = 1 << 63;

/// Backups that were asked for.
#[derive(Default, Debug)]
pub(crate) struct Backups {
    /// Of whom each was asked, by its number, and the index it must reach.
    asked: BTreeMap<u64, LogIndex>,
    /// Which snapshot of which node, in which life, was called damaged, by the number of that word.
    doubted: BTreeMap<u64, (NodeId, u64, SnapshotId)>,
    /// Those that the node has given up.
    given_up: BTreeSet<(NodeId, u64, SnapshotId)>,
    last: u64,
    /// The highest index of which a client has an answer.
    answered: LogIndex,
}

impl Backups {
    /// A client has got an answer that was decided at this index.
    pub(crate) fn answered(&mut self, index: LogIndex) {
        self.answered = self.answered.max(index);
    }

    /// Is this one of the operator's connections?
    pub(crate) const fn is_operators(connection: ConnectionId) -> bool {
        connection.0 >= CONNECTION
    }

    /// Nothing came of a backup, or a node says what it finds of one that is damaged.
    pub(crate) fn replied(&mut self, reply: &ClientReply) {
        self.asked.remove(&(reply.connection.0 - CONNECTION));
        let doubted = self.doubted.remove(&reply.seq);
        self.given_up.extend(doubted.filter(|_| reply.reply == Reply::Int(1)));
    }
}

/// Reads a snapshot to its end: the digest of the state in it.
pub(crate) fn read(disk: &SimDisk, limits: Limits, ready: &BackupReady) -> Result<Digest, String> {
    let mut disk = disk.clone();
    disk.disarm_all();
    let file = &ready.snapshot.file;
    let reader = SnapshotReader::open(&mut disk, file).map_err(|error| error.to_string())?;
    let mut restore = Restore::new(limits, ready.snapshot.meta.size_bytes);
    for number in 0..reader.chunk_count() {
        let chunk = reader.chunk(&mut disk, number).map_err(|error| error.to_string())?;
        restore.feed(&chunk).map_err(|error| error.to_string())?;
    }
    restore.finish().map(|kv| kv.digest()).map_err(|error| error.to_string())
}

impl Simulation {
    /// The operator asks some node for a backup.
    pub(crate) fn ask_for_backup(&mut self) -> Result<bool, Violation> {
        let Some(id) = self.pick_up() else { return Ok(false) };
        self.backups.last += 1;
        let (seq, must_reach) = (self.backups.last, self.backups.answered);
        self.backups.asked.insert(seq, must_reach);
        self.world.input(id, Input::Backup { connection: ConnectionId(CONNECTION + seq), seq })?;
        Ok(true)
    }

    /// A node has a snapshot for a backup, and it was read.
    pub(crate) fn backup_is_ready(
        &mut self,
        id: NodeId,
        ready: &BackupReady,
        read: Result<Digest, String>,
    ) -> Result<(), Violation> {
        let index = ready.snapshot.meta.position.index;
        let wrong = |why: String| Err(Violation::new("backup", format!("{id} at {index}: {why}")));
        let Some(must_reach) = self.backups.asked.remove(&ready.seq) else {
            return wrong(format!("nobody asked for #{}", ready.seq));
        };
        let snapshot = (id, self.world.node(id).lives(), ready.snapshot.meta.id);
        if self.backups.given_up.contains(&snapshot) {
            return wrong("it was given up as damaged".to_owned());
        }
        let digest = match read {
            Ok(digest) => digest,
            // It says so, and the operator tells the node.
            Err(_) if self.world.node(id).disk().damaged => {
                self.backups.last += 1;
                let seq = self.backups.last;
                self.backups.doubted.insert(seq, snapshot);
                let (connection, snapshot) = (ConnectionId(CONNECTION + seq), snapshot.2);
                return self.world.input(id, Input::BackupDamaged { connection, seq, snapshot });
            }
            Err(why) => return wrong(why),
        };
        if index < must_reach {
            return wrong(format!("an answer was given at {must_reach} before it was asked for"));
        }
        match self.world.oracles.state_machine().at(index) {
            Some(state) if state != digest => wrong(format!("it is {digest}, the state {state}")),
            _ => {
                self.counts.add(Fault::Backup, 1);
                Ok(())
            }
        }
    }
}
