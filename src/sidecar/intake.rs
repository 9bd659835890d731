//! The one door for all transports. What comes out is a [`ValidRollout`] in the queue, as [`Rules`] prove it, or a
//! rejection on the ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span, info_span};

use super::queue::{NoRoom, Queue, Room};
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
    tokenizer_threads: usize,
    draining: AtomicBool,
}

impl Intake {
    pub(super) fn new(rules: Rules, config: &Config, queue: Arc<Queue>) -> Self {
        Self(Arc::new(Door {
            rules,
            queue,
            tokenizers: Arc::new(Semaphore::new(config.tokenizer_threads)),
            tokenizer_threads: config.tokenizer_threads,
            draining: AtomicBool::new(false),
        }))
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
    pub async fn submit(&self, rollout: Rollout, ticket: Ticket, received: Instant) {
        match self.try_submit(rollout, ticket, received) {
            Ok(()) => self.wake(),
            Err(deferred) => deferred.finish().await,
        }
    }

    /// As [`Self::submit`], for callers that are no tasks: takes a rollout in where that can be done at once, as it can for token
    /// ids and a queue that has room, and gives back the rest of the way where it cannot.
    ///
    /// The scoring threads are not woken by this call: after one rollout or a few, call [`Self::wake`]. Until then they may wait.
    pub fn try_submit(&self, rollout: Rollout, mut ticket: Ticket, received: Instant) -> Result<(), Deferred> {
        let id = shortened(&rollout.id, limits::MAX_ID_BYTES);
        let span = info_span!(parent: None, "rollout", id, tokens = tracing::field::Empty);
        trace::adopt(&span, &rollout.traceparent, &rollout.tracestate);
        let stay = info_span!(parent: &span, "intake");
        ticket.enter(span);
        match stay.in_scope(|| self.0.begin(rollout, received)) {
            Ok((Progress::Through(admitted), _)) => {
                drop(stay);
                self.0.let_in(admitted, ticket, received);
            }
            Ok((Progress::Later(later), deadline)) => {
                let door = Arc::clone(&self.0);
                return Err(Deferred(Box::new(Rest { door, later, deadline, ticket, received, stay })));
            }
            Err(rejection) => ticket.answer(Err(rejection)),
        }
        Ok(())
    }

    /// To be called when a caller has left: what it had waiting is answered, and makes room for others.
    pub fn sweep(&self) {
        self.0.queue.sweep();
    }

    /// Wakes the threads that score, where something came in that they must look at. To be called after one or several
    /// [`Self::try_submit`]s: one call for several lets them go into one micro-batch.
    pub fn wake(&self) {
        self.0.queue.wake();
    }

    /// Threads that turn text into tokens.
    pub fn tokenizer_threads(&self) -> usize {
        self.0.tokenizer_threads
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
    pub(super) room: Room,
}

/// How far a rollout came without waiting.
enum Progress {
    Through(Admitted),
    Later(Later),
}

/// What is left to do.
enum Later {
    /// Everything: text becomes tokens on a thread of its own.
    Prove(Box<Rollout>),
    /// To wait for room.
    FindRoom(ValidRollout, Bound),
}

impl Door {
    /// As far as it goes at once; with the deadline, for the rest.
    fn begin(&self, rollout: Rollout, received: Instant) -> Result<(Progress, Option<Instant>), Rejection> {
        if self.draining.load(Ordering::SeqCst) {
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
        if matches!(rollout.input, Some(Input::Chat { .. } | Input::Text(_))) {
            return Ok((Progress::Later(Later::Prove(Box::new(rollout))), deadline));
        }
        let (rollout, bound) = self.check(rollout)?;
        let progress = match self.queue.try_room(rollout.total_tokens()) {
            Some(room) => Progress::Through(Admitted { rollout, bound, deadline, room }),
            None => Progress::Later(Later::FindRoom(rollout, bound)),
        };
        Ok((progress, deadline))
    }

    /// The rest of the way.
    async fn finish(self: &Arc<Self>, later: Later, deadline: Option<Instant>) -> Result<Admitted, Rejection> {
        let admit = async {
            let (rollout, bound) = match later {
                Later::Prove(rollout) => self.prove(*rollout).await?,
                Later::FindRoom(rollout, bound) => (rollout, bound),
            };
            let room = self.queue.room(rollout.total_tokens()).await.map_err(|NoRoom| draining())?;
            Ok(Admitted { rollout, bound, deadline, room })
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), admit).await.unwrap_or_else(|_| Err(expired())),
            None => admit.await,
        }
    }

    /// Checks and tokenizes text on a blocking thread.
    async fn prove(self: &Arc<Self>, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        // The semaphore lives as long as the door and is never closed. The permit goes along with the work, which
        // goes on when the caller leaves: there are never more texts at work than threads for them.
        let permit = Arc::clone(&self.tokenizers).acquire_owned().await.map_err(|_| draining())?;
        let door = Arc::clone(self);
        let span = Span::current();
        let work = move || {
            let _permit = permit;
            span.in_scope(|| door.check(rollout))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Rejection::new(Code::Lost, format!("the tokenizer failed: {e}"))))
    }

    fn check(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        let began = Instant::now();
        let proved = self.rules.check(rollout);
        metrics::stage(metrics::Stage::Intake, began.elapsed());
        proved
    }

    /// Quietly; see [`Queue::push`].
    fn let_in(&self, admitted: Admitted, ticket: Ticket, received: Instant) {
        ticket.span().record("tokens", admitted.rollout.tokens.len());
        metrics::accepted();
        self.queue.push(admitted, ticket, received);
    }
}

/// A rollout that could not be taken in at once: its text has to become tokens, or it has to wait for room. Dropped, it is
/// given up, and its ticket says so.
#[must_use = "the rollout is not taken in before `finish`"]
pub struct Deferred(Box<Rest>);

struct Rest {
    door: Arc<Door>,
    later: Later,
    deadline: Option<Instant>,
    ticket: Ticket,
    received: Instant,
    /// The span of intake, open since the rollout came.
    stay: Span,
}

impl Deferred {
    /// Goes the rest of the way, as [`Intake::submit`] does; and wakes the threads that score.
    pub async fn finish(self) {
        let Rest { door, later, deadline, ticket, received, stay } = *self.0;
        match door.finish(later, deadline).instrument(stay).await {
            Ok(admitted) => {
                door.let_in(admitted, ticket, received);
                door.queue.wake();
            }
            Err(rejection) => ticket.answer(Err(rejection)),
        }
    }
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deferred").field("ticket", &self.0.ticket).finish_non_exhaustive()
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
