//! Weight matrices, packed once at load for the kernels that read them.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::aligned::Aligned;
use super::int8;
use super::isa::Isa;

/// How weights are stored. Sums are float32 or exact in all of them; what is rounded is the weights, and for [`Self::Int8`]
/// the activations that meet them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// Four bytes, as they are.
    #[default]
    F32,
    /// Two bytes, rounded to the nearest bfloat16.
    Bf16,
    /// One byte: of each output's weights the largest becomes 127.
    Int8,
}

/// A weight matrix `[n, k]`, stored as panels of as many outputs as a tile is wide, zeros past `n`.
#[derive(Debug)]
pub struct PackedMatrix {
    pub(super) isa: Isa,
    n: usize,
    k: usize,
    pub(super) panels: Panels,
}

#[derive(Debug)]
pub(super) enum Panels {
    /// `[panel, k, width]`.
    F32(Aligned<f32>),
    /// The same.
    Bf16(Aligned<bf16>),
    /// `[panel, k / 2, width, 2]`, with a zero past an odd `k`, and the scale of each output.
    Int8 { values: Aligned<i8>, scales: Vec<f32> },
}

impl PackedMatrix {
    /// Packs a row-major `[n, k]` matrix.
    ///
    /// # Panics
    /// If `weights` does not hold `n * k` values.
    pub fn pack(n: usize, k: usize, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), n * k, "a [{n}, {k}] matrix has {} values", n * k);
        Self::pack_for(Isa::detect(), WeightType::F32, &[weights], k)
    }

    /// Packs several row-major matrices of `k` columns, one under the other: one pass over the activations then serves
    /// all of them.
    ///
    /// # Panics
    /// If `k` is zero or a matrix does not hold whole rows.
    pub fn pack_rows(weight_type: WeightType, matrices: &[&[f32]], k: usize) -> Self {
        Self::pack_for(Isa::detect(), weight_type, matrices, k)
    }

    /// [`Self::pack_rows`] in the layout of a given instruction set, which [`super::linear`] will then use.
    ///
    /// # Panics
    /// As [`Self::pack_rows`].
    pub fn pack_for(isa: Isa, weight_type: WeightType, matrices: &[&[f32]], k: usize) -> Self {
        assert!(k > 0, "a weight matrix needs at least one column");
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(k)), "a matrix of {k} columns holds a broken row");
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|m| m.chunks_exact(k)).collect();
        let width = isa.width();
        let panels = match weight_type {
            WeightType::F32 => Panels::F32(pack(&rows, width, k, |weight| weight)),
            WeightType::Bf16 => Panels::Bf16(pack(&rows, width, k, bf16::from_f32)),
            WeightType::Int8 => int8::pack(&rows, width, k),
        };
        Self { isa, n: rows.len(), k, panels }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(&panels[..]),
            Panels::Bf16(panels) => size_of_val(&panels[..]),
            Panels::Int8 { values, scales } => size_of_val(&values[..]) + size_of_val(&scales[..]),
        }
    }
}

/// Rows `depth` of a panel of `width`, where all have `k`.
#[inline(always)]
pub(super) fn panel<'a, T>(panels: &'a [T], width: usize, k: usize, panel: usize, depth: &Range<usize>) -> &'a [T] {
    let start = panel * k * width;
    &panels[start + depth.start * width..start + depth.end * width]
}

/// Packs up to `width` rows at a time as `[k, width]`.
fn pack<T: Copy + Default + Send + Sync>(
    rows: &[&[f32]],
    width: usize,
    k: usize,
    store: impl Fn(f32) -> T + Sync,
) -> Aligned<T> {
    let mut panels = Aligned::zeros(rows.len().div_ceil(width) * width * k);
    panels.par_chunks_mut(width * k).zip(rows.par_chunks(width)).for_each(|(panel, rows)| {
        for (k, panel) in panel.chunks_exact_mut(width).enumerate() {
            for (value, row) in panel.iter_mut().zip(rows) {
                *value = store(row[k]);
            }
        }
    });
    panels
}
