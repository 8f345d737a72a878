//! Real processes and a real disk: one test binary, so that it is linked once.
#![allow(clippy::unwrap_used)]

mod backup_ends;
mod backups;
mod bench;
mod bench_ends;
mod clients;
mod damaged_backups;
mod faults;
mod harness;
mod inspect;
mod local_cluster;
mod refusals;
mod repairs;
