//! Cuts a row-major matrix into blocks of rows by columns that several threads may write at once.

use std::ops::Range;

/// One block of a matrix: a mutable piece of each of its rows.
pub(super) struct Block<'a> {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) pieces: Vec<&'a mut [f32]>,
}

/// Cuts `matrix` (rows of `width`) at the ends of `rows` and of `columns`: consecutive ranges from 0 that cover it.
/// Blocks come row by row.
pub(super) fn blocks<'a>(
    matrix: &'a mut [f32],
    width: usize,
    rows: impl IntoIterator<Item = Range<usize>>,
    columns: &[Range<usize>],
) -> Vec<Block<'a>> {
    let mut result = Vec::new();
    let mut rest = matrix.chunks_exact_mut(width);
    for rows in rows {
        let first = result.len();
        result.extend(columns.iter().map(|columns| Block {
            rows: rows.clone(),
            columns: columns.clone(),
            pieces: Vec::with_capacity(rows.len()),
        }));
        for mut row in rest.by_ref().take(rows.len()) {
            for block in &mut result[first..] {
                let (piece, right) = row.split_at_mut(block.columns.len());
                block.pieces.push(piece);
                row = right;
            }
        }
    }
    result
}

/// `len` in consecutive ranges of `step` and a shorter last one.
pub(super) fn steps(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_matrix_once() {
        let mut matrix: Vec<f32> = vec![0.0; 7 * 10];
        let columns: Vec<_> = steps(10, 4).collect();
        for block in blocks(&mut matrix, 10, steps(7, 3), &columns) {
            assert_eq!(block.pieces.len(), block.rows.len());
            for (row, piece) in block.rows.zip(block.pieces) {
                for (column, value) in block.columns.clone().zip(piece) {
                    *value += (row * 10 + column) as f32;
                }
            }
        }
        assert!(matrix.iter().enumerate().all(|(i, &v)| v == i as f32));
    }
}
