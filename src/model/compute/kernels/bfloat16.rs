//! Weights in bfloat16, two bytes each, widened to float32 as they are loaded.

use half::bf16;

use super::float;
use super::panel::{BlockTask, Dimensions, Panels, Properties, pack};
use super::stored::Stored;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "bf16",
    version: "bf16-weights",
    bytes: 2,
    bits: 8,
    rounds_by_rank: false,
    pack: |rows, width| Ok(Box::new(Bfloat16(pack(rows, width, bf16::from_f32)?.into()))),
    unpack: |parts, n, k, width| Some(Box::new(Bfloat16(parts.take(n.next_multiple_of(width) * k)?))),
};

/// `[panel, k, width]`, each weight rounded to the nearest bfloat16.
#[derive(Debug)]
struct Bfloat16(Stored<bf16>);

impl Panels for Bfloat16 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn parts(&self) -> Vec<&[u8]> {
        vec![self.0.bytes()]
    }
}
