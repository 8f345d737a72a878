//! What the name of a file says: whether what is in it counts, and what it is where its first bytes
//! do not tell.

use std::fs;
use std::path::Path;

use sampan_server::LOCK_FILE;
use sampan_storage::snapshot::{ARRIVING, COMPLETE, UNFINISHED};

use super::facts::Facts;
use crate::cluster::layout::{self, Layout};

/// How the name of a file ends that was found damaged.
const DAMAGED: &str = ".damaged";

/// Does what is in a file count?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Yes.
    Committed,
    /// Not yet: a snapshot or a backup that is on its way like this.
    Unfinished(&'static str),
    /// No: in the making, or room that is kept.
    Leftover,
    /// No more: found damaged, and kept to be looked at.
    SetAside,
}

impl Standing {
    pub(super) fn of(path: &Path) -> Self {
        let name = name(path);
        let ends = |ending| name.ends_with(ending);
        if ends(UNFINISHED) {
            Self::Unfinished("being written")
        } else if has_id(&name, ARRIVING) {
            Self::Unfinished("arriving from another node")
        } else if ends(ARRIVING) {
            Self::Unfinished("a backup being written")
        } else if ends(DAMAGED) {
            Self::SetAside
        } else if is_leftover(&name) {
            Self::Leftover
        } else {
            Self::Committed
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Is it a snapshot's id with this ending, as a node names what is not finished?
fn has_id(name: &str, ending: &str) -> bool {
    let id = name.strip_suffix(ending);
    id.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Is it a number with this ending, as a node names what is in the directory of the log?
fn has_number(name: &str, ending: &str) -> bool {
    let number = name.strip_suffix(ending);
    number.is_some_and(|number| number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Is it called as what a node has beside its data? That may be zeros.
fn is_leftover(name: &str) -> bool {
    [".log.tmp", ".spare", ".spare.tmp"].iter().any(|ending| has_number(name, ending))
        || ["identity.tmp", "members.tmp", "reserve"].contains(&name)
}

/// Is it called as the files of a data directory are that begin in a way of their own?
pub(super) fn is_ours(path: &Path) -> bool {
    let name = name(path);
    let name = name.strip_suffix(DAMAGED).unwrap_or(&name);
    has_number(name, ".log")
        || is_leftover(name)
        || name.ends_with(COMPLETE)
        || has_id(name, UNFINISHED)
        || has_id(name, ARRIVING)
        || name.starts_with("hard_state.")
        || ["identity", "members"].contains(&name)
}

/// What a file is that has no first bytes of its own; `None` if the name says nothing either.
pub(super) fn of_text(path: &Path) -> Option<Facts> {
    let facts = |kind| Facts::of(kind).with("file", path.display().to_string());
    let lock = |kind| {
        let facts = facts(kind).with("holds", "nothing but the number of the last process");
        facts.with_any("process", process(path))
    };
    match &*name(path) {
        LOCK_FILE => Some(lock("lock of a data directory")),
        layout::LOCK_FILE => Some(lock("lock of a cluster directory")),
        layout::LAYOUT_FILE => Some(shape(facts("shape of a cluster"), path)),
        layout::LOG_FILE | layout::OLD_LOG_FILE => {
            Some(facts("log lines").with("holds", "what a node said of itself; no data"))
        }
        _ => None,
    }
}

/// The process that a lock names.
pub(super) fn process(lock: &Path) -> Option<u64> {
    fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// What `sampan cluster` remembers.
fn shape(facts: Facts, path: &Path) -> Facts {
    let read = fs::read_to_string(path).map_err(|error| error.to_string());
    match read.and_then(|text| Layout::parse(&text)) {
        Ok(Layout { cluster_id, nodes, port }) => {
            facts.with("cluster", cluster_id).with("nodes", nodes).with("port", u64::from(port))
        }
        Err(why) => facts.with_damage(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whether_what_is_in_the_file_counts() {
        for (name, standing) in [
            ("wal/00000000000000000001.log", Standing::Committed),
            ("wal/00000000000000000001.log.damaged", Standing::SetAside),
            ("wal/00000000000000000001.spare", Standing::Leftover),
            ("wal/00000000000000000001.spare.tmp", Standing::Leftover),
            ("wal/00000000000000000001.log.tmp", Standing::Leftover),
            ("identity.tmp", Standing::Leftover),
            ("reserve", Standing::Leftover),
            ("/backups/monday.tmp", Standing::Committed),
            ("/backups/monday.spare", Standing::Committed),
            ("snapshots/00000000000000ff.snap", Standing::Committed),
            ("snapshots/00000000000000ff.snap.damaged", Standing::SetAside),
            ("snapshots/00000000000000ff.snap.tmp", Standing::Unfinished("being written")),
            (
                "snapshots/00000000000000ff.partial",
                Standing::Unfinished("arriving from another node"),
            ),
            ("/backups/monday.partial", Standing::Unfinished("a backup being written")),
        ] {
            assert_eq!(Standing::of(Path::new(name)), standing, "{name}");
        }
    }
}
