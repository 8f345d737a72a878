//! How a machine's process begins: with a replica, or with a log that its peers repair first.

use sampan_base::NodeId;
use sampan_replica::{OpenError, Start};
use sampan_storage::Identity;

use crate::network::Network;
use crate::{Notice, Violation, World};

impl<N: Network> World<N> {
    /// What came of a start, or of a repair: a replica, a log to repair, or neither.
    pub(crate) fn begin(
        &mut self,
        id: NodeId,
        started: Result<Start, OpenError>,
    ) -> Result<Result<String, OpenError>, Violation> {
        let now = self.now;
        let identity = Identity { cluster: self.cluster, node: id };
        let node = self.node_mut(id);
        node.busy_until = now;
        let report = match started {
            Ok(Start::Ready(replica, report)) => {
                node.replica = Some(replica);
                self.counts.batches_repaired += report.repaired.len() as u64;
                let report = report.to_string();
                self.trace.event(now, [id.get(), 2, 0], || format!("{id} starts: {report}"));
                let node = self.nodes[id.get() as usize].as_deref().expect("it was there above");
                self.oracles.after_start(node, identity)?;
                report
            }
            Ok(Start::Repairing(repairing)) => {
                let report = repairing.to_string();
                node.repairing = Some(repairing);
                self.trace.event(now, [id.get(), 12, 0], || format!("{id} repairs: {report}"));
                report
            }
            Err(error) => {
                self.trace.event(now, [id.get(), 1, 0], || format!("✗ {id} cannot start: {error}"));
                return Ok(Err(error));
            }
        };
        self.connect(id);
        self.turn(id)?;
        Ok(Ok(report))
    }

    /// One turn of a node that repairs its log, and what comes after the last one.
    pub(crate) fn repair_turn(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.now;
        let slot = self.nodes[id.get() as usize].as_deref_mut().expect("only nodes take turns");
        let Some(repairing) = &mut slot.repairing else { return Ok(()) };
        let clock = slot.clock.read(now);
        for input in slot.inbox.drain(..) {
            repairing.step(clock, input);
        }
        repairing.flush(clock, &mut self.outputs);
        let settled = slot.repairing.take_if(|repairing| repairing.is_settled());
        let settled = settled.map(|repairing| repairing.settle(&mut slot.disk, clock));
        self.hand_out(id);
        self.schedule_wake(id);
        let Some(started) = settled else { return Ok(()) };
        if let Err(error) = self.begin(id, started)? {
            self.stop(id);
            self.disconnect(id);
            self.notices.push_back(Notice::Stopped(id, error.to_string()));
        }
        Ok(())
    }
}
