//! The decoder that all architectures are forms of: pre-norm blocks of causal grouped-query attention with rotary
//! positions and a feed-forward layer. An architecture says by a [`DecoderSpec`] which form it is.
//!
//! Every rank holds its heads and its part of the feed-forward features and of the vocabulary; the hidden state is the same
//! on all of them. Two sums over all ranks per layer, one for the embedding.

mod spec;
mod tensors;

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

pub use spec::{DecoderSpec, Names, Parameters, QkvNames};
pub use tensors::{Kind, LayerTensors, TensorSpec};

use super::backbone::{Backbone, Pass, RankContext};
use super::layers::{Attention, Embedding, FeedForward, HeadNorm, Linear, Matrix, Norm, Rotary};
use crate::batch::MicroBatch;
use crate::model::compute::backend::Backend;
use crate::model::compute::meter::{Part, time};
use crate::model::error::ModelError;
use crate::model::prefix_cache::KeyValues;
use crate::model::shapes::{AttentionOptions, HeadLayout};

impl DecoderSpec {
    /// Loads one rank's share.
    pub fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        Ok(Box::new(Decoder::load(self, context)?))
    }
}

/// One rank's part of a decoder.
struct Decoder {
    spec: DecoderSpec,
    backend: Backend,
    heads: HeadLayout,
    kept: KeyValues,
    embedding: Embedding,
    rotary: Rotary,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Layer {
    attention_norm: Norm,
    qkv: Linear,
    head_norm: Option<HeadNorm>,
    attention: AttentionOptions,
    output: Linear,
    attention_post_norm: Option<Norm>,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
    feed_forward_post_norm: Option<Norm>,
}

impl Decoder {
    fn load(spec: &DecoderSpec, context: &RankContext) -> std::result::Result<Self, ModelError> {
        spec.refuse_ignored(context.weights)?;
        let heads = context.shard.heads(spec.heads).layout;
        let tensors = spec.layer();
        let (embedding, layers) = rayon::join(
            || {
                let table = spec.embedding();
                let name = format!("{}.weight", table.name);
                Embedding::load(context, &name, table.outputs, table.inputs, spec.embedding_scale)
            },
            || {
                (0..spec.layers)
                    .into_par_iter()
                    .map(|i| Layer::load(spec, &tensors, context, i))
                    .collect::<std::result::Result<Vec<_>, _>>()
            },
        );
        let norm = spec.last_norm();
        Ok(Self {
            spec: spec.clone(),
            backend: context.backend,
            heads,
            kept: KeyValues::new(spec.layers, context.slots, heads),
            embedding: embedding?,
            rotary: spec.rotary.clone(),
            layers: layers?,
            norm: Norm::load(context, spec.norm, norm.name, norm.outputs, spec.eps)?,
        })
    }
}

impl Layer {
    fn load(
        spec: &DecoderSpec,
        tensors: &LayerTensors,
        context: &RankContext,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        Self::made_of(None, spec, tensors, context, index)
    }

    /// The layer, with what can be shared of a `base`.
    fn made_of(
        base: Option<&Self>,
        spec: &DecoderSpec,
        tensors: &LayerTensors,
        context: &RankContext,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let name = |tensor: &TensorSpec| spec.layer_name(index, tensor.name);
        let norm = |tensor: &TensorSpec| Norm::load(context, spec.norm, &name(tensor), tensor.outputs, spec.eps);
        let matrix = |tensor: &TensorSpec| tensor.matrix(name(tensor), spec.heads, context.shard);
        let matrices = |tensors: &[TensorSpec]| tensors.iter().map(matrix).collect::<Vec<_>>();
        let linear = |base: Option<&Linear>, matrices: &[Matrix], bias| match base {
            Some(base) => base.adapted(context, matrices, bias),
            None => Linear::load(context, matrices, bias),
        };
        let (up, down) = (matrices(&tensors.up), matrix(&tensors.down));
        let heads = context.shard.heads(spec.heads).layout;
        Ok(Self {
            attention_norm: norm(&tensors.attention_norm)?,
            qkv: linear(base.map(|base| &base.qkv), &matrices(&tensors.qkv), spec.qkv_bias)?,
            head_norm: tensors
                .head_norms
                .as_ref()
                .map(|[query, key]| HeadNorm::load(context, &name(query), &name(key), heads, spec.eps))
                .transpose()?,
            attention: AttentionOptions {
                scale: spec.attention_scale,
                window: spec.windows[index],
                soft_cap: spec.soft_cap,
            },
            output: linear(base.map(|base| &base.output), &[matrix(&tensors.output)], spec.output_bias)?,
            attention_post_norm: tensors.attention_post_norm.as_ref().map(norm).transpose()?,
            feed_forward_norm: norm(&tensors.feed_forward_norm)?,
            feed_forward: match base {
                Some(base) => base.feed_forward.adapted(context, &up, down, spec.feed_forward_bias)?,
                None => FeedForward::load(context, &up, down, spec.activation, spec.feed_forward_bias)?,
            },
            feed_forward_post_norm: tensors.feed_forward_post_norm.as_ref().map(norm).transpose()?,
        })
    }

