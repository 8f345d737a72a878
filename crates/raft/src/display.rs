//! One line for everything that travels or is stored: `n1@3 → n2 Append base=4@2 [5@3 6@3]
//! commit=4`. An entry or position is `index@term`.

use std::fmt::{self, Display, Formatter};

use sampan_base::{Entry, EntryKind, LogPosition};

use crate::{AppendResult, Body, Health, Message};

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} → {} {}", self.from, self.term, self.to, self.body)
    }
}

impl Display for Body {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::PreVote { last } => write!(f, "PreVote last={}", At(*last)),
            Self::PreVoteReply { asked, answer } => {
                write!(f, "PreVoteReply {} for={asked}", answer.label())
            }
            Self::Vote { last, transfer } => {
                let transfer = if *transfer { " transfer" } else { "" };
                write!(f, "Vote last={}{transfer}", At(*last))
            }
            Self::VoteReply { granted } => write!(f, "VoteReply {}", yes(*granted)),
            Self::Append { previous, commit, entries, .. } => {
                write!(f, "Append base={} {} commit={commit}", At(*previous), Entries(entries))
            }
            Self::AppendReply { recovering, health, result, .. } => {
                match result {
                    AppendResult::Accepted { matched } => write!(f, "AppendAck match={matched}")?,
                    AppendResult::Rejected { previous, hint } => {
                        write!(f, "AppendReject base={previous} hint={}", At(*hint))?;
                    }
                }
                if *health != Health::Well {
                    write!(f, " {}", health.label())?;
                }
                f.write_str(if *recovering { " recovering" } else { "" })
            }
            Self::Heartbeat { commit, matched, read, .. } => {
                write!(f, "Heartbeat commit={commit} match={} read={read}", matched.index)
            }
            Self::HeartbeatReply { recovering, health, read, received, matched, .. } => {
                write!(f, "HeartbeatReply read={read} received={received} match={matched}")?;
                if *health != Health::Well {
                    write!(f, " {}", health.label())?;
                }
                f.write_str(if *recovering { " recovering" } else { "" })
            }
            Self::InstallSnapshot { meta, data, .. } if data.is_empty() => {
                let at = At(meta.position);
                write!(f, "InstallSnapshot #{:x} {at} ?/{}", meta.id.0, meta.size_bytes)
            }
            Self::InstallSnapshot { meta, offset, data, .. } => {
                let (at, end) = (At(meta.position), offset + data.len() as u64);
                write!(
                    f,
                    "InstallSnapshot #{:x} {at} {offset}..{end}/{}",
                    meta.id.0, meta.size_bytes
                )
            }
            Self::InstallSnapshotReply { id, next_offset, matched, .. } => {
                write!(f, "InstallSnapshotReply #{:x} next={next_offset} match={matched}", id.0)
            }
            Self::SnapshotHeld { id, maker, meta, .. } => {
                let (rather, at) = (meta.id.0, At(meta.position));
                write!(f, "SnapshotHeld #{:x}: rather #{rather:x} {at} of {maker}", id.0)
            }
            Self::TimeoutNow => f.write_str("TimeoutNow"),
            Self::ReadIndex { sequence, .. } => write!(f, "ReadIndex #{sequence}"),
            Self::ReadIndexReply { sequence, index, last, .. } => {
                write!(f, "ReadIndexReply #{sequence} index={index} last={last}")
            }
            Self::Greet { .. } => f.write_str("Greet"),
            Self::GreetReply { holds, .. } => write!(f, "GreetReply holds={}", yes(*holds)),
        }
    }
}

/// A position as `index@term`.
struct At(LogPosition);

impl Display for At {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.index, self.0.term)
    }
}

/// Entries as `[5@3 6@3]`; a no-op is `5@3!`, a configuration `5@3*`.
struct Entries<'a>(&'a [Entry]);

impl Display for Entries<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, entry) in self.0.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            let mark = match entry.kind {
                EntryKind::Noop => "!",
                EntryKind::Command => "",
                EntryKind::Configuration => "*",
            };
            write!(f, "{space}{}{mark}", At(entry.position()))?;
        }
        f.write_str("]")
    }
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}
