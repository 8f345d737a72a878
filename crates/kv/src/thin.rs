//! Bytes on the heap behind a pointer of one word: their length stands before them.
//!
//! What it is for: the table of keys is as long as its pointers are wide, and half of it may be
//! empty; `Box<[u8]>` takes two words. What it is not: growable, shared, or for anything but bytes.
//!
//! The only unsafe code of Sampan. What it relies on: `start` always points to an allocation of
//! [`layout`] of the length that its first four bytes hold, all of it initialised, and nobody else
//! has it; no method leaves that, and the length is written once.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// The length, before the bytes.
const HEAD_BYTES: usize = size_of::<u32>();

/// At most 2^31 bytes, owned; never longer or shorter.
pub(crate) struct ThinBytes {
    start: NonNull<u8>,
}

// SAFETY: the allocation belongs to this value alone, as that of a `Box<[u8]>` does.
unsafe impl Send for ThinBytes {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for ThinBytes {}

fn layout(len: usize) -> Layout {
    assert!(len <= 1 << 31, "{len} bytes");
    Layout::from_size_align(HEAD_BYTES + len, align_of::<u32>()).expect("far below isize::MAX")
}

impl ThinBytes {
    /// These parts, one after another.
    pub(crate) fn concat(parts: &[&[u8]]) -> Self {
        let len = parts.iter().map(|part| part.len()).sum();
        let layout = layout(len);
        // SAFETY: the layout has at least the four bytes of the length.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        let mut at = HEAD_BYTES;
        // SAFETY: the allocation is aligned for the length and has room for it and, by its layout,
        // for the parts, which are elsewhere: it is new.
        unsafe {
            start.cast::<u32>().write(len as u32);
            for part in parts {
                start.add(at).copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len());
                at += part.len();
            }
        }
        Self { start }
    }

    /// What it takes of the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        HEAD_BYTES + self.len()
    }
}

impl Deref for ThinBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the length and as many bytes are there and initialised; `&self` keeps them so.
        unsafe {
            let len = self.start.cast::<u32>().read() as usize;
            slice::from_raw_parts(self.start.add(HEAD_BYTES).as_ptr(), len)
        }
    }
}

impl DerefMut for ThinBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; `&mut self` makes it the only reference. It leaves out the
        // length.
        unsafe {
            let len = self.start.cast::<u32>().read() as usize;
            slice::from_raw_parts_mut(self.start.add(HEAD_BYTES).as_ptr(), len)
        }
    }
}

impl Drop for ThinBytes {
    fn drop(&mut self) {
        let layout = layout(self.len());
        // SAFETY: it was allocated with this layout, and is not used again.
        unsafe { dealloc(self.start.as_ptr(), layout) }
    }
}

impl Clone for ThinBytes {
    fn clone(&self) -> Self {
        Self::concat(&[self])
    }
}

impl PartialEq for ThinBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ThinBytes {}

impl fmt::Debug for ThinBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_parts_behind_one_word() {
        assert_eq!(size_of::<Option<ThinBytes>>(), size_of::<usize>());
        let cases: [&[&[u8]]; 5] =
            [&[], &[b""], &[b"a"], &[b"ab", b"", b"cde"], &[&[7; 9_000], b"x"]];
        for parts in cases {
            let thin = ThinBytes::concat(parts);
            assert_eq!(*thin, parts.concat());
            assert_eq!(thin.heap_bytes(), 4 + parts.concat().len());
        }
    }

    #[test]
    fn a_clone_has_bytes_of_its_own() {
        let one = ThinBytes::concat(&[b"abc"]);
        let mut other = one.clone();
        assert_eq!(one, other);
        other[1] = b'x';
        assert_eq!((&*one, &*other), (&b"abc"[..], &b"axc"[..]));
        drop(one);
        assert_eq!(format!("{other:?}"), "[97, 120, 99]");
    }
}
