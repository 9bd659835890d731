//! What comes back, and after how long: what a kept prefix is worth, and what had to be computed again.
//!
//! Invariant: these are hints of bounded size. Whatever they say, every row keeps its bits; only times change.
//!
//! The latest uses of prefixes are remembered whether they are kept or not, as hashes of their tokens up to every
//! [`BLOCK`]th one. So the times after which prefixes come back are known without the bias of what was thrown away. Time
//! is counted in rollouts, since conversations that grow come back after as many rollouts, but after ever more tokens.
//!
//! A prefix of some age is worth the most that it can be expected to give back per unit of time from now on (Gittins's
//! index of a job that may be abandoned; Aalto, Ayesta and Righter 2009): over all horizons, the chance that it comes
//! back within the horizon, divided by the time that it is expected to hold its slots until then. Where everything comes
//! back in turn, what has waited longest is worth most, so that newcomers do not displace it; where it does not
//! come back after some age, what is older is worth nothing.
//!
//! Where the least recently used could give way with hardly a loss ([`ENOUGH`]), they do: then that order needs no estimate.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Tokens per remembered hash: a prefix is known up to the last multiple of this.
pub(super) const BLOCK: usize = 16;

/// Uses that are remembered, as a multiple of the blocks that the cache holds, and at least.
const REMEMBERED: usize = 32;
const REMEMBERED_LEAST: usize = 4096;

/// Uses after which older ones count half, as a multiple of the blocks that the cache holds, and at least.
const HALF_LIFE: usize = 16;
const HALF_LIFE_LEAST: usize = 2048;

/// The same for how well the least recently used would have given way.
const LRU_HALF_LIFE: usize = 4;

/// The share of what came back that a cache of this size with least-recently-used order would have had, from which on that
/// order is used.
const ENOUGH: f64 = 0.9;

/// Ages are told apart by their order of magnitude: so many per factor of two.
const PER_OCTAVE: f64 = 2.0;
/// Up to 2^24 rollouts; what is older counts as that old.
const BUCKETS: usize = 50;

/// How a time is spread over its bucket and the two behind it: intervals of conversations are not all alike, and what is
/// just late is not lost.
const SPREAD: [f64; 3] = [0.5, 0.25, 0.25];

/// See the module.
#[derive(Debug)]
pub(super) struct Reuse {
    /// Blocks that the cache holds.
    capacity: usize,
    /// When each block was used last, in rollouts, as far as it is remembered.
    latest: HashMap<u64, u64>,
    /// The uses that are remembered, in their order.
    uses: VecDeque<(u64, u64)>,
    /// Of the blocks remembered, how many were last used when.
    blocks_at: BTreeMap<u64, usize>,
    /// Blocks that were used after each of these times, before this pass.
    blocks_since: HashMap<u64, usize>,
    /// The times after which blocks came back, by bucket, and all uses.
    returns: [f64; BUCKETS],
    begun: f64,
    /// Blocks that came back, and those of them that a least-recently-used cache would have held.
    returned: f64,
    returned_lru: f64,
}

/// What prefixes are worth by their age, at one time.
#[derive(Debug, Clone)]
pub(super) struct Worth {
    by_age: [f64; BUCKETS],
}

/// A block of a pass came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Return {
    /// Other blocks that were used since: a least-recently-used cache of so many blocks would have thrown it out.
    pub(super) others: usize,
}

