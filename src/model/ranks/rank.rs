//! One rank: its part of the network, and the threads that compute it.

use std::sync::Arc;

use candle_core::Result;
use rayon::ThreadPool;

use crate::batch::MicroBatch;
use crate::model::error::ModelError;
use crate::model::network::backbone::{Backbone, Pass, RankContext};

/// One rank's share.
pub struct Rank {
    backbone: Box<dyn Backbone>,
    pool: Arc<ThreadPool>,
    /// Bytes that it took out of the files.
    bytes_read: u64,
}

impl Rank {
    /// A share that computes in a pool, and took so many bytes out of the files.
    pub fn new(backbone: Box<dyn Backbone>, pool: Arc<ThreadPool>, bytes_read: u64) -> Self {
        Self { backbone, pool, bytes_read }
    }

    /// This rank's part in a pass: the hidden state, row after row, on the host. The copy waits for all that a GPU was
    /// given to do, so that what fails there fails here.
    pub fn forward(&self, pass: &Pass) -> Result<Vec<f32>> {
        self.pool.install(|| self.backbone.forward(pass)?.flatten_all()?.to_vec1())
    }

    /// How many rows a pass computes.
    pub fn rows(&self, batch: &MicroBatch, reads: &[u32]) -> usize {
        self.backbone.rows(batch, reads)
    }

    /// The same share with what the context's weights change in it, in the same pool.
    pub fn adapted(&self, context: &RankContext) -> std::result::Result<Self, ModelError> {
        let before = context.weights.bytes_read();
        let backbone = self.pool.install(|| self.backbone.adapted(context))?;
        Ok(Self::new(backbone, Arc::clone(&self.pool), context.weights.bytes_read() - before))
    }

    /// Bytes of its weights in memory.
    pub fn bytes(&self) -> usize {
        self.backbone.bytes()
    }

    /// Bytes that its share took out of the files.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}
