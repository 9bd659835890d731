//! Every tensor of a decoder, stated once: its name, its shape, whether it has a bias, and how ranks share it. Loading,
//! counting, planning and the refusal of tensors that nobody reads all walk this statement.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::spec::{DecoderSpec, HeadNormNames, QkvNames, UpNames};
use crate::model::collective::shard::{HeadShard, Shard};
use crate::model::network::layers::Matrix;
use crate::model::shapes::HeadLayout;

/// A weight with its bias, if it has one.
#[derive(Debug, Clone)]
pub struct TensorSpec {
    /// Its name without `.weight` and `.bias`; a layer's stands below the layer's own name, and `*` for an expert's number.
    pub name: &'static str,
    /// What it counts as.
    pub kind: Kind,
    /// How many such there are: one, or as many as experts.
    pub count: usize,
    /// Rows of the weight; values of a bias, and of a norm.
    pub outputs: usize,
    /// Columns of the weight; 1 for a norm, which is a vector.
    pub inputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How ranks share it.
    pub cut: Cut,
}

/// What a weight counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The embedding table.
    Embedding,
    /// A matrix of attention.
    Attention,
    /// A matrix of a feed-forward layer.
    FeedForward,
    /// What chooses experts. It stays float32 whatever the type of the matrices is.
    Router,
    /// A norm.
    Norm,
    /// A small part of a layer with the gated delta rule that is no matrix. It stays float32, and its name is its tensor's own.
    Delta,
}

/// How ranks share a weight. A bias goes with its outputs: where those are not shared out, all ranks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Every rank has all of it.
    Nowhere,
    /// Outputs, as evenly as it goes.
    Outputs,
    /// The same of two matrices on top of each other.
    StackedOutputs,
    /// The same of three, of so many outputs.
    BlockOutputs([usize; 3]),
    /// Inputs, as evenly as it goes.
    Inputs,
    /// Outputs that are heads.
    HeadOutputs {
        /// Which ones.
        order: HeadRows,
        /// Whether pairs of features lie side by side.
        interleaved: bool,
    },
    /// Inputs that are query heads.
    HeadInputs,
    /// Whole ones: each expert is on one rank.
    Experts,
}

/// Which heads the rows of a matrix are, one head after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRows {
    /// Query heads.
    Query,
    /// Query heads, each with its gate behind it.
    GatedQuery,
    /// Key heads.
    Key,
    /// Value heads.
    Value,
    /// For each key head its query heads, the key head, the value head.
    ByGroup,
    /// All query heads, all key heads, all value heads.
    Stacked,
}

/// The part of a weight that a rank has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How many of those that there are.
    pub count: usize,
    /// Outputs, one range after the other.
    pub rows: Vec<Range<usize>>,
    /// How many of them other ranks have too.
    pub repeated: usize,
    /// Inputs.
    pub columns: Range<usize>,
}

impl Cut {
    /// Whether ranks share the inputs: then each has all outputs, and their products are added up.
    pub fn is_by_inputs(self) -> bool {
        matches!(self, Self::Inputs | Self::HeadInputs)
    }
}

impl TensorSpec {
    /// Values of the weights and biases.
    pub fn values(&self) -> usize {
        self.count * (self.outputs * self.inputs + if self.bias { self.outputs } else { 0 })
    }

    /// The name with an expert's number in it.
    pub(super) fn numbered(&self, expert: usize) -> String {
        self.name.replace('*', &expert.to_string())
    }

    /// Names of its tensors below the layer.
    pub fn tensors(&self) -> Vec<String> {
        if self.kind == Kind::Delta {
            return vec![self.name.to_owned()];
        }
        let parts = &["weight", "bias"][..1 + usize::from(self.bias)];
        (0..self.count).flat_map(|i| parts.iter().map(move |part| format!("{}.{part}", self.numbered(i)))).collect()
    }

    /// The part that a rank has in a model of these heads.
    pub fn held(&self, heads: HeadLayout, shard: Shard) -> Held {
        let all = || {
            let outputs = 0..self.outputs;
            Held { count: self.count, rows: vec![outputs], repeated: self.outputs, columns: 0..self.inputs }
        };
        match self.cut {
            Cut::Nowhere => all(),
            Cut::Outputs => Held { rows: vec![shard.of(self.outputs)], repeated: 0, ..all() },
            Cut::StackedOutputs => Held { rows: shard.of_blocks(&[self.outputs / 2; 2]), repeated: 0, ..all() },
            Cut::BlockOutputs(blocks) => Held { rows: shard.of_blocks(&blocks), repeated: 0, ..all() },
            Cut::Experts => Held { count: shard.of(self.count).len(), repeated: 0, ..all() },
            Cut::Inputs => Held { columns: shard.of(self.inputs), ..all() },
            Cut::HeadInputs => {
                let query = shard.heads(heads).query;
                Held { columns: query.start * heads.head_dim..query.end * heads.head_dim, ..all() }
            }
            Cut::HeadOutputs { order, interleaved } => {
                let own = shard.heads(heads);
                let repeats = shard.world > heads.kv_heads;
                let key_values = order.parts().iter().filter(|part| **part != 0).count() * own.kv.len();
                let repeated = if repeats { key_values * heads.head_dim } else { 0 };
                Held { rows: order.rows(heads, &own, interleaved), repeated, ..all() }
            }
        }
    }

