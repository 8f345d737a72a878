//! The time that a leader stamps into entries (rule R12): that of its wall clock, as long as the
//! log is not ahead of it.
//!
//! The log is ahead after a leader whose clock was, or when this node's clock was set back. The
//! log's time never runs back, and if it stood until the wall clock has caught up, nothing would
//! expire meanwhile: a lock for 300 ms would be held for as long as two clocks differ. So it goes
//! on by the monotonic clock, and slower than that: the wall clock catches up in the end, and
//! nothing goes before its time.

use std::time::Duration;

use sampan_base::{Time, WallTime};

use crate::input::Now;
use crate::replica::Replica;

/// How slow a log that is ahead goes: what is to live for 7 s by it lives for 8.
const SLOWED: (u64, u64) = (7, 8);

/// Clock entries come so many times as often while there is more to free.
const HAS_MORE_DIVISOR: u32 = 10;
/// On full disks they come no more often than this: each takes 4 KiB of what is left.
const CLOCK_ENTRY_INTERVAL_FULL: Duration = Duration::from_secs(1);

/// The log's time, as this node knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClock {
    /// In microseconds, so that no stamp loses a part of a millisecond.
    known_us: u64,
    known_at: Time,
}

impl LogClock {
    /// The log has this time, and went on no further while this node was down.
    pub(crate) const fn new(now: Time, log: WallTime) -> Self {
        Self { known_us: us(log), known_at: now }
    }

    /// An entry with this time was applied.
    pub(crate) fn learn(&mut self, now: Time, log: WallTime) {
        if us(log) > self.goes_on_us(now) {
            *self = Self::new(now, log);
        }
    }

    /// What a leader stamps now.
    pub(crate) fn stamp(&self, now: Now) -> WallTime {
        now.wall.max(WallTime::from_unix_ms(self.goes_on_us(now.mono) / 1_000))
    }

    /// How long it takes at the least until the stamp is this.
    pub(crate) fn until(&self, now: Now, stamp: WallTime) -> Duration {
        let by_wall_us = us(stamp).saturating_sub(us(now.wall));
        let by_log_us = us(stamp).saturating_sub(self.goes_on_us(now.mono));
        Duration::from_micros(by_wall_us.min(by_log_us.saturating_mul(SLOWED.1) / SLOWED.0))
    }

    fn goes_on_us(&self, now: Time) -> u64 {
        let elapsed = now.since(self.known_at).as_micros() as u64;
        self.known_us.saturating_add(elapsed / SLOWED.1 * SLOWED.0)
    }
}

const fn us(time: WallTime) -> u64 {
    time.unix_ms.saturating_mul(1_000)
}

impl Replica {
    /// When a clock entry is due: a key's TTL or a session has run out by what this leader stamps.
    /// If it has by the log's time, too, the last entry has not freed all that is over, and the
    /// next one comes sooner. Entries that are still to be applied bring a time of their own, so
    /// that clock entries never add to a backlog.
    pub(crate) fn clock_entry_at(&self) -> Time {
        if !self.raft.is_leader() || self.raft.applied() < self.raft.last_index() {
            return Time::NEVER;
        }
        let Some(expiry) = self.kv.next_expiry() else { return Time::NEVER };
        let due = self.now.mono + self.log_clock.until(self.now, expiry);
        let has_more = expiry <= self.kv.time();
        let interval = match (self.raft.quorum_has_room(), self.has_room_for_deletions()) {
            (_, false) => return Time::NEVER,
            (false, true) => self.options.clock_entry_interval.max(CLOCK_ENTRY_INTERVAL_FULL),
            (true, true) if has_more => self.options.clock_entry_interval / HAS_MORE_DIVISOR,
            (true, true) => self.options.clock_entry_interval,
        };
        due.max(self.last_clock_entry + interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono: Time(mono_ms * 1_000), wall: WallTime::from_unix_ms(wall_ms) }
    }

    fn stamp_ms(clock: &LogClock, mono_ms: u64, wall_ms: u64) -> u64 {
        clock.stamp(now(mono_ms, wall_ms)).unix_ms
    }

    #[test]
    fn the_wall_clock_is_stamped_where_the_log_is_not_ahead_of_it() {
        let mut clock = LogClock::new(Time::ZERO, WallTime::from_unix_ms(5_000));
        assert_eq!(stamp_ms(&clock, 100, 5_100), 5_100);
        clock.learn(Time(100_000), WallTime::from_unix_ms(5_100));
        assert_eq!(stamp_ms(&clock, 1_000, 6_000), 6_000);
        assert_eq!(clock.until(now(1_000, 6_000), WallTime::from_unix_ms(6_300)).as_millis(), 300);
    }

    #[test]
    fn a_log_that_is_ahead_goes_on_slower_until_the_wall_clock_has_caught_up() {
        let mut clock = LogClock::new(Time::ZERO, WallTime::from_unix_ms(20_000));
        let mut last = 0;
        for ms in 0..200_000 {
            let stamp = stamp_ms(&clock, ms, ms);
            assert!(stamp >= last && stamp <= last + 20_000);
            assert_eq!(stamp, ms.max(20_000 + ms * 7 / 8), "at {ms}");
            // However often it is stamped, and the entries are applied.
            clock.learn(Time(ms * 1_000), WallTime::from_unix_ms(stamp));
            last = stamp;
        }
        assert_eq!(last, 199_999, "160 s later");
        let clock = LogClock::new(Time::ZERO, WallTime::from_unix_ms(20_000));
        let until = clock.until(now(0, 0), WallTime::from_unix_ms(20_700));
        assert_eq!((until.as_millis(), stamp_ms(&clock, 800, 800)), (800, 20_700));
    }

    #[test]
    fn times_at_the_end_of_the_range_stay_there() {
        let far = WallTime::from_unix_ms(u64::MAX);
        let clock = LogClock::new(Time::ZERO, far);
        assert!(stamp_ms(&clock, 1_000_000, 5) > 1 << 53);
        assert_eq!(clock.until(now(0, 0), far), Duration::ZERO);
    }
}
