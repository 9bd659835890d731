//! Folders in Hugging Face layout against scores that transformers computed in float32, and what is said of folders
//! that cannot be loaded.
//!
//! The folders in `tests/fixtures/hf` come from `tools/make_fixtures.py`; more of its making are tried when
//! `MORE_FIXTURES` names a folder of them.

#[path = "common/reference.rs"]
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{Engine, ScoreTable};
use reward_sidecar::model::{Config, DeviceChoice, ModelEngine, ModelError, Precision};
use serde_json::{Value, json};

use reference::bits;

/// What transformers said; `reference.json` in each folder.
#[derive(serde::Deserialize)]
struct Reference {
    labels: Vec<String>,
    /// What kind of head it is, where it is not a plain matrix; `tests/heads` looks at those.
    head: Option<String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    #[serde(default)]
    scores: Vec<f32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf")
}

fn load(folder: &Path) -> Result<ModelEngine, ModelError> {
    load_on(folder, 1)
}

fn load_on(folder: &Path, tp: usize) -> Result<ModelEngine, ModelError> {
    load_to(folder, tp, DeviceChoice::Cpu)
}

/// With the tensor operations that GPUs run, in float32.
fn load_tensors(folder: &Path, tp: usize) -> ModelEngine {
    load_to(folder, tp, DeviceChoice::CpuTensors(Precision::F32)).unwrap_or_else(|e| panic!("{e}"))
}

fn load_to(folder: &Path, tp: usize, device: DeviceChoice) -> Result<ModelEngine, ModelError> {
    let nowhere = PathBuf::from("/nonexistent");
    let model = folder.to_str().unwrap().into();
    ModelEngine::load(&Config { model, tp, device, threads: 2, cache_dir: nowhere, ..Config::default() })
}

/// The folders with a plain head, and what transformers said of them.
fn references() -> Vec<(PathBuf, Reference)> {
    #[allow(clippy::disallowed_methods, reason = "not a setting of the sidecar: it names more fixtures for this test")]
    let more = std::env::var_os("MORE_FIXTURES").map(PathBuf::from);
    let folders = [Some(fixtures()), more].into_iter().flatten().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let read = |folder: PathBuf| {
        let reference = fs::read(folder.join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&reference).unwrap();
        reference.head.is_none().then_some((folder, reference))
    };
    folders.into_iter().filter_map(read).collect()
}

/// The same, of models that tensor operations compute: all but those with the gated delta rule.
fn references_of_tensors() -> Vec<(PathBuf, Reference)> {
    let is_delta = |folder: &Path| folder.file_name().unwrap().display().to_string().starts_with("qwen3.5");
    references().into_iter().filter(|(folder, _)| !is_delta(folder)).collect()
}

/// The largest difference, in units of max(1, |expected|).
fn difference<'a>(table: &ScoreTable, expected: impl Iterator<Item = &'a [f32]>) -> f32 {
    let rows = (0..table.rows()).map(|i| table.row(i).unwrap()).zip(expected);
    let each = rows.flat_map(|(scores, expected)| scores.iter().zip(expected));
    each.map(|(score, expected)| (score - expected).abs() / expected.abs().max(1.0))
        .fold(0.0, |worst, difference| if difference.is_nan() { f32::INFINITY } else { worst.max(difference) })
}

#[test]
fn scores_are_those_of_transformers() {
    let references = references();
    for (folder, reference) in &references {
        let mut engine = load(folder).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(engine.card().attributes, reference.labels, "{}", folder.display());
        let rollouts: Vec<&[u32]> = reference.cases.iter().map(|c| &c.input_ids[..]).collect();
        let table = engine.score(&MicroBatch::pack(&rollouts, true)).unwrap();
        let worst = difference(&table, reference.cases.iter().map(|c| &c.scores[..]));
        let name = folder.file_name().unwrap().display();
        println!("{name}: largest difference {worst:.2e} of max(1, |score|)");
        // The promise; float32 in another order of summation stays well inside.
        assert!(worst <= 1e-4, "{name}: {worst:e}");
        for (together, case) in bits(&table).iter().zip(&reference.cases) {
            let alone = engine.score(&MicroBatch::pack(&[&case.input_ids], true)).unwrap();
            assert_eq!(&bits(&alone)[0], together, "{name}: alone");
        }
    }
    assert!(references.len() >= 30);
}

