//! Linear layers whose weights are small integers, in exact sums: what the types of integer weights share.
//!
//! Inputs go in groups of `G`. Of each output's weights of a group the largest becomes the type's limit `W`, of each row's
//! activations of a group `A`, and the others are rounded in proportion, ties to even: `w = s_w q_w`, `x = s_x q_x`. Then
//! `y = y + float(sum of q_x q_w) * (s_x * s_w)`, group after group in ascending order: the sum is exact and rounded to a
//! float32 once, so is the product of the scales, and the multiply-add rounds once.
//!
//! Invariant: no sum overflows, whatever the values, since `A` is what 32 bits have room for: `G W A < 2^31`. Sums of integers
//! have no order, so the bits are the same on every instruction set. A value that is not finite makes its row's outputs NaN,
//! and no other's; so does a weight for its output.
//!
//! Activations have 16 bits even where weights have 8: an instruction that multiplies pairs of those does as many in a cycle
//! as one that takes quadruples of bytes does on AVX2, and rounds a hundred times finer.

use std::fmt::Debug;
use std::hint::black_box;
use std::ops::Range;

use bytemuck::Pod;
use rayon::prelude::*;

use super::aligned::{Aligned, with_scratch};
use super::panel::{BlockTask, Dimensions, Panels, Rows, panel};
use super::simd::Simd;
use super::stored::{Parts, Stored};
use super::sweep::{Arithmetic, Part, Sweep, prefetch, run_length};
use super::tile::MAX_HEIGHT;
use crate::model::error::ModelError;

/// Most inputs of a group.
const MAX_GROUP: usize = 256;

/// A weight as it is stored.
pub(super) trait IntegerWeight: Pod + Debug + Default + Send + Sync {
    /// `W`: what the largest weight of a group becomes.
    const LIMIT: i32;
    /// `G`: inputs of a group. Even, and a divisor of [`MAX_GROUP`].
    const GROUP: usize;
    /// `A`: what the largest activation of a group becomes. A product of two such pairs fits 32 bits, as vpmaddwd adds them,
    /// since neither factor is -32,768.
    const ACTIVATION_LIMIT: i32 = {
        assert!(MAX_GROUP.is_multiple_of(Self::GROUP) && Self::GROUP.is_multiple_of(2));
        let room = i32::MAX / (Self::LIMIT * Self::GROUP as i32);
        if room < i16::MAX as i32 { room } else { i16::MAX as i32 }
    };

    /// The integer of a weight, which is within the limit.
    fn narrow(whole: i32) -> Self;

    /// A row of a panel, in registers.
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[[Self; 2]; WIDTH]) -> S::Pairs;
}

/// The inverse scale and the scale of a group: the largest of `values` times the first is `limit`, and an integer times the
/// second is its value again.
#[inline(always)]
fn group_scales(values: &[f32], limit: i32) -> (f32, f32) {
    // Magnitudes are ordered as their bits are, infinity and NaN last.
    let mut largest = 0;
    for value in values {
        largest = (value.to_bits() & !(1 << 31)).max(largest);
    }
    let (largest, limit) = (f32::from_bits(largest), limit as f32);
    match limit / largest {
        inverse if largest.is_finite() && inverse.is_finite() => (inverse, largest / limit),
        // Nothing but zeros, or next to nothing.
        _ if largest < 1.0 => (0.0, 0.0),
        _ => (0.0, f32::NAN),
    }
}

/// The nearest integer of a number below 2^22, ties to even: the sum's last places are those of whole numbers.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    const SHIFT: f32 = (3 << 22) as f32;
    (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32
}

/// Packed weights and their scales.
#[derive(Debug)]
pub(super) struct Integers<W> {
    /// `[panel, k / 2, width, 2]`, with a zero past an odd `k`.
    values: Stored<W>,
    /// `[panel, group, width]`: what a weight is multiplied by to get its value back.
    scales: Stored<f32>,
}

impl<W: IntegerWeight> Integers<W> {
    /// Packs rows of weights, each group rounded by its largest value.
    pub(super) fn pack(rows: &Rows, width: usize) -> Result<Self, ModelError> {
        let k = rows.k;
        let (each, groups) = (2 * k.div_ceil(2) * width, k.div_ceil(W::GROUP));
        let panels = rows.n.div_ceil(width);
        let (mut values, mut scales) = (Aligned::zeros(panels * each), Aligned::zeros(panels * groups * width));
        let destinations = values.par_chunks_mut(each).zip(scales.par_chunks_mut(groups * width));
        rows.fill(width, destinations, |(panel, scales): (&mut [W], &mut [f32]), rows| {
            for (column, row) in rows.chunks_exact(k).enumerate() {
                for (group, weights) in row.chunks(W::GROUP).enumerate() {
                    let (inverse, scale) = group_scales(weights, W::LIMIT);
                    scales[group * width + column] = scale;
                    for (i, weight) in weights.iter().enumerate() {
                        let k = group * W::GROUP + i;
                        panel[(k / 2 * width + column) * 2 + k % 2] = W::narrow(nearest(weight * inverse));
                    }
                }
            }
        })?;
        Ok(Self { values: values.into(), scales: scales.into() })
    }

