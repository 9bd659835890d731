//! Tests of how close ranks come that compute in narrower types.

use std::path::Path;

use half::bf16;

use crate::model::compute::device::DeviceChoice;
use crate::model::compute::dtype::{Dtype, Precision};
use crate::model::config::Config;
use crate::model::network::arch;
use crate::model::network::decoder::DecoderSpec;
use crate::model::ranks::*;
use crate::model::source::blueprint::Blueprint;

/// A fixture's decoder, and its final hidden states at the last tokens of its cases.
fn hidden(fixture: &str, device: DeviceChoice, tp: usize) -> (DecoderSpec, Vec<f32>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(fixture);
    let model = folder.to_str().unwrap().to_owned();
    let config = Config { model, tp, device, threads: 1, cache_dir: "/nonexistent".into(), ..Config::default() };
    let blueprint = Blueprint::open(&config).unwrap();
    let network = arch::spec(&blueprint.settings, None).unwrap();
    let (devices, pool) = (device.open_all(tp).unwrap(), Arc::new(pool(1, None).unwrap()));
    let ranks = Ranks::load(
        &network,
        blueprint.weights.as_ref(),
        &PackedCache::default(),
        device.backend(Dtype::Auto).unwrap(),
        &devices,
        &pool,
        (CacheSize::Bytes(0), 1),
    )
    .unwrap();
    let reference = std::fs::read(folder.join("reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let tokens = |case: &serde_json::Value| serde_json::from_value(case["input_ids"].clone()).unwrap();
    let rollouts: Vec<Vec<u32>> = reference["cases"].as_array().unwrap().iter().map(tokens).collect();
    let batch = MicroBatch::pack(&rollouts, true);
    let reads: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
    let hidden = ranks.forward(&batch, &reads).unwrap().hidden;
    let NetworkSpec::Decoder(spec) = network else { unreachable!("the fixtures are decoders") };
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