    /// The matrix `name` as a rank loads it.
    pub fn matrix(&self, name: String, heads: HeadLayout, shard: Shard) -> Matrix {
        let Held { rows, columns, .. } = self.held(heads, shard);
        Matrix { name, outputs: self.outputs, inputs: self.inputs, rows, columns }
    }
}

impl HeadRows {
    /// The rows of a rank's heads: queries, keys, values. With `interleaved` pairs of features, each query and key head has
    /// the first of all pairs first, then the second of all.
    fn rows(self, all: HeadLayout, own: &HeadShard, interleaved: bool) -> Vec<Range<usize>> {
        let HeadLayout { heads, kv_heads, head_dim } = all;
        let group = all.group();
        // A gate has as many features as its head, and comes along with it.
        let head_dim = if self == Self::GatedQuery { 2 * head_dim } else { head_dim };
        // Where a query head, a key head and a value head stand, counted in heads.
        let slot: [&dyn Fn(usize) -> usize; 3] = match self {
            Self::Query | Self::GatedQuery | Self::Key | Self::Value => [&|head| head; 3],
            Self::ByGroup => {
                [&|head| head / group * (group + 2) + head % group, &|head| head * (group + 2) + group, &|head| {
                    head * (group + 2) + group + 1
                }]
            }
            Self::Stacked => [&|head| head, &|head| heads + head, &|head| heads + kv_heads + head],
        };
        let mut rows: Vec<Range<usize>> = Vec::new();
        // Rows that stand side by side are read in one go.
        let mut add = |more: Range<usize>| match rows.last_mut() {
            Some(last) if last.end == more.start => last.end = more.end,
            _ => rows.push(more),
        };
        for part in self.parts() {
            let range = if *part == 0 { own.query.clone() } else { own.kv.clone() };
            for first in range.map(|head| slot[*part](head) * head_dim) {
                if interleaved && *part != VALUE {
                    let of_pairs = |side| (first + side..first + head_dim).step_by(2);
                    of_pairs(0).chain(of_pairs(1)).for_each(|row| add(row..row + 1));
                } else {
                    add(first..first + head_dim);
                }
            }
        }
        rows
    }

    /// Which of queries (0), keys (1) and values (2) are among the rows.
    fn parts(self) -> &'static [usize] {
        match self {
            Self::Query | Self::GatedQuery => &[0],
            Self::Key => &[1],
            Self::Value => &[VALUE],
            Self::ByGroup | Self::Stacked => &[0, 1, VALUE],
        }
    }
}

/// The number of values among queries, keys and values.
const VALUE: usize = 2;

/// Which parts a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerKind {
    /// A mixture of experts in place of the feed-forward layer.
    pub experts: bool,
    /// The gated delta rule in place of attention.
    pub delta: bool,
}

/// The tensors of a layer, in the order in which they are used.
#[derive(Debug, Clone)]
pub struct LayerTensors {
    /// The norm before attention.
    pub attention_norm: Option<TensorSpec>,
    /// Queries, keys and values.
    pub qkv: Vec<TensorSpec>,
    /// Norms of queries and keys.
    pub head_norms: Option<[TensorSpec; 2]>,
    /// What a layer with the gated delta rule has beside its matrices: convolution, fading, norm.
    pub delta: Vec<TensorSpec>,
    /// The way out of attention.
    pub output: TensorSpec,
    /// A norm of what attention adds.
    pub attention_post_norm: Option<TensorSpec>,
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: Option<TensorSpec>,
    /// What chooses experts.
    pub router: Option<TensorSpec>,
    /// The gate, where there is one, and the way in.
    pub up: Vec<TensorSpec>,
    /// The way out.
    pub down: TensorSpec,
    /// A norm of what the feed-forward layer adds.
    pub feed_forward_post_norm: Option<TensorSpec>,
}

impl LayerTensors {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &TensorSpec> {
        let norms = [&self.attention_norm, &self.attention_post_norm].into_iter();
        let norms = norms.chain([&self.feed_forward_norm, &self.feed_forward_post_norm]);
        let matrices = self.qkv.iter().chain([&self.output]).chain(&self.router).chain(&self.up).chain([&self.down]);
        matrices.chain(norms.flatten()).chain(self.head_norms.iter().flatten()).chain(&self.delta)
    }

    /// Names of all tensors below the layer.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.all().flat_map(TensorSpec::tensors).collect()
    }
}

impl DecoderSpec {
    /// The embedding table.
    pub fn embedding(&self) -> TensorSpec {
        TensorSpec {
            name: self.names.embedding,
            kind: Kind::Embedding,
            count: 1,
            outputs: self.vocabulary,
            inputs: self.hidden,
            bias: false,
            cut: Cut::Outputs,
        }
    }