impl Reuse {
    /// For a cache of so many tokens.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            capacity: (slots as usize / BLOCK).max(1),
            latest: HashMap::new(),
            uses: VecDeque::new(),
            blocks_at: BTreeMap::new(),
            blocks_since: HashMap::new(),
            returns: [0.0; BUCKETS],
            begun: 0.0,
            returned: 0.0,
            returned_lru: 0.0,
        }
    }

    /// A pass begins, whose blocks [`Self::see`] is told of.
    pub(super) fn begin(&mut self) {
        let remembered = (REMEMBERED * self.capacity).max(REMEMBERED_LEAST);
        while self.uses.len() > remembered {
            let Some((block, then)) = self.uses.pop_front() else { break };
            if self.latest.get(&block) == Some(&then) {
                self.latest.remove(&block);
                self.leave(then);
            }
        }
        let mut since = 0;
        self.blocks_since.clear();
        for (then, blocks) in self.blocks_at.iter().rev() {
            self.blocks_since.insert(*then, since);
            since += blocks;
        }
        if self.begun > (HALF_LIFE * self.capacity).max(HALF_LIFE_LEAST) as f64 {
            self.begun /= 2.0;
            self.returns.iter_mut().for_each(|n| *n /= 2.0);
        }
        if self.returned > (LRU_HALF_LIFE * self.capacity) as f64 {
            self.returned /= 2.0;
            self.returned_lru /= 2.0;
        }
    }

    /// A block is used by the pass at time `now`. `None` where it is not remembered, or was seen in this pass already.
    pub(super) fn see(&mut self, block: u64, now: u64) -> Option<Return> {
        let before = self.latest.insert(block, now);
        if before == Some(now) {
            return None;
        }
        self.uses.push_back((block, now));
        *self.blocks_at.entry(now).or_default() += 1;
        self.begun += 1.0;
        let then = before?;
        self.leave(then);
        let first = bucket(now - then);
        for (i, share) in SPREAD.iter().enumerate() {
            self.returns[(first + i).min(BUCKETS - 1)] += share;
        }
        let others = self.blocks_since.get(&then).copied().unwrap_or(0);
        self.returned += 1.0;
        if others < self.capacity {
            self.returned_lru += 1.0;
        }
        Some(Return { others })
    }

    fn leave(&mut self, then: u64) {
        if let Some(blocks) = self.blocks_at.get_mut(&then) {
            *blocks -= 1;
            if *blocks == 0 {
                self.blocks_at.remove(&then);
            }
        }
    }

    /// What prefixes are worth now. All alike where the least recently used may give way.
    pub(super) fn worth(&self) -> Worth {
        let mut by_age = [0.0; BUCKETS];
        if self.returned_lru < ENOUGH * self.returned {
            let mut left = self.begun.max(self.returns.iter().sum());
            for (age, (worth, returns)) in by_age.iter_mut().zip(&self.returns).enumerate() {
                *worth = self.index(age, left);
                left -= returns;
            }
        }
        Worth { by_age }
    }

    /// The index of what is as old as a bucket; `left` have come as far.
    fn index(&self, age: usize, mut left: f64) -> f64 {
        let now = if age == 0 { 0.0 } else { middle(age) };
        let (mut best, mut returns, mut time) = (0.0_f64, 0.0, 0.0);
        for (horizon, &n) in self.returns.iter().enumerate().skip(age).filter(|(_, n)| **n > 0.0) {
            returns += n;
            left -= n;
            time += n * (middle(horizon) - now).max(0.25);
            let held = time + left.max(0.0) * (start(horizon + 1) - now);
            best = best.max(returns / held);
        }
        best
    }
}

impl Worth {
    /// What a prefix is worth that was used so many rollouts ago. Greater than none, so that its bits are in order.
    pub(super) fn at(&self, age: u64) -> f64 {
        self.by_age[bucket(age)]
    }

    /// What one is worth that is used now.
    pub(super) fn of_newcomer(&self) -> f64 {
        self.by_age[0]
    }
}

fn bucket(age: u64) -> usize {
    if age == 0 { 0 } else { (1 + (PER_OCTAVE * libm::log2(age as f64)) as usize).min(BUCKETS - 1) }
}

/// The least age in a bucket.
fn start(bucket: usize) -> f64 {
    if bucket == 0 { 0.0 } else { libm::exp2((bucket - 1) as f64 / PER_OCTAVE) }
}

fn middle(bucket: usize) -> f64 {
    f64::midpoint(start(bucket), start(bucket + 1))
}

/// A hash of a path's tokens: goes on from its parent's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathHash(u64);

impl PathHash {
    /// The path with one more token. Mixes as splitmix64 does (Steele et al. 2014).
    pub(super) fn then(self, token: u32) -> Self {
        let mut z = (self.0 ^ u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(z ^ (z >> 31))
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}
