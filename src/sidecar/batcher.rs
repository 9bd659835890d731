//! Which of the waiting rollouts go into the next micro-batch: a function of what waits, of the callers' shares so far, of the time
//! and of the limits, and of nothing else.
//!
//! The budget is counted in rows that are to be computed, because those are what the engine pays for: unique tokens without
//! those that it keeps from earlier passes, as far as that is known. What rows attend to without computing it costs a share
//! ([`KEPT_PER_ROW`]). What is kept may be gone when the micro-batch runs: the scorer counts again. Rollouts are chosen one
//! after another; each brings along those that share tokens with it, whoever sent them, and then the rest of its group. Which
//! caller's is chosen next is decided by priority, and within a priority by deficit round robin in what rollouts cost; which of
//! that caller's, by priority, deadline and arrival.
//!
//! Invariants, each a property test:
//! - nothing is both taken and left; what was withdrawn or has expired is never taken;
//! - the budget is kept, but for a rollout that costs more than the whole budget, which goes alone;
//! - within a caller, a rollout is passed over by later arrivals in at most `max_bypass` micro-batches: from then on only such
//!   rollouts that arrived earlier are chosen before it;
//! - between callers, one who has something waiting is passed over in at most `max_bypass` micro-batches in a row, and after that
//!   only for callers who are in the same position;
//! - of two callers who both have rollouts of one priority waiting, neither is served more than the other by more than a bounded
//!   number of tokens.

mod callers;
mod relatives;
mod selection;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use self::callers::Callers;
use self::relatives::Relatives;
use self::selection::Selection;

pub use self::callers::Shares;

/// So many kept tokens that a rollout attends to cost as much as one row that is computed: a block of keys of the attention
/// kernel. That is about what it takes in the smallest models, and more than in large ones; and it bounds how many tokens a
/// micro-batch can name, whatever is kept.
pub const KEPT_PER_ROW: usize = 64;

/// What the batcher needs to know of one waiting rollout.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// How many of them, from the first on, need not be computed: the engine keeps them, and nothing is read there.
    pub known: usize,
    /// Unique tokens of its other sequences (earlier turns that are scored), which no other rollout is expected to share.
    pub beside: usize,
    /// The caller's connection.
    pub caller: u64,
    /// The caller's name for its group; empty means none. Equal names of different callers are different groups.
    pub group: &'a str,
    /// Higher goes first.
    pub priority: i32,
    /// When it was accepted into the queue.
    pub arrived: Instant,
    /// When it expires.
    pub deadline: Option<Instant>,
    /// In how many micro-batches it was passed over by a later arrival of its own caller.
    pub bypassed: u32,
    /// Nobody wants it any more.
    pub withdrawn: bool,
}

impl Waiting<'_> {
    /// What it adds to a micro-batch in which it shares nothing.
    pub fn cost(&self) -> usize {
        self.cost_beyond(0)
    }

    /// What it adds to a micro-batch that has its first `shared` tokens already.
    fn cost_beyond(&self, shared: usize) -> usize {
        let rows = self.tokens.len() - self.known.max(shared);
        rows + self.known.saturating_sub(shared).div_ceil(KEPT_PER_ROW) + self.beside
    }
}

/// The limits of one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows that are computed, see the module.
    pub max_tokens: NonZeroUsize,
    /// Rollouts.
    pub max_rollouts: usize,
    /// How long the oldest may wait for others to join it while the engine is idle.
    pub max_wait: Duration,
    /// See the module.
    pub max_bypass: u32,
    /// Whether prefixes will be shared; otherwise every token is unique.
    pub share_prefixes: bool,
}

/// What to do now. All indices are into the slice of [`Waiting`], ascending except for `batch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be answered `CANCELLED`.
    pub withdrawn: Vec<usize>,
    /// To be answered `DEADLINE_EXCEEDED`.
    pub expired: Vec<usize>,
    /// To be scored now, most urgent first; empty means wait.
    pub batch: Vec<usize>,
    /// Left although a later arrival of the same caller was taken.
    pub bypassed: Vec<usize>,
    /// When to look again if nothing arrives meanwhile; only set where something still waits.
    pub wake: Option<Instant>,
    /// How many submitted tokens must wait before a micro-batch can be full: no use looking earlier on account of
    /// arrivals alone.
    pub full_from: usize,
}

impl Plan {
    /// Whether nothing is to be done but to wait.
    pub fn is_empty(&self) -> bool {
        self.withdrawn.is_empty() && self.expired.is_empty() && self.batch.is_empty()
    }
}

/// What the engine can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: a micro-batch lies ready while another runs.
    Met,
    /// A micro-batch to lie ready, if a full one can be had. One that is not full stays open: until the engine is
    /// idle, waiting for more costs nobody anything.
    Ahead,
    /// Whatever there is, when the oldest has waited long enough.
    Now,
}

