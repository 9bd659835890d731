//! One micro-batch's way through the cache: what of it is known, what is left, what will be kept.

use std::collections::HashMap;

use super::reuse::{self, PathHash};
use super::tree::{NodeId, Place, Tree};
use super::{Keep, Leaves, PrefixCache, Resumed};
use crate::batch::{MicroBatch, Read, Segment};
use crate::model::compute::kernels::{Past, PastRun};

/// See the module.
pub(super) struct Resumption<'a> {
    cache: &'a mut PrefixCache,
    batch: &'a MicroBatch,
    reads: &'a [u32],
    segments: Vec<Progress>,
    leaves: Option<Leaves>,
    keep: Vec<Keep>,
    recomputed: usize,
}

/// How far a segment's tokens are in the tree.
#[derive(Clone, Copy)]
struct Progress {
    /// Tokens that were there before.
    known: usize,
    /// Tokens that are there by now.
    held: usize,
    /// Where those end; `None` where a token before them is missing.
    at: Option<NodeId>,
    /// Whether others continue it.
    shared: bool,
    /// Tokens of it that queued rollouts want.
    wanted: usize,
}

/// What is left of a batch.
struct Rest {
    batch: MicroBatch,
    /// For each segment, the node that it continues.
    continued: Vec<Option<NodeId>>,
    /// The new place of each row of the whole batch that is left.
    rows: Vec<u32>,
}

impl<'a> Resumption<'a> {
    pub(super) fn new(cache: &'a mut PrefixCache, batch: &'a MicroBatch, reads: &'a [u32]) -> Self {
        let none = Progress { known: 0, held: 0, at: None, shared: false, wanted: 0 };
        let segments = vec![none; batch.segments.len()];
        Self { cache, batch, reads, segments, leaves: None, keep: Vec::new(), recomputed: 0 }
    }

    pub(super) fn run(mut self) -> Resumed {
        let ends = read_ends(self.batch, self.reads);
        self.find(&ends);
        self.remember(&ends);
        self.add();
        let Rest { batch, continued, rows } = self.rest();
        let past = self.past(&continued);
        for keep in &mut self.keep {
            keep.row = rows[keep.row as usize];
        }
        let reads = self.reads.iter().map(|&row| rows[row as usize]).collect();
        Resumed { batch, reads, past, keep: self.keep, recomputed: self.recomputed }
    }

    /// Finds what is known, up to the first row that is read on each path.
    fn find(&mut self, ends: &[u32]) {
        for (i, segment) in self.batch.segments.iter().enumerate() {
            let before = match segment.parent {
                None => Some(NodeId::ROOT),
                Some(parent) => {
                    self.segments[parent as usize].shared = true;
                    self.held_whole(parent)
                }
            };
            let Some(before) = before else { continue };
            let tokens = &self.batch.tokens[segment.tokens.start as usize..ends[i] as usize];
            let (at, known) = self.cache.tree.descend(before, tokens, self.cache.pass);
            self.segments[i] = Progress { known, held: known, at: Some(at), ..self.segments[i] };
        }
    }

    /// Tells what was used, and finds out what of it is computed again although an earlier pass has computed it.
    fn remember(&mut self, ends: &[u32]) {
        let PrefixCache { reuse, shortage, pass, .. } = &mut *self.cache;
        reuse.begin();
        // Of each segment: the hash of its path, and whether a row on that path is read.
        let mut paths: Vec<(PathHash, bool)> = Vec::with_capacity(self.segments.len());
        for ((segment, progress), &end) in self.batch.segments.iter().zip(&self.segments).zip(ends) {
            let (mut hash, mut is_read) = segment.parent.map_or_else(Default::default, |parent| paths[parent as usize]);
            for row in segment.tokens.clone() {
                hash = hash.then(self.batch.tokens[row as usize]);
                is_read |= row == end;
                if (self.batch.positions[row as usize] as usize + 1).is_multiple_of(reuse::BLOCK)
                    && let Some(back) = reuse.see(hash.value(), *pass)
                    && !is_read
                    && row as usize >= segment.tokens.start as usize + progress.known
                {
                    self.recomputed += reuse::BLOCK;
                    shortage.saw(back.others * reuse::BLOCK);
                }
            }
            paths.push((hash, is_read));
        }
    }

