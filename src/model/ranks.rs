//! The ranks of a model: each holds its share and computes on a device, with threads of its own.

use std::sync::Arc;

use candle_core::{Device, Result};
use rayon::ThreadPool;

use super::ModelError;
use super::backbone::{Backbone, Pass, RankContext};
use super::backend::Backend;
use super::checkpoint::WeightSource;
use super::collective::{Solo, on_gpus};
use super::decoder::DecoderSpec;
use super::shard::Shard;
use super::team::{Team, Wire};
use crate::batch::MicroBatch;

/// Loaded ranks.
pub struct Ranks {
    ranks: Vec<Arc<Rank>>,
    /// Their threads, if there are several.
    team: Option<Team>,
}

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
    /// out.
    pub fn load(
        spec: &DecoderSpec,
        weights: &dyn WeightSource,
        backend: Backend,
        devices: &[Device],
        all: &Arc<ThreadPool>,
    ) -> std::result::Result<Self, ModelError> {
        let world = devices.len();
        spec.check_degree(world)?;
        // Before anything is loaded, for it may fail.
        let wire = match devices.iter().any(Device::is_cuda) && world > 1 {
            true => Wire::Gpus(on_gpus(devices)?),
            false => Wire::Memory,
        };
        let threads = (all.current_num_threads() / world).max(1);
        let load = |(shard, device): (Shard, &Device)| {
            let before = weights.bytes_read();
            let context = RankContext { weights, shard, device: device.clone(), backend };
            let backbone = all.install(|| spec.load(&context))?;
            let pool = if world == 1 { Arc::clone(all) } else { Arc::new(pool(threads)?) };
            Ok(Arc::new(Rank::new(backbone, pool, weights.bytes_read() - before)))
        };
        let ranks = Shard::all(world).zip(devices).map(load).collect::<std::result::Result<Vec<_>, ModelError>>()?;
        let team = if world == 1 { None } else { Some(Team::start(&ranks, wire)?) };
        Ok(Self { ranks, team })
    }

    /// The final hidden state at the rows `reads`, `[reads, hidden]`, row after row.
    pub fn forward(&self, batch: &MicroBatch, reads: &[u32]) -> Result<Vec<f32>> {
        match &self.team {
            Some(team) => team.forward(batch, reads),
            None => self.ranks[0].forward(&Pass { batch, reads, ranks: &Solo }),
        }
    }

    /// Bytes of each rank's weights in memory.
    pub fn bytes(&self) -> Vec<usize> {
        self.ranks.iter().map(|rank| rank.backbone.bytes()).collect()
    }

    /// Bytes that each rank's share took out of the files.
    pub fn bytes_read(&self) -> Vec<u64> {
        self.ranks.iter().map(|rank| rank.bytes_read).collect()
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::blueprint::Blueprint;
    use super::super::{Config, DeviceChoice, Precision, arch};
    use super::*;

    /// The final hidden states at the last tokens of a fixture's cases, and how many layers made them.
    fn hidden(folder: &Path, device: DeviceChoice, tp: usize) -> (Vec<Vec<f32>>, DecoderSpec) {
        let model = folder.to_str().unwrap().to_owned();
        let blueprint = Blueprint::open(&Config { model, tp, device, threads: 1, ..Config::default() });
        let blueprint = blueprint.unwrap();
        let spec = arch::find(&blueprint.settings).unwrap().spec(&blueprint.settings).unwrap();
        let (devices, pool) = (device.open_all(tp).unwrap(), Arc::new(pool(1).unwrap()));
        let ranks = Ranks::load(&spec, blueprint.weights.as_ref(), device.backend(), &devices, &pool).unwrap();
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let case = |case: &serde_json::Value| serde_json::from_value(case["input_ids"].clone()).unwrap();
        let rollouts: Vec<Vec<u32>> = reference["cases"].as_array().unwrap().iter().map(case).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        let reads: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
        let hidden = ranks.forward(&batch, &reads).unwrap();
        (hidden.chunks(spec.hidden).map(<[f32]>::to_vec).collect(), spec)
    }

    fn norm(values: impl Iterator<Item = f32>) -> f32 {
        values.map(|value| value * value).sum::<f32>().sqrt()
    }

    #[test]
    fn bfloat16_is_as_close_as_its_roundings() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
        let mut worst = Vec::new();
        for entry in std::fs::read_dir(fixtures).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let r: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
            if !r["head"].is_null() {
                continue;
            }
            let (exact, spec) = hidden(&folder, DeviceChoice::Cpu, 1);
            for tp in [1, 2] {
                if !spec.degrees().contains(&tp) {
                    continue;
                }
                let (rounded, _) = hidden(&folder, DeviceChoice::CpuTensors(Precision::Bf16), tp);
                for (exact, rounded) in exact.iter().zip(&rounded) {
                    let off = norm(exact.iter().zip(rounded).map(|(a, b)| a - b)) / norm(exact.iter().copied());
                    worst.push((off, off / (1.0 / 256.0), spec.layers, name.clone(), tp));
                }
            }
        }
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        for w in worst.iter().take(40) {
            println!("{w:?}");
        }
        panic!();
    }
}
