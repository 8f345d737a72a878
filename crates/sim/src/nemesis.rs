//! The nemesis: makes faults happen, and ends those that last.

use sampan_base::{NodeId, Rng};
use sampan_replica::{Input, OpenError};

use crate::checkers::Violation;
use crate::disk::{FileClass, Mishap, Survival};
use crate::faults::{Fault, FaultClass};
use crate::operator::Wish;
use crate::run::{Simulation, Todo};

/// How a fault that lasts ends.
#[derive(Clone, Debug)]
pub(crate) enum Undo {
    /// These ways open again.
    Mend(Vec<(NodeId, NodeId)>),
    /// These ways are fast again.
    SpeedUp(Vec<(NodeId, NodeId)>),
    /// A node goes on.
    Resume(NodeId),
    /// A disk is fast again.
    FastDisk(NodeId),
    /// News of a disk's jobs comes at once again.
    PromptDisk(NodeId),
    /// A disk has room again.
    Space(NodeId),
    /// A write that was to go astray and has not is forgiven.
    Forgive(NodeId),
}

/// Kinds that a schedule brings about; the others follow from rates or from these.
const SCHEDULED: [Fault; 32] = [
    Fault::Partition,
    Fault::OneWayCut,
    Fault::SlowLink,
    Fault::Kill,
    Fault::Pause,
    Fault::RollingRestart,
    Fault::PowerCut,
    Fault::ClusterPowerCut,
    Fault::CrashInStart,
    Fault::ClockJump,
    Fault::ClockSkew,
    Fault::ClockDrift,
    Fault::SlowDisk,
    Fault::Completions,
    Fault::ReadError,
    Fault::WriteError,
    Fault::SyncError,
    Fault::SyncDrops,
    Fault::BadSector,
    Fault::NoSpace,
    Fault::BitFlip,
    Fault::Misdirected,
    Fault::DiskLost,
    Fault::Membership,
    Fault::Learner,
    Fault::Transfer,
    Fault::Snapshot,
    Fault::SessionExpiry,
    Fault::Disconnect,
    Fault::Wiped,
    Fault::Backup,
    Fault::Untaken,
];

/// A fault that could not strike is tried again after this, in microseconds.
const TRY_AGAIN_US: u64 = 700_000;
/// So many times.
pub(crate) const TRIES_MAX: u32 = 60;
/// The operator makes no more machines voters.
const VOTERS_MAX: usize = 7;

