//! Linear layers whose weights have one byte, in exact integer sums.
//!
//! Of each output's weights the largest becomes 127. Of each row of activations the largest becomes as much as the sums have
//! room for in 32 bits, so that no sum saturates whatever the values: 14 bits and a sign at 576 inputs, 10 at 16,384. An
//! instruction that multiplies pairs of 16-bit integers does as many of those in a cycle as one that takes bytes, and rounds
//! activations a hundred times finer.
//!
//! Integer sums have no order: the bits are the same on every instruction set. A value that is not finite makes its row's
//! outputs NaN, and no other's; so does a weight for its output.

use rayon::prelude::*;

use super::addends::{Addends, copy};
use super::aligned::{Aligned, with_scratch};
use super::grid::Block;
use super::isa::Task;
use super::panel::{BlockTask, Dimensions, Panels, Properties};
use super::simd::Simd;
use super::tile::next_tile;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "int8",
    version: "int8",
    bytes: 1,
    bits: 7,
    rounds_by_rank: true,
    pack: |rows, width, k| Box::new(Int8::pack(rows, width, k)),
};

/// What the largest weight of an output becomes.
const WEIGHT_LIMIT: i32 = i8::MAX as i32;

/// What the largest activation of a row becomes, where `k` products of both limits still fit their sum.
fn activation_limit(k: usize) -> f32 {
    let room = i32::MAX / WEIGHT_LIMIT / i32::try_from(k).unwrap_or(i32::MAX);
    room.clamp(1, i32::from(i16::MAX)) as f32
}

/// The inverse scale and the scale of a row: the largest of `values` times the first is `limit`, and an integer times the
/// second is its value again.
#[inline(always)]
fn row_scales(values: &[f32], limit: f32) -> (f32, f32) {
    // Magnitudes are ordered as their bits are, infinity and NaN last.
    let mut largest = 0;
    for value in values {
        largest = (value.to_bits() & !(1 << 31)).max(largest);
    }
    let largest = f32::from_bits(largest);
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

/// Packed weights and the scale of each output.
#[derive(Debug)]
struct Int8 {
    /// `[panel, k / 2, width, 2]`, with a zero past an odd `k`.
    values: Aligned<i8>,
    /// What a weight is multiplied by to get its value back.
    scales: Vec<f32>,
}

impl Int8 {
    /// Packs rows of `k` weights, each row rounded by its largest value.
    fn pack(rows: &[&[f32]], width: usize, k: usize) -> Self {
        let each = width * 2 * k.div_ceil(2);
        let mut values = Aligned::zeros(rows.len().div_ceil(width) * each);
        let mut scales = vec![0.0; rows.len().next_multiple_of(width)];
        values.par_chunks_mut(each).zip(scales.par_chunks_mut(width)).zip(rows.par_chunks(width)).for_each(
            |((panel, scales), rows)| {
                for (column, (row, scale)) in rows.iter().zip(scales).enumerate() {
                    let (inverse, found) = row_scales(row, WEIGHT_LIMIT as f32);
                    *scale = found;
                    for (k, &weight) in row.iter().enumerate() {
                        panel[(k / 2 * width + column) * 2 + k % 2] = nearest(weight * inverse) as i8;
                    }
                }
            },
        );
        Self { values, scales }
    }
}

impl Panels for Int8 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        let Dimensions { isa, n, k } = dimensions;
        let BlockTask { x, addends, continued, block } = task;
        let (pairs, rows) = (k.div_ceil(2), block.rows.len());
        with_scratch(rows * pairs, |quantised| {
            with_scratch(rows, |row_scales| {
                with_scratch(pairs * isa.width() * 2, |panel| {
                    let weights = Weights { values: &self.values, scales: &self.scales, n, k };
                    let height = isa.height();
                    isa.run(Int8Block { x, weights, height, addends, continued, block, quantised, row_scales, panel });
                });
            });
        });
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.values[..]) + size_of_val(&self.scales[..])
    }
}

struct Weights<'a> {
    values: &'a [i8],
    scales: &'a [f32],
    n: usize,
    k: usize,
}

struct Int8Block<'a> {
    x: &'a [f32],
    weights: Weights<'a>,
    height: usize,
    addends: &'a Addends<'a>,
    continued: bool,
    block: Block<'a>,
    /// The block's rows, two values in each.
    quantised: &'a mut [i32],
    /// The scale of each of these rows.
    row_scales: &'a mut [f32],
    /// The panel at hand, widened.
    panel: &'a mut [i16],
}

