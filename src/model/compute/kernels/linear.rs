//! `y = x wᵀ`: weights packed once at load, activations read where they lie.

use std::ops::Range;

use rayon::prelude::*;

use super::addends::Addends;
use super::grid::{self, steps};
use super::matrix::PackedMatrix;
use super::panel::{BLOCK_ROWS, BlockTask};
use super::tile::MAX_HEIGHT;

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
    let rows = std::iter::once(0..x.len() / w.k());
    for block in grid::blocks(y.chunks_exact_mut(w.n()), rows, std::slice::from_ref(&whole)) {
        w.compute(BlockTask { x, addends: &addends, continued: false, block });
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

/// `y = x wᵀ (+ bias)`, but of the first `columns` outputs only those of the rows `reads`, which ascend. The other rows keep what
/// `y` holds there; outputs that share a panel with later ones are computed for all rows.
///
/// # Panics
/// If the lengths do not agree, or a row is outside of `x`.
pub fn linear_of_reads(
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    columns: usize,
    reads: &[u32],
    y: &mut [f32],
) {
    let addends = Addends { bias, residual: None };
    let t = check(x, w, &addends, y);
    let (n, k, width) = (w.n(), w.k(), w.isa().width());
    let columns = columns / width * width;
    let (mut of_reads, mut of_all) = (Vec::with_capacity(reads.len()), Vec::with_capacity(t));
    let mut wanted = reads.iter().peekable();
    for (row, y) in y.chunks_exact_mut(n).enumerate() {
        let (first, rest) = y.split_at_mut(columns);
        of_all.push(rest);
        if wanted.next_if(|&&wanted| wanted as usize == row).is_some() {
            of_reads.push(first);
        }
    }
    assert!(wanted.next().is_none(), "rows ascend, and are among {t}");
    let x_of_reads: Vec<f32> = reads.iter().flat_map(|&row| &x[row as usize * k..][..k]).copied().collect();
    let parts = [(&x_of_reads[..], of_reads, 0..columns), (x, of_all, columns..n)];
    let tasks: Vec<_> = parts
        .into_iter()
        .filter(|(_, rows, columns)| !rows.is_empty() && !columns.is_empty())
        .flat_map(|(x, y, columns)| {
            let (rows, columns) = (row_blocks(y.len()), column_blocks(y.len(), columns, width));
            let blocks = grid::blocks(y.into_iter(), rows, &columns).into_iter();
            blocks.map(move |block| (x, block))
        })
        .collect();
    let tasks = tasks.into_par_iter().with_max_len(1);
    tasks.for_each(|(x, block)| w.compute(BlockTask { x, addends: &addends, continued: false, block }));
}

/// As [`linear_continue`] without addends, in some of the columns of `y`, whose rows are `width` wide.
///
/// # Panics
/// If the lengths do not agree.
pub fn linear_continue_within(x: &[f32], w: &PackedMatrix, columns: Range<usize>, y: &mut [f32], width: usize) {
    let t = x.len() / w.k();
    assert_eq!((x.len(), y.len()), (t * w.k(), t * width), "{t} rows of {} and of {width}", w.k());
    assert_eq!(columns.len(), w.n(), "a column for each output");
    if t > 0 {
        share_out(x, w, Addends::NONE, true, t, y.chunks_exact_mut(width).map(|row| &mut row[columns.clone()]));
    }
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
    if !y.is_empty() {
        share_out(x, w, addends, continued, t, y.chunks_exact_mut(w.n()));
    }
}

/// Computes `t` rows, of which each piece is one.
fn share_out<'a>(
    x: &[f32],
    w: &PackedMatrix,
    addends: Addends,
    continued: bool,
    t: usize,
    pieces: impl Iterator<Item = &'a mut [f32]>,
) {
    let columns = column_blocks(t, 0..w.n(), w.isa().width());
    let blocks = grid::blocks(pieces, row_blocks(t), &columns);
    let tasks = blocks.into_par_iter().with_max_len(1);
    tasks.for_each(|block| w.compute(BlockTask { x, addends: &addends, continued, block }));
}

