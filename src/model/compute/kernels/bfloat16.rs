//! Weights in bfloat16, two bytes each, widened to float32 a run of a panel at a time.

use half::bf16;

use super::aligned::{Aligned, with_scratch};
use super::float::{FloatBlock, FloatPanels, MAX_DEPTH};
use super::panel::{BlockTask, Dimensions, Panels, pack};

/// `[panel, k, width]`.
#[derive(Debug)]
pub(super) struct Bfloat16(Aligned<bf16>);

impl Bfloat16 {
    /// Packs rows of `k` weights, each rounded to the nearest bfloat16.
    pub(super) fn pack(rows: &[&[f32]], width: usize, k: usize) -> Self {
        Self(pack(rows, width, k, bf16::from_f32))
    }
}

impl Panels for Bfloat16 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        with_scratch(MAX_DEPTH.min(dimensions.k) * dimensions.isa.width(), |widened| {
            let panels = FloatPanels::Bf16 { panels: &self.0, widened };
            dimensions.isa.run(FloatBlock { dimensions, task, panels });
        });
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
