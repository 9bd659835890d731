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

use super::aligned::{Aligned, with_scratch};
use super::grid::Block;
use super::isa::Task;
use super::linear::{Addends, copy};
use super::matrix::{PackedMatrix, Panels};
use super::simd::Simd;
use super::tile::next_tile;

/// What the largest weight of an output becomes.
const WEIGHT_LIMIT: i32 = i8::MAX as i32;

/// What the largest activation of a row becomes, where `k` products of both limits still fit their sum.
fn activation_limit(k: usize) -> f32 {
    let room = i32::MAX / WEIGHT_LIMIT / i32::try_from(k).unwrap_or(i32::MAX);
    room.clamp(1, i32::from(i16::MAX)) as f32
}

/// What makes the largest of `values` `limit`, and what undoes it.
#[inline(always)]
fn scales(values: &[f32], limit: f32) -> (f32, f32) {
    // Magnitudes are ordered as their bits are, infinity and NaN last.
    let mut largest = 0;
    for value in values {
        largest = (value.to_bits() & !(1 << 31)).max(largest);
    }
    let largest = f32::from_bits(largest);
    match limit / largest {
        scale if largest.is_finite() && scale.is_finite() => (scale, largest / limit),
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

/// See [`Panels::Int8`].
pub(super) fn pack(rows: &[&[f32]], width: usize, k: usize) -> Panels {
    let each = width * 2 * k.div_ceil(2);
    let mut values = Aligned::zeros(rows.len().div_ceil(width) * each);
    let mut undo = vec![0.0; rows.len().next_multiple_of(width)];
    values.par_chunks_mut(each).zip(undo.par_chunks_mut(width)).zip(rows.par_chunks(width)).for_each(
        |((panel, undo), rows)| {
            for (column, (row, undo)) in rows.iter().zip(undo).enumerate() {
                let (scale, back) = scales(row, WEIGHT_LIMIT as f32);
                *undo = back;
                for (k, &weight) in row.iter().enumerate() {
                    panel[(k / 2 * width + column) * 2 + k % 2] = nearest(weight * scale) as i8;
                }
            }
        },
    );
    Panels::Int8 { values, scales: undo }
}

/// One block of `y`, as [`super::linear`] makes it.
pub(super) fn block(x: &[f32], w: &PackedMatrix, addends: &Addends, continued: bool, block: Block) {
    let Panels::Int8 { values, scales } = &w.panels else { unreachable!("the caller has looked") };
    let (pairs, rows) = (w.k().div_ceil(2), block.rows.len());
    with_scratch(rows * pairs, |quantised| {
        with_scratch(rows, |undo| {
            with_scratch(pairs * w.isa.width() * 2, |panel| {
                let weights = Weights { values, scales, n: w.n(), k: w.k() };
                let height = w.isa.height();
                w.isa.run(Int8Block { x, weights, height, addends, continued, block, quantised, undo, panel });
            });
        });
    });
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
    /// What undoes their scales.
    undo: &'a mut [f32],
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
        for ((x, quantised), undo) in rows.zip(self.quantised.chunks_exact_mut(k.div_ceil(2))).zip(&mut *self.undo) {
            let (scale, back) = scales(x, limit);
            *undo = back;
            let (pairs, rest) = x.as_chunks::<2>();
            for (quantised, pair) in quantised.iter_mut().zip(pairs) {
                *quantised = nearest(pair[0] * scale) & 0xffff | nearest(pair[1] * scale) << 16;
            }
            if let ([x], Some(quantised)) = (rest, quantised.last_mut()) {
                *quantised = nearest(x * scale) & 0xffff;
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
            // Padding repeats the last row; nobody looks at what it makes.
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
            let undo = self.undo[row + i];
            for column in 0..WIDTH {
                y[column] += sums[column] as f32 * (undo * scales[column]);
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
mod tests {
    use super::super::isa::Isa;
    use super::super::linear::{linear, linear_continue};
    use super::super::matrix::WeightType;
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 1, 1), (2, 17, 3), (7, 33, 64), (13, 16, 577), (97, 65, 40), (5, 100, 1536), (205, 130, 7)];

    /// The definition, in integers that nothing overflows.
    fn reference(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
        let whole = |values: &[f32], limit: f32| {
            let (scale, undo) = scales(values, limit);
            let whole: Vec<i64> = values.iter().map(|v| (v * scale).round_ties_even() as i64).collect();
            assert!(whole.iter().all(|v| v.unsigned_abs() <= limit as u64));
            (whole, undo)
        };
        let w: Vec<_> = w.chunks_exact(k).map(|w| whole(w, 127.0)).collect();
        let x = x.chunks_exact(k).map(|x| whole(x, activation_limit(k)));
        x.flat_map(|(x, undo_x)| {
            let dot = |w: &[i64]| -> i32 { x.iter().zip(w).map(|(x, w)| x * w).sum::<i64>().try_into().unwrap() };
            w.iter().map(|(w, undo_w)| dot(w) as f32 * (undo_x * undo_w)).collect::<Vec<_>>()
        })
        .collect()
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        for (t, n, k) in SHAPES {
            let (x, w, b, r) = (floats(t * k, 1), floats(n * k, 2), floats(n, 3), floats(t * n, 4));
            let mut expected = reference(&x, &w, k);
            let addends = Addends { bias: Some(&b), residual: Some(&r) };
            for (i, y) in expected.iter_mut().enumerate() {
                *y = 0.0 + *y + b[i % n] + r[i];
            }
            for isa in Isa::available() {
                let packed = PackedMatrix::pack_for(isa, WeightType::Int8, &[&w], k);
                for threads in 1..=2 {
                    let mut y = vec![f32::NAN; t * n];
                    in_pool(threads, || linear(&x, &packed, addends, &mut y));
                    assert_same_bits(&y, &expected, isa.name());
                }
            }
        }
    }

    /// Each factor is off by half a step of its scale at most.
    #[test]
    fn sums_are_as_close_as_their_roundings() {
        for (t, n, k) in SHAPES {
            let (x, w) = (floats(t * k, 5), floats(n * k, 6));
            let packed = PackedMatrix::pack_rows(WeightType::Int8, &[&w], k);
            let mut y = vec![0.0; t * n];
            linear(&x, &packed, Addends::NONE, &mut y);
            let largest = |v: &[f32]| v.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
            for (i, y) in y.iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let (step_x, step_w) = (largest(x) / f64::from(activation_limit(k)), largest(w) / 127.0);
                let off = |x: &f32, w: &f32| f64::from(w.abs()) * step_x / 2.0 + f64::from(x.abs()) * step_w / 2.0;
                let bound: f64 = x.iter().zip(w).map(|(x, w)| off(x, w) + step_x * step_w / 4.0).sum();
                // And the float32 operations on the way.
                let bound = bound * (1.0 + 1e-4) + exact.abs() * 1e-6;
                assert!((f64::from(*y) - exact).abs() <= bound, "{y} instead of {exact}, within {bound}");
            }
        }
    }

    #[test]
    fn the_largest_values_of_all_do_not_overflow() {
        let k = 9001;
        for sign in [1.0f32, -1.0] {
            let packed = PackedMatrix::pack_rows(WeightType::Int8, &[&vec![sign * 3e38; k]], k);
            let mut y = [0.0];
            linear(&vec![1e-5; k], &packed, Addends::NONE, &mut y);
            let exact = f64::from(sign) * 3e33 * k as f64;
            assert!((f64::from(y[0]) / exact - 1.0).abs() < 1e-6, "{} instead of {exact}", y[0]);
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_own_row_alone() {
        let (k, n) = (20, 18);
        let packed = PackedMatrix::pack_rows(WeightType::Int8, &[&floats(n * k, 7)], k);
        let clean = floats(3 * k, 8);
        let mut expected = vec![0.0; 3 * n];
        linear(&clean, &packed, Addends::NONE, &mut expected);
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[k + 3] = poison;
            let mut y = vec![0.0; 3 * n];
            linear(&x, &packed, Addends::NONE, &mut y);
            assert!(y[n..2 * n].iter().all(|y| y.is_nan()));
            assert_same_bits(&y[..n], &expected[..n], "the row before");
            assert_same_bits(&y[2 * n..], &expected[2 * n..], "the row after");
        }
        linear(&[0.0; 20], &packed, Addends::NONE, &mut expected[..n]);
        assert!(expected[..n].iter().all(|y| *y == 0.0));
    }

    #[test]
    fn a_later_run_of_columns_is_added() {
        let (t, n, k) = (3, 20, 31);
        let (x, w, start) = (floats(t * k, 1), floats(n * k, 2), floats(t * n, 3));
        let packed = PackedMatrix::pack_rows(WeightType::Int8, &[&w], k);
        let mut y = start.clone();
        linear_continue(&x, &packed, Addends::NONE, &mut y);
        let expected: Vec<f32> = reference(&x, &w, k).iter().zip(&start).map(|(y, start)| start + y).collect();
        assert_same_bits(&y, &expected, "continued");
    }
}