/// Whole tiles, and the same work for each thread.
pub(super) fn row_blocks(t: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    grid::shares(t, MAX_HEIGHT, BLOCK_ROWS, rayon::current_num_threads())
}

/// Columns are cut, at the borders of panels of this width, only where the rows alone would leave threads idle: each cut reads
/// the activations once more.
fn column_blocks(t: usize, columns: Range<usize>, width: usize) -> Vec<Range<usize>> {
    const BLOCKS_PER_THREAD: usize = 4;
    let threads = rayon::current_num_threads();
    let rows = row_blocks(t).count();
    let wanted = match (threads * BLOCKS_PER_THREAD).div_ceil(rows) {
        _ if threads == 1 => 1,
        wanted if wanted == 1 || rows.is_multiple_of(threads) => wanted,
        // As many blocks for each thread.
        wanted => wanted.next_multiple_of(threads),
    };
    let panels_each = columns.len().div_ceil(width).div_ceil(wanted);
    steps(columns.len(), panels_each * width).map(|cut| cut.start + columns.start..cut.end + columns.start).collect()
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::super::weight_type::WeightType;
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
        let bf16 = WeightType::named("bf16").unwrap();
        for (t, n, k) in SHAPES {
            let (x, w) = (floats(t * k, 1), floats(n * k, 2));
            let rounded: Vec<f32> = w.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
            for isa in Isa::available() {
                let packed = PackedMatrix::pack_for(isa, bf16, &[&w], k);
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

    /// Columns that end in a panel, at its border, and where there is none; of no row, of some, and of every one.
    #[test]
    fn rows_that_are_not_read_lack_their_first_columns_and_no_bit_changes() {
        let (t, n, k) = (205, 130, 70);
        let (x, b) = (floats(t * k, 1), floats(n, 2));
        let weights = floats(n * k, 3);
        let every: Vec<u32> = (0..t as u32).collect();
        for isa in Isa::available() {
            let w = PackedMatrix::pack_for(isa, WeightType::F32, &[&weights], k);
            let mut whole = vec![0.0; t * n];
            linear(&x, &w, Addends { bias: Some(&b), residual: None }, &mut whole);
            for columns in [0, 5, 64, 100, n] {
                for reads in [&[][..], &[0], &[3, 4, 97, 204], &every] {
                    let mut y = vec![f32::INFINITY; t * n];
                    in_pool(2, || linear_of_reads(&x, &w, Some(&b), columns, reads, &mut y));
                    let left_out = columns / isa.width() * isa.width();
                    for (row, (y, whole)) in y.chunks_exact(n).zip(whole.chunks_exact(n)).enumerate() {
                        let from = if reads.contains(&(row as u32)) { 0 } else { left_out };
                        assert!(y[..from].iter().all(|y| *y == f32::INFINITY));
                        assert_same_bits(&y[from..], &whole[from..], isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn a_dot_product_goes_on_within_wider_rows() {
        for (t, n, k) in SHAPES {
            let (x, w, y) = (floats(t * k, 1), floats(n * k, 2), floats(t * (n + 5), 3));
            let packed = PackedMatrix::pack(n, k, &w);
            let mut wide = y.clone();
            linear_continue_within(&x, &packed, 2..2 + n, &mut wide, n + 5);
            for (before, after) in y.chunks_exact(n + 5).zip(wide.chunks_exact(n + 5)) {
                assert_eq!((&before[..2], &before[2 + n..]), (&after[..2], &after[2 + n..]), "nothing else is touched");
            }
            let within = |y: &[f32]| y.chunks_exact(n + 5).flat_map(|y| &y[2..2 + n]).copied().collect::<Vec<_>>();
            let mut expected = within(&y);
            linear_continue(&x, &packed, Addends::NONE, &mut expected);
            assert_same_bits(&within(&wide), &expected, "as alone");
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
