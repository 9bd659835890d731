//! One layer of a decoder: loaded from what the specification states, and computed part by part.

use candle_core::{Result, Tensor};

use super::spec::{DecoderSpec, HeadNormNames};
use super::tensors::{LayerTensors, TensorSpec};
use crate::model::collective::Collective;
use crate::model::compute::meter::{Part, time};
use crate::model::error::ModelError;
use crate::model::network::backbone::RankContext;
use crate::model::network::layers::{
    Delta, Experts, FeedForward, HeadNorm, Linear, Matrix, Norm, OutputGate, ProjectionNorm,
};
use crate::model::shapes::AttentionOptions;

/// A layer. Norms that an architecture does not have are `None`.
pub(super) struct Layer {
    pub attention_norm: Option<Norm>,
    pub qkv: Linear,
    pub query_key_norm: Option<QueryKeyNorm>,
    /// Which of the decoder's frequencies turn its heads.
    pub rope: Option<usize>,
    pub attention: AttentionOptions,
    pub output_gate: Option<OutputGate>,
    /// What stands in the place of attention; its projections are in `qkv`.
    pub delta: Option<Delta>,
    pub output: Linear,
    pub attention_post_norm: Option<Norm>,
    pub feed_forward_norm: Option<Norm>,
    pub feed_forward: Inner,
    pub feed_forward_post_norm: Option<Norm>,
}

/// Norms of queries and keys.
pub(super) enum QueryKeyNorm {
    /// Of each head.
    Heads(HeadNorm),
    /// Of all heads of a row at once.
    Projections(ProjectionNorm),
}

/// The feed-forward layer, or several of them.
pub(super) enum Inner {
    Dense(FeedForward),
    Experts(Experts),
}

impl Layer {
    /// Of the same layer of a `base`, matrices that the context's weights do not replace are shared.
    pub fn load(
        spec: &DecoderSpec,
        tensors: &LayerTensors,
        context: &RankContext,
        index: usize,
        base: Option<&Self>,
    ) -> std::result::Result<Self, ModelError> {
        let name = |tensor: &TensorSpec| spec.layer_name(index, tensor.name);
        let norm = |tensor: &TensorSpec| Norm::load(context, spec.norm, &name(tensor), tensor.outputs, spec.eps);
        let optional = |tensor: &Option<TensorSpec>| tensor.as_ref().map(norm).transpose();
        let matrix = |tensor: &TensorSpec| tensor.matrix(name(tensor), spec.heads, context.shard);
        let mut qkv: Vec<_> = tensors.qkv.iter().map(matrix).collect();
        let gates =
            (spec.output_gate && tensors.delta.is_empty()).then(|| split_gates(&mut qkv[0], spec.heads.head_dim));
        let linear = |base: Option<&Linear>, matrices: &[Matrix], bias| match base {
            Some(base) => base.adapted(context, matrices, bias),
            None => Linear::load(context, matrices, bias),
        };
        Ok(Self {
            attention_norm: optional(&tensors.attention_norm)?,
            qkv: linear(base.map(|base| &base.qkv), &qkv, tensors.qkv[0].bias)?,
            query_key_norm: QueryKeyNorm::load(spec, tensors, context, index)?,
            rope: spec.layer_ropes[index],
            attention: AttentionOptions {
                scale: spec.attention_scale,
                window: spec.windows[index],
                soft_cap: spec.soft_cap,
            },
            output_gate: match gates {
                Some(gates) => {
                    let base = base.and_then(|base| base.output_gate.as_ref());
                    Some(OutputGate::load(context, gates, spec.qkv_bias, base)?)
                }
                None => None,
            },
            delta: match &spec.delta {
                Some(delta) if !tensors.delta.is_empty() => {
                    let names = delta.full_names(|name| spec.layer_name(index, name));
                    Some(Delta::load(context, &names, delta.layout, spec.eps)?)
                }
                _ => None,
            },
            output: linear(base.map(|base| &base.output), &[matrix(&tensors.output)], tensors.output.bias)?,
            attention_post_norm: optional(&tensors.attention_post_norm)?,
            feed_forward_norm: optional(&tensors.feed_forward_norm)?,
            feed_forward: Inner::load(spec, tensors, context, index, base.map(|base| &base.feed_forward))?,
            feed_forward_post_norm: optional(&tensors.feed_forward_post_norm)?,
        })
    }

