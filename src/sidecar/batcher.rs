//! Which of the waiting rollouts go into the next micro-batch: a pure function of what waits, the time and the limits.
//!
//! The budget is counted in unique tokens, because those are what the engine pays for. Invariants, each a property
//! test below: nothing is both taken and left; the budget is kept (a rollout longer than the whole budget goes alone);
//! nobody who left is taken and nobody whose deadline passed; and a rollout is passed over by later ones at most
//! `max_bypass` times before it goes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::batch::common_prefix;

/// What the batcher needs to know of one waiting rollout.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Unique tokens of its other sequences (earlier turns that are scored), which no other rollout is expected to share.
    pub beside: usize,
    /// Its group; empty means none.
    pub group: &'a str,
    /// Higher goes first.
    pub priority: i32,
    /// When it was accepted; the order of arrival.
    pub arrived: Instant,
    /// When it expires.
    pub deadline: Option<Instant>,
    /// How many micro-batches took a later arrival and left this one.
    pub bypassed: u32,
    /// Its caller left.
    pub withdrawn: bool,
}

impl Waiting<'_> {
    /// Tokens that it adds to a micro-batch in which it shares nothing.
    pub fn cost(&self) -> usize {
        self.tokens.len() + self.beside
    }
}

/// The limits of one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Unique tokens.
    pub max_tokens: usize,
    /// Rollouts.
    pub max_rollouts: usize,
    /// How long the oldest may wait for company while the engine is idle.
    pub max_wait: Duration,
    /// See the module.
    pub max_bypass: u32,
    /// Whether prefixes will be shared; otherwise every token is unique.
    pub share_prefixes: bool,
}

/// What to do now. All indices are into the slice of [`Waiting`], ascending except for `batch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Callers that left: to be answered `CANCELLED`.
    pub withdrawn: Vec<usize>,
    /// To be answered `DEADLINE_EXCEEDED`.
    pub expired: Vec<usize>,
    /// To be scored now, most urgent first; empty means wait.
    pub batch: Vec<usize>,
    /// Left behind although something later was taken.
    pub bypassed: Vec<usize>,
    /// When to look again if nothing arrives meanwhile; only set where something still waits.
    pub wake: Option<Instant>,
    /// How many submitted tokens must wait before a micro-batch can be full: no use looking earlier on account of
    /// arrivals alone.
    pub full_from: usize,
}

/// What the engine can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: a micro-batch lies ready while another runs.
    Met,
    /// A micro-batch to lie ready, if a full one can be had. One that is not full stays open: until the engine is
    /// idle, more company costs nobody anything.
    Ahead,
    /// Whatever there is, when its patience is over.
    Now,
}

/// Decides.
pub fn plan(waiting: &[Waiting], now: Instant, demand: Demand, limits: &Limits) -> Plan {
    let mut plan = Plan { full_from: limits.max_tokens, ..Plan::default() };
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
    // Company is not worth a deadline: whoever would expire while waiting for it goes at once.
    let patience = oldest + limits.max_wait;
    let urgent = live.iter().any(|&i| waiting[i].deadline.is_some_and(|deadline| deadline <= patience));
    let patience_over = demand == Demand::Now && (urgent || patience <= now);
    let submitted: usize = live.iter().map(|&i| waiting[i].cost()).sum();
    let may_be_full = live.len() >= limits.max_rollouts || submitted >= limits.max_tokens;
    if patience_over || (demand != Demand::Met && may_be_full) {
        let choice = choose(waiting, &live, limits);
        if patience_over || choice.full {
            let latest = choice.taken.iter().map(|&i| waiting[i].arrived).max();
            let taken: BTreeSet<usize> = choice.taken.iter().copied().collect();
            plan.bypassed = live.iter().copied().filter(|i| !taken.contains(i)).collect();
            live.clone_from(&plan.bypassed);
            plan.bypassed.retain(|&i| latest.is_some_and(|latest| waiting[i].arrived < latest));
            plan.batch = choice.taken;
        } else {
            // Each arrival adds at most its own length to what is unique.
            plan.full_from = submitted + (limits.max_tokens - choice.unique);
        }
    }
    let patience = (demand == Demand::Now).then_some(patience);
    let deadlines = live.iter().filter_map(|&i| waiting[i].deadline);
    if !live.is_empty() {
        plan.wake = deadlines.chain(patience).min();
    }
    plan
}

