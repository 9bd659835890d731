//! What was accepted and not yet scored: bounded by rollouts and by tokens, never silently lossy.
//!
//! A rollout needs room before it is pushed; room is given out fairly between callers, and waiting for it is the back-pressure.
//! The packer asks for the next micro-batch; which rollouts it is made of is decided by the pure [`batcher`].
//!
//! Invariants: an accepted rollout is answered exactly once; and the lock is held for no more than a walk over what waits:
//! planning and answering happen outside of it.
//!
//! Pushing a rollout does not wake the packer: who pushed one or several calls [`Queue::wake`] afterwards, so that rollouts that
//! come together are seen together.

mod groups;
mod pending;
mod state;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::info_span;

use self::pending::{Candidate, Unanswered};
use self::state::State;
use super::batcher::{self, Demand, Limits, Shares};
use super::fair::{Closed, FairSemaphore, Permit};
use super::metrics::{self, Stage};
use super::rejections::{cancelled, draining};
use super::{Config, Identity, Ticket};
use crate::engine::Prefixes;

pub(super) use self::pending::{Admitted, Pending, SharedPrefix};

/// Tokens of room that a caller's turn is worth: about one ordinary rollout.
const ROOM_QUANTUM: usize = 1024;

/// See the module.
pub(super) struct Queue {
    /// `max_tokens` is the most that [`Self::set_budget`] may choose.
    limits: Limits,
    budget: AtomicUsize,
    /// What the engine keeps, where it keeps something.
    prefixes: Option<Arc<dyn Prefixes>>,
    shared: Shared,
    state: Mutex<State>,
    /// Something in `state` changed that may let a micro-batch go. The packer alone waits for it.
    changed: Condvar,
}

/// What the queues of all generations of the model share.
#[derive(Clone)]
pub(super) struct Shared {
    /// Room for rollouts and their tokens.
    room: FairSemaphore,
    unanswered: Arc<watch::Sender<usize>>,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            room: FairSemaphore::new(config.queue_rollouts, config.queue_tokens, ROOM_QUANTUM),
            unanswered: Arc::new(watch::Sender::new(0)),
        }
    }

    /// How many accepted rollouts are unanswered, to be watched.
    pub(super) fn unanswered(&self) -> watch::Receiver<usize> {
        self.unanswered.subscribe()
    }

    /// Nobody finds room any more; those who wait for it are told.
    pub(super) fn refuse(&self) {
        self.room.close();
    }
}

/// Somebody waits for room: until something leaves the queue, nothing can come.
struct WaitsForRoom<'a> {
    queue: &'a Queue,
    _gauge: metrics::Waits,
}

impl<'a> WaitsForRoom<'a> {
    fn new(queue: &'a Queue) -> Self {
        let first = {
            let mut state = queue.lock();
            state.waiting_for_room += 1;
            state.waiting_for_room == 1
        };
        if first {
            queue.change(|_| ());
        }
        Self { queue, _gauge: metrics::waits_for_room() }
    }
}

impl Drop for WaitsForRoom<'_> {
    fn drop(&mut self) {
        self.queue.lock().waiting_for_room -= 1;
    }
}

impl Queue {
    pub(super) fn new(config: &Config, shared: Shared) -> Self {
        let max_tokens = NonZeroUsize::new(config.max_batch_tokens).unwrap_or(NonZeroUsize::MIN);
        Self {
            limits: Limits {
                max_tokens,
                max_rollouts: config.max_batch_rollouts,
                max_wait: Duration::from_millis(config.max_wait_ms),
                max_bypass: config.max_bypass,
                share_prefixes: config.share_prefixes,
            },
            budget: AtomicUsize::new(max_tokens.get()),
            prefixes: None,
            shared,
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
        }
    }

    /// The same for an engine that keeps prefixes: what they cost is not counted.
    pub(super) fn with_prefixes(self, prefixes: Option<Arc<dyn Prefixes>>) -> Self {
        Self { prefixes, ..self }
    }

    /// Room for a rollout of so many tokens, where it can be had at once and nobody waits for it. A rollout of more tokens than
    /// there is room for has all of it.
    pub(super) fn try_room(&self, tokens: usize) -> Option<Permit> {
        self.shared.room.try_acquire(tokens)
    }

    /// Waits for room, in turn with other callers.
    pub(super) async fn room(&self, caller: &Identity, tokens: usize) -> Result<Permit, Closed> {
        if let Some(room) = self.try_room(tokens) {
            return Ok(room);
        }
        let _waits = WaitsForRoom::new(self);
        self.shared.room.acquire(caller.connection, tokens).await
    }

