//! The decoder that all architectures of decoders are forms of: blocks of causal grouped-query attention and a feed-forward layer, with
//! norms before them, after them, or both. An architecture says by a [`DecoderSpec`] which form it is.
//!
//! Every rank holds its heads and its part of the feed-forward features and of the vocabulary; the hidden state is the same
//! on all of them. Two sums over all ranks per layer, one for the embedding.

mod delta;
pub mod inventory;
mod layer;
mod mix;
mod reads;
mod spec;
mod tensors;

use std::mem::replace;

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

pub use inventory::Parameters;
pub use spec::{DecoderSpec, DeltaNames, DeltaSpec, ExpertNames, ExpertsSpec, HeadNormNames, Names, QkvNames, UpNames};
pub use tensors::{Cut, Kind, TensorSpec};

use layer::Layer;
use mix::PassRows;

use super::backbone::{Backbone, Pass, RankContext};
use super::layers::{Embedding, Norm};
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::meter::{Part, time};
use crate::model::error::ModelError;
use crate::model::prefix_cache::KeyValues;
use crate::model::shapes::HeadLayout;

impl DecoderSpec {
    /// Loads one rank's share.
    pub fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        Ok(Box::new(Decoder::load(self, context, None)?))
    }
}

/// One rank's part of a decoder.
struct Decoder {
    spec: DecoderSpec,
    backend: Backend,
    heads: HeadLayout,
    kept: KeyValues,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
}

impl Decoder {
    /// Of a `base`, what the context's weights do not change is shared.
    fn load(spec: &DecoderSpec, context: &RankContext, base: Option<&Self>) -> std::result::Result<Self, ModelError> {
        spec.refuse_ignored(context.weights)?;
        let heads = context.shard.heads(spec.heads).layout;
        let (embedding, layers) = rayon::join(
            || {
                let table = spec.embedding();
                let name = format!("{}.weight", table.name);
                match base {
                    Some(base) if !context.weights.is_changed(&name) => Ok(base.embedding.clone()),
                    _ => Embedding::load(context, &name, table.outputs, table.inputs, spec.embedding_scale),
                }
            },
            || {
                (0..spec.layers)
                    .into_par_iter()
                    .map(|i| {
                        let tensors = spec.layer(spec.layer_kind(i));
                        Layer::load(spec, &tensors, context, i, base.map(|base| &base.layers[i]))
                    })
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
            layers: layers?,
            norm: Norm::load(context, spec.norm, norm.name, norm.outputs, spec.eps)?,
        })
    }
}

impl Decoder {
    /// `residual + scale * post_norm(what a part adds)`; without norm and scale the part adds the residual itself, in one
    /// go.
    fn added(
        &self,
        residual: &Tensor,
        post_norm: Option<&Norm>,
        part: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if post_norm.is_none() && self.spec.residual_scale.is_none() {
            return part(Some(residual));
        }
        let part = normed(post_norm, &part(None)?)?;
        time(Part::Norm, 0, || match self.spec.residual_scale {
            Some(scale) => residual + part.affine(f64::from(scale), 0.0)?,
            None => residual + part,
        })
    }

    /// Keeps the memory of a tensor that is not looked at any more, for the kernels, unless others share it.
    fn recycle(&self, tensor: Tensor, is_shared: bool) -> Result<()> {
        match self.backend {
            Backend::Kernels(_) if !is_shared => buffers::recycle(tensor),
            _ => Ok(()),
        }
    }
}

/// `x` through a norm, if there is one; without one, a tensor that shares its memory.
fn normed(norm: Option<&Norm>, x: &Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => time(Part::Norm, 0, || norm.forward(x)),
        None => Ok(x.clone()),
    }
}

impl Backbone for Decoder {
    fn bytes(&self) -> usize {
        self.embedding.bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>() + self.norm.bytes()
    }

    fn adapted(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        let mut spec = self.spec.clone();
        let table = format!("{}.weight", spec.embedding().name);
        // An adapter's own table may have more tokens than the base's.
        if let (true, Some(info)) = (context.weights.is_changed(&table), context.weights.info(&table)) {
            spec.vocabulary = info.matrix().0;
        }
        Ok(Box::new(Self::load(&spec, context, Some(self))?))
    }

    fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let mut x = time(Part::Embedding, 0, || self.embedding.forward(&pass.batch.tokens, pass.ranks))?;
        let rows = PassRows::new(self, pass, x.device())?;
        let reads = &rows.reads;
        for (i, layer) in self.layers.iter().enumerate() {
            // Of the last layer the others need all keys and values, and nobody looks at what is not read.
            let is_last = i + 1 == self.layers.len();
            let mut input = normed(layer.attention_norm.as_ref(), &x)?;
            let mixed = self.mix(i, &input, is_last, &rows)?;
            if is_last {
                x = x.index_select(&reads.selected, 0)?;
                if self.spec.parallel {
                    input = input.index_select(&reads.selected, 0)?;
                }
            }
            let work = layer.output.operations(mixed.dim(0)?);
            let sum = self.added(&x, layer.attention_post_norm.as_ref(), |x| {
                time(Part::Projection, work, || layer.output.forward_reduce(&mixed, x, pass.ranks))
            })?;
            self.recycle(mixed, false)?;
            let mut is_shared = layer.attention_norm.is_none();
            self.recycle(replace(&mut x, sum), is_shared)?;
            if !self.spec.parallel {
                self.recycle(input, is_shared)?;
                input = normed(layer.feed_forward_norm.as_ref(), &x)?;
                is_shared = layer.feed_forward_norm.is_none();
            }
            let sum = self.added(&x, layer.feed_forward_post_norm.as_ref(), |x| {
                layer.feed_forward.forward(&input, x, pass.ranks)
            })?;
            self.recycle(replace(&mut x, sum), is_shared)?;
            self.recycle(input, is_shared)?;
        }
        // What a head sees is rounded no more.
        reads.of_each(&self.norm.forward(&x.to_dtype(DType::F32)?)?)
    }
}
