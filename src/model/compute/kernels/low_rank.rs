//! `W += scale * B A`: an adapter of low rank that is merged into a matrix.
//!
//! Invariant: each value of `B A` is one sum in ascending order of the rank, started at zero, of products that are rounded
//! before they are added; then it is multiplied by the scale, and then added. So the bits do not depend on how the matrix is
//! cut, on threads or on the instruction set.

use rayon::prelude::*;

use super::isa::{Isa, Task};
use super::simd::Simd;

/// Rows that share what is loaded of `A`.
const HEIGHT: usize = 4;

/// Rows that a thread takes at a time.
const BLOCK_ROWS: usize = 16 * HEIGHT;

/// `weight += scale * b a`: `weight` is `[rows, columns]`, `a` is `[rank, columns]`, `b` is `[rows, rank]`.
///
/// # Panics
/// If the rank is zero, or the lengths do not agree.
pub fn add_low_rank(weight: &mut [f32], a: &[f32], b: &[f32], rank: usize, scale: f32) {
    assert!(rank > 0 && a.len().is_multiple_of(rank) && b.len().is_multiple_of(rank), "factors of rank {rank}");
    let columns = a.len() / rank;
    assert_eq!(weight.len(), b.len() / rank * columns, "the matrix has the rows of b and the columns of a");
    if columns == 0 {
        return;
    }
    let isa = Isa::current();
    let blocks = weight.par_chunks_mut(BLOCK_ROWS * columns).zip(b.par_chunks(BLOCK_ROWS * rank));
    blocks.for_each(|(weight, b)| isa.run(Add { weight, a, b, rank, columns, scale }));
}

/// A block of rows.
struct Add<'a> {
    weight: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    columns: usize,
    scale: f32,
}

impl Task for Add<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let Self { weight, a, b, rank, columns, scale } = self;
        let whole = columns - columns % WIDTH;
        let mut weights = weight.chunks_exact_mut(HEIGHT * columns);
        let mut factors = b.chunks_exact(HEIGHT * rank);
        for (rows, b) in weights.by_ref().zip(factors.by_ref()) {
            for first in (0..whole).step_by(WIDTH) {
                tile::<HEIGHT, WIDTH>(rows, a, b, first, columns, scale);
            }
            for column in whole..columns {
                tile::<HEIGHT, 1>(rows, a, b, column, columns, scale);
            }
        }
        for (row, b) in weights.into_remainder().chunks_exact_mut(columns).zip(factors.remainder().chunks_exact(rank)) {
            for first in (0..whole).step_by(WIDTH) {
                tile::<1, WIDTH>(row, a, b, first, columns, scale);
            }
            for column in whole..columns {
                tile::<1, 1>(row, a, b, column, columns, scale);
            }
        }
    }
}

/// `W` columns from `first` on of `H` rows.
#[inline(always)]
fn tile<const H: usize, const W: usize>(
    rows: &mut [f32],
    a: &[f32],
    b: &[f32],
    first: usize,
    columns: usize,
    scale: f32,
) {
    let rank = b.len() / H;
    let mut sums = [[0.0f32; W]; H];
    for (k, a) in a.chunks_exact(columns).enumerate() {
        let a = &a[first..first + W];
        for i in 0..H {
            let factor = b[i * rank + k];
            for j in 0..W {
                sums[i][j] += factor * a[j];
            }
        }
    }
    for i in 0..H {
        let row = &mut rows[i * columns + first..][..W];
        for j in 0..W {
            row[j] += scale * sums[i][j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    #[test]
    fn every_cut_gives_the_bits_of_the_definition() {
        for (rows, columns, rank) in [(1, 1, 1), (3, 16, 2), (4, 33, 5), (9, 31, 16), (70, 40, 3), (131, 65, 8)] {
            let (weight, a, b) = (floats(rows * columns, 1), floats(rank * columns, 2), floats(rows * rank, 3));
            let mut expected = weight.clone();
            for (i, value) in expected.iter_mut().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let sum = (0..rank).fold(0.0, |sum, k| sum + b[row * rank + k] * a[k * columns + column]);
                *value += 0.7 * sum;
            }
            for threads in [1, 3] {
                let mut merged = weight.clone();
                in_pool(threads, || add_low_rank(&mut merged, &a, &b, rank, 0.7));
                assert_same_bits(&merged, &expected, "merged");
            }
            for isa in Isa::available() {
                let mut merged = weight.clone();
                isa.run(Add { weight: &mut merged, a: &a, b: &b, rank, columns, scale: 0.7 });
                assert_same_bits(&merged, &expected, isa.name());
            }
        }
    }
}
