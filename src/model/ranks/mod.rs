//! The ranks of a model: each holds its share and computes on a device, with threads of its own.

mod rank;
mod team;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result};
use rayon::ThreadPool;

use self::rank::Rank;
use self::team::{Team, Wire};
use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::collective::shard::Shard;
use crate::model::collective::{Solo, on_gpus};
use crate::model::compute::backend::Backend;
use crate::model::error::ModelError;
use crate::model::network::backbone::{Pass, RankContext};
use crate::model::network::decoder::DecoderSpec;
use crate::model::prefix_cache::{KeyValues, PrefixCache, Resumed};

/// Loaded ranks.
pub struct Ranks {
    ranks: Vec<Arc<Rank>>,
    /// Their threads, if there are several.
    team: Option<Team>,
    /// `None` where nothing is kept.
    cache: Option<Mutex<PrefixCache>>,
}

/// What a pass gave.
pub struct Passed {
    /// The final hidden state at the rows that were read, `[reads, hidden]`, row after row.
    pub hidden: Vec<f32>,
    /// Tokens that earlier passes had computed.
    pub reused: usize,
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
    /// Loads a rank onto each of `devices`, one after the other, each with all threads of `all`; later they share them
    /// out. Together they have `cache_bytes` for the keys and values of prefixes; only the kernels use them.
    pub fn load(
        spec: &DecoderSpec,
        weights: &dyn WeightSource,
        backend: Backend,
        devices: &[Device],
        all: &Arc<ThreadPool>,
        cache_bytes: usize,
    ) -> std::result::Result<Self, ModelError> {
        let world = devices.len();
        spec.check_degree(world)?;
        // Before anything is loaded, for it may fail.
        let wire = match devices.iter().any(Device::is_cuda) && world > 1 {
            true => Wire::Gpus(on_gpus(devices)?),
            false => Wire::Memory,
        };
        let slots = match backend {
            Backend::Kernels(_) => {
                let heads = Shard::all(world).map(|shard| shard.heads(spec.heads).layout);
                let token: usize = heads.map(|heads| KeyValues::bytes_per_token(spec.layers, heads)).sum();
                u32::try_from(cache_bytes / token).unwrap_or(u32::MAX)
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
        let ranks = Shard::all(world).zip(devices).map(load).collect::<std::result::Result<Vec<_>, ModelError>>()?;
        let team = if world == 1 { None } else { Some(Team::start(&ranks, wire)?) };
        let cache = (slots > 0).then(|| Mutex::new(PrefixCache::new(slots)));
        Ok(Self { ranks, team, cache })
    }

    /// One pass over `batch`; `reads` are the rows whose hidden states are wanted.
    pub fn forward(&self, batch: &MicroBatch, reads: &[u32]) -> Result<Passed> {
        let Some(cache) = &self.cache else {
            let all = Resumed { batch: batch.clone(), reads: reads.to_vec(), ..Resumed::default() };
            return Ok(Passed { hidden: self.compute(all)?, reused: 0 });
        };
        // A pass that failed or panicked was not finished, which the next one sees.
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = cache.resume(batch, reads);
        let reused = batch.tokens.len() - rest.batch.tokens.len();
        let hidden = self.compute(rest)?;
        cache.finish();
        Ok(Passed { hidden, reused })
    }

    /// Forgets what earlier passes have left.
    pub fn forget(&self) {
        if let Some(cache) = &self.cache {
            cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn compute(&self, rest: Resumed) -> Result<Vec<f32>> {
        match &self.team {
            Some(team) => team.forward(rest),
            None => self.ranks[0].forward(&Pass::of(&rest, &Solo)),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use half::bf16;

    use crate::model::compute::device::DeviceChoice;
    use crate::model::compute::dtype::Dtype;
    use crate::model::compute::dtype::Precision;
    use crate::model::config::Config;
    use crate::model::network::arch;
    use crate::model::ranks::*;
    use crate::model::source::blueprint::Blueprint;

    /// A fixture's decoder, and its final hidden states at the last tokens of its cases.
    fn hidden(fixture: &str, device: DeviceChoice, tp: usize) -> (DecoderSpec, Vec<f32>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(fixture);
        let model = folder.to_str().unwrap().to_owned();
        let config = Config { model, tp, device, threads: 1, cache_dir: "/nonexistent".into(), ..Config::default() };
        let blueprint = Blueprint::open(&config).unwrap();
        let spec = arch::find(&blueprint.settings).unwrap().spec(&blueprint.settings).unwrap();
        let (devices, pool) = (device.open_all(tp).unwrap(), Arc::new(pool(1).unwrap()));
        let ranks =
            Ranks::load(&spec, blueprint.weights.as_ref(), device.backend(Dtype::Auto).unwrap(), &devices, &pool, 0)
                .unwrap();
        let reference = std::fs::read(folder.join("reference.json")).unwrap();
        let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
        let tokens = |case: &serde_json::Value| serde_json::from_value(case["input_ids"].clone()).unwrap();
        let rollouts: Vec<Vec<u32>> = reference["cases"].as_array().unwrap().iter().map(tokens).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        let reads: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
        let hidden = ranks.forward(&batch, &reads).unwrap().hidden;
        assert_eq!(hidden.len(), rollouts.len() * spec.hidden);
        (spec, hidden)
    }

    fn length(values: impl Iterator<Item = f32>) -> f32 {
        values.map(|value| value * value).sum::<f32>().sqrt()
    }

    /// Rounding to nearest moves a vector by half an epsilon of its length at most. On the way through a layer there are
    /// 16 roundings or fewer (norm, product, bias, head norm, rotary, mix, partial product, sum over ranks, bias, sum;
    /// norm, product, gate, partial product, sum over ranks, sum), and one of the embedding; the weights are bfloat16
    /// already. Norms keep relative errors as they are, and so, about, do random matrices: if all errors pointed the same
    /// way, they would add up to as many half epsilons. As they do not, there is room for what attention makes of them.
    #[test]
    fn bfloat16_is_as_close_as_its_roundings() {
        let fixtures = [
            ("bf16-single", 1),
            ("gemma2-bf16", 3),
            ("internlm2-biases-bf16", 4),
            ("llama-head-bias-bf16", 1),
            ("mistral-window-bf16", 2),
            ("nemotron-kv8-bf16", 4),
            ("qwen2-layer-types-bf16", 3),
            ("qwen3-bf16", 4),
        ];
        for (fixture, most_ranks) in fixtures {
            let (spec, exact) = hidden(fixture, DeviceChoice::Cpu, 1);
            let bound = (16 * spec.layers + 1) as f32 * bf16::EPSILON.to_f32() / 2.0;
            for tp in [1, most_ranks] {
                let (_, rounded) = hidden(fixture, DeviceChoice::CpuTensors(Precision::Bf16), tp);
                for (exact, rounded) in exact.chunks(spec.hidden).zip(rounded.chunks(spec.hidden)) {
                    let off = length(exact.iter().zip(rounded).map(|(exact, rounded)| exact - rounded));
                    let off = off / length(exact.iter().copied());
                    // A hundredth would be another type's doing.
                    assert!(off <= bound && off > bound / 100.0, "{fixture}, tp {tp}: {off} of {bound}");
                }
            }
        }
    }
}
