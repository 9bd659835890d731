//! One bundle of rows under one key head: the queries of all its query heads visit each block of keys together.

use std::ops::Range;

use super::pack::pack_keys;
use super::plan::{AttentionPlan, Piece, Place};
use super::softmax::{self, Running, Seen};
use super::{BLOCK, Kept};
use crate::model::compute::kernels::aligned::with_scratch;
use crate::model::compute::kernels::isa::Isa;
use crate::model::compute::kernels::lanes::LANES;
use crate::model::compute::kernels::tile::{MAX_HEIGHT, next_tile};
use crate::model::shapes::AttentionOptions;

/// What one bundle reads.
pub(super) struct Bundle<'a> {
    pub(super) isa: Isa,
    pub(super) qkv: &'a [f32],
    pub(super) kept: Kept<'a>,
    pub(super) plan: &'a AttentionPlan,
    pub(super) options: AttentionOptions,
    pub(super) kv_head: usize,
}

/// Queries of one piece: rows by the query heads of one key head, heads of a row side by side.
struct Tile<'a> {
    segment: usize,
    /// Row of the piece's first query, counted from the bundle's first row.
    row: usize,
    /// These of the piece's queries.
    taken: Range<usize>,
    height: usize,
    /// Queries of the bundle, with padding, before this tile.
    offset: usize,
    /// The queries and their positions, which never fall. What pads them to `height` is the last one again.
    queries: [&'a [f32]; MAX_HEIGHT],
    positions: [usize; MAX_HEIGHT],
}

