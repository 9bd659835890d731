//! What encoders are not: shared by ranks, on GPUs, read at steps, of other forms. Each is one sentence.

use std::fs;
use std::path::Path;

use reward_sidecar::model::plan::{GPUS, Request, plan};
use reward_sidecar::model::{Config, DeviceChoice, ModelEngine, Precision};
use serde_json::{Value, json};

use super::{config, folder};

/// A fixture with other fields of its configuration, and the reason why it is refused.
#[track_caller]
fn refused(name: &str, changes: &Value, words: &[&str]) {
    let changed = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(name).join(file), changed.path().join(file)).unwrap();
    }
    let path = changed.path().join("config.json");
    let mut found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    found.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(&path, found.to_string()).unwrap();
    says(&config(changed.path()), &format!("{name} with {changes}"), words);
}

#[track_caller]
fn says(config: &Config, what: &str, words: &[&str]) {
    let message = ModelEngine::load(config).err().unwrap_or_else(|| panic!("loaded: {what}")).to_string();
    for word in words {
        assert!(message.contains(word), "{what}: {word:?} is missing in: {message}");
    }
}

#[test]
fn what_only_decoders_can_is_refused() {
    let plain = config(&folder("roberta"));
    says(&Config { tp: 2, ..plain.clone() }, "two ranks", &["encoder", "tp is 2"]);
    let device = DeviceChoice::CpuTensors(Precision::F32);
    says(&Config { device, ..plain.clone() }, "tensor operations", &["encoder", "computed on the CPU"]);
    let preset = tempfile::tempdir().unwrap();
    let file = preset.path().join("steps.toml");
    fs::write(&file, "name = \"steps\"\n[read]\nat = { every-token = 3 }\n").unwrap();
    let steps = Config { preset: file.to_str().unwrap().into(), ..plain };
    says(&steps, "steps", &["encoder", "no step can be read by itself"]);
    let request = Request {
        model: folder("roberta").to_str().unwrap().into(),
        cache_dir: "/nonexistent".into(),
        gpu: &GPUS[0],
        gpus: None,
        tp: None,
        pp: 1,
        dtype: "bf16".parse().unwrap(),
        utilisation: 0.5,
        tokens: None,
        max_batch_tokens: 1024,
    };
    let message = plan(&request).err().unwrap().to_string();
    assert!(message.contains("encoder") && message.contains("plan"), "{message}");
}

#[test]
fn which_of_several_models_it_is_is_asked() {
    let pairrm = Config { preset: "auto".into(), ..config(&folder("pairrm")) };
    says(&pairrm, "no preset", &["config.json", "--preset pairrm (llm-blender/PairRM-hf)", "--preset none"]);
    let auto = Config { preset: "auto".into(), ..config(&folder("deberta-v3")) };
    says(&auto, "no preset", &["config.json", "--preset openassistant-reward", "--preset none"]);
}

