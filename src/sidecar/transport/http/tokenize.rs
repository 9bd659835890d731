//! vLLM's `POST /tokenize`: the tokens that would be scored, of `{"prompt": text}` (which carries its template) or `{"messages"}`.
//!
//! Nothing is scored and nothing is cut.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::body;
use super::reply::{Refusal, Reply};
use super::request::Request;
use super::state::Shared;
use crate::rollout::Rollout;
use crate::sidecar::Identity;

#[derive(Deserialize)]
struct Body {
    prompt: Option<String>,
    messages: Option<Box<RawValue>>,
    model: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    count: usize,
    max_model_len: u32,
    tokens: &'a [u32],
}

/// See the module.
pub(super) async fn tokenize(
    State(shared): State<Shared>,
    Extension(identity): Extension<Arc<Identity>>,
    request: axum::extract::Request,
) -> Result<Reply, Refusal> {
    let (head, body) = request.into_parts();
    let limit = shared.body_limit();
    let (raw, held) = body::read(body, &head.headers, limit, shared.intake.bytes(), identity.connection).await?;
    let query = head.uri.query().unwrap_or_default();
    let request = Request::new(head.uri.path(), query, head.headers, raw)?;
    let Body { prompt, messages, model } = request.parse()?;
    let item = match (prompt, messages) {
        (Some(prompt), None) => request.text(prompt),
        (None, Some(messages)) => request.row(&[("messages", &messages)]),
        _ => return Err(Refusal::malformed("the body: give prompt or messages")),
    };
    let model = shared.asked(&request.options.model, || model);
    let served = shared.model(&model)?;
    let item = item.map(|rollout| Rollout { model, ..rollout });
    let tokens = shared.tokens(&identity, item).await;
    drop(held);
    let refused = |rejection| Refusal::of_rejected(&[Err(rejection)]).unwrap_or_else(Refusal::draining);
    let tokens = tokens.map_err(refused)?;
    Ok(Reply::json(&Answer { count: tokens.len(), max_model_len: served.card().context_tokens, tokens: &tokens }))
}
