//! A request's body: its bytes are admitted by the process's budget before they are read.
//!
//! Invariants: no more is read than the limit, and a sender that stops sending holds its room for a stated time only.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use http_body::Body as _;

use super::reply::Refusal;
use crate::engine::ModelCard;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::sidecar::fair::{FairSemaphore, Permit};

/// Most inputs of one request.
pub(super) const MAX_INPUTS: usize = 1024;

/// What a token takes in JSON, generously: an id of seven digits and its comma.
const TOKEN_BYTES: usize = 8;

/// The least that a body may hold, however short the model's context is: enough to be told `TOO_LONG`.
const LEAST_BYTES: usize = 1 << 20;

/// How long a sender may pause within a body.
const PAUSE: Duration = Duration::from_secs(30);

/// Most bytes of a body: as many inputs as one may hold, each as long as the model's context.
pub(super) fn limit(card: &ModelCard) -> usize {
    let inputs = (card.context_tokens as usize).saturating_mul(TOKEN_BYTES * MAX_INPUTS);
    inputs.clamp(LEAST_BYTES, MAX_MESSAGE_BYTES)
}

/// What a body may take in memory while it is read and parsed, by its length: its bytes, their copy in the rollouts, and token ids
/// of one digit that become four bytes.
pub(super) fn cost(length: usize) -> usize {
    5 * length
}

/// Reads a body of at most `limit` bytes; what it takes of `budget` is held until the permit is dropped.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    limit: usize,
    budget: &FairSemaphore,
    caller: u64,
) -> Result<(Bytes, Permit), Refusal> {
    let stated = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    // Of a body that does not state its length the worst is assumed until it is there.
    let expected = stated.unwrap_or(limit);
    let permit = budget.acquire(caller, cost(expected)).await.map_err(|_| Refusal::draining())?;
    let mut frames = Frames(body);
    let mut bytes = Vec::with_capacity(stated.unwrap_or_default());
    while let Some(frame) = frames.next(Some(PAUSE)).await? {
        if bytes.len() + frame.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&frame);
    }
    let permit = if stated.is_some() { permit } else { shrunk(permit, budget, caller, bytes.len()).await? };
    Ok((bytes.into(), permit))
}

/// The room for the bytes that came, in place of that for the longest body.
async fn shrunk(permit: Permit, budget: &FairSemaphore, caller: u64, length: usize) -> Result<Permit, Refusal> {
    drop(permit);
    budget.acquire(caller, cost(length)).await.map_err(|_| Refusal::draining())
}

pub(super) fn too_large(limit: usize) -> Refusal {
    let message = format!("the body is longer than {limit} bytes; send fewer inputs in one request");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
}

/// The data of a body, piece by piece.
pub(super) struct Frames(pub Body);

impl Frames {
    /// The next piece; an error where none comes within `pause`, or the connection broke.
    pub async fn next(&mut self, pause: Option<Duration>) -> Result<Option<Bytes>, Refusal> {
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut self.0).poll_frame(context));
            let frame = match pause {
                Some(pause) => tokio::time::timeout(pause, next).await.map_err(|_| stalled(pause))?,
                None => next.await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Refusal::malformed(format!("the body broke off: {error}"))),
                // Trailers are of no interest.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn stalled(pause: Duration) -> Refusal {
    let message = format!("no byte of the body came for {} s", pause.as_secs());
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "BODY_STALLED", message)
}
