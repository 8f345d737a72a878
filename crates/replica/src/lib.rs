//! A whole Sampan node minus sockets, threads and file descriptors: consensus, log, state machine,
//! sessions and pending replies, as one deterministic state machine from [`Input`]s to [`Outputs`].
//!
//! The server and the simulator drive this same crate. Each turn of a host:
//!
//! ```text
//! for input in what_arrived { replica.step(now, input); }
//! replica.flush(now, &mut outputs);
//! // if outputs.fatal: stop. Otherwise act on the other fields, in their order.
//! // come back at replica.next_deadline() at the latest, with Input::Tick
//! ```
//!
//! Many inputs may share one flush: that is where batching comes from. All commands of a turn share
//! one log entry, all reads of a turn share one read index round, all entries of a turn share one
//! message per peer, and all that gathers while the disk syncs shares the next sync.
//!
//! What is absent: I/O, threads, clocks.

mod apply;
mod backups;
mod catching_up;
mod compaction;
mod copying;
mod disk_health;
mod doubts;
mod forwards;
pub mod frame_queue;
pub mod input;
pub mod job;
mod leadership;
mod lines;
mod loading;
mod log_clock;
pub mod opening;
mod options;
pub mod output;
mod pace;
mod persisting;
mod reading_back;
mod reads;
mod receiving;
mod repairing;
pub mod replica;
mod requests;
mod restoring;
mod sending;
mod snapshots;
pub mod status;
mod taking;
pub mod wire;
mod writes;

pub use backups::BackupReady;
pub use input::{ConnectionId, Input, Now, Request};
pub use job::{DiskDone, DiskJob, Lane};
pub use opening::{OpenError, OpenReport};
pub use options::{OnDamage, Options, RunAll, StateSettings, Task};
pub use output::{ClientReply, Envelope, Event, Fatal, Outputs, Stream};
pub use repairing::{Repaired, Repairing, Start};
pub use replica::Replica;
pub use status::{Arrival, SnapshotPauses, Status};
