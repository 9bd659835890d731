//! A linear head whose outputs are normalised, each by a mean and a deviation of its own: `(W h + b - mean) / deviation`.

use super::affine::Affine;
use super::{Head, Hidden};

/// What several kinds of heads load.
pub(super) struct Normalised {
    pub affine: Affine,
    /// For each output what is taken from it, and what it is then divided by; empty where outputs stay as they are.
    pub normal: Vec<(f32, f32)>,
}

impl Head for Normalised {
    fn outputs(&self) -> usize {
        self.affine.outputs()
    }

    fn parameters(&self) -> usize {
        self.affine.parameters()
    }

    fn bytes(&self) -> usize {
        self.affine.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut scores = self.affine.forward(hidden.reads);
        for row in scores.chunks_exact_mut(self.affine.outputs()) {
            for (score, (mean, deviation)) in row.iter_mut().zip(&self.normal) {
                *score = (*score - mean) / deviation;
            }
        }
        scores
    }
}
