//! Published models from the outside: conversations through the presets that know how they are read, the scores on model cards,
//! and which preset `inspect` names for each fixture, and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn reference(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap()
}

/// Runs the binary with no variables, and without a standard input.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
    command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

/// The lines of the rewards file for these rows.
fn score(model: &Path, options: &[&str], rows: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rollouts.jsonl");
    fs::write(&input, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let output = folder.path().join("rewards.jsonl");
    let [model, input, output] = [model, &input, &output].map(|path| path.to_str().unwrap());
    let mut arguments = vec!["score", "--model", model, "--input", input, "--output", output, "--threads", "2"];
    arguments.extend(options);
    let ended = run(&arguments);
    let lines =
        fs::read_to_string(output).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&ended.stderr)));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Our promise for a number of transformers.
#[track_caller]
fn close(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found}, expected {expected}");
}

/// The text that POLAR's own client makes of prompt, reference and answer, by the class that its model has.
#[test]
fn an_answer_is_compared_with_a_reference() {
    let folder = fixtures().join("hf/polar");
    let cases = reference(&folder)["cases"].as_array().unwrap().clone();
    let rollouts: Vec<_> = cases.iter().map(|case| case["rollout"].clone()).collect();
    // The same text, and the same with the reference as a message.
    let texts = cases.iter().map(|case| {
        let text = case["text"].as_str().unwrap();
        json!({"text": text.strip_suffix("[UNUSED_TOKEN_130]").unwrap()})
    });
    let inside = json!({"messages": [
        {"role": "reference", "content": "Tuesday."},
        {"role": "user", "content": rollouts[0]["prompt"]},
        {"role": "assistant", "content": rollouts[0]["completion"]},
    ]});
    let rows: Vec<_> = rollouts.iter().cloned().chain(texts).chain([inside]).collect();
    let lines = score(&folder, &[], &rows);
    assert_eq!(lines.len(), 7);
    for (case, line) in cases.iter().zip(&lines) {
        close(&line["reward"], &case["scores"][0]);
        // Its own token stands behind the text.
        assert_eq!(line["tokens"], case["input_ids"].as_array().unwrap().len() + 1);
    }
    for (line, twin) in [(3, 0), (4, 1), (5, 2), (6, 0)] {
        assert_eq!(lines[line]["reward"], lines[twin]["reward"], "{line}");
    }
    assert_ne!(lines[0]["reward"], lines[1]["reward"], "the answers differ");
}

/// A number without a reference, or with one that nobody reads, would mean nothing.
#[test]
fn a_reference_is_asked_for_and_refused_where_it_has_no_place() {
    let polar = fixtures().join("hf/polar");
    let rows = [
        json!({"prompt": "u", "completion": "c"}),
        json!({"prompt": "u", "completion": "c", "reference": []}),
        json!({"text": "t", "reference": "r"}),
        json!({"messages": [{"role": "reference", "content": "r"}, {"role": "user", "content": "u"},
            {"role": "assistant", "content": "c"}], "reference": "r"}),
    ];
    let says =
        ["send it as the rollout's reference", "a list without messages", "leave it out beside text", "given twice"];
    for (line, says) in score(&polar, &[], &rows).iter().zip(says) {
        let message = line["error"]["message"].as_str().unwrap();
        assert!(line.get("reward").is_none() && message.contains(says), "{line}");
    }
    let others = score(
        &fixtures().join("hf/rlhflow-prm"),
        &["--preset", "rlhflow-prm"],
        &[json!({"prompt": "u", "completion": "c", "reference": "r"})],
    );
    assert_eq!(others[0]["error"]["code"], "BAD_OPTION");
    assert!(others[0]["error"]["message"].as_str().unwrap().contains("reads none"), "{}", others[0]);
}