    /// The end of a segment that is in the tree up to its end.
    fn held_whole(&self, segment: u32) -> Option<NodeId> {
        let Progress { held, at, .. } = self.segments[segment as usize];
        at.filter(|_| held == self.batch.segments[segment as usize].tokens.len())
    }

    /// Adds the rest while there is room: first what queued rollouts want, then what several rollouts share, then the ends of
    /// single ones.
    fn add(&mut self) {
        for wanted in &self.batch.wanted {
            let mut segment = self.batch.segment_of(wanted.row);
            let mut tokens = (wanted.row + 1 - self.batch.segments[segment as usize].tokens.start) as usize;
            loop {
                let progress = &mut self.segments[segment as usize];
                progress.wanted = progress.wanted.max(tokens);
                let Some(parent) = self.batch.segments[segment as usize].parent else { break };
                (segment, tokens) = (parent, self.batch.segments[parent as usize].tokens.len());
            }
        }
        for (i, segment) in self.batch.segments.iter().enumerate() {
            self.add_until(i, segment, self.segments[i].wanted, true);
        }
        for (i, segment) in self.batch.segments.iter().enumerate() {
            if self.segments[i].shared {
                self.add_until(i, segment, segment.tokens.len(), false);
            }
        }
        // Before the rest makes room for itself.
        for wanted in &self.batch.wanted {
            let segment = self.batch.segment_of(wanted.row);
            let tokens = (wanted.row + 1 - self.batch.segments[segment as usize].tokens.start) as usize;
            if let Progress { at: Some(at), held, .. } = self.segments[segment as usize]
                && held >= tokens
            {
                self.cache.tree.pin(at, held - tokens, &wanted.by);
            }
        }
        for (i, segment) in self.batch.segments.iter().enumerate() {
            self.add_until(i, segment, segment.tokens.len(), false);
        }
    }

    /// Adds the tokens of a segment up to `to`, as far as there is room; see [`PrefixCache::take_slots`] for `wanted`.
    fn add_until(&mut self, i: usize, segment: &Segment, to: usize, wanted: bool) {
        let Progress { held, at, .. } = self.segments[i];
        let before = at.or_else(|| segment.parent.and_then(|parent| self.held_whole(parent)));
        let (Some(before), true) = (before, held < to) else { return };
        let tokens = &self.batch.tokens[segment.tokens.start as usize..][..to];
        // What follows a row that is read may be there, and so may what another segment has brought, where prefixes are not shared.
        let (mut at, more) = self.cache.tree.descend(before, &tokens[held..], self.cache.pass);
        let mut held = held + more;
        let slots = self.cache.take_slots(to - held, wanted, &mut self.leaves);
        if !slots.is_empty() {
            let row = segment.tokens.start + held as u32;
            self.keep.extend((row..).zip(&slots).map(|(row, &slot)| Keep { row, slot }));
            let added = &tokens[held..held + slots.len()];
            held += slots.len();
            at = self.cache.tree.add(at, added, slots, self.cache.pass);
        }
        self.segments[i] = Progress { at: Some(at), held, ..self.segments[i] };
    }

