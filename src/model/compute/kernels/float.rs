//! Blocks of linear layers whose dot products are chains of float32 multiply-adds: the loops over panels and tiles that types
//! of floating-point weights share.

use std::ops::Range;

use half::bf16;

use super::addends::copy;
use super::grid::steps;
use super::isa::Task;
use super::panel::{BLOCK_ROWS, BlockTask, Dimensions, panel};
use super::simd::Simd;
use super::tile::{multiply, next_tile};

/// Longest run of `k` between two visits to the accumulators in memory: a panel of weights (96 kB), a tile (36 kB) and a
/// block (288 kB) of activations then stay in a second-level cache together.
pub(super) const MAX_DEPTH: usize = 768;

/// Panels whose weights are read in float32, `[panel, k, width]`.
///
/// An enum, not a trait: the loop over tiles is then compiled once for both types. Compiled once for each, its accumulators do
/// not stay in registers, and it runs at half the speed.
pub(super) enum FloatPanels<'a> {
    /// Read where they lie.
    F32(&'a [f32]),
    /// Widened a run of a panel at a time.
    Bf16 {
        panels: &'a [bf16],
        /// Room for that run.
        widened: &'a mut [f32],
    },
}

/// One block of rows by columns of `y`.
pub(super) struct FloatBlock<'a> {
    pub(super) dimensions: Dimensions,
    pub(super) task: BlockTask<'a>,
    pub(super) panels: FloatPanels<'a>,
}

impl Task for FloatBlock<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let Self { dimensions, mut task, mut panels } = self;
        let (k, height) = (dimensions.k, dimensions.isa.height());
        // Equal runs rather than full ones and a short last one.
        let run = k.div_ceil(k.div_ceil(MAX_DEPTH));
        for depth in steps(k, run) {
            for index in task.block.columns.start / WIDTH..task.block.columns.end.div_ceil(WIDTH) {
                let (b, next) = match &mut panels {
                    FloatPanels::F32(panels) => {
                        let next = (index + 1).min(panels.len() / (k * WIDTH) - 1);
                        (panel(panels, WIDTH, k, index, &depth), panel(panels, WIDTH, k, next, &depth))
                    }
                    FloatPanels::Bf16 { panels, widened } => {
                        // Once for all rows of the block.
                        let panel = panel(panels, WIDTH, k, index, &depth);
                        for (wide, narrow) in widened.iter_mut().zip(panel) {
                            // The upper half of a float32.
                            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
                        }
                        // Half as much to wait for, and in one go.
                        (&widened[..panel.len()], &widened[..panel.len()])
                    }
                };
                let b = b.as_chunks::<WIDTH>().0;
                // Each tile asks for a part of the next panel, a full block's tiles for all of it: from the last cache level it
                // would come more slowly than it is used.
                let mut parts = next.chunks_exact(depth.len() * WIDTH.div_ceil(BLOCK_ROWS / height)).cycle();
                let mut row = 0;
                while row < task.block.rows.len() {
                    let (taken, height) = next_tile(height, task.block.rows.len() - row);
                    let ahead = parts.next().unwrap_or_default();
                    let tile = Tile { panel: index, depth: depth.clone(), rows: row..row + taken, b, ahead };
                    match height {
                        1 => task.tile::<1, WIDTH, S>(simd, dimensions, tile),
                        3 => task.tile::<3, WIDTH, S>(simd, dimensions, tile),
                        6 => task.tile::<6, WIDTH, S>(simd, dimensions, tile),
                        12 => task.tile::<12, WIDTH, S>(simd, dimensions, tile),
                        other => unreachable!("no tile is {other} rows high"),
                    }
                    row += taken;
                }
            }
        }
    }
}

/// Where in a block a tile is.
struct Tile<'a, const WIDTH: usize> {
    panel: usize,
    depth: Range<usize>,
    /// Rows of the block.
    rows: Range<usize>,
    /// The panel's weights.
    b: &'a [[f32; WIDTH]],
    /// See [`multiply`].
    ahead: &'a [f32],
}

impl BlockTask<'_> {
    #[inline(always)]
    fn tile<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
        &mut self,
        simd: S,
        dimensions: Dimensions,
        tile: Tile<WIDTH>,
    ) {
        let Tile { panel, depth, rows, b, ahead } = tile;
        let Dimensions { n, k, .. } = dimensions;
        // Columns of this panel, within the matrix and within the block.
        let columns = panel * WIDTH..n.min((panel + 1) * WIDTH);
        let within = columns.start - self.block.columns.start..columns.end - self.block.columns.start;
        let mut x: [&[f32]; HEIGHT] = [&[]; HEIGHT];
        for (i, x) in x.iter_mut().enumerate() {
            // Padding repeats the last row; what it makes is not stored.
            let row = self.block.rows.start + (rows.start + i).min(rows.end - 1);
            *x = &self.x[row * k + depth.start..row * k + depth.end];
        }
        let pieces = &mut self.block.pieces[rows.clone()];
        let mut sums = [[0.0; WIDTH]; HEIGHT];
        if self.continued || depth.start > 0 {
            for (sums, piece) in sums.iter_mut().zip(pieces.iter()) {
                sums[..within.len()].copy_from_slice(&piece[within.clone()]);
            }
        }
        multiply(simd, &x, b, ahead, &mut sums);
        for (i, (sums, piece)) in sums.iter_mut().zip(pieces).enumerate() {
            if depth.end == k {
                self.addends.add(self.block.rows.start + rows.start + i, n, &columns, sums);
            }
            copy(sums, &mut piece[within.clone()]);
        }
    }
}
