//! One bundle of rows under one key head: the queries of all its query heads visit each block of keys together.

use std::ops::Range;

use super::plan::{AttentionPlan, Piece, Place};
use super::softmax::{self, Running};
use super::{AttentionOptions, BLOCK, Kept};
use crate::model::kernels::aligned::with_scratch;
use crate::model::kernels::isa::Isa;
use crate::model::kernels::tile::{MAX_HEIGHT, next_tile};

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
struct Tile {
    segment: usize,
    /// Row and position of the piece's first query.
    row: usize,
    position: usize,
    /// These of the piece's queries.
    queries: Range<usize>,
    height: usize,
    /// Queries of the bundle, with padding, before this tile.
    offset: usize,
}

impl Tile {
    /// Position of the tile's query `i`; padding stands where the last query does.
    fn position(&self, i: usize, group: usize) -> usize {
        self.position + (self.queries.start + i).min(self.queries.end - 1) / group
    }
}

impl Bundle<'_> {
    /// Writes the attention of the pieces' rows: `out` has for each row the values of this key head's query heads.
    pub(super) fn attend(&self, pieces: &[Piece], mut out: Vec<&mut [f32]>) {
        let layout = self.plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        // Heads padded to whole panels.
        let stride = head_dim.next_multiple_of(self.isa.width());
        let tiles = self.tiles(pieces);
        let queries: usize = tiles.iter().map(|t| t.height).sum();
        // Whole lines each, so that all of them begin at one.
        let sizes = [queries * head_dim, queries * stride, queries, queries, BLOCK * head_dim, BLOCK * stride]
            .map(|len| len.next_multiple_of(16));
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut rest = scratch;
            let [packed, mix, max, sum, keys, values] = sizes.map(|len| {
                let (part, right) = std::mem::take(&mut rest).split_at_mut(len);
                rest = right;
                part
            });
            mix.fill(0.0);
            sum.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            for tile in &tiles {
                self.pack_queries(tile, &mut packed[tile.offset * head_dim..][..tile.height * head_dim]);
            }
            let mut scores = [0.0; MAX_HEIGHT * BLOCK];
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
                        max: &mut max[all.clone()],
                        sum: &mut sum[all.clone()],
                        mix: &mut mix[all.start * stride..all.end * stride],
                    };
                    let packed = &packed[all.start * head_dim..all.end * head_dim];
                    self.visit(tile.height, packed, keys, values, &seen[..tile.height], &mut scores, running);
                }
            }
            for tile in &tiles {
                for (i, query) in tile.queries.clone().enumerate() {
                    let at = tile.offset + i;
                    let row = tile.row + query / group - pieces[0].rows.start;
                    let out = &mut out[row][query % group * head_dim..][..head_dim];
                    for (out, mix) in out.iter_mut().zip(&mix[at * stride..]) {
                        *out = mix / sum[at];
                    }
                }
            }
        });
    }

    fn tiles(&self, pieces: &[Piece]) -> Vec<Tile> {
        let group = self.plan.layout().group();
        let mut tiles = Vec::new();
        let mut offset = 0;
        for piece in pieces {
            let mut query = 0;
            while query < piece.rows.len() * group {
                let (taken, height) = next_tile(self.isa.height(), piece.rows.len() * group - query);
                let queries = query..query + taken;
                let Piece { segment, ref rows, position } = *piece;
                tiles.push(Tile { segment, row: rows.start, position, queries, height, offset });
                query += taken;
                offset += height;
            }
        }
        tiles
    }

    /// The blocks that any query of the tiles may see.
    fn blocks(&self, tiles: &[Tile]) -> Range<usize> {
        let group = self.plan.layout().group();
        let first = tiles.iter().map(|t| self.first_seen(t.position(0, group)) / BLOCK).min().unwrap_or(0);
        let last = tiles.iter().map(|t| t.position(t.height, group) / BLOCK + 1).max().unwrap_or(0);
        first..last
    }

    /// First position that a query sees.
    fn first_seen(&self, position: usize) -> usize {
        self.options.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Which keys of a block each query of the tile sees; `None` if none sees any.
    fn seen(&self, tile: &Tile, block: usize) -> Option<[Range<usize>; MAX_HEIGHT]> {
        let group = self.plan.layout().group();
        let start = block * BLOCK;
        let mut any = false;
        let seen = std::array::from_fn(|i| {
            let position = tile.position(i, group);
            let within = |p: usize| p.saturating_sub(start).min(BLOCK);
            let seen = within(self.first_seen(position))..within(position + 1);
            any |= !seen.is_empty();
            seen
        });
        any.then_some(seen)
    }

    /// Brings one tile's running softmax past one block.
    #[expect(clippy::too_many_arguments, reason = "the parts of one scratch buffer, borrowed apart")]
    fn visit(
        &self,
        height: usize,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        seen: &[Range<usize>],
        scores: &mut [f32],
        running: Running<'_>,
    ) {
        let isa = self.isa;
        let head_dim = self.plan.layout().head_dim;
        let stride = running.mix.len() / height;
        let scores = &mut scores[..height * BLOCK];
        let any = || seen.iter().filter(|s| !s.is_empty());
        let from = any().map(|s| s.start).min().unwrap_or(0);
        let to = any().map(|s| s.end).max().unwrap_or(0);
        let panels = from / isa.width()..to.div_ceil(isa.width());
        softmax::score(isa, height, queries, &keys[..BLOCK * head_dim], panels, scores);
        let Running { max, sum, mix } = running;
        softmax::weigh(isa, scores, seen, self.options.soft_cap, Running { max, sum, mix });
        let values = &values[..BLOCK * stride];
        // What all rows see goes through the tile. What only some see goes row by row: a weight of zero is not enough,
        // for the value may be infinite, and zero times that is not zero.
        let common = seen.iter().map(|s| s.start).max().unwrap_or(0)..seen.iter().map(|s| s.end).min().unwrap_or(0);
        let whole = seen.iter().all(|s| *s == common);
        if !whole {
            for (i, s) in seen.iter().enumerate() {
                let before = s.start..if common.is_empty() { s.end } else { common.start };
                if !before.is_empty() {
                    let weights = &scores[i * BLOCK..(i + 1) * BLOCK];
                    softmax::mix(isa, 1, weights, values, before, &mut mix[i * stride..(i + 1) * stride]);
                }
            }
        }
        if !common.is_empty() {
            softmax::mix(isa, height, scores, values, common.clone(), mix);
            for (i, s) in seen.iter().enumerate().filter(|_| !whole) {
                let after = common.end..s.end;
                if !after.is_empty() {
                    let weights = &scores[i * BLOCK..(i + 1) * BLOCK];
                    softmax::mix(isa, 1, weights, values, after, &mut mix[i * stride..(i + 1) * stride]);
                }
            }
        }
    }

    /// Packs a tile's queries, scaled, as `[head_dim, height]`.
    fn pack_queries(&self, tile: &Tile, packed: &mut [f32]) {
        let layout = self.plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        packed.fill(0.0);
        for (i, query) in tile.queries.clone().enumerate() {
            let head = self.kv_head * group + query % group;
            let start = (tile.row + query / group) * layout.row() + head * head_dim;
            let source = &self.qkv[start..start + head_dim];
            for (packed, q) in packed[i..].iter_mut().step_by(tile.height).zip(source) {
                *packed = q * self.options.scale;
            }
        }
    }

    /// Packs the keys of a block as `[panel, head_dim, width]` and its values as `[panel, BLOCK, width]`. Places
    /// without a key keep what they held; no query sees them.
    fn gather(&self, owner: usize, block: usize, keys: &mut [f32], values: &mut [f32]) {
        let layout = self.plan.layout();
        let (head_dim, width) = (layout.head_dim, self.isa.width());
        for run in self.plan.runs(owner, block) {
            for (slot, row) in (run.position - block * BLOCK..).zip(run.rows) {
                let keys_and_values = match self.plan.place(row) {
                    Place::Row(row) => &self.qkv[row * layout.row() + layout.heads * head_dim..][..layout.kept()],
                    Place::Slot(slot) => &self.kept.0[slot * layout.kept()..][..layout.kept()],
                };
                let start = self.kv_head * head_dim;
                let key = &keys_and_values[start..start + head_dim];
                let panel = &mut keys[slot / width * head_dim * width..][..head_dim * width];
                for (packed, k) in panel[slot % width..].iter_mut().step_by(width).zip(key) {
                    *packed = *k;
                }
                let start = start + layout.kv_heads * head_dim;
                let value = &keys_and_values[start..start + head_dim];
                for (panel, v) in values.chunks_exact_mut(BLOCK * width).zip(value.chunks(width)) {
                    panel[slot * width..][..v.len()].copy_from_slice(v);
                }
            }
        }
    }
}
