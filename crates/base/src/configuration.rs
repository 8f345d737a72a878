//! The set of members a log entry can put in force: simple or joint (thesis 4.3), with learners
//! (thesis 4.2.1). Data and its encoding; the rules of quorums and changes are `raft`'s.

use std::collections::BTreeSet;
use std::fmt;

use crate::NodeId;
use crate::codec::{DecodeError, Reader, Writer};

/// Who votes, who only listens, and, during a change, who voted before.
///
/// Invariants, checked by [`Configuration::check`]: there is at least one voter; nobody is voter
/// and learner at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// The voters; during a joint configuration the new set (`C_new`).
    pub voters: BTreeSet<NodeId>,
    /// During a joint configuration the old voters (`C_old`), whose majority is needed as well.
    /// Empty when the configuration is simple.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Members that get the log and never count for a quorum.
    pub learners: BTreeSet<NodeId>,
}

/// More members than anyone runs; bounds what a decoder allocates.
pub const MEMBERS_MAX: usize = 64;

impl Configuration {
    /// A simple configuration of these voters.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Is a change from one voter set to another under way?
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Does this node vote, in either half?
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Is this node a voter or a learner?
    pub fn is_member(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Everybody who gets the log, each once, in order of id.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.voters_outgoing).chain(&self.learners).copied().collect()
    }

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.voters.is_empty() {
            return Err("a configuration needs at least one voter");
        }
        if self.learners.iter().any(|id| self.voters.contains(id)) {
            return Err("a node cannot be voter and learner at once");
        }
        if self.members().len() > MEMBERS_MAX {
            return Err("a configuration has too many members");
        }
        Ok(())
    }

    /// Appends `count, id...` for each of the three sets.
    pub fn encode(&self, out: &mut impl Writer) {
        for set in [&self.voters, &self.voters_outgoing, &self.learners] {
            out.put_u32(set.len() as u32);
            for id in set {
                out.put_u64(id.get());
            }
        }
    }

    /// Reads what [`Configuration::encode`] wrote; refuses what [`Configuration::check`] refuses.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut sets = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for set in &mut sets {
            let count = reader.u32()? as usize;
            if count > MEMBERS_MAX {
                return Err(DecodeError::Invalid("member count"));
            }
            for _ in 0..count {
                let id = NodeId::decode(reader)?;
                set.insert(id);
            }
        }
        let [voters, voters_outgoing, learners] = sets;
        let configuration = Self { voters, voters_outgoing, learners };
        configuration.check().map_err(DecodeError::Invalid)?;
        Ok(configuration)
    }
}

impl fmt::Display for Configuration {
    /// One line: `{1 2 3}`, joint `{1 2 4}&{1 2 3}`, with learners `{1 2 3}+{4}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &BTreeSet<NodeId>| {
            let ids: Vec<String> = set.iter().map(|id| id.get().to_string()).collect();
            format!("{{{}}}", ids.join(" "))
        };
        f.write_str(&list(&self.voters))?;
        if self.is_joint() {
            write!(f, "&{}", list(&self.voters_outgoing))?;
        }
        if !self.learners.is_empty() {
            write!(f, "+{}", list(&self.learners))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut joint = Configuration::of_voters([1, 2, 4].map(NodeId::of));
        joint.voters_outgoing = [1, 2, 3].map(NodeId::of).into();
        joint.learners = [NodeId::of(5)].into();
        let mut bytes = Vec::new();
        joint.encode(&mut bytes);
        assert_eq!(Configuration::decode(&mut Reader::new(&bytes)), Ok(joint.clone()));
        assert_eq!(joint.to_string(), "{1 2 4}&{1 2 3}+{5}");
    }

    #[test]
    fn a_configuration_without_voters_is_refused() {
        let mut bytes = Vec::new();
        Configuration::default().encode(&mut bytes);
        assert!(Configuration::decode(&mut Reader::new(&bytes)).is_err());
    }
}
