//! Who is told of what becomes of rollouts: metrics, and whatever a program that embeds the sidecar adds (a recording, a watch
//! over drift).
//!
//! The invariant: an observer is told of each accepted rollout once, and of each answer once, the acceptance first. It sees the
//! tokens themselves, not a copy, and never holds anything up: it is called where rollouts pass and must not block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Identity, metrics};
use crate::reward::Outcome;
use crate::rollout::{AggregationSpec, ValidRollout};

/// See the module.
pub trait Observer: Send + Sync {
    /// A rollout goes into the queue.
    fn accepted(&self, accepted: &Accepted<'_>);

    /// A rollout has its answer, accepted before or not.
    fn answered(&self, answered: &Answered<'_>);
}

/// A rollout that is about to be queued.
#[derive(Clone, Copy)]
pub struct Accepted<'a> {
    /// Numbers the accepted rollouts of this sidecar; its answer bears the same number.
    pub number: u64,
    /// Whose it is.
    pub caller: &'a Identity,
    /// Its caller's name for it.
    pub id: &'a str,
    /// What will be scored; its tokens are shared (`Arc`), so keeping them is no copy.
    pub rollout: &'a ValidRollout,
    /// How its attributes become a reward.
    pub aggregation: &'a Arc<AggregationSpec>,
    /// The generation of the model that will score it.
    pub generation: u64,
}

/// An answer on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The number of the accepted rollout; `None` where it was rejected before.
    pub number: Option<u64>,
    /// Whose rollout it was.
    pub caller: &'a Identity,
    /// Its caller's name for it; empty where the transport could not read it.
    pub id: &'a str,
    /// The answer.
    pub outcome: &'a Outcome,
}

/// All observers of a sidecar; metrics are always the first.
#[derive(Clone)]
pub(super) struct Observers(Arc<Shared>);

struct Shared {
    all: Vec<Arc<dyn Observer>>,
    next_number: AtomicU64,
}

impl Observers {
    pub(super) fn new(more: Vec<Arc<dyn Observer>>) -> Self {
        let metrics: Arc<dyn Observer> = Arc::new(Metrics);
        let all = std::iter::once(metrics).chain(more).collect();
        Self(Arc::new(Shared { all, next_number: AtomicU64::new(0) }))
    }

    fn each(&self, tell: impl Fn(&dyn Observer)) {
        self.0.all.iter().for_each(|observer| tell(observer.as_ref()));
    }
}

/// The counters of accepted and answered rollouts.
struct Metrics;

impl Observer for Metrics {
    fn accepted(&self, accepted: &Accepted<'_>) {
        metrics::accepted(accepted.caller.transport);
    }

    fn answered(&self, answered: &Answered<'_>) {
        metrics::answered(answered.caller.transport, answered.outcome);
    }
}

/// What a ticket carries to tell the observers of its rollout.
pub(super) struct Observed {
    observers: Observers,
    id: String,
    aggregation: Arc<AggregationSpec>,
    number: Option<u64>,
}

impl Observed {
    pub(super) fn new(observers: &Observers, id: &str, aggregation: &Arc<AggregationSpec>) -> Self {
        Self { observers: observers.clone(), id: id.to_owned(), aggregation: Arc::clone(aggregation), number: None }
    }

    pub(super) fn accepted(&mut self, caller: &Identity, rollout: &ValidRollout, generation: u64) {
        let number = self.observers.0.next_number.fetch_add(1, Ordering::Relaxed);
        self.number = Some(number);
        let Self { id, aggregation, .. } = self;
        let accepted = Accepted { number, caller, id, rollout, aggregation, generation };
        self.observers.each(|observer| observer.accepted(&accepted));
    }

    pub(super) fn answered(&self, caller: &Identity, outcome: &Outcome) {
        let answered = Answered { number: self.number, caller, id: &self.id, outcome };
        self.observers.each(|observer| observer.answered(&answered));
    }
}

/// Counts an answer to what no transport could read, of which no other observer is told.
pub(super) fn answered_unread(caller: &Identity, outcome: &Outcome) {
    Metrics.answered(&Answered { number: None, caller, id: "", outcome });
}
