//! One layer of an encoder: attention over the whole sequence and a feed-forward layer, each with a norm before it or behind it.

use candle_core::{Device, Result, Tensor};

use super::buckets;
use super::spec::EncoderSpec;
use crate::batch::MicroBatch;
use crate::model::collective::Collective;
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::Relative;
use crate::model::compute::meter::{Part, time};
use crate::model::error::ModelError;
use crate::model::network::backbone::RankContext;
use crate::model::network::decoder::TensorSpec;
use crate::model::network::layers::{Attention, FeedForward, Linear, Norm, RotaryTables};
use crate::model::shapes::{AttentionOptions, HeadLayout};

/// See the module.
pub(super) struct Layer {
    norm_first: bool,
    backend: Backend,
    heads: HeadLayout,
    attention_norm: Option<Norm>,
    qkv: Linear,
    relative: Option<Relative>,
    rope: Option<usize>,
    options: AttentionOptions,
    output: Linear,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
}

/// What all layers of a pass share.
pub(super) struct Shared<'a> {
    pub attention: Attention,
    /// Cosines and sines of each kind of frequencies.
    pub tables: Vec<RotaryTables>,
    pub ranks: &'a dyn Collective,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// Rows that alone are looked at behind the last layer.
pub(super) struct Wanted {
    /// Theirs.
    attention: Attention,
    /// Their numbers, in ascending order.
    rows: Tensor,
    /// For each sequence, their positions.
    pub positions: Vec<Vec<usize>>,
}

impl Wanted {
    /// The rows at these positions of each sequence, in ascending order.
    pub fn new(batch: &MicroBatch, heads: HeadLayout, positions: Vec<Vec<usize>>, device: &Device) -> Result<Self> {
        let sequences = batch.segments.iter().zip(&positions);
        let rows = sequences.flat_map(|(segment, at)| at.iter().map(|at| segment.tokens.start + *at as u32));
        let rows: Vec<u32> = rows.collect();
        let attention = Attention::both_ways(batch, heads, rows.iter().copied());
        Ok(Self { attention, rows: Tensor::new(rows, device)?, positions })
    }
}

impl Layer {
    pub(super) fn load(
        spec: &EncoderSpec,
        context: &RankContext,
        index: usize,
        embeddings: Option<&Tensor>,
    ) -> std::result::Result<Self, ModelError> {
        let tensors = spec.layer(index);
        let name = |part: &str| spec.layer_name(index, part);
        let norm = |part: &str| Norm::load(context, spec.norm, &name(part), spec.hidden, spec.eps);
        let matrix = |tensor: &TensorSpec| tensor.matrix(name(tensor.name), spec.heads, context.shard);
        let qkv: Vec<_> = tensors.qkv.iter().map(matrix).collect();
        let qkv = Linear::load(context, &qkv, spec.attention_bias)?;
        let (up, down, output) = (matrix(&tensors.up), matrix(&tensors.down), matrix(&tensors.output));
        Ok(Self {
            norm_first: spec.norm_first,
            backend: context.backend,
            heads: spec.heads,
            attention_norm: tensors.attention_norm.as_ref().map(|tensor| norm(tensor.name)).transpose()?,
            relative: buckets::of_layer(spec, &tensors, context, index, &qkv, embeddings)?,
            qkv,
            rope: spec.layer_ropes[index],
            options: AttentionOptions { scale: spec.attention_scale, window: spec.windows[index], soft_cap: None },
            output: Linear::load(context, &[output], spec.attention_bias)?,
            feed_forward_norm: norm(tensors.feed_forward_norm.name)?,
            feed_forward: FeedForward::load(context, &[up], down, spec.gated, spec.activation, spec.feed_forward_bias)?,
        })
    }

    /// The layer of `x: [tokens, hidden]`; with `wanted`, of those rows alone.
    pub(super) fn forward(&self, x: &Tensor, shared: &Shared, wanted: Option<&Wanted>) -> Result<Tensor> {
        let input = match &self.attention_norm {
            Some(norm) if self.norm_first => time(Part::Norm, 0, || norm.forward(x))?,
            _ => x.clone(),
        };
        let work = self.qkv.operations(x.dim(0)?);
        let mut qkv = time(Part::Projection, work, || self.qkv.forward(&input))?;
        if let Some(rope) = self.rope {
            qkv = time(Part::Rotary, 0, || shared.tables[rope].turn(self.backend, qkv, self.heads))?;
        }
        let attention = wanted.map_or(&shared.attention, |wanted| &wanted.attention);
        let window = self.options.window;
        let work = match wanted {
            Some(wanted) => {
                let sequences = wanted.positions.iter().zip(&shared.lengths);
                let of = |(at, len): (&Vec<usize>, &usize)| {
                    self.heads.operations_both_ways(at.iter().copied(), *len, window)
                };
                sequences.map(of).sum()
            }
            None => shared.lengths.iter().map(|len| self.heads.operations_both_ways(0..*len, *len, window)).sum(),
        };
        let mixed =
            time(Part::Attention, work, || attention.forward_both_ways(&qkv, self.relative.as_ref(), self.options))?;
        drop(qkv);
        let residual = match wanted {
            Some(wanted) => x.index_select(&wanted.rows, 0)?,
            None => x.clone(),
        };
        let work = self.output.operations(mixed.dim(0)?);
        let mut x = time(Part::Projection, work, || self.output.forward_reduce(&mixed, Some(&residual), shared.ranks))?;
        if let (false, Some(norm)) = (self.norm_first, &self.attention_norm) {
            x = time(Part::Norm, 0, || norm.forward(&x))?;
        }
        let norm = |x: &Tensor| time(Part::Norm, 0, || self.feed_forward_norm.forward(x));
        let input = if self.norm_first { norm(&x)? } else { x.clone() };
        let work = self.feed_forward.operations(x.dim(0)?);
        let x = time(Part::FeedForward, work, || self.feed_forward.forward(&input, Some(&x), shared.ranks))?;
        if self.norm_first { Ok(x) } else { norm(&x) }
    }

    /// Bytes of its weights in memory.
    pub(super) fn bytes(&self) -> usize {
        self.attention_norm.as_ref().map_or(0, Norm::bytes)
            + self.feed_forward_norm.bytes()
            + self.relative.as_ref().map_or(0, Relative::bytes)
            + self.qkv.bytes()
            + self.output.bytes()
            + self.feed_forward.bytes()
    }
}
