//! Whether the cache is too small, and how large it would have to be.
//!
//! Invariant: it speaks a logarithmic number of times, however long the shortage lasts.

/// See the module.
#[derive(Debug)]
pub(super) struct Shortage {
    /// Tokens computed again since it spoke last.
    recomputed: usize,
    /// The next time that it speaks: so many tokens computed again.
    speaks_at: usize,
    /// Tokens of a cache that would have held all that came back.
    needed: usize,
}

impl Shortage {
    /// Of a cache of so many tokens. It first speaks once as many were computed again.
    pub(super) fn new(slots: u32) -> Self {
        Self { recomputed: 0, speaks_at: (slots as usize).max(super::reuse::BLOCK), needed: 0 }
    }

    /// A block was computed again; a cache that holds `others` more tokens than it would have kept it.
    pub(super) fn saw(&mut self, others: usize) {
        self.recomputed += super::reuse::BLOCK;
        self.needed = self.needed.max(others + super::reuse::BLOCK);
    }

    /// Tokens of a cache that would have held what came back, where it is time to speak.
    pub(super) fn take(&mut self) -> Option<usize> {
        if self.recomputed < self.speaks_at {
            return None;
        }
        (self.recomputed, self.speaks_at) = (0, self.speaks_at.saturating_mul(2));
        Some(std::mem::take(&mut self.needed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_speaks_ever_less_often() {
        let mut shortage = Shortage::new(160);
        let said: Vec<(usize, usize)> = (0..200)
            .filter_map(|i| {
                shortage.saw(16 * i);
                shortage.take().map(|needed| (i, needed))
            })
            .collect();
        // After 160, 320, 640, 1280 more tokens, ten of them a block: with what the latest blocks would have needed.
        assert_eq!(said, [(9, 160), (29, 480), (69, 1120), (149, 2400)]);
    }
}
