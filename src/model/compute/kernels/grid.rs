//! Cuts a row-major matrix into blocks of rows by columns that several threads may write at once.

use std::ops::Range;

/// One block of a matrix: a mutable piece of each of its rows.
pub(super) struct Block<'a> {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) pieces: Vec<&'a mut [f32]>,
}

/// Cuts the rows of a matrix, which may lie anywhere, or a piece of each, at the ends of `rows` and of `columns`: consecutive
/// ranges of rows, and of columns that follow one another from the first value of each piece on. Blocks come row by row.
pub(super) fn blocks<'a>(
    mut pieces: impl Iterator<Item = &'a mut [f32]>,
    rows: impl IntoIterator<Item = Range<usize>>,
    columns: &[Range<usize>],
) -> Vec<Block<'a>> {
    let mut result = Vec::new();
    for rows in rows {
        let first = result.len();
        result.extend(columns.iter().map(|columns| Block {
            rows: rows.clone(),
            columns: columns.clone(),
            pieces: Vec::with_capacity(rows.len()),
        }));
        for mut row in pieces.by_ref().take(rows.len()) {
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

/// `len` in consecutive ranges of whole `unit`s, of `most` at most (a multiple of `unit`), as equal as can be; only the very
/// last unit may be broken. Where there are several for each of `threads`, each gets as many.
pub(super) fn shares(
    len: usize,
    unit: usize,
    most: usize,
    threads: usize,
) -> impl Iterator<Item = Range<usize>> + Clone {
    let units = len.div_ceil(unit);
    let fewest = len.div_ceil(most);
    let count = if fewest < 2 * threads { fewest } else { fewest.next_multiple_of(threads).min(units) };
    (0..count).map(move |i| i * units / count * unit..((i + 1) * units / count * unit).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_length_and_are_equal() {
        for (len, threads, lengths) in [
            (96, 2, vec![96]),
            (97, 2, vec![48, 49]),
            (1024, 2, [[84, 84, 84, 84, 84, 96], [84, 84, 84, 84, 84, 88]].concat()),
            (0, 2, vec![]),
        ] {
            let shares: Vec<_> = shares(len, 12, 96, threads).collect();
            assert_eq!(shares.iter().map(Range::len).collect::<Vec<_>>(), lengths, "{len} for {threads}");
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(shares.last().map_or(0, |last| last.end), len);
        }
    }

    #[test]
    fn blocks_cover_the_matrix_once() {
        let mut matrix: Vec<f32> = vec![0.0; 7 * 10];
        let columns: Vec<_> = steps(10, 4).collect();
        for block in blocks(matrix.chunks_exact_mut(10), steps(7, 3), &columns) {
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
