//! The Raft consensus algorithm as a pure state machine: inputs and the time go in, messages,
//! things to persist and committed entries come out.

mod config;
mod display;
mod election;
mod follower;
mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod node;
mod outputs;
mod persist;
mod progress;
mod read;
mod snapshot;
mod status;
mod transfer;
mod wire;

pub use config::Config;
pub use message::{AppendResult, Body, Message};
pub use node::{Raft, Restored};
pub use outputs::{
    Outputs, ReadId, ReadOutcome, ReadVoid, Refused, RoleChange, SnapshotChunk, SnapshotRead,
};
pub use persist::{AfterPersist, Durable, Persist, PersistToken, Persisted};
pub use status::{DropCounts, DropReason, PeerState, PeerStatus, Role, Status};
