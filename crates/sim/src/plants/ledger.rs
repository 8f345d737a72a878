//! Every bug that can be planted: where it was seen, what should catch it, and how it is searched
//! for.

use std::fmt;

use sampan_base::plant::Plant;

use super::aims::{
    churn, crashes, duplicates, forwards, given_up, installs, late_and_twice, lost_answers, rot,
    rotten_votes, split, stale_terms, unrest, untaken, wipes,
};
use super::scenarios::{
    late_append_of_an_old_leader, late_heartbeat_answers, longer_older_log,
    read_index_ahead_of_its_entries, second_copy_in_the_next_life, two_lives_told_of_one,
};
use crate::checkers::Violation;
use crate::swarm::Plan;

/// What a bug is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the words are the issue's")]
pub enum Area {
    Election,
    Replication,
    Reads,
    Snapshots,
    Membership,
    Clients,
    Sessions,
    Storage,
}

/// How a bug is searched for.
#[derive(Clone, Copy)]
pub enum Hunt {
    /// By the plans of seeds, as they are.
    Swarm,
    /// By plans that are bent towards where the bug lives.
    Aimed(fn(&mut Plan)),
    /// By a scenario of its own.
    Staged(fn(u64) -> Result<(), Violation>),
}

impl fmt::Display for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Swarm => "swarm",
            Self::Aimed(_) => "aimed",
            Self::Staged(_) => "staged",
        })
    }
}

/// What is known of a bug before it is searched for.
#[derive(Clone, Copy)]
pub struct Row {
    /// What it is about.
    pub area: Area,
    /// A system that had it, or the rule it breaks.
    pub source: &'static str,
    /// The oracle that should see it.
    pub expected: &'static str,
    /// How it is searched for.
    pub hunt: Hunt,
}

