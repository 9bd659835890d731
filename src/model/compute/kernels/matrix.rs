//! Weight matrices, packed once at load for the kernels that read them.

use std::ops::Range;
use std::sync::Arc;

use super::aligned::LINE;
use super::isa::Isa;
use super::panel::{BlockTask, Dimensions, Panels, Rows};
use super::stored::{Parts, SharedBytes};
use super::weight_type::WeightType;
use crate::model::error::ModelError;

/// Where a part of a packed matrix begins in shared bytes: at a multiple of this.
pub const PART_ALIGNMENT: usize = LINE;

/// A weight matrix `[n, k]`, stored as panels.
#[derive(Debug)]
pub struct PackedMatrix {
    dimensions: Dimensions,
    panels: Box<dyn Panels>,
}

impl PackedMatrix {
    /// Packs a row-major `[n, k]` matrix.
    ///
    /// # Panics
    /// If `weights` does not hold `n * k` values.
    pub fn pack(n: usize, k: usize, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), n * k, "a [{n}, {k}] matrix has {} values", n * k);
        Self::pack_for(Isa::current(), WeightType::F32, &[weights], k)
    }

    /// Packs several row-major matrices of `k` columns, one under the other: one pass over the activations then serves
    /// all of them.
    ///
    /// # Panics
    /// If `k` is zero or a matrix does not hold whole rows.
    pub fn pack_rows(weight_type: WeightType, matrices: &[&[f32]], k: usize) -> Self {
        Self::pack_for(Isa::current(), weight_type, matrices, k)
    }

    /// [`Self::pack_rows`] in the layout of a given instruction set, which [`super::linear`] will then use.
    ///
    /// # Panics
    /// As [`Self::pack_rows`].
    pub fn pack_for(isa: Isa, weight_type: WeightType, matrices: &[&[f32]], k: usize) -> Self {
        assert!(k > 0, "a weight matrix needs at least one column");
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(k)), "a matrix of {k} columns holds a broken row");
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|m| m.chunks_exact(k)).collect();
        let read = |wanted: Range<usize>| Ok(rows[wanted].concat());
        let rows = Rows { n: rows.len(), k, read: &read };
        Self::pack_from(isa, weight_type, &rows).expect("memory can be read")
    }

    /// Reads a matrix a few rows at a time and packs them.
    pub fn load(weight_type: WeightType, rows: &Rows) -> Result<Self, ModelError> {
        Self::pack_from(Isa::current(), weight_type, rows)
    }

    fn pack_from(isa: Isa, weight_type: WeightType, rows: &Rows) -> Result<Self, ModelError> {
        let panels = weight_type.pack(rows, isa.width())?;
        Ok(Self { dimensions: Dimensions { isa, n: rows.n, k: rows.k }, panels })
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.dimensions.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.dimensions.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.panels.parts().into_iter().map(<[u8]>::len).sum()
    }

    /// A matrix `[n, k]` whose [`Self::parts`] lie in shared bytes, each from a multiple of [`PART_ALIGNMENT`] on; `None` where
    /// they are not of their size. They were packed by this program for the same instructions: nothing tells other ones apart.
    pub fn shared(
        weight_type: WeightType,
        [n, k]: [usize; 2],
        bytes: &SharedBytes,
        range: Range<usize>,
    ) -> Option<Self> {
        let isa = Isa::current();
        let parts = Parts::new(Arc::clone(bytes), range);
        Some(Self { dimensions: Dimensions { isa, n, k }, panels: weight_type.unpack(parts, n, k, isa.width())? })
    }

    /// All that was packed, as this machine has it in memory.
    pub fn parts(&self) -> Vec<&[u8]> {
        self.panels.parts()
    }

    /// The instruction set for whose tiles it is packed.
    pub(super) fn isa(&self) -> Isa {
        self.dimensions.isa
    }

    /// Computes a block of `y` whose columns begin at the border of a panel.
    pub(super) fn compute(&self, task: BlockTask) {
        self.panels.compute(self.dimensions, task);
    }
}
