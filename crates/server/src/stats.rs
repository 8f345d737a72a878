//! Figures that only count up, for `INFO`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Adds to a counter.
pub(crate) fn count_up(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// What `CONFIG RESETSTAT` sets back to zero.
#[derive(Default)]
pub(crate) struct Stats {
    /// Commands of clients, of all sorts.
    pub(crate) commands: Cell<u64>,
    /// Error replies.
    pub(crate) errors: Errors,
    /// Bytes read from clients.
    pub(crate) input_bytes: Cell<u64>,
    /// Connections turned away because there were too many.
    pub(crate) rejected_connections: Cell<u64>,
    /// Connections closed because they spoke HTTP.
    pub(crate) http_requests: Cell<u64>,
    /// Connections closed to make room for commands of others, or replies to them.
    pub(crate) evicted_clients: Cell<u64>,
    /// Connections closed for replies that they themselves did not take.
    pub(crate) overfull_clients: Cell<u64>,
    /// Snapshots taken and installed.
    pub(crate) snapshots: Cell<u64>,
    /// Turns of the event loop.
    pub(crate) turns: Cell<u64>,
}

impl Stats {
    /// Starts over.
    pub(crate) fn reset(&self) {
        let Self {
            commands,
            errors,
            input_bytes,
            rejected_connections,
            http_requests,
            evicted_clients,
            overfull_clients,
            snapshots,
            turns,
        } = self;
        for counter in [
            commands,
            input_bytes,
            rejected_connections,
            http_requests,
            evicted_clients,
            overfull_clients,
            snapshots,
            turns,
        ] {
            counter.set(0);
        }
        errors.by_code.take();
    }
}

/// Error replies by their code, the first word.
#[derive(Default)]
pub(crate) struct Errors {
    by_code: RefCell<BTreeMap<String, u64>>,
}

impl Errors {
    /// Counts one with this text.
    pub(crate) fn count(&self, text: &str) {
        let code = text.split(' ').next().unwrap_or_default();
        let mut by_code = self.by_code.borrow_mut();
        match by_code.get_mut(code) {
            Some(count) => *count += 1,
            None => _ = by_code.insert(code.to_owned(), 1),
        }
    }

    /// Of all codes.
    pub(crate) fn total(&self) -> u64 {
        self.by_code.borrow().values().sum()
    }

    /// Visits each code.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&str, u64)) {
        self.by_code.borrow().iter().for_each(|(code, count)| visit(code, *count));
    }
}
