//! Weights in float32, four bytes each, read where they lie.

use super::aligned::Aligned;
use super::float;
use super::panel::{BlockTask, Dimensions, Panels, Properties, pack};

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "f32",
    version: "f32",
    bytes: 4,
    bits: 24,
    rounds_by_rank: false,
    pack: |rows, width, k| Box::new(Float32::pack(rows, width, k)),
};

/// `[panel, k, width]`.
#[derive(Debug)]
struct Float32(Aligned<f32>);

impl Float32 {
    /// Packs rows of `k` weights as they are.
    fn pack(rows: &[&[f32]], width: usize, k: usize) -> Self {
        Self(pack(rows, width, k, |weight| weight))
    }
}

impl Panels for Float32 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
