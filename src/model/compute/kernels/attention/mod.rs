//! Causal attention over the segment forest of a micro-batch, with grouped-query heads and an online softmax.
//!
//! A rollout's keys are taken in blocks of [`BLOCK`] that are cut at absolute positions in the rollout, whichever
//! segments hold them. So a row gets the same bits whether its prefix is shared or its rollout stands alone.
//!
//! Memory beyond the input and the output is bounded by the sizes of a block and of a bundle of queries; there is no
//! matrix of tokens by tokens.

mod blocks;
mod bundle;
mod pack;
mod past;
mod plan;
mod relative;
mod runs;
mod softmax;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_both_ways;

use std::cmp::Reverse;

use rayon::prelude::*;

pub use past::{Kept, Past, PastRun};
pub use plan::AttentionPlan;
pub use relative::{Relative, RelativeShape};
pub(super) use softmax::SLACK;

use self::blocks::Blocks;
use self::bundle::Bundle;
use super::grid::{self, steps};
use super::isa::Isa;
use crate::model::shapes::AttentionOptions;

/// Keys per block. A constant of the arithmetic, not of the machine: changing it changes bits.
pub(super) const BLOCK: usize = 64;

/// Attention of every row over the positions of its path, its own last: `qkv` is `[t, layout.row()]`, with queries and
/// keys already rotated, and `out` is `[queried, heads * head_dim]`: the rows of the plan that have queries, in order. The rows
/// and the layout are those of `plan`; what they continue is in `kept`.
///
/// `relative` is what relative positions add to the scores, of whole sequences alone.
///
/// # Panics
/// If the lengths do not agree, the window is zero, or `kept` lacks a slot of the plan.
pub fn attention(
    qkv: &[f32],
    kept: Kept,
    plan: &AttentionPlan,
    options: AttentionOptions,
    relative: Option<&Relative>,
    out: &mut [f32],
) {
    attention_on(Isa::current(), qkv, kept, plan, options, relative, out);
}

fn attention_on(
    isa: Isa,
    qkv: &[f32],
    kept: Kept,
    plan: &AttentionPlan,
    options: AttentionOptions,
    relative: Option<&Relative>,
    out: &mut [f32],
) {
    let layout = plan.layout();
    let width = layout.heads * layout.head_dim;
    assert_eq!(qkv.len(), plan.rows() * layout.row(), "the rows hold queries, keys and values");
    assert_eq!(out.len(), plan.queried() * width, "the output has one value per query head and dimension");
    assert!(options.window != Some(0), "a query sees at least its own position");
    let columns: Vec<_> = steps(width, layout.group() * layout.head_dim).collect();
    let blocks = grid::blocks(out.chunks_exact_mut(width), plan.bundles().map(|b| b.rows), &columns);
    let mut work: Vec<_> = plan.bundles().flat_map(|b| std::iter::repeat_n(b, layout.kv_heads)).zip(blocks).collect();
    // The costliest first, each to the next free thread: the last ones to finish are then the smallest.
    work.sort_by_key(|(bundle, _)| Reverse(bundle.cost));
    let blocks_of_keys = Blocks { isa, qkv, kept, plan };
    plan.with_packed(plan.shared_blocks().len() * layout.kv_heads * blocks_of_keys.packed(), |shared| {
        blocks_of_keys.pack_shared(options.first_seen(plan.least_position()), shared);
        work.into_iter().par_bridge().for_each(|(bundle, block)| {
            let kv_head = block.columns.start / (layout.group() * layout.head_dim);
            Bundle { blocks: blocks_of_keys, shared, options, relative, kv_head }.attend(bundle.pieces, block.pieces);
        });
    });
}
