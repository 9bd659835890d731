//! Answers on their way out, in the order in which they finish.
//!
//! Invariant: a stream that does not end with all rows answered ends with an error of the connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::Stream;

use super::rows::{Row, answer_one};
use crate::reward::Outcome;
use crate::sidecar::transport::caller::Caller;
use crate::sidecar::transport::http::reply::Refusal;
use crate::sidecar::{Intake, Served};

/// A row with what became of its rollouts, or why no more rows are read. Its room is free once it has left.
pub(super) type Answered = Result<(Arc<Row>, Vec<Outcome>, OwnedSemaphorePermit), Refusal>;

/// How answers are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One on each line.
    Lines,
    /// Server-sent events (HTML standard, section 9.2).
    Events,
}

/// Where the outcomes of one row come together.
#[derive(Clone)]
pub(super) struct Slot(Arc<Mutex<Filling>>);

struct Filling {
    row: Arc<Row>,
    outcomes: Vec<Option<Outcome>>,
    answered: mpsc::UnboundedSender<Answered>,
    room: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub fn new(row: Arc<Row>, answered: mpsc::UnboundedSender<Answered>, room: OwnedSemaphorePermit) -> Self {
        let outcomes = (0..row.count()).map(|_| None).collect();
        Self(Arc::new(Mutex::new(Filling { row, outcomes, answered, room: Some(room) })))
    }

    /// The outcome of the row's rollout `i`; the last one sends the row on its way.
    pub fn fill(&self, i: usize, outcome: Outcome) {
        // Nothing panics half-way.
        let mut filling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        filling.outcomes[i] = Some(outcome);
        if filling.outcomes.iter().all(Option::is_some)
            && let Some(room) = filling.room.take()
        {
            let outcomes = std::mem::take(&mut filling.outcomes).into_iter().flatten().collect();
            // Fails only where the caller has left.
            drop(filling.answered.send(Ok((Arc::clone(&filling.row), outcomes, room))));
        }
    }
}

/// The answers of one stream. Dropped before they are through, it cancels what is in flight.
pub(super) struct Answers {
    answered: mpsc::UnboundedReceiver<Answered>,
    intake: Intake,
    form: Form,
    caller: Arc<Caller>,
    reading: AbortHandle,
    /// Of each model, the generation that answered last.
    served: Vec<Arc<Served>>,
    count: u64,
    ended: bool,
}

/// Why a stream broke off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BrokenOff(String);

impl Answers {
    pub fn new(
        answered: mpsc::UnboundedReceiver<Answered>,
        intake: Intake,
        form: Form,
        caller: Arc<Caller>,
        reading: AbortHandle,
    ) -> Self {
        let served = intake.models();
        Self { answered, intake, form, caller, reading, served, count: 0, ended: false }
    }

    fn written(&mut self, row: &Row, outcomes: &[Outcome]) -> Option<Bytes> {
        let generations = || outcomes.iter().flatten().map(|rewards| rewards.generation);
        let is_known = |generation| self.served.iter().any(|served| served.generation == generation);
        let answer = if generations().all(is_known) {
            answer_one(&self.served, row, outcomes)?
        } else {
            // Another has taken over.
            let now = self.intake.models();
            let answer = answer_one(&[&self.served[..], &now].concat(), row, outcomes)?;
            for (last, now) in self.served.iter_mut().zip(now) {
                if generations().any(|generation| generation == now.generation) {
                    *last = now;
                }
            }
            answer
        };
        self.count += 1;
        let (before, after): (&[u8], &[u8]) = match self.form {
            Form::Lines => (b"", b"\n"),
            Form::Events => (b"data: ", b"\n\n"),
        };
        Some([before, &answer, after].concat().into())
    }
}

impl Stream for Answers {
    type Item = Result<Bytes, BrokenOff>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.answered.poll_recv(context)) {
            Some(Ok((row, outcomes, _room))) => match self.written(&row, &outcomes) {
                Some(bytes) => Ok(bytes),
                None => Err(BrokenOff("another model took over".into())),
            },
            Some(Err(refusal)) => Err(BrokenOff(refusal.message)),
            None => {
                self.ended = true;
                match self.form {
                    Form::Lines => return Poll::Ready(None),
                    Form::Events => Ok(format!("event: done\ndata: {{\"rows\":{}}}\n\n", self.count).into()),
                }
            }
        };
        self.ended |= item.is_err();
        Poll::Ready(Some(item))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.reading.abort();
        self.caller.leave();
    }
}
