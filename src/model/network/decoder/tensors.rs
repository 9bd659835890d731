//! Every tensor of a decoder, stated once: its name, its shape, whether it has a bias, and how ranks share it. Loading,
//! counting, planning and the refusal of tensors that nobody reads all walk this statement.

use std::ops::Range;

use super::spec::{DecoderSpec, QkvNames};
use crate::model::collective::shard::{HeadShard, Shard};
use crate::model::network::layers::Matrix;
use crate::model::shapes::HeadLayout;

/// A weight with its bias, if it has one.
#[derive(Debug, Clone)]
pub struct TensorSpec {
    /// Its name without `.weight` and `.bias`; a layer's stands below the layer's own name.
    pub name: &'static str,
    /// What it counts as.
    pub kind: Kind,
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
    /// A norm.
    Norm,
}

/// How ranks share a weight. A bias goes with its outputs: where those are not shared out, all ranks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Every rank has all of it.
    Nowhere,
    /// Outputs, as evenly as it goes.
    Outputs,
    /// Inputs, as evenly as it goes.
    Inputs,
    /// Outputs that are heads.
    HeadOutputs(HeadRows),
    /// Inputs that are query heads.
    HeadInputs,
}

/// Which heads the rows of a matrix are, one head after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRows {
    /// Query heads.
    Query,
    /// Key heads, or value heads.
    KeyValue,
    /// For each key head its query heads, the key head, the value head.
    ByGroup,
}

/// The part of a weight that a rank has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
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
    /// Values of the weight and its bias.
    pub fn values(&self) -> usize {
        self.outputs * self.inputs + if self.bias { self.outputs } else { 0 }
    }

    /// Names of its tensors below the layer.
    fn tensors(&self) -> impl Iterator<Item = String> {
        ["weight", "bias"].into_iter().take(1 + usize::from(self.bias)).map(|part| format!("{}.{part}", self.name))
    }

    /// The part that a rank has in a model of these heads.
    pub fn held(&self, heads: HeadLayout, shard: Shard) -> Held {
        let all = || Held { rows: vec![0..self.outputs], repeated: self.outputs, columns: 0..self.inputs };
        match self.cut {
            Cut::Nowhere => all(),
            Cut::Outputs => Held { rows: vec![shard.of(self.outputs)], repeated: 0, ..all() },
            Cut::Inputs => Held { columns: shard.of(self.inputs), ..all() },
            Cut::HeadInputs => {
                let query = shard.heads(heads).query;
                Held { columns: query.start * heads.head_dim..query.end * heads.head_dim, ..all() }
            }
            Cut::HeadOutputs(order) => {
                let own = shard.heads(heads);
                let repeats = shard.world > heads.kv_heads;
                let kept = if repeats { order.key_value_heads(&own) } else { 0 };
                Held { rows: order.rows(heads, &own), repeated: kept * heads.head_dim, ..all() }
            }
        }
    }

    /// The matrix `name` as a rank loads it.
    pub(super) fn matrix(&self, name: String, heads: HeadLayout, shard: Shard) -> Matrix {
        let Held { rows, columns, .. } = self.held(heads, shard);
        Matrix { name, outputs: self.outputs, inputs: self.inputs, rows, columns }
    }
}

impl HeadRows {
    /// The rows of a rank's heads: queries, keys, values.
    fn rows(self, all: HeadLayout, own: &HeadShard) -> Vec<Range<usize>> {
        let HeadShard { query, kv, .. } = own;
        let group = all.group();
        // Where each head stands, counted in heads.
        let slots: Vec<usize> = match self {
            Self::Query => query.clone().collect(),
            Self::KeyValue => kv.clone().collect(),
            Self::ByGroup => {
                let queries = query.clone().map(|head| head / group * (group + 2) + head % group);
                let keys = kv.clone().map(|head| head * (group + 2) + group);
                let values = kv.clone().map(|head| head * (group + 2) + group + 1);
                queries.chain(keys).chain(values).collect()
            }
        };
        // Heads that stand side by side are read in one go.
        let mut rows: Vec<Range<usize>> = Vec::new();
        for slot in slots {
            let head = slot * all.head_dim..(slot + 1) * all.head_dim;
            match rows.last_mut() {
                Some(last) if last.end == head.start => last.end = head.end,
                _ => rows.push(head),
            }
        }
        rows
    }

