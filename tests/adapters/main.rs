//! Adapters that PEFT wrote give the scores that PEFT gives, at every degree.
//!
//! The fixtures come from `tools/fixtures/peft_adapters.py`.

mod beside;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/reference.rs"]
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{Engine, ScoreTable};
use reward_sidecar::model::{self, CacheSize, Config, Dtype, ModelEngine, NamedAdapter};
use reward_sidecar::proto::v1;
use reward_sidecar::sidecar::{Listeners, Sidecar};

use reference::{Reference, bits, compare, fixtures, reference};

fn peft() -> PathBuf {
    fixtures().join("peft")
}

/// Every adapter's folder.
fn adapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(peft()).unwrap().map(|entry| entry.unwrap().path());
    let mut adapters: Vec<PathBuf> = entries.filter(|path| path.join("reference.json").exists()).collect();
    adapters.sort();
    assert!(adapters.len() >= 19, "the fixtures are there");
    adapters
}

fn config(model: &Path, tp: usize) -> Config {
    let model = model.to_str().unwrap().into();
    Config { model, preset: "none".into(), tp, threads: 2, ..Config::default() }
}

fn load(config: &Config) -> ModelEngine {
    ModelEngine::load(config).unwrap_or_else(|e| panic!("{}: {e}", config.model))
}

/// The tokens that are read: up to the last one that is no padding, as the sidecar cuts a rollout before it is packed.
fn read(engine: &ModelEngine, ids: &[u32]) -> Vec<u32> {
    let skip = engine.card().reads.skip;
    let end = ids.iter().rposition(|id| Some(*id) != skip).map_or(ids.len(), |last| last + 1);
    ids[..end].to_vec()
}

fn score(engine: &mut ModelEngine, reference: &Reference) -> ScoreTable {
    let rollouts: Vec<Vec<u32>> = reference.cases.iter().map(|case| read(engine, &case.input_ids)).collect();
    let rollouts: Vec<&[u32]> = rollouts.iter().map(Vec::as_slice).collect();
    engine.score(&MicroBatch::pack(&rollouts, true)).unwrap()
}

#[test]
fn a_merged_adapter_gives_the_scores_of_peft_at_every_degree() {
    for folder in adapters() {
        let reference = reference(&folder);
        let whole = score(&mut load(&config(&folder, 1)), &reference);
        compare(&folder.display().to_string(), &whole, &reference);
        for tp in [2, 4] {
            let table = score(&mut load(&config(&folder, tp)), &reference);
            assert_eq!(bits(&table), bits(&whole), "{}, tp {tp}", folder.display());
        }
    }
}

/// A classifier's adapter skips padding, though the base is no classifier.
#[test]
fn a_classifiers_adapter_says_what_is_skipped() {
    let engine = load(&config(&peft().join("seq-cls-2023"), 1));
    assert_eq!((engine.card().reads.skip, &*engine.card().architecture), (Some(2), "LlamaForSequenceClassification"));
}

#[test]
fn a_table_that_has_grown_is_the_vocabulary() {
    for name in ["grown", "grown-tokens"] {
        assert_eq!(load(&config(&peft().join(name), 1)).card().vocabulary_size, 67, "{name}");
    }
}

/// What an adapter's configuration and its file disagree on is refused, with the tensor's name.
#[test]
fn what_does_not_fit_together_is_refused() {
    for (name, edit, says) in [
        ("dora", ("\"use_dora\": true", "\"use_dora\": false"), "lora_magnitude_vector"),
        ("fan-in", ("\"use_dora\": false", "\"use_dora\": true"), "lora_magnitude_vector"),
        ("lora-bias", ("\"lora_bias\": true", "\"lora_bias\": false"), "lora_B.bias"),
        ("tokens", ("60", "61"), "names token 61"),
        ("norms-saved", ("\"down_proj\"", "\"other\""), "down_proj"),
        ("seq-cls-2023", ("\"peft_type\": \"LORA\"", "\"peft_type\": \"LOHA\""), "merge_and_unload"),
    ] {
        let copy = tempfile::tempdir_in(peft()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(peft().join(name).join(file), copy.path().join(file)).unwrap();
        }
        let path = copy.path().join("adapter_config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(edit.0), "{name} says {}", edit.0);
        fs::write(&path, text.replace(edit.0, edit.1)).unwrap();
        let message = ModelEngine::load(&config(copy.path(), 1)).err().unwrap().to_string();
        assert!(message.contains(says), "{name}: {message}");
    }
}
