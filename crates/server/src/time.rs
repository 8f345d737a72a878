//! Real time: the only place where clocks are read.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sampan_base::{Time, WallTime};
use sampan_replica::Now;

/// The clocks of one node. Its monotonic time starts with it, and stands still while it loads.
#[derive(Debug)]
pub(crate) struct Clock {
    /// When it would have started had it never stood still.
    start: Instant,
    started: Instant,
}

impl Clock {
    /// A clock at [`Time::ZERO`].
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { start: now, started: now }
    }

    /// Stands still during this work, which is told the time. Whoever loads for longer than an
    /// election timeout would else find its own over before it can have heard a leader.
    pub(crate) fn hold<T>(&mut self, work: impl FnOnce(Now) -> T) -> T {
        let now = self.now();
        let began = Instant::now();
        let done = work(now);
        self.start += began.elapsed();
        done
    }

    /// Since it was started, in any case.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    /// The monotonic clock, in microseconds.
    pub(crate) fn mono(&self) -> Time {
        Time(self.start.elapsed().as_micros() as u64)
    }

    /// The moment at which [`Clock::mono`] reads `time`; `None` if that is out of reach.
    pub(crate) fn instant_of(&self, time: Time) -> Option<Instant> {
        self.start.checked_add(time.since(Time::ZERO))
    }
}

/// Time since some moment of this process, to the nanosecond.
pub(crate) fn stopwatch() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The wall clock. Zero if it stands before 1970.
pub(crate) fn wall() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_unix_ms(since_epoch.as_millis() as u64)
}

/// Shows a wall time as `2026-11-22T13:16:28.123Z`.
pub struct Utc(pub WallTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.unix_ms / 1_000, self.0.unix_ms % 1_000);
        let (year, month, day) = civil_from_days(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Days since 1970-01-01 to year, month, day. Counts in years that begin on 1 March, so that the
/// leap day comes last.
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_stands_still_while_it_is_held_and_never_goes_back() {
        const LOAD_TIME: Duration = Duration::from_millis(50);
        let mut clock = Clock::start();
        let before = clock.mono();
        let told = clock.hold(|now| {
            let began = Instant::now();
            while began.elapsed() < LOAD_TIME {
                std::thread::yield_now();
            }
            now.mono
        });
        let after = clock.mono();
        assert!(before <= told && told <= after, "{before:?} {told:?} {after:?}");
        assert!(clock.uptime() >= LOAD_TIME + after.since(Time::ZERO), "{after:?}");
    }

    #[test]
    fn utc_shows_known_moments() {
        let shown = |unix_ms| Utc(WallTime::from_unix_ms(unix_ms)).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(shown(1_732_000_000_123), "2024-11-19T07:06:40.123Z");
        assert_eq!(shown(4_102_444_799_999), "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn the_monotonic_clock_starts_near_zero_and_never_goes_back() {
        let clock = Clock::start();
        let (first, second) = (clock.mono(), clock.mono());
        assert!(first.0 < 60_000_000 && first <= second, "{first:?} {second:?}");
        assert!(clock.instant_of(second).is_some_and(|at| at <= Instant::now()));
        assert_eq!(clock.instant_of(Time::NEVER).map(|at| at > Instant::now()), Some(true));
    }
}
