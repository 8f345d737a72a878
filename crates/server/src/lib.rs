//! One running node: sockets, threads, real disks and real time around a
//! [`sampan_replica::Replica`].
//!
//! [`run`] is a whole server process minus the reading of flags. One thread does everything but
//! wait for disks: it reads clients and peers, steps the replica, and writes replies and frames.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | what a node is told, every limit |
//! | `core` | the event loop: one turn after another |
//! | `client`, `commands`, `render` | connections of clients, the commands that need no replica |
//! | `backups` | snapshot files that clients read as backups |
//! | `peer` | the transport between nodes |
//! | [`disk`], `disk_thread` | real files; the two threads that wait for them |
//! | `loading`, `lock`, `log`, `net`, `open_files`, `signals`, `time` | the rest of the world |
//!
//! What is absent: decisions about consensus or data. What is asked of the replica and what comes
//! back is [`sampan_replica::Input`] and [`sampan_replica::Outputs`].
//!
//! # Exit codes
//!
//! A process that ends by a [`ServerError`] exits with [`ServerError::exit_code`]:
//!
//! | code | reason |
//! |---|---|
//! | 0 | stopped as asked |
//! | 1 | out of threads or file descriptors |
//! | 2 | bad configuration |
//! | 3 | port in use |
//! | 4 | the data directory belongs to another cluster or node |
//! | 5 | data damaged, or of an unknown version |
//! | 6 | disk failed |
//! | 7 | the data directory is locked by another process |
//! | 8 | broken invariant |

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
mod quick_disk;
mod release;
mod render;
mod repair;
mod segments_lane;
mod signals;
mod start;
mod stats;
#[cfg(test)]
mod testing;
mod time;

const _: () = assert!(!sampan_base::CAN_PLANT, "a server is never built to plant bugs");

pub use config::{Config, ConfigError, HostPort, Limits, PEER_PORT_OFFSET};
pub use error::ServerError;
pub use lock::LOCK_FILE;
pub use sampan_replica::OnDamage;
pub use start::{Listeners, Stop, StopRequests, Stopper, exit_on_panic, run, serve, stopper};
pub use time::Utc;
