//! Weights in float32, four bytes each, read where they lie.

use super::aligned::Aligned;
use super::float::{FloatBlock, FloatPanels};
use super::panel::{BlockTask, Dimensions, Panels, pack};

/// `[panel, k, width]`.
#[derive(Debug)]
pub(super) struct Float32(Aligned<f32>);

impl Float32 {
    /// Packs rows of `k` weights as they are.
    pub(super) fn pack(rows: &[&[f32]], width: usize, k: usize) -> Self {
        Self(pack(rows, width, k, |weight| weight))
    }
}

impl Panels for Float32 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        dimensions.isa.run(FloatBlock { dimensions, task, panels: FloatPanels::F32(&self.0) });
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
