//! What an architecture has to offer, and what it is given.

use candle_core::{Device, Result, Tensor};

use super::ModelError;
use super::checkpoint::WeightSource;
use super::settings::Settings;
use crate::batch::MicroBatch;

/// A family of models; a line in [`super::arch::ARCHITECTURES`].
pub trait Architecture: Sync {
    /// Names of its models, as `architectures` in `config.json` has them: reward models, and bases that become one
    /// with a head.
    fn names(&self) -> &'static [&'static str];

    /// Loads everything but the head.
    fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError>;
}

/// What one rank loads from, and where to.
pub struct RankContext<'a> {
    /// The model's configuration.
    pub settings: &'a Settings,
    /// The model's weights.
    pub weights: &'a dyn WeightSource,
    /// Where its tensors go.
    pub device: Device,
}

/// A loaded model without its head.
pub trait Backbone: Send + Sync {
    /// Sizes, for reports and for what is built upon it.
    fn shape(&self) -> &Shape;

    /// The final hidden state, normed, at the batch's reads: `[reads, hidden]`.
    fn forward(&self, batch: &DeviceBatch) -> Result<Tensor>;
}

/// Sizes of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Transformer layers.
    pub layers: usize,
    /// Features of the hidden state.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Features inside the feed-forward layers.
    pub feed_forward: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Longest rollout in tokens.
    pub context: usize,
    /// Weights, head excluded.
    pub parameters: usize,
    /// Their bytes in memory.
    pub bytes: usize,
}

/// A micro-batch on its way through a device.
pub struct DeviceBatch<'a> {
    /// The forest: positions, and who attends to whom.
    pub micro_batch: &'a MicroBatch,
    /// Token ids, `[tokens]`, u32.
    pub tokens: Tensor,
    /// Rows at which the head reads, `[reads]`, u32.
    pub reads: Tensor,
}

impl<'a> DeviceBatch<'a> {
    /// Brings a micro-batch to a device.
    pub fn new(micro_batch: &'a MicroBatch, device: &Device) -> Result<Self> {
        let reads: Vec<u32> = micro_batch.reads.iter().map(|read| read.row).collect();
        Ok(Self {
            micro_batch,
            tokens: Tensor::new(&micro_batch.tokens[..], device)?,
            reads: Tensor::new(reads, device)?,
        })
    }
}
