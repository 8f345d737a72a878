//! A whole directory: of one node, or of `sampan cluster`.

use std::fs;
use std::path::{Path, PathBuf};

use sampan_base::LogIndex;
use sampan_server::LOCK_FILE;
use sampan_server::disk::RealDisk;
use sampan_storage::{OpenError, Recovered, Storage};

use super::facts::Facts;
use super::{files, unreadable};
use crate::cluster::layout;
use crate::exit::{self, Failure};

/// What is in a directory.
pub(super) async fn facts(path: &Path, entries: bool) -> Result<Facts, Failure> {
    let nodes = nodes(path)?;
    if nodes.is_empty() {
        return node(path, entries).await;
    }
    let mut list = Vec::new();
    for data in nodes {
        list.push(node(&data, entries).await?);
    }
    let facts = Facts::of("cluster directory").with("directory", path.display().to_string());
    let facts = match layout::Layout::remembered(path) {
        Ok(Some(layout)) => {
            facts.with("cluster", layout.cluster_id).with("port", u64::from(layout.port))
        }
        Ok(None) => facts.with_damage("cluster.toml is missing"),
        Err(failure) => facts.with_damage(failure),
    };
    Ok(facts.with("nodes", list))
}

/// The data directories in a cluster's directory, in order of their nodes.
fn nodes(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut nodes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(path, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let id: Option<u64> = name.strip_prefix("node").and_then(|id| id.parse().ok());
        let data = entry.path().join("data");
        nodes.extend(id.filter(|_| data.is_dir()).map(|id| (id, data)));
    }
    nodes.sort();
    Ok(nodes.into_iter().map(|(_, data)| data).collect())
}

/// One node's data directory: what an opening would find, and every file.
async fn node(path: &Path, entries: bool) -> Result<Facts, Failure> {
    let facts = Facts::of("data directory").with("directory", path.display().to_string());
    let facts = facts.with_any("used_by_process", running(path));
    let facts = match Storage::examine(&mut RealDisk::read_only(path)) {
        Ok((identity, found)) => {
            let (cluster, node) = (identity.cluster.to_string(), identity.node.get());
            facts.with("cluster", cluster).with("node", node).with("opening", opening(&found))
        }
        Err(OpenError::NotCreated) => {
            let text = format!("{}: neither a node's nor a cluster's directory", path.display());
            return Err(Failure::usage(text));
        }
        Err(error) => facts.with_damage(error),
    };
    let mut list = Vec::new();
    for file in files_of(path)? {
        let (name, found) = (file.display().to_string(), files::facts(&file, entries).await);
        list.push(match found {
            Ok(found) if is_unfinished(&file) => found.leftover(),
            Ok(found) => found,
            Err(failure) if failure.code == exit::DISK_FAILED => {
                Facts::of("unreadable").with("file", name).with_damage(failure.text)
            }
            Err(_) => Facts::of("not of Sampan").with("file", name),
        });
    }
    Ok(facts.with("files", list))
}

/// The files that storage writes, in a fixed order.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for directory in [path.to_owned(), path.join("wal"), path.join("snapshots")] {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let file = entry.map_err(|error| unreadable(&directory, &error))?.path();
            if file.is_file() && file.file_name().is_none_or(|name| name != LOCK_FILE) {
                files.push(file);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Is it a file that counts for nothing, whatever is in it?
fn is_unfinished(file: &Path) -> bool {
    let name = file.to_string_lossy();
    [".tmp", ".partial", ".spare", ".damaged"].iter().any(|ending| name.ends_with(ending))
}

/// The process that has locked the directory, if it still runs.
fn running(path: &Path) -> Option<u64> {
    let pid: u64 = fs::read_to_string(path.join(LOCK_FILE)).ok()?.trim().parse().ok()?;
    let program = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&program).contains("sampan").then_some(pid)
}

/// What a node would start from.
fn opening(found: &Recovered) -> Facts {
    let snapshot = found.snapshot.as_ref().map(|stored| stored.meta.position);
    let index = |entry: Option<&sampan_base::Entry>| entry.map(|entry| entry.index.0);
    let until = |index: LogIndex| match index.0 {
        u64::MAX => "a leader names the index".to_owned(),
        index => format!("index {index}"),
    };
    let torn = found.report.torn_tail.as_ref();
    let damaged = found.report.snapshots_damaged.first();
    let facts = Facts::default()
        .with("term", found.hard_state.term.0)
        .with("vote", found.hard_state.vote.map(sampan_base::NodeId::get))
        .with("incarnation", found.incarnation)
        .with("snapshot_index", snapshot.map(|position| position.index.0))
        .with("snapshot_term", snapshot.map(|position| position.term.0))
        .with("log_entries", found.entries.len())
        .with("first_index", index(found.entries.first()))
        .with("last_index", index(found.entries.last()))
        .with_any("non_voting_until", found.non_voting_until.map(until))
        .with_any("log_superseded", found.report.log_discarded)
        .with_any("unfinished_write", torn.map(|(file, at)| format!("{file} at offset {at}")));
    match damaged {
        Some(file) => facts.with("falls_back_from", &**file),
        None => facts,
    }
}
