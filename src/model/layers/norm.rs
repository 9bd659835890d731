//! Norms, row by row or head by head. Replicated on every rank.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor};

use super::{Loaded, output, values, values_mut};
use crate::model::backbone::RankContext;
use crate::model::kernels::{HeadLayout, layer_norm, rms_norm, rms_norm_heads};

/// The kinds of norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) * weight`.
    Rms,
    /// The same with `1 + weight`: Gemma.
    RmsPlusOne,
    /// `(x - mean) / sqrt(variance + eps) * (1 + weight) + bias`: Nemotron's LayerNorm1P. The sum is taken in float32,
    /// as Transformer Engine does; transformers takes it in the type of the weights.
    LayerPlusOne,
}

impl NormKind {
    /// Vectors that such a norm has.
    pub fn vectors(self) -> usize {
        match self {
            Self::Rms | Self::RmsPlusOne => 1,
            Self::LayerPlusOne => 2,
        }
    }
}

/// A norm of rows.
pub struct Norm {
    weight: Vec<f32>,
    /// For those that take out the mean.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// The norm `name` over `features`: `.weight`, and `.bias` where the kind has one.
    pub fn load(context: &RankContext, kind: NormKind, name: &str, features: usize, eps: f64) -> Loaded<Self> {
        let read = |part: &str| context.weights.read_shape(&format!("{name}.{part}"), &[features]);
        let mut weight = read("weight")?;
        if kind != NormKind::Rms {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = match kind {
            NormKind::LayerPlusOne => Some(read("bias")?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Self { weight, bias, eps: eps as f32 })
    }

    /// The norm of every row of `x: [tokens, features]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weight[..]) + self.bias.as_deref().map_or(0, size_of_val)
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, features) = layout.shape().dims2()?;
        let mut y = vec![0.0; tokens * features];
        match &self.bias {
            None => rms_norm(values(x, layout)?, &self.weight, self.eps, &mut y),
            Some(bias) => layer_norm(values(x, layout)?, &self.weight, bias, self.eps, &mut y),
        }
        Ok(output(y, tokens, features))
    }
}

/// Root-mean-square norms of each query head and each key head: Qwen 3.
pub struct HeadNorm {
    layout: HeadLayout,
    query: Vec<f32>,
    key: Vec<f32>,
    eps: f32,
}

impl HeadNorm {
    /// The norms `query` and `key`, `[head_dim]` each, of a rank's heads.
    pub fn load(context: &RankContext, query: &str, key: &str, layout: HeadLayout, eps: f64) -> Loaded<Self> {
        let read = |name: &str| context.weights.read_shape(&format!("{name}.weight"), &[layout.head_dim]);
        Ok(Self { layout, query: read(query)?, key: read(key)?, eps: eps as f32 })
    }

    /// Norms the heads of `qkv: [tokens, layout.row()]` in place.
    pub fn apply(&self, qkv: &Tensor) -> Result<()> {
        qkv.inplace_op1(self)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.query[..]) + size_of_val(&self.key[..])
    }
}

impl InplaceOp1 for HeadNorm {
    fn name(&self) -> &'static str {
        "head norm"
    }

    fn cpu_fwd(&self, qkv: &mut CpuStorage, layout: &Layout) -> Result<()> {
        rms_norm_heads(values_mut(qkv, layout)?, self.layout, &self.query, &self.key, self.eps);
        Ok(())
    }
}
