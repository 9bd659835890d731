//! The way of a rollout from its transport into the queue, the same for all transports. What goes into the queue is a
//! [`ValidRollout`], as [`Rules`] prove it; everything else is answered with a rejection on its ticket.
//!
//! A rollout may have to wait: for a thread that tokenizes its text, and for room in the queue. Callers wait for both in turn. What is
//! held for them meanwhile is bounded by [`Intake::bytes`].

mod tokenizers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{Instrument as _, Span, info_span};

use self::tokenizers::Tokenizers;
use super::fair::{Closed, FairSemaphore};
use super::observer::{Observed, Observers};
use super::queue::{self, Admitted, Queue};
use super::rejections::{draining, expired};
use super::rules;
use super::served::Served;
use super::{Config, Identity, OverLong, Ticket, metrics, trace};
use crate::aggregate::Bound;
use crate::engine::ModelCard;
use crate::limits;
use crate::nearest::nearest;
use crate::reward::{Code, Rejection, shortened};
use crate::rollout::{Input, Rollout, ValidRollout};

/// Bytes of room that a caller's turn is worth: some ordinary messages.
const BYTES_QUANTUM: usize = 64 << 10;

/// Where every transport submits; cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

struct Shared {
    /// Of each model, the generation that takes what comes now; at least one model.
    models: Vec<watch::Sender<Arc<Served>>>,
    /// The queues of all generations that may still hold something.
    queues: Mutex<Vec<Weak<Queue>>>,
    /// What those queues share.
    shared: queue::Shared,
    over_long: OverLong,
    observers: Observers,
    tokenizers: Tokenizers,
    /// Room for what is held for callers before it is in the queue.
    bytes: FairSemaphore,
    draining: AtomicBool,
}

impl Intake {
    /// In front of each model's first generation, of which there is at least one; `shared` is what their queues were made with.
    pub(super) fn new(models: Vec<Arc<Served>>, config: &Config, shared: queue::Shared, observers: Observers) -> Self {
        Self(Arc::new(Shared {
            queues: Mutex::new(models.iter().map(|first| Arc::downgrade(&first.queue)).collect()),
            models: models.into_iter().map(watch::Sender::new).collect(),
            shared,
            over_long: config.over_long,
            observers,
            tokenizers: Tokenizers::new(config.tokenizer_threads),
            // As many rollouts as there are bytes for.
            bytes: FairSemaphore::new(usize::MAX >> 2, config.intake_bytes, BYTES_QUANTUM),
            draining: AtomicBool::new(false),
        }))
    }

    /// The generation of the first model that takes what is submitted now, to be watched.
    pub fn served(&self) -> watch::Receiver<Arc<Served>> {
        self.0.models[0].subscribe()
    }

    /// The generation of each model that takes what is submitted now.
    pub fn models(&self) -> Vec<Arc<Served>> {
        self.0.present()
    }

    /// The model of a name, or the first of all where there is no name.
    ///
    /// # Errors
    /// `UNKNOWN_MODEL`, with the names that there are.
    pub fn model(&self, name: &str) -> Result<Arc<Served>, Rejection> {
        self.0.model(name)
    }