    /// Takes them as they were packed; see [`Unpack`](super::panel::Unpack).
    pub(super) fn unpack(parts: &mut Parts, n: usize, k: usize, width: usize) -> Option<Self> {
        let outputs = n.next_multiple_of(width);
        let values = parts.take(2 * k.div_ceil(2) * outputs)?;
        Some(Self { values, scales: parts.take(k.div_ceil(W::GROUP) * outputs)? })
    }
}

impl<W: IntegerWeight> Panels for Integers<W> {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        let run = run_length::<Block<W>>(dimensions.k);
        let rows = task.block.rows.len() + MAX_HEIGHT;
        with_scratch(rows * run.div_ceil(2), |pairs| {
            with_scratch(rows * run.div_ceil(W::GROUP), |row_scales| {
                let (values, scales) = (&self.values[..], &self.scales[..]);
                let arithmetic = Block { values, scales, k: dimensions.k, pairs, row_scales };
                dimensions.isa.run(Sweep { dimensions, task, arithmetic });
            });
        });
    }

    fn parts(&self) -> Vec<&[u8]> {
        vec![self.values.bytes(), self.scales.bytes()]
    }
}

struct Block<'a, W> {
    /// As [`Integers`] has them.
    values: &'a [W],
    scales: &'a [f32],
    k: usize,
    /// The block's rows, `[tile, depth / 2, height]`, two values in each.
    pairs: &'a mut [i32],
    /// Their scales, `[tile, group, height]`.
    row_scales: &'a mut [f32],
}

impl<W: IntegerWeight> Arithmetic for Block<'_, W> {
    const INPUT_BYTES: usize = size_of::<i16>();
    const UNIT: usize = W::GROUP;

    #[inline(always)]
    fn lay_out<const HEIGHT: usize>(&mut self, x: &[&[f32]; HEIGHT], first: usize, depth: &Range<usize>) {
        let tile = self.pairs[first * depth.len().div_ceil(2)..].as_chunks_mut::<HEIGHT>().0;
        let scales = self.row_scales[first * depth.len().div_ceil(W::GROUP)..].as_chunks_mut::<HEIGHT>().0;
        let mut packed = [0; MAX_GROUP / 2];
        for (i, x) in x.iter().enumerate() {
            let groups = tile.chunks_mut(W::GROUP / 2).zip(&mut *scales);
            for ((tile, scale), x) in groups.zip(x.chunks(W::GROUP)) {
                let (inverse, found) = group_scales(x, W::ACTIVATION_LIMIT);
                scale[i] = found;
                let (pairs, rest) = x.as_chunks::<2>();
                for (packed, pair) in packed.iter_mut().zip(pairs) {
                    *packed = nearest(pair[0] * inverse) & 0xffff | nearest(pair[1] * inverse) << 16;
                }
                if let [x] = rest {
                    packed[pairs.len()] = nearest(x * inverse) & 0xffff;
                }
                for (tile, packed) in tile.iter_mut().zip(&packed[..x.len().div_ceil(2)]) {
                    tile[i] = *packed;
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
        &self,
        simd: S,
        index: usize,
        depth: &Range<usize>,
        first: usize,
        part: Part,
        sums: &mut [[f32; WIDTH]; HEIGHT],
    ) {
        let (k, pairs) = (self.k.div_ceil(2), depth.start / 2..depth.end.div_ceil(2));
        let (groups, all_groups) = (depth.start / W::GROUP..depth.end.div_ceil(W::GROUP), self.k.div_ceil(W::GROUP));
        let values = self.values;
        let b = panel(values, 2 * WIDTH, k, index, &pairs).as_chunks::<2>().0.as_chunks::<WIDTH>().0;
        let scales = panel(self.scales, WIDTH, all_groups, index, &groups).as_chunks::<WIDTH>().0;
        let next = (index + 1).min(values.len() / (k * 2 * WIDTH) - 1);
        let ahead = panel(values, 2 * WIDTH, k, next, &pairs);
        let a = &self.pairs[first * pairs.len()..].as_chunks::<HEIGHT>().0[..pairs.len()];
        let row_scales = &self.row_scales[first * groups.len()..].as_chunks::<HEIGHT>().0[..groups.len()];
        let half = W::GROUP / 2;
        let part = part.of(half * 2 * WIDTH);
        let groups = a.chunks(half).zip(b.chunks(half)).zip(ahead.chunks(half * 2 * WIDTH));
        let mut sums = sums;
        for (((a, b), ahead), (row_scales, scales)) in groups.zip(row_scales.iter().zip(scales)) {
            prefetch(simd, ahead, &part);
            let mut registers = [simd.no_sums(); HEIGHT];
            for (a, b) in a.iter().zip(b) {
                let b = W::load(simd, b);
                for i in 0..HEIGHT {
                    registers[i] = simd.add_products(a[i], b, registers[i]);
                }
            }
            // In memory until here. A compiler that knows them would hold them in registers, of which there are too few, and
            // write and read both kinds of sums once more for each group.
            sums = black_box(sums);
            let scales = simd.load(scales);
            for i in 0..HEIGHT {
                let sum = simd.load(&sums[i]);
                simd.store(simd.add_scaled(registers[i], row_scales[i], scales, sum), &mut sums[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
