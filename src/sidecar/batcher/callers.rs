//! Whose turn it is: by priority between callers, and by deficit round robin among those of one priority, in what their rollouts
//! cost: rows that are computed, and a share of what those attend to.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Waiting;
use crate::sidecar::fair::RoundRobin;

/// What a caller's turn is worth in rows: about one ordinary rollout.
const QUANTUM: usize = 1024;

/// What the callers who have something waiting have been served with, from micro-batch to micro-batch.
#[derive(Debug, Clone)]
pub struct Shares {
    turns: RoundRobin,
    /// How many micro-batches in a row took nothing of a caller who had something waiting; none where it is zero.
    passed_over: HashMap<u64, u32>,
}

impl Default for Shares {
    fn default() -> Self {
        Self { turns: RoundRobin::new(QUANTUM), passed_over: HashMap::new() }
    }
}

impl Shares {
    /// A micro-batch took something of the callers `served`, and the callers `left` still have something waiting (each may be
    /// named several times). Callers with nothing waiting are forgotten.
    pub(super) fn served(&mut self, served: impl Iterator<Item = u64>, left: impl Iterator<Item = u64>) {
        let left: HashSet<u64> = left.collect();
        self.turns.retain(|caller| left.contains(&caller));
        self.passed_over.retain(|caller, _| left.contains(caller));
        let served: HashSet<u64> = served.collect();
        for caller in left {
            if served.contains(&caller) {
                self.passed_over.remove(&caller);
            } else {
                *self.passed_over.entry(caller).or_default() += 1;
            }
        }
    }
}

/// What decides before the round robin does; the greatest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    /// How often it was passed over, where that is too often: the longest first.
    passed_over: u32,
    priority: i32,
    /// Something of that priority has a deadline.
    hurried: bool,
}

/// One caller's rollouts, most urgent first.
struct Line {
    rollouts: VecDeque<usize>,
    /// Those of them that were not passed over too often: the caller's class is its best one's, whatever stands before that in
    /// its own order.
    in_order: VecDeque<usize>,
    class: Option<Class>,
    /// See [`Class::passed_over`].
    passed_over: u32,
}

/// See the module.
pub(super) struct Callers<'a> {
    waiting: &'a [Waiting<'a>],
    lines: Vec<Line>,
    /// The line of each caller.
    numbers: HashMap<u64, usize>,
    turns: &'a mut RoundRobin,
    /// Turns that are not kept, once something was left out.
    filling: Option<RoundRobin>,
}

impl<'a> Callers<'a> {
    /// The callers of `urgent`, which is sorted by urgency.
    pub fn of(waiting: &'a [Waiting<'a>], urgent: &[usize], shares: &'a mut Shares, max_bypass: u32) -> Self {
        let Shares { turns, passed_over } = shares;
        let mut lines: Vec<Line> = Vec::new();
        let mut numbers = HashMap::new();
        for &i in urgent {
            let caller = waiting[i].caller;
            let number = *numbers.entry(caller).or_insert_with(|| {
                turns.join(caller);
                lines.push(Line {
                    rollouts: VecDeque::new(),
                    in_order: VecDeque::new(),
                    class: None,
                    passed_over: passed_over.get(&caller).copied().filter(|times| *times >= max_bypass).unwrap_or(0),
                });
                lines.len() - 1
            });
            let line = &mut lines[number];
            line.rollouts.push_back(i);
            if waiting[i].bypassed < max_bypass {
                line.in_order.push_back(i);
            }
        }
        Self { waiting, lines, numbers, turns, filling: None }
    }

    /// The rollout that is to be chosen next of those not yet seen.
    pub fn next(&mut self, seen: &[bool]) -> Option<usize> {
        let Self { waiting, lines, numbers, turns, filling } = self;
        let turns = filling.as_mut().unwrap_or(turns);
        for line in lines.iter_mut() {
            line.update(waiting, seen);
        }
        let class = lines.iter().filter_map(|line| line.class).max()?;
        let first = |caller: u64| {
            let line = &lines[*numbers.get(&caller)?];
            line.rollouts.front().copied().filter(|_| line.class == Some(class))
        };
        first(turns.next(|caller| first(caller).map(|i| waiting[i].cost()))?)
    }

    /// A rollout was left out, because it did not fit any more. Its caller's turn stays as it is and is the first in the next
    /// micro-batch; what is chosen from now on fills up this one out of turn, though not free of charge.
    pub fn only_fill(&mut self) {
        self.filling.get_or_insert_with(|| self.turns.clone());
    }

    /// Something of a caller was taken, and added so much.
    pub fn charge(&mut self, caller: u64, cost: usize) {
        self.turns.charge(caller, cost);
        if let Some(filling) = &mut self.filling {
            filling.charge(caller, cost);
        }
        if let Some(&number) = self.numbers.get(&caller) {
            self.lines[number].passed_over = 0;
        }
    }
}

impl Line {
    fn update(&mut self, waiting: &[Waiting], seen: &[bool]) {
        for line in [&mut self.rollouts, &mut self.in_order] {
            while line.front().is_some_and(|&i| seen[i]) {
                line.pop_front();
            }
        }
        let best = self.in_order.front().or(self.rollouts.front()).map(|&i| &waiting[i]);
        self.class =
            best.map(|w| Class { passed_over: self.passed_over, priority: w.priority, hurried: w.deadline.is_some() });
    }
}
