//! Weights in bfloat16, two bytes each, widened to float32 as they are loaded.

use half::bf16;

use super::aligned::Aligned;
use super::float;
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
        float::compute(&self.0, dimensions, task);
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
