//! What every transport does with the rollouts of one caller: tickets, ids that may not be in flight twice, cancelling,
//! and handing rollouts to intake without one that has to wait holding up the next.
//!
//! The invariant: each rollout that is admitted here is answered exactly once, whether its id is refused, its text is
//! tokenized later, or its caller leaves meanwhile. Nothing here knows a wire format.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::limits;
use crate::reward::{Code, Outcome, Rejection, shortened};
use crate::rollout::Rollout;
use crate::sidecar::observer::answered_unread;
use crate::sidecar::{Cancellation, Deferred, Identity, Intake, Interest, Ticket};

/// How long an id stays taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdsUnique {
    /// Until its rollout is answered: the ids of a stream.
    InFlight,
    /// Until the caller is gone: the ids of one batch, whose replies are matched by them.
    Always,
}

/// The rollouts of one call (a stream, a batch): their ids, and its interest in them. Dropped, it leaves.
#[derive(Debug)]
pub struct Caller {
    intake: Intake,
    interest: Interest,
    ids: Arc<Mutex<Ids>>,
    unique: IdsUnique,
}

#[derive(Debug, Default)]
struct Ids {
    /// Ids that may not be used (again), each with what cancels its rollout where that is not answered.
    taken: HashMap<String, Option<Cancellation>>,
}

impl Caller {
    /// A call of `identity`, which submits to `intake`.
    pub fn new(intake: &Intake, identity: &Arc<Identity>, unique: IdsUnique) -> Self {
        Self { intake: intake.clone(), interest: Interest::of(identity), ids: Arc::default(), unique }
    }

    /// The ticket of a rollout whose answer goes to `deliver`, with its id, which is cut where it is too long; `None` where the id is in
    /// use, which `deliver` has been told.
    pub fn admit(&self, id: &str, deliver: impl FnOnce(String, Outcome) + Send + 'static) -> Option<Ticket> {
        // Cut before it is copied; intake rejects what was too long.
        let id = shortened(id, limits::MAX_ID_BYTES).to_owned();
        let Some(cancellation) = lock(&self.ids).take(&id) else {
            let outcome = Err(self.duplicate(&id));
            answered_unread(self.interest.caller(), &outcome);
            deliver(id, outcome);
            return None;
        };
        let (ids, unique) = (Arc::clone(&self.ids), self.unique);
        let answer = move |outcome| {
            // Free before the answer is out: a caller that sees the answer may use the id again.
            lock(&ids).answered(&id, unique);
            deliver(id, outcome);
        };
        Some(Ticket::new(self.interest.clone(), answer).cancelled_by(cancellation))
    }

    fn duplicate(&self, id: &str) -> Rejection {
        let why = match self.unique {
            IdsUnique::Always => format!("id: '{id}' stands in this batch already; give each rollout an id of its own"),
            IdsUnique::InFlight => {
                format!("id: '{id}' is in flight on this stream; wait for its reply, or use another id")
            }
        };
        Rejection::new(Code::DuplicateId, why)
    }

    /// Withdraws the rollout called `id`; whether there is one that is not answered yet.
    pub fn cancel(&self, id: &str) -> bool {
        let cancellation = lock(&self.ids).taken.get(shortened(id, limits::MAX_ID_BYTES)).cloned().flatten();
        if let Some(cancellation) = &cancellation {
            cancellation.cancel();
            self.intake.sweep();
        }
        cancellation.is_some()
    }

    /// The caller is gone: what it has unanswered need not be scored, and gives its room to others at once.
    pub fn leave(&self) {
        if lock(&self.ids).any_unanswered() {
            self.interest.withdraw();
            self.intake.sweep();
        }
    }

    /// Scores the rollouts of one request; their outcomes in the order of the request. Each item is a rollout under its id, or
    /// the reason why its transport could not read it. `held` is dropped once all are accepted or answered.
    pub async fn score_all(
        &self,
        rollouts: impl IntoIterator<Item = (String, Result<Rollout, Rejection>)>,
        received: Instant,
        held: impl Send,
    ) -> Vec<Outcome> {
        let mut admission = Admission::new(&self.intake);
        let mut answers = Vec::new();
        for (id, rollout) in rollouts {
            let (deliver, answer) = oneshot::channel();
            answers.push(answer);
            // Fails only where the caller has left, who then needs no answer.
            if let Some(ticket) = self.admit(&id, move |_, outcome| drop(deliver.send(outcome))) {
                admission.submit(rollout, ticket, received, ()).await;
            }
        }
        admission.finish().await;
        drop(held);
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            // A ticket answers even when it is dropped.
            outcomes.push(answer.await.unwrap_or_else(|_| Err(Rejection::new(Code::Lost, "the rollout was lost"))));
        }
        outcomes
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Ids {
    /// Takes an id for a rollout; `None` where it is taken already.
    fn take(&mut self, id: &str) -> Option<Cancellation> {
        match self.taken.entry(id.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => entry.insert(Some(Cancellation::default())).clone(),
        }
    }

    fn any_unanswered(&self) -> bool {
        self.taken.values().any(Option::is_some)
    }

    fn answered(&mut self, id: &str, unique: IdsUnique) {
        match unique {
            IdsUnique::InFlight => drop(self.taken.remove(id)),
            IdsUnique::Always => drop(self.taken.insert(id.to_owned(), None)),
        }
    }
}

fn lock(ids: &Mutex<Ids>) -> MutexGuard<'_, Ids> {
    // Inserting and removing cannot panic half-way.
    ids.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands one caller's rollouts to intake in order. Those whose text has to become tokens go on beside each other, as many as there
/// are threads for it and one more; the next one then waits, which is the caller's back-pressure. Dropped, it gives up what
/// is not accepted yet.
pub struct Admission {
    intake: Intake,
    waiting: JoinSet<()>,
    most: usize,
}

impl Admission {
    /// Into `intake`.
    pub fn new(intake: &Intake) -> Self {
        Self { intake: intake.clone(), waiting: JoinSet::new(), most: intake.tokenizer_threads() + 1 }
    }

    /// Hands over one rollout, or rejects what its transport could not read. `held` is what the transport holds of it until it is
    /// accepted or answered, and is dropped then.
    pub async fn submit(
        &mut self,
        rollout: Result<Rollout, Rejection>,
        ticket: Ticket,
        received: Instant,
        held: impl Send + 'static,
    ) {
        match rollout {
            Err(rejection) => ticket.answer(Err(rejection)),
            Ok(rollout) => match self.intake.try_submit(rollout, ticket, received) {
                Ok(()) => self.intake.wake(),
                Err(deferred) => self.wait_for(deferred, held).await,
            },
        }
        // Those that are through need not be kept.
        while self.waiting.try_join_next().is_some() {}
    }

    async fn wait_for(&mut self, deferred: Deferred, held: impl Send + 'static) {
        while self.waiting.len() >= self.most {
            self.waiting.join_next().await;
        }
        self.waiting.spawn(async move {
            deferred.finish().await;
            drop(held);
        });
    }

    /// Waits until everything is accepted or answered.
    pub async fn finish(&mut self) {
        while self.waiting.join_next().await.is_some() {}
    }
}
