//! The decoder that all architectures are forms of: pre-norm blocks of causal grouped-query attention with rotary
//! positions and a feed-forward layer. An architecture says by a [`DecoderSpec`] which form it is.
//!
//! Every rank holds its heads and its part of the feed-forward features and of the vocabulary; the hidden state is the same
//! on all of them. Two all-reduces per layer, one for the embedding.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::ModelError;
use super::backbone::{Backbone, Pass, RankContext};
use super::backend::Backend;
use super::checkpoint::WeightSource;
use super::kernels::{AttentionOptions, HeadLayout};
use super::layers::{
    Activation, Attention, Embedding, FeedForward, FeedForwardNames, HeadNorm, Linear, Matrix, Norm, NormKind, Rotary,
};
use super::shard::{HeadShard, degrees};

/// One form of decoder: sizes, variants, and the names of its tensors.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// Transformer layers.
    pub layers: usize,
    /// Features of the hidden state.
    pub hidden: usize,
    /// Heads, and features of each.
    pub heads: HeadLayout,
    /// Features inside the feed-forward layers.
    pub feed_forward: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Longest rollout in tokens.
    pub context: usize,
    /// What the embedding is multiplied by.
    pub embedding_scale: Option<f32>,
    /// Kind of all norms.
    pub norm: NormKind,
    /// Theirs.
    pub eps: f64,
    /// Frequencies.
    pub rotary: Rotary,
    /// Factor of attention scores.
    pub attention_scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// For each layer, how many positions a query sees, its own included.
    pub windows: Vec<Option<usize>>,
    /// In the feed-forward layers.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the way out of attention has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have one.
    pub feed_forward_bias: bool,
    /// Names of the tensors.
    pub names: Names,
}

/// Names of tensors, without `.weight` and `.bias`. Those of a layer stand under `layers` and the layer's number.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The embedding table.
    pub embedding: &'static str,
    /// What all layers' names begin with.
    pub layers: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// Norms of each query and key head.
    pub head_norms: Option<[&'static str; 2]>,
    /// The way out of attention.
    pub output: &'static str,
    /// A norm of what attention adds.
    pub attention_post_norm: Option<&'static str>,
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: &'static str,
    /// The gate, where the feed-forward layer has one.
    pub gate: Option<&'static str>,
    /// The way into the feed-forward layer.
    pub up: &'static str,
    /// The way out of it.
    pub down: &'static str,
    /// A norm of what it adds.
    pub feed_forward_post_norm: Option<&'static str>,
    /// The last norm.
    pub norm: &'static str,
}

/// How queries, keys and values are stored.
#[derive(Debug, Clone, Copy)]
pub enum QkvNames {
    /// As three matrices.
    Apart([&'static str; 3]),
    /// As one: for each key head its query heads, the key head, the value head.
    ByGroup(&'static str),
}

impl Names {
    /// The names that most models in transformers have.
    pub const COMMON: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        attention_norm: "input_layernorm",
        qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        head_norms: None,
        output: "self_attn.o_proj",
        attention_post_norm: None,
        feed_forward_norm: "post_attention_layernorm",
        gate: Some("mlp.gate_proj"),
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        feed_forward_post_norm: None,
        norm: "model.norm",
    };
}

/// How many weights a decoder has, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Parameters {
    /// The embedding table.
    pub embedding: usize,
    /// Matrices and biases of attention, all layers.
    pub attention: usize,
    /// Matrices and biases of the feed-forward layers, all of them.
    pub feed_forward: usize,
    /// All norms.
    pub norms: usize,
}

impl Parameters {
    /// All of them.
    pub fn total(&self) -> usize {
        self.embedding + self.attention + self.feed_forward + self.norms
    }
}

impl DecoderSpec {
    /// Counts the weights.
    pub fn parameters(&self) -> Parameters {
        let HeadLayout { heads, kv_heads, head_dim } = self.heads;
        let (hidden, features, names) = (self.hidden, self.feed_forward, &self.names);
        let qkv = self.heads.row();
        let bias = |has: bool, values: usize| if has { values } else { 0 };
        let attention = hidden * (qkv + heads * head_dim) + bias(self.qkv_bias, qkv) + bias(self.output_bias, hidden);
        let ways_up = 1 + usize::from(names.gate.is_some());
        let feed_forward =
            (ways_up + 1) * hidden * features + bias(self.feed_forward_bias, ways_up * features + hidden);
        let post_norms = [names.attention_post_norm, names.feed_forward_post_norm].into_iter().flatten().count();
        let head_norms = names.head_norms.map_or(0, |both| both.len() * head_dim);
        let norms = (2 + post_norms) * self.norm.vectors() * hidden + head_norms;
        debug_assert!(kv_heads <= heads);
        Parameters {
            embedding: self.vocabulary * hidden,
            attention: self.layers * attention,
            feed_forward: self.layers * feed_forward,
            norms: self.layers * norms + self.norm.vectors() * hidden,
        }
    }