struct Choice {
    taken: Vec<usize>,
    /// Unique tokens of those taken.
    unique: usize,
    /// Whether waiting for more could not have added anything.
    full: bool,
}

/// Most urgent first; each brings along the rollouts it shares most with, which then cost little.
fn choose(waiting: &[Waiting], live: &[usize], limits: &Limits) -> Choice {
    if let [alone] = live {
        let unique = waiting[*alone].cost();
        let full = unique >= limits.max_tokens || limits.max_rollouts <= 1;
        return Choice { taken: vec![*alone], unique, full };
    }
    let mut urgent = live.to_vec();
    urgent.sort_by_key(|&i| (urgency(&waiting[i], limits.max_bypass), i));
    let mut kin = Kin::of(waiting, &urgent);
    let mut bag = Bag { waiting, place: &kin.place, limits, taken: Vec::new(), places: BTreeMap::new(), unique: 0 };
    let mut seen = vec![false; waiting.len()];
    let mut left = false;
    for &seed in &urgent {
        if bag.is_full() {
            // Relatives of those taken have had their chance: they may cost nothing.
            left = true;
            break;
        }
        // Each group and family is walked once, with its first member.
        let group = kin.groups.remove(waiting[seed].group).unwrap_or_default();
        let family = kin.families.take(kin.place[seed], &kin.rank);
        for i in [seed].into_iter().chain(group).chain(family) {
            if !std::mem::replace(&mut seen[i], true) {
                left |= !bag.take(i);
            }
        }
    }
    let full = left || bag.is_full();
    Choice { taken: bag.taken, unique: bag.unique, full }
}

/// Sorts the most urgent first: those passed over often enough, whatever the others' priority; then by priority, then
/// by deadline (none comes last), then by arrival.
fn urgency(w: &Waiting, max_bypass: u32) -> impl Ord + use<> {
    let patient = w.bypassed < max_bypass;
    let (priority, deadline) = if patient { (w.priority, w.deadline) } else { (0, None) };
    (patient, Reverse(priority), deadline.is_none(), deadline, w.arrived)
}

/// Who shares tokens with whom.
struct Kin<'a> {
    /// Each rollout's place in lexicographic order of tokens: sharing is between neighbours.
    place: Vec<usize>,
    /// Each rollout's place in order of urgency.
    rank: Vec<usize>,
    families: Families,
    groups: HashMap<&'a str, Vec<usize>>,
}

/// Rollouts that share much, as runs in lexicographic order.
struct Families {
    sorted: Vec<usize>,
    /// By place, the first place of its family.
    first: Vec<usize>,
}

