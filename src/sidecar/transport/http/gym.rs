//! NeMo-Gym's resources server: `POST /verify` and its siblings (`nemo_gym/base_resources_server.py` of 0.7.0).
//!
//! `{"responses_create_params", "response", ...}` comes back with `reward`, `reward_components` and each attribute beside what was sent.
//! Components are the attributes by their weights, and `adjustment`: what the reward has beyond those (offset, penalties, transforms, the
//! last clip). They add up to the reward, which NeMo-RL checks, and have the same names for all rollouts of a model.
//!
//! A rollout without a reward is a masked sample with the reason (`mask_sample`, `failure_kind`, `failure_reason`), whose reward is 0 by
//! Gym's form; or with `gym_on_rejection = "fail"` an error.

mod aggregate;
mod messages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::dialect::{Dialect, Scored};
use super::reply::{Refusal, Reply};
use super::request::{Item, Request, in_group};
use crate::engine::ModelCard;
use crate::reward::{Code, Rejection, Rewards};
use crate::rollout::AggregationSpec;

pub(super) use self::aggregate::aggregate_metrics;

#[derive(Deserialize)]
struct Body {
    responses_create_params: Input,
    response: Output,
}

#[derive(Deserialize)]
struct Input {
    input: Value,
    instructions: Option<String>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Output {
    output: Vec<Value>,
    status: Option<String>,
    incomplete_details: Option<Incomplete>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

/// See the module.
pub(super) struct Verify {
    /// What was sent, which comes back.
    sent: BTreeMap<String, Box<RawValue>>,
    aggregation: Arc<AggregationSpec>,
    fails: bool,
}

impl Dialect for Verify {
    /// Gym's clients wait without limit.
    const HOLD: Option<Duration> = None;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let Body { responses_create_params: params, response } = request.parse()?;
        let group = params.input.to_string();
        let ended = response.status.as_deref();
        let reason = response.incomplete_details.and_then(|details| details.reason);
        let finish_reason = match (ended, reason.as_deref()) {
            (Some("incomplete"), Some("max_output_tokens")) => "length",
            (Some("completed"), _) => "stop",
            _ => "",
        };
        let item = messages::conversation(params.instructions, params.input, response.output);
        let item = item.and_then(|messages| {
            let (messages, reason) = (messages::raw(&messages)?, messages::raw(&Value::from(finish_reason))?);
            let mut fields: Vec<(&str, &RawValue)> = vec![("messages", &messages)];
            if !finish_reason.is_empty() {
                fields.push(("finish_reason", &reason));
            }
            let tools = params.tools.filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
            let tools = tools.map(|tools| messages::raw(&messages::tools(tools))).transpose()?;
            if let Some(tools) = &tools {
                fields.push(("tools", tools));
            }
            request.row(&fields)
        });
        let aggregation = Arc::clone(&request.options.aggregation);
        Ok((
            Self { sent: request.parse()?, aggregation, fails: request.refuses_rejected },
            vec![in_group(item, &group)],
        ))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        if self.fails {
            scored.all()?;
        }
        let mut said = Map::new();
        match scored.outcomes.first() {
            Some(Ok(rewards)) => {
                let components = components(&scored.card, &self.aggregation, rewards);
                for (name, &value) in scored.card.attributes.iter().zip(&rewards.attributes) {
                    said.insert(name.clone(), value.into());
                }
                said.insert("reward".into(), rewards.reward.into());
                said.insert("reward_components".into(), json!(components));
                said.insert("model_version".into(), (*rewards.model_version).into());
            }
            Some(Err(rejection)) => masked(&mut said, &scored.card, rejection),
            None => return Err(Refusal::draining()),
        }
        // What was sent counts where the names are the same, but for what Gym's form gives a meaning.
        let own = ["reward", "reward_components", "mask_sample", "failure_kind", "failure_reason"];
        said.retain(|name, _| own.contains(&name.as_str()) || !self.sent.contains_key(name));
        let mut sent = self.sent;
        sent.retain(|name, _| !own.contains(&name.as_str()));
        if let Some(instance) = said.remove(INSTANCE) {
            let _ = sent.insert(INSTANCE.into(), with_mask(sent.get(INSTANCE).map(|sent| &**sent), instance)?);
        }
        Ok(Reply::json(&Answer { sent, said }))
    }
}

const INSTANCE: &str = "instance_config";

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    sent: BTreeMap<String, Box<RawValue>>,
    #[serde(flatten)]
    said: Map<String, Value>,
}

/// Each attribute by its weight, and what is left.
fn components(card: &ModelCard, spec: &AggregationSpec, rewards: &Rewards) -> BTreeMap<String, f64> {
    let named = spec.weighting.as_ref().or(card.default_weighting.as_ref());
    let weights =
        if spec.weights.is_empty() { named.and_then(|name| card.weightings.get(name)) } else { Some(&spec.weights) };
    let weight = |name: &str| weights.and_then(|weights| weights.get(name)).copied().unwrap_or(0.0);
    let values = card.attributes.iter().zip(&rewards.attributes);
    let mut components: BTreeMap<String, f64> =
        values.map(|(name, &value)| (name.clone(), weight(name) * f64::from(value))).collect();
    let sum: f64 = components.values().sum();
    components.insert("adjustment".into(), f64::from(rewards.reward) - sum);
    components
}

/// A sample that is no measurement. Its numbers are placeholders by Gym's form.
fn masked(said: &mut Map<String, Value>, card: &ModelCard, rejection: &Rejection) {
    let kind = match rejection.code {
        Code::Draining => "shutdown",
        Code::Cancelled => "cancelled",
        Code::DeadlineExceeded => "transport_timeout",
        Code::EngineFailed | Code::Lost => "provider_unavailable",
        _ => "verifier_error",
    };
    let names = card.attributes.iter().map(String::as_str).chain(["adjustment"]);
    let components: BTreeMap<&str, f64> = names.map(|name| (name, 0.0)).collect();
    said.insert("reward".into(), json!(0.0));
    said.insert("reward_components".into(), json!(components));
    said.insert("mask_sample".into(), true.into());
    said.insert("failure_kind".into(), kind.into());
    said.insert("failure_reason".into(), rejection.to_string().into());
    // Where Gym's own agents look for it.
    said.insert(INSTANCE.into(), json!({"mask_sample": true}));
}

/// The sender's `instance_config` with the mask in it.
fn with_mask(sent: Option<&RawValue>, mask: Value) -> Result<Box<RawValue>, Refusal> {
    let sent = sent.and_then(|sent| serde_json::from_str::<Map<String, Value>>(sent.get()).ok());
    let mut config = sent.unwrap_or_default();
    config.extend(mask.as_object().cloned().unwrap_or_default());
    serde_json::value::to_raw_value(&config).map_err(|error| Refusal::malformed(error.to_string()))
}

/// `POST /seed_session` and `POST /close_session`: no state is kept of a session, whose name comes back.
pub(super) async fn session(body: Bytes) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    struct Session {
        resources_session_id: Option<String>,
    }
    let session: Session = serde_json::from_slice(&body).map_err(|error| Refusal::body(&error))?;
    Ok(match session.resources_session_id {
        Some(id) => Reply::json(&json!({"resources_session_id": id})).into_response(),
        None => Reply::json(&json!({})).into_response(),
    })
}

/// `GET /reverify_mode`: a rollout may be verified again at any time.
pub(super) async fn reverify_mode() -> Reply {
    Reply::json(&"stateless")
}
