//! What was accepted and not yet scored: bounded by rollouts and by tokens, never silently lossy.
//!
//! Whoever wants in first takes [`Room`], in order of arrival; full means waiting at the door, which is the back-pressure.
//! The scorer's side asks for the next micro-batch; the decision itself is the pure [`batcher`]'s.
//!
//! Pushing a rollout does not wake the packer: whoever pushed one or several calls [`Queue::wake`] afterwards, so that rollouts
//! that come together are seen together.

mod groups;
mod pending;
mod room;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::info_span;

use self::pending::Unanswered;
use self::room::Capacity;
use super::batcher::{self, Demand, Limits};
use super::intake::{Admitted, draining, expired};
use super::{Config, Ticket, metrics};
use crate::batch::unique_tokens;
use crate::rollout::ValidRollout;

pub(super) use self::pending::{LeftBehind, Pending, left};
pub(super) use self::room::{NoRoom, Room};

/// See the module.
pub(super) struct Queue {
    /// `max_tokens` is the most that [`Self::set_budget`] may choose.
    limits: Limits,
    budget: AtomicUsize,
    capacity: Capacity,
    state: Mutex<State>,
    /// Something in `state` changed that may let a micro-batch go. The packer alone waits for it.
    changed: Condvar,
    unanswered: Arc<watch::Sender<usize>>,
}

struct State {
    waiting: Vec<Pending>,
    /// What those who wait cost a micro-batch, in tokens, each for itself.
    tokens: usize,
    /// Until when the packer sleeps if nothing wakes it, and from how many waiting tokens on it must look: so that an
    /// arrival costs the same however many wait.
    asleep_until: Option<Instant>,
    full_from: usize,
    /// Something came in that the packer must look at and has not been woken for.
    wake_owed: bool,
    demand: Demand,
    /// Rollouts that wait for room.
    at_the_door: usize,
    /// No company is to be expected: what waits is handed out without patience.
    flushed: bool,
    /// Nothing more is taken.
    closed: bool,
    /// Nothing more is scored.
    abandoned: bool,
}

/// Somebody waits for room: until something leaves, no company can come.
struct Door<'a>(&'a Queue);

impl<'a> Door<'a> {
    fn stand_at(queue: &'a Queue) -> Self {
        queue.lock().at_the_door += 1;
        queue.changed.notify_one();
        Self(queue)
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        self.0.lock().at_the_door -= 1;
    }
}

