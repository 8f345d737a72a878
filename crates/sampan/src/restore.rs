//! `sampan restore`: the data directories of a new cluster from a backup.
//!
//! What it is: what each node of a cluster does that installs a snapshot from its leader, done for
//! all of them at once: a node is created, the snapshot written, read back and committed, and the
//! log begun anew after it. The snapshot is written anew as well, for it names its cluster and
//! members. The whole is built beside the directory asked for and gets its name at the end; or
//! within that directory, if it is there already. What it is not: a way to bring back one node of a
//! cluster that lives; it would have forgotten what it promised. That is why the cluster gets a
//! name of its own, and why no node of the old one talks to it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use sampan_base::disk::{Disk as _, DiskOp};
use sampan_base::rng::mix;
use sampan_base::{
    ClusterId, Configuration, HardState, LogPosition, NodeId, SnapshotId, SnapshotMeta,
};
use sampan_server::disk::RealDisk;
use sampan_server::{DIRECTORY_MODE, make_directory};
use sampan_storage::snapshot::{self, SnapshotHeader, SnapshotPart, SnapshotWriter};
use sampan_storage::{Identity, Options, Storage};

use crate::backup::{Check, Checked, Place, check_kind};
use crate::cluster::layout::{self, Layout, node_dir};
use crate::exit::{self, Ended, Failure};
use crate::interrupt::Interrupt;
use crate::settings::cluster_id;
use crate::terminal::print_done;

/// How the name of a directory in the making ends.
const ENDING: &str = ".restoring";
/// A directory that has only these in it counts as empty: what is being made, and what a new file
/// system has at its top.
const OF_NOBODY: [&str; 2] = [ENDING, "lost+found"];

/// Builds the data directories of a new cluster from a backup
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup: FILE, or s3://BUCKET/KEY with credentials and endpoint in AWS_* variables
    #[arg(value_name = "FILE|URL")]
    from: Place,
    /// Where the cluster is to be; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How many nodes it has, 1 to 64
    #[arg(long, value_name = "N", default_value_t = layout::NODES)]
    nodes: u64,
    /// The client port of the first node, if `sampan cluster` is to run it; the others follow
    #[arg(long, default_value_t = layout::PORT)]
    port: u16,
    /// Its name, 1 to 16 hexadecimal digits, and never that of another cluster [default: a new one]
    #[arg(long, value_name = "HEX", value_parser = cluster_id)]
    cluster_id: Option<ClusterId>,
}

