//! The tile: a few rows times two registers of columns, whose accumulators all stay in registers.
//!
//! Invariant: only the last tile of a block has rows that are padding.

use std::ops::Range;

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

/// Cuts `rows` into tiles: the rows of each, and its height.
#[inline(always)]
pub(super) fn tiles(most: usize, rows: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        let (taken, height) = next_tile(most, rows - start);
        next += taken;
        (start < rows).then_some((start..next, height))
    })
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

/// Views a slice as rows of a fixed width.
#[inline(always)]
pub(super) fn as_tile<const HEIGHT: usize, const WIDTH: usize>(slice: &mut [f32]) -> &mut [[f32; WIDTH]; HEIGHT] {
    slice.as_chunks_mut::<WIDTH>().0.try_into().expect("the caller gives HEIGHT rows of WIDTH")
}
