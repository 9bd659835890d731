//! Who attends to whom: worked out once per micro-batch, used by every layer.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::runs::runs_of;
use super::{BLOCK, Past};
use crate::batch::MicroBatch;
use crate::model::compute::kernels::aligned::Aligned;
use crate::model::shapes::HeadLayout;

/// Queries (rows times the query heads of one key head) that share one visit to each block of keys. Enough to make
/// packing a block cheap, few enough to stay in the second-level cache with their sums.
const BUNDLE_QUERIES: usize = 384;
/// Least rows per bundle, for layouts with many query heads per key head.
const BUNDLE_MIN_ROWS: usize = 16;

/// The forest of a micro-batch as attention needs it, and its rows in bundles of work.
#[derive(Debug)]
pub struct AttentionPlan {
    layout: HeadLayout,
    rows: usize,
    /// Whether a query sees the positions behind its own as it sees those before.
    both_ways: bool,
    /// How many of the rows have queries.
    queried: usize,
    /// Where the keys and values of what the rows continue are kept.
    slots: Vec<u32>,
    /// The runs of the past, then the segments.
    nodes: Vec<Node>,
    pieces: Vec<Piece>,
    bundles: Vec<BundleSpan>,
    /// Blocks that several bundles visit, by owner.
    shared: Vec<(usize, usize)>,
    /// What a layer packs them into: each layer finds the memory of the one before it.
    packed: Mutex<Aligned<f32>>,
}

/// A segment, or a run of what segments continue.
#[derive(Debug)]
struct Node {
    /// Its first row. Those of the past are counted behind those of the micro-batch.
    row: usize,
    /// Position of its first row in the rollout, and the position after its last.
    first: usize,
    end: usize,
    parent: Option<usize>,
    /// The nearest ancestor that begins in an earlier block of keys.
    earlier: Option<usize>,
    /// Those of its blocks that several bundles visit: always its first ones.
    shared: Range<usize>,
    /// Where they are in [`AttentionPlan::shared_blocks`].
    index: usize,
}

/// Rows of one segment.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) segment: usize,
    pub(super) rows: Range<usize>,
    /// Position of the first row.
    pub(super) position: usize,
    /// How many rows with queries there are before the first one.
    pub(super) before: usize,
}

#[derive(Debug)]
struct BundleSpan {
    pieces: Range<usize>,
    /// Counted among the rows that have queries.
    rows: Range<usize>,
    cost: usize,
}

/// Rows that are worked on together.
#[derive(Debug, Clone)]
pub(super) struct BundleRef<'a> {
    pub(super) pieces: &'a [Piece],
    /// Counted among the rows that have queries.
    pub(super) rows: Range<usize>,
    /// Grows with the work.
    pub(super) cost: usize,
}

/// Consecutive positions in consecutive rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) position: usize,
    pub(super) rows: Range<usize>,
}

/// Where the key and the value of a position are.
pub(super) enum Place {
    /// In this row of the micro-batch.
    Row(usize),
    /// In this slot of what earlier passes left behind.
    Slot(usize),
}

impl AttentionPlan {
    /// The plan for the rows of `batch` and heads that lie as in `layout`.
    ///
    /// # Panics
    /// If the layout has no heads, or query heads that are no multiple of its key heads.
    pub fn new(batch: &MicroBatch, layout: HeadLayout) -> Self {
        Self::resuming(batch, &Past::default(), layout)
    }

