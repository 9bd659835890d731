//! What the rows of a micro-batch continue: prefixes whose keys and values earlier passes left behind.

use std::ops::Range;

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

/// Keys and values that earlier passes left behind, of one layer: `[slots, 2, kv_heads, head_dim]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept<'a>(pub &'a [f32]);