/// Every architecture at every degree that its heads allow, up to 8: not near, but the same bits, for the ranks finish the
/// dot products of one rank alone in its order.
#[test]
fn ranks_together_say_what_one_says_alone() {
    let mut tried = std::collections::BTreeMap::new();
    for (folder, reference) in references() {
        let name = folder.file_name().unwrap().display().to_string();
        let rollouts: Vec<&[u32]> = reference.cases.iter().map(|c| &c.input_ids[..]).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        let mut whole = load(&folder).unwrap();
        let alone = bits(&whole.score(&batch).unwrap());
        for tp in whole.report().degrees.into_iter().filter(|tp| (2..=8).contains(tp)) {
            let mut ranks = load_on(&folder, tp).unwrap();
            assert_eq!(ranks.card().model_version, whole.card().model_version);
            assert_eq!(bits(&ranks.score(&batch).unwrap()), alone, "{name}, tp {tp}");
            let apart = ranks.score(&MicroBatch::pack(&rollouts, false)).unwrap();
            assert_eq!(bits(&apart), alone, "{name}, tp {tp}: without sharing");
            *tried.entry(tp).or_insert(0) += 1;
        }
    }
    println!("degrees tried: {tried:?}");
    assert!([2, 3, 4, 8].iter().all(|tp| tried.contains_key(tp)));
}

/// What GPUs will run, on the CPU: not the kernels' bits, but transformers' numbers, however rollouts are packed.
#[test]
fn tensor_operations_say_what_transformers_says() {
    let references = references_of_tensors();
    for (folder, reference) in &references {
        let mut engine = load_tensors(folder, 1);
        assert!(engine.card().model_version.ends_with("-f32-tensors"), "{}", engine.card().model_version);
        let rollouts: Vec<&[u32]> = reference.cases.iter().map(|c| &c.input_ids[..]).collect();
        for share in [true, false] {
            let table = engine.score(&MicroBatch::pack(&rollouts, share)).unwrap();
            let worst = difference(&table, reference.cases.iter().map(|c| &c.scores[..]));
            assert!(worst <= 1e-4, "{}: {worst:e}", folder.display());
        }
    }
    assert!(references.len() >= 30);
}

/// Ranks that add up partial products round differently at each degree, and alike every time at one.
#[test]
fn ranks_of_tensors_agree_and_repeat_themselves() {
    let mut tried = std::collections::BTreeSet::new();
    for (folder, reference) in references_of_tensors() {
        let rollouts: Vec<&[u32]> = reference.cases.iter().map(|c| &c.input_ids[..]).collect();
        let batch = MicroBatch::pack(&rollouts, true);
        let mut whole = load_tensors(&folder, 1);
        let alone = whole.score(&batch).unwrap();
        // One of the fixtures amplifies any rounding: two float32 computations of it are further apart.
        let noise = difference(&alone, reference.cases.iter().map(|c| &c.scores[..])).max(1e-5);
        for tp in whole.report().degrees.into_iter().filter(|tp| (2..=8).contains(tp)) {
            let mut ranks = load_tensors(&folder, tp);
            assert!(ranks.card().model_version.ends_with(&format!("-f32-tensors-tp{tp}")));
            let together = ranks.score(&batch).unwrap();
            let worst = difference(&together, (0..alone.rows()).map(|i| alone.row(i).unwrap()));
            assert!(worst <= noise, "{}, tp {tp}: {worst:e}", folder.display());
            assert_eq!(bits(&ranks.score(&batch).unwrap()), bits(&together), "{}, tp {tp}", folder.display());
            tried.insert(tp);
        }
    }
    assert!([2, 3, 4, 8].iter().all(|tp| tried.contains(tp)));
}

#[test]
fn what_is_written_for_cpus_alone_says_so() {
    let error = load_to(&fixtures().join("qwen3.5"), 1, DeviceChoice::CpuTensors(Precision::F32)).err().unwrap();
    assert!(error.to_string().contains("for CPUs alone\nleave --device out"), "{error}");
}

