//! Whose data a directory holds: the `identity` file.

use sampan_base::codec::{DecodeError, Reader, Writer};
use sampan_base::{ClusterId, NodeId};

/// The cluster and the node that own a data directory. Written once, when it is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node in it.
    pub node: NodeId,
}

impl Identity {
    /// Bytes of an encoded identity.
    pub(crate) const BYTES: usize = 16;

    /// Appends cluster and node.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.cluster.0);
        out.put_u64(self.node.get());
    }

    /// Reads what [`Identity::encode`] wrote.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cluster = ClusterId(reader.u64()?);
        let node = NodeId::decode(reader)?;
        Ok(Self { cluster, node })
    }
}
