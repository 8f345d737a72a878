//! A node's clocks: a monotonic one that may run fast or slow, and a wall clock that may be wrong,
//! run at another rate, and jump (`docs/testing.md`, "Clocks").

use sampan_base::{Time, WallTime};
use sampan_replica::Now;

use crate::queue::SimTime;

/// Parts per million that a clock gains on true time.
pub type DriftPpm = i32;

/// Where every simulation starts, by a clock that is right: 2020-09-13T12:26:40Z.
pub const EPOCH_UNIX_MS: u64 = 1_600_000_000_000;

/// Both clocks of one node. Integer arithmetic only: the same on every machine.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    /// True time and monotonic reading at the last change of rate.
    base: SimTime,
    base_mono_us: u64,
    drift: DriftPpm,
    /// The wall clock is the monotonic reading plus this.
    wall_offset_ms: i64,
}

impl NodeClock {
    /// A clock whose monotonic reading starts at `mono_us` and whose wall clock is off by
    /// `skew_ms`.
    pub fn new(mono_us: u64, skew_ms: i64, drift: DriftPpm) -> Self {
        let mut clock =
            Self { base: SimTime::ZERO, base_mono_us: mono_us, drift, wall_offset_ms: 0 };
        clock.set_skew(SimTime::ZERO, skew_ms);
        clock
    }

    /// What the clocks show.
    pub fn read(&self, at: SimTime) -> Now {
        let mono_us = self.mono_us(at);
        let wall_ms = (mono_us / 1_000).saturating_add_signed(self.wall_offset_ms);
        Now { mono: Time(mono_us), wall: WallTime::from_unix_ms(wall_ms) }
    }

    /// When the monotonic clock will show at least `mono`.
    pub fn when(&self, mono: Time) -> SimTime {
        if mono == Time::NEVER {
            return SimTime::NEVER;
        }
        let ahead = u128::from(mono.0.saturating_sub(self.base_mono_us));
        let us = (ahead * 1_000_000).div_ceil(self.rate());
        self.base.plus_us(u64::try_from(us).unwrap_or(u64::MAX))
    }

    /// From now on the monotonic clock gains this much.
    pub fn set_drift(&mut self, at: SimTime, drift: DriftPpm) {
        self.base_mono_us = self.mono_us(at);
        self.base = at;
        self.drift = drift;
    }

    /// The wall clock jumps.
    pub fn jump_ms(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    /// The wall clock is set to true time plus `skew_ms`.
    pub fn set_skew(&mut self, at: SimTime, skew_ms: i64) {
        let truth_ms = EPOCH_UNIX_MS + at.0 / 1_000;
        let mono_ms = self.mono_us(at) / 1_000;
        self.wall_offset_ms = truth_ms as i64 + skew_ms - mono_ms as i64;
    }

    /// How far the wall clock is off, in milliseconds.
    pub fn skew_ms(&self, at: SimTime) -> i64 {
        self.read(at).wall.unix_ms as i64 - (EPOCH_UNIX_MS + at.0 / 1_000) as i64
    }

    fn mono_us(&self, at: SimTime) -> u64 {
        let elapsed = u128::from(at.us_since(self.base));
        self.base_mono_us + (elapsed * self.rate() / 1_000_000) as u64
    }

    /// Monotonic microseconds in a million true ones.
    fn rate(&self) -> u128 {
        u128::from(1_000_000_u32.saturating_add_signed(self.drift).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_at_the_moment_it_names_and_not_before() {
        for drift in [-50_000, -37, 0, 11, 400_000] {
            let mut clock = NodeClock::new(123_456, 0, drift);
            clock.set_drift(SimTime(777_777), drift * 2);
            for deadline in [2_000_001, 5_000_000, 86_400_000_003] {
                let at = clock.when(Time(deadline));
                assert!(clock.read(at).mono.0 >= deadline, "{drift} {deadline}");
                assert!(clock.read(SimTime(at.0 - 1)).mono.0 < deadline, "{drift} {deadline}");
            }
        }
    }

    #[test]
    fn wall_time_has_skew_drift_and_jumps_while_monotonic_time_only_drifts() {
        let mut clock = NodeClock::new(0, -250, 100_000);
        assert_eq!(clock.skew_ms(SimTime::ZERO), -250);
        let second = SimTime::from_ms(1_000);
        assert_eq!(clock.read(second).mono, Time(1_100_000));
        assert_eq!(clock.skew_ms(second), -150, "a tenth of a second gained");
        clock.jump_ms(-10_000);
        assert_eq!(clock.skew_ms(second), -10_150);
        assert_eq!(clock.read(second).mono, Time(1_100_000));
        clock.set_skew(second, 0);
        assert_eq!(clock.skew_ms(second), 0);
    }
}
