//! How work that can wait leaves the processor to others: by threads of its own that are nice or
//! idle, and, on the event loop, by giving way after each piece.
//!
//! What it is not: its pace, which is the replica's (`replica::pace`).

use std::thread;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// How nice such threads are to others: each gets a third of the time that they get where there is
/// not enough for all.
const NICE: i32 = 5;

/// For a thread that does nothing else. A kernel that refuses makes it only less polite.
pub(crate) fn be_nice() {
    _ = rustix::process::setpriority_process(None, NICE);
}

/// For one that has the processor where nobody else wants it. One that may not be so is nice.
pub(crate) fn be_idle() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_err() {
        be_nice();
    }
}

/// After a piece on the event loop, some hundred microseconds of it: who was woken on this
/// processor meanwhile goes first. Linux itself may let them wait for its next tick, 4 ms at 250 a
/// second, or for the end of all pieces.
pub(crate) fn give_way() {
    thread::yield_now();
}
