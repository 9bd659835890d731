//! Float buffers that begin at a cache line, and the scratch that each thread keeps between calls.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line; also those of the widest register. A load that straddles two lines costs twice.
const LINE: usize = 64;

/// A buffer of floats whose first one lies at the start of a cache line.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let buffer = vec![0.0; len + LINE / size_of::<f32>()];
        // Alignment is a matter of speed, so an offset that cannot be found is no error.
        let start = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        Self { buffer, start, len }
    }

    /// Makes it at least `len` long. What it held is lost if it must grow.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeros(len);
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

thread_local! {
    static SCRATCH: Cell<Aligned> = Cell::default();
}

/// Lends `f` a buffer of `len` floats with arbitrary contents. The thread keeps it for the next call, so a thread that
/// calls again and again allocates once.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    scratch.reserve(len);
    let result = f(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_line_and_are_kept() {
        assert_eq!(Aligned::zeros(3).as_ptr() as usize % LINE, 0);
        let first = with_scratch(100, |s| {
            assert_eq!((s.len(), s.as_ptr() as usize % LINE), (100, 0));
            s.as_ptr() as usize
        });
        assert_eq!(with_scratch(50, |s| (s.len(), s.as_ptr() as usize)), (50, first));
    }
}
