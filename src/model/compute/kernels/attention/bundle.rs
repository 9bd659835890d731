//! One bundle of rows under one key head: the queries of all its query heads visit each block of keys together.

use std::ops::Range;

use super::BLOCK;
use super::blocks::Blocks;
use super::plan::Piece;
use super::relative::{Positions, Relative};
use super::softmax::{self, Running, Seen};
use crate::model::compute::kernels::aligned::with_scratch;
use crate::model::compute::kernels::lanes::LANES;
use crate::model::compute::kernels::tile::{MAX_HEIGHT, next_tile};
use crate::model::shapes::AttentionOptions;

/// What one bundle reads.
pub(super) struct Bundle<'a> {
    pub(super) blocks: Blocks<'a>,
    /// As [`Blocks::pack_shared`] has packed them.
    pub(super) shared: &'a [f32],
    pub(super) options: AttentionOptions,
    /// What positions add to the scores.
    pub(super) relative: Option<&'a Relative>,
    pub(super) kv_head: usize,
}

/// Queries of one piece: rows by the query heads of one key head, heads of a row side by side.
struct Tile<'a> {
    segment: usize,
    /// Row of the piece's first query, counted from the bundle's first row, among those that have queries.
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
        let Blocks { isa, plan, .. } = self.blocks;
        let layout = plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        // Heads padded to whole panels.
        let stride = head_dim.next_multiple_of(isa.width());
        let tiles = self.tiles(pieces);
        let queries: usize = tiles.iter().map(|t| t.height).sum();
        let relative = self.relative.map(|relative| Positions::new(relative, self.kv_head));
        // Whole lines each, so that all of them begin at one.
        let (of_queries, of_keys) = relative.map_or((0, 0), |relative| (relative.width(), relative.scratch()));
        let sizes = [
            queries * stride,
            queries,
            queries * LANES,
            self.blocks.packed(),
            MAX_HEIGHT * BLOCK,
            queries * of_queries,
            of_keys,
        ]
        .map(|len| len.next_multiple_of(16));
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut rest = scratch;
            let [mix, reference, sum, own, scores, query_terms, key_terms] = sizes.map(|len| {
                let (part, right) = std::mem::take(&mut rest).split_at_mut(len);
                rest = right;
                part
            });
            mix.fill(0.0);
            sum.fill(0.0);
            reference.fill(f32::NEG_INFINITY);
            if let Some(relative) = relative {
                for tile in &tiles {
                    let terms = &mut query_terms[tile.offset * relative.width()..][..tile.height * relative.width()];
                    relative.of_queries(&tile.queries[..tile.height], terms, key_terms);
                }
            }
            for block in self.visited(&tiles) {
                let (mut packed, mut known) = (None, None);
                for tile in &tiles {
                    let part;
                    let seen = if self.sees_whole(tile, block) {
                        &Seen::WHOLE
                    } else {
                        part = self.seen(tile, block);
                        let Some(part) = &part else { continue };
                        part
                    };
                    let owner = plan.owner(tile.segment, block);
                    let shared = plan.shared_index(owner, block);
                    if shared.is_none() && packed != Some(owner) {
                        self.blocks.pack(self.kv_head, owner, block, own);
                        packed = Some(owner);
                    }
                    let keys_and_values = shared.map_or(&*own, |index| self.shared_block(index));
                    let all = tile.offset..tile.offset + tile.height;
                    let running = Running {
                        reference: &mut reference[all.clone()],
                        sum: &mut sum[all.start * LANES..all.end * LANES],
                        mix: &mut mix[all.start * stride..all.end * stride],
                    };
                    let terms = relative.map(|relative| {
                        if known != Some(owner) {
                            relative.of_keys(&self.blocks, self.kv_head, owner, block, key_terms);
                            known = Some(owner);
                        }
                        let width = relative.width();
                        (relative, &query_terms[tile.offset * width..][..tile.height * width], &*key_terms)
                    });
                    let add = |scores: &mut [f32]| {
                        if let Some((relative, of_queries, of_keys)) = terms {
                            relative.add(&tile.positions[..tile.height], of_queries, block, of_keys, scores);
                        }
                    };
                    self.visit(&tile.queries[..tile.height], keys_and_values, seen, add, scores, running);
                }
            }
            for tile in &tiles {
                for (at, query) in (tile.offset..).zip(tile.taken.clone()) {
                    let out = &mut out[tile.row + query / group][query % group * head_dim..][..head_dim];
                    let (mix, sum) = (&mix[at * stride..][..head_dim], &sum[at * LANES..][..LANES]);
                    softmax::finish(isa, mix, sum, out);
                }
            }
        });
    }

    fn tiles(&self, pieces: &[Piece]) -> Vec<Tile<'a>> {
        let Blocks { isa, qkv, plan, .. } = self.blocks;
        let layout = plan.layout();
        let (group, head_dim) = (layout.group(), layout.head_dim);
        let first = pieces.first().map_or(0, |piece| piece.before);
        let mut tiles = Vec::new();
        let mut offset = 0;
        for piece in pieces {
            let mut next = 0;
            while next < piece.rows.len() * group {
                let (taken, height) = next_tile(isa.height(), piece.rows.len() * group - next);
                let query = |i: usize| next + i.min(taken - 1);
                tiles.push(Tile {
                    segment: piece.segment,
                    row: piece.before - first,
                    taken: next..next + taken,
                    height,
                    offset,
                    queries: std::array::from_fn(|i| {
                        let row = &qkv[(piece.rows.start + query(i) / group) * layout.row()..];
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
    fn visited(&self, tiles: &[Tile]) -> Range<usize> {
        let first = tiles.iter().map(|t| self.options.first_seen(t.positions[0]) / BLOCK).min().unwrap_or(0);
        let last = tiles.iter().map(|t| self.seen_until(t, MAX_HEIGHT - 1).div_ceil(BLOCK)).max().unwrap_or(0);
        first..last
    }

    /// The position behind the last one that a query of a tile sees.
    fn seen_until(&self, tile: &Tile, query: usize) -> usize {
        let position = tile.positions[query];
        self.options.seen_until(position, self.blocks.plan.sees_until(tile.segment, position))
    }

    /// Whether each query of the tile sees all keys of a block.
    fn sees_whole(&self, tile: &Tile, block: usize) -> bool {
        // Positions never fall: what the first sees to the last key, and the last from the first key on, all see.
        (block + 1) * BLOCK <= self.seen_until(tile, 0)
            && self.options.first_seen(tile.positions[MAX_HEIGHT - 1]) <= block * BLOCK
    }

    /// Which keys of a block the queries of the tile see; `None` if none sees any.
    fn seen(&self, tile: &Tile, block: usize) -> Option<Seen> {
        let start = block * BLOCK;
        let within = |p: usize| p.saturating_sub(start).min(BLOCK);
        Seen::new(std::array::from_fn(|query| {
            within(self.options.first_seen(tile.positions[query]))..within(self.seen_until(tile, query))
        }))
    }

    /// A block that several bundles visit.
    fn shared_block(&self, index: usize) -> &[f32] {
        let len = self.blocks.packed();
        &self.shared[(index * self.blocks.plan.layout().kv_heads + self.kv_head) * len..][..len]
    }

    /// Brings one tile's running softmax past one block; `add` adds to the scores.
    fn visit(
        &self,
        queries: &[&[f32]],
        keys_and_values: &[f32],
        seen: &Seen,
        add: impl FnOnce(&mut [f32]),
        scores: &mut [f32],
        mut running: Running<'_>,
    ) {
        let (isa, height) = (self.blocks.isa, queries.len());
        let (keys, values) = keys_and_values.split_at(BLOCK * self.blocks.plan.layout().head_dim);
        let scores = &mut scores[..height * BLOCK];
        let panels = seen.any.start / isa.width()..seen.any.end.div_ceil(isa.width());
        softmax::score(isa, height, queries, keys, panels, scores);
        add(scores);
        softmax::weigh(isa, scores, seen, self.options, &mut running);
        softmax::mix(isa, height, scores, values, seen, running.mix);
    }
}
