//! `POST /classify`, which is vLLM's and SGLang's: the body's fields say whose.
//!
//! | body | whose | answer |
//! |---|---|---|
//! | `input`: text, ids, or lists of them; or `messages` | vLLM | `{"id", "object", "created", "model", "data": [{"index", "label", "probs", "num_classes"}], "usage"}` |
//! | `text` or `input_ids` | SGLang | `{"embedding", "meta_info"}`, in a list for a list |
//!
//! The reward is the last number of `probs` and `embedding`, where verl and others read it, and the only one unless `?form=object`
//! asks for the attributes before it. `use_activation` (formerly `activation`) is vLLM's: the logistic function of a single number,
//! unless it is false.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dialect::{Dialect, Scored, created, logistic, number};
use super::inputs::Inputs;
use super::openai::Usage;
use super::reply::{Refusal, Reply};
use super::request::{Item, ModelIn, Request};
use crate::reward::Rewards;

#[derive(Deserialize)]
struct Body {
    input: Option<Inputs>,
    messages: Option<Box<RawValue>>,
    text: Option<Inputs>,
    input_ids: Option<Inputs>,
    use_activation: Option<bool>,
    activation: Option<bool>,
    #[serde(flatten)]
    changes: Changes,
}

/// Fields of vLLM that would change what is scored. What is not done is refused, not passed over.
#[derive(Deserialize)]
pub(super) struct Changes {
    chat_template: Option<serde::de::IgnoredAny>,
    truncate_prompt_tokens: Option<i64>,
    dimensions: Option<u64>,
}

impl Changes {
    pub fn check(&self) -> Result<(), Refusal> {
        let no = |message: &str| Err(Refusal::bad_request("BAD_OPTION", message));
        if self.chat_template.is_some() {
            return no(
                "chat_template: the model's own template counts; leave it out, or send the text with its template",
            );
        }
        // -1 stands for the model's context, at which `over_long` says what happens.
        if self.truncate_prompt_tokens.is_some_and(|tokens| tokens >= 0) {
            return no(
                "truncate_prompt_tokens: nothing is cut per request; run the sidecar with over_long = \"truncate-left\"",
            );
        }
        if self.dimensions.is_some() {
            return no("dimensions: a reward has one; leave it out");
        }
        Ok(())
    }
}

/// See the module.
pub(super) enum Classify {
    Vllm { as_object: bool, activation: bool },
    SgLang { as_object: bool, one: bool },
}

impl Dialect for Classify {
    /// verl's client waits without limit.
    const HOLD: Option<Duration> = None;
    const MODEL_IN: ModelIn = ModelIn::Body;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let body: Body = request.parse()?;
        body.changes.check()?;
        let as_object = request.options.as_object;
        let vllm = || {
            let activation = body.use_activation.or(body.activation).unwrap_or(true) && !as_object;
            Self::Vllm { as_object, activation }
        };
        match (body.input, body.messages, body.text, body.input_ids) {
            (Some(input), None, None, None) => Ok((vllm(), input.items(request))),
            (None, Some(messages), None, None) => Ok((vllm(), vec![request.row(&[("messages", &messages)])])),
            (None, None, Some(inputs), None) | (None, None, None, Some(inputs)) => {
                Ok((Self::SgLang { as_object, one: inputs.is_one() }, inputs.items(request)))
            }
            _ => Err(Refusal::malformed("the body: give one of input, messages (vLLM), text, input_ids (SGLang)")),
        }
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let all = scored.all()?;
        Ok(match self {
            Self::Vllm { as_object, activation } => vllm(scored, &all, as_object, activation),
            Self::SgLang { as_object, one } => sglang(scored, &all, as_object, one),
        })
    }
}

/// The numbers of one input: the reward, behind the attributes where those are asked for.
pub(super) fn numbers(rewards: &Rewards, as_object: bool) -> Vec<f32> {
    let attributes = if as_object { rewards.attributes.as_slice() } else { &[] };
    [attributes, &[rewards.reward]].concat()
}

#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Class>,
    usage: Usage,
}

#[derive(Serialize)]
struct Class {
    index: usize,
    label: &'static str,
    probs: Vec<f32>,
    num_classes: usize,
}

fn vllm(scored: &Scored, all: &[&Rewards], as_object: bool, activation: bool) -> Reply {
    let class = |(index, rewards): (usize, &&Rewards)| {
        let mut probs = numbers(rewards, as_object);
        if activation {
            probs.iter_mut().for_each(|value| *value = logistic(*value));
        }
        Class { index, label: "reward", num_classes: probs.len(), probs }
    };
    let data = all.iter().enumerate().map(class).collect();
    let (id, usage) = (format!("classify-{}", number()), Usage::of(scored));
    Reply::json(&Answer { id, object: "list", created: created(), model: &scored.card.name, data, usage })
}

#[derive(Serialize)]
struct Embedding<'a> {
    embedding: Vec<f32>,
    meta_info: About<'a>,
}

#[derive(Serialize)]
struct About<'a> {
    id: String,
    prompt_tokens: u32,
    weight_version: &'a str,
}

fn sglang(scored: &Scored, all: &[&Rewards], as_object: bool, one: bool) -> Reply {
    let embedding = |rewards: &&Rewards| {
        let (id, weight_version) = (number().to_string(), &*scored.card.model_version);
        let meta_info = About { id, prompt_tokens: rewards.tokens, weight_version };
        Embedding { embedding: numbers(rewards, as_object), meta_info }
    };
    let embeddings: Vec<_> = all.iter().map(embedding).collect();
    match (one, embeddings.first()) {
        (true, Some(embedding)) => Reply::json(embedding),
        _ => Reply::json(&embeddings),
    }
}
