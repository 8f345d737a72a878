//! One test a rule of the replica, over real consensus, formats and state machine.

mod backups;
mod clocks;
mod copying;
mod disks;
mod doubts;
mod failover;
mod forwards;
mod harness;
mod keeping_up;
mod long_replies;
mod lost_disks;
mod order;
mod outcomes;
mod repairs;
mod snapshots;
mod surplus;
mod transfers;
