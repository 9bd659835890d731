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
        assert_eq!(card.reads.append, None, "what stands before it in the template cannot be appended with it");
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

/// transformers reads a model for sequence classification at the last token that is not padding.
#[test]
fn padding_at_the_end_is_passed_over_where_transformers_does() {
    let skip = |folder: &Path, preset: &str| {
        let config = Config { preset: preset.into(), ..config(folder) };
        load(&config).card().reads.skip
    };
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("hf/bf16-single")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    assert_eq!(skip(folder.path(), "auto"), None);
    let path = folder.path().join("config.json");
    let mut settings: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (padding, skipped) in [(5, Some(5)), (400, None)] {
        settings["pad_token_id"] = padding.into();
        fs::write(&path, settings.to_string()).unwrap();
        assert_eq!(skip(folder.path(), "auto"), skipped);
    }
    settings["pad_token_id"] = 5.into();
    fs::write(&path, settings.to_string()).unwrap();
    let preset = folder.path().join("mine.toml");
    for (text, skipped) in [("skip = false", None), ("skip = 7", Some(7)), ("at = 'last-token'", Some(5))] {
        fs::write(&preset, format!("name = 'mine'\n[read]\n{text}\n")).unwrap();
        assert_eq!(skip(folder.path(), preset.to_str().unwrap()), skipped, "{text}");
    }
}
/// A copy of a folder, and of those in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(from, to).unwrap()),
        }
    }
}

/// One folder has the adapter's weights and the text that it was trained with, whoever names it.
#[test]
fn the_text_beside_an_adapter_goes_with_its_weights() {
    let base = fixture("hf/llama-biases");
    let folder = tempfile::tempdir().unwrap();
    let adapter = |name: &str| {
        let path = folder.path().join(name);
        copy(&fixture("adapter/llama"), &path);
        let file = path.join("adapter_config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["base_model_name_or_path"] = base.to_str().unwrap().into();
        fs::write(file, config.to_string()).unwrap();
        path
    };
    let (x, y, bare) = (adapter("x"), adapter("y"), adapter("bare"));
    for (path, name) in [(&x, "X"), (&y, "Y")] {
        let config = format!(r#"{{"chat_template": "{name}", "bos_token": "<{name}>"}}"#);
        fs::write(path.join("tokenizer_config.json"), config).unwrap();
        let vocabulary = format!(
            r#"{{"version": "1.0", "model": {{"type": "WordLevel", "vocab": {{"{name}": 0}}, "unk_token": "{name}"}}}}"#
        );
        fs::write(path.join("tokenizer.json"), vocabulary).unwrap();
    }
    let manifest = folder.path().join("reward-model.toml");
    fs::write(&manifest, format!("name = 'm'\n[base]\npath = '{}'\n[adapter]\npath = 'x'\n", base.display())).unwrap();
    let version = |engine: &ModelEngine| engine.card().model_version.split('@').nth(1).unwrap().to_owned();
    let by_folder = load(&config(&y));
    assert_eq!(by_folder.card().text.chat_template.as_deref(), Some("Y"));
    assert_eq!(by_folder.card().text.template_variables["bos_token"], "<Y>");
    for by_flag in [config(&base), config(&manifest)] {
        let by_flag = load(&Config { adapter: Some(y.clone()), ..by_flag });
        assert_eq!(by_flag.card().text, by_folder.card().text);
        assert_eq!(version(&by_flag), version(&by_folder));
    }
    assert_eq!(load(&config(&manifest)).card().text.chat_template.as_deref(), Some("X"));
    // Only what lies there: a template alone leaves the base's tokenizer as it is, and nothing leaves everything.
    fs::write(bare.join("chat_template.jinja"), "B").unwrap();
    let text = load(&config(&bare)).card().text.clone();
    assert_eq!((text.chat_template.as_deref(), text.tokenizer_json), (Some("B"), None));
}

/// A manifest's own file, whatever folder the program runs in.
#[test]
fn a_manifest_names_a_preset_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = fixture("hf/llama-head-bias-bf16");
    fs::write(folder.path().join("mine.toml"), "name = 'mine'\npreset = 'llama3-70b-steerlm-rm'\n").unwrap();
    let manifest = format!("name = 'm'\npreset = 'mine.toml'\n[base]\npath = '{}'\n", base.display());
    fs::write(folder.path().join("reward-model.toml"), manifest).unwrap();
    assert_eq!(load(&config(folder.path())).card().attributes, TRAINED);
}

/// NeMo's head may make one reward of its attributes itself: by weights that count where nobody says others.
#[test]
fn the_weights_of_a_head_that_merges_attributes_are_the_default() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("nemo/nemotron-tp2"), folder.path());
    let path = folder.path().join("model_config.yaml");
    let original = fs::read_to_string(&path).unwrap();
    let merge = |weights: &str| {
        let merged = original.replace("merge_attributes: false", "merge_attributes: true");
        fs::write(&path, merged.replace("attribute_weights: null", &format!("attribute_weights: {weights}"))).unwrap();
    };
    let here = config(folder.path());
    let refused = |config: &Config| ModelEngine::load(config).err().unwrap().to_string();
    merge("[0, 0, 0, 0, 0.5, 0.25, 0, 0, -1]");
    let engine = load(&here);
    let card = engine.card();
    assert_eq!(card.default_weighting.as_deref(), Some("merged"));
    let weights: Vec<_> = card.weightings["merged"].iter().map(|(name, weight)| (&**name, *weight)).collect();
    assert_eq!(weights, [("correctness", 0.25), ("helpfulness", 0.5), ("verbosity", -1.0)]);
    // Who names a preset has said what counts.
    let asked = Config { preset: "nemotron-4-340b-reward".into(), ..here.clone() };
    assert_eq!(load(&asked).card().default_weighting.as_deref(), Some("card"));
    let plain = Config { preset: "none".into(), ..here.clone() };
    assert_eq!(load(&plain).card().weightings["merged"]["LABEL_5"], 0.25);
    // Without weights all count alike, those that were never trained, too.
    merge("null");
    assert!(refused(&here).contains("quality, which was never trained"), "{}", refused(&here));
    let all = load(&Config { untrained_attributes: true, ..here.clone() });
    assert!(all.card().weightings["merged"].values().all(|weight| *weight == 1.0 / 9.0));
    merge("[1, 2]");
    assert!(refused(&here).contains("regression.attribute_weights = [1,2]"), "{}", refused(&here));
}

