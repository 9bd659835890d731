//! Our own route, `POST /v1/rewards`: rows as rollout files have them, and answers as rewards files have them.
//!
//! | body | `Content-Type` |
//! |---|---|
//! | one row, or a list of rows | `application/json`, or none |
//! | one row on each line, read as they come | `application/x-ndjson`, `application/jsonl` |
//!
//! | answer | `Accept` |
//! |---|---|
//! | an object for one row, or a list in the order of the rows | `application/json`, and what a JSON body gets without a wish |
//! | one answer on each line, as they finish | `application/x-ndjson`, and what lines get without a wish |
//! | one answer in each event, as they finish, then an event `done` | `text/event-stream` |
//!
//! Invariant: every row is answered exactly once, or the answer breaks off in a way that HTTP reports as an error.

mod answers;
mod lines;
mod rows;

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, mpsc};

use self::answers::{Answers, Form};
use self::lines::Lines;
use self::rows::{Ask, Rows, answer_one};
use super::answer::wanted_version;
use super::body;
use super::query::Options;
use super::reply::{MODEL_VERSION, Refusal, Reply, status};
use super::state::Shared;
use crate::sidecar::Identity;
use crate::sidecar::transport::caller::{Admission, Caller, IdsUnique};

/// See the module.
pub(super) async fn rewards(
    State(shared): State<Shared>,
    Extension(identity): Extension<Arc<Identity>>,
    request: axum::extract::Request,
) -> Response {
    match begin(shared, identity, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn begin(shared: Shared, identity: Arc<Identity>, request: axum::extract::Request) -> Result<Response, Refusal> {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    let wanted = wanted_version(&head.headers)?;
    shared.check(wanted.as_deref())?;
    let options = Options::parse(head.uri.query().unwrap_or_default())?;
    let lines = is_lines(&head.headers);
    let form = form(&head.headers, lines);
    let limit = shared.body_limit();
    let served = shared.model(&options.model)?;
    let version = HeaderValue::from_str(&served.card().model_version).ok();
    let mut response = match form {
        Some(form) => {
            let ask = Ask::new(options, wanted, &head.headers);
            let source = if lines {
                Source::Lines(Lines::new(body, shared.intake.bytes().clone(), identity.connection))
            } else {
                let (raw, held) =
                    body::read(body, &head.headers, limit, shared.intake.bytes(), identity.connection).await?;
                Source::Rows(Rows::of_json(&raw)?, Some(held))
            };
            stream(shared, &identity, ask, source, form)
        }
        None => {
            let (raw, held) =
                body::read(body, &head.headers, limit, shared.intake.bytes(), identity.connection).await?;
            let rows = if lines { Rows::of_lines(&raw) } else { Rows::of_json(&raw)? };
            let ask = Ask::new(options, wanted, &head.headers);
            all(&shared, &identity, &ask, rows, received, held).await?.into_response()
        }
    };
    if let Some(version) = version {
        response.headers_mut().entry(MODEL_VERSION).or_insert(version);
    }
    Ok(response)
}

/// Whether the body has a row on each line.
fn is_lines(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"]
        .iter()
        .any(|name| kind.starts_with(name))
}

/// The form of answers that go out as they finish; `None` for one JSON value at the end.
fn form(headers: &HeaderMap, lines: bool) -> Option<Form> {
    let wishes = headers.get(ACCEPT).and_then(|wishes| wishes.to_str().ok()).unwrap_or_default();
    if wishes.contains("text/event-stream") {
        return Some(Form::Events);
    }
    if wishes.contains("ndjson") || wishes.contains("jsonl") || lines && !wishes.contains("application/json") {
        return Some(Form::Lines);
    }
    None
}

/// Answers once all rows have been: one row as an object, with the status of its rejection; several as a list, whatever became of
/// each.
async fn all(
    shared: &Shared,
    identity: &Arc<Identity>,
    ask: &Ask,
    rows: Rows,
    received: Instant,
    held: crate::sidecar::fair::Permit,
) -> Result<Reply, Refusal> {
    let one = rows.one;
    let rows: Vec<_> = rows.map(|row| ask.row(row)).collect();
    if rows.len() > body::MAX_INPUTS {
        let message = format!("{} rows in one answer; at most {}, or ask for lines", rows.len(), body::MAX_INPUTS);
        return Err(Refusal::malformed(message));
    }
    let mut served = shared.intake.models();
    let caller = Caller::new(&shared.intake, identity, IdsUnique::Always);
    let rollouts = rows.iter().flat_map(|row| row.rollouts()).enumerate();
    let rollouts: Vec<_> = rollouts.map(|(i, rollout)| (i.to_string(), rollout)).collect();
    let mut outcomes = caller.score_all(rollouts, received, held).await.into_iter();
    served.extend(shared.intake.models());
    let mut answers = Vec::with_capacity(rows.len());
    let mut first_code = None;
    for row in &rows {
        let outcomes: Vec<_> = outcomes.by_ref().take(row.count()).collect();
        first_code = first_code.or(outcomes.iter().find_map(|outcome| outcome.as_ref().err().map(|r| r.code)));
        let answer = answer_one(&served, row, &outcomes).ok_or_else(replaced)?;
        answers.push(answer);
    }
    let body: Vec<u8> = match (one, answers.pop()) {
        (true, Some(only)) => only,
        (_, last) => {
            answers.extend(last);
            [b"[".as_slice(), &answers.join(b",".as_slice()), b"]"].concat()
        }
    };
    let status = if one { first_code.map_or(StatusCode::OK, status) } else { StatusCode::OK };
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Reply { status, headers: vec![json], body: body.into(), expired: false })
}

fn replaced() -> Refusal {
    let message = "another model took over while the rows were scored; send them again";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "MODEL_REPLACED", message)
}