    /// Numbers of ranks that the model can be shared by.
    pub fn degrees(&self) -> Vec<usize> {
        degrees(self.heads, self.feed_forward.min(self.vocabulary))
    }

    /// Refuses a number of ranks that the model cannot be shared by.
    pub fn check_degree(&self, world: usize) -> std::result::Result<(), ModelError> {
        match self.degrees() {
            degrees if degrees.contains(&world) => Ok(()),
            degrees => Err(ModelError::Degree {
                found: world,
                heads: self.heads.heads,
                kv_heads: self.heads.kv_heads,
                possible: degrees.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Loads one rank's share.
    pub fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        Ok(Box::new(Decoder::load(self, context)?))
    }

    fn layer_name(&self, layer: usize, part: &str) -> String {
        format!("{}.{layer}.{part}", self.names.layers)
    }

    /// Every tensor of a layer, without the layer's own name: what else stands there would be read by nobody.
    fn layer_tensors(&self) -> Vec<String> {
        let names = &self.names;
        let mut tensors = Vec::new();
        let mut add = |part: &str, bias: bool| {
            tensors.push(format!("{part}.weight"));
            if bias {
                tensors.push(format!("{part}.bias"));
            }
        };
        match names.qkv {
            QkvNames::Apart(parts) => parts.iter().for_each(|part| add(part, self.qkv_bias)),
            QkvNames::ByGroup(part) => add(part, self.qkv_bias),
        }
        add(names.output, self.output_bias);
        names.head_norms.iter().flatten().for_each(|part| add(part, false));
        names.gate.iter().chain([&names.up, &names.down]).for_each(|part| add(part, self.feed_forward_bias));
        let norms = [Some(names.attention_norm), Some(names.feed_forward_norm)];
        let post_norms = [names.attention_post_norm, names.feed_forward_post_norm];
        norms.iter().chain(&post_norms).flatten().for_each(|part| add(part, self.norm.vectors() == 2));
        // Old checkpoints carry the frequencies, which the configuration determines.
        tensors.push("self_attn.rotary_emb.inv_freq".into());
        tensors.push("attention.rotary_emb.inv_freq".into());
        tensors
    }

    /// Refuses a tensor in a layer that would be read by nobody, such as a bias that the configuration does not mention.
    fn refuse_ignored(&self, weights: &dyn WeightSource) -> std::result::Result<(), ModelError> {
        let known = self.layer_tensors();
        for name in weights.names() {
            let Some(rest) = name.strip_prefix(self.names.layers).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let Some((layer, part)) = rest.split_once('.') else { continue };
            // Layers beyond those that the configuration keeps are no part of the model.
            if layer.parse().is_ok_and(|layer: usize| layer < self.layers) && !known.iter().any(|known| known == part) {
                return Err(ModelError::Unsupported {
                    path: weights.origin(&name),
                    field: format!("tensor {name:?}"),
                    found: "present".into(),
                    expected: format!("a layer of {}", known.join(", ")),
                });
            }
        }
        Ok(())
    }

    /// The matrices of a rank's queries, keys and values.
    fn qkv<'a>(&self, names: &'a [String], shard: &HeadShard) -> Vec<Matrix<'a>> {
        let HeadLayout { heads, kv_heads, head_dim } = self.heads;
        let rows = |heads: std::ops::Range<usize>| heads.start * head_dim..heads.end * head_dim;
        match names {
            [q, k, v] => vec![
                Matrix::whole(q, heads * head_dim, self.hidden).rows(vec![rows(shard.query.clone())]),
                Matrix::whole(k, kv_heads * head_dim, self.hidden).rows(vec![rows(shard.kv.clone())]),
                Matrix::whole(v, kv_heads * head_dim, self.hidden).rows(vec![rows(shard.kv.clone())]),
            ],
            names => {
                let per_group = heads / kv_heads;
                // Head `i` of group `g` in the packed matrix; the group's queries come first, then its key and value.
                let slot = |group: usize, i: usize| rows(group * (per_group + 2) + i..group * (per_group + 2) + i + 1);
                let query = shard.query.clone().map(|head| slot(head / per_group, head % per_group));
                let key = shard.kv.clone().map(|group| slot(group, per_group));
                let value = shard.kv.clone().map(|group| slot(group, per_group + 1));
                let rows = query.chain(key).chain(value).collect();
                let whole = |name| Matrix::whole(name, self.heads.row(), self.hidden);
                names.first().map(|name| whole(name).rows(rows)).into_iter().collect()
            }
        }
    }
}

/// One rank's part of a decoder.
struct Decoder {
    backend: Backend,
    heads: HeadLayout,
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
        let heads = context.shard.heads(spec.heads);
        let (embedding, layers) = rayon::join(
            || {
                let name = format!("{}.weight", spec.names.embedding);
                Embedding::load(context, &name, spec.vocabulary, spec.hidden, spec.embedding_scale)
            },
            || {
                (0..spec.layers)
                    .into_par_iter()
                    .map(|i| Layer::load(spec, context, &heads, i))
                    .collect::<std::result::Result<Vec<_>, _>>()
            },
        );
        Ok(Self {
            backend: context.backend,
            heads: heads.layout,
            embedding: embedding?,
            rotary: spec.rotary.clone(),
            layers: layers?,
            norm: Norm::load(context, spec.norm, spec.names.norm, spec.hidden, spec.eps)?,
        })
    }
}

impl Layer {
    fn load(
        spec: &DecoderSpec,
        context: &RankContext,
        heads: &HeadShard,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let names = &spec.names;
        let name = |part: &str| spec.layer_name(index, part);
        let norm = |part: &str| Norm::load(context, spec.norm, &name(part), spec.hidden, spec.eps);
        let qkv: Vec<String> = match names.qkv {
            QkvNames::Apart(parts) => parts.iter().map(|part| name(part)).collect(),
            QkvNames::ByGroup(part) => vec![name(part)],
        };
        let head_dim = spec.heads.head_dim;
        let output = name(names.output);
        let output = Matrix::whole(&output, spec.hidden, spec.heads.heads * head_dim)
            .columns(heads.query.start * head_dim..heads.query.end * head_dim);
        let feed_forward = FeedForwardNames { gate: names.gate.map(name), up: name(names.up), down: name(names.down) };
        Ok(Self {
            attention_norm: norm(names.attention_norm)?,
            qkv: Linear::load(context, &spec.qkv(&qkv, heads), spec.qkv_bias)?,
            head_norm: names
                .head_norms
                .map(|[query, key]| HeadNorm::load(context, &name(query), &name(key), heads.layout, spec.eps))
                .transpose()?,
            attention: AttentionOptions {
                scale: spec.attention_scale,
                window: spec.windows[index],
                soft_cap: spec.soft_cap,
            },
            output: Linear::load(context, &[output], spec.output_bias)?,
            attention_post_norm: names.attention_post_norm.map(norm).transpose()?,
            feed_forward_norm: norm(names.feed_forward_norm)?,
            feed_forward: FeedForward::load(
                context,
                &feed_forward,
                spec.hidden,
                spec.feed_forward,
                spec.activation,
                spec.feed_forward_bias,
            )?,
            feed_forward_post_norm: names.feed_forward_post_norm.map(norm).transpose()?,
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
        Some(norm) => residual + norm.forward(&part(None)?)?,
    }
}

impl Backbone for Decoder {
    fn bytes(&self) -> usize {
        self.embedding.bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>() + self.norm.bytes()
    }

    fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let mut x = self.embedding.forward(&pass.batch.tokens, pass.ranks)?;
        let tables = self.rotary.tables(&pass.batch.positions, x.device())?;
        let attention = Attention::new(self.backend, pass.batch, self.heads, x.device())?;
        let reads = Tensor::new(pass.reads, x.device())?;
        for (i, layer) in self.layers.iter().enumerate() {
            let mut qkv = layer.qkv.forward(&layer.attention_norm.forward(&x)?)?;
            if let Some(norm) = &layer.head_norm {
                qkv = norm.forward(qkv)?;
            }
            let qkv = tables.turn(self.backend, qkv, self.heads)?;
            let mut mixed = attention.forward(&qkv, layer.attention)?;
            drop(qkv);
            if i + 1 == self.layers.len() {
                // Nobody looks at the other rows of the last layer any more.
                (x, mixed) = (x.index_select(&reads, 0)?, mixed.index_select(&reads, 0)?);
            }
            x = added(&x, layer.attention_post_norm.as_ref(), |x| layer.output.forward_reduce(&mixed, x, pass.ranks))?;
            let normed = layer.feed_forward_norm.forward(&x)?;
            x = added(&x, layer.feed_forward_post_norm.as_ref(), |x| {
                layer.feed_forward.forward(&normed, x, pass.ranks)
            })?;
        }
        // What a head sees is rounded no more.
        self.norm.forward(&x.to_dtype(DType::F32)?)
    }
}
