//! What is to be known of a loaded model, for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fastest::Choice;
use super::source::preset::{CardCheck, PresetReport};
use crate::engine::{Bos, ReadPolicy};
use crate::model::network::decoder::Parameters;
use crate::model::network::head::HeadSpec;
use crate::model::network::spec::Sizes;
use crate::rollout::AnswerOnly;

/// What is to be known of a loaded model.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// Identifies weights, precision and template.
    pub model_version: String,
    /// Architecture as the configuration calls it.
    pub architecture: String,
    /// The preset that it is used with.
    pub preset: Option<PresetReport>,
    /// Scores that the model's card prints.
    pub card_checks: Vec<CardCheck>,
    /// Sizes of the backbone.
    pub shape: Shape,
    /// Kind and options of the head.
    pub head: HeadSpec,
    /// Names of the outputs, in order.
    pub attributes: Vec<String>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// Where the head reads.
    pub reads: ReadPolicy,
    /// Whether chats and text are to begin with a beginning-of-sequence token.
    pub bos: Bos,
    /// Whether a completion's thinking is taken out where the rollout does not say.
    pub answer_only: Option<AnswerOnly>,
    /// Whether text is taken, or token ids only.
    pub tokenizer: bool,
    /// Whether conversations are taken.
    pub chat_template: bool,
    /// Type of the arithmetic.
    pub precision: &'static str,
    /// How the type was chosen, where `fast` was asked for.
    pub precision_choice: Option<Choice>,
    /// The format by which the weights are quantised in the files, as the configuration names it; `None` if they are not.
    pub quantisation: Option<String>,
    /// Number of the arithmetic, which is part of the version.
    pub arithmetic_revision: u32,
    /// Weights of the backbone, by where they stand.
    pub parameters: Parameters,
    /// Weights of the head.
    pub head_parameters: usize,
    /// Bytes of the weights in memory, for each rank; the head is on the first.
    pub bytes_per_rank: Vec<usize>,
    /// Bytes of weights that each rank took out of the files, without the head.
    pub bytes_read_per_rank: Vec<u64>,
    /// Bytes that a prefix cache takes for each token that it keeps, all ranks together.
    pub prefix_cache_bytes_per_token: usize,
    /// Numbers of ranks that the model can be shared by.
    pub degrees: Vec<usize>,
    /// Threads of the forward pass, all ranks together.
    pub threads: usize,
    /// Fields of the configuration that were not looked at.
    pub unread_settings: Vec<String>,
    /// Fields of the configuration that the user has said to leave out.
    pub ignored_settings: Vec<String>,
    /// Files that the model was read from.
    pub files: Vec<PathBuf>,
}

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Transformer layers.
    pub layers: usize,
    /// Features of the hidden state.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Features inside the feed-forward layers.
    pub feed_forward: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Longest rollout in tokens.
    pub context: usize,
}

impl From<Sizes> for Shape {
    fn from(Sizes { layers, hidden, heads, feed_forward, vocabulary, context }: Sizes) -> Self {
        Self {
            layers,
            hidden,
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            feed_forward,
            vocabulary,
            context,
        }
    }
}