/// The texts that the code on PairRM's card makes, by the class that its model has.
#[test]
fn two_answers_to_one_prompt_are_compared() {
    let folder = fixtures().join("encoder/pairrm");
    let cases = reference(&folder)["comparisons"].as_array().unwrap().clone();
    let rows: Vec<_> = cases.iter().map(|case| case["rollout"].clone()).collect();
    let lines = score(&folder, &["--preset", "pairrm"], &rows);
    assert_eq!((lines.len(), rows.len()), (6, 6));
    for (case, line) in cases.iter().zip(&lines) {
        close(&line["reward"], &case["scores"][0]);
        assert_eq!(line["tokens"], case["input_ids"].as_array().unwrap().len());
    }
    let model = folder.to_str().unwrap();
    let output = run(&["inspect", "--preset", "pairrm", "--model", model]);
    let text = String::from_utf8(output.stdout).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let anchors =
        ["source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"].map(|field| config[field].as_u64().unwrap());
    assert!(
        text.contains(&format!("at the tokens {anchors:?}, each of which")) && text.contains("1224 tokens"),
        "{text}"
    );
    // Another published model has its configuration.
    let output = run(&["inspect", "--model", model]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("config.json") && message.contains("--preset pairrm (llm-blender/PairRM-hf)"),
        "{message}"
    );
    // By itself it takes ids alone.
    let lines = score(&folder, &["--preset", "none"], &[rows[0].clone(), json!({"input_ids": cases[0]["input_ids"]})]);
    assert!(lines[0]["error"]["message"].as_str().unwrap().contains("no chat template"), "{}", lines[0]);
    close(&lines[1]["reward"], &cases[0]["scores"][0]);
}

/// The published code computes a conversation for each step; here one is read behind all of them.
#[test]
fn every_step_of_a_conversation_is_read_at_once() {
    let folder = fixtures().join("hf/rlhflow-prm");
    let cases = reference(&folder)["cases"].as_array().unwrap().clone();
    let rows: Vec<_> = cases.iter().map(|case| case["rollout"].clone()).collect();
    let lines = score(&folder, &["--preset", "rlhflow-prm"], &rows);
    for (case, line) in cases.iter().zip(&lines) {
        let (steps, reads) = (case["steps"].as_array().unwrap(), line["reads"].as_array().unwrap());
        assert_eq!(steps.len(), reads.len(), "{line}");
        for (read, expected) in reads.iter().zip(steps) {
            close(&read["reward"], expected);
        }
        let least = steps.iter().map(|step| step.as_f64().unwrap()).fold(f64::INFINITY, f64::min);
        close(&line["reward"], &json!(least));
    }
    // The last step of one conversation is the only one of another that ends there: the same bits.
    let steps = |completion: Value| json!({"prompt": "Add 1, 2 and 3.", "completion": completion});
    let turn = |text: &str| json!({"role": "assistant", "content": text});
    let lines = score(
        &folder,
        &["--preset", "rlhflow-prm"],
        &[steps(json!([turn("one"), turn("two")])), steps(json!([turn("one")]))],
    );
    assert_eq!(lines[0]["reads"][0]["reward"], lines[1]["reads"][0]["reward"]);
}

/// A manifest over POLAR's fixture with checks of its own.
fn with_checks(checks: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let base = fixtures().join("hf/polar");
    let manifest = format!("name = 'mine'\npreset = 'polar'\n{checks}\n[base]\npath = '{}'\n", base.display());
    fs::write(folder.path().join("reward-model.toml"), manifest).unwrap();
    folder
}

fn check_of(model: &str, expected: &str) -> String {
    format!(
        "[[card_check]]\nmodel = '{model}'\nsource = 'a card'\nprecision = 'float32'\nexpected = {expected}\ntolerance = 1e-3\n\
         rollout = {{ prompt = 'Which day follows Monday?', completion = 'Tuesday.', reference = 'Tuesday.' }}\n"
    )
}

