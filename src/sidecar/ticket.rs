//! The way back: a [`Ticket`] answers its rollout exactly once. Dropped unanswered, it answers by itself, so nobody waits
//! for ever: `CANCELLED` where the caller gave up, `LOST` where the rollout had been accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::caller::Identity;
use super::observer::{Observed, answered_unread};
use crate::reward::{Code, Outcome, Rejection};
use crate::rollout::ValidRollout;

/// A caller's interest in its rollouts; one for all that end together (a stream, a batch, a lane).
#[derive(Debug, Clone)]
pub struct Interest(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    withdrawn: AtomicBool,
    caller: Arc<Identity>,
}

impl Interest {
    /// The interest of `caller`, which may have several (one for each stream of a connection).
    pub fn of(caller: &Arc<Identity>) -> Self {
        Self(Arc::new(Shared { withdrawn: AtomicBool::new(false), caller: Arc::clone(caller) }))
    }

    /// Whose interest it is.
    pub fn caller(&self) -> &Arc<Identity> {
        &self.0.caller
    }

    /// The caller left: what is not yet scored need not be.
    pub fn withdraw(&self) {
        self.0.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether the caller left.
    pub fn withdrawn(&self) -> bool {
        self.0.withdrawn.load(Ordering::Relaxed)
    }
}

/// Withdraws one rollout while its caller stays.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// The rollout need not be scored any more. Its ticket still answers, with `CANCELLED` where it was not too late. What
    /// waits is answered at the next [`super::Intake::sweep`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers one rollout, exactly once.
pub struct Ticket {
    answer: Option<Box<dyn FnOnce(Outcome) + Send>>,
    interest: Interest,
    /// Made for those who ask for it.
    cancellation: Option<Cancellation>,
    span: tracing::Span,
    /// Who is to be told what becomes of the rollout; `None` until intake has it.
    observed: Option<Observed>,
    /// From here on its answer is owed; dropped before, the caller gave it up and nothing is lost.
    accepted: bool,
}

impl Ticket {
    /// A ticket that hands its answer to `answer`, which must not block.
    pub fn new(interest: Interest, answer: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self {
            answer: Some(Box::new(answer)),
            interest,
            cancellation: None,
            span: tracing::Span::none(),
            observed: None,
            accepted: false,
        }
    }

    /// Gives the answer.
    pub fn answer(mut self, outcome: Outcome) {
        self.give(outcome);
    }

    /// The same ticket, which `cancellation` withdraws alone.
    pub fn cancelled_by(mut self, cancellation: Cancellation) -> Self {
        self.cancellation = Some(cancellation);
        self
    }

    /// What withdraws this rollout alone.
    pub fn cancellation(&mut self) -> Cancellation {
        self.cancellation.get_or_insert_default().clone()
    }

    /// Whose rollout it is.
    pub fn caller(&self) -> &Arc<Identity> {
        self.interest.caller()
    }

    /// Whether the caller left, or has cancelled this rollout.
    pub fn withdrawn(&self) -> bool {
        self.interest.withdrawn() || self.cancellation.as_ref().is_some_and(Cancellation::cancelled)
    }

    /// The span of the rollout's whole stay; ends with the ticket.
    pub(super) fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// Intake has the rollout.
    pub(super) fn enter(&mut self, span: tracing::Span, observed: Observed) {
        (self.span, self.observed) = (span, Some(observed));
    }

    /// The rollout goes into the queue of a generation: from here on it must be answered.
    pub(super) fn accept(&mut self, rollout: &ValidRollout, generation: u64) {
        self.accepted = true;
        if let Some(observed) = &mut self.observed {
            observed.accepted(self.interest.caller(), rollout, generation);
        }
    }

    fn give(&mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            match &self.observed {
                Some(observed) => observed.answered(self.caller(), &outcome),
                None => answered_unread(self.caller(), &outcome),
            }
            answer(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give(Err(if self.withdrawn() || !self.accepted {
            super::rejections::cancelled()
        } else {
            Rejection::new(Code::Lost, "the server lost this rollout; please report it as a bug")
        }));
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("answered", &self.answer.is_none()).finish_non_exhaustive()
    }
}
