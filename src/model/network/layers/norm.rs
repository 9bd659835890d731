//! Norms, row by row or head by head. Replicated on every rank.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, InplaceOp3, Layout, Result, Shape, Tensor};

use super::Loaded;
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{layer_norm, rms_norm, rms_norm_heads};
use crate::model::compute::storage::{output, values, values_mut};
use crate::model::compute::tensors;
use crate::model::network::backbone::RankContext;
use crate::model::shapes::HeadLayout;

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
    /// `(x - mean) / sqrt(variance + eps) * weight`: Cohere.
    Layer,
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`: BERT.
    LayerWithBias,
}

impl NormKind {
    /// Vectors that such a norm has.
    pub fn vectors(self) -> usize {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::Layer => 1,
            Self::LayerPlusOne | Self::LayerWithBias => 2,
        }
    }
}

impl NormKind {
    /// Makes what is stored into what is multiplied by.
    fn amend(self, weight: &mut [f32]) {
        match self {
            Self::Rms | Self::Layer | Self::LayerWithBias => {}
            Self::RmsPlusOne | Self::LayerPlusOne => weight.iter_mut().for_each(|w| *w += 1.0),
        }
    }
}

/// A norm of rows.
pub struct Norm {
    /// `[features]`, float32 on every device.
    weight: Tensor,
    /// For those that take out the mean.
    bias: Option<Tensor>,
    eps: f32,
    backend: Backend,
}

impl Norm {
    /// The norm `name` over `features`: `.weight`, and `.bias` where the kind has one.
    pub fn load(context: &RankContext, kind: NormKind, name: &str, features: usize, eps: f64) -> Loaded<Self> {
        let read = |part: &str| context.weights.read_shape(&format!("{name}.{part}"), &[features]);
        let mut weight = read("weight")?;
        kind.amend(&mut weight);
        let bias = match kind {
            NormKind::LayerPlusOne | NormKind::LayerWithBias => {
                Some(Tensor::from_vec(read("bias")?, features, &context.device)?)
            }
            NormKind::Layer => Some(Tensor::zeros(features, DType::F32, &context.device)?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        let weight = Tensor::from_vec(weight, features, &context.device)?;
        Ok(Self { weight, bias, eps: eps as f32, backend: context.backend })
    }

    /// The norm of every row of `x: [tokens, features]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, eps) = (&self.weight, self.eps);
        match (self.backend, &self.bias) {
            (Backend::Kernels(_), None) => x.apply_op2_no_bwd(weight, &Rms { eps }),
            (Backend::Kernels(_), Some(bias)) => x.apply_op3_no_bwd(weight, bias, &Layer { eps }),
            (Backend::Tensors(_), None) => tensors::rms_norm(x, weight, eps),
            (Backend::Tensors(_), Some(bias)) => tensors::layer_norm(x, weight, bias, eps),
        }
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.weight.elem_count() + self.bias.as_ref().map_or(0, Tensor::elem_count))
    }
}

struct Rms {
    eps: f32,
}

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "root mean square norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, features) = x_layout.shape().dims2()?;
        let mut y = buffers::take(tokens * features);
        rms_norm(values(x, x_layout)?, values(weight, weight_layout)?, self.eps, &mut y);
        Ok(output(y, tokens, features))
    }
}

struct Layer {
    eps: f32,
}

impl CustomOp3 for Layer {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, features) = x_layout.shape().dims2()?;
        let mut y = buffers::take(tokens * features);
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        layer_norm(values(x, x_layout)?, weight, bias, self.eps, &mut y);
        Ok(output(y, tokens, features))
    }
}

/// Root-mean-square norms of each query head and each key head: Qwen 3, Gemma 3.
pub struct HeadNorm {
    layout: HeadLayout,
    /// `[head_dim]` each, float32.
    query: Tensor,
    key: Tensor,
    eps: f32,
    backend: Backend,
}

impl HeadNorm {
    /// The norms `query` and `key`, `[head_dim]` each, of a rank's heads; `kind` says whether one is added to them.
    pub fn load(
        context: &RankContext,
        kind: NormKind,
        [query, key]: [&str; 2],
        layout: HeadLayout,
        eps: f64,
    ) -> Loaded<Self> {
        let read = |name: &str| -> Loaded<Tensor> {
            let mut values = context.weights.read_shape(&format!("{name}.weight"), &[layout.head_dim])?;
            kind.amend(&mut values);
            Ok(Tensor::from_vec(values, layout.head_dim, &context.device)?)
        };
        Ok(Self { layout, query: read(query)?, key: read(key)?, eps: eps as f32, backend: context.backend })
    }

    /// `qkv: [tokens, layout.row()]` with its heads normed; the kernel does it in place.
    pub fn forward(&self, qkv: Tensor) -> Result<Tensor> {
        match self.backend {
            Backend::Kernels(_) => {
                qkv.inplace_op3(&self.query, &self.key, self)?;
                Ok(qkv)
            }
            Backend::Tensors(_) => tensors::rms_norm_heads(&qkv, self.layout, &self.query, &self.key, self.eps),
        }
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.query.elem_count() + self.key.elem_count())
    }
}

impl InplaceOp3 for HeadNorm {
    fn name(&self) -> &'static str {
        "head norm"
    }

    fn cpu_fwd(
        &self,
        qkv: &mut CpuStorage,
        qkv_layout: &Layout,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
    ) -> Result<()> {
        let (query, key) = (values(query, query_layout)?, values(key, key_layout)?);
        rms_norm_heads(values_mut(qkv, qkv_layout)?, self.layout, query, key, self.eps);
        Ok(())
    }
}