    /// Bytes of its weights in memory.
    pub fn bytes(&self) -> usize {
        let norms = [&self.attention_norm, &self.attention_post_norm].into_iter();
        let norms = norms.chain([&self.feed_forward_norm, &self.feed_forward_post_norm]);
        norms.flatten().map(Norm::bytes).sum::<usize>()
            + self.query_key_norm.as_ref().map_or(0, QueryKeyNorm::bytes)
            + self.qkv.bytes()
            + self.output_gate.as_ref().map_or(0, OutputGate::bytes)
            + self.delta.as_ref().map_or(0, Delta::bytes)
            + self.output.bytes()
            + self.feed_forward.bytes()
    }
}

/// Takes the gates out of a matrix of queries that each have theirs behind them.
fn split_gates(queries: &mut Matrix, head_dim: usize) -> Matrix {
    let heads: Vec<_> = queries.rows.iter().flat_map(|rows| rows.clone().step_by(2 * head_dim)).collect();
    let rows = |side: usize| heads.iter().map(|head| head + side..head + side + head_dim).collect();
    let gates = Matrix { rows: rows(head_dim), ..queries.clone() };
    queries.rows = rows(0);
    gates
}

impl QueryKeyNorm {
    fn load(
        spec: &DecoderSpec,
        tensors: &LayerTensors,
        context: &RankContext,
        index: usize,
    ) -> std::result::Result<Option<Self>, ModelError> {
        let (Some(kind), Some([query, key])) = (spec.names.head_norms, &tensors.head_norms) else { return Ok(None) };
        let (query, key) = (spec.layer_name(index, query.name), spec.layer_name(index, key.name));
        Ok(Some(match kind {
            HeadNormNames::Heads(_) => {
                let own = context.shard.heads(spec.heads).layout;
                Self::Heads(HeadNorm::load(context, spec.norm, [&query, &key], own, spec.eps)?)
            }
            HeadNormNames::Projections(_) => {
                Self::Projections(ProjectionNorm::load(context, &query, &key, spec.heads, spec.eps)?)
            }
        }))
    }

    /// `qkv: [tokens, row]` with its queries and keys normed.
    pub fn forward(&self, qkv: Tensor, ranks: &dyn Collective) -> Result<Tensor> {
        time(Part::Norm, 0, || match self {
            Self::Heads(norm) => norm.forward(qkv),
            Self::Projections(norm) => norm.forward(&qkv, ranks),
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Heads(norm) => norm.bytes(),
            Self::Projections(norm) => norm.bytes(),
        }
    }
}

impl Inner {
    fn load(
        spec: &DecoderSpec,
        tensors: &LayerTensors,
        context: &RankContext,
        index: usize,
        base: Option<&Self>,
    ) -> std::result::Result<Self, ModelError> {
        // An expert's number is a part of its name.
        let feed_forward = |expert: usize, base: Option<&FeedForward>| {
            let matrix = |tensor: &TensorSpec| {
                tensor.matrix(spec.layer_name(index, &tensor.numbered(expert)), spec.heads, context.shard)
            };
            let (up, down): (Vec<_>, _) = (tensors.up.iter().map(matrix).collect(), matrix(&tensors.down));
            let (gated, bias) = (spec.names.up.gated(), spec.feed_forward_bias);
            match base {
                Some(base) => base.adapted(context, &up, down, bias),
                None => FeedForward::load(context, &up, down, gated, spec.activation, bias),
            }
        };
        let (Some(router), Some(experts)) = (&tensors.router, &spec.experts) else {
            let base = base.and_then(|base| if let Self::Dense(base) = base { Some(base) } else { None });
            return feed_forward(0, base).map(Self::Dense);
        };
        let base = base.and_then(|base| if let Self::Experts(base) = base { Some(base) } else { None });
        let own = context.shard.of(experts.count);
        let router = router.matrix(spec.layer_name(index, router.name), spec.heads, context.shard);
        let expert = |expert: usize| feed_forward(expert, base.map(|base| &base.experts()[expert - own.start]));
        let layers = own.clone().map(expert).collect::<std::result::Result<_, _>>()?;
        match base {
            Some(base) => base.adapted(context, router, layers),
            None => Experts::load(context, router, experts.routing, own.start, layers),
        }
        .map(Self::Experts)
    }

    /// The layer of `x: [tokens, hidden]`, plus `residual`.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        let work = match self {
            Self::Dense(layer) => layer.operations(x.dim(0)?),
            Self::Experts(experts) => experts.operations(x.dim(0)?),
        };
        time(Part::FeedForward, work, || match self {
            Self::Dense(layer) => layer.forward(x, residual, ranks),
            Self::Experts(experts) => experts.forward(x, residual, ranks),
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense(layer) => layer.bytes(),
            Self::Experts(experts) => experts.bytes(),
        }
    }
}
