//! Bugs planted on purpose: each is one that a real system had, a line or two at its site, and none
//! is compiled unless a simulator asks for it. `docs/plants.md` is the ledger: where each comes
//! from and what catches it.
//!
//! A site reads `planted!(Name)`. Without the feature `plants`, which only `sampan-sim` can turn
//! on, that is the word `false`. With it, it asks whether this thread has that bug planted: a
//! simulator plants one before a run ([`plant`]), so the run stays a function of its seed.
//!
//! What is absent: any say in what a product build does. `sampan-server` does not compile with the
//! feature.

use std::cell::Cell;

/// Is this bug planted? The literal `false` unless the simulator is built to plant bugs.
#[cfg(feature = "plants")]
#[macro_export]
macro_rules! planted {
    ($plant:ident) => {
        $crate::plant::is_planted($crate::plant::Plant::$plant)
    };
}

macro_rules! plants {
    ($($(#[doc = $what:literal])* $name:ident,)*) => {
        /// A bug that can be planted, and what it is in a sentence.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Plant {
            $($(#[doc = $what])* $name,)*
        }

        impl Plant {
            /// All of them.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What is wrong while it is planted.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what),*),)*
                }
            }
        }
    };
}

plants! {
    // Elections and hard state.

    /// A vote leaves before it is durable.
    VoteBeforeSync,
    /// Term and vote are written and not synced.
    HardStateNotSynced,
    /// Stepping down within a term clears the vote.
    VoteClearedInTerm,
    /// The answer to a pre-vote counts as a vote.
    PreVoteCountsAsVote,
    /// Votes are counted, not voters.
    VotesCountedNotVoters,
    /// A log is up to date if it is long, whatever its last term.
    LastTermIgnored,
    /// A node that voted for itself starts again as leader.
    LeaderAfterRestart,
    /// Messages of an older term get no answer.
    StaleTermSilent,
    /// A new term is not written down unless a vote comes with it.
    TermNotWritten,
    /// A vote request of a newer term is granted before the logs are compared.
    NewerTermGranted,

    // Replication and its persistence.

    /// An entry of an older term is committed by counting.
    OldTermCounted,
    /// An Append cuts the log behind its last entry, conflict or not.
    CutWithoutConflict,
    /// A conflict is overwritten in place, and what followed it stays.
    TailKept,
    /// The commit index is bounded by the last entry, not by the last one known to be the leader's.
    UnverifiedCommitted,
    /// An older acknowledgement takes the match index back.
    MatchGoesBack,
    /// An entry before an Append that is missing counts as the same.
    MissingPreviousMatches,
    /// An acknowledgement leaves before its sync.
    AckBeforeSync,
    /// The leader counts its own entries before their sync.
    OwnUnsyncedCounted,
    /// The sync of an entry that was cut proves the one in its place.
    CutEntryProven,
    /// A log that is cut still counts as durable through where it was.
    CutStaysDurable,
    /// Entries are durable before the term they came with.
    EntriesBeforeTerm,
    /// A sync that failed is tried again, and that succeeds.
    FailedSyncRetried,
    /// A rejection moves the match index.
    RejectionMatches,
    /// A leader of an older term is obeyed.
    StaleLeaderObeyed,

    // Reads.

    /// A read index is given before an entry of the term is committed.
    ReadBeforeTermCommit,
    /// An answer to any heartbeat confirms the latest reads.
    AnyHeartbeatConfirms,
    /// The leader confirms reads by itself.
    ReadUnconfirmed,
    /// A follower takes its own commit index for a read index.
    FollowerCommitRead,
    /// A read is served before the state machine has reached its index.
    ReadBeforeApply,
    /// Reads that waited for their client are forgotten when it takes its replies again.
    HeldReadsForgotten,
    /// While one client does not take its replies, nobody's reads are served.
    HeldHoldsUpOthers,
    /// What waited behind replies that were not taken is read from local state, without a read
    /// index.
    ParkedReadUnconfirmed,
    /// A read with an earlier index is served before an earlier read of its connection with a later
    /// one.
    ParkedReadOvertaken,
    /// A READONLY connection is told by a follower how long a key has left.
    StaleTtl,
    /// A READONLY connection is told from local state what became of a command.
    StaleOutcome,
    /// A READONLY connection reads local state before an earlier read of it that asked the leader.
    StaleReadOvertakes,
    /// A READONLY connection reads local state that does not hold its own last write.
    StaleBeforeOwnWrite,

    // Snapshots and applying.

    /// An older snapshot is installed over a newer state.
    OlderSnapshotInstalled,
    /// A snapshot carries the commit index instead of the index of its state.
    SnapshotIndexAhead,
    /// The log is trimmed when a snapshot begins, not when it is durable.
    TrimBeforeSnapshot,
    /// A snapshot holds the latest configuration instead of the one at its index.
    SnapshotLatestConfiguration,
    /// The first entry after a restart counts as applied already.
    FirstEntrySkipped,
    /// Whether a peer needs a snapshot is off by one.
    SnapshotNeedOffByOne,
    /// A snapshot gets its name before it is synced.
    SnapshotNotSynced,
    /// A snapshot's new name is not synced.
    SnapshotNameNotSynced,
    /// A new snapshot is written over the file of one that is kept.
    KeptSnapshotOverwritten,

    // Membership.

    /// Voters change in one step, and before an entry of the term is committed.
    SingleStepChange,
    /// A change begins while another is not committed.
    TwoChangesPending,
    /// A joint configuration commits by one half.
    JointCommitsByOneHalf,
    /// A joint configuration elects by one half.
    JointElectsByOneHalf,
    /// A configuration stays in force when its entry is cut.
    ConfigurationNotRolledBack,

    // Clients and sessions.

    /// A waiter takes the reply of any entry at its index.
    WaiterByIndexOnly,
    /// A write that is given up is said to have failed.
    GivenUpFails,
    /// A command whose fate is unknown is sent again.
    UnknownSentAgain,
    /// A follower forwards what comes next on a connection before it has heard of the last frame.
    LaterFrameOvertakes,
    /// What was forwarded and given up counts as under way for ever.
    GivenUpStillCounts,
    /// A forwarded read or session command without an answer is sent again though what came after
    /// it was answered.
    ForwardedReadOvertaken,
    /// A forwarded frame that arrives twice is taken twice.
    ForwardTakenTwice,
    /// A node refuses forwards that it may have taken in an earlier life.
    TakenForwardRefused,
    /// Lives of a node are not told apart by the nodes it forwards to.
    LifeNotNumbered,
    /// A node that lost its disk takes the number after that of the life it is told of, whoever
    /// tells it.
    ToldLifeCounted,
    /// Sessions are left out of a restored snapshot.
    SessionsNotRestored,
    /// A command that was executed is executed again.
    DuplicateExecuted,
    /// Only the last reply of a session is remembered, and taken for that of all before it.
    OnlyLastReplyKept,
    /// An acknowledgement drops one reply too many.
    AckDropsOneMore,
    /// A session that is gone is opened again by its next command.
    ExpiredSessionReopened,
    /// An entry is applied at the local time, not at its own.
    LocalTimeApplied,

    // Storage.

    /// A group commit is written and not synced.
    AppendNotSynced,
    /// A new segment's name is not synced.
    SegmentNameNotSynced,
    /// Only one copy of the hard state is written, in turn.
    HardStatePingPong,
    /// Whatever is wrong with the end of the log is cut off.
    DamagedTailCut,
    /// A log that does not reach the snapshot is taken for one that never was.
    GapStartsAnew,
    /// A segment is used again and does not say what else may stand in it.
    EarlierLifeUnnamed,
    /// A cut that is on disk is not made when the log is read.
    CutNotReplayed,
    /// The log is trimmed by a segment too many.
    TrimmedTooFar,
    /// A node with an empty disk takes part before it has heard from the others.
    NewbornUnheard,
    /// A node that lost its disk counts before it has the log again.
    NewbornCounted,
    /// A backup is any snapshot that there is, however old.
    BackupOfOld,
}

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// Plants a bug in all that this thread runs from now on; `None`: pulls it up.
pub fn plant(plant: Option<Plant>) {
    PLANTED.set(plant);
}

/// What [`planted!`](crate::planted) asks.
pub fn is_planted(plant: Plant) -> bool {
    PLANTED.get() == Some(plant)
}
