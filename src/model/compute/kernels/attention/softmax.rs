//! One tile of queries against one block of keys: scores, softmax, and the mix of values.

use std::hint::black_box;
use std::ops::Range;

use super::BLOCK;
use crate::model::compute::kernels::exp::{exp, tanh};
use crate::model::compute::kernels::isa::{Isa, Task};
use crate::model::compute::kernels::lanes::{self, LANES};
use crate::model::compute::kernels::simd::Simd;
use crate::model::compute::kernels::tile::{MAX_HEIGHT, as_tile, run_with_height};
use crate::model::shapes::AttentionOptions;

/// Which keys of a block the queries of a tile see.
pub(super) struct Seen {
    /// These for each query, with starts and ends that never fall.
    each: [Range<usize>; MAX_HEIGHT],
    /// Some query sees these, and those between.
    pub(super) any: Range<usize>,
    /// Each query sees these.
    all: Range<usize>,
}

impl Seen {
    /// Each query sees all keys.
    pub(super) const WHOLE: Self = Self { each: [const { 0..BLOCK }; MAX_HEIGHT], any: 0..BLOCK, all: 0..BLOCK };

    /// `None` if no query sees any. The queries that pad a tile are among them.
    pub(super) fn new(each: [Range<usize>; MAX_HEIGHT]) -> Option<Self> {
        let seeing = || each.iter().filter(|s| !s.is_empty());
        let any = seeing().map(|s| s.start).min()?..seeing().map(|s| s.end).max()?;
        let all = each.iter().map(|s| s.start).max()?..each.iter().map(|s| s.end).min()?;
        // Where no key is seen by each, all are as those that only some see.
        let all = if all.is_empty() { any.end..any.end } else { all };
        Some(Self { each, any, all })
    }
}

/// `scores = queries * keys` for the panels in `panels`: `queries` are `height` rows of `head_dim`, `keys` is
/// `[panel, head_dim, width]`, `scores` is `[height, BLOCK]`.
pub(super) fn score(
    isa: Isa,
    height: usize,
    queries: &[&[f32]],
    keys: &[f32],
    panels: Range<usize>,
    scores: &mut [f32],
) {
    run_with_height!(isa, height, Score { queries, keys, panels, scores });
}

struct Score<'a, const HEIGHT: usize> {
    queries: &'a [&'a [f32]],
    keys: &'a [f32],
    panels: Range<usize>,
    scores: &'a mut [f32],
}

impl<const HEIGHT: usize> Task for Score<'_, HEIGHT> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let head_dim = self.queries[0].len();
        let scores = as_tile::<HEIGHT, BLOCK>(self.scores);
        for panel in self.panels {
            let keys = &self.keys.as_chunks::<WIDTH>().0[panel * head_dim..(panel + 1) * head_dim];
            let mut queries: [&[f32]; HEIGHT] = [&[]; HEIGHT];
            let mut sums = [simd.load(&[0.0; WIDTH]); HEIGHT];
            for i in 0..HEIGHT {
                sums[i] = simd.load(&[0.0; WIDTH]);
                queries[i] = &self.queries[i][..keys.len()];
            }
            for (d, k) in keys.iter().enumerate() {
                let k = simd.load(k);
                for i in 0..HEIGHT {
                    sums[i] = simd.mul_add(queries[i][d], k, sums[i]);
                }
            }
            for i in 0..HEIGHT {
                simd.store(sums[i], &mut scores[i].as_chunks_mut::<WIDTH>().0[panel]);
            }
        }
    }
}

/// How far a score may lie above its row's reference before the reference moves: weights stay below `e^8`, and most blocks
/// move nothing. A constant of the arithmetic: changing it changes bits.
pub(in super::super) const SLACK: f32 = 8.0;

/// The running softmax of a tile's rows.
pub(super) struct Running<'a> {
    /// What scores are weighed against: about the greatest so far, see [`SLACK`].
    pub(super) reference: &'a mut [f32],
    /// Sum of the weights so far, `[height, LANES]`.
    pub(super) sum: &'a mut [f32],
    /// Mix of the values so far, `[height, stride]`.
    pub(super) mix: &'a mut [f32],
}

/// Turns each row of `scores` (`[height, BLOCK]`) into weights relative to its reference, and scales the running sums where
/// that moves. Scores that a row does not see are not looked at.
pub(super) fn weigh(isa: Isa, scores: &mut [f32], seen: &Seen, options: AttentionOptions, running: &mut Running<'_>) {
    isa.run(Weigh { scores, seen, options, running });
}

struct Weigh<'a, 'b> {
    scores: &'a mut [f32],
    seen: &'a Seen,
    options: AttentionOptions,
    running: &'a mut Running<'b>,
}

impl Task for Weigh<'_, '_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let Running { reference, sum, mix } = self.running;
        let rows = self.scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&self.seen.each);
        let sums = sum.as_chunks_mut::<LANES>().0.iter_mut();
        let stride = mix.len() / reference.len();
        let running = reference.iter_mut().zip(sums).zip(mix.chunks_exact_mut(stride));
        // Whole steps that hold all that any row sees; a lane that a row does not see weighs nothing in it.
        let steps = self.seen.any.start / LANES..self.seen.any.end.div_ceil(LANES);
        for ((row, seen), ((reference, sum), mix)) in rows.zip(running) {
            if seen.len() == BLOCK {
                // Of a length that the compiler knows.
                let row = row.as_chunks_mut::<LANES>().0;
                finish_scores(row, self.options);
                weigh_row(row, reference, sum, mix);
            } else if !seen.is_empty() {
                finish_scores(&mut row.as_chunks_mut::<LANES>().0[steps.clone()], self.options);
                row[steps.start * LANES..seen.start].fill(f32::NEG_INFINITY);
                row[seen.end..steps.end * LANES].fill(f32::NEG_INFINITY);
                weigh_row(&mut row.as_chunks_mut::<LANES>().0[steps.clone()], reference, sum, mix);
            }
        }
    }
}

