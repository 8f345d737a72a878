//! Backups that clients are reading: an open file each, read a piece at a time.
//!
//! What it is: the side of `BACKUP` that has to do with files. An open file keeps its bytes on the
//! disk though a later snapshot removes its name (`release.rs`); so it is held for as long as
//! pieces are asked for, and a while longer. Pieces are read one after another, on a thread that
//! may wait for the disk: at most one is in memory besides what connections have not sent, and a
//! connection whose piece is being read is not read from. What it is not: the choice of the
//! snapshot, which is the replica's; and a check of its bytes, which carry their own checksums to
//! whoever keeps them, and says so if they do not hold.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use sampan_base::{LogIndex, SnapshotId, SnapshotMeta, Time};
use sampan_kv::Reply;
use sampan_replica::{BackupReady, ClientReply, ConnectionId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::Node;
use crate::release;

/// How the answer to a piece that cannot be read begins: for the client it is as good as damaged
/// (`docs/protocol.md`).
pub const UNREADABLE: &str = "ERR reading the backup: ";

/// One backup.
struct Open {
    file: Arc<File>,
    snapshot: SnapshotId,
    index: LogIndex,
    used_at: Time,
}

impl Open {
    /// Nobody asks for more of it: its room is given back if its name is gone. A piece that is
    /// still to be read keeps it until then. Its index.
    fn finish(self) -> LogIndex {
        let_go(self.file);
        self.index
    }
}

/// Gives back the room of a file that nobody else holds and whose name is gone: on a thread that
/// nobody waits for, also not the end of the process. Without one the kernel gives all of it back
/// at once.
fn let_go(file: Arc<File>) {
    if let Ok(file) = Arc::try_unwrap(file) {
        let give_back = move || release::give_back(&file);
        _ = thread::Builder::new().name("give-back".into()).spawn(give_back);
    }
}

/// A piece that a request asks for.
pub(crate) struct Piece {
    pub(crate) connection: ConnectionId,
    pub(crate) seq: u64,
    file: Arc<File>,
    offset: u64,
}

/// All backups that are being read. Not more than `backups_max`.
pub(crate) struct Backups {
    open: RefCell<BTreeMap<u64, Open>>,
    next_id: Cell<u64>,
    /// What waits to be read: no more than there are connections.
    pieces: RefCell<VecDeque<Piece>>,
    has_pieces: Notify,
}

impl Backups {
    /// None. Ids count up from `first_id`, which should differ from run to run, so that no id of an
    /// earlier run is taken for one of this.
    pub(crate) fn new(first_id: u64) -> Self {
        Self {
            open: RefCell::default(),
            next_id: Cell::new(first_id),
            pieces: RefCell::default(),
            has_pieces: Notify::new(),
        }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Opens a file; the backup's id.
    fn open(&self, path: &Path, of: &SnapshotMeta, now: Time) -> io::Result<u64> {
        let file = Arc::new(release::open_to_read(path)?);
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        let (snapshot, index) = (of.id, of.position.index);
        self.open.borrow_mut().insert(id, Open { file, snapshot, index, used_at: now });
        Ok(id)
    }

    /// Queues the reading of a piece; false if there is no such backup.
    pub(crate) fn read(
        &self,
        (connection, seq): (ConnectionId, u64),
        id: u64,
        offset: u64,
        now: Time,
    ) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(backup) = open.get_mut(&id) else { return false };
        backup.used_at = now;
        let file = backup.file.clone();
        self.pieces.borrow_mut().push_back(Piece { connection, seq, file, offset });
        self.has_pieces.notify_one();
        true
    }

    /// Until a piece waits.
    async fn wait_for_piece(&self) {
        while self.pieces.borrow().is_empty() {
            self.has_pieces.notified().await;
        }
    }

    /// The piece that waits longest.
    fn next_piece(&self) -> Option<Piece> {
        self.pieces.borrow_mut().pop_front()
    }

    /// A connection is gone: its piece is not read for nobody, nor its file held for it.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut pieces = self.pieces.borrow_mut();
        while let Some(place) = pieces.iter().position(|piece| piece.connection == connection) {
            pieces.remove(place).into_iter().for_each(|piece| let_go(piece.file));
        }
    }

    /// Is there such a backup?
    pub(crate) fn has(&self, id: u64) -> bool {
        self.open.borrow().contains_key(&id)
    }

    /// The snapshot that a backup is of.
    pub(crate) fn snapshot_of(&self, id: u64) -> Option<SnapshotId> {
        self.open.borrow().get(&id).map(|backup| backup.snapshot)
    }

    /// Ends a backup; false if there is none.
    pub(crate) fn end(&self, id: u64) -> bool {
        self.open.borrow_mut().remove(&id).map(Open::finish).is_some()
    }

    /// Ends those that nobody has read for this long; the index of each.
    pub(crate) fn expire(&self, now: Time, idle_time: Duration) -> Vec<LogIndex> {
        let mut open = self.open.borrow_mut();
        let idle = open.extract_if(.., |_, backup| now.since(backup.used_at) >= idle_time);
        idle.map(|(_, backup)| backup.finish()).collect()
    }
}

