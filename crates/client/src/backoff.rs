//! How long to wait before trying again: exponential, with jitter, between two bounds. Pure but for
//! its seed.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use sampan_base::Rng;

/// Doubles from `min` to `max` while nothing succeeds.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    setbacks: u32,
    rng: Rng,
}

impl Backoff {
    /// A back-off with a random seed, so that Clerks that were cut off together spread.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Self { min, max, setbacks: 0, rng: Rng::seeded(seed) }
    }

    /// The wait after one more setback: between the half and the whole of the bound it has reached.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.min.saturating_mul(1_u32.checked_shl(self.setbacks).unwrap_or(u32::MAX));
        let whole = whole.min(self.max);
        self.setbacks = self.setbacks.saturating_add(1);
        self.rng.duration_between(whole / 2, whole)
    }

    /// Something succeeded: start from `min` again.
    pub(crate) const fn reset(&mut self) {
        self.setbacks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(10), ms(35));
        for _ in 0..2 {
            for whole in [10, 20, 35, 35] {
                let wait = backoff.next();
                assert!((ms(whole) / 2..=ms(whole)).contains(&wait), "{wait:?} of {whole} ms");
            }
            (0..40).for_each(|_| assert!(backoff.next() <= ms(35)));
            backoff.reset();
        }
    }
}
