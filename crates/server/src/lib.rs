//! One running node: sockets, threads, real disks and real time around a
//! [`sampan_replica::Replica`].
//!
//! [`run`] is a whole server process minus the reading of flags. One thread does everything but
//! wait for disks: it reads clients and peers, steps the replica, and writes replies and frames.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`], `error` | what a node is told, every limit; why it does not start, or stops |
//! | `start`, `node` | start and end of a node; what the tasks of the event loop share |
//! | `core`, `inbox` | the event loop: one turn after another; what waits for the next one |
//! | `client`, `commands`, `render` | connections of clients, the commands that need no replica |
//! | `backups` | snapshot files that clients read as backups |
//! | `peer` | the transport between nodes |
//! | [`disk`], `direct`, `release` | real files; bulk past the page cache; room given back in pieces |
//! | `disk_thread`, `segments_lane` | the threads that wait for disks, four lanes; one's pace |
//! | `background`, `polite_lane` | how work that can wait leaves the processor to others |
//! | `quick_disk` | when the event loop waits for the disk itself |
//! | `loading`, `repair` | the time before a node takes part |
//! | `lock`, `log`, `net`, `open_files`, `signals`, `stats`, `time` | the rest of the world |
//!
//! What is absent: decisions about consensus or data. What is asked of the replica and what comes
//! back is [`sampan_replica::Input`] and [`sampan_replica::Outputs`].
//!
//! # Exit codes
//!
//! 0 after a stop that was asked for. A process that ends by a [`ServerError`] exits with
//! [`ServerError::exit_code`]; `docs/operations.md`, "Exit codes", says what to do about each.

mod background;
mod backups;
mod client;
mod commands;
pub mod config;
mod core;
mod direct;
pub mod disk;
mod disk_thread;
mod error;
mod inbox;
mod loading;
mod lock;
mod log;
mod net;
mod node;
mod open_files;
mod peer;
mod polite_lane;
mod quick_disk;
mod release;
mod render;
mod repair;
mod segments_lane;
mod signals;
mod spare;
mod start;
mod state_settings;
mod stats;
#[cfg(test)]
mod testing;
mod time;

const _: () = assert!(!sampan_base::CAN_PLANT, "a server is never built to plant bugs");

pub use backups::UNREADABLE as BACKUP_UNREADABLE;
pub use config::{Config, ConfigError, HostPort, Limits, PEER_PORT_OFFSET};
pub use error::ServerError;
pub use lock::{DIRECTORY_MODE, LOCK_FILE, make_directory};
pub use sampan_replica::OnDamage;
pub use start::{Listeners, Stop, StopRequests, Stopper, exit_on_panic, run, serve, stopper};
pub use state_settings::state_setting_names;
pub use time::Utc;
