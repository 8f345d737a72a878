//! How fast work that can wait may go: snapshots that are written or sent to peers, backups, and
//! the log that followers far behind lack.
//!
//! After LEDBAT (RFC 6817): what goes in the background watches how long the foreground takes, and
//! gives way as soon as that grows beyond what it is without the background. The rate falls by a
//! quarter then, and grows steadily while it is fully used and does no harm; where nobody is in the
//! foreground there is no limit. What a command takes on a leader, from its arrival to its reply,
//! tells of everything that the two share: this thread, the processors, the network, and the disks
//! of a quorum. A follower goes by its group commits.
//!
//! Deterministic: time comes in with the samples.

use std::time::Duration;

use sampan_base::Time;

/// How long without a sample means that there is no foreground.
const QUIET: Duration = Duration::from_millis(200);
/// How long after a piece what the foreground takes may be the background's fault.
const AFTERMATH: Duration = Duration::from_millis(100);
/// Bytes a second that go even then, or nothing would ever end.
const RATE_MIN: u64 = 4 << 20;
/// Where the rate starts when the foreground begins and it is known what that takes.
const RATE_START: u64 = 32 << 20;
/// More than any disk or network is asked for.
const RATE_MAX: u64 = 1 << 30;
/// How much the rate grows within a second.
const RATE_GROWTH: u64 = 512 << 20;
/// The rate falls once in this time at most, which is how long the last fall may take to show.
const FALL_INTERVAL: Duration = Duration::from_millis(50);
/// The foreground may take a quarter as long again as without background, and this besides: of a
/// mean that grows by half the 99th percentile is more than twice what it was, on a disk that all
/// share.
const SLACK: Duration = Duration::from_micros(200);
/// Timers are no finer than this.
const LATE_MAX: Duration = Duration::from_millis(2);
/// How fast the smoothed figures follow the samples.
const RECENT_WITHIN: Duration = Duration::from_millis(50);
const USUAL_WITHIN: Duration = Duration::from_secs(1);
/// The same while the background is at work: upwards slowly, else that would become what is usual,
/// and downwards with what is smoothed, else the quickest commands would.
const USUAL_RISES_WITHIN: Duration = Duration::from_secs(120);
const USUAL_FALLS_WITHIN: Duration = Duration::from_secs(10);
/// How long the background goes as slowly as it can where the first foreground begins: until what
/// the foreground may have taken because of it is forgotten.
const LEARNING: Duration = Duration::from_secs(3);

/// The pace of the background.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Nanoseconds that the foreground takes without background, and that it took lately; smoothed.
    usual: Option<u64>,
    recent: u64,
    /// The last sample.
    sampled_at: Option<Time>,
    /// The last piece of background work.
    went_at: Option<Time>,
    /// Bytes a second, where there is a foreground.
    rate: u64,
    fell_at: Time,
    /// Not before this does it rise: what is usual is not known yet.
    learns_until: Time,
    /// When the next piece may go.
    free_at: Time,
}

impl Pace {
    pub(crate) const fn new(now: Time) -> Self {
        Self {
            usual: None,
            recent: 0,
            sampled_at: None,
            went_at: None,
            rate: RATE_START,
            fell_at: now,
            learns_until: now,
            free_at: now,
        }
    }

