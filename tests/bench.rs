//! `bench` measures every model that can be loaded: made-up workloads take the form and the length that the model takes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/hf/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn bench(model: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
    command.args(["bench", "--repeat", "1", "--log", "warn", "--model"]).arg(model).args(arguments);
    command.env_clear().stdin(Stdio::null()).output().unwrap()
}

/// The names of the workloads that were measured, in order.
fn measured(model: &Path, arguments: &[&str]) -> Vec<String> {
    let output = bench(model, &[arguments, &["--json"]].concat());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(!log.contains("lost the connection"), "{log}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let workloads = report["workloads"].as_array().unwrap();
    workloads.iter().map(|workload| workload["name"].as_str().unwrap().to_owned()).collect()
}

/// A copy of a fixture with a tokenizer of words and a template, and with another context.
fn with_words(fixture_name: &str, context: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(fixture_name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = context.into();
    std::fs::write(path, config.to_string()).unwrap();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"the": 0, "a": 1, "of": 2, "user": 3, "assistant": 4}, "unk_token": "a"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}";
    let config = serde_json::json!({ "chat_template": template });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn a_short_context_gets_shorter_rollouts() {
    // A word is a token, the longest group has 783 words, and its template some tokens more: a quarter of that fits 256.
    let folder = with_words("qwen3", 256);
    let names = measured(folder.path(), &["--workload", "groups"]);
    assert_eq!(names, ["groups of 16 (made up, 1/4 as long)"]);
}

#[test]
fn a_model_that_takes_no_text_gets_token_ids() {
    let model = fixture("qwen3");
    let names = measured(Path::new(&model), &["--workload", "independent"]);
    assert_eq!(names, ["independent (made up, as token ids)"]);
}

/// Several attributes without a weighting, and steps that no made-up text has.
#[test]
fn a_model_that_scores_steps_is_measured() {
    let (model, folder) = (fixture("token-prm"), tempfile::tempdir().unwrap());
    let preset = folder.path().join("own.toml");
    // The fixture has no tokenizer to know the token by.
    std::fs::write(&preset, "name = 'own'\npreset = 'token-prm'\n[read]\nat = { every-token = 121 }\n").unwrap();
    let names = measured(Path::new(&model), &["--preset", preset.to_str().unwrap(), "--workload", "independent"]);
    assert_eq!(names, ["independent (made up, as token ids)"]);
}

/// What the user brings is measured as it is, or not at all.
#[test]
fn a_rollout_of_a_file_that_is_too_long_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rollouts.jsonl");
    let ids: Vec<u32> = vec![1; 300];
    std::fs::write(&input, format!("{{\"id\":\"long one\",\"input_ids\":{ids:?}}}\n")).unwrap();
    let model = fixture("qwen3");
    let output = bench(Path::new(&model), &["--input", input.to_str().unwrap()]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("'long one'") && log.contains("TOO_LONG"), "{log}");
}
