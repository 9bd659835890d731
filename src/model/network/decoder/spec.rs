//! What an architecture says of its decoder: sizes, variants, names of tensors. What follows from that alone, without any
//! weight, is here too: how many weights there are, and by how many ranks they can be shared.

use crate::model::collective::shard::degrees;
use crate::model::error::ModelError;
use crate::model::network::layers::{NormKind, Rotary, Routing};
use crate::model::shapes::{Activation, DeltaLayout, HeadLayout};

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
    /// Frequencies, all kinds of them.
    pub ropes: Vec<Rotary>,
    /// For each layer, which of them turn its heads; `None` where positions are not told.
    pub layer_ropes: Vec<Option<usize>>,
    /// Whether a pair of features lies side by side, not in the two halves of a head. The rows of queries and keys are put
    /// in the order of halves while they are loaded.
    pub interleaved: bool,
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
    /// Whether the feed-forward layer reads the norm that attention reads, and both are added at once.
    pub parallel: bool,
    /// Factor of what attention and the feed-forward layer add.
    pub residual_scale: Option<f32>,
    /// Whether each query head has a gate beside it, whose sigmoid is a factor of what attention gives the head.
    pub output_gate: bool,
    /// Layers with the gated delta rule in place of attention, where there are any.
    pub delta: Option<Box<DeltaSpec>>,
    /// The mixture of experts, where there is one.
    pub experts: Option<ExpertsSpec>,
    /// Names of the tensors.
    pub names: Names,
}

/// The gated delta rule in place of attention.
#[derive(Debug, Clone)]
pub struct DeltaSpec {
    /// All heads.
    pub layout: DeltaLayout,
    /// For each layer, whether it has the rule.
    pub layers: Vec<bool>,
    /// Names of their tensors.
    pub names: &'static DeltaNames,
}

/// Names of the tensors of a layer with the gated delta rule.
#[derive(Debug, Clone, Copy)]
pub struct DeltaNames {
    /// Queries, keys and values in one matrix, what gates the values, how much of a token is taken, and how long it lasts.
    pub projections: [&'static str; 4],
    /// The convolution, by its tensor's own name.
    pub convolution: &'static str,
    /// What is added to how long a token lasts, by its tensor's own name.
    pub rate_bias: &'static str,
    /// The logarithm of what states fade by, by its tensor's own name.
    pub rate: &'static str,
    /// The norm of each value head.
    pub norm: &'static str,
    /// The way out.
    pub output: &'static str,
}

/// A mixture of experts in place of the feed-forward layer.
#[derive(Debug, Clone)]
pub struct ExpertsSpec {
    /// How many experts there are.
    pub count: usize,
    /// How a token's experts are chosen.
    pub routing: Routing,
    /// Features inside each of them.
    pub features: usize,
    /// For each layer, whether it has experts.
    pub layers: Vec<bool>,
    /// Names of their tensors.
    pub names: ExpertNames,
}

/// Names of a mixture's tensors; `*` stands for an expert's number.
#[derive(Debug, Clone, Copy)]
pub struct ExpertNames {
    /// The router.
    pub router: &'static str,
    /// The gate of an expert, and the way in.
    pub up: [&'static str; 2],
    /// The way out.
    pub down: &'static str,
}

/// Names of tensors, without `.weight` and `.bias`. Those of a layer stand under `layers` and the layer's number.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The embedding table.
    pub embedding: &'static str,
    /// What all layers' names begin with.
    pub layers: &'static str,
    /// The norm before attention.
    pub attention_norm: Option<&'static str>,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// Norms of queries and keys.
    pub head_norms: Option<HeadNormNames>,
    /// The way out of attention.
    pub output: &'static str,
    /// A norm of what attention adds.
    pub attention_post_norm: Option<&'static str>,
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: Option<&'static str>,
    /// The way into the feed-forward layer, and the gate.
    pub up: UpNames,
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
    /// As one: all queries, all keys, all values.
    Stacked(&'static str),
}

/// Norms of queries and of keys.
#[derive(Debug, Clone, Copy)]
pub enum HeadNormNames {
    /// Head by head.
    Heads([&'static str; 2]),
    /// All heads of a token at once.
    Projections([&'static str; 2]),
}

/// How the way into the feed-forward layer is stored.
#[derive(Debug, Clone, Copy)]
pub enum UpNames {
    /// Without a gate.
    Plain(&'static str),
    /// A gate, and the way in.
    Gated([&'static str; 2]),
    /// Both in one matrix, the gate first.
    Stacked(&'static str),
}

impl UpNames {
    /// Whether there is a gate.
    pub fn gated(self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Matrices that lead in, stacked or not.
    pub fn ways(self) -> usize {
        1 + usize::from(self.gated())
    }
}

impl Names {
    /// The names that most models in transformers have.
    pub const COMMON: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        attention_norm: Some("input_layernorm"),
        qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        head_norms: None,
        output: "self_attn.o_proj",
        attention_post_norm: None,
        feed_forward_norm: Some("post_attention_layernorm"),
        up: UpNames::Gated(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
        feed_forward_post_norm: None,
        norm: "model.norm",
    };
}

impl DecoderSpec {
    /// Numbers of ranks that the model can be shared by.
    pub fn degrees(&self) -> Vec<usize> {
        // Experts are not cut, so each rank has one at least.
        let experts = self.experts.as_ref().map_or(usize::MAX, |experts| experts.count);
        let mut degrees = degrees(self.heads, self.feed_forward.min(self.vocabulary).min(experts));
        if let Some(delta) = &self.delta {
            degrees.retain(|world| delta.layout.key_heads.is_multiple_of(*world));
        }
        degrees
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
}