    /// Something in the foreground is done, and took so long.
    pub(crate) fn foreground_took(&mut self, now: Time, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX >> 1);
        let began = !self.has_foreground(now);
        let apart = self.sampled_at.replace(now).map_or(QUIET, |at| now.since(at)).min(QUIET);
        let in_aftermath = self.went_at.is_some_and(|at| now < at + AFTERMATH);
        let usual = self.usual.unwrap_or(took);
        if began {
            self.recent = usual;
            if self.usual.is_none() {
                self.learns_until = now + LEARNING;
            }
            self.rate = if now < self.learns_until { RATE_MIN } else { RATE_START };
        }
        self.recent = follow(self.recent, took, apart, RECENT_WITHIN);
        let (sample, within) = match self.recent > usual {
            // What stalls for a moment is not usual, however long it takes: the start of a peer on
            // the same disk, say, and right after it that peer is sent what it lacks.
            _ if !in_aftermath => (took.min(2 * usual + SLACK.as_nanos() as u64), USUAL_WITHIN),
            true => (self.recent, USUAL_RISES_WITHIN),
            false if now < self.learns_until => (self.recent, USUAL_WITHIN),
            false => (self.recent, USUAL_FALLS_WITHIN),
        };
        self.usual = Some(follow(usual, sample, apart, within));
        if began {
            return;
        }
        if self.recent > usual + usual / 4 + SLACK.as_nanos() as u64 {
            if now >= self.fell_at + FALL_INTERVAL {
                self.fell_at = now;
                self.rate = (self.rate / 4 * 3).max(RATE_MIN);
            }
        } else if in_aftermath && self.free_at >= now - LATE_MAX && now >= self.learns_until {
            // Of a rate that nobody goes at it is not known what the foreground would take.
            let more = RATE_GROWTH * apart.as_micros() as u64 / 1_000_000;
            self.rate = (self.rate + more).min(RATE_MAX);
        }
    }

    /// May a piece go now?
    pub(crate) fn is_free(&self, now: Time) -> bool {
        self.free_at <= now || !self.has_foreground(now)
    }

    /// Work of another kind begins. What a byte of it costs the foreground is not known.
    pub(crate) fn start_over(&mut self) {
        self.rate = self.rate.min(RATE_START);
    }

    /// Did a piece go after this moment, or ever?
    pub(crate) fn went_after(&self, moment: Option<Time>) -> bool {
        self.went_at.is_some_and(|at| moment.is_none_or(|moment| at > moment))
    }

    /// A piece went.
    pub(crate) fn went(&mut self, now: Time, bytes: u64) {
        self.went_at = Some(now);
        let takes = self.takes(bytes);
        // What the clock was late by is made up for; what went while nobody was in the foreground
        // is no debt.
        let late = now - takes.max(LATE_MAX);
        let begins = if self.has_foreground(now) { self.free_at.max(late) } else { now };
        self.free_at = begins + takes;
    }

    /// When a piece that waits since then may go, though others that want to are always quicker:
    /// after as long as it takes at the latest.
    pub(crate) fn turn_at(&self, now: Time, since: Time, bytes: u64) -> Time {
        if self.is_free(now) { now } else { self.free_at().min(since + self.takes(bytes)) }
    }

    /// How long a piece takes where there is a foreground.
    fn takes(&self, bytes: u64) -> Duration {
        Duration::from_micros(bytes * 1_000_000 / self.rate)
    }

    /// When a piece may go, unless the foreground ends before.
    pub(crate) fn free_at(&self) -> Time {
        self.free_at.min(self.sampled_at.map_or(self.free_at, |at| at + QUIET))
    }

    /// Bytes a second that the background may go at; unset: as fast as it can.
    pub(crate) fn bytes_per_second(&self, now: Time) -> Option<u64> {
        self.has_foreground(now).then_some(self.rate)
    }

    fn has_foreground(&self, now: Time) -> bool {
        self.sampled_at.is_some_and(|at| now < at + QUIET)
    }
}