    fn bytes(&self) -> usize {
        let post_norms = [&self.attention_post_norm, &self.feed_forward_post_norm];
        let norms = [&self.attention_norm, &self.feed_forward_norm].into_iter().chain(post_norms.into_iter().flatten());
        norms.map(Norm::bytes).sum::<usize>()
            + self.head_norm.as_ref().map_or(0, HeadNorm::bytes)
            + self.qkv.bytes()
            + self.output.bytes()
            + self.feed_forward.bytes()
    }
}

/// `residual + post_norm(what a part adds)`; without such a norm the part adds the residual itself, in one go.
fn added(
    residual: &Tensor,
    post_norm: Option<&Norm>,
    part: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
) -> Result<Tensor> {
    match post_norm {
        None => part(Some(residual)),
        Some(norm) => {
            let part = part(None)?;
            time(Part::Norm, 0, || residual + norm.forward(&part)?)
        }
    }
}

impl Backbone for Decoder {
    fn bytes(&self) -> usize {
        self.embedding.bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>() + self.norm.bytes()
    }

    fn adapted(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        let spec = &self.spec;
        spec.refuse_ignored(context.weights)?;
        let (tensors, table, norm) = (spec.layer(), spec.embedding(), spec.last_norm());
        let name = format!("{}.weight", table.name);
        let embedding = if context.weights.is_changed(&name) {
            // It may have more tokens than the base's.
            let tokens = context.weights.info(&name).map_or(table.outputs, |info| info.matrix().0);
            Embedding::load(context, &name, tokens, table.inputs, spec.embedding_scale)?
        } else {
            self.embedding.clone()
        };
        let layer = |(i, layer)| Layer::made_of(Some(layer), spec, &tensors, context, i);
        Ok(Box::new(Self {
            spec: spec.clone(),
            backend: self.backend,
            heads: self.heads,
            kept: KeyValues::new(spec.layers, context.slots, self.heads),
            embedding,
            rotary: self.rotary.clone(),
            layers: self.layers.par_iter().enumerate().map(layer).collect::<std::result::Result<Vec<_>, _>>()?,
            norm: Norm::load(context, spec.norm, norm.name, norm.outputs, spec.eps)?,
        }))
    }

    fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let MicroBatch { tokens, positions, .. } = pass.batch;
        let mut x = time(Part::Embedding, 0, || self.embedding.forward(tokens, pass.ranks))?;
        let tables = time(Part::Rotary, 0, || self.rotary.tables(positions, x.device()))?;
        let attention = Attention::new(self.backend, pass.batch, pass.past, self.heads, x.device())?;
        let reads = Tensor::new(pass.reads, x.device())?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = time(Part::Norm, 0, || layer.attention_norm.forward(&x))?;
            let mut qkv = time(Part::Projection, layer.qkv.operations(tokens.len()), || layer.qkv.forward(&normed))?;
            drop(normed);
            if let Some(norm) = &layer.head_norm {
                qkv = time(Part::Norm, 0, || norm.forward(qkv))?;
            }
            let qkv = time(Part::Rotary, 0, || tables.turn(self.backend, qkv, self.heads))?;
            time(Part::Keep, 0, || self.kept.keep(i, &qkv, pass.keep))?;
            let work = self.heads.operations(positions, layer.attention.window);
            let mut mixed =
                time(Part::Attention, work, || attention.forward(&qkv, self.kept.layer(i).kept(), layer.attention))?;
            drop(qkv);
            let mut rows = tokens.len();
            if i + 1 == self.layers.len() {
                // Nobody looks at the other rows of the last layer any more.
                (x, mixed) = (x.index_select(&reads, 0)?, mixed.index_select(&reads, 0)?);
                rows = pass.reads.len();
            }
            x = added(&x, layer.attention_post_norm.as_ref(), |x| {
                let work = layer.output.operations(rows);
                time(Part::Projection, work, || layer.output.forward_reduce(&mixed, x, pass.ranks))
            })?;
            let normed = time(Part::Norm, 0, || layer.feed_forward_norm.forward(&x))?;
            x = added(&x, layer.feed_forward_post_norm.as_ref(), |x| {
                let work = layer.feed_forward.operations(rows);
                time(Part::FeedForward, work, || layer.feed_forward.forward(&normed, x, pass.ranks))
            })?;
        }
        // What a head sees is rounded no more.
        self.norm.forward(&x.to_dtype(DType::F32)?)
    }
}
