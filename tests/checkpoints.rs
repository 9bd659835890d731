//! Every checkpoint format gives the rewards of its twin in Hugging Face layout, and reads no more than a rank needs.
//!
//! The fixtures come from `tools/make_fixtures.py`.

#[path = "common/reference.rs"]
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{Engine, ScoreTable};
use reward_sidecar::model::{Config, ModelEngine};

use reference::{Reference, bits, compare, fixtures, reference};

fn fixture(name: &str) -> PathBuf {
    fixtures().join(name)
}

fn load(path: &Path, tp: usize) -> ModelEngine {
    // As the files stand: a preset would leave out outputs that were never trained.
    let (model, preset) = (path.to_str().unwrap().into(), "none".into());
    let config = Config { model, preset, tp, threads: 2, cache_dir: "/nonexistent".into(), ..Config::default() };
    ModelEngine::load(&config).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn score(engine: &mut ModelEngine, reference: &Reference) -> ScoreTable {
    let rollouts: Vec<&[u32]> = reference.cases.iter().map(|c| &c.input_ids[..]).collect();
    engine.score(&MicroBatch::pack(&rollouts, true)).unwrap()
}

/// Checkpoints and their twins in Hugging Face layout.
const TWINS: [(&str, &str); 9] = [
    ("nemo/nemotron-dist", "hf/nemotron-head-bias-bf16"),
    ("nemo/llama-nemo2", "hf/llama-head-bias-bf16"),
    ("nemo/nemotron-tp2", "hf/nemotron-head-bias-bf16"),
    ("nemo/nemotron-tp8", "hf/nemotron-head-bias-bf16"),
    ("nemo/nemotron-tp2.nemo", "hf/nemotron-head-bias-bf16"),
    ("nemo/llama-tp4", "hf/llama-head-bias-bf16"),
    ("bin/llama-f32", "hf/llama-rope-dynamic"),
    ("bin/nemotron-f16-sharded", "hf/nemotron-biases-f16"),
    ("bin/mistral-bf16-views", "hf/mistral-no-window"),
];

#[test]
fn scores_are_the_twins_to_the_last_bit_at_every_degree() {
    for (name, twin) in TWINS {
        let reference = reference(&fixture(twin));
        let degrees = load(&fixture(twin), 1).report().degrees;
        for tp in degrees.into_iter().filter(|tp| [1, 2, 3, 4, 8].contains(tp)) {
            let table = score(&mut load(&fixture(name), tp), &reference);
            compare(name, &table, &reference);
            let twin = score(&mut load(&fixture(twin), tp), &reference);
            assert_eq!(bits(&table), bits(&twin), "{name}, tp {tp}");
        }
    }
}

#[test]
fn a_rank_reads_as_much_as_of_the_twin() {
    for (name, twin) in TWINS {
        let degree = load(&fixture(twin), 1).report().degrees.into_iter().filter(|tp| *tp <= 8).max().unwrap();
        let (this, other) = (load(&fixture(name), degree).report(), load(&fixture(twin), degree).report());
        assert_eq!(this.bytes_read_per_rank, other.bytes_read_per_rank, "{name}, tp {degree}");
    }
}

#[test]
fn a_gguf_base_takes_a_head_from_beside_it() {
    for name in ["gguf/llama-q8_0", "gguf/llama3-f16"] {
        let reference = reference(&fixture(name));
        let labels: Vec<_> = (0..reference.cases[0].scores.len()).map(|i| format!("label-{i}")).collect();
        let manifests = tempfile::tempdir().unwrap();
        let folder = fixture(name);
        let text = format!(
            "name = 'composed'\nattributes = {labels:?}\n[base]\npath = '{0}/model.gguf'\n[head]\nfile = '{0}/head.safetensors'\n",
            folder.display()
        );
        fs::write(manifests.path().join("reward-model.toml"), text).unwrap();
        for tp in [1, 2, 4] {
            compare(name, &score(&mut load(manifests.path(), tp), &reference), &reference);
        }
    }
}

#[test]
fn a_classifier_in_a_gguf_file_is_the_head() {
    let one = &["LABEL_0"][..];
    for (name, labels) in [
        ("classifier-yarn", &["good", "bad", "odd"][..]),
        ("classifier-linear", one),
        ("classifier-gemma2", one),
        ("classifier-gemma3", one),
        ("classifier-phi3", one),
    ] {
        let folder = fixture("gguf").join(name);
        let (reference, path) = (reference(&folder), folder.join("model.gguf"));
        let mut whole = load(&path, 1);
        assert_eq!(whole.card().attributes, labels, "{name}");
        let table = score(&mut whole, &reference);
        compare(name, &table, &reference);
        for tp in [2, 4] {
            assert_eq!(bits(&score(&mut load(&path, tp), &reference)), bits(&table), "{name}, tp {tp}");
        }
    }
}

#[test]
fn adapters_in_the_layout_of_peft_are_merged() {
    for name in ["llama", "internlm2", "nemotron-patterns", "qwen3-rslora-bin"] {
        let folder = fixture("adapter").join(name);
        let reference = reference(&folder);
        let whole = score(&mut load(&folder, 1), &reference);
        compare(name, &whole, &reference);
        for tp in load(&folder, 1).report().degrees.into_iter().filter(|tp| [2, 3, 4].contains(tp)) {
            assert_eq!(bits(&score(&mut load(&folder, tp), &reference)), bits(&whole), "{name}, tp {tp}");
        }
    }
}

/// The weights' bits are compared in `src/model/checkpoint/quantized/tests.rs`.
#[test]
fn quantised_weights_are_scored_as_what_they_stand_for_at_every_degree() {
    let mut folders: Vec<_> = fs::read_dir(fixture("quantized")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20);
    for folder in folders {
        let name = folder.file_name().unwrap().display().to_string();
        let reference = reference(&folder);
        let whole = score(&mut load(&folder, 1), &reference);
        compare(&name, &whole, &reference);
        for tp in [2, 4] {
            assert_eq!(bits(&score(&mut load(&folder, tp), &reference)), bits(&whole), "{name}, tp {tp}");
        }
    }
}

/// What a file beside `config.json` says is a part of the model like what is in it.
#[test]
fn options_in_a_file_of_their_own_are_listed_and_make_another_version() {
    let report = load(&fixture("quantized/modelopt-fp8"), 1).report();
    assert!(report.files.iter().any(|file| file.ends_with("hf_quant_config.json")));
    assert_eq!(report.quantisation.as_deref(), Some("modelopt"));
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("quantized/modelopt-fp8")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let version = |folder: &Path| load(folder, 1).card().model_version.rsplit('@').next().unwrap().to_owned();
    assert_eq!(version(folder.path()), version(&fixture("quantized/modelopt-fp8")));
    let path = folder.path().join("hf_quant_config.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"score\"", "\"score\", \"lm_head\"")).unwrap();
    assert_ne!(version(folder.path()), version(&fixture("quantized/modelopt-fp8")));
    // It is a file like the others, of which every byte counts where it is taken in.
    let changed = fs::read_to_string(&path).unwrap().replace("\"FP8\"", "\"FP8_PER_CHANNEL_PER_TOKEN\"");
    fs::write(&path, changed).unwrap();
    let config = Config { model: folder.path().to_str().unwrap().into(), threads: 1, ..Config::default() };
    let refused = ModelEngine::load(&config).err().unwrap().to_string();
    assert!(refused.contains("weight_scale") && refused.contains("expected"), "{refused}");
}

#[test]
fn a_sentencepiece_model_becomes_the_tokenizer() {
    let text = |name: &str| load(&fixture(name), 1).card().text.clone();
    let (folder, tar) = (text("nemo/nemotron-tp2"), text("nemo/nemotron-tp2.nemo"));
    assert_eq!(folder, tar);
    let tokenizer = tokenizers::Tokenizer::from_bytes(folder.tokenizer_json.unwrap()).unwrap();
    let (symbol, bos) = (tokenizer.token_to_id("<extra_id_1>").unwrap(), tokenizer.token_to_id("<s>").unwrap());
    let ids = tokenizer.encode("<extra_id_1>User\n", true).unwrap().get_ids().to_vec();
    assert!(ids.contains(&symbol) && !ids.contains(&bos), "{ids:?}");
    assert_eq!(folder.template_variables["bos_token"], "<s>");
    assert!(text("nemo/llama-tp4").tokenizer_json.is_none());
}
