//! Root-mean-square norm: `x / sqrt(mean(x²) + eps) * weight`, row by row.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{Loaded, output, values};
use crate::model::checkpoint::WeightSource;
use crate::model::kernels::rms_norm;

/// A root-mean-square norm.
pub struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// The norm with weight `name`, `[features]`.
    pub fn load(weights: &dyn WeightSource, name: &str, features: usize, eps: f64) -> Loaded<Self> {
        Ok(Self { weight: weights.read_shape(name, &[features])?, eps: eps as f32 })
    }

    /// The norm of every row of `x: [tokens, features]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weight[..])
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, features) = layout.shape().dims2()?;
        let mut y = vec![0.0; tokens * features];
        rms_norm(values(x, layout)?, &self.weight, self.eps, &mut y);
        Ok(output(y, tokens, features))
    }
}
