//! A value as a search holds it: small, `Copy`, and as cheap to extend when it is a megabyte long
//! as when it is a word.
//!
//! Short strings are held whole. Longer ones are a length and two polynomial digests modulo the
//! Mersenne prime 2^61 - 1, which can be extended by a string whose own digest is known:
//! `digest(ab) = digest(a) * base^|b| + digest(b)`. Two different strings of a megabyte share both
//! digests with a chance below 2^-80; and since every order that a search accepts is replayed over
//! the strings themselves, such a chance can only hide in a refusal.

use crate::model::{State, Text, canonical_integer};

/// Strings up to here are held whole: every 64-bit integer is, so that counting needs no digest.
const SHORT_BYTES_MAX: usize = 22;
/// 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;
/// The two bases: arbitrary numbers below the prime.
const BASES: [u64; 2] = [0x09E3_779B_97F4_A7C1, 0x0517_CC1B_7272_20A9];

const _: () = assert!(SHORT_BYTES_MAX >= "-9223372036854775808".len());
const _: () = assert!(BASES[0] < PRIME && BASES[1] < PRIME);

/// The value of a key during a search. Equal strings are equal ropes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rope {
    /// The bytes, zero after `length`.
    Short {
        /// At most [`SHORT_BYTES_MAX`].
        length: u8,
        /// The bytes themselves.
        bytes: [u8; SHORT_BYTES_MAX],
    },
    /// More than [`SHORT_BYTES_MAX`] bytes.
    Long {
        /// In bytes.
        length: u64,
        /// One for each base.
        digest: [u64; 2],
    },
}

/// A value of the history, prepared: comparing it and adding it to a rope costs the same for any
/// length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    rope: Rope,
    digest: [u64; 2],
    /// `base^length`.
    power: [u64; 2],
}

impl Piece {
    /// Reads the string once.
    pub(crate) fn new(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// The string of one byte, which may be a part of a character.
    pub(crate) fn of_byte(byte: u8) -> Self {
        Self::of_bytes(&[byte])
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let digest = digest(bytes);
        let rope = if bytes.len() <= SHORT_BYTES_MAX {
            Rope::short(bytes)
        } else {
            Rope::Long { length: bytes.len() as u64, digest }
        };
        Self { rope, digest, power: BASES.map(|base| power(base, bytes.len() as u64)) }
    }
}

impl Rope {
    /// The empty string.
    pub(crate) const EMPTY: Self = Self::Short { length: 0, bytes: [0; SHORT_BYTES_MAX] };

    fn short(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self::Short { length: text.len() as u8, bytes }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Short { length, bytes } => Some(&bytes[..usize::from(*length)]),
            Self::Long { .. } => None,
        }
    }

    /// Three words that say what the rope says, to be hashed.
    fn words(&self) -> [u64; 3] {
        match self {
            Self::Short { length, bytes } => {
                let mut padded = [0; 24];
                padded[..SHORT_BYTES_MAX].copy_from_slice(bytes);
                padded[23] = *length;
                let word = |at: usize| {
                    u64::from_le_bytes(padded[at..at + 8].try_into().expect("a slice of 8 bytes"))
                };
                [word(0), word(8), word(16)]
            }
            Self::Long { length, digest } => [digest[0], digest[1], *length | 1 << 63],
        }
    }
}

impl Text<Piece> for Rope {
    fn set(slot: &mut State<Self>, value: Piece) {
        *slot = State::Present(value.rope);
    }

    fn from_integer(integer: i64) -> Self {
        Self::short(integer.to_string().as_bytes())
    }

    fn push(&mut self, value: Piece) {
        let length = self.length() + value.rope.length();
        if let (Some(head), Some(tail)) = (self.bytes(), value.rope.bytes())
            && length <= SHORT_BYTES_MAX as u64
        {
            let mut bytes = [0; SHORT_BYTES_MAX];
            bytes[..head.len()].copy_from_slice(head);
            bytes[head.len()..head.len() + tail.len()].copy_from_slice(tail);
            *self = Self::Short { length: length as u8, bytes };
            return;
        }
        let head = match self {
            Self::Short { length, bytes } => digest(&bytes[..usize::from(*length)]),
            Self::Long { digest, .. } => *digest,
        };
        let digest = [0, 1].map(|i| add(multiply(head[i], value.power[i]), value.digest[i]));
        *self = Self::Long { length, digest };
    }

