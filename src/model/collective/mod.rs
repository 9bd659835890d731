//! What the ranks of a tensor-parallel model say to each other.
//!
//! Invariant: at one degree a result has the same bits every time, whichever rank comes first. What happens to those who
//! wait for a rank that failed is told by [`Collective::fail`].

#[cfg(feature = "cuda")]
mod nccl;
pub mod shard;
mod solo;
mod threads;

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use nccl::Nccl;
pub use solo::Solo;
pub use threads::Exchange;

/// Seats for ranks on these GPUs, all different ones, in order of rank.
#[cfg(feature = "cuda")]
pub fn on_gpus(devices: &[Device]) -> Result<Vec<Arc<dyn Collective>>> {
    Ok(Nccl::group(devices)?.into_iter().map(|rank| Arc::new(rank) as Arc<dyn Collective>).collect())
}

/// Seats for ranks on GPUs, which this binary cannot compute on.
#[cfg(not(feature = "cuda"))]
pub fn on_gpus(_: &[Device]) -> Result<Vec<Arc<dyn Collective>>> {
    candle_core::bail!("this binary was built for the CPU alone")
}

/// One rank's end of the wire. Every rank makes the same calls in the same order, with tensors of the same shape but for
/// the last dimension of [`Self::all_gather`].
pub trait Collective: Send + Sync {
    /// Which rank this is.
    #[cfg(test)]
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// The sum of all ranks' tensors, on every rank, in their type.
    fn all_reduce(&self, x: &Tensor) -> Result<Tensor>;

    /// All ranks' tensors side by side along the last dimension, in order of the ranks, on every rank.
    fn all_gather(&self, x: &Tensor) -> Result<Tensor>;

    /// The tensor of rank `root`, on every rank.
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor>;

    /// Says that this rank cannot go on, and why. The answer is the reason that counts for all: the first. Ranks that share
    /// memory hear it, and their calls fail with it; ranks on GPUs do not, and wait for this one until the process ends.
    fn fail(&self, reason: &str) -> String;

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
