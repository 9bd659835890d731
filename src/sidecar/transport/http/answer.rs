//! From a request of any dialect to its reply.
//!
//! Invariants: a request is held as long as its client would wait, then refused with 503; equal requests that are under way share one
//! piece of work, and each keeps its own time; a reply names the version of the model that gave it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::body;
use super::dialect::{Dialect, Scored};
use super::flights;
use super::reply::{MODEL_VERSION, QUEUE_MS, Refusal, Reply};
use super::request::{Item, Request};
use super::state::{OfOneModel, Shared};
use crate::limits::MAX_DEADLINE_MS;
use crate::rollout::Rollout;
use crate::sidecar::Identity;

/// The reply to a request of dialect `D`.
pub(super) async fn answer<D: Dialect>(
    State(shared): State<Shared>,
    Extension(identity): Extension<Arc<Identity>>,
    request: axum::extract::Request,
) -> Response {
    match begin::<D>(shared, identity, request).await {
        Ok(reply) => reply.into_response(),
        Err(refusal) => D::refuse(&refusal).into_response(),
    }
}

async fn begin<D: Dialect>(
    shared: Shared,
    identity: Arc<Identity>,
    request: axum::extract::Request,
) -> Result<Reply, Refusal> {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    let wanted = wanted_version(&head.headers)?;
    shared.check(wanted.as_deref())?;
    let limit = shared.body_limit();
    let (raw, held) = body::read(body, &head.headers, limit, shared.intake.bytes(), identity.connection).await?;
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let text = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let key = flights::key(&[
        std::any::type_name::<D>().as_bytes(),
        path.as_bytes(),
        query.as_bytes(),
        text(MODEL_VERSION.as_str()),
        text(ACCEPT),
        text(BINARY_LENGTH),
        &identity.connection.to_le_bytes(),
        &raw,
    ]);
    let (mut raw, mut held) = (raw, Some(held));
    loop {
        // Whoever joins another's work keeps its body, within the budget, until it is answered.
        let begin = || {
            let sent = Sent {
                path: path.clone(),
                query: query.clone(),
                headers: head.headers.clone(),
                raw: std::mem::take(&mut raw),
            };
            work::<D>(shared.clone(), Arc::clone(&identity), sent, wanted.clone(), received, held.take())
        };
        let (flight, own) = shared.flights.join(key, begin);
        let reply = flight.reply().await.ok_or_else(failed)?;
        // It may have been the other's time that was up.
        if reply.expired && !own && D::HOLD.is_none_or(|hold| received.elapsed() < hold) {
            continue;
        }
        return Ok(reply);
    }
}

/// A request as it was sent.
struct Sent {
    path: String,
    query: String,
    headers: HeaderMap,
    raw: Bytes,
}

const ACCEPT: &str = "accept";
/// KServe: how many bytes of a body are JSON.
const BINARY_LENGTH: &str = "inference-header-content-length";

async fn work<D: Dialect>(
    shared: Shared,
    identity: Arc<Identity>,
    sent: Sent,
    wanted: Option<String>,
    received: Instant,
    held: Option<crate::sidecar::fair::Permit>,
) -> Reply {
    let score = async {
        let Sent { path, query, headers, raw } = sent;
        let mut request = Request::new(&path, &query, headers, raw)?;
        request.refuses_rejected = shared.gym_fails;
        let (dialect, items) = D::parse(&request)?;
        if items.is_empty() || items.len() > body::MAX_INPUTS {
            let message = format!("{} inputs; a request has from 1 to {}", items.len(), body::MAX_INPUTS);
            return Err(Refusal::malformed(message));
        }
        let model = shared.asked(&request.options.model, || request.model(D::MODEL_IN));
        let with = |item| with_options(item, &request, D::HOLD, (&model, wanted.as_deref()));
        let items = items.into_iter().map(with).collect();
        // The inputs are all that is left of it.
        drop(request);
        let OfOneModel { card, outcomes } = shared.score(&identity, &model, items, received, held).await?;
        let scored = Scored { card, outcomes };
        let mut reply = dialect.render(&scored)?;
        reply.headers.extend(about(&scored));
        Ok(reply)
    };
    score.await.unwrap_or_else(|refusal| D::refuse(&refusal))
}

/// What the query says, for one rollout; the earlier of two times counts. `asked` are the model, by its name, and its version.
fn with_options(item: Item, request: &Request, hold: Option<Duration>, asked: (&str, Option<&str>)) -> Item {
    let (model, wanted) = asked;
    let options = &request.options;
    let held = hold.map(|hold| hold.as_millis() as u64);
    let deadline_ms = options.deadline_ms.map_or(held, |own| Some(held.map_or(own, |held| own.min(held))));
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    item.map(|rollout| Rollout {
        model: model.to_owned(),
        deadline_ms: deadline_ms.map(|ms| ms.min(MAX_DEADLINE_MS)),
        priority: options.priority,
        aggregation: Arc::clone(&options.aggregation),
        answer_only: options.answer_only.clone(),
        model_version: wanted.unwrap_or_default().to_owned(),
        traceparent: header("traceparent"),
        tracestate: header("tracestate"),
        ..rollout
    })
}

/// The version that a request wants to be answered by, if it names one.
pub(super) fn wanted_version(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned);
    let bad = |_| Refusal::bad_request("BAD_OPTION", "x-model-version: not plain text");
    headers.get(MODEL_VERSION).map(text).transpose().map_err(bad)
}

/// What is said of an answer beside it.
fn about(scored: &Scored) -> Vec<(axum::http::HeaderName, HeaderValue)> {
    let queued = scored.outcomes.iter().flatten().map(|rewards| rewards.queue_ns).max();
    let version = HeaderValue::from_str(&scored.card.model_version).ok();
    let queued = queued.map(|ns| (QUEUE_MS, HeaderValue::from(ns / 1_000_000)));
    version.map(|version| (MODEL_VERSION, version)).into_iter().chain(queued).collect()
}

fn failed() -> Refusal {
    let message = "the request's work failed; the server's log has the reason. Please report it as a bug";
    Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "LOST", message)
}
