//! `y = x wᵀ`: weights packed once at load, activations read where they lie.

use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::grid::{self, Block, steps};
use super::isa::{Isa, Task};
use super::simd::Simd;
use super::tile::{multiply, next_tile};

/// Longest run of `k` between two visits to the accumulators in memory: a panel of weights (96 kB), a tile (36 kB) and a
/// block (288 kB) of activations then stay in a second-level cache together.
const MAX_DEPTH: usize = 768;
/// Rows of activations that meet all weights before the next ones do. A multiple of every tile's height.
pub(super) const BLOCK_ROWS: usize = 96;

/// A weight matrix `[n, k]`, stored as panels of as many outputs as a tile is wide: `[panel, k, width]`, zeros past `n`.
#[derive(Debug)]
pub struct PackedMatrix {
    isa: Isa,
    n: usize,
    k: usize,
    panels: Aligned,
}

impl PackedMatrix {
    /// Packs a row-major `[n, k]` matrix.
    ///
    /// # Panics
    /// If `weights` does not hold `n * k` values.
    pub fn pack(n: usize, k: usize, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), n * k, "a [{n}, {k}] matrix has {} values", n * k);
        Self::pack_for(Isa::detect(), &[weights], k)
    }

    /// Packs several row-major matrices of `k` columns, one under the other: one pass over the activations then serves
    /// all of them.
    ///
    /// # Panics
    /// If `k` is zero or a matrix does not hold whole rows.
    pub fn pack_rows(matrices: &[&[f32]], k: usize) -> Self {
        Self::pack_for(Isa::detect(), matrices, k)
    }

    /// [`Self::pack_rows`] in the layout of a given instruction set, which [`linear`] will then use.
    ///
    /// # Panics
    /// As [`Self::pack_rows`].
    pub fn pack_for(isa: Isa, matrices: &[&[f32]], k: usize) -> Self {
        assert!(k > 0, "a weight matrix needs at least one column");
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(k)), "a matrix of {k} columns holds a broken row");
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|m| m.chunks_exact(k)).collect();
        let width = isa.width();
        let mut panels = Aligned::zeros(rows.len().div_ceil(width) * width * k);
        panels
            .par_chunks_mut(width * k)
            .zip(rows.par_chunks(width))
            .for_each(|(panel, rows)| pack_panel(rows, width, panel));
        Self { isa, n: rows.len(), k, panels }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.panels[..])
    }

    /// Rows `depth` of panel `panel`, `[depth, width]`.
    fn panel(&self, panel: usize, depth: &Range<usize>) -> &[f32] {
        let width = self.isa.width();
        let start = panel * self.k * width;
        &self.panels[start + depth.start * width..start + depth.end * width]
    }
}

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
    fn add<const WIDTH: usize>(&self, row: usize, n: usize, columns: &Range<usize>, y: &mut [f32; WIDTH]) {
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
fn copy<const WIDTH: usize>(from: &[f32; WIDTH], to: &mut [f32]) {
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
    let whole = [0..w.n];
    for block in grid::blocks(y, w.n, std::iter::once(0..x.len() / w.k), &whole) {
        w.isa.run(LinearBlock { x, w, addends: &addends, continued: false, block });
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
    let t = x.len() / w.k;
    assert_eq!(x.len(), t * w.k, "the input holds a broken row of {}", w.k);
    assert_eq!(y.len(), t * w.n, "the output of {t} rows has {} values each", w.n);
    assert!(addends.bias.is_none_or(|b| b.len() == w.n), "the bias has one value for each of {} outputs", w.n);
    assert!(addends.residual.is_none_or(|r| r.len() == y.len()), "the residual has the shape of the output");
    t
}

fn run(x: &[f32], w: &PackedMatrix, addends: Addends, continued: bool, y: &mut [f32]) {
    let t = check(x, w, &addends, y);
    if y.is_empty() {
        return;
    }
    let columns = column_blocks(t, w);
    let blocks = grid::blocks(y, w.n, steps(t, BLOCK_ROWS), &columns);
    blocks.into_par_iter().with_max_len(1).for_each(|block| {
        w.isa.run(LinearBlock { x, w, addends: &addends, continued, block });
    });
}

/// Columns are cut, at the borders of panels, only where the rows alone would leave threads idle: each cut reads the
/// activations once more.
fn column_blocks(t: usize, w: &PackedMatrix) -> Vec<Range<usize>> {
    const BLOCKS_PER_THREAD: usize = 4;
    let threads = rayon::current_num_threads();
    let wanted = if threads == 1 { 1 } else { (threads * BLOCKS_PER_THREAD).div_ceil(t.div_ceil(BLOCK_ROWS)) };
    let panels_each = w.n.div_ceil(w.isa.width()).div_ceil(wanted);
    steps(w.n, panels_each * w.isa.width()).collect()
}

/// Packs up to `width` rows as `[k, width]`, zeros where there are no rows.
fn pack_panel(rows: &[&[f32]], width: usize, panel: &mut [f32]) {
    for (k, panel) in panel.chunks_exact_mut(width).enumerate() {
        for (value, row) in panel.iter_mut().zip(rows) {
            *value = row[k];
        }
    }
}

/// One block of rows by columns of `y`.
struct LinearBlock<'a> {
    x: &'a [f32],
    w: &'a PackedMatrix,
    addends: &'a Addends<'a>,
    continued: bool,
    block: Block<'a>,
}

impl Task for LinearBlock<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(mut self, simd: S) {
        let k = self.w.k;
        // Equal runs rather than full ones and a short last one.
        let run = k.div_ceil(k.div_ceil(MAX_DEPTH));
        for depth in steps(k, run) {
            for panel in self.block.columns.start / WIDTH..self.block.columns.end.div_ceil(WIDTH) {
                let mut row = 0;
                while row < self.block.rows.len() {
                    let (taken, height) = next_tile(self.w.isa, self.block.rows.len() - row);
                    let tile = Tile { panel, depth: depth.clone(), rows: row..row + taken };
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
struct Tile {
    panel: usize,
    depth: Range<usize>,
    /// Rows of the block.
    rows: Range<usize>,
}

impl LinearBlock<'_> {
    #[inline(always)]
    fn tile<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(&mut self, simd: S, tile: Tile) {
        let Tile { panel, depth, rows } = tile;
        let (n, k) = (self.w.n, self.w.k);
        let b = self.w.panel(panel, &depth).as_chunks::<WIDTH>().0;
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
        multiply(simd, &x, b, &mut sums);
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
                let packed = PackedMatrix::pack_for(isa, &[&w], k);
                for (bias, residual) in [(None, None), (None, Some(&r[..])), (Some(&b[..]), Some(&r[..]))] {
                    let addends = Addends { bias, residual };
                    let mut y = vec![f32::NAN; t * n];
                    linear(&x, &packed, addends, &mut y);
                    assert_same_bits(&y, &reference(&x, &w, k, addends), isa.name());
                }
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
        let packed = PackedMatrix::pack_rows(&[&a, &b], k);
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
