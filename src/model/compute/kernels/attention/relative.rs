//! Scores that relative positions add: disentangled attention (DeBERTa, arXiv 2006.03654; `disentangled_attention_bias` of
//! `models/deberta_v2/modeling_deberta_v2.py` in transformers).
//!
//! A distance from key to query falls into a bucket. A query adds its dot product with the bucket's key, a key adds its dot
//! product with the bucket's query; both are matrices of the layer's weights alone, packed once.
//!
//! Invariant: each term is one chain of multiply-adds of one row, and the terms of a score are added in one order: the
//! content's, the query's, the key's.

use super::BLOCK;
use super::blocks::Blocks;
use crate::model::compute::kernels::addends::Addends;
use crate::model::compute::kernels::linear::linear_here;
use crate::model::compute::kernels::matrix::PackedMatrix;

/// How distances become buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeShape {
    /// Buckets on each side; there are twice as many.
    pub span: usize,
    /// Above zero: distances up to the half of so many have a bucket each, larger ones share buckets by their logarithm.
    pub buckets: usize,
    /// The distance from which on all are in the last bucket, where they go by logarithms.
    pub furthest: usize,
}

impl RelativeShape {
    /// The bucket of a query's position less a key's, in float32 as transformers computes it.
    pub(super) fn bucket(&self, distance: isize) -> u32 {
        let moved = if self.buckets > 0 { self.logarithmic(distance) } else { distance };
        (moved + self.span as isize).clamp(0, 2 * self.span as isize - 1) as u32
    }

    fn logarithmic(&self, distance: isize) -> isize {
        let middle = self.buckets / 2;
        if distance.unsigned_abs() <= middle {
            return distance;
        }
        let log = |size: f64| libm::logf((size / middle as f64) as f32);
        let share = log(distance.unsigned_abs() as f64) / log((self.furthest - 1) as f64);
        let bucket = (share * (middle as f32 - 1.0)).ceil() + middle as f32;
        bucket as isize * distance.signum()
    }

    /// From this distance on all are in one bucket.
    fn reach(&self) -> usize {
        self.span.max(if self.buckets > 0 { self.furthest } else { 0 })
    }
}

/// What the positions of one layer add to the scores.
#[derive(Debug)]
pub struct Relative {
    /// Buckets, all of them.
    width: usize,
    /// The bucket of each distance, from the least to the greatest that have one of their own.
    buckets: Vec<u32>,
    /// For each head, the buckets' keys; empty where queries add nothing.
    keys: Vec<PackedMatrix>,
    /// For each head, the buckets' queries; empty where keys add nothing.
    queries: Vec<PackedMatrix>,
}

impl Relative {
    /// Of keys and queries for each head, `[2 * span, head_dim]`; one of the two may be empty.
    ///
    /// # Panics
    /// If a matrix has another number of rows.
    pub fn new(shape: RelativeShape, keys: Vec<PackedMatrix>, queries: Vec<PackedMatrix>) -> Self {
        let width = 2 * shape.span;
        assert!(keys.iter().chain(&queries).all(|matrix| matrix.n() == width), "a row for each bucket");
        let reach = shape.reach() as isize;
        Self { width, buckets: (-reach..=reach).map(|distance| shape.bucket(distance)).collect(), keys, queries }
    }

    /// Bytes of the matrices in memory.
    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.queries).map(PackedMatrix::bytes).sum()
    }
}

/// What the positions add under one head.
#[derive(Clone, Copy)]
pub(super) struct Positions<'a> {
    buckets: &'a [u32],
    width: usize,
    head_dim: usize,
    keys: Option<&'a PackedMatrix>,
    queries: Option<&'a PackedMatrix>,
}

impl<'a> Positions<'a> {
    pub(super) fn new(relative: &'a Relative, head: usize) -> Self {
        let (keys, queries) = (relative.keys.get(head), relative.queries.get(head));
        let head_dim = keys.or(queries).map_or(0, PackedMatrix::k);
        Self { buckets: &relative.buckets, width: relative.width, head_dim, keys, queries }
    }

    /// Terms of a query, or of a key: one for each bucket.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values of the scratch that [`Self::of_queries`] and [`Self::of_keys`] take: terms of a block of keys, and rows side by side.
    pub(super) fn scratch(&self) -> usize {
        BLOCK * (self.width + self.head_dim)
    }

    /// What the queries of a tile add for each bucket, row after row.
    pub(super) fn of_queries(&self, queries: &[&[f32]], terms: &mut [f32], scratch: &mut [f32]) {
        let Some(keys) = self.keys else { return };
        let rows = &mut scratch[..queries.len() * self.head_dim];
        for (row, query) in rows.chunks_exact_mut(self.head_dim).zip(queries) {
            row.copy_from_slice(query);
        }
        linear_here(rows, keys, Addends::NONE, terms);
    }

    /// What the keys of a block add for each bucket: in the first rows of the scratch.
    pub(super) fn of_keys(&self, blocks: &Blocks, head: usize, owner: usize, block: usize, scratch: &mut [f32]) {
        let Some(queries) = self.queries else { return };
        let (terms, rows) = scratch.split_at_mut(BLOCK * self.width);
        let mut count = 0;
        for run in blocks.plan.runs(owner, block) {
            for (place, row) in (run.position - block * BLOCK..).zip(run.rows) {
                let key = blocks.key_and_value(head, row).0;
                rows[place * self.head_dim..][..self.head_dim].copy_from_slice(key);
                count = count.max(place + 1);
            }
        }
        linear_here(&rows[..count * self.head_dim], queries, Addends::NONE, &mut terms[..count * self.width]);
    }

    /// Adds to the scores of a tile, `[height, BLOCK]`. What is added to those of keys that are not there means nothing.
    pub(super) fn add(
        &self,
        positions: &[usize],
        of_queries: &[f32],
        block: usize,
        of_keys: &[f32],
        scores: &mut [f32],
    ) {
        let reach = (self.buckets.len() / 2) as isize;
        let (scores, _) = scores.as_chunks_mut::<BLOCK>();
        for ((position, of_query), scores) in positions.iter().zip(of_queries.chunks_exact(self.width)).zip(scores) {
            let mut buckets = [0; BLOCK];
            for (place, bucket) in buckets.iter_mut().enumerate() {
                let distance = *position as isize - (block * BLOCK + place) as isize;
                *bucket = self.buckets[(distance.clamp(-reach, reach) + reach) as usize] as usize;
            }
            if self.keys.is_some() {
                for (score, bucket) in scores.iter_mut().zip(buckets) {
                    *score += of_query[bucket];
                }
            }
            if self.queries.is_some() {
                let keys = of_keys.chunks_exact(self.width);
                for ((score, bucket), of_key) in scores.iter_mut().zip(buckets).zip(keys) {
                    *score += of_key[bucket];
                }
            }
        }
    }
}
