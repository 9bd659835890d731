//! The ranks of a model: each holds its share and computes on a device, with threads of its own.

mod error;
#[cfg(test)]
mod precision_tests;
mod rank;
mod team;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;

use candle_core::Device;
use rayon::ThreadPool;

pub use self::error::PassError;
use self::rank::Rank;
use self::team::{Team, Wire};
use self::turn::Turn;
use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::collective::shard::Shard;
use crate::model::collective::{Solo, on_gpus};
use crate::model::compute::backend::Backend;
use crate::model::config::CacheSize;
use crate::model::error::ModelError;
use crate::model::network::backbone::{Pass, RankContext};
use crate::model::network::decoder::DecoderSpec;
use crate::model::prefix_cache::{KeyValues, Resumed, SharedCache};

/// Loaded ranks.
pub struct Ranks {
    ranks: Vec<Arc<Rank>>,
    /// Their threads, if there are several.
    team: Option<Team>,
    /// `None` where nothing is kept.
    cache: Option<Arc<SharedCache>>,
    /// Whose pass it is, of all that compute on the same threads.
    turn: Arc<Turn>,
    /// How a model with an adapter is loaded beside this one.
    place: Placing,
}

/// Where and how ranks compute.
#[derive(Clone)]
struct Placing {
    backend: Backend,
    devices: Vec<Device>,
    slots: u32,
    bytes_per_token: usize,
}

/// What a pass gave.
pub struct Passed {
    /// The final hidden state at the rows that were read, `[reads, hidden]`, row after row.
    pub hidden: Vec<f32>,
    /// Tokens that earlier passes had computed.
    pub reused: usize,
    /// Tokens that earlier passes had computed, too, and that there was no room to keep. An estimate.
    pub recomputed: usize,
}

/// A pool of `threads` for forward passes.
pub fn pool(threads: usize) -> Result<ThreadPool, ModelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("forward-{i}"))
        .build()
        .map_err(|e| ModelError::Threads { threads, reason: e.to_string() })
}

impl Ranks {
    /// Loads a rank onto each of `devices`, one after the other, each with all threads of `all`; later they share them
    /// out. Together they have room of `cache` for the keys and values of prefixes; only the kernels use it. It is one of
    /// `rooms` as large, where other models are loaded beside this one ([`Self::adapted`]).
    pub fn load(
        spec: &DecoderSpec,
        weights: &dyn WeightSource,
        backend: Backend,
        devices: &[Device],
        all: &Arc<ThreadPool>,
        cache: CacheSize,
        rooms: u32,
    ) -> Result<Self, ModelError> {
        let world = devices.len();
        spec.check_degree(world)?;
        // Before anything is loaded, for it may fail.
        let wire =
            if devices.iter().any(Device::is_cuda) && world > 1 { Wire::Gpus(on_gpus(devices)?) } else { Wire::Memory };
        let heads = Shard::all(world).map(|shard| shard.heads(spec.heads).layout);
        let bytes_per_token: usize = heads.map(|heads| KeyValues::bytes_per_token(spec.layers, heads)).sum();
        let slots = match backend {
            Backend::Kernels(weights) => {
                cache.tokens(bytes_per_token, spec.parameters().total() * weights.bytes()) / rooms
            }
            Backend::Tensors(_) => 0,
        };
        let threads = (all.current_num_threads() / world).max(1);
        let load = |(shard, device): (Shard, &Device)| {
            let before = weights.bytes_read();
            let context = RankContext { weights, shard, device: device.clone(), backend, slots };
            let backbone = all.install(|| spec.load(&context))?;
            let pool = if world == 1 { Arc::clone(all) } else { Arc::new(pool(threads)?) };
            Ok(Arc::new(Rank::new(backbone, pool, weights.bytes_read() - before)))
        };
        let ranks = Shard::all(world).zip(devices).map(load).collect::<Result<Vec<_>, ModelError>>()?;
        let team = if world == 1 { None } else { Some(Team::start(&ranks, wire)?) };
        let cache = (slots > 0).then(|| Arc::new(SharedCache::new(slots, bytes_per_token)));
        let place = Placing { backend, devices: devices.to_vec(), slots, bytes_per_token };
        Ok(Self { ranks, team, cache, turn: Arc::default(), place })
    }

    /// The same ranks with what `weights` change in them, as an adapter of the base: what they do not change is shared. Prefixes are
    /// kept apart, in as much room again. Only the kernels share weights.
    pub fn adapted(&self, weights: &dyn WeightSource) -> Result<Self, ModelError> {
        let Placing { backend, slots, bytes_per_token, .. } = self.place;
        let world = self.ranks.len();
        let load = |((shard, device), rank): ((Shard, &Device), &Arc<Rank>)| {
            let context = RankContext { weights, shard, device: device.clone(), backend, slots };
            rank.adapted(&context).map(Arc::new)
        };
        let shares = Shard::all(world).zip(&self.place.devices).zip(&self.ranks);
        let ranks = shares.map(load).collect::<Result<Vec<_>, ModelError>>()?;
        let team = if world == 1 { None } else { Some(Team::start(&ranks, Wire::Memory)?) };
        let cache = (slots > 0).then(|| Arc::new(SharedCache::new(slots, bytes_per_token)));
        Ok(Self { ranks, team, cache, turn: Arc::clone(&self.turn), place: self.place.clone() })
    }

    /// One pass over `batch`; `reads` are the rows whose hidden states are wanted. Passes of models that share threads come one
    /// after the other, in the order in which they asked.
    pub fn forward(&self, batch: &MicroBatch, reads: &[u32]) -> Result<Passed, PassError> {
        let _turn = self.turn.take();
        let Some(cache) = &self.cache else {
            let all = Resumed { batch: batch.clone(), reads: reads.to_vec(), ..Resumed::default() };
            return Ok(Passed { hidden: self.compute(all)?, reused: 0, recomputed: 0 });
        };
        // A pass that failed or panicked was not finished, which the next one sees.
        let rest = cache.resume(batch, reads);
        let (reused, recomputed) = (batch.tokens.len() - rest.batch.tokens.len(), rest.recomputed);
        let hidden = self.compute(rest)?;
        cache.finish();
        Ok(Passed { hidden, reused, recomputed })
    }

    /// How many rows of `batch` the next pass would compute.
    pub fn rows(&self, batch: &MicroBatch, reads: &[u32]) -> usize {
        self.cache.as_ref().map_or(batch.tokens.len(), |cache| cache.rows_left(batch, reads))
    }

    /// What is kept; `None` where nothing is.
    pub fn cache(&self) -> Option<&Arc<SharedCache>> {
        self.cache.as_ref()
    }

    /// Forgets what earlier passes have left.
    pub fn forget(&self) {
        if let Some(cache) = &self.cache {
            cache.clear();
        }
    }

    fn compute(&self, rest: Resumed) -> Result<Vec<f32>, PassError> {
        match &self.team {
            Some(team) => team.forward(rest),
            None => Ok(self.ranks[0].forward(&Pass::of(&rest, &Solo))?),
        }
    }

    /// Bytes of each rank's weights in memory.
    pub fn bytes(&self) -> Vec<usize> {
        self.ranks.iter().map(|rank| rank.bytes()).collect()
    }

    /// Bytes that each rank's share took out of the files.
    pub fn bytes_read(&self) -> Vec<u64> {
        self.ranks.iter().map(|rank| rank.bytes_read()).collect()
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }
}
