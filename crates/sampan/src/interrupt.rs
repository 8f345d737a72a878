//! A wish for an early end: SIGINT, SIGTERM or SIGHUP, at a command that then has things to undo.

use sampan_bench::Signals;

use crate::exit::{Failure, INTERRUPTED, cannot_start};

/// A person's, or a machine's.
pub(crate) struct Interrupt {
    signals: Signals,
    /// What is said of it.
    text: &'static str,
}

impl Interrupt {
    /// From now on a signal is a wish, and not the end.
    pub(crate) fn listen(text: &'static str) -> Result<Self, Failure> {
        let signals = Signals::listen().map_err(|error| cannot_start(&error))?;
        Ok(Self { signals, text })
    }

    /// Waits for it.
    pub(crate) async fn received(&mut self) -> Failure {
        self.signals.next().await;
        Failure::new(INTERRUPTED, self.text)
    }
}
