//! The kinds of faults, what each is called, and how often each struck.

use std::fmt;

/// One class of faults: switched on or off as a whole for a seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultClass {
    /// What happens to messages.
    Network,
    /// What happens to processes.
    Process,
    /// What happens to clocks.
    Clock,
    /// What happens to disks.
    Disk,
    /// What is done to the cluster.
    Cluster,
    /// What clients do.
    Client,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $class:ident $label:literal,)*) => {
        /// One kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// Its name in tables.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Its class.
            pub const fn class(self) -> FaultClass {
                match self {
                    $(Self::$name => FaultClass::$class,)*
                }
            }
        }
    };
}

faults! {
    /// Messages are lost.
    Drop Network "drop",
    /// Messages arrive twice.
    Duplicate Network "duplicate",
    /// Messages overtake each other.
    Reorder Network "reorder",
    /// Messages arrive after several terms.
    Delay Network "delay",
    /// Messages arrive with other bytes.
    Corrupt Network "corrupt",
    /// The nodes fall into two parts.
    Partition Network "partition",
    /// Some ways are cut in one direction.
    OneWayCut Network "one-way cut",
    /// Some ways become slow.
    SlowLink Network "slow link",
    /// A process dies.
    Kill Process "kill",
    /// A process stops in its tracks for a while.
    Pause Process "pause",
    /// Every node in turn is stopped in good order and started again.
    RollingRestart Process "rolling restart",
    /// A node loses power.
    PowerCut Process "power cut",
    /// All nodes lose power at once.
    ClusterPowerCut Process "cluster power cut",
    /// A node loses power while it starts.
    CrashInStart Process "crash in start",
    /// A wall clock jumps.
    ClockJump Clock "clock jump",
    /// A wall clock is wrong.
    ClockSkew Clock "clock skew",
    /// A clock runs fast or slow.
    ClockDrift Clock "clock drift",
    /// A power loss takes sectors that were not synced.
    LostSectors Disk "lost sectors",
    /// A power loss takes names that were not synced.
    LostNames Disk "lost names",
    /// A crash cuts a write in two.
    TornWrite Disk "torn write",
    /// A disk becomes slow.
    SlowDisk Disk "slow disk",
    /// News of a job that was done comes late, after news of a later one.
    Completions Disk "late completions",
    /// A read fails.
    ReadError Disk "read error",
    /// A write fails.
    WriteError Disk "write error",
    /// A sync fails; the next one does what this one did not.
    SyncError Disk "sync error",
    /// A sync fails and forgets what it was to write; the next one succeeds.
    SyncDrops Disk "sync drops pages",
    /// A sector cannot be read any more.
    BadSector Disk "bad sector",
    /// A disk is full.
    NoSpace Disk "no space",
    /// A stored bit flips.
    BitFlip Disk "bit flip",
    /// A write lands elsewhere.
    Misdirected Disk "misdirected write",
    /// A disk is lost; the node comes back under a new name.
    DiskLost Disk "disk lost",
    /// The members change, through a joint configuration.
    Membership Cluster "membership",
    /// A learner joins.
    Learner Cluster "learner",
    /// Leadership is handed over.
    Transfer Cluster "transfer",
    /// Everybody takes a snapshot.
    Snapshot Cluster "snapshot",
    /// A snapshot of the leader's replaces a node's log.
    Install Cluster "install",
    /// A session expires.
    SessionExpiry Client "session expiry",
    /// A client sends a command again.
    Retry Client "retry",
    /// A client goes away without waiting for its answers.
    Disconnect Client "disconnect",
    /// A disk is emptied; the node comes back under its own name.
    Wiped Disk "wiped in place",
    /// Somebody takes a backup.
    Backup Cluster "backup",
    /// A client does not take its replies for a while.
    Untaken Client "untaken replies",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl Fault {
    /// What a disk held is gone for good.
    pub const LOSSES: [Self; 5] =
        [Self::BitFlip, Self::BadSector, Self::Misdirected, Self::DiskLost, Self::Wiped];

    /// In the end another machine votes than before.
    pub const CHANGES_OF_VOTERS: [Self; 5] =
        [Self::BitFlip, Self::BadSector, Self::Misdirected, Self::DiskLost, Self::Membership];

    /// Does it wait until the members are settled, and the loss of one disk more can be borne?
    /// Other kinds make way for it in time (`insistence.rs`).
    pub const fn needs_a_sound_cluster(self) -> bool {
        matches!(
            self,
            Self::BadSector
                | Self::BitFlip
                | Self::Misdirected
                | Self::DiskLost
                | Self::Membership
                | Self::Learner
                | Self::Install
                | Self::Wiped
        )
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultSet(u64);

impl FaultSet {
    /// Adds a kind.
    pub fn insert(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u64;
    }

    /// The set of these kinds.
    pub fn of(kinds: &[Fault]) -> Self {
        let mut set = Self::default();
        kinds.iter().for_each(|kind| set.insert(*kind));
        set
    }

    /// Takes a kind away.
    pub fn remove(&mut self, fault: Fault) {
        self.0 &= !(1 << fault as u64);
    }

    /// Is it in the set?
    pub const fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u64 & 1 == 1
    }

    /// All kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }
}

/// How often each kind struck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// It struck so many times more.
    pub fn add(&mut self, fault: Fault, times: u64) {
        self.0[fault as usize] += times;
    }

    /// How often it struck.
    pub const fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = FaultSet::default();
        set.insert(Fault::Retry);
        set.insert(Fault::Drop);
        set.insert(Fault::Kill);
        set.remove(Fault::Kill);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Fault::Drop, Fault::Retry]);
        assert!(Fault::ALL.len() <= 64, "a set is 64 bits");
    }
}
