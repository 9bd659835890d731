//! The micro-batch: packed tokens in which every shared prefix appears once.
//!
//! Rollouts become paths in a forest of segments (a radix tree over token ids). Everything row-wise runs once over
//! `tokens`; attention of a segment runs over its ancestors' keys and its own. There is no padding, and no mask of
//! tokens by tokens: who sees whom follows from the forest.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Weak;

/// Index of a segment in [`MicroBatch::segments`].
pub type SegmentId = u32;

/// Packed tokens, the forest they form, and the rows at which the head reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids, segment after segment.
    pub tokens: Vec<u32>,
    /// Position of each token in its rollout, counted from 0 at the root.
    pub positions: Vec<u32>,
    /// The forest, parents first. Together the segments cover `tokens`, in order.
    pub segments: Vec<Segment>,
    /// Where the head reads.
    pub reads: Vec<Read>,
    /// What rollouts that are still queued will begin with.
    pub wanted: Vec<Wanted>,
}

/// A run of tokens with one parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of this segment.
    pub tokens: Range<u32>,
    /// The segment that these tokens continue; always an earlier one.
    pub parent: Option<SegmentId>,
}

/// A packed row at which the head reads a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The row.
    pub row: u32,
    /// The rollout: [`Sequence::rollout`] of the sequence that is read.
    pub rollout: u32,
}

/// A prefix that others will begin with: an engine that keeps what it computes had better keep that.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The row that it ends with.
    pub row: u32,
    /// Gone once nobody wants it any more.
    pub by: Weak<()>,
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row && self.by.ptr_eq(&other.by)
    }
}

impl Eq for Wanted {}

/// Tokens to be packed, and where the head reads them. A rollout is one such sequence, or several: a conversation of
/// which more turns than the last are scored.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// The tokens; never empty.
    pub tokens: &'a [u32],
    /// The positions that are read.
    pub at: At<'a>,
    /// Whose tokens these are.
    pub rollout: u32,
}

/// Positions of a sequence at which the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    /// The last one.
    Last,
    /// These, counted from 0.
    Positions(&'a [u32]),
}

impl Sequence<'_> {
    /// The first position that is read; how many tokens stand before it.
    pub fn first_read(&self) -> usize {
        match self.at {
            At::Last => self.tokens.len().saturating_sub(1),
            At::Positions(positions) => positions.iter().min().map_or(self.tokens.len(), |first| *first as usize),
        }
    }

    /// Number of reads.
    fn reads(&self) -> usize {
        match self.at {
            At::Last => 1,
            At::Positions(positions) => positions.len(),
        }
    }
}

impl MicroBatch {
    /// Packs rollouts, reading each at its last token. Reads come out in the order of `rollouts`, by whose indices they
    /// go.
    ///
    /// # Panics
    /// As [`Self::pack_sequences`].
    pub fn pack<T: AsRef<[u32]>>(rollouts: &[T], share_prefixes: bool) -> Self {
        let sequence = |(i, tokens): (usize, _)| Sequence { tokens, at: At::Last, rollout: i as u32 };
        let sequences: Vec<_> = rollouts.iter().map(T::as_ref).enumerate().map(sequence).collect();
        Self::pack_sequences(&sequences, share_prefixes)
    }

    /// Packs sequences. Reads come out in the order of `sequences`, and of the positions of each.
    ///
    /// With `share_prefixes` every distinct prefix is stored once, however many sequences begin with it; without, every
    /// sequence is a root of its own. The rewards are the same.
    ///
    /// # Panics
    /// If a sequence is empty, a position is outside of it, or the batch has more than `u32::MAX` tokens; intake lets none of
    /// these through.
    pub fn pack_sequences(sequences: &[Sequence], share_prefixes: bool) -> Self {
        if let [alone] = sequences {
            return Self::alone(alone);
        }
        let mut order: Vec<u32> = (0..sequences.len() as u32).collect();
        if share_prefixes {
            // In lexicographic order the sequences that share a prefix are neighbours, and a depth-first walk of
            // the radix tree needs no more than the common length of each pair of neighbours.
            order.sort_by_key(|&i| sequences[i as usize].tokens);
        }
        // What each sequence shares with the next one in order.
        let shared_with_next: Vec<usize> = order
            .windows(2)
            .map(|w| {
                if share_prefixes {
                    common_prefix(sequences[w[0] as usize].tokens, sequences[w[1] as usize].tokens)
                } else {
                    0
                }
            })
            .collect();
        // The place of each sequence's first read.
        let mut places = Vec::with_capacity(sequences.len());
        let mut reads = 0;
        for sequence in sequences {
            places.push(reads);
            reads += sequence.reads();
        }
        let mut batch = Self { reads: vec![Read { row: 0, rollout: 0 }; reads], ..Self::default() };
        // Segments from the root to the previous sequence's end: (segment, first position after it).
        let mut path: Vec<(SegmentId, u32)> = Vec::new();
        for (i, &index) in order.iter().enumerate() {
            let Sequence { tokens, at, rollout } = sequences[index as usize];
            assert!(!tokens.is_empty(), "an empty sequence reached the packer");
            let shared = if i == 0 { 0 } else { shared_with_next[i - 1] };
            batch.leave(&mut path, shared as u32);
            // Segments are cut where a later sequence branches off, so that none needs splitting afterwards.
            let mut from = shared;
            for to in branch_points(&shared_with_next[i.min(shared_with_next.len())..], shared).chain([tokens.len()]) {
                if to > from {
                    batch.push_segment(&mut path, &tokens[from..to], from as u32);
                    from = to;
                }
            }
            let last = [tokens.len() as u32 - 1];
            let positions = match at {
                At::Last => &last[..],
                At::Positions(positions) => positions,
            };
            for (place, &position) in (places[index as usize]..).zip(positions) {
                batch.reads[place] = Read { row: batch.row_at(&path, position), rollout };
            }
        }
        batch
    }

