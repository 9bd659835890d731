//! The prefix cache: keys and values of earlier micro-batches, for later ones that begin with the same tokens.
//!
//! Groups straddle requests and micro-batches, and conversations come back a turn longer. What they share is computed
//! once while it is kept: bounded by slots (one per token), the longest unused leaves give way first, and what queued
//! rollouts are known to want is pinned. A row's keys and values depend on the tokens up to it alone, so that a hit has
//! the bits of a miss; tokens are compared, not hashes of them.
//!
//! This is the bookkeeping alone, the same for all ranks: a radix tree over tokens that says in which slot each one's keys
//! and values are. The values themselves are with each rank, in [`KeyValues`].

mod key_values;
mod resume;
#[cfg(test)]
mod tests;
mod tree;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub use key_values::KeyValues;

use self::resume::Resumption;
use self::tree::{NodeId, Tree};
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
    /// Counts the passes.
    pass: u64,
    /// Whether what the latest pass was to leave behind is there.
    finished: bool,
}

impl PrefixCache {
    /// An empty cache of so many tokens.
    pub fn new(slots: u32) -> Self {
        Self { slots, tree: Tree::default(), free: (0..slots).rev().collect(), pass: 0, finished: true }
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
        self.pass += 1;
        Resumption::new(self, batch, reads).run()
    }

    /// The pass that [`Self::resume`] prepared has written what it was to keep.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Up to `n` slots: free ones first, then those of leaves that no rollout of this pass uses and none in the queue wants,
    /// the longest unused first, from their ends.
    fn take_slots(&mut self, n: usize, leaves: &mut Option<Leaves>) -> Vec<u32> {
        if self.free.len() < n {
            let leaves = leaves.get_or_insert_with(|| Leaves::of(&self.tree, self.pass));
            leaves.give_way(&mut self.tree, n - self.free.len(), self.pass, &mut self.free);
        }
        self.free.split_off(self.free.len() - n.min(self.free.len()))
    }
}

/// Leaves that may give way, the longest unused first. Made once per pass: what is used by the pass never gets in.
struct Leaves(BinaryHeap<Reverse<(u64, NodeId)>>);

impl Leaves {
    fn of(tree: &Tree, pass: u64) -> Self {
        Self(tree.ids().filter_map(|id| Self::entry(tree, id, pass)).collect())
    }

    fn entry(tree: &Tree, id: NodeId, pass: u64) -> Option<Reverse<(u64, NodeId)>> {
        let node = tree.node(id);
        (id != NodeId::ROOT && node.children.is_empty() && node.used < pass && !node.is_pinned())
            .then_some(Reverse((node.used, id)))
    }

    /// Frees `n` slots, or all that there are.
    fn give_way(&mut self, tree: &mut Tree, n: usize, pass: u64, free: &mut Vec<u32>) {
        let enough = free.len() + n;
        while free.len() < enough
            && let Some(first) = self.0.peek().copied()
        {
            let Reverse((_, leaf)) = first;
            // Since then it may have been used, pinned, or given way to another of its name.
            if !tree.holds(leaf) || Self::entry(tree, leaf, pass) != Some(first) {
                self.0.pop();
                continue;
            }
            let parent = tree.node(leaf).parent;
            free.extend(tree.shorten(leaf, enough - free.len()));
            if !tree.holds(leaf) {
                self.0.pop();
                self.0.extend(Self::entry(tree, parent, pass));
            }
        }
    }
}