/// Each rank takes its share of the matrices out of the files, and the norms, which all need.
#[test]
fn a_rank_reads_its_own_bytes_alone() {
    for (name, tp) in [("nemotron-kv8", 4), ("nemotron-kv8", 8), ("llama-tp24", 4), ("internlm2", 3), ("gemma2", 2)] {
        let folder = fixtures().join(name);
        let report = load(&folder).unwrap().report();
        let parts = report.parameters;
        assert_eq!(report.bytes_read_per_rank, [parts.total() as u64 * 4], "{name}: once, and all of it");
        let biases = |count: usize| 4 * count as u64;
        let sharded = biases(parts.embedding + parts.attention + parts.feed_forward);
        for read in load_on(&folder, tp).unwrap().report().bytes_read_per_rank {
            // What does not divide evenly goes to one rank or another: a row of the table and of each matrix.
            let shape = &report.shape;
            let uneven = biases(shape.hidden + shape.layers * 3 * shape.hidden);
            let most = sharded / tp as u64 + biases(parts.norms) + uneven;
            assert!(read <= most, "{name}, tp {tp}: {read} bytes, at most {most}");
        }
    }
}

#[test]
fn a_degree_that_does_not_divide_says_which_do() {
    let message = load_on(&fixtures().join("nemotron-kv8"), 3).err().unwrap().to_string();
    assert!(message.contains("tp is 3") && message.contains("possible: 1, 2, 4, 8, 16"), "{message}");
}

#[test]
fn only_a_single_output_has_a_weighting_by_itself() {
    let one = load(&fixtures().join("bf16-single")).unwrap();
    assert_eq!(one.card().weightings["default"]["LABEL_0"], 1.0);
    assert_eq!(one.card().default_weighting.as_deref(), Some("default"));
    let many = load(&fixtures().join("llama3-sharded")).unwrap();
    assert!(many.card().weightings.is_empty() && many.card().default_weighting.is_none());
    assert_eq!(many.card().text.tokenizer_json, None);
}

