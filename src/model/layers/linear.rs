//! Linear layers: `y = x Wᵀ`, with several matrices side by side where they share their input.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Loaded, output, values};
use crate::model::checkpoint::WeightSource;
use crate::model::kernels::{PackedMatrix, linear};

/// A linear layer without bias, packed once for the kernel that reads it.
pub struct Linear {
    weight: PackedMatrix,
}

impl Linear {
    /// The matrix `name`, `[outputs, inputs]`.
    pub fn load(weights: &dyn WeightSource, name: &str, outputs: usize, inputs: usize) -> Loaded<Self> {
        Self::load_fused(weights, &[(name, outputs)], inputs)
    }

    /// Several matrices over the same input; their outputs come side by side, in this order.
    pub fn load_fused(weights: &dyn WeightSource, parts: &[(&str, usize)], inputs: usize) -> Loaded<Self> {
        let read = |(name, outputs): &(&str, usize)| weights.read_shape(name, &[*outputs, inputs]);
        let matrices = parts.iter().map(read).collect::<Loaded<Vec<_>>>()?;
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        Ok(Self { weight: PackedMatrix::pack_rows(&matrices, inputs) })
    }

    /// `x Wᵀ` of `x: [tokens, inputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Product(self))
    }

    /// `residual + x Wᵀ`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(residual, &Product(self))
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// The packed weights, for layers that are made of several.
    pub(super) fn weight(&self) -> &PackedMatrix {
        &self.weight
    }

    fn product(&self, x: &[f32], layout: &Layout, residual: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let mut y = vec![0.0; tokens * self.weight.n()];
        linear(x, &self.weight, residual, &mut y);
        Ok(output(y, tokens, self.weight.n()))
    }
}

struct Product<'a>(&'a Linear);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.product(values(x, layout)?, layout, None)
    }
}

impl CustomOp2 for Product<'_> {
    fn name(&self) -> &'static str {
        "linear with residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        r: &CpuStorage,
        r_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.product(values(x, x_layout)?, x_layout, Some(values(r, r_layout)?))
    }
}
