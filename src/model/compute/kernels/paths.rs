//! The paths of a micro-batch's forest, for kernels that go along them.
//!
//! Invariant: parents come first, and a row's path is that of its rollout.

use std::ops::Range;

use crate::batch::MicroBatch;

/// The paths of a micro-batch's forest, row by row.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The row before each row; none at a root.
    pub(super) before: Vec<Option<u32>>,
    /// The segments, parents first.
    pub(super) segments: Vec<Run>,
}

/// A segment.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub rows: Range<usize>,
    pub parent: Option<usize>,
    /// Segments that continue it.
    pub children: usize,
}

impl Paths {
    /// Of a whole micro-batch, of which nothing is kept from another.
    pub fn of(batch: &MicroBatch) -> Self {
        let (mut before, mut segments) = (Vec::with_capacity(batch.tokens.len()), Vec::<Run>::new());
        for segment in &batch.segments {
            let rows = segment.tokens.start as usize..segment.tokens.end as usize;
            let parent = segment.parent.map(|parent| parent as usize);
            let mut last = parent.and_then(|parent| {
                segments[parent].children += 1;
                segments[parent].rows.clone().last().map(|row| row as u32)
            });
            for row in rows.clone() {
                before.push(last.replace(row as u32));
            }
            segments.push(Run { rows, parent, children: 0 });
        }
        Self { before, segments }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.before.len()
    }
}
