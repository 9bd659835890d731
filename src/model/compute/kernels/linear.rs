//! `y = x wᵀ`: weights packed once at load, activations read where they lie.

use std::ops::Range;

use rayon::prelude::*;

use super::aligned::with_scratch;
use super::grid::{self, Block, steps};
use super::int8;
use super::isa::Task;
use super::matrix::{PackedMatrix, Panels, panel};
use super::simd::Simd;
use super::tile::{MAX_HEIGHT, multiply, next_tile};

/// Longest run of `k` between two visits to the accumulators in memory: a panel of weights (96 kB), a tile (36 kB) and a
/// block (288 kB) of activations then stay in a second-level cache together.
const MAX_DEPTH: usize = 768;
/// Rows of activations that meet all weights before the next ones do. A multiple of every tile's height.
pub(super) const BLOCK_ROWS: usize = 96;

/// What is added to a finished dot product: the bias, and to their sum the residual.
///
/// A dot product may also be finished in several calls, over consecutive runs of `k`: see [`linear_continue`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Addends<'a> {
    /// `[n]`, the same for every row.
    pub bias: Option<&'a [f32]>,
    /// `[t, n]`.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Addends<'a> {
    /// Nothing.
    pub const NONE: Self = Self { bias: None, residual: None };

    /// Adds its part to columns `columns` of row `row` of a `[t, n]` matrix.
    #[inline(always)]
    pub(super) fn add<const WIDTH: usize>(&self, row: usize, n: usize, columns: &Range<usize>, y: &mut [f32; WIDTH]) {
        if let Some(bias) = self.bias {
            add(&bias[columns.clone()], y);
        }
        if let Some(residual) = self.residual {
            add(&residual[row * n..][columns.clone()], y);
        }
    }

    /// What belongs to some of the rows.
    pub(super) fn of_rows(&self, rows: Range<usize>, n: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[rows.start * n..rows.end * n]), ..*self }
    }
}

/// A whole panel's columns have a length that the compiler knows.
#[inline(always)]
fn add<const WIDTH: usize>(part: &[f32], y: &mut [f32; WIDTH]) {
    match <&[f32; WIDTH]>::try_from(part) {
        Ok(part) => {
            for i in 0..WIDTH {
                y[i] += part[i];
            }
        }
        Err(_) => y.iter_mut().zip(part).for_each(|(y, part)| *y += part),
    }
}

/// The same for moving them.
#[inline(always)]
pub(super) fn copy<const WIDTH: usize>(from: &[f32; WIDTH], to: &mut [f32]) {
    match to.as_chunks_mut::<WIDTH>() {
        ([to], []) => *to = *from,
        _ => to.copy_from_slice(&from[..to.len()]),
    }
}

/// `y = x wᵀ (+ bias) (+ residual)`: `x` is `[t, k]`, `w` is `[n, k]`, `y` is `[t, n]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn linear(x: &[f32], w: &PackedMatrix, addends: Addends, y: &mut [f32]) {
    run(x, w, addends, false, y);
}

/// [`linear`] on the calling thread alone, for those who have cut their work already.
pub(super) fn linear_here(x: &[f32], w: &PackedMatrix, addends: Addends, y: &mut [f32]) {
    check(x, w, &addends, y);
    let whole = 0..w.n();
    for block in grid::blocks(y, w.n(), std::iter::once(0..x.len() / w.k()), std::slice::from_ref(&whole)) {
        run_block(x, w, &addends, false, block);
    }
}

/// As [`linear`], but every dot product goes on from the value that `y` holds: the matrix is a run of columns of a wider
/// one, and `y` what the columns before it made. The result has the bits of one call over all of them.
///
/// # Panics
/// If the lengths do not agree.
pub fn linear_continue(x: &[f32], w: &PackedMatrix, addends: Addends, y: &mut [f32]) {
    run(x, w, addends, true, y);
}

fn check(x: &[f32], w: &PackedMatrix, addends: &Addends, y: &[f32]) -> usize {
    let t = x.len() / w.k();
    assert_eq!(x.len(), t * w.k(), "the input holds a broken row of {}", w.k());
    assert_eq!(y.len(), t * w.n(), "the output of {t} rows has {} values each", w.n());
    assert!(addends.bias.is_none_or(|b| b.len() == w.n()), "the bias has one value for each of {} outputs", w.n());
    assert!(addends.residual.is_none_or(|r| r.len() == y.len()), "the residual has the shape of the output");
    t
}

fn run(x: &[f32], w: &PackedMatrix, addends: Addends, continued: bool, y: &mut [f32]) {
    let t = check(x, w, &addends, y);
    if y.is_empty() {
        return;
    }
    let columns = column_blocks(t, w);
    let blocks = grid::blocks(y, w.n(), row_blocks(t), &columns);
    blocks.into_par_iter().with_max_len(1).for_each(|block| run_block(x, w, &addends, continued, block));
}

