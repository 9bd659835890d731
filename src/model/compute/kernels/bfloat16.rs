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
    pack: |rows, width| Ok(Box::new(Bfloat16(pack(rows, width, bf16::from_f32)?))),
};

/// `[panel, k, width]`, each weight rounded to the nearest bfloat16.
#[derive(Debug)]
struct Bfloat16(Aligned<bf16>);

impl Panels for Bfloat16 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