#[test]
fn the_version_follows_what_makes_the_numbers() {
    let original = load(&fixtures().join("bf16-single")).unwrap().card().model_version.clone();
    let versions = |change: &dyn Fn(&Path)| {
        let copy = Copy::of("bf16-single");
        change(&copy.path());
        load(&copy.path()).unwrap().card().model_version.clone()
    };
    assert_eq!(versions(&|_| ()), original);
    assert_eq!(versions(&|folder| fs::write(folder.join("README.md"), "words").unwrap()), original);
    assert_ne!(versions(&|folder| set(folder, "rms_norm_eps", json!(1e-5))), original);
    assert_ne!(versions(&|folder| fs::write(folder.join("chat_template.jinja"), "{{ messages }}").unwrap()), original);
    let named = |folder: &Path| {
        let named = folder.join("additional_chat_templates");
        fs::create_dir(&named).unwrap();
        fs::write(named.join("rag.jinja"), "{{ documents }}").unwrap();
    };
    assert_ne!(versions(&named), original);
    let dated = Config {
        model: fixtures().join("bf16-single").to_str().unwrap().into(),
        template_date: Some("2026-07-31".into()),
        ..Default::default()
    };
    assert_ne!(ModelEngine::load(&dated).unwrap().card().model_version, original);
    assert_ne!(
        versions(&|folder| {
            let path = folder.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        original
    );
}

#[test]
fn a_manifest_over_a_folder_gives_the_same_scores() {
    // The same weights, once as a reward model and once as base and head.
    let folder = fixtures().join("bf16-single");
    let manifests = tempfile::tempdir().unwrap();
    let text = format!(
        "name = 'composed'\nattributes = ['quality']\n[base]\npath = '{0}'\n[head]\nfile = '{0}/model.safetensors'\n",
        folder.display()
    );
    fs::write(manifests.path().join("reward-model.toml"), text).unwrap();
    let (mut plain, mut composed) = (load(&folder).unwrap(), load(manifests.path()).unwrap());
    assert_eq!(composed.card().attributes, ["quality"]);
    let batch = MicroBatch::pack(&[[1_u32, 2, 3], [1, 5, 8]], true);
    assert_eq!(plain.score(&batch).unwrap(), composed.score(&batch).unwrap());
    let report = serde_json::to_value(composed.report()).unwrap();
    assert_eq!((&report["head"]["kind"], &report["head_parameters"]), (&json!("linear"), &json!(42)));
    assert_eq!(report["reads"]["at"], "last-token");
    assert_eq!(report["files"].as_array().unwrap().len(), 4);
}

/// A fixture to be spoilt.
struct Copy {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Copy {
    fn of(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copy = Self { folder, name };
        fs::create_dir(copy.path()).unwrap();
        for entry in fs::read_dir(fixtures().join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        copy
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }
}

fn set(folder: &Path, field: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// Loads a spoilt fixture; the message must hold every word.
#[track_caller]
fn refused(name: &'static str, spoil: impl FnOnce(&Path), words: &[&str]) {
    let copy = Copy::of(name);
    spoil(&copy.path());
    let Err(error) = load(&copy.path()) else { panic!("loaded, though {words:?}") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

#[test]
fn unusable_folders_say_why() {
    let (single, sharded) = ("bf16-single", "llama3-sharded");
    let remove = |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
    refused(single, remove("config.json"), &["config.json", "reward-model.toml", "FOLDER"]);
    refused(single, remove("model.safetensors"), &["no weights", "model.safetensors.index.json"]);
    refused(sharded, remove("model-00002-of-00004.safetensors"), &["cannot read", "model-00002-of-00004.safetensors"]);
    let cut = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 2]).unwrap();
    };
    refused(single, cut, &["model.safetensors", "not a readable safetensors file"]);
    refused(single, |f| fs::write(f.join("model.safetensors"), "").unwrap(), &["model.safetensors"]);
    refused(single, |f| fs::write(f.join("config.json"), "{\"hidden").unwrap(), &["config.json", "line 1"]);
    refused(single, |f| set(f, "architectures", json!(["GPT2Model"])), &["GPT2Model", "Llama, Mistral"]);
    let grown = [&["model.safetensors", "score.weight", "[1, 42]", "[1, 44]"][..], &["expected"]].concat();
    refused(single, |f| set(f, "hidden_size", json!(44)), &grown);
    refused(single, |f| set(f, "num_hidden_layers", json!(3)), &["model.safetensors", "model.layers.2."]);
    refused(single, |f| set(f, "id2label", json!({"0": "a", "1": "b"})), &["score.weight", "[1, 42]", "[2, 42]"]);
    refused(single, |f| set(f, "hidden_size", json!("42")), &["config.json", "hidden_size", "\"42\""]);
}

#[test]
fn what_would_change_the_numbers_is_not_ignored() {
    // transformers' own class reads none of these; one of the model's own may.
    let fields = [
        ("residual_multiplier", json!(0.5)),
        ("sliding_window", json!(64)),
        ("attn_logit_softcapping", json!(30.0)),
        ("activation", json!("swiglu")),
    ];
    let rollout = [3_u32, 1, 4];
    let score = |folder: &Path| bits(&load(folder).unwrap().score(&MicroBatch::pack(&[&rollout], true)).unwrap());
    for (field, value) in fields {
        let own = |folder: &Path| {
            set(folder, field, value.clone());
            set(folder, "auto_map", json!({"AutoModel": "modeling.Model"}));
        };
        refused("bf16-single", own, &["config.json", field, "not supported", "--ignore-fields"]);
        let folder = Copy::of("bf16-single");
        let plain = score(&folder.path());
        set(&folder.path(), field, value);
        assert_eq!(score(&folder.path()), plain, "{field}");
    }
    for (field, value) in [
        ("is_causal", json!(false)),
        ("pretraining_tp", json!(2)),
        ("hidden_act", json!("mish")),
        ("quantization_config", json!({"quant_method": "higgs"})),
    ] {
        refused("bf16-single", |folder| set(folder, field, value), &["config.json", field, "not supported"]);
    }
    let yarn = json!({"rope_type": "longrope", "factor": 2.0, "rope_theta": 10000.0});
    let words = ["rope_parameters.rope_type", "longrope", "yarn"];
    refused("bf16-single", |folder| set(folder, "rope_parameters", yarn), &words);
    let old = json!({"type": "su", "factor": 2.0});
    refused("bf16-single", |folder| set(folder, "rope_scaling", old), &["rope_scaling.type", "su"]);
    refused("bf16-single", |folder| set(folder, "attention_bias", json!(true)), &["q_proj.bias"]);
    let lacking = json!({"rope_type": "llama3", "factor": 2.0});
    refused("bf16-single", |folder| set(folder, "rope_parameters", lacking), &["rope_parameters.low_freq_factor"]);
}
