//! What an architecture says of its decoder: sizes, variants, names of tensors. What follows from that alone, without any
//! weight, is here too: how many weights there are, and by how many ranks they can be shared.

use super::tensors::Kind;
use crate::model::checkpoint::WeightSource;
use crate::model::collective::shard::degrees;
use crate::model::error::ModelError;
use crate::model::network::layers::{NormKind, Rotary};
use crate::model::shapes::{Activation, HeadLayout};

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
        let mut count = Parameters { embedding: 0, attention: 0, feed_forward: 0, norms: 0 };
        let layer = self.layer();
        let layers = layer.all().map(|tensor| (tensor, self.layers));
        for (tensor, times) in layers.chain([(&self.embedding(), 1), (&self.last_norm(), 1)]) {
            let part = match tensor.kind {
                Kind::Embedding => &mut count.embedding,
                Kind::Attention => &mut count.attention,
                Kind::FeedForward => &mut count.feed_forward,
                Kind::Norm => &mut count.norms,
            };
            *part += times * tensor.values();
        }
        count
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

    pub(super) fn layer_name(&self, layer: usize, part: &str) -> String {
        format!("{}.{layer}.{part}", self.names.layers)
    }

    /// Refuses a tensor in a layer that would be read by nobody, such as a bias that the configuration does not mention.
    pub(super) fn refuse_ignored(&self, weights: &dyn WeightSource) -> std::result::Result<(), ModelError> {
        let mut known = self.layer().names();
        // Old checkpoints carry the frequencies, which the configuration determines.
        known.extend(["self_attn", "attention"].map(|attention| format!("{attention}.rotary_emb.inv_freq")));
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
}
