//! How a Clerk is set up: addresses, times and limits, each with its default.

use std::time::Duration;

use sampan_resp::ReplyLimits;
use tokio::sync::mpsc;

use crate::clerk::Clerk;
use crate::connection::{Connector, tcp};
use crate::driver::Driver;
use crate::error::Error;
use crate::request::Command;

/// The most calls in flight that can be asked for: the replies a server keeps for one session.
const WINDOW_MAX: usize = 1_024;
/// No time of a Clerk is set to less: it would try again without a pause.
const TIME_MIN: Duration = Duration::from_millis(1);
/// Nor to more: beyond some time a clock cannot count.
pub(crate) const TIME_MAX: Duration = Duration::from_hours(24);

/// Every time and limit of a Clerk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) deadline: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// Calls in flight, and again as many waiting in the driver and in the channel to it.
    pub(crate) window: usize,
    pub(crate) command_bytes_max: usize,
    /// No more calls are encoded while this many bytes wait for the socket.
    pub(crate) unsent_bytes_max: usize,
    pub(crate) reply_limits: ReplyLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(320),
            window: 256,
            command_bytes_max: 4 << 20,
            unsent_bytes_max: 1 << 20,
            // A server puts up to 64 MiB of values into one reply, and their framing comes on top.
            reply_limits: ReplyLimits { reply_bytes_max: 80 << 20, ..ReplyLimits::default() },
        }
    }
}

impl Config {
    /// Are the times neither nothing nor so long that they reach beyond what a clock can hold?
    fn check_times(&self) -> Result<(), Error> {
        let times = [
            ("deadline", self.deadline),
            ("attempt_timeout", self.attempt_timeout),
            ("backoff", self.backoff_min),
            ("backoff", self.backoff_max),
        ];
        let accepted = TIME_MIN..=TIME_MAX;
        if let Some((name, time)) = times.iter().find(|(_, time)| !accepted.contains(time)) {
            return Err(Error::Invalid(format!("{name} of {time:?} is not 1 ms to 1 day")));
        }
        if self.backoff_max < self.backoff_min {
            let (min, max) = (self.backoff_min, self.backoff_max);
            return Err(Error::Invalid(format!(
                "backoff of {min:?} to {max:?} ends below its start"
            )));
        }
        Ok(())
    }
}

/// Sets up a [`Clerk`].
///
/// ```
/// # mod double { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/mod.rs")); }
/// # use sampan_client::Clerk;
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), sampan_client::Error> {
/// # let node = double::Node::default();
/// # let addresses = [node.clone().listen().await, node.listen().await];
/// let clerk = Clerk::builder()
///     .addresses(addresses)
///     .deadline(Duration::from_secs(3))
///     .attempt_timeout(Duration::from_millis(500))
///     .connect()
///     .await?;
/// # clerk.set("k", "v").await
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect`"]
pub struct Builder {
    addresses: Vec<String>,
    config: Config,
    connector: Connector,
}

impl Default for Builder {
    fn default() -> Self {
        Self { addresses: Vec::new(), config: Config::default(), connector: tcp() }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { addresses, config, connector: _ } = self;
        f.debug_struct("Builder").field("addresses", addresses).field("config", config).finish()
    }
}

impl Builder {
    /// Adds the client addresses of nodes, as `host:port`. At least one; tried in this order.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item: Into<String>>) -> Self {
        self.addresses.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// How long a call may take with all its repetitions, 1 ms to 1 day. 10 s by default.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// How long a node may owe an answer and say nothing, or take to accept a connection, before
    /// the next node is tried, 1 ms to 1 day. 1 s by default. A connection is waited for less long
    /// if otherwise the deadline would pass before each address has been tried.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// The first and the longest wait before trying again, 1 ms to 1 day. 10 ms and 320 ms by
    /// default; the real waits are random between the half of that and the whole.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.config.backoff_min = min;
        self.config.backoff_max = max;
        self
    }

    /// How many calls may be in flight at once, 1 to 1,024; more wait. 256 by default.
    pub const fn window(mut self, calls: usize) -> Self {
        self.config.window = calls;
        self
    }

    /// The longest command that is sent, in bytes with its framing. 4 MiB by default, as the
    /// server.
    pub const fn command_bytes_max(mut self, bytes: usize) -> Self {
        self.config.command_bytes_max = bytes;
        self
    }

    #[cfg(test)]
    pub(crate) fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Connects to the first node that answers. Must be called within a tokio runtime; the Clerk
    /// lives on a task of it.
    ///
    /// Fails with [`Error::Unavailable`] if no node answers until the deadline, and with
    /// [`Error::Invalid`] for settings that make no sense.
    pub async fn connect(self) -> Result<Clerk, Error> {
        let Self { addresses, config, connector } = self;
        if addresses.is_empty() {
            return Err(Error::Invalid("no address to connect to".to_owned()));
        }
        if !(1..=WINDOW_MAX).contains(&config.window) {
            let window = config.window;
            return Err(Error::Invalid(format!(
                "window of {window} calls is not 1 to {WINDOW_MAX}"
            )));
        }
        config.check_times()?;
        let (requests, received) = mpsc::channel(config.window);
        tokio::spawn(Driver::new(addresses, config, connector, received).run());
        let clerk = Clerk::new(requests, &config);
        clerk.read(Command::new("PING")).await?;
        Ok(clerk)
    }
}
