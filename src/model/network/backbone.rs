//! What a loaded network has to offer, and what it is given to load from and to compute on.

use candle_core::{Device, Result, Tensor};

use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::collective::Collective;
use crate::model::collective::shard::Shard;
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::Past;
use crate::model::error::ModelError;
use crate::model::packed_cache::PackedCache;
use crate::model::prefix_cache::{Keep, Resumed};

/// What one rank loads from, which share of it, and where to.
pub struct RankContext<'a> {
    /// The model's weights.
    pub weights: &'a dyn WeightSource,
    /// The rank's share.
    pub shard: Shard,
    /// Where its tensors go.
    pub device: Device,
    /// Packed weights that are kept, for the kernels.
    pub packed: &'a PackedCache,
    /// How its layers compute; the kernels on the CPU alone.
    pub backend: Backend,
    /// Tokens whose keys and values it has room to keep.
    pub slots: u32,
}

/// One rank's part of a loaded model without its head.
pub trait Backbone: Send + Sync {
    /// Bytes of its weights in memory.
    fn bytes(&self) -> usize;

    /// How many rows a pass over `batch` computes, whose `reads` are wanted.
    fn rows(&self, batch: &MicroBatch, _reads: &[u32]) -> usize {
        batch.tokens.len()
    }

    /// The same with what the context's weights change in it, as the base's adapter: every matrix to which nothing or a change of
    /// low rank is added is shared with this one.
    fn adapted(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError>;

    /// What a head sees of the final hidden states, normed, at the rows that are read: float32, `[reads, features seen]`, the same on
    /// every rank. All ranks run the same pass at the same time.
    fn forward(&self, pass: &Pass) -> Result<Tensor>;
}

/// A micro-batch on its way through one rank.
pub struct Pass<'a> {
    /// Tokens, positions, and the forest that says who attends to whom.
    pub batch: &'a MicroBatch,
    /// Rows that are read: the batch's reads, and what else the head wants to see.
    pub reads: &'a [u32],
    /// What the batch continues, and each rank keeps.
    pub past: &'a Past,
    /// What each rank is to keep.
    pub keep: &'a [Keep],
    /// The other ranks.
    pub ranks: &'a dyn Collective,
}

impl<'a> Pass<'a> {
    /// The pass over what is left of a micro-batch.
    pub fn of(rest: &'a Resumed, ranks: &'a dyn Collective) -> Self {
        let Resumed { batch, reads, past, keep, .. } = rest;
        Self { batch, reads, past, keep, ranks }
    }
}