fn run_block(x: &[f32], w: &PackedMatrix, addends: &Addends, continued: bool, block: Block) {
    match &w.panels {
        Panels::F32(_) => w.isa.run(LinearBlock { x, w, addends, continued, block, widened: &mut [] }),
        Panels::Bf16(_) => with_scratch(MAX_DEPTH.min(w.k()) * w.isa.width(), |widened| {
            w.isa.run(LinearBlock { x, w, addends, continued, block, widened });
        }),
        Panels::Int8 { .. } => int8::block(x, w, addends, continued, block),
    }
}

/// Whole tiles, and the same work for each thread.
pub(super) fn row_blocks(t: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    grid::shares(t, MAX_HEIGHT, BLOCK_ROWS, rayon::current_num_threads())
}

/// Columns are cut, at the borders of panels, only where the rows alone would leave threads idle: each cut reads the
/// activations once more.
fn column_blocks(t: usize, w: &PackedMatrix) -> Vec<Range<usize>> {
    const BLOCKS_PER_THREAD: usize = 4;
    let threads = rayon::current_num_threads();
    let rows = row_blocks(t).count();
    let wanted = match (threads * BLOCKS_PER_THREAD).div_ceil(rows) {
        _ if threads == 1 => 1,
        wanted if wanted == 1 || rows.is_multiple_of(threads) => wanted,
        // As many blocks for each thread.
        wanted => wanted.next_multiple_of(threads),
    };
    let panels_each = w.n().div_ceil(w.isa.width()).div_ceil(wanted);
    steps(w.n(), panels_each * w.isa.width()).collect()
}

/// One block of rows by columns of `y`.
struct LinearBlock<'a> {
    x: &'a [f32],
    w: &'a PackedMatrix,
    addends: &'a Addends<'a>,
    continued: bool,
    block: Block<'a>,
    /// Room for a run of a panel in float32, where it is stored otherwise.
    widened: &'a mut [f32],
}

