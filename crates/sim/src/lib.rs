//! Deterministic simulation of whole Sampan clusters.
//!
//! N of the shipping [`sampan_replica::Replica`]s run in virtual time over a simulated network,
//! simulated disks and simulated clocks ([`world`]); clients talk to them and keep a history of
//! what they were told; oracles look on after every turn ([`checkers`]). One seed decides
//! everything: the cluster, its limits, the load, and which faults strike when ([`swarm`]). The
//! same seed gives the same run, on every machine and in every build.
//!
//! What is absent: a second implementation of product logic, and anything that is not decided by
//! the seed. Only the runner looks at a clock, to say how fast it was.

// Figures stand as the reference printed them; a violation takes its text; a script of cuts and
// joins reads best a line each.
#![allow(clippy::unreadable_literal, clippy::needless_pass_by_value, clippy::needless_for_each)]

mod backups;
pub mod checkers;
mod clients;
pub mod clock;
pub mod crashes;
pub mod damage;
pub mod disk;
pub mod faults;
pub mod history;
mod insistence;
pub mod labs;
mod narrate;
mod nemesis;
pub mod network;
pub mod node;
mod operator;
#[cfg(feature = "plants")]
pub mod plants;
pub mod queue;
pub mod run;
pub mod runner;
mod starts;
pub mod swarm;
pub mod swarm_network;
pub mod sync_points;
pub mod trace;
mod untaken;
pub mod workload;
pub mod world;

pub use checkers::Violation;
pub use queue::SimTime;
pub use world::{Notice, World};
