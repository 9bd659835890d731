//! What an architecture says of its encoder: sizes, variants, names of tensors; and every tensor of it, stated once.

use std::collections::BTreeSet;

use crate::model::compute::kernels::RelativeShape;
use crate::model::network::decoder::{Cut, Kind, Parameters, TensorSpec};
use crate::model::network::layers::{NormKind, Rotary};
use crate::model::shapes::{Activation, HeadLayout};

/// One form of encoder.
#[derive(Debug, Clone)]
pub struct EncoderSpec {
    /// Transformer layers.
    pub layers: usize,
    /// Features of the hidden state.
    pub hidden: usize,
    /// Heads, and features of each; as many key heads as query heads.
    pub heads: HeadLayout,
    /// Features inside the feed-forward layers.
    pub feed_forward: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Longest rollout in tokens.
    pub context: usize,
    /// Kind of all norms.
    pub norm: NormKind,
    /// Theirs.
    pub eps: f64,
    /// Whether a norm is taken of what a part of a layer reads; else of what it gives, added to what it read.
    pub norm_first: bool,
    /// Whether the first layer's attention reads its input without a norm.
    pub first_without_norm: bool,
    /// In the feed-forward layers.
    pub activation: Activation,
    /// Whether they have a gate.
    pub gated: bool,
    /// Whether the matrices of attention have a bias.
    pub attention_bias: bool,
    /// Whether the feed-forward layers have one.
    pub feed_forward_bias: bool,
    /// Factor of attention scores.
    pub attention_scale: f32,
    /// The table of positions, where there is one.
    pub positions: Option<PositionTable>,
    /// Rows of the table of token types, where there is one.
    pub types: Option<usize>,
    /// The token behind the first text of a pair: tokens behind it are of type 1. `None`: all are of type 0.
    pub separator: Option<u32>,
    /// What relative positions add to the scores.
    pub relative: Option<RelativeSpec>,
    /// Frequencies, all kinds of them.
    pub ropes: Vec<Rotary>,
    /// For each layer, which of them turn its heads.
    pub layer_ropes: Vec<Option<usize>>,
    /// For each layer, how many positions a query sees on each side, its own included.
    pub windows: Vec<Option<usize>>,
    /// What the head sees of a rollout.
    pub pool: Pool,
    /// Names of the tensors.
    pub names: EncoderNames,
}

/// A table of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTable {
    /// Its rows.
    pub rows: usize,
    /// Where positions are counted over all tokens but padding, from one above its id, which is padding's own position.
    pub padding: Option<u32>,
}

/// Disentangled attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeSpec {
    /// Distances and buckets.
    pub shape: RelativeShape,
    /// Whether a query adds its product with a bucket's key.
    pub of_queries: bool,
    /// Whether a key adds its product with a bucket's query.
    pub of_keys: bool,
    /// Whether the buckets' embeddings are normed.
    pub normed: bool,
    /// Whether they become queries and keys by the matrices of the tokens.
    pub shared: bool,
}

/// What a head sees of a rollout's final hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The first token's.
    First,
    /// The mean of all.
    Mean,
    /// Those of three tokens, side by side. Each is there once, and they come in this order; where that is not so, what is seen is
    /// not a number.
    Anchors([u32; 3]),
}

/// Names of tensors, without `.weight` and `.bias`, below the prefix. Those of a layer stand under `layers` and its number.
#[derive(Debug, Clone, Copy)]
pub struct EncoderNames {
    /// What all names begin with.
    pub prefix: &'static str,
    /// The embedding table.
    pub embedding: &'static str,
    /// The norm of the embeddings.
    pub embedding_norm: &'static str,
    /// What all layers' names begin with.
    pub layers: &'static str,
    /// Queries, keys and values: a matrix each, or all in one.
    pub qkv: &'static [&'static str],
    /// The way out of attention.
    pub output: &'static str,
    /// Attention's norm.
    pub attention_norm: &'static str,
    /// The way into the feed-forward layer, behind the gate where there is one.
    pub up: &'static str,
    /// The way out of it.
    pub down: &'static str,
    /// The feed-forward layer's norm.
    pub feed_forward_norm: &'static str,
    /// The last norm.
    pub norm: Option<&'static str>,
}

/// Names that BERT's family shares beside those of an [`EncoderSpec`].
pub(super) const POSITIONS: &str = "embeddings.position_embeddings";
pub(super) const TYPES: &str = "embeddings.token_type_embeddings";
/// Names of disentangled attention.
pub(super) const BUCKETS: &str = "encoder.rel_embeddings";
pub(super) const BUCKETS_NORM: &str = "encoder.LayerNorm";
pub(super) const BUCKETS_KEY: &str = "attention.self.pos_key_proj";
pub(super) const BUCKETS_QUERY: &str = "attention.self.pos_query_proj";