impl<'a> Kin<'a> {
    /// Members come out in the order of `urgent`.
    fn of(waiting: &[Waiting<'a>], urgent: &[usize]) -> Self {
        let mut sorted = urgent.to_vec();
        sorted.sort_by(|&a, &b| waiting[a].tokens.cmp(waiting[b].tokens));
        let mut kin = Self {
            place: vec![0; waiting.len()],
            rank: vec![0; waiting.len()],
            families: Families { sorted, first: vec![0; urgent.len()] },
            groups: HashMap::new(),
        };
        let Families { sorted, first } = &mut kin.families;
        for (place, &i) in sorted.iter().enumerate() {
            kin.place[i] = place;
            // One family: neighbours that share at least half of the shorter one. A template's common opening alone
            // rarely reaches that, a common prompt does.
            let related = place > 0 && {
                let (a, b) = (waiting[sorted[place - 1]].tokens, waiting[i].tokens);
                2 * common_prefix(a, b) >= a.len().min(b.len())
            };
            first[place] = if related { first[place - 1] } else { place };
        }
        for (rank, &i) in urgent.iter().enumerate() {
            kin.rank[i] = rank;
            if !waiting[i].group.is_empty() {
                kin.groups.entry(waiting[i].group).or_default().push(i);
            }
        }
        kin
    }
}

impl Families {
    /// The family of the rollout at `place`, in order of rank; empty where it was taken before.
    fn take(&mut self, place: usize, rank: &[usize]) -> Vec<usize> {
        /// Of a family that was taken.
        const TAKEN: usize = usize::MAX;
        let first = self.first[place];
        if first == TAKEN {
            return Vec::new();
        }
        let members = self.first[first..].iter().take_while(|&&of| of == first).count();
        self.first[first..first + members].fill(TAKEN);
        let mut family = self.sorted[first..first + members].to_vec();
        family.sort_by_key(|&i| rank[i]);
        family
    }
}

/// The micro-batch as it fills.
struct Bag<'a> {
    waiting: &'a [Waiting<'a>],
    place: &'a [usize],
    limits: &'a Limits,
    taken: Vec<usize>,
    /// Lexicographic place -> rollout, of those taken.
    places: BTreeMap<usize, usize>,
    unique: usize,
}