/// A smoothed figure after a sample that stands for so much time.
fn follow(smoothed: u64, sample: u64, apart: Duration, within: Duration) -> u64 {
    let apart = apart.min(within).as_micros() as i128;
    let step = (i128::from(sample) - i128::from(smoothed)) * apart / within.as_micros() as i128;
    (i128::from(smoothed) + step) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 256 << 10;

    /// A second of foreground, a sample each millisecond: `took` for so many bytes of background in
    /// the last 10 ms. How much went.
    fn run(pace: &mut Pace, now: &mut Time, mut took: impl FnMut(u64) -> Duration) -> u64 {
        let (mut went, mut last) = (0, [0; 10]);
        for millisecond in 0..1_000 {
            *now = *now + Duration::from_millis(1);
            last[millisecond % 10] = 0;
            while pace.is_free(*now) && last[millisecond % 10] < 8 * PIECE {
                pace.went(*now, PIECE);
                last[millisecond % 10] += PIECE;
                went += PIECE;
            }
            pace.foreground_took(*now, took(last.iter().sum()));
        }
        went
    }

    #[test]
    fn without_foreground_nothing_holds_it() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        assert_eq!(pace.bytes_per_second(now), None);
        (0..1_000).for_each(|_| {
            assert!(pace.is_free(now));
            pace.went(now, PIECE);
        });
        pace.foreground_took(now, Duration::from_millis(2));
        assert!(!pace.is_free(now));
        assert!(pace.free_at() <= now + Duration::from_millis(8), "there is no debt");
        pace.went(now, 64 * PIECE);
        assert_eq!(pace.free_at(), now + QUIET, "when the foreground has ended");
        now = now + QUIET;
        assert!(pace.is_free(now));
    }

    #[test]
    fn whoever_waits_has_a_turn_though_others_are_always_quicker() {
        let mut pace = Pace::new(Time::ZERO);
        let now = Time::ZERO + Duration::from_secs(1);
        assert_eq!(pace.turn_at(now, now, PIECE), now, "nobody is in the foreground");
        pace.foreground_took(now, Duration::from_millis(2));
        // 64 ms at 4 MiB/s: the first has all of that to wait, and no more whatever else goes.
        (0..2).for_each(|_| pace.went(now, PIECE));
        let turn_at = |since| pace.turn_at(now, since, PIECE);
        assert_eq!(turn_at(now), now + Duration::from_micros(62_500));
        assert!(turn_at(now - Duration::from_millis(63)) <= now);
        assert!(!pace.is_free(now));
    }

    #[test]
    fn it_speeds_up_where_the_foreground_does_not_suffer() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        let went: Vec<u64> =
            (0..20).map(|_| run(&mut pace, &mut now, |_| Duration::from_millis(2))).collect();
        assert!(went[2] < 16 << 20 && went[3] < 300 << 20, "{went:?}");
        assert!(went[19] > 400 << 20, "{went:?}");
    }

    #[test]
    fn it_gives_way_where_the_foreground_suffers() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        // From 1 MiB in 10 ms on, that is 100 MiB/s, the foreground takes three times as long.
        let suffers = |bytes| Duration::from_millis(if bytes > 1 << 20 { 6 } else { 2 });
        let went: Vec<u64> = (0..20).map(|_| run(&mut pace, &mut now, suffers)).collect();
        assert!(went[10..].iter().all(|&bytes| bytes < 150 << 20), "{went:?}");
        assert!(went[10..].iter().all(|&bytes| bytes > 20 << 20), "{went:?}");
        // Nor does it take for usual what it has caused itself.
        assert!(pace.usual.unwrap() < 2_500_000, "{pace:?}");
        // It goes on, if only just, whatever the foreground takes.
        let went = (0..5).map(|_| run(&mut pace, &mut now, |_| Duration::from_millis(20))).last();
        assert!(went.unwrap() >= RATE_MIN / 2 && went.unwrap() <= 2 * RATE_MIN, "{went:?}");
    }

    #[test]
    fn what_is_usual_is_not_the_least_that_was_seen() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        // No two commands take the same, and the background makes no difference.
        let mut number = 0_u64;
        let mut took = |_| {
            number += 1;
            Duration::from_micros(1_000 + number * 7_919 % 4_000)
        };
        let went: Vec<u64> = (0..20).map(|_| run(&mut pace, &mut now, &mut took)).collect();
        assert!(pace.usual.unwrap() > 2_500_000, "{pace:?}");
        assert!(went[19] > 400 << 20, "{went:?}");
    }

    #[test]
    fn a_stall_of_a_moment_is_not_usual_but_what_lasts_becomes_so() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        let mut takes = |pace: &mut Pace, milliseconds, took_us| {
            for _ in 0..milliseconds {
                now = now + Duration::from_millis(1);
                pace.foreground_took(now, Duration::from_micros(took_us));
            }
            Duration::from_nanos(pace.usual.unwrap())
        };
        takes(&mut pace, 3_000, 500);
        let usual = takes(&mut pace, 100, 20_000);
        assert!(usual < Duration::from_micros(620), "{usual:?}");
        // Ten times as long as before, for good.
        let usual = takes(&mut pace, 5_000, 5_000);
        assert!(usual > Duration::from_micros(4_000), "{usual:?}");
        let mut pace = Pace::new(Time::ZERO);
        assert_eq!(takes(&mut pace, 1_000, 0), Duration::ZERO);
        let usual = takes(&mut pace, 5_000, 1_000);
        assert!(usual > Duration::from_micros(900), "{usual:?}");
    }

    #[test]
    fn a_rate_that_is_not_gone_at_does_not_grow() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        for _ in 0..10_000 {
            now = now + Duration::from_millis(1);
            pace.foreground_took(now, Duration::from_millis(2));
        }
        assert_eq!(pace.bytes_per_second(now), Some(RATE_MIN));
    }

    #[test]
    fn other_work_starts_anew() {
        let mut pace = Pace::new(Time::ZERO);
        let mut now = Time::ZERO + Duration::from_secs(1);
        (0..6).for_each(|_| _ = run(&mut pace, &mut now, |_| Duration::from_millis(2)));
        assert!(pace.bytes_per_second(now).unwrap() > 4 * RATE_START, "{pace:?}");
        pace.start_over();
        assert_eq!(pace.bytes_per_second(now), Some(RATE_START));
        assert!(run(&mut pace, &mut now, |_| Duration::from_millis(2)) > RATE_START, "{pace:?}");
    }

    #[test]
    fn a_foreground_that_begins_in_the_midst_of_it_is_got_to_know_first() {
        let mut pace = Pace::new(Time::ZERO);
        let now = Time::ZERO + Duration::from_secs(1);
        pace.went(now, PIECE);
        pace.foreground_took(now, Duration::from_millis(2));
        assert_eq!(pace.bytes_per_second(now).unwrap() >> 20, RATE_MIN >> 20);
    }
}