#[test]
fn forms_that_are_not_known_are_refused() {
    for (name, changes, words) in [
        ("bert", json!({"position_embedding_type": "relative_key"}), &["position_embedding_type", "absolute"][..]),
        ("bert", json!({"is_decoder": true}), &["is_decoder"]),
        ("bert", json!({"hidden_act": "mish"}), &["hidden_act", "gelu"]),
        ("bert", json!({"num_attention_heads": 5}), &["24", "5 heads"]),
        ("bert", json!({"type_vocab_size": -1}), &["type_vocab_size"]),
        ("bert", json!({"type_vocab_size": 5}), &["token_type_embeddings", "[2, 24]", "[5, 24]"]),
        ("bert", json!({"max_position_embeddings": 1 << 30}), &["position_embeddings", "[208, 24]"]),
        ("bert", json!({"num_hidden_layers": 1 << 20}), &["num_hidden_layers", "at most"]),
        ("bert", json!({"hidden_size": 3 << 28}), &["hidden_size", "at most"]),
        ("bert", json!({"layer_norm_eps": "small"}), &["layer_norm_eps", "a number"]),
        ("bert", json!({"num_hidden_layers": 3}), &["model.safetensors", "encoder.layer.2."]),
        ("bert", json!({"id2label": {"0": "a"}}), &["classifier.weight", "[3, 24]"]),
        ("roberta", json!({"pad_token_id": 207}), &["max_position_embeddings", "208"]),
        ("roberta", json!({"pad_token_id": "one"}), &["pad_token_id"]),
        ("electra", json!({"embedding_size": 8}), &["embedding_size", "24"]),
        ("deberta-v3", json!({"conv_kernel_size": 3}), &["conv_kernel_size", "convolution"]),
        ("deberta-v3", json!({"pos_att_type": ["p2p"]}), &["pos_att_type", "c2p"]),
        ("deberta-v3", json!({"pos_att_type": 7}), &["pos_att_type"]),
        ("deberta-v3", json!({"position_buckets": 3}), &["position_buckets", "at least 4"]),
        ("deberta-v3", json!({"position_buckets": 1e9}), &["position_buckets", "65536"]),
        ("deberta-v3", json!({"position_buckets": 64}), &["rel_embeddings", "[32, 24]", "[128, 24]"]),
        ("deberta-v3", json!({"max_relative_positions": 9}), &["position_buckets"]),
        ("deberta-v3", json!({"norm_rel_ebd": "rms"}), &["norm_rel_ebd"]),
        ("deberta-v3", json!({"embedding_size": 12}), &["embedding_size"]),
        ("deberta-v3", json!({"share_att_key": false}), &["pos_key_proj"]),
        ("deberta-v3", json!({"pooler_hidden_act": "mish"}), &["dense_activation", "mish"]),
        ("deberta-apart", json!({"share_att_key": true}), &["pos_key_proj", "present"]),
        ("pairrm", json!({"source_prefix_id": null}), &["config.json", "source_prefix_id = null", "the id of a token"]),
        ("pairrm", json!({"source_prefix_id": 1u64 << 40}), &["source_prefix_id", "the id of a token"]),
        ("pairrm", json!({"cand1_prefix_id": "two"}), &["cand1_prefix_id = \"two\""]),
        ("pairrm", json!({"cand2_prefix_id": -1}), &["cand2_prefix_id = -1"]),
        ("pairrm", json!({"cand1_prefix_id": 7, "cand2_prefix_id": 7}), &["cand2_prefix_id = 7", "unlike those"]),
        ("pairrm", json!({"n_tasks": 0}), &["n_tasks", "above 0"]),
        ("pairrm", json!({"n_tasks": null}), &["no field \"n_tasks\""]),
        ("pairrm", json!({"n_tasks": 2}), &["head_layer.4.weight", "[1, 24]", "[2, 24]"]),
        ("pairrm", json!({"n_tasks": 1u32 << 31}), &["head_layer.4.weight"]),
        ("pairrm", json!({"architectures": ["DebertaV2ForSequenceClassification"]}), &["model.safetensors"]),
        ("modernbert", json!({"classifier_pooling": "max"}), &["classifier_pooling", "mean"]),
        ("modernbert", json!({"attention_bias": true}), &["Wqkv.bias"]),
        ("modernbert", json!({"layer_types": ["full_attention"]}), &["layer_types"]),
        ("modernbert", json!({"architectures": ["ModernBertForMaskedLM"]}), &["ModernBertForMaskedLM", "ModernBert"]),
    ] {
        refused(name, &changes, words);
    }
}

/// Weights that are cut off or of another type than they say are the file's fault.
#[test]
fn spoilt_files_are_refused() {
    for (name, head) in [
        ("bert", b"classifier"),
        ("deberta-v3", b"classifier"),
        ("modernbert", b"classifier"),
        ("pairrm", b"head_layer"),
    ] {
        let copy = tempfile::tempdir().unwrap();
        let from = |file: &str| folder(name).join(file);
        fs::copy(from("config.json"), copy.path().join("config.json")).unwrap();
        let bytes = fs::read(from("model.safetensors")).unwrap();
        let place = copy.path().join("model.safetensors");
        for kept in [0, 8, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&place, &bytes[..kept]).unwrap();
            says(&config(copy.path()), &format!("{name}, {kept} bytes"), &["model.safetensors"]);
        }
        without_head(&place, &bytes, copy.path(), head);
    }
}

/// A classifier whose head has another name is no reward model as it stands.
fn without_head(place: &Path, bytes: &[u8], folder: &Path, head: &[u8; 10]) {
    let mut renamed = bytes.to_vec();
    for at in (0..bytes.len() - 10).filter(|at| bytes[*at..*at + 10] == *head) {
        renamed[at] = b'k';
    }
    fs::write(place, renamed).unwrap();
    says(&config(folder), "another name", &[str::from_utf8(head).unwrap(), "--preset"]);
}
