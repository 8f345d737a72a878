//! Time as a value. A pure crate is told the time; it never asks.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on a node's monotonic clock, in microseconds since an arbitrary start.
/// Comparable only with times of the same node and run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(pub u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than any time a clock reaches.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_micros(duration)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(whole_micros(duration)))
    }
}

/// A duration in whole microseconds; the longest there is, if it is longer than that.
pub(crate) fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Wall-clock time in milliseconds since the Unix epoch. Only the leader's, stamped into entries,
/// counts (rule R12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WallTime {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

impl WallTime {
    /// The epoch: before any stamped time.
    pub const ZERO: Self = Self { unix_ms: 0 };

    /// The wall time of this many milliseconds after the epoch.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self { unix_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_far_away_is_the_last_one_and_not_an_early_one() {
        let longer_than_u64_micros = Duration::from_millis(18_446_744_073_709_552);
        assert_eq!(Time(5) + longer_than_u64_micros, Time::NEVER);
        assert_eq!(Time(5) - longer_than_u64_micros, Time::ZERO);
        assert_eq!(Time(5) + Duration::from_micros(7), Time(12));
    }
}