/// Builds them.
pub(crate) fn run(args: &RestoreArgs) -> Ended {
    let cluster = args.cluster_id.unwrap_or_else(layout::new_cluster_id);
    let layout = Layout::of(cluster, args.nodes, args.port);
    layout.check()?;
    let started = Instant::now();
    exit::block_on(async {
        let mut interrupt = Interrupt::listen()?;
        let staging = Staging::create(&args.dir)?;
        let ids: Vec<NodeId> = layout.ids().map(NodeId::of).collect();
        let checked = tokio::select! {
            built = build(&args.from, &staging.path, cluster, &ids) => built?,
            interrupted = interrupt.received() => return Err(interrupted),
        };
        staging.finish(&layout)?;
        let summary = summary(args, &layout, &checked, started);
        print_done(&summary, format_args!("the cluster is there: {}", args.dir.display()))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn summary(args: &RestoreArgs, layout: &Layout, checked: &Checked, started: Instant) -> String {
    let (dir, bytes) = (args.dir.display(), checked.end.header.meta.size_bytes);
    let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    format!(
        "{checked}\n\
         {bytes} bytes from {} to {} nodes ({rate:.0} MB/s)\n\n\
         New cluster {} in {dir}. Run it here:\n  sampan cluster --dir {dir}\n\
         or move {dir}/nodeN/data to the machine of node N, and start each with\n  \
         sampan server --node-id N --cluster-id {} --data-dir DATA --peer ID=HOST:PORT ...",
        args.from, layout.nodes, layout.cluster_id, layout.cluster_id
    )
}

/// Copies a backup into the nodes' directories, checking all of it.
async fn build(
    from: &Place,
    dir: &Path,
    cluster: ClusterId,
    ids: &[NodeId],
) -> Result<Checked, Failure> {
    let mut reader = from.read().await?;
    let mut piece = reader.next().await?;
    check_kind(from, piece.as_deref().unwrap_or_default())?;
    let mut nodes = Nodes::create(dir, cluster, ids)?;
    let mut check = Check::new(&from.to_string());
    let mut writing = None;
    while let Some(bytes) = piece {
        check.feed(&bytes, |part| match part {
            SnapshotPart::Header(header) => {
                writing = Some(nodes.begin_snapshot(header)?);
                Ok(())
            }
            SnapshotPart::Chunk(payload) => {
                let writer: &mut SnapshotWriter = writing.as_mut().expect("the header came first");
                nodes.execute(&writer.chunk(payload))
            }
        })?;
        piece = reader.next().await?;
    }
    let checked = check.finish()?;
    let writer = writing.expect("a backup that is sound has a header");
    let (meta, file, ops) = writer.finish(&checked.digest().to_bytes());
    nodes.execute(&ops)?;
    nodes.each(|node| node.install(&meta, &file))?;
    Ok(checked)
}

/// One node's files.
struct Node {
    dir: PathBuf,
    disk: RealDisk,
    storage: Storage,
}

/// All nodes' files: the same bytes at the same names, but for their identities and logs.
struct Nodes {
    cluster: ClusterId,
    members: Configuration,
    all: Vec<Node>,
}

impl Nodes {
    /// Creates the directories of nodes that know nothing yet.
    fn create(dir: &Path, cluster: ClusterId, ids: &[NodeId]) -> Result<Self, Failure> {
        let members: BTreeSet<NodeId> = ids.iter().copied().collect();
        let create = |&id: &NodeId| Node::create(dir, Identity { cluster, node: id }, &members);
        let all = ids.iter().map(create).collect::<Result<_, _>>()?;
        Ok(Self { cluster, members: Configuration::of_voters(ids.iter().copied()), all })
    }

    fn each(
        &mut self,
        mut act: impl FnMut(&mut Node) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.all.iter_mut().try_for_each(&mut act)
    }

    /// Does the same at all nodes.
    fn execute(&mut self, ops: &[DiskOp]) -> Result<(), Failure> {
        self.each(|node| node.execute(ops))
    }

    /// Begins the one snapshot that all nodes have. It is of this cluster and its members, stands
    /// where the backup's did, and has an id that follows from both.
    fn begin_snapshot(&mut self, header: &SnapshotHeader) -> Result<SnapshotWriter, Failure> {
        if header.maker.cluster == self.cluster {
            return Err(Failure::usage(format!(
                "the backup is of cluster {}: want another --cluster-id, or nodes of both would take \
                 each other for their own",
                self.cluster
            )));
        }
        let maker = Identity { cluster: self.cluster, node: NodeId::of(1) };
        let id = SnapshotId(mix(header.meta.id.0 ^ mix(self.cluster.0)));
        let (writer, ops) =
            SnapshotWriter::begin(maker, id, header.meta.position, &self.members, None);
        self.execute(&ops)?;
        Ok(writer)
    }
}

impl Node {
    fn create(dir: &Path, identity: Identity, members: &BTreeSet<NodeId>) -> Result<Self, Failure> {
        let dir = node_dir(dir, identity.node.get()).join("data");
        make_directory(&dir).map_err(|error| failed(&dir, error))?;
        let mut disk = RealDisk::new(&dir);
        let options = Options::default();
        // The settings that go with it are those of the first start.
        Storage::agree(&mut disk, identity, members, &[])
            .and_then(|()| Storage::create_formed(&mut disk, identity, &options))
            .map_err(|error| failed(&dir, error))?;
        let opened = Storage::open(&mut disk, identity, &options);
        let (storage, _) = opened.map_err(|error| failed(&dir, error))?;
        Ok(Self { dir, disk, storage })
    }

    fn execute(&mut self, ops: &[DiskOp]) -> Result<(), Failure> {
        self.disk.execute_all(ops).map_err(|error| failed(&self.dir, error))
    }

    /// What a node does with a snapshot from its leader when all of it is there.
    fn install(&mut self, meta: &SnapshotMeta, file: &std::sync::Arc<str>) -> Result<(), Failure> {
        let verified = snapshot::verify(&mut self.disk, file);
        let verified = verified.map_err(|error| failed(&self.dir, error))?;
        assert!(verified == *meta, "{verified:?} was read back, {meta:?} written");
        let ops = self.storage.snapshot_commit(file, meta, &[]);
        self.execute(&ops)?;
        self.storage.snapshot_committed();
        let LogPosition { term, .. } = meta.position;
        let hard_state = HardState { term, vote: None };
        let ops = self.storage.append(Some(hard_state), Some(meta.position), &[]);
        self.execute(&ops)?;
        self.storage.append_synced();
        Ok(())
    }
}

/// A directory in the making; removed if it is dropped unfinished. It is beside the one asked for,
/// or within it if that is there: nothing can take the name of a mount point, a link or `.`.
struct Staging {
    path: PathBuf,
    dir: PathBuf,
    is_within: bool,
    finished: bool,
}

impl Staging {
    fn create(dir: &Path) -> Result<Self, Failure> {
        let is_within = check_empty(dir)?;
        let path = if is_within { dir.join(ENDING) } else { beside(dir) };
        make_directory(parent(dir)).map_err(|error| failed(dir, error))?;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Ok(()) => Ok(Self { path, dir: dir.to_owned(), is_within, finished: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::usage(format!(
                "{} exists: another restore is at it, or was cut short; then remove it",
                path.display()
            ))),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Gives all of it its name, durably.
    fn finish(mut self, layout: &Layout) -> Result<(), Failure> {
        let changed = if self.is_within {
            self.move_up(layout)?;
            self.dir.as_path()
        } else {
            layout.write_in(&self.path)?;
            sync_directories(&self.path)?;
            check_empty(&self.dir)?;
            rename(&self.path, &self.dir)?;
            parent(&self.dir)
        };
        self.finished = true;
        sync_directory(changed)
    }

    /// Moves the nodes to where they belong, the first one first; the layout comes last. Nodes
    /// without one are no cluster that anybody would start.
    fn move_up(&self, layout: &Layout) -> Result<(), Failure> {
        sync_directories(&self.path)?;
        check_empty(&self.dir)?;
        for id in layout.ids() {
            rename(&node_dir(&self.path, id), &node_dir(&self.dir, id))?;
        }
        sync_directory(&self.dir)?;
        layout.write_in(&self.dir)?;
        fs::remove_dir(&self.path).map_err(|error| failed(&self.path, error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // It has no name that anybody would take for a cluster's.
            _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.components().collect::<PathBuf>().into_os_string();
    name.push(ENDING);
    name.into()
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| failed(to, error))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Is there a directory? One with something in it that a restore would mix with is refused.
fn check_empty(dir: &Path) -> Result<bool, Failure> {
    let taken = |what| Failure::usage(format!("{} {what}: want a new directory", dir.display()));
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound && dir.is_symlink() => {
            return Err(taken("is a link to nothing"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(taken("is a file")),
        Err(error) => return Err(failed(dir, error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| failed(dir, error))?.file_name();
        if !OF_NOBODY.contains(&&*name.to_string_lossy()) {
            return Err(taken("is not empty"));
        }
    }
    Ok(true)
}

/// Makes the names in it, and in all below it, durable.
fn sync_directories(dir: &Path) -> Result<(), Failure> {
    let entries = fs::read_dir(dir).map_err(|error| failed(dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        if path.is_dir() {
            sync_directories(&path)?;
        }
    }
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<(), Failure> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| failed(dir, error))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(exit::DISK_FAILED, format!("{}: {error}", path.display()))
}
