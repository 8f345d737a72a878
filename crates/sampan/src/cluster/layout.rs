//! What a local cluster's directory remembers: `cluster.toml`, and where each node's things are.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sampan_base::ClusterId;
use sampan_base::configuration::MEMBERS_MAX;
use sampan_server::config::PEER_PORT_OFFSET;
use sampan_server::make_directory;
use serde::Deserialize;

use crate::exit::{self, Failure};

/// The port of the first node unless told otherwise.
pub(crate) const PORT: u16 = 7001;
/// The number of nodes unless told otherwise.
pub(crate) const NODES: u64 = 3;

/// What a cluster's directory remembers.
pub(crate) const LAYOUT_FILE: &str = "cluster.toml";
/// Locked while the cluster runs.
pub(crate) const LOCK_FILE: &str = "cluster.lock";
/// A node's log lines.
pub(crate) const LOG_FILE: &str = "log";
/// Those before them.
pub(crate) const OLD_LOG_FILE: &str = "log.old";

/// A cluster's name and shape. The name and the number of nodes are for life; the port may change
/// from start to start, since no data depend on it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Layout {
    /// 16 hexadecimal digits.
    pub(crate) cluster_id: String,
    /// How many nodes.
    pub(crate) nodes: u64,
    /// The client port of the first node; the others follow it.
    pub(crate) port: u16,
}

impl Layout {
    /// The layout of a directory: what it remembers, with another port if one is asked for; a new
    /// one if it remembers nothing. Written down before anything is started.
    pub(crate) fn settle(
        dir: &Path,
        nodes: Option<u64>,
        port: Option<u16>,
    ) -> Result<Self, Failure> {
        let file = dir.join(LAYOUT_FILE);
        let remembered = Self::remembered(dir)?;
        let layout = match &remembered {
            Some(layout) => {
                if let Some(nodes) = nodes.filter(|&nodes| nodes != layout.nodes) {
                    return Err(Failure::usage(format!(
                        "--nodes is {nodes}, but {} holds a cluster of {}: want --nodes {}, or another --dir",
                        dir.display(),
                        layout.nodes,
                        layout.nodes
                    )));
                }
                Self { port: port.unwrap_or(layout.port), ..layout.clone() }
            }
            None => Self::new(dir, nodes, port)?,
        };
        layout.check()?;
        if remembered.as_ref() != Some(&layout) {
            layout.write(&file)?;
        }
        Ok(layout)
    }

    /// What a directory remembers.
    pub(crate) fn remembered(dir: &Path) -> Result<Option<Self>, Failure> {
        let file = dir.join(LAYOUT_FILE);
        match fs::read_to_string(&file) {
            Ok(text) => Self::read(&file, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk(&file, &error)),
        }
    }

    fn new(dir: &Path, nodes: Option<u64>, port: Option<u16>) -> Result<Self, Failure> {
        if node_dir(dir, 1).exists() {
            return Err(Failure::new(
                exit::DATA_DAMAGED,
                format!(
                    "{} holds nodes but no {LAYOUT_FILE}: want that file back, or another --dir",
                    dir.display()
                ),
            ));
        }
        Ok(Self::of(new_cluster_id(), nodes.unwrap_or(NODES), port.unwrap_or(PORT)))
    }

    /// The layout of a cluster of this name and shape.
    pub(crate) fn of(cluster: ClusterId, nodes: u64, port: u16) -> Self {
        Self { cluster_id: cluster.to_string(), nodes, port }
    }

    fn read(file: &Path, text: &str) -> Result<Self, Failure> {
        Self::parse(text).map_err(|why| {
            Failure::new(exit::DATA_DAMAGED, format!("{} is damaged: {why}", file.display()))
        })
    }

    /// From the text of its file; what is wrong with that.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// The first thing that is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !(1..=MEMBERS_MAX as u64).contains(&self.nodes) {
            let text = format!("--nodes is {}: want 1 to {MEMBERS_MAX}", self.nodes);
            return Err(Failure::usage(text));
        }
        let port_max = u64::from(u16::MAX - PEER_PORT_OFFSET) + 1 - self.nodes;
        if self.port == 0 || u64::from(self.port) > port_max {
            return Err(Failure::usage(format!(
                "--port is {}: want 1 to {port_max}, for peers are {PEER_PORT_OFFSET} above it",
                self.port
            )));
        }
        Ok(())
    }

    /// Writes it into a cluster's directory.
    pub(crate) fn write_in(&self, dir: &Path) -> Result<(), Failure> {
        self.write(&dir.join(LAYOUT_FILE))
    }

    /// Whole or not at all: written beside, then renamed.
    fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = format!(
            "# Written by `sampan cluster`. The nodes' data carry the cluster's id: keep this file.\n\
             cluster-id = \"{}\"\nnodes = {}\nport = {}\n",
            self.cluster_id, self.nodes, self.port
        );
        let beside = file.with_extension("toml.new");
        let write = || -> io::Result<()> {
            let mut new = File::create(&beside)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, file)?;
            File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| disk(file, &error))
    }

    /// The nodes' ids, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.nodes
    }

    /// Where clients reach a node.
    pub(crate) fn address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.client_port(id))
    }

    /// Where peers reach a node.
    pub(crate) fn peer_address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.client_port(id) + PEER_PORT_OFFSET)
    }

    /// A node's client port.
    pub(crate) fn client_port(&self, id: u64) -> u16 {
        self.port + (id - 1) as u16
    }
}

/// A name that no other cluster has.
pub(crate) fn new_cluster_id() -> ClusterId {
    ClusterId(std::hash::RandomState::new().build_hasher().finish())
}

/// What a node has in a cluster's directory: its data in `data`, its log lines in `log`.
pub(crate) fn node_dir(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("node{id}"))
}

/// Held while a cluster runs; the kernel drops it with the process.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Creates the directory if there is none, and locks it.
    pub(crate) fn take(dir: &Path) -> Result<Self, Failure> {
        make_directory(dir).map_err(|error| match error.kind() {
            // Something else is in its place, or in that of one above it.
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                Failure::usage(format!("--dir is {}: {error}; want a directory", dir.display()))
            }
            _ => disk(dir, &error),
        })?;
        let path = dir.join(LOCK_FILE);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| disk(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is helps; not knowing it does not hurt.
                _ = file.read_to_string(&mut holder);
                return Err(Failure::new(
                    exit::LOCKED,
                    format!(
                        "a cluster in {} is running already (pid {})",
                        dir.display(),
                        holder.trim()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(disk(&path, &error)),
        }
        // The lock holds without the number in it.
        _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn disk(path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::DISK_FAILED, format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
