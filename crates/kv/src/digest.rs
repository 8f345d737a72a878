//! The digest of the whole state: what two replicas compare to know that they agree.
//!
//! Each part of the state (one record, one session, one remembered reply) contributes the 128-bit
//! xxh3 hash of its bytes; contributions are added modulo 2^128. So the order of parts does not
//! matter, a change costs two hashes, and reading the digest costs nothing. The hash is the same on
//! every machine and has no seed. It finds faults; it is no defence against forgery.

use std::fmt;

/// A digest: equal for equal states, different for different ones but for chance (2^-128).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest as bytes, little-endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The digest those bytes stand for.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// Of a whole state: the sums of its records and sessions, its time, and the counters that
    /// number sessions and their uses.
    pub(crate) fn of_state(
        (records, sessions): (Sum, Sum),
        time_ms: u64,
        (next_id, next_use): (u64, u64),
    ) -> Self {
        let mut part = [0; 56];
        part[..16].copy_from_slice(&records.to_bytes());
        part[16..32].copy_from_slice(&sessions.to_bytes());
        part[32..40].copy_from_slice(&time_ms.to_le_bytes());
        part[40..48].copy_from_slice(&next_id.to_le_bytes());
        part[48..].copy_from_slice(&next_use.to_le_bytes());
        Self(xxhash_rust::xxh3::xxh3_128(&part))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A running sum of contributions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sum(u128);

impl Sum {
    /// Adds one part's bytes.
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.0 = self.0.wrapping_add(xxhash_rust::xxh3::xxh3_128(part));
    }

    /// Takes one part's bytes away again.
    pub(crate) fn remove(&mut self, part: &[u8]) {
        self.0 = self.0.wrapping_sub(xxhash_rust::xxh3::xxh3_128(part));
    }

    /// Adds the parts that another sum is of.
    pub(crate) const fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// The sum so far, for the digest of the whole.
    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}
