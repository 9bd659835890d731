//! Heads of published models against their classes, transcribed in `tools/fixtures/published.py`; and which preset each
//! fixture is known by.

use super::*;

/// Its preset, and why, if one is known without being asked for.
#[track_caller]
fn known(engine: &ModelEngine, name: &str, why: &str) {
    let preset = &report(engine)["preset"];
    assert_eq!((preset["name"].as_str(), preset["why"].as_str()), (Some(name), Some(why)));
}

#[test]
fn one_reward_at_the_last_token() {
    for (name, label, why) in [
        ("beaver-reward", "reward", "known by architecture LlamaForScore, score_type = \"reward\""),
        ("beaver-cost", "cost", "known by architecture LlamaForScore, score_type = \"cost\""),
        ("ldl-reward", "reward", "known by architecture LDLRewardModel27B"),
        (
            "grm-sftreg",
            "reward",
            "known by architecture LlamaForCausalLM, tensor v_head.summary.0.weight, tensor v_head.summary.2.weight",
        ),
        ("value-head", "reward", "known by architecture LlamaForCausalLM, tensor v_head.summary.weight"),
        ("ultrarm", "reward", "known by architecture LlamaRewardModel, tensor regression_head.weight"),
    ] {
        let engine = check(if name == "ldl-reward" { "ldl" } else { name }, "", &[label], |case| case.scores.clone());
        known(&engine, name, why);
    }
    let cost = check("beaver-cost", "", &["cost"], |case| case.scores.clone());
    assert_eq!(cost.card().weightings["harmless"]["cost"], -1.0, "what does harm is not wanted");
}

const ANSWERS: &str = "yes = 96\nno = 28\n";

#[test]
fn the_probability_of_an_answer() {
    let reranker = format!("preset = 'qwen3-reranker'\n[head]\n{ANSWERS}");
    check("reranker", &reranker, &["reward"], |case| case.scores.clone());
    // The cap of 30 and the tie are transformers' defaults.
    let shield = format!("preset = 'shieldgemma'\n[head]\n{ANSWERS}");
    let engine = check("shieldgemma", &shield, &["violation"], |case| case.scores.clone());
    assert_eq!(engine.card().default_weighting.as_deref(), Some("safe"));
    let reversed = "preset = 'shieldgemma'\n[head]\nyes = 28\nno = 96\n";
    check("shieldgemma", reversed, &["violation"], |case| vec![1.0 - case.scores[0]]);
}

/// Models whose steps are read; `manifest` has their tokens.
#[track_caller]
fn check_steps(name: &str, manifest: &str, expected: impl Fn(&[f32]) -> f32) -> ModelEngine {
    let model = Model::new(name, manifest);
    let mut engine = model.load();
    let (mut sequences, mut rewards) = (Vec::new(), Vec::new());
    for case in &model.reference.cases {
        for (position, outputs) in &case.reads {
            sequences.push(case.input_ids[..=*position].to_vec());
            rewards.push(vec![expected(outputs)]);
        }
    }
    assert!(sequences.len() > 5, "{}", sequences.len());
    compare(&mut engine, &sequences, &rewards);
    let last = model.reference.cases.last().unwrap();
    let ends: Vec<_> = last.reads.iter().map(|(position, _)| *position as u32).collect();
    check_positions(&mut engine, &last.input_ids, &ends);
    engine
}

const STEPS: &str = "[read]\nat = { every-token = 121 }\n";

#[test]
fn process_models_of_all_schools() {
    let engine = check_steps("skywork-o1-prm", STEPS, |outputs| outputs[0]);
    known(&engine, "skywork-o1-prm", "known by architecture Qwen2ForPrmModel");
    let shepherd = format!("preset = 'math-shepherd'\n{STEPS}[head]\n{ANSWERS}");
    let engine = check_steps("math-shepherd", &shepherd, |outputs| outputs[0]);
    assert_eq!(engine.card().reads.at, ReadAt::EveryToken { token: 121, reduce: Reduce::Min });
    // Two models have this class, and take other rewards of its labels.
    refused("token-prm", "", &["say which it is", "--preset token-prm (", "--preset pure-prm (jinachris/PURE-PRM-7B)"]);
    check_steps("token-prm", &format!("preset = 'token-prm'\n{STEPS}"), |labels| labels[1]);
    check_steps("token-prm", &format!("preset = 'pure-prm'\n{STEPS}"), |labels| labels[1] - labels[0]);
}

