//! The points at which a power loss says something: just before each sync, when all that was
//! written since the last one is still in play. What a crash between two syncs leaves is one of the
//! subsets that a crash at the second one may leave. The end of a step in taking, sending or
//! receiving a snapshot is a point too, where that syncs nothing: the disk is as before, but a
//! cluster that lives through it goes on from there.
//!
//! A world with a [`SyncWatch`] shows it the disk at each such point ([`crate::World::watch`]): of
//! every job of every lane, and of every start. `crashes.rs` is who watches.

use bytes::Bytes;
use sampan_base::NodeId;
use sampan_base::disk::{Disk, DiskError, DiskOp, FileInfo, FileName};
use sampan_replica::{DiskJob, Lane, job};
use sampan_storage::{Identity, Storage};

use crate::checkers::Oracles;
use crate::disk::{FileClass, SimDisk, Survival};
use crate::network::Network;
use crate::node::{Node, lane_number};
use crate::world::REHEARSE_LOG_BYTES;
use crate::{Notice, Violation, World};

/// A node's disk just before one of its syncs.
#[derive(Clone, Copy)]
pub struct SyncPoint<'a> {
    /// The node, as it was before the job, or the start, that the sync is part of.
    pub node: &'a Node,
    /// Its name on disk.
    pub identity: Identity,
    /// Its disk, with what is not synced.
    pub disk: &'a SimDisk,
    /// The file, or the directory, that is synced; unset at a step that syncs nothing.
    pub synced: Option<&'a str>,
    /// What the point is part of; unset if the node is starting: it does not run yet.
    pub job: Option<&'a DiskJob>,
    /// The books: what the node acknowledged, what is committed, what every state was.
    pub oracles: &'a Oracles,
}

/// Looks at the disk of a node at each point.
pub trait SyncWatch {
    /// A sync is about to begin, or a step that syncs nothing has ended. With a disk as the answer
    /// the power goes right now, and that disk is what the node starts from again: nothing more is
    /// shown. A node that is starting goes on all the same.
    fn at_point(&mut self, point: SyncPoint<'_>) -> Result<Option<SimDisk>, Violation>;
}

/// A disk that remembers how it was just before each sync.
pub(crate) struct Recorder {
    disk: SimDisk,
    /// The disks, and what was about to be synced.
    pub(crate) points: Vec<(SimDisk, FileName)>,
}

impl Recorder {
    pub(crate) fn new(disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), points: Vec::new() }
    }
}

impl Disk for Recorder {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if let DiskOp::Sync { file: synced } | DiskOp::SyncDirectory { directory: synced } = op
            && !self.disk.is_durable()
        {
            self.points.push((self.disk.clone(), synced.clone()));
        }
        self.disk.execute(op)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<FileInfo>, DiskError> {
        self.disk.list(directory)
    }

    fn read(&mut self, file: &str, offset: u64, len_bytes: u64) -> Result<Bytes, DiskError> {
        self.disk.read(file, offset, len_bytes)
    }

    fn len_bytes(&mut self, file: &str) -> Result<Option<u64>, DiskError> {
        self.disk.len_bytes(file)
    }
}

/// Asks the watch at each point; the first disk that it wants the node to have.
fn show(
    watch: &mut dyn SyncWatch,
    node: &Node,
    identity: Identity,
    oracles: &Oracles,
    job: Option<&DiskJob>,
    work: impl FnOnce(&mut Recorder),
) -> Result<Option<SimDisk>, Violation> {
    let mut recorder = Recorder::new(node.disk());
    work(&mut recorder);
    for (disk, synced) in &recorder.points {
        let point = SyncPoint { node, identity, disk, synced: Some(synced), job, oracles };
        if let Some(image) = watch.at_point(point)? {
            return Ok(Some(image));
        }
    }
    if recorder.points.is_empty() && job.is_some_and(is_of_a_snapshot) {
        let disk = &recorder.disk;
        return watch.at_point(SyncPoint { node, identity, disk, synced: None, job, oracles });
    }
    Ok(None)
}

/// Is a job a step in the life of a snapshot?
const fn is_of_a_snapshot(job: &DiskJob) -> bool {
    matches!(job.lane(), Lane::Background | Lane::Reading)
}

/// What the watch sees, and what it may do.
impl<N: Network> World<N> {
    pub(crate) fn show_start(&mut self, id: NodeId, identity: Identity) -> Result<(), Violation> {
        let Some(mut watch) = self.watch.take() else { return Ok(()) };
        let node = self.node(id);
        let options = &node.setup.options;
        let shown = show(&mut *watch, node, identity, &self.oracles, None, |disk| {
            _ = Storage::open(disk, identity, &options.storage);
        });
        self.watch = Some(watch);
        shown.map(drop)
    }

    pub(crate) fn show_job(
        &mut self,
        id: NodeId,
        lane: Lane,
    ) -> Result<Option<SimDisk>, Violation> {
        let Some(mut watch) = self.watch.take() else { return Ok(None) };
        let (node, identity) = (self.node(id), Identity { cluster: self.cluster, node: id });
        let running = node.lanes[lane_number(lane)].running.as_ref();
        let work = &running.expect("a job that ends was running").job;
        let shown = show(&mut *watch, node, identity, &self.oracles, Some(work), |disk| {
            _ = job::run(disk, work.clone());
        })?;
        self.watch = shown.is_none().then_some(watch);
        Ok(shown)
    }

    /// Rehearses a power loss between the steps of a group commit that writes both the log and the
    /// hard state, when nothing unsynced survives: no entry may be durable before its term is.
    pub(crate) fn rehearse_steps(&mut self, id: NodeId, lane: Lane) -> Result<(), Violation> {
        let node = self.nodes[id.get() as usize].as_deref().expect("its job ends");
        let running = node.lanes[lane_number(lane)].running.as_ref();
        let Some(DiskJob::Append(ops)) = running.map(|running| &running.job) else {
            return Ok(());
        };
        let writes = |class: FileClass| {
            ops.iter().any(|op| matches!(op, DiskOp::Write { file, .. } if class.holds(file)))
        };
        let both = writes(FileClass::Log) && writes(FileClass::HardState);
        if !both || node.disk().bytes_of(FileClass::Log) > REHEARSE_LOG_BYTES {
            return Ok(());
        }
        let mut recorder = Recorder::new(node.disk());
        _ = recorder.execute_all(ops);
        let identity = Identity { cluster: self.cluster, node: id };
        for (disk, _) in recorder.points.iter().skip(1) {
            self.oracles.rehearse_power_loss(node, disk, identity, Survival::None)?;
        }
        Ok(())
    }

    /// A machine loses power and has this on its disk.
    pub(crate) fn power_goes(&mut self, id: NodeId, image: SimDisk) {
        self.stop(id);
        self.node_mut(id).disk = image;
        let now = self.now();
        self.trace.event(now, [id.get(), 11, 0], || format!("✗ {id} power lost at a sync"));
        self.notices.push_back(Notice::PowerLost(id));
    }
}
