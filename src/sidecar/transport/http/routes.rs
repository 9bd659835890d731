//! Every route, and what is said of the server itself.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Serialize;

use super::answer::answer;
use super::classify::Classify;
use super::gym::{self, Verify};
use super::kserve::{self, Infer};
use super::llama_factory::LlamaFactory;
use super::native;
use super::openapi;
use super::openrlhf::OpenRlhf;
use super::pooling::{Embeddings, Pooling};
use super::predict::{Infinity, Predict};
use super::rank::{Rerank, Score};
use super::reply::{Refusal, Reply};
use super::slime::Slime;
use super::state::Shared;
use super::tokenize;
use crate::engine::ModelCard;
use crate::limits::MAX_MESSAGE_BYTES;

/// All routes.
pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/rewards", post(native::rewards))
        .route("/get_reward", post(answer::<OpenRlhf>))
        .route("/rm", post(answer::<Slime>))
        .route("/v1/score/evaluation", post(answer::<LlamaFactory>))
        .route("/classify", post(answer::<Classify>))
        .route("/pooling", post(answer::<Pooling>))
        .route("/v1/embeddings", post(answer::<Embeddings>))
        .route("/score", post(answer::<Score>))
        .route("/v1/score", post(answer::<Score>))
        .route("/rerank", post(answer::<Rerank>))
        .route("/v1/rerank", post(answer::<Rerank>))
        .route("/v2/rerank", post(answer::<Rerank>))
        .route("/predict", post(answer::<Predict>))
        .route("/infinity/classify", post(answer::<Infinity>))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/verify", post(answer::<Verify>))
        .route("/seed_session", post(gym::session))
        .route("/close_session", post(gym::session))
        .route("/aggregate_metrics", post(gym::aggregate_metrics))
        .route("/reverify_mode", get(gym::reverify_mode))
        .route("/v2", get(kserve::server))
        .route("/v2/health/live", get(kserve::ready))
        .route("/v2/health/ready", get(kserve::ready))
        .route("/v2/models/{model}", get(kserve::metadata))
        .route("/v2/models/{model}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/config", get(kserve::config))
        .route("/v2/models/{model}/infer", post(answer::<Infer>))
        .route("/v2/models/{model}/versions/{version}", get(kserve::metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/versions/{version}/config", get(kserve::config))
        .route("/v2/models/{model}/versions/{version}/infer", post(answer::<Infer>))
        .route("/v1/models", get(models))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .route("/health", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        // What does not ask the budget before it reads.
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    let no = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    match shared.health.failure() {
        Some(reason) => no(&reason),
        None if *shared.draining.borrow() => no("draining"),
        None => (StatusCode::OK, "ready\n".into()),
    }
}

#[derive(Serialize)]
struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// As OpenAI's `GET /v1/models` has it, with what vLLM adds and what our own clients want to know.
#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    owned_by: &'static str,
    root: String,
    max_model_len: u32,
    model_version: String,
    attributes: Vec<String>,
    weightings: std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>,
    default_weighting: Option<String>,
}

async fn models(State(shared): State<Shared>) -> Reply {
    let model = |card: &ModelCard| Model {
        id: card.name.clone(),
        object: "model",
        owned_by: "reward-sidecar",
        root: card.name.clone(),
        max_model_len: card.context_tokens,
        model_version: card.model_version.to_string(),
        attributes: card.attributes.clone(),
        weightings: card.weightings.clone(),
        default_weighting: card.default_weighting.clone(),
    };
    let models = shared.intake.models();
    Reply::json(&Models { object: "list", data: models.iter().map(|served| model(served.card())).collect() })
}

async fn no_route(uri: axum::http::Uri) -> Refusal {
    let message = format!("there is no route {}; see /openapi.json", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "NO_ROUTE", message)
}

async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    let message = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "NO_METHOD", message)
}
