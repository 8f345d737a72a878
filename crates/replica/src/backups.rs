//! Backups: a snapshot that holds every write acknowledged before it was asked for, on any node.
//!
//! A backup begins as a linearizable read does (thesis 6.4): with a read index. Any snapshot
//! through that index or a later one will do: the newest one if nothing was written since, one that
//! is being taken anyway, or one taken for this purpose. It is an ordinary snapshot, and lets the
//! log be trimmed as any other. One that somebody found damaged is not handed out before this node
//! has looked (`doubts.rs`). Reading its file is the host's matter, for files are.

use sampan_base::{LogIndex, Time, planted};
use sampan_kv::Reply;
use sampan_raft::{ReadId, ReadOutcome};
use sampan_storage::StoredSnapshot;

use crate::input::ConnectionId;
use crate::output::ClientReply;
use crate::replica::Replica;

/// A snapshot that a client may read now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupReady {
    /// Who asked.
    pub connection: ConnectionId,
    /// With which request.
    pub seq: u64,
    /// What it covers, and its file. The host opens the file before the next turn: a later snapshot
    /// may remove its name.
    pub snapshot: StoredSnapshot,
}

/// Backups that wait at one node, at most: each turn looks at all of them.
pub(crate) const WAITING_MAX: usize = 256;
/// What one more is told, and whoever asks after a damaged one when so many do.
pub(crate) const TOO_MANY_WAIT: Reply =
    Reply::error("ERR too many wait for a backup at this node, send it again later");

/// A backup that waits for its snapshot.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    seq: u64,
    since: Time,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// For a read index; asked for again when there is none by then.
    Asking { id: Option<ReadId>, retry_at: Time },
    /// For a snapshot through this index.
    Covering(LogIndex),
}

/// All backups that wait.
#[derive(Default, Debug)]
pub(crate) struct Backups {
    waiting: Vec<Waiting>,
}

impl Replica {
    /// A client wants a backup.
    pub(crate) fn on_backup(&mut self, connection: ConnectionId, seq: u64) {
        let now = self.now.mono;
        let stage = Stage::Asking { id: None, retry_at: now };
        let waiting = Waiting { connection, seq, since: now, stage };
        if self.backups.waiting.len() < WAITING_MAX {
            self.backups.waiting.push(waiting);
        } else {
            self.answer_backup(&waiting, TOO_MANY_WAIT);
        }
    }

    /// The answer to a question for a read index, if a backup asked it.
    pub(crate) fn on_backup_index(&mut self, outcome: &ReadOutcome) {
        for waiting in &mut self.backups.waiting {
            if let Stage::Asking { id, .. } = &mut waiting.stage
                && *id == Some(outcome.id)
            {
                match outcome.result {
                    Ok(index) => waiting.stage = Stage::Covering(index),
                    // Void: asked again in time, with another id.
                    Err(_) => *id = None,
                }
            }
        }
    }

    /// Hands out snapshots that will do, and wants one where none does.
    pub(crate) fn serve_backups(&mut self) {
        if self.backups.waiting.is_empty() {
            return;
        }
        self.give_up_leaderless_backups();
        let is_doubted =
            |newest: &StoredSnapshot| self.snapshots.doubts.is_under_way(newest.meta.id);
        if let Some(newest) = self.storage.snapshots().first().filter(|newest| !is_doubted(newest))
        {
            let covers = |waiting: &mut Waiting| match waiting.stage {
                Stage::Covering(index) => index <= newest.meta.position.index,
                Stage::Asking { .. } => planted!(BackupOfOld),
            };
            for Waiting { connection, seq, .. } in self.backups.waiting.extract_if(.., covers) {
                let snapshot = newest.clone();
                self.out.backups.push(BackupReady { connection, seq, snapshot });
            }
        }
        self.want_snapshot_for_backups();
    }

    /// One question for all that have none on its way: it begins after each of them did.
    pub(crate) fn ask_for_backup_indices(&mut self) {
        let now = self.now.mono;
        let retry = self.options.raft.election_timeout_min;
        let due = |waiting: &Waiting| match waiting.stage {
            Stage::Asking { retry_at, .. } => retry_at <= now,
            Stage::Covering(_) => false,
        };
        if !self.backups.waiting.iter().any(due) {
            return;
        }
        let id = self.reads.next_id();
        let asked = self.raft.read_index(id).is_ok().then_some(id);
        for waiting in self.backups.waiting.iter_mut().filter(|waiting| due(waiting)) {
            waiting.stage = Stage::Asking { id: asked, retry_at: now + retry };
        }
    }

    /// Whoever the leader's word, or its entries, do not reach is told so, as a read would be. A
    /// snapshot that is being taken is waited for however long it takes.
    fn give_up_leaderless_backups(&mut self) {
        let (since, applied) = (self.now.mono - self.options.client_timeout, self.applied.index);
        let late = |waiting: &mut Waiting| {
            let behind = match waiting.stage {
                Stage::Asking { .. } => true,
                Stage::Covering(index) => index > applied,
            };
            behind && waiting.since <= since
        };
        let late: Vec<Waiting> = self.backups.waiting.extract_if(.., late).collect();
        for waiting in late {
            self.answer_backup(&waiting, self.not_served());
        }
    }

    /// Wants a snapshot as soon as the state is where one will do, unless there is one that is
    /// doubted.
    fn want_snapshot_for_backups(&mut self) {
        let applied = self.applied.index;
        let wants = |waiting: &Waiting| match waiting.stage {
            Stage::Covering(index) => index <= applied && self.is_beyond_snapshots(index),
            Stage::Asking { .. } => false,
        };
        if !self.snapshots.is_taking() && self.backups.waiting.iter().any(wants) {
            self.snapshots.wanted_for_backup = true;
        }
    }

    /// No snapshot came of it, or none will: whoever waits is told why.
    pub(crate) fn fail_backups(&mut self, why: &str) {
        let reply = Reply::Error(format!("ERR no backup: {why}").into());
        for waiting in std::mem::take(&mut self.backups.waiting) {
            self.answer_backup(&waiting, reply.clone());
        }
    }

    /// Nobody waits for these any more.
    pub(crate) fn forget_backups(&mut self, connection: ConnectionId) {
        self.backups.waiting.retain(|waiting| waiting.connection != connection);
    }

    /// When backups want attention next.
    pub(crate) fn backups_deadline(&self) -> Time {
        let client_timeout = self.options.client_timeout;
        let deadline = |waiting: &Waiting| match waiting.stage {
            Stage::Asking { retry_at, .. } => retry_at,
            Stage::Covering(index) if index > self.applied.index => waiting.since + client_timeout,
            Stage::Covering(_) => Time::NEVER,
        };
        self.backups.waiting.iter().map(deadline).min().unwrap_or(Time::NEVER)
    }

    fn answer_backup(&mut self, waiting: &Waiting, reply: Reply) {
        let (connection, seq) = (waiting.connection, waiting.seq);
        self.out.replies.push(ClientReply { connection, seq, reply, decided_at: LogIndex::ZERO });
    }
}
