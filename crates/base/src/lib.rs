//! What every Sampan crate shares: identifiers, log entries, logical time, seeded randomness, the
//! `Disk` seam and byte codecs.
//!
//! What is absent: logic. Nothing here decides anything; nothing here reads a clock, draws ambient
//! randomness, opens a file or a socket.

pub mod codec;
pub mod configuration;
pub mod disk;
pub mod entry;
pub mod ids;
pub mod rng;
pub mod time;

pub use configuration::Configuration;
pub use entry::{Entry, EntryKind, HardState, LogPosition, SnapshotMeta};
pub use ids::{ClusterId, LogIndex, NodeId, SessionId, Term};
pub use rng::Rng;
pub use time::{Time, WallTime};
