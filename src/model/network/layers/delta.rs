//! Gated DeltaNet, which stands in the place of attention: the gated delta rule between its projections. Of the kernels alone.
//! Reference: `Qwen3_5GatedDeltaNet` in `models/qwen3_5/modeling_qwen3_5.py` of transformers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::Loaded;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{DeltaWeights, Paths, exp, gated_delta};
use crate::model::compute::storage::{output, values};
use crate::model::network::backbone::RankContext;
use crate::model::shapes::DeltaLayout;

/// A rank's heads of one layer.
pub struct Delta {
    layout: DeltaLayout,
    weights: DeltaWeights,
}

/// Full names of the tensors of [`Delta::load`].
pub struct DeltaTensors {
    /// `[convolved, 1, kernel]`.
    pub convolution: String,
    /// `[value_heads]`.
    pub rate: String,
    /// `[value_heads]`.
    pub rate_bias: String,
    /// `[value_dim]`.
    pub norm: String,
}

impl Delta {
    /// The heads of a rank; `all` are the model's.
    pub fn load(context: &RankContext, tensors: &DeltaTensors, all: DeltaLayout, eps: f64) -> Loaded<Self> {
        let (weights, shard) = (context.weights, context.shard);
        let of_heads = |name: &str| -> Loaded<Vec<f32>> {
            Ok(weights.read_shape(name, &[all.value_heads])?[shard.of(all.value_heads)].to_vec())
        };
        let by_channel = weights.read_shape(&tensors.convolution, &[all.convolved(), 1, all.kernel])?;
        let channels = shard.of_blocks(&all.blocks());
        let tap = |tap: usize| channels.iter().cloned().flatten().map(move |channel| channel * all.kernel + tap);
        Ok(Self {
            layout: all.shared_by(shard.world),
            weights: DeltaWeights {
                convolution: (0..all.kernel).flat_map(tap).map(|at| by_channel[at]).collect(),
                rate: of_heads(&tensors.rate)?.into_iter().map(|rate| -exp(rate)).collect(),
                rate_bias: of_heads(&tensors.rate_bias)?,
                norm: weights.read_shape(&tensors.norm, &[all.value_dim])?,
                eps: eps as f32,
            },
        })
    }

    /// What the heads give for `x: [rows, layout.row()]`, the layer's projections: `[rows, value_heads * value_dim]`.
    pub fn forward(&self, x: &Tensor, paths: &Paths) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Rule { delta: self, paths })
    }

    /// Multiplications and additions for so many rows.
    pub fn operations(&self, rows: usize) -> usize {
        rows * self.layout.operations()
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        let DeltaWeights { convolution, rate, rate_bias, norm, .. } = &self.weights;
        size_of::<f32>() * [convolution, rate, rate_bias, norm].into_iter().map(Vec::len).sum::<usize>()
    }
}

struct Rule<'a> {
    delta: &'a Delta,
    paths: &'a Paths,
}

impl CustomOp1 for Rule<'_> {
    fn name(&self) -> &'static str {
        "gated delta rule"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Delta { layout: heads, weights } = self.delta;
        let [mut mixed, mut out] = [(); 2].map(|()| buffers::take(self.paths.rows() * heads.values()));
        gated_delta(values(x, layout)?, *heads, weights, self.paths, &mut mixed, &mut out);
        buffers::give(mixed);
        Ok(output(out, self.paths.rows(), heads.values()))
    }
}
