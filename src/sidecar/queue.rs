//! What was accepted and not yet scored: bounded by rollouts and by tokens, never silently lossy.
//!
//! Whoever wants in first takes [`Room`], in order of arrival; full means waiting at the door, which is the back-pressure.
//! The scorer's side asks for the next micro-batch; the decision itself is the pure [`batcher`]'s.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::info_span;

use super::batcher::{self, Demand, Limits, Waiting};
use super::intake::{Admitted, draining, expired};
use super::{Config, Ticket, metrics};
use crate::aggregate::Bound;
use crate::batch::unique_tokens;
use crate::reward::{Code, Rejection};
use crate::rollout::ValidRollout;

/// See the module.
pub(super) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    /// Something in `state` changed that may let a micro-batch go.
    changed: Condvar,
    rollouts: Arc<Semaphore>,
    tokens: Arc<Semaphore>,
    /// The token room of an empty queue, so that one rollout longer than it still finds room.
    token_room: u32,
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

/// A place in the queue; given back when dropped.
pub(super) struct Room {
    _rollout: OwnedSemaphorePermit,
    _tokens: OwnedSemaphorePermit,
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

/// The queue takes nothing any more.
#[derive(Debug)]
pub(super) struct NoRoom;

/// An accepted rollout on its way to the engine.
pub(super) struct Pending {
    pub(super) rollout: ValidRollout,
    pub(super) bound: Bound,
    pub(super) deadline: Option<Instant>,
    pub(super) arrived: Instant,
    pub(super) ticket: Ticket,
    /// See [`Waiting::beside`].
    beside: usize,
    bypassed: u32,
    /// Open while it waits.
    queued: tracing::Span,
    room: Option<Room>,
    _unanswered: Unanswered,
}

/// Counts an accepted rollout until it is answered.
struct Unanswered(Arc<watch::Sender<usize>>);

impl Unanswered {
    fn count(sender: &Arc<watch::Sender<usize>>) -> Self {
        sender.send_modify(|n| *n += 1);
        Self(Arc::clone(sender))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Pending {
    fn waiting(&self) -> Waiting<'_> {
        Waiting {
            tokens: &self.rollout.tokens,
            beside: self.beside,
            group: &self.rollout.group,
            priority: self.rollout.priority,
            arrived: self.arrived,
            deadline: self.deadline,
            bypassed: self.bypassed,
            withdrawn: self.ticket.withdrawn(),
        }
    }

    /// Why it should not be scored any more, if so.
    pub(super) fn obsolete(&self, now: Instant) -> Option<Rejection> {
        if self.ticket.withdrawn() {
            Some(left())
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(expired())
        } else {
            None
        }
    }

    /// The wait is over: closes its span and gives its room to the next.
    fn leave_queue(&mut self) {
        self.queued = tracing::Span::none();
        self.room = None;
    }
}

pub(super) fn left() -> Rejection {
    Rejection::new(Code::Cancelled, "the caller left before the rollout was scored")
}

impl Queue {
    pub(super) fn new(config: &Config) -> Self {
        // Permits are counted in u32 at a time; the ceilings in `limits` are below that.
        let token_room = u32::try_from(config.queue_tokens).unwrap_or(u32::MAX);
        Self {
            limits: Limits {
                max_tokens: config.max_batch_tokens,
                max_rollouts: config.max_batch_rollouts,
                max_wait: Duration::from_millis(config.max_wait_ms),
                max_bypass: config.max_bypass,
                share_prefixes: config.share_prefixes,
            },
            state: Mutex::new(State {
                waiting: Vec::new(),
                tokens: 0,
                asleep_until: None,
                full_from: 0,
                demand: Demand::Ahead,
                at_the_door: 0,
                flushed: false,
                closed: false,
                abandoned: false,
            }),
            changed: Condvar::new(),
            rollouts: Arc::new(Semaphore::new(config.queue_rollouts)),
            tokens: Arc::new(Semaphore::new(token_room as usize)),
            token_room,
            unanswered: Arc::new(watch::Sender::new(0)),
        }
    }

    /// How many accepted rollouts are unanswered, to be watched.
    pub(super) fn unanswered(&self) -> watch::Receiver<usize> {
        self.unanswered.subscribe()
    }

    /// Waits for room, in order of arrival.
    pub(super) async fn room(&self, tokens: usize) -> Result<Room, NoRoom> {
        let wanted = u32::try_from(tokens).unwrap_or(u32::MAX).min(self.token_room);
        let rollouts = Arc::clone(&self.rollouts).try_acquire_owned();
        let tokens = Arc::clone(&self.tokens).try_acquire_many_owned(wanted);
        if let (Ok(rollout), Ok(tokens)) = (rollouts, tokens) {
            return Ok(Room { _rollout: rollout, _tokens: tokens });
        }
        let _door = Door::stand_at(self);
        let rollout = Arc::clone(&self.rollouts).acquire_owned().await.map_err(|_| NoRoom)?;
        let tokens = Arc::clone(&self.tokens).acquire_many_owned(wanted).await.map_err(|_| NoRoom)?;
        Ok(Room { _rollout: rollout, _tokens: tokens })
    }

    /// Lets an admitted rollout in; from here on it is answered exactly once.
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
        let look = (may_go && state.demand != Demand::Met)
            || deadline.is_some_and(|deadline| state.asleep_until.is_none_or(|wake| deadline < wake));
        state.waiting.push(Pending {
            rollout,
            bound,
            deadline,
            arrived,
            ticket,
            beside,
            bypassed: 0,
            queued,
            room,
            _unanswered,
        });
        metrics::queue(state.waiting.len(), state.tokens);
        drop(state);
        if look {
            self.changed.notify_one();
        }
    }

    /// Nobody finds room any more; those who wait for it are told.
    pub(super) fn refuse(&self) {
        self.rollouts.close();
        self.tokens.close();
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
            let alone = state.flushed || state.at_the_door > 0;
            let (demand, max_wait) = match state.demand {
                Demand::Ahead if alone => (Demand::Now, Duration::ZERO),
                demand if alone => (demand, Duration::ZERO),
                demand => (demand, self.limits.max_wait),
            };
            let view: Vec<_> = state.waiting.iter().map(Pending::waiting).collect();
            let plan = batcher::plan(&view, now, demand, &Limits { max_wait, ..self.limits });
            for &i in &plan.bypassed {
                state.waiting[i].bypassed += 1;
            }
            state.asleep_until = plan.wake;
            state.full_from = plan.full_from;
            if !(plan.batch.is_empty() && plan.withdrawn.is_empty() && plan.expired.is_empty()) {
                let Taken { batch, withdrawn, expired: late } = take(&mut state.waiting, &plan);
                if !batch.is_empty() {
                    state.demand = Demand::Met;
                }
                state.tokens = state.waiting.iter().map(|p| p.waiting().cost()).sum();
                metrics::queue(state.waiting.len(), state.tokens);
                // Answering runs callers' code: not under the lock.
                drop(state);
                withdrawn.into_iter().for_each(|p| p.ticket.answer(Err(left())));
                late.into_iter().for_each(|p| p.ticket.answer(Err(expired())));
                if !batch.is_empty() {
                    return Some(batch);
                }
                state = self.lock();
                continue;
            }
            if state.closed && state.waiting.is_empty() {
                return None;
            }
            state = match plan.wake {
                Some(wake) => {
                    let timeout = wake.saturating_duration_since(now);
                    self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A panic elsewhere never happens while the state is half-changed, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
