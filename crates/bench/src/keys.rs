//! Which key a command names: all alike, a few of them most of the time (zipf), or one after the
//! other.

use std::fmt;
use std::str::FromStr;

use sampan_base::Rng;
use serde::{Serialize, Serializer};

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Each key as often as any other.
    Uniform,
    /// Key `k` (from 0) in proportion to `1 / (k + 1)^exponent`; above 0, at most 10. YCSB's is
    /// 0.99.
    Zipf(f64),
    /// The first command names key 0, the next key 1, and so on, and around.
    Sequential,
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, exponent) = text.split_once(':').unwrap_or((text, "0.99"));
        let exponent: Option<f64> = exponent.parse().ok().filter(|s| *s > 0.0 && *s <= 10.0);
        match (name, exponent) {
            ("zipf", Some(exponent)) => Ok(Self::Zipf(exponent)),
            ("zipf", None) => Err(format!("'{text}': the exponent is above 0, at most 10")),
            _ if text == "uniform" => Ok(Self::Uniform),
            _ if text == "sequential" => Ok(Self::Sequential),
            _ => Err(format!("'{text}': want uniform, zipf, zipf:EXPONENT or sequential")),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Sequential => f.write_str("sequential"),
        }
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Chooses keys `0..count`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    count: u64,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Uniform,
    Zipf(Zipf),
    Sequential,
}

impl Keys {
    pub(crate) fn new(count: u64, distribution: Distribution) -> Self {
        assert!(count > 0, "there is a key");
        let choice = match distribution {
            Distribution::Uniform => Choice::Uniform,
            Distribution::Zipf(exponent) => Choice::Zipf(Zipf::new(count, exponent)),
            Distribution::Sequential => Choice::Sequential,
        };
        Self { count, choice }
    }

    /// The key of the `place`-th command of the run.
    pub(crate) fn pick(&self, rng: &mut Rng, place: u64) -> u64 {
        match &self.choice {
            Choice::Uniform => rng.below(self.count),
            Choice::Zipf(zipf) => zipf.pick(rng),
            Choice::Sequential => place % self.count,
        }
    }
}

/// Zipf's distribution by rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to
/// generate variates from monotone discrete distributions", 1996): no table, a little more than one
/// try for each number, however many keys there are.
#[derive(Clone, Debug)]
struct Zipf {
    count: u64,
    exponent: f64,
    /// The integral of the hat at its two ends.
    area_first: f64,
    area_last: f64,
    /// Below this distance from its rank a point is accepted without a look at the density.
    sure: f64,
}

impl Zipf {
    fn new(count: u64, exponent: f64) -> Self {
        let mut zipf = Self { count, exponent, area_first: 0.0, area_last: 0.0, sure: 0.0 };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(count as f64 + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.density(2.0));
        zipf
    }

    fn pick(&self, rng: &mut Rng) -> u64 {
        loop {
            let area = self.area_last + unit(rng) * (self.area_first - self.area_last);
            let x = self.area_inverse(area);
            let rank = x.round().clamp(1.0, self.count as f64);
            if rank - x <= self.sure || area >= self.area(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    /// `1 / x^s`.
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// An integral of the density: `(x^(1-s) - 1) / (1 - s)`, which is `ln x` where s is 1.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_m1_over((1.0 - self.exponent) * log) * log
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let x = (area * (1.0 - self.exponent)).max(-1.0);
        (ln_1p_over(x) * area).exp()
    }
}

/// `(e^x - 1) / x`, also near 0.
fn exp_m1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// `ln(1 + x) / x`, also near 0.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

/// A number in `0.0..1.0`.
fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, keys: u64, draws: u64) -> Vec<u64> {
        let chooser = Keys::new(keys, distribution);
        let mut rng = Rng::seeded(11);
        let mut counts = vec![0; keys as usize];
        for place in 0..draws {
            counts[chooser.pick(&mut rng, place) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_names_each_key_alike() {
        let counts = counts(Distribution::Uniform, 10, 100_000);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_its_law_for_every_exponent() {
        for exponent in [0.5, 0.99, 1.0, 1.5] {
            let draws = 200_000;
            let counts = counts(Distribution::Zipf(exponent), 50, draws);
            let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
            let total: f64 = (0..50).map(weight).sum();
            for (rank, count) in counts.iter().enumerate() {
                let expected = draws as f64 * weight(rank) / total;
                let off = (*count as f64 - expected).abs();
                let tolerated = 5.0 * expected.sqrt();
                assert!(off < tolerated, "s={exponent}: key {rank} {count} times, want {expected}");
            }
        }
    }

    #[test]
    fn zipf_stays_within_its_keys() {
        assert_eq!(counts(Distribution::Zipf(0.99), 1, 100), [100]);
        let keys = Keys::new(u64::from(u32::MAX), Distribution::Zipf(0.1));
        let mut rng = Rng::seeded(5);
        assert!((0..10_000).all(|place| keys.pick(&mut rng, place) < u64::from(u32::MAX)));
    }

    #[test]
    fn sequential_goes_around() {
        assert_eq!(counts(Distribution::Sequential, 4, 10), [3, 3, 2, 2]);
    }

    #[test]
    fn distributions_are_written_as_they_are_read() {
        for text in ["uniform", "zipf:0.8", "sequential"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf(0.99)));
        for text in ["", "normal", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "uniform:2"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }
}
