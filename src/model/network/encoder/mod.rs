//! The encoder that BERT's descendants are forms of: every token sees the whole rollout, before it and behind it, and the head
//! sees the first token, the mean of all, or some that are named. An architecture says by an [`EncoderSpec`] which form it is.
//!
//! Invariant: the result of a read depends on the tokens of its own sequence alone. What rollouts share is not shared here, and one
//! rank computes it all.

mod buckets;
mod embeddings;
mod layer;
mod pool;
mod sequences;
mod spec;

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

pub use spec::{EncoderNames, EncoderSpec, Pool, PositionTable, RelativeSpec};

use self::embeddings::Embeddings;
use self::layer::{Layer, Shared, Wanted};
use self::sequences::Sequences;
use super::backbone::{Backbone, Pass, RankContext};
use super::decoder::inventory::refuse_ignored;
use super::layers::{Attention, Norm, Rotary};
use crate::batch::MicroBatch;
use crate::model::compute::meter::{Part, time};
use crate::model::error::ModelError;
use crate::model::shapes::HeadLayout;

impl EncoderSpec {
    /// Loads it.
    pub fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        Ok(Box::new(Encoder::load(self, context)?))
    }
}

/// A loaded encoder.
struct Encoder {
    heads: HeadLayout,
    embeddings: Embeddings,
    ropes: Vec<Rotary>,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    pool: Pool,
}

impl Encoder {
    fn load(spec: &EncoderSpec, context: &RankContext) -> std::result::Result<Self, ModelError> {
        let known: Vec<_> = (0..spec.layers.min(2)).map(|index| spec.layer(index).names()).collect();
        // All layers but the first are alike.
        refuse_ignored(context.weights, &spec.name(spec.names.layers), spec.layers, |layer| &known[layer.min(1)])?;
        let buckets = buckets::embeddings(spec, context)?;
        let layers = (0..spec.layers).into_par_iter().map(|index| Layer::load(spec, context, index, buckets.as_ref()));
        let norm = |name: &str| Norm::load(context, spec.norm, &spec.name(name), spec.hidden, spec.eps);
        Ok(Self {
            heads: spec.heads,
            embeddings: Embeddings::load(spec, context)?,
            ropes: spec.ropes.clone(),
            layers: layers.collect::<std::result::Result<_, _>>()?,
            norm: spec.names.norm.map(norm).transpose()?,
            pool: spec.pool,
        })
    }

    /// What the head sees of each sequence: `[sequences, features seen]`.
    fn seen(&self, batch: &MicroBatch, pass: &Pass) -> Result<Tensor> {
        let mut x = time(Part::Embedding, 0, || self.embeddings.forward(batch, pass.ranks))?;
        let tables = self.ropes.iter().map(|rope| rope.tables(&batch.positions, x.device()));
        let shared = Shared {
            attention: Attention::both_ways(batch, self.heads, 0..batch.tokens.len() as u32),
            tables: time(Part::Rotary, 0, || tables.collect::<Result<_>>())?,
            ranks: pass.ranks,
            lengths: batch.segments.iter().map(|segment| segment.tokens.len()).collect(),
        };
        let Some((last, others)) = self.layers.split_last() else { bail!("an encoder without layers") };
        for layer in others {
            x = layer.forward(&x, &shared, None)?;
        }
        // Nobody looks at the other rows of the last layer any more.
        let wanted = match self.pool.positions(batch) {
            Some(positions) => Some(Wanted::new(batch, self.heads, positions, x.device())?),
            None => None,
        };
        x = last.forward(&x, &shared, wanted.as_ref())?;
        // What a head sees is rounded no more.
        let x = x.to_dtype(DType::F32)?;
        let x = match &self.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        self.pool.seen(batch, wanted.as_ref().map_or(&[][..], |wanted| &wanted.positions), x)
    }
}

impl Backbone for Encoder {
    fn bytes(&self) -> usize {
        let norm = self.norm.as_ref().map_or(0, Norm::bytes);
        self.embeddings.bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>() + norm
    }

    fn rows(&self, batch: &MicroBatch, reads: &[u32]) -> usize {
        Sequences::rows(batch, reads)
    }

    fn adapted(&self, _: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        let reason = "adapters beside each other are for decoders".to_owned();
        Err(ModelError::Encoder { reason })
    }

    fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let Sequences { batch, of_reads } = Sequences::of(pass.batch, pass.reads);
        let seen = self.seen(&batch, pass)?;
        seen.index_select(&Tensor::new(of_reads, seen.device())?, 0)
    }
}
