//! Weights in float32, four bytes each, read where they lie.

use super::float;
use super::panel::{BlockTask, Dimensions, Panels, Properties, pack};
use super::stored::Stored;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "f32",
    version: "f32",
    bytes: 4,
    bits: 24,
    rounds_by_rank: false,
    pack: |rows, width| Ok(Box::new(Float32(pack(rows, width, |weight| weight)?.into()))),
    unpack: |parts, n, k, width| Some(Box::new(Float32(parts.take(n.next_multiple_of(width) * k)?))),
};

/// `[panel, k, width]`, as they are.
#[derive(Debug)]
struct Float32(Stored<f32>);

impl Panels for Float32 {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn parts(&self) -> Vec<&[u8]> {
        vec![self.0.bytes()]
    }
}
