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
    pack: |rows, width| Ok(Box::new(Float32(pack(rows, width, |weight| weight)?))),
};

/// `[panel, k, width]`, as they are.
#[derive(Debug)]
struct Float32(Aligned<f32>);

impl Panels for Float32 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}