    /// One sequence is one segment: nothing has to be found out about it.
    fn alone(sequence: &Sequence) -> Self {
        let Sequence { tokens, at, rollout } = *sequence;
        assert!(!tokens.is_empty(), "an empty sequence reached the packer");
        let end = u32::try_from(tokens.len()).expect("limits.rs keeps a micro-batch below u32 rows");
        let last = [end - 1];
        let rows = match at {
            At::Last => &last[..],
            At::Positions(positions) => positions,
        };
        let read = |&row: &u32| {
            assert!(row < end, "a read outside of its sequence reached the packer");
            Read { row, rollout }
        };
        Self {
            tokens: tokens.to_vec(),
            positions: (0..end).collect(),
            segments: vec![Segment { tokens: 0..end, parent: None }],
            reads: rows.iter().map(read).collect(),
            wanted: Vec::new(),
        }
    }

    /// Tokens from the root to `row`, inclusive.
    pub fn path(&self, row: u32) -> Cow<'_, [u32]> {
        let mut segment = self.segment_of(row);
        let mut end = row + 1;
        if let Segment { tokens, parent: None } = &self.segments[segment as usize] {
            return Cow::Borrowed(&self.tokens[tokens.start as usize..end as usize]);
        }
        let mut runs = Vec::new();
        loop {
            let Segment { tokens, parent } = &self.segments[segment as usize];
            runs.push(tokens.start..end);
            match parent {
                Some(parent) => segment = *parent,
                None => break,
            }
            end = self.segments[segment as usize].tokens.end;
        }
        runs.into_iter().rev().flat_map(|r| self.tokens[r.start as usize..r.end as usize].iter().copied()).collect()
    }

    /// The row of an earlier position on the path to `row`; `None` where it is none.
    pub fn row_of(&self, row: u32, position: u32) -> Option<u32> {
        if position > self.positions[row as usize] {
            return None;
        }
        let mut segment = &self.segments[self.segment_of(row) as usize];
        while self.positions[segment.tokens.start as usize] > position {
            segment = &self.segments[segment.parent? as usize];
        }
        Some(segment.tokens.start + position - self.positions[segment.tokens.start as usize])
    }

    /// The segment that holds `row`.
    pub fn segment_of(&self, row: u32) -> SegmentId {
        self.segments.partition_point(|s| s.tokens.end <= row) as SegmentId
    }

    /// Takes the path back to the segments that end at or before `shared` positions.
    fn leave(&mut self, path: &mut Vec<(SegmentId, u32)>, shared: u32) {
        while path.last().is_some_and(|&(_, end)| end > shared) {
            path.pop();
        }
        debug_assert_eq!(path.last().map_or(0, |&(_, end)| end), shared, "a shared prefix ends inside a segment");
    }

    fn push_segment(&mut self, path: &mut Vec<(SegmentId, u32)>, tokens: &[u32], position: u32) {
        let start = u32::try_from(self.tokens.len()).expect("limits.rs keeps a micro-batch below u32 rows");
        let end = start + tokens.len() as u32;
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len() as u32);
        let parent = path.last().map(|&(id, _)| id);
        path.push((self.segments.len() as SegmentId, position + tokens.len() as u32));
        self.segments.push(Segment { tokens: start..end, parent });
    }

    /// The row of `position` on the path.
    fn row_at(&self, path: &[(SegmentId, u32)], position: u32) -> u32 {
        let at = path.partition_point(|&(_, end)| end <= position);
        let (segment, end) = path[at];
        self.segments[segment as usize].tokens.end - (end - position)
    }
}

/// Lengths, above `from` and ascending, at which later sequences branch off a sequence, given the common lengths of
/// each pair of neighbours from it on: in sorted order what it shares with a later one is the least on the way there.
fn branch_points(shared_with_next: &[usize], from: usize) -> impl Iterator<Item = usize> {
    let mut points = Vec::new();
    let mut shared = usize::MAX;
    for &next in shared_with_next {
        shared = shared.min(next);
        if shared <= from {
            break;
        }
        if points.last() != Some(&shared) {
            points.push(shared);
        }
    }
    points.into_iter().rev()
}

