//! What the rows of a micro-batch continue: prefixes whose keys and values earlier passes left behind.

use std::ops::Range;

use crate::model::shapes::HeadLayout;

/// Prefixes that are not computed again, as a forest of runs, and which segments of the micro-batch continue them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Where the keys and values of each position are kept, run after run.
    pub slots: Vec<u32>,
    /// The runs, parents first.
    pub runs: Vec<PastRun>,
    /// For each segment of the micro-batch without a parent in it, the run that it continues. Empty: none continues any.
    pub continued: Vec<Option<u32>>,
}

/// Consecutive positions of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRun {
    /// In [`Past::slots`].
    pub slots: Range<u32>,
    /// The run that holds the positions before these; always an earlier one.
    pub parent: Option<u32>,
}

/// Keys and values that earlier passes left behind, of one layer: `[kv_heads, slots, 2, head_dim]`. So what one key head
/// visits lies together: a row behind a long past waits for memory more than for arithmetic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept<'a>(pub &'a [f32]);

impl<'a> Kept<'a> {
    /// Where a key head's key in a slot begins, in room for so many slots; its value follows.
    pub fn start(layout: HeadLayout, slots: usize, kv_head: usize, slot: usize) -> usize {
        (kv_head * slots + slot) * 2 * layout.head_dim
    }

    pub(super) fn key_and_value(self, layout: HeadLayout, kv_head: usize, slot: usize) -> (&'a [f32], &'a [f32]) {
        let slots = self.0.len() / layout.kept();
        let start = Self::start(layout, slots, kv_head, slot);
        self.0[start..start + 2 * layout.head_dim].split_at(layout.head_dim)
    }
}
