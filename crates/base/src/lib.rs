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
#[cfg(feature = "plants")]
pub mod plant;
pub mod rng;
pub mod time;

pub use configuration::Configuration;
pub use entry::{Entry, EntryKind, HardState, LogPosition, SnapshotMeta};
pub use ids::{ClusterId, LogIndex, NodeId, SessionId, SnapshotId, Term};
pub use rng::Rng;
pub use time::{Time, WallTime};

/// Can bugs be planted in this build ([`planted!`])? Never in one of the product.
pub const CAN_PLANT: bool = cfg!(feature = "plants");

/// Is this bug planted? Never, in this build (`plant.rs`).
#[cfg(not(feature = "plants"))]
#[macro_export]
macro_rules! planted {
    ($plant:ident) => {
        false
    };
}
