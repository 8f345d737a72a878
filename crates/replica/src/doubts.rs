//! A snapshot of this node that somebody found damaged when it had come: a peer that was to install
//! it, or a client that read it as a backup. The damage may be here. Or this node could not read a
//! part of it for a peer. Without a look at it such a file is handed out for ever: the peer never
//! catches up, and no backup succeeds.
//!
//! Nobody's word is taken for it. The file is read, once at a time and not again for a while, and
//! only one that is damaged is set aside: who says what is not so costs the node a read, and no
//! snapshot.
//!
//! What it is not: the search for damage of which nobody knows, at rest.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sampan_base::disk::DiskError;
use sampan_base::{LogIndex, SnapshotId, SnapshotMeta, Time};
use sampan_kv::Reply;
use sampan_storage::snapshot::SnapshotError;

use crate::backups::{TOO_MANY_WAIT, WAITING_MAX};
use crate::input::ConnectionId;
use crate::job::{DiskDone, DiskJob};
use crate::output::{ClientReply, Event};
use crate::replica::Replica;
use crate::snapshots::Owner;

/// A file that was read is not read again for so long: the damage is where it arrives.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is known of a snapshot that was doubted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    /// Its file is being read.
    UnderWay,
    /// It was, and is not before this.
    Over { again_at: Time },
}

/// A client that said so, and waits for what the node finds.
#[derive(Debug)]
struct Asking {
    snapshot: SnapshotId,
    connection: ConnectionId,
    seq: u64,
}

/// Everything about snapshots that were doubted.
#[derive(Default, Debug)]
pub(crate) struct Doubts {
    /// No more than there are snapshots.
    known: BTreeMap<SnapshotId, Doubt>,
    asking: Vec<Asking>,
}

impl Doubts {
    /// Is the file of this snapshot being read?
    pub(crate) fn is_under_way(&self, id: SnapshotId) -> bool {
        self.known.get(&id) == Some(&Doubt::UnderWay)
    }
}

impl Replica {
    /// What somebody got of this snapshot is damaged: where it arrived, or here.
    pub(crate) fn doubt_snapshot(&mut self, id: SnapshotId) {
        let Some(file) = self.snapshot_file(id) else { return };
        let known = &mut self.snapshots.doubts.known;
        match known.get(&id) {
            Some(Doubt::UnderWay) => return,
            Some(Doubt::Over { again_at }) if self.now.mono < *again_at => return,
            Some(Doubt::Over { .. }) | None => {}
        }
        let stored = self.storage.snapshots();
        known.retain(|id, _| stored.iter().any(|stored| stored.meta.id == *id));
        known.insert(id, Doubt::UnderWay);
        self.snapshot_job(Owner::Doubting(id), DiskJob::SnapshotVerify(file));
    }

    /// The same from a client, who is told what the node finds.
    pub(crate) fn on_backup_damaged(
        &mut self,
        connection: ConnectionId,
        seq: u64,
        snapshot: SnapshotId,
    ) {
        self.doubt_snapshot(snapshot);
        let asking = Asking { snapshot, connection, seq };
        if self.snapshots.doubts.asking.len() >= WAITING_MAX {
            self.answer_doubt(&asking, TOO_MANY_WAIT);
        } else if self.snapshots.doubts.is_under_way(snapshot) {
            self.snapshots.doubts.asking.push(asking);
        } else {
            let reply = self.is_given_up_reply(snapshot);
            self.answer_doubt(&asking, reply);
        }
    }

    /// The file was read, or is not there to be read. A damaged one, which no start could use
    /// either, is set aside; one that is gone, though nobody here has removed it, is given up.
    pub(crate) fn on_doubted(&mut self, id: SnapshotId, done: &DiskDone) {
        let over = Doubt::Over { again_at: self.now.mono + AGAIN_AFTER };
        self.snapshots.doubts.known.insert(id, over);
        let reply = match done {
            DiskDone::SnapshotVerify(Err(
                error @ (SnapshotError::Damaged { .. }
                | SnapshotError::Disk(DiskError::NotFound(_))),
            )) => {
                self.set_aside(id, error);
                self.is_given_up_reply(id)
            }
            DiskDone::SnapshotVerify(Err(error)) => {
                // Nobody has looked: the next one who doubts it is not to hear that it is sound.
                self.snapshots.doubts.known.remove(&id);
                not_read(error)
            }
            _ => self.is_given_up_reply(id),
        };
        let answered = |asking: &mut Asking| asking.snapshot == id;
        let asking: Vec<Asking> = self.snapshots.doubts.asking.extract_if(.., answered).collect();
        for asking in asking {
            self.answer_doubt(&asking, reply.clone());
        }
    }

    fn set_aside(&mut self, id: SnapshotId, error: &SnapshotError) {
        let ops = self.storage.set_snapshot_aside(id);
        if ops.is_empty() {
            return;
        }
        // One that is gone has no name to be changed.
        let is_gone = matches!(error, SnapshotError::Disk(_));
        let what = if is_gone { "given up" } else { "set aside" };
        self.out.events.push(Event::SnapshotFailed(format!("{error}; it is {what}")));
        if !is_gone {
            self.snapshot_job(Owner::Nobody, DiskJob::SnapshotWrite(ops));
        }
    }

    /// Is the snapshot that peers would get not there any more? Then another one is due, though
    /// nothing new has come, and again until there is one.
    pub(crate) fn newest_is_set_aside(&self) -> bool {
        let stored = self.storage.snapshots();
        let is_gone = |offered: &SnapshotMeta| stored.iter().all(|s| s.meta.id != offered.id);
        self.raft.snapshot().is_some_and(is_gone)
    }

    /// Nobody waits for these any more.
    pub(crate) fn forget_doubts(&mut self, connection: ConnectionId) {
        self.snapshots.doubts.asking.retain(|asking| asking.connection != connection);
    }

    /// Whoever waits for what the node finds is told why it will not say.
    pub(crate) fn fail_doubts(&mut self, why: &str) {
        let reply = not_read(&why);
        for asking in std::mem::take(&mut self.snapshots.doubts.asking) {
            self.answer_doubt(&asking, reply.clone());
        }
    }

    /// 1: the next backup is of another snapshot. 0: this one is thought to be sound.
    fn is_given_up_reply(&self, id: SnapshotId) -> Reply {
        Reply::Int(self.snapshot_file(id).is_none().into())
    }

    fn answer_doubt(&mut self, asking: &Asking, reply: Reply) {
        let (connection, seq) = (asking.connection, asking.seq);
        self.out.replies.push(ClientReply { connection, seq, reply, decided_at: LogIndex::ZERO });
    }
}

fn not_read(why: &impl fmt::Display) -> Reply {
    Reply::Error(format!("ERR the snapshot was not read: {why}").into())
}
