//! The rollout: what a caller claims ([`Rollout`]) and what intake has proved ([`ValidRollout`]).
//!
//! Nothing here knows a wire format, a tokenizer or a model.

mod borrowed;
mod fields;

pub use borrowed::{BadId, Ids, InputRef, RolloutRef, Rollouts};
pub use fields::{Distinct, Object};

pub use crate::answer_only::{AnswerOnly, AnswerOnlyField};

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Deserializer;

use fields::{distinct, named, object, objects, optional_object};

use crate::batch::{At, Sequence};
use crate::engine::Reduce;
use crate::reward::{ReadEnd, Thinking};

fn clip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Clip, D::Error> {
    named("clip", object(deserializer))
}

fn length_penalty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LengthPenalty>, D::Error> {
    named("length_penalty", optional_object(deserializer))
}

fn soft_length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SoftLength>, D::Error> {
    named("soft_length", optional_object(deserializer))
}

/// One prompt and one completion to be scored, as the caller claims it. Nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollout {
    /// The caller's name for it; comes back with the answer.
    pub id: String,
    /// The name of the model that is to score it, of several on one server; empty means the server's first.
    pub model: String,
    /// What is to be scored; `None` when the caller sent no input form.
    pub input: Option<Input>,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
    /// Rollouts of one group share a prompt; empty means no group. Never changes a reward.
    pub group: String,
    /// Higher goes first.
    pub priority: i32,
    /// Milliseconds from receipt after which the rollout is rejected rather than scored.
    pub deadline_ms: Option<u64>,
    /// How the attributes become one reward.
    pub aggregation: Arc<AggregationSpec>,
    /// Whether it is rejected where its completion has no token.
    pub require_completion: bool,
    /// Whether the completion's thinking is taken out before it is scored, and how it is known; `None`: as the model's default has it.
    pub answer_only: Option<AnswerOnly>,
    /// The model version that is to score it, and no other; empty means any.
    pub model_version: String,
    /// W3C `traceparent` of the caller's span; empty means none.
    pub traceparent: String,
    /// W3C `tracestate` of the call that brought the rollout; empty means none. A transport takes it from its own headers: the
    /// rollout's messages have no field for it.
    pub tracestate: String,
}

/// The four forms in which a rollout may come.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Messages and the completion that answers them; the model's chat template is applied. [`Input::chat`] makes one.
    Chat {
        /// The conversation up to the completion.
        messages: Vec<Message>,
        /// What the policy wrote; empty where the extras have it as messages.
        completion: String,
        /// What the conversation has beyond that.
        extras: Option<Box<Extras>>,
    },
    /// Text that already carries the template.
    Text(String),
    /// The whole conversation as token ids.
    TokenIds(Vec<u32>),
    /// Prompt and completion as token ids, scored as their concatenation.
    PromptCompletionIds {
        /// The prompt's ids.
        prompt: Vec<u32>,
        /// The completion's ids.
        completion: Vec<u32>,
    },
}

impl Input {
    /// A conversation of plain messages, and the text that answers them.
    pub fn chat(messages: impl Into<Vec<Message>>, completion: impl Into<String>) -> Self {
        Self::Chat { messages: messages.into(), completion: completion.into(), extras: None }
    }
}

/// What a conversation may have beyond plain messages and a text that answers them. JSON is text here, as the caller wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// The completion as messages, in place of a text: an assistant's, or several of which the last is an assistant's.
    pub completion: Vec<Message>,
    /// Tools that the policy could call: a list, as the template is to see it.
    pub tools: Option<Arc<str>>,
    /// Documents that the policy could read: a list of objects.
    pub documents: Option<Arc<str>>,
    /// Further variables of the template by their names, such as `enable_thinking`: an object.
    pub template_variables: Option<Arc<str>>,
    /// An answer that the completion is compared with: a text, or a list of messages.
    pub reference: Option<Arc<str>>,
    /// Which of the model's chat templates is applied; empty: the one for tools where tools are given and the model has
    /// one (`tool_use`), and else the default one.
    pub template: Arc<str>,
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Whether this turn is scored too, as if it were the completion of what comes before it. For an assistant's
    /// messages only. Chat templates do not see it.
    pub score: bool,
    /// The whole message as a JSON object, where role and content as texts do not say it; they are empty then. A `score` in
    /// it means [`Self::score`].
    pub json: Option<String>,
}

impl Message {
    /// A message that is not scored for itself.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// A message as a JSON object, in which `role` must be a text. It is checked when it is scored.
    pub fn json(json: impl Into<String>) -> Self {
        Self { json: Some(json.into()), ..Self::default() }
    }
}

/// The role of those whose turns are scored, and of a completion.
pub const ASSISTANT: &str = "assistant";

/// Why a completion ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// Unknown; counts as finished.
    #[default]
    Unspecified,
    /// The policy ended it.
    Stop,
    /// It was cut at a length limit.
    Length,
}

