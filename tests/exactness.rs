//! The promise of bits: a rollout's scores are those that it gets alone, whatever batch it comes in, in whatever order, with
//! and without shared prefixes, on any number of threads, and however much of it an earlier micro-batch has left in the
//! prefix cache. For every architecture and every type of weights, over random forests.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use reward_sidecar::batch::{MicroBatch, Wanted};
use reward_sidecar::engine::{Engine, ScoreTable};
use reward_sidecar::model::compute::kernels::WeightType;
use reward_sidecar::model::{CacheSize, Config, Dtype, ModelEngine};

/// Random forests per fixture and type of weights.
const CASES: u32 = 3;

/// Micro-batches of some of a pool of rollouts.
#[derive(Debug, Clone)]
struct Traffic {
    rollouts: Vec<Vec<u32>>,
    batches: Vec<Batch>,
}

#[derive(Debug, Clone)]
struct Batch {
    /// Indices of rollouts, repetitions among them.
    members: Vec<usize>,
    share: bool,
    /// A row that queued rollouts are said to begin with.
    wanted: Option<prop::sample::Index>,
}

/// Rollouts with common beginnings of every length, across several blocks of keys where the context has so many; prefixes
/// of each other, and duplicates.
fn traffic(context: usize, vocabulary: u32) -> impl Strategy<Value = Traffic> {
    let longest = context.min(150);
    let trunk = prop::collection::vec(0..vocabulary, longest);
    let branch = (0..=longest, prop::collection::vec(0..vocabulary.min(3), 0..40));
    let rollouts = (trunk, prop::collection::vec(branch, 2..8)).prop_map(move |(trunk, branches)| {
        let rollout = |(kept, tail): (usize, Vec<u32>)| {
            let mut rollout = [&trunk[..kept], &tail].concat();
            rollout.truncate(longest);
            if rollout.is_empty() { vec![0] } else { rollout }
        };
        branches.into_iter().map(rollout).collect::<Vec<_>>()
    });
    rollouts.prop_flat_map(|rollouts| {
        let members = prop::collection::vec(0..rollouts.len(), 1..8);
        let wanted = prop::option::of(any::<prop::sample::Index>());
        let batch =
            (members, any::<bool>(), wanted).prop_map(|(members, share, wanted)| Batch { members, share, wanted });
        (Just(rollouts), prop::collection::vec(batch, 1..5))
            .prop_map(|(rollouts, batches)| Traffic { rollouts, batches })
    })
}

fn load(folder: &Path, dtype: Dtype, threads: usize, prefix_cache_bytes: usize) -> ModelEngine {
    let model = folder.to_str().unwrap().to_owned();
    let cache_dir = PathBuf::from("/nonexistent");
    let config = Config {
        model,
        dtype,
        threads,
        prefix_cache: CacheSize::Bytes(prefix_cache_bytes),
        cache_dir,
        ..Config::default()
    };
    ModelEngine::load(&config).unwrap_or_else(|e| panic!("{e}"))
}

