//! The prefix cache: keys and values of earlier micro-batches, for later ones that begin with the same tokens.
//!
//! Groups straddle requests and micro-batches, and conversations come back a turn longer. What they share is computed
//! once while it is kept: bounded by slots (one per token), the leaves that are worth least give way first, as far as they
//! are worth no more than what comes new ([`reuse`]), and what queued rollouts are known to want is pinned. A row's keys
//! and values depend on the tokens up to it alone, so that a hit has the bits of a miss; tokens are compared, not hashes
//! of them.
//!
//! This is the bookkeeping alone, the same for all ranks: a radix tree over tokens that says in which slot each one's keys
//! and values are. The values themselves are with each rank, in [`KeyValues`].

mod key_values;
mod resume;
mod reuse;
#[cfg(test)]
mod reuse_tests;
mod shared;
mod shortage;
#[cfg(test)]
mod tests;
mod tree;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use self::shortage::Shortage;
pub use key_values::KeyValues;
pub use shared::SharedCache;

use self::resume::Resumption;
use self::reuse::{Reuse, Worth};
use self::tree::{NodeId, Place, Tree};
use crate::batch::MicroBatch;
use crate::model::compute::kernels::Past;

/// A micro-batch without the rows that earlier passes have computed.
#[derive(Debug, Default)]
pub struct Resumed {
    /// The rows that are left.
    pub batch: MicroBatch,
    /// The rows that are read, among those.
    pub reads: Vec<u32>,
    /// What they continue.
    pub past: Past,
    /// What is to be kept of this pass.
    pub keep: Vec<Keep>,
    /// Rows among those left that an earlier pass had computed, and that there was no room to keep. An estimate.
    pub recomputed: usize,
}

/// A row whose keys and values are to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Of the micro-batch that is left.
    pub row: u32,
    /// Where they go.
    pub slot: u32,
}

/// See the module.
#[derive(Debug)]
pub struct PrefixCache {
    slots: u32,
    tree: Tree,
    free: Vec<u32>,
    /// Names the pass: how many rollouts there were up to it.
    pass: u64,
    /// The pass before it, and the one before that.
    latest: u64,
    before: u64,
    reuse: Reuse,
    shortage: Shortage,
    /// Whether what the latest pass was to leave behind is there.
    finished: bool,
}

impl PrefixCache {
    /// An empty cache of so many tokens.
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            tree: Tree::default(),
            free: (0..slots).rev().collect(),
            pass: 0,
            latest: 0,
            before: 0,
            reuse: Reuse::new(slots),
            shortage: Shortage::new(slots),
            finished: true,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.slots);
    }

    /// Takes out of a micro-batch what is kept already, and decides what of the rest will be. `reads` are the rows that
    /// somebody looks at: they are always computed. [`Self::finish`] must follow once the pass has succeeded; if it does
    /// not, the next call forgets what that pass should have left.
    ///
    /// # Panics
    /// If a read or a wanted row is outside of the batch.
    pub fn resume(&mut self, batch: &MicroBatch, reads: &[u32]) -> Resumed {
        if !std::mem::replace(&mut self.finished, false) {
            let lost = self.tree.remove_born(self.pass);
            self.free.extend(lost);
        }
        (self.before, self.latest) = (self.latest, self.pass);
        self.pass += rollouts(batch);
        Resumption::new(self, batch, reads).run()
    }

    /// How many of these tokens of a rollout in the queue, from the first on, are kept. They stay for the next two passes, unless
    /// those need room for what is pinned.
    pub fn known(&mut self, tokens: &[u32]) -> usize {
        let (place, known) = self.tree.follow(Place::ROOT, tokens);
        self.tree.ask(place, self.pass);
        known
    }

    /// How many rows [`Self::resume`] would leave of a micro-batch.
    ///
    /// # Panics
    /// As [`Self::resume`].
    pub fn rows_left(&self, batch: &MicroBatch, reads: &[u32]) -> usize {
        resume::rows_left(&self.tree, batch, reads)
    }

    /// That the cache is too small, where there is something new to say of it.
    pub fn shortage(&mut self) -> Option<usize> {
        self.shortage.take()
    }

    /// The pass that [`Self::resume`] prepared has written what it was to keep.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Up to `n` slots: free ones first, then those of leaves that no rollout of this pass uses and none in the queue wants,
    /// those that are worth least first, from their ends. Where it is not known that somebody wants what they are for, those
    /// that are worth more than a newcomer stay, and those that rollouts in the queue begin with.
    fn take_slots(&mut self, n: usize, wanted: bool, leaves: &mut Option<Leaves>) -> Vec<u32> {
        if self.free.len() < n {
            let leaves =
                leaves.get_or_insert_with(|| Leaves::of(&self.tree, self.pass, self.before, self.reuse.worth()));
            let most = if wanted { ASKED_FOR } else { leaves.worth.of_newcomer() };
            leaves.give_way(&mut self.tree, n - self.free.len(), most, &mut self.free);
        }
        let mut slots = self.free.split_off(self.free.len() - n.min(self.free.len()));
        // Attention visits them in this order, and memory is read fastest from its beginning to its end.
        slots.sort_unstable();
        slots
    }
}

