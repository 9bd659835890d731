//! The types of weights that the kernels compute with. What is known of a type stands in its own file; here is the table.

use std::fmt;

use super::panel::{Panels, Properties, Rows};
use super::stored::Parts;
use super::{bfloat16, bfloat16_activations, float32, int8, int16};
use crate::model::error::ModelError;

/// How weights are stored. Sums are float32 or exact whatever it is; what is rounded is the weights, and for some types the
/// activations that meet them.
#[derive(Clone, Copy)]
pub struct WeightType(&'static Properties);

impl WeightType {
    /// All of them, those with the most exact weights first.
    pub const ALL: [Self; 5] = [
        Self::F32,
        Self(&int16::PROPERTIES),
        Self(&bfloat16::PROPERTIES),
        Self(&bfloat16_activations::PROPERTIES),
        Self(&int8::PROPERTIES),
    ];

    /// Weights as they are.
    pub const F32: Self = Self(&float32::PROPERTIES);

    /// The type of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|weights| weights.name() == name)
    }

    /// As `--dtype` and reports write it.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// As model versions write it.
    pub fn version(self) -> &'static str {
        self.0.version
    }

    /// Bytes of one weight.
    pub fn bytes(self) -> usize {
        self.0.bytes
    }

    /// Bits of a weight's magnitude at their most: 24 of a float32's.
    pub fn bits(self) -> u32 {
        self.0.bits
    }

    /// Whether another number of ranks gives other bits.
    pub fn rounds_by_rank(self) -> bool {
        self.0.rounds_by_rank
    }

    /// Packs rows of weights into panels of `width` outputs.
    pub(super) fn pack(self, rows: &Rows, width: usize) -> Result<Box<dyn Panels>, ModelError> {
        (self.0.pack)(rows, width)
    }

    /// Panels of a matrix `[n, k]` as they were packed; `None` where `parts` are not those of such a matrix, and no more.
    pub(super) fn unpack(self, mut parts: Parts, n: usize, k: usize, width: usize) -> Option<Box<dyn Panels>> {
        let panels = (self.0.unpack)(&mut parts, n, k, width)?;
        parts.is_empty().then_some(panels)
    }
}

impl Default for WeightType {
    fn default() -> Self {
        Self::F32
    }
}

impl PartialEq for WeightType {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for WeightType {}

impl fmt::Debug for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
