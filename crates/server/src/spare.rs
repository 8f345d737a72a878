//! Memory that is read into again and again: a buffer comes back here when the last who holds what
//! was read lets go of it. Fresh memory would have to be had from the system, and zeroed, for each
//! read.
//!
//! What it is not: a bound on what is read and still held. Only what nobody holds is counted.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// What is kept for the next reads, at most.
const SPARE_BYTES_MAX: usize = 2 << 20;
/// Lengths are multiples of this, so that reads of about the same length share their buffers.
const STEP_BYTES: usize = 16 << 10;

/// Buffers that nobody holds; they go when this goes.
#[derive(Default, Debug)]
pub(crate) struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    /// A buffer of at least this length, with anything in it.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // One that is too short is of another kind of read, which is over.
        spare.filter(|buffer| buffer.len() >= len).unwrap_or_else(|| {
            let len = len.next_multiple_of(STEP_BYTES);
            vec![0; len]
        })
    }

    /// Takes a buffer back that nothing was lent of.
    pub(crate) fn put_back(&self, buffer: Vec<u8>) {
        keep(&self.0, buffer);
    }

    /// This part of a buffer that was taken. The buffer comes back once nobody holds the part.
    pub(crate) fn lend(&self, buffer: Vec<u8>, part: Range<usize>) -> Bytes {
        Bytes::from_owner(Lent { buffer, part, home: Arc::downgrade(&self.0) })
    }
}

struct Lent {
    buffer: Vec<u8>,
    part: Range<usize>,
    home: Weak<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.part.clone()]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        keep(&home, std::mem::take(&mut self.buffer));
    }
}

fn keep(home: &Mutex<Vec<Vec<u8>>>, buffer: Vec<u8>) {
    let mut spare = home.lock().unwrap_or_else(PoisonError::into_inner);
    let kept_bytes: usize = spare.iter().map(Vec::len).sum();
    if kept_bytes + buffer.len() <= SPARE_BYTES_MAX {
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_bytes(spare: &Spare) -> usize {
        spare.0.lock().unwrap().iter().map(Vec::len).sum()
    }

    #[test]
    fn a_buffer_comes_back_when_the_last_holder_lets_go() {
        let spare = Spare::default();
        let mut buffer = spare.take(10);
        buffer[3] = 7;
        let address = buffer.as_ptr();
        let lent = spare.lend(buffer, 3..5);
        let slice = lent.slice(..1);
        drop(lent);
        assert_eq!((&slice[..], kept_bytes(&spare)), (&[7][..], 0));
        drop(slice);
        let again = spare.take(STEP_BYTES);
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn no_more_is_kept_than_its_bound_and_nothing_that_is_too_short_is_given() {
        let spare = Spare::default();
        let count = 2 * SPARE_BYTES_MAX / STEP_BYTES;
        let lent: Vec<Bytes> =
            (0..count).map(|_| spare.lend(spare.take(STEP_BYTES), 0..STEP_BYTES)).collect();
        drop(lent);
        assert_eq!(kept_bytes(&spare), SPARE_BYTES_MAX);
        assert_eq!(spare.take(STEP_BYTES + 1).len(), 2 * STEP_BYTES);
    }

    #[test]
    fn what_nothing_was_lent_of_is_kept_too() {
        let spare = Spare::default();
        spare.put_back(spare.take(1));
        assert_eq!(kept_bytes(&spare), STEP_BYTES);
    }

    #[test]
    fn what_is_lent_outlives_its_home() {
        let spare = Spare::default();
        let lent = spare.lend(spare.take(1), 0..1);
        drop(spare);
        assert_eq!(lent.len(), 1);
    }
}