impl Task for Int8Block<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(mut self, simd: S) {
        self.quantise();
        let k = self.weights.k;
        let each = WIDTH * 2 * k.div_ceil(2);
        let panel = std::mem::take(&mut self.panel);
        for index in self.block.columns.start / WIDTH..self.block.columns.end.div_ceil(WIDTH) {
            for (wide, narrow) in panel.iter_mut().zip(&self.weights.values[index * each..]) {
                *wide = i16::from(*narrow);
            }
            let pairs = panel.as_chunks::<2>().0.as_chunks::<WIDTH>().0;
            let mut row = 0;
            while row < self.block.rows.len() {
                let (taken, height) = next_tile(self.height, self.block.rows.len() - row);
                match height {
                    1 => self.tile::<1, WIDTH, S>(simd, index, pairs, row, taken),
                    3 => self.tile::<3, WIDTH, S>(simd, index, pairs, row, taken),
                    6 => self.tile::<6, WIDTH, S>(simd, index, pairs, row, taken),
                    12 => self.tile::<12, WIDTH, S>(simd, index, pairs, row, taken),
                    other => unreachable!("no tile is {other} rows high"),
                }
                row += taken;
            }
        }
    }
}

impl Int8Block<'_> {
    #[inline(always)]
    fn quantise(&mut self) {
        let k = self.weights.k;
        let limit = activation_limit(k);
        let rows = self.x[self.block.rows.start * k..self.block.rows.end * k].chunks_exact(k);
        let each = self.quantised.chunks_exact_mut(k.div_ceil(2));
        for ((x, quantised), scale) in rows.zip(each).zip(&mut *self.row_scales) {
            let (inverse, found) = row_scales(x, limit);
            *scale = found;
            let (pairs, rest) = x.as_chunks::<2>();
            for (quantised, pair) in quantised.iter_mut().zip(pairs) {
                *quantised = nearest(pair[0] * inverse) & 0xffff | nearest(pair[1] * inverse) << 16;
            }
            if let ([x], Some(quantised)) = (rest, quantised.last_mut()) {
                *quantised = nearest(x * inverse) & 0xffff;
            }
        }
    }

    /// A tile of `taken` rows from `row` of the block on, under one panel.
    #[inline(always)]
    fn tile<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
        &mut self,
        simd: S,
        panel: usize,
        b: &[[[i16; 2]; WIDTH]],
        row: usize,
        taken: usize,
    ) {
        let mut x: [&[i32]; HEIGHT] = [&[]; HEIGHT];
        for (i, x) in x.iter_mut().enumerate() {
            // Padding repeats the last row; what it makes is not stored.
            *x = &self.quantised[(row + i.min(taken - 1)) * b.len()..][..b.len()];
        }
        let mut sums = [[0; WIDTH]; HEIGHT];
        multiply(simd, &x, b, &mut sums);
        let n = self.weights.n;
        let columns = panel * WIDTH..n.min((panel + 1) * WIDTH);
        let within = columns.start - self.block.columns.start..columns.end - self.block.columns.start;
        let scales: &[f32; WIDTH] = self.weights.scales[panel * WIDTH..][..WIDTH].try_into().expect("WIDTH of them");
        for (i, (sums, piece)) in sums.iter().zip(&mut self.block.pieces[row..row + taken]).enumerate() {
            let piece = &mut piece[within.clone()];
            let mut y = [0.0; WIDTH];
            if self.continued {
                y[..piece.len()].copy_from_slice(piece);
            }
            let row_scale = self.row_scales[row + i];
            for column in 0..WIDTH {
                y[column] += sums[column] as f32 * (row_scale * scales[column]);
            }
            self.addends.add(self.block.rows.start + row + i, n, &columns, &mut y);
            copy(&y, piece);
        }
    }
}

/// `sums += x * b` in whole numbers: row `i` of the tile is `x[i]`, two values in each.
#[inline(always)]
fn multiply<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
    simd: S,
    x: &[&[i32]; HEIGHT],
    b: &[[[i16; 2]; WIDTH]],
    sums: &mut [[i32; WIDTH]; HEIGHT],
) {
    let mut registers = [simd.no_sums(); HEIGHT];
    let mut rows = *x;
    for i in 0..HEIGHT {
        rows[i] = &x[i][..b.len()];
    }
    for (k, b) in b.iter().enumerate() {
        let b = simd.load_pairs(b);
        for i in 0..HEIGHT {
            registers[i] = simd.add_products(rows[i][k], b, registers[i]);
        }
    }
    for i in 0..HEIGHT {
        simd.store_sums(registers[i], &mut sums[i]);
    }
}

#[cfg(test)]
mod tests;
