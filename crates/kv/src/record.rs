//! One key with its value and time to live, in one piece of heap.
//!
//! ```text
//! generation u32 | key length u32, top bit: expires | expiry_ms u64 if it expires | key | value
//! '---- local ---' '----------------------- content: digest and snapshot ---------------------'
//! ```
//!
//! One record of a 16-byte key and a 64-byte value takes 92 bytes of heap and 8 of the table. The
//! generation belongs to this node alone: see [`Keyspace`](crate::keyspace::Keyspace).

use sampan_base::codec::DecodeError;

use crate::thin::ThinBytes;

/// The longest key or value that the formats can hold; limits stay below it.
pub(crate) const PART_BYTES_MAX: usize = 1 << 29;

const EXPIRES: u32 = 1 << 31;
const CONTENT_START: usize = 4;
const LENGTH_END: usize = 8;
const EXPIRY_END: usize = 16;

/// A record; its value can be replaced in place if the length stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record(ThinBytes);

impl Record {
    /// A record of these parts.
    pub(crate) fn new(generation: u32, key: &[u8], expiry_ms: Option<u64>, value: &[u8]) -> Self {
        Self::concat(generation, key, expiry_ms, [value, b""])
    }

    /// A record whose value is these two, one after the other.
    pub(crate) fn concat(
        generation: u32,
        key: &[u8],
        expiry_ms: Option<u64>,
        value: [&[u8]; 2],
    ) -> Self {
        assert!(key.len() <= PART_BYTES_MAX, "a key of {} bytes", key.len());
        let mut head = [0; EXPIRY_END];
        let flag = if expiry_ms.is_some() { EXPIRES } else { 0 };
        head[..CONTENT_START].copy_from_slice(&generation.to_le_bytes());
        head[CONTENT_START..LENGTH_END].copy_from_slice(&(key.len() as u32 | flag).to_le_bytes());
        head[LENGTH_END..].copy_from_slice(&expiry_ms.unwrap_or_default().to_le_bytes());
        let head = if expiry_ms.is_some() { &head[..] } else { &head[..LENGTH_END] };
        let [first, second] = value;
        Self(ThinBytes::concat(&[head, key, first, second]))
    }

    /// A record from the content of another, as a snapshot holds it.
    pub(crate) fn from_content(generation: u32, content: &[u8]) -> Result<Self, DecodeError> {
        let (length, rest) = content.split_first_chunk().ok_or(DecodeError::Truncated)?;
        let length = u32::from_le_bytes(*length);
        let head_bytes = if length & EXPIRES == 0 { 0 } else { EXPIRY_END - LENGTH_END };
        if rest.len() < head_bytes + (length & !EXPIRES) as usize {
            return Err(DecodeError::Invalid("record"));
        }
        Ok(Self(ThinBytes::concat(&[&generation.to_le_bytes(), content])))
    }

    /// What the digest covers and a snapshot holds: all but the generation.
    pub(crate) fn content(&self) -> &[u8] {
        &self.0[CONTENT_START..]
    }

    pub(crate) fn generation(&self) -> u32 {
        self.word(0)
    }

    pub(crate) fn set_generation(&mut self, generation: u32) {
        self.0[..CONTENT_START].copy_from_slice(&generation.to_le_bytes());
    }

    pub(crate) fn key(&self) -> &[u8] {
        let length = self.word(CONTENT_START);
        let start = if length & EXPIRES == 0 { LENGTH_END } else { EXPIRY_END };
        &self.0[start..start + (length & !EXPIRES) as usize]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.0[self.value_start()..]
    }

    /// Log time from which on the key is gone.
    pub(crate) fn expiry_ms(&self) -> Option<u64> {
        if self.word(CONTENT_START) & EXPIRES == 0 {
            return None;
        }
        let bytes = self.0[LENGTH_END..EXPIRY_END].try_into().expect("eight bytes");
        Some(u64::from_le_bytes(bytes))
    }

    /// Is the key gone at this log time?
    pub(crate) fn is_expired(&self, time_ms: u64) -> bool {
        self.expiry_ms().is_some_and(|expiry_ms| expiry_ms <= time_ms)
    }

    /// Replaces value, expiry and generation without a new allocation, if the shape is the same.
    /// Returns whether it was.
    pub(crate) fn overwrite(
        &mut self,
        generation: u32,
        expiry_ms: Option<u64>,
        value: &[u8],
    ) -> bool {
        let start = self.value_start();
        if self.0.len() - start != value.len() || self.expiry_ms().is_some() != expiry_ms.is_some()
        {
            return false;
        }
        self.0[start..].copy_from_slice(value);
        self.overwrite_expiry(generation, expiry_ms)
    }

    /// The same of expiry and generation alone.
    pub(crate) fn overwrite_expiry(&mut self, generation: u32, expiry_ms: Option<u64>) -> bool {
        if self.expiry_ms().is_some() != expiry_ms.is_some() {
            return false;
        }
        if let Some(expiry_ms) = expiry_ms {
            self.0[LENGTH_END..EXPIRY_END].copy_from_slice(&expiry_ms.to_le_bytes());
        }
        self.set_generation(generation);
        true
    }

    /// The heap bytes it asks for.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    fn value_start(&self) -> usize {
        let length = self.word(CONTENT_START);
        let start = if length & EXPIRES == 0 { LENGTH_END } else { EXPIRY_END };
        start + (length & !EXPIRES) as usize
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_its_parts() {
        for expiry_ms in [None, Some(0), Some(u64::MAX)] {
            for (key, value) in [(&b""[..], &b""[..]), (b"k", b""), (b"", b"v"), (b"key", b"value")]
            {
                let (first, second) = value.split_at(value.len() / 2);
                let record = Record::concat(7, key, expiry_ms, [first, second]);
                assert_eq!(record, Record::new(7, key, expiry_ms, value));
                assert_eq!(record.key(), key);
                assert_eq!(record.value(), value);
                assert_eq!(record.expiry_ms(), expiry_ms);
                assert_eq!(record.generation(), 7);
                assert_eq!(Record::from_content(7, record.content()), Ok(record));
            }
        }
    }

    #[test]
    fn only_the_same_shape_is_overwritten_in_place() {
        let mut record = Record::new(1, b"key", Some(5), b"old");
        assert!(record.overwrite(2, Some(6), b"new"));
        assert_eq!(record, Record::new(2, b"key", Some(6), b"new"));
        assert!(record.overwrite_expiry(2, Some(7)));
        assert_eq!(record, Record::new(2, b"key", Some(7), b"new"));
        assert!(record.overwrite_expiry(2, Some(6)));
        assert!(!record.overwrite_expiry(3, None));
        assert!(!record.overwrite(3, None, b"abc"));
        assert!(!record.overwrite(3, Some(6), b"longer"));
        assert_eq!(record, Record::new(2, b"key", Some(6), b"new"));
    }

    #[test]
    fn content_too_short_for_its_key_is_refused() {
        let content = Record::new(0, b"key", Some(1), b"").content().to_vec();
        for length in 0..content.len() {
            assert!(Record::from_content(0, &content[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn the_size_of_a_record_is_what_the_memory_target_counts_on() {
        assert_eq!(Record::new(0, &[0; 16], None, &[0; 64]).heap_bytes(), 92);
        assert_eq!(size_of::<Record>(), 8);
    }
}
