//! The rollout: what a caller claims ([`Rollout`]) and what intake has proved ([`ValidRollout`]).
//!
//! Nothing here knows a wire format, a tokenizer or a model.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Deserializes what must be written as an object: serde would take a struct's fields from a list as well.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error> {
    let objects = BTreeMap::<String, Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|(name, Object(value))| (name, value)).collect())
}

/// One prompt and one completion to be scored, as the caller claims it. Nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollout {
    /// The caller's name for it; comes back with the answer.
    pub id: String,
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
    pub aggregation: AggregationSpec,
    /// W3C `traceparent` of the caller's span; empty means none.
    pub traceparent: String,
}

/// The four forms in which a rollout may come.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Messages and the completion that answers them; the model's chat template is applied.
    Chat {
        /// The conversation up to the completion.
        messages: Vec<Message>,
        /// What the policy wrote.
        completion: String,
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

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said.
    pub content: String,
}

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
    pub weights: BTreeMap<String, f64>,
    /// Transforms by attribute.
    #[serde(deserialize_with = "objects")]
    pub transforms: BTreeMap<String, Transform>,
    /// Bounds of the final reward.
    #[serde(deserialize_with = "object")]
    pub clip: Clip,
    /// Added to the weighted sum.
    pub offset: Option<f64>,
    /// Taken off when the completion did not finish.
    pub unfinished_penalty: Option<f64>,
    /// Taken off per completion token over a target.
    #[serde(deserialize_with = "optional_object")]
    pub length_penalty: Option<LengthPenalty>,
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

/// A rollout that intake has proved: non-empty, within the context, every id within the vocabulary.
#[derive(Debug, Clone)]
pub struct ValidRollout {
    /// The tokens to be scored; the read is the last one. Shared, so that queue and batch need no copy.
    pub tokens: Arc<[u32]>,
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
}
