//! Presets from the outside: found by a model's files, asked for by name or file, overridden by a manifest, and said by
//! the report.

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{Bos, Engine};
use reward_sidecar::model::{Config, ModelEngine, Report};

#[derive(serde::Deserialize)]
struct Reference {
    labels: Vec<String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    scores: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn reference(name: &str) -> Reference {
    serde_json::from_slice(&fs::read(fixture(name).join("reference.json")).unwrap()).unwrap()
}

fn config(model: &Path) -> Config {
    Config { model: model.to_str().unwrap().into(), threads: 2, ..Config::default() }
}

#[track_caller]
fn load(config: &Config) -> ModelEngine {
    ModelEngine::load(config).unwrap_or_else(|e| panic!("{e}"))
}

/// The scores of the reference's sequences, each within 1e-4 of the columns `rows` of it.
#[track_caller]
fn compare(engine: &mut ModelEngine, reference: &Reference, rows: &[usize]) {
    for case in &reference.cases {
        let table = engine.score(&MicroBatch::pack(&[&case.input_ids], true)).unwrap();
        assert_eq!(table.columns(), rows.len());
        for (score, &row) in table.row(0).unwrap().iter().zip(rows) {
            let expected = case.scores[row];
            assert!((score - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{score}, expected {expected}");
        }
    }
}

const TRAINED: [&str; 5] = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"];

#[test]
fn the_reference_model_is_known_by_its_checkpoint() {
    let reference = reference("nemo/nemotron-tp2");
    for form in ["nemo/nemotron-tp2", "nemo/nemotron-tp2.nemo"] {
        let mut engine = load(&config(&fixture(form)));
        let card = engine.card().clone();
        assert_eq!(card.attributes, TRAINED);
        assert_eq!(card.default_weighting.as_deref(), Some("card"));
        assert_eq!(card.weightings["card"].values().copied().collect::<Vec<_>>(), [0.46, 0.47, 0.74, 0.3, -0.33]);
        assert_eq!(card.text.bos, Bos::Never);
        assert!(card.text.chat_template.as_ref().unwrap().contains("<extra_id_2>"));
        assert!(card.reads.ends_with.is_some(), "the read is at a token of the model's own tokenizer");
        compare(&mut engine, &reference, &[4, 5, 6, 7, 8]);
        let Report { preset, head_parameters, shape, .. } = engine.report();
        let preset = preset.unwrap();
        assert_eq!(preset.name, "nemotron-4-340b-reward");
        assert!(preset.why.contains("NemotronForSequenceClassification"), "{}", preset.why);
        assert!(preset.unverified.iter().any(|sentence| sentence.contains("217")));
        assert_eq!(head_parameters, 5 * (shape.hidden + 1), "untrained rows are not even read");
    }
}

#[test]
fn untrained_outputs_are_there_for_the_asking() {
    let reference = reference("nemo/nemotron-tp2");
    let folder = fixture("nemo/nemotron-tp2");
    let mut engine = load(&Config { untrained_attributes: true, ..config(&folder) });
    assert_eq!(engine.card().attributes, reference.labels);
    compare(&mut engine, &reference, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    // As the files stand: no names, no weighting, no template.
    let engine = load(&Config { preset: "none".into(), ..config(&folder) });
    assert_eq!((engine.card().attributes.len(), &engine.card().attributes[0][..]), (9, "LABEL_0"));
    assert!(engine.card().weightings.is_empty() && engine.card().text.chat_template.is_none());
    assert_eq!((engine.report().preset, engine.card().text.bos), (None, Bos::AsTokenizer));
}

#[test]
fn a_preset_can_be_asked_for() {
    let reference = reference("hf/llama-head-bias-bf16");
    let folder = fixture("hf/llama-head-bias-bf16");
    let plain = load(&config(&folder));
    assert_eq!((plain.report().preset, plain.card().attributes.len()), (None, 9));
    let mut engine = load(&Config { preset: "llama3-70b-steerlm-rm".into(), ..config(&folder) });
    assert_eq!(engine.card().attributes, TRAINED);
    assert_eq!(engine.card().weightings["card"]["helpfulness"], 0.65);
    compare(&mut engine, &reference, &[4, 5, 6, 7, 8]);
    assert_eq!(engine.report().preset.unwrap().why, "asked for");
    assert_ne!(plain.card().model_version, engine.card().model_version);

    // A file of the user's own, over one in the program.
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("own.toml");
    let text = "name = 'own'\npreset = 'llama3-70b-steerlm-rm'\ndefault_weighting = 'mine'\nchat_template = 'T'\n\
                [weightings.mine]\nverbosity = -1.0\n[read]\nappend = 5\n";
    fs::write(&path, text).unwrap();
    let engine = load(&Config { preset: path.to_str().unwrap().into(), ..config(&folder) });
    assert_eq!(engine.card().attributes, TRAINED);
    assert_eq!(engine.card().weightings.keys().collect::<Vec<_>>(), ["card", "mine"]);
    assert_eq!(engine.card().default_weighting.as_deref(), Some("mine"));
    assert_eq!((engine.card().reads.append, engine.card().text.chat_template.as_deref()), (Some(5), Some("T")));
    let preset = engine.report().preset.unwrap();
    assert_eq!(preset.name, "own");
    assert_eq!(preset.unverified.len(), 3, "what the other could not verify is not verified by building on it");
}

/// A manifest beside the weights says how they are to be used.
#[test]
fn a_manifest_overrides_each_part() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("hf/llama-head-bias-bf16")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let write = |text: &str| fs::write(folder.path().join("reward-model.toml"), text).unwrap();
    let version = |config: &Config| load(config).card().model_version.to_string();
    let config = config(folder.path());
    write("name = 'mine'\npreset = 'llama3-70b-steerlm-rm'\n");
    let named = load(&config);
    assert_eq!((&named.card().name[..], &named.card().attributes[..]), ("mine", &TRAINED.map(String::from)[..]));
    assert_eq!(named.report().preset.unwrap().why, "named by the manifest");
    let original = version(&config);
    assert!(original.starts_with("mine@"));
    // Everything that makes numbers, or the tokens they are made of, makes another version.
    for part in
        ["bos = 'never'", "chat_template = 'T'", "[read]\nappend = 3", "[head]\noutputs = 9\nrows = [4, 3, 2, 1, 0]"]
    {
        write(&format!("name = 'mine'\npreset = 'llama3-70b-steerlm-rm'\n{part}\n"));
        match part.contains("rows") {
            // The preset has said already which rows count.
            true => assert!(ModelEngine::load(&config).err().unwrap().to_string().contains("untrained")),
            false => assert_ne!(version(&config), original, "{part}"),
        }
    }
    write("name = 'mine'\npreset = 'llama3-70b-steerlm-rm'\nattributes = ['a']\n[head]\nrows = [7]\n");
    let mut engine = load(&config);
    compare(&mut engine, &reference("hf/llama-head-bias-bf16"), &[7]);
    assert_eq!(engine.card().weightings["default"]["a"], 1.0, "of a single attribute");
    // A manifest that is alone says nothing of weights.
    let alone = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join("reward-model.toml"), alone.path().join("reward-model.toml")).unwrap();
    let message = ModelEngine::load(&Config { model: alone.path().to_str().unwrap().into(), ..config.clone() });
    assert!(message.err().unwrap().to_string().contains("no [base]"));
    // The flag comes before the file.
    write("name = 'mine'\npreset = 'armorm'\n");
    assert_eq!(load(&Config { preset: "none".into(), ..config.clone() }).card().attributes.len(), 9);
    assert!(ModelEngine::load(&config).is_err());
}

#[test]
fn a_head_apart_from_a_gguf_file() {
    for name in ["gguf/llama3-f16", "gguf/llama-q8_0"] {
        let (folder, reference) = (fixture(name), reference(name));
        let model = folder.join("model.gguf");
        let message = ModelEngine::load(&config(&model)).err().unwrap().to_string();
        assert!(message.contains("score.weight") && message.contains("--head FILE"), "{message}");
        let mut engine = load(&Config { head: Some(folder.join("head.safetensors")), ..config(&model) });
        compare(&mut engine, &reference, &(0..reference.labels.len()).collect::<Vec<_>>());
        assert_eq!(engine.card().name, "model");
        assert!(engine.report().files.contains(&folder.join("head.safetensors")));
    }
}

/// Adapters and the folders that they are for.
const ADAPTERS: [(&str, &str); 4] = [
    ("adapter/llama", "hf/llama-biases"),
    ("adapter/qwen3-rslora-bin", "hf/qwen3-bf16"),
    ("adapter/nemotron-patterns", "hf/nemotron-kv8-bf16"),
    ("adapter/internlm2", "hf/internlm2-biases-bf16"),
];

#[test]
fn an_adapter_is_merged_whoever_names_it() {
    for (name, base) in ADAPTERS {
        let (folder, base, reference) = (fixture(name), fixture(base), reference(name));
        let all: Vec<_> = (0..reference.labels.len()).collect();
        let mut named = load(&Config { adapter: Some(folder.clone()), ..config(&base) });
        compare(&mut named, &reference, &all);
        assert!(named.report().files.contains(&folder.join("adapter_config.json")), "{name}");
        let manifests = tempfile::tempdir().unwrap();
        let text =
            format!("name = 'm'\n[base]\npath = '{}'\n[adapter]\npath = '{}'\n", base.display(), folder.display());
        fs::write(manifests.path().join("reward-model.toml"), text).unwrap();
        let mut composed = load(&config(manifests.path()));
        compare(&mut composed, &reference, &all);
        let version = |engine: &ModelEngine| engine.card().model_version.split('@').nth(1).unwrap().to_owned();
        assert_eq!(version(&named), version(&composed), "{name}");
        assert_ne!(version(&named), version(&load(&config(&base))), "{name}");
    }
}
