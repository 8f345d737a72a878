//! The course's suites (MIT 6.824, labs 2A to 2D, 3A and 3B), re-made in virtual time over the
//! shipping replica, and after them one test for each of ten difficulties.
//!
//! Every row has the network, the cluster, the faults, the durations and the limits of the course's
//! tester ([`rows`](self)); what runs is [`sampan_replica::Replica`] with its storage, on simulated
//! disks, watched by all of [`crate::checkers`]. What the course decides by the scheduler of the
//! operating system is decided by the seed.
//!
//! - `lab.rs` runs a script in a world, `tasks.rs` several of them side by side.
//! - `network.rs` is the course's network, `pace.rs` how servers are configured for it, `calls.rs`
//!   and `clerk.rs` the calls of clerks.
//! - `tester.rs` and `applied.rs` are the helpers of its Raft tester, `generic.rs` and `record.rs`
//!   those of its key/value tester.
//! - `suite_*.rs` are the rows; `reference.rs`, `report.rs` and `runner.rs` print them.

mod applied;
mod calls;
mod clerk;
mod difficulties;
mod generic;
mod lab;
mod network;
mod pace;
mod record;
mod reference;
mod report;
mod rows;
mod runner;
mod suite_2a;
mod suite_2b;
mod suite_2c;
mod suite_2d;
mod suite_3a;
mod suite_3b;
mod tasks;
mod tester;

pub use lab::Costs;
pub use network::Traffic;
pub use report::{json, preface, summary, table};
pub use rows::SUITES;
pub use runner::{RowReport, Selection, name_rows_of_panics, run};
