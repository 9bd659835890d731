//! Buffers that begin at a cache line, and the scratch that each thread keeps between calls.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Bytes of a cache line; also those of the widest register. A load that straddles two lines costs twice.
pub(super) const LINE: usize = 64;

/// A buffer of numbers whose first one lies at the start of a cache line.
#[derive(Debug, Default)]
pub(super) struct Aligned<T> {
    buffer: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let buffer = vec![T::default(); len + LINE / size_of::<T>()];
        // Alignment is a matter of speed, so an offset that cannot be found is no error.
        let start = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { buffer, start, len }
    }

    /// Makes it at least `len` long. What it held is lost if it must grow.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeros(len);
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

/// Numbers that scratch is made of.
pub(super) trait Scratch: Copy + Default + 'static {
    /// What the thread keeps: as many buffers as were ever lent at a time.
    fn kept() -> &'static LocalKey<RefCell<Vec<Aligned<Self>>>>;
}

macro_rules! scratch {
    ($($T:ident),*) => {$(
        impl Scratch for $T {
            fn kept() -> &'static LocalKey<RefCell<Vec<Aligned<Self>>>> {
                thread_local!(static KEPT: RefCell<Vec<Aligned<$T>>> = const { RefCell::new(Vec::new()) });
                &KEPT
            }
        }
    )*};
}

scratch!(f32, i32);

/// Lends `f` a buffer of `len` numbers with arbitrary contents. The thread keeps it for the next call, so a thread that
/// calls again and again allocates once; a call within a call gets another.
pub(super) fn with_scratch<T: Scratch, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut scratch = T::kept().with_borrow_mut(Vec::pop).unwrap_or_default();
    scratch.reserve(len);
    let result = f(&mut scratch[..len]);
    T::kept().with_borrow_mut(|kept| kept.push(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_line_and_are_kept() {
        let at = |s: &mut [f32]| s.as_ptr() as usize;
        assert_eq!(Aligned::<i16>::zeros(3).as_ptr() as usize % LINE, 0);
        let (first, second) = with_scratch(100, |s| {
            assert_eq!((s.len(), at(s) % LINE), (100, 0));
            (at(s), with_scratch(60, at))
        });
        assert_ne!(first, second);
        assert_eq!(with_scratch(50, |s| (at(s), with_scratch(50, at))), (first, second));
    }
}