    /// How many key heads and value heads of a rank are among the rows.
    fn key_value_heads(self, own: &HeadShard) -> usize {
        match self {
            Self::Query => 0,
            Self::KeyValue => own.kv.len(),
            Self::ByGroup => 2 * own.kv.len(),
        }
    }
}

/// The tensors of a layer, in the order in which they are used.
#[derive(Debug, Clone)]
pub struct LayerTensors {
    /// The norm before attention.
    pub attention_norm: TensorSpec,
    /// Queries, keys and values.
    pub qkv: Vec<TensorSpec>,
    /// Norms of each query and key head.
    pub head_norms: Option<[TensorSpec; 2]>,
    /// The way out of attention.
    pub output: TensorSpec,
    /// A norm of what attention adds.
    pub attention_post_norm: Option<TensorSpec>,
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: TensorSpec,
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
        let norms = [Some(&self.attention_norm), self.attention_post_norm.as_ref()];
        let more_norms = [Some(&self.feed_forward_norm), self.feed_forward_post_norm.as_ref()];
        let matrices = self.qkv.iter().chain([&self.output]).chain(&self.up).chain([&self.down]);
        matrices.chain(norms.into_iter().chain(more_norms).flatten()).chain(self.head_norms.iter().flatten())
    }

    /// Names of all tensors below the layer.
    pub(super) fn names(&self) -> Vec<String> {
        self.all().flat_map(TensorSpec::tensors).collect()
    }
}

impl DecoderSpec {
    /// The embedding table.
    pub fn embedding(&self) -> TensorSpec {
        TensorSpec {
            name: self.names.embedding,
            kind: Kind::Embedding,
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

    /// Whether a tensor of this name is part of the decoder.
    pub fn reads(&self, name: &str) -> bool {
        let is = |module: &str| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        is(self.names.embedding) || is(self.names.layers) || is(self.names.norm)
    }

    /// The tensors of a layer; all layers have the same.
    pub fn layer(&self) -> LayerTensors {
        let HeadLayout { heads, kv_heads, head_dim } = self.heads;
        let names = &self.names;
        let attention =
            |name, outputs, inputs, bias, cut| TensorSpec { name, kind: Kind::Attention, outputs, inputs, bias, cut };
        let qkv =
            |name, heads, order| attention(name, heads * head_dim, self.hidden, self.qkv_bias, Cut::HeadOutputs(order));
        let norm = |name| self.norm_of_rows(name);
        let head_norm = |name| TensorSpec { name, outputs: head_dim, bias: false, ..norm(name) };
        let up = |name| TensorSpec {
            name,
            kind: Kind::FeedForward,
            outputs: self.feed_forward,
            inputs: self.hidden,
            bias: self.feed_forward_bias,
            cut: Cut::Outputs,
        };
        LayerTensors {
            attention_norm: norm(names.attention_norm),
            qkv: match names.qkv {
                QkvNames::Apart([query, key, value]) => vec![
                    qkv(query, heads, HeadRows::Query),
                    qkv(key, kv_heads, HeadRows::KeyValue),
                    qkv(value, kv_heads, HeadRows::KeyValue),
                ],
                QkvNames::ByGroup(name) => vec![qkv(name, heads + 2 * kv_heads, HeadRows::ByGroup)],
            },
            head_norms: names.head_norms.map(|names| names.map(head_norm)),
            output: attention(names.output, self.hidden, heads * head_dim, self.output_bias, Cut::HeadInputs),
            attention_post_norm: names.attention_post_norm.map(norm),
            feed_forward_norm: norm(names.feed_forward_norm),
            up: names.gate.into_iter().chain([names.up]).map(up).collect(),
            down: TensorSpec { outputs: self.hidden, inputs: self.feed_forward, cut: Cut::Inputs, ..up(names.down) },
            feed_forward_post_norm: names.feed_forward_post_norm.map(norm),
        }
    }

    fn norm_of_rows(&self, name: &'static str) -> TensorSpec {
        let bias = self.norm.vectors() == 2;
        TensorSpec { name, kind: Kind::Norm, outputs: self.hidden, inputs: 1, bias, cut: Cut::Nowhere }
    }
}
