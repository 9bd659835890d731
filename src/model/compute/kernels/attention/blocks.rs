//! Keys and values of a block, packed for the tiles that visit it.
//!
//! Invariant: packing copies values and computes nothing, so it does not matter for a bit who packs a block and when.

use rayon::prelude::*;

use super::pack::pack_keys;
use super::plan::{AttentionPlan, Place};
use super::{BLOCK, Kept};
use crate::model::compute::kernels::isa::Isa;

/// Where the keys and values of a layer are.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) isa: Isa,
    pub(super) qkv: &'a [f32],
    pub(super) kept: Kept<'a>,
    pub(super) plan: &'a AttentionPlan,
}

impl Blocks<'_> {
    /// Values of one packed block: its keys as `[panel, head_dim, width]`, then its values as `[panel, BLOCK, width]`, with
    /// heads padded to whole panels.
    pub(super) fn packed(&self) -> usize {
        let head_dim = self.plan.layout().head_dim;
        BLOCK * (head_dim + head_dim.next_multiple_of(self.isa.width()))
    }

    /// Packs the blocks that several bundles visit, for all key heads: `[block, kv_heads, packed]`. Those that end before
    /// position `first` are left out, for no row sees them.
    pub(super) fn pack_shared(&self, first: usize, shared: &mut [f32]) {
        let blocks = shared.par_chunks_exact_mut(self.plan.layout().kv_heads * self.packed());
        blocks.zip(self.plan.shared_blocks()).for_each(|(heads, &(owner, block))| {
            if (block + 1) * BLOCK > first {
                for (kv_head, packed) in heads.chunks_exact_mut(self.packed()).enumerate() {
                    self.pack(kv_head, owner, block, packed);
                }
            }
        });
    }

    /// Packs a block of one key head. Places without a key keep what they held; no query sees them.
    pub(super) fn pack(&self, kv_head: usize, owner: usize, block: usize, packed: &mut [f32]) {
        let width = self.isa.width();
        let (keys, values) = packed.split_at_mut(BLOCK * self.plan.layout().head_dim);
        // The positions of a path are all there, from the block's first on.
        let mut found: [&[f32]; BLOCK] = [&[]; BLOCK];
        let mut end = 0;
        for run in self.plan.runs(owner, block) {
            for (place, row) in (run.position - block * BLOCK..).zip(run.rows) {
                let (key, value) = self.key_and_value(kv_head, row);
                found[place] = key;
                end = end.max(place + 1);
                for (panel, v) in values.chunks_exact_mut(BLOCK * width).zip(value.chunks(width)) {
                    panel[place * width..][..v.len()].copy_from_slice(v);
                }
            }
        }
        pack_keys(self.isa, &found[..end], keys);
    }

    /// The key and the value of a run's row.
    pub(super) fn key_and_value(&self, kv_head: usize, row: usize) -> (&[f32], &[f32]) {
        let layout = self.plan.layout();
        match self.plan.place(row) {
            Place::Row(row) => {
                let row = &self.qkv[row * layout.row()..][..layout.row()];
                let head = |head: usize| &row[head * layout.head_dim..][..layout.head_dim];
                (head(layout.heads + kv_head), head(layout.heads + layout.kv_heads + kv_head))
            }
            Place::Slot(slot) => self.kept.key_and_value(layout, kv_head, slot),
        }
    }
}
