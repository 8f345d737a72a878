//! SIGTERM and SIGINT: the first asks the node to stop gracefully, a second one at once. And
//! SIGXFSZ, which is to end no node.

use std::io;
use std::pin::pin;
use std::task::Poll;

use rustix::process::{Resource, Signal as Name, getrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From now on what a file has no room for, because it would be longer than this process may write,
/// fails like a write to a full disk: by itself the signal ends the process without a word. How
/// long files may be, if that is limited. Wants a runtime.
pub(crate) fn outlive_long_files() -> io::Result<Option<u64>> {
    // What was listened to once never ends the process again, whether or not anybody still does.
    drop(signal(SignalKind::from_raw(Name::XFSZ.as_raw()))?);
    Ok(getrlimit(Resource::Fsize).current)
}

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
