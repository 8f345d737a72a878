//! A whole directory: of one node, or of `sampan cluster`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sampan_base::LogIndex;
use sampan_base::disk::DiskError;
use sampan_server::LOCK_FILE;
use sampan_server::disk::RealDisk;
use sampan_storage::{OpenError, Recovered, Storage};

use super::facts::Facts;
use super::names::{self, Standing};
use super::{files, unreadable};
use crate::cluster::layout::{LAYOUT_FILE, Layout};
use crate::exit::{self, Failure};

/// A directory that is in use is looked at this often before it is said what is wrong with it.
const LOOKS: usize = 5;

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
    Ok(shape(facts, path).with("nodes", list))
}

/// With what the cluster's directory remembers.
fn shape(facts: Facts, path: &Path) -> Facts {
    let text = match fs::read_to_string(path.join(LAYOUT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return facts.with_damage(format!("{LAYOUT_FILE} is missing"));
        }
        Err(error) => return facts.with_damage(format!("{LAYOUT_FILE}: {error}")),
    };
    match Layout::parse(&text) {
        Ok(layout) => facts.with("cluster", layout.cluster_id).with("port", u64::from(layout.port)),
        Err(why) => facts.with_damage(format!("{LAYOUT_FILE} is damaged: {why}")),
    }
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
    let in_use = || running(path).is_some();
    let facts = match look(in_use, || Storage::examine(&mut RealDisk::read_only(path))) {
        Ok((identity, found)) => {
            let (cluster, node) = (identity.cluster.to_string(), identity.node.get());
            facts.with("cluster", cluster).with("node", node).with("opening", opening(&found))
        }
        Err(error @ OpenError::Disk(DiskError::NotFound(_))) if in_use() => {
            facts.with("in_motion", error.to_string())
        }
        Err(OpenError::NotCreated) => {
            let text = format!("{}: neither a node's nor a cluster's directory", path.display());
            return Err(Failure::usage(text));
        }
        Err(error) => facts.with_damage(error),
    };
    let mut list = Vec::new();
    for path in files_of(path)? {
        list.extend(file(&path, entries).await);
    }
    Ok(facts.with("files", list))
}

/// What an opening would find. A node that runs removes and renames files meanwhile, which looks
/// like damage: it is looked at again.
fn look<T>(
    in_use: impl Fn() -> bool,
    mut examine: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let mut found = examine();
    for _ in 1..LOOKS {
        if found.is_ok() || !in_use() {
            break;
        }
        found = examine();
    }
    found
}

/// What is in a file that was there a moment ago; `None` if the node has removed or renamed it.
async fn file(path: &Path, entries: bool) -> Option<Facts> {
    let found = files::facts(path, entries).await;
    if matches!(path.try_exists(), Ok(false)) {
        return None;
    }
    let name = path.display().to_string();
    Some(match found {
        found if Standing::of(path) == Standing::SetAside => set_aside(path, found),
        Ok(found) => found,
        Err(failure) if failure.code == exit::DISK_FAILED => {
            Facts::of("unreadable").with("file", name).with_damage(failure.text)
        }
        Err(_) => Facts::of("not of Sampan").with("file", name),
    })
}

/// A file that a node found damaged: nothing needs it, and nothing but a person removes it.
fn set_aside(path: &Path, found: Result<Facts, Failure>) -> Facts {
    let facts = Facts::of("set aside").with("file", path.display().to_string());
    let facts = facts.with_any("bytes", fs::metadata(path).ok().map(|file| file.len()));
    match found {
        Ok(found) => facts.with_any("not_whole", found.damage().map(|damage| damage.why)),
        Err(failure) => facts.with("not_whole", failure.text),
    }
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

/// The process that has locked the directory, if it still runs.
fn running(path: &Path) -> Option<u64> {
    let pid = names::process(&path.join(LOCK_FILE))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_looked_at_again_before_it_is_called_damaged() {
        let gone = || OpenError::Disk(DiskError::NotFound("wal/1.log".into()));
        let looks = |in_use: bool, sound_at: usize| {
            let mut count = 0;
            let found = look(
                || in_use,
                || {
                    count += 1;
                    if count == sound_at { Ok(()) } else { Err(gone()) }
                },
            );
            (count, found)
        };
        assert_eq!(looks(true, 1), (1, Ok(())));
        assert_eq!(looks(true, 3), (3, Ok(())));
        assert_eq!(looks(true, usize::MAX), (LOOKS, Err(gone())), "it is not waited for");
        assert_eq!(looks(false, 3), (1, Err(gone())), "nobody changes anything");
    }

    #[tokio::test]
    async fn a_file_that_has_gone_since_it_was_listed_is_left_out() {
        let there = std::env::temp_dir().join(format!("sampan-listed-{}.snap", std::process::id()));
        fs::write(&there, "no snapshot").unwrap();
        assert!(file(&there, false).await.unwrap().damage().is_some());
        fs::remove_file(&there).unwrap();
        assert_eq!(file(&there, false).await, None);
    }
}
