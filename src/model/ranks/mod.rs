//! The ranks of a model: each holds its share and computes on a device, with threads of its own.

mod error;
mod nodes;
#[cfg(test)]
mod precision_tests;
mod rank;
mod team;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;
use rayon::ThreadPool;

pub use self::error::PassError;
use self::nodes::Cpus;
use self::rank::Rank;
use self::team::{Team, Wire};
use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::collective::shard::Shard;
use crate::model::collective::{Solo, on_gpus};
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::Isa;
use crate::model::config::CacheSize;
use crate::model::error::ModelError;
use crate::model::network::backbone::{Pass, RankContext};
use crate::model::network::spec::NetworkSpec;
use crate::model::packed_cache::PackedCache;
use crate::model::prefix_cache::{KeyValues, Resumed, SharedCache};

/// Loaded ranks.
pub struct Ranks {
    ranks: Vec<Arc<Rank>>,
    /// Their threads, if there are several.
    team: Option<Team>,
    /// `None` where nothing is kept.
    cache: Option<Arc<SharedCache>>,
    bytes_per_token: usize,
    /// Held during a pass, by models that share threads: ranks of two passes would wait for each other's.
    pass: Arc<Mutex<()>>,
    place: Place,
}

/// Where and how ranks compute.
#[derive(Clone)]
struct Place {
    backend: Backend,
    devices: Vec<Device>,
    /// Tokens that there is room to keep.
    slots: u32,
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

/// A pool of `threads` for forward passes, whose kernels use these instructions; the fastest where `None`.
pub fn pool(threads: usize, isa: Option<Isa>) -> Result<ThreadPool, ModelError> {
    pinned_pool(threads, isa, None)
}

/// [`pool`], whose threads stay on these CPUs.
fn pinned_pool(threads: usize, isa: Option<Isa>, cpus: Option<Cpus>) -> Result<ThreadPool, ModelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(move |_| {
            isa.into_iter().for_each(Isa::choose);
            cpus.iter().for_each(|cpus| nodes::pin(cpus));
        })
        .thread_name(|i| format!("forward-{i}"))
        .build()
        .map_err(|e| ModelError::Threads { threads, reason: e.to_string() })
}

impl Ranks {
    /// Loads a rank onto each of `devices`, one after the other, each with all threads of `all`; later they share them
    /// out. Where the machine has several NUMA nodes, ranks on the CPU load and compute on one of them each. Together they have
    /// room of `cache` for the keys and values of prefixes, divided by `rooms`: as many models beside each other have such room
    /// ([`Self::adapted`]); only the kernels use it. Weights that `packed` holds are not packed again, but on NUMA nodes, whose
    /// memory a mapped file does not lie in.
    pub fn load(
        spec: &NetworkSpec,
        weights: &dyn WeightSource,
        packed: &PackedCache,
        backend: Backend,
        devices: &[Device],
        all: &Arc<ThreadPool>,
        (cache, rooms): (CacheSize, u32),
    ) -> Result<Self, ModelError> {
        let world = devices.len();
        spec.check_degree(world)?;
        // Before anything is loaded, for it may fail.
        let wire =
            if devices.iter().any(Device::is_cuda) && world > 1 { Wire::Gpus(on_gpus(devices)?) } else { Wire::Memory };
        let sizes = spec.sizes();
        let heads = Shard::all(world).map(|shard| shard.heads(sizes.heads).layout);
        let bytes_per_token: usize = if spec.keeps_prefixes() {
            heads.map(|heads| KeyValues::bytes_per_token(sizes.layers, heads)).sum()
        } else {
            0
        };
        let slots = match backend {
            Backend::Kernels(weights) if bytes_per_token > 0 => {
                cache.tokens(bytes_per_token, spec.parameters().total() * weights.bytes()) / rooms
            }
            _ => 0,
        };
        let threads = (all.current_num_threads() / world).max(1);
        let isa = all.install(Isa::current);
        let nodes = if devices.iter().all(Device::is_cpu) { nodes::nodes() } else { Vec::new() };
        let nothing = PackedCache::default();
        let load = |(shard, device): (Shard, &Device)| {
            let before = weights.bytes_read();
            let node = nodes::of_rank(&nodes, shard.rank, world);
            let packed = if node.is_some() { &nothing } else { packed };
            let context = RankContext { weights, shard, device: device.clone(), packed, backend, slots };
            let pool = match world {
                1 => Arc::clone(all),
                _ => Arc::new(pinned_pool(threads, Some(isa), node.cloned())?),
            };
            // Memory is on the node of the thread that writes it first.
            let loads = if node.is_some() { &pool } else { all };
            let backbone = loads.install(|| spec.load(&context))?;
            Ok(Arc::new(Rank::new(backbone, pool, weights.bytes_read() - before)))
        };
        let ranks = Shard::all(world).zip(devices).map(load).collect::<Result<Vec<_>, ModelError>>()?;
        Self::start(ranks, wire, bytes_per_token, Arc::default(), Place { backend, devices: devices.to_vec(), slots })
    }

    /// The same ranks with what `weights` change in them, as an adapter of their model: what they do not change is shared. What is
    /// kept of prefixes is its own. Models on the kernels alone share anything.
    pub fn adapted(&self, weights: &dyn WeightSource) -> Result<Self, ModelError> {
        let Place { backend, ref devices, slots } = self.place;
        // What an adapter changes is little.
        let packed = &PackedCache::default();
        let load = |((shard, device), rank): ((Shard, &Device), &Arc<Rank>)| {
            rank.adapted(&RankContext { weights, shard, device: device.clone(), packed, backend, slots }).map(Arc::new)
        };
        let shares = Shard::all(devices.len()).zip(devices).zip(&self.ranks);
        let ranks = shares.map(load).collect::<Result<Vec<_>, ModelError>>()?;
        Self::start(ranks, Wire::Memory, self.bytes_per_token, Arc::clone(&self.pass), self.place.clone())
    }

    fn start(
        ranks: Vec<Arc<Rank>>,
        wire: Wire,
        bytes_per_token: usize,
        pass: Arc<Mutex<()>>,
        place: Place,
    ) -> Result<Self, ModelError> {
        let team = if ranks.len() == 1 { None } else { Some(Team::start(&ranks, wire)?) };
        let cache = (place.slots > 0).then(|| Arc::new(SharedCache::new(place.slots, bytes_per_token)));
        Ok(Self { ranks, team, cache, bytes_per_token, pass, place })
    }

    /// One pass over `batch`; `reads` are the rows whose hidden states are wanted. It waits for a pass of another model on the same
    /// threads.
    pub fn forward(&self, batch: &MicroBatch, reads: &[u32]) -> Result<Passed, PassError> {
        // Who panicked in it has left nothing that a pass reads.
        let _pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.cache.as_ref().map_or_else(|| self.ranks[0].rows(batch, reads), |cache| cache.rows_left(batch, reads))
    }

    /// What is kept; `None` where nothing is.
    pub fn cache(&self) -> Option<&Arc<SharedCache>> {
        self.cache.as_ref()
    }

    /// Bytes that a prefix cache takes for a token, all ranks together.
    pub fn bytes_per_token(&self) -> usize {
        self.bytes_per_token
    }

    /// Forgets what earlier passes have left.
    pub fn forget(&self) {
        if let Some(cache) = &self.cache {
            let _pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
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