impl<'a> Bundle<'a> {
    /// Writes the attention of the pieces' rows: `out` has for each row the values of this key head's query heads.
    pub(super) fn attend(&self, pieces: &[Piece], mut out: Vec<&mut [f32]>) {
        let layout = self.plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        // Heads padded to whole panels.
        let stride = head_dim.next_multiple_of(self.isa.width());
        let tiles = self.tiles(pieces);
        let queries: usize = tiles.iter().map(|t| t.height).sum();
        // Whole lines each, so that all of them begin at one.
        let sizes = [queries * stride, queries, queries * LANES, BLOCK * head_dim, BLOCK * stride, MAX_HEIGHT * BLOCK]
            .map(|len| len.next_multiple_of(16));
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut rest = scratch;
            let [mix, reference, sum, keys, values, scores] = sizes.map(|len| {
                let (part, right) = std::mem::take(&mut rest).split_at_mut(len);
                rest = right;
                part
            });
            mix.fill(0.0);
            sum.fill(0.0);
            reference.fill(f32::NEG_INFINITY);
            for block in self.blocks(&tiles) {
                let mut gathered = None;
                for tile in &tiles {
                    let Some(seen) = self.seen(tile, block) else { continue };
                    let owner = self.plan.owner(tile.segment, block);
                    if gathered != Some(owner) {
                        self.gather(owner, block, keys, values);
                        gathered = Some(owner);
                    }
                    let all = tile.offset..tile.offset + tile.height;
                    let running = Running {
                        reference: &mut reference[all.clone()],
                        sum: &mut sum[all.start * LANES..all.end * LANES],
                        mix: &mut mix[all.start * stride..all.end * stride],
                    };
                    let seen = Seen::new(&seen[..tile.height]);
                    self.visit(&tile.queries[..tile.height], keys, values, &seen, scores, running);
                }
            }
            for tile in &tiles {
                for (at, query) in (tile.offset..).zip(tile.taken.clone()) {
                    let out = &mut out[tile.row + query / group][query % group * head_dim..][..head_dim];
                    let (mix, sum) = (&mix[at * stride..][..head_dim], &sum[at * LANES..][..LANES]);
                    softmax::finish(self.isa, mix, sum, out);
                }
            }
        });
    }

    fn tiles(&self, pieces: &[Piece]) -> Vec<Tile<'a>> {
        let layout = self.plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        let first = pieces.first().map_or(0, |piece| piece.rows.start);
        let mut tiles = Vec::new();
        let mut offset = 0;
        for piece in pieces {
            let mut next = 0;
            while next < piece.rows.len() * group {
                let (taken, height) = next_tile(self.isa.height(), piece.rows.len() * group - next);
                let query = |i: usize| next + i.min(taken - 1);
                tiles.push(Tile {
                    segment: piece.segment,
                    row: piece.rows.start - first,
                    taken: next..next + taken,
                    height,
                    offset,
                    queries: std::array::from_fn(|i| {
                        let row = &self.qkv[(piece.rows.start + query(i) / group) * layout.row()..];
                        &row[(self.kv_head * group + query(i) % group) * head_dim..][..head_dim]
                    }),
                    positions: std::array::from_fn(|i| piece.position + query(i) / group),
                });
                next += taken;
                offset += height;
            }
        }
        tiles
    }

    /// The blocks that any query of the tiles may see.
    fn blocks(&self, tiles: &[Tile]) -> Range<usize> {
        let first = tiles.iter().map(|t| self.first_seen(t.positions[0]) / BLOCK).min().unwrap_or(0);
        let last = tiles.iter().map(|t| t.positions[MAX_HEIGHT - 1] / BLOCK + 1).max().unwrap_or(0);
        first..last
    }

    /// First position that a query sees.
    fn first_seen(&self, position: usize) -> usize {
        self.options.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Which keys of a block each query of the tile sees; `None` if none sees any.
    fn seen(&self, tile: &Tile, block: usize) -> Option<[Range<usize>; MAX_HEIGHT]> {
        let start = block * BLOCK;
        let within = |p: usize| p.saturating_sub(start).min(BLOCK);
        let seen = tile.positions.map(|position| within(self.first_seen(position))..within(position + 1));
        seen.iter().any(|s| !s.is_empty()).then_some(seen)
    }

    /// Brings one tile's running softmax past one block.
    fn visit(
        &self,
        queries: &[&[f32]],
        keys: &[f32],
        values: &[f32],
        seen: &Seen,
        scores: &mut [f32],
        mut running: Running<'_>,
    ) {
        let (isa, height) = (self.isa, queries.len());
        let scores = &mut scores[..height * BLOCK];
        let panels = seen.any.start / isa.width()..seen.any.end.div_ceil(isa.width());
        softmax::score(isa, height, queries, &keys[..BLOCK * self.plan.layout().head_dim], panels, scores);
        softmax::weigh(isa, scores, seen, self.options, &mut running);
        let stride = running.mix.len() / height;
        softmax::mix(isa, height, scores, &values[..BLOCK * stride], seen, running.mix);
    }

    /// Packs the keys of a block as `[panel, head_dim, width]` and its values as `[panel, BLOCK, width]`. Places
    /// without a key keep what they held; no query sees them.
    fn gather(&self, owner: usize, block: usize, keys: &mut [f32], values: &mut [f32]) {
        let width = self.isa.width();
        // The positions of a path are all there, from the block's first on.
        let mut found: [&[f32]; BLOCK] = [&[]; BLOCK];
        let mut end = 0;
        for run in self.plan.runs(owner, block) {
            for (place, row) in (run.position - block * BLOCK..).zip(run.rows) {
                let (key, value) = self.key_and_value(row);
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
    fn key_and_value(&self, row: usize) -> (&[f32], &[f32]) {
        let layout = self.plan.layout();
        match self.plan.place(row) {
            Place::Row(row) => {
                let row = &self.qkv[row * layout.row()..][..layout.row()];
                let head = |head: usize| &row[head * layout.head_dim..][..layout.head_dim];
                (head(layout.heads + self.kv_head), head(layout.heads + layout.kv_heads + self.kv_head))
            }
            Place::Slot(slot) => self.kept.key_and_value(layout, self.kv_head, slot),
        }
    }
}
