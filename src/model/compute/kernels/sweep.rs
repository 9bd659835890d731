//! A block of a linear layer: its rows are laid out tile by tile, and then all panels of weights go over them.
//!
//! Invariant: the accumulators of an output take its products in ascending order of `k`, whatever the tiles and the runs.
//!
//! Rows are laid out anew because where they lie they are a whole row apart: twelve of a power of two each would share a set of
//! the first-level cache, which has eight places or twelve, and each would need an address register of its own.

use std::ops::Range;

use super::addends::copy;
use super::aligned::LINE;
use super::grid::steps;
use super::isa::Task;
use super::panel::{BlockTask, Dimensions};
use super::simd::Simd;
use super::tile::tiles;

/// Bytes of a tile's row of weights, or of an activation's row of a tile, between two visits to the accumulators in memory. A
/// panel of weights (96 kB) and a block of activations (288 kB for 96 rows) then stay in a second-level cache together.
const RUN_BYTES: usize = 3072;

/// The arithmetic of a type of weights, over the rows of one block.
pub(super) trait Arithmetic {
    /// Bytes that an input of a row takes as it is laid out.
    const INPUT_BYTES: usize;
    /// Inputs that go together.
    const UNIT: usize;

    /// Lays out rows for a tile of `HEIGHT`, of which it is the `first`: row `i` is `x[i]`, inputs `depth` of it.
    fn lay_out<const HEIGHT: usize>(&mut self, x: &[&[f32]; HEIGHT], first: usize, depth: &Range<usize>);

    /// `sums += x wᵀ` over the inputs `depth`, of the tile whose first row is `first`, and of a panel. The tile asks for
    /// its `part` of the next panel, which will be wanted soon: from the last cache level it would come more slowly than it is used.
    fn multiply<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
        &self,
        simd: S,
        panel: usize,
        depth: &Range<usize>,
        first: usize,
        part: Part,
        sums: &mut [[f32; WIDTH]; HEIGHT],
    );
}

/// Which part of the next panel a tile asks for: this one of so many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    index: usize,
    count: usize,
}

impl Part {
    /// Which of `len` values belong to it.
    #[inline(always)]
    pub(super) fn of(self, len: usize) -> Range<usize> {
        let each = len.div_ceil(self.count);
        (self.index * each).min(len)..((self.index + 1) * each).min(len)
    }
}

/// Asks for some of `values`, as many of them as there are.
#[inline(always)]
pub(super) fn prefetch<T, const WIDTH: usize, S: Simd<WIDTH>>(simd: S, values: &[T], part: &Range<usize>) {
    let values = &values[part.start.min(values.len())..part.end.min(values.len())];
    for line in values.chunks(LINE / size_of::<T>()) {
        simd.prefetch(&line[0]);
    }
}

/// Inputs of a run, of `k` in all: equal runs rather than full ones and a short last one.
pub(super) fn run_length<A: Arithmetic>(k: usize) -> usize {
    let runs = k.div_ceil(RUN_BYTES / A::INPUT_BYTES);
    k.div_ceil(runs).next_multiple_of(A::UNIT)
}

/// One block of rows by columns of `y`.
pub(super) struct Sweep<'a, A> {
    pub(super) dimensions: Dimensions,
    pub(super) task: BlockTask<'a>,
    pub(super) arithmetic: A,
}

impl<A: Arithmetic> Task for Sweep<'_, A> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(mut self, simd: S) {
        let (k, most) = (self.dimensions.k, self.dimensions.isa.height());
        let rows = self.task.block.rows.len();
        let panels = self.task.block.columns.start / WIDTH..self.task.block.columns.end.div_ceil(WIDTH);
        for depth in steps(k, run_length::<A>(k)) {
            for (rows, height) in tiles(most, rows) {
                match height {
                    1 => self.lay_out::<1>(&rows, &depth),
                    3 => self.lay_out::<3>(&rows, &depth),
                    6 => self.lay_out::<6>(&rows, &depth),
                    12 => self.lay_out::<12>(&rows, &depth),
                    other => unreachable!("no tile is {other} rows high"),
                }
            }
            for panel in panels.clone() {
                let count = rows.div_ceil(most);
                for (index, (rows, height)) in tiles(most, rows).enumerate() {
                    let tile = Tile { panel, depth: &depth, rows, part: Part { index, count } };
                    match height {
                        1 => self.tile::<1, WIDTH, S>(simd, tile),
                        3 => self.tile::<3, WIDTH, S>(simd, tile),
                        6 => self.tile::<6, WIDTH, S>(simd, tile),
                        12 => self.tile::<12, WIDTH, S>(simd, tile),
                        other => unreachable!("no tile is {other} rows high"),
                    }
                }
            }
        }
    }
}

/// Where in a block a tile is.
struct Tile<'a> {
    panel: usize,
    depth: &'a Range<usize>,
    /// Rows of the block.
    rows: Range<usize>,
    part: Part,
}

impl<A: Arithmetic> Sweep<'_, A> {
    #[inline(always)]
    fn lay_out<const HEIGHT: usize>(&mut self, rows: &Range<usize>, depth: &Range<usize>) {
        let k = self.dimensions.k;
        let mut x: [&[f32]; HEIGHT] = [&[]; HEIGHT];
        for (i, x) in x.iter_mut().enumerate() {
            // Padding repeats the last row; what it makes is not stored.
            let row = self.task.block.rows.start + (rows.start + i).min(rows.end - 1);
            *x = &self.task.x[row * k + depth.start..row * k + depth.end];
        }
        self.arithmetic.lay_out(&x, rows.start, depth);
    }

    #[inline(always)]
    fn tile<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(&mut self, simd: S, tile: Tile) {
        let Tile { panel, depth, rows, part } = tile;
        let Dimensions { n, k, .. } = self.dimensions;
        let BlockTask { block, addends, continued, .. } = &mut self.task;
        // Columns of this panel, within the matrix and within the block.
        let columns = panel * WIDTH..n.min((panel + 1) * WIDTH);
        let within = columns.start - block.columns.start..columns.end - block.columns.start;
        let pieces = &mut block.pieces[rows.clone()];
        let mut sums = [[0.0; WIDTH]; HEIGHT];
        if *continued || depth.start > 0 {
            for (sums, piece) in sums.iter_mut().zip(pieces.iter()) {
                sums[..within.len()].copy_from_slice(&piece[within.clone()]);
            }
        }
        self.arithmetic.multiply(simd, panel, depth, rows.start, part, &mut sums);
        for (i, (sums, piece)) in sums.iter_mut().zip(pieces).enumerate() {
            if depth.end == k {
                addends.add(block.rows.start + rows.start + i, n, &columns, sums);
            }
            copy(sums, &mut piece[within.clone()]);
        }
    }
}
