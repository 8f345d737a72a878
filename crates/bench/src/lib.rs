//! A load generator: sends commands to a Redis-protocol server, or through the Clerk, and says how
//! many were answered and how long each took.
//!
//! Two kinds of load. In a **closed loop** each connection sends the next commands when those
//! before are answered, so a slow server is asked less: throughput. In an **open loop** commands
//! are due at a fixed rate, whatever the server does, and a latency counts from the moment a
//! command was *due*, not from when it could be sent; so a stall of one second shows up in all the
//! commands that were due in it, and not in one (coordinated omission, Tene 2013).
//!
//! Nothing is dropped from the result: an error, a lost connection and a command that was due and
//! never sent are counted, each by its kind.
//!
//! What is absent: starting servers, comparing them (`bench/compare`), and any judgement.
#![forbid(unsafe_code)]

mod clerk;
mod connection;
mod keys;
mod mix;
mod pace;
mod plan;
mod report;
mod request;
mod run;
mod signals;
mod svg;
mod tally;
mod worker;

pub use keys::Distribution;
pub use mix::{Mix, Op};
pub use plan::{End, Plan, PlanError, Protocol};
pub use report::{Latency, Moment, Report};
pub use run::{RunError, run};
pub use signals::Signals;
pub use svg::plot;