    /// The last norm.
    pub fn last_norm(&self) -> TensorSpec {
        self.norm_of_rows(self.names.norm)
    }

    /// Of which kind a layer is.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        LayerKind {
            experts: self.experts.as_ref().is_some_and(|experts| experts.layers[layer]),
            delta: self.delta.as_ref().is_some_and(|delta| delta.layers[layer]),
        }
    }

    /// The kinds of layer in a range, and how many there are of each.
    pub fn layer_kinds(&self, layers: Range<usize>) -> Vec<(LayerTensors, usize)> {
        let mut counts = BTreeMap::new();
        layers.for_each(|layer| *counts.entry(self.layer_kind(layer)).or_default() += 1);
        counts.into_iter().map(|(kind, count)| (self.layer(kind), count)).collect()
    }

    /// Whether a tensor of this name is part of the decoder.
    pub fn reads(&self, name: &str) -> bool {
        let is = |module: &str| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        is(self.names.embedding) || is(self.names.layers) || is(self.names.norm)
    }

    /// The tensors of a layer.
    pub(super) fn layer(&self, kind: LayerKind) -> LayerTensors {
        let HeadLayout { heads, kv_heads, head_dim } = self.heads;
        let names = &self.names;
        let matrix =
            |kind, name, outputs, inputs, bias, cut| TensorSpec { name, kind, count: 1, outputs, inputs, bias, cut };
        let query = if self.output_gate { (2 * heads, HeadRows::GatedQuery) } else { (heads, HeadRows::Query) };
        let qkv = |name, heads, order| {
            let cut = Cut::HeadOutputs { order, interleaved: self.interleaved };
            matrix(Kind::Attention, name, heads * head_dim, self.hidden, self.qkv_bias, cut)
        };
        let norm = |name| self.norm_of_rows(name);
        let head_norm = |name, outputs| TensorSpec { outputs, bias: false, ..norm(name) };
        let (features, bias) = (self.feed_forward, self.feed_forward_bias);
        let up = |name, cut| matrix(Kind::FeedForward, name, features, self.hidden, bias, cut);
        let down = |name| matrix(Kind::FeedForward, name, self.hidden, features, bias, Cut::Inputs);
        let output_inputs = heads * head_dim;
        let mut layer = LayerTensors {
            attention_norm: names.attention_norm.map(norm),
            qkv: match names.qkv {
                QkvNames::Apart([name, key, value]) => vec![
                    qkv(name, query.0, query.1),
                    qkv(key, kv_heads, HeadRows::Key),
                    qkv(value, kv_heads, HeadRows::Value),
                ],
                QkvNames::ByGroup(name) => vec![qkv(name, heads + 2 * kv_heads, HeadRows::ByGroup)],
                QkvNames::Stacked(name) => vec![qkv(name, heads + 2 * kv_heads, HeadRows::Stacked)],
            },
            head_norms: names.head_norms.map(|names| match names {
                HeadNormNames::Heads(names) => names.map(|name| head_norm(name, head_dim)),
                HeadNormNames::Projections([query, key]) => {
                    [head_norm(query, heads * head_dim), head_norm(key, kv_heads * head_dim)]
                }
            }),
            delta: Vec::new(),
            output: matrix(
                Kind::Attention,
                names.output,
                self.hidden,
                output_inputs,
                self.output_bias,
                Cut::HeadInputs,
            ),
            attention_post_norm: names.attention_post_norm.map(norm),
            feed_forward_norm: names.feed_forward_norm.map(norm),
            router: None,
            up: match names.up {
                UpNames::Plain(name) => vec![up(name, Cut::Outputs)],
                UpNames::Gated(names) => names.map(|name| up(name, Cut::Outputs)).to_vec(),
                UpNames::Stacked(name) => {
                    vec![TensorSpec { outputs: 2 * features, ..up(name, Cut::StackedOutputs) }]
                }
            },
            down: down(names.down),
            feed_forward_post_norm: names.feed_forward_post_norm.map(norm),
        };
        if let Some(delta) = self.delta.as_ref().filter(|_| kind.delta) {
            delta.state(&mut layer, self.hidden);
        }
        if let Some(of) = self.experts.as_ref().filter(|_| kind.experts) {
            let expert = |tensor| TensorSpec { count: of.count, cut: Cut::Experts, ..tensor };
            let up = |name| expert(TensorSpec { outputs: of.features, ..up(name, Cut::Experts) });
            layer.router = Some(matrix(Kind::Router, of.names.router, of.count, self.hidden, false, Cut::Nowhere));
            layer.up = of.names.up.map(up).to_vec();
            layer.down = expert(TensorSpec { inputs: of.features, ..down(of.names.down) });
        }
        layer
    }

    fn norm_of_rows(&self, name: &'static str) -> TensorSpec {
        let bias = self.norm.vectors() == 2;
        TensorSpec { name, kind: Kind::Norm, count: 1, outputs: self.hidden, inputs: 1, bias, cut: Cut::Nowhere }
    }
}
