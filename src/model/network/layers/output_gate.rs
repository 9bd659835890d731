//! A gate of what attention gives: each value times the sigmoid of another that is projected from the layer's input.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

use super::{Linear, Loaded, Matrix};
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::activate;
use crate::model::compute::storage::values_mut;
use crate::model::compute::tensors;
use crate::model::network::backbone::RankContext;
use crate::model::shapes::Activation;

/// The gates of a rank's heads.
pub struct OutputGate {
    linear: Linear,
    backend: Backend,
}

impl OutputGate {
    /// The rows of `matrix` that are gates; of a `base`, what the context's weights do not change is shared.
    pub fn load(context: &RankContext, matrix: Matrix, bias: bool, base: Option<&Self>) -> Loaded<Self> {
        let linear = match base {
            Some(base) => base.linear.adapted(context, &[matrix], bias)?,
            None => Linear::load(context, &[matrix], bias)?,
        };
        Ok(Self { linear, backend: context.backend })
    }

    /// `mixed * sigmoid(gate)` of the rows of `input: [rows, hidden]`, which attention has made into `mixed: [rows, heads * head_dim]`.
    pub fn forward(&self, input: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let gates = self.linear.forward(input)?;
        let gates = match self.backend {
            Backend::Kernels(_) => {
                gates.inplace_op1(&Sigmoid)?;
                gates
            }
            Backend::Tensors(_) => tensors::activate(Activation::Sigmoid, &gates)?,
        };
        gates * mixed
    }

    /// Multiplications and additions for so many rows.
    pub fn operations(&self, rows: usize) -> usize {
        self.linear.operations(rows)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.linear.bytes()
    }
}

struct Sigmoid;

impl InplaceOp1 for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn cpu_fwd(&self, gates: &mut CpuStorage, layout: &Layout) -> Result<()> {
        activate(Activation::Sigmoid, values_mut(gates, layout)?);
        Ok(())
    }
}