/// When what strikes: each enabled kind at least once, and then at random.
pub(crate) fn schedule(
    rng: &mut Rng,
    faults: crate::faults::FaultSet,
    every_us: u64,
    safety_us: u64,
) -> Vec<(u64, Fault)> {
    let kinds: Vec<Fault> = SCHEDULED.into_iter().filter(|fault| faults.has(*fault)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = (safety_us / every_us).max(kinds.len() as u64);
    let mut strikes: Vec<(u64, Fault)> = Vec::with_capacity(count as usize);
    for number in 0..count as usize {
        let fault = kinds.get(number).copied().unwrap_or_else(|| *rng.pick(&kinds));
        strikes.push((rng.below(safety_us * 9 / 10), fault));
    }
    strikes.sort_unstable();
    strikes
}

impl Simulation {
    /// A fault is due.
    pub(crate) fn fault_strikes(&mut self, fault: Fault, tries: u32) -> Result<(), Violation> {
        if self.is_healing() {
            return Ok(());
        }
        self.lasts_us = 0;
        if !self.must_make_way(fault, tries) && self.strike(fault)? {
            let now = self.world.now();
            self.world.trace.line(now, || format!("fault: {fault}"));
            self.record.history.faults.push(sampan_lincheck::Fault {
                kind: fault.label().into(),
                from_ns: now.0 * 1_000,
                to_ns: Some(now.plus_us(self.lasts_us).0 * 1_000),
                what: String::new(),
            });
            if is_counted_here(fault) {
                self.counts.add(fault, 1);
            }
        } else if tries < TRIES_MAX {
            self.after(TRY_AGAIN_US, Todo::Fault { fault, tries: tries + 1 });
        }
        Ok(())
    }

    /// Makes it happen; false if it cannot now.
    fn strike(&mut self, fault: Fault) -> Result<bool, Violation> {
        match fault {
            Fault::Partition => Ok(self.partition()),
            Fault::OneWayCut => Ok(self.one_way_cut()),
            Fault::SlowLink => Ok(self.slow_link()),
            Fault::Kill => {
                Ok(self.pick_up().map(|id| self.kill_and_restart(id, 5_000_000)).is_some())
            }
            Fault::Pause => Ok(self.pause()),
            Fault::RollingRestart => Ok(self.rolling_restart()),
            Fault::PowerCut => {
                Ok(self.pick_up().map(|id| self.cut_power_and_restart(id, 5_000_000)).is_some())
            }
            Fault::ClusterPowerCut => Ok(self.cluster_power_cut()),
            Fault::CrashInStart => Ok(self.crash_in_start()),
            Fault::ClockJump | Fault::ClockSkew | Fault::ClockDrift => Ok(self.upset_clock(fault)),
            Fault::SlowDisk | Fault::Completions | Fault::NoSpace => Ok(self.trouble_disk(fault)),
            Fault::ReadError => Ok(self.fail_read()),
            Fault::WriteError => Ok(self.arm(Mishap::WriteFails)),
            Fault::SyncError => Ok(self.arm(Mishap::SyncFails { drop_pages: false })),
            Fault::SyncDrops => Ok(self.arm(Mishap::SyncFails { drop_pages: true })),
            Fault::BadSector | Fault::BitFlip | Fault::Misdirected => Ok(self.damage_disk(fault)),
            Fault::DiskLost => self.lose_disk(),
            Fault::Wiped => Ok(self.wipe_disk()),
            Fault::Backup => self.ask_for_backup(),
            Fault::Membership => self.change_members(),
            Fault::Learner => self.add_learner(),
            Fault::Transfer => self.transfer(),
            Fault::Snapshot => self.take_snapshots(),
            Fault::SessionExpiry => Ok(self.idle_client()),
            Fault::Disconnect => Ok(self.disconnect_client()),
            Fault::Untaken => Ok(self.stop_taking()),
            _ => Ok(true),
        }
    }

    // ------------------------------------------------------------------------------- whom

    /// A machine that runs: the leader, a third of the time.
    pub(crate) fn pick_up(&mut self) -> Option<NodeId> {
        if self.rng.one_in(3)
            && let Some(leader) = self.world.leader()
        {
            return Some(leader);
        }
        let up = self.world.ids_up();
        if up.is_empty() { None } else { Some(*self.rng.pick(&up)) }
    }

    fn machines(&self) -> Vec<NodeId> {
        self.world.nodes().map(crate::node::Node::id).collect()
    }

    /// A duration: often short, sometimes several terms.
    pub(crate) fn draw_us(&mut self, longest_us: u64) -> u64 {
        let longest = if self.rng.one_in(3) { longest_us } else { longest_us / 8 };
        self.lasts_us = self.rng.between(1_000, longest.max(1_001));
        self.lasts_us
    }

    // ------------------------------------------------------------------------------- network

    fn partition(&mut self) -> bool {
        let mut machines = self.machines();
        if machines.len() < 2 {
            return false;
        }
        self.rng.shuffle(&mut machines);
        let (a, b) = machines.split_at(self.rng.between(1, machines.len() as u64 - 1) as usize);
        let mut ways = Vec::new();
        for &x in a {
            for &y in b {
                ways.extend([(x, y), (y, x)]);
            }
        }
        self.cut(ways, 12_000_000);
        true
    }

    /// A machine and the others no longer hear each other for a while.
    pub(crate) fn isolate(&mut self, id: NodeId) {
        if self.is_healing() {
            return;
        }
        let others = self.machines().into_iter().filter(|other| *other != id);
        let ways = others.flat_map(|other| [(id, other), (other, id)]).collect();
        self.cut(ways, 12_000_000);
    }

    fn one_way_cut(&mut self) -> bool {
        let machines = self.machines();
        if machines.len() < 2 {
            return false;
        }
        let id = *self.rng.pick(&machines);
        let (out, all) = (self.rng.one_in(2), self.rng.one_in(2));
        let mut others: Vec<NodeId> = machines.into_iter().filter(|other| *other != id).collect();
        if !all {
            self.rng.shuffle(&mut others);
            others.truncate(1);
        }
        let ways = others.iter().map(|&o| if out { (id, o) } else { (o, id) }).collect();
        self.cut(ways, 12_000_000);
        true
    }

    fn cut(&mut self, ways: Vec<(NodeId, NodeId)>, longest_us: u64) {
        for (from, to) in &ways {
            self.world.network.cut(*from, *to);
        }
        let lasts = self.draw_us(longest_us);
        self.after(lasts, Todo::Undo(Undo::Mend(ways)));
    }

    fn slow_link(&mut self) -> bool {
        let machines = self.machines();
        if machines.len() < 2 {
            return false;
        }
        let id = *self.rng.pick(&machines);
        let times = self.rng.between(5, 200) as u16;
        let others = machines.into_iter().filter(|other| *other != id);
        let ways: Vec<_> = others.flat_map(|other| [(id, other), (other, id)]).collect();
        for (from, to) in &ways {
            self.world.network.slow_down(*from, *to, times);
        }
        let lasts = self.draw_us(12_000_000);
        self.after(lasts, Todo::Undo(Undo::SpeedUp(ways)));
        true
    }

    // ------------------------------------------------------------------------------- processes

    pub(crate) fn kill_and_restart(&mut self, id: NodeId, longest_us: u64) {
        self.reset_clients_of(id);
        self.world.kill(id);
        let down = self.draw_us(longest_us);
        self.after(down, Todo::Restart(id));
    }

    /// A process is killed and stays away for a while.
    pub(crate) fn take_away(&mut self, id: NodeId, away_us: u64) {
        self.reset_clients_of(id);
        self.world.kill(id);
        self.after(away_us, Todo::Restart(id));
    }

    fn cut_power_and_restart(&mut self, id: NodeId, longest_us: u64) {
        let survival = self.draw_survival();
        self.world.cut_power(id, survival);
        let down = self.draw_us(longest_us);
        self.after(down, Todo::Restart(id));
    }

    fn draw_survival(&mut self) -> Survival {
        match self.rng.below(4) {
            0 => Survival::None,
            1 => Survival::Some { permille: 100 },
            2 => Survival::Some { permille: 500 },
            _ => Survival::Some { permille: 900 },
        }
    }

    fn cluster_power_cut(&mut self) -> bool {
        let up = self.world.ids_up();
        for &id in &up {
            self.cut_power_and_restart(id, 2_000_000);
        }
        !up.is_empty()
    }

    /// Connections to a process that died are closed by its kernel.
    pub(crate) fn reset_clients_of(&mut self, id: NodeId) {
        for client in 0..self.clients.len() {
            if self.clients[client].node() == Some(id) {
                self.reset_later(client);
            }
        }
    }

    fn pause(&mut self) -> bool {
        let Some(id) = self.pick_up().filter(|id| !self.world.node(*id).is_paused()) else {
            return false;
        };
        self.world.pause(id);
        let lasts = self.draw_us(8_000_000);
        self.after(lasts, Todo::Undo(Undo::Resume(id)));
        true
    }

    fn rolling_restart(&mut self) -> bool {
        let mut at = 0;
        for id in self.machines() {
            self.after(at, Todo::Shutdown(id));
            at += self.rng.between(200_000, 2_000_000);
        }
        true
    }

    fn crash_in_start(&mut self) -> bool {
        let Some(id) = self.pick_up() else { return false };
        self.cut_power_and_restart(id, 500_000);
        let steps = self.rng.below(30);
        self.world.node_mut(id).disk_mut().fail_after(steps);
        true
    }

    // ------------------------------------------------------------------------------- clocks

    fn upset_clock(&mut self, fault: Fault) -> bool {
        let machines = self.machines();
        if machines.is_empty() {
            return false;
        }
        let id = *self.rng.pick(&machines);
        let now = self.world.now();
        let huge = self.rng.one_in(6);
        let ms = self.rng.between(1, if huge { 3_600_000 } else { 5_000 }) as i64;
        let ms = if self.rng.one_in(2) { ms } else { -ms };
        let ppm = self.rng.between(1, if huge { 300_000 } else { 2_000 }) as i32;
        let ppm = if self.rng.one_in(2) { ppm } else { -ppm };
        self.world.change_clock(id, |clock| match fault {
            Fault::ClockJump => clock.jump_ms(ms),
            Fault::ClockSkew => clock.set_skew(now, ms),
            _ => clock.set_drift(now, ppm),
        });
        true
    }

    // ------------------------------------------------------------------------------- disks

    fn trouble_disk(&mut self, fault: Fault) -> bool {
        let Some(id) = self.pick_up() else { return false };
        let lasts = self.draw_us(10_000_000);
        let times = self.rng.between(3, 60);
        let node = self.world.node_mut(id);
        match fault {
            Fault::SlowDisk => {
                node.set_disk_slowness(times);
                self.after(lasts, Todo::Undo(Undo::FastDisk(id)));
            }
            Fault::Completions => {
                node.set_completion_delay_us(times * 1_000);
                self.after(lasts, Todo::Undo(Undo::PromptDisk(id)));
            }
            _ => {
                node.disk_mut().full = true;
                self.after(lasts + 1_000_000, Todo::Undo(Undo::Space(id)));
            }
        }
        true
    }

    fn draw_files(&mut self) -> FileClass {
        let classes = [
            FileClass::Any,
            FileClass::Log,
            FileClass::Log,
            FileClass::HardState,
            FileClass::Snapshots,
        ];
        *self.rng.pick(&classes)
    }

    fn arm(&mut self, mishap: Mishap) -> bool {
        let files = self.draw_files();
        let Some(id) = self.pick_up() else { return false };
        let disk = self.world.node_mut(id).disk_mut();
        if disk.armed() > 0 {
            return false;
        }
        disk.arm(mishap, files);
        true
    }

    /// A read fails: of a snapshot that is sent, or of the files of a node that starts.
    fn fail_read(&mut self) -> bool {
        let files = self.draw_files();
        let Some(id) = self.pick_up() else { return false };
        self.world.node_mut(id).disk_mut().arm(Mishap::ReadFails, files);
        self.kill_and_restart(id, 1_000_000);
        true
    }

    /// What was stored is not what is read: only while the cluster can bear to lose the disk.
    fn damage_disk(&mut self, fault: Fault) -> bool {
        if !self.can_lose_a_disk() {
            return false;
        }
        let files = self.draw_files();
        let Some(configuration) = self.settled_configuration() else { return false };
        let voters: Vec<NodeId> =
            configuration.voters.into_iter().filter(|id| self.world.node(*id).is_up()).collect();
        if voters.is_empty() {
            return false;
        }
        let id = *self.rng.pick(&voters);
        let disk = self.world.node_mut(id).disk_mut();
        let struck = match fault {
            Fault::BitFlip => disk.flip_bit(files),
            Fault::BadSector => disk.spoil_sector(files),
            _ => {
                // It may strike at any time from now on.
                disk.damaged = true;
                disk.arm(Mishap::WriteMisdirected, FileClass::Log);
                self.after(1_000_000, Todo::Undo(Undo::Forgive(id)));
                true
            }
        };
        if struck && fault != Fault::Misdirected {
            self.kill_and_restart(id, 1_000_000);
        }
        struck
    }

    fn lose_disk(&mut self) -> Result<bool, Violation> {
        if !self.can_lose_a_disk() {
            return Ok(false);
        }
        let Some(configuration) = self.settled_configuration() else { return Ok(false) };
        let voters: Vec<NodeId> = configuration.voters.into_iter().collect();
        let id = *self.rng.pick(&voters);
        self.replace(id)?;
        Ok(true)
    }

    /// Somebody empties a data directory, or puts an empty disk in its place, and starts the node
    /// again with the same command, as `docs/operations.md` says.
    fn wipe_disk(&mut self) -> bool {
        let Some(now) = self.settled_configuration() else { return false };
        if !self.can_lose_a_disk() || now.voters != self.first_voters() {
            return false;
        }
        let voters: Vec<NodeId> = now.voters.into_iter().collect();
        let id = *self.rng.pick(&voters);
        self.wipe(id);
        if self.rng.one_in(2) {
            let later = self.draw_us(3_000_000);
            self.after(later, Todo::WipeAgain(id));
        }
        true
    }

    fn wipe(&mut self, id: NodeId) {
        self.reset_clients_of(id);
        self.disk_counts.merge(&self.world.node(id).disk().counts);
        self.known_errors.remove(&id);
        self.world.wipe(id);
        let down = self.draw_us(2_000_000);
        self.after(down, Todo::Restart(id));
    }

    /// A disk is emptied once more while the node is still being brought up: the cluster bears
    /// that, for it is the same one.
    pub(crate) fn wipe_again(&mut self, id: NodeId) {
        let is_unchanged =
            self.settled_configuration().is_some_and(|now| now.voters == self.first_voters());
        let is_brought_up = |node: &crate::node::Node| node.is_up() && node.disk().emptied;
        if is_unchanged && self.world.get(id).is_some_and(is_brought_up) {
            self.wipe(id);
        }
    }

    // ------------------------------------------------------------------------------- cluster

    fn change_members(&mut self) -> Result<bool, Violation> {
        let Some(now) = self.settled_configuration().filter(|now| self.is_sound(now)) else {
            return Ok(false);
        };
        let voters: Vec<NodeId> = now.voters.iter().copied().collect();
        let leader = self.world.leader().filter(|leader| now.voters.contains(leader));
        let victim = match leader {
            Some(leader) if self.rng.one_in(3) => leader,
            _ => *self.rng.pick(&voters),
        };
        let mut asked = true;
        match self.rng.below(5) {
            0 | 3 if voters.len() == 1 || (voters.len() < VOTERS_MAX && self.rng.one_in(2)) => {
                let machine = self.find_machine()?;
                asked = machine.is_some();
                if let Some(id) = machine {
                    self.operator.wish(Wish::Learn(id));
                    self.operator.wish(Wish::Promote(id));
                }
            }
            1 if voters.len() > self.voters_min() => self.operator.wish(Wish::Leave(victim)),
            2 if voters.len() > self.voters_min() => {
                self.operator.wish(Wish::Demote(victim));
                self.operator.wish(Wish::Promote(victim));
            }
            4 => asked = self.change_several(voters)?,
            _ => {
                let fresh = self.add_machine()?;
                asked = fresh.is_some();
                if let Some(id) = fresh {
                    self.operator.wish(Wish::Replace(victim, id));
                    self.operator.wish(Wish::Promote(id));
                    self.operator.wish(Wish::Leave(victim));
                }
            }
        }
        Ok(asked)
    }

    /// Several voters change at once, all of them perhaps.
    fn change_several(&mut self, mut voters: Vec<NodeId>) -> Result<bool, Violation> {
        let mut new = Vec::new();
        for _ in 0..self.rng.between(1, 3) {
            new.extend(self.find_machine()?);
        }
        if new.is_empty() {
            return Ok(false);
        }
        self.rng.shuffle(&mut voters);
        let most = voters.len().min(VOTERS_MAX - new.len());
        let least = self.voters_min().saturating_sub(new.len()).min(most);
        voters.truncate(self.rng.between(least as u64, most as u64) as usize);
        for &id in &new {
            self.operator.wish(Wish::Learn(id));
        }
        self.operator.wish(Wish::Vote(voters.into_iter().chain(new).collect()));
        Ok(true)
    }

    /// The members are never made fewer than these: what a disk may lose for good must stay within
    /// what a quorum can bear, and a network that has yet to fail in some way needs two of them.
    fn voters_min(&self) -> usize {
        if Fault::LOSSES.into_iter().any(|fault| self.plan.faults.has(fault)) {
            return 3;
        }
        let counts = self.counts_so_far();
        let owed = |fault: Fault| fault.class() == FaultClass::Network && counts.of(fault) == 0;
        if self.plan.faults.iter().any(owed) { 2 } else { 1 }
    }

    fn add_learner(&mut self) -> Result<bool, Violation> {
        let Some(now) = self.settled_configuration().filter(|_| self.operator.is_content()) else {
            return Ok(false);
        };
        if let Some(&learner) = now.learners.first() {
            self.operator.wish(Wish::Leave(learner));
            return Ok(true);
        }
        let fresh = self.add_machine()?;
        if let Some(id) = fresh {
            self.operator.wish(Wish::Learn(id));
        }
        Ok(fresh.is_some())
    }

    fn transfer(&mut self) -> Result<bool, Violation> {
        let Some(leader) = self.world.leader() else { return Ok(false) };
        let machines = self.machines();
        let to = if self.rng.one_in(2) { None } else { Some(*self.rng.pick(&machines)) };
        self.world.input(leader, Input::TransferLeadership(to))?;
        Ok(true)
    }

    pub(crate) fn take_snapshots(&mut self) -> Result<bool, Violation> {
        for id in self.world.ids_up() {
            self.world.input(id, Input::TakeSnapshot)?;
        }
        Ok(true)
    }

    // ------------------------------------------------------------------------------- clients

    /// A client with a session falls silent for longer than that lives.
    fn idle_client(&mut self) -> bool {
        let clients = 0..self.clients.len();
        let holders: Vec<usize> =
            clients.filter(|client| self.clients[*client].has_session()).collect();
        if holders.is_empty() {
            return false;
        }
        // One that is silent already is left to it: silence that never ends would show nothing.
        let now = self.world.now();
        if holders.iter().any(|client| self.clients[*client].is_idle(now)) {
            return true;
        }
        let client = *self.rng.pick(&holders);
        let ttl_us = self.plan.options.kv.session_ttl_ms.min(10_000) * 1_000;
        let until = self.world.now().plus_us(ttl_us + self.rng.between(100_000, 2_000_000));
        self.clients[client].idle_until(until);
        true
    }

    pub(crate) fn disconnect_client(&mut self) -> bool {
        let waiting: Vec<usize> =
            (0..self.clients.len()).filter(|client| self.clients[*client].is_waiting()).collect();
        if waiting.is_empty() {
            return false;
        }
        let client = *self.rng.pick(&waiting);
        self.client_hangs_up(client);
        true
    }

    // ------------------------------------------------------------------------------- the end of it

    /// A fault that lasted ends.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Mend(ways) => {
                for (from, to) in ways {
                    self.world.network.mend(from, to);
                    if self.world.network.is_open(from, to) && self.rng.one_in(2) {
                        self.world.hint(from, to, true);
                    }
                }
            }
            Undo::SpeedUp(ways) => {
                for (from, to) in ways {
                    self.world.network.slow_down(from, to, 1);
                }
            }
            Undo::Resume(id) if self.world.get(id).is_some() => self.world.resume(id),
            Undo::FastDisk(id) if self.world.get(id).is_some() => {
                self.world.node_mut(id).set_disk_slowness(1);
            }
            Undo::PromptDisk(id) if self.world.get(id).is_some() => {
                self.world.node_mut(id).set_completion_delay_us(0);
            }
            Undo::Space(id) if self.world.get(id).is_some() => {
                self.world.node_mut(id).disk_mut().full = false;
            }
            Undo::Forgive(id) if self.world.get(id).is_some() => {
                let disk = self.world.node_mut(id).disk_mut();
                disk.damaged &= !disk.disarm(Mishap::WriteMisdirected);
            }
            Undo::Resume(_)
            | Undo::FastDisk(_)
            | Undo::PromptDisk(_)
            | Undo::Space(_)
            | Undo::Forgive(_) => {}
        }
    }

    /// Starts a node that is down; what keeps it from starting decides what comes next.
    pub(crate) fn start_node(&mut self, id: NodeId) -> Result<(), Violation> {
        if self.world.get(id).is_none_or(crate::node::Node::is_up) {
            return Ok(());
        }
        let read_errors = self.world.node(id).disk().counts.read_errors;
        let Err(error) = self.world.start(id)? else { return Ok(()) };
        let disk = self.world.node(id).disk();
        let passing = disk.counts.read_errors > read_errors && !disk.damaged;
        if disk.has_failed() {
            self.counts.add(Fault::CrashInStart, 1);
            self.cut_power_and_restart(id, 500_000);
            return Ok(());
        }
        match error {
            OpenError::Storage(sampan_storage::OpenError::Disk(_)) => {
                self.after(300_000, Todo::Restart(id));
            }
            _ if passing => self.after(300_000, Todo::Restart(id)),
            error if disk.damaged => {
                self.world.trace.line(self.world.now(), || format!("{id} is given up: {error}"));
                self.refusals += 1;
                self.replace(id)?;
            }
            error => {
                let detail = format!("{id} refuses to start though nothing is damaged: {error}");
                return Err(Violation::new("recovery", detail));
            }
        }
        Ok(())
    }

    /// Ends everything that is wrong.
    pub(crate) fn heal(&mut self) {
        self.world.network.heal();
        let now = self.world.now();
        for id in self.machines() {
            let node = self.world.node_mut(id);
            node.disk_mut().heal();
            node.set_disk_slowness(1);
            node.set_completion_delay_us(0);
            self.world.change_clock(id, |clock| {
                clock.set_drift(now, 0);
                clock.set_skew(now, 0);
            });
            self.world.resume(id);
            if !self.world.node(id).is_up() {
                self.after(1_000, Todo::Restart(id));
            }
        }
    }
}

/// Is a strike the fault itself? The others are counted where they are felt.
fn is_counted_here(fault: Fault) -> bool {
    !matches!(
        fault,
        Fault::CrashInStart
            | Fault::Completions
            | Fault::ReadError
            | Fault::WriteError
            | Fault::SyncError
            | Fault::SyncDrops
            | Fault::NoSpace
            | Fault::Misdirected
            | Fault::SessionExpiry
            | Fault::Wiped
            | Fault::Backup
            | Fault::Untaken
    )
}