    /// Takes an admitted rollout in; from here on it is answered exactly once. [`Self::wake`] must follow.
    pub(super) fn push(&self, admitted: Admitted, ticket: Ticket) {
        let Admitted { rollout, bound, received, deadline, room } = admitted;
        let queued = info_span!(parent: ticket.span(), "queue");
        let caller = ticket.caller().connection;
        let mut candidate = Candidate::new(rollout, caller, deadline, self.limits.share_prefixes);
        metrics::stage(Stage::Admission, candidate.accepted.saturating_duration_since(received));
        let (room, _unanswered) = (Some(room), Unanswered::count(&self.shared.unanswered));
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return ticket.answer(Err(draining()));
        }
        let number = state.next_number;
        state.next_number += 1;
        candidate.number = number;
        let candidate = Arc::new(candidate);
        state.tokens += candidate.cost();
        state.attention |= state.is_worth_a_look(&candidate, &self.limits);
        let pending = Pending { candidate, bound, received, ticket, shared_prefix: None, queued, room, _unanswered };
        state.waiting.insert(number, pending);
        state.publish();
    }

    /// Wakes the packer where something came in that it must look at.
    pub(super) fn wake(&self) {
        if self.lock().attention {
            self.changed.notify_one();
        }
    }

    /// What waits, and what comes, is handed out without waiting for more.
    pub(super) fn flush(&self) {
        self.change(|state| state.flushed = true);
    }

    /// Nothing more is taken; what waits is handed out, then [`Self::next_batch`] ends.
    pub(super) fn end(&self) {
        self.change(|state| (state.closed, state.flushed) = (true, true));
    }

    /// Answers everything that waits with `DRAINING`, and lets nothing more reach the engine.
    pub(super) fn abandon(&self) {
        let waiting = self.change(|state| {
            state.abandoned = true;
            state.tokens = 0;
            let waiting = std::mem::take(&mut state.waiting);
            state.publish();
            waiting
        });
        for pending in waiting.into_values() {
            pending.ticket.answer(Err(draining()));
        }
    }

    /// Answers those whose callers have left or cancelled them, now: they give their room to others.
    pub(super) fn sweep(&self) {
        let withdrawn: Vec<Pending> = {
            let mut state = self.lock();
            let numbers =
                state.waiting.iter().filter(|(_, pending)| pending.ticket.withdrawn()).map(|(number, _)| *number);
            let numbers: Vec<u64> = numbers.collect();
            let withdrawn = numbers.into_iter().filter_map(|number| state.remove(number)).collect();
            state.publish();
            withdrawn
        };
        // Answering runs callers' code: not under the lock.
        withdrawn.into_iter().for_each(|pending| pending.ticket.answer(Err(cancelled())));
    }

    /// The engine has nothing to do. Where a micro-batch is on its way to it already, that changes nothing.
    pub(super) fn engine_idle(&self) {
        let mut state = self.lock();
        if state.demand == Demand::Ahead {
            state.demand = Demand::Now;
            state.attention = true;
            self.changed.notify_one();
        }
    }

    /// The engine took the micro-batch that lay ready; the next may be made.
    pub(super) fn batch_taken(&self) {
        self.change(|state| state.demand = Demand::Ahead);
    }

    /// Whether nothing more is to be scored.
    pub(super) fn abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// What micro-batches may cost from now on, as far as the limits allow.
    pub(super) fn set_budget(&self, tokens: usize) {
        self.budget.store(tokens, Ordering::Relaxed);
    }

    /// Blocks until a micro-batch is due, which then meets the demand; `None` when closed and empty. Those who wait here
    /// and are withdrawn or expire are answered on the way, whatever the engine is doing; those in the micro-batch that lies
    /// ready are when the engine turns to it. For the packer alone, who keeps the callers' shares.
    pub(super) fn next_batch(&self, shares: &mut Shares) -> Option<Vec<Pending>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (demand, limits) = (state.due_demand(), self.limits(&state));
            let snapshot = state.snapshot();
            drop(state);
            let prefixes = self.prefixes.as_deref();
            let view: Vec<_> =
                snapshot.iter().map(|(candidate, withdrawn)| candidate.waiting(*withdrawn, prefixes)).collect();
            let plan = batcher::plan(&view, shares, now, demand, &limits);
            plan.bypassed.iter().for_each(|&i| snapshot[i].0.pass_over());
            state = self.lock();
            state.planned(&plan, &snapshot, &self.limits);
            if !plan.is_empty() {
                let taken = state.take(&plan, &snapshot);
                if !taken.batch.is_empty() {
                    state.demand = Demand::Met;
                }
                // Answering runs callers' code: not under the lock.
                drop(state);
                if let Some(batch) = taken.finish(&plan, &snapshot) {
                    return Some(batch);
                }
                state = self.lock();
                continue;
            }
            if state.closed && state.waiting.is_empty() {
                return None;
            }
            state = self.sleep(state, plan.wake);
        }
    }

    /// Until something needs attention, or it is time.
    fn sleep<'a>(&'a self, state: MutexGuard<'a, State>, until: Option<Instant>) -> MutexGuard<'a, State> {
        let asleep = |state: &mut State| !state.attention;
        match until {
            Some(until) => {
                let timeout = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout_while(state, timeout, asleep).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, asleep).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The limits of the next micro-batch.
    fn limits(&self, state: &State) -> Limits {
        let budget = NonZeroUsize::new(self.budget.load(Ordering::Relaxed)).unwrap_or(NonZeroUsize::MIN);
        let max_wait = if state.expects_nothing() { Duration::ZERO } else { self.limits.max_wait };
        Limits { max_tokens: budget.min(self.limits.max_tokens), max_wait, ..self.limits }
    }

    /// Changes what the packer must look at, and wakes it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.attention = true;
        let value = change(&mut state);
        drop(state);
        self.changed.notify_one();
        value
    }

    /// A panic elsewhere never happens while the state is half-changed, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
