//! vLLM's `POST /pooling`, and `POST /v1/embeddings`, by which SGLang serves reward models: vectors whose last number is the reward.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::classify::{Changes, numbers};
use super::dialect::{Dialect, Scored, created, logistic, number};
use super::inputs::Inputs;
use super::openai::{Encoding, Usage, Vector};
use super::reply::{Refusal, Reply};
use super::request::{Item, ModelIn, Request};

#[derive(Deserialize)]
struct Body {
    input: Option<Inputs>,
    messages: Option<Box<RawValue>>,
    task: Option<String>,
    #[serde(default)]
    encoding_format: Encoding,
    use_activation: Option<bool>,
    activation: Option<bool>,
    #[serde(flatten)]
    changes: Changes,
}

/// What both routes ask for.
struct Asked {
    encoding: Encoding,
    as_object: bool,
    activation: bool,
}

/// The tasks of vLLM that mean one vector for each input.
const TASKS: [&str; 3] = ["classify", "score", "embed"];

fn parse(request: &Request) -> Result<(Asked, Vec<Item>), Refusal> {
    let body: Body = request.parse()?;
    body.changes.check()?;
    if let Some(task) = body.task.filter(|task| !TASKS.contains(&task.as_str())) {
        let message =
            format!("task: '{task}' is not served; a reward is asked for by {}, or without a task", TASKS.join(", "));
        return Err(Refusal::bad_request("BAD_OPTION", message));
    }
    let items = match (body.input, body.messages) {
        (Some(input), None) => input.items(request),
        (None, Some(messages)) => vec![request.row(&[("messages", &messages)])],
        _ => return Err(Refusal::malformed("the body: give input or messages")),
    };
    let activation = body.use_activation.or(body.activation).unwrap_or(false);
    Ok((Asked { encoding: body.encoding_format, as_object: request.options.as_object, activation }, items))
}

impl Asked {
    fn vectors(&self, scored: &Scored) -> Result<Vec<Vector>, Refusal> {
        let activated = |value: f32| if self.activation { logistic(value) } else { value };
        let vector = |rewards: &crate::reward::Rewards| {
            self.encoding.vector(numbers(rewards, self.as_object).into_iter().map(activated).collect())
        };
        Ok(scored.all()?.into_iter().map(vector).collect())
    }
}

/// `/pooling`.
pub(super) struct Pooling(Asked);

#[derive(Serialize)]
struct Pooled<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<PooledData>,
    usage: Usage,
}

#[derive(Serialize)]
struct PooledData {
    index: usize,
    object: &'static str,
    data: Vector,
}

impl Dialect for Pooling {
    const HOLD: Option<Duration> = None;
    const MODEL_IN: ModelIn = ModelIn::Body;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        parse(request).map(|(asked, items)| (Self(asked), items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let data = self.0.vectors(scored)?.into_iter().enumerate();
        let data = data.map(|(index, data)| PooledData { index, object: "pooling", data }).collect();
        let (id, usage) = (format!("pool-{}", number()), Usage::of(scored));
        Ok(Reply::json(&Pooled { id, object: "list", created: created(), model: &scored.card.name, data, usage }))
    }
}

/// `/v1/embeddings`.
pub(super) struct Embeddings(Asked);

#[derive(Serialize)]
struct Embedded<'a> {
    object: &'static str,
    model: &'a str,
    data: Vec<EmbeddedData>,
    usage: Usage,
}

#[derive(Serialize)]
struct EmbeddedData {
    index: usize,
    object: &'static str,
    embedding: Vector,
}

impl Dialect for Embeddings {
    const HOLD: Option<Duration> = None;
    const MODEL_IN: ModelIn = ModelIn::Body;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        parse(request).map(|(asked, items)| (Self(asked), items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let data = self.0.vectors(scored)?.into_iter().enumerate();
        let data = data.map(|(index, embedding)| EmbeddedData { index, object: "embedding", embedding }).collect();
        Ok(Reply::json(&Embedded { object: "list", model: &scored.card.name, data, usage: Usage::of(scored) }))
    }
}
