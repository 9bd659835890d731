//! One micro-batch's way through the cache: what of it is known, what is left, what will be kept.

use std::collections::HashMap;

use super::tree::NodeId;
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
        Self { cache, batch, reads, segments, leaves: None, keep: Vec::new() }
    }

    pub(super) fn run(mut self) -> Resumed {
        self.find();
        self.add();
        let Rest { batch, continued, rows } = self.rest();
        let past = self.past(&continued);
        for keep in &mut self.keep {
            keep.row = rows[keep.row as usize];
        }
        let reads = self.reads.iter().map(|&row| rows[row as usize]).collect();
        Resumed { batch, reads, past, keep: self.keep }
    }

    /// Finds what is known, up to the first row that is read on each path.
    fn find(&mut self) {
        let mut end: Vec<u32> = self.batch.segments.iter().map(|segment| segment.tokens.end).collect();
        for &row in self.reads {
            let end = &mut end[self.batch.segment_of(row) as usize];
            *end = row.min(*end);
        }
        for (i, segment) in self.batch.segments.iter().enumerate() {
            let before = match segment.parent {
                None => Some(NodeId::ROOT),
                Some(parent) => {
                    self.segments[parent as usize].shared = true;
                    self.held_whole(parent)
                }
            };
            let Some(before) = before else { continue };
            let tokens = &self.batch.tokens[segment.tokens.start as usize..end[i] as usize];
            let (at, known) = self.cache.tree.descend(before, tokens, self.cache.pass);
            self.segments[i] = Progress { known, held: known, at: Some(at), ..self.segments[i] };
        }
    }

    /// The end of a segment that is in the tree up to its end.
    fn held_whole(&self, segment: u32) -> Option<NodeId> {
        let Progress { held, at, .. } = self.segments[segment as usize];
        at.filter(|_| held == self.batch.segments[segment as usize].tokens.len())
    }

    /// Adds the rest while there is room: first what several rollouts share or queued ones want, then the ends of single ones.
    fn add(&mut self) {
        for wanted in &self.batch.wanted {
            let segment = self.batch.segment_of(wanted.row);
            let tokens = wanted.row + 1 - self.batch.segments[segment as usize].tokens.start;
            let progress = &mut self.segments[segment as usize];
            progress.wanted = progress.wanted.max(tokens as usize);
        }
        for (i, segment) in self.batch.segments.iter().enumerate() {
            let Progress { shared, wanted, .. } = self.segments[i];
            self.add_until(i, segment, if shared { segment.tokens.len() } else { wanted });
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
            self.add_until(i, segment, segment.tokens.len());
        }
    }

    /// Adds the tokens of a segment up to `to`, as far as there is room.
    fn add_until(&mut self, i: usize, segment: &Segment, to: usize) {
        let Progress { held, at, .. } = self.segments[i];
        let before = at.or_else(|| segment.parent.and_then(|parent| self.held_whole(parent)));
        let (Some(before), true) = (before, held < to) else { return };
        let tokens = &self.batch.tokens[segment.tokens.start as usize..][..to];
        // What follows a row that is read may be there, and so may what another segment has brought, where prefixes are not shared.
        let (mut at, more) = self.cache.tree.descend(before, &tokens[held..], self.cache.pass);
        let mut held = held + more;
        let slots = self.cache.take_slots(to - held, &mut self.leaves);
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
