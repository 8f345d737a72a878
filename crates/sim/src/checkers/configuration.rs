//! The configuration that a log puts in force (thesis 4.1): voters change through a joint
//! configuration only, one change after another (thesis 4.3); and nodes that committed the same
//! index have the same one in force there, wherever they have it from: the log, or a snapshot.

use sampan_base::{Configuration, LogIndex, NodeId, rng};

use super::Violation;

/// A digest of the configuration in force at each index up to which somebody had committed.
#[derive(Default, Debug)]
pub struct InForce {
    digests: Vec<Option<(u64, NodeId)>>,
}

impl InForce {
    /// A node has committed everything through an index.
    pub fn check(
        &mut self,
        id: NodeId,
        commit: LogIndex,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        if configuration.voters.is_empty() {
            return Ok(()); // a joiner has yet to reach the entry that names its cluster
        }
        let place = commit.0 as usize;
        if self.digests.len() <= place {
            self.digests.resize(place + 1, None);
        }
        let digest = digest(configuration);
        let (known, first) = *self.digests[place].get_or_insert((digest, id));
        if known == digest {
            return Ok(());
        }
        let detail = format!("at {commit} {id} has {configuration} in force, {first} has not");
        Err(Violation::new("configuration-in-log", detail))
    }
}

/// A node's log has `next` after `current`, at an index.
pub fn check_step(
    id: NodeId,
    at: LogIndex,
    current: &Configuration,
    next: &Configuration,
) -> Result<(), Violation> {
    let same_voters = next.voters == current.voters && !next.is_joint();
    let enters_joint = !current.is_joint() && next.voters_outgoing == current.voters;
    if same_voters || enters_joint || current.voters.is_empty() {
        return Ok(());
    }
    let detail = format!("{id} has {next} at {at}, right after {current}");
    Err(Violation::new("configuration-in-log", detail))
}

fn digest(configuration: &Configuration) -> u64 {
    let sets = [&configuration.voters, &configuration.voters_outgoing, &configuration.learners];
    let mut digest = 0;
    for (number, set) in (1_u64..).zip(sets) {
        digest = rng::mix(digest ^ number << 32);
        digest = set.iter().fold(digest, |sum, id| rng::mix(sum ^ id.get()));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_change_through_a_joint_configuration_only() {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId::of(*id)).collect();
        let simple = |voters| Configuration { voters: ids(voters), ..Configuration::default() };
        let joint = |new, old| Configuration { voters_outgoing: ids(old), ..simple(new) };
        let step = |a: &Configuration, b: &Configuration| {
            check_step(NodeId::of(1), LogIndex(9), a, b).is_ok()
        };
        let learner = Configuration { learners: ids(&[3]), ..simple(&[1, 2]) };
        assert!(step(&simple(&[1, 2]), &learner));
        assert!(step(&learner, &joint(&[1, 2, 3], &[1, 2])));
        assert!(step(&joint(&[1, 2, 3], &[1, 2]), &simple(&[1, 2, 3])));
        assert!(!step(&simple(&[1, 2]), &simple(&[1, 2, 3])), "in one step");
        assert!(!step(&simple(&[1, 2]), &joint(&[1, 3], &[1, 3])), "from others");
        assert!(!step(&joint(&[1, 3], &[1, 2]), &joint(&[1, 4], &[1, 3])), "two at once");
    }

    #[test]
    fn members_and_their_parts_tell_configurations_apart() {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId::of(*id)).collect();
        let simple = Configuration { voters: ids(&[1, 2]), ..Configuration::default() };
        let learner = Configuration { learners: ids(&[3]), ..simple.clone() };
        let joint = Configuration { voters_outgoing: ids(&[3]), ..simple.clone() };
        let mut in_force = InForce::default();
        let mut check = |id, index, configuration| {
            in_force.check(NodeId::of(id), LogIndex(index), configuration).is_ok()
        };
        assert!(check(1, 5, &simple) && check(2, 5, &simple) && check(2, 6, &learner));
        assert!(!check(1, 6, &simple) && !check(1, 6, &joint) && check(1, 6, &learner));
    }
}
