//! The write-ahead log, the hard state and the snapshot files of one node: their formats, what to
//! write in which order, and how a node finds its state again after a crash.
//!
//! While running, [`Storage`] only *describes* work, as lists of [`sampan_base::disk::DiskOp`]; the
//! host executes them and reports. Three lanes:
//!
//! - the **log lane**: what [`Storage::append`], [`Storage::set_non_voting`] and
//!   [`Storage::refresh_watermark`] return. Lists run one after another in the order in which they
//!   were made, each to its end; nothing is acknowledged before its list has ended.
//! - the **background lane**: what the snapshot functions return.
//! - the **segment lane**: what [`Storage::maintain`] and [`Storage::release_reserve`] return. A
//!   log that is out of prepared segments waits for it, so it must not wait behind a long snapshot.
//!
//! Lists of a lane run in order among themselves, and beside the other lanes: no file is touched by
//! two of them, but for a spare that the segment lane has handed over.
//!
//! While starting, [`Storage::open`] reads and repairs through [`sampan_base::disk::Disk`]
//! directly.
//!
//! ```
//! use sampan_base::disk::Disk;
//! use sampan_base::{ClusterId, Entry, EntryKind, HardState, LogIndex, NodeId, Term};
//! use sampan_storage::testing::{KeepSynced, MemDisk};
//! use sampan_storage::{Identity, Options, Storage};
//!
//! let mut disk = MemDisk::new();
//! let identity = Identity { cluster: ClusterId(7), node: NodeId::of(1) };
//! let options = Options::default();
//! Storage::create(&mut disk, identity, &options)?;
//! let (mut storage, _) = Storage::open(&mut disk, identity, &options)?;
//!
//! let hard_state = HardState { term: Term(1), vote: NodeId::new(1) };
//! let (index, kind) = (LogIndex(1), EntryKind::Command);
//! let entry = Entry { term: Term(1), index, kind, data: "set greeting hello".into() };
//! let ops = storage.append(Some(hard_state), None, &[entry.clone()]);
//! disk.execute_all(&ops)?; // in a server a disk thread does this
//! storage.append_synced(); // and only now it may be acknowledged
//!
//! let mut disk = disk.crash(&mut KeepSynced);
//! let (_, recovered) = Storage::open(&mut disk, identity, &options)?;
//! assert_eq!(recovered.hard_state, hard_state);
//! assert_eq!(recovered.entries, [entry]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is absent: threads, files, sockets, clocks; and any say in what a log should contain.
//! `docs/format.md` is the other half of this crate: the bytes, the assumptions and the decisions.

mod batch;
mod create;
mod error;
mod fresh;
mod hard_state;
mod identity;
pub mod inspect;
mod log;
mod members;
mod open;
mod options;
mod page;
mod recovered;
mod repair;
mod replay;
mod reserve;
mod sector;
mod segment;
pub mod snapshot;
mod storage;
mod survey;
pub mod testing;

#[cfg(test)]
mod format_tests;

pub use error::{Damage, DamageReason, OpenError};
pub use identity::Identity;
pub use members::Members;
pub use open::{OnDamage, Salvage};
pub use options::Options;
pub use page::{FORMAT_VERSION, PAGE_BYTES};
pub use recovered::{PartialSnapshot, Recovered, Report, StoredSnapshot};
pub use repair::Repair;
pub use sector::SECTOR_BYTES;
pub use storage::Storage;
pub use survey::SnapshotSink;
