//! SIGTERM and SIGINT: the first asks the node to stop gracefully, a second one at once.

use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either.
    pub(crate) async fn next(&mut self) {
        let mut terminate = pin!(self.terminate.recv());
        let mut interrupt = pin!(self.interrupt.recv());
        std::future::poll_fn(|cx| {
            let terminated = terminate.as_mut().poll(cx).is_ready();
            let interrupted = interrupt.as_mut().poll(cx).is_ready();
            if terminated || interrupted { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