impl Task for LinearBlock<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(mut self, simd: S) {
        let (k, height) = (self.w.k(), self.w.isa.height());
        let widened = std::mem::take(&mut self.widened);
        // Equal runs rather than full ones and a short last one.
        let run = k.div_ceil(k.div_ceil(MAX_DEPTH));
        for depth in steps(k, run) {
            for index in self.block.columns.start / WIDTH..self.block.columns.end.div_ceil(WIDTH) {
                let (b, next) = match &self.w.panels {
                    Panels::F32(panels) => {
                        let next = (index + 1).min(panels.len() / (k * WIDTH) - 1);
                        (panel(panels, WIDTH, k, index, &depth), panel(panels, WIDTH, k, next, &depth))
                    }
                    Panels::Bf16(panels) => {
                        // Once for all rows of the block.
                        let panel = panel(panels, WIDTH, k, index, &depth);
                        for (wide, narrow) in widened.iter_mut().zip(panel) {
                            // The upper half of a float32.
                            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
                        }
                        // Half as much to wait for, and in one go.
                        (&widened[..panel.len()], &widened[..panel.len()])
                    }
                    Panels::Int8 { .. } => unreachable!("see run_block"),
                };
                let b = b.as_chunks::<WIDTH>().0;
                // Each tile asks for a part of the next panel, a full block's tiles for all of it: from the last cache level it
                // would come more slowly than it is used.
                let mut parts = next.chunks_exact(depth.len() * WIDTH.div_ceil(BLOCK_ROWS / height)).cycle();
                let mut row = 0;
                while row < self.block.rows.len() {
                    let (taken, height) = next_tile(height, self.block.rows.len() - row);
                    let ahead = parts.next().unwrap_or_default();
                    let tile = Tile { panel: index, depth: depth.clone(), rows: row..row + taken, b, ahead };
                    match height {
                        1 => self.tile::<1, WIDTH, S>(simd, tile),
                        3 => self.tile::<3, WIDTH, S>(simd, tile),
                        6 => self.tile::<6, WIDTH, S>(simd, tile),
                        12 => self.tile::<12, WIDTH, S>(simd, tile),
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

impl LinearBlock<'_> {
    #[inline(always)]
    fn tile<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(&mut self, simd: S, tile: Tile<WIDTH>) {
        let Tile { panel, depth, rows, b, ahead } = tile;
        let (n, k) = (self.w.n(), self.w.k());
        // Columns of this panel, within the matrix and within the block.
        let columns = panel * WIDTH..n.min((panel + 1) * WIDTH);
        let within = columns.start - self.block.columns.start..columns.end - self.block.columns.start;
        let mut x: [&[f32]; HEIGHT] = [&[]; HEIGHT];
        for (i, x) in x.iter_mut().enumerate() {
            // Padding repeats the last row; nobody looks at what it makes.
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

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::super::matrix::WeightType;
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    /// The definition, one output at a time.
    fn reference(x: &[f32], w: &[f32], k: usize, addends: Addends) -> Vec<f32> {
        let n = w.len() / k;
        let dots = x.chunks_exact(k).flat_map(|x| {
            w.chunks_exact(k).map(move |w| x.iter().zip(w).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum)))
        });
        let with_bias = dots.enumerate().map(|(i, y)| addends.bias.map_or(y, |bias| y + bias[i % n]));
        with_bias.enumerate().map(|(i, y)| addends.residual.map_or(y, |residual| y + residual[i])).collect()
    }

    /// Every height of tile with and without padding, more than one block of rows, broken panels, broken depths.
    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 33, 16),
        (2, 16, 24),
        (3, 31, 5),
        (5, 40, 64),
        (7, 64, 17),
        (8, 9, 576),
        (11, 100, 769),
        (13, 96, 1601),
        (16, 257, 33),
        (97, 65, 40),
        (205, 130, 70),
    ];

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        for (t, n, k) in SHAPES {
            let (x, w, r, b) = (floats(t * k, 1), floats(n * k, 2), floats(t * n, 3), floats(n, 4));
            for isa in Isa::available() {
                let packed = PackedMatrix::pack_for(isa, WeightType::F32, &[&w], k);
                for (bias, residual) in [(None, None), (None, Some(&r[..])), (Some(&b[..]), Some(&r[..]))] {
                    let addends = Addends { bias, residual };
                    let mut y = vec![f32::NAN; t * n];
                    linear(&x, &packed, addends, &mut y);
                    assert_same_bits(&y, &reference(&x, &w, k, addends), isa.name());
                }
            }
        }
    }

    /// In two bytes they have the bits of float32, if those were bfloat16 already.
    #[test]
    fn bfloat16_weights_are_widened_and_no_more() {
        for (t, n, k) in SHAPES {
            let (x, w) = (floats(t * k, 1), floats(n * k, 2));
            let rounded: Vec<f32> = w.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
            for isa in Isa::available() {
                let packed = PackedMatrix::pack_for(isa, WeightType::Bf16, &[&w], k);
                assert_eq!(packed.bytes(), n.next_multiple_of(isa.width()) * k * 2);
                let mut y = vec![f32::NAN; t * n];
                linear(&x, &packed, Addends::NONE, &mut y);
                assert_same_bits(&y, &reference(&x, &rounded, k, Addends::NONE), isa.name());
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_batch_or_the_threads() {
        for (t, n, k) in SHAPES {
            let (x, w) = (floats(t * k, 4), PackedMatrix::pack(n, k, &floats(n * k, 5)));
            let mut rows = vec![0.0; t * n];
            for (x, y) in x.chunks_exact(k).zip(rows.chunks_exact_mut(n)) {
                linear(x, &w, Addends::NONE, y);
            }
            for threads in 1..=3 {
                let mut y = vec![0.0; t * n];
                in_pool(threads, || linear(&x, &w, Addends::NONE, &mut y));
                assert_same_bits(&y, &rows, "threads");
            }
        }
    }

    #[test]
    fn a_dot_product_goes_on_where_it_was_left() {
        for (t, n, k) in SHAPES.into_iter().filter(|(_, _, k)| *k > 2) {
            let (x, w, b, r) = (floats(t * k, 1), floats(n * k, 2), floats(n, 3), floats(t * n, 4));
            let addends = Addends { bias: Some(&b), residual: Some(&r) };
            let cuts = [0, k / 3, k / 2 + 1, k];
            let mut y = vec![0.0; t * n];
            for cut in cuts.windows(2).map(|cut| cut[0]..cut[1]).filter(|cut| !cut.is_empty()) {
                let columns =
                    |matrix: &[f32]| matrix.chunks_exact(k).flat_map(|row| &row[cut.clone()]).copied().collect();
                let (x, w): (Vec<f32>, Vec<f32>) = (columns(&x), columns(&w));
                let addends = if cut.end == k { addends } else { Addends::NONE };
                linear_continue(&x, &PackedMatrix::pack(n, cut.len(), &w), addends, &mut y);
            }
            assert_same_bits(&y, &reference(&x, &w, k, addends), "in pieces");
        }
    }

    #[test]
    fn matrices_are_packed_one_under_the_other() {
        let (t, k) = (5, 20);
        let (x, a, b) = (floats(t * k, 6), floats(7 * k, 7), floats(30 * k, 8));
        let packed = PackedMatrix::pack_rows(WeightType::F32, &[&a, &b], k);
        assert_eq!((packed.n(), packed.k()), (37, k));
        assert!(packed.bytes() >= 37 * k * 4);
        let mut y = vec![0.0; t * 37];
        linear(&x, &packed, Addends::NONE, &mut y);
        assert_same_bits(&y, &reference(&x, &[a, b].concat(), k, Addends::NONE), "both");
    }

    #[test]
    fn nothing_in_nothing_out() {
        linear(&[], &PackedMatrix::pack(3, 2, &floats(6, 9)), Addends::NONE, &mut []);
    }
}
