//! The experts of a mixture: feed-forward layers of which each has some of the rows, and each row's sum over its experts.
//!
//! Invariant: what an expert makes of a row has the bits of [`feed_forward`], and a row's sum takes its terms in the order in
//! which they are given, whatever the threads.
//!
//! An expert has few rows, so its rows go through it on one thread, and the threads take different experts: to share out one
//! expert's columns would lay out its rows once more for each thread.

use rayon::prelude::*;

use super::addends::Addends;
use super::aligned::with_scratch;
use super::feed_forward::{FeedForwardWeights, feed_forward};
use super::linear::row_blocks;

/// Pieces of work for each thread that make it worth while to share out experts: with fewer, the last one to finish would be
/// too large a part.
const PIECES_PER_THREAD: usize = 4;

/// Rows whose sums are one piece of work.
const ROWS_OF_SUMS: usize = 8;

/// An expert and its rows.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a> {
    /// Its layer.
    pub weights: FeedForwardWeights<'a>,
    /// What is added to each of its results, `[hidden]`.
    pub bias: Option<&'a [f32]>,
    /// Which rows go through it.
    pub rows: &'a [u32],
}

/// What an expert has made of a row.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Its row in the experts' results.
    pub result: usize,
    /// What it is multiplied by.
    pub weight: f32,
}

impl<'a> Expert<'a> {
    fn addends(&self) -> Addends<'a> {
        Addends { bias: self.bias, residual: None }
    }
}

/// What each expert makes of its rows of `x: [t, hidden]`: `y` is `[rows of all experts, hidden]`, expert after expert.
///
/// # Panics
/// If the lengths do not agree, or a row is outside of `x`.
pub fn experts(x: &[f32], experts: &[Expert], hidden: usize, y: &mut [f32]) {
    let rows: usize = experts.iter().map(|expert| expert.rows.len()).sum();
    assert_eq!(y.len(), rows * hidden, "the results of {rows} rows have {hidden} values each");
    let mut pieces: Vec<_> = experts
        .iter()
        .flat_map(|expert| row_blocks(expert.rows.len()).map(|rows| Expert { rows: &expert.rows[rows], ..*expert }))
        .scan(y, |rest, piece| {
            let (y, right) = std::mem::take(rest).split_at_mut(piece.rows.len() * hidden);
            *rest = right;
            Some((piece, y))
        })
        .collect();
    let gather = |rows: &[u32], into: &mut [f32]| {
        for (&row, into) in rows.iter().zip(into.chunks_exact_mut(hidden)) {
            into.copy_from_slice(&x[row as usize * hidden..][..hidden]);
        }
    };
    let threads = rayon::current_num_threads();
    if threads > 1 && pieces.len() < threads * PIECES_PER_THREAD {
        pieces.into_par_iter().with_max_len(1).for_each(|(piece, y)| {
            let mut x = vec![0.0; y.len()];
            gather(piece.rows, &mut x);
            feed_forward(&x, piece.weights, piece.addends(), y);
        });
        return;
    }
    // Small pieces last, so that threads end together.
    pieces.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.rows.len()));
    pieces.into_par_iter().with_max_len(1).for_each(|(piece, y)| {
        with_scratch(y.len(), |x| {
            gather(piece.rows, x);
            piece.weights.here(x, piece.addends(), y);
        });
    });
}

