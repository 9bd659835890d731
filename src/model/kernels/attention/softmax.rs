//! One tile of queries against one block of keys: scores, softmax, and the mix of values.

use std::ops::Range;

use super::BLOCK;
use crate::model::kernels::exp::{exp, tanh};
use crate::model::kernels::isa::{Isa, Task};
use crate::model::kernels::lanes::{self, LANES};
use crate::model::kernels::simd::Simd;
use crate::model::kernels::tile::{MAX_HEIGHT, as_tile, run_with_height};

/// `scores = queries * keys` for the panels in `panels`: `queries` is `[head_dim, height]`, `keys` is
/// `[panel, head_dim, width]`, `scores` is `[height, BLOCK]`.
pub(super) fn score(isa: Isa, height: usize, queries: &[f32], keys: &[f32], panels: Range<usize>, scores: &mut [f32]) {
    run_with_height!(isa, height, Score { queries, keys, panels, scores });
}

struct Score<'a, const HEIGHT: usize> {
    queries: &'a [f32],
    keys: &'a [f32],
    panels: Range<usize>,
    scores: &'a mut [f32],
}

impl<const HEIGHT: usize> Task for Score<'_, HEIGHT> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let queries = self.queries.as_chunks::<HEIGHT>().0;
        let scores = as_tile::<HEIGHT, BLOCK>(self.scores);
        for panel in self.panels {
            let keys = &self.keys.as_chunks::<WIDTH>().0[panel * queries.len()..(panel + 1) * queries.len()];
            let mut sums = [simd.load(&[0.0; WIDTH]); HEIGHT];
            for (q, k) in queries.iter().zip(keys) {
                let k = simd.load(k);
                for i in 0..HEIGHT {
                    sums[i] = simd.mul_add(q[i], k, sums[i]);
                }
            }
            for i in 0..HEIGHT {
                simd.store(sums[i], &mut scores[i].as_chunks_mut::<WIDTH>().0[panel]);
            }
        }
    }
}

/// The running softmax of a tile's rows.
pub(super) struct Running<'a> {
    /// Greatest score so far.
    pub(super) max: &'a mut [f32],
    /// Sum of the weights so far.
    pub(super) sum: &'a mut [f32],
    /// Mix of the values so far, `[height, stride]`.
    pub(super) mix: &'a mut [f32],
}

/// Turns each row of `scores` (`[height, BLOCK]`) into weights relative to the greatest score so far, and scales the
/// running sums to it. Row `i` sees the keys `seen[i]`; the others are not looked at, and get the weight zero.
pub(super) fn weigh(isa: Isa, scores: &mut [f32], seen: &[Range<usize>], soft_cap: Option<f32>, running: Running<'_>) {
    isa.run(Weigh { scores, seen, soft_cap, running });
}

struct Weigh<'a> {
    scores: &'a mut [f32],
    seen: &'a [Range<usize>],
    soft_cap: Option<f32>,
    running: Running<'a>,
}

impl Task for Weigh<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let Running { max, sum, mix } = self.running;
        let height = self.seen.len();
        let stride = mix.len() / height;
        let scores = &mut self.scores.as_chunks_mut::<BLOCK>().0[..height];
        // A step at a time for all rows: within a row each waits for the one before it, and rows need not wait for each other.
        let mut greatest = [[f32::NEG_INFINITY; LANES]; MAX_HEIGHT];
        for (i, seen) in self.seen.iter().enumerate() {
            if let Some(cap) = self.soft_cap {
                for score in &mut scores[i] {
                    *score = cap * tanh(*score / cap);
                }
            }
            if seen.len() < BLOCK {
                scores[i][..seen.start].fill(f32::NEG_INFINITY);
                scores[i][seen.end..].fill(f32::NEG_INFINITY);
            }
            for chunk in scores[i].as_chunks::<LANES>().0 {
                for j in 0..LANES {
                    greatest[i][j] = lanes::greater(chunk[j], greatest[i][j]);
                }
            }
        }
        let mut new_max = [0.0; MAX_HEIGHT];
        for i in 0..height {
            new_max[i] = lanes::greater(lanes::max(greatest[i]), max[i]);
        }
        let mut sums = [[0.0f32; LANES]; MAX_HEIGHT];
        for (i, seen) in self.seen.iter().enumerate() {
            if seen.is_empty() {
                continue;
            }
            for chunk in scores[i].as_chunks_mut::<LANES>().0 {
                for j in 0..LANES {
                    chunk[j] = exp(chunk[j] - new_max[i]);
                    sums[i][j] += chunk[j];
                }
            }
        }
        for (i, seen) in self.seen.iter().enumerate() {
            if seen.is_empty() {
                continue;
            }
            // What was weighed against the old maximum.
            let rescale = exp(max[i] - new_max[i]);
            max[i] = new_max[i];
            sum[i] = sum[i].mul_add(rescale, lanes::sum(sums[i]));
            if rescale != 1.0 {
                for value in &mut mix[i * stride..(i + 1) * stride] {
                    *value *= rescale;
                }
            }
        }
    }
}

/// `mix += weights * values` over the keys of `seen`: `weights` is `[height, BLOCK]`, `values` is
/// `[panel, BLOCK, width]`, `mix` is `[height, panels * width]`.
pub(super) fn mix(isa: Isa, height: usize, weights: &[f32], values: &[f32], seen: Range<usize>, mix: &mut [f32]) {
    run_with_height!(isa, height, Mix { weights, values, seen, mix });
}

struct Mix<'a, const HEIGHT: usize> {
    weights: &'a [f32],
    values: &'a [f32],
    seen: Range<usize>,
    mix: &'a mut [f32],
}

impl<const HEIGHT: usize> Task for Mix<'_, HEIGHT> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let weights: &[[f32; BLOCK]; HEIGHT] =
            self.weights.as_chunks::<BLOCK>().0.try_into().expect("the caller gives HEIGHT rows of BLOCK");
        let rows = self.mix.as_chunks_mut::<WIDTH>().0;
        let panels = rows.len() / HEIGHT;
        let (start, end) = (self.seen.start.min(BLOCK), self.seen.end.min(BLOCK));
        for (panel, values) in self.values.chunks_exact(BLOCK * WIDTH).enumerate() {
            let values: &[[f32; WIDTH]; BLOCK] =
                values.as_chunks::<WIDTH>().0.try_into().expect("a panel holds BLOCK rows");
            let mut sums = [simd.load(&[0.0; WIDTH]); HEIGHT];
            for i in 0..HEIGHT {
                sums[i] = simd.load(&rows[i * panels + panel]);
            }
            for key in start..end {
                let value = simd.load(&values[key]);
                for i in 0..HEIGHT {
                    sums[i] = simd.mul_add(weights[i][key], value, sums[i]);
                }
            }
            for i in 0..HEIGHT {
                simd.store(sums[i], &mut rows[i * panels + panel]);
            }
        }
    }
}