#[inline(always)]
fn finish_scores(row: &mut [[f32; LANES]], options: AttentionOptions) {
    for score in row.as_flattened_mut() {
        *score *= options.scale;
    }
    if let Some(cap) = options.soft_cap {
        for score in row.as_flattened_mut() {
            *score = cap * tanh(*score / cap);
        }
    }
}

#[inline(always)]
fn weigh_row(row: &mut [[f32; LANES]], reference: &mut f32, sum: &mut [f32; LANES], mix: &mut [f32]) {
    let mut greatest = [f32::NEG_INFINITY; LANES];
    for chunk in row.iter() {
        for j in 0..LANES {
            greatest[j] = lanes::greater(chunk[j], greatest[j]);
        }
    }
    let limit = *reference + SLACK;
    let mut above = false;
    for greatest in greatest {
        above |= greatest > limit;
    }
    if above {
        // In memory from here on. Otherwise the compiler keeps it in the pairs of lanes that this seldom path ends with, from the
        // loop above on, at eight times the instructions.
        let moved = lanes::max(black_box(greatest));
        // What was weighed against the old one.
        let rescale = exp(*reference - moved);
        *reference = moved;
        for value in sum.iter_mut() {
            *value *= rescale;
        }
        for value in mix {
            *value *= rescale;
        }
    }
    // Of its own, so that it stays in registers.
    let mut total = *sum;
    for chunk in row {
        for j in 0..LANES {
            chunk[j] = exp(chunk[j] - *reference);
            total[j] += chunk[j];
        }
    }
    *sum = total;
}

/// `mix += weights * values` over the keys that each row sees: `weights` is `[height, BLOCK]`, `values` is
/// `[panel, BLOCK, width]`, `mix` is `[height, panels * width]`.
pub(super) fn mix(isa: Isa, height: usize, weights: &[f32], values: &[f32], seen: &Seen, mix: &mut [f32]) {
    run_with_height!(isa, height, Mix { weights, values, seen, mix });
}

struct Mix<'a, const HEIGHT: usize> {
    weights: &'a [f32],
    values: &'a [f32],
    seen: &'a Seen,
    mix: &'a mut [f32],
}

impl<const HEIGHT: usize> Task for Mix<'_, HEIGHT> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let weights: &[[f32; BLOCK]; HEIGHT] =
            self.weights.as_chunks::<BLOCK>().0.try_into().expect("the caller gives HEIGHT rows of BLOCK");
        let rows = self.mix.as_chunks_mut::<WIDTH>().0;
        let panels = rows.len() / HEIGHT;
        let Seen { each, any, all } = self.seen;
        let each: &[Range<usize>; HEIGHT] = each.first_chunk().expect("no tile is higher than MAX_HEIGHT");
        let (start, end) = (all.start.min(BLOCK), all.end.min(BLOCK));
        for (panel, values) in self.values.chunks_exact(BLOCK * WIDTH).enumerate() {
            let values: &[[f32; WIDTH]; BLOCK] =
                values.as_chunks::<WIDTH>().0.try_into().expect("a panel holds BLOCK rows");
            let mut sums = [simd.load(&[0.0; WIDTH]); HEIGHT];
            for i in 0..HEIGHT {
                sums[i] = simd.load(&rows[i * panels + panel]);
            }
            // What only some rows see, before and after the rest: a weight of zero is not enough, for the value may be
            // infinite, and zero times that is not zero.
            mix_where_seen(simd, any.start..start, each, weights, values, &mut sums);
            for key in start..end {
                let value = simd.load(&values[key]);
                for i in 0..HEIGHT {
                    sums[i] = simd.mul_add(weights[i][key], value, sums[i]);
                }
            }
            mix_where_seen(simd, end..any.end, each, weights, values, &mut sums);
            for i in 0..HEIGHT {
                simd.store(sums[i], &mut rows[i * panels + panel]);
            }
        }
    }
}

/// The same over `keys`, each for those of the rows alone that see it.
#[inline(always)]
fn mix_where_seen<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
    simd: S,
    keys: Range<usize>,
    seen: &[Range<usize>; HEIGHT],
    weights: &[[f32; BLOCK]; HEIGHT],
    values: &[[f32; WIDTH]; BLOCK],
    sums: &mut [S::Row; HEIGHT],
) {
    for key in keys {
        let value = simd.load(&values[key]);
        for i in 0..HEIGHT {
            if seen[i].start <= key && key < seen[i].end {
                sums[i] = simd.mul_add(weights[i][key], value, sums[i]);
            }
        }
    }
}

/// `out = mix / sum` for one query, whose sum is still in lanes.
pub(super) fn finish(isa: Isa, mix: &[f32], sum: &[f32], out: &mut [f32]) {
    isa.run(Finish { mix, sum, out });
}

struct Finish<'a> {
    mix: &'a [f32],
    sum: &'a [f32],
    out: &'a mut [f32],
}

impl Task for Finish<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let sum = lanes::sum(self.sum.as_chunks::<LANES>().0[0]);
        for (out, mix) in self.out.iter_mut().zip(self.mix) {
            *out = mix / sum;
        }
    }
}