#[test]
fn a_card_check_passes_or_says_how_far_off_it_is() {
    let expected = reference(&fixtures().join("hf/polar"))["cases"][0]["scores"][0].as_f64().unwrap();
    let inspect = |checks: &str| {
        let folder = with_checks(checks);
        let output = run(&["inspect", "--check", "--json", "--model", folder.path().to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
        });
        (output.status.code(), report["checked"].as_array().unwrap().clone())
    };
    let (code, checked) = inspect(&check_of("right", &expected.to_string()));
    assert_eq!((code, checked.len(), &checked[0]["passed"]), (Some(0), 1, &json!(true)));
    assert!(checked[0]["off_by"].as_f64().unwrap() <= 1e-4 * expected.abs().max(1.0));
    // POLAR-7B's own checks are of another size than the fixture.
    let (code, checked) = inspect(&check_of("wrong", &(expected + 0.25).to_string()));
    assert_eq!((code, &checked[0]["passed"]), (Some(1), &json!(false)));
    assert!((checked[0]["off_by"].as_f64().unwrap() - 0.25).abs() <= 1e-4 * expected.abs().max(1.0) + 1e-6);
    // One of several models that a preset is for.
    let right = check_of("right", &expected.to_string());
    let (code, _) = inspect(&(right.clone() + &check_of("wrong", "99.0")));
    assert_eq!(code, Some(0));
    let (code, _) = inspect(&(right + &check_of("right", "99.0")));
    assert_eq!(code, Some(1));
    let (code, checked) = inspect(&check_of("steps", "[1.0, 2.0]"));
    assert_eq!((code, &checked[0]["off_by"]), (Some(1), &Value::Null));
    let rejected = check_of("rejected", "1.0").replace(", reference = 'Tuesday.'", "");
    let (code, checked) = inspect(&rejected);
    assert_eq!(code, Some(1));
    assert!(checked[0]["rejected"].as_str().unwrap().contains("reference"), "{}", checked[0]);
    let folder = with_checks(&check_of("right", &(expected + 0.25).to_string()));
    let output = run(&["inspect", "--check", "--model", folder.path().to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAILED: right: a card prints") && text.contains("off by 0.25"), "{text}");
}

/// Every check that is shipped is one of a rollout that can be read.
#[test]
fn shipped_card_checks_hold_rollouts() {
    let presets = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("presets")).unwrap();
    let mut number = 0;
    for path in presets.map(|entry| entry.unwrap().path()) {
        let preset: toml::Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for check in preset.get("card_check").and_then(toml::Value::as_array).into_iter().flatten() {
            let mut rollout = check["rollout"].as_table().unwrap().clone();
            rollout.insert("id".into(), "a".into());
            let row = serde_json::to_vec(&rollout).unwrap();
            let parsed = reward_sidecar::json::rollout::parse(&row);
            assert!(parsed.rollout.is_ok(), "{}: {:?}", path.display(), parsed.rollout);
            let model = check["model"].as_str().unwrap();
            let models = preset["models"].as_array().unwrap();
            assert!(models.iter().any(|known| known.as_str() == Some(model)), "{}: {model}", path.display());
            number += 1;
        }
    }
    assert!(number >= 10, "{number}");
}

/// Folders whose files give away which published model they are like, and what gives them away. Of all others none is known.
const KNOWN: [(&str, &str, &str); 16] = [
    ("hf/beaver-cost", "beaver-cost", "architecture LlamaForScore, score_type = \"cost\""),
    ("hf/beaver-reward", "beaver-reward", "architecture LlamaForScore, score_type = \"reward\""),
    (
        "hf/grm-sftreg",
        "grm-sftreg",
        "architecture LlamaForCausalLM, tensor v_head.summary.0.weight, tensor v_head.summary.2.weight",
    ),
    ("hf/inf-orm", "inf-orm", "architecture INFORMForSequenceClassification"),
    ("hf/inf-orm-bf16", "inf-orm", "architecture INFORMForSequenceClassification"),
    ("hf/ldl", "ldl-reward", "architecture LDLRewardModel27B"),
    ("hf/openrlhf", "openrlhf", "field value_head_prefix"),
    ("hf/openrlhf-raw-bf16", "openrlhf", "architecture RewardModel, field normalize_reward"),
    ("hf/polar", "polar", "architecture InternLM2ForRewardModel, max_position_embeddings = 262144"),
    ("hf/ultrarm", "ultrarm", "architecture LlamaRewardModel, tensor regression_head.weight"),
    ("hf/urm", "urm", "architecture LlamaForSequenceClassificationWithNormal_Weights"),
    ("hf/value-head", "value-head", "architecture LlamaForCausalLM, tensor v_head.summary.weight"),
    ("nemo/nemotron-tp2", "nemotron-4-340b-reward", NEMOTRON),
    ("nemo/nemotron-tp8", "nemotron-4-340b-reward", NEMOTRON),
    ("nemo/nemotron-dist", "nemotron-4-340b-reward", NEMOTRON),
    ("nemo/nemotron-tp2.nemo", "nemotron-4-340b-reward", NEMOTRON),
];

const NEMOTRON: &str =
    "architecture NemotronForSequenceClassification, num_labels = 9, reward_model_type = \"regression\"";

/// Those whose preset names tokens of the published vocabulary, which the small ones do not have: the refusal names the preset.
const WITHOUT_TOKENS: [(&str, &str); 6] = [
    ("hf/qrm-gemma", "qrm-gemma"),
    ("hf/qrm-mixed", "qrm-v2"),
    ("hf/qwen2-math-prm", "qwen2.5-math-prm"),
    ("hf/qwen2-math-prm-bf16", "qwen2.5-math-prm"),
    ("hf/skywork-o1-prm", "skywork-o1-prm"),
    ("bin/qrm-mixed-sharded", "qrm-v2"),
];

/// Folders of a class that several published models have, and those between which the user is asked to choose.
const SHARED: [(&str, &[&str]); 3] = [
    ("hf/internlm2-reward-f16", &["internlm2-reward", "polar"]),
    ("hf/qwen2-math-rm-bf16", &["qwen2.5-math-rm", "universal-prm", "worldpm"]),
    ("hf/token-prm", &["pure-prm", "token-prm"]),
];

/// Every fixture is what `inspect` is asked about: it names the preset and why, asks between several, or names none.
#[test]
fn inspect_names_the_preset_of_every_fixture_and_why() {
    let mut seen = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    for part in ["hf", "bin", "quantized", "nemo"] {
        let entries = fs::read_dir(fixtures().join(part)).unwrap().map(|entry| entry.unwrap().path());
        for path in entries {
            let name = format!("{part}/{}", path.file_name().unwrap().to_str().unwrap());
            let output = run(&["inspect", "--json", "--model", path.to_str().unwrap()]);
            let found = match serde_json::from_slice::<Value>(&output.stdout) {
                Ok(report) => match &report["preset"] {
                    Value::Null => "none".to_owned(),
                    preset => format!("{}: {}", preset["name"].as_str().unwrap(), preset["why"].as_str().unwrap()),
                },
                Err(_) => {
                    assert_eq!(output.status.code(), Some(2), "{name}");
                    String::from_utf8(output.stderr).unwrap()
                }
            };
            let known = KNOWN.iter().find(|(known, ..)| *known == name);
            let shared = SHARED.iter().find(|(shared, _)| *shared == name);
            let without = WITHOUT_TOKENS.iter().find(|(without, _)| *without == name);
            let fits = match (known, shared) {
                (Some((_, preset, why)), _) => found == format!("{preset}: known by {why}"),
                (None, Some((_, presets))) => {
                    presets.iter().all(|preset| found.contains(&format!("--preset {preset} (")))
                }
                (None, None)
                    if without.is_some_and(|(_, preset)| {
                        found.contains(&format!("as preset {preset} says"))
                            || found.contains(&format!("preset = \"{preset}\""))
                    }) =>
                {
                    true
                }
                // What is no reward model by itself is refused, and says which presets there are for its class.
                (None, None) => without.is_none() && (found == "none" || found.contains("becomes a reward model by")),
            };
            if !fits {
                wrong.push(format!("{name}: {found}"));
            }
            seen.insert(name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let without = WITHOUT_TOKENS.iter().map(|(name, _)| name);
    for name in KNOWN.iter().map(|(name, ..)| name).chain(SHARED.iter().map(|(name, _)| name)).chain(without) {
        assert!(seen.contains(*name), "{name} is no fixture any more");
    }
    assert!(seen.len() > 90, "{}", seen.len());
}
