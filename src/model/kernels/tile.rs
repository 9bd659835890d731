//! The tile: a few rows times two registers of columns, whose accumulators all stay in registers.
//!
//! Invariant: each accumulator takes its products in ascending order of `k`, one fused multiply-add each.

use super::isa::{Isa, Task};
use super::simd::Simd;

/// Greatest height of a tile on any instruction set.
pub(super) const MAX_HEIGHT: usize = 12;
/// Greatest width of a tile on any instruction set.
pub(super) const MAX_WIDTH: usize = 32;

/// How many of `rows` the next tile takes, and its height: rows beyond those are padding.
pub(super) fn next_tile(isa: Isa, rows: usize) -> (usize, usize) {
    let height = match rows {
        0..=1 => 1,
        2..=3 => 3,
        4..=9 => 6,
        _ => isa.height(),
    };
    (rows.min(height), height)
}

/// Runs `$task::<HEIGHT>` for a height that is known at run time: one of those of [`next_tile`].
macro_rules! run_with_height {
    ($isa:expr, $height:expr, $task:ident { $($field:ident),* $(,)? }) => {
        match $height {
            1 => $isa.run($task::<1> { $($field),* }),
            3 => $isa.run($task::<3> { $($field),* }),
            6 => $isa.run($task::<6> { $($field),* }),
            12 => $isa.run($task::<12> { $($field),* }),
            other => unreachable!("no tile is {other} rows high"),
        }
    };
}
pub(super) use run_with_height;

/// `acc += a * b` for one tile: `a` is `[k, height]`, `b` is `[k, width]`, `acc` is `[height, width]`.
pub(super) fn multiply(isa: Isa, height: usize, a: &[f32], b: &[f32], acc: &mut [f32]) {
    run_with_height!(isa, height, Multiply { a, b, acc });
}

struct Multiply<'a, const HEIGHT: usize> {
    a: &'a [f32],
    b: &'a [f32],
    acc: &'a mut [f32],
}

impl<const HEIGHT: usize> Task for Multiply<'_, HEIGHT> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let acc = as_tile::<HEIGHT, WIDTH>(self.acc);
        let mut sums = [simd.load(&[0.0; WIDTH]); HEIGHT];
        for i in 0..HEIGHT {
            sums[i] = simd.load(&acc[i]);
        }
        for (a, b) in self.a.as_chunks::<HEIGHT>().0.iter().zip(self.b.as_chunks::<WIDTH>().0) {
            let b = simd.load(b);
            for i in 0..HEIGHT {
                sums[i] = simd.mul_add(a[i], b, sums[i]);
            }
        }
        for i in 0..HEIGHT {
            simd.store(sums[i], &mut acc[i]);
        }
    }
}

/// Views a slice as rows of a fixed width.
#[inline(always)]
pub(super) fn as_tile<const HEIGHT: usize, const WIDTH: usize>(slice: &mut [f32]) -> &mut [[f32; WIDTH]; HEIGHT] {
    slice.as_chunks_mut::<WIDTH>().0.try_into().expect("the caller gives HEIGHT rows of WIDTH")
}

/// Packs `rows` of a matrix for [`multiply`]: `[k, height]`, zeros where there are no rows.
pub(super) fn pack_rows(rows: &[&[f32]], height: usize, packed: &mut [f32]) {
    for (k, packed) in packed.chunks_exact_mut(height).enumerate() {
        for (value, row) in packed.iter_mut().zip(rows) {
            *value = row[k];
        }
        packed[rows.len()..].fill(0.0);
    }
}