#[test]
fn gated_means_and_quantiles() {
    let all = |case: &Case| [&case.rewards[..], &case.scores].concat();
    let names =
        ["helpfulness", "correctness", "coherence", "complexity", "verbosity"].map(|n| format!("helpsteer-{n}"));
    let names: Vec<_> = names.iter().map(String::as_str).chain(["score"]).collect();
    let engine = check("urm", "", &names, all);
    known(&engine, "urm", "known by architecture LlamaForSequenceClassificationWithNormal_Weights");
    let pattern = "[read]\nneeds = [109, 106, 91, 107, 27]\n";
    let gemma = format!("preset = 'qrm-gemma'\n{pattern}");
    check("qrm-gemma", &gemma, &names, all);
    let gemma = |network: bool| {
        let model = Model::new("qrm-gemma", &gemma);
        // As a published configuration spells it.
        let path = model.folder.path().join("config");
        super::copy(&fixture("qrm-gemma"), &path);
        let file = path.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["gating_newtork"] = network.into();
        fs::write(file, config.to_string()).unwrap();
        let manifest = format!("name = 'm'\npreset = 'qrm-gemma'\n{pattern}[base]\npath = '{}'\n", path.display());
        fs::write(model.folder.path().join("reward-model.toml"), manifest).unwrap();
        ModelEngine::load(&model.config()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(gemma(true), Ok(()));
    assert!(gemma(false).unwrap_err().contains("gating_newtork = false"));
}

/// A probability is one that the wrong option would not give.
#[test]
fn what_is_made_of_labels_must_fit() {
    let head = |options: &str| format!("preset = 'none'\nattributes = ['a']\n[head]\nkind = 'linear'\n{options}\n");
    let qwen = "head-bias-qwen2";
    refused(qwen, &head("activation = 'tanh'"), &["\"linear\"", "unknown variant `tanh`"]);
    refused(qwen, &head("activation = 'sigmoid'\npositive = 0"), &["positive names a label of a softmax"]);
    refused(qwen, &head("activation = 'softmax-difference'"), &["needs positive"]);
    refused(qwen, &head("positive = 1"), &["positive is 1, but there are 1 labels"]);
    check(qwen, &head("activation = 'sigmoid'"), &["a"], |case| vec![1.0 / (1.0 + libm::expf(-case.scores[0]))]);
    // A softmax over all labels of a linear head.
    let names: Vec<_> = (0..33).map(|i| format!("output {i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    check("head-bias-f16", "[head]\nkind = 'linear'\nactivation = 'softmax'\n", &names, |case| {
        let most = case.scores.iter().copied().fold(f32::MIN, f32::max);
        let each: Vec<f32> = case.scores.iter().map(|score| libm::expf(score - most)).collect();
        each.iter().map(|e| e / each.iter().sum::<f32>()).collect()
    });
}

/// LLaMA-Factory and ms-swift leave the value head in a file of its own; DDP, compilers and bodies alone name tensors otherwise.
#[test]
fn a_head_beside_the_weights_is_found_whatever_stands_before_names() {
    let whole = fixture("value-head");
    let bytes = fs::read(whole.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let is_head = |name: &str| name.starts_with("v_head.");
    for begin in ["model.", "", "transformer.", "module._orig_mod.model."] {
        let folder = tempfile::tempdir().unwrap();
        let save = |file: &str, head: bool| {
            let named = |name: &str| match name.strip_prefix("model.") {
                Some(part) => format!("{begin}{part}"),
                None => name.to_owned(),
            };
            let part = tensors.iter().filter(|(name, _)| is_head(name) == head).map(|(name, view)| (named(name), view));
            safetensors::serialize_to_file(part.collect::<Vec<_>>(), None, &folder.path().join(file)).unwrap();
        };
        save("model.safetensors", false);
        save("value_head.safetensors", true);
        fs::copy(whole.join("config.json"), folder.path().join("config.json")).unwrap();
        let config = |model: &Path| Config { model: model.to_str().unwrap().into(), threads: 2, ..Config::default() };
        let mut apart = ModelEngine::load(&config(folder.path())).unwrap_or_else(|e| panic!("{begin}: {e}"));
        let mut together = ModelEngine::load(&config(&whole)).unwrap();
        let batch = MicroBatch::pack(&[vec![3_u32, 1, 4, 1, 5]], true);
        let row = |engine: &mut ModelEngine| bits(engine.score(&batch).unwrap().row(0).unwrap());
        assert_eq!(row(&mut apart), row(&mut together), "{begin}");
        assert!(apart.report().files.contains(&folder.path().join("value_head.safetensors")));
    }
}
