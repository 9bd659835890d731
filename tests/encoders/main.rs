//! Encoders: scores that transformers computed in float32, the same bits however rollouts come, pairs of texts, comparisons, and what
//! is refused.
//!
//! The folders in `tests/fixtures/encoder` come from `tools/fixtures/encoders.py` and `tools/fixtures/pairrm.py`.

#[path = "../common/mod.rs"]
mod common;
mod comparisons;
mod pairs;
#[path = "../common/reference.rs"]
mod reference;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::Engine;
use reward_sidecar::model::compute::kernels::{Isa, WeightType};
use reward_sidecar::model::{CacheSize, Config, Dtype, ModelEngine};

use reference::{bits, compare, fixtures, reference};

fn config(folder: &Path) -> Config {
    Config {
        model: folder.to_str().unwrap().into(),
        // Whether rollouts are pairs is asked for some of them, and makes no difference to ids.
        preset: "none".into(),
        threads: 2,
        cache_dir: "/nonexistent".into(),
        ..Config::default()
    }
}

fn load(config: &Config) -> ModelEngine {
    ModelEngine::load(config).unwrap_or_else(|e| panic!("{}: {e}", config.model))
}

fn folder(name: &str) -> PathBuf {
    fixtures().join("encoder").join(name)
}

fn folders() -> Vec<PathBuf> {
    let folders = fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().display().to_string()
}

#[test]
fn scores_are_those_of_transformers() {
    let folders = folders();
    for folder in &folders {
        let (name, reference) = (name(folder), reference(folder));
        let mut engine = load(&config(folder));
        let rollouts: Vec<&[u32]> = reference.cases.iter().map(|case| &case.input_ids[..]).collect();
        for share in [true, false] {
            let table = engine.score(&MicroBatch::pack(&rollouts, share)).unwrap();
            compare(&name, &table, &reference);
            for (row, case) in bits(&table).iter().zip(&reference.cases) {
                let alone = engine.score(&MicroBatch::pack(&[&case.input_ids], true)).unwrap();
                assert_eq!(&bits(&alone)[0], row, "{name}: alone");
            }
        }
    }
    assert!(folders.len() >= 15);
}

/// Rollouts that begin alike, are each other's beginnings or equal, over one block of keys and several.
fn rollouts(vocabulary: u32) -> Vec<Vec<u32>> {
    let trunk: Vec<u32> = (0..130).map(|i| i * 7 % vocabulary).collect();
    let branch = |kept: usize, tail: u32, len: usize| [&trunk[..kept], &vec![tail; len]].concat();
    vec![branch(130, 3, 2), branch(64, 5, 1), branch(1, 0, 0), branch(30, 2, 0), branch(130, 3, 2), branch(30, 4, 3)]
}

/// The rollout with each of these tokens in it once, in their order: at its front, in its middle, at its end.
fn anchored(rollout: &[u32], anchors: &[u32]) -> Vec<u32> {
    let [first, second, third] = anchors else { return rollout.to_vec() };
    let others: Vec<u32> = rollout.iter().copied().filter(|token| !anchors.contains(token)).collect();
    let (before, behind) = others.split_at(others.len() / 2);
    [&[*first], before, &[*second], behind, &[*third]].concat()
}

/// The promise of bits: on every instruction set, on any number of threads, in any batch and order; with every type of weights
/// where the encoders differ most.
#[test]
fn a_rollout_has_the_bits_that_it_has_alone() {
    for folder in folders() {
        let thorough = ["bert-pair", "deberta-v3", "modernbert-mean", "pairrm"].contains(&&*name(&folder));
        for weights in WeightType::ALL.into_iter().take(if thorough { usize::MAX } else { 1 }) {
            let with = |threads, isa| {
                let dtype = Dtype::Weights(weights);
                load(&Config { threads, isa, dtype, prefix_cache: CacheSize::Bytes(1 << 20), ..config(&folder) })
            };
            let mut alone = with(1, Some(Isa::available()[0]));
            let anchors = &alone.card().reads.anchors;
            let rollouts = rollouts(alone.card().vocabulary_size);
            let rollouts: Vec<_> = rollouts.iter().map(|rollout| anchored(rollout, anchors)).collect();
            let score = |engine: &mut ModelEngine, rollouts: &[&Vec<u32>], share| {
                bits(&engine.score(&MicroBatch::pack(rollouts, share)).unwrap())
            };
            let expected: Vec<_> = rollouts.iter().map(|r| score(&mut alone, &[r], true).remove(0)).collect();
            assert!(expected.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()), "{}", name(&folder));
            for (i, isa) in Isa::available().into_iter().enumerate() {
                let threads = i % 3 + 1;
                let mut engine = with(threads, Some(isa));
                let what = format!("{}, {weights:?}, {threads} threads, {}", name(&folder), isa.name());
                let all: Vec<_> = rollouts.iter().collect();
                assert_eq!(score(&mut engine, &all, true), expected, "{what}");
                let turned: Vec<_> = rollouts.iter().rev().collect();
                let mut found = score(&mut engine, &turned, false);
                found.reverse();
                assert_eq!(found, expected, "{what}, turned round");
            }
        }
    }
}

/// What comes behind a token counts in an encoder, and a score is of the whole rollout.
#[test]
fn a_micro_batch_costs_whole_rollouts() {
    let engine = load(&config(&folder("bert")));
    let rollouts = [vec![5; 40], [vec![5; 40], vec![6; 3]].concat(), vec![5; 40]];
    let batch = MicroBatch::pack(&rollouts, true);
    assert_eq!((batch.tokens.len(), engine.rows(&batch)), (43, 83));
    let apart = MicroBatch::pack(&rollouts, false);
    assert_eq!(engine.rows(&apart), 123);
    let report = engine.report();
    assert_eq!((report.prefix_cache_bytes_per_token, report.degrees), (0, vec![1]));
    let safetensors = fs::metadata(folder("bert").join("model.safetensors")).unwrap().len();
    let counted = 4 * (report.parameters.total() + report.head_parameters) as u64;
    assert!(counted < safetensors && safetensors < counted + 8192, "{counted} of {safetensors}: and a header");
}