    /// From now on `next` takes what is submitted to model `index`. What its present generation has accepted, or is about to, stays
    /// with that.
    pub(super) fn replace(&self, index: usize, next: Arc<Served>) {
        let mut queues = self.0.queues();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&next.queue));
        drop(queues);
        drop(self.0.models[index].send_replace(next));
    }

    /// The first model, as it scores what is submitted now.
    pub fn card(&self) -> Arc<ModelCard> {
        Arc::clone(self.0.models[0].borrow().card())
    }

    /// What happens to rollouts longer than the context.
    pub fn over_long(&self) -> OverLong {
        self.0.over_long
    }

    /// Threads that turn text into tokens.
    pub fn tokenizer_threads(&self) -> usize {
        self.0.tokenizers.count()
    }

    /// From now on every rollout is refused with `DRAINING`.
    pub(super) fn close(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.bytes.close();
        self.0.shared.refuse();
        self.0.each_queue(Queue::end);
    }

    /// Nothing more waits for company: no more is to come.
    pub(super) fn flush(&self) {
        self.0.each_queue(Queue::flush);
    }

    /// Answers everything that waits, and lets nothing more reach an engine.
    pub(super) fn abandon(&self) {
        self.0.each_queue(Queue::abandon);
    }

    /// How many accepted rollouts are unanswered, to be watched.
    pub(super) fn unanswered(&self) -> watch::Receiver<usize> {
        self.0.shared.unanswered()
    }

    /// Room, in bytes, for what is held for callers before it is in the queue (`intake_bytes`): messages, and rollouts that wait for
    /// a tokenizer or for room in the queue. A transport takes of it before it reads a message, and holds that until
    /// [`Self::submit`] or [`Deferred::finish`] is through.
    pub(super) fn bytes(&self) -> &FairSemaphore {
        &self.0.bytes
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
    /// ids and a queue that has room, and gives back the rest of the work where it cannot.
    ///
    /// The scoring threads are not woken by this call: after one rollout or a few, call [`Self::wake`]. Until then they may wait.
    ///
    /// # Errors
    /// The rest of the work, which is not a failure.
    pub fn try_submit(&self, rollout: Rollout, mut ticket: Ticket, received: Instant) -> Result<(), Deferred> {
        let id = shortened(&rollout.id, limits::MAX_ID_BYTES);
        let span = info_span!(parent: None, "rollout", id, tokens = tracing::field::Empty);
        trace::adopt(&span, &rollout.traceparent, &rollout.tracestate);
        let intake_span = info_span!(parent: &span, "intake");
        ticket.enter(span, Observed::new(&self.0.observers, id, &rollout.aggregation));
        let served = match self.0.model(&rollout.model) {
            Ok(served) => served,
            Err(rejection) => {
                ticket.answer(Err(rejection));
                return Ok(());
            }
        };
        match intake_span.in_scope(|| self.0.begin(&served, rollout, received)) {
            Ok(Progress::Admitted(admitted)) => {
                drop(intake_span);
                served.push(admitted, ticket);
            }
            Ok(Progress::Waits(step, deadline)) => {
                let shared = Arc::clone(&self.0);
                return Err(Deferred(Box::new(Rest { shared, served, step, deadline, ticket, received, intake_span })));
            }
            Err(rejection) => ticket.answer(Err(rejection)),
        }
        Ok(())
    }

    /// What would be scored of a rollout: its tokens and reads, or why it has none. Nothing is queued.
    pub(super) async fn prove(&self, caller: &Identity, rollout: Rollout) -> Result<ValidRollout, Rejection> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(draining());
        }
        let served = self.0.model(&rollout.model)?;
        self.0.tokenize(&served, caller, rollout).await.map(|(valid, _)| valid)
    }

    /// To be called when a caller has left or cancelled: what it had waiting is answered, and makes room for others.
    pub fn sweep(&self) {
        self.0.each_queue(Queue::sweep);
    }

    /// Wakes the threads that score, where something came in that they must look at. To be called after one or several
    /// [`Self::try_submit`]s: one call for several lets them go into one micro-batch.
    pub fn wake(&self) {
        // Called for every rollout or few: waking answers nobody, so it may be done under the lock, without a list of queues.
        self.0.queues().iter().filter_map(Weak::upgrade).for_each(|queue| queue.wake());
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("model", &self.card().model_version).finish_non_exhaustive()
    }
}

/// How far a rollout came without waiting.
enum Progress {
    Admitted(Admitted),
    /// What it waits for, and until when.
    Waits(Step, Option<Instant>),
}

/// What a rollout has to wait for next.
enum Step {
    /// A thread on which its text becomes tokens; then for room.
    Tokenizer(Box<Rollout>),
    /// Room in the queue.
    Room(ValidRollout, Bound),
}

impl Shared {
    /// See [`Intake::model`].
    fn model(&self, name: &str) -> Result<Arc<Served>, Rejection> {
        let first = || Arc::clone(&self.models[0].borrow());
        if name.is_empty() {
            return Ok(first());
        }
        let named = self.models.iter().map(|model| model.borrow()).find(|served| served.name() == name);
        named.map(|served| Arc::clone(&served)).ok_or_else(|| self.unknown(name))
    }

    /// See [`Intake::models`].
    fn present(&self) -> Vec<Arc<Served>> {
        self.models.iter().map(|model| Arc::clone(&model.borrow())).collect()
    }

