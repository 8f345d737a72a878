//! What a message promises is on its sender's disk when it leaves: its term, a vote, what it says
//! is durable (paper 5.6, Figure 2 "Updated on stable storage before responding to RPCs"; thesis
//! 3.8). Without this oracle a promise made too early shows only when a crash breaks it.
//!
//! Durable is what the simulated disk synced, not what the node believes.

use sampan_base::LogIndex;
use sampan_raft::{AppendResult, Body, Message};

use super::{Seen, Violation};

/// A message leaves; `seen` is its sender.
pub fn check(message: &Message, seen: &Seen) -> Result<(), Violation> {
    let Message { from, to, term, ref body } = *message;
    let (durable_term, durable_vote) = seen.durable_hard_state;
    if term > durable_term {
        let detail = format!("{from} speaks in term {term}, its disk knows {durable_term}: {body}");
        return Err(Violation::new("ack-after-sync", detail));
    }
    let grants = *body == Body::VoteReply { granted: true };
    if grants && term == durable_term && durable_vote != Some(to) {
        let detail = format!("{from} votes for {to} in {term}, its disk says {durable_vote:?}");
        return Err(Violation::new("ack-after-sync", detail));
    }
    let durable = seen.durable.last();
    if promised(body) > durable {
        let detail = format!("{from} has {durable} on its disk and tells {to} {body}");
        return Err(Violation::new("ack-after-sync", detail));
    }
    Ok(())
}

/// Through here the sender says that its log is durable.
fn promised(body: &Body) -> LogIndex {
    match *body {
        Body::AppendReply { result: AppendResult::Accepted { matched }, .. }
        | Body::HeartbeatReply { matched, .. }
        | Body::InstallSnapshotReply { matched, .. } => matched,
        _ => LogIndex::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::{LogPosition, NodeId, Term};

    #[test]
    fn nothing_is_said_before_it_is_durable() {
        let (a, b) = (NodeId::of(1), NodeId::of(2));
        let mut seen = Seen { durable_hard_state: (Term(4), Some(b)), ..Seen::default() };
        seen.durable.push(LogPosition { term: Term(1), index: LogIndex(1) });
        let says =
            |to, term, body| check(&Message { from: a, to, term: Term(term), body }, &seen).is_ok();
        assert!(says(b, 4, Body::VoteReply { granted: true }));
        assert!(!says(NodeId::of(3), 4, Body::VoteReply { granted: true }), "another vote");
        assert!(!says(b, 5, Body::VoteReply { granted: false }), "a term not written");
        let accepted = |matched| Body::AppendReply {
            sequence: 1,
            recovering: false,
            health: sampan_raft::Health::default(),
            result: AppendResult::Accepted { matched: LogIndex(matched) },
        };
        assert!(says(b, 4, accepted(1)));
        assert!(!says(b, 4, accepted(2)), "an entry not synced");
    }
}
