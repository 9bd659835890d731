//! Weights in bfloat16, two bytes each, widened to float32 a run of a panel at a time.

use half::bf16;

use super::aligned::{Aligned, with_scratch};
use super::float::{FloatBlock, FloatPanels, MAX_DEPTH};
use super::panel::{BlockTask, Dimensions, Panels, Properties, pack};

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "bf16",
    version: "bf16-weights",
    bytes: 2,
    bits: 8,
    rounds_by_rank: false,
    pack: |rows, width, k| Box::new(Bfloat16::pack(rows, width, k)),
};

/// `[panel, k, width]`.
#[derive(Debug)]
struct Bfloat16(Aligned<bf16>);

impl Bfloat16 {
    /// Packs rows of `k` weights, each rounded to the nearest bfloat16.
    fn pack(rows: &[&[f32]], width: usize, k: usize) -> Self {
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
