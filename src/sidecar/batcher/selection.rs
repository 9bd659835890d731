//! The micro-batch under construction: what is in it, and what the next rollout would add to it.

use std::collections::BTreeMap;

use super::{Limits, Waiting};
use crate::batch::common_prefix;

/// See the module.
pub(super) struct Selection<'a> {
    waiting: &'a [Waiting<'a>],
    /// Each rollout's place in lexicographic order of tokens.
    places: Box<[usize]>,
    limits: &'a Limits,
    taken: Vec<usize>,
    /// Those taken, by place.
    by_place: BTreeMap<usize, usize>,
    cost: usize,
}

impl<'a> Selection<'a> {
    /// An empty one.
    pub fn new(waiting: &'a [Waiting<'a>], places: Box<[usize]>, limits: &'a Limits) -> Self {
        Self { waiting, places, limits, taken: Vec::new(), by_place: BTreeMap::new(), cost: 0 }
    }

    /// Whether nothing that costs a token fits any more.
    pub fn is_full(&self) -> bool {
        self.cost >= self.limits.max_tokens.get() || self.taken.len() >= self.limits.max_rollouts
    }

    /// Takes a rollout in if the budget allows, and says what that added; the first always goes in.
    pub fn add(&mut self, i: usize) -> Option<usize> {
        let shared = if self.limits.share_prefixes { self.shared(i) } else { 0 };
        let added = self.waiting[i].cost_beyond(shared);
        let cost = self.cost + added;
        let fits = cost <= self.limits.max_tokens.get() && self.taken.len() < self.limits.max_rollouts;
        if !fits && !self.taken.is_empty() {
            return None;
        }
        self.taken.push(i);
        self.by_place.insert(self.places[i], i);
        self.cost = cost;
        Some(added)
    }

    /// What was taken, in that order, and what it costs.
    pub fn finish(self) -> (Vec<usize>, usize) {
        (self.taken, self.cost)
    }

    /// Tokens that those taken already brought: in lexicographic order, a neighbour shares the most.
    fn shared(&self, i: usize) -> usize {
        let place = self.places[i];
        let before = self.by_place.range(..place).next_back();
        let after = self.by_place.range(place..).next();
        let tokens = self.waiting[i].tokens;
        let common = |(_, &j): (&usize, &usize)| {
            let other = &self.waiting[j];
            let common = common_prefix(tokens, other.tokens);
            // A rollout is read at its last token, which is computed even where another one takes it out of what is kept.
            if common == tokens.len() && other.known >= common { common - 1 } else { common }
        };
        before.map_or(0, common).max(after.map_or(0, common))
    }
}
