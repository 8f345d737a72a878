//! How a replica finds its state again: what is loaded, what is done about damage, and how that
//! reads in one line. What is damaged and what is merely unfinished is decided by `storage`
//! (`docs/format.md`, section 6).

use std::collections::BTreeSet;
use std::fmt;

use sampan_base::codec::Reader;
use sampan_base::disk::Disk;
use sampan_base::{Configuration, Entry, EntryKind, LogIndex, NodeId, SnapshotMeta};
use sampan_storage::{Identity, OpenError as E, Recovered, Repair, Salvage, SnapshotSink, Storage};

use crate::options::{OnDamage, Options};
use crate::repairing::Repaired;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files are not what they must be.
    #[error(transparent)]
    Storage(#[from] sampan_storage::OpenError),
    /// The log or the snapshot is damaged, and no other voter is known that could repair it.
    #[error("{0}; no other voter of the cluster is known that has its entries")]
    Alone(sampan_storage::OpenError),
    /// A snapshot verified, but does not hold a state.
    #[error("the snapshot {file} does not hold a readable state: {why}")]
    State {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
}

/// What was loaded at a start, in one line.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// The snapshot's index and size, if there was one.
    pub snapshot: Option<(LogIndex, u64)>,
    /// Entries read from the log.
    pub entries: usize,
    /// The last index, of the log or else of the snapshot.
    pub last_index: LogIndex,
    /// Keys in the snapshot.
    pub keys: u64,
    /// What storage says of it.
    pub storage: sampan_storage::Report,
    /// What of the log was damaged, and is again what it was.
    pub repaired: Vec<Repaired>,
    /// Part of the log was damaged, and given up.
    pub faulty: Option<sampan_storage::Damage>,
    /// Neither votes nor counts until its log is durable through this index;
    /// [`LogIndex::MAX`]: no leader has named the index yet.
    pub non_voting_until: Option<LogIndex>,
    /// Whom the node, if it has no past, must hear from before it takes part.
    pub unheard_voters: Vec<NodeId>,
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.snapshot {
            Some((index, bytes)) => {
                write!(f, "snapshot at {index} ({bytes} bytes, {} keys), ", self.keys)?;
            }
            None => f.write_str("no snapshot, ")?,
        }
        write!(f, "{} log entries; {}", self.entries, self.storage)?;
        for repaired in &self.repaired {
            write!(f, "; REPAIRED: {repaired}")?;
        }
        if let Some(damage) = &self.faulty {
            write!(f, "; DAMAGED: {damage}")?;
        }
        match self.non_voting_until {
            None => {}
            Some(LogIndex::MAX) => {
                f.write_str("; non-voting until a leader says what is missing")?;
            }
            Some(until) => write!(f, "; non-voting until the log is here through {until}")?,
        }
        if !self.unheard_voters.is_empty() {
            f.write_str("; new here, takes no part before it has heard from")?;
        }
        self.unheard_voters.iter().try_for_each(|id| write!(f, " {id}"))
    }
}

impl OpenReport {
    /// Were files damaged, whether or not that cost anything?
    pub fn found_damage(&self) -> bool {
        self.faulty.is_some() || !self.repaired.is_empty() || self.storage.found_damage()
    }

    pub(crate) fn of(recovered: &Recovered, keys: u64) -> Self {
        let snapshot = recovered.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let covered = snapshot.map_or(LogIndex::ZERO, |meta| meta.position.index);
        Self {
            snapshot: snapshot.map(|meta| (meta.position.index, meta.size_bytes)),
            entries: recovered.entries.len(),
            last_index: recovered.entries.last().map_or(covered, |entry| entry.index),
            keys,
            storage: recovered.report.clone(),
            repaired: Vec::new(),
            faulty: recovered.faulty.clone(),
            non_voting_until: recovered.non_voting_until,
            unheard_voters: Vec::new(),
        }
    }
}

/// Opens the files; a log that is damaged is given up from there on if the options say so and
/// somebody else can give it back.
pub(crate) fn open_storage(
    disk: &mut dyn Disk,
    identity: Identity,
    options: &Options,
    bootstrap: &Configuration,
    sink: &mut dyn SnapshotSink,
) -> Result<(Storage, Recovered), OpenError> {
    if options.on_damage == OnDamage::Refuse {
        let refuse = sampan_storage::OnDamage::Refuse;
        return Ok(Storage::open_with(disk, identity, &options.storage, refuse, sink)?);
    }
    let agrees = |salvage: &Salvage<'_>| has_other_voters(salvage, bootstrap, identity.node);
    let on_damage = sampan_storage::OnDamage::Rejoin(&agrees);
    Storage::open_with(disk, identity, &options.storage, on_damage, sink).map_err(|error| {
        match error {
            E::DamagedLog(_) | E::DamagedSnapshot { .. } => OpenError::Alone(error),
            error => error.into(),
        }
    })
}

/// Do other nodes vote, as far as what is left of the files tells? A node that was started to join
/// a cluster and knows no configuration yet has others to learn it from.
fn has_other_voters(salvage: &Salvage<'_>, bootstrap: &Configuration, id: NodeId) -> bool {
    let of_log = salvage.last_entry_of(EntryKind::Configuration);
    let latest = latest(of_log, salvage.snapshot(), bootstrap);
    let mut voters = latest.voters.iter().chain(&latest.voters_outgoing);
    latest.voters.is_empty() || voters.any(|voter| *voter != id)
}

/// All who vote, as far as what can be read of a damaged log tells.
pub(crate) fn voters_known(repair: &Repair, bootstrap: &Configuration) -> BTreeSet<NodeId> {
    let of_log = repair.last_entry_of(EntryKind::Configuration);
    let latest = latest(of_log, repair.snapshot(), bootstrap);
    latest.voters.into_iter().chain(latest.voters_outgoing).collect()
}

/// The latest configuration of a log, a snapshot, or else a new cluster.
fn latest(
    of_log: Option<&Entry>,
    snapshot: Option<&SnapshotMeta>,
    bootstrap: &Configuration,
) -> Configuration {
    let of_log = of_log.and_then(|entry| Configuration::decode(&mut Reader::new(&entry.data)).ok());
    let of_snapshot = || snapshot.map(|meta| meta.configuration.clone());
    of_log.or_else(of_snapshot).unwrap_or_else(|| bootstrap.clone())
}
