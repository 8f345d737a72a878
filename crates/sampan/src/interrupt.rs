//! A wish for an early end: SIGINT, SIGTERM or SIGHUP, at a command that then has things to undo.

use sampan_bench::Signals;

use crate::exit::{Failure, INTERRUPTED, cannot_start};

/// A person's, or a machine's.
pub(crate) struct Interrupt(Signals);

impl Interrupt {
    /// From now on a signal is a wish, and not the end.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Signals::listen().map(Self).map_err(|error| cannot_start(&error))
    }

    /// Waits for it.
    pub(crate) async fn received(&mut self) -> Failure {
        self.0.next().await;
        Failure::new(INTERRUPTED, "interrupted; nothing was kept")
    }
}
