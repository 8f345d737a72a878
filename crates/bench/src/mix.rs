//! Which commands, and how many of each: `get:9,set:1`.

use std::fmt;
use std::str::FromStr;

use sampan_base::Rng;
use serde::{Serialize, Serializer};

/// A command that can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Op {
    /// `GET key:N`.
    Get,
    /// `SET key:N value`.
    Set,
    /// `INCR counter:N`: keys of its own, since a value that `SET` wrote is no number.
    Incr,
    /// `DEL key:N`.
    Del,
    /// `EXISTS key:N`.
    Exists,
    /// `PING`: what a server and this generator take without any data.
    Ping,
}

impl Op {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Get, Self::Set, Self::Incr, Self::Del, Self::Exists, Self::Ping];

    /// As written in a mix and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Incr => "incr",
            Self::Del => "del",
            Self::Exists => "exists",
            Self::Ping => "ping",
        }
    }
}

/// Commands and their shares of the whole, each above zero. At least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix {
    shares: Vec<(Op, u32)>,
    total: u64,
}

impl Mix {
    /// One command and no other.
    pub fn only(op: Op) -> Self {
        Self { shares: vec![(op, 1)], total: 1 }
    }

    pub(crate) fn pick(&self, rng: &mut Rng) -> Op {
        let (last, others) = self.shares.split_last().expect("a mix has a command");
        if others.is_empty() {
            return last.0;
        }
        let mut at = rng.below(self.total);
        for (op, share) in others {
            match at.checked_sub(u64::from(*share)) {
                Some(rest) => at = rest,
                None => return *op,
            }
        }
        last.0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares: Vec<(Op, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once(':').unwrap_or((part, "1"));
            let op = Op::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
                let names = Op::ALL.map(Op::name).join(", ");
                format!("no command '{name}' to measure, there are {names}")
            })?;
            let share = share.parse().ok().filter(|share| *share > 0);
            let share =
                share.ok_or_else(|| format!("'{part}': want NAME or NAME:SHARE, 1 or more"))?;
            if shares.iter().any(|(other, _)| *other == op) {
                return Err(format!("'{name}' is named twice"));
            }
            shares.push((op, share));
        }
        let total = shares.iter().map(|(_, share)| u64::from(*share)).sum();
        Ok(Self { shares, total })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (op, share)) in self.shares.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match self.shares.len() {
                1 => write!(f, "{}", op.name())?,
                _ => write!(f, "{comma}{}:{share}", op.name())?,
            }
        }
        Ok(())
    }
}

impl Serialize for Mix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_comes_as_often_as_its_share_says() {
        let mix: Mix = "get:7,set:2,incr".parse().unwrap();
        let mut rng = Rng::seeded(3);
        let mut counts = [0_u32; Op::ALL.len()];
        for _ in 0..10_000 {
            counts[mix.pick(&mut rng) as usize] += 1;
        }
        assert!((6_800..7_200).contains(&counts[Op::Get as usize]), "{counts:?}");
        assert!((1_850..2_150).contains(&counts[Op::Set as usize]), "{counts:?}");
        assert!((900..1_100).contains(&counts[Op::Incr as usize]), "{counts:?}");
        assert_eq!(counts[Op::Ping as usize], 0);
    }

    #[test]
    fn a_mix_is_written_as_it_is_read() {
        for text in ["set", "get:9,set:1", "ping"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bad_mix_is_told_what_is_wrong_with_it() {
        let error = |text: &str| text.parse::<Mix>().unwrap_err();
        assert!(error("").contains("no command '' to measure, there are get, set"));
        assert!(error("get,fly").contains("'fly'"));
        assert!(error("get:0").contains("1 or more"));
        assert!(error("get:x").contains("'get:x'"));
        assert!(error("get,get:2").contains("twice"));
    }
}
