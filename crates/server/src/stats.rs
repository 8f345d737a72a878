//! Figures that only count up, for `INFO`.

use std::cell::Cell;

/// Adds to a counter.
pub(crate) fn count_up(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// What `CONFIG RESETSTAT` sets back to zero.
#[derive(Default)]
pub(crate) struct Stats {
    /// Commands of clients, of all sorts.
    pub(crate) commands: Cell<u64>,
    /// Error replies given by this crate: the replica's are in its own figures.
    pub(crate) errors: Cell<u64>,
    /// Bytes read from clients.
    pub(crate) input_bytes: Cell<u64>,
    /// Connections turned away because there were too many.
    pub(crate) rejected_connections: Cell<u64>,
    /// Snapshots taken and installed.
    pub(crate) snapshots: Cell<u64>,
    /// Turns of the event loop.
    pub(crate) turns: Cell<u64>,
}

impl Stats {
    /// Starts over.
    pub(crate) fn reset(&self) {
        let Self { commands, errors, input_bytes, rejected_connections, snapshots, turns } = self;
        for counter in [commands, errors, input_bytes, rejected_connections, snapshots, turns] {
            counter.set(0);
        }
    }
}
