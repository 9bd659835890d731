//! Packed values: in memory of their own, or where they lie in a file that is mapped.
//!
//! Invariant: both read as the same slice. Bytes that are shared are taken only where they hold whole values at an address that
//! values may have.

use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytemuck::Pod;

use super::aligned::{Aligned, LINE};

/// Bytes that live as long as any matrix needs them, and do not change: a mapped file's.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Packed values.
pub(super) enum Stored<T> {
    /// In memory of their own.
    Own(Aligned<T>),
    /// A part of bytes that others may read, too.
    Shared(SharedBytes, Range<usize>, PhantomData<T>),
}

impl<T: Pod> Stored<T> {
    /// Their bytes, as this machine has them.
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T> std::fmt::Debug for Stored<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "own",
            Self::Shared(..) => "shared",
        })
    }
}

impl<T> From<Aligned<T>> for Stored<T> {
    fn from(values: Aligned<T>) -> Self {
        Self::Own(values)
    }
}

impl<T: Pod> Deref for Stored<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Own(values) => values,
            // Whole and aligned, as `Parts::take` has made sure.
            Self::Shared(bytes, range, _) => bytemuck::cast_slice(&(**bytes).as_ref()[range.clone()]),
        }
    }
}

/// The packed parts of a matrix in shared bytes, one after the other, each from the start of a cache line of the file.
pub(super) struct Parts {
    bytes: SharedBytes,
    rest: Range<usize>,
}

impl Parts {
    /// The parts in this range of `bytes`.
    pub(super) fn new(bytes: SharedBytes, range: Range<usize>) -> Self {
        Self { bytes, rest: range }
    }

    /// The next part, of `len` values; `None` where the bytes do not hold them, or not at such an address.
    pub(super) fn take<T: Pod>(&mut self, len: usize) -> Option<Stored<T>> {
        let size = len.checked_mul(size_of::<T>())?;
        let range = self.rest.start..self.rest.start.checked_add(size)?;
        let next = range.end.checked_next_multiple_of(LINE)?;
        if next > self.rest.end {
            return None;
        }
        bytemuck::try_cast_slice::<u8, T>((*self.bytes).as_ref().get(range.clone())?).ok()?;
        self.rest.start = next;
        Some(Stored::Shared(Arc::clone(&self.bytes), range, PhantomData))
    }

    /// Whether all of the bytes were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin at a line, as those of a mapped file do.
    struct Bytes(Aligned<u8>);

    impl AsRef<[u8]> for Bytes {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn parts(len: usize) -> Parts {
        Parts::new(Arc::new(Bytes(Aligned::zeros(len))), 0..len)
    }

    #[test]
    fn parts_begin_at_lines_and_are_whole() {
        let mut parts = parts(3 * LINE);
        let first = parts.take::<u16>(33).unwrap();
        assert_eq!((first.len(), first.bytes().len()), (33, 66));
        let second = parts.take::<f32>(16).unwrap();
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 2 * LINE);
        assert!(parts.is_empty());
        assert!(parts.take::<u8>(1).is_none());
    }

    #[test]
    fn bytes_that_cannot_be_values_are_not_taken() {
        assert!(parts(LINE).take::<f32>(17).is_none(), "too few");
        assert!(parts(LINE).take::<f32>(usize::MAX / 2).is_none(), "no such number");
        let Parts { bytes, rest } = parts(2 * LINE);
        assert!(Parts::new(bytes, rest.start + 1..rest.end).take::<f32>(1).is_none(), "at an odd address");
    }
}