/// What is known of a bug.
#[allow(clippy::too_many_lines)] // a table
pub fn row(plant: Plant) -> Row {
    use Area::{Clients, Election, Membership, Reads, Replication, Sessions, Snapshots, Storage};
    let (area, source, expected, hunt) = match plant {
        Plant::VoteBeforeSync => (Election, "sofa-jraft #1241", "ack-after-sync", Hunt::Swarm),
        Plant::HardStateNotSynced => (Election, "sofa-jraft #1243", "recovery", Hunt::Swarm),
        Plant::VoteClearedInTerm => {
            (Election, "CCF #8094, camunda #5356", "assertion", Hunt::Swarm)
        }
        Plant::PreVoteCountsAsVote => {
            (Election, "canonical/raft #196", "election-safety", Hunt::Swarm)
        }
        Plant::VotesCountedNotVoters => {
            (Election, "xraft #27", "election-safety", Hunt::Aimed(duplicates))
        }
        Plant::LastTermIgnored => {
            (Election, "hashicorp/raft #94", "leader-completeness", Hunt::Staged(longer_older_log))
        }
        Plant::LeaderAfterRestart => (Election, "KAFKA-10527", "election-safety", Hunt::Swarm),
        Plant::StaleTermSilent => {
            (Election, "etcd 3c7359d, openraft #1796", "liveness", Hunt::Aimed(stale_terms))
        }
        Plant::TermNotWritten => (Election, "NATS PR #5975", "ack-after-sync", Hunt::Swarm),
        Plant::NewerTermGranted => {
            (Election, "databend #16175", "leader-completeness", Hunt::Aimed(unrest))
        }
        Plant::OldTermCounted => {
            (Replication, "logcabin #44, async-raft #108", "commit-own-term", Hunt::Aimed(unrest))
        }
        Plant::CutWithoutConflict => {
            (Replication, "raftos #26, CCF #5991", "assertion", Hunt::Swarm)
        }
        Plant::TailKept => (Replication, "mofa #1151", "log-matching", Hunt::Swarm),
        Plant::UnverifiedCommitted => (
            Replication,
            "copycat #265, NuRaft #57",
            "committed-immutable",
            Hunt::Staged(read_index_ahead_of_its_entries),
        ),
        Plant::MatchGoesBack => {
            (Replication, "raftos #25, PySyncObj #167", "match-index", Hunt::Swarm)
        }
        Plant::MissingPreviousMatches => {
            (Replication, "etcd 76f1249, openraft #1795", "assertion", Hunt::Swarm)
        }
        Plant::AckBeforeSync => (Replication, "NATS #7564", "ack-after-sync", Hunt::Swarm),
        Plant::OwnUnsyncedCounted => {
            (Replication, "openraft a9f696a9, etcd #14370", "durable-quorum", Hunt::Swarm)
        }
        Plant::CutEntryProven => {
            (Replication, "etcd 897e1cf, CRDB #127424", "durable-quorum", Hunt::Aimed(unrest))
        }
        Plant::CutStaysDurable => {
            (Replication, "CRDB #36353, #63302", "assertion", Hunt::Aimed(unrest))
        }
        Plant::EntriesBeforeTerm => {
            (Replication, "openraft io_ordering.md", "recovery", Hunt::Swarm)
        }
        Plant::FailedSyncRetried => {
            (Replication, "CRDB #37102, PostgreSQL 2018", "recovery", Hunt::Swarm)
        }
        Plant::RejectionMatches => (Replication, "etcd 91ff7cd", "match-index", Hunt::Swarm),
        Plant::StaleLeaderObeyed => (
            Replication,
            "paper, Figure 2, rule 1",
            "committed-immutable",
            Hunt::Staged(late_append_of_an_old_leader),
        ),
        Plant::ReadBeforeTermCommit => {
            (Reads, "etcd #7331, tikv #6340", "linearizability", Hunt::Swarm)
        }
        Plant::AnyHeartbeatConfirms => {
            (Reads, "etcd #20418", "linearizability", Hunt::Staged(late_heartbeat_answers))
        }
        Plant::ReadUnconfirmed => {
            (Reads, "RedisRaft #18, #19", "linearizability", Hunt::Aimed(split))
        }
        Plant::FollowerCommitRead => (Reads, "tikv #9208, #9239", "linearizability", Hunt::Swarm),
        Plant::ReadBeforeApply => (Reads, "redisraft 340df36", "linearizability", Hunt::Swarm),
        Plant::HeldReadsForgotten => (Reads, "rule R8", "unanswered", Hunt::Swarm),
        Plant::HeldHoldsUpOthers => (Reads, "rule R14", "unanswered", Hunt::Swarm),
        Plant::ParkedReadUnconfirmed => {
            (Reads, "thesis 6.4, rule R6", "linearizability", Hunt::Aimed(untaken))
        }
        Plant::ParkedReadOvertaken => {
            let hunt = Hunt::Aimed(late_and_twice);
            (Reads, "Sampan, before it was mended", "connection-order", hunt)
        }
        Plant::StaleTtl => (Reads, "rule R12", "ttl", Hunt::Swarm),
        Plant::StaleOutcome => (Reads, "Sampan, before it was mended", "client", Hunt::Swarm),
        Plant::StaleReadOvertakes => {
            (Reads, "Sampan, before it was mended", "connection-order", Hunt::Swarm)
        }
        Plant::StaleBeforeOwnWrite => {
            (Reads, "the order of a connection", "connection-order", Hunt::Swarm)
        }
        Plant::OlderSnapshotInstalled => {
            (Snapshots, "openraft #531, etcd #1763", "assertion", Hunt::Aimed(installs))
        }
        Plant::SnapshotIndexAhead => {
            (Snapshots, "dragonboat 7d5dc73, etcd #8091", "state-machine-safety", Hunt::Swarm)
        }
        Plant::TrimBeforeSnapshot => (Snapshots, "arcadedb #4829", "recovery", Hunt::Swarm),
        Plant::SnapshotLatestConfiguration => {
            (Snapshots, "etcd e515a67, hashicorp #617", "configuration-in-log", Hunt::Aimed(churn))
        }
        Plant::FirstEntrySkipped => {
            (Snapshots, "etcd 3.5 post-mortem #13766", "state-machine-safety", Hunt::Swarm)
        }
        Plant::SnapshotNeedOffByOne => {
            (Snapshots, "redisraft #47", "liveness", Hunt::Aimed(installs))
        }
        Plant::SnapshotNotSynced => (Snapshots, "RedisRaft #654", "recovery", Hunt::Swarm),
        Plant::SnapshotNameNotSynced => (Snapshots, "ALICE, rule S15", "recovery", Hunt::Swarm),
        Plant::KeptSnapshotOverwritten => {
            (Snapshots, "NATS #7556, rule S15", "recovery", Hunt::Aimed(crashes))
        }
        Plant::SingleStepChange => {
            (Membership, "raft-dev 2015, copycat #23", "configuration-in-log", Hunt::Swarm)
        }
        Plant::TwoChangesPending => (
            Membership,
            "etcd pendingConfIndex, NuRaft #67",
            "configuration-in-log",
            Hunt::Aimed(churn),
        ),
        Plant::JointCommitsByOneHalf => {
            (Membership, "async-raft #62", "durable-quorum", Hunt::Swarm)
        }
        Plant::JointElectsByOneHalf => {
            (Membership, "openraft beb0302b, camunda #57387", "election-safety", Hunt::Aimed(churn))
        }
        Plant::ConfigurationNotRolledBack => {
            (Membership, "canonical/raft #323", "assertion", Hunt::Aimed(churn))
        }
        Plant::WaiterByIndexOnly => {
            (Clients, "redpanda #3003", "linearizability", Hunt::Aimed(unrest))
        }
        Plant::GivenUpFails => (Clients, "consul #2893, libraft #5", "exactly-once", Hunt::Swarm),
        Plant::UnknownSentAgain => {
            (Clients, "fluree #1839, openraft PR #2096", "exactly-once", Hunt::Swarm)
        }
        Plant::LaterFrameOvertakes => {
            (Clients, "the order of a connection", "connection-order", Hunt::Swarm)
        }
        Plant::GivenUpStillCounts => (Clients, "rule R14", "liveness", Hunt::Aimed(given_up)),
        Plant::ForwardedReadOvertaken => {
            let hunt = Hunt::Aimed(lost_answers);
            (Clients, "Sampan, before it was mended", "connection-order", hunt)
        }
        Plant::ForwardTakenTwice => (Clients, "RedisRaft #13", "exactly-once", Hunt::Swarm),
        Plant::TakenForwardRefused => (
            Clients,
            "RedisRaft #23",
            "linearizability",
            Hunt::Staged(second_copy_in_the_next_life),
        ),
        Plant::LifeNotNumbered => {
            (Clients, "etcd #20418 (id used again)", "linearizability", Hunt::Aimed(forwards))
        }
        Plant::ToldLifeCounted => (
            Clients,
            "Sampan, before it was mended",
            "linearizability",
            Hunt::Staged(two_lives_told_of_one),
        ),
        Plant::SessionsNotRestored => {
            (Sessions, "redisraft #568, atomix #1101", "recovery", Hunt::Swarm)
        }
        Plant::DuplicateExecuted => {
            (Sessions, "curvine #676, etcd #18424", "exactly-once", Hunt::Swarm)
        }
        Plant::OnlyLastReplyKept => (Sessions, "rule R13", "exactly-once", Hunt::Swarm),
        Plant::AckDropsOneMore => (Sessions, "dragonboat RespondedUpTo", "client", Hunt::Swarm),
        Plant::ExpiredSessionReopened => {
            (Sessions, "thesis 6.3, rule R13", "exactly-once", Hunt::Swarm)
        }
        Plant::LocalTimeApplied => {
            (Sessions, "nomad #13725, databend #7325", "state-machine-safety", Hunt::Swarm)
        }
        Plant::AppendNotSynced => (Storage, "NATS #7564", "recovery", Hunt::Swarm),
        Plant::SegmentNameNotSynced => (Storage, "ALICE, rule S4", "recovery", Hunt::Swarm),
        Plant::HardStatePingPong => {
            (Storage, "dqlite uv_metadata.c, rule S13", "recovery", Hunt::Aimed(rotten_votes))
        }
        Plant::DamagedTailCut => {
            (Storage, "RedisRaft log.c, NATS #7549", "recovery", Hunt::Aimed(rot))
        }
        Plant::GapStartsAnew => {
            (Storage, "hashicorp CTRL draft, rule S16", "recovery", Hunt::Aimed(rot))
        }
        Plant::EarlierLifeUnnamed => (Storage, "etcd #6378", "recovery", Hunt::Aimed(crashes)),
        Plant::CutNotReplayed => (Storage, "qdrant #2508", "recovery", Hunt::Aimed(unrest)),
        Plant::TrimmedTooFar => (Storage, "RedisRaft #43", "recovery", Hunt::Swarm),
        Plant::NewbornUnheard => {
            (Storage, "RethinkDB #5289, RedisRaft #17", "replica-invariant", Hunt::Aimed(wipes))
        }
        Plant::NewbornCounted => {
            (Storage, "RethinkDB #5289, RedisRaft #17", "leader-completeness", Hunt::Aimed(wipes))
        }
        Plant::BackupOfOld => {
            (Snapshots, "etcdctl snapshot save, of one member", "backup", Hunt::Swarm)
        }
    };
    Row { area, source, expected, hunt }
}
