//! State machine safety: nodes that applied the same index are in the same state (paper, Figure 3),
//! keys, sessions and time included.

use sampan_base::{LogIndex, NodeId};
use sampan_kv::Digest;

use super::Violation;

/// The state at each index at which somebody was seen.
#[derive(Default, Debug)]
pub struct StateMachine {
    digests: Vec<Option<(Digest, NodeId)>>,
}

impl StateMachine {
    /// The state at an index, if anybody was seen there.
    pub fn at(&self, applied: LogIndex) -> Option<Digest> {
        self.digests.get(applied.0 as usize).copied().flatten().map(|(digest, _)| digest)
    }

    /// A node has applied everything through an index.
    pub fn check(
        &mut self,
        id: NodeId,
        applied: LogIndex,
        digest: Digest,
    ) -> Result<(), Violation> {
        let place = applied.0 as usize;
        if self.digests.len() <= place {
            self.digests.resize(place + 1, None);
        }
        match self.digests[place] {
            Some((other, first)) if other != digest => Err(Violation::new(
                "state-machine-safety",
                format!("{id} and {first} differ after applying {applied}: {digest} and {other}"),
            )),
            Some(_) => Ok(()),
            None => {
                self.digests[place] = Some((digest, id));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_at_one_index_are_in_one_state() {
        let mut states = StateMachine::default();
        let (a, b) = (NodeId::of(1), NodeId::of(2));
        assert!(states.check(a, LogIndex(3), Digest(7)).is_ok());
        assert!(states.check(b, LogIndex(2), Digest(6)).is_ok());
        assert!(states.check(b, LogIndex(3), Digest(7)).is_ok());
        assert!(states.check(a, LogIndex(2), Digest(7)).is_err());
    }
}
