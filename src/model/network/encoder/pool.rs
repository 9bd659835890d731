//! What a head sees of the final hidden states of each sequence, and which of them have to be computed for it.
//!
//! Invariant: what is seen of a sequence depends on its own rows alone.

use candle_core::{Result, Tensor};

use super::spec::Pool;
use crate::batch::MicroBatch;
use crate::engine::ReadPolicy;

impl Pool {
    /// How many hidden states are seen of a sequence, side by side.
    pub fn rows(self) -> usize {
        match self {
            Self::First | Self::Mean => 1,
            Self::Anchors(anchors) => anchors.len(),
        }
    }

    /// For each sequence the positions that are looked at, in ascending order, at least one; `None`: all of all sequences.
    pub(super) fn positions(self, batch: &MicroBatch) -> Option<Vec<Vec<usize>>> {
        let sequences = batch.segments.iter().map(|segment| segment.tokens.start as usize..segment.tokens.end as usize);
        match self {
            Self::First => Some(vec![vec![0]; batch.segments.len()]),
            Self::Mean => None,
            Self::Anchors(anchors) => {
                let anchored = |rows| ReadPolicy::anchored(&anchors, &batch.tokens[rows]).unwrap_or_else(|| vec![0]);
                Some(sequences.map(anchored).collect())
            }
        }
    }

    /// `[sequences, rows * hidden]` of the hidden states at those positions, `[positions, hidden]`.
    pub(super) fn seen(self, batch: &MicroBatch, positions: &[Vec<usize>], hidden: Tensor) -> Result<Tensor> {
        match self {
            Self::First => Ok(hidden),
            Self::Mean => means(batch, &hidden),
            Self::Anchors(anchors) => side_by_side(positions, anchors.len(), &hidden),
        }
    }
}

/// The rows of each sequence beside each other; of one that has not so many, no numbers.
fn side_by_side(positions: &[Vec<usize>], rows: usize, hidden: &Tensor) -> Result<Tensor> {
    let (_, features) = hidden.dims2()?;
    let values = hidden.flatten_all()?.to_vec1::<f32>()?;
    let mut seen = Vec::with_capacity(positions.len() * rows * features);
    let mut rest = &values[..];
    for at in positions {
        let (own, behind) = rest.split_at(at.len() * features);
        rest = behind;
        if at.len() == rows {
            seen.extend_from_slice(own);
        } else {
            seen.resize(seen.len() + rows * features, f32::NAN);
        }
    }
    Tensor::from_vec(seen, (positions.len(), rows * features), hidden.device())
}

/// The mean of each sequence's rows, added up in their order.
fn means(batch: &MicroBatch, hidden: &Tensor) -> Result<Tensor> {
    let (_, features) = hidden.dims2()?;
    let values = hidden.flatten_all()?.to_vec1::<f32>()?;
    let mut means = Vec::with_capacity(batch.segments.len() * features);
    for segment in &batch.segments {
        let rows = segment.tokens.start as usize..segment.tokens.end as usize;
        let mut sums = vec![0.0f64; features];
        for row in values[rows.start * features..rows.end * features].chunks_exact(features) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        means.extend(sums.into_iter().map(|sum| (sum / rows.len() as f64) as f32));
    }
    Tensor::from_vec(means, (batch.segments.len(), features), hidden.device())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn anchors_are_seen_side_by_side_or_not_at_all() {
        let rollouts: [&[u32]; 4] = [&[1, 7, 2, 8, 9], &[7, 8, 8, 9], &[7, 9, 8], &[7, 8, 9, 1]];
        let (batch, pool) = (MicroBatch::pack(&rollouts, false), Pool::Anchors([7, 8, 9]));
        let positions = pool.positions(&batch).unwrap();
        assert_eq!(positions, [vec![1, 3, 4], vec![0], vec![0], vec![0, 1, 2]]);
        let hidden: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let hidden = Tensor::from_vec(hidden, (8, 2), &Device::Cpu).unwrap();
        let seen = pool.seen(&batch, &positions, hidden).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(seen[0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(seen[1..3].iter().flatten().all(|value| value.is_nan()), "{seen:?}");
        assert_eq!(seen[3], [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    }
}
