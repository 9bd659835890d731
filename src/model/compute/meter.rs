//! What the parts of forward passes took, and how much arithmetic they did: for measuring, over all models of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A part of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Rows of the embedding table.
    Embedding,
    /// All norms.
    Norm,
    /// Queries, keys and values, and the way out of attention.
    Projection,
    /// Rotary positions.
    Rotary,
    /// What is kept for later micro-batches.
    Keep,
    /// Scores, softmax, and the mix of values.
    Attention,
    /// The feed-forward layers with their activations.
    FeedForward,
}

impl Part {
    /// Every part.
    pub const ALL: &[Self] =
        &[Self::Embedding, Self::Norm, Self::Projection, Self::Rotary, Self::Keep, Self::Attention, Self::FeedForward];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::Projection => "projection",
            Self::Rotary => "rotary",
            Self::Keep => "keep",
            Self::Attention => "attention",
            Self::FeedForward => "feed_forward",
        }
    }
}

const PARTS: usize = Part::ALL.len();

static NANOSECONDS: [AtomicU64; PARTS] = [const { AtomicU64::new(0) }; PARTS];
static OPERATIONS: [AtomicU64; PARTS] = [const { AtomicU64::new(0) }; PARTS];

/// A reading of the meter. Ranks that work at the same time add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    nanoseconds: [u64; PARTS],
    operations: [u64; PARTS],
}

impl Reading {
    /// Time that a part took.
    pub fn time(&self, part: Part) -> Duration {
        Duration::from_nanos(self.nanoseconds[part as usize])
    }

    /// Multiplications and additions of a part's matrix products and of attention, with nothing counted for what prefixes,
    /// packing and masks save.
    pub fn operations(&self, part: Part) -> u64 {
        self.operations[part as usize]
    }

    /// Those of all parts.
    pub fn all_operations(&self) -> u64 {
        self.operations.iter().sum()
    }
}

/// What happened between two readings.
impl std::ops::Sub for Reading {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            nanoseconds: std::array::from_fn(|i| self.nanoseconds[i] - earlier.nanoseconds[i]),
            operations: std::array::from_fn(|i| self.operations[i] - earlier.operations[i]),
        }
    }
}

/// The meter by now.
pub fn read() -> Reading {
    Reading {
        nanoseconds: NANOSECONDS.each_ref().map(|value| value.load(Relaxed)),
        operations: OPERATIONS.each_ref().map(|value| value.load(Relaxed)),
    }
}

/// Does a part's work, of so many operations, and counts it. On a GPU the time is that of giving the work away.
pub(in crate::model) fn time<R>(part: Part, operations: usize, work: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = work();
    NANOSECONDS[part as usize].fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
    OPERATIONS[part as usize].fetch_add(operations as u64, Relaxed);
    result
}