/// What a preset takes out of completions makes rewards, so that it makes versions; a rollout may say otherwise.
#[test]
fn a_preset_that_takes_thinking_out_is_another_version() {
    let base = fixture("hf/llama-biases");
    let folder = tempfile::tempdir().unwrap();
    copy(&base, folder.path());
    let manifest = |keys: &str| {
        let text = format!("name = 'm'\n{keys}\n[base]\npath = '{}'\n", base.display());
        fs::write(folder.path().join("reward-model.toml"), text).unwrap();
        ModelEngine::load(&config(&folder.path().join("reward-model.toml")))
    };
    // Marks are text, and this model has none.
    let reason = manifest("answer_only = true").err().unwrap().to_string();
    assert!(reason.contains("reward-model.toml") && reason.contains("answer_only"), "{reason}");

    let base = folder.path().join("with-tokenizer");
    copy(&fixture("hf/llama-biases"), &base);
    let vocabulary = r#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    fs::write(base.join("tokenizer.json"), vocabulary).unwrap();
    let manifest = |keys: &str| {
        let text = format!("name = 'm'\n{keys}\n[base]\npath = '{}'\n", base.display());
        fs::write(folder.path().join("reward-model.toml"), text).unwrap();
        load(&config(&folder.path().join("reward-model.toml")))
    };
    let own = manifest("answer_only = true");
    let other = manifest("answer_only = { open = '[THINK]', close = '[/THINK]' }");
    let (without, off) = (manifest(""), manifest("answer_only = false"));
    let version = |engine: &ModelEngine| engine.card().model_version.to_string();
    assert_eq!(version(&without), version(&off));
    assert_eq!(without.card().text.answer_only, None);
    let all: std::collections::BTreeSet<_> = [&own, &other, &without].map(version).into();
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(
        other.report().answer_only.map(|wish| (wish.open, wish.close)),
        Some(("[THINK]".into(), "[/THINK]".into()))
    );
    // A manifest counts over the preset that it builds on.
    fs::write(folder.path().join("mine.toml"), "name = 'mine'\nanswer_only = true\n").unwrap();
    assert_eq!(version(&manifest("preset = 'mine.toml'")), version(&own));
    assert_eq!(version(&manifest("preset = 'mine.toml'\nanswer_only = false")), version(&without));
    let half = ModelEngine::load(&{
        fs::write(folder.path().join("mine.toml"), "name = 'mine'\nanswer_only = { open = 'x' }\n").unwrap();
        config(&folder.path().join("reward-model.toml"))
    });
    let reason = half.err().unwrap().to_string();
    assert!(reason.contains("mine.toml") && reason.contains("give both open and close"), "{reason}");
}
