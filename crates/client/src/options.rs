//! Arguments and results of commands that are more than strings and numbers.

use std::time::Duration;

use sampan_resp::Value;

use crate::request::Command;

/// How [`crate::Clerk::set_with`] sets: by default always, for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetOptions {
    condition: Option<&'static str>,
    expiry: Option<Expiry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expiry {
    After(Duration),
    Keep,
}

impl SetOptions {
    /// Only if the key does not exist (`NX`). Replaces [`SetOptions::if_exists`].
    #[must_use]
    pub const fn if_missing(mut self) -> Self {
        self.condition = Some("NX");
        self
    }

    /// Only if the key exists (`XX`). Replaces [`SetOptions::if_missing`].
    #[must_use]
    pub const fn if_exists(mut self) -> Self {
        self.condition = Some("XX");
        self
    }

    /// For this long, in whole milliseconds, at least one (`PX`).
    #[must_use]
    pub const fn expire_after(mut self, duration: Duration) -> Self {
        self.expiry = Some(Expiry::After(duration));
        self
    }

    /// For as long as the value before it had left (`KEEPTTL`).
    #[must_use]
    pub const fn keep_ttl(mut self) -> Self {
        self.expiry = Some(Expiry::Keep);
        self
    }

    pub(crate) fn add_to(self, mut command: Command) -> Command {
        if let Some(condition) = self.condition {
            command = command.arg(condition);
        }
        match self.expiry {
            None => command,
            Some(Expiry::Keep) => command.arg("KEEPTTL"),
            Some(Expiry::After(duration)) => command.arg("PX").number(millis(duration)),
        }
    }
}

/// A duration as Redis takes it: whole milliseconds, and at least one, since zero is an error.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// How long a key has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// There is no such key.
    Missing,
    /// It does not expire.
    Never,
    /// This long, by the cluster's clock.
    Left(Duration),
}

/// What became of a write, by [`crate::Clerk::outcome`].
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It was applied, with this reply, which may be an error.
    Applied(Value),
    /// It has not been applied. A copy that is still on its way may yet be.
    NotApplied,
    /// The session does not tell: it is gone, or the write's reply was dropped.
    Unknown,
}
