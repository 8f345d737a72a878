//! The first members of the cluster, as a node was told at its first start: the `members` file.
//!
//! Until an entry or a snapshot says who the members are, what a node is told at a start does. Were that
//! once a smaller set, the node could elect itself and a log of its own would win over acknowledged
//! entries later. So the set is durable before the node is, and no start takes another one.

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
    /// Makes the cluster's first members durable, or refuses others than those of the first start. Before
    /// [`Storage::create`], and before every [`Storage::open`]. A directory in which no node was created
    /// takes any; one that has a node but no such file, those it is told now.
    pub fn agree_on_members(
        disk: &mut dyn Disk,
        identity: Identity,
        members: &BTreeSet<NodeId>,
    ) -> Result<(), OpenError> {
        let exists = Self::exists(disk)?;
        if exists {
            check_identity(disk, identity)?;
        }
        let noted = match page::read(disk, MEMBERS_FILE, 0, PAGE_BYTES) {
            _ if !exists => None,
            Ok(bytes) => Some(unseal(&bytes, identity)?),
            Err(DiskError::NotFound(_)) => None,
            Err(DiskError::Io(..)) => {
                return Err(OpenError::DamagedMembers("the disk cannot read it"));
            }
            Err(error) => return Err(error.into()),
        };
        match noted {
            Some(found) if found == *members => Ok(()),
            Some(found) => Err(OpenError::OtherMembers { found, expected: members.clone() }),
            None => disk.execute_all(&note(identity, members)).map_err(OpenError::Disk),
        }
    }
}

fn note(identity: Identity, members: &BTreeSet<NodeId>) -> [DiskOp; 5] {
    let mut body = Vec::new();
    identity.encode(&mut body);
    body.put_u32(members.len() as u32);
    for id in members {
        body.put_u64(id.get());
    }
    page::place(page::seal(MEMBERS_MAGIC, &body), MEMBERS_TEMPORARY, MEMBERS_FILE)
}

fn unseal(bytes: &[u8], identity: Identity) -> Result<BTreeSet<NodeId>, OpenError> {
    let mut body = page::unseal(MEMBERS_MAGIC, bytes).map_err(|fault| match fault {
        PageFault::Damaged(why) => OpenError::DamagedMembers(why),
        PageFault::Version(version) => {
            OpenError::UnsupportedVersion { file: MEMBERS_FILE.into(), version }
        }
    })?;
    match decode(&mut body) {
        Ok((owner, members)) if owner == identity => Ok(members),
        Ok(_) => Err(OpenError::DamagedMembers("it is another node's")),
        Err(_) => Err(OpenError::DamagedMembers("a field is impossible")),
    }
}

/// Whose file it is, and the members.
pub(crate) fn decode(body: &mut Reader<'_>) -> Result<(Identity, BTreeSet<NodeId>), DecodeError> {
    let identity = Identity::decode(body)?;
    let count = body.u32()?;
    let members = (0..count).map(|_| NodeId::decode(body)).collect::<Result<_, _>>()?;
    Ok((identity, members))
}