/// Where rows come from.
enum Source {
    Lines(Lines),
    /// With what is held of the budget for them.
    Rows(Rows, Option<crate::sidecar::fair::Permit>),
}

impl Source {
    /// The next row, and what is held for it until it is accepted.
    async fn next(&mut self) -> Result<Option<(rows::Raw, Option<crate::sidecar::fair::Permit>)>, Refusal> {
        match self {
            Self::Lines(lines) => lines.next().await,
            Self::Rows(rows, held) => {
                let next = rows.next();
                if next.is_none() {
                    held.take();
                }
                Ok(next.map(|row| (row, None)))
            }
        }
    }
}

/// Answers rows as they finish.
fn stream(shared: Shared, identity: &Arc<Identity>, ask: Ask, source: Source, form: Form) -> Response {
    let (answered, receiver) = mpsc::unbounded_channel();
    let caller = Arc::new(Caller::new(&shared.intake, identity, IdsUnique::InFlight));
    let reader = Reader {
        admission: Admission::new(&shared.intake),
        caller: Arc::clone(&caller),
        room: Arc::new(Semaphore::new(shared.in_flight_limit)),
        ask,
        answered,
        shared: shared.clone(),
    };
    let reading = tokio::spawn(reader.run(source)).abort_handle();
    let answers = Answers::new(receiver, shared.intake.clone(), form, caller, reading);
    let mut response = Response::new(Body::from_stream(answers));
    let kind = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => "text/event-stream",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A proxy that collected the answers would undo that they are sent as they finish.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response.headers_mut().insert(unbuffered.0, unbuffered.1);
    response
}

/// Reads the rows of one stream.
struct Reader {
    admission: Admission,
    caller: Arc<Caller>,
    room: Arc<Semaphore>,
    ask: Ask,
    answered: mpsc::UnboundedSender<answers::Answered>,
    shared: Shared,
}

impl Reader {
    async fn run(mut self, mut source: Source) {
        let mut number = 0_u64;
        let mut ending = self.shared.ending.clone();
        loop {
            let next = tokio::select! {
                next = source.next() => next,
                _ = ending.wait_for(|ending| *ending) => Err(Refusal::draining()),
            };
            match next {
                Ok(Some((raw, held))) => {
                    // While there is no room nothing more is read. The semaphore is never closed.
                    let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return };
                    let row = Arc::new(self.ask.row(raw));
                    let slot = answers::Slot::new(Arc::clone(&row), self.answered.clone(), room);
                    let mut held = held;
                    for (i, rollout) in row.rollouts().into_iter().enumerate() {
                        number += 1;
                        let slot = slot.clone();
                        let deliver = move |_, outcome| slot.fill(i, outcome);
                        if let Some(ticket) = self.caller.admit(&number.to_string(), deliver) {
                            self.admission.submit(rollout, ticket, Instant::now(), held.take()).await;
                        }
                    }
                }
                Ok(None) => return self.admission.finish().await,
                Err(refusal) => {
                    // What is in flight is answered first.
                    self.admission.finish().await;
                    let all = self.room.acquire_many(self.shared.in_flight_limit as u32).await;
                    drop(all);
                    drop(self.answered.send(Err(refusal)));
                    return;
                }
            }
        }
    }
}