/// How a request wants its attributes aggregated; see [`crate::aggregate`]. Formula and defaults stand in
/// `proto/reward/v1/reward.proto` at `Aggregation`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AggregationSpec {
    /// Name of the aggregation; empty means `weighted_sum`.
    pub name: String,
    /// A weighting that the model names.
    pub weighting: Option<String>,
    /// Weights by attribute; empty means none were given.
    #[serde(deserialize_with = "distinct")]
    pub weights: BTreeMap<String, f64>,
    /// Transforms by attribute.
    #[serde(deserialize_with = "objects")]
    pub transforms: BTreeMap<String, Transform>,
    /// Bounds of the final reward.
    #[serde(deserialize_with = "clip")]
    pub clip: Clip,
    /// Added to the weighted sum.
    pub offset: Option<f64>,
    /// Taken off when the completion did not finish.
    pub unfinished_penalty: Option<f64>,
    /// Taken off per completion token over a target.
    #[serde(deserialize_with = "length_penalty")]
    pub length_penalty: Option<LengthPenalty>,
    /// The reward, in place of what the attributes give, when the completion did not finish.
    pub unfinished_value: Option<f64>,
    /// Taken off the more, the nearer the completion is to a limit.
    #[serde(deserialize_with = "soft_length")]
    pub soft_length: Option<SoftLength>,
}

impl AggregationSpec {
    /// Whether it depends on the completion's length, which not all input forms tell.
    pub fn needs_length(&self) -> bool {
        self.length_penalty.is_some() || self.soft_length.is_some()
    }
}

/// `clip((attribute - mean) / std * scale + shift)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transform {
    /// Default 0.
    pub mean: Option<f64>,
    /// Default 1; above 0.
    pub std: Option<f64>,
    /// Default 1.
    pub scale: Option<f64>,
    /// Default 0.
    pub shift: Option<f64>,
    /// Default open on both sides.
    #[serde(deserialize_with = "object")]
    pub clip: Clip,
}

/// An interval; an unset side is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clip {
    /// Lowest value let through.
    pub min: Option<f64>,
    /// Highest value let through.
    pub max: Option<f64>,
}

/// A penalty on completions longer than a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthPenalty {
    /// Taken off per token over the target; at least 0.
    pub per_token: f64,
    /// Completion tokens that cost nothing.
    pub target_tokens: u32,
}

/// A penalty that grows linearly up to a limit: DAPO's soft overlong punishment (arXiv:2503.14476, equation 13).
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftLength {
    /// Completion tokens from which on all of it is taken off.
    pub limit_tokens: u32,
    /// Over so many tokens below the limit it grows; from 1 to `limit_tokens`.
    pub cache_tokens: u32,
    /// Taken off at the limit and beyond it; at least 0. Default 1, as the paper has it.
    #[serde(default)]
    pub most: Option<f64>,
}

/// A rollout that intake has proved: non-empty, within the context, every id within the vocabulary, read where the
/// model's card says.
#[derive(Debug)]
pub struct ValidRollout {
    /// The tokens to be scored, to the end of the completion and what the template puts behind it. Shared with whoever plans or
    /// observes, so that nobody copies them.
    pub tokens: Arc<[u32]>,
    /// Where they are read.
    pub reads: Reads,
    /// Tokens that belong to the completion, where the input form tells.
    pub completion_tokens: Option<u32>,
    /// Whether the prompt was cut to fit.
    pub truncated: bool,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
    /// Empty means no group.
    pub group: String,
    /// Higher goes first.
    pub priority: i32,
    /// What the answer says of the caller's own input.
    pub report: Report,
}

/// What an answer says of its rollout in terms of what the caller sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Where each step ends; empty where there are no steps.
    pub ends: Vec<Option<ReadEnd>>,
    /// What was taken out of the completion, where its answer alone was to be scored.
    pub thinking: Option<Thinking>,
}

/// Where the head reads one rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// At its last token: one read, which is the rollout's.
    Last,
    /// At the end of each of its steps; the rollout's attributes are made of theirs.
    Steps {
        /// Positions in the rollout's tokens, ascending, at least one.
        ends: Arc<[u32]>,
        /// How.
        reduce: Reduce,
    },
    /// At the last token of earlier turns, then at the rollout's own, which gives its attributes.
    Turns(Arc<[Turn]>),
}

/// An earlier turn that is scored: as if it were the completion of a rollout of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The conversation up to it, as the template ends one.
    pub tokens: Vec<u32>,
    /// Tokens of the turn's own content, where somebody asked for them.
    pub completion_tokens: Option<u32>,
}

impl ValidRollout {
    /// What is packed for this rollout, as number `rollout`, in the order of its reads.
    pub fn sequences(&self, rollout: u32) -> impl Iterator<Item = Sequence<'_>> {
        let (turns, at): (&[Turn], _) = match &self.reads {
            Reads::Last => (&[], At::Last),
            Reads::Steps { ends, .. } => (&[], At::Positions(ends)),
            Reads::Turns(turns) => (turns, At::Last),
        };
        let turns = turns.iter().map(move |turn| Sequence { tokens: &turn.tokens, at: At::Last, rollout });
        turns.chain([Sequence { tokens: &self.tokens, at, rollout }])
    }

    /// Number of reads; at least one.
    pub fn read_count(&self) -> usize {
        match &self.reads {
            Reads::Last => 1,
            Reads::Steps { ends, .. } => ends.len(),
            Reads::Turns(turns) => turns.len() + 1,
        }
    }

    /// For each read, the number of tokens up to and including the one that is read.
    pub fn read_lengths(&self) -> Vec<u32> {
        let own = self.tokens.len() as u32;
        match &self.reads {
            Reads::Last => vec![own],
            Reads::Steps { ends, .. } => ends.iter().map(|end| end + 1).collect(),
            Reads::Turns(turns) => turns.iter().map(|turn| turn.tokens.len() as u32).chain([own]).collect(),
        }
    }

    /// Tokens of all that is packed for this rollout, each sequence for itself.
    pub fn total_tokens(&self) -> usize {
        self.sequences(0).map(|sequence| sequence.tokens.len()).sum()
    }
}