/// Opens the file of a backup that is ready, and says so to the client who asked.
pub(crate) fn begin(node: &Node, ready: BackupReady, now: Time) {
    let BackupReady { connection, seq, snapshot } = ready;
    let position = snapshot.meta.position;
    let path = node.config.data_dir.join(&*snapshot.file);
    let reply = if node.backups.len() >= node.config.limits.backups_max {
        too_many(node)
    } else {
        match node.backups.open(&path, &snapshot.meta, now) {
            Ok(id) => {
                let (index, bytes) = (position.index, snapshot.meta.size_bytes);
                node.log
                    .line(format_args!("backup {id:016x} begun: through {index}, {bytes} bytes"));
                Reply::Array(vec![
                    Reply::bulk(format!("{id:016x}").as_bytes()),
                    Reply::Int(index.0 as i64),
                    Reply::Int(position.term.0 as i64),
                    Reply::Int(bytes as i64),
                ])
            }
            Err(error) => Reply::Error(format!("ERR no backup: {}: {error}", snapshot.file).into()),
        }
    };
    node.clients.deliver(ClientReply { connection, seq, reply, decided_at: position.index });
}

/// The answer to one backup too many.
pub(crate) fn too_many(node: &Node) -> Reply {
    let most = node.config.limits.backups_max;
    Reply::Error(format!("ERR {most} backups are being read already, the most there may be").into())
}

/// Until a piece of so many bytes has its turn in the background.
async fn wait_for_turn(node: &Node, bytes: usize) {
    let since = node.clock.mono();
    loop {
        let at = node.replica.borrow().background_turn_at(since, bytes as u64);
        match node.clock.instant_of(at) {
            Some(instant) if at > node.clock.mono() => {
                tokio::time::sleep_until(instant.into()).await;
            }
            _ => return,
        }
    }
}

/// Reads pieces and answers with them, no faster than may be, for ever.
pub(crate) async fn serve(node: Rc<Node>) {
    let limits = &node.config.limits;
    let bytes_max = limits.backup_read_bytes.min(limits.output_bytes_max / 2);
    let mut free_at = Instant::now();
    loop {
        // Timers are no finer than this; what is not waited for now is later.
        if free_at > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(free_at).await;
        }
        node.backups.wait_for_piece().await;
        wait_for_turn(&node, bytes_max).await;
        // Its client may have gone.
        let Some(piece) = node.backups.next_piece() else { continue };
        let Piece { connection, seq, file, offset } = piece;
        let of = file.clone();
        let read = tokio::task::spawn_blocking(move || read_at(&of, offset, bytes_max)).await;
        let_go(file);
        let reply = match read.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(bytes) => {
                node.replica.borrow_mut().background_went(bytes.len() as u64);
                let time = bytes.len() as f64 / limits.backup_bytes_per_second as f64;
                free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(time);
                Reply::Bulk(bytes)
            }
            Err(error) => Reply::Error(format!("{UNREADABLE}{error}").into()),
        };
        node.clients.piece_is_read(connection);
        let decided_at = LogIndex::ZERO;
        node.clients.deliver(ClientReply { connection, seq, reply, decided_at });
        node.clients.flush(&node, node.coarse_time.get());
    }
}

/// Up to so many bytes at an offset; fewer only where the file ends.
fn read_at(file: &File, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
    let there = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; there.min(bytes_max as u64) as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}