/// Rollouts of a micro-batch, whose reads stand together; one at least.
fn rollouts(batch: &MicroBatch) -> u64 {
    batch.reads.chunk_by(|a, b| a.rollout == b.rollout).count().max(1) as u64
}

/// Leaves that may give way, those worth least first, and of those worth the same the longest unused. Made once per pass:
/// what is used by the pass never gets in.
struct Leaves {
    heap: BinaryHeap<Reverse<Entry>>,
    pass: u64,
    /// Who asked after this pass or a later one may still be in the queue: the next micro-batch is planned while one runs.
    asked_since: u64,
    worth: Worth,
}

/// What a rollout in the queue begins with is worth more than anything that can be estimated.
const ASKED_FOR: f64 = f64::MAX;

/// A leaf: what it is worth, as bits, which are in order where no number is negative; when it was used last; its name.
type Entry = (u64, u64, NodeId);

impl Leaves {
    fn of(tree: &Tree, pass: u64, asked_since: u64, worth: Worth) -> Self {
        let mut leaves = Self { heap: BinaryHeap::new(), pass, asked_since, worth };
        leaves.heap = tree.ids().filter_map(|id| leaves.entry(tree, id)).map(Reverse).collect();
        leaves
    }

    fn entry(&self, tree: &Tree, id: NodeId) -> Option<Entry> {
        let node = tree.node(id);
        let may_go = id != NodeId::ROOT && node.children.is_empty() && node.used < self.pass && !node.is_pinned();
        let is_asked_for = node.asked > 0 && node.asked >= self.asked_since;
        let worth = if is_asked_for { ASKED_FOR } else { self.worth.at(self.pass - node.used) };
        may_go.then(|| (worth.to_bits(), node.used, id))
    }

    /// Frees `n` slots, or all that leaves have that are worth no more than `most`.
    fn give_way(&mut self, tree: &mut Tree, n: usize, most: f64, free: &mut Vec<u32>) {
        let enough = free.len() + n;
        while free.len() < enough
            && let Some(Reverse(first)) = self.heap.peek().copied()
        {
            let (worth, _, leaf) = first;
            // Since then it may have been used, pinned, or given way to another of its name.
            if !tree.holds(leaf) || self.entry(tree, leaf) != Some(first) {
                self.heap.pop();
                continue;
            }
            if f64::from_bits(worth) > most {
                break;
            }
            let parent = tree.node(leaf).parent;
            free.extend(tree.shorten(leaf, enough - free.len()));
            if !tree.holds(leaf) {
                self.heap.pop();
                let entry = self.entry(tree, parent);
                self.heap.extend(entry.map(Reverse));
            }
        }
    }
}