/// The tensors of a layer.
#[derive(Debug, Clone)]
pub(super) struct LayerTensors {
    pub qkv: Vec<TensorSpec>,
    pub output: TensorSpec,
    pub attention_norm: Option<TensorSpec>,
    pub up: TensorSpec,
    pub down: TensorSpec,
    pub feed_forward_norm: TensorSpec,
    /// What makes keys of buckets, and queries, where that is not what makes those of tokens.
    pub buckets: [Option<TensorSpec>; 2],
}

impl LayerTensors {
    fn all(&self) -> impl Iterator<Item = &TensorSpec> {
        let matrices = self.qkv.iter().chain([&self.output, &self.up, &self.down]);
        let norms = self.attention_norm.iter().chain([&self.feed_forward_norm]);
        matrices.chain(norms).chain(self.buckets.iter().flatten())
    }

    /// Names of all tensors below the layer.
    pub fn names(&self) -> BTreeSet<String> {
        self.all().flat_map(TensorSpec::tensors).collect()
    }
}

impl EncoderSpec {
    /// The tensors of a layer.
    pub(super) fn layer(&self, index: usize) -> LayerTensors {
        let names = &self.names;
        let matrix = |kind, name, outputs, inputs, bias| tensor(name, kind, outputs, inputs, bias);
        let width = self.heads.heads * self.heads.head_dim;
        let attention = |name, outputs, inputs| matrix(Kind::Attention, name, outputs, inputs, self.attention_bias);
        let ways = if self.gated { 2 } else { 1 };
        let feed_forward =
            |name, outputs, inputs| matrix(Kind::FeedForward, name, outputs, inputs, self.feed_forward_bias);
        let buckets = |name, wanted: fn(&RelativeSpec) -> bool| {
            let of = self.relative.filter(|relative| !relative.shared && wanted(relative));
            of.map(|_| attention(name, width, self.hidden))
        };
        LayerTensors {
            qkv: names.qkv.iter().map(|name| attention(name, 3 / names.qkv.len() * width, self.hidden)).collect(),
            output: attention(names.output, self.hidden, width),
            attention_norm: (index > 0 || !self.first_without_norm).then(|| self.norm_of(names.attention_norm)),
            up: feed_forward(names.up, ways * self.feed_forward, self.hidden),
            down: feed_forward(names.down, self.hidden, self.feed_forward),
            feed_forward_norm: self.norm_of(names.feed_forward_norm),
            buckets: [buckets(BUCKETS_KEY, |r| r.of_queries), buckets(BUCKETS_QUERY, |r| r.of_keys)],
        }
    }

    /// The tables of embeddings: of tokens, positions, types and buckets.
    fn tables(&self) -> impl Iterator<Item = TensorSpec> {
        let table = |name, rows| tensor(name, Kind::Embedding, rows, self.hidden, false);
        let positions = self.positions.map(|positions| table(POSITIONS, positions.rows));
        let buckets = self.relative.map(|relative| table(BUCKETS, 2 * relative.shape.span));
        let others = [positions, self.types.map(|rows| table(TYPES, rows)), buckets];
        [table(self.names.embedding, self.vocabulary)].into_iter().chain(others.into_iter().flatten())
    }

    /// Counts the weights.
    pub fn parameters(&self) -> Parameters {
        let layers: Vec<_> = (0..self.layers).map(|index| self.layer(index)).collect();
        let norms = [Some(self.names.embedding_norm), self.names.norm, self.buckets_norm()];
        let others: Vec<_> = self.tables().chain(norms.into_iter().flatten().map(|name| self.norm_of(name))).collect();
        let all = layers.iter().flat_map(LayerTensors::all).chain(&others);
        Parameters::of(all.map(|tensor| (tensor, 1)))
    }

    /// The name of a tensor that is no layer's.
    pub(super) fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.names.prefix)
    }

    /// The name of a layer's tensor.
    pub(super) fn layer_name(&self, layer: usize, part: &str) -> String {
        format!("{}.{}.{layer}.{part}", self.names.prefix, self.names.layers)
    }

    fn buckets_norm(&self) -> Option<&'static str> {
        self.relative.filter(|relative| relative.normed).map(|_| BUCKETS_NORM)
    }

    fn norm_of(&self, name: &'static str) -> TensorSpec {
        tensor(name, Kind::Norm, self.hidden, 1, self.norm.vectors() == 2)
    }
}

fn tensor(name: &'static str, kind: Kind, outputs: usize, inputs: usize, bias: bool) -> TensorSpec {
    TensorSpec { name, kind, count: 1, outputs, inputs, bias, cut: Cut::Nowhere }
}
