//! Adapters that PEFT wrote give the scores that PEFT gives, at every degree.
//!
//! The fixtures come from `tools/fixtures/peft_adapters.py`.

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{Engine, ScoreTable};
use reward_sidecar::model::{CacheSize, Config, ModelEngine, NamedAdapter};

#[derive(serde::Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    scores: Vec<f32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft")
}

/// Every adapter's folder.
fn adapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
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

fn reference(folder: &Path) -> Reference {
    serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap()
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

fn bits(table: &ScoreTable) -> Vec<Vec<u32>> {
    (0..table.rows()).map(|i| table.row(i).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// The promise: transformers' numbers in float32, and here PEFT's on top of it.
fn compare(name: &Path, table: &ScoreTable, reference: &Reference) {
    for (i, case) in reference.cases.iter().enumerate() {
        let row = table.row(i).unwrap();
        assert_eq!(row.len(), case.scores.len(), "{}", name.display());
        for (score, expected) in row.iter().zip(&case.scores) {
            let difference = (score - expected).abs() / expected.abs().max(1.0);
            assert!(difference <= 1e-4, "{}, case {i}: {score}, expected {expected}", name.display());
        }
    }
}

#[test]
fn a_merged_adapter_gives_the_scores_of_peft_at_every_degree() {
    for folder in adapters() {
        let reference = reference(&folder);
        let whole = score(&mut load(&config(&folder, 1)), &reference);
        compare(&folder, &whole, &reference);
        for tp in [2, 4] {
            let table = score(&mut load(&config(&folder, tp)), &reference);
            assert_eq!(bits(&table), bits(&whole), "{}, tp {tp}", folder.display());
        }
    }
}

/// A classifier's adapter skips padding, though the base is no classifier.
#[test]
fn a_classifiers_adapter_says_what_is_skipped() {
    let engine = load(&config(&fixtures().join("seq-cls-2023"), 1));
    assert_eq!((engine.card().reads.skip, &*engine.card().architecture), (Some(2), "LlamaForSequenceClassification"));
}

#[test]
fn a_table_that_has_grown_is_the_vocabulary() {
    for name in ["grown", "grown-tokens"] {
        assert_eq!(load(&config(&fixtures().join(name), 1)).card().vocabulary_size, 67, "{name}");
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
        let copy = tempfile::tempdir_in(fixtures()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(fixtures().join(name).join(file), copy.path().join(file)).unwrap();
        }
        let path = copy.path().join("adapter_config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(edit.0), "{name} says {}", edit.0);
        fs::write(&path, text.replace(edit.0, edit.1)).unwrap();
        let message = ModelEngine::load(&config(copy.path(), 1)).err().unwrap().to_string();
        assert!(message.contains(says), "{name}: {message}");
    }
}

fn base_of(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let name = config["base_model_name_or_path"].as_str().unwrap().trim_start_matches("../");
    fixtures().join(name).to_str().unwrap().to_owned()
}

/// These adapters on one base, each a model of its own.
fn together(folders: &[PathBuf], tp: usize) -> Vec<ModelEngine> {
    let name = |folder: &PathBuf| folder.file_name().unwrap().to_string_lossy().into_owned();
    let adapters = folders.iter().map(|folder| NamedAdapter { name: name(folder), folder: folder.clone() }).collect();
    let base = base_of(&folders[0]);
    let config = Config { adapters, prefix_cache: CacheSize::Bytes(1 << 20), ..config(Path::new(&base), tp) };
    ModelEngine::load_adapters(&config).unwrap()
}

/// All kinds of adapters on their two bases: each gives the scores of PEFT, and the bits that it gives alone, in every order of
/// passes, with kept prefixes and without, at every degree.
#[test]
fn adapters_on_one_base_give_the_scores_of_peft_and_the_bits_of_each_alone() {
    for base in ["base/llama", "base/qwen2"] {
        let folders: Vec<PathBuf> = adapters().into_iter().filter(|folder| base_of(folder).ends_with(base)).collect();
        let references: Vec<Reference> = folders.iter().map(|folder| reference(folder)).collect();
        let mut engines = together(&folders, 1);
        let mut first = Vec::new();
        for ((engine, reference), folder) in engines.iter_mut().zip(&references).zip(&folders) {
            let table = score(engine, reference);
            compare(folder, &table, reference);
            first.push(bits(&table));
        }
        for (i, (engine, reference)) in engines.iter_mut().zip(&references).enumerate().rev() {
            let again = score(engine, reference);
            assert!(again.reused() > 0, "{}: its prefixes are kept", folders[i].display());
            assert_eq!(bits(&again), first[i], "{}, again", folders[i].display());
            let alone = score(&mut together(&folders[i..=i], 1)[0], reference);
            assert_eq!(bits(&alone), first[i], "{}, alone", folders[i].display());
        }
        for tp in [2, 4] {
            for (i, engine) in together(&folders, tp).iter_mut().enumerate() {
                assert_eq!(bits(&score(engine, &references[i])), first[i], "{}, tp {tp}", folders[i].display());
            }
        }
    }
}

/// Who loads one model of several does not get another one.
#[test]
fn several_adapters_are_no_single_model() {
    let adapter = |name: &str| NamedAdapter { name: name.into(), folder: fixtures().join(name) };
    let base = base_of(&fixtures().join("dora"));
    let config = |adapters| Config { adapters, ..config(Path::new(&base), 1) };
    let message = ModelEngine::load(&config(vec![adapter("dora"), adapter("grown")])).err().unwrap().to_string();
    assert!(message.contains("dora, grown are several models"), "{message}");
    assert!(load(&config(vec![adapter("dora")])).card().model_version.starts_with("dora@"));
}

/// Each has a version of its own, which is not that of the adapter merged: its numbers are rounded otherwise.
#[test]
fn each_adapter_is_a_model_of_its_own_name_and_version() {
    let folders = [fixtures().join("dora"), fixtures().join("grown")];
    let mut versions: Vec<String> =
        together(&folders, 1).iter().map(|engine| engine.card().model_version.to_string()).collect();
    assert!(versions[0].starts_with("dora@") && versions[1].starts_with("grown@"), "{versions:?}");
    versions.extend(folders.iter().map(|folder| load(&config(folder, 1)).card().model_version.to_string()));
    let distinct: std::collections::BTreeSet<_> = versions.iter().collect();
    assert_eq!(distinct.len(), 4, "{versions:?}");
}

#[test]
fn names_that_tell_no_models_apart_are_refused() {
    let adapter = |name: &str| NamedAdapter { name: name.into(), folder: fixtures().join("dora") };
    let base = base_of(&fixtures().join("dora"));
    for (adapters, head, says) in [
        (vec![adapter("a"), adapter("a")], None, "two are called \"a\""),
        (vec![adapter("")], None, "needs a name"),
        (vec![adapter("a")], Some("head.safetensors".into()), "--head"),
    ] {
        let config = Config { adapters, head, ..config(Path::new(&base), 1) };
        let message = ModelEngine::load_adapters(&config).err().unwrap().to_string();
        assert!(message.contains(says), "{message}");
    }
}
