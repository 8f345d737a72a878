//! A cluster of nodes in one process for tests: disks that lose what was not synced, a network
//! under the test's control, a state machine that is a hash of what it applied, and an oracle that
//! watches all of them.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

pub mod cluster;
pub mod disk;
pub mod host;
pub mod oracle;
