//! How messages and disk jobs read in a line of the trace (`trace.rs`). Nothing here is hashed.

use sampan_base::NodeId;
use sampan_replica::DiskDone;
use sampan_replica::wire::PeerMessage;

use crate::node::Node;

pub(crate) fn describe(node: &Node, message: &PeerMessage) -> String {
    let role = node.replica().map_or_else(String::new, |replica| replica.raft().role().to_string());
    match message {
        PeerMessage::Raft(raft) => {
            format!("{}@{} {role} → {} {}", raft.from, raft.term, raft.to, raft.body)
        }
        _ => format!("{} {role} → {}", node.id(), describe_message(node.id(), message)),
    }
}

pub(crate) fn describe_message(from: NodeId, message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(raft) => format!("{}@{} {}", raft.from, raft.term, raft.body),
        PeerMessage::Forward(forward) => {
            let ids: Vec<u64> = forward.requests.iter().map(|request| request.id).collect();
            format!("{from} Forward @{} #{} {ids:?}", forward.term, forward.frame_seq)
        }
        PeerMessage::ForwardReply(reply) => {
            let ids: Vec<String> = reply
                .outcomes
                .iter()
                .map(|outcome| format!("{} {:?}", outcome.id, outcome.outcome))
                .collect();
            format!("{from} ForwardReply [{}]", ids.join(", "))
        }
    }
}

pub(crate) fn describe_done(done: &DiskDone) -> String {
    match done {
        DiskDone::SnapshotSend { to, id, offset, data } => {
            let what =
                data.as_ref().map_or_else(ToString::to_string, |data| data.len().to_string());
            format!("read snapshot #{id} at {offset} for {to}: {what}")
        }
        DiskDone::SnapshotLoad(Ok(Some((data, next)))) => {
            format!("loaded {} bytes of a snapshot, next at {next}", data.len())
        }
        other => format!("{other:?}"),
    }
}
