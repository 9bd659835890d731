//! Heads of every kind against the scores of their published classes, computed in float32 by `tools/make_fixtures.py`.
//!
//! Presets that are for the published models know their tokens and names; the small models here have others, which each
//! test says in a manifest of its own.

mod published;

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::batch::{At, MicroBatch, Sequence};
use reward_sidecar::engine::{Engine, ModelCard, ReadAt, ReadPolicy, Reduce};
use reward_sidecar::model::{Config, ModelEngine, ModelError};
use serde_json::{Value, json};

/// What the library said; `reference.json` in each folder.
#[derive(serde::Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    /// The outputs at the last token.
    #[serde(default)]
    scores: Vec<f32>,
    /// Instead, positions and the outputs at each.
    #[serde(default)]
    reads: Vec<(usize, Vec<f32>)>,
    /// The objectives that a gated score is made of.
    #[serde(default)]
    rewards: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(name)
}

/// A fixture with a manifest over it.
struct Model {
    folder: tempfile::TempDir,
    reference: Reference,
}

impl Model {
    /// `manifest` is what it says besides its name and where the weights are.
    fn new(name: &str, manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = fixture(name);
        let reference = serde_json::from_slice(&fs::read(base.join("reference.json")).unwrap()).unwrap();
        let base = format!("[base]\npath = '{}'\n", base.display());
        fs::write(folder.path().join("reward-model.toml"), format!("name = '{name}'\n{manifest}\n{base}")).unwrap();
        Self { folder, reference }
    }

    fn config(&self) -> Config {
        Config { model: self.folder.path().to_str().unwrap().into(), threads: 2, ..Config::default() }
    }

