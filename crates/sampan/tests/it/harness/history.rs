//! What clients did and saw, and whether a linearizable store can have done that.
//!
//! Two forms, each cheap to check completely. *Tokens*: unique strings appended to a shared key by
//! clients that wait for each reply. *Registers*: keys with one writer, whose values count up, so
//! that any two reads and writes can be compared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// One client's appends to one key, in its order: the number of each, and whether it was answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tokens {
    /// Answered with success.
    pub(crate) acknowledged: Vec<u64>,
    /// Answered with "unknown", or not at all.
    pub(crate) unknown: Vec<u64>,
    /// Refused: certainly not applied.
    pub(crate) refused: Vec<u64>,
}

/// How a token is written.
pub(crate) fn token(client: usize, number: u64) -> String {
    format!("{client}.{number};")
}

/// Checks a key's final value against what its clients know: every acknowledged token exactly once
/// and in its client's order, an unknown one at most once, nothing else.
pub(crate) fn check_tokens(value: &str, clients: &BTreeMap<usize, Tokens>) -> Result<(), String> {
    let mut found: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for text in value.split_terminator(';') {
        let token =
            text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (client, number) = token.ok_or_else(|| format!("'{text}' is no token"))?;
        found.entry(client).or_default().push(number);
    }
    for (client, numbers) in &found {
        let tokens = clients.get(client).ok_or_else(|| format!("client {client} wrote nothing"))?;
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let twice = sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a == b);
        if let Some((twice, _)) = twice {
            return Err(format!("token {twice} of client {client} is there twice"));
        }
        let foreign = |n: &&u64| !tokens.acknowledged.contains(n) && !tokens.unknown.contains(n);
        if let Some(number) = numbers.iter().find(foreign) {
            let why = if tokens.refused.contains(number) { "was refused" } else { "was not sent" };
            return Err(format!("token {number} of client {client} is there and {why}"));
        }
    }
    for (client, tokens) in clients {
        let found = found.get(client).map_or(&[][..], Vec::as_slice);
        let known: Vec<u64> =
            found.iter().filter(|n| !tokens.unknown.contains(n)).copied().collect();
        if known != tokens.acknowledged {
            let lost = tokens.acknowledged.iter().find(|n| !known.contains(n));
            return Err(match lost {
                Some(number) => format!("acknowledged token {number} of client {client} is lost"),
                None => format!("the tokens of client {client} are out of order: {known:?}"),
            });
        }
    }
    Ok(())
}

/// A key with one writer whose values count up from 1. Shared between its writer and its readers.
#[derive(Debug, Default)]
pub(crate) struct Register {
    /// The last value whose write was begun.
    begun: AtomicU64,
    /// The least value that a read which begins now may return: the last one that was acknowledged
    /// to the writer or seen by any reader.
    floor: AtomicU64,
}

impl Register {
    /// The writer begins the next write; its value.
    pub(crate) fn begin_write(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The write of `value` was acknowledged.
    pub(crate) fn acknowledged(&self, value: u64) {
        self.floor.fetch_max(value, Ordering::SeqCst);
    }

    /// The least value a read that begins now may return.
    pub(crate) fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// A read that began when the floor was `floor` has returned `value` (0: no such key).
    pub(crate) fn check_read(&self, floor: u64, value: u64) -> Result<(), String> {
        let begun = self.begun.load(Ordering::SeqCst);
        if value < floor {
            return Err(format!("stale read: {value}, after {floor} was written or seen"));
        }
        if value > begun {
            return Err(format!("read {value}, only {begun} were written"));
        }
        self.acknowledged(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> BTreeMap<usize, Tokens> {
        let tokens = |acknowledged: &[u64], unknown: &[u64], refused: &[u64]| Tokens {
            acknowledged: acknowledged.to_vec(),
            unknown: unknown.to_vec(),
            refused: refused.to_vec(),
        };
        [(1, tokens(&[1, 2, 4], &[3], &[5])), (2, tokens(&[1], &[], &[]))].into()
    }

    #[test]
    fn the_checker_of_tokens_finds_each_fault() {
        for good in ["1.1;2.1;1.2;1.4;", "1.1;1.2;1.3;1.4;2.1;", "2.1;1.1;1.2;1.4;1.3;"] {
            assert_eq!(check_tokens(good, &clients()), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("1.1;2.1;1.2;", "acknowledged token 4 of client 1 is lost"),
            ("1.1;1.2;1.4;", "acknowledged token 1 of client 2 is lost"),
            ("1.1;2.1;1.2;1.4;1.2;", "token 2 of client 1 is there twice"),
            ("1.1;2.1;1.2;1.4;1.3;1.3;", "token 3 of client 1 is there twice"),
            ("1.2;1.1;1.4;2.1;", "out of order"),
            ("1.1;1.2;1.4;1.5;2.1;", "token 5 of client 1 is there and was refused"),
            ("1.1;1.2;1.4;1.6;2.1;", "token 6 of client 1 is there and was not sent"),
            ("1.1;1.2;1.4;2.1;3.1;", "client 3 wrote nothing"),
            ("1.1;1.2;1.4;2.1;x", "'x' is no token"),
        ] {
            let error = check_tokens(bad, &clients()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn the_checker_of_registers_finds_stale_and_invented_values() {
        let register = Register::default();
        assert_eq!(register.begin_write(), 1);
        assert_eq!(register.check_read(register.floor(), 0), Ok(()));
        assert_eq!(register.check_read(0, 1), Ok(()), "a write that is under way may be seen");
        let error = register.check_read(register.floor(), 0).unwrap_err();
        assert!(error.starts_with("stale read: 0, after 1"), "what one reader saw binds the next");
        assert!(register.check_read(1, 2).unwrap_err().contains("only 1 were written"));
    }
}
