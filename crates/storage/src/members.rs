//! What a node was told at its first start and no later start may change: the `members` file.
//!
//! **The first members of the cluster.** Until an entry or a snapshot says who the members are,
//! what a node is told at a start does. Were that once a smaller set, the node could elect itself
//! and a log of its own would win over acknowledged entries later. So the set is durable before the
//! node is, and no start takes another one.
//!
//! **The settings that must be the same on all nodes**, as numbers whose meaning is the host's.
//! Most decide what applying an entry does: a node that starts with others applies the log after
//! its snapshot by them, which other nodes, or this one, have applied by the former, and from then
//! on they are different stores.

use std::collections::BTreeSet;

use sampan_base::NodeId;
use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::disk::{Disk, DiskError, DiskOp};

use crate::create::check_identity;
use crate::page::{self, Magic, PAGE_BYTES, PageFault};
use crate::{Identity, OpenError, Storage};

pub(crate) const MEMBERS_FILE: &str = "members";
const MEMBERS_TEMPORARY: &str = "members.tmp";

/// What the file begins with.
pub(crate) const MEMBERS_MAGIC: Magic = *b"SAMPMEMB";

impl Storage {
    /// Makes what a node is told at its first start durable, or refuses what is not that. Before
    /// [`Storage::create`], and before every [`Storage::open`]. A directory in which no node was
    /// created takes anything; one that has a node but no such file, or no settings in it, what it
    /// is told now. `settings` may be empty: then they are whatever the next start is told.
    pub fn agree(
        disk: &mut dyn Disk,
        identity: Identity,
        members: &BTreeSet<NodeId>,
        settings: &[u64],
    ) -> Result<(), OpenError> {
        let noted = if Self::exists(disk)? {
            check_identity(disk, identity)?;
            read(disk, identity)?
        } else {
            None
        };
        match noted {
            Some(noted) if noted.members != *members => {
                Err(OpenError::OtherMembers { found: noted.members, expected: members.clone() })
            }
            Some(noted) if noted.settings == settings => Ok(()),
            // Whatever a later version decides besides is noted at its first start.
            Some(noted) if !settings.starts_with(&noted.settings) => {
                Err(OpenError::OtherSettings { found: noted.settings })
            }
            _ => disk.execute_all(&note(identity, members, settings)).map_err(OpenError::Disk),
        }
    }
}

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// Whose note it is.
    pub owner: Identity,
    /// The first members of the cluster.
    pub members: BTreeSet<NodeId>,
    /// What the host was set to, or nothing if nobody has said so yet.
    pub settings: Vec<u64>,
}

fn note(identity: Identity, members: &BTreeSet<NodeId>, settings: &[u64]) -> [DiskOp; 5] {
    let mut body = Vec::new();
    identity.encode(&mut body);
    body.put_u32(members.len() as u32);
    for id in members {
        body.put_u64(id.get());
    }
    body.put_u32(settings.len() as u32);
    for &setting in settings {
        body.put_u64(setting);
    }
    page::place(page::seal(MEMBERS_MAGIC, &body), MEMBERS_TEMPORARY, MEMBERS_FILE)
}

/// What this node was told, if it is noted.
pub(crate) fn read(disk: &mut dyn Disk, identity: Identity) -> Result<Option<Members>, OpenError> {
    match page::read(disk, MEMBERS_FILE, 0, PAGE_BYTES) {
        Ok(bytes) => unseal(&bytes, identity).map(Some),
        Err(DiskError::NotFound(_)) => Ok(None),
        Err(DiskError::Io(..)) => Err(OpenError::DamagedMembers("the disk cannot read it")),
        Err(error) => Err(error.into()),
    }
}

fn unseal(bytes: &[u8], identity: Identity) -> Result<Members, OpenError> {
    let mut body = page::unseal(MEMBERS_MAGIC, bytes).map_err(|fault| match fault {
        PageFault::Damaged(why) => OpenError::DamagedMembers(why),
        PageFault::Version(version) => {
            OpenError::UnsupportedVersion { file: MEMBERS_FILE.into(), version }
        }
    })?;
    match decode(&mut body) {
        Ok(noted) if noted.owner == identity => Ok(noted),
        Ok(_) => Err(OpenError::DamagedMembers("it is another node's")),
        Err(_) => Err(OpenError::DamagedMembers("a field is impossible")),
    }
}

/// Reads what [`note`] wrote.
pub(crate) fn decode(body: &mut Reader<'_>) -> Result<Members, DecodeError> {
    let owner = Identity::decode(body)?;
    let count = body.u32()?;
    let members = (0..count).map(|_| NodeId::decode(body)).collect::<Result<_, _>>()?;
    let count = body.u32()?;
    let settings = (0..count).map(|_| body.u64()).collect::<Result<_, _>>()?;
    Ok(Members { owner, members, settings })
}