impl Queue {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            limits: Limits {
                max_tokens: config.max_batch_tokens,
                max_rollouts: config.max_batch_rollouts,
                max_wait: Duration::from_millis(config.max_wait_ms),
                max_bypass: config.max_bypass,
                share_prefixes: config.share_prefixes,
            },
            budget: AtomicUsize::new(config.max_batch_tokens),
            capacity: Capacity::new(config.queue_rollouts, config.queue_tokens),
            state: Mutex::new(State {
                waiting: Vec::new(),
                tokens: 0,
                asleep_until: None,
                full_from: 0,
                wake_owed: false,
                demand: Demand::Ahead,
                at_the_door: 0,
                flushed: false,
                closed: false,
                abandoned: false,
            }),
            changed: Condvar::new(),
            unanswered: Arc::new(watch::Sender::new(0)),
        }
    }

    /// How many accepted rollouts are unanswered, to be watched.
    pub(super) fn unanswered(&self) -> watch::Receiver<usize> {
        self.unanswered.subscribe()
    }

    /// Room, where it can be had at once.
    pub(super) fn try_room(&self, tokens: usize) -> Option<Room> {
        self.capacity.try_take(tokens)
    }

    /// Waits for room, in order of arrival.
    pub(super) async fn room(&self, tokens: usize) -> Result<Room, NoRoom> {
        if let Some(room) = self.try_room(tokens) {
            return Ok(room);
        }
        let _door = Door::stand_at(self);
        self.capacity.take(tokens).await
    }

    /// Lets an admitted rollout in; from here on it is answered exactly once. [`Self::wake`] must follow.
    pub(super) fn push(&self, admitted: Admitted, mut ticket: Ticket, arrived: Instant) {
        ticket.accept();
        let Admitted { rollout, bound, deadline, room } = admitted;
        let queued = info_span!(parent: ticket.span(), "queue");
        let beside = beside(&rollout, self.limits.share_prefixes);
        let (room, _unanswered) = (Some(room), Unanswered::count(&self.unanswered));
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return ticket.answer(Err(draining()));
        }
        state.tokens += rollout.tokens.len() + beside;
        let may_go = state.waiting.is_empty()
            || state.tokens >= state.full_from
            || state.waiting.len() + 1 >= self.limits.max_rollouts;
        state.wake_owed |= (may_go && state.demand != Demand::Met)
            || deadline.is_some_and(|deadline| state.asleep_until.is_none_or(|wake| deadline < wake));
        state.waiting.push(Pending {
            rollout,
            bound,
            deadline,
            arrived,
            ticket,
            beside,
            bypassed: 0,
            left_behind: None,
            pin: None,
            queued,
            room,
            _unanswered,
        });
        metrics::queue(state.waiting.len(), state.tokens);
    }

    /// Wakes the packer where something came in that it must look at.
    pub(super) fn wake(&self) {
        if std::mem::take(&mut self.lock().wake_owed) {
            self.changed.notify_one();
        }
    }

    /// Nobody finds room any more; those who wait for it are told.
    pub(super) fn refuse(&self) {
        self.capacity.close();
    }

    /// What waits, and what comes, is handed out without patience.
    pub(super) fn flush(&self) {
        self.lock().flushed = true;
        self.changed.notify_all();
    }

    /// Nothing more is taken; what waits is handed out, then [`Self::next_batch`] ends.
    pub(super) fn close(&self) {
        self.refuse();
        self.lock().closed = true;
        self.flush();
    }

    /// Answers everything that waits with `DRAINING`, and lets nothing more reach the engine.
    pub(super) fn abandon(&self) {
        let waiting = {
            let mut state = self.lock();
            state.abandoned = true;
            state.tokens = 0;
            std::mem::take(&mut state.waiting)
        };
        metrics::queue(0, 0);
        for pending in waiting {
            pending.ticket.answer(Err(draining()));
        }
    }

    /// Answers those whose callers have left, now: they give their room to others.
    pub(super) fn sweep(&self) {
        let left_behind: Vec<Pending> = {
            let mut state = self.lock();
            let left_behind: Vec<Pending> =
                state.waiting.extract_if(.., |pending| pending.ticket.withdrawn()).collect();
            state.tokens = state.waiting.iter().map(|pending| pending.waiting().cost()).sum();
            metrics::queue(state.waiting.len(), state.tokens);
            left_behind
        };
        // Answering runs callers' code: not under the lock.
        left_behind.into_iter().for_each(|pending| pending.ticket.answer(Err(left())));
    }

    /// The engine has nothing to do. Where a micro-batch is on its way to it already, that changes nothing.
    pub(super) fn engine_idle(&self) {
        let mut state = self.lock();
        if state.demand == Demand::Ahead {
            state.demand = Demand::Now;
            self.changed.notify_one();
        }
    }

    /// The engine took the micro-batch that lay ready; the next may be made.
    pub(super) fn batch_taken(&self) {
        self.lock().demand = Demand::Ahead;
        self.changed.notify_one();
    }

    /// Whether nothing more is to be scored.
    pub(super) fn abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// Blocks until a micro-batch is due, which then meets the demand; `None` when closed and empty. Those who wait here
    /// and leave or expire are answered on the way, whatever the engine is doing; those in the micro-batch that lies
    /// ready are when the engine turns to it.
    pub(super) fn next_batch(&self) -> Option<Vec<Pending>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state.wake_owed = false;
            let alone = state.flushed || state.at_the_door > 0;
            let (demand, max_wait) = match state.demand {
                Demand::Ahead if alone => (Demand::Now, Duration::ZERO),
                demand if alone => (demand, Duration::ZERO),
                demand => (demand, self.limits.max_wait),
            };
            let Handed { taken, wake, full_from } = state.hand_out(now, demand, &Limits { max_wait, ..self.limits() });
            state.asleep_until = wake;
            state.full_from = full_from;
            if let Some(taken) = taken {
                if !taken.batch.is_empty() {
                    state.demand = Demand::Met;
                }
                // Answering runs callers' code: not under the lock.
                drop(state);
                let batch = taken.answer_the_rest();
                if !batch.is_empty() {
                    return Some(batch);
                }
                state = self.lock();
                continue;
            }
            if state.closed && state.waiting.is_empty() {
                return None;
            }
            state = match wake {
                Some(wake) => {
                    let timeout = wake.saturating_duration_since(now);
                    self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Unique tokens of the micro-batches from now on, as far as the limits allow.
    pub(super) fn set_budget(&self, tokens: usize) {
        self.budget.store(tokens, Ordering::Relaxed);
    }

    /// The limits of the next micro-batch.
    fn limits(&self) -> Limits {
        Limits { max_tokens: self.budget.load(Ordering::Relaxed).min(self.limits.max_tokens), ..self.limits }
    }

    /// A panic elsewhere never happens while the state is half-changed, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a look at those who wait.
struct Handed {
    /// `None`: nobody's wait is over.
    taken: Option<Taken>,
    /// See [`batcher::Plan::wake`].
    wake: Option<Instant>,
    /// See [`batcher::Plan::full_from`].
    full_from: usize,
}

impl State {
    /// Plans, and takes out whom the plan names.
    fn hand_out(&mut self, now: Instant, demand: Demand, limits: &Limits) -> Handed {
        let view: Vec<_> = self.waiting.iter().map(Pending::waiting).collect();
        let plan = batcher::plan(&view, now, demand, limits);
        for &i in &plan.bypassed {
            self.waiting[i].bypassed += 1;
        }
        let nobody = plan.batch.is_empty() && plan.withdrawn.is_empty() && plan.expired.is_empty();
        let taken = (!nobody).then(|| {
            let mut taken = take(&mut self.waiting, &plan);
            groups::pin_prefixes(&mut taken.batch, &mut self.waiting);
            self.tokens = self.waiting.iter().map(|p| p.waiting().cost()).sum();
            metrics::queue(self.waiting.len(), self.tokens);
            taken
        });
        Handed { taken, wake: plan.wake, full_from: plan.full_from }
    }
}

/// Tokens that a rollout's other sequences add to its own.
fn beside(rollout: &ValidRollout, share_prefixes: bool) -> usize {
    let sequences: Vec<&[u32]> = rollout.sequences(0).map(|sequence| sequence.tokens).collect();
    let all = match share_prefixes {
        true => unique_tokens(&sequences),
        false => rollout.total_tokens(),
    };
    all - rollout.tokens.len()
}

struct Taken {
    batch: Vec<Pending>,
    withdrawn: Vec<Pending>,
    expired: Vec<Pending>,
}

impl Taken {
    /// Answers those who are not to be scored; the others come back.
    fn answer_the_rest(self) -> Vec<Pending> {
        self.withdrawn.into_iter().for_each(|p| p.ticket.answer(Err(left())));
        self.expired.into_iter().for_each(|p| p.ticket.answer(Err(expired())));
        self.batch
    }
}

/// Splits the waiting as the plan says.
fn take(waiting: &mut Vec<Pending>, plan: &batcher::Plan) -> Taken {
    let mut all: Vec<Option<Pending>> = std::mem::take(waiting).into_iter().map(Some).collect();
    let mut pick = |indices: &[usize]| -> Vec<Pending> {
        let mut picked: Vec<Pending> = indices.iter().filter_map(|&i| all[i].take()).collect();
        picked.iter_mut().for_each(Pending::leave_queue);
        picked
    };
    let taken = Taken { batch: pick(&plan.batch), withdrawn: pick(&plan.withdrawn), expired: pick(&plan.expired) };
    *waiting = all.into_iter().flatten().collect();
    taken
}