    /// The same for rows that continue what earlier passes left behind.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn resuming(batch: &MicroBatch, past: &Past, layout: HeadLayout) -> Self {
        Self::of_rows(batch, past, layout, 0..batch.tokens.len() as u32)
    }

    /// The plan for sequences that share nothing, in which each query sees all positions, before its own and behind it: those
    /// within the window on either side, where there is one. `rows` alone have queries, as in [`Self::of_rows`].
    ///
    /// # Panics
    /// As [`Self::of_rows`], and if a segment has a parent.
    pub fn both_ways(batch: &MicroBatch, layout: HeadLayout, rows: impl IntoIterator<Item = u32>) -> Self {
        assert!(batch.segments.iter().all(|segment| segment.parent.is_none()), "each sequence is one segment");
        Self::make(batch, &Past::default(), layout, rows, true)
    }

    /// The same as [`Self::resuming`], where `rows` alone have queries: rows of the batch in ascending order, each once.
    ///
    /// # Panics
    /// As [`Self::new`], and if a row is outside of the batch.
    pub fn of_rows(
        batch: &MicroBatch,
        past: &Past,
        layout: HeadLayout,
        rows_with_queries: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self::make(batch, past, layout, rows_with_queries, false)
    }

    fn make(
        batch: &MicroBatch,
        past: &Past,
        layout: HeadLayout,
        rows_with_queries: impl IntoIterator<Item = u32>,
        both_ways: bool,
    ) -> Self {
        assert!(layout.head_dim > 0 && layout.kv_heads > 0 && layout.heads > 0, "a layout has heads: {layout:?}");
        assert!(layout.heads.is_multiple_of(layout.kv_heads), "each key head serves as many query heads: {layout:?}");
        let rows = batch.tokens.len();
        let nodes = Vec::with_capacity(past.runs.len() + batch.segments.len());
        let mut plan = Self {
            layout,
            rows,
            both_ways,
            queried: 0,
            slots: past.slots.clone(),
            nodes,
            pieces: Vec::new(),
            bundles: Vec::new(),
            shared: Vec::new(),
            packed: Mutex::default(),
        };
        for run in &past.runs {
            plan.push(rows + run.slots.start as usize, run.slots.len(), run.parent.map(|p| p as usize));
        }
        let before = past.runs.len();
        for (i, segment) in batch.segments.iter().enumerate() {
            let continued = past.continued.get(i).copied().flatten().map(|run| run as usize);
            let parent = segment.parent.map(|p| before + p as usize).or(continued);
            plan.push(segment.tokens.start as usize, segment.tokens.len(), parent);
        }
        let runs = runs_of(batch, rows_with_queries);
        plan.bundle(
            runs.into_iter().map(|(segment, rows)| (before + segment, rows)),
            (BUNDLE_QUERIES / layout.group()).max(BUNDLE_MIN_ROWS),
        );
        plan.share();
        plan
    }

    fn push(&mut self, row: usize, len: usize, parent: Option<usize>) {
        let nodes = &self.nodes;
        let first = parent.map_or(0, |p| nodes[p].end);
        let earlier =
            parent.and_then(|p| if nodes[p].first / BLOCK < first / BLOCK { Some(p) } else { nodes[p].earlier });
        let shared = first / BLOCK..first / BLOCK;
        self.nodes.push(Node { row, first, end: first + len, parent, earlier, shared, index: 0 });
    }

    /// Cuts runs of rows, each of one node, into bundles of `capacity`. Small segments go together: children of one parent
    /// follow each other, and so share the visits to their common prefix.
    fn bundle(&mut self, runs: impl Iterator<Item = (usize, Range<usize>)>, capacity: usize) {
        let mut span = BundleSpan { pieces: 0..0, rows: 0..0, cost: 0 };
        for (segment, Range { start: mut row, end }) in runs {
            let node = &self.nodes[segment];
            while row < end {
                if span.rows.len() == capacity {
                    let next = BundleSpan {
                        pieces: span.pieces.end..span.pieces.end,
                        rows: span.rows.end..span.rows.end,
                        cost: 0,
                    };
                    self.bundles.push(std::mem::replace(&mut span, next));
                }
                let taken = (end - row).min(capacity - span.rows.len());
                let position = node.first + row - node.row;
                self.pieces.push(Piece { segment, rows: row..row + taken, position, before: span.rows.end });
                span.pieces.end += 1;
                span.rows.end += taken;
                span.cost += taken * if self.both_ways { node.end } else { position + taken };
                row += taken;
            }
        }
        self.queried = span.rows.end;
        if !span.rows.is_empty() {
            self.bundles.push(span);
        }
    }

    /// Finds the blocks that several bundles visit. Who visits a block of an owner visits all of its earlier ones, so that
    /// each bundle visits the owner's blocks up to some end.
    fn share(&mut self) {
        // Of each node: the greatest end of the bundles so far.
        let mut ends: Vec<usize> = self.nodes.iter().map(|node| node.shared.start).collect();
        for bundle in &self.bundles {
            let mut visited = BTreeMap::new();
            for piece in &self.pieces[bundle.pieces.clone()] {
                let mut end = self.sees_until(piece.segment, piece.position + piece.rows.len() - 1).div_ceil(BLOCK);
                let mut owner = Some(piece.segment);
                while let Some(node) = owner {
                    let last = visited.entry(node).or_insert(end);
                    *last = end.max(*last);
                    (owner, end) = (self.nodes[node].earlier, self.nodes[node].first / BLOCK);
                }
            }
            for (node, end) in visited {
                let shared = &mut self.nodes[node].shared;
                shared.end = shared.end.max(end.min(ends[node]));
                ends[node] = ends[node].max(end);
            }
        }
        for (owner, node) in self.nodes.iter_mut().enumerate() {
            node.index = self.shared.len();
            self.shared.extend(node.shared.clone().map(|block| (owner, block)));
        }
    }

    /// How the heads lie in the rows that it is for.
    pub fn layout(&self) -> HeadLayout {
        self.layout
    }

    /// The position behind the last one that the query of a position may see, whatever the window is.
    pub(super) fn sees_until(&self, segment: usize, position: usize) -> usize {
        if self.both_ways { self.nodes[segment].end } else { position + 1 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// How many rows have queries.
    pub fn queried(&self) -> usize {
        self.queried
    }

    /// Where the key and the value of a run's row are.
    pub(super) fn place(&self, row: usize) -> Place {
        match row.checked_sub(self.rows) {
            None => Place::Row(row),
            Some(index) => Place::Slot(self.slots[index] as usize),
        }
    }

    /// All bundles: together they cover the rows that have queries, in order.
    pub(super) fn bundles(&self) -> impl Iterator<Item = BundleRef<'_>> {
        self.bundles.iter().map(|b| BundleRef {
            pieces: &self.pieces[b.pieces.clone()],
            rows: b.rows.clone(),
            cost: b.cost,
        })
    }

    /// Owner and block of those that several bundles visit: each is packed once, before them.
    pub(super) fn shared_blocks(&self) -> &[(usize, usize)] {
        &self.shared
    }

    /// Where a block is among [`Self::shared_blocks`]; `None` if one bundle at most visits it.
    pub(super) fn shared_index(&self, owner: usize, block: usize) -> Option<usize> {
        let node = &self.nodes[owner];
        node.shared.contains(&block).then(|| node.index + block - node.shared.start)
    }

    /// The least position of rows that have queries.
    pub(super) fn least_position(&self) -> usize {
        self.pieces.iter().map(|piece| piece.position).min().unwrap_or(0)
    }

    /// Lends `f` room for so many values, which hold what they held.
    pub(super) fn with_packed(&self, len: usize, f: impl FnOnce(&mut [f32])) {
        // Not locked while `f` runs, which may wait for other threads.
        let mut packed = mem::take(&mut *self.packed.lock().unwrap_or_else(PoisonError::into_inner));
        packed.reserve(len);
        f(&mut packed[..len]);
        *self.packed.lock().unwrap_or_else(PoisonError::into_inner) = packed;
    }

    /// The segment that holds the last position of a block on the path to the end of `segment`. Segments with the same
    /// owner of a block have the same keys in it.
    pub(super) fn owner(&self, segment: usize, block: usize) -> usize {
        let mut owner = segment;
        while self.nodes[owner].first / BLOCK > block {
            owner = self.nodes[owner].earlier.expect("a path begins at position 0, in block 0");
        }
        owner
    }

    /// The rows that hold the positions of a block on the path to the end of its owner, last positions first.
    pub(super) fn runs(&self, owner: usize, block: usize) -> impl Iterator<Item = Run> {
        let start = block * BLOCK;
        let mut end = self.nodes[owner].end.min(start + BLOCK);
        let mut next = Some(owner);
        std::iter::from_fn(move || {
            let node = &self.nodes[next?];
            let position = node.first.max(start);
            let row = node.row + position - node.first;
            let run = Run { position, rows: row..row + end - position };
            end = position;
            next = node.parent.filter(|_| position > start);
            Some(run)
        })
    }
}

#[cfg(test)]
mod tests;
