//! What the batcher promises, on random queues and on chosen ones.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::batch::{common_prefix, unique_tokens};

#[derive(Debug, Clone)]
struct Rollout {
    tokens: Vec<u32>,
    known: usize,
    beside: usize,
    caller: u64,
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
        (0u64..3, prop::bool::weighted(0.1)),
    )
        .prop_map(|(tokens, beside, group, priority, arrived_ms, deadline_ms, bypassed, (caller, withdrawn))| {
            let group = group.into();
            Rollout { tokens, known: 0, beside, caller, group, priority, arrived_ms, deadline_ms, bypassed, withdrawn }
        })
}

fn view(rollouts: &[Rollout], zero: Instant) -> Vec<Waiting<'_>> {
    let at = |ms| zero + Duration::from_millis(ms);
    rollouts
        .iter()
        .map(|r| Waiting {
            tokens: &r.tokens,
            known: r.known,
            beside: r.beside,
            caller: r.caller,
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
    let max_tokens = NonZeroUsize::new(max_tokens).unwrap();
    Limits { max_tokens, max_rollouts, max_wait: Duration::from_millis(10), max_bypass: 3, share_prefixes }
}

/// Rows that are computed, by the definition: each place on a path that is not known, once, or once for each rollout.
fn rows(batch: &[Waiting], share: bool) -> usize {
    let places = || batch.iter().flat_map(|w| (w.known..w.tokens.len()).map(|end| &w.tokens[..=end]));
    let rows = if share { places().collect::<HashSet<_>>().len() } else { places().count() };
    rows + batch.iter().map(|w| w.beside).sum::<usize>()
}

proptest! {
    #[test]
    fn a_plan_accounts_for_everyone_and_keeps_the_limits(
        mut rollouts in prop::collection::vec(rollout(), 0..40),
        kept in prop::collection::vec(prop::collection::vec(0u32..3, 1..20), 0..4),
        max_tokens in 1usize..60,
        max_rollouts in 1usize..12,
        share: bool,
        demand in prop::sample::select(vec![Demand::Met, Demand::Ahead, Demand::Now]),
    ) {
        let zero = Instant::now();
        let now = zero + Duration::from_millis(50);
        for rollout in &mut rollouts {
            let found = kept.iter().map(|kept| common_prefix(kept, &rollout.tokens)).max();
            rollout.known = found.unwrap_or(0).min(rollout.tokens.len() - 1);
        }
        let waiting = view(&rollouts, zero);
        let limits = limits(max_tokens, max_rollouts, share);
        let plan = plan(&waiting, &mut Shares::default(), now, demand, &limits);

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
        prop_assert!(plan.batch.len() <= max_rollouts);
        let rows = rows(&plan.batch.iter().map(|&i| waiting[i]).collect::<Vec<_>>(), share);
        prop_assert!(rows <= max_tokens || plan.batch.len() == 1, "{rows} rows");

        for &i in &plan.bypassed {
            prop_assert_eq!(fate[i], 0);
            let later = |w: &Waiting| w.caller == waiting[i].caller && w.arrived > waiting[i].arrived;
            prop_assert!(plan.batch.iter().any(|&j| later(&waiting[j])));
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

    /// A stream of a caller's urgent arrivals cannot starve what it sent before: after `max_bypass` micro-batches in which later
    /// arrivals went first, only older rollouts that were passed over as often go before.
    #[test]
    fn nobody_starves(lengths in prop::collection::vec(1usize..20, 1..12), flood in 1usize..6) {
        let zero = Instant::now();
        let limits = limits(20, 4, true);
        let mut queue: Vec<Rollout> = lengths.iter().enumerate().map(|(i, &n)| Rollout {
            tokens: (0..n as u32).map(|t| t + 100 * i as u32).collect(),
            known: 0,
            beside: 0,
            caller: 0,
            group: String::new(),
            priority: -5,
            arrived_ms: i as u64,
            deadline_ms: None,
            bypassed: 0,
            withdrawn: false,
        }).collect();
        let patient = queue.len();
        let mut time = 1_000;
        let mut shares = Shares::default();
        let mut served = 0;
        for _ in 0..limits.max_bypass as usize + patient {
            for _ in 0..flood {
                time += 1;
                queue.push(Rollout { tokens: vec![7; 19], known: 0, beside: 0, caller: 0, group: String::new(), priority: 9, arrived_ms: time,
                    deadline_ms: Some(time + 10_000), bypassed: 0, withdrawn: false });
            }
            time += 100;
            let now = zero + Duration::from_millis(time);
            let plan = plan(&view(&queue, zero), &mut shares, now, Demand::Now, &limits);
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
        known: 0,
        beside: 0,
        caller: 0,
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
    assert_eq!(
        plan(&waiting, &mut Shares::default(), at(9), Demand::Now, &limits),
        Plan { wake: Some(at(10)), ..wait.clone() }
    );
    assert_eq!(plan(&waiting, &mut Shares::default(), at(10), Demand::Now, &limits).batch, [0]);
    assert_eq!(plan(&waiting, &mut Shares::default(), at(500), Demand::Ahead, &limits), wait);
    let full = Limits { max_rollouts: 1, ..limits };
    assert_eq!(plan(&waiting, &mut Shares::default(), at(0), Demand::Ahead, &full).batch, [0]);
    assert!(plan(&waiting, &mut Shares::default(), at(500), Demand::Met, &full).batch.is_empty());
}

/// Sharing can leave much room in a budget that the submitted tokens seem to fill.
#[test]
fn how_much_more_must_come_is_said() {
    let zero = Instant::now();
    let rollouts = [plain(&[1, 2, 3, 4], 0), plain(&[1, 2, 3, 4, 5], 1)];
    let plan = plan(&view(&rollouts, zero), &mut Shares::default(), zero, Demand::Ahead, &limits(8, 10, true));
    // 9 submitted, 5 unique: 3 more may come before 8 can be full.
    assert_eq!((plan.batch.len(), plan.full_from), (0, 12));
}

#[test]
fn a_group_goes_together_before_others_that_came_earlier() {
    let zero = Instant::now();
    let prompt = [5, 6, 7, 8];
    let member = |last, ms| plain(&[&prompt[..], &[last]].concat(), ms);
    let rollouts = [member(1, 0), plain(&[9, 9, 9], 1), member(2, 2), member(3, 3)];
    let waiting = view(&rollouts, zero);
    // 7 unique tokens hold the three members; the other one would not fit beside them.
    let plan =
        plan(&waiting, &mut Shares::default(), zero + Duration::from_millis(20), Demand::Now, &limits(7, 10, true));
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
    let plan = plan(
        &view(&rollouts, zero),
        &mut Shares::default(),
        zero + Duration::from_millis(20),
        Demand::Now,
        &limits(100, 100, true),
    );
    assert_eq!(plan.batch, [4, 3, 2, 1, 0]);
}

/// Plans until nothing waits, as for an idle engine whose rollouts have waited long enough; the indices of each micro-batch.
fn serve_all(rollouts: &[Rollout], limits: &Limits) -> Vec<Vec<usize>> {
    let zero = Instant::now();
    let now = zero + Duration::from_secs(1000);
    let (mut shares, mut left) = (Shares::default(), (0..rollouts.len()).collect::<Vec<_>>());
    let mut rollouts = rollouts.to_vec();
    let mut batches = Vec::new();
    while !left.is_empty() {
        let waiting: Vec<Rollout> = left.iter().map(|&i| rollouts[i].clone()).collect();
        let plan = plan(&view(&waiting, zero), &mut shares, now, Demand::Now, limits);
        assert!(!plan.batch.is_empty());
        plan.bypassed.iter().for_each(|&i| rollouts[left[i]].bypassed += 1);
        let batch: Vec<usize> = plan.batch.iter().map(|&i| left[i]).collect();
        left.retain(|i| !batch.contains(i));
        batches.push(batch);
    }
    batches
}

/// Groups of several callers who number theirs alike, interleaved as they arrive: a template's tokens in front, a prompt per group,
/// a tail per member. `named` gives a group its name.
fn interleaved(callers: u64, groups: u32, members: u32, named: impl Fn(u64, u32) -> String) -> Vec<Rollout> {
    let mut rollouts = Vec::new();
    for member in 0..members {
        for group in 0..groups {
            for caller in 0..callers {
                let prompt = 1000 * (1 + caller as u32 * groups + group);
                let tail = 1_000_000 + 1000 * member;
                let tokens = (0..20).chain(prompt..prompt + 200).chain(tail..tail + 60).collect::<Vec<u32>>();
                let arrived_ms = rollouts.len() as u64;
                rollouts.push(Rollout { caller, group: named(caller, group), ..plain(&tokens, arrived_ms) });
            }
        }
    }
    rollouts
}

/// Tokens that are computed, and the number of micro-batches.
fn computed(rollouts: &[Rollout], max_tokens: usize) -> (usize, usize) {
    let batches = serve_all(rollouts, &Limits { max_bypass: 1000, ..limits(max_tokens, 1024, true) });
    let unique = |batch: &Vec<usize>| unique_tokens(&batch.iter().map(|&i| &*rollouts[i].tokens).collect::<Vec<_>>());
    (batches.iter().map(unique).sum(), batches.len())
}

#[test]
fn equal_names_of_several_callers_are_several_groups() {
    let equal = computed(&interleaved(8, 4, 16, |_, group| group.to_string()), 4096);
    let distinct = computed(&interleaved(8, 4, 16, |caller, group| format!("{caller}/{group}")), 4096);
    let unnamed = computed(&interleaved(8, 4, 16, |_, _| String::new()), 4096);
    assert_eq!(equal, distinct);
    assert_eq!(equal, unnamed, "what really shares tokens counts, whatever it is called");
    // Each prompt is computed once, but for those that a full micro-batch divides; the template once per micro-batch.
    let (tokens, batches) = equal;
    assert!(tokens <= 32 * (200 + 16 * 60) + batches * (20 + 200), "{tokens} tokens in {batches} micro-batches");
}

/// One connection may carry the rollouts of several ranks, which number their groups alike.
#[test]
fn a_name_that_means_several_prompts_costs_nothing() {
    let one = |mut rollouts: Vec<Rollout>| {
        rollouts.iter_mut().for_each(|rollout| rollout.caller = 1);
        rollouts
    };
    let equal = computed(&one(interleaved(8, 4, 16, |_, group| group.to_string())), 4096);
    let distinct = computed(&one(interleaved(8, 4, 16, |caller, group| format!("{caller}/{group}"))), 4096);
    assert_eq!(equal, distinct);
}

proptest! {
    /// While two callers both have rollouts of one priority waiting, neither is served more tokens than the other but for a turn,
    /// the longest rollout of each, and what one micro-batch holds beyond a turn.
    #[test]
    fn callers_are_served_alike(
        lengths in prop::collection::vec(prop::collection::vec(1usize..1500, 1..40), 2..4),
        max_tokens in 1000usize..5000,
    ) {
        let mut rollouts = Vec::new();
        for (caller, lengths) in (0u64..).zip(&lengths) {
            for (i, &length) in lengths.iter().enumerate() {
                // Nothing is shared. A caller's all come before the next one's.
                let first = 1_000_000 * (1 + caller as u32) + 2000 * i as u32;
                let tokens: Vec<u32> = (first..first + length as u32).collect();
                rollouts.push(Rollout { caller, ..plain(&tokens, rollouts.len() as u64) });
            }
        }
        let limits = Limits { max_bypass: 8, ..limits(max_tokens, 1024, true) };
        let mut left: Vec<usize> = lengths.iter().map(Vec::len).collect();
        let mut served = vec![0; lengths.len()];
        for batch in serve_all(&rollouts, &limits) {
            for i in batch {
                let caller = rollouts[i].caller as usize;
                served[caller] += rollouts[i].tokens.len();
                left[caller] -= 1;
            }
            if left.contains(&0) {
                break;
            }
            // A rollout that does not fit beside what was taken gives its turn to one that does: at most a micro-batch for each.
            let apart = served.iter().max().unwrap() - served.iter().min().unwrap();
            prop_assert!(apart <= 1024 + 2 * 1500 + max_tokens.max(1500), "{apart} tokens apart: {served:?}");
        }
    }

    /// However urgent and however many the rollouts of others are, a caller is served something in one of `max_bypass + 1` micro-batches
    /// in a row, or one later for each other caller who was passed over as often.
    #[test]
    fn no_caller_starves(patient in 1u64..5, flood in 1usize..6, length in 1usize..25) {
        let zero = Instant::now();
        let limits = limits(20, 4, true);
        let mut queue: Vec<Rollout> = Vec::new();
        let mut shares = Shares::default();
        let mut time = 0;
        for caller in 1..=patient {
            for i in 0..3 {
                let first = 1000 * caller as u32 + 100 * i;
                let tokens: Vec<u32> = (first..first + length as u32).collect();
                queue.push(Rollout { caller, priority: -5, ..plain(&tokens, u64::from(i)) });
            }
        }
        let mut waited = vec![0; patient as usize + 1];
        while queue.iter().any(|rollout| rollout.caller > 0) {
            for _ in 0..flood {
                time += 1;
                queue.push(Rollout { priority: 9, deadline_ms: Some(time + 10_000), ..plain(&[7; 19], time) });
            }
            time += 100;
            let now = zero + Duration::from_millis(time);
            let plan = plan(&view(&queue, zero), &mut shares, now, Demand::Now, &limits);
            for caller in 1..=patient {
                if queue.iter().any(|rollout| rollout.caller == caller) {
                    let served = plan.batch.iter().any(|&i| queue[i].caller == caller);
                    waited[caller as usize] = if served { 0 } else { waited[caller as usize] + 1 };
                    let most = u64::from(limits.max_bypass) + patient;
                    prop_assert!(waited[caller as usize] <= most, "caller {caller} waited: {waited:?}");
                }
            }
            plan.bypassed.iter().for_each(|&i| queue[i].bypassed += 1);
            let mut i = 0;
            queue.retain(|_| { i += 1; !plan.batch.contains(&(i - 1)) });
        }
    }
}

mod kept;
