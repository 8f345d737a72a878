//! The Raft consensus algorithm as a pure state machine: inputs and the time go in, messages,
//! things to persist and committed entries come out.
//!
//! It implements *In Search of an Understandable Consensus Algorithm (extended version)* ("the
//! paper") and Ongaro's dissertation ("the thesis"). `docs/raft.md` maps each of their rules to a
//! function here and to a transcript in `tests/scripts` that shows it. Where "the course" is named,
//! it is MIT 6.824 (now 6.5840), whose interface and tests this library also satisfies.
//!
//! What is absent: I/O, threads, clocks, ambient randomness, and any knowledge of what a command
//! means. The same inputs at the same times with the same seed give the same outputs.
//!
//! # Driving a node
//!
//! A [`Raft`] is a value. Its host calls the inputs ([`Raft::step`], [`Raft::tick`],
//! [`Raft::propose`], [`Raft::read_index`], …) as things happen, and once a turn takes what came
//! of them:
//!
//! 1. [`Raft::take_persist`]: a batch for the disk. The write and its sync go on beside everything
//!    else; when they are done the batch's token goes back by [`Raft::persisted`]. Votes and
//!    acknowledgements wait inside for that ([`AfterPersist`]): the host cannot send them early.
//! 2. [`Raft::flush`]: messages that may leave now, read indexes, parts of snapshots.
//! 3. [`Raft::take_committed`]: entries to apply, in order.
//! 4. [`Raft::next_deadline`]: when to call [`Raft::tick`] if nothing happens before.
//!
//! Here is a host of three nodes, with disks that sync at once and a network that loses nothing:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::time::Duration;
//!
//! use sampan_base::{Configuration, EntryKind, NodeId, Time};
//! use sampan_raft::{Config, Message, Outputs, Raft, Restored};
//!
//! struct Host {
//!     raft: Raft,
//!     out: Outputs,
//!     applied: Vec<bytes::Bytes>,
//! }
//!
//! impl Host {
//!     /// Everything that follows an input.
//!     fn turn(&mut self, now: Time, network: &mut VecDeque<Message>) {
//!         while let Some(batch) = self.raft.take_persist() {
//!             // A real host writes `batch.hard_state`, then `batch.entries`, and syncs. Only then:
//!             self.raft.persisted(now, batch.token.synced());
//!         }
//!         self.raft.flush(now, &mut self.out);
//!         network.extend(self.out.messages.drain(..));
//!         for entry in self.raft.take_committed(usize::MAX) {
//!             if entry.kind == EntryKind::Command {
//!                 self.applied.push(entry.data);
//!             }
//!         }
//!     }
//! }
//!
//! let ids = [1, 2, 3].map(NodeId::of);
//! let mut now = Time::ZERO;
//! let mut network = VecDeque::new();
//! let mut hosts = ids.map(|id| {
//!     let restored =
//!         Restored { bootstrap: Configuration::of_voters(ids), ..Restored::default() };
//!     let raft = Raft::new(Config::new(id), restored, id.get(), now);
//!     Host { raft, out: Outputs::default(), applied: Vec::new() }
//! });
//!
//! // Time passes until somebody has been elected.
//! while !hosts.iter().any(|host| host.raft.is_leader()) {
//!     now = hosts.iter().map(|host| host.raft.next_deadline()).min().unwrap();
//!     for host in &mut hosts {
//!         host.raft.tick(now);
//!         host.turn(now, &mut network);
//!     }
//!     deliver(now, &mut network, &mut hosts);
//! }
//!
//! // The leader takes a command; a heartbeat later everybody has applied it.
//! let leader = hosts.iter_mut().find(|host| host.raft.is_leader()).unwrap();
//! let position = leader.raft.propose("x = 1".into())?;
//! leader.turn(now, &mut network);
//! deliver(now, &mut network, &mut hosts);
//! for host in &mut hosts {
//!     now = now + Duration::from_millis(50);
//!     host.raft.tick(now);
//!     host.turn(now, &mut network);
//! }
//! deliver(now, &mut network, &mut hosts);
//! for host in &hosts {
//!     assert!(host.raft.commit() >= position.index);
//!     assert_eq!(host.applied, ["x = 1"]);
//! }
//!
//! fn deliver(now: Time, network: &mut VecDeque<Message>, hosts: &mut [Host; 3]) {
//!     while let Some(message) = network.pop_front() {
//!         let host = &mut hosts[message.to.get() as usize - 1];
//!         host.raft.step(now, message);
//!         host.turn(now, network);
//!     }
//! }
//! # Ok::<(), sampan_raft::Refused>(())
//! ```
//!
//! # Rules for the host
//!
//! - Batches are written in the order they were taken. A write or sync that fails ends the process;
//!   its token is never given back, nor the write tried again.
//! - Messages may be lost, delayed, doubled or reordered. They may not be altered: frames carry
//!   checksums.
//! - Entries are applied as they are taken: [`Raft::applied`] counts them at once.
//! - A snapshot is reported ([`Raft::compact`], [`Raft::install_snapshot`]) only when its file is
//!   durable; an own one, for which the log goes, only when it was read back, too.
//! - Each start of a node gets a seed of its own, and each attempt to read a [`ReadId`] of its own.

mod catch_up;
mod config;
mod display;
mod election;
mod entries;
mod follower;
mod health;
mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod newborn;
mod node;
mod outputs;
mod persist;
mod progress;
mod read;
mod snapshot;
mod status;
mod transfer;
mod wire;

pub use catch_up::CATCH_UP_BYTES_MAX;
pub use config::Config;
pub use health::Health;
pub use message::{Answer, AppendResult, Body, Message};
pub use node::{Raft, Restored};
pub use outputs::{
    Outputs, ReadId, ReadOutcome, ReadVoid, Refused, RoleChange, SnapshotChunk, SnapshotRead, Why,
};
pub use persist::{AfterPersist, Durable, Persist, PersistToken, Persisted};
pub use status::{DropCounts, DropReason, PeerState, PeerStatus, Role, Status};