    fn unknown(&self, name: &str) -> Rejection {
        let models = self.present();
        let names: Vec<&str> = models.iter().map(|served| served.name()).collect();
        let name = shortened(name, limits::MAX_NAME_BYTES);
        let meant = match nearest(name, names.iter().copied()) {
            Some(nearest) => format!("; did you mean '{nearest}'?"),
            None => ".".to_owned(),
        };
        let what = format!("model: there is no '{name}'{meant} There are: {}", names.join(", "));
        Rejection::new(Code::UnknownModel, what)
    }

    /// As far as it goes at once.
    fn begin(&self, served: &Served, rollout: Rollout, received: Instant) -> Result<Progress, Rejection> {
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
            return Ok(Progress::Waits(Step::Tokenizer(Box::new(rollout)), deadline));
        }
        let (rollout, bound) = served.check(rollout)?;
        Ok(match served.queue.try_room(rollout.total_tokens()) {
            Some(room) => Progress::Admitted(Admitted { rollout, bound, received, deadline, room }),
            None => Progress::Waits(Step::Room(rollout, bound), deadline),
        })
    }

    /// The rest of the work.
    async fn finish(
        &self,
        served: &Arc<Served>,
        caller: &Identity,
        step: Step,
        received: Instant,
        deadline: Option<Instant>,
    ) -> Result<Admitted, Rejection> {
        let admit = async {
            let (rollout, bound) = match step {
                Step::Tokenizer(rollout) => self.tokenize(served, caller, *rollout).await?,
                Step::Room(rollout, bound) => (rollout, bound),
            };
            let room = served.queue.room(caller, rollout.total_tokens()).await.map_err(|Closed| draining())?;
            Ok(Admitted { rollout, bound, received, deadline, room })
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), admit).await.unwrap_or_else(|_| Err(expired())),
            None => admit.await,
        }
    }

    /// Checks and tokenizes text on a blocking thread.
    async fn tokenize(
        &self,
        served: &Arc<Served>,
        caller: &Identity,
        rollout: Rollout,
    ) -> Result<(ValidRollout, Bound), Rejection> {
        let bytes = rules::text_bytes(&rollout);
        let tokenizer = self.tokenizers.acquire(caller, bytes).await.map_err(|Closed| draining())?;
        let served = Arc::clone(served);
        let span = Span::current();
        let work = move || {
            // It goes along with the work, which goes on when the caller leaves: there are never more texts at work than threads
            // for them.
            let _tokenizer = tokenizer;
            span.in_scope(|| served.check(rollout))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Rejection::new(Code::Lost, format!("the tokenizer failed: {e}"))))
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Queue>>> {
        // Pushing and retaining cannot panic half-way.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each_queue(&self, act: impl Fn(&Queue)) {
        // Acting may answer callers: not under the lock.
        let queues: Vec<_> = self.queues().iter().filter_map(Weak::upgrade).collect();
        queues.iter().for_each(|queue| act(queue));
    }
}

impl Served {
    fn check(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        let began = Instant::now();
        let proved = self.rules.check(rollout);
        metrics::stage(metrics::Stage::Intake, began.elapsed());
        proved
    }

    /// Without waking anybody; see [`Queue::push`].
    fn push(&self, admitted: Admitted, mut ticket: Ticket) {
        ticket.span().record("tokens", admitted.rollout.tokens.len());
        ticket.accept(&admitted.rollout, self.generation);
        self.queue.push(admitted, ticket);
    }
}

/// A rollout that could not be taken in at once: its text has to become tokens, or it has to wait for room. Dropped, it is
/// given up, and its ticket says so.
#[must_use = "the rollout is not taken in before `finish`"]
pub struct Deferred(Box<Rest>);

struct Rest {
    shared: Arc<Shared>,
    /// The generation that takes it, whatever comes after.
    served: Arc<Served>,
    step: Step,
    deadline: Option<Instant>,
    ticket: Ticket,
    received: Instant,
    /// Open since the rollout came.
    intake_span: Span,
}

impl Deferred {
    /// Does the rest of the work, as [`Intake::submit`] does, and wakes the threads that score.
    pub async fn finish(self) {
        let Rest { shared, served, step, deadline, ticket, received, intake_span } = *self.0;
        let caller = Arc::clone(ticket.caller());
        match shared.finish(&served, &caller, step, received, deadline).instrument(intake_span).await {
            Ok(admitted) => {
                served.push(admitted, ticket);
                served.queue.wake();
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
