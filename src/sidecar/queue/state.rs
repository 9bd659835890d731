//! What the queue's lock protects. Nothing here waits, plans or answers, but for what a plan took out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::groups;
use super::pending::{Candidate, Pending};
use crate::sidecar::batcher::{Demand, Limits, Plan};
use crate::sidecar::metrics;
use crate::sidecar::rejections::{cancelled, expired};

/// See the module.
pub(super) struct State {
    /// By number, which is the order of acceptance.
    pub waiting: BTreeMap<u64, Pending>,
    pub next_number: u64,
    /// What those who wait cost a micro-batch, in tokens, each for itself.
    pub tokens: usize,
    /// What the metrics were told of rollouts and tokens.
    pub reported: (usize, usize),
    /// Something happened that the packer must look at.
    pub attention: bool,
    /// Until when the packer sleeps if nothing wakes it, and from how many waiting tokens on it must look: so that an
    /// arrival costs the same however many wait.
    pub asleep_until: Option<Instant>,
    pub full_from: usize,
    pub demand: Demand,
    /// Rollouts that wait for room.
    pub waiting_for_room: usize,
    /// No more rollouts are to be expected soon: what waits is handed out at once.
    pub flushed: bool,
    /// Nothing more is taken.
    pub closed: bool,
    /// Nothing more is scored.
    pub abandoned: bool,
}

/// What the packer plans on: each candidate, and whether it was withdrawn.
pub(super) type Snapshot = [(Arc<Candidate>, bool)];

impl State {
    /// Nothing waits, and the engine is not known to be idle.
    pub fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_number: 0,
            tokens: 0,
            reported: (0, 0),
            attention: false,
            asleep_until: None,
            full_from: 0,
            demand: Demand::Ahead,
            waiting_for_room: 0,
            flushed: false,
            closed: false,
            abandoned: false,
        }
    }

    /// Whether nothing can come that a micro-batch could wait for.
    pub fn expects_nothing(&self) -> bool {
        self.flushed || self.waiting_for_room > 0
    }

    pub fn due_demand(&self) -> Demand {
        if self.demand == Demand::Ahead && self.expects_nothing() { Demand::Now } else { self.demand }
    }

    /// What waits now. Until [`Self::planned`], arrivals need no attention: they are looked at then.
    pub fn snapshot(&mut self) -> Box<Snapshot> {
        self.attention = false;
        (self.asleep_until, self.full_from) = (Some(Instant::now()), usize::MAX);
        self.waiting.values().map(|pending| (Arc::clone(&pending.candidate), pending.ticket.withdrawn())).collect()
    }

    /// A plan was made of the snapshot. Attention is needed for what has arrived since, where it might change the plan.
    pub fn planned(&mut self, plan: &Plan, snapshot: &Snapshot, limits: &Limits) {
        (self.asleep_until, self.full_from) = (plan.wake, plan.full_from);
        let first_new = snapshot.last().map_or(0, |(candidate, _)| candidate.number + 1);
        let new = self.waiting.range(first_new..);
        self.attention |= new.into_iter().any(|(_, pending)| self.is_worth_a_look(&pending.candidate, limits));
    }

    /// Whether the arrival of a candidate might let a micro-batch go, or is to be answered before the packer would look.
    pub fn is_worth_a_look(&self, arrival: &Candidate, limits: &Limits) -> bool {
        let first = self.waiting.first_key_value().is_none_or(|(first, _)| *first >= arrival.number);
        let may_go = first || self.tokens >= self.full_from || self.waiting.len() + 1 >= limits.max_rollouts;
        (may_go && self.demand != Demand::Met)
            || arrival.deadline.is_some_and(|deadline| self.asleep_until.is_none_or(|wake| deadline < wake))
    }

    /// Takes out what the plan names and is still there.
    pub fn take(&mut self, plan: &Plan, snapshot: &Snapshot) -> Taken {
        let mut take = |indices: &[usize]| -> Vec<Pending> {
            indices.iter().filter_map(|&i| self.remove(snapshot[i].0.number)).collect()
        };
        let taken = Taken { batch: take(&plan.batch), withdrawn: take(&plan.withdrawn), expired: take(&plan.expired) };
        self.publish();
        taken
    }

    pub fn remove(&mut self, number: u64) -> Option<Pending> {
        let pending = self.waiting.remove(&number)?;
        self.tokens -= pending.candidate.cost();
        Some(pending)
    }

    pub fn publish(&mut self) {
        let now = (self.waiting.len(), self.tokens);
        metrics::queue(std::mem::replace(&mut self.reported, now), now);
    }
}

/// What left the queue by a plan.
pub(super) struct Taken {
    pub batch: Vec<Pending>,
    withdrawn: Vec<Pending>,
    expired: Vec<Pending>,
}

impl Taken {
    /// Answers those who are not to be scored; the micro-batch's rollouts come back, if there are any.
    pub fn finish(self, plan: &Plan, snapshot: &Snapshot) -> Option<Vec<Pending>> {
        let Self { mut batch, withdrawn, expired: late } = self;
        let answer = |mut pending: Pending, rejection| {
            pending.leave_queue();
            pending.ticket.answer(Err(rejection));
        };
        withdrawn.into_iter().for_each(|pending| answer(pending, cancelled()));
        late.into_iter().for_each(|pending| answer(pending, expired()));
        batch.iter_mut().for_each(Pending::leave_queue);
        let mut stays = vec![true; snapshot.len()];
        plan.batch.iter().chain(&plan.withdrawn).chain(&plan.expired).for_each(|&i| stays[i] = false);
        let staying = snapshot.iter().zip(stays).filter(|(_, stays)| *stays).map(|((candidate, _), _)| &**candidate);
        groups::pin_prefixes(&mut batch, staying);
        (!batch.is_empty()).then_some(batch)
    }
}
