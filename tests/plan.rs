//! Plans against what loading the same model finds, and `plan` as a shell meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reward_sidecar::model::plan::{Dtype, Gpu, Plan, PlanError, Request, plan};
use reward_sidecar::model::{Config, ModelEngine, ModelError};
use serde_json::Value;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn nowhere() -> PathBuf {
    PathBuf::from("/nonexistent")
}

/// The plan, or `None` where the architecture is none that is known, or none for GPUs.
fn planned(model: &Path) -> Option<Plan> {
    let request = Request {
        model: model.to_str().unwrap().into(),
        cache_dir: nowhere(),
        gpu: Gpu::find("h100").unwrap(),
        gpus: None,
        tp: None,
        pp: 1,
        dtype: Dtype::F32,
        utilisation: 0.4,
        tokens: None,
        max_batch_tokens: 256,
    };
    match plan(&request) {
        Err(PlanError::Model(ModelError::UnknownArchitecture { .. } | ModelError::Device { .. })) => None,
        plan => Some(plan.unwrap_or_else(|e| panic!("{}: {e}", model.display()))),
    }
}

/// What each rank takes out of the files is what the plan counts, in the type that the files have.
#[test]
fn a_rank_reads_what_the_plan_says() {
    let (mut models, mut repeated) = (0, 0);
    for folder in fixtures() {
        let Some(plan) = planned(&folder) else { continue };
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let dtype = match config["dtype"].as_str().or(config["torch_dtype"].as_str()) {
            Some("float32") => Dtype::F32,
            Some("bfloat16") => Dtype::Bf16,
            Some("float16") => Dtype::F16,
            other => panic!("{}: dtype {other:?}", folder.display()),
        };
        for &tp in &plan.degrees {
            let model = folder.to_str().unwrap().into();
            // A head of a kind that is not known yet says nothing about the ranks.
            let Ok(engine) =
                ModelEngine::load(&Config { model, tp, threads: 1, cache_dir: nowhere(), ..Config::default() })
            else {
                continue;
            };
            let report = engine.report();
            assert_eq!((plan.parameters, &plan.shape), (report.parameters, &report.shape), "{}", folder.display());
            let rank = plan.ranks.iter().find(|rank| rank.tp == tp && rank.dtype == dtype).unwrap();
            let read = report.bytes_read_per_rank.iter().max();
            assert_eq!(Some(&rank.weights.total()), read, "{} on {tp} ranks", folder.display());
            models += 1;
            repeated += usize::from(tp > plan.shape.kv_heads);
        }
    }
    assert!(models > 60 && repeated > 20, "{models} models, {repeated} of them with repeated keys");
}

#[test]
fn a_configuration_alone_is_enough() {
    let mut models = 0;
    for folder in fixtures() {
        let alone = tempfile::tempdir().unwrap();
        let config = alone.path().join("config.json");
        fs::copy(folder.join("config.json"), &config).unwrap();
        let Some(whole) = planned(&folder) else { continue };
        let whole = serde_json::to_value(whole).unwrap();
        for reference in [alone.path(), &config] {
            let mut plan = serde_json::to_value(planned(reference)).unwrap();
            plan["model"] = whole["model"].clone();
            assert_eq!(plan, whole, "{}", folder.display());
        }
        models += 1;
    }
    assert!(models > 30, "{models} models");
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
    command.arg("plan").args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

#[test]
fn people_and_programs_are_told_the_same() {
    let arguments = ["--model", "nemotron-4-340b-reward", "--gpus", "16", "--pp", "2"];
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "336.3 B",
        "663 GFLOP",
        "14.5 GFLOP at 4096",
        "7.08 MB",
        "590 kB",
        "129 kB",
        "tp 8, pp 2, bf16",
        "9.49k",
        "23.9k",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(text.contains("computes in f32 on CPUs and in bf16 on GPUs;") && text.contains("not built"), "{text}");
    let json = run(&[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["token"]["kv_bytes"], 589_824);
    assert_eq!(json["deployment"]["gpu"]["name"], "h100");
    assert_eq!(json["deployment"]["fit"]["fits"], true);
    assert_eq!(json["ranks"].as_array().unwrap().len(), 9 * 6);
}

#[test]
fn what_no_gpu_computes_is_not_planned() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf/qwen3.5");
    let output = run(&["--model", model.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("is written for CPUs alone"), "{said}");
}

#[test]
fn wrong_names_and_numbers_say_what_there_is() {
    let reference = ["--model", "nemotron-4-340b-reward"];
    for (wrong, says) in [
        (["--gpu", "h1000"], "b200, h200, h100"),
        (["--dtype", "fp3"], "f32, bf16, f16, fp8"),
        (["--tp", "5"], "1, 2, 4, 8, 16"),
        (["--pp", "7"], "1, 2, 3, 4, 6, 8"),
        (["--utilisation", "40"], "up to 1"),
        (["--utilisation", "nan"], "up to 1"),
        (["--tokens", "4097"], "4096"),
        (["--gpus", "0"], "from 1"),
        (["--model", "nemotron"], "nemotron-4-340b-reward"),
    ] {
        let arguments = if wrong[0] == "--model" { wrong.to_vec() } else { [reference, wrong].concat() };
        let output = run(&arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {message}");
        assert!(output.stdout.is_empty() && message.contains(says) && !message.contains("panicked"), "{message}");
    }
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--model REF"));
}
