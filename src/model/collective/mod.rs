//! What the ranks of a tensor-parallel model say to each other.
//!
//! Invariant: at one degree a result has the same bits every time, whichever rank comes first: sums are taken in the
//! order of the ranks. A rank that fails or leaves makes every other rank's next call fail with its reason, so that
//! nobody waits for it.

mod solo;
mod threads;

use candle_core::{Result, Tensor};

pub use solo::Solo;
pub use threads::Exchange;

/// One rank's end of the wire. Every rank makes the same calls in the same order, with tensors of the same shape but for
/// the last dimension of [`Self::all_gather`].
pub trait Collective: Send + Sync {
    /// Which rank this is.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// The sum of all ranks' tensors, on every rank.
    fn all_reduce(&self, x: &Tensor) -> Result<Tensor>;

    /// All ranks' tensors side by side along the last dimension, in order of the ranks, on every rank.
    fn all_gather(&self, x: &Tensor) -> Result<Tensor>;

    /// The tensor of rank `root`, on every rank.
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor>;

    /// The line from each rank to the next, where there is one: with it, sums over all ranks get the bits that one rank
    /// alone would give them.
    fn line(&self) -> Option<&dyn Line> {
        None
    }
}

/// Ranks in a line: each takes unfinished sums from the one before it, goes on with them, and hands them to the next. What
/// the last one has is what one rank alone would have, for it was made in the same order. While a rank works on one block of
/// rows, the one before it is at the next block already.
pub trait Line: Sync {
    /// The sums that the rank before this one has got to; `None` for the first, which begins.
    fn take(&self) -> Result<Option<Vec<f32>>>;

    /// Hands sums to the next rank. The last one gets them back.
    fn hand_on(&self, sums: Vec<f32>) -> Result<Option<Vec<f32>>>;
}
