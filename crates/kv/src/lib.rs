//! The replicated key/value state machine: commands, keys, expiry, sessions, digest, snapshots.
//!
//! What is absent: I/O, threads, clocks, ambient randomness, visible hash order, and any knowledge
//! of Raft. The state is a function of the entries applied, on every machine the same.
//!
//! A command's life: [`parse`] checks what a client sent and encodes it; reads are answered by
//! [`Kv::query`]; writes gather in a [`BatchBuilder`], pass through the log, and [`Kv::apply`]
//! answers each with a [`Reply`]. What clients must know of exactly-once execution is told in
//! `session.rs`.
//!
//! ```
//! use sampan_base::WallTime;
//! use sampan_kv::{BatchBuilder, Class, Kv, Limits, Reply, parse};
//!
//! let limits = Limits::default();
//! let mut kv = Kv::new(limits, 0x5eed);
//!
//! // The leader: two commands of clients become one log entry.
//! let mut batch = BatchBuilder::new(WallTime::from_unix_ms(1_700_000_000_000));
//! for args in [&["SET", "greeting", "hello", "EX", "10"][..], &["INCR", "visits"]] {
//!     let mut encoded = Vec::new();
//!     assert_eq!(parse(args, &limits, &mut encoded), Ok(Class::Write));
//!     batch.push(&encoded);
//! }
//!
//! // Every node: the entry is applied.
//! let mut replies = Vec::new();
//! kv.apply(&batch.finish(), &mut replies).unwrap();
//! assert_eq!(replies, [Reply::Ok, Reply::Int(1)]);
//!
//! // A read.
//! let mut encoded = Vec::new();
//! assert_eq!(parse(&["GET", "greeting"], &limits, &mut encoded), Ok(Class::Read));
//! assert_eq!(kv.query(&encoded), Reply::bulk(b"hello"));
//!
//! // Ten seconds of log time later the key is gone.
//! let tick = BatchBuilder::new(kv.next_expiry().unwrap());
//! kv.apply(&tick.finish(), &mut replies).unwrap();
//! assert_eq!(kv.query(&encoded), Reply::Nil);
//!
//! // A snapshot, made in slices, and the state restored from it.
//! let mut snapshot = Vec::new();
//! kv.snapshot_begin();
//! while kv.snapshot_next(4_096, &mut snapshot) {}
//! let mut restore = sampan_kv::Restore::new(limits, snapshot.len() as u64);
//! restore.feed(&snapshot).unwrap();
//! assert_eq!(restore.finish().unwrap().digest(), kv.digest());
//! ```

mod ahead;
mod apply;
mod batch;
mod command;
mod digest;
mod error;
mod examine;
mod expiry;
mod frames;
mod keyspace;
mod kv;
mod limits;
mod number;
mod parse;
mod query;
mod record;
mod reply;
mod restore;
pub mod session;
mod snapshot;
mod spec;
mod thin;

pub use ahead::Ahead;
pub use batch::{BatchBuilder, BatchReader};
pub use command::{
    Need, classify, copies_a_value, is_once, may_be_stale, need_of, values_in_reply,
};
pub use digest::Digest;
pub use error::{CommandError, unknown_command};
pub use examine::{Examination, Findings};
pub use kv::{GROUP_COMMANDS, Kv, Stats};
pub use limits::Limits;
pub use parse::{Class, parse};
pub use reply::{Reply, SIMPLE_TEXTS};
pub use restore::Restore;
pub use spec::{SPECS, Spec, find, is_data_command};
