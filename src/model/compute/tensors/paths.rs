//! The paths of a micro-batch's forest, as rows to gather: all that attention in tensor operations needs to know of it.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::batch::MicroBatch;

/// The path from a root through one segment.
pub(super) struct Path {
    /// Rows of the segment.
    pub(super) rows: Range<usize>,
    /// Position of its first row.
    pub(super) first: usize,
    /// Rows of the positions 0, 1, 2, ... to the segment's end, consecutive ones together. Few: in a packed forest the
    /// first child lies behind its parent.
    runs: Vec<Range<usize>>,
}

impl Path {
    /// The paths of all segments, in their order.
    pub(super) fn all(batch: &MicroBatch) -> Vec<Self> {
        let mut paths: Vec<Self> = Vec::with_capacity(batch.segments.len());
        for segment in &batch.segments {
            let rows = segment.tokens.start as usize..segment.tokens.end as usize;
            let parent = segment.parent.map(|parent| &paths[parent as usize]);
            let (first, mut runs) = parent.map_or((0, Vec::new()), |parent| (parent.end(), parent.runs.clone()));
            match runs.last_mut() {
                Some(run) if run.end == rows.start => run.end = rows.end,
                _ => runs.push(rows.clone()),
            }
            paths.push(Self { rows, first, runs });
        }
        paths
    }

    /// The position behind its last row.
    pub(super) fn end(&self) -> usize {
        self.first + self.rows.len()
    }

    /// Parts of `packed`, which has a row for each of the micro-batch along dimension `dim`: together, in order, the
    /// rows of `positions`.
    pub(super) fn parts(&self, packed: &Tensor, dim: usize, positions: Range<usize>) -> Result<Vec<Tensor>> {
        let mut parts = Vec::with_capacity(self.runs.len());
        let mut first = 0;
        for run in &self.runs {
            let (from, to) = (positions.start.max(first), positions.end.min(first + run.len()));
            if from < to {
                parts.push(packed.narrow(dim, run.start + from - first, to - from)?);
            }
            first += run.len();
        }
        Ok(parts)
    }
}

/// `parts` one after the other along dimension `dim`; copied only if there are several.
pub(super) fn join(mut parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Tensor::cat(&parts, dim),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_path_gathers_what_the_rollout_says(
            shapes in prop::collection::vec((0usize..40, 1usize..30, 0u32..3), 1..10),
            start in 0usize..60,
        ) {
            let rollouts: Vec<_> =
                shapes.into_iter().map(|(prefix, tail, token)| [vec![9; prefix], vec![token; tail]].concat()).collect();
            let batch = MicroBatch::pack(&rollouts, true);
            let tokens = Tensor::new(&batch.tokens[..], &Device::Cpu).unwrap();
            for path in Path::all(&batch) {
                prop_assert!(path.runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                let start = start.min(path.end() - 1);
                let parts = path.parts(&tokens, 0, start..path.end()).unwrap();
                let found: Vec<u32> = join(parts, 0).unwrap().to_vec1().unwrap();
                prop_assert_eq!(&found, &batch.path(path.rows.end as u32 - 1)[start..]);
                prop_assert_eq!(path.first, batch.positions[path.rows.start] as usize);
            }
        }
    }
}