impl Bag<'_> {
    fn is_full(&self) -> bool {
        self.unique >= self.limits.max_tokens || self.taken.len() >= self.limits.max_rollouts
    }

    /// Takes a rollout if the budget allows; the first always goes in.
    fn take(&mut self, i: usize) -> bool {
        let shared = if self.limits.share_prefixes { self.shared(i) } else { 0 };
        let unique = self.unique + self.waiting[i].cost() - shared;
        let fits = unique <= self.limits.max_tokens && self.taken.len() < self.limits.max_rollouts;
        if !fits && !self.taken.is_empty() {
            return false;
        }
        self.taken.push(i);
        self.places.insert(self.place[i], i);
        self.unique = unique;
        true
    }

    /// Tokens that those taken already brought: in lexicographic order, a neighbour shares the most.
    fn shared(&self, i: usize) -> usize {
        let place = self.place[i];
        let before = self.places.range(..place).next_back();
        let after = self.places.range(place..).next();
        let common = |(_, &j): (&usize, &usize)| common_prefix(self.waiting[i].tokens, self.waiting[j].tokens);
        before.map_or(0, common).max(after.map_or(0, common))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::MicroBatch;

    #[derive(Debug, Clone)]
    struct Rollout {
        tokens: Vec<u32>,
        beside: usize,
        group: String,
        priority: i32,
        arrived_ms: u64,
        deadline_ms: Option<u64>,
        bypassed: u32,
        withdrawn: bool,
    }

    fn rollout() -> impl Strategy<Value = Rollout> {
        (
            prop::collection::vec(0u32..3, 1..20),
            prop_oneof![3 => Just(0usize), 1 => 0usize..30],
            prop::sample::select(vec!["", "", "g1", "g2"]),
            -2..3i32,
            0u64..50,
            prop::option::weighted(0.3, 0u64..100),
            0u32..5,
            prop::bool::weighted(0.1),
        )
            .prop_map(|(tokens, beside, group, priority, arrived_ms, deadline_ms, bypassed, withdrawn)| {
                Rollout { tokens, beside, group: group.into(), priority, arrived_ms, deadline_ms, bypassed, withdrawn }
            })
    }

    fn view(rollouts: &[Rollout], zero: Instant) -> Vec<Waiting<'_>> {
        let at = |ms| zero + Duration::from_millis(ms);
        rollouts
            .iter()
            .map(|r| Waiting {
                tokens: &r.tokens,
                beside: r.beside,
                group: &r.group,
                priority: r.priority,
                arrived: at(r.arrived_ms),
                deadline: r.deadline_ms.map(at),
                bypassed: r.bypassed,
                withdrawn: r.withdrawn,
            })
            .collect()
    }

    fn limits(max_tokens: usize, max_rollouts: usize, share_prefixes: bool) -> Limits {
        Limits { max_tokens, max_rollouts, max_wait: Duration::from_millis(10), max_bypass: 3, share_prefixes }
    }

    proptest! {
        #[test]
        fn a_plan_accounts_for_everyone_and_keeps_the_limits(
            rollouts in prop::collection::vec(rollout(), 0..40),
            max_tokens in 1usize..60,
            max_rollouts in 1usize..12,
            share: bool,
            demand in prop::sample::select(vec![Demand::Met, Demand::Ahead, Demand::Now]),
        ) {
            let zero = Instant::now();
            let now = zero + Duration::from_millis(50);
            let waiting = view(&rollouts, zero);
            let limits = limits(max_tokens, max_rollouts, share);
            let plan = plan(&waiting, now, demand, &limits);

            let mut fate = vec![0; rollouts.len()];
            for &i in plan.withdrawn.iter().chain(&plan.expired).chain(&plan.batch) {
                fate[i] += 1;
            }
            prop_assert!(fate.iter().all(|&n| n <= 1), "one fate each");
            for (i, w) in waiting.iter().enumerate() {
                prop_assert_eq!(plan.withdrawn.contains(&i), w.withdrawn);
                let expired = !w.withdrawn && w.deadline.is_some_and(|d| d <= now);
                prop_assert_eq!(plan.expired.contains(&i), expired);
            }
            let tokens: Vec<&[u32]> = plan.batch.iter().map(|&i| waiting[i].tokens).collect();
            prop_assert!(tokens.len() <= max_rollouts);
            let beside: usize = plan.batch.iter().map(|&i| waiting[i].beside).sum();
            let unique = MicroBatch::pack(&tokens, share).tokens.len() + beside;
            prop_assert!(unique <= max_tokens || tokens.len() == 1, "{unique} unique tokens");

            for &i in &plan.bypassed {
                prop_assert_eq!(fate[i], 0);
                prop_assert!(plan.batch.iter().any(|&j| waiting[j].arrived > waiting[i].arrived));
            }
            let left = fate.contains(&0);
            if plan.batch.is_empty() && left && demand == Demand::Now {
                prop_assert!(plan.wake.is_some_and(|wake| wake > now), "an idle engine is never left without an alarm");
            }
            prop_assert!(plan.batch.is_empty() || demand != Demand::Met);
            let deadlines = waiting.iter().zip(&fate).filter(|(_, n)| **n == 0).filter_map(|(w, _)| w.deadline);
            if let Some(first) = deadlines.min() {
                prop_assert!(plan.wake.is_some_and(|wake| wake <= first), "a deadline would pass unseen");
            }
        }

        /// A stream of urgent arrivals cannot starve anybody: after `max_bypass` micro-batches in which later arrivals
        /// went first, only rollouts that are starved too, and older, go before.
        #[test]
        fn nobody_starves(lengths in prop::collection::vec(1usize..20, 1..12), flood in 1usize..6) {
            let zero = Instant::now();
            let limits = limits(20, 4, true);
            let mut queue: Vec<Rollout> = lengths.iter().enumerate().map(|(i, &n)| Rollout {
                tokens: (0..n as u32).map(|t| t + 100 * i as u32).collect(),
                beside: 0,
                group: String::new(),
                priority: -5,
                arrived_ms: i as u64,
                deadline_ms: None,
                bypassed: 0,
                withdrawn: false,
            }).collect();
            let patient = queue.len();
            let mut time = 1_000;
            let mut served = 0;
            for _ in 0..limits.max_bypass as usize + patient {
                for _ in 0..flood {
                    time += 1;
                    queue.push(Rollout { tokens: vec![7; 19], beside: 0, group: String::new(), priority: 9, arrived_ms: time,
                        deadline_ms: Some(time + 10_000), bypassed: 0, withdrawn: false });
                }
                time += 100;
                let plan = plan(&view(&queue, zero), zero + Duration::from_millis(time), Demand::Now, &limits);
                prop_assert!(!plan.batch.is_empty());
                served += plan.batch.iter().filter(|&&i| queue[i].priority < 0).count();
                for &i in &plan.bypassed {
                    queue[i].bypassed += 1;
                }
                let mut i = 0;
                queue.retain(|_| { i += 1; !plan.batch.contains(&(i - 1)) });
            }
            prop_assert_eq!(served, patient);
        }
    }

    fn plain(tokens: &[u32], arrived_ms: u64) -> Rollout {
        Rollout {
            tokens: tokens.to_vec(),
            beside: 0,
            group: String::new(),
            priority: 0,
            arrived_ms,
            deadline_ms: None,
            bypassed: 0,
            withdrawn: false,
        }
    }

    #[test]
    fn an_idle_engine_waits_a_bounded_time_and_a_busy_one_costs_nobody_anything() {
        let zero = Instant::now();
        let rollouts = [plain(&[1, 2], 0)];
        let waiting = view(&rollouts, zero);
        let limits = limits(100, 100, true);
        let at = |ms| zero + Duration::from_millis(ms);
        let wait = Plan { full_from: 100, ..Plan::default() };
        assert_eq!(plan(&waiting, at(9), Demand::Now, &limits), Plan { wake: Some(at(10)), ..wait.clone() });
        assert_eq!(plan(&waiting, at(10), Demand::Now, &limits).batch, [0]);
        assert_eq!(plan(&waiting, at(500), Demand::Ahead, &limits), wait);
        let full = Limits { max_rollouts: 1, ..limits };
        assert_eq!(plan(&waiting, at(0), Demand::Ahead, &full).batch, [0]);
        assert!(plan(&waiting, at(500), Demand::Met, &full).batch.is_empty());
    }

    /// Sharing can leave much room in a budget that the submitted tokens seem to fill.
    #[test]
    fn how_much_more_must_come_is_said() {
        let zero = Instant::now();
        let rollouts = [plain(&[1, 2, 3, 4], 0), plain(&[1, 2, 3, 4, 5], 1)];
        let plan = plan(&view(&rollouts, zero), zero, Demand::Ahead, &limits(8, 10, true));
        // 9 submitted, 5 unique: 3 more may come before 8 can be full.
        assert_eq!((plan.batch.len(), plan.full_from), (0, 12));
    }

    #[test]
    fn a_group_goes_together_before_earlier_strangers() {
        let zero = Instant::now();
        let prompt = [5, 6, 7, 8];
        let member = |last, ms| plain(&[&prompt[..], &[last]].concat(), ms);
        let rollouts = [member(1, 0), plain(&[9, 9, 9], 1), member(2, 2), member(3, 3)];
        let waiting = view(&rollouts, zero);
        // 7 unique tokens hold the three members; the stranger would not fit beside them.
        let plan = plan(&waiting, zero + Duration::from_millis(20), Demand::Now, &limits(7, 10, true));
        assert_eq!(plan.batch, [0, 2, 3]);
        assert_eq!(plan.bypassed, [1]);
    }

    #[test]
    fn urgent_first_by_priority_then_deadline_then_arrival() {
        let zero = Instant::now();
        let rollouts = [
            plain(&[1], 0),
            Rollout { deadline_ms: Some(900), ..plain(&[2], 1) },
            Rollout { deadline_ms: Some(800), ..plain(&[3], 2) },
            Rollout { priority: 1, ..plain(&[4], 3) },
            Rollout { bypassed: 3, priority: -9, ..plain(&[5], 4) },
        ];
        let plan = plan(&view(&rollouts, zero), zero + Duration::from_millis(20), Demand::Now, &limits(100, 100, true));
        assert_eq!(plan.batch, [4, 3, 2, 1, 0]);
    }
}