    fn is(&self, value: Piece) -> bool {
        *self == value.rope
    }

    fn length(&self) -> u64 {
        match self {
            Self::Short { length, .. } => u64::from(*length),
            Self::Long { length, .. } => *length,
        }
    }

    fn integer(&self) -> Option<i64> {
        canonical_integer(std::str::from_utf8(self.bytes()?).ok()?)
    }

    fn length_of(value: Piece) -> u64 {
        value.rope.length()
    }
}

/// 128 bits that stand for "this key is in this state" in the fingerprint of a configuration.
pub(crate) fn fingerprint(key: usize, state: &State<Rope>) -> u128 {
    let words = match state {
        State::Missing => [1, 0, u64::MAX],
        State::Any => [2, 0, u64::MAX],
        State::Present(rope) => rope.words(),
    };
    let half = |seed: u64| {
        words.iter().fold(scatter(seed ^ key as u64), |hash, &word| scatter(hash ^ scatter(word)))
    };
    u128::from(half(0x243F_6A88_85A3_08D3)) << 64 | u128::from(half(0x1319_8A2E_0370_7344))
}

/// A bijection of 64-bit words that scatters them (the finalizer of `SplitMix64`).
pub(crate) fn scatter(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

fn digest(bytes: &[u8]) -> [u64; 2] {
    // Bytes count from 1, so that no string's digest is that of its own leading zeros.
    BASES.map(|base| {
        bytes.iter().fold(0, |sum, &byte| add(multiply(sum, base), u64::from(byte) + 1))
    })
}

fn power(mut base: u64, mut exponent: u64) -> u64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    add(product as u64 & PRIME, (product >> 61) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rope_grown_in_any_pieces_is_the_rope_of_the_whole() {
        let whole: String = (0..200).map(|i| char::from(b'a' + i % 26)).collect();
        for length in 0..whole.len() {
            let text = &whole[..length];
            for cut in 0..=length {
                let mut slot = State::Missing;
                Rope::set(&mut slot, Piece::new(&text[..cut]));
                let State::Present(mut rope) = slot else { panic!("it was just set") };
                rope.push(Piece::new(&text[cut..]));
                assert!(rope.is(Piece::new(text)), "{cut} of {length}");
                assert_eq!(rope.length(), length as u64);
            }
        }
    }

    #[test]
    fn different_strings_are_different_ropes() {
        let texts: Vec<String> = (0..300)
            .map(|i| "\0".repeat(i / 3) + ["", "a", "b"][i % 3] + &"x".repeat(i % 7))
            .collect();
        for a in &texts {
            for b in &texts {
                let equal = Piece::new(a).rope == Piece::new(b).rope;
                assert_eq!(equal, a == b, "{a:?} {b:?}");
                let states = [a, b].map(|text| State::Present(Piece::new(text).rope));
                assert_eq!(fingerprint(1, &states[0]) == fingerprint(1, &states[1]), a == b);
            }
        }
        assert_ne!(fingerprint(1, &State::Missing), fingerprint(2, &State::Missing));
        assert_ne!(fingerprint(1, &State::Missing), fingerprint(1, &State::Any));
    }

    #[test]
    fn arithmetic_is_modulo_the_prime() {
        let pairs = [(PRIME - 1, PRIME - 1), (PRIME - 1, 2), (1 << 60, 12_345), (0, 7)];
        for (a, b) in pairs {
            assert_eq!(
                u128::from(multiply(a, b)),
                u128::from(a) * u128::from(b) % u128::from(PRIME)
            );
        }
        assert_eq!(power(3, 5), 243);
        assert_eq!(power(3, 0), 1);
    }
}
