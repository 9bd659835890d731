//! The one door for all transports. What comes out is a [`ValidRollout`] in the queue, as [`Rules`] prove it, or a
//! rejection on the ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::{Instrument as _, info_span};

use super::queue::{NoRoom, Queue};
use super::rules::Rules;
use super::{Config, OverLong, Ticket, metrics, trace};
use crate::aggregate::Bound;
use crate::engine::ModelCard;
use crate::limits;
use crate::reward::{Code, Rejection, shortened};
use crate::rollout::{Input, Rollout, ValidRollout};

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Door>);

struct Door {
    rules: Rules,
    queue: Arc<Queue>,
    /// As many texts are tokenized at a time as there are threads for it.
    tokenizers: Arc<Semaphore>,
    draining: AtomicBool,
}

impl Intake {
    pub(super) fn new(card: Arc<ModelCard>, config: &Config, queue: Arc<Queue>) -> Result<Self, String> {
        Ok(Self(Arc::new(Door {
            rules: Rules::new(card, config)?,
            queue,
            tokenizers: Arc::new(Semaphore::new(config.tokenizer_threads)),
            draining: AtomicBool::new(false),
        })))
    }

    /// The model behind the door.
    pub fn card(&self) -> &Arc<ModelCard> {
        self.0.rules.card()
    }

    /// What happens to rollouts longer than the context.
    pub fn over_long(&self) -> OverLong {
        self.0.rules.over_long()
    }

    /// From now on every rollout is refused with `DRAINING`.
    pub(super) fn close(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.queue.refuse();
    }

    /// Takes a rollout in that was received at `received`; the ticket is answered in any case. Waits while the queue is
    /// full (that is the back-pressure) or until the deadline; drop the future to give up.
    pub async fn submit(&self, rollout: Rollout, mut ticket: Ticket, received: Instant) {
        let id = shortened(&rollout.id, limits::MAX_ID_BYTES);
        let span = info_span!(parent: None, "rollout", id, tokens = tracing::field::Empty);
        trace::adopt(&span, &rollout.traceparent);
        ticket.enter(span.clone());
        let intake = info_span!(parent: &span, "intake");
        match self.admit(rollout, received).instrument(intake).await {
            Ok(admitted) => {
                span.record("tokens", admitted.rollout.tokens.len());
                metrics::accepted();
                self.0.queue.push(admitted, ticket, received);
            }
            Err(rejection) => ticket.answer(Err(rejection)),
        }
    }

    async fn admit(&self, rollout: Rollout, received: Instant) -> Result<Admitted, Rejection> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(draining());
        }
        if let Some(ms) = rollout.deadline_ms
            && ms > limits::MAX_DEADLINE_MS
        {
            return Err(Rejection::new(
                Code::BadOption,
                format!("deadline_ms: {ms} is more than a day ({} ms)", limits::MAX_DEADLINE_MS),
            ));
        }
        let deadline = rollout.deadline_ms.map(|ms| received + Duration::from_millis(ms));
        let admit = async {
            let (rollout, bound) = self.prove(rollout).await?;
            let room = self.0.queue.room(rollout.total_tokens()).await.map_err(|NoRoom| draining())?;
            Ok(Admitted { rollout, bound, deadline, room })
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), admit).await.unwrap_or_else(|_| Err(expired())),
            None => admit.await,
        }
    }

    /// Checks and tokenizes. Text goes to a blocking thread, ids are checked where they are.
    async fn prove(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        if matches!(rollout.input, Some(Input::Chat { .. } | Input::Text(_))) {
            // The semaphore lives as long as the door and is never closed. The permit goes along with the work, which
            // goes on when the caller leaves: there are never more texts at work than threads for them.
            let permit = Arc::clone(&self.0.tokenizers).acquire_owned().await.map_err(|_| draining())?;
            let door = Arc::clone(&self.0);
            let span = tracing::Span::current();
            let work = move || {
                let _permit = permit;
                span.in_scope(|| door.check(rollout))
            };
            tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|e| Err(Rejection::new(Code::Lost, format!("the tokenizer failed: {e}"))))
        } else {
            self.0.check(rollout)
        }
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("model", &self.card().model_version).finish_non_exhaustive()
    }
}

/// A rollout with everything that scoring needs, and its room in the queue.
pub(super) struct Admitted {
    pub(super) rollout: ValidRollout,
    pub(super) bound: Bound,
    pub(super) deadline: Option<Instant>,
    pub(super) room: super::queue::Room,
}

impl Door {
    fn check(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        let began = Instant::now();
        let proved = self.rules.check(rollout);
        metrics::stage(metrics::Stage::Intake, began.elapsed());
        proved
    }
}

pub(super) fn expired() -> Rejection {
    Rejection::new(Code::DeadlineExceeded, "the deadline passed before the rollout was scored")
}

pub(super) fn draining() -> Rejection {
    Rejection::new(
        Code::Draining,
        "the server is shutting down and did not score the rollout; send it to another, or again later",
    )
}