fn bits(table: &ScoreTable) -> Vec<Vec<u32>> {
    (0..table.rows()).map(|i| table.row(i).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Tokens that were not computed again.
fn check(folder: &Path, dtype: Dtype) -> usize {
    let alone = RefCell::new(load(folder, dtype, 1, 0));
    // Nothing is kept; so little that most of it gives way; and more than there is.
    let others = [(2, 0), (1, 20_000), (2, 64 << 20)].map(|(threads, cache)| {
        (format!("{threads} threads, {cache} bytes kept"), RefCell::new(load(folder, dtype, threads, cache)))
    });
    let (context, vocabulary) = {
        let alone = alone.borrow();
        (alone.card().context_tokens as usize, alone.card().vocabulary_size)
    };
    let reused = RefCell::new(0);
    let run = |traffic: Traffic| {
        let expected: Vec<Vec<u32>> = traffic
            .rollouts
            .iter()
            .map(|rollout| bits(&alone.borrow_mut().score(&MicroBatch::pack(&[rollout], true)).unwrap()).remove(0))
            .collect();
        let wanting = std::sync::Arc::new(());
        for Batch { members, share, wanted } in traffic.batches {
            let rollouts: Vec<&[u32]> = members.iter().map(|&i| &traffic.rollouts[i][..]).collect();
            let mut batch = MicroBatch::pack(&rollouts, share);
            if let Some(row) = wanted {
                let row = row.index(batch.tokens.len()) as u32;
                batch.wanted.push(Wanted { row, by: std::sync::Arc::downgrade(&wanting) });
            }
            for (name, engine) in &others {
                let table = engine.borrow_mut().score(&batch).unwrap();
                *reused.borrow_mut() += table.reused();
                for (row, &member) in bits(&table).iter().zip(&members) {
                    prop_assert_eq!(row, &expected[member], "rollout {}, {}", member, name);
                }
            }
        }
        Ok(())
    };
    let mut runner = TestRunner::new(Cases { cases: CASES, failure_persistence: None, ..Cases::default() });
    if let Err(error) = runner.run(&traffic(context, vocabulary), run) {
        panic!("{} with weights of type {dtype}: {error}", folder.display());
    }
    reused.into_inner()
}

#[test]
fn a_rollout_has_the_bits_that_it_has_alone() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    // Other heads than a plain matrix need to be told of, which makes no difference to the decoder.
    let is_plain = |folder: &PathBuf| {
        let reference: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
        reference["head"].is_null()
    };
    let folders = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(is_plain).collect();
    folders.sort();
    let mut reused = 0;
    for folder in &folders {
        for dtype in WeightType::ALL.map(Dtype::Weights) {
            reused += check(folder, dtype);
        }
    }
    println!("{} fixtures, {reused} tokens taken from the prefix cache", folders.len());
    assert!(folders.len() >= 30 && reused > 10_000);
}

/// Enough rows that experts are shared out over the threads, in several blocks of them, and so few that an expert's columns are.
#[test]
fn a_mixture_of_experts_has_the_same_bits_on_any_number_of_threads() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    for name in ["mixtral", "qwen3-moe"] {
        let mut engines = [1, 2, 3, 5].map(|threads| load(&fixtures.join(name), "f32".parse().unwrap(), threads, 0));
        let vocabulary = engines[0].card().vocabulary_size;
        let rollout = |number: u32| (0..number % 60 + 1).map(|i| (i * i + i / 20 * number) % vocabulary).collect();
        let rollouts: Vec<Vec<u32>> = (0..60).map(rollout).collect();
        let alone: Vec<_> = rollouts
            .iter()
            .map(|rollout| bits(&engines[0].score(&MicroBatch::pack(&[rollout], true)).unwrap()).remove(0))
            .collect();
        assert!(alone.windows(2).any(|pair| pair[0] != pair[1]));
        for (engine, threads) in engines.iter_mut().zip([1, 2, 3, 5]) {
            for share in [true, false] {
                let table = engine.score(&MicroBatch::pack(&rollouts, share)).unwrap();
                assert_eq!(bits(&table), alone, "{name}, {threads} threads, shared prefixes: {share}");
            }
            let table = engine.score(&MicroBatch::pack(&rollouts[..1], true)).unwrap();
            assert_eq!(bits(&table), alone[..1], "{name}, {threads} threads, one rollout");
        }
    }
}

/// What a checkpoint has in two bytes loses nothing in two bytes.
#[test]
fn a_bfloat16_checkpoint_has_the_bits_of_float32() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    for name in ["bf16-single", "gemma2-bf16", "nemotron-kv8-bf16", "qwen3-bf16"] {
        let folder = fixtures.join(name);
        let [mut wide, mut narrow] = ["f32", "bf16"].map(|dtype| load(&folder, dtype.parse().unwrap(), 2, 0));
        assert_ne!(wide.card().model_version, narrow.card().model_version);
        assert!(narrow.report().bytes_per_rank[0] < wide.report().bytes_per_rank[0]);
        let rollouts: Vec<Vec<u32>> = (1..40).map(|n| (0..n).collect()).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        assert_eq!(bits(&narrow.score(&batch).unwrap()), bits(&wide.score(&batch).unwrap()), "{name}");
    }
}

/// `fast` is one of the types, with its version and its bits; the same one whatever there is to compute with.
#[test]
fn fast_is_the_first_type_within_its_bound() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    let mut chosen_types = Vec::new();
    for name in ["gemma2", "llama3-sharded", "qwen3"] {
        let folder = fixtures.join(name);
        let mut fast = load(&folder, "fast".parse().unwrap(), 2, 1 << 20);
        let (chosen, choice) = (fast.report().precision, fast.report().precision_choice.unwrap());
        let is_within = |(_, deviation): &(&str, f32)| *deviation <= choice.bound;
        let first = choice.tried.iter().position(is_within);
        assert_eq!(chosen, first.map_or("f32", |i| choice.tried[i].0), "{choice:?}");
        assert!(first.is_none_or(|i| i + 1 == choice.tried.len()), "{choice:?}");
        let mut named = load(&folder, chosen.parse().unwrap(), 1, 0);
        assert_eq!(fast.card().model_version, named.card().model_version);
        let rollouts: Vec<Vec<u32>> = (1..20).map(|n| (0..n).collect()).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        assert_eq!(bits(&fast.score(&batch).unwrap()), bits(&named.score(&batch).unwrap()), "{name}");
        chosen_types.push(chosen);
    }
    assert!(chosen_types.iter().any(|chosen| *chosen != "f32"), "{chosen_types:?}");
}
