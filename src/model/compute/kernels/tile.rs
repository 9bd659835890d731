//! The tile: a few rows times two registers of columns, whose accumulators all stay in registers.
//!
//! Invariant: each accumulator takes its products in ascending order of `k`, one fused multiply-add each.

use super::simd::Simd;

/// Greatest height of a tile on any instruction set.
pub(super) const MAX_HEIGHT: usize = 12;

/// How many of `rows` the next tile takes, and its height, `most` at most: rows beyond those are padding.
pub(super) fn next_tile(most: usize, rows: usize) -> (usize, usize) {
    let height = match rows {
        0..=1 => 1,
        2..=3 => 3,
        4..=9 => 6,
        _ => most,
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

/// `sums += x * b` for one tile: row `i` of it is `x[i]`, of as many values as `b` has rows. On the way it asks for `ahead`,
/// which another tile will want: a part of it for each row of `b`, of no more than a cache line.
#[inline(always)]
pub(super) fn multiply<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
    simd: S,
    x: &[&[f32]; HEIGHT],
    b: &[[f32; WIDTH]],
    ahead: &[f32],
    sums: &mut [[f32; WIDTH]; HEIGHT],
) {
    let mut registers = [simd.load(&[0.0; WIDTH]); HEIGHT];
    let mut rows = *x;
    for i in 0..HEIGHT {
        registers[i] = simd.load(&sums[i]);
        rows[i] = &x[i][..b.len()];
    }
    for (k, (b, ahead)) in b.iter().zip(ahead.chunks_exact(ahead.len() / b.len())).enumerate() {
        simd.prefetch(&ahead[0]);
        let b = simd.load(b);
        for i in 0..HEIGHT {
            registers[i] = simd.mul_add(rows[i][k], b, registers[i]);
        }
    }
    for i in 0..HEIGHT {
        simd.store(registers[i], &mut sums[i]);
    }
}

/// Views a slice as rows of a fixed width.
#[inline(always)]
pub(super) fn as_tile<const HEIGHT: usize, const WIDTH: usize>(slice: &mut [f32]) -> &mut [[f32; WIDTH]; HEIGHT] {
    slice.as_chunks_mut::<WIDTH>().0.try_into().expect("the caller gives HEIGHT rows of WIDTH")
}