/// Decides. `shares` is brought up to date where a micro-batch comes of it.
pub fn plan(waiting: &[Waiting], shares: &mut Shares, now: Instant, demand: Demand, limits: &Limits) -> Plan {
    let max_tokens = limits.max_tokens.get();
    let mut plan = Plan { full_from: max_tokens, ..Plan::default() };
    let mut live = Vec::with_capacity(waiting.len());
    for (i, w) in waiting.iter().enumerate() {
        if w.withdrawn {
            plan.withdrawn.push(i);
        } else if w.deadline.is_some_and(|deadline| deadline <= now) {
            plan.expired.push(i);
        } else {
            live.push(i);
        }
    }
    let Some(oldest) = live.iter().map(|&i| waiting[i].arrived).min() else { return plan };
    // Waiting for others is not worth a deadline: what would expire meanwhile goes at once.
    let waited_enough = oldest + limits.max_wait;
    let urgent = live.iter().any(|&i| waiting[i].deadline.is_some_and(|deadline| deadline <= waited_enough));
    let is_due = demand == Demand::Now && (urgent || waited_enough <= now);
    let waiting_tokens: usize = live.iter().map(|&i| waiting[i].tokens.len() + waiting[i].beside).sum();
    let may_be_full = live.len() >= limits.max_rollouts || waiting_tokens >= max_tokens;
    if is_due || (demand != Demand::Met && may_be_full) {
        let choice = choose(waiting, &live, shares, limits);
        if is_due || choice.full {
            let mut taken = vec![false; waiting.len()];
            // The latest arrival that was taken of each caller.
            let mut latest: HashMap<u64, Instant> = HashMap::new();
            for &i in &choice.taken {
                taken[i] = true;
                let latest = latest.entry(waiting[i].caller).or_insert(waiting[i].arrived);
                *latest = waiting[i].arrived.max(*latest);
            }
            live.retain(|&i| !taken[i]);
            let passed_over = |w: &Waiting| latest.get(&w.caller).is_some_and(|latest| w.arrived < *latest);
            plan.bypassed = live.iter().copied().filter(|&i| passed_over(&waiting[i])).collect();
            *shares = choice.shares;
            shares.served(latest.keys().copied(), live.iter().map(|&i| waiting[i].caller));
            plan.batch = choice.taken;
        } else {
            // Each arrival adds at most its own length.
            plan.full_from = waiting_tokens + max_tokens.saturating_sub(choice.cost);
        }
    }
    let waited_enough = (demand == Demand::Now).then_some(waited_enough);
    let deadlines = live.iter().filter_map(|&i| waiting[i].deadline);
    if !live.is_empty() {
        plan.wake = deadlines.chain(waited_enough).min();
    }
    plan
}

struct Choice {
    taken: Vec<usize>,
    /// What those taken cost.
    cost: usize,
    /// Whether waiting for more could not have added anything.
    full: bool,
    /// The callers' shares once this is served.
    shares: Shares,
}

/// Chooses rollouts in the callers' turns; each brings along those that it shares most with, which then cost little.
fn choose(waiting: &[Waiting], live: &[usize], shares: &Shares, limits: &Limits) -> Choice {
    let mut shares = shares.clone();
    if let [alone] = live {
        let cost = waiting[*alone].cost();
        let full = cost >= limits.max_tokens.get() || limits.max_rollouts <= 1;
        return Choice { taken: vec![*alone], cost, full, shares };
    }
    let mut urgent = live.to_vec();
    urgent.sort_by_key(|&i| (urgency(&waiting[i], limits.max_bypass), i));
    let mut relatives = Relatives::of(waiting, &urgent);
    let mut callers = Callers::of(waiting, &urgent, &mut shares, limits.max_bypass);
    let mut selection = Selection::new(waiting, relatives.places(), limits);
    let mut seen = vec![false; waiting.len()];
    let mut left_out = false;
    while let Some(chosen) = callers.next(&seen) {
        if selection.is_full() {
            // Relatives of those taken have had their chance: they may cost nothing.
            left_out = true;
            break;
        }
        for i in relatives.take(chosen) {
            if !std::mem::replace(&mut seen[i], true) {
                match selection.add(i) {
                    Some(added) => callers.charge(waiting[i].caller, added),
                    None => left_out = true,
                }
            }
        }
        if left_out {
            callers.only_fill();
        }
    }
    let full = left_out || selection.is_full();
    let (taken, cost) = selection.finish();
    Choice { taken, cost, full, shares }
}

/// Sorts a caller's most urgent first: those passed over often enough, whatever the others' priority; then by priority, then
/// by deadline (none comes last), then by arrival.
fn urgency(w: &Waiting, max_bypass: u32) -> impl Ord + use<> {
    let in_order = w.bypassed < max_bypass;
    let (priority, deadline) = if in_order { (w.priority, w.deadline) } else { (0, None) };
    (in_order, Reverse(priority), deadline.is_none(), deadline, w.arrived)
}

#[cfg(test)]
mod tests;