    #[track_caller]
    fn load(&self) -> ModelEngine {
        ModelEngine::load(&self.config()).unwrap_or_else(|e| panic!("{e}"))
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// Scores every sequence alone and all together: the same bits, and within 1e-4 of `expected`.
#[track_caller]
fn compare(engine: &mut ModelEngine, sequences: &[Vec<u32>], expected: &[Vec<f32>]) {
    for share in [true, false] {
        let table = engine.score(&MicroBatch::pack(sequences, share)).unwrap();
        assert_eq!((table.rows(), expected.len()), (sequences.len(), sequences.len()));
        for (i, (sequence, expected)) in sequences.iter().zip(expected).enumerate() {
            let scores = table.row(i).unwrap();
            assert_eq!(scores.len(), expected.len(), "columns");
            for (score, expected) in scores.iter().zip(expected) {
                let difference = (score - expected).abs();
                let place = format!("{} tokens", sequence.len());
                assert!(difference <= 1e-4 * expected.abs().max(1.0), "{place}: {score}, expected {expected}");
            }
            let alone = engine.score(&MicroBatch::pack(&[sequence], share)).unwrap();
            assert_eq!(bits(alone.row(0).unwrap()), bits(scores), "alone");
        }
    }
}

/// Reads one sequence at several positions: the same bits as of sequences that end there.
#[track_caller]
fn check_positions(engine: &mut ModelEngine, tokens: &[u32], positions: &[u32]) {
    let sequence = Sequence { tokens, at: At::Positions(positions), rollout: 0 };
    let table = engine.score(&MicroBatch::pack_sequences(&[sequence], true)).unwrap();
    assert_eq!(table.rows(), positions.len());
    for (i, &position) in positions.iter().enumerate() {
        let alone = engine.score(&MicroBatch::pack(&[&tokens[..=position as usize]], true)).unwrap();
        assert_eq!(bits(table.row(i).unwrap()), bits(alone.row(0).unwrap()), "position {position}");
    }
}

/// A model that reads the last token, behind `append` if that is given.
#[track_caller]
fn check(name: &str, manifest: &str, attributes: &[&str], expected: impl Fn(&Case) -> Vec<f32>) -> ModelEngine {
    let behind =
        |card: &ModelCard, case: &Case| [case.input_ids.clone(), card.reads.append.into_iter().collect()].concat();
    check_sequences(name, manifest, attributes, behind, expected)
}

/// A model of which the reference scores are at the end of `sequence`.
#[track_caller]
fn check_sequences(
    name: &str,
    manifest: &str,
    attributes: &[&str],
    sequence: impl Fn(&ModelCard, &Case) -> Vec<u32>,
    expected: impl Fn(&Case) -> Vec<f32>,
) -> ModelEngine {
    let model = Model::new(name, manifest);
    let mut engine = model.load();
    let card = engine.card().clone();
    assert_eq!(card.attributes, attributes, "{name}");
    let cases = &model.reference.cases;
    let sequences: Vec<_> = cases.iter().map(|case| sequence(&card, case)).collect();
    compare(&mut engine, &sequences, &cases.iter().map(expected).collect::<Vec<_>>());
    engine
}

fn report(engine: &ModelEngine) -> Value {
    serde_json::to_value(engine.report()).unwrap()
}

#[test]
fn linear_heads() {
    let engine = check("head-bias-qwen2", "", &["LABEL_0"], |case| case.scores.clone());
    assert_eq!((&report(&engine)["preset"], &report(&engine)["head_parameters"]), (&json!(null), &json!(49)));
    let names: Vec<_> = (0..33).map(|i| format!("output {i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    check("head-bias-f16", "", &names, |case| case.scores.clone());
}

#[test]
fn some_rows_of_a_linear_head() {
    let some = "attributes = ['c', 'a']\n[head]\nkind = 'linear'\nrows = [32, 0]\noutputs = 33\n";
    check("head-bias-f16", some, &["c", "a"], |case| vec![case.scores[32], case.scores[0]]);
    let names: Vec<_> = (0..33).map(|i| format!("'{i}'")).collect();
    let untrained = names[1..32].join(", ");
    let trained = format!("attributes = [{}]\nuntrained = [{untrained}]\n", names.join(", "));
    let engine = check("head-bias-f16", &trained, &["0", "32"], |case| vec![case.scores[0], case.scores[32]]);
    assert_eq!(report(&engine)["head_parameters"], json!(2 * 37));
    // All of them are there for the asking.
    let model = Model::new("head-bias-f16", &trained);
    let engine = ModelEngine::load(&Config { untrained_attributes: true, ..model.config() }).unwrap();
    assert_eq!(engine.card().attributes.len(), 33);
}

#[test]
fn heads_of_two_layers() {
    for name in ["inf-orm", "inf-orm-bf16"] {
        let engine = check(name, "", &["reward"], |case| case.scores.clone());
        assert_eq!(report(&engine)["preset"]["name"], "inf-orm");
    }
    // Process models have this class, too.
    refused(
        "qwen2-math-rm-bf16",
        "",
        &["say which it is", "--preset qwen2.5-math-rm (Qwen/Qwen2.5-Math-RM-72B)", "worldpm", "universal-prm"],
    );
    check("qwen2-math-rm-bf16", "preset = 'qwen2.5-math-rm'\n", &["reward"], |case| case.scores.clone());
}

#[test]
fn process_rewards_read_every_step() {
    for name in ["qwen2-math-prm", "qwen2-math-prm-bf16"] {
        let model = Model::new(name, "[read]\nat = { every-token = 121 }\nreduce = 'min'\n");
        let mut engine = model.load();
        let at = ReadAt::EveryToken { token: 121, reduce: Reduce::Min };
        assert_eq!(engine.card().reads, ReadPolicy { at, ..ReadPolicy::default() });
        let (mut sequences, mut expected) = (Vec::new(), Vec::new());
        for case in &model.reference.cases {
            for (position, probabilities) in &case.reads {
                assert_eq!(case.input_ids[*position], 121);
                sequences.push(case.input_ids[..=*position].to_vec());
                // The second label is the one that says that the step is right.
                expected.push(vec![probabilities[1]]);
            }
        }
        assert!(sequences.len() > 20, "{}", sequences.len());
        compare(&mut engine, &sequences, &expected);
        let last = model.reference.cases.last().unwrap();
        let ends: Vec<_> = last.reads.iter().map(|(position, _)| *position as u32).collect();
        check_positions(&mut engine, &last.input_ids, &ends);
    }
    // Without a label to look for, the outputs themselves are the attributes.
    let plain = "preset = 'none'\nattributes = ['wrong', 'right']\n[head]\nkind = 'mlp'\n";
    let mut engine = Model::new("qwen2-math-prm", plain).load();
    assert_eq!(engine.score(&MicroBatch::pack(&[[1_u32, 121]], true)).unwrap().columns(), 2);
}

#[test]
fn rows_of_the_lm_head() {
    let preset = "preset = 'llama-3.1-nemotron-70b-reward'\n";
    for name in ["lm-row", "lm-row-tied-bf16"] {
        let engine = check(name, preset, &["reward"], |case| case.scores.clone());
        assert_eq!(report(&engine)["head_parameters"], json!(36), "one row, and nothing else of the LM head");
    }
    let difference = "attributes = ['reward']\n[head]\nkind = 'lm-head-difference'\nyes = 96\nno = 28\n";
    check("lm-difference-bf16", difference, &["reward"], |case| case.scores.clone());
    let reversed = "attributes = ['reward']\n[head]\nkind = 'lm-head-difference'\nyes = 28\nno = 96\n";
    check("lm-difference-bf16", reversed, &["reward"], |case| vec![-case.scores[0]]);
}

/// Objectives by number, and the score.
fn objectives(count: usize) -> (String, Vec<String>) {
    let names: Vec<_> = (0..count).map(|i| format!("o{i}")).chain(["score".into()]).collect();
    (format!("attributes = {names:?}\ndefault_weighting = 'score'\n"), names)
}

const PATTERN: &str = "[read]\nneeds = [109, 106, 91, 107, 27]\n[weightings.score]\nscore = 1.0\n";

#[test]
fn gated_objectives() {
    for (name, kind, count) in [("armorm", "gated", 7), ("qrm-mixed", "quantile", 5)] {
        let (attributes, names) = objectives(count);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let manifest = format!("{attributes}{PATTERN}[head]\nkind = '{kind}'\n");
        let all = |case: &Case| [&case.rewards[..], &case.scores].concat();
        let mut engine = check(name, &manifest, &names, all);
        assert_eq!(engine.card().reads.needs, [109, 106, 91, 107, 27]);
        assert_eq!(engine.card().default_weighting.as_deref(), Some("score"));

        // Each read has its own gate: the last occurrence of the pattern before it, or none yet.
        let longest = Model::new(name, &manifest).reference.cases.swap_remove(5).input_ids;
        let last = longest.len() as u32 - 1;
        check_positions(&mut engine, &longest, &[0, 4, last / 3, last / 2, last - 7, last]);

        // A sequence in which the gate finds nothing has no score, and costs the others nothing.
        let whole = Model::new(name, &manifest).reference.cases.swap_remove(2).input_ids;
        let (batch, alone) =
            (MicroBatch::pack(&[vec![1, 2, 3], whole.clone()], true), MicroBatch::pack(&[whole], true));
        let (table, alone) = (engine.score(&batch).unwrap(), engine.score(&alone).unwrap());
        assert!(table.row(0).unwrap()[count].is_nan());
        assert_eq!(bits(table.row(1).unwrap()), bits(alone.row(0).unwrap()));
    }
}

#[test]
fn value_heads() {
    // The references are of the class alone, which reads the last token; that there is an end of sequence is intake's affair.
    let check = |name: &str, manifest: &str, attributes: &[&str], expected: fn(&Case) -> Vec<f32>| {
        check_sequences(name, manifest, attributes, |_, case| case.input_ids.clone(), expected)
    };
    let engine = check("openrlhf", "", &["reward"], |case| case.scores.clone());
    // Without a tokenizer no text comes, and the end of a text need not be known.
    let reads = &engine.card().reads;
    assert_eq!((reads.append, reads.text_only, &*reads.strip), (None, true, "\n"));
    let engine = check("openrlhf", "[read]\ntext_only = false\n", &["reward"], |case| case.scores.clone());
    assert_eq!(engine.card().reads.append, Some(2));
    assert_eq!(report(&engine)["preset"]["why"], "known by field value_head_prefix");
    assert_eq!(engine.card().architecture, "LlamaModel");
    check("openrlhf", "[head]\nstandardise = false\n", &["reward"], |case| vec![case.scores[0] * 1.9 + 0.7]);
    let engine = check("openrlhf-raw-bf16", "", &["reward"], |case| case.scores.clone());
    assert_eq!((engine.card().architecture.as_str(), engine.card().reads.append), ("Qwen2Model", None));
    let why = "known by architecture RewardModel, field normalize_reward";
    assert_eq!(report(&engine)["preset"]["why"], why);
    check("openrlhf-raw-bf16", "[head]\nstandardise = true\n", &["reward"], |case| vec![(case.scores[0] - 0.7) / 1.9]);
}

#[test]
fn a_value_at_an_appended_token() {
    // POLAR has this class and these tensors, and compares with a reference.
    refused("internlm2-reward-f16", "", &["say which it is", "--preset polar (", "--preset internlm2-reward ("]);
    let preset = "preset = 'internlm2-reward'\n";
    let engine = check("internlm2-reward-f16", preset, &["reward"], |case| case.scores.clone());
    assert_eq!(engine.card().reads.append, Some(127), "as the configuration says");
    check("internlm2-reward-f16", &format!("{preset}[read]\nappend = 127\n"), &["reward"], |case| case.scores.clone());
}

#[test]
fn a_head_in_a_file_of_its_own() {
    let file = fixture("inf-orm").join("model.safetensors");
    let manifest = format!("[head]\nfile = '{}'\n", file.display());
    let engine = check("inf-orm", &manifest, &["reward"], |case| case.scores.clone());
    let model = Model::new("inf-orm", "");
    let named = ModelEngine::load(&Config { head: Some(file), ..model.config() }).unwrap();
    let plain = model.load();
    assert_eq!(report(&named)["model_version"], report(&engine)["model_version"]);
    assert_ne!(report(&named)["model_version"], report(&plain)["model_version"]);
}

/// Loads a fixture with a manifest; the message must hold every word.
#[track_caller]
fn refused(name: &str, manifest: &str, words: &[&str]) {
    let loaded: Result<_, ModelError> = ModelEngine::load(&Model::new(name, manifest).config());
    let message = loaded.err().unwrap_or_else(|| panic!("loaded, though {words:?}")).to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

#[test]
fn what_a_head_cannot_do_is_said() {
    refused("inf-orm", "[head]\nkind = 'mpl'\n", &["head.kind is \"mpl\"", "lm-head-difference"]);
    refused("inf-orm", "[head]\nwidth = 3\n", &["\"mlp\"", "unknown field `width`"]);
    refused("inf-orm", "[head]\npositive = 1\n", &["positive is 1, but there are 1 labels"]);
    refused(
        "inf-orm",
        "[head]\ntensor = 'reward'\n",
        &["no tensor \"reward.0.weight\"", "--preset other than inf-orm"],
    );
    let two = "attributes = ['a', 'b']\n";
    refused("inf-orm", two, &["2 attributes are named, but the head (mlp) has 1 outputs"]);
    refused("head-bias-f16", &format!("{two}[head]\nrows = [0, 33]\n"), &["no row 33"]);
    refused("head-bias-f16", &format!("{two}[head]\nrows = [0]\n"), &["2 attributes are named", "has 1 outputs"]);
    refused("head-bias-f16", "[head]\nrows = []\n", &["rows names no row"]);
    refused("head-bias-f16", &format!("{two}[head]\nrows = [0, 1]\noutputs = 9\n"), &["[33, 36]", "[9, 36]"]);
    let rows = "attributes = ['a', 'b']\nuntrained = ['a']\n[head]\nrows = [0]\n";
    refused("head-bias-f16", rows, &["head.rows and untrained"]);
    refused(
        "lm-row",
        "",
        &["no tensor \"score.weight\"", "--preset (for LlamaForCausalLM: ", "llama-3.1-nemotron-70b-reward"],
    );
    refused("lm-row", "[head]\nkind = 'lm-head-row'\n", &["missing field `row`"]);
    refused("lm-row", "[head]\nkind = 'lm-head-row'\nrow = 133\n", &["lm_head.weight", "133 rows", "no row 133"]);
    refused(
        "armorm",
        "",
        &["no tensor \"score.weight\"", "--preset (for LlamaForRewardModelWithGating: armorm, qrm, qrm-v2)"],
    );
    refused("armorm", "[head]\nkind = 'gated'\n", &["\"gated\"", "[read] needs"]);
    refused("armorm", "preset = 'armorm'\n", &["read.needs is token 128009", "the vocabulary ends at 132"]);
    refused("openrlhf", "preset = 'none'\n", &["unknown architecture \"RewardModel\""]);
    refused("openrlhf", "preset = 'nemotron'\n", &["no preset \"nemotron\"", "openrlhf"]);
}

/// A copy of a folder without others in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
