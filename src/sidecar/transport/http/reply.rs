//! What goes back over HTTP: an answer, or a refusal of the whole request.
//!
//! Invariant: a refusal has an error status and names every rollout that is at fault; no reply stands for a reward that is not
//! there.

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::json;
use crate::reward::{Code, Outcome, Rejection};

/// The version of the model that gave the rewards of a reply; in a request, the only one that may.
pub(super) const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");
/// How long the rollouts of a reply waited for the engine, in milliseconds: the longest of them.
pub(super) const QUEUE_MS: HeaderName = HeaderName::from_static("x-queue-ms");

/// In how many places of a reply stands a number that its caller has asked for, for want of a reward.
pub(super) const SUBSTITUTED: HeaderName = HeaderName::from_static("x-substituted");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Seconds after which a client may ask again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A reply, which several requests may be answered with.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Whether it says only that the time was up.
    pub expired: bool,
}

impl Reply {
    /// An answer in JSON.
    pub fn json(body: &impl Serialize) -> Self {
        Self::of(StatusCode::OK, body)
    }

    /// A reply in JSON with any status.
    pub fn of(status: StatusCode, body: &impl Serialize) -> Self {
        // Nothing of ours fails to serialize: maps have names for keys, and numbers are finite.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { status, headers: vec![(CONTENT_TYPE, JSON)], body: body.into(), expired: false }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// Stable; for programs.
    pub code: &'static str,
    pub message: String,
    /// The rejected rollouts by their place in the request, where that is why.
    pub rejected: Vec<(usize, Rejection)>,
}

impl Refusal {
    /// A refusal without a rollout at fault.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), rejected: Vec::new() }
    }

    /// Status 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The body is not what the route takes.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::bad_request(Code::Malformed.name(), message)
    }

    /// The body is no JSON, or not JSON of the route's form.
    pub fn body(error: &serde_json::Error) -> Self {
        let (what, line, column) = (json::plain(error), error.line(), error.column());
        Self::malformed(format!("the body: {what} (line {line}, column {column})"))
    }

    /// The server is shutting down.
    pub fn draining() -> Self {
        let message = "the server is shutting down; send it to another, or again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Draining.name(), message)
    }

    /// All that was rejected, where anything was: nothing is left out of a list or moved within it.
    pub fn of_rejected(outcomes: &[Outcome]) -> Option<Self> {
        let rejected: Vec<(usize, Rejection)> =
            outcomes.iter().enumerate().filter_map(|(i, outcome)| Some((i, outcome.clone().err()?))).collect();
        // What the caller can mend counts first: asking again would not help.
        let (status, first) = [true, false].into_iter().find_map(|callers_fault| {
            let first = rejected.iter().find(|(_, r)| status(r.code).is_client_error() == callers_fault);
            first.map(|(_, rejection)| (status(rejection.code), rejection.clone()))
        })?;
        let (n, all) = (rejected.len(), outcomes.len());
        let message =
            if all == 1 { first.message } else { format!("{n} of {all} inputs were rejected: {}", first.message) };
        Some(Self { status, code: first.code.name(), message, rejected })
    }

    /// As a reply: `{"error": {"code", "message", "type", "rejected": [{"index", "code", "message"}]}}`.
    pub fn reply(&self) -> Reply {
        #[derive(Serialize)]
        struct Error<'a> {
            error: Details<'a>,
        }
        #[derive(Serialize)]
        struct Details<'a> {
            code: &'static str,
            message: &'a str,
            r#type: &'static str,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            rejected: Vec<At<'a>>,
        }
        #[derive(Serialize)]
        struct At<'a> {
            index: usize,
            code: &'static str,
            message: &'a str,
        }
        let at = |(index, r): &'_ (usize, Rejection)| (*index, r.code.name());
        let rejected = self.rejected.iter().map(|entry| {
            let (index, code) = at(entry);
            At { index, code, message: &entry.1.message }
        });
        let r#type = if self.status.is_client_error() { "invalid_request_error" } else { "server_error" };
        let details = Details { code: self.code, message: &self.message, r#type, rejected: rejected.collect() };
        self.reply_with(&Error { error: details })
    }

    /// As a reply with another body.
    pub fn reply_with(&self, body: &impl Serialize) -> Reply {
        let mut reply = Reply::of(self.status, body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers.push((RETRY_AFTER, RETRY_SECONDS));
        }
        reply.expired = self.code == Code::DeadlineExceeded.name();
        reply
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.reply().into_response()
    }
}

/// The status of a rejection: 422 where the caller is at fault, 503 where asking again may help, 500 where the model or the server
/// is. Never 429: some trainers' clients take every 4xx for final.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::Draining | Code::DeadlineExceeded | Code::Cancelled | Code::EngineFailed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::OtherVersion => StatusCode::PRECONDITION_FAILED,
        Code::UnknownModel => StatusCode::NOT_FOUND,
        Code::NonFinite | Code::Lost | Code::TokenizerFailed => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
