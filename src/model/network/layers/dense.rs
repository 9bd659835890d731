//! Linear layers as tensors on any device, in the type of the activations.

use candle_core::{Result, Tensor};

use super::matrix::read_biases;
use super::narrowed::Narrowed;
use super::{Loaded, Matrix};
use crate::model::collective::Collective;
use crate::model::network::backbone::RankContext;

/// A linear layer: see [`super::Linear`].
pub struct Dense {
    /// `[outputs, inputs]`, as the checkpoint has it: the device's library reads it either way.
    weight: Tensor,
    /// `[outputs]`.
    bias: Option<Tensor>,
}

impl Dense {
    /// A layer of a weight `[outputs, inputs]` and a bias `[outputs]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// See [`super::Linear::load`].
    pub fn load(context: &RankContext, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        let inputs = matrices.first().map_or(0, |matrix| matrix.columns.len());
        // Narrowed part by part, so that little of it is on the host in float32.
        let mut weight = Narrowed::new(context.backend.precision());
        for matrix in matrices {
            for part in matrix.read(context)? {
                weight.extend(part?);
            }
        }
        let weight = weight.into_tensor(inputs, &context.device)?;
        let bias = match read_biases(context, matrices, bias)? {
            None => None,
            Some(values) => {
                let mut bias = Narrowed::new(context.backend.precision());
                bias.extend(values);
                Some(bias.into_tensor(1, &context.device)?.squeeze(1)?)
            }
        };
        Ok(Self::new(weight, bias))
    }

    /// See [`super::Linear::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.biased(self.partial(x)?)
    }

    /// `x Wᵀ`: this rank's part of a sum over all ranks.
    pub fn partial(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight.t()?)
    }

    /// The sum of all ranks' partial products, on every rank, with bias and residual.
    pub fn reduce(&self, partial: Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        let sum = match ranks.world() {
            1 => partial,
            _ => ranks.all_reduce(&partial)?,
        };
        let sum = self.biased(sum)?;
        match residual {
            Some(residual) => sum + residual,
            None => Ok(sum),
        }
    }

    fn biased(&self, product: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    /// Outputs, all matrices together.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Weights of the matrix.
    pub fn weights(&self) -> usize {
        self.weight.elem_count()
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        bytes(&self.weight) + self.bias.as_ref().map_or(0, bytes)
    }
}
