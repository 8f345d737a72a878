//! The other half of the nemesis: a kind of fault that could strike in this run, and has not been
//! felt after a third of it, is brought about until it is.
//!
//! A schedule alone cannot promise that: a write that is to fail may never be issued, a power loss
//! may find everything synced. A run in which an enabled kind stayed silent has tested less than
//! its summary says, and counts as failed (`runner.rs`).

use sampan_base::NodeId;
use sampan_replica::Input;

use crate::checkers::Violation;
use crate::disk::{FileClass, Mishap};
use crate::faults::Fault;
use crate::nemesis::TRIES_MAX;
use crate::run::{Simulation, Todo};

/// How often it is looked what is missing, in microseconds.
const LOOK_EVERY_US: u64 = 1_500_000;
/// A node that is to need a snapshot stays away for this long, in microseconds.
const AWAY_US: u64 = 25_000_000;

/// After so many thousandths of the safety phase kinds that wait for a sound cluster have waited
/// long enough.
const OWING_FROM_PERMILLE: u64 = 600;

impl Simulation {
    /// Is a kind still silent that waits for a sound cluster, and the time short? Then nothing else
    /// goes wrong that can wait, and what is damaged is replaced at once.
    pub(crate) fn is_owing(&self) -> bool {
        let from = self.plan.safety_us / 1_000 * OWING_FROM_PERMILLE;
        if self.is_healing() || self.world.now().0 < from {
            return false;
        }
        let counts = self.counts_so_far();
        let owed = |fault: Fault| fault.needs_a_sound_cluster() && counts.of(fault) == 0;
        self.plan.faults.iter().any(owed)
    }

    /// Does a fault that is due make way for others?
    pub(crate) fn must_make_way(&self, fault: Fault, tries: u32) -> bool {
        tries < TRIES_MAX && !fault.needs_a_sound_cluster() && self.is_owing()
    }

    /// Brings about what has not been felt so far.
    pub(crate) fn insist(&mut self) -> Result<(), Violation> {
        if self.is_healing() {
            return Ok(());
        }
        self.after(LOOK_EVERY_US, Todo::Insist);
        let (counts, is_owing) = (self.counts_so_far(), self.is_owing());
        for fault in self.plan.faults.iter().filter(|fault| counts.of(*fault) == 0) {
            // One before it may have left the cluster unsound, for as long as the run lasts.
            let settled = self.settled_configuration();
            if is_owing && settled.is_some_and(|settled| self.is_sound(&settled)) {
                self.had_their_turn.insert(fault);
            }
            self.bring_about(fault)?;
        }
        Ok(())
    }

    fn bring_about(&mut self, fault: Fault) -> Result<(), Violation> {
        match fault {
            // Rates: they are felt without help, or there are no messages.
            Fault::Drop | Fault::Duplicate | Fault::Reorder | Fault::Delay | Fault::Corrupt => {}
            Fault::TornWrite | Fault::LostSectors => {
                self.arm_anew(Mishap::PowerFails { names: false });
            }
            Fault::LostNames => self.arm_anew(Mishap::PowerFails { names: true }),
            Fault::WriteError => self.arm_anew(Mishap::WriteFails),
            Fault::SyncError => self.arm_anew(Mishap::SyncFails { drop_pages: false }),
            Fault::SyncDrops => self.arm_anew(Mishap::SyncFails { drop_pages: true }),
            Fault::NoSpace => self.fill_disk()?,
            Fault::Install => self.leave_behind()?,
            Fault::Completions => {
                self.fault_strikes(fault, TRIES_MAX)?;
                // One lane overtakes another: two must have work.
                self.take_snapshots()?;
            }
            Fault::Retry => {
                self.next_client_hangs_up |= !self.disconnect_client();
            }
            _ => self.fault_strikes(fault, TRIES_MAX)?,
        }
        Ok(())
    }

    /// Arms a mishap for the very next step it fits, on a disk where others may wait for a step
    /// that does not come.
    fn arm_anew(&mut self, mishap: Mishap) {
        let Some(id) = self.pick_up() else { return };
        let disk = self.world.node_mut(id).disk_mut();
        if !disk.damaged {
            disk.disarm_all();
            disk.arm(mishap, FileClass::Any);
        }
    }

    /// A disk is full, and its node is asked for something that needs room.
    fn fill_disk(&mut self) -> Result<(), Violation> {
        self.fault_strikes(Fault::NoSpace, TRIES_MAX)?;
        let full = self.world.nodes().find(|node| node.is_up() && node.disk().full);
        match full.map(crate::node::Node::id) {
            Some(id) => self.world.input(id, Input::TakeSnapshot),
            None => Ok(()),
        }
    }

    /// A node falls so far behind that only a snapshot helps: a follower that the others can do
    /// without stays away, or a fresh learner starts from nothing. What it lacks is trimmed.
    fn leave_behind(&mut self) -> Result<(), Violation> {
        self.take_snapshots()?;
        let joins = [Fault::Learner, Fault::Membership, Fault::DiskLost];
        if joins.into_iter().any(|fault| self.plan.faults.has(fault)) {
            return self.fault_strikes(Fault::Learner, TRIES_MAX);
        }
        let (leader, up) = (self.world.leader(), self.world.ids_up());
        let Some(configuration) = self.settled_configuration() else { return Ok(()) };
        let voters = configuration.voters.len();
        let follower: Option<NodeId> = up.iter().copied().find(|id| leader != Some(*id));
        if let Some(id) = follower.filter(|_| up.len() == voters && voters >= 3) {
            self.take_away(id, AWAY_US);
        }
        Ok(())
    }
}