/// `y += Σ weight * result (+ residual)`, row by row, or `y =` that, unless the sums are `continued`: `results` is
/// `[_, hidden]`, `shares` has each row's terms, `residual` and `y` are `[t, hidden]`.
///
/// # Panics
/// If the lengths do not agree, or a term is outside of the results.
pub fn add_shares(
    results: &[f32],
    shares: &[Vec<Share>],
    continued: bool,
    residual: Option<&[f32]>,
    hidden: usize,
    y: &mut [f32],
) {
    assert_eq!(y.len(), shares.len() * hidden, "the sums of {} rows have {hidden} values each", shares.len());
    assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual has the shape of the sums");
    let rows = y.par_chunks_exact_mut(hidden).zip(shares).enumerate().with_min_len(ROWS_OF_SUMS);
    rows.for_each(|(row, (y, shares))| {
        if !continued {
            y.fill(0.0);
        }
        for Share { result, weight } in shares {
            let result = &results[result * hidden..][..hidden];
            y.iter_mut().zip(result).for_each(|(y, result)| *y += weight * result);
        }
        if let Some(residual) = residual {
            y.iter_mut().zip(&residual[row * hidden..]).for_each(|(y, residual)| *y += residual);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::matrix::PackedMatrix;
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;
    use crate::model::shapes::Activation;

    const HIDDEN: usize = 40;
    const FEATURES: usize = 24;

    /// Of few rows and of many, so that experts are shared out, and columns of one; one expert has none.
    #[test]
    fn an_expert_gives_the_bits_of_its_layer_alone() {
        let weights: Vec<_> = (0..30)
            .map(|expert| {
                let up = PackedMatrix::pack(2 * FEATURES, HIDDEN, &floats(2 * FEATURES * HIDDEN, expert));
                let down = PackedMatrix::pack(HIDDEN, FEATURES, &floats(HIDDEN * FEATURES, expert + 100));
                (up, down, floats(HIDDEN, expert + 200))
            })
            .collect();
        for (count, t) in [(1, 1), (2, 1), (3, 700), (30, 50), (30, 500)] {
            let x = floats(t * HIDDEN, 1);
            let rows: Vec<Vec<u32>> =
                (0..count).map(|expert| (0..t as u32).filter(|row| (row + expert) % 3 > 0).collect()).collect();
            let layers: Vec<_> = weights
                .iter()
                .zip(&rows)
                .map(|((up, down, bias), rows)| {
                    let (gated, activation) = (true, Activation::Silu);
                    let weights = FeedForwardWeights { up, up_bias: None, gated, activation, down };
                    Expert { weights, bias: Some(bias), rows }
                })
                .collect();
            let mut expected = Vec::new();
            for Expert { weights, bias, rows } in &layers {
                for &row in *rows {
                    let mut y = vec![0.0; HIDDEN];
                    let addends = Addends { bias: *bias, residual: None };
                    feed_forward(&x[row as usize * HIDDEN..][..HIDDEN], *weights, addends, &mut y);
                    expected.extend(y);
                }
            }
            for threads in [1, 2, 3, 5] {
                let mut y = vec![f32::NAN; expected.len()];
                in_pool(threads, || experts(&x, &layers, HIDDEN, &mut y));
                assert_same_bits(&y, &expected, &format!("{count} experts, {t} rows, {threads} threads"));
            }
        }
    }

    /// Sums of three terms and more depend on their order: the one that is given must be kept.
    #[test]
    fn sums_take_their_terms_in_order() {
        let (results, t) = (floats(50 * HIDDEN, 1), 37);
        let shares: Vec<Vec<Share>> = (0..t)
            .map(|row| {
                let terms = (0..row % 6).map(|term| (row * 7 + term * 11) % 50);
                terms.zip(floats(6, row as u64)).map(|(result, weight)| Share { result, weight }).collect()
            })
            .collect();
        let (before, residual) = (floats(t * HIDDEN, 2), floats(t * HIDDEN, 3));
        for (continued, added) in [(false, None), (false, Some(&residual[..])), (true, None)] {
            let mut expected = if continued { before.clone() } else { vec![0.0; t * HIDDEN] };
            for (i, y) in expected.iter_mut().enumerate() {
                for share in &shares[i / HIDDEN] {
                    *y += share.weight * results[share.result * HIDDEN + i % HIDDEN];
                }
                *y += added.map_or(0.0, |added| added[i]);
            }
            for threads in [1, 2, 3, 5] {
                let mut y = before.clone();
                in_pool(threads, || add_shares(&results, &shares, continued, added, HIDDEN, &mut y));
                assert_same_bits(&y, &expected, &format!("continued: {continued}, {threads} threads"));
            }
        }
    }
}
