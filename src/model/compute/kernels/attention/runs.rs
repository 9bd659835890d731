//! Rows that have queries, as attention takes them: runs of neighbours in one segment.

use std::ops::Range;

use crate::batch::MicroBatch;

/// Rows in ascending order, each once, as runs: the segment, and rows of it.
///
/// # Panics
/// If a row is outside of the batch.
pub(super) fn runs_of(batch: &MicroBatch, rows: impl IntoIterator<Item = u32>) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for row in rows.into_iter().map(|row| row as usize) {
        match runs.last_mut() {
            Some((segment, run)) if run.end == row && row < batch.segments[*segment].tokens.end as usize => {
                run.end += 1;
            }
            _ => runs.push((batch.segment_of(row as u32) as usize, row..row + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_with_their_segment_and_where_rows_are_missing() {
        let batch = MicroBatch::pack(&[vec![1, 2, 3, 4], vec![1, 2, 5]], true);
        let ends: Vec<u32> = batch.segments.iter().map(|segment| segment.tokens.end).collect();
        assert_eq!(ends, [2, 4, 5]);
        assert_eq!(runs_of(&batch, 0..5), [(0, 0..2), (1, 2..4), (2, 4..5)]);
        assert_eq!(runs_of(&batch, [0, 3, 4]), [(0, 0..1), (1, 3..4), (2, 4..5)]);
        assert!(runs_of(&batch, []).is_empty());
    }
}
