//! The ranks of a model: each holds its share and computes on threads of its own.
//!
//! Invariant: when a pass returns, every rank is back, whatever went wrong on one of them.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::ThreadPool;

use super::ModelError;
use super::backbone::{Backbone, Pass, RankContext};
use super::checkpoint::WeightSource;
use super::collective::{Exchange, Solo};
use super::decoder::DecoderSpec;
use super::shard::Shard;
use crate::batch::MicroBatch;

/// Loaded ranks.
pub struct Ranks(Vec<Rank>);

struct Rank {
    backbone: Box<dyn Backbone>,
    pool: Arc<ThreadPool>,
    /// Bytes that its share took out of the files.
    bytes_read: u64,
}

/// A pool of `threads` for forward passes.
pub fn pool(threads: usize) -> std::result::Result<ThreadPool, ModelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("forward-{i}"))
        .build()
        .map_err(|e| ModelError::Threads { threads, reason: e.to_string() })
}

impl Ranks {
    /// Loads `world` ranks, one after the other, each with all threads of `all`; later they share them out.
    pub fn load(
        spec: &DecoderSpec,
        weights: &dyn WeightSource,
        world: usize,
        all: &Arc<ThreadPool>,
    ) -> std::result::Result<Self, ModelError> {
        spec.check_degree(world)?;
        let threads = (all.current_num_threads() / world).max(1);
        Shard::all(world)
            .map(|shard| {
                let before = weights.bytes_read();
                let context = RankContext { weights, shard, device: Device::Cpu };
                let backbone = all.install(|| spec.load(&context))?;
                let pool = if world == 1 { Arc::clone(all) } else { Arc::new(pool(threads)?) };
                Ok(Rank { backbone, pool, bytes_read: weights.bytes_read() - before })
            })
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }

    /// The final hidden state at the rows `reads`: `[reads, hidden]`.
    pub fn forward(&self, batch: &MicroBatch, reads: &[u32]) -> Result<Tensor> {
        if let [only] = &self.0[..] {
            return only.pool.install(|| only.backbone.forward(&Pass { batch, reads, ranks: &Solo }));
        }
        let exchange = Exchange::new(self.0.len());
        // A scope ends when all of its threads have ended; none of them waits for one that has left the exchange.
        let results: Vec<_> = std::thread::scope(|scope| {
            let ranks: Vec<_> = self
                .0
                .iter()
                .enumerate()
                .map(|(i, rank)| {
                    let seat = exchange.seat(i);
                    scope.spawn(move || {
                        let result = rank.pool.install(|| rank.backbone.forward(&Pass { batch, reads, ranks: &seat }));
                        if let Err(error) = &result {
                            seat.fail(&error.to_string());
                        }
                        result
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join()).collect()
        });
        let mut hidden = None;
        for (i, result) in results.into_iter().enumerate() {
            match result {
                Ok(result) => hidden = hidden.or(Some(result?)),
                Err(_) => bail!("rank {i} failed: it panicked"),
            }
        }
        match hidden {
            Some(hidden) => Ok(hidden),
            None => bail!("a model without ranks"),
        }
    }

    /// Bytes of each rank's weights in memory.
    pub fn bytes(&self) -> Vec<usize> {
        self.0.iter().map(|rank| rank.backbone.bytes()).collect()
    }

    /// Bytes that each rank's share took out of the files.
    pub fn bytes_read(&self) -> Vec<u64> {
        self.0.iter().map(|rank| rank.bytes_read).collect()
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank that adds up what all ranks say, unless the first token asks it to fail.
    struct Says(f32);

    /// Tokens that make rank 1 fail in its own way.
    const ERROR: u32 = 1;
    const PANIC: u32 = 2;

    impl Backbone for Says {
        fn bytes(&self) -> usize {
            0
        }

        fn forward(&self, pass: &Pass) -> Result<Tensor> {
            let before = Tensor::from_vec(vec![self.0], (1, 1), &Device::Cpu)?;
            let first = pass.ranks.all_reduce(&before)?;
            match (pass.ranks.rank(), pass.batch.tokens[0]) {
                (1, ERROR) => bail!("no memory left"),
                (1, PANIC) => panic!("a broken rank"),
                _ => pass.ranks.all_reduce(&first),
            }
        }
    }

    #[test]
    fn a_rank_that_fails_fails_the_pass_and_the_next_one_is_well() {
        let rank = |says| Rank { backbone: Box::new(Says(says)), pool: Arc::new(pool(1).unwrap()), bytes_read: 0 };
        let ranks = Ranks(vec![rank(1.0), rank(2.0), rank(4.0)]);
        let pass = |token: u32| {
            let hidden = ranks.forward(&MicroBatch::pack(&[[token]], true), &[0])?;
            hidden.flatten_all()?.to_vec1::<f32>()
        };
        for _ in 0..20 {
            assert_eq!(pass(0).unwrap(), [21.0]);
            let error = pass(ERROR).unwrap_err().to_string();
            assert!(error.contains("rank 1 failed: no memory left"), "{error}");
            let error = pass(PANIC).unwrap_err().to_string();
            assert!(error.contains("rank 1 failed: it panicked"), "{error}");
        }
    }
}