/// Number of distinct prefixes: the tokens that are computed for these sequences where prefixes are shared.
pub fn unique_tokens(sequences: &[&[u32]]) -> usize {
    let mut sorted = sequences.to_vec();
    sorted.sort_unstable();
    let shared: usize = sorted.windows(2).map(|w| common_prefix(w[0], w[1])).sum();
    sorted.iter().map(|sequence| sequence.len()).sum::<usize>() - shared
}

/// Length of the longest common prefix.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Rollouts over a tiny alphabet, so that prefixes collide at every depth; duplicates and prefixes of each other
    /// among them.
    fn rollouts() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 0..24)
    }

    /// Tokens, and the positions that are read; `None` for the last one.
    type Part = (Vec<u32>, Option<Vec<u32>>);

    /// Rollouts of one to four sequences, some read at several positions, some at none.
    fn read_rollouts() -> impl Strategy<Value = Vec<Vec<Part>>> {
        let part = prop::collection::vec((0u32..3, any::<bool>()), 1..12).prop_flat_map(|marked| {
            let tokens: Vec<u32> = marked.iter().map(|(token, _)| *token).collect();
            let positions = (0..).zip(&marked).filter(|(_, (_, read))| *read).map(|(p, _)| p).collect::<Vec<u32>>();
            (Just(tokens), prop::option::of(Just(positions)))
        });
        prop::collection::vec(prop::collection::vec(part, 1..5), 0..10)
    }

    proptest! {
        #[test]
        fn every_read_sees_its_own_rollout(rollouts in rollouts(), share: bool) {
            let batch = MicroBatch::pack(&rollouts, share);
            prop_assert_eq!(batch.reads.len(), rollouts.len());
            for (i, (read, tokens)) in batch.reads.iter().zip(&rollouts).enumerate() {
                prop_assert_eq!(read.rollout as usize, i);
                prop_assert_eq!(&*batch.path(read.row), tokens);
                prop_assert_eq!(batch.positions[read.row as usize] as usize, tokens.len() - 1);
                for (position, token) in (0..).zip(tokens) {
                    let row = batch.row_of(read.row, position).unwrap();
                    prop_assert_eq!(&*batch.path(row), &tokens[..=position as usize]);
                    prop_assert_eq!(batch.tokens[row as usize], *token);
                }
                prop_assert_eq!(batch.row_of(read.row, tokens.len() as u32), None);
            }
        }

        /// Every read sees the tokens from its sequence's first to its own, and no other.
        #[test]
        fn every_read_of_many_sees_its_own_tokens(rollouts in read_rollouts(), share: bool) {
            let mut sequences = Vec::new();
            let mut expected = Vec::new();
            for (rollout, parts) in rollouts.iter().enumerate() {
                let rollout = rollout as u32;
                for (tokens, positions) in parts {
                    let at = positions.as_deref().map_or(At::Last, At::Positions);
                    sequences.push(Sequence { tokens, at, rollout });
                    match positions {
                        None => expected.push((rollout, tokens.as_slice())),
                        Some(positions) => {
                            expected.extend(positions.iter().map(|&p| (rollout, &tokens[..=p as usize])));
                        }
                    }
                }
            }
            let batch = MicroBatch::pack_sequences(&sequences, share);
            prop_assert_eq!(batch.reads.len(), expected.len());
            for (read, (rollout, tokens)) in batch.reads.iter().zip(expected) {
                prop_assert_eq!(read.rollout, rollout);
                prop_assert_eq!(&*batch.path(read.row), tokens);
            }
            let tokens: Vec<&[u32]> = sequences.iter().map(|s| s.tokens).collect();
            let unique = if share { unique_tokens(&tokens) } else { tokens.iter().map(|t| t.len()).sum() };
            prop_assert_eq!(batch.tokens.len(), unique);
        }

        #[test]
        fn shared_prefixes_stand_once(rollouts in rollouts()) {
            let prefixes: HashSet<&[u32]> = rollouts.iter().flat_map(|r| (1..=r.len()).map(move |n| &r[..n])).collect();
            let batch = MicroBatch::pack(&rollouts, true);
            prop_assert_eq!(batch.tokens.len(), prefixes.len());
            let apart = MicroBatch::pack(&rollouts, false);
            prop_assert_eq!(apart.tokens.len(), rollouts.iter().map(Vec::len).sum::<usize>());
        }

        #[test]
        fn segments_cover_the_rows_and_parents_come_first(rollouts in rollouts(), share: bool) {
            let batch = MicroBatch::pack(&rollouts, share);
            let mut end = 0;
            for (id, segment) in batch.segments.iter().enumerate() {
                prop_assert_eq!(segment.tokens.start, end);
                prop_assert!(!segment.tokens.is_empty());
                end = segment.tokens.end;
                let first = match segment.parent {
                    None => 0,
                    Some(parent) => {
                        prop_assert!((parent as usize) < id);
                        batch.positions[batch.segments[parent as usize].tokens.end as usize - 1] + 1
                    }
                };
                let positions = &batch.positions[segment.tokens.start as usize..end as usize];
                prop_assert!(positions.iter().copied().eq(first..first + positions.len() as u32));
            }
            prop_assert_eq!(end as usize, batch.tokens.len());
        }
    }
}
