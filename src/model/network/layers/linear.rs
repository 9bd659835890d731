//! Linear layers: `y = x Wᵀ + b`, whole or one rank's share of them, with several matrices side by side where they share
//! their input.

use candle_core::{Result, Tensor};

use super::dense::Dense;
use super::packed::Packed;
use super::{Loaded, Matrix};
use crate::model::collective::Collective;
use crate::model::compute::backend::Backend;
use crate::model::network::backbone::RankContext;

/// A linear layer.
pub enum Linear {
    /// Packed for a kernel.
    Packed(Packed),
    /// A tensor.
    Dense(Dense),
}

impl Linear {
    /// Matrices over the same input, in this order side by side in the output; `bias` says whether they have one.
    pub fn load(context: &RankContext, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        match context.backend {
            Backend::Kernels(weights) => Packed::load(context, weights, matrices, bias).map(Self::Packed),
            Backend::Tensors(_) => Dense::load(context, matrices, bias).map(Self::Dense),
        }
    }

    /// The layer with what the context's weights change in it; what they do not is shared where kernels compute.
    pub fn adapted(&self, context: &RankContext, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        match (self, context.backend) {
            (Self::Packed(packed), Backend::Kernels(weights)) => {
                packed.adapted(context, weights, matrices, bias).map(Self::Packed)
            }
            _ => Self::load(context, matrices, bias),
        }
    }

    /// `x Wᵀ + b` of `x: [tokens, inputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => packed.forward(x),
            Self::Dense(dense) => dense.forward(x),
        }
    }

    /// [`Self::forward`], where of the first `columns` outputs only those of the rows `reads` matter, which ascend: the kernels
    /// leave out the others, which are then arbitrary.
    pub fn forward_of_reads(&self, x: &Tensor, columns: usize, reads: &[u32]) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => packed.forward_of_reads(x, columns, reads),
            Self::Dense(dense) => dense.forward(x),
        }
    }

    /// `x Wᵀ + b (+ residual)` where every rank holds some of the inputs.
    pub fn forward_reduce(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => packed.forward_reduce(x, residual, ranks),
            Self::Dense(dense) => dense.reduce(dense.partial(x)?, residual, ranks),
        }
    }

    /// Multiplications and additions for so many rows.
    pub fn operations(&self, rows: usize) -> usize {
        2 * rows
            * match self {
                Self::Packed(packed) => packed.weights(),
                Self::Dense(dense) => dense.weights(),
            }
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.bytes(),
            Self::Dense(dense) => dense.bytes(),
        }
    }
}