    /// The batch without what is known.
    fn rest(&self) -> Rest {
        const GONE: u32 = u32::MAX;
        let mut rest = MicroBatch::default();
        let mut continued = Vec::new();
        let mut rows = vec![GONE; self.batch.tokens.len()];
        let mut renamed = vec![None; self.segments.len()];
        for (i, segment) in self.batch.segments.iter().enumerate() {
            let left = segment.tokens.start as usize + self.segments[i].known..segment.tokens.end as usize;
            if left.is_empty() {
                continue;
            }
            let start = rest.tokens.len() as u32;
            (start..).zip(&mut rows[left.clone()]).for_each(|(row, place)| *place = row);
            rest.tokens.extend(&self.batch.tokens[left.clone()]);
            rest.positions.extend(&self.batch.positions[left]);
            let parent = segment.parent.and_then(|parent| renamed[parent as usize]);
            renamed[i] = Some(rest.segments.len() as u32);
            rest.segments.push(Segment { tokens: start..rest.tokens.len() as u32, parent });
            continued.push(if parent.is_none() { self.continues(i, segment) } else { None });
        }
        rest.reads.extend(self.batch.reads.iter().map(|read| Read { row: rows[read.row as usize], ..*read }));
        Rest { batch: rest, continued, rows }
    }

    /// Where the known part of a segment, or of what it continues, ends.
    fn continues(&self, i: usize, segment: &Segment) -> Option<NodeId> {
        let mut back = self.segments[i].held - self.segments[i].known;
        let mut node = match (self.segments[i].at, segment.parent) {
            (Some(at), _) => at,
            (None, Some(parent)) => self.segments[parent as usize].at?,
            (None, None) => return None,
        };
        // What this pass adds lies in nodes of its own, behind what was known.
        while back > 0 {
            back -= self.cache.tree.node(node).tokens.len();
            node = self.cache.tree.node(node).parent;
        }
        (node != NodeId::ROOT).then_some(node)
    }

    /// The runs that the segments continue.
    fn past(&self, continued: &[Option<NodeId>]) -> Past {
        let mut past = Past::default();
        let mut runs = HashMap::new();
        for &end in continued {
            // Up to what is there already, then down again: parents first.
            let mut missing = Vec::new();
            let mut at = end.unwrap_or(NodeId::ROOT);
            while at != NodeId::ROOT && !runs.contains_key(&at) {
                missing.push(at);
                at = self.cache.tree.node(at).parent;
            }
            for id in missing.into_iter().rev() {
                let node = self.cache.tree.node(id);
                let start = past.slots.len() as u32;
                past.slots.extend(&node.slots);
                let slots = start..past.slots.len() as u32;
                runs.insert(id, past.runs.len() as u32);
                past.runs.push(PastRun { slots, parent: runs.get(&node.parent).copied() });
            }
            past.continued.push(end.map(|id| runs[&id]));
        }
        past
    }
}

/// For each segment, its first row that is read, or else its end: up to there, what is known need not be computed.
fn read_ends(batch: &MicroBatch, reads: &[u32]) -> Vec<u32> {
    let mut ends: Vec<u32> = batch.segments.iter().map(|segment| segment.tokens.end).collect();
    for &row in reads {
        let end = &mut ends[batch.segment_of(row) as usize];
        *end = row.min(*end);
    }
    ends
}

/// See [`PrefixCache::rows_left`].
pub(super) fn rows_left(tree: &Tree, batch: &MicroBatch, reads: &[u32]) -> usize {
    let ends = read_ends(batch, reads);
    let mut left = 0;
    // For each segment, where it ends in the tree, if all of it is there and nothing of it is read.
    let mut whole: Vec<Option<Place>> = Vec::with_capacity(batch.segments.len());
    for (segment, &end) in batch.segments.iter().zip(&ends) {
        let before = segment.parent.map_or(Some(Place::ROOT), |parent| whole[parent as usize]);
        let found = before.map(|at| tree.follow(at, &batch.tokens[segment.tokens.start as usize..end as usize]));
        let known = found.map_or(0, |(_, known)| known);
        left += segment.tokens.len() - known;
        whole.push(found.filter(|(_, known)| *known == segment.tokens.len()).map(|(at, _)| at));
    }
    left
}
