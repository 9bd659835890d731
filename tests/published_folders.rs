//! Configurations and folders as they are published: fields without effect, labels that are no names, indexes that list too much,
//! contexts that a rope extends. Each loads as the plain folder does, to the last bit, or says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::Engine;
use reward_sidecar::model::{Config, ModelEngine, ModelError};
use serde_json::{Value, json};

/// A copy of a fixture in Hugging Face's layout.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(name)
}

/// Changes a JSON file.
fn change(file: &Path, by: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    by(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

fn config(folder: &Path) -> Config {
    Config { model: folder.to_str().unwrap().into(), threads: 2, ..Config::default() }
}

fn load(folder: &Path) -> Result<ModelEngine, ModelError> {
    ModelEngine::load(&config(folder))
}

/// The bits of the first outputs of a sequence.
fn bits(engine: &mut ModelEngine) -> Vec<u32> {
    let table = engine.score(&MicroBatch::pack(&[vec![3_u32, 1, 4, 1, 5]], true)).unwrap();
    table.row(0).unwrap().iter().map(|score| score.to_bits()).collect()
}

/// A fixture, changed, has the bits of the fixture as it is.
#[track_caller]
fn same(name: &str, by: impl FnOnce(&Path)) -> ModelEngine {
    let folder = copy(name);
    by(folder.path());
    let mut changed = load(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(bits(&mut changed), bits(&mut load(&fixture(name)).unwrap()));
    changed
}

/// Published indexes list `lm_head.weight` of tied models, and multi-token heads that were left out.
#[test]
fn an_index_may_list_what_no_shard_holds_and_nobody_needs() {
    let list = |tensor: &'static str, shard: &'static str| {
        move |folder: &Path| {
            change(&folder.join("model.safetensors.index.json"), |index| index["weight_map"][tensor] = shard.into());
        }
    };
    same("llama3-sharded", list("mtp.fc.weight", "model-00002-of-00004.safetensors"));
    same("llama3-sharded", list("lm_head.weight", "model-00004-of-00004.safetensors"));
    // What is needed is not made up.
    let folder = copy("llama3-sharded");
    change(&folder.path().join("model.safetensors.index.json"), |index| {
        let shard = index["weight_map"]["model.norm.weight"].take();
        let other = ["model-00001-of-00004.safetensors", "model-00004-of-00004.safetensors"];
        index["weight_map"]["model.norm.weight"] = other.into_iter().find(|name| shard != **name).unwrap().into();
    });
    let message = load(folder.path()).err().unwrap().to_string();
    assert!(message.contains("model.norm.weight"), "{message}");
}

/// Data sets label their classes by numbers, and trainers leave one name on all of them.
#[test]
fn labels_that_name_nothing_become_numbers() {
    let labels = |labels: Value| {
        let engine = same("llama-head-bias-bf16", |folder| {
            change(&folder.join("config.json"), |config| config["id2label"] = labels);
        });
        engine.card().attributes.clone()
    };
    let each =
        |label: fn(usize) -> Value| (0..9).map(|id| (id.to_string(), label(id))).collect::<serde_json::Map<_, _>>();
    let numbered: Vec<_> = (0..9).map(|id| format!("LABEL_{id}")).collect();
    assert_eq!(labels(each(|id| json!(id)).into()), (0..9).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(labels(each(|_| json!("good")).into()), numbered);
    assert_eq!(labels(each(|_| json!("")).into()), numbered);
}

/// Fields that transformers' class does not declare have no effect there: the first stands in Falcon 3's configurations, the
/// second in those of sentence-transformers.
#[test]
fn fields_without_effect_pass_and_others_can_be_left_out() {
    let set = |field: &'static str, value: Value| {
        move |folder: &Path| change(&folder.join("config.json"), |config| config[field] = value)
    };
    same("bf16-single", set("activation", "swiglu".into()));
    same("bf16-single", set("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity".into()));
    same("bf16-single", set("residual_multiplier", 0.5.into()));
    // A class that is not transformers' own may mean anything by a field.
    let folder = copy("ultrarm");
    set("logit_scale", 0.5.into())(folder.path());
    let message = load(folder.path()).err().unwrap().to_string();
    assert!(message.contains("logit_scale") && message.contains("--ignore-fields logit_scale"), "{message}");
    let ignoring = Config { ignore_fields: vec!["logit_scale".into()], ..config(folder.path()) };
    let mut left_out = ModelEngine::load(&ignoring).unwrap();
    let mut plain = load(&fixture("ultrarm")).unwrap();
    assert_eq!(bits(&mut left_out), bits(&mut plain));
    assert_eq!(left_out.report().ignored_settings, ["logit_scale"]);
    let version = |engine: &ModelEngine| engine.card().model_version.split('@').nth(1).unwrap().to_owned();
    assert_ne!(version(&left_out), version(&plain));
}

/// vLLM and transformers score what YaRN extends the context to, whatever the field says.
#[test]
fn yarn_extends_the_context() {
    let plain = load(&fixture("qwen2-yarn")).unwrap();
    let configuration: Value =
        serde_json::from_slice(&fs::read(fixture("qwen2-yarn").join("config.json")).unwrap()).unwrap();
    let rope = ["rope_parameters", "rope_scaling"].into_iter().find_map(|name| configuration.get(name)).unwrap();
    let extended = rope["factor"].as_f64().unwrap() * rope["original_max_position_embeddings"].as_f64().unwrap();
    let stated = configuration["max_position_embeddings"].as_f64().unwrap();
    assert_eq!(f64::from(plain.card().context_tokens), extended.max(stated));
    let shorter = same("qwen2-yarn", |folder| {
        change(&folder.join("config.json"), |config| {
            let rope =
                ["rope_parameters", "rope_scaling"].into_iter().find(|name| config.get(*name).is_some()).unwrap();
            config["max_position_embeddings"] = config[rope]["original_max_position_embeddings"].clone();
        });
    });
    assert_eq!(f64::from(shorter.card().context_tokens), extended);
}

/// A fixture with its head under another name and another architecture in its configuration.
fn renamed(name: &str, head: &str, new_head: &str, architecture: &str) -> tempfile::TempDir {
    let folder = copy(name);
    let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let names = |tensor: &str| if tensor == head { new_head.to_owned() } else { tensor.to_owned() };
    let tensors: Vec<_> = tensors.iter().map(|(tensor, view)| (names(tensor), view)).collect();
    assert!(tensors.iter().any(|(tensor, _)| tensor == new_head), "{name} has no {head}");
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    change(&folder.path().join("config.json"), |config| config["architectures"] = json!([architecture]));
    folder
}

/// Models whose class is a body that we have and a head of one matrix: each is known, and scores as the twin whose numbers are
/// transformers' or the transcribed class'.
#[test]
fn heads_under_other_names_are_known_and_read_as_their_twins() {
    for (preset, twin, head, new_head, architecture) in [
        ("ziya", "ultrarm", "regression_head.weight", "value_head.weight", "LlamaRewardModel"),
        ("starling-34b", "ultrarm", "regression_head.weight", "v_head.weight", "LlamaForSequenceClassification"),
        ("eurus-rm", "mistral-no-window", "score.weight", "regression_head.weight", "EurusRewardModel"),
        ("athene", "ultrarm", "regression_head.weight", "v_head.weight", "CustomAutoModelForSequenceClassification"),
    ] {
        let folder = renamed(twin, head, new_head, architecture);
        // The token of Athene's own, by another id in a small vocabulary.
        let own = "name = 'own'\npreset = 'athene'\n[read]\nappend = 5\n";
        let mut config = config(folder.path());
        if preset == "athene" {
            let message = load(folder.path()).err().unwrap().to_string();
            assert!(message.contains("token 128003, as preset athene says"), "{message}");
            fs::write(folder.path().join("own.toml"), own).unwrap();
            config.preset = folder.path().join("own.toml").to_str().unwrap().into();
        }
        let mut engine = ModelEngine::load(&config).unwrap_or_else(|e| panic!("{preset}: {e}"));
        let report = engine.report().preset.unwrap();
        let expected = if preset == "athene" { "own" } else { preset };
        assert_eq!(report.name, expected);
        assert_eq!(engine.card().reads.append, (preset == "athene").then_some(5));
        assert_eq!(engine.card().reads.ends_before, (preset == "starling-34b").then_some(0));
        assert_eq!(bits(&mut engine), bits(&mut load(&fixture(twin)).unwrap()), "{preset}");
    }
}
